//! Distribution of the one-sample Kolmogorov-Smirnov statistic D of n rows, for any n.
//!
//! Chosen by region as R. Simard and P. L'Ecuyer, *Computing the Two-Sided Kolmogorov-Smirnov
//! Distribution* (2011), do:
//!
//! | region | way |
//! |---|---|
//! | n d <= 1, or n d >= n - 1 | closed forms (Ruben and Gambino) |
//! | d >= 1/2, or n d^2 >= 2.2 (n <= 140: > 4) | twice the one-sided tail: both sides at once are out of reach, or rarer than 1e-6 of it |
//! | n <= 140, and small d up to n = 5000 | matrix power of Durbin, as Marsaglia, Tsang and Wang (2003) |
//! | else | expansion of W. Pelz and I. J. Good (1976) |
//!
//! The two-sample asymptotic p-value is this with n = round(m n / (m + n)).

use std::f64::consts::PI;

use super::deviance::{ln_binomial, stirling_error};

/// `P(D_n >= d)`.
pub fn sf(n: u64, d: f64) -> f64 {
    let rows = n.max(1) as f64;
    let t = rows * d;
    let value = if d >= 1.0 {
        0.0
    } else if d.is_nan() || t <= 0.5 {
        1.0
    } else if t <= 1.0 {
        // 1 - n!/n^n (2t - 1)^n
        let factorial = stirling_error(rows) + 0.5 * (2.0 * PI * rows).ln() - rows;
        -(factorial + rows * (2.0 * t - 1.0).ln()).exp_m1()
    } else if t >= rows - 1.0 {
        2.0 * (rows * (-d).ln_1p()).exp()
    } else {
        middle(n.max(1), d)
    };
    value.clamp(0.0, 1.0)
}

fn middle(n: u64, d: f64) -> f64 {
    let rows = n as f64;
    let square = rows * d * d;
    if square >= 400.0 {
        return 0.0; // 2 exp(-2 n d^2) is below the smallest float
    }
    if d >= 0.5 || square >= if n <= 140 { 4.0 } else { 2.2 } {
        return 2.0 * one_sided(n, d);
    }
    if n <= 140 || (n <= 5000 && rows * d.powf(1.5) <= 1.4) {
        1.0 - durbin(n, d)
    } else {
        1.0 - pelz_good(rows, d)
    }
}

/// `P(D+ >= d) = sum over j <= n (1 - d) of d / p_j * Binomial(j; n, p_j)`, `p_j = d + j/n`
/// (Birnbaum and Tingey 1951, in the form whose terms are binomial probabilities).
///
/// The terms are a smooth bump n / sqrt(8 n d^2) wide or wider, at least n / 60 here, and vanish at
/// both ends when n is large. So every s-th term times s is the sum to machine precision (the
/// trapezoid rule on an analytic bump) as long as s is far below n / 60.
fn one_sided(n: u64, d: f64) -> f64 {
    let rows = n as f64;
    let stride = (n / 65_536).max(1) as f64;
    let last = (rows * (1.0 - d)).floor();
    let (mut sum, mut j) = (0.0, 0.0);
    while j <= last {
        let (p, q) = (d + j / rows, 1.0 - d - j / rows);
        sum += d / p * ln_binomial(j, rows, p.min(1.0), q.max(0.0)).exp();
        j += stride;
    }
    sum * stride
}

/// `P(D_n <= d)`, exact: entry (k, k) of `n!/n^n H^n`, where `d = (k - h)/n` and H has 2k - 1 rows.
fn durbin(n: u64, d: f64) -> f64 {
    let rows = n as f64;
    let k = (rows * d).ceil();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "n d < 100 here"
    )]
    let middle = (k as usize).max(1) - 1;
    let size = 2 * middle + 1;
    let power = matrix_power(durbin_matrix(size, k - rows * d), size, n);
    // H was divided by e, so that its powers neither overflow nor vanish: n! e^n / n^n is left.
    power[middle * size + middle] * (stirling_error(rows) + 0.5 * (2.0 * PI * rows).ln()).exp()
}

/// H of Marsaglia, Tsang and Wang, divided by e, row by row.
fn durbin_matrix(size: usize, h: f64) -> Vec<f64> {
    let mut inverse_factorial = vec![1.0; size + 1];
    for i in 1..=size {
        inverse_factorial[i] = inverse_factorial[i - 1] / i as f64;
    }
    let mut matrix = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..size.min(row + 2) {
            matrix[row * size + column] = inverse_factorial[row + 1 - column];
        }
    }
    let mut power = h;
    for i in 0..size {
        let cut = power * inverse_factorial[i + 1];
        matrix[i * size] -= cut;
        matrix[(size - 1) * size + (size - 1 - i)] -= cut;
        power *= h;
    }
    if 2.0 * h > 1.0 {
        let corner = (2.0 * h - 1.0).powf(size as f64);
        matrix[(size - 1) * size] += corner * inverse_factorial[size];
    }
    matrix
        .iter_mut()
        .for_each(|entry| *entry *= (-1.0_f64).exp());
    matrix
}

fn matrix_power(mut square: Vec<f64>, size: usize, mut exponent: u64) -> Vec<f64> {
    let mut power = vec![0.0; size * size];
    (0..size).for_each(|i| power[i * size + i] = 1.0);
    loop {
        if exponent % 2 == 1 {
            power = product(&power, &square, size);
        }
        exponent /= 2;
        if exponent == 0 {
            return power;
        }
        square = product(&square, &square, size);
    }
}

fn product(left: &[f64], right: &[f64], size: usize) -> Vec<f64> {
    let mut product = vec![0.0; size * size];
    for (target, row) in product.chunks_exact_mut(size).zip(left.chunks_exact(size)) {
        for (&factor, other) in row.iter().zip(right.chunks_exact(size)) {
            target
                .iter_mut()
                .zip(other)
                .for_each(|(cell, value)| *cell += factor * value);
        }
    }
    product
}

/// `P(D_n <= d)` as K0 + K1/sqrt(n) + K2/n + K3/n^1.5 with z = d sqrt(n), in the form of the
/// theta-function series that converges for small z. Only called for z^2 < 2.2, where 16 terms are
/// far more than double precision needs.
fn pelz_good(n: f64, d: f64) -> f64 {
    let z2 = n * d * d;
    let (z, z4, z6) = (z2.sqrt(), z2 * z2, z2 * z2 * z2);
    let p2 = PI * PI;
    let mut k = [0.0_f64; 4];
    for odd in (1..32).step_by(2) {
        let m = p2 / 4.0 * f64::from(odd * odd); // (pi m / 2)^2
        let weight = (-m / (2.0 * z2)).exp();
        k[0] += weight;
        k[1] += weight * (m - z2);
        k[2] +=
            weight * (6.0 * z6 + 2.0 * z4 + (2.0 * z4 - 5.0 * z2) * m + (1.0 - 2.0 * z2) * m * m);
        k[3] += weight
            * (-30.0 * z6 - 90.0 * z4 * z4
                + (135.0 * z4 - 96.0 * z6) * m
                + (212.0 * z4 - 60.0 * z2) * m * m
                + (5.0 - 30.0 * z2) * m * m * m);
    }
    let (mut second, mut third) = (0.0, 0.0);
    for j in 1..16 {
        let m = p2 * f64::from(j * j); // (pi j)^2
        let weight = (-m / (2.0 * z2)).exp();
        second += weight * m;
        third += weight * (3.0 * z2 * m - m * m);
    }
    let root = (2.0 * PI).sqrt();
    k[0] *= root / z;
    k[1] *= root / (6.0 * z4);
    k[2] = root * (k[2] / (72.0 * z6 * z) - second / (36.0 * z2 * z));
    k[3] = root * (k[3] / (6480.0 * z6 * z4) + third / (216.0 * z6));
    let s = n.sqrt();
    (k[0] + k[1] / s + k[2] / n + k[3] / (n * s)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_is_uniform() {
        // D_1 = max(u, 1 - u): P(D_1 >= d) = 2 (1 - d) for d in [1/2, 1].
        for d in [0.5, 0.6, 0.9, 1.0] {
            assert!((sf(1, d) - 2.0 * (1.0 - d)).abs() < 1e-14, "{d}");
        }
    }

    #[test]
    fn edges_have_written_answers() {
        for n in [0, 1, 2, 1_000_000_000_000] {
            assert!((sf(n, 0.0) - 1.0).abs() < 1e-15 && sf(n, 1.0).abs() < 1e-15);
            assert!((sf(n, f64::NAN) - 1.0).abs() < 1e-15 && sf(n, f64::INFINITY).abs() < 1e-15);
        }
    }

    /// The expansion of Pelz and Good is good to five digits just above n = 140, then quickly better.
    #[test]
    fn regions_meet() {
        for n in [
            20_u64, 139, 140, 141, 5000, 5001, 65_535, 131_072, 10_000_000,
        ] {
            let rows = n as f64;
            for square in [0.3, 2.2, 4.0] {
                let d = (square / rows).sqrt();
                let (below, above) = (sf(n, d * (1.0 - 1e-9)), sf(n, d * (1.0 + 1e-9)));
                assert!(
                    (below / above - 1.0).abs() < 5e-5,
                    "{n} {square}: {below} {above}"
                );
            }
        }
    }

    #[test]
    fn a_stride_changes_nothing() {
        let tail = |n: u64| one_sided(n, (2.2 / n as f64).sqrt());
        let limit = |n: u64| (-4.4_f64).exp() * (1.0 - 2.0 / 3.0 * (2.2 / n as f64).sqrt());
        for n in [65_536, 131_072, 655_360, 6_553_600] {
            assert!(
                (tail(n) / limit(n) - 1.0).abs() < 2.0 / n as f64 * 40.0,
                "{n}"
            );
        }
    }
}
