//! driftd: the command line, and what becomes of it.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser as _;
use driftd::cli::{self, Cli, FAILED};
use driftd::{allocator, failpoint};

fn main() -> ExitCode {
    allocator::share_arenas();
    failpoint::arm();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return told(&format!("cannot start the runtime: {error}"), FAILED.into()),
    };
    match runtime.block_on(Box::pin(cli.run())) {
        Ok(code) => code,
        Err(error) => told(&format!("{error:#}"), cli::exit_code(&error)),
    }
}

fn told(error: &str, code: ExitCode) -> ExitCode {
    // Where standard error is closed, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "driftd: {error}");
    code
}
