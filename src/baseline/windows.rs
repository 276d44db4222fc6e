//! The training data by time: slots that add up to the windows of any monitor.
//!
//! What a slot keeps is bounded by bins, not by levels or rows: a few numbers per feature
//! ([`Tally`]). Windows of every size that is a multiple of the slot come from them without another
//! import.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use arrow::array::Array;
use chrono::DateTime;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Cell, Slice};
use crate::decide::rule::question::Scores;
use crate::decide::rule::{Answers, Asking, Tally, sum_of_products};
use crate::profile::{Bins, Layout, Levels, norm};
use crate::window::{Held, Spec};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// Lengths of slots: each divides an hour. Days of every time zone in use begin at a quarter of one.
const SLOTS_MS: [i64; 4] = [MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, 60 * MINUTE_MS];
/// Slots are as short as this number of them allows.
const MOST_SLOTS: i64 = 3_000;
/// The stored form.
const VERSION: u8 = 1;
/// A partial window at an end begins later (or ends earlier) than this share of the others.
const PARTIAL: f64 = 0.9;

/// The training data by time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slots {
    /// Length of a slot in milliseconds.
    pub slot_ms: i64,
    /// How values are scored.
    pub asking: Asking,
    /// Slots with rows, in order.
    slots: Vec<Answers>,
    /// Per feature and level: where it occurs.
    levels: Vec<Vec<Occurrence>>,
}

/// When rows came that are in no slot, because a baseline is of a share of them: the number of rows in a
/// window is theirs too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    unit_ms: i64,
    rows: BTreeMap<i64, u64>,
}

/// Where a level occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Occurrence {
    /// Start of the first slot that holds it.
    first_ms: i64,
    /// Start of the last one.
    last_ms: i64,
    /// Rows.
    rows: u64,
}

/// Why training windows cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stored form.
    #[error("the stored training windows cannot be read: {0}")]
    Damaged(String),
    /// Windows that slots do not add up to.
    #[error(
        "the training data are kept in slots of {slot}, and windows of {size} every {every} are no \
         multiple of that; import them again with --window {every}"
    )]
    NotAMultiple {
        /// Length of a slot.
        slot: String,
        /// Length of a window.
        size: String,
        /// From one window to the next.
        every: String,
    },
    /// Days that begin inside of a slot.
    #[error(
        "the training data are kept in slots of {slot}, and days in {time_zone} begin inside of them; \
         import them again with --time-zone {time_zone}"
    )]
    BetweenSlots {
        /// Length of a slot.
        slot: String,
        /// The time zone of the windows.
        time_zone: Tz,
    },
}

fn text(ms: i64) -> String {
    humantime::format_duration(Duration::from_millis(ms.unsigned_abs())).to_string()
}

/// The length of slots for training data of this range, for windows of this size where it is named, and for
/// the days of a time zone.
pub fn slot_for(range: (i64, i64), window_ms: Option<i64>, time_zone: Tz) -> i64 {
    let fits = |slot: &&i64| (range.1 - range.0) / **slot <= MOST_SLOTS;
    let longest = SLOTS_MS[SLOTS_MS.len() - 1];
    let slot = SLOTS_MS.iter().find(fits).copied().unwrap_or(longest);
    let window = window_ms.unwrap_or(DAY_MS);
    let follows_days = window % DAY_MS == 0;
    let divides = |slot: &&i64| {
        window % **slot == 0 && (!follows_days || days_begin_with(range, **slot, time_zone))
    };
    if divides(&&slot) {
        return slot;
    }
    let shorter = SLOTS_MS.iter().rev().find(divides).copied();
    shorter.unwrap_or(if window % slot == 0 { slot } else { window })
}

/// Whether days of this range begin where slots do, whatever clocks change in it.
fn days_begin_with(range: (i64, i64), slot_ms: i64, time_zone: Tz) -> bool {
    let days = Spec::tumbling(DAY_MS, time_zone);
    let mut day = days.next_start(range.0);
    while day % slot_ms == 0 {
        if day > range.1 || DateTime::from_timestamp_millis(day).is_none() {
            return true;
        }
        day = days.after(day, 7); // no change of clocks is undone within a week
    }
    false
}

impl Volume {
    /// Of no rows, for slots that add up to windows of this size: see [`slot_for`].
    pub fn of(window_ms: i64) -> Self {
        let is_whole = window_ms % MINUTE_MS == 0;
        Self {
            unit_ms: if is_whole { MINUTE_MS } else { window_ms },
            rows: BTreeMap::new(),
        }
    }

    /// Adds a row.
    pub fn add(&mut self, ms: i64) {
        let start = ms.div_euclid(self.unit_ms) * self.unit_ms;
        *self.rows.entry(start).or_default() += 1;
    }

    /// All of them.
    pub fn rows(&self) -> u64 {
        self.rows.values().sum()
    }
}

impl Slots {
    /// Counts further rows, by their number alone.
    pub fn count(&mut self, others: &Volume) {
        for (ms, rows) in &others.rows {
            let start = ms.div_euclid(self.slot_ms) * self.slot_ms;
            let place = self
                .slots
                .binary_search_by_key(&start, |slot| slot.start_ms);
            let place = place.unwrap_or_else(|place| {
                let empty = Answers::empty(&self.asking, start);
                self.slots.insert(place, empty);
                place
            });
            self.slots[place].rows += rows;
        }
    }

    /// Bytes to store.
    ///
    /// # Errors
    /// The encoder's; it has none for these types.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let damaged = |error: String| Error::Damaged(error);
        let plain = postcard::to_stdvec(self).map_err(|error| damaged(error.to_string()))?;
        let mut bytes = vec![VERSION];
        let packed = zstd::encode_all(&plain[..], 3).map_err(|error| damaged(error.to_string()))?;
        bytes.extend(packed);
        Ok(bytes)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// The bytes are damaged or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |error: String| Error::Damaged(error);
        match bytes.split_first() {
            Some((&VERSION, packed)) => {
                let plain = zstd::decode_all(packed).map_err(|error| damaged(error.to_string()))?;
                postcard::from_bytes(&plain).map_err(|error| damaged(error.to_string()))
            }
            Some((version, _)) => Err(damaged(format!("version {version} is unknown"))),
            None => Err(damaged("no bytes".into())),
        }
    }

    /// The training windows of a monitor, in order; those between others have no rows where there are
    /// none. Partial windows at the ends are left out: those in which rows begin later (end earlier) than in
    /// nine of ten others.
    ///
    /// # Errors
    /// Slots do not add up to the windows.
    pub fn windows(&self, spec: &Spec) -> Result<Vec<Answers>, Error> {
        if spec.every_ms % self.slot_ms != 0 || spec.size_ms % self.slot_ms != 0 {
            return Err(Error::NotAMultiple {
                slot: text(self.slot_ms),
                size: text(spec.size_ms),
                every: text(spec.every_ms),
            });
        }
        let mut windows: BTreeMap<i64, (Answers, i64, i64)> = BTreeMap::new();
        let mut held = Held::default();
        for slot in &self.slots {
            if !held.times.contains(&slot.start_ms) {
                held = spec.held(slot.start_ms);
            }
            if held.times.end < slot.start_ms + self.slot_ms {
                return Err(Error::BetweenSlots {
                    slot: text(self.slot_ms),
                    time_zone: spec.time_zone,
                });
            }
            for (start, _) in held.windows.iter().copied() {
                let empty = || {
                    (
                        Answers::empty(&self.asking, start),
                        slot.start_ms,
                        slot.start_ms,
                    )
                };
                let (sum, _, last) = windows.entry(start).or_insert_with(empty);
                sum.add(slot);
                *last = slot.start_ms;
            }
        }
        self.count_new_levels(spec, &mut windows);
        let begins: Vec<i64> = windows
            .iter()
            .map(|(start, (_, first, _))| first - start)
            .collect();
        let ends: Vec<i64> = windows
            .iter()
            .map(|(start, (_, _, last))| spec.end(*start) - last)
            .collect();
        let mut kept: Vec<(i64, Answers)> = windows
            .into_iter()
            .map(|(start, window)| (start, window.0))
            .collect();
        if is_partial(&ends, kept.len().saturating_sub(1)) {
            kept.pop();
        }
        if !kept.is_empty() && is_partial(&begins, 0) {
            kept.remove(0);
        }
        Ok(self.without_holes(spec, kept))
    }

    /// A level that only one window has counts as new in it (Good 1953): what is normal of new levels.
    fn count_new_levels(&self, spec: &Spec, windows: &mut BTreeMap<i64, (Answers, i64, i64)>) {
        for (feature, levels) in self.levels.iter().enumerate() {
            for level in levels.iter().filter(|level| level.rows > 0) {
                let mut starts = spec.starts_of(level.first_ms);
                let one = starts.find(|start| level.last_ms < spec.end(*start));
                if let Some((window, ..)) = one.and_then(|start| windows.get_mut(&start)) {
                    window.features[feature].new += level.rows;
                }
            }
        }
    }

    fn without_holes(&self, spec: &Spec, windows: Vec<(i64, Answers)>) -> Vec<Answers> {
        let mut all: Vec<Answers> = Vec::new();
        for (start, window) in windows {
            while let Some(next) = all.last().map(|last| spec.after(last.start_ms, 1))
                && next < start
            {
                all.push(Answers::empty(&self.asking, next));
            }
            all.push(window);
        }
        all
    }
}

/// Whether a window's offset is beyond that of nine of ten others.
fn is_partial(offsets: &[i64], at: usize) -> bool {
    let mut others = offsets.to_vec();
    if at >= others.len() {
        return false;
    }
    let own = others.remove(at);
    others.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a length
    let place = (PARTIAL * others.len() as f64) as usize;
    others
        .get(place.min(others.len().saturating_sub(1)))
        .is_some_and(|usual| own > *usual)
}

/// Counts training rows into slots.
#[derive(Debug)]
pub struct Counter {
    slot_ms: i64,
    asking: Asking,
    slots: Vec<Answers>,
    places: HashMap<i64, usize>,
    levels: Vec<Vec<Occurrence>>,
}

impl Counter {
    /// Of no rows.
    pub fn new(layout: &Layout, asking: Asking, slot_ms: i64) -> Self {
        let nowhere = Occurrence {
            first_ms: i64::MAX,
            last_ms: i64::MIN,
            rows: 0,
        };
        let levels = layout.features.iter().map(|feature| match &feature.bins {
            Bins::Levels(levels) => vec![nowhere; levels.names().len()],
            Bins::Grid(_) => Vec::new(),
        });
        Self {
            slot_ms,
            levels: levels.collect(),
            slots: Vec::new(),
            places: HashMap::new(),
            asking,
        }
    }

    /// Adds the rows of a batch; rows without a time are left out.
    pub fn add(&mut self, layout: &Layout, batch: &Batch, times: &[Option<i64>]) {
        let place = |(row, time): (usize, &Option<i64>)| time.map(|ms| (self.place(ms), row));
        let mut rows: Vec<(usize, usize)> = times.iter().enumerate().filter_map(place).collect();
        rows.sort_by_key(|(slot, _)| *slot);
        let runs: Vec<Run<'_>> = rows.chunk_by(|a, b| a.0 == b.0).collect();
        for run in &runs {
            self.slots[run[0].0].rows += run.len() as u64;
        }
        let mut scored: Vec<Vec<f64>> = vec![Vec::new(); layout.features.len()];
        for (i, feature) in layout.features.iter().enumerate() {
            match &feature.bins {
                Bins::Grid(grid) => {
                    let values = norm::numbers(&batch.array(i));
                    let bins = grid.bin_all(values.values());
                    let is_number =
                        |row: usize| values.is_valid(row) && batch.cells(i)[row].has_value();
                    let bin = |row: usize| is_number(row).then(|| bins[row]);
                    scored[i] = self.add_numbers(i, batch.cells(i), &runs, bin);
                }
                Bins::Levels(levels) => self.add_labels(i, levels, batch, &runs),
            }
        }
        self.add_pairs(&scored, &runs);
    }

    fn place(&mut self, ms: i64) -> usize {
        let start = ms.div_euclid(self.slot_ms) * self.slot_ms;
        *self.places.entry(start).or_insert_with(|| {
            self.slots.push(Answers::empty(&self.asking, start));
            self.slots.len() - 1
        })
    }

    /// Answers the normal score of each row, in the order of the runs.
    fn add_numbers(
        &mut self,
        feature: usize,
        cells: &[Cell],
        runs: &[Run<'_>],
        bin: impl Fn(usize) -> Option<usize>,
    ) -> Vec<f64> {
        let Scores::Numbers(numbers) = &self.asking.features[feature] else {
            return Vec::new();
        };
        let mut scored = Vec::with_capacity(cells.len());
        for run in runs {
            let tally = &mut self.slots[run[0].0].features[feature];
            for (_, row) in *run {
                let bin = bin(*row);
                match bin {
                    Some(bin) => tally.add_number(numbers, bin, 1),
                    None => add_absent(tally, cells[*row]),
                }
                let score = bin.and_then(|bin| numbers.location.get(bin));
                scored.push(score.copied().unwrap_or(0.0));
            }
        }
        scored
    }

    fn add_labels(&mut self, feature: usize, levels: &Levels, batch: &Batch, runs: &[Run<'_>]) {
        let Scores::Labels { group, .. } = &self.asking.features[feature] else {
            return;
        };
        let Slice::Text(codes, texts) = batch.values(feature) else {
            return;
        };
        let known: Vec<Option<usize>> = (0..texts.len())
            .map(|code| levels.get(texts.get(code)))
            .collect();
        let cells = batch.cells(feature);
        for run in runs {
            let Answers {
                start_ms, features, ..
            } = &mut self.slots[run[0].0];
            let tally = &mut features[feature];
            for (_, row) in *run {
                let level = cells[*row]
                    .has_value()
                    .then(|| known[codes[*row] as usize])
                    .flatten();
                let Some(level) = level else {
                    add_absent(tally, cells[*row]);
                    continue;
                };
                tally.add_level(group, level, 1);
                let occurrence = &mut self.levels[feature][level];
                occurrence.first_ms = occurrence.first_ms.min(*start_ms);
                occurrence.last_ms = occurrence.last_ms.max(*start_ms);
                occurrence.rows += 1;
            }
        }
    }

    fn add_pairs(&mut self, scored: &[Vec<f64>], runs: &[Run<'_>]) {
        let mut from = 0;
        for run in runs {
            let to = from + run.len();
            let answers = &mut self.slots[run[0].0];
            answers.pair_rows += run.len() as u64;
            for (sum, (a, b)) in answers.pairs.iter_mut().zip(&self.asking.pairs) {
                let (a, b) = (&scored[*a as usize], &scored[*b as usize]);
                *sum += sum_of_products(&a[from..to], &b[from..to]);
            }
            from = to;
        }
    }

    /// The slots in order of time.
    pub fn finish(mut self) -> Slots {
        self.slots.sort_by_key(|slot| slot.start_ms);
        Slots {
            slot_ms: self.slot_ms,
            asking: self.asking,
            slots: self.slots,
            levels: self.levels,
        }
    }
}

/// Rows of a batch that are in the same slot: slot and row of each.
type Run<'a> = &'a [(usize, usize)];

fn add_absent(tally: &mut Tally, cell: Cell) {
    match cell {
        Cell::Missing => tally.missing += 1,
        Cell::WrongType => tally.wrong_type += 1,
        Cell::Null | Cell::NaN | Cell::PosInf | Cell::NegInf => tally.null += 1,
        Cell::Ok | Cell::Coerced => {}
    }
}
