//! Whether a partition is idle: caught up to the end of its log, and quiet. Windows do not wait for an
//! idle partition.

use chrono::{DateTime, Utc};

use super::log::Log;
use crate::window::open::MonitorPlan;

/// How often it is confirmed that a partition is still idle, while no window waits for it.
const CONFIRM_MS: i64 = 15_000;
/// How often a quiet partition asks whether it is idle: at most, and at least.
const ASK_MS: (i64, i64) = (200, 5_000);
/// How often an idle partition looks whether the clock has closed a window.
const LOOK_MS: i64 = 500;

/// How far a partition was read: the offset behind the last message, and that message's leader epoch.
pub(super) type Position = (i64, Option<i32>);

/// What is known of a partition's idleness.
#[derive(Debug)]
pub(super) struct Idleness {
    last_message_ms: i64,
    question: Question,
    /// Since when it is caught up and quiet.
    since_ms: Option<i64>,
    /// When the question was asked whose answer has confirmed that last.
    confirmed_ms: i64,
    told: Told,
}

/// The last question about the log.
#[derive(Debug, Clone, Copy)]
struct Question {
    is_open: bool,
    asked_ms: i64,
    /// How far the partition was read then.
    offset: i64,
}

/// What the judge knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Windows may have been judged without it: it was taken over, and nothing was saved since.
    Unknown,
    Busy,
    /// It is idle, which was confirmed at this time.
    Idle(i64),
}

/// What the ends of a log mean to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// What should be read next is not in the log.
    Lost,
    /// There may be more to read.
    Busy,
    /// It is idle, and was read up to here: what lies between is nothing that a reader is given. Once
    /// retention has removed it, nobody could tell any more that nothing is missing.
    Idle(Position),
}

impl Idleness {
    pub(super) fn begin(now: i64) -> Self {
        Self {
            last_message_ms: now,
            question: Question {
                is_open: false,
                asked_ms: 0,
                offset: -1,
            },
            since_ms: None,
            confirmed_ms: 0,
            told: Told::Unknown,
        }
    }

    pub(super) fn on_message(&mut self, now: i64) {
        self.last_message_ms = now;
        self.since_ms = None;
    }

    /// Nothing has happened after this moment: the clock may have been set back.
    pub(super) fn not_after(&mut self, now: i64) {
        self.last_message_ms = self.last_message_ms.min(now);
        self.question.asked_ms = self.question.asked_ms.min(now);
    }

    /// When to ask about the log: when the partition has become quiet, and again and again while it is
    /// taken for idle.
    pub(super) fn question_ms(&self, monitors: &[MonitorPlan], now: i64) -> i64 {
        if self.question.is_open {
            return i64::MAX;
        }
        let quiet_ms = monitors.iter().map(|monitor| monitor.spec.idle_after_ms);
        let quiet_ms = quiet_ms.max().unwrap_or(i64::MAX);
        let asked_ms = self.question.asked_ms;
        let pause = match self.since_ms {
            // The judge waits for a confirmation that is newer than the end of its window.
            Some(_) if closes_between(monitors, asked_ms, now) => 0,
            Some(_) => CONFIRM_MS,
            None => quiet_ms.clamp(ASK_MS.0, ASK_MS.1),
        };
        let quiet = self.last_message_ms.saturating_add(quiet_ms);
        quiet.max(asked_ms.saturating_add(pause))
    }

    pub(super) fn ask(&mut self, offset: i64, now: i64) {
        self.question = Question {
            is_open: true,
            asked_ms: now,
            offset,
        };
    }

    /// Takes in where the log begins and ends, by the brokers' word since it was asked; `None`: they
    /// have not answered. `client` is how far the client has come, markers of transactions included.
    pub(super) fn on_log(
        &mut self,
        log: Option<&Log>,
        read: Position,
        client: Option<Position>,
        now: i64,
    ) -> Found {
        self.question.is_open = false;
        let Some(log) = log else {
            // Perhaps there is more to read, and only the way to it is gone.
            self.since_ms = None;
            return Found::Busy;
        };
        let reached = client.filter(|(at, _)| *at > read.0).unwrap_or(read);
        if reached.0 < log.low || self.question.offset > log.high {
            return Found::Lost;
        }
        if reached.0 < log.high || self.last_message_ms > self.question.asked_ms {
            self.since_ms = None;
            return Found::Busy;
        }
        self.since_ms.get_or_insert(now);
        self.confirmed_ms = self.question.asked_ms;
        Found::Idle(reached)
    }

    /// Since when it is idle, and when that was confirmed last.
    pub(super) fn stands(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let since = DateTime::from_timestamp_millis(self.since_ms?)?;
        Some((since, DateTime::from_timestamp_millis(self.confirmed_ms)?))
    }

    /// Whether the judge may have taken it for idle up to now.
    pub(super) fn was_idle(&self) -> bool {
        self.told != Told::Busy
    }

    /// Whether the judge needs to know something else than what it knows.
    pub(super) fn is_news(&self, monitors: &[MonitorPlan]) -> bool {
        match (self.since_ms, self.told) {
            (Some(_), Told::Idle(told)) => closes_between(monitors, told, self.confirmed_ms),
            (idle, told) => idle.is_some() != matches!(told, Told::Idle(_)),
        }
    }

    /// The judge is told.
    pub(super) fn tell(&mut self) {
        let confirmed = self.since_ms.map(|_| self.confirmed_ms);
        self.told = confirmed.map_or(Told::Busy, Told::Idle);
    }

    /// When to look at it again.
    pub(super) fn wake_ms(&self, monitors: &[MonitorPlan], now: i64) -> i64 {
        let look = match self.since_ms {
            Some(_) if !self.question.is_open => now + LOOK_MS,
            _ => i64::MAX,
        };
        look.min(self.question_ms(monitors, now))
    }
}

/// Whether the clock has closed a window of any monitor between these moments.
fn closes_between(monitors: &[MonitorPlan], from_ms: i64, until_ms: i64) -> bool {
    let mut monitors = monitors.iter();
    monitors.any(|monitor| monitor.spec.closes_between(from_ms, until_ms))
}
