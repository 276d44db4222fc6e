//! The asker: what the collect half asks of the brokers, off its polling thread.
//!
//! A question can take as long as a leader is down. So it has a client of its own, without a
//! group, and threads of its own: a partition that gets no answer waits alone. Answers name the
//! number of their question, so that one to a question that was given up is told apart.
//!
//! Its client reads uncommitted: only then is the end of a log that it is told the real one. The
//! end for readers of committed messages stands still behind a transaction that hangs.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};

use crate::ingest::consumer::{self, Context, Log, ReadUpTo, TopicPartition};
use crate::ingest::describe::{self, Described, Topic};
use crate::settings::Kafka;

/// Questions and answers that may wait: a partition has one of each at most.
const QUEUE: usize = 4096;
/// Logs that are asked about at a time; each may be one whose leader is down.
const AT_ONCE: usize = 8;
/// How long a question may take before it counts as not answered.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How often the client is looked after while nobody asks.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// What all threads share.
struct Brokers {
    client: BaseConsumer<Context>,
    kafka: Kafka,
}

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// What these topics are at this moment.
    Topics {
        /// Numbers questions about topics.
        number: u64,
        /// Their names.
        names: Vec<String>,
    },
    /// Where a partition's log begins and ends at this moment.
    Log {
        /// Numbers questions about logs.
        number: u64,
        /// Partition.
        key: TopicPartition,
        /// Also the first offset with a timestamp not before this, in milliseconds.
        since_ms: Option<i64>,
        /// Also whether it is still the log that was read up to there.
        read: Option<ReadUpTo>,
    },
}

/// What is answered, or why nothing is.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Topics`].
    Topics {
        /// The question's number.
        number: u64,
        /// Name and topic of each that was asked about, or why there is none.
        topics: KafkaResult<Vec<(String, Result<Topic, RDKafkaErrorCode>)>>,
    },
    /// To [`Question::Log`].
    Log {
        /// The question's number.
        number: u64,
        /// Partition.
        key: TopicPartition,
        /// Its log.
        log: KafkaResult<Log>,
    },
}

/// Where to ask, and where to hear. Dropping it ends its threads, after the questions in hand.
#[derive(Debug)]
pub struct Asker {
    /// Topics have a way of their own: any broker answers.
    topics: Way,
    logs: Way,
    answers: Receiver<Answer>,
}

impl Asker {
    /// Starts its threads.
    ///
    /// # Errors
    /// A property is unknown to librdkafka or has a wrong value.
    pub fn start(kafka: &Kafka) -> KafkaResult<Self> {
        let brokers = Arc::new(Brokers {
            client: consumer::without_group(kafka)?,
            kafka: kafka.clone(),
        });
        let (answered, answers) = sync_channel(QUEUE);
        Ok(Self {
            topics: Way::open(&brokers, 1, &answered),
            logs: Way::open(&brokers, AT_ONCE, &answered),
            answers,
        })
    }

    /// Asks; false where too much is asked already, to be tried again later.
    pub fn ask(&self, question: Question) -> bool {
        let way = match &question {
            Question::Topics { .. } => &self.topics,
            Question::Log { .. } => &self.logs,
        };
        let questions = way.questions.as_ref();
        questions.is_some_and(|questions| questions.try_send(question).is_ok())
    }

    /// The next answer that is there.
    pub fn hear(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

/// Questions, and the threads that answer them. They are waited for at the end: the client must be
/// gone before the process is.
#[derive(Debug)]
struct Way {
    questions: Option<SyncSender<Question>>,
    threads: Vec<JoinHandle<()>>,
}

impl Way {
    fn open(brokers: &Arc<Brokers>, threads: usize, answered: &SyncSender<Answer>) -> Self {
        let (questions, asked) = sync_channel(QUEUE);
        let asked = Arc::new(Mutex::new(asked));
        let spawn = |_| {
            let (brokers, asked) = (Arc::clone(brokers), Arc::clone(&asked));
            let answered = answered.clone();
            std::thread::spawn(move || serve(&brokers, &asked, &answered))
        };
        Self {
            questions: Some(questions),
            threads: (0..threads).map(spawn).collect(),
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.questions = None;
        for thread in self.threads.drain(..) {
            // One that panicked has told so already.
            let _ = thread.join();
        }
    }
}

fn serve(brokers: &Brokers, asked: &Mutex<Receiver<Question>>, answered: &SyncSender<Answer>) {
    let mut broker = None;
    loop {
        let question = asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv_timeout(LOOK_AFTER);
        // What the client has to tell, and tokens that have to be renewed, wait for a poll.
        let _ = brokers.client.poll(Duration::ZERO);
        match question {
            // There is room for an answer to every question, so that this never waits.
            Ok(question) => {
                if answered
                    .try_send(answer(brokers, &mut broker, question))
                    .is_err()
                {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn answer(brokers: &Brokers, broker: &mut Option<i32>, question: Question) -> Answer {
    match question {
        Question::Topics { number, names } => {
            let described = describe_by(&brokers.client, broker, &names);
            let topics = described.map(|topics| names.into_iter().zip(topics).collect());
            Answer::Topics { number, topics }
        }
        Question::Log {
            number,
            key,
            since_ms,
            read,
        } => {
            let log = log_of(brokers, &key, since_ms, read);
            Answer::Log { number, key, log }
        }
    }
}

/// Where the log was cut is asked only where there is a sign of that: it takes a client of its own.
fn log_of(
    brokers: &Brokers,
    key: &TopicPartition,
    since_ms: Option<i64>,
    read: Option<ReadUpTo>,
) -> KafkaResult<Log> {
    let log = consumer::log_of(&brokers.client, key, since_ms, TIMEOUT)?;
    let diverges_at = match read {
        Some(read) if read.given_up || read.offset > log.high => {
            consumer::diverges_at(&brokers.kafka, key, read, TIMEOUT)?
        }
        _ => None,
    };
    Ok(Log { diverges_at, ..log })
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
    let described = describe::describe(client.client(), known, names, TIMEOUT)?;
    *broker = Some(known);
    Ok(described)
}
