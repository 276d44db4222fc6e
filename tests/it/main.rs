//! What only shows with real servers: `kafka` on an Apache Kafka broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests; clippy sees only the functions marked as such"
)]

mod harness;
mod kafka;
