//! What has to hold in a live database, whatever happened: the invariants of `driftd verify`.
//!
//! Each check is one statement that reads and returns what is wrong. One statement sees one moment,
//! so that nothing is wrong only because driftd was at work meanwhile, and none keeps a transaction
//! open for long: the statement timeout of every session bounds it.

mod log;
mod queue;
mod windows;

use serde::Serialize;
use serde_json::Value;
use sqlx::{PgExecutor, PgPool};

use super::Result;

/// An invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Checkpoints follow one another.
    CheckpointRanges,
    /// Reading goes on where the last checkpoint ends.
    StoredOffsets,
    /// Whoever was fenced has saved nothing since.
    Epochs,
    /// Every message is accounted for.
    Messages,
    /// What was set aside was read.
    RejectedMessages,
    /// What waits for the judge will be judged.
    Deltas,
    /// Every row read is counted or late, once.
    Rows,
    /// Rows of windows add up.
    WindowRows,
    /// One verdict per window.
    Verdicts,
    /// No window was left out.
    WindowsInOrder,
    /// The judge stands behind the last window.
    WindowCursors,
    /// What is said of a window has its window.
    Orphans,
    /// Gaps hold reading back, or were passed.
    Gaps,
    /// Windows that a gap touches say so.
    IncompleteWindows,
    /// One open episode per line of windows and kind, and the judge knows it.
    Episodes,
    /// One open job per model.
    OpenJobs,
    /// Running jobs are leased.
    Leases,
    /// What asked for retraining is there.
    Triggers,
    /// What has to be told is in the outbox.
    Outbox,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// The check.
    pub check: Check,
    /// What has to hold.
    pub holds: &'static str,
    /// How many rows show that it does not.
    pub found: i64,
    /// The first of them.
    pub rows: Vec<Value>,
    /// Why it could not be checked; `None`: it was.
    pub unchecked: Option<String>,
}

impl Findings {
    /// Checked, and nothing found.
    pub fn is_sound(&self) -> bool {
        self.found == 0 && self.unchecked.is_none()
    }
}

/// A row that shows that something is wrong, and how many there are.
#[derive(Debug)]
struct Found {
    row: Value,
    total: i64,
}

/// One statement that returns what is wrong, with the rows that show it as JSON.
macro_rules! found {
    ($doing:literal, $sql:tt, $executor:expr, $limit:expr) => {
        sqlx::query_as!(Found, $sql, $limit)
            .fetch_all($executor)
            .await
            .map_err($crate::store::Error::doing($doing))
    };
}
use found;

impl Check {
    /// All, in the order in which data comes by.
    pub const ALL: [Self; 19] = [
        Self::CheckpointRanges,
        Self::StoredOffsets,
        Self::Epochs,
        Self::Messages,
        Self::RejectedMessages,
        Self::Deltas,
        Self::Rows,
        Self::WindowRows,
        Self::Verdicts,
        Self::WindowsInOrder,
        Self::WindowCursors,
        Self::Orphans,
        Self::Gaps,
        Self::IncompleteWindows,
        Self::Episodes,
        Self::OpenJobs,
        Self::Leases,
        Self::Triggers,
        Self::Outbox,
    ];

    /// The name, for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CheckpointRanges => "checkpoint_ranges",
            Self::StoredOffsets => "stored_offsets",
            Self::Epochs => "epochs",
            Self::Messages => "messages",
            Self::RejectedMessages => "rejected_messages",
            Self::Deltas => "deltas",
            Self::Rows => "rows",
            Self::WindowRows => "window_rows",
            Self::Verdicts => "verdicts",
            Self::WindowsInOrder => "windows_in_order",
            Self::WindowCursors => "window_cursors",
            Self::Orphans => "orphans",
            Self::Gaps => "gaps",
            Self::IncompleteWindows => "incomplete_windows",
            Self::Episodes => "episodes",
            Self::OpenJobs => "open_jobs",
            Self::Leases => "leases",
            Self::Triggers => "triggers",
            Self::Outbox => "outbox",
        }
    }

    /// What has to hold.
    pub fn holds(self) -> &'static str {
        match self {
            Self::CheckpointRanges => {
                "the checkpoints of a partition follow one another: no hole but a recorded gap, no \
                 overlap"
            }
            Self::StoredOffsets => {
                "the stored offset of a partition is the end of its last checkpoint"
            }
            Self::Epochs => {
                "epochs and offsets never go back from checkpoint to checkpoint, and the stored \
                 epoch is the greatest"
            }
            Self::Messages => {
                "the messages of a checkpoint are read, rejected or skipped, and fit into its offsets"
            }
            Self::RejectedMessages => {
                "rejected messages lie within checkpoints, no more than those have counted"
            }
            Self::Deltas => {
                "rows that wait for a verdict lie within their checkpoint and before the last window \
                 of their line"
            }
            Self::Rows => {
                "every row read is in a window, waits for one or was too late for one, and once only"
            }
            Self::WindowRows => {
                "the rows of a window are those of its scores and of its deltas, and come from \
                 somewhere"
            }
            Self::Verdicts => "a window has one verdict at most",
            Self::WindowsInOrder => {
                "the windows of a line follow one another, but for silences of more than a thousand"
            }
            Self::WindowCursors => "a line of windows goes on behind its last judged window",
            Self::Orphans => "scores, contributions and profiles have their window",
            Self::Gaps => "a gap that was not passed holds its partition at its first offset",
            Self::IncompleteWindows => {
                "windows that a gap touches are incomplete unless they were judged before it, and no \
                 others are"
            }
            Self::Episodes => {
                "a line of windows has one open episode of a kind at most, and it is the one its state \
                 names"
            }
            Self::OpenJobs => "a model has one open job at most",
            Self::Leases => "a running job has a lease, within its attempts",
            Self::Triggers => "the episodes and jobs that triggers and reasons name are there",
            Self::Outbox => "what fired, ended or was enqueued is in the outbox, and nothing else",
        }
    }

    /// Looks for what is wrong, with at most so many rows that show it.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn run(self, executor: impl PgExecutor<'_>, limit: i64) -> Result<Findings> {
        let found = self.find(executor, limit).await;
        let (found, unchecked) = match found {
            Ok(found) => (found, None),
            Err(error) if error.is_timeout() => (Vec::new(), Some(error.chain())),
            Err(error) => return Err(error),
        };
        Ok(Findings {
            check: self,
            holds: self.holds(),
            found: found.first().map_or(0, |first| first.total),
            rows: found.into_iter().map(|one| one.row).collect(),
            unchecked,
        })
    }

    async fn find(self, executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
        match self {
            Self::CheckpointRanges => log::checkpoint_ranges(executor, limit).await,
            Self::StoredOffsets => log::stored_offsets(executor, limit).await,
            Self::Epochs => log::epochs(executor, limit).await,
            Self::Messages => log::messages(executor, limit).await,
            Self::RejectedMessages => log::rejected_messages(executor, limit).await,
            Self::Gaps => log::gaps(executor, limit).await,
            Self::Deltas => windows::deltas(executor, limit).await,
            Self::Rows => windows::read_rows(executor, limit).await,
            Self::WindowRows => windows::rows(executor, limit).await,
            Self::Verdicts => windows::verdicts(executor, limit).await,
            Self::WindowsInOrder => windows::in_order(executor, limit).await,
            Self::WindowCursors => windows::cursors(executor, limit).await,
            Self::Orphans => windows::orphans(executor, limit).await,
            Self::IncompleteWindows => windows::incomplete(executor, limit).await,
            Self::Episodes => queue::episodes(executor, limit).await,
            Self::OpenJobs => queue::open_jobs(executor, limit).await,
            Self::Leases => queue::leases(executor, limit).await,
            Self::Triggers => queue::triggers(executor, limit).await,
            Self::Outbox => queue::outbox(executor, limit).await,
        }
    }
}

/// Runs all checks, one after the other.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn all(pool: &PgPool, limit: i64) -> Result<Vec<Findings>> {
    let mut findings = Vec::new();
    for check in Check::ALL {
        findings.push(check.run(pool, limit).await?);
    }
    Ok(findings)
}
