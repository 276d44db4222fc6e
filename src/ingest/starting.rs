//! From an assignment to the first message: what is known of a partition before it can be read, and
//! what Postgres has to know.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::consumer::{Log, TopicPartition};
use super::describe::Topic;
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
    /// Its answer.
    pub topic: Option<Topic>,
    /// Where the log begins and ends.
    pub log: Option<Log>,
    /// Where reading goes on, by all that.
    pub start: Option<Start>,
}

impl Starting {
    /// Finds where reading goes on; true when all is known for it, the first time.
    pub fn find_start(&mut self, start_at: StartAt) -> bool {
        let (Some(topic), Some(log), None) = (&self.topic, &self.log, &self.start) else {
            return false;
        };
        // What was added to a topic is read from its first message.
        let start_at = match self.taken.added {
            true => StartAt::Earliest,
            false => start_at,
        };
        let start = self.stored().start(topic.id.as_deref(), log, start_at);
        self.start = Some(start);
        true
    }

    /// Takes the answer to a question about topics in; false where it cannot be used, and has to be
    /// asked for again. A broker that lags behind may still name a topic that is no more, or not count
    /// this partition yet.
    pub fn hear_topic(&mut self, number: u64, topic: &Topic, partition: i32) -> bool {
        if number < self.topic_asked || self.topic.is_some() {
            return true; // not to this question, or once more
        }
        let is_past = |id: &String| self.taken.past_topic_ids.contains(id);
        if topic.id.as_ref().is_some_and(is_past) || topic.partitions <= partition {
            return false;
        }
        self.topic = Some(topic.clone());
        true
    }

    /// The topic's id, where it is known.
    pub fn topic_id(&self) -> Option<&String> {
        self.topic.as_ref()?.id.as_ref()
    }

    /// Whether Postgres knows all of that already.
    pub fn is_stored(&self) -> bool {
        let topic_id = self.topic_id();
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
        let (start, topic, taken) = (self.start.as_ref()?, self.topic.as_ref()?, &self.taken);
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
            topic_id: topic.id.clone(),
            partitions: topic.partitions,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_no_more_is_not_believed() {
        let mut starting = Starting {
            taken: partitions::Taken {
                epoch: 1,
                next_offset: Some(7),
                generation: 2,
                topic_id: Some("b".to_owned()),
                leader_epoch: None,
                past_topic_ids: vec!["a".to_owned()],
                added: false,
                open_gaps: vec![],
                max_event_ms: vec![],
            },
            topic_asked: 3,
            topic: None,
            log: None,
            start: None,
        };
        let topic = |id: Option<&str>| Topic {
            id: id.map(str::to_owned),
            partitions: 1,
        };
        assert!(starting.hear_topic(2, &topic(Some("c")), 0));
        assert_eq!(starting.topic, None, "it was asked before");
        assert!(!starting.hear_topic(3, &topic(Some("a")), 0));
        assert_eq!(starting.topic, None);
        assert!(!starting.hear_topic(4, &topic(Some("b")), 1), "not counted");
        assert_eq!(starting.topic, None);
        assert!(starting.hear_topic(4, &topic(Some("b")), 0));
        assert!(
            starting.hear_topic(5, &topic(None), 0),
            "it is known already"
        );
        assert_eq!(starting.topic_id().map(String::as_str), Some("b"));
    }
}
