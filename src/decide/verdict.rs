//! Scores, policy and history to a verdict. Pure: the same window with the same state always gives
//! the same verdict and the same next state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::episode::{Change, Episode};
use super::learned::{
    Alarm, Calibration, FalseAlarmRate, Limbs, Score as LearnedScore, Sums, Thresholds,
};
use crate::compare::attribution::Contribution;
use crate::compare::window::Reference;
use crate::compare::{Answer, Outcome, Reason, Test};
use crate::monitor::{Judging, Mode};
use crate::profile::{Profile, coarse};
use crate::window::Spec;

/// What driftd says of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Like the baseline.
    Stable,
    /// Not like the baseline.
    Drifted,
    /// Fewer rows than `min_rows`.
    TooFewRows,
    /// Its model version has no baseline.
    NoBaseline,
    /// A gap in the log touches it: rows may be missing.
    Incomplete,
}

impl Verdict {
    /// The name in SQL and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Drifted => "drifted",
            Self::TooFewRows => "too_few_rows",
            Self::NoBaseline => "no_baseline",
            Self::Incomplete => "incomplete",
        }
    }
}

/// A baseline ready to judge windows of one monitor.
#[derive(Debug)]
pub struct Judge {
    /// What windows are compared with.
    pub reference: Reference,
    /// What was learned from the baseline's own windows, with the thresholds that follow from the
    /// false alarms the user allows.
    pub learned: Option<(Calibration, Thresholds)>,
    /// How.
    pub judging: Judging,
}

/// What is carried from window to window.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// The slow limb's sums; an alarm sets them to 0.
    #[serde(default)]
    limbs: Limbs,
    /// The same sums, but never beyond the threshold and never reset: while one of them stays
    /// above half of it, drift that was alarmed is not over.
    #[serde(default)]
    evidence: BTreeMap<String, Sums>,
    /// An alarm was raised and its drift is not over.
    #[serde(default)]
    holding: bool,
    /// The alert.
    #[serde(default)]
    pub episode: Episode,
    /// The row of the open episode.
    #[serde(default)]
    pub episode_id: Option<i64>,
}

/// One row of the history: a test's score with the threshold it was held against.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Name of the feature.
    pub feature: String,
    /// The test.
    pub test: Test,
    /// Its answer.
    pub answer: Answer,
    /// Adjusted over the features of the window.
    pub p_adjusted: Option<f64>,
    /// The limit; `None` where the test informs only.
    pub threshold: Option<f64>,
    /// What the effect is capped at, in the test `learned`.
    pub threshold_slow: Option<f64>,
    /// Whether the test decides over the window or informs only.
    pub decides: bool,
    /// Where it comes from: `settings` or `learned`.
    pub threshold_origin: &'static str,
    /// Rows with a value absent.
    pub nulls: u64,
    /// Rows with a value that the baseline never held.
    pub unseen: u64,
    /// Whether this test speaks for drift.
    pub drifted: bool,
    /// The bins or levels that contribute most.
    pub contributions: Vec<Contribution>,
}

/// What is said of a window, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// Which rule decided: `learned`, `thresholds` or `none`.
    pub mode: &'static str,
    /// Whether the baseline is calibrated for the window's size.
    pub calibrated: bool,
    /// Features tested.
    pub features: usize,
    /// Features that drifted, worst first.
    pub drifted: Vec<String>,
    /// Whether a test of many features together speaks for drift.
    pub joint: bool,
    /// The features that moved most, drifted or not, worst first, with their scores.
    pub top: Vec<(String, f64)>,
    /// All scores.
    pub scores: Vec<Scored>,
    /// What it does to the alert.
    pub change: Change,
}

impl Judged {
    /// Share of the tested features that drifted.
    pub fn drifted_share(&self) -> f64 {
        self.drifted.len() as f64 / self.features.max(1) as f64
    }

    /// The features that moved most, as JSON.
    pub fn top_features(&self) -> Value {
        let top = self.top.iter();
        top.map(|(feature, score)| json!({"feature": feature, "score": score}))
            .collect()
    }

    /// A window of which nothing can be said.
    pub fn unsaid(verdict: Verdict) -> Self {
        Self {
            verdict,
            mode: "none",
            calibrated: false,
            features: 0,
            drifted: Vec::new(),
            joint: false,
            top: Vec::new(),
            scores: Vec::new(),
            change: Change::None,
        }
    }

    /// The same of a window that may lack rows: its scores inform, and nothing follows from them.
    fn incomplete(self) -> Self {
        Self {
            verdict: Verdict::Incomplete,
            mode: "none",
            change: Change::None,
            ..self
        }
    }
}

/// How many features a window names as those that moved most.
pub(super) const TOP: usize = 5;
/// How many bins a score names.
const CONTRIBUTIONS: usize = 10;
/// Stands where a test of many features together has no one feature's name.
pub const JOINT: &str = "(joint)";
/// Stands where a test of the number of rows has no feature's name.
pub const ROWS: &str = "(rows)";

impl Judge {
    /// Makes ready what does not change from window to window.
    pub fn new(
        reference: Reference,
        calibration: Option<Calibration>,
        judging: Judging,
        spec: &Spec,
    ) -> Self {
        let rate = FalseAlarmRate {
            max: judging.false_alarms.max,
            windows_per_period: judging.false_alarms.per_ms as f64 / spec.every_ms as f64,
        };
        let learned = calibration.map(|calibration| {
            let thresholds = calibration.thresholds(rate, judging.guard);
            (calibration, thresholds)
        });
        Self {
            reference,
            learned,
            judging,
        }
    }

    /// Judges a window that begins at this time, and moves the state on. One that a gap touches is
    /// compared all the same, but neither alert nor state learn of it.
    pub fn judge(
        &self,
        window: &mut Profile,
        start_ms: i64,
        is_incomplete: bool,
        state: &mut State,
    ) -> Judged {
        if is_incomplete {
            let mut unchanged = state.clone();
            let judged = self.judge_whole(window, start_ms, &mut unchanged);
            return judged.incomplete();
        }
        self.judge_whole(window, start_ms, state)
    }

    fn judge_whole(&self, window: &mut Profile, start_ms: i64, state: &mut State) -> Judged {
        if window.rows < self.judging.min_rows {
            let calibrated = self.learned.is_some();
            return Judged {
                calibrated,
                ..Judged::unsaid(Verdict::TooFewRows)
            };
        }
        let scores = self.reference.compare(window);
        let by_learning = match self.judging.mode {
            Mode::Thresholds => None,
            Mode::Auto | Mode::Learned => self.learned.as_ref(),
        };
        let mut scored = self.held_against_limits(scores, window, by_learning.is_none());
        let said = match by_learning {
            Some((calibration, thresholds)) => {
                let learned = self.learned_scores(calibration, window, start_ms);
                self.by_learning(
                    calibration,
                    thresholds,
                    &learned,
                    window,
                    state,
                    &mut scored,
                )
            }
            None => self.by_limits(&scored),
        };
        self.attribute(&mut scored, window);
        let mode = if by_learning.is_some() {
            "learned"
        } else {
            "thresholds"
        };
        let Said {
            drifted_window,
            drifted,
            joint,
            top,
        } = said;
        let change = state.episode.step(self.judging.alert, drifted_window);
        Judged {
            verdict: if drifted_window {
                Verdict::Drifted
            } else {
                Verdict::Stable
            },
            mode,
            calibrated: self.learned.is_some(),
            features: self.reference.layout.features.len(),
            drifted,
            joint,
            top,
            scores: scored,
            change,
        }
    }

    /// Says of every score that speaks for drift where it comes from.
    fn attribute(&self, scored: &mut [Scored], window: &Profile) {
        for score in scored {
            if !score.drifted {
                score.contributions.clear();
            } else if let Some(i) = self.place(&score.feature) {
                let (test, most) = (score.test, CONTRIBUTIONS);
                score.contributions = self.reference.contributions(test, i, window, most);
            } else {
                score.contributions.truncate(CONTRIBUTIONS);
            }
        }
    }

    fn by_learning(
        &self,
        calibration: &Calibration,
        thresholds: &Thresholds,
        learned: &[Option<LearnedScore>],
        window: &Profile,
        state: &mut State,
        scored: &mut Vec<Scored>,
    ) -> Said {
        let alarm = state.limbs.step(calibration, thresholds, learned);
        let evidence = state.gather(&alarm, thresholds.slow);
        let above = |name: &str| {
            evidence
                .get(name)
                .is_some_and(|e| *e > thresholds.slow / 2.0)
        };
        let raised = alarm.limb.is_some();
        state.holding = raised || (state.holding && alarm.features.iter().any(|f| above(&f.name)));
        let drifts = |over: bool, name: &str| state.holding && (over || above(name));
        for score in &alarm.features {
            let (name, over) = (&score.name, drifts(score.over, &score.name));
            let Some(i) = self.place(name) else {
                continue;
            };
            let gathered = evidence.get(name).copied().unwrap_or(0.0);
            let row = self.learned_row(i, score.z(), gathered, thresholds, over, window);
            scored.push(row);
        }
        let moved = |name: &str, z: Option<f64>| {
            evidence.get(name).copied().unwrap_or(0.0) + z.unwrap_or(0.0).max(0.0) * 1e-3
        };
        let mut order: Vec<(&str, f64, bool)> = alarm
            .features
            .iter()
            .map(|f| (&*f.name, moved(&f.name, f.z()), drifts(f.over, &f.name)))
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        Said {
            drifted_window: state.holding,
            joint: false,
            drifted: order
                .iter()
                .filter(|f| f.2)
                .map(|f| f.0.to_owned())
                .collect(),
            top: order
                .iter()
                .take(TOP)
                .map(|f| (f.0.to_owned(), f.1))
                .collect(),
        }
    }

    fn learned_row(
        &self,
        i: usize,
        z: Option<f64>,
        gathered: f64,
        thresholds: &Thresholds,
        drifted: bool,
        window: &Profile,
    ) -> Scored {
        let outcome = |z| Outcome {
            statistic: z,
            p_value: None,
            expected: None,
            effect: gathered,
            error_bound: None,
        };
        let feature = &window.features[i];
        Scored {
            feature: self.reference.layout.features[i].name.clone(),
            test: Test::Learned,
            answer: z.map(outcome).ok_or(Reason::TooFewRows),
            p_adjusted: None,
            threshold: Some(thresholds.fast),
            threshold_slow: Some(thresholds.slow),
            decides: true,
            threshold_origin: "learned",
            nulls: feature.quality.absent(),
            unseen: feature.unseen(),
            drifted,
            contributions: Vec::new(),
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.reference
            .layout
            .features
            .iter()
            .position(|feature| feature.name == name)
    }

    /// The learned score of every feature of the calibration; `None` where the monitor does not
    /// watch it.
    fn learned_scores(
        &self,
        calibration: &Calibration,
        window: &Profile,
        start_ms: i64,
    ) -> Vec<Option<LearnedScore>> {
        let features = calibration.features.iter().enumerate();
        features
            .map(|(at, feature)| {
                let i = self.place(&feature.name)?;
                let layout = &self.reference.layout.features[i];
                let counts = coarse::of_feature(layout, &window.features[i]);
                calibration.score(at, start_ms, &counts)
            })
            .collect()
    }
}

/// What one way of deciding says of a window.
pub(super) struct Said {
    pub(super) drifted_window: bool,
    pub(super) drifted: Vec<String>,
    pub(super) joint: bool,
    pub(super) top: Vec<(String, f64)>,
}

impl State {
    /// Adds a window's scores to the evidence; answers each feature's largest sum. Without an alarm
    /// they are the slow limb's sums; an alarm resets those and not these.
    fn gather(&mut self, alarm: &Alarm, threshold: f64) -> BTreeMap<String, f64> {
        let gathered = alarm.features.iter().map(|feature| {
            let before = self
                .evidence
                .get(&feature.name)
                .copied()
                .unwrap_or_default();
            let now = feature
                .score
                .map_or(before, |score| before.with(score, threshold));
            (feature.name.clone(), now)
        });
        self.evidence = gathered.collect();
        let largest = self
            .evidence
            .iter()
            .map(|(name, sums)| (name.clone(), sums.largest()));
        largest.collect()
    }
}
