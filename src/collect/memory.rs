//! What keeps memory bounded: reading pauses, polling goes on; and what the collect half tells of
//! itself.
//!
//! Held are, per partition: profiles of the stretch since the last checkpoint; what was set aside; what
//! samples keep between stretches; and the stretch that is on its way to Postgres. The sum over all
//! partitions is kept up with every change. Beside that, the client holds what it has fetched ahead,
//! over all partitions (`queued.max.messages.kbytes`, 64 MiB). A topic that outruns driftd grows lag,
//! not memory.

use super::Collector;
use super::partition::Partition;
use super::perform::keys_of;
use crate::telemetry::metrics;

impl Collector {
    fn partitions(&self) -> impl Iterator<Item = &Partition> {
        let slots = self
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.values());
        slots.map(|slot| &slot.partition)
    }

    /// While more than half of the limit is held: the share from which on a partition is saved
    /// before its time. Smaller ones would not help, and cost as much each.
    pub(super) fn pressure(&self) -> Option<usize> {
        let limit = self.options.limits.max_held_bytes;
        let over = self.held > limit / 2;
        over.then(|| limit / 4 / self.partitions().count().max(1))
    }

    /// Stops reading, not polling, while too much is held.
    pub(super) fn bound_memory(&mut self) {
        let limit = self.options.limits.max_held_bytes;
        if !self.paused && self.held <= limit {
            return;
        }
        let in_flight = self.partitions().any(Partition::is_in_flight);
        if !self.paused && in_flight {
            self.paused = true;
            tracing::warn!(
                held.bytes = self.held,
                limit.bytes = limit,
                "too much is held: reading pauses"
            );
            self.pause(&keys_of(&self.topics, |_, _| true));
        } else if self.paused && (self.held < limit / 2 || !in_flight) {
            self.paused = false;
            tracing::info!(held.bytes = self.held, "reading goes on");
            self.resume(&keys_of(&self.topics, |key, topic| {
                topic.partitions[&key.partition]
                    .partition
                    .expects()
                    .is_some()
            }));
        }
    }

    pub(super) fn set_gauges(&self, now: i64) {
        metrics::held_bytes(self.held as f64);
        let all = self.partitions().count();
        metrics::paused_partitions(if self.paused { all as f64 } else { 0.0 });
        let read = self.partitions().filter(|one| one.reading().is_some());
        metrics::waiting_partitions((all - read.count()) as f64);
        for topic in &self.topics {
            let monitors = &topic.plan.monitors;
            let mut open: Vec<(usize, Option<i64>)> = vec![(0, None); monitors.len()];
            let read = topic.partitions.values();
            let read = read.filter_map(|slot| slot.partition.reading());
            for progress in read.map(|reading| reading.progress(monitors)) {
                for ((sum, least), (windows, watermark)) in open.iter_mut().zip(progress) {
                    *sum += windows;
                    *least = [*least, watermark].into_iter().flatten().min();
                }
            }
            for (monitor, (windows, watermark)) in monitors.iter().zip(open) {
                metrics::open_windows(&monitor.name, windows as f64);
                if let Some(watermark) = watermark {
                    metrics::watermark_delay_seconds(&monitor.name, (now - watermark) as f64 / 1e3);
                }
            }
        }
    }
}
