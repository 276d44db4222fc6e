//! The columns of one stretch of one partition, built row by row and handed on as Arrow.
//!
//! Every column has a fixed width: numbers as they are, texts as codes into a dictionary of the
//! batch, embeddings as so many numbers a row. So a row is taken back by not counting it, a key that comes twice overwrites (the last
//! one wins, as in most JSON parsers), and no builder can fall out of step with another.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, FixedSizeListArray, Float64Array, Int64Array, StringArray,
    UInt32Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};
use hashbrown::HashTable;

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

#[derive(Debug)]
enum Values {
    Number(Vec<f64>),
    /// Width and numbers, up to the last row that was written: it grows with what comes and leaves
    /// whole, since a batch of embeddings is megabytes.
    Vector(usize, Vec<f64>),
    Text(Vec<u32>, Dictionary),
    Time(Vec<i64>),
}

/// One column while it is built.
#[derive(Debug)]
struct Column {
    cells: Vec<Cell>,
    values: Values,
}

/// Rows of one partition while they are decoded.
#[derive(Debug)]
pub struct Builder {
    columns: Vec<Column>,
    /// Offset, record timestamp and position within the message, per row that counts.
    origins: Vec<Origin>,
    capacity: usize,
    /// Longer texts are cut.
    most_text: usize,
    /// How many were, in rows that count and in those that do not yet.
    cut: u64,
    cut_yet: u64,
    text_bytes: usize,
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Kafka offset.
    pub offset: i64,
    /// The record's own timestamp in milliseconds, if it has one.
    pub record_ms: Option<i64>,
    /// Position within the message, 0 unless one message holds several rows.
    pub row: u32,
}

/// A finished batch: rows in offset order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One Arrow array per column of the plan: `Float64`, `Dictionary(UInt32, Utf8)`, `Int64`
    /// (milliseconds) or `FixedSizeList(Float64)`; null where the cell holds no value.
    pub columns: Vec<ArrayRef>,
    /// What was found, per column and row.
    pub cells: Vec<Vec<Cell>>,
    /// Where each row comes from.
    pub origins: Vec<Origin>,
}

/// Rows that are decoded but not profiled yet.
#[derive(Debug)]
pub struct Rows {
    /// The rows.
    pub batch: Batch,
    /// Event time in milliseconds per monitor and row; [`NO_TIME`] where there is none.
    pub event_ms: Vec<Vec<i64>>,
}

/// No usable event time for a monitor; such a row does not count for it.
pub const NO_TIME: i64 = i64::MIN;

impl Builder {
    /// An empty builder for columns of these shapes.
    pub fn new(shapes: &[Shape], capacity: usize) -> Self {
        let columns = shapes
            .iter()
            .map(|shape| Column::new(*shape, capacity))
            .collect();
        Self {
            columns,
            origins: Vec::with_capacity(capacity),
            capacity,
            most_text: usize::MAX,
            cut: 0,
            cut_yet: 0,
            text_bytes: 0,
        }
    }

    /// Cuts texts that are longer than so many bytes, at a character: what a sender writes as a
    /// label must not fill the memory of everything that a label is kept in.
    pub fn cutting(mut self, most_text: usize) -> Self {
        self.most_text = most_text;
        self
    }

    /// How many texts were cut since this was last asked.
    pub fn take_cut(&mut self) -> u64 {
        std::mem::take(&mut self.cut)
    }

    /// Bytes of the batch's distinct texts.
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Rows that count so far; the next row is written at this index.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether no row counts yet.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Makes room for writing `row`.
    pub fn reserve(&mut self, row: usize) {
        if row >= self.capacity {
            self.capacity = (row + 1).next_power_of_two();
            for column in &mut self.columns {
                column.grow(self.capacity);
            }
        }
    }

    /// Writes a number.
    #[inline]
    pub fn number(&mut self, column: usize, row: usize, value: f64, cell: Cell) {
        let column = &mut self.columns[column];
        if let Values::Number(values) = &mut column.values {
            values[row] = value;
            column.cells[row] = Cell::of_number(value, cell);
        }
    }

    /// Writes a text.
    #[inline]
    pub fn text(&mut self, column: usize, row: usize, value: &str, cell: Cell) {
        let column = &mut self.columns[column];
        if let Values::Text(codes, dictionary) = &mut column.values {
            let mut text = value;
            if text.len() > self.most_text {
                text = &text[..text.floor_char_boundary(self.most_text)];
                self.cut_yet += 1;
            }
            let before = dictionary.data.len();
            codes[row] = dictionary.code(text);
            self.text_bytes += dictionary.data.len() - before;
            column.cells[row] = cell;
        }
    }

    /// Writes a time in milliseconds.
    #[inline]
    pub fn time(&mut self, column: usize, row: usize, ms: i64) {
        let column = &mut self.columns[column];
        if let Values::Time(values) = &mut column.values {
            values[row] = ms;
            column.cells[row] = Cell::Ok;
        }
    }

    /// Writes a vector; one that is longer or shorter than its column's is of a wrong type.
    pub fn vector(&mut self, column: usize, row: usize, vector: &[f64]) {
        let column = &mut self.columns[column];
        if let Values::Vector(width, values) = &mut column.values {
            let fits = vector.len() == *width;
            column.cells[row] = if fits {
                Cell::of_vector(vector)
            } else {
                Cell::WrongType
            };
            if column.cells[row].has_value() {
                let end = (row + 1) * *width;
                if values.len() < end {
                    values.resize(end, 0.0);
                }
                values[end - *width..end].copy_from_slice(vector);
            }
        }
    }

    /// Writes that there is no value.
    #[inline]
    pub fn absent(&mut self, column: usize, row: usize, cell: Cell) {
        self.columns[column].cells[row] = cell;
    }

    /// The time written at a row, or what stands there instead.
    ///
    /// # Errors
    /// The cell, where it holds no time.
    pub fn time_at(&self, column: usize, row: usize) -> Result<i64, Cell> {
        let column = &self.columns[column];
        match (&column.values, column.cells[row]) {
            (Values::Time(values), cell) if cell.has_value() => Ok(values[row]),
            (_, cell) => Err(cell),
        }
    }

    /// Copies a cell to other rows: a value beside `[*]` belongs to every row of its message.
    pub fn repeat(&mut self, column: usize, from: usize, rows: std::ops::Range<usize>) {
        let column = &mut self.columns[column];
        let cell = column.cells[from];
        column.cells[rows.clone()].fill(cell);
        match &mut column.values {
            Values::Number(values) => values.copy_within_row(from, rows),
            Values::Text(codes, _) => codes.copy_within_row(from, rows),
            Values::Time(values) => values.copy_within_row(from, rows),
            Values::Vector(width, values) if cell.has_value() => {
                values.resize(values.len().max(rows.end * *width), 0.0);
                let from = from * *width..(from + 1) * *width;
                for row in rows {
                    values.copy_within(from.clone(), row * *width);
                }
            }
            Values::Vector(..) => {}
        }
    }

    /// Bytes held, about: room for a batch of rows, and the texts of those that are in it.
    pub fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::bytes).sum();
        columns + self.origins.capacity() * size_of::<Origin>()
    }

    /// Counts the next `rows` rows in.
    pub fn keep(&mut self, offset: i64, record_ms: Option<i64>, rows: usize) {
        self.cut += std::mem::take(&mut self.cut_yet);
        for row in 0..rows {
            let row = u32::try_from(row).unwrap_or(u32::MAX);
            self.origins.push(Origin {
                offset,
                record_ms,
                row,
            });
        }
    }

    /// Takes back what was written at the next `rows` rows.
    pub fn roll_back(&mut self, rows: usize) {
        self.cut_yet = 0;
        let start = self.len();
        let end = (start + rows).min(self.capacity);
        for column in &mut self.columns {
            column.clear(start..end);
        }
    }

    /// The batch so far; the builder starts empty again.
    pub fn finish(&mut self) -> Batch {
        let rows = self.len();
        let mut columns = Vec::with_capacity(self.columns.len());
        let mut cells = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            let (array, states) = column.finish(rows);
            columns.push(array);
            cells.push(states);
        }
        let origins = self.origins.clone();
        self.origins.clear();
        self.text_bytes = 0;
        Batch {
            columns,
            cells,
            origins,
        }
    }
}

trait CopyRow {
    fn copy_within_row(&mut self, from: usize, rows: std::ops::Range<usize>);
}

impl<T: Copy> CopyRow for Vec<T> {
    fn copy_within_row(&mut self, from: usize, rows: std::ops::Range<usize>) {
        let value = self[from];
        self[rows].fill(value);
    }
}

impl Column {
    fn new(shape: Shape, capacity: usize) -> Self {
        let values = match shape {
            Shape::Number => Values::Number(vec![0.0; capacity]),
            Shape::Text => Values::Text(vec![0; capacity], Dictionary::default()),
            Shape::Time => Values::Time(vec![0; capacity]),
            Shape::Vector(width) => Values::Vector(width, Vec::new()),
        };
        Self {
            cells: vec![Cell::Missing; capacity],
            values,
        }
    }

    fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Number(values) => values.capacity() * 8,
            Values::Time(values) => values.capacity() * 8,
            Values::Vector(_, values) => values.capacity() * 8,
            Values::Text(codes, dictionary) => codes.capacity() * 4 + dictionary.bytes(),
        };
        self.cells.capacity() + values
    }

    fn grow(&mut self, capacity: usize) {
        self.cells.resize(capacity, Cell::Missing);
        match &mut self.values {
            Values::Number(values) => values.resize(capacity, 0.0),
            Values::Text(codes, _) => codes.resize(capacity, 0),
            Values::Time(values) => values.resize(capacity, 0),
            Values::Vector(..) => {} // grows as it is written
        }
    }

    /// The first rows leave as copies, so that a short batch costs as little as it holds.
    fn finish(&mut self, rows: usize) -> (ArrayRef, Vec<Cell>) {
        let cells = self.cells[..rows].to_vec();
        let valid = BooleanBuffer::collect_bool(rows, |row| cells[row].has_value());
        let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
        let array: ArrayRef = match &mut self.values {
            Values::Number(values) => {
                let values = ScalarBuffer::from(values[..rows].to_vec());
                Arc::new(Float64Array::new(values, nulls))
            }
            Values::Time(values) => {
                let values = ScalarBuffer::from(values[..rows].to_vec());
                Arc::new(Int64Array::new(values, nulls))
            }
            Values::Vector(width, values) => {
                let mut numbers = std::mem::take(values);
                numbers.resize(rows * *width, 0.0);
                let numbers = Arc::new(Float64Array::from(numbers));
                let width = width_of(*width);
                Arc::new(FixedSizeListArray::new(
                    number_field(),
                    width,
                    numbers,
                    nulls,
                ))
            }
            Values::Text(codes, dictionary) => {
                // Codes of rows that were taken back may outlive their text; null rows need none.
                let codes: Vec<u32> = codes[..rows].to_vec();
                let keys = UInt32Array::new(ScalarBuffer::from(codes), nulls);
                let texts = dictionary.finish();
                Arc::new(DictionaryArray::new(keys, Arc::new(texts)))
            }
        };
        self.clear(0..rows);
        (array, cells)
    }

    /// Nothing stays of rows that are gone, not even where a null hides it: the stored form of a
    /// sample holds what is under its nulls.
    fn clear(&mut self, rows: std::ops::Range<usize>) {
        self.cells[rows.clone()].fill(Cell::Missing);
        match &mut self.values {
            Values::Number(values) => values[rows].fill(0.0),
            Values::Text(codes, _) => codes[rows].fill(0),
            Values::Time(values) => values[rows].fill(0),
            Values::Vector(width, values) => {
                let written = values.len();
                let within = |row: usize| (row * *width).min(written);
                values[within(rows.start)..within(rows.end)].fill(0.0);
            }
        }
    }
}

/// The distinct texts of a column within one batch.
#[derive(Debug, Default)]
struct Dictionary {
    index: HashTable<u32>,
    data: String,
    ends: Vec<usize>,
}

impl Dictionary {
    fn get(data: &str, ends: &[usize], code: u32) -> (usize, usize) {
        let code = code as usize;
        let start = if code == 0 { 0 } else { ends[code - 1] };
        debug_assert!(ends[code] <= data.len());
        (start, ends[code])
    }

    #[inline]
    fn code(&mut self, text: &str) -> u32 {
        let hash = hash_text(text);
        let Self { index, data, ends } = self;
        let same = |code: &u32| {
            let (start, end) = Self::get(data, ends, *code);
            data[start..end] == *text
        };
        if let Some(code) = index.find(hash, same) {
            return *code;
        }
        // A batch never holds 2^32 rows, so the code always fits.
        let code = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        data.push_str(text);
        ends.push(data.len());
        index.insert_unique(hash, code, |code| {
            let (start, end) = Self::get(data, ends, *code);
            hash_text(&data[start..end])
        });
        code
    }

    /// Texts, their ends, and about two places in the index for each.
    fn bytes(&self) -> usize {
        self.data.capacity() + self.ends.capacity() * (8 + 2 * 5)
    }

    fn finish(&mut self) -> StringArray {
        let texts = (0..self.ends.len()).map(|code| {
            let start = if code == 0 { 0 } else { self.ends[code - 1] };
            &self.data[start..self.ends[code]]
        });
        let mut array = StringArray::from_iter_values(texts);
        if self.ends.is_empty() {
            // Null keys are 0 and must point at something.
            array = StringArray::from_iter_values([""]);
        }
        self.index.clear();
        self.data.clear();
        self.ends.clear();
        array
    }
}

fn hash_text(text: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;

    use super::*;

    #[test]
    fn a_row_taken_back_leaves_no_trace() {
        let mut builder = Builder::new(&[Shape::Number, Shape::Text], 2);
        builder.number(0, 0, 1.0, Cell::Ok);
        builder.text(1, 0, "a", Cell::Ok);
        builder.keep(10, None, 1);
        builder.number(0, 1, 9.0, Cell::Ok);
        builder.roll_back(1);
        builder.text(1, 1, "b", Cell::Ok);
        builder.keep(12, None, 1);
        builder.reserve(2);
        builder.number(0, 2, f64::INFINITY, Cell::Ok);
        builder.keep(13, Some(5), 1);
        let batch = builder.finish();
        let numbers = batch.columns[0].as_primitive::<Float64Type>();
        assert_eq!(numbers.len(), 3);
        assert_eq!(numbers.value(0).to_bits(), 1f64.to_bits());
        assert!(numbers.is_null(1) && numbers.is_null(2));
        assert_eq!(batch.cells[0], [Cell::Ok, Cell::Missing, Cell::PosInf]);
        assert_eq!(batch.cells[1], [Cell::Ok, Cell::Ok, Cell::Missing]);
        assert_eq!(batch.origins[1].offset, 12);
        assert!(builder.is_empty());
        assert_eq!(builder.finish().columns[1].len(), 0);
    }

    #[test]
    fn long_texts_are_cut_at_a_character_and_counted_with_their_rows() {
        let mut builder = Builder::new(&[Shape::Text], 4).cutting(4);
        for (row, text) in ["abcd", "abcde", "abcdf", "aßßß"].into_iter().enumerate() {
            builder.text(0, row, text, Cell::Ok);
        }
        builder.keep(0, None, 4);
        builder.reserve(4);
        builder.text(0, 4, "far too long", Cell::Ok);
        builder.roll_back(1);
        assert_eq!((builder.take_cut(), builder.take_cut()), (3, 0));
        assert_eq!(
            builder.text_bytes(),
            "abcd".len() + "aß".len() + "far ".len()
        );
        let batch = builder.finish();
        assert_eq!(builder.text_bytes(), 0);
        let codes = batch.columns[0].as_dictionary::<arrow::datatypes::UInt32Type>();
        let texts = codes.values().as_string::<i32>();
        let found: Vec<&str> = codes
            .keys()
            .iter()
            .map(|key| texts.value(key.unwrap() as usize))
            .collect();
        assert_eq!(found, ["abcd", "abcd", "abcd", "aß"]);
    }

    #[test]
    fn vectors_come_row_by_row_and_leave_no_trace_when_taken_back() {
        let mut builder = Builder::new(&[Shape::Vector(2)], 1);
        builder.vector(0, 0, &[3.0, 4.0]);
        builder.keep(0, None, 1);
        builder.reserve(4);
        builder.vector(0, 1, &[9.0, 9.0]);
        builder.roll_back(3);
        builder.vector(0, 2, &[1.0, 2.0]);
        builder.repeat(0, 2, 3..4);
        builder.vector(0, 1, &[1.0, 2.0, 3.0]);
        builder.keep(1, None, 4);
        let batch = builder.finish();
        use Cell::{Missing, Ok, WrongType};
        assert_eq!(batch.cells[0], [Ok, WrongType, Ok, Ok, Missing]);
        assert_eq!(batch.columns[0].data_type(), &vector_type(2));
        let vectors = batch.columns[0].as_fixed_size_list();
        let numbers = vectors.values().as_primitive::<Float64Type>();
        let expected = [3.0, 4.0, 0.0, 0.0, 1.0, 2.0, 1.0, 2.0, 0.0, 0.0];
        assert_eq!(numbers.values()[..], expected);
        assert_eq!(vectors.null_count(), 2);
        assert_eq!(builder.finish().columns[0].len(), 0);
    }

    #[test]
    fn a_vector_is_as_good_as_its_worst_number() {
        let [inf, neg, nan] = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        assert_eq!(Cell::of_vector(&[1.0, nan, inf]), Cell::NaN);
        assert_eq!(Cell::of_vector(&[neg, 1.0, inf]), Cell::PosInf);
        assert_eq!(Cell::of_vector(&[1.0, neg]), Cell::NegInf);
        // Each is finite, the norm is not.
        assert_eq!(Cell::of_vector(&[1.7e308, 1.7e308]), Cell::PosInf);
        assert_eq!(Cell::of_vector(&[1e308, 1e308]), Cell::Ok);
        assert_eq!(Cell::of_vector(&[-0.0; 3]), Cell::Ok);
    }

    #[test]
    fn norms_are_exact_over_the_whole_range_of_doubles() {
        let near = |vector: &[f64], expected: f64| {
            let found = norm(vector);
            let off = (found - expected).abs();
            assert!(off <= 1e-15 * expected, "{found} instead of {expected}");
        };
        near(&[], 0.0);
        near(&[-2.5], 2.5);
        near(&[3.0, 4.0], 5.0);
        near(&[0.0; 20], 0.0);
        near(&[1.0; 1_000_000], 1000.0);
        near(&[3e-200, -4e-200], 5e-200);
        near(&[3e200, -4e200], 5e200);
        near(&[1e308, 1e308], 1e308 * 2f64.sqrt());
        near(&[f64::from_bits(1); 4], f64::from_bits(2));
        near(&[9_007_199_254_740_993.0], 9_007_199_254_740_992.0);
        assert!(norm(&[1.0, f64::NAN, f64::INFINITY]).is_nan());
        assert_eq!(
            norm(&[f64::NEG_INFINITY, 1.0]).to_bits(),
            f64::INFINITY.to_bits()
        );
    }
}
