//! Fisher's exact test of a 2x2 table, two-sided: the probability, with all four margins fixed, of
//! every table that is no likelier than the one observed (R. A. Fisher 1934; the two-sided rule of
//! R and scipy).
//!
//! Hypergeometric probabilities are products of binomial ones in deviance form, so that the test
//! also holds for tables of 1e9 rows. The work grows with the smallest margin.

use super::deviance::ln_binomial;

/// Tables whose probability exceeds the observed one by less than this are ties.
const TIE: f64 = 1e-7;

/// p-value of the table `[[hits, rows - hits], [other_hits, other_rows - other_hits]]`.
pub fn two_sided(hits: u64, rows: u64, other_hits: u64, other_rows: u64) -> f64 {
    let (drawn, marked) = (rows, hits + other_hits);
    let total = rows + other_rows;
    if drawn == 0 || other_rows == 0 || marked == 0 || marked == total {
        return 1.0;
    }
    let law = Hypergeometric {
        total,
        marked,
        drawn,
    };
    let limit = law.ln_probability(hits) + TIE;
    let low = (drawn + marked).saturating_sub(total);
    let sum: f64 = (low..=drawn.min(marked))
        .map(|k| law.ln_probability(k))
        .filter(|&ln| ln <= limit)
        .map(f64::exp)
        .sum();
    sum.min(1.0)
}

/// `ln` of the probability that k of `drawn` rows are among the `marked` of `total`, drawn without
/// replacement; k must be possible.
pub fn ln_hypergeometric(k: u64, drawn: u64, marked: u64, total: u64) -> f64 {
    let law = Hypergeometric {
        total,
        marked,
        drawn,
    };
    law.ln_probability(k)
}

/// `drawn` of `total` without replacement; how many of them are among the `marked`?
struct Hypergeometric {
    total: u64,
    marked: u64,
    drawn: u64,
}

impl Hypergeometric {
    fn ln_probability(&self, k: u64) -> f64 {
        let (total, marked) = (self.total as f64, self.marked as f64);
        let drawn = self.drawn as f64;
        let unmarked = (self.total - self.marked) as f64;
        let (p, q) = (drawn / total, (self.total - self.drawn) as f64 / total);
        ln_binomial(k as f64, marked, p, q) + ln_binomial((self.drawn - k) as f64, unmarked, p, q)
            - ln_binomial(drawn, total, p, q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lady_tastes_tea() {
        // 3 of 4 cups right: P = 1/70 + 16/70 on each side of the middle.
        assert!((two_sided(3, 4, 1, 4) - 34.0 / 70.0).abs() < 1e-13);
        assert!((two_sided(4, 4, 0, 4) - 2.0 / 70.0).abs() < 1e-14);
    }

    #[test]
    fn large_margins_keep_full_precision() {
        // 7 of 80,789,007 against 1 of 901: the exact rational number; scipy is off by 1e-8 here.
        let p = two_sided(7, 80_789_007, 1, 901);
        assert!((p / 8.921_558_576_596_444e-5 - 1.0).abs() < 1e-12, "{p:e}");
    }

    #[test]
    fn margins_without_choice_are_no_surprise() {
        for (a, n, b, m) in [(0, 5, 0, 9), (5, 5, 9, 9), (0, 0, 3, 9), (3, 9, 0, 0)] {
            assert!((two_sided(a, n, b, m) - 1.0).abs() < 1e-15);
        }
    }
}
