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

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::error::ArrowError;

use super::sampled_rows::SampledRows;
use super::{Columns, Layout};
use crate::batch::{Batch, Selection, vector_type};

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
    /// In no order, and possibly more than k until [`Sample::settle`].
    gathered: SampledRows,
    /// At most k in hash order. Rows that are added go before they do.
    settled: Option<RecordBatch>,
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
            gathered: SampledRows::default(),
            settled: None,
            least: BinaryHeap::new(),
        }
    }

    /// Adds those of the rows that may be among the k; `schema` is that of their layout
    /// ([`schema`]).
    pub fn add(
        &mut self,
        schema: &SchemaRef,
        batch: &Batch,
        columns: &Columns,
        rows: Selection<'_>,
        from: Provenance<'_>,
    ) {
        let (mut kept, mut hashes) = (Vec::new(), Vec::new());
        for row in rows.iter() {
            let origin = batch.origins[row];
            let hash = from.hash.of(origin.offset, origin.row);
            if admit(&mut self.least, self.k, hash) {
                kept.push(u32::try_from(row).unwrap_or(u32::MAX)); // no batch has so many
                hashes.push(hash);
            }
        }
        if kept.is_empty() {
            return;
        }
        let is_every = kept.len() == rows.len();
        let kept = if is_every {
            rows
        } else {
            Selection::Listed(&kept)
        };
        self.unsettle();
        let gathered = &mut self.gathered;
        gathered.append(schema, batch, columns, kept, &hashes, from);
        self.drop_surplus();
    }

    /// Rows above the k-th hash go when there are too many.
    fn drop_surplus(&mut self) {
        let too_many = self.gathered.len() > self.k.saturating_mul(2).max(1024);
        if let (true, Some(greatest)) = (too_many, self.least.peek()) {
            self.gathered.retain(|hash| hash <= *greatest);
        }
    }

    /// Settled rows go back to those that are gathered.
    fn unsettle(&mut self) {
        if let Some(settled) = self.settled.take() {
            let all = Selection::Run(0, settled.num_rows());
            self.gathered.append_arrow(&settled, all);
        }
    }

    /// A sample that was stored.
    pub(super) fn of_stored(k: usize, rows: Option<RecordBatch>) -> Self {
        let mut sample = Self::new(k);
        if let Some(rows) = rows {
            let hashes = rows.column(0).as_primitive::<UInt64Type>().values();
            sample.least = hashes.to_vec().into();
            // Damaged ones may be in any order.
            let is_settled = hashes.len() <= k && hashes.is_sorted_by(|a, b| a < b);
            sample.settled = Some(rows);
            if !is_settled {
                sample.unsettle();
                while sample.least.len() > k {
                    sample.least.pop();
                }
            }
        }
        sample
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.rows() > 0 {
            self.unsettle();
        }
        if let Some(settled) = &other.settled {
            let hashes = settled.column(0).as_primitive::<UInt64Type>().values();
            let rows = (0..).zip(hashes);
            let rows = rows.filter(|(_, hash)| admit(&mut self.least, self.k, **hash));
            let rows: Vec<u32> = rows.map(|(row, _)| row).collect();
            let rows = Selection::Listed(&rows);
            self.gathered.append_arrow(settled, rows);
        }
        let admits = |hash| admit(&mut self.least, self.k, hash);
        self.gathered.append_rows(&other.gathered, admits);
        self.drop_surplus();
    }

    /// The k rows in hash order, as one batch; `None` where there are none.
    ///
    /// # Errors
    /// Arrow's, where the rows are not of their schema.
    pub fn settle(&mut self) -> Result<Option<&RecordBatch>, ArrowError> {
        if !self.gathered.is_empty() {
            self.settled = self.gathered.to_arrow(self.k)?;
            self.gathered = SampledRows::default();
        }
        Ok(self.settled.as_ref())
    }

    /// Hands out what was gathered and goes on empty, but remembers the k-th hash: rows above it
    /// cannot be in the window's sample any more, whoever merges it.
    pub fn take(&mut self) -> Self {
        Self {
            k: self.k,
            gathered: std::mem::take(&mut self.gathered),
            settled: self.settled.take(),
            least: BinaryHeap::new(),
        }
    }

    /// How many rows are asked for at most.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Rows held, which may exceed k before [`Sample::settle`].
    pub fn rows(&self) -> usize {
        let settled = self.settled.as_ref().map_or(0, RecordBatch::num_rows);
        settled + self.gathered.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let settled = self.settled.as_ref();
        let settled = settled.map_or(0, RecordBatch::get_array_memory_size);
        settled + self.gathered.bytes() + self.least.capacity() * 8
    }
}

/// Whether a hash is among the k least so far; remembers it if so. One that equals the k-th is:
/// which of the two rows comes first is found out at the end.
fn admit(least: &mut BinaryHeap<u64>, k: usize, hash: u64) -> bool {
    if least.len() < k {
        least.push(hash);
        return true;
    }
    match least.peek_mut() {
        Some(mut greatest) if hash <= *greatest => {
            *greatest = hash;
            true
        }
        _ => false,
    }
}

/// The Arrow schema of a sample: hash, partition, offset, row, `event_time` (milliseconds), then
/// the layout's features as `Float64`, `FixedSizeList(Float64)` (embeddings) or `Utf8`.
pub fn schema(layout: &Layout) -> SchemaRef {
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
    Arc::new(Schema::new(fields))
}
