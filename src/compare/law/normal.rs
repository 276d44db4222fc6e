//! The normal distribution where tests and thresholds need it: the quantile of a probability given
//! by its logarithm.

use std::f64::consts::{LN_2, PI, SQRT_2};

use statrs::function::erf::erfc_inv;

use super::chi2;

/// The z with `P(Z > z) = exp(ln_p)`, for `ln_p <= 0`. Infinite at the ends (0 and minus infinity).
pub fn upper_quantile(ln_p: f64) -> f64 {
    if ln_p >= 0.0 {
        f64::NEG_INFINITY
    } else if ln_p > -LN_2 {
        -above_middle((-ln_p.exp_m1()).ln())
    } else {
        above_middle(ln_p)
    }
}

/// The quantile where it is at least 0.
fn above_middle(ln_p: f64) -> f64 {
    let start = SQRT_2 * erfc_inv(2.0 * ln_p.exp());
    if start.is_finite() {
        polish(polish(start.max(0.0), ln_p), ln_p)
    } else {
        f64::INFINITY
    }
}

/// One Newton step on the logarithm of the tail, `P(Z > z) = P(chi2_1 > z^2) / 2`: takes away what
/// is left of the rational approximation's error, which is largest far out.
fn polish(z: f64, ln_p: f64) -> f64 {
    let ln_tail = chi2::ln_sf(z * z, 1.0) - LN_2;
    let ln_density = -0.5 * (z * z + (2.0 * PI).ln());
    z + (ln_tail - ln_p) * (ln_tail - ln_density).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_quantiles() {
        // scipy.stats.norm.isf
        for (p, z) in [
            (0.5_f64, 0.0),
            (0.025, 1.959_963_984_540_054),
            (1e-6, 4.753_424_308_822_899),
            (1e-20, 9.262_340_089_798_409),
            (0.975, -1.959_963_984_540_054),
        ] {
            assert!(
                (upper_quantile(p.ln()) - z).abs() < 1e-12,
                "{p}: {}",
                upper_quantile(p.ln())
            );
        }
    }

    #[test]
    fn ends_are_infinite() {
        assert!(upper_quantile(0.0) < f64::MIN);
        assert!(upper_quantile(f64::NEG_INFINITY) > f64::MAX);
    }
}
