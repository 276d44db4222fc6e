//! The queue against a small automaton: whatever several workers and people do in whatever order, the
//! database answers, refuses and notes as the automaton does.

use driftd::store::jobs::{self, Heartbeat, Lease};
use driftd::store::{self, Error, SqlState};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::postgres;

/// Attempts that a job has.
const ATTEMPTS: i32 = 2;

/// What somebody does. Numbers choose among the jobs and leases that there have been, newest first.
#[derive(Debug, Clone, Copy)]
enum Step {
    Enqueue {
        approval: bool,
    },
    Claim,
    ReturnExpired,
    /// What time does: a lease runs out, a backoff ends.
    Expire,
    EndBackoff,
    Heartbeat(usize),
    Complete {
        lease: usize,
        version: bool,
    },
    Fail {
        lease: usize,
        retry: bool,
    },
    Cancel(usize),
    Approve(usize),
    Retry(usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly the newest; there are others, and none.
    let one = || prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2), 1 => Just(99)];
    prop_oneof![
        3 => any::<bool>().prop_map(|approval| Step::Enqueue { approval }),
        5 => Just(Step::Claim),
        1 => Just(Step::ReturnExpired),
        3 => Just(Step::Expire),
        2 => Just(Step::EndBackoff),
        2 => one().prop_map(Step::Heartbeat),
        2 => (one(), any::<bool>()).prop_map(|(lease, version)| Step::Complete { lease, version }),
        3 => (one(), any::<bool>()).prop_map(|(lease, retry)| Step::Fail { lease, retry }),
        2 => one().prop_map(Step::Cancel),
        2 => one().prop_map(Step::Approve),
        2 => one().prop_map(Step::Retry),
    ]
}

/// A job as the automaton has it.
#[derive(Debug, Clone)]
struct Model {
    job_id: i64,
    state: &'static str,
    attempt: i32,
    max_attempts: i32,
    /// The lease that is answered.
    holder: Option<Lease>,
    due: bool,
    expired: bool,
    path: Vec<String>,
}

type Answer = Result<String, SqlState>;

impl Model {
    fn go(&mut self, state: &'static str) {
        self.path.push(format!("{}>{state}", self.state));
        self.state = state;
    }

    fn is_open(&self) -> bool {
        ["awaiting_approval", "queued", "running"].contains(&self.state)
    }

    fn queue(&mut self) {
        self.go("queued");
        (self.due, self.holder) = (true, None);
    }

    fn expire(&mut self) -> bool {
        let ran_out = self.state == "running" && self.expired;
        if ran_out && self.attempt < self.max_attempts {
            self.queue();
        } else if ran_out {
            self.go("failed");
            self.holder = None;
        }
        ran_out
    }

    fn heartbeat(&mut self, lease: Lease) -> Answer {
        if self.holder != Some(lease) {
            return Err(SqlState::StaleLease);
        }
        match self.state {
            "running" => {
                self.expired = false;
                Ok("running".into())
            }
            "cancelled" => Ok("cancelled".into()),
            _ => Err(SqlState::WrongState),
        }
    }

    fn complete(&mut self, lease: Lease, version: bool) -> Answer {
        match self.state {
            _ if self.holder != Some(lease) => return Err(SqlState::StaleLease),
            "succeeded" => {}
            "running" if !version => return Err(SqlState::BadArgument),
            "running" => self.go("succeeded"),
            _ => return Err(SqlState::WrongState),
        }
        Ok("succeeded".into())
    }

    fn fail(&mut self, lease: Lease, retry: bool) -> Answer {
        match self.state {
            _ if self.holder != Some(lease) => return Err(SqlState::StaleLease),
            "failed" => {}
            "running" if retry && self.attempt < self.max_attempts => {
                self.queue();
                self.due = false;
            }
            "running" => self.go("failed"),
            _ => return Err(SqlState::WrongState),
        }
        Ok(self.state.into())
    }

    fn cancel(&mut self) -> Answer {
        match self.state {
            "succeeded" | "failed" => return Err(SqlState::WrongState),
            "cancelled" => {}
            _ => self.go("cancelled"),
        }
        Ok("cancelled".into())
    }

    fn approve(&mut self) -> Answer {
        match self.state {
            "awaiting_approval" => self.queue(),
            "queued" | "running" => {}
            _ => return Err(SqlState::WrongState),
        }
        Ok(self.state.into())
    }

    fn retry(&mut self, other_is_open: bool) -> Answer {
        if !["failed", "cancelled"].contains(&self.state) || other_is_open {
            return Err(SqlState::WrongState);
        }
        self.max_attempts = self.attempt + ATTEMPTS;
        self.queue();
        Ok("queued".into())
    }
}

/// One case: a model of its own, its jobs in both worlds, and every lease there was.
struct Case<'a> {
    pool: &'a PgPool,
    model: String,
    jobs: Vec<Model>,
    leases: Vec<Lease>,
    versions: u32,
}

fn answer<T>(result: Result<T, Error>, text: impl FnOnce(T) -> String) -> Answer {
    match result {
        Ok(value) => Ok(text(value)),
        Err(Error::Refused { state, .. }) => Err(state),
        Err(other) => panic!("{}", other.chain()),
    }
}

impl Case<'_> {
    fn lease(&self, back: usize) -> Lease {
        let forged = Lease {
            job_id: self.jobs.last().map_or(i64::MAX, |job| job.job_id),
            attempt: 1,
            token: Uuid::nil(),
        };
        self.leases
            .iter()
            .rev()
            .nth(back)
            .copied()
            .unwrap_or(forged)
    }

    /// The automaton's job; `None`: no such job.
    fn of(&mut self, job_id: i64) -> Option<&mut Model> {
        self.jobs.iter_mut().find(|job| job.job_id == job_id)
    }

    fn job_id(&self, back: usize) -> i64 {
        let job = self.jobs.iter().rev().nth(back);
        job.map_or(i64::MAX, |job| job.job_id)
    }

    /// Does a step in both worlds: what the database answers, and what the automaton does.
    async fn take(&mut self, step: Step) -> (Answer, Answer) {
        match step {
            Step::Enqueue { approval } => self.enqueue(approval).await,
            Step::Claim => self.claim().await,
            Step::ReturnExpired => {
                let found = jobs::return_expired_leases(self.pool).await;
                let expected: usize = self
                    .jobs
                    .iter_mut()
                    .map(|job| usize::from(job.expire()))
                    .sum();
                (answer(found, |n| n.to_string()), Ok(expected.to_string()))
            }
            Step::Expire => {
                self.pass("lease_expires_at = now() - interval '1 s'", "running")
                    .await
            }
            Step::EndBackoff => self.pass("run_after = now()", "queued").await,
            Step::Heartbeat(_) | Step::Complete { .. } | Step::Fail { .. } => self.work(step).await,
            Step::Cancel(_) | Step::Approve(_) | Step::Retry(_) => self.order(step).await,
        }
    }

    async fn enqueue(&mut self, approval: bool) -> (Answer, Answer) {
        let policy = json!({"approval": if approval { "required" } else { "none" }, "max_attempts": ATTEMPTS});
        let sql = "select outcome, job_id from driftd.trigger_retraining(kind => 'request', model => $1, policy => $2)";
        let (outcome, job_id): (String, i64) = sqlx::query_as(sql)
            .bind(&self.model)
            .bind(policy)
            .fetch_one(self.pool)
            .await
            .unwrap();
        let open = self.jobs.iter().any(Model::is_open);
        if !open {
            let state = if approval {
                "awaiting_approval"
            } else {
                "queued"
            };
            self.jobs.push(Model {
                job_id,
                state,
                attempt: 0,
                max_attempts: ATTEMPTS,
                holder: None,
                due: true,
                expired: false,
                path: vec![format!(">{state}")],
            });
        }
        let expected = if open { "joined" } else { "enqueued" };
        (Ok(outcome), Ok(expected.into()))
    }

    async fn claim(&mut self) -> (Answer, Answer) {
        let found = jobs::claim(self.pool, "w", Some(&self.model), 3600.0)
            .await
            .unwrap();
        for job in &mut self.jobs {
            job.expire();
        }
        let due = self
            .jobs
            .iter_mut()
            .find(|job| job.state == "queued" && job.due);
        let expected = due.map(|job| {
            job.go("running");
            job.attempt += 1;
            (job.holder, job.expired) = (found, false);
            (job.job_id, job.attempt)
        });
        self.leases.extend(found);
        let found = found.map(|lease| (lease.job_id, lease.attempt));
        (Ok(format!("{found:?}")), Ok(format!("{expected:?}")))
    }

    async fn pass(&mut self, set: &str, state: &str) -> (Answer, Answer) {
        let sql = format!(
            "update driftd.retraining_jobs set {set} where model = $1 and state = '{state}'"
        );
        let sql = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&self.model);
        sql.execute(self.pool).await.unwrap();
        for job in self.jobs.iter_mut().filter(|job| job.state == state) {
            (job.expired, job.due) = (job.expired || state == "running", true);
        }
        (Ok(String::new()), Ok(String::new()))
    }

    async fn work(&mut self, step: Step) -> (Answer, Answer) {
        let (Step::Heartbeat(back)
        | Step::Complete { lease: back, .. }
        | Step::Fail { lease: back, .. }) = step
        else {
            panic!("{step:?}");
        };
        let lease = self.lease(back);
        self.versions += 1;
        let result = json!({"version": format!("v{}", self.versions)});
        let found = match step {
            Step::Complete { version, .. } => {
                let result = if version { result } else { json!({}) };
                answer(jobs::complete(self.pool, &lease, &result).await, |()| {
                    "succeeded".into()
                })
            }
            Step::Fail { retry, .. } => {
                let failed = jobs::fail(self.pool, &lease, "x", retry).await;
                answer(failed, |again| {
                    if again { "queued" } else { "failed" }.into()
                })
            }
            _ => answer(jobs::heartbeat(self.pool, &lease, None).await, |beat| {
                if beat == Heartbeat::Running {
                    "running"
                } else {
                    "cancelled"
                }
                .into()
            }),
        };
        let expected = match (self.of(lease.job_id), step) {
            (None, _) => Err(SqlState::NoSuchJob),
            (Some(job), Step::Complete { version, .. }) => job.complete(lease, version),
            (Some(job), Step::Fail { retry, .. }) => job.fail(lease, retry),
            (Some(job), _) => job.heartbeat(lease),
        };
        (found, expected)
    }

    async fn order(&mut self, step: Step) -> (Answer, Answer) {
        let (Step::Cancel(back) | Step::Approve(back) | Step::Retry(back)) = step else {
            panic!("{step:?}");
        };
        let job_id = self.job_id(back);
        let open = self
            .jobs
            .iter()
            .any(|job| job.job_id != job_id && job.is_open());
        let job = self.of(job_id);
        let (found, expected) = match step {
            Step::Cancel(_) => {
                let expected = job.map(Model::cancel);
                let found = jobs::cancel(self.pool, job_id, "jane").await;
                (answer(found, |()| "cancelled".into()), expected)
            }
            Step::Approve(_) => {
                let expected = job.map(Model::approve);
                (
                    answer(jobs::approve(self.pool, job_id, "jane").await, |s| s),
                    expected,
                )
            }
            _ => {
                let expected = job.map(|job| job.retry(open));
                (
                    answer(jobs::retry(self.pool, job_id, "jane").await, |s| s),
                    expected,
                )
            }
        };
        (found, expected.unwrap_or(Err(SqlState::NoSuchJob)))
    }

    async fn go(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            let (found, expected) = self.take(*step).await;
            if found != expected {
                return Err(format!("{step:?}: {found:?}, not {expected:?}"));
            }
            let compared = self.compare().await;
            compared.map_err(|wrong| format!("{step:?}: {wrong}"))?;
        }
        Ok(())
    }

    /// Where every job stands and how it came there: each transition from where the one before led.
    async fn compare(&self) -> Result<(), String> {
        let sql = "select j.job_id, j.state::text, j.attempt, j.max_attempts, array( \
                select coalesce(e.from_state::text, '') || '>' || e.to_state::text \
                from driftd.retraining_job_events e where e.job_id = j.job_id order by e.event_id) \
            from driftd.retraining_jobs j where j.model = $1 order by j.job_id";
        let found: Vec<(i64, String, i32, i32, Vec<String>)> = sqlx::query_as(sql)
            .bind(&self.model)
            .fetch_all(self.pool)
            .await
            .unwrap();
        let expected: Vec<_> = self
            .jobs
            .iter()
            .map(|job| {
                let state = job.state.to_owned();
                (
                    job.job_id,
                    state,
                    job.attempt,
                    job.max_attempts,
                    job.path.clone(),
                )
            })
            .collect();
        let open = self.jobs.iter().filter(|job| job.is_open()).count();
        match found == expected && open <= 1 {
            true => Ok(()),
            false => Err(format!("found {found:?}\nexpected {expected:?}")),
        }
    }
}

async fn run(pool: &PgPool, steps: &[Step]) -> Result<(), String> {
    let mut case = Case {
        pool,
        model: Uuid::new_v4().to_string(),
        jobs: Vec::new(),
        leases: Vec::new(),
        versions: 0,
    };
    let done = case.go(steps).await;
    // Leases that run out are looked for in all models: the next case has none of these.
    let sql = "update driftd.retraining_jobs set state = 'cancelled', finished_at = now() \
               where model = $1 and finished_at is null";
    let cancel = sqlx::query(sql).bind(&case.model).execute(pool).await;
    done.and(cancel.map(|_| ()).map_err(|error| error.to_string()))
}

#[test]
fn the_queue_does_what_a_small_automaton_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(postgres::fresh());
    // One session: a refusal is told before its locks are gone, and a claim passes over what another
    // session has locked.
    let url = SecretString::from(db.url);
    let pool = runtime.block_on(store::connect(&url, 1)).unwrap();
    let config = Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    };
    let case = |steps: Vec<Step>| {
        let done = runtime.block_on(run(&pool, &steps));
        done.map_err(TestCaseError::fail)
    };
    let outcome = TestRunner::new(config).run(&vec(step(), 1..40), case);
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
