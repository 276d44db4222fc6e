//! The stored training distribution of one model version: its profile, its bins, its rows by time.
//!
//! - `read`: training files as batches, in bounded memory; `ndjson`: those of one JSON object a line
//! - `columns`: which of their columns become features; `kinds`: what each column is
//! - `rows`: rows of a file as the profile takes them
//! - `import`: two passes over the files make a baseline; `survey` is the first of them
//! - `windows`: the rows by time, from which training windows of any size come
//! - `judge`: with a monitor's settings, what judges its windows
//! - `save`: keeping one in Postgres; `extend`: adding windows of the stream to it
//! - `current`: files as one window of a baseline, for `driftd check`
//!
//! A baseline is immutable and named by the digest of its content.

mod columns;
pub mod current;
pub mod extend;
pub mod import;
pub mod judge;
pub mod kinds;
pub mod ndjson;
pub mod read;
mod rows;
pub mod save;
mod survey;
pub mod windows;

#[cfg(test)]
mod formats;
#[cfg(test)]
mod same_labels;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::profile::{Layout, Profile, encoding};
use crate::store::baselines::{self, Stored};

/// A baseline as it is stored.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// SHA-256 over model, version and content, in hex.
    pub id: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// How its features are cut.
    pub layout: Arc<Layout>,
    /// Its rows; the sample holds all of them up to [`SAMPLE_ROWS`] (fewer where there are
    /// embeddings, see [`most_rows`](crate::profile::sample::most_rows)).
    pub profile: Profile,
    /// What it was made from.
    pub origin: Origin,
}

/// What it takes to read rows by the bins of a baseline.
#[derive(Debug, Clone)]
pub struct Outline {
    /// Its id.
    pub id: String,
    /// The version that it is of.
    pub version: String,
    /// How its features are cut.
    pub layout: Arc<Layout>,
    /// The ids of the baselines that it extends: their layouts are the same.
    pub extends: Vec<String>,
}

impl Outline {
    /// Reads a stored outline.
    ///
    /// # Errors
    /// The layout is damaged or of a later version.
    pub fn of_stored(stored: baselines::Outline) -> Result<Self, encoding::Error> {
        let damaged = encoding::Error::Damaged("a baseline cut short");
        let layout = encoding::decode_layout(&stored.layout.ok_or(damaged)?)?;
        Ok(Self {
            id: stored.baseline_id,
            version: stored.version,
            layout: Arc::new(layout),
            extends: stored.extends,
        })
    }
}

/// The start of an id, for people.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Rows of the training data that are kept as they were. Up to so many every test is exact.
pub const SAMPLE_ROWS: usize = 100_000;

/// What a baseline was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// SHA-256 over the bytes of the training files in their order, in hex.
    pub training_data_digest: String,
    /// The files as they were named.
    pub files: Vec<String>,
    /// The column with the event time, if there is one.
    pub time_column: Option<String>,
    /// Least and greatest event time in milliseconds.
    pub time_range: Option<(i64, i64)>,
}

impl Baseline {
    /// Names a baseline by its content.
    ///
    /// # Errors
    /// Arrow's, where the sample was merged from different layouts.
    pub fn new(
        model: String,
        version: String,
        layout: Layout,
        mut profile: Profile,
        origin: Origin,
    ) -> Result<Self, encoding::Error> {
        let mut digest = Sha256::new();
        for part in [
            model.as_bytes(),
            version.as_bytes(),
            origin.training_data_digest.as_bytes(),
        ] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.update(encoding::encode_layout(&layout));
        digest.update(encoding::encode(&mut profile, true)?);
        let id = hex::encode(digest.finalize());
        Ok(Self {
            id,
            model,
            version,
            layout: Arc::new(layout),
            profile,
            origin,
        })
    }

    /// Without its rows.
    pub fn outline(&self) -> Outline {
        Outline {
            id: self.id.clone(),
            version: self.version.clone(),
            layout: Arc::clone(&self.layout),
            extends: Vec::new(),
        }
    }

    /// The stored form of layout and profile.
    ///
    /// # Errors
    /// Arrow's, where the sample was merged from different layouts.
    pub fn encode(&mut self) -> Result<Vec<u8>, encoding::Error> {
        let layout = encoding::encode_layout(&self.layout);
        let mut bytes = (layout.len() as u64).to_le_bytes().to_vec();
        bytes.extend(layout);
        bytes.extend(encoding::encode(&mut self.profile, true)?);
        Ok(bytes)
    }

    /// Reads a stored baseline.
    ///
    /// # Errors
    /// Its stored form is damaged or of a later version.
    pub fn of_stored(stored: Stored) -> Result<Self, encoding::Error> {
        let (layout, profile) = Self::decode(&stored.profile)?;
        let range = stored.time_from.zip(stored.time_to);
        Ok(Self {
            id: stored.baseline_id,
            model: stored.model,
            version: stored.version,
            layout: Arc::new(layout),
            profile,
            origin: Origin {
                training_data_digest: stored.training_data_digest,
                files: stored.training_data_files,
                time_column: stored.time_column,
                time_range: range
                    .map(|(from, to)| (from.timestamp_millis(), to.timestamp_millis())),
            },
        })
    }

    /// Layout and profile from their stored form.
    ///
    /// # Errors
    /// The bytes are damaged or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<(Layout, Profile), encoding::Error> {
        let damaged = || encoding::Error::Damaged("a baseline cut short");
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let size = usize::try_from(u64::from_le_bytes(*size)).map_err(|_| damaged())?;
        let (layout, profile) = rest.split_at_checked(size).ok_or_else(damaged)?;
        let layout = encoding::decode_layout(layout)?;
        let profile = encoding::decode(profile, &layout)?;
        Ok((layout, profile))
    }
}
