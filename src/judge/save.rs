//! What follows from a judged window, saved in the transaction that claimed it: its row and scores,
//! its alert, a retraining job, and where its line goes on.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, Postgres, Transaction};

use super::window::Outcome;
use super::{Error, Line};
use crate::alert::{self, Alert};
use crate::baseline::extend;
use crate::clock::Clock;
use crate::compare::Test;
use crate::decide::line::{self, Kind};
use crate::decide::rule::MIN_WINDOWS;
use crate::decide::verdict::{self, Judged, Scored, Verdict};
use crate::failpoint::{Failpoint, reached};
use crate::monitor::retraining::Severity;
use crate::retrain::trigger::{Drift, Trigger};
use crate::store;
use crate::store::failures::{self, Kind as FailureKind};
use crate::store::ripe::{Claimed, LONGEST_SILENCE};
use crate::store::windows::{self, DeltaRow, Next, ScoreRow, Window};
use crate::telemetry::metrics;

/// This share of drifted features makes an alert critical.
const CRITICAL_SHARE: f64 = 0.5;

/// Saves all that follows from a window, and moves its line on. Answers to which window.
pub(super) async fn save(
    mut transaction: Transaction<'static, Postgres>,
    line: &Line,
    claimed: &Claimed,
    window: &Window,
    outcome: &Outcome,
    mut state: line::State,
    clock: &Clock,
) -> Result<DateTime<Utc>, Error> {
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
    if claimed.attempts > 0 {
        let (monitor, version) = (&line.monitor.name, &claimed.version);
        failures::clear(&mut *connection, FailureKind::Windows, monitor, version).await?;
    }
    reached(Failpoint::BeforeWindowCommit);
    let committed = transaction.commit().await;
    committed.map_err(store::Error::doing("save a judged window"))?;
    reached(Failpoint::WindowCommitted);
    Ok(next.start)
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
        state: serde_json::to_value(state).map_err(Error::State)?,
    })
}

pub(super) fn window_row(
    line: &Line,
    claimed: &Claimed,
    deltas: &[DeltaRow],
    outcome: &Outcome,
) -> Window {
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

pub(super) fn tell(line: &Line, claimed: &Claimed, window: &Window, judged: &Judged) {
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
    if claimed.attempts > 0 {
        tracing::info!(
            monitor = %monitor, model.version = %version, window.start = %window.window_start,
            attempts = claimed.attempts, "the window that failed before is judged"
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
