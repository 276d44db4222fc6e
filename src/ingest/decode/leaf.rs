//! What is written into the columns of one node of the plan, however it was parsed.

use jiter::{Jiter, NumberAny, NumberInt};

use super::{Plan, Read, time};
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
                Read::Text { plain_numbers } => {
                    let cell = if *plain_numbers {
                        Cell::Ok
                    } else {
                        Cell::Coerced
                    };
                    let label = label_of_number(written);
                    self.out.text(*column, self.row, &label, cell);
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
                Read::Text { plain_numbers } => {
                    let cell = if *plain_numbers {
                        Cell::Coerced
                    } else {
                        Cell::Ok
                    };
                    self.out.text(*column, self.row, text, cell);
                }
                Read::Number => match text.trim().parse::<f64>() {
                    Ok(value) => self.out.number(*column, self.row, value, Cell::Coerced),
                    Err(_) => self.out.absent(*column, self.row, Cell::WrongType),
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
                    let cell = if *plain_numbers {
                        Cell::Ok
                    } else {
                        Cell::Coerced
                    };
                    let text = if value { "true" } else { "false" };
                    self.out.text(*column, self.row, text, cell);
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

/// `3.0` and `3` are the same label; anything else stays as written.
pub fn label_of_number(written: &[u8]) -> String {
    let mut json = Jiter::new(written);
    match json.next_number() {
        Ok(NumberAny::Int(NumberInt::Int(int))) => int.to_string(),
        Ok(NumberAny::Float(float)) if float.fract() == 0.0 && float.abs() < 1e15 => {
            format!("{float:.0}")
        }
        _ => String::from_utf8_lossy(written).into_owned(),
    }
}
