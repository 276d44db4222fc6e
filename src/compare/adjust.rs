//! p-values of many features, adjusted so that comparing them with alpha keeps an error rate over
//! all features.
//!
//! - [`bonferroni`]: `p x number of tests`; the chance of any false finding is at most alpha, under
//!   any dependence.
//! - [`benjamini_hochberg`]: with p in ascending order, `min over j >= i of p_j n / j`; the expected
//!   share of false findings among all findings is at most alpha, for independent or positively
//!   dependent tests. Source: Y. Benjamini and Y. Hochberg 1995.
//!
//! Features without a p-value stay without and do not count as tests.

/// Adjusted p-values in the order given; at most 1.
pub fn bonferroni(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let tests = p_values.iter().flatten().count() as f64;
    p_values
        .iter()
        .map(|p| p.map(|p| (p * tests).min(1.0)))
        .collect()
}

/// Adjusted p-values in the order given; at most 1.
pub fn benjamini_hochberg(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = p_values
        .iter()
        .enumerate()
        .filter_map(|(index, p)| p.map(|p| (index, p)))
        .collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let tests = order.len() as f64;
    let mut adjusted = vec![None; p_values.len()];
    let mut least = 1.0_f64;
    for (rank, &(index, p)) in order.iter().enumerate().rev() {
        least = least.min(p * tests / (rank as f64 + 1.0));
        adjusted[index] = Some(least);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let p = [Some(0.01), None, Some(0.04), Some(0.03), Some(0.5)];
        let expected = [
            Some(0.04),
            None,
            Some(0.16 / 3.0),
            Some(0.16 / 3.0),
            Some(0.5),
        ];
        for (got, want) in benjamini_hochberg(&p).into_iter().zip(expected) {
            assert_eq!(got.is_some(), want.is_some());
            assert!((got.unwrap_or(0.0) - want.unwrap_or(0.0)).abs() < 1e-15);
        }
        assert_eq!(
            bonferroni(&p),
            vec![Some(0.04), None, Some(0.16), Some(0.12), Some(1.0)]
        );
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(benjamini_hochberg(&[]).is_empty() && bonferroni(&[]).is_empty());
        assert_eq!(benjamini_hochberg(&[None, None]), vec![None, None]);
    }

    #[test]
    fn zeros_and_ones_keep_their_places() {
        let p = [Some(1.0), Some(0.0), Some(1.0)];
        assert_eq!(
            benjamini_hochberg(&p),
            vec![Some(1.0), Some(0.0), Some(1.0)]
        );
    }
}
