//! The normal distribution where tests and thresholds need it: the quantile of a probability given
//! by its logarithm.

use std::f64::consts::{LN_2, SQRT_2};

use statrs::function::erf::{erfc, erfc_inv};

/// The z with `P(Z > z) = exp(ln_p)`, for `ln_p <= 0`. Infinite at the ends (0 and minus infinity).
pub fn upper_quantile(ln_p: f64) -> f64 {
    if ln_p >= 0.0 {
        return f64::NEG_INFINITY;
    }
    let p = ln_p.exp();
    let start = if ln_p > -LN_2 {
        -positive(-ln_p.exp_m1())
    } else {
        positive(p)
    };
    if p > 0.0 && start.is_finite() {
        polish(start, ln_p)
    } else {
        start
    }
}

/// The upper quantile of p <= 1/2.
fn positive(p: f64) -> f64 {
    SQRT_2 * erfc_inv(2.0 * p)
}

/// One Newton step on the logarithm of the tail: takes what is left of the rational approximation's
/// error away, far out where it is largest.
fn polish(z: f64, ln_p: f64) -> f64 {
    let tail = 0.5 * erfc(z / SQRT_2);
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if tail <= 0.0 || density <= 0.0 {
        return z;
    }
    z + (tail.ln() - ln_p) * tail / density
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
        assert_eq!(upper_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(upper_quantile(f64::NEG_INFINITY), f64::INFINITY);
    }
}
