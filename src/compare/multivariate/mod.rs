//! Tests of many features together, on the row samples of both sides.
//!
//! - `rows`: rows as they were, from a row sample
//! - `matrix`: the encoder, which puts rows on the reference's scale
//! - `domain_classifier`: can one tell which side a row is from? The one to choose first
//! - `mmd`: maximum mean discrepancy
//! - `pca_reconstruction`: reconstruction error by the reference's principal components
//!
//! What is learned from the reference is learned once per baseline ([`JointReference::fit`]). Of either
//! side at most so many rows are used as the test says, the first ones: a row sample is in hash
//! order, so that its first rows are a sample too. A row without a single value is no row, so that an
//! all-null side is an empty one. Every answer is a function of the rows alone; random numbers have a fixed
//! seed.

pub mod domain_classifier;
#[cfg(test)]
mod golden;
pub mod matrix;
pub mod mmd;
pub mod pca_reconstruction;
pub mod rows;
#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;

pub use rows::{Cells, Column, Rows};

use super::{Answer, Reason, Test};

/// Contributions reported, at most.
pub const MAX_CONTRIBUTIONS: usize = 20;

/// Share that a contribution needs to be reported.
pub const MIN_CONTRIBUTION: f64 = 0.02;

/// A baseline's rows, made ready once for the tests asked for.
#[derive(Debug)]
pub struct JointReference {
    columns: Vec<Column>,
    is_empty: bool,
    mmd: Option<mmd::Reference>,
    domain_classifier: Option<domain_classifier::Reference>,
    pca_reconstruction: Option<pca_reconstruction::Reference>,
}

impl JointReference {
    /// Learns what `tests` need; tests that are not joint are passed over.
    pub fn fit(reference: &Rows, tests: &[Test]) -> Self {
        let asked = |test| tests.contains(&test);
        Self {
            is_empty: reference.some(1).is_empty(),
            mmd: asked(Test::Mmd).then(|| mmd::Reference::fit(reference)),
            domain_classifier: asked(Test::DomainClassifier)
                .then(|| domain_classifier::Reference::fit(reference)),
            pca_reconstruction: asked(Test::PcaReconstruction)
                .then(|| pca_reconstruction::Reference::fit(reference)),
            columns: reference.columns().to_vec(),
        }
    }

    /// A window's answer, and which features made the difference, largest share first (none for
    /// maximum mean discrepancy, which does not come apart by features).
    ///
    /// [`Reason::NoSample`] for a test that [`JointReference::fit`] was not asked for,
    /// [`Reason::DifferentBins`] for rows with other columns than the reference's.
    pub fn compare(&self, test: Test, window: &Rows) -> (Answer, Vec<JointContribution>) {
        if let Some(reason) = self.refusal(window) {
            return (Err(reason), Vec::new());
        }
        let answered = match test {
            Test::Mmd => self
                .mmd
                .as_ref()
                .map(|fitted| (fitted.compare(window), Vec::new())),
            Test::DomainClassifier => self
                .domain_classifier
                .as_ref()
                .map(|fitted| fitted.compare(window)),
            Test::PcaReconstruction => self
                .pca_reconstruction
                .as_ref()
                .map(|fitted| fitted.compare(window)),
            _ => None,
        };
        answered.unwrap_or((Err(Reason::NoSample), Vec::new()))
    }

    fn refusal(&self, window: &Rows) -> Option<Reason> {
        if self.is_empty {
            Some(Reason::NoReference)
        } else if window.some(1).is_empty() {
            Some(Reason::TooFewRows)
        } else if !window.matches(&self.columns) {
            Some(Reason::DifferentBins)
        } else {
            None
        }
    }
}

/// A feature, or two features in how they go together, and its share of what a test found.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct JointContribution {
    /// The feature.
    pub feature: usize,
    /// The other feature of a pair; greater than `feature`.
    pub with: Option<usize>,
    /// Share of all that speaks for a difference, above 0 and at most 1.
    pub weight: f64,
}

/// Sums parts by feature or pair, and gives those above 0 as shares of all above 0, largest first, without
/// the small ones.
fn shares(parts: impl IntoIterator<Item = (usize, Option<usize>, f64)>) -> Vec<JointContribution> {
    let mut sums: BTreeMap<(usize, Option<usize>), f64> = BTreeMap::new();
    for (feature, with, part) in parts {
        *sums.entry((feature, with)).or_insert(0.0) += part;
    }
    let total: f64 = sums.values().copied().filter(|sum| *sum > 0.0).sum();
    let mut all: Vec<JointContribution> = sums
        .into_iter()
        .map(|((feature, with), sum)| JointContribution {
            feature,
            with,
            weight: sum / total,
        })
        .filter(|part| part.weight >= MIN_CONTRIBUTION && part.weight.is_finite())
        .collect();
    all.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    all.truncate(MAX_CONTRIBUTIONS);
    all
}
