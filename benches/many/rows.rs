//! The rows: numbers about a mean, in JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use rand_xoshiro::Xoshiro256PlusPlus;

/// Rows that differ; after them they repeat with other times.
const DIFFERENT: usize = 4096;

/// Rows without their times, written once: making a row is then a copy.
pub(crate) struct Rows {
    bodies: Vec<String>,
}

impl Rows {
    pub(crate) fn new(features: usize) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut body = || {
            let mut text = String::new();
            for feature in 0..features {
                let z: f64 = random.sample(StandardNormal);
                let value = 100.0 + 10.0 * z;
                let _ = write!(text, ",\"value_{feature:02}\":{value:.4}");
            }
            text + "}"
        };
        let bodies = (0..DIFFERENT).map(|_| body()).collect();
        Self { bodies }
    }

    /// Writes row `i` in place of what the text holds.
    pub(crate) fn write(&self, i: usize, at_ms: i64, text: &mut Vec<u8>) {
        text.clear();
        let _ = write!(text, "{{\"at\":{at_ms}"); // to a vector, which takes everything
        text.extend_from_slice(self.bodies[i % DIFFERENT].as_bytes());
    }
}
