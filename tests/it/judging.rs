//! Which windows are judged, by whom, and what a gap in the log makes of them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use driftd::store::gaps;
use driftd::store::ripe::Listener;
use driftd::store::topics::{self, Count};
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::daemon::Daemon;
use crate::harness::lines::{
    self, Lines, Stretch, count, day, number_of, save, say, somebody_waits,
};
use crate::harness::oracle::{check, run_undisturbed};
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, hold, mock_topic};
use crate::harness::traffic::{Dice, START_MS, WINDOW_MS, messages, produce, story};
use crate::harness::until;

// --- windows that a gap touches ------------------------------------------------------------------

/// A gap of a partition, and the windows of all monitors that it touches.
const GAP: &str = "with gap as (insert into driftd.gaps
        (topic, partition, from_offset, to_offset, reason, policy, passed_at)
    select topic, 0, $1, $1 + 7, 'retention', 'continue', now() from driftd.topics returning gap_id)
    insert into driftd.gap_windows (gap_id, monitor_id, from_start, until_start)
    select gap_id, monitor_id, to_timestamp($2::float8 / 1000), to_timestamp($3::float8 / 1000)
    from gap, driftd.monitors";

async fn add_gap(pool: &PgPool, offset: i64, from_ms: i64, until_ms: Option<i64>) {
    let added = sqlx::query(GAP)
        .bind(offset)
        .bind(from_ms as f64)
        .bind(until_ms.map(|ms| ms as f64))
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(added.rows_affected(), 1);
}

async fn texts(pool: &PgPool, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

/// The story drifts in its windows 5 to 8 and in 16. The gaps touch 5 and 6, and all from 16 on.
#[tokio::test]
async fn a_window_that_a_gap_touches_is_incomplete_and_nothing_follows_from_it() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let pool = &stage.db.pool;
    let log = messages(16, &story());
    let reference = Reference::of(&log, &stage.baseline_csv);
    let start_ms = |window: i64| START_MS + window * WINDOW_MS;

    // No window is judged until the gaps are known.
    let lock = hold(pool, "windows").await;
    produce(&knobs.brokers, &topic, &log);
    let mut daemon = Daemon::start(&stage.config);
    // It knows the gaps that were there before, and would find where this one ends.
    until("partition 0 is being read", async || {
        daemon.log().contains("partition=0 offset=")
    })
    .await;
    add_gap(pool, 1_000, start_ms(5), Some(start_ms(7))).await;
    add_gap(pool, 2_000, start_ms(16), None).await;
    lock.rollback().await.unwrap();
    stage.judged(reference.windows.len()).await;

    let judged = texts(
        pool,
        "select verdict::text from driftd.windows order by window_start",
    )
    .await;
    let touched = |window: usize| (5..7).contains(&window) || window >= 16;
    let expected = reference.windows.iter().enumerate();
    let expected = expected.map(|(i, window)| match touched(i) {
        true => "incomplete",
        false => window.verdict,
    });
    assert_eq!(judged, expected.collect::<Vec<_>>());

    // Its scores are there, and say what they would have said.
    let scores = "select count(*) from driftd.drift_scores";
    let all: usize = reference
        .windows
        .iter()
        .map(|window| window.scores.len())
        .sum();
    assert_eq!(stage.count(scores).await, i64::try_from(all).unwrap());
    let drifted = "select count(*) from driftd.drift_history
        where verdict = 'incomplete' and drifted and decided_by = 'none'";
    assert!(stage.count(drifted).await > 0);

    // One episode, from the first whole window that drifted to the third that did not.
    let episodes = texts(
        pool,
        "select concat_ws(' ', extract(epoch from first_window)::bigint * 1000, drifted_windows,
            state) from driftd.alert_episodes",
    )
    .await;
    assert_eq!(episodes, [format!("{} 2 resolved", start_ms(7))]);
    let asked = "select count(*) from driftd.retraining_triggers";
    assert_eq!(stage.count(asked).await, 1);

    let health = "select windows_incomplete from driftd.monitor_health where gaps = 2";
    assert_eq!(stage.count(health).await, 4);
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let counted = "driftd_windows_judged_total{monitor=\"credit\",verdict=\"incomplete\"} 4";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

#[tokio::test]
async fn a_window_that_was_judged_before_the_gap_stays_as_it_is() {
    let mut lines = Lines::of(1).await;
    lines.read(0, &Stretch::of(&[1, 2, 3])).await;
    assert_eq!(lines.judge_all().await, [1, 2]);
    let pool = lines.db.pool.clone();
    add_gap(
        &pool,
        3,
        day(2).timestamp_millis(),
        Some(day(5).timestamp_millis()),
    )
    .await;
    // What lies between is silent for the gap, or for want of messages: nobody knows.
    lines.read(0, &Stretch::of(&[7, 8])).await;
    assert_eq!(lines.judge_all().await, [3, 4, 5, 6, 7]);
    let verdicts = texts(
        &pool,
        "select verdict::text from driftd.windows order by window_start",
    );
    assert_eq!(
        verdicts.await,
        [
            "stable",
            "stable",
            "incomplete",
            "incomplete",
            "stable",
            "stable",
            "stable"
        ]
    );
}

// --- which windows are judged --------------------------------------------------------------------

/// The rule: from the first window with rows to the last, but after `longest` empty ones none until
/// the next with rows.
fn rule(with_rows: &BTreeSet<i64>, longest: i64) -> Vec<i64> {
    let mut judged = BTreeSet::new();
    let last = with_rows.last().copied().unwrap_or_default();
    for start in with_rows {
        judged.extend(*start..=(start + longest).min(last));
    }
    judged.into_iter().collect()
}

#[test]
fn the_rule_steps_over_long_silences_only() {
    let judged = |days: &[i64]| rule(&days.iter().copied().collect(), 3);
    assert_eq!(judged(&[]), [0; 0]);
    assert_eq!(judged(&[1, 5]), [1, 2, 3, 4, 5]);
    assert_eq!(judged(&[1, 6]), [1, 2, 3, 4, 6]);
    assert_eq!(judged(&[1, 9, 11]), [1, 2, 3, 4, 9, 10, 11]);
}

fn below(dice: &mut Dice, end: u64) -> usize {
    usize::try_from(dice.below(end)).unwrap()
}

/// The days of the rows of one partition, in order, with silences short and long.
fn days(dice: &mut Dice) -> Vec<(&'static str, i64)> {
    let mut at = i64::try_from(dice.below(4)).unwrap();
    let rows = 4 + dice.below(8);
    (0..rows)
        .map(|_| {
            at += [0, 1, 1, 2, 4, 5, 9, 30][below(dice, 8)];
            (["1", "1", "2"][below(dice, 3)], at)
        })
        .collect()
}

/// Two partitions at different places, read in stretches of any length, judged at any time.
#[tokio::test]
async fn which_windows_are_judged_follows_from_the_log_alone() {
    const LONGEST: i32 = 3;
    const END: i64 = 400;
    let mut stepped_over = 0;
    for seed in 0..25 {
        let mut dice = Dice::new(seed);
        let mut lines = Lines::of(2).await;
        lines.longest_silence = LONGEST;
        let mut rest: Vec<Vec<(&str, i64)>> = (0..2).map(|_| days(&mut dice)).collect();
        let mut with_rows: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        for partition in &mut rest {
            // Both versions go on to the end, so that every silence ends.
            partition.extend([("1", END), ("2", END)]);
            for (version, day) in partition.iter() {
                with_rows.entry(version).or_default().insert(*day);
            }
        }
        let mut judged: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut note = |(version, day): (String, i64)| {
            judged.entry(version).or_default().push(day);
        };
        while rest.iter().any(|partition| !partition.is_empty()) {
            let partition = below(&mut dice, 2);
            let rows = below(&mut dice, 3).min(rest[partition].len());
            let rows = rest[partition].drain(..rows).collect();
            let stretch = Stretch {
                rows,
                ..Stretch::default()
            };
            lines.read(partition, &stretch).await;
            for _ in 0..dice.below(4) {
                lines.judge().await.map(&mut note);
            }
        }
        while let Some(one) = lines.judge().await {
            note(one);
        }
        for (version, with_rows) in with_rows {
            let mut expected = rule(&with_rows, LONGEST.into());
            assert_eq!(expected.pop(), Some(END)); // not closed yet
            stepped_over += expected
                .windows(2)
                .filter(|two| two[1] - two[0] > 1)
                .count();
            let found = judged.remove(version).unwrap_or_default();
            assert_eq!(found, expected, "seed {seed}, version {version}");
        }
        let lost = "select count(*) from driftd.profile_deltas d
            join driftd.window_cursors c using (monitor_id, version, segment)
            where d.window_start < c.next_start and not exists (select from driftd.windows w
                where w.version = d.version and w.window_start = d.window_start)";
        let lost: i64 = sqlx::query_scalar(lost)
            .fetch_one(&lines.db.pool)
            .await
            .unwrap();
        assert_eq!(lost, 0, "seed {seed}");
    }
    assert!(stepped_over > 20, "{stepped_over} silences are no test");
}

#[tokio::test]
async fn a_silence_is_stepped_over_only_as_far_as_every_partition_has_come() {
    let mut lines = Lines::of(2).await;
    lines.longest_silence = 10;
    lines.read(0, &Stretch::of(&[1, 50, 51])).await;
    lines.read(1, &Stretch::of(&[1, 5])).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3, 4]);
    // The rows of the slower partition end the silence.
    lines.read(1, &Stretch::of(&[14])).await;
    assert_eq!(lines.judge_all().await, Vec::from_iter(5..=13));
    // It may still bring rows for any window before 40: nothing is stepped over yet.
    lines.read(1, &Stretch::of(&[40])).await;
    assert_eq!(lines.judge_all().await, Vec::from_iter(14..=24));
    lines.read(1, &Stretch::of(&[51])).await;
    assert_eq!(lines.judge_all().await, Vec::from_iter(40..=50));
}

/// It is passed over, and what it brings after all is counted as late.
#[tokio::test]
async fn an_idle_partition_holds_no_silence_back() {
    let mut lines = Lines::of(2).await;
    lines.longest_silence = 3;
    lines.read(0, &Stretch::of(&[1, 3_000, 3_001])).await;
    let idle = Stretch {
        is_idle: true,
        ..Stretch::of(&[1])
    };
    lines.read(1, &idle).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3, 4, 3_000]);
    let back = Stretch {
        was_idle: true,
        ..Stretch::of(&[2])
    };
    lines.read(1, &back).await;
    assert_eq!(late_of(&lines.db.pool, 2).await, (0, 0, 1));
}

// --- by whom, and in whose way -------------------------------------------------------------------

/// Rows, late and late after idle of a judged window.
async fn late_of(pool: &PgPool, number: i64) -> (i64, i64, i64) {
    let sql = "select rows, late, late_after_idle from driftd.windows where window_start = $1";
    let found = sqlx::query_as(sql).bind(day(number));
    found.fetch_one(pool).await.unwrap()
}

/// The judge has claimed a window while a partition was idle; the partition comes back with a
/// message that no monitor can use, and then with rows of that window.
#[tokio::test]
async fn a_partition_that_comes_back_waits_for_the_judge_and_counts_as_late_after_idle() {
    let mut lines = Lines::of(2).await;
    let idle = Stretch {
        is_idle: true,
        ..Stretch::of(&[1])
    };
    lines.read(1, &idle).await;
    lines.read(0, &Stretch::of(&[1, 2, 3])).await;
    let pool = lines.db.pool.clone();
    let mut judge = pool.begin().await.unwrap();
    let claimed = lines.claim(&mut judge).await.unwrap();
    assert_eq!(number_of(claimed.window_start), 1);

    let woken = Stretch {
        rejected: 1,
        was_idle: true,
        ..Stretch::default()
    };
    let woken = lines.checkpoint(1, &woken);
    let back = lines.checkpoint(1, &Stretch::of(&[1, 1]));
    let read = async {
        save(&pool, &woken).await;
        save(&pool, &back).await;
    };
    let say = async {
        somebody_waits(&pool).await;
        assert_eq!(say(&mut judge, &claimed).await, 2);
        judge.commit().await.unwrap();
    };
    tokio::join!(read, say);
    assert_eq!(late_of(&pool, 1).await, (2, 0, 2));
    assert_eq!(lines.judge_all().await, [0; 0], "it is not idle any more");
}

/// A partition that was idle brings rows of windows that are judged by now, for many checkpoints.
#[tokio::test]
async fn rows_of_judged_windows_count_in_every_checkpoint_after_idleness() {
    let mut lines = Lines::of(2).await;
    lines.read(0, &Stretch::of(&[1, 2, 3, 4])).await;
    let idle = Stretch {
        is_idle: true,
        ..Stretch::of(&[1])
    };
    lines.read(1, &idle).await;
    assert_eq!(lines.judge_all().await, [1, 2, 3]);
    let back = Stretch {
        was_idle: true,
        ..Stretch::of(&[1])
    };
    lines.read(1, &back).await;
    lines.read(1, &Stretch::of(&[2, 2, 3])).await;
    let pool = &lines.db.pool;
    assert_eq!(late_of(pool, 1).await, (2, 0, 1));
    assert_eq!(late_of(pool, 2).await, (1, 0, 2));
    assert_eq!(late_of(pool, 3).await, (1, 0, 1));
}

#[tokio::test]
async fn a_checkpoint_that_moves_no_line_does_not_wait_for_the_judge() {
    let mut lines = Lines::of(2).await;
    lines.read(0, &Stretch::of(&[1, 2, 3])).await;
    lines.read(1, &Stretch::of(&[1, 2])).await;
    let pool = lines.db.pool.clone();
    let mut judge = pool.begin().await.unwrap();
    let claimed = lines.claim(&mut judge).await.unwrap();
    lines.read(0, &Stretch::of(&[3])).await; // would never end otherwise
    say(&mut judge, &claimed).await;
    judge.commit().await.unwrap();
}

/// The first window of a line is in the judge's hands, and an earlier one turns up.
#[tokio::test]
async fn a_line_that_is_being_judged_does_not_go_back() {
    let mut lines = Lines::of(2).await;
    lines.read(0, &Stretch::of(&[5, 6])).await;
    let idle = Stretch {
        is_idle: true,
        rejected: 1,
        ..Stretch::default()
    };
    lines.read(1, &idle).await;
    let pool = lines.db.pool.clone();
    let mut judge = pool.begin().await.unwrap();
    let claimed = lines.claim(&mut judge).await.unwrap();
    let earlier = lines.checkpoint(
        1,
        &Stretch {
            was_idle: true,
            ..Stretch::of(&[3])
        },
    );
    let say = async {
        somebody_waits(&pool).await;
        say(&mut judge, &claimed).await;
        judge.commit().await.unwrap();
    };
    tokio::join!(save(&pool, &earlier), say);
    let next = "select next_start from driftd.window_cursors";
    let next = sqlx::query_scalar(next).fetch_one(&pool).await.unwrap();
    assert_eq!(number_of(next), 6);
    lines.read(1, &Stretch::of(&[7])).await;
    assert_eq!(
        lines.judge_all().await,
        [0; 0],
        "windows 6 and 7 are not closed"
    );
}

/// Two replicas find the same window; one of them gets it, and nobody gets it again.
#[tokio::test]
async fn a_window_is_claimed_by_one_and_judged_once() {
    let mut lines = Lines::of(1).await;
    lines.read(0, &Stretch::of(&[1, 2, 3])).await;
    let pool = lines.db.pool.clone();
    let mut one = pool.begin().await.unwrap();
    let mut other = pool.begin().await.unwrap();
    let claimed = lines.claim(&mut one).await.unwrap();
    assert_eq!(lines.claim(&mut other).await, None);
    say(&mut one, &claimed).await;
    one.commit().await.unwrap();
    // The answer of that commit is lost: asking again finds the next window.
    let next = lines.claim(&mut other).await.unwrap();
    assert_eq!(number_of(next.window_start), 2);
    other.rollback().await.unwrap();
    // One that died in between leaves nothing behind.
    assert_eq!(lines.judge_all().await, [2]);
}

/// The first message of the new topic ends the gap, in whatever order partitions tell of theirs.
async fn check_first_message_ends_it(pool: &PgPool, topic: &str) {
    let open = async |partition| {
        let open = gaps::open(pool, topic, &[partition]).await;
        let gaps = open.unwrap().into_iter().map(|(_, gap)| gap);
        gaps.collect::<Vec<_>>()
    };
    assert_eq!(open(0).await, [], "it is read of the old topic still");
    sqlx::query("update driftd.partition_progress set first_offset = next_offset, topic_id = 'b'")
        .execute(pool)
        .await
        .unwrap();
    for (partition, day_of, until) in [(0, 9, 9), (1, 7, 7), (0, 8, 7)] {
        let gap = open(partition).await[0];
        let mut connection = pool.acquire().await.unwrap();
        let closed = gaps::close_windows(&mut connection, &[(gap, day(day_of))]).await;
        closed.unwrap();
        let sql = "select until_start from driftd.gap_windows";
        let stored = sqlx::query_scalar::<_, DateTime<Utc>>(sql).fetch_one(pool);
        assert_eq!(stored.await.unwrap(), day(until));
    }
}

/// An id that was replaced is that of no topic any more, whoever still names it.
#[tokio::test]
async fn partitions_that_went_with_their_topic_are_not_waited_for() {
    let mut lines = Lines::of(3).await;
    let pool = lines.db.pool.clone();
    let of_topic = |id: &str, partitions| Count {
        topic_id: Some(id.to_owned()),
        ..count(partitions)
    };
    topics::note(&pool, &of_topic("a", 3)).await.unwrap();
    for (partition, days) in [(0, &[1, 2, 4][..]), (1, &[1, 2, 4]), (2, &[1, 2])] {
        lines.read(partition, &Stretch::of(days)).await;
    }
    assert_eq!(lines.judge_all().await, [1]);
    let counted = async || -> i32 {
        let sql = "select partitions from driftd.topics";
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    };

    let mut transaction = pool.begin().await.unwrap();
    let anew = of_topic("b", 2);
    let lost = topics::made_anew(&mut transaction, &anew, "continue")
        .await
        .unwrap();
    let again = topics::made_anew(&mut transaction, &anew, "continue").await;
    assert_eq!(again.unwrap(), [], "it is stored once");
    transaction.commit().await.unwrap();
    let [(2, gap)] = &lost[..] else {
        panic!("{lost:?}");
    };
    assert_eq!(
        (gap.generation, gap.from_offset, gap.to_offset),
        (1, 2, None)
    );
    assert_eq!(lines.judge_all().await, [2, 3]);

    check_first_message_ends_it(&pool, &anew.topic).await;

    // What lags behind changes nothing: a broker, a replica that still has the old partition.
    let late = of_topic("a", 3);
    topics::note(&pool, &late).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let nothing = topics::made_anew(&mut connection, &late, "continue").await;
    assert_eq!(nothing.unwrap(), []);
    let taken = lines::take_over(&pool, &anew.topic, 2, "late").await;
    assert_eq!(taken.past_topic_ids, ["a"]);
    assert_eq!((taken.log.generation, taken.next_offset), (2, Some(0)));
    assert_eq!(counted().await, 2);
    topics::note(&pool, &of_topic("b", 3)).await.unwrap();
    let ids = async || -> (Option<String>, Vec<String>) {
        let sql = "select topic_id, past_topic_ids from driftd.topics";
        sqlx::query_as(sql).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(ids().await, (Some("b".to_owned()), vec!["a".to_owned()]));
    assert_eq!(counted().await, 3, "the new topic has got one more");
    // A person knows better.
    topics::believe(&pool, &late).await.unwrap();
    let lost = topics::made_anew(&mut connection, &late, "continue").await;
    assert_eq!(lost.unwrap(), []);
    assert_eq!(ids().await, (Some("a".to_owned()), vec!["b".to_owned()]));
}

#[tokio::test]
async fn a_new_partition_is_waited_for_from_the_moment_it_is_known() {
    let mut lines = Lines::of(2).await;
    lines.read(0, &Stretch::of(&[1, 2, 9])).await;
    lines.read(1, &Stretch::of(&[1, 2])).await;
    assert_eq!(lines.judge_all().await, [1]);
    // Known by its number alone; then taken over; then read, but not as far.
    topics::note(&lines.db.pool, &count(3)).await.unwrap();
    lines.read(1, &Stretch::of(&[9])).await;
    assert_eq!(lines.judge_all().await, [0; 0]);
    lines.add_partition().await;
    assert_eq!(lines.judge_all().await, [0; 0]);
    let first = Stretch {
        was_idle: true,
        ..Stretch::of(&[2, 3])
    };
    lines.read(2, &first).await;
    assert_eq!(lines.judge_all().await, [2]);
    let rows =
        sqlx::query_scalar::<_, i64>("select rows from driftd.windows where window_start = $1");
    let rows = rows.bind(day(2)).fetch_one(&lines.db.pool).await.unwrap();
    assert_eq!(rows, 3);
}

/// Three partitions are known. One that is not among them, left over from a topic that had more,
/// does not stand in for one that has not come so far.
#[tokio::test]
async fn a_partition_too_many_stands_in_for_none() {
    let mut lines = Lines::of(3).await;
    for partition in [0, 2] {
        lines.read(partition, &Stretch::of(&[1, 2])).await;
    }
    sqlx::query("update driftd.topics set partitions = 2")
        .execute(&lines.db.pool)
        .await
        .unwrap();
    assert_eq!(lines.judge_all().await, [0; 0]);
    lines.read(1, &Stretch::of(&[2])).await;
    assert_eq!(lines.judge_all().await, [1]);
}

// --- who is told that a window may be ripe -------------------------------------------------------

/// How often the monitor was named up to now: once a transaction at most.
async fn heard(lines: &Lines, listener: &mut Listener) -> usize {
    sqlx::query("select pg_notify('driftd_ripe', '-1')")
        .execute(&lines.db.pool)
        .await
        .unwrap();
    let mut count = 0;
    loop {
        match listener.next().await.unwrap() {
            -1 => return count,
            monitor_id => assert_eq!(monitor_id, lines.monitor_id),
        }
        count += 1;
    }
}

#[tokio::test]
async fn what_may_make_a_window_ripe_is_notified_and_nothing_else() {
    let mut lines = Lines::of(2).await;
    let mut listener = Listener::connect(&lines.db.pool).await.unwrap();
    assert_eq!(heard(&lines, &mut listener).await, 0);
    lines.read(0, &Stretch::of(&[1])).await;
    lines.read(1, &Stretch::of(&[1])).await;
    assert_eq!(heard(&lines, &mut listener).await, 2, "the first rows");
    lines.read(0, &Stretch::of(&[1, 1])).await;
    assert_eq!(heard(&lines, &mut listener).await, 0, "the window is open");
    lines.read(0, &Stretch::of(&[2])).await;
    assert_eq!(
        heard(&lines, &mut listener).await,
        1,
        "it is behind the end"
    );
    lines.read(0, &Stretch::of(&[2])).await;
    assert_eq!(heard(&lines, &mut listener).await, 0, "as it was before");
    lines.read(1, &Stretch::of(&[2])).await;
    assert_eq!(heard(&lines, &mut listener).await, 1, "the other one too");
    assert_eq!(lines.judge_all().await, [1]);
    assert_eq!(heard(&lines, &mut listener).await, 0, "the judge knows");
    // Idleness: that it is, and that it still was when a window was over by the clock.
    let idle = |at| Stretch {
        was_idle: false,
        ..Stretch::idle(at)
    };
    lines.read(1, &idle(day(2))).await;
    assert_eq!(heard(&lines, &mut listener).await, 1, "it is idle");
    lines
        .read(1, &Stretch::idle(day(2) + TimeDelta::hours(1)))
        .await;
    assert_eq!(heard(&lines, &mut listener).await, 0, "the window is open");
    lines.read(1, &Stretch::idle(day(3))).await;
    assert_eq!(heard(&lines, &mut listener).await, 1, "it is over");
    lines
        .read(1, &Stretch::idle(day(3) + TimeDelta::hours(1)))
        .await;
    assert_eq!(
        heard(&lines, &mut listener).await,
        1,
        "and due by the clock"
    );
    lines
        .read(1, &Stretch::idle(day(3) + TimeDelta::hours(2)))
        .await;
    assert_eq!(heard(&lines, &mut listener).await, 0, "nothing is new");
}

/// Notifications make it fast and nothing else: without any the same windows are judged.
#[tokio::test]
async fn windows_are_judged_although_no_notification_comes() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    for table in ["watermarks", "partition_progress", "window_cursors"] {
        let mute = format!("alter table driftd.{table} disable trigger user");
        let muted = sqlx::query(AssertSqlSafe(mute)).execute(&stage.db.pool);
        muted.await.unwrap();
    }
    let log = messages(17, &story()[2..8]);
    produce(&knobs.brokers, &topic, &log);
    let reference = Reference::of(&log, &stage.baseline_csv);
    run_undisturbed(&stage, &log, reference.windows.len()).await;
    check(&stage, &reference).await;
}
