//! Reference, design effects and histories of one feature, learned from some windows; scores others.

use serde::{Deserialize, Serialize};

use super::Score;
use super::contrast::{self, Directions};
use super::history::{History, LARGEST_Y, z};
use super::season::Season;
use crate::compare::law::chi2;

/// One window's counts of one feature on its final bins.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// When the window begins.
    pub(super) start_ms: i64,
    pub(super) counts: Vec<f64>,
}

impl Row {
    fn rows(&self) -> f64 {
        self.counts.iter().sum()
    }
}

/// How a feature's windows are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// How many of the first bins are in order.
    pub(super) ordered: usize,
    /// What its shares follow.
    pub(super) season: Season,
}

/// What the windows of a fit say of one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fit {
    /// Windows with rows in the fit.
    pub(super) windows: usize,
    /// Expected share of each final bin, over all seasons.
    pub(super) p: Vec<f64>,
    /// Design effect per further row of a window, of the chi-square.
    pub(super) rho: f64,
    /// Of the windows' scores.
    #[serde(flatten)]
    pub(super) history: History,
    /// The one bin that holds every row of the fit, if there is one.
    pub(super) constant: Option<usize>,
    /// What the contrasts of its windows say; none in calibrations that an earlier driftd stored,
    /// nor without an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<Contrast>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spread: Option<Contrast>,
    /// The directions that go with `p`.
    #[serde(default)]
    directions: Directions,
    /// What the shares follow.
    #[serde(default)]
    pub(super) season: Season,
    /// Shares per value of the season; empty without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) seasonal: Vec<Shares>,
}

/// A contrast with what its values over the fit's windows say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Contrast {
    /// Design effect per further row.
    pub(super) rho: f64,
    #[serde(flatten)]
    pub(super) history: History,
}

/// Expected shares of one value of the season.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shares {
    windows: usize,
    /// How much of `p` comes from its own windows; the rest from all.
    own: f64,
    p: Vec<f64>,
    directions: Directions,
}

/// A window beside what is expected of it.
struct Held<'a> {
    row: &'a [f64],
    rows: f64,
    p: &'a [f64],
    directions: &'a Directions,
    /// What the noise of the shares does to a squared deviation.
    correction: f64,
}

impl Fit {
    /// Windows without rows are ignored; `None` with fewer than two others.
    pub(super) fn of<'a>(windows: impl Iterator<Item = &'a Row>, view: View) -> Option<Self> {
        let rows: Vec<&Row> = windows.filter(|row| row.rows() > 0.0).collect();
        let first = rows.first()?;
        if rows.len() < 2 {
            return None;
        }
        let totals = totals(rows.iter().copied(), first.counts.len());
        let total: f64 = totals.iter().sum();
        let p = shares(&totals);
        let directions = Directions::of(&p, view.ordered);
        let mut fit = Self {
            windows: rows.len(),
            rho: 0.0,
            history: History::of(Vec::new()),
            constant: totals.iter().position(|&c| c >= total),
            location: directions.location.as_ref().map(|_| Contrast::unlearned()),
            spread: directions.spread.as_ref().map(|_| Contrast::unlearned()),
            directions,
            season: view.season,
            seasonal: Vec::new(),
            p,
        };
        fit.seasonal = fit.seasonal(&rows, total / rows.len() as f64, view.ordered);
        let held: Vec<Held<'_>> = rows.iter().map(|row| fit.hold(row, true)).collect();
        let rho = fit.design_effect_of_rest(&held);
        let location = fit
            .location
            .as_ref()
            .map(|_| Contrast::learned(&held, Direction::Location));
        let spread = fit
            .spread
            .as_ref()
            .map(|_| Contrast::learned(&held, Direction::Spread));
        (fit.rho, fit.location, fit.spread) = (rho, location, spread);
        let scores = rows.iter().map(|row| fit.y(&fit.hold(row, true))).collect();
        fit.history = History::of(scores);
        Some(fit)
    }

    /// The shares of each value of the season, drawn to those of all windows as if one window
    /// more had been seen with them.
    fn seasonal(&self, rows: &[&Row], mean_rows: f64, ordered: usize) -> Vec<Shares> {
        if self.season == Season::None {
            return Vec::new();
        }
        let occurrences = self.season.occurrences(rows.iter().map(|row| row.start_ms));
        let shares = |(value, &windows): (usize, &usize)| {
            let these = rows
                .iter()
                .copied()
                .filter(|row| self.season.at(row.start_ms) == value);
            let totals = totals(these, self.p.len());
            let seen: f64 = totals.iter().sum();
            let p = totals.iter().zip(&self.p);
            let p = p.map(|(c, p)| (c + mean_rows * p) / (seen + mean_rows));
            let p: Vec<f64> = p.collect();
            Shares {
                windows,
                own: seen / (seen + mean_rows),
                directions: Directions::of(&p, ordered),
                p,
            }
        };
        occurrences.iter().enumerate().map(shares).collect()
    }

    /// What is known of the season's value at that time, if windows of it were seen.
    fn seasonal_at(&self, start_ms: i64) -> Option<&Shares> {
        let shares = self.seasonal.get(self.season.at(start_ms))?;
        (shares.windows > 0).then_some(shares)
    }

    /// Windows of the fit are nearer to its shares than others are.
    fn hold<'a>(&'a self, row: &'a Row, within: bool) -> Held<'a> {
        let all = 1.0 / self.windows as f64;
        let seasonal = self.seasonal_at(row.start_ms);
        let (own, each) = seasonal.map_or((0.0, 0.0), |s| (s.own, 1.0 / s.windows as f64));
        let (p, directions) =
            seasonal.map_or((&self.p, &self.directions), |s| (&s.p, &s.directions));
        let noise = own * own * each + (1.0 - own * own) * all;
        let leverage = own * each + (1.0 - own) * all;
        let variance = if within {
            1.0 - 2.0 * leverage + noise
        } else {
            1.0 + noise
        };
        Held {
            row: &row.counts,
            rows: row.rows(),
            p,
            directions,
            correction: 1.0 / variance,
        }
    }

    fn design_effect_of_rest(&self, held: &[Held<'_>]) -> f64 {
        let dof = self.dof();
        if dof <= 0.0 {
            return 0.0;
        }
        let excess = |held: &Held<'_>| self.rest(held) / dof - 1.0;
        design_effect(held.iter().map(|held| (excess(held), held.rows)))
    }

    fn contrasts(&self) -> impl Iterator<Item = (&Contrast, Direction)> {
        let location = self.location.iter().map(|c| (c, Direction::Location));
        let spread = self.spread.iter().map(|c| (c, Direction::Spread));
        location.chain(spread)
    }

    /// Degrees of freedom of what the contrasts leave.
    fn dof(&self) -> f64 {
        self.p.len() as f64 - 1.0 - self.contrasts().count() as f64
    }

    /// Chi-square less the squares of the contrasts.
    fn rest(&self, held: &Held<'_>) -> f64 {
        let raw = self.contrasts().filter_map(|(_, along)| held.along(along));
        let squares: f64 = raw.map(|(value, _)| value * value).sum();
        ((held.x2() - squares) * held.correction).max(0.0)
    }

    /// The largest of what the contrasts and the rest say, each as -ln p.
    fn y(&self, held: &Held<'_>) -> f64 {
        let spread = 1.0 + (held.rows - 1.0) * self.rho;
        let rest = (-chi2::ln_sf(self.rest(held) / spread, self.dof())).min(LARGEST_Y);
        let values = self
            .contrasts()
            .filter_map(|(contrast, along)| contrast.value(held, along));
        values.map(y_of).fold(rest, f64::max)
    }

    /// Score of a window that is not in the fit; `None` without rows.
    pub(super) fn score(&self, row: &Row) -> Option<Score> {
        let rows = row.rows();
        if rows <= 0.0 || row.counts.len() != self.p.len() {
            return None;
        }
        if self.constant.is_some_and(|bin| row.counts[bin] >= rows) {
            return Some(Score {
                z: 0.0,
                location: None,
            });
        }
        let held = self.hold(row, false);
        let location = self.location.as_ref().and_then(|contrast| {
            let value = contrast.value(&held, Direction::Location)?;
            let two_sided = contrast.history.ln_p(y_of(value));
            Some(z(two_sided - std::f64::consts::LN_2).copysign(value))
        });
        Some(Score {
            z: z(self.history.ln_p(self.y(&held))),
            location,
        })
    }

    /// A window like the expected one, of so many rows, but for a shift of its numbers by so many
    /// standard deviations; `None` where bins are not in order.
    pub(super) fn shifted(&self, rows: f64, deviations: f64) -> Option<Row> {
        self.location.as_ref()?;
        let expected = self.seasonal_at(0).map_or(&self.p, |shares| &shares.p);
        let ordered = self.directions.location.as_ref()?.bins();
        let mut p = contrast::shifted(expected.get(..ordered)?, deviations);
        p.extend(&expected[ordered..]);
        let counts = p.iter().map(|share| rows * share).collect();
        Some(Row {
            start_ms: 0,
            counts,
        })
    }

    /// Mean logarithm of the chance of a row of this window.
    pub(super) fn ln_likelihood(&self, row: &Row) -> f64 {
        let held = self.hold(row, false);
        let terms = held.row.iter().zip(held.p);
        terms.map(|(c, p)| c * p.ln()).sum::<f64>() / held.rows.max(1.0)
    }
}

impl Held<'_> {
    fn x2(&self) -> f64 {
        let terms = self
            .row
            .iter()
            .zip(self.p)
            .map(|(c, p)| (c - self.rows * p).powi(2) / (self.rows * p));
        terms.sum()
    }

    /// A contrast before the design effect, with the rows that it rests on.
    fn along(&self, direction: Direction) -> Option<(f64, f64)> {
        let weights = match direction {
            Direction::Location => self.directions.location.as_ref()?,
            Direction::Spread => self.directions.spread.as_ref()?,
        };
        weights.of(self.row, self.p)
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Location,
    Spread,
}

impl Contrast {
    fn unlearned() -> Self {
        Self {
            rho: 0.0,
            history: History::of(Vec::new()),
        }
    }

    fn learned(held: &[Held<'_>], along: Direction) -> Self {
        let excess = |held: &Held<'_>| {
            let (value, rows) = held.along(along)?;
            Some((value * value * held.correction - 1.0, rows))
        };
        let mut learned = Self::unlearned();
        learned.rho = design_effect(held.iter().filter_map(excess));
        let values = held.iter().filter_map(|held| learned.value(held, along));
        learned.history = History::of(values.map(y_of).collect());
        learned
    }

    /// The contrast in standard deviations of windows.
    fn value(&self, held: &Held<'_>, along: Direction) -> Option<f64> {
        let (value, rows) = held.along(along)?;
        Some(value * (held.correction / (1.0 + (rows - 1.0) * self.rho)).sqrt())
    }
}

/// -ln p of a contrast, both sides.
fn y_of(value: f64) -> f64 {
    (-chi2::ln_sf(value * value, 1.0)).min(LARGEST_Y)
}

/// What makes the mean excess of squared deviations over windows 0.
fn design_effect(excess_and_rows: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (excess, further) = excess_and_rows.fold((0.0, 0.0), |(excess, further), (e, rows)| {
        (excess + e, further + rows - 1.0)
    });
    if further > 0.0 {
        (excess / further).max(0.0)
    } else {
        0.0
    }
}

fn totals<'a>(rows: impl Iterator<Item = &'a Row>, bins: usize) -> Vec<f64> {
    let mut totals = vec![0.0; bins];
    rows.for_each(|row| {
        totals
            .iter_mut()
            .zip(&row.counts)
            .for_each(|(sum, c)| *sum += c)
    });
    totals
}

/// With half a row more in each bin.
fn shares(totals: &[f64]) -> Vec<f64> {
    let all = totals.iter().sum::<f64>() + 0.5 * totals.len() as f64;
    totals.iter().map(|c| (c + 0.5) / all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: View = View {
        ordered: 0,
        season: Season::None,
    };

    fn rows<const B: usize>(counts: &[[f64; B]]) -> Vec<Row> {
        let row = |counts: &[f64; B]| Row {
            start_ms: 0,
            counts: counts.to_vec(),
        };
        counts.iter().map(row).collect()
    }

    fn score(fit: &Fit, counts: &[f64]) -> Option<Score> {
        fit.score(&Row {
            start_ms: 0,
            counts: counts.to_vec(),
        })
    }

    #[test]
    fn a_constant_feature_is_quiet_until_it_is_not() {
        let fit = Fit::of(rows(&[[1000.0, 0.0, 0.0]; 40]).iter(), PLAIN).unwrap();
        assert!(score(&fit, &[800.0, 0.0, 0.0]).unwrap().z.abs() < 1e-300);
        assert!(score(&fit, &[700.0, 0.0, 100.0]).unwrap().z > 10.0);
        assert_eq!(score(&fit, &[0.0, 0.0, 0.0]), None);
    }

    #[test]
    fn one_bin_and_one_row_windows_give_numbers() {
        let fit = Fit::of(rows(&[[3.0]; 30]).iter(), PLAIN).unwrap();
        assert!(score(&fit, &[5.0]).unwrap().z.abs() < 1e-300);
        let fit = Fit::of(
            rows(&[[1.0, 0.0], [0.0, 1.0]]).iter().cycle().take(40),
            PLAIN,
        )
        .unwrap();
        assert!(fit.rho.abs() < 1e-15 && score(&fit, &[1.0, 0.0]).unwrap().z.is_finite());
        assert!(Fit::of(rows(&[[0.0, 0.0], [1.0, 2.0]]).iter(), PLAIN).is_none());
    }
}
