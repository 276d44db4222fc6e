//! The collect half, top to bottom: poll, decode, window, profile, checkpoint.
//!
//! One dedicated thread polls Kafka and does everything up to the profiles. What may take long runs
//! elsewhere: transactions in Postgres (`save`) and questions to the brokers (`ask`). So polling
//! goes on while either is slow, and the group does not rebalance.
//!
//! A partition is taken over in Postgres (a new epoch), sought to the stored offset and read. What
//! is read since the last checkpoint lives in memory only and is dropped whenever another replica
//! turns out to hold the partition: whoever comes next reads it again from the stored offset.

mod begin;
mod finish;
mod gap;
mod gauges;
mod memory;
mod topics;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::Readiness;
use crate::ask::{Answer, Asker};
use crate::clock::Clock;
use crate::failpoint::{Failpoint, reached};
use crate::ingest::consumer::{self, Assignment, Context, TopicPartition};
use crate::ingest::partition::Partition;
use crate::ingest::plan::TopicPlan;
use crate::monitor::OnGap;
use crate::profile::encoding;
use crate::save::{Reply, Request, Saver};
use crate::settings::{Checkpoint, Kafka, Limits};
use crate::telemetry::metrics;

use topics::Topics;

/// How long one poll waits for a message.
const POLL: Duration = Duration::from_millis(20);
/// How often, at most, rows are handed on, checkpoints considered and gauges set.
const TICK_MS: i64 = 100;
/// What the collect half needs to know.
#[derive(Debug)]
pub struct Options {
    /// How to reach Kafka.
    pub kafka: Kafka,
    /// When to save.
    pub checkpoint: Checkpoint,
    /// What keeps memory bounded.
    pub limits: Limits,
    /// What to do about a gap, per topic.
    pub on_gap: HashMap<String, OnGap>,
    /// Who this replica is, for people.
    pub owner: String,
    /// Keys the choice of sample rows; all replicas need the same.
    pub sample_key: u64,
}

/// Why collecting ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The topic.
    #[error("topic `{0}` does not exist on {1}; create it, or correct `topic`")]
    NoTopic(String, String),
    /// A gap, where the policy is to stop.
    #[error(
        "topic `{topic}` partition {partition}: {what}. The gap is recorded in driftd.gaps; set \
         `on_gap = \"continue\"` to go on without these messages"
    )]
    Gap {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// What is missing.
        what: String,
    },
    /// Another replica is known to the group under the same name, and this one is out.
    #[error(
        "another replica has joined group `{group}` with kafka.properties.\"group.instance.id\" = \
         \"{name}\": each replica needs one of its own, or none"
    )]
    NameTaken {
        /// The group.
        group: String,
        /// The name.
        name: String,
    },
    /// Another replica is known to the group under the same name, and this one is not let in.
    #[error(
        "group `{group}` has a member with kafka.properties.\"group.instance.id\" = \"{name}\" \
         already: another replica with that name, or this one before it died, whose session is not \
         over yet"
    )]
    NameInUse {
        /// The group.
        group: String,
        /// The name.
        name: String,
    },
    /// A profile.
    #[error("profiling: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A stored form.
    #[error(transparent)]
    Encoding(#[from] encoding::Error),
    /// Postgres refused what it should take.
    #[error("Postgres: {0}")]
    Store(String),
}

/// Collects until told to stop; then saves what it has and leaves the group.
///
/// # Errors
/// A topic does not exist, the log has a gap, or what was read cannot be stored.
pub fn run(
    options: Options,
    plans: Vec<TopicPlan>,
    pool: PgPool,
    clock: Arc<Clock>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let topics: Vec<&str> = plans.iter().map(|plan| plan.topic.as_str()).collect();
    let consumer = consumer::subscribe(&options.kafka, &topics)?;
    let asker = Asker::start(&options.kafka)?;
    let handle = tokio::runtime::Handle::current();
    let (requests, replies) = Saver::start(
        &handle,
        pool,
        options.owner.clone(),
        readiness.clone(),
        stop.clone(),
    );
    let plans = plans
        .into_iter()
        .map(|plan| (plan.topic.clone(), Arc::new(plan)))
        .collect();
    let mut collector = Collector {
        options,
        plans,
        clock,
        consumer,
        asker,
        log_questions: 0,
        topics: Topics::default(),
        requests,
        replies,
        partitions: BTreeMap::new(),
        turns: 0,
        latest: None,
        paused: false,
        gap: None,
        finishing: false,
        last_tick_ms: 0,
        announced: false,
    };
    while !stop.is_cancelled() {
        match collector.step(readiness) {
            Ok(()) => {}
            Err(gap @ Error::Gap { .. }) => {
                collector.finish(readiness)?;
                return Err(gap);
            }
            Err(error) => return Err(error),
        }
    }
    collector.finish(readiness)
}

struct Collector {
    options: Options,
    plans: HashMap<String, Arc<TopicPlan>>,
    clock: Arc<Clock>,
    consumer: BaseConsumer<Context>,
    asker: Asker,
    /// Numbers the questions about logs.
    log_questions: u64,
    topics: Topics,
    requests: mpsc::Sender<Request>,
    replies: mpsc::Receiver<Reply>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Assignments so far, so that what was asked for one is not taken for the next.
    turns: u64,
    /// Where the last message came from: they come in runs of one partition.
    latest: Option<TopicPartition>,
    paused: bool,
    /// The gap for which collecting is about to end, and when.
    gap: Option<(Error, i64)>,
    /// Nothing more is taken in.
    finishing: bool,
    last_tick_ms: i64,
    announced: bool,
}

impl Collector {
    /// Asks the saver. The channel holds two requests per partition and more, and a partition has
    /// at most one on its way, so it is never full for long.
    fn ask(&self, request: Request) {
        if self.requests.blocking_send(request).is_err() {
            tracing::error!("the saver has ended");
        }
    }

    fn step(&mut self, readiness: &Readiness) -> Result<(), Error> {
        // A clone of the handle would not help: a message borrows the consumer it came from.
        let Self {
            consumer,
            partitions,
            latest,
            options,
            clock,
            ..
        } = self;
        let mut read = |message: BorrowedMessage<'_>, now| match find(partitions, latest, &message)
        {
            Some((key, partition)) => {
                partition.take(key, &message, now)?;
                Ok(partition.is_full(&options.checkpoint, &options.limits))
            }
            None => Ok::<bool, Error>(false),
        };
        let mut lost = false;
        let look = match consumer.poll(POLL) {
            None => true,
            Some(Ok(message)) => {
                reached(Failpoint::Polled);
                let now = clock.now_ms();
                let mut full = read(message, now)?;
                // What is fetched already is taken without looking up in between.
                for _ in 0..256 {
                    if full {
                        break;
                    }
                    match consumer.poll(Duration::ZERO) {
                        Some(Ok(message)) => full = read(message, now)?,
                        Some(Err(error)) => lost |= heed(consumer, &options.kafka, &error)?,
                        None => break,
                    }
                }
                full
            }
            Some(Err(error)) => {
                lost |= heed(consumer, &options.kafka, &error)?;
                false
            }
        };
        self.follow_group(readiness);
        self.hear_answers(readiness)?;
        self.hear_replies()?;
        let now = self.clock.now_ms();
        self.look_for_lost(lost, now);
        if look || now - self.last_tick_ms >= TICK_MS {
            self.last_tick_ms = now;
            self.tick(now)?;
        }
        self.ask_topics(now);
        Ok(())
    }

    /// Acts on what the group has decided.
    fn follow_group(&mut self, readiness: &Readiness) {
        while let Some(decision) = self.consumer.context().next_decision() {
            match decision {
                Assignment::Assigned(list) => {
                    for (topic, partition) in list {
                        self.assigned(&topic, partition);
                    }
                    readiness.ready("kafka");
                }
                Assignment::Revoked(list) => {
                    for (topic, partition) in list {
                        let key = TopicPartition {
                            topic: topic.into(),
                            partition,
                        };
                        // What was read is saved if that still works: the new owner may be faster,
                        // then it is fenced and read again over there.
                        if let Some(partition) = self.partitions.get_mut(&key) {
                            partition.revoked = true;
                        }
                    }
                }
            }
            let mine = self
                .partitions
                .values()
                .filter(|partition| !partition.revoked)
                .count();
            metrics::assigned_partitions(mine as f64);
        }
    }

    /// Acts on what the brokers have answered.
    fn hear_answers(&mut self, readiness: &Readiness) -> Result<(), Error> {
        while let Some(answer) = self.asker.hear() {
            match answer {
                Answer::Topics { number, topics } => self.hear_topics(number, topics, readiness)?,
                Answer::Log { number, key, log } => {
                    if let Err(error) = &log {
                        tracing::warn!(topic = %key.topic, partition = key.partition, %error, "no answer about a partition's log");
                    }
                    self.hear_log(&key, number, log.ok());
                }
            }
        }
        Ok(())
    }

    /// Acts on what Postgres has done.
    fn hear_replies(&mut self) -> Result<(), Error> {
        while let Ok(reply) = self.replies.try_recv() {
            match reply {
                Reply::Noted(count) => self.topics.noted(&count),
                Reply::Taken { key, turn, taken } => self.taken(&key, turn, taken),
                Reply::Settled {
                    key,
                    epoch,
                    open_gaps,
                } => {
                    if self.current(&key, epoch).is_some() {
                        self.begin(&key, open_gaps);
                    }
                }
                Reply::Stopped(key) => self.stopped(&key),
                Reply::Saved {
                    key,
                    epoch,
                    next_offset,
                } => {
                    if let Some(partition) = self.current(&key, epoch) {
                        partition.saved();
                        reached(Failpoint::BeforeKafkaCommit);
                        consumer::commit_for_lag_tools(&self.consumer, &key, next_offset);
                    }
                }
                Reply::Fenced { key, epoch } => {
                    if self.current(&key, epoch).is_some() {
                        self.fenced(&key);
                    }
                }
                Reply::Failed(error) => return Err(Error::Store(error)),
            }
        }
        Ok(())
    }

    /// The partition, if a reply is about its present epoch.
    fn current(&mut self, key: &TopicPartition, epoch: i64) -> Option<&mut Partition> {
        let partition = self.partitions.get_mut(key)?;
        (partition.epoch() == Some(epoch)).then_some(partition)
    }

    /// The client does not say of which partition an offset is out of range. So the brokers are asked
    /// about all; and one that the client has given up by its statistics is taken again in any case.
    fn look_for_lost(&mut self, lost: bool, now: i64) {
        if lost {
            let reading = self.partitions.iter().filter(|(_, p)| p.is_reading());
            let keys: Vec<TopicPartition> = reading.map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| self.ask_log(key, now));
        }
        for (topic, partition) in self.consumer.context().given_up() {
            let key = TopicPartition {
                topic: topic.into(),
                partition,
            };
            let is_read = |p: &Partition| p.resumed && !p.revoked;
            if self.partitions.get(&key).is_some_and(is_read) {
                tracing::warn!(topic = %key.topic, partition, "the client has given the partition up");
                self.restart(&key);
                // Perhaps its log was cut and written on: the brokers are asked before it is read.
                if let Some(partition) = self.partitions.get_mut(&key) {
                    partition.given_up = true;
                }
            }
        }
    }

    /// Hands rows on, saves what is due, keeps memory bounded.
    fn tick(&mut self, now: i64) -> Result<(), Error> {
        let pressure = self.pressure();
        let keys: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        for key in keys {
            let Some(partition) = self.partitions.get_mut(&key) else {
                continue;
            };
            partition.hand_on(&key)?;
            let pressed = pressure.is_some_and(|share| partition.freeable() >= share);
            let due = partition.is_due(now, &self.options.checkpoint, &self.options.limits);
            let ask = partition.is_question_due(now);
            if due || pressed {
                self.save(&key, pressure.is_some(), now);
            } else if partition.confirm_due(now, &self.options.checkpoint)
                && let Some(question) = partition.confirm(&key, now)
            {
                self.ask(question);
            }
            if ask {
                self.ask_log(&key, now);
            }
            let done = self.partitions.get(&key).is_some_and(Partition::is_done);
            if done {
                self.partitions.remove(&key);
            }
        }
        self.seek_begun();
        self.bound_memory();
        self.tell_gauges(now);
        self.end_for_gap(now)
    }

    /// Cuts a stretch off, if none is on its way. One that holds messages, or says that the partition
    /// is idle, is saved once the brokers have confirmed that its topic is still the one it was read
    /// from, and how many partitions that has: rows may come in a new one alone.
    fn save(&mut self, key: &TopicPartition, pressed: bool, now: i64) {
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        if partition.saving {
            return;
        }
        let unsaved = partition.cut(key, now);
        partition.forget_beyond(self.options.limits.max_open_windows);
        if pressed {
            partition.forget();
        }
        match unsaved {
            Some(unsaved) if unsaved.messages > 0 || unsaved.idle_since.is_some() => {
                let asked = self.topics.want(&key.topic);
                partition.confirming = Some((Box::new(unsaved), asked));
            }
            Some(unsaved) => self.ask(Request::Save(Box::new(unsaved))),
            None => {}
        }
    }
}

/// The partition of a message, if it is ours.
fn find<'a>(
    partitions: &'a mut BTreeMap<TopicPartition, Partition>,
    latest: &'a mut Option<TopicPartition>,
    message: &BorrowedMessage<'_>,
) -> Option<(&'a TopicPartition, &'a mut Partition)> {
    let (topic, number) = (message.topic(), message.partition());
    let is_it = |key: &TopicPartition| key.partition == number && *key.topic == *topic;
    if !latest.as_ref().is_some_and(is_it) {
        *latest = partitions.keys().find(|key| is_it(key)).cloned();
    }
    let key = latest.as_ref()?;
    Some((key, partitions.get_mut(key)?))
}

/// Errors of the client that mean something to us; the others it mends by itself. True: what should
/// be read next of some partition is not in its log.
fn heed(
    consumer: &BaseConsumer<Context>,
    kafka: &Kafka,
    error: &KafkaError,
) -> Result<bool, Error> {
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Err(fatal(consumer, kafka, error));
    }
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Ok(true),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed,
        ) => Err(Error::Kafka(error.clone())),
        // The client would go on behind a batch that is damaged.
        Some(RDKafkaErrorCode::BadMessage)
            if matches!(error, KafkaError::MessageConsumption(_)) =>
        {
            Err(Error::Kafka(error.clone()))
        }
        Some(RDKafkaErrorCode::BadCompression) => {
            metrics::unreadable_batches(1);
            tracing::error!(
                %error,
                "a batch is damaged, or is larger than receive.message.max.bytes when unpacked: its \
                 partition stands still, and it is tried again"
            );
            Ok(false)
        }
        _ => {
            tracing::warn!(%error, "Kafka client error");
            Ok(false)
        }
    }
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
