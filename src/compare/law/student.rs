//! Student's t distribution, in logarithms, from a handful of degrees of freedom to billions.
//!
//! `P(|T| > t) = I_x(df/2, 1/2)` with `x = df / (df + t^2)`, the regularised incomplete beta
//! function, by its continued fraction (DLMF 8.17.22). Where x is past the middle, the complement
//! `I_(1-x)(1/2, df/2)` converges, and the tail is near 1 anyway. The power of x is taken as
//! `log1p(t^2 / df)`, and the ratio of gamma functions by Stirling's error, so that neither cancels.

use std::f64::consts::PI;

use super::deviance::stirling_error;

/// `P(|T| > |t|)` with `df` degrees of freedom.
pub fn two_sided(t: f64, df: f64) -> f64 {
    ln_two_sided(t, df).exp()
}

/// `ln P(|T| > |t|)`; 0 where `t` is NaN or there are no degrees of freedom.
pub fn ln_two_sided(t: f64, df: f64) -> f64 {
    if t.is_nan() || df.is_nan() || df <= 0.0 || t.abs() <= 0.0 {
        return 0.0;
    }
    if t.is_infinite() {
        return f64::NEG_INFINITY;
    }
    let (a, ratio) = (df / 2.0, t / df.sqrt() * (t / df.sqrt()));
    // ln of x^a (1 - x)^(1/2) / B(a, 1/2).
    let power = if ratio.is_finite() {
        -a * ratio.ln_1p() - 0.5 * (1.0 / ratio).ln_1p()
    } else {
        -2.0 * a * (t.abs().ln() - df.sqrt().ln())
    };
    let front = power + ln_gamma_step(a) - 0.5 * PI.ln();
    let x = 1.0 / (1.0 + ratio);
    if x < (a + 1.0) / (a + 2.5) {
        (front - a.ln() + fraction(x, a, 0.5).ln()).min(0.0)
    } else {
        let y = 1.0 / (1.0 + 1.0 / ratio);
        (-(2.0 * front.exp() * fraction(y, 0.5, a)).min(1.0)).ln_1p()
    }
}

/// `ln(Gamma(a + 1/2) / Gamma(a))`.
fn ln_gamma_step(a: f64) -> f64 {
    // Gamma(z) = sqrt(2 pi / z) (z/e)^z e^(stirling_error(z)).
    a * (0.5 / a).ln_1p() + 0.5 * a.ln() - 0.5 + stirling_error(a + 0.5) - stirling_error(a)
}

/// The continued fraction of `I_x(a, b) a B(a, b) / (x^a (1 - x)^b)`, by Lentz's method. It needs
/// about sqrt(max(a, b)) steps next to the middle, so that the cap is out of reach below 1e9.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for step in 1..200_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        value *= c * d;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_degree_of_freedom_is_cauchy() {
        for t in [1e-9_f64, 0.1, 0.9, 1.0, 1.1, 3.0, 1e6, 1e150] {
            let p = 2.0 / PI * (1.0 / t).atan();
            assert!((two_sided(t, 1.0) / p - 1.0).abs() < 1e-13, "{t}");
        }
    }

    #[test]
    fn edges_have_written_answers() {
        for (t, df) in [(0.0, 3.0), (f64::NAN, 3.0), (1.0, 0.0), (1.0, f64::NAN)] {
            assert!((two_sided(t, df) - 1.0).abs() < 1e-15);
        }
        assert!(two_sided(f64::INFINITY, 3.0).abs() < 1e-300);
        let far = ln_two_sided(1e200, 2.0); // P = 1/t^2 far out
        assert!((far / -(1e200_f64.ln() * 2.0) - 1.0).abs() < 1e-3, "{far}");
    }
}
