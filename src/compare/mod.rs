//! The statistical tests: a closed set, one file per test, all pure.
//!
//! A test takes a reference and a window and gives an `Answer`: an `Outcome`, or the `Reason`
//! why there is none. No test panics, and none answers NaN. What holds for all of them:
//!
//! - `statistic` is what the literature calls the statistic, without any adjustment.
//! - `p_value` is the probability of a statistic at least as large if both sides were drawn from
//!   the same distribution, *row by row independently*. Rows of one window seldom are independent
//!   (one day has one weather), which is why `decide::rule` exists; read p-values as upper
//!   bounds on the surprise.
//! - `effect` says how far the two sides are apart on a scale that does not grow with the number of
//!   rows; never negative, 0 for no difference. Limits in the settings are limits on it.
//! - `error_bound` is `None` where the answer is exact. Otherwise the statistic of the full data
//!   lies in `[statistic, statistic + error_bound]`; each file that says so proves it.
//!
//! An empty reference gives `Reason::NoReference`, an empty window `Reason::TooFewRows`, in
//! this order, for every test. Two sides that are constant and equal are an answer (statistic 0),
//! not a reason.
//!
//! - `expected` is what chance alone gives: distances over many bins are biased upwards by about
//!   (bins - 1) / rows, and a limit on the plain statistic would cry wolf on every feature with many
//!   levels. Where it is known, the effect is what goes beyond it.
//!
//! To add a test: a line in `tests!` below, a file beside the others, a line in `window` that calls
//! it, golden numbers under `tests/reference/`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod adjust;
pub mod anderson;
pub mod attribution;
#[cfg(test)]
mod chance;
pub mod chi2;
pub mod cramers_v;
pub mod cvm;
pub mod energy;
pub mod epps_singleton;
mod feature;
pub mod fisher;
pub mod g;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_bins;
pub mod hellinger;
pub mod js;
pub mod kl;
pub mod ks;
pub mod kuiper;
pub mod law;
pub mod linf;
pub mod mann_whitney;
mod merge;
pub mod multivariate;
#[cfg(test)]
mod numeric_golden;
pub mod out_of_range;
pub mod psi;
pub mod rates;
pub mod row_volume;
mod table;
pub mod tv;
pub mod unseen;
pub mod wasserstein;
pub mod welch_t;
pub mod window;

/// Declares the tests once: variant, name and what they are for.
macro_rules! tests {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $scope:ident;)*) => {
        /// The tests, by the names they have in settings, SQL and JSON.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum Test {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Test {
            /// Every test, in the order in which they are declared.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name, the same as in serialised form.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it is a test of.
            pub fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope,)* }
            }
        }
    };
}

/// What a test is a test of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One numeric feature.
    Numeric,
    /// One categorical feature.
    Categorical,
    /// One feature of either kind.
    Feature,
    /// Many features together, on the row samples.
    Joint,
    /// The window as a whole.
    Window,
    /// One feature, against the baseline's own windows; `decide` has them.
    History,
}

tests! {
    /// Two-sample Kolmogorov-Smirnov.
    Ks = "ks", Numeric;
    /// Two-sample Cramér-von Mises.
    Cvm = "cvm", Numeric;
    /// Two-sample Anderson-Darling, midrank version.
    Anderson = "anderson", Numeric;
    /// Mann-Whitney U.
    MannWhitney = "mann_whitney", Numeric;
    /// Welch's t.
    WelchT = "welch_t", Numeric;
    /// Epps-Singleton, on the empirical characteristic functions.
    EppsSingleton = "epps_singleton", Numeric;
    /// Two-sample Kuiper.
    Kuiper = "kuiper", Numeric;
    /// Wasserstein-1 distance in the feature's own unit.
    Wasserstein = "wasserstein", Numeric;
    /// Wasserstein-1 distance in standard deviations of the baseline.
    WassersteinNormed = "wasserstein_normed", Numeric;
    /// Energy distance.
    Energy = "energy", Numeric;
    /// Population stability index.
    Psi = "psi", Feature;
    /// Jensen-Shannon distance, base 2.
    Js = "js", Feature;
    /// Kullback-Leibler divergence of the window from the reference, natural logarithm.
    Kl = "kl", Feature;
    /// Hellinger distance.
    Hellinger = "hellinger", Feature;
    /// Total variation distance.
    Tv = "tv", Feature;
    /// Largest difference of the shares of one bin.
    Linf = "linf", Feature;
    /// Chi-square test of homogeneity, no Yates correction.
    Chi2 = "chi2", Categorical;
    /// The same with Yates' correction where there are two levels.
    Chi2Yates = "chi2_yates", Categorical;
    /// Likelihood-ratio (G) test of homogeneity.
    G = "g", Categorical;
    /// Fisher's exact test, for two levels.
    Fisher = "fisher", Categorical;
    /// Cramér's V.
    CramersV = "cramers_v", Categorical;
    /// Share of rows without a usable value.
    NullRate = "null_rate", Feature;
    /// Share of rows that lack the field.
    MissingRate = "missing_rate", Feature;
    /// Share of rows whose value cannot be read as what the feature is.
    TypeErrors = "type_errors", Feature;
    /// Share of values with a level that the baseline never held.
    UnseenRate = "unseen_rate", Categorical;
    /// Share of values beyond the baseline's range.
    OutOfRange = "out_of_range", Numeric;
    /// Rows of the window against the baseline's windows.
    RowVolume = "row_volume", Window;
    /// Maximum mean discrepancy.
    Mmd = "mmd", Joint;
    /// Area under the curve of a classifier that tells the two sides apart.
    DomainClassifier = "domain_classifier", Joint;
    /// Reconstruction error by the baseline's principal components.
    PcaReconstruction = "pca_reconstruction", Joint;
    /// What the rule says of the feature (see `decide::rule`).
    Rule = "rule", History;
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Test {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .copied()
            .find(|test| test.as_str() == name)
            .ok_or_else(|| Error::UnknownTest(name.to_owned()))
    }
}

/// What can be wrong about a test's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No test has this name.
    #[error("no test is called `{0}`; there are: {all}", all = names())]
    UnknownTest(String),
}

fn names() -> String {
    let names: Vec<&str> = Test::ALL.iter().map(|test| test.as_str()).collect();
    names.join(", ")
}

/// What a test found. See the module for what the fields promise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The test's own statistic.
    pub statistic: f64,
    /// Probability of it without drift and with independent rows; `None` where no law is known.
    pub p_value: Option<f64>,
    /// Expectation of the statistic without drift at these numbers of rows, where it is known.
    pub expected: Option<f64>,
    /// Distance on a scale that does not depend on the number of rows; at least 0.
    pub effect: f64,
    /// How much the statistic of the full data may exceed `statistic`; `None` means exact.
    pub error_bound: Option<f64>,
}

impl Outcome {
    /// An exact outcome whose effect is the statistic itself.
    fn plain(statistic: f64, p_value: Option<f64>) -> Self {
        Self {
            statistic,
            p_value,
            expected: None,
            effect: statistic,
            error_bound: None,
        }
    }
}

/// Why a test has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The window holds too few rows for this test.
    TooFewRows,
    /// The baseline does not vary, so that no scale exists on which to say how far the window is.
    NoVariance,
    /// The baseline holds no value of this feature.
    NoReference,
    /// The distance is infinite or beyond the range of a 64-bit float.
    NotFinite,
    /// The two sides were not counted on the same bins.
    DifferentBins,
    /// The test is one for two levels, and there are more.
    NotTwoLevels,
    /// The rows that the test needs as they were are not kept.
    NoSample,
}

impl Reason {
    /// The name, the same as in serialised form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooFewRows => "too_few_rows",
            Self::NoVariance => "no_variance",
            Self::NoReference => "no_reference",
            Self::NotFinite => "not_finite",
            Self::DifferentBins => "different_bins",
            Self::NotTwoLevels => "not_two_levels",
            Self::NoSample => "no_sample",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The outcome of a test, or why there is none.
pub type Answer = Result<Outcome, Reason>;

/// Rows on both sides, once it is known that both sides have bins in common and rows at all; `more` are
/// rows of the window in bins of its own.
fn totals(reference: &[u64], window: &[u64], more: f64) -> Result<(f64, f64), Reason> {
    if reference.len() != window.len() {
        return Err(Reason::DifferentBins);
    }
    let sum = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>();
    let (reference, window) = (sum(reference), sum(window) + more);
    if reference <= 0.0 {
        Err(Reason::NoReference)
    } else if window <= 0.0 {
        Err(Reason::TooFewRows)
    } else {
        Ok((reference, window))
    }
}

/// Pairs of counts in the bins that at least one side has rows in.
fn occupied(reference: &[u64], window: &[u64]) -> impl Iterator<Item = (f64, f64)> {
    reference
        .iter()
        .zip(window)
        .filter(|&(&left, &right)| left > 0 || right > 0)
        .map(|(&left, &right)| (left as f64, right as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_serialised_form_and_parse_back() {
        for test in Test::ALL {
            assert_eq!(serde_json::to_value(test).unwrap(), test.as_str());
            assert_eq!(test.as_str().parse::<Test>(), Ok(*test));
        }
        let error = "kss".parse::<Test>().unwrap_err().to_string();
        assert!(
            error.contains("`kss`") && error.contains("wasserstein"),
            "{error}"
        );
    }

    #[test]
    fn reasons_agree_with_serialised_form() {
        use Reason::{
            DifferentBins, NoReference, NoSample, NoVariance, NotFinite, NotTwoLevels, TooFewRows,
        };
        for reason in [
            TooFewRows,
            NoVariance,
            NoReference,
            NotFinite,
            DifferentBins,
            NotTwoLevels,
            NoSample,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
