//! p-values of many features, adjusted so that comparing them with alpha keeps an error rate over
//! all features.
//!
//! - [`bonferroni`]: `p x number of tests`; the chance of any false finding is at most alpha, under
//!   any dependence.
//! - [`holm`]: with p in ascending order, `max over j <= i of p_j (n + 1 - j)`; keeps the same promise
//!   and is never larger. Source: S. Holm 1979.
//! - [`benjamini_hochberg`]: with p in ascending order, `min over j >= i of p_j n / j`; the expected
//!   share of false findings among all findings is at most alpha, for independent or positively
//!   dependent tests. Source: Y. Benjamini and Y. Hochberg 1995.
//!
//! Features without a p-value stay without and do not count as tests.

use serde::{Deserialize, Serialize};

/// How p-values are adjusted over the features of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adjustment {
    /// Not at all.
    None,
    /// [`bonferroni`].
    Bonferroni,
    /// [`holm`].
    Holm,
    /// [`benjamini_hochberg`].
    BenjaminiHochberg,
}

impl Adjustment {
    /// Every way, in the order in which they are declared.
    pub const ALL: [Self; 4] = [
        Self::None,
        Self::Bonferroni,
        Self::Holm,
        Self::BenjaminiHochberg,
    ];

    /// The name, the same as in serialised form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bonferroni => "bonferroni",
            Self::Holm => "holm",
            Self::BenjaminiHochberg => "benjamini_hochberg",
        }
    }

    /// Adjusted p-values in the order given; at most 1.
    pub fn apply(&self, p_values: &[Option<f64>]) -> Vec<Option<f64>> {
        match self {
            Self::None => p_values.to_vec(),
            Self::Bonferroni => bonferroni(p_values),
            Self::Holm => holm(p_values),
            Self::BenjaminiHochberg => benjamini_hochberg(p_values),
        }
    }

    /// Adjusted in two steps, family by family in the order given. Within a family (the tests of one
    /// feature) by Simes' rule, which is [`benjamini_hochberg`]: the least of them is a p-value of the
    /// family for positively dependent tests. Then those of the families as [`Adjustment::apply`] does;
    /// the other members of a family follow at no less than Bonferroni's factor. Source: R. Simes 1986.
    pub fn apply_nested(&self, families: &[Vec<Option<f64>>]) -> Vec<Vec<Option<f64>>> {
        if *self == Self::None {
            return families.to_vec();
        }
        let within: Vec<Vec<Option<f64>>> = families
            .iter()
            .map(|family| benjamini_hochberg(family))
            .collect();
        let least = |family: &Vec<Option<f64>>| family.iter().flatten().copied().reduce(f64::min);
        let firsts: Vec<Option<f64>> = within.iter().map(least).collect();
        let families = firsts.iter().flatten().count() as f64;
        let across = self.apply(&firsts);
        let follow = |p: f64, first: f64, adjusted: f64| {
            if p <= first {
                adjusted
            } else {
                (p * families).min(1.0).max(adjusted)
            }
        };
        let nested = within.iter().zip(firsts.iter().zip(&across));
        nested
            .map(|(family, (first, adjusted))| {
                let one = |p: &Option<f64>| Some(follow((*p)?, (*first)?, (*adjusted)?));
                family.iter().map(one).collect()
            })
            .collect()
    }
}

/// Adjusted p-values in the order given; at most 1.
pub fn bonferroni(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let tests = p_values.iter().flatten().count() as f64;
    p_values
        .iter()
        .map(|p| p.map(|p| (p * tests).min(1.0)))
        .collect()
}

/// Adjusted p-values in the order given; at most 1.
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let order = ascending(p_values);
    let mut adjusted = vec![None; p_values.len()];
    let (mut left, mut most) = (order.len() as f64, 0.0_f64);
    for (index, p) in order {
        most = most.max(p * left).min(1.0);
        adjusted[index] = Some(most);
        left -= 1.0;
    }
    adjusted
}

/// Adjusted p-values in the order given; at most 1.
pub fn benjamini_hochberg(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let order = ascending(p_values);
    let tests = order.len() as f64;
    let mut adjusted = vec![None; p_values.len()];
    let mut least = 1.0_f64;
    for (rank, &(index, p)) in order.iter().enumerate().rev() {
        least = least.min(p * tests / (rank as f64 + 1.0));
        adjusted[index] = Some(least);
    }
    adjusted
}

/// The p-values that there are, with their places, smallest first.
fn ascending(p_values: &[Option<f64>]) -> Vec<(usize, f64)> {
    let places = p_values.iter().enumerate();
    let mut order: Vec<(usize, f64)> = places
        .filter_map(|(index, p)| p.map(|p| (index, p)))
        .collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(got: &[Option<f64>], want: &[Option<f64>]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.is_some(), want.is_some());
            assert!((got.unwrap_or(0.0) - want.unwrap_or(0.0)).abs() < 1e-15);
        }
    }

    #[test]
    fn by_hand() {
        let p = [Some(0.01), None, Some(0.04), Some(0.03), Some(0.5)];
        let third = Some(0.16 / 3.0);
        near(
            &benjamini_hochberg(&p),
            &[Some(0.04), None, third, third, Some(0.5)],
        );
        near(
            &bonferroni(&p),
            &[Some(0.04), None, Some(0.16), Some(0.12), Some(1.0)],
        );
        near(
            &holm(&p),
            &[Some(0.04), None, Some(0.09), Some(0.09), Some(0.5)],
        );
        near(&Adjustment::None.apply(&p), &p);
    }

    #[test]
    fn names_agree_with_serialised_form() {
        for way in Adjustment::ALL {
            assert_eq!(serde_json::to_value(way).unwrap(), way.as_str());
            assert_eq!(way.apply(&[None, Some(1.0)]), vec![None, Some(1.0)]);
        }
    }

    #[test]
    fn nested_families_count_once_each() {
        let families = [
            vec![Some(0.01), Some(0.01), Some(0.9)],
            vec![Some(0.02)],
            vec![None],
        ];
        let close = |got: &Option<f64>, want: f64| (got.unwrap() - want).abs() < 1e-12;
        // Two of three at 0.01: 0.015 by Simes; two families by Holm.
        let adjusted = Adjustment::Holm.apply_nested(&families);
        assert!(close(&adjusted[0][0], 0.03) && close(&adjusted[0][1], 0.03));
        assert!(close(&adjusted[0][2], 1.0) && close(&adjusted[1][0], 0.03));
        assert_eq!(adjusted[2], [None]);
        assert_eq!(Adjustment::None.apply_nested(&families), families);
        assert!(Adjustment::Bonferroni.apply_nested(&[]).is_empty());
    }

    #[test]
    fn nothing_in_nothing_out() {
        for way in Adjustment::ALL {
            assert!(way.apply(&[]).is_empty());
            assert_eq!(way.apply(&[None, None]), vec![None, None]);
        }
    }

    #[test]
    fn zeros_and_ones_keep_their_places() {
        let p = [Some(1.0), Some(0.0), Some(1.0)];
        for way in Adjustment::ALL {
            assert_eq!(way.apply(&p), p.to_vec());
        }
    }
}
