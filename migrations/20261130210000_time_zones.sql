-- Windows of whole days begin at midnight of a time zone, so that some are 23 or 25 hours long. Where a
-- window ends driftd says: the zones that Postgres knows may be of another year.

alter table driftd.window_cursors add column next_end timestamptz;
comment on column driftd.window_cursors.next_end is 'End of the window at next_start.';
update driftd.window_cursors c
set next_end = c.next_start
    + (m.settings #>> '{input,window,size_ms}')::float8 * interval '1 millisecond'
from driftd.monitors m where m.monitor_id = c.monitor_id;
alter table driftd.window_cursors
    add check ((next_start is null) = (next_end is null) and next_start < next_end);

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
           then coalesce(m.settings #>> '{input,window,time_zone}', 'UTC') end as time_zone
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
        and (topic.partitions is null or k.partition < topic.partitions)) mark on true;

comment on column driftd.monitor_health.time_zone is
    'Where the days of its windows begin, and whose hours and days of the week are seasons; null: periodic only.';
