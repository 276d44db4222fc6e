//! Collect and judge: what they are given, and when they begin anew.
//!
//! By which bins a row is profiled, and so what is read of it, is settled when they begin. A version that
//! gets a baseline later, as one that a retraining job has made, is taken up by ending both as on a stop
//! and beginning them again: what was read is saved, windows in hand are judged, and reading goes on at
//! the stored offset. So no part of the data path has to know that baselines may change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::owner;
use crate::api::Readiness;
use crate::baseline::{self, Outline};
use crate::clock::Clock;
use crate::collect;
use crate::ingest::plan::{self, TopicPlan, Watched};
use crate::judge::{self, Baselines, Line};
use crate::monitor::{Input, Monitor, VersionSource};
use crate::profile::encoding;
use crate::settings::Settings;
use crate::store::failures::{Failure, Kind};
use crate::store::monitors::Registered;
use crate::store::{self, baselines, failures, monitors};

/// How often baselines may have changed.
const LOOK: Duration = Duration::from_secs(2);

/// What is said of a baseline that cannot be used: it is its version's problem alone.
const UNUSABLE: &str =
    "the baseline cannot be used: windows of its version get the verdict no_baseline";

/// What collect and judge begin with.
pub(super) struct Watching {
    /// Names the baselines that this is about.
    baselines: String,
    plans: Vec<TopicPlan>,
    lines: Vec<Line>,
    on_gap: HashMap<String, crate::monitor::OnGap>,
}

impl Watching {
    /// Reads what the database knows of the monitors.
    ///
    /// # Errors
    /// Monitors of one topic do not go together, or the database refuses.
    pub(super) async fn prepare(settings: &Settings, pool: &PgPool) -> anyhow::Result<Self> {
        // Before they are read: one that comes meanwhile makes this begin anew.
        let baselines = named(settings, pool).await?;
        let known = register(settings, pool).await?;
        for one in &known {
            report(pool, one).await?;
        }
        let on_gap = inputs(&known)
            .map(|(_, input)| (input.topic.clone(), input.on_gap))
            .collect();
        Ok(Self {
            baselines,
            plans: plans(&known)?,
            lines: lines(&known),
            on_gap,
        })
    }
}

/// Collects and judges until told to stop.
///
/// # Errors
/// With what stopped one of them.
pub(super) async fn run(
    settings: &Settings,
    mut watching: Watching,
    pool: &PgPool,
    clock: &Arc<Clock>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let loaded = Arc::new(Baselines::new(
        pool.clone(),
        settings.limits.max_baseline_bytes,
    ));
    loop {
        let mut baselines = watching.baselines.clone();
        let ours = stop.child_token();
        let mut tasks = begin(settings, watching, pool, &loaded, clock, readiness, &ours);
        let next = tokio::select! {
            Some(ended) = tasks.join_next() => match ended.context("a task panicked").and_then(|e| e) {
                Ok(task) if !stop.is_cancelled() => Err(anyhow::anyhow!("{task} has ended by itself")),
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            },
            next = changed(settings, pool, &mut baselines) => Ok(Some(next)),
            () = stop.cancelled() => Ok(None),
        };
        ours.cancel();
        let mut failure = None;
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.context("a task panicked").and_then(|ended| ended);
            failure = failure.or(ended.err());
        }
        match (next?, failure) {
            (_, Some(failure)) => return Err(failure),
            (None, None) => return Ok(()),
            (Some(next), None) => {
                tracing::info!("baselines have changed: reading and judging begin anew");
                watching = next;
            }
        }
    }
}

fn begin(
    settings: &Settings,
    watching: Watching,
    pool: &PgPool,
    loaded: &Arc<Baselines>,
    clock: &Arc<Clock>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> JoinSet<anyhow::Result<&'static str>> {
    let Watching {
        plans,
        lines,
        on_gap,
        ..
    } = watching;
    let mut tasks = JoinSet::new();
    if plans.is_empty() {
        readiness.ready("kafka"); // nothing to read: periodic monitors only
    } else {
        let options = collect::Options {
            kafka: settings.kafka.clone(),
            checkpoint: settings.checkpoint,
            limits: settings.limits,
            on_gap,
            owner: owner(),
            sample_key: 0x0064_7269_6674_6400,
        };
        let (pool, clock) = (pool.clone(), Arc::clone(clock));
        let (readiness, stop) = (readiness.clone(), stop.clone());
        tasks.spawn_blocking(move || {
            collect::run(options, plans, pool, clock, &readiness, &stop)?;
            Ok("collect")
        });
    }
    let (pool, clock, stop) = (pool.clone(), Arc::clone(clock), stop.clone());
    let (readiness, loaded) = (readiness.clone(), Arc::clone(loaded));
    tasks.spawn(async move {
        judge::run(pool, lines, loaded, clock, readiness, owner(), stop).await?;
        Ok("judge")
    });
    tasks
}

/// Waits until baselines have changed and fit their monitors. Those that do not are told once, and what
/// is there goes on.
async fn changed(settings: &Settings, pool: &PgPool, seen: &mut String) -> Watching {
    loop {
        tokio::time::sleep(LOOK).await;
        let now = match named(settings, pool).await {
            Ok(now) if now != *seen => now,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(error = error.chain(), "cannot look for new baselines");
                continue;
            }
        };
        let prepare = Watching::prepare(settings, pool);
        match store::within(store::patience(pool, 4), "read new baselines", prepare).await {
            Ok(next) => return next,
            // They may fit all the same: the next look finds them changed again.
            Err(error) if is_transient(&error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "new baselines wait for Postgres"
                );
            }
            Err(error) => {
                *seen = now;
                tracing::error!(
                    error = format!("{error:#}"),
                    "baselines have changed and cannot be used: driftd goes on with those before"
                );
            }
        }
    }
}

pub(super) fn is_transient(error: &anyhow::Error) -> bool {
    let store = error.downcast_ref::<store::Error>();
    store.is_some_and(store::Error::is_transient)
}

/// Which baselines the models have.
async fn named(settings: &Settings, pool: &PgPool) -> store::Result<String> {
    let watched = settings.monitors.iter().filter(|one| one.input.is_some());
    let models: Vec<String> = watched.map(|one| one.model.clone()).collect();
    store::within(
        LOOK * 5,
        "look for baselines",
        baselines::named(pool, &models),
    )
    .await
}

/// A monitor with what the database knows of it.
struct Known {
    monitor: Monitor,
    registered: Registered,
    baselines: Vec<Arc<Outline>>,
    /// Why others cannot be used.
    unusable: Vec<String>,
}

impl Known {
    /// Takes those that can be read and hold what the monitor watches.
    fn take(&mut self, input: &Input, read: &[Read]) {
        for one in read {
            match &one.outline {
                Ok(outline) => match plan::select(&self.monitor.name, &input.features, outline) {
                    Ok(_) => self.baselines.push(Arc::clone(outline)),
                    Err(error) => self.cannot_use(&one.version, &one.id, &error),
                },
                Err(error) => self.cannot_use(&one.version, &one.id, error),
            }
        }
    }

    /// A baseline that cannot be used is its version's problem alone.
    fn cannot_use(&mut self, version: &str, id: &str, error: &dyn std::fmt::Display) {
        let (monitor, id) = (&self.monitor.name, baseline::short(id));
        tracing::error!(monitor = %monitor, model.version = %version, baseline = %id, %error, "{UNUSABLE}");
        let why = format!("baseline {id} of version {version} cannot be used: {error}");
        self.unusable.push(why);
    }
}

/// Stores which baselines of a monitor cannot be used, or that all can.
async fn report(pool: &PgPool, known: &Known) -> store::Result<()> {
    let name = &known.monitor.name;
    if known.unusable.is_empty() {
        failures::clear(pool, Kind::Monitor, name, "").await?;
        return Ok(());
    }
    let failure = Failure {
        kind: Kind::Monitor,
        name: name.clone(),
        version: String::new(),
        replica: owner(),
        reason: format!(
            "{}; windows get the verdict no_baseline",
            known.unusable.join("; ")
        ),
        retry_in: None,
    };
    failures::report(pool, &failure).await?;
    Ok(())
}

async fn register(settings: &Settings, pool: &PgPool) -> anyhow::Result<Vec<Known>> {
    let mut known = Vec::new();
    let models: Vec<String> = settings
        .monitors
        .iter()
        .map(|one| one.model.clone())
        .collect();
    let mut by_model: HashMap<String, Vec<Read>> = HashMap::new();
    for stored in baselines::outlines(pool, &models).await? {
        let of_model = by_model.entry(stored.model.clone()).or_default();
        of_model.push(Read::of(stored));
    }
    for monitor in &settings.monitors {
        let mut transaction = pool.begin().await.map_err(store::Error::from)?;
        let registered = monitors::register(&mut transaction, monitor).await?;
        transaction.commit().await.map_err(store::Error::from)?;
        let mut one = Known {
            monitor: monitor.clone(),
            registered,
            baselines: Vec::new(),
            unusable: Vec::new(),
        };
        if let Some(input) = &monitor.input {
            one.take(
                input,
                by_model.get(&monitor.model).map_or(&[], Vec::as_slice),
            );
            warn_without_baseline(monitor, &one.baselines);
        }
        known.push(one);
    }
    Ok(known)
}

/// The outline of a stored baseline, or why it cannot be read.
struct Read {
    version: String,
    id: String,
    outline: Result<Arc<Outline>, encoding::Error>,
}

impl Read {
    fn of(stored: baselines::Outline) -> Self {
        Self {
            version: stored.version.clone(),
            id: stored.baseline_id.clone(),
            outline: Outline::of_stored(stored).map(Arc::new),
        }
    }
}

fn warn_without_baseline(monitor: &Monitor, baselines: &[Arc<Outline>]) {
    let fixed = match monitor.input.as_ref().map(|input| &input.version) {
        Some(VersionSource::Fixed(version)) => Some(version),
        _ => None,
    };
    let there = |version: &String| {
        baselines
            .iter()
            .any(|baseline| baseline.version == *version)
    };
    if baselines.is_empty() || fixed.is_some_and(|version| !there(version)) {
        let versions: Vec<&str> = baselines.iter().map(|b| b.version.as_str()).collect();
        tracing::warn!(
            monitor = %monitor.name, model = %monitor.model, version = ?fixed, known = ?versions,
            "no baseline for what this monitor reads: its windows get the verdict no_baseline until \
             `driftd baseline import` has made one"
        );
    }
}

fn inputs(known: &[Known]) -> impl Iterator<Item = (&Known, &Input)> {
    known
        .iter()
        .filter_map(|known| known.monitor.input.as_ref().map(|input| (known, input)))
}

/// One plan per topic: monitors on one topic share one read and one decode.
fn plans(known: &[Known]) -> anyhow::Result<Vec<TopicPlan>> {
    let mut plans: Vec<TopicPlan> = Vec::new();
    for (known, input) in inputs(known) {
        if !plans.iter().any(|plan| plan.topic == input.topic) {
            plans.push(TopicPlan::new(&input.topic));
        }
        let watched = Watched {
            monitor_id: known.registered.monitor_id,
            name: &known.monitor.name,
            input,
            starts_at_ms: known.registered.starts_at.map(|at| at.timestamp_millis()),
            baselines: known.baselines.clone(),
        };
        for plan in plans.iter_mut().filter(|plan| plan.topic == input.topic) {
            plan.add(&watched)?;
        }
    }
    Ok(plans)
}

fn lines(known: &[Known]) -> Vec<Line> {
    let line = |(known, input): (&Known, &Input)| Line {
        monitor_id: known.registered.monitor_id,
        monitor: known.monitor.clone(),
        input: input.clone(),
        baselines: known.baselines.clone(),
    };
    inputs(known).map(line).collect()
}
