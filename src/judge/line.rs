//! A monitor as the judge sees it.

use std::sync::Arc;

use crate::baseline::Outline;
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
    /// The baselines of its model's versions.
    pub baselines: Vec<Arc<Outline>>,
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

    /// The id of the baseline that a window is judged by. All rows of a version were profiled by one
    /// baseline's bins, unless it got its baseline while the window was read: rows from before that can be
    /// compared with nothing. The bins of a baseline are also those of the ones that it extends, and the
    /// window is judged by the latest. A window without rows is judged by the baseline that its version has.
    pub(super) fn baseline_for(&self, claimed: &Claimed, deltas: &[DeltaRow]) -> Option<String> {
        let mut profiled = deltas.iter().filter(|delta| delta.bytes.is_some());
        if profiled.any(|delta| delta.baseline_id.is_none()) {
            return None;
        }
        let of_version = self
            .baselines
            .iter()
            .find(|one| one.version == claimed.version);
        match deltas.iter().find_map(|delta| delta.baseline_id.as_ref()) {
            Some(id) => {
                let extended = self.baselines.iter().find(|one| one.extends.contains(id));
                Some(extended.map_or(id, |latest| &latest.id).clone())
            }
            None => of_version.map(|one| one.id.clone()),
        }
    }
}
