//! Tests against a real Postgres and a real Kafka protocol: one binary, so that both start once.
//!
//! - `embedded`: the private Postgres itself: it starts, it stops, nothing of it stays
//! - `store`: the schema and the functions over it
//! - `triggers`: what asks for retraining, and what stops it
//! - `jobs`: the queue of retraining jobs: claims, leases and how they end
//! - `schedules`: the clock's part of retraining, and the outbox
//! - `docs`: every query of the documentation runs

// Functions beside the tests are tests too, which clippy cannot see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod docs;
mod embedded;
mod harness;
mod jobs;
mod schedules;
mod store;
mod triggers;
