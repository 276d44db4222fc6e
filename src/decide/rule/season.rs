//! Which day of the week and hour of the day a window begins in, on the wall clock of a time zone.

use chrono::{DateTime, Datelike, Timelike};
use chrono_tz::Tz;

const DAY_MS: i64 = 86_400_000;

/// How windows follow each other, and on whose wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// From the start of a window to that of the next, in milliseconds.
    pub every_ms: i64,
    /// Whose day of the week and hour of the day.
    pub time_zone: Tz,
}

impl Calendar {
    /// Windows a day, at least 1.
    pub(super) fn per_day(&self) -> usize {
        let day = (DAY_MS as f64 / self.every_ms.max(1) as f64).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // 1 to a day's milliseconds
        let day = day as usize;
        day.max(1)
    }

    /// The season values of a window: day of the week, and where windows are shorter than a day hour
    /// of the day and hour of the week. In this order they are tried.
    pub(super) fn values(&self, start_ms: i64) -> Vec<usize> {
        let utc = DateTime::from_timestamp_millis(start_ms).unwrap_or_default();
        let local = utc.with_timezone(&self.time_zone);
        let day = local.weekday().num_days_from_monday() as usize;
        let hour = local.hour() as usize;
        match self.every_ms < DAY_MS {
            true => vec![day, hour, 24 * day + hour],
            false => vec![day],
        }
    }
}

/// How many values each season has, in the order of [`Calendar::values`].
pub(super) const VALUES: [usize; 3] = [7, 24, 168];

/// What people call the seasons, in the same order.
pub const NAMES: [&str; 3] = ["day of the week", "hour of the day", "hour of the week"];
