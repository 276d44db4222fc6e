//! Lines of windows: what waits for a verdict, and what was said.

use sqlx::PgExecutor;

use super::{Found, found};
use crate::store::Result;
use crate::store::ripe::LONGEST_SILENCE;

/// Late rows may be for windows that nobody will judge. Behind its line there may be no row that
/// counts, unless its window was judged, or is behind retention.
pub(super) async fn deltas(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify deltas",
        r#"-- verify: what waits for the judge will be judged
        with oldest as (
            select monitor_id, version, segment, min(window_start) as oldest_window
            from driftd.windows group by monitor_id, version, segment
        ), waiting as (
            select d.checkpoint_id, d.monitor_id, d.version, d.segment, d.window_start, d.partition,
                d.generation, d.first_offset, d.next_offset, d.rows, d.late,
                case
                    when d.rows < 0 or d.late < 0 or d.rows + d.late = 0 then 'no rows'
                    when (d.delta is null) <> (d.rows = 0) then 'rows without a profile'
                    when d.first_offset >= d.next_offset or d.first_offset < k.first_offset
                        or d.next_offset > k.next_offset or d.partition <> k.partition
                        or d.generation <> k.generation then 'beyond its checkpoint'
                    when d.rows = 0 then null
                    when c.judged is null then 'without a line'
                    when c.last_start is null or d.window_start > c.last_start then 'behind the last window of its line'
                    when d.window_start < c.next_start and d.window_start >= o.oldest_window
                        and not exists (select from driftd.windows w
                            where w.monitor_id = d.monitor_id and w.version = d.version
                                and w.segment = d.segment and w.window_start = d.window_start)
                        then 'passed over'
                end as problem
            from driftd.profile_deltas d
                left join driftd.checkpoints k using (checkpoint_id)
                left join driftd.window_cursors c using (monitor_id, version, segment)
                left join oldest o using (monitor_id, version, segment)
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select * from waiting where problem is not null
            order by monitor_id, version, segment, window_start, checkpoint_id) f
        limit $1"#,
        executor,
        limit
    )
}

/// Where retention has dropped windows, some of the rows read are not to be found any more; nor where
/// a newer revision has taken over, since nobody judges what waited then.
pub(super) async fn read_rows(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify rows",
        r#"-- verify: every row read is counted or late, once
        with read as (
            select monitor_id, sum(rows) as rows_read from driftd.watermarks group by monitor_id
        ), judged as (
            select monitor_id, count(*) as windows, sum(rows) as counted, sum(late) as late,
                sum(late_after_idle) as late_after_idle
            from driftd.windows group by monitor_id
        ), waiting as (
            select monitor_id, sum(rows + late) as waiting from driftd.waiting_rows group by monitor_id
        ), apart as (
            select monitor_id, sum(late + late_after_idle) as without_window
            from driftd.rows_without_window group by monitor_id
        ), lines as (
            select monitor_id, sum(judged) as judged from driftd.window_cursors group by monitor_id
        ), found as (
            select monitor_id, coalesce(rows_read, 0) as rows_read, coalesce(counted, 0) as counted,
                coalesce(late, 0) as late, coalesce(late_after_idle, 0) as late_after_idle,
                coalesce(waiting, 0) as waiting, coalesce(without_window, 0) as without_window,
                coalesce(windows, 0) < coalesce(judged, 0) or exists (select from driftd.monitors n
                    where n.monitor = m.monitor and n.revision > m.revision) as may_lack_some
            from driftd.monitors m left join read using (monitor_id)
                left join judged using (monitor_id) left join waiting using (monitor_id)
                left join apart using (monitor_id) left join lines using (monitor_id)
            where m.topic is not null
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select *, counted + late + late_after_idle + waiting + without_window - rows_read
                as too_many
            from found
            where counted + late + late_after_idle + waiting + without_window <> rows_read
                and not (may_lack_some
                    and counted + late + late_after_idle + waiting + without_window < rows_read)
            order by monitor_id) f
        limit $1"#,
        executor,
        limit
    )
}

/// Of the deltas of a judged window some may be dropped already, so that less is no finding.
pub(super) async fn rows(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify rows of windows",
        r#"-- verify: rows of windows add up
        with scored as (
            select monitor_id, version, segment, window_start, min(rows_window) as least,
                max(rows_window) as most
            from driftd.drift_scores group by monitor_id, version, segment, window_start
        ), merged as (
            select d.monitor_id, d.version, d.segment, d.window_start, sum(d.rows) as in_deltas
            from driftd.profile_deltas d
                join driftd.window_cursors c using (monitor_id, version, segment)
            where d.window_start < c.next_start
            group by d.monitor_id, d.version, d.segment, d.window_start
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select w.monitor_id, w.version, w.segment, w.window_start, w.rows, w.late,
                w.late_after_idle, s.least as rows_of_scores, m.in_deltas as rows_of_deltas,
                w.offsets
            from driftd.windows w
                left join scored s using (monitor_id, version, segment, window_start)
                left join merged m using (monitor_id, version, segment, window_start)
            where least(w.rows, w.late, w.late_after_idle) < 0 or s.least <> w.rows
                or s.most <> w.rows or m.in_deltas > w.rows
                or (w.rows > 0) <> (jsonb_array_length(w.offsets) > 0)
            order by w.monitor_id, w.version, w.segment, w.window_start) f
        limit $1"#,
        executor,
        limit
    )
}

pub(super) async fn verdicts(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify verdicts",
        r#"-- verify: one verdict per window
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select monitor_id, version, segment, window_start,
                array_agg(verdict order by judged_at) as verdicts
            from driftd.windows
            group by monitor_id, version, segment, window_start
            having count(*) > 1
            order by monitor_id, version, segment, window_start) f
        limit $1"#,
        executor,
        limit
    )
}

/// Where windows are left out, a thousand without rows have to come before; what comes behind has rows,
/// or ends a drift episode as unknown. Where a line has lost
/// windows to retention, which drops whole months, only what is missing within a month is known.
/// Days of a time zone may be longer or shorter than 24 hours, by less than half of that.
pub(super) async fn in_order(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    let longest = f64::from(LONGEST_SILENCE);
    sqlx::query_as!(
        Found,
        r#"-- verify: no window was left out
        with lines as (
            select w.monitor_id, w.version, w.segment, w.window_start, w.rows,
                lag(w.window_start) over line as window_before,
                c.judged = count(*) over (partition by w.monitor_id, w.version, w.segment) as is_whole,
                (m.settings #>> '{input,window,every_ms}')::float8 * interval '1 millisecond' as every,
                case when m.settings #> '{input,window}' ? 'time_zone'
                    and (m.settings #>> '{input,window,every_ms}')::bigint % 86400000 = 0
                    then interval '12 hours' else interval '0' end as slack
            from driftd.windows w join driftd.monitors m using (monitor_id)
                left join driftd.window_cursors c using (monitor_id, version, segment)
            window line as (partition by w.monitor_id, w.version, w.segment order by w.window_start)
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select monitor_id, version, segment, window_before, window_start, every from lines l
            where window_start not between window_before + every - slack
                    and window_before + every + slack
                and (is_whole or date_trunc('month', window_start) = date_trunc('month', window_before))
                and (window_start < window_before + every - slack
                    or (l.rows = 0 and not exists (select from driftd.alert_events v
                        join driftd.alert_episodes e using (episode_id)
                        where v.kind = 'unknown' and v.window_start = l.window_start
                            and e.monitor_id = l.monitor_id and e.version = l.version))
                    or exists (select from driftd.windows w
                        where w.monitor_id = l.monitor_id and w.version = l.version
                            and w.segment = l.segment and w.rows > 0
                            and w.window_start <= l.window_before
                            and w.window_start > l.window_before - $2 * every + slack))
            order by monitor_id, version, segment, window_start) f
        limit $1"#,
        limit,
        longest,
    )
    .fetch_all(executor)
    .await
    .map_err(crate::store::Error::doing("verify the order of windows"))
}

/// Retention may have dropped windows, never made some.
pub(super) async fn cursors(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify lines of windows",
        r#"-- verify: the judge stands behind the last window
        with lines as (
            select monitor_id, version, segment, count(*) as windows,
                max(window_start) as last_window, max(window_start) filter (where rows > 0)
                as last_with_rows
            from driftd.windows group by monitor_id, version, segment
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select l.monitor_id, l.version, l.segment, l.windows, c.judged, l.last_window,
                c.next_start, c.last_start
            from lines l left join driftd.window_cursors c using (monitor_id, version, segment)
                left join driftd.monitors m using (monitor_id)
                cross join lateral (select l.last_window
                    + (m.settings #>> '{input,window,every_ms}')::float8 * interval '1 millisecond',
                    case when m.settings #> '{input,window}' ? 'time_zone'
                        and (m.settings #>> '{input,window,every_ms}')::bigint % 86400000 = 0
                        then interval '12 hours' else interval '0' end) as n (expected, slack)
            where c.judged is null or c.judged < l.windows or c.last_start < l.last_with_rows
                or c.next_start not between n.expected - n.slack and n.expected + n.slack
            order by l.monitor_id, l.version, l.segment) f
        limit $1"#,
        executor,
        limit
    )
}

pub(super) async fn orphans(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify what is said of windows",
        r#"-- verify: what is said of a window has its window
        with said as (
            select 'drift_scores' as found_in, monitor_id, version, segment, window_start
            from driftd.drift_scores
            union
            select 'drift_contributions', monitor_id, version, segment, window_start
            from driftd.drift_contributions
            union
            select 'window_profiles', monitor_id, version, segment, window_start
            from driftd.window_profiles
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select * from said s
            where not exists (select from driftd.windows w
                where w.monitor_id = s.monitor_id and w.version = s.version
                    and w.segment = s.segment and w.window_start = s.window_start)
            order by found_in, monitor_id, version, segment, window_start) f
        limit $1"#,
        executor,
        limit
    )
}

/// A window that was judged before the gap was found stays as it was; a minute leaves room for
/// transactions that were on their way. How far a gap reaches can turn out to be less than was
/// thought at first, so that only its beginning is held against windows that are incomplete.
pub(super) async fn incomplete(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify incomplete windows",
        r#"-- verify: windows that a gap touches say so
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select w.monitor_id, w.version, w.segment, w.window_start, w.verdict, w.judged_at,
                t.gap_id, t.found_at
            from driftd.windows w left join lateral (
                select g.gap_id, g.found_at from driftd.gap_windows s join driftd.gaps g using (gap_id)
                where s.monitor_id = w.monitor_id and s.from_start <= w.window_start
                    and (s.until_start is null or w.window_start < s.until_start)
                order by g.found_at limit 1) t on true
            where (w.verdict <> 'incomplete' and w.judged_at > t.found_at + interval '1 minute')
                or (w.verdict = 'incomplete' and not exists (select from driftd.gap_windows s
                    where s.monitor_id = w.monitor_id and s.from_start <= w.window_start))
            order by w.monitor_id, w.version, w.segment, w.window_start) f
        limit $1"#,
        executor,
        limit
    )
}
