//! Half an hour of everything: messages at a fixed rate, a replica that is killed and started again
//! at random, a Postgres that is cut off, away or slow now and then, and a replica that runs from
//! start to end, whose memory is shown. Not part of the other tests: `./dev soak [MINUTES]`, and
//! `./dev soak outage [MINUTES]` for a Postgres that is away all the time.

use std::time::{Duration, Instant};

use crate::harness::daemon::Daemon;
use crate::harness::kafka::Kafka;
use crate::harness::oracle::check;
use crate::harness::postgres;
use crate::harness::proxy::{Flow, Proxy};
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, fresh_topic};
use crate::harness::traffic::{Dice, PARTITIONS, Phase, Record, messages, produce, steady};

/// Messages a second.
const RATE: usize = 500;
/// Rows of a window: many windows ripen, drift and resolve.
const ROWS: i64 = 300;
const SEED: u64 = 20;
const SECOND: Duration = Duration::from_secs(1);
/// How long the end is waited for.
const PATIENCE: Duration = Duration::from_secs(900);

fn minutes(default: u64) -> u64 {
    let given = std::env::var_os("DRIFTD_SOAK_MINUTES");
    given.map_or(default, |minutes| {
        minutes.to_str().unwrap().parse().unwrap()
    })
}

/// A log that takes so long to produce, and what has to come of it; every tenth window drifts.
fn endless(minutes: u64, baseline_csv: &str) -> (Vec<Record>, Reference) {
    let messages_in_all = i64::try_from(minutes).unwrap() * 60 * i64::try_from(RATE).unwrap();
    let phase = |window| match window % 10 {
        9 => Phase {
            rows: ROWS,
            shift: 9.0,
        },
        _ => steady(ROWS),
    };
    let story: Vec<Phase> = (0..messages_in_all / ROWS).map(phase).collect();
    (SEED..)
        .map(|seed| {
            let log = messages(seed, &story);
            let reference = Reference::of(&log, baseline_csv);
            (log, reference)
        })
        // Late rows of windows before the first are on no window.
        .find(|(_, reference)| {
            reference.late
                == reference
                    .windows
                    .iter()
                    .map(|window| window.late)
                    .sum::<i64>()
        })
        .unwrap()
}

/// Everything that takes part.
struct Soak {
    stage: Stage,
    knobs: Knobs,
    proxy: Proxy,
    log: Vec<Record>,
    reference: Reference,
    produced: usize,
    begun: Instant,
}

impl Soak {
    async fn set(kafka: &Kafka, minutes: u64) -> Self {
        let topic = fresh_topic();
        kafka.create_topic(&topic, PARTITIONS).await;
        let knobs = Knobs {
            brokers: kafka.brokers().to_owned(),
            ..Knobs::mock(&topic)
        };
        let proxy = Proxy::to(postgres::upstream());
        let stage = Stage::set_on(postgres::fresh().await.through(&proxy), &knobs);
        let settings = std::fs::read_to_string(&stage.config).unwrap();
        let settings = settings.replace("[postgres]", "[postgres]\ntimeout = \"5s\"");
        let limits = "[limits]\nmax_held_bytes = \"16MiB\"\n";
        std::fs::write(&stage.config, format!("{limits}{settings}")).unwrap();
        let (log, reference) = endless(minutes, &stage.baseline_csv);
        Self {
            stage,
            knobs,
            proxy,
            log,
            reference,
            produced: 0,
            begun: Instant::now(),
        }
    }

    /// Produces what is due by now, and says whether more is to come.
    fn produce(&mut self) -> bool {
        let elapsed = usize::try_from(self.begun.elapsed().as_millis()).unwrap();
        let due = elapsed * RATE / 1000;
        let due = due.min(self.log.len());
        let part = &self.log[self.produced..due];
        produce(&self.knobs.brokers, &self.knobs.topic, part);
        self.produced = due;
        due < self.log.len()
    }

    /// Goes on for a while; tells the memory of a daemon.
    async fn pass(&mut self, time: Duration, steady: &Daemon, most: &mut Memory) {
        let until = Instant::now() + time;
        while self.produce() && Instant::now() < until {
            most.raise(&Memory::of(steady));
            tokio::time::sleep(SECOND).await;
        }
    }

    /// All is saved and judged.
    async fn caught_up(&self) {
        let [messages, windows] = [self.log.len(), self.reference.windows.len()]
            .map(|count| i64::try_from(count).unwrap());
        let begun = Instant::now();
        let saved = "select coalesce(sum(messages), 0)::bigint from driftd.checkpoints";
        let judged = "select count(*) from driftd.windows";
        while self.stage.count(saved).await < messages || self.stage.count(judged).await < windows {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for the end");
            tokio::time::sleep(SECOND).await;
        }
        let seconds = begun.elapsed().as_secs();
        tell(&format!("caught up {seconds} s after the last message"));
    }

    /// It is what the reference says.
    async fn verify(&self) {
        check(&self.stage, &self.reference).await;
        let (messages, windows) = (self.log.len(), self.reference.windows.len());
        tell(&format!(
            "all {messages} messages are accounted for, {windows} windows are as the reference says"
        ));
    }
}

/// What a daemon holds.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    rss_mib: f64,
    held_mib: f64,
}

impl Memory {
    fn of(daemon: &Daemon) -> Self {
        Self {
            rss_mib: daemon.rss_bytes() as f64 / f64::from(1 << 20),
            held_mib: daemon.metric("driftd_held_bytes") / f64::from(1 << 20),
        }
    }

    fn raise(&mut self, other: &Self) {
        self.rss_mib = self.rss_mib.max(other.rss_mib);
        self.held_mib = self.held_mib.max(other.held_mib);
    }

    fn tell(&self, when: &str) {
        let Self { rss_mib, held_mib } = self;
        tell(&format!(
            "memory {when}: RSS {rss_mib:.0} MiB, held {held_mib:.1} MiB"
        ));
    }
}

#[allow(clippy::print_stdout, reason = "what the soak is for")]
fn tell(line: &str) {
    println!("soak: {line}");
}

/// What happens next, and for how long.
async fn mishap(
    soak: &mut Soak,
    dice: &mut Dice,
    other: &mut Option<Daemon>,
    steady: &Daemon,
    most: &mut Memory,
) -> &'static str {
    let a_while = Duration::from_secs(2 + dice.below(8));
    match dice.below(5) {
        0 => {
            if let Some(daemon) = other.take() {
                daemon.kill();
            }
            soak.pass(a_while, steady, most).await;
            "killed"
        }
        1 => {
            if let Some(mut daemon) = other.take() {
                assert!(daemon.terminate().await.success(), "{}", daemon.log());
            }
            "stopped"
        }
        2 => {
            soak.proxy.cut();
            "Postgres cut off"
        }
        3 => {
            soak.proxy.flow(Flow::Refused);
            soak.pass(a_while, steady, most).await;
            soak.proxy.flow(Flow::Open);
            "Postgres away"
        }
        _ => {
            soak.proxy.flow(Flow::HalfOpen);
            soak.pass(a_while, steady, most).await;
            soak.proxy.flow(Flow::Open);
            soak.proxy.cut();
            "Postgres half-open"
        }
    }
}

#[tokio::test]
#[ignore = "takes half an hour: ./dev soak"]
async fn soak() {
    let minutes = minutes(30);
    let kafka = Kafka::start();
    let mut soak = Soak::set(&kafka, minutes).await;
    let steady = Daemon::start(&soak.stage.config);
    let mut other = Some(Daemon::start(&soak.stage.config));
    let (mut dice, mut most) = (Dice::new(SEED), Memory::default());
    let mut mishaps: Vec<&str> = Vec::new();
    soak.begun = Instant::now();
    soak.pass(30 * SECOND, &steady, &mut most).await;
    Memory::of(&steady).tell("at the start");
    while soak.produced < soak.log.len() {
        mishaps.push(mishap(&mut soak, &mut dice, &mut other, &steady, &mut most).await);
        other.get_or_insert_with(|| Daemon::start(&soak.stage.config));
        let quiet = Duration::from_secs(3 + dice.below(12));
        soak.pass(quiet, &steady, &mut most).await;
    }
    soak.caught_up().await;
    Memory::of(&steady).tell("at the end");
    most.tell("at most");
    soak.verify().await;
    for what in [
        "killed",
        "stopped",
        "Postgres cut off",
        "Postgres away",
        "Postgres half-open",
    ] {
        let times = mishaps.iter().filter(|mishap| **mishap == what).count();
        tell(&format!("{what}: {times} times"));
    }
    let mut steady = steady;
    assert!(steady.terminate().await.success(), "{}", steady.log());
}

/// Postgres is away for all of the time, messages go on.
#[tokio::test]
#[ignore = "takes five minutes: ./dev soak outage"]
async fn outage() {
    let minutes = minutes(5);
    let kafka = Kafka::start();
    let mut soak = Soak::set(&kafka, minutes + 1).await;
    let mut daemon = Daemon::start(&soak.stage.config);
    let mut most = Memory::default();
    soak.begun = Instant::now();
    soak.pass(30 * SECOND, &daemon, &mut most).await;
    most.tell("before");
    soak.proxy.flow(Flow::Refused);
    let mut most = Memory::default();
    soak.pass(Duration::from_secs(60 * minutes), &daemon, &mut most)
        .await;
    soak.proxy.flow(Flow::Open);
    most.tell(&format!("at most, Postgres away for {minutes} minutes"));
    soak.pass(Duration::from_secs(60), &daemon, &mut most).await;
    soak.caught_up().await;
    soak.verify().await;
    let assigned = daemon.log().matches("assigned topic").count();
    assert_eq!(assigned, PARTITIONS as usize, "the group has rebalanced");
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}
