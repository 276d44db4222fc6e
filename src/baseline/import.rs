//! Training files to a baseline in two passes and bounded memory.
//!
//! The first pass sees what the columns are, which levels they hold and how their values are
//! spread (over the row sample); the second counts every row on the bins that follow. Where the
//! files have a time column, the second pass also counts the rows into slots of time: what is normal
//! from window to window is learned from them, for windows of any size.

use std::path::PathBuf;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use chrono_tz::Tz;

use super::kinds::{self, Column, Overrides};
use super::read::{self, Files};
use super::rows::{self, Source};
use super::windows::{self, Counter, Slots};
use super::{Baseline, Origin, columns, survey};
use crate::batch::{Batch, Selection};
use crate::monitor::TimeUnit;
use crate::profile::{Layout, Profile, encoding};
use crate::window::open::OTHER_VERSION;

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Training files, of the formats that [`read`] knows.
    pub files: Vec<PathBuf>,
    /// The column with the event time.
    pub time_column: Option<String>,
    /// How numbers in it are read.
    pub time_unit: TimeUnit,
    /// A window size in milliseconds that slots have to add up to.
    pub window_ms: Option<i64>,
    /// Windows of whole days that slots have to add up to are days of this time zone.
    pub time_zone: Tz,
    /// Columns that become features; empty: all.
    pub features: Vec<String>,
    /// Columns that do not.
    pub exclude: Vec<String>,
    /// Kinds that the user names.
    pub kinds: Overrides,
    /// A column with more levels than this is no category.
    pub max_levels: usize,
    /// Longer labels are cut.
    pub max_label_bytes: usize,
    /// Rows that are kept as they are.
    pub sample_rows: usize,
}

/// Why no baseline comes out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Read(#[from] read::Error),
    /// A conversion.
    #[error("cannot convert the training data")]
    Arrow(#[from] ArrowError),
    /// The stored form.
    #[error(transparent)]
    Encoding(#[from] encoding::Error),
    /// A column that is named but not there.
    #[error("column `{column}` ({option}) is not in the training data; it has {found}")]
    NoColumn {
        /// The column.
        column: String,
        /// The option that names it.
        option: &'static str,
        /// What there is.
        found: String,
    },
    /// A column that cannot be a feature.
    #[error("column `{column}`: {detail}")]
    Column {
        /// The column.
        column: String,
        /// Why.
        detail: String,
    },
    /// A window size without a time column.
    #[error("--window needs --time: without a time column there are no windows")]
    WindowWithoutTime,
    /// A version that means something else.
    #[error(
        "version `{OTHER_VERSION}` is what driftd calls all versions without a baseline; choose another name"
    )]
    Version,
    /// Nothing to watch.
    #[error("none of the columns ({0}) is left as a feature; name fewer with --exclude")]
    NoFeatures(String),
    /// Rows without a time.
    #[error(
        "column `{column}` (--time) holds no time in {rows} of {all} rows, first in row {row}: \
         {found}; expected texts such as 2026-01-31T08:00:00Z, or numbers in the unit of --time-unit"
    )]
    NoTime {
        /// The column.
        column: String,
        /// Rows without a time.
        rows: u64,
        /// All rows.
        all: u64,
        /// The first of them, from 1.
        row: u64,
        /// What stands there.
        found: String,
    },
}

/// What an import makes.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The baseline.
    pub baseline: Baseline,
    /// Its rows by time, where the files have a time column.
    pub slots: Option<Slots>,
    /// Its rows were held out: its digest is not that of the version's training data.
    pub is_held_out: bool,
}

/// Training files, profiled on bins of their own.
#[derive(Debug)]
pub struct Profiled {
    /// The bins.
    pub layout: Layout,
    /// The rows on them.
    pub profile: Profile,
    /// The names of all columns, features or not.
    pub columns: Vec<String>,
    files: Files,
    slots: Option<Slots>,
    time_range: Option<(i64, i64)>,
}

/// Reads the files twice and makes the baseline. `progress` is called with how many rows more were
/// read, over both passes.
///
/// # Errors
/// Says which file or column is wrong and what would be right.
pub fn import(request: &Request, progress: impl FnMut(u64)) -> Result<Imported, Error> {
    if request.version == OTHER_VERSION {
        return Err(Error::Version);
    }
    let made = profile(request, progress)?;
    let origin = Origin {
        training_data_digest: made.files.digest()?,
        files: made.files.names(),
        time_column: request.time_column.clone(),
        time_range: made.time_range,
    };
    let (model, version) = (request.model.clone(), request.version.clone());
    let baseline = Baseline::new(model, version, made.layout, made.profile, origin)?;
    Ok(Imported {
        baseline,
        slots: made.slots,
        is_held_out: false,
    })
}

/// Reads the files twice; [`import`] without the digests that name a baseline.
///
/// # Errors
/// As [`import`].
pub fn profile(request: &Request, mut progress: impl FnMut(u64)) -> Result<Profiled, Error> {
    if request.window_ms.is_some() && request.time_column.is_none() {
        return Err(Error::WindowWithoutTime);
    }
    let files = Files::open(request.files.clone())?;
    let time_index = columns::time_index(request, &files)?;
    let columns = columns::choose(request, &files, &mut progress)?;
    let survey = survey::survey(&files, &columns, time_index, request, &mut progress)?;
    if survey.rows == 0 {
        return Err(read::Error::Empty(request.files[0].clone()).into());
    }
    survey.check_named_kinds(&columns, &request.kinds)?;
    let layout = survey.layout(&columns);
    let slots = survey.time_range.map(|range| {
        let slot_ms = windows::slot_for(range, request.window_ms, request.time_zone);
        Counter::new(&layout, survey.asking(&layout), slot_ms)
    });
    let mut count = Count::new(&layout, request, time_index, slots);
    files.for_each(|batch| {
        progress(batch.num_rows() as u64);
        count.add(&layout, &columns, &batch)
    })?;
    if let Some((row, found)) = count.first_timeless {
        let column = request.time_column.clone().unwrap_or_default();
        return Err(Error::NoTime {
            column,
            rows: count.timeless,
            all: count.profile.rows,
            row,
            found,
        });
    }
    let fields = files.schema().fields().iter();
    Ok(Profiled {
        columns: fields.map(|field| field.name().clone()).collect(),
        layout,
        profile: Profile {
            sample: survey.sample,
            ..count.profile
        },
        files,
        slots: count.slots.map(Counter::finish),
        time_range: survey.time_range,
    })
}

/// The second pass.
struct Count {
    profile: Profile,
    slots: Option<Counter>,
    max_label_bytes: usize,
    time: Option<(usize, TimeUnit)>,
    timeless: u64,
    first_timeless: Option<(u64, String)>,
    rows: u64,
}

impl Count {
    fn new(
        layout: &Layout,
        request: &Request,
        time_index: Option<usize>,
        slots: Option<Counter>,
    ) -> Self {
        Self {
            profile: Profile::empty(layout, 0),
            slots,
            max_label_bytes: request.max_label_bytes,
            time: time_index.map(|index| (index, request.time_unit)),
            timeless: 0,
            first_timeless: None,
            rows: 0,
        }
    }

    fn add(
        &mut self,
        layout: &Layout,
        columns: &[Column],
        batch: &RecordBatch,
    ) -> Result<(), Error> {
        let before = self.rows;
        let rows = to_batch(columns, batch, before, self.max_label_bytes)?;
        self.rows += batch.num_rows() as u64;
        let places: Vec<usize> = (0..columns.len()).collect();
        let all = Selection::all(&rows);
        self.profile.add(layout, &rows, &places, all);
        let Some((index, unit)) = self.time else {
            return Ok(());
        };
        let times = kinds::times(batch.column(index), unit)?;
        for (row, ms) in times.iter().enumerate() {
            if ms.is_some() {
                continue;
            }
            self.timeless += 1;
            if self.first_timeless.is_none() {
                let found = shown(batch.column(index), row)?;
                self.first_timeless = Some((before + row as u64 + 1, found));
            }
        }
        if let Some(slots) = &mut self.slots {
            slots.add(layout, &rows, &times);
        }
        Ok(())
    }
}

/// A cell as it stands in an error.
fn shown(column: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    if column.is_null(row) {
        return Ok("nothing".into());
    }
    Ok(format!("`{}`", array_value_to_string(column, row)?))
}

/// Rows of a training file on the columns that became features; the first of them is number `before`.
pub(super) fn to_batch(
    columns: &[Column],
    batch: &RecordBatch,
    before: u64,
    most_label: usize,
) -> Result<Batch, ArrowError> {
    let sources: Vec<Source<'_>> = columns
        .iter()
        .map(|one| (one.kind, one.dimension, Some(batch.column(one.index))))
        .collect();
    rows::to_batch(&sources, batch, before, most_label)
}
