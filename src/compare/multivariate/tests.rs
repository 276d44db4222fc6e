//! Edges of the joint tests, and what they must find.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListBuilder, Float64Array, Float64Builder, Int64Array, RecordBatch,
    StringArray, UInt64Array,
};
use proptest::prelude::*;

use super::simulations::{Random, independent, pair_of_normals};
use super::{Cells, Column, JointContribution, JointReference, Rows, mmd, shares};
use crate::compare::{Answer, Reason, Test};

const ALL: [Test; 3] = [Test::Mmd, Test::DomainClassifier, Test::PcaReconstruction];

pub(super) fn columns(width: usize) -> Vec<Column> {
    let column = |feature| Column {
        name: format!("x{feature}"),
        feature,
        cells: Cells::Numbers,
    };
    (0..width).map(column).collect()
}

pub(super) fn numbers(width: usize, cells: Vec<f64>) -> Rows {
    Rows::new(columns(width), cells).unwrap()
}

fn labels(names: &[String], codes: impl IntoIterator<Item = usize>) -> Rows {
    let column = Column {
        name: "label".to_owned(),
        feature: 0,
        cells: Cells::Labels(names.to_vec()),
    };
    let cells = codes.into_iter().map(|code| code as f64).collect();
    Rows::new(vec![column], cells).unwrap()
}

fn answer(test: Test, reference: &Rows, window: &Rows) -> Answer {
    JointReference::fit(reference, &[test])
        .compare(test, window)
        .0
}

fn compare(test: Test, reference: &Rows, window: &Rows) -> (f64, Vec<JointContribution>) {
    let (answer, parts) = JointReference::fit(reference, &[test]).compare(test, window);
    (answer.unwrap().p_value.unwrap(), parts)
}

#[test]
fn empty_sides_have_reasons() {
    let some = independent(&mut Random(1), 100, 2);
    let (none, null) = (numbers(2, vec![]), numbers(2, vec![f64::NAN; 200]));
    for test in ALL {
        for empty in [&none, &null] {
            assert_eq!(answer(test, empty, &some), Err(Reason::NoReference));
            assert_eq!(answer(test, empty, empty), Err(Reason::NoReference));
            assert_eq!(answer(test, &some, empty), Err(Reason::TooFewRows));
        }
        let without = numbers(0, vec![]);
        assert_eq!(answer(test, &without, &without), Err(Reason::NoReference));
    }
}

#[test]
fn other_columns_and_tests_not_asked_for_have_reasons() {
    let (two, three) = (
        independent(&mut Random(1), 100, 2),
        independent(&mut Random(2), 100, 3),
    );
    let fitted = JointReference::fit(&two, &[Test::Mmd]);
    assert_eq!(
        fitted.compare(Test::Mmd, &three).0,
        Err(Reason::DifferentBins)
    );
    for test in [Test::DomainClassifier, Test::Ks] {
        assert_eq!(fitted.compare(test, &two).0, Err(Reason::NoSample));
    }
    assert_eq!(Rows::new(columns(2), vec![1.0; 3]), None);
    assert_eq!(Rows::new(Vec::new(), vec![1.0; 3]), None);
}

#[test]
fn few_rows_have_reasons() {
    let side = |n| independent(&mut Random(n as u64), n, 3);
    let least = [
        (Test::Mmd, 4, 2),
        (Test::DomainClassifier, 50, 50),
        (Test::PcaReconstruction, 40, 20),
    ];
    for (test, of_reference, of_window) in least {
        for n in [1, 2, of_reference - 1] {
            let found = answer(test, &side(n), &side(200));
            assert_eq!(found.is_ok(), n >= of_reference, "{test} {n}");
        }
        for n in [1, 2, of_window - 1] {
            let found = answer(test, &side(200), &side(n));
            assert_eq!(found.is_ok(), n >= of_window, "{test} {n}");
        }
        assert!(
            answer(test, &side(of_reference), &side(of_window)).is_ok(),
            "{test}"
        );
    }
    assert_eq!(
        answer(Test::Mmd, &side(1), &side(9)),
        Err(Reason::NoReference)
    );
    assert_eq!(
        answer(Test::Mmd, &side(9), &side(1)),
        Err(Reason::TooFewRows)
    );
}

#[test]
fn the_kernel_does_not_depend_on_the_rows_that_it_compares() {
    let width = 3;
    let base: Vec<f64> = {
        let mut random = Random(9);
        (0..300 * width).map(|_| random.normal()).collect()
    };
    let own = |row: usize| row.is_multiple_of(mmd::OWN_ROWS);
    let changed = |others: bool| {
        let cells = base.iter().enumerate();
        let moved = |(i, cell): (usize, &f64)| {
            if own(i / width) == others {
                *cell
            } else {
                40.0 * cell
            }
        };
        numbers(width, cells.map(moved).collect())
    };
    let sigma = |rows: &Rows| mmd::Reference::fit(rows).sigma.unwrap();
    let plain = sigma(&numbers(width, base.clone()));
    assert_eq!(sigma(&changed(true)).to_bits(), plain.to_bits());
    let window = independent(&mut Random(10), 200, width);
    let near = answer(Test::Mmd, &changed(true), &window).unwrap();
    assert!(
        near.effect > 0.2,
        "the compared rows are what is compared: {near:?}"
    );
}

#[test]
fn constant_sides() {
    let side = |value: f64| numbers(2, vec![value; 400]);
    let varied = independent(&mut Random(4), 200, 2);
    for value in [7.0, 0.0, 1e308, -5e-324] {
        for test in ALL {
            let outcome = answer(test, &side(value), &side(value)).unwrap();
            let expected = if test == Test::DomainClassifier {
                0.5
            } else {
                0.0
            };
            assert!(
                (outcome.statistic - expected).abs() < 1e-15,
                "{test} {value}"
            );
            assert_eq!(outcome.p_value, Some(1.0), "{test} {value}");
            assert!(outcome.effect.abs() < 1e-15);
            assert!(
                answer(test, &varied, &side(value)).is_ok(),
                "{test} {value}"
            );
        }
        for test in [Test::Mmd, Test::PcaReconstruction] {
            assert_eq!(
                answer(test, &side(value), &side(8.0)),
                Err(Reason::NoVariance)
            );
            assert_eq!(answer(test, &side(value), &varied), Err(Reason::NoVariance));
        }
        let outcome = answer(Test::DomainClassifier, &side(value), &side(8.0)).unwrap();
        assert!((outcome.effect - 1.0).abs() < 1e-12 && outcome.p_value.unwrap() < 1e-20);
    }
}

#[test]
fn disjoint_sides_are_far_apart() {
    let side = |shift: f64| {
        let mut random = Random(5);
        numbers(2, (0..400).map(|_| random.normal() + shift).collect())
    };
    for test in ALL {
        let outcome = answer(test, &side(0.0), &side(1e6)).unwrap();
        let least = if test == Test::Mmd { 0.001 } else { 1e-30 };
        assert!(outcome.p_value.unwrap() <= least, "{test}: {outcome:?}");
        assert!(outcome.effect > 0.9, "{test}: {outcome:?}");
    }
}

#[test]
fn infinite_and_huge_values_give_numbers() {
    let mut random = Random(6);
    let side = |random: &mut Random| {
        let wild = [
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e308,
            -1e308,
            5e-324,
            f64::NAN,
            0.0,
            -0.0,
        ];
        let cell = |i: usize| {
            if i.is_multiple_of(3) {
                wild[random.below(wild.len())]
            } else {
                random.normal()
            }
        };
        numbers(4, (0..800).map(cell).collect())
    };
    let (reference, window) = (side(&mut random), side(&mut random));
    for test in ALL {
        let outcome = answer(test, &reference, &window).unwrap();
        assert!(
            outcome.statistic.is_finite() && outcome.effect >= 0.0,
            "{test}"
        );
        assert!(outcome.p_value.unwrap() > 1e-3, "{test}: {outcome:?}");
    }
}

#[test]
fn integers_beyond_2_to_the_53_are_doubles() {
    let mut random = Random(7);
    let mut side = |shift: u64| {
        let cell = |_| ((1_u64 << 53) + random.next() % 4096 * 2 + shift) as f64;
        numbers(1, (0..500).map(cell).collect())
    };
    let reference = side(0);
    assert!(compare(Test::DomainClassifier, &reference, &side(0)).0 > 1e-3);
    assert!(compare(Test::DomainClassifier, &reference, &side(4096)).0 < 1e-10);
}

#[test]
fn labels_have_a_meaning_across_sides_by_their_text() {
    let names: Vec<String> = ["yes", "no", "maybe"].map(str::to_owned).to_vec();
    let turned: Vec<String> = ["maybe", "yes", "no"].map(str::to_owned).to_vec();
    let reference = labels(&names, (0..600).map(|i| i % 7 / 4));
    let same = labels(&turned, (0..300).map(|i| i % 7 / 4 + 1));
    let other = labels(&turned, (0..300).map(|_| 0));
    // One column is always reconstructed: no test of components.
    assert_eq!(
        answer(Test::PcaReconstruction, &reference, &same),
        Err(Reason::NoVariance)
    );
    for test in [Test::Mmd, Test::DomainClassifier] {
        assert!(
            answer(test, &reference, &same).unwrap().p_value.unwrap() > 0.05,
            "{test}"
        );
        assert!(
            answer(test, &reference, &other).unwrap().p_value.unwrap() < 0.002,
            "{test}"
        );
    }
}

#[test]
fn a_hundred_thousand_levels() {
    let names: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    let mut random = Random(8);
    let mut side = |n| {
        labels(
            &names,
            (0..n).map(|_| random.below(100_000)).collect::<Vec<_>>(),
        )
    };
    let (reference, window) = (side(5_000), side(1_000));
    for test in ALL {
        let found = answer(test, &reference, &window);
        assert!(
            found.is_err() || found.unwrap().p_value.unwrap() > 1e-3,
            "{test}: {found:?}"
        );
    }
}

#[test]
fn more_absent_cells_are_found_and_named() {
    let reference = independent(&mut Random(9), 2_000, 5);
    let mut random = Random(10);
    let cell = |i: usize| {
        if i % 5 == 3 && random.below(5) == 0 {
            f64::NAN
        } else {
            random.normal()
        }
    };
    let window = numbers(5, (0..5_000).map(cell).collect());
    let (p, parts) = compare(Test::DomainClassifier, &reference, &window);
    assert!(
        p < 1e-6 && (parts[0].feature, parts[0].with) == (3, None),
        "{p} {parts:?}"
    );
}

#[test]
fn a_correlation_alone_is_found_and_named() {
    let reference = pair_of_normals(&mut Random(11), 5_000, 10, 0.0);
    let window = pair_of_normals(&mut Random(12), 1_000, 10, 0.8);
    let (p, parts) = compare(Test::DomainClassifier, &reference, &window);
    assert!(p < 1e-10, "{p}");
    assert_eq!((parts[0].feature, parts[0].with), (1, Some(2)), "{parts:?}");
    assert!(parts[0].weight > 0.5, "{parts:?}");
    let (p, _) = compare(Test::DomainClassifier, &window, &reference);
    assert!(p < 1e-10, "{p}");
}

#[test]
fn a_correlation_that_weakens_is_found_and_named() {
    let reference = pair_of_normals(&mut Random(13), 5_000, 10, 0.95);
    let window = pair_of_normals(&mut Random(14), 1_000, 10, 0.8);
    let (p, parts) = compare(Test::DomainClassifier, &reference, &window);
    assert!(p < 1e-10, "{p}");
    assert_eq!((parts[0].feature, parts[0].with), (1, Some(2)), "{parts:?}");
}

#[test]
fn nothing_is_found_where_nothing_is() {
    for seed in 20..24 {
        let reference = pair_of_normals(&mut Random(seed), 2_000, 10, 0.5);
        let window = pair_of_normals(&mut Random(seed + 100), 500, 10, 0.5);
        for test in ALL {
            let (p, _) = compare(test, &reference, &window);
            assert!(p > 0.005, "{test} {seed}: {p}");
        }
    }
}

#[test]
fn a_shifted_subspace_of_an_embedding_is_found() {
    let embedding = |random: &mut Random, n: usize, shift: f64| {
        let mut cells = Vec::new();
        for _ in 0..n {
            let hidden: Vec<f64> = (0..8).map(|_| random.normal() + shift).collect();
            cells.extend((0..64).map(|i| hidden[i % 8] + 0.5 * random.normal()));
        }
        let mut columns = columns(64);
        columns.iter_mut().for_each(|column| column.feature = 0);
        Rows::new(columns, cells).unwrap()
    };
    let reference = embedding(&mut Random(30), 1_000, 0.0);
    let moved = embedding(&mut Random(31), 500, 0.4);
    let same = embedding(&mut Random(32), 500, 0.0);
    for test in [Test::Mmd, Test::DomainClassifier] {
        assert!(compare(test, &reference, &moved).0 <= 0.001, "{test}");
        assert!(compare(test, &reference, &same).0 > 0.005, "{test}");
    }
    let (_, parts) = compare(Test::DomainClassifier, &reference, &moved);
    assert_eq!((parts.len(), parts[0].feature, parts[0].with), (1, 0, None));
}

#[test]
fn correlations_that_break_up_cannot_be_reconstructed() {
    let reference = pair_of_normals(&mut Random(40), 2_000, 3, 0.9);
    let window = pair_of_normals(&mut Random(41), 500, 3, 0.0);
    let fitted = JointReference::fit(&reference, &[Test::PcaReconstruction]);
    let (answer, parts) = fitted.compare(Test::PcaReconstruction, &window);
    let outcome = answer.unwrap();
    assert!(
        outcome.p_value.unwrap() < 1e-6 && outcome.effect > 0.1,
        "{outcome:?}"
    );
    assert!(parts.iter().all(|part| part.with.is_none()));
    assert!(parts[..2].iter().all(|part| part.feature != 0), "{parts:?}");
}

#[test]
fn samples_are_read_by_type() {
    let own: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2, 3]));
    let mut vectors = FixedSizeListBuilder::new(Float64Builder::new(), 2);
    vectors.values().append_slice(&[1.0, 2.0]);
    vectors.append(true);
    vectors.values().append_null();
    vectors.values().append_value(4.0);
    vectors.append(true);
    vectors.values().append_slice(&[0.0, 0.0]);
    vectors.append(false);
    let features: Vec<(&str, ArrayRef)> = vec![
        (
            "number",
            Arc::new(Float64Array::from(vec![Some(0.5), None, Some(f64::NAN)])),
        ),
        (
            "label",
            Arc::new(StringArray::from(vec![Some("b"), Some("a"), None])),
        ),
        ("vector", Arc::new(vectors.finish())),
    ];
    let batch = |features: &[(&str, ArrayRef)]| {
        let own = ["a", "b", "c", "d", "e"].map(|name| (name, Arc::clone(&own)));
        RecordBatch::try_from_iter_with_nullable(
            own.into_iter()
                .chain(features.iter().cloned())
                .map(|(name, array)| (name, array, true)),
        )
        .unwrap()
    };
    let rows = Rows::from_sample(&batch(&features), 10).unwrap();
    let read: Vec<(usize, &str)> = rows
        .columns()
        .iter()
        .map(|c| (c.feature, c.name.as_str()))
        .collect();
    assert_eq!(
        read,
        [(0, "number"), (1, "label"), (2, "vector"), (2, "vector")]
    );
    let cells: Vec<String> = rows.some(9).concat().iter().map(f64::to_string).collect();
    assert_eq!(cells, ["0.5", "0", "1", "2", "NaN", "1", "NaN", "4"]);
    assert_eq!(rows.len(), 3);
    assert_eq!(Rows::from_sample(&batch(&features), 1).unwrap().len(), 1);
    let wrong: Vec<(&str, ArrayRef)> = vec![("number", Arc::new(Int64Array::from(vec![1, 2, 3])))];
    assert_eq!(
        Rows::from_sample(&batch(&wrong), 10),
        Err(Reason::DifferentBins)
    );
}

#[test]
fn shares_are_of_what_is_above_0() {
    let parts = shares([
        (1, None, 3.0),
        (0, Some(1), 2.0),
        (1, None, 3.0),
        (2, None, -5.0),
        (3, None, 0.01),
    ]);
    let read: Vec<(usize, Option<usize>)> = parts.iter().map(|p| (p.feature, p.with)).collect();
    assert_eq!(read, [(1, None), (0, Some(1))]);
    assert!((parts[0].weight - 6.0 / 8.01).abs() < 1e-12);
    assert!(shares([(0, None, 0.0), (1, None, f64::NAN)]).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_answer_is_a_number_or_a_reason(
        reference in prop::collection::vec(any::<f64>(), 0..240),
        window in prop::collection::vec(any::<f64>(), 0..240),
        width in 1_usize..4,
    ) {
        let table = |mut cells: Vec<f64>| {
            cells.truncate(cells.len() / width * width);
            numbers(width, cells)
        };
        let (reference, window) = (table(reference), table(window));
        for test in ALL {
            let fitted = JointReference::fit(&reference, &[test]);
            let (answer, parts) = fitted.compare(test, &window);
            prop_assert_eq!(&fitted.compare(test, &window), &(answer, parts.clone()));
            if let Ok(outcome) = answer {
                let p = outcome.p_value.unwrap();
                prop_assert!((0.0..=1.0).contains(&p), "{} {:?}", test, outcome);
                prop_assert!(outcome.statistic.is_finite() && outcome.effect.is_finite());
                prop_assert!(outcome.effect >= 0.0);
            }
            prop_assert!(parts.iter().all(|part| part.weight > 0.0 && part.weight <= 1.0));
        }
    }
}
