//! Row volume.
//!
//! **Question**: does the window hold more or fewer rows than the baseline's own windows do?
//!
//! **Formula**: the statistic is `rows / median` over the baseline's windows. The effect is
//! `|ln((rows + 1/2) / (median + 1/2))|`: 0.69 for twice or half as many, the same both ways, and
//! finite for a window without rows.
//!
//! **p-value**: the share of rank, two-sided: with r the number of baseline windows that are at least
//! as far on the window's own side (ties count), `2 (r + 1) / (K + 1)`, at most 1. It needs no
//! assumption on how volumes vary but that windows are exchangeable; its least value is
//! `2 / (K + 1)`, so that fewer than 39 windows never give p under 0.05. Source: V. Vovk, A. Gammerman
//! and G. Shafer 2005 (conformal p-values).
//!
//! **Edges**: no baseline windows: [`Reason::NoReference`]. A window of 0 rows is an answer, and no
//! surprise where the baseline has such windows too. A median of 0: the statistic is
//! `(rows + 1/2) / (1/2)`. **Not for** volumes with a strong season (a quiet Sunday is rare among
//! seven days) nor with growth, without a limit on the effect.

use super::{Answer, Outcome, Reason};

/// Rows of the window against those of the baseline's windows, in any order.
///
/// # Errors
/// [`Reason::NoReference`] without windows.
pub fn against(window_rows: u64, baseline_windows: &[u64]) -> Answer {
    let mut sorted = baseline_windows.to_vec();
    sorted.sort_unstable();
    let Some(median) = median(&sorted) else {
        return Err(Reason::NoReference);
    };
    let rows = window_rows as f64;
    let smoothed = (rows + 0.5) / (median + 0.5);
    let statistic = if median > 0.0 {
        rows / median
    } else {
        smoothed
    };
    let at_most = sorted.partition_point(|&other| other <= window_rows);
    let at_least = sorted.len() - sorted.partition_point(|&other| other < window_rows);
    let rank = at_most.min(at_least) as f64 + 1.0;
    let p = (2.0 * rank / (sorted.len() as f64 + 1.0)).min(1.0);
    Ok(Outcome {
        effect: smoothed.ln().abs(),
        ..Outcome::plain(statistic, Some(p))
    })
}

fn median(sorted: &[u64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower as f64, upper as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(against(5, &[]), Err(Reason::NoReference));
        let same = against(7, &[7]).unwrap();
        assert_eq!(
            (same.statistic, same.p_value, same.effect),
            (1.0, Some(1.0), 0.0)
        );
        let none = against(0, &[100; 99]).unwrap();
        assert!(none.statistic.abs() < 1e-300 && (none.effect - 201.0_f64.ln()).abs() < 1e-12);
        assert!((none.p_value.unwrap() - 0.02).abs() < 1e-15);
        let empty = against(0, &[0, 0, 0]).unwrap();
        assert_eq!(
            (empty.statistic, empty.p_value, empty.effect),
            (1.0, Some(1.0), 0.0)
        );
        let first = against(2, &[0, 0]).unwrap();
        assert!((first.statistic - 5.0).abs() < 1e-15);
        assert!(
            against(u64::MAX, &[u64::MAX, 1])
                .unwrap()
                .effect
                .is_finite()
        );
    }

    #[test]
    fn by_hand() {
        // Above all but one of nine: 2 (1 + 1) / 10.
        let windows = [90, 100, 110, 95, 105, 100, 98, 102, 300];
        let outcome = against(200, &windows).unwrap();
        assert!((outcome.statistic - 2.0).abs() < 1e-15);
        assert!((outcome.p_value.unwrap() - 0.4).abs() < 1e-15);
        let half = against(50, &windows).unwrap();
        assert!((half.effect - outcome.effect).abs() < 0.01);
        assert!((half.p_value.unwrap() - 0.2).abs() < 1e-15);
    }

    /// Of exchangeable windows each is the K + 1st equally often: p <= alpha at most that often.
    #[test]
    fn the_level_holds_for_every_order() {
        let all: Vec<u64> = (0..99).map(|i| i * i % 37).collect();
        let p = |i: usize| {
            let others: Vec<u64> = (0..all.len()).filter(|&j| j != i).map(|j| all[j]).collect();
            against(all[i], &others).unwrap().p_value.unwrap()
        };
        for alpha in [0.05, 0.1, 0.3] {
            let found = (0..all.len()).filter(|&i| p(i) <= alpha).count() as f64;
            assert!(found <= alpha * all.len() as f64, "{alpha}: {found}");
        }
    }
}
