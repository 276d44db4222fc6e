//! `driftd jobs`.

use std::process::ExitCode;

use crate::settings::Settings;

/// Options of `driftd jobs`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_args: Args, _settings: Settings) -> anyhow::Result<ExitCode> {
    anyhow::bail!("driftd jobs is not built yet")
}
