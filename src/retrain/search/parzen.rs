//! Densities by Parzen windows, for TPE: of places on the unit interval, and of labels.

use std::f64::consts::{PI, SQRT_2};

use statrs::function::erf::{erfc, erfc_inv};

use super::random::Draws;

/// What the prior of a number, or of each label, counts, in trials.
const PRIOR_WEIGHT: f64 = 1.0;
/// So many of the latest trials have their full weight.
const FULL_WEIGHT: usize = 25;
/// Cells narrower than this are scored by the density in their middle: no window is narrower than
/// 0.01, and differences of its distribution function would cancel.
const NARROW: f64 = 1e-4;

/// The weights of trials from the oldest to the latest: 1 for the latest 25, and for those before
/// rising evenly from one in all.
pub(super) fn weights(trials: usize) -> Vec<f64> {
    let old = trials.saturating_sub(FULL_WEIGHT);
    let least = 1.0 / trials.max(1) as f64;
    let rise = (1.0 - least) / old.saturating_sub(1).max(1) as f64;
    let weight = |at: usize| {
        if at < old {
            least + rise * at as f64
        } else {
            1.0
        }
    };
    (0..trials).map(weight).collect()
}

/// A mixture of normal distributions, each cut off at the ends of the unit interval. One stands
/// for the prior: in the middle, as wide as the interval.
#[derive(Debug)]
pub(super) struct Windows {
    windows: Vec<Window>,
    weight: f64,
}

#[derive(Debug)]
struct Window {
    centre: f64,
    width: f64,
    weight: f64,
    /// What of the uncut distribution lies below 0, and what on the interval.
    below: f64,
    inside: f64,
}

impl Windows {
    /// Around places with their weights. A window is as wide as the way to the farther one of its
    /// neighbours, within 1 over (2 + places), or 0.01, and 1.
    pub(super) fn new(places: &[(f64, f64)]) -> Self {
        let mut centres: Vec<(f64, f64, bool)> = places.iter().map(|p| (p.0, p.1, false)).collect();
        centres.push((0.5, PRIOR_WEIGHT, true));
        centres.sort_by(|a, b| a.0.total_cmp(&b.0));
        let least = 1.0 / (1.0 + centres.len() as f64).min(100.0);
        let windows: Vec<Window> = (0..centres.len())
            .map(|at| {
                let (centre, weight, prior) = centres[at];
                let way = if prior {
                    1.0
                } else {
                    farther_neighbour(&centres, at)
                };
                Window::new(centre, way.clamp(least, 1.0), weight)
            })
            .collect();
        let weight = windows.iter().map(|window| window.weight).sum();
        Self { windows, weight }
    }

    /// A place drawn from the mixture.
    pub(super) fn draw(&self, draws: &mut Draws) -> f64 {
        let mut left = draws.unit() * self.weight;
        let drawn = self.windows.iter().find(|window| {
            left -= window.weight;
            left < 0.0
        });
        let share = draws.unit();
        // Rounding may leave nothing for the last one.
        drawn
            .or(self.windows.last())
            .map_or(0.5, |window| window.quantile(share))
    }

    /// The density at a place, or the mass of a cell, up to a factor that depends on the cell
    /// alone. Never 0: the prior is everywhere.
    pub(super) fn score(&self, place: f64, cell: Option<(f64, f64)>) -> f64 {
        let score = |window: &Window| match cell {
            Some((begin, end)) if end - begin >= NARROW => window.mass(begin, end),
            Some((begin, end)) => window.density(begin + 0.5 * (end - begin)),
            None => window.density(place),
        };
        let sum: f64 = self.windows.iter().map(|w| w.weight * score(w)).sum();
        sum / self.weight
    }
}

/// The way to the farther neighbour of a centre; at the ends, to the only one.
fn farther_neighbour(centres: &[(f64, f64, bool)], at: usize) -> f64 {
    let before = at
        .checked_sub(1)
        .map_or(0.0, |before| centres[at].0 - centres[before].0);
    let after = centres
        .get(at + 1)
        .map_or(0.0, |after| after.0 - centres[at].0);
    before.max(after)
}

impl Window {
    fn new(centre: f64, width: f64, weight: f64) -> Self {
        let below = normal_below(-centre / width);
        let inside = normal_below((1.0 - centre) / width) - below;
        Self {
            centre,
            width,
            weight,
            below,
            inside,
        }
    }

    fn quantile(&self, share: f64) -> f64 {
        let uncut = (self.below + share * self.inside).clamp(0.0, 1.0);
        let z = -SQRT_2 * erfc_inv(2.0 * uncut);
        (self.centre + self.width * z).clamp(0.0, 1.0)
    }

    fn density(&self, place: f64) -> f64 {
        let z = (place - self.centre) / self.width;
        (-0.5 * z * z).exp() / ((2.0 * PI).sqrt() * self.width * self.inside)
    }

    fn mass(&self, begin: f64, end: f64) -> f64 {
        let below = |place: f64| normal_below((place - self.centre) / self.width);
        (below(end) - below(begin)) / self.inside
    }
}

/// P(Z < z) of the standard normal distribution.
fn normal_below(z: f64) -> f64 {
    0.5 * erfc(-z / SQRT_2)
}

/// How often each label was seen, by weight, where each was seen once before all trials (Laplace's
/// rule).
#[derive(Debug)]
pub(super) struct Labels {
    shares: Vec<f64>,
}

impl Labels {
    /// Of `count` labels, those that were seen with their weights.
    pub(super) fn new(count: usize, seen: &[(usize, f64)]) -> Self {
        let prior = PRIOR_WEIGHT * count as f64;
        let total = prior + seen.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut shares = vec![PRIOR_WEIGHT / total; count];
        for (label, weight) in seen {
            if let Some(share) = shares.get_mut(*label) {
                *share += weight / total;
            }
        }
        Self { shares }
    }

    /// A label drawn by its share.
    pub(super) fn draw(&self, draws: &mut Draws) -> usize {
        let mut left = draws.unit();
        let drawn = self.shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        drawn.unwrap_or(self.shares.len().saturating_sub(1))
    }

    /// The share of a label.
    pub(super) fn share(&self, label: usize) -> f64 {
        self.shares.get(label).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::search;
    use super::*;

    #[test]
    fn a_density_integrates_to_one_whatever_the_places() {
        let spread: Vec<(f64, f64)> = (0..60).map(|n| (f64::from(n) / 59.0, 1.0)).collect();
        for places in [
            &[][..],
            &[(0.0, 1.0)],
            &[(0.2, 1.0), (0.2, 0.1), (1.0, 1.0)],
            &spread,
        ] {
            let windows = Windows::new(places);
            let cells = (0..1_000).map(|n| f64::from(n) / 1e3);
            let density: f64 = cells
                .clone()
                .map(|x| windows.score(x + 0.0005, None) / 1e3)
                .sum();
            assert!((density - 1.0).abs() < 1e-4, "{density}");
            let mass: f64 = cells.map(|x| windows.score(x, Some((x, x + 1e-3)))).sum();
            assert!((mass - 1.0).abs() < 1e-9, "{mass}");
        }
    }

    #[test]
    fn draws_follow_the_density() {
        let windows = Windows::new(&[(0.1, 1.0), (0.15, 2.0), (0.9, 1.0)]);
        let space = json!({"x": {"type": "float", "low": 0, "high": 1}});
        let mut draws = Draws::of(&search("random", space, 1), 0);
        let drawn: Vec<f64> = (0..20_000).map(|_| windows.draw(&mut draws)).collect();
        for cell in [(0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)] {
            let count = drawn
                .iter()
                .filter(|x| **x >= cell.0 && **x < cell.1)
                .count();
            let expected = windows.score(0.0, Some(cell));
            assert!((count as f64 / 2e4 - expected).abs() < 0.015, "{cell:?}");
        }
    }

    #[test]
    fn the_latest_trials_weigh_most() {
        assert_eq!(weights(25), vec![1.0; 25]);
        assert_eq!(weights(0), Vec::<f64>::new());
        let many = weights(50);
        assert!((many[0] - 0.02).abs() < 1e-12 && (many[24] - 1.0).abs() < 1e-12);
        assert!(many.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!((weights(26)[0] - 1.0 / 26.0).abs() < 1e-12);
    }

    #[test]
    fn labels_never_seen_keep_a_share() {
        let labels = Labels::new(4, &[(1, 1.0), (1, 1.0), (3, 1.0)]);
        let shares: Vec<f64> = (0..4).map(|label| labels.share(label)).collect();
        for (found, expected) in shares.iter().zip([1.0, 3.0, 1.0, 2.0].map(|n| n / 7.0)) {
            assert!((found - expected).abs() < 1e-12, "{shares:?}");
        }
    }
}
