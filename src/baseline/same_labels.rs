//! That a value is one label, whichever file it comes from, and in messages.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::kinds;
use crate::batch::{Batch, Builder};
use crate::ingest::decode::{Plan, Read, Source, json};
use crate::ingest::path::FieldPath;
use crate::monitor::Kind;

fn of_files(column: &ArrayRef, kind: Kind) -> Vec<Option<String>> {
    let mut out = Builder::new(&[kinds::shape(kind, 0)], column.len());
    kinds::write(column, kind, 0, &mut out).unwrap();
    out.keep(0, column.len());
    texts(&out.finish())
}

fn of_messages(payloads: &[&str], read: Read) -> Vec<Option<String>> {
    let mut plan = Plan::default();
    let path = FieldPath::parse("v").unwrap();
    plan.add(Source::Field(path), read).unwrap();
    let mut out = Builder::new(&plan.shapes(), payloads.len());
    for payload in payloads {
        let payload = format!("{{\"v\": {payload}}}");
        let rows = json::Decoder::default().decode(&plan, payload.as_bytes(), &mut out);
        out.keep(0, rows.unwrap());
    }
    texts(&out.finish())
}

fn text(label: &str) -> Option<String> {
    Some(label.to_owned())
}

#[test]
fn a_boolean_is_the_same_label_in_files_and_messages() {
    let booleans = [text("true"), text("false"), None];
    let label = Read::Text {
        plain_numbers: false,
    };
    let words: ArrayRef = Arc::new(StringArray::from(vec!["True", "FALSE", ""]));
    let typed: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]));
    for kind in [Kind::Boolean, Kind::Categorical] {
        assert_eq!(of_files(&words, kind), booleans);
        assert_eq!(of_files(&typed, kind), booleans);
    }
    for read in [label, Read::Boolean] {
        assert_eq!(
            of_messages(&["true", "false", "null"], read.clone()),
            booleans
        );
        assert_eq!(
            of_messages(&["\"True\"", "\"FALSE\"", "\"\""], read),
            booleans
        );
    }
    // Where the user or the training data say that it is a boolean, ones and zeros are as good.
    let ones: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), Some("0"), None]));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(0.0), None]));
    assert_eq!(of_files(&ones, Kind::Boolean), booleans);
    assert_eq!(of_files(&floats, Kind::Boolean), booleans);
    assert_eq!(of_messages(&["1", "0.0", "null"], Read::Boolean), booleans);
    assert_eq!(
        of_messages(&["\"yes\"", "\"n\"", "\" \""], Read::Boolean)[..2],
        booleans[..2]
    );
}

#[test]
fn a_number_is_the_same_label_in_files_and_messages() {
    let label = Read::Text {
        plain_numbers: false,
    };
    let codes = [text("3"), text("19.9"), text("0"), None];
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![3.0, 19.9, -0.0, f64::NAN]));
    let words: ArrayRef = Arc::new(StringArray::from(vec!["3.0", "19.9", "-0.0", ""]));
    assert_eq!(of_files(&floats, Kind::Categorical), codes);
    assert_eq!(of_files(&words, Kind::Categorical), codes);
    assert_eq!(
        of_messages(&["3", "19.90", "0.0", "NaN"], label.clone()),
        codes
    );
    assert_eq!(
        of_messages(&["\"3.0\"", "19.9", "\"0\"", "\"\""], label),
        codes
    );
    // A version is what is written.
    let versions = of_messages(&["\"1.0\"", "1.0", "1", "1.10"], Read::Written);
    assert_eq!(versions, ["1.0", "1.0", "1", "1.10"].map(text));
}

fn texts(batch: &Batch) -> Vec<Option<String>> {
    let texts = cast(&batch.array(0), &DataType::Utf8).unwrap();
    let texts = texts.as_string::<i32>().iter();
    texts.map(|text| text.map(str::to_owned)).collect()
}
