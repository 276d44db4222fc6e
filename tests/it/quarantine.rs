//! A window that cannot be judged stops its own line; everything else goes on.

use driftd::store::failures::{self, Stored};
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::daemon::Daemon;
use crate::harness::oracle::check_all;
use crate::harness::reference::{CREDIT, HOPPING, Reference};
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{messages, produce, story};
use crate::harness::until;

const SEED: u64 = 21;

/// Damages what is stored for a window of the second monitor, and keeps it as it should be.
async fn damage(pool: &PgPool, window_ms: i64) {
    let sql = format!(
        "create table public.aside (checkpoint_id bigint, delta bytea);
        create function public.damage() returns trigger language plpgsql as $$
        begin
            if new.delta is not null and new.window_start = to_timestamp({window_ms} / 1000.0)
                and new.monitor_id in (select monitor_id from driftd.monitors
                    where monitor = 'credit-hopping') then
                insert into public.aside values (new.checkpoint_id, new.delta);
                new.delta = '\\x00ff';
            end if;
            return new;
        end $$;
        create trigger damage before insert on driftd.profile_deltas
            for each row execute function public.damage()"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .unwrap();
}

async fn repair(pool: &PgPool) {
    let sql = "update driftd.profile_deltas d set delta = a.delta from public.aside a
        where d.checkpoint_id = a.checkpoint_id and d.delta = '\\x00ff'";
    let repaired = sqlx::query(sql).execute(pool).await.unwrap();
    assert!(repaired.rows_affected() > 0);
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
async fn staged() -> (Stage, Vec<Reference>) {
    let topic = mock_topic();
    let mut knobs = Knobs::mock(&topic);
    knobs.watches = &[CREDIT, HOPPING];
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story()[2..11]);
    produce(&knobs.brokers, &topic, &log);
    let reference = |watch| Reference::of_watch(watch, &log, &stage.baseline_csv);
    let references = vec![reference(&CREDIT), reference(&HOPPING)];
    (stage, references)
}

#[tokio::test]
async fn a_damaged_delta_stops_its_own_line_until_it_is_repaired() {
    let (stage, references) = staged().await;
    let [tumbling, hopping] = [&references[0], &references[1]];
    let pool = &stage.db.pool;
    damage(pool, hopping.windows[2].start_ms).await;
    let mut daemon = Daemon::start(&stage.config);
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
    repair(pool).await;
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
    let (stage, references) = staged().await;
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
    let (stage, references) = staged().await;
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

/// Its layout can still be read, so that rows are; what windows are compared with cannot.
#[tokio::test]
async fn a_damaged_baseline_stops_the_windows_of_its_version_until_it_is_restored() {
    let (stage, references) = staged().await;
    let pool = &stage.db.pool;
    let damage = "create table public.aside as select baseline_id, profile from driftd.baselines;
        update driftd.baselines set profile = substring(profile for length(profile) - 10)";
    sqlx::raw_sql(damage).execute(pool).await.unwrap();
    let mut daemon = Daemon::start(&stage.config);
    until("both monitors have failed", async || {
        failures::list(pool).await.unwrap().len() == 2
    })
    .await;
    let failed = failure(pool).await.unwrap();
    assert_eq!(failed.kind.as_str(), "windows");
    assert!(
        failed.reason.contains("of version `1` cannot be used")
            && failed
                .reason
                .contains("restore its rows of driftd.baselines"),
        "{}",
        failed.reason
    );
    assert_eq!(daemon.get("/readyz").map(|(status, _)| status), Some(200));
    let restore = "update driftd.baselines b set profile = a.profile from public.aside a
        where a.baseline_id = b.baseline_id";
    sqlx::raw_sql(restore).execute(pool).await.unwrap();
    hurry(pool).await;
    let windows = references.iter().map(|one| one.windows.len());
    let windows = i64::try_from(windows.sum::<usize>()).unwrap();
    until("all windows are judged", async || {
        stage.count("select count(*) from driftd.windows").await == windows
    })
    .await;
    check_all(&stage, &[&references[0], &references[1]]).await;
    assert!(failure(pool).await.is_none());
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}
