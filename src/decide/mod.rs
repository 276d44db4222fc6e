//! Scores, policy and history to a verdict, an alert episode and perhaps a job. Pure.
//!
//! - `rule`: what the training windows say; decides where there are enough of them
//! - `limits`: the tests against their limits; they decide where there are not
//! - `verdict`: both, to what is said of a window
//! - `sentence`: the same for people
//! - `silence`: whether rows come; `volume`: whether as many as in training
//! - `episode`: from verdicts to an alert; `line`: all that a line of windows carries

pub mod episode;
mod limits;
pub mod line;
pub mod rule;
mod sentence;
pub mod silence;
pub mod verdict;
pub mod volume;
