//! Numbers over baselines, and the line of the table that they make.

use driftd::decide::rule::Question;

use crate::measure::{CHANGES, Found, Measured, Plan, applies};

/// Delays count as this at most where their mean is taken.
const CUT: f64 = 60.0;

/// What came of all baselines of one world.
pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) baselines: Vec<Measured>,
}

/// A mean over baselines and its standard error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mean {
    pub(crate) mean: f64,
    pub(crate) error: f64,
}

impl Mean {
    /// Of nothing: no bound holds of it.
    pub(crate) const UNKNOWN: Self = Self {
        mean: f64::NAN,
        error: 0.0,
    };

    /// `None` without values; the error is infinite with one.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (squares / (n - 1.0) / n).sqrt();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        Some(Self { mean, error })
    }
}

impl Report {
    pub(crate) fn episodes(&self) -> Vec<f64> {
        self.baselines.iter().map(|one| one.episodes).collect()
    }

    pub(crate) fn drifted(&self) -> Vec<f64> {
        self.baselines.iter().map(|one| one.drifted).collect()
    }

    pub(crate) fn lengths(&self) -> Vec<f64> {
        self.baselines.iter().filter_map(|one| one.length).collect()
    }

    /// The questions that began false episodes, and how many each.
    pub(crate) fn causes(&self) -> String {
        let causes: Vec<_> = self.baselines.iter().flat_map(|one| &one.causes).collect();
        let count = |question: &Question| causes.iter().filter(|cause| **cause == question).count();
        let counts = Question::ALL
            .iter()
            .map(|question| (question, count(question)));
        let counts = counts.filter(|(_, count)| *count > 0);
        let counts = counts.map(|(question, count)| format!("{} {count}", question.as_str()));
        counts.collect::<Vec<_>>().join(", ")
    }

    /// Of one change, per baseline the mean of its starts.
    pub(crate) fn per_baseline(
        &self,
        change: &str,
        value: impl Fn(&Found) -> Option<f64>,
    ) -> Vec<f64> {
        let of = |one: &Measured| {
            let found = one.found.iter().filter(|(name, _)| *name == change);
            let values: Vec<f64> = found.filter_map(|(_, found)| value(found)).collect();
            Mean::of(&values).map(|mean| mean.mean)
        };
        self.baselines.iter().filter_map(of).collect()
    }

    fn found(&self, change: &str) -> Vec<&Found> {
        let all = self.baselines.iter().flat_map(|one| &one.found);
        let of = all.filter(|(name, _)| *name == change);
        of.map(|(_, found)| found).collect()
    }

    /// Median of the delays of all starts; infinite if most were not found.
    pub(crate) fn median_delay(&self, change: &str) -> Option<f64> {
        let of = |found: &Found| found.delay.map_or(f64::INFINITY, |delay| delay as f64);
        let delays: Vec<f64> = self.found(change).into_iter().map(of).collect();
        (!delays.is_empty()).then(|| quantile(delays, 0.5))
    }

    fn delay(&self, change: &str) -> String {
        let cut = |found: &Found| found.delay.map_or(CUT, |delay| delay as f64);
        let delays: Vec<f64> = self.found(change).into_iter().map(cut).collect();
        let median = match self.median_delay(change) {
            Some(median) if median.is_finite() => format!("{median}"),
            Some(_) => ">60".into(),
            None => "-".into(),
        };
        let mean = Mean::of(&delays).map_or(0.0, |mean| mean.mean);
        format!("{median} ({mean:.1})")
    }

    fn delays(&self, changes: &[&str]) -> String {
        let applies = |name: &&&str| {
            let change = CHANGES.iter().find(|(change, _)| *change == **name);
            change.is_some_and(|(_, change)| applies(self.plan.world, *change))
        };
        let cells: Vec<String> = changes
            .iter()
            .filter(applies)
            .map(|name| self.delay(name))
            .collect();
        if cells.is_empty() {
            "-".into()
        } else {
            cells.join(" / ")
        }
    }

    /// The mean over all starts of one change, and of all of them.
    fn one_and_all(&self, change: &str, value: impl Fn(&Found) -> Option<f64>) -> String {
        let one: Vec<f64> = self.found(change).into_iter().filter_map(&value).collect();
        let all = self.baselines.iter().flat_map(|one| &one.found);
        let all: Vec<f64> = all.filter_map(|(_, found)| value(found)).collect();
        let text = |values: &[f64]| {
            Mean::of(values).map_or("-".into(), |mean| format!("{:.2}", mean.mean))
        };
        format!("{} / {}", text(&one), text(&all))
    }

    pub(crate) fn header() -> &'static str {
        "| world | K | baselines | episodes per 30 (9th decile) | % of quiet windows drifted (9th decile) | \
         mean false episode | shift 0.2 / 0.3 / 0.5 | spread x 1.2 | zeros 0.10 / 0.15 | nulls 0.02 | labels swapped | \
         new label 0.01 / 0.02 | correlation 0.5 to 0 | stays drifted: 0.5 / all | stable after: 0.5 / all |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    }

    pub(crate) fn line(&self) -> String {
        let with_decile = |values: Vec<f64>, times: f64, digits: usize| {
            let mean = times * Mean::of(&values).map_or(0.0, |mean| mean.mean);
            let decile = times * quantile(values, 0.9);
            format!("{mean:.digits$} ({decile:.digits$})")
        };
        let length =
            Mean::of(&self.lengths()).map_or("-".into(), |mean| format!("{:.1}", mean.mean));
        let main = if self
            .plan
            .changes
            .iter()
            .any(|(name, _)| *name == "zero 0.15")
        {
            "zero 0.15"
        } else {
            "shift 0.5"
        };
        let cells = [
            self.plan.world.name().into(),
            self.plan.k.to_string(),
            self.baselines.len().to_string(),
            with_decile(self.episodes(), 1.0, 2),
            with_decile(self.drifted(), 100.0, 1),
            length,
            self.delays(&["shift 0.2", "shift 0.3", "shift 0.5"]),
            self.delays(&["spread 1.2"]),
            self.delays(&["zero 0.10", "zero 0.15"]),
            self.delays(&["null 0.02"]),
            self.delays(&["swap"]),
            self.delays(&["newlevel 0.01", "newlevel 0.02"]),
            self.delays(&["corr 0.5"]),
            self.one_and_all(main, |found| found.stay),
            self.one_and_all(main, |found| found.after.map(|after| after as f64)),
        ];
        format!("| {} |", cells.join(" | "))
    }
}

/// By linear interpolation between order statistics; infinite next to an infinite one.
pub(crate) fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = q * (values.len().max(1) - 1) as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    match (values.get(below), values.get(above)) {
        (Some(low), Some(high)) if below < above => low + (high - low) * (at - at.floor()),
        (Some(low), _) => *low,
        _ => 0.0,
    }
}
