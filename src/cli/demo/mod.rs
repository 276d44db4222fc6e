//! `driftd demo`: all of driftd on real data, with a Kafka and a Postgres of its own.
//!
//! Departures from New York in 2013: January to March are the training data of model
//! `flight-delay` version 1, April to December are its inputs, one message a flight. Everything
//! between Kafka and Postgres is done by [`crate::daemon`], as under `driftd run`.

mod flights;
mod summary;
pub mod trainer;
mod training;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use chrono_tz::Tz;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Output, run};
use crate::baseline::import::{self, Imported, Request};
use crate::baseline::{SAMPLE_ROWS, save};
use crate::embedded::broker::Broker;
use crate::embedded::postgres::{self, Postgres};
use crate::monitor::TimeUnit;
use crate::settings::{Settings, environment};
use crate::store::models;
use crate::{daemon, store};

/// Partitions of the demo's topic.
const PARTITIONS: i32 = 4;
/// The demo's topic.
const TOPIC: &str = "flights";
/// The demo's windows, in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// Options of `driftd demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End when everything is judged, instead of serving on.
    #[arg(long)]
    exit: bool,
    /// A report for people, or one JSON object for programs (with --exit).
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Close the loop: a trainer is fed the data that the job suggests, its version is promoted, and the
    /// rest of the stream is that version's.
    #[arg(long)]
    train: bool,
    /// Keep the database in this directory, and find it there again; a temporary one if not said.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Shows it all.
///
/// # Errors
/// The private servers do not start, or driftd itself fails.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    run::stop_on_signal(&stop)?;
    let quiet = args.output == Output::Json;
    let say = |text: &str| if quiet { Ok(()) } else { print(text) };

    say("Starting a private Postgres and an in-process Kafka broker ...\n")?;
    let options = postgres::Options {
        durable: args.data.is_some(),
        data: args.data.clone(),
        bin: environment()
            .find(|(name, _)| name == "DRIFTD_PG_BIN")
            .map(|(_, value)| value.into()),
    };
    let server = tokio::task::spawn_blocking(move || Postgres::start(options)).await??;
    let broker = Broker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let settings = settings(&broker.brokers(), &server.url(), args.train)?;
    let pool = store::connect(settings.postgres.url(), 4).await?;
    store::migrate(&pool).await?;

    say("Importing the baseline: flights of January to March ...\n")?;
    let (told, said) = prepare(&pool).await?;
    say(&said)?;

    let listen = settings.service.listen;
    let training = match args.train {
        true => Some(training::start(&pool, settings.kafka.clone(), &stop).await?),
        false => None,
    };
    let mut task = JoinSet::new();
    let begun = Instant::now();
    task.spawn(Box::pin(daemon::run(settings, stop.clone())));
    let brokers = broker.brokers();
    let watched = tokio::select! {
        ended = task.join_next() => {
            match ended {
                Some(Ok(Err(error))) => return Err(error.context("driftd has ended")),
                _ => anyhow::bail!("driftd has ended before the demo was over"),
            }
        }
        watched = watch::until_judged(&brokers, &pool, &stop, quiet, args.train) => watched?,
    };
    if let Some(planted) = watched {
        let report = summary::of(&pool, &planted, told, begun.elapsed().as_secs_f64()).await?;
        say(&report.text())?;
        if quiet {
            print(&format!("{}\n", serde_json::to_string(&report)?))?;
        }
        if !args.exit {
            say(&summary::where_to_look(&server.url(), listen))?;
            stop.cancelled().await;
        }
    }
    stop.cancel();
    if let Some(training) = training {
        training.end().await?;
    }
    end(task, stop, pool, server).await?;
    Ok(ExitCode::SUCCESS)
}

/// Imports the training data; says what fixed thresholds and the rule make of its own days.
async fn prepare(pool: &PgPool) -> anyhow::Result<(summary::BaselineDays, String)> {
    let training = tempfile::tempdir().context("cannot make a temporary directory")?;
    let made = import_baseline(flights::write_training(training.path())?).await?;
    let told = summary::baseline_days(&made)?;
    let saved = save::save(pool, made).await?;
    // The second model is retrained by the clock alone; it has no stream and no baseline.
    models::register(pool, "fare-quotes").await?;
    models::register_version(pool, "fare-quotes", "7", None).await?;
    let said = format!(
        "  {} rows, {} features; {} training days\n\n",
        saved.rows, saved.features, told.days
    );
    Ok((told, said))
}

/// Stops driftd first, then the server it writes to.
async fn end(
    mut task: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
    pool: PgPool,
    server: Postgres,
) -> anyhow::Result<()> {
    stop.cancel();
    while let Some(ended) = task.join_next().await {
        ended??;
    }
    pool.close().await;
    Ok(tokio::task::spawn_blocking(move || drop(server)).await?)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write")
}

async fn import_baseline(file: PathBuf) -> anyhow::Result<Imported> {
    let request = Request {
        model: "flight-delay".into(),
        version: "1".into(),
        files: vec![file],
        time_column: Some("event_time".into()),
        time_unit: TimeUnit::Ms,
        window_ms: Some(DAY_MS),
        time_zone: Tz::UTC,
        features: Vec::new(),
        exclude: Vec::new(),
        kinds: Default::default(),
        max_levels: 1000,
        max_label_bytes: 256,
        sample_rows: SAMPLE_ROWS,
    };
    Ok(tokio::task::spawn_blocking(move || import::import(&request, |_| {})).await??)
}

/// What a user would write, with the demo's own addresses.
fn settings(brokers: &str, url: &str, train: bool) -> anyhow::Result<Settings> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    // With training the messages name their version. While a version is trained no flight leaves, and that
    // is no idleness. Two months are suggested, once the drift has lasted for one.
    let (features, version, idle_after, retraining) = match train {
        true => (
            // The weather is left out: of a single year it drifts with every season.
            "features = [\"dest\", \"origin\", \"carrier\", \"distance\", \"sched_dep_min\", \"dow\"]",
            "{ path = \"model_version\" }",
            "40s",
            "{ cooldown = \"0s\", min_windows = 30, data = { select = \"sliding\", span = \"60d\" }, \
              promotion = { policy = \"automatic\" } }",
        ),
        false => ("", "\"1\"", "2s", "{ cooldown = \"7d\" }"),
    };
    let text = format!(
        r#"
        [kafka]
        brokers = "{brokers}"
        group = "driftd-demo"
        # The broker waits almost so long for a group that begins anew.
        properties = {{ "session.timeout.ms" = 4000, "heartbeat.interval.ms" = 300 }}
        [postgres]
        url = "{url}"
        [service]
        listen = "127.0.0.1:{port}"
        [checkpoint]
        min_interval = "1s"

        [[monitors]]
        name = "flights"
        topic = "{TOPIC}"
        model = "flight-delay"
        version = {version}
        {features}
        timestamp = {{ path = "event_time", unit = "ms" }}
        window = "1d"
        false_alarms = {{ max = 1, per = "30d" }}
        lateness = {{ out_of_orderness = "1h", idle_after = "{idle_after}" }}
        retraining = {retraining}

        [[monitors]]
        name = "fare-quotes-weekly"
        model = "fare-quotes"
        retraining = {{ schedule = "*/5 * * * * *", cooldown = "7d" }}
        "#
    );
    Settings::from_toml(&text).context("the demo's own settings")
}
