//! The topics that are read, with their partitions; and what the brokers say of topics: that each is
//! there, how many partitions it has, and that it is still the one that was read.
//!
//! librdkafka reads on in a topic that was deleted and created again as if nothing had happened. So no
//! stretch is saved before the brokers have named the topic's id after the stretch was read. One
//! question covers all topics that wait for one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use super::partition::log::{self, Count};
use super::partition::{Batch, Context, Effect, Event, Partition, Policy, Tally};
use crate::ingest::consumer::TopicPartition;
use crate::ingest::plan::TopicPlan;
use crate::ingest::reject::Reason;
use crate::ingest::stretch::Stretch;
use crate::settings::MessageLimits;
use crate::telemetry::metrics;
use crate::window::open::Assigned;

/// How often the count of partitions is asked for.
const REFRESH_MS: i64 = 30_000;
/// How long to wait after a question that was not answered as it should be.
const AGAIN_MS: i64 = 300;
/// The first pause after a failure of a topic, and the longest: they double in between.
const RETRY_MS: (i64, i64) = (5_000, 300_000);

/// A partition of a reading of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Which of the readings. Each topic has one; another one would catch up for a monitor that was
    /// added later.
    pub reading: usize,
    /// The number of the partition in its topic.
    pub partition: i32,
}

/// One reading of a topic.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// What is read from it, for whom.
    pub plan: Arc<TopicPlan>,
    /// What its partitions go by.
    pub policy: Policy,
    /// Decodes messages of one partition after the other.
    pub rows: Stretch,
    /// Names of the headers that are read, as the client takes them.
    pub headers: Vec<CString>,
    /// Its partitions that are ours.
    pub partitions: BTreeMap<i32, Slot>,
    counted: Counted,
    failure: Option<Failure>,
}

/// A partition with what the shell knows of it.
#[derive(Debug)]
pub struct Slot {
    /// Numbers the assignments of all partitions: an answer to another one is dropped.
    pub assignment: u64,
    /// When it has to be told that time has passed.
    pub wake_ms: i64,
    /// Bytes that it holds.
    pub held: usize,
    /// The group has given it to somebody else.
    pub revoked: bool,
    /// The state machine.
    pub partition: Partition,
}

/// How many partitions a topic has.
#[derive(Debug, Clone, Default)]
struct Counted {
    is_known: bool,
    /// Which topic of that name: another one begins anew.
    topic_id: Option<String>,
    /// By the brokers.
    seen: i32,
    /// By Postgres.
    noted: i32,
}

/// Attempts of a topic that cannot go on.
#[derive(Debug)]
struct Failure {
    attempts: u32,
    retry_ms: i64,
}

impl Topic {
    /// A topic of which nothing is known yet.
    pub fn new(plan: TopicPlan, policy: Policy, limits: MessageLimits) -> Self {
        let headers = plan.plan.headers().iter();
        // A header whose name holds a NUL is in no message: the client could not find it.
        let headers = headers.map(|(name, _)| CString::new(name.as_str()).unwrap_or_default());
        Self {
            name: plan.topic.as_str().into(),
            headers: headers.collect(),
            rows: Stretch::new(&plan, limits),
            plan: Arc::new(plan),
            policy,
            partitions: BTreeMap::new(),
            counted: Counted::default(),
            failure: None,
        }
    }

    /// Its name in Kafka of one of its partitions.
    pub fn partition_name(&self, partition: i32) -> TopicPartition {
        TopicPartition {
            partition,
            topic: Arc::clone(&self.name),
        }
    }

    /// One of its partitions, with what it sees of the world.
    fn look(
        &mut self,
        partition: i32,
        next_topic_question: u64,
        now: i64,
    ) -> Option<(&mut Slot, Context<'_>)> {
        let slot = self.partitions.get_mut(&partition)?;
        let context = Context {
            topic: &self.name,
            partition,
            monitors: &self.plan.monitors,
            policy: &self.policy,
            next_topic_question,
            now,
        };
        Some((slot, context))
    }

    /// Has a partition handle an event; answers by how much what it holds has grown or shrunk.
    pub fn tell(
        &mut self,
        partition: i32,
        event: Event<'_>,
        (next_topic_question, now): (u64, i64),
        effects: &mut Vec<Effect>,
    ) -> isize {
        let Some((slot, context)) = self.look(partition, next_topic_question, now) else {
            return 0;
        };
        slot.partition.on(event, &context, effects);
        slot.measure(&context)
    }

    /// Has a partition take in rows; answers what became of them per monitor, and by how much what it
    /// holds has grown.
    pub fn read(&mut self, partition: i32, batch: Batch<'_>, now: i64) -> (Vec<Assigned>, isize) {
        let Some((slot, context)) = self.look(partition, 0, now) else {
            return (Vec::new(), 0);
        };
        let assigned = slot.partition.read(batch, &context);
        (assigned, slot.measure(&context))
    }

    /// Counts messages of which nothing could be used, and the limits that they went beyond.
    pub fn count_rejected(&self, tally: &Tally) {
        let mut reasons: BTreeMap<&str, (Reason, u64)> = BTreeMap::new();
        for rejected in tally.rejected.iter().filter(|one| one.monitor.is_empty()) {
            let reason = rejected.reason;
            reasons.entry(reason.as_str()).or_insert((reason, 0)).1 += 1;
        }
        for (name, (reason, more)) in reasons {
            metrics::rejected_messages(&self.name, name, more);
            if let Some(limit) = reason.limit() {
                self.capped(limit, more);
            }
        }
    }

    /// A limit that is met by the messages of a topic is met by all monitors of it.
    pub fn capped(&self, limit: &str, more: u64) {
        let monitors = self.plan.monitors.iter();
        monitors.for_each(|monitor| metrics::capped(&monitor.name, limit, more));
    }

    // --- how many partitions it has --------------------------------------------------------------

    /// Whether the brokers have described it ever.
    pub fn is_known(&self) -> bool {
        self.counted.is_known
    }

    /// The brokers do not have it: what is known of its partitions is of a topic that is gone.
    pub fn forget_count(&mut self) {
        self.counted = Counted::default();
    }

    /// So many partitions are stored now.
    pub fn noted(&mut self, noted: &Count) {
        if self.counted.topic_id == noted.topic_id {
            self.counted.noted = self.counted.noted.max(noted.partitions);
        }
    }

    /// Takes in what the brokers say; answers what Postgres has to know of that.
    pub fn count(&mut self, topic: &log::Topic) -> Option<Count> {
        if self.counted.topic_id != topic.id {
            self.counted = Counted {
                topic_id: topic.id.clone(),
                ..Counted::default()
            };
        }
        self.counted.is_known = true;
        let is_news = topic.partitions > self.counted.seen;
        self.counted.seen = self.counted.seen.max(topic.partitions);
        is_news.then(|| self.news()).flatten()
    }

    /// How many partitions it has, where Postgres does not know it yet.
    pub fn news(&self) -> Option<Count> {
        (self.counted.seen > self.counted.noted).then(|| Count {
            topic: self.name.to_string(),
            topic_id: self.counted.topic_id.clone(),
            partitions: self.counted.seen,
        })
    }

    // --- when it cannot go on ----------------------------------------------------------------------

    /// It cannot go on; answers how long until it is tried again, where that has to be reported.
    pub fn fail(&mut self, now: i64) -> Option<Duration> {
        let (first, longest) = RETRY_MS;
        let before = self.failure.as_ref();
        if before.is_some_and(|failure| now < failure.retry_ms) {
            return None; // another partition, of the same attempt
        }
        let attempts = before.map_or(0, |failure| failure.attempts);
        let pause = (first << attempts.min(10)).min(longest);
        self.failure = Some(Failure {
            attempts: attempts + 1,
            retry_ms: now + pause,
        });
        Some(Duration::from_millis(pause.unsigned_abs()))
    }

    /// Whether what has failed is to be tried again now.
    pub fn is_retry_due(&self, now: i64) -> bool {
        let failure = self.failure.as_ref();
        failure.is_some_and(|failure| now >= failure.retry_ms)
    }

    /// Whether it had failed and works again: no partition stands still any more.
    pub fn has_recovered(&mut self) -> bool {
        if self.failure.is_none() || !self.counted.is_known {
            return false;
        }
        let mut slots = self.partitions.values();
        let stands = slots.any(|slot| !slot.revoked && slot.partition.reading().is_none());
        if !stands {
            self.failure = None;
        }
        !stands
    }
}

impl Slot {
    /// A partition that was just assigned.
    pub fn new(effects: &mut Vec<Effect>) -> Self {
        Self {
            assignment: 0,
            wake_ms: i64::MAX,
            held: 0,
            revoked: false,
            partition: Partition::assigned(effects),
        }
    }

    /// By how much what it holds has grown or shrunk since the last time.
    fn measure(&mut self, context: &Context<'_>) -> isize {
        self.wake_ms = self.partition.wake_ms(context);
        let before = std::mem::replace(&mut self.held, self.partition.held());
        self.held.cast_signed() - before.cast_signed()
    }
}

/// Which topics have to be asked about.
#[derive(Debug, Default)]
pub struct Questions {
    /// Questions asked so far, which number them. One is on its way at most.
    asked: u64,
    on_its_way: bool,
    wanted: BTreeSet<usize>,
    not_before_ms: i64,
    refresh_at_ms: i64,
}

impl Questions {
    /// The number of the next question.
    pub fn next_number(&self) -> u64 {
        self.asked + 1
    }

    /// Wants to know of a topic.
    pub fn want(&mut self, reading: usize) {
        self.wanted.insert(reading);
    }

    /// Wants to know again, a little later, of a topic whose answer could not be used.
    pub fn want_again(&mut self, reading: usize, now: i64) {
        self.wanted.insert(reading);
        self.not_before_ms = now + AGAIN_MS;
    }

    /// The next question, if there is one to ask now: its number, and the topics. All are asked about now
    /// and then.
    pub fn next(&mut self, topics: usize, now: i64) -> Option<(u64, Vec<usize>)> {
        if now >= self.refresh_at_ms {
            self.refresh_at_ms = now + REFRESH_MS;
            self.wanted.extend(0..topics);
        }
        if self.on_its_way || self.wanted.is_empty() || now < self.not_before_ms {
            return None;
        }
        self.on_its_way = true;
        self.asked += 1;
        // Many topics are asked about together rather than one after the other.
        self.not_before_ms = now + i64::try_from(topics.min(500)).unwrap_or(0);
        let wanted = std::mem::take(&mut self.wanted);
        Some((self.asked, wanted.into_iter().collect()))
    }

    /// An answer has come.
    pub fn answered(&mut self) {
        self.on_its_way = false;
    }
}
