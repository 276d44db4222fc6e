//! How unlikely every stretch of windows that ends at a window is under what was learned.

use super::fit::{Fit, Learned, TAILS, anscombe, chance};
use super::law::f_tail;
use super::persistence::{PerShape, Stretch};
use super::series::Series;

/// A stretch has less weight than this only without rows.
const NOTHING: f64 = 1e-200;

/// The lengths of stretches, with what persistence does to their means: 2^k and 3 x 2^k windows, no
/// longer than a third of the training data.
#[derive(Debug, Clone)]
pub(super) struct Lengths(Vec<(usize, Stretch)>);

impl Lengths {
    pub(super) fn up_to(training: usize) -> Self {
        let most = (training / 3).clamp(1, 4096);
        let doubled = (0..13).flat_map(|k| [1usize << k, 3 << k]);
        let mut lengths: Vec<usize> = doubled.filter(|length| *length <= most).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Self(
            lengths
                .into_iter()
                .map(|length| (length, Stretch::new(length)))
                .collect(),
        )
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, k: usize) -> usize {
        self.0[k].0
    }

    pub(super) fn longest(&self) -> usize {
        self.0.last().map_or(1, |last| last.0)
    }
}

/// The answers of consecutive windows to one question, ready for stretches.
pub(super) struct Trail<'a> {
    learned: &'a Learned,
    /// Answers as they are.
    x: Vec<f64>,
    /// Weight of each window; 0 without rows.
    pub(super) w: Vec<f64>,
    /// Deviation of each window from what is expected of it.
    pub(super) e: Vec<f64>,
    /// Standardised, wild windows pulled in.
    y: Vec<f64>,
    weights: Sums,
    deviations: Sums,
    /// Of rates: counts, rows and what seasons add.
    counts: Option<[Sums; 3]>,
}

/// Sums from the start, so that the sum of a stretch is one difference.
pub(super) struct Sums(Vec<f64>, usize);

impl Sums {
    pub(super) fn new(values: impl Iterator<Item = f64>, columns: usize) -> Self {
        let mut sums = vec![0.0; columns];
        for value in values {
            sums.push(value + sums[sums.len() - columns]);
        }
        Self(sums, columns)
    }

    pub(super) fn between(&self, from: usize, to: usize) -> impl Iterator<Item = f64> + '_ {
        let (a, b) = (
            &self.0[from * self.1..],
            &self.0[to * self.1..(to + 1) * self.1],
        );
        b.iter().zip(a).map(|(b, a)| b - a)
    }

    pub(super) fn one(&self, from: usize, to: usize) -> f64 {
        self.0[to] - self.0[from]
    }
}

impl<'a> Trail<'a> {
    pub(super) fn new(learned: &'a Learned, series: &Series, seasons: &[Vec<usize>]) -> Self {
        let (columns, question) = (series.columns, learned.asked.question);
        let rate = question.is_rate();
        let weight = |n: &f64| {
            if *n > 0.0 {
                1.0 / (learned.tau2 + chance(question, *n))
            } else {
                0.0
            }
        };
        let w: Vec<f64> = series.n.iter().map(weight).collect();
        let offsets: Vec<f64> = seasons
            .iter()
            .flat_map(|v| learned.season_offset(v))
            .collect();
        let e = deviations(learned, series, &offsets);
        let mut pulled = e.clone();
        let some: Vec<f64> = w.iter().map(|w| w.max(1e-300)).collect();
        learned.pull(&mut pulled, &some);
        let by_weight = |values: &[f64], root: bool| -> Vec<f64> {
            let at = |i: usize| {
                if root {
                    w[i / columns].sqrt()
                } else {
                    w[i / columns]
                }
            };
            values
                .iter()
                .enumerate()
                .map(|(i, value)| value * at(i))
                .collect()
        };
        let counts = rate.then(|| {
            let count = |t: usize| {
                let n = series.n[t].max(1.0);
                let root = (pulled[t] + offsets[t]) / 2.0 + (learned.p + 0.375 / n).sqrt();
                n * root.max(0.0).powi(2) - 0.375
            };
            let some = |t: usize| if series.n[t] > 0.0 { count(t) } else { 0.0 };
            [
                Sums::new((0..w.len()).map(some), 1),
                Sums::new(series.n.iter().copied(), 1),
                Sums::new((0..w.len()).map(|t| w[t] * offsets[t]), 1),
            ]
        });
        Self {
            weights: Sums::new(w.iter().copied(), 1),
            deviations: Sums::new(by_weight(&pulled, false).into_iter(), columns),
            y: by_weight(&pulled, true),
            counts,
            x: series.x.clone(),
            learned,
            w,
            e,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.w.len()
    }

    fn columns(&self) -> usize {
        self.learned.mean.len()
    }

    /// The answer of a window.
    pub(super) fn raw(&self, t: usize) -> &[f64] {
        &self.x[t * self.columns()..(t + 1) * self.columns()]
    }

    /// The deviation of a window from what is expected of it.
    pub(super) fn deviation(&self, t: usize) -> &[f64] {
        &self.e[t * self.columns()..(t + 1) * self.columns()]
    }

    /// The mean deviation of a stretch; of one window alone without pulling it in.
    pub(super) fn mean_deviation(&self, from: usize, to: usize) -> Vec<f64> {
        let weight = self.weights.one(from, to).max(1e-300);
        match &self.counts {
            _ if to - from == 1 => self.deviation(from).to_vec(),
            Some([counts, rows, offsets]) => {
                let count = counts.one(from, to).max(0.0);
                let rate = anscombe(count, rows.one(from, to), self.learned.p);
                vec![rate - offsets.one(from, to) / weight]
            }
            None => self
                .deviations
                .between(from, to)
                .map(|sum| sum / weight)
                .collect(),
        }
    }

    /// `-ln p` of the stretch of a length that ends with window `t`; -1 without rows.
    pub(super) fn evidence(&self, fit: &Fit, lengths: &Lengths, k: usize, t: usize) -> f64 {
        let (length, stretch) = &lengths.0[k];
        let (length, l) = (*length, self.learned);
        let (from, to) = (t + 1 - length, t + 1);
        let weight = self.weights.one(from, to).max(1e-300);
        if weight <= NOTHING {
            return -1.0;
        }
        let mut deviation = self.mean_deviation(from, to);
        let one = length as f64 / weight;
        // What the window before foretells.
        let before = from.checked_sub(1).filter(|before| self.w[*before] > 0.0);
        let foretold = before.map_or(0.0, |_| dot(&l.post, &stretch.before));
        if let Some(before) = before {
            let y = &self.y[before * self.columns()..];
            for (d, y) in deviation.iter_mut().zip(y) {
                *d -= foretold * one.sqrt() * y;
            }
        }
        let square = deviation.iter().map(|d| d * d).sum();
        minus_ln_p(l, fit, &lengths.0[k], weight, foretold, square)
    }

    /// The variance of a mean of each length, in that of one window.
    pub(super) fn level(&self, fit: &Fit, lengths: &Lengths, k: usize) -> f64 {
        let l = self.learned;
        let stretch = &lengths.0[k].1;
        let logs =
            l.over_shapes(|i| (l.scale[i] * (stretch.variance[i] + fit.whole.variance[i])).ln());
        dot(&l.post, &logs).exp()
    }

    pub(super) fn learned(&self) -> &Learned {
        self.learned
    }
}

/// What every answer deviates from the mean and the season.
fn deviations(learned: &Learned, series: &Series, offsets: &[f64]) -> Vec<f64> {
    let mut e = match learned.asked.question.is_rate() {
        true => (series.x.iter().zip(&series.n))
            .map(|(c, n)| anscombe(*c, *n, learned.p))
            .collect(),
        false => series.x.clone(),
    };
    for (t, row) in e.chunks_exact_mut(series.columns).enumerate() {
        for (c, value) in row.iter_mut().enumerate() {
            *value -= learned.mean[c] + offsets[t * series.columns + c];
        }
    }
    e
}

/// `-ln p` of a stretch with this weight and squared deviation, of which the window before foretold a part.
fn minus_ln_p(
    l: &Learned,
    fit: &Fit,
    (length, stretch): &(usize, Stretch),
    weight: f64,
    foretold: f64,
    square: f64,
) -> f64 {
    let one = *length as f64 / weight;
    let log_variances = l.over_shapes(|i| {
        let own = stretch.variance[i] + foretold * foretold - 2.0 * foretold * stretch.before[i];
        let noise = l.windows * fit.whole.variance[i] + l.season_noise(*length as f64);
        let of_mean = (1.0 - foretold).powi(2) * noise / l.weight;
        (l.scale[i] * (one * own.max(1e-3) + of_mean)).ln()
    });
    let middle = dot(&l.post, &log_variances);
    let spread: f64 = l
        .post
        .iter()
        .zip(&log_variances)
        .map(|(p, v)| p * (v - middle).powi(2))
        .sum();
    // What is not known about persistence is degrees of freedom.
    let df = 1.0 / (1.0 / l.df + spread / 2.0);
    let ratio = square / l.asked.dims as f64 / middle.exp();
    let p = match length {
        1 => (0..TAILS.len())
            .map(|i| {
                let df = 1.0 / (1.0 / TAILS[i] + 1.0 / df);
                l.tails[i] * f_tail(l.deff, df, ratio / l.tail_scale[i])
            })
            .sum(),
        _ => f_tail(l.deff, df, ratio),
    };
    -p.max(1e-300).ln()
}

/// The least lasting deviation that a stretch of this length finds at this limit, with windows like those
/// of the training data: by bisection.
pub(super) fn least_deviation(
    l: &Learned,
    fit: &Fit,
    lengths: &Lengths,
    k: usize,
    limit: f64,
) -> f64 {
    let stretch = &lengths.0[k];
    let weight = l.weight / l.windows * stretch.0 as f64;
    let foretold = dot(&l.post, &stretch.1.before);
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        match minus_ln_p(l, fit, stretch, weight, foretold, middle * middle) > limit {
            true => high = middle,
            false => low = middle,
        }
    }
    high
}

fn dot(a: &PerShape, b: &PerShape) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
