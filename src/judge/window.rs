//! One window, from its claim to its verdict: read its deltas, merge them, compare, decide.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::save::{save, tell, window_row};
use super::{Error, Line};
use crate::clock::Clock;
use crate::decide::episode::Change;
use crate::decide::line::{self, Step};
use crate::decide::rule::Answers;
use crate::decide::silence::{self, Seen};
use crate::decide::verdict::{Coverage, Judge, Judged, Training, Verdict};
use crate::decide::volume;
use crate::failpoint::{Failpoint, reached};
use crate::monitor::AlertPolicy;
use crate::profile::{Profile, encoding};
use crate::store;
use crate::store::ripe::Claimed;
use crate::store::windows::{self, DeltaRow};
use crate::telemetry::metrics;
use crate::window::Spec;

/// Judges a claimed window, in the transaction that claimed it.
pub(super) async fn judge_claimed(
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
    let mut state: line::State =
        serde_json::from_value(claimed.state.clone()).map_err(Error::State)?;
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

/// What came of a window, with its stored profile.
pub(super) struct Outcome {
    pub(super) judged: Judged,
    /// What it does to the alerts of other kinds than drift.
    pub(super) step: Step,
    pub(super) profile: Option<Vec<u8>>,
    pub(super) answers: Option<Vec<u8>>,
    pub(super) rows_reference: i64,
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
    let (outcome, next) = work.await?.map_err(Error::Encoding)?;
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
