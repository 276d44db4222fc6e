//! Reads a table key by key and notes everything that is wrong with it.
//!
//! Each key is named once, where it is read; what was never asked for is unknown. A reading
//! function returns `None` only after it has noted a problem (or, for [`Section::may`], when the
//! key is absent), so that a caller may read everything first and put it together afterwards.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::file::{Node, Origin, Table, Value};
use super::problem::{Problem, nearest};

/// Where problems are noted.
#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<Vec<Problem>>);

impl Notes {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(RefCell::new(problems))
    }

    /// Notes a problem, unless the same value was already found wrong in the same way: what
    /// stands in `[defaults]` is read anew for every monitor.
    pub(super) fn push(&self, problem: Problem) {
        let same = |known: &Problem| {
            problem.origin.is_some()
                && known.origin == problem.origin
                && known.found == problem.found
                && last(&known.key) == last(&problem.key)
        };
        let mut problems = self.0.borrow_mut();
        if !problems.iter().any(same) {
            problems.push(problem);
        }
    }

    /// Takes back that a key is missing, once a mistyped one was found in its place.
    fn take_back_missing(&self, key: &str) {
        self.0
            .borrow_mut()
            .retain(|known| known.key != key || known.found != MISSING);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

const MISSING: &str = "missing";

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// A table that is being read.
pub(super) struct Section<'a> {
    path: String,
    table: &'a Table,
    origin: Option<&'a Origin>,
    asked: RefCell<Vec<&'static str>>,
    /// The keys are the user's own: none is unknown.
    open: Cell<bool>,
    notes: &'a Notes,
}

impl<'a> Section<'a> {
    /// The whole of the settings.
    pub(super) fn root(table: &'a Table, notes: &'a Notes) -> Self {
        Self::named(String::new(), table, None, notes)
    }

    pub(super) fn named(
        path: String,
        table: &'a Table,
        origin: Option<&'a Origin>,
        notes: &'a Notes,
    ) -> Self {
        Self {
            path,
            table,
            origin,
            asked: RefCell::default(),
            open: Cell::new(false),
            notes,
        }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether the key is there; it counts as asked for.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.field(key).is_some()
    }

    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(key);
        let node = self.table.get(key)?;
        Some(Field {
            key: self.key(key),
            node,
            notes: self.notes,
        })
    }

    /// All fields, whatever their names: for tables whose keys are the user's own.
    /// They all count as asked for.
    pub(super) fn all(&self) -> Vec<(&'a str, Field<'a>)> {
        self.open.set(true);
        let field = |name: &str, node| Field {
            key: self.key(name),
            node,
            notes: self.notes,
        };
        self.table
            .iter()
            .map(|(name, node)| (name.as_str(), field(name, node)))
            .collect()
    }

    /// A key that has to be there.
    pub(super) fn must<T>(
        &self,
        key: &'static str,
        right: &str,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        let Some(field) = self.field(key) else {
            self.missing(key, right);
            return None;
        };
        read(&field)
    }

    /// A key that may be absent.
    pub(super) fn may<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.field(key).and_then(|field| read(&field))
    }

    pub(super) fn missing(&self, key: &str, right: &str) {
        self.notes.push(Problem {
            origin: self
                .origin
                .filter(|o| **o != Origin::Default)
                .map(Origin::to_string),
            key: self.key(key),
            found: MISSING.into(),
            right: right.to_owned(),
        });
    }

    /// Notes the keys that nothing asked for. Call it last.
    pub(super) fn finish(&self) {
        if self.open.get() {
            return;
        }
        let mut known = self.asked.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for (key, node) in self.table {
            if !known.contains(&key.as_str()) {
                self.unknown(key, node, &known);
            }
        }
    }

    fn unknown(&self, key: &str, node: &Node, known: &[&'static str]) {
        let right = match nearest(key, known.iter().copied()) {
            Some(meant) => {
                self.notes.take_back_missing(&self.key(meant));
                format!("did you mean {}?", self.key(meant))
            }
            None if self.path.is_empty() => format!("known are {}", known.join(", ")),
            None => format!("{} knows {}", self.path, known.join(", ")),
        };
        self.notes.push(Problem {
            origin: Some(node.origin.to_string()),
            key: self.key(key),
            found: "unknown key".into(),
            right,
        });
    }
}

/// A value that is being read.
#[derive(Clone)]
pub(super) struct Field<'a> {
    key: String,
    node: &'a Node,
    notes: &'a Notes,
}

impl<'a> Field<'a> {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn notes(&self) -> &'a Notes {
        self.notes
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    pub(super) fn origin(&self) -> &'a Origin {
        &self.node.origin
    }

    /// Notes that the value is wrong.
    pub(super) fn wrong(&self, right: impl Display) {
        self.fault(format!("found {}", shown(&self.node.value)), right);
    }

    /// Notes that something about it is wrong, without showing its value.
    pub(super) fn fault(&self, found: impl Display, right: impl Display) {
        if self.node.value == Value::Broken {
            return;
        }
        self.notes.push(Problem {
            origin: Some(self.node.origin.to_string()),
            key: self.key.clone(),
            found: found.to_string(),
            right: right.to_string(),
        });
    }

    fn or_wrong<T>(&self, value: Option<T>, right: impl Display) -> Option<T> {
        if value.is_none() {
            self.wrong(right);
        }
        value
    }

    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, where numbers and booleans had to be written as text.
    fn as_loose(&self) -> Option<&'a str> {
        self.as_text().filter(|_| self.node.loose).map(str::trim)
    }

    /// A text that is not empty.
    pub(super) fn text(&self, right: impl Display) -> Option<&'a str> {
        self.or_wrong(self.as_text().filter(|text| !text.trim().is_empty()), right)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = match &self.node.value {
            Value::Boolean(boolean) => Some(*boolean),
            _ => self.as_loose().and_then(|text| text.parse().ok()),
        };
        self.or_wrong(value, "expected true or false")
    }

    /// A whole number in a range.
    pub(super) fn integer<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let value = match &self.node.value {
            Value::Integer(integer) => Some(*integer),
            _ => self.as_loose().and_then(|text| text.parse().ok()),
        };
        let value = value
            .filter(|n| range.contains(n))
            .and_then(|n| T::try_from(n).ok());
        let right = format!(
            "expected a whole number from {} to {}",
            range.start(),
            range.end()
        );
        self.or_wrong(value, right)
    }

    /// A number in a range.
    pub(super) fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let value = match &self.node.value {
            Value::Float(number) => Some(*number),
            Value::Integer(integer) => integer.to_string().parse().ok(),
            _ => self.as_loose().and_then(|text| text.parse().ok()),
        };
        let value = value.filter(|n| range.contains(n));
        let right = format!(
            "expected a number from {} to {}",
            range.start(),
            range.end()
        );
        self.or_wrong(value, right)
    }

    /// A length of time such as `"30s"`, in milliseconds.
    pub(super) fn duration_ms(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let Some(parsed) = self.as_text().map(str::trim).map(humantime::parse_duration) else {
            self.wrong("expected a duration in quotes such as \"30s\", \"15m\" or \"1d\"");
            return None;
        };
        let whole = parsed.ok().filter(|d| d.subsec_nanos() % 1_000_000 == 0);
        let Some(ms) = whole.and_then(|d| i64::try_from(d.as_millis()).ok()) else {
            self.wrong("expected a duration such as \"30s\", \"15m\" or \"1d\"");
            return None;
        };
        let right = format!(
            "expected from {} to {}",
            in_words(*range.start()),
            in_words(*range.end())
        );
        self.or_wrong(Some(ms).filter(|ms| range.contains(ms)), right)
    }

    /// A number of bytes: an integer, or a text such as `"64MiB"`.
    pub(super) fn bytes(&self, range: RangeInclusive<i64>) -> Option<u64> {
        let value = match &self.node.value {
            Value::Integer(integer) => Some(*integer),
            Value::Text(text) => parse_bytes(text),
            _ => None,
        };
        let value = value
            .filter(|n| range.contains(n))
            .and_then(|n| u64::try_from(n).ok());
        let right = format!(
            "expected a number of bytes from {} to {}, such as \"512KiB\", \"64MiB\" or \"2GiB\"",
            range.start(),
            range.end()
        );
        self.or_wrong(value, right)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.as_text().unwrap_or_default();
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let right = match nearest(text, words.iter().map(|(word, _)| *word)) {
                Some(meant) => format!("did you mean {meant:?}? Known are {}", list.join(", ")),
                None => format!("expected one of {}", list.join(", ")),
            };
            self.wrong(right);
        }
        found
    }

    /// A table, to be read key by key.
    pub(super) fn section(&self) -> Option<Section<'a>> {
        match &self.node.value {
            Value::Table(table) => {
                let origin = Some(&self.node.origin);
                Some(Section::named(self.key.clone(), table, origin, self.notes))
            }
            _ => {
                self.wrong("expected a table");
                None
            }
        }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.node.value, Value::Table(_))
    }

    /// The elements, if it is a list.
    pub(super) fn as_list(&self) -> Option<Vec<Field<'a>>> {
        let Value::List(list) = &self.node.value else {
            return None;
        };
        let element = |(i, node)| Field {
            key: format!("{}[{i}]", self.key),
            node,
            notes: self.notes,
        };
        Some(list.iter().enumerate().map(element).collect())
    }
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) if text.chars().count() > 80 => {
            format!("{:?}...", text.chars().take(80).collect::<String>())
        }
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(integer) => integer.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Datetime(datetime) => datetime.to_string(),
        Value::List(list) => format!("a list of {}", list.len()),
        Value::Table(_) => "a table".into(),
        Value::Broken => "nothing".into(),
    }
}

/// Milliseconds as people write them: the largest unit that needs no fraction.
pub(super) fn in_words(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    for (unit, name) in UNITS {
        if ms >= unit && ms % unit == 0 {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}

fn parse_bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_units() {
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("1 kB"), Some(1000));
        assert_eq!(parse_bytes("12"), Some(12));
        assert_eq!(parse_bytes("1.5GiB"), None);
        assert_eq!(parse_bytes("99999999999GiB"), None);
        assert_eq!(parse_bytes("MiB"), None);
    }

    #[test]
    fn times_in_words() {
        assert_eq!(in_words(86_400_000), "1d");
        assert_eq!(in_words(90_000), "90s");
        assert_eq!(in_words(1_500), "1500ms");
        assert_eq!(in_words(0), "0ms");
    }
}
