//! Windows that only the clock closes, and what follows from them: when the judge may believe that no
//! rows come, alerts about silence, and drift of which nobody knows any more.

use chrono::{DateTime, TimeDelta, Utc};
use driftd::embedded::broker::Broker;
use serde_json::Value;
use sqlx::PgPool;

use crate::harness::daemon::Daemon;
use crate::harness::lines::{Lines, Stretch, count, day, due, number_of, say};
use crate::harness::oracle::{check_episodes, check_invariants, check_windows};
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{
    PARTITIONS, Phase, Record, START_MS, WINDOW_MS, messages, produce, steady,
};
use crate::harness::until;
use driftd::store::topics;

// --- when the clock is believed ------------------------------------------------------------------

/// Rows that are read as soon as they come.
fn live(days: &[i64]) -> Stretch {
    Stretch {
        keeps_up: true,
        ..Stretch::of(days)
    }
}

fn after(moment: DateTime<Utc>) -> DateTime<Utc> {
    moment + TimeDelta::milliseconds(1)
}

/// Two partitions with rows up to day 2; then none come, as is confirmed at the time given.
async fn quiet_since_day_2(confirmed: DateTime<Utc>) -> Lines {
    let mut lines = Lines::of(2).await;
    lines.now = day(1_000);
    lines.read(0, &live(&[1, 2])).await;
    lines.read(1, &live(&[1])).await;
    for partition in 0..2 {
        lines.read(partition, &Stretch::idle(confirmed)).await;
    }
    lines
}

async fn judged_by_clock(pool: &PgPool) -> Vec<i64> {
    let sql = "select window_start from driftd.windows where by_clock order by window_start";
    let found: Vec<DateTime<Utc>> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    found.into_iter().map(number_of).collect()
}

#[tokio::test]
async fn windows_behind_the_last_rows_are_judged_once_all_partitions_are_known_to_be_idle_then() {
    let mut lines = quiet_since_day_2(due(3)).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3]);
    // One of two partitions is not enough, nor is a moment too early.
    lines.read(0, &Stretch::idle(due(5))).await;
    lines
        .read(1, &Stretch::idle(due(4) - TimeDelta::milliseconds(1)))
        .await;
    assert_eq!(lines.judge_all().await, [0; 0]);
    lines.read(1, &Stretch::idle(due(4))).await;
    assert_eq!(lines.judge_all().await, [4]);
    // The judge's own clock has to agree.
    lines.read(1, &Stretch::idle(after(due(5)))).await;
    lines.now = due(5) - TimeDelta::milliseconds(1);
    assert_eq!(lines.judge_all().await, [0; 0]);
    lines.now = due(5);
    assert_eq!(lines.judge_all().await, [5]);
    assert_eq!(judged_by_clock(&lines.db.pool).await, [3, 4, 5]);
}

#[tokio::test]
async fn lag_is_no_silence() {
    let mut lines = quiet_since_day_2(due(3)).await;
    // One partition has something to read again, and does not get on with it.
    let behind = Stretch {
        was_idle: true,
        ..Stretch::default()
    };
    lines.read(1, &behind).await;
    lines.read(0, &Stretch::idle(due(9))).await;
    assert_eq!(lines.judge_all().await, [0; 0]);
    // A partition that nobody has read yet may hold anything.
    lines.read(1, &Stretch::idle(due(9))).await;
    topics::note(&lines.db.pool, &count(3)).await.unwrap();
    assert_eq!(lines.judge_all().await, [0; 0]);
    lines.add_partition().await;
    lines.read(2, &Stretch::idle(due(4))).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3, 4]);
}

/// Whoever stored that the partitions are idle is gone, or does not get an answer.
#[tokio::test]
async fn what_nobody_confirms_is_not_believed() {
    let mut lines = quiet_since_day_2(day(2)).await;
    // Day 1 was over when it was confirmed; day 2, which has rows, was not.
    assert_eq!(lines.judge_all().await, [1]);
    lines.read(0, &Stretch::idle(day(3))).await;
    assert_eq!(lines.judge_all().await, [0; 0]);
    lines.read(1, &Stretch::idle(day(3))).await;
    assert_eq!(lines.judge_all().await, [2]);
}

/// A partition that is idle holds no window back while others go on, if that is confirmed as well.
#[tokio::test]
async fn a_partition_that_was_idle_once_does_not_let_others_go_on_for_ever() {
    let mut lines = quiet_since_day_2(day(2)).await;
    let on = Stretch {
        was_idle: true,
        ..live(&[3, 9])
    };
    lines.read(0, &on).await;
    assert_eq!(lines.judge_all().await, [1]);
    lines.read(1, &Stretch::idle(day(5))).await;
    assert_eq!(lines.judge_all().await, [2, 3, 4]);
    assert_eq!(judged_by_clock(&lines.db.pool).await, [0; 0]);
}

/// Old data that is copied to the topic stops whenever the copying does.
#[tokio::test]
async fn old_data_that_pauses_is_no_silence() {
    let mut lines = Lines::of(1).await;
    lines.read(0, &Stretch::of(&[1, 2])).await;
    lines.read(0, &Stretch::idle(due(500))).await;
    assert_eq!(lines.judge_all().await, [1, 2]);
    let more = Stretch {
        was_idle: true,
        ..Stretch::of(&[3, 4])
    };
    lines.read(0, &more).await;
    // It has caught up with the clock: from now on the next window comes in its time.
    lines.read(0, &live(&[499])).await;
    lines.longest_silence = 1;
    lines.read(0, &Stretch::idle(due(500))).await;
    assert_eq!(lines.judge_all().await, [3, 4, 5, 499, 500]);
    assert_eq!(judged_by_clock(&lines.db.pool).await, [500]);
}

#[tokio::test]
async fn a_version_that_is_out_of_service_is_not_waited_for() {
    let mut lines = Lines::of(1).await;
    let rows = [("1", 1), ("2", 1), ("3", 2), ("2", 3)];
    let both = Stretch {
        rows: rows.to_vec(),
        ..live(&[])
    };
    lines.read(0, &both).await;
    lines.read(0, &Stretch::idle(due(4))).await;
    let mut judged = Vec::new();
    while let Some(one) = lines.judge().await {
        judged.push(one);
    }
    let of = |version: &str| {
        let own = judged.iter().filter(|(of, _)| of == version);
        own.map(|(_, day)| *day).collect::<Vec<_>>()
    };
    assert_eq!(of("1"), [1], "gone for two windows that have rows");
    assert_eq!(of("2"), [1, 2, 3, 4]);
    assert_eq!(of("3"), [2, 3, 4], "missing in one window only");
}

/// How many rows a version has says nothing where it took over, or handed over, within a window.
#[tokio::test]
async fn a_window_that_versions_share_is_known() {
    let mut lines = Lines::of(1).await;
    let rows = [("1", 1), ("1", 2), ("1", 3), ("2", 3), ("2", 4), ("2", 5)];
    let both = Stretch {
        rows: rows.to_vec(),
        ..live(&[])
    };
    lines.read(0, &both).await;
    lines.read(0, &Stretch::idle(due(5))).await;
    let mut judged = Vec::new();
    loop {
        let mut transaction = lines.db.pool.begin().await.unwrap();
        let Some(claimed) = lines.claim(&mut transaction).await else {
            break;
        };
        let start = claimed.window_start.timestamp_millis();
        judged.push((claimed.version.clone(), start / 86_400_000, claimed.shared));
        say(&mut transaction, &claimed).await;
        transaction.commit().await.unwrap();
    }
    let of = |version: &str| {
        let own = judged.iter().filter(|(of, ..)| of == version);
        own.map(|(_, day, shared)| (*day, *shared))
            .take(3)
            .collect::<Vec<_>>()
    };
    assert_eq!(of("1"), [(1, true), (2, false), (3, true)], "{judged:?}");
    assert_eq!(of("2"), [(3, true), (4, false), (5, false)], "{judged:?}");
}

#[tokio::test]
async fn rows_of_a_window_that_the_clock_has_judged_are_counted_apart() {
    let mut lines = quiet_since_day_2(due(4)).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3, 4]);
    let back = Stretch {
        was_idle: true,
        ..live(&[3, 3, 4])
    };
    lines.read(0, &back).await;
    lines
        .read(
            1,
            &Stretch {
                rejected: 1,
                was_idle: true,
                ..Stretch::default()
            },
        )
        .await;
    let pool = lines.db.pool.clone();
    let counts = "select concat_ws(' ', rows, late, late_after_idle) from driftd.windows
        where by_clock order by window_start";
    let counts: Vec<String> = sqlx::query_scalar(counts).fetch_all(&pool).await.unwrap();
    assert_eq!(counts, ["0 0 2", "0 0 1"]);
    // The line goes on behind them: by the clock while nothing comes, by rows when some do.
    for partition in 0..2 {
        lines.read(partition, &Stretch::idle(due(5))).await;
    }
    assert_eq!(lines.judge_all().await, [5]);
    lines
        .read(
            0,
            &Stretch {
                was_idle: true,
                ..live(&[7, 9])
            },
        )
        .await;
    lines
        .read(
            1,
            &Stretch {
                was_idle: true,
                ..live(&[9])
            },
        )
        .await;
    assert_eq!(lines.judge_all().await, [6, 7, 8]);
    assert_eq!(judged_by_clock(&pool).await, [3, 4, 5]);
    let waiting: i64 = sqlx::query_scalar("select sum(rows)::bigint from driftd.waiting_rows")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(waiting, 2);
}

#[tokio::test]
async fn one_replica_judges_by_the_clock_and_the_confirmation_does_not_wait_for_it() {
    let mut lines = quiet_since_day_2(due(3)).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3]);
    for partition in 0..2 {
        lines.read(partition, &Stretch::idle(due(4))).await;
    }
    let pool = lines.db.pool.clone();
    let (mut one, mut other) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    let claimed = lines.claim(&mut one).await.unwrap();
    assert!(claimed.by_clock);
    assert_eq!(lines.claim(&mut other).await, None);
    lines.read(0, &Stretch::idle(due(5))).await; // would never end otherwise
    assert_eq!(say(&mut one, &claimed).await, 0);
    one.commit().await.unwrap();
    other.rollback().await.unwrap();
    assert_eq!(judged_by_clock(&pool).await, [3, 4]);
}

/// After the longest silence none is judged, but the one at which a drift becomes unknown.
#[tokio::test]
async fn the_clock_judges_no_more_than_the_longest_silence() {
    let mut lines = quiet_since_day_2(due(90)).await;
    lines.longest_silence = 3;
    assert_eq!(lines.judge_all().await, [1, 2, 3, 4, 5]);
    sqlx::query("update driftd.window_cursors set unknown_start = $1")
        .bind(day(40))
        .execute(&lines.db.pool)
        .await
        .unwrap();
    assert_eq!(lines.judge_all().await, [40]);
}

// --- from a topic that stops to an alert ---------------------------------------------------------

/// One for which no stable window of the stories is beyond the limits by chance.
const SEED: u64 = 16;
const MINUTE_MS: i64 = 60_000;
const DRIFTED: Phase = Phase {
    rows: 300,
    shift: 9.0,
};

/// Without the rows whose event time lies in these windows.
fn without(log: Vec<Record>, windows: std::ops::Range<i64>) -> Vec<Record> {
    let is_in = |record: &Record| {
        let payload = record.payload.as_deref().unwrap_or_default();
        let message: Value = serde_json::from_str(payload).unwrap_or_default();
        let at = match &message["at"] {
            Value::Number(ms) => ms.as_i64(),
            Value::String(text) => text
                .parse::<DateTime<Utc>>()
                .ok()
                .map(|t| t.timestamp_millis()),
            _ => None,
        };
        at.is_some_and(|ms| windows.contains(&(ms - START_MS).div_euclid(WINDOW_MS)))
    };
    log.into_iter().filter(|record| !is_in(record)).collect()
}

/// A daemon whose clock begins so many minutes after the story did.
#[allow(
    clippy::disallowed_methods,
    reason = "the daemon's clock is set against the real one"
)]
fn at_minute(stage: &Stage, minute: i64) -> Daemon {
    let skew = START_MS + minute * MINUTE_MS - Utc::now().timestamp_millis();
    Daemon::start_at(&stage.config, skew)
}

async fn ended(mut daemon: Daemon) {
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

async fn lines_of(stage: &Stage, sql: &'static str) -> Vec<String> {
    let found = sqlx::query_scalar(sql).fetch_all(&stage.db.pool).await;
    found.unwrap()
}

/// Window, rows, and whether the clock has judged it.
async fn windows(stage: &Stage) -> Vec<String> {
    let sql = "select concat_ws(' ', row_number() over (order by window_start) - 1, least(rows, 1),
            case when by_clock then 'by_clock' end, verdict)
        from driftd.windows order by window_start";
    lines_of(stage, sql).await
}

/// Kind, what happened, and to which window.
async fn events(stage: &Stage) -> Vec<String> {
    let sql = "select concat_ws(' ', episode_kind, v.kind, (extract(epoch from v.window_start)
            * 1000 - 1364774400000)::bigint / 600000)
        from driftd.alert_events v order by event_id";
    lines_of(stage, sql).await
}

/// Waits until every partition is known to be idle.
async fn idle(stage: &Stage) {
    until("all partitions are idle", async || {
        let sql = "select count(*) from driftd.partition_progress where idle_since is not null";
        stage.count(sql).await == i64::from(PARTITIONS)
    })
    .await;
}

fn quick(topic: &str) -> Knobs {
    Knobs {
        idle_after: "1s",
        ..Knobs::mock(topic)
    }
}

/// Three windows with rows, three without, three with: what a producer does that is down for half an
/// hour.
#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one story")]
async fn a_topic_that_stops_is_silent_until_its_rows_come_back() {
    let topic = mock_topic();
    let knobs = quick(&topic);
    let stage = Stage::set(&knobs).await;
    let story = [3, 3, 3, 0, 0, 0, 3, 3, 3].map(|hundreds| steady(hundreds * 100));
    let log = without(messages(SEED, &story), 3..6);
    let resumes = log
        .iter()
        .position(|record| record.record_ms >= START_MS + 60 * MINUTE_MS);
    let (before, behind) = log.split_at(resumes.unwrap());

    // The rows come in their time. Nobody knows yet whether more do.
    produce(&knobs.brokers, &topic, before);
    let daemon = at_minute(&stage, 21);
    stage.saved(before.len()).await;
    idle(&stage).await;
    stage.judged(2).await;
    ended(daemon).await;

    // 51 minutes: the windows from 30 on and from 40 on are over, and empty.
    let daemon = at_minute(&stage, 51);
    stage.judged(5).await;
    assert_eq!(
        windows(&stage).await,
        [
            "0 1 stable",
            "1 1 stable",
            "2 1 stable",
            "3 0 by_clock too_few_rows",
            "4 0 by_clock too_few_rows"
        ]
    );
    assert_eq!(events(&stage).await, ["silence fired 4"]);
    let alert = "select concat_ws(' ', kind, state, severity, by_clock, drifted_windows,
            fired_window - drifted_since, retraining) from driftd.open_alerts";
    assert_eq!(
        lines_of(&stage, alert).await,
        ["silence firing critical t 2 00:10:00"]
    );
    let message = "select concat_ws(' ', kind, payload ->> 'kind', payload ->> 'by_clock',
            payload #>> '{detail,windows_without_rows}')
        from driftd.outbox where kind like 'alert%'";
    assert_eq!(
        lines_of(&stage, message).await,
        ["alert_fired silence true 2"]
    );
    let health = "select concat_ws(' ', last_by_clock, silent_since is not null, open_episodes)
        from driftd.monitor_health";
    assert_eq!(lines_of(&stage, health).await, ["t t 1"]);
    let (_, metrics) = daemon.get("/metrics").unwrap();
    for (kind, firing) in [("drift", 0), ("silence", 1), ("volume", 0)] {
        let gauge = format!("driftd_episodes_open{{monitor=\"credit\",kind=\"{kind}\"}} {firing}");
        assert!(metrics.contains(&gauge), "{metrics}");
    }
    ended(daemon).await;

    // They come back.
    produce(&knobs.brokers, &topic, behind);
    let daemon = at_minute(&stage, 91);
    stage.saved(log.len()).await;
    stage.judged(9).await;
    ended(daemon).await;
    assert_eq!(
        events(&stage).await,
        [
            "silence fired 4",
            "silence continued 5",
            "silence resolved 6"
        ]
    );
    assert_eq!(
        stage.count("select count(*) from driftd.open_alerts").await,
        0
    );
    assert_eq!(
        stage
            .count("select count(*) from driftd.retraining_triggers")
            .await,
        0
    );

    // But for what the clock has judged all is as the log alone says.
    let reference = Reference::of(&log, &stage.baseline_csv);
    assert_eq!(reference.silences.len(), 1);
    check_windows(&stage.db.pool, &reference).await;
    check_episodes(&stage.db.pool, &reference).await;
    check_invariants(&stage).await;
    let results = stage.results().await;
    let said = |what: &str| results.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!((said("window"), said("profile")), (7, 7));
    assert_eq!((said("episode"), said("event"), said("message")), (0, 0, 0));
}

/// Two windows like the training data, two that drift, and nothing any more.
#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one story")]
async fn a_drift_whose_topic_goes_silent_says_so_and_ends_as_unknown() {
    let topic = mock_topic();
    let knobs = quick(&topic);
    let stage = Stage::set(&knobs).await;
    stage.rewrite(
        "resolve_after =",
        "unknown_after = \"40m\"\nresolve_after =",
    );
    let mut log = messages(SEED, &[steady(300), steady(300), DRIFTED, DRIFTED]);
    log.truncate(log.len() - PARTITIONS as usize);
    produce(&knobs.brokers, &topic, &log);
    let daemon = at_minute(&stage, 31);
    stage.saved(log.len()).await;
    idle(&stage).await;
    stage.judged(3).await;
    ended(daemon).await;

    let daemon = at_minute(&stage, 61);
    stage.judged(6).await;
    ended(daemon).await;
    let fired = [
        "drift fired 2",
        "drift continued 3",
        "silence fired 5",
        "drift silent 5",
    ];
    assert_eq!(events(&stage).await, fired);
    let open = "select concat_ws(' ', kind, state, by_clock,
            (extract(epoch from silent_since) * 1000 - 1364774400000)::bigint / 600000)
        from driftd.open_alerts order by kind";
    assert_eq!(
        lines_of(&stage, open).await,
        ["drift firing f 4", "silence firing t"]
    );

    // The last window with rows ended at 40 minutes, the first at whose end nobody knows at 80.
    let daemon = at_minute(&stage, 81);
    stage.judged(8).await;
    ended(daemon).await;
    let ends = [
        "silence continued 6",
        "silence continued 7",
        "drift unknown 7",
    ];
    assert_eq!(events(&stage).await, [&fired[..], &ends[..]].concat());
    let episodes = "select concat_ws(' ', kind, state, by_clock, resolved_at is not null)
        from driftd.alert_episodes order by kind";
    assert_eq!(
        lines_of(&stage, episodes).await,
        ["drift unknown t t", "silence firing t f"]
    );
    let messages = "select concat_ws(' ', kind, payload ->> 'kind', payload ->> 'event')
        from driftd.outbox where kind like 'alert%' order by outbox_id";
    assert_eq!(
        lines_of(&stage, messages).await,
        [
            "alert_fired drift fired",
            "alert_fired silence fired",
            "alert_unknown drift unknown"
        ]
    );
    let asked = "select concat_ws(' ', e.kind, t.outcome) from driftd.retraining_triggers t
        join driftd.alert_episodes e using (episode_id)";
    assert_eq!(lines_of(&stage, asked).await, ["drift enqueued"]);
    check_invariants(&stage).await;
}

/// The broker is gone while the clock goes on: nobody can tell whether rows come.
#[tokio::test]
async fn a_broker_that_is_gone_is_no_silence() {
    let broker = Broker::start().unwrap();
    let topic = "gone";
    broker.create_topic(topic, PARTITIONS).unwrap();
    let knobs = Knobs {
        brokers: broker.brokers(),
        ..quick(topic)
    };
    let stage = Stage::set(&knobs).await;
    let mut log = messages(SEED, &[steady(300), steady(300), steady(300)]);
    log.truncate(log.len() - PARTITIONS as usize);
    produce(&knobs.brokers, topic, &log);
    let daemon = at_minute(&stage, 21);
    stage.saved(log.len()).await;
    idle(&stage).await;
    stage.judged(2).await;
    ended(daemon).await;

    drop(broker);
    let daemon = at_minute(&stage, 91);
    // The judge looks at what is ripe several times between two such lines.
    until("the brokers were asked in vain", async || {
        daemon.log().matches("Kafka does not answer").count() >= 3
    })
    .await;
    let stale = "select count(*) from driftd.partition_progress where idle_since is not null";
    assert_eq!(stage.count(stale).await, i64::from(PARTITIONS));
    assert_eq!(windows(&stage).await.len(), 2);
    assert_eq!(events(&stage).await, [""; 0]);
    drop(daemon);
}
