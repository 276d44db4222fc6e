//! Retraining jobs.
