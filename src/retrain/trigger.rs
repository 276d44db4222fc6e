//! What asks for retraining.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::monitor::{Monitor, Retraining};
use crate::store::triggers::{self, Fired, NewTrigger};
use crate::store::{self};

/// What asks for retraining. Whatever it is, the guards are the database's: one open job per
/// model, the cooldown, each slot and each episode once.
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
        /// Whether the verdict rests on a calibrated baseline.
        calibrated: bool,
        /// Share of the tested features that drifted.
        drifted_share: f64,
        /// What people read under "why": windows, features, scores. An object.
        reason: Value,
        /// Data suggested for training: topic, offsets, time range. An object.
        training_data: Value,
    },
    /// A monitor's schedule is due.
    Schedule {
        /// Whose schedule.
        monitor: &'a Monitor,
        /// The moment that is due.
        slot: DateTime<Utc>,
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

/// What stops an episode before the database is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Guard {
    /// The verdict rests on thresholds, and the user wants retraining on learned ones only.
    Uncalibrated,
    /// Too few of the features drifted.
    DriftedShare { share: f64, needed: f64 },
}

impl Guard {
    fn of(policy: &Retraining, calibrated: bool, share: f64) -> Option<Self> {
        let needed = policy.min_drifted_share;
        if !calibrated && !policy.when_uncalibrated {
            Some(Self::Uncalibrated)
        } else if share < needed {
            Some(Self::DriftedShare { share, needed })
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Uncalibrated => "uncalibrated",
            Self::DriftedShare { .. } => "drifted_share",
        }
    }

    fn detail(self) -> Value {
        match self {
            Self::Uncalibrated => json!({}),
            Self::DriftedShare { share, needed } => json!({"share": share, "needed": needed}),
        }
    }
}

impl Trigger<'_> {
    /// Fires it, in the caller's transaction. `None`: the monitor's policy does not retrain on
    /// drift at all, so there is nothing to record.
    ///
    /// Safe to repeat: a slot or episode that was answered before gets the same answer, but for
    /// an episode that was stopped, which is looked at anew. So the judge may fire it for every
    /// window of an episode, and the job comes when the cooldown is over.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fire(
        &self,
        connection: &mut PgConnection,
        at: DateTime<Utc>,
    ) -> store::Result<Option<Fired>> {
        let nothing = json!({});
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
                calibrated,
                drifted_share,
                reason,
                training_data,
            } => {
                let guard = Guard::of(&monitor.retraining, *calibrated, *drifted_share);
                NewTrigger {
                    version: Some(version),
                    episode_id: Some(*episode_id),
                    reason: reason.clone(),
                    training_data,
                    guard: guard.map(Guard::name),
                    detail: guard.map_or_else(|| json!({}), Guard::detail),
                    ..under(monitor, "episode", &nothing)
                }
            }
            Self::Schedule { monitor, slot } => NewTrigger {
                slot: Some(*slot),
                reason: schedule_reason(monitor),
                ..under(monitor, "schedule", &nothing)
            },
        };
        triggers::fire(connection, &new, at).await.map(Some)
    }
}

/// What a monitor's policy says of any trigger of its own.
fn under<'a>(monitor: &'a Monitor, kind: &'a str, nothing: &'a Value) -> NewTrigger<'a> {
    let policy = &monitor.retraining;
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
        reason: json!({}),
        cooldown_seconds: policy.cooldown.as_secs_f64(),
        max_attempts: i32::try_from(policy.max_attempts).unwrap_or(i32::MAX),
        parameters: if policy.parameters.is_null() {
            nothing
        } else {
            &policy.parameters
        },
        training_data: nothing,
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
    use std::time::Duration;

    use super::*;

    fn policy(when_uncalibrated: bool, min_drifted_share: f64) -> Retraining {
        Retraining {
            on_drift: true,
            when_uncalibrated,
            min_drifted_share,
            schedule: None,
            cooldown: Duration::ZERO,
            max_attempts: 3,
            parameters: Value::Null,
        }
    }

    #[test]
    fn what_stops_an_episode_is_named() {
        let name =
            |policy, calibrated, share| Guard::of(&policy, calibrated, share).map(Guard::name);
        assert_eq!(name(policy(false, 0.0), true, 0.0), None);
        assert_eq!(name(policy(false, 0.0), false, 1.0), Some("uncalibrated"));
        assert_eq!(name(policy(true, 0.0), false, 1.0), None);
        assert_eq!(name(policy(false, 0.3), true, 0.2), Some("drifted_share"));
        assert_eq!(name(policy(false, 0.3), true, 0.3), None);
    }
}
