//! Random numbers for the worlds: the same in every run.

use std::f64::consts::PI;
use std::sync::OnceLock;

/// Steele, Lea and Flood 2014.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635);
        random.next(); // neighbouring seeds part
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Box and Muller 1958.
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (2.0 * PI * self.uniform()).cos()
    }

    /// Student's t with 3 degrees of freedom.
    pub(crate) fn t3(&mut self) -> f64 {
        let squares: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (squares / 3.0).sqrt()
    }

    /// Counts of `rows` draws with these weights, which need not sum to 1.
    pub(crate) fn multinomial(&mut self, rows: u64, weights: &[f64]) -> Vec<u64> {
        let (mut rows, mut rest) = (rows, weights.iter().sum::<f64>());
        let draw = |weight: &f64| {
            let share = if rest > 0.0 {
                (weight / rest).min(1.0)
            } else {
                1.0
            };
            let count = self.binomial(rows, share);
            rows -= count;
            rest -= weight;
            count
        };
        weights.iter().map(draw).collect()
    }

    fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p > 0.5 {
            n - self.binomial(n, 1.0 - p)
        } else if n as f64 * p < 10.0 {
            self.binomial_by_gaps(n, p)
        } else {
            self.binomial_by_rejection(n as f64, p)
        }
    }

    /// Failures between successes are geometric (Devroye 1986, section X.4.3).
    fn binomial_by_gaps(&mut self, n: u64, p: f64) -> u64 {
        if p <= 0.0 {
            return 0;
        }
        let scale = (-p).ln_1p();
        let (mut successes, mut trials) = (0, 0.0);
        loop {
            trials += (self.uniform().ln() / scale).floor() + 1.0;
            if trials > n as f64 {
                return successes;
            }
            successes += 1;
        }
    }

    /// Hörmann 1993, "The generation of binomial random variates", algorithm BTRS.
    fn binomial_by_rejection(&mut self, n: f64, p: f64) -> u64 {
        let spread = (n * p * (1.0 - p)).sqrt();
        let b = 1.15 + 2.53 * spread;
        let a = -0.0873 + 0.0248 * b + 0.01 * p;
        let center = n * p + 0.5;
        let squeeze = 0.92 - 4.2 / b;
        let alpha = (2.83 + 5.1 / b) * spread;
        let odds = (p / (1.0 - p)).ln();
        let mode = ((n + 1.0) * p).floor();
        loop {
            let (u, v) = (self.uniform() - 0.5, self.uniform());
            let edge = 0.5 - u.abs();
            let k = ((2.0 * a / edge + b) * u + center).floor();
            if edge >= 0.07 && v <= squeeze {
                return k as u64;
            }
            if k < 0.0 || k > n {
                continue;
            }
            let height = (v * alpha / (a / (edge * edge) + b)).ln();
            let relative =
                ln_factorial(mode) + ln_factorial(n - mode) - ln_factorial(k) - ln_factorial(n - k);
            if height <= relative + (k - mode) * odds {
                return k as u64;
            }
        }
    }
}

/// Of whole numbers up to the largest window.
fn ln_factorial(n: f64) -> f64 {
    static TABLE: OnceLock<Vec<f64>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut sum = 0.0;
        (0..=20_000)
            .map(|k| {
                sum += f64::from(k.max(1)).ln();
                sum
            })
            .collect()
    });
    table[n as usize]
}
