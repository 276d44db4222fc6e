//! The Kafka client: its settings, its rebalances, its offsets.
//!
//! Offsets live in Postgres, beside the results they belong to. So an assignment starts paused: a
//! partition is read only after it was taken over there and sought to the stored offset.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::leader_epoch::{self, Place};
use crate::collect::partition::log::{Log, ReadUpTo};
use crate::settings::Kafka;
use crate::telemetry::metrics;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Partition. It comes first, so that a search compares few texts.
    pub partition: i32,
    /// Topic.
    pub topic: Arc<str>,
}

/// What the group has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// These are ours from now on; they are paused.
    Assigned(Vec<(String, i32)>),
    /// These are not ours any more.
    Revoked(Vec<(String, i32)>),
}

/// Notes what the group decides. The callbacks run inside of `poll`, on the same thread; acting on
/// a decision waits until `poll` has returned.
#[derive(Debug, Default)]
pub struct Context {
    decisions: Mutex<VecDeque<Assignment>>,
    given_up: Mutex<Vec<(String, i32)>>,
}

impl Context {
    /// The next decision that was not acted on yet.
    pub fn next_decision(&self) -> Option<Assignment> {
        self.decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Partitions that the client has given up by its latest statistics. It tells the error that led
    /// to it without the partition.
    pub fn given_up(&self) -> Vec<(String, i32)> {
        std::mem::take(&mut *self.given_up.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, decision: Assignment) {
        self.decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(decision);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(kafka.facility = facility, "{message}"),
            RDKafkaLogLevel::Warning => tracing::warn!(kafka.facility = facility, "{message}"),
            _ => tracing::debug!(kafka.facility = facility, "{message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut given_up = Vec::new();
        for (name, topic) in &statistics.topics {
            for (partition, state) in &topic.partitions {
                if *partition >= 0 && state.desired && state.fetch_state == "none" {
                    given_up.push((name.clone(), *partition));
                }
                // Offsets below 0 say that something is not known yet.
                if *partition >= 0 && state.app_offset >= 0 && state.hi_offset >= 0 {
                    let label = partition.to_string();
                    let lag = (state.hi_offset - state.app_offset).max(0);
                    let unstable = (state.hi_offset - state.ls_offset.max(0)).max(0);
                    metrics::consumer_lag_records(name, &label, lag as f64);
                    metrics::unstable_records(name, &label, unstable as f64);
                }
            }
        }
        *self.given_up.lock().unwrap_or_else(PoisonError::into_inner) = given_up;
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka client error");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let cooperative = is_cooperative(consumer);
        let names: Vec<(String, i32)> = partitions
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.note(Assignment::Assigned(names));
            assign_paused(consumer, partitions, cooperative)
        } else {
            self.note(Assignment::Revoked(names));
            if cooperative {
                consumer.incremental_unassign(partitions)
            } else {
                consumer.unassign()
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "cannot follow the group's assignment");
        }
    }
}

/// The offset to start at comes from Postgres later, by a seek; until then a pause keeps anything
/// else from being fetched.
///
/// The pause comes first, and the position is a number rather than the log's end: the client looks
/// up an end in the background, and an answer that comes after the seek moves the partition there,
/// past everything that was not read yet.
fn assign_paused(
    consumer: &BaseConsumer<Context>,
    partitions: &mut TopicPartitionList,
    cooperative: bool,
) -> KafkaResult<()> {
    partitions.set_all_offsets(Offset::Offset(0))?;
    consumer.pause(partitions)?;
    if cooperative {
        consumer.incremental_assign(partitions)?;
    } else {
        consumer.assign(partitions)?;
    }
    consumer.pause(partitions)
}

/// A consumer of these topics, as driftd needs it.
///
/// # Errors
/// A property is unknown to librdkafka or has a wrong value.
pub fn subscribe(kafka: &Kafka, topics: &[&str]) -> KafkaResult<BaseConsumer<Context>> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "driftd")
        // A fast consumer that empties its queue would otherwise wait a second for more.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", fetch_wait_ms(topics.len()))
        .set("queued.max.messages.kbytes", "65536")
        // How soon the group notices partitions that were added.
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set(
            "statistics.interval.ms",
            statistics_interval_ms(topics.len()),
        );
    if !kafka.brokers_assign() {
        config.set("partition.assignment.strategy", "cooperative-sticky");
    }
    for (name, value) in kafka.properties() {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true");
    let consumer: BaseConsumer<Context> = config.create_with_context(Context::default())?;
    consumer.subscribe(topics)?;
    Ok(consumer)
}

/// How long a broker keeps a fetch that finds nothing. A partition that was assigned meanwhile is part of
/// the next fetch only. But each fetch names all partitions of a broker: where there are many, and all
/// are quiet, they are asked for less often.
fn fetch_wait_ms(topics: usize) -> String {
    (topics * 5).clamp(100, 2_000).to_string()
}

/// Statistics name every partition too.
fn statistics_interval_ms(topics: usize) -> String {
    (topics * 100).clamp(5_000, 60_000).to_string()
}

/// A client that asks and reads nothing. It is no member of the group, and is told the real ends of
/// logs: those for readers of committed messages stand still behind a transaction that hangs.
///
/// # Errors
/// A property is unknown to librdkafka or has a wrong value.
pub fn without_group(kafka: &Kafka) -> KafkaResult<BaseConsumer<Context>> {
    let mut config = of_no_member(kafka);
    config.set("isolation.level", "read_uncommitted");
    config.create_with_context(Context::default())
}

/// A client that reads what it is assigned by hand, as readers of committed messages do. It never joins
/// the group: its name is there because the client reads nothing without one.
///
/// # Errors
/// A property is unknown to librdkafka or has a wrong value.
pub fn of_ranges(kafka: &Kafka) -> KafkaResult<BaseConsumer<Context>> {
    let mut config = reading_without_group(kafka);
    config
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true");
    config.create_with_context(Context::default())
}

fn reading_without_group(kafka: &Kafka) -> ClientConfig {
    let mut config = of_no_member(kafka);
    config
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false");
    config
}

/// What clients that join no group have in common.
fn of_no_member(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "driftd");
    for (name, value) in kafka.properties() {
        if !is_of_a_member(&name) {
            config.set(name, value);
        }
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("statistics.interval.ms", "0");
    config
}

/// Whether a property is for members of a group.
fn is_of_a_member(name: &str) -> bool {
    // max.poll.interval.ms too: the client refuses one below the session timeout, which it has not.
    const OTHERS: [&str; 4] = [
        "partition.assignment.strategy",
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
    ];
    name.starts_with("group.") || OTHERS.contains(&name)
}

/// Asks where a log begins and ends.
///
/// # Errors
/// The partition's leader cannot be reached in time, or gives no such offset.
pub fn log_of(
    client: &BaseConsumer<Context>,
    key: &TopicPartition,
    since_ms: Option<i64>,
    timeout: Duration,
) -> KafkaResult<Log> {
    let low = end_of(client, key, Offset::Beginning, timeout)?;
    let high = end_of(client, key, Offset::End, timeout)?;
    // After the end: what comes between the two questions is not passed over.
    let since = match since_ms {
        Some(ms) => offset_at(client, key, Offset::Offset(ms), timeout)?,
        None => None,
    };
    Ok(Log {
        low,
        high,
        since,
        diverges_at: None,
    })
}

/// An end of a log that has to be there.
fn end_of(
    client: &BaseConsumer<Context>,
    key: &TopicPartition,
    end: Offset,
    timeout: Duration,
) -> KafkaResult<i64> {
    let none = KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable);
    offset_at(client, key, end, timeout)?.ok_or(none)
}

/// Asks for one offset of a log: of an end, or of the first message with a timestamp not before the
/// one given in the place of an offset, in milliseconds.
///
/// The client can ask for both ends at once (`fetch_watermarks`). That forgets an error about the
/// first where both answers are there together, and gives the last offset for both.
fn offset_at(
    client: &BaseConsumer<Context>,
    key: &TopicPartition,
    place: Offset,
    timeout: Duration,
) -> KafkaResult<Option<i64>> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_offset(&key.topic, key.partition, place)?;
    let found = client.offsets_for_times(wanted, timeout)?;
    let found = found.find_partition(&key.topic, key.partition);
    let Some(found) = found else {
        return Ok(None);
    };
    found.error()?;
    match found.offset() {
        Offset::Offset(offset) => Ok(Some(offset)),
        _ => Ok(None),
    }
}

/// Asks where a log was cut and written on, below the offset up to which it was read. A client of
/// its own goes there: told to begin behind a message of that leader, and allowed to move, it begins
/// at the first offset that is not the one that was read.
///
/// # Errors
/// A property is wrong, or the partition's leader cannot be reached in time.
pub fn diverges_at(
    kafka: &Kafka,
    key: &TopicPartition,
    read: ReadUpTo,
    timeout: Duration,
) -> KafkaResult<Option<i64>> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut config = reading_without_group(kafka);
    config
        .set("auto.offset.reset", "latest")
        .set("isolation.level", "read_uncommitted")
        .set("enable.partition.eof", "true");
    let client: BaseConsumer<Context> = config.create_with_context(Context::default())?;
    assign_paused(&client, &mut list_of([key]), false)?;
    let mut begun = false;
    for _ in 0..timeout.as_millis().div_ceil(PAUSE.as_millis()) {
        begun = begun || {
            let place = Place {
                topic: &key.topic,
                partition: key.partition,
                offset: read.offset,
                leader_epoch: Some(read.leader_epoch),
            };
            let sought = seek(&client, &[place], Duration::from_secs(1));
            sought == [true] && client.resume(&list_of([key])).is_ok()
        };
        let first = match client.poll(PAUSE) {
            Some(Ok(message)) => message.offset(),
            Some(Err(KafkaError::PartitionEOF(_))) => end_of(&client, key, Offset::End, timeout)?,
            Some(Err(_)) | None => continue, // the client mends it by itself, or does not in time
        };
        return Ok((first < read.offset).then_some(first));
    }
    Err(KafkaError::MessageConsumption(
        RDKafkaErrorCode::OperationTimedOut,
    ))
}

/// Seeks paused partitions; answers whether each is where it should be. The client starts a new
/// assignment in the background and refuses to seek until then: this has to be asked again a little
/// later.
///
/// Where it is known under which leader the message before was written, the client asks the brokers
/// whether the log still has it, and stops fetching where it has not.
pub fn seek(
    consumer: &BaseConsumer<Context>,
    places: &[Place<'_>],
    timeout: Duration,
) -> Vec<bool> {
    let list = leader_epoch::list(places);
    let sought = list.and_then(|list| consumer.seek_partitions(list, timeout));
    match sought {
        Ok(list) => {
            let elements = list.elements();
            elements.iter().map(|one| one.error().is_ok()).collect()
        }
        Err(error) => {
            tracing::debug!(%error, "cannot seek yet");
            vec![false; places.len()]
        }
    }
}

/// Lets go of partitions and takes them again, paused, as the group has assigned them: a client
/// that was told that an offset is out of range has given the partition up, and does not seek.
/// Where the group assigns eagerly that goes for all partitions or none.
///
/// # Errors
/// The client refuses.
pub fn assign_anew(consumer: &BaseConsumer<Context>, keys: &[TopicPartition]) -> KafkaResult<()> {
    let mut list = list_of(keys);
    let cooperative = is_cooperative(consumer);
    if cooperative {
        consumer.incremental_unassign(&list)?;
    } else {
        consumer.unassign()?;
    }
    assign_paused(consumer, &mut list, cooperative)
}

/// Whether the group gives and takes single partitions.
pub fn is_cooperative(consumer: &BaseConsumer<Context>) -> bool {
    matches!(
        consumer.rebalance_protocol(),
        RebalanceProtocol::Cooperative
    )
}

/// How far the client has come in partitions, with the markers of transactions, which no reader is
/// given; and under which leader what lies before was written.
pub fn positions(
    consumer: &BaseConsumer<Context>,
    keys: &[TopicPartition],
) -> HashMap<TopicPartition, (i64, Option<i32>)> {
    let Ok(positions) = leader_epoch::positions(consumer.client(), &list_of(keys)) else {
        return HashMap::new();
    };
    let found = keys.iter().filter_map(|key| {
        let found = positions.find_partition(&key.topic, key.partition)?;
        let epoch = leader_epoch::of_place(&positions, key).ok()?;
        match found.offset() {
            Offset::Offset(offset) => Some((key.clone(), (offset, epoch))),
            _ => None,
        }
    });
    found.collect()
}

/// Partitions as the client takes them.
pub fn list_of<'a>(keys: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for key in keys {
        list.add_partition(&key.topic, key.partition);
    }
    list
}

/// Tells the group how far partitions were read: for tools that show lag, never read back.
pub fn commit_for_lag_tools(consumer: &BaseConsumer<Context>, read: &TopicPartitionList) {
    if let Err(error) = consumer.commit(read, CommitMode::Async) {
        tracing::debug!(%error, "cannot commit offsets for lag tools");
    }
}
