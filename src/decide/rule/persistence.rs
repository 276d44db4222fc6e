//! How one window resembles the next: a share `g` of the variance between windows is an
//! autoregressive process of first order, with correlation `a` from a window to the next.

use std::collections::HashMap;
use std::sync::Arc;

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// The shapes (g, a): no persistence, then each `a` with each share.
pub(super) const SHAPES: usize = 1 + CORRELATIONS.len() * PARTS.len();
const CORRELATIONS: [f64; 7] = [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98];
const PARTS: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// Persistence that outlasts this part of the training data (1 / (1 - a) windows) cannot be told from
/// their mean: such a stream drifts.
const LONGEST: f64 = 0.25;

/// One number per shape.
pub(super) type PerShape = [f64; SHAPES];

/// A shape less likely than this adds nothing to a sum over shapes.
pub(super) const NEGLIGIBLE: f64 = 1e-18;

pub(super) fn shape(i: usize) -> (f64, f64) {
    match i.checked_sub(1) {
        None => (0.0, 0.0),
        Some(i) => (PARTS[i % PARTS.len()], CORRELATIONS[i / PARTS.len()]),
    }
}

fn per_shape(of: impl Fn(f64, f64) -> f64) -> PerShape {
    std::array::from_fn(|i| {
        let (g, a) = shape(i);
        of(g, a)
    })
}

/// What persistence does to a mean of `length` windows.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    /// Variance of the mean, in that of one window.
    pub(super) variance: PerShape,
    /// Covariance of the mean with the window before it.
    pub(super) before: PerShape,
}

impl Stretch {
    pub(super) fn new(length: usize) -> Self {
        let n = length as f64;
        Self {
            variance: per_shape(|g, a| {
                let (mut sum, mut power) = (0.0, 1.0);
                for i in 1..length {
                    power *= a;
                    sum += (1.0 - i as f64 / n) * power;
                }
                (1.0 + 2.0 * g * sum) / n
            }),
            before: per_shape(|g, a| {
                let (mut sum, mut power) = (0.0, 1.0);
                for _ in 0..length {
                    power *= a;
                    sum += power;
                }
                g * sum / n
            }),
        }
    }
}

/// The shapes that so many windows cannot tell from their mean.
pub(super) fn is_too_long(i: usize, windows: usize) -> bool {
    let (_, a) = shape(i);
    1.0 / (1.0 - a) > (LONGEST * windows as f64).max(2.0)
}

/// Expected periodograms of so many windows without their mean, per shape: the de-biased Whittle likelihood
/// of Sykulski, Olhede, Guillaumin, Lilly and Early 2019.
pub(super) type Spectra = Arc<Vec<Expected>>;

/// An expected periodogram.
pub(super) struct Expected {
    /// One over it, per frequency above 0.
    pub(super) reciprocals: Vec<f64>,
    /// The sum of its logarithms.
    pub(super) logs: f64,
}

/// Fourier transforms, planned once.
pub(super) struct Spectrum {
    planner: FftPlanner<f64>,
    expected: HashMap<usize, Spectra>,
}

impl std::fmt::Debug for Spectrum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spectrum").finish_non_exhaustive()
    }
}

impl Default for Spectrum {
    fn default() -> Self {
        Self {
            planner: FftPlanner::new(),
            expected: HashMap::new(),
        }
    }
}

impl Spectrum {
    fn transform(&mut self, values: impl Iterator<Item = f64>) -> Vec<Complex<f64>> {
        let mut buffer: Vec<Complex<f64>> = values.map(|v| Complex::new(v, 0.0)).collect();
        if !buffer.is_empty() {
            self.planner
                .plan_fft_forward(buffer.len())
                .process(&mut buffer);
        }
        buffer.truncate(buffer.len() / 2 + 1);
        buffer
    }

    /// Squared magnitudes at the frequencies above 0.
    pub(super) fn power(&mut self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let transformed = self.transform(values);
        transformed.iter().skip(1).map(Complex::norm_sqr).collect()
    }

    pub(super) fn expected(&mut self, windows: usize) -> Spectra {
        if let Some(known) = self.expected.get(&windows) {
            return Arc::clone(known);
        }
        let n = windows as f64;
        let spectrum = |i: usize, this: &mut Self| {
            let (g, a) = shape(i);
            let mut power = 1.0;
            let correlations = (0..windows).map(|k| {
                if k == 0 {
                    return 1.0;
                }
                power *= a;
                g * power * (1.0 - k as f64 / n)
            });
            let transformed = this.transform(correlations);
            let expected = transformed.iter().skip(1);
            let expected = expected.map(|value| (2.0 * value.re - 1.0).max(1e-3));
            Expected {
                reciprocals: expected.clone().map(f64::recip).collect(),
                logs: expected.map(f64::ln).sum(),
            }
        };
        let spectra: Vec<Expected> = (0..SHAPES).map(|i| spectrum(i, self)).collect();
        let spectra = Arc::new(spectra);
        self.expected.insert(windows, Arc::clone(&spectra));
        spectra
    }
}
