//! Tails of F and quantiles of chi-square where the rule needs them.

use statrs::function::beta::beta_reg;
use statrs::function::gamma::ln_gamma;

use crate::compare::law::chi2;

/// `P(F(d1, d2) > x)`.
pub(super) fn f_tail(d1: f64, d2: f64, x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return 1.0;
    }
    // The share of the denominator, without a cancellation far out.
    beta_reg(d2 / 2.0, d1 / 2.0, d2 / (d2 + d1 * x))
}

/// The logarithm of the density of F(d1, d2), at x > 0.
pub(super) fn ln_f_density(d1: f64, d2: f64) -> impl Fn(f64) -> f64 {
    let (a, b) = (d1 / 2.0, d2 / 2.0);
    let constant = a * (d1 / d2).ln() - ln_beta(a, b);
    move |x| constant + (a - 1.0) * x.ln() - (a + b) * (d1 * x / d2).ln_1p()
}

/// `ln B(a, b)`, also where b is so large that logarithms of gamma functions cancel.
fn ln_beta(a: f64, b: f64) -> f64 {
    if b < 1e3 {
        return ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    }
    let rest = |z: f64| (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * z * z)) / (z * z)) / z;
    // Stirling's series for ln_gamma(b) - ln_gamma(a + b).
    let ratio = a - a * (a + b).ln() - (b - 0.5) * (a / b).ln_1p() + rest(b) - rest(a + b);
    ln_gamma(a) + ratio
}

/// The x with `P(chi2_dof > x) = exp(ln_p)`, by Newton steps on the logarithm of the tail from the
/// normal approximation of Wilson and Hilferty 1931.
pub(super) fn chi2_quantile(ln_p: f64, dof: f64) -> f64 {
    let z = crate::compare::law::normal::upper_quantile(ln_p);
    let c = 2.0 / (9.0 * dof);
    let mut x = dof * (1.0 - c + z * c.sqrt()).powi(3).max(1e-6);
    for _ in 0..60 {
        let ln_tail = chi2::ln_sf(x, dof);
        let half = dof / 2.0;
        let ln_density =
            (half - 1.0) * (x / 2.0).ln() - x / 2.0 - ln_gamma(half) - std::f64::consts::LN_2;
        let step = (ln_tail - ln_p) * (ln_tail - ln_density).exp();
        let next = (x + step).clamp(x / 4.0, x * 4.0);
        let done = (next - x).abs() <= 1e-15 * x;
        x = next;
        if done {
            break;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of scipy 1.17: `f.sf`, `f.logpdf`, `chi2.isf`.
    #[test]
    fn known_numbers() {
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-11, "{a} {b}");
        close(chi2_quantile(0.5_f64.ln(), 1.0), 0.454_936_423_119_572_8);
        close(chi2_quantile(0.05_f64.ln(), 10.0), 18.307_038_053_275_143);
        close(f_tail(2.0, 10.0, 0.0), 1.0);
        // With two degrees of freedom above, the tail is a power.
        close(f_tail(2.0, 7.0, 30.0), (1.0 + 60.0 / 7.0_f64).powf(-3.5));
        close(
            f_tail(2.0, 30.0, 4000.0),
            (1.0 + 8000.0 / 30.0_f64).powf(-15.0),
        );
        // F(d, inf) is chi-square over d: half of it at 2 degrees of freedom is exponential.
        close(ln_f_density(2.0, 1e12)(3.0), -3.0);
        close(
            ln_beta(2.5, 2000.0),
            ln_gamma(2.5) + ln_gamma(2000.0) - ln_gamma(2002.5),
        );
    }
}
