//! The search as JSON: everything that is wrong with it, at once.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::axis::MOST_EXACT;
use super::{
    Domain, Goal, Method, Objective, PARALLEL, Pruner, Search, TRIALS, USUAL_PARALLEL, space,
};

/// One thing that is wrong with a search or with the parameters of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, e.g. `space.depth.low`; empty for the whole.
    pub path: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub right: String,
}

impl Problem {
    pub(super) fn new(
        path: impl Into<String>,
        found: impl Into<String>,
        right: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            found: found.into(),
            right: right.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}; {}", self.found, self.right)
    }
}

/// A value as a message shows it: its JSON, cut short.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// The whole number that a JSON number is, also where it was written as `3.0`.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let by_fraction = || {
        let number = value.as_f64()?;
        #[allow(clippy::cast_possible_truncation)] // exact below 2^53
        (number.fract() == 0.0 && number.abs() <= MOST_EXACT as f64).then_some(number as i64)
    };
    value.as_i64().or_else(by_fraction)
}

/// Reads one search and gathers what is wrong.
pub(super) fn search(value: &Value) -> Result<Search, Vec<Problem>> {
    let mut reader = Reader::default();
    let search = reader.search(value);
    match search {
        Some(search) if reader.problems.is_empty() => Ok(search),
        _ => Err(reader.problems),
    }
}

/// What was wrong so far. Each of its functions answers `None` after it has noted why.
#[derive(Debug, Default)]
pub(super) struct Reader {
    problems: Vec<Problem>,
}

/// A JSON object and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) path: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl Object<'_> {
    /// Where one of its keys stands.
    pub(super) fn at(&self, key: &str) -> String {
        match self.path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

impl Reader {
    pub(super) fn wrong(&mut self, path: &str, found: impl Into<String>, right: impl Into<String>) {
        self.problems.push(Problem::new(path, found, right));
    }

    /// An object.
    pub(super) fn object<'a>(&mut self, path: &'a str, value: &'a Value) -> Option<Object<'a>> {
        let map = value.as_object();
        if map.is_none() {
            self.wrong(path, shown(value), "an object is needed");
        }
        map.map(|map| Object { path, map })
    }

    /// Notes every key that is none of `keys`.
    pub(super) fn only(&mut self, object: Object<'_>, keys: &[&str]) {
        for key in object
            .map
            .keys()
            .filter(|key| !keys.contains(&key.as_str()))
        {
            let right = format!("known here: {}", keys.join(", "));
            self.wrong(&object.at(key), "is unknown", right);
        }
    }

    /// What stands at a key.
    pub(super) fn required<'a>(
        &mut self,
        object: Object<'a>,
        key: &str,
        right: &str,
    ) -> Option<&'a Value> {
        let value = object.map.get(key);
        if value.is_none() {
            self.wrong(&object.at(key), "is missing", right);
        }
        value
    }

    /// A whole number in a range; `usual` where there is none.
    pub(super) fn integer(
        &mut self,
        object: Object<'_>,
        key: &str,
        range: RangeInclusive<i64>,
        usual: Option<i64>,
    ) -> Option<i64> {
        let right = format!(
            "a whole number from {} to {} is needed",
            range.start(),
            range.end()
        );
        if let (None, Some(usual)) = (object.map.get(key), usual) {
            return Some(usual);
        }
        let value = self.required(object, key, &right)?;
        let number = whole(value).filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(&object.at(key), shown(value), right);
        }
        number
    }

    /// A whole number that fits `u32`, as [`Reader::integer`] reads it.
    pub(super) fn count(
        &mut self,
        object: Object<'_>,
        key: &str,
        range: RangeInclusive<i64>,
        usual: Option<i64>,
    ) -> Option<u32> {
        u32::try_from(self.integer(object, key, range, usual)?).ok()
    }

    /// A finite number.
    pub(super) fn number(&mut self, object: Object<'_>, key: &str) -> Option<f64> {
        const RIGHT: &str = "a finite number is needed";
        let value = self.required(object, key, RIGHT)?;
        let number = value.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.wrong(&object.at(key), shown(value), RIGHT);
        }
        number
    }

    /// `true` or `false`; `false` where there is none.
    pub(super) fn flag(&mut self, object: Object<'_>, key: &str) -> Option<bool> {
        let Some(value) = object.map.get(key) else {
            return Some(false);
        };
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(&object.at(key), shown(value), "true or false is needed");
        }
        flag
    }

    /// One of a few words, as what it stands for.
    pub(super) fn word<T: Copy>(
        &mut self,
        object: Object<'_>,
        key: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let right = format!("one of {} is needed", known.join(", "));
        let value = self.required(object, key, &right)?;
        let found = words.iter().find(|(word, _)| value.as_str() == Some(*word));
        if found.is_none() {
            self.wrong(&object.at(key), shown(value), right);
        }
        found.map(|(_, meaning)| *meaning)
    }

    fn search(&mut self, value: &Value) -> Option<Search> {
        const KEYS: [&str; 7] = [
            "method",
            "space",
            "trials",
            "parallel",
            "objective",
            "pruner",
            "seed",
        ];
        const METHODS: [(&str, Method); 3] = [
            ("grid", Method::Grid),
            ("random", Method::Random),
            ("tpe", Method::Tpe),
        ];
        let object = self.object("", value)?;
        self.only(object, &KEYS);
        let method = self.word(object, "method", &METHODS);
        let space = self.space(object, method == Some(Method::Grid));
        let trials = self.count(object, "trials", TRIALS, None);
        let parallel = self.count(object, "parallel", PARALLEL, Some(USUAL_PARALLEL));
        let objective = self.objective(object);
        let pruner = self.pruner(object);
        let seed = self.seed(object);
        Some(Search {
            method: method?,
            space: space?,
            trials: trials?,
            parallel: parallel?,
            objective: objective?,
            pruner: pruner?,
            seed: seed?,
        })
    }

    fn space(&mut self, object: Object<'_>, grid: bool) -> Option<BTreeMap<String, Domain>> {
        let right = format!(
            "1 to {} parameters by name are needed",
            space::MOST_PARAMETERS
        );
        let value = self.required(object, "space", &right)?;
        let parameters = self.object("space", value)?;
        let count = parameters.map.len();
        if count == 0 || count > space::MOST_PARAMETERS {
            self.wrong("space", format!("has {count} parameters"), right);
        }
        let mut domains = BTreeMap::new();
        for (name, value) in parameters.map {
            if name.trim().is_empty() {
                self.wrong(
                    "space",
                    "a parameter without a name",
                    "a parameter needs one",
                );
            }
            let path = parameters.at(name);
            if let Some(domain) = self.domain(&path, value, grid) {
                domains.insert(name.clone(), domain);
            }
        }
        Some(domains)
    }

    fn objective(&mut self, object: Object<'_>) -> Option<Objective> {
        const GOALS: [(&str, Goal); 2] =
            [("maximize", Goal::Maximize), ("minimize", Goal::Minimize)];
        const NAME: &str = "the name of a metric is needed";
        let value = self.required(
            object,
            "objective",
            "an object with name and goal is needed",
        )?;
        let object = self.object("objective", value)?;
        self.only(object, &["name", "goal"]);
        let goal = self.word(object, "goal", &GOALS);
        let value = self.required(object, "name", NAME)?;
        let name = value.as_str().filter(|name| !name.trim().is_empty());
        if name.is_none() {
            self.wrong(&object.at("name"), shown(value), NAME);
        }
        Some(Objective {
            name: name?.to_owned(),
            goal: goal?,
        })
    }

    /// The outer `None`: it is wrong.
    fn pruner(&mut self, object: Object<'_>) -> Option<Option<Pruner>> {
        let value = match object.map.get("pruner") {
            None | Some(Value::Null) => return Some(None),
            Some(value) => value,
        };
        let object = self.object("pruner", value)?;
        self.only(object, &["type", "min_trials", "min_step"]);
        let kind = self.word(object, "type", &[("median", ())]);
        let min_trials = self.count(object, "min_trials", TRIALS, Some(5));
        let min_step = self.count(object, "min_step", 0..=i64::from(i32::MAX), Some(1));
        kind?;
        Some(Some(Pruner::Median {
            min_trials: min_trials?,
            min_step: min_step?,
        }))
    }

    /// The outer `None`: it is wrong.
    fn seed(&mut self, object: Object<'_>) -> Option<Option<u64>> {
        let value = match object.map.get("seed") {
            None | Some(Value::Null) => return Some(None),
            Some(value) => value,
        };
        let seed = value.as_u64();
        if seed.is_none() {
            let right = format!("a whole number from 0 to {} is needed", u64::MAX);
            self.wrong("seed", shown(value), right);
        }
        seed.map(Some)
    }
}
