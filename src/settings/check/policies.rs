//! How a window is judged.

use crate::compare::Test;
use crate::compare::adjust::Adjustment;
use crate::decide::rule;
use crate::monitor::{AlertPolicy, FalseAlarms, Judging, Limit};
use crate::settings::field::Field;
use crate::settings::problem::nearest;
use crate::settings::read::Section;
use crate::window::Spec;

use super::{MINUTE_MS, YEAR_MS, section};

/// Every test but the rule.
fn known() -> Vec<&'static str> {
    let tests = Test::ALL.iter().filter(|test| **test != Test::Rule);
    tests.map(|test| test.as_str()).collect()
}

/// Everything that says how a window is judged.
pub(super) fn judging(s: &Section<'_>, window: Option<&Spec>) -> Option<Judging> {
    gone(s);
    let false_alarms = s.must("false_alarms", "expected a table", |f| {
        false_alarms(f, window)
    });
    let questions = s.must("questions", "expected a table", questions);
    let tests = s.must("tests", "expected a list", tests);
    let adjustment = s.must("adjustment", "expected an adjustment", |f| {
        f.choice(&Adjustment::ALL.map(|adjustment| (adjustment.as_str(), adjustment)))
    });
    let min_rows = s.must("min_rows", "expected a number", |f| {
        f.integer(1..=1_000_000_000)
    });
    let alert = s.must("alert", "expected a table", |f| section(f, alert));
    Some(Judging {
        false_alarms: false_alarms?,
        questions: rule::changed(rule::usual_limits(), &questions?),
        tests: tests?,
        adjustment: adjustment?,
        min_rows: min_rows?,
        alert: alert?,
    })
}

/// Keys of earlier versions, with what to write instead.
const GONE: [(&str, &str); 4] = [
    (
        "mode",
        "remove it: driftd learns where the training data hold 20 windows, and the tests decide elsewhere",
    ),
    (
        "guard",
        "remove it: false_alarms holds without a safety factor",
    ),
    (
        "alpha",
        "write false_alarms = { max = 1, per = \"30d\" }: the tests decide at the same rate",
    ),
    (
        "min_share",
        "remove it; retraining.min_drifted_share says how many features a retraining needs",
    ),
];

fn gone(section: &Section<'_>) {
    for (key, right) in GONE {
        if let Some(field) = section.field(key) {
            field.fault("a key that driftd no longer has", right);
        }
    }
}

/// `{ location = { effect = 0.05 }, rows = { decides = false } }`.
pub(super) fn questions(field: &Field<'_>) -> Option<Vec<rule::Change>> {
    let known = rule::Question::ALL.map(rule::Question::as_str);
    let change = |(name, f): &(&str, Field<'_>)| {
        let Some(at) = known.iter().position(|known| known == name) else {
            f.fault(
                format!("no question {name:?}"),
                format!("known are {}", known.join(", ")),
            );
            return None;
        };
        section(f, |s| {
            let effect = s
                .has("effect")
                .then(|| s.may("effect", |f| f.number(0.0..=1e6)));
            let decides = s.has("decides").then(|| s.may("decides", Field::boolean));
            let wrong = effect == Some(None) || decides == Some(None);
            (!wrong).then_some(rule::Change {
                question: rule::Question::ALL[at],
                effect: effect.flatten(),
                decides: decides.flatten(),
            })
        })
    };
    let changes: Vec<Option<rule::Change>> = field.section()?.all().iter().map(change).collect();
    changes.into_iter().collect()
}

fn false_alarms(field: &Field<'_>, window: Option<&Spec>) -> Option<FalseAlarms> {
    let read = section(field, |s| {
        let max = s.must("max", "expected a number", |f| f.number(1e-6..=1e6));
        let per_ms = s.must("per", "expected a duration", |f| {
            f.duration_ms(MINUTE_MS..=100 * YEAR_MS)
        });
        Some(FalseAlarms {
            max: max?,
            per_ms: per_ms?,
        })
    })?;
    if let Some(window) = window {
        // Window lengths in milliseconds are far below 2^53.
        let windows = read.per_ms as f64 / window.every_ms as f64;
        if read.max > windows {
            let found = format!("{} false alarms allowed in {windows:.3} windows", read.max);
            field.fault(
                found,
                "expected fewer alarms than windows: a smaller max or a longer per",
            );
            return None;
        }
    }
    Some(read)
}

/// `["ks", "psi"]` with the default limits, or `{ psi = { effect = 0.25 } }`.
fn tests(field: &Field<'_>) -> Option<Vec<Limit>> {
    const RIGHT: &str = "expected names of tests such as [\"ks\", \"psi\"], or limits such as \
                         { psi = { effect = 0.25 }, ks = { decides = false } }";
    let limits: Vec<Option<Limit>> = if let Some(names) = field.as_list() {
        let named = |f: &Field<'_>| test(f.as_text().unwrap_or_default(), f).map(Limit::usual);
        names.iter().map(named).collect()
    } else if field.is_table() {
        let section = field.section()?;
        section
            .all()
            .iter()
            .map(|(name, f)| limit(name, f))
            .collect()
    } else {
        Vec::new()
    };
    if limits.is_empty() {
        field.wrong(RIGHT);
        return None;
    }
    let limits: Vec<Limit> = limits.into_iter().collect::<Option<_>>()?;
    let twice = |(i, limit): (usize, &Limit)| limits[..i].iter().any(|l| l.test == limit.test);
    if limits.iter().enumerate().any(twice) {
        field.fault("a test is listed twice", "list each test once");
        return None;
    }
    Some(limits)
}

fn test(name: &str, field: &Field<'_>) -> Option<Test> {
    let known = known();
    let test = name.parse().ok().filter(|_: &Test| known.contains(&name));
    if test.is_none() {
        let right = match (name, nearest(name, known.iter().copied())) {
            ("learned" | "rule", _) => {
                "remove it: the rule is no test; it decides where the training data hold 20 windows"
                    .into()
            }
            (_, Some(meant)) => format!("did you mean {meant}? Known are {}", known.join(", ")),
            (_, None) => format!("known are {}", known.join(", ")),
        };
        field.fault(format!("no test {name:?}"), right);
    }
    test
}

fn limit(name: &str, field: &Field<'_>) -> Option<Limit> {
    let test = test(name, field)?;
    section(field, |s| {
        let usual = Limit::usual(test);
        let effect = match s.has("effect") {
            true => s.may("effect", |f| f.number(0.0..=1e6)),
            false => Some(usual.effect),
        };
        let decides = match s.has("decides") {
            true => s.may("decides", Field::boolean),
            false => Some(usual.decides),
        };
        Some(Limit {
            test,
            effect: effect?,
            decides: decides?,
        })
    })
}

fn alert(section: &Section<'_>) -> Option<AlertPolicy> {
    let windows = section.must("windows", "expected a number", |f| {
        f.integer::<u32>(1..=1_000)
    });
    let of = section.must("of", "expected a number", |f| f.integer::<u32>(1..=1_000));
    let resolve_after = section.must("resolve_after", "expected a number", |f| {
        f.integer(1..=1_000)
    });
    let unknown_after_ms = section.must("unknown_after", "expected a duration", |f| {
        f.duration_ms(MINUTE_MS..=100 * YEAR_MS)
    });
    if let (Some(windows), Some(last)) = (windows, of)
        && windows > last
        && let Some(field) = super::blamed(section, ["windows", "of"])
    {
        let found = format!("{windows} drifted windows among the last {last}");
        field.fault(found, "expected windows not to be more than of");
        return None;
    }
    Some(AlertPolicy {
        windows: windows?,
        of: of?,
        resolve_after: resolve_after?,
        unknown_after_ms: unknown_after_ms?,
    })
}
