//! The one canonical form of a value, shared by messages and training files: the same value is the same
//! label and the same number however it was written.
//!
//! | value | as a label |
//! |---|---|
//! | booleans, and texts that say `true` or `false` in any case | `true`, `false` |
//! | numbers | the shortest decimals: `3.0`, `3.00` and `3e0` are `3`, `19.90` is `19.9`, `-0.0` is `0` |
//! | numbers of more than fifteen digits with a fraction, or beyond 10^15 | as written: no double holds them |
//! | texts of a whole number with zeros behind the point | the whole number: CSV files write codes so that lacked a value somewhere |
//! | other texts of digits | as written: `07`, `1.10` and `1.1` may be three codes |
//! | an empty text | null: CSV files know no difference |
//! | not a number | absent, as among numbers |
//! | `Infinity`, `-Infinity` | `inf`, `-inf` |
//!
//! Labels of a feature of kind boolean go further ([`boolean_of_text`]): `1`, `t`, `yes`, `y` and `on` are
//! true there, and what they stand against is false. Spaces around a label belong to it, around a number
//! or a boolean they do not.

use std::borrow::Cow;

use jiter::{Jiter, NumberAny, NumberInt};

use crate::batch::Cell;

/// From this absolute value on neighbouring doubles are too far apart to stand for what was written.
const LARGEST: f64 = 1e15;
/// Under this one, decimals are longer than what was written.
const SMALLEST: f64 = 1e-7;
/// Significant digits that every double gives back.
const DIGITS: usize = 15;

/// The label of a boolean.
pub fn of_boolean(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// A text that says true or false by these words alone.
pub fn boolean_word(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// A text that says true or false where the feature is a boolean.
pub fn boolean_of_text(text: &str) -> Option<bool> {
    let text = text.trim();
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    boolean_word(text).or_else(|| match () {
        () if is(&["1", "1.0", "t", "yes", "y", "on"]) => Some(true),
        () if is(&["0", "0.0", "-0.0", "f", "no", "n", "off"]) => Some(false),
        () => None,
    })
}

/// The label of a text; `None` where it is empty.
#[inline]
pub fn of_text(text: &str) -> Option<&str> {
    let written = text.as_bytes();
    match written {
        [] => None,
        [b't' | b'T' | b'f' | b'F', ..] if matches!(written.len(), 4 | 5) => {
            match boolean_word(text) {
                Some(value) => Some(of_boolean(value)),
                None => Some(text),
            }
        }
        [b'-' | b'0'..=b'9', .., b'0'] => Some(whole(text).unwrap_or(text)),
        _ => Some(text),
    }
}

/// The whole number of a text such as `3.0`.
fn whole(text: &str) -> Option<&str> {
    let (before, after) = text.split_once('.')?;
    let digits = before.strip_prefix('-').unwrap_or(before);
    let plain = digits == "0" || !digits.is_empty() && !digits.starts_with('0');
    let is_whole = plain
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && after.bytes().all(|digit| digit == b'0');
    match is_whole {
        true if digits == "0" => Some(digits), // of -0.0 as well
        true => Some(before),
        false => None,
    }
}

/// The label of a number as it is written, in JSON or as Arrow writes it.
///
/// # Errors
/// [`Cell::NaN`] where it is not a number.
pub fn of_number(written: &[u8]) -> Result<Cow<'_, str>, Cell> {
    let mut json = Jiter::new(written).with_allow_inf_nan();
    let number = match written {
        b"inf" => return Ok("inf".into()), // so Arrow writes it
        b"-inf" => return Ok("-inf".into()),
        _ => json.next_number(),
    };
    match number {
        Ok(NumberAny::Int(NumberInt::Int(int))) => Ok(int.to_string().into()),
        Ok(NumberAny::Float(float)) if float.is_nan() => Err(Cell::NaN),
        Ok(NumberAny::Float(float)) => Ok(shortest(float, written)),
        _ => Ok(String::from_utf8_lossy(written)),
    }
}

fn shortest(float: f64, written: &[u8]) -> Cow<'_, str> {
    let size = float.abs();
    if size <= 0.0 {
        "0".into()
    } else if size < LARGEST && float.fract().abs() <= 0.0 {
        format!("{float:.0}").into()
    } else if (SMALLEST..LARGEST).contains(&size) && significant(written) <= DIGITS {
        format!("{float}").into()
    } else if written.ends_with(b"Infinity") {
        let sign = if float < 0.0 { "-inf" } else { "inf" };
        sign.into()
    } else {
        String::from_utf8_lossy(written)
    }
}

/// Digits of a number without the zeros that lead it and end it.
fn significant(written: &[u8]) -> usize {
    let digits = written
        .iter()
        .take_while(|byte| !matches!(byte, b'e' | b'E'))
        .filter(|byte| byte.is_ascii_digit());
    let mut all = digits.copied().skip_while(|digit| *digit == b'0');
    let (mut count, mut zeros) = (0, 0);
    for digit in all.by_ref() {
        zeros = if digit == b'0' { zeros + 1 } else { 0 };
        count += 1;
    }
    count - zeros
}

/// A text as a number.
///
/// # Errors
/// [`Cell::Null`] where it is blank, [`Cell::WrongType`] where it is no number.
pub fn number_of_text(text: &str) -> Result<f64, Cell> {
    match text.trim() {
        "" => Err(Cell::Null),
        text => text.parse().map_err(|_| Cell::WrongType),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_say_the_same_are_one_label() {
        for (written, label) in [
            ("True", "true"),
            ("TRUE", "true"),
            ("false", "false"),
            ("False", "false"),
            ("Truth", "Truth"),
            (" True", " True"),
            ("3.0", "3"),
            ("-12.000", "-12"),
            ("-0.0", "0"),
            ("0.0", "0"),
            ("10", "10"),
            ("07", "07"),
            ("07.0", "07.0"),
            ("1.10", "1.10"),
            ("3.", "3."),
            (".0", ".0"),
            ("-.0", "-.0"),
            ("1.0.0", "1.0.0"),
            ("3 0.0", "3 0.0"),
            ("0", "0"),
        ] {
            assert_eq!(of_text(written), Some(label), "{written}");
        }
        assert_eq!(of_text(""), None);
    }

    #[test]
    fn numbers_that_are_the_same_are_one_label() {
        for (written, label) in [
            ("3", "3"),
            ("3.0", "3"),
            ("3e0", "3"),
            ("1e6", "1000000"),
            ("19.90", "19.9"),
            ("1.5e1", "15"),
            ("1.25e-2", "0.0125"),
            ("-0.0", "0"),
            ("-0", "0"),
            ("-2.0", "-2"),
            ("0.1", "0.1"),
            ("123456789012345678901", "123456789012345678901"),
            ("0.1234567890123456789", "0.1234567890123456789"),
            ("1e300", "1e300"),
            ("1e-9", "1e-9"),
            ("Infinity", "inf"),
            ("-Infinity", "-inf"),
            ("inf", "inf"),
        ] {
            assert_eq!(of_number(written.as_bytes()).unwrap(), label, "{written}");
        }
        assert_eq!(of_number(b"NaN"), Err(Cell::NaN));
    }

    #[test]
    fn a_boolean_has_many_words() {
        for text in ["true", "True", " TRUE ", "1", "1.0", "t", "Yes", "y", "on"] {
            assert_eq!(boolean_of_text(text), Some(true), "{text}");
        }
        for text in ["false", "False", "0", "0.0", "f", "NO", "n", "off"] {
            assert_eq!(boolean_of_text(text), Some(false), "{text}");
        }
        for text in ["", "2", "truth", "none"] {
            assert_eq!(boolean_of_text(text), None, "{text}");
        }
    }

    #[test]
    fn blank_texts_are_no_numbers_but_missing() {
        assert_eq!(number_of_text(" 2 "), Ok(2.0));
        assert_eq!(number_of_text(""), Err(Cell::Null));
        assert_eq!(number_of_text("  "), Err(Cell::Null));
        assert_eq!(number_of_text("many"), Err(Cell::WrongType));
    }

    proptest! {
        /// Canonical labels are their own canonical labels, and a short decimal is the same label with more zeros
        /// and in another notation.
        #[test]
        fn the_form_is_stable(whole in -999_999_i64..999_999, fraction in 0_u32..1_000, zeros in 0_usize..4) {
            let plain = format!("{whole}.{fraction:03}");
            let label = of_number(plain.as_bytes()).unwrap().into_owned();
            prop_assert_eq!(of_number(label.as_bytes()).unwrap(), label.as_str());
            prop_assert_eq!(of_text(&label), Some(label.as_str()));
            let longer = format!("{plain}{}", "0".repeat(zeros));
            prop_assert_eq!(of_number(longer.as_bytes()).unwrap(), label.as_str());
            let scaled = format!("{whole}{fraction:03}e-3");
            if whole != 0 {
                prop_assert_eq!(of_number(scaled.as_bytes()).unwrap(), label.as_str());
            }
        }
    }
}
