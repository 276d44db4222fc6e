//! Points in time as messages write them.

use chrono::{DateTime, NaiveDateTime};

use crate::monitor::TimeUnit;

/// Times outside 1900 to 2300 are taken for mistakes (a wrong unit, a sentinel).
const RANGE_MS: std::ops::RangeInclusive<i64> = -2_208_988_800_000..=10_413_792_000_000;

/// Whether a point in time is within 1900 to 2300.
pub fn is_plausible(ms: i64) -> bool {
    RANGE_MS.contains(&ms)
}

/// A number in a unit, as milliseconds since the epoch; `None` outside 1900 to 2300.
pub fn of_number(value: f64, unit: TimeUnit) -> Option<i64> {
    let ms = match unit {
        TimeUnit::S => value * 1e3,
        TimeUnit::Ms => value,
        TimeUnit::Us => value / 1e3,
        TimeUnit::Ns => value / 1e6,
    };
    // NaN and out-of-range values fail the comparison, so the cast is exact to the millisecond.
    #[allow(clippy::cast_possible_truncation)]
    let whole = ms.floor() as i64;
    (ms.is_finite() && is_plausible(whole)).then_some(whole)
}

/// A text in RFC 3339, as milliseconds since the epoch. Without an offset it is read as UTC; a
/// space may stand for the `T`.
pub fn of_text(text: &str) -> Option<i64> {
    let ms = DateTime::parse_from_rfc3339(text)
        .map(|t| t.timestamp_millis())
        .or_else(|_| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
                .map(|t| t.and_utc().timestamp_millis())
        });
    ms.ok().filter(|ms| is_plausible(*ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_their_unit_or_refused() {
        assert_eq!(of_number(1.5, TimeUnit::S), Some(1500));
        assert_eq!(
            of_number(1_700_000_000_123_456_789.0, TimeUnit::Ns),
            Some(1_700_000_000_123)
        );
        for wrong in [f64::NAN, f64::INFINITY, 1e300, i64::MAX as f64] {
            assert_eq!(of_number(wrong, TimeUnit::Ms), None);
        }
        assert_eq!(of_text("2013-04-01T05:15:00Z"), Some(1_364_793_300_000));
        assert_eq!(
            of_text("2013-04-01T05:15:00+02:00"),
            Some(1_364_786_100_000)
        );
        assert_eq!(of_text("2013-04-01 05:15:00.5"), Some(1_364_793_300_500));
        assert_eq!(of_text("yesterday"), None);
    }
}
