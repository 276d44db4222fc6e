//! The one place that knows the time.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

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
            Self::System => Utc::now().timestamp_millis(),
            Self::Manual(ms) => ms.load(Ordering::SeqCst),
        }
    }

    /// Now, as a time stamp.
    pub fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.now_ms()).unwrap_or_default()
    }
}
