//! The answers of windows as one series per question.

use super::question::{Answers, Asking, Numbers, Question, Scores};

/// Fewer rows a window off the most frequent value than this: a number is nearly constant, and only
/// their rate is asked for.
const FEW: f64 = 10.0;
/// A level with fewer rows a window than this shares a group with others.
const LEAST_ROWS: f64 = 5.0;

/// One question about one feature; `feature` counts from 0, then come all pairs together, then rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) feature: usize,
    pub(super) question: Question,
    /// Degrees of freedom of an answer.
    pub(super) dims: usize,
}

/// The answers of some windows to one question.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Windows x columns; of rates counts.
    pub(super) x: Vec<f64>,
    /// Rows of each window.
    pub(super) n: Vec<f64>,
    pub(super) columns: usize,
}

impl Series {
    pub(super) fn len(&self) -> usize {
        self.n.len()
    }

    /// Some of its windows.
    pub(super) fn pick(&self, windows: &[usize]) -> Self {
        let row = |w: &usize| {
            self.x[w * self.columns..(w + 1) * self.columns]
                .iter()
                .copied()
        };
        Self {
            x: windows.iter().flat_map(row).collect(),
            n: windows.iter().map(|w| self.n[*w]).collect(),
            columns: self.columns,
        }
    }
}

/// The part of a feature's questions that depends on how large its training windows are.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) of_labels: bool,
    /// Nearly constant: only the rate of other values is asked for.
    pub(super) few: bool,
    /// Groups of the tally to groups of the question: small levels share the last one.
    pub(super) merged: Vec<usize>,
    /// Shares of the groups.
    pub(super) share: Vec<f64>,
    /// What a difference is divided by, squared.
    least: Vec<f64>,
    /// What location and spread have asked already: orthonormal.
    basis: Vec<Vec<f64>>,
    /// Degrees of freedom of the shape; 0: none.
    rest: usize,
}

impl Form {
    fn of(scores: &Scores, training: &[Answers], feature: usize) -> Self {
        let windows = training.len().max(1) as f64;
        let tallies = || training.iter().map(|one| &one.features[feature]);
        let all: f64 = tallies().map(|tally| tally.values as f64).sum();
        let rows = all.max(1.0) / windows;
        match scores {
            Scores::Numbers(numbers) => {
                let other: f64 = tallies().map(|tally| tally.other as f64).sum();
                let few = numbers.location.is_empty() || rows * (other / all.max(1.0)) < FEW;
                let merged = (0..numbers.share.len()).collect();
                let share = numbers.share.clone();
                Self::new(false, few, merged, share, rows, &Self::directions(numbers))
            }
            Scores::Labels { groups, .. } => {
                let mut count = vec![0.0; *groups];
                for tally in tallies() {
                    for (sum, more) in count.iter_mut().zip(&tally.groups) {
                        *sum += *more as f64;
                    }
                }
                let rest = groups - 1;
                let is_own = |g: usize| g != rest && count[g] / windows >= LEAST_ROWS;
                let own = (0..*groups).filter(|g| is_own(*g)).count();
                let mut next = 0..own;
                let place = |g| {
                    if is_own(g) {
                        next.next().unwrap_or(own)
                    } else {
                        own
                    }
                };
                let merged: Vec<usize> = (0..*groups).map(place).collect();
                let mut share = vec![0.0; own + 1];
                for (g, count) in merged.iter().zip(&count) {
                    share[*g] += count / all.max(1.0);
                }
                if share[own] <= 0.0 && own > 0 {
                    share.pop(); // no small level
                }
                Self::new(true, false, merged, share, rows, &[])
            }
        }
    }

    /// What location and spread ask of the groups.
    fn directions(numbers: &Numbers) -> Vec<Vec<f64>> {
        [&numbers.location_of_groups, &numbers.spread_of_groups]
            .into_iter()
            .filter(|weights| !weights.is_empty())
            .cloned()
            .collect()
    }

    fn new(
        of_labels: bool,
        few: bool,
        merged: Vec<usize>,
        share: Vec<f64>,
        rows: f64,
        more: &[Vec<f64>],
    ) -> Self {
        let root: Vec<f64> = share.iter().map(|p| p.max(1e-300).sqrt()).collect();
        let weighted = more.iter().map(|sums| {
            let roots = sums.iter().zip(&root);
            roots.map(|(sum, root)| sum / root).collect::<Vec<f64>>()
        });
        let directions: Vec<Vec<f64>> = std::iter::once(root.clone()).chain(weighted).collect();
        let basis = orthonormal(directions);
        let rest = match few {
            true => 0,
            false => share.len() - basis.len(),
        };
        Self {
            of_labels,
            few,
            merged,
            least: share.iter().map(|p| p.max(1.0 / rows.max(1.0))).collect(),
            share,
            basis,
            rest,
        }
    }

    /// Counts of a tally on the question's groups; what has no group is left out.
    pub(super) fn counts(&self, groups: &[u64]) -> Vec<f64> {
        let mut counts = vec![0.0; self.share.len()];
        for (g, count) in self.merged.iter().zip(groups) {
            if let Some(sum) = counts.get_mut(*g) {
                *sum += *count as f64;
            }
        }
        counts
    }

    /// Differences of the shares without what location and spread ask.
    fn shape(&self, groups: &[u64], n: f64) -> Vec<f64> {
        let counts = self.counts(groups);
        let mut d: Vec<f64> = (counts.iter().zip(&self.share).zip(&self.least))
            .map(|((count, p), least)| (count / n - p) / least.sqrt())
            .collect();
        let along: Vec<f64> = self
            .basis
            .iter()
            .map(|b| b.iter().zip(&d).map(|(b, d)| b * d).sum())
            .collect();
        for (b, along) in self.basis.iter().zip(along) {
            for (d, b) in d.iter_mut().zip(b) {
                *d -= along * b;
            }
        }
        d
    }
}

/// Gram and Schmidt, modified; a direction that adds nothing is left out.
fn orthonormal(directions: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for mut direction in directions {
        let before = norm(&direction);
        for _ in 0..2 {
            for b in &basis {
                let along: f64 = b.iter().zip(&direction).map(|(b, d)| b * d).sum();
                direction
                    .iter_mut()
                    .zip(b)
                    .for_each(|(d, b)| *d -= along * b);
            }
        }
        let length = norm(&direction);
        if length > 1e-9 * before {
            direction.iter_mut().for_each(|d| *d /= length);
            basis.push(direction);
        }
    }
    basis
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// What is asked of windows of one size: all questions in a fixed order, and how shapes are read.
#[derive(Debug, Clone)]
pub(super) struct Questions {
    pub(super) asked: Vec<Asked>,
    pub(super) forms: Vec<Form>,
}

impl Questions {
    pub(super) fn of(asking: &Asking, training: &[Answers]) -> Self {
        let form = |(i, scores)| Form::of(scores, training, i);
        let forms: Vec<Form> = asking.features.iter().enumerate().map(form).collect();
        let mut asked = Vec::new();
        for (feature, (form, scores)) in forms.iter().zip(&asking.features).enumerate() {
            let mut ask = |question, dims| {
                asked.push(Asked {
                    feature,
                    question,
                    dims,
                })
            };
            if let (Scores::Numbers(numbers), false) = (scores, form.few) {
                ask(Question::Location, 1);
                if !numbers.spread.is_empty() {
                    ask(Question::Spread, 1);
                }
            }
            if form.rest > 0 {
                ask(Question::Shape, form.rest);
            }
            for question in [
                Question::Null,
                Question::Missing,
                Question::WrongType,
                Question::New,
            ] {
                ask(question, 1);
            }
            if form.few {
                ask(Question::Other, 1);
            }
        }
        let features = asking.features.len();
        if !asking.pairs.is_empty() {
            let dims = asking.pairs.len();
            asked.push(Asked {
                feature: features,
                question: Question::Pairs,
                dims,
            });
        }
        asked.push(Asked {
            feature: features + 1,
            question: Question::Rows,
            dims: 1,
        });
        Self { asked, forms }
    }

    /// The answers of some windows, one series per question.
    pub(super) fn series(&self, asking: &Asking, windows: &[Answers]) -> Vec<Series> {
        let series = |asked: &Asked| {
            let answers = windows
                .iter()
                .map(|window| self.answer(asking, asked, window));
            let (x, n): (Vec<Vec<f64>>, Vec<f64>) = answers.unzip();
            let columns = match asked.question {
                Question::Shape => self.forms[asked.feature].share.len(),
                _ => asked.dims,
            };
            Series {
                x: x.concat(),
                n,
                columns,
            }
        };
        self.asked.iter().map(series).collect()
    }

    /// The answer of a window, and how many rows it is of.
    fn answer(&self, asking: &Asking, asked: &Asked, window: &Answers) -> (Vec<f64>, f64) {
        match asked.question {
            Question::Rows => {
                let counted = if window.shared { 0 } else { window.rows };
                return (vec![(window.rows as f64).ln_1p()], counted as f64);
            }
            Question::Pairs => {
                let rows = window.pair_rows as f64;
                let mean = |feature: u32| window.features[feature as usize].mean_location();
                let covariance =
                    |(sum, (a, b)): (&f64, &(u32, u32))| sum / rows.max(1.0) - mean(*a) * mean(*b);
                let sums = window.pairs.iter().zip(&asking.pairs);
                return (sums.map(covariance).collect(), rows);
            }
            _ => {}
        }
        let tally = &window.features[asked.feature];
        let (values, rows) = (tally.values as f64, tally.rows() as f64);
        let some = values.max(1.0);
        match asked.question {
            Question::Spread => {
                let bend = match &asking.features[asked.feature] {
                    Scores::Numbers(numbers) => numbers.bend,
                    Scores::Labels { .. } => 0.0,
                };
                let location = tally.location / some;
                let about = tally.spread / some - bend * (location * location - 1.0 / some);
                (vec![about], values)
            }
            Question::Shape => (self.forms[asked.feature].shape(&tally.groups, some), values),
            Question::Null => (vec![tally.null as f64], rows),
            Question::Missing => (vec![tally.missing as f64], rows),
            Question::WrongType => (vec![tally.wrong_type as f64], rows),
            Question::New => (vec![tally.new as f64], rows),
            Question::Other => (vec![tally.other as f64], values),
            _ => (vec![tally.location / some], values),
        }
    }
}
