//! When a job is enqueued, on what data, and what becomes of what it makes.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveTime};
use croner::Cron;

use crate::monitor::retraining::{
    Approval, Budget, CatchUp, Goal, Promotion, PromotionPolicy, QuietHours, Retraining, Schedule,
    Select, Severity, SuggestedData,
};
use crate::retrain::search::Search;
use crate::settings::Queue;
use crate::settings::field::Field;
use crate::settings::file::{Node, Value};
use crate::settings::read::Section;

use super::{DAY_MS, MINUTE_MS, YEAR_MS, duration, section};

/// What may stand in the names of tables and paths.
const PLACES: [&str; 6] = ["model", "version", "monitor", "from", "to", "date"];

/// `retraining`.
pub(super) fn retraining(s: &Section<'_>) -> Option<Retraining> {
    let drift = on_drift(s);
    let schedule = schedule(s);
    let time_zone = s.must("time_zone", "expected a time zone", Field::time_zone);
    let max_age = optional(s, "max_age", |f| duration(f, MINUTE_MS..=100 * YEAR_MS));
    let new_rows = optional(s, "new_rows", |f| f.integer(1..=1_000_000_000_000_000));
    let cooldown = s.must("cooldown", "expected a duration", |f| {
        duration(f, 0..=366 * DAY_MS)
    });
    let budget = optional(s, "budget", |f| section(f, budget));
    let quiet_hours = s.must("quiet_hours", "expected a list", quiet_hours);
    let approval = s.must("approval", "expected none or required", |f| {
        f.choice(&[("none", Approval::None), ("required", Approval::Required)])
    });
    let priority = s.must("priority", "expected a number", |f| {
        f.integer(-1_000_000..=1_000_000)
    });
    let max_attempts = s.must("max_attempts", "expected a number", |f| f.integer(1..=100));
    let data = s.must("data", "expected a table", |f| section(f, data));
    let parameters = s.must("parameters", "expected a table", parameters);
    let search = optional(s, "search", search);
    let promotion = s.must("promotion", "expected a table", |f| section(f, promotion));
    Some(Retraining {
        schedule: schedule?,
        time_zone: time_zone?,
        max_age: max_age?,
        new_rows: new_rows?,
        cooldown: cooldown?,
        budget: budget?,
        quiet_hours: quiet_hours?,
        approval: approval?,
        priority: priority?,
        max_attempts: max_attempts?,
        data: data?,
        parameters: parameters?,
        search: search?,
        promotion: promotion?,
        ..drift?
    })
}

/// `[retraining]`.
pub(super) fn queue(s: &Section<'_>) -> Option<Queue> {
    let running = |key| optional(s, key, |f| f.integer(1..=1_000_000));
    let (max_running, max_running_per_model) =
        (running("max_running"), running("max_running_per_model"));
    let directory = optional(s, "baseline_directory", |f| {
        f.text("expected a directory").map(PathBuf::from)
    });
    Some(Queue {
        max_running: max_running?,
        max_running_per_model: max_running_per_model?,
        baseline_directory: directory?,
    })
}

/// A key that may be left out; `None` if it is there and wrong.
#[expect(
    clippy::option_option,
    reason = "the outer one says whether it is right, the inner one whether it is there"
)]
fn optional<'a, T>(
    s: &Section<'a>,
    key: &'static str,
    read: impl FnOnce(&Field<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match s.has(key) {
        true => s.may(key, read).map(Some),
        false => Some(None),
    }
}

/// What an episode needs before it enqueues.
fn on_drift(s: &Section<'_>) -> Option<Retraining> {
    let on_drift = s.must("on_drift", "expected true or false", Field::boolean);
    if let Some(field) = s.field("when_uncalibrated") {
        let right = "remove it: an alert means the same with few training windows";
        field.fault("a key that driftd no longer has", right);
    }
    let min_drifted_share = s.must("min_drifted_share", "expected a share", |f| {
        f.number(0.0..=1.0)
    });
    let min_severity = s.must("min_severity", "expected a severity", |f| {
        f.choice(&[
            ("warning", Severity::Warning),
            ("critical", Severity::Critical),
        ])
    });
    let features = s.must("features", "expected a list of names", texts);
    let min_windows = s.must("min_windows", "expected a number", |f| {
        f.integer(1..=10_000)
    });
    Some(Retraining {
        on_drift: on_drift?,
        min_drifted_share: min_drifted_share?,
        min_severity: min_severity?,
        features: features?,
        min_windows: min_windows?,
        ..Retraining::default()
    })
}

#[expect(
    clippy::option_option,
    reason = "the outer one says whether it is right, the inner one whether it is there"
)]
fn schedule(s: &Section<'_>) -> Option<Option<Schedule>> {
    let catch_up = s.must("catch_up", "expected none, last or all", |f| {
        f.choice(&[
            ("none", CatchUp::None),
            ("last", CatchUp::Last),
            ("all", CatchUp::All),
        ])
    });
    let cron = optional(s, "schedule", cron);
    let zone = s
        .field("time_zone")
        .and_then(|field| field.as_text().and_then(|text| text.parse().ok()));
    match (cron?, catch_up?) {
        (Some(cron), catch_up) => Some(Some(Schedule {
            cron,
            time_zone: zone?,
            catch_up,
        })),
        (None, _) => Some(None),
    }
}

fn texts(field: &Field<'_>) -> Option<Vec<String>> {
    const RIGHT: &str = "expected a list of names such as [\"age\", \"region\"]";
    let Some(list) = field.as_list() else {
        field.wrong(RIGHT);
        return None;
    };
    list.iter()
        .map(|one| one.text(RIGHT).map(str::to_owned))
        .collect()
}

fn budget(s: &Section<'_>) -> Option<Budget> {
    let jobs = s.must("jobs", "expected a number", |f| f.integer(1..=1_000_000));
    let per = s.must("per", "expected a duration", |f| {
        duration(f, MINUTE_MS..=10 * YEAR_MS)
    });
    Some(Budget {
        jobs: jobs?,
        per: per?,
    })
}

fn quiet_hours(field: &Field<'_>) -> Option<Vec<QuietHours>> {
    const RIGHT: &str = "expected parts of the day such as [\"22:00-06:00\"]";
    let Some(list) = field.as_list() else {
        field.wrong(RIGHT);
        return None;
    };
    list.iter()
        .map(|one| {
            let hours = one.text(RIGHT).and_then(|text| {
                let (from, to) = text.split_once('-')?;
                let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").ok();
                Some((time(from)?, time(to)?))
            });
            match hours {
                Some((from, to)) if from != to => Some(QuietHours { from, to }),
                _ => {
                    one.wrong(RIGHT);
                    None
                }
            }
        })
        .collect()
}

fn data(s: &Section<'_>) -> Option<SuggestedData> {
    let select = s.must("select", "expected last, since_drift or sliding", |f| {
        f.choice(&[
            ("last", Select::Last),
            ("since_drift", Select::SinceDrift),
            ("sliding", Select::Sliding),
        ])
    });
    let span: Option<Option<Duration>> =
        optional(s, "span", |f| duration(f, MINUTE_MS..=100 * YEAR_MS));
    let table = optional(s, "table", template);
    let path = optional(s, "path", template);
    let baseline_share = s.must("baseline_share", "expected a share", |f| {
        f.number(0.0..=0.9)
    });
    if select == Some(Select::Sliding) && !s.has("span") {
        s.missing(
            "span",
            "a sliding part of the log has a length such as \"30d\"",
        );
        return None;
    }
    Some(SuggestedData {
        select: select?,
        span: span?,
        table: table?,
        path: path?,
        baseline_share: baseline_share?,
    })
}

fn template(field: &Field<'_>) -> Option<String> {
    let text = field.text("expected a name")?;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let name = after.split_once('}').map(|(name, _)| name);
        match name {
            Some(name) if PLACES.contains(&name) => rest = &after[name.len()..],
            _ => {
                field.wrong(format!(
                    "expected {{...}} to be one of {}",
                    PLACES.map(|place| format!("{{{place}}}")).join(", ")
                ));
                return None;
            }
        }
    }
    Some(text.to_owned())
}

/// Kept as it is written; the search reads it again from the job.
fn search(field: &Field<'_>) -> Option<serde_json::Value> {
    if !field.is_table() {
        field.wrong("expected a table with method, space, trials and objective");
        return None;
    }
    let value = json(field.node());
    match Search::parse(&value) {
        Ok(_) => Some(value),
        Err(problems) => {
            for problem in &problems {
                field.fault(
                    format!("{}: {}", problem.path, problem.found),
                    &problem.right,
                );
            }
            None
        }
    }
}

fn promotion(s: &Section<'_>) -> Option<Promotion> {
    let policy = s.must("policy", "expected manual, automatic or if_better", |f| {
        f.choice(&[
            ("manual", PromotionPolicy::Manual),
            ("automatic", PromotionPolicy::Automatic),
            ("if_better", PromotionPolicy::IfBetter),
        ])
    });
    let metric = optional(s, "metric", |f| {
        f.text("expected the name of a metric").map(str::to_owned)
    });
    let goal = s.must("goal", "expected maximize or minimize", |f| {
        f.choice(&[("maximize", Goal::Maximize), ("minimize", Goal::Minimize)])
    });
    let min_gain = s.must("min_gain", "expected a number", |f| f.number(0.0..=1e300));
    if policy == Some(PromotionPolicy::IfBetter) && !s.has("metric") {
        s.missing(
            "metric",
            "if_better compares a metric that the trainer reports, such as \"auc\"",
        );
        return None;
    }
    Some(Promotion {
        policy: policy?,
        metric: metric?,
        goal: goal?,
        min_gain: min_gain?,
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
