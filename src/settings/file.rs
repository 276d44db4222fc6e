//! Settings as they are written: values that remember where they stand.
//!
//! A derive of serde would stop at the first wrong type or unknown key. Here a file becomes a tree
//! of [`Node`]s with line numbers, layers are laid over each other as trees, and `check` reads the
//! result key by key, so that every problem is found in one go and says where it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::Problem;

/// A table of settings.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// The text came from an environment variable or a flag, where everything is text: a number
    /// or a boolean may be read from it.
    pub(super) loose: bool,
}

/// What TOML knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(toml::value::Datetime),
    List(Vec<Node>),
    Table(Table),
    /// Something that could not be made out; its problem is noted already.
    Broken,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Compiled in.
    Default,
    /// In a file.
    File {
        /// As given by the user.
        path: Arc<str>,
        /// Counted from 1.
        line: usize,
    },
    /// In an environment variable of this name.
    Environment(String),
    /// In a flag.
    Flag(String),
}

impl Origin {
    /// Which layer it belongs to; the higher one wins.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// Reads a file's text. `path` is `None` for the text that is compiled in.
pub(super) fn parse(text: &str, path: Option<&str>) -> Result<Table, Vec<Problem>> {
    let mut reader = Reader::new(text, path);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.wrong(at, error.message());
    }
    let table = reader.table(table.get_ref());
    if reader.problems.is_empty() {
        Ok(table)
    } else {
        Err(reader.problems)
    }
}

/// Reads one TOML value out of a variable or flag; `None` if it is none.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Value> {
    let parsed = DeValue::parse(text).ok()?;
    let mut reader = Reader::new(text, None);
    reader.fixed = Some(origin.clone());
    let value = reader.value(&parsed)?;
    reader.problems.is_empty().then_some(value)
}

struct Reader<'a> {
    text: &'a str,
    path: Option<Arc<str>>,
    fixed: Option<Origin>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, path: Option<&str>) -> Self {
        Self {
            text,
            path: path.map(Arc::from),
            fixed: None,
            problems: Vec::new(),
        }
    }

    fn origin(&self, at: usize) -> Origin {
        if let Some(origin) = &self.fixed {
            return origin.clone();
        }
        let Some(path) = &self.path else {
            return Origin::Default;
        };
        let before = self.text.as_bytes().iter().take(at);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Origin::File {
            path: path.clone(),
            line,
        }
    }

    fn wrong(&mut self, at: usize, message: &str) {
        let problem = Problem {
            origin: Some(self.origin(at).to_string()),
            key: String::new(),
            found: format!("not TOML: {}", message.trim().replace('\n', ", ")),
            right: "see https://toml.io for the syntax".into(),
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut read = Table::new();
        for (key, spanned) in table {
            let origin = self.origin(key.span().start);
            if let Some(value) = self.value(spanned) {
                read.insert(
                    key.get_ref().to_string(),
                    Node {
                        value,
                        origin,
                        loose: false,
                    },
                );
            }
        }
        read
    }

    fn value(&mut self, spanned: &Spanned<DeValue<'_>>) -> Option<Value> {
        let at = spanned.span().start;
        Some(match spanned.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(integer) => return self.integer(integer, at),
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => {
                    self.wrong(at, "a number that cannot be read");
                    return None;
                }
            },
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(datetime) => Value::Datetime(*datetime),
            DeValue::Array(array) => {
                Value::List(array.iter().filter_map(|e| self.node(e)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        })
    }

    fn node(&mut self, spanned: &Spanned<DeValue<'_>>) -> Option<Node> {
        let origin = self.origin(spanned.span().start);
        Some(Node {
            value: self.value(spanned)?,
            origin,
            loose: false,
        })
    }

    fn integer(&mut self, integer: &DeInteger<'_>, at: usize) -> Option<Value> {
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Some(Value::Integer(number)),
            Err(_) => {
                self.wrong(at, "an integer beyond 64 bits");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_remember_their_lines() {
        let table = parse("[kafka]\nbrokers = [\n\"a\",\n\"b\"]\n", Some("x.toml")).unwrap();
        let Value::Table(kafka) = &table["kafka"].value else {
            panic!()
        };
        assert_eq!(kafka["brokers"].origin.to_string(), "x.toml:2");
        let Value::List(list) = &kafka["brokers"].value else {
            panic!()
        };
        assert_eq!(list[1].origin.to_string(), "x.toml:4");
    }

    #[test]
    fn every_syntax_error_is_found() {
        let problems = parse("[a\nb = 1\nc = \nd = 2\ne = 'x\n", Some("x.toml")).unwrap_err();
        let origins: Vec<_> = problems.iter().map(|p| p.origin.clone().unwrap()).collect();
        assert!(origins.contains(&"x.toml:1".into()), "{problems:?}");
        assert!(origins.contains(&"x.toml:3".into()), "{problems:?}");
        assert!(origins.contains(&"x.toml:5".into()), "{problems:?}");
    }

    #[test]
    fn integers_out_of_range_are_said() {
        let problems = parse("a = 99999999999999999999", Some("x.toml")).unwrap_err();
        assert!(problems[0].found.contains("64 bits"));
    }
}
