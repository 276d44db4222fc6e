//! The tests of numbers against `tests/reference/numeric.json`, which holds the answers of scipy and
//! astropy, and tails of laws computed with many digits.

use proptest::prelude::*;
use serde::Deserialize;

use super::law::{quadratic, student};
use super::{
    Answer, Outcome, Reason, anderson, cvm, energy, epps_singleton, ks, kuiper, mann_whitney,
    out_of_range, wasserstein, welch_t,
};

#[derive(Deserialize)]
struct Golden {
    samples: Vec<Sample>,
    laws: Vec<Law>,
    student: Vec<Student>,
    exceedances: Vec<Exceedance>,
    orders: Vec<Orders>,
}

/// A statistic and its p-value, where the library has them.
type Numbers = (Option<f64>, Option<f64>);

#[derive(Deserialize)]
struct Sample {
    name: String,
    reference: Vec<f64>,
    window: Vec<f64>,
    cvm: Numbers,
    anderson: Numbers,
    mann_whitney: Numbers,
    welch_t: Numbers,
    epps_singleton: Numbers,
    kuiper: Numbers,
    /// The distance, and the deviation it is divided by.
    wasserstein_normed: Numbers,
    energy: Numbers,
}

#[derive(Deserialize)]
struct Law {
    law: String,
    x: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Student {
    t: f64,
    df: f64,
    ln_p: f64,
}

#[derive(Deserialize)]
struct Exceedance {
    n: u64,
    m: u64,
    k: u64,
    p: f64,
}

#[derive(Deserialize)]
struct Orders {
    n: usize,
    m: usize,
    u: usize,
    p: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/reference/numeric.json")).unwrap()
}

#[track_caller]
fn near(what: &str, got: f64, want: f64, relative: f64, absolute: f64) {
    let tolerance = relative * want.abs() + absolute;
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got:e}, wanted {want:e}"
    );
}

/// What a test must agree with: the statistic relatively, p relatively and absolutely.
struct Tolerance {
    statistic: f64,
    p: f64,
    p_absolute: f64,
}

const CLOSE: Tolerance = Tolerance {
    statistic: 1e-9,
    p: 1e-9,
    p_absolute: 0.0,
};

/// Checks every sample for which the library has a number, and counts them.
fn samples(
    name: &str,
    tolerance: &Tolerance,
    of: impl Fn(&Sample) -> Numbers,
    test: impl Fn(&Sample) -> Answer,
) -> usize {
    let cases = golden().samples;
    let known = cases.iter().filter_map(|case| Some((case, of(case).0?)));
    let checked = known.map(|(case, statistic)| {
        let what = format!("{name} of {}", case.name);
        let outcome = test(case).unwrap();
        near(
            &what,
            outcome.statistic,
            statistic,
            tolerance.statistic,
            1e-12,
        );
        if let Some(p) = of(case).1 {
            near(
                &what,
                outcome.p_value.unwrap(),
                p,
                tolerance.p,
                tolerance.p_absolute,
            );
        }
        assert!(outcome.effect >= 0.0 && outcome.effect.is_finite());
    });
    checked.count()
}

#[test]
fn cramer_von_mises() {
    // scipy takes the limiting law's distribution function from 1: its error is absolute.
    let tolerance = Tolerance {
        p_absolute: 1e-8,
        ..CLOSE
    };
    let checked = samples(
        "cvm",
        &tolerance,
        |case| case.cvm,
        |case| cvm::exact(&case.reference, &case.window),
    );
    assert!(checked > 25);
}

#[test]
fn anderson_darling() {
    let of = |case: &Sample| match case.anderson {
        // Capped at both ends of scipy's table; what driftd says there is tested with the law.
        (statistic, Some(p)) if p >= 0.25 || p <= 0.001 => (statistic, None),
        known => known,
    };
    let checked = samples("anderson", &CLOSE, of, |case| {
        anderson::exact(&case.reference, &case.window)
    });
    assert!(checked > 25);
}

#[test]
fn mann_whitney_u() {
    let checked = samples(
        "mann_whitney",
        &CLOSE,
        |case| case.mann_whitney,
        |case| mann_whitney::exact(&case.reference, &case.window),
    );
    assert!(checked > 25);
}

#[test]
fn welch() {
    let checked = samples(
        "welch_t",
        &CLOSE,
        |case| case.welch_t,
        |case| welch_t::exact(&case.reference, &case.window),
    );
    assert!(checked > 25);
}

#[test]
fn epps_and_singleton() {
    // W of 6e6 comes from a nearly singular covariance, in which both sides lose digits.
    let tolerance = Tolerance {
        statistic: 1e-6,
        p: 1e-6,
        p_absolute: 1e-300,
    };
    let checked = samples(
        "epps_singleton",
        &tolerance,
        |case| case.epps_singleton,
        |case| epps_singleton::exact(&case.reference, &case.window),
    );
    assert!(checked > 20);
}

/// The statistic only: astropy's p is another approximation, and negative for far tails.
#[test]
fn kuiper_v() {
    let checked = samples(
        "kuiper",
        &CLOSE,
        |case| (case.kuiper.0, None),
        |case| kuiper::exact(&case.reference, &case.window),
    );
    assert!(checked > 25);
}

#[test]
fn distances() {
    let checked = samples(
        "energy",
        &CLOSE,
        |case| case.energy,
        |case| energy::exact(&case.reference, &case.window, 1.0),
    );
    assert!(checked > 25);
    let normed = |case: &Sample| {
        let scale = case.wasserstein_normed.1.unwrap();
        let plain = wasserstein::exact(&case.reference, &case.window, scale);
        wasserstein::normed(plain, scale)
    };
    let of = |case: &Sample| (case.wasserstein_normed.0, None);
    assert!(samples("wasserstein_normed", &CLOSE, of, normed) > 25);
}

#[test]
fn limiting_laws() {
    for case in golden().laws {
        let p = match case.law.as_str() {
            "cvm" => quadratic::cramer_von_mises(case.x),
            _ => quadratic::anderson_darling(case.x),
        };
        near(&format!("{} {}", case.law, case.x), p, case.p, 1e-11, 0.0);
    }
}

#[test]
fn student_tails() {
    for case in golden().student {
        let what = format!("t {} df {}", case.t, case.df);
        let ln_p = student::ln_two_sided(case.t, case.df);
        near(&what, ln_p, case.ln_p, 1e-10, 1e-11);
    }
}

#[test]
fn exceedances() {
    for case in golden().exceedances {
        let what = format!("{} {} {}", case.n, case.m, case.k);
        let outcome = out_of_range::counts(case.n, case.m, case.k).unwrap();
        near(&what, outcome.p_value.unwrap(), case.p, 1e-10, 0.0);
    }
}

/// Sides without ties that have a given U: the smaller one stands low, one row further up.
#[test]
fn orders_of_a_few_rows_among_many() {
    for case in golden().orders {
        let what = format!("{} {} {}", case.n, case.m, case.u);
        let large: Vec<f64> = (0..case.m).map(|i| i as f64 + 0.5).collect();
        let mut left = case.u;
        let mut small: Vec<f64> = (0..case.n)
            .map(|i| {
                let below = left.min(case.m);
                left -= below;
                below as f64 + i as f64 * 0.01
            })
            .collect();
        small.sort_by(f64::total_cmp);
        let outcome = mann_whitney::exact(&small, &large).unwrap();
        near(&what, outcome.statistic, case.u as f64, 0.0, 1e-9);
        near(&what, outcome.p_value.unwrap(), case.p, 1e-10, 0.0);
    }
}

/// Where Epps-Singleton stands among the answers.
const EPPS_SINGLETON: usize = 5;

/// Every test on the same two sides.
fn answers(reference: &[f64], window: &[f64], scale: f64) -> Vec<Answer> {
    let plain = wasserstein::exact(reference, window, scale);
    vec![
        ks::exact(reference, window),
        cvm::exact(reference, window),
        anderson::exact(reference, window),
        mann_whitney::exact(reference, window),
        welch_t::exact(reference, window),
        epps_singleton::exact(reference, window),
        kuiper::exact(reference, window),
        energy::exact(reference, window, scale),
        plain,
        wasserstein::normed(plain, scale),
    ]
}

fn is_sound(outcome: &Outcome) -> bool {
    let at_least_nothing = |x: Option<f64>| x.is_none_or(|x| x.is_finite() && x >= 0.0);
    outcome.statistic.is_finite()
        && at_least_nothing(Some(outcome.effect))
        && at_least_nothing(outcome.error_bound)
        && outcome.expected.is_none_or(f64::is_finite)
        && outcome.p_value.is_none_or(|p| (0.0..=1.0).contains(&p))
}

proptest! {
    #[test]
    fn no_test_panics_or_answers_what_is_no_number(
        mut reference in prop::collection::vec(prop::sample::select(ODD.to_vec()), 0..40),
        mut window in prop::collection::vec(prop::sample::select(ODD.to_vec()), 0..40),
        scale in prop::sample::select(vec![0.0, 5e-324, 1.0, 1e308]),
    ) {
        reference.sort_by(f64::total_cmp);
        window.sort_by(f64::total_cmp);
        for answer in answers(&reference, &window, scale).into_iter().flatten() {
            prop_assert!(is_sound(&answer), "{answer:?}");
        }
        for (i, answer) in answers(&reference, &reference, scale).into_iter().enumerate() {
            match answer {
                Ok(same) => prop_assert!(same.effect < 1e-7 && same.p_value.is_none_or(|p| p > 0.2)),
                // Epps-Singleton needs quartiles that differ, whatever the sides.
                Err(reason) => {
                    let may = reason != Reason::NoVariance || i == EPPS_SINGLETON;
                    prop_assert!(may, "equal sides need no scale: {i}");
                }
            }
        }
    }

    #[test]
    fn no_grid_panics_or_answers_what_is_no_number(
        bins in prop::collection::vec((prop::sample::select(COUNTS.to_vec()), prop::sample::select(COUNTS.to_vec())), 0..12),
    ) {
        let (reference, window): (Vec<u64>, Vec<u64>) = bins.into_iter().unzip();
        let answers = [
            ks::grid(&reference, &window),
            cvm::grid(&reference, &window),
            anderson::grid(&reference, &window),
            mann_whitney::grid(&reference, &window),
            kuiper::grid(&reference, &window),
        ];
        for answer in answers.into_iter().flatten() {
            prop_assert!(is_sound(&answer), "{answer:?}");
        }
    }
}

const ODD: [f64; 14] = [
    f64::NEG_INFINITY,
    f64::MIN,
    -1e308,
    -1.0,
    -5e-324,
    -0.0,
    0.0,
    5e-324,
    1e-310,
    1.0,
    1.0 + f64::EPSILON,
    9_007_199_254_740_993.0,
    f64::MAX,
    f64::INFINITY,
];

const COUNTS: [u64; 6] = [0, 1, 2, 1000, 1 << 53, u64::MAX];
