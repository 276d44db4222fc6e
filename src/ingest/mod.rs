//! Messages in, Arrow record batches out; what cannot be read is set aside, never lost silently.
//!
//! - `path`: field paths into a payload, `data.features[3]`, `instances[*].age`
//! - `decode`: a plan compiled from the paths of all monitors of a topic, straight into columns
//! - `plan`: what is read from a topic, for whom
//! - `stretch`: the messages of one partition, one after another
//! - `partition`: one partition while it is read
//! - `consumer`: the Kafka client, its rebalances and its offsets
//! - `describe`: what brokers say of topics
//! - `start`: where reading a partition goes on, and what is missing before that
//! - `starting`: what is known of a partition before it can be read
//! - `ranges`: exact parts of a log, read once, for training data
//! - `training`: messages as rows of training data
//! - `reject`: why a message could not be read

pub mod consumer;
pub mod decode;
pub mod describe;
pub mod leader_epoch;
pub mod partition;
pub mod path;
pub mod plan;
pub mod ranges;
pub mod reject;
pub mod start;
pub mod starting;
pub mod stretch;
pub mod training;
