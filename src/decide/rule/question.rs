//! What the rule asks of every window, as numbers whose chance variance is known.
//!
//! [`Asking`] is fixed by the training data's shares and stored with the baseline; [`Tally`] is what
//! one window adds up to under it. Tallies of neighbouring windows add up to the tally of their union,
//! so that windows of any size come from small slots, and stretches from windows.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Continuous, ContinuousCDF, Normal};

use crate::profile::encoding;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Where the values are: the mean of their normal scores.
    Location,
    /// How far they spread about the window's own location.
    Spread,
    /// What is left: the shares of about ten groups of values, or of the levels.
    Shape,
    /// Rows with a null, NaN or an infinity.
    Null,
    /// Rows without the field.
    Missing,
    /// Rows with a value of another type.
    WrongType,
    /// Rows with a label that the training data never held, or with a number out of their range.
    New,
    /// Rows off the one value that a nearly constant feature has.
    Other,
    /// All features together: how they are correlated.
    Pairs,
    /// Rows per window.
    Rows,
}

impl Question {
    /// All of them, in the order of settings and docs.
    pub const ALL: [Self; 10] = [
        Self::Location,
        Self::Spread,
        Self::Shape,
        Self::Null,
        Self::Missing,
        Self::WrongType,
        Self::New,
        Self::Other,
        Self::Pairs,
        Self::Rows,
    ];

    /// The name in settings, SQL and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::Spread => "spread",
            Self::Shape => "shape",
            Self::Null => "null",
            Self::Missing => "missing",
            Self::WrongType => "wrong_type",
            Self::New => "new",
            Self::Other => "other",
            Self::Pairs => "pairs",
            Self::Rows => "rows",
        }
    }

    /// Whether it is a share of rows, compared on Anscombe's scale.
    pub(super) fn is_rate(self) -> bool {
        matches!(
            self,
            Self::Null | Self::Missing | Self::WrongType | Self::New | Self::Other
        )
    }

    /// The least effect that matters, where the user names no other: that of the test which asks the
    /// same ([`crate::monitor::Limit::usual`]).
    pub fn usual_effect(self) -> f64 {
        match self {
            Self::Location | Self::Spread | Self::Shape => 0.02,
            Self::Pairs => 0.1,
            Self::Rows => 0.69,
            _ => 0.005,
        }
    }
}

/// A bin that holds so much of the rows is a frequent value, with a group of its own.
const FREQUENT: f64 = 0.05;
/// Other bins are gathered until a group holds so much.
const GROUP: f64 = 0.1;
/// A level with less of the rows shares a group with others.
const LEVEL: f64 = 0.005;
/// Features up to which all pairs are asked for.
const PAIRED: usize = 20;
/// Pairs that are asked for where there are more features.
const MOST_PAIRS: usize = PAIRED * (PAIRED - 1) / 2;

/// The stored form of answers.
const VERSION: u8 = 1;

/// How the values of all features are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asking {
    /// In the layout's order.
    pub features: Vec<Scores>,
    /// Pairs of numbers whose products are taken, as positions in `features`.
    pub pairs: Vec<(u32, u32)>,
}

/// How the values of one feature are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Scores {
    /// Numbers, by their bin.
    Numbers(Numbers),
    /// Labels: the group of each level, and the number of groups; the last one is that of rare levels.
    Labels {
        /// By level.
        group: Vec<u32>,
        /// How many groups.
        groups: usize,
    },
}

/// Scores of the bins of a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// The normal score of each bin: mean 0, variance 1 under the shares.
    pub location: Vec<f64>,
    /// Its square, made orthogonal to it; empty where there are too few bins for it.
    pub spread: Vec<f64>,
    /// What a location of 1 adds to the spread.
    pub bend: f64,
    /// The group of each bin.
    pub group: Vec<u32>,
    /// The share of each group.
    pub share: Vec<f64>,
    /// Sums of share x score over the bins of each group; of both scores.
    pub location_of_groups: Vec<f64>,
    /// As `location_of_groups`.
    pub spread_of_groups: Vec<f64>,
    /// The bin with most rows.
    pub mode: usize,
}

impl Numbers {
    /// From the share of each bin, all above 0; the first and the last bin are those out of range.
    pub fn of_shares(p: &[f64]) -> Self {
        let normal = Normal::standard();
        let mut end = 0.0;
        let mut densities = vec![0.0];
        for (i, share) in p.iter().enumerate() {
            end += share;
            let at = if i + 1 == p.len() { 1.0 } else { end.min(1.0) };
            let inside = at > 0.0 && at < 1.0;
            densities.push(if inside {
                normal.pdf(normal.inverse_cdf(at))
            } else {
                0.0
            });
        }
        let scores = densities.windows(2).zip(p).map(|(d, p)| (d[0] - d[1]) / p);
        let mut location = orthogonal(scores.collect(), p, None).unwrap_or_default();
        let squares = location.iter().map(|w| w * w).collect();
        let mut spread = orthogonal(squares, p, Some(&location)).unwrap_or_default();
        // Rows out of range weigh as the end of the range: `new` asks for them.
        for weights in [&mut location, &mut spread] {
            if let [first, second, .., before, last] = &mut weights[..] {
                (*first, *last) = (*second, *before);
            } else if let [first, middle, last] = &mut weights[..] {
                (*first, *last) = (*middle, *middle);
            }
        }
        let bend = p.iter().zip(&location).zip(&spread);
        let bend = bend.map(|((p, l), s)| p * l * l * s).sum::<f64>() / 2.0;
        let group = groups(p);
        let mut share = vec![0.0; group.last().map_or(0, |last| *last as usize + 1)];
        for (group, p) in group.iter().zip(p) {
            share[*group as usize] += p;
        }
        let of_groups = |weights: &[f64]| -> Vec<f64> {
            let mut sums = vec![0.0; if weights.is_empty() { 0 } else { share.len() }];
            for ((w, p), group) in weights.iter().zip(p).zip(&group) {
                sums[*group as usize] += w * p;
            }
            sums
        };
        let (location_of_groups, spread_of_groups) = (of_groups(&location), of_groups(&spread));
        // The first of the largest, as argmax has it.
        let mode = (0..p.len()).fold(0, |best, i| if p[i] > p[best] { i } else { best });
        Self {
            location,
            spread,
            bend,
            group,
            share,
            location_of_groups,
            spread_of_groups,
            mode,
        }
    }
}

/// Weights with mean 0, variance 1 and no correlation with `other` under the shares; `None` where
/// nothing is left.
fn orthogonal(mut weights: Vec<f64>, p: &[f64], other: Option<&[f64]>) -> Option<Vec<f64>> {
    let mean: f64 = weights.iter().zip(p).map(|(w, p)| w * p).sum();
    weights.iter_mut().for_each(|w| *w -= mean);
    if let Some(other) = other {
        let along: f64 = weights
            .iter()
            .zip(other)
            .zip(p)
            .map(|((w, o), p)| w * o * p)
            .sum();
        for (w, o) in weights.iter_mut().zip(other) {
            *w -= along * o;
        }
    }
    let variance: f64 = weights.iter().zip(p).map(|(w, p)| w * w * p).sum();
    weights.iter_mut().for_each(|w| *w /= variance.sqrt());
    (variance > 1e-9).then_some(weights)
}

/// The group of each bin: a frequent value stands alone, others are gathered by tenths of the rows;
/// what is out of range belongs to the end of the range.
fn groups(p: &[f64]) -> Vec<u32> {
    let mut groups = vec![0u32; p.len()];
    let inner = 1..p.len().saturating_sub(1).max(1);
    let mut left: f64 = p[inner.clone()].iter().sum();
    let (mut group, mut mass, mut closed) = (0, 0.0, true);
    for b in inner {
        let frequent = p[b] >= FREQUENT;
        if !closed && frequent || closed && b > 1 {
            group += 1;
            mass = 0.0;
        }
        groups[b] = group;
        mass += p[b];
        left -= p[b];
        closed = frequent || mass >= GROUP - 1e-9 && left >= GROUP - 1e-9;
    }
    if let Some(last) = groups.last_mut() {
        *last = group;
    }
    groups
}

impl Scores {
    /// Groups of levels, from the rows of each.
    pub fn of_levels(rows: &[u64]) -> Self {
        let all = rows.iter().sum::<u64>() as f64;
        let mut own = 0;
        let mut group = |rows: &u64| {
            let is_own = *rows as f64 >= LEVEL * all && *rows > 0;
            own += u32::from(is_own);
            if is_own { own - 1 } else { u32::MAX }
        };
        let mut groups: Vec<u32> = rows.iter().map(&mut group).collect();
        groups
            .iter_mut()
            .for_each(|group| *group = (*group).min(own));
        Self::Labels {
            group: groups,
            groups: own as usize + 1,
        }
    }

    /// How many groups its tally has.
    pub fn groups(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.share.len(),
            Self::Labels { groups, .. } => *groups,
        }
    }
}

/// The pairs that are asked for: all of up to twenty numbers; of more, those that the training data
/// hold together most, by the absolute covariance of their normal scores.
pub fn choose_pairs(numbers: &[u32], covariance: impl Fn(u32, u32) -> f64) -> Vec<(u32, u32)> {
    let all = numbers.iter().enumerate();
    let all = all.flat_map(|(i, a)| numbers[i + 1..].iter().map(|b| (*a, *b)));
    if numbers.len() <= PAIRED {
        return all.collect();
    }
    let mut by_strength: Vec<(f64, (u32, u32))> = all
        .map(|(a, b)| (-covariance(a, b).abs(), (a, b)))
        .collect();
    by_strength.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    by_strength.truncate(MOST_PAIRS);
    by_strength.into_iter().map(|(_, pair)| pair).collect()
}

/// What the rows of a window (or of a slot of time, or of a stretch) add up to, for one feature.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Rows with a value.
    pub values: u64,
    /// Of them, per group; labels that the training data never held are in none.
    pub groups: Vec<u64>,
    /// Sum of the normal scores.
    pub location: f64,
    /// Sum of the scores of spread.
    pub spread: f64,
    /// Rows off the most frequent bin.
    pub other: u64,
    /// Rows with a null, NaN or an infinity.
    pub null: u64,
    /// Rows without the field.
    pub missing: u64,
    /// Rows with a value of another type.
    pub wrong_type: u64,
    /// Rows with a label or number that the training data never held. In windows of the training data:
    /// rows of labels that no other window has (Good 1953).
    pub new: u64,
}

impl Tally {
    /// Of no rows.
    pub fn empty(scores: &Scores) -> Self {
        Self {
            groups: vec![0; scores.groups()],
            ..Self::default()
        }
    }

    /// Rows, with a value or without.
    pub fn rows(&self) -> u64 {
        self.values + self.null + self.missing + self.wrong_type
    }

    /// The mean normal score, where a row without a value counts 0.
    pub(super) fn mean_location(&self) -> f64 {
        self.location / (self.rows() as f64).max(1.0)
    }

    /// Adds `count` values of one bin of a number.
    #[inline]
    pub fn add_number(&mut self, scores: &Numbers, bin: usize, count: u64) {
        self.values += count;
        self.groups[scores.group[bin] as usize] += count;
        self.location += scores.location.get(bin).unwrap_or(&0.0) * count as f64;
        self.spread += scores.spread.get(bin).unwrap_or(&0.0) * count as f64;
        self.other += if bin == scores.mode { 0 } else { count };
        self.new += if bin == 0 || bin + 1 == scores.group.len() {
            count
        } else {
            0
        };
    }

    /// Adds `count` values of one level.
    #[inline]
    pub fn add_level(&mut self, group: &[u32], level: usize, count: u64) {
        self.values += count;
        self.groups[group[level] as usize] += count;
    }

    /// Adds what other rows add up to.
    pub fn add(&mut self, more: &Self) {
        for (mine, more) in self.groups.iter_mut().zip(&more.groups) {
            *mine += more;
        }
        self.location += more.location;
        self.spread += more.spread;
        for (mine, more) in [
            (&mut self.values, more.values),
            (&mut self.other, more.other),
            (&mut self.null, more.null),
            (&mut self.missing, more.missing),
            (&mut self.wrong_type, more.wrong_type),
            (&mut self.new, more.new),
        ] {
            *mine += more;
        }
    }
}

/// What the rows of a window add up to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answers {
    /// Start in milliseconds.
    pub start_ms: i64,
    /// Rows.
    pub rows: u64,
    /// Per feature.
    pub features: Vec<Tally>,
    /// Sums of the products of normal scores, per pair. What a row sample says of them is moved to the means
    /// of all rows, so that the covariance is the sample's.
    pub pairs: Vec<f64>,
    /// Rows that these sums are over: those of the sample.
    pub pair_rows: u64,
    /// Rows of this time went elsewhere: their number is no answer.
    pub shared: bool,
}

impl Answers {
    /// Of no rows.
    pub fn empty(asking: &Asking, start_ms: i64) -> Self {
        Self {
            start_ms,
            rows: 0,
            features: asking.features.iter().map(Tally::empty).collect(),
            pairs: vec![0.0; asking.pairs.len()],
            pair_rows: 0,
            shared: false,
        }
    }

    /// Adds what other rows add up to.
    pub fn add(&mut self, more: &Self) {
        self.rows += more.rows;
        self.pair_rows += more.pair_rows;
        for (mine, more) in self.features.iter_mut().zip(&more.features) {
            mine.add(more);
        }
        for (mine, more) in self.pairs.iter_mut().zip(&more.pairs) {
            *mine += more;
        }
    }
}

impl Answers {
    /// Bytes to store.
    ///
    /// # Errors
    /// The encoder's; it has none for these types.
    pub fn encode(&self) -> Result<Vec<u8>, encoding::Error> {
        let mut bytes = vec![VERSION];
        let plain = postcard::to_stdvec(self).map_err(|_| encoding::Error::Damaged("answers"))?;
        bytes.extend(plain);
        Ok(bytes)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// The bytes are damaged or of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, encoding::Error> {
        let damaged = encoding::Error::Damaged("the answers of a window");
        match bytes.split_first() {
            Some((&VERSION, plain)) => postcard::from_bytes(plain).map_err(|_| damaged),
            _ => Err(damaged),
        }
    }
}
