-- Windows that only the clock closes, and alerts of other kinds than drift: silence and volume.

-- ---------------------------------------------------------------------------------------------
-- What the clock may be asked for

alter table driftd.partition_progress add column idle_confirmed_at timestamptz;
comment on column driftd.partition_progress.idle_confirmed_at is
    'Clock time of the last confirmation by the brokers that an idle partition was read to its end. Idleness counts for a window only if it was confirmed after the window closed. Null: not idle.';

alter table driftd.window_cursors
    add column keeps_up boolean not null default false,
    add column unknown_start timestamptz;
comment on column driftd.window_cursors.keeps_up is
    'Rows of this line were once read before the clock would have judged their window. Old data never does: its windows are not judged by the clock.';
comment on column driftd.window_cursors.unknown_start is
    'The window at which an open drift episode of a silent line becomes unknown. It is judged even where a long silence is stepped over.';

-- Drift's part of the state has a name of its own now, beside those of silence and volume.
update driftd.window_cursors set state = jsonb_build_object('drift', state) where state <> '{}';

-- ---------------------------------------------------------------------------------------------
-- Windows and episodes

alter table driftd.windows add column by_clock boolean not null default false;
comment on column driftd.windows.by_clock is
    'No later row was there: only the clock said that the window is over.';

alter type driftd.episode_state add value 'unknown';

alter table driftd.alert_episodes
    add column kind text not null default 'drift' check (kind in ('drift', 'silence', 'volume')),
    add column by_clock boolean not null default false,
    add column silent_since timestamptz;
comment on column driftd.alert_episodes.kind is
    'drift: rows are unlike the training data; silence: none come; volume: more or fewer come than in training.';
comment on column driftd.alert_episodes.by_clock is
    'A window that was judged by the clock opened, extended or ended it.';
comment on column driftd.alert_episodes.silent_since is
    'Of kind drift: start of the first window without rows, while none come; null: rows come.';

-- One open episode per line of windows and kind. The predicate names the states that are open: a
-- transaction may not use an enum value that it has added.
drop index driftd.one_open_episode;
create unique index one_open_episode on driftd.alert_episodes (monitor_id, version, segment, kind)
    where state in ('pending', 'firing');

alter table driftd.alert_events
    add column episode_kind text not null default 'drift'
        check (episode_kind in ('drift', 'silence', 'volume')),
    drop constraint alert_events_kind_check,
    add constraint alert_events_kind_check check (kind in
        ('opened', 'fired', 'continued', 'resolved', 'silent', 'unknown'));
comment on column driftd.alert_events.episode_kind is 'Kind of the episode.';

-- ---------------------------------------------------------------------------------------------
-- The views keep their columns; what is new stands last.

create or replace view driftd.drift_history as
select m.monitor, m.model, w.version, w.segment, w.window_start, w.window_end,
       w.verdict, w.decided_by, w.training_windows, w.rows, w.late, w.drifted_share,
       s.feature, s.reference, s.test, s.drifted, s.sentence, s.statistic, s.p_value, s.p_adjusted,
       s.p_limit, s.effect, s.threshold,
       case when s.test = 'rule' then 'training data' else 'settings' end as p_limit_origin,
       s.question, s.stretch_windows, s.stretch_start, s.drifted_since, s.expected_value,
       s.found_value, s.training_effect,
       s.error_bound, s.rows_window, s.rows_reference, s.nulls, s.unseen, s.reason,
       coalesce((select jsonb_agg(jsonb_build_object('bin', c.bin, 'reference_share',
               c.reference_share, 'window_share', c.window_share, 'contribution', c.contribution)
               order by c.rank)
           from driftd.drift_contributions c
           where (c.monitor_id, c.version, c.segment, c.window_start, c.feature, c.reference, c.test)
               = (s.monitor_id, s.version, s.segment, s.window_start, s.feature, s.reference, s.test)),
           '[]') as contributions,
       w.baseline_id, m.monitor_id, m.revision, w.judged_at, s.expected, s.decides,
       w.by_clock
from driftd.windows w
join driftd.monitors m using (monitor_id)
join driftd.drift_scores s using (monitor_id, version, segment, window_start);

comment on column driftd.drift_history.by_clock is
    'Only the clock said that the window is over: no later row was there.';

create or replace view driftd.latest_drift as
with newest as (
    select distinct on (m.monitor, c.version, c.segment) w.monitor_id, w.version, w.segment, w.window_start
    from driftd.window_cursors c
    join driftd.monitors m using (monitor_id)
    cross join lateral (
        select w.* from driftd.windows w
        where w.monitor_id = c.monitor_id and w.version = c.version and w.segment = c.segment
        order by w.window_start desc limit 1) w
    order by m.monitor, c.version, c.segment, w.window_start desc
)
select h.* from newest n
join driftd.drift_history h using (monitor_id, version, segment, window_start);

create or replace view driftd.open_alerts as
select e.episode_id, e.monitor, e.model, e.version, e.segment, e.state, e.severity,
       e.first_window as drifted_since, e.fired_window, e.last_window, e.drifted_windows,
       e.top_features, e.opened_at, t.outcome as retraining, t.guard as retraining_guard, t.job_id,
       e.kind, e.by_clock, e.silent_since
from driftd.alert_episodes e
left join driftd.retraining_triggers t on t.kind = 'episode' and t.episode_id = e.episode_id
where e.state in ('pending', 'firing');

comment on column driftd.open_alerts.version is 'The model version whose inputs it is about.';
comment on column driftd.open_alerts.state is 'pending: not yet enough windows; firing.';
comment on column driftd.open_alerts.drifted_since is 'Start of its first window.';
comment on column driftd.open_alerts.drifted_windows is 'Windows that belong to it so far.';
comment on column driftd.open_alerts.kind is
    'drift: rows are unlike the training data; silence: none come; volume: more or fewer come than in training.';
comment on column driftd.open_alerts.by_clock is
    'A window that was judged by the clock opened or extended it.';
comment on column driftd.open_alerts.silent_since is
    'Of kind drift: start of the first window without rows, while none come; null: rows come.';

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
           as silent_since
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

comment on column driftd.monitor_health.last_by_clock is
    'Whether only the clock said that the last judged window is over.';
comment on column driftd.monitor_health.silent_since is
    'Start of the first window without rows of an open silence alert; null: there is none.';

-- ---------------------------------------------------------------------------------------------
-- Data for training since the drift began: only an episode of kind drift says when that was.

create or replace function driftd.suggested_data(
    model text, monitor text, version text, window_start timestamptz, window_end timestamptz,
    episode_id bigint, data jsonb, at timestamptz
) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    how text := coalesce(data ->> 'select', 'last');
    span interval := make_interval(secs => (data ->> 'span_seconds')::double precision);
    the_monitor text := suggested_data.monitor;
    the_topic text;
    from_time timestamptz := window_start;
    to_time timestamptz := window_end;
    read jsonb;
    filled record;
begin
    -- A trigger that no monitor fired is about the model: its newest monitor that reads something.
    select m.monitor, m.topic into the_monitor, the_topic from driftd.monitors m
    where m.model = suggested_data.model and m.topic is not null
      and (suggested_data.monitor is null or m.monitor = suggested_data.monitor)
    order by m.monitor_id desc limit 1;
    if the_topic is not null and to_time is null then
        select w.window_start, w.window_end into from_time, to_time
        from driftd.windows w join driftd.monitors m using (monitor_id)
        where m.monitor = the_monitor and w.rows > 0
        order by w.window_start desc limit 1;
    end if;
    if how = 'since_drift' then
        from_time := least(from_time, (select e.first_window from driftd.alert_episodes e
            where e.episode_id = suggested_data.episode_id
               or (suggested_data.episode_id is null and e.monitor = the_monitor
                   and e.kind = 'drift' and e.state in ('pending', 'firing'))
            order by e.episode_id desc limit 1));
    elsif span is not null then
        from_time := to_time - span;
    end if;
    if to_time is not null then
        select jsonb_build_object('rows', coalesce(sum(h.rows), 0), 'offsets', coalesce(jsonb_agg(
                jsonb_strip_nulls(jsonb_build_object('partition', h.partition,
                    'first_offset', h.first_offset, 'next_offset', h.next_offset,
                    'generation', nullif(h.generation, 1)))
                order by h.partition, h.generation) filter (where h.partition is not null), '[]'))
        into read
        from (
            select (o ->> 'partition')::int as partition,
                coalesce((o ->> 'generation')::bigint, 1) as generation,
                min((o ->> 'first_offset')::bigint) as first_offset,
                max((o ->> 'next_offset')::bigint) as next_offset, null::bigint as rows
            from driftd.windows w join driftd.monitors m using (monitor_id)
                cross join lateral jsonb_array_elements(w.offsets) o
            where m.monitor = the_monitor and w.window_start >= from_time and w.window_end <= to_time
              and (suggested_data.version is null or how <> 'last' or w.version = suggested_data.version)
            group by 1, 2
            union all
            select null, null, null, null, sum(w.rows)
            from driftd.windows w join driftd.monitors m using (monitor_id)
            where m.monitor = the_monitor and w.window_start >= from_time and w.window_end <= to_time
              and (suggested_data.version is null or how <> 'last' or w.version = suggested_data.version)
        ) h;
    end if;
    select data ->> 'table' as table_name, data ->> 'path' as path into filled;
    return jsonb_strip_nulls(jsonb_build_object('topic', the_topic, 'from', from_time, 'to', to_time,
            'select', case when to_time is not null then how end,
            'table', driftd.fill(filled.table_name, suggested_data.model, suggested_data.version,
                the_monitor, from_time, to_time, at),
            'path', driftd.fill(filled.path, suggested_data.model, suggested_data.version,
                the_monitor, from_time, to_time, at)))
        || coalesce(read, '{}');
end $$;
