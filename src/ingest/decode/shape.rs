//! The quick way through messages that look like the one before.
//!
//! One producer's messages differ in their values, hardly ever in their keys, their order and the
//! space between them. So the text around the values of one message is remembered; where the next
//! message has the same text in the same places, only the values between are looked at. That such
//! a message is JSON, and which value belongs to which key, was settled by the parser when the text
//! was learned. Anything else (another key, an escape, a nested value where a scalar was) is not
//! judged here: the parser reads the message from its beginning.
//!
//! An array that is a vector to somebody counts as a value: its numbers are read in a row.

use std::ops::Range;

use jiter::{Jiter, Peek};

use super::leaf::Leaves;
use super::{Node, Plan};
use crate::batch::Cell;

/// Longer messages are not learned. Embeddings of some thousand numbers are.
const MAX_BYTES: usize = 1 << 18;
/// Nor those that are nested deeper.
const MAX_DEPTH: usize = 32;

/// The parser has limits of its own for numbers that are longer.
const MAX_NUMBER: usize = 64;

/// The text around the values of a message.
#[derive(Debug)]
pub(super) struct Shape {
    text: Vec<u8>,
    values: Vec<Value>,
    tail: Range<usize>,
}

/// A scalar of the message.
#[derive(Debug)]
struct Value {
    /// The text before it.
    before: Range<usize>,
    /// Its node in the plan, where somebody watches it.
    node: Option<usize>,
    /// It may be a vector.
    vector: bool,
}

impl Shape {
    /// The shape of a message that the parser has read as one row; `None` where there is more to
    /// it than scalars in their places. No message of the shape is nested deeper than `depth`.
    pub(super) fn learn(plan: &Plan, payload: &[u8], depth: usize) -> Option<Self> {
        if payload.len() > MAX_BYTES {
            return None;
        }
        let mut learn = Learn {
            plan,
            most: MAX_DEPTH.min(depth),
            json: Jiter::new(payload),
            found: Vec::new(),
        };
        learn.value(Some(0), 0)?;
        let mut end = 0;
        let mut values = Vec::with_capacity(learn.found.len());
        for (place, node) in learn.found {
            values.push(Value {
                before: end..place.start,
                node,
                vector: node.is_some_and(|node| is_vector(&plan.nodes[node])),
            });
            end = place.end;
        }
        Some(Self {
            text: payload.to_vec(),
            values,
            tail: end..payload.len(),
        })
    }

    /// Reads a message of this shape; `false`: it is none, or not for sure, and what was written of
    /// it has to be taken back.
    pub(super) fn read(
        &self,
        payload: &[u8],
        out: &mut Leaves<'_>,
        numbers: &mut Vec<f64>,
    ) -> bool {
        let mut rest = payload;
        for value in &self.values {
            let Some(text) = rest.strip_prefix(&self.text[value.before.clone()]) else {
                return false;
            };
            // Apart from the scalars, whose way is to stay as short as it is.
            let length = if value.vector && text.first() == Some(&b'[') {
                vector(text, value.node, out, numbers)
            } else {
                scalar(text, value.node, out)
            };
            let Some(length) = length else {
                return false;
            };
            rest = &text[length..];
        }
        rest == &self.text[self.tail.clone()]
    }
}

struct Learn<'a> {
    plan: &'a Plan,
    /// Levels of nesting at most, those of vectors that may come among them.
    most: usize,
    json: Jiter<'a>,
    found: Vec<(Range<usize>, Option<usize>)>,
}

impl Learn<'_> {
    fn value(&mut self, node: Option<usize>, depth: usize) -> Option<()> {
        let peek = self.json.peek().ok()?;
        let known = node.map(|node| &self.plan.nodes[node]);
        let watched = known.filter(|known| !known.leaves.is_empty());
        match peek {
            _ if depth >= self.most && watched.is_some_and(is_vector) => None,
            Peek::Array if watched.is_some_and(is_vector) => self.known(peek, node),
            Peek::Object | Peek::Array if watched.is_some() || depth >= self.most => None,
            Peek::Object => {
                let mut key = self.json.known_object().ok()?;
                while let Some(name) = key {
                    let child = known.and_then(|known| known.by_key.get(name).copied());
                    self.value(child, depth + 1)?;
                    key = self.json.next_key().ok()?;
                }
                Some(())
            }
            Peek::Array if known.is_some_and(|known| known.each.is_some()) => None,
            Peek::Array => {
                let mut item = self.json.known_array().ok()?;
                let mut index = 0;
                while item.is_some() {
                    let child = known.and_then(|known| known.item(index));
                    self.value(child, depth + 1)?;
                    index += 1;
                    item = self.json.array_step().ok()?;
                }
                Some(())
            }
            _ => self.known(peek, watched.and(node)),
        }
    }

    fn known(&mut self, peek: Peek, node: Option<usize>) -> Option<()> {
        let start = self.json.current_index();
        self.json.known_skip(peek).ok()?;
        let place = start..self.json.current_index();
        self.found.push((place, node));
        Some(())
    }
}

/// Somebody reads it as a vector, and nobody an element of it.
fn is_vector(node: &Node) -> bool {
    node.longest > 0 && node.each.is_none() && node.items.is_empty()
}

/// Reads the scalar that a text begins with and writes it; how long it is. What follows is the
/// caller's to check: the shape's text never goes on as a scalar could.
#[inline(always)]
fn scalar(text: &[u8], node: Option<usize>, out: &mut Leaves<'_>) -> Option<usize> {
    match text.first()? {
        b'"' => {
            let body = &text[1..];
            let end = body.iter().position(|byte| !is_plain(*byte))?;
            if body[end] != b'"' {
                return None;
            }
            if let Some(node) = node {
                out.text(node, std::str::from_utf8(&body[..end]).ok()?);
            }
            Some(end + 2)
        }
        b'-' | b'0'..=b'9' => {
            let (value, length) = number(text)?;
            if let Some(node) = node {
                out.number(node, value, &text[..length]);
            }
            Some(length)
        }
        _ => word(text, node, out),
    }
}

/// The vector that a text begins with, if it is as long as somebody expects and all of it is plain
/// numbers.
#[inline(never)]
fn vector(
    text: &[u8],
    node: Option<usize>,
    out: &mut Leaves<'_>,
    numbers: &mut Vec<f64>,
) -> Option<usize> {
    let node = node?;
    let longest = out.plan.nodes[node].longest;
    numbers.clear();
    let mut at = space(text, 1);
    loop {
        if numbers.len() >= longest || !matches!(text.get(at)?, b'-' | b'0'..=b'9') {
            return None;
        }
        let (value, length) = number(&text[at..])?;
        numbers.push(value);
        at = space(text, at + length);
        match text.get(at)? {
            b',' => at = space(text, at + 1),
            b']' => break,
            _ => return None,
        }
    }
    out.array(node, Some(numbers));
    Some(at + 1)
}

/// Where the space ends that begins here or not.
#[inline]
fn space(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(at) {
        at += 1;
    }
    at
}

/// ASCII that stands for itself within a JSON text.
fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\'
}

fn word(text: &[u8], node: Option<usize>, out: &mut Leaves<'_>) -> Option<usize> {
    let words: [(&[u8], Option<bool>); 3] = [
        (b"null", None),
        (b"true", Some(true)),
        (b"false", Some(false)),
    ];
    let (word, value) = words.iter().find(|(word, _)| text.starts_with(word))?;
    match (node, value) {
        (Some(node), Some(value)) => out.boolean(node, *value),
        (Some(node), None) => out.absent(node, Cell::Null),
        (None, _) => {}
    }
    Some(word.len())
}

/// The powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The number that a text begins with, and how long it is.
///
/// Up to 2^53 the digits make an exact double, and so does the power of ten: one division rounds
/// once, so the result is the double nearest to what is written. All else goes to the standard
/// library, which takes longer to come to the same.
// Always inline, also where vectors call it: else messages without vectors pay for the second caller.
#[inline(always)]
fn number(text: &[u8]) -> Option<(f64, usize)> {
    let start = usize::from(text[0] == b'-');
    let (mut digits, mut at) = digits(text, start, 0);
    let whole = at - start;
    if whole == 0 || (whole > 1 && text[start] == b'0') {
        return None;
    }
    let mut places = 0;
    if text.get(at) == Some(&b'.') {
        let from = at + 1;
        (digits, at) = self::digits(text, from, digits);
        places = at - from;
        if places == 0 {
            return None;
        }
    }
    let exponent = matches!(text.get(at), Some(b'e' | b'E'));
    let exact = whole + places <= 19 && (places == 0 || digits <= 1 << 53) && !exponent;
    if exact && places < POWERS.len() {
        let value = digits as f64 / POWERS[places];
        return Some((if start == 1 { -value } else { value }, at));
    }
    if exponent {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let from = at + 1 + sign;
        at = self::digits(text, from, 0).1;
        if at == from {
            return None;
        }
    }
    if at > MAX_NUMBER {
        return None;
    }
    let value = std::str::from_utf8(&text[..at]).ok()?.parse().ok()?;
    Some((value, at))
}

/// Adds the digits from a place on to a number; the number (of up to 19 digits) and where they end.
#[inline(always)]
fn digits(text: &[u8], from: usize, mut number: u64) -> (u64, usize) {
    let mut at = from;
    while let Some(digit @ b'0'..=b'9') = text.get(at) {
        number = number
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (number, at)
}
