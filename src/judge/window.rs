//! One window, from its claim to its verdict: read its deltas, merge them, compare, decide.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::save::{save, tell, window_row};
use super::{Baselines, Error, Line};
use crate::clock::Clock;
use crate::decide::episode::Change;
use crate::decide::line::{self, Step};
use crate::decide::rule::Answers;
use crate::decide::silence::{self, Seen};
use crate::decide::verdict::{Coverage, Judge, Judged, Training, Verdict};
use crate::decide::volume;
use crate::failpoint::{Failpoint, reached};
use crate::profile::{Layout, Profile, encoding};
use crate::store;
use crate::store::ripe::Claimed;
use crate::store::windows::{self, DeltaRow};
use crate::telemetry::metrics;
use crate::window::Spec;

/// Stored profiles are read and merged so many bytes at a time, whatever there is of them.
const CHUNK_BYTES: i64 = 4 << 20;

/// Judges a claimed window, in the transaction that claimed it. Answers where the line goes on.
pub(super) async fn judge_claimed(
    pool: &PgPool,
    mut transaction: Transaction<'static, Postgres>,
    line: &Line,
    baselines: &Baselines,
    claimed: &Claimed,
    clock: &Clock,
    patience: Duration,
) -> Result<DateTime<Utc>, Error> {
    reached(Failpoint::WindowClaimed);
    let deltas = windows::deltas(&mut transaction, claimed);
    let deltas = store::within(patience, "read the deltas of a window", deltas).await?;
    reached(Failpoint::WindowGathered);
    let mut state: line::State =
        serde_json::from_value(claimed.state.clone()).map_err(Error::State)?;
    let work = Work {
        pool,
        line,
        claimed,
        deltas: &deltas,
        patience,
    };
    let outcome = match line.baseline_for(claimed, &deltas) {
        Some(id) => {
            let version = &claimed.version;
            let judge = baselines.judge(&mut transaction, line, version, &id, patience);
            let judge = judge.await?;
            work.judge(&mut transaction, &judge, &mut state).await?
        }
        None => work.without_baseline(&mut state),
    };
    reached(Failpoint::WindowCompared);

    let window = window_row(line, claimed, &deltas, &outcome);
    let save = save(transaction, line, claimed, &window, &outcome, state, clock);
    let next = store::within(patience, "save a judged window", save).await?;

    metrics::windows_judged(&line.monitor.name, window.verdict, 1);
    tell(line, claimed, &window, &outcome.judged);
    Ok(next)
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

/// A claimed window and what it takes to judge it.
struct Work<'a> {
    pool: &'a PgPool,
    line: &'a Line,
    claimed: &'a Claimed,
    deltas: &'a [DeltaRow],
    patience: Duration,
}

impl Work<'_> {
    /// Merges, compares and decides; what computes does so off the async threads.
    async fn judge(
        &self,
        connection: &mut PgConnection,
        judge: &Arc<Judge>,
        state: &mut line::State,
    ) -> Result<Outcome, Error> {
        let past = self.past_answers(connection, judge);
        let what = "read what earlier windows answered";
        let past = store::within(self.patience, what, past).await?;
        let mut merged = self.merged(connection, judge).await?;
        let (judge, mut next) = (Arc::clone(judge), state.clone());
        let (seen, coverage) = (self.seen(Some(&judge)), self.coverage());
        let (by_clock, spec) = (self.claimed.by_clock, self.line.input.window);
        let policy = self.line.input.judging.alert;
        let comparing = tokio::task::spawn_blocking(move || {
            let past = consecutive(&past, &judge, seen.start_ms, &spec)?;
            let mut drift = next.drift.clone();
            let mut judged = judge.judge(&mut merged, past, seen.start_ms, coverage, &mut drift);
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
                profile: Some(encoding::encode(&mut merged, false)?),
                rows_reference: i64::try_from(judge.reference.profile.rows).unwrap_or(i64::MAX),
            };
            Ok((outcome, next))
        });
        let compared = store::meanwhile(self.pool, connection, comparing).await??;
        let (outcome, next) = compared.map_err(Error::Encoding)?;
        *state = next;
        Ok(outcome)
    }

    /// The window's profile. Its deltas are read, decoded and merged one chunk after the other, so that
    /// memory does not grow with their number.
    async fn merged(
        &self,
        connection: &mut PgConnection,
        judge: &Arc<Judge>,
    ) -> Result<Profile, Error> {
        let sample_rows = self.line.input.sample_rows;
        let mut merged = Profile::empty(&judge.reference.layout, sample_rows);
        let profiled = self.deltas.iter().filter(|delta| delta.bytes.is_some());
        let profiled: Vec<DeltaRow> = profiled.cloned().collect();
        for chunk in chunks(&profiled) {
            let reading = windows::profiles(connection, self.claimed, chunk);
            let what = "read the profiles of a window";
            let profiles = store::within(self.patience, what, reading).await?;
            let judge = Arc::clone(judge);
            let merging = tokio::task::spawn_blocking(move || {
                merge(&mut merged, &profiles, &judge.reference.layout)?;
                Ok(merged)
            });
            let done = store::meanwhile(self.pool, connection, merging).await??;
            merged = done.map_err(Error::Encoding)?;
        }
        Ok(merged)
    }

    /// What the windows before this one answered: as many as its judge looks back at.
    async fn past_answers(
        &self,
        connection: &mut PgConnection,
        judge: &Judge,
    ) -> store::Result<Vec<Vec<u8>>> {
        let back = i64::try_from(judge.memory()).unwrap_or(0);
        if back == 0 {
            return Ok(Vec::new());
        }
        let start_ms = self.claimed.window_start.timestamp_millis();
        let from = self.line.input.window.after(start_ms, -back);
        let from = DateTime::from_timestamp_millis(from).unwrap_or_default();
        windows::answers_before(connection, self.claimed, &judge.baseline_id, from).await
    }

    /// Of a window whose version has no baseline, or had none when some of its rows were read.
    fn without_baseline(&self, state: &mut line::State) -> Outcome {
        let policy = self.line.input.judging.alert;
        let (verdict, step) = match self.claimed.incomplete {
            true => (Verdict::Incomplete, Step::NONE),
            false => (
                Verdict::NoBaseline,
                state.step(self.seen(None), None, policy),
            ),
        };
        Outcome {
            judged: Judged::unsaid(verdict),
            step,
            profile: None,
            answers: None,
            rows_reference: 0,
        }
    }

    fn seen(&self, judge: Option<&Judge>) -> Seen {
        let start_ms = self.claimed.window_start.timestamp_millis();
        let rows = self.deltas.iter().map(|delta| delta.rows).sum::<i64>();
        Seen {
            start_ms,
            end_ms: self.line.input.window.end(start_ms),
            rows: rows.unsigned_abs(),
            expects_rows: silence::expects_rows(judge, start_ms),
        }
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            incomplete: self.claimed.incomplete,
            shared: self.claimed.shared,
        }
    }
}

/// Deltas in their order, as many at a time as a chunk may hold: at least one.
fn chunks(mut deltas: &[DeltaRow]) -> impl Iterator<Item = &[DeltaRow]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |delta: &&DeltaRow| {
            bytes += i64::from(delta.bytes.unwrap_or(0));
            bytes <= CHUNK_BYTES
        };
        let count = deltas.iter().take_while(fits).count().max(1);
        let (chunk, rest) = deltas.split_at_checked(count)?;
        deltas = rest;
        Some(chunk)
    })
}

/// Adds stored profiles, one by one.
fn merge(
    merged: &mut Profile,
    profiles: &[Vec<u8>],
    layout: &Layout,
) -> Result<(), encoding::Error> {
    for profile in profiles {
        merged.merge(&encoding::decode(profile, layout)?);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Builder, Cell, Selection, Shape};
    use crate::monitor::Kind;
    use crate::profile::sample::{self, Provenance, RowHash};
    use crate::profile::{Bins, FeatureLayout, Grid};

    const ROWS: usize = 1000;

    fn delta(bytes: i32) -> DeltaRow {
        DeltaRow {
            checkpoint_id: bytes.into(),
            partition: 0,
            generation: 1,
            first_offset: 0,
            next_offset: 1,
            baseline_id: None,
            rows: 1,
            late: 0,
            bytes: Some(bytes),
        }
    }

    #[test]
    fn a_chunk_is_bounded_and_never_empty() {
        let all = [1 << 20, 3 << 20, 1, 9 << 20, 9 << 20, 2].map(delta);
        let cut: Vec<usize> = chunks(&all).map(<[DeltaRow]>::len).collect();
        assert_eq!(cut, [2, 1, 1, 1, 1]);
        assert_eq!(chunks(&[]).count(), 0);
    }

    fn layout() -> Layout {
        let grid = Grid::from_sorted(&[0.0, 1.0, 2.0], 0.0, 2.0);
        Layout {
            features: vec![FeatureLayout {
                name: "x".into(),
                kind: Kind::Numeric,
                plain_numbers: false,
                dimension: 0,
                bins: Bins::Grid(grid),
            }],
        }
    }

    /// So many rows from an offset on, with a sample of at most `k`.
    fn profile(layout: &Layout, offset: i64, k: usize) -> Profile {
        let mut builder = Builder::new(&[Shape::Number], ROWS);
        for row in 0..ROWS {
            builder.reserve(row);
            builder.number(0, row, row as f64, Cell::Ok);
            builder.keep(offset + i64::try_from(row).unwrap(), 1);
        }
        let (batch, mut profile) = (builder.finish(), Profile::empty(layout, k));
        let rows = Selection::Run(0, ROWS);
        profile.add(layout, &batch, &[0], rows);
        let from = Provenance {
            partition: 0,
            hash: RowHash::new(1, 0),
            event_ms: &vec![0; ROWS],
        };
        let schema = Arc::new(sample::schema(layout));
        profile.sample.add(&schema, &batch, &[0], rows, from);
        profile
    }

    #[test]
    fn a_merged_profile_holds_no_more_for_more_deltas_and_is_the_same() {
        let (layout, k) = (layout(), 2000);
        let (mut merged, mut at_once) = (Profile::empty(&layout, k), Profile::empty(&layout, k));
        for stretch in 0..50 {
            let mut delta = profile(&layout, stretch * 1000, k);
            at_once.merge(&delta);
            let stored = encoding::encode(&mut delta, true).unwrap();
            merge(&mut merged, &[stored], &layout).unwrap();
            assert!(merged.sample.rows() <= 2 * k);
            assert!(at_once.sample.rows() <= 2 * k);
        }
        let stored = |mut profile: Profile| encoding::encode(&mut profile, true).unwrap();
        assert_eq!(stored(merged), stored(at_once));
    }
}
