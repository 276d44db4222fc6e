//! Sends the stream and shows what driftd makes of it, from the tables that a user would look at.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::flights::{self, Planted};
use super::{PARTITIONS, TOPIC};

/// Flights from April to December, for the progress bar.
const FLIGHTS: u64 = 255_987;
/// The broker keeps 5 MiB a partition: the producer stays at most so many messages ahead.
const AHEAD: i64 = 40_000;

/// With training: so few that a drift is seen before much more of the stream is sent; about two weeks.
const AHEAD_OF_JUDGING: i64 = 12_000;

/// How far the stream is sent and read.
#[derive(Debug, Default)]
struct Pace {
    sent: AtomicU64,
    read: AtomicI64,
    stop: AtomicBool,
    /// No flight leaves: a version is being trained.
    hold: AtomicBool,
    /// The version in service; `None`: messages name none.
    version: Mutex<Option<String>>,
}

impl Pace {
    fn version(&self) -> Option<String> {
        let version = self.version.lock();
        version.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_ahead(&self, number: u64) -> bool {
        let limit = match self.version() {
            Some(_) => AHEAD_OF_JUDGING,
            None => AHEAD,
        };
        let ahead = i64::try_from(number).unwrap_or(i64::MAX) - self.read.load(Ordering::SeqCst);
        ahead > limit || self.hold.load(Ordering::SeqCst)
    }
}

/// What the fleet of a user does: waits while a version is being trained, and serves the new one once it
/// is promoted and driftd has taken its baseline up.
#[derive(Debug, Default)]
struct Fleet {
    /// How often partitions were taken over before the training.
    taken_over: Option<i64>,
}

impl Fleet {
    async fn follow(&mut self, pool: &PgPool, pace: &Pace) -> anyhow::Result<()> {
        let (is_open, promoted, least, most): (bool, Option<String>, i64, i64) = sqlx::query_as(
            "select exists (select from driftd.retraining_jobs where model = 'flight-delay'
                    and finished_at is null),
                (select version from driftd.model_versions
                    where model = 'flight-delay' and stage = 'promoted'),
                coalesce(min(epoch), 0), coalesce(max(epoch), 0)
            from driftd.partition_progress",
        )
        .fetch_one(pool)
        .await?;
        let is_new = promoted.is_some() && promoted != pace.version();
        if is_open && self.taken_over.is_none() {
            self.taken_over = Some(most);
        }
        let is_taken_up = self.taken_over.is_none_or(|before| least > before);
        let hold = is_open || (is_new && !is_taken_up);
        if !hold {
            self.taken_over = None;
            *pace.version.lock().unwrap_or_else(PoisonError::into_inner) = promoted;
        }
        pace.hold.store(hold, Ordering::SeqCst);
        Ok(())
    }
}

/// Sends everything and shows it, until everything is judged; `None` if it was stopped before.
pub(super) async fn until_judged(
    brokers: &str,
    pool: &PgPool,
    stop: &CancellationToken,
    quiet: bool,
    train: bool,
) -> anyhow::Result<Option<Planted>> {
    let pace = Arc::new(Pace {
        version: Mutex::new(train.then(|| "1".to_owned())),
        ..Pace::default()
    });
    let mut fleet = Fleet::default();
    let sending = {
        let (pace, brokers) = (Arc::clone(&pace), brokers.to_owned());
        tokio::task::spawn_blocking(move || send_all(&brokers, &pace))
    };
    let bar = progress_bar(quiet);
    let mut shown = Shown::default();
    let mut planted = None;
    tokio::pin!(sending);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                pace.stop.store(true, Ordering::SeqCst);
                return Ok(None);
            }
            sent = &mut sending, if planted.is_none() => planted = Some(sent??),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        let read: i64 = sqlx::query_scalar(
            "select coalesce(sum(greatest(next_offset, 0)), 0)::bigint from driftd.partition_progress",
        )
        .fetch_one(pool)
        .await?;
        if train {
            fleet.follow(pool, &pace).await?;
            pace.read.store(judged(pool).await?, Ordering::SeqCst);
        } else {
            pace.read.store(read, Ordering::SeqCst);
        }
        bar.set_position(read.unsigned_abs());
        shown.show_new(pool, &bar, quiet, train).await?;
        if let Some(planted) = planted
            && read.unsigned_abs() == planted.messages()
            && is_judged(pool, train).await?
        {
            shown.show_new(pool, &bar, quiet, train).await?;
            bar.finish_and_clear();
            return Ok(Some(planted));
        }
    }
}

fn progress_bar(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(FLIGHTS);
    let style = "[{elapsed_precise}] {wide_bar} {human_pos}/{human_len} rows, {per_sec}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// Messages up to the last judged window, more or less.
async fn judged(pool: &PgPool) -> anyhow::Result<i64> {
    let sql = "select coalesce(sum(rows), 0)::bigint from driftd.windows";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

/// Every window with rows is judged, and the periodic model's job is there.
async fn is_judged(pool: &PgPool, train: bool) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "select not exists (select from driftd.window_cursors where next_start <= last_start)
            and exists (select from driftd.window_cursors)
            and exists (select from driftd.retraining_jobs where model = 'fare-quotes')
            and not exists (select from driftd.retraining_jobs
                where model = 'flight-delay' and state in ('queued', 'running') and $1)",
    )
    .bind(train)
    .fetch_one(pool)
    .await?)
}

fn send_all(brokers: &str, pace: &Pace) -> anyhow::Result<Planted> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("enable.idempotence", "true")
        .create()?;
    let planted = flights::stream(|| pace.version(), |payload| send(&producer, pace, payload))?;
    producer
        .flush(Duration::from_secs(60))
        .context("the last messages were not sent")?;
    Ok(planted)
}

fn send(producer: &BaseProducer, pace: &Pace, payload: Option<Vec<u8>>) -> anyhow::Result<()> {
    let number = pace.sent.fetch_add(1, Ordering::SeqCst);
    if number.is_multiple_of(256) {
        producer.poll(Duration::ZERO);
        while pace.is_ahead(number) {
            anyhow::ensure!(!pace.stop.load(Ordering::SeqCst), "stopped");
            producer.poll(Duration::from_millis(5));
        }
    }
    let partition = i32::try_from(number % PARTITIONS.unsigned_abs() as u64)?;
    let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to(TOPIC).partition(partition);
    if let Some(payload) = &payload {
        record = record.payload(payload);
    }
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                producer.poll(Duration::from_millis(5));
                record = again;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// What has been shown.
#[derive(Debug, Default)]
struct Shown {
    windows: HashSet<(DateTime<Utc>, String)>,
    events: i64,
    jobs: HashSet<i64>,
    versions: HashSet<String>,
}

type WindowLine = (DateTime<Utc>, String, i64, f64, Value, String);
type EventLine = (
    i64,
    String,
    DateTime<Utc>,
    i64,
    String,
    Value,
    String,
    String,
);

impl Shown {
    /// A line per judged window, per alert and per job that is new.
    async fn show_new(
        &mut self,
        pool: &PgPool,
        bar: &ProgressBar,
        quiet: bool,
        train: bool,
    ) -> anyhow::Result<()> {
        if quiet {
            return Ok(());
        }
        let windows: Vec<WindowLine> = sqlx::query_as(
            "select window_start, verdict::text, rows, drifted_share, top_features, version
            from driftd.windows order by window_start, version",
        )
        .fetch_all(pool)
        .await?;
        // Asked for after the windows: an event is never missed, at most shown with the next look.
        let events: Vec<EventLine> = sqlx::query_as(
            "select v.event_id, v.kind, v.window_start, e.episode_id, e.severity, e.top_features, e.version,
                e.kind
            from driftd.alert_events v join driftd.alert_episodes e using (episode_id)
            where v.event_id > $1 and v.kind in ('fired', 'resolved') order by v.event_id",
        )
        .bind(self.events)
        .fetch_all(pool)
        .await?;
        for (start, verdict, rows, share, top, version) in windows {
            if !self.windows.insert((start, version.clone())) {
                continue;
            }
            let day = start.format("%Y-%m-%d");
            let by = match train {
                true => format!("version {version}  "),
                false => String::new(),
            };
            say(
                bar,
                &format!(
                    "{day}  {by}{verdict:<8} {rows:>5} rows  {:>3.0}% of features drifted  moved most: {}",
                    share * 100.0,
                    features(&top)
                ),
            )?;
            for (event, what, at, episode, severity, top, of, about) in &events {
                if *at == start && *of == version {
                    self.events = *event;
                    let about = match about.as_str() {
                        "drift" => features(top),
                        other => other.to_owned(),
                    };
                    say(
                        bar,
                        &format!(">> ALERT {episode} {what} ({severity}) at {day}: {about}"),
                    )?;
                }
            }
        }
        self.show_jobs(pool, bar).await?;
        self.show_versions(pool, bar).await
    }

    async fn show_jobs(&mut self, pool: &PgPool, bar: &ProgressBar) -> anyhow::Result<()> {
        let jobs: Vec<(i64, String, Option<String>, Value)> = sqlx::query_as(
            "select job_id, model, version, reasons from driftd.retraining_jobs order by job_id",
        )
        .fetch_all(pool)
        .await?;
        for (job, model, version, reasons) in jobs {
            if self.jobs.insert(job) {
                let kind = reasons[0]["kind"].as_str().unwrap_or("?").to_owned();
                say(
                    bar,
                    &format!(
                        ">> JOB {job} enqueued: retrain {model}{}, because of: {kind}",
                        version
                            .map(|version| format!(" version {version}"))
                            .unwrap_or_default()
                    ),
                )?;
            }
        }
        Ok(())
    }
}

impl Shown {
    /// A line per version that a job has made.
    async fn show_versions(&mut self, pool: &PgPool, bar: &ProgressBar) -> anyhow::Result<()> {
        let made: Vec<(String, i64, Value, i64, String)> = sqlx::query_as(
            "select version, job_id, metrics, coalesce(baseline_rows, 0), stage
            from driftd.model_lineage where job_id is not null order by created_at",
        )
        .fetch_all(pool)
        .await?;
        for (version, job, metrics, rows, stage) in made {
            if self.versions.insert(version.clone()) {
                let auc = metrics["auc"].as_f64().unwrap_or_default();
                say(
                    bar,
                    &format!(
                        ">> VERSION {version} of flight-delay, made by job {job}: auc {auc:.3}, {stage}, with a \
                         baseline of {rows} rows"
                    ),
                )?;
            }
        }
        Ok(())
    }
}

fn say(bar: &ProgressBar, line: &str) -> anyhow::Result<()> {
    bar.suspend(|| super::print(&format!("{line}\n")))
}

/// The first three features of a list, for people.
pub(super) fn features(top: &Value) -> String {
    let names = top.as_array().into_iter().flatten().take(3);
    let names: Vec<&str> = names.filter_map(|one| one["feature"].as_str()).collect();
    names.join(", ")
}
