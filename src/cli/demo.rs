//! `driftd demo`.

use std::process::ExitCode;

/// Options of `driftd demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not built yet.
///
/// # Errors
/// Always.
pub async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("driftd demo is not built yet")
}
