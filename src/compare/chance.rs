//! What the tests on bins say when nothing has changed, by simulation: how well `expected` is the
//! mean of the statistic, and how often p is under a level. The ignored tests print whole tables:
//! `cargo test --release --lib compare::chance -- --ignored --nocapture`.

use proptest::prelude::*;

use super::{
    Answer, Outcome, Reason, chi2, cramers_v, g, hellinger, js, kl, linf, psi, tv, unseen,
};

/// A test on counts of the same bins.
type OnBins = fn(&[u64], &[u64]) -> Answer;

const TESTS: [(&str, OnBins); 9] = [
    ("psi", psi::counts),
    ("js", js::counts),
    ("hellinger", hellinger::counts),
    ("kl", kl::counts),
    ("tv", tv::counts),
    ("linf", linf::counts),
    ("chi2", chi2::homogeneity),
    ("g", g::homogeneity),
    ("cramers_v", cramers_v::counts),
];

/// Splitmix64: small, and good enough to draw levels.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Draws levels by Walker's alias method.
struct Levels {
    keep: Vec<f64>,
    other: Vec<usize>,
}

impl Levels {
    /// Level i has probability proportional to `(i + 1)^-exponent`; 0 is flat.
    fn zipf(size: usize, exponent: f64) -> Self {
        let weights: Vec<f64> = (1..=size).map(|i| (i as f64).powf(-exponent)).collect();
        let scale = size as f64 / weights.iter().sum::<f64>();
        let mut keep: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
        let mut other: Vec<usize> = (0..size).collect();
        let (mut poor, mut rich): (Vec<_>, Vec<_>) = (0..size).partition(|&i| keep[i] < 1.0);
        while let (Some(small), Some(&large)) = (poor.pop(), rich.last()) {
            other[small] = large;
            keep[large] -= 1.0 - keep[small];
            if keep[large] < 1.0 {
                rich.pop();
                poor.push(large);
            }
        }
        Self { keep, other }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the high half is below the number of levels, the low half is cut off on purpose"
    )]
    fn draw(&self, rows: u64, random: &mut Random) -> Vec<u64> {
        let mut counts = vec![0; self.keep.len()];
        for _ in 0..rows {
            let wide = u128::from(random.next()) * self.keep.len() as u128;
            let level = (wide >> 64) as usize;
            let part = (wide as u64) as f64 / 2f64.powi(64);
            counts[if part < self.keep[level] {
                level
            } else {
                self.other[level]
            }] += 1;
        }
        counts
    }
}

#[derive(Debug, Default, Clone)]
struct Seen {
    answers: f64,
    statistic: f64,
    expected: f64,
    effect: f64,
    plain_over: f64,
    effect_over: f64,
    under: [f64; 4],
}

const ALPHAS: [f64; 4] = [0.05, 0.01, 0.001, 1e-4];

impl Seen {
    fn add(&mut self, outcome: &Outcome) {
        self.answers += 1.0;
        self.statistic += outcome.statistic;
        self.expected += outcome.expected.unwrap_or(f64::NAN);
        self.effect += outcome.effect;
        self.plain_over += f64::from(outcome.statistic > 0.1);
        self.effect_over += f64::from(outcome.effect > 0.1);
        for (count, alpha) in self.under.iter_mut().zip(ALPHAS) {
            *count += f64::from(outcome.p_value.is_some_and(|p| p <= alpha));
        }
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.answers.max(1.0)
    }
}

fn simulate(levels: &Levels, n: u64, m: u64, pairs: u32, tests: &[(&str, OnBins)]) -> Vec<Seen> {
    let mut random = Random(n ^ m << 32 ^ (levels.keep.len() as u64) << 16);
    let mut seen = vec![Seen::default(); tests.len()];
    for _ in 0..pairs {
        let (reference, window) = (levels.draw(n, &mut random), levels.draw(m, &mut random));
        for (seen, (_, test)) in seen.iter_mut().zip(tests) {
            if let Ok(outcome) = test(&reference, &window) {
                seen.add(&outcome);
            }
        }
    }
    seen
}

/// An unseen-level outcome of two draws.
fn unseen_levels(reference: &[u64], window: &[u64]) -> Answer {
    let held = |counts: &[u64]| {
        let pairs = reference.iter().zip(counts);
        let of_known = pairs.filter(|(a, _)| **a > 0).map(|(_, b)| *b);
        of_known.collect::<Vec<u64>>()
    };
    let pairs = reference.iter().zip(window);
    let strangers: Vec<u64> = pairs
        .filter(|(a, b)| **a == 0 && **b > 0)
        .map(|(_, b)| *b)
        .collect();
    let rows = strangers
        .iter()
        .fold(0, |sum: u64, rows| sum.saturating_add(*rows));
    unseen::levels(&held(reference), &held(window), &strangers, rows)
}

#[test]
fn a_hundred_thousand_levels_have_answers() {
    let levels = Levels::zipf(100_000, 1.1);
    let mut random = Random(5);
    let (reference, window) = (
        levels.draw(50_000, &mut random),
        levels.draw(50_000, &mut random),
    );
    for (name, test) in TESTS {
        match test(&reference, &window) {
            Ok(outcome) => assert!(
                outcome.p_value.unwrap() > 1e-4 && outcome.effect < 0.15,
                "{name}"
            ),
            Err(reason) => assert_eq!((name, reason), ("kl", Reason::NotFinite)),
        }
    }
    assert!(unseen_levels(&reference, &window).unwrap().p_value.unwrap() > 1e-4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn answers_are_numbers_whatever_the_counts(
        bins in prop::collection::vec((count(), count()), 0..40),
    ) {
        let (reference, window): (Vec<u64>, Vec<u64>) = bins.iter().copied().unzip();
        let (backwards, other): (Vec<u64>, Vec<u64>) = bins.iter().rev().copied().unzip();
        for (name, test) in TESTS.into_iter().chain([("yates", chi2::yates as OnBins), ("unseen", unseen_levels)]) {
            let (answer, turned) = (test(&reference, &window), test(&backwards, &other));
            prop_assert_eq!(answer.is_ok(), turned.is_ok());
            let Ok(outcome) = answer else { continue };
            prop_assert!(outcome.statistic.is_finite() && outcome.statistic >= 0.0, "{name} {outcome:?}");
            prop_assert!(outcome.effect.is_finite() && outcome.effect >= 0.0, "{name} {outcome:?}");
            prop_assert!(outcome.expected.is_none_or(|e| e.is_finite() && e >= 0.0), "{name} {outcome:?}");
            prop_assert!(outcome.p_value.is_none_or(|p| (0.0..=1.0).contains(&p)), "{name} {outcome:?}");
            let moved = (outcome.statistic - turned.unwrap().statistic).abs();
            prop_assert!(moved <= 1e-9 * outcome.statistic.max(1.0), "{name} {outcome:?} {turned:?}");
        }
    }
}

/// Counts as they come: none, a few, many, too many.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => Just(0_u64),
        5 => 0..20_u64,
        3 => 0..100_000_u64,
        1 => Just(u64::MAX),
        1 => 1_u64 << 52..1 << 54,
    ]
}

#[test]
fn expectations_are_the_means() {
    for (size, exponent, n, m) in [
        (10, 0.0, 300, 100),
        (500, 1.1, 1_000, 300),
        (500, 0.0, 200, 1_000),
    ] {
        let levels = Levels::zipf(size, exponent);
        for (seen, (name, _)) in simulate(&levels, n, m, 200, &TESTS).iter().zip(TESTS) {
            if seen.answers < 100.0 {
                continue;
            }
            let (mean, expected) = (seen.mean(seen.statistic), seen.mean(seen.expected));
            let tolerance = if name == "linf" || name == "kl" {
                0.15
            } else {
                0.12
            };
            assert!(
                (mean / expected - 1.0).abs() < tolerance,
                "{name} of {size} levels: mean {mean}, expected {expected}"
            );
        }
    }
}

#[test]
fn levels_of_p_hold() {
    for (size, exponent, n, m) in [
        (2, 0.0, 300, 100),
        (10, 0.0, 300, 100),
        (300, 1.1, 1_000, 300),
    ] {
        let levels = Levels::zipf(size, exponent);
        for (seen, (name, _)) in simulate(&levels, n, m, 200, &TESTS).iter().zip(TESTS) {
            let share = seen.mean(seen.under[0]);
            assert!(share < 0.11, "{name} of {size} levels: {share} under 0.05");
        }
        let seen = simulate(&levels, n, m, 200, &[("unseen", unseen_levels)]);
        assert!(
            seen[0].mean(seen[0].under[0]) < 0.1,
            "{size} levels: {seen:?}"
        );
    }
}

#[test]
#[ignore = "prints a table; takes a minute in release"]
#[allow(clippy::print_stdout)]
fn bias_table() {
    println!(
        "| levels | m | test | answers | mean statistic | mean expected | mean effect | statistic > 0.1 | effect > 0.1 | p <= 0.05 | p <= 0.001 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let pairs = pairs(2_000);
    for exponent in [0.0, 1.1] {
        for size in [2, 10, 50, 200, 1_000, 10_000] {
            let levels = Levels::zipf(size, exponent);
            for m in [1_000, 10_000] {
                let seen = simulate(&levels, 10_000, m, pairs, &TESTS);
                for (seen, (name, _)) in seen.iter().zip(TESTS) {
                    let share = |count: f64| seen.mean(count);
                    println!(
                        "| {size} {} | {m} | {name} | {:.3} | {:.4} | {:.4} | {:.4} | {:.3} | {:.3} | {:.4} | {:.5} |",
                        if exponent > 0.0 { "zipf" } else { "flat" },
                        seen.answers / f64::from(pairs),
                        share(seen.statistic),
                        share(seen.expected),
                        share(seen.effect),
                        share(seen.plain_over),
                        share(seen.effect_over),
                        share(seen.under[0]),
                        share(seen.under[2]),
                    );
                }
            }
        }
    }
}

#[test]
#[ignore = "prints a table; takes some minutes in release"]
#[allow(clippy::print_stdout)]
fn levels_of_the_test() {
    println!("| levels | n | m | mean unseen | mean expected | p <= 0.05 | 0.01 | 0.001 | 1e-4 |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let pairs = pairs(20_000);
    let sizes = [10, 100, 1_000, 10_000, 100_000];
    for (n, m) in [(10_000, 100), (10_000, 1_000), (3_000, 3_000), (300, 3_000)] {
        for (size, exponent) in sizes
            .into_iter()
            .flat_map(|size| [(size, 0.0), (size, 1.1), (size, 2.0)])
        {
            let levels = Levels::zipf(size, exponent);
            let seen = &simulate(&levels, n, m, pairs, &[("unseen", unseen_levels)])[0];
            let share = |count: f64| seen.mean(count);
            println!(
                "| {size} ^{exponent} | {n} | {m} | {:.5} | {:.5} | {:.4} | {:.4} | {:.5} | {:.5} |",
                share(seen.statistic),
                share(seen.expected),
                share(seen.under[0]),
                share(seen.under[1]),
                share(seen.under[2]),
                share(seen.under[3]),
            );
        }
    }
}

/// How many pairs of sides to draw; `PAIRS` asks for more or fewer.
#[allow(clippy::disallowed_methods, reason = "a table printed by hand")]
fn pairs(usual: u32) -> u32 {
    let asked = std::env::var("PAIRS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(usual)
}
