//! What is wrong with the settings, said so that it can be mended without a second look.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it was written, e.g. `driftd.toml:12`; `None` for what was written nowhere.
    pub origin: Option<String>,
    /// The key as one would look for it, e.g. `monitors.flights.window.size`; may be empty.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub right: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.found, self.right)
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings file cannot be read at all.
    #[error("cannot read the settings file {path}: {source}")]
    Unreadable {
        /// As given by `--config`.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Everything that is wrong, at once.
    #[error("{}", listing(.0))]
    Wrong(Vec<Problem>),
}

impl Error {
    /// The problems one by one.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Wrong(problems) => problems.clone(),
            Self::Unreadable { path, source } => vec![Problem {
                origin: Some(path.clone()),
                key: String::new(),
                found: format!("cannot be read: {source}"),
                right: "--config needs a readable TOML file".into(),
            }],
        }
    }
}

fn listing(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "1 problem in the settings:".to_owned(),
        n => format!("{n} problems in the settings:"),
    };
    for problem in problems {
        text.push_str(&format!("\n  {problem}"));
    }
    text
}

/// The candidate that a mistyped word most likely means, if any is near enough.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1) + 1;
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= limit && *distance < candidate.chars().count().max(2)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, one row at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let keys = ["brokers", "group", "properties", "start_at"];
        assert_eq!(nearest("broker", keys), Some("brokers"));
        assert_eq!(nearest("startat", keys), Some("start_at"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
