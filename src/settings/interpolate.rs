//! `${VAR}` and `${VAR:-default}` in the values of a file. `$${` stands for `${` itself.

use std::collections::BTreeMap;

use super::file::{Node, Table, Value};
use super::problem::Problem;

/// Puts the variables into every text of the table.
pub(super) fn interpolate(
    table: &mut Table,
    variables: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) {
    for (key, node) in table {
        in_node(node, key, variables, problems);
    }
}

fn in_node(
    node: &mut Node,
    key: &str,
    variables: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => match replaced(text, variables) {
            Ok(value) => {
                *text = value;
                node.loose = true;
            }
            Err(fault) => {
                let origin = Some(node.origin.to_string());
                let (found, right) = fault.told();
                problems.push(Problem {
                    origin,
                    key: key.to_owned(),
                    found,
                    right,
                });
                node.value = Value::Broken;
            }
        },
        Value::List(list) => {
            for (i, element) in list.iter_mut().enumerate() {
                let key = named(element, key).unwrap_or_else(|| format!("{key}[{i}]"));
                in_node(element, &key, variables, problems);
            }
        }
        Value::Table(table) => {
            for (name, inner) in table {
                in_node(inner, &format!("{key}.{name}"), variables, problems);
            }
        }
        _ => {}
    }
}

/// The key of a monitor or a hand-over is its name, as everywhere.
fn named(element: &Node, key: &str) -> Option<String> {
    let Value::Table(table) = &element.value else {
        return None;
    };
    let Value::Text(name) = &table.get("name")?.value else {
        return None;
    };
    (matches!(key, "monitors" | "handovers") && !name.contains("${"))
        .then(|| format!("{key}.{name}"))
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Unset(String),
    Open,
    Nameless(String),
}

impl Fault {
    fn told(self) -> (String, String) {
        match self {
            Self::Unset(name) => (
                format!("the environment variable {name} is not set"),
                format!("set it, or give a default: ${{{name}:-...}}"),
            ),
            Self::Open => (
                "\"${\" without \"}\"".into(),
                "write ${VAR}, or $${ for the characters themselves".into(),
            ),
            Self::Nameless(name) => (
                format!("{name:?} is no name of an environment variable"),
                "letters, digits and _, not starting with a digit".into(),
            ),
        }
    }
}

fn replaced(text: &str, variables: &BTreeMap<String, String>) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let end = inside.find('}').ok_or(Fault::Open)?;
        out.push_str(variable(&inside[..end], variables)?);
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn variable<'a>(
    inside: &'a str,
    variables: &'a BTreeMap<String, String>,
) -> Result<&'a str, Fault> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Fault::Nameless(name.to_owned()));
    }
    // As in a shell, `:-` also stands in for a variable that is set to nothing.
    let set = variables.get(name).map(String::as_str);
    match (set, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default),
        (None, None) => Err(Fault::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_defaults() {
        let vars = BTreeMap::from([
            ("A".to_owned(), "1".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]);
        let put = |text| replaced(text, &vars);
        assert_eq!(put("x${A}y${A}").unwrap(), "x1y1");
        assert_eq!(put("${B:-two}").unwrap(), "two");
        assert_eq!(put("${EMPTY:-two}").unwrap(), "two");
        assert_eq!(put("${EMPTY}").unwrap(), "");
        assert_eq!(put("$${A}").unwrap(), "${A}");
        assert_eq!(put("${B}"), Err(Fault::Unset("B".into())));
        assert_eq!(put("${A"), Err(Fault::Open));
        assert_eq!(put("${1}"), Err(Fault::Nameless("1".into())));
    }
}
