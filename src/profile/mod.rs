//! The mergeable summary of what a stretch of a partition adds to a window.
//!
//! - `norm`: what an embedding is profiled by
//! - `numeric`: counts and sums on the baseline's fine grid, moments, range
//! - `categorical`: counts of the baseline's levels, and what it never held
//! - `coarse`: about ten bins a feature, for the learned mode and tests on counts
//! - `per_bin`: what was counted per bin, in as much memory as that takes
//! - `quality`: nulls, missing fields, wrong types
//! - `sample`: the bottom-k row sample, and `sampled_rows` in it: the rows while they are gathered
//! - `encoding`: the stored form, and `stream` in it: the sample
//!
//! Merging is associative and commutative and equals profiling everything at once, bit for bit:
//! where deltas are cut depends on timing, and timing must not show in a result. So sums are wide
//! integers in fixed-point units of the baseline's own scale, and what is sampled depends on
//! hashes alone.

pub mod categorical;
pub mod coarse;
pub mod encoding;
pub mod norm;
pub mod numeric;
pub mod per_bin;
pub mod quality;
pub mod sample;
mod sampled_rows;
mod stream;

pub use categorical::{Categorical, Levels};
pub use numeric::{Grid, Numeric};
pub use quality::Quality;
pub use sample::Sample;

use crate::batch::{Batch, Selection, Slice, norm};
use crate::monitor::Kind;

/// How the features of a profile are cut into bins: the baseline's, so that every window of a
/// version is cut alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// In the baseline's order.
    pub features: Vec<FeatureLayout>,
}

/// How one feature is cut.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureLayout {
    /// Name as in the training data.
    pub name: String,
    /// What the feature is.
    pub kind: Kind,
    /// Whether labels were numbers or booleans in the training data.
    pub plain_numbers: bool,
    /// Numbers a row of an embedding; 0 for any other kind.
    pub dimension: usize,
    /// The bins: of an embedding, of its norm.
    pub bins: Bins,
}

/// The bins of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum Bins {
    /// Cuts on a number line.
    Grid(Grid),
    /// A list of levels.
    Levels(Levels),
}

/// The summary of some rows.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Rows that count.
    pub rows: u64,
    /// Per feature of the layout, in its order.
    pub features: Vec<Feature>,
    /// Rows as they were.
    pub sample: Sample,
}

/// The summary of one feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// What was found instead of values.
    pub quality: Quality,
    /// The values.
    pub values: Values,
}

/// The values of one feature.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// On a grid.
    Numeric(Numeric),
    /// By level.
    Categorical(Categorical),
}

/// Where the columns of a batch are: one per feature of the layout.
pub type Columns = [usize];

impl Profile {
    /// The profile of no rows, with a sample of at most so many ([`sample::most_rows`]).
    pub fn empty(layout: &Layout, sample_rows: usize) -> Self {
        Self {
            rows: 0,
            features: layout.features.iter().map(Feature::empty).collect(),
            sample: Sample::new(sample::most_rows(layout, sample_rows)),
        }
    }

    /// The profile of no rows, which has not even features until rows are added: most open windows
    /// wait for their next rows, and should take no memory meanwhile.
    pub fn idle(sample: Sample) -> Self {
        Self {
            rows: 0,
            features: Vec::new(),
            sample,
        }
    }

    /// Hands out what was gathered, and waits for more; see [`Sample::take`].
    pub fn take(&mut self) -> Self {
        Self {
            rows: std::mem::take(&mut self.rows),
            features: std::mem::take(&mut self.features),
            sample: self.sample.take(),
        }
    }

    /// Adds rows of a batch, all of one window. Their sample rows are added apart, with their
    /// hashes ([`Sample::add`]).
    pub fn add(&mut self, layout: &Layout, batch: &Batch, columns: &Columns, rows: Selection<'_>) {
        if self.features.is_empty() {
            self.features = layout.features.iter().map(Feature::empty).collect();
        }
        self.rows += rows.len() as u64;
        for ((feature, layout), column) in
            self.features.iter_mut().zip(&layout.features).zip(columns)
        {
            let cells = batch.cells(*column);
            let is_full = batch.is_full(*column);
            if !is_full {
                feature.quality.add(cells, rows);
            }
            let with_value = rows.iter().filter(|row| is_full || cells[*row].has_value());
            match (&mut feature.values, &layout.bins, batch.values(*column)) {
                (Values::Numeric(numeric), Bins::Grid(grid), Slice::Number(values)) => match rows {
                    Selection::Run(from, to) if is_full => numeric.add(grid, &values[from..to]),
                    _ => numeric.add_each(grid, with_value.map(|row| values[row])),
                },
                (Values::Numeric(numeric), Bins::Grid(grid), Slice::Vector(width, values)) => {
                    let norm = |row: usize| norm(&values[row * width..(row + 1) * width]);
                    numeric.add_each(grid, with_value.map(norm));
                }
                (Values::Categorical(labels), Bins::Levels(levels), Slice::Text(codes, texts)) => {
                    labels.add(levels, texts, with_value.map(|row| codes[row]));
                }
                // A profile is only ever made from its own layout.
                _ => debug_assert!(false, "profile and layout disagree"),
            }
        }
    }

    /// Adds another profile of the same layout.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for (mine, other) in self.features.iter_mut().zip(&other.features) {
            mine.quality.merge(&other.quality);
            match (&mut mine.values, &other.values) {
                (Values::Numeric(mine), Values::Numeric(other)) => mine.merge(other),
                (Values::Categorical(mine), Values::Categorical(other)) => mine.merge(other),
                _ => debug_assert!(false, "profiles of different layouts"),
            }
        }
        self.sample.merge(&other.sample);
    }

    /// Whether a feature has met more labels that its baseline never held than are kept by name.
    pub fn is_capped(&self) -> bool {
        self.features.iter().any(|feature| match &feature.values {
            Values::Categorical(categorical) => categorical.strangers.is_full(),
            Values::Numeric(_) => false,
        })
    }

    /// Bytes held in memory, about.
    pub fn bytes(&self) -> usize {
        let values = self.features.iter().map(|feature| feature.values.bytes());
        let features = self.features.capacity() * size_of::<Feature>();
        features + values.sum::<usize>() + self.sample.bytes()
    }
}

impl Feature {
    /// No values.
    fn empty(layout: &FeatureLayout) -> Self {
        Self {
            quality: Quality::default(),
            values: match &layout.bins {
                Bins::Grid(grid) => Values::Numeric(Numeric::empty(grid)),
                Bins::Levels(levels) => Values::Categorical(Categorical::empty(levels)),
            },
        }
    }

    /// Values that the baseline never held: unseen levels, numbers out of its range.
    pub fn unseen(&self) -> u64 {
        match &self.values {
            Values::Numeric(numeric) => numeric.out_of_range(),
            Values::Categorical(categorical) => categorical.unseen,
        }
    }
}

impl Values {
    fn bytes(&self) -> usize {
        match self {
            Self::Numeric(numeric) => numeric.bytes(),
            Self::Categorical(categorical) => categorical.bytes(),
        }
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests;
