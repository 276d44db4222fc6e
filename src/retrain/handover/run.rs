//! A run as the orchestrator sees it: started once, asked after, cancelled.

use std::ops::Range;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::follow::result;
use super::http::{Answer, Failure, Sender, is_passing, outcome};
use super::template::{Values, text};
use super::{Call, Handover, Status};
use crate::clock::Clock;
use crate::store::jobs::Job;
use crate::telemetry::metrics;

/// The longest wait that driftd chooses itself.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// So many answers in a row that tell nothing of the run, and it counts as lost.
const MAX_ODD: u32 = 5;
/// How often a cancel is sent before it is left for later.
const CANCELS: u32 = 5;
/// Of an id or a state, so much is kept.
const MAX_WORD: usize = 200;

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// Well; this is the job's result.
    Succeeded(Map<String, Value>),
    /// Badly; whether a new run may be tried.
    Failed { error: String, retry: bool },
    /// It was not waited for.
    Halted,
}

/// A run, and what is known of it.
#[derive(Debug)]
pub(super) struct Run<'a> {
    handover: &'a Handover,
    sender: &'a Sender<'a>,
    clock: &'a Clock,
    values: Values,
    /// Since when the attempt runs, in milliseconds since the epoch.
    since_ms: i64,
    /// The orchestrator's id; `None`: it is there, but what it is called has to be found out.
    id: Option<String>,
    started: bool,
    /// A request may have been received without our knowing: the run may be there already.
    unsure: bool,
    /// Attempts whose runs may go on, with leases that nobody takes any more.
    earlier: Range<i32>,
    progress: watch::Sender<Value>,
}

/// What a start has come to.
enum Asked {
    Started,
    Again {
        why: String,
        after: Option<Duration>,
    },
    Refused {
        error: String,
        retry: bool,
    },
}

impl<'a> Run<'a> {
    pub(super) fn new(
        handover: &'a Handover,
        sender: &'a Sender<'a>,
        clock: &'a Clock,
        values: Values,
        job: &Job,
        progress: watch::Sender<Value>,
    ) -> Self {
        let since = job.started_at.map(|at| at.timestamp_millis());
        let id = handover.run_id.is_none().then(|| text(&values["run_id"]));
        let run = Self {
            handover,
            sender,
            clock,
            values,
            since_ms: since.unwrap_or_else(|| clock.now_ms()),
            id,
            started: false,
            unsure: false,
            earlier: 0..0,
            progress,
        };
        run.tell("starting");
        run
    }

    /// Goes on where another replica was.
    pub(super) fn resume(&mut self, progress: Option<&Value>) {
        self.unsure = true;
        let word = |key| progress.and_then(|progress| progress[key].as_str());
        if word("handover") != Some(&self.handover.name) {
            return;
        }
        let state = word("state").unwrap_or("starting").to_owned();
        if let Some(id) = word("run_id") {
            self.name(id.to_owned());
        }
        self.started = state != "starting";
        self.tell(&state);
    }

    /// An earlier attempt has asked for this run, and nobody knows what came of it.
    pub(super) fn be_unsure(&mut self) {
        self.unsure = true;
    }

    /// Earlier attempts have started runs of their own, which have to be cancelled first.
    pub(super) fn succeed_to(&mut self, earlier: Range<i32>) {
        self.earlier = earlier;
    }

    pub(super) fn handover(&self) -> &'a Handover {
        self.handover
    }

    pub(super) fn key(&self) -> String {
        text(&self.values["idempotency_key"])
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn name(&mut self, id: String) {
        self.values.insert("run_id", json!(id));
        self.id = Some(id);
    }

    fn tell(&self, state: &str) {
        let state: String = state.chars().take(MAX_WORD).collect();
        let progress = json!({"handover": self.handover.name, "run_id": self.id, "state": state});
        self.progress.send_if_modified(|known| {
            let new = *known != progress;
            *known = progress;
            new
        });
    }

    /// Starts the run unless it is there, and asks after it until it has ended or `halt`.
    pub(super) async fn work(&mut self, halt: &CancellationToken) -> End {
        if !self.cancel_earlier().await {
            let error = "the run of an earlier attempt could not be cancelled".to_owned();
            return End::Failed {
                error,
                retry: false,
            };
        }
        if !self.started
            && let Err(end) = self.start(halt).await
        {
            return end;
        }
        match &self.handover.status {
            Some(status) => self.watch(status, halt).await,
            None => self.wait(halt).await,
        }
    }

    async fn start(&mut self, halt: &CancellationToken) -> Result<(), End> {
        let mut failures = 0;
        while !halt.is_cancelled() {
            if self.is_overdue() {
                return Err(self.overdue().await);
            }
            let asked = match self.is_there().await {
                Some(true) => Asked::Started,
                Some(false) => self.ask_to_start().await,
                None => Asked::Again {
                    why: "whether it is there already is not known".to_owned(),
                    after: None,
                },
            };
            match asked {
                Asked::Started => {
                    self.started = true;
                    self.tell("started");
                    return Ok(());
                }
                Asked::Refused { error, retry } => return Err(End::Failed { error, retry }),
                Asked::Again { why, after } => {
                    failures += 1;
                    self.tell_again("start", &why);
                    pause(self.backoff(failures, after), halt).await;
                }
            }
        }
        Err(End::Halted)
    }

    /// Whether the run was started already; `None`: that could not be found out.
    async fn is_there(&mut self) -> Option<bool> {
        match self.unsure && self.handover.find.is_some() {
            true => self.find().await,
            false => Some(false), // or the orchestrator tells by the run's name
        }
    }

    async fn ask_to_start(&mut self) -> Asked {
        let key = self.key();
        let sent = self.send("start", &self.handover.start, Some(&key)).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(Failure::Forbidden(error)) => return self.refused(error, false),
            Err(failure) => {
                self.unsure |= matches!(failure, Failure::Unanswered(_));
                let why = failure.told().to_owned();
                return Asked::Again { why, after: None };
            }
        };
        match answer.status {
            status if status.is_success() => self.begun(&answer),
            StatusCode::CONFLICT => self.begun(&answer),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.again(&answer),
            status if status.is_server_error() => self.again(&answer),
            status => {
                let hopeless = matches!(status.as_u16(), 300..400 | 400 | 401 | 403 | 404 | 422);
                let excerpt = self.sender.excerpt(&answer, &self.values);
                self.refused(format!("{}: {excerpt}", answer.told()), !hopeless)
            }
        }
    }

    fn again(&mut self, answer: &Answer) -> Asked {
        self.unsure |= answer.status != StatusCode::TOO_MANY_REQUESTS;
        Asked::Again {
            why: answer.told(),
            after: answer.retry_after,
        }
    }

    /// A new run is out of the question while the one that was asked for may be there.
    fn refused(&self, error: String, retry: bool) -> Asked {
        Asked::Refused {
            error: format!("the run was not started: {error}"),
            retry: retry && !self.unsure,
        }
    }

    /// The run is there; what it is called stands in the answer, or has to be found out.
    fn begun(&mut self, answer: &Answer) -> Asked {
        let Some(pointer) = &self.handover.run_id else {
            return Asked::Started;
        };
        let named = answer.json().and_then(|document| pointer.text(&document));
        match named.filter(|id| id.len() <= MAX_WORD) {
            Some(id) => {
                self.name(id);
                Asked::Started
            }
            None if self.handover.find.is_some() || self.handover.status.is_none() => {
                Asked::Started
            }
            None => Asked::Refused {
                error: format!("{}, without the run's id at run_id_pointer", answer.told()),
                retry: false,
            },
        }
    }

    /// Looks for the run by its name; `None`: nobody could say.
    async fn find(&mut self) -> Option<bool> {
        let find = self.handover.find.as_ref()?;
        let sent = self.send("find", &find.call, None).await;
        let document = match &sent {
            Ok(answer) if answer.status.is_success() => answer.json(),
            _ => None,
        };
        let Some(document) = document else {
            let why = sent.map_or_else(|failure| failure.told().to_owned(), |answer| answer.told());
            self.tell_again("find", &why);
            return None;
        };
        let key = self.key();
        let lists = find.list.all(&document).into_iter();
        let mut runs = lists.filter_map(Value::as_array).flatten();
        let ours = runs.find(|run| find.name.text(run).as_deref() == Some(&key));
        let id = ours.and_then(|run| find.run_id.text(run));
        if let Some(id) = &id {
            self.name(id.clone());
        }
        Some(id.is_some())
    }

    async fn is_named(&mut self) -> bool {
        self.id.is_some() || self.find().await == Some(true)
    }

    /// Asks how the run is doing.
    async fn watch(&mut self, status: &Status, halt: &CancellationToken) -> End {
        let (mut failures, mut odd) = (0, 0);
        while !halt.is_cancelled() {
            if self.is_overdue() {
                return self.overdue().await;
            }
            if !self.is_named().await {
                pause(status.interval, halt).await;
                continue;
            }
            let after = match self.send("status", &status.call, None).await {
                Ok(answer) if answer.status.is_success() => match self.judge(status, &answer) {
                    Some(Some(end)) => return end,
                    judged => {
                        (failures, odd) = (0, if judged.is_some() { 0 } else { odd + 1 });
                        Some(status.interval)
                    }
                },
                Ok(answer) if is_passing(answer.status) => {
                    failures += 1;
                    self.tell_again("status", &answer.told());
                    Some(
                        status
                            .interval
                            .max(self.backoff(failures, answer.retry_after)),
                    )
                }
                Ok(answer) => {
                    odd += 1;
                    self.tell_again("status", &answer.told());
                    None
                }
                Err(Failure::Forbidden(error)) => return unknown(&error),
                Err(failure) => {
                    failures += 1;
                    self.tell_again("status", failure.told());
                    Some(status.interval.max(self.backoff(failures, None)))
                }
            };
            if odd >= MAX_ODD {
                return unknown("the orchestrator tells nothing of it any more");
            }
            pause(after.unwrap_or(status.interval), halt).await;
        }
        End::Halted
    }

    /// What an answer says of the run: nothing, that it goes on, or how it ended.
    fn judge(&self, status: &Status, answer: &Answer) -> Option<Option<End>> {
        let document = answer.json()?;
        let states: Vec<String> = status
            .pointer
            .all(&document)
            .into_iter()
            .map(text)
            .collect();
        let among = |known: &[String]| states.iter().find(|state| known.contains(state));
        let id = self.id().unwrap_or_default();
        if let Some(state) = among(&status.failed) {
            let error = format!(
                "run {id} of hand-over {} ended as {state}",
                self.handover.name
            );
            return Some(Some(End::Failed { error, retry: true }));
        }
        if among(&status.succeeded).is_some() {
            let own = status.result.as_ref();
            let own = own.and_then(|pointer| {
                pointer
                    .all(&document)
                    .into_iter()
                    .find_map(Value::as_object)
            });
            let mut result = result(self.handover, id, own);
            // A run that names no version has made the one that is called like it.
            let version = result.entry("version").or_insert(Value::Null);
            if version.is_null() {
                *version = self.key().into();
            }
            return Some(Some(End::Succeeded(result)));
        }
        let state = states.iter().find(|state| !state.is_empty());
        self.tell(state.map_or("running", String::as_str));
        Some(None)
    }

    /// The run tells the database itself; here only its deadline is watched.
    async fn wait(&mut self, halt: &CancellationToken) -> End {
        while !halt.is_cancelled() {
            if self.is_overdue() {
                return self.overdue().await;
            }
            pause(super::TICK, halt).await;
        }
        End::Halted
    }

    fn is_overdue(&self) -> bool {
        let limit = i64::try_from(self.handover.deadline.as_millis()).unwrap_or(i64::MAX);
        self.clock.now_ms().saturating_sub(self.since_ms) >= limit
    }

    /// Ends a run that takes too long. Only where the orchestrator says that it has may a new one come.
    async fn overdue(&mut self) -> End {
        let cancelled = self.handover.cancel.is_some() && self.cancel().await;
        let fate = match cancelled {
            true => "and was cancelled",
            false => "and may still be running",
        };
        let limit = humantime::format_duration(self.handover.deadline);
        End::Failed {
            error: format!("the run had not ended after {limit}, {fate}"),
            retry: cancelled,
        }
    }

    async fn cancel_earlier(&mut self) -> bool {
        let ours = (self.values.clone(), self.id.take(), self.started);
        let mut done = true;
        for attempt in std::mem::take(&mut self.earlier) {
            let key = json!(format!("driftd-job-{}-{attempt}", text(&ours.0["job_id"])));
            self.values.insert("idempotency_key", key.clone());
            self.values.insert("run_id", key.clone());
            self.id = self.handover.run_id.is_none().then(|| text(&key));
            self.started = true;
            done &= self.cancel().await;
        }
        (self.values, self.id, self.started) = ours;
        done
    }

    /// Cancels the run; whether there is nothing more to be done about it.
    pub(super) async fn cancel(&mut self) -> bool {
        let Some(call) = &self.handover.cancel else {
            return true;
        };
        for failures in 1..=CANCELS {
            if !self.started && !self.unsure {
                return true; // it was never asked for
            }
            if self.is_named().await {
                match self.send("cancel", call, None).await {
                    Ok(answer) if answer.status.is_success() => return true,
                    // There is no such run, or it has ended.
                    Ok(answer) if matches!(answer.status.as_u16(), 404 | 409 | 410) => return true,
                    Ok(answer) => self.tell_again("cancel", &answer.told()),
                    Err(failure) => self.tell_again("cancel", failure.told()),
                }
            }
            tokio::time::sleep(self.backoff(failures, None)).await;
        }
        tracing::error!(
            handover.name = self.handover.name,
            run.key = self.key(),
            "a run could not be cancelled and may still be running"
        );
        false
    }

    async fn send(
        &self,
        request: &'static str,
        call: &Call,
        key: Option<&str>,
    ) -> Result<Answer, Failure> {
        let sent = self
            .sender
            .send(call, &self.values, key, self.clock.now())
            .await;
        metrics::handover_requests(&self.handover.name, request, outcome(&sent), 1);
        sent
    }

    fn tell_again(&self, request: &str, why: &str) {
        tracing::warn!(
            handover.name = self.handover.name,
            run.key = self.key(),
            request,
            why,
            "an orchestrator gave no usable answer"
        );
    }

    /// Twice as long each time, half of it chance, and at least what the server asks for.
    fn backoff(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let longest = self.handover.backoff * 2_u32.pow(failures.clamp(1, 10) - 1);
        let longest = longest.min(MAX_BACKOFF.max(self.handover.backoff));
        let chance = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        longest
            .mul_f64(0.5 + 0.5 * chance)
            .max(asked.unwrap_or_default())
    }
}

fn unknown(why: &str) -> End {
    End::Failed {
        error: format!("whether the run goes on is not known: {why}"),
        retry: false,
    }
}

async fn pause(pause: Duration, halt: &CancellationToken) {
    let _ = tokio::time::timeout(pause, halt.cancelled()).await;
}
