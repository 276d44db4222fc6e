//! Where reading a partition goes on, and what is missing before that.
//!
//! A *generation* is one log under the name of a partition. What was read belongs to the generation
//! it was read in, and offsets are compared within one only. A generation ends where the topic was
//! made anew, or where the log was cut below what was read: what of it was not read by then cannot
//! be read any more.

use std::fmt;

use chrono::{DateTime, Utc};

use super::log::{Log, LogId};

/// Where a partition that was never read is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest message that is kept.
    Earliest,
    /// At the next message.
    Latest,
    /// At the first message with a Kafka timestamp not before this.
    Timestamp(DateTime<Utc>),
}

/// Where reading goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// At this offset ...
    pub offset: i64,
    /// ... of this log.
    pub generation: i64,
    /// What could not be read before it.
    pub missing: Vec<Missing>,
}

/// Messages that were gone before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// In this log ...
    pub generation: i64,
    /// ... from this offset on ...
    pub from_offset: i64,
    /// ... up to before this one, which can be read; `None`: the log is gone, and nobody knows how
    /// far it reached.
    pub to_offset: Option<i64>,
    /// Why.
    pub reason: Reason,
}

/// Why messages are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The log begins behind what was read: retention, or somebody has deleted records.
    Retention,
    /// The log was cut below what was read. What follows is read from the cut on, where the brokers
    /// can tell where that is; else from its present end on: between the two others may have
    /// written, and no offset tells which messages those are.
    Truncated,
    /// The topic was deleted and made anew; the new one is read from its beginning.
    Recreated,
}

impl Reason {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Truncated => "truncated",
            Self::Recreated => "recreated",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from_offset;
        match (self.reason, self.to_offset) {
            (Reason::Recreated, _) => write!(
                f,
                "the topic was deleted and made anew; of the old one, messages from {from} on were not read"
            ),
            (Reason::Truncated, _) => write!(
                f,
                "the log was cut below offset {from}, up to which it was read"
            ),
            (Reason::Retention, Some(to)) => {
                write!(f, "messages {from} to {} are gone from the log", to - 1)
            }
            (Reason::Retention, None) => write!(f, "messages from {from} on are gone"),
        }
    }
}

/// Finds where to go on in the log that is there now. `next_offset` is how far `read` was read;
/// `None`: it never was.
pub fn find(
    read: &LogId,
    next_offset: Option<i64>,
    topic_id: Option<&str>,
    log: &Log,
    start_at: StartAt,
) -> Start {
    let generation = read.generation;
    let Some(stored) = next_offset else {
        let offset = match start_at {
            StartAt::Earliest => log.low,
            StartAt::Latest => log.high,
            // Nothing as young as that: begin with what comes next.
            StartAt::Timestamp(_) => log.since.unwrap_or(log.high),
        };
        return Start {
            offset,
            generation,
            missing: Vec::new(),
        };
    };
    let missing = |generation, from_offset, to_offset, reason| Missing {
        generation,
        from_offset,
        to_offset,
        reason,
    };
    if read.is_other_topic(topic_id) {
        let mut gone = vec![missing(generation, stored, None, Reason::Recreated)];
        if log.low > 0 {
            gone.push(missing(generation + 1, 0, Some(log.low), Reason::Retention));
        }
        return Start {
            offset: log.low,
            generation: generation + 1,
            missing: gone,
        };
    }
    let diverges_at = log.diverges_at.filter(|at| *at < stored);
    if let Some(cut) = diverges_at.or((stored > log.high).then_some(log.high)) {
        return Start {
            offset: cut.max(log.low),
            generation: generation + 1,
            missing: vec![missing(generation, stored, None, Reason::Truncated)],
        };
    }
    let gone = missing(generation, stored, Some(log.low), Reason::Retention);
    Start {
        offset: stored.max(log.low),
        generation,
        missing: (stored < log.low).then_some(gone).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log = Log {
        low: 10,
        high: 20,
        since: None,
        diverges_at: None,
    };

    /// How far it was read, and of which topic.
    type Stored<'a> = (Option<i64>, Option<&'a str>);

    fn start(stored: Stored<'_>, topic_id: Option<&str>, log: &Log, start_at: StartAt) -> Start {
        let read = LogId {
            generation: 3,
            topic_id: stored.1.map(str::to_owned),
        };
        find(&read, stored.0, topic_id, log, start_at)
    }

    /// Generation, first offset, end.
    type Missed = (i64, i64, Option<i64>);

    fn goes_on(stored: Stored<'_>, topic_id: Option<&str>) -> (i64, i64, Vec<Missed>) {
        let start = start(stored, topic_id, &LOG, StartAt::Latest);
        let missing = start.missing.iter();
        let missing = missing.map(|one| (one.generation, one.from_offset, one.to_offset));
        (start.offset, start.generation, missing.collect())
    }

    #[test]
    fn what_was_never_read_starts_as_set() {
        let at = |start_at, since| {
            let log = Log { since, ..LOG };
            start((None, None), Some("a"), &log, start_at).offset
        };
        let time = StartAt::Timestamp(chrono::DateTime::UNIX_EPOCH);
        assert_eq!(at(StartAt::Earliest, None), 10);
        assert_eq!(at(StartAt::Latest, None), 20);
        assert_eq!(at(time, Some(15)), 15);
        assert_eq!(at(time, None), 20);
    }

    #[test]
    fn reading_goes_on_within_the_log() {
        for next in [10, 15, 20] {
            let found = goes_on((Some(next), Some("a")), Some("a"));
            assert_eq!(found, (next, 3, vec![]));
        }
    }

    #[test]
    fn what_is_gone_is_named_with_its_log() {
        let same = |next| goes_on((Some(next), Some("a")), Some("a"));
        assert_eq!(same(7), (10, 3, vec![(3, 7, Some(10))]));
        assert_eq!(same(21), (20, 4, vec![(3, 21, None)]));
        for next in [5, 15, 25] {
            let found = goes_on((Some(next), Some("a")), Some("b"));
            assert_eq!(found, (10, 4, vec![(3, next, None), (4, 0, Some(10))]));
        }
    }

    #[test]
    fn a_log_that_was_cut_is_read_from_the_cut_on() {
        let from = |next, diverges_at| {
            let log = Log { diverges_at, ..LOG };
            let found = start((Some(next), Some("a")), Some("a"), &log, StartAt::Latest);
            let missing = found
                .missing
                .first()
                .map(|one| (one.from_offset, one.to_offset));
            (found.offset, found.generation, missing)
        };
        assert_eq!(from(18, Some(15)), (15, 4, Some((18, None))));
        assert_eq!(from(25, Some(15)), (15, 4, Some((25, None))));
        assert_eq!(
            from(18, Some(5)),
            (10, 4, Some((18, None))),
            "as far as the log goes back"
        );
        assert_eq!(from(18, Some(18)), (18, 3, None), "what was read is there");
    }

    #[test]
    fn an_unknown_identity_proves_nothing() {
        for (ours, theirs) in [(None, Some("b")), (Some("a"), None), (None, None)] {
            assert_eq!(goes_on((Some(15), ours), theirs), (15, 3, vec![]));
        }
    }
}
