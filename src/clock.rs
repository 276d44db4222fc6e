//! The one place that knows the time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

use crate::settings;

/// How far the system's clock is off, by `DRIFTD_TEST_CLOCK_SKEW_MS`: for the test of what a wrong
/// clock does. A release build does not look.
static SKEW_MS: LazyLock<i64> = LazyLock::new(|| {
    let skew = |(name, ms): (String, String)| match name == "DRIFTD_TEST_CLOCK_SKEW_MS" {
        true => ms.parse().ok(),
        false => None,
    };
    let given = cfg!(debug_assertions).then(settings::environment);
    given
        .and_then(|mut all| all.find_map(skew))
        .unwrap_or_default()
});

/// Where the time comes from: the system in production, the test's hand in tests.
#[derive(Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// Milliseconds since the epoch, set by a test.
    Manual(AtomicI64),
}

impl Clock {
    /// Now, in milliseconds since the epoch.
    #[allow(clippy::disallowed_methods)] // the one allowed place
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => Utc::now().timestamp_millis() + *SKEW_MS,
            Self::Manual(ms) => ms.load(Ordering::SeqCst),
        }
    }

    /// Now, as a time stamp.
    pub fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.now_ms()).unwrap_or_default()
    }
}
