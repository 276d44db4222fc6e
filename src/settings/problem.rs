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

/// What stands in the file from top to bottom, then the rest as it was found.
pub(super) fn in_order(problems: &mut [Problem]) {
    let line = |problem: &Problem| -> usize {
        let origin = problem.origin.as_deref().unwrap_or_default();
        let line = origin
            .rsplit_once(':')
            .and_then(|(_, line)| line.parse().ok());
        line.unwrap_or(usize::MAX)
    };
    problems.sort_by_key(line);
}

/// The candidate that a mistyped word most likely means, if any is near enough.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= limit && *distance < candidate.chars().count().max(2)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What would be right in place of a text that is no time zone.
pub(crate) fn expected_zone(text: &str) -> String {
    let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    match nearest(text, names) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => "expected a name of the IANA database such as \"Europe/Berlin\"".into(),
    }
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
    fn lines_come_in_their_order() {
        let at = |origin: Option<&str>| Problem {
            origin: origin.map(str::to_owned),
            key: String::new(),
            found: String::new(),
            right: String::new(),
        };
        let origins = [None, Some("a.toml:10"), Some("--set x"), Some("a.toml:9")];
        let mut problems: Vec<Problem> = origins.map(at).into();
        in_order(&mut problems);
        let order: Vec<_> = problems.iter().map(|p| p.origin.as_deref()).collect();
        assert_eq!(
            order,
            [Some("a.toml:9"), Some("a.toml:10"), None, Some("--set x")]
        );
    }

    #[test]
    fn finds_what_was_meant() {
        let keys = ["brokers", "group", "properties", "start_at"];
        assert_eq!(nearest("broker", keys), Some("brokers"));
        assert_eq!(nearest("startat", keys), Some("start_at"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
