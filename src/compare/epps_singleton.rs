//! Epps-Singleton.
//!
//! **Question**: do the empirical characteristic functions of the two sides differ at two points? Shows
//! changes of place, spread and shape of continuous and of whole-number features alike.
//!
//! **Formula**: with sigma half the interquartile range of all rows together, every row x becomes
//! `g(x) = (cos t x, sin t x)` for t = 0.4 / sigma and 0.8 / sigma. With d the difference of the two mean
//! g, and S, S' the covariances of g (divisor n), `W = d' (S/n + S'/m)^-1 d`. While neither side has
//! 25 rows, W is divided by `1 + N^-0.45 + 10.1 (n^-1.7 + m^-1.7)`. Source: T. W. Epps and
//! K. J. Singleton 1986; S. J. Goerg and J. Kaiser 2009; it is `scipy.stats.epps_singleton_2samp` with
//! its defaults.
//!
//! **Effect**: `sqrt((W - 4) (1/n + 1/m))`, 0 where W is below its expectation 4: about the distance of
//! the two mean g in their own standard deviations. A shift of a tenth of a standard deviation of a
//! normal feature gives about 0.1.
//!
//! **p-value**: chi-square with 4 degrees of freedom.
//!
//! **Assumes** independent rows. Ties are no trouble as long as five values or so are left.
//!
//! **Small samples and edges**: fewer than 5 rows on a side are too few. Where half of all rows or more
//! share one value, sigma may be 0: [`Reason::NoVariance`], unless all rows do. Where there are fewer than
//! five distinct values S is singular: [`Reason::NoVariance`] too, unless the mean g are equal; then
//! W = 0 and p = 1. (scipy takes a pseudo-inverse there, and guesses the degrees of freedom from
//! rounding errors.) Infinite values have
//! no cosine ([`Reason::NotFinite`]). x is taken from a middle value, which changes nothing but rounding:
//! 1e9 + small keeps its digits, where scipy loses them. **Not for** heavy tails: a cosine does not tell
//! far from farther.

use super::law::chi2;
use super::merge::{all_equal, not_empty, ties};
use super::{Answer, Outcome, Reason};

/// Fewest rows on a side.
const LEAST_ROWS: usize = 5;

/// From this many rows on the larger side W is taken as it is.
const LARGE: usize = 25;

/// Coordinates of g.
const SIZE: usize = 4;

/// A direction whose variance is a smaller part of the largest one's is none: it is rounding.
const SINGULAR: f64 = 1e-13;

/// The test on all rows; both slices ascending.
///
/// # Errors
/// [`Reason::NoReference`], [`Reason::TooFewRows`], [`Reason::NoVariance`], [`Reason::NotFinite`].
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64]) -> Answer {
    not_empty(reference_sorted, window_sorted)?;
    let (n, m) = (reference_sorted.len(), window_sorted.len());
    if n.min(m) < LEAST_ROWS {
        return Err(Reason::TooFewRows);
    }
    let finite = |side: &[f64]| side[0].is_finite() && side[side.len() - 1].is_finite();
    if !(finite(reference_sorted) && finite(window_sorted)) {
        return Err(Reason::NotFinite);
    }
    if all_equal(reference_sorted, window_sorted) {
        return Ok(outcome(0.0, n, m));
    }
    let sigma = half_spread(reference_sorted, window_sorted);
    if sigma <= 0.0 {
        return Err(Reason::NoVariance);
    }
    let middle = reference_sorted[n / 2] * QUARTER;
    let side = |sorted: &[f64]| Side::of(sorted, |x| 0.4 * ((x * QUARTER - middle) / sigma));
    let (left, right) = (side(reference_sorted), side(window_sorted));
    let gap = left.gap(&right);
    let covariance = left.error_plus(&right);
    if !covariance
        .iter()
        .flatten()
        .chain(&gap)
        .all(|x| x.is_finite())
    {
        return Err(Reason::NotFinite); // x / sigma has left the range of floats
    }
    match quadratic_form(covariance, &gap) {
        Some(w) => Ok(outcome(w * small_sample(n, m), n, m)),
        None if gap.iter().all(|x| x.abs() < 1e-14) => Ok(outcome(0.0, n, m)),
        None => Err(Reason::NoVariance),
    }
}

/// Values are divided by 4, so that no difference of two leaves the range of floats.
const QUARTER: f64 = 0.25;

fn outcome(w: f64, n: usize, m: usize) -> Outcome {
    let (w, freedom) = (w.max(0.0), SIZE as f64);
    let noise = 1.0 / n as f64 + 1.0 / m as f64;
    Outcome {
        statistic: w,
        p_value: Some(chi2::sf(w, freedom)),
        expected: Some(freedom),
        effect: ((w - freedom) * noise).max(0.0).sqrt(),
        error_bound: None,
    }
}

fn small_sample(n: usize, m: usize) -> f64 {
    if n.max(m) >= LARGE {
        return 1.0;
    }
    let (n, m) = (n as f64, m as f64);
    1.0 / (1.0 + (n + m).powf(-0.45) + 10.1 * (n.powf(-1.7) + m.powf(-1.7)))
}

/// A quarter of half the interquartile range of all rows, quartiles by linear interpolation.
fn half_spread(reference: &[f64], window: &[f64]) -> f64 {
    let last = reference.len() + window.len() - 1;
    let quartile = |quarters: usize| {
        let (at, rest) = (last * quarters / 4, last * quarters % 4);
        let (low, high) = order_statistics(reference, window, at);
        low * QUARTER + (high * QUARTER - low * QUARTER) * (rest as f64 / 4.0)
    };
    (quartile(3) - quartile(1)) / 2.0
}

/// The rows at the positions `at` and `at + 1` (where there is one) of both sides together.
fn order_statistics(reference: &[f64], window: &[f64], at: usize) -> (f64, f64) {
    let (mut low, mut seen) = (None, 0);
    let mut value = f64::NAN;
    for tie in ties(reference, window) {
        seen += tie.reference + tie.window;
        value = tie.value;
        if seen > at {
            let low = *low.get_or_insert(value);
            if seen > at + 1 {
                return (low, value);
            }
        }
    }
    (low.unwrap_or(value), value)
}

/// Mean and covariance of g over one side.
struct Side {
    rows: f64,
    mean: [f64; SIZE],
    covariance: [[f64; SIZE]; SIZE],
}

impl Side {
    fn of(sorted: &[f64], angle: impl Fn(f64) -> f64) -> Self {
        let rows = sorted.len() as f64;
        let points: Vec<[f64; SIZE]> = sorted.iter().map(|&x| point(angle(x))).collect();
        let mut mean = [0.0; SIZE];
        for point in &points {
            (0..SIZE).for_each(|i| mean[i] += point[i]);
        }
        mean.iter_mut().for_each(|sum| *sum /= rows);
        let mut covariance = [[0.0; SIZE]; SIZE];
        for point in &points {
            let gap: [f64; SIZE] = std::array::from_fn(|i| point[i] - mean[i]);
            for i in 0..SIZE {
                (0..=i).for_each(|j| covariance[i][j] += gap[i] * gap[j]);
            }
        }
        let covariance =
            std::array::from_fn(|i| std::array::from_fn(|j| covariance[i.max(j)][i.min(j)] / rows));
        Self {
            rows,
            mean,
            covariance,
        }
    }

    fn gap(&self, other: &Self) -> [f64; SIZE] {
        std::array::from_fn(|i| self.mean[i] - other.mean[i])
    }

    fn error_plus(&self, other: &Self) -> [[f64; SIZE]; SIZE] {
        std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                self.covariance[i][j] / self.rows + other.covariance[i][j] / other.rows
            })
        })
    }
}

/// g at the angle t x; the second t is twice the first.
fn point(angle: f64) -> [f64; SIZE] {
    let (sin, cos) = angle.sin_cos();
    [cos, sin, (cos - sin) * (cos + sin), 2.0 * sin * cos]
}

/// `d' C^-1 d` over the eigenvectors of C (Jacobi's rotations); `None` where C is singular.
fn quadratic_form(mut matrix: [[f64; SIZE]; SIZE], gap: &[f64; SIZE]) -> Option<f64> {
    let mut turned = *gap;
    for _sweep in 0..30 {
        for p in 0..SIZE {
            for q in p + 1..SIZE {
                rotate(&mut matrix, &mut turned, p, q);
            }
        }
    }
    let largest = (0..SIZE).fold(0.0, |most: f64, i| most.max(matrix[i][i]));
    let mut sum = 0.0;
    for (i, d) in turned.iter().enumerate() {
        if matrix[i][i] <= largest * SINGULAR {
            return None;
        }
        sum += d * d / matrix[i][i];
    }
    Some(sum)
}

/// Turns the plane of p and q so that their covariance is 0.
fn rotate(matrix: &mut [[f64; SIZE]; SIZE], vector: &mut [f64; SIZE], p: usize, q: usize) {
    let off = matrix[p][q];
    if off.abs() < f64::MIN_POSITIVE {
        return;
    }
    let ratio = (matrix[q][q] - matrix[p][p]) / (2.0 * off);
    let tangent = ratio.signum() / (ratio.abs() + ratio.hypot(1.0));
    let cos = 1.0 / tangent.hypot(1.0);
    let sin = tangent * cos;
    let turn = |x: f64, y: f64| (cos * x - sin * y, sin * x + cos * y);
    for row in matrix.iter_mut() {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
    let (upper, lower) = (matrix[p], matrix[q]);
    for (k, (x, y)) in upper.into_iter().zip(lower).enumerate() {
        (matrix[p][k], matrix[q][k]) = turn(x, y);
    }
    (vector[p], vector[q]) = turn(vector[p], vector[q]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        let some = [1.0, 2.0, 4.0, 7.0, 11.0];
        assert_eq!(exact(&[], &some), Err(Reason::NoReference));
        assert_eq!(exact(&some, &[]), Err(Reason::TooFewRows));
        assert_eq!(exact(&some, &some[1..]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0, 2.0], &some), Err(Reason::TooFewRows));
        assert_eq!(exact(&[7.0; 500], &[7.0; 300]), Ok(outcome(0.0, 500, 300)));
        assert_eq!(exact(&[7.0; 500], &[8.0; 300]), Err(Reason::NoVariance));
        assert_eq!(exact(&[7.0; 500], &some), Err(Reason::NoVariance));
        let infinite = [1.0, 2.0, 3.0, 4.0, f64::INFINITY];
        assert_eq!(exact(&infinite, &infinite), Err(Reason::NotFinite));
    }

    #[test]
    fn booleans_are_singular_unless_their_shares_are_equal() {
        let side = |ones: usize| [vec![0.0; 100 - ones], vec![1.0; ones]].concat();
        assert_eq!(exact(&side(50), &side(60)), Err(Reason::NoVariance));
        let same = exact(&side(50), &side(50)).unwrap();
        assert!(same.statistic.abs() < 1e-300 && same.p_value == Some(1.0));
    }

    #[test]
    fn scale_and_place_change_nothing() {
        let left: Vec<f64> = (0..40).map(|i| f64::from(i * i % 41)).collect();
        let right: Vec<f64> = (0..30).map(|i| f64::from(i * i % 37)).collect();
        let side = |values: &[f64], scale: f64, place: f64| {
            let mut side: Vec<f64> = values.iter().map(|v| v * scale + place).collect();
            side.sort_by(f64::total_cmp);
            side
        };
        let plain = exact(&side(&left, 1.0, 0.0), &side(&right, 1.0, 0.0)).unwrap();
        for (scale, place) in [(4e306, -8e307), (1e-300, 0.0), (1.0, 1e14), (1e-3, 1e9)] {
            let moved = exact(&side(&left, scale, place), &side(&right, scale, place)).unwrap();
            let ratio = moved.statistic / plain.statistic;
            assert!((ratio - 1.0).abs() < 1e-3, "{scale} {place}: {ratio}");
        }
    }

    #[test]
    fn values_too_far_for_a_cosine_are_not_finite() {
        let far = [0.0, 1e-300, 2e-300, 3e-300, 4e-300, 5e-300, 6e-300, 1e308];
        assert_eq!(exact(&far, &far), Err(Reason::NotFinite));
    }

    #[test]
    fn quartiles_are_those_of_both_sides_together() {
        // 1 2 3 4 5 6: quartiles 2.25 and 4.75, so a quarter of half of 2.5.
        let spread = half_spread(&[1.0, 3.0, 5.0], &[2.0, 4.0, 6.0]);
        assert!((spread - 2.5 / 8.0).abs() < 1e-15);
        assert_eq!(order_statistics(&[1.0], &[2.0], 1), (2.0, 2.0));
    }
}
