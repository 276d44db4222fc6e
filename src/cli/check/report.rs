//! What `driftd check` prints.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Checked, Verdict};
use crate::compare::{Answer, Scope};
use crate::decide::verdict::Scored;
use crate::profile::{Feature, Profile, coarse};

/// Everything, for programs.
pub(super) fn json(checked: &Checked) -> Value {
    let reference = &checked.judge.reference;
    let features = reference.layout.features.iter().enumerate();
    let features: Vec<Value> = features
        .map(|(i, layout)| {
            json!({
                "name": layout.name,
                "kind": layout.kind,
                "drifted": checked.judged.drifted.contains(&layout.name),
                "quality": {
                    "reference": quality(&reference.profile, i),
                    "current": quality(&checked.current, i),
                },
                "scores": scores_of(checked, &layout.name).map(score).collect::<Vec<_>>(),
                "contributions": worst_of(checked, &layout.name).map(|s| &s.contributions).unwrap_or(&Vec::new()),
            })
        })
        .collect();
    let joint = checked.judged.scores.iter();
    let joint = joint.filter(|scored| scored.test.scope() == Scope::Joint);
    let joint: Vec<Value> = joint
        .map(|scored| {
            let mut value = score(scored);
            value["contributions"] = json!(scored.contributions);
            value
        })
        .collect();
    json!({
        "rows": {"reference": reference.profile.rows, "current": checked.current.rows},
        "verdict": checked.verdict,
        "false_alarms": checked.judge.alpha,
        "adjustment": checked.judge.judging.adjustment,
        "differences": checked.differences,
        "features": features,
        "joint": joint,
        "sentences": checked.judged.sentences(),
    })
}

fn score(scored: &Scored) -> Value {
    let answer = scored.answer;
    json!({
        "test": scored.test,
        "statistic": answer.ok().map(|outcome| outcome.statistic),
        "p_value": answer.ok().and_then(|outcome| outcome.p_value),
        "p_adjusted": scored.p_adjusted,
        "expected": answer.ok().and_then(|outcome| outcome.expected),
        "effect": answer.ok().map(|outcome| outcome.effect),
        "threshold": scored.threshold,
        "decides": scored.decides,
        "drifted": scored.drifted,
        "reason": answer.err(),
        "error_bound": answer.ok().and_then(|outcome| outcome.error_bound),
    })
}

fn quality(profile: &Profile, i: usize) -> Value {
    let Feature { quality, .. } = &profile.features[i];
    json!({
        "null": quality.null,
        "missing": quality.missing,
        "type_errors": quality.wrong_type,
        "nan": quality.nan,
        "pos_inf": quality.pos_inf,
        "neg_inf": quality.neg_inf,
        "coerced": quality.coerced,
        "unseen": profile.features[i].unseen(),
    })
}

fn scores_of<'a>(checked: &'a Checked, name: &'a str) -> impl Iterator<Item = &'a Scored> {
    let scores = checked.judged.scores.iter();
    scores.filter(move |scored| scored.feature == name && scored.test.scope() != Scope::Joint)
}

/// The test of a feature that is furthest over its limit, those that speak for drift first.
fn worst_of<'a>(checked: &'a Checked, name: &'a str) -> Option<&'a Scored> {
    let scores = scores_of(checked, name).filter(|scored| scored.decides);
    scores.max_by(|a, b| by_distance(a, b))
}

/// What speaks for drift is further than what does not; then by how far over the limit, and where no
/// effect is left, by p.
fn by_distance(a: &Scored, b: &Scored) -> Ordering {
    let p = |scored: &Scored| scored.p_adjusted.unwrap_or(1.0);
    let further = a.drifted.cmp(&b.drifted);
    further
        .then(ratio(a).total_cmp(&ratio(b)))
        .then(p(b).total_cmp(&p(a)))
}

fn ratio(scored: &Scored) -> f64 {
    match (&scored.answer, scored.threshold) {
        (Ok(outcome), Some(limit)) => outcome.effect / limit.max(f64::MIN_POSITIVE),
        _ => -1.0,
    }
}

/// Worst first, one line a feature, then all features together, then the verdict.
pub(super) fn table(checked: &Checked) -> String {
    let reference = &checked.judge.reference;
    let mut order: Vec<(usize, Option<&Scored>)> = reference
        .layout
        .features
        .iter()
        .enumerate()
        .map(|(i, layout)| (i, worst_of(checked, &layout.name)))
        .collect();
    order.sort_by(|a, b| match (a.1, b.1) {
        (Some(a), Some(b)) => by_distance(b, a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let width = |i: usize| reference.layout.features[i].name.chars().count();
    let width = order
        .iter()
        .map(|(i, _)| width(*i))
        .max()
        .unwrap_or(7)
        .clamp(7, 40);
    let mut text = format!(
        "{:<width$}  {:<11}  {:<12} {:<12}  {:<14} {:>10} {:>9} {:>8}  effect against its limit\n",
        "feature", "kind", "reference", "current", "test", "statistic", "p adj", "effect"
    );
    for (i, worst) in order {
        line(&mut text, checked, i, worst, width);
    }
    for scored in &checked.judged.scores {
        if scored.test.scope() == Scope::Joint {
            joint_line(&mut text, scored, width);
        }
    }
    notes(&mut text, checked);
    let _ = writeln!(text, "\n{}", verdict(checked));
    let lines = text.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

fn line(text: &mut String, checked: &Checked, i: usize, worst: Option<&Scored>, width: usize) {
    let layout = &checked.judge.reference.layout.features[i];
    let picture = |profile: &Profile| {
        let mut counts = coarse::of_feature(layout, &profile.features[i]);
        counts.truncate(12);
        sparkline(&counts)
    };
    let kind = json!(layout.kind);
    let _ = write!(
        text,
        "{:<width$}  {:<11}  {:<12} {:<12}  ",
        short(&layout.name, width),
        kind.as_str().unwrap_or_default(),
        picture(&checked.judge.reference.profile),
        picture(&checked.current),
    );
    match worst {
        Some(scored) => numbers(text, scored),
        None => text.push_str("no test\n"),
    }
}

fn joint_line(text: &mut String, scored: &Scored, width: usize) {
    let _ = write!(
        text,
        "{:<width$}  {:<11}  {:<12} {:<12}  ",
        "(joint)", "", "", ""
    );
    numbers(text, scored);
    if scored.drifted {
        let named = scored
            .contributions
            .iter()
            .take(3)
            .map(|one| one.bin.as_str());
        let named: Vec<&str> = named.collect();
        let _ = writeln!(text, "{:<width$}  told apart by {}", "", named.join(", "));
    }
}

fn numbers(text: &mut String, scored: &Scored) {
    let _ = match scored.answer {
        Answer::Err(reason) => writeln!(text, "{:<14} no answer: {reason}", scored.test),
        Answer::Ok(outcome) => writeln!(
            text,
            "{:<14} {:>10} {:>9} {:>8}  {}",
            scored.test,
            number(outcome.statistic),
            scored.p_adjusted.map_or_else(|| "-".into(), number),
            number(outcome.effect),
            bar(ratio(scored), scored.drifted),
        ),
    };
}

/// Up to ten blocks for an effect of up to ten times its limit; what speaks for drift is said.
fn bar(ratio: f64, drifted: bool) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 10"
    )]
    let blocks = ratio.clamp(0.0, 10.0).ceil() as usize;
    let word = if drifted { "  drifted" } else { "" };
    format!("{:<10}{word}", "#".repeat(blocks))
        .trim_end()
        .to_owned()
}

/// Four digits, in powers of ten where that is shorter.
fn number(value: f64) -> String {
    let size = value.abs();
    if size <= 0.0 {
        "0".into()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.1e}")
    } else {
        format!("{value:.4}")
    }
}

/// Shares as bars of eight heights, the highest of them full.
fn sparkline(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let height = |count: &u64| {
        let height = u128::from(*count) * 8 / (u128::from(most) + 1);
        BARS[usize::try_from(height).unwrap_or(7).min(7)]
    };
    counts.iter().map(height).collect()
}

fn short(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    let cut: String = name.chars().take(width.saturating_sub(1)).collect();
    format!("{cut}…")
}

/// What differs between the columns, and values that are not as they should be.
fn notes(text: &mut String, checked: &Checked) {
    let list = |names: &[String]| names.join(", ");
    let differences = &checked.differences;
    if !differences.missing.is_empty() {
        let _ = writeln!(
            text,
            "\nnot in the current data: {}",
            list(&differences.missing)
        );
    }
    if !differences.new.is_empty() {
        let _ = writeln!(
            text,
            "\nnot in the reference, not compared: {}",
            list(&differences.new)
        );
    }
    for (i, layout) in checked.judge.reference.layout.features.iter().enumerate() {
        let errors = checked.current.features[i].quality.wrong_type;
        if errors > 0 {
            let _ = writeln!(text, "{}: {errors} values of another type", layout.name);
        }
    }
}

fn verdict(checked: &Checked) -> String {
    let judged = &checked.judged;
    let (reference, current) = (checked.judge.reference.profile.rows, checked.current.rows);
    let rows = format!("{current} rows against {reference}");
    let together = match (judged.drifted.is_empty(), judged.joint) {
        (false, true) => " and all features together",
        (true, true) => "all features together",
        _ => "",
    };
    match checked.verdict {
        Verdict::Drifted if judged.drifted.is_empty() => format!("DRIFTED: {together} ({rows})"),
        Verdict::Drifted => format!(
            "DRIFTED: {} of {} features{together}, worst {} ({rows})",
            judged.drifted.len(),
            judged.features,
            judged.drifted[0],
        ),
        Verdict::Stable => format!("STABLE: none of {} features ({rows})", judged.features),
        Verdict::TooFewRows => format!("COULD NOT TELL: too few rows ({rows})"),
        Verdict::CouldNotTell => format!("COULD NOT TELL: no test has an answer ({rows})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures() {
        assert_eq!(sparkline(&[0, 1, 2, 4, 8]), "▁▁▂▄█");
        assert_eq!(sparkline(&[0, 0]), "▁▁");
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&[u64::MAX, 1]), "█▁");
        assert_eq!(bar(0.2, false), "#");
        assert_eq!(bar(3.4, true), "####        drifted");
        assert_eq!(bar(-1.0, false), "");
        assert_eq!(number(1e-9), "1.0e-9");
        assert_eq!(number(0.25), "0.2500");
        assert_eq!(short("a_long_name", 6), "a_lon…");
    }
}
