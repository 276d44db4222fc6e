//! Scores, policy and history to a verdict. Pure: the same window with the same state always gives
//! the same verdict and the same next state.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::episode::{Change, Episode};
use super::rule::{self, Answers, Finding, Rule, Subject};
use super::sentence;
use crate::compare::attribution::Contribution;
use crate::compare::window::Reference;
use crate::compare::{Answer, Outcome, Reason, Test};
use crate::monitor::Judging;
use crate::profile::{Feature, Profile};

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

/// What decided over a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The rule, learned from the training windows.
    Rule,
    /// The tests: the baseline holds too few training windows for the rule.
    Tests,
    /// Nothing could be said.
    Nothing,
}

impl DecidedBy {
    /// The name in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Tests => "tests",
            Self::Nothing => "none",
        }
    }
}

/// What the training data say of a monitor's windows.
#[derive(Debug)]
pub enum Training {
    /// Enough windows to learn from.
    Learned(Arc<Rule>),
    /// Too few; their number, and how values are scored where the training data have a time.
    TooFew {
        /// Training windows.
        windows: usize,
        /// So that windows can be counted towards a later baseline.
        asking: Option<rule::Asking>,
    },
}

impl Training {
    /// Training windows.
    pub fn windows(&self) -> usize {
        match self {
            Self::Learned(rule) => rule.windows(),
            Self::TooFew { windows, .. } => *windows,
        }
    }

    fn asking(&self) -> Option<&rule::Asking> {
        match self {
            Self::Learned(rule) => Some(rule.asking()),
            Self::TooFew { asking, .. } => asking.as_ref(),
        }
    }
}

/// A baseline ready to judge windows of one monitor.
#[derive(Debug)]
pub struct Judge {
    /// Its id.
    pub baseline_id: String,
    /// What windows are compared with.
    pub reference: Reference,
    /// What was learned from the training windows.
    pub training: Training,
    /// How.
    pub judging: Judging,
    /// From one window to the next, in milliseconds.
    pub every_ms: i64,
    /// A p-value of a test speaks for drift at or below this, once it is adjusted: the false alarms per
    /// window that the user allows.
    pub alpha: f64,
}

/// What is carried from window to window.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// The baseline that `rule` belongs to.
    #[serde(default)]
    baseline_id: String,
    /// What the rule carries.
    #[serde(default)]
    rule: rule::State,
    /// The alert.
    #[serde(default)]
    pub episode: Episode,
    /// The row of the open episode.
    #[serde(default)]
    pub episode_id: Option<i64>,
}

/// One row of the history: a score with the limits it was held against.
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
    /// A p-value speaks for drift at or below this; `None` where the score informs only.
    pub p_limit: Option<f64>,
    /// An effect speaks for drift above this; `None` where the score informs only.
    pub threshold: Option<f64>,
    /// Whether it decides over the window or informs only.
    pub decides: bool,
    /// Rows with a value absent.
    pub nulls: u64,
    /// Rows with a value that the baseline never held.
    pub unseen: u64,
    /// Whether it speaks for drift.
    pub drifted: bool,
    /// The bins or levels that contribute most.
    pub contributions: Vec<Contribution>,
    /// What the rule found; `None` for a test.
    pub finding: Option<Finding>,
    /// Of the rule: what was found and what was expected, in the question's own units.
    pub values: Option<(f64, f64)>,
    /// For people, where it speaks for drift and decides.
    pub sentence: Option<String>,
}

/// What is said of a window, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What decided.
    pub decided_by: DecidedBy,
    /// Training windows of the baseline.
    pub training_windows: usize,
    /// Features tested.
    pub features: usize,
    /// Features that drifted, worst first.
    pub drifted: Vec<String>,
    /// Whether all features together speak for drift.
    pub joint: bool,
    /// Whether the number of rows is beyond what training windows show.
    pub volume: bool,
    /// The features that moved most, drifted or not, worst first, with their scores.
    pub top: Vec<(String, f64)>,
    /// All scores.
    pub scores: Vec<Scored>,
    /// What it does to the alert.
    pub change: Change,
    /// What later windows are taken together with.
    pub answers: Option<Answers>,
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

    /// Why the window drifted, one sentence per feature, worst first.
    pub fn sentences(&self) -> Vec<&str> {
        let of = |name: &str| {
            let mut scores = self
                .scores
                .iter()
                .filter(move |score| score.feature == name);
            scores.find_map(|score| score.sentence.as_deref())
        };
        let named = self.drifted.iter().map(String::as_str).chain([JOINT, ROWS]);
        named.filter_map(of).collect()
    }

    /// Whether it may count as a training window of a baseline that holds too few: the tests found it
    /// stable. One that is drifted would teach the rule that drift is normal.
    pub fn is_training(&self) -> bool {
        let is_quiet = self.verdict == Verdict::Stable && self.decided_by == DecidedBy::Tests;
        is_quiet && self.answers.is_some()
    }

    /// A window of which nothing can be said.
    pub fn unsaid(verdict: Verdict) -> Self {
        Self {
            verdict,
            decided_by: DecidedBy::Nothing,
            training_windows: 0,
            features: 0,
            drifted: Vec::new(),
            joint: false,
            volume: false,
            top: Vec::new(),
            scores: Vec::new(),
            change: Change::None,
            answers: None,
        }
    }

    /// The same of a window that may lack rows: its scores inform, and nothing follows from them.
    fn incomplete(self) -> Self {
        Self {
            verdict: Verdict::Incomplete,
            decided_by: DecidedBy::Nothing,
            change: Change::None,
            volume: false,
            answers: None,
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

/// Which rows of its time a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// A gap in the log touches it.
    pub incomplete: bool,
    /// Rows of its time went to other model versions, or came before its line began.
    pub shared: bool,
}

impl Judge {
    /// Judges a window that begins at this time, and moves the state on. `past` are the windows before
    /// it, in order and without holes, as many as [`Judge::memory`] asks for. One that a gap touches is
    /// compared all the same, but neither alert nor state learn of it. The number of rows of a shared one says nothing.
    pub fn judge(
        &self,
        window: &mut Profile,
        past: Vec<Answers>,
        start_ms: i64,
        coverage: Coverage,
        state: &mut State,
    ) -> Judged {
        if state.baseline_id != self.baseline_id {
            state.baseline_id.clone_from(&self.baseline_id);
            state.rule = rule::State::default();
        }
        if coverage.incomplete {
            let mut unchanged = state.clone();
            let judged = self.judge_whole(window, past, start_ms, coverage, &mut unchanged);
            return judged.incomplete();
        }
        self.judge_whole(window, past, start_ms, coverage, state)
    }

    /// How many windows before the judged one are looked at.
    pub fn memory(&self) -> usize {
        match &self.training {
            Training::Learned(rule) => rule.memory(),
            Training::TooFew { .. } => 0,
        }
    }

    fn judge_whole(
        &self,
        window: &mut Profile,
        past: Vec<Answers>,
        start_ms: i64,
        coverage: Coverage,
        state: &mut State,
    ) -> Judged {
        let enough = window.rows >= self.judging.min_rows;
        let layout = &self.reference.layout;
        let asking = self.training.asking();
        let answers = asking.map(|asking| Answers {
            shared: coverage.shared,
            ..asking.ask(layout, window, start_ms)
        });
        let findings = match (&self.training, &answers) {
            (Training::Learned(rule), Some(answers)) => {
                let mut windows = past;
                windows.push(answers.clone());
                rule.judge(&windows, enough, &mut state.rule)
            }
            _ => Vec::new(),
        };
        let by_rule = matches!(self.training, Training::Learned(_));
        let mut scored = match enough {
            true => {
                let scores = self.reference.compare(window);
                self.held_against_limits(scores, window, !by_rule)
            }
            false => Vec::new(),
        };
        let found = findings
            .into_iter()
            .map(|finding| self.of_finding(finding, window));
        // Of a window with too few rows only their number is judged.
        scored.extend(found.filter(|one| enough || one.feature == ROWS));
        let said = self.decided(&scored);
        self.attribute(&mut scored, window);
        let (verdict, change) = match (enough, said.drifted_window) {
            (false, _) => (Verdict::TooFewRows, Change::None),
            (true, drifted) => (
                if drifted {
                    Verdict::Drifted
                } else {
                    Verdict::Stable
                },
                state.episode.step(self.judging.alert, drifted),
            ),
        };
        Judged {
            verdict,
            decided_by: match (enough, by_rule) {
                (false, _) => DecidedBy::Nothing,
                (true, true) => DecidedBy::Rule,
                (true, false) => DecidedBy::Tests,
            },
            training_windows: self.training.windows(),
            features: if enough { layout.features.len() } else { 0 },
            drifted: said.drifted,
            joint: said.joint,
            volume: said.volume,
            top: said.top,
            scores: scored,
            change,
            answers,
        }
    }

    fn of_finding(&self, finding: Finding, window: &Profile) -> Scored {
        let layout = &self.reference.layout;
        let feature = match finding.subject {
            Subject::Feature(i) => Some(i),
            Subject::Pairs | Subject::Rows => None,
        };
        let values: Option<&Feature> = feature.map(|i| &window.features[i]);
        let outcome = Outcome {
            statistic: finding.evidence,
            p_value: Some((-finding.evidence).exp()),
            expected: None,
            effect: finding.effect,
            error_bound: None,
        };
        let sentence = finding
            .drifted
            .then(|| sentence::of(&finding, &self.reference, self.every_ms));
        Scored {
            feature: match (feature, finding.subject) {
                (Some(i), _) => layout.features[i].name.clone(),
                (None, Subject::Rows) => ROWS.to_owned(),
                (None, _) => JOINT.to_owned(),
            },
            test: Test::Rule,
            answer: match finding.evidence < 0.0 {
                true => Err(Reason::TooFewRows),
                false => Ok(outcome),
            },
            p_adjusted: None,
            p_limit: finding.decides.then(|| (-finding.evidence_limit).exp()),
            threshold: finding.decides.then_some(finding.effect_limit),
            decides: finding.decides,
            nulls: values.map_or(0, |feature| feature.quality.absent()),
            unseen: values.map_or(0, Feature::unseen),
            drifted: finding.drifted,
            contributions: Vec::new(),
            sentence,
            values: sentence::in_own_units(&finding, &self.reference),
            finding: Some(finding),
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

    fn place(&self, name: &str) -> Option<usize> {
        let features = &self.reference.layout.features;
        features.iter().position(|feature| feature.name == name)
    }
}

/// What the deciding scores say of a window.
pub(super) struct Said {
    pub(super) drifted_window: bool,
    pub(super) drifted: Vec<String>,
    pub(super) joint: bool,
    pub(super) volume: bool,
    pub(super) top: Vec<(String, f64)>,
}
