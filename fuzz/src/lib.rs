//! What is fuzzed: each target takes any bytes, and panics where something that has to hold does
//! not. `./dev fuzz` looks for such bytes; `tests/it/seeds.rs` runs what is in `seeds/`, and small
//! changes of it, as a plain test.
//!
//! There is no target for HTTP: driftd answers three GETs and reads no body.

use driftd::batch::{Batch, Builder};
use driftd::ingest::decode::json::Decoder;
use driftd::ingest::decode::{Plan, Read, Source};
use driftd::ingest::path::FieldPath;
use driftd::monitor::{Schedule, TimeUnit};
use driftd::profile::{Layout, encoding};
use driftd::retrain::schedule::Slots;
use driftd::settings::{Error, MessageLimits, Settings};

/// Stands in no UTF-8: between the messages of a log.
const NEXT: u8 = 0xff;
/// Small, so that they are met.
const LIMITS: MessageLimits = MessageLimits {
    bytes: 4096,
    depth: 6,
    rows: 5,
    label_bytes: 16,
};

/// Paths, a line each, and messages: what is read of a message has nothing to do with the messages
/// before it, and what is refused leaves nothing behind.
pub fn decode(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == NEXT);
    let plan = plan(parts.next().unwrap_or_default());
    let builder = || Builder::new(&plan.shapes(), 4).cutting(LIMITS.label_bytes);
    let (mut one, mut another) = (builder(), builder());
    let mut decoder = Decoder::new(LIMITS);
    for (offset, payload) in (0..).zip(parts) {
        let found = decoder.decode(&plan, payload, &mut one);
        // This one has not seen what such messages look like.
        let expected = Decoder::new(LIMITS).decode(&plan, payload, &mut another);
        assert_eq!(told(&found), told(&expected));
        one.keep(offset, found.unwrap_or(0));
        another.keep(offset, expected.unwrap_or(0));
    }
    assert_eq!(one.take_cut(), another.take_cut());
    assert_eq!(said(&one.finish()), said(&another.finish()));
}

fn told<T: std::fmt::Debug, E: ToString>(result: &Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

/// All that a batch says; a dictionary's texts in the order in which rows have them.
fn said(batch: &Batch) -> String {
    let columns = (0..batch.columns()).map(|column| (batch.array(column), batch.cells(column)));
    format!("{:?} {:?}", columns.collect::<Vec<_>>(), batch.origins)
}

fn plan(text: &[u8]) -> Plan {
    let mut plan = Plan::default();
    for line in String::from_utf8_lossy(text).lines().take(12) {
        let (kind, path) = line.split_at(line.chars().next().map_or(0, char::len_utf8));
        let read = match kind {
            "n" => Read::Number,
            "t" => Read::Time(TimeUnit::Ms),
            "s" => Read::Seconds(TimeUnit::S),
            "v" => Read::Vector(2),
            "w" => Read::Vector(3),
            "l" => Read::Text {
                plain_numbers: true,
            },
            _ => Read::Text {
                plain_numbers: false,
            },
        };
        let Ok(path) = FieldPath::parse(path) else {
            continue;
        };
        let again = FieldPath::parse(&path.to_string());
        assert_eq!(again.as_ref(), Ok(&path), "{path} is not what was parsed");
        // Paths of two arrays do not go together.
        let _ = plan.add(Source::Field(path), read);
    }
    plan
}

/// A stored layout: an error, or a layout that is stored as it was.
pub fn layout(data: &[u8]) {
    let Ok(layout) = encoding::decode_layout(data) else {
        return;
    };
    let stored = encoding::encode_layout(&layout);
    assert_eq!(encoding::decode_layout(&stored).unwrap(), layout);
    let nothing = &mut driftd::profile::Profile::empty(&layout, 3);
    let stored = encoding::encode(nothing, true).unwrap();
    encoding::decode(&stored, &layout).unwrap();
}

/// A layout with every kind of feature.
fn all_kinds() -> Layout {
    let stored = include_bytes!("../../tests/reference/layout_v2_all.bin");
    encoding::decode_layout(stored).unwrap()
}

/// A stored profile: an error, or a profile that is stored as it was and merges.
pub fn profile(data: &[u8]) {
    let layout = all_kinds();
    let Ok(mut read) = encoding::decode(data, &layout) else {
        return;
    };
    let stored = encoding::encode(&mut read, true).unwrap();
    let mut again = encoding::decode(&stored, &layout).unwrap();
    assert_eq!(again.features, read.features);
    assert_eq!(encoding::encode(&mut again, true).unwrap(), stored);
    again.merge(&read);
    encoding::encode(&mut again, true).unwrap();
}

/// The Arrow stream in a stored profile.
pub fn sample(data: &[u8]) {
    let layout = all_kinds();
    let mut nothing = driftd::profile::Profile::empty(&layout, 6);
    let mut stored = encoding::encode(&mut nothing, false).unwrap();
    stored.extend(data);
    profile(&stored);
}

/// Settings: none, with all that is wrong with them, each named; or settings.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Settings::from_toml(&text) {
        Ok(settings) => assert!(!settings.redacted().is_empty()),
        Err(Error::Unreadable { .. }) => panic!("nothing was read"),
        Err(Error::Wrong(problems)) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let syntax = problem.found.starts_with("not TOML");
                assert!(syntax || !problem.key.is_empty(), "{problem}");
                assert!(!problem.found.is_empty() && !problem.right.is_empty());
            }
        }
    }
}

/// A zone, a time, and a cron expression: slots come one after the other, and from behind they are
/// the same ones.
pub fn schedule(data: &[u8]) {
    let Some((head, cron)) = data.split_first_chunk::<6>() else {
        return;
    };
    let [zone, more, seconds @ ..] = head;
    let zone = usize::from(*zone) * 256 + usize::from(*more);
    let schedule = Schedule {
        cron: String::from_utf8_lossy(cron).into_owned(),
        time_zone: chrono_tz::TZ_VARIANTS[zone % chrono_tz::TZ_VARIANTS.len()],
        catch_up: driftd::monitor::retraining::CatchUp::All,
    };
    let Ok(slots) = Slots::new(&schedule) else {
        return;
    };
    assert_ne!(slots.cron(), "");
    // From 1970 to 2106.
    let mut slot =
        chrono::DateTime::from_timestamp(u32::from_le_bytes(*seconds).into(), 0).unwrap();
    for _ in 0..4 {
        let Some(next) = slots.next(slot) else {
            return;
        };
        assert!(next > slot, "{next} is not after {slot}");
        assert_eq!(slots.last(slot, next), Some(next), "since {slot}");
        slot = next;
    }
}
