//! From bins to scores, and from the profile of a window to its answers.

use arrow::array::{Float64Array, RecordBatch};
use nalgebra::DVectorView;

use super::question::{Answers, Asking, Numbers, Scores, Tally, choose_pairs};
use crate::profile::sample::OWN_COLUMNS;
use crate::profile::{Bins, Feature, Grid, Layout, Profile, Quality, Values, norm};

impl Asking {
    /// How the values of a layout are scored: `rows` is a sample of the training data (its columns as in
    /// [`crate::profile::Sample`]), `levels` says how often each level occurs, in the layout's order.
    pub fn new(layout: &Layout, rows: Option<&RecordBatch>, levels: &[Vec<u64>]) -> Self {
        let columns: Vec<Float64Array> = (0..layout.features.len())
            .map(|i| match rows {
                Some(rows) => norm::numbers(rows.column(OWN_COLUMNS + i)),
                None => Float64Array::new_null(0),
            })
            .collect();
        let scores = |(i, feature): (usize, &crate::profile::FeatureLayout)| match &feature.bins {
            Bins::Grid(grid) => Scores::Numbers(Numbers::of_shares(&shares(grid, &columns[i]))),
            Bins::Levels(_) => Scores::of_levels(levels.get(i).map_or(&[], Vec::as_slice)),
        };
        let features: Vec<Scores> = layout.features.iter().enumerate().map(scores).collect();
        let numbers =
            |i: &usize| matches!(&features[*i], Scores::Numbers(n) if !n.location.is_empty());
        let numbers: Vec<u32> = (0..features.len())
            .filter(numbers)
            .filter_map(|i| u32::try_from(i).ok())
            .collect();
        let scored: Vec<Vec<f64>> = (layout.features.iter().zip(&features).zip(&columns))
            .map(|((feature, scores), column)| row_scores(&feature.bins, scores, column))
            .collect();
        // Normal scores of all training rows have a mean of 0.
        let covariance = |a: u32, b: u32| sum_of_products(&scored[a as usize], &scored[b as usize]);
        Self {
            pairs: choose_pairs(&numbers, covariance),
            features,
        }
    }

    /// The same for some of the features, in this order.
    #[must_use]
    pub fn select(&self, features: &[usize]) -> Self {
        let place = |feature: &u32| features.iter().position(|f| *f == *feature as usize);
        let pair = |(a, b): &(u32, u32)| {
            let (a, b) = (
                u32::try_from(place(a)?).ok()?,
                u32::try_from(place(b)?).ok()?,
            );
            Some((a, b))
        };
        Self {
            features: features.iter().map(|f| self.features[*f].clone()).collect(),
            pairs: self.pairs.iter().filter_map(pair).collect(),
        }
    }

    /// What the rows of a window answer. `layout` is that of the profile.
    pub fn ask(&self, layout: &Layout, profile: &mut Profile, start_ms: i64) -> Answers {
        let features = self
            .features
            .iter()
            .zip(&layout.features)
            .zip(&profile.features);
        let features =
            features.map(|((scores, layout), feature)| tally(scores, &layout.bins, feature));
        let (rows, features) = (profile.rows, features.collect());
        let mut answers = Answers {
            start_ms,
            rows,
            features,
            pairs: Vec::new(),
            pair_rows: 0,
            shared: false,
        };
        answers.pairs = vec![0.0; self.pairs.len()];
        if let Ok(Some(sample)) = profile.sample.settle() {
            let scored = self.features.iter().zip(&layout.features).enumerate();
            let scored: Vec<Vec<f64>> = scored
                .map(|(i, (scores, layout))| match self.is_paired(i) {
                    true => {
                        let column = norm::numbers(sample.column(OWN_COLUMNS + i));
                        row_scores(&layout.bins, scores, &column)
                    }
                    false => Vec::new(),
                })
                .collect();
            let rows = sample.num_rows() as f64;
            let sums: Vec<f64> = scored.iter().map(|scores| scores.iter().sum()).collect();
            for (sum, (a, b)) in answers.pairs.iter_mut().zip(&self.pairs) {
                let (a, b) = (*a as usize, *b as usize);
                let mean = |i: usize| answers.features[i].mean_location();
                let moved = rows * mean(a) * mean(b) - sums[a] * sums[b] / rows.max(1.0);
                *sum = sum_of_products(&scored[a], &scored[b]) + moved;
            }
            answers.pair_rows = sample.num_rows() as u64;
        }
        answers
    }

    /// Whether a feature is in one of the pairs.
    pub fn is_paired(&self, feature: usize) -> bool {
        self.pairs
            .iter()
            .any(|(a, b)| *a as usize == feature || *b as usize == feature)
    }
}

/// Over two columns of the same length.
pub fn sum_of_products(a: &[f64], b: &[f64]) -> f64 {
    DVectorView::from_slice(a, a.len()).dot(&DVectorView::from_slice(b, b.len()))
}

impl Answers {
    /// The same for some of the features of `asking`, in this order.
    #[must_use]
    pub fn select(&self, asking: &Asking, features: &[usize]) -> Self {
        let has = |feature: u32| features.contains(&(feature as usize));
        let pairs = asking.pairs.iter().zip(&self.pairs);
        Self {
            features: features.iter().map(|f| self.features[*f].clone()).collect(),
            pairs: pairs
                .filter(|((a, b), _)| has(*a) && has(*b))
                .map(|(_, sum)| *sum)
                .collect(),
            ..*self
        }
    }
}

impl Tally {
    /// Adds rows without a value.
    pub fn add_quality(&mut self, quality: &Quality) {
        self.null += quality.null + quality.nan + quality.pos_inf + quality.neg_inf;
        self.missing += quality.missing;
        self.wrong_type += quality.wrong_type;
    }
}

/// The share of each bin in a sample, half a row spread over all bins, so that none is 0.
fn shares(grid: &Grid, values: &Float64Array) -> Vec<f64> {
    let mut counts = vec![0.0; grid.bins()];
    values
        .iter()
        .flatten()
        .for_each(|value| counts[grid.bin(value)] += 1.0);
    let all: f64 = counts.iter().sum();
    let some = 0.5 / counts.len() as f64;
    counts
        .iter()
        .map(|count| (count + some) / (all + 0.5))
        .collect()
}

/// The normal score of every row of a number; 0 where there is none.
fn row_scores(bins: &Bins, scores: &Scores, values: &Float64Array) -> Vec<f64> {
    match (bins, scores) {
        (Bins::Grid(grid), Scores::Numbers(numbers)) => {
            let score = |value: f64| numbers.location.get(grid.bin(value)).copied();
            values
                .iter()
                .map(|value| value.and_then(score).unwrap_or(0.0))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn tally(scores: &Scores, bins: &Bins, feature: &Feature) -> Tally {
    let mut tally = Tally::empty(scores);
    match (&feature.values, scores, bins) {
        (Values::Numeric(values), Scores::Numbers(numbers), Bins::Grid(_)) => {
            for (bin, held) in values.bins.occupied() {
                tally.add_number(numbers, bin, held.count);
            }
        }
        (Values::Categorical(values), Scores::Labels { group, .. }, _) => {
            for (level, rows) in values.levels.occupied() {
                tally.add_level(group, level, rows);
            }
            tally.values += values.unseen;
            tally.new += values.unseen;
        }
        _ => debug_assert!(false, "scores and profile disagree"),
    }
    tally.add_quality(&feature.quality);
    tally
}
