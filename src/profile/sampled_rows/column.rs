//! One feature of sampled rows: where its values come from, and how they become an Arrow array.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Float64Type};
use arrow::error::ArrowError;

use crate::batch::{Batch, Cell, Selection, Slice, Texts};

/// One feature of the rows.
#[derive(Debug, Clone)]
pub(super) struct Column {
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

/// A feature to copy from, by row.
pub(super) struct Source<'a> {
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

impl<'a> Source<'a> {
    pub(super) fn of_batch(batch: &'a Batch, column: usize) -> Self {
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

    pub(super) fn of_arrow(column: &'a ArrayRef) -> Self {
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
    pub(super) fn new(field: &Field) -> Self {
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

    pub(super) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Numbers(_, numbers) => numbers.capacity() * 8,
            Values::Texts(texts, ends) => texts.capacity() + ends.capacity() * 8,
        };
        values + self.valid.capacity()
    }

    pub(super) fn source(&self) -> Source<'_> {
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
    pub(super) fn append(&mut self, before: usize, from: &Source<'_>, rows: Selection<'_>) {
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
                let text = |row: usize| if valid.of(row) { from.text(row) } else { &[] };
                let texts = rows.iter().map(text);
                append_texts(to, ends, texts);
            }
            (Values::Numbers(..), _) => debug_assert!(false, "texts for numbers"),
        }
    }

    pub(super) fn into_array(self, field: &Field) -> Result<ArrayRef, ArrowError> {
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

pub(super) fn copy<T: Copy>(to: &mut Vec<T>, from: &[T], rows: Selection<'_>) {
    match rows {
        Selection::Run(first, last) => {
            make_room(to, last - first);
            to.extend_from_slice(&from[first..last]);
        }
        Selection::Listed(_) => extend(to, rows.iter().map(|row| from[row])),
    }
}

pub(super) fn extend<T>(to: &mut Vec<T>, more: impl Iterator<Item = T>) {
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
