//! Why a message could not be read. Rejecting is data, not an error: the row is kept in Postgres,
//! counted, and the offset advances.

use sha2::{Digest, Sha256};

/// The reasons, by the names they have in SQL and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not JSON, or not an object or array.
    Unparsable,
    /// More bytes than `limits.max_message_bytes`.
    TooLarge,
    /// Nested deeper than `limits.max_message_depth`.
    TooDeep,
    /// More rows than `limits.max_message_rows`.
    TooManyRows,
    /// No event time at the monitor's path.
    NoTimestamp,
    /// Something that is not a time at the monitor's path, or a Kafka timestamp that is none; the
    /// years 1900 to 2300 are.
    BadTimestamp,
    /// An event time further ahead of the record's own timestamp than `lateness.max_future`.
    FutureTimestamp,
}

impl Reason {
    /// The setting that a message went beyond, if it is rejected for that.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Self::TooLarge => Some("max_message_bytes"),
            Self::TooDeep => Some("max_message_depth"),
            Self::TooManyRows => Some("max_message_rows"),
            _ => None,
        }
    }

    /// The name in SQL and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unparsable => "unparsable",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::TooManyRows => "too_many_rows",
            Self::NoTimestamp => "no_timestamp",
            Self::BadTimestamp => "bad_timestamp",
            Self::FutureTimestamp => "future_timestamp",
        }
    }
}

/// A message that could not be read, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Kafka offset.
    pub offset: i64,
    /// The monitor that could not use it; empty where no monitor could.
    pub monitor: String,
    /// Why.
    pub reason: Reason,
    /// What was found, for people.
    pub detail: String,
    /// SHA-256 of the payload.
    pub digest: [u8; 32],
    /// Size of the payload.
    pub payload_bytes: usize,
    /// The payload itself, where the operator asked for it; of what is too large, its beginning.
    pub payload: Option<Vec<u8>>,
}

impl Rejected {
    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        let payload = self.payload.as_ref().map_or(0, Vec::capacity);
        size_of::<Self>() + self.monitor.capacity() + self.detail.capacity() + payload
    }

    /// Sets a message aside; so many bytes of its payload are kept at most.
    pub fn new(
        offset: i64,
        monitor: &str,
        reason: Reason,
        detail: String,
        payload: &[u8],
        keep: Option<usize>,
    ) -> Self {
        Self {
            offset,
            monitor: monitor.to_owned(),
            reason,
            detail,
            digest: Sha256::digest(payload).into(),
            payload_bytes: payload.len(),
            payload: keep.map(|most| payload[..payload.len().min(most)].to_vec()),
        }
    }
}
