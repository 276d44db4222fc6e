//! What an import says of files and options that are wrong.

use std::path::PathBuf;

use super::SAMPLE_ROWS;
use super::import::{self, Imported, Request};
use crate::monitor::{Kind, TimeUnit};

const HEADER: &str = "event_time,age,plan\n";

/// A request for one CSV file with this content.
struct Csv {
    request: Request,
    _dir: tempfile::TempDir,
}

fn csv(content: &str) -> Csv {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("train.csv");
    std::fs::write(&file, content).unwrap();
    Csv {
        request: Request {
            model: "m".into(),
            version: "1".into(),
            files: vec![file],
            time_column: None,
            time_unit: TimeUnit::Ms,
            window_ms: None,
            time_zone: chrono_tz::Tz::UTC,
            features: Vec::new(),
            exclude: Vec::new(),
            kinds: Default::default(),
            max_levels: 1000,
            max_label_bytes: 256,
            sample_rows: SAMPLE_ROWS,
        },
        _dir: dir,
    }
}

impl Csv {
    fn timed(mut self) -> Self {
        self.request.time_column = Some("event_time".into());
        self
    }

    fn import(&self) -> Result<Imported, import::Error> {
        import::import(&self.request, |_| {})
    }

    /// The error with its causes, as the command line shows it.
    fn refused(&self) -> String {
        format!("{:#}", anyhow::Error::from(self.import().unwrap_err()))
    }
}

#[test]
fn times_are_texts_days_or_numbers() {
    for (time, unit, ms) in [
        ("2026-01-31T08:00:00Z", TimeUnit::Ms, 1_769_846_400_000),
        ("2026-01-31 08:00:00", TimeUnit::Ms, 1_769_846_400_000),
        ("2026-01-31", TimeUnit::Ms, 1_769_817_600_000),
        ("1769846400000", TimeUnit::Ms, 1_769_846_400_000),
        ("1769846400", TimeUnit::S, 1_769_846_400_000),
    ] {
        let mut csv = csv(&format!("{HEADER}{time},31,a\n")).timed();
        csv.request.time_unit = unit;
        let imported = csv.import().unwrap();
        assert_eq!(
            imported.baseline.origin.time_range,
            Some((ms, ms)),
            "{time}"
        );
    }
}

#[test]
fn a_row_without_time_is_named_with_what_it_holds() {
    let told = csv(&format!("{HEADER}2026-01-31,31,a\nyesterday,32,b\n")).timed();
    let told = told.refused();
    assert!(
        told.contains("in 1 of 2 rows, first in row 2: `yesterday`; expected texts such as"),
        "{told}"
    );
}

#[test]
fn a_broken_row_is_named_once() {
    let told = csv(&format!("{HEADER}2026-01-31,31,a\n2026-01-31,32\n")).refused();
    assert!(told.contains("train.csv is broken: "), "{told}");
    assert_eq!(
        told.matches("line 3, expected 3 got 2").count(),
        1,
        "{told}"
    );
}

#[test]
fn files_without_rows_are_named() {
    for content in ["", HEADER] {
        let told = csv(content).refused();
        assert!(told.ends_with("train.csv: no rows"), "{told}");
    }
    let mut gone = csv(HEADER);
    gone.request.files = vec![PathBuf::from("gone.csv")];
    let told = gone.refused();
    assert!(told.starts_with("cannot read gone.csv: "), "{told}");
    assert_eq!(told.matches("os error").count(), 1, "{told}");
}

#[test]
fn options_that_fit_no_column_are_named() {
    let rows = format!("{HEADER}2026-01-31,31,a\n");
    let mut left = csv(&rows).timed();
    left.request.exclude = vec!["age".into(), "plan".into()];
    assert!(
        left.refused()
            .contains("none of the columns (event_time, age, plan) is left")
    );
    let mut kind = csv(&rows);
    kind.request.kinds = [("plan".into(), Kind::Numeric)].into();
    assert!(
        kind.refused()
            .contains("column `plan`: not one of its values is of the kind")
    );
    let mut unknown = csv(&rows);
    unknown.request.time_column = Some("time".into());
    assert!(unknown.refused().contains(
        "column `time` (--time) is not in the training data; it has event_time, age, plan"
    ));
}
