//! The saver: what the collect half asks of Postgres, off its polling thread.
//!
//! Requests are of one topic each and of many of its partitions, so that many partitions cost few
//! transactions. They are tried again as long as trying again can help. The profiles of a stretch are
//! encoded here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::DateTime;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::partition::Added;
use super::partition::log::{Checkpoint, Count, OpenGap, Settlement, Takeover};
use crate::api::Readiness;
use crate::failpoint::{Failpoint, reached};
use crate::ingest::queue::Waker;
use crate::profile::encoding;
use crate::store::checkpoints::{self, Delta, Outcome};
use crate::store::failures::{self, Failure, Kind};
use crate::store::topics;
use crate::store::{self, partitions};
use crate::telemetry::metrics;

/// Requests and replies that may wait; more wait in the collect half.
const QUEUE: usize = 256;
/// Requests that are worked on at a time.
const AT_ONCE: usize = 8;
/// The condition of readiness that is not met while something cannot be saved.
const CHECKPOINTS: &str = "checkpoints";

/// A partition of the topic that a request is about: its number, and the assignment that asks.
pub type Asker = (i32, u64);

/// What is asked.
#[derive(Debug)]
pub enum Request {
    /// Note how many partitions a topic has.
    NoteTopic(Count),
    /// Fence whoever holds partitions.
    TakeOver {
        /// Topic.
        topic: Arc<str>,
        /// Its partitions.
        partitions: Vec<Asker>,
    },
    /// Store where reading goes on, with the gaps before that; where the policy is to stop, the gaps
    /// alone.
    Settle {
        /// Topic.
        topic: Arc<str>,
        /// Its partitions.
        partitions: Vec<(Asker, Settlement)>,
    },
    /// Save stretches.
    Save {
        /// Topic.
        topic: Arc<str>,
        /// Its partitions.
        partitions: Vec<(Asker, Checkpoint<Added>)>,
    },
    /// Look whether Postgres still has what it said it has, after a failover: per partition an epoch and
    /// an offset.
    Confirm {
        /// Topic.
        topic: Arc<str>,
        /// Its partitions.
        partitions: Vec<(Asker, (i64, i64))>,
    },
    /// Record that a topic cannot go on, for this reason, and when it is tried again; `None`: it goes on
    /// again.
    Report {
        /// Topic.
        topic: Arc<str>,
        /// Why, and how long until it is tried again.
        failure: Option<(String, Duration)>,
    },
}

/// What is answered to a partition.
#[derive(Debug)]
pub enum Word {
    /// The fence stands.
    TakenOver(Takeover),
    /// It is stored where reading goes on; with gaps that have no end yet.
    Settled(Vec<OpenGap>),
    /// The gaps are stored, and reading stands before them.
    GapsRecorded,
    /// The stretch is durable up to this offset, or still is.
    Saved(i64),
    /// Another replica has the partition.
    Fenced,
    /// Postgres refuses, and trying again will not help.
    Refused(String),
}

/// What is answered.
#[derive(Debug)]
pub enum Reply {
    /// So many partitions of a topic are known.
    Noted(Count),
    /// To partitions of a topic.
    Words {
        /// Topic.
        topic: Arc<str>,
        /// The answer to each.
        words: Vec<(Asker, Word)>,
    },
}

/// Works on requests until the collect half hangs up.
#[derive(Clone)]
pub struct Saver {
    pool: PgPool,
    owner: String,
    readiness: Readiness,
    /// Requests that have failed and are tried again.
    failing: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Saver {
    /// A saver, not started.
    pub fn new(pool: PgPool, owner: String, readiness: Readiness, stop: CancellationToken) -> Self {
        Self {
            pool,
            owner,
            readiness,
            failing: Arc::default(),
            stop,
        }
    }

    /// Starts it; answers where to ask and where to hear.
    pub fn start(
        self,
        handle: &Handle,
        waker: Waker,
    ) -> (mpsc::Sender<Request>, mpsc::Receiver<Reply>) {
        let (requests, mut asked) = mpsc::channel(QUEUE);
        let (answers, replies) = mpsc::channel(QUEUE);
        let task = async move {
            let mut tasks: JoinSet<()> = JoinSet::new();
            while let Some(request) = asked.recv().await {
                while tasks.len() >= AT_ONCE {
                    tasks.join_next().await;
                }
                let (saver, answers) = (self.clone(), answers.clone());
                let waker = waker.clone();
                tasks.spawn(async move {
                    if let Some(reply) = saver.answer(request).await {
                        // Nobody hears it any more when the collect half has ended.
                        let _ = answers.send(reply).await;
                        waker.wake();
                    }
                });
            }
            tasks.join_all().await;
        };
        handle.spawn(task);
        (requests, replies)
    }

    async fn answer(&self, request: Request) -> Option<Reply> {
        let (topic, askers, words) = match request {
            Request::NoteTopic(count) => return self.note(count).await,
            Request::Report { topic, failure } => {
                self.report(&topic, failure).await;
                return None;
            }
            Request::TakeOver { topic, partitions } => {
                let words = self.take_over(&topic, &partitions).await;
                (topic, partitions, words)
            }
            Request::Settle { topic, partitions } => {
                let (askers, asked): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
                let words = self.settle(&topic, asked).await;
                (topic, askers, words)
            }
            Request::Save { topic, partitions } => {
                let (askers, stretches): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
                (topic, askers, self.save(stretches).await)
            }
            Request::Confirm { topic, partitions } => {
                let (askers, asked): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
                let words = self.confirm(&topic, &askers, &asked).await;
                (topic, askers, words)
            }
        };
        let words = match words {
            Ok(words) => askers.into_iter().zip(words).collect(),
            Err(error) => {
                let refused = |asker| (asker, Word::Refused(error.clone()));
                askers.into_iter().map(refused).collect()
            }
        };
        Some(Reply::Words { topic, words })
    }

    async fn note(&self, count: Count) -> Option<Reply> {
        let note = || topics::note(&self.pool, &count);
        match self.retrying("note a topic", note).await {
            Ok(true) => Some(Reply::Noted(count)),
            Ok(false) => None,
            Err(error) => {
                tracing::error!(topic = count.topic, error, "a topic is not noted");
                None
            }
        }
    }

    async fn report(&self, topic: &str, failure: Option<(String, Duration)>) {
        let Some((reason, retry_in)) = failure else {
            let clear = || failures::clear_topic(&self.pool, topic, &self.owner);
            if let Ok(true) = self.retrying("clear a failure", clear).await {
                tracing::info!(topic, "the topic works again");
            }
            return;
        };
        let failure = Failure {
            kind: Kind::Topic,
            name: topic.to_owned(),
            version: String::new(),
            replica: self.owner.clone(),
            reason,
            retry_in: Some(retry_in),
        };
        let report = || failures::report(&self.pool, &failure);
        let reported = self.retrying("report a failure", report).await;
        if reported.unwrap_or(true) {
            tracing::error!(topic, retry_in = ?retry_in, "the topic has failed: {}", failure.reason);
        }
    }

    async fn take_over(&self, topic: &str, partitions: &[Asker]) -> Result<Vec<Word>, String> {
        let numbers: Vec<i32> = partitions.iter().map(|(partition, _)| *partition).collect();
        partitions
            .iter()
            .for_each(|_| reached(Failpoint::BeforeTakeOver));
        let take = || partitions::take_over(&self.pool, topic, &numbers, &self.owner);
        let taken = self.retrying("take partitions over", take).await?;
        partitions
            .iter()
            .for_each(|_| reached(Failpoint::TakenOver));
        Ok(taken.into_iter().map(Word::TakenOver).collect())
    }

    async fn settle(&self, topic: &str, settlements: Vec<Settlement>) -> Result<Vec<Word>, String> {
        settlements
            .iter()
            .for_each(|_| reached(Failpoint::BeforeSettle));
        let settle = || partitions::settle(&self.pool, topic, &settlements);
        let what = "settle where reading goes on";
        let settled = self.retrying(what, settle).await?;
        settlements.iter().for_each(|_| reached(Failpoint::Settled));
        for (partition, gap) in settled.lost {
            let from = gap.from_offset;
            metrics::gaps(topic, gap.reason, 1);
            tracing::error!(
                topic,
                partition,
                generation = gap.generation,
                "the topic was created again without this partition; messages from {from} on were \
                 not read"
            );
        }
        let word = |outcome| match outcome {
            partitions::Outcome::Settled(open_gaps) => Word::Settled(open_gaps),
            partitions::Outcome::Recorded => Word::GapsRecorded,
            partitions::Outcome::Fenced => Word::Fenced,
        };
        Ok(settled.outcomes.into_iter().map(word).collect())
    }

    async fn save(&self, stretches: Vec<Checkpoint<Added>>) -> Result<Vec<Word>, String> {
        let encode = tokio::task::spawn_blocking(move || {
            let encoded = stretches.into_iter().map(|one| one.try_map(encode));
            encoded.collect::<Result<Vec<_>, encoding::Error>>()
        });
        let encoded = encode.await.map_err(|e| e.to_string())?;
        let checkpoints = encoded.map_err(|e| e.to_string())?;
        let begun = std::time::Instant::now();
        let save = || checkpoints::save_all(&self.pool, &checkpoints);
        let outcomes = self.retrying("save checkpoints", save).await?;
        metrics::checkpoint_duration_seconds(begun.elapsed().as_secs_f64());
        let saved = outcomes.iter().filter(|one| **one == Outcome::Saved);
        let saved = saved.count() as u64;
        metrics::checkpoints(saved);
        metrics::fenced_checkpoints(outcomes.len() as u64 - saved);
        let pairs = outcomes.into_iter().zip(&checkpoints);
        let word = |(outcome, checkpoint): (Outcome, &Checkpoint<Delta>)| match outcome {
            Outcome::Saved => Word::Saved(checkpoint.next_offset),
            Outcome::Fenced => Word::Fenced,
        };
        Ok(pairs.map(word).collect())
    }

    async fn confirm(
        &self,
        topic: &str,
        askers: &[Asker],
        asked: &[(i64, i64)],
    ) -> Result<Vec<Word>, String> {
        let pairs = askers.iter().zip(asked);
        let places: Vec<(i32, i64, i64)> = pairs
            .map(|((partition, _), (epoch, next))| (*partition, *epoch, *next))
            .collect();
        let stand = || partitions::stand_at(&self.pool, topic, &places);
        let standing = self.retrying("confirm offsets", stand).await?;
        let word = |(partition, _, next): &(i32, i64, i64)| match standing.contains(partition) {
            true => Word::Saved(*next),
            false => Word::Fenced,
        };
        Ok(places.iter().map(word).collect())
    }

    /// Tries until it works, while trying again can help and nobody says stop. Until it works driftd
    /// is not ready.
    async fn retrying<T, F>(
        &self,
        what: &'static str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = store::Result<T>>,
    {
        let (mut pause, mut failures, mut stopped) = (Duration::from_millis(100), 0, 0);
        let done = loop {
            let patience = store::patience(&self.pool, failures);
            match store::within(patience, what, attempt()).await {
                Err(error) if error.is_transient() && stopped < 3 => {
                    let error = store::cause(&self.pool, error).await;
                    self.fails(what, failures == 0, &error.chain(), pause);
                    failures += 1;
                }
                done => break done,
            }
            let _ = tokio::time::timeout(pause, self.stop.cancelled()).await;
            pause = (pause * 2).min(Duration::from_secs(10));
            if self.stop.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                stopped += 1;
            }
        };
        if failures > 0 && self.failing.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.readiness.ready(CHECKPOINTS);
        }
        done.map_err(|error| format!("cannot {what}: {}", error.chain()))
    }

    fn fails(&self, what: &'static str, first: bool, error: &str, pause: Duration) {
        metrics::postgres_errors(what, 1);
        if first {
            self.failing.fetch_add(1, Ordering::SeqCst);
        }
        let reason = format!("cannot {what}: {error}");
        self.readiness.not_ready(CHECKPOINTS, reason);
        tracing::warn!(
            error,
            retry.seconds = pause.as_secs_f64(),
            "cannot {what}; trying again"
        );
    }
}

/// Profiles become bytes here, not on the thread that polls.
fn encode(added: Added) -> Result<Delta, encoding::Error> {
    let Added {
        monitor_id,
        mut delta,
        keeps_up,
    } = added;
    let rows = delta.profile.rows;
    let bytes = (rows > 0)
        .then(|| encoding::encode(&mut delta.profile, true))
        .transpose()?;
    Ok(Delta {
        monitor_id,
        version: delta.version.to_string(),
        window_start: DateTime::from_timestamp_millis(delta.start_ms).unwrap_or_default(),
        window_end: DateTime::from_timestamp_millis(delta.end_ms).unwrap_or_default(),
        baseline_id: delta.plan.baseline_id.clone(),
        first_offset: delta.offsets.start,
        next_offset: delta.offsets.end,
        rows: count(rows),
        late: count(delta.late),
        keeps_up,
        delta: bytes,
    })
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
