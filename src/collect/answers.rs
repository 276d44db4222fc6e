//! What others say: the group, the brokers and Postgres. It becomes events of partitions, or a failure of
//! a topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;

use super::brokers::{self, Answer};
use super::partition::{self, Event};
use super::saver::{Reply, Request, Word};
use super::topics::{Key, Slot, Topic};
use super::{Collector, Error};
use crate::api::Readiness;
use crate::ingest::consumer::{self, Assignment, Context};
use crate::settings::Kafka;
use crate::telemetry::metrics;

impl Collector {
    /// Acts on what the group has decided.
    pub(super) fn follow_group(&mut self, readiness: &Readiness) -> Result<(), Error> {
        // What the client has to say beside messages. A message would be one of a partition that the
        // queue did not adopt: the client has to give it again.
        while let Some(said) = self.consumer.poll(Duration::ZERO) {
            let stray = match said {
                Ok(message) => (message.topic().to_owned(), message.partition()),
                Err(error) => {
                    heed(&self.consumer, &self.options.kafka, &error, readiness)?;
                    continue;
                }
            };
            self.fetch_stopped(&stray);
        }
        let mut changed = false;
        while let Some(decision) = self.consumer.context().next_decision() {
            changed = true;
            match decision {
                Assignment::Assigned(list) => {
                    list.iter().for_each(|place| self.assigned(place));
                    readiness.ready("kafka");
                }
                Assignment::Revoked(list) => list.iter().for_each(|place| self.revoked(place)),
            }
        }
        for place in self.consumer.context().given_up() {
            self.fetch_stopped(&place);
        }
        if changed {
            let slots = self
                .topics
                .iter()
                .flat_map(|topic| topic.partitions.values());
            metrics::assigned_partitions(slots.filter(|slot| !slot.revoked).count() as f64);
        }
        Ok(())
    }

    fn key(&self, (topic, partition): &(String, i32)) -> Option<Key> {
        Some(Key {
            reading: *self.by_name.get(topic.as_str())?,
            partition: *partition,
        })
    }

    fn assigned(&mut self, place: &(String, i32)) {
        let Some(key) = self.key(place) else {
            return;
        };
        tracing::info!(topic = place.0, partition = place.1, "assigned");
        self.begin(key);
    }

    /// Begins with a partition, whatever is there of it.
    pub(super) fn begin(&mut self, key: Key) {
        let mut effects = Vec::new();
        let slot = Slot::new(&mut effects);
        let before = self.topics[key.reading]
            .partitions
            .insert(key.partition, slot);
        self.held -= before.map_or(0, |before| before.held);
        self.effects
            .extend(effects.into_iter().map(|effect| (key, effect)));
    }

    fn revoked(&mut self, place: &(String, i32)) {
        let Some(key) = self.key(place) else {
            return;
        };
        if let Some(slot) = self.topics[key.reading].partitions.get_mut(&key.partition) {
            slot.revoked = true;
        }
        self.tell(key, Event::Revoked);
    }

    fn fetch_stopped(&mut self, place: &(String, i32)) {
        if let Some(key) = self.key(place) {
            self.tell(key, Event::FetchStopped);
        }
    }

    /// Takes in what brokers and Postgres have answered.
    pub(super) fn hear(&mut self, readiness: &Readiness) {
        while let Some(answer) = self.brokers.hear() {
            match answer {
                Answer::Topics { number, topics } => self.on_topics(number, topics, readiness),
                Answer::Logs(logs) => self.on_logs(logs),
            }
        }
        while let Ok(reply) = self.replies.try_recv() {
            match reply {
                Reply::Noted(count) => {
                    if let Some(reading) = self.by_name.get(count.topic.as_str()) {
                        self.topics[*reading].noted(&count);
                    }
                }
                Reply::Words { topic, words } => {
                    let Some(reading) = self.by_name.get(&topic).copied() else {
                        continue;
                    };
                    for ((partition, assignment), word) in words {
                        self.on_word(Key { reading, partition }, assignment, word);
                    }
                }
            }
        }
    }

    /// Whether an answer is for the present assignment of a partition.
    fn is_current(&self, key: Key, assignment: u64) -> bool {
        let slot = self.topics[key.reading].partitions.get(&key.partition);
        slot.is_some_and(|slot| slot.assignment == assignment)
    }

    fn on_word(&mut self, key: Key, assignment: u64, word: Word) {
        if !self.is_current(key, assignment) {
            return;
        }
        let event = match word {
            Word::TakenOver(takeover) => Event::TakenOver(takeover),
            Word::Settled(open_gaps) => Event::Settled { open_gaps },
            Word::GapsRecorded => Event::GapsRecorded,
            Word::Saved(next_offset) => Event::Saved { next_offset },
            Word::Fenced => {
                let (topic, partition) = (&self.topics[key.reading].name, key.partition);
                tracing::warn!(%topic, partition, "fenced: what was read is dropped");
                Event::Fenced
            }
            Word::Refused(error) => {
                Event::Unreadable(format!("partition {}: Postgres: {error}", key.partition))
            }
        };
        self.tell(key, event);
    }

    fn on_logs(&mut self, logs: Vec<(brokers::LogQuestion, Option<partition::log::Log>)>) {
        let current = |(question, _): &(brokers::LogQuestion, _)| {
            self.is_current(question.key, question.assignment)
        };
        let logs: Vec<_> = logs.into_iter().filter(current).collect();
        // Only where messages seem to be missing the client may have come further than it has shown.
        let short = logs.iter().filter_map(|(question, log)| {
            let slot = self.topics[question.key.reading]
                .partitions
                .get(&question.key.partition);
            let next = slot?.partition.expects()?;
            (next < log.as_ref()?.high).then(|| question.name.clone())
        });
        let short: Vec<_> = short.collect();
        let positions = match short.is_empty() {
            true => HashMap::new(),
            false => consumer::positions(&self.consumer, &short),
        };
        for (question, log) in logs {
            let position = positions.get(&question.name).copied();
            self.tell(question.key, Event::Log { log, position });
        }
    }

    fn on_topics(&mut self, number: u64, answer: brokers::Topics, readiness: &Readiness) {
        self.questions.answered();
        let now = self.clock.now_ms();
        match answer {
            Ok(topics) => {
                for (name, topic) in topics {
                    let Some(reading) = self.by_name.get(name.as_str()).copied() else {
                        continue;
                    };
                    match topic {
                        Ok(topic) => self.on_topic(reading, number, &topic),
                        Err(code) => self.no_topic(reading, code, now),
                    }
                }
                // There is nothing to be assigned: this replica does all that it can.
                if !self.topics.iter().any(Topic::is_known) {
                    readiness.ready("kafka");
                }
            }
            Err(error) => {
                let brokers = &self.options.kafka.brokers;
                tracing::warn!(kafka.brokers = %brokers, %error, "Kafka does not answer; trying again");
                if !self.topics.iter().any(Topic::is_known) {
                    let reason = format!("no answer from {brokers}: {error}");
                    readiness.not_ready("kafka", reason);
                }
                (0..self.topics.len()).for_each(|reading| self.questions.want_again(reading, now));
            }
        }
    }

    fn on_topic(&mut self, reading: usize, number: u64, topic: &partition::log::Topic) {
        if let Some(count) = self.topics[reading].count(topic) {
            self.waiting.push_back(Request::NoteTopic(count));
        }
        let partitions: Vec<i32> = self.topics[reading].partitions.keys().copied().collect();
        for partition in partitions {
            self.tell(Key { reading, partition }, Event::Topic { number, topic });
        }
    }

    /// A topic that is not there is waited for; one that was there may come back, and is another one
    /// then.
    fn no_topic(&mut self, reading: usize, code: RDKafkaErrorCode, now: i64) {
        use RDKafkaErrorCode as Code;
        let topic = &self.topics[reading];
        let brokers = &self.options.kafka.brokers;
        let reason = match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                format!("the topic does not exist on {brokers}; create it, or correct `topic`")
            }
            Code::TopicAuthorizationFailed => format!(
                "the brokers on {brokers} do not let driftd see the topic; give its user the rights \
                 DESCRIBE and READ on it"
            ),
            _ => {
                tracing::warn!(topic = %topic.name, error = %code, "no answer about a topic; asking again");
                return self.questions.want_again(reading, now);
            }
        };
        self.fail(reading, &reason);
        let topic = &mut self.topics[reading];
        topic.forget_count();
        if !topic.partitions.is_empty() {
            self.questions.want_again(reading, now);
        }
    }

    /// A topic cannot go on: people are told, and it is tried again later.
    pub(super) fn fail(&mut self, reading: usize, reason: &str) {
        let now = self.clock.now_ms();
        let topic = &mut self.topics[reading];
        if let Some(pause) = topic.fail(now) {
            let failure = Some((reason.to_owned(), pause));
            let topic = Arc::clone(&topic.name);
            self.waiting.push_back(Request::Report { topic, failure });
        }
    }
}

/// Errors of the client as a whole. It mends most of them by itself.
fn heed(
    consumer: &BaseConsumer<Context>,
    kafka: &Kafka,
    error: &KafkaError,
    readiness: &Readiness,
) -> Result<(), Error> {
    use RDKafkaErrorCode as Code;
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Err(fatal(consumer, kafka, error));
    }
    match error.rdkafka_error_code() {
        Some(Code::GroupAuthorizationFailed) => {
            let reason = format!(
                "the brokers do not let driftd join group `{}`; give its user the right READ on it",
                kafka.group
            );
            tracing::error!(%error, "{reason}");
            readiness.not_ready("kafka", reason);
        }
        Some(Code::SaslAuthenticationFailed) => {
            let reason = "the brokers do not accept user and password of kafka.properties";
            tracing::error!(%error, "{reason}");
            readiness.not_ready("kafka", reason);
        }
        _ => tracing::warn!(%error, "Kafka client error"),
    }
    Ok(())
}

/// What the client cannot go on after, by its cause.
fn fatal(consumer: &BaseConsumer<Context>, kafka: &Kafka, error: &KafkaError) -> Error {
    let group = kafka.group.clone();
    let name = kafka.property("group.instance.id").unwrap_or_default();
    let name = name.to_owned();
    match consumer.client().fatal_error() {
        Some((RDKafkaErrorCode::FencedInstanceId, _)) => Error::NameTaken { group, name },
        Some((RDKafkaErrorCode::UnreleasedInstanceId, _)) => Error::NameInUse { group, name },
        Some((code, reason)) => {
            tracing::error!(%code, reason, "the Kafka client cannot go on");
            Error::Kafka(KafkaError::MessageConsumptionFatal(code))
        }
        None => Error::Kafka(error.clone()),
    }
}
