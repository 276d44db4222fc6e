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

/// Topics of as many partitions each, and who writes to them.
pub(crate) struct Load {
    topics: Vec<String>,
    partitions: usize,
    rows: Rows,
    producer: ThreadedProducer<Deliveries>,
}

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
    pub(crate) fn new(
        servers: &str,
        topics: Vec<String>,
        partitions: usize,
        features: usize,
    ) -> anyhow::Result<Self> {
        let producer = client(servers)
            .set("compression.type", "lz4")
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "500000")
            .create_with_context(Deliveries::default())?;
        Ok(Self {
            topics,
            partitions,
            rows: Rows::new(features),
            producer,
        })
    }

    /// Fills the last full windows with so many rows per partition, and adds to each partition a row
    /// of the present window, which closes them. Partition by partition, so that batches are large.
    pub(crate) fn store(&self, rows: usize) -> anyhow::Result<()> {
        let now = Clock::System.now_ms();
        let present = now - now % WINDOW_MS;
        let span_ms = i64::try_from(WINDOWS)? * WINDOW_MS;
        let mut text = Vec::new();
        for (number, topic) in self.topics.iter().enumerate() {
            for partition in 0..self.partitions {
                for i in 0..rows {
                    let after_ms = span_ms * i64::try_from(i)? / i64::try_from(rows)?;
                    let nth = (number * self.partitions + partition) * rows + i;
                    self.rows
                        .write(nth, present - span_ms + after_ms, &mut text);
                    self.send(topic, partition, &text)?;
                }
                self.rows.write(number, present + WINDOW_MS / 2, &mut text);
                self.send(topic, partition, &text)?;
            }
        }
        self.flush()
    }

    /// A row a second to each topic, to its partitions in turn, for so many seconds; in a second the
    /// topics follow each other at equal distances.
    pub(crate) fn trickle(&self, seconds: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut text = Vec::new();
        for second in 0..seconds {
            for (number, topic) in self.topics.iter().enumerate() {
                let due = second as f64 + number as f64 / self.topics.len() as f64;
                let due = Duration::from_secs_f64(due);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                let nth = second * self.topics.len() + number;
                self.rows.write(nth, Clock::System.now_ms(), &mut text);
                self.send(topic, second % self.partitions, &text)?;
            }
        }
        self.flush()
    }

    fn send(&self, topic: &str, partition: usize, text: &[u8]) -> anyhow::Result<()> {
        let mut record = BaseRecord::<(), _>::to(topic)
            .partition(i32::try_from(partition)?)
            .payload(text);
        while let Err((error, again)) = self.producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            ensure!(error == full, error);
            std::thread::sleep(Duration::from_millis(1));
            record = again;
        }
        Ok(())
    }

    fn flush(&self) -> anyhow::Result<()> {
        self.producer.flush(Duration::from_secs(300))?;
        let failed = self.producer.context().failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} rows did not reach the brokers");
        Ok(())
    }
}
