//! Student's t distribution, in logarithms, from a handful of degrees of freedom to billions.
//!
//! With v degrees of freedom the tail is the density at t times the integral over u > 0 of
//! `(1 + (2 t u + u^2) / (v + t^2))^(-(v + 1)/2)`. Nothing in it is subtracted, so that neither a far t
//! nor a large v costs digits, as they cost the continued fractions of the incomplete beta function. It is
//! summed at points `u = scale exp(pi/2 sinh s)`, equally spaced in s (H. Takahasi and M. Mori 1974).

use std::f64::consts::{FRAC_PI_2, LN_2, PI};

use super::deviance::stirling_error;

/// Distance of the points, and how far they go on either side.
const STEP: f64 = 1.0 / 24.0;
const POINTS: i32 = 24 * 5;

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
    let (t, root) = (t.abs(), df.sqrt());
    let ratio = t / root;
    let front = LN_2 + ln_gamma_step(df / 2.0) - 0.5 * PI.ln() - root.ln();
    if ratio > 1e8 {
        return front - root.ln() - df * ratio.ln(); // a power law but for 1e-16
    }
    let half = (df + 1.0) / 2.0;
    let density = front - half * (ratio * ratio).ln_1p();
    (density + tail_over_density(t, df).ln()).min(0.0)
}

fn tail_over_density(t: f64, df: f64) -> f64 {
    let (half, spread) = ((df + 1.0) / 2.0, df + t * t);
    let scale = 1.0 / (1.0 + 2.0 * half * t / spread);
    let sum: f64 = (-POINTS..=POINTS)
        .map(|k| {
            let s = f64::from(k) * STEP;
            let u = scale * (FRAC_PI_2 * s.sinh()).exp();
            let fall = -half * ((2.0 * t * u + u * u) / spread).ln_1p();
            u * FRAC_PI_2 * s.cosh() * fall.exp()
        })
        .sum();
    sum * STEP
}

/// `ln(Gamma(a + 1/2) / Gamma(a))`.
fn ln_gamma_step(a: f64) -> f64 {
    // Gamma(z) = sqrt(2 pi / z) (z/e)^z e^(stirling_error(z)).
    a * (0.5 / a).ln_1p() + 0.5 * a.ln() - 0.5 + stirling_error(a + 0.5) - stirling_error(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_degree_of_freedom_is_cauchy() {
        for t in [1e-9_f64, 0.1, 0.9, 1.0, 1.1, 3.0, 1e6, 1e9, 1e150] {
            let p = 2.0 / PI * (1.0 / t).atan();
            assert!((two_sided(t, 1.0) / p - 1.0).abs() < 1e-12, "{t}");
        }
    }

    #[test]
    fn two_degrees_of_freedom_are_algebraic() {
        for t in [0.01_f64, 0.5, 2.0, 30.0, 1e5] {
            let root = (2.0 + t * t).sqrt();
            let p = 2.0 / (root * (root + t)); // 1 - t / root
            assert!((two_sided(t, 2.0) / p - 1.0).abs() < 1e-12, "{t}");
        }
    }

    #[test]
    fn edges_have_written_answers() {
        for (t, df) in [(0.0, 3.0), (f64::NAN, 3.0), (1.0, 0.0), (1.0, f64::NAN)] {
            assert!((two_sided(t, df) - 1.0).abs() < 1e-15);
        }
        assert!(two_sided(f64::INFINITY, 3.0).abs() < 1e-300);
        assert!((two_sided(1e-300, 3.0) - 1.0).abs() < 1e-12);
        assert!((two_sided(1.0, 1e300) / 0.317_310_507_862_914_1 - 1.0).abs() < 1e-11);
        let far = ln_two_sided(1e200, 2.0); // P = 1 / t^2 far out
        assert!((far / (-2.0 * 1e200_f64.ln()) - 1.0).abs() < 1e-12, "{far}");
    }
}
