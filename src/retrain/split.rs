//! Which messages of a job's data are held out for the new version's baseline.
//!
//! By a hash and not by time, so that the baseline covers the same time as the training data; and one that a
//! trainer can compute in a line of Python or SQL (docs/retraining.md).

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What the first four bytes of a hash are below.
const RANGE: f64 = 4_294_967_296.0;

/// `{"key": "credit/2026-11-30T00:00:00Z", "baseline_share": 0.2}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The job's own.
    key: String,
    /// The baseline's share of the messages.
    pub baseline_share: f64,
}

impl Split {
    /// Whether a message is the baseline's, and not to be trained on: the first four bytes of SHA-256 over
    /// `key:topic:partition:offset`, as an unsigned number, are below the share of their range.
    pub fn is_baseline(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let text = format!("{}:{topic}:{partition}:{offset}", self.key);
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(text));
        f64::from(u32::from_be_bytes([a, b, c, d])) < self.baseline_share * RANGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(baseline_share: f64) -> Split {
        let key = "credit/7".to_owned();
        Split {
            key,
            baseline_share,
        }
    }

    #[test]
    fn the_share_of_messages_is_that_of_the_job() {
        for share in [0.0, 0.05, 0.2, 0.9] {
            let split = split(share);
            let held_out = (0..20_000).filter(|offset| split.is_baseline("t", 3, *offset));
            let found = f64::from(u32::try_from(held_out.count()).unwrap()) / 20_000.0;
            assert!((found - share).abs() < 0.01, "{share}: {found}");
        }
    }

    #[test]
    fn every_part_of_the_place_counts() {
        let of = |topic: &str, partition| -> Vec<bool> {
            let split = split(0.5);
            let all = (0..64).map(|offset| split.is_baseline(topic, partition, offset));
            all.collect()
        };
        assert_eq!(of("t", 0), of("t", 0));
        assert_ne!(of("t", 0), of("t", 1));
        assert_ne!(of("t", 0), of("u", 0));
    }
}
