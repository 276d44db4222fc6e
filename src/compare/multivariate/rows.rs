//! Rows as they were: one dense table per side, straight from a row sample.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use hashbrown::HashMap;

use crate::compare::Reason;
use crate::profile::sample::OWN_COLUMNS;

/// What a column of [`Rows`] holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Cells {
    /// Numbers.
    Numbers,
    /// Labels: a cell is a position in this list, which belongs to these rows alone. What two sides
    /// have in common is the text.
    Labels(Vec<String>),
}

/// A column of [`Rows`].
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The feature's name.
    pub name: String,
    /// The feature it belongs to; an embedding has as many columns as dimensions.
    pub feature: usize,
    /// What stands in it.
    pub cells: Cells,
}

/// Rows of one side, row by row. An absent cell is NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    columns: Vec<Column>,
    cells: Vec<f64>,
}

impl Rows {
    /// A table from its cells, row by row; `None` where they do not fill the last row.
    pub fn new(columns: Vec<Column>, cells: Vec<f64>) -> Option<Self> {
        let width = columns.len();
        let full = if width == 0 {
            cells.is_empty()
        } else {
            cells.len().is_multiple_of(width)
        };
        full.then_some(Self { columns, cells })
    }

    /// The first rows of a sample, at most `limit`: `Float64` is a number, `Utf8` a label, a
    /// fixed-size list of `Float64` an embedding. Features are counted in the order of the columns.
    ///
    /// # Errors
    /// [`Reason::DifferentBins`] for a column of another type.
    pub fn from_sample(batch: &RecordBatch, limit: usize) -> Result<Self, Reason> {
        let rows = batch.num_rows().min(limit);
        let mut columns = Vec::new();
        let mut values = Vec::new();
        let schema = batch.schema();
        let features = batch
            .columns()
            .iter()
            .zip(schema.fields())
            .skip(OWN_COLUMNS);
        for (feature, (array, field)) in features.enumerate() {
            let (cells, new) = read(array.as_ref(), rows)?;
            columns.extend(new.iter().map(|_| Column {
                name: field.name().clone(),
                feature,
                cells: cells.clone(),
            }));
            values.extend(new);
        }
        let mut cells = Vec::with_capacity(rows * columns.len());
        for row in 0..rows {
            cells.extend(values.iter().map(|column| column[row]));
        }
        Ok(Self { columns, cells })
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.cells
            .len()
            .checked_div(self.columns.len())
            .unwrap_or(0)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The first rows that hold anything at all, at most `limit`. A row whose every cell is absent
    /// is no row.
    pub(super) fn some(&self, limit: usize) -> Vec<&[f64]> {
        self.cells
            .chunks_exact(self.columns.len().max(1))
            .filter(|row| row.iter().any(|cell| !cell.is_nan()))
            .take(limit)
            .collect()
    }

    /// The first `limit` rows that hold anything, dealt to two sides: every n-th, and the others.
    pub(super) fn apart(&self, n: usize, limit: usize) -> (Self, Self) {
        let rows = self.some(limit);
        let side = |own: bool| Self {
            columns: self.columns.clone(),
            cells: rows
                .iter()
                .enumerate()
                .filter(|(i, _)| i.is_multiple_of(n) == own)
                .flat_map(|(_, row)| *row)
                .copied()
                .collect(),
        };
        (side(true), side(false))
    }

    /// Whether columns mean the same here as there.
    pub(super) fn matches(&self, columns: &[Column]) -> bool {
        let kind = |column: &Column| matches!(column.cells, Cells::Numbers);
        self.columns.len() == columns.len()
            && self
                .columns
                .iter()
                .zip(columns)
                .all(|(a, b)| a.name == b.name && a.feature == b.feature && kind(a) == kind(b))
    }
}

/// The columns that an array makes, each with `rows` cells.
fn read(array: &dyn Array, rows: usize) -> Result<(Cells, Vec<Vec<f64>>), Reason> {
    match array.data_type() {
        DataType::Float64 => Ok((Cells::Numbers, vec![numbers(array, rows)])),
        DataType::Utf8 => {
            let (labels, codes) = codes(array, rows);
            Ok((Cells::Labels(labels), vec![codes]))
        }
        DataType::FixedSizeList(item, size) if *item.data_type() == DataType::Float64 => {
            let width = usize::try_from(*size).unwrap_or(0);
            Ok((Cells::Numbers, dimensions(array, rows, width)))
        }
        _ => Err(Reason::DifferentBins),
    }
}

fn numbers(array: &dyn Array, rows: usize) -> Vec<f64> {
    let values = array.as_primitive::<Float64Type>();
    let cells = values.iter().take(rows);
    cells.map(|cell| cell.unwrap_or(f64::NAN)).collect()
}

fn codes(array: &dyn Array, rows: usize) -> (Vec<String>, Vec<f64>) {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut labels = Vec::new();
    let texts = array.as_string::<i32>().iter().take(rows);
    let codes = texts
        .map(|text| {
            text.map_or(f64::NAN, |text| {
                let code = *places.entry(text).or_insert_with(|| {
                    labels.push(text.to_owned());
                    labels.len() - 1
                });
                code as f64
            })
        })
        .collect();
    (labels, codes)
}

fn dimensions(array: &dyn Array, rows: usize, width: usize) -> Vec<Vec<f64>> {
    let lists = array.as_fixed_size_list();
    let mut columns = vec![vec![f64::NAN; rows]; width];
    for row in (0..rows).filter(|row| lists.is_valid(*row)) {
        let list = lists.value(row);
        let values = list.as_primitive::<Float64Type>();
        for (column, value) in columns.iter_mut().zip(values.iter()) {
            column[row] = value.unwrap_or(f64::NAN);
        }
    }
    columns
}
