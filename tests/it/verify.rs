//! `driftd verify`: every invariant holds after a run, and is found when it does not.

use std::collections::BTreeSet;

use driftd::store::verify::{self, Check, Findings};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};

use crate::harness::daemon::{Daemon, driftd};
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{messages, produce, story};

/// What breaks an invariant; every check has some.
const DAMAGE: &[(Check, &str)] = &[
    (
        Check::CheckpointRanges,
        "delete from driftd.checkpoints where checkpoint_id = (select c.checkpoint_id
            from driftd.checkpoints c join driftd.partition_progress p using (topic, partition)
            where c.first_offset > p.first_offset and c.next_offset < p.next_offset limit 1)",
    ),
    (
        Check::CheckpointRanges,
        "update driftd.checkpoints set first_offset = first_offset - 1 where first_offset > 0",
    ),
    (
        Check::StoredOffsets,
        "update driftd.partition_progress set next_offset = next_offset + 1",
    ),
    (Check::StoredOffsets, "delete from driftd.partition_progress"),
    (
        Check::Epochs,
        "update driftd.checkpoints set epoch = 7
            where checkpoint_id = (select min(checkpoint_id) from driftd.checkpoints)",
    ),
    (
        Check::Epochs,
        "insert into driftd.checkpoints (topic, partition, epoch, first_offset, next_offset, messages,
                rejected, skipped)
            select topic, partition, epoch, first_offset, next_offset, messages, rejected, skipped
            from driftd.checkpoints order by checkpoint_id limit 1",
    ),
    (
        Check::Messages,
        "update driftd.checkpoints set messages = messages + 1",
    ),
    (
        Check::Messages,
        "update driftd.checkpoints set skipped = messages + 1",
    ),
    (
        Check::RejectedMessages,
        "update driftd.rejected_messages set message_offset = message_offset + 1000000",
    ),
    (
        Check::RejectedMessages,
        "update driftd.checkpoints set rejected = 0 where rejected > 0",
    ),
    (
        Check::Deltas,
        "update driftd.window_cursors set last_start = '2000-01-01'",
    ),
    (Check::Deltas, "delete from driftd.window_cursors"),
    (
        Check::Deltas,
        "update driftd.profile_deltas set delta = null where rows > 0",
    ),
    (
        Check::Deltas,
        "update driftd.profile_deltas set next_offset = next_offset + 1000000",
    ),
    // The judge went on without rows that were stored for a window in between.
    (
        Check::Deltas,
        "delete from driftd.windows where window_start = (select window_start from driftd.windows
            order by window_start offset 4 limit 1)",
    ),
    (
        Check::WindowRows,
        "insert into driftd.profile_deltas (checkpoint_id, monitor_id, version, window_start,
                partition, first_offset, next_offset, rows, late, delta)
            select checkpoint_id, monitor_id, version, window_start, partition, first_offset,
                next_offset, rows, late, delta
            from driftd.profile_deltas order by window_start limit 1",
    ),
    (
        Check::Rows,
        "update driftd.watermarks set rows = rows + 1 where partition = 1",
    ),
    (Check::Rows, "delete from driftd.profile_deltas where rows > 0"),
    (Check::WindowRows, "update driftd.windows set rows = rows + 1"),
    (
        Check::WindowRows,
        "update driftd.windows set late_after_idle = -1",
    ),
    (Check::WindowRows, "update driftd.windows set offsets = '[]'"),
    (
        Check::Verdicts,
        "do $$ begin execute (select format('alter table driftd.windows drop constraint %I', conname)
            from pg_constraint where conrelid = 'driftd.windows'::regclass and contype = 'p'); end $$;
        insert into driftd.windows select * from driftd.windows limit 1",
    ),
    (
        Check::WindowsInOrder,
        "delete from driftd.windows where window_start = (select window_start from driftd.windows
            order by window_start offset 4 limit 1)",
    ),
    (
        Check::WindowsInOrder,
        "update driftd.windows set window_start = window_start + interval '1 second'
            where window_start = (select window_start from driftd.windows
            order by window_start offset 4 limit 1)",
    ),
    (
        Check::WindowCursors,
        "update driftd.window_cursors set next_start = next_start - interval '1 second'",
    ),
    (Check::WindowCursors, "update driftd.window_cursors set judged = 1"),
    (
        Check::Orphans,
        "delete from driftd.windows where verdict = 'stable'",
    ),
    (
        Check::Gaps,
        "insert into driftd.gaps (topic, partition, from_offset, to_offset, reason, policy)
            select topic, 0, 0, 5, 'retention', 'stop' from driftd.topics",
    ),
    (
        Check::IncompleteWindows,
        "update driftd.windows set verdict = 'incomplete' where verdict = 'stable'",
    ),
    (
        Check::IncompleteWindows,
        "with gap as (insert into driftd.gaps (topic, partition, from_offset, to_offset, reason,
                policy, found_at, passed_at)
            select topic, 0, 0, 5, 'retention', 'continue', '2000-01-01', now()
            from driftd.topics returning gap_id)
        insert into driftd.gap_windows (gap_id, monitor_id, from_start)
            select gap_id, monitor_id, '-infinity' from gap, driftd.monitors",
    ),
    (
        Check::Episodes,
        "update driftd.alert_episodes set state = 'resolved'",
    ),
    (
        Check::Episodes,
        "update driftd.window_cursors set state = '{\"drift\": {\"episode_id\": 999}}'",
    ),
    (
        Check::Episodes,
        "drop index driftd.one_open_episode;
        update driftd.alert_episodes set state = 'pending'",
    ),
    (
        Check::OpenJobs,
        "drop index driftd.one_open_job;
        insert into driftd.retraining_jobs (model, reasons, max_attempts)
            select model, reasons, 1 from driftd.retraining_jobs",
    ),
    (
        Check::Leases,
        "alter table driftd.retraining_jobs drop constraint retraining_jobs_check1;
        update driftd.retraining_jobs set state = 'running'",
    ),
    (Check::Triggers, "delete from driftd.alert_episodes"),
    (Check::Triggers, "delete from driftd.retraining_jobs"),
    (
        Check::Outbox,
        "delete from driftd.outbox where key like 'episode:%:fired'",
    ),
    (
        Check::Outbox,
        "update driftd.outbox set key = 'job:999' where key like 'job:%'",
    ),
    (
        Check::Outbox,
        "update driftd.outbox set delivered_at = now(), attempts = 0",
    ),
];

async fn found(connection: &mut PgConnection) -> Vec<Findings> {
    let mut found = Vec::new();
    for check in Check::ALL {
        let one = check.run(&mut *connection, 3).await.unwrap();
        if !one.is_sound() {
            found.push(one);
        }
    }
    found
}

/// A database in which the story has been read to its end and judged.
async fn after_a_run() -> Stage {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let log = messages(16, &story());
    let mut daemon = Daemon::start(&stage.config);
    // In parts, so that every partition has several checkpoints.
    for part in 0..4 {
        let (from, to) = (log.len() * part / 4, log.len() * (part + 1) / 4);
        produce(&knobs.brokers, &topic, &log[from..to]);
        stage.saved(to).await;
    }
    stage.judged(story().len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    stage
}

/// Does what foreign keys and triggers would refuse.
async fn damage(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    connection
        .execute("set local session_replication_role = replica")
        .await?;
    connection.execute(AssertSqlSafe(sql.to_owned())).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_damaged_is_found_and_what_is_not_is_sound() {
    let stage = after_a_run().await;
    let pool = &stage.db.pool;
    let sound = verify::all(pool, 3).await.unwrap();
    let wrong: Vec<&Findings> = sound.iter().filter(|one| !one.is_sound()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    let mut unseen = Vec::new();
    for (check, sql) in DAMAGE {
        let mut transaction = pool.begin().await.unwrap();
        if let Err(error) = damage(&mut transaction, sql).await {
            unseen.push(format!("{error}: {sql}"));
            continue;
        }
        let found = found(&mut transaction).await;
        match found.iter().find(|one| one.check == *check) {
            Some(ours) => {
                assert!(ours.found > 0 && ours.rows.len() <= 3, "{ours:#?}");
                assert!(ours.rows.iter().all(Value::is_object), "{ours:#?}");
            }
            None => unseen.push(format!("{check:?} holds in spite of: {sql}\n{found:#?}")),
        }
        transaction.rollback().await.unwrap();
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
    let covered: BTreeSet<&str> = DAMAGE.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!(covered.len(), Check::ALL.len(), "some check has no damage");

    gaps_of_every_reason(pool).await;
    the_command_says_so(&stage).await;
}

/// A stretch that retention took, one that a person passed over, a topic made anew, and a cut log
/// that waits for a person: recorded, and so nothing is wrong.
async fn gaps_of_every_reason(pool: &PgPool) {
    let mut transaction = pool.begin().await.unwrap();
    let sql = "
        create temp table lost on commit drop as select c.* from driftd.checkpoints c
            join driftd.partition_progress p using (topic, partition)
            where c.partition = 0 and c.first_offset > p.first_offset
                and c.next_offset < p.next_offset and c.next_offset > c.first_offset limit 1;
        delete from driftd.checkpoints where checkpoint_id in (select checkpoint_id from lost);
        delete from driftd.rejected_messages r using lost l where r.partition = 0
            and r.message_offset >= l.first_offset and r.message_offset < l.next_offset;
        insert into driftd.gaps (topic, partition, from_offset, to_offset, reason, policy, passed_at)
            select topic, 0, first_offset, next_offset, 'retention', 'continue', now() from lost;
        insert into driftd.gaps (topic, partition, from_offset, to_offset, reason, policy, passed_at)
            select topic, 0, next_offset, next_offset + 10, 'reset', 'stop', now()
            from driftd.partition_progress where partition = 0;
        update driftd.partition_progress set next_offset = next_offset + 10 where partition = 0;
        insert into driftd.gaps (topic, partition, from_offset, reason, policy, passed_at)
            select topic, 1, next_offset, 'recreated', 'continue', now()
            from driftd.partition_progress where partition = 1;
        update driftd.partition_progress set generation = 2, next_offset = 5 where partition = 1;
        insert into driftd.checkpoints (topic, partition, generation, epoch, first_offset,
                next_offset, messages, rejected, skipped)
            select topic, 1, 2, epoch, 0, 5, 5, 0, 5
            from driftd.partition_progress where partition = 1;
        insert into driftd.gaps (topic, partition, from_offset, reason, policy)
            select topic, 2, next_offset, 'truncated', 'stop'
            from driftd.partition_progress where partition = 2;
        insert into driftd.gap_windows (gap_id, monitor_id, from_start)
            select gap_id, monitor_id, c.next_start from driftd.gaps, driftd.window_cursors c";
    damage(&mut transaction, sql).await.unwrap();
    let found = found(&mut transaction).await;
    assert!(found.is_empty(), "{found:#?}");
    transaction.rollback().await.unwrap();
}

async fn the_command_says_so(stage: &Stage) {
    let config = stage.config.to_str().unwrap();
    let said = driftd(&["verify", "--config", config]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(0), "{text}");
    assert!(text.ends_with("\nsound\n"), "{text}");

    let sql = "update driftd.checkpoints set messages = messages + 1";
    stage.db.pool.execute(sql).await.unwrap();
    let said = driftd(&["verify", "--config", config, "--limit", "2"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("\n    ...\n"), "{text}");
    assert!(text.ends_with("\n1 of 19 checks do not hold\n"), "{text}");
    let said = driftd(&["verify", "--config", config, "--output", "json"]);
    assert_eq!(said.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["sound"], false);
    assert_eq!(said["checks"][3]["check"], "messages");
    assert!(said["checks"][3]["found"].as_i64().unwrap() > 2);

    let nowhere = [
        "verify",
        "--config",
        config,
        "--set",
        "postgres.url=postgres:///x?host=/nowhere",
    ];
    assert_eq!(driftd(&nowhere).status.code(), Some(2));
}
