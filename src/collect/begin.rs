//! From an assignment to the first message: the partition is taken over in Postgres, the brokers
//! say where its log begins and ends, Postgres stores where reading goes on, and it is sought.
//!
//! Each partition goes this way alone: one whose leader is down waits, and the others are read.

use std::sync::Arc;

use super::Collector;
use crate::ask::Question;
use crate::ingest::consumer::{self, Log, ReadUpTo, TopicPartition};
use crate::ingest::partition::{Partition, Phase};
use crate::ingest::starting::Starting;
use crate::profile::sample::RowHash;
use crate::save::Request;
use crate::settings::StartAt;
use crate::store::gaps::OpenGap;
use crate::store::partitions::Taken;

/// Attempts to seek, about one in 20 ms, before the client is given the partition anew.
const ATTEMPTS: u32 = 250;

impl Collector {
    pub(super) fn assigned(&mut self, topic: &str, partition: i32) {
        let Some(plan) = self.plans.get(topic) else {
            return;
        };
        let key = TopicPartition {
            topic: topic.into(),
            partition,
        };
        tracing::info!(topic, partition, "assigned");
        let hash = RowHash::new(self.options.sample_key, partition);
        self.turns += 1;
        let turn = self.turns;
        let state = Partition::new(plan, &self.options.limits, hash, turn, self.clock.now_ms());
        self.partitions.insert(key.clone(), state);
        self.ask(Request::TakeOver { key, turn });
    }

    /// The fence stands: find out what log is there.
    ///
    /// A partition that was revoked and assigned again meanwhile has asked again, and waits for the
    /// answer to that: this one's epoch may be over already.
    pub(super) fn taken(&mut self, key: &TopicPartition, turn: u64, taken: Taken) {
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        if partition.turn != turn || partition.phase != Phase::Taking || partition.revoked {
            return;
        }
        partition.starting = Some(Starting {
            taken,
            topic_asked: self.topics.want(&key.topic),
            topic: None,
            log: None,
            start: None,
        });
        self.ask_log(key, self.clock.now_ms());
    }

    /// Asks where the log of a partition begins and ends.
    pub(super) fn ask_log(&mut self, key: &TopicPartition, now: i64) {
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        let number = self.log_questions + 1;
        let question = Question::Log {
            number,
            key: key.clone(),
            since_ms: match (&partition.starting, self.options.kafka.start_at) {
                (Some(_), StartAt::Timestamp(time)) => Some(time.timestamp_millis()),
                _ => None,
            },
            read: partition.starting.as_ref().and_then(|starting| {
                Some(ReadUpTo {
                    offset: starting.taken.next_offset?,
                    leader_epoch: starting.taken.leader_epoch?,
                    given_up: partition.given_up,
                })
            }),
        };
        if self.asker.ask(question) {
            self.log_questions = number;
            partition.asked = Some(number);
            partition.asked_ms = now;
            partition.asked_offset = partition.next_offset;
        }
    }

    /// Takes an answer about a partition's log in.
    pub(super) fn hear_log(&mut self, key: &TopicPartition, number: u64, log: Option<Log>) {
        let now = self.clock.now_ms();
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        if partition.asked != Some(number) {
            return;
        }
        partition.asked = None;
        if let Some(starting) = &mut partition.starting {
            starting.log = log;
            self.settle(key); // where there is no answer, it is asked again
            return;
        }
        let position = consumer::position(&self.consumer, key);
        if partition.is_reading() && !partition.hear_log(log.as_ref(), position, now) {
            tracing::warn!(topic = %key.topic, partition = key.partition, "what should be read next is not in the log");
            self.restart(key);
        }
    }

    /// Finds where reading goes on, as soon as all is known, and begins there; where Postgres has
    /// to know of that first, when it does.
    pub(super) fn settle(&mut self, key: &TopicPartition) {
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        let Some(starting) = &mut partition.starting else {
            return;
        };
        if !starting.find_start(self.options.kafka.start_at) {
            return;
        }
        if starting.is_stored() {
            let open_gaps = starting.taken.open_gaps.clone();
            self.begin(key, open_gaps);
            return;
        }
        let policy = super::gap::policy_name(&self.options, &key.topic);
        if let Some(settlement) = starting.settlement(key, &partition.plan, policy) {
            let epoch = settlement.epoch;
            partition.phase = Phase::Settling { epoch };
            self.ask(Request::Settle(Box::new(settlement)));
        }
    }

    /// Postgres knows where reading goes on: it does.
    pub(super) fn begin(&mut self, key: &TopicPartition, open_gaps: Vec<OpenGap>) {
        let now = self.clock.now_ms();
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        let Some(starting) = partition.starting.take() else {
            return;
        };
        partition.begin(starting, open_gaps, now);
        let (offset, generation) = (partition.next_offset, partition.log.generation);
        let sample_key = self.options.sample_key;
        partition.hash = RowHash::of_log(sample_key, key.partition, generation);
        tracing::info!(topic = %key.topic, partition = key.partition, offset, generation, epoch = partition.epoch(), "reading");
        self.seek_begun();
    }

    /// Lets the client read the partitions that have begun.
    pub(super) fn seek_begun(&mut self) {
        if self.paused {
            return;
        }
        let mut stuck = Vec::new();
        for (key, partition) in &mut self.partitions {
            if !partition.is_reading() || partition.resumed || partition.revoked {
                continue;
            }
            let (offset, epoch) = (partition.next_offset, partition.leader_epoch);
            partition.resumed = consumer::start_at(&self.consumer, key, offset, epoch);
            partition.attempts += 1;
            if !partition.resumed && partition.attempts >= ATTEMPTS {
                stuck.push(key.clone());
            }
        }
        for key in stuck {
            self.restart(&key);
        }
    }

    /// Drops what was read of a partition since its last checkpoint, has the client let go of it and
    /// take it again, and takes it over anew.
    pub(super) fn restart(&mut self, key: &TopicPartition) {
        let revoked = self.partitions.get(key).is_none_or(|p| p.revoked);
        if revoked || self.finishing {
            self.partitions.remove(key);
            return;
        }
        let cooperative = consumer::is_cooperative(&self.consumer);
        let mine = self.partitions.iter().filter(|(_, p)| !p.revoked);
        let keys: Vec<TopicPartition> = match cooperative {
            true => vec![key.clone()],
            false => mine.map(|(key, _)| key.clone()).collect(),
        };
        if let Err(error) = consumer::assign_anew(&self.consumer, &keys) {
            tracing::warn!(topic = %key.topic, partition = key.partition, %error, "cannot have the partition assigned anew");
        }
        for key in keys {
            let topic = Arc::clone(&key.topic);
            self.assigned(&topic, key.partition);
        }
    }

    /// Another replica has the partition. If the group still says that it is ours, the other one
    /// is the zombie, and the partition is taken over again.
    pub(super) fn fenced(&mut self, key: &TopicPartition) {
        tracing::warn!(topic = %key.topic, partition = key.partition, "fenced: what was read is dropped");
        let revoked = self
            .partitions
            .remove(key)
            .is_none_or(|partition| partition.revoked);
        if !revoked && !self.finishing {
            self.pause(key);
            let topic = Arc::clone(&key.topic);
            self.assigned(&topic, key.partition);
        }
    }
}
