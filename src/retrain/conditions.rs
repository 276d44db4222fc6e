//! What holds without anybody saying so: the version in service is too old, or enough new data has
//! come. Looked at once a minute; what holds asks once, and again after the next job.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::PgPool;

use super::trigger::Trigger;
use super::{Error, fire};
use crate::monitor::Monitor;
use crate::store::triggers::{self, Standing};

/// How often conditions are looked at: counting rows reads all windows since the last job.
const EVERY: TimeDelta = TimeDelta::minutes(1);

/// The monitors whose policy names an age or a volume.
#[derive(Debug)]
pub(super) struct Conditions<'a> {
    monitors: Vec<&'a Monitor>,
    next: Option<DateTime<Utc>>,
}

impl<'a> Conditions<'a> {
    pub(super) fn of(monitors: &'a [Monitor]) -> Self {
        let named = |monitor: &&Monitor| {
            monitor.retraining.max_age.is_some() || monitor.retraining.new_rows.is_some()
        };
        Self {
            monitors: monitors.iter().filter(named).collect(),
            next: None,
        }
    }

    pub(super) async fn tick(&mut self, pool: &PgPool, now: DateTime<Utc>) -> Result<(), Error> {
        if self.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        for monitor in &self.monitors {
            let standing = triggers::standing(pool, &monitor.model, &monitor.name).await?;
            look(pool, monitor, &standing, now).await?;
        }
        self.next = Some(now + EVERY);
        Ok(())
    }
}

async fn look(
    pool: &PgPool,
    monitor: &Monitor,
    standing: &Standing,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let asked = |kind: &str| standing.open_kinds.iter().any(|known| known == kind);
    let job = standing
        .last_job_id
        .map_or_else(|| "none".to_owned(), |job| job.to_string());
    if let Some((version, age, allowed)) = too_old(monitor, standing, now)
        && !asked("age")
    {
        let trigger = Trigger::Age {
            monitor,
            condition: &format!("version {version} after job {job}"),
            reason: json!({
                "version": version,
                "age_seconds": age.num_seconds(),
                "max_age_seconds": allowed.num_seconds(),
            }),
        };
        tell(monitor, "age", fire(pool, &trigger, now).await?);
    }
    let rows = standing.new_rows;
    if let Some(needed) = monitor.retraining.new_rows
        && u64::try_from(rows).is_ok_and(|rows| rows >= needed)
        && !asked("volume")
    {
        let trigger = Trigger::Volume {
            monitor,
            condition: &format!("after job {job}"),
            reason: json!({"rows": rows, "new_rows": needed}),
        };
        tell(monitor, "volume", fire(pool, &trigger, now).await?);
    }
    Ok(())
}

/// The version, its age, and what is allowed.
fn too_old<'a>(
    monitor: &Monitor,
    standing: &'a Standing,
    now: DateTime<Utc>,
) -> Option<(&'a str, TimeDelta, TimeDelta)> {
    let allowed = TimeDelta::from_std(monitor.retraining.max_age?).ok()?;
    let age = now - standing.registered_at?;
    (age >= allowed).then_some((standing.version.as_deref()?, age, allowed))
}

fn tell(monitor: &Monitor, kind: &str, fired: Option<triggers::Fired>) {
    // What is stopped is looked at again every minute, and recorded; the log need not say it each time.
    if let Some(fired) = fired.filter(|fired| fired.outcome != "stopped") {
        tracing::info!(
            monitor.name = monitor.name,
            model.id = monitor.model,
            trigger.kind = kind,
            trigger.outcome = fired.outcome,
            trigger.guard = fired.guard,
            job.id = fired.job_id,
            "a condition for retraining holds"
        );
    }
}
