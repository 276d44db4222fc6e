//! `driftd check` on 79 pairs of files, against scipy's answers to the same files.
//!
//! The pairs are months of public flight data and 64 edge cases; numbers and script stand in
//! `tests/reference/oracle/`. Tolerances are relative, of statistics below 1 absolute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use driftd::compare::{Scope, Test};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/oracle")
}

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Where scipy has a number and driftd another, or a reason; `docs/statistics.md` says why.
const ON_PURPOSE: [(&str, &str); 6] = [
    // Equal constants are distance 0, p 1; scipy's ranks of ties give 17.8.
    ("edge/const_equal", "cvm"),
    // Neither side varies: scipy divides by rounding errors.
    ("edge/const_different", "epps_singleton"),
    ("edge/const_different", "welch_t"),
    // Two values only: the matrix is singular, and scipy takes its rank from rounding errors.
    ("edge/bool_as_numeric", "epps_singleton"),
    // scipy's variance underflows to 0.
    ("edge/tiny_subnormal", "welch_t"),
    // Phases of 1e18 radians: no digit of them is known.
    ("edge/int64_extremes", "epps_singleton"),
];

/// Tables with so small cells that chi-square's law does not hold there, nor scipy's p-value.
const SMALL_CELLS: [&str; 6] = [
    "pyflights/2013-02-first1000",
    "pyflights/2013-02-first100",
    "pyflights/2013-07-first1000",
    "edge/cat_2x2_small_equal_n",
    "edge/cat_2x2_unequal_n",
    "edge/cat_100k_categories",
];

/// How near statistic and p-value have to come.
fn tolerance(test: &str) -> (f64, f64) {
    match test {
        "ks" => (1e-12, 1e-6),
        "wasserstein" | "wasserstein_normed" | "energy" => (1e-9, 0.0),
        "epps_singleton" => (1e-6, 1e-6),
        "anderson" => (1e-8, 1e-6),
        "chi2" | "chi2_yates" | "g" | "fisher" | "cramers_v" => (1e-9, 1e-9),
        "tv" | "linf" | "js" | "kl" => (1e-10, 0.0),
        "hellinger" => (1e-7, 0.0), // the root of 1 - BC loses half of the digits where both agree
        _ => (1e-8, 1e-8),
    }
}

fn near(got: f64, want: f64, tolerance: f64) -> bool {
    (got - want).abs() <= tolerance * want.abs().max(1.0)
}

/// Where driftd says something else on purpose; `docs/statistics.md` says why.
fn p_agrees(test: &str, got: f64, want: f64, small_cells: bool) -> bool {
    match test {
        // scipy gives bounds there, not numbers.
        "anderson" if want <= 0.001 => got <= 0.001,
        "anderson" if want >= 0.25 => got >= 0.25,
        "chi2" | "chi2_yates" | "g" if small_cells => (0.0..=1.0).contains(&got),
        // scipy subtracts a series from one, which leaves it up to 8e-6 where p is 0.
        "cvm" => near(got, want, 1e-8) || (got < want && want < 1e-5),
        _ if want < 1e-290 => got < 1e-280,
        _ => (got - want).abs() <= tolerance(test).1 * want,
    }
}

fn check(pair: &Value) -> Value {
    let file = |side: &str| folder().join("inputs").join(pair[side].as_str().unwrap());
    let of = |kind: &str| -> String {
        let columns = pair["columns"].as_object().unwrap().iter();
        let columns: Vec<&str> = columns
            .filter(|(_, k)| k.as_str() == Some(kind))
            .map(|(name, _)| name.as_str())
            .collect();
        columns.join(",")
    };
    let tests: Vec<&str> = Test::ALL
        .iter()
        .filter(|test| !matches!(test.scope(), Scope::Joint | Scope::History | Scope::Window))
        .map(|test| test.as_str())
        .collect();
    let names: Vec<&String> = pair["columns"].as_object().unwrap().keys().collect();
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_driftd"));
    command
        .args(["check", "--output", "json", "--tests", &tests.join(",")])
        .args(["--features", &names.join(",")])
        .arg("--reference")
        .arg(file("reference"))
        .arg("--current")
        .arg(file("current"));
    for kind in ["numeric", "categorical"] {
        if !of(kind).is_empty() {
            command.args([&format!("--{kind}"), &of(kind)]);
        }
    }
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("{}: {error}: {said}", pair["id"])
    })
}

/// Every number of an answer is a number, and where there is none there is a reason.
fn is_whole(score: &Value) -> bool {
    let numbers = ["statistic", "effect"];
    let has = |key: &str| score[key].as_f64().is_some_and(f64::is_finite);
    let p = score["p_value"].as_f64();
    match &score["reason"] {
        Value::Null => numbers.into_iter().all(has) && p.is_none_or(|p| (0.0..=1.0).contains(&p)),
        reason => reason.is_string() && score["statistic"].is_null(),
    }
}

#[test]
fn agrees_with_scipy_on_every_pair() {
    let expected = read("expected.json");
    let pairs = read("pairs.json");
    let pairs = pairs.as_array().unwrap();
    assert_eq!(pairs.len(), 79);
    let mut compared: BTreeMap<String, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for pair in pairs {
        let answer = check(pair);
        let id = pair["id"].as_str().unwrap();
        for feature in answer["features"].as_array().unwrap() {
            let column = feature["name"].as_str().unwrap();
            let expected = &expected[id][column];
            let least_expected = expected["least_expected"].as_f64().unwrap_or(f64::INFINITY);
            let small_cells = SMALL_CELLS.contains(&id) && least_expected < 5.0;
            for score in feature["scores"].as_array().unwrap() {
                assert!(is_whole(score), "{id} {column}: {score}");
                let test = score["test"].as_str().unwrap();
                if ON_PURPOSE.contains(&(id, test)) {
                    continue;
                }
                let want = |key: &str| expected[test][key].as_f64();
                if let Some(want) = want("statistic").filter(|_| test != "fisher") {
                    *compared.entry(format!("{test} statistic")).or_default() += 1;
                    let got = score["statistic"].as_f64().unwrap_or(f64::NAN);
                    if !near(got, want, tolerance(test).0) {
                        wrong.push(format!("{id} {column} {test}: {got} is {want} by scipy"));
                    }
                }
                if let Some(want) = want("p_value") {
                    *compared.entry(format!("{test} p-value")).or_default() += 1;
                    let got = score["p_value"].as_f64().unwrap_or(f64::NAN);
                    if !p_agrees(test, got, want, small_cells) {
                        wrong.push(format!("{id} {column} {test}: p {got} is {want} by scipy"));
                    }
                }
            }
        }
    }
    println!("compared: {compared:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared.values().sum::<u32>() > 3500, "{compared:?}");
}
