//! Tests against a real Postgres and a real Kafka protocol: one binary, so that both start once.
//!
//! - `embedded`: the private Postgres itself: it starts, it stops, nothing of it stays
//! - `store`: the schema and the functions over it
//! - `jobs`: the queue of retraining jobs

mod embedded;
mod harness;
