//! What Postgres, and the way to it, can do to driftd; after each, the rows are those of an
//! undisturbed run.

use std::io::Write as _;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::OnceCell;

use crate::harness::daemon::Daemon;
use crate::harness::oracle::{assert_same, check, undisturbed};
use crate::harness::postgres::{self, TestDb};
use crate::harness::proxy::{Flow, Lost, Proxy};
use crate::harness::reference::Reference;
use crate::harness::server::{Server, SmallDisk};
use crate::harness::stage::{Knobs, Stage, hold, is_held_up, mock_topic};
use crate::harness::traffic::{PARTITIONS, Record, messages, produce, story};
use crate::harness::until;

const SEED: u64 = 18;

/// What an undisturbed daemon makes of the log that all tests here read.
async fn expected() -> &'static [String] {
    static EXPECTED: OnceCell<Vec<String>> = OnceCell::const_new();
    EXPECTED
        .get_or_init(|| async { undisturbed(&messages(SEED, &story())).await })
        .await
}

/// A log that comes in parts, and what is to come of it.
struct Scene {
    knobs: Knobs,
    stage: Stage,
    reference: Reference,
    log: Vec<Record>,
    produced: usize,
}

impl Scene {
    fn set(db: TestDb) -> Self {
        let knobs = Knobs::mock(&mock_topic());
        let stage = Stage::set_on(db, &knobs);
        let log = messages(SEED, &story());
        let reference = Reference::of(&log, &stage.baseline_csv);
        Self {
            knobs,
            stage,
            reference,
            log,
            produced: 0,
        }
    }

    /// On the shared server, by way of a proxy.
    async fn with_proxy() -> (Self, Proxy) {
        let proxy = Proxy::to(postgres::upstream());
        let db = postgres::fresh().await.through(&proxy);
        (Self::set(db), proxy)
    }

    /// Adds a setting behind another line of the file.
    fn set_behind(&self, line: &str, more: &str) {
        let settings = std::fs::read_to_string(&self.stage.config).unwrap();
        assert!(settings.contains(line), "{settings}");
        let settings = settings.replace(line, &format!("{line}\n{more}"));
        std::fs::write(&self.stage.config, settings).unwrap();
    }

    /// How long an answer of Postgres is waited for.
    fn time_limit(&self, timeout: &str) {
        self.set_behind("[postgres]", &format!("timeout = \"{timeout}\""));
    }

    /// Whoever does not poll for so short a time is put out of the group.
    fn poll_often(&self) {
        let most = "\"max.poll.interval.ms\" = 6000";
        self.set_behind("[kafka.properties]", most);
    }

    /// Messages that are saved.
    async fn messages(&self) -> i64 {
        let sql = "select coalesce(sum(messages), 0)::bigint from driftd.checkpoints";
        self.stage.count(sql).await
    }

    /// Produces so many more hundredths of the log.
    fn produce(&mut self, percent: usize) {
        let more = self.log.len() * percent / 100 + 1;
        let more = more.min(self.log.len() - self.produced);
        let part = &self.log[self.produced..self.produced + more];
        produce(&self.knobs.brokers, &self.knobs.topic, part);
        self.produced += more;
    }

    async fn saved(&self) {
        self.stage.saved(self.produced).await;
    }

    /// Produces the rest, waits for everything and compares it.
    async fn finish(&mut self, mut daemon: Daemon) {
        produce(
            &self.knobs.brokers,
            &self.knobs.topic,
            &self.log[self.produced..],
        );
        self.stage.saved(self.log.len()).await;
        self.stage.judged(self.reference.windows.len()).await;
        assert!(daemon.terminate().await.success(), "{}", daemon.log());
        check(&self.stage, &self.reference).await;
        assert_same(&self.stage.results().await, expected().await);
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Whether a transaction is at its end, and has judged a window or saved a stretch.
fn commits(verdict: bool, topic: String) -> impl Fn(&[u8]) -> bool + Send + 'static {
    move |sent| {
        // What decided over the window, as Postgres gets a text: its length first.
        let judges = contains(sent, b"\0\0\0\x05tests");
        sent.ends_with(b"COMMIT\0") && contains(sent, topic.as_bytes()) && judges == verdict
    }
}

// --- the answer to COMMIT is lost ----------------------------------------------------------------

const LOSSES: [(Lost, bool); 4] = [
    (Lost::Answer, false),
    (Lost::Answer, true),
    (Lost::Request, false),
    (Lost::Request, true),
];

async fn lose_commits(restart: bool) {
    let (mut scene, proxy) = Scene::with_proxy().await;
    let mut daemon = Daemon::start(&scene.stage.config);
    for (lost, verdict) in LOSSES {
        proxy.lose(lost, commits(verdict, scene.knobs.topic.clone()));
        scene.produce(23);
        until(
            &format!("{lost:?} is lost, verdict: {verdict}"),
            async || proxy.has_lost(),
        )
        .await;
        if restart {
            daemon.kill();
            daemon = Daemon::start(&scene.stage.config);
        }
        scene.saved().await;
    }
    scene.finish(daemon).await;
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_counts_once() {
    lose_commits(false).await;
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_counts_once_after_a_restart() {
    lose_commits(true).await;
}

/// The transaction that makes the monitor known.
#[tokio::test]
async fn a_start_that_loses_postgres_begins_again() {
    let (mut scene, proxy) = Scene::with_proxy().await;
    proxy.lose(Lost::Answer, |sent: &[u8]| sent.ends_with(b"COMMIT\0"));
    let daemon = Daemon::start(&scene.stage.config);
    until("the answer is lost", async || proxy.has_lost()).await;
    until("driftd says that it was", async || {
        daemon.log().contains("Postgres was lost at the start")
    })
    .await;
    scene.finish(daemon).await;
}

// --- the server dies, or another one takes its place ---------------------------------------------

/// A migrated database on a server of the test's own.
async fn own(server: &Server) -> TestDb {
    let pool = server.pool();
    postgres::migrate(&pool).await;
    TestDb {
        pool,
        url: server.url(),
    }
}

/// A pool finds its broken connections one after the other.
async fn settle(pool: &PgPool) {
    let mut answers = 0;
    until("Postgres answers", async || {
        let answer = sqlx::query("select 1").execute(pool).await;
        answers = if answer.is_ok() { answers + 1 } else { 0 };
        answers > 5
    })
    .await;
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_changes_nothing() {
    let server = Server::start(&[]);
    let mut scene = Scene::set(own(&server).await);
    let daemon = Daemon::start(&scene.stage.config);
    for _ in 0..3 {
        let before = scene.messages().await;
        scene.produce(25);
        until("some of it is saved", async || {
            scene.messages().await > before
        })
        .await;
        server.crash();
        server.go();
        settle(&scene.stage.db.pool).await;
    }
    scene.finish(daemon).await;
}

/// A primary, a standby of it, and a daemon that reaches whichever the proxy points to.
async fn with_standby() -> (Scene, Proxy, Server, Server) {
    let primary = Server::start(&[]);
    let proxy = Proxy::to(primary.upstream());
    let scene = Scene::set(own(&primary).await.through(&proxy));
    let standby = primary.standby(&[]);
    (scene, proxy, primary, standby)
}

#[tokio::test]
async fn a_failover_to_a_synchronous_standby_loses_nothing() {
    let (mut scene, proxy, primary, standby) = with_standby().await;
    scene.time_limit("2s");
    primary.configure(&["synchronous_standby_names=*"]);
    primary.reload();
    let follows = "select exists (select from pg_stat_replication where sync_state = 'sync')";
    primary.holds("the standby is synchronous", follows).await;

    let daemon = Daemon::start(&scene.stage.config);
    scene.produce(40);
    scene.saved().await;
    scene.produce(30);
    let stored = scene.messages().await;
    primary.crash();
    proxy.point_to(standby.upstream());
    proxy.cut();
    let words = "is a standby, which takes no writes";
    until("driftd says that this is a standby", async || {
        let (status, said) = daemon.get("/readyz").unwrap_or_default();
        status == 503 && said.contains(words)
    })
    .await;
    scene.stage.db.pool = standby.pool();
    assert!(scene.messages().await >= stored);
    standby.promote();
    scene.finish(daemon).await;
}

/// The offsets stored go back, which is the one thing that ever makes them: with them goes what was
/// stored up to there, so that it is read again and counts once.
async fn fail_over_with_loss(quiet: bool) {
    let (mut scene, proxy, primary, standby) = with_standby().await;
    let daemon = Daemon::start(&scene.stage.config);
    scene.produce(40);
    scene.saved().await;
    let caught_up = "select (select pg_current_wal_lsn()) = (select min(replay_lsn)
        from pg_stat_replication)";
    primary.holds("the standby has caught up", caught_up).await;
    standby.configure(&["primary_conninfo="]);
    standby.reload();
    let alone = "select not exists (select from pg_stat_replication)";
    primary.holds("nobody follows any more", alone).await;
    scene.produce(if quiet { 60 } else { 30 });
    scene.saved().await;

    let stored = scene.messages().await;
    primary.crash();
    standby.promote();
    scene.stage.db.pool = standby.pool();
    assert!(scene.messages().await < stored, "nothing was lost");
    proxy.point_to(standby.upstream());
    proxy.cut();
    scene.finish(daemon).await;
}

#[tokio::test]
async fn a_failover_that_loses_commits_is_read_again() {
    fail_over_with_loss(false).await;
}

/// No checkpoint is due that could be fenced.
#[tokio::test]
async fn a_failover_that_loses_commits_is_found_out_in_silence_too() {
    fail_over_with_loss(true).await;
}

// --- the way to it is slow, closed, or dead without a word ---------------------------------------

/// The group has not rebalanced: each partition was assigned once.
fn assert_no_rebalance(daemon: &Daemon) {
    let log = daemon.log();
    let assigned = log.matches("assigned topic").count();
    let partitions = usize::try_from(PARTITIONS).unwrap();
    assert_eq!(assigned, partitions, "the group has rebalanced: {log}");
}

#[tokio::test]
async fn a_connection_that_is_dead_without_a_word_is_given_up() {
    let (mut scene, proxy) = Scene::with_proxy().await;
    scene.time_limit("2s");
    let daemon = Daemon::start(&scene.stage.config);
    scene.produce(30);
    scene.saved().await;
    // In the middle of a transaction, so that its locks stay behind.
    let lock = hold(&scene.stage.db.pool, "checkpoints").await;
    scene.produce(30);
    until("a checkpoint is under way", async || {
        is_held_up(&scene.stage.db.pool, "checkpoints").await
    })
    .await;
    proxy.flow(Flow::HalfOpen);
    lock.rollback().await.unwrap();
    until("driftd gives up", async || {
        daemon.log().contains("no answer within")
    })
    .await;
    proxy.flow(Flow::Open);
    scene.saved().await;
    assert_no_rebalance(&daemon);
    scene.finish(daemon).await;
}

#[tokio::test]
async fn a_postgres_that_takes_two_seconds_an_answer_holds_nothing_up_but_checkpoints() {
    let (mut scene, proxy) = Scene::with_proxy().await;
    scene.poll_often();
    let daemon = Daemon::start(&scene.stage.config);
    scene.produce(30);
    scene.saved().await;
    let second = Duration::from_secs(1);
    proxy.latency(second, second);
    let before = scene.messages().await;
    scene.produce(30);
    until("a checkpoint gets through", async || {
        scene.messages().await > before
    })
    .await;
    proxy.latency(Duration::ZERO, Duration::ZERO);
    scene.saved().await;
    assert_no_rebalance(&daemon);
    scene.finish(daemon).await;
}

#[tokio::test]
async fn a_postgres_that_is_gone_for_a_while_is_waited_for() {
    let (mut scene, proxy) = Scene::with_proxy().await;
    scene.poll_often();
    scene.time_limit("2s");
    let daemon = Daemon::start(&scene.stage.config);
    scene.produce(30);
    scene.saved().await;
    proxy.flow(Flow::Refused);
    scene.produce(50);
    until("driftd has tried again and again", async || {
        daemon.log().matches("; trying again").count() > 5
    })
    .await;
    let (status, said) = daemon.get("/readyz").unwrap();
    assert!(status == 503 && said.contains("checkpoints"), "{said}");
    proxy.flow(Flow::Open);
    scene.saved().await;
    until("driftd is ready again", async || {
        daemon
            .get("/readyz")
            .is_some_and(|(status, _)| status == 200)
    })
    .await;
    assert_no_rebalance(&daemon);
    scene.finish(daemon).await;
}

// --- the disk is full ----------------------------------------------------------------------------

/// The disk that holds a part of the server is full for a while.
async fn fill_up(test: &str, part: &str) {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => return skipped(test, &format!("cannot mount a small disk: {why}")),
    };
    let server = Server::start_with(part, disk.path());
    let mut scene = Scene::set(own(&server).await);
    scene.time_limit("2s");
    let daemon = Daemon::start(&scene.stage.config);
    scene.produce(20);
    scene.saved().await;
    disk.fill();
    scene.produce(60);
    until("something cannot be saved", async || {
        // What is cleared away is no room, and the server's log goes on by itself.
        disk.fill();
        let more = "select pg_logical_emit_message(true, 'test', repeat('x', 300000))";
        let _ = sqlx::query(more).execute(&scene.stage.db.pool).await;
        let (status, said) = daemon.get("/readyz").unwrap_or_default();
        status == 503 && said.contains("checkpoints")
    })
    .await;
    assert!(server.said().contains("No space left"), "{}", server.said());
    disk.make_room();
    // A server that cannot write its log any more ends itself.
    until("the server is there", async || {
        if !server.is_running() {
            server.go();
        }
        sqlx::query("select 1")
            .execute(&scene.stage.db.pool)
            .await
            .is_ok()
    })
    .await;
    settle(&scene.stage.db.pool).await;
    scene.saved().await;
    scene.finish(daemon).await;
}

#[tokio::test]
async fn a_full_disk_under_the_tables_leaves_no_half_of_anything() {
    let test = "postgres_faults::a_full_disk_under_the_tables_leaves_no_half_of_anything";
    fill_up(test, "base").await;
}

#[tokio::test]
async fn a_full_disk_under_the_servers_own_log_leaves_no_half_of_anything() {
    let test = "postgres_faults::a_full_disk_under_the_servers_own_log_leaves_no_half_of_anything";
    fill_up(test, "pg_wal").await;
}

// --- a replica that is not what it thinks it is --------------------------------------------------

/// Stopped in the middle of a checkpoint, so that its locks stay behind as well.
#[tokio::test]
async fn a_replica_that_was_taken_for_dead_is_fenced_when_it_goes_on() {
    let mut scene = Scene::set(postgres::fresh().await);
    scene.time_limit("2s");
    let zombie = Daemon::start(&scene.stage.config);
    scene.produce(30);
    scene.saved().await;
    let lock = hold(&scene.stage.db.pool, "checkpoints").await;
    scene.produce(30);
    until("a checkpoint is under way", async || {
        is_held_up(&scene.stage.db.pool, "checkpoints").await
    })
    .await;
    zombie.signal("STOP");
    lock.rollback().await.unwrap();
    let other = Daemon::start(&scene.stage.config);
    scene.saved().await;
    zombie.signal("CONT");
    until("it is fenced", async || {
        zombie.metric("driftd_fenced_checkpoints_total") >= 1.0
    })
    .await;
    scene.produce(20);
    scene.saved().await;
    let mut zombie = zombie;
    assert!(zombie.terminate().await.success(), "{}", zombie.log());
    scene.finish(other).await;
}

/// Results come from event time, leases from Postgres's clock; a replica's own clock only says when
/// to look.
#[tokio::test]
async fn a_clock_that_is_an_hour_off_changes_nothing() {
    const HOUR_MS: i64 = 3_600_000;
    let mut scene = Scene::set(postgres::fresh().await);
    let ahead = Daemon::start_at(&scene.stage.config, HOUR_MS);
    scene.produce(20);
    scene.saved().await;
    let behind = Daemon::start_at(&scene.stage.config, -HOUR_MS);
    scene.produce(30);
    scene.saved().await;
    ahead.kill();
    scene.produce(20);
    scene.saved().await;
    behind.kill();
    let daemon = Daemon::start(&scene.stage.config);
    scene.finish(daemon).await;
}

/// Past the test harness, which swallows what a test that passes prints.
fn skipped(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
}
