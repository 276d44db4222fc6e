//! The demo's trainers: a worker as any user's, with scikit-learn where it is there.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::retrain::worker::{self, Done, Options};
use crate::settings::Kafka;

/// The trainer that uses scikit-learn.
const SCRIPT: &str = include_str!("../../../examples/flights_trainer.py");

/// The worker, and where its models are.
pub(super) struct Training {
    tasks: JoinSet<anyhow::Result<Done>>,
    _artifacts: TempDir,
}

/// Starts a worker for the demo's watched model.
pub(super) async fn start(
    pool: &PgPool,
    kafka: Kafka,
    stop: &CancellationToken,
) -> anyhow::Result<Training> {
    let artifacts = tempfile::tempdir().context("cannot make a temporary directory")?;
    let script = artifacts.path().join("flights_trainer.py");
    std::fs::write(&script, SCRIPT)?;
    let mut command: Vec<OsString> = vec![
        "env".into(),
        format!("ARTIFACTS={}", artifacts.path().display()).into(),
    ];
    match has_scikit_learn().await {
        true => command.extend(["python3".into(), script.into()]),
        false => command.extend([std::env::current_exe()?.into(), "demo-trainer".into()]),
    }
    let options = Options {
        name: "demo".into(),
        model: Some("flight-delay".into()),
        lease: Duration::from_secs(30),
        poll: Duration::from_secs(1),
        grace: Duration::from_secs(5),
        once: false,
        quiet: true,
        fetch: Some(kafka),
        command,
    };
    let (pool, stop) = (pool.clone(), stop.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { worker::run(&pool, &options, &stop).await });
    Ok(Training {
        tasks,
        _artifacts: artifacts,
    })
}

async fn has_scikit_learn() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import sklearn"]).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.await.is_ok_and(|status| status.success())
}

impl Training {
    /// Waits for the end of the worker, which was told to stop.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}
