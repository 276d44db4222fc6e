//! The columns of a batch of rows, built row by row.
//!
//! Every column has a fixed width: numbers as they are, texts as codes into a dictionary of the
//! batch, embeddings as so many numbers a row. So a row is taken back by not counting it, a key
//! that comes twice overwrites (the last one wins, as in most JSON parsers), and no column can fall
//! out of step with another.
//!
//! A batch may hold one row or a thousand, and costs what it holds: its buffers are handed over
//! whole, come back (`Builder::reuse`), and grow with the rows that are written.

mod buffers;
mod builder;
mod texts;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, FixedSizeListArray, Float64Array, Int64Array, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};

use buffers::{Column, Values};

pub use builder::Builder;
pub use texts::Texts;

/// What was found where a value should be. Kept per cell: data quality is part of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cell {
    /// No such field in the message.
    Missing,
    /// A value of the expected type.
    Ok,
    /// A value of another type that says the same: `"3.5"` for a number, `7` for a label.
    Coerced,
    /// An explicit null.
    Null,
    /// A value that cannot be read as what the feature is.
    WrongType,
    /// Not a number.
    NaN,
    /// Positive infinity, or a number too large for a double.
    PosInf,
    /// Negative infinity.
    NegInf,
}

impl Cell {
    /// Whether there is a value to profile.
    pub fn has_value(self) -> bool {
        matches!(self, Self::Ok | Self::Coerced)
    }

    /// The state of a number that was parsed.
    pub fn of_number(value: f64, otherwise: Self) -> Self {
        if value.is_nan() {
            Self::NaN
        } else if value == f64::INFINITY {
            Self::PosInf
        } else if value == f64::NEG_INFINITY {
            Self::NegInf
        } else {
            otherwise
        }
    }

    /// The state of a vector. One number that is not finite spoils it; so does a norm beyond a
    /// double, since the norm is what it is profiled by.
    pub fn of_vector(vector: &[f64]) -> Self {
        if norm(vector).is_finite() {
            Self::Ok
        } else if vector.iter().any(|value| value.is_nan()) {
            Self::NaN
        } else if vector.contains(&f64::NEG_INFINITY) && !vector.contains(&f64::INFINITY) {
            Self::NegInf
        } else {
            Self::PosInf
        }
    }
}

/// The Euclidean norm: infinite where it is beyond a double, NaN where the vector holds one.
pub fn norm(vector: &[f64]) -> f64 {
    let plain = sum_of_squares(vector, 1.0);
    if (TINY_SQUARES..f64::INFINITY).contains(&plain) {
        return plain.sqrt();
    }
    let greatest = vector
        .iter()
        .fold(0.0, |most: f64, value| most.max(value.abs()));
    if greatest > 0.0 && greatest.is_finite() {
        greatest * sum_of_squares(vector, greatest).sqrt()
    } else {
        plain.sqrt()
    }
}

/// Above it, what squares lose by being too small for a double does not show in their sum.
const TINY_SQUARES: f64 = 1e-280;

#[inline]
fn sum_of_squares(vector: &[f64], scale: f64) -> f64 {
    // Several sums at a time: one alone waits for itself.
    let mut sums = [0.0; 8];
    let chunks = vector.chunks_exact(sums.len());
    for (sum, value) in sums.iter_mut().zip(chunks.remainder()) {
        *sum = (value / scale) * (value / scale);
    }
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += (value / scale) * (value / scale);
        }
    }
    sums.iter().sum()
}

/// An embedding has at most so many numbers.
pub const MAX_DIMENSION: usize = 16_384;

/// The Arrow type of embeddings of so many numbers.
pub fn vector_type(dimension: usize) -> DataType {
    DataType::FixedSizeList(number_field(), width_of(dimension))
}

fn number_field() -> FieldRef {
    Arc::new(Field::new("item", DataType::Float64, false))
}

fn width_of(dimension: usize) -> i32 {
    i32::try_from(dimension).unwrap_or(i32::MAX) // at most MAX_DIMENSION
}

/// How a column holds its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Doubles.
    Number,
    /// Texts, coded into a dictionary.
    Text,
    /// Milliseconds since the epoch.
    Time,
    /// So many doubles a row, at least one.
    Vector(usize),
}

impl Shape {
    /// What a row takes in a column, about.
    pub fn bytes(self) -> usize {
        size_of::<Cell>()
            + match self {
                Self::Number | Self::Time => 8,
                Self::Text => 4,
                Self::Vector(width) => 8 * width,
            }
    }
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Kafka offset.
    pub offset: i64,
    /// Position within the message, 0 unless one message holds several rows.
    pub row: u32,
}

/// A finished batch: rows in offset order.
#[derive(Debug)]
pub struct Batch {
    columns: Vec<Column>,
    /// Rows that the columns have room for.
    capacity: usize,
    /// Where each row comes from.
    pub origins: Vec<Origin>,
}

/// The values of a column of a finished batch, by row. What stands where a cell holds no value says
/// nothing.
#[derive(Debug, Clone, Copy)]
pub enum Slice<'a> {
    /// Doubles; 0 or what the message says where the cell holds no value.
    Number(&'a [f64]),
    /// Milliseconds since the epoch.
    Time(&'a [i64]),
    /// Numbers of all rows one after another, and how many a row has. Rows behind the last one
    /// with a vector are left out.
    Vector(usize, &'a [f64]),
    /// Codes of texts.
    Text(&'a [u32], &'a Texts),
}

/// Some rows of a batch, in ascending order.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// From this one to before that one.
    Run(usize, usize),
    /// These.
    Listed(&'a [u32]),
}

/// Rows that are decoded but not profiled yet.
#[derive(Debug)]
pub struct Rows {
    /// The rows.
    pub batch: Batch,
    /// Event time in milliseconds per clock of the topic's plan and row; [`NO_TIME`] where there
    /// is none.
    pub event_ms: Vec<Vec<i64>>,
}

/// No usable event time for a monitor; such a row does not count for it.
pub const NO_TIME: i64 = i64::MIN;

impl Batch {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// What was found in a column, by row.
    pub fn cells(&self, column: usize) -> &[Cell] {
        &self.columns[column].cells[..self.len()]
    }

    /// Whether every cell of a column is [`Cell::Ok`].
    pub fn is_full(&self, column: usize) -> bool {
        self.columns[column].is_full
    }

    /// The values of a column.
    pub fn values(&self, column: usize) -> Slice<'_> {
        let rows = self.len();
        match &self.columns[column].values {
            Values::Number(values) => Slice::Number(&values[..rows]),
            Values::Time(values) => Slice::Time(&values[..rows]),
            Values::Vector(width, values) => {
                Slice::Vector(*width, &values[..values.len().min(rows * width)])
            }
            Values::Text(codes, texts) => Slice::Text(&codes[..rows], texts),
        }
    }

    /// A column as an Arrow array: `Float64`, `Int64` (milliseconds), `FixedSizeList(Float64)` or
    /// `Dictionary(UInt32, Utf8)`; null where a cell holds no value.
    pub fn array(&self, column: usize) -> ArrayRef {
        let cells = self.cells(column);
        let valid = BooleanBuffer::collect_bool(cells.len(), |row| cells[row].has_value());
        let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
        let written = |row: usize| cells[row] != Cell::Missing;
        match self.values(column) {
            Slice::Number(values) => {
                let values = values.iter().enumerate();
                let values = values.map(|(row, value)| if written(row) { *value } else { 0.0 });
                Arc::new(Float64Array::new(values.collect(), nulls))
            }
            Slice::Time(values) => {
                let values = values.iter().enumerate();
                let values = values.map(|(row, value)| if written(row) { *value } else { 0 });
                Arc::new(Int64Array::new(values.collect(), nulls))
            }
            Slice::Vector(width, values) => {
                let mut numbers = values.to_vec();
                numbers.resize(cells.len() * width, 0.0);
                let numbers = Arc::new(Float64Array::from(numbers));
                let (field, width) = (number_field(), width_of(width));
                Arc::new(FixedSizeListArray::new(field, width, numbers, nulls))
            }
            Slice::Text(codes, texts) => {
                // Null keys have to point at something as well.
                let codes = codes.iter().zip(cells);
                let codes = codes.map(|(code, cell)| if cell.has_value() { *code } else { 0 });
                let keys = UInt32Array::new(codes.collect(), nulls);
                Arc::new(DictionaryArray::new(keys, Arc::new(texts.array())))
            }
        }
    }
}

impl<'a> Selection<'a> {
    /// Every row of a batch.
    pub fn all(batch: &Batch) -> Self {
        Self::Run(0, batch.len())
    }

    /// How many rows there are.
    pub fn len(self) -> usize {
        match self {
            Self::Run(from, to) => to - from,
            Self::Listed(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The first of them.
    pub fn first(self) -> Option<usize> {
        self.iter().next()
    }

    /// The last of them.
    pub fn last(self) -> Option<usize> {
        match self {
            Self::Run(from, to) => to.checked_sub(1).filter(|last| *last >= from),
            Self::Listed(rows) => rows.last().map(|row| *row as usize),
        }
    }

    /// The rows.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> + use<'a> {
        let (run, listed) = match self {
            Self::Run(from, to) => (from..to, &[][..]),
            Self::Listed(rows) => (0..0, rows),
        };
        run.chain(listed.iter().map(|row| *row as usize))
    }
}

#[cfg(test)]
mod tests;
