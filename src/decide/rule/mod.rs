//! One rule for "has this feature drifted": the last 1, 2, 3, 4, 6, 8, ... windows, taken together,
//! against the training data.
//!
//! 1. **Questions** ([`question`]). Each window answers, per feature: where the values are, how far they
//!    spread, what is left of their shape, how many are null, missing, of a wrong type, never seen;
//!    and together: how features are correlated, how many rows there are.
//! 2. **What is normal** (`fit`). The training data, cut into windows of the monitor's size, say per
//!    question how much windows differ beyond chance (Mandel and Paule 1970), what day of the week and hour of
//!    the day do, whether one window resembles the next (`persistence`), and how heavy the tails of single
//!    windows are. The error of the training mean is part of it.
//! 3. **Evidence** (`evidence`). `-ln p` of the mean deviation of every stretch that ends at the window, no
//!    longer than a third of the training data, by an F distribution.
//! 4. **Limits** (`replay`). Each quarter of the training data is judged by a fit of the other three. The
//!    limits are put where this replay stays inside the false alarms that the user allows: one limit
//!    for single windows, one for longer stretches.
//! 5. **Effect** (`effect`). Significance is not enough: the difference has to matter too.
//! 6. **Begin and end** (`drift`). A stretch beyond the limit begins a drift of its feature. It ends when
//!    the windows since are 400 times likelier without it.
//!
//! No random numbers: the same training data and windows give the same verdicts. The reference
//! implementation is `tests/reference/rule/rule.py`; golden numbers from it are held to 1e-9. Measured
//! rates and delays: `docs/statistics.md`, by `tests/reference/rule/evaluate.py`.

use serde::{Deserialize, Serialize};

mod ask;
mod describe;
mod drift;
mod effect;
mod evidence;
mod fit;
#[cfg(test)]
mod golden;
mod law;
mod persistence;
pub mod question;
mod replay;
pub mod season;
mod series;

pub use ask::sum_of_products;
pub use describe::Description;
pub use drift::FeatureState;
pub use question::{Answers, Asking, Question, Tally};
pub use season::Calendar;

use drift::Drift;
use effect::{Effects, Expected};
use evidence::{Lengths, Trail};
use fit::Fit;
use persistence::Spectrum;
use series::{Questions, Series};

/// The least number of training windows.
pub const MIN_WINDOWS: usize = 20;

/// A stretch of L windows needs this times ln L more: its false alarms last longer.
const LONG: f64 = 1.0 / 3.0;

/// The training data hold too few windows to learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the training data hold {0} windows of this size; the rule needs {MIN_WINDOWS} or more")]
pub struct TooFewWindows(pub usize);

/// The least effect that matters, and whether the question decides; in the order of
/// [`Question::ALL`].
pub type Limits = [Limit; Question::ALL.len()];

/// What the user says of one question.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// An effect has to be above it.
    pub effect: f64,
    /// If not, the question informs only.
    pub decides: bool,
}

/// What the user changes of one question's limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// The question.
    pub question: Question,
    /// Another effect.
    pub effect: Option<f64>,
    /// Whether it decides.
    pub decides: Option<bool>,
}

/// Limits with changes.
#[must_use]
pub fn changed(mut limits: Limits, changes: &[Change]) -> Limits {
    for change in changes {
        for (question, limit) in Question::ALL.iter().zip(&mut limits) {
            if *question == change.question {
                limit.effect = change.effect.unwrap_or(limit.effect);
                limit.decides = change.decides.unwrap_or(limit.decides);
            }
        }
    }
    limits
}

/// Every question decides, with its usual limit.
pub fn usual_limits() -> Limits {
    Question::ALL.map(|question| Limit {
        effect: question.usual_effect(),
        decides: true,
    })
}

/// What is learned from training windows of one size.
#[derive(Debug, Clone)]
pub struct Rule {
    asking: Asking,
    calendar: Calendar,
    questions: Questions,
    lengths: Lengths,
    fit: Fit,
    expected: Vec<Expected>,
    /// By feature of the asking, then pairs, then rows.
    limits: Vec<Limits>,
    /// `-ln p` of one window, and of several, that begins a drift.
    thresholds: [f64; 2],
    /// Training windows.
    windows: usize,
    /// Per question and length: the largest effect of the training data's own stretches.
    training_effects: Vec<Vec<f64>>,
    /// Training windows that are drifted in the replay.
    replayed: usize,
    /// Per feature: Kendall's tau of its location over the training windows.
    trends: Vec<f64>,
    /// Season values of the training windows, and whether each had rows.
    had_rows: Vec<(Vec<usize>, bool)>,
}

/// What is carried from window to window: one state per feature, then of pairs, then of rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State(Vec<FeatureState>);

/// What the rule says of one feature in one window.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Position of the feature in the asking.
    pub subject: Subject,
    /// The question whose stretch is furthest beyond its limit, or nearest to it.
    pub question: Question,
    /// Length of that stretch in windows.
    pub windows: usize,
    /// Start of its first window.
    pub from_ms: i64,
    /// `-ln p` of the stretch.
    pub evidence: f64,
    /// What it has to exceed.
    pub evidence_limit: f64,
    /// The effect of the stretch.
    pub effect: f64,
    /// What it has to exceed.
    pub effect_limit: f64,
    /// The largest effect of the training data's own stretches of that length.
    pub training_effect: f64,
    /// Counts per group in the stretch, and those expected: for sentences.
    pub groups: (Vec<f64>, Vec<f64>),
    /// The group of each bin or level.
    pub group_of_bin: Vec<usize>,
    /// What was found in the stretch, and what was expected: of rates the share of rows, of rows the
    /// geometric mean per window, of pairs the covariance of the pair that moved most.
    pub values: Option<(f64, f64)>,
    /// The pair that moved most, as positions in the asking.
    pub pair: Option<(usize, usize)>,
    /// Whether the feature is drifted.
    pub drifted: bool,
    /// Since when.
    pub since_ms: Option<i64>,
    /// Whether its question decides.
    pub decides: bool,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A feature, by its position in the asking.
    Feature(usize),
    /// How features are correlated.
    Pairs,
    /// Rows per window.
    Rows,
}

impl Rule {
    /// Learns from training windows in order of time, without partial ones at the ends; `hazard` is
    /// the number of false alarms that the user allows per window. `limits` are given per feature of the
    /// asking, then for pairs, then for rows.
    ///
    /// # Errors
    /// With fewer than [`MIN_WINDOWS`] windows.
    pub fn learn(
        asking: Asking,
        calendar: Calendar,
        windows: &[Answers],
        hazard: f64,
        limits: Vec<Limits>,
    ) -> Result<Self, TooFewWindows> {
        if windows.len() < MIN_WINDOWS {
            return Err(TooFewWindows(windows.len()));
        }
        let questions = Questions::of(&asking, windows);
        let series = questions.series(&asking, windows);
        let values = season_values(&calendar, windows);
        let mut spectrum = Spectrum::default();
        let fit = Fit::of(&questions.asked, &series, &values, &mut spectrum);
        let all: Vec<&Answers> = windows.iter().collect();
        let expected = Expected::all(&questions, &fit, &all, &values);
        let mut rule = Self {
            lengths: Lengths::up_to(windows.len()),
            windows: windows.len(),
            training_effects: Vec::new(),
            replayed: 0,
            thresholds: [f64::INFINITY; 2],
            trends: describe::trends(&questions, &series, asking.features.len()),
            had_rows: values
                .iter()
                .cloned()
                .zip(windows.iter().map(|w| w.rows > 0))
                .collect(),
            asking,
            calendar,
            questions,
            fit,
            expected,
            limits,
        };
        rule.training_effects = rule.largest_effects(windows, &values, &series);
        let blocks = rule.replay(windows, &series, &values, &mut spectrum);
        (rule.thresholds, rule.replayed) = rule.find_thresholds(&blocks, hazard);
        Ok(rule)
    }

    /// Training windows that it was learned from.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// Training windows that are drifted where each quarter is judged by the other three.
    pub fn replayed(&self) -> usize {
        self.replayed
    }

    /// Windows before the judged one that it looks back at.
    pub fn memory(&self) -> usize {
        self.lengths.longest()
    }

    /// Whether training windows like one that begins then had rows: of the same hour of the week, where
    /// there are three or more, else of the same hour of the day or day of the week, else of all.
    pub fn expects_rows(&self, start_ms: i64) -> bool {
        let now = self.calendar.values(start_ms);
        for which in (0..now.len()).rev() {
            let alike = || {
                self.had_rows
                    .iter()
                    .filter(|(values, _)| values[which] == now[which])
            };
            let all = alike().count();
            if all >= 3 {
                return alike().filter(|(_, had_rows)| *had_rows).count() * 2 > all;
            }
        }
        true
    }

    /// How values are scored.
    pub fn asking(&self) -> &Asking {
        &self.asking
    }

    /// The `-ln p` that begins a drift, of one window and of several.
    pub fn thresholds(&self) -> [f64; 2] {
        self.thresholds
    }

    fn limit(&self, q: usize) -> Limit {
        let asked = &self.questions.asked[q];
        let place = Question::ALL.iter().position(|one| *one == asked.question);
        self.limits[asked.feature][place.unwrap_or(0)]
    }

    /// The evidence that a stretch of this length needs.
    fn threshold(&self, thresholds: [f64; 2], k: usize) -> f64 {
        match self.lengths.get(k) {
            1 => thresholds[0],
            length => thresholds[1] + LONG * (length as f64).ln(),
        }
    }

    fn largest_effects(
        &self,
        windows: &[Answers],
        values: &[Vec<usize>],
        series: &[Series],
    ) -> Vec<Vec<f64>> {
        let watch = Watch::new(
            &self.questions,
            &self.fit,
            &self.expected,
            windows,
            values,
            series,
        );
        let largest = |q: usize, k: usize| {
            let length = self.lengths.get(k);
            let effects = (length..=windows.len())
                .map(|to| watch.effects.of(&watch.trails[q], q, to - length, to));
            effects.fold(0.0, f64::max)
        };
        let lengths = |q| (0..self.lengths.len()).map(|k| largest(q, k)).collect();
        (0..self.questions.asked.len()).map(lengths).collect()
    }

    /// Judges the last of these consecutive windows, and moves the state on. A window that must not
    /// count is given without rows. Where `may_begin` is false (too few rows) no drift begins. One
    /// finding per feature, then for pairs and for rows.
    pub fn judge(&self, windows: &[Answers], may_begin: bool, state: &mut State) -> Vec<Finding> {
        let Some(t) = windows.len().checked_sub(1) else {
            return Vec::new();
        };
        let values = season_values(&self.calendar, windows);
        let series = self.questions.series(&self.asking, windows);
        let watch = Watch::new(
            &self.questions,
            &self.fit,
            &self.expected,
            windows,
            &values,
            &series,
        );
        let rows: Vec<Vec<f64>> = (0..self.questions.asked.len())
            .map(|q| self.evidence_of(&watch, &self.fit, q, t))
            .collect();
        let subjects = self.asking.features.len() + 2;
        state.0.resize(subjects, FeatureState::default());
        let mut findings = Vec::new();
        for (subject, state) in state.0.iter_mut().enumerate() {
            let evidence = |q: usize, k: usize| rows[q][k];
            let begin = may_begin || subject == subjects - 1;
            let drifted = self.step(
                &watch,
                &self.fit,
                subject,
                t,
                begin,
                self.thresholds,
                evidence,
                state,
            );
            findings.extend(self.finding(&watch, subject, t, drifted, &rows, state));
        }
        findings
    }

    fn group_of_bin(&self, feature: usize) -> Vec<usize> {
        let merged = &self.questions.forms[feature].merged;
        let group = match &self.asking.features[feature] {
            question::Scores::Numbers(numbers) => &numbers.group,
            question::Scores::Labels { group, .. } => group,
        };
        group.iter().map(|group| merged[*group as usize]).collect()
    }

    /// The evidence of all stretches of a question that end at a window; -1 where there are fewer windows.
    fn evidence_of(&self, watch: &Watch<'_>, fit: &Fit, q: usize, t: usize) -> Vec<f64> {
        let of = |k: usize| match self.lengths.get(k) <= t + 1 {
            true => watch.trails[q].evidence(fit, &self.lengths, k, t),
            false => -1.0,
        };
        (0..self.lengths.len()).map(of).collect()
    }

    fn questions_of(&self, subject: usize) -> impl Iterator<Item = usize> + '_ {
        let asked = self.questions.asked.iter().enumerate();
        asked
            .filter(move |(_, asked)| asked.feature == subject)
            .map(|(q, _)| q)
    }

    /// Moves the state of one feature on by one window; whether it is drifted.
    #[allow(clippy::too_many_arguments)] // both the replay and the live windows go through here
    fn step(
        &self,
        watch: &Watch<'_>,
        fit: &Fit,
        subject: usize,
        t: usize,
        may_begin: bool,
        thresholds: [f64; 2],
        evidence: impl Fn(usize, usize) -> f64,
        state: &mut FeatureState,
    ) -> bool {
        if let Some(drift) = &mut state.drift {
            let asks = |q: &usize| self.questions.asked[*q].question == drift.question;
            if let Some(q) = self.questions_of(subject).find(asks) {
                let trail = &watch.trails[q];
                let level =
                    trail.level(fit, &self.lengths, drift.length.min(self.lengths.len() - 1));
                let (start, weight) = (watch.windows[t].start_ms, trail.w[t]);
                match drift.step(start, weight, trail.deviation(t), level) {
                    Some(end) => state.since_ms = Some(end),
                    None => return true,
                }
            }
            state.drift = None;
        }
        if !may_begin {
            return false;
        }
        let mut best: Option<(f64, usize, usize)> = None;
        for q in self.questions_of(subject) {
            let limit = self.limit(q);
            for k in
                (0..self.lengths.len()).filter(|k| limit.decides && self.lengths.get(*k) <= t + 1)
            {
                let excess = evidence(q, k) - self.threshold(thresholds, k);
                let from = t + 1 - self.lengths.get(k);
                let reaches_back = state
                    .since_ms
                    .is_some_and(|end| watch.windows[from].start_ms < end);
                if excess > best.map_or(0.0, |best| best.0)
                    && !reaches_back
                    && watch.effects.of(&watch.trails[q], q, from, t + 1) > limit.effect
                    && watch.effects.repeats(&watch.trails[q], q, from, t + 1)
                {
                    best = Some((excess, q, k));
                }
            }
        }
        let Some((_, q, k)) = best else {
            return false;
        };
        let (trail, from) = (&watch.trails[q], t + 1 - self.lengths.get(k));
        let windows = (from..=t).map(|t| (trail.w[t], trail.deviation(t)));
        let question = self.questions.asked[q].question;
        state.drift = Some(Drift::begin(
            question,
            k,
            watch.windows[from].start_ms,
            windows,
        ));
        true
    }

    fn finding(
        &self,
        watch: &Watch<'_>,
        subject: usize,
        t: usize,
        drifted: bool,
        rows: &[Vec<f64>],
        state: &FeatureState,
    ) -> Option<Finding> {
        let known = state.drift.as_ref().map(|drift| drift.question);
        let excess = |q: usize, k: usize| rows[q][k] - self.threshold(self.thresholds, k);
        let (q, k) = self
            .questions_of(subject)
            .filter(|q| known.is_none_or(|known| self.questions.asked[*q].question == known))
            .flat_map(|q| (0..self.lengths.len()).map(move |k| (q, k)))
            .filter(|(_, k)| self.lengths.get(*k) <= t + 1)
            .max_by(|a, b| excess(a.0, a.1).total_cmp(&excess(b.0, b.1)))?;
        let (question, trail) = (self.questions.asked[q].question, &watch.trails[q]);
        let from = t + 1 - self.lengths.get(k);
        let limit = self.limit(q);
        let features = self.asking.features.len();
        Some(Finding {
            subject: match subject {
                feature if feature < features => Subject::Feature(feature),
                pairs if pairs == features => Subject::Pairs,
                _ => Subject::Rows,
            },
            question,
            windows: self.lengths.get(k),
            from_ms: watch.windows[from].start_ms,
            evidence: rows[q][k],
            evidence_limit: self.threshold(self.thresholds, k),
            effect: watch.effects.of(trail, q, from, t + 1),
            effect_limit: limit.effect,
            training_effect: self.training_effects[q][k],
            groups: match subject < features {
                true => watch.effects.groups(subject, from, t + 1),
                false => Default::default(),
            },
            group_of_bin: match subject < features {
                true => self.group_of_bin(subject),
                false => Vec::new(),
            },
            pair: (subject == features)
                .then(|| watch.effects.largest_pair(q, from, t + 1))
                .and_then(|at| self.asking.pairs.get(at))
                .map(|(a, b)| (*a as usize, *b as usize)),
            values: watch.effects.values(trail, q, from, t + 1),
            drifted,
            since_ms: state.drift.as_ref().map(|drift| drift.onset_ms),
            decides: limit.decides,
        })
    }
}

fn season_values(calendar: &Calendar, windows: &[Answers]) -> Vec<Vec<usize>> {
    windows
        .iter()
        .map(|window| calendar.values(window.start_ms))
        .collect()
}

/// Consecutive windows under one fit.
struct Watch<'a> {
    windows: &'a [Answers],
    trails: Vec<Trail<'a>>,
    effects: Effects,
}

impl<'a> Watch<'a> {
    fn new(
        questions: &Questions,
        fit: &'a Fit,
        expected: &[Expected],
        windows: &'a [Answers],
        values: &[Vec<usize>],
        series: &[Series],
    ) -> Self {
        let trails: Vec<Trail<'a>> = (fit.learned.iter().zip(series))
            .map(|(learned, series)| Trail::new(learned, series, values))
            .collect();
        let effects = Effects::new(questions, expected, windows, values, series, &trails);
        Self {
            windows,
            trails,
            effects,
        }
    }
}
