//! Retraining: what asks for it, when, and what stops it.
//!
//! A job says why a model is to be retrained, on what, and how; a trainer in any language claims
//! it with SQL functions (`driftd.claim_job` and its siblings). Everything that keeps this right
//! with several replicas and several trainers stands in the database: one open job per model is a
//! partial unique index, a slot or an episode counts once by a unique index, and a trainer that
//! lost its lease is refused by number and token.
//!
//! `run` is the clock's part: it fires due slots and returns leases that ran out. Every replica
//! runs it; they do not know of each other.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::monitor::Monitor;
use crate::monitor::retraining::CatchUp;
use crate::store;
use crate::store::triggers::Fired;

/// Baselines for the versions that trainers make.
pub mod builds;

/// What holds without anybody saying so: a model's age, and how much new data there is.
mod conditions;

/// Jobs that an orchestrator is asked to run, over HTTP.
pub mod handover;

/// When a schedule is due.
pub mod schedule;

/// Hyperparameters of the next trial, the best trial, and those that may stop early.
pub mod search;

/// Which messages of a job's data are the new version's baseline.
pub mod split;

/// What asks for retraining.
pub mod trigger;

/// Searches for hyperparameters: the next trials, and the end.
pub mod trials;

/// Runs a command for every job.
pub mod worker;

use conditions::Conditions;
use schedule::Slots;
use trigger::Trigger;

/// The longest sleep: expired leases are looked for at least so often.
const TICK: Duration = Duration::from_secs(1);
/// A slot that is fired later than this was missed.
const ON_TIME: chrono::TimeDelta = chrono::TimeDelta::minutes(1);
/// The shortest: whatever the clock says, this never spins.
const BREATH: Duration = Duration::from_millis(20);
/// The longest wait while Postgres cannot be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A monitor's schedule cannot be read.
    #[error("the schedule of monitor {monitor}: {source}")]
    Schedule {
        /// Whose.
        monitor: String,
        /// Why.
        source: schedule::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Fires due slots of all monitors with a schedule and returns expired leases, until `stop`.
/// While Postgres cannot be reached it waits and tries again.
///
/// # Errors
/// When a schedule cannot be read, or the database refuses for good.
pub async fn run(
    pool: PgPool,
    monitors: Arc<[Monitor]>,
    clock: Arc<Clock>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut scheduler = Scheduler::new(&monitors)?;
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let patience = store::patience(&pool, failures);
        let tick = scheduler.tick(&pool, clock.now());
        let pause = match store::within(patience, "look after schedules and leases", tick).await {
            Ok(next) => {
                failures = 0;
                pause_until(next, clock.now())
            }
            Err(Error::Store(error)) if error.is_transient() => {
                failures += 1;
                let pause = PATIENCE.min(TICK * 2_u32.saturating_pow(failures.min(5)));
                tracing::warn!(error = %error.chain(), retry_in = ?pause, "the scheduler waits for Postgres");
                pause
            }
            Err(error) => return Err(error),
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    Ok(())
}

fn pause_until(next: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    let wait = next.and_then(|next| (next - now).to_std().ok());
    // No wait where the slot has passed since: it is due at once.
    next.map_or(TICK, |_| wait.unwrap_or(BREATH))
        .clamp(BREATH, TICK)
}

/// The monitors with a schedule and where each stands.
#[derive(Debug)]
pub struct Scheduler<'a> {
    planned: Vec<Planned<'a>>,
    /// Monitors without a schedule, until they are forgotten in the database.
    unplanned: Vec<&'a Monitor>,
    conditions: Conditions<'a>,
}

#[derive(Debug)]
struct Planned<'a> {
    monitor: &'a Monitor,
    slots: Slots,
    catch_up: CatchUp,
    /// Slots up to here are done with; `None`: not read from the database yet.
    done: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
}

impl<'a> Scheduler<'a> {
    /// Reads the schedules.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn new(monitors: &'a [Monitor]) -> Result<Self, Error> {
        let mut scheduler = Self {
            planned: Vec::new(),
            unplanned: Vec::new(),
            conditions: Conditions::of(monitors),
        };
        for monitor in monitors {
            let Some(schedule) = &monitor.retraining.schedule else {
                scheduler.unplanned.push(monitor);
                continue;
            };
            let slots = Slots::new(schedule).map_err(|source| Error::Schedule {
                monitor: monitor.name.clone(),
                source,
            })?;
            scheduler.planned.push(Planned {
                monitor,
                slots,
                catch_up: schedule.catch_up,
                done: None,
                next: None,
            });
        }
        Ok(scheduler)
    }

    /// Does what is due at `now`; answers when the next slot comes.
    ///
    /// # Errors
    /// When the database cannot be asked. What was not done is done by the next call.
    pub async fn tick(
        &mut self,
        pool: &PgPool,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        while let Some(monitor) = self.unplanned.last() {
            store::schedules::forget(pool, &monitor.name).await?;
            self.unplanned.pop();
        }
        for planned in &mut self.planned {
            planned.tick(pool, now).await?;
        }
        self.conditions.tick(pool, now).await?;
        trials::plan(pool).await?;
        let returned = store::jobs::return_expired_leases(pool).await?;
        if returned > 0 {
            tracing::warn!(jobs.count = returned, "leases of retraining jobs expired");
        }
        Ok(self.planned.iter().filter_map(|planned| planned.next).min())
    }
}

impl Planned<'_> {
    async fn tick(&mut self, pool: &PgPool, now: DateTime<Utc>) -> Result<(), Error> {
        let done = match self.done {
            Some(done) => done,
            None => self.take_up(pool, now).await?,
        };
        let due = match self.next {
            Some(next) if next <= now => self.due(done, now),
            _ => Vec::new(),
        };
        for (slot, missed) in due {
            self.fire(pool, slot, missed, now).await?;
            self.done = Some(slot);
            self.plan(pool, slot.max(now)).await?;
        }
        Ok(())
    }

    /// The slots to fire, and whether each is told as missed only.
    fn due(&self, done: DateTime<Utc>, now: DateTime<Utc>) -> Vec<(DateTime<Utc>, bool)> {
        let last = self.slots.last(done, now);
        let on_time = |slot: DateTime<Utc>| now - slot <= ON_TIME;
        match self.catch_up {
            CatchUp::All => {
                let slots = self.slots.between(done, now);
                slots.into_iter().map(|slot| (slot, false)).collect()
            }
            CatchUp::Last => last.map(|slot| (slot, false)).into_iter().collect(),
            CatchUp::None => last
                .map(|slot| (slot, !on_time(slot)))
                .into_iter()
                .collect(),
        }
    }

    /// Where this schedule stands: at its last slot, or where it began.
    async fn take_up(&mut self, pool: &PgPool, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
        let name = &self.monitor.name;
        let (cron, zone) = (self.slots.cron(), self.slots.time_zone().name());
        let since = store::schedules::register(pool, name, cron, zone, now).await?;
        let last = store::triggers::last_slot(pool, name).await?;
        let done = last.map_or(since, |last| last.max(since));
        self.plan(pool, done).await?;
        self.done = Some(done);
        Ok(done)
    }

    async fn plan(&mut self, pool: &PgPool, after: DateTime<Utc>) -> Result<(), Error> {
        let next = self.slots.next(after);
        store::schedules::set_next(pool, &self.monitor.name, next).await?;
        self.next = next;
        Ok(())
    }

    async fn fire(
        &self,
        pool: &PgPool,
        slot: DateTime<Utc>,
        missed: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let trigger = Trigger::Schedule {
            monitor: self.monitor,
            slot,
            missed,
        };
        if let Some(fired) = fire(pool, &trigger, now).await? {
            tracing::info!(
                monitor.name = self.monitor.name,
                model.id = self.monitor.model,
                schedule.slot = %slot,
                trigger.outcome = fired.outcome,
                trigger.guard = fired.guard,
                job.id = fired.job_id,
                "a retraining schedule was due"
            );
        }
        Ok(())
    }
}

/// Fires a trigger in a transaction of its own.
async fn fire(
    pool: &PgPool,
    trigger: &Trigger<'_>,
    now: DateTime<Utc>,
) -> Result<Option<Fired>, Error> {
    let mut transaction = pool.begin().await.map_err(store::Error::from)?;
    let fired = trigger.fire(&mut transaction, now).await?;
    transaction.commit().await.map_err(store::Error::from)?;
    Ok(fired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn it_sleeps_until_the_next_slot_but_never_long_and_never_not_at_all() {
        let now = at(1000);
        assert_eq!(pause_until(None, now), TICK);
        assert_eq!(pause_until(Some(at(2000)), now), TICK);
        assert_eq!(
            pause_until(Some(now + Duration::from_millis(300)), now).as_millis(),
            300
        );
        assert_eq!(pause_until(Some(now), now), BREATH);
        assert_eq!(pause_until(Some(at(900)), now), BREATH);
    }
}
