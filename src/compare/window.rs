//! One window against the baseline: every test that was asked for, of every feature that it makes
//! sense of, of all features together, and of the window as a whole.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, RecordBatch};

use super::attribution::{self, Contribution};
use super::feature::{self, Sampled, Side};
use super::multivariate::{JointContribution, JointReference, Rows};
use super::{Answer, Reason, Scope, Test, row_volume};
use crate::profile::sample::OWN_COLUMNS;
use crate::profile::{Bins, FeatureLayout, Layout, Profile, Sample, Values, norm};

/// Rows of either side that tests of many features are handed at most; each takes what it needs.
const JOINT_ROWS: usize = 20_000;

/// What the references of all monitors of a baseline share: its profile, and its rows, sorted once per
/// feature that any of them watches.
#[derive(Debug)]
pub struct Shared {
    layout: Arc<Layout>,
    /// Without its sample.
    profile: Arc<Profile>,
    sample: Option<RecordBatch>,
    sampled: Vec<OnceLock<Arc<Sampled>>>,
}

impl Shared {
    /// From a baseline's layout and profile.
    pub fn new(layout: Arc<Layout>, mut profile: Profile) -> Self {
        let sample = profile.sample.settle().ok().flatten().cloned();
        profile.sample = Sample::new(0);
        Self {
            sampled: layout.features.iter().map(|_| OnceLock::new()).collect(),
            layout,
            profile: Arc::new(profile),
            sample,
        }
    }

    /// Bytes held in memory, about, when all features are watched.
    pub fn bytes(&self) -> usize {
        let sample = self.sample.as_ref();
        let rows = sample.map_or(0, RecordBatch::num_rows);
        let numbers = self
            .layout
            .features
            .iter()
            .filter(|one| one.kind.is_numeric());
        let sorted = rows * size_of::<f64>() * numbers.count();
        self.profile.bytes() + sorted + sample.map_or(0, RecordBatch::get_array_memory_size)
    }

    fn sampled(&self, i: usize) -> Arc<Sampled> {
        let sorted = self.sampled[i].get_or_init(|| {
            let values = &self.profile.features[i].values;
            let sample = Sampled::of(
                &self.layout.features[i],
                values,
                self.sample.as_ref(),
                OWN_COLUMNS + i,
                self.profile.rows,
                true,
            );
            Arc::new(sample)
        });
        Arc::clone(sorted)
    }
}

/// What windows are compared with: a baseline, made ready once.
#[derive(Debug)]
pub struct Reference {
    /// The watched features.
    pub layout: Arc<Layout>,
    /// Their profile, without a sample.
    pub profile: Arc<Profile>,
    /// What is computed of every window.
    tests: Vec<Test>,
    /// Rows of each of the baseline's own windows, where it was cut into windows.
    window_rows: Vec<u64>,
    sampled: Vec<Arc<Sampled>>,
    /// Standard deviations of its numbers.
    scales: Vec<f64>,
    /// What tests of many features know of it; none where no such test is asked for.
    joint: Result<JointReference, Reason>,
}

/// What a test says.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Position of the feature in the layout; `None` for a test of many features or of the window.
    pub feature: Option<usize>,
    /// The test.
    pub test: Test,
    /// Its answer.
    pub answer: Answer,
    /// The features, or pairs of them, that a test of many features tells the sides apart by.
    pub apart: Vec<Contribution>,
}

impl Reference {
    /// Makes the watched features of a baseline ready for these tests. `all` is the baseline's own
    /// layout, `window_rows` are the rows of each of its own windows, where it was cut into windows.
    pub fn new(
        layout: Layout,
        all: &Layout,
        profile: &Profile,
        tests: Vec<Test>,
        window_rows: Vec<u64>,
    ) -> Self {
        let shared = Shared::new(Arc::new(all.clone()), profile.clone());
        Self::of(&shared, Arc::new(layout), tests, window_rows)
    }

    /// The same, of a baseline that other monitors watch too; `layout` holds some of its features, or
    /// all.
    pub fn of(
        shared: &Shared,
        layout: Arc<Layout>,
        tests: Vec<Test>,
        window_rows: Vec<u64>,
    ) -> Self {
        let all = &shared.layout.features;
        let place = |name: &str| all.iter().position(|feature| feature.name == name);
        let watched = layout.features.iter();
        let places: Vec<usize> = watched.filter_map(|one| place(&one.name)).collect();
        let profile = if places.iter().copied().eq(0..all.len()) {
            Arc::clone(&shared.profile)
        } else {
            let of = |at: &usize| shared.profile.features[*at].clone();
            Arc::new(Profile {
                rows: shared.profile.rows,
                features: places.iter().map(of).collect(),
                sample: Sample::new(0),
            })
        };
        let sampled: Vec<_> = places.iter().map(|at| shared.sampled(*at)).collect();
        let together = tests.iter().any(|test| test.scope() == Scope::Joint);
        let joint = together.then(|| {
            let columns: Vec<usize> = places.iter().map(|at| OWN_COLUMNS + at).collect();
            let rows = of_sample(shared.sample.as_ref(), &columns)?;
            Ok(JointReference::fit(&rows, &tests))
        });
        let features = layout.features.iter().enumerate();
        let scales = features.map(|(i, layout)| side(&profile, &sampled[i], i).deviation(layout));
        Self {
            scales: scales.collect(),
            layout,
            profile,
            tests,
            window_rows,
            sampled,
            joint: joint.unwrap_or(Err(Reason::NoSample)),
        }
    }

    /// Bytes held in memory beside what is shared, about.
    pub fn bytes(&self) -> usize {
        let rows = usize::try_from(self.profile.rows)
            .unwrap_or(JOINT_ROWS)
            .min(JOINT_ROWS);
        let joint = rows * self.layout.features.len() * size_of::<f64>();
        let windows = self.window_rows.len() * size_of::<u64>();
        windows + if self.joint.is_ok() { joint } else { 0 }
    }

    /// The answers of all tests, feature by feature, then those of many features together and of the
    /// window as a whole.
    pub fn compare(&self, window: &mut Profile) -> Vec<Score> {
        let columns: Vec<usize> = (OWN_COLUMNS..).take(self.layout.features.len()).collect();
        let sample = window.sample.settle().ok().flatten().cloned();
        let tests = &self.tests;
        let sort = tests.iter().any(|test| feature::reads_rows(*test));
        let sampled: Vec<Sampled> = (self.layout.features.iter().zip(&window.features))
            .zip(&columns)
            .map(|((layout, feature), column)| {
                let values = &feature.values;
                Sampled::of(layout, values, sample.as_ref(), *column, window.rows, sort)
            })
            .collect();
        let mut scores = Vec::new();
        for (i, layout) in self.layout.features.iter().enumerate() {
            let (left, right) = (self.side(i), side(window, &sampled[i], i));
            let answers = feature::answers(tests, layout, self.scales[i], left, right);
            scores.extend(answers.into_iter().map(|(test, answer)| Score {
                feature: Some(i),
                test,
                answer,
                apart: Vec::new(),
            }));
        }
        let of = |scope: Scope| tests.iter().filter(move |test| test.scope() == scope);
        if of(Scope::Joint).next().is_some() {
            let rows = of_sample(sample.as_ref(), &columns);
            scores.extend(of(Scope::Joint).map(|test| self.joint(*test, window.rows, &rows)));
        }
        scores.extend(of(Scope::Window).map(|test| Score {
            feature: None,
            test: *test,
            answer: self.row_volume(window.rows),
            apart: Vec::new(),
        }));
        scores
    }

    /// The number of a window's rows against the baseline's own windows: what a window says that has
    /// too few rows for any other test.
    ///
    /// # Errors
    /// [`Reason::NoReference`] where the baseline knows no windows.
    pub fn row_volume(&self, rows: u64) -> Answer {
        row_volume::against(rows, &self.window_rows)
    }

    fn joint(&self, test: Test, rows: u64, window: &Result<Rows, Reason>) -> Score {
        let (answer, apart) = match (&self.joint, window) {
            (Ok(_), Err(Reason::NoSample)) if rows == 0 => (Err(Reason::TooFewRows), Vec::new()),
            (Ok(reference), Ok(window)) => reference.compare(test, window),
            (Err(reason), _) | (_, Err(reason)) => (Err(*reason), Vec::new()),
        };
        Score {
            feature: None,
            test,
            answer,
            apart: apart.iter().map(|one| self.named(one)).collect(),
        }
    }

    fn named(&self, one: &JointContribution) -> Contribution {
        let name = |i: usize| self.layout.features[i].name.as_str();
        Contribution {
            bin: match one.with {
                Some(with) => format!("{} × {}", name(one.feature), name(with)),
                None => name(one.feature).to_owned(),
            },
            reference_share: None,
            window_share: None,
            contribution: one.weight,
        }
    }

    /// The bins or levels that contribute most to a test of a feature, at most `most`.
    pub fn contributions(
        &self,
        test: Test,
        i: usize,
        window: &Profile,
        most: usize,
    ) -> Vec<Contribution> {
        let layout = &self.layout.features[i];
        let (reference, window) = (
            attribution::Side::of(&self.profile, i),
            attribution::Side::of(window, i),
        );
        attribution::of_feature(test, layout, reference, window, most)
    }

    fn side(&self, i: usize) -> Side<'_> {
        side(&self.profile, &self.sampled[i], i)
    }
}

fn side<'a>(profile: &'a Profile, sampled: &'a Sampled, i: usize) -> Side<'a> {
    Side {
        feature: &profile.features[i],
        rows: profile.rows,
        sampled,
    }
}

impl Sampled {
    /// What a sample of a profile with so many rows holds of a feature. Numbers only where they are
    /// asked for: sorting them is most of the work.
    fn of(
        layout: &FeatureLayout,
        values: &Values,
        sample: Option<&RecordBatch>,
        column: usize,
        rows: u64,
        sort: bool,
    ) -> Self {
        let complete = sample.map_or(0, RecordBatch::num_rows) as u64 == rows;
        let mut sampled = Self {
            complete,
            ..Self::default()
        };
        match sample {
            Some(sample) if !layout.kind.is_numeric() && complete => {
                sampled.strangers = strangers(layout, values, sample, column);
            }
            Some(sample) if layout.kind.is_numeric() && sort => {
                let values = norm::numbers(sample.column(column));
                sampled.sorted = values.iter().flatten().collect();
                radsort::sort(&mut sampled.sorted); // by digits: half the time of comparing
            }
            _ => {}
        }
        sampled
    }
}

/// The first rows of a sample, with its features in the order of `columns`.
fn of_sample(sample: Option<&RecordBatch>, columns: &[usize]) -> Result<Rows, Reason> {
    let Some(sample) = sample else {
        return Err(Reason::NoSample);
    };
    let own: Vec<usize> = (0..OWN_COLUMNS).chain(columns.iter().copied()).collect();
    let sample = sample.project(&own).map_err(|_| Reason::DifferentBins)?;
    Rows::from_sample(&sample, JOINT_ROWS)
}

/// Rows per label that the baseline never held, from a sample of all rows. Only where the profile
/// has not all of them itself.
fn strangers(
    layout: &FeatureLayout,
    values: &Values,
    sample: &RecordBatch,
    column: usize,
) -> Option<Vec<u64>> {
    let (Values::Categorical(values), Bins::Levels(levels)) = (values, &layout.bins) else {
        return None;
    };
    let kept: u64 = values.strangers.iter().map(|(_, _, rows)| rows).sum();
    if kept == values.unseen {
        return None;
    }
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for label in sample.column(column).as_string::<i32>().iter().flatten() {
        if levels.get(label).is_none() {
            *counts.entry(label).or_default() += 1;
        }
    }
    let mut counts: Vec<u64> = counts.into_values().collect();
    counts.sort_unstable();
    Some(counts)
}
