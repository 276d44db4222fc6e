//! What is normal, learned from the windows of the baseline itself.
//!
//! Rows of one window resemble each other: one day has one weekday and one weather. A test that
//! takes rows as independent alarms on every day of the training data. Here the user says how many
//! false alarms are allowed, and the rest is learned from the baseline cut into windows of the
//! monitor's size.
//!
//! 1. **Counts.** Per feature and window: bins of its values. Levels whose mean count per window is
//!    under 5 share one bin ([`Pooling`]); bins marked as their own (null, unseen) never do.
//! 2. **Reference.** p: the shares of all windows with 1/2 added per bin. A feature that follows a
//!    [`Season`] has a p per value of it, of that value's windows and one more with the shares of all.
//!    Day of the week, hour of the day and hour of the week (UTC, of the window's start) are tried in
//!    this order where each value has 4 windows. One is taken if the windows of step 5, scored by fits
//!    without them, are more likely under it, by more than the standard error of the mean gain per row.
//! 3. **Scores.** `X2 = sum (c - n p)^2 / (n p)` over the bins. Where bins are in order, two contrasts
//!    are taken out of it, *location* L and *spread* S (file `contrast.rs`): most drift of a number goes
//!    in one of these two directions, and natural wobble too, so that each has a design effect of its
//!    own, and so has the rest, `X2 - L^2 - S^2`. Each is corrected for the noise of p (`1 / (1 - 1/K)`
//!    for windows of the fit, `1 / (1 + 1/K)` for others, and the like with seasons) and divided by its
//!    `1 + (n - 1) rho`, where rho makes the mean over the fit's windows what chi-square says. y is the
//!    largest of the three `-ln P(chi2 > .)`, at most 400.
//! 4. **z.** The feature's own history says what y means: up to the 80 % quantile u of its y over the
//!    fit's windows by rank, above by an exponential tail with the mean excess s:
//!    `ln p = ln 0.2 - (y - u) / s`. z is the normal quantile of 1 - p, from -4 to [`LARGEST_Z`]. The
//!    location is read against its own history in the same way, and has a sign.
//! 5. **Cross-fitting.** The baseline is cut into 6 contiguous blocks, each scored by a fit of the
//!    windows further than 3 away from it. These scores carry the error that live windows will have.
//! 6. **Two limbs**, each with half of the allowed false alarms per window over `guard`. *Fast*: some z
//!    exceeds t, from an exponential tail of the windows' largest z, and no less than what all but the
//!    allowed number of baseline windows (rounded up) stay under. *Slow*: some sum
//!    `C = max(0, C + min(x, 4) - 0.75)` exceeds h, where x is z, the location or minus the location; h
//!    by bisection over paths drawn from the cross-fitted scores in blocks of 14 windows. An alarm of
//!    either limb sets every C to 0.
//! 7. Live windows are scored by the fit of all windows.
//!
//! Measured rates and delays: `docs/statistics.md`, by `benches/learned`.
//!
//! # Choices where the algorithm leaves one
//! - **Drifted features** of an alarmed window are those over the threshold of either limb: z > t or
//!   C > h. At least the feature that alarmed is among them. Windows without alarm have none.
//! - **Features that are constant in the baseline** (all rows in one bin) have no history to be read
//!   against. A window that is constant too has z = 0 and no location, any other the z of its score
//!   with the least tail that step 4 allows (mean excess 0.3): usually an alarm at once.
//! - **Windows without rows** of a feature have no score. They take no part in fits, move no C, and
//!   cannot alarm. Windows without rows of any feature are left out of the baseline.
//! - **Fewer than 30 windows** with rows are an error: use thresholds.
//! - **Windows of unequal size**: a natural wobble does not shrink with n, what chance adds does;
//!   `1 + (n - 1) rho` has both.
//! - **A value of the season that the baseline lacks** is compared with all windows.
//! - **A history so heavy-tailed that t is [`LARGEST_Z`] or above** silences the fast limb
//!   ([`Thresholds::fast_is_reachable`]); the slow limb still fires, after several windows.
//! - **Calibrations of an earlier driftd** have neither contrasts nor seasons: they are read as they
//!   are, with chi-square alone, until the baseline is imported again.
//!
//! Random paths come from `SplitMix64` (Steele, Lea and Flood 2014), seeded by the caller: the same
//! baseline gives the same thresholds, on every machine and in every later version.

use serde::{Deserialize, Serialize};

mod calibrate;
mod contrast;
mod fit;
#[cfg(test)]
mod golden;
mod history;
mod limbs;
mod pooling;
mod score;
mod season;
mod thresholds;

pub use calibrate::{Calibration, FeatureCalibration, calibrate};
pub use history::LARGEST_Z;
pub use limbs::{Alarm, FeatureScore, Limb, Limbs};
pub use pooling::Pooling;
pub use score::{Score, Sums};
pub use season::Season;
pub use thresholds::{FalseAlarmRate, Thresholds};

/// The least number of baseline windows with rows.
pub const MIN_WINDOWS: usize = 30;

/// The slow limb takes no z for more than this: one wild window is the fast limb's business.
const SLOW_CAP: f64 = 4.0;

/// What a window's z has to exceed for C to grow.
const SLOW_ALLOWANCE: f64 = 0.75;

/// Counts of one feature over the baseline's windows, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureWindows {
    /// The feature.
    pub name: String,
    /// One row of bins per window.
    pub counts: Vec<Vec<u64>>,
    /// Bins that never join the pool of small levels: null, unseen, and all of a numeric feature.
    pub own: Vec<bool>,
    /// How many of the first bins are in order: those of numbers; 0 for labels. They must be
    /// `own`.
    pub ordered: usize,
}

/// Why a baseline cannot be calibrated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few windows hold rows.
    #[error("the baseline has {found} windows with rows, learning needs at least {MIN_WINDOWS}")]
    TooFewWindows {
        /// Windows with rows.
        found: usize,
    },
    /// Features disagree about the number of windows, or windows about the number of bins.
    #[error("feature `{feature}`: expected {expected} {what}, found {found}")]
    Shape {
        /// The feature.
        feature: String,
        /// Windows or bins.
        what: &'static str,
        /// As the first feature, or the feature's own flags, have it.
        expected: usize,
        /// As found.
        found: usize,
    },
    /// Two features have the same name.
    #[error("feature `{0}` is given twice")]
    Duplicate(String),
}
