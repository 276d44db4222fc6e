//! JSON to columns, beside a check of the bytes (the limit) and a parse that keeps nothing.

use std::sync::Arc;

use driftd::batch::Builder;
use driftd::ingest::decode::json::Decoder;
use driftd::ingest::decode::{BATCH_ROWS, Plan};
use driftd::ingest::stretch::{Message, Stretch};
use driftd::settings::MessageLimits;
use jiter::Jiter;

use crate::measure::{Cost, Table, bound, repeat};
use crate::records;

const ROWS: usize = 40_000;

pub(crate) fn run() -> anyhow::Result<()> {
    let payloads = records::payloads(ROWS);
    let bytes = bytes_per_row(&payloads);
    let title = format!("decode: JSON, 27 fields, {bytes} bytes");
    let table = Table::new(&title, "row", "UTF-8 check", utf8(&payloads));
    table.line("bare parse, nothing kept", bare_parse(&payloads));
    let features = records::features();
    let mut all: Vec<(&str, bool)> = features.iter().map(|(n, number)| (&**n, *number)).collect();
    all.insert(0, ("id", false));
    all.push(("event_time", true));
    let whole = decode(&records::plan(all.iter().copied())?, &payloads);
    table.line("decode, all 27 fields", whole);
    let some = all.iter().copied().step_by(5).take(6);
    table.line(
        "decode, 6 of 27 fields",
        decode(&records::plan(some)?, &payloads),
    );
    table.line(
        "decode, 25 features and the event time",
        stretch(&payloads)?,
    );

    let payloads = records::nested(ROWS);
    let bytes = bytes_per_row(&payloads);
    let title = format!("decode: nested JSON, {bytes} bytes");
    let table = Table::new(&title, "row", "UTF-8 check", utf8(&payloads));
    table.line("bare parse, nothing kept", bare_parse(&payloads));
    let plan = records::plan(records::NESTED)?;
    table.line("decode, 6 leaves", decode(&plan, &payloads));

    let rate = 1e3 / whole.median;
    let what = "all 27 fields at 0.8 M rows/s per core or more";
    bound(what, rate, rate >= 0.8);
    Ok(())
}

fn bytes_per_row(payloads: &[Vec<u8>]) -> usize {
    payloads.iter().map(Vec::len).sum::<usize>() / payloads.len()
}

fn utf8(payloads: &[Vec<u8>]) -> Cost {
    let valid = |payload: &&Vec<u8>| std::str::from_utf8(payload).is_ok();
    repeat(payloads.len(), || payloads.iter().filter(valid).count())
}

/// Walks every message with the parser, and skips it.
pub(crate) fn bare_parse(payloads: &[Vec<u8>]) -> Cost {
    let valid = |payload: &&Vec<u8>| {
        let mut json = Jiter::new(payload);
        let skipped = json.peek().and_then(|peek| json.known_skip(peek));
        skipped.and_then(|()| json.finish()).is_ok()
    };
    repeat(payloads.len(), || payloads.iter().filter(valid).count())
}

fn decode(plan: &Plan, payloads: &[Vec<u8>]) -> Cost {
    let mut decoder = Decoder::default();
    let mut builder = Builder::new(&plan.shapes(), BATCH_ROWS);
    repeat(payloads.len(), || {
        for payload in payloads {
            let rows = decoder.decode(plan, payload, &mut builder).unwrap_or(0);
            builder.keep(0, rows);
            if builder.len() >= BATCH_ROWS {
                let batch = std::hint::black_box(builder.finish());
                builder.reuse(batch);
            }
        }
        builder.finish()
    })
}

/// As the collect half does it: with event times.
fn stretch(payloads: &[Vec<u8>]) -> anyhow::Result<Cost> {
    let settings = records::settings("localhost:9092", "postgres://localhost/d", 100)?;
    let baseline = Arc::new(records::baseline()?);
    let plan = records::topic_plan(&settings.monitors[0], 1, &baseline)?;
    let mut stretch = Stretch::new(&plan, MessageLimits::default());
    Ok(repeat(payloads.len(), || {
        for (offset, payload) in (0..).zip(payloads) {
            let message = Message {
                offset,
                record_ms: Some(records::START_MS),
                payload: Some(payload),
                headers: &[],
            };
            stretch.take(&plan, message);
            if stretch.is_full() {
                let rows = std::hint::black_box(stretch.finish());
                stretch.reuse(rows);
            }
        }
        stretch.finish()
    }))
}
