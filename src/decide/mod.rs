//! Scores, policy and history to a verdict, an alert episode and perhaps a job. Pure.
//!
//! - `rule`: what the training windows say; decides where there are enough of them
//! - `limits`: the tests against their limits; they decide where there are not
//! - `verdict`: both, to what is said of a window
//! - `sentence`: the same for people
//! - `episode`: from verdicts to an alert

pub mod episode;
mod limits;
pub mod rule;
mod sentence;
pub mod verdict;
