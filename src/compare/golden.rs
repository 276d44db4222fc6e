//! The tests against `tests/reference/compare.json`, which holds scipy's answers.

use serde::Deserialize;

use super::law::{chi2 as chi2_law, fisher, kolmogorov, normal, smirnov};
use super::{adjust, chi2, js, ks, psi, rates, wasserstein};

#[derive(Deserialize)]
struct Golden {
    samples: Vec<Sample>,
    smirnov: Vec<Smirnov>,
    kolmogorov: Vec<Kolmogorov>,
    chi2: Vec<Chi2>,
    normal: Vec<Normal>,
    tables: Vec<Table>,
    adjust: Adjust,
}

#[derive(Deserialize)]
struct Sample {
    name: String,
    reference: Vec<f64>,
    window: Vec<f64>,
    ks: f64,
    p: f64,
    wasserstein: f64,
}

#[derive(Deserialize)]
struct Smirnov {
    m: u64,
    n: u64,
    h: u64,
    p: f64,
}

#[derive(Deserialize)]
struct Kolmogorov {
    n: u64,
    d: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Chi2 {
    x: f64,
    dof: f64,
    p: f64,
    ln_p: f64,
}

#[derive(Deserialize)]
struct Normal {
    ln_p: f64,
    z: f64,
}

#[derive(Deserialize)]
struct Table {
    reference: Vec<u64>,
    window: Vec<u64>,
    min_expected: f64,
    chi2: f64,
    p: f64,
    js: f64,
    psi: f64,
    psi_p: f64,
    fisher: Option<f64>,
}

#[derive(Deserialize)]
struct Adjust {
    p: Vec<f64>,
    benjamini_hochberg: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/reference/compare.json")).unwrap()
}

#[track_caller]
fn near(what: &str, got: f64, want: f64, relative: f64) {
    let tolerance = relative * want.abs() + 1e-300;
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got:e}, scipy says {want:e}"
    );
}

#[test]
fn kolmogorov_smirnov_and_wasserstein_of_samples() {
    for case in golden().samples {
        let outcome = ks::exact(&case.reference, &case.window).unwrap();
        near(&case.name, outcome.statistic, case.ks, 1e-12);
        near(&case.name, outcome.p_value.unwrap(), case.p, 1e-9);
        let outcome = wasserstein::exact(&case.reference, &case.window, 1.0).unwrap();
        near(&case.name, outcome.statistic, case.wasserstein, 1e-9);
    }
}

#[test]
fn smirnov_tails() {
    for case in golden().smirnov {
        let what = format!("{} {} {}", case.m, case.n, case.h);
        near(&what, smirnov::sf(case.m, case.n, case.h), case.p, 1e-9);
    }
}

#[test]
fn kolmogorov_tails() {
    for case in golden().kolmogorov {
        let what = format!("n {} d {}", case.n, case.d);
        near(&what, kolmogorov::sf(case.n, case.d), case.p, 1e-6);
    }
}

#[test]
fn chi_square_tails() {
    for case in golden().chi2 {
        let what = format!("x {} dof {}", case.x, case.dof);
        near(&what, chi2_law::sf(case.x, case.dof), case.p, 1e-9);
        near(&what, chi2_law::ln_sf(case.x, case.dof), case.ln_p, 1e-9);
    }
}

#[test]
fn normal_quantiles_of_log_probabilities() {
    for case in golden().normal {
        near(
            &case.ln_p.to_string(),
            normal::upper_quantile(case.ln_p),
            case.z,
            1e-9,
        );
    }
}

#[test]
fn tables() {
    for case in golden().tables {
        let (reference, window) = (&case.reference, &case.window);
        let what = format!("{reference:?} {window:?}");
        let outcome = chi2::homogeneity(reference, window).unwrap();
        near(&what, outcome.statistic, case.chi2, 1e-9);
        if case.min_expected >= 5.0 {
            near(&what, outcome.p_value.unwrap(), case.p, 1e-9);
        }
        let outcome = js::counts(reference, window).unwrap();
        assert!(
            (outcome.statistic - case.js).abs() < 1e-9 * case.js + 1e-8 * f64::from(case.js < 1e-6),
            "{what}"
        );
        let outcome = psi::counts(reference, window).unwrap();
        near(&what, outcome.statistic, case.psi, 1e-9);
        // Yurdakul's law, of which driftd takes the exact mean and variance.
        if case.min_expected >= 200.0 {
            near(&what, outcome.p_value.unwrap(), case.psi_p, 0.01);
        }
        if let (Some(p), [a, c], [b, d]) = (case.fisher, &**reference, &**window) {
            near(&what, fisher::two_sided(*a, a + c, *b, b + d), p, 1e-9);
            let want = if case.min_expected < 5.0 { p } else { case.p };
            near(
                &what,
                rates::null_rate(*a, a + c, *b, b + d)
                    .unwrap()
                    .p_value
                    .unwrap(),
                want,
                1e-9,
            );
        }
    }
}

#[test]
fn benjamini_hochberg() {
    let case = golden().adjust;
    let p: Vec<_> = case.p.iter().copied().map(Some).collect();
    for (got, want) in adjust::benjamini_hochberg(&p)
        .into_iter()
        .zip(case.benjamini_hochberg)
    {
        near("adjusted", got.unwrap(), want, 1e-12);
    }
}
