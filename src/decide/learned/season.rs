//! What time of the day or the week a window is of, for features that follow it.

use serde::{Deserialize, Serialize};

const HOUR_MS: i64 = 3_600_000;

/// A season that comes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Season {
    /// Windows of all times are alike.
    #[default]
    None,
    /// The hour of the day in which the window begins, UTC.
    HourOfDay,
    /// The day of the week in which it begins, UTC, from Monday.
    DayOfWeek,
    /// Both.
    HourOfWeek,
}

impl Season {
    /// Seasons that a feature may follow, those with fewer values first.
    pub(super) const CANDIDATES: [Self; 3] = [Self::DayOfWeek, Self::HourOfDay, Self::HourOfWeek];

    /// Which of the season's values a window that begins then has.
    pub(super) fn at(self, start_ms: i64) -> usize {
        let hours = start_ms.div_euclid(HOUR_MS);
        let hour = hours.rem_euclid(24);
        let day = (hours.div_euclid(24) + 3).rem_euclid(7); // 1970-01-01 was a Thursday
        let value = match self {
            Self::None => 0,
            Self::HourOfDay => hour,
            Self::DayOfWeek => day,
            Self::HourOfWeek => 24 * day + hour,
        };
        usize::try_from(value).unwrap_or(0)
    }

    /// How often each value occurs.
    pub(super) fn occurrences(self, starts_ms: impl Iterator<Item = i64>) -> Vec<usize> {
        let values = match self {
            Self::None => 1,
            Self::HourOfDay => 24,
            Self::DayOfWeek => 7,
            Self::HourOfWeek => 168,
        };
        let mut occurrences = vec![0; values];
        starts_ms.for_each(|start| occurrences[self.at(start)] += 1);
        occurrences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let tuesday_5_am = 1_735_621_200_000; // 2024-12-31T05:00:00Z
        assert_eq!(Season::None.at(tuesday_5_am), 0);
        assert_eq!(Season::HourOfDay.at(tuesday_5_am + 59 * 60_000), 5);
        assert_eq!(Season::DayOfWeek.at(tuesday_5_am), 1);
        assert_eq!(Season::HourOfWeek.at(tuesday_5_am), 29);
    }

    #[test]
    fn every_time_has_a_value() {
        for season in Season::CANDIDATES {
            for start in [i64::MIN, -1, 0, i64::MAX] {
                let occurrences = season.occurrences([start].into_iter());
                assert_eq!(occurrences.iter().sum::<usize>(), 1);
            }
        }
        assert_eq!(Season::DayOfWeek.at(-1), 2); // a Wednesday
        assert_eq!(Season::HourOfDay.at(-1), 23);
    }
}
