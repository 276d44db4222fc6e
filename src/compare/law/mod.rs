//! The distributions that statistics follow when nothing has changed, accurate far into the tails.
//!
//! Drift of a large window has p-values like 1e-200, and thresholds are set on their logarithms.
//! So upper tails are computed as such, never as one minus a lower tail, and every probability that
//! multiplies large powers goes through the deviance form in [`deviance`], which does not cancel.

/// Upper tail of the chi-square distribution and its logarithm.
pub mod chi2;

/// Binomial and Poisson probabilities without cancellation.
pub mod deviance;

/// One-sample Kolmogorov distribution of finite n.
pub mod kolmogorov;

/// Normal quantiles and tails.
pub mod normal;

/// Exact two-sample Smirnov distribution.
pub mod smirnov;

/// Fisher's exact test.
pub mod fisher;
