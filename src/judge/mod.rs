//! The judge half, top to bottom: claim, merge, compare, decide, save.
//!
//! Any replica judges any window. Claiming locks the window's line, so that windows of one monitor
//! and version are judged in order and one at a time; everything that follows from a window, its
//! scores, verdict, episode, job and messages, is saved in the transaction that claimed it. A
//! replica that dies in between leaves nothing behind, and the next one starts from the same rows.
//!
//! - `frontier`: which lines may have a ripe window
//! - `line`: a monitor as the judge sees it
//! - `baselines`: what its windows are compared with, in memory while it is needed
//! - `window`: one window, from its claim to its verdict
//! - `save`: what follows from it
//! - `quarantine`: a window that cannot be judged stops its own line, and no other

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Utc};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::api::Readiness;
use crate::clock::Clock;
use crate::profile::encoding;
use crate::store::ripe::{self, Claimed, LONGEST_SILENCE};
use crate::store::{self, time_partitions};
use crate::telemetry::metrics;

mod baselines;
mod frontier;
mod line;
mod quarantine;
mod save;
mod window;

pub use baselines::Baselines;
use frontier::{Candidate, Frontier};
pub use line::Line;

/// The first wait while Postgres cannot be reached.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest wait while Postgres cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// Windows, of different lines, that one replica judges side by side.
const AT_ONCE: usize = 4;
/// How often the partitions of a month are tried to make before its windows do without.
const MONTH_ATTEMPTS: u32 = 5;

/// Why a window, or all of them, could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Something stored cannot be read.
    #[error(
        "a stored profile cannot be read ({0}); restore its row of driftd.profile_deltas or \
         driftd.windows, or delete it: its rows do not count then"
    )]
    Encoding(encoding::Error),
    /// A baseline that cannot be used.
    #[error(
        "baseline {id} of version `{version}` cannot be used ({why}); restore its rows of \
         driftd.baselines and driftd.baseline_windows"
    )]
    Baseline {
        /// The start of its id.
        id: String,
        /// The version of the rows that are to be compared with it.
        version: String,
        /// What is wrong.
        why: String,
    },
    /// A state that this driftd did not write.
    #[error(
        "its state in driftd.window_cursors cannot be read ({0}); a newer driftd may have written \
         it, and can read it"
    )]
    State(serde_json::Error),
    /// The computation panicked.
    #[error("judging it panicked ({}); this is an error in driftd, please report it", quarantine::message(.0))]
    Task(#[from] JoinError),
}

impl Error {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

/// Judges windows as they become ripe, until told to stop; windows in hand are finished first.
///
/// One loop claims, and what it has claimed is judged beside it. A line that is in hand is locked, so
/// what is judged side by side are different lines.
///
/// # Errors
/// The database refuses for good.
pub async fn run(
    pool: PgPool,
    lines: Vec<Line>,
    baselines: Arc<Baselines>,
    clock: Arc<Clock>,
    readiness: Readiness,
    owner: String,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut judging = Judging::new(pool, lines, baselines, clock, readiness, owner);
    while !stop.is_cancelled() {
        let Err(error) = judging.step(&stop).await else {
            continue;
        };
        judging.failures += 1;
        let pause = PATIENCE.min(PAUSE * 2u32.saturating_pow(judging.failures.min(6)));
        let why = put_up_with(&judging.pool, error, pause).await?;
        judging.readiness.not_ready("postgres", why);
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    judging.finish().await
}

/// Postgres being away is waited out, and why is told; everything else ends the judge.
async fn put_up_with(pool: &PgPool, error: Error, pause: Duration) -> Result<String, Error> {
    match error {
        Error::Store(error) if error.is_transient() => {
            metrics::postgres_errors("judge a window", 1);
            let error = store::cause(pool, error).await.chain();
            tracing::warn!(error, retry_in = ?pause, "the judge waits for Postgres");
            Ok(error)
        }
        error => Err(error),
    }
}

/// What a window comes to: the start of the line's next one.
type Ended = Result<DateTime<Utc>, Error>;

/// What the loop carries from step to step.
struct Judging {
    pool: PgPool,
    lines: HashMap<i64, Arc<Line>>,
    baselines: Arc<Baselines>,
    frontier: Frontier,
    clock: Arc<Clock>,
    readiness: Readiness,
    owner: String,
    in_hand: JoinSet<Ended>,
    /// What each task of `in_hand` judges: one that panics does not say it.
    claims: HashMap<Id, (Arc<Line>, Claimed)>,
    at_once: usize,
    /// Attempts to make the partitions of a month; those that are made count as all.
    months: HashMap<(i32, u32), u32>,
    /// Of Postgres, in a row.
    failures: u32,
}

impl Judging {
    fn new(
        pool: PgPool,
        lines: Vec<Line>,
        baselines: Arc<Baselines>,
        clock: Arc<Clock>,
        readiness: Readiness,
        owner: String,
    ) -> Self {
        let frontier = Frontier::new(lines.iter().map(Line::ripeness).collect());
        let lines = lines.into_iter();
        Self {
            lines: lines.map(|one| (one.monitor_id, Arc::new(one))).collect(),
            baselines,
            frontier,
            clock,
            readiness,
            owner,
            in_hand: JoinSet::new(),
            claims: HashMap::new(),
            at_once: at_once(&pool),
            months: HashMap::new(),
            failures: 0,
            pool,
        }
    }

    /// Begins a window, or waits until one is judged or may be ripe.
    async fn step(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let has_room = self.in_hand.len() < self.at_once;
        if has_room {
            let (now, patience) = (self.clock.now(), self.patience());
            if self.frontier.look(&self.pool, now, patience).await? {
                self.answered();
            }
            if let Some(candidate) = self.frontier.pop() {
                return self.begin(candidate).await;
            }
        }
        tokio::select! {
            Some(ended) = self.in_hand.join_next_with_id() => self.end(ended).await,
            () = self.frontier.wait(), if has_room => Ok(()),
            () = stop.cancelled() => Ok(()),
        }
    }

    fn patience(&self) -> Duration {
        store::patience(&self.pool, self.failures)
    }

    /// Postgres has done what it was asked for.
    fn answered(&mut self) {
        self.readiness.ready("postgres");
        self.failures = 0;
    }

    /// Claims the next window of a line, if it is ripe and nobody else has it, and begins to judge it.
    async fn begin(&mut self, candidate: Candidate) -> Result<(), Error> {
        let Some(line) = self.lines.get(&candidate.monitor_id).cloned() else {
            return Ok(());
        };
        let (begun, patience) = (Instant::now(), self.patience());
        let claim = claim(&self.pool, &line, &candidate.version, &self.clock);
        let claimed = match store::within(patience, "claim a window", claim).await {
            Ok(claimed) => claimed,
            Err(error) => {
                self.frontier.push(candidate);
                return Err(error.into());
            }
        };
        let Some((transaction, claimed)) = claimed else {
            return Ok(());
        };
        if !self.has_month(claimed.window_start) {
            // Not under the locks of a claim: the window is claimed again afterwards.
            drop(transaction);
            self.make_month(claimed.window_start, patience).await;
            self.frontier.push(candidate);
            return Ok(());
        }
        let (pool, clock) = (self.pool.clone(), Arc::clone(&self.clock));
        let held = (Arc::clone(&line), claimed.clone());
        let baselines = Arc::clone(&self.baselines);
        let task = self.in_hand.spawn(async move {
            let judging = window::judge_claimed(
                &pool,
                transaction,
                &line,
                &baselines,
                &claimed,
                &clock,
                patience,
            );
            let next = judging.await?;
            metrics::judge_duration_seconds(begun.elapsed().as_secs_f64());
            Ok(next)
        });
        self.claims.insert(task.id(), held);
        Ok(())
    }

    fn has_month(&self, start: DateTime<Utc>) -> bool {
        let attempts = self.months.get(&(start.year(), start.month()));
        attempts.is_some_and(|attempts| *attempts >= MONTH_ATTEMPTS)
    }

    /// Windows of a month stand in partitions of their own. Where those cannot be made in a few attempts,
    /// because a long query holds the tables, the default partitions take them.
    async fn make_month(&mut self, start: DateTime<Utc>, patience: Duration) {
        let attempts = self.months.entry((start.year(), start.month()));
        let attempts = attempts.or_default();
        let made = time_partitions::make_month(&self.pool, start);
        match store::within(patience, "make the partitions of a month", made).await {
            Ok(()) => *attempts = MONTH_ATTEMPTS,
            Err(error) => {
                *attempts += 1;
                let month = start.format("%Y-%m");
                let error = error.chain();
                tracing::warn!(error, attempt = attempts, %month, "no partition for a month");
            }
        }
    }

    /// A window that fails for Postgres' sake is tried again soon; any other stops its line.
    async fn end(&mut self, ended: Result<(Id, Ended), JoinError>) -> Result<(), Error> {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(panic) => (panic.id(), Err(Error::Task(panic))),
        };
        let Some((line, claimed)) = self.claims.remove(&id) else {
            return outcome.map(|_| ());
        };
        let candidate = |window_start| Candidate {
            window_start,
            monitor_id: claimed.monitor_id,
            version: claimed.version.clone(),
        };
        match outcome {
            Ok(next) => {
                self.answered();
                self.frontier.push(candidate(next));
                Ok(())
            }
            Err(error) if error.is_transient() => {
                self.frontier.push(candidate(claimed.window_start));
                Err(error)
            }
            Err(error) => {
                let report = quarantine::report(&self.pool, &self.owner, &line, &claimed, &error);
                store::within(self.patience(), "report a failure", report).await?;
                Ok(())
            }
        }
    }

    async fn finish(mut self) -> Result<(), Error> {
        while let Some(ended) = self.in_hand.join_next_with_id().await {
            if let Err(error) = self.end(ended).await {
                put_up_with(&self.pool, error, Duration::ZERO).await?;
            }
        }
        Ok(())
    }
}

/// Each window in hand holds a connection; most are left to checkpoints.
fn at_once(pool: &PgPool) -> usize {
    let share = pool.options().get_max_connections() / 3;
    (share as usize).clamp(1, AT_ONCE)
}

async fn claim(
    pool: &PgPool,
    line: &Line,
    version: &str,
    clock: &Clock,
) -> store::Result<Option<(Transaction<'static, Postgres>, Claimed)>> {
    let begun = pool.begin().await;
    let mut transaction = begun.map_err(store::Error::doing("begin judging a window"))?;
    let (ripeness, now) = (line.ripeness(), clock.now());
    let claimed = ripe::claim(&mut transaction, &ripeness, version, LONGEST_SILENCE, now).await?;
    Ok(claimed.map(|claimed| (transaction, claimed)))
}
