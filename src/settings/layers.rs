//! Layers: what is compiled in, a file, the environment, flags; each may say anew what the one
//! below it said.

use std::collections::BTreeMap;

use super::file::{self, Node, Origin, Table, Value};
use super::problem::Problem;

/// The prefix of environment variables that are settings.
pub(super) const PREFIX: &str = "DRIFTD__";

/// Tables that say one thing in one of several shapes: a higher layer replaces them as a whole.
const WHOLE: [&str; 5] = ["version", "timestamp", "features", "window", "tests"];

/// Lays `over` on `under`: tables are merged, everything else is replaced.
pub(super) fn merge(under: &mut Table, over: Table) {
    for (key, node) in over {
        match (under.get_mut(&key), node.value) {
            (
                Some(Node {
                    value: Value::Table(below),
                    ..
                }),
                Value::Table(above),
            ) if !WHOLE.contains(&key.as_str()) => {
                merge(below, above);
            }
            (_, value) => {
                under.insert(
                    key,
                    Node {
                        value,
                        origin: node.origin,
                        loose: node.loose,
                    },
                );
            }
        }
    }
}

/// `[kafka.properties]` with names as librdkafka has them, whether the file quoted their dots or
/// let TOML make tables of them.
pub(super) fn flatten_properties(layer: &mut Table) {
    let Some(Node {
        value: Value::Table(kafka),
        ..
    }) = layer.get_mut("kafka")
    else {
        return;
    };
    let Some(Node {
        value: Value::Table(properties),
        ..
    }) = kafka.get_mut("properties")
    else {
        return;
    };
    let mut flat = Table::new();
    flatten("", std::mem::take(properties), &mut flat);
    *properties = flat;
}

fn flatten(prefix: &str, table: Table, flat: &mut Table) {
    for (key, node) in table {
        let name = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match node.value {
            Value::Table(inner) => flatten(&name, inner, flat),
            value => {
                flat.insert(name, Node { value, ..node });
            }
        }
    }
}

/// The layer of `DRIFTD__SECTION__KEY` variables.
pub(super) fn environment(
    variables: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Table {
    let mut layer = Table::new();
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let segments = rest.to_lowercase();
        let segments: Vec<&str> = segments.split("__").collect();
        let origin = Origin::Environment(name.clone());
        if matches!(segments[0], "monitors" | "handovers") {
            let list = segments[0];
            problems.push(Problem {
                origin: Some(origin.to_string()),
                key: list.into(),
                found: format!("{list} cannot be set by a variable of their own"),
                right: "write ${VAR} in the file where a value has to come from the environment, \
                        or set DRIFTD__DEFAULTS__..."
                    .into(),
            });
            continue;
        }
        insert(&mut layer, &env_path(&segments), value, &origin, problems);
    }
    layer
}

/// Shells allow no dots in names, so `SASL_PASSWORD` stands for the property `sasl.password`.
fn env_path(segments: &[&str]) -> Vec<String> {
    let mut path: Vec<String> = segments.iter().map(|s| (*s).to_owned()).collect();
    if let [section, table, property] = path.as_mut_slice()
        && section == "kafka"
        && table == "properties"
    {
        let (name, suffix) = match property.strip_suffix("_file") {
            Some(name) => (name, "_file"),
            None => (property.as_str(), ""),
        };
        *property = format!("{}{suffix}", name.replace('_', "."));
    }
    path
}

/// A setting given as a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The flag as the user wrote it, for messages, e.g. `--set log.level`.
    pub flag: String,
    /// The key, e.g. `log.level`.
    pub key: String,
    /// The value, as text.
    pub value: String,
}

/// The layer of flags.
pub(super) fn flags(overrides: &[Override], problems: &mut Vec<Problem>) -> Table {
    let mut layer = Table::new();
    for Override { flag, key, value } in overrides {
        let path: Vec<String> = match key.strip_prefix("kafka.properties.") {
            Some(property) => vec!["kafka".into(), "properties".into(), property.into()],
            None => key.split('.').map(str::to_owned).collect(),
        };
        insert(
            &mut layer,
            &path,
            value,
            &Origin::Flag(flag.clone()),
            problems,
        );
    }
    layer
}

fn insert(
    layer: &mut Table,
    path: &[String],
    text: &str,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) {
    let Some((last, sections)) = path.split_last() else {
        return;
    };
    let mut table = layer;
    for section in sections {
        let node = table.entry(section.clone()).or_insert_with(|| Node {
            value: Value::Table(Table::new()),
            origin: origin.clone(),
            loose: false,
        });
        let Value::Table(inner) = &mut node.value else {
            problems.push(Problem {
                origin: Some(origin.to_string()),
                key: path.join("."),
                found: format!("{} is already set to a value by {}", section, node.origin),
                right: "remove one of the two".into(),
            });
            return;
        };
        table = inner;
    }
    let value = structured(path, text, origin).unwrap_or_else(|| Value::Text(text.to_owned()));
    table.insert(
        last.clone(),
        Node {
            value,
            origin: origin.clone(),
            loose: true,
        },
    );
}

/// A list or table may be given in TOML's inline form. Secrets are never looked into.
fn structured(path: &[String], text: &str, origin: &Origin) -> Option<Value> {
    let secret = matches!(path[0].as_str(), "postgres" | "handovers")
        || path.get(1).is_some_and(|key| key == "properties");
    if secret || !text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    file::parse_value(text, origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn properties_have_one_spelling() {
        let text = "[kafka.properties]\nsasl.username = 'u'\n'sasl.mechanism' = 'PLAIN'\n";
        let mut file = file::parse(text, Some("x")).unwrap();
        flatten_properties(&mut file);
        let mut problems = Vec::new();
        let vars = vars(&[
            ("DRIFTD__KAFKA__PROPERTIES__SASL_USERNAME", "v"),
            ("DRIFTD__KAFKA__PROPERTIES__SASL_PASSWORD_FILE", "/p"),
        ]);
        merge(&mut file, environment(&vars, &mut problems));
        let Value::Table(kafka) = &file["kafka"].value else {
            panic!()
        };
        let Value::Table(properties) = &kafka["properties"].value else {
            panic!()
        };
        assert_eq!(
            properties.keys().collect::<Vec<_>>(),
            ["sasl.mechanism", "sasl.password_file", "sasl.username"]
        );
        assert_eq!(properties["sasl.username"].value, Value::Text("v".into()));
    }

    #[test]
    fn monitors_are_not_set_by_variables() {
        let mut problems = Vec::new();
        environment(&vars(&[("DRIFTD__MONITORS__0__TOPIC", "x")]), &mut problems);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_window_is_replaced_as_a_whole() {
        let mut under = file::parse("window = { size = '1d', every = '1h' }", None).unwrap();
        merge(
            &mut under,
            file::parse("window = { size = '2d' }", Some("x")).unwrap(),
        );
        let Value::Table(window) = &under["window"].value else {
            panic!()
        };
        assert!(!window.contains_key("every"));
    }
}
