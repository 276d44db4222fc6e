//! The hand-over of a model's retraining jobs to an orchestrator by HTTP.
//!
//! driftd is a worker like any other here: it claims a job, asks the orchestrator to start a run,
//! keeps the lease alive while it asks how the run is doing, and completes or fails the job by the
//! answer. The order of reading: `follow` is a job from claim to end, `run` the
//! orchestrator's part of it, `http` one request and what is
//! known of it afterwards, `template` how a request is made of a job, `destination` where it may go,
//! `preset` what is known of the usual orchestrators.
//!
//! No run is doubled by a lost reply or a restart. A run is named after the job and the attempt that
//! first asked for it (`driftd-job-7-1`), and every repetition says the same name, as its
//! `Idempotency-Key` and, where the orchestrator lets us choose, as its own id of the run: asking
//! again finds the run that is there. A later attempt takes the name over as long as nobody knows that
//! the run has ended (`follow::first_attempt`), and a new name is used only after the run was told
//! to have failed. A replica that takes a job over from one that has gone takes its lease as well, so
//! that a restart uses up no attempt.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Method;
use reqwest::header::HeaderName;
use rustls::pki_types::CertificateDer;
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{self, jobs};

/// Which addresses may be connected to.
pub mod destination;

mod follow;

mod http;

/// Where something stands in an answer.
pub mod pointer;

/// What is known of the usual orchestrators.
pub mod preset;

mod run;

/// How a request is made of a job.
pub mod template;

use http::Sender;
use pointer::Pointer;
use template::Template;

/// How often a job to claim is looked for.
const TICK: Duration = Duration::from_secs(1);
/// The longest wait while Postgres cannot be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There can be no HTTP client.
    #[error("no requests can be made: {0}")]
    Client(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A bug.
    #[error("a hand-over panicked")]
    Panicked,
}

/// Which jobs go where, and how. Made by the settings.
#[derive(Debug, Clone)]
pub struct Handover {
    /// For people, metrics and the database; unique.
    pub name: String,
    /// Whose jobs; no other hand-over has it.
    pub model: String,
    /// What starts a run.
    pub start: Call,
    /// Sent with every request; their values are never shown.
    pub headers: Vec<(HeaderName, Template)>,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<Token>,
    /// What requests are signed with.
    pub signing_key: Option<SecretString>,
    /// Where the answer to the start names the run; `None`: it is called what we called it.
    pub run_id: Option<Pointer>,
    /// How a run is looked for by its name.
    pub find: Option<Find>,
    /// How a run is doing; `None`: the run itself completes the job, with the lease it was given.
    pub status: Option<Status>,
    /// What ends a run early.
    pub cancel: Option<Call>,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// How long a run may take, from the claim on.
    pub deadline: Duration,
    /// How long the job stays ours without a word to Postgres.
    pub lease: Duration,
    /// The wait before a request is sent a second time; it doubles up to a minute.
    pub backoff: Duration,
    /// Networks that may be connected to although they are not public.
    pub allow_private: Vec<IpNet>,
    /// Whether public addresses may be spoken to without TLS.
    pub allow_http: bool,
    /// The only certificates that are trusted; `None`: those of the web.
    pub certificates: Option<Vec<CertificateDer<'static>>>,
}

impl Handover {
    /// The worker's name in the database: the same for every replica, so that they can take each
    /// other's jobs over.
    pub fn worker(&self) -> String {
        format!("handover:{}", self.name)
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    /// How.
    pub method: Method,
    /// Where to.
    pub url: Template,
    /// What, as JSON.
    pub body: Option<Template>,
}

/// How a run is looked for by its name: the first in a list with this name.
#[derive(Debug, Clone)]
pub struct Find {
    /// What is asked; a GET.
    pub call: Call,
    /// Where the answer has the list.
    pub list: Pointer,
    /// Where an element has its name.
    pub name: Pointer,
    /// Where it has its id.
    pub run_id: Pointer,
}

/// How a run is doing.
#[derive(Debug, Clone)]
pub struct Status {
    /// What is asked; a GET.
    pub call: Call,
    /// Where the answer has the state.
    pub pointer: Pointer,
    /// The states that are a success.
    pub succeeded: Vec<String>,
    /// The states that are a failure.
    pub failed: Vec<String>,
    /// How often it is asked.
    pub interval: Duration,
    /// Where the answer has an object to be kept as the job's result.
    pub result: Option<Pointer>,
}

/// A secret, or the file that holds it: tokens of Kubernetes are replaced while driftd runs.
#[derive(Debug, Clone)]
pub enum Token {
    /// As it is.
    Fixed(SecretString),
    /// Read for each request.
    File(PathBuf),
}

impl Token {
    fn read(&self) -> Result<SecretString, String> {
        match self {
            Self::Fixed(secret) => Ok(secret.clone()),
            // A few kilobytes, from memory for the most part: shorter than a handing to a thread.
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).into()),
                Err(error) => Err(format!(
                    "cannot read token_file {}: {error}",
                    path.display()
                )),
            },
        }
    }
}

/// Hands jobs over until `stop`; each hand-over on its own, one job at a time, since a model has one
/// open job at most. While Postgres cannot be reached it waits and tries again.
///
/// # Errors
/// When there can be no HTTP client, or the database refuses for good.
pub async fn run(
    pool: PgPool,
    handovers: Arc<[Handover]>,
    clock: Arc<Clock>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut loops = JoinSet::new();
    for at in 0..handovers.len() {
        let handovers = Arc::clone(&handovers);
        let (pool, clock, stop) = (pool.clone(), Arc::clone(&clock), stop.clone());
        loops.spawn(async move { hand_over(&pool, &handovers[at], &clock, &stop).await });
    }
    while let Some(ended) = loops.join_next().await {
        ended.map_err(|_| Error::Panicked)??; // the others end with the set
    }
    Ok(())
}

async fn hand_over(
    pool: &PgPool,
    handover: &Handover,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let sender = Sender::new(handover)?;
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let pause = match next(pool, handover, &sender, clock, stop).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => {
                failures = 0;
                TICK
            }
            Err(error) if error.is_transient() => {
                failures += 1;
                let pause = PATIENCE.min(TICK * 2_u32.saturating_pow(failures.min(5)));
                tracing::warn!(
                    handover.name = handover.name, error = %error.chain(), retry_in = ?pause,
                    "a hand-over waits for Postgres"
                );
                pause
            }
            Err(error) => return Err(error.into()),
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    Ok(())
}

/// One job, if there is any: one that another replica has left behind, or a new one.
async fn next(
    pool: &PgPool,
    handover: &Handover,
    sender: &Sender<'_>,
    clock: &Clock,
    stop: &CancellationToken,
) -> store::Result<bool> {
    let (worker, lease) = (handover.worker(), handover.lease.as_secs_f64());
    let limit = store::patience(pool, 0);
    let take = async {
        if let Some(lease) = jobs::take_over(pool, &worker, &handover.model).await? {
            return Ok(Some((lease, true)));
        }
        let claimed = jobs::claim(pool, &worker, Some(&handover.model), lease).await?;
        Ok::<_, store::Error>(claimed.map(|lease| (lease, false)))
    };
    let Some((lease, taken_over)) =
        store::within(limit, "look for a job to hand over", take).await?
    else {
        return Ok(false);
    };
    follow::follow(pool, handover, sender, clock, lease, taken_over, stop).await?;
    Ok(true)
}
