//! What the brokers say of topics: that each is there, how many partitions it has, and that it is
//! still the one that was read.
//!
//! librdkafka reads on in a topic that was made anew as if nothing had happened. So no stretch is
//! saved before the brokers have named the topic's id after the stretch was read. One question
//! covers all topics and partitions that wait for one.

use std::collections::{BTreeSet, HashMap};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::{Collector, Error};
use crate::api::Readiness;
use crate::ask::Question;
use crate::ingest::consumer::TopicPartition;
use crate::ingest::describe::Topic;
use crate::save::Request;
use crate::store::topics::Count;

/// How often the count of partitions is asked for.
const REFRESH_MS: i64 = 30_000;
/// How long to wait after a question that was not answered.
const AGAIN_MS: i64 = 300;

/// Which topics have to be asked about, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Questions asked so far, which number them. One is on its way at most.
    asked: u64,
    on_its_way: bool,
    wanted: BTreeSet<String>,
    not_before_ms: i64,
    refresh_at_ms: i64,
    counts: HashMap<String, Counted>,
}

/// How many partitions a topic has.
#[derive(Debug, Clone, Default)]
struct Counted {
    /// Which topic of that name: another one begins anew.
    topic_id: Option<String>,
    /// By the brokers.
    seen: i32,
    /// By Postgres.
    noted: i32,
}

impl Topics {
    /// Wants to know of a topic; answers the number of the first question that is asked after this
    /// moment.
    pub(super) fn want(&mut self, topic: &str) -> u64 {
        self.wanted.insert(topic.to_owned());
        self.asked + 1
    }

    /// The next question, if there is one to ask now.
    fn next_question(&mut self, now: i64) -> Option<Question> {
        if self.on_its_way || self.wanted.is_empty() || now < self.not_before_ms {
            return None;
        }
        self.on_its_way = true;
        self.asked += 1;
        Some(Question::Topics {
            number: self.asked,
            names: std::mem::take(&mut self.wanted).into_iter().collect(),
        })
    }

    /// So many partitions are stored now.
    pub(super) fn noted(&mut self, noted: &Count) {
        if let Some(count) = self.counts.get_mut(&noted.topic)
            && count.topic_id == noted.topic_id
        {
            count.noted = count.noted.max(noted.partitions);
        }
    }

    /// Takes in what the brokers say of a topic; answers what Postgres has to know of that.
    fn count(&mut self, name: &str, topic: &Topic) -> Option<Count> {
        let count = self.counts.entry(name.to_owned()).or_default();
        if count.topic_id != topic.id {
            *count = Counted {
                topic_id: topic.id.clone(),
                ..Counted::default()
            };
        }
        let is_news = topic.partitions > count.seen;
        count.seen = count.seen.max(topic.partitions);
        is_news.then(|| self.news(name)).flatten()
    }

    /// How many partitions a topic has, where Postgres does not know it yet.
    fn news(&self, topic: &str) -> Option<Count> {
        let count = self.counts.get(topic)?;
        (count.seen > count.noted).then(|| Count {
            topic: topic.to_owned(),
            topic_id: count.topic_id.clone(),
            partitions: count.seen,
        })
    }
}

impl Collector {
    /// Asks about topics, where somebody waits for an answer, and about all now and then.
    pub(super) fn ask_topics(&mut self, now: i64) {
        if now >= self.topics.refresh_at_ms {
            self.topics.refresh_at_ms = now + REFRESH_MS;
            for topic in self.plans.keys() {
                self.topics.want(topic);
            }
        }
        if let Some(question) = self.topics.next_question(now) {
            self.asker.ask(question);
        }
    }

    /// Takes an answer about topics in.
    pub(super) fn hear_topics(
        &mut self,
        number: u64,
        answer: KafkaResult<Vec<(String, Result<Topic, RDKafkaErrorCode>)>>,
        readiness: &Readiness,
    ) -> Result<(), Error> {
        self.topics.on_its_way = false;
        let topics = match answer {
            Ok(topics) => topics,
            Err(error) => {
                self.no_answer(&error, readiness);
                return Ok(());
            }
        };
        for (name, topic) in topics {
            match topic {
                Ok(topic) => self.hear_topic(&name, &topic, number),
                Err(error) => self.no_topic(&name, error)?,
            }
        }
        Ok(())
    }

    /// Nobody answers: everybody goes on waiting.
    fn no_answer(&mut self, error: &KafkaError, readiness: &Readiness) {
        let brokers = &self.options.kafka.brokers;
        tracing::warn!(kafka.brokers = %brokers, %error, "Kafka does not answer; trying again");
        if self.topics.counts.is_empty() {
            let reason = format!("no answer from {brokers}: {error}");
            readiness.not_ready("kafka", reason);
        }
        for topic in self.plans.keys() {
            self.topics.want(topic);
        }
        self.topics.not_before_ms = self.clock.now_ms() + AGAIN_MS;
    }

    /// A topic that is not there from the beginning is a mistake in the settings; one that was there
    /// may come back, and is another one then.
    fn no_topic(&mut self, topic: &str, error: RDKafkaErrorCode) -> Result<(), Error> {
        use RDKafkaErrorCode::{TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition};
        let known = self.topics.counts.contains_key(topic);
        match error {
            UnknownTopicOrPartition | UnknownTopic if !known => {
                let brokers = self.options.kafka.brokers.clone();
                return Err(Error::NoTopic(topic.to_owned(), brokers));
            }
            TopicAuthorizationFailed => return Err(KafkaError::AdminOp(error).into()),
            _ => tracing::warn!(topic, %error, "the brokers have no such topic; asking again"),
        }
        self.topics.want(topic);
        self.topics.not_before_ms = self.clock.now_ms() + AGAIN_MS;
        Ok(())
    }

    fn hear_topic(&mut self, name: &str, topic: &Topic, number: u64) {
        if let Some(count) = self.topics.count(name, topic) {
            self.ask(Request::NoteTopic(count));
        }
        let of_topic = |key: &&TopicPartition| *key.topic == *name;
        let keys: Vec<TopicPartition> = self.partitions.keys().filter(of_topic).cloned().collect();
        for key in keys {
            self.hear_identity(&key, topic, number);
        }
    }

    /// What the topic's id means to one of its partitions.
    fn hear_identity(&mut self, key: &TopicPartition, topic: &Topic, number: u64) {
        let news = self.topics.news(&key.topic);
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        if let Some(starting) = &mut partition.starting {
            if starting.hear_topic(number, topic, key.partition) {
                self.settle(key);
            } else {
                tracing::warn!(
                    topic = %key.topic, partition = key.partition, topic.id = topic.id,
                    topic.partitions = topic.partitions,
                    "a broker names a topic that was deleted and made anew since, or one without \
                     this partition; asking again"
                );
                self.topics.want(&key.topic);
                self.topics.not_before_ms = self.clock.now_ms() + AGAIN_MS;
            }
        } else if partition.is_reading() && partition.log.is_another(topic.id.as_deref()) {
            tracing::warn!(
                topic = %key.topic, partition = key.partition,
                "the topic was made anew: what was read since the last checkpoint is dropped"
            );
            self.restart(key);
        } else if let Some((mut unsaved, asked)) = partition.confirming.take() {
            if asked <= number {
                unsaved.count = news;
                self.ask(Request::Save(unsaved));
            } else {
                partition.confirming = Some((unsaved, asked));
            }
        }
    }
}
