//! Sampled rows while they are gathered: a vector per column. Arrow arrays are made of them once,
//! when the sample is stored or read.
//!
//! A batch may add one row to a window or a thousand. Each column takes its share in one pass: a
//! run of rows is one copy of memory. Columns are cut into blocks, since fresh memory costs more
//! than the copy: a long vector that grows would be written three times over.

mod column;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Field, Int32Type, Int64Type, SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;

use column::{Column, Source, copy, extend};

use super::Columns;
use super::sample::{OWN_COLUMNS, Provenance};
use crate::batch::{Batch, Selection};

/// A block with so many rows takes no more.
const BLOCK_ROWS: usize = 1024;

/// Rows of one schema.
#[derive(Debug, Clone, Default)]
pub(super) struct SampledRows {
    blocks: Vec<Block>,
}

#[derive(Debug, Clone)]
struct Block {
    schema: SchemaRef,
    hashes: Vec<u64>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    /// Positions within the messages.
    positions: Vec<u32>,
    event_ms: Vec<i64>,
    features: Vec<Column>,
}

/// Sampled rows to copy from.
struct View<'a> {
    schema: SchemaRef,
    hashes: &'a [u64],
    partitions: &'a [i32],
    offsets: &'a [i64],
    positions: &'a [u32],
    event_ms: &'a [i64],
    features: Vec<Source<'a>>,
}

impl SampledRows {
    pub(super) fn len(&self) -> usize {
        self.blocks.iter().map(Block::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        let blocks = self.blocks.capacity() * size_of::<Block>();
        blocks + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }

    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        let blocks = self.blocks.iter();
        blocks.flat_map(|block| block.hashes.iter().copied())
    }

    /// Appends rows of a batch with their hashes.
    pub(super) fn append(
        &mut self,
        schema: &SchemaRef,
        batch: &Batch,
        columns: &Columns,
        rows: Selection<'_>,
        hashes: &[u64],
        from: Provenance<'_>,
    ) {
        self.reserve(schema, rows.len());
        if let Some(block) = self.blocks.last_mut() {
            block.append(batch, columns, rows, hashes, from);
        }
    }

    /// Appends some rows of a sample that was read.
    pub(super) fn append_arrow(&mut self, sample: &RecordBatch, rows: Selection<'_>) {
        self.append_view(&View::of_arrow(sample), rows);
    }

    /// Appends those of other gathered rows that are chosen by their hash, in their order.
    pub(super) fn append_rows(&mut self, other: &Self, mut keeps: impl FnMut(u64) -> bool) {
        for block in &other.blocks {
            let rows = block.rows(&mut keeps);
            self.append_view(&block.view(), Selection::Listed(&rows));
        }
    }

    fn append_view(&mut self, other: &View<'_>, rows: Selection<'_>) {
        self.reserve(&other.schema, rows.len());
        if let Some(block) = self.blocks.last_mut() {
            block.append_view(other, rows);
        }
    }

    /// Begins a block where the last one takes no more.
    fn reserve(&mut self, schema: &SchemaRef, rows: usize) {
        let has_room = |block: &Block| block.len() < BLOCK_ROWS;
        if rows > 0 && !self.blocks.last().is_some_and(has_room) {
            self.blocks.push(Block::new(schema));
        }
    }

    /// Keeps only the rows with such hashes.
    pub(super) fn retain(&mut self, keeps: impl Fn(u64) -> bool) {
        let all = std::mem::take(self);
        self.append_rows(&all, keeps);
    }

    /// The `most` rows that come first, in order.
    ///
    /// # Errors
    /// Arrow's, where columns and schema disagree.
    pub(super) fn to_arrow(&self, most: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(first) = self.blocks.first() else {
            return Ok(None);
        };
        let greatest = self.greatest(most);
        let mut all = Block::new(&first.schema);
        for block in &self.blocks {
            let rows = block.rows(|hash| hash <= greatest);
            all.append_view(&block.view(), Selection::Listed(&rows));
        }
        let mut ordered = Block::new(&first.schema);
        ordered.append_view(&all.view(), Selection::Listed(&all.order(most)));
        ordered.into_arrow().map(Some)
    }

    /// A hash that the `most` least ones do not exceed, and hardly any other.
    fn greatest(&self, most: usize) -> u64 {
        let mut hashes: Vec<u64> = self.hashes().collect();
        if most >= hashes.len() {
            return u64::MAX;
        }
        *hashes.select_nth_unstable(most).1
    }
}

impl Block {
    fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: Arc::clone(schema),
            hashes: Vec::new(),
            partitions: Vec::new(),
            offsets: Vec::new(),
            positions: Vec::new(),
            event_ms: Vec::new(),
            features: features(schema).map(Column::new).collect(),
        }
    }

    fn len(&self) -> usize {
        self.hashes.len()
    }

    fn bytes(&self) -> usize {
        let own = self.hashes.capacity() * 8
            + self.partitions.capacity() * 4
            + self.offsets.capacity() * 8
            + self.positions.capacity() * 4
            + self.event_ms.capacity() * 8;
        let features = self.features.capacity() * size_of::<Column>();
        own + features + self.features.iter().map(Column::bytes).sum::<usize>()
    }

    fn append(
        &mut self,
        batch: &Batch,
        columns: &Columns,
        rows: Selection<'_>,
        hashes: &[u64],
        from: Provenance<'_>,
    ) {
        let before = self.len();
        let origins = || rows.iter().map(|row| batch.origins[row]);
        let partitions = std::iter::repeat_n(from.partition, rows.len());
        extend(&mut self.hashes, hashes.iter().copied());
        extend(&mut self.partitions, partitions);
        extend(&mut self.offsets, origins().map(|origin| origin.offset));
        extend(&mut self.positions, origins().map(|origin| origin.row));
        copy(&mut self.event_ms, from.event_ms, rows);
        for (feature, column) in self.features.iter_mut().zip(columns) {
            feature.append(before, &Source::of_batch(batch, *column), rows);
        }
    }

    fn append_view(&mut self, other: &View<'_>, rows: Selection<'_>) {
        let before = self.len();
        copy(&mut self.hashes, other.hashes, rows);
        copy(&mut self.partitions, other.partitions, rows);
        copy(&mut self.offsets, other.offsets, rows);
        copy(&mut self.positions, other.positions, rows);
        copy(&mut self.event_ms, other.event_ms, rows);
        for (feature, source) in self.features.iter_mut().zip(&other.features) {
            feature.append(before, source, rows);
        }
    }

    fn view(&self) -> View<'_> {
        View {
            schema: Arc::clone(&self.schema),
            hashes: &self.hashes,
            partitions: &self.partitions,
            offsets: &self.offsets,
            positions: &self.positions,
            event_ms: &self.event_ms,
            features: self.features.iter().map(Column::source).collect(),
        }
    }

    /// The rows with such hashes.
    fn rows(&self, mut keeps: impl FnMut(u64) -> bool) -> Vec<u32> {
        let rows = (0..).zip(&self.hashes).filter(|(_, hash)| keeps(**hash));
        rows.map(|(row, _)| row).collect()
    }

    /// The rows with the least hashes, ascending; of equal hashes by what row they are.
    fn order(&self, most: usize) -> Vec<u32> {
        let mut rows: Vec<(u64, u32)> = self.hashes.iter().copied().zip(0..).collect();
        rows.sort_unstable_by(|a, b| {
            let ties = || self.identity(a.1).cmp(&self.identity(b.1));
            a.0.cmp(&b.0).then_with(ties)
        });
        rows.truncate(most);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// What says which row it is, beside its hash.
    fn identity(&self, row: u32) -> (i32, i64, u32) {
        let row = row as usize;
        (self.partitions[row], self.offsets[row], self.positions[row])
    }

    fn into_arrow(self) -> Result<RecordBatch, ArrowError> {
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(self.hashes)),
            Arc::new(Int32Array::from(self.partitions)),
            Arc::new(Int64Array::from(self.offsets)),
            Arc::new(UInt32Array::from(self.positions)),
            Arc::new(Int64Array::from(self.event_ms)),
        ];
        for (feature, field) in self.features.into_iter().zip(features(&self.schema)) {
            arrays.push(feature.into_array(field)?);
        }
        RecordBatch::try_new(self.schema, arrays)
    }
}

impl<'a> View<'a> {
    fn of_arrow(sample: &'a RecordBatch) -> Self {
        let (own, features) = sample.columns().split_at(OWN_COLUMNS);
        Self {
            schema: sample.schema(),
            hashes: own[0].as_primitive::<UInt64Type>().values(),
            partitions: own[1].as_primitive::<Int32Type>().values(),
            offsets: own[2].as_primitive::<Int64Type>().values(),
            positions: own[3].as_primitive::<UInt32Type>().values(),
            event_ms: own[4].as_primitive::<Int64Type>().values(),
            features: features.iter().map(Source::of_arrow).collect(),
        }
    }
}

fn features(schema: &SchemaRef) -> impl Iterator<Item = &Field> {
    schema.fields()[OWN_COLUMNS..].iter().map(|field| &**field)
}
