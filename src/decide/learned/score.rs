//! The score of one window's feature, and what the slow limb adds up of it.

use serde::{Deserialize, Serialize};

use super::{SLOW_ALLOWANCE, SLOW_CAP};

/// What one window says of one feature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredScore", into = "StoredScore")]
pub struct Score {
    /// How unusual the window is, in whatever way: a normal quantile.
    pub z: f64,
    /// How far its values lie above (or, negative, below) the usual; `None` for features whose bins
    /// are not in order.
    pub location: Option<f64>,
}

/// A number, as it was stored while there was no location, or both.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredScore {
    Z(f64),
    Both(f64, f64),
}

impl From<StoredScore> for Score {
    fn from(stored: StoredScore) -> Self {
        let (z, location) = match stored {
            StoredScore::Z(z) => (z, None),
            StoredScore::Both(z, location) => (z, Some(location)),
        };
        Self { z, location }
    }
}

impl From<Score> for StoredScore {
    fn from(score: Score) -> Self {
        match score.location {
            None => Self::Z(score.z),
            Some(location) => Self::Both(score.z, location),
        }
    }
}

/// Sums of the slow limb for one feature: of z, of location upward and downward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredSums", into = "StoredSums")]
pub struct Sums([f64; 3]);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredSums {
    One(f64),
    All([f64; 3]),
}

impl From<StoredSums> for Sums {
    fn from(stored: StoredSums) -> Self {
        match stored {
            StoredSums::One(c) => Self([c, 0.0, 0.0]),
            StoredSums::All(all) => Self(all),
        }
    }
}

impl From<Sums> for StoredSums {
    fn from(sums: Sums) -> Self {
        Self::All(sums.0)
    }
}

impl Sums {
    /// With one window more; none of them beyond `most`.
    #[must_use]
    pub fn with(self, score: Score, most: f64) -> Self {
        let mut sums = self.0;
        for (sum, step) in sums.iter_mut().zip(steps(score)) {
            *sum = (*sum + step).clamp(0.0, most);
        }
        Self(sums)
    }

    /// The largest of them: what is held against the threshold.
    pub fn largest(self) -> f64 {
        self.0.into_iter().fold(0.0, f64::max)
    }
}

/// What a window adds to each of the sums.
pub(super) fn steps(score: Score) -> [f64; 3] {
    let step = |z: f64| z.min(SLOW_CAP) - SLOW_ALLOWANCE;
    let (up, down) = score.location.map_or((0.0, 0.0), |l| (step(l), step(-l)));
    [step(score.z), up, down]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_and_sums_survive_storage() {
        for location in [None, Some(-1.25)] {
            let score = Score { z: 2.5, location };
            let stored = serde_json::to_string(&score).unwrap();
            assert_eq!(serde_json::from_str::<Score>(&stored).unwrap(), score);
        }
        let sums = Sums::default().with(
            Score {
                z: 2.0,
                location: Some(-3.0),
            },
            2.0,
        );
        assert_eq!(serde_json::to_string(&sums).unwrap(), "[1.25,0.0,2.0]");
        assert_eq!(
            serde_json::from_str::<Sums>("[1.25,0.0,2.0]").unwrap(),
            sums
        );
        assert!((serde_json::from_str::<Sums>("3.5").unwrap().largest() - 3.5).abs() < 1e-15);
    }
}
