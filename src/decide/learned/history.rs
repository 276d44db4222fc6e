//! What a score means, by the feature's own history of it.

use serde::{Deserialize, Serialize};

use crate::compare::law::normal;

/// Scores are not told apart beyond this.
pub(super) const LARGEST_Y: f64 = 400.0;

/// The least mean excess of a tail: smaller ones come from histories of ties.
pub(super) const LEAST_EXCESS: f64 = 0.3;

/// Tail probabilities are not told apart below exp of this.
const LEAST_LN_P: f64 = -60.0;

/// The z of that probability: no z is larger.
pub const LARGEST_Z: f64 = 10.649_592_384_805_446;

/// Scores of the fit's windows and their upper tail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    /// The scores, ascending.
    pub(super) y: Vec<f64>,
    /// Their 80 % quantile.
    pub(super) u: f64,
    /// Mean excess over it.
    pub(super) s: f64,
}

impl History {
    pub(super) fn of(mut y: Vec<f64>) -> Self {
        y.sort_by(f64::total_cmp);
        let tail = Tail::of(&y);
        Self {
            u: tail.start,
            s: tail.mean_excess.unwrap_or(0.0).max(LEAST_EXCESS),
            y,
        }
    }

    /// Logarithm of the chance of a score as large: by rank up to u, above by an exponential tail.
    pub(super) fn ln_p(&self, y: f64) -> f64 {
        if y > self.u {
            (0.2_f64.ln() - (y - self.u) / self.s).max(LEAST_LN_P)
        } else {
            let rank = self.y.partition_point(|&seen| seen <= y) as f64;
            (1.0 - rank / (self.y.len() as f64 + 1.0))
                .clamp(1e-6, 1.0 - 1e-6)
                .ln()
        }
    }
}

/// The normal quantile of that chance, from -4 to [`LARGEST_Z`].
pub(super) fn z(ln_p: f64) -> f64 {
    normal::upper_quantile(ln_p.max(LEAST_LN_P)).clamp(-4.0, LARGEST_Z)
}

/// The upper fifth of some values: where it starts and how far it reaches.
pub(super) struct Tail {
    pub(super) start: f64,
    /// `None` if no value is above the start.
    pub(super) mean_excess: Option<f64>,
}

impl Tail {
    /// Of ascending values; the quantile is interpolated as numpy's default does.
    pub(super) fn of(sorted: &[f64]) -> Self {
        let place = 0.8 * (sorted.len() as f64 - 1.0).max(0.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 <= place < len"
        )]
        let at = place.floor() as usize;
        let value = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or(0.0);
        let start = interpolate(value(at), value(at + 1), place - place.floor());
        let above = sorted.iter().filter(|&&y| y > start);
        let (count, sum) = above.fold((0.0, 0.0), |(count, sum), y| (count + 1.0, sum + y - start));
        Self {
            start,
            mean_excess: (count > 0.0).then(|| sum / count),
        }
    }
}

/// From whichever end is nearer, so that equal ends give exactly that value.
fn interpolate(low: f64, high: f64, share: f64) -> f64 {
    if share < 0.5 {
        low + (high - low) * share
    } else {
        high - (high - low) * (1.0 - share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_z_is_the_quantile_of_the_least_probability() {
        assert!((normal::upper_quantile(LEAST_LN_P) - LARGEST_Z).abs() < 1e-12);
    }

    #[test]
    fn quantile_and_excess() {
        let tail = Tail::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!((tail.start - 5.0).abs() < 1e-15 && tail.mean_excess == Some(1.0));
        assert!(Tail::of(&[2.0; 9]).mean_excess.is_none());
        assert!(Tail::of(&[]).start.abs() < 1e-300);
    }

    #[test]
    fn a_history_of_ties_or_of_nothing_gives_numbers() {
        for y in [vec![], vec![0.0; 40], vec![400.0; 40]] {
            let history = History::of(y);
            for seen in [0.0, 1.0, 400.0] {
                let z = z(history.ln_p(seen));
                assert!((-4.0..=LARGEST_Z).contains(&z), "{z}");
            }
        }
    }
}
