//! Messages that were gone from the log before they were read.

use super::{BROKER_TIMEOUT, Collector, Error};
use crate::ingest::consumer::TopicPartition;
use crate::monitor::OnGap;
use crate::save::Request;
use crate::store::partitions::Gap;
use crate::telemetry::metrics;

impl Collector {
    pub(super) fn gap(
        &self,
        key: &TopicPartition,
        stored: i64,
        available: i64,
    ) -> Result<i64, Error> {
        let policy = self
            .options
            .on_gap
            .get(&*key.topic)
            .copied()
            .unwrap_or(OnGap::Stop);
        let what = format!(
            "messages {stored} to {} are gone from the log",
            available - 1
        );
        let name = match policy {
            OnGap::Stop => "stop",
            OnGap::Continue => "continue",
        };
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        self.ask(Request::RecordGap {
            gap: (key.clone(), stored, available, "retention", name),
            done,
        });
        let _ = wait.recv_timeout(BROKER_TIMEOUT);
        metrics::gaps(&key.topic, 1);
        tracing::error!(topic = %key.topic, partition = key.partition, policy = name, "{what}");
        match policy {
            OnGap::Stop => Err(Error::Gap {
                topic: key.topic.to_string(),
                partition: key.partition,
                what,
            }),
            OnGap::Continue => Ok(available),
        }
    }
}

pub(super) fn truncated(key: &TopicPartition, stored: i64, end: i64) -> Error {
    Error::Gap {
        topic: key.topic.to_string(),
        partition: key.partition,
        what: format!(
            "the log ends at {end}, but it was read up to {stored}: it was cut, or the topic was \
             created anew"
        ),
    }
}

/// For the saver: a gap as it is recorded.
pub(crate) fn as_gap<'a>(
    (key, from, to, reason, policy): &'a (TopicPartition, i64, i64, &'static str, &'static str),
) -> Gap<'a> {
    Gap {
        topic: &key.topic,
        partition: key.partition,
        from_offset: *from,
        to_offset: *to,
        reason,
        policy,
    }
}
