//! Scores, policy and history to a verdict, an alert episode and perhaps a job. Pure.

pub mod episode;
pub mod learned;
mod limits;
pub mod line;
pub mod silence;
pub mod verdict;
pub mod volume;
