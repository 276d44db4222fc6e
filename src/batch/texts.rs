//! The distinct texts of a column.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use arrow::array::StringArray;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// The distinct texts of a column within one batch, by code.
#[derive(Debug, Default)]
pub struct Texts {
    index: HashTable<u32>,
    pub(super) data: String,
    ends: Vec<usize>,
}

impl Texts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text of a code.
    #[inline]
    pub fn get(&self, code: usize) -> &str {
        Self::text(&self.data, &self.ends, code)
    }

    #[inline]
    fn text<'a>(data: &'a str, ends: &[usize], code: usize) -> &'a str {
        let start = if code == 0 { 0 } else { ends[code - 1] };
        &data[start..ends[code]]
    }

    #[inline]
    pub(super) fn code(&mut self, text: &str) -> u32 {
        let hash = hash_text(text);
        let Self { index, data, ends } = self;
        let same = |code: &u32| Self::text(data, ends, *code as usize) == text;
        if let Some(code) = index.find(hash, same) {
            return *code;
        }
        // A batch never holds 2^32 rows, so the code always fits.
        let code = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        data.push_str(text);
        ends.push(data.len());
        index.insert_unique(hash, code, |code| {
            hash_text(Self::text(data, ends, *code as usize))
        });
        code
    }

    /// Texts, their ends, and about two places in the index for each.
    pub(super) fn bytes(&self) -> usize {
        self.data.capacity() + self.ends.capacity() * 8 + self.index.capacity() * 2 * 5
    }

    pub(super) fn array(&self) -> StringArray {
        if self.ends.is_empty() {
            // Null keys are 0 and must point at something.
            return StringArray::from_iter_values([""]);
        }
        StringArray::from_iter_values((0..self.len()).map(|code| self.get(code)))
    }

    /// An index that was made for many texts takes longer to clear than the next few take to insert.
    pub(super) fn clear(&mut self) {
        if self.index.capacity() > self.ends.len().max(LEAST) * 8 {
            self.index = HashTable::new();
        }
        self.index.clear();
        self.data.clear();
        self.data.shrink_to(MOST_TEXT_KEPT);
        self.ends.clear();
    }
}

/// An index with room for fewer texts than eight times this is kept.
const LEAST: usize = 16;
/// Room for more bytes of text than this is given back.
const MOST_TEXT_KEPT: usize = 64 << 10;

/// Seeded once a process: senders choose the texts, and must not be able to choose ones that all
/// have the same hash. What is stored does not depend on it.
fn hash_text(text: &str) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    let mut hasher = SEED.build_hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}
