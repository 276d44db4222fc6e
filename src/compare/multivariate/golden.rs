//! The joint tests against `tests/reference/joint.json`: answers of numpy, scipy, scikit-learn and
//! alibi-detect.

use serde::Deserialize;

use super::domain_classifier::{area, upper_tail};
use super::matrix::{Encoder, Scale};
use super::mmd;
use super::pca_reconstruction::student_two_sided;
use super::tests::numbers;
use super::{JointReference, Rows};
use crate::compare::Test;

#[derive(Deserialize)]
struct Golden {
    mmd: Vec<Mmd>,
    alibi: Vec<Mmd>,
    pca: Vec<Pca>,
    area: Vec<Area>,
    student: Vec<Student>,
    normal: Vec<Normal>,
}

#[derive(Deserialize)]
struct Mmd {
    name: String,
    reference: Vec<Vec<f64>>,
    window: Vec<Vec<f64>>,
    sigma: f64,
    mmd2: f64,
}

#[derive(Deserialize)]
struct Pca {
    name: String,
    reference: Vec<Vec<f64>>,
    window: Vec<Vec<f64>>,
    expected: f64,
    statistic: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Area {
    reference: Vec<f64>,
    window: Vec<f64>,
    auc: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Student {
    t: f64,
    freedom: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Normal {
    z: f64,
    p: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/reference/joint.json")).unwrap()
}

fn rows(table: &[Vec<f64>]) -> Rows {
    numbers(table[0].len(), table.concat())
}

#[track_caller]
fn close(found: f64, expected: f64, relative: f64, what: &str) {
    let most = relative * expected.abs().max(1e-300);
    assert!(
        (found - expected).abs() <= most,
        "{what}: {found} for {expected}"
    );
}

#[test]
fn discrepancies_and_sigmas() {
    for case in golden().mmd {
        let reference = rows(&case.reference);
        let fitted = mmd::Reference::fit(&reference);
        close(fitted.sigma.unwrap(), case.sigma, 1e-12, &case.name);
        let outcome = fitted.compare(&rows(&case.window)).unwrap();
        assert!(
            (outcome.statistic - case.mmd2).abs() < 1e-12,
            "{}",
            case.name
        );
    }
}

#[test]
fn discrepancies_with_the_sigma_of_alibi() {
    for case in golden().alibi {
        let reference = rows(&case.reference);
        let encoder = Encoder::fit(&reference, 1_000);
        let encode = |side: &Rows| encoder.encode(side, Scale::Standard, 1_000);
        let (left, right) = (encode(&reference), encode(&rows(&case.window)));
        let (found, _) = mmd::discrepancy(&left, &right, case.sigma);
        assert!((found - case.mmd2).abs() < 1e-9, "{}: {found}", case.name);
    }
}

#[test]
fn reconstruction_errors() {
    for case in golden().pca {
        let fitted = JointReference::fit(&rows(&case.reference), &[Test::PcaReconstruction]);
        let (answer, _) = fitted.compare(Test::PcaReconstruction, &rows(&case.window));
        let outcome = answer.unwrap();
        close(outcome.statistic, case.statistic, 1e-9, &case.name);
        close(outcome.expected.unwrap(), case.expected, 1e-9, &case.name);
        close(outcome.p_value.unwrap(), case.p, 1e-7, &case.name);
    }
}

#[test]
fn areas_under_the_curve() {
    for case in golden().area {
        let (found, variance) = area(&case.reference, &case.window);
        close(found, case.auc, 1e-12, "area");
        let p = upper_tail((found - 0.5) / variance.sqrt());
        close(p, case.p, 1e-9, "p of the area");
    }
}

#[test]
fn tails() {
    for case in golden().student {
        let found = student_two_sided(case.t * case.t, case.freedom);
        close(
            found,
            case.p,
            1e-9,
            &format!("t {} {}", case.t, case.freedom),
        );
    }
    for case in golden().normal {
        close(upper_tail(case.z), case.p, 1e-11, &format!("z {}", case.z));
    }
}
