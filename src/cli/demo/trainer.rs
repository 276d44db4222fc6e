//! The demo's trainer where there is no scikit-learn: logistic regression by gradient descent. Will a
//! flight arrive 15 minutes late or more?
//!
//! It is a command like any user's: `driftd worker --fetch -- driftd demo-trainer`. A hidden one, since a
//! real model is trained with something else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::settings::environment;

/// Trying again does not help.
const TOO_FEW: u8 = 65;
const NUMBERS: [&str; 8] = [
    "sched_dep_min",
    "distance",
    "temp",
    "dewp",
    "humid",
    "wind_speed",
    "precip",
    "visib",
];
const LABELS: [&str; 4] = ["carrier", "origin", "dest", "dow"];
const STEPS: usize = 150;
const RATE: f64 = 1.0;
const LATE_MINUTES: f64 = 15.0;

/// A flight with what is known before it leaves, and whether it was late.
struct Flight {
    at_ms: i64,
    numbers: [Option<f64>; NUMBERS.len()],
    labels: [String; LABELS.len()],
    late: bool,
}

/// The model: what is written as its artifact.
#[derive(Debug, Serialize)]
struct Model {
    /// Mean and deviation of each number.
    scales: Vec<(f64, f64)>,
    /// Places of the labels, `carrier=UA`, among the weights.
    labels: BTreeMap<String, usize>,
    /// Of the numbers, then the labels, then the constant.
    weights: Vec<f64>,
}

/// Trains on what the worker has fetched.
///
/// # Errors
/// A file is missing, or is not what a worker gives.
pub fn run() -> anyhow::Result<ExitCode> {
    let path = |name: &str| {
        let found = environment().find(|(known, _)| known == name);
        let text = found
            .with_context(|| format!("{name} is not set: this runs under `driftd worker --fetch`"));
        text.map(|(_, value)| PathBuf::from(value))
    };
    let job: Value = serde_json::from_slice(&std::fs::read(path("DRIFTD_JOB_FILE")?)?)?;
    let data = std::fs::read(path("DRIFTD_DATA_FILE")?)?;
    let mut flights = flights(&data, &job["training_data"])?;
    if flights.len() < 1000 {
        eprintln!("{} flights are too few", flights.len());
        return Ok(ExitCode::from(TOO_FEW));
    }
    flights.sort_by_key(|flight| flight.at_ms);
    let (train, held_out) = flights.split_at(flights.len() * 4 / 5);
    let model = Model::fit(train);
    let (auc, log_loss) = model.measure(held_out);
    println!(
        "trained on {} flights, held out {}: auc {auc:.3}",
        train.len(),
        held_out.len()
    );
    let result_file = path("DRIFTD_RESULT_FILE")?;
    let version = job["version"]
        .as_str()
        .and_then(|text| text.parse::<u32>().ok());
    let version = version.unwrap_or_default() + 1;
    let artifacts = path("ARTIFACTS").unwrap_or_else(|_| beside(&result_file));
    let artifact = artifacts.join(format!("flight-delay-{version}.json"));
    std::fs::write(&artifact, serde_json::to_vec(&model)?)?;
    let suggested = &job["training_data"];
    let result = json!({
        "version": version.to_string(),
        "artifact_uri": format!("file://{}", artifact.display()),
        "metrics": {"auc": auc, "log_loss": log_loss},
        "training_data": {
            "topic": suggested["topic"], "offsets": suggested["offsets"],
            "from": suggested["from"], "to": suggested["to"],
        },
        "code": concat!("driftd ", env!("CARGO_PKG_VERSION"), " demo-trainer"),
        "baseline": true, // from the suggested offset ranges
    });
    std::fs::write(&result_file, result.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn beside(file: &Path) -> PathBuf {
    file.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The flights that the job means: of its time range, with a known arrival.
fn flights(data: &[u8], suggested: &Value) -> anyhow::Result<Vec<Flight>> {
    let time = |key: &str| -> anyhow::Result<i64> {
        let text = suggested[key]
            .as_str()
            .with_context(|| format!("the job suggests no `{key}`"))?;
        Ok(text.parse::<DateTime<Utc>>()?.timestamp_millis())
    };
    let range = time("from")?..time("to")?;
    let lines = data.split(|byte| *byte == b'\n');
    let parsed = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    Ok(parsed
        .filter_map(|message| Flight::of(&message))
        .filter(|flight| range.contains(&flight.at_ms))
        .collect())
}

impl Flight {
    fn of(message: &Value) -> Option<Self> {
        let label = |name: &str| match &message[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(Self {
            at_ms: message["event_time"].as_i64()?,
            numbers: NUMBERS.map(|name| message[name].as_f64()),
            labels: LABELS.map(label),
            late: message["arr_delay"].as_f64()? >= LATE_MINUTES,
        })
    }
}

impl Model {
    fn fit(flights: &[Flight]) -> Self {
        let scales: Vec<(f64, f64)> = (0..NUMBERS.len()).map(|i| scale(flights, i)).collect();
        let mut labels = BTreeMap::new();
        for flight in flights {
            for name in names(flight) {
                let next = labels.len();
                labels.entry(name).or_insert(next);
            }
        }
        let mut model = Self {
            weights: vec![0.0; NUMBERS.len() + labels.len() + 1],
            scales,
            labels,
        };
        let inputs: Vec<Vec<(usize, f64)>> = flights.iter().map(|one| model.input(one)).collect();
        let mut velocity = vec![0.0; model.weights.len()];
        for _ in 0..STEPS {
            let mut gradient = vec![0.0; model.weights.len()];
            for (input, flight) in inputs.iter().zip(flights) {
                let error = model.score(input) - f64::from(u8::from(flight.late));
                for (place, value) in input {
                    gradient[*place] += error * value;
                }
            }
            let rows = flights.len() as f64;
            for ((weight, speed), slope) in
                model.weights.iter_mut().zip(&mut velocity).zip(&gradient)
            {
                *speed = 0.9 * *speed - RATE * slope / rows;
                *weight += *speed;
            }
        }
        model
    }

    /// Which weights a flight has, and how much of each.
    fn input(&self, flight: &Flight) -> Vec<(usize, f64)> {
        let numbers = flight.numbers.iter().zip(&self.scales).enumerate();
        let mut input: Vec<(usize, f64)> = numbers
            .filter_map(|(place, (number, (mean, deviation)))| {
                number.map(|number| (place, (number - mean) / deviation))
            })
            .collect();
        let labels = names(flight).into_iter();
        let known = labels.filter_map(|name| self.labels.get(&name));
        input.extend(known.map(|place| (NUMBERS.len() + place, 1.0)));
        input.push((self.weights.len() - 1, 1.0));
        input
    }

    /// How probable it is that the flight is late.
    fn score(&self, input: &[(usize, f64)]) -> f64 {
        let sum: f64 = input
            .iter()
            .map(|(place, value)| self.weights[*place] * value)
            .sum();
        1.0 / (1.0 + (-sum).exp())
    }

    /// Area under the ROC curve, and mean log loss.
    fn measure(&self, flights: &[Flight]) -> (f64, f64) {
        let mut scored: Vec<(f64, bool)> = flights
            .iter()
            .map(|flight| (self.score(&self.input(flight)), flight.late))
            .collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut on_time, mut pairs, mut loss) = (0.0, 0.0, 0.0);
        for (score, late) in &scored {
            let right = if *late { *score } else { 1.0 - score };
            loss -= right.max(1e-12).ln();
            if *late {
                pairs += on_time;
            } else {
                on_time += 1.0;
            }
        }
        let late = scored.len() as f64 - on_time;
        (
            pairs / (on_time * late).max(1.0),
            loss / scored.len().max(1) as f64,
        )
    }
}

fn names(flight: &Flight) -> Vec<String> {
    let labels = LABELS.iter().zip(&flight.labels);
    labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// Mean and deviation of a number, of the flights that have it.
fn scale(flights: &[Flight], place: usize) -> (f64, f64) {
    let values: Vec<f64> = flights
        .iter()
        .filter_map(|flight| flight.numbers[place])
        .collect();
    let rows = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / rows;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / rows;
    (mean, variance.sqrt().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_learns_what_makes_flights_late() {
        let flights: Vec<Flight> = (0..2000_u32)
            .map(|n| Flight {
                at_ms: n.into(),
                numbers: [Some(f64::from(n % 100)); NUMBERS.len()],
                labels: LABELS.map(|name| format!("{name}{}", n % 3)),
                late: n % 100 >= 60 || (n % 3 == 0 && n % 7 == 0),
            })
            .collect();
        let (train, held_out) = flights.split_at(1600);
        let (auc, log_loss) = Model::fit(train).measure(held_out);
        assert!(auc > 0.9, "{auc}");
        assert!(log_loss < 0.5, "{log_loss}");
    }
}
