//! Training files to a baseline in two passes and bounded memory.
//!
//! The first pass sees what the columns are, which levels they hold and how their values are
//! spread (over the row sample); the second counts every row on the bins that follow. Where the
//! files have a time column and the user names a window size, the second pass also counts each
//! window, and what is normal from window to window is learned from that.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;

use super::columns;
use super::kinds::{self, Column, Overrides};
use super::read::{self, Files};
use super::{Baseline, Origin};
use crate::batch::{Batch, Builder, Cell, Shape};
use crate::decide::learned::FeatureWindows;
use crate::monitor::{Kind, TimeUnit};
use crate::profile::sample::{OWN_COLUMNS, Provenance, RowHash, most_rows};
use crate::profile::{Bins, FeatureLayout, Grid, Layout, Levels, Profile, Sample, encoding};
use crate::profile::{coarse, norm};

/// A baseline is cut into at most so many windows.
const MAX_WINDOWS: usize = 50_000;
/// Key of the row sample's hash.
pub(super) const HASH_KEY: u64 = 0x6472_6966_7464; // fixed: the same files always give the same baseline

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

/// Reads the files twice and makes the baseline. `progress` is called with how many rows more were
/// read, over both passes.
///
/// # Errors
/// Says which file or column is wrong and what would be right.
pub fn import(request: &Request, mut progress: impl FnMut(u64)) -> Result<Imported, Error> {
    if request.window_ms.is_some() && request.time_column.is_none() {
        return Err(Error::WindowWithoutTime);
    }
    let files = Files::open(request.files.clone())?;
    let time_index = columns::time_index(request, &files)?;
    let columns = columns::choose(request, &files, &mut progress)?;
    let survey = survey(&files, &columns, request, &mut progress)?;
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
    let Count {
        mut profile,
        windows,
        time_range,
        timeless,
        first_timeless,
        ..
    } = count;
    if let Some((row, found)) = first_timeless {
        let column = request.time_column.clone().unwrap_or_default();
        return Err(Error::NoTime {
            column,
            rows: timeless,
            all: profile.rows,
            row,
            found,
        });
    }
    profile.sample = survey.sample;
    let origin = Origin {
        training_data_digest: files.digest()?,
        files: files.names(),
        time_column: request.time_column.clone(),
        time_range,
    };
    let (model, version) = (request.model.clone(), request.version.clone());
    let baseline = Baseline::new(model, version, layout, profile, origin)?;
    Ok(Imported {
        baseline,
        windows: request.window_ms.map(|_| windows),
    })
}

/// What the first pass sees.
struct Survey {
    rows: u64,
    ranges: Vec<(f64, f64)>,
    /// Values that are not what their column is.
    unreadable: Vec<u64>,
    levels: Vec<HashMap<String, u64>>,
    max_levels: usize,
    sample: Sample,
}

fn survey(
    files: &Files,
    columns: &[Column],
    request: &Request,
    progress: &mut impl FnMut(u64),
) -> Result<Survey, Error> {
    // The sample needs names and kinds only; the bins come from it.
    let features = columns.iter().map(|c| feature(c, no_bins(c.kind)));
    let layout = Layout {
        features: features.collect(),
    };
    let mut survey = Survey {
        rows: 0,
        ranges: vec![(f64::INFINITY, f64::NEG_INFINITY); columns.len()],
        unreadable: vec![0; columns.len()],
        levels: vec![HashMap::new(); columns.len()],
        max_levels: request.max_levels,
        sample: Sample::new(most_rows(&layout, request.sample_rows)),
    };
    files.for_each(|batch| {
        progress(batch.num_rows() as u64);
        survey.add(&layout, columns, &batch)
    })?;
    survey.sample.settle()?;
    Ok(survey)
}

impl Survey {
    fn add(
        &mut self,
        layout: &Layout,
        columns: &[Column],
        batch: &RecordBatch,
    ) -> Result<(), Error> {
        let rows = to_batch(columns, batch, self.rows)?;
        self.rows += batch.num_rows() as u64;
        for (i, column) in columns.iter().enumerate() {
            if column.kind.is_numeric() {
                let wrong = rows.cells[i]
                    .iter()
                    .filter(|cell| **cell == Cell::WrongType);
                self.unreadable[i] += wrong.count() as u64;
                let (least, greatest) = &mut self.ranges[i];
                for value in norm::numbers(&rows.columns[i]).iter().flatten() {
                    *least = least.min(value);
                    *greatest = greatest.max(value);
                }
            } else {
                self.see_levels(i, column, &rows)?;
            }
        }
        let all: Vec<u32> = (0..u32::try_from(rows.origins.len()).unwrap_or(u32::MAX)).collect();
        let event_ms = vec![0; rows.origins.len()];
        let from = Provenance {
            partition: 0,
            hash: RowHash::new(HASH_KEY, 0),
            event_ms: &event_ms,
        };
        let places: Vec<usize> = (0..columns.len()).collect();
        Ok(self.sample.add(layout, &rows, &places, &all, from)?)
    }

    fn see_levels(&mut self, i: usize, column: &Column, rows: &Batch) -> Result<(), Error> {
        let codes = rows.columns[i].as_dictionary::<arrow::datatypes::UInt32Type>();
        let texts = codes.values().as_string::<i32>();
        let mut counts = vec![0u64; texts.len()];
        for key in codes.keys().iter().flatten() {
            counts[key as usize] += 1;
        }
        let levels = &mut self.levels[i];
        for (code, count) in counts
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0)
        {
            *levels.entry(texts.value(code).to_owned()).or_default() += count;
        }
        if levels.len() > self.max_levels {
            let detail = format!(
                "more than {} levels (limits.max_levels): is it an identifier? Leave it out with --exclude {}, \
                 or read it as numbers",
                self.max_levels, column.name
            );
            return Err(Error::Column {
                column: column.name.clone(),
                detail,
            });
        }
        Ok(())
    }

    /// A kind that the user names and that no value is of is a mistake, not a feature that is
    /// always absent.
    fn check_named_kinds(&self, columns: &[Column], named: &Overrides) -> Result<(), Error> {
        let mut ranges = columns.iter().zip(&self.ranges).zip(&self.unreadable);
        let wrong = ranges.find(|((column, (least, greatest)), unreadable)| {
            named.contains_key(&column.name)
                && column.kind.is_numeric()
                && least > greatest
                && **unreadable > 0
        });
        wrong.map_or(Ok(()), |((column, _), _)| {
            Err(Error::Column {
                column: column.name.clone(),
                detail: "not one of its values is of the kind that is named for it".into(),
            })
        })
    }

    fn layout(&self, columns: &[Column]) -> Layout {
        let rows = self.sample.clone().settle().ok().flatten().cloned();
        let features = columns.iter().enumerate().map(|(i, column)| {
            let bins = if column.kind.is_numeric() {
                let mut values: Vec<f64> = rows
                    .iter()
                    .flat_map(|rows| {
                        let numbers = norm::numbers(rows.column(OWN_COLUMNS + i));
                        numbers.iter().flatten().collect::<Vec<f64>>()
                    })
                    .collect();
                values.sort_by(f64::total_cmp);
                let (least, greatest) = self.ranges[i];
                if values.is_empty() {
                    // No value in all of the training data: everything will be out of range.
                    Bins::Grid(Grid::from_sorted(&[0.0], 0.0, 0.0))
                } else {
                    Bins::Grid(Grid::from_sorted(&values, least, greatest))
                }
            } else {
                let mut levels: Vec<(&String, &u64)> = self.levels[i].iter().collect();
                levels.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
                Bins::Levels(Levels::new(
                    levels.into_iter().map(|(name, _)| name.clone()).collect(),
                ))
            };
            feature(column, bins)
        });
        Layout {
            features: features.collect(),
        }
    }
}

fn feature(column: &Column, bins: Bins) -> FeatureLayout {
    let Column {
        name,
        kind,
        plain_numbers,
        dimension,
        ..
    } = column.clone();
    FeatureLayout {
        name,
        kind,
        plain_numbers,
        dimension,
        bins,
    }
}

fn no_bins(kind: Kind) -> Bins {
    if kind.is_numeric() {
        Bins::Grid(Grid::from_sorted(&[0.0], 0.0, 0.0))
    } else {
        Bins::Levels(Levels::default())
    }
}

/// The second pass.
struct Count {
    profile: Profile,
    windows: Windows,
    window_ms: Option<i64>,
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
        let rows = to_batch(columns, batch, before)?;
        self.rows += batch.num_rows() as u64;
        let places: Vec<usize> = (0..columns.len()).collect();
        let all: Vec<u32> = (0..u32::try_from(rows.origins.len()).unwrap_or(u32::MAX)).collect();
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

fn to_batch(columns: &[Column], batch: &RecordBatch, before: u64) -> Result<Batch, Error> {
    let shapes: Vec<Shape> = columns
        .iter()
        .map(|column| kinds::shape(column.kind, column.dimension))
        .collect();
    let rows = batch.num_rows();
    let mut builder = Builder::new(&shapes, rows.max(1));
    for (i, column) in columns.iter().enumerate() {
        kinds::write(batch.column(column.index), column.kind, i, &mut builder)?;
    }
    for row in 0..rows as u64 {
        builder.keep(i64::try_from(before + row).unwrap_or(i64::MAX), None, 1);
    }
    Ok(builder.finish())
}
