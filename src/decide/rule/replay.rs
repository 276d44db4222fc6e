//! Each quarter of the training data, judged by a fit of the other three: where the limits are put.

use super::effect::Expected;
use super::evidence::Trail;
use super::fit::Fit;
use super::persistence::Spectrum;
use super::question::Answers;
use super::series::Series;
use super::{FeatureState, Rule, Watch};

/// Contiguous parts of the training data.
const BLOCKS: usize = 4;
/// Windows on each side of a block that its fit leaves out, at least; they resemble it.
const GAP: usize = 3;
/// The gap is a day, but no more than this part of the training windows.
const GAP_PART: usize = 8;
/// What theory counts for, in windows.
const PSEUDO: f64 = 10.0;
/// Half of the allowed rate for each of two limits, and a false alarm lasts two windows.
const PART: f64 = 4.0;
/// The least mean excess over the limit of the upper fifth.
const LEAST: f64 = 1.0;
/// The upper part of the replayed windows that the tail is read from.
const UPPER: f64 = 0.2;
/// No limit is raised beyond this, in nats; nor by more than one step at a time.
const HIGHEST: f64 = 60.0;
const STEP: f64 = 0.5;

/// One block: its windows under a fit of the others.
pub(super) struct Block {
    windows: Vec<Answers>,
    values: Vec<Vec<usize>>,
    series: Vec<Series>,
    fit: Fit,
    expected: Vec<Expected>,
}

/// A block with its evidence, by question, window and length.
struct Judged<'a> {
    watch: Watch<'a>,
    fit: &'a Fit,
    evidence: Vec<Vec<Vec<f64>>>,
}

impl Rule {
    pub(super) fn replay(
        &self,
        windows: &[Answers],
        series: &[Series],
        values: &[Vec<usize>],
        spectrum: &mut Spectrum,
    ) -> Vec<Block> {
        let all = windows.len();
        let gap = self.calendar.per_day().min(all / GAP_PART).max(GAP);
        let mut start = 0;
        let mut blocks = Vec::new();
        for block in 0..BLOCKS {
            let end = start + all / BLOCKS + usize::from(block < all % BLOCKS);
            let others: Vec<usize> = (0..all)
                .filter(|t| t + gap < start || *t >= end + gap)
                .collect();
            let theirs: Vec<Series> = series.iter().map(|series| series.pick(&others)).collect();
            let their_values: Vec<Vec<usize>> = others.iter().map(|t| values[*t].clone()).collect();
            let fit = Fit::of(&self.questions.asked, &theirs, &their_values, spectrum);
            let their_windows: Vec<&Answers> = others.iter().map(|t| &windows[*t]).collect();
            let expected = Expected::all(&self.questions, &fit, &their_windows, &their_values);
            let own: Vec<usize> = (start..end).collect();
            blocks.push(Block {
                windows: windows[start..end].to_vec(),
                values: values[start..end].to_vec(),
                series: series.iter().map(|series| series.pick(&own)).collect(),
                fit,
                expected,
            });
            start = end;
        }
        blocks
    }

    /// The `-ln p` of one window, and of several, that begins a drift; and how many of the replayed windows
    /// are drifted with it.
    pub(super) fn find_thresholds(&self, blocks: &[Block], hazard: f64) -> ([f64; 2], usize) {
        let judged: Vec<Judged<'_>> = blocks.iter().map(|block| self.judge_block(block)).collect();
        let single = |k: &usize| self.lengths.get(*k) == 1;
        let mut thresholds = [true, false].map(|alone| {
            let lengths: Vec<usize> = (0..self.lengths.len())
                .filter(|k| single(k) == alone)
                .collect();
            self.tail_limit(&self.maxima(&judged, &lengths), hazard)
        });
        // Exchangeable windows: where k of K exceed, so will (k + 1) / (K + 1) of the next.
        let allowed = (hazard * self.windows as f64 - 1.0).max(0.0);
        for i in 0..thresholds.len() {
            loop {
                let mut alone = [f64::INFINITY; 2];
                alone[i] = thresholds[i];
                let drifted: usize = judged.iter().map(|block| self.drifted(block, alone)).sum();
                if drifted as f64 <= allowed || thresholds[i] >= HIGHEST {
                    break;
                }
                thresholds[i] += STEP;
            }
        }
        let drifted = judged
            .iter()
            .map(|block| self.drifted(block, thresholds))
            .sum();
        (thresholds, drifted)
    }

    fn judge_block<'a>(&self, block: &'a Block) -> Judged<'a> {
        let Block {
            windows,
            values,
            series,
            fit,
            expected,
        } = block;
        let watch = Watch::new(&self.questions, fit, expected, windows, values, series);
        let of = |q: usize, trail: &Trail<'_>| -> Vec<Vec<f64>> {
            (0..trail.len())
                .map(|t| self.evidence_of(&watch, fit, q, t))
                .collect()
        };
        let evidence = watch
            .trails
            .iter()
            .enumerate()
            .map(|(q, trail)| of(q, trail))
            .collect();
        Judged {
            watch,
            fit,
            evidence,
        }
    }

    /// The largest evidence of each window over all questions that decide.
    fn maxima(&self, judged: &[Judged<'_>], lengths: &[usize]) -> Vec<f64> {
        let mut maxima = Vec::new();
        for block in judged {
            let mut largest = vec![0.0; block.watch.windows.len()];
            let deciding = block
                .evidence
                .iter()
                .enumerate()
                .filter(|(q, _)| self.limit(*q).decides);
            for (_, evidence) in deciding {
                for (largest, evidence) in largest.iter_mut().zip(evidence) {
                    *largest = lengths
                        .iter()
                        .fold(*largest, |most: f64, k| most.max(evidence[*k]));
                }
            }
            maxima.extend(largest);
        }
        maxima
    }

    /// What quiet windows exceed `hazard / PART` often: an exponential tail over the upper fifth of the
    /// replay, drawn to what theory says of so many questions.
    fn tail_limit(&self, maxima: &[f64], hazard: f64) -> f64 {
        let deciding = (0..self.questions.asked.len())
            .filter(|q| self.limit(*q).decides)
            .count();
        let theory = (5.0 * deciding.max(1) as f64).ln();
        let n = maxima.len() as f64;
        let mut sorted = maxima.to_vec();
        sorted.sort_by(f64::total_cmp);
        let fifth = crate::profile::numeric::quantile(&sorted, 1.0 - UPPER);
        let above: Vec<f64> = sorted
            .iter()
            .filter(|m| **m > fifth)
            .map(|m| m - fifth)
            .collect();
        let excess = (PSEUDO + above.iter().sum::<f64>()) / (PSEUDO + above.len() as f64);
        let base = (n * fifth + PSEUDO * theory) / (n + PSEUDO);
        base + excess.max(LEAST) * (UPPER * PART / hazard).ln().max(0.0)
    }

    /// Windows of a block in which some feature is drifted.
    fn drifted(&self, block: &Judged<'_>, thresholds: [f64; 2]) -> usize {
        let Judged {
            watch,
            fit,
            evidence,
        } = block;
        let mut any = vec![false; watch.windows.len()];
        for subject in 0..self.asking.features.len() + 2 {
            let mut state = FeatureState::default();
            for (t, any) in any.iter_mut().enumerate() {
                let at = |q: usize, k: usize| evidence[q][t][k];
                *any |= self.step(watch, fit, subject, t, true, thresholds, at, &mut state);
            }
        }
        any.into_iter().filter(|any| *any).count()
    }
}
