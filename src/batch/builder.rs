//! Rows while they are decoded.

use std::ops::Range;

use super::buffers::{Buffers, Values};
use super::{Batch, Cell, Origin, Shape};

/// Rows while they are decoded.
#[derive(Debug)]
pub struct Builder {
    shapes: Vec<Shape>,
    buffers: Buffers,
    /// Those of the batch before, if they came back.
    spare: Option<Buffers>,
    /// Buffers with room for more rows than this are not kept.
    most_kept: usize,
    /// Longer texts are cut.
    most_text: usize,
    /// How many were, in rows that count and in those that do not yet.
    cut: u64,
    cut_yet: u64,
    text_bytes: usize,
}

/// Room for fewer rows than this is not worth asking for.
const LEAST_ROOM: usize = 16;

impl Builder {
    /// An empty builder for columns of these shapes, with room for so many rows.
    pub fn new(shapes: &[Shape], capacity: usize) -> Self {
        let mut builder = Self::growing(shapes, capacity);
        builder.buffers.grow(capacity);
        builder
    }

    /// An empty builder that takes memory when rows come. Of what has room for more than so many
    /// rows nothing is kept from one batch to the next.
    pub fn growing(shapes: &[Shape], most_kept: usize) -> Self {
        Self {
            shapes: shapes.to_vec(),
            buffers: Buffers::new(shapes),
            spare: None,
            most_kept,
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
        self.buffers.origins.len()
    }

    /// Whether no row counts yet.
    pub fn is_empty(&self) -> bool {
        self.buffers.origins.is_empty()
    }

    /// Makes room for writing `row`.
    #[inline]
    pub fn reserve(&mut self, row: usize) {
        if row >= self.buffers.capacity {
            let capacity = (row + 1).next_power_of_two().max(LEAST_ROOM);
            self.buffers.grow(capacity);
        }
    }

    /// Writes a number.
    #[inline]
    pub fn number(&mut self, column: usize, row: usize, value: f64, cell: Cell) {
        let column = &mut self.buffers.columns[column];
        if let Values::Number(values) = &mut column.values {
            values[row] = value;
            column.cells[row] = Cell::of_number(value, cell);
        }
    }

    /// Writes a text.
    #[inline]
    pub fn text(&mut self, column: usize, row: usize, value: &str, cell: Cell) {
        let column = &mut self.buffers.columns[column];
        if let Values::Text(codes, texts) = &mut column.values {
            let mut text = value;
            if text.len() > self.most_text {
                text = &text[..text.floor_char_boundary(self.most_text)];
                self.cut_yet += 1;
            }
            let before = texts.data.len();
            codes[row] = texts.code(text);
            self.text_bytes += texts.data.len() - before;
            column.cells[row] = cell;
        }
    }

    /// Writes a time in milliseconds.
    #[inline]
    pub fn time(&mut self, column: usize, row: usize, ms: i64) {
        let column = &mut self.buffers.columns[column];
        if let Values::Time(values) = &mut column.values {
            values[row] = ms;
            column.cells[row] = Cell::Ok;
        }
    }

    /// Writes a vector; one that is longer or shorter than its column's is of a wrong type.
    pub fn vector(&mut self, column: usize, row: usize, vector: &[f64]) {
        let column = &mut self.buffers.columns[column];
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
        let column = &mut self.buffers.columns[column];
        // A number that this message wrote before stays, the one of an earlier batch does not: a
        // stored sample holds what is under its nulls.
        if let (Values::Number(values), Cell::Missing) = (&mut column.values, column.cells[row]) {
            values[row] = 0.0;
        }
        column.cells[row] = cell;
    }

    /// The time written at a row, or what stands there instead.
    ///
    /// # Errors
    /// The cell, where it holds no time.
    pub fn time_at(&self, column: usize, row: usize) -> Result<i64, Cell> {
        let column = &self.buffers.columns[column];
        match (&column.values, column.cells[row]) {
            (Values::Time(values), cell) if cell.has_value() => Ok(values[row]),
            (_, cell) => Err(cell),
        }
    }

    /// Copies a cell to other rows: a value beside `[*]` belongs to every row of its message.
    pub fn repeat(&mut self, column: usize, from: usize, rows: Range<usize>) {
        let column = &mut self.buffers.columns[column];
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

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        let spare = self.spare.as_ref().map_or(0, Buffers::bytes);
        self.buffers.bytes() + spare
    }

    /// Counts the next `rows` rows in.
    pub fn keep(&mut self, offset: i64, rows: usize) {
        self.cut += std::mem::take(&mut self.cut_yet);
        for row in 0..rows {
            let row = u32::try_from(row).unwrap_or(u32::MAX);
            self.buffers.origins.push(Origin { offset, row });
        }
    }

    /// Takes back what was written at the next `rows` rows.
    pub fn roll_back(&mut self, rows: usize) {
        self.cut_yet = 0;
        let start = self.len();
        let end = (start + rows).min(self.buffers.capacity);
        for column in &mut self.buffers.columns {
            column.clear(start..end);
        }
    }

    /// The batch so far; the builder starts empty again.
    pub fn finish(&mut self) -> Batch {
        let next = self.spare.take();
        let next = next.unwrap_or_else(|| Buffers::new(&self.shapes));
        let Buffers {
            mut columns,
            origins,
            capacity,
        } = std::mem::replace(&mut self.buffers, next);
        for column in &mut columns {
            let differs = |cell: &Cell| *cell as u8 ^ Cell::Ok as u8;
            let cells = column.cells[..origins.len()].iter();
            column.is_full = cells.fold(0, |any, cell| any | differs(cell)) == 0;
        }
        self.text_bytes = 0;
        Batch {
            columns,
            capacity,
            origins,
        }
    }

    /// Takes the buffers of a batch back that nobody needs any more.
    pub fn reuse(&mut self, batch: Batch) {
        let mut buffers = Buffers {
            columns: batch.columns,
            origins: batch.origins,
            capacity: batch.capacity,
        };
        if buffers.capacity > self.most_kept || buffers.columns.len() != self.shapes.len() {
            return;
        }
        buffers.clear();
        if self.is_empty() && self.text_bytes == 0 && self.buffers.capacity < buffers.capacity {
            std::mem::swap(&mut self.buffers, &mut buffers);
        }
        self.spare = Some(buffers);
    }
}

trait CopyRow {
    fn copy_within_row(&mut self, from: usize, rows: Range<usize>);
}

impl<T: Copy> CopyRow for Vec<T> {
    fn copy_within_row(&mut self, from: usize, rows: Range<usize>) {
        let value = self[from];
        self[rows].fill(value);
    }
}
