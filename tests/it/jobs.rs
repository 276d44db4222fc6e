//! The queue of retraining jobs: claims, leases and how they end, and the command line.

use std::sync::Arc;

use clap::Parser;
use driftd::cli;
use driftd::store::jobs::{self, Heartbeat, JobState, Lease};
use driftd::store::{Error, SqlState, models, triggers};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::Barrier;

use crate::harness::postgres;
use crate::harness::queue::{claim, request};

/// As SHA-256 is written.
const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

async fn state(pool: &PgPool, job_id: i64) -> JobState {
    jobs::get(pool, job_id).await.unwrap().unwrap().state
}

/// What time would do: no test sleeps.
async fn expire(pool: &PgPool, job_id: i64) {
    let sql = "update driftd.retraining_jobs set lease_expires_at = now() - interval '1 s' \
               where job_id = $1";
    sqlx::query(sql).bind(job_id).execute(pool).await.unwrap();
}

async fn end_backoff(pool: &PgPool) {
    sqlx::query("update driftd.retraining_jobs set run_after = now()")
        .execute(pool)
        .await
        .unwrap();
}

fn refusal<T>(result: Result<T, Error>) -> SqlState {
    match result {
        Err(Error::Refused { state, .. }) => state,
        Err(other) => panic!("refused otherwise: {other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn a_job_goes_from_request_to_new_version() {
    let db = postgres::fresh().await;
    models::register(&db.pool, "m").await.unwrap();
    models::register_version(&db.pool, "m", "1", None)
        .await
        .unwrap();
    let job_id = request(&db.pool, "m").await.job_id.unwrap();
    let lease = claim(&db.pool).await.unwrap();
    assert_eq!((lease.job_id, lease.attempt), (job_id, 1));
    assert_eq!(claim(&db.pool).await, None, "it is taken");

    let progress = json!({"epoch": 3});
    let beat = jobs::heartbeat(&db.pool, &lease, Some(&progress))
        .await
        .unwrap();
    assert_eq!(beat, Heartbeat::Running);
    let result =
        json!({"version": "2", "training_data": {"sha256": DIGEST}, "artifact_uri": "s3://m/2"});
    jobs::complete(&db.pool, &lease, &result).await.unwrap();
    jobs::complete(&db.pool, &lease, &result).await.unwrap(); // the first answer was lost

    let job = jobs::get(&db.pool, job_id).await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.progress),
        (JobState::Succeeded, Some(progress))
    );
    let made = &models::list(&db.pool, Some("m")).await.unwrap()[0];
    assert_eq!((made.version.as_str(), made.job_id), ("2", Some(job_id)));
    assert_eq!(made.parent_version.as_deref(), Some("1"));
    assert_eq!(made.training_data_digest.as_deref(), Some(DIGEST));
    assert_eq!(made.artifact_uri.as_deref(), Some("s3://m/2"));

    let events = jobs::events(&db.pool, job_id).await.unwrap();
    let path: Vec<_> = events
        .iter()
        .map(|e| (e.to_state, e.actor.as_str()))
        .collect();
    let expected = [
        (JobState::Queued, "tester"),
        (JobState::Running, "worker"),
        (JobState::Succeeded, "worker"),
    ];
    assert_eq!(path, expected);
    assert_eq!(
        request(&db.pool, "m").await.outcome,
        "enqueued",
        "the model is free again"
    );
}

#[tokio::test]
async fn a_result_that_cannot_be_right_is_refused_and_the_job_goes_on() {
    let db = postgres::fresh().await;
    models::register(&db.pool, "m").await.unwrap();
    models::register_version(&db.pool, "m", "1", None)
        .await
        .unwrap();
    request(&db.pool, "m").await;
    let lease = claim(&db.pool).await.unwrap();
    for result in [
        json!([]),
        json!({"version": "1"}),
        json!({"version": "2", "baseline_id": "no"}),
    ] {
        let refused = refusal(jobs::complete(&db.pool, &lease, &result).await);
        assert_eq!(refused, SqlState::BadArgument, "{result}");
    }
    assert_eq!(state(&db.pool, lease.job_id).await, JobState::Running);
    jobs::complete(&db.pool, &lease, &json!({"version": "2"}))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_failed_attempt_is_tried_again_later_until_attempts_are_used_up() {
    let db = postgres::fresh().await;
    request(&db.pool, "m").await;
    for attempt in 1..=3 {
        let lease = claim(&db.pool).await.unwrap();
        assert_eq!(lease.attempt, attempt);
        let again = jobs::fail(&db.pool, &lease, "out of memory", true)
            .await
            .unwrap();
        assert_eq!(again, attempt < 3);
        assert_eq!(claim(&db.pool).await, None, "not before the backoff");
        let wait: f64 = sqlx::query_scalar(
            "select extract(epoch from run_after - now())::float8 from driftd.retraining_jobs",
        )
        .fetch_one(&db.pool)
        .await
        .unwrap();
        let longest = 30.0 * 2_f64.powi(attempt - 1);
        assert!(
            !again || (longest * 0.4..=longest).contains(&wait),
            "{wait} s"
        );
        if again {
            end_backoff(&db.pool).await;
        }
    }
    let job = &jobs::list(&db.pool, Some("m"), &[JobState::Failed], 10)
        .await
        .unwrap()[0];
    assert_eq!(job.error.as_deref(), Some("out of memory"));
}

#[tokio::test]
async fn a_failure_for_good_is_not_tried_again() {
    let db = postgres::fresh().await;
    request(&db.pool, "m").await;
    let lease = claim(&db.pool).await.unwrap();
    assert!(
        !jobs::fail(&db.pool, &lease, "no such table", false)
            .await
            .unwrap()
    );
    assert_eq!(state(&db.pool, lease.job_id).await, JobState::Failed);
}

#[tokio::test]
async fn an_expired_lease_goes_to_another_worker_and_the_first_is_refused() {
    let db = postgres::fresh().await;
    request(&db.pool, "m").await;
    let first = claim(&db.pool).await.unwrap();
    expire(&db.pool, first.job_id).await;
    let second = jobs::claim(&db.pool, "another", None, 60.0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((second.job_id, second.attempt), (first.job_id, 2));

    let stale = SqlState::StaleLease;
    assert_eq!(
        refusal(jobs::heartbeat(&db.pool, &first, None).await),
        stale
    );
    assert_eq!(
        refusal(jobs::complete(&db.pool, &first, &json!({})).await),
        stale
    );
    assert_eq!(
        refusal(jobs::fail(&db.pool, &first, "x", true).await),
        stale
    );
    let forged = Lease {
        token: uuid::Uuid::new_v4(),
        ..second
    };
    assert_eq!(
        refusal(jobs::complete(&db.pool, &forged, &json!({})).await),
        stale
    );
    jobs::complete(&db.pool, &second, &json!({"version": "2"}))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_lease_that_expired_unnoticed_is_still_its_workers() {
    let db = postgres::fresh().await;
    request(&db.pool, "m").await;
    let lease = claim(&db.pool).await.unwrap();
    expire(&db.pool, lease.job_id).await;
    // Nobody has taken the job since: nothing is gained by throwing the work away.
    assert_eq!(
        jobs::heartbeat(&db.pool, &lease, None).await.unwrap(),
        Heartbeat::Running
    );
    assert_eq!(jobs::return_expired_leases(&db.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn leases_that_expire_on_the_last_attempt_fail_the_job() {
    let db = postgres::fresh().await;
    request(&db.pool, "m").await;
    for attempt in 1..=3 {
        let lease = claim(&db.pool).await.unwrap();
        assert_eq!(lease.attempt, attempt);
        expire(&db.pool, lease.job_id).await;
        assert_eq!(jobs::return_expired_leases(&db.pool).await.unwrap(), 1);
    }
    let job = &jobs::list(&db.pool, None, &[], 10).await.unwrap()[0];
    assert_eq!(job.state, JobState::Failed);
    let error = job.error.as_deref().unwrap();
    assert!(
        error.starts_with("the lease of worker worker on attempt 3 of 3 expired"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cancelled_job_tells_its_trainer_and_cannot_be_completed() {
    let db = postgres::fresh().await;
    request(&db.pool, "m").await;
    let lease = claim(&db.pool).await.unwrap();
    jobs::cancel(&db.pool, lease.job_id, "jane").await.unwrap();
    jobs::cancel(&db.pool, lease.job_id, "jane").await.unwrap();
    assert_eq!(
        jobs::heartbeat(&db.pool, &lease, None).await.unwrap(),
        Heartbeat::Cancelled
    );
    let refused = refusal(jobs::complete(&db.pool, &lease, &json!({})).await);
    assert_eq!(refused, SqlState::WrongState);
    let events = jobs::events(&db.pool, lease.job_id).await.unwrap();
    assert_eq!(events.last().unwrap().actor, "jane");
    assert_eq!(events.len(), 3, "cancelling twice is one transition");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let db = postgres::fresh().await;
    let error = triggers::request(&db.pool, "nope", None, "me")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no model 'nope'; no model is known yet"
    );
    assert_eq!(
        refusal(jobs::cancel(&db.pool, 99, "me").await),
        SqlState::NoSuchJob
    );
    assert_eq!(
        refusal(jobs::claim(&db.pool, "", None, 60.0).await),
        SqlState::BadArgument
    );
    assert_eq!(
        refusal(jobs::claim(&db.pool, "w", None, 0.0).await),
        SqlState::BadArgument
    );
    request(&db.pool, "m").await;
    let lease = claim(&db.pool).await.unwrap();
    jobs::complete(&db.pool, &lease, &json!({"version": "2"}))
        .await
        .unwrap();
    let refused = refusal(jobs::cancel(&db.pool, lease.job_id, "me").await);
    assert_eq!(refused, SqlState::WrongState);
}

#[tokio::test]
async fn claimers_at_once_never_share_a_job() {
    let db = postgres::fresh().await;
    for model in ["a", "b", "c"] {
        request(&db.pool, model).await;
    }
    let start = Arc::new(Barrier::new(5));
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (pool, start) = (db.another_pool().await, start.clone());
        claimers.spawn(async move {
            start.wait().await;
            claim(&pool).await
        });
    }
    let mut claimed: Vec<i64> = claimers
        .join_all()
        .await
        .into_iter()
        .flatten()
        .map(|lease| lease.job_id)
        .collect();
    claimed.sort_unstable();
    assert_eq!(claimed, [1, 2, 3]);
}

#[tokio::test]
async fn a_worker_may_ask_for_one_model_only_and_priority_goes_first() {
    let db = postgres::fresh().await;
    for model in ["a", "b", "c"] {
        request(&db.pool, model).await;
    }
    let only = jobs::claim(&db.pool, "w", Some("c"), 60.0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(only.job_id, 3);
    sqlx::query("update driftd.retraining_jobs set priority = 5 where model = 'b'")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(claim(&db.pool).await.unwrap().job_id, 2);
}

/// `driftd jobs` as the command line has it.
#[derive(Parser)]
struct Jobs {
    #[command(flatten)]
    args: cli::jobs::Args,
}

async fn command(pool: &PgPool, line: &str) -> anyhow::Result<String> {
    let jobs = Jobs::try_parse_from(["jobs"].into_iter().chain(line.split(' ')))?;
    cli::jobs::answer(jobs.args, pool).await
}

#[tokio::test]
async fn the_command_line_lists_shows_requests_and_cancels() {
    let db = postgres::fresh().await;
    let run = async |line: &str| command(&db.pool, line).await.unwrap();
    assert_eq!(run("list").await, "no jobs\n");
    models::register(&db.pool, "m").await.unwrap();
    models::register_version(&db.pool, "m", "1", None)
        .await
        .unwrap();
    assert_eq!(run("request --model m --by jane").await, "enqueued job 1\n");
    let joined = run("request --model m --reason again --by joe").await;
    assert_eq!(joined, "joined job 1, which was open already\n");
    let lines: Vec<String> = run("list").await.lines().map(str::to_owned).collect();
    let row: Vec<&str> = lines[1].split_whitespace().take(7).collect();
    assert_eq!(
        row,
        ["1", "queued", "m", "1", "request", "0/3", "-"],
        "{lines:?}"
    );

    assert_eq!(run("cancel 1 --by jane").await, "job 1 is cancelled\n");
    assert_eq!(run("list --model m").await, "no jobs\n", "of the open ones");
    let listed: Value = serde_json::from_str(&run("list --all --output json").await).unwrap();
    assert_eq!(
        (&listed[0]["job_id"], &listed[0]["state"]),
        (&json!(1), &json!("cancelled"))
    );
    let shown = run("show 1").await;
    assert!(shown.contains("queued -> cancelled by jane"), "{shown}");
    assert!(shown.contains(r#""text":"again""#), "{shown}");
    let shown: Value = serde_json::from_str(&run("--output json show 1").await).unwrap();
    assert_eq!(shown["events"][1]["to_state"], "cancelled");

    let error = command(&db.pool, "show 7").await.unwrap_err().to_string();
    assert_eq!(error, "there is no job 7");
    let error = command(&db.pool, "request --model nope")
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "there is no model 'nope'; known: m");
}
