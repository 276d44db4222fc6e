//! The thresholds of both limbs, from the cross-fitted scores of the baseline's own windows.

use serde::{Deserialize, Serialize};

use super::fit::Tail;
use super::{Calibration, LARGEST_Z, SLOW_ALLOWANCE, SLOW_CAP, accumulate};

/// Windows of the baseline that stay together in a path.
const BLOCK: usize = 14;

/// Paths, if the hazard can be met with so many.
const PATHS: usize = 800;

/// The least length of a path, in windows.
const PATH: usize = 600;

/// All paths together hold no more windows than this.
const MOST_WINDOWS: usize = 2_000_000;

/// The false alarms that the user allows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FalseAlarmRate {
    /// Expected number of them in quiet times, per period.
    pub max: f64,
    /// How many windows a period has.
    pub windows_per_period: f64,
}

/// When the limbs alarm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// t: the fast limb alarms on a z above it.
    pub fast: f64,
    /// h: the slow limb alarms on a sum C above it.
    pub slow: f64,
    /// False alarms per window that either limb was given.
    pub hazard: f64,
    /// False alarms per period, counted on paths drawn from the baseline, both limbs together. The
    /// guard keeps it below what was allowed, as paths know only what the baseline holds.
    pub predicted_per_period: f64,
}

impl Thresholds {
    /// Whether any window can make the fast limb alarm: a baseline with windows that are as wild as
    /// scores can tell leaves it nothing to see.
    pub fn fast_is_reachable(&self) -> bool {
        self.fast < LARGEST_Z
    }

    /// Windows until an alarm if from now on one feature has this z in each; `None` for never.
    pub fn delay(&self, z: f64) -> Option<u64> {
        if z > self.fast {
            return Some(1);
        }
        let step = z.min(SLOW_CAP) - SLOW_ALLOWANCE;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates"
        )]
        (step > 0.0).then(|| (self.slow / step).floor() as u64 + 1)
    }
}

impl Calibration {
    /// The thresholds for a rate of false alarms; `guard` divides it (2 keeps the promise from 90
    /// windows on, see the docs).
    pub fn thresholds(&self, rate: FalseAlarmRate, guard: f64) -> Thresholds {
        let wanted = rate.max / rate.windows_per_period / 2.0 / guard;
        // A rate of nothing or of everything still gets thresholds.
        let hazard = if wanted.is_finite() {
            wanted.clamp(1e-9, 0.5)
        } else {
            0.5
        };
        let fast = self.fast(hazard);
        let paths = Paths::draw(self, hazard, rate.windows_per_period);
        let slow = paths.slow(hazard);
        let alarms = paths.alarms(slow, fast);
        let predicted_per_period = alarms * rate.windows_per_period.max(0.0);
        Thresholds {
            fast,
            slow,
            hazard,
            predicted_per_period,
        }
    }

    fn fast(&self, hazard: f64) -> f64 {
        let largest = |window| {
            self.baseline_z(window)
                .into_iter()
                .flatten()
                .reduce(f64::max)
        };
        let mut largest: Vec<f64> = (0..self.windows).filter_map(largest).collect();
        largest.sort_by(f64::total_cmp);
        let tail = Tail::of(&largest);
        tail.start + tail.mean_excess.unwrap_or(0.0) * (0.2 / hazard).ln().max(0.0)
    }
}

/// Sequences of baseline windows as they might have come instead.
struct Paths {
    /// z of each baseline window, features side by side; minus infinity would reset a sum, so a
    /// missing z is [`SLOW_ALLOWANCE`], which leaves it as it is.
    z: Vec<Vec<f64>>,
    paths: Vec<Vec<usize>>,
}

impl Paths {
    fn draw(calibration: &Calibration, hazard: f64, windows_per_period: f64) -> Self {
        let z: Vec<Vec<f64>> = (0..calibration.windows)
            .map(|window| calibration.baseline_z(window))
            .map(|z| z.into_iter().map(|z| z.unwrap_or(SLOW_ALLOWANCE)).collect())
            .collect();
        let (count, length) = extent(hazard, windows_per_period);
        let mut random = SplitMix64(calibration.seed);
        let paths = (0..count)
            .map(|_| path(&mut random, z.len(), length))
            .collect();
        Self { z, paths }
    }

    /// The threshold at which the slow limb alone alarms with this hazard.
    fn slow(&self, hazard: f64) -> f64 {
        let (mut low, mut high) = (1.0, 80.0);
        for _ in 0..10 {
            if self.alarms(high, f64::INFINITY) <= hazard {
                break;
            }
            (low, high) = (high, 2.0 * high);
        }
        for _ in 0..12 {
            let middle = f64::midpoint(low, high);
            if self.alarms(middle, f64::INFINITY) > hazard {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// Alarms per window, every C set to 0 after each.
    fn alarms(&self, slow: f64, fast: f64) -> f64 {
        let features = self.z.first().map_or(0, Vec::len);
        let (mut alarms, mut windows) = (0_u64, 0_u64);
        for path in &self.paths {
            let mut sums = vec![0.0_f64; features];
            for &window in path {
                let mut alarm = false;
                for (sum, &z) in sums.iter_mut().zip(&self.z[window]) {
                    *sum = accumulate(*sum, z);
                    alarm |= *sum > slow || z > fast;
                }
                windows += 1;
                if alarm {
                    alarms += 1;
                    sums.fill(0.0);
                }
            }
        }
        alarms as f64 / (windows as f64).max(1.0)
    }
}

/// How many paths of how many windows: eight periods each, and 400 expected alarms in all where
/// [`MOST_WINDOWS`] allows it.
fn extent(hazard: f64, windows_per_period: f64) -> (usize, usize) {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    let whole = |value: f64| value.ceil() as usize;
    let length = whole(8.0 * windows_per_period).clamp(PATH, MOST_WINDOWS / 20);
    let wanted = whole(400.0 / hazard).clamp(PATHS * PATH, MOST_WINDOWS);
    ((wanted / length).clamp(20, PATHS), length)
}

/// Blocks of windows in a row, the baseline taken as a ring.
fn path(random: &mut SplitMix64, windows: usize, length: usize) -> Vec<usize> {
    let mut path = Vec::with_capacity(length + BLOCK);
    while path.len() < length {
        let start = random.below(windows);
        path.extend((start..start + BLOCK).map(|window| window % windows.max(1)));
    }
    path.truncate(length);
    path
}

/// Steele, Lea and Flood 2014: a counter and a mixing function.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..end`; its bias of `end / 2^64` is of no account.
    fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.next()) * end as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_gives_its_published_numbers() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn paths_are_bounded_whatever_is_asked() {
        for per in [0.0, 1.0, 30.0, 720.0, 1e9, f64::INFINITY, f64::NAN] {
            for hazard in [1e-9, 1e-3, 0.5] {
                let (count, length) = extent(hazard, per);
                assert!(count * length <= MOST_WINDOWS && count >= 20 && length >= PATH);
            }
        }
        assert_eq!(extent(1.0 / 120.0, 30.0), (800, 600));
    }

    #[test]
    fn delays() {
        let limits = Thresholds {
            fast: 9.0,
            slow: 10.0,
            hazard: 0.01,
            predicted_per_period: 0.5,
        };
        assert_eq!(limits.delay(9.5), Some(1));
        assert_eq!(limits.delay(4.5), Some(4));
        assert_eq!(limits.delay(0.75), None);
        assert!(limits.fast_is_reachable());
    }
}
