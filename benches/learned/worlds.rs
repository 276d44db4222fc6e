//! Worlds in which nothing drifts but what the bench shifts, and windows differ as days do.

use driftd::compare::law::chi2;
use driftd::decide::learned::FeatureWindows;

use crate::random::Random;

/// Features of every world.
pub(crate) const FEATURES: usize = 20;
/// Bins of a numeric feature.
const BINS: usize = 10;
/// Standard deviation of the natural wobble of a mean, in those of the feature.
const WOBBLE: f64 = 0.15;
const HOUR_MS: i64 = 3_600_000;
/// A Monday.
const BEGIN_MS: i64 = 1_735_516_800_000;

/// How the means of the features move from window to window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wobble {
    None,
    Normal,
    HeavyTails,
    /// First-order autoregressive with this coefficient.
    Persistent(f64),
}

/// What the mean follows besides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Season {
    None,
    /// A sine of 0.5 over the day, of another phase in each feature.
    HourOfDay,
    /// Half a standard deviation lower on Saturdays and Sundays.
    DayOfWeek,
}

/// Rows of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sizes {
    /// Lognormal, median 1,000, sd of the logarithm 0.3, at least 200.
    Alike,
    /// Lognormal, median 1,000, sd of the logarithm 1.2, from 100 to 10,000.
    Unequal,
}

/// What the features are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kinds {
    Numeric,
    /// 12 numeric, 4 constant, 4 of which one row in 2,000 differs.
    NearlyConstant,
    /// 10 numeric, 10 with 2 to 200 levels.
    Mixed,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) wobble: Wobble,
    pub(crate) season: Season,
    pub(crate) sizes: Sizes,
    pub(crate) kinds: Kinds,
    pub(crate) window_hours: i64,
}

const PLAIN: World = World {
    name: "rows independent",
    wobble: Wobble::None,
    season: Season::None,
    sizes: Sizes::Alike,
    kinds: Kinds::Numeric,
    window_hours: 24,
};
const WOBBLING: World = World {
    name: "wobble",
    wobble: Wobble::Normal,
    ..PLAIN
};

pub(crate) const WORLDS: [World; 10] = [
    PLAIN,
    WOBBLING,
    World {
        name: "wobble with t3 tails",
        wobble: Wobble::HeavyTails,
        ..PLAIN
    },
    World {
        name: "wobble AR(1) 0.8",
        wobble: Wobble::Persistent(0.8),
        ..PLAIN
    },
    World {
        name: "wobble, hour of day, 6 h windows",
        season: Season::HourOfDay,
        window_hours: 6,
        ..WOBBLING
    },
    World {
        name: "wobble, hour of day, hourly windows",
        season: Season::HourOfDay,
        window_hours: 1,
        ..WOBBLING
    },
    World {
        name: "wobble, weekends",
        season: Season::DayOfWeek,
        ..WOBBLING
    },
    World {
        name: "wobble, 100 to 10,000 rows",
        sizes: Sizes::Unequal,
        ..WOBBLING
    },
    World {
        name: "wobble, constant features",
        kinds: Kinds::NearlyConstant,
        ..WOBBLING
    },
    World {
        name: "wobble, half with levels",
        kinds: Kinds::Mixed,
        ..WOBBLING
    },
];

#[derive(Debug, Clone, PartialEq)]
enum Feature {
    Numeric,
    Constant,
    Rare,
    Levels(Vec<f64>),
}

/// One window: when it starts and the counts of each feature.
pub(crate) struct Window {
    pub(crate) start_ms: i64,
    pub(crate) counts: Vec<Vec<u64>>,
}

/// Windows of a world, one after the other.
pub(crate) struct Stream {
    world: World,
    features: Vec<Feature>,
    edges: Vec<f64>,
    phases: Vec<f64>,
    at: i64,
    drift: Vec<f64>,
    /// Added to the mean of the first feature.
    pub(crate) shift: f64,
    /// Times the spread of the first feature.
    pub(crate) stretch: f64,
    random: Random,
}

impl Stream {
    pub(crate) fn new(world: World, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let phases = (0..FEATURES).map(|_| random.uniform()).collect();
        let mut stream = Self {
            world,
            features: (0..FEATURES).map(|i| feature(world.kinds, i)).collect(),
            edges: (1..BINS)
                .map(|i| quantile(i as f64 / BINS as f64))
                .collect(),
            phases,
            at: 0,
            drift: vec![0.0; FEATURES],
            shift: 0.0,
            stretch: 1.0,
            random,
        };
        stream.begin(0, seed);
        stream
    }

    /// Goes on at this window with other chance, and with a wobble that knows nothing of before.
    pub(crate) fn begin(&mut self, at: usize, seed: u64) {
        self.at = at as i64;
        self.random = Random::new(seed);
        for drift in &mut self.drift {
            *drift = WOBBLE * self.random.normal();
        }
    }

    pub(crate) fn next(&mut self) -> Window {
        let start_ms = BEGIN_MS + self.at * self.world.window_hours * HOUR_MS;
        self.at += 1;
        let rows = self.rows();
        let counts = (0..FEATURES)
            .map(|i| self.counts(i, rows, start_ms))
            .collect();
        Window { start_ms, counts }
    }

    fn rows(&mut self) -> u64 {
        let normal = self.random.normal();
        let rows = match self.world.sizes {
            Sizes::Alike => (1000.0 * (0.3 * normal).exp()).max(200.0),
            Sizes::Unequal => (1000.0 * (1.2 * normal).exp()).clamp(100.0, 10_000.0),
        };
        rows.min(10_000.0) as u64
    }

    fn counts(&mut self, i: usize, rows: u64, start_ms: i64) -> Vec<u64> {
        let mean =
            self.wobble(i) + self.season(i, start_ms) + if i == 0 { self.shift } else { 0.0 };
        let weights = match &self.features[i] {
            Feature::Numeric => {
                let stretch = if i == 0 { self.stretch } else { 1.0 };
                let below = self.edges.iter().map(|edge| cdf((edge - mean) / stretch));
                let below: Vec<f64> = below.collect();
                let mut last = 0.0;
                let mut shares: Vec<f64> = below
                    .iter()
                    .map(|b| b - std::mem::replace(&mut last, *b))
                    .collect();
                shares.push(1.0 - last);
                shares.push(0.0); // absent
                shares
            }
            Feature::Constant => vec![1.0, 0.0],
            Feature::Rare => vec![0.9995, 0.0005, 0.0],
            Feature::Levels(shares) => {
                let wobbling = self.world.wobble != Wobble::None;
                let mut shares: Vec<f64> = shares.clone();
                for share in &mut shares {
                    *share *= if wobbling {
                        (WOBBLE * self.random.normal()).exp()
                    } else {
                        1.0
                    };
                }
                shares.extend([0.0, 0.0]); // unseen, absent
                shares
            }
        };
        self.random.multinomial(rows, &weights)
    }

    fn wobble(&mut self, i: usize) -> f64 {
        match self.world.wobble {
            Wobble::None => 0.0,
            Wobble::Normal => WOBBLE * self.random.normal(),
            Wobble::HeavyTails => 0.6 * WOBBLE * self.random.t3(),
            Wobble::Persistent(coefficient) => {
                let fresh =
                    WOBBLE * (1.0 - coefficient * coefficient).sqrt() * self.random.normal();
                self.drift[i] = coefficient * self.drift[i] + fresh;
                self.drift[i]
            }
        }
    }

    fn season(&self, i: usize, start_ms: i64) -> f64 {
        let hours = start_ms / HOUR_MS;
        match self.world.season {
            Season::None => 0.0,
            Season::HourOfDay => {
                let day = (hours % 24) as f64 / 24.0 + self.phases[i];
                0.5 * (2.0 * std::f64::consts::PI * day).sin()
            }
            // 1970-01-01 was a Thursday.
            Season::DayOfWeek => {
                if (hours / 24 + 3) % 7 >= 5 {
                    -0.5
                } else {
                    0.0
                }
            }
        }
    }

    /// The bins of a feature that never share one with others, and how many of them are in order.
    pub(crate) fn describe(&self, i: usize) -> FeatureWindows {
        let (own, ordered) = match &self.features[i] {
            Feature::Numeric => (vec![true; BINS + 1], BINS),
            Feature::Constant => (vec![true; 2], 1),
            Feature::Rare => (vec![true; 3], 2),
            Feature::Levels(shares) => {
                let mut own = vec![false; shares.len()];
                own.extend([true, true]);
                (own, 0)
            }
        };
        FeatureWindows {
            name: format!("f{i}"),
            counts: Vec::new(),
            own,
            ordered,
        }
    }
}

fn feature(kinds: Kinds, i: usize) -> Feature {
    const LEVELS: [usize; 10] = [2, 3, 4, 6, 10, 16, 30, 60, 100, 200];
    match (kinds, i) {
        (Kinds::NearlyConstant, 12..16) => Feature::Constant,
        (Kinds::NearlyConstant, 16..) => Feature::Rare,
        (Kinds::Mixed, 10..) => {
            Feature::Levels((1..=LEVELS[i - 10]).map(|rank| 1.0 / rank as f64).collect())
        }
        _ => Feature::Numeric,
    }
}

/// The normal distribution function.
fn cdf(x: f64) -> f64 {
    let tail = chi2::sf(x * x, 1.0) / 2.0;
    if x > 0.0 { 1.0 - tail } else { tail }
}

fn quantile(p: f64) -> f64 {
    driftd::compare::law::normal::upper_quantile((1.0 - p).ln())
}
