//! How a window is judged, and when a job is enqueued.

use std::str::FromStr;

use chrono::DateTime;
use chrono_tz::Tz;
use croner::Cron;

use crate::compare::Test;
use crate::compare::adjust::Adjustment;
use crate::monitor::{AlertPolicy, FalseAlarms, Judging, Limit, Mode, Retraining, Schedule};
use crate::settings::field::Field;
use crate::settings::file::{Node, Value};
use crate::settings::problem::nearest;
use crate::settings::read::Section;
use crate::window::Spec;

use super::{DAY_MS, MINUTE_MS, YEAR_MS, duration, section};

/// Every test but the one that is a mode.
fn known() -> Vec<&'static str> {
    let tests = Test::ALL.iter().filter(|test| **test != Test::Learned);
    tests.map(|test| test.as_str()).collect()
}

/// Everything that says how a window is judged.
pub(super) fn judging(s: &Section<'_>, window: Option<&Spec>) -> Option<Judging> {
    let mode = s.must("mode", "expected a mode", |f| {
        f.choice(&[
            ("auto", Mode::Auto),
            ("learned", Mode::Learned),
            ("thresholds", Mode::Thresholds),
        ])
    });
    let false_alarms = s.must("false_alarms", "expected a table", |f| {
        false_alarms(f, window)
    });
    let guard = s.must("guard", "expected a number", |f| f.number(0.1..=100.0));
    let tests = s.must("tests", "expected a list", tests);
    let alpha = s.must("alpha", "expected a number", |f| f.number(1e-9..=0.5));
    let adjustment = s.must("adjustment", "expected an adjustment", |f| {
        f.choice(&Adjustment::ALL.map(|adjustment| (adjustment.as_str(), adjustment)))
    });
    let min_rows = s.must("min_rows", "expected a number", |f| {
        f.integer(1..=1_000_000_000)
    });
    let min_share = s.must("min_share", "expected a share", |f| f.number(0.0..=1.0));
    let alert = s.must("alert", "expected a table", |f| section(f, alert));
    Some(Judging {
        mode: mode?,
        false_alarms: false_alarms?,
        guard: guard?,
        tests: tests?,
        alpha: alpha?,
        adjustment: adjustment?,
        min_rows: min_rows?,
        min_share: min_share?,
        alert: alert?,
    })
}

fn false_alarms(field: &Field<'_>, window: Option<&Spec>) -> Option<FalseAlarms> {
    let read = section(field, |s| {
        let max = s.must("max", "expected a number", |f| f.number(1e-6..=1e6));
        let per_ms = s.must("per", "expected a duration", |f| {
            f.duration_ms(MINUTE_MS..=100 * YEAR_MS)
        });
        Some(FalseAlarms {
            max: max?,
            per_ms: per_ms?,
        })
    })?;
    if let Some(window) = window {
        // Window lengths in milliseconds are far below 2^53.
        let windows = read.per_ms as f64 / window.every_ms as f64;
        if read.max > windows {
            let found = format!("{} false alarms allowed in {windows:.3} windows", read.max);
            field.fault(
                found,
                "expected fewer alarms than windows: a smaller max or a longer per",
            );
            return None;
        }
    }
    Some(read)
}

/// `["ks", "psi"]` with the default limits, or `{ psi = { effect = 0.25 } }`.
fn tests(field: &Field<'_>) -> Option<Vec<Limit>> {
    const RIGHT: &str = "expected names of tests such as [\"ks\", \"psi\"], or limits such as \
                         { psi = { effect = 0.25 }, ks = { decides = false } }";
    let limits: Vec<Option<Limit>> = if let Some(names) = field.as_list() {
        let named = |f: &Field<'_>| test(f.as_text().unwrap_or_default(), f).map(Limit::usual);
        names.iter().map(named).collect()
    } else if field.is_table() {
        let section = field.section()?;
        section
            .all()
            .iter()
            .map(|(name, f)| limit(name, f))
            .collect()
    } else {
        Vec::new()
    };
    if limits.is_empty() {
        field.wrong(RIGHT);
        return None;
    }
    let limits: Vec<Limit> = limits.into_iter().collect::<Option<_>>()?;
    let twice = |(i, limit): (usize, &Limit)| limits[..i].iter().any(|l| l.test == limit.test);
    if limits.iter().enumerate().any(twice) {
        field.fault("a test is listed twice", "list each test once");
        return None;
    }
    Some(limits)
}

fn test(name: &str, field: &Field<'_>) -> Option<Test> {
    let known = known();
    let test = name.parse().ok().filter(|_: &Test| known.contains(&name));
    if test.is_none() {
        let right = match (name, nearest(name, known.iter().copied())) {
            ("learned", _) => "set mode = \"learned\"; it is no test of its own".into(),
            (_, Some(meant)) => format!("did you mean {meant}? Known are {}", known.join(", ")),
            (_, None) => format!("known are {}", known.join(", ")),
        };
        field.fault(format!("no test {name:?}"), right);
    }
    test
}

fn limit(name: &str, field: &Field<'_>) -> Option<Limit> {
    let test = test(name, field)?;
    section(field, |s| {
        let usual = Limit::usual(test);
        let effect = match s.has("effect") {
            true => s.may("effect", |f| f.number(0.0..=1e6)),
            false => Some(usual.effect),
        };
        let decides = match s.has("decides") {
            true => s.may("decides", Field::boolean),
            false => Some(usual.decides),
        };
        Some(Limit {
            test,
            effect: effect?,
            decides: decides?,
        })
    })
}

fn alert(section: &Section<'_>) -> Option<AlertPolicy> {
    let windows = section.must("windows", "expected a number", |f| {
        f.integer::<u32>(1..=1_000)
    });
    let of = section.must("of", "expected a number", |f| f.integer::<u32>(1..=1_000));
    let resolve_after = section.must("resolve_after", "expected a number", |f| {
        f.integer(1..=1_000)
    });
    if let (Some(windows), Some(last)) = (windows, of)
        && windows > last
        && let Some(field) = super::blamed(section, ["windows", "of"])
    {
        let found = format!("{windows} drifted windows among the last {last}");
        field.fault(found, "expected windows not to be more than of");
        return None;
    }
    Some(AlertPolicy {
        windows: windows?,
        of: of?,
        resolve_after: resolve_after?,
    })
}

/// `retraining`.
pub(super) fn retraining(s: &Section<'_>) -> Option<Retraining> {
    let on_drift = s.must("on_drift", "expected true or false", Field::boolean);
    let when_uncalibrated = s.must(
        "when_uncalibrated",
        "expected true or false",
        Field::boolean,
    );
    let min_drifted_share = s.must("min_drifted_share", "expected a share", |f| {
        f.number(0.0..=1.0)
    });
    let cron = s.may("schedule", cron);
    let time_zone = s.must("time_zone", "expected a time zone", time_zone);
    let cooldown = s.must("cooldown", "expected a duration", |f| {
        duration(f, 0..=366 * DAY_MS)
    });
    let max_attempts = s.must("max_attempts", "expected a number", |f| f.integer(1..=100));
    let parameters = s.must("parameters", "expected a table", parameters);
    let schedule = match s.has("schedule") {
        true => Some(Schedule {
            cron: cron?,
            time_zone: time_zone?,
        }),
        false => None,
    };
    time_zone?;
    Some(Retraining {
        on_drift: on_drift?,
        when_uncalibrated: when_uncalibrated?,
        min_drifted_share: min_drifted_share?,
        schedule,
        cooldown: cooldown?,
        max_attempts: max_attempts?,
        parameters: parameters?,
    })
}

fn cron(field: &Field<'_>) -> Option<String> {
    const RIGHT: &str = "expected five fields (minute hour day month weekday) such as \
                         \"0 3 * * 1\", or six with leading seconds";
    let text = field.text(RIGHT)?.trim();
    let fields = text.split_whitespace().count();
    let shaped = matches!(fields, 5 | 6) || (fields == 1 && text.starts_with('@'));
    match Cron::from_str(text) {
        Ok(cron) if shaped => {
            // From any time on: a schedule that comes once a leap year comes after 2000.
            let from = DateTime::from_timestamp(946_684_800, 0)?;
            if cron.find_next_occurrence(&from, false).is_err() {
                field.wrong("this day never comes; expected one that does");
                return None;
            }
            Some(text.to_owned())
        }
        Ok(_) => {
            field.wrong(RIGHT);
            None
        }
        Err(why) => {
            field.wrong(format!("{RIGHT} ({why})"));
            None
        }
    }
}

fn time_zone(field: &Field<'_>) -> Option<Tz> {
    let text = field.text("expected a time zone such as \"Europe/Berlin\"")?;
    let zone = text.parse().ok();
    if zone.is_none() {
        let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        match nearest(text, names) {
            Some(meant) => field.wrong(format!("did you mean {meant:?}?")),
            None => field.wrong("expected a name of the IANA database such as \"Europe/Berlin\""),
        }
    }
    zone
}

fn parameters(field: &Field<'_>) -> Option<serde_json::Value> {
    if !field.is_table() {
        field.wrong("expected a table; it is handed to the trainer as it is");
        return None;
    }
    Some(json(field.node()))
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) => text.as_str().into(),
        Value::Integer(integer) => (*integer).into(),
        Value::Float(number) => (*number).into(),
        Value::Boolean(boolean) => (*boolean).into(),
        Value::Datetime(datetime) => datetime.to_string().into(),
        Value::Broken => serde_json::Value::Null,
        Value::List(list) => list.iter().map(json).collect(),
        Value::Table(table) => table
            .iter()
            .map(|(key, node)| (key.clone(), json(node)))
            .collect(),
    }
}
