//! Texts with `{{ name }}` in them. There is a fixed set of names and no logic, so that two things
//! can be promised that a general template language leaves to its author: an unknown name is found
//! when settings are read, and a value cannot leave the place it was put in. In JSON it is a JSON
//! value, or the inside of a string where the name stands between quotes; in a URL it is
//! percent-encoded; in a header it loses its control characters.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// Every name that stands for something of the job.
pub const NAMES: [&str; 13] = [
    "job_id",
    "attempt",
    "lease_token",
    "model",
    "version",
    "baseline_id",
    "idempotency_key",
    "run_id",
    "handover",
    "job",
    "parameters",
    "training_data",
    "reasons",
];

/// Whoever has it may complete the job: it belongs in bodies only, since URLs and headers are logged.
const LEASE_TOKEN: &str = "lease_token";

/// What the names stand for.
pub type Values = BTreeMap<&'static str, Value>;

/// Where a text is used, and so how values are put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A URL.
    Url,
    /// The value of a header.
    Header,
    /// A JSON document.
    Json,
}

/// A text that was understood.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    place: Place,
    parts: Vec<Part>,
}

impl fmt::Debug for Template {
    /// The names in it; its text may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |part: &Part| match part {
            Part::Name { name, .. } => Some(*name),
            Part::Text(_) => None,
        };
        let names: Vec<&str> = self.parts.iter().filter_map(name).collect();
        f.debug_tuple("Template")
            .field(&self.place)
            .field(&names)
            .finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name { name: &'static str, quoted: bool },
}

/// Why a text is no template. The text is not repeated: it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not closed.
    #[error("\"{{{{\" without \"}}}}\"")]
    Open,
    /// Nothing is called so.
    #[error("{{{{ {0} }}}} stands for nothing")]
    Unknown(String),
    /// A secret where it would be logged.
    #[error("{{{{ lease_token }}}} outside of a body, where it would be logged")]
    Exposed,
    /// With values in it, it is not JSON.
    #[error("with values in it, it is not JSON: {0}")]
    NotJson(String),
    /// With values in it, it is not a URL that can be used.
    #[error("{0}")]
    NotUrl(&'static str),
}

impl Template {
    /// Reads a text. `parameters` are names of the settings' own, put in as they are.
    ///
    /// # Errors
    /// When it cannot be used, whatever the values will be.
    pub fn parse(
        text: &str,
        place: Place,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let mut template = Self {
            place,
            parts: vec![Part::Text(String::new())],
        };
        let mut quotes = Quotes::default();
        let mut rest = text;
        while let Some((before, inside)) = rest.split_once("{{") {
            template.push(before);
            quotes.pass(before);
            let (name, after) = inside.split_once("}}").ok_or(Error::Open)?;
            template.push_name(name.trim(), quotes.open, parameters)?;
            rest = after;
        }
        template.push(rest);
        template.check()?;
        Ok(template)
    }

    fn push(&mut self, more: &str) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push_str(more),
            _ => self.parts.push(Part::Text(more.to_owned())),
        }
    }

    fn push_name(
        &mut self,
        name: &str,
        quoted: bool,
        parameters: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        if let Some(value) = parameters.get(name) {
            self.push(value);
            return Ok(());
        }
        let known = NAMES.iter().find(|known| **known == name);
        let name = *known.ok_or_else(|| Error::Unknown(name.to_owned()))?;
        if name == LEASE_TOKEN && self.place != Place::Json {
            return Err(Error::Exposed);
        }
        self.parts.push(Part::Name { name, quoted });
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        let rendered = self.render(&samples());
        match self.place {
            Place::Header => Ok(()),
            Place::Json => serde_json::from_str::<serde::de::IgnoredAny>(&rendered)
                .map(|_| ())
                .map_err(|error| Error::NotJson(error.to_string())),
            Place::Url => self.check_url(&rendered),
        }
    }

    fn check_url(&self, rendered: &str) -> Result<(), Error> {
        let url = reqwest::Url::parse(rendered).map_err(|_| Error::NotUrl("not a URL"))?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err(Error::NotUrl("neither an https nor an http URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::NotUrl("a URL with a user or a password"));
        }
        // What comes from a job may say which page, never which host.
        let Some(Part::Text(first)) = self.parts.first() else {
            return Ok(());
        };
        let host = first.split_once("://").map_or("", |(_, rest)| rest);
        match self.parts.len() == 1 || host.contains(['/', '?', '#']) {
            true => Ok(()),
            false => Err(Error::NotUrl("a host that depends on the job")),
        }
    }

    /// Whether the name stands in it.
    pub fn mentions(&self, wanted: &str) -> bool {
        let named = |part: &Part| matches!(part, Part::Name { name, .. } if *name == wanted);
        self.parts.iter().any(named)
    }

    /// The text with values in the places of the names.
    pub fn render(&self, values: &Values) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Name { name, quoted } => {
                    let value = values.get(name).unwrap_or(&Value::Null);
                    out.push_str(&encoded(value, self.place, *quoted));
                }
            }
        }
        match self.place {
            Place::Header => out.chars().filter(|c| !c.is_control()).collect(),
            _ => out,
        }
    }
}

fn encoded(value: &Value, place: Place, quoted: bool) -> String {
    match place {
        Place::Header => text(value),
        Place::Url => percent_encoded(&text(value)),
        Place::Json if !quoted => value.to_string(),
        Place::Json => {
            let string = Value::String(text(value)).to_string();
            string[1..string.len() - 1].to_owned()
        }
    }
}

/// A value as it stands in a text: nothing for null, JSON for what is no text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// All but the characters that mean nothing anywhere in a URL (RFC 3986, "unreserved"). A text of
/// dots alone would be a step in the path.
fn percent_encoded(text: &str) -> String {
    let dots = text.bytes().all(|byte| byte == b'.');
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        match plain || (byte == b'.' && !dots) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Whether a place in a JSON document is inside of a string.
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = self.open,
                '"' => self.open = !self.open,
                _ => {}
            }
        }
    }
}

fn samples() -> Values {
    let sample = |name: &&'static str| match *name {
        "job_id" | "attempt" => (*name, json!(1)),
        "job" | "parameters" | "training_data" => (*name, json!({})),
        "reasons" => (*name, json!([])),
        _ => (*name, json!("x")),
    };
    NAMES.iter().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let mut values = samples();
        values.insert("model", json!("a \"b\"\\\n/../{{ job }}"));
        values.insert("version", Value::Null);
        values.insert("parameters", json!({"k": ["v\"", 1]}));
        values
    }

    fn parse(text: &str, place: Place) -> Result<Template, Error> {
        Template::parse(text, place, &BTreeMap::new())
    }

    #[test]
    fn in_json_a_value_stays_a_value() {
        let text = r#"{"a": "say \"{{ model }}\"", "b": {{model}}, "c": {{ version }}, "d": "{{ version }}",
            "e": {{ parameters }}, "f": "{{ parameters }}", "g": {"h": {}}}"#;
        let body = parse(text, Place::Json).unwrap().render(&values());
        let body: Value = serde_json::from_str(&body).unwrap();
        let model = "a \"b\"\\\n/../{{ job }}";
        assert_eq!(body["a"], format!("say \"{model}\""));
        assert_eq!(
            (&body["b"], &body["c"], &body["d"]),
            (&json!(model), &Value::Null, &json!(""))
        );
        assert_eq!(body["e"], json!({"k": ["v\"", 1]}));
        assert_eq!(body["f"], r#"{"k":["v\"",1]}"#);
    }

    #[test]
    fn in_a_url_a_value_is_one_piece_of_it() {
        let url = parse("https://h/a/{{ model }}/b?v={{ version }}", Place::Url).unwrap();
        assert_eq!(
            url.render(&values()),
            "https://h/a/a%20%22b%22%5C%0A%2F..%2F%7B%7B%20job%20%7D%7D/b?v="
        );
        assert_eq!(percent_encoded(".."), "%2E%2E");
        assert_eq!(percent_encoded("v1.2"), "v1.2");
    }

    #[test]
    fn a_header_stays_one_line() {
        let header = parse("m: {{ model }}", Place::Header).unwrap();
        assert_eq!(header.render(&values()), "m: a \"b\"\\/../{{ job }}");
    }

    #[test]
    fn parameters_are_put_in_as_they_are() {
        let parameters = BTreeMap::from([("base_url".to_owned(), "https://h/x".to_owned())]);
        let url = Template::parse("{{ base_url }}/{{ job_id }}", Place::Url, &parameters).unwrap();
        assert_eq!(url.render(&values()), "https://h/x/1");
        assert!(url.mentions("job_id") && !url.mentions("model"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_once() {
        let wrong = |text, place| parse(text, place).unwrap_err();
        assert_eq!(wrong("{{ job", Place::Header), Error::Open);
        assert_eq!(
            wrong("{{ jbo }}", Place::Json),
            Error::Unknown("jbo".into())
        );
        assert_eq!(
            wrong("https://h/{{ lease_token }}", Place::Url),
            Error::Exposed
        );
        assert!(matches!(
            wrong("{\"a\": {{ job }}", Place::Json),
            Error::NotJson(_)
        ));
        for url in [
            "{{ model }}",
            "https://{{ model }}.example.com/",
            "https://h{{ model }}/",
            "ftp://h/",
            "https://u:p@h/",
            "/x",
        ] {
            assert!(matches!(wrong(url, Place::Url), Error::NotUrl(_)), "{url}");
        }
    }
}
