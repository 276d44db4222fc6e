//! `[[handovers]]`: whose jobs go to which orchestrator. An entry is laid over its preset, and that
//! over what every hand-over starts from, so that each key can be said anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderName;
use secrecy::SecretString;

use crate::retrain::handover::pointer::Pointer;
use crate::retrain::handover::template::{self, Place, Template};
use crate::retrain::handover::{Call, Find, Handover, Status, Token, preset};
use crate::settings::field::Field;
use crate::settings::file::{self, Node, Table, Value};
use crate::settings::layers::merge;
use crate::settings::problem::nearest;
use crate::settings::read::Section;
use crate::settings::secret::{beside, not_a_flag, secret};

use super::monitors::{NAME, is_name, opened, short, text_of};
use super::{DAY_MS, MINUTE_MS, SECOND_MS, duration, reach, section};

type Parameters = BTreeMap<String, String>;

/// In place of a preset that there is not: its name is wrong, what it would have said is not missing.
const STAND_IN: &str = "url = 'https://x/'\nbody = '\"{{ lease_token }}\"'";

/// Lays every entry over its preset.
pub(super) fn fill_in_presets(table: &mut Table) {
    let Some(Node {
        value: Value::List(handovers),
        ..
    }) = table.get_mut("handovers")
    else {
        return;
    };
    for handover in handovers {
        let Value::Table(own) = &mut handover.value else {
            continue;
        };
        let preset = match own.get("preset").map(|node| &node.value) {
            Some(Value::Text(name)) => preset::text(name).or(Some(STAND_IN)),
            Some(_) => Some(STAND_IN),
            None => None,
        };
        let mut filled = Table::new();
        for below in [Some(preset::ALL), preset].into_iter().flatten() {
            merge(&mut filled, file::parse(below, None).unwrap_or_default());
        }
        merge(&mut filled, std::mem::take(own));
        *own = filled;
    }
}

/// Reads all entries.
pub(super) fn handovers(root: &Section<'_>) -> Option<Vec<Handover>> {
    let Some(field) = root.field("handovers") else {
        return Some(Vec::new());
    };
    let Some(fields) = field.as_list() else {
        field.wrong("expected one [[handovers]] entry a model, in double brackets");
        return None;
    };
    let read: Vec<Option<Handover>> = fields.iter().map(handover).collect();
    are_unique(&fields);
    read.into_iter().collect()
}

/// One name each, and one hand-over a model: which of two would have a job?
fn are_unique(handovers: &[Field<'_>]) {
    for (i, field) in handovers.iter().enumerate() {
        for key in ["name", "model"] {
            let own = text_of(field, key).map(|(text, _)| text);
            let same = |earlier: &&Field<'_>| text_of(earlier, key).map(|(text, _)| text) == own;
            if let Some(own) = own
                && let Some(first) = handovers[..i].iter().find(same)
            {
                let right = format!("{key} is unique; the first is at {}", first.origin());
                field.fault(format!("a second hand-over has the {key} {own:?}"), right);
            }
        }
    }
}

fn handover(field: &Field<'_>) -> Option<Handover> {
    let s = opened(field, "handovers")?;
    s.may("preset", preset_name);
    let parameters = s.must("parameters", "expected a table", |f| section(f, parameters))?;
    let name = s.must("name", NAME, name);
    let model = s.must(
        "model",
        "expected the name of the model whose jobs go there",
        model,
    );
    let start = call(&s, &parameters);
    let headers = s.must("headers", "expected a table", |f| {
        section(f, |s| headers(s, &parameters))
    });
    let token = token(&s);
    let signing_key = secret(&s, "signing_key", "signing_key_file");
    s.may("signing_key", |f| Some(not_a_flag(f)));
    let run_id = pointer(&s, "run_id_pointer");
    let find = part(&s, "find", |s| find(s, &parameters));
    let status = part(&s, "status", |s| status(s, &parameters));
    let cancel = part(&s, "cancel", |s| call(s, &parameters));
    let times = times(&s);
    let reach = reach::reach(&s);
    s.finish();
    let (allow_private, allow_http, certificates) = reach?;
    let (timeout, deadline, lease, backoff) = times?;
    let handover = Handover {
        name: name?,
        model: model?,
        start: start?,
        headers: headers?,
        token: token?,
        signing_key,
        run_id: run_id?,
        find: find?,
        status: status?,
        cancel: cancel?,
        timeout,
        deadline,
        lease,
        backoff,
        allow_private,
        allow_http,
        certificates,
    };
    goes_together(&s, &handover).then_some(handover)
}

/// What is right by itself and wrong together.
fn goes_together(s: &Section<'_>, handover: &Handover) -> bool {
    let body = handover.start.body.as_ref();
    if handover.status.is_none() && !body.is_some_and(|body| body.mentions("lease_token")) {
        s.missing(
            "status",
            "expected how to ask after a run; without it the run itself calls driftd.complete_job, so \
             the body needs {{ job_id }}, {{ attempt }} and {{ lease_token }}",
        );
        return false;
    }
    let plain = handover.allow_private.is_empty() && !handover.allow_http;
    if plain && let Some(url) = s.field("url").filter(|f| f.as_text().is_some_and(is_plain)) {
        url.fault(
            "http, which others can read and change",
            "use https; or name a network of your own in allow_private; or allow_http = true",
        );
        return false;
    }
    let token = s.field("headers").and_then(|f| f.section());
    let authorization = handover
        .headers
        .iter()
        .any(|(name, _)| name == "authorization");
    if let Some(headers) = token.filter(|_| authorization && handover.token.is_some())
        && let Some((_, field)) = headers
            .all()
            .into_iter()
            .find(|(k, _)| k.eq_ignore_ascii_case("authorization"))
    {
        field.fault("token is given as well", "give one of the two");
        return false;
    }
    true
}

fn is_plain(url: &str) -> bool {
    url.trim_start().to_ascii_lowercase().starts_with("http://")
}

fn preset_name(field: &Field<'_>) -> Option<()> {
    field.choice(&preset::NAMES.map(|name| (name, ())))
}

fn name(field: &Field<'_>) -> Option<String> {
    let name = field.as_text().filter(|text| is_name(text));
    if name.is_none() {
        field.wrong(NAME);
    }
    name.map(str::to_owned)
}

fn model(field: &Field<'_>) -> Option<String> {
    let text = field.text("expected the name of a model")?;
    short(field).then(|| text.to_owned())
}

/// Names of the user's own, put into templates as they are: so they hold nothing that would mean
/// something there.
fn parameters(s: &Section<'_>) -> Option<Parameters> {
    let mut parameters = Parameters::new();
    for (name, field) in s.all() {
        let value = parameter(name, &field);
        // Something takes its place, so that the templates do not complain as well.
        let stand_in = if name == "base_url" { "https://x" } else { "x" };
        parameters.insert(
            name.to_owned(),
            value.unwrap_or_else(|| stand_in.to_owned()),
        );
    }
    Some(parameters)
}

fn parameter(name: &str, field: &Field<'_>) -> Option<String> {
    const RIGHT: &str =
        "expected letters, digits and . _ ~ : / @ + = - (it is put into URLs and bodies as it is)";
    if template::NAMES.contains(&name) {
        field.fault(
            "a name that stands for something of the job",
            "expected another name",
        );
        return None;
    }
    let text = match &field.node().value {
        Value::Integer(integer) => integer.to_string(),
        _ => field
            .as_text()
            .map(str::trim)
            .unwrap_or_default()
            .to_owned(),
    };
    if text.is_empty() && field.as_text().is_some() {
        field.fault("missing", "the preset needs it");
        return None;
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "._~:/@+=-[]".contains(c);
    let steps = text.split('/').any(|step| step == "..");
    if text.is_empty() || steps || !text.chars().all(legal) {
        field.fault("not a text that can be put into a URL", RIGHT);
        return None;
    }
    let url = name == "base_url";
    if url && (text.contains('@') || !(is_plain(&text) || text.starts_with("https://"))) {
        field.fault(
            "not a URL that requests can begin with",
            "expected one such as \"https://airflow.example.com\"",
        );
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

fn method(field: &Field<'_>) -> Option<Method> {
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let words = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    let numbered: Vec<_> = words.into_iter().zip(0_usize..).collect();
    field.choice(&numbered).map(|at| methods[at].clone())
}

fn call(s: &Section<'_>, parameters: &Parameters) -> Option<Call> {
    let method = s.must("method", "expected a method such as \"POST\"", method);
    let url = s.must(
        "url",
        "expected where to send the request, or a preset",
        |f| template(f, Place::Url, parameters),
    );
    let body = s.may("body", |f| template(f, Place::Json, parameters));
    let body_is_right = body.is_some() || !s.has("body");
    let (method, url) = (method?, url?);
    body_is_right.then_some(Call { method, url, body })
}

fn get(s: &Section<'_>, parameters: &Parameters) -> Option<Call> {
    let url = s.must("url", "expected what to ask", |f| {
        template(f, Place::Url, parameters)
    });
    Some(Call {
        method: Method::GET,
        url: url?,
        body: None,
    })
}

/// A template. What was written is not repeated: it may hold a secret.
fn template(field: &Field<'_>, place: Place, parameters: &Parameters) -> Option<Template> {
    let text = match field.as_text() {
        Some(text) if !text.trim().is_empty() => text,
        _ => {
            field.fault("not a text", "expected a text in quotes");
            return None;
        }
    };
    match Template::parse(text, place, parameters) {
        Ok(template) => Some(template),
        Err(error) => {
            field.fault(&error, right(&error, place, parameters));
            None
        }
    }
}

fn right(error: &template::Error, place: Place, parameters: &Parameters) -> String {
    let own = parameters.keys().map(String::as_str);
    let names = || template::NAMES.into_iter().chain(own.clone());
    match (error, place) {
        (template::Error::Unknown(name), _) => match nearest(name, names()) {
            Some(meant) => format!("did you mean {{{{ {meant} }}}}?"),
            None => format!("known are {}", names().collect::<Vec<_>>().join(", ")),
        },
        (template::Error::Open, _) => "write {{ name }}".to_owned(),
        (template::Error::Exposed, _) => "put it into the body".to_owned(),
        (_, Place::Json) => "expected a JSON document in which {{ name }} stands for a value, or in quotes for a part of a text".to_owned(),
        _ => "expected a URL such as \"https://airflow.example.com/api/{{ model }}\"".to_owned(),
    }
}

fn headers(s: &Section<'_>, parameters: &Parameters) -> Option<Vec<(HeaderName, Template)>> {
    let header = |(name, field): (&str, Field<'_>)| {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .filter(|name| !is_ours(name));
        if parsed.is_none() {
            field.fault(
                "not a header that can be set",
                "expected the name of a header that driftd does not set itself",
            );
        }
        let value = template(&field, Place::Header, parameters);
        Some((parsed?, value?))
    };
    // All of them are looked at before any is given up.
    let read: Vec<Option<_>> = s.all().into_iter().map(header).collect();
    read.into_iter().collect()
}

fn is_ours(name: &HeaderName) -> bool {
    let framing = [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "idempotency-key",
    ];
    framing.contains(&name.as_str()) || name.as_str().starts_with("x-driftd-")
}

fn token(s: &Section<'_>) -> Option<Option<Token>> {
    let given = s.has("token") || s.has("token_file");
    s.may("token", |f| Some(not_a_flag(f)));
    let read = secret(s, "token", "token_file");
    if !given {
        return Some(None);
    }
    let secret: SecretString = read?;
    let layer = |key| s.field(key).map(|field| field.origin().layer());
    match s
        .field("token_file")
        .filter(|_| layer("token_file") > layer("token"))
    {
        Some(file) => {
            let path = Path::new(file.as_text()?);
            Some(Some(Token::File(beside(file.origin(), path))))
        }
        None => Some(Some(Token::Fixed(secret))),
    }
}

/// A pointer that may be absent.
fn pointer(s: &Section<'_>, key: &'static str) -> Option<Option<Pointer>> {
    match s.field(key) {
        None => Some(None),
        Some(field) => a_pointer(&field).map(Some),
    }
}

fn a_pointer(field: &Field<'_>) -> Option<Pointer> {
    let pointer = field.as_text().and_then(Pointer::parse);
    if pointer.is_none() {
        field.wrong(
            "expected a JSON pointer such as \"/status/phase\"; * is every element of a list",
        );
    }
    pointer
}

/// A table that may be absent, or taken away from a preset by `false`.
fn part<'a, T>(
    s: &Section<'a>,
    key: &'static str,
    read: impl FnOnce(&Section<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match s.field(key) {
        None => Some(None),
        Some(field) if field.node().value == Value::Boolean(false) => Some(None),
        Some(field) => section(&field, read).map(Some),
    }
}

fn find(s: &Section<'_>, parameters: &Parameters) -> Option<Find> {
    let call = get(s, parameters);
    let at = |key| s.must(key, "expected a JSON pointer", a_pointer);
    let (list, name, run_id) = (at("list"), at("name"), at("run_id"));
    Some(Find {
        call: call?,
        list: list?,
        name: name?,
        run_id: run_id?,
    })
}

fn status(s: &Section<'_>, parameters: &Parameters) -> Option<Status> {
    let call = get(s, parameters);
    let pointer_to_state = s.must(
        "pointer",
        "expected where the answer has the run's state",
        a_pointer,
    );
    let words = |key| s.must(key, "expected a list of states", states);
    let (succeeded, failed) = (words("succeeded"), words("failed"));
    let interval = s.must("interval", "expected a duration", |f| {
        duration(f, 1..=DAY_MS)
    });
    let result = pointer(s, "result_pointer");
    Some(Status {
        call: call?,
        pointer: pointer_to_state?,
        succeeded: succeeded?,
        failed: failed?,
        interval: interval?,
        result: result?,
    })
}

fn states(field: &Field<'_>) -> Option<Vec<String>> {
    let list = field.as_list().filter(|list| !list.is_empty());
    let words: Option<Vec<String>> = list.and_then(|list| {
        let word = |f: &Field<'_>| {
            f.as_text()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        list.iter().map(word).collect()
    });
    if words.is_none() {
        field.wrong("expected a list of states such as [\"success\"]");
    }
    words
}

/// Of an answer, of a run, of a lease, and the first wait.
type Times = (Duration, Duration, Duration, Duration);

fn times(s: &Section<'_>) -> Option<Times> {
    let time = |key, range| s.must(key, "expected a duration", |f| duration(f, range));
    let timeout = time("timeout", 10..=10 * MINUTE_MS);
    let deadline = time("deadline", SECOND_MS..=30 * DAY_MS);
    let lease = time("lease", SECOND_MS..=DAY_MS);
    let backoff = time("backoff", 1..=10 * MINUTE_MS);
    Some((timeout?, deadline?, lease?, backoff?))
}
