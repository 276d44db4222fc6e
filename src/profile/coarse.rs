//! The coarse bins that the learned mode and the tests on counts read: about ten quantile bins or
//! the levels, with values that are absent and labels that are unseen in bins of their own.

use super::{Bins, Feature, FeatureLayout, Layout, Profile, Values};

/// The counts of every feature on its coarse bins.
pub fn of_profile(layout: &Layout, profile: &Profile) -> Vec<Vec<u64>> {
    let features = profile.features.iter().zip(&layout.features);
    features
        .map(|(feature, layout)| of_feature(layout, feature))
        .collect()
}

/// The counts of one feature: its deciles or levels, then `unseen` for labels, then `absent`.
pub fn of_feature(layout: &FeatureLayout, feature: &Feature) -> Vec<u64> {
    let mut counts = match (&feature.values, &layout.bins) {
        (Values::Numeric(numeric), Bins::Grid(grid)) => grid.coarse(&numeric.counts()),
        (Values::Categorical(categorical), _) => {
            let mut counts = categorical.counts();
            counts.push(categorical.unseen);
            counts
        }
        (Values::Numeric(numeric), Bins::Levels(_)) => numeric.counts(),
    };
    counts.push(feature.quality.absent());
    counts
}

/// Which of the bins never join others in one bin for rare levels: all of a numeric feature, and
/// of a categorical one those for `unseen` and `absent`.
pub fn own(layout: &FeatureLayout) -> Vec<bool> {
    match &layout.bins {
        Bins::Grid(grid) => vec![true; grid.deciles.len() + 2],
        Bins::Levels(levels) => {
            let mut own = vec![false; levels.names().len()];
            own.extend([true, true]);
            own
        }
    }
}

/// How many of the first bins are in order: those of numbers; 0 for labels.
pub fn ordered(layout: &FeatureLayout) -> usize {
    match &layout.bins {
        Bins::Grid(grid) => grid.deciles.len() + 1,
        Bins::Levels(_) => 0,
    }
}

/// What people call the bins, in the same order.
pub fn names(layout: &FeatureLayout) -> Vec<String> {
    let mut names = match &layout.bins {
        Bins::Grid(grid) => {
            let edges: Vec<f64> = grid
                .deciles
                .iter()
                .map(|at| grid.cuts[*at as usize])
                .collect();
            numeric_names(&edges)
        }
        Bins::Levels(levels) => {
            let mut names = levels.names().to_vec();
            names.push("(unseen)".into());
            names
        }
    };
    names.push("(absent)".into());
    names
}

fn numeric_names(edges: &[f64]) -> Vec<String> {
    let Some((first, last)) = edges.first().zip(edges.last()) else {
        return vec!["(all)".into()];
    };
    let mut names = vec![format!("< {first}")];
    names.extend(
        edges
            .windows(2)
            .map(|pair| format!("{} to {}", pair[0], pair[1])),
    );
    names.push(format!(">= {last}"));
    names
}
