//! Whether a window holds more or fewer rows than the training windows do. It decides over alerts of
//! kind volume, never over drift, and is asked of every window: also of those with too few rows for
//! any other test, and of those without any.

use super::verdict::{Coverage, Judge, Judged, ROWS, Scored, Training};
use crate::compare::{Reason, Test};

/// Whether the number of rows is beyond what training windows show: by the rule where it decides, else by the
/// test `row_volume`. The test's score is marked among the window's, and added where the window had too
/// few rows to be compared. `None`: nothing can be said, because the window is shared, the baseline knows no
/// windows, or the test is not asked for or informs only.
///
/// This is the one place that knows how volume is judged.
pub fn drifted(judge: &Judge, rows: u64, coverage: Coverage, judged: &mut Judged) -> Option<bool> {
    if coverage.shared {
        return None;
    }
    if matches!(judge.training, Training::Learned(_)) {
        return Some(judged.volume);
    }
    let scores = &mut judged.scores;
    let mut limits = judge.judging.tests.iter();
    let limit = limits.find(|limit| limit.test == Test::RowVolume && limit.decides)?;
    let answer = judge.reference.row_volume(rows);
    if answer == Err(Reason::NoReference) {
        return None;
    }
    let over = answer.is_ok_and(|outcome| {
        let significant = outcome.p_value.is_none_or(|p| p <= judge.alpha);
        significant && outcome.effect > limit.effect
    });
    let is_it = |score: &Scored| score.test == Test::RowVolume;
    if !scores.iter().any(is_it) {
        scores.push(Scored {
            feature: ROWS.to_owned(),
            test: Test::RowVolume,
            answer,
            p_adjusted: answer.ok().and_then(|outcome| outcome.p_value),
            p_limit: None,
            threshold: None,
            decides: true,
            nulls: 0,
            unseen: 0,
            drifted: false,
            contributions: Vec::new(),
            finding: None,
            values: None,
            sentence: None,
        });
    }
    for score in scores.iter_mut().filter(|score| is_it(score)) {
        score.p_limit = Some(judge.alpha);
        score.threshold = Some(limit.effect);
        score.decides = true;
        score.drifted = over;
    }
    Some(over)
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::compare::adjust::Adjustment;
    use crate::compare::window::Reference;
    use crate::decide::rule::{self, Answers, Asking, Calendar, Rule, Subject, usual_limits};
    use crate::decide::verdict::{State, Verdict};
    use crate::monitor::{AlertPolicy, FalseAlarms, Judging, Limit};
    use crate::profile::{Layout, Profile};
    use crate::window::Spec;

    const ALL: Coverage = Coverage {
        incomplete: false,
        shared: false,
    };

    /// A baseline of windows with 90 to 110 rows each, and no features.
    fn judge(windows: u64, decides: bool) -> Judge {
        let layout = || Layout {
            features: Vec::new(),
        };
        let profile = Profile::empty(&layout(), 0);
        let tests = vec![Test::RowVolume];
        let rows = (0..windows).map(|i| 90 + i % 21).collect();
        let reference = Reference::new(layout(), &layout(), &profile, tests, rows);
        let limit = Limit {
            decides,
            ..Limit::usual(Test::RowVolume)
        };
        let judging = Judging {
            false_alarms: FalseAlarms {
                max: 1.0,
                per_ms: 1_000,
            },
            questions: usual_limits(),
            tests: vec![limit],
            adjustment: Adjustment::Holm,
            min_rows: 50,
            alert: AlertPolicy {
                windows: 1,
                of: 1,
                resolve_after: 1,
                unknown_after_ms: 1,
            },
        };
        Judge {
            baseline_id: String::new(),
            reference,
            training: Training::TooFew {
                windows: 0,
                asking: None,
            },
            judging,
            every_ms: 10,
            alpha: 0.05,
        }
    }

    #[test]
    fn windows_with_few_rows_and_none_are_judged_by_their_number() {
        let judge = judge(99, true);
        for (rows, over) in [(0, true), (10, true), (100, false), (1_000, true)] {
            let mut judged = Judged::unsaid(Verdict::TooFewRows);
            assert_eq!(
                drifted(&judge, rows, ALL, &mut judged),
                Some(over),
                "{rows}"
            );
            let [score] = &judged.scores[..] else {
                panic!("{judged:?}");
            };
            assert_eq!((score.feature.as_str(), score.drifted), (ROWS, over));
            assert_eq!(score.threshold, Some(0.69));
        }
    }

    #[test]
    fn nothing_is_said_without_windows_nor_where_the_test_informs_only() {
        let mut judged = Judged::unsaid(Verdict::TooFewRows);
        assert_eq!(drifted(&judge(0, true), 0, ALL, &mut judged), None);
        assert_eq!(drifted(&judge(99, false), 0, ALL, &mut judged), None);
        assert_eq!(judged.scores, []);
        // Too few windows to be surprised by any number.
        assert_eq!(drifted(&judge(20, true), 0, ALL, &mut judged), Some(false));
    }

    #[test]
    fn a_number_of_rows_makes_no_window_drift() {
        let judge = judge(99, true);
        let mut window = Profile::empty(&judge.reference.layout, 0);
        window.rows = 1_000;
        let mut judged = judge.judge(&mut window, Vec::new(), 0, ALL, &mut State::default());
        assert_eq!(drifted(&judge, 1_000, ALL, &mut judged), Some(true));
        assert_eq!(judged.verdict, Verdict::Stable);
        assert_eq!(judged.scores.len(), 1, "the same score, marked");
        assert!(judged.scores[0].drifted && judged.scores[0].decides);
    }

    /// Daily windows of a steady stream, 100 rows an hour and up to 24 more a day.
    fn days(from: &str, count: i64, asking: &Asking) -> Vec<Answers> {
        let from: chrono::DateTime<chrono::Utc> = from.parse().unwrap();
        let spec = Spec::tumbling(86_400_000, Tz::Europe__Berlin);
        let day = |number: i64| {
            let start_ms = spec.after(spec.next_start(from.timestamp_millis()), number);
            let hours = (spec.end(start_ms) - start_ms) / 3_600_000;
            Answers {
                rows: (hours * 100 + number * 7 % 25).unsigned_abs(),
                ..Answers::empty(asking, start_ms)
            }
        };
        (0..count).map(day).collect()
    }

    #[test]
    fn days_of_23_and_25_hours_are_no_matter_of_volume() {
        let asking = Asking {
            features: Vec::new(),
            pairs: Vec::new(),
        };
        let calendar = Calendar {
            every_ms: 86_400_000,
            time_zone: Tz::Europe__Berlin,
        };
        let limits = vec![usual_limits(); 2];
        // The training data hold no change of clocks.
        let training = days("2026-01-01T12:00:00Z", 80, &asking);
        assert!(
            training
                .iter()
                .all(|day| (2_400..2_425).contains(&day.rows))
        );
        let rule = Rule::learn(asking.clone(), calendar, &training, 1.0 / 30.0, limits).unwrap();
        for (from, short_or_long) in [
            ("2026-03-23T12:00:00Z", 2_300..2_325),
            ("2026-10-19T12:00:00Z", 2_500..2_525),
        ] {
            let days = days(from, 12, &asking);
            assert!(days.iter().any(|day| short_or_long.contains(&day.rows)));
            let mut state = rule::State::default();
            for until in 1..=days.len() {
                let findings = rule.judge(&days[..until], true, &mut state);
                let rows = findings
                    .iter()
                    .find(|one| one.subject == Subject::Rows)
                    .unwrap();
                assert!(!rows.drifted, "{from} {until}: {rows:?}");
            }
        }
        // Where the tests decide, the same.
        let mut judge = judge(0, true);
        let per_window = training.iter().map(|day| day.rows).collect();
        let (layout, profile) = (
            Layout {
                features: Vec::new(),
            },
            Profile::clone(&judge.reference.profile),
        );
        let tests = vec![Test::RowVolume];
        judge.reference = Reference::new(
            Layout {
                features: Vec::new(),
            },
            &layout,
            &profile,
            tests,
            per_window,
        );
        for rows in [2_300, 2_500] {
            let mut judged = Judged::unsaid(Verdict::TooFewRows);
            assert_eq!(
                drifted(&judge, rows, ALL, &mut judged),
                Some(false),
                "{rows}"
            );
        }
    }

    /// However few rows it holds.
    #[test]
    fn a_window_that_versions_share_says_nothing() {
        let asking = Asking {
            features: Vec::new(),
            pairs: Vec::new(),
        };
        let calendar = Calendar {
            every_ms: 86_400_000,
            time_zone: Tz::UTC,
        };
        let training = days("2026-01-01T12:00:00Z", 80, &asking);
        let limits = vec![usual_limits(); 2];
        let rule = Rule::learn(asking.clone(), calendar, &training, 1.0 / 30.0, limits).unwrap();
        let mut seen = days("2026-06-01T12:00:00Z", 3, &asking);
        for shared in [true, false] {
            (seen[2].rows, seen[2].shared) = (10, shared);
            let findings = rule.judge(&seen, true, &mut rule::State::default());
            let found = findings.iter().any(|one| one.drifted);
            assert_eq!(found, !shared, "{findings:?}");
        }
        // Where the tests decide, no score of it is marked.
        let shared = Coverage {
            shared: true,
            ..ALL
        };
        let mut judged = Judged::unsaid(Verdict::TooFewRows);
        assert_eq!(drifted(&judge(99, true), 10, shared, &mut judged), None);
        assert_eq!(judged.scores, []);
        assert_eq!(drifted(&judge(99, true), 10, ALL, &mut judged), Some(true));
    }
}
