//! `driftd baseline`.

use std::process::ExitCode;

use crate::settings::Settings;

/// Options of `driftd baseline`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_args: Args, _settings: Settings) -> anyhow::Result<ExitCode> {
    anyhow::bail!("driftd baseline is not built yet")
}
