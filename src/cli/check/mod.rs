//! `driftd check`: one file against another, or against a stored baseline, without a daemon.
//!
//! It imports the reference as a baseline, profiles the current data as a window of it, and judges
//! that window by the same code as the daemon; the tests decide.

mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono_tz::Tz;
use serde::Serialize;

use super::{Output, Usage};
use crate::baseline::Baseline;
use crate::baseline::current::{self, Differences};
use crate::baseline::import::{self, Request};
use crate::baseline::kinds::Overrides;
use crate::baseline::read::Files;
use crate::compare::window::Reference;
use crate::compare::{Scope, Test};
use crate::decide::verdict::{self, Coverage, Judge, Judged, State, Training};
use crate::monitor::{Judging, Kind, Limit, TimeUnit};
use crate::profile::{Layout, Profile};
use crate::settings::Defaults;

/// Nothing speaks for drift.
const STABLE: u8 = 0;
/// The current data have drifted.
const DRIFTED: u8 = 1;
/// Too little to tell, or something stood in the way.
pub const COULD_NOT_TELL: u8 = 2;

/// Tests are exact up to so many rows a side; beyond, on the fine grid, with a bound on the error.
const EXACT_ROWS: usize = 1_000_000;

/// Files have no time: they are one window each.
const NO_TIME: i64 = 0;
const ONE_DAY_MS: i64 = 86_400_000;

const AFTER_HELP: &str =
    "Files are Parquet (.parquet), CSV (.csv), NDJSON (.ndjson, .jsonl, .json) \
or Arrow IPC (.arrow, .feather, .ipc).
The limits are those of [defaults.tests] in the settings.

Exit codes:
  0  stable
  1  drifted
  2  could not tell: too few rows, a file that cannot be read, columns that do not fit, a wrong
     command line";

/// Compare a file with another one, or with a stored baseline.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// The data to compare with: training data, or the last batch that was good.
    #[arg(long, num_args = 1.., value_name = "FILE", required_unless_present = "baseline")]
    reference: Vec<PathBuf>,
    /// The data to look at; NDJSON on standard input if not said.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    current: Vec<PathBuf>,
    /// A stored baseline instead of a reference file: its id or the start of it. Needs Postgres.
    #[arg(long, value_name = "ID", conflicts_with = "reference")]
    pub baseline: Option<String>,
    /// Tests, by name; `all` computes all of them, and those of the settings decide.
    #[arg(long, value_delimiter = ',', value_name = "TESTS")]
    tests: Vec<String>,
    /// Columns to compare; all if not said.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    features: Vec<String>,
    /// Columns to leave out.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    exclude: Vec<String>,
    /// Columns that are numbers, whatever they look like.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    numeric: Vec<String>,
    /// Columns that are labels, such as integer codes.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    categorical: Vec<String>,
    /// False alarms that you accept, in comparisons without drift: 1/20 is one in twenty.
    #[arg(long, value_name = "N/COMPARISONS", default_value = "1/20", value_parser = false_alarms)]
    false_alarms: f64,
    /// A table for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What is said of the current data.
#[derive(Debug)]
struct Checked {
    judge: Judge,
    judged: Judged,
    current: Profile,
    differences: Differences,
    verdict: Verdict,
}

/// What is said of the current data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Nothing speaks for drift.
    Stable,
    /// They have drifted.
    Drifted,
    /// Too few rows on a side.
    TooFewRows,
    /// No test that decides has an answer.
    CouldNotTell,
}

impl Verdict {
    /// Significant drift is drift however few the rows. `Stable` is said only where enough rows on both
    /// sides and at least one answer stand behind it, and so is drift that no p-value stands behind.
    fn of(judged: &Judged, rows: u64, least_rows: u64) -> Self {
        let decides = || judged.scores.iter().filter(|score| score.decides);
        let answered = decides().any(|score| score.answer.is_ok());
        let significant = decides().any(|score| score.drifted && score.p_adjusted.is_some());
        match judged.verdict {
            verdict::Verdict::Drifted if significant || rows >= least_rows => Self::Drifted,
            _ if rows < least_rows => Self::TooFewRows,
            _ if !answered => Self::CouldNotTell,
            _ => Self::Stable,
        }
    }

    fn exit_code(self) -> u8 {
        match self {
            Self::Stable => STABLE,
            Self::Drifted => DRIFTED,
            Self::TooFewRows | Self::CouldNotTell => COULD_NOT_TELL,
        }
    }
}

/// Compares, and writes what came of it to standard output.
///
/// # Errors
/// A file, a column or a test's name stands in the way; the text says which and what would be
/// right.
pub async fn run(
    args: Args,
    defaults: Defaults,
    stored: Option<Baseline>,
) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let checked = tokio::task::spawn_blocking(move || check(args, defaults, stored)).await??;
    let text = match output {
        Output::Json => format!("{:#}\n", report::json(&checked)),
        Output::Table => report::table(&checked),
    };
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough; the exit code still tells.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(error).context("cannot write the result");
        }
        _ => {}
    }
    Ok(ExitCode::from(checked.verdict.exit_code()))
}

fn check(args: Args, defaults: Defaults, stored: Option<Baseline>) -> anyhow::Result<Checked> {
    let judging = judging(&args, defaults.judging)?;
    let least_rows = judging.min_rows;
    let most_label = defaults.max_label_bytes;
    let side = match stored {
        Some(stored) => chosen(&args, stored)?,
        None => imported(&args, defaults.max_levels, most_label)?,
    };
    let spooled; // lives as long as the files that are read from it
    let paths = if args.current.is_empty() || args.current == [PathBuf::from("-")] {
        spooled = spool()?;
        vec![spooled.path().to_owned()]
    } else {
        args.current
    };
    let files = Files::open(paths)?;
    let (layout, columns) = (&side.layout, &side.columns);
    let current = current::profile(&files, layout, columns, &side.named, EXACT_ROWS, most_label)?;
    let (mut window, differences) = (current.profile, current.differences);
    let (tests, no_windows) = (judging.tests(), Vec::new());
    let reference = Reference::new(side.layout, &side.all, &side.profile, tests, no_windows);
    // Few rows are no reason not to compute; whether they suffice is said at the end.
    let judge = Judge {
        baseline_id: String::new(),
        reference,
        training: Training::TooFew {
            windows: 1,
            asking: None,
        },
        judging: Judging {
            min_rows: 0,
            ..judging
        },
        every_ms: ONE_DAY_MS,
        alpha: args.false_alarms,
    };
    let judged = judge.judge(
        &mut window,
        Vec::new(),
        NO_TIME,
        Coverage::default(),
        &mut State::default(),
    );
    let rows = window.rows.min(judge.reference.profile.rows);
    let verdict = Verdict::of(&judged, rows, least_rows);
    Ok(Checked {
        judge,
        judged,
        current: window,
        differences,
        verdict,
    })
}

fn judging(args: &Args, defaults: Judging) -> anyhow::Result<Judging> {
    let tests = match args.tests.as_slice() {
        [] => defaults.tests,
        [all] if all == "all" => all_tests(&defaults.tests),
        names => names
            .iter()
            .map(|name| named_test(name, &defaults.tests))
            .collect::<anyhow::Result<_>>()?,
    };
    // Two files have no windows whose rows could be counted against each other.
    let tests: Vec<Limit> = tests
        .into_iter()
        .filter(|limit| limit.test.scope() != Scope::Window)
        .collect();
    let twice = |(at, limit): (usize, &Limit)| tests[..at].iter().any(|l| l.test == limit.test);
    if tests.iter().enumerate().any(twice) {
        bail!(Usage("--tests: list each test once".into()));
    }
    Ok(Judging { tests, ..defaults })
}

/// `1/20`, as a rate.
fn false_alarms(text: &str) -> Result<f64, String> {
    let rate = text.split_once('/').and_then(|(alarms, comparisons)| {
        let (alarms, of): (f64, f64) = (
            alarms.trim().parse().ok()?,
            comparisons.trim().parse().ok()?,
        );
        Some(alarms / of)
    });
    rate.filter(|rate| *rate > 0.0 && *rate <= 0.5)
        .ok_or_else(|| "expected alarms/comparisons such as 1/20, at most 1/2".into())
}

/// A test that the user names decides, at the limit of the settings.
fn named_test(name: &str, chosen: &[Limit]) -> anyhow::Result<Limit> {
    let test: Test = name
        .parse()
        .map_err(|e| Usage(format!("--tests: {e}, or all alone")))?;
    if matches!(test.scope(), Scope::History | Scope::Window) {
        bail!(Usage(format!(
            "--tests: {test} needs the windows of the daemon"
        )));
    }
    let known = chosen.iter().find(|limit| limit.test == test);
    let limit = known.copied().unwrap_or(Limit::usual(test));
    Ok(Limit {
        decides: true,
        ..limit
    })
}

/// Every test there is; those of the settings as they are, the others inform.
fn all_tests(chosen: &[Limit]) -> Vec<Limit> {
    let limit = |test: &Test| {
        let known = chosen.iter().find(|limit| limit.test == *test).copied();
        known.unwrap_or(Limit {
            decides: false,
            ..Limit::usual(*test)
        })
    };
    let tests = Test::ALL.iter();
    let tests = tests.filter(|test| test.scope() != Scope::History);
    tests.map(limit).collect()
}

/// What the current data are compared with.
struct Side {
    /// All features there are, and their profile.
    all: Layout,
    profile: Profile,
    /// The features that are compared.
    layout: Layout,
    /// All columns, features or not.
    columns: Vec<String>,
    /// Kinds that the user names.
    named: Overrides,
}

fn imported(args: &Args, max_levels: usize, max_label_bytes: usize) -> anyhow::Result<Side> {
    let named = kinds(args)?;
    let request = Request {
        model: String::new(),
        version: String::new(),
        files: args.reference.clone(),
        time_column: None,
        time_unit: TimeUnit::Ms,
        window_ms: None,
        time_zone: Tz::UTC,
        features: args.features.clone(),
        exclude: args.exclude.clone(),
        kinds: named.clone(),
        max_levels,
        max_label_bytes,
        sample_rows: EXACT_ROWS,
    };
    let made = import::profile(&request, |_| {})?;
    Ok(Side {
        all: made.layout.clone(),
        profile: made.profile,
        layout: made.layout,
        columns: made.columns,
        named,
    })
}

/// The kinds that the user names.
fn kinds(args: &Args) -> anyhow::Result<Overrides> {
    let mut kinds = Overrides::new();
    let numeric = args.numeric.iter().map(|name| (name, Kind::Numeric));
    let categorical = args
        .categorical
        .iter()
        .map(|name| (name, Kind::Categorical));
    for (name, kind) in numeric.chain(categorical) {
        if kinds.insert(name.clone(), kind).is_some() {
            bail!(Usage(format!(
                "--numeric and --categorical: column {name} is named twice"
            )));
        }
    }
    Ok(kinds)
}

/// The features of a stored baseline that are asked for.
fn chosen(args: &Args, baseline: Baseline) -> anyhow::Result<Side> {
    if !args.numeric.is_empty() || !args.categorical.is_empty() {
        bail!(Usage(
            "--numeric and --categorical: a stored baseline knows what its features are".into()
        ));
    }
    let features = &baseline.layout.features;
    let columns: Vec<String> = features.iter().map(|f| f.name.clone()).collect();
    let mut named = args.features.iter().chain(&args.exclude);
    if let Some(name) = named.find(|name| !columns.contains(name)) {
        let known = columns.join(", ");
        bail!(Usage(format!(
            "feature {name} is not in the baseline; it has {known}"
        )));
    }
    let wanted = |name: &String| {
        (args.features.is_empty() || args.features.contains(name)) && !args.exclude.contains(name)
    };
    let layout = Layout {
        features: features
            .iter()
            .filter(|f| wanted(&f.name))
            .cloned()
            .collect(),
    };
    Ok(Side {
        all: (*baseline.layout).clone(),
        profile: baseline.profile,
        layout,
        columns,
        named: Overrides::new(),
    })
}

/// Standard input as a file, since it is read more than once.
fn spool() -> anyhow::Result<tempfile::NamedTempFile> {
    use std::io::IsTerminal as _;
    if std::io::stdin().is_terminal() {
        bail!(Usage(
            "--current FILE is needed, or NDJSON on standard input".into()
        ));
    }
    let mut file = tempfile::Builder::new()
        .prefix("standard-input-")
        .suffix(".ndjson")
        .tempfile()
        .context("cannot make a temporary file for standard input")?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file).context("cannot read standard input")?;
    Ok(file)
}
