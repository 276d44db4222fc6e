//! Sampled rows while they are gathered: a vector per column. Arrow arrays are made of them once,
//! when the sample is stored or read.
//!
//! A batch may add one row to a window or a thousand. Each column takes its share in one pass: a
//! run of rows is one copy of memory.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, SchemaRef};
use arrow::datatypes::{UInt32Type, UInt64Type};
use arrow::error::ArrowError;

use super::Columns;
use super::sample::{OWN_COLUMNS, Provenance};
use crate::batch::{Batch, Cell, Selection, Slice, Texts};

/// Rows of one schema.
#[derive(Debug, Clone, Default)]
pub(super) struct SampledRows {
    schema: Option<SchemaRef>,
    hashes: Vec<u64>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    /// Positions within the messages.
    positions: Vec<u32>,
    event_ms: Vec<i64>,
    features: Vec<Column>,
}

/// One feature of the rows.
#[derive(Debug, Clone)]
struct Column {
    values: Values,
    /// Whether each row has a value; empty while all have one.
    valid: Vec<bool>,
}

#[derive(Debug, Clone)]
enum Values {
    /// So many numbers a row.
    Numbers(usize, Vec<f64>),
    /// Texts one after another, and where each ends.
    Texts(Vec<u8>, Vec<usize>),
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

/// A feature to copy from, by row.
struct Source<'a> {
    values: Given<'a>,
    valid: Valid<'a>,
}

enum Given<'a> {
    /// As many a row as the column has. Rows at the end may be left out; they are zeros.
    Numbers(&'a [f64]),
    /// Numbers of a batch, where [`Cell::Missing`] stands beside one of an earlier batch.
    Found(&'a [f64], &'a [Cell]),
    Coded(&'a [u32], &'a Texts),
    Arrow(&'a StringArray),
    Gathered(&'a [u8], &'a [usize]),
}

#[derive(Clone, Copy)]
enum Valid<'a> {
    All,
    Cells(&'a [Cell]),
    Bits(&'a NullBuffer),
    Flags(&'a [bool]),
}

impl SampledRows {
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        let own = self.hashes.capacity() * 8
            + self.partitions.capacity() * 4
            + self.offsets.capacity() * 8
            + self.positions.capacity() * 4
            + self.event_ms.capacity() * 8;
        let features = self.features.capacity() * size_of::<Column>();
        own + features + self.features.iter().map(Column::bytes).sum::<usize>()
    }

    pub(super) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Appends rows of a batch with their hashes.
    pub(super) fn append(
        &mut self,
        schema: &SchemaRef,
        batch: &Batch,
        columns: &Columns,
        (rows, hashes): (Selection<'_>, &[u64]),
        from: Provenance<'_>,
    ) {
        self.take_schema(schema);
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

    /// Appends some rows of a sample that was read.
    pub(super) fn append_arrow(&mut self, sample: &RecordBatch, rows: Selection<'_>) {
        self.append_view(&View::of_arrow(sample), rows);
    }

    /// Appends some rows of other gathered ones.
    pub(super) fn append_rows(&mut self, other: &Self, rows: Selection<'_>) {
        if let Some(schema) = &other.schema {
            self.append_view(&other.view(schema), rows);
        }
    }

    fn append_view(&mut self, other: &View<'_>, rows: Selection<'_>) {
        self.take_schema(&other.schema);
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

    fn view(&self, schema: &SchemaRef) -> View<'_> {
        View {
            schema: Arc::clone(schema),
            hashes: &self.hashes,
            partitions: &self.partitions,
            offsets: &self.offsets,
            positions: &self.positions,
            event_ms: &self.event_ms,
            features: self.features.iter().map(Column::source).collect(),
        }
    }

    /// Keeps only the rows with such hashes.
    pub(super) fn retain(&mut self, keeps: impl Fn(u64) -> bool) {
        let rows = (0..).zip(&self.hashes).filter(|(_, hash)| keeps(**hash));
        let rows: Vec<u32> = rows.map(|(row, _)| row).collect();
        let all = std::mem::take(self);
        self.append_rows(&all, Selection::Listed(&rows));
    }

    /// The `most` rows that come first, in order.
    ///
    /// # Errors
    /// Arrow's, where columns and schema disagree.
    pub(super) fn to_arrow(&self, most: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(schema) = &self.schema else {
            return Ok(None);
        };
        let mut ordered = Self::default();
        ordered.append_rows(self, Selection::Listed(&self.order(most)));
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(ordered.hashes)),
            Arc::new(Int32Array::from(ordered.partitions)),
            Arc::new(Int64Array::from(ordered.offsets)),
            Arc::new(UInt32Array::from(ordered.positions)),
            Arc::new(Int64Array::from(ordered.event_ms)),
        ];
        for (feature, field) in ordered.features.into_iter().zip(features(schema)) {
            arrays.push(feature.into_array(field)?);
        }
        RecordBatch::try_new(Arc::clone(schema), arrays).map(Some)
    }

    /// The rows with the least hashes, ascending; of equal hashes by what row they are.
    fn order(&self, most: usize) -> Vec<u32> {
        let mut rows: Vec<(u64, u32)> = self.hashes.iter().copied().zip(0..).collect();
        let compare = |a: &(u64, u32), b: &(u64, u32)| -> Ordering {
            let ties = || self.identity(a.1).cmp(&self.identity(b.1));
            a.0.cmp(&b.0).then_with(ties)
        };
        if most < rows.len() {
            rows.select_nth_unstable_by(most, compare);
            rows.truncate(most);
        }
        rows.sort_unstable_by(compare);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// What says which row it is, beside its hash.
    fn identity(&self, row: u32) -> (i32, i64, u32) {
        let row = row as usize;
        (self.partitions[row], self.offsets[row], self.positions[row])
    }

    fn take_schema(&mut self, schema: &SchemaRef) {
        if self.is_empty() {
            self.schema = Some(Arc::clone(schema));
            self.features = features(schema).map(Column::new).collect();
        }
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

impl<'a> Source<'a> {
    fn of_batch(batch: &'a Batch, column: usize) -> Self {
        let cells = batch.cells(column);
        let is_full = batch.is_full(column);
        let values = match batch.values(column) {
            Slice::Number(values) if is_full => Given::Numbers(values),
            Slice::Number(values) => Given::Found(values, cells),
            Slice::Vector(_, values) => Given::Numbers(values),
            Slice::Text(codes, known) => Given::Coded(codes, known),
            Slice::Time(_) => Given::Numbers(&[]), // no feature is one
        };
        let valid = if is_full {
            Valid::All
        } else {
            Valid::Cells(cells)
        };
        Self { values, valid }
    }

    fn of_arrow(column: &'a ArrayRef) -> Self {
        let numbers = |array: &'a ArrayRef| array.as_primitive::<Float64Type>().values();
        Self {
            values: match column.data_type() {
                DataType::Utf8 => Given::Arrow(column.as_string()),
                DataType::FixedSizeList(..) => {
                    Given::Numbers(numbers(column.as_fixed_size_list().values()))
                }
                _ => Given::Numbers(numbers(column)),
            },
            valid: column.nulls().map_or(Valid::All, Valid::Bits),
        }
    }
}

impl Valid<'_> {
    #[inline]
    fn of(self, row: usize) -> bool {
        match self {
            Self::All => true,
            Self::Cells(cells) => cells[row].has_value(),
            Self::Bits(bits) => bits.is_valid(row),
            Self::Flags(flags) => flags[row],
        }
    }
}

impl Column {
    fn new(field: &Field) -> Self {
        let values = match field.data_type() {
            DataType::Utf8 => Values::Texts(Vec::new(), Vec::new()),
            DataType::FixedSizeList(_, width) => {
                Values::Numbers(usize::try_from(*width).unwrap_or(0), Vec::new())
            }
            _ => Values::Numbers(1, Vec::new()),
        };
        let valid = Vec::new();
        Self { values, valid }
    }

    fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Numbers(_, numbers) => numbers.capacity() * 8,
            Values::Texts(texts, ends) => texts.capacity() + ends.capacity() * 8,
        };
        values + self.valid.capacity()
    }

    fn source(&self) -> Source<'_> {
        Source {
            values: match &self.values {
                Values::Numbers(_, numbers) => Given::Numbers(numbers),
                Values::Texts(texts, ends) => Given::Gathered(texts, ends),
            },
            valid: match &self.valid[..] {
                [] => Valid::All,
                flags => Valid::Flags(flags),
            },
        }
    }

    /// Appends some rows to the `before` that the column has.
    fn append(&mut self, before: usize, from: &Source<'_>, rows: Selection<'_>) {
        let valid = from.valid;
        if !self.valid.is_empty() || !is_all(valid, rows) {
            self.valid.resize(before, true);
            extend(&mut self.valid, rows.iter().map(|row| valid.of(row)));
        }
        match (&mut self.values, &from.values) {
            (Values::Numbers(width, to), Given::Numbers(from)) => {
                append_numbers(to, *width, from, rows);
            }
            (Values::Numbers(_, to), Given::Found(from, cells)) => {
                let is_missing = |row: usize| cells[row] == Cell::Missing;
                let numbers = rows.iter();
                // What is under a null is stored too, so that it must not be an earlier batch's.
                let numbers = numbers.map(|row| if is_missing(row) { 0.0 } else { from[row] });
                extend(to, numbers);
            }
            (Values::Texts(to, ends), from) => {
                let texts = rows.iter().map(|row| match valid.of(row) {
                    true => from.text(row),
                    false => &[],
                });
                append_texts(to, ends, texts);
            }
            (Values::Numbers(..), _) => debug_assert!(false, "texts for numbers"),
        }
    }

    fn into_array(self, field: &Field) -> Result<ArrayRef, ArrowError> {
        let nulls = Some(self.valid).filter(|valid| !valid.is_empty());
        let nulls = nulls.map(NullBuffer::from);
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        Ok(match (self.values, field.data_type()) {
            (Values::Texts(texts, ends), _) => {
                let offset =
                    |end| i32::try_from(end).map_err(|_| ArrowError::OffsetOverflowError(end));
                let offsets = std::iter::once(0).chain(ends).map(offset);
                let offsets: Vec<i32> = offsets.collect::<Result<_, _>>()?;
                let offsets = OffsetBuffer::new(offsets.into());
                Arc::new(StringArray::try_new(offsets, Buffer::from(texts), nulls)?)
            }
            (Values::Numbers(_, numbers), DataType::FixedSizeList(item, width)) => {
                let numbers = Arc::new(Float64Array::from(numbers));
                let item = Arc::clone(item);
                Arc::new(FixedSizeListArray::try_new(item, *width, numbers, nulls)?)
            }
            (Values::Numbers(_, numbers), _) => {
                Arc::new(Float64Array::try_new(numbers.into(), nulls)?)
            }
        })
    }
}

impl<'a> Given<'a> {
    #[inline]
    fn text(&self, row: usize) -> &'a [u8] {
        match *self {
            Self::Coded(codes, known) => known.get(codes[row] as usize).as_bytes(),
            Self::Arrow(texts) => texts.value(row).as_bytes(),
            Self::Gathered(texts, ends) => {
                let start = if row == 0 { 0 } else { ends[row - 1] };
                &texts[start..ends[row]]
            }
            Self::Numbers(_) | Self::Found(..) => &[],
        }
    }
}

fn features(schema: &SchemaRef) -> impl Iterator<Item = &Field> {
    schema.fields()[OWN_COLUMNS..].iter().map(|field| &**field)
}

fn is_all(valid: Valid<'_>, rows: Selection<'_>) -> bool {
    matches!(valid, Valid::All) || rows.iter().all(|row| valid.of(row))
}

fn append_numbers(to: &mut Vec<f64>, width: usize, from: &[f64], rows: Selection<'_>) {
    make_room(to, rows.len() * width);
    let end = to.len() + rows.len() * width;
    match rows {
        Selection::Run(first, last) => {
            let place = |row: usize| (row * width).min(from.len());
            to.extend_from_slice(&from[place(first)..place(last)]);
        }
        Selection::Listed(_) if width == 1 => {
            let number = |row: usize| from.get(row).copied().unwrap_or_default();
            to.extend(rows.iter().map(number));
        }
        Selection::Listed(_) => {
            for row in rows.iter() {
                let end = to.len() + width;
                let numbers = from.get(row * width..(row + 1) * width);
                to.extend_from_slice(numbers.unwrap_or_default());
                to.resize(end, 0.0);
            }
        }
    }
    to.resize(end, 0.0);
}

fn append_texts<'a>(
    to: &mut Vec<u8>,
    ends: &mut Vec<usize>,
    texts: impl Iterator<Item = &'a [u8]>,
) {
    extend(
        ends,
        texts.map(|text| {
            make_room(to, text.len());
            to.extend_from_slice(text);
            to.len()
        }),
    );
}

fn copy<T: Copy>(to: &mut Vec<T>, from: &[T], rows: Selection<'_>) {
    match rows {
        Selection::Run(first, last) => {
            make_room(to, last - first);
            to.extend_from_slice(&from[first..last]);
        }
        Selection::Listed(_) => extend(to, rows.iter().map(|row| from[row])),
    }
}

fn extend<T>(to: &mut Vec<T>, more: impl Iterator<Item = T>) {
    make_room(to, more.size_hint().0);
    to.extend(more);
}

/// Grows by half, not to the double: a full sample is megabytes.
#[inline]
fn make_room<T>(column: &mut Vec<T>, more: usize) {
    if column.capacity() - column.len() < more {
        column.reserve_exact(more.max(column.len() / 2));
    }
}
