//! From rows to numbers on one scale: what the joint tests compute on.
//!
//! The encoder is fitted on the reference and never on a window. Columns of the matrix:
//!
//! - a numeric column, or a dimension of an embedding: itself;
//! - a column of labels: an indicator for each of the most frequent levels (at most [`MAX_LEVELS`],
//!   each with at least [`MIN_SHARE`] of the reference) but the first, which the others imply; and one
//!   for all other levels together, seen in the reference or not (a column for unseen levels alone
//!   would be 0 on the reference by construction, and tell any window from it);
//! - for every feature, an indicator of absent cells (NaN), also where the reference has none.
//!
//! Two scales:
//!
//! - [`Scale::Standard`], for distances and components: less the reference's mean, divided by its
//!   population standard deviation. Values beyond a million deviations stand at a million.
//! - [`Scale::Scores`], for the classifier: a number is replaced by the standard normal quantile of
//!   its mid-rank in the reference's first 2,000 rows, then standardised, so that heavy tails cannot drown the rest and
//!   any increasing transformation of a feature changes nothing. Nothing stands beyond 8.
//!
//! An absent cell stands at the mean (0), and its indicator speaks for it. An infinity does so on the
//! standard scale, and is an extreme rank on the other. A column that does not vary in the reference
//! is 0 where it has the reference's value, else 1 or -1. Integers beyond 2^53 are read as doubles.

use hashbrown::HashMap;
use nalgebra::DMatrix;
use statrs::function::erf::erfc_inv;

use super::rows::{Cells, Column, Rows};

/// Levels of a feature that get an indicator of their own.
pub const MAX_LEVELS: usize = 12;

/// Share of the reference that a level needs for an indicator of its own.
pub const MIN_SHARE: f64 = 0.02;

/// Cells of a side that a test computes on, at most, but for [`MIN_LIMIT`] rows.
pub const MAX_CELLS: usize = 1_000_000;

/// Rows that are used whatever the number of columns.
pub const MIN_LIMIT: usize = 500;

/// Rows of the reference that ranks are taken in, at most.
const RANKED_ROWS: usize = 2_000;

/// Where the standard scale ends.
const MOST_DEVIATIONS: f64 = 1e6;

/// Where the scale of scores ends.
const MOST_SCORE: f64 = 8.0;

/// Which scale a side is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Mean 0 and population standard deviation 1 on the reference.
    Standard,
    /// Normal scores of ranks in the reference.
    Scores,
}

/// Encoded rows: **one column of the matrix per row of the sample**, so that a row's numbers lie
/// side by side in memory.
pub type Matrix = DMatrix<f64>;

/// Puts rows of either side on the reference's scale.
#[derive(Debug)]
pub struct Encoder {
    columns: Vec<Column>,
    /// Per column of labels: the places of the frequent ones, the most frequent first.
    levels: Vec<HashMap<String, Slot>>,
    coded: Vec<Coded>,
}

/// What a label counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// A frequent level, by its place among them; the most frequent is 0.
    Frequent(usize),
    /// Any other.
    Other,
}

/// A column of the matrix.
#[derive(Debug)]
pub struct Coded {
    /// The feature it belongs to.
    pub feature: usize,
    /// Whether it is a number or a level, as opposed to an indicator of absent cells.
    pub is_value: bool,
    source: usize,
    what: What,
    /// The standard scale.
    standard: Spread,
}

#[derive(Debug)]
enum What {
    Number(Ranks),
    Level(Slot),
    /// The columns of the feature are `source..end`.
    Absent {
        end: usize,
    },
}

/// Mean and deviation of `value / unit`.
#[derive(Debug, Clone, Copy)]
struct Spread {
    unit: f64,
    mean: f64,
    deviation: f64,
}

impl Spread {
    /// Of the finite values. Values are divided by the largest first, so that squares cannot overflow.
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let unit = finite
            .clone()
            .fold(0.0_f64, |most, value| most.max(value.abs()));
        let unit = if unit > 0.0 { unit } else { 1.0 };
        let n = finite.clone().count().max(1) as f64;
        let mean = finite.clone().map(|value| value / unit).sum::<f64>() / n;
        let square = |value: f64| (value / unit - mean) * (value / unit - mean);
        let deviation = (finite.clone().map(square).sum::<f64>() / n).sqrt();
        let first = finite.clone().next().unwrap_or(0.0);
        let constant = finite
            .clone()
            .all(|value| value.to_bits() == first.to_bits());
        if constant || deviation <= 0.0 {
            let mean = first / unit;
            return Self {
                unit,
                mean,
                deviation: 0.0,
            };
        }
        Self {
            unit,
            mean,
            deviation,
        }
    }

    fn apply(self, value: f64) -> f64 {
        if !value.is_finite() {
            return 0.0;
        }
        let away = value / self.unit - self.mean;
        if self.deviation > 0.0 {
            (away / self.deviation).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
        } else if away > 0.0 {
            1.0
        } else if away < 0.0 {
            -1.0
        } else {
            0.0
        }
    }
}

/// Normal scores by rank in the reference.
#[derive(Debug)]
struct Ranks {
    /// Distinct values, ascending.
    values: Vec<f64>,
    /// Their scores.
    at: Vec<f64>,
    /// Scores of what lies below each of them and above the one before; one more than values.
    between: Vec<f64>,
    spread: Spread,
}

impl Ranks {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
        all.iter_mut().for_each(|value| *value += 0.0); // -0 is 0
        all.sort_by(f64::total_cmp);
        let n = all.len() as f64 + 1.0;
        let (mut values, mut at, mut between) = (Vec::new(), Vec::new(), Vec::new());
        let mut below = 0.0;
        for equal in all.chunk_by(|a, b| a.to_bits() == b.to_bits()) {
            let count = equal.len() as f64;
            between.push(score((below + 0.5) / n));
            at.push(score((below + 0.5 * (count + 1.0)) / n));
            values.push(equal[0]);
            below += count;
        }
        between.push(score((below + 0.5) / n));
        let weights = all.iter().map(|value| find(&values, &at, &between, *value));
        let spread = Spread::of(weights);
        Self {
            values,
            at,
            between,
            spread,
        }
    }

    fn apply(&self, value: f64) -> f64 {
        if value.is_nan() {
            return 0.0;
        }
        let score = find(&self.values, &self.at, &self.between, value + 0.0);
        self.spread.apply(score).clamp(-MOST_SCORE, MOST_SCORE)
    }
}

fn find(values: &[f64], at: &[f64], between: &[f64], value: f64) -> f64 {
    let place = values.partition_point(|other| *other < value);
    match values.get(place) {
        Some(other) if *other <= value => at[place],
        _ => between[place],
    }
}

/// The standard normal quantile.
fn score(share: f64) -> f64 {
    -std::f64::consts::SQRT_2 * erfc_inv(2.0 * share)
}

impl Encoder {
    /// Learns scales and levels from the first `limit` rows of the reference.
    pub fn fit(reference: &Rows, limit: usize) -> Self {
        let rows = reference.some(limit);
        let mut encoder = Self {
            columns: reference.columns().to_vec(),
            levels: Vec::new(),
            coded: Vec::new(),
        };
        for (source, column) in reference.columns().iter().enumerate() {
            let cells = rows.iter().map(|row| row[source]);
            match &column.cells {
                Cells::Numbers => {
                    encoder.levels.push(HashMap::new());
                    let what = What::Number(Ranks::of(cells.clone().take(RANKED_ROWS)));
                    encoder.push(column.feature, source, what, Spread::of(cells));
                }
                Cells::Labels(labels) => encoder.fit_levels(source, column.feature, labels, cells),
            }
        }
        encoder.fit_absent(&rows);
        encoder
    }

    fn push(&mut self, feature: usize, source: usize, what: What, standard: Spread) {
        let is_value = !matches!(what, What::Absent { .. });
        self.coded.push(Coded {
            feature,
            is_value,
            source,
            what,
            standard,
        });
    }

    fn fit_levels(
        &mut self,
        source: usize,
        feature: usize,
        labels: &[String],
        cells: impl Iterator<Item = f64> + Clone,
    ) {
        let mut counts = vec![0_usize; labels.len()];
        cells
            .clone()
            .filter_map(code)
            .filter(|code| *code < labels.len())
            .for_each(|code| counts[code] += 1);
        let total: usize = counts.iter().sum();
        let mut order: Vec<usize> = (0..labels.len()).filter(|i| counts[*i] > 0).collect();
        order.sort_by(|a, b| {
            counts[*b]
                .cmp(&counts[*a])
                .then(labels[*a].cmp(&labels[*b]))
        });
        let frequent = order
            .iter()
            .take(MAX_LEVELS)
            .take_while(|i| counts[**i] as f64 >= MIN_SHARE * total as f64)
            .count()
            .max(1);
        let levels = order
            .iter()
            .take(frequent)
            .enumerate()
            .map(|(place, i)| (labels[*i].clone(), Slot::Frequent(place)))
            .collect();
        let by_code = Self::by_code(&levels, labels);
        let kinds = (1..frequent).map(Slot::Frequent).chain([Slot::Other]);
        for kind in kinds {
            let spread = Spread::of(cells.clone().map(|cell| is_level(&by_code, cell, kind)));
            self.push(feature, source, What::Level(kind), spread);
        }
        self.levels.push(levels);
    }

    /// One indicator per feature, over all of its columns.
    fn fit_absent(&mut self, rows: &[&[f64]]) {
        let columns = std::mem::take(&mut self.columns);
        let mut source = 0;
        for of_feature in columns.chunk_by(|a, b| a.feature == b.feature) {
            let end = source + of_feature.len();
            let spread = Spread::of(rows.iter().map(|row| is_absent(&row[source..end])));
            self.push(of_feature[0].feature, source, What::Absent { end }, spread);
            source = end;
        }
        self.columns = columns;
    }

    fn by_code(levels: &HashMap<String, Slot>, labels: &[String]) -> Vec<Slot> {
        let slot = |label: &String| levels.get(label).copied().unwrap_or(Slot::Other);
        labels.iter().map(slot).collect()
    }

    /// The columns of the matrix.
    pub fn coded(&self) -> &[Coded] {
        &self.coded
    }

    /// How many rows a test uses of a side, of at most `most`: fewer where there are many columns.
    pub fn row_limit(&self, most: usize) -> usize {
        let fit = MAX_CELLS / self.coded.len().max(1);
        fit.clamp(MIN_LIMIT, most)
    }

    /// Whether no column varies in the reference.
    pub fn is_constant(&self) -> bool {
        self.coded
            .iter()
            .all(|coded| coded.standard.deviation <= 0.0)
    }

    /// Encodes the first `limit` rows of a side with the reference's columns.
    pub fn encode(&self, side: &Rows, scale: Scale, limit: usize) -> Matrix {
        let rows = side.some(limit);
        let by_code: Vec<Vec<Slot>> = side
            .columns()
            .iter()
            .zip(&self.levels)
            .map(|(column, levels)| match &column.cells {
                Cells::Numbers => Vec::new(),
                Cells::Labels(labels) => Self::by_code(levels, labels),
            })
            .collect();
        let width = self.coded.len();
        let mut matrix = DMatrix::zeros(width, rows.len());
        // Column by column, so that the ranks of one are at hand for all of its cells.
        for (place, coded) in self.coded.iter().enumerate() {
            let by_code = &by_code[coded.source];
            let cells = matrix.as_mut_slice().iter_mut().skip(place);
            for (cell, row) in cells.step_by(width).zip(&rows) {
                *cell = coded.encode(row, by_code, scale);
            }
        }
        matrix
    }
}

impl Coded {
    fn encode(&self, row: &[f64], by_code: &[Slot], scale: Scale) -> f64 {
        let cell = row[self.source];
        match &self.what {
            What::Number(ranks) if scale == Scale::Scores => ranks.apply(cell),
            What::Number(_) => self.standard.apply(cell),
            What::Level(kind) => self.indicator(is_level(by_code, cell, *kind), scale),
            What::Absent { end } => self.indicator(is_absent(&row[self.source..*end]), scale),
        }
    }

    fn indicator(&self, value: f64, scale: Scale) -> f64 {
        let value = self.standard.apply(value);
        match scale {
            Scale::Standard => value,
            Scale::Scores => value.clamp(-MOST_SCORE, MOST_SCORE),
        }
    }
}

/// 1 where the cell's label counts for `kind`, 0 where for another, NaN where there is none.
fn is_level(by_code: &[Slot], cell: f64, kind: Slot) -> f64 {
    match code(cell).and_then(|code| by_code.get(code)) {
        Some(slot) => f64::from(u8::from(*slot == kind)),
        None => f64::NAN,
    }
}

fn is_absent(cells: &[f64]) -> f64 {
    f64::from(u8::from(cells.iter().any(|cell| cell.is_nan())))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a position in a list, checked against its length"
)]
fn code(cell: f64) -> Option<usize> {
    (cell >= 0.0).then_some(cell as usize)
}
