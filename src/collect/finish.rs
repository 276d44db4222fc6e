//! The end: what was read is saved, and the group is left.

use std::time::Duration;

use rdkafka::consumer::Consumer;

use super::partition::{Event, Partition};
use super::perform::keys_of;
use super::{Collector, Error};
use crate::api::Readiness;

/// How long saving may take.
const SAVING_MS: i64 = 20_000;
/// How long the brokers may take to confirm that what was read may be saved.
const CONFIRMING_MS: i64 = 5_000;

impl Collector {
    /// Nothing more is taken in. A partition that is fenced now is somebody else's: nothing of it
    /// is lost.
    pub(super) fn finish(mut self, readiness: &Readiness) -> Result<(), Error> {
        for key in keys_of(&self.topics, |_, _| true) {
            self.tell(key, Event::Revoked);
        }
        let begun = self.clock.now_ms();
        let mut now = begun;
        loop {
            self.perform();
            let left = keys_of(&self.topics, |key, topic| {
                let partition = &topic.partitions[&key.partition].partition;
                partition.is_in_flight() && (now < begun + CONFIRMING_MS || is_saving(partition))
            });
            if left.is_empty() {
                break;
            }
            if now >= begun + SAVING_MS {
                tracing::warn!(
                    partitions = left.len(),
                    "not saved in time; it will be read again"
                );
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            self.hear(readiness);
            now = self.clock.now_ms();
        }
        self.consumer.unsubscribe();
        tracing::info!("collecting has ended");
        Ok(())
    }
}

/// Whether what was read is on its way to Postgres already.
fn is_saving(partition: &Partition) -> bool {
    partition
        .reading()
        .is_some_and(|reading| reading.is_saving())
}
