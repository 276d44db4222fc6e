//! Rows to windows: what may depend on the order of a log, and what may not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::Spec;
use super::open::{
    Delta, MonitorPlan, NO_VERSION, OTHER_VERSION, OpenWindows, Version, VersionPlan,
};
use crate::batch::{Builder, Cell, Rows, Shape};
use crate::monitor::Kind;
use crate::profile::sample::RowHash;
use crate::profile::{Bins, FeatureLayout, Grid, Layout, Levels, Profile, encoding};

const SIZE_MS: i64 = 100;

/// A monitor of a number and a label; versions `1` and `2` have a baseline.
fn monitor(every_ms: i64, out_of_orderness_ms: i64, allowed_lateness_ms: i64) -> MonitorPlan {
    let values: Vec<f64> = (0..100).map(f64::from).collect();
    let feature = |name: &str, kind, bins| FeatureLayout {
        name: name.into(),
        kind,
        plain_numbers: false,
        dimension: 0,
        bins,
    };
    let layout = Layout {
        features: vec![
            feature(
                "x",
                Kind::Numeric,
                Bins::Grid(Grid::from_sorted(&values, 0.0, 99.0)),
            ),
            feature(
                "c",
                Kind::Categorical,
                Bins::Levels(Levels::new(vec!["a".into()])),
            ),
        ],
    };
    let plan = Arc::new(VersionPlan::new(
        Some("b".into()),
        Arc::new(layout),
        vec![0, 1],
    ));
    let unknown = VersionPlan::counting();
    MonitorPlan {
        monitor_id: 1,
        name: "m".into(),
        spec: Spec {
            size_ms: SIZE_MS,
            every_ms,
            time_zone: chrono_tz::Tz::UTC,
            out_of_orderness_ms,
            allowed_lateness_ms,
            idle_after_ms: 0,
            max_future_ms: 0,
        },
        starts_at_ms: None,
        clock: 0,
        version: Version::Column(2),
        sample_rows: 7,
        keep_payload: false,
        versions: HashMap::from([("1".into(), Arc::clone(&plan)), ("2".into(), plan)]),
        unknown: Arc::new(unknown),
    }
}

#[derive(Debug, Clone)]
struct Row {
    /// Which of the rows it is, wherever it stands in the log.
    id: i64,
    event_ms: i64,
    x: f64,
    label: &'static str,
    version: Option<&'static str>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let label = prop_oneof![3 => Just("a"), 1 => Just("b"), 1 => Just("c")];
    let version = prop_oneof![
        4 => Just(Some("1")),
        2 => Just(Some("2")),
        1 => Just(Some("7")),
        1 => Just(None),
    ];
    prop::collection::vec((0..2_000i64, -20.0..120.0f64, label, version), 0..300).prop_map(|rows| {
        let row = |(id, (event_ms, x, label, version))| Row {
            id,
            event_ms,
            x,
            label,
            version,
        };
        (0..).zip(rows).map(row).collect()
    })
}

fn batch(rows: &[Row]) -> (Rows, Vec<i64>) {
    let mut builder = Builder::new(
        &[Shape::Number, Shape::Text, Shape::Text],
        rows.len().max(1),
    );
    for (at, row) in rows.iter().enumerate() {
        builder.number(0, at, row.x, Cell::Ok);
        builder.text(1, at, row.label, Cell::Ok);
        if let Some(version) = row.version {
            builder.text(2, at, version, Cell::Ok);
        }
        // The same hash wherever it stands: what the sample holds follows the offset.
        builder.keep(row.id, 1);
    }
    let event_ms: Vec<i64> = rows.iter().map(|row| row.event_ms).collect();
    let rows = Rows {
        batch: builder.finish(),
        event_ms: vec![],
    };
    (rows, event_ms)
}

/// What comes of a log that is read in stretches of these lengths: per window its late rows and its
/// stored profile.
type Windows = BTreeMap<(String, i64), (u64, Vec<u8>)>;

fn read(monitor: &MonitorPlan, log: &[Row], stretches: &[usize], forget: bool) -> Windows {
    let mut open = OpenWindows::default();
    let mut merged: BTreeMap<(String, i64), (u64, Profile)> = BTreeMap::new();
    let mut rest = log;
    let lengths = stretches.iter().copied().chain([usize::MAX]);
    for length in lengths {
        let (stretch, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        let (rows, event_ms) = batch(stretch);
        let hash = RowHash::new(1, 0);
        open.add(monitor, &rows, &event_ms, 0, hash);
        for Delta {
            version,
            start_ms,
            plan,
            late,
            profile,
            ..
        } in open.cut(monitor)
        {
            let key = (version.to_string(), start_ms);
            let empty = || (0, Profile::empty(&plan.layout, monitor.sample_rows));
            let (all_late, all) = merged.entry(key).or_insert_with(empty);
            *all_late += late;
            all.merge(&profile);
        }
        if forget {
            open.forget();
        }
    }
    let stored =
        |(late, mut profile): (u64, Profile)| (late, encoding::encode(&mut profile, true).unwrap());
    merged
        .into_iter()
        .map(|(key, window)| (key, stored(window)))
        .collect()
}

/// Rows in event order, each moved by at most `reach` in time: the order in which they come.
fn disordered(rows: &[Row], reach: i64, moves: &[i64]) -> Vec<Row> {
    let mut placed: Vec<(i64, &Row)> = rows
        .iter()
        .zip(moves.iter().chain(std::iter::repeat(&0)))
        .map(|(row, by)| (row.event_ms + by.rem_euclid(reach + 1), row))
        .collect();
    placed.sort_by_key(|(place, row)| (*place, row.id));
    placed.into_iter().map(|(_, row)| row.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever comes no later than `out_of_orderness` after what it belongs before, counts.
    #[test]
    fn within_the_bound_the_order_of_rows_changes_nothing(
        rows in rows(), reach in 0..250i64, moves in prop::collection::vec(0..250i64, 300),
        cuts in prop::collection::vec(0..80usize, 0..6), allowed in 0..60i64,
        hops in prop_oneof![Just(100i64), Just(50), Just(25)],
    ) {
        let monitor = monitor(hops, reach, allowed);
        let in_order = read(&monitor, &disordered(&rows, 0, &[]), &[], false);
        prop_assert!(in_order.values().all(|(late, _)| *late == 0));
        let moved = disordered(&rows, reach, &moves);
        prop_assert_eq!(&read(&monitor, &moved, &cuts, false), &in_order);
    }

    /// In any order: a row counts where its window was not closed by rows before it, and is late
    /// where it was. Which stretches it is read in, and what a replica forgets, changes nothing.
    #[test]
    fn late_is_what_the_rows_before_have_closed(
        rows in rows(), cuts in prop::collection::vec(0..80usize, 0..8),
        reach in 0..150i64, allowed in 0..60i64,
    ) {
        let monitor = monitor(SIZE_MS, reach, allowed);
        let found = read(&monitor, &rows, &[], false);
        prop_assert_eq!(&read(&monitor, &rows, &cuts, false), &found);
        prop_assert_eq!(&read(&monitor, &rows, &cuts, true), &found);

        let mut expected: BTreeMap<(String, i64), (u64, u64)> = BTreeMap::new();
        let mut greatest = i64::MIN / 2;
        for row in &rows {
            let start = row.event_ms - row.event_ms % SIZE_MS;
            let version = match row.version {
                None => NO_VERSION,
                Some("1" | "2") => row.version.unwrap(),
                Some(_) => OTHER_VERSION,
            };
            let (counted, late) = expected.entry((version.into(), start)).or_default();
            if start + SIZE_MS + allowed <= greatest - reach {
                *late += 1;
            } else {
                *counted += 1;
            }
            greatest = greatest.max(row.event_ms);
        }
        let found: BTreeMap<_, _> = found.into_iter().map(|(key, (late, bytes))| {
            let layout = &monitor.version(&key.0).layout;
            let counted = encoding::decode(&bytes, layout).unwrap().rows;
            (key, (counted, late))
        }).collect();
        prop_assert_eq!(found, expected);
    }
}

/// However many versions a sender names, they take the room of one, and each row counts.
#[test]
fn versions_without_a_baseline_count_together() {
    let monitor = monitor(SIZE_MS, 0, 0);
    let names: Vec<String> = (0..10_000).map(|i| format!("v{i}\0")).collect();
    let mut builder = Builder::new(&[Shape::Number, Shape::Text, Shape::Text], names.len() + 2);
    for (row, name) in names
        .iter()
        .map(String::as_str)
        .chain(["1", OTHER_VERSION])
        .enumerate()
    {
        builder.text(2, row, name, Cell::Ok);
        builder.keep(i64::try_from(row).unwrap(), 1);
    }
    let rows = Rows {
        batch: builder.finish(),
        event_ms: vec![],
    };
    let mut open = OpenWindows::default();
    let event_ms = vec![5; names.len() + 2];
    let added = open.add(&monitor, &rows, &event_ms, 0, RowHash::new(1, 0));
    assert_eq!(added.other, 10_001);
    assert_eq!(open.len(), 2);
    let deltas = open.cut(&monitor);
    let found: Vec<_> = deltas
        .iter()
        .map(|delta| (&*delta.version, delta.profile.rows, &delta.plan.baseline_id))
        .collect();
    assert_eq!(
        found,
        [(OTHER_VERSION, 10_001, &None), ("1", 1, &Some("b".into()))]
    );
}
