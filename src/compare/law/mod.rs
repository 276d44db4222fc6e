//! The distributions that statistics follow when nothing has changed, accurate far into the tails.
//!
//! Drift of a large window has p-values like 1e-200, and thresholds are set on their logarithms.
//! So upper tails are computed as such, never as one minus a lower tail, and every probability that
//! multiplies large powers goes through the deviance form in [`deviance`], which does not cancel.

pub mod chi2;
pub mod deviance;
pub mod fisher;
pub mod kolmogorov;
pub mod normal;
pub mod poisson;
pub mod quadratic;
pub mod smirnov;
pub mod split;
pub mod student;
