//! Gauges that only the database knows: they speak of all replicas, and are counted at the scrape.

use std::time::Duration;

use sqlx::PgPool;

use crate::telemetry::metrics;

/// Shorter than what Prometheus waits for a scrape: the other metrics have to come in any case.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why the gauges could not be set.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Postgres(#[from] sqlx::Error),
    #[error("Postgres did not answer within {} s", TIMEOUT.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// Counts open episodes and jobs.
pub(super) async fn refresh(pool: &PgPool) -> Result<(), Error> {
    tokio::time::timeout(TIMEOUT, counted(pool)).await??;
    Ok(())
}

async fn counted(pool: &PgPool) -> Result<(), sqlx::Error> {
    // Every monitor has a row, so that a gauge falls back to 0 when its episode is resolved.
    let episodes: Vec<(String, i64)> = sqlx::query_as(
        "-- open episodes by monitor
        select m.monitor, count(e.episode_id)
        from driftd.monitors m
        left join driftd.alert_episodes e on e.monitor_id = m.monitor_id and e.state = 'firing'
        group by m.monitor",
    )
    .fetch_all(pool)
    .await?;
    for (monitor, open) in &episodes {
        metrics::episodes_open(monitor, count(*open));
    }
    let jobs: Vec<(String, i64)> = sqlx::query_as(
        "-- jobs by state
        select s.state::text, count(j.job_id)
        from unnest(enum_range(null::driftd.job_state)) as s (state)
        left join driftd.retraining_jobs j on j.state = s.state
        group by s.state",
    )
    .fetch_all(pool)
    .await?;
    for (state, jobs) in &jobs {
        metrics::jobs(state, count(*jobs));
    }
    Ok(())
}

/// Counts are far below 2^53.
fn count(n: i64) -> f64 {
    n as f64
}
