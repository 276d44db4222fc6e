//! The collect half, top to bottom: poll, decode, window, profile, checkpoint.
//!
//! One dedicated thread polls Kafka and does everything up to the profiles; only the checkpoint
//! itself, a Postgres transaction, runs elsewhere (`save`), so that polling goes on while
//! Postgres is slow and the group does not rebalance.
//!
//! A partition is taken over in Postgres (a new epoch), sought to the stored offset and read. What
//! is read since the last checkpoint lives in memory only and is dropped whenever another replica
//! turns out to hold the partition: whoever comes next reads it again from the stored offset.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::Readiness;
use crate::clock::Clock;
use crate::ingest::consumer::{self, Assignment, Context, Start, TopicPartition};
use crate::ingest::partition::{Partition, Phase};
use crate::ingest::plan::TopicPlan;
use crate::monitor::OnGap;
use crate::profile::encoding;
use crate::profile::sample::RowHash;
use crate::save::{Reply, Request, Saver};
use crate::settings::{Checkpoint, Kafka, Limits};
use crate::store::partitions::Gap;
use crate::telemetry::metrics;

/// How long one poll waits for a message.
const POLL: Duration = Duration::from_millis(20);
/// How often, at most, rows are handed on, checkpoints considered and gauges set.
const TICK_MS: i64 = 100;
/// How long the first question to the brokers may take, before it is asked again.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long a question to the brokers may take.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);

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
    let handle = tokio::runtime::Handle::current();
    let (requests, replies) = Saver::start(&handle, pool, options.owner.clone(), stop.clone());
    let plans = plans
        .into_iter()
        .map(|plan| (plan.topic.clone(), Arc::new(plan)))
        .collect();
    let mut collector = Collector {
        options,
        plans,
        clock,
        consumer,
        requests,
        replies,
        partitions: BTreeMap::new(),
        latest: None,
        paused: false,
        last_tick_ms: 0,
        announced: false,
    };
    collector.find_topics(readiness, stop)?;
    while !stop.is_cancelled() {
        collector.step(readiness)?;
    }
    collector.finish()
}

struct Collector {
    options: Options,
    plans: HashMap<String, Arc<TopicPlan>>,
    clock: Arc<Clock>,
    consumer: BaseConsumer<Context>,
    requests: mpsc::Sender<Request>,
    replies: mpsc::Receiver<Reply>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Where the last message came from: they come in runs of one partition.
    latest: Option<TopicPartition>,
    paused: bool,
    last_tick_ms: i64,
    announced: bool,
}

impl Collector {
    /// Waits for the brokers, and refuses topics that do not exist.
    fn find_topics(&self, readiness: &Readiness, stop: &CancellationToken) -> Result<(), Error> {
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
            Some((key, partition)) => partition.take(key, &message, &options.limits, now),
            None => Ok(()),
        };
        let polled = match consumer.poll(POLL) {
            None => true,
            Some(Ok(message)) => {
                let now = clock.now_ms();
                read(message, now)?;
                // What is fetched already is taken without looking up in between.
                for _ in 0..256 {
                    match consumer.poll(Duration::ZERO) {
                        Some(Ok(message)) => read(message, now)?,
                        Some(Err(error)) => heed(&error)?,
                        None => break,
                    }
                }
                false
            }
            Some(Err(error)) => {
                heed(&error)?;
                false
            }
        };
        self.follow_group(readiness);
        self.hear_replies()?;
        let now = self.clock.now_ms();
        if polled || now - self.last_tick_ms >= TICK_MS {
            self.last_tick_ms = now;
            self.tick(now)?;
        }
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

    fn assigned(&mut self, topic: &str, partition: i32) {
        let Some(plan) = self.plans.get(topic) else {
            return;
        };
        let key = TopicPartition {
            topic: topic.into(),
            partition,
        };
        tracing::info!(topic, partition, "assigned");
        let hash = RowHash::new(self.options.sample_key, partition);
        let state = Partition::new(plan, hash, self.clock.now_ms());
        self.partitions.insert(key.clone(), state);
        if let Ok(Some(partitions)) = consumer::partitions_of(&self.consumer, topic, BROKER_TIMEOUT)
        {
            self.ask(Request::NoteTopic {
                topic: topic.to_owned(),
                partitions,
            });
        }
        self.ask(Request::TakeOver(key));
    }

    fn hear_replies(&mut self) -> Result<(), Error> {
        while let Ok(reply) = self.replies.try_recv() {
            match reply {
                Reply::Taken(key, taken) => self.taken(&key, &taken)?,
                Reply::Saved {
                    key,
                    epoch,
                    next_offset,
                } => {
                    if let Some(partition) = self.current(&key, epoch) {
                        partition.saving = false;
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
        self.resume_taken();
        Ok(())
    }

    /// The partition, if a reply is about its present epoch.
    fn current(&mut self, key: &TopicPartition, epoch: i64) -> Option<&mut Partition> {
        let partition = self.partitions.get_mut(key)?;
        (partition.phase == Phase::Reading { epoch }).then_some(partition)
    }

    /// Another replica has the partition. If the group still says that it is ours, the other one
    /// is the zombie, and the partition is taken over again.
    fn fenced(&mut self, key: &TopicPartition) {
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

    /// The fence stands: find out where to go on, and go on there.
    fn taken(
        &mut self,
        key: &TopicPartition,
        taken: &crate::store::partitions::Taken,
    ) -> Result<(), Error> {
        if self
            .partitions
            .get(key)
            .is_none_or(|p| p.phase != Phase::Taking || p.revoked)
        {
            self.partitions.remove(key);
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
                self.ask(Request::TakeOver(key.clone()));
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
    fn resume_taken(&mut self) {
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

    fn gap(&self, key: &TopicPartition, stored: i64, available: i64) -> Result<i64, Error> {
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

    fn pause(&self, key: &TopicPartition) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&key.topic, key.partition);
        if let Err(error) = self.consumer.pause(&list) {
            tracing::debug!(%error, "cannot pause");
        }
    }

    /// Hands rows on, saves what is due, keeps memory bounded.
    fn tick(&mut self, now: i64) -> Result<(), Error> {
        let keys: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        for key in keys {
            let Some(partition) = self.partitions.get_mut(&key) else {
                continue;
            };
            partition.hand_on(&key, &self.options.limits)?;
            if partition.idle_due(now) {
                let caught_up = is_caught_up(&self.consumer, &key, partition.next_offset);
                partition.idle_asked_ms = now;
                if caught_up {
                    partition.idle_since_ms = Some(now);
                }
            }
            if partition.is_due(now, &self.options.checkpoint, &self.options.limits) {
                let unsaved = partition.cut(&key, now);
                partition.forget_beyond(self.options.limits.max_open_windows);
                if let Some(unsaved) = unsaved {
                    self.ask(Request::Save(Box::new(unsaved)));
                }
            }
            let done = self.partitions.get(&key).is_some_and(Partition::is_done);
            if done {
                self.partitions.remove(&key);
            }
        }
        self.bound_memory();
        self.tell_gauges(now);
        Ok(())
    }

    /// Stops reading, not polling, while too much is held.
    fn bound_memory(&mut self) {
        let held: usize = self
            .partitions
            .values()
            .map(|partition| partition.held)
            .sum();
        let on_the_way = self
            .partitions
            .values()
            .filter(|partition| partition.saving)
            .count();
        let limit = self.options.limits.max_held_bytes;
        metrics::held_bytes(held as f64);
        if !self.paused && held > limit && on_the_way > 0 {
            self.paused = true;
            tracing::warn!(
                held.bytes = held,
                limit.bytes = limit,
                "too much is held: reading pauses"
            );
            self.partitions.keys().for_each(|key| self.pause(key));
        } else if self.paused && (held < limit / 2 || on_the_way == 0) {
            self.paused = false;
            tracing::info!(held.bytes = held, "reading goes on");
            let mut list = TopicPartitionList::new();
            for (key, partition) in &self.partitions {
                if matches!(partition.phase, Phase::Reading { .. }) && !partition.revoked {
                    list.add_partition(&key.topic, key.partition);
                }
            }
            if let Err(error) = self.consumer.resume(&list) {
                tracing::warn!(%error, "cannot resume");
            }
        }
        let paused = if self.paused {
            self.partitions.len()
        } else {
            0
        };
        metrics::paused_partitions(paused as f64);
    }

    fn tell_gauges(&mut self, now: i64) {
        let mut open: HashMap<&str, (usize, Option<i64>)> = HashMap::new();
        for partition in self.partitions.values() {
            for (monitor, windows) in partition.plan.monitors.iter().zip(&partition.windows) {
                let (count, watermark) = open.entry(&monitor.name).or_default();
                *count += windows.len();
                if let Some(max) = windows.progress.max_event_ms {
                    let mine = monitor.spec.watermark(max);
                    *watermark = Some(watermark.map_or(mine, |least| least.min(mine)));
                }
            }
        }
        for (monitor, (count, watermark)) in open {
            metrics::open_windows(monitor, count as f64);
            if let Some(watermark) = watermark {
                metrics::watermark_delay_seconds(monitor, (now - watermark) as f64 / 1e3);
            }
        }
        if !self.announced && !self.partitions.is_empty() {
            self.announced = true;
            tracing::info!(partitions = self.partitions.len(), "collecting");
        }
    }

    /// The end: nothing more is taken in, what was read is saved, the group is left.
    fn finish(mut self) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut open = 0;
        for (key, partition) in &mut self.partitions {
            partition.hand_on(key, &self.options.limits)?;
        }
        let deadline = now + 20_000;
        while self.clock.now_ms() < deadline {
            let keys: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
            open = 0;
            for key in keys {
                let Some(partition) = self.partitions.get_mut(&key) else {
                    continue;
                };
                if partition.saving {
                    open += 1;
                } else if partition.has_unsaved()
                    && let Some(unsaved) = partition.cut(&key, now)
                {
                    self.ask(Request::Save(Box::new(unsaved)));
                    open += 1;
                }
            }
            if open == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            // A partition that is fenced now is somebody else's: nothing of it is lost.
            while let Ok(reply) = self.replies.try_recv() {
                match reply {
                    Reply::Saved { key, .. } | Reply::Fenced { key, .. } => {
                        if let Some(partition) = self.partitions.get_mut(&key) {
                            partition.saving = false;
                        }
                    }
                    Reply::Failed(error) => return Err(Error::Store(error)),
                    Reply::Taken(..) => {}
                }
            }
        }
        if open > 0 {
            tracing::warn!(
                partitions = open,
                "not saved in time; it will be read again"
            );
        }
        self.consumer.unsubscribe();
        tracing::info!("collecting has ended");
        Ok(())
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

/// Errors of the client that mean something to us; the others it mends by itself.
fn heed(error: &KafkaError) -> Result<(), Error> {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::Fatal,
        ) => Err(Error::Kafka(error.clone())),
        _ => {
            tracing::warn!(%error, "Kafka client error");
            Ok(())
        }
    }
}

fn truncated(key: &TopicPartition, stored: i64, end: i64) -> Error {
    Error::Gap {
        topic: key.topic.to_string(),
        partition: key.partition,
        what: format!(
            "the log ends at {end}, but it was read up to {stored}: it was cut, or the topic was \
             created anew"
        ),
    }
}

/// Caught up, by the broker's own word of this moment: a consumer that hears nothing may just as
/// well be cut off.
fn is_caught_up(consumer: &BaseConsumer<Context>, key: &TopicPartition, next: i64) -> bool {
    let answer = consumer.fetch_watermarks(&key.topic, key.partition, Duration::from_secs(2));
    match answer {
        Ok((_, high)) => {
            let lag = (high - next).max(0);
            // Behind the last message a transaction leaves its marker, which no reader is given.
            let position = consumer.position().ok().and_then(|list| {
                list.find_partition(&key.topic, key.partition)
                    .and_then(|p| p.offset().to_raw())
            });
            lag == 0 || position.is_some_and(|position| position >= high)
        }
        Err(_) => false,
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
