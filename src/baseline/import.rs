//! Training files to a baseline in two passes and bounded memory.
//!
//! The first pass sees what the columns are, which levels they hold and how their values are
//! spread (over the row sample); the second counts every row on the bins that follow. Where the
//! files have a time column and the user names a window size, the second pass also counts each
//! window, and what is normal from window to window is learned from that.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;

use super::kinds::{self, Column, Overrides};
use super::read::{self, Files};
use super::rows::{self, Source};
use super::{Baseline, Origin, columns, survey};
use crate::batch::Batch;
use crate::decide::learned::{self, FeatureWindows};
use crate::monitor::TimeUnit;
use crate::profile::{Layout, Profile, coarse, encoding};
use crate::window::open::OTHER_VERSION;

/// A baseline is cut into at most so many windows.
const MAX_WINDOWS: usize = 50_000;

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
    /// Window size in milliseconds for which to learn what is normal.
    pub window_ms: Option<i64>,
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
    /// Too many windows.
    #[error("windows of that size cut the training data into more than {MAX_WINDOWS} windows")]
    TooManyWindows,
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
    /// The counts of its windows on the learned mode's bins, by window start, where asked for.
    pub windows: Option<Windows>,
}

/// Counts per window and feature.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    /// Window start in milliseconds to the counts of each feature.
    pub counts: BTreeMap<i64, Vec<Vec<u64>>>,
}

impl Windows {
    /// What is normal from window to window.
    ///
    /// # Errors
    /// The windows do not tell.
    pub fn calibrate(
        &self,
        layout: &Layout,
        seed: u64,
    ) -> Result<learned::Calibration, learned::Error> {
        learned::calibrate(&self.starts_ms(), &self.features(layout), seed)
    }

    /// When the windows begin, in order.
    pub fn starts_ms(&self) -> Vec<i64> {
        self.counts.keys().copied().collect()
    }

    /// The counts as the learned mode takes them: per feature, over all windows in order.
    pub fn features(&self, layout: &Layout) -> Vec<FeatureWindows> {
        let features = layout.features.iter().enumerate();
        let counts = |i: usize| {
            self.counts
                .values()
                .map(|window| window[i].clone())
                .collect()
        };
        features
            .map(|(i, feature)| FeatureWindows {
                name: feature.name.clone(),
                counts: counts(i),
                own: coarse::own(feature),
                ordered: coarse::ordered(feature),
            })
            .collect()
    }
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
    windows: Windows,
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
        windows: request.window_ms.map(|_| made.windows),
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
    let survey = survey::survey(&files, &columns, request, &mut progress)?;
    if survey.rows == 0 {
        return Err(read::Error::Empty(request.files[0].clone()).into());
    }
    survey.check_named_kinds(&columns, &request.kinds)?;
    let layout = survey.layout(&columns);
    let mut count = Count::new(&layout, request, time_index);
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
        windows: count.windows,
        time_range: count.time_range,
    })
}

/// The second pass.
struct Count {
    profile: Profile,
    windows: Windows,
    window_ms: Option<i64>,
    max_label_bytes: usize,
    time: Option<(usize, TimeUnit)>,
    time_range: Option<(i64, i64)>,
    timeless: u64,
    first_timeless: Option<(u64, String)>,
    rows: u64,
}

impl Count {
    fn new(layout: &Layout, request: &Request, time_index: Option<usize>) -> Self {
        Self {
            profile: Profile::empty(layout, 0),
            windows: Windows::default(),
            window_ms: request.window_ms,
            max_label_bytes: request.max_label_bytes,
            time: time_index.map(|index| (index, request.time_unit)),
            time_range: None,
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
        let all = rows::all_rows(&rows);
        self.profile.add(layout, &rows, &places, &all);
        let Some((index, unit)) = self.time else {
            return Ok(());
        };
        let mut by_window: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, ms) in all.iter().zip(kinds::times(batch.column(index), unit)?) {
            let Some(ms) = ms else {
                self.timeless += 1;
                if self.first_timeless.is_none() {
                    let found = shown(batch.column(index), *row as usize)?;
                    self.first_timeless = Some((before + u64::from(*row) + 1, found));
                }
                continue;
            };
            let (from, to) = self.time_range.get_or_insert((ms, ms));
            (*from, *to) = (ms.min(*from), ms.max(*to));
            if let Some(size) = self.window_ms {
                by_window
                    .entry(ms.div_euclid(size) * size)
                    .or_default()
                    .push(*row);
            }
        }
        for (start, window) in by_window {
            self.add_window(layout, &rows, &places, start, &window);
        }
        if self.windows.counts.len() > MAX_WINDOWS {
            return Err(Error::TooManyWindows);
        }
        Ok(())
    }

    fn add_window(
        &mut self,
        layout: &Layout,
        batch: &Batch,
        places: &[usize],
        start: i64,
        rows: &[u32],
    ) {
        let mut part = Profile::empty(layout, 0);
        part.add(layout, batch, places, rows);
        let counts = coarse::of_profile(layout, &part);
        match self.windows.counts.entry(start) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(counts);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                for (mine, other) in entry.get_mut().iter_mut().zip(counts) {
                    for (mine, other) in mine.iter_mut().zip(other) {
                        *mine += other;
                    }
                }
            }
        }
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
