//! `[[monitors]]` and `[defaults]`, which every monitor starts from.

use crate::monitor::{Input, Judging, Monitor, OnGap, Retraining, VersionSource};
use crate::settings::field::Field;
use crate::settings::file::{Node, Table, Value};
use crate::settings::layers::merge;
use crate::settings::read::Section;

use super::{policies, retraining, rows, section};

/// Keys that say something about rows: a monitor without any of them and without a topic is
/// periodic only.
const OF_ROWS: [&str; 20] = [
    "topic",
    "version",
    "timestamp",
    "features",
    "window",
    "time_zone",
    "lateness",
    "mode",
    "false_alarms",
    "guard",
    "questions",
    "tests",
    "alpha",
    "adjustment",
    "min_rows",
    "min_share",
    "alert",
    "sample_rows",
    "on_gap",
    "keep_rejected_payload",
];

/// Lays every monitor over `[defaults]`.
pub(super) fn fill_in_defaults(table: &mut Table) {
    let Some(Node {
        value: Value::Table(defaults),
        ..
    }) = table.get("defaults")
    else {
        return;
    };
    let defaults = defaults.clone();
    let Some(Node {
        value: Value::List(monitors),
        ..
    }) = table.get_mut("monitors")
    else {
        return;
    };
    for monitor in monitors {
        let Value::Table(own) = &mut monitor.value else {
            continue;
        };
        let periodic = !OF_ROWS.iter().any(|key| own.contains_key(*key));
        let mut filled = defaults.clone();
        if periodic {
            filled.retain(|key, _| key == "retraining");
        }
        merge(&mut filled, std::mem::take(own));
        *own = filled;
    }
}

/// Whether any monitor names a topic, so that Kafka is needed.
pub(super) fn have_topics(table: &Table) -> bool {
    let Some(Node {
        value: Value::List(monitors),
        ..
    }) = table.get("monitors")
    else {
        return false;
    };
    let named = |node: &Node| matches!(&node.value, Value::Table(own) if own.contains_key("topic"));
    monitors.iter().any(named)
}

/// Reads `[defaults]` and all monitors.
pub(super) fn monitors(root: &Section<'_>) -> Option<Vec<Monitor>> {
    // Read on its own, so that what is wrong in it is said once and under its own key.
    root.must("defaults", "expected a table", |f| {
        section(f, |s| shared(s).map(|_| ()))
    });
    let Some(field) = root.field("monitors") else {
        return Some(Vec::new());
    };
    let Some(fields) = field.as_list() else {
        field.wrong("expected one [[monitors]] entry a monitor, in double brackets");
        return None;
    };
    let read: Vec<Option<Monitor>> = fields.iter().map(monitor).collect();
    names_are_unique(&fields);
    gaps_agree(&fields);
    read.into_iter().collect()
}

fn monitor(field: &Field<'_>) -> Option<Monitor> {
    let section = opened(field, "monitors")?;
    let name = section.must("name", NAME, name);
    let model = section.must(
        "model",
        "expected the name of the model that is watched",
        |f| {
            f.text("expected the name of a model")
                .filter(|_| short(f))
                .map(str::to_owned)
        },
    );
    let watched = section.has("window");
    let input = watched.then(|| input(&section));
    let retraining = match watched {
        true => None,
        false => Some(section.must("retraining", "expected a table", |f| {
            super::section(f, retraining::retraining)
        })),
    };
    section.finish();
    let (input, retraining) = match (input, retraining) {
        (Some(both), _) => {
            let (input, retraining) = both?;
            (Some(input), retraining)
        }
        (None, retraining) => (None, periodic(field, retraining??)?),
    };
    Some(Monitor {
        name: name?,
        model: model?,
        input,
        retraining,
    })
}

/// A monitor without rows is there for its schedule.
fn periodic(field: &Field<'_>, retraining: Retraining) -> Option<Retraining> {
    if !retraining.goes_by_itself() {
        let section = opened(field, "monitors")?;
        section.missing(
            "retraining.schedule",
            "a monitor without topic is periodic only: give it a schedule such as \"0 3 * * 1\", \
             a max_age, or a topic",
        );
        return None;
    }
    Some(retraining)
}

/// The table of a monitor or hand-over, under its name where it has one: `monitors.flights` says more than
/// `monitors[3]`.
pub(super) fn opened<'a>(field: &Field<'a>, list: &str) -> Option<Section<'a>> {
    let Value::Table(table) = &field.node().value else {
        field.wrong("expected a table");
        return None;
    };
    let path = match named(field).filter(|name| is_name(name)) {
        Some(name) => format!("{list}.{name}"),
        None => field.key().to_owned(),
    };
    Some(Section::named(
        path,
        table,
        Some(field.origin()),
        field.notes(),
    ))
}

pub(super) fn text_of<'a>(field: &Field<'a>, key: &str) -> Option<(&'a str, &'a Node)> {
    let Value::Table(table) = &field.node().value else {
        return None;
    };
    let node = table.get(key)?;
    let Value::Text(text) = &node.value else {
        return None;
    };
    Some((text, node))
}

fn named<'a>(field: &Field<'a>) -> Option<&'a str> {
    text_of(field, "name").map(|(name, _)| name)
}

pub(super) const NAME: &str = "expected a name of lower-case letters, digits, - and _, at most 63";

pub(super) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn name(field: &Field<'_>) -> Option<String> {
    let name = field.as_text().filter(|text| is_name(text));
    if name.is_none() {
        field.wrong(NAME);
    }
    name.map(str::to_owned)
}

pub(super) fn short(field: &Field<'_>) -> bool {
    let short = field
        .as_text()
        .is_some_and(|text| text.chars().count() <= 200);
    if !short {
        field.wrong("expected at most 200 characters");
    }
    short
}

fn topic(field: &Field<'_>) -> Option<String> {
    let legal = |text: &&str| {
        (1..=249).contains(&text.len())
            && !matches!(*text, "." | "..")
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let topic = field.as_text().filter(legal);
    if topic.is_none() {
        field.wrong("expected a topic: letters, digits, ., _ and -, at most 249");
    }
    topic.map(str::to_owned)
}

/// What monitors and `[defaults]` may both say.
struct Shared {
    /// All but the topic and the version, which have no sensible default.
    input: Input,
    version: Option<VersionSource>,
    retraining: Retraining,
}

fn input(section: &Section<'_>) -> Option<(Input, Retraining)> {
    let topic = section.must(
        "topic",
        "expected the topic that the other keys speak of (a monitor that only has a schedule \
         needs name, model and retraining)",
        topic,
    );
    if !section.has("version") {
        section.missing(
            "version",
            "expected the model version of each row: \"3\", { path = \"meta.version\" } or \
             { header = \"model-version\" }",
        );
    }
    let Shared {
        input,
        version,
        retraining,
    } = shared(section)?;
    Some((
        Input {
            topic: topic?,
            version: version?,
            ..input
        },
        retraining,
    ))
}

/// How windows are judged where a monitor says nothing of its own.
pub(super) fn default_judging(section: &Section<'_>) -> Option<Judging> {
    shared(section).map(|shared| shared.input.judging)
}

fn shared(section: &Section<'_>) -> Option<Shared> {
    let version = section.may("version", rows::version);
    let timestamp = section.must("timestamp", "expected a path", rows::timestamp);
    let features = section.must("features", "expected \"all\" or a list", rows::features);
    let window = rows::window(section);
    let judging = policies::judging(section, window.as_ref());
    let sample_rows = section.must("sample_rows", "expected a number", |f| {
        f.integer(100..=1_000_000)
    });
    let on_gap = section.must("on_gap", "expected \"stop\" or \"continue\"", |f| {
        f.choice(&[("stop", OnGap::Stop), ("continue", OnGap::Continue)])
    });
    let keep_rejected_payload =
        section.must("keep_rejected_payload", "true or false", Field::boolean);
    let retraining = section.must("retraining", "expected a table", |f| {
        super::section(f, retraining::retraining)
    });
    let input = Input {
        topic: String::new(),
        version: VersionSource::Fixed(String::new()),
        timestamp: timestamp?,
        features: features?,
        window: window?,
        judging: judging?,
        sample_rows: sample_rows?,
        on_gap: on_gap?,
        keep_rejected_payload: keep_rejected_payload?,
    };
    Some(Shared {
        input,
        version,
        retraining: retraining?,
    })
}

fn names_are_unique(monitors: &[Field<'_>]) {
    for (i, field) in monitors.iter().enumerate() {
        let Some(name) = named(field) else { continue };
        let Some(first) = monitors[..i]
            .iter()
            .find(|earlier| named(earlier) == Some(name))
        else {
            continue;
        };
        field.fault(
            format!("a second monitor is named {name:?}"),
            format!("names are unique; the first is at {}", first.origin()),
        );
    }
}

/// A topic is read once for all its monitors, so it is skipped for all of them or for none.
fn gaps_agree(monitors: &[Field<'_>]) {
    for (i, field) in monitors.iter().enumerate() {
        let Some((topic, _)) = text_of(field, "topic") else {
            continue;
        };
        let Some((policy, _)) = text_of(field, "on_gap") else {
            continue;
        };
        let other = monitors[..i].iter().find(|earlier| {
            text_of(earlier, "topic").is_some_and(|(t, _)| t == topic)
                && text_of(earlier, "on_gap").is_some_and(|(p, _)| p != policy)
        });
        if let (Some(other), Some(section)) = (other, opened(field, "monitors"))
            && let Some(on_gap) = section.field("on_gap")
        {
            let other = named(other).unwrap_or("another monitor");
            on_gap.fault(
                format!("{policy:?}, while {other} on the same topic says otherwise"),
                format!("monitors that share topic {topic:?} need the same on_gap"),
            );
        }
    }
}
