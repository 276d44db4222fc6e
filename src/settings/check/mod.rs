//! Reads the merged settings, section by section, and notes every problem.

mod handovers;
mod kafka;
mod monitors;
mod policies;
mod reach;
mod retraining;
mod rows;

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tracing_subscriber::EnvFilter;

use super::field::Field;
use super::file::{Origin, Table};
use super::problem::{Error, Problem, in_order};
use super::read::{Notes, Section};
use super::secret::{REDACTED, not_a_flag, redacted, secret, without_password};
use super::{
    Checkpoint, Defaults, Limits, Log, LogFormat, MessageLimits, Postgres, Retention, Service,
    Settings,
};

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const YEAR_MS: i64 = 366 * DAY_MS;

/// The settings that the table holds, or all that is wrong with it.
pub(super) fn check(mut table: Table, problems: Vec<Problem>) -> Result<Settings, Error> {
    let notes = Notes::new(problems);
    monitors::fill_in_defaults(&mut table);
    handovers::fill_in_presets(&mut table);
    let settings = everything(&Section::root(&table, &notes), &table);
    let mut problems = notes.into_problems();
    in_order(&mut problems);
    match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(Error::Wrong(problems)),
    }
}

/// What `[defaults]` says of judging, or all that is wrong with it.
pub(super) fn defaults(table: &Table, problems: Vec<Problem>) -> Result<Defaults, Error> {
    let notes = Notes::new(problems);
    let root = Section::root(table, &notes);
    let judging = root.must("defaults", SECTION, |f| {
        section(f, monitors::default_judging)
    });
    let limits = root.must("limits", SECTION, |f| section(f, limits));
    let mut problems = notes.into_problems();
    in_order(&mut problems);
    match (judging, limits) {
        (Some(judging), Some(limits)) if problems.is_empty() => Ok(Defaults {
            judging,
            max_levels: limits.max_levels,
            max_label_bytes: limits.message.label_bytes,
        }),
        _ => Err(Error::Wrong(problems)),
    }
}

fn everything(root: &Section<'_>, table: &Table) -> Option<Settings> {
    let mut warnings = Vec::new();
    let monitors = monitors::monitors(root);
    let handovers = handovers::handovers(root);
    let watches = monitors::have_topics(table);
    let kafka = root.must("kafka", SECTION, |f| {
        section(f, |s| kafka::kafka(s, watches))
    });
    let postgres = root.must("postgres", SECTION, |f| section(f, postgres));
    let service = root.must("service", SECTION, |f| section(f, service));
    let log = root.must("log", SECTION, |f| section(f, log));
    let checkpoint = root.must("checkpoint", SECTION, |f| section(f, checkpoint));
    let limits = root.must("limits", SECTION, |f| section(f, limits));
    let retention = root.must("retention", SECTION, |f| section(f, retention));
    let retraining = root.must("retraining", SECTION, |f| section(f, retraining::queue));
    root.finish();
    if monitors.as_ref().is_some_and(Vec::is_empty) {
        warnings.push("nothing is watched: there is no [[monitors]] entry".into());
    }
    if let Some(service) = &service
        && !service.listen.ip().is_loopback()
    {
        warnings.push(format!(
            "service.listen = {} can be reached from other machines, and nobody is asked for a \
             token",
            service.listen
        ));
    }
    Some(Settings {
        kafka: kafka?,
        postgres: postgres?,
        service: service?,
        log: log?,
        checkpoint: checkpoint?,
        limits: limits?,
        retention: retention?,
        retraining: retraining?,
        monitors: monitors?,
        handovers: handovers?,
        warnings,
        effective: redacted(table),
    })
}

const SECTION: &str = "expected a table";

/// Reads a table and notes the keys that are unknown in it.
fn section<'a, T>(field: &Field<'a>, read: impl FnOnce(&Section<'a>) -> Option<T>) -> Option<T> {
    let section = field.section()?;
    let value = read(&section);
    section.finish();
    value
}

fn postgres(section: &Section<'_>) -> Option<Postgres> {
    const RIGHT: &str = "expected a URL such as postgres://driftd@localhost:5432/driftd, also as \
                         url_file or DRIFTD__POSTGRES__URL";
    let password = secret(section, "password", "password_file");
    section.may("password", |f| Some(not_a_flag(f)));
    let given = section.has("url") || section.has("url_file");
    let url = secret(section, "url", "url_file");
    let max_connections = section.must("max_connections", "expected a number", |f| {
        f.integer(2..=1000)
    });
    let timeout = section.must("timeout", "expected a duration", |f| {
        duration(f, SECOND_MS..=HOUR_MS)
    });
    let long_transaction = section.must("long_transaction", "expected a duration", |f| {
        duration(f, SECOND_MS..=DAY_MS)
    });
    if !given {
        section.missing("url", RIGHT);
    }
    let url = url?;
    let parsed = connect_options(&url);
    if parsed.is_none() {
        let field = section.field("url").or_else(|| section.field("url_file"))?;
        field.fault(
            "not a Postgres URL (not shown: it may hold a password)",
            RIGHT,
        );
    }
    let shown = without_password(url.expose_secret());
    if let Some(field) = section.field("url").filter(|_| shown.contains(REDACTED)) {
        not_a_flag(&field);
    }
    let (options, url) = match &password {
        None => (parsed?, url),
        Some(password) => {
            let options = parsed?.password(password.expose_secret());
            let url = options.to_url_lossy().as_str().into();
            (options, url)
        }
    };
    Some(Postgres {
        options,
        url,
        shown,
        max_connections: max_connections?,
        timeout: timeout?,
        long_transaction: long_transaction?,
    })
}

fn connect_options(url: &SecretString) -> Option<PgConnectOptions> {
    let url = url.expose_secret();
    let scheme = url.starts_with("postgres://") || url.starts_with("postgresql://");
    scheme.then(|| url.parse().ok()).flatten()
}

fn service(section: &Section<'_>) -> Option<Service> {
    let listen = section.must("listen", "expected an address", listen);
    let grace = section.must("grace", "expected a duration", |f| {
        duration(f, SECOND_MS..=HOUR_MS)
    });
    let token = secret(section, "token", "token_file");
    section.may("token", |f| Some(not_a_flag(f)));
    Some(Service {
        token,
        listen: listen?,
        grace: grace?,
    })
}

fn listen(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.as_text().unwrap_or_default().trim();
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address = text.parse().ok();
    if address.is_none() {
        field.wrong("expected an IP address and a port such as \"127.0.0.1:8080\"");
    }
    address
}

fn log(section: &Section<'_>) -> Option<Log> {
    let format = section.must("format", "expected \"text\" or \"json\"", |f| {
        f.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])
    });
    let level = section.must("level", "expected a level", level);
    Some(Log {
        format: format?,
        level: level?,
    })
}

fn level(field: &Field<'_>) -> Option<String> {
    const RIGHT: &str = "expected off, error, warn, info, debug or trace, or directives such as \
                         \"info,driftd::judge=debug\"";
    let text = field.text(RIGHT)?;
    // A single word that is no level would silently be taken for the name of a module.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let words = text.split(',').filter(|d| !d.contains(['=', '[', ':']));
    let unknown = words
        .into_iter()
        .any(|word| !levels.contains(&word.trim().to_lowercase().as_str()));
    if unknown || EnvFilter::try_new(text).is_err() {
        field.wrong(RIGHT);
        return None;
    }
    Some(text.to_owned())
}

fn checkpoint(section: &Section<'_>) -> Option<Checkpoint> {
    let min_interval = section.must("min_interval", "expected a duration", |f| {
        duration(f, 100..=HOUR_MS)
    });
    let max_interval = section.must("max_interval", "expected a duration", |f| {
        duration(f, 100..=HOUR_MS)
    });
    let max_bytes = section.must("max_bytes", "expected a number of bytes", |f| {
        f.bytes(64 << 10..=4 << 30)
    });
    if let (Some(min), Some(max)) = (min_interval, max_interval)
        && min > max
        && let Some(field) = blamed(section, ["min_interval", "max_interval"])
    {
        field.wrong("min_interval may not be longer than max_interval");
    }
    let (min_interval, max_interval) = (min_interval?, max_interval?);
    Some(Checkpoint {
        min_interval,
        max_interval,
        max_bytes: max_bytes?,
    })
}

/// Of two keys that do not go together, the one that the user wrote.
fn blamed<'a>(section: &Section<'a>, keys: [&'static str; 2]) -> Option<Field<'a>> {
    let mut fields: Vec<_> = keys
        .into_iter()
        .filter_map(|key| section.field(key))
        .collect();
    fields.sort_by_key(|field| u8::from(*field.origin() == Origin::Default));
    fields.into_iter().next()
}

fn limits(section: &Section<'_>) -> Option<Limits> {
    let bytes = |key, range| {
        let value = section.must(key, "expected a number of bytes", |f| f.bytes(range));
        value.and_then(|bytes| usize::try_from(bytes).ok())
    };
    let count = |key, range| section.must(key, "expected a number", |f| f.integer(range));
    let max_message_bytes = bytes("max_message_bytes", 1 << 10..=1 << 30);
    // The parser itself gives up at 200.
    let max_message_depth = count("max_message_depth", 1..=128);
    let max_message_rows = count("max_message_rows", 1..=1_000_000);
    let max_label_bytes = bytes("max_label_bytes", 16..=64 << 10);
    let max_held_bytes = bytes("max_held_bytes", 1 << 20..=1 << 40);
    let max_baseline_bytes = bytes("max_baseline_bytes", 0..=1 << 40);
    let max_open_windows = count("max_open_windows", 2..=1_000_000);
    let max_levels = count("max_levels", 2..=10_000_000);
    Some(Limits {
        message: MessageLimits {
            bytes: max_message_bytes?,
            depth: max_message_depth?,
            rows: max_message_rows?,
            label_bytes: max_label_bytes?,
        },
        max_open_windows: max_open_windows?,
        max_held_bytes: max_held_bytes?,
        max_baseline_bytes: max_baseline_bytes?,
        max_levels: max_levels?,
    })
}

/// Less than a day of anything would take away what is still in use; partitions are of a day or longer.
fn retention(section: &Section<'_>) -> Option<Retention> {
    let kept = |key| {
        section.must(key, "expected a duration", |f| {
            duration(f, DAY_MS..=100 * YEAR_MS)
        })
    };
    let (history, window_profiles) = (kept("history"), kept("window_profiles"));
    let (checkpoints, rejected_messages) = (kept("checkpoints"), kept("rejected_messages"));
    let outbox = kept("outbox");
    if let (Some(windows), Some(profiles)) = (history, window_profiles)
        && profiles > windows
        && let Some(field) = blamed(section, ["window_profiles", "history"])
    {
        field.wrong("window_profiles may not be kept longer than history, which they belong to");
    }
    Some(Retention {
        history: history?,
        window_profiles: window_profiles?,
        checkpoints: checkpoints?,
        rejected_messages: rejected_messages?,
        outbox: outbox?,
    })
}

fn duration(field: &Field<'_>, range: std::ops::RangeInclusive<i64>) -> Option<Duration> {
    field
        .duration_ms(range)
        .and_then(|ms| u64::try_from(ms).ok())
        .map(Duration::from_millis)
}
