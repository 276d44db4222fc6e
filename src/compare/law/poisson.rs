//! Upper tail of the Poisson distribution, for real counts: `P(X >= k)` is the regularised lower
//! incomplete gamma function `P(k, mean)`, which joins the whole numbers smoothly (DLMF 8.2.4 and
//! 8.11.4). Small tails come from the series of positive terms, so that they keep their precision.

use statrs::function::erf::erfc;

use super::chi2;
use super::deviance::ln_poisson;

/// Above this mean the law is normal but for one part in 100,000 of a deviation.
const LARGE: f64 = 1e10;

/// `P(X >= k)` for X with this mean; 1 for k <= 0.
pub fn at_least(k: f64, mean: f64) -> f64 {
    if k <= 0.0 || k.is_nan() {
        return 1.0;
    }
    if mean <= 0.0 || k.is_infinite() {
        return 0.0;
    }
    if mean > LARGE {
        return 0.5 * erfc((k - 0.5 - mean) / (2.0 * mean).sqrt());
    }
    if mean < k + 1.0 {
        (ln_poisson(k, mean) + chi2::series(k, mean).ln())
            .exp()
            .min(1.0)
    } else {
        -chi2::ln_sf(2.0 * mean, 2.0 * k).exp_m1()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_by_hand() {
        // 1 - e^-2 (1 + 2), and one row where 1e-9 were expected.
        assert!((at_least(2.0, 2.0) - (1.0 - 3.0 * (-2.0_f64).exp())).abs() < 1e-14);
        assert!((at_least(1.0, 1e-9) / 1e-9 - 1.0).abs() < 1e-8);
        // 10^40 e^-10 / 40! (1 + 10/41 + ...)
        let first = (40.0 * 10.0_f64.ln() - 10.0 - statrs::function::gamma::ln_gamma(41.0)).exp();
        let rest = 1.0 + 10.0 / 41.0 * (1.0 + 10.0 / 42.0 * (1.0 + 10.0 / 43.0 * 1.29));
        assert!((at_least(40.0, 10.0) / (first * rest) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn edges_have_written_answers() {
        assert!((at_least(0.0, 3.0) - 1.0).abs() < 1e-300 && at_least(2.0, 0.0).abs() < 1e-300);
        assert!((at_least(1e-9, 5.0) - 1.0).abs() < 1e-6 && at_least(1e300, 1.0).abs() < 1e-300);
        assert!(
            (at_least(1e12, 1e12) - 0.5).abs() < 1e-5 && (at_least(1e19, 1e19) - 0.5).abs() < 1e-5
        );
    }
}
