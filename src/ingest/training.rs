//! Messages as rows of training data: one JSON object a row, with the features by their names.

use std::collections::BTreeMap;

use rdkafka::message::{BorrowedMessage, Message};
use serde_json::{Map, Value};

use super::decode::time;
use super::path::{self, FieldPath, Step};
use crate::monitor::{Feature, Features, Input, TimeUnit};

/// The column with a row's event time, in milliseconds; no feature is called so.
pub const TIME: &str = "driftd.event_time";

/// Where the features of a topic's messages stand.
pub struct Columns {
    features: Vec<(String, FieldPath)>,
    time: Option<FieldPath>,
    unit: TimeUnit,
}

impl Columns {
    /// These features, each where the monitor lists it, else at the path of its own name.
    ///
    /// # Errors
    /// A path of the monitor cannot be read.
    pub fn of<'a>(
        input: &Input,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, path::Error> {
        let listed: &[Feature] = match &input.features {
            Features::Listed(listed) => listed,
            Features::All => &[],
        };
        let mut features: Vec<(String, FieldPath)> = listed
            .iter()
            .map(|one| Ok((one.name.clone(), FieldPath::parse(&one.path)?)))
            .collect::<Result<_, _>>()?;
        for name in names {
            if !listed.iter().any(|one| one.name == name) {
                features.push((name.to_owned(), FieldPath::key(name)));
            }
        }
        let time = input.timestamp.path.as_deref().map(FieldPath::parse);
        Ok(Self {
            features,
            time: time.transpose()?,
            unit: input.timestamp.unit,
        })
    }

    /// The rows of a message whose event times lie within; none of one that cannot be read.
    pub fn rows(
        &self,
        message: &BorrowedMessage<'_>,
        (from, to): (Option<i64>, Option<i64>),
    ) -> Vec<Map<String, Value>> {
        let Some(payload) = message.payload() else {
            return Vec::new();
        };
        let Ok(payload) = serde_json::from_slice::<Value>(payload) else {
            return Vec::new();
        };
        let record = message.timestamp().to_millis();
        let within = |at: i64| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to);
        self.rows_of(&payload, record)
            .into_iter()
            .filter(|(at, _)| within(*at))
            .map(|(_, row)| row)
            .collect()
    }

    /// Every row of a payload with its event time. Where a path has `[*]` there is one per element; what
    /// has no such path is the same in all of them.
    fn rows_of(&self, payload: &Value, record_ms: Option<i64>) -> Vec<(i64, Map<String, Value>)> {
        let times = match &self.time {
            Some(path) => at(payload, path)
                .into_iter()
                .map(|value| moment(value, self.unit))
                .collect(),
            None => vec![record_ms],
        };
        let columns: BTreeMap<&str, Vec<&Value>> = self
            .features
            .iter()
            .map(|(name, path)| (name.as_str(), at(payload, path)))
            .collect();
        let rows = columns.values().map(Vec::len).max().unwrap_or_default();
        let rows = rows.max(times.len());
        (0..rows)
            .filter_map(|number| {
                let ms = times
                    .get(number)
                    .or_else(|| times.first())
                    .copied()
                    .flatten()?;
                let value = |values: &Vec<&Value>| {
                    let only = values.first().filter(|_| values.len() == 1);
                    let value = values.get(number).or(only);
                    value.map_or(Value::Null, |value| (*value).clone())
                };
                let mut row: Map<String, Value> = columns
                    .iter()
                    .map(|(name, values)| ((*name).to_owned(), value(values)))
                    .collect();
                row.insert(TIME.to_owned(), ms.into());
                Some((ms, row))
            })
            .collect()
    }
}

fn moment(value: &Value, unit: TimeUnit) -> Option<i64> {
    match value {
        Value::String(text) => time::of_text(text),
        Value::Number(number) => time::of_number(number.as_f64()?, unit),
        _ => None,
    }
}

/// The values at a path: one, none, or as many as the array at its `[*]` has elements.
fn at<'a>(payload: &'a Value, path: &FieldPath) -> Vec<&'a Value> {
    let mut values = vec![payload];
    for step in path.steps() {
        values = values
            .into_iter()
            .flat_map(|value| match step {
                Step::Key(key) => value.get(key).into_iter().collect::<Vec<_>>(),
                Step::Index(index) => value.get(index).into_iter().collect(),
                Step::Each => value
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default()
                    .iter()
                    .collect(),
            })
            .collect();
    }
    values
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn columns(paths: &[(&str, &str)], time: &str) -> Columns {
        Columns {
            features: paths
                .iter()
                .map(|(name, path)| ((*name).to_owned(), FieldPath::parse(path).unwrap()))
                .collect(),
            time: Some(FieldPath::parse(time).unwrap()),
            unit: TimeUnit::S,
        }
    }

    #[test]
    fn a_message_is_one_row_or_as_many_as_it_has_instances() {
        let one = columns(&[("age", "in.age"), ("town", "in.towns[1]")], "at");
        let payload = json!({"at": 5, "in": {"age": 30, "towns": ["a", "b"]}});
        let rows = one.rows_of(&payload, None);
        let expected = json!({"age": 30, "town": "b", TIME: 5000});
        assert_eq!((rows.len(), rows[0].0), (1, 5000));
        assert_eq!(Value::Object(rows[0].1.clone()), expected);

        let many = columns(&[("age", "rows[*].age"), ("site", "site")], "at");
        let payload =
            json!({"at": "1970-01-01T00:00:07Z", "site": 3, "rows": [{"age": 1}, {"age": 2}]});
        let rows = many.rows_of(&payload, None);
        let ages: Vec<_> = rows
            .iter()
            .map(|(_, row)| (&row["age"], &row["site"]))
            .collect();
        assert_eq!(ages, [(&json!(1), &json!(3)), (&json!(2), &json!(3))]);
        assert!(
            many.rows_of(&json!({"at": null, "rows": []}), None)
                .is_empty()
        );
    }
}
