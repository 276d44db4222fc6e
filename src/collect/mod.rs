//! The collect half, top to bottom: poll, decode, window, profile, checkpoint.
//!
//! One dedicated thread polls Kafka and does everything up to the profiles. Each partition is a state
//! machine without I/O (`partition`): it is told what happens and answers with effects, which are
//! performed here, for many partitions at once. What may take long runs elsewhere: transactions in
//! Postgres (`saver`) and questions to the brokers (`brokers`). Both get what they are asked through
//! bounded channels that are never waited for, and what they answer is taken in every turn. So polling
//! goes on however slow either is, and the group does not rebalance.
//!
//! What is read since the last checkpoint lives in memory only and is dropped whenever another replica
//! turns out to hold the partition: whoever comes next reads it again from the stored offset.
//!
//! A topic that cannot go on stands still alone: it is reported (`store::failures`) and tried
//! again. Only what is wrong with the client as a whole ends collecting.

/// One partition, as a state machine.
pub mod partition;

/// Questions to the brokers.
pub mod brokers;

/// Requests to Postgres.
pub mod saver;

mod answers;
mod finish;
mod memory;
mod messages;
mod perform;
/// The topics that are read, and what the brokers say of them.
pub mod topics;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::Readiness;
use crate::clock::Clock;
use crate::ingest::consumer::{self, Context};
use crate::ingest::plan::TopicPlan;
use crate::ingest::queue::Queue;
use crate::monitor::OnGap;
use crate::settings::{Checkpoint, Kafka, Limits};
use brokers::Brokers;
use partition::{Effect, Event, Partition, Policy};
use saver::{Reply, Request, Saver};
use topics::{Key, Questions, Topic};

/// How long a turn waits for a message.
const POLL: Duration = Duration::from_millis(100);
/// How often, at most, partitions are told that time has passed.
const TICK_MS: i64 = 100;
/// How often gauges are set.
const GAUGES_MS: i64 = 1_000;

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
}

/// Collects until told to stop; then saves what it has and leaves the group.
///
/// # Errors
/// The client cannot be made, or cannot go on.
pub fn run(
    options: Options,
    plans: Vec<TopicPlan>,
    pool: PgPool,
    clock: Arc<Clock>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let saver = Saver::new(pool, options.owner.clone(), readiness.clone(), stop.clone());
    let mut collector = Collector::start(options, plans, saver, clock)?;
    while !stop.is_cancelled() {
        collector.turn(readiness)?;
    }
    collector.finish(readiness)
}

struct Collector {
    // The queue and the threads that use the client are dropped before it.
    queue: Queue,
    brokers: Brokers,
    consumer: BaseConsumer<Context>,
    options: Options,
    clock: Arc<Clock>,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    questions: Questions,
    requests: mpsc::Sender<Request>,
    /// Requests that wait for a place in the channel.
    waiting: VecDeque<Request>,
    replies: mpsc::Receiver<Reply>,
    /// What partitions want, to be performed in this turn.
    effects: Vec<(Key, Effect)>,
    /// Assignments so far, so that what was asked for one is not taken for the next.
    assignments: u64,
    /// Bytes held over all partitions.
    held: usize,
    paused: bool,
    last_tick_ms: i64,
    last_gauges_ms: i64,
}

impl Collector {
    fn start(
        options: Options,
        plans: Vec<TopicPlan>,
        saver: Saver,
        clock: Arc<Clock>,
    ) -> Result<Self, Error> {
        let topics = plans.into_iter().map(|plan| {
            let policy = policy(&options, &plan.topic);
            Topic::new(plan, policy, options.limits.message)
        });
        let topics: Vec<Topic> = topics.collect();
        let names: Vec<&str> = topics.iter().map(|topic| &*topic.name).collect();
        let consumer = consumer::subscribe(&options.kafka, &names)?;
        let queue = Queue::new(&consumer)?;
        let brokers = Brokers::start(&options.kafka, queue.waker())?;
        let handle = tokio::runtime::Handle::current();
        let (requests, replies) = saver.start(&handle, queue.waker());
        let by_name = topics.iter().enumerate();
        let by_name = by_name.map(|(i, topic)| (Arc::clone(&topic.name), i));
        Ok(Self {
            by_name: by_name.collect(),
            queue,
            brokers,
            consumer,
            options,
            clock,
            topics,
            questions: Questions::default(),
            requests,
            waiting: VecDeque::new(),
            replies,
            effects: Vec::new(),
            assignments: 0,
            held: 0,
            paused: false,
            last_tick_ms: 0,
            last_gauges_ms: 0,
        })
    }

    fn turn(&mut self, readiness: &Readiness) -> Result<(), Error> {
        self.read(POLL);
        self.follow_group(readiness)?;
        self.hear(readiness);
        let now = self.clock.now_ms();
        // What came with one poll can be more than all that may be held.
        let too_much = !self.paused && self.held > self.options.limits.max_held_bytes;
        if too_much || !(0..TICK_MS).contains(&(now - self.last_tick_ms)) {
            self.tick(now);
        }
        self.perform();
        Ok(())
    }

    fn tell(&mut self, key: Key, event: Event<'_>) {
        let seen = (self.questions.next_number(), self.clock.now_ms());
        let mut effects = Vec::new();
        let topic = &mut self.topics[key.reading];
        let grown = topic.tell(key.partition, event, seen, &mut effects);
        self.held = self.held.saturating_add_signed(grown);
        self.effects
            .extend(effects.into_iter().map(|effect| (key, effect)));
    }

    /// Tells partitions that time has passed, tries again what has failed, keeps memory bounded.
    fn tick(&mut self, now: i64) {
        let pressure = self.pressure();
        // A clock that was set back must not put off what is due.
        let everybody = pressure.is_some() || now < self.last_tick_ms;
        self.last_tick_ms = now;
        let mut due = Vec::new();
        for (reading, topic) in self.topics.iter_mut().enumerate() {
            let retry = topic.is_retry_due(now);
            if retry {
                self.questions.want(reading);
            }
            for (partition, slot) in &topic.partitions {
                let partition = *partition;
                if everybody || now >= slot.wake_ms {
                    due.push((Key { reading, partition }, Event::Tick { pressure }));
                } else if retry && matches!(slot.partition, Partition::Stopped) {
                    due.push((Key { reading, partition }, Event::Retry));
                }
            }
            if topic.has_recovered() {
                let topic = Arc::clone(&topic.name);
                let failure = None;
                self.waiting.push_back(Request::Report { topic, failure });
            }
        }
        for (key, event) in due {
            self.tell(key, event);
        }
        self.bound_memory();
        if !(0..GAUGES_MS).contains(&(now - self.last_gauges_ms)) {
            self.last_gauges_ms = now;
            self.set_gauges(now);
        }
    }
}

fn policy(options: &Options, topic: &str) -> Policy {
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let most = usize::try_from(options.checkpoint.max_bytes).unwrap_or(usize::MAX);
    Policy {
        start_at: options.kafka.start_at,
        stops_at_gap: options.on_gap.get(topic) != Some(&OnGap::Continue),
        sample_key: options.sample_key,
        min_interval_ms: millis(options.checkpoint.min_interval),
        max_interval_ms: millis(options.checkpoint.max_interval),
        max_checkpoint_bytes: most.min(options.limits.max_held_bytes),
        max_open_windows: options.limits.max_open_windows,
    }
}
