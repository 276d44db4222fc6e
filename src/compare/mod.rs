//! The statistical tests: a closed set, one file per test, all pure.

use serde::{Deserialize, Serialize};

/// The tests, by the names they have in settings, SQL and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Two-sample Kolmogorov-Smirnov.
    Ks,
    /// Chi-square test of homogeneity, no Yates correction.
    Chi2,
    /// Population stability index.
    Psi,
    /// Jensen-Shannon distance, base 2.
    Js,
    /// Wasserstein-1 distance, normed by the baseline's standard deviation for its effect.
    Wasserstein,
    /// Share of null or missing values against the baseline's.
    NullRate,
    /// Share of values that the baseline never held (unseen levels, out of range).
    UnseenRate,
    /// The learned score of the feature (see `decide::learned`).
    Learned,
}
