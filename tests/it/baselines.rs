//! Training files become baselines, or an error that says which file, which column, and what would
//! be right.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use driftd::baseline::import::{Imported, Request, import};
use driftd::baseline::save::save;
use driftd::baseline::windows::{Slots, Volume};
use driftd::baseline::{Baseline, SAMPLE_ROWS};
use driftd::monitor::{Kind, TimeUnit};
use driftd::profile::{Bins, Values};
use driftd::store::baselines;
use driftd::window::Spec;

use crate::harness::postgres;

fn request(file: PathBuf) -> Request {
    Request {
        model: "m".into(),
        version: "1".into(),
        files: vec![file],
        time_column: None,
        time_unit: TimeUnit::Ms,
        window_ms: None,
        time_zone: Tz::UTC,
        features: Vec::new(),
        exclude: Vec::new(),
        kinds: [].into(),
        max_levels: 1000,
        max_label_bytes: 256,
        sample_rows: SAMPLE_ROWS,
    }
}

const DAY: Spec = Spec::tumbling(86_400_000, Tz::UTC);

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn read(request: &Request) -> Imported {
    import(request, |_| {}).unwrap()
}

/// With its causes, as the command line shows it.
fn refusal(request: &Request) -> String {
    format!(
        "{:#}",
        anyhow::Error::from(import(request, |_| {}).unwrap_err())
    )
}

/// 40 days of 10 rows.
fn days() -> String {
    let mut text = String::from("at,age,colour,active,code\n");
    for row in 0..400_usize {
        let ms = row / 10 * 86_400_000 + row % 10;
        let age = if row % 50 == 7 {
            String::new()
        } else {
            format!("{}.5", row % 60)
        };
        let colour = ["red", "green", "blue"][row % 3];
        text += &format!("{ms},{age},{colour},{},{}\n", row % 2 == 0, row % 4);
    }
    text
}

/// A baseline of a share of the rows: its windows hold as many rows as those of the stream, and the share
/// decides over the features.
#[test]
fn rows_that_are_not_the_baselines_count_in_its_windows() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "training.csv", &days());
    let mut wanted = request(file);
    wanted.time_column = Some("at".into());
    wanted.window_ms = Some(86_400_000);
    let mut slots = read(&wanted).slots.unwrap();
    let before = slots.windows(&DAY).unwrap();
    let mut others = Volume::of(86_400_000);
    for day in 0..41 {
        for row in 0..30 {
            others.add(day * 86_400_000 + row * 120_000);
        }
    }
    slots.count(&others);
    assert_eq!(others.rows(), 41 * 30);
    let counted = slots.windows(&DAY).unwrap();
    assert_eq!(counted.len(), 41, "the last day has rows of others alone");
    for (counted, before) in counted.iter().zip(&before) {
        assert_eq!(counted.rows, before.rows + 30);
        assert_eq!(counted.features, before.features);
    }
    assert_eq!((counted[40].rows, counted[40].features[0].rows()), (30, 0));
}

#[test]
fn kinds_are_inferred_over_all_rows_and_can_be_overridden() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "training.csv", &days());
    let mut wanted = request(file);
    wanted.time_column = Some("at".into());
    wanted.window_ms = Some(86_400_000);
    wanted.kinds.insert("code".into(), Kind::Categorical);
    let Imported {
        baseline, slots, ..
    } = read(&wanted);
    let kinds: Vec<(&str, Kind)> = baseline
        .layout
        .features
        .iter()
        .map(|f| (f.name.as_str(), f.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("age", Kind::Numeric),
            ("colour", Kind::Categorical),
            ("active", Kind::Boolean),
            ("code", Kind::Categorical)
        ]
    );
    assert_eq!(baseline.profile.rows, 400);
    assert_eq!(baseline.profile.features[0].quality.null, 8);
    assert_eq!(baseline.origin.time_range, Some((0, 39 * 86_400_000 + 9)));
    let slots = slots.unwrap();
    assert_eq!(slots, Slots::decode(&slots.encode().unwrap()).unwrap());
    let windows = slots.windows(&DAY).unwrap();
    assert_eq!(windows.len(), 40);
    for window in &windows {
        assert_eq!(window.rows, 10);
        assert!(window.features.iter().all(|tally| tally.rows() == 10));
    }
    let nulls: u64 = windows.iter().map(|window| window.features[0].null).sum();
    assert_eq!(nulls, 8);
    let Bins::Levels(levels) = &baseline.layout.features[3].bins else {
        panic!("levels")
    };
    assert_eq!(levels.names(), ["0", "1", "2", "3"]);
    let Values::Categorical(code) = &baseline.profile.features[3].values else {
        panic!("labels")
    };
    assert_eq!(code.counts(), [100; 4]);
}

/// A row an hour, from so many hours after the epoch on.
fn hourly(first: i64, hours: i64) -> String {
    let mut text = String::from("at,x\n");
    for hour in first..first + hours {
        text += &format!("{},{}\n", hour * 3_600_000, hour % 7);
    }
    text
}

#[test]
fn training_windows_are_days_of_the_time_zone() {
    let dir = tempfile::tempdir().unwrap();
    let first: DateTime<Utc> = "2026-03-09T23:00:00Z".parse().unwrap();
    let hours = hourly(first.timestamp() / 3_600, 40 * 24 - 1);
    let mut wanted = request(write(dir.path(), "training.csv", &hours));
    wanted.time_column = Some("at".into());
    wanted.time_zone = Tz::Europe__Berlin;
    let slots = read(&wanted).slots.unwrap();
    let windows = slots
        .windows(&Spec::tumbling(86_400_000, wanted.time_zone))
        .unwrap();
    let rows: Vec<u64> = windows.iter().map(|window| window.rows).collect();
    let mut expected = vec![24; 40];
    expected[19] = 23; // 29 March
    assert_eq!(rows, expected);
    assert_eq!(windows[0].start_ms, first.timestamp_millis());
    let last: DateTime<Utc> = "2026-04-17T22:00:00Z".parse().unwrap();
    assert_eq!(windows[39].start_ms, last.timestamp_millis());
}

#[test]
fn slots_add_up_to_the_days_of_the_time_zone_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut wanted = request(write(dir.path(), "training.csv", &hourly(490_000, 40 * 24)));
    wanted.time_column = Some("at".into());
    let zone = Tz::Asia__Kathmandu; // UTC+5:45
    let days = Spec::tumbling(86_400_000, zone);
    let slots = read(&wanted).slots.unwrap();
    assert_eq!(slots.slot_ms, 3_600_000);
    let refused = slots.windows(&days).unwrap_err().to_string();
    assert!(
        refused.contains("slots of 1h") && refused.contains("--time-zone Asia/Kathmandu"),
        "{refused}"
    );
    wanted.time_zone = zone;
    let slots = read(&wanted).slots.unwrap();
    assert_eq!(slots.slot_ms, 900_000);
    assert!(
        slots
            .windows(&days)
            .unwrap()
            .iter()
            .all(|window| window.rows == 24)
    );
    // Shorter windows are counted in UTC.
    wanted.window_ms = Some(6 * 3_600_000);
    assert_eq!(read(&wanted).slots.unwrap().slot_ms, 3_600_000);
}

#[tokio::test]
async fn importing_twice_changes_nothing_and_other_data_is_refused() {
    let db = postgres::fresh().await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "training.csv", &days());
    let mut wanted = request(file);
    wanted.time_column = Some("at".into());
    wanted.window_ms = Some(86_400_000);
    let first = save(&db.pool, read(&wanted)).await.unwrap();
    let again = save(&db.pool, read(&wanted)).await.unwrap();
    assert_eq!((first.new, again.new), (true, false));
    assert_eq!(first.baseline_id, again.baseline_id);
    assert_eq!(first.slot_ms, Some(3_600_000)); // of 15 minutes there would be more than 3,000
    let listed = baselines::list(&db.pool, Some("m")).await.unwrap();
    assert_eq!((listed.len(), listed[0].slot_ms), (1, first.slot_ms));

    let stored = baselines::find(&db.pool, "").await.unwrap().remove(0);
    let mut read_back = Baseline::of_stored(stored).unwrap();
    let mut made = read(&wanted).baseline;
    assert_eq!(read_back.encode().unwrap(), made.encode().unwrap());

    let other = write(dir.path(), "other.csv", &days().replace("red", "pink"));
    let other = request(other);
    let refused = save(&db.pool, read(&other)).await.unwrap_err().to_string();
    assert!(
        refused.contains("version `1` of `m` has baseline"),
        "{refused}"
    );
    assert_eq!(baselines::list(&db.pool, None).await.unwrap().len(), 1);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let broken = write(dir.path(), "broken.csv", "a,b\n1,2\n3\n");
    let told = refusal(&request(broken));
    assert!(
        told.contains("broken.csv") && told.contains("line 3"),
        "{told}"
    );

    let empty = write(dir.path(), "empty.csv", "a,b\n");
    assert!(refusal(&request(empty)).contains("no rows"));

    let text = write(dir.path(), "notes.txt", "a\n");
    assert!(refusal(&request(text)).contains("a training file is .parquet, .csv"));

    let nothing = dir.path().join("missing.parquet");
    assert!(refusal(&request(nothing)).contains("missing.parquet"));

    let no_parquet = write(dir.path(), "not.parquet", "PAR0");
    assert!(refusal(&request(no_parquet)).contains("not.parquet"));
}

#[test]
fn what_is_wrong_with_a_column_is_said_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "training.csv", &days());
    let mut wanted = request(file.clone());
    wanted.time_column = Some("when".into());
    let told = refusal(&wanted);
    assert!(
        told.contains("`when`") && told.contains("at, age, colour"),
        "{told}"
    );

    let mut wanted = request(file.clone());
    wanted.exclude.push("agee".into());
    assert!(refusal(&wanted).contains("`agee` (--exclude)"));

    let mut wanted = request(file.clone());
    wanted.window_ms = Some(1000);
    assert!(refusal(&wanted).contains("--time"));

    let mut wanted = request(file.clone());
    wanted.time_column = Some("colour".into());
    let told = refusal(&wanted);
    assert!(
        told.contains("`colour`") && told.contains("400 of 400"),
        "{told}"
    );

    let mut wanted = request(file);
    wanted.max_levels = 2;
    let told = refusal(&wanted);
    assert!(
        told.contains("`colour`") && told.contains("more than 2 levels"),
        "{told}"
    );
}
