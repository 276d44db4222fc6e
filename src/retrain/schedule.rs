//! When a cron schedule is due, in its time zone.
//!
//! A slot is an instant. Where clocks change, the wall clock shows some times twice and some not
//! at all, and then this holds:
//!
//! - A schedule at fixed hours and minutes (`30 2 * * *`) has exactly one slot a day: in spring,
//!   where 02:30 does not exist, the first instant after the gap; in autumn, where it comes twice,
//!   the first of the two.
//! - A schedule with `*` or `/` in its seconds, minutes or hours (`*/15 * * * *`) goes on at its
//!   pace: it has slots in both of the repeated hours and none in the one that is left out.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;

use crate::monitor::Schedule;

/// A downtime is caught up with by so many slots at most.
const MOST_SLOTS: usize = 1000;

/// A schedule that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a cron expression.
    #[error("{cron:?} is no cron expression of five fields, or six with leading seconds: {why}")]
    Cron {
        /// What was given.
        cron: String,
        /// What is wrong with it.
        why: String,
    },
    /// A date that does not exist, such as 30 February.
    #[error("{cron:?} is never due")]
    Never {
        /// What was given.
        cron: String,
    },
}

/// The slots of a schedule.
#[derive(Debug, Clone)]
pub struct Slots {
    text: String,
    cron: Cron,
    time_zone: Tz,
}

impl Slots {
    /// Reads a schedule.
    ///
    /// # Errors
    /// When it is no cron expression, or one that never comes.
    pub fn new(schedule: &Schedule) -> Result<Self, Error> {
        let text = schedule.cron.clone();
        let cron = Cron::from_str(&text).map_err(|error| Error::Cron {
            cron: text.clone(),
            why: error.to_string(),
        })?;
        let slots = Self {
            text,
            cron,
            time_zone: schedule.time_zone,
        };
        match slots.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(slots),
            None => Err(Error::Never { cron: slots.text }),
        }
    }

    /// As the user wrote it.
    pub fn cron(&self) -> &str {
        &self.text
    }

    /// Where its wall clock hangs.
    pub fn time_zone(&self) -> Tz {
        self.time_zone
    }

    /// The first slot after `after`; `None` where there is none any more.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.with_timezone(&self.time_zone);
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// The slots in `(after, until]`, first to last; of many, the last ones.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let last = self.last(after, until);
        let before = |slot: &DateTime<Utc>| {
            let just_before = *slot - chrono::TimeDelta::milliseconds(1);
            self.last(after, just_before)
        };
        let mut slots: Vec<_> = std::iter::successors(last, before)
            .take(MOST_SLOTS)
            .collect();
        slots.reverse();
        slots
    }

    /// The last slot in `(after, until]`.
    pub fn last(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let zoned = until.with_timezone(&self.time_zone);
        let last = self
            .cron
            .find_previous_occurrence(&zoned, true)
            .ok()?
            .with_timezone(&Utc);
        (after < last && last <= until).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, Duration, NaiveDate};
    use proptest::prelude::*;

    use super::*;
    use crate::monitor::retraining::CatchUp;

    fn slots(cron: &str, time_zone: &str) -> Slots {
        let time_zone = time_zone.parse().unwrap();
        Slots::new(&Schedule {
            cron: cron.to_owned(),
            time_zone,
            catch_up: CatchUp::Last,
        })
        .unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// All slots in `(from, to]`.
    fn between(slots: &Slots, from: &str, to: &str) -> Vec<DateTime<Utc>> {
        let first = slots.next(at(from));
        std::iter::successors(first, |slot| slots.next(*slot))
            .take_while(|slot| *slot <= at(to))
            .collect()
    }

    fn times(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let found = between(&slots(cron, zone), from, to);
        found
            .iter()
            .map(|slot| slot.format("%dT%H:%M").to_string())
            .collect()
    }

    #[test]
    fn a_slot_stands_on_the_wall_clock_of_its_zone() {
        let berlin = ["14T02:00", "15T02:00"];
        let found = times(
            "0 3 * * *",
            "Europe/Berlin",
            "2026-01-14T00:00:00Z",
            "2026-01-16T00:00:00Z",
        );
        assert_eq!(found, berlin);
        let found = times(
            "0 3 * * *",
            "Asia/Kolkata",
            "2026-01-14T00:00:00Z",
            "2026-01-15T00:00:00Z",
        );
        assert_eq!(found, ["14T21:30"]);
    }

    #[test]
    fn a_time_that_spring_leaves_out_comes_right_after_the_gap() {
        // 29 March 2026, Berlin: 02:00 CET is 03:00 CEST, at 01:00 UTC.
        let found = times(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            "2026-03-31T00:00:00Z",
        );
        assert_eq!(found, ["28T01:30", "29T01:00", "30T00:30"]);
    }

    #[test]
    fn a_time_that_autumn_repeats_comes_once() {
        // 25 October 2026, Berlin: 03:00 CEST is 02:00 CET, at 01:00 UTC.
        let found = times(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            "2026-10-27T00:00:00Z",
        );
        assert_eq!(found, ["25T00:30", "26T01:30"]);
    }

    #[test]
    fn an_interval_goes_on_at_its_pace_through_both_changes() {
        let autumn = between(
            &slots("*/30 * * * *", "Europe/Berlin"),
            "2026-10-24T23:00:00Z",
            "2026-10-25T03:00:00Z",
        );
        assert_eq!(autumn.len(), 8, "{autumn:?}");
        let spring = between(
            &slots("*/30 * * * *", "Europe/Berlin"),
            "2026-03-28T23:00:00Z",
            "2026-03-29T03:00:00Z",
        );
        assert_eq!(spring.len(), 8, "{spring:?}");
    }

    #[test]
    fn seconds_are_allowed() {
        let found = between(
            &slots("*/20 * * * * *", "UTC"),
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:01:00Z",
        );
        let seconds: Vec<_> = found
            .iter()
            .map(|slot| slot.format("%S").to_string())
            .collect();
        assert_eq!(seconds, ["20", "40", "00"]);
    }

    /// After a downtime slots are found from behind: those must be the same instants.
    #[test]
    fn the_last_slot_is_one_of_those_found_forwards() {
        for cron in [
            "30 2 * * *",
            "0 * * * *",
            "*/7 1-3 * * *",
            "15 2 29 3 *",
            "0 0 2 * * 0",
        ] {
            for zone in [
                "Europe/Berlin",
                "America/New_York",
                "Australia/Lord_Howe",
                "UTC",
            ] {
                for (from, to) in [
                    ("2026-03-07T00:00:00Z", "2026-03-09T12:00:00Z"),
                    ("2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"),
                    ("2026-10-03T00:00:00Z", "2026-10-05T00:00:00Z"),
                    ("2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z"),
                    ("2026-10-31T00:00:00Z", "2026-11-02T12:00:00Z"),
                ] {
                    let slots = slots(cron, zone);
                    let forwards = between(&slots, from, to);
                    let mut now = at(from);
                    while now < at(to) {
                        let expected = forwards.iter().rfind(|slot| **slot <= now).copied();
                        assert_eq!(
                            slots.last(at(from), now),
                            expected,
                            "{cron} {zone} at {now}"
                        );
                        now += chrono::Duration::minutes(10);
                    }
                }
            }
        }
    }

    /// Zones whose clocks change by an hour or by half of one, at night or at midnight, in either
    /// half of the year, or not at all.
    const ZONES: [&str; 10] = [
        "UTC",
        "Europe/Berlin",
        "Europe/London",
        "America/New_York",
        "America/Sao_Paulo",
        "America/Santiago",
        "America/St_Johns",
        "Africa/Cairo",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// 29 February and the days on which clocks change are days like all others.
        #[test]
        fn a_fixed_time_has_one_slot_on_every_day(
            minute in 0..60, hour in 0..24, zone in prop::sample::select(&ZONES[..]),
            first in 0..14_000i64,
        ) {
            let slots = slots(&format!("{minute} {hour} * * *"), zone);
            let first = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap() + Duration::days(first);
            let mut slot = first.and_hms_opt(12, 0, 0).unwrap().and_utc();
            let mut day: Option<NaiveDate> = None;
            for _ in 0..400 {
                let next = slots.next(slot).unwrap();
                prop_assert!(next > slot);
                let date = next.with_timezone(&slots.time_zone()).date_naive();
                prop_assert!(day.is_none_or(|day| date == day + Duration::days(1)), "{} {}", slot, next);
                (slot, day) = (next, Some(date));
            }
        }

        /// As a daemon asks that runs, stops and is started again: at any times, each time for the
        /// last slot since the one that fired before.
        #[test]
        fn however_often_it_is_asked_a_slot_fires_once(
            cron in prop::sample::select(&["30 2 * * *", "0 * * * *", "*/20 1-3 * * *", "0 0 1 * *"][..]),
            zone in prop::sample::select(&ZONES[..]),
            days in 0..9_000i64, pauses in prop::collection::vec(1..200_000i64, 1..60),
        ) {
            let slots = slots(cron, zone);
            let begin = at("2005-01-01T00:00:00Z") + Duration::days(days);
            let (mut now, mut fired) = (begin, begin);
            for pause in pauses {
                now += Duration::seconds(pause);
                if let Some(slot) = slots.last(fired, now) {
                    prop_assert!(fired < slot && slot <= now);
                    prop_assert_eq!(slots.next(slot - Duration::seconds(1)), Some(slot));
                    fired = slot;
                }
                // None is left that would have to fire by now.
                prop_assert!(slots.next(fired).is_none_or(|next| next > now));
            }
        }
    }

    #[test]
    fn the_29_of_february_comes_in_leap_years() {
        let found = between(
            &slots("0 0 29 2 *", "Europe/Berlin"),
            "1999-01-01T00:00:00Z",
            "2009-01-01T00:00:00Z",
        );
        let years: Vec<i32> = found
            .iter()
            .map(|slot| slot.with_timezone(&chrono_tz::Europe::Berlin).year())
            .collect();
        assert_eq!(years, [2000, 2004, 2008]);
    }

    #[test]
    fn the_last_slot_is_after_the_one_before() {
        let hourly = slots("0 * * * *", "UTC");
        let noon = at("2026-01-01T12:00:00Z");
        assert_eq!(hourly.last(at("2026-01-01T03:10:00Z"), noon), Some(noon));
        assert_eq!(hourly.last(noon, noon), None);
        assert_eq!(hourly.last(noon, at("2026-01-01T12:59:59Z")), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        for cron in ["", "every day", "0 25 * * *", "0 3 * *"] {
            let schedule = Schedule {
                cron: cron.to_owned(),
                time_zone: Tz::UTC,
                catch_up: CatchUp::Last,
            };
            let error = Slots::new(&schedule).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{cron:?} is no cron")),
                "{error}"
            );
        }
        let never = Schedule {
            cron: "0 0 30 2 *".to_owned(),
            time_zone: Tz::UTC,
            catch_up: CatchUp::Last,
        };
        assert!(
            Slots::new(&never)
                .unwrap_err()
                .to_string()
                .ends_with("is never due")
        );
    }
}
