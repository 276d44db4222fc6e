//! The first pass over training files: which levels their columns hold and how their values are
//! spread, from which the bins follow.

use std::collections::HashMap;

use arrow::array::RecordBatch;

use super::import::{Error, Request, to_batch};
use super::kinds::{self, Column, Overrides};
use super::read::Files;
use super::rows;
use crate::batch::{Batch, Cell, Slice};
use crate::decide::rule::Asking;
use crate::monitor::{Kind, TimeUnit};
use crate::profile::sample::{OWN_COLUMNS, most_rows};
use crate::profile::{Bins, FeatureLayout, Grid, Layout, Levels, Sample, norm};

/// What the first pass sees.
pub(super) struct Survey {
    /// Rows of all files.
    pub(super) rows: u64,
    ranges: Vec<(f64, f64)>,
    /// Values that are not what their column is.
    unreadable: Vec<u64>,
    levels: Vec<HashMap<String, u64>>,
    time: Option<(usize, TimeUnit)>,
    /// Least and greatest event time in milliseconds.
    pub(super) time_range: Option<(i64, i64)>,
    max_levels: usize,
    max_label_bytes: usize,
    /// Rows as they were.
    pub(super) sample: Sample,
}

/// Reads all files once.
pub(super) fn survey(
    files: &Files,
    columns: &[Column],
    time_index: Option<usize>,
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
        time: time_index.map(|index| (index, request.time_unit)),
        time_range: None,
        max_levels: request.max_levels,
        max_label_bytes: request.max_label_bytes,
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
        let rows = to_batch(columns, batch, self.rows, self.max_label_bytes)?;
        self.rows += batch.num_rows() as u64;
        if let Some((index, unit)) = self.time {
            for ms in kinds::times(batch.column(index), unit)?
                .into_iter()
                .flatten()
            {
                let (from, to) = self.time_range.get_or_insert((ms, ms));
                (*from, *to) = (ms.min(*from), ms.max(*to));
            }
        }
        for (i, column) in columns.iter().enumerate() {
            if column.kind.is_numeric() {
                let wrong = rows
                    .cells(i)
                    .iter()
                    .filter(|cell| **cell == Cell::WrongType);
                self.unreadable[i] += wrong.count() as u64;
                let (least, greatest) = &mut self.ranges[i];
                for value in norm::numbers(&rows.array(i)).iter().flatten() {
                    *least = least.min(value);
                    *greatest = greatest.max(value);
                }
            } else {
                self.see_levels(i, column, &rows)?;
            }
        }
        rows::offer(&mut self.sample, layout, &rows, 0);
        Ok(())
    }

    fn see_levels(&mut self, i: usize, column: &Column, rows: &Batch) -> Result<(), Error> {
        let Slice::Text(codes, texts) = rows.values(i) else {
            return Ok(());
        };
        let mut counts = vec![0u64; texts.len()];
        for (code, cell) in codes.iter().zip(rows.cells(i)) {
            if cell.has_value() {
                counts[*code as usize] += 1;
            }
        }
        let levels = &mut self.levels[i];
        for (code, count) in counts
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0)
        {
            *levels.entry(texts.get(code).to_owned()).or_default() += count;
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
    pub(super) fn check_named_kinds(
        &self,
        columns: &[Column],
        named: &Overrides,
    ) -> Result<(), Error> {
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

    /// How the values of the layout are scored for the rule.
    pub(super) fn asking(&self, layout: &Layout) -> Asking {
        let rows = self.sample.clone().settle().ok().flatten().cloned();
        let levels = layout
            .features
            .iter()
            .zip(&self.levels)
            .map(|(feature, counts)| {
                let Bins::Levels(levels) = &feature.bins else {
                    return Vec::new();
                };
                let count = |name: &String| counts.get(name).copied().unwrap_or(0);
                levels.names().iter().map(count).collect()
            });
        Asking::new(layout, rows.as_ref(), &levels.collect::<Vec<_>>())
    }

    pub(super) fn layout(&self, columns: &[Column]) -> Layout {
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
