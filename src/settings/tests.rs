use super::*;
use crate::compare::Test;
use crate::compare::adjust::Adjustment;
use crate::monitor::{Features, Limit, OnGap, TimeUnit, VersionSource};

const LEAST: &str = "kafka.brokers = 'k:9092'\npostgres.url = 'postgres://u@h/d'\n";
const MONITOR: &str = "[[monitors]]\nname = 'm'\ntopic = 't'\nmodel = 'x'\nversion = '1'\n";

fn with(rest: &str) -> Result<Settings, Error> {
    Settings::from_toml(&format!("{LEAST}{rest}"))
}

fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, Error> {
    let env = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let flag = |(key, value): &(&str, &str)| Override {
        flag: format!("--set {key}"),
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let flags: Vec<_> = flags.iter().map(flag).collect();
    let (table, problems) = layered(Some(("driftd.toml", file)), &env, &flags)?;
    check::check(table, problems)
}

/// The problems as the user reads them.
fn told(result: Result<Settings, Error>) -> Vec<String> {
    result
        .unwrap_err()
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// That a monitor with this line has exactly one problem, with these words in it.
#[track_caller]
fn refused(line: &str, words: &[&str]) {
    let told = told(with(&format!("{MONITOR}{line}\n")));
    assert_eq!(told.len(), 1, "{told:#?}");
    for word in words {
        assert!(told[0].contains(word), "{word:?} is not in {}", told[0]);
    }
}

#[test]
fn every_shipped_file_is_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let env = [(
                "DRIFTD__POSTGRES__URL".to_owned(),
                "postgres://u@h/d".to_owned(),
            )];
            let options = LoadOptions {
                file: Some(path.clone()),
                env,
                flags: vec![],
            };
            let settings = Settings::load(options).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            if path.ends_with("example.toml") {
                assert_eq!(settings.monitors.len(), 5);
            }
            seen += 1;
        }
    }
    assert!(seen >= 3, "default, example and minimal");
}

#[test]
fn the_least_is_filled_with_defaults() {
    let settings = with(MONITOR).unwrap();
    assert_eq!(settings.kafka.brokers, "k:9092");
    assert_eq!(settings.kafka.start_at, StartAt::Earliest);
    assert_eq!(settings.service.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(settings.limits.message, MessageLimits::default());
    assert_eq!(settings.checkpoint.max_interval, Duration::from_secs(300));
    let monitor = &settings.monitors[0];
    let input = monitor.input.as_ref().unwrap();
    assert_eq!(input.version, VersionSource::Fixed("1".into()));
    assert_eq!(input.timestamp.path, None);
    assert_eq!(input.features, Features::All);
    assert_eq!(
        (input.window.size_ms, input.window.every_ms),
        (86_400_000, 86_400_000)
    );
    assert_eq!(input.window.time_zone, chrono_tz::UTC);
    assert_eq!(input.judging.questions, crate::decide::rule::usual_limits());
    assert_eq!(input.judging.tests.len(), 11);
    assert_eq!(input.on_gap, OnGap::Stop);
    assert!(monitor.retraining.on_drift && monitor.retraining.schedule.is_none());
    assert!(settings.warnings.is_empty());
}

#[test]
fn default_effects_stand_in_the_default_file() {
    for limit in &with(MONITOR).unwrap().monitors[0]
        .input
        .as_ref()
        .unwrap()
        .judging
        .tests
    {
        let effect = Limit::usual(limit.test).effect;
        assert!((limit.effect - effect).abs() < 1e-12, "{:?}", limit.test);
    }
}

#[test]
fn a_monitor_says_it_all() {
    let settings = with(
        "[[monitors]]\nname = 'm'\ntopic = 't'\nmodel = 'x'\nversion = { header = 'v' }\n\
         timestamp = { path = 'ts', unit = 's' }\nfeatures = ['a', { name = 'b', path = 'c[1]' }]\n\
         window = { size = '1d', every = '6h' }\ntests = { psi = { effect = 0.3 }, ks = {}, js = { decides = false } }\n\
         adjustment = 'holm'\n\
         retraining = { schedule = '0 3 * * 1', time_zone = 'Europe/Berlin', parameters = { a = [1, 2.5] } }\n",
    )
    .unwrap();
    let monitor = &settings.monitors[0];
    let input = monitor.input.as_ref().unwrap();
    assert_eq!(input.version, VersionSource::Header("v".into()));
    assert_eq!(input.timestamp.unit, TimeUnit::S);
    let Features::Listed(features) = &input.features else {
        panic!()
    };
    assert_eq!(
        (features[0].path.as_str(), features[1].path.as_str()),
        ("a", "c[1]")
    );
    assert_eq!(input.window.every_ms, 6 * 3_600_000);
    let tests: Vec<_> = input
        .judging
        .tests
        .iter()
        .map(|l| (l.test, l.effect, l.decides))
        .collect();
    let expected = [
        (Test::Js, 0.1, false),
        (Test::Ks, 0.02, true),
        (Test::Psi, 0.3, true),
    ];
    assert_eq!(tests, expected);
    assert_eq!(input.judging.adjustment, Adjustment::Holm);
    let schedule = monitor.retraining.schedule.as_ref().unwrap();
    assert_eq!(schedule.time_zone, chrono_tz::Europe::Berlin);
    assert_eq!(
        monitor.retraining.parameters,
        serde_json::json!({ "a": [1, 2.5] })
    );
}

#[test]
fn all_problems_come_at_once() {
    let told = told(load(
        "colour = 1\n[kafka]\nbroker = 'k'\n[log]\nlevel = 3\nformat = 'jsn'\n[service]\n\
         grace = 30\n[postgres]\nmax_connections = 'ten'\n[[monitors]]\nname = 'm'\ntopic = 't'\n\
         model = 'x'\nversion = '1'\nwindow = '1x'\nalert = { windows = 3, of = 2 }\n",
        &[("DRIFTD__KAFKA__GRUOP", "g"), ("HOME", "/root")],
        &[("limits.max_levels", "many")],
    ));
    let expected = [
        "driftd.toml:16: monitors.m.window: found \"1x\"",
        "driftd.toml:17: monitors.m.alert.windows: 3 drifted windows among the last 2",
        "driftd.toml:3: kafka.broker: unknown key; did you mean kafka.brokers?",
        "environment variable DRIFTD__KAFKA__GRUOP: kafka.gruop: unknown key; did you mean kafka.group?",
        "driftd.toml:10: postgres.max_connections: found \"ten\"",
        "postgres.url: missing",
        "driftd.toml:8: service.grace: found 30",
        "driftd.toml:6: log.format: found \"jsn\"; did you mean \"json\"?",
        "driftd.toml:5: log.level: found 3",
        "--set limits.max_levels: limits.max_levels: found \"many\"",
        "driftd.toml:1: colour: unknown key; known are",
    ];
    for words in expected {
        assert!(
            told.iter().any(|t| t.starts_with(words)),
            "{words} is not in {told:#?}"
        );
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn keys_of_earlier_versions_say_what_to_write_instead() {
    refused("tests = ['learned']", &["the rule is no test"]);
    refused(
        "mode = 'learned'",
        &["monitors.m.mode", "no longer has", "remove it"],
    );
    refused("guard = 2", &["monitors.m.guard", "remove it"]);
    refused(
        "alpha = 0.05",
        &["monitors.m.alpha", "false_alarms = { max = 1"],
    );
    refused(
        "min_share = 0.1",
        &["monitors.m.min_share", "min_drifted_share"],
    );
    refused(
        "retraining = { when_uncalibrated = true }",
        &["retraining.when_uncalibrated", "no longer has"],
    );
    refused(
        "questions = { locatoin = { effect = 0.1 } }",
        &["questions.locatoin", "known are location, spread"],
    );
    refused(
        "features = [{ name = 'a', path = 'a', questions = { spread = { decides = 1 } } }]",
        &["questions.spread.decides", "true or false"],
    );
}

#[test]
fn what_is_wrong_in_a_monitor_is_said() {
    refused(
        "window = { size = '1d', every = '7h' }",
        &["settings:8", "monitors.m.window.every", "multiple"],
    );
    refused(
        "window = { size = '365d', every = '1s' }",
        &["31536000 windows"],
    );
    refused("window = 30", &["found 30", "in quotes"]);
    refused("windwo = '1d'", &["did you mean monitors.m.window?"]);
    refused(
        "timestamp = { path = 'a', record = true }",
        &["neither a path nor"],
    );
    refused(
        "timestamp = 'a[1'",
        &[
            "monitors.m.timestamp",
            "expected `[N]` or `[*]` at character 2",
        ],
    );
    refused(
        "timestamp = { path = 'a', unit = 'sec' }",
        &["timestamp.unit", "\"ms\""],
    );
    refused("features = []", &["\"all\""]);
    refused("features = ['a', 'a']", &["features[1]", "twice"]);
    refused("tests = ['psy']", &["tests[0]", "did you mean psi?"]);
    refused(
        "tests = { ks = { effct = 0.1 } }",
        &["tests.ks.effct", "did you mean"],
    );
    refused(
        "false_alarms = { max = 40, per = '30d' }",
        &["40 false alarms allowed in 30.000 windows"],
    );
    refused("sample_rows = -1", &["found -1"]);
    refused(
        "retraining.schedule = '61 * * * *'",
        &["retraining.schedule", "five fields"],
    );
    refused("retraining.schedule = '0 0 30 2 *'", &["never comes"]);
    refused(
        "retraining.time_zone = 'Europe/Berln'",
        &["did you mean \"Europe/Berlin\"?"],
    );
    refused(
        "time_zone = 'Europe/Berln'",
        &["monitors.m.time_zone", "did you mean \"Europe/Berlin\"?"],
    );
    refused("time_zone = 'CEST+1:00'", &["IANA"]);
    refused("time_zone = 2", &["expected a time zone such as"]);
    refused("retraining.parameters = 3", &["expected a table"]);
    refused("lateness = { allowed = '-1h' }", &["lateness.allowed"]);
    refused(
        "lateness = { allowed = '1h', idle = '1h' }",
        &["lateness.idle", "unknown key"],
    );
}

#[test]
fn names_topics_and_gaps() {
    let two = |second: &str| with(&format!("{MONITOR}{MONITOR}{second}"));
    assert!(told(two(""))[0].contains("a second monitor is named \"m\""));
    let other = MONITOR.replace("'m'", "'n'");
    let told_of = told(with(&format!("{MONITOR}{other}on_gap = 'continue'\n")));
    assert!(told_of[0].contains("monitors.n.on_gap"), "{told_of:?}");
    let bad = MONITOR.replace("'m'", "'My Model'").replace("'t'", "'a/b'");
    let told_of = told(with(&bad));
    assert_eq!(told_of.len(), 2, "{told_of:?}");
    assert!(told_of[0].contains("monitors[0].name") && told_of[1].contains("monitors[0].topic"));
    assert!(told(with("[monitors.m]\ntopic = 't'\n"))[0].contains("[[monitors]]"));
}

#[test]
fn periodic_monitors_need_a_schedule_and_no_kafka() {
    let least = "postgres.url = 'postgres://u@h/d'\n";
    let periodic = format!("{least}[[monitors]]\nname = 'p'\nmodel = 'x'\n");
    let told_of = told(Settings::from_toml(&periodic));
    assert_eq!(told_of.len(), 1, "{told_of:?}");
    assert!(told_of[0].contains("monitors.p.retraining.schedule: missing"));
    let settings =
        Settings::from_toml(&format!("{periodic}retraining.schedule = '0 3 * * *'\n")).unwrap();
    assert!(settings.monitors[0].input.is_none());
    // Keys about rows without a topic: the topic was forgotten, or mistyped.
    let told_of = told(with(
        "[[monitors]]\nname = 'p'\nmodel = 'x'\nversion = '1'\n",
    ));
    assert_eq!(told_of.len(), 1, "{told_of:?}");
    assert!(told_of[0].contains("monitors.p.topic: missing"));
}

#[test]
fn layers_win_in_their_order() {
    let file = format!("{LEAST}log.level = 'warn'\nkafka.group = 'f'\nservice.grace = '5s'\n");
    let env = [
        ("DRIFTD__LOG__LEVEL", "debug"),
        ("DRIFTD__SERVICE__GRACE", "6s"),
        ("DRIFTD__LIMITS__MAX_LEVELS", "7"),
        ("DRIFTD__DEFAULTS__WINDOW", "{ size = '2d' }"),
    ];
    let settings = load(&format!("{file}{MONITOR}"), &env, &[("log.level", "error")]).unwrap();
    assert_eq!(settings.kafka.group, "f");
    assert_eq!(settings.service.grace, Duration::from_secs(6));
    assert_eq!(settings.log.level, "error");
    assert_eq!(settings.limits.max_levels, 7);
    assert_eq!(
        settings.monitors[0].input.as_ref().unwrap().window.size_ms,
        2 * 86_400_000
    );
}

#[test]
fn a_time_zone_of_its_own_wins_over_the_default_one() {
    let other = MONITOR.replace("'m'", "'n'");
    let defaults = "[defaults]\ntime_zone = 'Europe/Berlin'\n";
    let of = format!("{MONITOR}{other}time_zone = 'Asia/Kolkata'\n{defaults}");
    let settings = with(&of).unwrap();
    let zones = settings.monitors.iter().map(|monitor| {
        let input = monitor.input.as_ref().unwrap();
        input.window.time_zone
    });
    let expected = [chrono_tz::Europe::Berlin, chrono_tz::Asia::Kolkata];
    assert_eq!(zones.collect::<Vec<_>>(), expected);
    // Where there are no rows there are no windows; the schedule has a time zone of its own.
    let periodic = "[[monitors]]\nname = 'p'\nmodel = 'x'\nretraining.schedule = '0 3 * * *'\n";
    let told_of = told(with(&format!("{periodic}time_zone = 'Europe/Berlin'\n")));
    assert!(
        told_of.iter().any(|one| one.contains("topic")),
        "{told_of:?}"
    );
}

#[test]
fn a_wrong_default_is_said_once() {
    let second = MONITOR.replace("'m'", "'n'");
    let told = told(with(&format!(
        "{MONITOR}{second}[defaults]\nwindow = '1x'\nwindw = 1\n"
    )));
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("defaults.window"));
}

#[test]
fn kafka_properties() {
    let told_of = told(with(
        "[kafka.properties]\nenable.auto.commit = true\n'plugin.library.paths' = 'x'\n\
         sesion.timeout.ms = 1\nfetch.max.bytes = 'lots'\nstatistics.interval.ms = 0\n",
    ));
    assert_eq!(told_of.len(), 5, "{told_of:#?}");
    assert!(told_of.iter().any(|t| t.contains("without statistics")));
    assert!(told_of.iter().any(|t| t.contains("driftd's own")));
    assert!(
        told_of
            .iter()
            .any(|t| t.contains("sesion.timeout.ms: No such")),
        "{told_of:#?}"
    );
    let settings = load(
        &format!("{LEAST}[kafka.properties]\nsession.timeout.ms = 30000\nsasl.username = 'u'\n"),
        &[("DRIFTD__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2")],
        &[],
    )
    .unwrap();
    let properties = settings.kafka.properties();
    assert!(properties.contains(&("session.timeout.ms".into(), "30000".into())));
    assert!(properties.contains(&("sasl.password".into(), "hunter2".into())));
    assert!(!format!("{settings:?} {}", settings.redacted()).contains("hunter2"));
    let flagged = load(LEAST, &[], &[("kafka.properties.sasl.password", "hunter2")]);
    assert!(told(flagged)[0].contains("a secret on the command line"));
    let flagged = load(LEAST, &[], &[("kafka.properties.ssl.key.pem", "hunter2")]);
    assert!(told(flagged)[0].contains("a secret on the command line"));
    let wrong = told(load(
        LEAST,
        &[],
        &[("kafka.properties.sesion.timeout.ms", "1")],
    ));
    assert!(
        wrong.len() == 1 && wrong[0].contains("No such"),
        "{wrong:?}"
    );
    let accepted = load(
        LEAST,
        &[],
        &[("kafka.properties.fetch.max.bytes", "100000")],
    );
    assert!(accepted.is_ok());
}

#[test]
fn the_group_protocol_is_the_users_choice() {
    let told_of = told(with(
        "[kafka.properties]\ngroup.protocol = 'consumer'\nsession.timeout.ms = 6000\n\
         heartbeat.interval.ms = 500\npartition.assignment.strategy = 'range'\n",
    ));
    assert_eq!(told_of.len(), 3, "{told_of:#?}");
    for words in [
        "session.timeout.ms: the brokers decide it with group.protocol = \"consumer\"",
        "set group.consumer.heartbeat.interval.ms on the brokers",
        "group.remote.assignor",
    ] {
        assert!(told_of.iter().any(|t| t.contains(words)), "{told_of:#?}");
    }
    let read = |properties| {
        with(&format!("[kafka.properties]\n{properties}"))
            .unwrap()
            .kafka
    };
    assert!(read("group.protocol = 'Consumer'\ngroup.instance.id = 'a'\n").brokers_assign());
    let classic = read("group.protocol = 'classic'\nsession.timeout.ms = 6000\n");
    assert!(!classic.brokers_assign());
    assert_eq!(classic.property("session.timeout.ms"), Some("6000"));
}

#[test]
fn secrets_come_from_files_and_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "postgres://u:hunter2@h/d\n").unwrap();
    std::fs::write(folder.path().join("kafka"), "hunter3\n").unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let file = folder.path().join("driftd.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let load = |env: Vec<(String, String)>| {
        Settings::load(LoadOptions {
            file: Some(file.clone()),
            env,
            flags: vec![],
        })
    };
    write("postgres.url_file = 'url'\n[kafka.properties]\n'sasl.password_file' = 'kafka'\n");
    let settings = load(vec![]).unwrap();
    assert_eq!(settings.postgres.shown_url(), "postgres://u:[redacted]@h/d");
    assert_eq!(
        settings.kafka.properties(),
        vec![("sasl.password".to_owned(), "hunter3".to_owned())]
    );
    let shown = format!("{settings:?} {}", settings.redacted());
    assert!(!shown.contains("hunter"), "{shown}");
    // The environment lies above the file, whichever of the two keys it uses.
    let env = vec![("DRIFTD__POSTGRES__URL".into(), "postgres://v@h/d".into())];
    assert_eq!(load(env).unwrap().postgres.shown_url(), "postgres://v@h/d");
    write("postgres.url_file = 'none'\npostgres.password_file = 'empty'\n");
    let told = told(load(vec![]));
    assert!(
        told.iter()
            .any(|t| t.contains("postgres.url_file: cannot read")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|t| t.contains("empty is empty")),
        "{told:?}"
    );
    write("postgres.url_file = 'url'\npostgres.url = 'postgres://h/d'\n");
    assert!(self::told(load(vec![]))[0].contains("give one of the two"));
}

#[test]
fn no_secret_is_shown_wherever_it_comes_from() {
    let file = "postgres.url = 'postgres://u:hunter1@h/d'\n[kafka.properties]\n\
                ssl.key.password = 'hunter2'\nssl.keystore.password = 'hunter3'\n\
                ssl.key.pem = 'hunter6'\nsasl.oauthbearer.config = 'hunter7'\n\
                client.id = 'shown'\n";
    let env = [
        ("DRIFTD__POSTGRES__PASSWORD", "hunter4"),
        ("DRIFTD__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter5"),
    ];
    let settings = load(file, &env, &[]).unwrap();
    let shown = format!("{settings:?}\n{}", settings.redacted());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(shown.contains("\"shown\""), "{shown}");
    assert!(settings.postgres.url().expose_secret().contains("hunter4"));
}

#[test]
fn secrets_are_refused_as_flags() {
    for (key, value) in [
        ("postgres.url", "postgres://u:p@h/d"),
        ("postgres.password", "p"),
    ] {
        let told = told(load(LEAST, &[], &[(key, value)]));
        assert!(
            told.len() == 1 && told[0].contains("a secret on the command line"),
            "{told:?}"
        );
    }
    assert!(load(LEAST, &[], &[("postgres.url", "postgres://u@h/e")]).is_ok());
}

#[test]
fn secrets_stay_out_of_messages() {
    let told = told(Settings::from_toml(
        "postgres.url = 'mysql://u:hunter2@h/d'\n",
    ));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!told[0].contains("hunter2"));
}

#[test]
fn missing_variables_and_broken_toml() {
    let told_of = told(with("[log]\nlevel = '${NOT_THERE}'\n"));
    assert!(told_of[0].starts_with("settings:4: log.level: the environment variable NOT_THERE"));
    let told_of = told(Settings::from_toml("[kafka]\nbrokers = \ngroup = 'x\n"));
    assert_eq!(told_of.len(), 2, "{told_of:?}");
    assert!(
        told_of[0].starts_with("settings:2: not TOML"),
        "{told_of:?}"
    );
}

/// Every place of a value, as a path of keys and indices.
fn places(value: &toml::Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        toml::Value::Table(table) => {
            table
                .iter()
                .for_each(|(key, inner)| places(inner, &format!("{path}/{key}"), found));
        }
        toml::Value::Array(list) => {
            let numbered = list.iter().enumerate();
            numbered.for_each(|(i, inner)| places(inner, &format!("{path}/{i}"), found));
        }
        _ => {}
    }
}

fn put(value: &mut toml::Value, path: &[&str], new: &toml::Value) {
    match (path, value) {
        ([], value) => *value = new.clone(),
        ([key, rest @ ..], toml::Value::Table(table)) => put(&mut table[*key], rest, new),
        ([i, rest @ ..], toml::Value::Array(list)) => {
            put(&mut list[i.parse::<usize>().unwrap()], rest, new);
        }
        _ => panic!("no such place"),
    }
}

#[test]
fn whatever_is_written_anywhere_is_taken_or_refused_with_a_reason() {
    let example = include_str!("../../config/example.toml");
    let example: toml::Table = toml::from_str(example).unwrap();
    let whole = toml::Value::Table(example);
    let mut all = Vec::new();
    places(&whole, "", &mut all);
    let odd: toml::Table = toml::from_str(
        "v = [3, -1, 1e300, nan, '', 'x?', '${', true, [], [[]], {}, { a = 1 }, 2026-01-01, '1d', ['a']]",
    )
    .unwrap();
    let mut refused = 0;
    for place in all.iter().skip(1) {
        let path: Vec<&str> = place.split('/').skip(1).collect();
        for value in odd["v"].as_array().unwrap() {
            let mut changed = whole.clone();
            put(&mut changed, &path, value);
            if let Err(error) = Settings::from_toml(&toml::to_string(&changed).unwrap()) {
                assert!(!error.problems().is_empty(), "{place} = {value}");
                refused += 1;
            }
        }
    }
    assert!(refused > 800, "{refused}");
}

#[test]
fn history_is_kept_for_a_day_at_least_and_profiles_not_longer_than_their_windows() {
    let right = "[postgres]\nurl = 'postgres://localhost/d'\n[retention]\n";
    let loaded = Settings::from_toml(&format!(
        "{right}history = '30d'\nwindow_profiles = '30d'\n"
    ));
    assert_eq!(
        loaded.unwrap().retention.history,
        Duration::from_secs(30 * 86_400)
    );
    for (wrong, told) in [
        (
            "history = '23h'",
            "retention.history: found \"23h\"; expected from 1d",
        ),
        ("checkpoints = '0s'", "retention.checkpoints: found \"0s\""),
        (
            "outbox = 'never'",
            "retention.outbox: found \"never\"; expected a duration",
        ),
        (
            "history = '30d'",
            "retention.history: found \"30d\"; window_profiles may not be kept longer",
        ),
        (
            "window_profiles = '9999d'",
            "retention.window_profiles: found \"9999d\"; window_profiles may",
        ),
    ] {
        let error = Settings::from_toml(&format!("{right}{wrong}\n")).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

const HANDOVER: &str = "[[handovers]]\nname = 'h'\nmodel = 'x'\npreset = 'airflow3'\n\
                        parameters = { base_url = 'https://a.example.com', dag_id = 'd' }\n";

/// That hand-overs with these lines have exactly one problem, with these words in it.
#[track_caller]
fn handover_refused(lines: &str, words: &[&str]) {
    let told = told(with(lines));
    assert_eq!(told.len(), 1, "{told:#?}");
    for word in words {
        assert!(told[0].contains(word), "{word:?} is not in {}", told[0]);
    }
}

#[test]
fn a_preset_fills_a_hand_over_and_each_key_can_be_said_anew() {
    let settings = with(&format!(
        "{HANDOVER}deadline = '2h'\ncancel = false\n[handovers.status]\ninterval = '5s'\n"
    ))
    .unwrap();
    let handover = &settings.handovers[0];
    assert_eq!(handover.deadline, Duration::from_secs(7200));
    assert_eq!(handover.timeout, Duration::from_secs(30));
    assert!(handover.cancel.is_none() && !handover.start.url.mentions("run_id"));
    let status = handover.status.as_ref().unwrap();
    assert_eq!(status.interval, Duration::from_secs(5));
    assert_eq!(status.succeeded, ["success"]);
    for preset in crate::retrain::handover::preset::NAMES {
        let needs = "dag_id = 'd', namespace = 'n', template = 't', pipeline_id = 'p', repository = 'o/r', \
                     workflow = 'w.yml', image = 'i:1', base_url = 'https://a.example.com'";
        let entry = format!(
            "[[handovers]]\nname = 'h'\nmodel = 'x'\npreset = '{preset}'\nparameters = {{ {needs} }}\n"
        );
        with(&entry).unwrap_or_else(|error| panic!("{preset}: {error}"));
    }
}

#[test]
fn what_is_wrong_in_a_hand_over_is_said() {
    let without = |line: &str| HANDOVER.replace(line, "");
    handover_refused(
        &HANDOVER.replace("airflow3", "airflow4"),
        &["handovers.h.preset", "did you mean \"airflow"],
    );
    handover_refused(
        &without(", dag_id = 'd'"),
        &["handovers.h.parameters.dag_id: missing"],
    );
    handover_refused(&without("model = 'x'\n"), &["handovers.h.model: missing"]);
    handover_refused(
        &format!("{HANDOVER}methd = 'PUT'\n"),
        &["did you mean handovers.h.method?"],
    );
    handover_refused(
        &format!("{HANDOVER}body = '{{\"a\": {{{{ mdel }}}}}}'\n"),
        &["handovers.h.body", "did you mean {{ model }}?"],
    );
    handover_refused(
        &format!("{HANDOVER}body = 'a=b'\n"),
        &["handovers.h.body", "not JSON"],
    );
    handover_refused(
        &format!("{HANDOVER}url = 'https://{{{{ model }}}}/'\n"),
        &["handovers.h.url", "a host that depends on the job"],
    );
    handover_refused(
        &HANDOVER
            .replace("https://a", "http://a")
            .replace("parameters", "url = 'http://a/'\nparameters"),
        &["handovers.h.url", "allow_private"],
    );
    handover_refused(
        &format!("{HANDOVER}allow_private = ['10.0.0.0/33']\n"),
        &["handovers.h.allow_private[0]", "10.0.0.0/8"],
    );
    handover_refused(&format!("{HANDOVER}status = false\n"), &["lease_token"]);
    handover_refused(
        &format!("{HANDOVER}headers = {{ Idempotency-Key = 'x' }}\n"),
        &["handovers.h.headers.Idempotency-Key"],
    );
    handover_refused(
        &format!("{HANDOVER}token = 'a'\nheaders = {{ authorization = 'b' }}\n"),
        &["headers.authorization", "give one of the two"],
    );
    handover_refused(
        &format!("{HANDOVER}[handovers.status]\npointer = 'state'\n"),
        &["handovers.h.status.pointer", "JSON pointer"],
    );
    let second = HANDOVER.replace("'h'", "'i'");
    handover_refused(
        &format!("{HANDOVER}{second}"),
        &["a second hand-over has the model \"x\""],
    );
}

#[test]
fn all_problems_of_a_hand_over_come_at_once() {
    let told = told(with(
        "[[handovers]]\nname = 'H'\nmodel = ''\ntimeout = '1'\nheaders = { a = '{{ x }}' }\nurl = 'x'\n\
         body = '{{'\nallow_private = 1\nstatus = { url = 'https://h/' }\nca_file = '/none'\n",
    ));
    assert!(told.len() >= 11, "{told:#?}");
}

#[test]
fn secrets_of_a_hand_over_are_never_shown() {
    let env = [
        ("T", "hunter1"),
        ("K", "hunter2"),
        ("H", "hunter3"),
        ("Q", "hunter4"),
        ("B", "hunter5"),
    ];
    let file = format!(
        "{LEAST}{HANDOVER}token = '${{T}}'\nsigning_key = '${{K}}'\nurl = 'https://h/x?code=${{Q}}'\n\
         headers = {{ X-Key = '${{H}}' }}\nbody = '{{\"k\": \"${{B}}\"}}'\n"
    );
    let settings = load(&file, &env, &[]).unwrap();
    let shown = format!("{settings:?}\n{}", settings.redacted());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(
        settings
            .redacted()
            .to_string()
            .contains("https://h/x?[redacted]")
    );
    let broken = file
        .replace("https://h/x", "h/x")
        .replace("\"k\":", "")
        .replace("X-Key", "Host");
    let told = told(load(&broken, &env, &[]));
    assert!(
        told.len() == 3 && !told.join("\n").contains("hunter"),
        "{told:#?}"
    );
}
