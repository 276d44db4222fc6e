//! The saver: what the collect half asks of Postgres, off its polling thread.
//!
//! Each request is a task of its own; those of one partition never overlap, because the collect
//! half waits for one answer before it asks again. Postgres being away is waited out with growing
//! pauses: the rows stay in memory, reading pauses when that is full, and nothing is skipped. A
//! connection can also be dead without a word, so an answer is waited for only so long, and longer
//! each time, since slow is not dead.
//!
//! After a failover the database may be behind what it has said: the offset stored goes back, and
//! with it what was stored up to there. The next checkpoint is fenced by that, and the partition is
//! taken over again at the offset that is stored; where no checkpoint is due, `Confirm` finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::Readiness;
use crate::failpoint::{Failpoint, reached};
use crate::ingest::consumer::TopicPartition;
use crate::ingest::reject::Rejected;
use crate::profile::encoding;
use crate::store::checkpoints::{self, Checkpoint, Outcome};
use crate::store::gaps::{self, OpenGap};
use crate::store::partitions::Settlement;
use crate::store::topics::{self, Count};
use crate::store::{self, partitions, rejected};
use crate::telemetry::metrics;
use crate::window::open::Delta;

/// Requests that may wait; far more than partitions have on their way.
const QUEUE: usize = 4096;
/// Requests that are worked on at a time.
const AT_ONCE: usize = 8;
/// The condition of readiness that is not met while something cannot be saved.
const CHECKPOINTS: &str = "checkpoints";

/// What is asked.
#[derive(Debug)]
pub enum Request {
    /// Note how many partitions a topic has.
    NoteTopic(Count),
    /// Fence whoever holds a partition.
    TakeOver {
        /// Partition.
        key: TopicPartition,
        /// Which assignment of it this is for.
        turn: u64,
    },
    /// Save a stretch.
    Save(Box<Unsaved>),
    /// See whether Postgres still has what it said it has: after a failover it may be behind.
    Confirm {
        /// Partition.
        key: TopicPartition,
        /// Under this epoch.
        epoch: i64,
        /// The offset that it should have.
        next_offset: i64,
    },
    /// Store where reading a partition goes on, with the gaps before that; where the policy is to
    /// stop, the gaps alone.
    Settle(Box<Settlement>),
}

/// What is answered.
#[derive(Debug)]
pub enum Reply {
    /// So many partitions of a topic are known.
    Noted(Count),
    /// The partition is ours.
    Taken {
        /// Partition.
        key: TopicPartition,
        /// The assignment that asked.
        turn: u64,
        /// With what it is taken over.
        taken: partitions::Taken,
    },
    /// It is stored where reading goes on.
    Settled {
        /// Partition.
        key: TopicPartition,
        /// Under this epoch.
        epoch: i64,
        /// Gaps that have no end yet.
        open_gaps: Vec<OpenGap>,
    },
    /// The gaps are recorded, and reading stands before them.
    Stopped(TopicPartition),
    /// The stretch is durable, or still is.
    Saved {
        /// Partition.
        key: TopicPartition,
        /// Under this epoch.
        epoch: i64,
        /// Up to this offset.
        next_offset: i64,
    },
    /// Another replica has the partition.
    Fenced {
        /// Partition.
        key: TopicPartition,
        /// The epoch that is over.
        epoch: i64,
    },
    /// Postgres refuses, and trying again will not help.
    Failed(String),
}

/// A stretch on its way to Postgres; its profiles are encoded by the saver.
#[derive(Debug)]
pub struct Unsaved {
    /// Partition.
    pub key: TopicPartition,
    /// The epoch it was read under.
    pub epoch: i64,
    /// The offset that Postgres has to have.
    pub expected_offset: i64,
    /// The first offset of the stretch.
    pub first_offset: i64,
    /// The offset after it.
    pub next_offset: i64,
    /// The leader epoch of the last message before that, where it is known.
    pub leader_epoch: Option<i32>,
    /// Which log under the partition's name it was read from.
    pub generation: i64,
    /// How many partitions the topic has, where that is news.
    pub count: Option<Count>,
    /// Gaps behind which it has the first message, with the first window that is whole again.
    pub closed_gaps: Vec<(OpenGap, DateTime<Utc>)>,
    /// Messages in it.
    pub messages: i64,
    /// Messages that no monitor could use.
    pub rejected_messages: i64,
    /// Tombstones.
    pub skipped: i64,
    /// What was set aside.
    pub rejected: Vec<Rejected>,
    /// Greatest event time per monitor.
    pub max_event_times: Vec<(i64, DateTime<Utc>)>,
    /// What it adds to windows, per monitor.
    pub deltas: Vec<(i64, Delta)>,
    /// Since when the partition is caught up and quiet.
    pub idle_since: Option<DateTime<Utc>>,
    /// When that was confirmed last.
    pub idle_confirmed_at: Option<DateTime<Utc>>,
    /// It was so at the last checkpoint.
    pub was_idle: bool,
    /// When the stretch was cut off: its rows were read before.
    pub cut_ms: i64,
}

/// Works on requests until the collect half hangs up.
#[derive(Debug, Clone)]
pub struct Saver {
    pool: PgPool,
    owner: String,
    readiness: Readiness,
    /// Requests that have failed and are tried again.
    failing: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Saver {
    /// Starts it; answers where to ask and where to hear.
    pub fn start(
        handle: &Handle,
        pool: PgPool,
        owner: String,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> (mpsc::Sender<Request>, mpsc::Receiver<Reply>) {
        let (requests, mut asked) = mpsc::channel(QUEUE);
        let (answers, replies) = mpsc::channel(QUEUE);
        let saver = Self {
            pool,
            owner,
            readiness,
            failing: Arc::default(),
            stop,
        };
        let task = async move {
            let mut tasks: JoinSet<()> = JoinSet::new();
            while let Some(request) = asked.recv().await {
                while tasks.len() >= AT_ONCE {
                    tasks.join_next().await;
                }
                let (saver, answers) = (saver.clone(), answers.clone());
                tasks.spawn(async move {
                    if let Some(reply) = saver.answer(request).await {
                        // Nobody hears it any more when the collect half has ended.
                        let _ = answers.send(reply).await;
                    }
                });
            }
            tasks.join_all().await;
        };
        handle.spawn(task);
        (requests, replies)
    }

    async fn answer(&self, request: Request) -> Option<Reply> {
        let pool = &self.pool;
        let reply = match request {
            Request::NoteTopic(count) => {
                let note = || topics::note(pool, &count);
                let noted = self.retrying("note a topic", note).await;
                noted.map(|stored| stored.then(|| Reply::Noted(count.clone())))
            }
            Request::TakeOver { key, turn } => self.take_over(key, turn).await.map(Some),
            Request::Save(unsaved) => self.save(*unsaved).await.map(Some),
            Request::Confirm {
                key,
                epoch,
                next_offset,
            } => self.confirm(key, epoch, next_offset).await.map(Some),
            Request::Settle(settlement) => self.settle(&settlement).await.map(Some),
        };
        reply.unwrap_or_else(|error| Some(Reply::Failed(error)))
    }

    async fn take_over(&self, key: TopicPartition, turn: u64) -> Result<Reply, String> {
        let take = || async {
            let doing = store::Error::doing("take a partition over");
            let mut connection = self.pool.acquire().await.map_err(doing)?;
            partitions::take_over(&mut connection, &key.topic, key.partition, &self.owner).await
        };
        reached(Failpoint::BeforeTakeOver);
        let taken = self.retrying("take a partition over", take).await?;
        reached(Failpoint::TakenOver);
        Ok(Reply::Taken { key, turn, taken })
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Reply, String> {
        let (topic, partition) = (settlement.topic.as_str(), settlement.partition);
        let key = TopicPartition {
            topic: topic.into(),
            partition,
        };
        let epoch = settlement.epoch;
        reached(Failpoint::BeforeSettle);
        if settlement.policy == "stop" && !settlement.gaps.is_empty() {
            let (place, gaps) = ((topic, partition), &settlement.gaps);
            let record = || gaps::record(&self.pool, place, gaps, "stop", false);
            self.retrying("record gaps", record).await?;
            reached(Failpoint::Settled);
            return Ok(Reply::Stopped(key));
        }
        let settle = || partitions::settle(&self.pool, settlement);
        let settled = self
            .retrying("settle where reading goes on", settle)
            .await?;
        reached(Failpoint::Settled);
        let Some(settled) = settled else {
            return Ok(Reply::Fenced { key, epoch });
        };
        for (partition, gap) in settled.lost {
            let from = gap.from_offset;
            metrics::gaps(topic, gap.reason, 1);
            tracing::error!(
                topic,
                partition,
                generation = gap.generation,
                policy = settlement.policy,
                "the topic was made anew with {} partitions; of this one, messages from {from} on \
                 were not read",
                settlement.partitions
            );
        }
        let open_gaps = settled.open_gaps;
        Ok(Reply::Settled {
            key,
            epoch,
            open_gaps,
        })
    }

    async fn save(&self, unsaved: Unsaved) -> Result<Reply, String> {
        let (key, epoch, next_offset) = (unsaved.key.clone(), unsaved.epoch, unsaved.next_offset);
        let encode = tokio::task::spawn_blocking(move || encode(unsaved));
        let checkpoint = encode
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        let begun = std::time::Instant::now();
        let save = || checkpoints::save(&self.pool, &checkpoint);
        let outcome = self.retrying("save a checkpoint", save).await?;
        metrics::checkpoint_duration_seconds(begun.elapsed().as_secs_f64());
        Ok(match outcome {
            Outcome::Saved => {
                metrics::checkpoints(1);
                Reply::Saved {
                    key,
                    epoch,
                    next_offset,
                }
            }
            Outcome::Fenced => {
                metrics::fenced_checkpoints(1);
                Reply::Fenced { key, epoch }
            }
        })
    }

    async fn confirm(
        &self,
        key: TopicPartition,
        epoch: i64,
        next_offset: i64,
    ) -> Result<Reply, String> {
        let (topic, partition) = (&*key.topic, key.partition);
        let stands = || partitions::stands_at(&self.pool, topic, partition, epoch, next_offset);
        Ok(match self.retrying("confirm an offset", stands).await? {
            true => Reply::Saved {
                key,
                epoch,
                next_offset,
            },
            false => Reply::Fenced { key, epoch },
        })
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
fn encode(unsaved: Unsaved) -> Result<Checkpoint, encoding::Error> {
    let Unsaved {
        key,
        rejected,
        deltas,
        ..
    } = unsaved;
    let mut encoded = Vec::with_capacity(deltas.len());
    for (monitor_id, mut delta) in deltas {
        let rows = delta.profile.rows;
        let bytes = (rows > 0)
            .then(|| encoding::encode(&mut delta.profile, true))
            .transpose()?;
        encoded.push(checkpoints::Delta {
            monitor_id,
            version: delta.version.to_string(),
            window_start: DateTime::from_timestamp_millis(delta.start_ms).unwrap_or_default(),
            window_end: DateTime::from_timestamp_millis(delta.end_ms).unwrap_or_default(),
            baseline_id: delta.plan.baseline_id.clone(),
            first_offset: delta.offsets.start,
            next_offset: delta.offsets.end,
            rows: count(rows),
            late: count(delta.late),
            keeps_up: rows > 0 && unsaved.cut_ms < delta.due_ms,
            delta: bytes,
        });
    }
    let (topic, partition) = (key.topic.to_string(), key.partition);
    let rejected = rejected.into_iter().map(|one| rejected::Rejected {
        topic: topic.clone(),
        partition,
        generation: unsaved.generation,
        offset: one.offset,
        monitor: one.monitor,
        reason: one.reason.as_str().to_owned(),
        detail: one.detail,
        digest: one.digest.to_vec(),
        payload_bytes: count(one.payload_bytes as u64),
        payload: one.payload,
    });
    Ok(Checkpoint {
        rejected: rejected.collect(),
        topic: topic.clone(),
        partition,
        epoch: unsaved.epoch,
        expected_offset: unsaved.expected_offset,
        first_offset: unsaved.first_offset,
        next_offset: unsaved.next_offset,
        leader_epoch: unsaved.leader_epoch,
        generation: unsaved.generation,
        count: unsaved.count,
        closed_gaps: unsaved.closed_gaps,
        messages: unsaved.messages,
        rejected_messages: unsaved.rejected_messages,
        skipped: unsaved.skipped,
        max_event_times: unsaved.max_event_times,
        deltas: encoded,
        idle_since: unsaved.idle_since,
        idle_confirmed_at: unsaved.idle_confirmed_at,
        was_idle: unsaved.was_idle,
    })
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
