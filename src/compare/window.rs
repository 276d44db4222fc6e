//! One window against the baseline: every configured test of every feature.
//!
//! Where the row samples of both sides hold all of their rows, tests on values are exact; else they
//! run on the fine grid of the full data, with a bound on the error beside the statistic.

use super::wasserstein::BinSum;
use super::{Answer, Reason, Scope, Test, adjust, chi2, js, ks, psi, rates, unseen, wasserstein};
use crate::profile::sample::OWN_COLUMNS;
use crate::profile::{Bins, Feature, FeatureLayout, Grid, Layout, Numeric, Profile, Values};
use crate::profile::{coarse, norm};

/// What windows are compared with: a baseline, made ready once.
#[derive(Debug)]
pub struct Reference {
    /// The watched features.
    pub layout: Layout,
    /// Their profile.
    pub profile: Profile,
    /// Sorted values per numeric feature, if the sample holds all rows.
    sorted: Option<Vec<Vec<f64>>>,
}

/// What a test says of a feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Position of the feature in the layout.
    pub feature: usize,
    /// The test.
    pub test: Test,
    /// Its answer.
    pub answer: Answer,
    /// The p-value adjusted over the features of the window, where there is one.
    pub p_adjusted: Option<f64>,
}

/// A bin or level with its shares on both sides.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Contribution {
    /// What people call it.
    pub bin: String,
    /// Its share of the baseline.
    pub reference_share: f64,
    /// Its share of the window.
    pub window_share: f64,
}

impl Reference {
    /// Makes the watched features of a baseline ready. `all` is the baseline's own layout.
    pub fn new(layout: Layout, all: &Layout, profile: &Profile) -> Self {
        let place = |name: &str| all.features.iter().position(|feature| feature.name == name);
        let places: Vec<usize> = layout
            .features
            .iter()
            .filter_map(|f| place(&f.name))
            .collect();
        let mut profile = profile.clone();
        let features = places
            .iter()
            .map(|at| profile.features[*at].clone())
            .collect();
        let sorted = sorted_values(&layout, &mut profile, |i| places[i]);
        Self {
            layout,
            profile: Profile {
                features,
                ..profile
            },
            sorted,
        }
    }

    /// All configured tests of all features, p-values adjusted over the features (Benjamini and
    /// Hochberg), test by test.
    pub fn compare(&self, window: &mut Profile, tests: &[Test]) -> Vec<Score> {
        let values = sorted_values(&self.layout, window, |i| i);
        let mut scores = Vec::new();
        for test in tests {
            let fits: Vec<usize> = (0..self.layout.features.len())
                .filter(|i| self.is_for(*i, *test))
                .collect();
            let answers: Vec<Answer> = fits
                .iter()
                .map(|i| self.answer(*i, *test, window, values.as_deref()))
                .collect();
            let raw: Vec<Option<f64>> = answers
                .iter()
                .map(|answer| answer.ok().and_then(|outcome| outcome.p_value))
                .collect();
            let adjusted = adjust::benjamini_hochberg(&raw);
            for ((feature, answer), p_adjusted) in fits.into_iter().zip(answers).zip(adjusted) {
                scores.push(Score {
                    feature,
                    test: *test,
                    answer,
                    p_adjusted,
                });
            }
        }
        scores
    }

    /// The bins whose share has changed most, at most `n`, largest change first.
    pub fn contributions(&self, i: usize, window: &Profile, n: usize) -> Vec<Contribution> {
        let layout = &self.layout.features[i];
        let reference = coarse::of_feature(layout, &self.profile.features[i]);
        let counts = coarse::of_feature(layout, &window.features[i]);
        let share = |counts: &[u64], bin: usize| {
            counts[bin] as f64 / (counts.iter().sum::<u64>().max(1)) as f64
        };
        let mut all: Vec<Contribution> = coarse::names(layout)
            .into_iter()
            .enumerate()
            .filter(|(bin, _)| *bin < counts.len() && *bin < reference.len())
            .map(|(bin, name)| Contribution {
                bin: name,
                reference_share: share(&reference, bin),
                window_share: share(&counts, bin),
            })
            .collect();
        let change = |c: &Contribution| (c.window_share - c.reference_share).abs();
        all.sort_by(|a, b| change(b).total_cmp(&change(a)));
        all.truncate(n);
        all.retain(|contribution| change(contribution) > 0.0);
        all
    }

    fn is_for(&self, i: usize, test: Test) -> bool {
        let numeric = self.layout.features[i].kind.is_numeric();
        match test.scope() {
            Scope::Numeric => numeric,
            Scope::Categorical => !numeric,
            Scope::Feature => true,
            Scope::Joint | Scope::Window | Scope::History => false,
        }
    }

    fn answer(
        &self,
        i: usize,
        test: Test,
        window: &Profile,
        values: Option<&[Vec<f64>]>,
    ) -> Answer {
        let layout = &self.layout.features[i];
        let (reference, feature) = (&self.profile.features[i], &window.features[i]);
        let exact = self
            .sorted
            .as_ref()
            .zip(values)
            .map(|(r, w)| (&r[i][..], &w[i][..]));
        match test {
            Test::Psi => psi::counts(
                &values_only(layout, reference),
                &values_only(layout, feature),
            ),
            Test::Js => js::counts(
                &values_only(layout, reference),
                &values_only(layout, feature),
            ),
            Test::Chi2 => chi2::homogeneity(
                &values_only(layout, reference),
                &values_only(layout, feature),
            ),
            Test::NullRate => rates::null_rate(
                reference.quality.absent(),
                self.profile.rows,
                feature.quality.absent(),
                window.rows,
            ),
            Test::UnseenRate => on_levels(reference, feature),
            Test::Ks | Test::Wasserstein => on_numbers(test, layout, reference, feature, exact),
            _ => Err(Reason::NoReference),
        }
    }
}

fn on_levels(reference: &Feature, feature: &Feature) -> Answer {
    let (Values::Categorical(baseline), Values::Categorical(window)) =
        (&reference.values, &feature.values)
    else {
        return Err(Reason::DifferentBins);
    };
    let strangers: Vec<u64> = window.strangers.iter().map(|(_, _, rows)| rows).collect();
    unseen::levels(&baseline.counts, &window.counts, &strangers, window.unseen)
}

fn on_numbers(
    test: Test,
    layout: &FeatureLayout,
    reference: &Feature,
    feature: &Feature,
    exact: Option<(&[f64], &[f64])>,
) -> Answer {
    let (Values::Numeric(baseline), Values::Numeric(window), Bins::Grid(grid)) =
        (&reference.values, &feature.values, &layout.bins)
    else {
        return Err(Reason::DifferentBins);
    };
    let scale = baseline.deviation(grid).unwrap_or(0.0);
    match (test, exact) {
        (Test::Ks, Some((reference, window))) => ks::exact(reference, window),
        (Test::Ks, None) => ks::grid(&baseline.counts, &window.counts),
        (_, Some((reference, window))) => wasserstein::exact(reference, window, scale),
        (_, None) => {
            let range = (
                baseline.least.min(window.least),
                baseline.greatest.max(window.greatest),
            );
            let (left, right) = (bin_sums(grid, baseline), bin_sums(grid, window));
            wasserstein::grid(&grid.cuts, &left, &right, range, scale)
        }
    }
}

fn bin_sums(grid: &Grid, numeric: &Numeric) -> Vec<BinSum> {
    let bins = numeric.counts.iter().zip(&numeric.sums);
    bins.map(|(count, sum)| BinSum {
        count: *count,
        sum: grid.value_of(*sum),
    })
    .collect()
}

/// The coarse counts without the bin for absent values, which have a test of their own.
fn values_only(layout: &FeatureLayout, feature: &Feature) -> Vec<u64> {
    let mut counts = coarse::of_feature(layout, feature);
    counts.pop();
    counts
}

/// Values that the baseline never held: unseen labels, numbers out of its range.
pub fn unseen(feature: &Feature) -> u64 {
    match &feature.values {
        Values::Numeric(numeric) => numeric.out_of_range(),
        Values::Categorical(categorical) => categorical.unseen,
    }
}

/// The sorted values of every numeric feature (of embeddings, the norms), if the sample holds all rows.
fn sorted_values(
    layout: &Layout,
    profile: &mut Profile,
    place: impl Fn(usize) -> usize,
) -> Option<Vec<Vec<f64>>> {
    let rows = profile.rows;
    let batch = profile.sample.settle().ok()??;
    if batch.num_rows() as u64 != rows {
        return None;
    }
    let sorted = layout.features.iter().enumerate().map(|(i, feature)| {
        if !feature.kind.is_numeric() {
            return Vec::new();
        }
        let numbers = norm::numbers(batch.column(OWN_COLUMNS + place(i)));
        let mut values: Vec<f64> = numbers.iter().flatten().collect();
        values.sort_by(f64::total_cmp);
        values
    });
    Some(sorted.collect())
}
