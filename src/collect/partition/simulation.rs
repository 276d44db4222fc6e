//! The state machine against a model of the world: a log that grows, is cut and created again, brokers
//! that lag, answers that are late or lost, replicas that come and go, a Postgres that compares and
//! sets. Seeded: the same seed gives the same story.

use std::collections::{BTreeMap, VecDeque};

use super::log::{Checkpoint, LogId, OpenGap, Settlement};
use super::*;
use crate::ingest::plan::{TopicPlan, Watched};
use crate::ingest::stretch::{Message, Stretch};
use crate::settings::{MessageLimits, Settings};

const LIMITS: MessageLimits = MessageLimits {
    bytes: 1 << 20,
    depth: 64,
    rows: 10_000,
    label_bytes: 4096,
};

pub(super) const POLICY: Policy = Policy {
    start_at: StartAt::Earliest,
    stops_at_gap: false,
    sample_key: 0,
    min_interval_ms: 60_000,
    max_interval_ms: 600_000,
    max_checkpoint_bytes: 1 << 20,
    max_open_windows: 400,
};

/// A topic of one monitor that keeps the payload of what it rejects.
fn plan() -> TopicPlan {
    let settings = Settings::from_toml(
        r#"
        kafka.brokers = "localhost:9092"
        postgres.url = "postgres://localhost/driftd"
        [[monitors]]
        name = "m"
        topic = "t"
        model = "x"
        version = { path = "v" }
        timestamp = { path = "t", unit = "ms" }
        window = "1m"
        keep_rejected_payload = true
        "#,
    );
    let monitor = settings.unwrap().monitors.remove(0);
    let mut plan = TopicPlan::new("t");
    let watched = Watched {
        monitor_id: 1,
        name: "m",
        input: monitor.input.as_ref().unwrap(),
        starts_at_ms: None,
        baselines: vec![],
    };
    plan.add(&watched).unwrap();
    plan
}

/// A topic as brokers describe it that have no ids.
pub(super) fn topic() -> Topic {
    Topic {
        id: None,
        partitions: 1,
    }
}

/// The ends of a log.
#[allow(clippy::unnecessary_wraps, reason = "as it is answered")]
pub(super) fn log(low: i64, high: i64) -> Option<Log> {
    Some(Log {
        low,
        high,
        since: None,
        diverges_at: None,
    })
}

/// One partition that is driven by hand.
pub(super) struct One {
    plan: TopicPlan,
    rows: Stretch,
    pub(super) policy: Policy,
    pub(super) partition: Partition,
    pub(super) next_topic_question: u64,
}

impl One {
    fn new() -> Self {
        let plan = plan();
        Self {
            rows: Stretch::new(&plan, LIMITS),
            plan,
            policy: POLICY,
            partition: Partition::Stopped,
            next_topic_question: 1,
        }
    }

    /// A partition that is read from offset 0 on, under epoch 1.
    pub(super) fn reading() -> Self {
        let mut one = Self::new();
        one.partition = Partition::assigned(&mut vec![]);
        let takeover = Takeover {
            epoch: 1,
            next_offset: Some(0),
            log: LogId {
                generation: 1,
                topic_id: None,
            },
            leader_epoch: None,
            past_topic_ids: vec![],
            added: false,
            open_gaps: vec![],
            max_event_ms: vec![],
        };
        one.tell(Event::TakenOver(takeover), 0);
        let topic = &topic();
        one.tell(Event::Topic { number: 1, topic }, 0);
        let (log, position) = (log(0, 0), None);
        one.tell(Event::Log { log, position }, 0);
        one.tell(Event::Sought(true), 0);
        assert_eq!(one.partition.expects(), Some(0));
        one
    }

    pub(super) fn tell(&mut self, event: Event<'_>, now: i64) -> Vec<Effect> {
        let context = Context {
            topic: "t",
            partition: 0,
            monitors: &self.plan.monitors,
            policy: &self.policy,
            next_topic_question: self.next_topic_question,
            now,
        };
        let mut effects = vec![];
        self.partition.on(event, &context, &mut effects);
        effects
    }

    pub(super) fn tick(&mut self, now: i64) -> Vec<Effect> {
        self.tell(Event::Tick { pressure: None }, now)
    }

    /// Reads payloads, one message each.
    pub(super) fn read(&mut self, payloads: &[String], now: i64) {
        let from = self.partition.expects().unwrap();
        for (offset, payload) in (from..).zip(payloads) {
            let message = Message {
                offset,
                record_ms: Some(1_000 * 3_600_000),
                payload: Some(payload.as_bytes()),
                headers: &[],
            };
            self.rows.take(&self.plan, message);
        }
        let rows = self.rows.finish();
        let batch = Batch {
            rows: &rows,
            tally: self.rows.take_tally(),
            first: (from, Some(1_000 * 3_600_000)),
            next_offset: from + i64::try_from(payloads.len()).unwrap(),
            leader_epoch: None,
        };
        let context = Context {
            topic: "t",
            partition: 0,
            monitors: &self.plan.monitors,
            policy: &self.policy,
            next_topic_question: self.next_topic_question,
            now,
        };
        self.partition.read(batch, &context);
    }
}

/// Random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::profile::sample::mix(self.0) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What Postgres holds of the partition.
struct Store {
    epoch: i64,
    next_offset: i64,
    log: LogId,
    past_topic_ids: Vec<String>,
    /// Saved stretches: generation, first offset, offset behind.
    stretches: Vec<(i64, i64, i64)>,
    /// Gaps: generation, from, to.
    gaps: Vec<(i64, i64, Option<i64>)>,
}

/// A log and what it was before: each with the id of its topic, its first offset and its end.
#[derive(Clone)]
struct World {
    topic_id: u64,
    low: i64,
    high: i64,
}

/// An answer on its way to a replica.
enum Answer {
    TakenOver(Takeover),
    Settled(bool, bool),
    Saved(i64),
    Fenced,
    Topic(u64, Topic),
    Log(Option<Log>),
}

/// A replica with its machine, and what is on the way to it.
struct Replica {
    one: One,
    assignment: u64,
    /// The group says that the partition is its own.
    is_owner: bool,
    exists: bool,
    inbox: VecDeque<(u64, Answer)>,
    /// What it asked of Postgres and was not done yet.
    outbox: VecDeque<(u64, Effect)>,
    asked_topic: bool,
}

impl Replica {
    fn new() -> Self {
        Self {
            one: One::new(),
            assignment: 0,
            is_owner: false,
            exists: false,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            asked_topic: false,
        }
    }
}

struct Simulation {
    dice: Dice,
    now: i64,
    world: World,
    /// What a broker that lags behind still says.
    stale: World,
    store: Store,
    replicas: Vec<Replica>,
    assignments: u64,
    created: u64,
    /// What happened, to be printed where an invariant does not hold.
    story: VecDeque<String>,
    reached: BTreeMap<&'static str, u64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let world = World {
            topic_id: 1,
            low: 0,
            high: 0,
        };
        Self {
            dice: Dice(seed),
            now: 1_000_000_000,
            stale: world.clone(),
            world,
            store: Store {
                epoch: 0,
                next_offset: -1,
                log: LogId {
                    generation: 1,
                    topic_id: None,
                },
                past_topic_ids: vec![],
                stretches: vec![],
                gaps: vec![],
            },
            replicas: (0..3).map(|_| Replica::new()).collect(),
            assignments: 0,
            created: 1,
            story: VecDeque::new(),
            reached: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &'static str, detail: &str) {
        *self.reached.entry(what).or_default() += 1;
        self.story
            .push_back(format!("{} {what} {detail}", self.now));
        if self.story.len() > 60 {
            self.story.pop_front();
        }
    }

    fn fail(&self, why: &str) -> ! {
        let story: Vec<&str> = self.story.iter().map(String::as_str).collect();
        panic!("{why}\n{}", story.join("\n"));
    }

    /// One step of the story.
    fn step(&mut self) {
        self.now += i64::try_from(self.dice.below(400)).unwrap();
        let at = usize::try_from(self.dice.below(3)).unwrap();
        match self.dice.below(100) {
            0..20 => {
                self.world.high += 1 + i64::try_from(self.dice.below(5)).unwrap();
            }
            20..45 => self.read(at),
            45..60 => self.perform(at),
            60..80 => self.answer(at),
            80..92 => self.tell(at, Event::Tick { pressure: None }),
            92 => self.tell(at, Event::Tick { pressure: Some(0) }),
            93 => self.now += 70_000,
            94..97 => self.rebalance(at),
            97 => self.disturb(at),
            98 => self.stale = self.world.clone(),
            _ if self.dice.one_in(4) => self.change_log(),
            _ => {}
        }
    }

    fn tell(&mut self, at: usize, event: Event<'_>) {
        let now = self.now;
        let replica = &mut self.replicas[at];
        if !replica.exists {
            return;
        }
        let effects = replica.one.tell(event, now);
        for effect in effects {
            self.effect(at, effect);
        }
    }

    /// What is done at once; the rest waits in the outbox.
    fn effect(&mut self, at: usize, effect: Effect) {
        let replica = &mut self.replicas[at];
        match effect {
            Effect::TakeOver => {
                self.assignments += 1;
                replica.assignment = self.assignments;
                replica.outbox.push_back((replica.assignment, effect));
            }
            Effect::AskTopic => replica.asked_topic = true,
            Effect::Seek { offset, .. } => {
                let sought = !self.dice.one_in(3);
                if sought && offset > self.world.high {
                    // The client finds out, and stops fetching.
                    self.tell(at, Event::Sought(true));
                    return self.tell(at, Event::FetchStopped);
                }
                self.tell(at, Event::Sought(sought));
            }
            Effect::Drop => {
                replica.exists = false;
                self.note("gone", &at.to_string());
            }
            Effect::Stop(reason) => {
                self.note("stopped", &reason);
                self.tell(at, Event::Retry);
            }
            Effect::Save(_)
            | Effect::Confirm { .. }
            | Effect::Settle(_)
            | Effect::AskLog { .. } => {
                let assignment = replica.assignment;
                replica.outbox.push_back((assignment, effect));
            }
            Effect::Commit(_) | Effect::Pause | Effect::Reassign | Effect::Capped { .. } => {}
        }
    }

    fn read(&mut self, at: usize) {
        let Some(next) = self.replicas[at].one.partition.expects() else {
            return;
        };
        // Who reads a topic that was created again is given its messages without a word.
        let from = next.max(self.world.low);
        if !self.replicas[at].exists || from >= self.world.high || next < self.world.low {
            return;
        }
        let most = u64::try_from(self.world.high - from).unwrap();
        let count = 1 + self.dice.below(most);
        let event = |offset: i64| format!(r#"{{"t": {}}}"#, 3_600_000 + offset * 1_000);
        let payloads = (from..).map(event).take(usize::try_from(count).unwrap());
        let now = self.now;
        self.replicas[at]
            .one
            .read(&payloads.collect::<Vec<_>>(), now);
        self.note("read", &format!("{at}: {from} {count}"));
    }

    /// Postgres or a broker does the first thing that a replica has asked for.
    fn perform(&mut self, at: usize) {
        if self.replicas[at].asked_topic {
            self.replicas[at].asked_topic = false;
            let world = if self.dice.one_in(5) {
                &self.stale
            } else {
                &self.world
            };
            let topic = Topic {
                id: Some(world.topic_id.to_string()),
                partitions: 1,
            };
            let one = &mut self.replicas[at].one;
            let number = one.next_topic_question;
            one.next_topic_question += 1;
            self.replicas[at]
                .inbox
                .push_back((0, Answer::Topic(number, topic)));
        }
        let Some((assignment, effect)) = self.replicas[at].outbox.pop_front() else {
            return;
        };
        let answer = match effect {
            Effect::TakeOver => Answer::TakenOver(self.take_over(at)),
            Effect::Settle(settlement) => self.settle(at, &settlement),
            Effect::Save(checkpoint) => self.save(at, &checkpoint),
            Effect::Confirm { epoch, next_offset } => {
                let stands = (self.store.epoch, self.store.next_offset) == (epoch, next_offset);
                if stands {
                    Answer::Saved(next_offset)
                } else {
                    Answer::Fenced
                }
            }
            _ => Answer::Log((!self.dice.one_in(6)).then_some(Log {
                low: self.world.low,
                high: self.world.high,
                since: None,
                diverges_at: None,
            })),
        };
        self.replicas[at].inbox.push_back((assignment, answer));
        // An answer that comes after those of later questions.
        if self.dice.one_in(4) {
            self.replicas[at].inbox.rotate_left(1);
        }
    }

    fn take_over(&mut self, at: usize) -> Takeover {
        self.store.epoch += 1;
        self.note("taken over", &format!("{at}: epoch {}", self.store.epoch));
        Takeover {
            epoch: self.store.epoch,
            next_offset: (self.store.next_offset >= 0).then_some(self.store.next_offset),
            log: self.store.log.clone(),
            leader_epoch: None,
            past_topic_ids: self.store.past_topic_ids.clone(),
            added: false,
            open_gaps: vec![],
            max_event_ms: vec![],
        }
    }

    fn settle(&mut self, at: usize, settlement: &Settlement) -> Answer {
        let stored = (self.store.epoch, self.store.next_offset);
        if stored != (settlement.epoch, settlement.expected_offset) {
            return Answer::Settled(false, false);
        }
        self.note("settled", &format!("{at}: {settlement:?}"));
        let gaps = settlement.gaps.iter();
        for gap in gaps.map(|gap| (gap.generation, gap.from_offset, gap.to_offset)) {
            if !self.store.gaps.contains(&gap) {
                self.store.gaps.push(gap);
            }
        }
        if settlement.stops() {
            return Answer::Settled(true, true);
        }
        if let Some(id) = &settlement.topic_id {
            let before = self.store.log.topic_id.replace(id.clone());
            self.store
                .past_topic_ids
                .extend(before.filter(|before| before != id));
        }
        self.store.log.generation = settlement.generation;
        self.store.next_offset = settlement.next_offset;
        Answer::Settled(true, false)
    }

    /// The fence of the store, and what may never come as far as there.
    fn save(&mut self, at: usize, checkpoint: &Checkpoint<Added>) -> Answer {
        let stored = (self.store.epoch, self.store.next_offset);
        if stored != (checkpoint.epoch, checkpoint.first_offset) {
            self.note("fenced", &at.to_string());
            return Answer::Fenced;
        }
        self.note(
            "saved",
            &format!(
                "{at}: {}..{}",
                checkpoint.first_offset, checkpoint.next_offset
            ),
        );
        if checkpoint.generation != self.store.log.generation {
            self.fail("a stretch of another log than the stored one was saved");
        }
        let read: i64 = checkpoint.messages;
        if read != checkpoint.next_offset - checkpoint.first_offset {
            self.fail("a stretch holds another number of messages than it is long");
        }
        let rows: u64 = checkpoint
            .deltas
            .iter()
            .map(|one| one.delta.profile.rows + one.delta.late)
            .sum();
        if i64::try_from(rows).unwrap() != read {
            self.fail("rows of a stretch are missing in its windows");
        }
        if read > 0 {
            let stretch = (
                checkpoint.generation,
                checkpoint.first_offset,
                checkpoint.next_offset,
            );
            self.store.stretches.push(stretch);
        }
        self.store.next_offset = checkpoint.next_offset;
        Answer::Saved(checkpoint.next_offset)
    }

    /// A replica takes in the first answer that has come; an answer of an earlier assignment is dropped
    /// by the shell.
    fn answer(&mut self, at: usize) {
        let Some((assignment, answer)) = self.replicas[at].inbox.pop_front() else {
            return;
        };
        let is_current = assignment == self.replicas[at].assignment;
        match answer {
            Answer::Topic(number, topic) => {
                self.tell(
                    at,
                    Event::Topic {
                        number,
                        topic: &topic,
                    },
                );
            }
            _ if !is_current => {}
            Answer::TakenOver(takeover) => self.tell(at, Event::TakenOver(takeover)),
            Answer::Settled(true, true) => self.tell(at, Event::GapsRecorded),
            Answer::Settled(true, false) => {
                let open_gaps: Vec<OpenGap> = vec![];
                self.tell(at, Event::Settled { open_gaps });
            }
            Answer::Settled(false, _) | Answer::Fenced => self.tell(at, Event::Fenced),
            Answer::Saved(next_offset) => self.tell(at, Event::Saved { next_offset }),
            Answer::Log(log) => self.tell(
                at,
                Event::Log {
                    log,
                    position: None,
                },
            ),
        }
    }

    /// The group gives the partition to another replica. It does not wait for the one before.
    fn rebalance(&mut self, to: usize) {
        for at in 0..self.replicas.len() {
            if self.replicas[at].is_owner && at != to {
                self.replicas[at].is_owner = false;
                // A zombie does not hear of it.
                if !self.dice.one_in(3) {
                    self.tell(at, Event::Revoked);
                }
            }
        }
        self.note("assigned", &to.to_string());
        let replica = &mut self.replicas[to];
        replica.is_owner = true;
        replica.exists = true;
        let mut effects = vec![];
        replica.one.partition = Partition::assigned(&mut effects);
        for effect in effects {
            self.effect(to, effect);
        }
    }

    /// A replica dies, or its client has trouble.
    fn disturb(&mut self, at: usize) {
        match self.dice.below(4) {
            0 => {
                self.note("killed", &at.to_string());
                self.replicas[at] = Replica::new();
            }
            1 => self.tell(at, Event::FetchStopped),
            2 => self.tell(at, Event::Unreadable("damaged".into())),
            // An answer is lost with its commit done: the shell asks again, which is the saver's part;
            // what the machine sees is an answer that comes late.
            _ => {
                let inbox = &mut self.replicas[at].inbox;
                inbox.rotate_left(1.min(inbox.len()));
            }
        }
    }

    /// What happens to the log itself.
    fn change_log(&mut self) {
        self.stale = self.world.clone();
        match self.dice.below(3) {
            0 => {
                let kept = u64::try_from(self.world.high - self.world.low).unwrap() + 1;
                self.world.low += i64::try_from(self.dice.below(kept)).unwrap();
                self.note("retention", &self.world.low.to_string());
            }
            1 => {
                self.created += 1;
                self.world = World {
                    topic_id: self.created,
                    low: 0,
                    high: i64::try_from(self.dice.below(4)).unwrap(),
                };
                self.note("created again", &self.created.to_string());
            }
            _ => {}
        }
    }

    /// Nothing is saved twice, nothing is missing without a gap that says so.
    fn check(&self) {
        let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
        for (generation, first, next) in &self.store.stretches {
            let end = ends.entry(*generation).or_insert(*first);
            let named = self.store.gaps.iter().any(|(of, from, to)| {
                of == generation && *from <= *end && to.is_some_and(|to| to >= *first)
            });
            if first < end || (first > end && !named) {
                self.fail(&format!("log {generation}: {first} comes after {end}"));
            }
            *end = *next;
        }
        for (generation, end) in &ends {
            if *generation < self.store.log.generation {
                let ended = self.store.gaps.iter();
                let ended = ended.filter(|(of, _, to)| of == generation && to.is_none());
                if !ended.clone().any(|(_, from, _)| from >= end) {
                    self.fail(&format!("log {generation} ended at {end} without a gap"));
                }
            }
        }
    }

    /// Calm: answers come, nothing changes. The owner reads to the end and saves all.
    fn settle_down(&mut self) {
        self.stale = self.world.clone();
        for at in 0..self.replicas.len() {
            if !self.replicas[at].is_owner {
                self.tell(at, Event::Revoked); // zombies hear of it at last
            }
        }
        if !self
            .replicas
            .iter()
            .any(|replica| replica.is_owner && replica.exists)
        {
            self.rebalance(0);
        }
        for _ in 0..400 {
            for at in 0..self.replicas.len() {
                self.now += 500;
                self.read(at);
                self.perform(at);
                self.answer(at);
                self.tell(at, Event::Tick { pressure: Some(0) });
            }
        }
        self.check();
        if self.store.next_offset != self.world.high {
            self.fail(&format!(
                "stored {} of {}",
                self.store.next_offset, self.world.high
            ));
        }
    }
}

fn simulate(seeds: std::ops::Range<u64>, stops_at_gap: bool) -> BTreeMap<&'static str, u64> {
    let mut reached = BTreeMap::new();
    for seed in seeds {
        let mut simulation = Simulation::new(seed);
        for replica in &mut simulation.replicas {
            replica.one.policy.stops_at_gap = stops_at_gap;
        }
        for _ in 0..1_000 {
            simulation.step();
            simulation.check();
        }
        if !stops_at_gap {
            simulation.settle_down();
        }
        for (what, times) in simulation.reached {
            *reached.entry(what).or_default() += times;
        }
    }
    reached
}

#[test]
fn whatever_happens_each_message_is_saved_once_or_named_in_a_gap() {
    let reached = simulate(0..200, false);
    for what in [
        "saved",
        "fenced",
        "gone",
        "killed",
        "retention",
        "created again",
    ] {
        assert!(
            reached.get(what).is_some_and(|times| *times > 50),
            "{what}: {reached:?}"
        );
    }
}

#[test]
fn a_gap_that_stops_is_recorded_and_passed_by_nobody() {
    let reached = simulate(1_000..1_050, true);
    assert!(
        reached.get("stopped").is_some_and(|times| *times > 20),
        "{reached:?}"
    );
}
