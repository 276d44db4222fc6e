//! Labels by the baseline's levels; what the baseline never held is counted and named.

use std::collections::{BTreeMap, HashMap};

use super::per_bin::PerBin;
use crate::batch::Texts;

/// The levels of one feature, most frequent first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Levels {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl Levels {
    /// Levels in this order.
    pub fn new(names: Vec<String>) -> Self {
        let index = names
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), i))
            .collect();
        Self { names, index }
    }

    /// The levels' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The position of a level.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

/// The labels of one feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Categorical {
    /// Rows per level of the baseline.
    pub levels: PerBin<u64>,
    /// Rows with a label that the baseline never held.
    pub unseen: u64,
    /// Which labels those were.
    pub strangers: Strangers,
}

impl Categorical {
    /// No labels.
    pub fn empty(levels: &Levels) -> Self {
        Self {
            levels: PerBin::new(levels.names.len()),
            unseen: 0,
            strangers: Strangers::default(),
        }
    }

    /// Adds labels by their codes.
    pub(super) fn add(&mut self, levels: &Levels, texts: &Texts, codes: impl Iterator<Item = u32>) {
        // One look-up per distinct label of the batch, not per row.
        let mut counts = vec![0; texts.len()];
        codes.for_each(|code| counts[code as usize] += 1);
        let counts = counts.into_iter().enumerate();
        for (code, rows) in counts.filter(|(_, rows)| *rows > 0) {
            let label = texts.get(code);
            match levels.get(label) {
                Some(level) => self.levels.add(level, rows),
                None => {
                    self.unseen += rows;
                    self.strangers.add(label, rows);
                }
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.levels.merge(&other.levels);
        self.unseen += other.unseen;
        self.strangers.merge(&other.strangers);
    }

    /// How many rows each level of the baseline has.
    pub fn counts(&self) -> Vec<u64> {
        self.levels.to_vec()
    }

    /// How many labels there are, unseen ones included.
    pub fn count(&self) -> u64 {
        let seen: u64 = self.levels.occupied().map(|(_, rows)| rows).sum();
        seen + self.unseen
    }

    pub(super) fn bytes(&self) -> usize {
        self.levels.bytes() + self.strangers.bytes()
    }
}

/// Labels that the baseline never held, with exact counts: all of them up to
/// [`Strangers::KEPT`], beyond that those with the least hashes (a uniform sample of the distinct
/// labels, from which their number follows). Which ones are kept depends on the labels alone, not
/// on their order or on where deltas were cut; a heavy-hitter sketch would not merge so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strangers(BTreeMap<(u64, String), u64>);

impl Strangers {
    /// How many distinct labels are kept.
    pub const KEPT: usize = 256;
    /// Longer labels are cut to this many bytes, at a character.
    const MAX_LABEL: usize = 200;

    /// The label itself and its place in the tree.
    fn bytes(&self) -> usize {
        let labels = self.0.keys();
        labels.map(|(_, label)| label.capacity() + 72).sum()
    }

    /// Adds rows with a label.
    pub fn add(&mut self, label: &str, rows: u64) {
        let hash = hash_label(label);
        if self.0.len() >= Self::KEPT
            && self
                .0
                .last_key_value()
                .is_some_and(|((last, _), _)| hash > *last)
        {
            return;
        }
        let cut = label.floor_char_boundary(Self::MAX_LABEL);
        self.insert(hash, &label[..cut], rows);
    }

    pub(super) fn insert(&mut self, hash: u64, label: &str, rows: u64) {
        *self.0.entry((hash, label.to_owned())).or_default() += rows;
        if self.0.len() > Self::KEPT {
            self.0.pop_last();
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for ((hash, label), rows) in &other.0 {
            self.insert(*hash, label, *rows);
        }
    }

    /// Whether labels may be missing.
    pub fn is_full(&self) -> bool {
        self.0.len() >= Self::KEPT
    }

    /// How many distinct labels there were; an estimate beyond [`Strangers::KEPT`].
    #[allow(clippy::cast_precision_loss)]
    pub fn distinct(&self) -> f64 {
        match self.0.last_key_value() {
            Some(((last, _), _)) if self.0.len() >= Self::KEPT => {
                (Self::KEPT - 1) as f64 / (*last as f64 / 2f64.powi(64))
            }
            _ => self.0.len() as f64,
        }
    }

    /// The kept labels with their hashes and rows, in hash order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str, u64)> {
        self.0
            .iter()
            .map(|((hash, label), rows)| (*hash, label.as_str(), *rows))
    }

    /// The kept labels with most rows, at most `n`.
    pub fn heaviest(&self, n: usize) -> Vec<(&str, u64)> {
        let mut labels: Vec<(&str, u64)> =
            self.iter().map(|(_, label, rows)| (label, rows)).collect();
        labels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        labels.truncate(n);
        labels
    }
}

/// FNV-1a with a finishing mix: a hash that stays the same over versions and machines, since what
/// it chooses is stored.
fn hash_label(label: &str) -> u64 {
    let fnv = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    super::sample::mix(fnv)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that makes every label new fills no memory, and how many there were is still known.
    #[test]
    fn a_million_labels_are_counted_in_the_room_of_a_few() {
        let mut strangers = Strangers::default();
        for label in 0..1_000_000 {
            strangers.add(&format!("user-{label}"), 1);
            assert!(strangers.0.len() <= Strangers::KEPT);
        }
        assert!(strangers.is_full());
        let distinct = strangers.distinct();
        assert!((800_000.0..1_250_000.0).contains(&distinct), "{distinct}");
        let mut long = Strangers::default();
        long.add(&"ß".repeat(10_000), 1);
        assert_eq!(long.heaviest(1)[0].0.len(), Strangers::MAX_LABEL);
    }
}
