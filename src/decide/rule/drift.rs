//! Begin and end of a drift of one feature.
//!
//! A stretch beyond the limit begins it. From its onset on the mean deviation says what the drift is,
//! and a CUSUM of the log odds of "back to normal" against "still there" ends it (Page 1954). No later
//! stretch reaches back before that end.

use serde::{Deserialize, Serialize};

use super::question::Question;

/// Log odds at which a drift is over: windows 400 times likelier without it.
const END: f64 = 6.0;
/// The least drift that is held against none, in standard deviations of its stretch.
const FLOOR: f64 = 2.5;

/// What is carried from window to window of one feature.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FeatureState {
    /// No stretch begins before this, in milliseconds: the last drift ended there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since_ms: Option<i64>,
    /// The drift that has begun and not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) drift: Option<Drift>,
}

/// A drift that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Drift {
    /// Which question found it.
    pub(super) question: Question,
    /// Position of the length of the stretch that began it.
    pub(super) length: usize,
    /// Start of that stretch.
    pub(super) onset_ms: i64,
    /// Log odds that it is over.
    odds: f64,
    /// Weighted deviations of the windows that belong to it for sure.
    sure: Moved,
    /// Of those since the odds were last 0.
    open: Moved,
    /// Start of the first window in `open`.
    quiet_ms: Option<i64>,
}

/// Weighted sums of deviations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Moved {
    weight: f64,
    sums: Vec<f64>,
}

impl Moved {
    fn add(&mut self, weight: f64, deviation: &[f64]) {
        self.weight += weight;
        self.sums.resize(deviation.len(), 0.0);
        for (sum, deviation) in self.sums.iter_mut().zip(deviation) {
            *sum += weight * deviation;
        }
    }

    fn take(&mut self, other: &mut Self) {
        self.weight += other.weight;
        self.sums.resize(other.sums.len().max(self.sums.len()), 0.0);
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum += more;
        }
        *other = Self::default();
    }
}

impl Drift {
    /// Begins with the windows of a stretch: weights and deviations.
    pub(super) fn begin<'a>(
        question: Question,
        length: usize,
        onset_ms: i64,
        windows: impl Iterator<Item = (f64, &'a [f64])>,
    ) -> Self {
        let mut sure = Moved::default();
        windows.for_each(|(weight, deviation)| sure.add(weight, deviation));
        let open = Moved::default();
        Self {
            question,
            length,
            onset_ms,
            odds: 0.0,
            sure,
            open,
            quiet_ms: None,
        }
    }

    /// Takes the next window: its start, weight (0 without rows) and deviation, and the variance of a
    /// mean of the drift's length in that of one window. Answers where the drift ended, if it did.
    pub(super) fn step(
        &mut self,
        start_ms: i64,
        weight: f64,
        e: &[f64],
        level: f64,
    ) -> Option<i64> {
        let first_quiet = *self.quiet_ms.get_or_insert(start_ms);
        if weight <= 0.0 {
            return None; // a window without rows changes nothing
        }
        let mean = |sum: &f64| sum / self.sure.weight;
        let d: Vec<f64> = self.sure.sums.iter().map(mean).collect();
        let far = d.iter().map(|d| d * d).sum::<f64>().sqrt();
        let size = far.max(FLOOR * (level / weight).sqrt());
        let along: f64 = e.iter().zip(&d).map(|(e, d)| e * d).sum();
        let more = size * (size / 2.0 - along / far.max(1e-300)) * weight;
        self.odds = (self.odds + more).max(0.0);
        if self.odds > END {
            return Some(first_quiet);
        }
        self.open.add(weight, e);
        if self.odds <= 0.0 {
            self.sure.take(&mut self.open);
            self.quiet_ms = None;
        }
        None
    }
}
