//! The stored form of profiles and layouts.
//!
//! The first byte is the version; a version once released stays readable. A layout is written in the
//! least version that can say it, so that the same layout has the same bytes (and a baseline the
//! same name) in every later driftd: version 2 is one with embeddings, each with its dimension. Whole numbers are LEB128
//! varints (zigzag where signed), doubles their eight bytes, bins without values are skipped, the
//! sample is an Arrow IPC stream compressed with zstd. The same profile always has the same bytes.
//!
//! Bytes that were damaged are an error, whatever they say: no length is believed that the bytes
//! do not back, and counts that could not have come of counting are refused.

use std::ops::AddAssign;

use arrow::error::ArrowError;

use super::numeric::Bin;
use super::per_bin::PerBin;
use super::{
    Bins, Categorical, Feature, FeatureLayout, Grid, Layout, Levels, Numeric, Profile, Quality,
    Sample, Values, stream,
};
use crate::batch::MAX_DIMENSION;
use crate::monitor::Kind;

/// The version of profiles, and of layouts that need no later one.
const VERSION: u8 = 1;
/// The version of layouts with embeddings.
const WITH_EMBEDDINGS: u8 = 2;

/// A profile has no more rows than this; with it no sum can overflow.
const MOST_ROWS: u64 = 1 << 40;

/// Why stored bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Written by a later driftd.
    #[error("stored profile has version {0}, which this driftd cannot read")]
    Version(u8),
    /// Cut short or garbled.
    #[error("stored profile is damaged: {0}")]
    Damaged(&'static str),
    /// The sample inside.
    #[error("stored sample: {0}")]
    Arrow(#[from] ArrowError),
}

/// Encodes a layout.
pub fn encode_layout(layout: &Layout) -> Vec<u8> {
    let embeds = |feature: &FeatureLayout| feature.kind == Kind::Embedding;
    let mut out = if layout.features.iter().any(embeds) {
        Writer(vec![WITH_EMBEDDINGS])
    } else {
        Writer::start()
    };
    out.size(layout.features.len());
    for feature in &layout.features {
        out.text(&feature.name);
        out.byte(match feature.kind {
            Kind::Numeric => 0,
            Kind::Categorical => 1,
            Kind::Boolean => 2,
            Kind::Timestamp => 3,
            Kind::Embedding => 4,
        });
        out.byte(u8::from(feature.plain_numbers));
        if embeds(feature) {
            out.size(feature.dimension);
        }
        match &feature.bins {
            Bins::Grid(grid) => {
                out.signed(i128::from(grid.exponent));
                out.size(grid.cuts.len());
                grid.cuts.iter().for_each(|cut| out.double(*cut));
                out.size(grid.deciles.len());
                grid.deciles
                    .iter()
                    .for_each(|at| out.unsigned(u64::from(*at)));
            }
            Bins::Levels(levels) => {
                out.size(levels.names().len());
                levels.names().iter().for_each(|name| out.text(name));
            }
        }
    }
    out.0
}

/// Decodes a layout.
///
/// # Errors
/// The bytes are damaged or of a later version.
pub fn decode_layout(bytes: &[u8]) -> Result<Layout, Error> {
    let (version, mut read) = Reader::versioned(bytes)?;
    if ![VERSION, WITH_EMBEDDINGS].contains(&version) {
        return Err(Error::Version(version));
    }
    let count = read.size()?;
    let mut features = Vec::new();
    for _ in 0..count {
        let name = read.text()?;
        let kind = match read.byte()? {
            0 => Kind::Numeric,
            1 => Kind::Categorical,
            2 => Kind::Boolean,
            3 => Kind::Timestamp,
            4 if version >= WITH_EMBEDDINGS => Kind::Embedding,
            _ => return Err(Error::Damaged("unknown kind of feature")),
        };
        let plain_numbers = read.byte()? != 0;
        let dimension = match kind {
            Kind::Embedding => read.dimension()?,
            _ => 0,
        };
        let bins = if kind.is_numeric() {
            Bins::Grid(read.grid()?)
        } else {
            let count = read.size()?;
            let names = (0..count)
                .map(|_| read.text())
                .collect::<Result<Vec<_>, _>>()?;
            Bins::Levels(Levels::new(names))
        };
        features.push(FeatureLayout {
            name,
            kind,
            plain_numbers,
            dimension,
            bins,
        });
    }
    Ok(Layout { features })
}

/// Encodes a profile; `with_sample = false` leaves the sample out.
///
/// # Errors
/// Arrow's, where the sample was merged from different layouts.
pub fn encode(profile: &mut Profile, with_sample: bool) -> Result<Vec<u8>, Error> {
    let mut out = Writer::start();
    out.unsigned(profile.rows);
    out.size(profile.features.len());
    for feature in &profile.features {
        feature
            .quality
            .each()
            .iter()
            .for_each(|count| out.unsigned(*count));
        match &feature.values {
            Values::Numeric(numeric) => out.numeric(numeric),
            Values::Categorical(categorical) => out.categorical(categorical),
        }
    }
    out.size(profile.sample.k());
    match profile.sample.settle()? {
        Some(rows) if with_sample => out.0.extend(stream::encode(rows)?),
        _ => {}
    }
    Ok(out.0)
}

/// Decodes a profile.
///
/// # Errors
/// The bytes are damaged, of a later version or not of this layout.
pub fn decode(bytes: &[u8], layout: &Layout) -> Result<Profile, Error> {
    let mut read = Reader::start(bytes)?;
    let rows = read.count()?;
    if rows > MOST_ROWS {
        return Err(Error::Damaged("too many rows"));
    }
    if read.size()? != layout.features.len() {
        return Err(Error::Damaged(
            "another number of features than the baseline",
        ));
    }
    let mut features = Vec::with_capacity(layout.features.len());
    for feature in &layout.features {
        let mut quality = Quality::default();
        for count in quality.each_mut() {
            *count = read.count()?;
        }
        let values = match &feature.bins {
            Bins::Grid(grid) => Values::Numeric(read.numeric(grid)?),
            Bins::Levels(levels) => Values::Categorical(read.categorical(levels)?),
        };
        let feature = Feature { quality, values };
        if !adds_up(&feature, rows) {
            return Err(Error::Damaged("counts that do not add up"));
        }
        features.push(feature);
    }
    let k = read.size()?;
    let sample = Sample::of_stored(k, stream::decode(read.0, layout)?);
    Ok(Profile {
        rows,
        features,
        sample,
    })
}

/// Every row of a profile is a value of each feature, or is none for one reason.
fn adds_up(feature: &Feature, rows: u64) -> bool {
    let [absent @ .., coerced] = feature.quality.each();
    let absent: u128 = absent.map(u128::from).iter().sum();
    let values: u128 = match &feature.values {
        Values::Numeric(numeric) => {
            let bins = numeric.bins.occupied();
            bins.map(|(_, bin)| u128::from(bin.count)).sum()
        }
        Values::Categorical(labels) => {
            let levels = labels.levels.occupied();
            levels.map(|(_, rows)| u128::from(rows)).sum::<u128>() + u128::from(labels.unseen)
        }
    };
    absent + values == u128::from(rows) && u128::from(coerced) <= values
}

struct Writer(Vec<u8>);

impl Writer {
    fn start() -> Self {
        Self(vec![VERSION])
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn signed(&mut self, value: i128) {
        let mut value = ((value << 1) ^ (value >> 127)).cast_unsigned();
        // Wide numbers are slow, and most are narrow.
        loop {
            match u64::try_from(value) {
                Ok(narrow) => return self.unsigned(narrow),
                Err(_) => self.0.push(value.to_le_bytes()[0] | 0x80),
            }
            value >>= 7;
        }
    }

    fn size(&mut self, value: usize) {
        self.unsigned(value as u64);
    }

    fn double(&mut self, value: f64) {
        self.0.extend(value.to_bits().to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.size(text.len());
        self.0.extend(text.as_bytes());
    }

    /// Bins without those that are empty: how many there are, then for each its distance to the
    /// one before it and what it holds.
    fn bins<T>(
        &mut self,
        bins: impl Iterator<Item = (usize, T)>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let bins: Vec<(usize, T)> = bins.collect();
        self.size(bins.len());
        let mut next = 0;
        for (at, bin) in bins {
            self.size(at - next);
            next = at + 1;
            write(self, bin);
        }
    }

    fn numeric(&mut self, numeric: &Numeric) {
        self.bins(numeric.bins.occupied(), |out, bin| {
            out.unsigned(bin.count);
            out.signed(bin.sum);
        });
        self.signed(numeric.squares);
        self.double(numeric.least);
        self.double(numeric.greatest);
    }

    fn categorical(&mut self, categorical: &Categorical) {
        self.bins(categorical.levels.occupied(), Self::unsigned);
        self.unsigned(categorical.unseen);
        self.size(categorical.strangers.iter().count());
        for (hash, label, rows) in categorical.strangers.iter() {
            self.unsigned(hash);
            self.text(label);
            self.unsigned(rows);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn start(bytes: &'a [u8]) -> Result<Self, Error> {
        match Self::versioned(bytes)? {
            (VERSION, read) => Ok(read),
            (version, _) => Err(Error::Version(version)),
        }
    }

    fn versioned(bytes: &'a [u8]) -> Result<(u8, Self), Error> {
        let (version, rest) = bytes.split_first().ok_or(Error::Damaged("no bytes"))?;
        Ok((*version, Self(rest)))
    }

    fn dimension(&mut self) -> Result<usize, Error> {
        let dimension = self.size()?;
        if (1..=MAX_DIMENSION).contains(&dimension) {
            Ok(dimension)
        } else {
            Err(Error::Damaged("dimension"))
        }
    }

    fn byte(&mut self) -> Result<u8, Error> {
        let (first, rest) = self.0.split_first().ok_or(Error::Damaged("cut short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Error::Damaged("cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn wide(&mut self) -> Result<u128, Error> {
        let mut value = 0u128;
        for shift in (0..).step_by(7) {
            if shift > 126 {
                return Err(Error::Damaged("a number too long"));
            }
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    fn signed(&mut self) -> Result<i128, Error> {
        let value = self.wide()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn count(&mut self) -> Result<u64, Error> {
        // Wide numbers are slow, and most counts are one byte.
        match self.0.split_first() {
            Some((byte @ ..0x80, rest)) => {
                self.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => u64::try_from(self.wide()?).map_err(|_| Error::Damaged("a count too large")),
        }
    }

    fn size(&mut self) -> Result<usize, Error> {
        usize::try_from(self.count()?).map_err(|_| Error::Damaged("a size too large"))
    }

    fn double(&mut self) -> Result<f64, Error> {
        let bytes = self
            .bytes(8)?
            .try_into()
            .map_err(|_| Error::Damaged("cut short"))?;
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    fn text(&mut self) -> Result<String, Error> {
        let size = self.size()?;
        let bytes = self.bytes(size)?;
        Ok(std::str::from_utf8(bytes)
            .map_err(|_| Error::Damaged("not UTF-8"))?
            .to_owned())
    }

    fn grid(&mut self) -> Result<Grid, Error> {
        let exponent = i32::try_from(self.signed()?).map_err(|_| Error::Damaged("exponent"))?;
        let cuts = self.size()?;
        let cuts = (0..cuts)
            .map(|_| self.double())
            .collect::<Result<Vec<_>, _>>()?;
        let deciles = self.size()?;
        let deciles = (0..deciles)
            .map(|_| u32::try_from(self.count()?).map_err(|_| Error::Damaged("decile")))
            .collect::<Result<Vec<_>, _>>()?;
        let last = deciles.last().map_or(0, |at| *at as usize);
        let ascending = cuts.is_sorted_by(|a, b| a < b) && deciles.is_sorted_by(|a, b| a < b);
        let odd = cuts.len() > Grid::MAX_CUTS || cuts.iter().any(|cut| cut.is_nan());
        if last >= cuts.len() || !ascending || odd || exponent.unsigned_abs() > Grid::MAX_EXPONENT {
            return Err(Error::Damaged("an impossible grid"));
        }
        Ok(Grid {
            cuts,
            deciles,
            exponent,
        })
    }

    fn bins<T: Copy + Default + PartialEq + AddAssign>(
        &mut self,
        bins: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<PerBin<T>, Error> {
        const ODD: Error = Error::Damaged("more bins than the baseline");
        let count = self.size()?;
        let mut held = Vec::with_capacity(count.min(bins));
        let mut next = 0usize;
        for _ in 0..count {
            let at = next.saturating_add(self.size()?);
            let bin = read(self)?;
            if bin != T::default() {
                held.push((u32::try_from(at).map_err(|_| ODD)?, bin));
            }
            next = at.saturating_add(1);
        }
        PerBin::of_ascending(bins, held).ok_or(ODD)
    }

    fn numeric(&mut self, grid: &Grid) -> Result<Numeric, Error> {
        let mut numeric = Numeric::empty(grid);
        numeric.bins = self.bins(grid.bins(), |read| {
            let (count, sum) = (read.count()?, read.signed()?);
            Ok(Bin { sum, count })
        })?;
        numeric.squares = self.signed()?;
        numeric.least = self.double()?;
        numeric.greatest = self.double()?;
        if numeric.is_possible() {
            Ok(numeric)
        } else {
            Err(Error::Damaged("sums that do not come of values"))
        }
    }

    fn categorical(&mut self, levels: &Levels) -> Result<Categorical, Error> {
        let mut categorical = Categorical::empty(levels);
        categorical.levels = self.bins(levels.names().len(), Self::count)?;
        categorical.unseen = self.count()?;
        let mut before: Option<(u64, String)> = None;
        let mut named = 0u128;
        for _ in 0..self.size()? {
            let label = (self.count()?, self.text()?);
            let rows = self.count()?;
            if before.is_some_and(|before| before >= label) {
                return Err(Error::Damaged("labels out of order"));
            }
            categorical.strangers.insert(label.0, &label.1, rows);
            named += u128::from(rows);
            before = Some(label);
        }
        if named > u128::from(categorical.unseen) {
            return Err(Error::Damaged("more labels than rows"));
        }
        Ok(categorical)
    }
}
