//! Searches for hyperparameters: a job in the state `searching` is given trials, each a job of its own
//! in the same queue, until its budget is spent; the best one's parameters are those of its own, last
//! training.
//!
//! What comes next follows from the search and what is stored of its trials (`search`), under
//! the parent's row lock: so it does not matter which replica plans, and a crash repeats or loses none.

use serde_json::{Map, Value, json};
use sqlx::{PgConnection, PgPool};

use super::Error;
use super::search::{self, Search, State, Trial};
use crate::store::trials::{self, Searching, TrialRow};
use crate::store::{self, jobs::JobState};

/// Plans all searches that are under way: the trials that there is room for, or the end. Answers how
/// many trials were enqueued.
///
/// # Errors
/// When the database cannot be asked. What was not done is done by the next call.
pub async fn plan(pool: &PgPool) -> Result<usize, Error> {
    let mut enqueued = 0;
    for job_id in trials::searching(pool).await? {
        let mut transaction = pool.begin().await.map_err(store::Error::from)?;
        if let Some(job) = trials::lock(&mut transaction, job_id).await? {
            enqueued += plan_one(&mut transaction, &job).await?;
        }
        transaction.commit().await.map_err(store::Error::from)?;
    }
    Ok(enqueued)
}

async fn plan_one(connection: &mut PgConnection, job: &Searching) -> store::Result<usize> {
    let mut search = match Search::parse(&job.search) {
        Ok(search) => search,
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let error = format!("its search cannot be used: {}", problems.join("; "));
            trials::fail(connection, job.job_id, &error).await?;
            return Ok(0);
        }
    };
    // A search that names no seed is still the same one after a crash.
    search.seed = search.seed.or_else(|| u64::try_from(job.job_id).ok());
    let rows = trials::of(connection, job.job_id).await?;
    let mut history: Vec<Trial> = rows.iter().map(|row| trial(row, &search)).collect();
    let mut enqueued = 0;
    while room(&history, &search) {
        let number = next_number(&history);
        let Some(parameters) = search::suggest(&search, &history, number) else {
            break;
        };
        let whole = with(&job.parameters, &parameters);
        trials::enqueue(connection, job.job_id, number, &whole).await?;
        history.push(Trial {
            number,
            parameters,
            state: State::Running,
        });
        enqueued += 1;
    }
    if !history.iter().any(|trial| trial.state == State::Running) {
        end(connection, job, &search, &history).await?;
    }
    Ok(enqueued)
}

/// The search is over: the job is trained with the best parameters, or there are none.
async fn end(
    connection: &mut PgConnection,
    job: &Searching,
    search: &Search,
    history: &[Trial],
) -> store::Result<()> {
    let Some(best) = search::best(search, history) else {
        let error = format!("none of {} trials came to an end", history.len());
        return trials::fail(connection, job.job_id, &error).await;
    };
    let objective = match best.state {
        State::Done { objective } => objective,
        _ => f64::NAN, // the best is always done
    };
    let found = json!({
        "trials": history.len(),
        "best_trial": best.number,
        &search.objective.name: objective,
    });
    let parameters = with(&job.parameters, &best.parameters);
    tracing::info!(
        job.id = job.job_id,
        trials = history.len(),
        best.trial = best.number,
        objective,
        "a search for hyperparameters is over"
    );
    trials::finish(connection, job.job_id, &parameters, &found).await
}

fn room(history: &[Trial], search: &Search) -> bool {
    let open = history.iter().filter(|t| t.state == State::Running).count();
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    open < count(search.parallel) && history.len() < count(search.total())
}

fn next_number(history: &[Trial]) -> u32 {
    let last = history.iter().map(|trial| trial.number).max();
    last.map_or(0, |last| last.saturating_add(1))
}

fn trial(row: &TrialRow, search: &Search) -> Trial {
    let state = match (row.state, row.pruned, row.objective) {
        (JobState::Succeeded, false, Some(objective)) => State::Done { objective },
        (JobState::Succeeded, true, objective) => State::Pruned {
            last: row.last_value.or(objective).unwrap_or(f64::NAN),
        },
        (JobState::Succeeded | JobState::Failed | JobState::Cancelled, ..) => State::Failed,
        _ => State::Running,
    };
    let mut parameters = row.parameters.as_object().cloned().unwrap_or_default();
    parameters.retain(|name, _| search.space.contains_key(name));
    Trial {
        number: u32::try_from(row.trial).unwrap_or_default(),
        parameters,
        state,
    }
}

/// The policy's parameters with those of a trial over them.
fn with(parameters: &Value, tried: &Map<String, Value>) -> Value {
    let mut whole = parameters.as_object().cloned().unwrap_or_default();
    whole.extend(tried.clone());
    Value::Object(whole)
}
