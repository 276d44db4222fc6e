//! The end: what was read is saved, and the group is left.

use std::time::Duration;

use rdkafka::consumer::Consumer;

use super::{Collector, Error};
use crate::api::Readiness;
use crate::ingest::consumer::TopicPartition;
use crate::ingest::partition::Partition;

/// How long saving may take.
const SAVING_MS: i64 = 20_000;
/// How long the brokers may take to confirm that what was read may be saved.
const CONFIRMING_MS: i64 = 5_000;

impl Collector {
    /// Nothing more is taken in. A partition that is fenced now is somebody else's: nothing of it
    /// is lost.
    pub(super) fn finish(mut self, readiness: &Readiness) -> Result<(), Error> {
        self.finishing = true;
        let begun = self.clock.now_ms();
        for (key, partition) in &mut self.partitions {
            partition.hand_on(key)?;
        }
        let mut open = 0;
        let mut now = begun;
        while now < begun + SAVING_MS {
            let keys: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
            for key in keys {
                let partition = self.partitions.get(&key);
                if partition.is_some_and(Partition::has_unsaved) {
                    self.save(&key, false, now);
                }
            }
            if now >= begun + CONFIRMING_MS {
                self.partitions.retain(|_, p| p.confirming.is_none());
            }
            open = self.partitions.values().filter(|p| p.saving).count();
            if open == 0 {
                break;
            }
            self.ask_topics(now);
            std::thread::sleep(Duration::from_millis(5));
            self.hear_answers(readiness)?;
            self.hear_replies()?;
            now = self.clock.now_ms();
        }
        if open > 0 {
            tracing::warn!(
                partitions = open,
                "not saved in time; it will be read again"
            );
        }
        self.consumer.unsubscribe();
        tracing::info!("collecting has ended");
        Ok(())
    }
}
