//! What driftd takes for granted of a broker, shown on Apache Kafka with its client alone. The mock
//! cluster answers each of these wrongly or not at all.

use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::harness::kafka::Kafka;

const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// Polls before a test gives up: a minute where nothing comes.
const POLLS: usize = 600;
/// 1 April 2013: older than any retention by default.
const START_MS: i64 = 1_364_774_400_000;

fn producer(kafka: &Kafka) -> BaseProducer {
    kafka.client().create().unwrap()
}

/// One record a second, from `START_MS` on.
fn produce(producer: &BaseProducer, topic: &str, payloads: &[&str]) {
    for (payload, second) in payloads.iter().zip(0..) {
        let record = BaseRecord::<(), str>::to(topic)
            .partition(0)
            .payload(payload)
            .timestamp(START_MS + second * 1000);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
}

fn consumer(kafka: &Kafka, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = kafka.client();
    config
        .set("enable.auto.commit", "false")
        .set("group.id", "unused");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().unwrap()
}

/// The payloads of partition 0, from its start to its end.
fn read_all(kafka: &Kafka, topic: &str, isolation: &str) -> Vec<String> {
    let consumer = consumer(
        kafka,
        &[
            ("isolation.level", isolation),
            ("enable.partition.eof", "true"),
        ],
    );
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&from).unwrap();
    let mut seen = Vec::new();
    for _ in 0..POLLS {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => seen.push(text(&message.detach())),
            Some(Err(KafkaError::PartitionEOF(_))) => return seen,
            Some(Err(error)) => panic!("{error}"),
        }
    }
    panic!("the end of {topic} has not come after {seen:?}");
}

fn text(message: &OwnedMessage) -> String {
    String::from_utf8(message.payload().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn offsets_are_found_by_timestamp() {
    let Some(kafka) = Kafka::start_or_skip("kafka::offsets_are_found_by_timestamp") else {
        return;
    };
    kafka.create_topic("by_timestamp", 1).await;
    produce(
        &producer(kafka),
        "by_timestamp",
        &["0", "1", "2", "3", "4", "5"],
    );

    let consumer = consumer(kafka, &[]);
    let offset_at = |ms: i64| {
        let mut asked = TopicPartitionList::new();
        asked
            .add_partition_offset("by_timestamp", 0, Offset::Offset(ms))
            .unwrap();
        let answer = consumer.offsets_for_times(asked, TIMEOUT).unwrap();
        answer.elements()[0].offset()
    };
    assert_eq!(offset_at(0), Offset::Offset(0));
    assert_eq!(
        offset_at(START_MS + 3000),
        Offset::Offset(3),
        "the record of that instant"
    );
    assert_eq!(
        offset_at(START_MS + 3001),
        Offset::Offset(4),
        "the first one after it"
    );
    assert_eq!(
        offset_at(START_MS + 5001),
        Offset::End,
        "nothing is that young"
    );
}

#[tokio::test]
async fn aborted_records_are_not_read() {
    let Some(kafka) = Kafka::start_or_skip("kafka::aborted_records_are_not_read") else {
        return;
    };
    kafka.create_topic("transactions", 1).await;
    let producer: BaseProducer = kafka
        .client()
        .set("transactional.id", "driftd-it")
        .create()
        .unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    for (payloads, keep) in [(["a", "b"], true), (["x", "y"], false), (["c", "d"], true)] {
        producer.begin_transaction().unwrap();
        produce(&producer, "transactions", &payloads);
        match keep {
            true => producer.commit_transaction(TIMEOUT).unwrap(),
            false => producer.abort_transaction(TIMEOUT).unwrap(),
        }
    }

    assert_eq!(
        read_all(kafka, "transactions", "read_committed"),
        ["a", "b", "c", "d"]
    );
    let all = read_all(kafka, "transactions", "read_uncommitted");
    assert_eq!(
        all,
        ["a", "b", "x", "y", "c", "d"],
        "they are in the log all the same"
    );
}

#[tokio::test]
async fn a_second_consumer_takes_partitions_over() {
    let Some(kafka) = Kafka::start_or_skip("kafka::a_second_consumer_takes_partitions_over") else {
        return;
    };
    kafka.create_topic("shared_out", 4).await;
    let join = || {
        let member = consumer(
            kafka,
            &[
                ("group.id", "shared_out"),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("heartbeat.interval.ms", "200"),
                ("session.timeout.ms", "6000"),
            ],
        );
        member.subscribe(&["shared_out"]).unwrap();
        member
    };

    let first = join();
    assert_eq!(settle(&[&first], &[4]), [4]);
    let second = join();
    assert_eq!(settle(&[&first, &second], &[2, 2]), [2, 2]);
    drop(first);
    assert_eq!(settle(&[&second], &[4]), [4]);
}

/// Polls the members of a group until each holds as many partitions as wanted, or it takes too long.
fn settle(members: &[&BaseConsumer], wanted: &[usize]) -> Vec<usize> {
    let mut held = Vec::new();
    for _ in 0..POLLS {
        for member in members {
            if let Some(Err(error)) = member.poll(POLL) {
                panic!("{error}");
            }
        }
        held = members
            .iter()
            .map(|member| member.assignment().unwrap().count())
            .collect();
        if held == wanted {
            break;
        }
    }
    held
}

#[tokio::test]
async fn deleted_records_move_the_start() {
    let Some(kafka) = Kafka::start_or_skip("kafka::deleted_records_move_the_start") else {
        return;
    };
    kafka.create_topic("shortened", 1).await;
    produce(&producer(kafka), "shortened", &["0", "1", "2", "3"]);
    kafka.delete_records("shortened", 0, 3).await;

    let ends = consumer(kafka, &[])
        .fetch_watermarks("shortened", 0, TIMEOUT)
        .unwrap();
    assert_eq!(ends, (3, 4));
    assert_eq!(read_all(kafka, "shortened", "read_committed"), ["3"]);
}

#[tokio::test]
async fn a_topic_made_anew_starts_at_zero() {
    let Some(kafka) = Kafka::start_or_skip("kafka::a_topic_made_anew_starts_at_zero") else {
        return;
    };
    kafka.create_topic("made_anew", 1).await;
    produce(&producer(kafka), "made_anew", &["old", "old"]);
    kafka.delete_topic("made_anew").await;
    let error = consumer(kafka, &[])
        .fetch_watermarks("made_anew", 0, TIMEOUT)
        .unwrap_err();
    // The client's own word where it has heard of it already, else the broker's.
    let unknown = [
        Some(RDKafkaErrorCode::UnknownPartition),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition),
    ];
    assert!(unknown.contains(&error.rdkafka_error_code()), "{error}");

    kafka.create_topic("made_anew", 1).await;
    produce(&producer(kafka), "made_anew", &["new"]);
    assert_eq!(read_all(kafka, "made_anew", "read_committed"), ["new"]);
}

#[test]
fn a_broker_leaves_nothing_behind() {
    if Kafka::start_or_skip("kafka::a_broker_leaves_nothing_behind").is_none() {
        return;
    }
    let kafka = Kafka::start();
    let (address, dir) = (kafka.brokers().to_owned(), kafka.dir().to_owned());
    assert!(std::net::TcpStream::connect(&address).is_ok());
    drop(kafka);
    assert!(
        std::net::TcpStream::connect(&address).is_err(),
        "it still listens"
    );
    assert!(!dir.exists(), "its directory is still there");
}
