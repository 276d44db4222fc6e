//! Independent draws, uniform on the scale of each parameter.

use serde_json::{Map, Value};

use super::{Domain, Search};
use crate::profile::sample::mix;

/// What splitmix64 adds from one number to the next: 2^64 over the golden ratio, made odd.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The random numbers of one trial: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(super) struct Draws(u64);

impl Draws {
    /// Those of trial `number` of a search.
    pub(super) fn of(search: &Search, number: u32) -> Self {
        let seed = mix(search.seed.unwrap_or(0).wrapping_add(STRIDE));
        Self(mix(seed ^ mix(u64::from(number).wrapping_add(STRIDE))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STRIDE);
        mix(self.0)
    }

    /// Uniform on [0, 1): a multiple of 2^-53.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (0.5 * f64::EPSILON)
    }

    /// Uniform on 0 to `n - 1`; 0 where `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let scaled = (u128::from(self.next()) * n as u128) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }
}

/// The parameters of one trial.
pub(super) fn suggest(search: &Search, number: u32) -> Map<String, Value> {
    let mut draws = Draws::of(search, number);
    let draw = |(name, domain): (&String, &Domain)| (name.clone(), draw(domain, &mut draws));
    search.space.iter().map(draw).collect()
}

/// One value of a domain.
pub(super) fn draw(domain: &Domain, draws: &mut Draws) -> Value {
    match (domain, domain.axis()) {
        (Domain::Categorical { choices }, _) => {
            let at = draws.below(choices.len());
            choices.get(at).cloned().unwrap_or_default()
        }
        (_, Some(axis)) => axis.value(draws.unit()),
        (_, None) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::search;
    use super::*;

    /// The largest distance of the sample's distribution function from the uniform one.
    fn kolmogorov(mut sample: Vec<f64>) -> f64 {
        sample.sort_by(f64::total_cmp);
        let n = sample.len() as f64;
        let distance = |(at, x): (usize, &f64)| {
            (x - at as f64 / n)
                .abs()
                .max(((at + 1) as f64 / n - x).abs())
        };
        sample.iter().enumerate().map(distance).fold(0.0, f64::max)
    }

    #[test]
    fn draws_are_uniform_on_the_scale() {
        let space = json!({
            "rate": {"type": "float", "low": 1e-5, "high": 0.1, "log": true},
            "share": {"type": "float", "low": -2, "high": 6},
        });
        let search = search("random", space, 10_000);
        let drawn: Vec<_> = (0..10_000).map(|number| suggest(&search, number)).collect();
        let of = |name: &str| {
            drawn
                .iter()
                .map(|p| p[name].as_f64().unwrap())
                .collect::<Vec<_>>()
        };
        // 1.63 / sqrt(n) is exceeded by one sample in a hundred.
        let log = of("rate").iter().map(|x| (x.log10() + 5.0) / 4.0).collect();
        assert!(kolmogorov(log) < 0.0163);
        let linear = of("share").iter().map(|x| (x + 2.0) / 8.0).collect();
        assert!(kolmogorov(linear) < 0.0163);
    }

    #[test]
    fn steps_and_choices_are_equally_frequent() {
        let space = json!({
            "depth": {"type": "int", "low": 3, "high": 12, "step": 4},
            "kernel": {"type": "categorical", "choices": [3, 7, 11]},
        });
        let search = search("random", space, 9_000);
        for name in ["depth", "kernel"] {
            let mut counts = [0_u32; 3];
            for number in 0..9_000 {
                let value = suggest(&search, number)[name].as_u64().unwrap();
                assert!([3, 7, 11].contains(&value));
                counts[usize::try_from(value / 4).unwrap()] += 1;
            }
            // Five standard deviations of a binomial count.
            assert!(
                counts.iter().all(|count| count.abs_diff(3_000) < 224),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn whole_numbers_on_a_logarithmic_scale_are_as_frequent_as_their_cells_are_wide() {
        let space = json!({"n": {"type": "int", "low": 1, "high": 8, "log": true}});
        let search = search("random", space, 10_000);
        let ones = (0..10_000)
            .filter(|n| suggest(&search, *n)["n"] == 1)
            .count();
        // ln(1.5 / 0.5) of ln(8.5 / 0.5).
        assert!(ones.abs_diff(3_878) < 244, "{ones}");
    }

    #[test]
    fn one_value_is_always_drawn() {
        let space = json!({
            "depth": {"type": "int", "low": 3, "high": 5, "step": 7, "log": true},
            "kernel": {"type": "categorical", "choices": ["rbf"]},
        });
        for method in ["grid", "random", "tpe"] {
            let search = search(method, space.clone(), 20);
            let only = super::super::suggest(&search, &[], 0);
            assert_eq!(
                only,
                json!({"depth": 3, "kernel": "rbf"}).as_object().cloned()
            );
        }
    }

    #[test]
    fn seed_and_number_decide() {
        let space = json!({"x": {"type": "float", "low": 0, "high": 1}});
        let mut search = search("random", space, 10);
        let first = suggest(&search, 0);
        assert_eq!(suggest(&search, 0), first);
        assert_ne!(suggest(&search, 1), first);
        search.seed = None;
        assert_eq!(suggest(&search, 0), first, "no seed is seed 0");
        search.seed = Some(1);
        assert_ne!(suggest(&search, 0), first);
        // What a search under way was told must not change from release to release.
        assert_eq!(Draws::of(&search, 0).next(), 899_492_025_199_979_184);
    }
}
