//! A window that cannot be judged stops its own line; everything else goes on.

use driftd::store;
use driftd::store::failures::{self, Stored};
use sqlx::PgPool;

use crate::harness::daemon::Daemon;
use crate::harness::oracle::check_all;
use crate::harness::reference::{CREDIT, HOPPING, Reference};
use crate::harness::stage::{Knobs, Stage, hold, mock_topic};
use crate::harness::traffic::{messages, produce, story};
use crate::harness::until;

const SEED: u64 = 21;

/// A stored delta of a window of the second monitor.
struct Delta {
    checkpoint_id: i64,
    window_ms: i64,
    delta: Vec<u8>,
}

impl Delta {
    async fn of(pool: &PgPool, window_ms: i64) -> Self {
        let sql = "select checkpoint_id, delta
            from driftd.profile_deltas join driftd.monitors using (monitor_id)
            where monitor = 'credit-hopping' and window_start = to_timestamp($1::float8 / 1000)
                and delta is not null
            order by partition desc limit 1";
        let found = sqlx::query_as(sql).bind(window_ms as f64);
        let (checkpoint_id, delta) = found.fetch_one(pool).await.unwrap();
        Self {
            checkpoint_id,
            window_ms,
            delta,
        }
    }

    async fn store(&self, pool: &PgPool, delta: &[u8]) {
        let sql = "update driftd.profile_deltas d set delta = $3 from driftd.monitors m
            where m.monitor = 'credit-hopping' and d.monitor_id = m.monitor_id
                and d.checkpoint_id = $1 and d.window_start = to_timestamp($2::float8 / 1000)";
        let stored = sqlx::query(sql)
            .bind(self.checkpoint_id)
            .bind(self.window_ms as f64)
            .bind(delta)
            .execute(pool)
            .await;
        assert_eq!(stored.unwrap().rows_affected(), 1);
    }
}

/// Lets a window that failed be tried again at once.
async fn hurry(pool: &PgPool) {
    let sql = "update driftd.failures set retry_at = now()";
    sqlx::query(sql).execute(pool).await.unwrap();
}

async fn judged(stage: &Stage, monitor: &str) -> i64 {
    let sql = "select count(*) from driftd.windows join driftd.monitors using (monitor_id)
        where monitor = $1";
    let count = sqlx::query_scalar(sql).bind(monitor);
    count.fetch_one(&stage.db.pool).await.unwrap()
}

async fn failure(pool: &PgPool) -> Option<Stored> {
    failures::list(pool).await.unwrap().pop()
}

/// Two monitors on one topic, a log for them, and what it comes to.
async fn staged() -> (Stage, Vec<Reference>, usize) {
    let topic = mock_topic();
    let mut knobs = Knobs::mock(&topic);
    knobs.watches = &[CREDIT, HOPPING];
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story()[2..11]);
    produce(&knobs.brokers, &topic, &log);
    let reference = |watch| Reference::of_watch(watch, &log, &stage.baseline_csv);
    let references = vec![reference(&CREDIT), reference(&HOPPING)];
    (stage, references, log.len())
}

#[tokio::test]
async fn a_damaged_delta_stops_its_own_line_until_it_is_repaired() {
    let (stage, references, messages) = staged().await;
    let [tumbling, hopping] = [&references[0], &references[1]];
    let pool = &stage.db.pool;
    // No window is judged until a delta of the third is damaged.
    let mut lock = hold(pool, "windows").await;
    let mut daemon = Daemon::start(&stage.config);
    let saved = stage.saved(messages);
    store::meanwhile(pool, &mut lock, saved).await.unwrap();
    let delta = Delta::of(pool, hopping.windows[2].start_ms).await;
    delta.store(pool, &[0, 255]).await;
    lock.rollback().await.unwrap();

    until("the other monitor's windows are judged", async || {
        judged(&stage, "credit").await == i64::try_from(tumbling.windows.len()).unwrap()
    })
    .await;
    until("the damaged window has failed", async || {
        failure(pool).await.is_some()
    })
    .await;
    assert_eq!(judged(&stage, "credit-hopping").await, 2);
    let failed = failure(pool).await.unwrap();
    assert_eq!(
        (
            failed.kind.as_str(),
            failed.name.as_str(),
            failed.version.as_str()
        ),
        ("windows", "credit-hopping", "1")
    );
    assert!(
        failed.reason.contains("a stored profile cannot be read"),
        "{}",
        failed.reason
    );
    assert!(failed.retry_at.is_some_and(|at| at > failed.told_at));
    let health = "select count(*) from driftd.monitor_health
        where (monitor = 'credit-hopping') = (state = 'failed')";
    assert_eq!(stage.count(health).await, 2);
    assert_eq!(daemon.get("/readyz").map(|(status, _)| status), Some(200));
    assert!((daemon.metric("driftd_failures") - 1.0).abs() < 1e-9);

    // Tried again it fails again, which is no news; repaired it goes on as if nothing had been.
    hurry(pool).await;
    until("it has failed once more", async || {
        failure(pool)
            .await
            .is_some_and(|failed| failed.attempts == 2)
    })
    .await;
    let told = "a window cannot be judged";
    assert_eq!(daemon.log().matches(told).count(), 1, "{}", daemon.log());
    delta.store(pool, &delta.delta).await;
    hurry(pool).await;
    stage
        .judged(tumbling.windows.len() + hopping.windows.len())
        .await;
    assert_eq!(failure(pool).await, None);
    assert!(daemon.is_running());
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check_all(&stage, &[tumbling, hopping]).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_panic_stops_the_line_that_panicked_and_no_other() {
    let (stage, references, _) = staged().await;
    let pool = &stage.db.pool;
    let mut daemon = Daemon::start_failing(&stage.config, "judge.gathered=3*off->1*panic->off");
    let all: usize = references.iter().map(|one| one.windows.len()).sum();
    until("a window has failed", async || {
        failure(pool).await.is_some()
    })
    .await;
    let failed = failure(pool).await.unwrap();
    assert!(failed.reason.contains("panicked"), "{}", failed.reason);
    let index = references
        .iter()
        .position(|one| one.watch.name == failed.name);
    let other = &references[1 - index.unwrap()];
    until("the other monitor's windows are judged", async || {
        judged(&stage, other.watch.name).await == i64::try_from(other.windows.len()).unwrap()
    })
    .await;
    assert_eq!(daemon.get("/readyz").map(|(status, _)| status), Some(200));
    hurry(pool).await;
    stage.judged(all).await;
    assert_eq!(failure(pool).await, None);
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check_all(&stage, &[&references[0], &references[1]]).await;
}

#[tokio::test]
async fn a_baseline_that_lacks_a_watched_feature_fails_its_monitor_alone() {
    let (stage, references, _) = staged().await;
    let pool = &stage.db.pool;
    let right = std::fs::read_to_string(&stage.config).unwrap();
    let (before, hopping) = right.split_at(right.find("\"credit-hopping\"").unwrap());
    let wrong = hopping.replace("features = [", "features = [\"nowhere\", ");
    std::fs::write(&stage.config, format!("{before}{wrong}")).unwrap();

    let mut daemon = Daemon::start(&stage.config);
    let windows = i64::try_from(references[0].windows.len()).unwrap();
    until("the other monitor's windows are judged", async || {
        judged(&stage, "credit").await == windows
    })
    .await;
    let failed = failure(pool).await.unwrap();
    assert_eq!(
        (failed.kind.as_str(), failed.name.as_str()),
        ("monitor", "credit-hopping")
    );
    assert!(failed.reason.contains("`nowhere`"), "{}", failed.reason);
    assert_eq!(daemon.get("/readyz").map(|(status, _)| status), Some(200));
    let compared = "select count(*) from driftd.windows join driftd.monitors using (monitor_id)
        where monitor = 'credit-hopping' and verdict <> 'no_baseline'";
    assert_eq!(stage.count(compared).await, 0);
    assert!(daemon.terminate().await.success(), "{}", daemon.log());

    std::fs::write(&stage.config, right).unwrap();
    let mut daemon = Daemon::start(&stage.config);
    until("the monitor has failed no longer", async || {
        failure(pool).await.is_none()
    })
    .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}
