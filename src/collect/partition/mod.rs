//! One partition from its assignment to its revocation, as a state machine without I/O.
//!
//! ```text
//! assigned -> Fencing -> Locating -> Settling -> Seeking -> Reading -> Leaving -> gone
//!                ^           \______________________^  |        |
//!                |            nothing to store         |        | fenced, cut, made anew, given up
//!                +-------------------------------------+--------+
//!                +-- retry -- Stopped <- a gap that stops, or what cannot be read
//! ```
//!
//! [`Partition::on`] takes an event and pushes the effects that the shell has to perform
//! ([`crate::collect`]). The machine never waits and reads no clock. It does not know its own key, so
//! that a shell may have several readings of one source. Each [`Effect::TakeOver`] begins a new
//! *assignment*: the shell numbers it and drops answers to earlier ones, so an event always belongs to
//! the present one.
//!
//! Rows do not come as events: [`Partition::read`] is called for every few rows and does not change
//! the state.

mod starting;

mod reading;

mod idle;

/// Where reading goes on.
pub mod start;

/// What is known of a partition's log.
pub mod log;

#[cfg(test)]
mod simulation;

pub use reading::{Added, Batch, Reading, Tally};

use crate::window::open::{Assigned, MonitorPlan};
use log::{Checkpoint, Log, OpenGap, ReadUpTo, Settlement, Takeover, Topic};
use start::StartAt;
use starting::{Located, Locating};

/// What a partition goes by. The same for all partitions of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Where a partition that was never read is begun.
    pub start_at: StartAt,
    /// What is to be done about a gap: stop before it, or record it and go on.
    pub stops_at_gap: bool,
    /// Keys the choice of sample rows; all replicas need the same.
    pub sample_key: u64,
    /// A checkpoint comes not more often than this, unless a window is ripe.
    pub min_interval_ms: i64,
    /// Nor less often than this.
    pub max_interval_ms: i64,
    /// It comes at the latest when this much is held.
    pub max_checkpoint_bytes: usize,
    /// Windows that are open at a time, per monitor.
    pub max_open_windows: usize,
}

/// What a partition sees of the world while it handles an event.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its number.
    pub partition: i32,
    /// Who watches the topic.
    pub monitors: &'a [MonitorPlan],
    /// What it goes by.
    pub policy: &'a Policy,
    /// The number of the next question about topics.
    pub next_topic_question: u64,
    /// Milliseconds since the epoch.
    pub now: i64,
}

/// What happens to a partition.
#[derive(Debug)]
pub enum Event<'a> {
    /// The fence stands in Postgres.
    TakenOver(Takeover),
    /// A broker has described the topic, in the answer to this question.
    Topic {
        /// The question's number.
        number: u64,
        /// The answer.
        topic: &'a Topic,
    },
    /// The brokers have answered, or not, where the log begins and ends.
    Log {
        /// `None`: no answer came.
        log: Option<Log>,
        /// How far the client has come, markers of transactions included, and the leader epoch there.
        position: Option<(i64, Option<i32>)>,
    },
    /// It is stored where reading goes on.
    Settled {
        /// Gaps that have no end yet.
        open_gaps: Vec<OpenGap>,
    },
    /// The gaps are stored, and the policy is to stop before them.
    GapsRecorded,
    /// The client was told where to read; false: it refuses for now.
    Sought(bool),
    /// The checkpoint is durable up to this offset, or still is.
    Saved {
        /// The offset.
        next_offset: i64,
    },
    /// Another replica has taken the partition over.
    Fenced,
    /// The client does not fetch the partition any more: its offset is out of range.
    FetchStopped,
    /// A part of the log cannot be read, for this reason.
    Unreadable(String),
    /// The group has given the partition to somebody else, or this replica stops.
    Revoked,
    /// What has stopped may go on.
    Retry,
    /// Time has passed.
    Tick {
        /// Memory is short: a partition that could free this much saves now.
        pressure: Option<usize>,
    },
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Effect {
    /// Fence whoever holds the partition, in Postgres, under a new assignment.
    TakeOver,
    /// Ask the brokers about the topic.
    AskTopic,
    /// Ask the brokers about the partition's log.
    AskLog {
        /// Also the first offset with a timestamp not before this, in milliseconds.
        since_ms: Option<i64>,
        /// Also whether it is still the log that was read up to there.
        read: Option<ReadUpTo>,
    },
    /// Store where reading goes on.
    Settle(Box<Settlement>),
    /// Have the client read from this offset on.
    Seek {
        /// The offset.
        offset: i64,
        /// The leader epoch of the message before, where it is known.
        leader_epoch: Option<i32>,
    },
    /// Save a stretch.
    Save(Box<Checkpoint<Added>>),
    /// Look whether Postgres still has what it said it has: after a failover it may be behind.
    Confirm {
        /// Under this epoch.
        epoch: i64,
        /// The offset that it should have.
        next_offset: i64,
    },
    /// Tell the group how far the partition was read, for tools that show lag.
    Commit(i64),
    /// Have the client stop fetching for now.
    Pause,
    /// Have the client let go of the partition and take it again.
    Reassign,
    /// Tell people that the topic cannot go on here, for this reason.
    Stop(String),
    /// Count that a limit was met by a monitor.
    Capped {
        /// Which of the topic's monitors.
        monitor: usize,
        /// The limit's name.
        cap: &'static str,
        /// How often.
        more: u64,
    },
    /// Forget the partition: it is somebody else's, and nothing of it is left here.
    Drop,
}

/// A partition that is ours.
#[derive(Debug)]
pub enum Partition {
    /// Waits for Postgres to fence whoever had it.
    Fencing {
        /// The client has stopped fetching: perhaps the log was cut and written on.
        fetch_stopped: bool,
    },
    /// Waits for the brokers: which topic and which log is there.
    Locating(Box<Locating>),
    /// Waits for Postgres to store where reading goes on.
    Settling(Box<Located>),
    /// Waits for the client to seek.
    Seeking {
        /// What will be read.
        reading: Box<Reading>,
        /// How often the client has refused.
        refused: u32,
    },
    /// Is being read.
    Reading(Box<Reading>),
    /// Is somebody else's; what was read is on its way to Postgres.
    Leaving(Box<Reading>),
    /// Stands still and waits for a person, or for another attempt.
    Stopped,
}

/// How often the client may refuse to seek, about every 20 ms, before it is given the partition anew.
const SEEK_ATTEMPTS: u32 = 250;
/// How long to wait after a refused seek.
const SEEK_AGAIN_MS: i64 = 20;

impl Partition {
    /// A partition that the group has just assigned.
    pub fn assigned(effects: &mut Vec<Effect>) -> Self {
        Self::fence(false, effects)
    }

    /// Handles one event. What the state does not wait for changes nothing.
    pub fn on(&mut self, event: Event<'_>, context: &Context<'_>, effects: &mut Vec<Effect>) {
        let state = std::mem::replace(self, Self::Stopped);
        *self = state.next(event, context, effects);
    }

    /// The next offset to read, while messages are taken.
    pub fn expects(&self) -> Option<i64> {
        match self {
            Self::Reading(reading) => Some(reading.next_offset),
            _ => None,
        }
    }

    /// Takes rows in, while messages are taken; per monitor, what became of them.
    pub fn read(&mut self, batch: Batch<'_>, context: &Context<'_>) -> Vec<Assigned> {
        match self {
            Self::Reading(reading) => reading.read(batch, context),
            _ => Vec::new(),
        }
    }

    /// What is being read, or was until it was revoked.
    pub fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Reading(reading) | Self::Leaving(reading) => Some(reading),
            _ => None,
        }
    }

    /// Whether something is on its way to Postgres, or about to be.
    pub fn is_in_flight(&self) -> bool {
        self.reading().is_some_and(Reading::is_in_flight)
    }

    /// Bytes held, those on their way to Postgres among them.
    pub fn held(&self) -> usize {
        self.reading().map_or(0, Reading::held)
    }

    /// When it has to be told that time has passed, in milliseconds; `i64::MAX`: not by itself.
    pub fn wake_ms(&self, context: &Context<'_>) -> i64 {
        match self {
            Self::Locating(locating) => locating.wake_ms(),
            Self::Seeking { .. } => context.now + SEEK_AGAIN_MS,
            Self::Reading(reading) | Self::Leaving(reading) => reading.wake_ms(context),
            Self::Fencing { .. } | Self::Settling(_) | Self::Stopped => i64::MAX,
        }
    }

    fn fence(fetch_stopped: bool, effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::TakeOver);
        Self::Fencing { fetch_stopped }
    }

    /// Drops what was read since the last checkpoint, has the client let go of the partition and take
    /// it again, and takes it over anew.
    fn restart(fetch_stopped: bool, effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::Reassign);
        Self::fence(fetch_stopped, effects)
    }

    fn gone(effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::Drop);
        Self::Stopped
    }

    fn stop(reason: String, effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::Pause);
        effects.push(Effect::Stop(reason));
        Self::Stopped
    }

    fn seek(reading: Box<Reading>, refused: u32, effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::Seek {
            offset: reading.next_offset,
            leader_epoch: reading.leader_epoch,
        });
        Self::Seeking { reading, refused }
    }

    fn next(self, event: Event<'_>, context: &Context<'_>, effects: &mut Vec<Effect>) -> Self {
        match self {
            Self::Leaving(reading) => reading.on_leaving(event, context, effects),
            state if matches!(event, Event::Revoked) => state.revoked(context, effects),
            Self::Stopped => match event {
                Event::Retry => Self::fence(false, effects),
                _ => Self::Stopped,
            },
            state => match event {
                Event::Unreadable(reason) => Self::stop(reason, effects),
                event => state.go_on(event, context, effects),
            },
        }
    }

    fn go_on(self, event: Event<'_>, context: &Context<'_>, effects: &mut Vec<Effect>) -> Self {
        match self {
            Self::Reading(reading) => reading.on(event, context, effects),
            Self::Fencing { fetch_stopped } => match event {
                Event::TakenOver(takeover) => {
                    Locating::begin(takeover, fetch_stopped, context, effects)
                }
                _ => Self::Fencing { fetch_stopped },
            },
            Self::Locating(locating) => locating.on(event, context, effects),
            Self::Settling(located) => located.on(event, context, effects),
            Self::Seeking { reading, refused } => match event {
                Event::Sought(true) => Self::Reading(reading),
                Event::Sought(false) => Self::Seeking {
                    reading,
                    refused: refused + 1,
                },
                Event::Tick { .. } if refused >= SEEK_ATTEMPTS => Self::restart(false, effects),
                Event::Tick { .. } => Self::seek(reading, refused, effects),
                _ => Self::Seeking { reading, refused },
            },
            Self::Leaving(_) | Self::Stopped => self,
        }
    }

    /// What was read is saved if that still works: the new owner may be faster, then this one is
    /// fenced, and it is read again over there.
    fn revoked(self, context: &Context<'_>, effects: &mut Vec<Effect>) -> Self {
        match self {
            Self::Reading(reading) => reading.leave(context, effects),
            _ => Self::gone(effects),
        }
    }
}
