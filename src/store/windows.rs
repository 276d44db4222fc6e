//! `windows`, `drift_scores` and `window_profiles`: what was said of windows, and where their lines go
//! on from there.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::ripe::Claimed;
use super::{Error, Result};
use crate::compare::attribution::Contribution;
use crate::failpoint::{Failpoint, reached};

/// What a stretch adds to a window, without its profile: that is read apart ([`profiles`]).
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaRow {
    /// The checkpoint of the stretch.
    pub checkpoint_id: i64,
    /// Partition.
    pub partition: i32,
    /// Which log under the partition's name.
    pub generation: i64,
    /// The first offset of the stretch.
    pub first_offset: i64,
    /// The offset after it.
    pub next_offset: i64,
    /// What its rows are compared with.
    pub baseline_id: Option<String>,
    /// Rows that count.
    pub rows: i64,
    /// Rows that came too late.
    pub late: i64,
    /// Length of the stored profile; `None`: only late rows came.
    pub bytes: Option<i32>,
}

/// A window with its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// Model version.
    pub version: String,
    /// Window start.
    pub window_start: DateTime<Utc>,
    /// Window end, exclusive.
    pub window_end: DateTime<Utc>,
    /// What it was compared with.
    pub baseline_id: Option<String>,
    /// Rows that count.
    pub rows: i64,
    /// Rows that came too late.
    pub late: i64,
    /// Only the clock said that it is over.
    pub by_clock: bool,
    /// What is said of it.
    pub verdict: &'static str,
    /// What decided: `rule`, `tests` or `none`.
    pub decided_by: &'static str,
    /// Training windows of the baseline.
    pub training_windows: i32,
    /// Features tested.
    pub features: i32,
    /// Features that drifted.
    pub drifted_features: i32,
    /// Their share.
    pub drifted_share: f64,
    /// The features that moved most.
    pub top_features: Value,
    /// Which stretches it was made from.
    pub offsets: Value,
    /// What later windows are taken together with: [`crate::decide::rule::Answers`].
    pub answers: Option<Vec<u8>>,
}

/// A score as it is stored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoreRow {
    /// Feature.
    pub feature: String,
    /// Test.
    pub test: String,
    /// Statistic.
    pub statistic: Option<f64>,
    /// P-value.
    pub p_value: Option<f64>,
    /// Adjusted over the features of the window.
    pub p_adjusted: Option<f64>,
    /// Effect.
    pub effect: Option<f64>,
    /// A p-value speaks for drift at or below this.
    pub p_limit: Option<f64>,
    /// An effect speaks for drift above this.
    pub threshold: Option<f64>,
    /// Bound on the error of the statistic; none: exact.
    pub error_bound: Option<f64>,
    /// Rows of the baseline.
    pub rows_reference: i64,
    /// Rows without a value.
    pub nulls: i64,
    /// Rows with a value that the baseline never held.
    pub unseen: i64,
    /// Whether it speaks for drift.
    pub drifted: bool,
    /// Why there is no number.
    pub reason: Option<String>,
    /// What chance alone gives of the statistic, where that is known.
    pub expected: Option<f64>,
    /// Whether it decides over the window or informs only.
    pub decides: bool,
    /// The bins or levels that contribute most, first the one that does most.
    pub contributions: Vec<Contribution>,
    /// Of the rule: what it asked.
    pub question: Option<String>,
    /// Of the rule: windows of the stretch that it judged.
    pub stretch_windows: Option<i32>,
    /// Of the rule: start of that stretch.
    pub stretch_start: Option<DateTime<Utc>>,
    /// Of the rule: since when the feature is drifted.
    pub drifted_since: Option<DateTime<Utc>>,
    /// Of the rule: what was expected of the stretch, in the question's own units.
    pub expected_value: Option<f64>,
    /// Of the rule: what was found.
    pub found_value: Option<f64>,
    /// Of the rule: the largest effect of the training data's own stretches of that length.
    pub training_effect: Option<f64>,
    /// Why the feature is drifted, for people.
    pub sentence: Option<String>,
}

/// What a window adds up to, in log order: partition, generation, offset.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn deltas(connection: &mut PgConnection, claimed: &Claimed) -> Result<Vec<DeltaRow>> {
    let mut reading = begin_reading(connection).await?;
    let deltas = sqlx::query_as!(
        DeltaRow,
        r#"-- the deltas of a window
        select checkpoint_id, partition, generation, first_offset, next_offset, baseline_id, rows,
            late, octet_length(delta) as bytes
        from driftd.profile_deltas
        where monitor_id = $1 and version = $2 and segment = 'all' and window_start = $3
        order by partition, generation, first_offset"#,
        claimed.monitor_id,
        claimed.version,
        claimed.window_start,
    )
    .fetch_all(&mut *reading)
    .await
    .map_err(Error::doing("read the deltas of a window"))?;
    end_reading(reading).await?;
    Ok(deltas)
}

/// The stored profiles of some of them, in log order.
///
/// # Errors
/// When Postgres cannot be asked, or does not have all of them.
pub async fn profiles(
    connection: &mut PgConnection,
    claimed: &Claimed,
    deltas: &[DeltaRow],
) -> Result<Vec<Vec<u8>>> {
    let checkpoints: Vec<i64> = deltas.iter().map(|delta| delta.checkpoint_id).collect();
    let mut reading = begin_reading(connection).await?;
    let profiles = sqlx::query_scalar!(
        r#"-- the profiles of a window
        select delta as "delta!" from driftd.profile_deltas
        where monitor_id = $1 and version = $2 and segment = 'all' and window_start = $3
            and checkpoint_id = any ($4) and delta is not null
        order by partition, generation, first_offset"#,
        claimed.monitor_id,
        claimed.version,
        claimed.window_start,
        &checkpoints,
    )
    .fetch_all(&mut *reading)
    .await
    .map_err(Error::doing("read the profiles of a window"))?;
    end_reading(reading).await?;
    match profiles.len() == deltas.len() {
        true => Ok(profiles),
        false => Err(Error::doing("find the profiles of a window")(
            sqlx::Error::RowNotFound,
        )),
    }
}

/// Deltas are read behind a savepoint that is rolled back: so their tables are not held while the
/// window is judged, and those that nobody needs can be dropped.
async fn begin_reading(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>> {
    let begun = connection.begin().await;
    begun.map_err(Error::doing("begin to read the deltas of a window"))
}

async fn end_reading(reading: Transaction<'_, Postgres>) -> Result<()> {
    let done = reading.rollback().await;
    done.map_err(Error::doing("end reading the deltas of a window"))
}

/// What the windows before one answered, in order: those of the same baseline, no earlier than `from`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn answers_before(
    connection: &mut PgConnection,
    claimed: &Claimed,
    baseline_id: &str,
    from: DateTime<Utc>,
) -> Result<Vec<Vec<u8>>> {
    sqlx::query_scalar!(
        r#"-- what the windows before one answered
        select answers as "answers!" from driftd.windows
        where monitor_id = $1 and version = $2 and segment = 'all' and window_start < $3
            and window_start >= $4 and baseline_id = $5 and answers is not null
        order by window_start"#,
        claimed.monitor_id,
        claimed.version,
        claimed.window_start,
        from,
        baseline_id,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("read what earlier windows answered"))
}

/// Stores a window with its scores and its profile. Its deltas go with the time partition that they
/// stand in, when no window needs any of it.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn save(
    connection: &mut PgConnection,
    window: &Window,
    scores: &[ScoreRow],
    profile: Option<&[u8]>,
) -> Result<()> {
    insert(connection, window).await?;
    reached(Failpoint::WindowInserted);
    insert_scores(connection, window, scores).await?;
    reached(Failpoint::ScoresInserted);
    insert_contributions(connection, window, scores).await?;
    reached(Failpoint::ContributionsInserted);
    if let Some(profile) = profile {
        insert_profile(connection, window, profile).await?;
        reached(Failpoint::ProfileInserted);
    }
    Ok(())
}

async fn insert(connection: &mut PgConnection, window: &Window) -> Result<()> {
    sqlx::query!(
        r#"-- store a window
        insert into driftd.windows (monitor_id, version, window_start, window_end, baseline_id,
            rows, late, verdict, decided_by, training_windows, features, drifted_features,
            drifted_share, top_features, offsets, answers, by_clock)
        values ($1, $2, $3, $4, $5, $6, $7, $8::text::driftd.verdict, $9, $10, $11, $12, $13, $14,
            $15, $16, $17)"#,
        window.monitor_id,
        window.version,
        window.window_start,
        window.window_end,
        window.baseline_id,
        window.rows,
        window.late,
        window.verdict,
        window.decided_by,
        window.training_windows,
        window.features,
        window.drifted_features,
        window.drifted_share,
        window.top_features,
        window.offsets,
        window.answers,
        window.by_clock,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("store a window"))?;
    Ok(())
}

/// The columns of rows, as `unnest` takes them.
fn column<R, T>(rows: &[R], of: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

async fn insert_scores(
    connection: &mut PgConnection,
    window: &Window,
    scores: &[ScoreRow],
) -> Result<()> {
    sqlx::query!(
        r#"-- store the scores of a window
        insert into driftd.drift_scores (monitor_id, version, segment, window_start, rows_window,
            feature, test, statistic, p_value, p_adjusted, p_limit, effect, threshold, error_bound,
            rows_reference, nulls, unseen, drifted, reason, expected, decides, question,
            stretch_windows, stretch_start, drifted_since, expected_value, found_value,
            training_effect, sentence)
        select $1, $2, 'all', $3, $4, y.*
        from unnest($5::text[], $6::text[], $7::float8[], $8::float8[], $9::float8[], $10::float8[],
            $11::float8[], $12::float8[], $13::float8[], $14::bigint[], $15::bigint[],
            $16::bigint[], $17::bool[], $18::text[], $19::float8[], $20::bool[], $21::text[],
            $22::int[], $23::timestamptz[], $24::timestamptz[], $25::float8[], $26::float8[],
            $27::float8[], $28::text[]) as y"#,
        window.monitor_id,
        window.version,
        window.window_start,
        window.rows,
        &column(scores, |score| score.feature.clone()),
        &column(scores, |score| score.test.clone()),
        &column(scores, |score| score.statistic) as &[Option<f64>],
        &column(scores, |score| score.p_value) as &[Option<f64>],
        &column(scores, |score| score.p_adjusted) as &[Option<f64>],
        &column(scores, |score| score.p_limit) as &[Option<f64>],
        &column(scores, |score| score.effect) as &[Option<f64>],
        &column(scores, |score| score.threshold) as &[Option<f64>],
        &column(scores, |score| score.error_bound) as &[Option<f64>],
        &column(scores, |score| score.rows_reference),
        &column(scores, |score| score.nulls),
        &column(scores, |score| score.unseen),
        &column(scores, |score| score.drifted),
        &column(scores, |score| score.reason.clone()) as &[Option<String>],
        &column(scores, |score| score.expected) as &[Option<f64>],
        &column(scores, |score| score.decides),
        &column(scores, |score| score.question.clone()) as &[Option<String>],
        &column(scores, |score| score.stretch_windows) as &[Option<i32>],
        &column(scores, |score| score.stretch_start) as &[Option<DateTime<Utc>>],
        &column(scores, |score| score.drifted_since) as &[Option<DateTime<Utc>>],
        &column(scores, |score| score.expected_value) as &[Option<f64>],
        &column(scores, |score| score.found_value) as &[Option<f64>],
        &column(scores, |score| score.training_effect) as &[Option<f64>],
        // A feature's name or a label may hold what Postgres does not.
        &column(scores, |score| score
            .sentence
            .as_ref()
            .map(|s| s.replace('\0', "\u{fffd}"))) as &[Option<String>],
    )
    .execute(connection)
    .await
    .map_err(Error::doing("store the scores of a window"))?;
    Ok(())
}

async fn insert_contributions(
    connection: &mut PgConnection,
    window: &Window,
    scores: &[ScoreRow],
) -> Result<()> {
    let ranked = scores.iter().flat_map(|score| {
        let bins = (1_i32..).zip(&score.contributions);
        bins.map(move |(rank, bin)| (score, rank, bin))
    });
    let rows: Vec<(&ScoreRow, i32, &Contribution)> = ranked.collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- store what contributes to the scores of a window
        insert into driftd.drift_contributions (monitor_id, version, window_start, feature, test,
            rank, bin, reference_share, window_share, contribution)
        select $1, $2, $3, f, t, r, b, p, q, c
        from unnest($4::text[], $5::text[], $6::int[], $7::text[], $8::float8[], $9::float8[],
            $10::float8[]) as y (f, t, r, b, p, q, c)"#,
        window.monitor_id,
        window.version,
        window.window_start,
        &column(&rows, |(score, _, _)| score.feature.clone()),
        &column(&rows, |(score, _, _)| score.test.clone()),
        &column(&rows, |(_, rank, _)| *rank),
        // A label may hold what Postgres does not.
        &column(&rows, |(_, _, row)| row.bin.replace('\0', "\u{fffd}")),
        &column(&rows, |(_, _, row)| row.reference_share) as &[Option<f64>],
        &column(&rows, |(_, _, row)| row.window_share) as &[Option<f64>],
        &column(&rows, |(_, _, row)| row.contribution),
    )
    .execute(connection)
    .await
    .map_err(Error::doing("store what contributes to the scores"))?;
    Ok(())
}

async fn insert_profile(
    connection: &mut PgConnection,
    window: &Window,
    profile: &[u8],
) -> Result<()> {
    sqlx::query!(
        r#"-- store the profile of a window
        insert into driftd.window_profiles (monitor_id, version, segment, window_start, profile)
        values ($1, $2, 'all', $3, $4)"#,
        window.monitor_id,
        window.version,
        window.window_start,
        profile,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("store the profile of a window"))?;
    Ok(())
}

/// Keeps count of late rows of windows that are stepped over: those before the claimed one that
/// nobody will judge any more. Before a line's first window those are all.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn count_stepped_over(connection: &mut PgConnection, claimed: &Claimed) -> Result<()> {
    if claimed.next_start >= claimed.window_start && !claimed.is_first {
        return Ok(());
    }
    sqlx::query!(
        r#"-- count late rows of windows that are stepped over
        insert into driftd.rows_without_window as o (monitor_id, version, late)
        select $1::bigint, $2::text, sum(late) from driftd.profile_deltas
        where monitor_id = $1 and version = $2 and segment = 'all' and window_start < $4
            and ($5 or window_start >= $3)
        having sum(late) > 0
        on conflict (monitor_id, version, segment) do update set late = o.late + excluded.late"#,
        claimed.monitor_id,
        claimed.version,
        claimed.next_start,
        claimed.window_start,
        claimed.is_first,
    )
    .execute(connection)
    .await
    .map_err(Error::doing(
        "count late rows of windows that are stepped over",
    ))?;
    Ok(())
}

/// Where a line of windows goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// Start of the next window.
    pub start: DateTime<Utc>,
    /// Its end.
    pub end: DateTime<Utc>,
    /// Empty windows judged since the last one with rows.
    pub silence: i32,
    /// The window at which an open drift episode becomes unknown, where its line is silent.
    pub unknown_start: Option<DateTime<Utc>>,
    /// What `decide` carries to it.
    pub state: Value,
}

/// Moves a line on to its next window.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn advance(connection: &mut PgConnection, claimed: &Claimed, next: &Next) -> Result<()> {
    sqlx::query!(
        r#"-- move a line of windows on
        update driftd.window_cursors
        set next_start = $3, next_end = $7, judged = judged + 1, silence = $4, state = $5,
            unknown_start = $6
        where monitor_id = $1 and version = $2 and segment = 'all'"#,
        claimed.monitor_id,
        claimed.version,
        next.start,
        next.silence,
        next.state,
        next.unknown_start,
        next.end,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("move a line of windows on"))?;
    Ok(())
}
