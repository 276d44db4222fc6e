//! Contrasts over bins that are in order: one that sees a shift, one that sees another spread.
//!
//! A chi-square over ten bins looks in nine directions at once and pays for all of them. Most
//! drift of a number goes in one of two. With q the shares of the ordered bins among rows that have
//! a value, the weight of a bin for *location* is the mean of a normal variable between the normal
//! quantiles of the bin's ends, `(phi(a) - phi(b)) / q`; for *spread* it is the square of that,
//! less what the location and a constant explain of it. Both are scaled to mean 0 and variance 1
//! under q. The contrast of n rows with counts c is then `(sum w c - n m) / sqrt(n v)`, with m and v
//! the mean and variance of w where and when the window is; without drift and wobble its variance is 1.
//!
//! One bin has no contrasts, two have no spread. Empty bins have a share all the same: 1/2 a row.

use serde::{Deserialize, Serialize};

use crate::compare::law::{chi2, normal};

/// Below this the variance of weights is that of rounding.
const NO_VARIANCE: f64 = 1e-9;

/// The directions in which some shares are looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Directions {
    pub(super) location: Option<Weights>,
    pub(super) spread: Option<Weights>,
}

impl Directions {
    /// Of the first so many bins.
    pub(super) fn of(shares: &[f64], ordered: usize) -> Self {
        let shares = &shares[..ordered.min(shares.len())];
        let location = Weights::location(shares);
        let spread = location
            .as_ref()
            .and_then(|location| Weights::spread(shares, location));
        Self { location, spread }
    }
}

/// Weights of the ordered bins, which are the first ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Weights(Vec<f64>);

impl Weights {
    /// Normal scores of bins with these shares; `None` for fewer than two bins.
    pub(super) fn location(shares: &[f64]) -> Option<Self> {
        let total: f64 = shares.iter().sum();
        let mut rest = total;
        let mut from = 0.0; // density at the lower end
        let mut weights = Vec::with_capacity(shares.len());
        for share in shares {
            rest -= share;
            let to = density_at(rest / total);
            weights.push((from - to) * total / share);
            from = to;
        }
        scaled(weights, shares)
    }

    /// Squared normal scores; `None` for fewer than three bins.
    pub(super) fn spread(shares: &[f64], location: &Self) -> Option<Self> {
        let squares: Vec<f64> = location.0.iter().map(|w| w * w).collect();
        let total: f64 = shares.iter().sum();
        let terms = shares.iter().zip(&location.0);
        let skew = terms
            .map(|(share, w)| share / total * w.powi(3))
            .sum::<f64>();
        let rest = squares.iter().zip(&location.0).map(|(s, w)| s - skew * w);
        scaled(rest.collect(), shares)
    }

    /// How many bins are in order.
    pub(super) fn bins(&self) -> usize {
        self.0.len()
    }

    /// The contrast of a window, with the rows that it rests on; `None` without such rows.
    pub(super) fn of(&self, row: &[f64], shares: &[f64]) -> Option<(f64, f64)> {
        let rows: f64 = row.iter().take(self.0.len()).sum();
        let sum: f64 = self.0.iter().zip(row).map(|(w, c)| w * c).sum();
        let (mean, variance) = moments(&self.0, shares);
        (rows > 0.0 && variance > NO_VARIANCE)
            .then(|| ((sum - rows * mean) / (rows * variance).sqrt(), rows))
    }
}

/// Shares of the ordered bins when a normal variable that is cut like this moves up by so many
/// standard deviations.
pub(super) fn shifted(shares: &[f64], deviations: f64) -> Vec<f64> {
    let total: f64 = shares.iter().sum();
    let mut rest = total;
    let mut above = total; // what lies above the lower end, after the move
    let mut moved = Vec::with_capacity(shares.len());
    for share in shares {
        rest -= share;
        let end = normal::upper_quantile((rest / total).clamp(0.0, 1.0).ln()) - deviations;
        let now = total * above_point(end);
        moved.push((above - now).max(0.0));
        above = now;
    }
    moved
}

/// The chance of a normal variable above `z`.
fn above_point(z: f64) -> f64 {
    let beyond = chi2::sf(z * z, 1.0) / 2.0;
    if z > 0.0 { beyond } else { 1.0 - beyond }
}

fn moments(weights: &[f64], shares: &[f64]) -> (f64, f64) {
    let pairs = || weights.iter().zip(shares);
    let total: f64 = pairs().map(|(_, share)| share).sum();
    let mean = pairs().map(|(w, share)| w * share).sum::<f64>() / total;
    let variance = pairs()
        .map(|(w, share)| (w - mean).powi(2) * share)
        .sum::<f64>()
        / total;
    (mean, variance)
}

fn scaled(mut weights: Vec<f64>, shares: &[f64]) -> Option<Weights> {
    let (mean, variance) = moments(&weights, shares);
    if !(variance > NO_VARIANCE && variance.is_finite()) {
        return None;
    }
    weights
        .iter_mut()
        .for_each(|w| *w = (*w - mean) / variance.sqrt());
    Some(Weights(weights))
}

/// The normal density at the quantile above which this share lies.
fn density_at(above: f64) -> f64 {
    let quantile = normal::upper_quantile(above.clamp(0.0, 1.0).ln());
    (-0.5 * quantile * quantile).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTHS: [f64; 10] = [0.1; 10];

    fn both(shares: &[f64]) -> (Weights, Option<Weights>) {
        let location = Weights::location(shares).unwrap();
        let spread = Weights::spread(shares, &location);
        (location, spread)
    }

    #[test]
    fn weights_have_mean_0_and_variance_1_and_do_not_overlap() {
        let uneven = [0.02, 0.5, 0.08, 0.3, 0.05]; // 0.05 of the rows have no value
        let (location, spread) = both(&uneven);
        let spread = spread.unwrap();
        for weights in [&location, &spread] {
            let (mean, variance) = moments(&weights.0, &uneven);
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        }
        let terms = location.0.iter().zip(&spread.0).zip(&uneven);
        let product: f64 = terms.map(|((a, b), share)| a * b * share).sum();
        assert!(product.abs() < 1e-12);
        assert!(location.0.is_sorted());
    }

    /// Normal scores of ten equal bins: `scipy.stats.norm`, 10 (pdf(a) - pdf(b)), then scaled.
    #[test]
    fn weights_of_deciles() {
        let (location, spread) = both(&TENTHS);
        let want = [
            -1.792_062_580_218_416_7,
            -1.066_706_935_846_981_2,
            -0.691_617_068_611_478_5,
            -0.394_665_142_041_796_2,
            -0.128_659_541_656_457_5,
        ];
        for (bin, want) in want.iter().enumerate() {
            assert!((location.0[bin] - want).abs() < 1e-12, "{:?}", location.0);
            assert!((location.0[9 - bin] + want).abs() < 1e-9);
        }
        let spread = spread.unwrap().0;
        assert!((spread[0] - spread[9]).abs() < 1e-9 && spread[0] > 1.0 && spread[4] < 0.0);
    }

    #[test]
    fn a_shift_is_seen_by_location_and_a_wider_window_by_spread() {
        let (location, spread) = both(&TENTHS);
        let spread = spread.unwrap();
        let higher = [
            50.0, 60.0, 70.0, 90.0, 100.0, 110.0, 120.0, 130.0, 135.0, 135.0,
        ];
        let wider = [
            200.0, 100.0, 80.0, 70.0, 50.0, 50.0, 70.0, 80.0, 100.0, 200.0,
        ];
        let of = |weights: &Weights, row: &[f64]| weights.of(row, &TENTHS).unwrap().0;
        assert!(of(&location, &higher) > 8.0 && of(&location, &wider).abs() < 1e-9);
        assert!(of(&spread, &wider) > 8.0 && of(&spread, &higher).abs() < 3.0);
        let lower: Vec<f64> = higher.iter().rev().copied().collect();
        assert!((of(&location, &lower) + of(&location, &higher)).abs() < 1e-9);
    }

    #[test]
    fn a_moved_normal_variable() {
        let moved = shifted(&TENTHS.map(|share| 0.9 * share), 0.5);
        assert!((moved.iter().sum::<f64>() - 0.9).abs() < 1e-12);
        // scipy.stats.norm.cdf(norm.ppf([0.1, 0.9]) - 0.5)
        assert!(
            (moved[0] / 0.9 - 0.037_411_194_400_060_1).abs() < 1e-12,
            "{moved:?}"
        );
        assert!(
            (moved[9] / 0.9 - 0.217_239_080_427_305_2).abs() < 1e-12,
            "{moved:?}"
        );
        let stayed = shifted(&TENTHS, 0.0);
        assert!(stayed.iter().all(|share| (share - 0.1).abs() < 1e-12));
    }

    #[test]
    fn few_or_empty_bins_have_written_answers() {
        assert!(Weights::location(&[]).is_none() && Weights::location(&[1.0]).is_none());
        let (location, spread) = both(&[0.7, 0.3]);
        assert!(spread.is_none()); // the square of two values is no third direction
        assert!(location.of(&[0.0, 0.0], &[0.7, 0.3]).is_none());
        let (location, _) = both(&[1e-9, 1.0 - 3e-9, 1e-9, 1e-9]);
        let (value, rows) = location
            .of(&[0.0, 900.0, 0.0, 100.0], &[1e-9, 1.0, 1e-9, 1e-9])
            .unwrap();
        assert!(value.is_finite() && value > 0.0 && rows > 999.0);
    }
}
