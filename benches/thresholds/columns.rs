//! The columns that windows are drawn from: 24 numeric ones of many shapes and 6 categorical ones of
//! 2 to 1,000 levels, and what can happen to them.
//!
//! The design is that of a comparison of public drift tools made before driftd was written (see
//! `docs/statistics.md`): each column is a table of 2^20 draws, rows pick from it, so that every
//! reference and every window have exactly the same law.

use rand::Rng;
use rand_distr::{
    Distribution, Gamma, LogNormal, Normal, Pareto, Poisson, StandardNormal, StudentT, Zipf,
};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Draws per table.
const TABLE: usize = 1 << 20;
/// Numeric columns come first.
pub(crate) const NUMERIC: usize = 24;
/// All columns.
pub(crate) const COLUMNS: usize = 30;

/// The column that a planted drift of a number is in: a normal one with mean 10 and deviation 2.
pub(crate) const SHIFTED: usize = 1;
/// The column that a planted drift of labels is in: ten levels.
pub(crate) const SWAPPED: usize = 26;

/// What happens to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Nothing.
    NoDrift,
    /// The mean moves by a tenth of the deviation.
    MeanTenth,
    /// The mean moves by three tenths of the deviation.
    MeanThreeTenths,
    /// The variance grows by a fifth.
    Variance,
    /// The two most frequent of ten labels change places.
    SwapTop,
    /// The third and the fourth of ten labels change places.
    SwapMiddle,
    /// Two rows in a hundred lose their value.
    Nulls,
    /// Two columns become correlated by 0.8; each alone stays as it was.
    Correlation,
}

impl Scenario {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::NoDrift,
        Self::MeanTenth,
        Self::MeanThreeTenths,
        Self::Variance,
        Self::SwapTop,
        Self::SwapMiddle,
        Self::Nulls,
        Self::Correlation,
    ];

    /// As it stands in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoDrift => "no drift",
            Self::MeanTenth => "mean +0.1 sd",
            Self::MeanThreeTenths => "mean +0.3 sd",
            Self::Variance => "variance x 1.2",
            Self::SwapTop => "labels 1 and 2 swapped",
            Self::SwapMiddle => "labels 3 and 4 swapped",
            Self::Nulls => "nulls 0 to 2 %",
            Self::Correlation => "correlation 0 to 0.8 only",
        }
    }

    /// The column that drifts, if one does alone.
    pub(crate) fn column(self) -> Option<usize> {
        match self {
            Self::NoDrift | Self::Correlation => None,
            Self::SwapTop | Self::SwapMiddle => Some(SWAPPED),
            _ => Some(SHIFTED),
        }
    }
}

/// The tables.
pub(crate) struct World {
    tables: Vec<Vec<f64>>,
    deviation: f64,
}

impl World {
    /// Draws all tables.
    pub(crate) fn new(random: &mut Xoshiro256PlusPlus) -> Self {
        let mut tables = Vec::new();
        let mut add = |draw: &mut dyn FnMut(&mut Xoshiro256PlusPlus) -> f64| {
            let mut table: Vec<f64> = (0..TABLE).map(|_| draw(random)).collect();
            table.sort_by(f64::total_cmp); // so that ranks are places
            tables.push(table);
        };
        for i in 0..8 {
            let law = Normal::new(10.0 * f64::from(i), 1.0 + f64::from(i)).unwrap();
            add(&mut |r| law.sample(r));
        }
        for spread in [0.5, 0.75, 1.0, 1.25, 1.5] {
            let law = LogNormal::new(0.0, spread).unwrap();
            add(&mut |r| law.sample(r));
        }
        for freedom in [3.0, 2.0] {
            let law = StudentT::new(freedom).unwrap();
            add(&mut |r| law.sample(r));
        }
        for shape in [2.5, 1.5] {
            let law = Pareto::new(1.0, shape).unwrap();
            add(&mut |r| law.sample(r) - 1.0);
        }
        add(&mut |r| r.random());
        add(&mut |r| r.random::<f64>() * 100.0);
        for mean in [1.0, 5.0, 20.0] {
            let law = Poisson::new(mean).unwrap();
            add(&mut |r| law.sample(r));
        }
        // Negative binomial with one success at 0.05, as a mixture of Poissons.
        let rate = Gamma::new(1.0, 19.0).unwrap();
        add(&mut |r| poisson(rate.sample(r), r));
        add(&mut |r| {
            if r.random::<f64>() < 0.8 {
                0.0
            } else {
                poisson(4.0, r)
            }
        });
        for levels in [2.0, 5.0, 10.0, 50.0, 200.0, 1000.0] {
            let law = Zipf::new(levels, 1.1).unwrap();
            add(&mut |r| law.sample(r) - 1.0);
        }
        assert_eq!(tables.len(), COLUMNS);
        Self {
            tables,
            deviation: 2.0,
        }
    }

    /// Rows, column by column; what is absent is not a number.
    pub(crate) fn draw(
        &self,
        rows: usize,
        scenario: Scenario,
        random: &mut Xoshiro256PlusPlus,
    ) -> Vec<Vec<f64>> {
        let draw = |table: &Vec<f64>, random: &mut Xoshiro256PlusPlus| -> Vec<f64> {
            (0..rows)
                .map(|_| table[random.random_range(0..TABLE)])
                .collect()
        };
        let mut columns: Vec<Vec<f64>> = self
            .tables
            .iter()
            .map(|table| draw(table, random))
            .collect();
        let swap = |columns: &mut Vec<Vec<f64>>, a: f64, b: f64| {
            for label in &mut columns[SWAPPED] {
                *label = if *label == a {
                    b
                } else if *label == b {
                    a
                } else {
                    *label
                };
            }
        };
        match scenario {
            Scenario::NoDrift => {}
            Scenario::MeanTenth => self.shift(&mut columns, 0.1),
            Scenario::MeanThreeTenths => self.shift(&mut columns, 0.3),
            Scenario::Variance => {
                columns[SHIFTED]
                    .iter_mut()
                    .for_each(|x| *x = (*x - 10.0) * 1.2_f64.sqrt() + 10.0);
            }
            Scenario::SwapTop => swap(&mut columns, 0.0, 1.0),
            Scenario::SwapMiddle => swap(&mut columns, 2.0, 3.0),
            Scenario::Nulls => {
                for value in &mut columns[SHIFTED] {
                    if random.random::<f64>() < 0.02 {
                        *value = f64::NAN;
                    }
                }
            }
            Scenario::Correlation => self.correlate(&mut columns, random),
        }
        columns
    }

    fn shift(&self, columns: &mut [Vec<f64>], deviations: f64) {
        let by = deviations * self.deviation;
        columns[SHIFTED].iter_mut().for_each(|value| *value += by);
    }

    /// Two normal columns take their ranks from one pair of correlated normals.
    fn correlate(&self, columns: &mut [Vec<f64>], random: &mut Xoshiro256PlusPlus) {
        for row in 0..columns[0].len() {
            let (a, b): (f64, f64) = (StandardNormal.sample(random), StandardNormal.sample(random));
            columns[1][row] = self.tables[1][place(a)];
            columns[2][row] = self.tables[2][place(0.8 * a + 0.6 * b)];
        }
    }
}

/// Where a standard normal value stands in a sorted table.
fn place(z: f64) -> usize {
    let rank = 0.5 * statrs::function::erf::erfc(-z / std::f64::consts::SQRT_2);
    ((rank * TABLE as f64) as usize).min(TABLE - 1)
}

fn poisson(mean: f64, random: &mut Xoshiro256PlusPlus) -> f64 {
    // A mean of zero has no Poisson law of this crate.
    Poisson::new(mean.max(1e-9)).unwrap().sample(random)
}
