//! What follows from verdicts: episodes, jobs, messages.

use sqlx::PgExecutor;

use super::{Found, found};
use crate::store::Result;

pub(super) async fn episodes(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify episodes",
        r#"-- verify: one open episode per line and kind, and the judge knows it
        with open as (
            select monitor_id, version, segment, kind, count(*) as open_episodes,
                max(episode_id) as episode_id
            from driftd.alert_episodes where state in ('pending', 'firing')
            group by monitor_id, version, segment, kind
        ), known as (
            select monitor_id, version, segment, kind,
                (state #>> array[kind, 'episode_id'])::bigint as known_episode
            from driftd.window_cursors
                cross join unnest(array['drift', 'silence', 'volume']) as k (kind)
            where state #>> array[kind, 'episode_id'] is not null
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select monitor_id, version, segment, kind, coalesce(open_episodes, 0) as open_episodes,
                episode_id, known_episode
            from open full join known using (monitor_id, version, segment, kind)
            where open_episodes > 1 or episode_id is distinct from known_episode
            order by monitor_id, version, segment, kind) f
        limit $1"#,
        executor,
        limit
    )
}

pub(super) async fn open_jobs(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify open jobs",
        r#"-- verify: one open job per model
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select model, array_agg(job_id order by job_id) as jobs
            from driftd.retraining_jobs
            where parent_job_id is null
                and state in ('awaiting_approval', 'searching', 'queued', 'running')
            group by model having count(*) > 1
            order by model) f
        limit $1"#,
        executor,
        limit
    )
}

pub(super) async fn leases(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify leases",
        r#"-- verify: running jobs are leased
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select job_id, model, state, attempt, max_attempts, worker, lease_expires_at,
                lease_token is not null as has_token
            from driftd.retraining_jobs
            where attempt > max_attempts or (state = 'running' and (attempt < 1
                or lease_token is null or lease is null or lease_expires_at is null))
            order by job_id) f
        limit $1"#,
        executor,
        limit
    )
}

pub(super) async fn triggers(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify triggers",
        r#"-- verify: what asked for retraining is there
        with named as (
            select 'trigger' as named_by, trigger_id as id, episode_id, job_id
            from driftd.retraining_triggers
            union all
            select 'reason of job', j.job_id, (r ->> 'episode_id')::bigint, null
            from driftd.retraining_jobs j cross join jsonb_array_elements(j.reasons) r
            where r ->> 'episode_id' is not null
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select * from named n
            where (n.episode_id is not null and not exists (select from driftd.alert_episodes e
                    where e.episode_id = n.episode_id))
                or (n.job_id is not null and not exists (select from driftd.retraining_jobs j
                    where j.job_id = n.job_id))
            order by named_by, id) f
        limit $1"#,
        executor,
        limit
    )
}

/// What is older than the oldest message may have had one that is not kept any more.
pub(super) async fn outbox(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify the outbox",
        r#"-- verify: what has to be told is in the outbox
        with oldest as (select min(created_at) as since from driftd.outbox),
        due as (
            select 'episode:' || episode_id || ':fired' as key
            from driftd.alert_episodes, oldest
            where fired_window is not null and opened_at >= oldest.since
            union all
            select 'episode:' || episode_id || ':' || state from driftd.alert_episodes, oldest
            where state in ('resolved', 'unknown') and resolved_at >= oldest.since
            union all
            select 'job:' || job_id from driftd.retraining_jobs, oldest
            where created_at >= oldest.since and parent_job_id is null
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select key, 'missing' as problem from due d
            where not exists (select from driftd.outbox o where o.key = d.key)
            union all
            select o.key, 'delivered without an attempt' from driftd.outbox o
            where o.delivered_at is not null and o.attempts < 1
            union all
            select o.key, 'of nothing that is there' from driftd.outbox o
            where (o.key like 'episode:%' and not exists (select from driftd.alert_episodes e
                    where e.episode_id::text = split_part(o.key, ':', 2)))
                or (o.key like 'job:%' and not exists (select from driftd.retraining_jobs j
                    where j.job_id::text = split_part(o.key, ':', 2)))
            order by 1, 2) f
        limit $1"#,
        executor,
        limit
    )
}
