//! The fence around a partition: whose reading counts.

use chrono::DateTime;
use driftd::store::checkpoints::{Checkpoint, Delta, Outcome, save};
use driftd::store::monitors;
use driftd::store::partitions::Takeover;
use sqlx::PgPool;

use crate::harness::monitors::streaming;
use crate::harness::until;
use crate::harness::{lines, postgres};

async fn take_over(pool: &PgPool, owner: &str) -> Takeover {
    lines::take_over(pool, "t", 0, owner).await
}

fn stretch(monitor_id: i64, epoch: i64, from: i64, to: i64) -> Checkpoint {
    let delta = Delta {
        monitor_id,
        version: "1".into(),
        window_start: DateTime::UNIX_EPOCH,
        window_end: DateTime::UNIX_EPOCH + chrono::TimeDelta::days(1),
        baseline_id: None,
        first_offset: from,
        next_offset: to,
        rows: to - from,
        late: 0,
        keeps_up: false,
        delta: Some(vec![1]),
    };
    Checkpoint {
        leader_epoch: None,
        topic: "t".into(),
        partition: 0,
        epoch,
        first_offset: from,
        next_offset: to,
        generation: 1,
        count: None,
        closed_gaps: Vec::new(),
        messages: to - from,
        rejected_messages: 0,
        skipped: 0,
        rejected: Vec::new(),
        max_event_times: vec![(monitor_id, DateTime::UNIX_EPOCH)],
        deltas: vec![delta],
        idle_since: None,
        idle_confirmed_at: None,
        was_idle: false,
    }
}

/// Stored offset, checkpoints, rows in deltas.
async fn stored(pool: &PgPool) -> (i64, i64, i64) {
    sqlx::query_as(
        "select (select next_offset from driftd.partition_progress), (select count(*) from
        driftd.checkpoints), (select coalesce(sum(rows), 0)::bigint from driftd.profile_deltas)",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn only_the_newest_epoch_at_the_expected_offset_is_saved() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut transaction = pool.begin().await.unwrap();
    let monitor = monitors::register(&mut transaction, &streaming("m"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let id = monitor.monitor_id;

    let zombie = take_over(pool, "a").await;
    assert_eq!((zombie.epoch, zombie.next_offset), (1, None));
    assert_eq!(
        save(pool, &stretch(id, 1, 0, 10)).await.unwrap(),
        Outcome::Saved
    );

    let owner = take_over(pool, "b").await;
    assert_eq!((owner.epoch, owner.next_offset), (2, Some(10)));
    assert_eq!(owner.max_event_ms, [(id, 0)]);
    let late = save(pool, &stretch(id, zombie.epoch, 10, 20))
        .await
        .unwrap();
    assert_eq!(late, Outcome::Fenced, "a zombie's stretch was saved");
    assert_eq!(stored(pool).await, (10, 1, 10));

    let ours = stretch(id, owner.epoch, 10, 30);
    assert_eq!(save(pool, &ours).await.unwrap(), Outcome::Saved);
    // The commit's answer was lost, so it is tried again: it is there once.
    assert_eq!(save(pool, &ours).await.unwrap(), Outcome::Saved);
    assert_eq!(stored(pool).await, (30, 2, 30));

    let gap = save(pool, &stretch(id, owner.epoch, 40, 50)).await.unwrap();
    assert_eq!(
        gap,
        Outcome::Fenced,
        "a stretch that does not follow was saved"
    );
    assert_eq!(stored(pool).await, (30, 2, 30));
}

/// Most checkpoints find their line of windows as it should be. The judge holds it for as long as it
/// compares: nobody has to wait for that, and nobody for another partition's checkpoint.
#[tokio::test]
async fn a_checkpoint_that_moves_no_line_waits_for_no_judge() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut transaction = pool.begin().await.unwrap();
    let monitor = monitors::register(&mut transaction, &streaming("m"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let id = monitor.monitor_id;
    take_over(pool, "a").await;
    save(pool, &stretch(id, 1, 0, 10)).await.unwrap();

    let mut judge = pool.begin().await.unwrap();
    sqlx::query("select from driftd.window_cursors for update")
        .execute(&mut *judge)
        .await
        .unwrap();
    save(pool, &stretch(id, 1, 10, 20)).await.unwrap();
    assert_eq!(stored(pool).await, (20, 2, 20));

    let mut further = stretch(id, 1, 20, 30);
    further.deltas[0].window_start = DateTime::from_timestamp(3_600, 0).unwrap();
    let saving = save(pool, &further);
    let waiting = until("the line is waited for", async || {
        let sql = "select exists (select from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock')";
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    });
    let let_go = async {
        waiting.await;
        judge.rollback().await.unwrap();
    };
    let (saved, ()) = tokio::join!(saving, let_go);
    assert_eq!(saved.unwrap(), Outcome::Saved);
}
