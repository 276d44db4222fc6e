//! Golden numbers of the reference implementation, `tests/reference/rule/`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::float_cmp,
    reason = "counts of windows are small, and infinities are compared"
)]

use chrono_tz::Tz;
use serde_json::Value;

use super::fit::Learned;
use super::question::{Numbers, Scores, choose_pairs};
use super::*;

const HOUR_MS: i64 = 3_600_000;

fn read() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/reference/rule/golden.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    let float = |one: &Value| one.as_f64().unwrap_or(f64::INFINITY);
    value.as_array().unwrap().iter().map(float).collect()
}

fn counts(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_u64().unwrap())
        .collect()
}

/// The inputs of one stream: how values are scored, and the answers of all windows.
struct Stream {
    asking: Asking,
    windows: Vec<Answers>,
    training: usize,
    calendar: Calendar,
    hazard: f64,
}

/// Totals of the training windows, by bin.
fn totals(rows: &[Vec<u64>], training: usize) -> Vec<u64> {
    let mut totals = vec![0; rows[0].len()];
    for row in &rows[..training] {
        totals
            .iter_mut()
            .zip(row)
            .for_each(|(sum, count)| *sum += count);
    }
    totals
}

fn number(rows: &[Vec<u64>], training: usize) -> (Scores, Vec<Tally>) {
    let totals = totals(rows, training);
    let (all, bins) = (totals.iter().sum::<u64>() as f64, totals.len() as f64);
    let share = |count: &u64| (*count as f64 + 0.5 / bins) / (all.max(1.0) + 0.5);
    let shares: Vec<f64> = totals.iter().map(share).collect();
    let numbers = Numbers::of_shares(&shares);
    let scores = Scores::Numbers(numbers.clone());
    let tally = |row: &Vec<u64>| {
        let mut tally = Tally::empty(&scores);
        row.iter()
            .enumerate()
            .for_each(|(bin, n)| tally.add_number(&numbers, bin, *n));
        tally
    };
    (scores.clone(), rows.iter().map(tally).collect())
}

fn labels(rows: &[Vec<u64>], training: usize) -> (Scores, Vec<Tally>) {
    let totals = totals(rows, training);
    let scores = Scores::of_levels(&totals);
    let Scores::Labels { group, .. } = &scores else {
        unreachable!()
    };
    let alone = |level: usize| rows[..training].iter().filter(|row| row[level] > 0).count() == 1;
    let tally = |(t, row): (usize, &Vec<u64>)| {
        let mut tally = Tally::empty(&scores);
        for (level, n) in row.iter().enumerate() {
            match totals[level] {
                0 => (tally.values, tally.new) = (tally.values + n, tally.new + n),
                _ => tally.add_level(group, level, *n),
            }
            tally.new += if t < training && alone(level) { *n } else { 0 };
        }
        tally
    };
    let tallies = rows.iter().enumerate().map(tally).collect();
    (scores.clone(), tallies)
}

/// Numbers that are not nearly constant.
fn paired(scores: &[Scores], tallies: &[Vec<Tally>], training: usize) -> Vec<u32> {
    let is_paired = |i: &usize| {
        let tallies = &tallies[*i][..training];
        let other: u64 = tallies.iter().map(|tally| tally.other).sum();
        matches!(&scores[*i], Scores::Numbers(_)) && other as f64 >= 10.0 * training as f64
    };
    (0..scores.len())
        .filter(is_paired)
        .map(|i| i as u32)
        .collect()
}

fn stream(inputs: &Value) -> Stream {
    let training = inputs["K"].as_u64().unwrap() as usize;
    let rows = counts(&inputs["rows"]);
    let every_ms = inputs["every_hours"].as_i64().unwrap() * HOUR_MS;
    let start_ms = inputs["start_hour"].as_i64().unwrap() * HOUR_MS;
    let (mut scores, mut tallies) = (Vec::new(), Vec::new());
    for feature in inputs["features"].as_array().unwrap() {
        let bins: Vec<Vec<u64>> = feature["counts"]
            .as_array()
            .unwrap()
            .iter()
            .map(counts)
            .collect();
        let (of, mut windows) = match feature["kind"].as_str().unwrap() {
            "num" => number(&bins, training),
            _ => labels(&bins, training),
        };
        for (t, tally) in windows.iter_mut().enumerate() {
            tally.null = counts(&feature["null"])[t];
            tally.missing = counts(&feature["missing"])[t];
            tally.wrong_type = counts(&feature["wrong"])[t];
        }
        scores.push(of);
        tallies.push(windows);
    }
    let numbers = paired(&scores, &tallies, training);
    let given = &inputs["pairs"];
    let pairs = match given.is_null() {
        true => Vec::new(),
        false => choose_pairs(&numbers, |_, _| 0.0),
    };
    let window = |t: usize| Answers {
        start_ms: start_ms + t as i64 * every_ms,
        rows: rows[t],
        features: tallies.iter().map(|of| of[t].clone()).collect(),
        pairs: match given.is_null() {
            true => Vec::new(),
            false => sums_of_products(&floats(&given[t]), &pairs, rows[t], |feature| {
                tallies[feature as usize][t].mean_location()
            }),
        },
        pair_rows: rows[t],
        shared: false,
    };
    let windows = (0..rows.len()).map(window).collect();
    Stream {
        asking: Asking {
            features: scores.clone(),
            pairs,
        },
        windows,
        training,
        calendar: Calendar {
            every_ms,
            time_zone: Tz::UTC,
        },
        hazard: inputs["max"].as_f64().unwrap() / inputs["per"].as_f64().unwrap(),
    }
}

/// What adds up to these covariances.
fn sums_of_products(
    covariances: &[f64],
    pairs: &[(u32, u32)],
    rows: u64,
    mean: impl Fn(u32) -> f64,
) -> Vec<f64> {
    let of = |(covariance, (a, b)): (&f64, &(u32, u32))| covariance + mean(*a) * mean(*b);
    let products = covariances.iter().zip(pairs).map(of);
    products.map(|product| product * rows as f64).collect()
}

/// Equal to 1e-9 of the number, or of what is so small that it is rounding.
fn close(found: f64, expected: f64, small: f64, what: &str) {
    let near = (found - expected).abs() <= 1e-9 * expected.abs() + small;
    assert!(
        near || found == expected,
        "{what}: {found} instead of {expected}"
    );
}

fn all_close(found: &[f64], expected: &Value, small: f64, what: &str) {
    let expected = floats(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        close(*found, expected, small, &format!("{what} [{i}]"));
    }
}

fn compare_learned(found: &Learned, expected: &Value, what: &str) {
    let one = |found: f64, key: &str| {
        close(
            found,
            expected[key].as_f64().unwrap_or(f64::INFINITY),
            1e-13,
            &format!("{what} {key}"),
        );
    };
    one(found.p, "p");
    one(found.tau2, "tau2");
    one(found.weight, "W");
    one(found.df, "df");
    one(found.deff, "deff");
    one(found.cap, "cap");
    all_close(
        &found.mean,
        &expected["mean"],
        1e-11,
        &format!("{what} mean"),
    );
    all_close(
        &found.post,
        &expected["post"],
        1e-11,
        &format!("{what} post"),
    );
    all_close(
        &found.tails,
        &expected["tails"],
        1e-11,
        &format!("{what} tails"),
    );
    all_close(&found.tail_scale, &expected["c"], 0.0, &format!("{what} c"));
    match expected.get("scale") {
        Some(scale) => all_close(&found.scale, scale, 0.0, &format!("{what} scale")),
        None => one(found.scale.iter().sum(), "scale_sum"),
    }
    let seasons: Vec<usize> = found.seasons.iter().map(|taken| taken.which).collect();
    let theirs = expected["seasons"].as_array().unwrap();
    let theirs: Vec<usize> = theirs
        .iter()
        .map(|taken| taken["which"].as_u64().unwrap() as usize)
        .collect();
    assert_eq!(seasons, theirs, "{what} seasons");
}

#[test]
fn every_number_is_that_of_the_reference() {
    let golden = read();
    for case in golden["streams"].as_array().unwrap() {
        let (name, outputs) = (case["name"].as_str().unwrap(), &case["outputs"]);
        let Stream {
            asking,
            windows,
            training,
            calendar,
            hazard,
        } = stream(&case["inputs"]);
        let limits = vec![usual_limits(); asking.features.len() + 2];
        let rule = Rule::learn(asking, calendar, &windows[..training], hazard, limits).unwrap();

        let questions = outputs["questions"].as_array().unwrap();
        assert_eq!(rule.questions.asked.len(), questions.len(), "{name}");
        for (found, expected) in rule.fit.learned.iter().zip(questions) {
            let question = expected["name"].as_str().unwrap().replace("volume", "rows");
            assert_eq!(found.asked.question.as_str(), question, "{name}");
            let what = format!("{name}: {} {question}", expected["feature"]);
            compare_learned(found, expected, &what);
        }
        compare_live(&rule, &windows[training..], outputs, name);
        all_close(
            &rule.thresholds,
            &outputs["c"],
            0.0,
            &format!("{name}: thresholds"),
        );
        compare_verdicts(&rule, &windows[training..], outputs, name);
    }
}

fn compare_live(rule: &Rule, live: &[Answers], outputs: &Value, name: &str) {
    let values = season_values(&rule.calendar, live);
    let series = rule.questions.series(&rule.asking, live);
    let watch = Watch::new(
        &rule.questions,
        &rule.fit,
        &rule.expected,
        live,
        &values,
        &series,
    );
    for (q, expected) in outputs["evidence"].as_array().unwrap().iter().enumerate() {
        let what = format!("{name}: evidence of question {q}");
        let trail = &watch.trails[q];
        let rows: Vec<Vec<f64>> = (0..live.len())
            .map(|t| rule.evidence_of(&watch, &rule.fit, q, t))
            .collect();
        let effect = |t: usize, k: usize| match rule.lengths.get(k) {
            length if length <= t + 1 => watch.effects.of(trail, q, t + 1 - length, t + 1),
            _ => 0.0,
        };
        let effects: Vec<Vec<f64>> = (0..live.len())
            .map(|t| (0..rule.lengths.len()).map(|k| effect(t, k)).collect())
            .collect();
        let total = |rows: &[Vec<f64>]| rows.iter().flatten().sum::<f64>();
        close(
            total(&rows),
            expected["lnp_sum"].as_f64().unwrap(),
            1e-9,
            &what,
        );
        close(
            total(&effects),
            expected["effect_sum"].as_f64().unwrap(),
            1e-11,
            &what,
        );
        let level: Vec<f64> = (0..rule.lengths.len())
            .map(|k| trail.level(&rule.fit, &rule.lengths, k))
            .collect();
        all_close(&level, &expected["level"], 0.0, &what);
        if let Some(lnp) = expected["lnp"].as_array() {
            for (t, lnp) in lnp.iter().enumerate() {
                all_close(&rows[t], lnp, 1e-10, &format!("{what}, window {t}"));
                all_close(&effects[t], &expected["effect"][t], 1e-12, &what);
            }
        }
    }
}

/// The same verdicts with all windows at hand and with as many as the rule remembers.
fn compare_verdicts(rule: &Rule, live: &[Answers], outputs: &Value, name: &str) {
    let expected: Vec<&str> = outputs["drifted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row.as_str().unwrap())
        .collect();
    for memory in [live.len(), rule.memory() + 1] {
        let mut state = State::default();
        for t in 0..live.len() {
            let seen = &live[(t + 1).saturating_sub(memory)..=t];
            let findings = rule.judge(seen, true, &mut state);
            let stored = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str(&stored).unwrap();
            let place = |finding: &Finding| match finding.subject {
                Subject::Feature(i) => i,
                Subject::Pairs => rule.asking.features.len(),
                Subject::Rows => rule.asking.features.len() + 1,
            };
            let mut drifted = vec!['0'; rule.asking.features.len() + 2];
            for finding in findings.iter().filter(|finding| finding.drifted) {
                drifted[place(finding)] = '1';
            }
            let drifted: String = drifted.into_iter().collect();
            assert_eq!(drifted, expected[t], "{name}: window {t}");
        }
    }
}
