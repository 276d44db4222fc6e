//! Lines of windows without a daemon: a monitor with windows of a day, partitions that are read by
//! hand, and a judge that says of every window that it is stable.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use driftd::store::checkpoints::{self, Checkpoint, Delta, Outcome};
use driftd::store::monitors;
use driftd::store::partitions::{self, Takeover};
use driftd::store::ripe::{self, Claimed, Ripeness};
use driftd::store::topics::{self, Count};
use driftd::store::windows::{self, Next, Window};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::monitors::streaming;
use super::postgres::{self, TestDb};
use super::until;

/// The topic of the harness's monitors.
pub(crate) const TOPIC: &str = "inputs";
const DAY_MS: i64 = 86_400_000;
/// The monitor's `idle_after`.
const IDLE_AFTER_MS: i64 = 60_000;

/// The start of a window, by its number.
pub(crate) fn day(number: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(number * DAY_MS).unwrap()
}

/// When the clock judges a window.
pub(crate) fn due(number: i64) -> DateTime<Utc> {
    day(number + 1) + TimeDelta::milliseconds(IDLE_AFTER_MS)
}

pub(crate) fn number_of(start: DateTime<Utc>) -> i64 {
    start.timestamp_millis() / DAY_MS
}

/// A stretch of a partition: which windows its rows are for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stretch {
    /// Version and day of each row that counts.
    pub(crate) rows: Vec<(&'static str, i64)>,
    /// Of each that comes too late.
    pub(crate) late: Vec<(&'static str, i64)>,
    /// Messages that no monitor could use.
    pub(crate) rejected: i64,
    pub(crate) is_idle: bool,
    pub(crate) was_idle: bool,
    /// When it was confirmed that it is idle; `None`: after all that happens.
    pub(crate) confirmed: Option<DateTime<Utc>>,
    /// Its rows are read before their windows are due by the clock.
    pub(crate) keeps_up: bool,
}

impl Stretch {
    pub(crate) fn of(days: &[i64]) -> Self {
        Self {
            rows: days.iter().map(|day| ("1", *day)).collect(),
            ..Self::default()
        }
    }

    /// No row comes, and the brokers confirm it at this time.
    pub(crate) fn idle(confirmed: DateTime<Utc>) -> Self {
        Self {
            is_idle: true,
            was_idle: true,
            confirmed: Some(confirmed),
            ..Self::default()
        }
    }

    fn messages(&self) -> i64 {
        i64::try_from(self.rows.len() + self.late.len()).unwrap() + self.rejected
    }
}

/// A monitor and its topic.
pub(crate) struct Lines {
    pub(crate) db: TestDb,
    pub(crate) monitor_id: i64,
    /// Empty windows that are judged one after the other.
    pub(crate) longest_silence: i32,
    /// The judge's clock.
    pub(crate) now: DateTime<Utc>,
    /// Epoch and next offset of each partition.
    read: Vec<(i64, i64)>,
    greatest: Vec<Option<i64>>,
}

/// So many partitions has the topic.
pub(crate) fn count(partitions: i32) -> Count {
    Count {
        topic: TOPIC.to_owned(),
        topic_id: None,
        partitions,
    }
}

impl Lines {
    /// A topic whose partitions are taken over and not read.
    pub(crate) async fn of(partitions: i32) -> Self {
        let db = postgres::fresh().await;
        let mut transaction = db.pool.begin().await.unwrap();
        let monitor = monitors::register(&mut transaction, &streaming("days"))
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        let mut lines = Self {
            db,
            monitor_id: monitor.monitor_id,
            longest_silence: ripe::LONGEST_SILENCE,
            now: day(1_000_000),
            read: Vec::new(),
            greatest: Vec::new(),
        };
        topics::note(&lines.db.pool, &count(partitions))
            .await
            .unwrap();
        for _ in 0..partitions {
            lines.add_partition().await;
        }
        lines
    }

    /// Takes one more partition over.
    pub(crate) async fn add_partition(&mut self) {
        let partition = i32::try_from(self.read.len()).unwrap();
        let taken = take_over(&self.db.pool, TOPIC, partition, "test").await;
        self.read.push((taken.epoch, 0));
        self.greatest.push(None);
    }

    /// The next checkpoint of a partition.
    pub(crate) fn checkpoint(&mut self, partition: usize, stretch: &Stretch) -> Checkpoint {
        let (epoch, first_offset) = self.read[partition];
        let next_offset = first_offset + stretch.messages();
        self.read[partition].1 = next_offset;
        let newest = stretch.rows.iter().map(|(_, day)| *day).max();
        self.greatest[partition] = self.greatest[partition].max(newest);
        let mut windows: BTreeMap<(&str, i64), (i64, i64)> = BTreeMap::new();
        for key in &stretch.rows {
            windows.entry(*key).or_default().0 += 1;
        }
        for key in &stretch.late {
            windows.entry(*key).or_default().1 += 1;
        }
        let delta = |((version, at), (rows, late)): ((&str, i64), (i64, i64))| Delta {
            monitor_id: self.monitor_id,
            version: version.to_owned(),
            window_start: day(at),
            window_end: day(at + 1),
            baseline_id: None,
            first_offset,
            next_offset,
            rows,
            late,
            keeps_up: stretch.keeps_up && rows > 0,
            delta: (rows > 0).then(|| vec![1]),
        };
        Checkpoint {
            leader_epoch: None,
            topic: TOPIC.to_owned(),
            partition: i32::try_from(partition).unwrap(),
            epoch,
            first_offset,
            next_offset,
            generation: 1,
            count: None,
            closed_gaps: Vec::new(),
            messages: stretch.messages(),
            rejected_messages: stretch.rejected,
            skipped: 0,
            rejected: Vec::new(),
            max_event_times: self.greatest[partition]
                .map(|newest| (self.monitor_id, day(newest)))
                .into_iter()
                .collect(),
            deltas: windows.into_iter().map(delta).collect(),
            idle_since: stretch.is_idle.then(|| day(0)),
            idle_confirmed_at: stretch
                .is_idle
                .then(|| stretch.confirmed.unwrap_or(day(1_000_000))),
            was_idle: stretch.was_idle,
        }
    }

    /// Reads a stretch of a partition and saves it.
    pub(crate) async fn read(&mut self, partition: usize, stretch: &Stretch) {
        let checkpoint = self.checkpoint(partition, stretch);
        save(&self.db.pool, &checkpoint).await;
    }

    fn ripeness(&self) -> Ripeness {
        Ripeness {
            monitor_id: self.monitor_id,
            topic: TOPIC.to_owned(),
            longest_ms: DAY_MS,
            reach_ms: 0,
            close_ms: 0,
            due_ms: IDLE_AFTER_MS,
            every_ms: DAY_MS,
        }
    }

    /// Claims the next ripe window of some line in a transaction.
    pub(crate) async fn claim(&self, connection: &mut PgConnection) -> Option<Claimed> {
        let (ripeness, silence, now) = (self.ripeness(), self.longest_silence, self.now);
        let ours = std::slice::from_ref(&ripeness);
        let found = ripe::candidates(connection, ours, silence, now).await;
        for one in found.unwrap() {
            let claimed = ripe::claim(connection, &ripeness, &one.version, silence, now).await;
            if let Some(claimed) = claimed.unwrap() {
                return Some(claimed);
            }
        }
        None
    }

    /// Judges the next ripe window; returns its version and its day.
    pub(crate) async fn judge(&self) -> Option<(String, i64)> {
        let mut transaction = self.db.pool.begin().await.unwrap();
        let claimed = self.claim(&mut transaction).await?;
        say(&mut transaction, &claimed).await;
        transaction.commit().await.unwrap();
        Some((claimed.version, number_of(claimed.window_start)))
    }

    /// Judges all that is ripe.
    pub(crate) async fn judge_all(&self) -> Vec<i64> {
        let mut judged = Vec::new();
        while let Some((_, day)) = self.judge().await {
            judged.push(day);
        }
        judged
    }
}

/// Takes a partition over; one that was never read begins at its first message.
pub(crate) async fn take_over(pool: &PgPool, topic: &str, partition: i32, owner: &str) -> Takeover {
    let taken = partitions::take_over(pool, topic, &[partition], owner).await;
    let begin = "update driftd.partition_progress set next_offset = 0, first_offset = 0
        where topic = $1 and partition = $2 and next_offset < 0";
    let begun = sqlx::query(begin).bind(topic).bind(partition).execute(pool);
    begun.await.unwrap();
    taken.unwrap().remove(0)
}

pub(crate) async fn save(pool: &PgPool, checkpoint: &Checkpoint) {
    let saved = checkpoints::save(pool, checkpoint).await.unwrap();
    assert_eq!(saved, Outcome::Saved);
}

/// What the judge does with a claimed window, but for comparing; returns its rows.
pub(crate) async fn say(connection: &mut PgConnection, claimed: &Claimed) -> i64 {
    let deltas = windows::deltas(connection, claimed).await.unwrap();
    let rows = deltas.iter().map(|delta| delta.rows).sum();
    let end = day(number_of(claimed.window_start) + 1);
    let window = Window {
        monitor_id: claimed.monitor_id,
        version: claimed.version.clone(),
        window_start: claimed.window_start,
        window_end: end,
        baseline_id: None,
        rows,
        late: deltas.iter().map(|delta| delta.late).sum(),
        by_clock: claimed.by_clock,
        verdict: if claimed.incomplete {
            "incomplete"
        } else {
            "stable"
        },
        decided_by: "none",
        training_windows: 0,
        features: 0,
        drifted_features: 0,
        drifted_share: 0.0,
        top_features: json!([]),
        offsets: if rows > 0 {
            json!([{"partition": 0}])
        } else {
            json!([])
        },
        answers: None,
    };
    windows::save(connection, &window, &[], None).await.unwrap();
    let next = Next {
        start: end,
        end: day(number_of(end) + 1),
        silence: if rows > 0 { 0 } else { claimed.silence + 1 },
        unknown_start: None,
        state: claimed.state.clone(),
    };
    windows::advance(connection, claimed, &next).await.unwrap();
    rows
}

/// Waits until somebody waits for a row that another transaction has locked.
pub(crate) async fn somebody_waits(pool: &PgPool) {
    until("a lock is waited for", async || {
        let sql = "select exists (select from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock')";
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    })
    .await;
}
