//! A version's baseline with windows of its own stream, where its training data hold too few.

use sqlx::PgConnection;

use super::short;
use crate::store::windows::Window;
use crate::store::{self, baselines};

/// Extends the baseline of a version that was just judged, if windows enough have come since it went into
/// service. In the transaction of the verdict: of all replicas that judge the version one does it, once.
///
/// # Errors
/// When the database refuses.
pub async fn extend(
    connection: &mut PgConnection,
    monitor: &str,
    window: &Window,
    needed: usize,
) -> store::Result<()> {
    let missing = i32::try_from(needed).unwrap_or(i32::MAX) - window.training_windows;
    let (monitor_id, version) = (window.monitor_id, &window.version);
    let extended = baselines::extend(connection, monitor_id, version, missing).await?;
    if let Some(id) = extended {
        tracing::info!(
            monitor, model.version = %version, baseline = %id,
            extends = window.baseline_id.as_deref().map(short),
            "{missing} windows of the stream were added to the baseline: it holds enough for the rule now"
        );
    }
    Ok(())
}
