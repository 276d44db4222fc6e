//! What is written into the columns of one node of the plan, however it was parsed.

use std::borrow::Cow;

use super::{Plan, Read, time, value};
use crate::batch::{Builder, Cell};

/// Where leaves are written.
pub(super) struct Leaves<'a> {
    pub(super) plan: &'a Plan,
    pub(super) out: &'a mut Builder,
    pub(super) row: usize,
}

impl Leaves<'_> {
    pub(super) fn absent(&mut self, node: usize, cell: Cell) {
        for column in &self.plan.nodes[node].leaves {
            self.out.absent(*column, self.row, cell);
        }
    }

    /// A number; labels want it as it is written, which no float gives back.
    #[inline]
    pub(super) fn number(&mut self, node: usize, value: f64, written: &[u8]) {
        for column in &self.plan.nodes[node].leaves {
            match &self.plan.columns[*column] {
                Read::Number => self.out.number(*column, self.row, value, Cell::Ok),
                Read::Text { plain_numbers } => match value::of_number(written) {
                    Ok(label) => {
                        let cell = coerced_unless(*plain_numbers);
                        self.out.text(*column, self.row, &label, cell);
                    }
                    Err(cell) => self.out.absent(*column, self.row, cell),
                },
                Read::Boolean => self.boolean_or_label(*column, value::of_number(written)),
                Read::Written => {
                    let text = String::from_utf8_lossy(written);
                    self.out.text(*column, self.row, &text, Cell::Ok);
                }
                Read::Time(unit) => self.time(*column, time::of_number(value, *unit)),
                Read::Seconds(unit) => self.seconds(*column, time::of_number(value, *unit)),
                Read::Vector(_) => self.out.absent(*column, self.row, Cell::WrongType),
            }
        }
    }

    /// An array, as the numbers that it holds: `None` where it holds anything else. Of one that is
    /// longer than any vector here, more numbers than fit say enough.
    pub(super) fn array(&mut self, node: usize, numbers: Option<&[f64]>) {
        for column in &self.plan.nodes[node].leaves {
            match (&self.plan.columns[*column], numbers) {
                (Read::Vector(_), Some(numbers)) => self.out.vector(*column, self.row, numbers),
                _ => self.out.absent(*column, self.row, Cell::WrongType),
            }
        }
    }

    #[inline]
    pub(super) fn text(&mut self, node: usize, text: &str) {
        for column in &self.plan.nodes[node].leaves {
            match &self.plan.columns[*column] {
                Read::Text { plain_numbers } => match value::of_text(text) {
                    Some(label) => {
                        let cell = coerced_unless(!*plain_numbers);
                        self.out.text(*column, self.row, label, cell);
                    }
                    None => self.out.absent(*column, self.row, Cell::Null),
                },
                Read::Boolean => {
                    let label = value::of_text(text).ok_or(Cell::Null);
                    self.boolean_or_label(*column, label.map(Into::into));
                }
                Read::Written => self.out.text(*column, self.row, text, Cell::Ok),
                Read::Number => match value::number_of_text(text) {
                    Ok(value) => self.out.number(*column, self.row, value, Cell::Coerced),
                    Err(cell) => self.out.absent(*column, self.row, cell),
                },
                Read::Time(_) => self.time(*column, time::of_text(text)),
                Read::Seconds(_) => self.seconds(*column, time::of_text(text)),
                Read::Vector(_) => self.out.absent(*column, self.row, Cell::WrongType),
            }
        }
    }

    pub(super) fn boolean(&mut self, node: usize, value: bool) {
        for column in &self.plan.nodes[node].leaves {
            match &self.plan.columns[*column] {
                Read::Text { plain_numbers } => {
                    let cell = coerced_unless(*plain_numbers);
                    let label = value::of_boolean(value);
                    self.out.text(*column, self.row, label, cell);
                }
                Read::Boolean | Read::Written => {
                    let label = value::of_boolean(value);
                    self.out.text(*column, self.row, label, Cell::Ok);
                }
                Read::Number => {
                    self.out
                        .number(*column, self.row, f64::from(u8::from(value)), Cell::Coerced);
                }
                Read::Time(_) | Read::Seconds(_) | Read::Vector(_) => {
                    self.out.absent(*column, self.row, Cell::WrongType);
                }
            }
        }
    }

    /// A label where a boolean is expected: what says true or false is one.
    fn boolean_or_label(&mut self, column: usize, label: Result<Cow<'_, str>, Cell>) {
        match label {
            Ok(label) => {
                let boolean = value::boolean_of_text(&label).map(value::of_boolean);
                let label = boolean.unwrap_or(&label);
                self.out.text(column, self.row, label, Cell::Coerced);
            }
            Err(cell) => self.out.absent(column, self.row, cell),
        }
    }

    fn time(&mut self, column: usize, ms: Option<i64>) {
        match ms {
            Some(ms) => self.out.time(column, self.row, ms),
            None => self.out.absent(column, self.row, Cell::WrongType),
        }
    }

    fn seconds(&mut self, column: usize, ms: Option<i64>) {
        match ms {
            Some(ms) => self.out.number(column, self.row, ms as f64 / 1e3, Cell::Ok),
            None => self.out.absent(column, self.row, Cell::WrongType),
        }
    }
}

fn coerced_unless(expected: bool) -> Cell {
    if expected { Cell::Ok } else { Cell::Coerced }
}
