//! The same rows in every format, whole and broken; and what becomes of each type of column.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray,
    Float32Array, Float64Array, Int32Array, Int64Array, LargeListArray, ListArray, RecordBatch,
    StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;

use super::SAMPLE_ROWS;
use super::import::{self, Imported, Request};
use super::kinds;
use super::read::{Error, Files};
use crate::batch::{Batch, Builder, Cell};
use crate::compare::Test;
use crate::compare::window::Reference;
use crate::monitor::{Kind, TimeUnit};
use crate::profile::{Bins, Values, norm};

/// Rows of all types that become features, with an embedding of two numbers.
fn rows() -> RecordBatch {
    let count = 300;
    let vector = |i: i32| Some([Some(i as f32), Some(-1.5)]);
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        (0..count).map(|i| if i % 100 == 7 { None } else { vector(i) }),
        2,
    );
    RecordBatch::try_from_iter([
        (
            "x",
            Arc::new(Float64Array::from_iter((0..count).map(f64::from))) as ArrayRef,
        ),
        (
            "code",
            Arc::new(Int64Array::from_iter((0..count).map(|i| i64::from(i % 3)))),
        ),
        (
            "on",
            Arc::new(BooleanArray::from_iter(
                (0..count).map(|i| Some(i % 2 == 0)),
            )),
        ),
        (
            "plan",
            Arc::new(StringArray::from_iter_values(
                (0..count).map(|i| format!("p{}", i % 5)),
            )),
        ),
        ("vector", Arc::new(vectors)),
    ])
    .unwrap()
}

/// Written as a user's tools would write it.
fn write(dir: &Path, name: &str, rows: &RecordBatch) -> PathBuf {
    let path = dir.join(name);
    let file = || File::create(&path).unwrap();
    let schema = rows.schema();
    match path.extension().unwrap().to_str().unwrap() {
        "parquet" => {
            let mut out = ArrowWriter::try_new(file(), schema, None).unwrap();
            out.write(rows).unwrap();
            out.close().unwrap();
        }
        "arrow" => {
            let mut out = FileWriter::try_new(file(), &schema).unwrap();
            out.write(rows).unwrap();
            out.finish().unwrap();
        }
        "ipc" => {
            let mut out = StreamWriter::try_new(file(), &schema).unwrap();
            out.write(rows).unwrap();
            out.finish().unwrap();
        }
        _ => fs::write(&path, lines(rows)).unwrap(),
    }
    path
}

fn lines(rows: &RecordBatch) -> String {
    use arrow::util::display::array_value_to_string as shown;
    let mut text = String::new();
    for row in 0..rows.num_rows() {
        let fields = rows.schema_ref().fields().iter().zip(rows.columns());
        let fields = fields.map(|(field, column)| {
            let value = shown(column, row).unwrap();
            match field.data_type() {
                _ if column.is_null(row) => format!("\"{}\": null", field.name()),
                DataType::Utf8 => format!("\"{}\": \"{value}\"", field.name()),
                _ => format!("\"{}\": {value}", field.name()),
            }
        });
        text += &format!("{{{}}}\n", fields.collect::<Vec<_>>().join(", "));
    }
    text
}

fn request(files: Vec<PathBuf>) -> Request {
    Request {
        model: "m".into(),
        version: "1".into(),
        files,
        time_column: None,
        time_unit: TimeUnit::Ms,
        window_ms: None,
        time_zone: chrono_tz::Tz::UTC,
        features: Vec::new(),
        exclude: Vec::new(),
        kinds: [].into(),
        max_levels: 1000,
        max_label_bytes: 256,
        sample_rows: SAMPLE_ROWS,
    }
}

fn told(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

fn refused(request: &Request) -> String {
    told(import::import(request, |_| {}).unwrap_err())
}

/// Reads all of a file.
fn read(path: &Path) -> Result<Vec<RecordBatch>, Error> {
    Files::open(vec![path.into()])?.batches().collect()
}

#[test]
fn every_format_gives_the_same_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        ("x", Kind::Numeric),
        ("code", Kind::Numeric),
        ("on", Kind::Boolean),
        ("plan", Kind::Categorical),
        ("vector", Kind::Embedding),
    ];
    let mut first: Option<Imported> = None;
    for name in [
        "a.parquet",
        "a.arrow",
        "a.ipc",
        "a.ndjson",
        "a.jsonl",
        "a.json",
    ] {
        let file = write(dir.path(), name, &rows());
        let imported = import::import(&request(vec![file]), |_| {}).unwrap();
        let baseline = &imported.baseline;
        let features = baseline.layout.features.iter();
        let found: Vec<_> = features.map(|f| (f.name.as_str(), f.kind)).collect();
        assert_eq!(found, kinds, "{name}");
        assert_eq!(baseline.layout.features[4].dimension, 2);
        assert_eq!(baseline.profile.rows, 300);
        assert_eq!(baseline.profile.features[4].quality.null, 3);
        let first = first.get_or_insert_with(|| imported.clone());
        assert_eq!(first.baseline.layout, baseline.layout, "{name}");
        assert_eq!(
            first.baseline.profile.features, baseline.profile.features,
            "{name}"
        );
    }
}

#[test]
fn an_embedding_is_compared_by_its_norm() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.parquet", &rows());
    let mut baseline = import::import(&request(vec![file]), |_| {})
        .unwrap()
        .baseline;
    let norms: Vec<f64> = (0..300)
        .filter(|i| i % 100 != 7)
        .map(|i| f64::hypot(f64::from(i), 1.5))
        .collect();
    let Values::Numeric(found) = &baseline.profile.features[4].values else {
        panic!("a grid");
    };
    assert_eq!(found.count(), 297);
    assert_eq!(found.least.to_bits(), norms[0].to_bits());
    assert_eq!(found.greatest.to_bits(), norms[296].to_bits());
    let Bins::Grid(grid) = &baseline.layout.features[4].bins else {
        panic!("a grid");
    };
    let mean = norms.iter().sum::<f64>() / 297.0;
    assert!((found.mean(grid).unwrap() - mean).abs() < 1e-8);

    // The sample holds the vectors, and the tests read their norms from it.
    let mut window = baseline.profile.clone();
    let sample = baseline.profile.sample.settle().unwrap().unwrap();
    let vectors = sample.column_by_name("vector").unwrap();
    assert_eq!(vectors.data_type(), &crate::batch::vector_type(2));
    let sampled = norm::numbers(vectors).iter().flatten().count();
    assert_eq!(sampled, 297);
    let layout = (*baseline.layout).clone();
    let reference = Reference::new(
        layout.clone(),
        &layout,
        &baseline.profile,
        vec![Test::Ks, Test::Wasserstein],
        Vec::new(),
    );
    let scores = reference.compare(&mut window);
    let embedding: Vec<_> = scores
        .iter()
        .filter(|score| score.feature == Some(4))
        .collect();
    assert_eq!(embedding.len(), 2);
    for score in embedding {
        let outcome = score.answer.unwrap();
        assert!(outcome.statistic.abs() < 1e-300 && outcome.error_bound.is_none());
    }
}

#[test]
fn the_first_vector_says_how_long_all_are() {
    let dir = tempfile::tempdir().unwrap();
    let line = |vector: &str| format!("{{\"e\": {vector}}}\n");
    let rows = [
        "null",
        "[null, 1]",
        "[1, 2]",
        "[1]",
        "[1, 2, 3]",
        "[]",
        "[1, NaN]",
        "[1e999, 1]",
    ];
    let file = dir.path().join("a.ndjson");
    fs::write(&file, rows.map(line).concat()).unwrap();
    let imported = import::import(&request(vec![file]), |_| {}).unwrap();
    let baseline = imported.baseline;
    assert_eq!(baseline.layout.features[0].dimension, 2);
    let quality = baseline.profile.features[0].quality;
    assert_eq!((quality.null, quality.wrong_type), (1, 4));
    assert_eq!((quality.nan, quality.pos_inf), (1, 1));
}

#[test]
fn lists_and_texts_of_lists_are_embeddings_where_that_is_said() {
    let vectors = || (0..3).map(|i| Some(vec![Some(f64::from(i)), Some(4.0)]));
    let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(vectors());
    let large = LargeListArray::from_iter_primitive::<Float64Type, _, _>(vectors());
    let texts = StringArray::from(vec![Some("[0, 4]"), Some(" [1,4] "), Some("[2.0, 4e0]")]);
    let columns: [ArrayRef; 3] = [Arc::new(lists), Arc::new(large), Arc::new(texts)];
    for column in columns {
        assert_eq!(kinds::dimension(&column).unwrap(), Some(2));
        kinds::check(column.data_type(), Kind::Embedding).unwrap();
        // Also of a part of a column.
        let batch = written(&column.slice(1, 2), Kind::Embedding, 2);
        assert_eq!(batch.cells(0), [Cell::Ok; 2]);
        let norms = norm::numbers(&batch.array(0));
        assert_eq!(norms.values()[..], [17f64.sqrt(), 20f64.sqrt()]);
    }
    let odd: ArrayRef = Arc::new(StringArray::from(vec![
        "",
        "1",
        "[1",
        "[1, \"2\"]",
        "[]",
        "[3, 4]",
    ]));
    let batch = written(&odd, Kind::Embedding, 2);
    use Cell::{Null, Ok, WrongType};
    assert_eq!(
        batch.cells(0),
        [Null, WrongType, WrongType, WrongType, WrongType, Ok]
    );
}

#[test]
fn columns_that_are_no_embedding_or_nothing_else_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "a.parquet", &rows());
    for (column, kind, said) in [
        (
            "x",
            Kind::Embedding,
            "column `x`: type Float64 is no embedding",
        ),
        (
            "vector",
            Kind::Numeric,
            "column `vector`: lists of numbers are an embedding",
        ),
        (
            "plan",
            Kind::Embedding,
            "column `plan`: not one of its rows holds a list",
        ),
    ] {
        let mut wanted = request(vec![file.clone()]);
        wanted.kinds.insert(column.into(), kind);
        let told = refused(&wanted);
        assert!(told.contains(said), "{told}");
    }
    let tags = dir.path().join("tags.ndjson");
    fs::write(&tags, "{\"a\": 1, \"tags\": [\"x\"]}\n").unwrap();
    let told = refused(&request(vec![tags.clone()]));
    assert!(
        told.contains("column `tags`: type List(Utf8) cannot be a feature"),
        "{told}"
    );
    let mut without = request(vec![tags]);
    without.exclude.push("tags".into());
    import::import(&without, |_| {}).unwrap();
    let long = dir.path().join("long.ndjson");
    fs::write(&long, format!("{{\"e\": [{}1]}}\n", "1,".repeat(16_384))).unwrap();
    let told = refused(&request(vec![long]));
    assert!(
        told.contains("column `e`: an embedding has 1 to 16384 numbers"),
        "{told}"
    );
}

/// The samples of baselines have a bound in bytes.
#[test]
fn wide_embeddings_leave_room_for_fewer_rows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.ndjson");
    let vector = vec!["0.5"; 8192].join(",");
    fs::write(&file, format!("{{\"e\": [{vector}]}}\n").repeat(3)).unwrap();
    let baseline = import::import(&request(vec![file]), |_| {})
        .unwrap()
        .baseline;
    assert_eq!(baseline.profile.sample.k(), 1024);
    assert_eq!(baseline.profile.sample.rows(), 3);
}

// --- what each type of column gives for a kind ----------------------------------------------------

fn written(column: &ArrayRef, kind: Kind, dimension: usize) -> Batch {
    let mut builder = Builder::new(&[kinds::shape(kind, dimension)], column.len());
    kinds::write(column, kind, 0, &mut builder).unwrap();
    builder.keep(0, column.len());
    builder.finish()
}

fn numbers(column: impl Array + 'static) -> (Vec<Option<f64>>, Vec<Cell>) {
    let batch = written(&(Arc::new(column) as ArrayRef), Kind::Numeric, 0);
    let numbers = norm::numbers(&batch.array(0)).iter().collect();
    (numbers, batch.cells(0).to_vec())
}

fn labels(column: impl Array + 'static) -> Vec<Option<String>> {
    let batch = written(&(Arc::new(column) as ArrayRef), Kind::Categorical, 0);
    let texts = arrow::compute::cast(&batch.array(0), &DataType::Utf8).unwrap();
    let texts: &StringArray = texts.as_any().downcast_ref().unwrap();
    texts.iter().map(|text| text.map(str::to_owned)).collect()
}

#[test]
fn a_numeric_column_takes_numbers_texts_and_booleans() {
    use Cell::{Null, Ok, PosInf, WrongType};
    let texts = vec![
        Some("1.5"),
        Some("many"),
        Some(""),
        None,
        Some(" 2 "),
        Some("1e999"),
    ];
    let found = vec![Some(1.5), None, None, None, Some(2.0), None];
    let cells = vec![Ok, WrongType, Null, Null, Ok, PosInf];
    assert_eq!(
        numbers(StringArray::from(texts.clone())),
        (found.clone(), cells.clone())
    );
    // Codes of texts as well: a text that is no number is not a null.
    let codes: DictionaryArray<Int32Type> = texts.into_iter().collect();
    assert_eq!(numbers(codes), (found, cells));
    let booleans = BooleanArray::from(vec![Some(true), Some(false), None]);
    assert_eq!(
        numbers(booleans),
        (vec![Some(1.0), Some(0.0), None], vec![Ok, Ok, Null])
    );
    // As doubles: beyond 2^53 neighbours are one.
    let large = Int64Array::from(vec![9_007_199_254_740_993, i64::MIN]);
    let doubles = vec![
        Some(9_007_199_254_740_992.0),
        Some(-9_223_372_036_854_775_808.0),
    ];
    assert_eq!(numbers(large).0, doubles);
    assert_eq!(
        numbers(UInt64Array::from(vec![u64::MAX])).0,
        [Some(18_446_744_073_709_551_615.0)]
    );
}

#[test]
fn a_categorical_column_takes_numbers_as_messages_write_them() {
    let text = |label: &str| Some(label.to_owned());
    let large = Int64Array::from(vec![Some(7), None, Some(-9_007_199_254_740_993)]);
    assert_eq!(labels(large), [text("7"), None, text("-9007199254740993")]);
    // Labels that were whole numbers and became floats because one of them was missing.
    let floats = Float64Array::from(vec![Some(3.0), None, Some(0.5), Some(1e6), Some(-2.0)]);
    let expected = [text("3"), None, text("0.5"), text("1000000"), text("-2")];
    assert_eq!(labels(floats), expected);
    assert_eq!(
        labels(Float32Array::from(vec![0.1, 4.0])),
        [text("0.1"), text("4")]
    );
    assert_eq!(
        labels(BooleanArray::from(vec![true, false])),
        [text("true"), text("false")]
    );
    assert_eq!(
        labels(StringArray::from(vec!["3.0", "", "True", "07", "1.10"])),
        [text("3"), None, text("true"), text("07"), text("1.10")],
        "as a CSV and a message have them"
    );
    let missing = Float64Array::from(vec![3.0, f64::NAN, -0.0, f64::INFINITY]);
    assert_eq!(labels(missing), [text("3"), None, text("0"), text("inf")]);
    let prices = Decimal128Array::from(vec![1200, 1990, -5]);
    let prices = prices.with_precision_and_scale(9, 2).unwrap();
    assert_eq!(labels(prices), [text("12"), text("19.9"), text("-0.05")]);
    let codes = DictionaryArray::new(
        Int32Array::from(vec![1, 0]),
        Arc::new(Float64Array::from(vec![1.0, 2.5])),
    );
    assert_eq!(labels(codes), [text("2.5"), text("1")]);
}

#[test]
fn texts_in_a_column_of_numbers_are_counted_where_the_kind_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.ndjson");
    fs::write(
        &file,
        "{\"a\": 1}\n{\"a\": \"many\"}\n{\"a\": 2.5}\n{}\n{\"a\": [3]}\n",
    )
    .unwrap();
    let mut wanted = request(vec![file]);
    let guessed = import::import(&wanted, |_| {}).unwrap().baseline;
    assert_eq!(guessed.layout.features[0].kind, Kind::Categorical);
    wanted.kinds.insert("a".into(), Kind::Numeric);
    let baseline = import::import(&wanted, |_| {}).unwrap().baseline;
    let quality = baseline.profile.features[0].quality;
    assert_eq!((quality.wrong_type, quality.null), (2, 1));
}

// --- files that are broken ------------------------------------------------------------------------

#[test]
fn a_broken_file_is_named_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let many = arrow::compute::concat_batches(&rows().schema(), &vec![rows(); 100]).unwrap();
    for name in ["a.parquet", "a.arrow", "a.ipc"] {
        let file = write(dir.path(), name, &many);
        let whole = fs::read(&file).unwrap();
        assert_eq!(
            read(&file)
                .unwrap()
                .iter()
                .map(RecordBatch::num_rows)
                .sum::<usize>(),
            30_000
        );
        assert!(
            read(&file)
                .unwrap()
                .iter()
                .all(|batch| batch.num_rows() <= 8192)
        );
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let said = told(read(&file).unwrap_err());
        assert!(said.contains(&format!("{name} is broken: ")), "{said}");
    }
    let lines = dir.path().join("a.ndjson");
    fs::write(&lines, "{\"a\": 1}\n{\"a\": 2\n").unwrap();
    let said = told(read(&lines).unwrap_err());
    assert!(
        said.contains("a.ndjson is broken: ") && said.contains("line 2: EOF"),
        "{said}"
    );
    let table = dir.path().join("a.csv");
    fs::write(&table, format!("a,b\n{}1\n", "1,2\n".repeat(10_000))).unwrap();
    let said = told(read(&table).unwrap_err());
    assert!(said.contains("a.csv is broken behind row 8192: "), "{said}");
    assert!(said.contains("line 10002"), "{said}");
}

#[test]
fn a_parquet_file_broken_in_its_middle_is_named_with_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.parquet");
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(300))
        .build();
    let mut out = ArrowWriter::try_new(
        File::create(&file).unwrap(),
        rows().schema(),
        Some(properties),
    )
    .unwrap();
    for _ in 0..100 {
        out.write(&rows()).unwrap();
    }
    out.close().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2000].fill(0xff);
    fs::write(&file, bytes).unwrap();
    let said = told(read(&file).unwrap_err());
    assert!(
        said.contains("a.parquet is broken behind row 16384: "),
        "{said}"
    );
}

/// Damage is an error or goes unseen, but never ends the process. The assertions that are caught
/// here are shown on standard error.
#[test]
fn no_damaged_byte_makes_a_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    let few = rows().slice(0, 20);
    for name in ["a.parquet", "a.arrow", "a.ipc", "a.ndjson"] {
        let file = write(dir.path(), name, &few);
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[at] ^= if at % 2 == 0 { 0xff } else { 0x11 };
            fs::write(&file, bytes).unwrap();
            let _ = read(&file);
        }
    }
}

#[test]
fn files_go_together_by_the_names_of_their_columns() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    // A key that only one file has, and keys in another order.
    let files = vec![
        put("1.ndjson", "{\"a\": 1, \"b\": \"x\"}\n"),
        put("2.ndjson", "{\"b\": \"y\", \"c\": 2, \"a\": 2.5}\n"),
    ];
    let batches: Result<Vec<_>, _> = Files::open(files).unwrap().batches().collect();
    let batches = batches.unwrap();
    let names = |batch: &RecordBatch| {
        let schema = batch.schema();
        let fields = schema.fields().iter();
        fields.map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    assert!(batches.iter().all(|batch| names(batch) == ["a", "b", "c"]));
    assert_eq!(batches[0].schema().field(0).data_type(), &DataType::Float64);
    assert_eq!(batches[0].column(2).null_count(), 1);

    let files = vec![put("1.csv", "a,b\n1,2\n"), put("2.csv", "b,a\n4,3\n")];
    let batches: Result<Vec<_>, _> = Files::open(files).unwrap().batches().collect();
    let batches = batches.unwrap();
    assert_eq!(names(&batches[1]), ["a", "b"]);
    let second: &StringArray = batches[1].column(0).as_any().downcast_ref().unwrap();
    assert_eq!(second.value(0), "3");
    let other = Files::open(vec![put("3.csv", "a\n1\n"), put("4.csv", "b\n1\n")]);
    assert!(told(other.unwrap_err()).contains("`a` is not there"));
    let field = Field::new("item", DataType::Float64, true);
    assert!(kinds::of_type(&DataType::LargeList(Arc::new(field))).is_ok());
}
