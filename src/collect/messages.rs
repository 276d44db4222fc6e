//! From messages to profiles: those of one partition come in runs, are decoded into columns, and go into
//! the profiles of their windows at once. Nothing waits in between.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::Collector;
use super::partition::{Batch, Event};
use super::topics::{Key, Topic};
use crate::failpoint::{Failpoint, reached};
use crate::ingest::queue::Message;
use crate::ingest::stretch;
use crate::telemetry::metrics;

impl Collector {
    /// Takes messages in. Those of one partition come in runs.
    pub(super) fn read(&mut self, wait: Duration) {
        let messages = self.queue.poll(wait);
        if messages.is_empty() {
            return;
        }
        reached(Failpoint::Polled);
        let now = self.clock.now_ms();
        for run in messages.chunk_by(|a, b| a.source() == b.source()) {
            let Some(key) = run.first().and_then(|message| self.key_of(message)) else {
                continue;
            };
            self.read_run(key, run, now);
        }
    }

    fn key_of(&self, message: &Message) -> Option<Key> {
        Some(Key {
            reading: *self.by_name.get(message.topic())?,
            partition: message.partition(),
        })
    }

    fn read_run(&mut self, key: Key, run: &[Message], now: i64) {
        let mut begins = 0;
        for (at, message) in run.iter().enumerate() {
            if let Some((code, text)) = message.error() {
                self.read_rows(key, &run[begins..at], now);
                begins = at + 1;
                self.on_error(key, code, &text);
            }
        }
        self.read_rows(key, &run[begins..], now);
    }

    /// Decodes messages of one partition, and has their rows profiled.
    fn read_rows(&mut self, key: Key, messages: &[Message], now: i64) {
        let topic = &mut self.topics[key.reading];
        let expected = topic.partitions.get(&key.partition);
        let Some(expected) = expected.and_then(|slot| slot.partition.expects()) else {
            return;
        };
        // Before the seek other messages may still be on their way.
        let from = messages.partition_point(|message| message.offset() < expected);
        let mut rest = &messages[from..];
        while !rest.is_empty() {
            let taken = decode(topic, rest);
            let (batch, after) = rest.split_at(taken);
            rest = after;
            let grown = hand_on(topic, key.partition, batch, now);
            self.held = self.held.saturating_add_signed(grown);
        }
    }

    /// An error of a partition, or of the client, which mends most by itself.
    fn on_error(&mut self, key: Key, code: RDKafkaErrorCode, text: &str) {
        use RDKafkaErrorCode as Code;
        let (topic, partition) = (self.topics[key.reading].name.to_string(), key.partition);
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => self.tell(key, Event::FetchStopped),
            Code::TopicAuthorizationFailed => {
                let reason = format!(
                    "partition {partition}: the brokers do not let driftd read the topic: {text}; give \
                     its user the right READ on it"
                );
                self.tell(key, Event::Unreadable(reason));
            }
            // The client would go on behind a batch that is damaged.
            Code::BadMessage => {
                let reason = format!(
                    "partition {partition}: a batch is damaged: {text}. `driftd reset-partition` goes on \
                     behind it"
                );
                self.tell(key, Event::Unreadable(reason));
            }
            Code::BadCompression => {
                metrics::unreadable_batches(1);
                tracing::error!(
                    topic,
                    partition,
                    error = text,
                    "a batch is damaged, or is larger than receive.message.max.bytes when unpacked: its \
                     partition stands still, and it is tried again"
                );
            }
            _ => tracing::warn!(topic, partition, %code, error = text, "Kafka client error"),
        }
    }
}

/// Decodes messages into the topic's rows, until those are a full batch; answers how many messages.
fn decode(topic: &mut Topic, messages: &[Message]) -> usize {
    let Topic {
        plan,
        rows,
        headers,
        ..
    } = topic;
    for (at, message) in messages.iter().enumerate() {
        let headers: Vec<Option<String>> =
            headers.iter().map(|name| message.header(name)).collect();
        rows.take(
            plan,
            stretch::Message {
                offset: message.offset(),
                record_ms: message.timestamp_ms(),
                payload: message.payload(),
                headers: &headers,
            },
        );
        if rows.is_full() {
            return at + 1;
        }
    }
    messages.len()
}

/// Has the rows of these messages profiled; answers by how much what the partition holds has grown.
fn hand_on(topic: &mut Topic, partition: i32, messages: &[Message], now: i64) -> isize {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
        return 0;
    };
    let cut = topic.rows.take_cut_labels();
    let (rows, tally) = (topic.rows.finish(), topic.rows.take_tally());
    reached(Failpoint::Decoded);
    topic.count_rejected(&tally);
    let batch = Batch {
        rows: &rows,
        tally,
        first: (first.offset(), first.timestamp_ms()),
        next_offset: last.offset() + 1,
        leader_epoch: last.leader_epoch(),
    };
    let (assigned, grown) = topic.read(partition, batch, now);
    for (counters, added) in topic.plan.counters.iter().zip(assigned) {
        counters.add(added.counted, added.late, added.other);
    }
    topic.rows.reuse(rows);
    if cut > 0 {
        topic.capped("max_label_bytes", cut);
    }
    reached(Failpoint::HandedOn);
    grown
}
