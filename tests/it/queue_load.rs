//! Ten thousand jobs and fifty workers: each job is run once, and no limit is passed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use driftd::store;
use driftd::store::jobs::{self, Lease};
use secrecy::SecretString;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::postgres::{self, TestDb};

const WORKERS: usize = 50;
const CONNECTIONS: u32 = 16;

/// Notes with each claim how many jobs run then, in all and of its model: claims under a limit come one
/// after the other, so each sees those before it.
const WATCH: &str = "create table harness.seen (running bigint, of_model bigint);
    create function harness.see() returns trigger language plpgsql as $$
    begin
        insert into harness.seen select count(*), count(*) filter (where model = new.model)
        from driftd.retraining_jobs where state = 'running';
        return null;
    end $$;
    create trigger see after update on driftd.retraining_jobs for each row
        when (new.state = 'running' and old.state = 'queued') execute function harness.see();";

async fn enqueue(pool: &PgPool, jobs: u32) {
    let sql = format!(
        "insert into driftd.models (model) select 'm' || n from generate_series(1, {jobs}) n;
        insert into driftd.retraining_jobs (model, reasons, max_attempts)
        select 'm' || n, '[]', 3 from generate_series(1, {jobs}) n;
        analyze driftd.retraining_jobs"
    );
    pool.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// Claims and completes until there is nothing more; answers what was claimed.
async fn work(pool: PgPool) -> Vec<Lease> {
    let mut done = Vec::new();
    loop {
        match jobs::claim(&pool, "w", None, 600.0).await.unwrap() {
            Some(lease) => {
                let result = json!({"version": "1", "objective": 0.5});
                jobs::complete(&pool, &lease, &result).await.unwrap();
                done.push(lease);
            }
            None if open(&pool).await == 0 => return done,
            None => tokio::task::yield_now().await, // the limit, or others have the last ones
        }
    }
}

async fn open(pool: &PgPool) -> i64 {
    let sql = "select count(*) from driftd.retraining_jobs where state in ('queued', 'running')";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Seconds of CPU that the server has spent for the sessions of a pool.
async fn server_cpu(pool: &PgPool) -> f64 {
    let sql = "select pid from pg_stat_activity where datname = current_database()";
    let pids: Vec<i32> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    let ticks: u32 = pids
        .iter()
        .map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<u32> = stat
                .split(' ')
                .skip(13)
                .take(2)
                .filter_map(|f| f.parse().ok())
                .collect();
            fields.iter().sum::<u32>()
        })
        .sum();
    f64::from(ticks) / 100.0
}

/// All workers at once; each job is run once, none is lost.
async fn run_all(db: &TestDb, jobs: usize) {
    let pool = store::connect(&SecretString::from(db.url.clone()), CONNECTIONS)
        .await
        .unwrap();
    let (start, begun) = (Arc::new(Barrier::new(WORKERS)), Instant::now());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (pool, start) = (pool.clone(), start.clone());
        workers.spawn(async move {
            start.wait().await;
            work(pool).await
        });
    }
    let leases: Vec<Lease> = workers.join_all().await.into_iter().flatten().collect();
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = f64::from(u32::try_from(jobs).unwrap()) / seconds;
    let cpu = server_cpu(&pool).await;
    println!(
        "{jobs} jobs, {WORKERS} workers: {per_second:.0} jobs/s in {seconds:.1} s, {cpu:.1} s of the server's CPU"
    );
    let claimed: BTreeSet<i64> = leases.iter().map(|lease| lease.job_id).collect();
    assert_eq!((leases.len(), claimed.len()), (jobs, jobs), "each once");
    let sql = "select count(*) from (select array_agg(to_state::text order by event_id) as path \
        from driftd.retraining_job_events group by job_id) p \
        where path = '{queued,running,succeeded}'";
    let right: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(usize::try_from(right).unwrap(), jobs);
}

async fn seen(pool: &PgPool) -> (i64, i64) {
    let sql = "select max(running), max(of_model) from harness.seen";
    sqlx::query_as(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_jobs_are_each_run_once() {
    let db = postgres::fresh().await;
    enqueue(&db.pool, 10_000).await;
    run_all(&db, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_jobs_run_than_may() {
    let db = postgres::fresh().await;
    enqueue(&db.pool, 1000).await;
    db.pool.execute(WATCH).await.unwrap();
    jobs::set_limits(&db.pool, Some(10), None).await.unwrap();
    run_all(&db, 1000).await;
    let (running, _) = seen(&db.pool).await;
    assert!(running <= 10, "{running}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_trials_of_a_model_run_than_may() {
    let db = postgres::fresh().await;
    let sql = "insert into driftd.models (model) select 'm' || n from generate_series(1, 20) n;
        with parents as (
            insert into driftd.retraining_jobs (model, reasons, max_attempts, state, search)
            select 'm' || n, '[]', 3, 'searching', '{}' from generate_series(1, 20) n
            returning job_id, model)
        insert into driftd.retraining_jobs (model, reasons, max_attempts, parent_job_id, trial)
        select model, '[]', 3, job_id, trial from parents, generate_series(0, 19) trial;";
    db.pool.execute(sql).await.unwrap();
    db.pool.execute(WATCH).await.unwrap();
    jobs::set_limits(&db.pool, None, Some(2)).await.unwrap();
    run_all(&db, 400).await;
    let (running, of_model) = seen(&db.pool).await;
    assert!(of_model <= 2, "{of_model} of one model, {running} in all");
    assert!(running > 2, "only {running} at a time");
}
