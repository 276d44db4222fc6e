//! What is on the topics: rows stored before driftd starts, and a slow stream while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use driftd::clock::Clock;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::kafka::client;
use crate::rows::Rows;

/// Length of a window.
pub(crate) const WINDOW_MS: i64 = 3_600_000;
/// Windows that the stored rows fill.
pub(crate) const WINDOWS: usize = 4;

/// Topics that one producer fills: for each row it looks for the topic among all that it knows.
const TOPICS_AT_ONCE: usize = 20;

/// Topics of as many partitions each, and the rows that go there.
pub(crate) struct Load {
    pub(crate) servers: String,
    pub(crate) topics: Vec<String>,
    pub(crate) partitions: usize,
    pub(crate) rows: Rows,
}

/// A producer.
struct Writer(ThreadedProducer<Deliveries>);

/// Counts what did not arrive.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Load {
    /// Fills the last full windows with so many rows per partition, and adds to each partition a row
    /// of the present window, which closes them. Partition by partition, so that batches are large.
    pub(crate) fn store(&self, rows: usize) -> anyhow::Result<()> {
        let now = Clock::System.now_ms();
        let present = now - now % WINDOW_MS;
        let span_ms = i64::try_from(WINDOWS)? * WINDOW_MS;
        let mut text = Vec::new();
        let mut nth = 0;
        for topics in self.topics.chunks(TOPICS_AT_ONCE) {
            let writer = Writer::new(&self.servers)?;
            for (topic, partition) in self.partitions_of(topics) {
                for i in 0..rows {
                    let after_ms = span_ms * i64::try_from(i)? / i64::try_from(rows)?;
                    let at_ms = present - span_ms + after_ms;
                    self.rows.write(nth, at_ms, &mut text);
                    writer.send(topic, partition, &text)?;
                    nth += 1;
                }
                self.rows.write(nth, present + WINDOW_MS / 2, &mut text);
                writer.send(topic, partition, &text)?;
            }
            writer.flush()?;
        }
        Ok(())
    }

    fn partitions_of<'a>(&self, topics: &'a [String]) -> impl Iterator<Item = (&'a str, usize)> {
        let partitions = self.partitions;
        let of = move |topic: &'a String| (0..partitions).map(move |one| (topic.as_str(), one));
        topics.iter().flat_map(of)
    }

    /// A row a second to each topic, to its partitions in turn, for so many seconds; in a second the
    /// topics follow each other at equal distances.
    pub(crate) fn trickle(&self, seconds: usize) -> anyhow::Result<()> {
        let writer = Writer::new(&self.servers)?;
        let begun = Instant::now();
        let mut text = Vec::new();
        for second in 0..seconds {
            for (number, topic) in self.topics.iter().enumerate() {
                let due = second as f64 + number as f64 / self.topics.len() as f64;
                let due = Duration::from_secs_f64(due);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                let nth = second * self.topics.len() + number;
                self.rows.write(nth, Clock::System.now_ms(), &mut text);
                writer.send(topic, second % self.partitions, &text)?;
            }
        }
        writer.flush()
    }
}

impl Writer {
    fn new(servers: &str) -> anyhow::Result<Self> {
        let producer = client(servers)
            .set("compression.type", "lz4")
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "500000")
            .create_with_context(Deliveries::default())?;
        Ok(Self(producer))
    }

    fn send(&self, topic: &str, partition: usize, text: &[u8]) -> anyhow::Result<()> {
        let mut record = BaseRecord::<(), _>::to(topic)
            .partition(i32::try_from(partition)?)
            .payload(text);
        while let Err((error, again)) = self.0.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(error == full, error);
            std::thread::sleep(Duration::from_millis(1));
            record = again;
        }
        Ok(())
    }

    fn flush(&self) -> anyhow::Result<()> {
        self.0.flush(Duration::from_secs(300))?;
        let failed = self.0.context().failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} rows did not reach the brokers");
        Ok(())
    }
}
