//! Baselines ready to judge with: loaded when a window needs one, shared between the monitors of its
//! model, and dropped, least recently used first, when others need the room.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Mutex;

use super::{Error, Line};
use crate::baseline::judge::{self, Windows};
use crate::baseline::{Baseline, Outline, short};
use crate::compare::window::Shared;
use crate::decide::rule::MIN_WINDOWS;
use crate::decide::verdict::{Judge, Training};
use crate::ingest::plan;
use crate::store::{self, baselines};
use crate::telemetry::metrics;

/// The baselines in memory.
#[derive(Debug)]
pub struct Baselines {
    pool: PgPool,
    /// The one that was used last stays, whatever it takes.
    max_bytes: usize,
    /// Locked while one is loaded: none is loaded twice, and memory for it is taken once at a time.
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    by_id: LruCache<String, Ready>,
    /// Monitors, by key of their revision, and baselines about which something was logged.
    told: HashSet<(i64, String)>,
}

/// A baseline with the judges of those who watch it.
#[derive(Debug)]
struct Ready {
    read: Arc<Read>,
    /// By key of the monitor's revision.
    judges: HashMap<i64, Arc<Judge>>,
}

/// A baseline as it was read.
#[derive(Debug)]
struct Read {
    outline: Outline,
    shared: Shared,
}

impl Ready {
    fn bytes(&self) -> usize {
        let judges = self.judges.values().map(|judge| judge.reference.bytes());
        self.read.shared.bytes() + judges.sum::<usize>()
    }
}

impl Baselines {
    /// None in memory yet.
    pub fn new(pool: PgPool, max_bytes: usize) -> Self {
        let kept = Kept {
            by_id: LruCache::unbounded(),
            told: HashSet::new(),
        };
        Self {
            pool,
            max_bytes,
            kept: Mutex::new(kept),
        }
    }

    /// What judges a monitor's windows of a version by a baseline.
    ///
    /// # Errors
    /// When Postgres cannot be asked, or what is stored cannot be used.
    pub(super) async fn judge(
        &self,
        connection: &mut PgConnection,
        line: &Line,
        version: &str,
        id: &str,
        patience: Duration,
    ) -> Result<Arc<Judge>, Error> {
        let mut kept = store::meanwhile(&self.pool, connection, self.kept.lock()).await?;
        let read = match kept.by_id.get(id) {
            Some(ready) => match ready.judges.get(&line.monitor_id) {
                Some(judge) => return Ok(Arc::clone(judge)),
                None => Arc::clone(&ready.read),
            },
            None => Arc::new(self.read(connection, version, id, patience).await?),
        };
        let judge = Arc::new(self.prepare(connection, line, &read, patience).await?);
        if kept.told.insert((line.monitor_id, id.to_owned())) {
            tell(&line.monitor.name, version, &judge);
        }
        let ready = kept.by_id.get_or_insert_mut(id.to_owned(), || Ready {
            read,
            judges: HashMap::new(),
        });
        ready.judges.insert(line.monitor_id, Arc::clone(&judge));
        self.make_room(&mut kept.by_id);
        Ok(judge)
    }

    fn make_room(&self, kept: &mut LruCache<String, Ready>) {
        let mut bytes: usize = kept.iter().map(|(_, ready)| ready.bytes()).sum();
        while bytes > self.max_bytes && kept.len() > 1 {
            let dropped = kept.pop_lru().map_or(0, |(_, ready)| ready.bytes());
            bytes = bytes.saturating_sub(dropped);
        }
        metrics::baseline_bytes(bytes as f64);
    }

    async fn read(
        &self,
        connection: &mut PgConnection,
        version: &str,
        id: &str,
        patience: Duration,
    ) -> Result<Read, Error> {
        metrics::baselines_read(1);
        let reading = baselines::profile(&mut *connection, id);
        let stored = store::within(patience, "read a baseline", reading).await?;
        let stored = stored.ok_or_else(|| unusable(version, id, &"it is not stored any more"))?;
        let decoding = tokio::task::spawn_blocking(move || Baseline::decode(&stored));
        let decoded = store::meanwhile(&self.pool, connection, decoding).await??;
        let (layout, profile) = decoded.map_err(|error| unusable(version, id, &error))?;
        let outline = Outline {
            id: id.to_owned(),
            version: version.to_owned(),
            layout: Arc::new(layout),
            extends: Vec::new(),
        };
        Ok(Read {
            shared: Shared::new(Arc::clone(&outline.layout), profile),
            outline,
        })
    }

    /// Sorts what no other monitor has asked for yet, and learns from the training windows.
    async fn prepare(
        &self,
        connection: &mut PgConnection,
        line: &Line,
        read: &Arc<Read>,
        patience: Duration,
    ) -> Result<Judge, Error> {
        let id = &read.outline.id;
        let training = async {
            let slots = baselines::windows(&mut *connection, id).await?;
            let added = baselines::added(&mut *connection, id, line.monitor_id).await?;
            Ok::<_, store::Error>((slots, added))
        };
        let what = "read the training windows of a baseline";
        let (slots, added) = store::within(patience, what, training).await?;
        let (name, input) = (line.monitor.name.clone(), line.input.clone());
        let of = Arc::clone(read);
        let preparing = tokio::task::spawn_blocking(move || {
            let (id, version, all) = (&of.outline.id, &of.outline.version, &of.outline.layout);
            let layout = plan::select(&name, &input.features, &of.outline)
                .map_err(|error| unusable(version, id, &error))?;
            let training = slots
                .map(|bytes| Windows::read(&bytes, &added, all, &layout, &input))
                .transpose()
                .map_err(|error| unusable(version, id, &error))?;
            Ok(judge::judge(id, &of.shared, layout, training, &input))
        });
        store::meanwhile(&self.pool, connection, preparing).await??
    }
}

fn unusable(version: &str, id: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Baseline {
        id: short(id).to_owned(),
        version: version.to_owned(),
        why: why.to_string(),
    }
}

/// What decides, and what can be promised.
fn tell(monitor: &str, version: &str, judge: &Judge) {
    match &judge.training {
        Training::Learned(rule) => {
            let [single, several] = rule.thresholds();
            tracing::info!(
                monitor = %monitor, model.version = %version, training.windows = rule.windows(),
                threshold.single = single, threshold.several = several,
                "the rule decides, learned from the training windows"
            );
            let least = rule.describe().least_false_alarms;
            if judge.alpha < least {
                tracing::warn!(
                    monitor = %monitor, model.version = %version,
                    asked = judge.alpha, promised = least,
                    "{} training windows cannot vouch for so few false alarms per window: expect up to \
                     {least:.4} of them",
                    rule.windows()
                );
            }
        }
        Training::TooFew { windows, .. } => tracing::warn!(
            monitor = %monitor, model.version = %version, training.windows = windows,
            "the training data hold too few windows for the rule ({MIN_WINDOWS} are needed): the \
             tests decide at the same rate of false alarms"
        ),
    }
}
