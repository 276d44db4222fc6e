//! `driftd verify`: whether what has to hold in the database holds, and the rows that show where it
//! does not.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::Output;
use super::check::COULD_NOT_TELL;
use crate::store::verify::{self, Findings};

/// Something is wrong.
const FOUND: u8 = 1;

const AFTER_HELP: &str = "Changes nothing, and is safe while driftd runs.

Exit codes:
  0  sound
  1  something is wrong
  2  could not tell: the database cannot be asked, or a check took too long";

/// Say whether the invariants hold: nothing lost, nothing doubled, one verdict per window.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Show at most so many rows per check.
    #[arg(long, default_value_t = 10, value_name = "ROWS")]
    limit: u32,
    /// A table for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs all checks and writes what they found to standard output.
///
/// # Errors
/// When the database cannot be asked.
pub async fn run(args: Args, pool: &PgPool) -> anyhow::Result<ExitCode> {
    let findings = verify::all(pool, args.limit.into()).await?;
    let text = match args.output {
        Output::Table => table(&findings),
        Output::Json => {
            let sound = findings.iter().all(Findings::is_sound);
            serde_json::to_string_pretty(&json!({"sound": sound, "checks": findings}))? + "\n"
        }
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write the result")?;
    Ok(exit_code(&findings))
}

fn exit_code(findings: &[Findings]) -> ExitCode {
    if findings.iter().any(|one| one.found > 0) {
        ExitCode::from(FOUND)
    } else if findings.iter().any(|one| one.unchecked.is_some()) {
        ExitCode::from(COULD_NOT_TELL)
    } else {
        ExitCode::SUCCESS
    }
}

/// A line per check, below it the rows that show what is wrong.
fn table(findings: &[Findings]) -> String {
    let names = findings.iter().map(|one| one.check.as_str().len());
    let width = names.max().unwrap_or_default();
    let mut text = String::new();
    for one in findings {
        let state = match (&one.unchecked, one.found) {
            (Some(_), _) => "not checked".to_owned(),
            (None, 0) => "holds".to_owned(),
            (None, found) => format!("{found} wrong"),
        };
        text += &format!("{:width$}  {state:11}  {}\n", one.check.as_str(), one.holds);
        for row in &one.rows {
            text += &format!("    {}\n", line(row));
        }
        if i64::try_from(one.rows.len()).is_ok_and(|shown| shown < one.found) {
            text += "    ...\n";
        }
        if let Some(why) = &one.unchecked {
            text += &format!("    {why}\n");
        }
    }
    let wrong = findings.iter().filter(|one| !one.is_sound()).count();
    match wrong {
        0 => text += "sound\n",
        wrong => text += &format!("{wrong} of {} checks do not hold\n", findings.len()),
    }
    text
}

/// A row as `name=value`; what is not known is left out.
fn line(row: &Value) -> String {
    let cells = row.as_object().into_iter().flatten();
    let cells = cells.filter(|(_, value)| !value.is_null());
    let cell = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        value => format!("{name}={value}"),
    };
    cells.map(cell).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::verify::Check;

    fn findings(found: i64, unchecked: Option<&str>) -> Findings {
        let row = json!({"topic": "t", "partition": 1, "checkpoint_id": null});
        Findings {
            check: Check::Messages,
            holds: Check::Messages.holds(),
            found,
            rows: vec![row; usize::from(found > 0)],
            unchecked: unchecked.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_wrong_stands_below_its_check() {
        let text = table(&[findings(0, None), findings(2, None)]);
        assert!(text.contains("messages  holds"), "{text}");
        assert!(text.contains("messages  2 wrong"), "{text}");
        assert!(
            text.contains("\n    partition=1 topic=t\n    ...\n1 of 2 checks do not hold\n"),
            "{text}"
        );
        assert!(table(&[findings(0, None)]).ends_with("\nsound\n"));
    }

    #[test]
    fn the_exit_code_tells_sound_from_wrong_and_from_unknown() {
        let late = || findings(0, Some("took too long"));
        let code = |all: &[Findings]| format!("{:?}", exit_code(all));
        assert_eq!(
            code(&[findings(0, None)]),
            format!("{:?}", ExitCode::SUCCESS)
        );
        assert_eq!(
            code(&[late(), findings(1, None)]),
            format!("{:?}", ExitCode::from(1))
        );
        assert_eq!(code(&[late()]), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn every_check_is_run_and_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> =
            Check::ALL.iter().map(|check| check.as_str()).collect();
        assert_eq!(names.len(), Check::ALL.len());
        for check in Check::ALL {
            let name = serde_json::to_value(check).unwrap();
            assert_eq!(name, check.as_str());
        }
    }
}
