//! One partition while this replica reads it: what was read since the last checkpoint, when that is
//! due, and what it holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::consumer::{self, Log, TopicPartition};
use super::leader_epoch;
use super::plan::TopicPlan;
use super::start::Stored;
use super::starting::Starting;
use super::stretch::{Message, Stretch, Taken};
use crate::failpoint::{Failpoint, reached};
use crate::profile::sample::RowHash;
use crate::save::{Request, Unsaved};
use crate::settings::{Checkpoint, Limits};
use crate::store::gaps::OpenGap;
use crate::telemetry::metrics;
use crate::window::open::OpenWindows;

/// Rows that reach over more windows than this are not gathered into one batch.
const WINDOWS_AT_ONCE: i64 = 16;

/// How often it is confirmed that a partition is still idle.
const CONFIRM_IDLE_MS: i64 = 5_000;

/// How long to wait after a question that was not answered.
const ASK_AGAIN_MS: i64 = 300;

/// One partition that is ours.
#[derive(Debug)]
pub struct Partition {
    /// What is read from its topic.
    pub plan: Arc<TopicPlan>,
    /// Which of this replica's assignments it is; what was asked for another is not heeded.
    pub turn: u64,
    /// Whether it is read yet.
    pub phase: Phase,
    /// What was decoded and not handed on.
    pub stretch: Stretch,
    /// What was handed on and not saved, per monitor.
    pub windows: Vec<OpenWindows>,
    /// Chooses sample rows.
    pub hash: RowHash,
    /// What is known and asked before it can be read.
    pub starting: Option<Starting>,
    /// Which log under its name is read: Kafka's id of the topic, where that is known, and how many
    /// logs there were before. The offset in it is not kept up to date.
    pub log: Stored,
    /// Gaps behind which no message was read yet.
    pub open_gaps: Vec<OpenGap>,
    /// Gaps whose end was found in this stretch: the first window that is whole again.
    pub closed_gaps: Vec<(OpenGap, DateTime<Utc>)>,
    /// The question about its log that is not answered yet.
    pub asked: Option<u64>,
    /// When that was asked, or the last one.
    pub asked_ms: i64,
    /// How far it was read then.
    pub asked_offset: i64,
    /// A stretch that waits for the word that its topic is still the one it was read from, and the
    /// number of the first question about topics that was asked after it was read.
    pub confirming: Option<(Box<Unsaved>, u64)>,
    /// Messages below it were read in this stretch or before; `-1` until it was taken over.
    pub next_offset: i64,
    /// The leader epoch of the last of them, where that is known.
    pub leader_epoch: Option<i32>,
    /// What Postgres has, including what is on its way there.
    pub saved_offset: i64,
    /// Where the stretch begins.
    pub first_offset: i64,
    /// The first open windows as they were last saved.
    pub saved_open: Vec<Option<i64>>,
    /// A stretch is on its way to Postgres.
    pub saving: bool,
    /// When it was last saved.
    pub saved_ms: i64,
    /// When the last message came.
    pub last_message_ms: i64,
    /// Since when it is caught up and quiet.
    pub idle_since_ms: Option<i64>,
    /// When the question was asked whose answer has confirmed that last.
    pub idle_confirmed_ms: i64,
    /// Postgres knows it as idle, confirmed at this time.
    pub told_idle_ms: Option<i64>,
    /// Windows may have been judged without it: it was idle, or we do not know what it was.
    pub was_idle: bool,
    /// It was sought, and is not paused any more since it was taken over.
    pub resumed: bool,
    /// How often that was tried in vain.
    pub attempts: u32,
    /// The client has given up the assignment before this one.
    pub given_up: bool,
    /// The group has given it to somebody else.
    pub revoked: bool,
    /// Bytes that the last checkpoint has left behind: what samples have in mind.
    pub kept: usize,
    /// Bytes of the stretch that is on its way to Postgres, about.
    pub on_the_way: usize,
}

/// Whether a partition is read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for Postgres to fence whoever had it, and then for the brokers.
    Taking,
    /// Waiting for Postgres to store where reading goes on.
    Settling {
        /// What Postgres has to have for that to be accepted.
        epoch: i64,
    },
    /// Being read, under this epoch.
    Reading {
        /// What Postgres has to have for a checkpoint to be accepted.
        epoch: i64,
    },
}

impl Partition {
    /// A partition that the group has just assigned: nothing is known of it yet.
    pub fn new(plan: &Arc<TopicPlan>, limits: &Limits, hash: RowHash, turn: u64, now: i64) -> Self {
        Self {
            stretch: Stretch::new(plan, limits.message),
            windows: Vec::new(),
            plan: Arc::clone(plan),
            turn,
            phase: Phase::Taking,
            hash,
            starting: None,
            log: Stored {
                next_offset: None,
                generation: 1,
                topic_id: None,
            },
            open_gaps: Vec::new(),
            closed_gaps: Vec::new(),
            asked: None,
            asked_ms: 0,
            asked_offset: -1,
            confirming: None,
            next_offset: -1,
            leader_epoch: None,
            saved_offset: -1,
            first_offset: -1,
            saved_open: Vec::new(),
            saving: false,
            saved_ms: now,
            last_message_ms: now,
            idle_since_ms: None,
            idle_confirmed_ms: 0,
            told_idle_ms: None,
            was_idle: true,
            resumed: false,
            attempts: 0,
            given_up: false,
            revoked: false,
            kept: 0,
            on_the_way: 0,
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// Arrow's, where rows and layout disagree.
    pub fn take(
        &mut self,
        key: &TopicPartition,
        message: &BorrowedMessage<'_>,
        now: i64,
    ) -> Result<(), ArrowError> {
        // Before the seek other messages may still be on their way.
        let reading = self.is_reading() && self.resumed && !self.revoked;
        if !reading || message.offset() < self.next_offset {
            return Ok(());
        }
        let headers = match self.plan.plan.headers() {
            [] => Vec::new(),
            names => consumer::header_values(message, names),
        };
        let taken = self.stretch.take(
            &self.plan,
            Message {
                offset: message.offset(),
                record_ms: message.timestamp().to_millis(),
                payload: message.payload(),
                headers: &headers,
            },
        );
        self.next_offset = message.offset() + 1;
        self.leader_epoch = leader_epoch::of_message(message);
        if !self.open_gaps.is_empty() {
            self.close_gaps(message.timestamp().to_millis());
        }
        if let Taken::Rejected(reason) = taken {
            metrics::rejected_messages(&key.topic, reason.as_str(), 1);
            if let Some(limit) = reason.limit() {
                self.capped(limit, 1);
            }
        }
        self.last_message_ms = now;
        self.idle_since_ms = None;
        if self.stretch.is_full() || self.spans_many_windows() {
            self.hand_on(key)?;
        }
        Ok(())
    }

    /// Rows of a sparse log reach over many windows, each with a profile of its own. Not all of them
    /// are opened before the next look at what is held.
    fn spans_many_windows(&self) -> bool {
        let every = self.plan.monitors.iter().map(|one| one.spec.every_ms).min();
        let reach = every.map(|every| every.saturating_mul(WINDOWS_AT_ONCE));
        reach.is_some_and(|reach| self.stretch.span_ms() > reach)
    }

    fn windows_bytes(&self) -> usize {
        self.windows.iter().map(OpenWindows::bytes).sum()
    }

    /// Bytes held, about, those that the saver has among them: profiles become smaller when they are
    /// encoded, never larger.
    pub fn held(&self) -> usize {
        self.windows_bytes() + self.stretch.bytes() + self.on_the_way
    }

    /// Bytes that a checkpoint would hand to the saver.
    pub fn freeable(&self) -> usize {
        self.windows_bytes().saturating_sub(self.kept) + self.stretch.rejected_bytes
    }

    /// Whether so much was read that a look at it should not wait.
    pub fn is_full(&self, checkpoint: &Checkpoint, limits: &Limits) -> bool {
        let most = limits.max_held_bytes as u64;
        let enough = match self.saving {
            true => most,
            false => most.min(checkpoint.max_bytes),
        };
        self.freeable() as u64 >= enough
    }

    /// The stretch that was on its way is durable, or will not be.
    pub fn saved(&mut self) {
        self.saving = false;
        self.on_the_way = 0;
    }

    /// Drops what samples have in mind between stretches, right behind a cut.
    pub fn forget(&mut self) {
        self.windows.iter_mut().for_each(OpenWindows::forget);
        self.kept = self.windows_bytes();
    }

    /// Not ours any more, and nothing of it is left to save.
    pub fn is_done(&self) -> bool {
        self.revoked && !self.saving && !self.has_unsaved()
    }

    /// The epoch it was taken over with; `None` before that.
    pub fn epoch(&self) -> Option<i64> {
        match self.phase {
            Phase::Reading { epoch } | Phase::Settling { epoch } => Some(epoch),
            Phase::Taking => self.starting.as_ref().map(|starting| starting.taken.epoch),
        }
    }

    /// Whether it is being read.
    pub fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Reading { .. })
    }

    /// Starts reading where it was found that reading goes on, with the event times stored.
    pub fn begin(&mut self, starting: Starting, open_gaps: Vec<OpenGap>, now: i64) {
        let (Some(start), taken) = (&starting.start, &starting.taken) else {
            return;
        };
        self.phase = Phase::Reading { epoch: taken.epoch };
        self.log = Stored {
            next_offset: Some(start.offset),
            generation: start.generation,
            topic_id: starting.topic_id().or(taken.topic_id.as_ref()).cloned(),
        };
        self.next_offset = start.offset;
        let goes_on = start.missing.is_empty() && Some(start.offset) == taken.next_offset;
        // Where the client gave it up for its epoch, and no cut was found, the epoch means nothing to
        // these brokers: with it the client would give up again and again.
        self.leader_epoch = taken.leader_epoch.filter(|_| goes_on && !self.given_up);
        self.first_offset = start.offset;
        self.saved_offset = start.offset;
        self.open_gaps = open_gaps;
        self.last_message_ms = now;
        self.saved_ms = now;
        let stored: HashMap<i64, i64> = taken.max_event_ms.iter().copied().collect();
        let monitors = &self.plan.monitors;
        let windows = monitors
            .iter()
            .map(|monitor| OpenWindows::starting_at(stored.get(&monitor.monitor_id).copied()));
        self.windows = windows.collect();
        self.saved_open = self.first_open();
    }

    /// The first message behind gaps says where they end: a row that is missing has a timestamp of
    /// its own not after this one's, and an event time at most `max_future` ahead of that.
    fn close_gaps(&mut self, record_ms: Option<i64>) {
        for gap in std::mem::take(&mut self.open_gaps) {
            let mut monitors = self.plan.monitors.iter();
            let Some(monitor) = monitors.find(|m| m.monitor_id == gap.monitor_id) else {
                continue; // an earlier revision's: no row will count for it any more
            };
            let spec = &monitor.spec;
            let latest = record_ms.max(self.stretch.latest_event(monitor.clock));
            // A timestamp that is no time says nothing.
            let behind = latest.and_then(|ms| ms.checked_add(spec.max_future_ms + 1));
            let behind = behind.filter(|ms| DateTime::from_timestamp_millis(*ms).is_some());
            let until = behind.map(|ms| spec.next_start(ms));
            match until.and_then(DateTime::from_timestamp_millis) {
                Some(until) => self.closed_gaps.push((gap, until)),
                None => self.open_gaps.push(gap),
            }
        }
    }

    fn first_open(&self) -> Vec<Option<i64>> {
        let monitors = self.plan.monitors.iter().zip(&self.windows);
        monitors
            .map(|(monitor, windows)| windows.progress.first_open(&monitor.spec))
            .collect()
    }

    /// Decoded rows go into their windows' profiles.
    ///
    /// # Errors
    /// Arrow's, where rows and layout disagree.
    pub fn hand_on(&mut self, key: &TopicPartition) -> Result<(), ArrowError> {
        if !self.stretch.holds_any() {
            return Ok(());
        }
        let cut = self.stretch.take_cut_labels();
        self.capped("max_label_bytes", cut);
        let rows = self.stretch.finish();
        reached(Failpoint::Decoded);
        for (i, monitor) in self.plan.monitors.iter().enumerate() {
            let event_ms = &rows.event_ms[monitor.clock];
            let added = self.windows[i].add(monitor, &rows, event_ms, key.partition, self.hash);
            self.plan.counters[i].add(added.counted, added.late, added.other);
        }
        self.stretch.reuse(rows);
        reached(Failpoint::HandedOn);
        Ok(())
    }

    /// A limit that is met by the messages of a topic is met by all monitors of it.
    fn capped(&self, limit: &str, more: u64) {
        if more > 0 {
            let monitors = self.plan.monitors.iter();
            monitors.for_each(|monitor| metrics::capped(&monitor.name, limit, more));
        }
    }

    /// Whether it is time to ask about the log: until that is answered before the partition is read,
    /// when it has become quiet, and again and again while it is taken for idle.
    pub fn is_question_due(&self, now: i64) -> bool {
        if self.asked.is_some() {
            return false;
        }
        if let Some(starting) = &self.starting {
            return starting.log.is_none() && now - self.asked_ms >= ASK_AGAIN_MS;
        }
        let monitors = self.plan.monitors.iter();
        let after = monitors.map(|monitor| monitor.spec.idle_after_ms).max();
        let after = after.unwrap_or(i64::MAX);
        let pause = match self.idle_since_ms {
            // The judge waits for a confirmation that is newer than the end of its window.
            Some(_) if self.closes_between(self.asked_ms, now) => 0,
            Some(_) => CONFIRM_IDLE_MS,
            None => after.clamp(200, CONFIRM_IDLE_MS),
        };
        self.is_reading() && now - self.last_message_ms >= after && now - self.asked_ms >= pause
    }

    /// Whether the clock has closed a window of any monitor between these moments.
    fn closes_between(&self, from_ms: i64, until_ms: i64) -> bool {
        let mut monitors = self.plan.monitors.iter();
        monitors.any(|monitor| monitor.spec.closes_between(from_ms, until_ms))
    }

    /// Whether Postgres knows something else of its idleness than what the judge needs to know.
    fn is_idleness_news(&self) -> bool {
        match (self.idle_since_ms, self.told_idle_ms) {
            (Some(_), Some(told)) => self.closes_between(told, self.idle_confirmed_ms),
            (now, told) => now.is_some() != told.is_some(),
        }
    }

    /// Takes in where the log begins and ends, by the brokers' word since it was asked; `None`:
    /// they have not answered. `position` is how far the client has come, markers of transactions
    /// included, and the leader epoch there. False: what should be read next is not in the log.
    pub fn hear_log(
        &mut self,
        log: Option<&Log>,
        position: Option<(i64, Option<i32>)>,
        now: i64,
    ) -> bool {
        let Some(log) = log else {
            // Perhaps there is more to read, and only the way to it is gone.
            self.idle_since_ms = None;
            return true;
        };
        let here = (self.next_offset, self.leader_epoch);
        let (reached, epoch) = position.filter(|(at, _)| *at > here.0).unwrap_or(here);
        if reached < log.low || self.asked_offset > log.high {
            return false;
        }
        if reached < log.high || self.last_message_ms > self.asked_ms {
            self.idle_since_ms = None;
        } else {
            // What lies between is nothing that a reader is given. Once retention has removed it,
            // nobody could tell any more that nothing is missing.
            self.next_offset = reached;
            self.leader_epoch = epoch;
            self.idle_since_ms.get_or_insert(now);
            self.idle_confirmed_ms = self.asked_ms;
        }
        true
    }

    /// Whether something was read that is not on its way to Postgres.
    pub fn has_unsaved(&self) -> bool {
        self.is_reading() && self.next_offset > self.first_offset
    }

    /// Whether the stretch has to be saved now.
    pub fn is_due(&mut self, now: i64, checkpoint: &Checkpoint, limits: &Limits) -> bool {
        if !self.is_reading() || self.saving {
            return false;
        }
        let idle_changed = self.is_idleness_news();
        if !self.has_unsaved() {
            return idle_changed;
        }
        let shortest = self
            .plan
            .monitors
            .iter()
            .map(|monitor| monitor.spec.size_ms)
            .min();
        let interval = Duration::from_millis(shortest.unwrap_or(0).unsigned_abs() / 100)
            .clamp(checkpoint.min_interval, checkpoint.max_interval);
        let too_many = self
            .windows
            .iter()
            .any(|windows| windows.len() > limits.max_open_windows);
        let full = self.freeable() as u64 >= checkpoint.max_bytes || too_many;
        let ripe = self.first_open() != self.saved_open;
        let age = u128::from((now - self.saved_ms).unsigned_abs());
        self.revoked || idle_changed || full || ripe || age >= interval.as_millis()
    }

    /// Whether to ask if Postgres still has what it said it has: nothing was saved for so long that
    /// a checkpoint would have found out.
    pub fn confirm_due(&self, now: i64, checkpoint: &Checkpoint) -> bool {
        let age = u128::from((now - self.saved_ms).unsigned_abs());
        let reading = matches!(self.phase, Phase::Reading { .. });
        let known = self.saved_offset >= 0 && !self.revoked;
        reading && known && !self.saving && age >= checkpoint.max_interval.as_millis()
    }

    /// The question, which is answered as a checkpoint is.
    pub fn confirm(&mut self, key: &TopicPartition, now: i64) -> Option<Request> {
        let Phase::Reading { epoch } = self.phase else {
            return None;
        };
        self.saving = true;
        self.saved_ms = now;
        Some(Request::Confirm {
            key: key.clone(),
            epoch,
            next_offset: self.saved_offset,
        })
    }

    /// What open windows keep in mind between stretches saves work and changes no result, so that
    /// with too many of them it is dropped.
    pub fn forget_beyond(&mut self, max_open_windows: usize) {
        for (monitor, windows) in self.plan.monitors.iter().zip(&mut self.windows) {
            if windows.len() > max_open_windows {
                metrics::capped(&monitor.name, "max_open_windows", 1);
                windows.forget();
            }
        }
    }

    /// The greatest event time so far, per monitor.
    fn max_event_times(&self) -> Vec<(i64, DateTime<Utc>)> {
        let times = self.plan.monitors.iter().zip(&self.windows);
        times
            .filter_map(|(monitor, windows)| {
                let max = DateTime::from_timestamp_millis(windows.progress.max_event_ms?)?;
                Some((monitor.monitor_id, max))
            })
            .collect()
    }

    /// Cuts the stretch off: what it added goes to the saver, memory starts empty again.
    pub fn cut(&mut self, key: &TopicPartition, now: i64) -> Option<Unsaved> {
        let Phase::Reading { epoch } = self.phase else {
            return None;
        };
        reached(Failpoint::BeforeCut);
        let freed = self.freeable();
        let deltas = self
            .plan
            .monitors
            .iter()
            .zip(&mut self.windows)
            .flat_map(|(monitor, windows)| {
                let deltas = windows.cut(monitor);
                let full = deltas.iter().filter(|delta| delta.profile.is_capped());
                if let full @ 1.. = full.count() as u64 {
                    metrics::capped(&monitor.name, "unseen_levels", full);
                }
                deltas.into_iter().map(|delta| (monitor.monitor_id, delta))
            })
            .collect();
        let max_event_times = self.max_event_times();
        let confirmed = self.idle_since_ms.map(|_| self.idle_confirmed_ms);
        self.on_the_way = freed;
        let stretch = &mut self.stretch;
        stretch.rejected_bytes = 0;
        let unsaved = Unsaved {
            key: key.clone(),
            epoch,
            expected_offset: self.saved_offset,
            first_offset: self.first_offset,
            next_offset: self.next_offset,
            leader_epoch: self.leader_epoch,
            generation: self.log.generation,
            count: None,
            closed_gaps: std::mem::take(&mut self.closed_gaps),
            messages: std::mem::take(&mut stretch.messages),
            rejected_messages: std::mem::take(&mut stretch.rejected_messages),
            skipped: std::mem::take(&mut stretch.skipped),
            rejected: std::mem::take(&mut stretch.rejected),
            max_event_times,
            deltas,
            idle_since: self.idle_since_ms.and_then(DateTime::from_timestamp_millis),
            idle_confirmed_at: confirmed.and_then(DateTime::from_timestamp_millis),
            was_idle: self.was_idle,
            cut_ms: now,
        };
        metrics::records(&key.topic, unsaved.messages.unsigned_abs());
        metrics::skipped_messages(&key.topic, unsaved.skipped.unsigned_abs());
        self.told_idle_ms = confirmed;
        self.was_idle = confirmed.is_some();
        self.first_offset = self.next_offset;
        self.saved_offset = self.next_offset;
        self.saved_open = self.first_open();
        self.saved_ms = now;
        self.saving = true;
        self.kept = self.windows_bytes();
        reached(Failpoint::Cut);
        Some(unsaved)
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::Topic;
    use super::super::plan::Watched;
    use super::super::start::Start;
    use super::*;
    use crate::settings::{MessageLimits, Settings};
    use crate::store::partitions;

    const LIMITS: Limits = Limits {
        message: MessageLimits {
            bytes: 1 << 20,
            depth: 64,
            rows: 10_000,
            label_bytes: 4096,
        },
        max_open_windows: 400,
        max_held_bytes: 1 << 20,
        max_levels: 10,
    };
    const CHECKPOINT: Checkpoint = Checkpoint {
        min_interval: Duration::from_secs(60),
        max_interval: Duration::from_secs(60),
        max_bytes: 64 << 10,
    };

    fn key() -> TopicPartition {
        TopicPartition {
            partition: 0,
            topic: "t".into(),
        }
    }

    /// A partition that is read, of a monitor that keeps the payload of what it rejects.
    fn reading() -> Partition {
        let settings = Settings::from_toml(
            r#"
            kafka.brokers = "localhost:9092"
            postgres.url = "postgres://localhost/driftd"
            [[monitors]]
            name = "m"
            topic = "t"
            model = "x"
            version = { path = "v" }
            timestamp = { path = "t", unit = "ms" }
            window = "1m"
            keep_rejected_payload = true
            "#,
        );
        let monitor = settings.unwrap().monitors.remove(0);
        let mut plan = TopicPlan::new("t");
        plan.add(&Watched {
            monitor_id: 1,
            name: "m",
            input: monitor.input.as_ref().unwrap(),
            starts_at_ms: None,
            baselines: vec![],
        })
        .unwrap();
        let mut partition = Partition::new(&Arc::new(plan), &LIMITS, RowHash::new(0, 0), 0, 0);
        let starting = Starting {
            taken: partitions::Taken {
                epoch: 1,
                next_offset: Some(0),
                generation: 1,
                topic_id: None,
                leader_epoch: None,
                past_topic_ids: vec![],
                added: false,
                open_gaps: vec![],
                max_event_ms: vec![],
            },
            topic_asked: 1,
            topic: Some(Topic {
                id: None,
                partitions: 1,
            }),
            log: None,
            start: Some(Start {
                offset: 0,
                generation: 1,
                missing: vec![],
            }),
        };
        partition.begin(starting, vec![], 0);
        partition
    }

    fn read(partition: &mut Partition, payload: &str) {
        let message = Message {
            offset: partition.next_offset,
            record_ms: Some(1_000 * 3_600_000),
            payload: Some(payload.as_bytes()),
            headers: &[],
        };
        partition.stretch.take(&partition.plan, message);
        partition.next_offset += 1;
    }

    /// The end of the log as the brokers name it, asked at a time and heard then.
    fn hear(partition: &mut Partition, high: i64, now: i64) {
        let log = Log {
            low: 0,
            high,
            since: None,
            diverges_at: None,
        };
        partition.asked_ms = now;
        partition.asked_offset = partition.next_offset;
        assert!(partition.hear_log(Some(&log), None, now));
    }

    /// Windows of a minute, idle after a minute: they close on the minute, and are due on it too.
    #[test]
    fn idleness_is_confirmed_in_postgres_whenever_the_clock_closes_a_window() {
        let mut partition = reading();
        let told = |partition: &mut Partition, now| {
            partition
                .is_due(now, &CHECKPOINT, &LIMITS)
                .then(|| partition.cut(&key(), now).unwrap())
                .map(|unsaved| {
                    partition.saved();
                    unsaved.idle_confirmed_at.map(|at| at.timestamp_millis())
                })
        };
        hear(&mut partition, 0, 70_000);
        assert_eq!(told(&mut partition, 70_001), Some(Some(70_000)));
        assert!(!partition.is_question_due(74_999), "it was asked just now");
        assert!(partition.is_question_due(75_000));
        hear(&mut partition, 0, 75_000);
        assert_eq!(told(&mut partition, 75_001), None, "no window closed");
        hear(&mut partition, 0, 119_000);
        assert!(partition.is_question_due(120_000), "one closes now");
        hear(&mut partition, 0, 120_000);
        assert_eq!(told(&mut partition, 120_001), Some(Some(120_000)));
        // Nobody answers, or there is more to read: that is news, and confirms nothing.
        assert!(partition.hear_log(None, None, 181_000));
        assert_eq!(told(&mut partition, 181_000), Some(None));
        hear(&mut partition, 1, 190_000);
        assert_eq!(told(&mut partition, 190_001), None);
    }

    #[test]
    fn what_is_set_aside_is_held_until_it_is_saved() {
        let mut partition = reading();
        read(&mut partition, "x"); // from here on there is room for rows
        partition.cut(&key(), 0).unwrap();
        partition.saved();
        let empty = partition.held();
        for _ in 0..100 {
            read(&mut partition, &"x".repeat(1_000));
        }
        let held = partition.held() - empty;
        assert!((100_000..200_000).contains(&held), "{held}");
        assert!(partition.is_due(0, &CHECKPOINT, &LIMITS), "it is full");
        partition.cut(&key(), 0).unwrap();
        assert_eq!(partition.freeable(), 0);
        assert_eq!(partition.held() - empty, held, "it is on its way");
        partition.saved();
        assert_eq!(partition.held(), empty);
    }

    #[test]
    fn texts_that_wait_in_a_batch_are_held() {
        let mut partition = reading();
        let empty = partition.held();
        for row in 0..100 {
            let version = format!("{row}{}", "x".repeat(1_000));
            read(&mut partition, &format!(r#"{{"t": 0, "v": "{version}"}}"#));
        }
        assert!(partition.held() - empty >= 100_000);
    }

    #[test]
    fn windows_of_late_rows_are_held_and_cost_little() {
        let mut partition = reading();
        let hour = 3_600_000;
        read(&mut partition, &format!(r#"{{"t": {}}}"#, 100 * hour));
        partition.hand_on(&key()).unwrap();
        let before = partition.held();
        for late in 0..100 {
            read(&mut partition, &format!(r#"{{"t": {}}}"#, late * hour));
        }
        partition.hand_on(&key()).unwrap();
        let held = partition.held() - before;
        assert!((10_000..50_000).contains(&held), "{held}");
        let unsaved = partition.cut(&key(), 0).unwrap();
        let late: u64 = unsaved.deltas.iter().map(|(_, delta)| delta.late).sum();
        assert_eq!((unsaved.deltas.len(), late), (101, 100));
        partition.saved();
        assert!(partition.held() < before + 10_000, "they are gone");
    }

    #[test]
    fn rows_that_reach_over_many_windows_are_handed_on_early() {
        let mut partition = reading();
        read(&mut partition, r#"{"t": 0}"#);
        assert!(!partition.spans_many_windows());
        read(&mut partition, &format!(r#"{{"t": {}}}"#, 17 * 60_000));
        assert!(partition.spans_many_windows());
    }
}
