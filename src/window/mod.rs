//! Event-time windows: which windows a row belongs to, and when it is late.
//!
//! What a row counts for is a pure function of the partition's log, so that every replica, every
//! replay and every restart comes to the same numbers.

pub mod open;

use serde::Serialize;

/// The windows of a monitor, all times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spec {
    /// Length of a window; positive.
    pub size_ms: i64,
    /// Distance between two window starts; equal to `size_ms` for tumbling windows, less for
    /// hopping ones. `size_ms` is a multiple of it.
    pub every_ms: i64,
    /// The watermark trails the greatest event time by this much.
    pub out_of_orderness_ms: i64,
    /// Rows still count for so long after the watermark has passed their window's end.
    pub allowed_lateness_ms: i64,
    /// A partition that is caught up and quiet for so long does not hold windows back.
    pub idle_after_ms: i64,
    /// Event times further ahead of the record's own timestamp than this are rejected.
    pub max_future_ms: i64,
}

impl Spec {
    /// The starts of the windows that hold an event time, latest first; one for tumbling windows.
    pub fn starts_of(&self, event_ms: i64) -> impl Iterator<Item = i64> + use<> {
        let Self {
            size_ms, every_ms, ..
        } = *self;
        let latest = event_ms.div_euclid(every_ms) * every_ms;
        (0..size_ms / every_ms).map(move |back| latest - back * every_ms)
    }

    /// End of the window with this start, exclusive.
    pub fn end(&self, start_ms: i64) -> i64 {
        start_ms + self.size_ms
    }

    /// The watermark of a partition whose greatest event time is `max_event_ms`.
    pub fn watermark(&self, max_event_ms: i64) -> i64 {
        max_event_ms - self.out_of_orderness_ms
    }

    /// Whether a watermark closes the window: every later row of that partition is late for it.
    pub fn closed_by(&self, start_ms: i64, watermark_ms: i64) -> bool {
        self.end(start_ms) + self.allowed_lateness_ms <= watermark_ms
    }

    /// The first window that a watermark has not closed. A change of this number is what other
    /// partitions, and the judge, wait for.
    pub fn first_open(&self, watermark_ms: i64) -> i64 {
        let reach = watermark_ms - self.allowed_lateness_ms - self.size_ms;
        (reach.div_euclid(self.every_ms) + 1) * self.every_ms
    }

    /// When the clock judges the window, if nothing else does: no row is expected any more, and all
    /// partitions have had time to be found idle.
    pub fn due(&self, start_ms: i64) -> i64 {
        self.end(start_ms) + self.allowed_lateness_ms + self.idle_after_ms
    }

    /// Whether by the clock a window closed, or was due, after the first moment and not after the
    /// second. What is known of an idle partition has to be confirmed after such a moment.
    pub fn closes_between(&self, from_ms: i64, until_ms: i64) -> bool {
        let close = self.size_ms + self.allowed_lateness_ms;
        [close, close + self.idle_after_ms].iter().any(|reach| {
            let last = |ms: i64| ms.saturating_sub(*reach).div_euclid(self.every_ms);
            last(from_ms) < last(until_ms)
        })
    }

    /// The first window start at or after a point in time.
    pub fn next_start(&self, ms: i64) -> i64 {
        -(-ms).div_euclid(self.every_ms) * self.every_ms
    }
}

/// The greatest event time of one partition, for one monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// `None` until the first row.
    pub max_event_ms: Option<i64>,
}

impl Progress {
    /// Whether a row for the window comes too late, by its own partition's watermark before it.
    pub fn is_late(&self, spec: &Spec, start_ms: i64) -> bool {
        self.max_event_ms
            .is_some_and(|max| spec.closed_by(start_ms, spec.watermark(max)))
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
        assert_eq!(spec.due(20), 36);
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
        assert!(!progress.is_late(&spec, 0));
        progress.advance(14); // watermark 11: window [0, 10) stays open until 12
        assert!(!progress.is_late(&spec, 0));
        progress.advance(15);
        assert!(progress.is_late(&spec, 0));
        progress.advance(1);
        assert!(progress.is_late(&spec, 0), "a watermark never goes back");
    }

    proptest! {
        #[test]
        fn first_open_is_the_first_window_not_closed(
            every in 1i64..50, times in 1i64..5, ooo in 0i64..40, allowed in 0i64..40,
            watermark in -1000i64..1000,
        ) {
            let spec = spec(every * times, every, ooo, allowed);
            let first = spec.first_open(watermark);
            prop_assert!(!spec.closed_by(first, watermark));
            prop_assert!(spec.closed_by(first - every, watermark));
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
