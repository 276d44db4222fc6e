//! A search for hyperparameters from its first trial to the version: planned, run, pruned, failed,
//! cancelled, crashed.

use std::collections::BTreeSet;

use driftd::retrain::trials::plan;
use driftd::store::jobs::{self, Claimed, Job, JobState};
use driftd::store::{Error, SqlState, models, trials};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::postgres;
use crate::harness::queue::search;

async fn job(pool: &PgPool, job_id: i64) -> Job {
    jobs::get(pool, job_id).await.unwrap().unwrap()
}

async fn claim(pool: &PgPool) -> Option<Claimed> {
    jobs::claim_document(pool, "trainer", None, 60.0)
        .await
        .unwrap()
}

/// Trials of a search: number, state, parameters.
async fn of(pool: &PgPool, job_id: i64) -> Vec<trials::TrialRow> {
    trials::of(&mut pool.acquire().await.unwrap(), job_id)
        .await
        .unwrap()
}

fn grid() -> Value {
    json!({"method": "grid", "trials": 10, "parallel": 3,
        "space": {"depth": {"type": "int", "low": 2, "high": 3},
            "kernel": {"type": "categorical", "choices": ["linear", "rbf"]}},
        "objective": {"name": "loss", "goal": "minimize"}})
}

fn floats(method: &str, trials: u32) -> Value {
    json!({"method": method, "trials": trials, "parallel": 3,
        "space": {"rate": {"type": "float", "low": 0.0, "high": 1.0}},
        "objective": {"name": "auc", "goal": "maximize"}, "seed": 7})
}

/// Runs what there is as a trainer would; answers how many.
async fn run_trials(pool: &PgPool, objective: impl Fn(&Value) -> f64) -> usize {
    let mut done = 0;
    while let Some(claimed) = claim(pool).await {
        assert!(
            claimed.document["trial"].is_object(),
            "{}",
            claimed.document
        );
        let value = objective(&claimed.document["parameters"]);
        let result = json!({"objective": value});
        jobs::complete(pool, &claimed.lease, &result).await.unwrap();
        done += 1;
    }
    done
}

/// Plans and runs until the search is over; answers the batches' sizes.
async fn search_through(
    pool: &PgPool,
    job_id: i64,
    objective: impl Fn(&Value) -> f64,
) -> Vec<usize> {
    let mut batches = Vec::new();
    loop {
        let planned = plan(pool).await.unwrap();
        if job(pool, job_id).await.state != JobState::Searching {
            return batches;
        }
        assert_eq!(run_trials(pool, &objective).await, planned);
        batches.push(planned);
    }
}

#[tokio::test]
async fn a_grid_is_searched_through_and_the_best_is_trained() {
    let db = postgres::fresh().await;
    let parent = search(&db.pool, "m", &grid(), 3).await;
    assert_eq!(job(&db.pool, parent).await.state, JobState::Searching);
    assert_eq!(
        claim(&db.pool).await,
        None,
        "a job that searches is not claimed"
    );
    let batches = search_through(&db.pool, parent, |parameters| {
        let rbf = f64::from(u8::from(parameters["kernel"] == "rbf"));
        parameters["depth"].as_f64().unwrap() - 2.0 * rbf
    })
    .await;
    assert_eq!(batches, [3, 1]);
    let tried: BTreeSet<String> = of(&db.pool, parent)
        .await
        .iter()
        .map(|t| t.parameters.to_string())
        .collect();
    assert_eq!(tried.len(), 4, "{tried:?}");

    let found = job(&db.pool, parent).await;
    let best = json!({"given": 1, "depth": 2, "kernel": "rbf"});
    assert_eq!((found.state, &found.parameters), (JobState::Queued, &best));
    let reason = &found.reasons[1];
    assert_eq!(
        (&reason["kind"], &reason["loss"]),
        (&json!("search"), &json!(0.0))
    );
    let last = claim(&db.pool).await.unwrap();
    assert_eq!(
        (last.lease.job_id, &last.document["parameters"]),
        (parent, &best)
    );
    let result = json!({"version": "2", "metrics": {"loss": 0.0}});
    jobs::complete(&db.pool, &last.lease, &result)
        .await
        .unwrap();
    let made = &models::list(&db.pool, Some("m")).await.unwrap()[0];
    assert_eq!((&made.version, &made.parameters), (&"2".to_owned(), &best));
    assert_eq!(plan(&db.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn drawn_searches_keep_to_their_budget_and_to_what_may_run_at_once() {
    for (method, trials) in [("random", 7), ("tpe", 12)] {
        let db = postgres::fresh().await;
        let parent = search(&db.pool, "m", &floats(method, trials), 3).await;
        let objective =
            |parameters: &Value| 1.0 - (parameters["rate"].as_f64().unwrap() - 0.3).abs();
        let batches = search_through(&db.pool, parent, objective).await;
        assert!(batches.iter().all(|batch| *batch <= 3), "{batches:?}");
        assert_eq!(
            batches.iter().sum::<usize>(),
            usize::try_from(trials).unwrap()
        );
        let tried = of(&db.pool, parent).await;
        let best = tried
            .iter()
            .max_by(|a, b| a.objective.unwrap().total_cmp(&b.objective.unwrap()));
        assert_eq!(
            job(&db.pool, parent).await.parameters,
            best.unwrap().parameters,
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_trial_below_the_median_is_pruned_and_cannot_win() {
    let db = postgres::fresh().await;
    let mut wanted = floats("random", 3);
    wanted["pruner"] = json!({"type": "median", "min_trials": 2, "min_step": 1});
    let parent = search(&db.pool, "m", &wanted, 3).await;
    plan(&db.pool).await.unwrap();
    for (values, last) in [
        ([0.1, 0.8], "continue"),
        ([0.2, 0.9], "continue"),
        ([0.0, 0.7], "prune"),
    ] {
        let lease = claim(&db.pool).await.unwrap().lease;
        let first = jobs::report_trial(&db.pool, &lease, 0, values[0])
            .await
            .unwrap();
        assert_eq!(first, "continue", "before the first step that counts");
        let answer = jobs::report_trial(&db.pool, &lease, 1, values[1])
            .await
            .unwrap();
        assert_eq!(answer, last);
        let nan = jobs::report_trial(&db.pool, &lease, 2, f64::NAN).await;
        assert!(matches!(
            nan,
            Err(Error::Refused {
                state: SqlState::BadArgument,
                ..
            })
        ));
        let pruned = answer == "prune";
        let result = if pruned {
            json!({"pruned": true})
        } else {
            json!({"objective": values[1]})
        };
        jobs::complete(&db.pool, &lease, &result).await.unwrap();
    }
    plan(&db.pool).await.unwrap();
    let tried = of(&db.pool, parent).await;
    assert_eq!((tried[2].pruned, tried[2].last_value), (true, Some(0.7)));
    assert_eq!(job(&db.pool, parent).await.parameters, tried[1].parameters);
}

#[tokio::test]
async fn failed_trials_are_passed_over() {
    let db = postgres::fresh().await;
    let parent = search(&db.pool, "m", &grid(), 1).await;
    plan(&db.pool).await.unwrap();
    let first = claim(&db.pool).await.unwrap();
    jobs::fail(&db.pool, &first.lease, "no memory", true)
        .await
        .unwrap();
    let second = claim(&db.pool).await.unwrap();
    jobs::cancel(&db.pool, second.lease.job_id, "jane")
        .await
        .unwrap();
    assert_eq!(run_trials(&db.pool, |_| 1.0).await, 1);
    search_through(&db.pool, parent, |_| 1.0).await;
    let found = job(&db.pool, parent).await;
    assert_eq!(
        (found.state, &found.reasons[1]["best_trial"]),
        (JobState::Queued, &json!(2))
    );
}

#[tokio::test]
async fn a_search_without_any_result_fails_and_can_be_tried_again() {
    let db = postgres::fresh().await;
    let parent = search(&db.pool, "m", &grid(), 1).await;
    for _ in 0..2 {
        plan(&db.pool).await.unwrap();
        while let Some(claimed) = claim(&db.pool).await {
            jobs::fail(&db.pool, &claimed.lease, "no memory", true)
                .await
                .unwrap();
        }
    }
    plan(&db.pool).await.unwrap();
    let failed = job(&db.pool, parent).await;
    assert_eq!(failed.state, JobState::Failed);
    assert_eq!(
        failed.error.as_deref(),
        Some("none of 4 trials came to an end")
    );

    assert_eq!(
        jobs::retry(&db.pool, parent, "jane").await.unwrap(),
        "searching"
    );
    assert_eq!(
        plan(&db.pool).await.unwrap(),
        0,
        "the same trials, no others"
    );
    assert_eq!(run_trials(&db.pool, |_| 1.0).await, 4);
    plan(&db.pool).await.unwrap();
    assert_eq!(job(&db.pool, parent).await.state, JobState::Queued);
}

#[tokio::test]
async fn cancelling_a_search_cancels_its_trials() {
    let db = postgres::fresh().await;
    let parent = search(&db.pool, "m", &grid(), 3).await;
    plan(&db.pool).await.unwrap();
    let running = claim(&db.pool).await.unwrap();
    jobs::cancel(&db.pool, parent, "jane").await.unwrap();
    assert_eq!(plan(&db.pool).await.unwrap(), 0);
    assert_eq!(claim(&db.pool).await, None);
    let told = jobs::report_trial(&db.pool, &running.lease, 1, 0.5)
        .await
        .unwrap();
    assert_eq!(told, "cancelled");
    let trials = of(&db.pool, parent).await;
    assert_eq!(trials.len(), 3);
    assert!(
        trials
            .iter()
            .all(|trial| trial.state == JobState::Cancelled)
    );
}

#[tokio::test]
async fn planners_that_die_or_meet_repeat_and_lose_nothing() {
    let db = postgres::fresh().await;
    let parent = search(&db.pool, "m", &floats("tpe", 12), 3).await;
    let mut dying = db.pool.begin().await.unwrap();
    trials::lock(&mut dying, parent).await.unwrap().unwrap();
    trials::enqueue(&mut dying, parent, 0, &json!({"rate": 0.5}))
        .await
        .unwrap();
    assert_eq!(plan(&db.pool).await.unwrap(), 0, "another replica plans it");
    drop(dying);
    let other = db.another_pool().await;
    let mut planned = 0;
    while job(&db.pool, parent).await.state == JobState::Searching {
        let (one, two) = tokio::join!(plan(&db.pool), plan(&other));
        planned += one.unwrap() + two.unwrap();
        run_trials(&db.pool, |parameters| parameters["rate"].as_f64().unwrap()).await;
        if claim(&db.pool).await.is_some() {
            panic!("nothing but trials is claimed before the end");
        }
        if planned == 12 {
            plan(&db.pool).await.unwrap();
        }
    }
    let numbers: Vec<i32> = of(&db.pool, parent).await.iter().map(|t| t.trial).collect();
    assert_eq!(numbers, (0..12).collect::<Vec<_>>());
    assert_eq!(planned, 12);
}

/// What a trial of [`grid`] cannot be completed with, and what is said of it.
const WRONG: &[(&str, &str)] = &[
    (
        r#"{"objective": 1, "parameters": {"depth": 9}}"#,
        "parameters.depth is 9, outside its space from 2 to 3",
    ),
    (
        r#"{"objective": 1, "parameters": {"depth": 2.5}}"#,
        "parameters.depth is 2.5, not a whole number",
    ),
    (
        r#"{"objective": 1, "parameters": {"depth": "2"}}"#,
        "parameters.depth is \"2\", not a number",
    ),
    (
        r#"{"objective": 1, "parameters": {"kernel": "x"}}"#,
        "parameters.kernel is \"x\", none of [\"linear\", \"rbf\"]",
    ),
    (
        r#"{}"#,
        "a trial is completed with its objective, a number; or with {\"pruned\": true} after report_trial has answered so",
    ),
    (
        r#"{"objective": "1"}"#,
        "result.objective is string, not number",
    ),
    // A planner that could not read it would stand still for ever.
    (
        r#"{"objective": 1e999}"#,
        "a number of the result is beyond double precision",
    ),
    (
        r#"{"objective": 1, "parameters": {"depth": 1e999}}"#,
        "outside its space from 2 to 3",
    ),
];

#[tokio::test]
async fn what_a_trial_cannot_say_is_refused_and_it_goes_on() {
    let db = postgres::fresh().await;
    search(&db.pool, "m", &grid(), 3).await;
    plan(&db.pool).await.unwrap();
    let lease = claim(&db.pool).await.unwrap().lease;
    for (result, message) in WRONG {
        let sql = "select driftd.complete_job($1, $2, $3, $4::jsonb)";
        let said = sqlx::query(sql)
            .bind(lease.job_id)
            .bind(lease.attempt)
            .bind(lease.token)
            .bind(*result)
            .execute(&db.pool)
            .await
            .map_err(Error::doing("complete a trial"));
        let error = said.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Refused {
                    state: SqlState::BadArgument,
                    ..
                }
            ),
            "{}",
            error.chain()
        );
        assert!(error.to_string().ends_with(*message), "{result}: {error}");
        assert_eq!(job(&db.pool, lease.job_id).await.state, JobState::Running);
    }
    jobs::complete(&db.pool, &lease, &json!({"objective": 1}))
        .await
        .unwrap();
}
