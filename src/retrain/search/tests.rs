use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A search for the least `loss` with seed 0.
pub(super) fn search(method: &str, space: Value, trials: u32) -> Search {
    Search::parse(&json!({
        "method": method, "space": space, "trials": trials,
        "objective": {"name": "loss", "goal": "minimize"}, "seed": 0,
    }))
    .unwrap()
}

pub(super) fn trial(number: u32, parameters: Value, state: State) -> Trial {
    let Value::Object(parameters) = parameters else {
        panic!("parameters are an object")
    };
    Trial {
        number,
        parameters,
        state,
    }
}

fn wrong(value: Value) -> Vec<String> {
    let problems = Search::parse(&value).unwrap_err();
    problems.iter().map(Problem::to_string).collect()
}

fn with(space: Value) -> Value {
    json!({"method": "tpe", "space": space, "trials": 10,
           "objective": {"name": "auc", "goal": "maximize"}})
}

#[test]
fn a_search_is_read_and_written_alike() {
    let written = json!({
        "method": "tpe",
        "space": {
            "rate": {"type": "float", "low": 1e-4, "high": 1, "log": true},
            "depth": {"type": "int", "low": 2, "high": 12.0, "step": 2},
            "kernel": {"type": "categorical", "choices": ["linear", null, 3, true]},
        },
        "trials": 50,
        "objective": {"name": "auc", "goal": "maximize"},
        "pruner": {"type": "median"},
        "seed": u64::MAX,
    });
    let search = Search::parse(&written).unwrap();
    assert_eq!((search.trials, search.parallel), (50, 4));
    assert_eq!(search.seed, Some(u64::MAX));
    let depth = Domain::Int {
        low: 2,
        high: 12,
        step: 2,
        log: false,
    };
    assert_eq!(search.space["depth"], depth);
    let usual = Pruner::Median {
        min_trials: 5,
        min_step: 1,
    };
    assert_eq!(search.pruner, Some(usual));
    let bare = Search::parse(&with(json!({"x": {"type": "float", "low": 0, "high": 1}}))).unwrap();
    assert_eq!((bare.pruner, bare.seed), (None, None));
}

#[test]
fn every_mistake_is_found_at_once() {
    let found = wrong(json!({
        "method": "bayes",
        "space": {
            "a": {"type": "float", "low": 2, "high": 1},
            "b": {"type": "float", "low": 0, "high": 1, "log": true},
            "c": {"type": "int", "low": 1, "high": 9, "step": 0},
            "d": {"type": "categorical", "choices": []},
            "e": {"type": "categorical", "choices": ["x", 1, 1.0, ["y"]]},
            "f": {"type": "float", "low": f64::NAN, "high": "NaN"},
            "g": {"type": "normal"},
            "h": {"type": "int", "low": 1.5, "high": 1u64 << 60, "size": 3},
            "i": 7,
        },
        "trials": 0,
        "parallel": 1001,
        "objective": {"goal": "up"},
        "pruner": {"type": "median", "min_trials": 0, "min_step": -1},
        "seed": -1,
        "budget": 3,
    }));
    let expected = [
        "budget: is unknown; known here: method, space, trials, parallel, objective, pruner, seed",
        "method: \"bayes\"; one of grid, random, tpe is needed",
        "space.a.low: 2; less than high, 1, is needed",
        "space.b.low: 0; more than 0 is needed on a logarithmic scale",
        "space.c.step: 0; a whole number from 1 to 9007199254740991 is needed",
        "space.d.choices: has 0 choices; 1 to 1000 strings, numbers, booleans or nulls are needed",
        "space.e.choices[2]: 1.0; each choice is needed once",
        "space.e.choices[3]: [\"y\"]; a string, a number, a boolean or null is needed",
        "space.f.low: null; a finite number is needed",
        "space.f.high: \"NaN\"; a finite number is needed",
        "space.g.type: \"normal\"; one of float, int, categorical is needed",
        "space.h.size: is unknown; known here: type, low, high, step, log",
        "space.h.low: 1.5; a whole number from -9007199254740991 to 9007199254740991 is needed",
        "space.h.high: 1152921504606846976; a whole number from -9007199254740991 to \
         9007199254740991 is needed",
        "space.i: 7; an object is needed",
        "trials: 0; a whole number from 1 to 10000 is needed",
        "parallel: 1001; a whole number from 1 to 1000 is needed",
        "objective.goal: \"up\"; one of maximize, minimize is needed",
        "objective.name: is missing; the name of a metric is needed",
        "pruner.min_trials: 0; a whole number from 1 to 10000 is needed",
        "pruner.min_step: -1; a whole number from 0 to 2147483647 is needed",
        "seed: -1; a whole number from 0 to 18446744073709551615 is needed",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_missing_or_empty_is_said() {
    let found = wrong(json!({}));
    let paths = ["method", "space", "trials", "objective"];
    assert_eq!(found.len(), paths.len());
    for (problem, path) in found.iter().zip(paths) {
        assert!(
            problem.starts_with(&format!("{path}: is missing; ")),
            "{problem}"
        );
    }
    assert_eq!(wrong(json!([]))[0], "[]; an object is needed");
    assert!(wrong(with(json!({})))[0].starts_with("space: has 0 parameters; 1 to 100 "));
    let nameless = with(json!({" ": {"type": "int", "low": 0, "high": 1}}));
    assert_eq!(
        wrong(nameless),
        ["space: a parameter without a name; a parameter needs one"]
    );
    let wide = with(json!({"x": {"type": "float", "low": -1e308, "high": 1e308}}));
    assert!(wrong(wide)[0].starts_with("space.x: "));
    let equal = with(json!({"x": {"type": "int", "low": 3, "high": 3}}));
    assert_eq!(
        wrong(equal),
        ["space.x.low: 3; less than high, 3, is needed"]
    );
}

#[test]
fn only_a_grid_needs_points_on_a_float() {
    let mut value = with(json!({"x": {"type": "float", "low": 0, "high": 1}}));
    assert!(Search::parse(&value).is_ok());
    value["method"] = json!("grid");
    let right = "a grid needs points on a float: how many values it takes";
    assert_eq!(
        wrong(value.clone()),
        [format!("space.x.points: is missing; {right}")]
    );
    value["space"]["x"]["points"] = json!(1);
    assert!(wrong(value.clone())[0].starts_with("space.x.points: 1; "));
    value["space"]["x"]["points"] = json!(2);
    assert_eq!(Search::parse(&value).unwrap().grid_size(), Some(2));
}

/// Whether the parameters lie in the space: each of its names and no other, each with a value that its
/// domain has.
pub(super) fn lie_in_space(search: &Search, parameters: &Map<String, Value>) -> bool {
    let space = &search.space;
    parameters.len() == space.len()
        && space.iter().all(|(name, domain)| {
            let value = parameters.get(name);
            value.is_some_and(|value| lies_in(domain, value))
        })
}

fn lies_in(domain: &Domain, value: &Value) -> bool {
    match domain {
        Domain::Float { low, high, .. } => {
            // JSON readers may miss the last bit of a number that they read.
            let slack = |end: f64| 4.0 * f64::EPSILON * end.abs();
            let is_inside = |x: f64| x >= low - slack(*low) && x <= high + slack(*high);
            value.as_f64().is_some_and(is_inside)
        }
        Domain::Int {
            low, high, step, ..
        } => read::whole(value).is_some_and(|x| {
            let way = i128::from(x) - i128::from(*low);
            (*low..=*high).contains(&x) && way % i128::from(*step) == 0
        }),
        Domain::Categorical { .. } => domain.choice(value).is_some(),
    }
}

#[test]
fn values_that_are_written_otherwise_are_the_same_choice() {
    let seeds = json!({"type": "categorical", "choices": [1u64 << 60, (1u64 << 60) + 1, 1]});
    let rate = json!({"type": "float", "low": 1e-300, "high": 1, "log": true});
    let search = search("random", json!({"rate": rate, "seed": seeds}), 5);
    let lies = |value: Value| lie_in_space(&search, value.as_object().unwrap());
    assert!(lies(json!({"rate": 1, "seed": (1u64 << 60) + 1})));
    assert!(lies(json!({"rate": 1, "seed": 1.0})));
    assert!(!lies(json!({"rate": 1, "seed": (1u64 << 60) + 2})));
    assert!(!lies(json!({"rate": 0, "seed": 1u64 << 60})));
    assert!(!lies(json!({"rate": 1})));
    assert!(!lies(json!({"rate": 1, "seed": 1, "gamma": 1})));
}

#[test]
fn the_best_trial_is_done_and_has_a_number() {
    let mut search = search(
        "random",
        json!({"x": {"type": "int", "low": 0, "high": 9}}),
        9,
    );
    let with = |number, state| trial(number, json!({"x": 1}), state);
    let done = |number, objective| with(number, State::Done { objective });
    let trials = [
        done(0, f64::NAN),
        with(1, State::Pruned { last: -9.0 }),
        done(5, 1.0),
        done(4, 1.0),
        done(2, 2.0),
        done(3, f64::NEG_INFINITY),
        with(6, State::Failed),
        with(7, State::Running),
        done(8, 2.0),
    ];
    assert_eq!(best(&search, &trials).unwrap().number, 4);
    search.objective.goal = Goal::Maximize;
    assert_eq!(best(&search, &trials).unwrap().number, 2);
    assert_eq!(best(&search, &trials[..2]), None);
    let zeros = [done(1, 0.0), done(0, -0.0)];
    assert_eq!(best(&search, &zeros).unwrap().number, 0);
}

fn bounds() -> impl Strategy<Value = (i64, i64)> {
    let any = || prop_oneof![-50..50i64, -axis::MOST_EXACT..=axis::MOST_EXACT];
    (any(), any()).prop_filter("low < high", |(low, high)| low < high)
}

fn domain() -> impl Strategy<Value = Value> {
    let int = (bounds(), prop_oneof![1..9i64, 1..axis::MOST_EXACT], any::<bool>()).prop_map(
        |((low, high), step, log)| {
            json!({"type": "int", "low": low, "high": high, "step": step, "log": log && low > 0})
        },
    );
    let float = (-1e9..1e9f64, -300..9i32, 2..6u32, any::<bool>()).prop_map(
        |(low, exponent, points, log)| {
            let low = if log {
                low.abs() * 10f64.powi(exponent) + f64::MIN_POSITIVE
            } else {
                low
            };
            let high = (low + 10f64.powi(exponent)).max(low.next_up());
            json!({"type": "float", "low": low, "high": high, "log": log, "points": points})
        },
    );
    let choices = vec(
        prop_oneof![
            any::<i32>().prop_map(Value::from),
            "[a-c]".prop_map(Value::from)
        ],
        1..4,
    )
    .prop_map(|mut choices| {
        choices.sort_by_key(Value::to_string);
        choices.dedup();
        json!({"type": "categorical", "choices": choices})
    });
    prop_oneof![int, float, choices]
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Running),
        Just(State::Failed),
        prop_oneof![Just(f64::NAN), Just(0.0), -9.0..9.0].prop_map(|last| State::Pruned { last }),
        prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(1.0), -9.0..9.0]
            .prop_map(|objective| State::Done { objective }),
    ]
}

fn any_search() -> impl Strategy<Value = Search> {
    let method = prop_oneof![Just("grid"), Just("random"), Just("tpe")];
    (method, vec(domain(), 1..4), any::<u64>(), any::<bool>()).prop_map(
        |(method, domains, seed, up)| {
            let space: Map<String, Value> = domains
                .into_iter()
                .enumerate()
                .map(|(at, domain)| (format!("p{at}"), domain))
                .collect();
            Search::parse(&json!({
                "method": method, "space": space, "trials": 60, "seed": seed,
                "objective": {"name": "m", "goal": if up { "maximize" } else { "minimize" }},
            }))
            .unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn suggestions_lie_in_the_space_and_repeat(search in any_search(), states in vec(state(), 60)) {
        let mut history: Vec<Trial> = Vec::new();
        for (number, state) in (0..).zip(states) {
            let Some(parameters) = suggest(&search, &history, number) else {
                prop_assert!(number >= search.total());
                break;
            };
            prop_assert!(number < search.total());
            prop_assert!(lie_in_space(&search, &parameters));
            // Through text and back, as the database has it, and known in another order.
            let text = serde_json::to_string(&parameters).unwrap();
            prop_assert!(lie_in_space(&search, &serde_json::from_str(&text).unwrap()));
            history.reverse();
            history.push(Trial { number, parameters: parameters.clone(), state });
            prop_assert_eq!(suggest(&search, &history, number), Some(parameters));
        }
    }

    #[test]
    fn a_grid_has_each_combination_once(domains in vec(domain(), 1..4)) {
        let space: Map<String, Value> =
            domains.into_iter().enumerate().map(|(at, domain)| (format!("p{at}"), domain)).collect();
        let search = search("grid", Value::Object(space), 300);
        let combinations: Vec<_> = (0..400).map_while(|n| suggest(&search, &[], n)).collect();
        let size = search.grid_size().unwrap();
        prop_assert_eq!(combinations.len() as u64, size.min(300));
        let mut texts: Vec<String> =
            combinations.iter().map(|c| serde_json::to_string(c).unwrap()).collect();
        texts.sort();
        let before = texts.len();
        texts.dedup();
        // Two floats next to each other have nothing in between.
        let narrow = search.space.values().any(|domain| matches!(
            domain, Domain::Float { low, high, .. } if high - low <= 1e-12 * high.abs()));
        prop_assert!(narrow || texts.len() == before);
    }
}
