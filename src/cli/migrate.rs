//! `driftd migrate`: brings the database's schema up to this binary's.

use std::io::Write;

use anyhow::Context;
use sqlx::PgPool;

use crate::store;

/// Bring the database's schema up to this version's. Safe to repeat, and safe to run from several
/// machines at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Change nothing; fail when there is something to do.
    #[arg(long)]
    check: bool,
}

/// Migrates, or tells whether that is needed.
///
/// # Errors
/// When the database cannot be migrated or, with `--check`, is not up to date.
pub async fn run(args: Args, pool: &PgPool) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if args.check {
        store::check_schema(pool).await?;
        writeln!(out, "the schema is up to date")?;
        return Ok(());
    }
    let applied = store::migrate(pool).await.context("cannot migrate")?;
    match applied {
        0 => writeln!(out, "the schema is up to date")?,
        n => writeln!(out, "applied {n} migration(s)")?,
    }
    Ok(())
}
