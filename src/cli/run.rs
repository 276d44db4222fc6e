//! `driftd run`.

use std::process::ExitCode;

use crate::settings::Settings;

/// Options of `driftd run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_args: Args, _settings: Settings) -> anyhow::Result<ExitCode> {
    anyhow::bail!("driftd run is not built yet")
}
