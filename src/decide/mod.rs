//! Scores, policy and history to a verdict, an alert episode and perhaps a job. Pure.

pub mod bins;

/// What is normal, learned from the windows of the baseline itself.
pub mod learned;
