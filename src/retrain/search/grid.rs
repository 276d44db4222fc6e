//! Every combination once, in the order of the names, the last of which turns fastest.
//!
//! A whole number takes all of its values, a float as many as `points` says, evenly on its scale
//! and with both ends. Where the budget is less than the grid, only its first part is tried.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Domain;

/// How many combinations there are, `u64::MAX` where there are more; `None` where a float has no
/// `points`.
pub(super) fn size(space: &BTreeMap<String, Domain>) -> Option<u64> {
    space.values().try_fold(1_u64, |size, domain| {
        Some(size.saturating_mul(values(domain)?))
    })
}

/// Combination `number`, from 0; `None` where there are fewer.
pub(super) fn suggest(space: &BTreeMap<String, Domain>, number: u32) -> Option<Map<String, Value>> {
    let mut left = u64::from(number);
    let mut parameters = Map::new();
    for (name, domain) in space.iter().rev() {
        let values = values(domain)?.max(1);
        parameters.insert(name.clone(), value(domain, left % values)?);
        left /= values;
    }
    (left == 0).then_some(parameters)
}

fn values(domain: &Domain) -> Option<u64> {
    match domain {
        Domain::Float { points, .. } => points.map(u64::from),
        Domain::Int { .. } => domain.axis()?.len(),
        Domain::Categorical { choices } => u64::try_from(choices.len()).ok(),
    }
}

fn value(domain: &Domain, at: u64) -> Option<Value> {
    match domain {
        Domain::Float {
            low, high, points, ..
        } => {
            let last = u64::from((*points)?).saturating_sub(1);
            // The ends as they were written, without rounding.
            Some(match at {
                0 => Value::from(*low),
                at if at == last => Value::from(*high),
                at => domain.axis()?.value(at as f64 / last as f64),
            })
        }
        Domain::Int { .. } => Some(domain.axis()?.nth(i64::try_from(at).ok()?)),
        Domain::Categorical { choices } => choices.get(usize::try_from(at).ok()?).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::suggest;
    use super::super::tests::search;
    use super::*;

    #[test]
    fn the_last_name_turns_fastest() {
        let space = json!({
            "a": {"type": "categorical", "choices": ["x", "y"]},
            "b": {"type": "int", "low": 1, "high": 6, "step": 2},
        });
        let search = search("grid", space, 50);
        assert_eq!((search.grid_size(), search.total()), (Some(6), 6));
        let tried: Vec<Value> = (0..9)
            .filter_map(|number| suggest(&search, &[], number))
            .map(|p| json!([p["a"], p["b"]]))
            .collect();
        let expected = [
            json!(["x", 1]),
            json!(["x", 3]),
            json!(["x", 5]),
            json!(["y", 1]),
            json!(["y", 3]),
            json!(["y", 5]),
        ];
        assert_eq!(tried, expected);
    }

    #[test]
    fn points_are_even_on_the_scale() {
        let space = json!({
            "x": {"type": "float", "low": 0.001, "high": 10, "log": true, "points": 5},
        });
        let search = search("grid", space, 50);
        let tried: Vec<f64> = (0..9)
            .map_while(|number| suggest(&search, &[], number)?["x"].as_f64())
            .collect();
        assert_eq!(tried.len(), 5);
        for (found, expected) in tried.iter().zip([0.001, 0.01, 0.1, 1.0, 10.0]) {
            assert!(
                (found / expected - 1.0).abs() < 1e-12,
                "{found} for {expected}"
            );
        }
    }

    #[test]
    fn the_budget_ends_a_grid_however_large_it_is() {
        let wide = json!({"type": "int", "low": 0, "high": (1_u64 << 53) - 1});
        let search = search("grid", json!({"a": wide, "b": wide}), 3);
        assert_eq!((search.grid_size(), search.total()), (Some(u64::MAX), 3));
        assert_eq!(suggest(&search, &[], 2).unwrap()["b"], 2);
        assert_eq!(suggest(&search, &[], 3), None);
    }
}
