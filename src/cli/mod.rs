//! The commands: one file each.

pub mod baseline;
pub mod check;
pub mod check_config;
pub mod demo;
pub mod jobs;
pub mod migrate;
pub mod models;
pub mod reset_partition;
pub mod run;
pub mod status;
mod training;
pub mod verify;
pub mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;
use sqlx::PgPool;

use crate::baseline::Baseline;
use crate::settings::{
    Defaults, Error, LoadOptions, Log, LogFormat, Override, Settings, environment,
};
use crate::{store, telemetry};

/// Exit code of a command that failed while it ran.
pub const FAILED: u8 = 1;

/// Exit code of a wrong command line or wrong settings: starting again does not help.
pub const WRONG: u8 = 2;

/// Exit code of what only a person can decide: a part of the log is gone and `on_gap = "stop"`, or
/// the database's schema is of another version. Starting again does not help.
pub const NEEDS_A_PERSON: u8 = 3;

const AFTER_HELP: &str = "Settings come from, each winning over the one before: what is compiled \
in (config/default.toml),
the file of --config, DRIFTD__SECTION__KEY variables, flags.

Exit codes:
  0  done
  1  failed while it ran
  2  the command line or the settings are wrong
  3  a person has to decide: a part of the log is gone, or the database's schema is of another
     version; starting again does not help";

/// Watches the inputs of deployed models and decides when a model has to be retrained.
#[derive(Debug, Parser)]
#[command(name = "driftd", version, after_long_help = AFTER_HELP)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
struct Global {
    /// The settings file (TOML).
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting, e.g. --set kafka.brokers=localhost:9092; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Short for --set log.level=LEVEL.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Short for --set log.format=FORMAT: text or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
enum Command {
    /// Watch: read Kafka, judge windows, enqueue jobs, until told to stop.
    Run(run::Args),
    /// Show it all on real data, with a Kafka and a Postgres of its own.
    Demo(demo::Args),
    /// The trainer of `driftd demo --train`.
    #[command(hide = true)]
    DemoTrainer,
    /// Compare a file with another one: drifted or not, for batch pipelines.
    #[command(disable_version_flag = true)]
    Check(Box<check::Args>),
    /// Say all that is wrong with the settings, or show them.
    CheckConfig(check_config::Args),
    /// Show how monitors are, and what has stopped.
    Status(status::Args),
    /// Bring the database's schema up to date.
    Migrate(migrate::Args),
    /// Import and show training distributions.
    Baseline(baseline::Args),
    /// List, show, request, approve and cancel retraining jobs.
    Jobs(jobs::Args),
    /// Run a command for every retraining job.
    Worker(worker::Args),
    /// List, promote and retire model versions, and trace where they come from.
    Models(models::Args),
    /// Say whether what has to hold in the database holds, and what is wrong.
    Verify(verify::Args),
    /// Let driftd go on elsewhere in a partition, after a gap or past what cannot be read.
    ResetPartition(reset_partition::Args),
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err("expected KEY=VALUE, such as log.level=debug".into()),
    }
}

impl Global {
    fn load_options(self) -> LoadOptions {
        let short = |flag: &str, key: &str, value: Option<String>| {
            value.map(|value| Override {
                flag: flag.into(),
                key: key.into(),
                value,
            })
        };
        let set = self.set.into_iter().map(|(key, value)| Override {
            flag: format!("--set {key}"),
            key,
            value,
        });
        let flags = set
            .chain(short("--log-level", "log.level", self.log_level))
            .chain(short("--log-format", "log.format", self.log_format))
            .collect();
        LoadOptions {
            file: self.config,
            env: environment().collect(),
            flags,
        }
    }
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// With everything that stopped it, in the words of what was attempted.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match Box::pin(self.dispatch()).await {
            // `driftd jobs list | head`: whoever reads has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            result => result,
        }
    }

    async fn dispatch(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::CheckConfig(args) => check_config::run(&args, self.global.load_options()),
            Command::Check(args) => self.global.check(*args).await,
            Command::Demo(args) => {
                telemetry::init(&self.global.demo_log()?).context("cannot start logging")?;
                demo::run(args).await
            }
            Command::DemoTrainer => demo::trainer::run(),
            Command::Run(args) => run::run(args, self.global.settings()?).await,
            Command::Migrate(args) => {
                let settings = self.global.settings()?;
                migrate::run(args, &connect(&settings).await?).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Baseline(args) => {
                let settings = self.global.settings()?;
                baseline::run(args, &pool(&settings).await?, &settings.limits).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Jobs(args) => {
                let settings = self.global.settings()?;
                jobs::run(args, &pool(&settings).await?).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Worker(args) => {
                let settings = self.global.settings()?;
                // A trainer's role may call the job functions and see nothing else of the schema.
                worker::run(args, &settings.kafka, &connect(&settings).await?).await
            }
            Command::Models(args) => {
                let settings = self.global.settings()?;
                models::run(args, &pool(&settings).await?).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Status(args) => {
                let settings = self.global.settings()?;
                status::run(args, &pool(&settings).await?).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Verify(args) => self.global.verify(args).await,
            Command::ResetPartition(args) => {
                let settings = self.global.settings()?;
                reset_partition::run(args, &settings, &pool(&settings).await?).await
            }
        }
    }
}

impl Global {
    /// Needs no database unless the reference is a stored baseline. Whatever stands in the way, the
    /// answer is that driftd could not tell.
    async fn check(self, args: check::Args) -> anyhow::Result<ExitCode> {
        let told = async {
            let Some(id) = args.baseline.clone() else {
                let defaults = Defaults::load(self.load_options())?;
                return check::run(args, defaults, None).await;
            };
            let (defaults, settings) = (
                Defaults::load(self.clone().load_options())?,
                self.settings()?,
            );
            let stored = baseline::find(&pool(&settings).await?, &id).await?;
            check::run(args, defaults, Some(Baseline::of_stored(stored)?)).await
        };
        told.await
            .map_err(|error: anyhow::Error| error.context(CouldNotTell))
    }

    /// Whatever stands in the way, the answer is that driftd could not tell.
    async fn verify(self, args: verify::Args) -> anyhow::Result<ExitCode> {
        let told = async { verify::run(args, &pool(&self.settings()?).await?).await };
        told.await
            .map_err(|error: anyhow::Error| error.context(CouldNotTell))
    }

    /// Settings with which everything else can begin; logging has begun.
    fn settings(self) -> anyhow::Result<Settings> {
        let settings = Settings::load(self.load_options())?;
        telemetry::init(&settings.log).context("cannot start logging")?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(settings)
    }

    /// The demo brings its own settings; only the way it logs can be chosen.
    fn demo_log(&self) -> anyhow::Result<Log> {
        if self.config.is_some() || !self.set.is_empty() {
            anyhow::bail!(Usage(
                "demo brings its own settings: leave --config and --set out".into()
            ));
        }
        let format = match self.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(_) => anyhow::bail!(Usage("--log-format is text or json".into())),
        };
        let level = self.log_level.clone().unwrap_or_else(|| "warn".into());
        Ok(Log { format, level })
    }
}

async fn connect(settings: &Settings) -> anyhow::Result<PgPool> {
    let postgres = &settings.postgres;
    store::connect(postgres.url(), postgres.max_connections)
        .await
        .with_context(|| format!("cannot reach Postgres at {}", postgres.shown_url()))
}

/// A database that this binary can work with.
async fn pool(settings: &Settings) -> anyhow::Result<PgPool> {
    let pool = connect(settings).await?;
    store::check_schema(&pool).await?;
    Ok(pool)
}

/// What a command has found, to standard output.
fn write(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write the result")
}

/// Rows in columns as wide as they need to be.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    });
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Whether the error itself, not a cause of it, is that standard output was closed.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A command line that clap cannot know to be wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Why `driftd check` or `driftd verify` has no answer.
#[derive(Debug, thiserror::Error)]
#[error("could not tell")]
struct CouldNotTell;

/// The exit code of a command that stopped with an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<CouldNotTell>() {
        return ExitCode::from(check::COULD_NOT_TELL);
    }
    if error.is::<Error>() || error.is::<Usage>() {
        return ExitCode::from(WRONG);
    }
    match error.downcast_ref::<store::Error>() {
        Some(store::Error::SchemaNewer { .. } | store::Error::NotMigrated { .. }) => {
            ExitCode::from(NEEDS_A_PERSON)
        }
        _ => ExitCode::from(FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bb", "c"], ["äöü", "b", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "a    bb  c\näöü  b\n");
    }

    #[test]
    fn flags_become_settings() {
        let cli = Cli::try_parse_from([
            "driftd",
            "run",
            "--set",
            "kafka.group=g=h",
            "--log-level",
            "debug",
        ]);
        let options = cli.unwrap().global.load_options();
        let flags: Vec<_> = options
            .flags
            .iter()
            .map(|o| (o.key.as_str(), o.value.as_str()))
            .collect();
        assert_eq!(flags, [("kafka.group", "g=h"), ("log.level", "debug")]);
        assert!(Cli::try_parse_from(["driftd", "run", "--set", "x"]).is_err());
    }
}
