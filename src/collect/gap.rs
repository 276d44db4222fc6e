//! Messages that were gone from the log before they were read.

use super::{Collector, Error, Options};
use crate::ingest::consumer::TopicPartition;
use crate::ingest::partition::Phase;
use crate::monitor::OnGap;

/// How long the other partitions are waited for, so that their gaps are recorded too.
const OTHERS_MS: i64 = 3_000;

/// What is to be done about gaps of a topic, as it is stored.
pub(super) fn policy_name(options: &Options, topic: &str) -> &'static str {
    match options.on_gap.get(topic) {
        Some(OnGap::Continue) => "continue",
        Some(OnGap::Stop) | None => "stop",
    }
}

impl Collector {
    /// A partition's gaps are recorded, and the policy is to stop.
    pub(super) fn stopped(&mut self, key: &TopicPartition) {
        let starting = self.partitions.get_mut(key).and_then(|partition| {
            partition.phase = Phase::Taking;
            partition.starting.take()
        });
        let start = starting.and_then(|starting| starting.start);
        let missing: Vec<String> = start
            .iter()
            .flat_map(|start| &start.missing)
            .map(ToString::to_string)
            .collect();
        let error = Error::Gap {
            topic: key.topic.to_string(),
            partition: key.partition,
            what: missing.join("; "),
        };
        self.gap
            .get_or_insert((error, self.clock.now_ms() + OTHERS_MS));
    }

    /// The gap that ends collecting, once the other partitions have had the time to find theirs.
    pub(super) fn end_for_gap(&mut self, now: i64) -> Result<(), Error> {
        let waiting = self.partitions.values().any(|p| p.starting.is_some());
        match self.gap.take_if(|(_, until)| !waiting || now >= *until) {
            Some((error, _)) => Err(error),
            None => Ok(()),
        }
    }
}
