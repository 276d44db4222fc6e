//! One partition while this replica reads it: what was read since the last checkpoint, when that is
//! due, and what it holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use chrono::DateTime;
use rdkafka::message::{BorrowedMessage, Message as _};

use super::consumer::{self, TopicPartition};
use super::plan::TopicPlan;
use super::stretch::{BATCH_ROWS, Message, Stretch, Taken};
use crate::profile::sample::RowHash;
use crate::save::Unsaved;
use crate::settings::{Checkpoint, Limits};
use crate::store::partitions;
use crate::telemetry::metrics;
use crate::window::open::OpenWindows;

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
    /// Messages below it were read in this stretch or before; `-1` until it was taken over.
    pub next_offset: i64,
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
    /// When the broker was last asked whether it is caught up.
    pub idle_asked_ms: i64,
    /// Postgres knows it as idle.
    pub told_idle: bool,
    /// Windows may have been judged without it: it was idle, or we do not know what it was.
    pub was_idle: bool,
    /// It is not paused any more since it was taken over.
    pub resumed: bool,
    /// The group has given it to somebody else.
    pub revoked: bool,
    /// Bytes held, about.
    pub held: usize,
}

/// Whether a partition is read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for Postgres to fence whoever had it.
    Taking,
    /// Being read, under this epoch.
    Reading {
        /// What Postgres has to have for a checkpoint to be accepted.
        epoch: i64,
    },
}

impl Partition {
    /// A partition that the group has just assigned: nothing is known of it yet.
    pub fn new(plan: &Arc<TopicPlan>, hash: RowHash, turn: u64, now: i64) -> Self {
        Self {
            stretch: Stretch::new(plan),
            windows: Vec::new(),
            plan: Arc::clone(plan),
            turn,
            phase: Phase::Taking,
            hash,
            next_offset: -1,
            saved_offset: -1,
            first_offset: -1,
            saved_open: Vec::new(),
            saving: false,
            saved_ms: now,
            last_message_ms: now,
            idle_since_ms: None,
            idle_asked_ms: 0,
            told_idle: false,
            was_idle: true,
            resumed: false,
            revoked: false,
            held: 0,
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
        limits: &Limits,
        now: i64,
    ) -> Result<(), ArrowError> {
        let reading = matches!(self.phase, Phase::Reading { .. }) && !self.revoked;
        // Before the seek, and after a seek backwards, other messages may still be on their way.
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
            limits.max_message_bytes,
        );
        self.next_offset = message.offset() + 1;
        if let Taken::Rejected(reason) = taken {
            metrics::rejected_messages(&key.topic, reason.as_str(), 1);
        }
        self.last_message_ms = now;
        self.idle_since_ms = None;
        if self.stretch.waiting() >= self.plan.plan.batch_rows(BATCH_ROWS) {
            self.hand_on(key, limits)?;
        }
        Ok(())
    }

    /// Not ours any more, and nothing of it is left to save.
    pub fn is_done(&self) -> bool {
        self.revoked && !self.saving && !self.has_unsaved()
    }

    /// Starts reading at an offset, with the event times stored.
    pub fn begin(&mut self, taken: &partitions::Taken, offset: i64, now: i64) {
        self.phase = Phase::Reading { epoch: taken.epoch };
        self.next_offset = offset;
        self.first_offset = offset;
        self.saved_offset = taken.next_offset.unwrap_or(-1);
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
    pub fn hand_on(&mut self, key: &TopicPartition, limits: &Limits) -> Result<(), ArrowError> {
        if self.stretch.waiting() == 0 {
            return Ok(());
        }
        let rows = self.stretch.finish();
        for (i, monitor) in self.plan.monitors.iter().enumerate() {
            let event_ms = &rows.event_ms[i];
            let added = self.windows[i].add(monitor, &rows, event_ms, key.partition, self.hash)?;
            metrics::counted_rows(&monitor.name, added.counted);
            metrics::late_rows(&monitor.name, added.late);
            if self.windows[i].versions() > limits.max_versions {
                metrics::capped(&monitor.name, "max_versions", 1);
            }
        }
        self.held = self.windows.iter().map(OpenWindows::bytes).sum();
        Ok(())
    }

    /// Whether it is time to ask if the partition is caught up and quiet.
    pub fn idle_due(&self, now: i64) -> bool {
        let after = self
            .plan
            .monitors
            .iter()
            .map(|monitor| monitor.spec.idle_after_ms)
            .max();
        let after = after.unwrap_or(i64::MAX);
        matches!(self.phase, Phase::Reading { .. })
            && self.idle_since_ms.is_none()
            && now - self.last_message_ms >= after
            && now - self.idle_asked_ms >= after.clamp(200, 5_000)
    }

    /// Whether something was read that is not on its way to Postgres.
    pub fn has_unsaved(&self) -> bool {
        let read = self.next_offset > self.first_offset;
        matches!(self.phase, Phase::Reading { .. }) && read
    }

    /// Whether the stretch has to be saved now.
    pub fn is_due(&mut self, now: i64, checkpoint: &Checkpoint, limits: &Limits) -> bool {
        let reading = matches!(self.phase, Phase::Reading { .. });
        if !reading || self.saving {
            return false;
        }
        let went_idle = self.idle_since_ms.is_some() && !self.told_idle;
        if !self.has_unsaved() {
            return went_idle;
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
        let full = self.held as u64 >= checkpoint.max_bytes || too_many;
        let ripe = self.first_open() != self.saved_open;
        let age = u128::from((now - self.saved_ms).unsigned_abs());
        self.revoked || went_idle || full || ripe || age >= interval.as_millis()
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

    /// Cuts the stretch off: what it added goes to the saver, memory starts empty again.
    pub fn cut(&mut self, key: &TopicPartition, now: i64) -> Option<Unsaved> {
        let Phase::Reading { epoch } = self.phase else {
            return None;
        };
        let deltas = self
            .plan
            .monitors
            .iter()
            .zip(&mut self.windows)
            .flat_map(|(monitor, windows)| {
                windows
                    .cut(monitor)
                    .into_iter()
                    .map(|delta| (monitor.monitor_id, delta))
            })
            .collect();
        let times = self.plan.monitors.iter().zip(&self.windows);
        let max_event_times = times
            .filter_map(|(monitor, windows)| {
                let max = DateTime::from_timestamp_millis(windows.progress.max_event_ms?)?;
                Some((monitor.monitor_id, max))
            })
            .collect();
        let stretch = &mut self.stretch;
        let unsaved = Unsaved {
            key: key.clone(),
            epoch,
            expected_offset: self.saved_offset,
            first_offset: self.first_offset,
            next_offset: self.next_offset,
            messages: std::mem::take(&mut stretch.messages),
            rejected_messages: std::mem::take(&mut stretch.rejected_messages),
            skipped: std::mem::take(&mut stretch.skipped),
            rejected: std::mem::take(&mut stretch.rejected),
            max_event_times,
            deltas,
            idle_since: self.idle_since_ms.and_then(DateTime::from_timestamp_millis),
            was_idle: self.was_idle,
        };
        metrics::records(&key.topic, unsaved.messages.unsigned_abs());
        metrics::skipped_messages(&key.topic, unsaved.skipped.unsigned_abs());
        self.told_idle = self.idle_since_ms.is_some();
        self.was_idle = self.told_idle;
        self.first_offset = self.next_offset;
        self.saved_offset = self.next_offset;
        self.saved_open = self.first_open();
        self.saved_ms = now;
        self.saving = true;
        self.held = self.windows.iter().map(OpenWindows::bytes).sum();
        Some(unsaved)
    }
}
