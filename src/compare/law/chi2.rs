//! Upper tail of the chi-square distribution, also where the tail itself has left the range of
//! floats: the learned score needs `-ln P` up to 400.
//!
//! With a = dof/2 and h = x/2 the tail is the regularised upper incomplete gamma function Q(a, h).
//! Below h = a + 1 by the power series of its complement, above by the continued fraction (DLMF
//! 8.11.4 and 8.9.2); both times the factor `h^a e^-h / a!` in deviance form.

use super::deviance::ln_poisson;

/// `P(chi2_dof > x)`.
pub fn sf(x: f64, dof: f64) -> f64 {
    ln_sf(x, dof).exp()
}

/// `ln P(chi2_dof > x)`; 0 for x <= 0 or without degrees of freedom.
pub fn ln_sf(x: f64, dof: f64) -> f64 {
    if x.is_nan() || x <= 0.0 || dof <= 0.0 {
        return 0.0;
    }
    if x.is_infinite() {
        return f64::NEG_INFINITY;
    }
    let (a, h) = (dof / 2.0, x / 2.0);
    if h < a + 1.0 {
        (-(ln_poisson(a, h).exp() * series(a, h)).min(1.0)).ln_1p()
    } else {
        ln_poisson(a, h) + (a * fraction(a, h)).ln()
    }
}

/// `1 + h/(a+1) + h^2/((a+1)(a+2)) + ...`
pub(super) fn series(a: f64, h: f64) -> f64 {
    let (mut sum, mut term, mut k) = (1.0, 1.0, a);
    while term > sum * 1e-17 {
        k += 1.0;
        term *= h / k;
        sum += term;
    }
    sum
}

/// `1/(h+1-a - 1(1-a)/(h+3-a - 2(2-a)/(h+5-a - ...)))` by Lentz's method. About sqrt(a) steps are
/// needed next to h = a, so that the cap is out of reach for any number of bins that fits memory.
fn fraction(a: f64, h: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut b = h + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut value = d;
    for step in 1..1_000_000 {
        let k = f64::from(step);
        let coefficient = -k * (k - a);
        b += 2.0;
        d = coefficient * d + b;
        d = 1.0 / if d.abs() < TINY { TINY } else { d };
        c = b + coefficient / c;
        c = if c.abs() < TINY { TINY } else { c };
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_degrees_of_freedom_are_an_exponential() {
        for x in [1e-12, 0.1, 1.0, 3.9, 4.1, 30.0, 800.0, 1e5] {
            assert!((ln_sf(x, 2.0) / (-x / 2.0) - 1.0).abs() < 1e-13, "{x}");
        }
    }

    #[test]
    fn edges_have_written_answers() {
        assert!(ln_sf(0.0, 3.0).abs() < 1e-300 && ln_sf(-1.0, 3.0).abs() < 1e-300);
        assert!(ln_sf(5.0, 0.0).abs() < 1e-300 && ln_sf(f64::NAN, 3.0).abs() < 1e-300);
        assert!(ln_sf(f64::INFINITY, 3.0) < f64::MIN);
        assert!(sf(1e308, 3.0).abs() < 1e-300);
        assert!((sf(1e7, 1e7) - 0.5).abs() < 1e-3);
    }
}
