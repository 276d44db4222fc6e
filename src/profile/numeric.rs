//! Numbers on the baseline's fine grid.

use std::hint::select_unpredictable;
use std::ops::AddAssign;

use super::per_bin::PerBin;

/// Sums are kept in units of 2^-exponent, chosen so that the baseline's greatest magnitude is
/// about 2^40 units: twelve decimal digits, and room for 2^46 rows of values three binary orders
/// beyond the baseline's range.
const SCALE_BITS: i32 = 40;
/// Values further out than this many units enter the sums as this much, so that one 1e308 does not
/// swallow a window's moments. Their bin is exact all the same.
const CLAMP_UNITS: f64 = 8_796_093_022_208.0; // 2^43

/// Values that are binned at a time.
const LANES: usize = 8;

/// The cuts of one feature.
///
/// Bin `i` holds the values in `[cuts[i-1], cuts[i])`; the first bin is the underflow (below the
/// baseline's least value), the last one the overflow (above its greatest). Where the baseline has
/// few distinct values each has a bin of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Ascending, at most [`Grid::MAX_CUTS`].
    pub cuts: Vec<f64>,
    /// The edges of the coarse bins among the cuts (indices into `cuts`): the deciles, and both sides of
    /// frequent values. The tests on counts read these bins.
    pub deciles: Vec<u32>,
    /// log2 of how many units make 1.
    pub exponent: i32,
}

impl Grid {
    /// How fine the grid is: quantile cuts, or distinct values.
    const QUANTILES: usize = 256;
    /// A value that holds at least this share of the rows has a bin of its own.
    const FREQUENT: f64 = 0.05;
    /// At most so many cuts: the quantiles, nine deciles, both sides of frequent values, and the ends of
    /// the range.
    pub const MAX_CUTS: usize = Self::QUANTILES + 9 + 2 * 20 + 2;
    /// The exponent is within so much of 0, so that no unit is infinite or nothing.
    pub const MAX_EXPONENT: u32 = 1000;

    /// A grid from a baseline's values: `sorted` ascending, at least one, all finite; `least` and
    /// `greatest` over all rows, where `sorted` is only a sample of them.
    pub fn from_sorted(sorted: &[f64], least: f64, greatest: f64) -> Self {
        let mut distinct: Vec<f64> = sorted.to_vec();
        distinct.dedup();
        let deciles = (1..10).map(|i| quantile(sorted, f64::from(i) / 10.0));
        let mut coarse: Vec<f64> = deciles.collect();
        let fine_apart = coarse.len();
        let frequent = frequent(sorted, Self::FREQUENT);
        coarse.extend(
            frequent
                .into_iter()
                .flat_map(|value| [value, value.next_up()]),
        );
        coarse.sort_by(f64::total_cmp);
        let mut cuts = if distinct.len() <= Self::QUANTILES {
            distinct
        } else {
            let fine = Self::QUANTILES - fine_apart;
            #[allow(clippy::cast_precision_loss)]
            let fine = (1..=fine).map(|i| quantile(sorted, i as f64 / (fine + 1) as f64));
            fine.collect()
        };
        cuts.extend_from_slice(&coarse);
        cuts.push(least);
        cuts.push(greatest.next_up());
        cuts.sort_by(f64::total_cmp);
        cuts.dedup();
        let mut deciles: Vec<u32> = coarse
            .iter()
            // Each is a cut: the first that is not below it.
            .map(|decile| cuts.partition_point(|cut| cut < decile))
            .filter_map(|at| u32::try_from(at).ok())
            .collect();
        deciles.dedup();
        Self {
            cuts,
            deciles,
            exponent: exponent_for(least.abs().max(greatest.abs())),
        }
    }

    /// The bins of the grid.
    pub fn bins(&self) -> usize {
        self.cuts.len() + 1
    }

    /// The bin of a value: how many cuts are not above it.
    #[inline]
    pub fn bin(&self, value: f64) -> usize {
        // A binary search without branches on the values, which are as good as random.
        let cuts = &self.cuts[..];
        let mut base = 0;
        let mut size = cuts.len();
        while size > 1 {
            let half = size / 2;
            base = select_unpredictable(cuts[base + half] <= value, base + half, base);
            size -= half;
        }
        base + usize::from(cuts[base] <= value)
    }

    /// Counts on ten quantile bins, from counts on the grid: `[underflow.., decile bins.., ..]`
    /// where values outside the baseline's range stay in the first and the last.
    pub fn coarse(&self, counts: &[u64]) -> Vec<u64> {
        let mut edges: Vec<usize> = self.deciles.iter().map(|at| *at as usize + 1).collect();
        edges.push(counts.len());
        let mut from = 0;
        edges
            .into_iter()
            .map(|to| {
                let sum = counts[from..to].iter().sum();
                from = to;
                sum
            })
            .collect()
    }

    /// The bin of each value.
    pub fn bin_all(&self, values: &[f64]) -> Vec<usize> {
        let (chunks, rest) = values.as_chunks();
        let chunks = chunks.iter().flat_map(|some| self.bins_of(some));
        chunks
            .chain(rest.iter().map(|one| self.bin(*one)))
            .collect()
    }

    /// The bins of several values. Each step of one search waits for memory; those of several
    /// wait together.
    #[inline]
    fn bins_of(&self, values: &[f64; LANES]) -> [usize; LANES] {
        let cuts = &self.cuts[..];
        let mut bases = [0; LANES];
        let mut size = cuts.len();
        while size > 1 {
            let half = size / 2;
            for (base, value) in bases.iter_mut().zip(values) {
                let above = cuts[*base + half] <= *value;
                *base = select_unpredictable(above, *base + half, *base);
            }
            size -= half;
        }
        for (base, value) in bases.iter_mut().zip(values) {
            *base += usize::from(cuts[*base] <= *value);
        }
        bases
    }

    /// A sum in units as a number.
    #[allow(clippy::cast_precision_loss)] // the one rounding, at the end
    pub fn value_of(&self, units: i128) -> f64 {
        units as f64 * exp2(-self.exponent)
    }
}

/// A value that comes less often than this is not frequent in any sample.
const LEAST_FREQUENT: f64 = 10.0;

/// The values that hold at least this share of all.
fn frequent(sorted: &[f64], share: f64) -> Vec<f64> {
    #[allow(clippy::cast_precision_loss)]
    let least = (share * sorted.len() as f64).max(LEAST_FREQUENT);
    let runs = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq());
    #[allow(clippy::cast_precision_loss)]
    let runs = runs.filter(|run| run.len() as f64 >= least);
    runs.filter_map(|run| run.first().copied()).collect()
}

/// The quantile by linear interpolation between order statistics (numpy's default).
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let at = q * (sorted.len() - 1) as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 <= at < len
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let share = at - at.floor();
    // numpy's own form, so that golden numbers agree to the last bit on ties.
    let step = sorted[above] - sorted[below];
    if share < 0.5 {
        sorted[below] + step * share
    } else {
        sorted[above] - step * (1.0 - share)
    }
}

fn exponent_for(magnitude: f64) -> i32 {
    if magnitude == 0.0 || !magnitude.is_finite() {
        return SCALE_BITS;
    }
    // log2 of a finite double is within +-1075.
    #[allow(clippy::cast_possible_truncation)]
    let bits = magnitude.log2().ceil() as i32;
    (SCALE_BITS - bits).clamp(-1000, 1000)
}

/// A value in units, rounded half away from zero.
#[inline]
fn units(value: f64, scale: f64) -> i64 {
    let scaled = (value * scale).clamp(-CLAMP_UNITS, CLAMP_UNITS);
    // `f64::round` is a call into the C library on most targets. Clamped to 2^43 and not NaN (cells
    // with NaN never come here), the cast cuts the fraction off and the rest is exact.
    #[allow(clippy::cast_possible_truncation)]
    let whole = scaled as i64;
    #[allow(clippy::cast_precision_loss)]
    let rest = scaled - whole as f64;
    whole + i64::from(rest >= 0.5) - i64::from(rest <= -0.5)
}

fn exp2(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// What one bin of a grid holds. Packed, since an aligned one would be a third larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, packed(8))]
pub struct Bin {
    /// Sum of the values, in units.
    pub sum: i128,
    /// How many values there are.
    pub count: u64,
}

impl AddAssign for Bin {
    #[inline]
    fn add_assign(&mut self, more: Self) {
        self.sum += more.sum;
        self.count += more.count;
    }
}

/// The values of one feature on a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Numeric {
    /// The values of each bin.
    pub bins: PerBin<Bin>,
    /// Sum of the squares of all values, in squared units.
    pub squares: i128,
    /// Least value; infinity where there is none.
    pub least: f64,
    /// Greatest value; minus infinity where there is none.
    pub greatest: f64,
}

impl Numeric {
    /// No values.
    pub fn empty(grid: &Grid) -> Self {
        Self {
            bins: PerBin::new(grid.bins()),
            squares: 0,
            least: f64::INFINITY,
            greatest: f64::NEG_INFINITY,
        }
    }

    /// Adds values, all of them finite.
    pub(super) fn add(&mut self, grid: &Grid, values: &[f64]) {
        let (lanes, rest) = values.as_chunks();
        let scale = exp2(grid.exponent);
        for values in lanes {
            self.add_lanes(grid, scale, values);
        }
        for value in rest {
            self.add_one(grid.bin(*value), scale, *value);
        }
    }

    /// Adds values that do not stand one after another.
    pub(super) fn add_each(&mut self, grid: &Grid, values: impl Iterator<Item = f64>) {
        let mut some = [0.0; LANES];
        let mut count = 0;
        for value in values {
            some[count] = value;
            count += 1;
            if count == LANES {
                self.add(grid, &some);
                count = 0;
            }
        }
        self.add(grid, &some[..count]);
    }

    #[inline]
    fn add_lanes(&mut self, grid: &Grid, scale: f64, values: &[f64; LANES]) {
        for (bin, value) in grid.bins_of(values).into_iter().zip(values) {
            self.add_one(bin, scale, *value);
        }
    }

    #[inline]
    fn add_one(&mut self, bin: usize, scale: f64, value: f64) {
        let value = value + 0.0; // -0.0 becomes 0.0, so that least and greatest have one form
        let units = i128::from(units(value, scale));
        let one = Bin {
            sum: units,
            count: 1,
        };
        self.bins.add(bin, one);
        self.squares += units * units;
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    /// Whether values can have these sums. A stored profile whose can not is damaged.
    pub(super) fn is_possible(&self) -> bool {
        const CLAMP: u128 = 1 << 43;
        let bins = || self.bins.occupied().map(|(_, bin)| bin);
        let count: u128 = bins().map(|bin| u128::from(bin.count)).sum();
        let bounded = |bin: Bin| {
            let (sum, count) = (bin.sum, bin.count);
            sum.unsigned_abs() <= u128::from(count).saturating_mul(CLAMP)
        };
        let squares = u128::try_from(self.squares);
        let range = match count {
            0 => self.least == f64::INFINITY && self.greatest == f64::NEG_INFINITY,
            _ => (f64::MIN..=self.greatest).contains(&self.least) && self.greatest <= f64::MAX,
        };
        let most = count.saturating_mul(CLAMP * CLAMP);
        range && bins().all(bounded) && squares.is_ok_and(|squares| squares <= most)
    }

    /// Adds other values of the same grid.
    pub fn merge(&mut self, other: &Self) {
        self.bins.merge(&other.bins);
        self.squares += other.squares;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// How many values each bin holds.
    pub fn counts(&self) -> Vec<u64> {
        self.bins.to_vec().iter().map(|bin| bin.count).collect()
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.bins.occupied().map(|(_, bin)| bin.count).sum()
    }

    /// Sum of all values, in units.
    fn sum(&self) -> i128 {
        self.bins.occupied().map(|(_, bin)| bin.sum).sum()
    }

    /// How many values are below the baseline's range, and how many above it.
    pub fn beyond(&self) -> [u64; 2] {
        let last = self.bins.bins() - 1;
        [0, last].map(|bin| self.bins.get(bin).count)
    }

    /// Values outside the baseline's range.
    pub fn out_of_range(&self) -> u64 {
        self.beyond().iter().sum()
    }

    /// The mean; `None` without values.
    #[allow(clippy::cast_precision_loss)]
    pub fn mean(&self, grid: &Grid) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| grid.value_of(self.sum()) / count as f64)
    }

    /// The standard deviation with divisor n; `None` without values.
    #[allow(clippy::cast_precision_loss)]
    pub fn deviation(&self, grid: &Grid) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let n = count as f64;
        let mean = self.sum() as f64 / n;
        let variance = (self.squares as f64 / n - mean * mean).max(0.0);
        Some(variance.sqrt() * exp2(-grid.exponent))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bins.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_what_they_say() {
        let grid = Grid::from_sorted(&[1.0, 2.0, 2.0, 4.0], 1.0, 4.0);
        assert_eq!(grid.cuts[0].to_bits(), 1f64.to_bits());
        assert_eq!(grid.bin(0.9), 0);
        assert_eq!(grid.bin(f64::MIN), 0);
        assert_eq!(grid.bin(1.0), 1);
        let last = grid.bins() - 1;
        assert_eq!(grid.bin(4.0), last - 1);
        assert_eq!(grid.bin(4.1), last);
        assert_eq!(grid.bin(1e308), last);
        for (i, cut) in grid.cuts.iter().enumerate() {
            assert_eq!(grid.bin(*cut), i + 1);
            assert_eq!(grid.bin(cut.next_down()), i);
        }
    }

    #[test]
    fn a_fine_grid_holds_the_deciles_and_as_many_values_in_each_bin() {
        let values: Vec<f64> = (0..10_000).map(f64::from).collect();
        let grid = Grid::from_sorted(&values, 0.0, 9999.0);
        assert!(
            grid.cuts.len() <= Grid::MAX_CUTS && grid.cuts.len() > 250,
            "{}",
            grid.cuts.len()
        );
        assert_eq!(grid.deciles.len(), 9);
        let mut numeric = Numeric::empty(&grid);
        numeric.add(&grid, &values);
        assert_eq!(grid.coarse(&numeric.counts()), vec![1000; 10]);
        assert_eq!(numeric.out_of_range(), 0);
        assert!((numeric.mean(&grid).unwrap() - 4999.5).abs() < 1e-6);
        assert!((numeric.deviation(&grid).unwrap() - 2886.75).abs() < 0.01);
        assert!(numeric.counts().iter().max().unwrap() <= &42);
    }

    #[test]
    fn constant_and_huge_baselines_have_a_grid() {
        let constant = Grid::from_sorted(&[5.0; 100], 5.0, 5.0);
        assert_eq!(constant.cuts, [5.0, 5f64.next_up()]);
        assert_eq!(constant.bin(5.0), 1);
        let huge = Grid::from_sorted(&[-1e308, 0.0, 1e308], -1e308, 1e308);
        let mut numeric = Numeric::empty(&huge);
        numeric.add(&huge, &[1e308, -1e308, 1.0]);
        assert!(numeric.mean(&huge).unwrap().abs() < 1e300);
        let zero = Grid::from_sorted(&[0.0], 0.0, 0.0);
        assert_eq!(zero.bin(-0.0), 1);
    }
}
