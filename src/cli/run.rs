//! `driftd run`: the daemon.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::WRONG;
use crate::settings::Settings;
use crate::{collect, daemon, store};

/// Options of `driftd run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bring the database's schema up to date first.
    #[arg(long)]
    migrate: bool,
}

/// Watches until SIGTERM or SIGINT; a second signal leaves at once.
///
/// # Errors
/// With what stopped it, if that was no signal.
pub async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    if args.migrate {
        let pool = store::lazy(settings.postgres.url(), 2)?;
        if store::wait_for(&pool, &stop, |_| {}).await? {
            store::migrate(&pool).await?;
        }
    }
    tracing::info!(monitors = settings.monitors.len(), "starting");
    tracing::debug!(settings = %settings.redacted(), "settings");
    match daemon::run(settings, stop).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if matches!(error.downcast_ref(), Some(collect::Error::NameTaken { .. })) => {
            tracing::error!("{error:#}");
            Ok(ExitCode::from(WRONG))
        }
        Err(error) => Err(error),
    }
}

/// The first signal asks for an orderly end, the second one leaves.
///
/// # Errors
/// When signals cannot be listened to.
pub fn stop_on_signal(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    let wait = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("a second signal: leaving at once");
                #[allow(clippy::exit)] // what the second signal asks for
                std::process::exit(super::FAILED.into());
            }
            stop.cancel();
        }
    };
    tokio::runtime::Handle::current().spawn(wait);
    Ok(())
}
