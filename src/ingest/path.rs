//! Field paths into a payload: `a.b`, `features[3]`, `instances[*].age`, `labels."dotted.key"`.

use std::fmt;

/// One step from a value to a value inside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// The field of an object.
    Key(String),
    /// The element of an array, from 0.
    Index(usize),
    /// Every element of an array, each a row of its own.
    Each,
}

/// A parsed path with at least one step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Step>);

/// What is wrong with a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing between two dots, or nothing at all.
    #[error("`{path}`: a key is missing at character {at}; write a path like `a.b[0].c`")]
    EmptyKey {
        /// The path as written.
        path: String,
        /// Position from 1.
        at: usize,
    },
    /// A bracket that holds neither a number nor `*`, is not closed or was never opened.
    #[error("`{path}`: expected `[N]` or `[*]` at character {at}; quote a key with brackets")]
    Bracket {
        /// The path as written.
        path: String,
        /// Position from 1.
        at: usize,
    },
    /// A quote that is not closed.
    #[error("`{path}`: the quote opened at character {at} is not closed")]
    Quote {
        /// The path as written.
        path: String,
        /// Position from 1.
        at: usize,
    },
    /// More than one `[*]`.
    #[error("`{path}`: only one `[*]` is possible in a path")]
    SecondEach {
        /// The path as written.
        path: String,
    },
}

impl FieldPath {
    /// Parses a path.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let mut parser = Parser {
            path,
            rest: path,
            steps: Vec::new(),
        };
        parser.key()?;
        while !parser.rest.is_empty() {
            if parser.rest.starts_with('[') {
                parser.bracket()?;
            } else if let Some(rest) = parser.rest.strip_prefix('.') {
                parser.rest = rest;
                parser.key()?;
            } else {
                return Err(Error::EmptyKey {
                    path: path.into(),
                    at: parser.at(),
                });
            }
        }
        if parser.steps.iter().filter(|s| **s == Step::Each).count() > 1 {
            return Err(Error::SecondEach { path: path.into() });
        }
        Ok(Self(parser.steps))
    }

    /// A path of one key, taken as it is: a feature's own name may hold dots.
    pub fn key(name: &str) -> Self {
        Self(vec![Step::Key(name.to_owned())])
    }

    /// The steps from the payload's root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

struct Parser<'a> {
    path: &'a str,
    rest: &'a str,
    steps: Vec<Step>,
}

impl Parser<'_> {
    fn at(&self) -> usize {
        let read = self.path.len() - self.rest.len();
        self.path[..read].chars().count() + 1
    }

    fn key(&mut self) -> Result<(), Error> {
        if self.steps.is_empty() && self.rest.starts_with('[') {
            return self.bracket();
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let Some(end) = quoted.find('"') else {
                return Err(Error::Quote {
                    path: self.path.into(),
                    at: self.at(),
                });
            };
            self.steps.push(Step::Key(quoted[..end].to_owned()));
            self.rest = &quoted[end + 1..];
            return Ok(());
        }
        let end = self.rest.find(['.', '[', ']']).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(Error::EmptyKey {
                path: self.path.into(),
                at: self.at(),
            });
        }
        self.steps.push(Step::Key(self.rest[..end].to_owned()));
        self.rest = &self.rest[end..];
        if self.rest.starts_with(']') {
            return Err(Error::Bracket {
                path: self.path.into(),
                at: self.at(),
            });
        }
        Ok(())
    }

    fn bracket(&mut self) -> Result<(), Error> {
        let wrong = || Error::Bracket {
            path: self.path.into(),
            at: self.at(),
        };
        let inside = self.rest.strip_prefix('[').ok_or_else(wrong)?;
        let end = inside.find(']').ok_or_else(wrong)?;
        let step = match &inside[..end] {
            "*" => Step::Each,
            number => Step::Index(number.parse().map_err(|_| wrong())?),
        };
        self.rest = &inside[end + 1..];
        self.steps.push(step);
        Ok(())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let quote = if key.is_empty() || key.contains(['.', '[', ']']) {
                        "\""
                    } else {
                        ""
                    };
                    write!(f, "{dot}{quote}{key}{quote}")?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Each => write!(f, "[*]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parsed_and_written_back() {
        for path in [
            "a",
            "a.b",
            "data.features[3]",
            "instances[*].age",
            "[0].x",
            "p.\"\".b[0]",
            "a.\"b.c\"[1][2]",
            "x y.\"[]\"",
        ] {
            assert_eq!(FieldPath::parse(path).unwrap().to_string(), path);
        }
        assert_eq!(FieldPath::key("a.b").steps(), [Step::Key("a.b".into())]);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (path, at) in [
            ("", 1),
            ("a..b", 3),
            ("a.", 3),
            ("a[x]", 2),
            ("a[1", 2),
            (".a", 1),
            (".", 1),
            ("a[]", 2),
            ("a[[1]]", 2),
            ("a]", 2),
            ("größe]", 6),
            ("a.\"b", 3),
        ] {
            let message = FieldPath::parse(path).unwrap_err().to_string();
            assert!(
                message.contains(&format!("character {at}")),
                "{path}: {message}"
            );
        }
        assert!(matches!(
            FieldPath::parse("a[*].b[*]"),
            Err(Error::SecondEach { .. })
        ));
    }
}
