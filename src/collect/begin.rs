//! From an assignment to the first message: the topic is there, the partition is taken over in
//! Postgres, sought and read.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio_util::sync::CancellationToken;

use super::gap::truncated;
use super::{BROKER_TIMEOUT, Collector, Error, FIRST_ANSWER};
use crate::api::Readiness;
use crate::ingest::consumer::{self, Start, TopicPartition};
use crate::ingest::partition::{Partition, Phase};
use crate::profile::sample::RowHash;
use crate::save::Request;
use crate::store::partitions::Taken;

impl Collector {
    /// Waits for the brokers, and refuses topics that do not exist.
    pub(super) fn find_topics(
        &self,
        readiness: &Readiness,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        for topic in self.plans.keys() {
            while !stop.is_cancelled() {
                // The client tells why it cannot connect only to who polls it.
                if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
                    tracing::debug!(%error, "Kafka client");
                }
                match consumer::partitions_of(&self.consumer, topic, FIRST_ANSWER) {
                    Ok(Some(partitions)) => {
                        let topic = topic.clone();
                        self.ask(Request::NoteTopic { topic, partitions });
                        break;
                    }
                    Ok(None) => {
                        let brokers = self.options.kafka.brokers.clone();
                        return Err(Error::NoTopic(topic.clone(), brokers));
                    }
                    Err(error) => {
                        let brokers = &self.options.kafka.brokers;
                        let reason = format!("no answer from {brokers}: {error}");
                        tracing::warn!(kafka.brokers = %brokers, %error, "Kafka does not answer; trying again");
                        readiness.not_ready("kafka", reason);
                    }
                }
            }
        }
        Ok(())
    }

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
        if let Ok(Some(partitions)) = consumer::partitions_of(&self.consumer, topic, BROKER_TIMEOUT)
        {
            self.ask(Request::NoteTopic {
                topic: topic.to_owned(),
                partitions,
            });
        }
        self.ask(Request::TakeOver { key, turn });
    }

    /// The fence stands: find out where to go on, and go on there.
    ///
    /// A partition that was revoked and assigned again meanwhile has asked again, and waits for the
    /// answer to that: this one's epoch may be over already.
    pub(super) fn taken(
        &mut self,
        key: &TopicPartition,
        turn: u64,
        taken: &Taken,
    ) -> Result<(), Error> {
        let asked = |p: &Partition| p.turn == turn && p.phase == Phase::Taking && !p.revoked;
        if !self.partitions.get(key).is_some_and(asked) {
            return Ok(());
        }
        let kafka = &self.options.kafka;
        let start = consumer::start_of(
            &self.consumer,
            key,
            taken.next_offset,
            kafka.start_at,
            BROKER_TIMEOUT,
        );
        let offset = match start {
            Ok(Start::At(offset)) => offset,
            Ok(Start::Gap { stored, available }) => self.gap(key, stored, available)?,
            Ok(Start::Truncated { stored, end }) => return Err(truncated(key, stored, end)),
            Err(error) => {
                tracing::warn!(topic = %key.topic, partition = key.partition, %error, "no answer about offsets; trying again");
                let key = key.clone();
                self.ask(Request::TakeOver { key, turn });
                return Ok(());
            }
        };
        let Some(partition) = self.partitions.get_mut(key) else {
            return Ok(());
        };
        partition.begin(taken, offset, self.clock.now_ms());
        tracing::info!(topic = %key.topic, partition = key.partition, offset, epoch = taken.epoch, "reading");
        if let Err(error) = consumer::seek(&self.consumer, key, offset) {
            tracing::warn!(topic = %key.topic, partition = key.partition, %error, "cannot seek; taking over again");
            self.fenced(key);
        }
        Ok(())
    }

    /// Lets partitions be read that were taken over, all at once when none is waited for: as soon
    /// as one is read, questions about the others queue up behind its fetches.
    pub(super) fn resume_taken(&mut self) {
        let waiting = |p: &Partition| p.phase == Phase::Taking && !p.revoked;
        if self.paused || self.partitions.values().any(waiting) {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (key, partition) in &mut self.partitions {
            if !partition.resumed && !partition.revoked {
                partition.resumed = true;
                list.add_partition(&key.topic, key.partition);
            }
        }
        if list.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.resume(&list) {
            tracing::warn!(%error, "cannot resume");
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
        if !revoked {
            self.pause(key);
            let topic = Arc::clone(&key.topic);
            self.assigned(&topic, key.partition);
        }
    }
}
