//! The thresholds of both limbs, from the cross-fitted scores of the baseline's own windows.

use serde::{Deserialize, Serialize};

use super::history::Tail;
use super::score::steps;
use super::{Calibration, FeatureCalibration, LARGEST_Z, Score};

/// Windows of the baseline that stay together in a path.
const BLOCK: usize = 14;

/// The least number of paths.
const PATHS: usize = 200;

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

    /// Windows until an alarm if from now on one feature has this score in each; `None` for never.
    pub fn delay(&self, score: Score) -> Option<u64> {
        if score.z > self.fast {
            return Some(1);
        }
        let step = steps(score).into_iter().fold(0.0, f64::max);
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

    /// Windows until an alarm when one numeric feature moves by so many of its standard deviations
    /// for good: the median over the features, each moved alone in windows of median size. What
    /// chance adds and takes is left out, so that this is a guide. `None` if that is never or not
    /// known: no numeric features, or a calibration that an earlier driftd stored.
    pub fn delay_of_shift(&self, thresholds: &Thresholds, deviations: f64) -> Option<u64> {
        let mut rows = self.rows().to_vec();
        rows.sort_unstable();
        let rows = *rows.get(rows.len() / 2)?;
        let shifted = |feature: &FeatureCalibration| {
            let fit = feature.fit.as_ref()?;
            let score = fit.score(&fit.shifted(rows as f64, deviations)?)?;
            Some(thresholds.delay(score).unwrap_or(u64::MAX))
        };
        let mut delays: Vec<u64> = self.features.iter().filter_map(shifted).collect();
        delays.sort_unstable();
        let median = *delays.get(delays.len() / 2)?;
        (median < u64::MAX).then_some(median)
    }

    fn fast(&self, hazard: f64) -> f64 {
        let largest = |window| {
            self.baseline_scores(window)
                .into_iter()
                .flatten()
                .map(|score| score.z)
                .reduce(f64::max)
        };
        let mut largest: Vec<f64> = (0..self.windows).filter_map(largest).collect();
        largest.sort_by(f64::total_cmp);
        let tail = Tail::of(&largest);
        let by_tail = tail.start + tail.mean_excess.unwrap_or(0.0) * (0.2 / hazard).ln().max(0.0);
        by_tail.max(exceeded_by_few(&largest, hazard))
    }
}

/// The least of these values that no more of them exceed than the hazard says, rounded up: an
/// exponential tail is too short for a baseline with a few wild windows.
fn exceeded_by_few(sorted: &[f64], hazard: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= hazard <= 1"
    )]
    let few = (hazard * sorted.len() as f64).ceil() as usize;
    let at = sorted.len().checked_sub(1 + few);
    at.map_or(f64::NEG_INFINITY, |at| sorted[at])
}

/// Sums that are added to side by side: a wide addition takes as long as one.
const LANES: usize = 8;

/// Sequences of baseline windows as they might have come instead.
struct Paths {
    /// What each baseline window adds to every sum; a missing score adds 0, which leaves a sum as
    /// it is.
    steps: Vec<Vec<[f64; LANES]>>,
    /// The largest z of each.
    largest: Vec<f64>,
    paths: Vec<Vec<usize>>,
}

impl Paths {
    fn draw(calibration: &Calibration, hazard: f64, windows_per_period: f64) -> Self {
        let scores: Vec<Vec<Option<Score>>> = (0..calibration.windows)
            .map(|window| calibration.baseline_scores(window))
            .collect();
        let largest = |window: &Vec<Option<Score>>| {
            let z = window.iter().flatten().map(|score| score.z);
            z.fold(f64::NEG_INFINITY, f64::max)
        };
        let (count, length) = extent(hazard, windows_per_period);
        let mut random = SplitMix64(calibration.seed);
        let paths = (0..count)
            .map(|_| path(&mut random, scores.len(), length))
            .collect();
        Self {
            largest: scores.iter().map(largest).collect(),
            steps: steps_of_windows(&scores),
            paths,
        }
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

    /// Alarms per window, every sum set to 0 after each.
    fn alarms(&self, slow: f64, fast: f64) -> f64 {
        let mut sums = vec![[0.0_f64; LANES]; self.steps.first().map_or(0, Vec::len)];
        let (mut alarms, mut windows) = (0_u64, 0_u64);
        for path in &self.paths {
            sums.fill([0.0; LANES]);
            for &window in path {
                windows += 1;
                if advance(&mut sums, &self.steps[window]) > slow || self.largest[window] > fast {
                    alarms += 1;
                    sums.fill([0.0; LANES]);
                }
            }
        }
        alarms as f64 / (windows as f64).max(1.0)
    }
}

/// Adds a window to the sums; the largest of them.
fn advance(sums: &mut [[f64; LANES]], steps: &[[f64; LANES]]) -> f64 {
    let mut most = [0.0_f64; LANES];
    for (sums, steps) in sums.iter_mut().zip(steps) {
        for lane in 0..LANES {
            let sum = sums[lane] + steps[lane];
            sums[lane] = if sum > 0.0 { sum } else { 0.0 };
            most[lane] = if sums[lane] > most[lane] {
                sums[lane]
            } else {
                most[lane]
            };
        }
    }
    most.into_iter().fold(0.0, f64::max)
}

/// Per window the steps of all sums, without those of features that have no location.
fn steps_of_windows(scores: &[Vec<Option<Score>>]) -> Vec<Vec<[f64; LANES]>> {
    let features = scores.first().map_or(0, Vec::len);
    let ordered = |feature: usize| {
        let mut scores = scores.iter().filter_map(|window| window[feature]);
        scores.any(|score| score.location.is_some())
    };
    let sums: Vec<usize> = (0..features)
        .map(|f| if ordered(f) { 3 } else { 1 })
        .collect();
    let row = |window: &Vec<Option<Score>>| {
        let of_feature = |(score, sums): (&Option<Score>, &usize)| {
            score.map_or([0.0; 3], steps).into_iter().take(*sums)
        };
        let flat: Vec<f64> = window.iter().zip(&sums).flat_map(of_feature).collect();
        let lanes = |chunk: &[f64]| std::array::from_fn(|i| chunk.get(i).copied().unwrap_or(0.0));
        flat.chunks(LANES).map(lanes).collect()
    };
    scores.iter().map(row).collect()
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
    ((wanted / length).max(20), length)
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
        assert_eq!(extent(1.0 / 120.0, 30.0), (200, 600));
        assert_eq!(extent(1e-5, 30.0), (MOST_WINDOWS / PATH, PATH));
    }

    #[test]
    fn a_threshold_is_exceeded_by_few_windows_of_the_baseline() {
        let largest: Vec<f64> = (0..90).map(f64::from).collect();
        let at = |hazard, want: f64| {
            assert!(
                (exceeded_by_few(&largest, hazard) - want).abs() < 1e-15,
                "{hazard}"
            );
        };
        at(1.0 / 120.0, 88.0);
        at(1.0 / 60.0, 87.0);
        at(0.5, 44.0);
        assert!(exceeded_by_few(&[], 0.1) < f64::MIN && exceeded_by_few(&[1.0], 1.0) < f64::MIN);
    }

    #[test]
    fn delays() {
        let limits = Thresholds {
            fast: 9.0,
            slow: 10.0,
            hazard: 0.01,
            predicted_per_period: 0.5,
        };
        let delay = |z, location| limits.delay(Score { z, location });
        assert_eq!(delay(9.5, None), Some(1));
        assert_eq!(delay(4.5, None), Some(4));
        assert_eq!(delay(0.75, None), None);
        assert_eq!(delay(0.75, Some(-4.5)), Some(4));
        assert!(limits.fast_is_reachable());
    }
}
