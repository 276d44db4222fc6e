//! The commands.

/// `driftd jobs`.
pub mod jobs;

/// `driftd migrate`.
pub mod migrate;
