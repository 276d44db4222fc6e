//! Messages as a real topic holds them, the same for the same seed: rows of four features with what
//! may be wrong with each, bounded disorder, late rows, and messages of which nothing can be used.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// Where event time begins, 1 April 2013: a multiple of the window's length.
pub(crate) const START_MS: i64 = 1_364_774_400_000;
pub(crate) const WINDOW_MS: i64 = 600_000;
pub(crate) const OUT_OF_ORDERNESS_MS: i64 = 30_000;
pub(crate) const ALLOWED_MS: i64 = 10_000;
pub(crate) const MAX_FUTURE_MS: i64 = 3_600_000;
pub(crate) const PARTITIONS: i32 = 3;
/// Events come at most so far from their place in the order, to either side.
const DISORDER_MS: i64 = 18_000;
const YEAR_2100_MS: i64 = 4_102_444_800_000;
const BASELINE_ROWS: usize = 2_000;
const COUNTRIES: [(&str, f64); 5] = [
    ("DE", 0.4),
    ("FR", 0.7),
    ("US", 0.9),
    ("JP", 0.98),
    ("PE", 1.0),
];

/// A stream of pseudo-random numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn within(&mut self, reach: i64) -> i64 {
        i64::try_from(self.below(2 * reach.unsigned_abs() + 1)).unwrap() - reach
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// One message, as it is produced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) record_ms: i64,
    /// `None`: a tombstone.
    pub(crate) payload: Option<String>,
}

/// What a window of the stream is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) rows: i64,
    /// Added to `amount`, whose standard deviation is 10.
    pub(crate) shift: f64,
}

pub(crate) fn steady(rows: i64) -> Phase {
    Phase { rows, shift: 0.0 }
}

/// Stable windows, four with a shifted feature, stable ones again; one that holds too few rows, a
/// silent one, and a second drift in the end.
pub(crate) fn story() -> Vec<Phase> {
    let drifted = Phase {
        rows: 300,
        shift: 9.0,
    };
    let mut story = vec![steady(300); 5];
    story.extend([drifted; 4]);
    story.extend([steady(300); 4]);
    story.extend([steady(40), steady(0), steady(300), drifted, steady(300)]);
    story
}

/// One feature's value, as written in a message or a training file.
fn amount(dice: &mut Dice, shift: f64) -> String {
    format!("{:.3}", 50.0 + shift + 10.0 * dice.normal())
}

fn country(dice: &mut Dice) -> &'static str {
    let at = dice.unit();
    let found = COUNTRIES.iter().find(|(_, until)| at < *until);
    found.map_or("PE", |(name, _)| name)
}

/// The training data as CSV, with empty cells for nulls.
pub(crate) fn baseline_csv(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut csv = String::from("amount,age,score,country\n");
    for _ in 0..BASELINE_ROWS {
        let amount = amount(&mut dice, 0.0);
        let age = 18 + dice.below(60);
        let score = match dice.unit() < 0.05 {
            true => String::new(),
            false => format!("{:.3}", dice.unit()),
        };
        let country = match dice.unit() < 0.03 {
            true => "",
            false => country(&mut dice),
        };
        csv += &format!("{amount},{age},{score},{country}\n");
    }
    csv
}

/// The messages of a story in the order in which they are produced. The last one of each partition
/// closes all windows of the story: nothing is left to the clock.
pub(crate) fn messages(seed: u64, story: &[Phase]) -> Vec<Record> {
    messages_over(PARTITIONS, seed, story)
}

/// The same over so many partitions.
pub(crate) fn messages_over(partitions: i32, seed: u64, story: &[Phase]) -> Vec<Record> {
    let mut dice = Dice::new(seed);
    let mut records = Vec::new();
    for (window, phase) in (0..).zip(story) {
        for row in 0..phase.rows {
            let place = START_MS + window * WINDOW_MS + row * WINDOW_MS / phase.rows;
            let event_ms = (place + dice.within(DISORDER_MS)).max(START_MS);
            let partition = partition(&mut dice, partitions);
            records.push(message(&mut dice, partition, event_ms, window, phase.shift));
        }
    }
    let end = START_MS + i64::try_from(story.len()).unwrap() * WINDOW_MS;
    records.extend((0..partitions).map(|partition| closer(&mut dice, partition, end)));
    records
}

/// A row after the end that lets every window before it ripen.
fn closer(dice: &mut Dice, partition: i32, end_ms: i64) -> Record {
    let event_ms = end_ms + OUT_OF_ORDERNESS_MS + ALLOWED_MS + 1_000;
    Record {
        partition,
        record_ms: event_ms,
        payload: Some(row(dice, &at_number(event_ms), 0.0)),
    }
}

/// A few partitions get unlike shares.
fn partition(dice: &mut Dice, partitions: i32) -> i32 {
    if partitions > PARTITIONS {
        return i32::try_from(dice.below(partitions.unsigned_abs().into())).unwrap();
    }
    match dice.below(10) {
        0..5 => 0,
        5..8 => 1,
        _ => 2,
    }
}

fn message(dice: &mut Dice, partition: i32, event_ms: i64, window: i64, shift: f64) -> Record {
    let record_ms = event_ms + i64::try_from(dice.below(2_000)).unwrap();
    let payload = match dice.below(1_000) {
        0..4 => Some("{\"at\": 13647744".to_owned()),
        4..8 => Some("no JSON at all".to_owned()),
        8..14 => None,
        14..20 => Some(row(dice, "", shift)),
        20..25 => Some(row(dice, "\"at\": \"soon\", ", shift)),
        25..30 => Some(row(dice, &at_number(YEAR_2100_MS), shift)),
        30..45 if window >= 3 => {
            let late = event_ms - WINDOW_MS * (2 + i64::from(dice.unit() < 0.5));
            Some(row(dice, &at_number(late), shift))
        }
        45..145 => Some(row(dice, &at_text(event_ms), shift)),
        _ => Some(row(dice, &at_number(event_ms), shift)),
    };
    Record {
        partition,
        record_ms,
        payload,
    }
}

fn at_number(event_ms: i64) -> String {
    format!("\"at\": {event_ms}, ")
}

fn at_text(event_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(event_ms).unwrap();
    let text = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("\"at\": \"{text}\", ")
}

/// One row; its features now and then are null, missing, of another type or new.
fn row(dice: &mut Dice, at: &str, shift: f64) -> String {
    let amount = amount(dice, shift);
    let amount = match dice.below(300) {
        0 => "\"amount\": null, ".to_owned(),
        1 => String::new(),
        2 => "\"amount\": \"a lot\", ".to_owned(),
        3..9 => format!("\"amount\": \"{amount}\", "),
        _ => format!("\"amount\": {amount}, "),
    };
    let age = 18 + dice.below(60);
    let score = match dice.unit() < 0.05 {
        true => "null".to_owned(),
        false => format!("{:.3}", dice.unit()),
    };
    let country = match dice.below(200) {
        0..6 => "null".to_owned(),
        6 => "\"XX\"".to_owned(),
        _ => format!("\"{}\"", country(dice)),
    };
    let id = dice.next();
    format!(
        "{{{at}{amount}\"age\": {age}, \"nested\": {{\"ignored\": [1, \"{id:x}\"]}}, \
         \"score\": {score}, \"country\": {country}}}"
    )
}

/// Produces records in their order; a fresh topic gives each the offset that is its place among
/// the records of its partition. Returns when the broker has all of them.
pub(crate) fn produce(brokers: &str, topic: &str, records: &[Record]) {
    produce_as("none", brokers, topic, records);
}

/// The same, with batches that are compressed.
pub(crate) fn produce_as(codec: &str, brokers: &str, topic: &str, records: &[Record]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .set("compression.codec", codec)
        .create()
        .unwrap();
    for record in records {
        send(&producer, topic, record);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// Hands one record to a producer, as soon as that has room for it.
pub(crate) fn send(producer: &BaseProducer, topic: &str, record: &Record) {
    let mut new = BaseRecord::<(), str>::to(topic)
        .partition(record.partition)
        .timestamp(record.record_ms);
    if let Some(payload) = &record.payload {
        new = new.payload(payload.as_str());
    }
    loop {
        match producer.send(new) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), same)) => {
                producer.poll(Duration::from_millis(10));
                new = same;
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
}
