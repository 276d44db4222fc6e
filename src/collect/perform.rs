//! What partitions want, performed for many of them at once: one transaction per topic, one list of
//! seeks, one question to each leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Collector;
use super::brokers::LogQuestion;
use super::partition::log::{Checkpoint, Settlement};
use super::partition::{Added, Effect, Event};
use super::saver::{Asker, Request};
use super::topics::{Key, Topic};
use crate::failpoint::{Failpoint, reached};
use crate::ingest::consumer;
use crate::ingest::leader_epoch::Place;
use crate::telemetry::metrics;

/// How long the client may take to seek. Nothing is polled meanwhile.
const SEEK: Duration = Duration::from_millis(500);
/// Partitions that seek at a time: the client looks for each of them in the list.
const SEEKS_AT_ONCE: usize = 500;
/// Partitions in one request to Postgres.
const PARTITIONS_AT_ONCE: usize = 256;

/// What partitions ask of Postgres, by topic.
type ByTopic<T> = BTreeMap<usize, Vec<T>>;

/// The effects of one turn, by kind.
#[derive(Default)]
struct Work {
    take_over: ByTopic<Asker>,
    settle: ByTopic<(Asker, Settlement)>,
    save: ByTopic<(Asker, Checkpoint<Added>)>,
    confirm: ByTopic<(Asker, (i64, i64))>,
    ask: Vec<LogQuestion>,
    seek: Vec<(Key, i64, Option<i32>)>,
    pause: Vec<Key>,
    reassign: Vec<Key>,
    commit: Vec<(Key, i64)>,
}

impl Collector {
    /// Performs what partitions want. What the client answers at once may make them want more.
    pub(super) fn perform(&mut self) {
        while !self.effects.is_empty() {
            let mut work = Work::default();
            for (key, effect) in std::mem::take(&mut self.effects) {
                self.sort(key, effect, &mut work);
            }
            self.pause(&work.pause);
            self.reassign(&work.reassign);
            self.seek(&work.seek);
            self.commit(&work.commit);
            self.brokers.ask_logs(&work.ask);
            self.request(work);
        }
        let now = self.clock.now_ms();
        if let Some((number, readings)) = self.questions.next(self.topics.len(), now) {
            let names = readings.iter().map(|at| self.topics[*at].name.to_string());
            self.brokers.ask_topics(number, names.collect());
        }
        while let Some(request) = self.waiting.pop_front() {
            if let Err(error) = self.requests.try_send(request) {
                self.waiting.push_front(error.into_inner());
                break;
            }
        }
    }

    fn sort(&mut self, key: Key, effect: Effect, work: &mut Work) {
        let Key { reading, partition } = key;
        let topic = &mut self.topics[reading];
        let Some(slot) = topic.partitions.get_mut(&partition) else {
            return;
        };
        if matches!(effect, Effect::TakeOver) {
            self.assignments += 1;
            slot.assignment = self.assignments;
        }
        let asker = (partition, slot.assignment);
        match effect {
            Effect::TakeOver => work.take_over.entry(reading).or_default().push(asker),
            Effect::AskTopic => self.questions.want(reading),
            Effect::AskLog { since_ms, read } => work.ask.push(LogQuestion {
                key,
                assignment: slot.assignment,
                name: topic.partition_name(partition),
                since_ms,
                read,
            }),
            Effect::Settle(settlement) => {
                for gap in settlement.gaps.iter().filter(|_| !settlement.stops()) {
                    metrics::gaps(&topic.name, gap.reason, 1);
                }
                let settle = work.settle.entry(reading).or_default();
                settle.push((asker, *settlement));
            }
            Effect::Seek {
                offset,
                leader_epoch,
            } => work.seek.push((key, offset, leader_epoch)),
            Effect::Save(mut checkpoint) => {
                checkpoint.count = topic.news();
                metrics::records(&topic.name, checkpoint.messages.unsigned_abs());
                metrics::skipped_messages(&topic.name, checkpoint.skipped.unsigned_abs());
                work.save
                    .entry(reading)
                    .or_default()
                    .push((asker, *checkpoint));
            }
            Effect::Confirm { epoch, next_offset } => {
                let confirm = work.confirm.entry(reading).or_default();
                confirm.push((asker, (epoch, next_offset)));
            }
            Effect::Commit(next_offset) => work.commit.push((key, next_offset)),
            Effect::Pause => work.pause.push(key),
            Effect::Reassign => work.reassign.push(key),
            Effect::Stop(reason) => self.fail(reading, &reason),
            Effect::Capped { monitor, cap, more } => {
                metrics::capped(&topic.plan.monitors[monitor].name, cap, more);
            }
            Effect::Drop => {
                let held = topic
                    .partitions
                    .remove(&partition)
                    .map_or(0, |slot| slot.held);
                self.held -= held;
            }
        }
    }

    fn request(&mut self, work: Work) {
        let topics = &self.topics;
        let take_over = requests(topics, work.take_over, |topic, partitions| {
            Request::TakeOver { topic, partitions }
        });
        let settle = requests(topics, work.settle, |topic, partitions| Request::Settle {
            topic,
            partitions,
        });
        let save = requests(topics, work.save, |topic, partitions| Request::Save {
            topic,
            partitions,
        });
        let confirm = requests(topics, work.confirm, |topic, partitions| Request::Confirm {
            topic,
            partitions,
        });
        let all = take_over.chain(settle).chain(save).chain(confirm);
        self.waiting.extend(all);
    }

    /// Partitions as the client takes them.
    fn list(&self, keys: impl IntoIterator<Item = Key>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for key in keys {
            list.add_partition(&self.topics[key.reading].name, key.partition);
        }
        list
    }

    pub(super) fn pause(&self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.pause(&self.list(keys.iter().copied())) {
            tracing::debug!(%error, "cannot pause");
        }
    }

    pub(super) fn resume(&self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.resume(&self.list(keys.iter().copied())) {
            tracing::warn!(%error, "cannot resume");
        }
    }

    /// Has the client let go of partitions and take them again, as after an offset that is out of range.
    /// Where the group assigns eagerly that goes for all partitions or none.
    fn reassign(&mut self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let mut keys = keys.to_vec();
        if !consumer::is_cooperative(&self.consumer) {
            let others: Vec<Key> = keys_of(&self.topics, |key, topic| {
                !keys.contains(&key) && !topic.partitions[&key.partition].revoked
            });
            others.iter().for_each(|key| self.begin(*key));
            keys.extend(others);
        }
        let names = keys.iter();
        let names = names.map(|key| self.topics[key.reading].partition_name(key.partition));
        let names: Vec<_> = names.collect();
        if let Err(error) = consumer::assign_anew(&self.consumer, &names) {
            tracing::warn!(partitions = names.len(), %error, "cannot have partitions assigned anew");
        }
    }

    fn seek(&mut self, seeks: &[(Key, i64, Option<i32>)]) {
        for seeks in seeks.chunks(SEEKS_AT_ONCE) {
            let places = seeks.iter().map(|(key, offset, leader_epoch)| Place {
                topic: &self.topics[key.reading].name,
                partition: key.partition,
                offset: *offset,
                leader_epoch: *leader_epoch,
            });
            let places: Vec<Place<'_>> = places.collect();
            let sought = consumer::seek(&self.consumer, &places, SEEK);
            // The queue has a partition's messages before the client fetches any.
            let ready = sought.iter().zip(&places);
            let ready = ready.map(|(sought, place)| {
                *sought && self.queue.adopt(place.topic, place.partition).is_ok()
            });
            let ready: Vec<bool> = ready.collect();
            let begin = seeks.iter().zip(&ready);
            let begin = begin.filter_map(|((key, ..), ready)| ready.then_some(*key));
            if !self.paused {
                self.resume(&begin.collect::<Vec<_>>());
            }
            for ((key, ..), ready) in seeks.iter().zip(ready) {
                self.tell(*key, Event::Sought(ready));
            }
        }
    }

    fn commit(&self, read: &[(Key, i64)]) {
        if read.is_empty() {
            return;
        }
        reached(Failpoint::BeforeKafkaCommit);
        let mut list = TopicPartitionList::new();
        for (key, next_offset) in read {
            let topic = &self.topics[key.reading].name;
            // An offset that was read is none that librdkafka refuses.
            let _ = list.add_partition_offset(topic, key.partition, Offset::Offset(*next_offset));
        }
        consumer::commit_for_lag_tools(&self.consumer, &list);
    }
}

/// What is asked about topics, in requests of so many partitions.
fn requests<T>(
    topics: &[Topic],
    asked: ByTopic<T>,
    request: impl Fn(Arc<str>, Vec<T>) -> Request,
) -> impl Iterator<Item = Request> {
    asked
        .into_iter()
        .flat_map(move |(reading, mut partitions)| {
            let mut parts = Vec::new();
            while !partitions.is_empty() {
                let rest = partitions.split_off(partitions.len().min(PARTITIONS_AT_ONCE));
                let part = std::mem::replace(&mut partitions, rest);
                parts.push(request(Arc::clone(&topics[reading].name), part));
            }
            parts
        })
}

/// Those of all partitions that are wanted.
pub(super) fn keys_of(topics: &[Topic], wanted: impl Fn(Key, &Topic) -> bool) -> Vec<Key> {
    let mut keys = Vec::new();
    for (reading, topic) in topics.iter().enumerate() {
        let own = topic.partitions.keys();
        let own = own.map(|partition| Key {
            reading,
            partition: *partition,
        });
        keys.extend(own.filter(|key| wanted(*key, topic)));
    }
    keys
}
