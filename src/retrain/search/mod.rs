//! Hyperparameter search: which parameters the next trial gets, which trial won, and which may stop
//! early.
//!
//! A search is JSON: how to search, over which space, for how many trials, and what the objective
//! is. What is known of its trials is an argument, and so is the number of the trial to suggest
//! for; nothing is kept in between, so that any replica answers alike, before and after a crash.
//! `suggest` is a pure function of (search, history, number). The seed belongs to the search:
//! who stores one without a seed gives it one first, or it is searched as if the seed were 0.
//!
//! Three methods:
//!
//! - `grid`: every combination once, in order (`Search::grid_size` of them).
//! - `random`: independent draws, uniform on the scale of each parameter (Bergstra and Bengio,
//!   Random search for hyper-parameter optimization, JMLR 13, 2012).
//! - `tpe`: the Tree-structured Parzen Estimator, which draws where good trials have been denser
//!   than others; formula, source and limits are in `tpe.rs`.
//!
//! The space is flat: no parameter depends on the choice of another.
//!
//! Random numbers come from splitmix64, keyed by seed and trial, not from a crate: an upgrade of a
//! dependency must not change what a search that is under way suggests next, nor must replicas of
//! two releases disagree. The same holds for TPE. Three crates were looked at (November 2026).
//! `tpe` 0.3 is maintained and correct, but knows only continuous numbers and labels: scale, step,
//! running trials, the split's cap and the weight of old trials would be ours anyway, and its prior
//! is as narrow as its neighbours make it instead of as wide as the range. `parzen` 0.3 pins
//! serde, hashbrown and others to exact versions and promises no sequence across releases or
//! processors. `optimizer` 1.0 takes one bandwidth by Scott's rule, which is not the estimator
//! asked for, and treats running trials only in its multivariate sampler.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

mod axis;
mod grid;
mod parzen;
mod random;
mod read;
mod space;
#[cfg(test)]
mod tests;
mod tpe;

pub use read::Problem;
pub use space::Domain;

/// Budgets, in trials.
const TRIALS: std::ops::RangeInclusive<i64> = 1..=10_000;
/// How many trials may be open at once.
const PARALLEL: std::ops::RangeInclusive<i64> = 1..=1_000;
/// How many, where nothing is said.
const USUAL_PARALLEL: i64 = 4;

/// A search, as it is stored with a job and in the settings. Its JSON:
///
/// ```json
/// {
///   "method": "tpe",
///   "space": {
///     "rate":   {"type": "float", "low": 0.0001, "high": 0.3, "log": true},
///     "depth":  {"type": "int", "low": 2, "high": 12, "step": 2},
///     "kernel": {"type": "categorical", "choices": ["linear", "rbf"]}
///   },
///   "trials": 50,
///   "parallel": 4,
///   "objective": {"name": "auc", "goal": "maximize"},
///   "pruner": {"type": "median", "min_trials": 5, "min_step": 1},
///   "seed": 7
/// }
/// ```
///
/// `parallel` (4), `pruner` (none) and `seed` may be left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// How the next parameters are found.
    pub method: Method,
    /// What is searched: the values that each parameter may take, by its name.
    pub space: BTreeMap<String, Domain>,
    /// The budget: how many trials at most, 1 to 10000.
    pub trials: u32,
    /// How many trials may be open at once, 1 to 1000.
    pub parallel: u32,
    /// What is made as great or as small as can be.
    pub objective: Objective,
    /// When a trial is stopped before its end; `None`: never.
    pub pruner: Option<Pruner>,
    /// Decides all draws, together with the number of the trial.
    pub seed: Option<u64>,
}

/// How the next parameters are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Every combination, in order.
    Grid,
    /// Independent draws.
    Random,
    /// Tree-structured Parzen Estimator.
    Tpe,
}

/// The number that a trial reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objective {
    /// What it is called in a trial's metrics.
    pub name: String,
    /// Which way is better.
    pub goal: Goal,
}

/// Which way an objective is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Greater is better.
    Maximize,
    /// Less is better.
    Minimize,
}

/// When a trial is stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pruner {
    /// When its value is worse than the median of the others' at the same step.
    Median {
        /// So many other trials have to have reported at that step.
        min_trials: u32,
        /// Not before this step, in the trial's own unit (epochs, rounds).
        min_step: u32,
    },
}

/// A trial as [`suggest`] and [`best`] need to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// From 0; each once in a search.
    pub number: u32,
    /// What it was given.
    pub parameters: Map<String, Value>,
    /// How far it came.
    pub state: State,
}

/// How far a trial came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    /// It was suggested and has not ended.
    Running,
    /// It ended.
    Done {
        /// What it reported, in the objective's own unit. Not finite: it counts as failed.
        objective: f64,
    },
    /// It was stopped early.
    Pruned {
        /// What it reported last.
        last: f64,
    },
    /// It ended without a result.
    Failed,
}

impl Search {
    /// Reads a search.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once, each with its path, e.g. `space.depth.low`.
    pub fn parse(value: &Value) -> Result<Self, Vec<Problem>> {
        read::search(value)
    }

    /// How many trials there will be: the budget, or fewer where a grid has fewer combinations.
    pub fn total(&self) -> u32 {
        let size = match self.method {
            Method::Grid => self.grid_size().unwrap_or(u64::MAX),
            Method::Random | Method::Tpe => u64::MAX,
        };
        u32::try_from(size).map_or(self.trials, |size| size.min(self.trials))
    }

    /// How many combinations the grid has, `u64::MAX` where there are more; `None` where a float
    /// has no `points`.
    pub fn grid_size(&self) -> Option<u64> {
        grid::size(&self.space)
    }

    /// The better of two numbers first.
    fn order(&self, one: f64, other: f64) -> Ordering {
        match self.objective.goal {
            Goal::Maximize => other.total_cmp(&one),
            Goal::Minimize => one.total_cmp(&other),
        }
    }
}

/// The parameters of trial `number`, from 0; `None` where the budget or the grid is exhausted.
///
/// `history` is what is known of the other trials, in any order; `grid` and `random` do not look
/// at it. The same arguments give the same parameters. `tpe` takes time in proportion to the
/// parameters times the trials, from thousands of trials on some milliseconds for each parameter:
/// too much for a thread that others wait on.
pub fn suggest(search: &Search, history: &[Trial], number: u32) -> Option<Map<String, Value>> {
    if number >= search.total() {
        return None;
    }
    match search.method {
        Method::Grid => grid::suggest(&search.space, number),
        Method::Random => Some(random::suggest(search, number)),
        Method::Tpe => Some(tpe::suggest(search, history, number)),
    }
}

/// The trial with the best objective, of several the one with the lowest number. Only trials that
/// are done can win: a pruned one has no finished model, and an objective that is not finite is
/// none.
pub fn best<'a>(search: &Search, trials: &'a [Trial]) -> Option<&'a Trial> {
    let done = trials.iter().filter_map(|trial| match trial.state {
        State::Done { objective } if objective.is_finite() => Some((objective, trial)),
        _ => None,
    });
    done.min_by(|(a, one), (b, other)| {
        // Adding 0 makes one zero of the two.
        search
            .order(a + 0.0, b + 0.0)
            .then(one.number.cmp(&other.number))
    })
    .map(|(_, trial)| trial)
}
