//! Quiet streams with the faults of real ones, and changes in them: those of
//! `tests/reference/rule/worlds.py`.

use std::f64::consts::PI;

use rand::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution, Gamma, StandardNormal, StudentT};
use rand_xoshiro::Xoshiro256PlusPlus;

const HOUR_MS: i64 = 3_600_000;
/// Start of the first window, in hours.
const FIRST_HOUR: i64 = 24 * 1000 + 72;
/// Seasons are those of the world, not of the seed.
const SEASON_SEED: u64 = 12_345;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    Iid,
    Wobble,
    WobbleT3,
    Ar8,
    Ar9Shared,
    WeekAr5Unequal,
    Burst,
    Trickle,
    Cluster,
    Zero95,
    Constant,
    Hourly,
    Trend,
    Iid60,
    Wobble200,
    /// So many features, a third of them labels, in hourly windows: for CPU times.
    Cost(usize),
}

/// What happens to the first number, or to the first label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    None,
    /// The mean moves by so many standard deviations.
    Shift(f64),
    /// The standard deviation is multiplied.
    Spread(f64),
    /// So many rows lose their value.
    Null(f64),
    /// So many rows are not 0, where one in twenty was.
    Zero(f64),
    /// So many rows have a label that was never seen.
    NewLevel(f64),
    /// So many rows are out of range.
    Range(f64),
    /// The second and the third label change places.
    Swap,
    /// One null, one value out of range and one new label more.
    OneRow,
    /// The first two numbers have this correlation.
    Correlation(f64),
}

/// The rows of one window.
pub(crate) struct Rows {
    pub(crate) start_ms: i64,
    pub(crate) rows: usize,
    /// The values of each number; NaN where there is none.
    pub(crate) numbers: Vec<Vec<f64>>,
    /// Rows of each level of each label.
    pub(crate) labels: Vec<Vec<u64>>,
}

impl World {
    pub(crate) const ALL: [Self; 15] = [
        Self::Iid,
        Self::Wobble,
        Self::WobbleT3,
        Self::Ar8,
        Self::Ar9Shared,
        Self::WeekAr5Unequal,
        Self::Burst,
        Self::Trickle,
        Self::Cluster,
        Self::Zero95,
        Self::Constant,
        Self::Hourly,
        Self::Trend,
        Self::Iid60,
        Self::Wobble200,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iid => "iid",
            Self::Wobble => "wobble",
            Self::WobbleT3 => "wobble-t3",
            Self::Ar8 => "ar.8",
            Self::Ar9Shared => "ar.9-shared",
            Self::WeekAr5Unequal => "week-ar.5-unequal",
            Self::Burst => "burst",
            Self::Trickle => "trickle",
            Self::Cluster => "cluster",
            Self::Zero95 => "zero95",
            Self::Constant => "constant",
            Self::Hourly => "hourly",
            Self::Trend => "trend",
            Self::Iid60 => "iid-60",
            Self::Wobble200 => "wobble-200",
            Self::Cost(_) => "cost",
        }
    }

    /// Numeric features.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::Iid60 => 60,
            Self::Wobble200 => 200,
            Self::Cost(features) => features - features / 3,
            _ => 10,
        }
    }

    /// Features with labels.
    pub(crate) fn labels(self) -> usize {
        match self {
            Self::Iid60 | Self::Wobble200 => 0,
            Self::Cost(features) => features / 3,
            _ => 2,
        }
    }

    pub(crate) fn every_ms(self) -> i64 {
        match self {
            Self::Hourly | Self::Cost(_) => HOUR_MS,
            _ => 24 * HOUR_MS,
        }
    }

    /// Whether means move slowly, so that a shift of 0.5 is hard to hold on to.
    pub(crate) fn is_persistent(self) -> bool {
        matches!(self, Self::Ar8 | Self::Ar9Shared)
    }

    /// Coefficient and standard deviation of the autoregressive mean of each number; 0 and the standard
    /// deviation where windows are independent.
    fn walk(self) -> (f64, f64) {
        match self {
            Self::Iid | Self::Iid60 => (0.0, 0.0),
            Self::WobbleT3 => (0.0, 0.0), // drawn apart
            Self::Ar8 => (0.8, 0.15),
            Self::Ar9Shared => (0.9, 0.12),
            Self::WeekAr5Unequal => (0.5, 0.1),
            Self::Burst => (0.3, 0.1),
            Self::Trickle | Self::Cluster => (0.5, 0.08),
            Self::Trend => (0.97, 0.2),
            _ => (0.0, 0.15),
        }
    }

    /// Shares of the levels of a label, and how firmly each window keeps to them (0: exactly).
    fn levels(self, label: usize) -> (Vec<f64>, f64) {
        let shares = match (self, label) {
            (Self::Trickle, 0) => zipf(),
            (Self::Trickle, _) => vec![1.0 / 8.0; 8],
            (_, 0) => {
                let mut shares = vec![0.0; 12];
                zipf()
                    .iter()
                    .enumerate()
                    .for_each(|(i, p)| shares[i % 12] += p);
                shares
            }
            _ => vec![0.25; 4],
        };
        let firm = match (self, label) {
            (Self::Iid | Self::Constant | Self::Zero95, _) => 0.0,
            (Self::Trickle, 1) => 480.0,
            _ => 400.0,
        };
        (shares, firm)
    }
}

/// 400 levels, of which most are rare.
fn zipf() -> Vec<f64> {
    let weights: Vec<f64> = (1..=400).map(|i| f64::from(i).powf(-1.3)).collect();
    let all: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / all).collect()
}

/// Windows of a world, one after the other.
#[derive(Clone)]
pub(crate) struct Stream {
    world: World,
    random: Xoshiro256PlusPlus,
    at: i64,
    /// The autoregressive mean of each number, then the one that all share.
    walk: Vec<f64>,
    /// Weekend offset, or phase of the day, of each number.
    season: Vec<f64>,
}

impl Stream {
    /// Begins with window `at`, counted from the start of the training data.
    pub(crate) fn new(world: World, seed: u64, at: usize) -> Self {
        let mut own = Xoshiro256PlusPlus::seed_from_u64(SEASON_SEED);
        let season = (0..world.numbers()).map(|_| match world {
            World::Hourly | World::Cost(_) => own.random(),
            _ => normal(&mut own),
        });
        let season = season.collect();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (_, sd) = world.walk();
        let mut walk: Vec<f64> = (0..world.numbers())
            .map(|_| sd * normal(&mut random))
            .collect();
        walk.push(0.08 * normal(&mut random));
        Self {
            world,
            random,
            at: at as i64,
            walk,
            season,
        }
    }

    pub(crate) fn next(&mut self, change: Change) -> Rows {
        let hours = FIRST_HOUR + self.at * self.world.every_ms() / HOUR_MS;
        let rows = self.rows();
        let means = self.means(hours);
        let mut numbers = self.numbers(rows, &means, change);
        let labels = (0..self.world.labels()).map(|i| self.label(i, rows, change));
        let labels = labels.collect();
        if change == Change::OneRow {
            numbers[0].extend([f64::NAN, 1e9]);
        }
        self.at += 1;
        Rows {
            start_ms: hours * HOUR_MS,
            rows,
            numbers,
            labels,
        }
    }

    fn rows(&mut self) -> usize {
        let z = normal(&mut self.random);
        let rows = match self.world {
            World::WeekAr5Unequal => (1000.0 * (1.2 * z).exp()).clamp(100.0, 10_000.0),
            World::Iid60 | World::Wobble200 => (400.0 * (0.3 * z).exp()).max(200.0),
            _ => (1000.0 * (0.3 * z).exp()).max(200.0),
        };
        rows as usize
    }

    fn means(&mut self, hours: i64) -> Vec<f64> {
        let (a, sd) = self.world.walk();
        let fresh = (1.0 - a * a).sqrt();
        let (numbers, random) = (self.world.numbers(), &mut self.random);
        for mean in &mut self.walk[..numbers] {
            *mean = a * *mean + sd * fresh * normal(random);
        }
        self.walk[numbers] = a * self.walk[numbers] + 0.08 * fresh * normal(random);
        let (shared, at) = (self.walk[numbers], self.at);
        let mut extra = |season: f64| match self.world {
            World::WobbleT3 => 0.15 * 0.6 * StudentT::new(3.0).unwrap().sample(random),
            World::Ar9Shared => shared,
            World::WeekAr5Unequal if at % 7 >= 5 => 0.5 * season,
            World::Burst if random.random::<f64>() < 0.006 => {
                if random.random() {
                    1.5
                } else {
                    -1.5
                }
            }
            World::Hourly | World::Cost(_) => {
                0.5 * (2.0 * PI * ((hours % 24) as f64 / 24.0) + 2.0 * PI * season).sin()
            }
            _ => 0.0,
        };
        let of = |(mean, season): (&f64, &f64)| mean + extra(*season);
        self.walk[..numbers]
            .iter()
            .zip(&self.season)
            .map(of)
            .collect()
    }

    fn numbers(&mut self, rows: usize, means: &[f64], change: Change) -> Vec<Vec<f64>> {
        let numbers = means.len();
        let random = &mut self.random;
        let mut all: Vec<Vec<f64>> = match self.world {
            World::Cluster => clustered(random, rows, numbers),
            _ => (0..numbers)
                .map(|_| random.sample_iter(StandardNormal).take(rows).collect())
                .collect(),
        };
        if let Change::Correlation(rho) = change {
            let (first, second) = all.split_at_mut(1);
            for (a, b) in first[0].iter().zip(&mut second[0]) {
                *b = rho * a + (1.0 - rho * rho).sqrt() * *b;
            }
        }
        let (shift, spread) = match change {
            Change::Shift(size) => (size, 1.0),
            Change::Spread(times) => (0.0, times),
            _ => (0.0, 1.0),
        };
        all[0].iter_mut().for_each(|x| *x = *x * spread + shift);
        for (i, (values, mean)) in all.iter_mut().zip(means).enumerate() {
            values.iter_mut().for_each(|x| *x += mean);
            self.world.deform(i, values, change, random);
        }
        if let Change::Range(share) = change {
            let values = all[0].iter_mut();
            values.for_each(|x| {
                *x = if random.random::<f64>() < share {
                    1e9
                } else {
                    *x
                }
            });
        }
        let nulls = match change {
            Change::Null(share) => share,
            _ => 0.0,
        };
        for (values, share) in all.iter_mut().zip([nulls, 0.01]) {
            for value in values.iter_mut() {
                if share > 0.0 && random.random::<f64>() < share {
                    *value = f64::NAN;
                }
            }
        }
        all
    }

    fn label(&mut self, label: usize, rows: usize, change: Change) -> Vec<u64> {
        let (base, firm) = self.world.levels(label);
        let random = &mut self.random;
        let mut shares: Vec<f64> = base;
        if firm > 0.0 {
            let gamma = |p: &f64| Gamma::new(p * firm, 1.0).unwrap().sample(random);
            shares = shares.iter().map(gamma).collect();
            let all: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|p| *p /= all);
        }
        if change == Change::Swap && label == 0 {
            shares.swap(1, 2);
        }
        let new = match change {
            Change::NewLevel(share) if label == 0 => share,
            _ => 0.0,
        };
        shares.iter_mut().for_each(|p| *p *= 1.0 - new);
        shares.push(new);
        let mut counts = multinomial(random, rows as u64, &shares);
        if change == Change::OneRow && label == 0 {
            *counts.last_mut().unwrap() += 1;
        }
        counts
    }
}

impl World {
    /// Atoms in place of a normal distribution, where the world has them.
    fn deform(self, i: usize, values: &mut [f64], change: Change, random: &mut Xoshiro256PlusPlus) {
        let half = self.numbers() / 2;
        match self {
            // A frequent value.
            Self::Cluster if i >= half => values.iter_mut().for_each(|x| *x = x.max(0.5)),
            // Zeros, and twenty other values.
            Self::Zero95 if i < half => {
                let logit = (1.0_f64 / 0.05 - 1.0) * (-0.15 * normal(random)).exp();
                let share = match change {
                    Change::Zero(share) if i == 0 => share,
                    _ => 1.0 / (1.0 + logit),
                };
                for x in values {
                    let u: f64 = random.random();
                    let other = 1.0 + (20.0 * u / share).min(19.0).floor();
                    *x = if u < share { other } else { 0.0 };
                }
            }
            // Constant, or one row in 2,000 differs.
            Self::Constant if i >= half => {
                let share = if i % 2 == 1 { 1.0 / 2000.0 } else { 0.0 };
                let two = |random: &mut Xoshiro256PlusPlus| random.random::<f64>() < share;
                values
                    .iter_mut()
                    .for_each(|x| *x = if two(random) { 2.0 } else { 1.0 });
            }
            _ => {}
        }
    }
}

/// Rows in clusters of about twenty that resemble each other.
fn clustered(random: &mut Xoshiro256PlusPlus, rows: usize, numbers: usize) -> Vec<Vec<f64>> {
    let clusters = (rows / 20).max(2);
    let of: Vec<usize> = (0..rows)
        .map(|_| random.random_range(0..clusters))
        .collect();
    let column = |_| {
        let centers: Vec<f64> = (0..clusters).map(|_| normal(random)).collect();
        of.iter()
            .map(|cluster| (centers[*cluster] + 0.2 * normal(random)) / 1.04_f64.sqrt())
            .collect()
    };
    (0..numbers).map(column).collect()
}

fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    StandardNormal.sample(random)
}

fn multinomial(random: &mut Xoshiro256PlusPlus, mut rows: u64, shares: &[f64]) -> Vec<u64> {
    let mut rest: f64 = shares.iter().sum();
    let draw = |share: &f64| {
        let p = if rest > 0.0 {
            (share / rest).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let count = Binomial::new(rows, p).unwrap().sample(random);
        rows -= count;
        rest -= share;
        count
    };
    shares.iter().map(draw).collect()
}
