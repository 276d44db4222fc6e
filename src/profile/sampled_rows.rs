//! Sampled rows as they are gathered: plain words, of which Arrow is made once, when they are
//! stored or read.
//!
//! A batch may bring one row to a window or a thousand. Either costs one append to one vector,
//! where an Arrow batch would take an array and more for each feature.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef, Float64Type, Int32Type, Int64Type, SchemaRef};
use arrow::datatypes::{UInt32Type, UInt64Type};
use arrow::error::ArrowError;

use super::Columns;
use super::sample::{OWN_COLUMNS, Provenance};
use crate::batch::{Batch, Cell, Slice};

/// Words at the beginning of a row: hash, offset, partition with row, event time.
const OWN_WORDS: usize = 4;
/// So many rows are written column by column, which then still are in the nearest cache.
const BLOCK: usize = 32;

/// Rows of one schema.
#[derive(Debug, Clone, Default)]
pub(super) struct SampledRows {
    schema: Option<SchemaRef>,
    /// Words of a row: its own, a bit per feature that has a value, and the features.
    width: usize,
    words: Vec<u64>,
    texts: String,
}

/// Where the values of a feature stand in a row.
#[derive(Debug, Clone, Copy)]
struct Place {
    feature: usize,
    word: usize,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Number,
    Text,
    Vector(usize),
}

impl Form {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8 => Self::Text,
            DataType::FixedSizeList(_, width) => Self::Vector(usize::try_from(*width).unwrap_or(0)),
            _ => Self::Number,
        }
    }

    fn words(self) -> usize {
        match self {
            Self::Number => 1,
            Self::Text => 2, // where it begins, and how long it is
            Self::Vector(width) => width,
        }
    }
}

impl Place {
    fn words(self, row: &[u64]) -> &[u64] {
        &row[self.word..self.word + self.form.words()]
    }
}

fn places(schema: &SchemaRef) -> impl Iterator<Item = Place> {
    let features = &schema.fields()[OWN_COLUMNS..];
    let mut word = OWN_WORDS + features.len().div_ceil(64);
    features.iter().enumerate().map(move |(feature, field)| {
        let form = Form::of(field.data_type());
        let place = Place {
            feature,
            word,
            form,
        };
        word += form.words();
        place
    })
}

/// What says which row it is, beside its hash.
type Identity = (i32, i64, u32);

impl SampledRows {
    pub(super) fn len(&self) -> usize {
        self.words.len().checked_div(self.width).unwrap_or(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * 8 + self.texts.capacity()
    }

    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        self.rows().map(|row| row[0])
    }

    /// Appends rows of a batch, each given with its hash.
    pub(super) fn append(
        &mut self,
        schema: &SchemaRef,
        batch: &Batch,
        columns: &Columns,
        rows: &[(u64, usize)],
        from: Provenance<'_>,
    ) {
        self.take_schema(schema);
        for block in rows.chunks(BLOCK) {
            let first = self.make_room(block.len());
            let own = block.iter().map(|(hash, row)| {
                let origin = batch.origins[*row];
                let place = identity_word(from.partition, origin.row);
                let [offset, event_ms] = [origin.offset, from.event_ms[*row]];
                [
                    *hash,
                    offset.cast_unsigned(),
                    place,
                    event_ms.cast_unsigned(),
                ]
            });
            let written = self.words[first..].chunks_exact_mut(self.width);
            for (to, own) in written.zip(own) {
                to[..OWN_WORDS].copy_from_slice(&own);
            }
            for (place, column) in places(schema).zip(columns) {
                self.write(first, place, batch, *column, block);
            }
        }
    }

    /// Writes one feature of some rows.
    fn write(
        &mut self,
        first: usize,
        place: Place,
        batch: &Batch,
        column: usize,
        rows: &[(u64, usize)],
    ) {
        let cells = batch.cells(column);
        let texts = &mut self.texts;
        let written = self.words[first..].chunks_exact_mut(self.width);
        let written = written.zip(rows.iter().map(|(_, row)| *row));
        match batch.values(column) {
            Slice::Number(values) => written.for_each(|(to, row)| {
                set_valid(to, place.feature, cells[row].has_value());
                // What is under a null is stored too, so that it must not be an earlier batch's.
                let missing = cells[row] == Cell::Missing;
                to[place.word] = if missing { 0 } else { values[row].to_bits() };
            }),
            Slice::Text(codes, known) => written.for_each(|(to, row)| {
                if cells[row].has_value() {
                    set_valid(to, place.feature, true);
                    append_text(texts, &mut to[place.word..], known.get(codes[row] as usize));
                }
            }),
            Slice::Vector(width, values) => written.for_each(|(to, row)| {
                set_valid(to, place.feature, cells[row].has_value());
                let vector = values.get(row * width..(row + 1) * width);
                write_vector(&mut to[place.word..], vector.unwrap_or_default());
            }),
            Slice::Time(_) => {} // no feature is one
        }
    }

    /// Appends some rows of a sample that was read.
    pub(super) fn append_arrow(&mut self, sample: &RecordBatch, rows: &[usize]) {
        let schema = sample.schema();
        self.take_schema(&schema);
        let first = self.make_room(rows.len());
        let own = sample.columns();
        let hashes = own[0].as_primitive::<UInt64Type>().values();
        let partitions = own[1].as_primitive::<Int32Type>().values();
        let offsets = own[2].as_primitive::<Int64Type>().values();
        let numbers = own[3].as_primitive::<UInt32Type>().values();
        let event_ms = own[4].as_primitive::<Int64Type>().values();
        let written = self.words[first..].chunks_exact_mut(self.width);
        for (to, row) in written.zip(rows.iter().copied()) {
            to[..OWN_WORDS].copy_from_slice(&[
                hashes[row],
                offsets[row].cast_unsigned(),
                identity_word(partitions[row], numbers[row]),
                event_ms[row].cast_unsigned(),
            ]);
        }
        for place in places(&schema) {
            let column = sample.column(OWN_COLUMNS + place.feature);
            self.write_arrow(first, place, column, rows);
        }
    }

    fn write_arrow(&mut self, first: usize, place: Place, column: &ArrayRef, rows: &[usize]) {
        let texts = &mut self.texts;
        let written = self.words[first..].chunks_exact_mut(self.width);
        for (to, row) in written.zip(rows.iter().copied()) {
            let valid = column.is_valid(row);
            set_valid(to, place.feature, valid);
            let to = &mut to[place.word..];
            match place.form {
                Form::Number => to[0] = column.as_primitive::<Float64Type>().value(row).to_bits(),
                Form::Text if valid => {
                    append_text(texts, to, column.as_string::<i32>().value(row));
                }
                Form::Text => {}
                Form::Vector(width) => {
                    let vectors = column.as_fixed_size_list();
                    let numbers = vectors.values().as_primitive::<Float64Type>().values();
                    let start = vectors.value_offset_at(row);
                    write_vector(to, &numbers[start..start + width]);
                }
            }
        }
    }

    /// Appends some rows of other gathered ones.
    pub(super) fn append_rows(&mut self, other: &Self, rows: &[usize]) {
        let Some(schema) = &other.schema else {
            return;
        };
        self.take_schema(schema);
        let is_text = |place: &Place| place.form == Form::Text;
        let texts: Vec<Place> = places(schema).filter(is_text).collect();
        self.words.reserve(rows.len() * self.width);
        for row in rows {
            let first = self.words.len();
            self.words.extend_from_slice(other.row(*row));
            let to = &mut self.words[first..];
            for place in &texts {
                let to = &mut to[place.word..];
                let text = other.text(to);
                append_text(&mut self.texts, to, text);
            }
        }
    }

    /// Keeps only the rows with such hashes.
    pub(super) fn retain(&mut self, keeps: impl Fn(u64) -> bool) {
        let all = std::mem::take(self);
        let rows = all.hashes().enumerate().filter(|(_, hash)| keeps(*hash));
        let rows: Vec<usize> = rows.map(|(row, _)| row).collect();
        self.append_rows(&all, &rows);
    }

    /// The `most` rows that come first, in order.
    ///
    /// # Errors
    /// Arrow's, where columns and schema disagree.
    pub(super) fn to_arrow(&self, most: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(schema) = &self.schema else {
            return Ok(None);
        };
        // Whole rows are put in order first: each column by itself would be looked up all over memory.
        let mut ordered = Self::default();
        ordered.append_rows(self, &self.order(most));
        let own = |word: usize| ordered.rows().map(move |row| row[word]);
        let identities = || (0..ordered.len()).map(|row| ordered.identity(row));
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(own(0))),
            Arc::new(Int32Array::from_iter_values(identities().map(|one| one.0))),
            Arc::new(Int64Array::from_iter_values(identities().map(|one| one.1))),
            Arc::new(UInt32Array::from_iter_values(identities().map(|one| one.2))),
            Arc::new(Int64Array::from_iter_values(own(3).map(u64::cast_signed))),
        ];
        let features = &schema.fields()[OWN_COLUMNS..];
        for (place, field) in places(schema).zip(features) {
            arrays.push(ordered.array(place, field)?);
        }
        RecordBatch::try_new(Arc::clone(schema), arrays).map(Some)
    }

    fn array(&self, place: Place, field: &FieldRef) -> Result<ArrayRef, ArrowError> {
        let valid = |row: &[u64]| is_valid(row, place.feature);
        let nulls: NullBuffer = self.rows().map(valid).collect();
        let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
        let numbers = || {
            let words = self.rows().flat_map(|row| place.words(row));
            let mut numbers = Vec::with_capacity(self.len() * place.form.words());
            numbers.extend(words.map(|word| f64::from_bits(*word)));
            ScalarBuffer::from(numbers)
        };
        Ok(match (place.form, field.data_type()) {
            (Form::Text, _) => {
                let text = |row| valid(row).then(|| self.text(place.words(row)));
                Arc::new(self.rows().map(text).collect::<StringArray>())
            }
            (Form::Vector(_), DataType::FixedSizeList(item, width)) => {
                let (item, values) = (Arc::clone(item), Float64Array::new(numbers(), None));
                let values = Arc::new(values);
                Arc::new(FixedSizeListArray::try_new(item, *width, values, nulls)?)
            }
            _ => Arc::new(Float64Array::try_new(numbers(), nulls)?),
        })
    }

    /// The rows with the least hashes, ascending; of equal hashes by what row they are.
    fn order(&self, most: usize) -> Vec<usize> {
        let mut rows: Vec<(u64, usize)> = self.hashes().zip(0..).collect();
        let compare = |a: &(u64, usize), b: &(u64, usize)| -> Ordering {
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

    fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.words.chunks_exact(self.width.max(1))
    }

    fn row(&self, row: usize) -> &[u64] {
        &self.words[row * self.width..(row + 1) * self.width]
    }

    fn identity(&self, row: usize) -> Identity {
        let row = self.row(row);
        let [a, b, c, d, e, f, g, h] = row[2].to_be_bytes();
        let (partition, number) = ([a, b, c, d], [e, f, g, h]);
        let offset = row[1].cast_signed();
        (
            i32::from_be_bytes(partition),
            offset,
            u32::from_be_bytes(number),
        )
    }

    fn text(&self, words: &[u64]) -> &str {
        // Both are lengths of what is in memory.
        let [start, length] = [words[0], words[1]].map(|word| usize::try_from(word).unwrap_or(0));
        &self.texts[start..start + length]
    }

    fn take_schema(&mut self, schema: &SchemaRef) {
        if self.words.is_empty() {
            self.schema = Some(Arc::clone(schema));
            let last = places(schema).last();
            self.width = last.map_or(OWN_WORDS, |last| last.word + last.form.words());
        }
    }

    /// Appends empty rows; where the first of them begins. Grows by a quarter, since a full sample
    /// is megabytes.
    fn make_room(&mut self, rows: usize) -> usize {
        let (first, more) = (self.words.len(), rows * self.width);
        if self.words.capacity() - first < more {
            self.words.reserve_exact(more.max(first / 4));
        }
        self.words.resize(first + more, 0);
        first
    }
}

/// Partition and position in the message.
fn identity_word(partition: i32, row: u32) -> u64 {
    u64::from(partition.cast_unsigned()) << 32 | u64::from(row)
}

fn set_valid(row: &mut [u64], feature: usize, valid: bool) {
    row[OWN_WORDS + feature / 64] |= u64::from(valid) << (feature % 64);
}

fn is_valid(row: &[u64], feature: usize) -> bool {
    row[OWN_WORDS + feature / 64] >> (feature % 64) & 1 == 1
}

fn append_text(texts: &mut String, words: &mut [u64], text: &str) {
    (words[0], words[1]) = (texts.len() as u64, text.len() as u64);
    texts.push_str(text);
}

fn write_vector(words: &mut [u64], vector: &[f64]) {
    for (word, number) in words.iter_mut().zip(vector) {
        *word = number.to_bits();
    }
}
