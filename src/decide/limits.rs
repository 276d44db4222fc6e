//! The mode `thresholds`: scores against the limits of the settings.

use std::collections::BTreeMap;

use super::verdict::{JOINT, Judge, ROWS, Said, Scored, TOP};
use crate::compare::window::Score;
use crate::compare::{Scope, Test};
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
            let significant = p_adjusted.is_none_or(|p| p <= self.judging.alpha);
            let over = score.answer.is_ok_and(|outcome| outcome.effect > limit);
            let feature = score.feature.map(|i| &window.features[i]);
            Scored {
                feature: self.name_of(&score),
                test: score.test,
                answer: score.answer,
                p_adjusted,
                threshold: decides.then_some(limit),
                threshold_slow: None,
                decides,
                threshold_origin: "settings",
                nulls: feature.map_or(0, |feature| feature.quality.absent()),
                unseen: feature.map_or(0, Feature::unseen),
                drifted: decides && significant && over,
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

    /// Any deciding test of a feature over its limit makes the feature drift; the share of such
    /// features decides over the window, or a test of many features together.
    pub(super) fn by_limits(&self, scored: &[Scored]) -> Said {
        let mut worst: BTreeMap<&str, (f64, bool)> = BTreeMap::new();
        for score in scored.iter().filter(|score| score.decides) {
            let (ratio, drifted) = worst.entry(&score.feature).or_default();
            if let (Ok(outcome), Some(limit)) = (&score.answer, score.threshold) {
                *ratio = ratio.max((outcome.effect / limit.max(f64::MIN_POSITIVE)).min(f64::MAX));
            }
            *drifted |= score.drifted;
        }
        let mut order: Vec<(&str, (f64, bool))> = worst.into_iter().collect();
        order.sort_by(|a, b| b.1.1.cmp(&a.1.1).then(b.1.0.total_cmp(&a.1.0)));
        let over = |name: &str| order.iter().any(|one| one.0 == name && one.1.1);
        let joint = over(JOINT);
        let top = order
            .iter()
            .take(TOP)
            .map(|(name, (ratio, _))| ((*name).to_owned(), *ratio))
            .collect();
        let drifted: Vec<String> = order
            .iter()
            .filter(|(name, (_, drifted))| *drifted && *name != JOINT)
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let share = drifted.len() as f64 / self.reference.layout.features.len().max(1) as f64;
        let enough = !drifted.is_empty() && share >= self.judging.min_share;
        Said {
            // Who asks for a share of the features asks for features.
            drifted_window: enough || (self.judging.min_share <= 0.0 && joint),
            drifted,
            joint,
            top,
        }
    }
}
