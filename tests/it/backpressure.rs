//! Postgres stands still while messages come: reading pauses, polling goes on, nothing is lost.

use crate::harness::daemon::Daemon;
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{PARTITIONS, Record, START_MS, messages, produce, steady};
use crate::harness::until;

/// Hopping windows: every row belongs to so many of them, which is a lot to hold.
const WINDOWS_PER_ROW: i64 = 600;

async fn logs(daemon: &mut Daemon, words: &str) {
    until(&format!("the log says: {words}"), async || {
        assert!(daemon.is_running(), "it has ended:\n{}", daemon.log());
        daemon.log().contains(words)
    })
    .await;
}

#[tokio::test]
async fn too_much_held_pauses_reading_until_it_is_saved() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let settings = std::fs::read_to_string(&stage.config).unwrap();
    let hopping = settings
        .lines()
        .map(|line| match line.trim_start().starts_with("window =") {
            true => "window = { size = \"10h\", every = \"1m\" }",
            false => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    assert!(hopping.contains("10h"), "{settings}");
    let limits = "[limits]\nmax_held_bytes = \"8MiB\"\n";
    std::fs::write(&stage.config, format!("{limits}{hopping}")).unwrap();

    let mut daemon = Daemon::start(&stage.config);
    logs(&mut daemon, "reading topic").await;
    let mut standstill = stage.db.pool.begin().await.unwrap();
    sqlx::query("lock table driftd.checkpoints in access exclusive mode")
        .execute(&mut *standstill)
        .await
        .unwrap();
    let log = messages(16, &[steady(300), steady(300), steady(300)]);
    produce(&knobs.brokers, &topic, &log);
    logs(&mut daemon, "reading pauses").await;
    standstill.rollback().await.unwrap();
    logs(&mut daemon, "reading goes on").await;
    stage.saved(log.len()).await;

    let reference = Reference::of(&log, &stage.baseline_csv);
    let found = "select ((select coalesce(sum(rows + late), 0) from driftd.waiting_rows)
        + (select coalesce(sum(late + late_after_idle), 0) from driftd.rows_without_window)
        + (select coalesce(sum(rows + late), 0) from driftd.windows))::bigint";
    let rows = reference.counted + reference.late;
    assert_eq!(stage.count(found).await, rows * WINDOWS_PER_ROW);
    let assigned = daemon.log().matches("assigned topic").count();
    assert_eq!(
        assigned,
        usize::try_from(PARTITIONS).unwrap(),
        "the group has rebalanced"
    );
}

/// What is set aside is held as well: with its payload, where the operator asked for that.
#[tokio::test]
async fn a_flood_of_rejected_messages_pauses_reading_too() {
    const MESSAGES: i32 = 3_900;
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let settings = std::fs::read_to_string(&stage.config).unwrap();
    let limits = "[limits]\nmax_held_bytes = \"1MiB\"\n[defaults]\nkeep_rejected_payload = true\n";
    std::fs::write(&stage.config, format!("{limits}{settings}")).unwrap();

    let mut daemon = Daemon::start(&stage.config);
    logs(&mut daemon, "reading topic").await;
    let mut standstill = stage.db.pool.begin().await.unwrap();
    sqlx::query("lock table driftd.checkpoints in access exclusive mode")
        .execute(&mut *standstill)
        .await
        .unwrap();
    let garbage = |number| Record {
        partition: number % PARTITIONS,
        record_ms: START_MS,
        payload: Some(format!("no JSON {number} {}", "x".repeat(3_000))),
    };
    let log: Vec<Record> = (0..MESSAGES).map(garbage).collect();
    produce(&knobs.brokers, &topic, &log);
    logs(&mut daemon, "reading pauses").await;
    // Of more than 11 MiB.
    let held = daemon.metric("driftd_held_bytes");
    assert!(held < f64::from(5 << 20), "{held} bytes are held");
    until("what is not read is told as lag", async || {
        daemon.metric("driftd_consumer_lag_records") > 100.0
    })
    .await;
    standstill.rollback().await.unwrap();
    stage.saved(log.len()).await;
    let kept = "select count(*) from driftd.rejected_messages where payload is not null";
    assert_eq!(stage.count(kept).await, i64::from(MESSAGES));
}
