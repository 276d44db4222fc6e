//! A stream goes in through Kafka and `driftd run`; windows, scores, episodes and jobs come out of
//! Postgres, as an independent reference computes them from the same messages.

use chrono::{DateTime, Utc};

use crate::harness::daemon::Daemon;
use crate::harness::kafka::Kafka;
use crate::harness::oracle::{
    assert_same, check, check_all, check_scores, check_windows, run_undisturbed, undisturbed,
};
use crate::harness::reference::{CREDIT, HOPPING, Reference};
use crate::harness::stage::{Knobs, Stage, hold, is_held_up, kafka_topic, mock_topic};
use crate::harness::traffic::{
    Dice, PARTITIONS, Record, START_MS, WINDOW_MS, messages, produce, story,
};
use crate::harness::until;

/// One for which no stable window of the story is beyond the limits by chance.
const SEED: u64 = 16;

fn start_of(window: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(START_MS + window * WINDOW_MS).unwrap()
}

#[tokio::test]
async fn a_drifting_stream_comes_out_as_the_reference_says() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story());
    produce(&knobs.brokers, &topic, &log);

    let reference = Reference::of(&log, &stage.baseline_csv);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;

    // The story is what it is meant to be.
    let verdicts: Vec<&str> = reference
        .windows
        .iter()
        .map(|window| window.verdict)
        .collect();
    let [stable, drifted, few] = ["stable", "drifted", "too_few_rows"];
    let mut meant = [[stable; 5].as_slice(), &[drifted; 4], &[stable; 4]].concat();
    meant.extend([few, few, stable, drifted, stable]);
    assert_eq!(verdicts, meant);
    assert!(reference.late > 20 && reference.skipped > 5);
    for reason in [
        "unparsable",
        "no_timestamp",
        "bad_timestamp",
        "future_timestamp",
    ] {
        assert!(
            reference.rejected.iter().any(|(.., why)| *why == reason),
            "no {reason}"
        );
    }
    assert_eq!(reference.episodes.len(), 2);
}

/// One read and one decode for both: tumbling windows, and hopping ones that share their rows.
#[tokio::test]
async fn two_monitors_on_one_topic_come_out_as_the_reference_says() {
    let topic = mock_topic();
    let mut knobs = Knobs::mock(&topic);
    knobs.watches = &[CREDIT, HOPPING];
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED + 5, &story()[2..11]);
    produce(&knobs.brokers, &topic, &log);

    let reference = |watch| Reference::of_watch(watch, &log, &stage.baseline_csv);
    let (tumbling, hopping) = (reference(&CREDIT), reference(&HOPPING));
    assert!(hopping.late > tumbling.late);
    let windows = tumbling.windows.len() + hopping.windows.len();
    run_undisturbed(&stage, &log, windows).await;
    check_all(&stage, &[&tumbling, &hopping]).await;
}

/// Nobody closes the windows here: the messages end, one partition never has any, and being
/// caught up and quiet is what lets the windows ripen.
#[tokio::test]
async fn partitions_that_have_ended_hold_no_window_back() {
    let topic = mock_topic();
    let mut knobs = Knobs::mock(&topic);
    knobs.idle_after = "1s";
    let stage = Stage::set(&knobs).await;
    let mut log = messages(SEED + 1, &story()[3..6]);
    log.truncate(log.len() - PARTITIONS as usize);
    log.retain(|record| record.partition != 1);
    produce(&knobs.brokers, &topic, &log);

    let reference = Reference::of_ended(&log, &stage.baseline_csv);
    assert_eq!(reference.messages[1], 0);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;
}

// --- the same, whatever happens meanwhile --------------------------------------------------------

/// When the daemon is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Not at all.
    Never,
    /// Everything read is saved; more comes while nobody reads.
    Saved,
    /// Messages are read, and their checkpoint is under way.
    Checkpoint,
    /// A window's verdict is under way.
    Verdict,
}

/// The moments in an order that the seed decides.
fn moments(dice: &mut Dice) -> Vec<Moment> {
    use Moment::{Checkpoint, Never, Saved, Verdict};
    let mut left = vec![Never, Saved, Checkpoint, Checkpoint, Verdict];
    let mut moments = Vec::new();
    while !left.is_empty() {
        let at = usize::try_from(dice.below(left.len() as u64)).unwrap();
        moments.push(left.swap_remove(at));
    }
    moments
}

#[tokio::test]
async fn killed_at_any_moment_the_rows_are_the_same() {
    let log = messages(SEED + 2, &story());
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    let ((), expected) = tokio::join!(
        run_killed(&stage, &knobs, &log, reference.windows.len()),
        undisturbed(&log)
    );
    check(&stage, &reference).await;
    assert_same(&stage.results().await, &expected);
}

/// Runs a daemon over a log that comes in parts, each with its moment.
async fn run_killed(stage: &Stage, knobs: &Knobs, log: &[Record], windows: usize) {
    let mut dice = Dice::new(SEED + 3);
    let moments = moments(&mut dice);
    let mut produced = 0;
    let mut daemon = Daemon::start(&stage.config);
    for (i, moment) in moments.iter().enumerate() {
        let (rest, parts) = (log.len() - produced, moments.len() - i);
        let more = match parts {
            1 => rest,
            _ => rest / parts / 2 + usize::try_from(dice.below((rest / parts) as u64)).unwrap(),
        };
        let part = &log[produced..produced + more];
        produced += more;
        daemon = run_part(stage, knobs, part, *moment, daemon).await;
        stage.saved(produced).await;
    }
    stage.judged(windows).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

/// Produces a part and kills the daemon at a moment; returns the one that runs after that.
async fn run_part(
    stage: &Stage,
    knobs: &Knobs,
    part: &[Record],
    moment: Moment,
    daemon: Daemon,
) -> Daemon {
    let table = match moment {
        Moment::Never => {
            produce(&knobs.brokers, &knobs.topic, part);
            return daemon;
        }
        Moment::Saved => {
            daemon.kill();
            produce(&knobs.brokers, &knobs.topic, part);
            return Daemon::start(&stage.config);
        }
        Moment::Checkpoint => "checkpoints",
        Moment::Verdict => "windows",
    };
    let lock = hold(&stage.db.pool, table).await;
    produce(&knobs.brokers, &knobs.topic, part);
    until(&format!("{table} is waited for"), async || {
        is_held_up(&stage.db.pool, table).await
    })
    .await;
    daemon.kill();
    lock.rollback().await.unwrap();
    Daemon::start(&stage.config)
}

#[tokio::test]
async fn two_replicas_write_the_same_rows_as_one() {
    let log = messages(SEED + 4, &story());
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    let ((), expected) = tokio::join!(
        run_two(&stage, &knobs, &log, reference.windows.len()),
        undisturbed(&log)
    );
    check(&stage, &reference).await;
    assert_same(&stage.results().await, &expected);
}

/// One replica reads the first third, two share the second, the other one reads the last.
async fn run_two(stage: &Stage, knobs: &Knobs, log: &[Record], windows: usize) {
    let third = log.len() / 3;
    produce(&knobs.brokers, &knobs.topic, &log[..third]);
    let mut one = Daemon::start(&stage.config);
    stage.saved(third).await;
    let mut other = Daemon::start(&stage.config);
    until("each replica has a partition", async || {
        let owners = "select count(distinct owner) from driftd.partition_progress";
        stage.count(owners).await == 2
    })
    .await;
    produce(&knobs.brokers, &knobs.topic, &log[third..2 * third]);
    stage.saved(2 * third).await;
    assert!(one.terminate().await.success(), "{}", one.log());
    produce(&knobs.brokers, &knobs.topic, &log[2 * third..]);
    stage.saved(log.len()).await;
    stage.judged(windows).await;
    assert!(other.terminate().await.success(), "{}", other.log());
}

// --- on Apache Kafka -----------------------------------------------------------------------------

#[tokio::test]
async fn apache_kafka_gives_the_same() {
    let Some(kafka) = Kafka::start_or_skip("end_to_end::apache_kafka_gives_the_same") else {
        return;
    };
    let knobs = kafka_topic(kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story());
    produce(&knobs.brokers, &knobs.topic, &log);
    let reference = Reference::of(&log, &stage.baseline_csv);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;
}

/// Reading begins with the first record of each partition that is not older than the time given.
#[tokio::test]
async fn a_start_by_timestamp_begins_there() {
    let Some(kafka) = Kafka::start_or_skip("end_to_end::a_start_by_timestamp_begins_there") else {
        return;
    };
    let mut knobs = kafka_topic(kafka, PARTITIONS).await;
    knobs.start_at = "2013-04-01T00:30:00Z";
    let from_ms = start_of(3).timestamp_millis();
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story()[..8]);
    produce(&knobs.brokers, &knobs.topic, &log);

    let of_partition = |partition| {
        log.iter()
            .filter(move |record| record.partition == partition)
    };
    let first: Vec<usize> = (0..PARTITIONS)
        .map(|partition| {
            of_partition(partition)
                .position(|r| r.record_ms >= from_ms)
                .unwrap()
        })
        .collect();
    let mut place = vec![0; first.len()];
    let mut read = log.clone();
    read.retain(|record| {
        let partition = usize::try_from(record.partition).unwrap();
        place[partition] += 1;
        place[partition] > first[partition]
    });
    let reference = Reference::of(&read, &stage.baseline_csv);
    run_undisturbed(&stage, &read, reference.windows.len()).await;

    check_windows(&stage.db.pool, &reference).await;
    check_scores(&stage.db.pool, &reference).await;
    let first: Vec<i64> = first.iter().map(|at| i64::try_from(*at).unwrap()).collect();
    let all: Vec<i64> = (0..PARTITIONS)
        .map(|p| i64::try_from(of_partition(p).count()).unwrap())
        .collect();
    stage.check_coverage(&first, &all).await;
}
