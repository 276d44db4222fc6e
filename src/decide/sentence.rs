//! Why a feature is drifted, in one sentence: what moved, from where to where, over how long, how much
//! that is, and what the training data's own stretches of that length stay under. Written from the row of
//! the history.

use super::rule::{Finding, Question, Subject};
use crate::compare::window::Reference;
use crate::compare::{Answer, Test};
use crate::profile::{Bins, Grid, Numeric, Values};

/// Of a finding of the rule.
pub(super) fn of(finding: &Finding, reference: &Reference, every_ms: i64) -> String {
    let length = span(finding.windows, every_ms);
    let what = what_moved(finding, reference);
    let effect = effect_name(finding, reference);
    let within = significant(finding.training_effect, 2);
    format!(
        "{what} over the last {length} ({effect} {}); stretches of {length} of the training data \
         stay under {within}",
        significant(finding.effect, 2),
    )
}

/// Of a test.
pub(super) fn of_test(feature: &str, test: Test, answer: &Answer, limit: f64) -> String {
    let Ok(outcome) = answer else {
        return format!("{feature}: {test}");
    };
    let p = outcome
        .p_value
        .map_or(String::new(), |p| format!(", p {}", significant(p, 2)));
    let (effect, limit) = (significant(outcome.effect, 2), significant(limit, 2));
    format!("{feature}: {test} has an effect of {effect}, above {limit}{p}")
}

/// What was found in the stretch and what was expected of it, in the question's own units: medians,
/// interquartile ranges, shares of rows, a covariance of normal scores, rows per window.
pub(super) fn in_own_units(finding: &Finding, reference: &Reference) -> Option<(f64, f64)> {
    let Subject::Feature(i) = finding.subject else {
        return finding.values;
    };
    let (found, expected) = &finding.groups;
    if finding.values.is_some() || found.iter().sum::<f64>() <= 0.0 {
        return finding.values;
    }
    let bins = &reference.layout.features[i].bins;
    let values = &reference.profile.features[i].values;
    let (Bins::Grid(grid), Values::Numeric(all)) = (bins, values) else {
        let (_, before, after) = most_moved(found, expected);
        return Some((after, before));
    };
    let at = |counts: &[f64], q| quantile(finding, grid, all, counts, q);
    let range = |counts: &[f64]| at(counts, 0.75) - at(counts, 0.25);
    match finding.question {
        Question::Location => Some((at(found, 0.5), at(expected, 0.5))),
        Question::Spread => Some((range(found), range(expected))),
        _ => {
            let (_, before, after) = most_moved(found, expected);
            Some((after, before))
        }
    }
}

fn what_moved(finding: &Finding, reference: &Reference) -> String {
    match finding.subject {
        Subject::Feature(i) => {
            let name = &reference.layout.features[i].name;
            format!("{name}: {}", of_feature(finding, reference, i))
        }
        Subject::Pairs => {
            let (a, b) = finding.pair.unwrap_or_default();
            let name = |i: usize| reference.layout.features.get(i).map_or("", |f| &f.name);
            let (after, before) = finding.values.unwrap_or_default();
            format!(
                "{} and {}: covariance of normal scores {} -> {}",
                name(a),
                name(b),
                fixed(before),
                fixed(after)
            )
        }
        Subject::Rows => {
            let (after, before) = finding.values.unwrap_or_default();
            format!(
                "rows per window: {} -> {}",
                thousands(before),
                thousands(after)
            )
        }
    }
}

fn of_feature(finding: &Finding, reference: &Reference, i: usize) -> String {
    let bins = &reference.layout.features[i].bins;
    let (found, expected) = &finding.groups;
    if let Some((after, before)) = finding.values {
        let what = match (finding.question, bins) {
            (Question::Null, _) => "nulls",
            (Question::Missing, _) => "missing",
            (Question::WrongType, _) => "wrong types",
            (Question::New, Bins::Grid(_)) => "out of range",
            (Question::New, Bins::Levels(_)) => "new labels",
            _ => "values other than the usual one",
        };
        return format!("{what} {} -> {} of rows", percent(before), percent(after));
    }
    let values = &reference.profile.features[i].values;
    match (bins, values, finding.question) {
        (Bins::Grid(grid), Values::Numeric(all), Question::Location) => {
            let middle = |counts: &[f64]| quantile(finding, grid, all, counts, 0.5);
            format!(
                "median {} -> {}",
                number(middle(expected)),
                number(middle(found))
            )
        }
        (Bins::Grid(grid), Values::Numeric(all), Question::Spread) => {
            let half = |counts: &[f64]| {
                let at = |q| number(quantile(finding, grid, all, counts, q));
                format!("{} to {}", at(0.25), at(0.75))
            };
            format!("middle half {} -> {}", half(expected), half(found))
        }
        _ => {
            let (group, before, after) = most_moved(found, expected);
            let name = group_name(finding, bins, group);
            format!("share of {name} {} -> {}", percent(before), percent(after))
        }
    }
}

fn effect_name(finding: &Finding, reference: &Reference) -> &'static str {
    let of_labels = match finding.subject {
        Subject::Feature(i) => matches!(reference.layout.features[i].bins, Bins::Levels(_)),
        Subject::Pairs | Subject::Rows => false,
    };
    match finding.question {
        Question::Location | Question::Spread | Question::Shape if !of_labels => "KS",
        Question::Shape => "total variation",
        Question::Pairs => "difference",
        Question::Rows => "log ratio",
        _ => "difference of shares",
    }
}

/// The group whose share moved most, with the share expected and found.
fn most_moved(found: &[f64], expected: &[f64]) -> (usize, f64, f64) {
    let all = |counts: &[f64]| counts.iter().sum::<f64>().max(1.0);
    let (n, m) = (all(found), all(expected));
    let shares = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (e / m, f / n))
        .enumerate();
    let most = shares.max_by(|a, b| (a.1.1 - a.1.0).abs().total_cmp(&(b.1.1 - b.1.0).abs()));
    most.map_or((0, 0.0, 0.0), |(group, (before, after))| {
        (group, before, after)
    })
}

fn group_name(finding: &Finding, bins: &Bins, group: usize) -> String {
    let members: Vec<usize> = (finding.group_of_bin.iter().enumerate())
        .filter(|(_, g)| **g == group)
        .map(|(bin, _)| bin)
        .collect();
    match (bins, members.as_slice()) {
        (Bins::Levels(levels), [one]) => levels
            .names()
            .get(*one)
            .map_or("rare labels".into(), |name| format!("`{name}`")),
        (Bins::Levels(_), _) => "rare labels".into(),
        (Bins::Grid(grid), [first, ..]) => {
            let edge = |at: Option<usize>| at.and_then(|at| grid.cuts.get(at)).copied();
            let last = members.last().copied().unwrap_or(*first);
            // Bin i lies between the cuts i - 1 and i.
            let (low, high) = (edge(first.checked_sub(1)), edge(Some(last)));
            match (low, high) {
                (Some(low), Some(high)) if high <= low.next_up() => {
                    format!("values {}", number(low))
                }
                (Some(low), Some(high)) => {
                    format!("values from {} to {}", number(low), number(high))
                }
                (None, Some(high)) => format!("values below {}", number(high)),
                (Some(low), None) => format!("values from {}", number(low)),
                (None, None) => "values".into(),
            }
        }
        (Bins::Grid(_), []) => "values".into(),
    }
}

/// A quantile from counts per group; within a group values are spread as in the training data.
fn quantile(finding: &Finding, grid: &Grid, training: &Numeric, counts: &[f64], q: f64) -> f64 {
    let mut left = counts.iter().sum::<f64>() * q;
    let group = counts.iter().position(|count| {
        let here = left <= *count && *count > 0.0;
        left -= if here { 0.0 } else { *count };
        here
    });
    let group = group.unwrap_or(counts.len().saturating_sub(1));
    let bins = || (0..grid.bins()).filter(|bin| finding.group_of_bin.get(*bin) == Some(&group));
    let training_counts = training.counts();
    let rows = |bin: usize| training_counts[bin] as f64;
    let all: f64 = bins().map(rows).sum();
    let mut left = left / counts.get(group).copied().unwrap_or(1.0).max(1e-300) * all;
    for bin in bins() {
        if left <= rows(bin) && rows(bin) > 0.0 {
            let low = bin
                .checked_sub(1)
                .map_or(training.least, |at| grid.cuts[at]);
            let high = grid.cuts.get(bin).copied().unwrap_or(training.greatest);
            return match high <= low.next_up() {
                true => low,
                false => low + (high - low) * left / rows(bin),
            };
        }
        left -= rows(bin);
    }
    training.greatest
}

/// So many windows as people say it.
pub(super) fn span(windows: usize, every_ms: i64) -> String {
    let ms = every_ms.saturating_mul(i64::try_from(windows).unwrap_or(i64::MAX));
    let units = [
        (86_400_000, "day"),
        (3_600_000, "hour"),
        (60_000, "minute"),
        (1_000, "second"),
    ];
    let unit = units.into_iter().find(|(unit, _)| ms % unit == 0);
    let (unit, name) = unit.unwrap_or((1, "millisecond"));
    match ms / unit {
        1 => format!("1 {name}"),
        n => format!("{n} {name}s"),
    }
}

/// A number with so many significant digits.
fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    #[allow(clippy::cast_possible_truncation)] // the logarithm of a double is small
    let magnitude = value.abs().log10().floor() as i32;
    if !(-5..7).contains(&magnitude) {
        let decimals = usize::try_from(digits - 1).unwrap_or(1);
        return format!("{value:.decimals$e}");
    }
    let decimals = usize::try_from((digits - 1 - magnitude).max(0)).unwrap_or(0);
    format!("{value:.decimals$}")
}

fn number(value: f64) -> String {
    let text = significant(value, 4);
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn fixed(value: f64) -> String {
    format!("{value:.2}")
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".into(),
        percent if percent < 1.0 => format!("{} %", significant(percent, 2)),
        percent => format!("{percent:.1} %"),
    }
}

fn thousands(value: f64) -> String {
    format!("{value:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Kind;
    use crate::profile::numeric::Bin;
    use crate::profile::{FeatureLayout, Layout, Levels, Profile};

    const DAY_MS: i64 = 86_400_000;

    /// A number of 0 to 1000 in ten bins of 100 rows, labels, and what windows of them are compared with.
    fn reference() -> Reference {
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        let mut grid = Grid::from_sorted(&values, 0.0, 1000.0);
        grid.cuts = (0..=10).map(|cut| f64::from(cut) * 100.0).collect();
        grid.deciles = (1..10).collect();
        let feature = |name: &str, kind, bins| FeatureLayout {
            name: name.into(),
            kind,
            plain_numbers: false,
            dimension: 0,
            bins,
        };
        let names = ["UA", "AA", "rare"].map(str::to_owned).to_vec();
        let layout = Layout {
            features: vec![
                feature("distance", Kind::Numeric, Bins::Grid(grid)),
                feature(
                    "carrier",
                    Kind::Categorical,
                    Bins::Levels(Levels::new(names)),
                ),
            ],
        };
        let mut profile = Profile::empty(&layout, 0);
        if let Values::Numeric(numeric) = &mut profile.features[0].values {
            let hundred = Bin { sum: 0, count: 100 };
            (1..=10).for_each(|bin| numeric.bins.add(bin, hundred));
            (numeric.least, numeric.greatest) = (0.0, 1000.0);
        }
        Reference::new(layout.clone(), &layout, &profile, Vec::new(), Vec::new())
    }

    fn finding(subject: Subject, question: Question) -> Finding {
        Finding {
            subject,
            question,
            windows: 8,
            from_ms: 0,
            evidence: 20.0,
            evidence_limit: 8.0,
            effect: 0.0612,
            effect_limit: 0.02,
            training_effect: 0.0309,
            groups: Default::default(),
            group_of_bin: Vec::new(),
            values: None,
            pair: None,
            drifted: true,
            since_ms: Some(0),
            decides: true,
        }
    }

    #[track_caller]
    fn said(finding: &Finding, every_ms: i64, expected: &str) {
        assert_eq!(of(finding, &reference(), every_ms), expected);
    }

    #[test]
    fn every_question_has_its_sentence() {
        let tail = "over the last 8 days (KS 0.061); stretches of 8 days of the training data stay \
                    under 0.031";
        let number = |question| Finding {
            group_of_bin: [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1].to_vec(),
            groups: (vec![25.0, 75.0], vec![50.0, 50.0]),
            ..finding(Subject::Feature(0), question)
        };
        said(
            &number(Question::Location),
            DAY_MS,
            &format!("distance: median 500 -> 666.7 {tail}"),
        );
        said(
            &number(Question::Spread),
            DAY_MS,
            &format!("distance: middle half 250 to 750 -> 500 to 833.3 {tail}"),
        );
        said(
            &number(Question::Shape),
            DAY_MS,
            &format!("distance: share of values from 500 50.0 % -> 75.0 % {tail}"),
        );
        let labels = Finding {
            group_of_bin: vec![0, 1, 2],
            groups: (vec![21.0, 78.0, 1.0], vec![131.0, 859.0, 10.0]),
            ..finding(Subject::Feature(1), Question::Shape)
        };
        said(
            &labels,
            3_600_000,
            "carrier: share of `UA` 13.1 % -> 21.0 % over the last 8 hours (total variation 0.061); \
             stretches of 8 hours of the training data stay under 0.031",
        );
        for (question, what) in [
            (Question::Null, "nulls"),
            (Question::Missing, "missing"),
            (Question::WrongType, "wrong types"),
            (Question::New, "out of range"),
            (Question::Other, "values other than the usual one"),
        ] {
            let rate = Finding {
                windows: 1,
                effect: 0.0213,
                training_effect: 0.0,
                values: Some((0.0213, 0.0004)),
                ..finding(Subject::Feature(0), question)
            };
            said(
                &rate,
                DAY_MS,
                &format!(
                    "distance: {what} 0.040 % -> 2.1 % of rows over the last 1 day (difference of \
                     shares 0.021); stretches of 1 day of the training data stay under 0"
                ),
            );
        }
    }

    #[test]
    fn so_have_correlations_and_rows() {
        let pairs = Finding {
            values: Some((0.012, 0.803)),
            pair: Some((0, 1)),
            effect: 0.79,
            ..finding(Subject::Pairs, Question::Pairs)
        };
        said(
            &pairs,
            900_000,
            "distance and carrier: covariance of normal scores 0.80 -> 0.01 over the last 2 hours (difference 0.79); \
             stretches of 2 hours of the training data stay under 0.031",
        );
        let rows = Finding {
            values: Some((310.2, 1020.4)),
            effect: 1.19,
            training_effect: 0.4,
            ..finding(Subject::Rows, Question::Rows)
        };
        said(
            &rows,
            7 * DAY_MS,
            "rows per window: 1020 -> 310 over the last 56 days (log ratio 1.2); stretches of 56 \
             days of the training data stay under 0.40",
        );
    }

    #[test]
    fn a_test_says_its_effect_and_limit() {
        let outcome = crate::compare::Outcome {
            statistic: 0.06,
            p_value: Some(1.23e-9),
            expected: None,
            effect: 0.06,
            error_bound: None,
        };
        let said = of_test("age", Test::Ks, &Ok(outcome), 0.02);
        assert_eq!(
            said,
            "age: ks has an effect of 0.060, above 0.020, p 1.2e-9"
        );
    }
}
