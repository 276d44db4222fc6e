//! Rates of rows without a usable value: null or missing or of the wrong type, each of them alone,
//! and all of them together.
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
//! **Edges**: no such rows on both sides, or nothing but such rows: effect 0 and no p-value, since
//! there is nothing that could have come out otherwise; such features do not count when p-values are
//! adjusted over features. A window of nulls only is an answer (rate 1), not a reason.
//! **Assumes** independent rows, and nulls seldom are: an upstream failure makes them come in runs,
//! which p takes for more evidence than it is.
//! **Not for** rates that are allowed to move, such as optional fields, without a limit on the effect.

use super::law::{chi2, fisher};
use super::{Answer, Outcome, Reason};

/// Rows without a usable value, whatever the cause: how many, of how many rows, on both sides.
///
/// # Errors
/// [`Reason::NoReference`] or [`Reason::TooFewRows`] where a side has no rows.
pub fn null_rate(ref_absent: u64, ref_rows: u64, win_absent: u64, win_rows: u64) -> Answer {
    rate((ref_absent, ref_rows), (win_absent, win_rows))
}

/// Rows that lack the field.
///
/// # Errors
/// As [`null_rate`].
pub fn missing_rate(ref_missing: u64, ref_rows: u64, win_missing: u64, win_rows: u64) -> Answer {
    rate((ref_missing, ref_rows), (win_missing, win_rows))
}

/// Rows whose value cannot be read as what the feature is.
///
/// # Errors
/// As [`null_rate`].
pub fn type_errors(ref_errors: u64, ref_rows: u64, win_errors: u64, win_rows: u64) -> Answer {
    rate((ref_errors, ref_rows), (win_errors, win_rows))
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
    let p = if marked <= 0.0 || unmarked <= 0.0 {
        None
    } else if smallest_expected < 5.0 {
        Some(fisher::two_sided(hits, rows, window_hits, window_rows))
    } else {
        // (p1 - p2)^2 over its variance at the pooled rate is Pearson's X2 of the table.
        let pooled = (marked / (n + m)) * (unmarked / (n + m));
        let statistic = (now - before).powi(2) / (pooled * (1.0 / n + 1.0 / m));
        Some(chi2::sf(statistic, 1.0))
    };
    Ok(Outcome {
        effect: (now - before).abs(),
        ..Outcome::plain(now, p)
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
            (0.0, None, 0.0)
        );
        let all = null_rate(500, 500, 300, 300).unwrap();
        assert_eq!((all.statistic, all.p_value, all.effect), (1.0, None, 0.0));
        let all_now = null_rate(0, 500, 300, 300).unwrap();
        assert!(all_now.p_value.unwrap() < 1e-50 && (all_now.effect - 1.0).abs() < 1e-15);
    }

    #[test]
    fn one_row_and_impossible_counts() {
        assert!(type_errors(0, 10, 1, 1).unwrap().p_value.unwrap() > 0.09);
        assert!(missing_rate(7, 5, 9, 3).unwrap().p_value.is_none());
        assert!(
            missing_rate(0, u64::MAX, u64::MAX, u64::MAX)
                .unwrap()
                .p_value
                == Some(0.0)
        );
    }

    #[test]
    fn a_single_bad_row_in_a_large_window_is_a_small_effect() {
        let outcome = null_rate(0, 80_000, 1, 900).unwrap();
        assert!(outcome.effect < 0.002 && outcome.p_value.unwrap() > 0.01);
    }
}
