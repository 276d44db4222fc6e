//! What a result still lacks once the command has ended: the new version's baseline, where it asks for
//! one.

use std::time::Instant;

use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{AGAIN, CANCELLED, Options, Outcome, STOPPED};
use crate::store::jobs::{self, Heartbeat, Lease};
use crate::store::{self, Error, SqlState, builds};

/// A result that asks for a baseline gets it first. `fetched` is the digest of the file that the command was
/// given.
pub(super) async fn settle(
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
    mut result: Value,
    fetched: Option<&str>,
    stop: &CancellationToken,
) -> Outcome {
    let wanted = result
        .as_object_mut()
        .and_then(|all| all.remove("baseline"));
    let source = match wanted {
        None | Some(Value::Null | Value::Bool(false)) => return Outcome::Result(result),
        Some(Value::Bool(true)) => json!({}),
        Some(source) => source,
    };
    let version = result["version"].as_str().unwrap_or_default().to_owned();
    let mut asked = Asked {
        pool,
        options,
        lease,
        version: &version,
        source: &source,
        build_id: None,
    };
    match asked.built(stop).await {
        Ok(build) => Outcome::Result(with(result, &build, fetched)),
        Err(outcome) => outcome,
    }
}

/// The result with its baseline, and with what is known of its data: a baseline that was held out of them
/// says nothing of them, but what was fetched does.
fn with(mut result: Value, build: &Value, fetched: Option<&str>) -> Value {
    result["baseline_id"] = build["baseline_id"].clone();
    let known = match build["baseline_share"].is_null() {
        true => json!({"sha256": build["sha256"], "rows": build["rows"]}),
        false => json!({"sha256": fetched}),
    };
    let data = &mut result["training_data"];
    if (data.is_object() || data.is_null()) && data["sha256"].is_null() {
        for (name, value) in known.as_object().into_iter().flatten() {
            if data[name].is_null() && !value.is_null() {
                data[name] = value.clone();
            }
        }
    }
    result
}

/// A baseline that is asked for.
struct Asked<'a> {
    pool: &'a PgPool,
    options: &'a Options,
    lease: &'a Lease,
    version: &'a str,
    source: &'a Value,
    build_id: Option<i64>,
}

impl Asked<'_> {
    /// Waits until it is there; the lease is extended meanwhile. The training is done by now: a Postgres
    /// that is away is waited for as long as the lease may hold.
    async fn built(&mut self, stop: &CancellationToken) -> Result<Value, Outcome> {
        let mut held_until = Instant::now() + self.options.lease;
        loop {
            let begun = Instant::now();
            let limit = self.options.lease / 3;
            match store::within(limit, "look after a baseline", self.look()).await {
                Ok(None) => return Err(Outcome::GivenUp(CANCELLED)),
                Ok(Some(build)) => {
                    held_until = begun + self.options.lease;
                    if let Some(ended) = ended(build) {
                        return ended;
                    }
                }
                Err(error) if error.is_transient() && Instant::now() < held_until => {}
                Err(error) => return Err(refused(&error)),
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN.min(self.options.lease / 3)) => {}
                () = stop.cancelled() => return Err(Outcome::failed(STOPPED, true)),
            }
        }
    }

    /// How far it is; `None`: the job was cancelled.
    async fn look(&mut self) -> store::Result<Option<Value>> {
        if jobs::heartbeat(self.pool, self.lease, None).await? == Heartbeat::Cancelled {
            return Ok(None);
        }
        let build_id = match self.build_id {
            Some(build_id) => build_id,
            None => builds::request(self.pool, self.lease, self.version, self.source).await?,
        };
        self.build_id = Some(build_id);
        builds::state(self.pool, self.lease, build_id)
            .await
            .map(Some)
    }
}

fn ended(build: Value) -> Option<Result<Value, Outcome>> {
    match build["state"].as_str() {
        Some("ready") => Some(Ok(build)),
        Some("failed") => {
            let error = build["error"].as_str().unwrap_or("no reason given");
            let error = format!("its baseline could not be made: {error}");
            Some(Err(Outcome::failed(error, false)))
        }
        _ => None,
    }
}

fn refused(error: &Error) -> Outcome {
    match error {
        Error::Refused {
            state: SqlState::StaleLease | SqlState::WrongState,
            ..
        } => Outcome::GivenUp("its lease is lost"),
        error => Outcome::failed(
            format!("its baseline could not be asked for: {}", error.chain()),
            error.is_transient(),
        ),
    }
}
