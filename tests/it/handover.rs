//! Jobs that go to an orchestrator by HTTP: what is asked of each, and that no run is doubled,
//! whatever is lost or restarted on the way.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use driftd::clock::Clock;
use driftd::retrain::handover;
use driftd::settings::Settings;
use driftd::store::jobs::{self, Heartbeat, Job, JobState, Lease};
use driftd::store::models;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{any, method, path, path_regex};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::harness::postgres::{self, TestDb};
use crate::harness::queue::{claim, request};
use crate::harness::until;

const AIRFLOW: &str =
    "preset = 'airflow3'\ntoken = 'sesame-token'\nparameters.dag_id = 'retrain'\n";
const RUNS: &str = "/api/v2/dags/retrain/dagRuns";

/// An orchestrator that keeps one run per id, as Airflow, Argo and Kubernetes do.
#[derive(Clone)]
struct Orchestrator {
    runs: Arc<Mutex<BTreeSet<String>>>,
    starts: Arc<AtomicUsize>,
    state: Arc<Mutex<String>>,
    /// So many replies to starts come too late.
    late: usize,
}

impl Orchestrator {
    fn new(state: &str) -> Self {
        Self {
            runs: Arc::default(),
            starts: Arc::default(),
            state: Arc::new(Mutex::new(state.to_owned())),
            late: 0,
        }
    }

    fn runs(&self) -> Vec<String> {
        self.runs.lock().unwrap().iter().cloned().collect()
    }

    fn become_(&self, state: &str) {
        state.clone_into(&mut self.state.lock().unwrap());
    }

    async fn serve(&self) -> MockServer {
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(self.clone())
            .mount(&server)
            .await;
        server
    }
}

impl Respond for Orchestrator {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        match request.method.as_str() {
            "POST" => {
                let id = body(request)["dag_run_id"].as_str().unwrap().to_owned();
                let new = self.runs.lock().unwrap().insert(id);
                let before = self.starts.fetch_add(1, Ordering::SeqCst);
                let reply =
                    ResponseTemplate::new(if new { 200 } else { 409 }).set_body_json(json!({}));
                match before < self.late {
                    true => reply.set_delay(Duration::from_secs(60)),
                    false => reply,
                }
            }
            "PATCH" => ResponseTemplate::new(200).set_body_json(json!({})),
            _ => {
                let state = self.state.lock().unwrap().clone();
                ResponseTemplate::new(200).set_body_json(json!({ "state": state }))
            }
        }
    }
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// `[[handovers]]` with times for tests.
fn settings(entry: &str) -> Settings {
    let tables = entry.find("\n[").map_or(entry.len(), |at| at + 1);
    let (keys, tables) = entry.split_at(tables);
    let text = format!(
        "kafka.brokers = 'k:9092'\npostgres.url = 'postgres://u@h/d'\n[[handovers]]\nname = 'h'\nmodel = 'm'\n\
         timeout = '2s'\nbackoff = '10ms'\nallow_private = ['127.0.0.1/32']\n{keys}\n{tables}"
    );
    Settings::from_toml(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn at(server: &MockServer, entry: &str) -> Settings {
    let quick = match entry.contains("status") {
        true => "",
        false => "status.interval = '10ms'\n",
    };
    settings(&format!(
        "parameters.base_url = '{}'\n{quick}{entry}",
        server.uri()
    ))
}

/// A daemon as far as hand-overs go.
struct Daemon {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), handover::Error>>,
}

impl Daemon {
    fn start(pool: &PgPool, settings: &Settings) -> Self {
        Self::start_at(pool, settings, Arc::new(Clock::System))
    }

    fn start_at(pool: &PgPool, settings: &Settings, clock: Arc<Clock>) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let all = settings.handovers.clone().into();
        tasks.spawn(handover::run(pool.clone(), all, clock, stop.clone()));
        Self { stop, tasks }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    /// As kill -9 would: nothing is told to anybody.
    async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn job(pool: &PgPool, job_id: i64) -> Job {
    jobs::get(pool, job_id).await.unwrap().unwrap()
}

async fn enqueue(db: &TestDb) -> i64 {
    request(&db.pool, "m").await.job_id.unwrap()
}

/// Waits for the end of the job.
async fn ended(db: &TestDb, job_id: i64) -> Job {
    until("the job has ended", async || {
        job(&db.pool, job_id).await.finished_at.is_some()
    })
    .await;
    job(&db.pool, job_id).await
}

/// A job from request to end.
async fn through(db: &TestDb, settings: &Settings) -> Job {
    let job_id = enqueue(db).await;
    let daemon = Daemon::start(&db.pool, settings);
    let job = ended(db, job_id).await;
    daemon.stop().await;
    job
}

async fn progress_is(pool: &PgPool, job_id: i64, state: &str) {
    until(state, async || {
        job(pool, job_id)
            .await
            .progress
            .is_some_and(|p| p["state"] == state)
    })
    .await;
}

async fn sql(pool: &PgPool, sql: &'static str) {
    sqlx::query(sql).execute(pool).await.unwrap();
}

/// So that a job is no reason against another one.
const OLD: &str = "update driftd.retraining_jobs set created_at = now() - interval '9 d'";

/// What time would do: no test sleeps.
async fn expire(pool: &PgPool) {
    sql(
        pool,
        "update driftd.retraining_jobs set lease_expires_at = now() - interval '1 s'",
    )
    .await;
}

/// Requests but those after the run's state.
async fn requests(server: &MockServer, method: &str) -> Vec<Request> {
    let all = server.received_requests().await.unwrap();
    all.into_iter()
        .filter(|r| r.method.as_str() == method)
        .collect()
}

fn replies(status: u16, body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

/// One job through a preset; answers what started it, and all that was asked.
async fn through_preset(
    entry: &str,
    start: ResponseTemplate,
    status_path: &str,
    status: Value,
) -> (Request, Job) {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(start)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path(status_path))
        .respond_with(replies(200, &status))
        .mount(&server)
        .await;
    let job = through(&db, &at(&server, entry)).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.error);
    let mut starts = requests(&server, "POST").await;
    assert_eq!(starts.len(), 1);
    let start = starts.remove(0);
    assert_eq!(header(&start, "authorization"), "Bearer sesame-token");
    assert_eq!(header(&start, "content-type"), "application/json");
    assert_eq!(header(&start, "idempotency-key"), "driftd-job-1-1");
    let asked = requests(&server, "GET").await;
    assert!(
        asked
            .iter()
            .all(|r| header(r, "authorization") == "Bearer sesame-token")
    );
    (start, job)
}

#[tokio::test]
async fn airflow_2_is_asked_as_its_documentation_says() {
    let entry = AIRFLOW.replace("airflow3", "airflow2");
    let runs = "/api/v1/dags/retrain/dagRuns";
    let (start, _) = through_preset(
        &entry,
        replies(
            200,
            &json!({"dag_run_id": "driftd-job-1-1", "state": "queued"}),
        ),
        &format!("{runs}/driftd-job-1-1"),
        json!({"state": "success"}),
    )
    .await;
    assert_eq!(start.url.path(), runs);
    let body = body(&start);
    assert_eq!(body["dag_run_id"], "driftd-job-1-1");
    assert_eq!(
        (
            &body["conf"]["driftd"]["job_id"],
            &body["conf"]["driftd"]["model"]
        ),
        (&json!(1), &json!("m"))
    );
    assert!(
        body.get("logical_date").is_none() && body["conf"]["driftd"].get("lease_token").is_none()
    );
}

#[tokio::test]
async fn airflow_3_is_asked_as_its_documentation_says() {
    let (start, job) = through_preset(
        AIRFLOW,
        replies(200, &json!({"state": "queued"})),
        &format!("{RUNS}/driftd-job-1-1"),
        json!({"state": "success"}),
    )
    .await;
    assert_eq!(start.url.path(), RUNS);
    let body = body(&start);
    assert_eq!(body["dag_run_id"], "driftd-job-1-1");
    assert_eq!(
        body.get("logical_date"),
        Some(&Value::Null),
        "there, and null"
    );
    assert_eq!(
        job.result.unwrap(),
        json!({"handover": "h", "run_id": "driftd-job-1-1", "version": "driftd-job-1-1"})
    );
}

#[tokio::test]
async fn argo_is_asked_as_its_documentation_says() {
    let (start, _) = through_preset(
        "preset = 'argo'\ntoken = 'sesame-token'\nparameters.namespace = 'ml'\nparameters.template = 'retrain'\n",
        replies(200, &json!({"metadata": {"name": "driftd-job-1-1"}})),
        "/api/v1/workflows/ml/driftd-job-1-1",
        json!({"status": {"phase": "Succeeded"}}),
    )
    .await;
    assert_eq!(start.url.path(), "/api/v1/workflows/ml/submit");
    let body = body(&start);
    assert_eq!(
        (&body["resourceKind"], &body["resourceName"]),
        (&json!("WorkflowTemplate"), &json!("retrain"))
    );
    assert_eq!(body["submitOptions"]["name"], "driftd-job-1-1");
    let parameter = body["submitOptions"]["parameters"][0].as_str().unwrap();
    let job: Value = serde_json::from_str(parameter.strip_prefix("driftd=").unwrap()).unwrap();
    assert_eq!(job["model"], "m");
}

#[tokio::test]
async fn kubeflow_is_asked_as_its_documentation_says() {
    let (start, job) = through_preset(
        "preset = 'kubeflow'\ntoken = 'sesame-token'\nparameters.pipeline_id = 'p-1'\n",
        replies(200, &json!({"run_id": "8f2c", "state": "PENDING"})),
        "/apis/v2beta1/runs/8f2c",
        json!({"run_id": "8f2c", "state": "SUCCEEDED"}),
    )
    .await;
    assert_eq!(start.url.path(), "/apis/v2beta1/runs");
    let body = body(&start);
    assert_eq!(body["display_name"], "driftd-job-1-1");
    assert_eq!(body["pipeline_version_reference"]["pipeline_id"], "p-1");
    assert_eq!(body["runtime_config"]["parameters"]["driftd"]["job_id"], 1);
    assert_eq!(job.result.unwrap()["run_id"], "8f2c");
}

#[tokio::test]
async fn github_is_asked_as_its_documentation_says() {
    let (start, _) = through_preset(
        "preset = 'github'\ntoken = 'sesame-token'\nparameters.repository = 'o/r'\nparameters.workflow = 'retrain.yml'\n",
        replies(200, &json!({"workflow_run_id": 77})),
        "/repos/o/r/actions/runs/77",
        json!({"status": "completed", "conclusion": "success"}),
    )
    .await;
    assert_eq!(
        start.url.path(),
        "/repos/o/r/actions/workflows/retrain.yml/dispatches"
    );
    assert_eq!(header(&start, "accept"), "application/vnd.github+json");
    assert_eq!(header(&start, "x-github-api-version"), "2022-11-28");
    assert!(header(&start, "user-agent").starts_with("driftd/"));
    let body = body(&start);
    assert_eq!(
        (&body["ref"], &body["return_run_details"]),
        (&json!("main"), &json!(true))
    );
    assert_eq!(body["inputs"]["driftd_run"], "driftd-job-1-1");
    let job: Value = serde_json::from_str(body["inputs"]["driftd_job"].as_str().unwrap()).unwrap();
    assert_eq!(job["model"], "m");
}

#[tokio::test]
async fn a_github_that_names_no_run_is_looked_through_for_it() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    let runs = "/repos/o/r/actions/workflows/w.yml/runs";
    let none = replies(
        200,
        &json!({"workflow_runs": [{"id": 1, "display_title": "other"}]}),
    );
    Mock::given(path(runs))
        .respond_with(none)
        .up_to_n_times(2)
        .mount(&server)
        .await;
    let ours = json!({"workflow_runs": [{"id": 1, "display_title": "other"}, {"id": 9, "display_title": "driftd-job-1-1"}]});
    Mock::given(path(runs))
        .respond_with(replies(200, &ours))
        .mount(&server)
        .await;
    let done = replies(200, &json!({"conclusion": "success"}));
    Mock::given(path("/repos/o/r/actions/runs/9"))
        .respond_with(done)
        .mount(&server)
        .await;
    let entry = "preset = 'github'\nparameters.repository = 'o/r'\nparameters.workflow = 'w.yml'\n";
    let job = through(&db, &at(&server, entry)).await;
    assert_eq!(job.result.unwrap()["run_id"], "9");
    assert_eq!(requests(&server, "POST").await.len(), 1);
}

#[tokio::test]
async fn kubernetes_is_asked_as_its_documentation_says() {
    let condition = |kind| json!({"type": kind, "status": "True"});
    let (start, _) = through_preset(
        "preset = 'kubernetes'\ntoken = 'sesame-token'\nparameters.namespace = 'ml'\nparameters.image = 'r.example.com/t:1'\n",
        replies(201, &json!({"metadata": {"name": "driftd-job-1-1"}})),
        "/apis/batch/v1/namespaces/ml/jobs/driftd-job-1-1",
        json!({"status": {"conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}}),
    )
    .await;
    assert_eq!(start.url.path(), "/apis/batch/v1/namespaces/ml/jobs");
    let body = body(&start);
    assert_eq!(
        (&body["apiVersion"], &body["kind"]),
        (&json!("batch/v1"), &json!("Job"))
    );
    assert_eq!(body["metadata"]["name"], "driftd-job-1-1");
    let pod = &body["spec"]["template"]["spec"];
    assert_eq!(
        (&body["spec"]["backoffLimit"], &pod["restartPolicy"]),
        (&json!(0), &json!("Never"))
    );
    assert_eq!(pod["containers"][0]["image"], "r.example.com/t:1");
    let job = pod["containers"][0]["env"][0]["value"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(job).unwrap()["model"], "m");
}

#[tokio::test]
async fn a_reply_that_comes_too_late_makes_no_second_run() {
    let db = postgres::fresh().await;
    let mut orchestrator = Orchestrator::new("success");
    orchestrator.late = 2;
    let server = orchestrator.serve().await;
    let mut settings = at(&server, AIRFLOW);
    settings.handovers[0].timeout = Duration::from_millis(300);
    let job = through(&db, &settings).await;
    assert_eq!(
        (job.state, job.attempt),
        (JobState::Succeeded, 1),
        "{:?}",
        job.error
    );
    let starts = requests(&server, "POST").await;
    assert!(starts.len() >= 3, "two were lost");
    assert!(
        starts
            .iter()
            .all(|r| header(r, "idempotency-key") == "driftd-job-1-1" && r.body == starts[0].body)
    );
    assert_eq!(orchestrator.runs(), ["driftd-job-1-1"]);
}

/// Answers nothing to the first request, 409 to the next start, and `success` to everything else.
async fn drops_the_first(listener: TcpListener, starts: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        while !is_whole(&seen) {
            let read = stream.read(&mut chunk).await.unwrap();
            if read == 0 {
                break;
            }
            seen.extend_from_slice(&chunk[..read]);
        }
        let post = seen.starts_with(b"POST");
        if post && starts.fetch_add(1, Ordering::SeqCst) == 0 {
            continue; // the run is there; the connection is closed without a word
        }
        let (status, body) = if post {
            ("409 Conflict", "{}")
        } else {
            ("200 OK", "{\"state\":\"success\"}")
        };
        let length = body.len();
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

fn is_whole(seen: &[u8]) -> bool {
    let text = String::from_utf8_lossy(seen);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length:")
            .map(|l| l.trim().parse::<usize>().unwrap())
    });
    body.len() >= length.unwrap_or(0)
}

#[tokio::test]
async fn a_connection_that_drops_before_the_reply_makes_no_second_run() {
    let db = postgres::fresh().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let starts = Arc::new(AtomicUsize::new(0));
    let mut servers = JoinSet::new();
    servers.spawn(drops_the_first(listener, Arc::clone(&starts)));
    let entry = settings(&format!(
        "parameters.base_url = '{url}'\nstatus.interval = '10ms'\n{AIRFLOW}"
    ));
    let job = through(&db, &entry).await;
    assert_eq!(
        (job.state, job.attempt),
        (JobState::Succeeded, 1),
        "{:?}",
        job.error
    );
    assert_eq!(starts.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn where_ids_are_not_ours_a_lost_run_is_found_by_its_name() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    let late = replies(200, &json!({"run_id": "a"})).set_delay(Duration::from_secs(60));
    Mock::given(method("POST"))
        .respond_with(late)
        .mount(&server)
        .await;
    let list = json!({"runs": [{"run_id": "z", "display_name": "x"}, {"run_id": "a", "display_name": "driftd-job-1-1"}]});
    Mock::given(path("/apis/v2beta1/runs"))
        .and(method("GET"))
        .respond_with(replies(200, &list))
        .mount(&server)
        .await;
    let done = replies(200, &json!({"state": "SUCCEEDED"}));
    Mock::given(path("/apis/v2beta1/runs/a"))
        .respond_with(done)
        .mount(&server)
        .await;
    let mut settings = at(
        &server,
        "preset = 'kubeflow'\nparameters.pipeline_id = 'p'\n",
    );
    settings.handovers[0].timeout = Duration::from_millis(300);
    let job = through(&db, &settings).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.error);
    assert_eq!(
        requests(&server, "POST").await.len(),
        1,
        "found, not started anew"
    );
    assert_eq!(job.result.unwrap()["run_id"], "a");
}

#[tokio::test]
async fn errors_of_the_server_are_waited_out_under_the_same_key() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    for reply in [
        ResponseTemplate::new(500),
        ResponseTemplate::new(503).insert_header("retry-after", "0"),
        ResponseTemplate::new(429).insert_header("retry-after", "1"),
        ResponseTemplate::new(408),
    ] {
        Mock::given(method("POST"))
            .respond_with(reply)
            .up_to_n_times(1)
            .mount(&server)
            .await;
    }
    Mock::given(any())
        .respond_with(Orchestrator::new("success"))
        .mount(&server)
        .await;
    let job = through(&db, &at(&server, AIRFLOW)).await;
    assert_eq!(
        (job.state, job.attempt),
        (JobState::Succeeded, 1),
        "{:?}",
        job.error
    );
    let starts = requests(&server, "POST").await;
    assert_eq!(starts.len(), 5);
    assert!(
        starts
            .iter()
            .all(|r| header(r, "idempotency-key") == "driftd-job-1-1")
    );
}

#[tokio::test]
async fn a_refusal_fails_the_job_for_good_and_says_why_without_secrets() {
    for status in [400, 401, 403, 404, 422] {
        let db = postgres::fresh().await;
        let server = MockServer::start().await;
        let echo = format!("no {} for sesame-token and key-sesame", "x".repeat(600));
        let echo = format!("sesame-token {echo}");
        Mock::given(any())
            .respond_with(ResponseTemplate::new(status).set_body_string(echo))
            .mount(&server)
            .await;
        let entry = format!("{AIRFLOW}headers.X-Key = 'key-sesame'\n");
        let job = through(&db, &at(&server, &entry)).await;
        let error = job.error.unwrap();
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1), "{error}");
        assert!(
            error.contains(&format!("127.0.0.1 answered {status}: [redacted] no xxx")),
            "{error}"
        );
        assert!(error.len() < 600 && !error.contains("sesame"), "{error}");
        assert_eq!(requests(&server, "POST").await.len(), 1);
    }
}

#[tokio::test]
async fn other_refusals_may_be_tried_again_under_a_new_name() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    let refused = ResponseTemplate::new(402);
    Mock::given(method("POST"))
        .respond_with(refused)
        .up_to_n_times(1)
        .mount(&server)
        .await;
    let orchestrator = Orchestrator::new("success");
    Mock::given(any())
        .respond_with(orchestrator.clone())
        .mount(&server)
        .await;
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &at(&server, AIRFLOW));
    until("it is queued again", async || {
        job(&db.pool, job_id).await.error.is_some()
    })
    .await;
    sql(
        &db.pool,
        "update driftd.retraining_jobs set run_after = now()",
    )
    .await;
    let job = ended(&db, job_id).await;
    daemon.stop().await;
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 2));
    assert_eq!(orchestrator.runs(), ["driftd-job-1-2"]);
}

#[tokio::test]
async fn a_failed_run_is_followed_by_a_new_one_of_another_name() {
    let db = postgres::fresh().await;
    let orchestrator = Orchestrator::new("failed");
    let server = orchestrator.serve().await;
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &at(&server, AIRFLOW));
    until("the first run has failed", async || {
        job(&db.pool, job_id).await.error.is_some()
    })
    .await;
    let error = job(&db.pool, job_id).await.error.unwrap();
    assert_eq!(error, "run driftd-job-1-1 of hand-over h ended as failed");
    orchestrator.become_("success");
    sql(
        &db.pool,
        "update driftd.retraining_jobs set run_after = now()",
    )
    .await;
    let job = ended(&db, job_id).await;
    daemon.stop().await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(orchestrator.runs(), ["driftd-job-1-1", "driftd-job-1-2"]);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let db = postgres::fresh().await;
    let (server, elsewhere) = (MockServer::start().await, MockServer::start().await);
    for status in [302, 307] {
        let redirect = ResponseTemplate::new(status).insert_header("location", elsewhere.uri());
        Mock::given(any())
            .respond_with(redirect)
            .up_to_n_times(1)
            .mount(&server)
            .await;
        let job = through(&db, &at(&server, AIRFLOW)).await;
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
        assert!(job.error.unwrap().contains(&format!("answered {status}")));
        sql(&db.pool, OLD).await;
    }
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn private_addresses_are_reached_only_with_leave() {
    let server = Orchestrator::new("success").serve().await;
    let port = server.address().port();
    for (url, allowed) in [
        (format!("http://127.0.0.1:{port}"), "10.0.0.0/8"),
        (format!("http://localhost:{port}"), "10.0.0.0/8"),
        (format!("https://localhost:{port}"), "10.0.0.0/8"),
        (format!("https://[::ffff:127.0.0.1]:{port}"), "10.0.0.0/8"),
        (format!("https://2130706433:{port}"), "10.0.0.0/8"),
        ("http://192.0.2.1".to_owned(), "127.0.0.1/32"),
        ("http://1.1.1.1".to_owned(), "127.0.0.1/32"),
    ] {
        let db = postgres::fresh().await;
        let entry = format!("parameters.base_url = '{url}'\n{AIRFLOW}");
        let mut settings = settings(&entry);
        settings.handovers[0].allow_private = vec![allowed.parse().unwrap()];
        let job = through(&db, &settings).await;
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1), "{url}");
        let error = job.error.unwrap();
        assert!(error.contains("allow_private"), "{url}: {error}");
    }
    assert!(server.received_requests().await.unwrap().is_empty());
    // With leave, by name as well.
    let db = postgres::fresh().await;
    let by_name = settings(&format!(
        "parameters.base_url = 'http://localhost:{port}'\nstatus.interval = '10ms'\n{AIRFLOW}"
    ));
    assert_eq!(through(&db, &by_name).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn an_answer_without_end_is_read_no_further_than_it_has_to_be() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    let start = replies(200, &json!({"run_id": "a"}));
    Mock::given(method("POST"))
        .respond_with(start)
        .mount(&server)
        .await;
    let huge = format!(
        "{{\"state\": \"SUCCEEDED\", \"more\": \"{}\"}}",
        "x".repeat(1 << 20)
    );
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(200).set_body_string(huge))
        .mount(&server)
        .await;
    let entry = "preset = 'kubeflow'\nparameters.pipeline_id = 'p'\n";
    let job = through(&db, &at(&server, entry)).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    assert!(job.error.unwrap().contains("is not known"));
    assert_eq!(requests(&server, "GET").await.len(), 5);
}

#[tokio::test]
async fn a_cancelled_job_cancels_its_run() {
    let db = postgres::fresh().await;
    let server = Orchestrator::new("running").serve().await;
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &at(&server, &format!("lease = '1s'\n{AIRFLOW}")));
    progress_is(&db.pool, job_id, "running").await;
    jobs::cancel(&db.pool, job_id, "tester").await.unwrap();
    until("it was let go", async || {
        job(&db.pool, job_id).await.lease_expires_at.is_none()
    })
    .await;
    daemon.stop().await;
    let cancels = requests(&server, "PATCH").await;
    assert_eq!(cancels.len(), 1);
    assert_eq!(cancels[0].url.path(), format!("{RUNS}/driftd-job-1-1"));
    assert_eq!(body(&cancels[0]), json!({"state": "failed"}));
    assert_eq!(job(&db.pool, job_id).await.state, JobState::Cancelled);
}

#[tokio::test]
async fn a_job_cancelled_while_no_daemon_runs_cancels_its_run_later() {
    let db = postgres::fresh().await;
    let server = Orchestrator::new("running").serve().await;
    let job_id = enqueue(&db).await;
    let settings = at(&server, AIRFLOW);
    let daemon = Daemon::start(&db.pool, &settings);
    progress_is(&db.pool, job_id, "running").await;
    daemon.stop().await;
    jobs::cancel(&db.pool, job_id, "tester").await.unwrap();
    let daemon = Daemon::start(&db.pool, &settings);
    until("it was let go", async || {
        job(&db.pool, job_id).await.lease_expires_at.is_none()
    })
    .await;
    daemon.stop().await;
    assert_eq!(requests(&server, "PATCH").await.len(), 1);
    assert_eq!(requests(&server, "POST").await.len(), 1);
}

#[tokio::test]
async fn without_its_lease_a_hand_over_says_nothing_more() {
    let db = postgres::fresh().await;
    let orchestrator = Orchestrator::new("running");
    let server = orchestrator.serve().await;
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &at(&server, &format!("lease = '1s'\n{AIRFLOW}")));
    progress_is(&db.pool, job_id, "running").await;
    let other = loop {
        expire(&db.pool).await;
        if let Some(lease) = claim(&db.pool).await {
            break lease;
        }
    };
    orchestrator.become_("success");
    daemon.stop().await;
    let after = job(&db.pool, job_id).await;
    assert_eq!(
        (after.state, after.worker.as_deref()),
        (JobState::Running, Some("worker"))
    );
    assert_eq!(
        (after.progress, after.error.is_some()),
        (None, true),
        "the error is the expiry's"
    );
    assert_eq!(
        jobs::heartbeat(&db.pool, &other, None).await.unwrap(),
        Heartbeat::Running
    );
    assert!(
        requests(&server, "PATCH").await.is_empty(),
        "its run is the other's now"
    );
}

#[tokio::test]
async fn a_daemon_that_stops_leaves_its_run_to_the_next_one() {
    let db = postgres::fresh().await;
    let orchestrator = Orchestrator::new("running");
    let server = orchestrator.serve().await;
    let job_id = enqueue(&db).await;
    let settings = at(&server, AIRFLOW);
    for _ in 0..3 {
        let daemon = Daemon::start(&db.pool, &settings);
        progress_is(&db.pool, job_id, "running").await;
        let asked = server.received_requests().await.unwrap().len();
        until("this one follows it", async || {
            server.received_requests().await.unwrap().len() > asked
        })
        .await;
        daemon.stop().await;
        let left = job(&db.pool, job_id).await;
        assert_eq!((left.state, left.attempt), (JobState::Running, 1));
    }
    orchestrator.become_("success");
    let daemon = Daemon::start(&db.pool, &settings);
    let job = ended(&db, job_id).await;
    daemon.stop().await;
    assert_eq!(
        (job.state, job.attempt),
        (JobState::Succeeded, 1),
        "restarts use up no attempts"
    );
    assert_eq!(requests(&server, "POST").await.len(), 1);
}

#[tokio::test]
async fn a_daemon_that_dies_for_longer_than_the_lease_makes_no_second_run() {
    let db = postgres::fresh().await;
    let orchestrator = Orchestrator::new("running");
    let server = orchestrator.serve().await;
    let job_id = enqueue(&db).await;
    let settings = at(&server, AIRFLOW);
    let daemon = Daemon::start(&db.pool, &settings);
    progress_is(&db.pool, job_id, "running").await;
    daemon.kill().await;
    expire(&db.pool).await;
    orchestrator.become_("success");
    let daemon = Daemon::start(&db.pool, &settings);
    let job = ended(&db, job_id).await;
    daemon.stop().await;
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 2));
    assert_eq!(requests(&server, "POST").await.len(), 2, "asked again");
    assert_eq!(orchestrator.runs(), ["driftd-job-1-1"], "and found");
}

#[tokio::test]
async fn a_daemon_that_dies_before_the_reply_makes_no_second_run() {
    let db = postgres::fresh().await;
    let mut orchestrator = Orchestrator::new("success");
    orchestrator.late = 1;
    let server = orchestrator.serve().await;
    let job_id = enqueue(&db).await;
    let settings = at(&server, AIRFLOW);
    let daemon = Daemon::start(&db.pool, &settings);
    until("the run is there", async || !orchestrator.runs().is_empty()).await;
    daemon.stop().await;
    let daemon = Daemon::start(&db.pool, &settings);
    let job = ended(&db, job_id).await;
    daemon.stop().await;
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1));
    assert_eq!(orchestrator.runs(), ["driftd-job-1-1"]);
}

#[tokio::test]
async fn of_two_replicas_one_hands_a_job_over() {
    let db = postgres::fresh().await;
    let orchestrator = Orchestrator::new("running");
    let server = orchestrator.serve().await;
    let settings = at(&server, AIRFLOW);
    let pool = db.another_pool().await;
    let daemons = [
        Daemon::start(&db.pool, &settings),
        Daemon::start(&pool, &settings),
    ];
    let job_id = enqueue(&db).await;
    progress_is(&db.pool, job_id, "running").await;
    orchestrator.become_("success");
    let job = ended(&db, job_id).await;
    for daemon in daemons {
        daemon.stop().await;
    }
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1));
    assert_eq!(requests(&server, "POST").await.len(), 1);
}

#[tokio::test]
async fn a_run_may_complete_its_job_itself() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(replies(200, &json!({})))
        .mount(&server)
        .await;
    let entry = format!(
        "url = '{}/hook'\nlease = '1s'\nsigning_key = 'sesame-key'\n\
         body = '{{\"job\": {{{{ job }}}}, \"attempt\": {{{{ attempt }}}}, \"token\": \"{{{{ lease_token }}}}\"}}'\n",
        server.uri()
    );
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &settings(&entry));
    progress_is(&db.pool, job_id, "started").await;
    let start = requests(&server, "POST").await.remove(0);
    let told = body(&start);
    let lease = Lease {
        job_id: told["job"]["job_id"].as_i64().unwrap(),
        attempt: 1,
        token: told["token"].as_str().unwrap().parse().unwrap(),
    };
    jobs::complete(&db.pool, &lease, &json!({"version": "2"}))
        .await
        .unwrap();
    let done = ended(&db, job_id).await;
    daemon.stop().await;
    assert_eq!(done.result.unwrap(), json!({"version": "2"}));
    assert_eq!(
        models::list(&db.pool, Some("m")).await.unwrap()[0].version,
        "2"
    );
    let (time, signature) = (
        header(&start, "x-driftd-timestamp"),
        header(&start, "x-driftd-signature"),
    );
    assert!(time.parse::<i64>().is_ok() && signature.len() == 67 && signature.starts_with("v1="));
}

#[tokio::test]
async fn an_attempt_with_a_new_lease_cancels_the_run_of_the_old_one() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(replies(200, &json!({})))
        .mount(&server)
        .await;
    let entry = format!(
        "url = '{0}/hook'\nbody = '{{\"id\": \"{{{{ run_id }}}}\", \"token\": \"{{{{ lease_token }}}}\"}}'\n\
         cancel = {{ method = 'DELETE', url = '{0}/hook/{{{{ run_id }}}}' }}\n",
        server.uri()
    );
    let job_id = enqueue(&db).await;
    let settings = settings(&entry);
    let daemon = Daemon::start(&db.pool, &settings);
    progress_is(&db.pool, job_id, "started").await;
    daemon.kill().await;
    expire(&db.pool).await;
    let daemon = Daemon::start(&db.pool, &settings);
    until("a new run was asked for", async || {
        requests(&server, "POST").await.len() == 2
    })
    .await;
    daemon.stop().await;
    let asked = server.received_requests().await.unwrap();
    let asked: Vec<_> = asked
        .iter()
        .map(|r| (r.method.as_str(), r.url.path()))
        .collect();
    assert_eq!(
        asked,
        [
            ("POST", "/hook"),
            ("DELETE", "/hook/driftd-job-1-1"),
            ("POST", "/hook")
        ]
    );
}

#[tokio::test]
async fn a_run_beyond_its_deadline_is_cancelled_and_tried_again() {
    let db = postgres::fresh().await;
    let server = Orchestrator::new("running").serve().await;
    let job_id = enqueue(&db).await;
    let now = Clock::System.now_ms();
    let clock = Arc::new(Clock::Manual(AtomicI64::new(now)));
    let daemon = Daemon::start_at(&db.pool, &at(&server, AIRFLOW), Arc::clone(&clock));
    progress_is(&db.pool, job_id, "running").await;
    if let Clock::Manual(ms) = &*clock {
        ms.store(now + 2 * 86_400_000, Ordering::SeqCst);
    }
    until("the attempt has failed", async || {
        job(&db.pool, job_id).await.error.is_some()
    })
    .await;
    daemon.stop().await;
    let job = job(&db.pool, job_id).await;
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(
        job.error.unwrap(),
        "the run had not ended after 1day, and was cancelled"
    );
    assert_eq!(requests(&server, "PATCH").await.len(), 1);
}

#[tokio::test]
async fn what_a_run_has_made_becomes_a_version_of_the_model() {
    let db = postgres::fresh().await;
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(replies(200, &json!({})))
        .mount(&server)
        .await;
    let status = json!({"state": "success", "made": {"version": "7", "artifact_uri": "s3://m/7"}});
    Mock::given(path_regex("dagRuns/"))
        .respond_with(replies(200, &status))
        .mount(&server)
        .await;
    let entry = format!("{AIRFLOW}status.interval = '10ms'\nstatus.result_pointer = '/made'\n");
    let job = through(&db, &at(&server, &entry)).await;
    assert_eq!(job.result.unwrap()["version"], "7");
    let made = &models::list(&db.pool, Some("m")).await.unwrap()[0];
    assert_eq!(
        (made.version.as_str(), made.artifact_uri.as_deref()),
        ("7", Some("s3://m/7"))
    );
}

#[tokio::test]
async fn a_token_in_a_file_is_read_anew() {
    let db = postgres::fresh().await;
    let orchestrator = Orchestrator::new("running");
    let server = orchestrator.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let entry = AIRFLOW.replace(
        "token = 'sesame-token'",
        &format!("token_file = '{}'", file.display()),
    );
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &at(&server, &entry));
    progress_is(&db.pool, job_id, "running").await;
    std::fs::write(&file, "second\n").unwrap();
    until("the new one is sent", async || {
        let asked = requests(&server, "GET").await;
        asked
            .last()
            .is_some_and(|r| header(r, "authorization") == "Bearer second")
    })
    .await;
    daemon.stop().await;
    assert_eq!(
        header(&requests(&server, "POST").await[0], "authorization"),
        "Bearer first"
    );
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Catches what is logged on this thread from now on, down to the last detail.
fn capture() -> (Captured, tracing::subscriber::DefaultGuard) {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    (captured, tracing::subscriber::set_default(subscriber))
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

const SECRETS: &str = "preset = 'airflow3'\ntoken = 'sesame-token'\nparameters.dag_id = 'd'\n\
                       signing_key = 'sesame-key'\nheaders.X-Api-Key = 'sesame-header'\n";

/// A job that is refused by a server which repeats what it was sent.
async fn refused_job(db: &TestDb) -> (Settings, Job) {
    let server = MockServer::start().await;
    for reply in [ResponseTemplate::new(500), ResponseTemplate::new(400)] {
        let reply = reply.set_body_string("sesame-token sesame-header sesame-key");
        Mock::given(method("POST"))
            .respond_with(reply)
            .up_to_n_times(1)
            .mount(&server)
            .await;
    }
    let url = format!("url = '{}/start?code=sesame-query'\n", server.uri());
    let settings = at(&server, &format!("{url}{SECRETS}"));
    let job = through(db, &settings).await;
    (settings, job)
}

/// One thread for everything, so that what is logged is caught.
#[tokio::test(flavor = "current_thread")]
async fn secrets_stand_in_no_log_and_no_row() {
    let db = postgres::fresh().await;
    let (captured, guard) = capture();
    let (asked, refused) = refused_job(&db).await;
    // And where nobody listens.
    sql(&db.pool, OLD).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}/?code=sesame-query", silent.local_addr().unwrap());
    drop(silent);
    let unheard = settings(&format!(
        "url = '{gone}'\nparameters.base_url = 'https://x'\n{SECRETS}"
    ));
    let job_id = enqueue(&db).await;
    let daemon = Daemon::start(&db.pool, &unheard);
    until("it is told that nobody listens", async || {
        captured.text().contains("onnection refused")
    })
    .await;
    daemon.stop().await;
    drop(guard);
    assert!(
        captured
            .text()
            .contains("an orchestrator gave no usable answer")
    );
    let error = refused.error.as_deref().unwrap();
    assert!(
        error.contains("[redacted] [redacted] [redacted]"),
        "{error}"
    );
    let rows = format!("{refused:?} {:?}", job(&db.pool, job_id).await);
    let events = jobs::events(&db.pool, refused.job_id).await.unwrap();
    let shown = format!(
        "{asked:?} {unheard:?} {} {}",
        asked.redacted(),
        unheard.redacted()
    );
    for text in [captured.text(), rows, format!("{events:?}"), shown] {
        let at = text.find("sesame").unwrap_or(text.len());
        assert_eq!(at, text.len(), "{}", &text[at.saturating_sub(300)..]);
    }
}
