//! Where days begin on the wall clock of a time zone.
//!
//! A day begins at midnight. Where clocks skip midnight it begins at the first moment after the
//! gap, and where they show it twice at the first of the two. A date that a zone left out (Samoa,
//! 30 December 2011) begins, and ends, where the next one begins.

use chrono::{DateTime, MappedLocalTime, Offset, TimeZone};
use chrono_tz::{GapInfo, Tz};

pub(super) const DAY_MS: i64 = 86_400_000;

/// The first moment of a day, in milliseconds. Days are counted from 1 January 1970.
pub(super) fn begin(zone: Tz, day: i64) -> i64 {
    let utc_ms = day.saturating_mul(DAY_MS);
    let Some(midnight) = DateTime::from_timestamp_millis(utc_ms).map(|utc| utc.naive_utc()) else {
        return utc_ms; // beyond the years that have a calendar
    };
    let first = match zone.from_local_datetime(&midnight) {
        MappedLocalTime::Single(first) | MappedLocalTime::Ambiguous(first, _) => Some(first),
        MappedLocalTime::None => GapInfo::new(&midnight, &zone).and_then(|gap| gap.end),
    };
    first.map_or(utc_ms, |first| first.timestamp_millis())
}

/// The last day that has begun at a point in time.
pub(super) fn day_of(zone: Tz, ms: i64) -> i64 {
    let Some(utc) = DateTime::from_timestamp_millis(ms) else {
        return ms.div_euclid(DAY_MS);
    };
    let offset = zone.offset_from_utc_datetime(&utc.naive_utc()).fix();
    let local_ms = ms + i64::from(offset.local_minus_utc()) * 1_000;
    let mut day = local_ms.div_euclid(DAY_MS);
    // Where clocks go back over midnight, the wall clock shows a date that has ended.
    while begin(zone, day) > ms {
        day -= 1;
    }
    while begin(zone, day + 1) <= ms {
        day += 1;
    }
    day
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::NaiveDate;
    use proptest::prelude::*;

    use super::*;

    /// Zones whose clocks change by an hour, by half of one or by a day; at night, at midnight or
    /// across it; in either half of the year, or not at all.
    pub(in crate::window) const ZONES: [Tz; 13] = [
        Tz::UTC,
        Tz::Europe__Berlin,
        Tz::America__New_York,
        Tz::America__Havana,
        Tz::America__Sao_Paulo,
        Tz::America__St_Johns,
        Tz::America__Toronto,
        Tz::Africa__Cairo,
        Tz::Asia__Kathmandu,
        Tz::Asia__Beirut,
        Tz::Australia__Lord_Howe,
        Tz::Antarctica__Troll,
        Tz::Pacific__Apia,
    ];

    fn begins(zone: Tz, date: &str) -> String {
        let date: NaiveDate = date.parse().unwrap();
        let day = date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp() / 86_400;
        let ms = begin(zone, day);
        assert_eq!(day_of(zone, ms), day, "{date}");
        assert_eq!(day_of(zone, ms - 1), day - 1, "{date}");
        let utc = DateTime::from_timestamp_millis(ms).unwrap();
        utc.format("%m-%dT%H:%M").to_string()
    }

    #[test]
    fn a_day_begins_at_local_midnight() {
        for (zone, date, utc) in [
            (Tz::UTC, "2026-03-29", "03-29T00:00"),
            // Clocks change at night: a day of 23 hours, and one of 25.
            (Tz::Europe__Berlin, "2026-03-29", "03-28T23:00"),
            (Tz::Europe__Berlin, "2026-03-30", "03-29T22:00"),
            (Tz::Europe__Berlin, "2026-10-25", "10-24T22:00"),
            (Tz::Europe__Berlin, "2026-10-26", "10-25T23:00"),
            // By half an hour.
            (Tz::Australia__Lord_Howe, "2026-04-05", "04-04T13:00"),
            (Tz::Australia__Lord_Howe, "2026-04-06", "04-05T13:30"),
            // Midnight becomes 01:00: the day begins with the gap's end.
            (Tz::America__Havana, "2026-03-08", "03-08T05:00"),
            (Tz::America__Havana, "2026-03-09", "03-09T04:00"),
            (Tz::Africa__Cairo, "2026-04-24", "04-23T22:00"),
            // 01:00 becomes midnight: the first of the two.
            (Tz::America__Havana, "2026-11-01", "11-01T04:00"),
            // 23:30 became 00:30: the end of that gap too.
            (Tz::America__Toronto, "1919-03-31", "03-31T04:30"),
        ] {
            assert_eq!(begins(zone, date), utc, "{zone} {date}");
        }
    }

    #[test]
    fn a_date_that_was_left_out_is_as_long_as_no_time() {
        let day = |date: &str| {
            let date: NaiveDate = date.parse().unwrap();
            date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp() / 86_400
        };
        let (zone, out) = (Tz::Pacific__Apia, day("2011-12-30"));
        assert_eq!(begin(zone, out), begin(zone, out + 1));
        assert_eq!(day_of(zone, begin(zone, out)), out + 1);
        assert_eq!(day_of(zone, begin(zone, out) - 1), out - 1);
    }

    #[test]
    fn times_beyond_any_calendar_have_a_day() {
        for ms in [i64::MIN, i64::MIN / 2, i64::MAX / 2, i64::MAX] {
            assert_eq!(day_of(Tz::Europe__Berlin, ms), ms.div_euclid(DAY_MS));
        }
    }

    proptest! {
        #[test]
        fn days_follow_each_other_and_hold_their_times(
            zone in prop::sample::select(&ZONES[..]), second in -3_000_000_000..5_000_000_000i64,
        ) {
            let ms = second * 1_000;
            let day = day_of(zone, ms);
            prop_assert!(begin(zone, day) <= ms && ms < begin(zone, day + 1));
            prop_assert!(begin(zone, day - 1) <= begin(zone, day));
        }
    }
}
