//! Training files as Arrow batches, one after another, in bounded memory.
//!
//! - Parquet (`.parquet`, `.pq`)
//! - CSV (`.csv`) with a header line
//! - NDJSON (`.ndjson`, `.jsonl`, `.json`): one JSON object a line, see `baseline::ndjson`
//! - Arrow IPC (`.arrow`, `.feather`, `.ipc`), its file and its stream format
//!
//! What is wrong inside a file is said with its place: the line where the format has lines, else
//! the row behind which nothing can be read. A file that ends where another batch might begin
//! (an Arrow stream without its end mark, a CSV or NDJSON file cut at a line's end) looks whole.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use regex::Regex;
use sha2::{Digest, Sha256};

use super::ndjson;

pub(super) const BATCH_ROWS: usize = 8192;

/// Why a training file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system's answer.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// None of the formats.
    #[error(
        "{}: a training file is .parquet, .csv, .ndjson (.jsonl, .json) or .arrow (.feather, .ipc)",
        .0.display()
    )]
    Format(PathBuf),
    /// Broken inside.
    #[error("{} is broken{}", file.display(), behind(*rows))]
    Content {
        /// The file.
        file: PathBuf,
        /// Rows that were read before.
        rows: u64,
        /// The reader's words; for CSV and NDJSON they name the line.
        source: ArrowError,
    },
    /// Files that do not go together.
    #[error("{}: its columns are not those of {}: {detail}", file.display(), first.display())]
    Columns {
        /// The file.
        file: PathBuf,
        /// The first file.
        first: PathBuf,
        /// The first column that differs.
        detail: String,
    },
    /// No rows at all.
    #[error("{}: no rows", .0.display())]
    Empty(PathBuf),
    /// No files.
    #[error("no training files given")]
    NoFiles,
}

fn behind(rows: u64) -> String {
    match rows {
        0 => String::new(),
        rows => format!(" behind row {rows}"),
    }
}

/// Some training files with the same columns.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    schema: SchemaRef,
    /// The columns of those that are NDJSON, over all of them: a key that is seldom there may be
    /// in one file only.
    lines: Option<ndjson::Columns>,
}

impl Files {
    /// Opens the files and checks that they go together.
    ///
    /// # Errors
    /// A file is missing, of another format, or has other columns than the first.
    pub fn open(paths: Vec<PathBuf>) -> Result<Self, Error> {
        let first = paths.first().ok_or(Error::NoFiles)?;
        let lines = survey(&paths)?;
        let schema = batches(first, lines.as_ref())?.0;
        for path in &paths[1..] {
            let other = batches(path, lines.as_ref())?.0;
            if let Some(detail) = difference(&schema, &other) {
                return Err(Error::Columns {
                    file: path.clone(),
                    first: first.clone(),
                    detail,
                });
            }
        }
        Ok(Self {
            schema,
            paths,
            lines,
        })
    }

    /// Their columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The files' names.
    pub fn names(&self) -> Vec<String> {
        self.paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    /// Bytes over all files.
    pub fn bytes(&self) -> u64 {
        self.paths
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|data| data.len())
            .sum()
    }

    /// SHA-256 over the bytes of all files in their order, in hex.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn digest(&self) -> Result<String, Error> {
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        for path in &self.paths {
            let io = |source| Error::Io {
                file: path.clone(),
                source,
            };
            let mut file = File::open(path).map_err(io)?;
            loop {
                let read = file.read(&mut buffer).map_err(io)?;
                if read == 0 {
                    break;
                }
                digest.update(&buffer[..read]);
            }
        }
        Ok(hex::encode(digest.finalize()))
    }

    /// Every batch of every file, in order, each with the columns of [`Files::schema`] in their
    /// order. Nothing comes after an error.
    pub fn batches(&self) -> impl Iterator<Item = Result<RecordBatch, Error>> {
        let mut paths = self.paths.iter();
        let mut current: Option<(&PathBuf, u64, Batches)> = None;
        let mut failed = false;
        std::iter::from_fn(move || {
            while !failed {
                let Some((path, rows, reader)) = &mut current else {
                    let path = paths.next()?;
                    match batches(path, self.lines.as_ref()) {
                        Ok((_, reader)) => current = Some((path, 0, reader)),
                        Err(error) => {
                            failed = true;
                            return Some(Err(error));
                        }
                    }
                    continue;
                };
                match guarded(|| reader.next().transpose()).transpose() {
                    None => current = None,
                    Some(batch) => {
                        let batch = batch.and_then(|batch| self.in_order(batch));
                        failed = batch.is_err();
                        let before = *rows;
                        *rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
                        return Some(batch.map_err(|source| Error::Content {
                            file: path.clone(),
                            rows: before,
                            source,
                        }));
                    }
                }
            }
            None
        })
    }

    /// The columns in the order of the first file.
    fn in_order(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let fields = self.schema.fields().iter();
        let same = fields
            .zip(batch.schema_ref().fields())
            .all(|(mine, other)| mine.name() == other.name());
        if same {
            return Ok(batch);
        }
        let fields = self.schema.fields().iter();
        let places: Result<Vec<usize>, ArrowError> = fields
            .map(|field| batch.schema_ref().index_of(field.name()))
            .collect();
        batch.project(&places?)
    }

    /// Hands every batch of every file to `each`, in order.
    ///
    /// # Errors
    /// A file is broken inside, or `each` fails.
    pub fn for_each<E: From<Error>>(
        &self,
        mut each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        self.batches().try_for_each(|batch| each(batch?))
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

enum Format {
    Parquet,
    Csv,
    Lines,
    Ipc,
}

fn format_of(path: &Path) -> Result<Format, Error> {
    let extension = path.extension().and_then(|e| e.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("parquet" | "pq") => Ok(Format::Parquet),
        Some("csv") => Ok(Format::Csv),
        Some("ndjson" | "jsonl" | "json") => Ok(Format::Lines),
        Some("arrow" | "feather" | "ipc") => Ok(Format::Ipc),
        _ => Err(Error::Format(path.into())),
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(|source| Error::Io {
        file: path.into(),
        source,
    })?;
    if file.metadata().is_ok_and(|data| data.len() == 0) {
        return Err(Error::Empty(path.into()));
    }
    Ok(file)
}

/// What the lines of all NDJSON files hold; `None` where there are no such files.
fn survey(paths: &[PathBuf]) -> Result<Option<ndjson::Columns>, Error> {
    let mut found = None;
    for path in paths {
        if matches!(format_of(path)?, Format::Lines) {
            let columns = found.get_or_insert_with(ndjson::Columns::default);
            let source = columns.see(BufReader::new(open(path)?));
            source.map_err(|source| Error::Content {
                file: path.clone(),
                rows: 0,
                source,
            })?;
        }
    }
    Ok(found)
}

fn batches(path: &Path, lines: Option<&ndjson::Columns>) -> Result<(SchemaRef, Batches), Error> {
    let format = format_of(path)?;
    let file = open(path)?;
    let reader = match (format, lines) {
        (Format::Parquet, _) => guarded(|| parquet_batches(file)),
        (Format::Csv, _) => csv_batches(file),
        (Format::Ipc, _) => guarded(|| ipc_batches(file)),
        (Format::Lines, Some(columns)) => {
            let reader = columns.read(BufReader::new(file));
            Ok((columns.schema(), Box::new(reader) as Batches))
        }
        (Format::Lines, None) => return Err(Error::Format(path.into())),
    };
    reader.map_err(|source| Error::Content {
        file: path.into(),
        rows: 0,
        source,
    })
}

/// The readers of binary formats assert what a damaged file may not keep: that is an error of the
/// file as well.
fn guarded<T>(read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ArrowError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        let said = text.unwrap_or("it does not say why");
        Err(ArrowError::ParseError(format!(
            "the reader gave up: {said}"
        )))
    })
}

fn parquet_batches(file: File) -> Result<(SchemaRef, Batches), ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let schema = Arc::clone(builder.schema());
    let reader = builder.with_batch_size(BATCH_ROWS).build()?;
    Ok((schema, Box::new(reader)))
}

/// The file format begins with its name; anything else is taken for the stream format.
/// Batches are as long as their writer made them; they are handed on in parts.
fn ipc_batches(mut file: File) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut head = Vec::new();
    file.by_ref().take(6).read_to_end(&mut head)?;
    file.rewind()?;
    if head == b"ARROW1" {
        let reader = FileReader::try_new_buffered(file, None)?;
        Ok((reader.schema(), Box::new(reader.flat_map(in_parts))))
    } else {
        let reader = StreamReader::try_new_buffered(file, None)?;
        Ok((reader.schema(), Box::new(reader.flat_map(in_parts))))
    }
}

fn in_parts(batch: Result<RecordBatch, ArrowError>) -> Vec<Result<RecordBatch, ArrowError>> {
    match batch {
        Err(error) => vec![Err(error)],
        Ok(batch) => (0..batch.num_rows())
            .step_by(BATCH_ROWS)
            .map(|from| Ok(batch.slice(from, BATCH_ROWS.min(batch.num_rows() - from))))
            .collect(),
    }
}

/// CSV columns come as texts: what they are is decided over all rows, not over the first. An empty
/// field is null, since CSV knows no other.
fn csv_batches(file: File) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut reader = BufReader::new(file);
    let empty = Regex::new("^$").map_err(|error| ArrowError::CsvError(error.to_string()))?;
    let format = csv::reader::Format::default().with_header(true);
    let (header, _) = format.infer_schema(&mut reader, Some(1))?;
    reader.rewind()?;
    let fields: Vec<Field> = header
        .fields()
        .iter()
        .map(|f| Field::new(f.name(), DataType::Utf8, true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let reader = csv::ReaderBuilder::new(Arc::clone(&schema))
        .with_header(true)
        .with_null_regex(empty)
        .with_batch_size(BATCH_ROWS)
        .build_buffered(reader)?;
    Ok((schema, Box::new(reader)))
}

fn difference(first: &Schema, other: &Schema) -> Option<String> {
    for field in first.fields() {
        match other.field_with_name(field.name()) {
            Err(_) => return Some(format!("`{}` is not there", field.name())),
            Ok(same) if same.data_type() != field.data_type() => {
                let (was, is) = (field.data_type(), same.data_type());
                return Some(format!("`{}` is {is}, was {was}", field.name()));
            }
            Ok(_) => {}
        }
    }
    let more = other
        .fields()
        .iter()
        .find(|field| first.field_with_name(field.name()).is_err());
    more.map(|field| format!("`{}` is new", field.name()))
}
