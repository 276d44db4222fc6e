//! Event-time windows: which windows a row belongs to, and when it is late.
//!
//! What a row counts for is a pure function of the partition's log, so that every replica, every
//! replay and every restart comes to the same numbers.

use serde::Serialize;

/// The windows of a monitor, all times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spec {
    /// Length of a window; positive.
    pub size_ms: i64,
    /// Distance between two window starts; equal to `size_ms` for tumbling windows, less for
    /// hopping ones. `size_ms` is a multiple of it.
    pub every_ms: i64,
    /// The watermark trails the greatest event time by this much.
    pub out_of_orderness_ms: i64,
    /// Rows still count for so long after the watermark has passed their window's end.
    pub allowed_lateness_ms: i64,
    /// A partition that is caught up and quiet for so long does not hold windows back.
    pub idle_after_ms: i64,
    /// Event times further ahead of the record's own timestamp than this are rejected.
    pub max_future_ms: i64,
}
