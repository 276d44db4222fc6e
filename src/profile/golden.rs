//! Bytes that released versions have written stay readable, and the same goes on being written.
//!
//! `tests/reference/layout_v1.bin` and `profile_v1.bin` were written by [`write_both`] when the
//! version was made, `layout_v2.bin` and `profile_v1_embedding.bin` by [`write_embedding`] when
//! embeddings came: a layout with them is of version 2, a profile of it looks as before but for a
//! column of lists in its sample; `layout_v2_all.bin` and `profile_v1_all.bin` by [`write_all`], with every
//! kind of feature and more unseen labels than are kept. Deltas, windows and baselines are stored
//! in the same form. They never change: another form is another version, with files of its own.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};

use super::categorical::Strangers;
use super::encoding::{decode, decode_layout, encode, encode_layout};
use super::sample::{Provenance, RowHash};
use super::*;
use crate::batch::{Builder, Cell, Shape};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name)
}

fn layout() -> Layout {
    let feature = |name: &str, kind, plain_numbers, bins| FeatureLayout {
        name: name.into(),
        kind,
        plain_numbers,
        dimension: 0,
        bins,
    };
    let levels = |names: [&str; 2]| Bins::Levels(Levels::new(names.map(str::to_owned).into()));
    let grid = Grid {
        cuts: vec![-1.0, 0.0, 0.5, 300.25],
        deciles: vec![1, 2],
        exponent: 31,
    };
    Layout {
        features: vec![
            feature("amount", Kind::Numeric, false, Bins::Grid(grid)),
            feature("größe", Kind::Categorical, false, levels(["s", "m"])),
            feature("flag", Kind::Boolean, true, levels(["true", "false"])),
        ],
    }
}

/// Eight rows of partition 3, among them what is no value and what the levels do not hold.
fn profile(layout: &Layout) -> Profile {
    let amounts = [0.0, 0.25, -7.5, 300.0, 1e6, f64::NAN, f64::NEG_INFINITY];
    let sizes = ["m", "s", "xl", "xl", "", "m", "m", "日"];
    let mut builder = Builder::new(&[Shape::Number, Shape::Text, Shape::Text], 8);
    for (row, size) in sizes.into_iter().enumerate() {
        match amounts.get(row) {
            Some(amount) => builder.number(0, row, *amount, Cell::Ok),
            None => builder.absent(0, row, Cell::WrongType),
        }
        builder.text(1, row, size, Cell::Ok);
        match row {
            0 => builder.absent(2, row, Cell::Null),
            1 => builder.text(2, row, "true", Cell::Coerced),
            2.. => {}
        }
        builder.keep(100 + i64::try_from(row).unwrap(), 1);
    }
    let batch = builder.finish();
    let (rows, columns) = (Selection::all(&batch), [0, 1, 2]);
    let mut profile = Profile::empty(layout, 5);
    profile.add(layout, &batch, &columns, rows);
    let from = Provenance {
        partition: 3,
        hash: RowHash::new(42, 3),
        event_ms: &[1_700_000_000_000; 8],
    };
    let sample = &mut profile.sample;
    sample.add(&sample::schema(layout), &batch, &columns, rows, from);
    profile
}

#[test]
fn the_layout_of_version_1_is_read_and_written() {
    let stored = std::fs::read(file("layout_v1.bin")).unwrap();
    assert_eq!(decode_layout(&stored).unwrap(), layout());
    assert_eq!(encode_layout(&layout()), stored);
}

#[test]
fn the_profile_of_version_1_is_read() {
    let stored = std::fs::read(file("profile_v1.bin")).unwrap();
    let mut read = decode(&stored, &layout()).unwrap();
    assert_eq!(read.rows, 8);
    let quality: Vec<_> = read.features.iter().map(|f| f.quality.each()).collect();
    assert_eq!(quality[0], [0, 0, 1, 1, 0, 1, 0]);
    assert_eq!(quality[1], [0; 7]);
    assert_eq!(quality[2], [1, 6, 0, 0, 0, 0, 1]);

    let Values::Numeric(amount) = &read.features[0].values else {
        panic!("a grid");
    };
    assert_eq!(amount.counts(), [1, 0, 2, 1, 1]);
    let unit = 1i128 << 31;
    let sums: Vec<i128> = amount.bins.to_vec().iter().map(|bin| bin.sum).collect();
    assert_eq!(sums[0], -15 * unit / 2);
    // A million is far beyond the baseline: it counts as the most that the grid can say.
    assert_eq!(sums[4], 1 << 43);
    assert_eq!(sums[2..4], [unit / 4, 300 * unit]);
    let range = [amount.least, amount.greatest].map(f64::to_bits);
    assert_eq!(range, [-7.5, 1e6].map(f64::to_bits));

    let Values::Categorical(size) = &read.features[1].values else {
        panic!("levels");
    };
    assert_eq!((&size.counts()[..], size.unseen), (&[1, 3][..], 4));
    let mut strangers: Vec<_> = size.strangers.iter().map(|(_, l, n)| (l, n)).collect();
    strangers.sort_unstable();
    assert_eq!(strangers, [("", 1), ("xl", 2), ("日", 1)]);

    assert_eq!(read.sample.k(), 5);
    let sample = read.sample.settle().unwrap().unwrap();
    let names: Vec<_> = sample
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names[5..], ["amount", "größe", "flag"]);
    assert_eq!(
        sample.column(1).as_primitive::<Int32Type>().values(),
        &[3; 5]
    );
    let offsets = sample.column(2).as_primitive::<Int64Type>().values();
    let amounts = sample.column(5).as_primitive::<Float64Type>();
    let sizes = sample.column(6).as_string::<i32>();
    // In hash order, each with its own values.
    assert_eq!(offsets, &[102, 100, 103, 101, 105]);
    let amount = |row| amounts.value(row).to_bits();
    assert_eq!(
        [0, 1, 2, 3].map(amount),
        [-7.5, 0.0, 300.0, 0.25].map(f64::to_bits)
    );
    assert_eq!(
        [0, 1, 2, 3, 4].map(|row| sizes.value(row)),
        ["xl", "m", "xl", "s", "m"]
    );
}

/// How the sample is compressed may change with the compressor; all before it may not.
#[test]
fn the_profile_of_version_1_is_written() {
    let stored = std::fs::read(file("profile_v1.bin")).unwrap();
    let mut now = profile(&layout());
    assert!(stored.starts_with(&encode(&mut now, false).unwrap()));
    let mut read = decode(&stored, &layout()).unwrap();
    assert_eq!(read.features, now.features);
    assert_same_sample(&mut read, &mut now);
}

/// The rows are the same, and so is what stands under their nulls, which is stored too.
fn assert_same_sample(read: &mut Profile, now: &mut Profile) {
    let (read, now) = (read.sample.settle().unwrap(), now.sample.settle().unwrap());
    assert_eq!(read, now);
    assert_eq!(bits(read.unwrap()), bits(now.unwrap()));
}

fn bits(sample: &RecordBatch) -> Vec<Vec<u64>> {
    let bits = |column: &dyn Array| {
        let numbers = column.as_primitive_opt::<Float64Type>()?;
        Some(
            numbers
                .values()
                .iter()
                .map(|value| value.to_bits())
                .collect(),
        )
    };
    let columns = sample.columns().iter();
    let columns = columns.filter_map(|column| match column.as_fixed_size_list_opt() {
        Some(vectors) => bits(vectors.values()),
        None => bits(column),
    });
    columns.collect()
}

fn embedding_layout() -> Layout {
    let grid = Grid {
        cuts: vec![0.5, 1.0, 5.5],
        deciles: vec![1],
        exponent: 37,
    };
    let mut layout = layout();
    layout.features.truncate(1);
    layout.features.push(FeatureLayout {
        name: "embedding".into(),
        kind: Kind::Embedding,
        plain_numbers: false,
        dimension: 3,
        bins: Bins::Grid(grid),
    });
    layout
}

/// Six rows of partition 3, three of them with a vector.
fn embedding_profile(layout: &Layout) -> Profile {
    let vectors: [&[f64]; 6] = [
        &[0.0, -3.0, 4.0],
        &[0.125, 0.25, 0.25],
        &[1.0, 2.0],
        &[f64::NAN, 0.0, 1.0],
        &[60.0, 0.0, -80.0],
        &[1.7e308, 1.7e308, 1.7e308],
    ];
    let mut builder = Builder::new(&[Shape::Number, Shape::Vector(3)], 8);
    for (row, vector) in vectors.into_iter().enumerate() {
        builder.number(0, row, 0.25, Cell::Ok);
        builder.vector(1, row, vector);
        builder.keep(100 + i64::try_from(row).unwrap(), 1);
    }
    let batch = builder.finish();
    let (rows, columns) = (Selection::all(&batch), [0, 1]);
    let mut profile = Profile::empty(layout, 4);
    profile.add(layout, &batch, &columns, rows);
    let from = Provenance {
        partition: 3,
        hash: RowHash::new(42, 3),
        event_ms: &[1_700_000_000_000; 6],
    };
    let sample = &mut profile.sample;
    sample.add(&sample::schema(layout), &batch, &columns, rows, from);
    profile
}

#[test]
fn the_layout_of_version_2_is_read_and_written() {
    let stored = std::fs::read(file("layout_v2.bin")).unwrap();
    assert_eq!(decode_layout(&stored).unwrap(), embedding_layout());
    assert_eq!(encode_layout(&embedding_layout()), stored);
}

#[test]
fn a_layout_names_its_embeddings_in_version_2_and_with_a_dimension_only() {
    let stored = encode_layout(&embedding_layout());
    let mut older = stored.clone();
    older[0] = 1;
    let said = decode_layout(&older).unwrap_err().to_string();
    assert!(said.contains("unknown kind"), "{said}");
    let at = stored
        .windows(9)
        .position(|bytes| bytes == b"embedding")
        .unwrap();
    assert_eq!(stored[at + 9..at + 12], [4, 0, 3]);
    let mut flat = stored;
    flat[at + 11] = 0;
    let said = decode_layout(&flat).unwrap_err().to_string();
    assert!(said.contains("dimension"), "{said}");
}

#[test]
fn the_profile_with_an_embedding_is_read_and_written() {
    let stored = std::fs::read(file("profile_v1_embedding.bin")).unwrap();
    let mut now = embedding_profile(&embedding_layout());
    assert!(stored.starts_with(&encode(&mut now, false).unwrap()));
    let mut read = decode(&stored, &embedding_layout()).unwrap();
    assert_eq!(read.features, now.features);
    assert_same_sample(&mut read, &mut now);

    assert_eq!(read.features[1].quality.each(), [0, 0, 1, 1, 1, 0, 0]);
    let Values::Numeric(norms) = &read.features[1].values else {
        panic!("a grid");
    };
    // Norms 0.375, 5 and 100.
    assert_eq!(norms.counts(), [1, 0, 1, 1]);
    let range = [norms.least, norms.greatest].map(f64::to_bits);
    assert_eq!(range, [0.375, 100.0].map(f64::to_bits));

    let sample = read.sample.settle().unwrap().unwrap();
    let offsets = sample.column(2).as_primitive::<Int64Type>().values();
    let vectors = sample.column(6).as_fixed_size_list();
    let vector = |row| {
        vectors
            .value(row)
            .as_primitive::<Float64Type>()
            .values()
            .to_vec()
    };
    // In hash order, each with its own vector.
    assert_eq!(offsets, &[102, 100, 103, 101]);
    assert_eq!(
        [1, 3].map(vector),
        [vec![0.0, -3.0, 4.0], vec![0.125, 0.25, 0.25]]
    );
    let valid = [0, 1, 2, 3].map(|row| arrow::array::Array::is_valid(vectors, row));
    assert_eq!(valid, [false, true, false, true]);
}

fn layout_of_all() -> Layout {
    let mut all = layout();
    let embedding = embedding_layout().features.swap_remove(1);
    let mut timestamp = all.features[0].clone();
    timestamp.name = "since".into();
    timestamp.kind = Kind::Timestamp;
    timestamp.bins = Bins::Grid(Grid {
        cuts: vec![1.5e9, 1.6e9, 1.7e9],
        deciles: vec![0, 1],
        exponent: 9,
    });
    all.features.extend([timestamp, embedding]);
    all
}

/// 400 rows of partition 7, with 300 labels that the levels do not hold.
fn profile_of_all(layout: &Layout) -> Profile {
    let shapes = [
        Shape::Number,
        Shape::Text,
        Shape::Text,
        Shape::Number,
        Shape::Vector(3),
    ];
    let mut builder = Builder::new(&shapes, 400);
    for row in 0..400 {
        let number = f64::from(u32::try_from(row).unwrap());
        match row % 10 {
            0 => builder.absent(0, row, Cell::Null),
            _ => builder.number(0, row, number - 20.0, Cell::Ok),
        }
        match row {
            0..300 => builder.text(1, row, &format!("unseen-{row}"), Cell::Ok),
            _ => builder.text(1, row, "m", Cell::Coerced),
        }
        builder.text(
            2,
            row,
            if row % 3 == 0 { "true" } else { "false" },
            Cell::Ok,
        );
        builder.number(3, row, 1.5e9 + 1e6 * number, Cell::Ok);
        if row % 2 == 0 {
            builder.vector(4, row, &[number, 0.5, -0.25]);
        }
        builder.keep(1_000 + i64::try_from(row).unwrap(), 1);
    }
    let batch = builder.finish();
    let (rows, columns) = (Selection::all(&batch), [0, 1, 2, 3, 4]);
    let mut profile = Profile::empty(layout, 6);
    profile.add(layout, &batch, &columns, rows);
    let from = Provenance {
        partition: 7,
        hash: RowHash::new(42, 7),
        event_ms: &[1_700_000_000_000; 400],
    };
    let sample = &mut profile.sample;
    sample.add(&sample::schema(layout), &batch, &columns, rows, from);
    profile
}

/// The label with the least hash: which one that is never changes.
const FIRST_STRANGER: (u64, &str, u64) = (109_099_493_198_829_627, "unseen-25", 1);

#[test]
fn every_kind_of_feature_is_read_and_written() {
    let layout = layout_of_all();
    assert_eq!(
        encode_layout(&layout),
        std::fs::read(file("layout_v2_all.bin")).unwrap()
    );
    let stored = std::fs::read(file("profile_v1_all.bin")).unwrap();
    let mut now = profile_of_all(&layout);
    assert!(stored.starts_with(&encode(&mut now, false).unwrap()));
    let mut read = decode(&stored, &layout).unwrap();
    assert_eq!((read.rows, read.features.len()), (400, 5));
    assert_eq!(read.features, now.features);
    assert_same_sample(&mut read, &mut now);
    let sample = read.sample.settle().unwrap().unwrap();
    assert_eq!(sample.num_rows(), 6);

    let Values::Categorical(labels) = &read.features[1].values else {
        panic!("levels");
    };
    assert_eq!((&labels.counts()[..], labels.unseen), (&[0, 100][..], 300));
    assert_eq!(labels.strangers.iter().count(), Strangers::KEPT);
    let (hash, label, rows) = labels.strangers.iter().next().unwrap();
    assert_eq!((hash, label, rows), FIRST_STRANGER);
    let Values::Numeric(since) = &read.features[3].values else {
        panic!("a grid");
    };
    assert_eq!(since.counts(), [0, 100, 100, 200]);
}

/// A window is merged from deltas that an older driftd has stored and from new ones.
#[test]
fn old_deltas_are_merged_with_new_ones() {
    let layout = layout_of_all();
    let stored = std::fs::read(file("profile_v1_all.bin")).unwrap();
    let mut merged = decode(&stored, &layout).unwrap();
    let mut now = profile_of_all(&layout);
    let encoded = encode(&mut now, true).unwrap();
    merged.merge(&decode(&encoded, &layout).unwrap());
    let mut twice = now.clone();
    twice.merge(&now);
    assert_eq!(
        encode(&mut merged, false).unwrap(),
        encode(&mut twice, false).unwrap()
    );
    assert_eq!(merged.rows, 800);
}

fn write(name: &str, bytes: &[u8]) {
    let made = std::fs::File::create_new(file(name));
    std::io::Write::write_all(&mut made.unwrap(), bytes).unwrap();
}

/// Ran once; a file that is there is left as it is.
#[test]
#[ignore = "writes the reference files of a new version"]
fn write_embedding() {
    write("layout_v2.bin", &encode_layout(&embedding_layout()));
    let mut profile = embedding_profile(&embedding_layout());
    write(
        "profile_v1_embedding.bin",
        &encode(&mut profile, true).unwrap(),
    );
}

/// Ran once; a file that is there is left as it is.
#[test]
#[ignore = "writes the reference files of a new version"]
fn write_both() {
    write("layout_v1.bin", &encode_layout(&layout()));
    let stored = encode(&mut profile(&layout()), true).unwrap();
    write("profile_v1.bin", &stored);
}

/// Ran once; a file that is there is left as it is.
#[test]
#[ignore = "writes the reference files of a new version"]
fn write_all() {
    write("layout_v2_all.bin", &encode_layout(&layout_of_all()));
    let stored = encode(&mut profile_of_all(&layout_of_all()), true).unwrap();
    write("profile_v1_all.bin", &stored);
}
