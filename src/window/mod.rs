//! Event-time windows: which windows a row belongs to, and when it is late.
//!
//! What a row counts for is a pure function of the partition's log, so that every replica, every
//! replay and every restart comes to the same numbers.

mod days;
mod groups;
pub mod open;

use std::ops::Range;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use days::DAY_MS;

/// The windows of a monitor, all times in milliseconds.
///
/// Windows follow each other without end in both directions, numbered from the one that begins on
/// 1 January 1970. Those of whole days begin at midnight of their time zone, so that they are as
/// long as its days are: 23 or 25 hours where clocks change. Shorter ones are counted in UTC
/// whatever the time zone, and all equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Length of a window, days taken as 24 hours; positive.
    pub size_ms: i64,
    /// Distance between two window starts; equal to `size_ms` for tumbling windows, less for
    /// hopping ones. `size_ms` is a multiple of it.
    pub every_ms: i64,
    /// Where days begin, and whose hours and days of the week are seasons.
    #[serde(default, skip_serializing_if = "is_utc")]
    pub time_zone: Tz,
    /// The watermark trails the greatest event time by this much.
    pub out_of_orderness_ms: i64,
    /// Rows still count for so long after the watermark has passed their window's end.
    pub allowed_lateness_ms: i64,
    /// A partition that is caught up and quiet for so long does not hold windows back.
    pub idle_after_ms: i64,
    /// Event times further ahead of the record's own timestamp than this are rejected.
    pub max_future_ms: i64,
}

/// Left out where it is stored, so that settings from before there were time zones are the same.
fn is_utc(zone: &Tz) -> bool {
    *zone == Tz::UTC
}

/// Times that the same windows hold: what is found of one row goes for those near it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// The times.
    pub times: Range<i64>,
    /// Start and end of each window that holds them, latest first.
    pub windows: Vec<(i64, i64)>,
}

impl Spec {
    /// Tumbling windows of rows that are all there.
    pub const fn tumbling(size_ms: i64, time_zone: Tz) -> Self {
        Self {
            size_ms,
            every_ms: size_ms,
            time_zone,
            out_of_orderness_ms: 0,
            allowed_lateness_ms: 0,
            idle_after_ms: 0,
            max_future_ms: 0,
        }
    }

    /// Whether windows follow the days of a time zone; how many days apart they begin.
    fn days(&self) -> Option<i64> {
        let whole = self.every_ms % DAY_MS == 0 && !is_utc(&self.time_zone);
        whole.then_some(self.every_ms / DAY_MS)
    }

    /// The number of the last window that begins at or before a point in time.
    fn number(&self, ms: i64) -> i64 {
        match self.days() {
            Some(days) => days::day_of(self.time_zone, ms).div_euclid(days),
            None => ms.div_euclid(self.every_ms),
        }
    }

    /// Start of the window of this number.
    fn start(&self, number: i64) -> i64 {
        match self.days() {
            Some(days) => days::begin(self.time_zone, number.saturating_mul(days)),
            None => number.saturating_mul(self.every_ms),
        }
    }

    /// How many windows hold a time.
    fn at_once(&self) -> i64 {
        self.size_ms / self.every_ms
    }

    /// The starts of the windows that hold an event time, latest first; one for tumbling windows.
    pub fn starts_of(&self, event_ms: i64) -> impl Iterator<Item = i64> + use<> {
        let (spec, latest) = (*self, self.number(event_ms));
        let starts = (0..self.at_once()).map(move |back| spec.start(latest - back));
        // A date that a zone left out has no window of its own.
        let mut later = i64::MAX;
        starts.filter(move |start| std::mem::replace(&mut later, *start) > *start)
    }

    /// Start of the latest window that holds an event time.
    fn latest_start(&self, event_ms: i64) -> i64 {
        self.start(self.number(event_ms))
    }

    /// The windows that hold an event time, and which other times they hold all of.
    pub fn held(&self, event_ms: i64) -> Held {
        let latest = self.number(event_ms);
        let windows = self.starts_of(event_ms);
        Held {
            times: self.start(latest)..self.start(latest + 1),
            windows: windows.map(|start| (start, self.end(start))).collect(),
        }
    }

    /// End of the window with this start, exclusive.
    pub fn end(&self, start_ms: i64) -> i64 {
        self.after(start_ms, self.at_once())
    }

    /// Start of the window that comes so many windows after the one with this start; before it where
    /// the number is negative. A date that a zone left out counts as one before.
    pub fn after(&self, start_ms: i64, windows: i64) -> i64 {
        match self.days() {
            Some(_) => self.start(self.number(start_ms).saturating_add(windows)),
            None => start_ms.saturating_add(windows.saturating_mul(self.every_ms)),
        }
    }

    /// No window is longer, whatever the clocks of its time zone do.
    pub fn longest_ms(&self) -> i64 {
        match self.days() {
            Some(_) => self.size_ms + DAY_MS,
            None => self.size_ms,
        }
    }

    /// The watermark of a partition whose greatest event time is `max_event_ms`.
    pub fn watermark(&self, max_event_ms: i64) -> i64 {
        max_event_ms - self.out_of_orderness_ms
    }

    /// Whether a watermark closes the window that ends here: every later row of that partition is
    /// late for it.
    pub fn closed_by(&self, end_ms: i64, watermark_ms: i64) -> bool {
        end_ms + self.allowed_lateness_ms <= watermark_ms
    }

    /// The first window that a watermark has not closed. A change of this number is what other
    /// partitions, and the judge, wait for.
    pub fn first_open(&self, watermark_ms: i64) -> i64 {
        let reach = self.number(watermark_ms - self.allowed_lateness_ms);
        self.start(reach + 1 - self.at_once())
    }

    /// When the clock judges the window that ends here, if nothing else does: no row is expected any
    /// more, and all partitions have had time to be found idle.
    pub fn due(&self, end_ms: i64) -> i64 {
        end_ms + self.allowed_lateness_ms + self.idle_after_ms
    }

    /// Whether by the clock a window closed, or was due, after the first moment and not after the
    /// second. What is known of an idle partition has to be confirmed after such a moment.
    pub fn closes_between(&self, from_ms: i64, until_ms: i64) -> bool {
        let close = self.allowed_lateness_ms;
        [close, close + self.idle_after_ms].iter().any(|reach| {
            let last = |ms: i64| self.number(ms.saturating_sub(*reach));
            last(from_ms) < last(until_ms)
        })
    }

    /// The first window start at or after a point in time.
    pub fn next_start(&self, ms: i64) -> i64 {
        self.start(self.number(ms.saturating_sub(1)) + 1)
    }

    /// Start of the first window that ends at or after a point in time.
    pub fn first_ending(&self, ms: i64) -> i64 {
        self.start(self.number(ms.saturating_sub(1)) + 1 - self.at_once())
    }
}

/// The greatest event time of one partition, for one monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// `None` until the first row.
    pub max_event_ms: Option<i64>,
}

impl Progress {
    /// Whether a row for the window that ends here comes too late, by its own partition's watermark
    /// before it.
    pub fn is_late(&self, spec: &Spec, end_ms: i64) -> bool {
        self.max_event_ms
            .is_some_and(|max| spec.closed_by(end_ms, spec.watermark(max)))
    }

    /// Moves on to a row's event time.
    pub fn advance(&mut self, event_ms: i64) {
        self.max_event_ms = Some(self.max_event_ms.map_or(event_ms, |max| max.max(event_ms)));
    }

    /// The first window that is still open here; `None` until the first row.
    pub fn first_open(&self, spec: &Spec) -> Option<i64> {
        self.max_event_ms
            .map(|max| spec.first_open(spec.watermark(max)))
    }
}

#[cfg(test)]
mod log;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(size_ms: i64, every_ms: i64, out_of_orderness_ms: i64, allowed: i64) -> Spec {
        Spec {
            size_ms,
            every_ms,
            time_zone: Tz::UTC,
            out_of_orderness_ms,
            allowed_lateness_ms: allowed,
            idle_after_ms: 0,
            max_future_ms: 0,
        }
    }

    #[test]
    fn tumbling_and_hopping_windows_hold_their_times() {
        let tumbling = spec(10, 10, 0, 0);
        assert_eq!(tumbling.starts_of(9).collect::<Vec<_>>(), [0]);
        assert_eq!(tumbling.starts_of(10).collect::<Vec<_>>(), [10]);
        assert_eq!(tumbling.starts_of(-1).collect::<Vec<_>>(), [-10]);
        let hopping = spec(30, 10, 0, 0);
        assert_eq!(hopping.starts_of(35).collect::<Vec<_>>(), [30, 20, 10]);
        assert_eq!(tumbling.next_start(10), 10);
        assert_eq!(tumbling.next_start(11), 20);
        assert_eq!(tumbling.next_start(-11), -10);
    }

    #[test]
    fn the_clock_closes_a_window_and_judges_it_later() {
        let spec = Spec {
            idle_after_ms: 4,
            ..spec(10, 10, 0, 2)
        };
        assert_eq!(spec.due(spec.end(20)), 36);
        let at: Vec<i64> = (20..=40)
            .filter(|now| spec.closes_between(now - 1, *now))
            .collect();
        assert_eq!(at, [22, 26, 32, 36]);
        assert!(spec.closes_between(22, 26) && !spec.closes_between(22, 25));
        assert!(!spec.closes_between(30, 30));
    }

    #[test]
    fn lateness_follows_the_partitions_own_watermark_before_the_row() {
        let spec = spec(10, 10, 3, 2);
        let mut progress = Progress::default();
        assert!(!progress.is_late(&spec, 10));
        progress.advance(14); // watermark 11: window [0, 10) stays open until 12
        assert!(!progress.is_late(&spec, 10));
        progress.advance(15);
        assert!(progress.is_late(&spec, 10));
        progress.advance(1);
        assert!(progress.is_late(&spec, 10), "a watermark never goes back");
    }

    fn utc(text: &str) -> i64 {
        let time: chrono::DateTime<chrono::Utc> = text.parse().unwrap();
        time.timestamp_millis()
    }

    #[test]
    fn days_of_a_time_zone_are_23_24_or_25_hours_long() {
        let hour = 3_600_000;
        let days = Spec::tumbling(DAY_MS, Tz::Europe__Berlin);
        for (noon, hours) in [
            ("2026-03-28T12:00:00Z", 24),
            ("2026-03-29T12:00:00Z", 23),
            ("2026-03-30T12:00:00Z", 24),
            ("2026-10-24T12:00:00Z", 24),
            ("2026-10-25T12:00:00Z", 25),
            ("2026-10-26T12:00:00Z", 24),
        ] {
            let start = days.starts_of(utc(noon)).next().unwrap();
            assert_eq!(days.end(start) - start, hours * hour, "{noon}");
            assert_eq!(days.after(start, 1), days.end(start));
            assert_eq!(days.after(days.end(start), -1), start);
        }
        let half = Spec::tumbling(DAY_MS, Tz::Australia__Lord_Howe);
        let start = half.next_start(utc("2026-04-04T12:00:00Z"));
        assert_eq!(half.end(start) - start, 24 * hour + hour / 2);
    }

    #[test]
    fn longer_windows_follow_the_days_too() {
        let week = Spec {
            every_ms: DAY_MS,
            ..Spec::tumbling(7 * DAY_MS, Tz::Europe__Berlin)
        };
        let event = utc("2026-03-29T12:00:00Z");
        let starts: Vec<i64> = week.starts_of(event).collect();
        assert_eq!(starts.len(), 7);
        assert_eq!(starts[0], utc("2026-03-28T23:00:00Z"));
        assert_eq!(starts[6], utc("2026-03-22T23:00:00Z"));
        assert_eq!(week.end(starts[6]), utc("2026-03-29T22:00:00Z"));
        assert_eq!(week.end(starts[0]), utc("2026-04-04T22:00:00Z"));
    }

    #[test]
    fn windows_shorter_than_a_day_are_counted_in_utc() {
        let hours = |zone| Spec::tumbling(6 * 3_600_000, zone);
        let event = utc("2026-03-29T12:34:00Z");
        assert_eq!(
            hours(Tz::Europe__Berlin).held(event),
            hours(Tz::UTC).held(event)
        );
    }

    #[test]
    fn settings_without_a_time_zone_are_as_before_there_was_one() {
        let utc = serde_json::to_string(&spec(10, 10, 1, 2)).unwrap();
        assert_eq!(
            utc,
            r#"{"size_ms":10,"every_ms":10,"out_of_orderness_ms":1,"allowed_lateness_ms":2,"idle_after_ms":0,"max_future_ms":0}"#
        );
        let berlin = Spec::tumbling(DAY_MS, Tz::Europe__Berlin);
        let stored = serde_json::to_string(&berlin).unwrap();
        assert!(
            stored.contains(r#""time_zone":"Europe/Berlin""#),
            "{stored}"
        );
        for spec in [spec(10, 10, 1, 2), berlin] {
            let stored = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<Spec>(&stored).unwrap(), spec);
        }
    }

    fn specs() -> impl Strategy<Value = Spec> {
        let every = prop_oneof![
            4 => Just(DAY_MS),
            1 => (2..40i64).prop_map(|days| days * DAY_MS),
            2 => (1..48i64).prop_map(|halves| halves * 1_800_000),
        ];
        let zone = prop_oneof![
            prop::sample::select(&days::tests::ZONES[..]),
            prop::sample::select(&chrono_tz::TZ_VARIANTS[..]),
        ];
        let lateness = (0..200_000_000i64, 0..200_000_000i64, 0..5_000_000i64);
        (every, 1..5i64, zone, lateness).prop_map(|(every, times, zone, (ooo, allowed, idle))| {
            Spec {
                every_ms: every,
                out_of_orderness_ms: ooo,
                allowed_lateness_ms: allowed,
                idle_after_ms: idle,
                ..Spec::tumbling(every * times, zone)
            }
        })
    }

    /// Start of the window in front of the one with this start.
    fn before(spec: &Spec, start_ms: i64) -> i64 {
        spec.starts_of(start_ms - 1).next().unwrap()
    }

    /// From 1900 to 2100.
    fn times() -> impl Strategy<Value = i64> {
        prop_oneof![
            -2_208_988_800_000..4_102_444_800_000i64,
            // Hours around changes of clocks.
            (0..36 * 3_600_000i64).prop_map(|ms| utc("2026-03-28T12:00:00Z") + ms),
            (0..36 * 3_600_000i64).prop_map(|ms| utc("2026-10-24T12:00:00Z") + ms),
            (0..72 * 3_600_000i64).prop_map(|ms| utc("2011-12-29T00:00:00Z") + ms),
        ]
    }

    proptest! {
        #[test]
        fn windows_tile_time_in_every_zone(spec in specs(), event in times()) {
            let held = spec.held(event);
            prop_assert!(held.times.contains(&event));
            let starts: Vec<i64> = spec.starts_of(event).collect();
            prop_assert_eq!(starts[0], held.times.start);
            prop_assert_eq!(&starts, &held.windows.iter().map(|one| one.0).collect::<Vec<_>>());
            // Exactly the windows that hold it: those beside them do not.
            for (start, end) in &held.windows {
                prop_assert!(*start <= event && event < *end);
                prop_assert_eq!(spec.end(*start), *end);
                prop_assert!(end - start <= spec.longest_ms());
                prop_assert_eq!(spec.next_start(*start), *start);
            }
            let (first, last) = (starts[starts.len() - 1], starts[0]);
            prop_assert!(spec.end(before(&spec, first)) <= event);
            prop_assert_eq!(spec.after(last, 1), held.times.end);
            prop_assert_eq!(spec.next_start(last + 1), held.times.end);
            for pair in starts.windows(2) {
                prop_assert_eq!(spec.after(pair[1], 1), pair[0]);
            }
        }

        #[test]
        fn what_asks_for_a_window_by_time_finds_the_first(spec in specs(), at in times()) {
            let closed = |start| spec.closed_by(spec.end(start), at);
            let first = spec.first_open(at);
            prop_assert!(!closed(first) && closed(before(&spec, first)));
            let ending = spec.first_ending(at);
            prop_assert!(spec.end(ending) >= at && spec.end(before(&spec, ending)) < at);
            let start = spec.starts_of(at).next().unwrap();
            for moment in [spec.end(start) + spec.allowed_lateness_ms, spec.due(spec.end(start))] {
                prop_assert!(spec.closes_between(moment - 1, moment));
            }
        }

        /// What there was before there were time zones.
        #[test]
        fn in_utc_windows_are_what_they_were(spec in specs(), at in times()) {
            let spec = Spec { time_zone: Tz::UTC, ..spec };
            let Spec { size_ms, every_ms, allowed_lateness_ms: allowed, .. } = spec;
            let latest = at.div_euclid(every_ms) * every_ms;
            let starts: Vec<i64> = (0..size_ms / every_ms).map(|back| latest - back * every_ms).collect();
            prop_assert_eq!(spec.starts_of(at).collect::<Vec<_>>(), starts);
            prop_assert_eq!(spec.end(latest), latest + size_ms);
            let reach = at - allowed - size_ms;
            prop_assert_eq!(spec.first_open(at), (reach.div_euclid(every_ms) + 1) * every_ms);
            prop_assert_eq!(spec.next_start(at), -(-at).div_euclid(every_ms) * every_ms);
            prop_assert_eq!(spec.first_ending(at), spec.next_start(at - size_ms));
            prop_assert_eq!(spec.longest_ms(), size_ms);
        }

        #[test]
        fn first_open_is_the_first_window_not_closed(
            every in 1i64..50, times in 1i64..5, ooo in 0i64..40, allowed in 0i64..40,
            watermark in -1000i64..1000,
        ) {
            let spec = spec(every * times, every, ooo, allowed);
            let first = spec.first_open(watermark);
            prop_assert!(!spec.closed_by(spec.end(first), watermark));
            prop_assert!(spec.closed_by(spec.end(first - every), watermark));
        }

        #[test]
        fn a_window_holds_exactly_its_times(
            every in 1i64..50, times in 1i64..5, event in -10_000i64..10_000,
        ) {
            let spec = spec(every * times, every, 0, 0);
            let starts: Vec<i64> = spec.starts_of(event).collect();
            prop_assert_eq!(i64::try_from(starts.len()).unwrap(), times);
            for start in starts {
                prop_assert!(start <= event && event < spec.end(start));
                prop_assert_eq!(start.rem_euclid(every), 0);
            }
        }
    }
}
