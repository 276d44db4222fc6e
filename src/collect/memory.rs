//! What keeps memory bounded: reading pauses, polling goes on.
//!
//! Held are, per partition: rows that wait to be profiled, with room for a batch of them; profiles of
//! the stretch since the last checkpoint; what was set aside; what samples have in mind; and the
//! stretch that is on its way to Postgres. All of it is looked at ten times a second, and at once
//! where one partition is full, so that what is held exceeds the limit by no more than is read in a
//! tenth of a second. Beside that, the client holds what it has fetched ahead, over all partitions
//! (`queued.max.messages.kbytes`, 64 MiB). A topic that outruns driftd grows lag, not memory.

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::Collector;
use crate::ingest::consumer::TopicPartition;
use crate::ingest::partition::Partition;
use crate::telemetry::metrics;

impl Collector {
    fn held(&self) -> usize {
        self.partitions.values().map(Partition::held).sum()
    }

    /// While more than half of the limit is held: the share from which on a partition is saved
    /// before its time. Smaller ones would not help, and cost as much each.
    pub(super) fn pressure(&self) -> Option<usize> {
        let limit = self.options.limits.max_held_bytes;
        (self.held() > limit / 2).then(|| limit / 4 / self.partitions.len().max(1))
    }

    /// Stops reading, not polling, while too much is held.
    pub(super) fn bound_memory(&mut self) {
        let held = self.held();
        let on_the_way = self
            .partitions
            .values()
            .filter(|partition| partition.saving)
            .count();
        let limit = self.options.limits.max_held_bytes;
        metrics::held_bytes(held as f64);
        if !self.paused && held > limit && on_the_way > 0 {
            self.paused = true;
            tracing::warn!(
                held.bytes = held,
                limit.bytes = limit,
                "too much is held: reading pauses"
            );
            self.partitions.keys().for_each(|key| self.pause(key));
        } else if self.paused && (held < limit / 2 || on_the_way == 0) {
            self.paused = false;
            tracing::info!(held.bytes = held, "reading goes on");
            let mut list = TopicPartitionList::new();
            for (key, partition) in &self.partitions {
                if partition.resumed && !partition.revoked {
                    list.add_partition(&key.topic, key.partition);
                }
            }
            if let Err(error) = self.consumer.resume(&list) {
                tracing::warn!(%error, "cannot resume");
            }
        }
        let paused = if self.paused {
            self.partitions.len()
        } else {
            0
        };
        metrics::paused_partitions(paused as f64);
    }

    pub(super) fn pause(&self, key: &TopicPartition) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&key.topic, key.partition);
        if let Err(error) = self.consumer.pause(&list) {
            tracing::debug!(%error, "cannot pause");
        }
    }
}
