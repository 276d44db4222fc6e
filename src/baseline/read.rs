//! Training files as Arrow batches, one after another, in bounded memory.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};

const BATCH_ROWS: usize = 8192;

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
    /// Neither Parquet nor CSV.
    #[error("{}: a training file is .parquet or .csv", .0.display())]
    Format(PathBuf),
    /// Broken inside.
    #[error("{} is broken", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The reader's words; for CSV they name the line.
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
    #[error("{}: no rows; a baseline needs training data", .0.display())]
    Empty(PathBuf),
    /// No files.
    #[error("no training files given")]
    NoFiles,
}

/// Some training files with the same columns.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    schema: SchemaRef,
}

impl Files {
    /// Opens the files and checks that they go together.
    ///
    /// # Errors
    /// A file is missing, of another format, or has other columns than the first.
    pub fn open(paths: Vec<PathBuf>) -> Result<Self, Error> {
        let first = paths.first().ok_or(Error::NoFiles)?;
        let schema = batches(first)?.0;
        for path in &paths[1..] {
            let other = batches(path)?.0;
            if let Some(detail) = difference(&schema, &other) {
                return Err(Error::Columns {
                    file: path.clone(),
                    first: first.clone(),
                    detail,
                });
            }
        }
        Ok(Self { schema, paths })
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

    /// Hands every batch of every file to `each`, in order.
    ///
    /// # Errors
    /// A file is broken inside, or `each` fails.
    pub fn for_each<E: From<Error>>(
        &self,
        mut each: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        for path in &self.paths {
            let (_, reader) = batches(path)?;
            for batch in reader {
                each(batch.map_err(|source| Error::Content {
                    file: path.clone(),
                    source,
                })?)?;
            }
        }
        Ok(())
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

fn batches(path: &Path) -> Result<(SchemaRef, Batches), Error> {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase);
    let file = File::open(path).map_err(|source| Error::Io {
        file: path.into(),
        source,
    })?;
    let content = |source| Error::Content {
        file: path.into(),
        source,
    };
    if file.metadata().is_ok_and(|data| data.len() == 0) {
        return Err(Error::Empty(path.into()));
    }
    match extension.as_deref() {
        Some("parquet" | "pq") => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                .map_err(|e| content(ArrowError::from(e)))?;
            let schema = Arc::clone(builder.schema());
            let reader = builder
                .with_batch_size(BATCH_ROWS)
                .build()
                .map_err(|e| content(ArrowError::from(e)))?;
            Ok((schema, Box::new(reader)))
        }
        Some("csv") => csv_batches(file).map_err(content),
        _ => Err(Error::Format(path.into())),
    }
}

/// CSV columns come as texts: what they are is decided over all rows, not over the first.
fn csv_batches(file: File) -> Result<(SchemaRef, Batches), ArrowError> {
    let mut reader = BufReader::new(file);
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
