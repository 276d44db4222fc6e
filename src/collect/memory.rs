//! What keeps memory bounded: reading pauses, polling goes on.

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::Collector;
use crate::ingest::consumer::TopicPartition;
use crate::ingest::partition::Phase;
use crate::telemetry::metrics;

impl Collector {
    /// Stops reading, not polling, while too much is held.
    pub(super) fn bound_memory(&mut self) {
        let held: usize = self
            .partitions
            .values()
            .map(|partition| partition.held)
            .sum();
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
                if matches!(partition.phase, Phase::Reading { .. }) && !partition.revoked {
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
