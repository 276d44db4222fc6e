//! Questions to the brokers, off the polling thread.
//!
//! A question can take as long as a leader is down. So it has a client of its own, without a group,
//! and threads of its own. Logs are asked about many at a time: all leaders at once, and one after the
//! other where one of them does not answer, so that it keeps no other's answer back.
//!
//! The client reads uncommitted: only then is the end of a log that it is told the real one. The end
//! for readers of committed messages stands still behind a transaction that hangs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::partition::log::{Log, ReadUpTo, Topic};
use super::topics::Key;
use crate::ingest::admin::{self, Described};
use crate::ingest::consumer::{self, Context, TopicPartition};
use crate::ingest::queue::Waker;
use crate::settings::Kafka;

/// Questions and answers that may wait for a thread; more wait in the collect half.
const QUEUE: usize = 64;
/// Questions about logs that are asked at a time.
const LOG_THREADS: usize = 4;
/// Partitions in one question about logs.
const PARTITIONS_AT_ONCE: usize = 256;
/// How long a question may take before it counts as not answered.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How often the client is looked after while nobody asks.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// A question about one partition's log.
#[derive(Debug, Clone)]
pub struct LogQuestion {
    /// The partition.
    pub key: Key,
    /// The assignment that asks.
    pub assignment: u64,
    /// The partition's names in Kafka.
    pub name: TopicPartition,
    /// Also the first offset with a timestamp not before this, in milliseconds.
    pub since_ms: Option<i64>,
    /// Also whether it is still the log that was read up to there.
    pub read: Option<ReadUpTo>,
}

/// What is asked.
#[derive(Debug)]
enum Question {
    /// What these topics are at this moment.
    Topics { number: u64, names: Vec<String> },
    /// Where logs begin and end at this moment.
    Logs(Vec<LogQuestion>),
}

/// What the brokers say of each topic that was asked about, or why nothing.
pub type Topics = KafkaResult<Vec<(String, Result<Topic, RDKafkaErrorCode>)>>;

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// Name and topic of each that was asked about.
    Topics {
        /// The question's number.
        number: u64,
        /// The answer.
        topics: Topics,
    },
    /// A log, per question; `None`: no answer came.
    Logs(Vec<(LogQuestion, Option<Log>)>),
}

/// What all threads share.
struct Shared {
    client: BaseConsumer<Context>,
    kafka: Kafka,
    stop: AtomicBool,
    waker: Waker,
    answered: SyncSender<Answer>,
}

/// Where to ask, and where to hear. Dropping it ends its threads, after the questions in hand.
pub struct Brokers {
    shared: Arc<Shared>,
    /// Questions that found the threads' queues full.
    waiting: Vec<Question>,
    topics: Option<SyncSender<Question>>,
    logs: Option<SyncSender<Question>>,
    threads: Vec<JoinHandle<()>>,
    answers: Receiver<Answer>,
}

impl Brokers {
    /// Starts the threads.
    ///
    /// # Errors
    /// A property is unknown to librdkafka or has a wrong value.
    pub fn start(kafka: &Kafka, waker: Waker) -> KafkaResult<Self> {
        let (answered, answers) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            client: consumer::without_group(kafka)?,
            kafka: kafka.clone(),
            stop: AtomicBool::new(false),
            waker,
            answered,
        });
        let mut threads = Vec::new();
        // Topics have a way of their own: any broker answers.
        let topics = open(&shared, 1, &mut threads);
        let logs = open(&shared, LOG_THREADS, &mut threads);
        Ok(Self {
            shared,
            waiting: Vec::new(),
            topics: Some(topics),
            logs: Some(logs),
            threads,
            answers,
        })
    }

    /// Asks what topics are.
    pub fn ask_topics(&mut self, number: u64, names: Vec<String>) {
        self.waiting.push(Question::Topics { number, names });
        self.send();
    }

    /// Asks where logs begin and end.
    pub fn ask_logs(&mut self, questions: &[LogQuestion]) {
        let batches = questions.chunks(PARTITIONS_AT_ONCE);
        let batches = batches.map(|batch| Question::Logs(batch.to_vec()));
        self.waiting.extend(batches);
        self.send();
    }

    /// The next answer that is there.
    pub fn hear(&mut self) -> Option<Answer> {
        let answer = self.answers.try_recv().ok();
        self.send();
        answer
    }

    fn send(&mut self) {
        for question in std::mem::take(&mut self.waiting) {
            let to = match &question {
                Question::Topics { .. } => &self.topics,
                Question::Logs(_) => &self.logs,
            };
            let sent = to.as_ref().map(|to| to.try_send(question));
            if let Some(Err(TrySendError::Full(question))) = sent {
                self.waiting.push(question);
            }
        }
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        (self.topics, self.logs) = (None, None);
        // Answers that nobody hears any more must not hold a thread up.
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            let _ = self.answers.recv_timeout(Duration::from_millis(20));
        }
        for thread in self.threads.drain(..) {
            // One that panicked has told so already.
            let _ = thread.join();
        }
    }
}

fn open(
    shared: &Arc<Shared>,
    threads: usize,
    spawned: &mut Vec<JoinHandle<()>>,
) -> SyncSender<Question> {
    let (questions, asked) = sync_channel(QUEUE);
    let asked = Arc::new(Mutex::new(asked));
    spawned.extend((0..threads).map(|_| {
        let (shared, asked) = (Arc::clone(shared), Arc::clone(&asked));
        std::thread::spawn(move || serve(&shared, &asked))
    }));
    questions
}

fn serve(shared: &Shared, asked: &Mutex<Receiver<Question>>) {
    let mut broker = None;
    while !shared.stop.load(Ordering::SeqCst) {
        let question = asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv_timeout(LOOK_AFTER);
        // What the client has to tell, and tokens that have to be renewed, wait for a poll.
        let _ = shared.client.poll(Duration::ZERO);
        match question {
            Ok(Question::Topics { number, names }) => {
                let topics = describe_by(&shared.client, &mut broker, &names);
                let topics = topics.map(|topics| names.into_iter().zip(topics).collect());
                shared.answer(Answer::Topics { number, topics });
            }
            Ok(Question::Logs(questions)) => shared.answer_logs(questions),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Shared {
    fn answer(&self, answer: Answer) {
        // Fails only when nobody hears it any more.
        let _ = self.answered.send(answer);
        self.waker.wake();
    }

    /// Where a log was cut is asked only where there is a sign of that, one partition after the other:
    /// it takes a client of its own.
    fn answer_logs(&self, questions: Vec<LogQuestion>) {
        let logs = logs_of(&self.client, &questions);
        let pairs = questions.into_iter().zip(logs);
        let (cut, whole): (Vec<_>, Vec<_>) = pairs.partition(|(question, log)| {
            let read = question.read.zip(log.as_ref());
            read.is_some_and(|(read, log)| read.fetch_stopped || read.offset > log.high)
        });
        if !whole.is_empty() {
            self.answer(Answer::Logs(whole));
        }
        for (question, log) in cut {
            let log = match self.stop.load(Ordering::SeqCst) {
                true => None,
                false => log.and_then(|log| self.with_divergence(&question, log)),
            };
            self.answer(Answer::Logs(vec![(question, log)]));
        }
    }

    fn with_divergence(&self, question: &LogQuestion, log: Log) -> Option<Log> {
        let Some(read) = question.read else {
            return Some(log);
        };
        let asked = consumer::diverges_at(&self.kafka, &question.name, read, TIMEOUT);
        let (topic, partition) = (&question.name.topic, question.name.partition);
        asked
            .inspect_err(|error| {
                tracing::warn!(%topic, partition, %error, "no answer where a partition's log was cut");
            })
            .ok()
            .map(|diverges_at| Log { diverges_at, ..log })
    }
}

/// Asks where logs begin and end; each end by a question of its own, and last for the first message not
/// before a time: what comes between the questions is not passed over.
fn logs_of(client: &BaseConsumer<Context>, questions: &[LogQuestion]) -> Vec<Option<Log>> {
    let lows = offsets_of(client, questions.iter().map(|one| (one, Offset::Beginning)));
    let begun = questions.iter().filter(|one| lows.contains_key(&one.name));
    let highs = offsets_of(client, begun.map(|one| (one, Offset::End)));
    let since = questions.iter().filter(|one| highs.contains_key(&one.name));
    let since = since.filter_map(|one| Some((one, Offset::Offset(one.since_ms?))));
    let since = offsets_of(client, since);
    let log = |question: &LogQuestion| {
        let found = since.get(&question.name);
        if question.since_ms.is_some() && found.is_none() {
            return None;
        }
        Some(Log {
            low: *lows.get(&question.name).filter(|low| **low >= 0)?,
            high: *highs.get(&question.name).filter(|high| **high >= 0)?,
            since: found.copied().filter(|since| *since >= 0),
            diverges_at: None,
        })
    };
    questions.iter().map(log).collect()
}

/// One offset per partition, of those whose leader answers; `-1`: there is no message since a time.
///
/// librdkafka has an admin call for the same, in which a leader that does not answer keeps no other's
/// answer back. But that one starts on the caller's thread what its own thread may end and free at the
/// same time (2.12.1, `rd_kafka_topic_partition_list_query_leaders_async`).
fn offsets_of<'a>(
    client: &BaseConsumer<Context>,
    wanted: impl Iterator<Item = (&'a LogQuestion, Offset)>,
) -> HashMap<TopicPartition, i64> {
    // A partition that was assigned again may ask twice; librdkafka takes it once.
    let places: HashMap<&TopicPartition, Offset> =
        wanted.map(|(one, place)| (&one.name, place)).collect();
    if places.is_empty() {
        return HashMap::new();
    }
    let partitions = places.len();
    let answer = offsets_at(client, places.iter()).or_else(|error| {
        tracing::debug!(partitions, %error, "each leader is asked about logs by itself");
        offsets_by_leader(client, &places)
    });
    answer.unwrap_or_else(|error| {
        tracing::warn!(partitions, %error, "no answer about the logs of partitions");
        HashMap::new()
    })
}

/// Fails where any leader does not answer, or not to this.
fn offsets_at<'a>(
    client: &BaseConsumer<Context>,
    places: impl Iterator<Item = (&'a &'a TopicPartition, &'a Offset)>,
) -> KafkaResult<HashMap<TopicPartition, i64>> {
    let mut list = TopicPartitionList::new();
    for (name, place) in places {
        list.add_partition_offset(&name.topic, name.partition, *place)?;
    }
    let found = client.offsets_for_times(list, TIMEOUT)?;
    let found = found.elements().into_iter().filter_map(|one| {
        one.error().ok()?; // such as a partition without a leader
        let name = TopicPartition {
            topic: one.topic().into(),
            partition: one.partition(),
        };
        Some((name, one.offset().to_raw()?))
    });
    Ok(found.collect())
}

/// Asks one leader after the other. Fails where nobody knows who they are, or none answers.
fn offsets_by_leader(
    client: &BaseConsumer<Context>,
    places: &HashMap<&TopicPartition, Offset>,
) -> KafkaResult<HashMap<TopicPartition, i64>> {
    let topics: HashSet<&str> = places.keys().map(|name| &*name.topic).collect();
    let mut by_leader: HashMap<i32, Vec<(&&TopicPartition, &Offset)>> = HashMap::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), TIMEOUT)?;
        let leaders = metadata.topics().iter().flat_map(MetadataTopic::partitions);
        let leaders: HashMap<i32, i32> = leaders.map(|one| (one.id(), one.leader())).collect();
        for place in places.iter().filter(|(name, _)| &*name.topic == topic) {
            let leader = leaders.get(&place.0.partition).copied().unwrap_or(-1);
            by_leader.entry(leader).or_default().push(place);
        }
    }
    let (mut found, mut failed) = (HashMap::new(), None);
    for places in by_leader.into_values() {
        match offsets_at(client, places.into_iter()) {
            Ok(offsets) => found.extend(offsets),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Asks the broker that has answered last; at first, and where it answers no more, another one of
/// those that metadata names.
fn describe_by(
    client: &BaseConsumer<Context>,
    broker: &mut Option<i32>,
    names: &[String],
) -> KafkaResult<Described> {
    let known = match broker.take() {
        Some(known) => known,
        None => {
            let name = names.first().map(String::as_str);
            let metadata = client.fetch_metadata(name, TIMEOUT)?;
            let orig = metadata.orig_broker_id();
            // A connection by a bootstrap address may not know to which broker it leads.
            match metadata.brokers().first() {
                Some(first) if orig < 0 => first.id(),
                _ => orig,
            }
        }
    };
    let described = admin::describe(client.client(), known, names, TIMEOUT)?;
    *broker = Some(known);
    Ok(described)
}
