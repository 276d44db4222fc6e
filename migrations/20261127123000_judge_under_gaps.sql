-- Judging where rows are missing: windows that a gap touches, and long silences.

-- After a window with rows at most a thousand empty ones are judged, then none until the next one
-- with rows. Counted here, so that the windows that are judged follow from the log alone, and not
-- from what happened to be stored when the judge came by.
alter table driftd.window_cursors
    add column silence int not null default 0;  -- empty windows since the last one with rows

-- Rows read so far of a partition, each as often as there are windows that it belongs to: counted when
-- they are read, to be found again in windows, among what waits and in rows_without_window. What was
-- read before this column counts for the first partition.
alter table driftd.watermarks
    add column rows bigint not null default 0;

update driftd.watermarks k set rows =
    (select coalesce(sum(w.rows + w.late + w.late_after_idle), 0) from driftd.windows w
     where w.monitor_id = k.monitor_id)
    + (select coalesce(sum(d.rows + d.late), 0) from driftd.waiting_rows d
       where d.monitor_id = k.monitor_id)
    + (select coalesce(sum(o.late + o.late_after_idle), 0) from driftd.rows_without_window o
       where o.monitor_id = k.monitor_id)
where k.partition = (select min(l.partition) from driftd.watermarks l where l.monitor_id = k.monitor_id);

comment on column driftd.drift_history.verdict is
    'What driftd says of the window as a whole. incomplete: a gap in the log touches it; its scores inform, and change no alert.';

-- The view keeps its columns; what is new stands last.
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
        where p.topic = m.topic and p.idle_since is not null) as partitions_idle,
       (select count(*) from driftd.alert_episodes e
        where e.monitor = m.monitor and e.state <> 'resolved') as open_episodes,
       schedule.next_slot as next_scheduled_retraining,
       coalesce(total.incomplete, 0) as windows_incomplete
from newest m
left join driftd.retraining_schedules schedule on schedule.monitor = m.monitor
left join driftd.topics topic on topic.topic = m.topic
left join lateral (
    select w.window_start, w.window_end, w.verdict, w.judged_at
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
    from driftd.watermarks k where k.monitor_id = m.monitor_id) mark on true;

comment on column driftd.monitor_health.windows_incomplete is
    'Windows that a gap in the log touches: they may lack rows, and change no alert.';
