//! When a model is retrained, on what, and what becomes of the new version: a monitor's policy.
//!
//! Stored as JSON with the monitor, where the SQL functions read it: names and units there are those
//! of `driftd.trigger_retraining`.

use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize, Serializer};

/// When retraining jobs are enqueued for the monitor's model, and what they say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retraining {
    /// Enqueue when an episode fires.
    pub on_drift: bool,
    /// Share of drifted features an episode needs before it enqueues.
    pub min_drifted_share: f64,
    /// The least severity that does.
    pub min_severity: Severity,
    /// Features of which one has to be among the drifted ones; empty: any.
    pub features: Vec<String>,
    /// Drifted windows that the episode needs before it does.
    pub min_windows: u32,
    /// Enqueue by the clock.
    pub schedule: Option<Schedule>,
    /// Enqueue when the version in service is older than this.
    #[serde(rename = "max_age_seconds", serialize_with = "optional_seconds")]
    pub max_age: Option<Duration>,
    /// Enqueue when so many rows were judged since the model's last job.
    pub new_rows: Option<u64>,
    /// No new job for this long after the model's last one was enqueued.
    #[serde(rename = "cooldown_seconds", serialize_with = "seconds")]
    pub cooldown: Duration,
    /// At most so many jobs in a period.
    pub budget: Option<Budget>,
    /// Parts of the day in which nothing is enqueued but by hand.
    pub quiet_hours: Vec<QuietHours>,
    /// Whose wall clock the schedule and the quiet hours go by.
    pub time_zone: Tz,
    /// Whether a person has to approve a job first.
    pub approval: Approval,
    /// Jobs of higher priority are claimed first.
    pub priority: i32,
    /// A claimed job fails for good after so many attempts.
    pub max_attempts: u32,
    /// The data suggested for training.
    pub data: SuggestedData,
    /// Handed to the trainer as they are.
    pub parameters: serde_json::Value,
    /// Hyperparameters to search for before the last training.
    pub search: Option<serde_json::Value>,
    /// What becomes of the version that a job makes.
    pub promotion: Promotion,
}

impl Default for Retraining {
    /// What `config/default.toml` says.
    fn default() -> Self {
        Self {
            on_drift: true,
            min_drifted_share: 0.0,
            min_severity: Severity::Warning,
            features: Vec::new(),
            min_windows: 1,
            schedule: None,
            max_age: None,
            new_rows: None,
            cooldown: Duration::from_secs(86_400),
            budget: None,
            quiet_hours: Vec::new(),
            time_zone: Tz::UTC,
            approval: Approval::None,
            priority: 0,
            max_attempts: 3,
            data: SuggestedData::default(),
            parameters: serde_json::json!({}),
            search: None,
            promotion: Promotion::default(),
        }
    }
}

impl Retraining {
    /// Whether time or data alone may enqueue a job: what a monitor without a topic needs.
    pub fn goes_by_itself(&self) -> bool {
        self.schedule.is_some() || self.max_age.is_some()
    }
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Some features drifted.
    Warning,
    /// Half of them or more.
    Critical,
}

impl Severity {
    /// As in SQL, settings and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A cron schedule in a time zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Five fields as in POSIX cron, or six with leading seconds.
    pub cron: String,
    /// IANA time zone.
    pub time_zone: Tz,
    /// What becomes of slots that came while no daemon ran.
    pub catch_up: CatchUp,
}

/// What becomes of slots that came while no daemon ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are recorded as missed and enqueue nothing.
    None,
    /// The last of them fires.
    Last,
    /// Each fires: the first enqueues a job, the others join it.
    All,
}

/// `budget = { jobs = 3, per = "30d" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Jobs.
    pub jobs: u32,
    /// In the time before a trigger.
    #[serde(rename = "per_seconds", serialize_with = "seconds")]
    pub per: Duration,
}

/// A part of the day, `"22:00-06:00"`; the second moment is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuietHours {
    /// From this time of day on.
    pub from: NaiveTime,
    /// Until this one; an earlier one is that of the next day.
    pub to: NaiveTime,
}

/// Whether a person has to approve a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// No.
    None,
    /// It waits for `driftd jobs approve`.
    Required,
}

/// The data suggested for training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuggestedData {
    /// Which part of the log.
    pub select: Select,
    /// How far back from its end it reaches.
    #[serde(rename = "span_seconds", serialize_with = "optional_seconds")]
    pub span: Option<Duration>,
    /// A table, with `{model}`, `{version}`, `{monitor}`, `{from}`, `{to}`, `{date}` filled in.
    pub table: Option<String>,
    /// A path, with the same.
    pub path: Option<String>,
    /// The share of it that is not trained on but becomes the new version's baseline.
    pub baseline_share: f64,
}

impl Default for SuggestedData {
    fn default() -> Self {
        Self {
            select: Select::Last,
            span: None,
            table: None,
            path: None,
            baseline_share: 0.2,
        }
    }
}

/// Which part of the log a job suggests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The window that asked, or the last one judged; with a span, all that end in it.
    Last,
    /// From the first drifted window of the episode on.
    SinceDrift,
    /// All windows in the span before.
    Sliding,
}

/// What becomes of the version that a job makes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promotion {
    /// Who decides.
    pub policy: PromotionPolicy,
    /// The metric that has to be better than the parent's.
    pub metric: Option<String>,
    /// Which way is better.
    pub goal: Goal,
    /// By more than so much.
    pub min_gain: f64,
}

impl Default for Promotion {
    fn default() -> Self {
        Self {
            policy: PromotionPolicy::Manual,
            metric: None,
            goal: Goal::Maximize,
            min_gain: 0.0,
        }
    }
}

/// Who decides whether a new version goes into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionPolicy {
    /// A person: `driftd models promote`.
    Manual,
    /// Nobody: it does at once.
    Automatic,
    /// The metric that the trainer reports.
    IfBetter,
}

/// Which way a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// More.
    Maximize,
    /// Less.
    Minimize,
}

// By the signatures that serde asks for.
fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn optional_seconds<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}
