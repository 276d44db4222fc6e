//! A monitor as the judge sees it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decide::verdict::Judge;
use crate::monitor::{Input, Monitor};
use crate::store::ripe::{Claimed, Ripeness};
use crate::store::windows::DeltaRow;

/// A monitor as the judge sees it.
#[derive(Debug)]
pub struct Line {
    /// Key of its revision.
    pub monitor_id: i64,
    /// The monitor.
    pub monitor: Monitor,
    /// What it reads; the same as in the monitor.
    pub input: Input,
    /// A judge per baseline.
    pub judges: HashMap<String, Arc<Judge>>,
}

impl Line {
    pub(super) fn ripeness(&self) -> Ripeness {
        let spec = &self.input.window;
        let close_ms = spec.allowed_lateness_ms;
        Ripeness {
            monitor_id: self.monitor_id,
            topic: self.input.topic.clone(),
            longest_ms: spec.longest_ms(),
            reach_ms: close_ms + spec.out_of_orderness_ms,
            close_ms,
            due_ms: close_ms + spec.idle_after_ms,
            every_ms: spec.every_ms,
        }
    }

    /// All rows of a version were profiled by one baseline's bins, unless it got its baseline while the
    /// window was read: rows from before that can be compared with nothing. A window without rows is judged
    /// by the baseline that its version has.
    pub(super) fn judge_for(&self, claimed: &Claimed, deltas: &[DeltaRow]) -> Option<Arc<Judge>> {
        let mut profiled = deltas.iter().filter(|delta| delta.bytes.is_some());
        if profiled.any(|delta| delta.baseline_id.is_none()) {
            return None;
        }
        let of_rows = deltas.iter().find_map(|delta| delta.baseline_id.as_ref());
        let judge = of_rows.and_then(|id| self.judges.get(id));
        judge.or_else(|| self.judge_of(&claimed.version)).cloned()
    }

    fn judge_of(&self, version: &str) -> Option<&Arc<Judge>> {
        self.judges.get(&format!("version:{version}"))
    }

    /// The key under which the judge of a version is found.
    pub fn version_key(version: &str) -> String {
        format!("version:{version}")
    }
}
