//! Rows that are written, taken back and handed over.

use arrow::array::{Array, ArrayData, AsArray};
use arrow::datatypes::Float64Type;

use super::*;

#[test]
fn a_row_taken_back_leaves_no_trace() {
    let mut builder = Builder::new(&[Shape::Number, Shape::Text], 2);
    builder.number(0, 0, 1.0, Cell::Ok);
    builder.text(1, 0, "a", Cell::Ok);
    builder.keep(10, 1);
    builder.number(0, 1, 9.0, Cell::Ok);
    builder.roll_back(1);
    builder.text(1, 1, "b", Cell::Ok);
    builder.keep(12, 1);
    builder.reserve(2);
    builder.number(0, 2, f64::INFINITY, Cell::Ok);
    builder.keep(13, 1);
    let batch = builder.finish();
    let numbers = batch.array(0);
    let numbers = numbers.as_primitive::<Float64Type>();
    assert_eq!(numbers.len(), 3);
    assert_eq!(numbers.value(0).to_bits(), 1f64.to_bits());
    assert!(numbers.is_null(1) && numbers.is_null(2));
    assert_eq!(batch.cells(0), [Cell::Ok, Cell::Missing, Cell::PosInf]);
    assert_eq!(batch.cells(1), [Cell::Ok, Cell::Ok, Cell::Missing]);
    assert_eq!(batch.origins[1].offset, 12);
    assert!(builder.is_empty());
    assert_eq!(builder.finish().array(1).len(), 0);
}

/// All that an array holds, under its nulls too.
fn bytes(data: &ArrayData) -> Vec<Vec<u8>> {
    let nulls = data.nulls().map(|nulls| nulls.inner().values().to_vec());
    let own = data.buffers().iter().map(|buffer| buffer.to_vec());
    let children = data.child_data().iter().flat_map(bytes);
    nulls.into_iter().chain(own).chain(children).collect()
}

/// Buffers that come back hold another batch's values, of which nothing may be seen.
#[test]
fn buffers_that_are_used_again_leave_no_trace() {
    let shapes = [Shape::Number, Shape::Text, Shape::Vector(2), Shape::Time];
    let said = |batch: &Batch| {
        let one = |column| {
            (
                bytes(&batch.array(column).to_data()),
                batch.cells(column).to_vec(),
            )
        };
        let columns: Vec<_> = (0..batch.columns()).map(one).collect();
        format!("{columns:?} {:?}", batch.origins)
    };
    let write_few = |builder: &mut Builder| {
        builder.reserve(2);
        builder.text(1, 0, "new", Cell::Ok);
        builder.absent(0, 1, Cell::Null);
        builder.number(0, 2, f64::NAN, Cell::Ok);
        builder.vector(2, 2, &[1.0, 2.0]);
        builder.keep(7, 3);
        builder.finish()
    };
    let mut fresh = Builder::growing(&shapes, 64);
    let mut used = Builder::growing(&shapes, 64);
    for row in 0..40 {
        used.reserve(row);
        used.number(0, row, 5.0, Cell::Ok);
        used.text(1, row, &format!("old {row}"), Cell::Ok);
        used.vector(2, row, &[8.0, 9.0]);
        used.time(3, row, 11);
        used.keep(i64::try_from(row).unwrap(), 1);
    }
    let batch = used.finish();
    assert!((0..4).all(|column| batch.is_full(column)));
    used.reuse(batch);
    let held = used.bytes();
    let few = write_few(&mut used);
    assert_eq!(said(&few), said(&write_few(&mut fresh)));
    assert!((0..4).all(|column| !few.is_full(column)));
    used.reuse(few);
    assert_eq!(used.bytes(), held, "the same buffers once more");
}

#[test]
fn a_batch_takes_memory_for_what_it_holds_and_gives_back_what_was_too_much() {
    let mut builder = Builder::growing(&[Shape::Number; 100], 64);
    let empty = builder.bytes();
    builder.reserve(0);
    assert!(builder.bytes() - empty <= 16 * 100 * 9);
    builder.reserve(9_999); // a message of many rows
    builder.keep(0, 10_000);
    assert!(builder.bytes() > 10_000 * 100 * 9);
    let batch = builder.finish();
    builder.reuse(batch);
    assert_eq!(builder.bytes(), empty);
}

#[test]
fn long_texts_are_cut_at_a_character_and_counted_with_their_rows() {
    let mut builder = Builder::new(&[Shape::Text], 4).cutting(4);
    for (row, text) in ["abcd", "abcde", "abcdf", "aßßß"].into_iter().enumerate() {
        builder.text(0, row, text, Cell::Ok);
    }
    builder.keep(0, 4);
    builder.reserve(4);
    builder.text(0, 4, "far too long", Cell::Ok);
    builder.roll_back(1);
    assert_eq!((builder.take_cut(), builder.take_cut()), (3, 0));
    assert_eq!(
        builder.text_bytes(),
        "abcd".len() + "aß".len() + "far ".len()
    );
    let batch = builder.finish();
    assert_eq!(builder.text_bytes(), 0);
    let codes = batch.array(0);
    let codes = codes.as_dictionary::<arrow::datatypes::UInt32Type>();
    let texts = codes.values().as_string::<i32>();
    let found: Vec<&str> = codes
        .keys()
        .iter()
        .map(|key| texts.value(key.unwrap() as usize))
        .collect();
    assert_eq!(found, ["abcd", "abcd", "abcd", "aß"]);
}

#[test]
fn vectors_come_row_by_row_and_leave_no_trace_when_taken_back() {
    let mut builder = Builder::new(&[Shape::Vector(2)], 1);
    builder.vector(0, 0, &[3.0, 4.0]);
    builder.keep(0, 1);
    builder.reserve(4);
    builder.vector(0, 1, &[9.0, 9.0]);
    builder.roll_back(3);
    builder.vector(0, 2, &[1.0, 2.0]);
    builder.repeat(0, 2, 3..4);
    builder.vector(0, 1, &[1.0, 2.0, 3.0]);
    builder.keep(1, 4);
    let batch = builder.finish();
    use Cell::{Missing, Ok, WrongType};
    assert_eq!(batch.cells(0), [Ok, WrongType, Ok, Ok, Missing]);
    assert_eq!(batch.array(0).data_type(), &vector_type(2));
    let vectors = batch.array(0);
    let vectors = vectors.as_fixed_size_list();
    let numbers = vectors.values().as_primitive::<Float64Type>();
    let expected = [3.0, 4.0, 0.0, 0.0, 1.0, 2.0, 1.0, 2.0, 0.0, 0.0];
    assert_eq!(numbers.values()[..], expected);
    assert_eq!(vectors.null_count(), 2);
    assert_eq!(builder.finish().array(0).len(), 0);
}

#[test]
fn a_vector_is_as_good_as_its_worst_number() {
    let [inf, neg, nan] = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    assert_eq!(Cell::of_vector(&[1.0, nan, inf]), Cell::NaN);
    assert_eq!(Cell::of_vector(&[neg, 1.0, inf]), Cell::PosInf);
    assert_eq!(Cell::of_vector(&[1.0, neg]), Cell::NegInf);
    // Each is finite, the norm is not.
    assert_eq!(Cell::of_vector(&[1.7e308, 1.7e308]), Cell::PosInf);
    assert_eq!(Cell::of_vector(&[1e308, 1e308]), Cell::Ok);
    assert_eq!(Cell::of_vector(&[-0.0; 3]), Cell::Ok);
}

#[test]
fn norms_are_exact_over_the_whole_range_of_doubles() {
    let near = |vector: &[f64], expected: f64| {
        let found = norm(vector);
        let off = (found - expected).abs();
        assert!(off <= 1e-15 * expected, "{found} instead of {expected}");
    };
    near(&[], 0.0);
    near(&[-2.5], 2.5);
    near(&[3.0, 4.0], 5.0);
    near(&[0.0; 20], 0.0);
    near(&[1.0; 1_000_000], 1000.0);
    near(&[3e-200, -4e-200], 5e-200);
    near(&[3e200, -4e200], 5e200);
    near(&[1e308, 1e308], 1e308 * 2f64.sqrt());
    near(&[f64::from_bits(1); 4], f64::from_bits(2));
    near(&[9_007_199_254_740_993.0], 9_007_199_254_740_992.0);
    assert!(norm(&[1.0, f64::NAN, f64::INFINITY]).is_nan());
    assert_eq!(
        norm(&[f64::NEG_INFINITY, 1.0]).to_bits(),
        f64::INFINITY.to_bits()
    );
}
