//! Upkeep: what lets Postgres stay as it is however long driftd runs. Time partitions are made ahead
//! and dropped when nobody needs them; what is old is deleted; a transaction that keeps vacuum from
//! its work is named.
//!
//! No result depends on it: while it cannot do its work, rows go to default partitions and stay there
//! longer. One replica does it, the first that comes, until its session ends; each looks at the tables
//! for its own metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::settings::{Retention, Settings};
use crate::store::vacuum::{self, Holder};
use crate::store::{self, failures, time_partitions, upkeep};
use crate::telemetry::metrics;

/// How often it looks.
const TICK: Duration = Duration::from_secs(60);
/// A slot's age in seconds is not known; so many transactions are a lot.
const MANY_TRANSACTIONS: i64 = 1_000_000;

/// What it goes by.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long what is old is kept.
    pub retention: Retention,
    /// A transaction that lasts so long is worth a warning.
    pub long_transaction: Duration,
}

impl Options {
    /// As the settings have it.
    pub fn of(settings: &Settings) -> Self {
        Self {
            retention: settings.retention,
            long_transaction: settings.postgres.long_transaction,
        }
    }
}

/// Works until `stop`. What fails is told and tried again a minute later: a daemon that cannot drop
/// a partition still judges.
pub async fn run(pool: PgPool, options: Options, clock: Arc<Clock>, stop: CancellationToken) {
    let mut warned = Warned::default();
    let mut elected = None;
    while !stop.is_cancelled() {
        let work = Box::pin(async {
            watch(&pool, options.long_transaction, &mut warned).await;
            let election = upkeep::elect(&pool, elected.take());
            elected = told(&pool, "elect who does the upkeep", election)
                .await
                .flatten();
            if elected.is_some() {
                tick(&pool, options.retention, clock.now()).await;
            }
        });
        stop.run_until_cancelled(work).await;
        let _ = tokio::time::timeout(TICK, stop.cancelled()).await;
    }
}

/// Makes partitions ahead and lets go of what is old.
pub async fn tick(pool: &PgPool, retention: Retention, now: DateTime<Utc>) {
    // A clock that runs ahead of the database's drops nothing early.
    let Some(theirs) = told(pool, "ask Postgres for the time", upkeep::now(pool)).await else {
        return;
    };
    let now = now.min(theirs);
    let before = |kept: Duration| now - chrono::Duration::from_std(kept).unwrap_or_default();
    let (checkpoints, rejected) = (
        before(retention.checkpoints),
        before(retention.rejected_messages),
    );
    let (judged, profiles) = (before(retention.history), before(retention.window_profiles));
    let delivered = before(retention.outbox);

    let made = time_partitions::make_ahead(pool, now);
    told(pool, "make time partitions", made).await;
    let dropped = upkeep::drop_passed_deltas(pool, now);
    told(pool, "drop deltas", dropped).await;
    let dropped = upkeep::drop_checkpoints(pool, checkpoints);
    told(pool, "drop checkpoints", dropped).await;
    let dropped = upkeep::drop_rejected_messages(pool, rejected);
    told(pool, "drop rejected messages", dropped).await;
    let dropped = upkeep::drop_history(pool, judged, profiles);
    told(pool, "drop history", dropped).await;
    let deleted = upkeep::delete_delivered(pool, delivered);
    told(pool, "delete delivered messages", deleted).await;
    let deleted = upkeep::delete_job_lines(pool, judged);
    told(pool, "delete old lines of jobs", deleted).await;
    let dropped = failures::drop_stale(pool);
    told(pool, "drop failures that nobody reports", dropped).await;
}

/// One thing that cannot be done now keeps no other from being done.
async fn told<T>(
    pool: &PgPool,
    what: &'static str,
    work: impl Future<Output = store::Result<T>>,
) -> Option<T> {
    // Long: each is many short transactions, and what they have done stays.
    let done = store::within(store::patience(pool, 4), what, work).await;
    done.inspect_err(|error| {
        metrics::postgres_errors(what, 1);
        tracing::warn!(error = error.chain(), retry_in = ?TICK, "upkeep cannot {what}");
    })
    .ok()
}

/// Looks who holds vacuum up and how the tables stand.
async fn watch(pool: &PgPool, long: Duration, warned: &mut Warned) {
    if let Some(holders) = told(pool, "look for old transactions", vacuum::holders(pool)).await {
        let ages = holders.iter().filter_map(|holder| holder.age_seconds);
        metrics::postgres_oldest_transaction_age_seconds(ages.fold(0.0, f64::max));
        let horizons = holders.iter().filter_map(|one| one.horizon_transactions);
        metrics::postgres_horizon_age_transactions(horizons.max().unwrap_or_default() as f64);
        for holder in warned.due(holders, long) {
            warn(&holder);
        }
    }
    if let Some(tables) = told(pool, "look at the tables", vacuum::tables(pool)).await {
        for table in tables {
            metrics::postgres_table_bytes(&table.table_name, table.bytes as f64);
            metrics::postgres_dead_rows(&table.table_name, table.dead_rows as f64);
        }
    }
}

/// Never the query's text: it may hold anything.
fn warn(holder: &Holder) {
    tracing::warn!(
        kind = holder.kind,
        pid = holder.pid,
        user = holder.user,
        application_name = holder.application_name,
        state = holder.state,
        age.seconds = holder.age_seconds.map(f64::round),
        horizon.transactions = holder.horizon_transactions,
        "a transaction has lasted for long: while it does, vacuum cannot remove rows that died since \
         it began, and partitions that it has looked at cannot be dropped"
    );
}

/// Who was warned about, and at which age.
#[derive(Debug, Default)]
struct Warned(HashMap<(String, Option<i32>, Option<String>), f64>);

impl Warned {
    /// Those worth a warning now: when they have become long, and each time their age has doubled.
    fn due(&mut self, holders: Vec<Holder>, long: Duration) -> Vec<Holder> {
        let before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for holder in holders {
            let Some(age) = worth_a_warning(&holder, long) else {
                continue;
            };
            let key = (
                holder.kind.clone(),
                holder.pid,
                holder.application_name.clone(),
            );
            let last = before.get(&key).copied().filter(|last| age >= *last);
            if last.is_none_or(|last| age >= 2.0 * last) {
                self.0.insert(key, age);
                due.push(holder);
            } else if let Some(last) = last {
                self.0.insert(key, last);
            }
        }
        due
    }
}

/// The age of a holder that is old, in seconds, or in transactions where that is all that is known.
fn worth_a_warning(holder: &Holder, long: Duration) -> Option<f64> {
    match (holder.age_seconds, holder.horizon_transactions) {
        (Some(seconds), _) => Some(seconds).filter(|seconds| *seconds >= long.as_secs_f64()),
        (None, Some(transactions)) if transactions >= MANY_TRANSACTIONS => {
            Some(transactions as f64)
        }
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: i32, age_seconds: f64) -> Holder {
        Holder {
            kind: "session".into(),
            pid: Some(pid),
            user: None,
            application_name: None,
            state: None,
            age_seconds: Some(age_seconds),
            horizon_transactions: Some(1),
        }
    }

    #[test]
    fn a_long_transaction_is_told_of_when_it_becomes_long_and_when_its_age_doubles() {
        let long = Duration::from_secs(600);
        let mut warned = Warned::default();
        let mut told = |holders: &[Holder]| {
            let due = warned.due(holders.to_vec(), long);
            due.iter().filter_map(|one| one.pid).collect::<Vec<_>>()
        };
        assert!(told(&[session(1, 599.0)]).is_empty());
        assert_eq!(told(&[session(1, 601.0), session(2, 5.0)]), [1]);
        assert!(told(&[session(1, 700.0)]).is_empty());
        assert_eq!(told(&[session(1, 1300.0), session(2, 600.0)]), [1, 2]);
        // Another transaction of the same session.
        assert_eq!(told(&[session(1, 650.0)]), [1]);
    }

    #[test]
    fn a_slot_is_old_by_its_transactions() {
        let mut slot = session(1, 0.0);
        slot.age_seconds = None;
        let long = Duration::from_secs(1);
        assert_eq!(worth_a_warning(&slot, long), None);
        slot.horizon_transactions = Some(MANY_TRANSACTIONS);
        assert!(worth_a_warning(&slot, long).is_some());
    }
}
