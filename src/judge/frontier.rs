//! Which lines may have a ripe window: what the judge tries to claim next.
//!
//! Whatever may make a window ripe is a commit of some replica: a watermark that passes the window's
//! end, a partition that becomes idle or is confirmed to be. Triggers notify of it with the monitor's
//! key, and only that monitor's lines are looked at. So a quiet replica asks Postgres next to nothing,
//! and many windows that ripen together are found by few statements.
//!
//! A notification is a hint and nothing hangs on it. Every few seconds all lines are looked at: that
//! finds what was said while nobody listened, what a replica has left behind that died, partitions
//! that are no more, lines whose failed window is due again, and the rare window that the clock alone
//! makes ripe (its event times are ahead of the clock). What is found is a hint too: whether a window
//! is ripe, and ours, is settled by its claim, under the line's lock. A line that was judged is tried
//! again at once, since its next window may be ripe already.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::store;
use crate::store::ripe::{self, LONGEST_SILENCE, Listener, Ripeness};

/// How often all lines are looked at.
const FALLBACK: Duration = Duration::from_secs(5);
/// From the first notification to the look at what has come by then.
const LULL: Duration = Duration::from_millis(50);

/// A line that may have a ripe window; those of the earliest windows come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) window_start: DateTime<Utc>,
    pub(super) monitor_id: i64,
    pub(super) version: String,
}

/// Where to look, and what was found.
pub(super) struct Frontier {
    ripeness: Vec<Ripeness>,
    found: BTreeSet<Candidate>,
    /// Monitors that a notification has named.
    heard: BTreeSet<i64>,
    listener: Option<Listener>,
    /// When all lines are looked at.
    look_at: Instant,
}

impl Frontier {
    pub(super) fn new(ripeness: Vec<Ripeness>) -> Self {
        Self {
            ripeness,
            found: BTreeSet::new(),
            heard: BTreeSet::new(),
            listener: None,
            look_at: Instant::now(),
        }
    }

    /// The next line to claim.
    pub(super) fn pop(&mut self) -> Option<Candidate> {
        self.found.pop_first()
    }

    /// A line that may have a ripe window, as far as we know.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.found.insert(candidate);
    }

    /// Looks at the lines that were heard of, and at all of them if that is due. False: there was
    /// nothing to look at, and Postgres was not asked.
    pub(super) async fn look(
        &mut self,
        pool: &PgPool,
        now: DateTime<Utc>,
        patience: Duration,
    ) -> store::Result<bool> {
        let is_due = Instant::now() >= self.look_at;
        if is_due {
            // First the ear, then the eye: nothing is said unheard in between.
            self.listen(pool, patience / 4).await;
        } else if self.heard.is_empty() {
            return Ok(false);
        }
        let all = self.ripeness.iter();
        let ours = all.filter(|one| is_due || self.heard.contains(&one.monitor_id));
        let ours: Vec<Ripeness> = ours.cloned().collect();
        let found = async {
            let acquired = pool.acquire().await;
            let mut connection = acquired.map_err(store::Error::doing("look for ripe windows"))?;
            ripe::candidates(&mut connection, &ours, LONGEST_SILENCE, now).await
        };
        let found = store::within(patience, "look for ripe windows", found).await?;
        self.found.extend(found.into_iter().map(|one| Candidate {
            window_start: one.window_start,
            monitor_id: one.monitor_id,
            version: one.version,
        }));
        self.heard.clear();
        if is_due {
            self.look_at = Instant::now() + FALLBACK;
        }
        Ok(true)
    }

    /// Without an ear the looks at all lines find everything, only later.
    async fn listen(&mut self, pool: &PgPool, patience: Duration) {
        let listening = async {
            match self.listener.as_mut() {
                Some(listener) => listener.check().await,
                None => {
                    self.listener = Some(Listener::connect(pool).await?);
                    Ok(())
                }
            }
        };
        if let Err(error) = store::within(patience, "listen for ripe windows", listening).await {
            tracing::debug!(error = error.chain(), "ripe windows are not heard of");
            self.listener = None;
        }
    }

    /// Waits for the moment at which to look again. May be given up at any time: what was heard by
    /// then is kept.
    pub(super) async fn wait(&mut self) {
        let Some(listener) = &mut self.listener else {
            return tokio::time::sleep_until(self.look_at).await;
        };
        let mut until = self.look_at;
        while let Ok(heard) = tokio::time::timeout_at(until, listener.next()).await {
            let Ok(monitor_id) = heard else {
                // What was said meanwhile is lost.
                self.listener = None;
                self.look_at = Instant::now() + LULL;
                return tokio::time::sleep_until(self.look_at).await;
            };
            if self.heard.is_empty() {
                until = until.min(Instant::now() + LULL);
            }
            self.heard.insert(monitor_id);
        }
    }
}
