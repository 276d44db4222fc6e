//! What the tests stand on.

use std::time::{Duration, Instant};

/// An Apache Kafka broker of the tests' own.
pub(crate) mod kafka;
/// A database per test.
pub(crate) mod postgres;

/// A Postgres server of one test's own.
pub(crate) mod server;

/// A network that fails as a test wants it to.
pub(crate) mod proxy;

/// Monitors as settings would make them.
pub(crate) mod monitors;

/// Lines of windows, read and judged by hand.
pub(crate) mod lines;

/// Short words for the queue of retraining jobs.
pub(crate) mod queue;

/// Messages as a real topic holds them, the same for the same seed.
pub(crate) mod traffic;

/// What has to come out, computed from what went in.
pub(crate) mod reference;

/// Whether it has come out, and what holds whatever happened.
pub(crate) mod oracle;

/// `driftd` as a process of its own.
pub(crate) mod daemon;

/// `driftd worker` as a process of its own.
pub(crate) mod worker;

/// A database, a topic and a settings file for it, and what came of them.
pub(crate) mod stage;

/// How long a test waits for what has to come. Generous: it is there to end a test that hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
