//! The domain classifier's weights: see [`super::domain_classifier`] for what they are.

use nalgebra::{DMatrix, DVector};

use super::matrix::Matrix;

/// Variances of the mixture beside 0, in squared standard errors.
const VARIANCES: [f64; 8] = [0.25, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// Steps of the mixture's fit.
const STEPS: usize = 20;

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
    /// Weights that tell `right` from `left`.
    pub(super) fn train(left: &Sums, right: &Sums) -> Self {
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
        let shrunk = shrink(&t);
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
fn shrink(t: &[f64]) -> Vec<f64> {
    let variances: Vec<f64> = std::iter::once(0.0).chain(VARIANCES).collect();
    // A term that never varies says nothing about the mixture.
    let likelihoods: Vec<Vec<f64>> = t.iter().map(|t| likelihoods(*t, &variances)).collect();
    let mut shares = vec![1.0 / variances.len() as f64; variances.len()];
    let used = t.iter().filter(|t| t.abs() > 0.0).count() as f64;
    for _ in 0..STEPS {
        let mut sums = vec![0.0; shares.len()];
        sums[0] = 1.0; // in doubt nothing has changed
        for (_, likelihood) in t.iter().zip(&likelihoods).filter(|(t, _)| t.abs() > 0.0) {
            add_posterior(&mut sums, &shares, likelihood);
        }
        shares = sums.iter().map(|sum| sum / (used + 1.0)).collect();
    }
    let keep: Vec<f64> = variances
        .iter()
        .map(|variance| variance / (1.0 + variance))
        .collect();
    t.iter()
        .zip(&likelihoods)
        .map(|(t, likelihood)| {
            let mut posterior = vec![0.0; shares.len()];
            add_posterior(&mut posterior, &shares, likelihood);
            t * posterior
                .iter()
                .zip(&keep)
                .map(|(share, keep)| share * keep)
                .sum::<f64>()
        })
        .collect()
}

/// The densities of t, each divided by the largest of them.
fn likelihoods(t: f64, variances: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = variances
        .iter()
        .map(|variance| -0.5 * (t * t / (1.0 + variance) + variance.ln_1p()))
        .collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter().map(|log| (log - most).exp()).collect()
}

fn add_posterior(sums: &mut [f64], shares: &[f64], likelihood: &[f64]) {
    let total: f64 = shares
        .iter()
        .zip(likelihood)
        .map(|(share, l)| share * l)
        .sum();
    for ((sum, share), l) in sums.iter_mut().zip(shares).zip(likelihood) {
        *sum += share * l / total.max(f64::MIN_POSITIVE);
    }
}
