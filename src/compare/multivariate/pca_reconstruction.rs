//! Reconstruction error by the reference's principal components.
//!
//! **Question**: do the columns still hang together as they did? A row is projected onto the
//! components that hold [`SHARE`] of the reference's variance and back; what is lost grows when
//! correlations break up, and shrinks when they tighten.
//!
//! **Formula**: the error of a row is the Euclidean norm of its residual on the standard scale
//! ([`super::matrix::Scale::Standard`]); the statistic is the mean over the window. Components come from
//! one half of the reference (even rows), as does the scale, the expected mean from the **other**: errors of rows that the
//! components were fitted to are too small, and would make any window look worse. The effect is
//! `|statistic / expected - 1|`.
//!
//! **p-value**: Welch's t on the errors of the window and of the other half, two-sided. Given the
//! components both are samples of independent errors.
//!
//! **Which features**: squared residuals by column, window less reference, in the direction in which
//! the whole has gone; shares of their sum.
//!
//! **Assumes** independent rows, and enough of them for the mean of the errors to be normal. Heavy tails
//! make p too large. **Small samples**: [`MIN_ROWS`] rows in each half of the reference and [`MIN_WINDOW`] in
//! the window, else `NoReference` or `TooFewRows`. **Not for** columns that are independent of each
//! other: components then mean nothing, and a changed correlation of two of thirty columns is hardly seen.
//!
//! Constant sides that are equal give 0 and p 1; a constant reference against anything else gives
//! `NoVariance`, and so does a reference whose held-out rows are reconstructed without error, such as
//! one with a single column.

use nalgebra::{DVector, SymmetricEigen};
use statrs::function::beta::checked_beta_reg;

use super::matrix::{Encoder, Matrix, Scale};
use super::rows::Rows;
use super::{JointContribution, shares};
use crate::compare::{Answer, Outcome, Reason};

/// Share of the variance that the components hold.
pub const SHARE: f64 = 0.65;

/// Rows used of a window, and of each half of the reference, at most ([`Encoder::row_limit`]).
pub const MAX_ROWS: usize = 5_000;

/// Rows that each half of the reference needs.
pub const MIN_ROWS: usize = 20;

/// Rows that the window needs.
pub const MIN_WINDOW: usize = 20;

/// Components, and what the other half of the reference loses by them.
#[derive(Debug)]
pub struct Reference {
    encoder: Encoder,
    centre: DVector<f64>,
    /// One component per column.
    components: Matrix,
    held_out: Errors,
    constant: bool,
}

/// Reconstruction errors of some rows.
#[derive(Debug)]
struct Errors {
    rows: f64,
    mean: f64,
    /// Unbiased.
    variance: f64,
    /// Mean squared residual per column.
    columns: DVector<f64>,
}

impl Reference {
    /// Fits the components to one half and measures the other.
    pub fn fit(reference: &Rows) -> Self {
        let (first, second) = reference.apart(2, 2 * MAX_ROWS);
        let encoder = Encoder::fit(&first, MAX_ROWS);
        let limit = encoder.row_limit(MAX_ROWS);
        let fitted = encoder.encode(&first, Scale::Standard, limit);
        let other = encoder.encode(&second, Scale::Standard, limit);
        let (centre, components) = components(&fitted);
        let held_out = Errors::of(&centre, &components, &other);
        Self {
            centre,
            components,
            held_out,
            constant: encoder.is_constant(),
            encoder,
        }
    }

    /// The reconstruction error of a window.
    pub fn compare(&self, window: &Rows) -> (Answer, Vec<JointContribution>) {
        if self.held_out.rows < MIN_ROWS as f64 {
            return (Err(Reason::NoReference), Vec::new());
        }
        let encoded =
            self.encoder
                .encode(window, Scale::Standard, self.encoder.row_limit(MAX_ROWS));
        if encoded.ncols() < MIN_WINDOW {
            return (Err(Reason::TooFewRows), Vec::new());
        }
        let found = Errors::of(&self.centre, &self.components, &encoded);
        let expected = self.held_out.mean;
        if self.constant || expected <= 0.0 {
            let same = encoded.iter().all(|cell| cell.abs() <= 0.0);
            let nothing = Outcome {
                expected: Some(0.0),
                ..Outcome::plain(0.0, Some(1.0))
            };
            let answer = if self.constant && same {
                Ok(nothing)
            } else {
                Err(Reason::NoVariance)
            };
            return (answer, Vec::new());
        }
        let outcome = Outcome {
            statistic: found.mean,
            p_value: Some(welch(&self.held_out, &found)),
            expected: Some(expected),
            effect: (found.mean / expected - 1.0).abs(),
            error_bound: None,
        };
        (Ok(outcome), self.contributions(&found))
    }

    fn contributions(&self, found: &Errors) -> Vec<JointContribution> {
        let change = &found.columns - &self.held_out.columns;
        let direction = change.sum().signum();
        let parts = self.encoder.coded().iter().zip(change.iter());
        shares(parts.map(|(coded, change)| (coded.feature, None, direction * change)))
    }
}

/// The mean of the rows, and the components that hold [`SHARE`] of their variance.
fn components(rows: &Matrix) -> (DVector<f64>, Matrix) {
    let centre = if rows.ncols() > 0 {
        rows.column_mean()
    } else {
        DVector::zeros(rows.nrows())
    };
    let centred = centred(rows, &centre);
    let moments = &centred * centred.transpose() / (rows.ncols().max(1) as f64);
    if moments.is_empty() {
        return (centre, moments);
    }
    let Some(eigen) = SymmetricEigen::try_new(moments, f64::EPSILON, 10_000) else {
        return (centre, Matrix::zeros(rows.nrows(), 0));
    };
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let enough = SHARE * eigen.eigenvalues.sum();
    let mut held = 0.0;
    let kept: Vec<usize> = order
        .into_iter()
        .take_while(|i| {
            let more = held < enough;
            held += eigen.eigenvalues[*i];
            more
        })
        .collect();
    (centre, eigen.eigenvectors.select_columns(&kept))
}

fn centred(rows: &Matrix, centre: &DVector<f64>) -> Matrix {
    let mut centred = rows.clone();
    centred.column_iter_mut().for_each(|mut row| row -= centre);
    centred
}

impl Errors {
    fn of(centre: &DVector<f64>, components: &Matrix, rows: &Matrix) -> Self {
        let centred = centred(rows, centre);
        let kept = components * (components.transpose() * &centred);
        let squares = (centred - kept).map(|cell| cell * cell);
        let n = rows.ncols() as f64;
        let errors: Vec<f64> = squares.column_iter().map(|row| row.sum().sqrt()).collect();
        let mean = errors.iter().sum::<f64>() / n.max(1.0);
        let spread: f64 = errors
            .iter()
            .map(|error| (error - mean) * (error - mean))
            .sum();
        Self {
            rows: n,
            mean,
            variance: spread / (n - 1.0).max(1.0),
            columns: if rows.ncols() > 0 {
                squares.column_mean()
            } else {
                DVector::zeros(rows.nrows())
            },
        }
    }
}

/// Welch's t-test, two-sided. 1 where neither side's errors vary and the means agree.
fn welch(a: &Errors, b: &Errors) -> f64 {
    let (of_a, of_b) = (a.variance / a.rows, b.variance / b.rows);
    let variance = of_a + of_b;
    let away = (b.mean - a.mean) * (b.mean - a.mean);
    if variance <= 0.0 {
        return if away > 0.0 { 0.0 } else { 1.0 };
    }
    let freedom =
        variance * variance / (of_a * of_a / (a.rows - 1.0) + of_b * of_b / (b.rows - 1.0));
    student_two_sided(away / variance, freedom)
}

/// `P(t^2 > squared)` by the incomplete beta function, so that small values keep their digits.
pub(super) fn student_two_sided(squared: f64, freedom: f64) -> f64 {
    let x = freedom / (freedom + squared);
    checked_beta_reg(0.5 * freedom, 0.5, x).map_or(0.0, |p| p.clamp(0.0, 1.0))
}
