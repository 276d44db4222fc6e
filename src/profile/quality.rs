//! What was found instead of a value, counted. These are facts about data quality, not errors.

use crate::batch::{Cell, Selection};

/// Counts of cells, per feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quality {
    /// Explicit nulls.
    pub null: u64,
    /// No such field in the message.
    pub missing: u64,
    /// Values that cannot be read as what the feature is.
    pub wrong_type: u64,
    /// Not-a-number.
    pub nan: u64,
    /// Positive infinities.
    pub pos_inf: u64,
    /// Negative infinities.
    pub neg_inf: u64,
    /// Values read from another type that says the same (`"3.5"`); they count as values.
    pub coerced: u64,
}

impl Quality {
    pub(super) fn add(&mut self, cells: &[Cell], rows: Selection<'_>) {
        for row in rows.iter() {
            match cells[row] {
                Cell::Ok => {}
                Cell::Null => self.null += 1,
                Cell::Missing => self.missing += 1,
                Cell::WrongType => self.wrong_type += 1,
                Cell::NaN => self.nan += 1,
                Cell::PosInf => self.pos_inf += 1,
                Cell::NegInf => self.neg_inf += 1,
                Cell::Coerced => self.coerced += 1,
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, other) in self.each_mut().into_iter().zip(other.each()) {
            *mine += other;
        }
    }

    /// Rows without a usable value.
    pub fn absent(&self) -> u64 {
        self.null + self.missing + self.wrong_type + self.nan + self.pos_inf + self.neg_inf
    }

    /// The counts in their stored order.
    pub fn each(&self) -> [u64; 7] {
        [
            self.null,
            self.missing,
            self.wrong_type,
            self.nan,
            self.pos_inf,
            self.neg_inf,
            self.coerced,
        ]
    }

    pub(super) fn each_mut(&mut self) -> [&mut u64; 7] {
        [
            &mut self.null,
            &mut self.missing,
            &mut self.wrong_type,
            &mut self.nan,
            &mut self.pos_inf,
            &mut self.neg_inf,
            &mut self.coerced,
        ]
    }
}
