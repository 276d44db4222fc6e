//! Reads one value as what it has to be, or notes what is wrong with it.

use std::fmt::Display;
use std::ops::RangeInclusive;

use chrono_tz::Tz;

use super::file::{Node, Origin, Value};
use super::problem::{Problem, expected_zone, nearest};
use super::read::{Notes, Section};

/// A value that is being read.
#[derive(Clone)]
pub(super) struct Field<'a> {
    key: String,
    node: &'a Node,
    notes: &'a Notes,
}

impl<'a> Field<'a> {
    pub(super) fn new(key: String, node: &'a Node, notes: &'a Notes) -> Self {
        Self { key, node, notes }
    }

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

    /// The name of a time zone.
    pub(super) fn time_zone(&self) -> Option<Tz> {
        let text = self.text("expected a time zone such as \"Europe/Berlin\"")?;
        let zone = text.parse().ok();
        if zone.is_none() {
            self.wrong(expected_zone(text));
        }
        zone
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
        let element = |(i, node)| Field::new(format!("{}[{i}]", self.key), node, self.notes);
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
