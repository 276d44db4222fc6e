//! What `driftd demo` and the tests bring with them, so that neither needs a service installed and
//! running: a private Postgres (and, beside it, librdkafka's mock broker).

mod binaries;
mod place;
mod sweeper;

/// A Kafka broker inside this process.
pub mod broker;

/// A private Postgres server on a unix socket.
pub mod postgres;
