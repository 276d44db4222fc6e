//! The judge half, top to bottom: claim, merge, compare, decide, save.
//!
//! Any replica judges any window. Claiming locks the window's line, so that windows of one monitor
//! and version are judged in order and one at a time; everything that follows from a window, its
//! scores, verdict, episode, job and messages, is saved in the transaction that claimed it. A
//! replica that dies in between leaves nothing behind, and the next one starts from the same rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::alert::{self, Alert};
use crate::api::Readiness;
use crate::baseline::extend;
use crate::clock::Clock;
use crate::compare::Test;
use crate::decide::episode::Change;
use crate::decide::line::{self, Kind, Step};
use crate::decide::rule::{Answers, MIN_WINDOWS};
use crate::decide::silence::{self, Seen};
use crate::decide::verdict::{self, Coverage, Judge, Judged, Scored, Training, Verdict};
use crate::decide::volume;
use crate::failpoint::{Failpoint, reached};
use crate::monitor::retraining::Severity;
use crate::monitor::{AlertPolicy, Input, Monitor};
use crate::profile::{Profile, encoding};
use crate::retrain::trigger::{Drift, Trigger};
use crate::store::ripe::{self, Claimed, LONGEST_SILENCE, Ripeness};
use crate::store::windows::{self, DeltaRow, Next, ScoreRow, Window};
use crate::store::{self, time_partitions};
use crate::telemetry::metrics;
use crate::window::Spec;

/// How long to wait when nothing is ripe.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest wait while Postgres cannot be reached.
const PATIENCE: Duration = Duration::from_secs(10);
/// Windows, of different lines, that one replica judges side by side.
const AT_ONCE: usize = 4;
/// This share of drifted features makes an alert critical.
const CRITICAL_SHARE: f64 = 0.5;

/// Why judging ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A stored profile.
    #[error("window of {window_start} of monitor {monitor}: {source}")]
    Encoding {
        /// The monitor.
        monitor: String,
        /// The window.
        window_start: DateTime<Utc>,
        /// What is wrong with it.
        source: encoding::Error,
    },
    /// A state that this driftd did not write.
    #[error("the state of monitor {0} cannot be read: {1}")]
    State(String, serde_json::Error),
    /// The computation panicked.
    #[error("comparing: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A monitor as the judge sees it.
#[derive(Debug)]
pub struct Line {
    /// Key of its revision.
    pub monitor_id: i64,
    /// The monitor.
    pub monitor: Monitor,
    /// What it reads; the same as in the monitor.
    pub input: Input,
    /// A judge per baseline.
    pub judges: HashMap<String, Arc<Judge>>,
}

/// Judges windows as they become ripe, until told to stop; windows in hand are finished first.
///
/// One loop claims, so that an idle replica asks once a pause; what it has claimed is judged beside
/// it. A line that is in hand is locked, so what is judged side by side are different lines.
///
/// # Errors
/// The database refuses for good, or something stored cannot be read.
pub async fn run(
    pool: PgPool,
    lines: Vec<Line>,
    clock: Arc<Clock>,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), Error> {
    let ripeness: Vec<Ripeness> = lines.iter().map(Line::ripeness).collect();
    let lines: HashMap<i64, Arc<Line>> = lines
        .into_iter()
        .map(|line| (line.monitor_id, Arc::new(line)))
        .collect();
    let mut in_hand: JoinSet<Result<(), Error>> = JoinSet::new();
    let at_once = at_once(&pool);
    let mut months = HashSet::new();
    let mut failures = 0u32;
    while !stop.is_cancelled() {
        let patience = store::patience(&pool, failures);
        let begun = match in_hand.len() < at_once {
            true => {
                begin_next(
                    &pool,
                    &lines,
                    &ripeness,
                    &clock,
                    patience,
                    &mut months,
                    &mut in_hand,
                )
                .await
            }
            false => Ok(false),
        };
        if begun.is_ok() {
            readiness.ready("postgres");
        }
        let went_on = match begun {
            Ok(false) => wait(&mut in_hand, &stop).await,
            other => other,
        };
        match went_on {
            Ok(true) => failures = 0,
            Ok(false) => {}
            Err(error) => {
                failures += 1;
                let pause = PATIENCE.min(PAUSE * 2u32.saturating_pow(failures.min(6)));
                let why = put_up_with(&pool, error, pause).await?;
                readiness.not_ready("postgres", why);
                let _ = tokio::time::timeout(pause, stop.cancelled()).await;
            }
        }
    }
    while let Some(ended) = in_hand.join_next().await {
        if let Err(error) = ended? {
            put_up_with(&pool, error, Duration::ZERO).await?;
        }
    }
    Ok(())
}

/// Each window in hand holds a connection; most are left to checkpoints.
fn at_once(pool: &PgPool) -> usize {
    let share = pool.options().get_max_connections() / 3;
    (share as usize).clamp(1, AT_ONCE)
}

/// Claims the next ripe window and begins to judge it; false if there is none.
async fn begin_next(
    pool: &PgPool,
    lines: &HashMap<i64, Arc<Line>>,
    ripeness: &[Ripeness],
    clock: &Arc<Clock>,
    patience: Duration,
    months: &mut HashSet<(i32, u32)>,
    in_hand: &mut JoinSet<Result<(), Error>>,
) -> Result<bool, Error> {
    let begun = Instant::now();
    let claim = async {
        let mut transaction = pool
            .begin()
            .await
            .map_err(store::Error::doing("begin judging a window"))?;
        let now = clock.now();
        let claimed = ripe::claim(&mut transaction, ripeness, LONGEST_SILENCE, now).await?;
        Ok::<_, store::Error>(claimed.map(|claimed| (transaction, claimed)))
    };
    let claimed = store::within(patience, "claim a window", claim).await?;
    let Some((transaction, claimed)) = claimed else {
        return Ok(false);
    };
    let Some(line) = lines.get(&claimed.monitor_id) else {
        return Ok(false);
    };
    let start = claimed.window_start;
    if months.insert((start.year(), start.month())) {
        // Not under the locks of a claim: the window is claimed again afterwards.
        drop(transaction);
        make_month(pool, start, patience).await;
        return Ok(true);
    }
    let (pool, line, clock) = (pool.clone(), Arc::clone(line), Arc::clone(clock));
    in_hand.spawn(async move {
        judge_claimed(&pool, transaction, &line, &claimed, &clock, patience).await?;
        metrics::judge_duration_seconds(begun.elapsed().as_secs_f64());
        Ok(())
    });
    Ok(true)
}

/// Windows of a month stand in partitions of their own. Where those cannot be made now, the default
/// partitions take them.
async fn make_month(pool: &PgPool, start: DateTime<Utc>, patience: Duration) {
    let made = time_partitions::make_month(pool, start);
    if let Err(error) = store::within(patience, "make the partitions of a month", made).await {
        tracing::warn!(error = error.chain(), month = %start.format("%Y-%m"), "no partition for a month");
    }
}

/// Waits until a window is judged, or for the next look at what is ripe; whether one is judged.
async fn wait(
    in_hand: &mut JoinSet<Result<(), Error>>,
    stop: &CancellationToken,
) -> Result<bool, Error> {
    tokio::select! {
        Some(ended) = in_hand.join_next() => ended?.map(|()| true),
        () = tokio::time::sleep(PAUSE) => Ok(false),
        () = stop.cancelled() => Ok(false),
    }
}

/// Postgres being away is waited out, and why is told; everything else ends the judge.
async fn put_up_with(pool: &PgPool, error: Error, pause: Duration) -> Result<String, Error> {
    match error {
        Error::Store(error) if error.is_transient() => {
            metrics::postgres_errors("judge a window", 1);
            let error = store::cause(pool, error).await.chain();
            tracing::warn!(error, retry_in = ?pause, "the judge waits for Postgres");
            Ok(error)
        }
        error => Err(error),
    }
}

impl Line {
    fn ripeness(&self) -> Ripeness {
        let spec = &self.input.window;
        let close_ms = spec.allowed_lateness_ms;
        Ripeness {
            monitor_id: self.monitor_id,
            topic: self.input.topic.clone(),
            longest_ms: spec.longest_ms(),
            reach_ms: close_ms + spec.out_of_orderness_ms,
            close_ms,
            due_ms: close_ms + spec.idle_after_ms,
            every_ms: spec.every_ms,
        }
    }
}

/// Judges a claimed window, in the transaction that claimed it.
async fn judge_claimed(
    pool: &PgPool,
    mut transaction: Transaction<'static, Postgres>,
    line: &Line,
    claimed: &Claimed,
    clock: &Clock,
    patience: Duration,
) -> Result<(), Error> {
    reached(Failpoint::WindowClaimed);
    let deltas = windows::deltas(&mut transaction, claimed);
    let deltas = store::within(patience, "read the deltas of a window", deltas).await?;
    reached(Failpoint::WindowGathered);
    let mut state: line::State = serde_json::from_value(claimed.state.clone())
        .map_err(|error| Error::State(line.monitor.name.clone(), error))?;
    let judge = line.judge_for(claimed, &deltas);
    let past = match &judge {
        Some(judge) => {
            let past = past_answers(&mut transaction, line, claimed, judge);
            store::within(patience, "read what earlier windows answered", past).await?
        }
        None => Vec::new(),
    };
    let judging = merge_and_judge(line, claimed, &deltas, judge, past, &mut state);
    let judged = store::meanwhile(pool, &mut transaction, judging).await??;
    reached(Failpoint::WindowCompared);

    let window = window_row(line, claimed, &deltas, &judged);
    let save = save(transaction, line, claimed, &window, &judged, state, clock);
    store::within(patience, "save a judged window", save).await?;

    metrics::windows_judged(&line.monitor.name, window.verdict, 1);
    tell(line, claimed, &window, &judged.judged);
    Ok(())
}

/// Saves all that follows from a window, and moves its line on.
async fn save(
    mut transaction: Transaction<'static, Postgres>,
    line: &Line,
    claimed: &Claimed,
    window: &Window,
    outcome: &Outcome,
    mut state: line::State,
    clock: &Clock,
) -> Result<(), Error> {
    let (connection, judged) = (&mut *transaction, &outcome.judged);
    let (scores, profile) = (score_rows(outcome), outcome.profile.as_deref());
    windows::save(connection, window, &scores, profile).await?;
    alert_drift(connection, line, window, judged, &mut state.drift, clock).await?;
    let volume = volume_detail(window, judged);
    let (monitor, step) = (&line.monitor, outcome.step);
    alert::follow(connection, monitor, window, step, &volume, &mut state).await?;
    if judged.is_training() {
        extend::extend(connection, &monitor.name, window, MIN_WINDOWS).await?;
    }
    windows::count_stepped_over(connection, claimed).await?;
    let next = next_window(line, claimed, window, &state)?;
    windows::advance(connection, claimed, &next).await?;
    reached(Failpoint::BeforeWindowCommit);
    let committed = transaction.commit().await;
    committed.map_err(store::Error::doing("save a judged window"))?;
    reached(Failpoint::WindowCommitted);
    Ok(())
}

/// Where the line goes on.
fn next_window(
    line: &Line,
    claimed: &Claimed,
    window: &Window,
    state: &line::State,
) -> Result<Next, Error> {
    let (spec, policy) = (&line.input.window, line.input.judging.alert);
    let start_ms = claimed.window_start.timestamp_millis();
    let next_ms = spec.after(start_ms, 1);
    let end = DateTime::from_timestamp_millis(spec.end(next_ms));
    let unknown_ms = state.unknown_start_ms(spec, start_ms, policy);
    Ok(Next {
        start: DateTime::from_timestamp_millis(next_ms).unwrap_or(claimed.window_start),
        end: end.unwrap_or(claimed.window_start),
        silence: match window.rows {
            0 => claimed.silence.saturating_add(1),
            _ => 0,
        },
        unknown_start: unknown_ms.and_then(DateTime::from_timestamp_millis),
        state: serde_json::to_value(state)
            .map_err(|error| Error::State(line.monitor.name.clone(), error))?,
    })
}

/// What came of a window, with its stored profile.
struct Outcome {
    judged: Judged,
    /// What it does to the alerts of other kinds than drift.
    step: Step,
    profile: Option<Vec<u8>>,
    answers: Option<Vec<u8>>,
    rows_reference: i64,
}

/// What the windows before this one answered: as many as its judge looks back at.
async fn past_answers(
    connection: &mut PgConnection,
    line: &Line,
    claimed: &Claimed,
    judge: &Judge,
) -> store::Result<Vec<Vec<u8>>> {
    let back = i64::try_from(judge.memory()).unwrap_or(0);
    if back == 0 {
        return Ok(Vec::new());
    }
    let spec = line.input.window;
    let from = spec.after(claimed.window_start.timestamp_millis(), -back);
    let from = DateTime::from_timestamp_millis(from).unwrap_or_default();
    windows::answers_before(connection, claimed, &judge.baseline_id, from).await
}

/// The part that computes, off the async threads. `past` are the stored answers of the windows before.
async fn merge_and_judge(
    line: &Line,
    claimed: &Claimed,
    deltas: &[DeltaRow],
    judge: Option<Arc<Judge>>,
    past: Vec<Vec<u8>>,
    state: &mut line::State,
) -> Result<Outcome, Error> {
    let rows = deltas.iter().map(|delta| delta.rows).sum::<i64>();
    let policy = line.input.judging.alert;
    let start_ms = claimed.window_start.timestamp_millis();
    let seen = Seen {
        start_ms,
        end_ms: line.input.window.end(start_ms),
        rows: rows.unsigned_abs(),
        expects_rows: silence::expects_rows(judge.as_deref(), start_ms),
    };
    let by_clock = claimed.by_clock;
    let coverage = Coverage {
        incomplete: claimed.incomplete,
        shared: claimed.shared,
    };
    let Some(judge) = judge else {
        return Ok(without_baseline(coverage.incomplete, seen, policy, state));
    };
    let bytes: Vec<Vec<u8>> = deltas
        .iter()
        .filter_map(|delta| delta.delta.clone())
        .collect();
    let sample_rows = line.input.sample_rows;
    let spec = line.input.window;
    let mut next = state.clone();
    let work = tokio::task::spawn_blocking(move || {
        let layout = &judge.reference.layout;
        let mut window = Profile::empty(layout, sample_rows);
        for delta in &bytes {
            window.merge(&encoding::decode(delta, layout)?);
        }
        let past = consecutive(&past, &judge, start_ms, &spec)?;
        let mut drift = next.drift.clone();
        let mut judged = judge.judge(&mut window, past, start_ms, coverage, &mut drift);
        // What is known of drift depends on the log alone.
        match by_clock {
            true => (judged.change, judged.answers) = (Change::None, None),
            false => next.drift = drift,
        }
        let volume_drifted = volume::drifted(&judge, seen.rows, coverage, &mut judged);
        let step = match coverage.incomplete {
            true => Step::NONE,
            false => next.step(seen, volume_drifted, policy),
        };
        let outcome = Outcome {
            answers: judged.answers.as_ref().map(Answers::encode).transpose()?,
            judged,
            step,
            profile: Some(encoding::encode(&mut window, false)?),
            rows_reference: i64::try_from(judge.reference.profile.rows).unwrap_or(i64::MAX),
        };
        Ok((outcome, next))
    });
    let (outcome, next) = work.await?.map_err(|source| Error::Encoding {
        monitor: line.monitor.name.clone(),
        window_start: claimed.window_start,
        source,
    })?;
    *state = next;
    Ok(outcome)
}

/// Of a window whose version has no baseline.
fn without_baseline(
    incomplete: bool,
    seen: Seen,
    policy: AlertPolicy,
    state: &mut line::State,
) -> Outcome {
    let (verdict, step) = match incomplete {
        true => (Verdict::Incomplete, Step::NONE),
        false => (Verdict::NoBaseline, state.step(seen, None, policy)),
    };
    Outcome {
        judged: Judged::unsaid(verdict),
        step,
        profile: None,
        answers: None,
        rows_reference: 0,
    }
}

/// Stored answers as consecutive windows up to the one that begins at `start_ms`; those that are missing
/// (a gap touched them) have no rows.
fn consecutive(
    past: &[Vec<u8>],
    judge: &Judge,
    start_ms: i64,
    spec: &Spec,
) -> Result<Vec<Answers>, encoding::Error> {
    let Training::Learned(rule) = &judge.training else {
        return Ok(Vec::new());
    };
    let mut all: Vec<Answers> = Vec::new();
    let fill = |all: &mut Vec<Answers>, to: i64| {
        while let Some(next) = all.last().map(|last| spec.after(last.start_ms, 1))
            && next < to
        {
            all.push(Answers::empty(rule.asking(), next));
        }
    };
    for bytes in past {
        let answers = Answers::decode(bytes)?;
        fill(&mut all, answers.start_ms);
        all.push(answers);
    }
    fill(&mut all, start_ms);
    Ok(all)
}

impl Line {
    /// All rows of a version were profiled by one baseline's bins; a window without rows is judged by the
    /// one that its version has.
    fn judge_for(&self, claimed: &Claimed, deltas: &[DeltaRow]) -> Option<Arc<Judge>> {
        let of_rows = deltas.iter().find_map(|delta| delta.baseline_id.as_ref());
        let judge = of_rows.and_then(|id| self.judges.get(id));
        judge.or_else(|| self.judge_of(&claimed.version)).cloned()
    }

    fn judge_of(&self, version: &str) -> Option<&Arc<Judge>> {
        self.judges.get(&format!("version:{version}"))
    }

    /// The key under which the judge of a version is found.
    pub fn version_key(version: &str) -> String {
        format!("version:{version}")
    }
}

fn window_row(line: &Line, claimed: &Claimed, deltas: &[DeltaRow], outcome: &Outcome) -> Window {
    let judged = &outcome.judged;
    let count = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    let end = line
        .input
        .window
        .end(claimed.window_start.timestamp_millis());
    Window {
        monitor_id: claimed.monitor_id,
        version: claimed.version.clone(),
        window_start: claimed.window_start,
        window_end: DateTime::from_timestamp_millis(end).unwrap_or_default(),
        baseline_id: deltas.iter().find_map(|delta| delta.baseline_id.clone()),
        rows: deltas.iter().map(|delta| delta.rows).sum(),
        late: deltas.iter().map(|delta| delta.late).sum(),
        by_clock: claimed.by_clock,
        verdict: judged.verdict.as_str(),
        decided_by: judged.decided_by.as_str(),
        training_windows: count(judged.training_windows),
        features: count(judged.features),
        drifted_features: count(judged.drifted.len()),
        drifted_share: judged.drifted_share(),
        top_features: judged.top_features(),
        offsets: offsets(deltas),
        answers: outcome.answers.clone(),
    }
}

/// Where in each partition the rows of a window stand, from the first to behind the last; in a log
/// that is not the partition's first one, with its generation.
fn offsets(deltas: &[DeltaRow]) -> Value {
    let mut hulls: Vec<(i32, i64, i64, i64)> = Vec::new();
    for delta in deltas.iter().filter(|delta| delta.rows > 0) {
        let log = (delta.partition, delta.generation);
        match hulls.last_mut() {
            Some((partition, generation, _, next)) if (*partition, *generation) == log => {
                *next = (*next).max(delta.next_offset);
            }
            _ => hulls.push((log.0, log.1, delta.first_offset, delta.next_offset)),
        }
    }
    let hull = |(partition, generation, first, next): &(i32, i64, i64, i64)| {
        let mut hull = json!({"partition": partition, "first_offset": first, "next_offset": next});
        if *generation > 1 {
            hull["generation"] = json!(generation);
        }
        hull
    };
    hulls.iter().map(hull).collect()
}

fn score_rows(outcome: &Outcome) -> Vec<ScoreRow> {
    let row = |scored: &Scored| {
        let (answer, finding) = (scored.answer, scored.finding.as_ref());
        ScoreRow {
            feature: scored.feature.clone(),
            test: scored.test.as_str().to_owned(),
            statistic: answer.ok().map(|outcome| outcome.statistic),
            p_value: answer.ok().and_then(|outcome| outcome.p_value),
            p_adjusted: scored.p_adjusted,
            effect: answer.ok().map(|outcome| outcome.effect),
            p_limit: scored.p_limit,
            threshold: scored.threshold,
            error_bound: answer.ok().and_then(|outcome| outcome.error_bound),
            rows_reference: outcome.rows_reference,
            nulls: i64::try_from(scored.nulls).unwrap_or(i64::MAX),
            unseen: i64::try_from(scored.unseen).unwrap_or(i64::MAX),
            drifted: scored.drifted,
            reason: answer.err().map(|reason| reason.as_str().to_owned()),
            expected: answer.ok().and_then(|outcome| outcome.expected),
            decides: scored.decides,
            contributions: scored.contributions.clone(),
            question: finding.map(|finding| finding.question.as_str().to_owned()),
            stretch_windows: finding.and_then(|f| i32::try_from(f.windows).ok()),
            stretch_start: finding.and_then(|f| DateTime::from_timestamp_millis(f.from_ms)),
            drifted_since: finding
                .and_then(|f| f.since_ms)
                .and_then(DateTime::from_timestamp_millis),
            expected_value: scored.values.map(|(_, expected)| expected),
            found_value: scored.values.map(|(found, _)| found),
            training_effect: finding.map(|finding| finding.training_effect),
            sentence: scored.sentence.clone(),
        }
    };
    outcome.judged.scores.iter().map(row).collect()
}

/// What people are told of the number of rows.
fn volume_detail(window: &Window, judged: &Judged) -> Value {
    let mut scores = judged.scores.iter();
    let score = scores.find(|score| score.test == Test::RowVolume);
    let outcome = score.and_then(|score| score.answer.ok());
    json!({
        "rows": window.rows,
        "times_usual": outcome.map(|outcome| outcome.statistic),
        "effect": outcome.map(|outcome| outcome.effect),
        "limit": score.and_then(|score| score.threshold),
    })
}

/// What the verdict does to the alert about drift, and the alert to the model.
async fn alert_drift(
    connection: &mut PgConnection,
    line: &Line,
    window: &Window,
    judged: &Judged,
    state: &mut verdict::State,
    clock: &Clock,
) -> Result<(), Error> {
    let severity = match judged.drifted_share() >= CRITICAL_SHARE {
        true => Severity::Critical,
        false => Severity::Warning,
    };
    let detail = json!({
        "drifted_share": judged.drifted_share(),
        "drifted": judged.drifted,
        "joint": judged.joint,
        "top_features": window.top_features,
        "sentences": judged.sentences(),
    });
    let alert = Alert {
        kind: Kind::Drift,
        change: judged.change,
        severity,
        opens: (window.window_start.timestamp_millis(), 1),
        top_features: &window.top_features,
        detail: &detail,
    };
    let open = &mut state.episode_id;
    let applied = alert::apply(connection, &line.monitor, window, &alert, open).await?;
    let Some((episode_id, drifted_windows)) = applied else {
        return Ok(());
    };
    if state.episode.is_firing() && window.verdict == Verdict::Drifted.as_str() {
        let drift = Drift {
            share: judged.drifted_share(),
            severity,
            features: &judged.drifted,
            windows: drifted_windows.into(),
        };
        ask_for_retraining(connection, line, window, judged, episode_id, drift, clock).await?;
    }
    Ok(())
}

/// Every drifted window of a firing episode asks; the guards in the database let one job come of
/// it, at once or when a cooldown is over.
async fn ask_for_retraining(
    connection: &mut PgConnection,
    line: &Line,
    window: &Window,
    judged: &Judged,
    episode_id: i64,
    drift: Drift<'_>,
    clock: &Clock,
) -> Result<(), Error> {
    let trigger = Trigger::Episode {
        monitor: &line.monitor,
        episode_id,
        version: &window.version,
        drift,
        reason: json!({
            "window_start": window.window_start,
            "window_end": window.window_end,
            "drifted_share": judged.drifted_share(),
            "drifted": judged.drifted,
            "joint": judged.joint,
            "top_features": window.top_features,
            "sentences": judged.sentences(),
        }),
    };
    let now = clock.now();
    reached(Failpoint::BeforeEnqueue);
    let fired = trigger.fire(connection, now).await?;
    reached(Failpoint::Enqueued);
    if let Some(fired) = fired
        && fired.created_at == now
    {
        let outcome = fired.guard.as_deref().unwrap_or(&fired.outcome);
        metrics::retraining_triggers(&line.monitor.model, outcome, 1);
    }
    Ok(())
}

fn tell(line: &Line, claimed: &Claimed, window: &Window, judged: &Judged) {
    let top: Vec<&str> = judged
        .top
        .iter()
        .take(3)
        .map(|(feature, _)| feature.as_str())
        .collect();
    let (monitor, version) = (&line.monitor.name, &window.version);
    if claimed.next_start < claimed.window_start {
        tracing::warn!(
            monitor = %monitor, model.version = %version, from = %claimed.next_start,
            to = %claimed.window_start,
            "a silence of more than {LONGEST_SILENCE} windows was stepped over"
        );
    }
    tracing::info!(
        monitor = %monitor, model.version = %version, window.start = %window.window_start,
        window.rows = window.rows, window.by_clock, verdict = window.verdict,
        decided_by = window.decided_by,
        drifted_share = judged.drifted_share(), top = ?top, "judged"
    );
    for sentence in judged.sentences() {
        tracing::info!(
            monitor = %monitor, model.version = %version, window.start = %window.window_start,
            "{sentence}"
        );
    }
}
