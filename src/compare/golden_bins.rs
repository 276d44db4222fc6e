//! The tests on bins against `tests/reference/bins.json`, which holds the answers of scipy and
//! statsmodels.

use serde::Deserialize;

use super::adjust::Adjustment;
use super::{Outcome, chi2, cramers_v, fisher, g, hellinger, js, kl, linf, psi, table, tv, unseen};

#[derive(Deserialize)]
struct Golden {
    tables: Vec<Case>,
    expected: Vec<Expected>,
    adjust: Vec<Adjusted>,
}

#[derive(Deserialize)]
struct Case {
    reference: Vec<u64>,
    window: Vec<u64>,
    min_expected: f64,
    chi2: f64,
    chi2_p: f64,
    yates: f64,
    yates_p: f64,
    g: f64,
    g_p: f64,
    psi: f64,
    js: f64,
    hellinger: f64,
    kl: Option<f64>,
    tv: f64,
    linf: f64,
    cramers_v: Option<f64>,
    fisher_p: Option<f64>,
    odds_ratio: Option<f64>,
}

#[derive(Deserialize)]
struct Expected {
    reference: Vec<u64>,
    window: Vec<u64>,
    psi: f64,
    js: f64,
    hellinger: f64,
    tv: f64,
    linf: f64,
    chi2: f64,
    g: f64,
    unseen: f64,
}

#[derive(Deserialize)]
struct Adjusted {
    p: Vec<f64>,
    bonferroni: Vec<f64>,
    holm: Vec<f64>,
    benjamini_hochberg: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/reference/bins.json")).unwrap()
}

#[track_caller]
fn near(what: &str, got: f64, want: f64, relative: f64) {
    let tolerance = relative * want.abs() + 1e-300;
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got:e}, want {want:e}"
    );
}

/// Near, but for what the reference loses itself by subtracting near 0.
#[track_caller]
fn close(what: &str, got: f64, want: f64) {
    assert!(
        (got - want).abs() <= 1e-10_f64.max(1e-9 * want.abs()),
        "{what}: got {got:e}, want {want:e}"
    );
}

#[test]
fn statistics() {
    for case in golden().tables {
        let (reference, window) = (&case.reference, &case.window);
        let what = |name: &str| format!("{name} of {reference:?} {window:?}");
        close(
            &what("chi2"),
            chi2::homogeneity(reference, window).unwrap().statistic,
            case.chi2,
        );
        close(
            &what("yates"),
            chi2::yates(reference, window).unwrap().statistic,
            case.yates,
        );
        close(
            &what("g"),
            g::homogeneity(reference, window).unwrap().statistic,
            case.g,
        );
        close(
            &what("psi"),
            psi::counts(reference, window).unwrap().statistic,
            case.psi,
        );
        close(
            &what("hellinger"),
            hellinger::counts(reference, window).unwrap().statistic,
            case.hellinger,
        );
        close(
            &what("tv"),
            tv::counts(reference, window).unwrap().statistic,
            case.tv,
        );
        close(
            &what("linf"),
            linf::counts(reference, window).unwrap().statistic,
            case.linf,
        );
        let distance = js::counts(reference, window).unwrap().statistic;
        // Near 0 scipy takes a root of what it lost by subtracting.
        assert!(
            (distance - case.js).abs() < 1e-10 + 1e-7 * f64::from(case.js < 1e-5),
            "{}",
            what("js")
        );
        match case.kl {
            Some(kl) => close(
                &what("kl"),
                kl::counts(reference, window).unwrap().statistic,
                kl,
            ),
            None => assert_eq!(kl::counts(reference, window), Err(super::Reason::NotFinite)),
        }
        if let Some(v) = case.cramers_v {
            close(
                &what("v"),
                cramers_v::counts(reference, window).unwrap().statistic,
                v,
            );
        }
    }
}

#[test]
fn p_values() {
    for case in golden().tables {
        let (reference, window) = (&case.reference, &case.window);
        let what = |name: &str| format!("p of {name} of {reference:?} {window:?}");
        let p = |outcome: Outcome| outcome.p_value.unwrap();
        if case.min_expected >= 5.0 {
            near(
                &what("chi2"),
                p(chi2::homogeneity(reference, window).unwrap()),
                case.chi2_p,
                1e-9,
            );
            near(
                &what("v"),
                p(cramers_v::counts(reference, window).unwrap()),
                case.chi2_p,
                1e-9,
            );
            near(
                &what("yates"),
                p(chi2::yates(reference, window).unwrap()),
                case.yates_p,
                1e-9,
            );
            near(
                &what("g"),
                p(g::homogeneity(reference, window).unwrap()),
                case.g_p,
                1e-9,
            );
        }
        if let Some(want) = case.fisher_p {
            let outcome = fisher::two_levels(reference, window).unwrap();
            near(&what("fisher"), p(outcome), want, 1e-8);
            if let Some(ratio) = case.odds_ratio.filter(|ratio| *ratio > 0.0) {
                near(&what("odds"), outcome.statistic, ratio, 1e-12);
            }
        }
    }
}

#[test]
fn expectations_over_all_deals() {
    for case in golden().expected {
        let (reference, window) = (&case.reference, &case.window);
        let what = |name: &str| format!("E {name} of {reference:?} {window:?}");
        let of = |answer: super::Answer| answer.unwrap().expected.unwrap();
        near(
            &what("psi"),
            of(psi::counts(reference, window)),
            case.psi,
            1e-9,
        );
        near(
            &what("tv"),
            of(tv::counts(reference, window)),
            case.tv,
            1e-9,
        );
        near(
            &what("chi2"),
            of(chi2::homogeneity(reference, window)),
            case.chi2,
            1e-9,
        );
        near(
            &what("g"),
            of(g::homogeneity(reference, window)),
            case.g,
            1e-9,
        );
        let rows: Vec<usize> = (0..window.len()).filter(|&i| reference[i] > 0).collect();
        let strangers: Vec<u64> = (0..window.len())
            .filter(|&i| reference[i] == 0)
            .map(|i| window[i])
            .collect();
        let held = |counts: &[u64]| rows.iter().map(|&i| counts[i]).collect::<Vec<_>>();
        let unseen = strangers.iter().sum();
        let answer = unseen::levels(&held(reference), &held(window), &strangers, unseen);
        near(&what("unseen"), of(answer), case.unseen, 1e-9);
        approximations(&case);
    }
}

/// The mean of the largest gap, and of roots.
fn approximations(case: &Expected) {
    let (reference, window) = (&case.reference, &case.window);
    let what = |name: &str| format!("E {name} of {reference:?} {window:?}");
    let of = |answer: super::Answer| answer.unwrap().expected.unwrap();
    let largest = of(linf::counts(reference, window));
    assert!(
        (largest / case.linf - 1.0).abs() < 0.25,
        "{} {largest} {}",
        what("linf"),
        case.linf
    );
    let table = table::Table::new(reference, window).unwrap();
    let (n, m) = (table.n, table.m);
    let half = |a: f64, b: f64| 0.5 * ((a / n).sqrt() - (b / m).sqrt()).powi(2);
    near(
        &what("hellinger"),
        table.moments(half, 0.125).mean,
        case.hellinger,
        1e-9,
    );
    let root = of(js::counts(reference, window));
    assert!(
        root <= case.js.sqrt() && root > 0.75 * case.js.sqrt(),
        "{} {root} {}",
        what("js"),
        case.js.sqrt()
    );
}

#[test]
fn adjusted_p_values() {
    for case in golden().adjust {
        let p: Vec<_> = case.p.iter().copied().map(Some).collect();
        for (way, want) in [
            (Adjustment::None, &case.p),
            (Adjustment::Bonferroni, &case.bonferroni),
            (Adjustment::Holm, &case.holm),
            (Adjustment::BenjaminiHochberg, &case.benjamini_hochberg),
        ] {
            for (got, want) in way.apply(&p).into_iter().zip(want) {
                near(way.as_str(), got.unwrap(), *want, 1e-12);
            }
        }
    }
}
