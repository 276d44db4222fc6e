//! `driftd check` as a batch pipeline calls it: files in, verdict and exit code out.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::postgres;

/// Rows of a small model: two numbers, a label, an integer code.
struct Rows {
    x: Vec<f64>,
    y: Vec<f64>,
    label: Vec<&'static str>,
    code: Vec<i64>,
}

/// `shift` is added to x; `correlation` ties y to x, whatever the shift.
fn rows(count: usize, seed: u64, shift: f64, correlation: f64) -> Rows {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut normal = || -> f64 { StandardNormal.sample(&mut random) };
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (a, b) = (normal(), normal());
        x.push(a + shift);
        y.push(correlation * a + (1.0 - correlation * correlation).sqrt() * b);
    }
    let mut pick = |n: usize| random.random_range(0..n);
    Rows {
        label: (0..count)
            .map(|_| ["red", "green", "blue"][pick(3)])
            .collect(),
        code: (0..count).map(|_| [0, 1, 2, 3][pick(4)]).collect(),
        x,
        y,
    }
}

fn batch(rows: &Rows) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("x", Arc::new(Float64Array::from(rows.x.clone()))),
        ("y", Arc::new(Float64Array::from(rows.y.clone()))),
        ("label", Arc::new(StringArray::from(rows.label.clone()))),
        ("code", Arc::new(Int64Array::from(rows.code.clone()))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn parquet(path: &Path, batch: &RecordBatch) {
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn csv(path: &Path, rows: &Rows) {
    let mut text = String::from("x,y,label,code\n");
    for i in 0..rows.x.len() {
        text += &format!(
            "{},{},{},{}\n",
            rows.x[i], rows.y[i], rows.label[i], rows.code[i]
        );
    }
    std::fs::write(path, text).unwrap();
}

fn ndjson(rows: &Rows) -> String {
    let line = |i: usize| {
        format!(
            "{{\"x\":{},\"y\":{},\"label\":\"{}\",\"code\":{}}}\n",
            rows.x[i], rows.y[i], rows.label[i], rows.code[i]
        )
    };
    (0..rows.x.len()).map(line).collect()
}

/// Writes rows to a file.
type Write = fn(&Path, &Rows);

fn ipc(path: &Path, batch: &RecordBatch) {
    let mut writer = FileWriter::try_new(File::create(path).unwrap(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn parquet(&self, name: &str, rows: &Rows) -> PathBuf {
        let path = self.path(name);
        parquet(&path, &batch(rows));
        path
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {} {}", self.out, self.err))
    }

    fn feature(&self, name: &str) -> Value {
        let json = self.json();
        let features = json["features"].as_array().unwrap().iter();
        let mut named = features.filter(|feature| feature["name"] == name);
        named
            .next()
            .unwrap_or_else(|| panic!("no {name}: {json}"))
            .clone()
    }
}

fn check(arguments: &[&str], standard_input: Option<&str>) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_driftd"))
        .arg("check")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if let Some(text) = standard_input {
        stdin.write_all(text.as_bytes()).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn compare(reference: &Path, current: &Path, more: &[&str]) -> Said {
    let mut arguments = vec!["--reference", reference.to_str().unwrap()];
    arguments.extend(["--current", current.to_str().unwrap()]);
    arguments.extend(more);
    check(&arguments, None)
}

#[test]
fn the_same_law_is_stable_and_a_shift_has_drifted() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(3_000, 1, 0.0, 0.0));
    let quiet = place.parquet("quiet.parquet", &rows(1_000, 2, 0.0, 0.0));
    let said = compare(&reference, &quiet, &["--output", "json"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert_eq!(said.json()["verdict"], "stable");
    assert_eq!(said.json()["rows"]["reference"], 3_000);

    let shifted = place.parquet("shifted.parquet", &rows(1_000, 3, 0.4, 0.0));
    let said = compare(&reference, &shifted, &["--output", "json"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let x = said.feature("x");
    assert_eq!(x["drifted"], true);
    let ks = x["scores"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["test"] == "ks")
        .unwrap();
    assert!(
        ks["p_adjusted"].as_f64().unwrap() < 1e-6 && ks["drifted"] == true,
        "{ks}"
    );
    assert!(ks["p_adjusted"].as_f64() >= ks["p_value"].as_f64(), "{ks}");
    let contributions = x["contributions"].as_array().unwrap();
    assert!(contributions[0]["window_share"] != contributions[0]["reference_share"]);
    assert_eq!(said.feature("label")["drifted"], false);

    let table = compare(&reference, &shifted, &[]);
    let lines: Vec<&str> = table.out.lines().collect();
    assert!(
        lines[1].starts_with("x ") && lines[1].ends_with("drifted"),
        "{}",
        table.out
    );
    assert!(
        lines
            .last()
            .unwrap()
            .starts_with("DRIFTED: 1 of 4 features"),
        "{}",
        table.out
    );
}

#[test]
fn every_format_says_the_same() {
    let place = Place::new();
    let (reference, current) = (rows(1_500, 1, 0.0, 0.0), rows(800, 2, 0.2, 0.0));
    let as_parquet = |name: &str, rows: &Rows| place.parquet(&format!("{name}.parquet"), rows);
    let first = compare(
        &as_parquet("r", &reference),
        &as_parquet("c", &current),
        &["--output", "json"],
    );
    let make: [(&str, Write); 3] = [
        ("csv", csv),
        ("ndjson", |path, rows| {
            std::fs::write(path, ndjson(rows)).unwrap()
        }),
        ("arrow", |path, rows| ipc(path, &batch(rows))),
    ];
    for (extension, write) in make {
        let paths = ["r", "c"].map(|name| place.path(&format!("{name}.{extension}")));
        write(&paths[0], &reference);
        write(&paths[1], &current);
        let said = compare(&paths[0], &paths[1], &["--output", "json"]);
        assert_eq!(
            said.json()["features"],
            first.json()["features"],
            "{extension}"
        );
        assert_eq!(said.code, first.code, "{extension}");
    }
    let piped = check(
        &[
            "--reference",
            place.path("r.csv").to_str().unwrap(),
            "--output",
            "json",
        ],
        Some(&ndjson(&current)),
    );
    assert_eq!(
        piped.json()["features"],
        first.json()["features"],
        "{}",
        piped.err
    );
}

#[test]
fn a_correlation_that_changes_alone_is_found() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(4_000, 1, 0.0, 0.0));
    let current = place.parquet("current.parquet", &rows(2_000, 2, 0.0, 0.8));
    let said = compare(&reference, &current, &["--output", "json"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    for name in ["x", "y", "label", "code"] {
        assert_eq!(said.feature(name)["drifted"], false, "{name}");
    }
    let joint = &said.json()["joint"][0];
    assert_eq!(
        (&joint["test"], &joint["drifted"]),
        (&"domain_classifier".into(), &true.into())
    );
    let apart = joint["contributions"][0]["bin"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(apart.contains('x') && apart.contains('y'), "{apart}");
}

#[test]
fn too_little_to_tell_is_neither_stable_nor_drifted() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(2_000, 1, 0.0, 0.0));
    let few = place.parquet("few.parquet", &rows(20, 2, 0.0, 0.0));
    let said = compare(&reference, &few, &["--output", "json"]);
    assert_eq!(
        (said.code, said.json()["verdict"].as_str()),
        (2, Some("too_few_rows"))
    );
    let none = place.text("none.csv", "x,y,label,code\n");
    let said = compare(&reference, &none, &["--output", "json"]);
    assert_eq!(said.code, 2, "{}{}", said.out, said.err);
    let scores = said.feature("x")["scores"].clone();
    let ks = scores
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["test"] == "ks")
        .unwrap()
        .clone();
    assert_eq!(
        (&ks["reason"], &ks["statistic"]),
        (&"too_few_rows".into(), &Value::Null)
    );
}

#[test]
fn one_row_on_either_side_is_no_verdict() {
    let place = Place::new();
    let many = place.parquet("many.parquet", &rows(1_000, 1, 0.0, 0.0));
    let one = place.parquet("one.parquet", &rows(1, 2, 3.0, 0.0));
    for (reference, current) in [(&one, &many), (&many, &one)] {
        for tests in ["null_rate", "wasserstein"] {
            let said = compare(reference, current, &["--tests", tests]);
            assert_eq!(said.code, 2, "{tests}: {}", said.out);
        }
    }
}

#[test]
fn whoever_stops_reading_still_gets_the_exit_code() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(1_000, 1, 0.0, 0.0));
    let shifted = place.parquet("shifted.parquet", &rows(1_000, 2, 1.0, 0.0));
    let mut child = Command::new(env!("CARGO_BIN_EXE_driftd"))
        .args(["check", "--output", "json", "--tests", "all", "--reference"])
        .arg(&reference)
        .arg("--current")
        .arg(&shifted)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let place = Place::new();
    let twice = place.text("twice.csv", "a,a,b\n1,2,3\n");
    let said = compare(&twice, &twice, &[]);
    assert!(said.code == 2 && said.err.contains("`a`"), "{}", said.err);
    let marker = place.text("marker.csv", "(joint),b\n1,2\n");
    let said = compare(&marker, &marker, &[]);
    assert!(
        said.code == 2 && said.err.contains("(joint)"),
        "{}",
        said.err
    );
}

#[test]
fn named_tests_take_the_limits_of_the_settings() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(1_000, 1, 0.0, 0.0));
    let shifted = place.parquet("shifted.parquet", &rows(1_000, 2, 0.3, 0.0));
    let settings = place.text("d.toml", "[defaults.tests]\nks = { effect = 0.9 }\n");
    let config = ["--config", settings.to_str().unwrap(), "--tests", "ks"];
    assert_eq!(compare(&reference, &shifted, &config).code, 0);
    assert_eq!(compare(&reference, &shifted, &["--tests", "ks"]).code, 1);
    for wrong in ["row_volume", "ks,ks", "rule"] {
        let said = compare(&reference, &shifted, &["--tests", wrong]);
        assert!(
            said.code == 2 && said.err.contains("--tests"),
            "{}",
            said.err
        );
    }
}

#[test]
fn other_columns_are_listed_and_another_kind_is_refused() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(1_000, 1, 0.0, 0.0));
    let mut other = batch(&rows(1_000, 2, 0.0, 0.0));
    other.remove_column(1);
    let schema = Schema::new(
        other
            .schema()
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .chain([Field::new("fresh", DataType::Float64, true)])
            .collect::<Vec<_>>(),
    );
    let mut columns = other.columns().to_vec();
    columns.push(Arc::new(Float64Array::from(vec![1.0; 1_000])));
    let other = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let path = place.path("other.parquet");
    parquet(&path, &other);
    let said = compare(&reference, &path, &["--output", "json"]);
    let differences = &said.json()["differences"];
    assert_eq!(differences["missing"], serde_json::json!(["y"]));
    assert_eq!(differences["new"], serde_json::json!(["fresh"]));
    assert_eq!(said.code, 1, "a feature that is gone is drift");
    assert_eq!(said.feature("y")["quality"]["current"]["missing"], 1_000);
    let table = compare(&reference, &path, &[]);
    assert!(
        table.out.contains("not in the current data: y"),
        "{}",
        table.out
    );

    let labels: ArrayRef = Arc::new(StringArray::from(vec!["a"; 1_000]));
    let texts = RecordBatch::try_from_iter([("x", labels)]).unwrap();
    let path = place.path("texts.parquet");
    parquet(&path, &texts);
    let said = compare(&reference, &path, &["--features", "x"]);
    assert_eq!(said.code, 2);
    for word in ["column `x`", "numeric", "text", "--exclude x"] {
        assert!(said.err.contains(word), "{word}: {}", said.err);
    }
}

#[test]
fn text_in_a_column_of_numbers_is_counted_as_type_errors() {
    let place = Place::new();
    let reference = place.path("reference.csv");
    csv(&reference, &rows(1_000, 1, 0.0, 0.0));
    let mut broken = std::fs::read_to_string(&reference).unwrap();
    for i in 0..50 {
        broken += &format!("n/a,0.{i},red,1\n");
    }
    let current = place.text("current.csv", &broken);
    for (reference, current, side) in [
        (&reference, &current, "current"),
        (&current, &reference, "reference"),
    ] {
        let said = compare(reference, current, &["--output", "json"]);
        let x = said.feature("x");
        assert_eq!(x["kind"], "numeric", "{}", said.err);
        assert_eq!(x["quality"][side]["type_errors"], 50, "{x}");
        assert_eq!(x["drifted"], true, "one row in twenty without a value");
    }
}

#[test]
fn integer_codes_are_labels_if_the_user_says_so() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(1_000, 1, 0.0, 0.0));
    let current = place.parquet("current.parquet", &rows(1_000, 2, 0.0, 0.0));
    let said = compare(
        &reference,
        &current,
        &["--output", "json", "--categorical", "code"],
    );
    assert_eq!(said.feature("code")["kind"], "categorical", "{}", said.err);
    let twice = ["--categorical", "code", "--numeric", "code"];
    let said = compare(&reference, &current, &twice);
    assert!(
        said.code == 2 && said.err.contains("code is named twice"),
        "{}",
        said.err
    );
    let said = compare(&reference, &current, &["--numeric", "cdoe"]);
    assert!(
        said.code == 2 && said.err.contains("`cdoe`"),
        "{}",
        said.err
    );
    let said = compare(&reference, &current, &["--tests", "kss"]);
    assert!(said.code == 2 && said.err.contains("`kss`"), "{}", said.err);
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_place() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(1_000, 1, 0.0, 0.0));
    let cut = place.path("cut.parquet");
    let bytes = std::fs::read(&reference).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let ragged = place.text("ragged.csv", "x,y,label,code\n1,2,red,3\n1,2\n");
    let broken = place.text("broken.ndjson", "{\"x\":1}\n{\"x\":\n");
    let cases: [(&Path, &[&str]); 4] = [
        (&cut, &["cut.parquet"]),
        (&ragged, &["ragged.csv", "line 3"]),
        (&broken, &["broken.ndjson", "2"]),
        (Path::new("nowhere.parquet"), &["nowhere.parquet"]),
    ];
    for (current, words) in cases {
        let said = compare(&reference, current, &[]);
        assert_eq!(said.code, 2, "{}", said.err);
        for word in words {
            assert!(said.err.contains(word), "{word}: {}", said.err);
        }
    }
}

#[test]
fn all_tests_are_computed_and_those_of_the_settings_decide() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(1_000, 1, 0.0, 0.0));
    let current = place.parquet("current.parquet", &rows(500, 2, 0.0, 0.0));
    let said = compare(
        &reference,
        &current,
        &["--output", "json", "--tests", "all"],
    );
    let names = |name: &str| -> Vec<String> {
        let scores = said.feature(name)["scores"].clone();
        let scores = scores.as_array().unwrap().iter();
        scores
            .map(|s| s["test"].as_str().unwrap().to_owned())
            .collect()
    };
    for test in [
        "ks",
        "cvm",
        "anderson",
        "mann_whitney",
        "welch_t",
        "epps_singleton",
        "kuiper",
    ] {
        assert!(names("x").iter().any(|name| name == test), "{test}");
    }
    for test in [
        "chi2",
        "chi2_yates",
        "g",
        "fisher",
        "cramers_v",
        "psi",
        "js",
        "kl",
        "tv",
    ] {
        assert!(names("label").iter().any(|name| name == test), "{test}");
    }
    assert_eq!(said.json()["joint"].as_array().unwrap().len(), 3);
    assert_eq!(said.code, 0, "{}", said.out);
}

#[tokio::test]
async fn a_stored_baseline_is_as_good_as_its_file() {
    let place = Place::new();
    let reference = place.parquet("reference.parquet", &rows(2_000, 1, 0.0, 0.0));
    let shifted = place.parquet("shifted.parquet", &rows(1_000, 2, 0.4, 0.0));
    let db = postgres::fresh().await;
    let url = format!("postgres.url={}", db.url);
    let import = Command::new(env!("CARGO_BIN_EXE_driftd"))
        .args(["baseline", "import", "--output", "json", "--set", &url])
        .args(["--model", "m", "--version", "1", "--from"])
        .arg(&reference)
        .output()
        .unwrap();
    let imported: Value = serde_json::from_slice(&import.stdout).unwrap();
    let id = &imported["baseline_id"].as_str().unwrap()[..12];
    let current = shifted.to_str().unwrap();
    let stored = ["--baseline", id, "--current", current, "--set", &url];
    let said = check(&[&stored[..], &["--output", "json"]].concat(), None);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let from_file = compare(&reference, &shifted, &["--output", "json"]);
    assert_eq!(said.json()["features"], from_file.json()["features"]);
    let one = ["--features", "x", "--output", "json"];
    let some = check(&[&stored[..], &one].concat(), None);
    assert_eq!(some.json()["features"].as_array().unwrap().len(), 1);
    assert_eq!(some.code, 1, "{}{}", some.out, some.err);
    for (more, word) in [
        (["--features", "nothing"], "nothing"),
        (["--numeric", "code"], "--numeric"),
    ] {
        let said = check(&[&stored[..], &more].concat(), None);
        assert!(said.code == 2 && said.err.contains(word), "{}", said.err);
    }
    let unknown = check(
        &["--baseline", "ffff", "--current", current, "--set", &url],
        None,
    );
    assert!(
        unknown.code == 2 && unknown.err.contains("ffff"),
        "{}",
        unknown.err
    );
}
