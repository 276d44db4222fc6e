//! The tests of one feature: which function answers, on rows or on bins.
//!
//! Where the row samples of both sides hold all of their rows, tests on values run on the rows; else
//! on the fine grid of the full data, with a bound on the error beside the statistic where there is
//! a proof of one. Epps-Singleton has no form on bins: beyond the sample it runs on the sample.

use std::cell::OnceCell;

use super::merge::Places;
use super::table::Table;
use super::wasserstein::BinSum;
use super::welch_t::Moments;
use super::{
    Answer, Reason, Scope, Test, anderson, chi2, cramers_v, cvm, energy, epps_singleton, fisher, g,
    hellinger, js, kl, ks, kuiper, linf, mann_whitney, out_of_range, psi, rates, tv, unseen,
    wasserstein, welch_t,
};
use crate::profile::coarse;
use crate::profile::{Bins, Categorical, Feature, FeatureLayout, Grid, Numeric, Values};

/// One side of a feature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    /// Its profile.
    pub(super) feature: &'a Feature,
    /// Rows, absent values included.
    pub(super) rows: u64,
    /// What the row sample holds of it.
    pub(super) sampled: &'a Sampled,
}

impl Side<'_> {
    /// Standard deviation (divisor n) of a numeric feature: of all rows where the sample has them,
    /// else from the sums of the grid; 0 without values.
    pub(super) fn deviation(&self, layout: &FeatureLayout) -> f64 {
        match (&self.feature.values, &layout.bins) {
            (Values::Numeric(_), _) if self.sampled.complete => deviation(&self.sampled.sorted),
            (Values::Numeric(values), Bins::Grid(grid)) => values.deviation(grid).unwrap_or(0.0),
            _ => 0.0,
        }
    }
}

/// Around a middle value, so that an offset of 1e9 costs no digits; in units of a power of two, so
/// that squares of 1e308 stay finite and no digit changes.
fn deviation(sorted: &[f64]) -> f64 {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return 0.0;
    };
    let largest = first.abs().max(last.abs());
    let unit = match largest {
        huge if huge > 1e150 => 2.0_f64.powi(-600),
        tiny if tiny < 1e-150 => 2.0_f64.powi(600),
        _ => 1.0,
    };
    let n = sorted.len() as f64;
    let middle = sorted[sorted.len() / 2] * unit;
    let offset = sorted
        .iter()
        .map(|value| value * unit - middle)
        .sum::<f64>()
        / n;
    let squares = sorted
        .iter()
        .map(|value| (value * unit - middle - offset).powi(2));
    (squares.sum::<f64>() / n).sqrt() / unit
}

/// What a row sample holds of one feature.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sampled {
    /// The values of a numeric feature, ascending.
    pub(super) sorted: Vec<f64>,
    /// Whether those are all values there are.
    pub(super) complete: bool,
    /// Rows per label that the baseline never held, where the sample has them all.
    pub(super) strangers: Option<Vec<u64>>,
}

/// Whether a test makes sense of a feature.
fn is_for(test: Test, layout: &FeatureLayout) -> bool {
    let numeric = layout.kind.is_numeric();
    match test.scope() {
        Scope::Numeric => numeric,
        Scope::Categorical => !numeric,
        Scope::Feature => true,
        Scope::Joint | Scope::Window | Scope::History => false,
    }
}

/// Whether a test reads the sorted values of the sample where it may.
pub(super) fn reads_rows(test: Test) -> bool {
    test.scope() == Scope::Numeric && test != Test::OutOfRange
}

/// What these tests say of a feature, those that make sense of it; `scale` is the reference's standard
/// deviation.
pub(super) fn answers(
    tests: &[Test],
    layout: &FeatureLayout,
    scale: f64,
    reference: Side<'_>,
    window: Side<'_>,
) -> Vec<(Test, Answer)> {
    // Both are made once, if any test asks for them.
    let (binned, places) = (OnceCell::new(), OnceCell::new());
    let places = || {
        let (rows, others) = (&reference.sampled.sorted, &window.sampled.sorted);
        let places = places.get_or_init(|| Places::of(rows, others));
        places.as_ref().map_err(|reason| *reason)
    };
    let answer = |test: Test| match test {
        _ if test.scope() == Scope::Numeric => {
            on_numbers(test, layout, scale, (reference, window), &places)
        }
        Test::NullRate | Test::MissingRate | Test::TypeErrors => {
            on_quality(test, reference, window)
        }
        Test::UnseenRate => unseen_levels(reference, window),
        _ => binned
            .get_or_init(|| Binned::of(layout, reference, window))
            .answer(test),
    };
    let tests = tests.iter().filter(|test| is_for(**test, layout));
    tests.map(|test| (*test, answer(*test))).collect()
}

/// Both sides on the coarse bins without the one for absent values, which have tests of their own.
/// Labels that the baseline never held have a bin each: in one bin, which the data would have chosen,
/// they would be found too often.
struct Binned {
    reference: Vec<u64>,
    window: Vec<u64>,
    /// Rows of an unseen label, and how many labels have so many.
    unseen: Vec<(u64, u64)>,
    table: Result<Table, Reason>,
}

impl Binned {
    fn of(layout: &FeatureLayout, reference: Side<'_>, window: Side<'_>) -> Self {
        let values_only = |side: Side<'_>| {
            let mut counts = coarse::of_feature(layout, side.feature);
            counts.pop();
            counts
        };
        let (mut left, mut right) = (values_only(reference), values_only(window));
        let unseen = match &window.feature.values {
            Values::Categorical(values) => {
                right.pop();
                left.pop();
                unseen::bins(&strangers(values, window.sampled), values.unseen)
            }
            Values::Numeric(_) => Vec::new(),
        };
        Self {
            table: Table::with_others(&left, &right, &unseen),
            reference: left,
            window: right,
            unseen,
        }
    }

    fn answer(&self, test: Test) -> Answer {
        if test == Test::Fisher {
            return fisher::with_others(&self.reference, &self.window, &self.unseen);
        }
        let table = self.table.as_ref().map_err(|reason| *reason)?;
        match test {
            Test::Psi => psi::of(table),
            Test::Js => js::of(table),
            Test::Kl => kl::of(table),
            Test::Hellinger => hellinger::of(table),
            Test::Tv => tv::of(table),
            Test::Linf => linf::of(table),
            Test::Chi2 => chi2::of(table),
            Test::Chi2Yates => chi2::of_two(table),
            Test::G => g::of(table),
            Test::CramersV => cramers_v::of(table),
            _ => Err(Reason::DifferentBins),
        }
    }
}

fn strangers(values: &Categorical, sampled: &Sampled) -> Vec<u64> {
    match &sampled.strangers {
        Some(all) => all.clone(),
        None => values.strangers.iter().map(|(_, _, rows)| rows).collect(),
    }
}

fn unseen_levels(reference: Side<'_>, window: Side<'_>) -> Answer {
    let (Values::Categorical(left), Values::Categorical(right)) =
        (&reference.feature.values, &window.feature.values)
    else {
        return Err(Reason::DifferentBins);
    };
    let strangers = strangers(right, window.sampled);
    unseen::levels(&left.counts(), &right.counts(), &strangers, right.unseen)
}

fn on_quality(test: Test, reference: Side<'_>, window: Side<'_>) -> Answer {
    let (left, right) = (&reference.feature.quality, &window.feature.quality);
    let (n, m) = (reference.rows, window.rows);
    match test {
        Test::MissingRate => rates::missing_rate(left.missing, n, right.missing, m),
        Test::TypeErrors => rates::type_errors(left.wrong_type, n, right.wrong_type, m),
        _ => rates::null_rate(left.absent(), n, right.absent(), m),
    }
}

fn on_numbers<'a>(
    test: Test,
    layout: &FeatureLayout,
    scale: f64,
    (reference, window): (Side<'_>, Side<'_>),
    places: &impl Fn() -> Result<&'a Places<'a>, Reason>,
) -> Answer {
    let (Values::Numeric(left), Values::Numeric(right), Bins::Grid(grid)) = (
        &reference.feature.values,
        &window.feature.values,
        &layout.bins,
    ) else {
        return Err(Reason::DifferentBins);
    };
    if test == Test::OutOfRange {
        return out_of_range::counts(left.count(), right.count(), right.out_of_range());
    }
    let (rows, others) = (&reference.sampled.sorted, &window.sampled.sorted);
    // Where the baseline does not vary, a distance has the scale of both sides together.
    let scale = if scale > 0.0 || test == Test::WassersteinNormed {
        scale
    } else {
        pooled_deviation(grid, left, right)
    };
    if reference.sampled.complete && window.sampled.complete {
        on_rows(test, rows, others, scale, places)
    } else if test == Test::EppsSingleton {
        epps_singleton::exact(rows, others)
    } else {
        on_grid(test, grid, left, right, scale)
    }
}

fn pooled_deviation(grid: &Grid, reference: &Numeric, window: &Numeric) -> f64 {
    let mut both = reference.clone();
    both.merge(window);
    both.deviation(grid).unwrap_or(0.0)
}

fn on_rows<'a>(
    test: Test,
    reference: &[f64],
    window: &[f64],
    scale: f64,
    places: &impl Fn() -> Result<&'a Places<'a>, Reason>,
) -> Answer {
    match test {
        Test::Ks => Ok(ks::of(places()?)),
        Test::Cvm => cvm::exact(reference, window),
        Test::Anderson => anderson::exact(reference, window),
        Test::MannWhitney => Ok(mann_whitney::of(places()?)),
        Test::WelchT => welch_t::exact(reference, window),
        Test::EppsSingleton => epps_singleton::exact(reference, window),
        Test::Kuiper => Ok(kuiper::of(places()?)),
        Test::Energy => energy::exact(reference, window, scale),
        Test::WassersteinNormed => wasserstein::normed(wasserstein::of(places()?, scale), scale),
        _ => wasserstein::of(places()?, scale),
    }
}

fn on_grid(test: Test, grid: &Grid, reference: &Numeric, window: &Numeric, scale: f64) -> Answer {
    let (left, right) = (&reference.counts(), &window.counts());
    match test {
        Test::Ks => ks::grid(left, right),
        Test::Cvm => cvm::grid(left, right),
        Test::Anderson => anderson::grid(left, right),
        Test::MannWhitney => mann_whitney::grid(left, right),
        Test::Kuiper => kuiper::grid(left, right),
        Test::WelchT => {
            let moments = |side: &Numeric| {
                let (rows, deviation) = (side.count(), side.deviation(grid).unwrap_or(0.0));
                Moments {
                    rows,
                    mean: side.mean(grid).unwrap_or(0.0),
                    variance: deviation.powi(2) * rows as f64
                        / rows.saturating_sub(1).max(1) as f64,
                }
            };
            welch_t::moments(moments(reference), moments(window))
        }
        _ => on_sums(test, grid, reference, window, scale),
    }
}

fn on_sums(test: Test, grid: &Grid, reference: &Numeric, window: &Numeric, scale: f64) -> Answer {
    let range = (
        reference.least.min(window.least),
        reference.greatest.max(window.greatest),
    );
    let (left, right) = (bin_sums(grid, reference), bin_sums(grid, window));
    match test {
        Test::Energy => energy::grid(&grid.cuts, &left, &right, range, scale),
        Test::WassersteinNormed => {
            let plain = wasserstein::grid(&grid.cuts, &left, &right, range, scale);
            wasserstein::normed(plain, scale)
        }
        _ => wasserstein::grid(&grid.cuts, &left, &right, range, scale),
    }
}

fn bin_sums(grid: &Grid, numeric: &Numeric) -> Vec<BinSum> {
    let bins = numeric.bins.to_vec().into_iter();
    bins.map(|bin| BinSum {
        count: bin.count,
        sum: grid.value_of(bin.sum),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Kind;
    use crate::profile::categorical::Strangers;
    use crate::profile::per_bin::PerBin;
    use crate::profile::{Levels, Quality};

    /// A hash with another salt: every row of the window has a label of its own, of which a few hundred
    /// are known. Tests on bins need room for the distinct counts of those, not for the rows.
    #[test]
    fn fifty_million_unseen_rows_are_a_short_table() {
        const ROWS: u64 = 50_000_000;
        let layout = FeatureLayout {
            name: "user".into(),
            kind: Kind::Categorical,
            plain_numbers: false,
            dimension: 0,
            bins: Bins::Levels(Levels::new(vec!["a".into(), "b".into()])),
        };
        let feature = |counts: [u64; 2], unseen, strangers| {
            let mut levels = PerBin::new(counts.len());
            let counts = counts.into_iter().enumerate();
            counts.for_each(|(level, rows)| levels.add(level, rows));
            Feature {
                quality: Quality::default(),
                values: Values::Categorical(Categorical {
                    levels,
                    unseen,
                    strangers,
                }),
            }
        };
        let mut strangers = Strangers::default();
        for label in 0..256 {
            strangers.add(&format!("x{label}"), 1);
        }
        let sampled = Sampled::default();
        let side = |feature, rows| Side {
            feature,
            rows,
            sampled: &sampled,
        };
        let before = feature([600_000, 400_000], 0, Strangers::default());
        let now = feature([1_000, 500], ROWS, strangers);
        let (before, now) = (side(&before, 1_000_000), side(&now, ROWS + 1_500));
        let binned = Binned::of(&layout, before, now);
        assert_eq!(binned.unseen, [(1, ROWS)]);
        assert_eq!(binned.table.as_ref().unwrap().bins.len(), 3);
        for (test, answer) in answers(Test::ALL, &layout, 0.0, before, now) {
            match test {
                Test::Kl | Test::NullRate | Test::MissingRate | Test::TypeErrors => {}
                Test::Fisher => assert_eq!(answer, Err(Reason::NotTwoLevels)),
                // Labels of one row each say nothing of what they are.
                _ => {
                    let outcome = answer.unwrap();
                    assert!(
                        outcome.p_value.is_some_and(|p| p < 1e-9),
                        "{test} {outcome:?}"
                    );
                }
            }
        }
    }
}
