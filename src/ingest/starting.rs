//! From an assignment to the first message: what is known of a partition before it can be read, and
//! what Postgres has to know.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::consumer::{Log, TopicPartition};
use super::plan::TopicPlan;
use super::start::{Missing, Start, Stored};
use crate::settings::StartAt;
use crate::store::gaps::Gap;
use crate::store::partitions::{self, Settlement};
use crate::telemetry::metrics;
use crate::window::open::MonitorPlan;

/// What is known of a partition that was taken over, and what is asked.
#[derive(Debug)]
pub struct Starting {
    /// What it was taken over with.
    pub taken: partitions::Taken,
    /// The first question about topics that was asked since.
    pub topic_asked: u64,
    /// Its answer: the topic's id, where it has one.
    pub topic_id: Option<Option<String>>,
    /// Where the log begins and ends.
    pub log: Option<Log>,
    /// Where reading goes on, by all that.
    pub start: Option<Start>,
}

impl Starting {
    /// Finds where reading goes on; true when all is known for it, the first time.
    pub fn find_start(&mut self, start_at: StartAt) -> bool {
        let (Some(topic_id), Some(log), None) = (&self.topic_id, &self.log, &self.start) else {
            return false;
        };
        // What was added to a topic is read from its first message.
        let start_at = match self.taken.added {
            true => StartAt::Earliest,
            false => start_at,
        };
        let start = self.stored().start(topic_id.as_deref(), log, start_at);
        self.start = Some(start);
        true
    }

    /// Whether Postgres knows all of that already.
    pub fn is_stored(&self) -> bool {
        let topic_id = self.topic_id.as_ref().and_then(Option::as_ref);
        let known = topic_id.is_none() || topic_id == self.taken.topic_id.as_ref();
        let same = |start: &Start| {
            start.missing.is_empty() && Some(start.offset) == self.taken.next_offset
        };
        known && self.start.as_ref().is_some_and(same)
    }

    /// How far the partition was read before.
    pub fn stored(&self) -> Stored {
        Stored {
            next_offset: self.taken.next_offset,
            generation: self.taken.generation,
            topic_id: self.taken.topic_id.clone(),
        }
    }

    /// What Postgres has to know before reading begins; what is missing is told to people here.
    pub fn settlement(
        &self,
        key: &TopicPartition,
        plan: &TopicPlan,
        policy: &'static str,
    ) -> Option<Settlement> {
        let (start, taken) = (self.start.as_ref()?, &self.taken);
        for missing in &start.missing {
            let (generation, reason) = (missing.generation, missing.reason.as_str());
            metrics::gaps(&key.topic, reason, 1);
            tracing::error!(topic = %key.topic, partition = key.partition, generation, policy, "{missing}");
        }
        let gap = |missing: &Missing| Gap {
            generation: missing.generation,
            from_offset: missing.from_offset,
            to_offset: missing.to_offset,
            reason: missing.reason.as_str(),
        };
        Some(Settlement {
            topic: key.topic.to_string(),
            partition: key.partition,
            epoch: taken.epoch,
            expected_offset: taken.next_offset.unwrap_or(-1),
            next_offset: start.offset,
            generation: start.generation,
            topic_id: self.topic_id.clone().flatten(),
            gaps: start.missing.iter().map(gap).collect(),
            policy,
            from_starts: self.first_windows(plan),
        })
    }

    /// Per monitor, the first window that the event times stored have not closed: from there on
    /// rows of a gap may be missing. `None`: no row was stored, so it may be any window.
    fn first_windows(&self, plan: &TopicPlan) -> Vec<(i64, Option<DateTime<Utc>>)> {
        let stored: HashMap<i64, i64> = self.taken.max_event_ms.iter().copied().collect();
        let first = |monitor: &MonitorPlan| {
            let max = stored.get(&monitor.monitor_id)?;
            DateTime::from_timestamp_millis(monitor.spec.first_open(monitor.spec.watermark(*max)))
        };
        let monitors = plan.monitors.iter();
        monitors
            .map(|monitor| (monitor.monitor_id, first(monitor)))
            .collect()
    }
}
