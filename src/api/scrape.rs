//! Gauges that only the database knows: they speak of all replicas, and are counted at the scrape.

use std::time::Duration;

use sqlx::PgPool;

use crate::store::{self, episodes, failures, jobs};
use crate::telemetry::metrics;

/// Shorter than what Prometheus waits for a scrape: the other metrics have to come in any case.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why the gauges could not be set.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Postgres(#[from] store::Error),
    #[error("Postgres did not answer within {} s", TIMEOUT.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// Counts open episodes, jobs and failures.
pub(super) async fn refresh(pool: &PgPool) -> Result<(), Error> {
    tokio::time::timeout(TIMEOUT, counted(pool)).await??;
    Ok(())
}

async fn counted(pool: &PgPool) -> Result<(), store::Error> {
    // Every monitor, kind and state has a row, so that a gauge falls back to 0.
    for (monitor, kind, firing) in episodes::count_firing(pool).await? {
        metrics::episodes_open(&monitor, &kind, firing as f64);
    }
    for (state, jobs) in jobs::count_by_state(pool).await? {
        metrics::jobs(state.as_str(), jobs as f64);
    }
    for (kind, failures) in failures::count_by_kind(pool).await? {
        metrics::failures(&kind, failures as f64);
    }
    Ok(())
}
