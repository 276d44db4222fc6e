//! Baselines for new versions, made for trainers that ask: from files that the daemon can read, or from
//! exact parts of a topic.
//!
//! A part of a topic becomes a file first, one JSON object a row with the features by their names, so
//! that there is one way from rows to a baseline.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use rdkafka::Message;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::baseline::import::{self, Imported, Request};
use crate::baseline::save::{self, save};
use crate::baseline::windows::Volume;
use crate::baseline::{Baseline, SAMPLE_ROWS};
use crate::ingest::ranges::{self, Range};
use crate::ingest::training::{Columns, TIME};
use crate::monitor::{Input, Monitor, TimeUnit};
use crate::retrain::split::Split;
use crate::settings::{Kafka, Limits};
use crate::store::builds::{self, Build};
use crate::store::{self, baselines};
use crate::window::Spec;

/// How often somebody may have asked.
const TICK: Duration = Duration::from_secs(1);
/// The longest wait while Postgres cannot be reached.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a builder says that it still works.
const BEAT: Duration = Duration::from_secs(15);
/// A builder that has said nothing for so long has died.
const STALE_SECONDS: f64 = 120.0;

/// What builders need to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the log is.
    pub kafka: Kafka,
    /// Which limits hold for labels and levels.
    pub limits: Limits,
    /// Files have to be in this directory; `None`: no files.
    pub directory: Option<PathBuf>,
    /// What is watched.
    pub monitors: Arc<[Monitor]>,
}

/// Why there is no baseline.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the source of the baseline cannot be read: {0}")]
    Source(serde_json::Error),
    #[error(
        "driftd reads no files for trainers; set retraining.baseline_directory to where they are"
    )]
    NoDirectory,
    #[error("{file}: expected a file in {directory}")]
    Outside { file: String, directory: String },
    #[error("no monitor of model {model} reads topic {topic}")]
    NoMonitor { model: String, topic: String },
    #[error("{monitor}: {source}")]
    Path {
        monitor: String,
        source: crate::ingest::path::Error,
    },
    #[error(transparent)]
    Ranges(#[from] ranges::Error),
    #[error("no row of the offset ranges holds an event time from {from} to before {to}")]
    NoRows { from: String, to: String },
    #[error(
        "none of the {rows} rows falls into the baseline's share of {share}: ask for more data, or for a larger share (data.baseline_share)"
    )]
    NoShare { rows: u64, share: f64 },
    #[error("cannot write the rows of the topic")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Import(#[from] import::Error),
    #[error(transparent)]
    Save(#[from] save::Error),
    #[error(transparent)]
    Encoding(#[from] crate::profile::encoding::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("building panicked: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// `{"files": [...], ...}` or `{"topic", "offsets", ...}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    #[serde(default)]
    files: Vec<String>,
    time_column: Option<String>,
    time_unit: Option<TimeUnit>,
    topic: Option<String>,
    #[serde(default)]
    offsets: Vec<Range>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    split: Option<Split>,
}

impl Source {
    /// Whether a message is the baseline's.
    fn has_for_baseline(&self, topic: &str, (partition, offset): (i32, i64)) -> bool {
        let split = self.split.as_ref();
        split.is_none_or(|split| split.is_baseline(topic, partition, offset))
    }

    /// Why there are none for the baseline, of so many that are not.
    fn without_rows(&self, others: u64) -> Error {
        if let (Some(split), 1..) = (&self.split, others) {
            return Error::NoShare {
                rows: others,
                share: split.baseline_share,
            };
        }
        let text = |at: Option<DateTime<Utc>>| at.map_or("any".into(), |at| at.to_rfc3339());
        Error::NoRows {
            from: text(self.from),
            to: text(self.to),
        }
    }
}

/// Builds what is asked for, one at a time, until `stop`. While Postgres cannot be reached it waits and
/// tries again.
///
/// # Errors
/// The database refuses for good.
pub async fn run(pool: PgPool, options: Options, stop: CancellationToken) -> store::Result<()> {
    let options = Arc::new(options);
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let limit = store::patience(&pool, failures);
        let take = builds::take(&pool, STALE_SECONDS);
        let done = match store::within(limit, "take a baseline to build", take).await {
            Ok(Some(wanted)) => build_and_tell(&pool, &options, &wanted)
                .await
                .map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        let pause = match done {
            Ok(true) => continue,
            Ok(false) => {
                failures = 0;
                TICK
            }
            Err(error) if error.is_transient() => {
                failures += 1;
                let pause = PATIENCE.min(TICK * 2_u32.saturating_pow(failures.min(5)));
                tracing::warn!(error = %error.chain(), retry_in = ?pause, "building baselines waits for Postgres");
                pause
            }
            Err(error) => return Err(error),
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    Ok(())
}

/// What stands in the way is told to the trainer that asked; only the database's own trouble is ours.
async fn build_and_tell(
    pool: &PgPool,
    options: &Arc<Options>,
    wanted: &Build,
) -> store::Result<()> {
    let (model, version) = (&wanted.model, &wanted.version);
    let say = |heard_at| {
        let said = builds::still_building(pool, wanted.build_id, heard_at);
        let limit = store::patience(pool, 0);
        store::within(limit, "say that a baseline is still being built", said)
    };
    let work = Box::pin(build(pool, options, wanted));
    let Some((built, heard_at)) = while_heard(work, wanted.heard_at, BEAT, say).await? else {
        tracing::warn!(model.id = %model, model.version = %version, job.id = wanted.job_id, "another replica builds the baseline: it had not heard from this one");
        return Ok(());
    };
    match built {
        Ok(id) => {
            tracing::info!(model.id = %model, model.version = %version, baseline = %id, job.id = wanted.job_id, "built a baseline");
            end(pool, wanted, heard_at, Ok(&id)).await
        }
        Err(Error::Store(error) | Error::Save(save::Error::Store(error)))
            if error.is_transient() =>
        {
            Err(error)
        }
        Err(error) => {
            let text = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(model.id = %model, model.version = %version, job.id = wanted.job_id, error = %text, "cannot build a baseline");
            end(pool, wanted, heard_at, Err(&text)).await
        }
    }
}

/// Does the work and says every `beat` that it goes on; `None` as soon as it has been taken over. A
/// database that cannot be reached for a while does not stop the work.
async fn while_heard<T, Said>(
    work: impl Future<Output = T>,
    mut heard_at: DateTime<Utc>,
    beat: Duration,
    mut say: impl FnMut(DateTime<Utc>) -> Said,
) -> store::Result<Option<(T, DateTime<Utc>)>>
where
    Said: Future<Output = store::Result<Option<DateTime<Utc>>>>,
{
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(beat, &mut work).await {
            return Ok(Some((done, heard_at)));
        }
        match say(heard_at).await {
            Ok(Some(at)) => heard_at = at,
            Ok(None) => return Ok(None),
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %error.chain(), "cannot say that a baseline is still being built");
            }
            Err(error) => return Err(error),
        }
    }
}

async fn end(
    pool: &PgPool,
    wanted: &Build,
    heard_at: DateTime<Utc>,
    done: Result<&str, &str>,
) -> store::Result<()> {
    let end = builds::end(pool, wanted.build_id, heard_at, done);
    let limit = store::patience(pool, 0);
    if !store::within(limit, "end the building of a baseline", end).await? {
        tracing::warn!(model.id = %wanted.model, model.version = %wanted.version, job.id = wanted.job_id, "another replica builds the baseline: what came of it here does not count");
    }
    Ok(())
}

async fn build(pool: &PgPool, options: &Arc<Options>, wanted: &Build) -> Result<String, Error> {
    let source: Source = serde_json::from_value(wanted.source.clone()).map_err(Error::Source)?;
    let parent = match &wanted.parent_baseline_id {
        Some(id) => {
            let found = baselines::find(pool, id);
            let limit = store::patience(pool, 0);
            store::within(limit, "read a baseline", found).await?.pop()
        }
        None => None,
    };
    let parent = parent.map(Baseline::of_stored).transpose()?;
    let (options, wanted) = (Arc::clone(options), wanted.clone());
    let work = tokio::task::spawn_blocking(move || {
        let input = input_of(&options.monitors, &wanted.model, source.topic.as_deref());
        let window = input.map(|input| input.window);
        match source.files.is_empty() {
            true => of_topic(&options, &wanted, &source, parent.as_ref()),
            false => of_files(&options, &wanted, &source, parent.as_ref(), window),
        }
    });
    let imported = work.await??;
    // A baseline is large.
    let limit = store::patience(pool, 4);
    let saved = store::within(limit, "save a baseline", save(pool, imported)).await?;
    Ok(saved.baseline_id)
}

/// The stream of a model: of the topic that is named, else the first.
fn input_of<'a>(monitors: &'a [Monitor], model: &str, topic: Option<&str>) -> Option<&'a Input> {
    let inputs = monitors
        .iter()
        .filter(|monitor| monitor.model == model)
        .filter_map(|monitor| monitor.input.as_ref());
    inputs
        .into_iter()
        .find(|input| topic.is_none_or(|topic| topic == input.topic))
}

/// What both ways have in common: the features and kinds are those of the version before, if it has any.
fn request(
    options: &Options,
    wanted: &Build,
    parent: Option<&Baseline>,
    files: Vec<PathBuf>,
) -> Request {
    let features = || parent.iter().flat_map(|one| &one.layout.features);
    Request {
        model: wanted.model.clone(),
        version: wanted.version.clone(),
        files,
        time_column: None,
        time_unit: TimeUnit::Ms,
        window_ms: None,
        time_zone: Tz::UTC,
        features: features().map(|one| one.name.clone()).collect(),
        exclude: Vec::new(),
        kinds: features().map(|one| (one.name.clone(), one.kind)).collect(),
        max_levels: options.limits.max_levels,
        max_label_bytes: options.limits.message.label_bytes,
        sample_rows: SAMPLE_ROWS,
    }
}

fn of_files(
    options: &Options,
    wanted: &Build,
    source: &Source,
    parent: Option<&Baseline>,
    window: Option<Spec>,
) -> Result<Imported, Error> {
    let directory = options.directory.as_deref().ok_or(Error::NoDirectory)?;
    let files = source.files.iter().map(|file| inside(directory, file));
    let time_column = source.time_column.clone();
    let request = Request {
        window_ms: window
            .filter(|_| time_column.is_some())
            .map(|window| window.size_ms),
        time_zone: window.map_or(Tz::UTC, |window| window.time_zone),
        time_column,
        time_unit: source.time_unit.unwrap_or(TimeUnit::Ms),
        ..request(options, wanted, parent, files.collect::<Result<_, _>>()?)
    };
    Ok(import::import(&request, |_| {})?)
}

/// A file in the directory, whatever links and dots its name has.
fn inside(directory: &Path, file: &str) -> Result<PathBuf, Error> {
    let outside = || Error::Outside {
        file: file.to_owned(),
        directory: directory.display().to_string(),
    };
    let name = file.strip_prefix("file://").unwrap_or(file);
    let whole = directory.join(name).canonicalize().map_err(|_| outside())?;
    let root = directory.canonicalize().map_err(|_| outside())?;
    if whole.starts_with(&root) {
        Ok(whole)
    } else {
        Err(outside())
    }
}

fn of_topic(
    options: &Options,
    wanted: &Build,
    source: &Source,
    parent: Option<&Baseline>,
) -> Result<Imported, Error> {
    let topic = source.topic.as_deref().unwrap_or_default();
    let monitors = &options.monitors;
    let input = input_of(monitors, &wanted.model, Some(topic)).ok_or_else(|| Error::NoMonitor {
        model: wanted.model.clone(),
        topic: topic.to_owned(),
    })?;
    let features = parent.iter().flat_map(|one| &one.layout.features);
    let names = features.map(|one| one.name.as_str());
    let columns = Columns::of(input, names).map_err(|source| Error::Path {
        monitor: topic.to_owned(),
        source,
    })?;
    let times = (
        source.from.map(|at| at.timestamp_millis()),
        source.to.map(|at| at.timestamp_millis()),
    );
    let directory = tempfile::tempdir()?;
    let path = directory.path().join(format!("{topic}.ndjson"));
    let mut file = BufWriter::new(File::create(&path)?);
    let mut rows = 0_u64;
    let mut others = Volume::of(input.window.size_ms);
    ranges::read(&options.kafka, topic, &source.offsets, |message| {
        let place = (message.partition(), message.offset());
        let is_ours = source.has_for_baseline(topic, place);
        for row in columns.rows(message, times) {
            if is_ours {
                serde_json::to_writer(&mut file, &row)?;
                file.write_all(b"\n")?;
                rows += 1;
            } else {
                others.add(row.get(TIME).and_then(Value::as_i64).unwrap_or_default());
            }
        }
        Ok(())
    })?;
    file.flush()?;
    if rows == 0 {
        return Err(source.without_rows(others.rows()));
    }
    let request = Request {
        time_column: Some(TIME.to_owned()),
        window_ms: Some(input.window.size_ms),
        time_zone: input.window.time_zone,
        ..request(options, wanted, parent, vec![path])
    };
    let mut imported = import::import(&request, |_| {})?;
    // A window of the stream holds all rows, not a share of them.
    if let Some(slots) = &mut imported.slots {
        slots.count(&others);
    }
    imported.is_held_out = source.split.is_some();
    // The file is gone after this: what it was made from is told instead.
    let named = |range: &Range| {
        format!(
            "kafka:{topic}/{}:{}-{}",
            range.partition, range.first, range.next
        )
    };
    imported.baseline.origin.files = source.offsets.iter().map(named).collect();
    Ok(imported)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_builder_says_that_it_works_until_it_is_done() {
        let (start, heard_often) = (DateTime::UNIX_EPOCH, tokio::sync::Notify::new());
        let work = async {
            heard_often.notified().await;
            "done"
        };
        let mut said = 0_u32;
        let say = |at: DateTime<Utc>| {
            assert_eq!(at, start + BEAT * said, "each names the one before");
            said += 1;
            if said == 5 {
                heard_often.notify_one();
            }
            ready(Ok(Some(start + BEAT * said)))
        };
        let done = while_heard(work, start, SHORT, say).await.unwrap();
        assert_eq!(done, Some(("done", start + BEAT * 5)));
        assert!(2.0 * BEAT.as_secs_f64() < STALE_SECONDS);
    }

    #[tokio::test]
    async fn a_builder_stops_when_another_has_taken_over() {
        let never = std::future::pending::<()>();
        let taken = while_heard(never, DateTime::UNIX_EPOCH, SHORT, |_| ready(Ok(None)));
        assert_eq!(taken.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_builder_goes_on_while_the_database_is_away() {
        let (start, back) = (DateTime::UNIX_EPOCH, tokio::sync::Notify::new());
        let mut said = 0_u32;
        let say = |at: DateTime<Utc>| {
            said += 1;
            if said < 3 {
                return ready(Err(store::Error::Standby));
            }
            back.notify_one();
            ready(Ok(Some(at)))
        };
        let done = while_heard(back.notified(), start, SHORT, say)
            .await
            .unwrap();
        assert_eq!(done, Some(((), start)));
    }

    #[test]
    fn files_are_read_from_the_directory_only() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("t.csv"), "a\n1\n").unwrap();
        let found = inside(directory.path(), "t.csv").unwrap();
        assert!(found.ends_with("t.csv"));
        for file in ["../etc/passwd", "/etc/passwd", "missing.csv"] {
            let error = inside(directory.path(), file).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{file}: expected a file in")),
                "{error}"
            );
        }
    }
}
