//! Messages in, Arrow record batches out; what cannot be read is set aside, never lost silently.
//!
//! - `path`: field paths into a payload, `data.features[3]`, `instances[*].age`
//! - `decode`: a plan compiled from the paths of all monitors of a topic, straight into columns
//! - `plan`: what is read from a topic, for whom
//! - `stretch`: the messages of one partition, one after another
//! - `consumer`: the Kafka client, its rebalances and its offsets
//! - `queue`: messages of many partitions, taken in batches
//! - `admin`: what brokers say of topics and logs
//! - `leader_epoch`: places in logs
//! - `ranges`: exact parts of a log, read once, for training data
//! - `training`: messages as rows of training data
//! - `reject`: why a message could not be read

pub mod admin;
pub mod consumer;
pub mod decode;
pub mod leader_epoch;
pub mod path;
pub mod plan;
pub mod queue;
pub mod ranges;
pub mod reject;
pub mod stretch;
pub mod training;
