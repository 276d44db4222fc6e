//! The row sample: the k rows of a window with the least hashes of (topic, partition, offset, row).
//!
//! Which rows those are depends on the log alone: replaying gives the same sample, and the bottom
//! k of a union is the bottom k of the parts' bottom k. Once k rows are known, a row above the
//! k-th hash is not even looked at. The hash is keyed; the key is driftd's own constant for now, so what
//! keeps a sender from placing rows in the sample is only that offsets are not his to choose.
//!
//! Embeddings are kept whole: k rows of d numbers are 8 k d bytes. So that this is bounded as well,
//! wide ones lower k ([`most_rows`]).

use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, UInt32Array, UInt64Array,
};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type, UInt64Type};
use arrow::error::ArrowError;

use super::{Columns, Layout};
use crate::batch::{Batch, vector_type};

/// Columns that every sample has before its features: hash, partition, offset, row, event time.
pub const OWN_COLUMNS: usize = 5;

/// Numbers in embeddings that a sample holds at most: 64 MiB.
const MOST_NUMBERS: usize = 1 << 23;

/// How many rows a sample of this layout holds where so many are asked for.
pub fn most_rows(layout: &Layout, asked: usize) -> usize {
    let width: usize = layout
        .features
        .iter()
        .map(|feature| feature.dimension)
        .sum();
    asked.min((MOST_NUMBERS / width.max(1)).max(1))
}

/// The finalising mix of splitmix64: a bijection that spreads neighbouring inputs.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes the rows of one partition.
#[derive(Debug, Clone, Copy)]
pub struct RowHash(u64);

impl RowHash {
    /// For one partition, under a key.
    pub fn new(key: u64, partition: i32) -> Self {
        Self(mix(key
            ^ u64::from(partition.cast_unsigned())
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// For one log under a partition's name: rows of another have offsets of their own. `generation`
    /// counts from 1.
    pub fn of_log(key: u64, partition: i32, generation: i64) -> Self {
        Self::new(
            key.wrapping_add(generation.wrapping_sub(1).cast_unsigned()),
            partition,
        )
    }

    /// The hash of one row.
    #[inline]
    pub fn of(self, offset: i64, row: u32) -> u64 {
        mix(mix(self.0 ^ offset.cast_unsigned()).wrapping_add(u64::from(row)))
    }
}

/// Up to k rows as they were.
#[derive(Debug, Clone)]
pub struct Sample {
    k: usize,
    /// Rows, in no order and possibly more than k until [`Sample::settle`].
    chunks: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    /// Whether `chunks` is one chunk of at most k rows in hash order.
    settled: bool,
    /// The k least hashes so far, also of rows that earlier stretches have saved already.
    least: BinaryHeap<u64>,
}

/// Where sample rows come from.
#[derive(Debug, Clone, Copy)]
pub struct Provenance<'a> {
    /// Kafka partition.
    pub partition: i32,
    /// Hashes its rows.
    pub hash: RowHash,
    /// Event times in milliseconds, by row of the batch.
    pub event_ms: &'a [i64],
}

impl Sample {
    /// An empty sample of at most `k` rows.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            chunks: Vec::new(),
            rows: 0,
            bytes: 0,
            settled: false,
            least: BinaryHeap::new(),
        }
    }

    /// Adds those of the rows that may be among the k.
    ///
    /// # Errors
    /// Arrow's, where columns and layout disagree.
    pub fn add(
        &mut self,
        layout: &Layout,
        batch: &Batch,
        columns: &Columns,
        rows: &[u32],
        from: Provenance<'_>,
    ) -> Result<(), ArrowError> {
        let mut kept = Vec::new();
        let mut hashes = Vec::new();
        for row in rows {
            let origin = batch.origins[*row as usize];
            let hash = from.hash.of(origin.offset, origin.row);
            if self.admit(hash) {
                kept.push(*row);
                hashes.push(hash);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let chunk = chunk(layout, batch, columns, &kept, hashes, from)?;
        self.push(chunk);
        if self.rows > self.k.saturating_mul(2).max(1024) {
            self.settle()?;
        }
        Ok(())
    }

    /// Whether a hash is among the k least so far; remembers it if so.
    fn admit(&mut self, hash: u64) -> bool {
        if self.least.len() < self.k {
            self.least.push(hash);
            return true;
        }
        match self.least.peek() {
            Some(greatest) if hash < *greatest => {
                self.least.pop();
                self.least.push(hash);
                true
            }
            _ => false,
        }
    }

    fn push(&mut self, chunk: RecordBatch) {
        self.settled = false;
        self.rows += chunk.num_rows();
        self.bytes += chunk.get_array_memory_size();
        self.chunks.push(chunk);
    }

    pub(super) fn of_chunk(k: usize, chunk: Option<RecordBatch>) -> Self {
        let mut sample = Self::new(k);
        if let Some(chunk) = chunk {
            for hash in chunk.column(0).as_primitive::<UInt64Type>().values() {
                sample.admit(*hash);
            }
            sample.push(chunk);
        }
        sample
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for chunk in &other.chunks {
            for hash in chunk.column(0).as_primitive::<UInt64Type>().values() {
                self.admit(*hash);
            }
            self.push(chunk.clone());
        }
    }

    /// The k rows in hash order, as one batch; `None` where there are none.
    ///
    /// # Errors
    /// Arrow's, where chunks of different layouts were merged.
    pub fn settle(&mut self) -> Result<Option<&RecordBatch>, ArrowError> {
        let Some(first) = self.chunks.first() else {
            return Ok(None);
        };
        if self.settled {
            return Ok(self.chunks.first());
        }
        let all = concat_batches(&first.schema(), &self.chunks)?;
        let keys: Vec<SortColumn> = all.columns()[..4]
            .iter()
            .map(|values| SortColumn {
                values: Arc::clone(values),
                options: None,
            })
            .collect();
        let order = lexsort_to_indices(&keys, Some(self.k))?;
        let settled = take_record_batch(&all, &order)?;
        self.chunks.clear();
        self.rows = 0;
        self.bytes = 0;
        self.push(settled);
        self.settled = true;
        Ok(self.chunks.first())
    }

    /// Hands out what was gathered and goes on empty, but keeps the k-th hash in mind: rows above
    /// it cannot be in the window's sample any more, whoever merges it.
    pub fn take(&mut self) -> Self {
        let taken = Self {
            k: self.k,
            chunks: std::mem::take(&mut self.chunks),
            rows: self.rows,
            bytes: self.bytes,
            settled: std::mem::take(&mut self.settled),
            least: BinaryHeap::new(),
        };
        self.rows = 0;
        self.bytes = 0;
        taken
    }

    /// How many rows are asked for at most.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Rows held, which may exceed k before [`Sample::settle`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.least.len() * 8
    }
}

/// The Arrow schema of a sample: hash, partition, offset, row, `event_time` (milliseconds), then
/// the layout's features as `Float64`, `FixedSizeList(Float64)` (embeddings) or `Utf8`.
pub fn schema(layout: &Layout) -> Schema {
    let mut fields = vec![
        Field::new("__hash", DataType::UInt64, false),
        Field::new("__partition", DataType::Int32, false),
        Field::new("__offset", DataType::Int64, false),
        Field::new("__row", DataType::UInt32, false),
        Field::new("__event_time", DataType::Int64, false),
    ];
    for feature in &layout.features {
        let kind = if feature.dimension > 0 {
            vector_type(feature.dimension)
        } else if feature.kind.is_numeric() {
            DataType::Float64
        } else {
            DataType::Utf8
        };
        fields.push(Field::new(&feature.name, kind, true));
    }
    Schema::new(fields)
}

fn chunk(
    layout: &Layout,
    batch: &Batch,
    columns: &Columns,
    rows: &[u32],
    hashes: Vec<u64>,
    from: Provenance<'_>,
) -> Result<RecordBatch, ArrowError> {
    let origins = || rows.iter().map(|row| batch.origins[*row as usize]);
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(hashes)),
        Arc::new(Int32Array::from(vec![from.partition; rows.len()])),
        Arc::new(Int64Array::from_iter_values(
            origins().map(|origin| origin.offset),
        )),
        Arc::new(UInt32Array::from_iter_values(
            origins().map(|origin| origin.row),
        )),
        Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| from.event_ms[*row as usize]),
        )),
    ];
    let indices = UInt32Array::from(rows.to_vec());
    for (column, feature) in columns.iter().zip(&layout.features) {
        let array = &batch.columns[*column];
        arrays.push(if feature.kind.is_numeric() {
            take(array, &indices, None)?
        } else {
            let codes = array.as_dictionary::<UInt32Type>();
            let keys = take(codes.keys(), &indices, None)?;
            take(codes.values(), &keys, None)?
        });
    }
    RecordBatch::try_new(Arc::new(schema(layout)), arrays)
}
