//! Messages that are made to do harm: each costs only itself, is kept with its reason, and its
//! offset advances; what stands around it comes out as if it were not there, in bounded memory.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};

use crate::harness::daemon::Daemon;
use crate::harness::kafka::Kafka;
use crate::harness::oracle::check;
use crate::harness::reference::Reference;
use crate::harness::stage::{Knobs, Stage, fresh_topic, mock_topic};
use crate::harness::traffic::{PARTITIONS, Record, START_MS, WINDOW_MS, messages, produce, steady};
use crate::harness::until;

/// A message, and one that a plain reader takes for the same.
struct Hostile {
    payload: String,
    record_ms: Option<i64>,
    stand_in: String,
    reason: Option<&'static str>,
}

fn rejected(reason: &'static str, payload: impl Into<String>) -> Hostile {
    Hostile {
        payload: payload.into(),
        record_ms: None,
        stand_in: "nothing".into(),
        reason: Some(reason),
    }
}

fn read(payload: impl Into<String>, stand_in: impl Into<String>) -> Hostile {
    Hostile {
        payload: payload.into(),
        record_ms: None,
        stand_in: stand_in.into(),
        reason: None,
    }
}

/// With `at` as a place for the event time.
fn all(at: i64) -> Vec<Hostile> {
    let row = |rest: &str| format!("{{\"at\": {at}, \"amount\": 50, \"age\": 30{rest}}}");
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let digits = "7".repeat(10_000);
    let absurd = Hostile {
        record_ms: Some(i64::MAX),
        ..rejected("bad_timestamp", row(""))
    };
    vec![
        rejected(
            "too_large",
            row(&format!(", \"x\": \"{}\"", " ".repeat(50 << 20))),
        ),
        rejected("too_large", "0".repeat(64 << 20)),
        rejected("too_deep", deep("[", "]")),
        rejected(
            "too_deep",
            row(&format!(", \"x\": {}", deep("{\"x\":", "}"))),
        ),
        rejected("unparsable", &row("")[..30]),
        rejected("unparsable", row(", \"country\": \"\\ud800\"")),
        rejected("unparsable", row(", \"country\": \"\0\"")),
        rejected("unparsable", format!("\u{feff}{}", row(""))),
        rejected("unparsable", ""),
        rejected("bad_timestamp", format!("{{\"at\": {}}}", i64::MAX)),
        rejected("bad_timestamp", format!("{{\"at\": {digits}}}")),
        rejected("bad_timestamp", "{\"at\": NaN}"),
        rejected("bad_timestamp", "{\"at\": \"+262142-12-31T23:59:59Z\"}"),
        absurd,
        read(
            row(", \"age\": \"x\", \"age\": 41, \"country\": \"DE\""),
            row(", \"country\": \"DE\"").replace("\"age\": 30", "\"age\": 41"),
        ),
        read(
            row(", \"country\": \"D\\u0000E\""),
            row(", \"country\": \"D\\u0000E\""),
        ),
        read(row(", \"\\u0000\": 1, \"country\\u0000\": \"DE\""), row("")),
        read(
            row(&format!(", \"score\": {digits}, \"country\": \"{digits}\"")),
            row(", \"score\": \"x\", \"country\": \"777\""),
        ),
        read(
            row(", \"score\": -Infinity, \"country\": [[[1]]]"),
            row(", \"score\": null"),
        ),
        read(
            row(&format!(", \"x\": [{}]", ["1"; 200_000].join(","))),
            row(""),
        ),
    ]
}

/// The most memory that a process has had, in bytes.
fn peak_bytes(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

fn metric(daemon: &Daemon, line: &str) -> u64 {
    let Some((_, text)) = daemon.get("/metrics") else {
        return 0;
    };
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0, |value| value.trim().parse().unwrap())
}

/// Messages of 50 and 64 MB, of which zstd makes a few thousand bytes, are unpacked whole: that is
/// what the bound below allows for.
#[tokio::test]
async fn hostile_messages_cost_only_themselves() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let mut log = messages(16, &[steady(300); 3]);
    // In the middle of a window, and after all else: one of them is the last of its partition.
    let middle = log.len() / 2;
    let event_ms = START_MS + WINDOW_MS + WINDOW_MS / 2;
    let hostile = all(event_ms);
    let reasons: Vec<Option<&str>> = hostile.iter().map(|one| one.reason).collect();
    let (mut sent, mut plain) = (Vec::new(), Vec::new());
    for one in hostile {
        let record = |payload, record_ms| Record {
            partition: 1,
            record_ms,
            payload: Some(payload),
        };
        sent.push(record(one.payload, one.record_ms.unwrap_or(event_ms)));
        plain.push(record(one.stand_in, event_ms));
    }
    let before = log[..middle]
        .iter()
        .filter(|record| record.partition == 1)
        .count();
    let first = i64::try_from(before).unwrap();
    let last = |payload: &str| Record {
        partition: 1,
        record_ms: event_ms,
        payload: Some(payload.to_owned()),
    };
    let mut tame = log.clone();
    tame.splice(middle..middle, plain);
    tame.push(last("nothing"));
    let rest = log.split_off(middle);
    let whole = [&log[..], &sent, &rest, &[last(&"[".repeat(10_000))]].concat();

    let mut reference = Reference::of(&tame, &stage.baseline_csv);
    for (partition, offset, reason) in &mut reference.rejected {
        let place = usize::try_from(*offset - first)
            .ok()
            .filter(|_| *partition == 1);
        if let Some(Some(expected)) = place.and_then(|place| reasons.get(place)) {
            *reason = expected;
        }
    }
    let end = reference.messages[1] - 1;
    for (partition, offset, reason) in &mut reference.rejected {
        if (*partition, *offset) == (1, end) {
            *reason = "too_deep";
        }
    }
    let mut daemon = Daemon::start(&stage.config);
    send(&knobs.brokers, &topic, &whole, "zstd");
    stage.saved(whole.len()).await;
    stage.judged(reference.windows.len()).await;
    let peak = peak_bytes(&daemon);
    check_caps(&daemon);
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check(&stage, &reference).await;

    // What the client fetches ahead (queued.max.messages.kbytes), a response and what it unpacks to
    // (receive.message.max.bytes, twice), and what driftd holds (limits.max_held_bytes).
    let bound = (64 << 20) + 2 * 100_000_000 + (256 << 20);
    println!("peak {} MiB, bound {} MiB", peak >> 20, bound >> 20);
    assert!(peak < bound, "{peak} bytes");
}

/// Each limit that was met is counted as often as it was.
fn check_caps(daemon: &Daemon) {
    for (cap, times) in [
        ("max_message_bytes", 2),
        ("max_message_depth", 3),
        ("max_label_bytes", 1),
    ] {
        let line = format!("driftd_capped_total{{monitor=\"credit\",cap=\"{cap}\"}}");
        assert_eq!(metric(daemon, &line), times, "{cap}");
    }
}

/// Large messages are in a batch of their own.
fn send(brokers: &str, topic: &str, records: &[Record], packed: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", packed)
        .set("message.max.bytes", "200000000")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create()
        .unwrap();
    for record in records {
        let mut new = BaseRecord::<(), str>::to(topic)
            .partition(record.partition)
            .timestamp(record.record_ms);
        if let Some(payload) = &record.payload {
            new = new.payload(payload.as_str());
        }
        let large = record
            .payload
            .as_ref()
            .is_some_and(|payload| payload.len() > 1 << 20);
        producer.send(new).map_err(|(error, _)| error).unwrap();
        if large {
            producer.flush(Duration::from_secs(60)).unwrap();
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// A batch that cannot be unpacked stands in its partition's way: that is said, and not passed over
/// in silence. The other partitions go on.
#[tokio::test]
async fn a_batch_that_cannot_be_unpacked_is_said_and_not_skipped() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let mut log = messages(17, &[steady(200)]);
    log.truncate(200);
    let bomb = Record {
        partition: 0,
        record_ms: START_MS,
        payload: Some("0".repeat(101_000_000)),
    };
    let after = Record {
        payload: Some("{}".into()),
        ..bomb.clone()
    };
    produce(&knobs.brokers, &topic, &log);
    send(&knobs.brokers, &topic, &[bomb, after], "zstd");

    let mut daemon = Daemon::start(&stage.config);
    until("it says so", async || {
        assert!(daemon.is_running(), "{}", daemon.log());
        metric(&daemon, "driftd_unreadable_batches_total ") > 2
    })
    .await;
    stage.saved(log.len()).await;
    assert!(
        daemon.log().contains("receive.message.max.bytes"),
        "{}",
        daemon.log()
    );
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let partition = |at: i32| log.iter().filter(|record| record.partition == at).count();
    let messages: Vec<i64> = (0..PARTITIONS)
        .map(|at| i64::try_from(partition(at)).unwrap())
        .collect();
    stage
        .check_coverage(&[0; PARTITIONS as usize], &messages)
        .await;
}

/// What the messages of a producer are like after its next release.
fn release(record: &Record) -> Record {
    let mut record = record.clone();
    if let Some(Ok(mut message)) = record.payload.as_deref().map(serde_json::from_str::<Value>)
        && let Some(fields) = message.as_object_mut()
    {
        fields.remove("score");
        let country = fields.remove("country");
        fields.insert("land".into(), country.unwrap_or_default());
        let amount = fields.remove("amount");
        fields.insert("amount".into(), json!({ "value": amount }));
        fields.insert("added".into(), json!([1, { "new": true }]));
        record.payload = Some(message.to_string());
    }
    record
}

/// In the middle of a window a column is removed, one is renamed, one is of another type and one
/// is new, until the release is taken back: every row counts, and what is not there any more is a
/// finding about its feature.
#[tokio::test]
async fn a_schema_that_changes_mid_stream_is_a_finding_not_an_error() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let mut log = messages(18, &[steady(300); 3]);
    log[450..600]
        .iter_mut()
        .for_each(|record| *record = release(record));
    produce(&knobs.brokers, &topic, &log);
    let reference = Reference::of(&log, &stage.baseline_csv);
    let window = &reference.windows[1];
    for feature in ["amount", "score", "country"] {
        let score = window.scores.iter().find(|score| score.feature == feature);
        let nulls = score.unwrap().nulls;
        assert!(
            nulls > window.rows / 3,
            "{feature}: {nulls} of {}",
            window.rows
        );
    }
    assert_eq!((window.verdict, window.drifted_features), ("drifted", 3));

    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    stage.judged(reference.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check(&stage, &reference).await;
}

/// Fifty times `fetch.message.max.bytes`, on a broker that gives out what it was given: the
/// partition is read on behind it.
#[tokio::test]
async fn a_message_larger_than_a_fetch_is_passed() {
    let name = "hostile::a_message_larger_than_a_fetch_is_passed";
    let Some(kafka) = Kafka::start_or_skip(name) else {
        return;
    };
    let topic = fresh_topic();
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().unwrap();
    let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
    let new = new.set("max.message.bytes", "80000000");
    let made = admin.create_topics([&new], &AdminOptions::new()).await;
    made.unwrap()[0].as_ref().unwrap();

    let mut knobs = Knobs::mock(&topic);
    knobs.brokers = kafka.brokers().to_owned();
    let stage = Stage::set(&knobs).await;
    let mut log = messages(19, &[steady(200); 2]);
    let offset = log[..200]
        .iter()
        .filter(|record| record.partition == 0)
        .count();
    let large = Record {
        partition: 0,
        record_ms: START_MS,
        payload: Some("nothing".into()),
    };
    log.insert(200, large);
    let mut reference = Reference::of(&log, &stage.baseline_csv);
    let place = (0, i64::try_from(offset).unwrap());
    for (partition, offset, reason) in &mut reference.rejected {
        if (*partition, *offset) == place {
            *reason = "too_large";
        }
    }
    log[200].payload = Some("7".repeat(50 << 20));
    send(&knobs.brokers, &topic, &log, "none");

    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    stage.judged(reference.windows.len()).await;
    println!("peak {} MiB", peak_bytes(&daemon) >> 20);
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check(&stage, &reference).await;
}
