//! `driftd worker`: runs a command for every retraining job.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::Usage;
use super::run::stop_on_signal;
use crate::daemon::owner;
use crate::retrain::worker::{self, Options};
use crate::settings::Kafka;

/// Claim retraining jobs and run a command for each.
///
/// The command is told the job as JSON on standard input and in the file DRIFTD_JOB_FILE, its common
/// fields as DRIFTD_JOB_ID, DRIFTD_MODEL, DRIFTD_VERSION, DRIFTD_PARAMETERS, DRIFTD_TRAINING_DATA and
/// others. It leaves a JSON object in DRIFTD_RESULT_FILE and ends with 0; with 65 it says that trying
/// again does not help.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::doc_markdown,
    reason = "this is the help text, where people see backticks"
)]
pub struct Args {
    /// Jobs of this model only.
    #[arg(long)]
    model: Option<String>,
    /// The worker's name, for people.
    #[arg(long)]
    name: Option<String>,
    /// How long a heartbeat extends the lease; a worker that has died is followed by another after this.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    lease: Duration,
    /// How often to look for jobs, beside being told.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    poll: Duration,
    /// How long a command that was told to end (SIGTERM) may take before it is killed.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    grace: Duration,
    /// Read the offset ranges that a job suggests from Kafka first, and give them to the command as the
    /// file DRIFTD_DATA_FILE, one message a line, without those that are the new version's baseline. Needs
    /// the settings of Kafka.
    #[arg(long)]
    fetch: bool,
    /// End when there is nothing to do.
    #[arg(long)]
    once: bool,
    /// The command.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Works until told to stop.
///
/// # Errors
/// The database refuses for good, or the command cannot be started.
pub async fn run(args: Args, kafka: &Kafka, pool: &PgPool) -> anyhow::Result<ExitCode> {
    if args.fetch && kafka.brokers.is_empty() {
        anyhow::bail!(Usage(
            "--fetch reads Kafka: set kafka.brokers, in the file of --config or as --set kafka.brokers=...".into()
        ));
    }
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let options = Options {
        name: args.name.unwrap_or_else(owner),
        model: args.model,
        lease: args.lease,
        poll: args.poll,
        grace: args.grace,
        once: args.once,
        quiet: false,
        fetch: args.fetch.then(|| kafka.clone()),
        command: args.command,
    };
    let done = worker::run(pool, &options, &stop).await?;
    tracing::info!(
        jobs.completed = done.completed,
        jobs.failed = done.failed,
        jobs.given_up = done.given_up,
        "the worker ends"
    );
    Ok(ExitCode::SUCCESS)
}
