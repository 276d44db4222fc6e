//! JSON pointers (RFC 6901), with `*` for every element of a list: Kubernetes tells how a job ended
//! in a list of conditions whose order means nothing.

use serde_json::Value;

use super::template;

/// Where something stands in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads `/status/conditions/*/type`; `None` if it does not begin with a slash.
    pub fn parse(text: &str) -> Option<Self> {
        let steps = text.strip_prefix('/')?.split('/');
        let unescaped = |step: &str| step.replace("~1", "/").replace("~0", "~");
        Some(Self(steps.map(unescaped).collect()))
    }

    /// Everything that stands there.
    pub fn all<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![document];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| children(value, step))
                .collect();
        }
        found
    }

    /// What stands there first, as a text; neither null nor empty.
    pub fn text(&self, document: &Value) -> Option<String> {
        let texts = self.all(document).into_iter().map(template::text);
        texts.into_iter().find(|text| !text.is_empty())
    }
}

fn children<'a>(value: &'a Value, step: &str) -> Vec<&'a Value> {
    match value {
        Value::Array(list) if step == "*" => list.iter().collect(),
        Value::Array(list) => {
            let at = step.parse::<usize>().ok();
            at.and_then(|at| list.get(at)).into_iter().collect()
        }
        other => other.get(step).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_finds_what_it_points_at() {
        let document = json!({"a": [{"t": "x"}, {"t": "y"}], "b/c": 7, "n": null});
        let all = |text| {
            let found: Vec<Value> = Pointer::parse(text)
                .unwrap()
                .all(&document)
                .into_iter()
                .cloned()
                .collect();
            found
        };
        assert_eq!(all("/a/*/t"), [json!("x"), json!("y")]);
        assert_eq!(all("/a/1/t"), [json!("y")]);
        assert_eq!(all("/b~1c"), [json!(7)]);
        assert!(all("/a/2/t").is_empty() && all("/z").is_empty());
        let text = |text| Pointer::parse(text).unwrap().text(&document);
        assert_eq!((text("/b~1c"), text("/n")), (Some("7".to_owned()), None));
        assert_eq!(Pointer::parse("state"), None);
    }
}
