//! Null rate and unseen rate: the share of rows that hold no value, and of values that the baseline
//! never held (levels it does not know, numbers outside its range).
//!
//! **Question**: does the window have another share of such rows than the reference?
//!
//! **Formula**: the statistic is the window's rate, the effect the absolute difference of the two
//! rates (0.01 = one row in a hundred).
//!
//! **p-value** of the 2 x 2 table, two-sided: Pearson's chi-square without Yates correction where all
//! four expected counts are at least 5, else Fisher's exact test ([`super::law::fisher`]), so that it
//! is right for small counts. Source: W. Cochran 1954 for the rule.
//!
//! **Edges**: no such rows on both sides, or nothing but such rows: p 1, effect 0. A window of nulls
//! only is an answer (rate 1), not a reason. **Assumes** independent rows, and nulls seldom are: an
//! upstream failure makes them come in runs, which p takes for more evidence than it is.
//! **Not for** rates that are allowed to move, such as optional fields, without a limit on the effect.

use super::law::{chi2, fisher};
use super::{Answer, Outcome, Reason};

/// Null or missing values: how many, of how many rows, on both sides.
///
/// # Errors
/// [`Reason::NoReference`] or [`Reason::TooFewRows`] where a side has no rows.
pub fn null_rate(ref_nulls: u64, ref_rows: u64, win_nulls: u64, win_rows: u64) -> Answer {
    rate((ref_nulls, ref_rows), (win_nulls, win_rows))
}

/// Values that the baseline never held: how many, of how many non-null rows, on both sides.
///
/// # Errors
/// [`Reason::NoReference`] or [`Reason::TooFewRows`] where a side has no rows.
pub fn unseen_rate(ref_unseen: u64, ref_rows: u64, win_unseen: u64, win_rows: u64) -> Answer {
    rate((ref_unseen, ref_rows), (win_unseen, win_rows))
}

fn rate((hits, rows): (u64, u64), (window_hits, window_rows): (u64, u64)) -> Answer {
    if rows == 0 {
        return Err(Reason::NoReference);
    }
    if window_rows == 0 {
        return Err(Reason::TooFewRows);
    }
    let (hits, window_hits) = (hits.min(rows), window_hits.min(window_rows));
    let (n, m) = (rows as f64, window_rows as f64);
    let (before, now) = (hits as f64 / n, window_hits as f64 / m);
    let marked = hits as f64 + window_hits as f64;
    let unmarked = (rows - hits) as f64 + (window_rows - window_hits) as f64;
    let smallest_expected = marked.min(unmarked) * n.min(m) / (n + m);
    let p = if smallest_expected < 5.0 {
        fisher::two_sided(hits, rows, window_hits, window_rows)
    } else {
        // (p1 - p2)^2 over its variance at the pooled rate is Pearson's X2 of the table.
        let pooled = (marked / (n + m)) * (unmarked / (n + m));
        chi2::sf((now - before).powi(2) / (pooled * (1.0 / n + 1.0 / m)), 1.0)
    };
    let effect = (now - before).abs();
    Ok(Outcome {
        statistic: now,
        p_value: Some(p),
        expected: None,
        effect,
        error_bound: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(null_rate(0, 0, 0, 0), Err(Reason::NoReference));
        assert_eq!(null_rate(0, 5, 0, 0), Err(Reason::TooFewRows));
        let none = null_rate(0, 500, 0, 300).unwrap();
        assert_eq!(
            (none.statistic, none.p_value, none.effect),
            (0.0, Some(1.0), 0.0)
        );
        let all = null_rate(500, 500, 300, 300).unwrap();
        assert_eq!(
            (all.statistic, all.p_value, all.effect),
            (1.0, Some(1.0), 0.0)
        );
        let all_now = null_rate(0, 500, 300, 300).unwrap();
        assert!(all_now.p_value.unwrap() < 1e-50 && (all_now.effect - 1.0).abs() < 1e-15);
    }

    #[test]
    fn one_row_and_impossible_counts() {
        assert!(unseen_rate(0, 10, 1, 1).unwrap().p_value.unwrap() > 0.09);
        assert!(unseen_rate(7, 5, 9, 3).unwrap().p_value == Some(1.0));
    }

    #[test]
    fn a_single_unseen_value_in_a_large_window_is_a_small_effect() {
        let outcome = unseen_rate(0, 80_000, 1, 900).unwrap();
        assert!(outcome.effect < 0.002 && outcome.p_value.unwrap() > 0.01);
    }
}
