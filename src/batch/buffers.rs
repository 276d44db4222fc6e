//! The memory of a batch: what is written into it, and what is read of it.

use std::ops::Range;

use super::texts::Texts;
use super::{Cell, Origin, Shape};

/// The values of a column. What stands where a cell holds no value says nothing.
#[derive(Debug)]
pub(super) enum Values {
    Number(Vec<f64>),
    /// Width and numbers, up to the last row that was written: a batch of embeddings is megabytes.
    Vector(usize, Vec<f64>),
    Text(Vec<u32>, Texts),
    Time(Vec<i64>),
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) cells: Vec<Cell>,
    pub(super) values: Values,
    /// Whether all cells of a finished batch are [`Cell::Ok`].
    pub(super) is_full: bool,
}

/// Columns with room for so many rows.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) columns: Vec<Column>,
    pub(super) origins: Vec<Origin>,
    pub(super) capacity: usize,
}

impl Buffers {
    pub(super) fn new(shapes: &[Shape]) -> Self {
        Self {
            columns: shapes.iter().copied().map(Column::new).collect(),
            origins: Vec::new(),
            capacity: 0,
        }
    }

    pub(super) fn grow(&mut self, capacity: usize) {
        self.capacity = capacity;
        for column in &mut self.columns {
            column.grow(capacity);
        }
    }

    pub(super) fn clear(&mut self) {
        let rows = self.origins.len();
        for column in &mut self.columns {
            column.clear(0..rows);
            match &mut column.values {
                Values::Text(_, texts) => texts.clear(),
                Values::Vector(_, values) => values.clear(),
                Values::Number(_) | Values::Time(_) => {}
            }
        }
        self.origins.clear();
    }

    pub(super) fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::bytes).sum();
        columns + self.origins.capacity() * size_of::<Origin>()
    }
}

impl Column {
    fn new(shape: Shape) -> Self {
        Self {
            cells: Vec::new(),
            values: match shape {
                Shape::Number => Values::Number(Vec::new()),
                Shape::Text => Values::Text(Vec::new(), Texts::default()),
                Shape::Time => Values::Time(Vec::new()),
                Shape::Vector(width) => Values::Vector(width, Vec::new()),
            },
            is_full: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Number(values) => values.capacity() * 8,
            Values::Time(values) => values.capacity() * 8,
            Values::Vector(_, values) => values.capacity() * 8,
            Values::Text(codes, texts) => codes.capacity() * 4 + texts.bytes(),
        };
        size_of::<Self>() + self.cells.capacity() + values
    }

    pub(super) fn grow(&mut self, capacity: usize) {
        self.cells.resize(capacity, Cell::Missing);
        match &mut self.values {
            Values::Number(values) => values.resize(capacity, 0.0),
            Values::Text(codes, _) => codes.resize(capacity, 0),
            Values::Time(values) => values.resize(capacity, 0),
            Values::Vector(..) => {} // grows as it is written
        }
    }

    /// The cells say that nothing was written at these rows; values stay where no cell speaks of
    /// them.
    pub(super) fn clear(&mut self, rows: Range<usize>) {
        self.cells[rows.clone()].fill(Cell::Missing);
        if let Values::Vector(width, values) = &mut self.values {
            let written = values.len();
            let within = |row: usize| (row * *width).min(written);
            values[within(rows.start)..within(rows.end)].fill(0.0);
        }
    }
}
