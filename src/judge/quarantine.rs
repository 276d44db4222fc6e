//! A window that cannot be judged stops its own line: which and why is a failure in SQL, and nobody
//! claims it before it is due to be tried again. Everything else goes on.

use sqlx::PgPool;
use tokio::task::JoinError;

use super::{Error, Line};
use crate::store;
use crate::store::failures::{self, Failure, Kind};
use crate::store::ripe::Claimed;
use crate::telemetry::metrics;

/// Reports the window; logs it where that is news.
pub(super) async fn report(
    pool: &PgPool,
    owner: &str,
    line: &Line,
    claimed: &Claimed,
    error: &Error,
) -> store::Result<()> {
    let (monitor, version) = (&line.monitor.name, &claimed.version);
    let why = match error {
        Error::Store(error) => error.chain(),
        error => error.to_string(),
    };
    let start = claimed.window_start;
    let retry_in = failures::backoff(claimed.attempts.saturating_add(1));
    let failure = Failure {
        kind: Kind::Windows,
        name: monitor.clone(),
        version: version.clone(),
        replica: owner.to_owned(),
        reason: format!("window of {start} of version {version}: {why}"),
        retry_in: Some(retry_in),
    };
    metrics::window_failures(monitor, 1);
    if failures::report(pool, &failure).await? {
        tracing::error!(
            monitor = %monitor, model.version = %version, window.start = %start, ?retry_in,
            error = why, "a window cannot be judged: its line stops, the others go on"
        );
    }
    Ok(())
}

/// What a panic says; the error itself names a task too, which is another one each time.
pub(super) fn message(error: &JoinError) -> String {
    let said = error.to_string();
    let message = said.split_once("panicked with message ");
    message.map_or_else(
        || "no message".to_owned(),
        |(_, text)| text.trim_matches('"').to_owned(),
    )
}
