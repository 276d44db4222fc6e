//! Binomial and Poisson probabilities by the saddle-point form of C. Loader, *Fast and Accurate
//! Computation of Binomial Probabilities* (2000).
//!
//! `n! p^k q^(n-k) / (k! (n-k)!)` written as it stands cancels: for n = 1e9 the logarithms that are
//! added are 1e10 times their sum. Loader's form adds only small terms: Stirling's error of the
//! three factorials and the deviance `D(x, m) = x ln(x/m) + m - x` of the two cells, each of which
//! is computed to full relative precision.

use std::f64::consts::PI;

use statrs::function::gamma::ln_gamma;

/// `ln n! - ln(sqrt(2 pi n) (n/e)^n)`, for real n > 0.
pub fn stirling_error(n: f64) -> f64 {
    if n < 15.0 {
        return ln_gamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln();
    }
    let nn = n * n;
    let series = 1.0 / 1260.0 - (1.0 / 1680.0 - (1.0 / 1188.0) / nn) / nn;
    (1.0 / 12.0 - (1.0 / 360.0 - series / nn) / nn) / n
}

/// `x ln(x/m) + m - x` for x >= 0, m > 0, by a series where x is near m.
pub fn deviance(x: f64, m: f64) -> f64 {
    if (x - m).abs() >= 0.1 * (x + m) {
        return if x > 0.0 { x * (x / m).ln() + m - x } else { m };
    }
    // With v = (x - m)/(x + m): ln(x/m) = 2 (v + v^3/3 + v^5/5 + ...).
    let v = (x - m) / (x + m);
    let (mut sum, mut power) = ((x - m) * v, 2.0 * x * v);
    for k in 1..200 {
        power *= v * v;
        let next = sum + power / f64::from(2 * k + 1);
        if next.to_bits() == sum.to_bits() {
            break;
        }
        sum = next;
    }
    sum
}

/// `ln(mean^x e^-mean / x!)` for real x >= 0, mean > 0.
pub fn ln_poisson(x: f64, mean: f64) -> f64 {
    if x <= 0.0 {
        return -mean;
    }
    -stirling_error(x) - deviance(x, mean) - 0.5 * (2.0 * PI * x).ln()
}

/// `ln` of the binomial probability of k in n; `p + q = 1`, both given so that neither is rounded.
pub fn ln_binomial(k: f64, n: f64, p: f64, q: f64) -> f64 {
    if p <= 0.0 || q <= 0.0 {
        let certain = if p <= 0.0 { k <= 0.0 } else { k >= n };
        return if certain { 0.0 } else { f64::NEG_INFINITY };
    }
    if k <= 0.0 {
        return n * if p < 0.5 { (-p).ln_1p() } else { q.ln() };
    }
    if k >= n {
        return n * if q < 0.5 { (-q).ln_1p() } else { p.ln() };
    }
    let stirling = stirling_error(n) - stirling_error(k) - stirling_error(n - k);
    let cells = deviance(k, n * p) + deviance(n - k, n * q);
    stirling - cells + 0.5 * (n / (2.0 * PI * k * (n - k))).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_and_binomial_agree_with_direct_products() {
        let direct = (-3.0_f64).exp() * 3.0_f64.powi(5) / 120.0;
        assert!((ln_poisson(5.0, 3.0).exp() / direct - 1.0).abs() < 1e-13);
        let direct = 120.0 * 0.3_f64.powi(3) * 0.7_f64.powi(7);
        assert!((ln_binomial(3.0, 10.0, 0.3, 0.7).exp() / direct - 1.0).abs() < 1e-13);
    }

    #[test]
    fn edges_are_exact() {
        assert!((ln_binomial(0.0, 10.0, 0.3, 0.7) - 10.0 * 0.7_f64.ln()).abs() < 1e-14);
        assert!((ln_binomial(10.0, 10.0, 0.3, 0.7) - 10.0 * 0.3_f64.ln()).abs() < 1e-14);
        assert!(ln_binomial(0.0, 10.0, 0.0, 1.0).abs() < 1e-300);
        assert!(ln_binomial(1.0, 10.0, 0.0, 1.0) < f64::MIN);
    }

    #[test]
    fn binomial_probabilities_of_a_thousand_sum_to_one() {
        let sum: f64 = (0..=1000)
            .map(|k| ln_binomial(f64::from(k), 1e3, 0.37, 0.63).exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }
}
