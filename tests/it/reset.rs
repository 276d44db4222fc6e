//! `driftd reset-partition`: a person lets reading go on elsewhere.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use driftd::store::checkpoints::{self, Outcome};
use driftd::store::gaps::Gap;
use driftd::store::resets::{self, Reset};
use driftd::store::verify::{self, Findings};
use sqlx::PgPool;

use crate::harness::daemon::{BINARY, Daemon, driftd};
use crate::harness::lines::{self, Lines, Stretch, TOPIC, day, somebody_waits};
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{Record, messages, produce, story};
use crate::harness::until;

/// Stored offset, generation and epoch of a partition.
async fn stored(pool: &PgPool, partition: i32) -> (i64, i64, i64) {
    let sql = "select next_offset, generation, epoch from driftd.partition_progress
        where partition = $1";
    sqlx::query_as(sql)
        .bind(partition)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Reason, offsets, and whether reading has gone on behind it.
async fn gaps(pool: &PgPool) -> Vec<(String, i64, Option<i64>, bool)> {
    let sql = "select reason, from_offset, to_offset, passed_at is not null from driftd.gaps
        order by generation, from_offset";
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

async fn check_is_sound(pool: &PgPool) {
    let found = verify::all(pool, 3).await.unwrap();
    let wrong: Vec<&Findings> = found.iter().filter(|one| !one.is_sound()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn reset(stage: &Stage, topic: &str, more: &[&str]) -> Output {
    let config = stage.config.to_str().unwrap();
    let args = [&["reset-partition", topic, "0", "--config", config], more].concat();
    driftd(&args)
}

/// The same on a terminal, where a person gives this answer.
fn reset_on_a_terminal(stage: &Stage, topic: &str, answer: &str) -> Output {
    let config = stage.config.to_str().unwrap();
    let command = format!("{BINARY} reset-partition {topic} 0 --config {config} --to latest");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(answer.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn of_partition(log: &[Record], partition: i32) -> i64 {
    let records = log.iter().filter(|record| record.partition == partition);
    i64::try_from(records.count()).unwrap()
}

async fn read_to(stage: &Stage, partition: i32, offset: i64) {
    until(
        &format!("partition {partition} is read up to {offset}"),
        async || stored(&stage.db.pool, partition).await.0 == offset,
    )
    .await;
}

/// What is not asked for clearly, or cannot be, changes nothing.
async fn check_refusals(stage: &Stage, topic: &str) {
    let pool = &stage.db.pool;
    let before = stored(pool, 0).await;
    // Without a person to ask, and where a person says no, nothing happens.
    let refused = reset(stage, topic, &["--to", "latest"]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{why}");
    assert!(why.contains("--yes"), "{why}");
    let declined = reset_on_a_terminal(stage, topic, "n\n");
    let text = String::from_utf8(declined.stdout).unwrap();
    assert_eq!(declined.status.code(), Some(1), "{text}");
    assert!(
        text.contains("Go on? [y/N]") && text.contains("nothing was changed"),
        "{text}"
    );
    assert_eq!(stored(pool, 0).await, before);

    // Backwards or beyond the end is refused.
    for (to, code) in [("earliest", 2), ("3", 2), ("99999", 2), ("last", 2)] {
        let refused = reset(stage, topic, &["--to", to, "--yes"]);
        assert_eq!(refused.status.code(), Some(code), "{to}: {refused:?}");
    }
    assert_eq!((stored(pool, 0).await, gaps(pool).await), (before, vec![]));
}

/// What was produced while driftd stood still is passed over; what comes after it is read.
#[tokio::test]
async fn a_partition_goes_on_at_the_end_and_its_windows_are_incomplete() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let pool = &stage.db.pool;
    let log = messages(16, &story());
    let (third, two) = (log.len() / 3, log.len() * 2 / 3);
    produce(&knobs.brokers, &topic, &log[..third]);
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(third).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    produce(&knobs.brokers, &topic, &log[third..two]);
    let before = stored(pool, 0).await;
    let (read, end) = (of_partition(&log[..third], 0), of_partition(&log[..two], 0));
    assert_eq!(before.0, read);

    check_refusals(&stage, &topic).await;

    let done = reset_on_a_terminal(&stage, &topic, "y\n");
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{text}");
    for shown in [
        format!("offset {read} of log 1"),
        format!("offsets {read} to {} of log 1 (reset)", end - 1),
        "windows of monitor credit".to_owned(),
    ] {
        assert!(text.contains(&shown), "{shown} is not in:\n{text}");
    }
    assert_eq!(stored(pool, 0).await, (end, before.1, before.2 + 1));
    assert_eq!(
        gaps(pool).await,
        [("reset".to_owned(), read, Some(end), true)]
    );
    check_is_sound(pool).await;

    // Going on: the windows of what was passed over are incomplete.
    let mut daemon = Daemon::start(&stage.config);
    produce(&knobs.brokers, &topic, &log[two..]);
    for partition in 0..3 {
        read_to(&stage, partition, of_partition(&log, partition)).await;
    }
    stage.judged(story().len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let verdicts: Vec<String> =
        sqlx::query_scalar("select verdict::text from driftd.windows order by window_start")
            .fetch_all(pool)
            .await
            .unwrap();
    let first = verdicts
        .iter()
        .position(|verdict| verdict == "incomplete")
        .unwrap();
    let incomplete = verdicts
        .iter()
        .filter(|verdict| *verdict == "incomplete")
        .count();
    assert!(first >= 4 && incomplete >= 5, "{verdicts:?}");
    assert!(
        verdicts[first..first + incomplete]
            .iter()
            .all(|verdict| verdict == "incomplete")
    );
    check_is_sound(pool).await;
}

/// A replica that reads the partition meanwhile is fenced, and goes on where it was told to.
#[tokio::test]
async fn whoever_reads_meanwhile_is_fenced() {
    let mut lines = Lines::of(2).await;
    for partition in [0, 1] {
        lines.read(partition, &Stretch::of(&[1, 2, 3])).await;
    }
    let pool = lines.db.pool.clone();
    let under_way = lines.checkpoint(0, &Stretch::of(&[4]));
    let gap = |generation, from_offset, to_offset, reason| Gap {
        generation,
        from_offset,
        to_offset,
        reason,
    };
    let mut transaction = pool.begin().await.unwrap();
    let standing = resets::lock(&mut transaction, TOPIC, 0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((standing.next_offset, standing.generation), (3, 1));
    let readers = resets::readers(&mut *transaction, TOPIC, 0).await.unwrap();
    assert_eq!(readers[0].first_open, Some(day(3)));
    let anew = Reset {
        topic: TOPIC.to_owned(),
        partition: 0,
        next_offset: 7,
        generation: 2,
        topic_id: Some("other".to_owned()),
        gaps: vec![gap(1, 3, None, "recreated"), gap(2, 0, Some(7), "reset")],
        policy: "stop",
    };
    resets::reset(&mut transaction, &anew, &readers)
        .await
        .unwrap();
    // Who saves meanwhile waits for what becomes of the partition.
    let late = async { checkpoints::save(&pool, &under_way).await.unwrap() };
    let commit = async {
        somebody_waits(&pool).await;
        transaction.commit().await.unwrap();
    };
    let (late, ()) = tokio::join!(late, commit);
    assert_eq!(late, Outcome::Fenced);
    assert_eq!(stored(&pool, 0).await, (7, 2, 2));
    check_is_sound(&pool).await;
    let taken = lines::take_over(&pool, TOPIC, 0, "test").await;
    assert_eq!((taken.next_offset, taken.log.generation), (Some(7), 2));
    assert_eq!(taken.open_gaps.len(), 2);
}
