//! Messages that are gone before they are read, topics that are made anew, partitions that are
//! added, transactions that hang: on Apache Kafka, where each of them is what it is in production.

use std::time::Duration;

use chrono::{DateTime, Utc};
use driftd::store::monitors;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::harness::daemon::{Daemon, driftd};
use crate::harness::kafka::Kafka;
use crate::harness::monitors::streaming;
use crate::harness::oracle::check_invariants;
use crate::harness::postgres;
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, fresh_topic, mock_topic};
use crate::harness::traffic::{
    ALLOWED_MS, MAX_FUTURE_MS, OUT_OF_ORDERNESS_MS, PARTITIONS, Record, START_MS, WINDOW_MS,
    messages, produce, story,
};
use crate::harness::until;

const SEED: u64 = 160;

/// A topic of its own, and a daemon's settings for it.
async fn set(kafka: &Kafka, partitions: i32, start_at: &'static str) -> (Knobs, Stage) {
    let topic = fresh_topic();
    kafka.create_topic(&topic, partitions).await;
    let knobs = Knobs {
        brokers: kafka.brokers().to_owned(),
        start_at,
        ..Knobs::mock(&topic)
    };
    let stage = Stage::set(&knobs).await;
    (knobs, stage)
}

/// Changes a daemon's settings.
fn change(stage: &Stage, from: &str, to: &str) {
    let settings = std::fs::read_to_string(&stage.config).unwrap();
    assert!(settings.contains(from), "{settings}");
    std::fs::write(&stage.config, settings.replace(from, to)).unwrap();
}

fn go_on_at_gaps(stage: &Stage) {
    change(
        stage,
        "false_alarms = ",
        "on_gap = \"continue\"\nfalse_alarms = ",
    );
}

/// A log in two parts: the second begins with a window's first message.
fn two_parts(seed: u64, windows: usize) -> (Vec<Record>, Vec<Record>) {
    let mut first = messages(seed, &story()[..8]);
    let second = split_off(&mut first, windows);
    (first, second)
}

/// Takes the end of a log off, from so many windows behind the start on.
fn split_off(log: &mut Vec<Record>, windows: usize) -> Vec<Record> {
    let split = START_MS + i64::try_from(windows).unwrap() * WINDOW_MS;
    let at = log.iter().position(|r| r.record_ms >= split).unwrap();
    log.split_off(at)
}

/// A daemon that goes on at gaps and has read the first part of a log, and both parts.
async fn going_on(kafka: &Kafka, seed: u64) -> (Knobs, Stage, Daemon, [Vec<Record>; 2]) {
    let (knobs, stage) = set(kafka, PARTITIONS, "earliest").await;
    go_on_at_gaps(&stage);
    let (first, second) = two_parts(seed, 3);
    produce(&knobs.brokers, &knobs.topic, &first);
    let daemon = Daemon::start(&stage.config);
    stage.saved(first.len()).await;
    (knobs, stage, daemon, [first, second])
}

fn count(log: &[Record], partition: i32) -> i64 {
    let mine = log.iter().filter(|record| record.partition == partition);
    i64::try_from(mine.count()).unwrap()
}

/// Partition, generation, first offset missing, first offset there, reason, policy, passed.
type GapRow = (i32, i64, i64, Option<i64>, String, String, bool);

async fn gaps(stage: &Stage) -> Vec<GapRow> {
    let sql = "select partition, generation, from_offset, to_offset, reason, policy,
            passed_at is not null
        from driftd.gaps order by partition, generation, from_offset";
    sqlx::query_as(sql).fetch_all(&stage.db.pool).await.unwrap()
}

fn gap(partition: i32, generation: i64, from: i64, to: Option<i64>, reason: &str) -> GapRow {
    let policy = "continue".to_owned();
    (
        partition,
        generation,
        from,
        to,
        reason.to_owned(),
        policy,
        true,
    )
}

/// The windows that may lack rows of a partition, by the first gap of it.
async fn suspects(stage: &Stage, partition: i32) -> (DateTime<Utc>, DateTime<Utc>) {
    let sql =
        "select from_start, until_start from driftd.gap_windows join driftd.gaps using (gap_id)
        where partition = $1 order by gap_id limit 1";
    let read = sqlx::query_as(sql).bind(partition);
    read.fetch_one(&stage.db.pool).await.unwrap()
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap()
}

/// The first window that a partition's stored event time has not closed.
async fn first_open(stage: &Stage, partition: i32) -> DateTime<Utc> {
    let sql = "select max_event_time from driftd.watermarks where partition = $1";
    let read = sqlx::query_scalar(sql).bind(partition);
    let max: DateTime<Utc> = read.fetch_one(&stage.db.pool).await.unwrap();
    let closed = max.timestamp_millis() - OUT_OF_ORDERNESS_MS - ALLOWED_MS;
    at(closed.div_euclid(WINDOW_MS) * WINDOW_MS)
}

/// The first window in which no row can be that was written before this record.
fn first_whole(record: &Record) -> DateTime<Utc> {
    let latest = record.record_ms + MAX_FUTURE_MS;
    at((latest.div_euclid(WINDOW_MS) + 1) * WINDOW_MS)
}

async fn stored(stage: &Stage, partition: i32) -> (i64, i64, i64) {
    let sql = "select generation, first_offset, next_offset from driftd.partition_progress
        where partition = $1";
    let read = sqlx::query_as(sql).bind(partition);
    read.fetch_one(&stage.db.pool).await.unwrap()
}

/// Windows that no gap touches are as if nothing had been lost, and each that differs is one that a
/// gap touches. Answers how many differ.
async fn compare(stage: &Stage, whole: &Reference) -> usize {
    type Row = (DateTime<Utc>, i64, i64, bool);
    let sql = "select window_start, rows, late, exists (select from driftd.gap_windows g
            where g.from_start <= w.window_start
                and (g.until_start is null or w.window_start < g.until_start))
        from driftd.windows w order by window_start";
    let found: Vec<Row> = sqlx::query_as(sql).fetch_all(&stage.db.pool).await.unwrap();
    assert_eq!(found.len(), whole.windows.len());
    let mut differ = 0;
    for ((start, rows, late, touched), window) in found.iter().zip(&whole.windows) {
        assert_eq!(*start, at(window.start_ms));
        if *rows != window.rows {
            assert!(touched, "{start} has {rows} rows, not {}", window.rows);
            differ += 1;
        }
        // A late row that is lost counted for nothing.
        assert!(*late <= window.late, "{start}");
    }
    differ
}

// --- retention -----------------------------------------------------------------------------------

#[tokio::test]
async fn what_retention_took_while_nobody_read_is_recorded() {
    let Some(kafka) = Kafka::start_or_skip("gaps::what_retention_took_while_nobody_read") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS, "earliest").await;
    let (first, second) = two_parts(SEED, 3);
    produce(&knobs.brokers, &knobs.topic, &first);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    produce(&knobs.brokers, &knobs.topic, &second);
    let (from, to) = (count(&first, 0), count(&first, 0) + 40);
    kafka.delete_records(&knobs.topic, 0, to).await;

    // By default a person has to decide; until then nothing is read over it.
    for _ in 0..2 {
        let mut daemon = Daemon::start(&stage.config);
        stage
            .topic_fails(&mut daemon, "are gone from the log")
            .await;
        assert!(daemon.terminate().await.success(), "{}", daemon.log());
        let waits = (
            0,
            1,
            from,
            Some(to),
            "retention".into(),
            "stop".into(),
            false,
        );
        assert_eq!(gaps(&stage).await, [waits]);
        assert_eq!(stored(&stage, 0).await, (1, 0, from));
    }

    let open = first_open(&stage, 0).await;
    go_on_at_gaps(&stage);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len() + second.len() - 40).await;
    let whole = Reference::of(&[first, second.clone()].concat(), &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(gaps(&stage).await, [gap(0, 1, from, Some(to), "retention")]);
    let behind = second.iter().filter(|r| r.partition == 0).nth(40).unwrap();
    assert_eq!(suspects(&stage, 0).await, (open, first_whole(behind)));
    assert!(compare(&stage, &whole).await > 0);
}

/// Whether it waits for a person there or goes on, the gap is one row, and what follows it the same.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn dying_at_a_gap_records_it_once() {
    use driftd::failpoint::Failpoint::{BeforeSettle, BeforeSettleCommit, GapsRecorded, Settled};
    let Some(kafka) = Kafka::start_or_skip("gaps::dying_at_a_gap_records_it_once") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS, "earliest").await;
    let (first, second) = two_parts(SEED + 9, 3);
    produce(&knobs.brokers, &knobs.topic, &first);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    produce(&knobs.brokers, &knobs.topic, &second);
    let (from, to) = (count(&first, 0), count(&first, 0) + 40);
    kafka.delete_records(&knobs.topic, 0, to).await;

    for point in [BeforeSettle, Settled] {
        die_at(&stage, &knobs, "stop", point).await;
    }
    go_on_at_gaps(&stage);
    for point in [GapsRecorded, BeforeSettleCommit, Settled] {
        die_at(&stage, &knobs, "continue", point).await;
    }
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len() + second.len() - 40).await;
    let whole = Reference::of(&[first, second].concat(), &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(gaps(&stage).await, [gap(0, 1, from, Some(to), "retention")]);
    assert!(compare(&stage, &whole).await > 0);
    check_invariants(&stage).await;
}

#[cfg(feature = "failpoints")]
async fn die_at(stage: &Stage, knobs: &Knobs, policy: &str, point: driftd::failpoint::Failpoint) {
    let group = format!("{}-{policy}-{}", knobs.topic, point.name());
    let armed = format!("{}=return", point.name());
    let mut daemon = Daemon::start_armed(&stage.config, &group, &armed);
    daemon.ended().await;
    let (log, place) = (daemon.log(), format!("ended at failpoint {}", point.name()));
    assert!(log.contains(&place), "{log}");
}

#[tokio::test]
async fn what_retention_took_under_a_reader_is_recorded() {
    let Some(kafka) = Kafka::start_or_skip("gaps::what_retention_took_under_a_reader") else {
        return;
    };
    let (knobs, stage, mut daemon, [first, second]) = going_on(kafka, SEED + 1).await;
    daemon.signal("STOP");
    // What it had asked for is answered by now, and it does not ask again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    produce(&knobs.brokers, &knobs.topic, &second);
    let (from, to) = (count(&first, 0), count(&first, 0) + 40);
    kafka.delete_records(&knobs.topic, 0, to).await;
    daemon.signal("CONT");

    stage.saved(first.len() + second.len() - 40).await;
    let whole = Reference::of(&[first, second].concat(), &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(gaps(&stage).await, [gap(0, 1, from, Some(to), "retention")]);
    assert!(compare(&stage, &whole).await > 0);
}

// --- another log under the same name -------------------------------------------------------------

/// Deletes a topic and makes it anew with other messages.
async fn make_anew(kafka: &Kafka, knobs: &Knobs, partitions: i32, log: &[Record]) {
    kafka.delete_topic(&knobs.topic).await;
    until("the topic can be made again", async || {
        kafka.try_create_topic(&knobs.topic, partitions).await
    })
    .await;
    produce(&knobs.brokers, &knobs.topic, log);
}

/// The old log was read to its end and the new one from its beginning.
async fn check_anew(stage: &Stage, daemon: &mut Daemon, first: &[Record], second: &[Record]) {
    stage.saved(first.len() + second.len()).await;
    let whole = Reference::of(&[first, second].concat(), &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let partitions = 0..PARTITIONS;
    let recreated = |p| gap(p, 1, count(first, p), None, "recreated");
    let expected: Vec<GapRow> = partitions.clone().map(recreated).collect();
    assert_eq!(gaps(stage).await, expected);
    for partition in partitions {
        assert!(
            count(second, partition) > count(first, partition),
            "refilled past it"
        );
        let end = count(second, partition);
        assert_eq!(stored(stage, partition).await, (2, 0, end));
        let sql = "select sum(messages)::bigint, min(first_offset), max(next_offset)
            from driftd.checkpoints where partition = $1 group by generation order by generation";
        let read = sqlx::query_as(sql).bind(partition);
        let read: Vec<(i64, i64, i64)> = read.fetch_all(&stage.db.pool).await.unwrap();
        let old = count(first, partition);
        assert_eq!(read, [(old, 0, old), (end, 0, end)]);
    }
    assert_eq!(compare(stage, &whole).await, 0);
}

#[tokio::test]
async fn a_topic_made_anew_while_nobody_read_is_another_log() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_topic_made_anew_while_nobody_read") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS, "earliest").await;
    let (first, second) = two_parts(SEED + 2, 3);
    produce(&knobs.brokers, &knobs.topic, &first);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    make_anew(kafka, &knobs, PARTITIONS, &second).await;

    let mut daemon = Daemon::start(&stage.config);
    stage
        .topic_fails(&mut daemon, "deleted and made anew")
        .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let waiting = gaps(&stage).await;
    assert_eq!(waiting.len(), 3, "{waiting:?}");
    assert!(
        waiting
            .iter()
            .all(|(.., policy, passed)| policy == "stop" && !passed)
    );

    let open = first_open(&stage, 1).await;
    go_on_at_gaps(&stage);
    let mut daemon = Daemon::start(&stage.config);
    check_anew(&stage, &mut daemon, &first, &second).await;
    let behind = second.iter().find(|r| r.partition == 1).unwrap();
    assert_eq!(suspects(&stage, 1).await, (open, first_whole(behind)));
}

#[tokio::test]
async fn a_topic_made_anew_under_a_reader_is_another_log() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_topic_made_anew_under_a_reader") else {
        return;
    };
    let (knobs, stage, mut daemon, [first, second]) = going_on(kafka, SEED + 3).await;
    make_anew(kafka, &knobs, PARTITIONS, &second).await;
    check_anew(&stage, &mut daemon, &first, &second).await;
}

/// The client has noticed nothing, and reads on in the new log at the offset it had in the old one.
#[tokio::test]
async fn a_topic_made_anew_behind_a_readers_back_is_another_log() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_topic_made_anew_behind_a_readers_back") else {
        return;
    };
    let (knobs, stage, mut daemon, [first, second]) = going_on(kafka, SEED + 12).await;
    daemon.signal("STOP");
    // What it had asked for is answered by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    make_anew(kafka, &knobs, PARTITIONS, &second).await;
    daemon.signal("CONT");
    check_anew(&stage, &mut daemon, &first, &second).await;
}

/// What would have gone to the partitions behind this one goes to the first ones.
fn fold(log: &[Record], partitions: i32) -> Vec<Record> {
    let fold = |mut record: Record| {
        record.partition %= partitions;
        record
    };
    log.iter().cloned().map(fold).collect()
}

async fn partitions_of(stage: &Stage) -> i64 {
    stage
        .count("select partitions::bigint from driftd.topics")
        .await
}

/// The partitions that went with the old topic are waited for no longer; should the new one get as
/// many, they are read from their first message.
#[tokio::test]
async fn a_topic_made_anew_with_fewer_partitions_holds_no_window_back() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_topic_made_anew_with_fewer_partitions") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS, "latest").await;
    go_on_at_gaps(&stage);
    let refresh = "[kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = 500";
    change(&stage, "[kafka.properties]", refresh);
    let (first, mut second) = two_parts(SEED + 10, 3);
    let third = split_off(&mut second, 6);
    let fewer = PARTITIONS - 1;
    let second = fold(&second, fewer);
    let mut daemon = Daemon::start(&stage.config);
    until("it is decided where all partitions begin", async || {
        let sql = "select count(*) from driftd.partition_progress where next_offset = 0";
        stage.count(sql).await == i64::from(PARTITIONS)
    })
    .await;
    produce(&knobs.brokers, &knobs.topic, &first);
    stage.saved(first.len()).await;
    let open = first_open(&stage, fewer).await;
    make_anew(kafka, &knobs, fewer, &second).await;

    stage.saved(first.len() + second.len()).await;
    let without = Reference::of(
        &[fold(&first, fewer), second.clone()].concat(),
        &stage.baseline_csv,
    );
    let held_back = Reference::of(&first, &stage.baseline_csv).windows.len();
    assert!(held_back < without.windows.len());
    stage.judged(without.windows.len()).await;
    let recreated = |p| gap(p, 1, count(&first, p), None, "recreated");
    let expected: Vec<GapRow> = (0..PARTITIONS).map(recreated).collect();
    assert_eq!(gaps(&stage).await, expected);
    assert_eq!(stored(&stage, fewer).await, (2, 0, 0));
    assert_eq!(partitions_of(&stage).await, i64::from(fewer));
    let (from, until_start) = suspects(&stage, fewer).await;
    assert_eq!(from, open);
    let begins = |p| second.iter().find(|r| r.partition == p).map(first_whole);
    assert_eq!((0..fewer).filter_map(begins).min(), Some(until_start));

    kafka.add_partitions(&knobs.topic, PARTITIONS).await;
    until("the new partition is counted", async || {
        partitions_of(&stage).await == i64::from(PARTITIONS)
    })
    .await;
    produce(&knobs.brokers, &knobs.topic, &third);
    let log = [first, second, third.clone()].concat();
    stage.saved(log.len()).await;
    assert_eq!(stored(&stage, fewer).await, (2, 0, count(&third, fewer)));
    let whole = Reference::of(&log, &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(compare(&stage, &whole).await, 0);
    check_invariants(&stage).await;
}

/// Whoever decides about one partition of the new topic is told of those that are no more.
#[tokio::test]
async fn a_person_is_told_of_partitions_that_are_no_more() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_person_is_told_of_partitions") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS, "earliest").await;
    let (first, second) = two_parts(SEED + 11, 3);
    let second = fold(&second, 1);
    produce(&knobs.brokers, &knobs.topic, &first);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    make_anew(kafka, &knobs, 1, &second).await;
    let mut daemon = Daemon::start(&stage.config);
    stage
        .topic_fails(&mut daemon, "deleted and made anew")
        .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(partitions_of(&stage).await, i64::from(PARTITIONS));

    let config = stage.config.to_str().unwrap();
    let args = ["reset-partition", &knobs.topic, "0", "--config", config];
    let done = driftd(&[&args[..], &["--to", "earliest", "--yes"]].concat());
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{text}");
    for partition in 1..PARTITIONS {
        let from = count(&first, partition);
        let line = format!("partition {partition}: not read are offset {from} and on of log 1");
        assert!(text.contains(&line), "{line} is not in:\n{text}");
        assert_eq!(stored(&stage, partition).await, (2, 0, 0));
    }
    assert_eq!(partitions_of(&stage).await, 1);

    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len() + second.len()).await;
    let log = [fold(&first, 1), second].concat();
    let whole = Reference::of(&log, &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check_invariants(&stage).await;
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_read_was_cut() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let (first, second) = two_parts(SEED + 4, 3);
    produce(&knobs.brokers, &topic, &first);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(first.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    // As if it had been read five messages further, and the log then cut.
    let sql =
        "update driftd.partition_progress set next_offset = next_offset + 5 where partition = 0";
    sqlx::query(sql).execute(&stage.db.pool).await.unwrap();
    let end = count(&first, 0);

    let mut daemon = Daemon::start(&stage.config);
    stage.topic_fails(&mut daemon, "the log was cut").await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());

    go_on_at_gaps(&stage);
    let mut daemon = Daemon::start(&stage.config);
    until("it reads in a new generation", async || {
        stored(&stage, 0).await == (2, end, end)
    })
    .await;
    assert_eq!(gaps(&stage).await, [gap(0, 1, end + 5, None, "truncated")]);
    produce(&knobs.brokers, &topic, &second);
    stage.saved(first.len() + second.len()).await;
    let whole = Reference::of(&[first, second].concat(), &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(compare(&stage, &whole).await, 0);
}

// --- where reading begins ------------------------------------------------------------------------

#[tokio::test]
async fn a_partition_that_is_added_is_read_from_its_first_message() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_partition_that_is_added") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS - 1, "latest").await;
    let refresh = "[kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = 500";
    change(&stage, "[kafka.properties]", refresh);
    let mut daemon = Daemon::start(&stage.config);
    until("it is decided where both partitions begin", async || {
        let sql = "select count(*) from driftd.partition_progress where next_offset = 0";
        stage.count(sql).await == i64::from(PARTITIONS - 1)
    })
    .await;
    // It has messages when driftd first sees it.
    daemon.signal("STOP");
    kafka.add_partitions(&knobs.topic, PARTITIONS).await;
    let log = messages(SEED + 5, &story()[..5]);
    produce(&knobs.brokers, &knobs.topic, &log);
    daemon.signal("CONT");
    stage.saved(log.len()).await;
    let whole = Reference::of(&log, &stage.baseline_csv);
    stage.judged(whole.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(
        compare(&stage, &whole).await,
        0,
        "no window went without the added one"
    );
}

#[tokio::test]
async fn the_latest_message_is_decided_upon_once() {
    let topic = mock_topic();
    let mut knobs = Knobs::mock(&topic);
    knobs.start_at = "latest";
    let stage = Stage::set(&knobs).await;
    let (first, second) = two_parts(SEED + 6, 3);
    produce(&knobs.brokers, &topic, &first);
    let daemon = Daemon::start(&stage.config);
    until("it is decided where all partitions begin", async || {
        let sql = "select count(*) from driftd.partition_progress where next_offset >= 0";
        stage.count(sql).await == i64::from(PARTITIONS)
    })
    .await;
    daemon.kill();
    produce(&knobs.brokers, &topic, &second);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(second.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

// --- idleness ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_transaction_that_hangs_holds_windows_and_an_aborted_one_does_not() {
    let Some(kafka) = Kafka::start_or_skip("gaps::a_transaction_that_hangs") else {
        return;
    };
    let (knobs, stage) = set(kafka, PARTITIONS, "earliest").await;
    change(&stage, "idle_after = \"1h\"", "idle_after = \"1s\"");
    let mut log = messages(SEED + 7, &story()[..3]);
    log.truncate(log.len() - PARTITIONS as usize);
    produce(&knobs.brokers, &knobs.topic, &log);
    let mut config = kafka.client();
    config.set("transactional.id", &knobs.topic);
    config.set("transaction.timeout.ms", "600000");
    let producer: BaseProducer = config.create().unwrap();
    let timeout = Duration::from_secs(30);
    producer.init_transactions(timeout).unwrap();
    producer.begin_transaction().unwrap();
    let record = BaseRecord::<(), str>::to(&knobs.topic)
        .partition(0)
        .payload("{}");
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(timeout).unwrap();

    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    until(
        "the others are idle and the transaction is seen",
        async || {
            let idle =
                "select count(*) from driftd.partition_progress where idle_since is not null";
            let metrics = daemon.get("/metrics").map(|(_, text)| text);
            let line = format!(
                "driftd_unstable_records{{topic=\"{}\",partition=\"0\"}} 1",
                knobs.topic
            );
            metrics.is_some_and(|text| text.contains(&line)) && stage.count(idle).await == 2
        },
    )
    .await;
    let sql = "select count(*) from driftd.partition_progress
        where partition = 0 and idle_since is not null";
    assert_eq!(stage.count(sql).await, 0);
    // What event time has closed is judged, and nothing else.
    let whole = Reference::of_ended(&log, &stage.baseline_csv);
    let closed = Reference::of(&log, &stage.baseline_csv).windows.len();
    assert!(closed < whole.windows.len());
    stage.judged(closed).await;

    producer.abort_transaction(timeout).unwrap();
    stage.judged(whole.windows.len()).await;
    let behind = count(&log, 0) + 2;
    until("what no reader is given is passed", async || {
        stored(&stage, 0).await == (1, 0, behind)
    })
    .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    assert_eq!(compare(&stage, &whole).await, 0);
}

/// Settings that change windows start a new revision; a gap that has no end yet reaches into it.
#[tokio::test]
async fn a_gap_reaches_into_the_next_revision() {
    let db = postgres::fresh().await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut monitor = streaming("m");
    let first = monitors::register(&mut connection, &monitor).await.unwrap();
    let sql = "with g as (
            insert into driftd.gaps (topic, partition, generation, from_offset, reason, policy, passed_at)
            values ('inputs', 0, 1, 5, 'truncated', 'continue', now()),
                ('inputs', 1, 1, 5, 'truncated', 'continue', now()),
                ('other', 0, 1, 5, 'truncated', 'continue', now())
            returning gap_id, topic, partition)
        insert into driftd.gap_windows (gap_id, monitor_id, from_start, until_start)
        select gap_id, $1, '2013-04-02', case partition when 1 then timestamptz '2013-04-05' end from g";
    let open = sqlx::query(sql).bind(first.monitor_id);
    open.execute(&mut *connection).await.unwrap();
    let sql = "insert into driftd.watermarks (topic, partition, monitor_id, max_event_time)
        values ('inputs', 0, $1, '2013-04-09 12:00Z')";
    let seen = sqlx::query(sql).bind(first.monitor_id);
    seen.execute(&mut *connection).await.unwrap();

    monitor.input.as_mut().unwrap().window.size_ms *= 2;
    let next = monitors::register(&mut connection, &monitor).await.unwrap();
    assert_eq!(next.revision, 2);
    let sql = "select g.topic, g.partition, to_char(w.from_start at time zone 'UTC', 'MM-DD'),
            w.until_start is null
        from driftd.gap_windows w join driftd.gaps g using (gap_id) where monitor_id = $1";
    let found = sqlx::query_as(sql).bind(next.monitor_id);
    let found: Vec<(String, i32, String, bool)> = found.fetch_all(&mut *connection).await.unwrap();
    let open = ("inputs".to_owned(), 0, "03-31".to_owned(), true);
    assert_eq!(
        found,
        [open],
        "partition 1's ends before the revision, the other topic is not read"
    );
}
