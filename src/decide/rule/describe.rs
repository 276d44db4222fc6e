//! What a rule can promise and find, and what it learned of each feature: for `driftd baseline`.

use serde::Serialize;

use super::evidence::least_deviation;
use super::question::Question;
use super::season::NAMES;
use super::{Questions, Rule, Series};

/// Periods for which the smallest shift is named, in days.
const PERIODS: [(&str, f64); 3] = [("day", 1.0), ("week", 7.0), ("month", 30.0)];
const DAY_MS: f64 = 86_400_000.0;
/// Kendall's tau of a feature that trends, and of one that only grows: a counter, a time, an id.
const TRENDS: f64 = 0.5;
const GROWS: f64 = 0.95;
/// The training data can vouch for one false alarm in so many times their own length.
const VOUCHED: f64 = 4.0;

/// What a rule can promise and find.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Training windows.
    pub windows: usize,
    /// False alarms per window that the training data can vouch for, at least.
    pub least_false_alarms: f64,
    /// The smallest lasting shifts of a number that are found, in standard deviations.
    pub shifts: Vec<Shift>,
    /// What was learned of each feature.
    pub features: Vec<Learned>,
}

/// The smallest lasting shift that is found within a period.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shift {
    /// `day`, `week` or `month`.
    pub within: &'static str,
    /// Windows of the longest stretch that fits.
    pub windows: usize,
    /// In standard deviations of the feature; the median over the numbers.
    pub deviations: f64,
}

/// What was learned of a feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Learned {
    /// Position in the asking.
    pub feature: usize,
    /// Seasons that it follows.
    pub seasons: Vec<&'static str>,
    /// Nearly every row has the same value.
    pub constant: bool,
    /// Its location rises or falls through the training data.
    pub trends: bool,
    /// It does nothing else: a counter, a time or an id.
    pub grows: bool,
}

impl Rule {
    /// What it can promise and find.
    pub fn describe(&self) -> Description {
        let features = 0..self.asking.features.len();
        Description {
            windows: self.windows,
            least_false_alarms: 1.0 / (VOUCHED * self.windows as f64),
            shifts: PERIODS
                .iter()
                .filter_map(|(name, days)| self.shift(name, *days))
                .collect(),
            features: features.map(|feature| self.learned(feature)).collect(),
        }
    }

    fn shift(&self, within: &'static str, days: f64) -> Option<Shift> {
        let windows = days * DAY_MS / self.calendar.every_ms as f64;
        let fits = |k: &usize| self.lengths.get(*k) as f64 <= windows.max(1.0);
        let lengths: Vec<usize> = (0..self.lengths.len()).filter(fits).collect();
        let locations = self.fit.learned.iter();
        let locations = locations.filter(|l| l.asked.question == Question::Location);
        let least = |l| {
            let of = |k: &usize| {
                let limit = self.threshold(self.thresholds, *k);
                least_deviation(l, &self.fit, &self.lengths, *k, limit)
            };
            lengths.iter().map(of).fold(f64::INFINITY, f64::min)
        };
        let mut found: Vec<f64> = locations.map(least).collect();
        found.sort_by(f64::total_cmp);
        Some(Shift {
            within,
            windows: self.lengths.get(*lengths.last()?),
            deviations: *found.get(found.len() / 2)?,
        })
    }

    fn learned(&self, feature: usize) -> Learned {
        let own = || {
            self.fit
                .learned
                .iter()
                .filter(move |l| l.asked.feature == feature)
        };
        let shape = |question: Question| {
            matches!(
                question,
                Question::Location | Question::Spread | Question::Shape
            )
        };
        let taken = |which: &usize| {
            own().any(|l| shape(l.asked.question) && l.seasons.iter().any(|s| s.which == *which))
        };
        let tau = self.trends[feature].abs();
        Learned {
            feature,
            seasons: (0..NAMES.len())
                .filter(taken)
                .map(|which| NAMES[which])
                .collect(),
            constant: self.questions.forms[feature].few,
            trends: tau >= TRENDS,
            grows: tau >= GROWS,
        }
    }
}

/// Kendall's tau of each feature's location over the training windows: 1 rises all the time, 0 does not
/// trend.
pub(super) fn trends(questions: &Questions, series: &[Series], features: usize) -> Vec<f64> {
    let mut trends = vec![0.0; features];
    for (asked, series) in questions.asked.iter().zip(series) {
        if asked.question == Question::Location {
            trends[asked.feature] = tau(series);
        }
    }
    trends
}

fn tau(series: &Series) -> f64 {
    // Every window against those after it; at most a thousand windows, evenly chosen.
    let step = series.len().div_ceil(1000).max(1);
    let with_rows = |t: &usize| series.n[*t] > 0.0;
    let x: Vec<f64> = (0..series.len())
        .step_by(step)
        .filter(with_rows)
        .map(|t| series.x[t])
        .collect();
    let (mut sum, mut pairs) = (0.0, 0.0_f64);
    for (i, a) in x.iter().enumerate() {
        for b in &x[i + 1..] {
            sum += if b > a {
                1.0
            } else if b < a {
                -1.0
            } else {
                0.0
            };
            pairs += 1.0;
        }
    }
    sum / pairs.max(1.0)
}
