//! How large a difference is: on a scale that does not grow with rows, against what the training data
//! lead to expect of the windows of a stretch.

use super::evidence::{Sums, Trail};
use super::fit::Fit;
use super::question::{Answers, Question};
use super::season::VALUES;
use super::series::{Form, Questions, Series};

/// What the training data lead to expect of the groups of one feature.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// Shares over all windows.
    pub(super) share: Vec<f64>,
    /// Seasons that the feature follows: which, and what each value adds to the shares.
    seasons: Vec<(usize, Vec<f64>)>,
}

impl Expected {
    /// `follows` says which seasons the feature's questions took.
    fn of(counts: &[Vec<f64>], values: &[Vec<usize>], follows: [bool; VALUES.len()]) -> Self {
        let groups = counts.first().map_or(0, Vec::len);
        let rows: Vec<f64> = counts.iter().map(|counts| counts.iter().sum()).collect();
        let all = rows.iter().sum::<f64>().max(1.0);
        let share = |g: usize| counts.iter().map(|counts| counts[g]).sum::<f64>() / all;
        let share: Vec<f64> = (0..groups).map(share).collect();
        let mut rest: Vec<Vec<f64>> = (counts.iter().zip(&rows))
            .map(|(counts, n)| {
                counts
                    .iter()
                    .zip(&share)
                    .map(|(c, p)| c / n.max(1.0) - p)
                    .collect()
            })
            .collect();
        let mut seasons = Vec::new();
        for which in (0..VALUES.len()).filter(|which| follows[*which]) {
            let mut offsets = vec![0.0; VALUES[which] * groups];
            let mut weight = vec![0.0; VALUES[which]];
            for ((rest, n), values) in rest.iter().zip(&rows).zip(values) {
                weight[values[which]] += n;
                let offsets = &mut offsets[values[which] * groups..];
                offsets
                    .iter_mut()
                    .zip(rest)
                    .for_each(|(sum, r)| *sum += n * r);
            }
            for (offsets, weight) in offsets.chunks_exact_mut(groups.max(1)).zip(weight) {
                offsets
                    .iter_mut()
                    .for_each(|sum| *sum /= f64::max(weight, 1.0));
            }
            for (rest, values) in rest.iter_mut().zip(values) {
                let offsets = &offsets[values[which] * groups..];
                rest.iter_mut().zip(offsets).for_each(|(r, o)| *r -= o);
            }
            seasons.push((which, offsets));
        }
        Self { share, seasons }
    }

    /// The shares that are expected of a window.
    fn of_window(&self, values: &[usize]) -> Vec<f64> {
        let mut share = self.share.clone();
        for (which, offsets) in &self.seasons {
            let offsets = &offsets[values[*which] * share.len()..];
            share.iter_mut().zip(offsets).for_each(|(p, o)| *p += o);
        }
        share
    }

    /// Of every feature, from the windows of a fit.
    pub(super) fn all(
        questions: &Questions,
        fit: &Fit,
        windows: &[&Answers],
        values: &[Vec<usize>],
    ) -> Vec<Self> {
        let of = |(feature, form): (usize, &Form)| {
            let mut follows = [false; VALUES.len()];
            for l in fit.learned.iter().filter(|l| {
                let shape = matches!(
                    l.asked.question,
                    Question::Location | Question::Spread | Question::Shape
                );
                l.asked.feature == feature && shape
            }) {
                l.seasons
                    .iter()
                    .for_each(|taken| follows[taken.which] = true);
            }
            let counts = windows
                .iter()
                .map(|one| form.counts(&one.features[feature].groups));
            Self::of(&counts.collect::<Vec<_>>(), values, follows)
        };
        questions.forms.iter().enumerate().map(of).collect()
    }
}

/// Share of a window's rows out of range that begins a drift alone.
const ALONE: f64 = 0.1;
/// Part of the rows out of range that are not in the fullest window of the stretch.
const REPEATED: f64 = 0.25;

/// Shares of one feature over stretches of windows.
struct Shares {
    of_labels: bool,
    counts: Sums,
    expected: Sums,
}

/// Effects of stretches of some windows.
pub(super) struct Effects {
    shares: Vec<Shares>,
    /// Per question: counts and rows of a rate; weighted deviations and weights of pairs and rows.
    sums: Vec<Option<(Sums, Sums)>>,
}

impl Effects {
    pub(super) fn new(
        questions: &Questions,
        expected: &[Expected],
        windows: &[Answers],
        values: &[Vec<usize>],
        series: &[Series],
        trails: &[Trail<'_>],
    ) -> Self {
        let shares = |(feature, (form, expected)): (usize, (&Form, &Expected))| {
            let groups = form.share.len();
            let counts: Vec<Vec<f64>> = windows
                .iter()
                .map(|one| form.counts(&one.features[feature].groups))
                .collect();
            let weighted = counts.iter().zip(values).flat_map(|(counts, values)| {
                let n: f64 = counts.iter().sum();
                expected.of_window(values).into_iter().map(move |p| p * n)
            });
            Shares {
                of_labels: form.of_labels,
                expected: Sums::new(weighted, groups),
                counts: Sums::new(counts.iter().flatten().copied(), groups),
            }
        };
        let sums = |(trail, series): (&Trail<'_>, &Series)| {
            let question = trail.learned().asked.question;
            let columns = series.columns;
            let weighted = trail
                .e
                .iter()
                .enumerate()
                .map(|(i, e)| e * trail.w[i / columns]);
            match question {
                _ if question.is_rate() => {
                    let column = |of: &[f64]| Sums::new(of.iter().copied(), 1);
                    Some((column(&series.x), column(&series.n)))
                }
                Question::Pairs | Question::Rows => Some((
                    Sums::new(weighted, columns),
                    Sums::new(trail.w.iter().copied(), 1),
                )),
                _ => None,
            }
        };
        let forms = questions.forms.iter().zip(expected).enumerate();
        Self {
            shares: forms.map(shares).collect(),
            sums: trails.iter().zip(series).map(sums).collect(),
        }
    }

    /// The effect of windows `from..to` that question `q` finds; 0 without rows.
    pub(super) fn of(&self, trail: &Trail<'_>, q: usize, from: usize, to: usize) -> f64 {
        let asked = trail.learned().asked;
        match &self.sums[q] {
            Some((counts, rows)) if asked.question.is_rate() => {
                let rows = rows.one(from, to);
                if rows <= 0.0 {
                    return 0.0;
                }
                (counts.one(from, to) / rows - trail.learned().p).abs()
            }
            Some((deviations, weights)) => {
                let weight = weights.one(from, to);
                if weight <= 0.0 {
                    return 0.0;
                }
                let means = deviations.between(from, to).map(|sum| (sum / weight).abs());
                means.fold(0.0, f64::max)
            }
            None => self.shares[asked.feature].distance(from, to),
        }
    }

    /// Whether numbers out of range are more than one batch: a window alone counts from a tenth of its rows
    /// on, or others of the stretch hold a quarter of them. Training windows have none by definition, so how
    /// they come cannot be learned: a session or an upload may hold twenty of them at once.
    pub(super) fn repeats(&self, trail: &Trail<'_>, q: usize, from: usize, to: usize) -> bool {
        let asked = trail.learned().asked;
        if asked.question != Question::New || self.shares[asked.feature].of_labels {
            return true;
        }
        let Some((counts, rows)) = &self.sums[q] else {
            return true;
        };
        let (mut fullest, mut most) = (0.0, 0.0);
        for t in from..to {
            let (count, rows) = (counts.one(t, t + 1), rows.one(t, t + 1));
            if rows > 0.0 && count / rows > fullest {
                (fullest, most) = (count / rows, count);
            }
        }
        let all = counts.one(from, to);
        fullest > ALONE || all - most >= (REPEATED * all).max(1.0)
    }

    /// Share of rows with what a rate asks for, in the stretch and in the training data; geometric means
    /// of rows per window of the stretch and as expected; the pair whose covariance moved most.
    pub(super) fn values(
        &self,
        trail: &Trail<'_>,
        q: usize,
        from: usize,
        to: usize,
    ) -> Option<(f64, f64)> {
        let (sums, weights) = self.sums[q].as_ref()?;
        let weight = weights.one(from, to);
        if weight <= 0.0 {
            return None;
        }
        let learned = trail.learned();
        match learned.asked.question {
            Question::Pairs => {
                let at = self.largest_pair(q, from, to);
                let moved = sums.between(from, to).nth(at).unwrap_or(0.0) / weight;
                let expected = learned.mean.get(at).copied().unwrap_or(0.0);
                Some((expected + moved, expected))
            }
            Question::Rows => {
                let rows = |t: usize| (trail.raw(t)[0], trail.raw(t)[0] - trail.deviation(t)[0]);
                let n = (to - from) as f64;
                let (found, expected) = (from..to)
                    .map(rows)
                    .fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                Some(((found / n).exp_m1(), (expected / n).exp_m1()))
            }
            _ => Some((sums.one(from, to) / weight, learned.p)),
        }
    }

    /// The column of the largest mean deviation.
    pub(super) fn largest_pair(&self, q: usize, from: usize, to: usize) -> usize {
        let Some((deviations, _)) = &self.sums[q] else {
            return 0;
        };
        let columns = deviations.between(from, to).enumerate();
        columns
            .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
            .map_or(0, |(at, _)| at)
    }

    /// Counts per group of a stretch of a feature, and those expected.
    pub(super) fn groups(&self, feature: usize, from: usize, to: usize) -> (Vec<f64>, Vec<f64>) {
        let shares = &self.shares[feature];
        (
            shares.counts.between(from, to).collect(),
            shares.expected.between(from, to).collect(),
        )
    }
}

impl Shares {
    /// Kolmogorov-Smirnov over the edges of groups of numbers; total variation of labels, beyond what
    /// chance gives of so many rows.
    fn distance(&self, from: usize, to: usize) -> f64 {
        let counts: Vec<f64> = self.counts.between(from, to).collect();
        let n: f64 = counts.iter().sum();
        if n <= 0.0 {
            return 0.0;
        }
        let pairs = counts
            .iter()
            .zip(self.expected.between(from, to))
            .map(|(c, e)| (c / n, e / n));
        if self.of_labels {
            let (mut apart, mut chance) = (0.0, 0.0);
            for (share, expected) in pairs {
                apart += (share - expected).abs() / 2.0;
                let p = expected.clamp(0.0, 1.0);
                chance += (2.0 * p * (1.0 - p) / (std::f64::consts::PI * n)).sqrt() / 2.0;
            }
            return (apart - chance).max(0.0);
        }
        let mut gap = 0.0;
        let gaps = pairs.map(|(share, expected)| {
            gap += share - expected;
            f64::abs(gap)
        });
        gaps.fold(0.0, f64::max)
    }
}
