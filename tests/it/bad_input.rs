//! What a new user gets wrong, and what comes of it: an error that says what and where, an exit
//! code, and nothing lost.

use std::net::TcpListener;

use sqlx::postgres::PgConnectOptions;

use crate::harness::daemon::Daemon;
use crate::harness::postgres;
use crate::harness::reference::{Reference, Window};
use crate::harness::stage::{CLASSIC, Knobs, Stage, broker, fresh_topic, mock_topic};
use crate::harness::traffic::{PARTITIONS, Record, messages, produce, steady};
use crate::harness::until;

/// Waits until the log has a line with all of these words.
async fn logs(daemon: &mut Daemon, words: &[&str]) {
    until(&format!("the log has a line with {words:?}"), async || {
        let log = daemon.log();
        assert!(daemon.is_running(), "it has ended:\n{log}");
        log.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    })
    .await;
}

/// Waits until it says that it is not ready because of this.
async fn is_not_ready(daemon: &Daemon, word: &str) {
    until(&format!("/readyz says no because of {word}"), async || {
        let answer = daemon.get("/readyz");
        answer.is_some_and(|(status, body)| status == 503 && body.contains(word))
    })
    .await;
}

async fn is_ready(daemon: &Daemon) {
    until("/readyz says yes", async || {
        daemon
            .get("/readyz")
            .is_some_and(|(status, _)| status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_does_not_exist_fails_alone_and_is_waited_for() {
    let topic = fresh_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let refresh = "\"topic.metadata.refresh.interval.ms\" = 500\n";
    stage.set_properties(&format!("{CLASSIC}{refresh}"));
    let mut daemon = Daemon::start(&stage.config);
    stage.topic_fails(&mut daemon, "does not exist on").await;
    let log = daemon.log();
    assert!(log.contains(&topic), "{log}");
    // Somebody creates it: it is read, and nothing has failed any more.
    broker().create_topic(&topic, PARTITIONS).unwrap();
    let records = messages(60, &[steady(40), steady(40)]);
    produce(&knobs.brokers, &topic, &records);
    stage.saved(records.len()).await;
    until("the failure is gone", async || {
        stage.count("select count(*) from driftd.failures").await == 0
    })
    .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

#[tokio::test]
async fn a_wrong_broker_address_is_tried_again_and_said() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut knobs = Knobs::mock(&fresh_topic());
    knobs.brokers = nobody.to_string();
    let stage = Stage::set(&knobs).await;
    let mut daemon = Daemon::start(&stage.config);
    logs(&mut daemon, &["Kafka does not answer", &knobs.brokers]).await;
    is_not_ready(&daemon, "kafka").await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_waited_for() {
    let stage = Stage::set(&Knobs::mock(&mock_topic())).await;
    // The same database, at a socket that nobody listens on yet.
    let options: PgConnectOptions = stage.db.url.parse().unwrap();
    let socket = options.get_socket().unwrap();
    let dir = stage.config.parent().unwrap();
    let (before, _) = stage.db.url.split_once("?host=").unwrap();
    let url = format!("{before}?host={}", dir.display());
    let config = std::fs::read_to_string(&stage.config).unwrap();
    std::fs::write(&stage.config, config.replace(&stage.db.url, &url)).unwrap();

    let mut daemon = Daemon::start(&stage.config);
    logs(&mut daemon, &["Postgres is not there"]).await;
    is_not_ready(&daemon, "postgres").await;
    let name = ".s.PGSQL.5432";
    std::os::unix::fs::symlink(socket.join(name), dir.join(name)).unwrap();
    is_ready(&daemon).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

#[tokio::test]
async fn a_schema_that_is_not_migrated_needs_a_person() {
    let stage = Stage::on(postgres::empty().await, &Knobs::mock(&mock_topic()));
    let mut daemon = Daemon::start(&stage.config);
    assert_eq!(daemon.ended().await.code(), Some(3), "{}", daemon.log());
    assert!(daemon.log().contains("driftd migrate"), "{}", daemon.log());
}

/// Not an error: it is a finding about the stream.
#[tokio::test]
async fn a_feature_absent_from_every_message_is_a_drift_of_its_null_rate() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let log: Vec<Record> = messages(7, &[steady(200); 2])
        .into_iter()
        .map(without_score)
        .collect();
    produce(&knobs.brokers, &topic, &log);
    let reference = Reference::of(&log, &stage.baseline_csv);
    assert!(
        reference
            .windows
            .iter()
            .all(|window| window.verdict == "drifted")
    );

    let mut daemon = Daemon::start(&stage.config);
    stage.judged(2).await;
    let sql = "select nulls, rows_window, statistic, drifted from driftd.drift_scores
        where feature = 'score' and test = 'null_rate' order by window_start";
    let found: Vec<(i64, i64, f64, bool)> =
        sqlx::query_as(sql).fetch_all(&stage.db.pool).await.unwrap();
    let all = |window: &Window| (window.rows, window.rows, 1.0, true);
    assert_eq!(found, reference.windows.iter().map(all).collect::<Vec<_>>());
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

fn without_score(mut record: Record) -> Record {
    if let Some(payload) = &mut record.payload
        && let (Some(from), Some(to)) = (payload.find("\"score\""), payload.find("\"country\""))
    {
        payload.replace_range(from..to, "");
    }
    record
}

/// SIGTERM in the middle: what was read is saved then, not at the next checkpoint.
#[tokio::test]
async fn told_to_stop_it_saves_what_it_has_read() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let config = std::fs::read_to_string(&stage.config).unwrap();
    let rare = config
        .replace("\"100ms\"", "\"1h\"")
        .replace("\"500ms\"", "\"1h\"");
    std::fs::write(&stage.config, rare).unwrap();
    // One window. With its first rows a partition says which window it is at, and that is saved at
    // once; the rows after that change nothing for anybody else.
    let mut log = messages(8, &[steady(200)]);
    log.truncate(200);
    log.retain(|record| record.payload.is_some());
    let (first, rest) = log.split_at(80);

    let mut daemon = Daemon::start(&stage.config);
    produce(&knobs.brokers, &topic, first);
    until("the first rows are read", async || {
        used(&daemon) == first.len()
    })
    .await;
    stage.saved(first.len()).await;
    produce(&knobs.brokers, &topic, rest);
    until("the others are read", async || used(&daemon) == log.len()).await;
    stage.saved(first.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    stage.saved(log.len()).await;
}

/// Messages that were counted or rejected, by its metrics.
fn used(daemon: &Daemon) -> usize {
    let Some((_, text)) = daemon.get("/metrics") else {
        return 0;
    };
    let names = [
        "driftd_counted_rows_total",
        "driftd_late_rows_total",
        "driftd_rejected_messages_total",
    ];
    let lines = text
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok())
        .sum()
}
