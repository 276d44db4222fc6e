//! The values that one parameter may take.

use serde_json::Value;

use super::axis::{Axis, MOST_EXACT};
use super::read::{Object, Reader, shown};

/// Parameters of a space, at most.
pub(super) const MOST_PARAMETERS: usize = 100;
/// Choices of a categorical parameter, at most.
const MOST_CHOICES: usize = 1_000;

/// The values that one parameter may take.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// Every number from `low` to `high`, both included.
    Float {
        /// The least, finite; greater than 0 on a logarithmic scale.
        low: f64,
        /// The greatest, above `low`.
        high: f64,
        /// Whether it is searched on a logarithmic scale.
        log: bool,
        /// How many values a grid takes, from `low` to `high`, evenly on the scale; at least 2.
        /// The other methods do not look at it.
        points: Option<u32>,
    },
    /// The whole numbers `low`, `low + step` and so on, up to `high`. All lie within 2^53, where a
    /// JSON number is exact for everyone.
    Int {
        /// The least; greater than 0 on a logarithmic scale.
        low: i64,
        /// None is greater; above `low`.
        high: i64,
        /// From one to the next, at least 1.
        step: i64,
        /// Whether it is searched on a logarithmic scale.
        log: bool,
    },
    /// Labels without an order.
    Categorical {
        /// Strings, numbers, booleans or null, each once.
        choices: Vec<Value>,
    },
}

impl Domain {
    /// Which of the choices a value is, from 0.
    pub(super) fn choice(&self, value: &Value) -> Option<usize> {
        match self {
            Self::Categorical { choices } => choices.iter().position(|choice| same(choice, value)),
            Self::Float { .. } | Self::Int { .. } => None,
        }
    }

    /// A numeric domain as an axis.
    pub(super) fn axis(&self) -> Option<Axis> {
        match self {
            Self::Float { low, high, log, .. } => Some(Axis::float(*low, *high, *log)),
            Self::Int {
                low,
                high,
                step,
                log,
            } => Some(Axis::int(*low, *high, *step, *log)),
            Self::Categorical { .. } => None,
        }
    }
}

/// Whether two scalars are the same label: `1` and `1.0` are, as in Postgres.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        // Not by way of f64 where both are whole: beyond 2^53 it has one for several.
        #[allow(clippy::float_cmp)] // the same number, not nearly so
        (Some(a), Some(b)) if one.is_f64() || other.is_f64() => a == b,
        _ => one == other,
    }
}

impl Reader {
    /// The domain of one parameter; a `grid` needs `points` on a float.
    pub(super) fn domain(&mut self, path: &str, value: &Value, grid: bool) -> Option<Domain> {
        const TYPES: [(&str, Type); 3] = [
            ("float", Type::Float),
            ("int", Type::Int),
            ("categorical", Type::Categorical),
        ];
        let object = self.object(path, value)?;
        match self.word(object, "type", &TYPES)? {
            Type::Float => self.float(object, grid),
            Type::Int => self.int(object),
            Type::Categorical => self.categorical(object),
        }
    }

    fn float(&mut self, object: Object<'_>, grid: bool) -> Option<Domain> {
        self.only(object, &["type", "low", "high", "log", "points"]);
        let (low, high) = (self.number(object, "low"), self.number(object, "high"));
        let log = self.flag(object, "log");
        let points = match object.map.get("points") {
            None | Some(Value::Null) if grid => {
                let right = "a grid needs points on a float: how many values it takes";
                self.wrong(&object.at("points"), "is missing", right);
                None
            }
            None | Some(Value::Null) => Some(None),
            Some(_) => self.count(object, "points", 2..=10_000, None).map(Some),
        };
        let (low, high, log) = (low?, high?, log?);
        self.bounds(object, low < high, log && low <= 0.0);
        if !(high - low).is_finite() {
            let found = format!("{low} to {high}");
            self.wrong(
                object.path,
                found,
                "a range that is itself a finite number is needed",
            );
        }
        Some(Domain::Float {
            low,
            high,
            log,
            points: points?,
        })
    }

    fn int(&mut self, object: Object<'_>) -> Option<Domain> {
        let all = -MOST_EXACT..=MOST_EXACT;
        self.only(object, &["type", "low", "high", "step", "log"]);
        let low = self.integer(object, "low", all.clone(), None);
        let high = self.integer(object, "high", all, None);
        let step = self.integer(object, "step", 1..=MOST_EXACT, Some(1));
        let log = self.flag(object, "log");
        let (low, high, log) = (low?, high?, log?);
        self.bounds(object, low < high, log && low <= 0);
        Some(Domain::Int {
            low,
            high,
            step: step?,
            log,
        })
    }

    /// What the two ends have to do with each other and with the scale.
    fn bounds(&mut self, object: Object<'_>, ascending: bool, log_of_nothing: bool) {
        let (low, high) = (&object.map["low"], &object.map["high"]);
        if !ascending {
            let right = format!("less than high, {}, is needed", shown(high));
            self.wrong(&object.at("low"), shown(low), right);
        }
        if log_of_nothing {
            let right = "more than 0 is needed on a logarithmic scale";
            self.wrong(&object.at("low"), shown(low), right);
        }
    }

    fn categorical(&mut self, object: Object<'_>) -> Option<Domain> {
        let right = format!("1 to {MOST_CHOICES} strings, numbers, booleans or nulls are needed");
        self.only(object, &["type", "choices"]);
        let value = self.required(object, "choices", &right)?;
        let path = object.at("choices");
        let Some(choices) = value.as_array() else {
            self.wrong(&path, shown(value), right);
            return None;
        };
        if choices.is_empty() || choices.len() > MOST_CHOICES {
            self.wrong(&path, format!("has {} choices", choices.len()), right);
            return None;
        }
        for (at, choice) in choices.iter().enumerate() {
            let path = format!("{path}[{at}]");
            if choice.is_array() || choice.is_object() {
                let right = "a string, a number, a boolean or null is needed";
                self.wrong(&path, shown(choice), right);
            } else if choices[..at].iter().any(|earlier| same(earlier, choice)) {
                self.wrong(&path, shown(choice), "each choice is needed once");
            }
        }
        Some(Domain::Categorical {
            choices: choices.clone(),
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Type {
    Float,
    Int,
    Categorical,
}
