//! `driftd check-config`: says all that is wrong with the settings, or shows them.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::{Output, WRONG};
use crate::settings::{Error, LoadOptions, Settings};

/// Options of `driftd check-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As TOML, or as one JSON object with "ok", "problems", "warnings" and "settings".
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Print nothing but problems and warnings.
    #[arg(long, short)]
    quiet: bool,
}

/// Checks the settings; neither Kafka nor Postgres is asked.
///
/// # Errors
/// When the result cannot be printed.
pub fn run(args: &Args, options: LoadOptions) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(options);
    let code = if settings.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(WRONG)
    };
    match args.output {
        Output::Json => print_json(settings, args.quiet)?,
        Output::Table => print_text(settings, args.quiet)?,
    }
    Ok(code)
}

fn print_text(settings: Result<Settings, Error>, quiet: bool) -> anyhow::Result<()> {
    match settings {
        Err(error) => writeln!(std::io::stderr(), "{error}")?,
        Ok(settings) => {
            for warning in &settings.warnings {
                writeln!(std::io::stderr(), "warning: {warning}")?;
            }
            if !quiet {
                let shown =
                    toml::to_string(settings.redacted()).context("cannot show the settings")?;
                write!(std::io::stdout(), "{shown}")?;
                writeln!(std::io::stderr(), "the settings are right")?;
            }
        }
    }
    Ok(())
}

fn print_json(settings: Result<Settings, Error>, quiet: bool) -> anyhow::Result<()> {
    let shown = match settings {
        Err(error) => json!({ "ok": false, "problems": error.problems(), "warnings": [] }),
        Ok(settings) => {
            let mut shown = json!({ "ok": true, "problems": [], "warnings": settings.warnings });
            if !quiet {
                shown["settings"] = serde_json::to_value(settings.redacted())?;
            }
            shown
        }
    };
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::to_string_pretty(&shown)?
    )?;
    Ok(())
}
