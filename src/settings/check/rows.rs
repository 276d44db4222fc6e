//! Where a row's version, time and features stand, and which windows it belongs to.

use chrono_tz::Tz;

use crate::ingest::path::FieldPath;
use crate::monitor::{Feature, Features, TimeUnit, Timestamp, VersionSource};
use crate::settings::field::{Field, in_words};
use crate::settings::read::Section;
use crate::window::Spec;

use super::{DAY_MS, SECOND_MS, YEAR_MS, section};

/// More windows a row than this are a mistake in the units rather than a wish.
const MAX_WINDOWS_PER_ROW: i64 = 1_000;

/// `"3"`, `{ path = "meta.version" }` or `{ header = "model-version" }`.
pub(super) fn version(field: &Field<'_>) -> Option<VersionSource> {
    const RIGHT: &str = "expected a version in quotes, { path = \"...\" } or { header = \"...\" }";
    if !field.is_table() {
        return field
            .text(RIGHT)
            .map(|text| VersionSource::Fixed(text.to_owned()));
    }
    section(field, |s| match (s.has("path"), s.has("header")) {
        (true, false) => s.may("path", path).map(VersionSource::Path),
        (false, true) => s.may("header", |f| {
            f.text("expected the name of a Kafka header")
                .map(|h| VersionSource::Header(h.into()))
        }),
        _ => {
            field.fault("neither a path nor a header alone", RIGHT);
            None
        }
    })
}

/// `"event_time"`, `{ path = "ts", unit = "s" }` or `{ record = true }`.
pub(super) fn timestamp(field: &Field<'_>) -> Option<Timestamp> {
    const RIGHT: &str =
        "expected a field path, { path = \"...\", unit = \"ms\" } or { record = true }";
    if !field.is_table() {
        field.text(RIGHT)?;
        return Some(Timestamp {
            path: Some(path(field)?),
            unit: TimeUnit::Ms,
        });
    }
    section(field, |s| {
        let unit = s.may("unit", |f| {
            f.choice(&[
                ("s", TimeUnit::S),
                ("ms", TimeUnit::Ms),
                ("us", TimeUnit::Us),
                ("ns", TimeUnit::Ns),
            ])
        });
        let record = s.may("record", Field::boolean).unwrap_or(false);
        match (s.has("path"), record) {
            (true, false) => {
                let path = s.may("path", path)?;
                Some(Timestamp {
                    path: Some(path),
                    unit: unit.unwrap_or(TimeUnit::Ms),
                })
            }
            (false, true) if !s.has("unit") => Some(Timestamp {
                path: None,
                unit: TimeUnit::Ms,
            }),
            _ => {
                field.fault("neither a path nor the record's own time alone", RIGHT);
                None
            }
        }
    })
}

/// `"all"`, `["age", "income"]` or `[{ name = "age", path = "data.age" }]`.
pub(super) fn features(field: &Field<'_>) -> Option<Features> {
    if field.as_text() == Some("all") {
        return Some(Features::All);
    }
    let fields = match field.as_list() {
        Some(fields) if !fields.is_empty() => fields,
        _ => {
            field.wrong(
                "expected \"all\", or a list of names or of { name = \"...\", path = \"...\" }",
            );
            return None;
        }
    };
    let read: Vec<Option<Feature>> = fields.iter().map(feature).collect();
    for (i, feature) in read.iter().enumerate() {
        let name = feature.as_ref().map(|f| &f.name);
        if name.is_some() && read[..i].iter().flatten().any(|f| Some(&f.name) == name) {
            fields[i].fault("this feature is listed twice", "list each feature once");
        }
    }
    read.into_iter()
        .collect::<Option<Vec<_>>>()
        .map(Features::Listed)
}

fn feature(field: &Field<'_>) -> Option<Feature> {
    const RIGHT: &str = "expected the name of a feature";
    if !field.is_table() {
        let name = field.text(RIGHT)?.to_owned();
        return Some(Feature {
            path: path(field)?,
            name,
            questions: Vec::new(),
        });
    }
    section(field, |s| {
        let name = s.must("name", RIGHT, |f| f.text(RIGHT).map(str::to_owned));
        let path = match s.has("path") {
            true => s.may("path", path),
            // The name is the path as well, so it has to be one.
            false => s.may("name", path),
        };
        let questions = match s.has("questions") {
            true => s.may("questions", super::policies::questions),
            false => Some(Vec::new()),
        };
        Some(Feature {
            name: name?,
            path: path?,
            questions: questions?,
        })
    })
}

/// `window`, `time_zone` and `lateness`.
pub(super) fn window(section: &Section<'_>) -> Option<Spec> {
    let size_and_every = section.must("window", "expected a duration", size_and_every);
    let time_zone = section.must("time_zone", "expected a time zone", Field::time_zone);
    let lateness = section.must("lateness", "expected a table", |f| {
        super::section(f, lateness)
    });
    let (size_ms, every_ms) = size_and_every?;
    Some(Spec {
        size_ms,
        every_ms,
        time_zone: time_zone?,
        ..lateness?
    })
}

fn size_and_every(field: &Field<'_>) -> Option<(i64, i64)> {
    if !field.is_table() {
        let size = field.duration_ms(SECOND_MS..=YEAR_MS)?;
        return Some((size, size));
    }
    section(field, |s| {
        let size = s.must("size", "expected a duration such as \"1d\"", |f| {
            f.duration_ms(SECOND_MS..=YEAR_MS)
        });
        if !s.has("every") {
            return size.map(|size| (size, size));
        }
        let every = s.may("every", |f| f.duration_ms(SECOND_MS..=YEAR_MS));
        let (size, every) = (size?, every?);
        let faulty = s.field("every")?;
        if size % every != 0 {
            let size = in_words(size);
            faulty.wrong(format!(
                "size ({size}) has to be a multiple of every, so that windows share their edges"
            ));
            return None;
        }
        if size / every > MAX_WINDOWS_PER_ROW {
            faulty.wrong(format!(
                "each row would count in {} windows; expected at most {MAX_WINDOWS_PER_ROW}",
                size / every
            ));
            return None;
        }
        Some((size, every))
    })
}

fn lateness(section: &Section<'_>) -> Option<Spec> {
    let time =
        |key, from, to| section.must(key, "expected a duration", |f| f.duration_ms(from..=to));
    let out_of_orderness = time("out_of_orderness", 0, 30 * DAY_MS);
    let allowed = time("allowed", 0, 30 * DAY_MS);
    let idle_after = time("idle_after", SECOND_MS, 30 * DAY_MS);
    let max_future = time("max_future", 0, 100 * YEAR_MS);
    Some(Spec {
        out_of_orderness_ms: out_of_orderness?,
        allowed_lateness_ms: allowed?,
        idle_after_ms: idle_after?,
        max_future_ms: max_future?,
        ..Spec::tumbling(0, Tz::UTC)
    })
}

fn path(field: &Field<'_>) -> Option<String> {
    let text = field.text("expected a field path such as data.age")?;
    match FieldPath::parse(text) {
        Ok(_) => Some(text.to_owned()),
        Err(why) => {
            field.wrong(why);
            None
        }
    }
}
