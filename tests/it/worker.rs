//! `driftd worker`: what it tells its command, what becomes of what that says, and how it ends it.

use driftd::store::jobs::{self, Job, JobState};
use driftd::store::models;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::postgres::{self, TestDb};
use crate::harness::queue::{claim, request};
use crate::harness::server::Server;
use crate::harness::until;
use crate::harness::worker::{RESULT, WAIT, Worker, gone, listening, trainer_url};

/// A model with version 1 and an open job; and where a trainer finds it.
async fn scene() -> (TestDb, String) {
    let db = postgres::fresh().await;
    enqueue(&db.pool, "m").await;
    let url = trainer_url(&db).await;
    (db, url)
}

async fn enqueue(pool: &PgPool, model: &str) -> i64 {
    models::register(pool, model).await.unwrap();
    models::register_version(pool, model, "1", None)
        .await
        .unwrap();
    request(pool, model).await.job_id.unwrap()
}

async fn job(pool: &PgPool, job_id: i64) -> Job {
    jobs::get(pool, job_id).await.unwrap().unwrap()
}

async fn ends(pool: &PgPool, job_id: i64, state: JobState) {
    until(
        "the job is where it should be",
        async || matches!(jobs::get(pool, job_id).await, Ok(Some(job)) if job.state == state),
    )
    .await;
}

async fn lines(pool: &PgPool) -> Vec<String> {
    let lines = jobs::last_lines(pool, 1, 10_000).await.unwrap();
    lines.into_iter().map(|line| line.line).collect()
}

#[tokio::test]
async fn a_command_that_ends_well_makes_a_version() {
    let (db, url) = scene().await;
    Worker::once(&url, RESULT).await;
    let job = job(&db.pool, 1).await;
    assert_eq!(
        (job.state, job.worker.as_deref()),
        (JobState::Succeeded, Some("tester"))
    );
    let made = &models::list(&db.pool, Some("m")).await.unwrap()[0];
    assert_eq!((made.version.as_str(), made.job_id), ("2", Some(1)));
}

/// What a script leads to: the job's state, and what its error begins with.
async fn leads_to(script: &str, state: JobState, error: &str) -> String {
    let (db, url) = scene().await;
    Worker::once(&url, script).await;
    let job = job(&db.pool, 1).await;
    let found = job.error.unwrap();
    assert_eq!(job.state, state, "{script}: {found}");
    assert!(found.contains(error), "{script}: {found}");
    found
}

#[tokio::test]
async fn an_attempt_that_fails_is_tried_again_with_its_last_lines_as_the_reason() {
    let script = "for i in $(seq 20); do echo line $i; done; exit 1";
    let error = leads_to(script, JobState::Queued, "the command ended with").await;
    let last = "; it printed last:\nline 11\n";
    assert!(
        error.contains(last) && error.ends_with("line 20"),
        "{error}"
    );
    // A command that a signal has ended, as the kernel does where memory is short.
    leads_to("kill -9 $$", JobState::Queued, "signal: 9").await;
}

#[tokio::test]
async fn what_does_not_get_better_is_not_tried_again() {
    let file = |text: &str| format!("printf '%s' '{text}' > \"$DRIFTD_RESULT_FILE\"");
    let failed = JobState::Failed;
    leads_to("exit 65", failed, "exit status: 65").await;
    leads_to("exit 0", failed, "result.json cannot be read").await;
    leads_to(&file("{"), failed, "result.json is no JSON: ").await;
    leads_to(&file("[]"), failed, "result.json is no JSON object").await;
    let exists = "its result was refused: version 1 of model m exists already";
    leads_to(&file(r#"{"version": "1"}"#), failed, exists).await;
    let none = "its result was refused: the result of job 1 names no version";
    leads_to(&file("{}"), failed, none).await;
}

/// NUL is in no text of Postgres: it must not keep the worker from telling what became of a job.
#[tokio::test]
async fn bytes_that_postgres_cannot_keep_do_not_get_in_the_way() {
    let script = r"printf 'a\000b\n'; exit 65";
    let error = leads_to(script, JobState::Failed, "a\u{fffd}b").await;
    assert!(!error.contains('\0'));
    let text = r#"{"version": "2", "note": "\\u0000"}"#;
    let script = format!("printf '{text}' > \"$DRIFTD_RESULT_FILE\"");
    leads_to(&script, JobState::Failed, "its result cannot be kept").await;
}

#[tokio::test]
async fn a_command_that_cannot_be_started_ends_the_worker_and_gives_the_job_back() {
    let (db, url) = scene().await;
    let mut worker = Worker::start_command(&url, &["--once"], &["/no/such/program"]);
    assert_eq!(worker.ended().await.code(), Some(1));
    let job = job(&db.pool, 1).await;
    let error = job.error.unwrap();
    assert_eq!(job.state, JobState::Queued);
    assert!(
        error.starts_with("cannot start /no/such/program"),
        "{error}"
    );
}

#[tokio::test]
async fn the_job_is_told_on_standard_input_in_a_file_and_in_variables() {
    let (db, url) = scene().await;
    let sql = "update driftd.retraining_jobs set parameters = '{\"rate\": 0.1}'";
    sqlx::query(sql).execute(&db.pool).await.unwrap();
    let script = format!(
        r#"cat > "$T/stdin"; cp "$DRIFTD_JOB_FILE" "$T/file"; env > "$T/env"
        printf '%s' "$DRIFTD_PARAMETERS" > "$T/parameters"; {RESULT}"#
    );
    let worker = Worker::once(&url, &script).await;
    let stdin: Value = serde_json::from_str(&worker.read("stdin")).unwrap();
    let file: Value = serde_json::from_str(&worker.read("file")).unwrap();
    assert_eq!(stdin, file);
    assert_eq!(stdin["schema"], "driftd.job/1");
    assert_eq!(
        (&stdin["model"], &stdin["parameters"]["rate"]),
        (&json!("m"), &json!(0.1))
    );
    let variables = worker.read("env");
    for line in ["DRIFTD_JOB_ID=1", "DRIFTD_ATTEMPT=1", "DRIFTD_MODEL=m"] {
        assert!(variables.lines().any(|found| found == line), "{line}");
    }
    assert_eq!(worker.read("parameters"), r#"{"rate":0.1}"#);
    assert!(
        !variables.contains("DRIFTD_TRIAL="),
        "what there is not is not set"
    );
}

/// The system starts no program with a variable beyond 128 KiB; a drift is always kept as a reason.
#[tokio::test]
async fn a_job_too_long_for_variables_is_in_its_file_all_the_same() {
    let (db, url) = scene().await;
    let sql = "update driftd.retraining_jobs set reasons = jsonb_build_array(repeat('x', 300000))";
    sqlx::query(sql).execute(&db.pool).await.unwrap();
    let script = format!(r#"wc -c < "$DRIFTD_JOB_FILE" > "$T/bytes"; {RESULT}"#);
    let worker = Worker::once(&url, &script).await;
    let bytes: u32 = worker.read("bytes").trim().parse().unwrap();
    assert!(bytes > 300_000);
    assert_eq!(job(&db.pool, 1).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn lines_are_kept_as_far_as_they_are_bounded() {
    let (db, url) = scene().await;
    let script = format!("echo to out; echo to err >&2; {RESULT}");
    Worker::once(&url, &script).await;
    let mut kept = lines(&db.pool).await;
    kept.sort();
    assert_eq!(kept, ["to err", "to out"]);

    let (db, url) = scene().await;
    let script = format!("head -c 20000 /dev/zero | tr '\\0' x; echo; seq 5000; {RESULT}");
    Worker::once(&url, &script).await;
    let kept = lines(&db.pool).await;
    assert_eq!(
        kept.last().unwrap(),
        "5000",
        "the last lines are the ones kept"
    );
    assert!(kept.iter().all(|line| line.len() <= 8192));
    let told = kept
        .iter()
        .filter_map(|line| {
            let rest = line.strip_prefix("... ")?;
            rest.strip_suffix(" lines are left out")?
                .parse::<usize>()
                .ok()
        })
        .sum::<usize>();
    let notes = kept
        .iter()
        .filter(|line| line.ends_with("left out"))
        .count();
    assert_eq!(
        kept.len() - notes + told,
        5003,
        "none is left out in silence"
    );
}

#[tokio::test]
async fn progress_is_told_and_what_cannot_be_kept_costs_no_lease() {
    let (db, url) = scene().await;
    let script = format!(
        r#"printf 'driftd: {{"progress": "\\u0000"}}\n'; touch "$T/said"; {WAIT}
        echo 'driftd: {{"progress": {{"epoch": 3}}}}'; rm "$T/go"; {WAIT}; {RESULT}"#
    );
    let mut worker = Worker::start(&url, &["--once", "--lease", "3s"], &script);
    until("a heartbeat fails", async || {
        worker.log().contains("a heartbeat failed")
    })
    .await;
    worker.go();
    until("progress is told", async || {
        job(&db.pool, 1).await.progress == Some(json!({"epoch": 3}))
    })
    .await;
    worker.go();
    assert!(worker.ended().await.success());
    assert_eq!(job(&db.pool, 1).await.state, JobState::Succeeded);
    assert_eq!(job(&db.pool, 1).await.attempt, 1);
}

#[tokio::test]
async fn a_job_that_is_cancelled_ends_with_all_its_processes() {
    let (db, url) = scene().await;
    let script = format!(
        r#"trap '' TERM; sleep 600 & echo $! > "$T/child"
        echo "$DRIFTD_RESULT_FILE" > "$T/result"; {WAIT}; {RESULT}"#
    );
    let mut worker = Worker::start(&url, &["--once", "--lease", "2s"], &script);
    let (child, shell) = (worker.pid("child").await, worker.pid("pid").await);
    jobs::cancel(&db.pool, 1, "jane").await.unwrap();
    gone(shell).await;
    gone(child).await;
    assert!(worker.ended().await.success());
    assert_eq!(job(&db.pool, 1).await.state, JobState::Cancelled);
    let result = worker.read("result");
    let directory = std::path::Path::new(result.trim()).parent().unwrap();
    assert!(!directory.exists(), "its files go with it");
}

#[tokio::test]
async fn a_grandchild_that_left_the_group_does_not_hold_the_worker_up() {
    let (db, url) = scene().await;
    let script = format!(
        r#"setsid sh -c 'echo $$ > "$T/stray"; exec sleep 600' & 
        while [ ! -s "$T/stray" ]; do sleep 0.05; done; {RESULT}"#
    );
    let worker = Worker::once(&url, &script).await;
    assert_eq!(job(&db.pool, 1).await.state, JobState::Succeeded);
    let stray = worker.read("stray");
    let killed = std::process::Command::new("kill")
        .arg(stray.trim())
        .status();
    assert!(killed.unwrap().success(), "it is not ours to end");
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_ends_its_command_and_says_nothing() {
    let (db, url) = scene().await;
    let script = format!("echo from the first; {WAIT}; {RESULT}");
    let mut worker = Worker::start(&url, &["--once", "--lease", "1s"], &script);
    let shell = worker.pid("pid").await;
    worker.signal("STOP");
    let mut second = None;
    until("another worker has the job", async || {
        second = claim(&db.pool).await;
        second.is_some()
    })
    .await;
    let second = second.unwrap();
    assert_eq!((second.job_id, second.attempt), (1, 2));
    worker.signal("CONT");
    gone(shell).await;
    assert!(worker.ended().await.success());
    let before = job(&db.pool, 1).await;
    assert_eq!(
        (before.state, before.worker.as_deref()),
        (JobState::Running, Some("worker"))
    );
    jobs::complete(&db.pool, &second, &json!({"version": "3"}))
        .await
        .unwrap();
    let events = jobs::events(&db.pool, 1).await.unwrap();
    let actors: Vec<&str> = events.iter().map(|event| event.actor.as_str()).collect();
    assert_eq!(actors, ["tester", "tester", "driftd", "worker", "worker"]);
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_gives_its_job_back() {
    let (db, url) = scene().await;
    let mut worker = Worker::start(&url, &[], &format!("{WAIT}; {RESULT}"));
    let shell = worker.pid("pid").await;
    worker.signal("TERM");
    assert!(worker.ended().await.success(), "{}", worker.log());
    gone(shell).await;
    let job = job(&db.pool, 1).await;
    assert_eq!(
        (job.state, job.error.as_deref()),
        (JobState::Queued, Some("the worker was stopped"))
    );
}

#[tokio::test]
async fn a_worker_that_waits_ends_when_told_to() {
    let (db, url) = scene().await;
    let mut worker = Worker::start(&url, &["--poll", "1h"], RESULT);
    listening(&db.pool, 1).await;
    worker.signal("TERM");
    assert!(worker.ended().await.success());
}

#[tokio::test]
async fn once_does_all_there_is_of_one_model_and_ends() {
    let (db, url) = scene().await;
    let other = enqueue(&db.pool, "other").await;
    let mut worker = Worker::start(&url, &["--once", "--model", "other"], RESULT);
    assert!(worker.ended().await.success());
    assert_eq!(job(&db.pool, 1).await.state, JobState::Queued);
    assert_eq!(job(&db.pool, other).await.state, JobState::Succeeded);
    enqueue(&db.pool, "third").await;
    let worker = Worker::once(&url, RESULT).await;
    assert!(
        worker.log().contains("jobs.completed=2"),
        "{}",
        worker.log()
    );
}

#[tokio::test]
async fn a_job_enqueued_later_wakes_the_worker_that_looks_once_an_hour() {
    let (db, url) = scene().await;
    let _worker = Worker::start(&url, &["--poll", "1h"], RESULT);
    ends(&db.pool, 1, JobState::Succeeded).await;
    listening(&db.pool, 1).await;
    let later = enqueue(&db.pool, "later").await;
    ends(&db.pool, later, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_postgres_that_is_gone_for_a_while_costs_no_training() {
    let server = Server::start(&[]);
    postgres::migrate(&server.pool()).await;
    enqueue(&server.pool(), "m").await;
    let script = format!("{WAIT}; {RESULT}");
    let options = ["--poll", "1h", "--lease", "60s"];
    let worker = Worker::start(&server.url(), &options, &script);
    let shell = worker.pid("pid").await;
    server.crash();
    worker.go();
    gone(shell).await;
    server.go();
    let pool = server.pool();
    ends(&pool, 1, JobState::Succeeded).await;
    assert_eq!(job(&pool, 1).await.attempt, 1);

    // Nor does the next job wait for an hour.
    listening(&pool, 1).await;
    server.crash();
    server.go();
    let pool = server.pool();
    let next = enqueue(&pool, "next").await;
    ends(&pool, next, JobState::Succeeded).await;
}
