-- What cannot go on stops alone: a topic, a monitor, or the windows of one model version of a monitor.
-- The others go on, and this table says what has stopped and why.
create table driftd.failures (
    kind text not null check (kind in ('topic', 'monitor', 'windows')),
    name text not null,
    version text not null default '',
    replica text not null,
    reason text not null,
    since timestamptz not null default now(),
    attempts int not null default 1 check (attempts > 0),
    retry_at timestamptz,
    told_at timestamptz not null default now(),
    primary key (kind, name, version),
    check (version = '' or kind = 'windows')
);
comment on table driftd.failures is
    'One row per topic, monitor or line of windows that has stopped. The row goes when it works again.';
comment on column driftd.failures.kind is
    'topic: it is not read; monitor: it is not judged; windows: those of one model version of a monitor are not judged.';
comment on column driftd.failures.name is 'The topic, or the monitor.';
comment on column driftd.failures.version is 'Of kind windows: the model version. Otherwise empty.';
comment on column driftd.failures.replica is 'The replica that reported it last.';
comment on column driftd.failures.reason is 'What is wrong, where, and what would be right. One line.';
comment on column driftd.failures.since is 'When it was reported first.';
comment on column driftd.failures.attempts is 'How often it was reported since.';
comment on column driftd.failures.retry_at is
    'When driftd tries again; null: not by itself. Windows are not claimed before.';
comment on column driftd.failures.told_at is 'When it was reported last.';

create or replace view driftd.monitor_health as
with newest as (
    select distinct on (monitor) * from driftd.monitors order by monitor, revision desc
)
select m.monitor, m.revision, m.model, m.topic,
       w.window_start as last_window_start, w.window_end as last_window_end,
       w.verdict as last_verdict, w.judged_at as last_judged_at,
       coalesce(total.windows, 0) as windows, coalesce(total.rows, 0)::bigint as rows,
       (coalesce(total.late, 0) + coalesce(waiting.late, 0) + coalesce(apart.late, 0))::bigint as late,
       (select count(*) from driftd.rejected_messages r
        where r.topic = m.topic and r.monitor in ('', m.monitor)) as rejected,
       (select count(*) from driftd.gaps g where g.topic = m.topic) as gaps,
       coalesce(waiting.rows, 0)::bigint as rows_waiting,
       mark.watermark, topic.partitions, mark.partitions as partitions_seen,
       (select count(*) from driftd.partition_progress p
        where p.topic = m.topic and p.partition < topic.partitions
            and p.idle_since is not null) as partitions_idle,
       (select count(*) from driftd.alert_episodes e
        where e.monitor = m.monitor and e.state in ('pending', 'firing')) as open_episodes,
       schedule.next_slot as next_scheduled_retraining,
       coalesce(total.incomplete, 0) as windows_incomplete,
       w.by_clock as last_by_clock,
       (select min(e.first_window) from driftd.alert_episodes e
        where e.monitor = m.monitor and e.kind = 'silence' and e.state in ('pending', 'firing'))
           as silent_since,
       case when m.topic is not null
           then coalesce(m.settings #>> '{input,window,time_zone}', 'UTC') end as time_zone,
       case when failed.reason is null then 'running' else 'failed' end as state,
       failed.reason as failure
from newest m
left join driftd.retraining_schedules schedule on schedule.monitor = m.monitor
left join driftd.topics topic on topic.topic = m.topic
left join lateral (
    select w.window_start, w.window_end, w.verdict, w.judged_at, w.by_clock
    from driftd.windows w join driftd.monitors any_revision using (monitor_id)
    where any_revision.monitor = m.monitor
    order by w.window_start desc limit 1) w on true
left join lateral (
    select count(*) as windows, sum(w.rows) as rows, sum(w.late + w.late_after_idle) as late,
           count(*) filter (where w.verdict = 'incomplete') as incomplete
    from driftd.windows w join driftd.monitors any_revision using (monitor_id)
    where any_revision.monitor = m.monitor) total on true
left join lateral (
    select sum(d.rows) as rows, sum(d.late) as late
    from driftd.waiting_rows d where d.monitor_id = m.monitor_id) waiting on true
left join lateral (
    select sum(o.late + o.late_after_idle) as late
    from driftd.rows_without_window o join driftd.monitors any_revision using (monitor_id)
    where any_revision.monitor = m.monitor) apart on true
left join lateral (
    select count(*) as partitions,
           min(k.max_event_time) - make_interval(secs =>
               coalesce((m.settings #>> '{input,window,out_of_orderness_ms}')::double precision, 0) / 1000)
               as watermark
    from driftd.watermarks k
    where k.monitor_id = m.monitor_id
        and (topic.partitions is null or k.partition < topic.partitions)) mark on true
left join lateral (
    select string_agg(f.reason, '; ' order by f.since, f.kind, f.version) as reason
    from driftd.failures f
    where (f.kind = 'topic' and f.name = m.topic)
        or (f.kind in ('monitor', 'windows') and f.name = m.monitor)) failed on true;

comment on column driftd.monitor_health.state is
    'failed: its topic, the monitor or windows of one of its versions have stopped; running: none of them.';
comment on column driftd.monitor_health.failure is 'Why it has failed; null: it has not.';

create or replace function driftd.grant_roles() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from pg_roles where rolname = 'driftd_trainer') then
        grant usage on schema driftd to driftd_trainer;
        grant execute on function
            driftd.claim_job(text, text, interval),
            driftd.job_document(driftd.retraining_jobs),
            driftd.heartbeat_job(bigint, int, uuid, jsonb),
            driftd.progress_job(bigint, int, uuid, jsonb),
            driftd.log_job(bigint, int, uuid, text[]),
            driftd.report_trial(bigint, int, uuid, bigint, double precision),
            driftd.request_baseline(bigint, int, uuid, text, jsonb),
            driftd.baseline_build(bigint, int, uuid, bigint),
            driftd.complete_job(bigint, int, uuid, jsonb),
            driftd.fail_job(bigint, int, uuid, text, boolean),
            driftd.request_retraining(text, text, text)
            to driftd_trainer;
    end if;
    if exists (select from pg_roles where rolname = 'driftd_reader') then
        grant usage on schema driftd to driftd_reader;
        grant select on
            driftd.drift_history, driftd.latest_drift, driftd.drift_attribution,
            driftd.open_alerts, driftd.job_queue, driftd.monitor_health, driftd.model_lineage,
            driftd.prediction_lineage, driftd.retraining_trials,
            driftd.waiting_rows, driftd.time_partitions, driftd.failures
            to driftd_reader;
    end if;
end $$;
select driftd.grant_roles();
