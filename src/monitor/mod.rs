//! What is watched: one monitor is a topic, a model, its features, its windows and its policies.
//!
//! These types cannot be wrong: [`crate::settings`] builds them from what the user wrote, after
//! every problem has been reported.

use serde::{Deserialize, Serialize};

use crate::compare::Test;
use crate::compare::adjust::Adjustment;
use crate::decide::rule;
use crate::window;

/// When a model is retrained, on what, and what becomes of the new version.
pub mod retraining;

pub use retraining::{Retraining, Schedule};

/// One monitor as the settings define it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Monitor {
    /// Unique name: lower-case letters, digits, `-` and `_`, at most 63.
    pub name: String,
    /// The model whose inputs are watched, and for which jobs are enqueued.
    pub model: String,
    /// Where its inputs come from and how they are judged; `None` for a periodic-only monitor.
    pub input: Option<Input>,
    /// When and how retraining jobs are enqueued.
    pub retraining: Retraining,
}

/// The stream side of a monitor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Input {
    /// Kafka topic.
    pub topic: String,
    /// Which model version produced the prediction of a row.
    pub version: VersionSource,
    /// Where a row's event time stands.
    pub timestamp: Timestamp,
    /// Which features are watched.
    pub features: Features,
    /// Windows in event time, and what counts as late.
    pub window: window::Spec,
    /// How a window is judged.
    pub judging: Judging,
    /// Rows kept as a sample of each window (bottom-k by a keyed hash).
    pub sample_rows: usize,
    /// What to do when a part of the log cannot be read any more.
    pub on_gap: OnGap,
    /// Keep the payload of rejected messages beside their digest.
    pub keep_rejected_payload: bool,
}

/// Which model version a row belongs to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionSource {
    /// The same for every message.
    Fixed(String),
    /// A field path in the payload, e.g. `meta.model_version`.
    Path(String),
    /// A Kafka header.
    Header(String),
}

/// Where the event time of a row stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timestamp {
    /// Field path in the payload; `None` takes the Kafka record's own timestamp.
    pub path: Option<String>,
    /// How a number is read; strings are always read as RFC 3339.
    pub unit: TimeUnit,
}

/// Unit of a numeric timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds since the epoch, fractions allowed.
    S,
    /// Milliseconds since the epoch.
    Ms,
    /// Microseconds since the epoch.
    Us,
    /// Nanoseconds since the epoch.
    Ns,
}

/// Which features of the model are watched.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// All that the version's baseline holds, each at the path of its own name.
    All,
    /// These, by name, each at a path.
    Listed(Vec<Feature>),
}

/// One watched feature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Feature {
    /// Name as in the baseline.
    pub name: String,
    /// Field path in the payload; the name itself unless the user says otherwise.
    pub path: String,
    /// What the rule asks of it other than of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<rule::Change>,
}

/// The kind of a feature: what tests make sense of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A number on an ordered scale.
    Numeric,
    /// A label from a set of levels; integers may be labels.
    Categorical,
    /// `true` or `false`: a categorical feature with two levels.
    Boolean,
    /// A point in time, profiled as seconds since the epoch.
    Timestamp,
    /// A list of numbers, as many in every row. Alone it is profiled by its Euclidean norm; its
    /// direction is a matter of the tests on many features together.
    Embedding,
}

impl Kind {
    /// Whether values are profiled on a grid of cuts (as opposed to levels).
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Numeric | Self::Timestamp | Self::Embedding)
    }
}

/// How the windows of a monitor are judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judging {
    /// The false alarms that the user allows.
    pub false_alarms: FalseAlarms,
    /// What the rule asks, in the order of [`rule::Question::ALL`].
    pub questions: rule::Limits,
    /// Tests computed and stored for every feature. Their limits decide where the training data hold
    /// too few windows for the rule.
    pub tests: Vec<Limit>,
    /// How p-values are adjusted over the features and tests of a window.
    pub adjustment: Adjustment,
    /// Windows with fewer rows get the verdict `too_few_rows`.
    pub min_rows: u64,
    /// How verdicts become an episode.
    pub alert: AlertPolicy,
}

impl Judging {
    /// The tests that are computed.
    pub fn tests(&self) -> Vec<Test> {
        self.tests.iter().map(|limit| limit.test).collect()
    }
}

/// `false_alarms = { max = 1, per = "30d" }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FalseAlarms {
    /// Expected number of false alarms in quiet times.
    pub max: f64,
    /// The period it refers to, in milliseconds.
    pub per_ms: i64,
}

impl FalseAlarms {
    /// The largest rate per window that means something.
    const MOST: f64 = 0.5;

    /// Allowed false alarms per window, where one begins so often.
    pub fn per_window(&self, every_ms: i64) -> f64 {
        (self.max * every_ms as f64 / self.per_ms as f64).min(Self::MOST)
    }
}

/// One test with its limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// The test.
    pub test: Test,
    /// The effect above which the test speaks for drift (each test's docs say what its effect
    /// is). For tests without p-value the effect alone decides.
    pub effect: f64,
    /// Whether it decides over the window; if not, it is computed and stored only.
    pub decides: bool,
}

impl Limit {
    /// The limit that a test has where the user names none. The reasons: `docs/statistics.md`.
    pub fn usual(test: Test) -> Self {
        let effect = match test {
            Test::NullRate
            | Test::MissingRate
            | Test::TypeErrors
            | Test::UnseenRate
            | Test::OutOfRange => 0.005,
            Test::Mmd | Test::PcaReconstruction => 0.05,
            Test::Psi
            | Test::Kl
            | Test::Js
            | Test::Hellinger
            | Test::Wasserstein
            | Test::WassersteinNormed
            | Test::DomainClassifier => 0.1,
            Test::RowVolume => 0.69, // half as many, or twice as many
            _ => 0.02,
        };
        Self {
            test,
            effect,
            decides: true,
        }
    }
}

/// k-of-n and hysteresis of an alert episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AlertPolicy {
    /// Drifted windows needed among the last `of` before the episode fires.
    pub windows: u32,
    /// The number of last windows looked at.
    pub of: u32,
    /// Stable windows in a row that resolve a firing episode.
    pub resolve_after: u32,
    /// A drift episode whose line holds no rows for so long ends as unknown, in milliseconds of
    /// event time.
    pub unknown_after_ms: i64,
}

/// What to do about a part of the log that is gone before driftd read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// Record the gap and stand still before it; other topics go on.
    Stop,
    /// Record the gap, mark the windows incomplete and go on.
    Continue,
}
