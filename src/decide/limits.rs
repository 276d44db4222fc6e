//! The tests against the limits of the settings, and what deciding scores say together.

use std::collections::BTreeMap;

use super::sentence;
use super::verdict::{JOINT, Judge, ROWS, Said, Scored, TOP};
use crate::compare::window::Score;
use crate::compare::{Outcome, Scope, Test};
use crate::profile::{Feature, Profile};

impl Judge {
    /// `decide` is whether the limits decide over the window; if not, every test informs only.
    pub(super) fn held_against_limits(
        &self,
        scores: Vec<Score>,
        window: &Profile,
        decide: bool,
    ) -> Vec<Scored> {
        let limit = |test: Test| self.judging.tests.iter().find(|limit| limit.test == test);
        // The number of rows decides over alerts of kind volume alone (`volume`).
        let decides = |score: &Score| {
            let of_rows = score.test.scope() == Scope::Window;
            decide && !of_rows && limit(score.test).is_some_and(|l| l.decides)
        };
        let adjusted = self.adjusted(&scores, decides);
        let scored = scores.into_iter().zip(adjusted).map(|(score, p_adjusted)| {
            let decides = decides(&score);
            let limit = limit(score.test).map_or(f64::INFINITY, |limit| limit.effect);
            // A distance without a law: its effect alone speaks.
            let significant = p_adjusted.is_none_or(|p| p <= self.alpha);
            let over = score.answer.is_ok_and(|outcome| outcome.effect > limit);
            let feature = score.feature.map(|i| &window.features[i]);
            let drifted = decides && significant && over;
            let name = self.name_of(&score);
            let sentence =
                drifted.then(|| sentence::of_test(&name, score.test, &score.answer, limit));
            Scored {
                sentence,
                feature: name,
                test: score.test,
                answer: score.answer,
                p_adjusted,
                p_limit: decides.then_some(self.alpha),
                threshold: decides.then_some(limit),
                decides,
                finding: None,
                values: None,
                nulls: feature.map_or(0, |feature| feature.quality.absent()),
                unseen: feature.map_or(0, Feature::unseen),
                drifted,
                contributions: score.apart,
            }
        });
        scored.collect()
    }

    /// p-values of tests that decide, adjusted in two steps: over the tests of a feature, which mostly
    /// see the same thing, by Simes' rule; then over the features, a test of many features counting
    /// as one more. Of a test that informs, its own p-values over the features.
    fn adjusted(&self, scores: &[Score], decides: impl Fn(&Score) -> bool) -> Vec<Option<f64>> {
        let mut subjects: BTreeMap<(Option<usize>, Option<Test>), Vec<usize>> = BTreeMap::new();
        let mut informing: BTreeMap<Test, Vec<usize>> = BTreeMap::new();
        for (at, score) in scores.iter().enumerate() {
            if decides(score) {
                let own = score.feature.is_none().then_some(score.test);
                subjects.entry((score.feature, own)).or_default().push(at);
            } else {
                informing.entry(score.test).or_default().push(at);
            }
        }
        let raw = |places: &[usize]| -> Vec<Option<f64>> {
            let p = |at: &usize| scores[*at].answer.ok().and_then(|outcome| outcome.p_value);
            places.iter().map(p).collect()
        };
        let adjustment = self.judging.adjustment;
        let mut adjusted = vec![None; scores.len()];
        for places in informing.into_values() {
            for (at, p) in places.iter().zip(adjustment.apply(&raw(&places))) {
                adjusted[*at] = p;
            }
        }
        let subjects: Vec<Vec<usize>> = subjects.into_values().collect();
        let families: Vec<Vec<Option<f64>>> = subjects.iter().map(|places| raw(places)).collect();
        let together = adjustment.apply_nested(&families);
        for (at, p) in subjects.iter().flatten().zip(together.iter().flatten()) {
            adjusted[*at] = *p;
        }
        adjusted
    }

    fn name_of(&self, score: &Score) -> String {
        match (score.feature, score.test.scope()) {
            (Some(i), _) => self.reference.layout.features[i].name.clone(),
            (None, Scope::Window) => ROWS.to_owned(),
            (None, _) => JOINT.to_owned(),
        }
    }

    /// A deciding score that speaks for drift makes its feature drift, and a drifted feature, or all
    /// features together, the window. The number of rows is a matter of its own.
    pub(super) fn decided(&self, scored: &[Scored]) -> Said {
        let mut worst: BTreeMap<&str, (f64, bool)> = BTreeMap::new();
        for score in scored.iter().filter(|score| score.decides) {
            let (moved, drifted) = worst.entry(&score.feature).or_default();
            *moved = moved.max(how_far(score));
            *drifted |= score.drifted;
        }
        let over = |name: &str| worst.get(name).is_some_and(|one| one.1);
        let (joint, volume) = (over(JOINT), over(ROWS));
        let mut order: Vec<(&str, (f64, bool))> = worst.into_iter().collect();
        order.retain(|(name, _)| *name != ROWS);
        order.sort_by(|a, b| b.1.1.cmp(&a.1.1).then(b.1.0.total_cmp(&a.1.0)));
        let top = order.iter().take(TOP);
        let drifted = order
            .iter()
            .filter(|(name, (_, drifted))| *drifted && *name != JOINT);
        let drifted: Vec<String> = drifted.map(|(name, _)| (*name).to_owned()).collect();
        Said {
            top: top
                .map(|(name, (moved, _))| ((*name).to_owned(), *moved))
                .collect(),
            drifted_window: !drifted.is_empty() || joint,
            drifted,
            joint,
            volume,
        }
    }
}

/// How far a score is in units of its limits: 1 and more speaks for drift.
fn how_far(score: &Scored) -> f64 {
    let (Ok(outcome), Some(limit)) = (&score.answer, score.threshold) else {
        return 0.0;
    };
    let Outcome { effect, .. } = outcome;
    let by_effect = (effect / limit.max(f64::MIN_POSITIVE)).min(f64::MAX);
    match &score.finding {
        Some(finding) => by_effect.min(finding.evidence / finding.evidence_limit),
        None => by_effect,
    }
}
