//! Keeping a baseline in Postgres, with its rows by time.

use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::import::Imported;
use super::{Baseline, short};
use crate::profile::{Bins, Values, encoding};
use crate::store::baselines::{self, Stored};
use crate::store::{self, models};

/// Why a baseline is not kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The version has one already.
    #[error(
        "version `{version}` of `{model}` has baseline {other} already, made from {made}; a \
         baseline never changes: import under a new version"
    )]
    HasAnother {
        /// The model.
        model: String,
        /// Its version.
        version: String,
        /// The start of the other's id.
        other: String,
        /// In what it differs.
        made: &'static str,
    },
    /// The stored form.
    #[error(transparent)]
    Encoding(#[from] encoding::Error),
    /// The stored form of its rows by time.
    #[error(transparent)]
    Windows(#[from] super::windows::Error),
    /// Packing panicked.
    #[error("packing a baseline: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Its id.
    pub baseline_id: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Rows of the training data.
    pub rows: u64,
    /// How many features it has.
    pub features: usize,
    /// SHA-256 of the training files.
    pub training_data_digest: String,
    /// Length of the slots of time that its windows come from.
    pub slot_ms: Option<i64>,
    /// Whether it was not there before.
    pub new: bool,
}

/// Stores a baseline with its rows by time, and names it as its version's.
///
/// # Errors
/// The version has another baseline already, or Postgres cannot be asked.
pub async fn save(pool: &PgPool, imported: Imported) -> Result<Saved, Error> {
    let is_held_out = imported.is_held_out;
    // Packing a large baseline takes a while.
    let pack = move || {
        let Imported {
            mut baseline,
            slots,
            ..
        } = imported;
        let stored = stored(&mut baseline)?;
        let slots = slots.map(|slots| Ok::<_, Error>((slots.slot_ms, slots.encode()?)));
        Ok::<_, Error>((baseline, stored, slots.transpose()?))
    };
    let (baseline, stored, slots) = tokio::task::spawn_blocking(pack).await??;
    let mut transaction = pool.begin().await.map_err(store::Error::from)?;
    models::register(&mut *transaction, &baseline.model).await?;
    let new = baselines::insert(&mut *transaction, &stored).await?;
    let digest = &stored.training_data_digest;
    let (model, version) = (&baseline.model, &baseline.version);
    let trained_on = Some(digest.as_str()).filter(|_| !is_held_out);
    let assign = baselines::assign(&mut transaction, model, version, &baseline.id, trained_on);
    let other = assign.await?;
    if let Some(other) = other {
        return Err(Error::HasAnother {
            made: made_differently(pool, &other, digest).await?,
            other: short(&other).to_owned(),
            model: model.clone(),
            version: version.clone(),
        });
    }
    if let Some((slot_ms, slots)) = &slots {
        baselines::store_windows(&mut *transaction, &baseline.id, *slot_ms, slots).await?;
    }
    transaction.commit().await.map_err(store::Error::from)?;
    Ok(Saved {
        baseline_id: baseline.id,
        model: baseline.model,
        version: baseline.version,
        rows: baseline.profile.rows,
        features: baseline.layout.features.len(),
        training_data_digest: stored.training_data_digest,
        slot_ms: slots.map(|(slot_ms, _)| slot_ms),
        new,
    })
}

/// In what another baseline of the same version differs.
async fn made_differently(pool: &PgPool, other: &str, digest: &str) -> Result<&'static str, Error> {
    let found = baselines::find(pool, other).await?;
    let same_files = found
        .first()
        .is_some_and(|stored| stored.training_data_digest == digest);
    Ok(if same_files {
        "the same files with other features, kinds or --time"
    } else {
        "other data"
    })
}

fn stored(baseline: &mut Baseline) -> Result<Stored, Error> {
    let time = |pick: fn((i64, i64)) -> i64, range: Option<(i64, i64)>| {
        range.map(pick).and_then(DateTime::from_timestamp_millis)
    };
    let range = baseline.origin.time_range;
    Ok(Stored {
        baseline_id: baseline.id.clone(),
        model: baseline.model.clone(),
        version: baseline.version.clone(),
        training_data_digest: baseline.origin.training_data_digest.clone(),
        training_data_files: baseline.origin.files.clone(),
        rows: i64::try_from(baseline.profile.rows).unwrap_or(i64::MAX),
        time_column: baseline.origin.time_column.clone(),
        time_from: time(|range| range.0, range),
        time_to: time(|range| range.1, range),
        features: describe(baseline),
        profile: baseline.encode()?,
        created_at: DateTime::default(),
    })
}

/// What the features are, for people and SQL.
fn describe(baseline: &Baseline) -> Value {
    let features = baseline
        .layout
        .features
        .iter()
        .zip(&baseline.profile.features);
    let described = features.map(|(layout, feature)| {
        let mut one = json!({
            "name": layout.name,
            "kind": layout.kind,
            "rows": baseline.profile.rows,
            "nulls": feature.quality.absent(),
        });
        if layout.dimension > 0 {
            one["dimension"] = json!(layout.dimension);
        }
        match (&layout.bins, &feature.values) {
            (Bins::Grid(grid), Values::Numeric(numeric)) => {
                one["cuts"] = json!(grid.cuts.len());
                one["mean"] = json!(numeric.mean(grid));
                one["deviation"] = json!(numeric.deviation(grid));
                one["least"] = json!(Some(numeric.least).filter(|least| least.is_finite()));
                one["greatest"] = json!(Some(numeric.greatest).filter(|most| most.is_finite()));
            }
            (Bins::Levels(levels), _) => {
                one["levels"] = json!(levels.names().len());
                one["most_frequent"] = json!(levels.names().iter().take(5).collect::<Vec<_>>());
            }
            _ => {}
        }
        one
    });
    described.collect()
}
