//! Replicas of one group on Apache Kafka: they share the reading and the judging, they come, go and
//! die, and what they write is what one alone would have written.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::harness::daemon::Daemon;
use crate::harness::kafka::Kafka;
use crate::harness::oracle::{assert_same, check, check_all};
use crate::harness::reference::{CREDIT, HOPPING, Reference, Watch};
use crate::harness::stage::{BY_BROKERS, CLASSIC, Stage, hold, kafka_topic};
use crate::harness::traffic::{Dice, Record, WINDOW_MS, messages_over, produce, steady, story};
use crate::harness::until;

const SEED: u64 = 16;
const PARTITIONS: i32 = 16;

/// As many lines of windows as the largest group here has replicas.
const WATCHES: [Watch; 4] = [
    CREDIT,
    HOPPING,
    Watch {
        name: "credit-double",
        size_ms: 2 * WINDOW_MS,
        every_ms: 2 * WINDOW_MS,
    },
    Watch {
        name: "credit-triple",
        size_ms: 3 * WINDOW_MS,
        every_ms: 3 * WINDOW_MS,
    },
];

/// Waits until each of so many replicas has a partition, and nobody else has any.
async fn shared_out(stage: &Stage, replicas: usize) {
    until(
        &format!("{replicas} replicas share the partitions"),
        async || {
            let sql =
                "select count(distinct owner) * 100 + count(*) from driftd.partition_progress";
            let replicas = i64::try_from(replicas).unwrap();
            stage.count(sql).await == replicas * 100 + i64::from(PARTITIONS)
        },
    )
    .await;
}

async fn saved(stage: &Stage) -> i64 {
    let sql = "select coalesce(sum(messages), 0)::bigint from driftd.checkpoints";
    stage.count(sql).await
}

fn references(log: &[Record], stage: &Stage) -> Vec<Reference> {
    let of = |watch| Reference::of_watch(watch, log, &stage.baseline_csv);
    WATCHES.iter().map(of).collect()
}

async fn all_judged(stage: &Stage, references: &[Reference]) {
    let windows = references.iter().map(|reference| reference.windows.len());
    stage.judged(windows.sum()).await;
}

// --- the halves are shared -----------------------------------------------------------------------

/// What so many replicas make of a log: each of them reads some of it and judges some of it. The
/// last partition has one message, with which all windows become ripe at once.
async fn results_of(kafka: &Kafka, replicas: usize, log: &[Record]) -> Vec<String> {
    let mut knobs = kafka_topic(kafka, PARTITIONS).await;
    knobs.watches = &WATCHES;
    let stage = Stage::set(&knobs).await;
    // A replica then judges one window at a time, so that one cannot have all lines in hand.
    stage.rewrite("max_connections = 6", "max_connections = 3");
    let mut daemons: Vec<Daemon> = (0..replicas)
        .map(|_| Daemon::start(&stage.config))
        .collect();
    shared_out(&stage, replicas).await;

    let (before, last) = log.split_at(log.len() - 1);
    produce(&knobs.brokers, &knobs.topic, before);
    stage.saved(before.len()).await;
    let lock = hold(&stage.db.pool, "window_profiles").await;
    produce(&knobs.brokers, &knobs.topic, last);
    until("each replica has a window in hand", async || {
        let sql = "select count(*) from pg_locks
            where not granted and mode = 'RowExclusiveLock'
                and relation = 'driftd.window_profiles'::regclass";
        stage.count(sql).await == i64::try_from(replicas).unwrap()
    })
    .await;
    lock.rollback().await.unwrap();
    stage.saved(log.len()).await;
    let references = references(log, &stage);
    all_judged(&stage, &references).await;

    for daemon in &mut daemons {
        for metric in ["driftd_checkpoints_total", "driftd_windows_judged_total"] {
            assert!(daemon.metric(metric) > 0.0, "{metric} of one of {replicas}");
        }
        assert!(daemon.terminate().await.success(), "{}", daemon.log());
    }
    check_all(&stage, &references.iter().collect::<Vec<_>>()).await;
    stage.results().await
}

#[tokio::test]
async fn one_two_and_four_replicas_write_the_same_rows() {
    let test = "replicas::one_two_and_four_replicas_write_the_same_rows";
    let Some(kafka) = Kafka::start_or_skip(test) else {
        return;
    };
    let mut log = messages_over(PARTITIONS, SEED, &story());
    let all = log.len();
    let closers = all - usize::try_from(PARTITIONS).unwrap();
    let mut place = 0..all;
    log.retain(|record| place.next() >= Some(closers) || record.partition < PARTITIONS - 1);
    let one = results_of(kafka, 1, &log).await;
    for replicas in [2, 4] {
        let found = results_of(kafka, replicas, &log).await;
        assert_same(&found, &one);
    }
}

// --- replicas that come, go and die --------------------------------------------------------------

/// Members of a group whose number goes up and down.
struct Crowd<'a> {
    stage: &'a Stage,
    members: Vec<Daemon>,
    /// Told to stop, and not waited for.
    leaving: Vec<Daemon>,
    dice: Dice,
    /// How often one has joined, left and died.
    events: [usize; 3],
}

impl Crowd<'_> {
    const MOST: usize = 4;

    fn pick(&mut self, end: usize) -> usize {
        usize::try_from(self.dice.below(end as u64)).unwrap()
    }

    /// One joins, leaves in order or dies; never the last one.
    fn stir(&mut self) {
        let event = match self.members.len() {
            1 => 0,
            Self::MOST => 1 + self.pick(2),
            _ => self.pick(3),
        };
        self.events[event] += 1;
        if event == 0 {
            self.members.push(Daemon::start(&self.stage.config));
            return;
        }
        let at = self.pick(self.members.len());
        let member = self.members.swap_remove(at);
        match event {
            1 => {
                member.signal("TERM");
                self.leaving.push(member);
            }
            _ => member.kill(),
        }
    }
}

/// Something happens to the group every second or two; after each of it messages go on being saved.
async fn storm(kafka: &Kafka, properties: &str, seed: u64) {
    const EVENTS: usize = 9;
    let knobs = kafka_topic(kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    stage.set_properties(properties);
    let log = messages_over(PARTITIONS, SEED, &story());
    let mut crowd = Crowd {
        stage: &stage,
        members: vec![Daemon::start(&stage.config), Daemon::start(&stage.config)],
        leaving: Vec::new(),
        dice: Dice::new(seed),
        events: [0; 3],
    };
    shared_out(&stage, 2).await;
    for part in log.chunks(log.len().div_ceil(EVENTS)) {
        crowd.stir();
        let before = saved(&stage).await;
        produce(&knobs.brokers, &knobs.topic, part);
        let pause = Duration::from_millis(1_000 + crowd.dice.below(1_000));
        // The pace of the storm, not a wait for anything.
        tokio::time::sleep(pause).await;
        until("more is saved after the event", async || {
            saved(&stage).await > before
        })
        .await;
    }
    stage.saved(log.len()).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    stage.judged(reference.windows.len()).await;
    for daemon in crowd.members.iter_mut() {
        assert!(daemon.is_running(), "it has ended:\n{}", daemon.log());
        daemon.signal("TERM");
    }
    for daemon in crowd.members.iter_mut().chain(&mut crowd.leaving) {
        assert!(daemon.ended().await.success(), "{}", daemon.log());
    }
    check(&stage, &reference).await;
    assert!(
        crowd.events.iter().all(|times| *times > 0),
        "{:?}",
        crowd.events
    );
}

#[tokio::test]
async fn a_storm_of_rebalances_changes_nothing() {
    let Some(kafka) = Kafka::start_or_skip("replicas::a_storm_of_rebalances_changes_nothing")
    else {
        return;
    };
    storm(kafka, CLASSIC, 1).await;
}

#[tokio::test]
async fn a_storm_changes_nothing_where_brokers_assign() {
    let Some(kafka) =
        Kafka::start_or_skip("replicas::a_storm_changes_nothing_where_brokers_assign")
    else {
        return;
    };
    storm(kafka, BY_BROKERS, 2).await;
}

/// Of two replicas one dies; the other one goes on where that one has saved. How long that takes is
/// printed: the session timeout (4 s here) and a little.
#[tokio::test]
async fn what_a_dead_replica_had_is_taken_over() {
    let Some(kafka) = Kafka::start_or_skip("replicas::what_a_dead_replica_had_is_taken_over")
    else {
        return;
    };
    let knobs = kafka_topic(kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    let log = messages_over(PARTITIONS, SEED + 1, &[steady(400); 6]);
    let (before, after) = log.split_at(log.len() / 2);
    let dies = Daemon::start(&stage.config);
    let mut lives = Daemon::start(&stage.config);
    shared_out(&stage, 2).await;
    produce(&knobs.brokers, &knobs.topic, before);
    stage.saved(before.len()).await;
    dies.kill();
    let died = Instant::now();
    produce(&knobs.brokers, &knobs.topic, after);
    stage.saved(log.len()).await;
    let line = format!(
        "taken over {:.1} s after the kill\n",
        died.elapsed().as_secs_f64()
    );
    io::stderr().write_all(line.as_bytes()).unwrap();
    let reference = Reference::of(&log, &stage.baseline_csv);
    stage.judged(reference.windows.len()).await;
    assert!(lives.terminate().await.success(), "{}", lives.log());
    check(&stage, &reference).await;
}
