//! Rows of a file as the profile takes them: a batch, and what of it the row sample keeps.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::kinds;
use crate::batch::{Batch, Builder, Selection};
use crate::monitor::Kind;
use crate::profile::sample::{self, Provenance, RowHash};
use crate::profile::{Layout, Sample};

/// Keys the choice of the sample. Fixed: the same files always give the same baseline.
const HASH_KEY: u64 = 0x6472_6966_7464;

/// A column that is read: its kind, the length of its vectors if it holds any, and its values; `None`
/// where the file lacks it, which makes every cell a missing one.
pub(super) type Source<'a> = (Kind, usize, Option<&'a ArrayRef>);

/// Rows of a file, the first of them number `before`; labels are cut to `most_label` bytes, as in
/// messages.
///
/// # Errors
/// Arrow's, where a type cannot be converted at all.
pub(super) fn to_batch(
    sources: &[Source<'_>],
    rows: &RecordBatch,
    before: u64,
    most_label: usize,
) -> Result<Batch, ArrowError> {
    let shapes: Vec<_> = sources
        .iter()
        .map(|(kind, dimension, _)| kinds::shape(*kind, *dimension))
        .collect();
    let mut builder = Builder::new(&shapes, rows.num_rows().max(1)).cutting(most_label);
    for (i, (kind, _, values)) in sources.iter().enumerate() {
        if let Some(values) = values {
            kinds::write(values, *kind, i, &mut builder)?;
        }
    }
    for row in before..before + rows.num_rows() as u64 {
        builder.keep(i64::try_from(row).unwrap_or(i64::MAX), 1);
    }
    Ok(builder.finish())
}

/// Offers all rows of a batch to a sample; `partition` tells sides apart that have the same row
/// numbers.
pub(super) fn offer(sample: &mut Sample, layout: &Layout, batch: &Batch, partition: i32) {
    let places: Vec<usize> = (0..layout.features.len()).collect();
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(HASH_KEY, partition),
        event_ms: &vec![0; batch.len()],
    };
    let (schema, all) = (sample::schema(layout), Selection::all(batch));
    sample.add(&schema, batch, &places, all, from);
}
