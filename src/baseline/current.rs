//! Files as one window of a baseline: read once, profiled on the baseline's bins.
//!
//! Columns are matched by name. What differs is listed; a column of another kind is an error that
//! names it, since every answer about it would be about the wrong thing.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use serde::Serialize;

use super::kinds::{self, Overrides, Texts};
use super::read::{self, Files};
use super::rows::{self, Source};
use crate::batch::Selection;
use crate::monitor::Kind;
use crate::profile::{Bins, FeatureLayout, Layout, Profile};

/// Why files cannot be compared with a baseline.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Read(#[from] read::Error),
    /// A conversion.
    #[error("cannot convert the current data")]
    Arrow(#[from] ArrowError),
    /// Two columns of one name.
    #[error("the current data have two columns called `{0}`; which one is meant?")]
    Twice(String),
    /// A column of another kind.
    #[error(
        "column `{column}` is {expected} in the reference and {found} in the current data; name its \
         kind with --numeric {column} or --categorical {column} if both can be read so, or leave it \
         out with --exclude {column}"
    )]
    Kind {
        /// The column.
        column: String,
        /// What the reference says.
        expected: String,
        /// What is found.
        found: String,
    },
}

/// Files as a window.
#[derive(Debug)]
pub struct Current {
    /// Their rows on the baseline's bins.
    pub profile: Profile,
    /// How their columns differ from the baseline's.
    pub differences: Differences,
}

/// How the columns of two sides differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// Features that the current data lacks; they count as missing in every row.
    pub missing: Vec<String>,
    /// Columns that the reference lacks; nothing is said of them.
    pub new: Vec<String>,
}

/// Reads the files on the bins of a layout. `known` are all columns of the reference, features or
/// not; what is of a kind that the user named is read as that, whatever its type says; up to
/// `sample_rows` rows are kept as they are, and labels are cut to `max_label_bytes`.
///
/// # Errors
/// A file is broken, or a column is of another kind.
pub fn profile(
    files: &Files,
    layout: &Layout,
    known: &[String],
    named: &Overrides,
    sample_rows: usize,
    max_label_bytes: usize,
) -> Result<Current, Error> {
    let schema = files.schema();
    for feature in &layout.features {
        let fields = schema.fields().iter();
        if fields.filter(|field| *field.name() == feature.name).count() > 1 {
            return Err(Error::Twice(feature.name.clone()));
        }
    }
    let columns: Vec<Option<usize>> = layout
        .features
        .iter()
        .map(|feature| schema.index_of(&feature.name).ok())
        .collect();
    for (feature, column) in layout.features.iter().zip(&columns) {
        if let Some(column) = column {
            let found = schema.field(*column).data_type();
            match named.get(&feature.name) {
                Some(kind) => kinds::check(found, *kind).map_err(|_| mismatch(feature, found))?,
                None => check_type(feature, found)?,
            }
        }
    }
    let mut window = Window {
        layout,
        texts: vec![Texts::default(); columns.len()],
        columns,
        max_label_bytes,
        profile: Profile::empty(layout, sample_rows),
    };
    files.for_each(|batch| window.add(&batch))?;
    window.check_texts(schema)?;
    let differences = window.differences(schema, known);
    Ok(Current {
        profile: window.profile,
        differences,
    })
}

struct Window<'a> {
    layout: &'a Layout,
    columns: Vec<Option<usize>>,
    /// What stands in text columns of numeric features.
    texts: Vec<Texts>,
    max_label_bytes: usize,
    profile: Profile,
}

impl Window<'_> {
    fn add(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let mut sources: Vec<Source<'_>> = Vec::with_capacity(self.columns.len());
        for (i, (feature, column)) in self.layout.features.iter().zip(&self.columns).enumerate() {
            let values = column.map(|column| batch.column(column));
            if let Some(values) = values
                && feature.kind == Kind::Numeric
                && is_text(values.data_type())
            {
                self.texts[i].see(values)?;
            }
            sources.push((feature.kind, feature.dimension, values));
        }
        let rows = rows::to_batch(&sources, batch, self.profile.rows, self.max_label_bytes)?;
        let places: Vec<usize> = (0..self.columns.len()).collect();
        let all = Selection::all(&rows);
        self.profile.add(self.layout, &rows, &places, all);
        rows::offer(&mut self.profile.sample, self.layout, &rows, 1);
        Ok(())
    }

    /// A text column for a numeric feature is one of numbers with a few that cannot be read, or it
    /// is a column of labels.
    fn check_texts(&self, schema: &Schema) -> Result<(), Error> {
        for ((feature, column), texts) in self
            .layout
            .features
            .iter()
            .zip(&self.columns)
            .zip(&self.texts)
        {
            if let Some(column) = column
                && texts.are_labels()
            {
                return Err(mismatch(feature, schema.field(*column).data_type()));
            }
        }
        Ok(())
    }

    fn differences(&self, schema: &Schema, known: &[String]) -> Differences {
        let features = self.layout.features.iter().zip(&self.columns);
        let missing = features.filter(|(_, column)| column.is_none());
        let names = schema.fields().iter().map(|field| field.name().clone());
        Differences {
            missing: missing.map(|(feature, _)| feature.name.clone()).collect(),
            new: names.filter(|name| !known.contains(name)).collect(),
        }
    }
}

fn check_type(feature: &FeatureLayout, found: &DataType) -> Result<(), Error> {
    if matches!(&feature.bins, Bins::Levels(levels) if levels.names().is_empty()) {
        return Ok(()); // the reference holds no value that could say what the column is
    }
    let fits = match (feature.kind, kinds::of_type(found)) {
        (_, Ok(None)) => true, // texts: what they hold decides
        (kind, Ok(Some(found))) => {
            kind == found
                || kind == Kind::Categorical && (feature.plain_numbers || found == Kind::Boolean)
                || kind == Kind::Boolean && matches!(found, Kind::Categorical | Kind::Numeric)
                || kind == Kind::Numeric && found == Kind::Boolean && feature.plain_numbers
        }
        (_, Err(_)) => false,
    };
    if fits {
        Ok(())
    } else {
        Err(mismatch(feature, found))
    }
}

fn mismatch(feature: &FeatureLayout, found: &DataType) -> Error {
    let kind = |kind: Kind| {
        serde_json::to_value(kind).map_or_else(
            |_| String::new(),
            |v| v.as_str().unwrap_or_default().to_owned(),
        )
    };
    Error::Kind {
        column: feature.name.clone(),
        expected: kind(feature.kind),
        found: match kinds::of_type(found) {
            Ok(Some(found)) => kind(found),
            Ok(None) => "text".into(),
            Err(_) => found.to_string(),
        },
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(kinds::of_type(data_type), Ok(None))
}
