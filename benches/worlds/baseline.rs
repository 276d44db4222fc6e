//! Training windows to a rule, and rows to what it asks of them, by the daemon's code from bins on.

use driftd::decide::rule::question::{Numbers, Scores, choose_pairs};
use driftd::decide::rule::{
    Answers, Asking, Calendar, Question, Rule, State, Subject, Tally, usual_limits,
};
use driftd::profile::Grid;

use crate::stream::{Change, Rows, Stream, World};

/// Rows that say which of many pairs are asked for.
const PAIRING_ROWS: usize = 2_000;
const NONE: usize = usize::MAX;

pub(crate) struct Baseline {
    world: World,
    pub(crate) windows: Vec<Answers>,
    grids: Vec<Grid>,
    asking: Asking,
    /// Training rows of each level of each label.
    totals: Vec<Vec<u64>>,
}

impl Baseline {
    /// The first `k` windows of a stream.
    pub(crate) fn draw(world: World, seed: u64, k: usize, change: Change) -> Self {
        let mut stream = Stream::new(world, seed, 0);
        let rows: Vec<Rows> = (0..k).map(|_| stream.next(change)).collect();
        let grids: Vec<Grid> = (0..world.numbers()).map(|i| grid(&rows, i)).collect();
        let totals: Vec<Vec<u64>> = (0..world.labels()).map(|i| totals(&rows, i)).collect();
        let mut scores: Vec<Scores> = grids
            .iter()
            .enumerate()
            .map(|(i, grid)| Scores::Numbers(Numbers::of_shares(&shares(grid, &rows, i))))
            .collect();
        scores.extend(totals.iter().map(|totals| Scores::of_levels(totals)));
        let mut baseline = Self {
            world,
            windows: Vec::new(),
            grids,
            asking: Asking {
                features: scores,
                pairs: Vec::new(),
            },
            totals,
        };
        baseline.asking.pairs = baseline.pairs(&rows);
        baseline.windows = rows.iter().map(|rows| baseline.answers(rows)).collect();
        for i in 0..world.labels() {
            baseline.count_new_levels(i, &rows);
        }
        baseline
    }

    pub(crate) fn learn(&self, hazard: f64) -> anyhow::Result<Rule> {
        let calendar = Calendar {
            every_ms: self.world.every_ms(),
            time_zone: chrono_tz::Tz::UTC,
        };
        let limits = vec![usual_limits(); self.asking.features.len() + 2];
        let asking = self.asking.clone();
        Ok(Rule::learn(
            asking,
            calendar,
            &self.windows,
            hazard,
            limits,
        )?)
    }

    /// What the rows of a window answer.
    pub(crate) fn answers(&self, rows: &Rows) -> Answers {
        let mut answers = Answers::empty(&self.asking, rows.start_ms);
        (answers.rows, answers.pair_rows) = (rows.rows as u64, rows.rows as u64);
        let mut scored = Vec::new();
        for (i, values) in rows.numbers.iter().enumerate() {
            if let Scores::Numbers(numbers) = &self.asking.features[i] {
                let bins = bins(&self.grids[i], values);
                add_numbers(&mut answers.features[i], numbers, &self.grids[i], &bins);
                scored.push(score(numbers, &bins));
            }
        }
        for (i, counts) in rows.labels.iter().enumerate() {
            let feature = rows.numbers.len() + i;
            if let Scores::Labels { group, .. } = &self.asking.features[feature] {
                add_levels(
                    &mut answers.features[feature],
                    group,
                    counts,
                    &self.totals[i],
                );
            }
        }
        for (sum, (a, b)) in answers.pairs.iter_mut().zip(&self.asking.pairs) {
            *sum = dot(&scored[*a as usize], &scored[*b as usize]);
        }
        answers
    }

    fn pairs(&self, rows: &[Rows]) -> Vec<(u32, u32)> {
        let numbers = self
            .asking
            .features
            .iter()
            .filter_map(|scores| match scores {
                Scores::Numbers(numbers) => Some(numbers),
                Scores::Labels { .. } => None,
            });
        let numbers: Vec<&Numbers> = numbers.collect();
        let scored: Vec<Vec<f64>> = numbers
            .iter()
            .enumerate()
            .map(|(i, numbers)| {
                let values = rows.iter().flat_map(|rows| &rows.numbers[i]).copied();
                let values: Vec<f64> = values.take(PAIRING_ROWS).collect();
                score(numbers, &bins(&self.grids[i], &values))
            })
            .collect();
        let varying = (0..numbers.len()).filter(|i| !numbers[*i].location.is_empty());
        let varying: Vec<u32> = varying.map(|i| i as u32).collect();
        choose_pairs(&varying, |a, b| {
            dot(&scored[a as usize], &scored[b as usize])
        })
    }

    /// A level that only one training window has counts as new in it, as in `baseline::windows`.
    fn count_new_levels(&mut self, label: usize, rows: &[Rows]) {
        for level in 0..self.totals[label].len() {
            let mut with = (0..rows.len()).filter(|t| rows[*t].labels[label][level] > 0);
            if let (Some(only), None) = (with.next(), with.next()) {
                let feature = self.world.numbers() + label;
                self.windows[only].features[feature].new += rows[only].labels[label][level];
            }
        }
    }
}

fn grid(rows: &[Rows], i: usize) -> Grid {
    let values = rows.iter().flat_map(|rows| &rows.numbers[i]).copied();
    let mut sorted: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    Grid::from_sorted(&sorted, sorted[0], sorted[sorted.len() - 1])
}

fn totals(rows: &[Rows], i: usize) -> Vec<u64> {
    let mut totals = vec![0; rows[0].labels[i].len()];
    for rows in rows {
        let counts = rows.labels[i].iter();
        totals
            .iter_mut()
            .zip(counts)
            .for_each(|(sum, count)| *sum += count);
    }
    totals
}

/// As the daemon takes them from its sample: half a row is spread over all bins.
fn shares(grid: &Grid, rows: &[Rows], i: usize) -> Vec<f64> {
    let mut counts = vec![0.0; grid.bins()];
    for rows in rows {
        let bins = bins(grid, &rows.numbers[i]);
        bins.iter()
            .filter(|bin| **bin != NONE)
            .for_each(|bin| counts[*bin] += 1.0);
    }
    let all: f64 = counts.iter().sum();
    let some = 0.5 / counts.len() as f64;
    counts
        .iter()
        .map(|count| (count + some) / (all + 0.5))
        .collect()
}

fn bins(grid: &Grid, values: &[f64]) -> Vec<usize> {
    let bin = |value: &f64| {
        if value.is_nan() {
            NONE
        } else {
            grid.bin(*value)
        }
    };
    values.iter().map(bin).collect()
}

fn score(numbers: &Numbers, bins: &[usize]) -> Vec<f64> {
    let score = |bin: &usize| numbers.location.get(*bin).copied().unwrap_or(0.0);
    bins.iter().map(score).collect()
}

fn add_numbers(tally: &mut Tally, numbers: &Numbers, grid: &Grid, bins: &[usize]) {
    let mut counts = vec![0; grid.bins()];
    for bin in bins {
        match counts.get_mut(*bin) {
            Some(count) => *count += 1,
            None => tally.null += 1,
        }
    }
    for (bin, count) in counts
        .into_iter()
        .enumerate()
        .filter(|(_, count)| *count > 0)
    {
        tally.add_number(numbers, bin, count);
    }
}

fn add_levels(tally: &mut Tally, group: &[u32], counts: &[u64], totals: &[u64]) {
    for (level, (count, total)) in counts.iter().zip(totals).enumerate() {
        if *total > 0 {
            tally.add_level(group, level, *count);
        } else {
            tally.values += count;
            tally.new += count;
        }
    }
}

/// In eight sums, so that the compiler can take several products at a time.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let rows = a.len().min(b.len());
    let (a, b) = (a[..rows].chunks_exact(8), b[..rows].chunks_exact(8));
    let rest = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b);
    let rest: f64 = rest.sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Windows that are judged one after the other.
#[derive(Clone)]
pub(crate) struct Watch<'a> {
    baseline: &'a Baseline,
    rule: &'a Rule,
    /// As many as the rule looks back at.
    windows: Vec<Answers>,
    state: State,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(baseline: &'a Baseline, rule: &'a Rule) -> Self {
        Self {
            baseline,
            rule,
            windows: Vec::new(),
            state: State::default(),
        }
    }

    /// What is drifted in the next window and which question says so: features, then pairs, then rows.
    pub(crate) fn judge(&mut self, rows: &Rows) -> Vec<Option<Question>> {
        if self.windows.len() > self.rule.memory() {
            self.windows.remove(0);
        }
        self.windows.push(self.baseline.answers(rows));
        let features = self.baseline.asking.features.len();
        let mut drifted = vec![None; features + 2];
        for finding in self.rule.judge(&self.windows, true, &mut self.state) {
            let subject = match finding.subject {
                Subject::Feature(feature) => feature,
                Subject::Pairs => features,
                Subject::Rows => features + 1,
            };
            drifted[subject] = finding.drifted.then_some(finding.question);
        }
        drifted
    }
}
