//! What asks for retraining.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::monitor::Monitor;
use crate::monitor::retraining::{Retraining, Severity};
use crate::store;
use crate::store::triggers::{self, Fired, NewTrigger};

/// What asks for retraining. Whatever it is, the guards are the database's: one open job per
/// model, quiet hours, cooldown and budget, each slot, episode and condition once.
#[derive(Debug, Clone)]
pub enum Trigger<'a> {
    /// An alert episode fires, or goes on firing.
    Episode {
        /// Whose policy it comes under.
        monitor: &'a Monitor,
        /// The episode.
        episode_id: i64,
        /// The model version whose inputs drift.
        version: &'a str,
        /// What is known of it.
        drift: Drift<'a>,
        /// What people read under "why": the window, features, scores. An object; `window_start` and
        /// `window_end` say which data is suggested for training.
        reason: Value,
    },
    /// A monitor's schedule is due.
    Schedule {
        /// Whose schedule.
        monitor: &'a Monitor,
        /// The moment that is due.
        slot: DateTime<Utc>,
        /// The slot came while no daemon ran, and the policy lets it pass.
        missed: bool,
    },
    /// The version in service is too old.
    Age {
        /// Whose policy it comes under.
        monitor: &'a Monitor,
        /// What holds: the same asks once.
        condition: &'a str,
        /// Since when, and what is allowed. An object.
        reason: Value,
    },
    /// Enough new data has come.
    Volume {
        /// Whose policy it comes under.
        monitor: &'a Monitor,
        /// What holds: the same asks once.
        condition: &'a str,
        /// How much, and how much was waited for. An object.
        reason: Value,
    },
    /// Somebody asks for it.
    Request {
        /// The model to retrain.
        model: &'a str,
        /// Why.
        reason: Option<&'a str>,
        /// Who.
        by: &'a str,
    },
}

/// What a policy looks at before an episode may enqueue.
#[derive(Debug, Clone, Copy)]
pub struct Drift<'a> {
    /// Share of the tested features that drifted.
    pub share: f64,
    /// How bad that is.
    pub severity: Severity,
    /// The features that drifted.
    pub features: &'a [String],
    /// Drifted windows of the episode so far.
    pub windows: i64,
}

/// What stops a trigger before the database is asked.
#[derive(Debug, Clone, PartialEq)]
struct Guard {
    name: &'static str,
    /// What it saw; an object.
    detail: Value,
}

impl Guard {
    fn of(policy: &Retraining, drift: &Drift<'_>) -> Option<Self> {
        let guard = |name, detail| Some(Self { name, detail });
        let (windows, needed) = (drift.windows, i64::from(policy.min_windows));
        if drift.share < policy.min_drifted_share {
            let needed = policy.min_drifted_share;
            guard(
                "drifted_share",
                json!({"share": drift.share, "needed": needed}),
            )
        } else if drift.severity < policy.min_severity {
            let (severity, needed) = (drift.severity, policy.min_severity);
            guard("severity", json!({"severity": severity, "needed": needed}))
        } else if !policy.features.is_empty()
            && !policy.features.iter().any(|f| drift.features.contains(f))
        {
            let (drifted, needed) = (drift.features, &policy.features);
            guard("features", json!({"drifted": drifted, "needed": needed}))
        } else if windows < needed {
            guard("windows", json!({"windows": windows, "needed": needed}))
        } else {
            None
        }
    }
}

impl Trigger<'_> {
    /// Fires it, in the caller's transaction. `None`: the monitor's policy does not retrain on
    /// drift at all, so there is nothing to record.
    ///
    /// Safe to repeat: a slot, condition or episode that was answered before gets the same answer,
    /// but for an episode or condition that was stopped, which is looked at anew. So the judge may
    /// fire it for every window of an episode, and the job comes when the cooldown is over.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fire(
        &self,
        connection: &mut PgConnection,
        at: DateTime<Utc>,
    ) -> store::Result<Option<Fired>> {
        let new = match self {
            Self::Request { model, reason, by } => {
                return triggers::request(connection, model, *reason, by)
                    .await
                    .map(Some);
            }
            Self::Episode { monitor, .. } if !monitor.retraining.on_drift => return Ok(None),
            Self::Episode {
                monitor,
                episode_id,
                version,
                drift,
                reason,
            } => stopped_by(
                Guard::of(&monitor.retraining, drift),
                NewTrigger {
                    version: Some(version),
                    episode_id: Some(*episode_id),
                    reason: reason.clone(),
                    ..under(monitor, "episode")
                },
            ),
            Self::Schedule {
                monitor,
                slot,
                missed,
            } => stopped_by(
                missed.then(|| Guard {
                    name: "missed",
                    detail: json!({"late_seconds": (at - *slot).num_seconds()}),
                }),
                NewTrigger {
                    slot: Some(*slot),
                    reason: schedule_reason(monitor),
                    ..under(monitor, "schedule")
                },
            ),
            Self::Age {
                monitor,
                condition,
                reason,
            } => NewTrigger {
                condition: Some(condition),
                reason: reason.clone(),
                ..under(monitor, "age")
            },
            Self::Volume {
                monitor,
                condition,
                reason,
            } => NewTrigger {
                condition: Some(condition),
                reason: reason.clone(),
                ..under(monitor, "volume")
            },
        };
        triggers::fire(connection, &new, at).await.map(Some)
    }
}

fn stopped_by(guard: Option<Guard>, trigger: NewTrigger<'_>) -> NewTrigger<'_> {
    match guard {
        Some(Guard { name, detail }) => NewTrigger {
            guard: Some(name),
            detail,
            ..trigger
        },
        None => trigger,
    }
}

/// What a monitor's policy says of any trigger of its own.
fn under<'a>(monitor: &'a Monitor, kind: &'a str) -> NewTrigger<'a> {
    let version = monitor
        .input
        .as_ref()
        .and_then(|input| match &input.version {
            crate::monitor::VersionSource::Fixed(version) => Some(version.as_str()),
            _ => None,
        });
    NewTrigger {
        kind,
        model: &monitor.model,
        version,
        monitor: &monitor.name,
        slot: None,
        episode_id: None,
        condition: None,
        reason: json!({}),
        policy: &monitor.retraining,
        guard: None,
        detail: json!({}),
    }
}

fn schedule_reason(monitor: &Monitor) -> Value {
    monitor.retraining.schedule.as_ref().map_or_else(
        || json!({}),
        |schedule| json!({"cron": schedule.cron, "time_zone": schedule.time_zone.name()}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_an_episode_is_named() {
        let usual = Retraining::default;
        let features = ["age".to_owned(), "fare".to_owned()];
        let drift = Drift {
            share: 0.2,
            severity: Severity::Warning,
            features: &features,
            windows: 2,
        };
        let name =
            |policy: Retraining, drift: Drift<'_>| Guard::of(&policy, &drift).map(|g| g.name);
        assert_eq!(name(usual(), drift), None);
        for (change, expected) in [
            (0.3, Some("drifted_share")),
            (0.2, None), // as much as is needed
        ] {
            let mut policy = usual();
            policy.min_drifted_share = change;
            assert_eq!(name(policy, drift), expected);
        }
        let mut policy = usual();
        policy.min_severity = Severity::Critical;
        assert_eq!(name(policy, drift), Some("severity"));
        let mut policy = usual();
        policy.features = vec!["fare".to_owned(), "dest".to_owned()];
        assert_eq!(name(policy.clone(), drift), None);
        policy.features = vec!["dest".to_owned()];
        assert_eq!(name(policy, drift), Some("features"));
        let mut policy = usual();
        policy.min_windows = 3;
        assert_eq!(name(policy.clone(), drift), Some("windows"));
        assert_eq!(
            name(
                policy,
                Drift {
                    windows: 3,
                    ..drift
                }
            ),
            None
        );
    }
}
