//! Maximum mean discrepancy.
//!
//! **Question**: do the two sides come from the same joint distribution? Every difference counts in
//! the limit, but the distance is taken over all columns at once: what changes in one of thirty
//! drowns in the other twenty-nine. Made for embeddings and for changes that touch most columns.
//!
//! **Formula**: with `k(x, y) = exp(-|x - y|^2 / (2 sigma^2))` on the standard scale
//! ([`super::matrix::Scale::Standard`]), the unbiased
//! `MMD^2 = mean of k over pairs in the reference + mean of k over pairs in the window - 2 mean of k
//! across`. It may be negative. Sigma is `sqrt(median(d^2) / 2)` over the pairs that differ at all of
//! the first [`SIGMA_ROWS`] rows that are not compared. The effect is `sqrt(max(0, MMD^2))`, the
//! distance itself: 0 for the same distribution, below `sqrt 2`. Source: Gretton et al. 2012.
//!
//! **p-value**: (1 + number of permutations with at least this MMD^2) / (1 + [`PERMUTATIONS`]), rows
//! dealt to the sides at random from a fixed seed. So p is never below 0.001: beside sixty tests of
//! single features no adjusted p of this test gets small, and its effect has to speak.
//! Kernel values are computed once, in strips, each added to all permutations and
//! forgotten: memory grows with rows times permutations, not with rows squared. The sums of permutations
//! are kept in single precision; a permutation within 1e-6 of the statistic counts as at least it.
//!
//! The scale and sigma come from every third row of the reference, which is not compared. Elsewhere they come from
//! the rows that are compared; with columns of heavy tails that makes p too small (13.5 % of pairs without
//! drift at 5 %, 200 rows a side), because the largest values of the reference stretch its own scale.
//!
//! **Assumes** independent rows. **Small samples**: 4 rows of the reference and 2 of the window, else
//! `NoReference` or `TooFewRows`; with two against two p is at least about 1/3. **Not for** a change in one of many columns.
//!
//! Constant sides that are equal give 0 and p 1; a reference that is constant, against anything else,
//! gives `NoVariance`: there is no scale for the kernel.

use nalgebra::DMatrix;

use super::matrix::{Encoder, Matrix, Scale};
use super::rows::Rows;
use crate::compare::{Answer, Outcome, Reason};
use crate::profile::sample::mix;

/// Rows used of a side, at most ([`Encoder::row_limit`]).
pub const MAX_ROWS: usize = 1_000;

/// One of so many rows of the reference serves the scale and sigma, and nothing else.
pub const OWN_ROWS: usize = 3;

/// Rows of the reference that are looked at, at most.
pub const MAX_REFERENCE_ROWS: usize = 10_000;

/// Permutations.
pub const PERMUTATIONS: usize = 999;

/// Rows whose pairs give sigma.
pub const SIGMA_ROWS: usize = 500;

/// Kernel rows computed at a time.
const STRIP: usize = 64;

/// How close to the statistic a permutation counts as equal.
const EQUAL: f64 = 1e-6;

/// Seed of the permutations.
const SEED: u64 = 0x6472_6966_7464;

/// The reference's rows on the standard scale, and sigma.
#[derive(Debug)]
pub struct Reference {
    encoder: Encoder,
    rows: Matrix,
    /// Rows that sigma was looked for in.
    own_rows: usize,
    pub(super) sigma: Option<f64>,
}

impl Reference {
    /// Encodes the reference, and finds sigma in the rows that are not compared.
    pub fn fit(reference: &Rows) -> Self {
        let (own, tested) = reference.apart(OWN_ROWS, MAX_REFERENCE_ROWS);
        let encoder = Encoder::fit(&own, MAX_REFERENCE_ROWS);
        let rows = encoder.encode(&tested, Scale::Standard, MAX_ROWS);
        let own = encoder.encode(&own, Scale::Standard, SIGMA_ROWS);
        Self {
            own_rows: own.ncols(),
            sigma: median_sigma(&own),
            encoder,
            rows,
        }
    }

    /// The discrepancy of a window.
    ///
    /// # Errors
    /// [`Reason::NoReference`], [`Reason::TooFewRows`], [`Reason::NoVariance`].
    pub fn compare(&self, window: &Rows) -> Answer {
        let window = self.encoder.encode(window, Scale::Standard, MAX_ROWS);
        if self.rows.ncols().min(self.own_rows) < 2 {
            return Err(Reason::NoReference);
        }
        if window.ncols() < 2 {
            return Err(Reason::TooFewRows);
        }
        let Some(sigma) = self.sigma else {
            let first = self.rows.column(0);
            let mut all = self.rows.column_iter().chain(window.column_iter());
            let same = all.all(|row| row == first);
            return if same {
                Ok(Outcome {
                    expected: Some(0.0),
                    ..Outcome::plain(0.0, Some(1.0))
                })
            } else {
                Err(Reason::NoVariance)
            };
        };
        let (statistic, p) = discrepancy(&self.rows, &window, sigma);
        if !statistic.is_finite() {
            return Err(Reason::NotFinite);
        }
        Ok(Outcome {
            statistic,
            p_value: Some(p),
            expected: Some(0.0),
            effect: statistic.max(0.0).sqrt(),
            error_bound: None,
        })
    }
}

/// The median heuristic; `None` where all rows are the same.
fn median_sigma(rows: &Matrix) -> Option<f64> {
    let mut distances: Vec<f64> = (0..rows.ncols())
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| (rows.column(i) - rows.column(j)).norm_squared())
        .filter(|distance| *distance > 0.0)
        .collect();
    if distances.is_empty() {
        return None;
    }
    let middle = distances.len() / 2;
    let (_, median, _) = distances.select_nth_unstable_by(middle, f64::total_cmp);
    Some((*median / 2.0).sqrt())
}

/// Unbiased MMD^2 and its permutation p.
pub(super) fn discrepancy(reference: &Matrix, window: &Matrix, sigma: f64) -> (f64, f64) {
    let all = join(reference, window);
    let (total, n) = (all.ncols(), window.ncols());
    let labels = permutations(total, n);
    // Per labelling: sums over ordered pairs of the window, and over pairs with the first of the window.
    let mut inside = vec![0.0; labels.ncols()];
    let mut touching = vec![0.0; labels.ncols()];
    let mut row_sums = vec![0.0; total];
    let mut exact = Exact {
        first: reference.ncols(),
        ..Exact::default()
    };
    let squares: Vec<f64> = all.column_iter().map(|row| row.norm_squared()).collect();
    for start in (0..total).step_by(STRIP) {
        let end = (start + STRIP).min(total);
        let strip = kernel_strip(&all, &squares, start, end, sigma);
        for (at, i) in (start..end).enumerate() {
            for (j, k) in strip.column(at).iter().enumerate().take(i) {
                exact.add(i, j, *k);
                row_sums[i] += k;
                row_sums[j] += k;
            }
        }
        add_strip(&strip, &labels, start, &mut inside);
    }
    let (m, n) = (reference.ncols() as f64, n as f64);
    let both: f64 = row_sums.iter().sum();
    for (label, touching) in labels.column_iter().zip(&mut touching) {
        *touching = label
            .iter()
            .zip(&row_sums)
            .map(|(label, sum)| f64::from(*label) * sum)
            .sum();
    }
    let statistic = exact.statistic(m, n);
    let at_least = inside
        .iter()
        .zip(&touching)
        .filter(|&(&inside, &touching)| {
            let across = touching - inside;
            let outside = both - 2.0 * touching + inside;
            let permuted =
                outside / (m * (m - 1.0)) + inside / (n * (n - 1.0)) - 2.0 * across / (m * n);
            permuted >= statistic - EQUAL
        });
    let p = (1 + at_least.count()) as f64 / (1 + labels.ncols()) as f64;
    (statistic, p)
}

fn join(reference: &Matrix, window: &Matrix) -> Matrix {
    let cells = reference.iter().chain(window.iter()).copied();
    DMatrix::from_iterator(reference.nrows(), reference.ncols() + window.ncols(), cells)
}

/// Sums of the kernel over unordered pairs, by where they lie.
#[derive(Default)]
struct Exact {
    /// The first row of the window.
    first: usize,
    reference: f64,
    window: f64,
    across: f64,
}

impl Exact {
    /// For `j < i`.
    fn add(&mut self, i: usize, j: usize, k: f64) {
        if i < self.first {
            self.reference += k;
        } else if j >= self.first {
            self.window += k;
        } else {
            self.across += k;
        }
    }

    fn statistic(&self, m: f64, n: f64) -> f64 {
        2.0 * self.reference / (m * (m - 1.0)) + 2.0 * self.window / (n * (n - 1.0))
            - 2.0 * self.across / (m * n)
    }
}

/// Kernel values of rows `start..end` with all rows before `end`: one column per row of the strip.
fn kernel_strip(all: &Matrix, squares: &[f64], start: usize, end: usize, sigma: f64) -> Matrix {
    let scale = -0.5 / (sigma * sigma);
    let mut strip = all.columns(0, end).transpose() * all.columns(start, end - start);
    for (mut column, i) in strip.column_iter_mut().zip(start..end) {
        for (cell, square) in column.iter_mut().zip(squares) {
            let distance = (square + squares[i] - 2.0 * *cell).max(0.0);
            *cell = (scale * distance).exp();
        }
    }
    strip
}

/// One column of zeros and ones per permutation: which rows are the window's.
fn permutations(total: usize, n: usize) -> DMatrix<f32> {
    let mut labels = DMatrix::zeros(total, PERMUTATIONS);
    let mut order: Vec<usize> = (0..total).collect();
    let mut state = SEED;
    for mut column in labels.column_iter_mut() {
        for place in 0..n {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15); // SplitMix64
            let other = place + below(mix(state), total - place);
            order.swap(place, other);
            column[order[place]] = 1.0;
        }
    }
    labels
}

/// A number below `bound`, of 64 random bits.
#[allow(clippy::cast_possible_truncation, reason = "below a usize")]
fn below(random: u64, bound: usize) -> usize {
    ((u128::from(random) * bound as u128) >> 64) as usize
}

/// Adds what a strip holds of every permutation's sum over ordered pairs inside its window, each row
/// with those before it, both ways round.
#[allow(
    clippy::cast_possible_truncation,
    reason = "single precision is enough here"
)]
fn add_strip(strip: &Matrix, labels: &DMatrix<f32>, start: usize, inside: &mut [f64]) {
    let mut kernel = strip.map(|cell| cell as f32);
    for (mut column, i) in kernel.column_iter_mut().zip(start..) {
        column.iter_mut().skip(i).for_each(|cell| *cell = 0.0);
    }
    let sums = kernel.transpose() * labels.rows(0, strip.nrows());
    for ((sums, label), inside) in sums.column_iter().zip(labels.column_iter()).zip(inside) {
        let own = label.iter().skip(start);
        *inside += 2.0
            * sums
                .iter()
                .zip(own)
                .map(|(sum, label)| f64::from(sum * label))
                .sum::<f64>();
    }
}
