//! Starts the tasks, and tells how they end.
//!
//! Six tasks: collect (a thread of its own), judge, the retraining schedule, notify, upkeep, api, and
//! a seventh where jobs are handed over to an orchestrator. They
//! share a database pool and a stop signal, and nothing else. A task that fails stops the others;
//! a stop from outside lets collect save what it has read and the judge finish the window in hand,
//! within the grace period.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Readiness};
use crate::baseline::Baseline;
use crate::clock::Clock;
use crate::collect;
use crate::compare::window::Reference;
use crate::decide::learned::Calibration;
use crate::decide::verdict::Judge;
use crate::ingest::plan::{self, TopicPlan, Watched};
use crate::judge::{self, Line};
use crate::monitor::{Input, Mode, Monitor};
use crate::retrain::handover::{self, Handover};
use crate::settings::Settings;
use crate::store::monitors::Registered;
use crate::store::{self, baselines, monitors};
use crate::telemetry::metrics;
use crate::{notify, retrain, upkeep};

/// Runs until told to stop, or until a task fails.
///
/// # Errors
/// With what stopped it: a task that failed, a database of another schema, a monitor that does not
/// fit its baseline.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let prometheus = metrics::install().context("cannot collect metrics")?;
    let address = settings.service.listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("service.listen: cannot listen on {address}"))?;
    let readiness = Readiness::new(&["postgres", "kafka"]);
    let postgres = &settings.postgres;
    let pool = store::pool(postgres.url(), postgres.max_connections, postgres.timeout)?;

    let mut tasks: JoinSet<anyhow::Result<&'static str>> = JoinSet::new();
    // Probes are answered before anything else is there, and until everything else has ended.
    let api_stop = CancellationToken::new();
    {
        let (readiness, pool, stop) = (readiness.clone(), pool.clone(), api_stop.clone());
        tasks.spawn(async move {
            api::run(listener, readiness, pool, prometheus, stop).await?;
            Ok("api")
        });
    }
    let _stop_with_us = stop.clone().drop_guard();
    let waiting = |error: &str| readiness.not_ready("postgres", error);
    let reached = store::wait_for(&pool, &stop, waiting).await;
    let shown = settings.postgres.shown_url();
    if !reached.with_context(|| format!("postgres.url: {shown}"))? {
        return Ok(());
    }
    store::check_schema(&pool).await?;
    readiness.ready("postgres");
    start(&settings, &pool, &readiness, &stop, &mut tasks).await?;
    finish(&mut tasks, &stop, &api_stop, settings.service.grace).await
}

/// Starts what needs the database.
async fn start(
    settings: &Settings,
    pool: &PgPool,
    readiness: &Readiness,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
) -> anyhow::Result<()> {
    let clock = Arc::new(Clock::System);
    let known = register(settings, pool).await?;
    let plans = plans(&known)?;
    let lines = lines(&known, pool).await?;
    if plans.is_empty() {
        readiness.ready("kafka"); // nothing to read: periodic monitors only
    } else {
        let on_gap = inputs(&known)
            .map(|(_, input)| (input.topic.clone(), input.on_gap))
            .collect();
        let options = collect::Options {
            kafka: settings.kafka.clone(),
            checkpoint: settings.checkpoint,
            limits: settings.limits,
            on_gap,
            owner: owner(),
            sample_key: 0x0064_7269_6674_6400,
        };
        let (pool, clock) = (pool.clone(), Arc::clone(&clock));
        let (readiness, stop) = (readiness.clone(), stop.clone());
        tasks.spawn_blocking(move || {
            collect::run(options, plans, pool, clock, &readiness, &stop)?;
            Ok("collect")
        });
        // No `await` from here on: the readiness of Kafka is collect's to tell.
    }
    {
        let (pool, clock, stop) = (pool.clone(), Arc::clone(&clock), stop.clone());
        let readiness = readiness.clone();
        tasks.spawn(async move {
            judge::run(pool, lines, clock, readiness, stop).await?;
            Ok("judge")
        });
    }
    {
        let all: Arc<[Monitor]> = settings.monitors.clone().into();
        let (pool, clock, stop) = (pool.clone(), Arc::clone(&clock), stop.clone());
        tasks.spawn(async move {
            retrain::run(pool, all, clock, stop).await?;
            Ok("the retraining schedule")
        });
    }
    hand_over(settings, pool, &clock, stop, tasks);
    {
        let (pool, clock, stop) = (pool.clone(), Arc::clone(&clock), stop.clone());
        tasks.spawn(async move {
            notify::run(pool, clock, stop).await?;
            Ok("notify")
        });
    }
    {
        let options = upkeep::Options::of(settings);
        let (pool, stop) = (pool.clone(), stop.clone());
        tasks.spawn(async move {
            upkeep::run(pool, options, clock, stop).await;
            Ok("upkeep")
        });
    }
    Ok(())
}

/// Hands jobs over, where there is anywhere to.
fn hand_over(
    settings: &Settings,
    pool: &PgPool,
    clock: &Arc<Clock>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
) {
    if settings.handovers.is_empty() {
        return;
    }
    let all: Arc<[Handover]> = settings.handovers.clone().into();
    let (pool, clock, stop) = (pool.clone(), Arc::clone(clock), stop.clone());
    tasks.spawn(async move {
        handover::run(pool, all, clock, stop).await?;
        Ok("handover")
    });
}

/// Waits for the stop and then for every task; the first failure stops the others.
async fn finish(
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
    stop: &CancellationToken,
    api_stop: &CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let mut failure = None;
    let everything = async {
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.context("a task panicked").and_then(|ended| ended);
            match ended {
                Ok(task) if !stop.is_cancelled() => {
                    failure.get_or_insert(anyhow::anyhow!("{task} has ended by itself"));
                }
                Ok(task) => tracing::debug!(task, "has ended"),
                Err(error) if failure.is_none() => failure = Some(error),
                Err(error) => tracing::error!(error = format!("{error:#}"), "a task failed"),
            }
            if failure.is_some() {
                stop.cancel();
            }
            if stop.is_cancelled() && tasks.len() <= 1 {
                api_stop.cancel();
            }
        }
    };
    let overdue = async {
        stop.cancelled().await;
        tracing::info!(grace.seconds = grace.as_secs_f64(), "stopping");
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = everything => {}
        () = overdue => bail!("not everything ended within the grace period of {grace:?}; what was not saved will be read again"),
    }
    failure.map_or(Ok(()), Err)
}

/// A monitor with what the database knows of it.
struct Known {
    monitor: Monitor,
    registered: Registered,
    baselines: Vec<Arc<Baseline>>,
}

async fn register(settings: &Settings, pool: &PgPool) -> anyhow::Result<Vec<Known>> {
    let mut known = Vec::new();
    let mut by_model: HashMap<String, Vec<Arc<Baseline>>> = HashMap::new();
    for monitor in &settings.monitors {
        let mut transaction = pool.begin().await?;
        let registered = monitors::register(&mut transaction, monitor).await?;
        transaction.commit().await?;
        if !by_model.contains_key(&monitor.model) {
            let stored = baselines::of_model(pool, &monitor.model).await?;
            let read = stored
                .into_iter()
                .map(|one| Ok(Arc::new(Baseline::of_stored(one)?)));
            let read = read.collect::<Result<Vec<_>, crate::profile::encoding::Error>>()?;
            by_model.insert(monitor.model.clone(), read);
        }
        let baselines = by_model[&monitor.model].clone();
        if monitor.input.is_some() {
            warn_without_baseline(monitor, &baselines);
        }
        known.push(Known {
            monitor: monitor.clone(),
            registered,
            baselines,
        });
    }
    Ok(known)
}

fn warn_without_baseline(monitor: &Monitor, baselines: &[Arc<Baseline>]) {
    let fixed = match monitor.input.as_ref().map(|input| &input.version) {
        Some(crate::monitor::VersionSource::Fixed(version)) => Some(version),
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
             `driftd baseline import` has made one and driftd was started again"
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

async fn lines(known: &[Known], pool: &PgPool) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (known, input) in inputs(known) {
        let mut judges = HashMap::new();
        for baseline in &known.baselines {
            let judge = Arc::new(judge_of(&known.monitor, input, baseline, pool).await?);
            judges.insert(Line::version_key(&baseline.version), Arc::clone(&judge));
            judges.insert(baseline.id.clone(), judge);
        }
        lines.push(Line {
            monitor_id: known.registered.monitor_id,
            monitor: known.monitor.clone(),
            input: input.clone(),
            judges,
        });
    }
    Ok(lines)
}

async fn judge_of(
    monitor: &Monitor,
    input: &Input,
    baseline: &Arc<Baseline>,
    pool: &PgPool,
) -> anyhow::Result<Judge> {
    let stored = baselines::calibration(pool, &baseline.id, input.window.size_ms).await?;
    let calibration: Option<Calibration> = stored
        .map(serde_json::from_value)
        .transpose()
        .with_context(|| format!("the calibration of baseline {}", baseline.id))?;
    if calibration.is_none() {
        let size =
            humantime::format_duration(Duration::from_millis(input.window.size_ms.unsigned_abs()));
        match input.judging.mode {
            Mode::Learned => bail!(
                "monitor `{}`: mode \"learned\" needs a baseline that is calibrated for windows of \
                 {size}; import it with --time COLUMN --window {size}, from data that holds 30 \
                 such windows or more, or choose mode \"auto\"",
                monitor.name
            ),
            Mode::Auto => tracing::warn!(
                monitor = %monitor.name, model.version = %baseline.version,
                "uncalibrated: the baseline says nothing of windows of {size}, so fixed thresholds \
                 decide"
            ),
            Mode::Thresholds => {}
        }
    }
    let (name, input, baseline) = (monitor.name.clone(), input.clone(), Arc::clone(baseline));
    // Sorting a large baseline and simulating thresholds take a while.
    tokio::task::spawn_blocking(move || {
        let layout = plan::select(&name, &input.features, &baseline)?;
        let tests = input.judging.tests();
        let window_rows = calibration
            .as_ref()
            .map_or_else(Vec::new, |one| one.rows().to_vec());
        let (all, profile) = (&baseline.layout, &baseline.profile);
        let reference = Reference::new(layout, all, profile, tests, window_rows);
        let judge = Judge::new(reference, calibration, input.judging, &input.window);
        tell_thresholds(&name, &baseline.version, &judge);
        Ok(judge)
    })
    .await?
}

/// What the learned mode promises, and what it cannot do.
fn tell_thresholds(monitor: &str, version: &str, judge: &Judge) {
    let Some((calibration, thresholds)) = &judge.learned else {
        return;
    };
    let delays = [0.2, 0.3, 0.5].map(|shift| {
        let delay = calibration.delay_of_shift(thresholds, shift);
        delay.map_or("none".into(), |windows| windows.to_string())
    });
    tracing::info!(
        monitor = %monitor, model.version = %version, baseline.windows = calibration.windows,
        threshold.fast = thresholds.fast, threshold.slow = thresholds.slow,
        predicted_false_alarms = thresholds.predicted_per_period,
        windows_to_see_shift = %delays.join("/"),
        "learned thresholds; false alarms per period, windows for shifts of 0.2/0.3/0.5 sd"
    );
    if !thresholds.fast_is_reachable() {
        tracing::warn!(
            monitor = %monitor, model.version = %version, threshold = thresholds.fast,
            "the baseline's own windows vary so much that no single window can raise an alarm; \
             several in a row can"
        );
    }
}

/// Who this replica is, for people who look at `partition_progress`.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}
