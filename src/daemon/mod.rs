//! Starts the tasks, and tells how they end.
//!
//! The tasks: collect (a thread of its own) and judge, which begin anew when baselines change; the
//! retraining schedule, the building of baselines, handing over to orchestrators, notify, upkeep,
//! api. They share a database pool and a stop signal, and nothing else. A task that fails stops the
//! others; a stop from outside lets collect save what it has read and the judge finish the window
//! in hand, within the grace period.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Readiness};
use crate::clock::Clock;
use crate::monitor::Monitor;
use crate::retrain::builds;
use crate::retrain::handover::{self, Handover};
use crate::settings::Settings;
use crate::store::{self, jobs};
use crate::telemetry::metrics;
use crate::{notify, retrain, upkeep};

mod watch;

use watch::Watching;

/// From a failed start to the next attempt.
const RETRY: Duration = Duration::from_secs(1);

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
        let token = settings.service.token.clone();
        tasks.spawn(async move {
            api::run(listener, readiness, pool, prometheus, token, stop).await?;
            Ok("api")
        });
    }
    let _stop_with_us = stop.clone().drop_guard();
    let Some(watched) = prepare(&settings, &pool, &readiness, &stop).await? else {
        return Ok(());
    };
    start(&settings, watched, &pool, &readiness, &stop, &mut tasks);
    finish(&mut tasks, &stop, &api_stop, settings.service.grace).await
}

/// Waits for Postgres and makes everything ready there. A connection that is lost on the way begins it
/// again: all of it may be done twice. `None`: `stop` came first.
async fn prepare(
    settings: &Settings,
    pool: &PgPool,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Watching>> {
    loop {
        let waiting = |error: &str| readiness.not_ready("postgres", error);
        let reached = store::wait_for(pool, stop, waiting).await;
        let shown = settings.postgres.shown_url();
        if !reached.with_context(|| format!("postgres.url: {shown}"))? {
            return Ok(None);
        }
        match register(settings, pool).await {
            Ok(watched) => {
                readiness.ready("postgres");
                return Ok(Some(watched));
            }
            Err(error) if watch::is_transient(&error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, retry_in = ?RETRY, "Postgres was lost at the start");
                waiting(&error);
                let pause = tokio::time::sleep(RETRY);
                if stop.run_until_cancelled(pause).await.is_none() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

async fn register(settings: &Settings, pool: &PgPool) -> anyhow::Result<Watching> {
    store::check_schema(pool).await?;
    let queue = &settings.retraining;
    jobs::set_limits(pool, queue.max_running, queue.max_running_per_model).await?;
    Watching::prepare(settings, pool).await
}

/// Starts what needs the database.
fn start(
    settings: &Settings,
    watched: Watching,
    pool: &PgPool,
    readiness: &Readiness,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<&'static str>>,
) {
    let clock = Arc::new(Clock::System);
    let queue = &settings.retraining;
    let all: Arc<[Monitor]> = settings.monitors.clone().into();
    {
        let (pool, clock, stop) = (pool.clone(), Arc::clone(&clock), stop.clone());
        let (settings, readiness) = (settings.clone(), readiness.clone());
        tasks.spawn(async move {
            watch::run(&settings, watched, &pool, &clock, &readiness, &stop).await?;
            Ok("collect and judge")
        });
    }
    {
        let (pool, clock, stop) = (pool.clone(), Arc::clone(&clock), stop.clone());
        let all = Arc::clone(&all);
        tasks.spawn(async move {
            retrain::run(pool, all, clock, stop).await?;
            Ok("the retraining schedule")
        });
    }
    {
        let options = builds::Options {
            kafka: settings.kafka.clone(),
            limits: settings.limits,
            directory: queue.baseline_directory.clone(),
            monitors: all,
        };
        let (pool, stop) = (pool.clone(), stop.clone());
        tasks.spawn(async move {
            builds::run(pool, options, stop).await?;
            Ok("the building of baselines")
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

/// Who this process is, for people: what `partition_progress` and jobs tell.
pub(crate) fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}
