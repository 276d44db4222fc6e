//! A partition while it is read: what was read since the last checkpoint, when that is due, and what it
//! holds.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::idle::{Found, Idleness, Position};
use super::log::{Checkpoint, Log, LogId, OpenGap, Takeover, Topic};
use super::{Context, Effect, Event, Partition};
use crate::batch::{NO_TIME, Rows};
use crate::failpoint::{Failpoint, reached};
use crate::ingest::reject::Rejected;
use crate::profile::sample::RowHash;
use crate::window::open::{Assigned, Delta, MonitorPlan, OpenWindows};

/// What messages left beside rows.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages read, good or not.
    pub messages: i64,
    /// Tombstones among them.
    pub skipped: i64,
    /// Messages that no monitor could use.
    pub rejected_messages: i64,
    /// What was set aside, per message or per message and monitor.
    pub rejected: Vec<Rejected>,
}

impl Tally {
    fn bytes(&self) -> usize {
        self.rejected.iter().map(Rejected::bytes).sum()
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.skipped += other.skipped;
        self.rejected_messages += other.rejected_messages;
        self.rejected.extend(other.rejected);
    }
}

/// Consecutive messages of one partition, decoded.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Their rows.
    pub rows: &'a Rows,
    /// What else they left.
    pub tally: Tally,
    /// The first message: its offset, and its own timestamp in milliseconds.
    pub first: (i64, Option<i64>),
    /// The offset behind the last message.
    pub next_offset: i64,
    /// The leader epoch of the last message, where it is known.
    pub leader_epoch: Option<i32>,
}

/// What a stretch adds to a window of a monitor.
#[derive(Debug)]
pub struct Added {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// The window, and what is added to it.
    pub delta: Delta,
    /// Its rows were read before the clock would have judged the window.
    pub keeps_up: bool,
}

/// What is on its way to Postgres. One thing at a time.
#[derive(Debug)]
enum Flight {
    Nothing,
    /// A stretch waits for the word that its topic is still the one it was read from: for the answer to
    /// this question about topics, or a later one.
    Identifying {
        checkpoint: Box<Checkpoint<Added>>,
        question: u64,
        bytes: usize,
    },
    /// The saver has a stretch of about so many bytes, or a question.
    Saving {
        bytes: usize,
    },
}

/// One partition that is read.
#[derive(Debug)]
pub struct Reading {
    /// What Postgres has to have for a checkpoint to be accepted.
    pub epoch: i64,
    /// Messages below it were read.
    pub next_offset: i64,
    /// The leader epoch of the last of them, where that is known.
    pub leader_epoch: Option<i32>,
    log: LogId,
    hash: RowHash,
    /// Where the stretch begins: up to here Postgres has everything, or it is on its way there.
    first_offset: i64,
    tally: Tally,
    tally_bytes: usize,
    windows: Vec<OpenWindows>,
    /// Bytes of the windows right after the last cut.
    base_bytes: usize,
    /// Gaps behind which no message was read yet.
    open_gaps: Vec<OpenGap>,
    /// Gaps whose end was found in this stretch, with the first window that is whole again.
    closed_gaps: Vec<(OpenGap, DateTime<Utc>)>,
    /// The first open windows as they were at the last cut.
    cut_open: Vec<Option<i64>>,
    cut_ms: i64,
    flight: Flight,
    idle: Idleness,
}

impl Reading {
    pub(super) fn begin(takeover: Takeover, offset: i64, context: &Context<'_>) -> Self {
        let stored: HashMap<i64, i64> = takeover.max_event_ms.iter().copied().collect();
        let windows = context
            .monitors
            .iter()
            .map(|monitor| OpenWindows::starting_at(stored.get(&monitor.monitor_id).copied()));
        let generation = takeover.log.generation;
        let mut reading = Self {
            epoch: takeover.epoch,
            next_offset: offset,
            leader_epoch: takeover.leader_epoch,
            log: takeover.log,
            hash: RowHash::of_log(context.policy.sample_key, context.partition, generation),
            first_offset: offset,
            tally: Tally::default(),
            tally_bytes: 0,
            windows: windows.collect(),
            base_bytes: 0,
            open_gaps: takeover.open_gaps,
            closed_gaps: Vec::new(),
            cut_open: Vec::new(),
            cut_ms: context.now,
            flight: Flight::Nothing,
            idle: Idleness::begin(context.now),
        };
        reading.cut_open = reading.first_open(context.monitors);
        reading
    }

    // --- rows --------------------------------------------------------------------------------------

    pub(super) fn read(&mut self, batch: Batch<'_>, context: &Context<'_>) -> Vec<Assigned> {
        if !self.open_gaps.is_empty() {
            self.close_gaps(batch.rows, batch.first, context.monitors);
        }
        self.next_offset = batch.next_offset;
        self.leader_epoch = batch.leader_epoch;
        self.idle.on_message(context.now);
        self.tally_bytes += batch.tally.bytes();
        self.tally.add(batch.tally);
        let monitors = context.monitors.iter().zip(&mut self.windows);
        let add = |(monitor, windows): (&MonitorPlan, &mut OpenWindows)| {
            let event_ms = &batch.rows.event_ms[monitor.clock];
            windows.add(monitor, batch.rows, event_ms, context.partition, self.hash)
        };
        monitors.map(add).collect()
    }

    /// The first message behind gaps says where they end: a row that is missing has a timestamp of
    /// its own not after this one's, and an event time at most `max_future` ahead of that.
    fn close_gaps(
        &mut self,
        rows: &Rows,
        (offset, record_ms): (i64, Option<i64>),
        monitors: &[MonitorPlan],
    ) {
        let rows_of_first = rows.batch.origins.iter();
        let rows_of_first = rows_of_first.take_while(|row| row.offset == offset).count();
        for gap in std::mem::take(&mut self.open_gaps) {
            let mut monitors = monitors.iter();
            let Some(monitor) = monitors.find(|one| one.monitor_id == gap.monitor_id) else {
                continue; // an earlier revision's: no row will count for it any more
            };
            let events = rows.event_ms[monitor.clock].iter();
            let events = events.take(rows_of_first).copied();
            let latest = record_ms.max(events.filter(|ms| *ms != NO_TIME).max());
            let spec = &monitor.spec;
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

    // --- memory ------------------------------------------------------------------------------------

    fn windows_bytes(&self) -> usize {
        self.windows.iter().map(OpenWindows::bytes).sum()
    }

    /// Bytes that a checkpoint would hand to the saver, about.
    pub fn freeable(&self) -> usize {
        self.windows_bytes().saturating_sub(self.base_bytes) + self.tally_bytes
    }

    pub(super) fn held(&self) -> usize {
        let on_the_way = match self.flight {
            Flight::Nothing => 0,
            // Profiles become smaller when they are encoded, never larger.
            Flight::Identifying { bytes, .. } | Flight::Saving { bytes } => bytes,
        };
        self.windows_bytes() + self.tally_bytes + on_the_way
    }

    /// Whether a stretch or a question is on its way to Postgres.
    pub fn is_in_flight(&self) -> bool {
        !matches!(self.flight, Flight::Nothing)
    }

    /// Whether a stretch is with the saver: the brokers have said that it may be saved.
    pub fn is_saving(&self) -> bool {
        matches!(self.flight, Flight::Saving { .. })
    }

    /// Whether something was read that is not on its way to Postgres.
    pub fn has_unsaved(&self) -> bool {
        self.next_offset > self.first_offset
    }

    /// Whether so much is held that a checkpoint should not wait for its time.
    pub fn is_full(&self, context: &Context<'_>) -> bool {
        let most = context.policy.max_open_windows;
        self.freeable() >= context.policy.max_checkpoint_bytes
            || self.windows.iter().any(|windows| windows.len() > most)
    }

    /// How many windows are open, and the watermark, per monitor.
    pub fn progress<'a>(
        &'a self,
        monitors: &'a [MonitorPlan],
    ) -> impl Iterator<Item = (usize, Option<i64>)> + 'a {
        let monitors = monitors.iter().zip(&self.windows);
        monitors.map(|(monitor, windows)| {
            let greatest = windows.progress.max_event_ms;
            let watermark = greatest.map(|max| monitor.spec.watermark(max));
            (windows.len(), watermark)
        })
    }

    // --- events ------------------------------------------------------------------------------------

    pub(super) fn on(
        mut self: Box<Self>,
        event: Event<'_>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        match event {
            Event::Topic { topic, .. } if self.is_other_topic(topic) => {
                tracing::warn!(
                    topic = context.topic,
                    partition = context.partition,
                    "the topic was deleted and created again: what was read since the last checkpoint is dropped"
                );
                return Partition::restart(false, effects);
            }
            Event::Topic { number, .. } => self.on_topic(number, effects),
            Event::Log { log, position } if !self.on_log(log.as_ref(), position, context.now) => {
                tracing::warn!(
                    topic = context.topic,
                    partition = context.partition,
                    "what should be read next is not in the log"
                );
                return Partition::restart(false, effects);
            }
            Event::Saved { next_offset } => self.on_saved(next_offset, effects),
            Event::Fenced => {
                // If the group still says that it is ours, the other replica is the zombie.
                effects.push(Effect::Pause);
                return Partition::fence(false, effects);
            }
            Event::FetchStopped => {
                tracing::warn!(
                    topic = context.topic,
                    partition = context.partition,
                    "the client has stopped fetching the partition"
                );
                return Partition::restart(true, effects);
            }
            Event::Tick { pressure } => self.on_tick(pressure, context, effects),
            _ => {}
        }
        Partition::Reading(self)
    }

    pub(super) fn leave(
        mut self: Box<Self>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        self.save_rest(context, effects);
        self.left(effects)
    }

    pub(super) fn on_leaving(
        mut self: Box<Self>,
        event: Event<'_>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        match event {
            Event::Topic { topic, .. } if self.is_other_topic(topic) => {
                return Partition::gone(effects);
            }
            Event::Topic { number, .. } => self.on_topic(number, effects),
            Event::Saved { next_offset } => self.on_saved(next_offset, effects),
            // What Postgres refuses is read again by whoever comes next.
            Event::Fenced | Event::Unreadable(_) => return Partition::gone(effects),
            _ => {}
        }
        self.save_rest(context, effects);
        self.left(effects)
    }

    fn save_rest(&mut self, context: &Context<'_>, effects: &mut Vec<Effect>) {
        if self.has_unsaved() && !self.is_in_flight() {
            self.cut(context, effects);
        }
    }

    fn left(self: Box<Self>, effects: &mut Vec<Effect>) -> Partition {
        match self.is_in_flight() {
            true => Partition::Leaving(self),
            false => Partition::gone(effects),
        }
    }

    fn is_other_topic(&self, topic: &Topic) -> bool {
        self.log.is_other_topic(topic.id.as_deref())
    }

    /// The topic is still the one that was read: what was read before the question may be saved.
    fn on_topic(&mut self, number: u64, effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.flight, Flight::Nothing) {
            Flight::Identifying {
                checkpoint,
                question,
                bytes,
            } if question <= number => {
                effects.push(Effect::Save(checkpoint));
                self.flight = Flight::Saving { bytes };
            }
            flight => self.flight = flight,
        }
    }

    fn on_saved(&mut self, next_offset: i64, effects: &mut Vec<Effect>) {
        if matches!(self.flight, Flight::Saving { .. }) {
            self.flight = Flight::Nothing;
            effects.push(Effect::Commit(next_offset));
        }
    }

    fn on_tick(
        &mut self,
        pressure: Option<usize>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        // A clock that was set back must not put off what is due.
        self.cut_ms = self.cut_ms.min(context.now);
        self.idle.not_after(context.now);
        let pressed = pressure.is_some_and(|share| self.freeable() >= share);
        if !self.is_in_flight() {
            if self.is_due(context) || (pressed && self.has_unsaved()) {
                self.cut(context, effects);
                self.forget(pressure.is_some(), context, effects);
            } else if context.now - self.cut_ms >= context.policy.max_interval_ms {
                // A checkpoint would have found out whether Postgres has what it said it has.
                self.cut_ms = context.now;
                self.flight = Flight::Saving { bytes: 0 };
                effects.push(Effect::Confirm {
                    epoch: self.epoch,
                    next_offset: self.first_offset,
                });
            }
        }
        if context.now >= self.idle.question_ms(context.monitors, context.now) {
            self.idle.ask(self.next_offset, context.now);
            effects.push(Effect::AskLog {
                since_ms: None,
                read: None,
            });
        }
    }

    /// Takes in where the log begins and ends. False: what should be read next is not in it.
    fn on_log(&mut self, log: Option<&Log>, client: Option<Position>, now: i64) -> bool {
        let read = (self.next_offset, self.leader_epoch);
        match self.idle.on_log(log, read, client, now) {
            Found::Lost => return false,
            Found::Busy => {}
            Found::Idle(reached) => (self.next_offset, self.leader_epoch) = reached,
        }
        true
    }

    // --- checkpoints -------------------------------------------------------------------------------

    /// Whether the stretch has to be saved now.
    fn is_due(&self, context: &Context<'_>) -> bool {
        if self.idle.is_news(context.monitors) {
            return true;
        }
        self.has_unsaved()
            && (context.now >= self.interval_ends_ms(context)
                || self.is_full(context)
                || self.first_open(context.monitors) != self.cut_open)
    }

    fn interval_ends_ms(&self, context: &Context<'_>) -> i64 {
        let sizes = context.monitors.iter().map(|monitor| monitor.spec.size_ms);
        let shortest = sizes.min().unwrap_or(0);
        let policy = context.policy;
        self.cut_ms + (shortest / 100).clamp(policy.min_interval_ms, policy.max_interval_ms)
    }

    pub(super) fn wake_ms(&self, context: &Context<'_>) -> i64 {
        let checkpoint = match self.is_in_flight() {
            true => i64::MAX,
            false if self.is_due(context) => context.now,
            false if self.has_unsaved() => self.interval_ends_ms(context),
            false => self.cut_ms.saturating_add(context.policy.max_interval_ms),
        };
        checkpoint.min(self.idle.wake_ms(context.monitors, context.now))
    }

    fn first_open(&self, monitors: &[MonitorPlan]) -> Vec<Option<i64>> {
        let monitors = monitors.iter().zip(&self.windows);
        monitors
            .map(|(monitor, windows)| windows.progress.first_open(&monitor.spec))
            .collect()
    }

    /// Cuts the stretch off: what it added is saved, memory starts empty again.
    fn cut(&mut self, context: &Context<'_>, effects: &mut Vec<Effect>) {
        reached(Failpoint::BeforeCut);
        let bytes = self.freeable();
        let deltas = self.cut_windows(context, effects);
        let tally = std::mem::take(&mut self.tally);
        self.tally_bytes = 0;
        let idle = self.idle.stands();
        let checkpoint = Box::new(Checkpoint {
            topic: context.topic.to_owned(),
            partition: context.partition,
            epoch: self.epoch,
            first_offset: self.first_offset,
            next_offset: self.next_offset,
            leader_epoch: self.leader_epoch,
            generation: self.log.generation,
            count: None,
            closed_gaps: std::mem::take(&mut self.closed_gaps),
            messages: tally.messages,
            rejected_messages: tally.rejected_messages,
            skipped: tally.skipped,
            rejected: tally.rejected,
            max_event_times: self.max_event_times(context.monitors),
            deltas,
            idle_since: idle.map(|(since, _)| since),
            idle_confirmed_at: idle.map(|(_, confirmed)| confirmed),
            was_idle: self.idle.was_idle(),
        });
        self.idle.tell();
        self.first_offset = self.next_offset;
        self.cut_open = self.first_open(context.monitors);
        self.cut_ms = context.now;
        self.base_bytes = self.windows_bytes();
        self.flight = if checkpoint.messages > 0 || idle.is_some() {
            effects.push(Effect::AskTopic);
            Flight::Identifying {
                checkpoint,
                question: context.next_topic_question,
                bytes,
            }
        } else {
            effects.push(Effect::Save(checkpoint));
            Flight::Saving { bytes }
        };
        reached(Failpoint::Cut);
    }

    fn cut_windows(&mut self, context: &Context<'_>, effects: &mut Vec<Effect>) -> Vec<Added> {
        let mut added = Vec::new();
        let monitors = context.monitors.iter().zip(&mut self.windows);
        for (i, (monitor, windows)) in monitors.enumerate() {
            let deltas = windows.cut(monitor);
            let full = deltas.iter().filter(|delta| delta.profile.is_capped());
            if let more @ 1.. = full.count() as u64 {
                effects.push(Effect::Capped {
                    monitor: i,
                    cap: "unseen_levels",
                    more,
                });
            }
            added.extend(deltas.into_iter().map(|delta| Added {
                monitor_id: monitor.monitor_id,
                keeps_up: delta.profile.rows > 0 && context.now < delta.due_ms,
                delta,
            }));
        }
        added
    }

    /// What open windows keep between stretches saves work and changes no result, so that it is dropped
    /// where there are too many of them, or memory is short.
    fn forget(&mut self, all: bool, context: &Context<'_>, effects: &mut Vec<Effect>) {
        for (monitor, windows) in self.windows.iter_mut().enumerate() {
            let too_many = windows.len() > context.policy.max_open_windows;
            if too_many {
                effects.push(Effect::Capped {
                    monitor,
                    cap: "max_open_windows",
                    more: 1,
                });
            }
            if all || too_many {
                windows.forget();
            }
        }
        self.base_bytes = self.windows_bytes();
    }

    /// The greatest event time so far, per monitor.
    fn max_event_times(&self, monitors: &[MonitorPlan]) -> Vec<(i64, DateTime<Utc>)> {
        let times = monitors.iter().zip(&self.windows);
        times
            .filter_map(|(monitor, windows)| {
                let max = DateTime::from_timestamp_millis(windows.progress.max_event_ms?)?;
                Some((monitor.monitor_id, max))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulation::{One, log, topic};
    use super::*;

    fn told(one: &mut One, now: i64) -> Option<Option<i64>> {
        let effects = one.tick(now);
        let question = one.next_topic_question;
        let asks = effects.iter().any(|e| matches!(e, Effect::AskTopic));
        let mut saved = effects;
        if asks {
            let number = question;
            saved = one.tell(
                Event::Topic {
                    number,
                    topic: &topic(),
                },
                now,
            );
        }
        let checkpoint = saved.into_iter().find_map(|effect| match effect {
            Effect::Save(checkpoint) => Some(checkpoint),
            _ => None,
        })?;
        let next_offset = checkpoint.next_offset;
        one.tell(Event::Saved { next_offset }, now);
        let confirmed = checkpoint.idle_confirmed_at;
        Some(confirmed.map(|at| at.timestamp_millis()))
    }

    fn asks_log(effects: &[Effect]) -> bool {
        effects.iter().any(|e| matches!(e, Effect::AskLog { .. }))
    }

    fn hear(one: &mut One, log: Option<Log>, now: i64) {
        one.tell(
            Event::Log {
                log,
                position: None,
            },
            now,
        );
    }

    /// Windows of a minute, idle after a minute: they close on the minute, and are due on it too.
    #[test]
    fn idleness_is_confirmed_in_postgres_whenever_the_clock_closes_a_window() {
        let mut one = One::reading();
        assert!(!asks_log(&one.tick(59_999)));
        assert!(asks_log(&one.tick(70_000)));
        hear(&mut one, log(0, 0), 70_000);
        assert_eq!(told(&mut one, 70_001), Some(Some(70_000)));
        assert!(!asks_log(&one.tick(84_999)), "it was asked just now");
        assert!(asks_log(&one.tick(85_000)));
        hear(&mut one, log(0, 0), 85_000);
        assert_eq!(told(&mut one, 85_001), None, "no window closed");
        assert!(asks_log(&one.tick(119_000)));
        hear(&mut one, log(0, 0), 119_000);
        assert_eq!(told(&mut one, 119_001), None);
        assert!(asks_log(&one.tick(120_000)), "one closes now");
        hear(&mut one, log(0, 0), 120_000);
        assert_eq!(told(&mut one, 120_001), Some(Some(120_000)));
        // Nobody answers, or there is more to read: that is news, and confirms nothing.
        assert!(asks_log(&one.tick(181_000)));
        hear(&mut one, None, 181_000);
        assert_eq!(told(&mut one, 181_000), Some(None));
        assert!(asks_log(&one.tick(190_000)));
        hear(&mut one, log(0, 1), 190_000);
        assert_eq!(told(&mut one, 190_001), None);
    }

    #[test]
    fn what_is_set_aside_is_held_until_it_is_saved() {
        let mut one = One::reading();
        one.policy.max_checkpoint_bytes = 64 << 10;
        let empty = one.partition.held();
        let rejected = vec!["x".repeat(1_000); 100];
        one.read(&rejected, 0);
        let held = one.partition.held() - empty;
        assert!((100_000..200_000).contains(&held), "{held}");
        let effects = one.tick(0);
        assert!(
            effects.iter().any(|e| matches!(e, Effect::AskTopic)),
            "it is full"
        );
        let reading = one.partition.reading().unwrap();
        assert_eq!(reading.freeable(), 0);
        assert_eq!(one.partition.held() - empty, held, "it is on its way");
        let number = one.next_topic_question;
        one.tell(
            Event::Topic {
                number,
                topic: &topic(),
            },
            0,
        );
        one.tell(Event::Saved { next_offset: 100 }, 0);
        assert_eq!(one.partition.held(), empty);
    }

    #[test]
    fn windows_of_late_rows_are_held_and_cost_little() {
        let mut one = One::reading();
        let hour = 3_600_000;
        let at = |hours: i64| format!(r#"{{"t": {}}}"#, hours * hour);
        one.read(&[at(100)], 0);
        let before = one.partition.held();
        let late: Vec<String> = (0..100).map(at).collect();
        one.read(&late, 0);
        let held = one.partition.held() - before;
        assert!((10_000..50_000).contains(&held), "{held}");
        one.tick(0);
        let number = one.next_topic_question;
        let effects = one.tell(
            Event::Topic {
                number,
                topic: &topic(),
            },
            0,
        );
        let checkpoint = effects.into_iter().find_map(|effect| match effect {
            Effect::Save(checkpoint) => Some(checkpoint),
            _ => None,
        });
        let deltas = checkpoint.unwrap().deltas;
        let late: u64 = deltas.iter().map(|added| added.delta.late).sum();
        assert_eq!((deltas.len(), late), (101, 100));
        one.tell(Event::Saved { next_offset: 101 }, 0);
        assert!(one.partition.held() < before + 10_000, "they are gone");
    }
}
