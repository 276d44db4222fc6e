//! The domain classifier's weights: see [`super::domain_classifier`] for what they are.

use nalgebra::{DMatrix, DVector};

use super::matrix::Matrix;

/// Variances of the mixture beside 0, in squared standard errors.
const VARIANCES: [f64; 8] = [0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// Steps of the mixture's fit from even shares ...
const STEPS: usize = 20;

/// ... and from those of the training before, which had most of the rows already.
const FURTHER_STEPS: usize = 4;

/// Sums of terms and of their squares.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    rows: f64,
    linear: DVector<f64>,
    linear_squares: DVector<f64>,
    products: Matrix,
    product_squares: Matrix,
}

/// Weights of the terms: numbers first paired, then unpaired; products symmetric.
pub(super) struct Weights {
    pub(super) linear: DVector<f64>,
    pub(super) products: Matrix,
}

impl Sums {
    /// The sum of `(a b)^2` over rows is that of `a^2 b^2`: both are products of matrices.
    pub(super) fn of(paired: &Matrix, unpaired: &Matrix) -> Self {
        let square = |matrix: &Matrix| matrix.map(|cell| cell * cell);
        let (squares, others) = (square(paired), square(unpaired));
        let sums = |first: &Matrix, second: &Matrix| {
            let (first, second) = (first.column_sum(), second.column_sum());
            let sums = first.iter().chain(&second).copied();
            DVector::from_iterator(first.len() + second.len(), sums)
        };
        Self {
            rows: paired.ncols() as f64,
            linear: sums(paired, unpaired),
            linear_squares: sums(&squares, &others),
            products: paired * paired.transpose(),
            product_squares: &squares * squares.transpose(),
        }
    }

    /// Adds other rows of the same side.
    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.linear += &other.linear;
        self.linear_squares += &other.linear_squares;
        self.products += &other.products;
        self.product_squares += &other.product_squares;
    }

    fn linear(&self, i: usize) -> Moments {
        Moments {
            rows: self.rows,
            sum: self.linear[i],
            squares: self.linear_squares[i],
        }
    }

    fn product(&self, at: (usize, usize)) -> Moments {
        Moments {
            rows: self.rows,
            sum: self.products[at],
            squares: self.product_squares[at],
        }
    }

    /// Means of the numbers.
    pub(super) fn linear_means(&self) -> DVector<f64> {
        &self.linear / self.rows
    }

    /// Means of the products.
    pub(super) fn product_means(&self) -> Matrix {
        &self.products / self.rows
    }
}

/// Sums of one term over one side.
struct Moments {
    rows: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn against(&self, other: Self) -> Term {
        let within = |side: &Self| side.squares - side.sum * side.sum / side.rows;
        let freedom = self.rows + other.rows - 2.0;
        let deviation = ((within(self) + within(&other)).max(0.0) / freedom).sqrt();
        // A term that is constant on both sides tells them apart for certain, or not at all.
        let size = (self.squares / self.rows + other.squares / other.rows).sqrt();
        Term {
            change: other.sum / other.rows - self.sum / self.rows,
            deviation: deviation.max(1e-3 * size),
        }
    }
}

/// A term's difference between the sides' means, and its deviation within them.
struct Term {
    change: f64,
    deviation: f64,
}

impl Term {
    fn per_deviation(&self, value: f64) -> f64 {
        if self.deviation > 0.0 {
            value / self.deviation
        } else {
            0.0
        }
    }
}

impl Weights {
    /// Weights that tell `right` from `left`; `shares` are those of a training with fewer rows, and then
    /// those of this one.
    pub(super) fn train(left: &Sums, right: &Sums, shares: &mut Option<Mixture>) -> Self {
        let linear: Vec<Term> = (0..left.linear.len())
            .map(|i| left.linear(i).against(right.linear(i)))
            .collect();
        let size = left.products.nrows();
        let pairs: Vec<(usize, usize)> = (0..size)
            .flat_map(|i| (0..=i).map(move |j| (i, j)))
            .collect();
        let products: Vec<Term> = pairs
            .iter()
            .map(|at| left.product(*at).against(right.product(*at)))
            .collect();
        let error = (1.0 / left.rows + 1.0 / right.rows).sqrt();
        let t: Vec<f64> = linear
            .iter()
            .chain(&products)
            .map(|term| term.per_deviation(term.change) / error)
            .collect();
        let shrunk = shrink(&t, shares);
        let mut weights = shrunk
            .iter()
            .zip(linear.iter().chain(&products))
            .map(|(theta, term)| term.per_deviation(*theta));
        let linear = DVector::from_iterator(linear.len(), weights.by_ref().take(linear.len()));
        let mut products = DMatrix::zeros(size, size);
        for (weight, (i, j)) in weights.zip(pairs) {
            let half = if i == j { weight } else { 0.5 * weight };
            products[(i, j)] = half;
            products[(j, i)] = half;
        }
        Self { linear, products }
    }

    /// Scores of encoded rows.
    pub(super) fn score(&self, paired: &Matrix, unpaired: &Matrix) -> Vec<f64> {
        let n = paired.nrows();
        let first = self.linear.rows(0, n);
        let rest = self.linear.rows(n, self.linear.len() - n);
        let half = &self.products * paired;
        let rows = paired.column_iter().zip(half.column_iter());
        rows.zip(unpaired.column_iter())
            .map(|((row, half), others)| row.dot(&half) + row.dot(&first) + others.dot(&rest))
            .collect()
    }
}

/// Posterior means of the true differences given all of `t`.
fn shrink(t: &[f64], before: &mut Option<Mixture>) -> Vec<f64> {
    let logs = variances().map(f64::ln_1p);
    let likelihoods: Vec<Mixture> = t.iter().map(|t| likelihoods(*t, &logs)).collect();
    // A term that never varies says nothing about the mixture.
    let varies = |t: f64| t.abs() > 0.0;
    let used: Vec<&Mixture> = t
        .iter()
        .zip(&likelihoods)
        .filter_map(|(t, likelihood)| varies(*t).then_some(likelihood))
        .collect();
    let (mut shares, steps) = match *before {
        Some(shares) => (shares, FURTHER_STEPS),
        None => ([1.0 / PARTS as f64; PARTS], STEPS),
    };
    for _ in 0..steps {
        let mut sums = [0.0; PARTS];
        sums[0] = 1.0; // in doubt nothing has changed
        for likelihood in &used {
            let posterior = posterior(&shares, likelihood);
            for (sum, posterior) in sums.iter_mut().zip(posterior) {
                *sum += posterior;
            }
        }
        shares = sums.map(|sum| sum / (used.len() as f64 + 1.0));
    }
    *before = Some(shares);
    let keep = variances().map(|variance| variance / (1.0 + variance));
    t.iter()
        .zip(&likelihoods)
        .map(|(t, likelihood)| {
            let posterior = posterior(&shares, likelihood);
            let kept = posterior.iter().zip(keep).map(|(share, keep)| share * keep);
            t * kept.sum::<f64>()
        })
        .collect()
}

/// The parts of the mixture: no difference, and one for each variance.
const PARTS: usize = VARIANCES.len() + 1;

/// A number for each part.
pub(super) type Mixture = [f64; PARTS];

fn variances() -> Mixture {
    let mut all = [0.0; PARTS];
    all[1..].copy_from_slice(&VARIANCES);
    all
}

/// The densities of t, each divided by the largest of them; `logs` are those of one more than the variances.
fn likelihoods(t: f64, logs: &Mixture) -> Mixture {
    let mut densities = variances().map(|variance| t * t / (1.0 + variance));
    for (density, log) in densities.iter_mut().zip(logs) {
        *density = -0.5 * (*density + log);
    }
    let most = densities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    densities.map(|log| (log - most).exp())
}

fn posterior(shares: &Mixture, likelihood: &Mixture) -> Mixture {
    let mut joint = *shares;
    for (joint, likelihood) in joint.iter_mut().zip(likelihood) {
        *joint *= likelihood;
    }
    let total: f64 = joint.iter().sum();
    let each = 1.0 / total.max(f64::MIN_POSITIVE);
    joint.map(|joint| joint * each)
}
