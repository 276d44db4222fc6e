//! Merge laws, and stored forms that come back as they were.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use proptest::prelude::*;

use super::encoding::{decode, decode_layout, encode, encode_layout};
use super::sample::{Provenance, RowHash};
use super::*;
use crate::batch::{Builder, Cell, Shape};

fn layout() -> Layout {
    let values: Vec<f64> = (0..500).map(|i| f64::from(i) * 0.37 - 50.0).collect();
    let grid = Grid::from_sorted(&values, values[0], values[499]);
    let levels = Levels::new(vec!["a".into(), "b".into()]);
    let norms: Vec<f64> = (0..300).map(|i| f64::from(i) * 0.5).collect();
    let norms = Grid::from_sorted(&norms, norms[0], norms[299]);
    let feature = |name: &str, kind, bins| FeatureLayout {
        name: name.into(),
        kind,
        plain_numbers: false,
        dimension: if kind == Kind::Embedding { 3 } else { 0 },
        bins,
    };
    Layout {
        features: vec![
            feature("x", Kind::Numeric, Bins::Grid(grid)),
            feature("c", Kind::Categorical, Bins::Levels(levels)),
            feature("e", Kind::Embedding, Bins::Grid(norms)),
        ],
    }
}

#[derive(Debug, Clone)]
struct Row {
    partition: i32,
    offset: i64,
    x: Option<f64>,
    c: Option<String>,
    e: Vec<f64>,
}

const SHAPES: [Shape; 3] = [Shape::Number, Shape::Text, Shape::Vector(3)];
const COLUMNS: [usize; 3] = [0, 1, 2];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let x = prop_oneof![
        4 => (-200.0..200.0f64).prop_map(Some),
        1 => Just(None),
        1 => prop_oneof![Just(1e308), Just(-1e308), Just(f64::NAN), Just(f64::INFINITY)].prop_map(Some),
    ];
    let c = prop_oneof![
        3 => prop_oneof![Just("a"), Just("b")].prop_map(|s: &str| Some(s.to_owned())),
        1 => "[c-z]{1,2}".prop_map(Some),
        1 => Just(None),
    ];
    let e = prop_oneof![
        3 => prop::collection::vec(-90.0..90.0f64, 3),
        1 => prop::collection::vec(-1.0..1.0f64, 0..5),
        1 => Just(vec![1e308, 1e308, 0.0]),
        1 => Just(vec![0.0, f64::NAN, 1.0]),
    ];
    prop::collection::vec((0..3i32, x, c, e), 0..400).prop_map(|rows| {
        rows.into_iter()
            .enumerate()
            .map(|(i, (partition, x, c, e))| Row {
                partition,
                offset: i64::try_from(i).unwrap(),
                x,
                c,
                e,
            })
            .collect()
    })
}

/// Profiles rows that may come from several partitions, in batches of one partition.
fn profile(layout: &Layout, rows: &[Row], k: usize) -> Profile {
    let mut profile = Profile::empty(layout, k);
    for partition in 0..3 {
        let mut builder = Builder::new(&SHAPES, 8);
        let mut count = 0;
        for row in rows.iter().filter(|row| row.partition == partition) {
            builder.reserve(count);
            match row.x {
                Some(x) => builder.number(0, count, x, Cell::Ok),
                None => builder.absent(0, count, Cell::Null),
            }
            if let Some(c) = &row.c {
                builder.text(1, count, c, Cell::Ok);
            }
            if !row.e.is_empty() {
                builder.vector(2, count, &row.e);
            }
            builder.keep(row.offset, 1);
            count += 1;
        }
        let batch = builder.finish();
        let selected = Selection::all(&batch);
        profile.add(layout, &batch, &COLUMNS, selected);
        let event_ms = vec![7; count];
        let from = Provenance {
            partition,
            hash: RowHash::new(1, partition),
            event_ms: &event_ms,
        };
        let schema = sample::schema(layout);
        let sample = &mut profile.sample;
        sample.add(&schema, &batch, &COLUMNS, selected, from);
    }
    profile
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_parts_equals_profiling_all_at_once(
        rows in rows(), cuts in prop::collection::vec(0..400usize, 0..6), k in 1..60usize,
        order in any::<u64>(),
    ) {
        let layout = layout();
        let mut whole = profile(&layout, &rows, k);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).collect();
        cuts.extend([0, rows.len()]);
        cuts.sort_unstable();
        let mut parts: Vec<Profile> =
            cuts.windows(2).map(|w| profile(&layout, &rows[w[0]..w[1]], k)).collect();
        // Any order, and through the stored form.
        let turn = usize::try_from(order % parts.len() as u64).unwrap();
        parts.rotate_left(turn);
        let mut merged = Profile::empty(&layout, k);
        for part in &mut parts {
            let stored = encode(part, true).unwrap();
            merged.merge(&decode(&stored, &layout).unwrap());
        }
        prop_assert_eq!(encode(&mut merged, true).unwrap(), encode(&mut whole, true).unwrap());
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_panic(
        rows in rows(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let layout = layout();
        let mut stored = encode(&mut profile(&layout, &rows, 10), false).unwrap();
        let place = at.index(stored.len());
        stored[place] = byte;
        let _ = decode(&stored, &layout);
        let _ = decode(&stored[..cut.index(stored.len())], &layout);
    }
}

#[test]
fn a_layout_comes_back_as_it_was() {
    let layout = layout();
    let bytes = encode_layout(&layout);
    assert_eq!(decode_layout(&bytes).unwrap(), layout);
    assert!(decode_layout(&bytes[..bytes.len() - 1]).is_err());
    assert!(
        decode_layout(&[9])
            .unwrap_err()
            .to_string()
            .contains("version 9")
    );
}

#[test]
fn a_stretch_that_follows_another_keeps_only_rows_that_can_still_matter() {
    let layout = layout();
    let rows: Vec<Row> = (0..2000)
        .map(|i| Row {
            partition: 0,
            offset: i,
            x: Some(i as f64),
            c: None,
            e: vec![i as f64; 3],
        })
        .collect();
    let mut whole = profile(&layout, &rows, 50);
    let mut first = profile(&layout, &rows[..1000], 50);
    let taken = first.sample.take();
    let mut merged = Profile {
        sample: taken,
        ..first.clone()
    };
    // The second stretch starts from what the first has in mind.
    let mut second = profile(&layout, &rows[1000..], 50);
    second.sample.take();
    let mut rest = Profile {
        sample: first.sample,
        ..second
    };
    let mut builder = Builder::new(&SHAPES, 1000);
    for row in &rows[1000..] {
        builder.number(0, builder.len(), row.x.unwrap(), Cell::Ok);
        builder.vector(2, builder.len(), &row.e);
        builder.keep(row.offset, 1);
    }
    let batch = builder.finish();
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(1, 0),
        event_ms: &[7; 1000],
    };
    let schema = sample::schema(&layout);
    let all = Selection::all(&batch);
    rest.sample.add(&schema, &batch, &COLUMNS, all, from);
    assert!(rest.sample.rows() < 60, "{} rows kept", rest.sample.rows());
    merged.merge(&rest);
    assert_eq!(
        encode(&mut merged, true).unwrap(),
        encode(&mut whole, true).unwrap()
    );
}

/// Many rows of several batches: those with the least hashes, each as it was.
#[test]
fn a_large_sample_holds_its_rows_as_they_were() {
    let layout = layout();
    let row = |i: i64| Row {
        partition: i32::try_from(i % 3).unwrap(),
        offset: i,
        x: (i % 7 > 0).then_some(i as f64),
        c: (i % 5 > 0).then(|| "é".repeat(usize::try_from(i % 4).unwrap())),
        e: vec![i as f64; if i % 11 > 0 { 3 } else { 0 }],
    };
    let rows: Vec<Row> = (0..6000).map(row).collect();
    for k in [1, 2500, 10_000] {
        let mut merged = Profile::empty(&layout, k);
        for (number, rows) in rows.chunks(700).enumerate() {
            let mut part = profile(&layout, rows, k);
            if number % 2 == 0 {
                part.sample.settle().unwrap();
            }
            merged.merge(&part);
        }
        let hash = |row: &Row| RowHash::new(1, row.partition).of(row.offset, 0);
        let mut expected = rows.clone();
        expected.sort_by_key(hash);
        expected.truncate(k);
        assert_sample(merged.sample.settle().unwrap().unwrap(), &expected);
    }
}

fn assert_sample(sample: &RecordBatch, expected: &[Row]) {
    assert_eq!(sample.num_rows(), expected.len());
    let partitions = sample.column(1).as_primitive::<Int32Type>();
    let offsets = sample.column(2).as_primitive::<Int64Type>();
    let x = sample.column(5).as_primitive::<Float64Type>();
    let c = sample.column(6).as_string::<i32>();
    let e = sample.column(7).as_fixed_size_list();
    for (at, row) in expected.iter().enumerate() {
        assert_eq!(partitions.value(at), row.partition);
        assert_eq!(offsets.value(at), row.offset);
        assert_eq!(x.is_valid(at).then(|| x.value(at)), row.x);
        assert_eq!(c.is_valid(at).then(|| c.value(at)), row.c.as_deref());
        assert_eq!(e.is_valid(at), !row.e.is_empty());
        if e.is_valid(at) {
            let vector = e.value(at);
            let vector = vector.as_primitive::<Float64Type>();
            assert_eq!(vector.values(), &row.e[..]);
        }
    }
}

/// Most windows of quiet partitions hold no row or one.
#[test]
fn a_sample_of_few_rows_takes_little_memory() {
    let mut layout = layout();
    layout.features = vec![layout.features[0].clone(); 25];
    let mut builder = Builder::new(&[Shape::Number; 25], 1);
    for column in 0..25 {
        builder.number(column, 0, 1.0, Cell::Ok);
    }
    builder.keep(0, 1);
    let batch = builder.finish();
    let mut sample = Sample::new(10_000);
    assert_eq!(sample.bytes(), 0);
    let columns: Vec<usize> = (0..25).collect();
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(1, 0),
        event_ms: &[7],
    };
    let schema = sample::schema(&layout);
    sample.add(&schema, &batch, &columns, Selection::all(&batch), from);
    assert!(sample.bytes() < 3 << 10, "{} bytes", sample.bytes());
    sample.take();
    assert!(sample.bytes() < 100, "{} bytes", sample.bytes());
}

/// What a window's sample of embeddings holds in memory is counted.
#[test]
fn a_sample_of_vectors_is_as_large_as_it_says() {
    const DIMENSION: usize = 384;
    let mut layout = layout();
    layout.features.remove(0);
    layout.features.remove(0);
    layout.features[0].dimension = DIMENSION;
    let mut builder = Builder::new(&[Shape::Vector(DIMENSION)], 100);
    for row in 0..100 {
        builder.vector(0, builder.len(), &[0.5; DIMENSION]);
        builder.keep(row, 1);
    }
    let batch = builder.finish();
    let rows = Selection::all(&batch);
    let mut profile = Profile::empty(&layout, 10);
    let before = profile.bytes();
    let event_ms = [7; 100];
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(1, 0),
        event_ms: &event_ms,
    };
    profile.add(&layout, &batch, &[0], rows);
    let schema = sample::schema(&layout);
    profile.sample.add(&schema, &batch, &[0], rows, from);
    profile.sample.settle().unwrap();
    let held = profile.bytes() - before;
    let vectors = 10 * DIMENSION * 8;
    assert!((vectors..vectors + 10_000).contains(&held), "{held} bytes");

    let Values::Numeric(norms) = &profile.features[0].values else {
        panic!("a grid");
    };
    assert_eq!(norms.count(), 100);
    let norm = 0.5 * (DIMENSION as f64).sqrt();
    assert!((norms.least - norm).abs() < 1e-14 && (norms.greatest - norm).abs() < 1e-14);
}

/// Bytes that were cut short or changed are an error or another profile, and nothing else: no panic,
/// and no memory that the bytes do not back.
#[test]
fn damaged_bytes_do_no_harm() {
    let layout = layout();
    let rows: Vec<Row> = (0..60)
        .map(|i| Row {
            partition: 0,
            offset: i,
            x: (i % 5 > 0).then_some(i as f64),
            c: Some(["a", "z", "yy"][usize::try_from(i).unwrap() % 3].into()),
            e: vec![i as f64; 3],
        })
        .collect();
    let stored = encode(&mut profile(&layout, &rows, 20), true).unwrap();
    let layout_stored = encode_layout(&layout);
    for length in 0..stored.len() {
        let _ = decode(&stored[..length], &layout);
    }
    for (place, bit) in (0..stored.len()).flat_map(|place| [0, 3, 6, 7].map(|bit| (place, bit))) {
        let mut damaged = stored.clone();
        damaged[place] ^= 1 << bit;
        if let Ok(mut read) = decode(&damaged, &layout) {
            read.merge(&profile(&layout, &rows[..3], 20));
            let _ = encode(&mut read, true);
        }
    }
    for (place, bit) in (0..layout_stored.len()).flat_map(|place| [0, 6, 7].map(|bit| (place, bit)))
    {
        let mut damaged = layout_stored.clone();
        damaged[place] ^= 1 << bit;
        if let Ok(read) = decode_layout(&damaged) {
            let _ = decode(&stored, &read);
            let _ = encode(&mut profile_of_none(&read), true);
        }
    }
}

fn profile_of_none(layout: &Layout) -> Profile {
    Profile::empty(layout, 3)
}

/// Each of the lengths in a sample, made as large as its place can say.
#[test]
fn a_length_that_is_not_there_is_refused_before_memory_is_asked_for() {
    let layout = layout();
    let row = |i| Row {
        partition: 0,
        offset: i,
        x: Some(1.0),
        c: Some("a".into()),
        e: vec![0.5; 3],
    };
    let rows: Vec<Row> = (0..50).map(row).collect();
    let stored = encode(&mut profile(&layout, &rows, 50), true).unwrap();
    let sample = stored
        .windows(4)
        .position(|four| four == [0xff; 4])
        .unwrap();
    let mut refused = 0;
    for place in (sample..stored.len() - 8).step_by(4) {
        let mut damaged = stored.clone();
        damaged[place..place + 8].copy_from_slice(&(1i64 << 48).to_le_bytes());
        refused += usize::from(decode(&damaged, &layout).is_err());
    }
    assert!(refused > 20, "{refused}");
}

/// The same offsets of two logs are not chosen together.
#[test]
fn rows_of_another_log_have_hashes_of_their_own() {
    let hashes = |generation| {
        let hash = RowHash::of_log(7, 3, generation);
        (0..100)
            .map(|offset| hash.of(offset, 0))
            .collect::<Vec<u64>>()
    };
    assert_eq!(hashes(1)[0], RowHash::new(7, 3).of(0, 0));
    let (first, second) = (hashes(1), hashes(2));
    assert!(first.iter().all(|one| !second.contains(one)));
}
