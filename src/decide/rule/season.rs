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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Spec;

    #[test]
    fn seasons_follow_the_clock_of_the_zone() {
        let at = |text: &str| -> i64 {
            text.parse::<DateTime<chrono::Utc>>()
                .unwrap()
                .timestamp_millis()
        };
        let days = Calendar {
            every_ms: DAY_MS,
            time_zone: Tz::Europe__Berlin,
        };
        let spec = Spec::tumbling(DAY_MS, days.time_zone);
        // Sundays on which clocks change, 29 March and 25 October, and the days around them.
        for saturday in ["2026-03-27T23:00:00Z", "2026-10-23T22:00:00Z"] {
            let starts = (0..3).map(|days| spec.after(at(saturday), days));
            let values: Vec<_> = starts.map(|start| days.values(start)).collect();
            assert_eq!(values, [[5], [6], [0]]);
        }
        let hours = Calendar {
            every_ms: DAY_MS / 24,
            ..days
        };
        // 01:00, then 03:00; in autumn 02:00 twice.
        assert_eq!(hours.values(at("2026-03-29T00:00:00Z")), [6, 1, 145]);
        assert_eq!(hours.values(at("2026-03-29T01:00:00Z")), [6, 3, 147]);
        assert_eq!(hours.values(at("2026-10-25T00:00:00Z")), [6, 2, 146]);
        assert_eq!(hours.values(at("2026-10-25T01:00:00Z")), [6, 2, 146]);
    }
}
