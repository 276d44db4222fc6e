//! What the training windows say of each question: how much windows vary, whether one resembles the
//! next, what weekday and hour do, and how heavy the tails of single windows are.

use super::law::{chi2_quantile, ln_f_density};
use super::persistence::{NEGLIGIBLE, PerShape, SHAPES, Spectrum, Stretch, is_too_long};
use super::question::Question;
use super::season::VALUES;
use super::series::{Asked, Series};

/// Between windows of a quiet model means differ by so many standard deviations ...
const PRIOR_SD: f64 = 0.1;
/// ... and the logarithms of rows by so much. This counts for ...
const PRIOR_SD_ROWS: f64 = 0.5;
/// ... so many windows ...
const PRIOR: f64 = 4.0;
/// ... where there are none, and for nothing with so many.
const KNOWN: f64 = 30.0;
/// Weight of one question that knows nothing, among those of one name: it keeps shapes and tails
/// possible that no question shows.
const OPEN: f64 = 0.2;
/// Degrees of freedom that single windows may have.
pub(super) const TAILS: [f64; 6] = [3.0, 4.0, 6.0, 10.0, 20.0, 1e6];
/// A window less likely than this (four standard deviations) is pulled in to it, but where it is
/// judged alone.
const PULL: f64 = 6.3e-5;
/// Windows that each value of a season needs.
const LEAST_OF_SEASON: usize = 3;
/// Rounds in which priors are learned over the questions of one name.
const ROUNDS: usize = 21;

/// A season that a question follows.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    /// Which, in the order of [`super::season::Calendar::values`].
    pub(super) which: usize,
    /// What each of its values adds, by value and column.
    offsets: Vec<f64>,
    /// What its own error adds to the variance of the mean, in windows.
    noise: f64,
    /// How many of its values the training data have.
    pub(super) values: f64,
}

/// What the training windows say of one question.
#[derive(Debug, Clone)]
pub(super) struct Learned {
    pub(super) asked: Asked,
    /// Windows.
    pub(super) windows: f64,
    /// Of a rate: its share over all windows.
    pub(super) p: f64,
    /// Variance between windows, beyond chance.
    pub(super) tau2: f64,
    pub(super) mean: Vec<f64>,
    pub(super) seasons: Vec<Taken>,
    /// Beyond this squared deviation a window is pulled in.
    pub(super) cap: f64,
    /// Independent numbers in an answer (Satterthwaite 1946).
    pub(super) deff: f64,
    /// Sum of the weights of the training windows.
    pub(super) weight: f64,
    /// Degrees of freedom of the variance.
    pub(super) df: f64,
    /// Per shape of persistence: what the variance is multiplied with.
    pub(super) scale: PerShape,
    /// Per shape: how likely it is.
    pub(super) post: PerShape,
    /// Per tail: the scale of an F distribution.
    pub(super) tail_scale: [f64; TAILS.len()],
    /// Per tail: how likely it is.
    pub(super) tails: [f64; TAILS.len()],
    shape_lik: PerShape,
    tail_lik: [f64; TAILS.len()],
}

pub(super) fn prior_weight(windows: usize) -> f64 {
    PRIOR * (1.0 - windows as f64 / KNOWN).max(0.0)
}

/// The variance that chance gives an answer of so many rows.
pub(super) fn chance(question: Question, n: f64) -> f64 {
    match question {
        Question::Rows => 1e-6,
        _ => 1.0 / n.max(1.0),
    }
}

/// A count on the scale on which its chance variance is 1 / n (Anscombe 1948), less what the share p
/// gives.
pub(super) fn anscombe(count: f64, n: f64, p: f64) -> f64 {
    let n = n.max(1.0);
    2.0 * ((count + 0.375) / n).sqrt() - 2.0 * (p + 0.375 / n).sqrt()
}

/// Rows of numbers, `columns` to a window.
fn rows_of(values: &[f64], columns: usize) -> impl Iterator<Item = &[f64]> {
    values.chunks_exact(columns)
}

fn square(row: &[f64]) -> f64 {
    row.iter().map(|value| value * value).sum()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Learned {
    /// `seasons` are the season values of each window.
    fn of(asked: Asked, series: &Series, seasons: &[Vec<usize>], spectrum: &mut Spectrum) -> Self {
        let windows = series.len();
        let rate = asked.question.is_rate();
        let p = match rate {
            true => series.x.iter().sum::<f64>() / series.n.iter().sum::<f64>().max(1.0),
            false => 0.0,
        };
        let e: Vec<f64> = match rate {
            true => series
                .x
                .iter()
                .zip(&series.n)
                .map(|(c, n)| anscombe(*c, *n, p))
                .collect(),
            false => series.x.clone(),
        };
        let mut learned = Self {
            asked,
            windows: windows as f64,
            p,
            tau2: 0.0,
            mean: vec![0.0; series.columns],
            seasons: Vec::new(),
            cap: f64::INFINITY,
            deff: asked.dims as f64,
            weight: 0.0,
            df: 0.0,
            scale: [1.0; SHAPES],
            post: [0.0; SHAPES],
            tail_scale: [1.0; TAILS.len()],
            tails: [0.0; TAILS.len()],
            shape_lik: [0.0; SHAPES],
            tail_lik: [0.0; TAILS.len()],
        };
        let (clean, distances) = learned.fit_variance(&e, &series.n, seasons);
        learned.fit_persistence(&clean, spectrum);
        learned.fit_tails(
            distances,
            square(&clean) / windows as f64 / asked.dims as f64,
        );
        learned
    }

    /// Mean, seasons and variance between windows. Answers the standardised deviations, wild windows
    /// pulled in, and the mean square of each window before that.
    fn fit_variance(
        &mut self,
        e: &[f64],
        n: &[f64],
        seasons: &[Vec<usize>],
    ) -> (Vec<f64>, Vec<f64>) {
        let columns = self.mean.len();
        let v0: Vec<f64> = n.iter().map(|n| chance(self.asked.question, *n)).collect();
        let medians: Vec<f64> = (0..columns)
            .map(|c| median(rows_of(e, columns).map(|row| row[c])))
            .collect();
        self.tau2 = self.wobble(&minus_each(e, &medians), &v0, 1.0);
        let mut w = self.weights(&v0);
        self.mean = mean(e, &w, columns);
        let mut fitted: Vec<f64> = self.mean.repeat(n.len());
        let (mut used, mut distances, mut clean) = (1.0, Vec::new(), Vec::new());
        for _ in 0..2 {
            // The second time with wild windows pulled in to what was fitted, season and all.
            let mut z = minus(e, &fitted);
            self.pull(&mut z, &w);
            z.iter_mut()
                .zip(&fitted)
                .for_each(|(z, fitted)| *z += fitted);
            if !self.asked.question.is_rate() {
                self.mean = mean(&z, &w, columns);
            }
            let mut rest = minus_each(&z, &self.mean);
            used = self.take_seasons(&mut rest, &w, seasons);
            fitted = minus(&z, &rest);
            let residuals = minus(e, &fitted);
            let mut pulled = residuals.clone();
            self.pull(&mut pulled, &w);
            self.tau2 = self.wobble(&pulled, &v0, used);
            w = self.weights(&v0);
            let standard = scaled(&residuals, &w, columns);
            distances = rows_of(&standard, columns)
                .map(|y| square(y) / self.asked.dims as f64)
                .collect();
            let middle = median(distances.iter().copied()) / chi2_quantile(0.5_f64.ln(), self.deff);
            // A count that chance gives is not wild where training windows have none.
            let least = match self.asked.question.is_rate() {
                true => median(v0.iter().zip(&w).map(|(v, w)| v * w)),
                false => 1e-12,
            };
            self.cap = middle.max(least) * chi2_quantile(PULL.ln(), self.deff);
            pulled = residuals;
            self.pull(&mut pulled, &w);
            clean = scaled(&pulled, &w, columns);
            if self.asked.dims > 1 {
                self.deff = independent(&clean, columns, self.asked.dims as f64);
            }
        }
        self.weight = w.iter().sum();
        self.df = (n.len() as f64 - used).max(0.0) + prior_weight(n.len());
        (clean, distances)
    }

    /// A number for each shape that is possible, 0 for the others.
    pub(super) fn over_shapes(&self, of: impl Fn(usize) -> f64) -> PerShape {
        std::array::from_fn(|i| {
            if self.post[i] < NEGLIGIBLE {
                0.0
            } else {
                of(i)
            }
        })
    }

    fn weights(&self, v0: &[f64]) -> Vec<f64> {
        v0.iter().map(|v| 1.0 / (self.tau2 + v)).collect()
    }

    /// Pulls wild windows in to the cap.
    pub(super) fn pull(&self, rows: &mut [f64], w: &[f64]) {
        let columns = self.mean.len();
        for (row, w) in rows.chunks_exact_mut(columns).zip(w) {
            let far = (w * square(row) / self.asked.dims as f64).max(1e-300);
            let factor = (self.cap / far).min(1.0).sqrt();
            if factor < 1.0 {
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
    }

    /// Mandel and Paule 1970: the variance at which squares of windows are what they should be, drawn
    /// to the prior.
    fn wobble(&self, e: &[f64], v0: &[f64], used: f64) -> f64 {
        let squares: Vec<f64> = rows_of(e, self.mean.len())
            .map(|row| square(row) / self.asked.dims as f64)
            .collect();
        let windows = v0.len();
        let free = (windows as f64 - used).max(0.0);
        let at = |t: f64| {
            squares
                .iter()
                .zip(v0)
                .map(|(s, v)| s / (t + v))
                .sum::<f64>()
        };
        let mut t = 0.0;
        if windows as f64 > used && at(0.0) > free {
            let (mut low, mut high) = (0.0, squares.iter().sum::<f64>() + 1e-9);
            for _ in 0..45 {
                t = f64::midpoint(low, high);
                if at(t) > free { low = t } else { high = t }
            }
        }
        let prior = match self.asked.question {
            Question::Rows => PRIOR_SD_ROWS,
            _ => PRIOR_SD,
        };
        let weight = prior_weight(windows);
        let all = weight + free;
        if all > 0.0 {
            (weight * prior * prior + free * t) / all
        } else {
            prior * prior
        }
    }

    /// Takes day of the week, hour of the day and hour of the week off the rest, each where it
    /// explains more than noise would, shrunk (James and Stein 1961). Answers the degrees of freedom used.
    fn take_seasons(&mut self, rest: &mut [f64], w: &[f64], seasons: &[Vec<usize>]) -> f64 {
        let (columns, dims) = (self.mean.len(), self.asked.dims as f64);
        self.seasons.clear();
        let mut used = 1.0;
        for which in 0..seasons.first().map_or(0, Vec::len) {
            let value = |t: usize| seasons[t][which];
            let mut count = vec![0usize; VALUES[which]];
            let mut weight = vec![0.0; VALUES[which]];
            let mut sums = vec![0.0; VALUES[which] * columns];
            for (t, row) in rows_of(rest, columns).enumerate() {
                count[value(t)] += 1;
                weight[value(t)] += w[t];
                for (sum, r) in sums[value(t) * columns..].iter_mut().zip(row) {
                    *sum += w[t] * r;
                }
            }
            count.retain(|count| *count > 0);
            let values = count.len() as f64;
            if count.len() < 2 || count.iter().any(|windows| *windows < LEAST_OF_SEASON) {
                continue;
            }
            for (sums, weight) in sums.chunks_exact_mut(columns).zip(&weight) {
                sums.iter_mut().for_each(|sum| *sum /= weight.max(1e-300));
            }
            let of = |t: usize| &sums[value(t) * columns..(value(t) + 1) * columns];
            let between: f64 = sums
                .chunks_exact(columns)
                .zip(&weight)
                .map(|(m, w)| w * square(m))
                .sum();
            let within: f64 = rows_of(rest, columns)
                .enumerate()
                .map(|(t, row)| w[t] * square(&minus(row, of(t))))
                .sum();
            let free = w.len() as f64 - values;
            let f = between / (values - 1.0) / (within / free).max(1e-9); // rounding is no season
            if f < 1.0 + 3.0 * (2.0 / (dims * (values - 1.0))).sqrt() {
                continue;
            }
            let shrunk = 1.0 - 1.0 / f;
            for (t, row) in rest.chunks_exact_mut(columns).enumerate() {
                row.iter_mut()
                    .zip(of(t))
                    .for_each(|(r, m)| *r -= shrunk * m);
            }
            used += shrunk * (2.0 - shrunk) * (values - 1.0);
            let offsets = sums.iter().map(|m| shrunk * m).collect();
            let noise = shrunk * shrunk * (values - 1.0);
            self.seasons.push(Taken {
                which,
                offsets,
                noise,
                values,
            });
        }
        used
    }

    /// What the seasons add to a window's answer.
    pub(super) fn season_offset(&self, values: &[usize]) -> Vec<f64> {
        let columns = self.mean.len();
        let mut offset = vec![0.0; columns];
        for taken in &self.seasons {
            let at = values[taken.which] * columns;
            for (sum, more) in offset.iter_mut().zip(&taken.offsets[at..at + columns]) {
                *sum += more;
            }
        }
        offset
    }

    /// What the error of the seasons adds to the variance of a stretch, in windows.
    pub(super) fn season_noise(&self, length: f64) -> f64 {
        self.seasons
            .iter()
            .map(|taken| taken.noise / length.min(taken.values))
            .sum()
    }

    /// Likelihood of each shape, from the periodogram of the standardised deviations.
    fn fit_persistence(&mut self, clean: &[f64], spectrum: &mut Spectrum) {
        let (columns, dims) = (self.mean.len(), self.asked.dims as f64);
        let windows = clean.len() / columns;
        let expected = spectrum.expected(windows);
        let mut power = vec![0.0; windows / 2];
        for c in 0..columns {
            let one = spectrum.power(rows_of(clean, columns).map(|row| row[c]));
            power
                .iter_mut()
                .zip(one)
                .for_each(|(sum, more)| *sum += more);
        }
        let frequencies = power.len() as f64;
        power
            .iter_mut()
            .for_each(|power| *power /= windows as f64 * dims);
        let mean = power.iter().sum::<f64>() / frequencies;
        let missing = (1.0 - mean).max(0.0); // never less than chance
        power.iter_mut().for_each(|power| *power += missing);
        for (i, expected) in expected.iter().enumerate() {
            let ratios = power.iter().zip(&expected.reciprocals);
            let level = ratios.map(|(i, f)| i * f).sum::<f64>() / frequencies;
            let too_long = if is_too_long(i, windows) { 1e3 } else { 0.0 };
            self.shape_lik[i] = -self.deff * (frequencies * level.ln() + expected.logs) - too_long;
            self.scale[i] = (PRIOR + 2.0 * frequencies * level) / (PRIOR + 2.0 * frequencies);
        }
    }

    /// Likelihood of each tail, and its scale.
    fn fit_tails(&mut self, mut distances: Vec<f64>, pulled_mean: f64) {
        let windows = distances.len() as f64;
        let missing = (1.0 - distances.iter().sum::<f64>() / windows).max(0.0) + 1e-9;
        distances.iter_mut().for_each(|q| *q += missing);
        for (i, nu) in TAILS.iter().enumerate() {
            let mut c = 1.0;
            for _ in 0..8 {
                let of = |q: &f64| (nu + self.deff) / (nu + self.deff * q / c) * q;
                c = (PRIOR + distances.iter().map(of).sum::<f64>()) / (PRIOR + windows);
            }
            let density = ln_f_density(self.deff, *nu);
            let logs = distances.iter().map(|q| density(q / c));
            self.tail_lik[i] = logs.sum::<f64>() - windows * c.ln();
            self.tail_scale[i] = c / pulled_mean.max(1.0);
        }
    }
}

/// Satterthwaite 1946: how many independent numbers vary as these do together.
fn independent(clean: &[f64], columns: usize, dims: f64) -> f64 {
    let windows = (clean.len() / columns) as f64;
    let mut moments = vec![0.0; columns * columns];
    for row in rows_of(clean, columns) {
        for (i, a) in row.iter().enumerate() {
            for (sum, b) in moments[i * columns..].iter_mut().zip(row) {
                *sum += a * b;
            }
        }
    }
    moments.iter_mut().for_each(|sum| *sum /= windows);
    let trace: f64 = (0..columns).map(|i| moments[i * columns + i]).sum();
    let t = trace * trace;
    let all: f64 = moments.iter().map(|m| m * m).sum();
    let found = t / (all - t / windows).max(t / dims);
    if found.is_nan() {
        dims
    } else {
        found.clamp(1.0, dims)
    }
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn minus_each(rows: &[f64], row: &[f64]) -> Vec<f64> {
    rows_of(rows, row.len())
        .flat_map(|one| minus(one, row))
        .collect()
}

fn scaled(rows: &[f64], w: &[f64], columns: usize) -> Vec<f64> {
    let rows = rows_of(rows, columns).zip(w);
    rows.flat_map(|(row, w)| row.iter().map(|value| value * w.sqrt()).collect::<Vec<_>>())
        .collect()
}

fn mean(rows: &[f64], w: &[f64], columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for (row, w) in rows_of(rows, columns).zip(w) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += w * value);
    }
    let all: f64 = w.iter().sum();
    sums.iter_mut().for_each(|sum| *sum /= all.max(1e-300));
    sums
}

/// Everything that training windows of one size say.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    pub(super) learned: Vec<Learned>,
    /// What persistence does to a mean of all windows.
    pub(super) whole: Stretch,
}

impl Fit {
    /// Priors of shapes and tails are learned over the questions of one name: empirical Bayes by EM.
    pub(super) fn of(
        asked: &[Asked],
        series: &[Series],
        seasons: &[Vec<usize>],
        spectrum: &mut Spectrum,
    ) -> Self {
        let mut learned: Vec<Learned> = asked
            .iter()
            .zip(series)
            .map(|(asked, series)| Learned::of(*asked, series, seasons, spectrum))
            .collect();
        for question in Question::ALL {
            let mut of: Vec<&mut Learned> = learned
                .iter_mut()
                .filter(|l| l.asked.question == question)
                .collect();
            let mut shapes = [1.0 / SHAPES as f64; SHAPES];
            let mut tails = [1.0 / TAILS.len() as f64; TAILS.len()];
            for _ in 0..ROUNDS {
                for l in &mut of {
                    l.post = posterior(&l.shape_lik, &shapes);
                    l.tails = posterior(&l.tail_lik, &tails);
                }
                shapes = prior(of.iter().map(|l| &l.post));
                tails = prior(of.iter().map(|l| &l.tails));
            }
        }
        Self {
            learned,
            whole: Stretch::new(seasons.len()),
        }
    }
}

fn posterior<const N: usize>(lik: &[f64; N], prior: &[f64; N]) -> [f64; N] {
    let mut post: [f64; N] = std::array::from_fn(|i| lik[i] + prior[i].ln());
    let most = post.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    post.iter_mut().for_each(|p| *p = (*p - most).exp());
    let all: f64 = post.iter().sum();
    post.map(|p| p / all)
}

fn prior<'a, const N: usize>(posteriors: impl Iterator<Item = &'a [f64; N]>) -> [f64; N] {
    let (mut sums, mut count) = ([OPEN / N as f64; N], OPEN);
    for post in posteriors {
        sums.iter_mut().zip(post).for_each(|(sum, p)| *sum += p);
        count += 1.0;
    }
    sums.map(|sum| sum / count)
}
