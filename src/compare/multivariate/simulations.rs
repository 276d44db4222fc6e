//! How often the joint tests speak, with and without drift. The tests here take minutes, print and are
//! ignored: `cargo test --release --lib multivariate::simulations -- --ignored --nocapture`.

use super::tests::columns;
use super::{Cells, Column, JointReference, Rows};
use crate::compare::Test;
use crate::profile::sample::mix;

/// `SplitMix64`.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Independent standard normal columns.
pub(super) fn independent(random: &mut Random, rows: usize, width: usize) -> Rows {
    let cells = (0..rows * width).map(|_| random.normal()).collect();
    Rows::new(columns(width), cells).unwrap()
}

/// Standard normal columns, of which 1 and 2 are correlated.
pub(super) fn pair_of_normals(
    random: &mut Random,
    rows: usize,
    width: usize,
    correlation: f64,
) -> Rows {
    let mut cells = Vec::with_capacity(rows * width);
    for _ in 0..rows {
        let start = cells.len();
        cells.extend((0..width).map(|_| random.normal()));
        let own = (1.0 - correlation * correlation).sqrt();
        cells[start + 2] = correlation * cells[start + 1] + own * cells[start + 2];
    }
    Rows::new(columns(width), cells).unwrap()
}

/// What happens to a window of thirty columns.
#[derive(Debug, Clone, Copy)]
enum Drift {
    None,
    /// Column 1 moves by so many deviations.
    Mean(f64),
    /// The variance of column 1 is multiplied.
    Variance(f64),
    /// Columns 1 and 2 become correlated; each keeps its distribution.
    Correlation(f64),
}

/// 24 numeric columns of many shapes and 6 of labels with up to 1,000 levels.
fn thirty(random: &mut Random, rows: usize, drift: Drift) -> Rows {
    let mut cells = Vec::with_capacity(rows * 30);
    for _ in 0..rows {
        let mut normals: Vec<f64> = (0..24).map(|_| random.normal()).collect();
        match drift {
            Drift::None => {}
            Drift::Mean(shift) => normals[1] += shift,
            Drift::Variance(factor) => normals[1] *= factor.sqrt(),
            Drift::Correlation(r) => {
                normals[2] = r * normals[1] + (1.0 - r * r).sqrt() * normals[2]
            }
        }
        cells.extend(normals.iter().enumerate().map(|(i, z)| shape(i, *z)));
        cells.extend([2, 5, 10, 50, 200, 1000].map(|levels| zipf(random.uniform(), levels)));
    }
    Rows::new(thirty_columns(), cells).unwrap()
}

fn thirty_columns() -> Vec<Column> {
    let mut all = columns(30);
    for (column, levels) in all[24..].iter_mut().zip([2, 5, 10, 50, 200, 1000]) {
        column.cells = Cells::Labels((0..levels).map(|i: i32| i.to_string()).collect());
    }
    all
}

/// Normal, lognormal, heavy-tailed, bounded, counts, mostly zero.
fn shape(i: usize, z: f64) -> f64 {
    match i {
        0..8 => 10.0 * i as f64 + (1 + i) as f64 * z,
        8..13 => ((i - 6) as f64 * 0.25 * z).exp(),
        13..17 => z * (0.3 * z * z).min(50.0).exp(),
        17..19 => z.tanh(),
        19..23 => (z.exp() * (i - 18) as f64).floor(),
        _ => (z - 0.84).max(0.0).ceil(),
    }
}

/// About the Zipf law: the logarithm of the rank is uniform.
fn zipf(uniform: f64, levels: i32) -> f64 {
    ((f64::from(levels) + 1.0).powf(uniform) - 1.0)
        .floor()
        .min(f64::from(levels - 1))
}

fn rates(test: Test, reference: usize, window: usize, drift: Drift, repeats: u64) {
    let mut found = Vec::new();
    for repeat in 0..repeats {
        let mut random = Random(mix(repeat + 1));
        let fitted = JointReference::fit(&thirty(&mut random, reference, Drift::None), &[test]);
        let (answer, _) = fitted.compare(test, &thirty(&mut random, window, drift));
        found.push(answer.unwrap().p_value.unwrap());
    }
    let share = |limit: f64| found.iter().filter(|p| **p <= limit).count() as f64 / repeats as f64;
    println!(
        "{test} {reference} x {window} {drift:?}, {repeats} pairs: p <= .05 {} .01 {} .001 {} 1e-4 {}",
        share(0.05),
        share(0.01),
        share(0.001),
        share(1e-4)
    );
}

#[test]
#[ignore = "minutes; prints the level"]
fn level() {
    for (reference, window) in [(10_000, 1_000), (400, 200)] {
        rates(
            Test::DomainClassifier,
            reference,
            window,
            Drift::None,
            2_000,
        );
    }
    rates(Test::PcaReconstruction, 2_000, 1_000, Drift::None, 1_000);
    rates(Test::Mmd, 1_000, 500, Drift::None, 300);
}

#[test]
#[ignore = "minutes; prints the power"]
fn power() {
    for window in [1_000, 10_000] {
        for drift in [
            Drift::Mean(0.1),
            Drift::Mean(0.3),
            Drift::Variance(1.2),
            Drift::Correlation(0.8),
            Drift::Correlation(0.3),
        ] {
            for test in [Test::DomainClassifier, Test::Mmd, Test::PcaReconstruction] {
                rates(test, 10_000, window, drift, 40);
            }
        }
    }
}
