//! The end: what was read is saved, and the group is left.

use std::time::Duration;

use rdkafka::consumer::Consumer;

use super::{Collector, Error};
use crate::ingest::consumer::TopicPartition;
use crate::save::{Reply, Request};

impl Collector {
    /// The end: nothing more is taken in, what was read is saved, the group is left.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut open = 0;
        for (key, partition) in &mut self.partitions {
            partition.hand_on(key)?;
        }
        let deadline = now + 20_000;
        while self.clock.now_ms() < deadline {
            let keys: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
            open = 0;
            for key in keys {
                let Some(partition) = self.partitions.get_mut(&key) else {
                    continue;
                };
                if partition.saving {
                    open += 1;
                } else if partition.has_unsaved()
                    && let Some(unsaved) = partition.cut(&key, now)
                {
                    self.ask(Request::Save(Box::new(unsaved)));
                    open += 1;
                }
            }
            if open == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            // A partition that is fenced now is somebody else's: nothing of it is lost.
            while let Ok(reply) = self.replies.try_recv() {
                match reply {
                    Reply::Saved { key, epoch, .. } | Reply::Fenced { key, epoch } => {
                        if let Some(partition) = self.current(&key, epoch) {
                            partition.saved();
                        }
                    }
                    Reply::Failed(error) => return Err(Error::Store(error)),
                    Reply::Taken { .. } => {}
                }
            }
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
