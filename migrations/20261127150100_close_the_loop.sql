-- From a trigger to a promoted version: more triggers and guards, what a job carries, search of
-- hyperparameters, what a completed job registers, baselines made for it, promotion, lineage.
--
-- As before, every rule stands here, so that it holds for the daemon, the command line, HTTP and plain
-- SQL alike. Errors carry the SQLSTATEs of 20261122100002: RD001 stale lease, RD002 no such job or
-- version, RD003 its state does not allow it, RD004 bad argument.

-- ---------------------------------------------------------------------------------------------
-- Tables

alter table driftd.retraining_jobs
    add column parent_job_id bigint references driftd.retraining_jobs, -- a trial of that job's search
    add column trial int check (trial >= 0),        -- its number there
    -- {"method", "space", "trials", "parallel", "objective", "pruner"?, "seed"?}; null: no search
    add column search jsonb check (jsonb_typeof(search) = 'object'),
    -- {"policy": "manual"|"automatic"|"if_better", "metric"?, "goal"?, "min_gain"?}
    add column promotion jsonb not null default '{"policy": "manual"}',
    add check ((parent_job_id is null) = (trial is null)),
    add check (parent_job_id is null or search is null);

-- A trial belongs to a job that is open already: it does not count as a second one.
drop index driftd.one_open_job;
create unique index one_open_job on driftd.retraining_jobs (model)
    where parent_job_id is null and state in ('awaiting_approval', 'searching', 'queued', 'running');
create unique index one_trial_per_number on driftd.retraining_jobs (parent_job_id, trial)
    where parent_job_id is not null;
create index jobs_searching on driftd.retraining_jobs (job_id) where state = 'searching';

-- What a trial said of itself on the way: the median of others at the same step decides whether it is
-- worth going on.
create table driftd.trial_values (
    job_id bigint not null references driftd.retraining_jobs on delete cascade,
    attempt int not null,
    step bigint not null check (step >= 0),
    value double precision not null,                -- of the objective
    created_at timestamptz not null default now(),
    primary key (job_id, attempt, step)
);

-- What a trainer printed.
create table driftd.retraining_job_logs (
    log_id bigint generated always as identity primary key,
    job_id bigint not null references driftd.retraining_jobs on delete cascade,
    attempt int not null,
    line text not null,
    created_at timestamptz not null default now()
);
create index job_logs_by_job on driftd.retraining_job_logs (job_id, log_id);
create index job_logs_by_time on driftd.retraining_job_logs (created_at); -- retention

-- Jobs that may run at a time, over all models and of one; written by the daemon from its settings.
create table driftd.retraining_limits (
    only_row boolean primary key default true check (only_row),
    max_running int check (max_running > 0),        -- null: as many as there are workers
    max_running_per_model int check (max_running_per_model > 0)
);
insert into driftd.retraining_limits default values;

alter table driftd.retraining_triggers
    -- age, volume: what held when it was asked ("version 2 after job 7"): the same condition asks once.
    add column condition text,
    drop constraint retraining_triggers_kind_check,
    add constraint retraining_triggers_kind_check
        check (kind in ('episode', 'schedule', 'request', 'age', 'volume')),
    add check ((kind in ('age', 'volume')) = (condition is not null));
create unique index one_trigger_per_condition on driftd.retraining_triggers (monitor, kind, condition)
    where kind in ('age', 'volume');

alter table driftd.model_versions
    -- candidate: registered. promoted: in service, what retraining starts from. superseded: another was
    -- promoted; its rows may still be in flight. retired: not to be used any more.
    add column stage text not null default 'candidate'
        check (stage in ('candidate', 'promoted', 'superseded', 'retired')),
    -- {"uris", "offsets", "sha256", "rows", "from", "to"}, as the trainer said
    add column training_data jsonb not null default '{}',
    add column metrics jsonb not null default '{}',     -- name to number
    add column parameters jsonb not null default '{}',  -- the hyperparameters it was trained with
    add column code text,                               -- a commit, an image digest: what trained it
    add column stage_reason text,                       -- why it is in this stage
    add column stage_at timestamptz not null default now();

-- What was in service before stages were known: each model's newest version.
update driftd.model_versions v set stage = 'promoted', stage_reason = 'the newest when stages were introduced'
where v.created_at = (select max(o.created_at) from driftd.model_versions o where o.model = v.model)
  and not exists (select from driftd.model_versions o
                  where o.model = v.model and o.created_at = v.created_at and o.version > v.version);
create unique index one_promoted_version on driftd.model_versions (model) where stage = 'promoted';

create table driftd.model_version_events (
    event_id bigint generated always as identity primary key,
    model text not null,
    version text not null,
    from_stage text,                                -- null: registered
    to_stage text not null,
    actor text not null,
    reason text,
    created_at timestamptz not null default clock_timestamp(),
    foreign key (model, version) references driftd.model_versions on delete cascade
);
create index version_events_by_version on driftd.model_version_events (model, version, event_id);

-- Baselines that trainers ask for: a daemon builds them from files it can read, or from offset ranges.
create table driftd.baseline_builds (
    build_id bigint generated always as identity primary key,
    job_id bigint not null references driftd.retraining_jobs on delete cascade,
    attempt int not null,
    model text not null,
    version text not null,
    -- {"files": [...], "time_column"?, "time_unit"?} or {"topic", "offsets": [...], "from"?, "to"?}
    source jsonb not null check (jsonb_typeof(source) = 'object'),
    state text not null default 'wanted' check (state in ('wanted', 'building', 'ready', 'failed')),
    baseline_id text references driftd.baselines,
    error text,
    requested_at timestamptz not null default now(),
    taken_at timestamptz,                           -- a builder that has died is followed by another
    finished_at timestamptz,
    unique (job_id, attempt, version),
    check ((state = 'ready') = (baseline_id is not null)),
    check ((state = 'failed') = (error is not null))
);
create index builds_wanted on driftd.baseline_builds (build_id) where state in ('wanted', 'building');

-- ---------------------------------------------------------------------------------------------
-- Transitions

create or replace function driftd.record_job_transition() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' and old.state = new.state then
        return null;
    end if;
    insert into driftd.retraining_job_events (job_id, from_state, to_state, attempt, actor, error)
    values (new.job_id, case when tg_op = 'UPDATE' then old.state end, new.state, new.attempt,
            coalesce(nullif(current_setting('driftd.actor', true), ''), session_user),
            case when tg_op = 'INSERT' or new.error is distinct from old.error then new.error end);
    if new.state in ('queued', 'searching') then
        -- Waiting trainers, and who plans trials, wake up; those that missed it poll.
        perform pg_notify('driftd_jobs', jsonb_build_object(
            'job_id', new.job_id, 'model', new.model, 'state', new.state)::text);
    end if;
    if new.parent_job_id is not null and new.state in ('succeeded', 'failed', 'cancelled') then
        perform pg_notify('driftd_jobs', jsonb_build_object(
            'job_id', new.parent_job_id, 'model', new.model, 'state', 'searching')::text);
    end if;
    if new.parent_job_id is null
       and new.state in ('awaiting_approval', 'succeeded', 'failed', 'cancelled') then
        insert into driftd.outbox (key, kind, payload)
        values (format('job:%s:%s:%s', new.job_id, new.state, new.attempt), 'job_' || new.state,
                jsonb_build_object('job_id', new.job_id, 'model', new.model, 'version', new.version,
                    'attempt', new.attempt, 'error', new.error, 'result', new.result))
        on conflict (key) do nothing;
    end if;
    return null;
end $$;

create function driftd.record_stage() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' and old.stage = new.stage then
        return null;
    end if;
    insert into driftd.model_version_events (model, version, from_stage, to_stage, actor, reason)
    values (new.model, new.version, case when tg_op = 'UPDATE' then old.stage end, new.stage,
            coalesce(nullif(current_setting('driftd.actor', true), ''), session_user), new.stage_reason);
    if new.stage = 'promoted' then
        insert into driftd.outbox (key, kind, payload)
        values (format('version:%s:%s:promoted:%s', new.model, new.version, extract(epoch from clock_timestamp())),
                'version_promoted', jsonb_build_object('model', new.model, 'version', new.version,
                    'artifact_uri', new.artifact_uri, 'baseline_id', new.baseline_id,
                    'job_id', new.job_id, 'reason', new.stage_reason))
        on conflict (key) do nothing;
    end if;
    return null;
end $$;
create trigger record_stage after insert or update of stage on driftd.model_versions
    for each row execute function driftd.record_stage();

-- ---------------------------------------------------------------------------------------------
-- The data suggested for training

-- The policy's `data`: {"select": "last"|"since_drift"|"sliding", "span_seconds"?, "table"?, "path"?}.
-- Answers {"select", "topic", "from", "to", "rows", "offsets": [{"partition", "first_offset",
-- "next_offset", "generation"?}], "table"?, "path"?}; what is not known is left out. The ranges are
-- those in which the windows' rows stand, from the first to behind the last of each partition.
create function driftd.suggested_data(
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
                   and e.state <> 'resolved')
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

-- {model} {version} {monitor} {from} {to} {date} in the names of tables and paths; times as
-- 2026-01-31T00:00:00Z, the date that of the trigger, in UTC.
create function driftd.fill(
    template text, model text, version text, monitor text, from_time timestamptz, to_time timestamptz,
    at timestamptz
) returns text
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    select replace(replace(replace(replace(replace(replace(template,
        '{model}', coalesce(model, '')), '{version}', coalesce(version, '')),
        '{monitor}', coalesce(monitor, '')),
        '{from}', coalesce(to_char(from_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '')),
        '{to}', coalesce(to_char(to_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '')),
        '{date}', to_char(at at time zone 'UTC', 'YYYY-MM-DD'))
$$;

-- ---------------------------------------------------------------------------------------------
-- Triggers: the one place with all guards

-- Whether a moment falls into one of [{"from": "22:00", "to": "06:00"}] on that zone's wall clock.
create function driftd.is_quiet(hours jsonb, time_zone text, at timestamptz) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (
        select from jsonb_array_elements(case when jsonb_typeof(hours) = 'array' then hours else '[]' end) h
            cross join lateral (select (h ->> 'from')::time as from_time, (h ->> 'to')::time as to_time,
                (at at time zone coalesce(time_zone, 'UTC'))::time as now_time) t
        where case when from_time <= to_time then now_time >= from_time and now_time < to_time
                   else now_time >= from_time or now_time < to_time end)
$$;

drop function driftd.request_retraining(text, text, text);
drop function driftd.trigger_retraining(text, text, jsonb, text, text, timestamptz, bigint, text,
    interval, int, jsonb, jsonb, int, text, jsonb, timestamptz);

-- The policy is what a monitor's settings say under `retraining`: cooldown_seconds, budget {jobs,
-- per_seconds}, quiet_hours, time_zone, approval, priority, max_attempts, parameters, search, promotion,
-- data. What it lacks has the usual value. Guards, in this order: the caller's own, an open job (which
-- is joined), quiet hours, the cooldown, the budget. A request by hand passes all but the open job, and
-- waits for an approval like others.
create function driftd.trigger_retraining(
    kind text,
    model text,
    reason jsonb default '{}',
    policy jsonb default '{}',
    monitor text default null,
    version text default null,                  -- null: the promoted one, else the newest
    slot timestamptz default null,
    episode_id bigint default null,
    condition text default null,
    requested_by text default null,
    guard text default null,                    -- a guard of the caller's own has stopped it
    detail jsonb default '{}',                  -- what that guard saw
    at timestamptz default now()                -- the caller's clock
) returns driftd.retraining_triggers
    language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    asked driftd.retraining_triggers;
    open_job driftd.retraining_jobs;
    last_job timestamptz;
    cooldown interval := make_interval(secs => coalesce((policy ->> 'cooldown_seconds')::double precision, 0));
    budget int := (policy #>> '{budget,jobs}')::int;
    period interval := make_interval(secs => (policy #>> '{budget,per_seconds}')::double precision);
    spent int;
    the_version text := trigger_retraining.version;
    the_baseline text;
    the_reason jsonb;
    the_data jsonb;
    the_search jsonb := nullif(policy -> 'search', 'null');
    the_outcome text := 'enqueued';
    the_guard text := trigger_retraining.guard;
    the_job bigint;
    the_detail jsonb := trigger_retraining.detail;
    the_trigger driftd.retraining_triggers;
    who text := coalesce(requested_by, 'monitor ' || monitor, session_user);
begin
    insert into driftd.models (model) values (trigger_retraining.model) on conflict do nothing;
    -- One at a time per model: what the guards see below holds until this transaction ends. Not
    -- "for update", which rows that refer to the model would have to wait for.
    perform from driftd.models m where m.model = trigger_retraining.model for no key update;

    select * into asked from driftd.retraining_triggers t
    where t.kind = trigger_retraining.kind
      and case t.kind when 'schedule' then t.monitor = trigger_retraining.monitor and t.slot = trigger_retraining.slot
          when 'episode' then t.episode_id = trigger_retraining.episode_id
          when 'request' then false
          else t.monitor = trigger_retraining.monitor and t.condition = trigger_retraining.condition end;
    -- Asked before: the answer stands, but for what goes on by itself: an episode or a condition that was
    -- stopped may ask again, and an episode whose job has failed.
    if asked.trigger_id is not null and (asked.kind = 'schedule' or (asked.outcome <> 'stopped'
            and not (asked.kind = 'episode' and exists (select from driftd.retraining_jobs j
                where j.job_id = asked.job_id and j.state = 'failed')))) then
        return asked;
    end if;

    select v.version, v.baseline_id into the_version, the_baseline
    from driftd.model_versions v
    where v.model = trigger_retraining.model
      and (trigger_retraining.version is null or v.version = trigger_retraining.version)
    order by v.stage = 'promoted' desc, v.created_at desc limit 1;
    the_version := coalesce(trigger_retraining.version, the_version);

    the_reason := jsonb_strip_nulls(jsonb_build_object(
        'kind', trigger_retraining.kind, 'at', trigger_retraining.at,
        'monitor', trigger_retraining.monitor, 'slot', trigger_retraining.slot,
        'episode_id', trigger_retraining.episode_id,
        'requested_by', trigger_retraining.requested_by)) || coalesce(trigger_retraining.reason, '{}');

    if the_guard is not null then
        the_outcome := 'stopped';
    else
        select * into open_job from driftd.retraining_jobs j
        where j.model = trigger_retraining.model and j.parent_job_id is null
          and j.state in ('awaiting_approval', 'searching', 'queued', 'running');
        select max(j.created_at), count(*) filter (where j.created_at > trigger_retraining.at - period)
        into last_job, spent
        from driftd.retraining_jobs j
        where j.model = trigger_retraining.model and j.parent_job_id is null;
        if open_job.job_id is not null then
            the_outcome := 'joined';
            the_guard := 'open_job';
            the_job := open_job.job_id;
            the_detail := the_detail || jsonb_build_object('job_state', open_job.state);
        elsif trigger_retraining.kind = 'request' then
            the_guard := null;
        elsif driftd.is_quiet(policy -> 'quiet_hours', policy ->> 'time_zone', trigger_retraining.at) then
            the_outcome := 'stopped';
            the_guard := 'quiet_hours';
            the_detail := the_detail || jsonb_build_object(
                'quiet_hours', policy -> 'quiet_hours', 'time_zone', coalesce(policy ->> 'time_zone', 'UTC'));
        elsif last_job + cooldown > trigger_retraining.at then
            the_outcome := 'stopped';
            the_guard := 'cooldown';
            the_detail := the_detail || jsonb_build_object(
                'last_job_at', last_job, 'until', last_job + cooldown);
        elsif spent >= budget then
            the_outcome := 'stopped';
            the_guard := 'budget';
            the_detail := the_detail || jsonb_build_object('jobs', spent, 'budget', policy -> 'budget');
        end if;
    end if;

    if the_outcome = 'joined' then
        update driftd.retraining_jobs j set
            -- All of them stand in retraining_triggers; of what asks by the clock the job tells the
            -- first ones, so that a schedule beside a job that nobody claims does not make its row
            -- grow for ever. A drift is never left out.
            reasons = case when trigger_retraining.kind = 'episode' or jsonb_array_length(j.reasons) < 20
                then j.reasons || the_reason else j.reasons end,
            priority = greatest(j.priority, (policy ->> 'priority')::int)
        where j.job_id = the_job;
    elsif the_outcome = 'enqueued' then
        perform set_config('driftd.actor', who, true);
        the_data := driftd.suggested_data(trigger_retraining.model, trigger_retraining.monitor, the_version,
            (the_reason ->> 'window_start')::timestamptz, (the_reason ->> 'window_end')::timestamptz,
            trigger_retraining.episode_id, coalesce(nullif(policy -> 'data', 'null'), '{}'),
            trigger_retraining.at);
        insert into driftd.retraining_jobs
            (model, version, monitor, reasons, state, priority, max_attempts, baseline_id,
             training_data, parameters, search, promotion, created_at)
        values (trigger_retraining.model, the_version, trigger_retraining.monitor,
                jsonb_build_array(the_reason),
                case when policy ->> 'approval' = 'required' then 'awaiting_approval'
                     when the_search is not null then 'searching' else 'queued' end::driftd.job_state,
                coalesce((policy ->> 'priority')::int, 0), coalesce((policy ->> 'max_attempts')::int, 3),
                the_baseline, the_data, coalesce(nullif(policy -> 'parameters', 'null'), '{}'), the_search,
                coalesce(nullif(policy -> 'promotion', 'null'), '{"policy": "manual"}'),
                trigger_retraining.at)
        returning job_id into the_job;
        insert into driftd.outbox (key, kind, payload)
        values ('job:' || the_job, 'job_enqueued', jsonb_build_object(
            'job_id', the_job, 'model', trigger_retraining.model, 'version', the_version,
            'monitor', trigger_retraining.monitor, 'baseline_id', the_baseline,
            'reasons', jsonb_build_array(the_reason), 'created_at', trigger_retraining.at));
    end if;

    if asked.trigger_id is not null then
        update driftd.retraining_triggers t set
            outcome = the_outcome, guard = the_guard, job_id = the_job,
            detail = the_detail || case when asked.job_id is not null
                then jsonb_build_object('failed_job_id', asked.job_id) else '{}' end,
            reason = the_reason, created_at = trigger_retraining.at
        where t.trigger_id = asked.trigger_id
        returning * into the_trigger;
        return the_trigger;
    end if;
    insert into driftd.retraining_triggers
        (kind, model, version, monitor, slot, episode_id, condition, requested_by, reason, outcome, guard,
         job_id, detail, created_at)
    values (trigger_retraining.kind, trigger_retraining.model, the_version,
            trigger_retraining.monitor, trigger_retraining.slot, trigger_retraining.episode_id,
            trigger_retraining.condition, trigger_retraining.requested_by, the_reason, the_outcome,
            the_guard, the_job, the_detail, trigger_retraining.at)
    returning * into the_trigger;
    return the_trigger;
end $$;

-- Asked for by a person or a program, under the policy of the model's newest monitor.
create function driftd.request_retraining(
    model text,
    reason text default null,
    requested_by text default session_user
) returns driftd.retraining_triggers
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    policy jsonb;
begin
    perform from driftd.models m where m.model = request_retraining.model;
    if not found then
        raise exception 'there is no model %', quote_literal(request_retraining.model) using
            errcode = 'RD004',
            hint = coalesce('known: ' || (select string_agg(m.model, ', ' order by m.model)
                                          from driftd.models m), 'no model is known yet');
    end if;
    select m.settings -> 'retraining' into policy from driftd.monitors m
    where m.model = request_retraining.model order by m.monitor_id desc limit 1;
    return driftd.trigger_retraining(
        kind => 'request', model => request_retraining.model, policy => coalesce(policy, '{}'),
        reason => jsonb_strip_nulls(jsonb_build_object('text', request_retraining.reason)),
        requested_by => request_retraining.requested_by);
end $$;

-- ---------------------------------------------------------------------------------------------
-- What a person may do with a job

create function driftd.job_to_change(job_id bigint) returns driftd.retraining_jobs
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs;
begin
    select * into job from driftd.retraining_jobs j where j.job_id = job_to_change.job_id for update;
    if job.job_id is null then
        raise exception 'there is no job %', job_to_change.job_id using errcode = 'RD002';
    end if;
    return job;
end $$;

-- A job that waits for an approval goes into the queue. Approving twice is no error.
create function driftd.approve_job(job_id bigint, by text default session_user) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.job_to_change(approve_job.job_id);
    next_state driftd.job_state := case when job.search is null then 'queued' else 'searching' end;
begin
    if job.state in ('queued', 'searching', 'running') then
        return job.state;
    elsif job.state <> 'awaiting_approval' then
        raise exception 'job % is %, it does not wait for an approval', job.job_id, job.state
            using errcode = 'RD003';
    end if;
    perform set_config('driftd.actor', approve_job.by, true);
    update driftd.retraining_jobs j set state = next_state, run_after = now() where j.job_id = job.job_id;
    return next_state;
end $$;

-- A job that failed or was cancelled goes into the queue again, with as many attempts as at first.
create function driftd.retry_job(job_id bigint, by text default session_user) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.job_to_change(retry_job.job_id);
    open_job bigint;
    -- A search that has not come to its end goes on; its trials that failed are tried again as well.
    next_state driftd.job_state := case when job.search is null
        or job.reasons @> '[{"kind": "search"}]' then 'queued' else 'searching' end;
begin
    if job.state not in ('failed', 'cancelled') then
        raise exception 'job % is %, only one that failed or was cancelled can be tried again',
            job.job_id, job.state using errcode = 'RD003';
    end if;
    if job.parent_job_id is not null then
        raise exception 'job % is trial % of job %', job.job_id, job.trial, job.parent_job_id
            using errcode = 'RD003', hint = 'try the job again that it belongs to';
    end if;
    perform from driftd.models m where m.model = job.model for no key update;
    select j.job_id into open_job from driftd.retraining_jobs j
    where j.model = job.model and j.parent_job_id is null
      and j.state in ('awaiting_approval', 'searching', 'queued', 'running');
    if open_job is not null then
        raise exception 'model % has job % open', job.model, open_job using errcode = 'RD003',
            hint = 'a model has one open job at a time';
    end if;
    perform set_config('driftd.actor', retry_job.by, true);
    update driftd.retraining_jobs j set
        state = case when j.parent_job_id is null then next_state else 'queued' end,
        run_after = now(), finished_at = null,
        lease_token = null, lease = null, lease_expires_at = null,
        -- As many as at first: those from the last such return to now.
        max_attempts = j.attempt + j.max_attempts - coalesce((
            select e.attempt from driftd.retraining_job_events e
            where e.job_id = j.job_id and e.from_state in ('failed', 'cancelled')
            order by e.event_id desc limit 1), 0)
    where j.job_id = job.job_id
       or (next_state = 'searching' and j.parent_job_id = job.job_id
           and j.state in ('failed', 'cancelled'));
    return next_state;
end $$;

-- Takes an open job back, and its trials. A running trainer learns of it by its next heartbeat, and can
-- no longer complete it.
create or replace function driftd.cancel_job(job_id bigint, by text default session_user) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.job_to_change(cancel_job.job_id);
begin
    if job.state in ('succeeded', 'failed') then
        raise exception 'job % is % already', job.job_id, job.state using errcode = 'RD003';
    elsif job.state <> 'cancelled' then
        perform set_config('driftd.actor', cancel_job.by, true);
        update driftd.retraining_jobs j set state = 'cancelled', finished_at = now()
        where j.job_id = job.job_id
           or (j.parent_job_id = job.job_id and j.state in ('queued', 'running'));
    end if;
    return 'cancelled';
end $$;

-- ---------------------------------------------------------------------------------------------
-- The trainer's side

-- What a trainer is given, by the schema docs/schemas/job.v1.json.
create function driftd.job_document(job driftd.retraining_jobs) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
    select jsonb_build_object(
        'schema', 'driftd.job/1', 'job_id', job.job_id, 'attempt', job.attempt,
        'max_attempts', job.max_attempts, 'model', job.model, 'version', job.version,
        'baseline_id', job.baseline_id, 'monitor', job.monitor, 'reasons', job.reasons,
        'training_data', job.training_data, 'parameters', job.parameters, 'search', job.search,
        'trial', case when job.parent_job_id is not null then jsonb_build_object(
            'parent_job_id', job.parent_job_id, 'number', job.trial) end,
        'created_at', job.created_at)
$$;

-- Takes the first job that is due, of any model or of one, if the limits leave room. No row: nothing to
-- do. Two workers never get the same job: each skips what the other has locked.
create or replace function driftd.claim_job(
    worker text,
    model text default null,
    lease interval default '60 s'
) returns setof driftd.retraining_jobs
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    most int;
    most_per_model int;
begin
    if claim_job.lease is null or claim_job.lease not between '1 s' and '1 day' then
        raise exception 'a lease is between 1 second and 1 day, not %', claim_job.lease
            using errcode = 'RD004';
    end if;
    if coalesce(claim_job.worker, '') = '' then
        raise exception 'a worker needs a name' using errcode = 'RD004',
            hint = 'it is shown to people, and need not be unique: the lease token is what counts';
    end if;
    perform driftd.return_expired_leases();
    perform set_config('driftd.actor', claim_job.worker, true);
    select l.max_running, l.max_running_per_model into most, most_per_model from driftd.retraining_limits l;
    if most is not null or most_per_model is not null then
        -- Two claims at once must not both see the last free place.
        perform pg_advisory_xact_lock(hashtextextended('driftd.claim', 0));
        if (select count(*) from driftd.retraining_jobs j where j.state = 'running') >= most then
            return;
        end if;
    end if;
    return query
    update driftd.retraining_jobs j set
        state = 'running', attempt = j.attempt + 1, worker = claim_job.worker,
        lease_token = gen_random_uuid(), lease = claim_job.lease,
        lease_expires_at = now() + claim_job.lease,
        started_at = now(), progress = null
    where j.job_id = (
        select c.job_id from driftd.retraining_jobs c
        where c.state = 'queued' and c.run_after <= now()
          and (claim_job.model is null or c.model = claim_job.model)
          and (most_per_model is null or most_per_model > (
                select count(*) from driftd.retraining_jobs r
                where r.state = 'running' and r.model = c.model))
        order by c.priority desc, c.run_after, c.job_id
        limit 1
        for update skip locked)
    returning j.*;
end $$;
comment on function driftd.claim_job(text, text, interval) is
    'Takes the first job that is due, for as long as the lease; none: nothing to do.';

-- Says how far it is, and extends the lease. Answers as heartbeat_job does.
create function driftd.progress_job(job_id bigint, attempt int, lease_token uuid, progress jsonb)
    returns text
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    select driftd.heartbeat_job(job_id, attempt, lease_token, progress)
$$;

-- Keeps lines that the trainer printed. A line beyond 8 KiB is cut, NUL cannot come; a call takes at most
-- 1,000 lines.
create function driftd.log_job(job_id bigint, attempt int, lease_token uuid, lines text[])
    returns int
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(log_job.job_id, log_job.attempt, log_job.lease_token);
begin
    if cardinality(lines) > 1000 then
        raise exception 'a call takes at most 1,000 lines, not %', cardinality(lines) using errcode = 'RD004';
    end if;
    insert into driftd.retraining_job_logs (job_id, attempt, line)
    select job.job_id, job.attempt, left(l.line, 8192)
    from unnest(lines) with ordinality as l (line, number)
    where l.line is not null order by l.number;
    return coalesce(cardinality(lines), 0);
end $$;

-- A trial says what its objective is worth at a step. Answers 'continue'; 'prune': others were better at
-- this step, complete it with {"pruned": true}; or 'cancelled'.
create function driftd.report_trial(
    job_id bigint, attempt int, lease_token uuid, step bigint, value double precision
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        report_trial.job_id, report_trial.attempt, report_trial.lease_token);
    search jsonb;
    pruner jsonb;
    others int;
    median double precision;
    answer text := driftd.heartbeat_job(report_trial.job_id, report_trial.attempt, report_trial.lease_token);
begin
    if answer <> 'running' then
        return answer;
    end if;
    if job.parent_job_id is null then
        raise exception 'job % is no trial', job.job_id using errcode = 'RD003';
    end if;
    if step is null or step < 0 then
        raise exception 'a step is a number from 0, not %', step using errcode = 'RD004';
    end if;
    if value is null or value in ('NaN', 'Infinity', '-Infinity') then
        raise exception 'the value at step % is %, not a number', step, value using errcode = 'RD004';
    end if;
    insert into driftd.trial_values (job_id, attempt, step, value)
    values (job.job_id, job.attempt, report_trial.step, report_trial.value)
    on conflict (job_id, attempt, step) do update set value = excluded.value;
    select p.search into search from driftd.retraining_jobs p where p.job_id = job.parent_job_id;
    pruner := nullif(search -> 'pruner', 'null');
    if pruner is null or step < coalesce((pruner ->> 'min_step')::bigint, 1) then
        return 'continue';
    end if;
    select count(*), percentile_cont(0.5) within group (order by v.value) into others, median
    from driftd.trial_values v join driftd.retraining_jobs t on t.job_id = v.job_id and t.attempt = v.attempt
    where t.parent_job_id = job.parent_job_id and t.job_id <> job.job_id and v.step = report_trial.step;
    if others >= coalesce((pruner ->> 'min_trials')::int, 5)
       and (case search #>> '{objective,goal}' when 'minimize' then value > median else value < median end) then
        return 'prune';
    end if;
    return 'continue';
end $$;


-- ---------------------------------------------------------------------------------------------
-- What a completed job has to say

create function driftd.bad_result(what text, hint text default null) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if hint is null then
        raise exception '%', what using errcode = 'RD004';
    end if;
    raise exception '%', what using errcode = 'RD004', hint = hint;
end $$;

-- Parameters outside their space: a missing one, another type, out of bounds, none of the choices.
create function driftd.check_parameters(space jsonb, parameters jsonb) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
    dimension jsonb;
    value jsonb;
    number numeric;                                 -- which holds every number of JSON
begin
    for name, dimension in select * from jsonb_each(space) loop
        value := parameters -> name;
        if value is null then
            perform driftd.bad_result(format('parameters.%s is missing; the search space has it', name));
        elsif dimension ->> 'type' = 'categorical' then
            if not dimension -> 'choices' @> jsonb_build_array(value) then
                perform driftd.bad_result(format('parameters.%s is %s, none of %s', name, value,
                    dimension -> 'choices'));
            end if;
        elsif jsonb_typeof(value) <> 'number' then
            perform driftd.bad_result(format('parameters.%s is %s, not a number', name, value));
        else
            number := value::numeric;
            if number < (dimension ->> 'low')::numeric or number > (dimension ->> 'high')::numeric then
                perform driftd.bad_result(format('parameters.%s is %s, outside its space from %s to %s', name,
                    value, dimension ->> 'low', dimension ->> 'high'));
            elsif dimension ->> 'type' = 'int' and number <> floor(number) then
                perform driftd.bad_result(format('parameters.%s is %s, not a whole number', name, value));
            end if;
        end if;
    end loop;
end $$;

-- The search space a job's parameters come from; null: none.
create function driftd.space_of(job driftd.retraining_jobs) returns jsonb
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select coalesce(job.search, (select p.search from driftd.retraining_jobs p
                                 where p.job_id = job.parent_job_id)) -> 'space'
$$;

-- Whether a result can be right, by its form: docs/schemas/result.v1.json.
create function driftd.check_result(job driftd.retraining_jobs, result jsonb) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wrong text;
    data jsonb := result -> 'training_data';
begin
    if jsonb_typeof(result) is distinct from 'object' then
        perform driftd.bad_result(format('the result of a job is a JSON object, not %s',
            coalesce(jsonb_typeof(result), 'null')));
    end if;
    select format('result.%s is %s, not %s', k.key, jsonb_typeof(result -> k.key), k.type) into wrong
    from (values ('version', 'string'), ('artifact_uri', 'string'), ('baseline_id', 'string'),
                 ('code', 'string'), ('metrics', 'object'), ('parameters', 'object'),
                 ('training_data', 'object'), ('objective', 'number'), ('pruned', 'boolean'))
        as k (key, type)
    where jsonb_typeof(result -> k.key) not in (k.type, 'null') limit 1;
    if wrong is not null then
        perform driftd.bad_result(wrong);
    end if;
    select format('result.metrics.%s is %s, not a number', m.key, m.value) into wrong
    from jsonb_each(coalesce(nullif(result -> 'metrics', 'null'), '{}')) m
    where jsonb_typeof(m.value) <> 'number' limit 1;
    if wrong is not null then
        perform driftd.bad_result(wrong);
    end if;
    -- Where they are read they are double precision, which holds not every number of JSON.
    begin
        perform m.value::double precision
        from jsonb_each(coalesce(nullif(result -> 'metrics', 'null'), '{}')) m;
        perform nullif(result -> 'objective', 'null')::double precision;
    exception when numeric_value_out_of_range then
        perform driftd.bad_result('a number of the result is beyond double precision');
    end;
    if data ->> 'sha256' is not null and data ->> 'sha256' !~ '^[0-9a-f]{64}$' then
        perform driftd.bad_result(format('result.training_data.sha256 is %s, not 64 hexadecimal digits',
            data -> 'sha256'));
    elsif data ->> 'rows' is not null
          and (jsonb_typeof(data -> 'rows') <> 'number' or data ->> 'rows' !~ '^[1-9][0-9]{0,17}$') then
        perform driftd.bad_result(format('result.training_data.rows is %s, not a number of rows',
            data -> 'rows'));
    end if;
    if driftd.space_of(job) is not null then
        perform driftd.check_parameters(driftd.space_of(job),
            job.parameters || coalesce(nullif(result -> 'parameters', 'null'), '{}'));
    end if;
    if job.parent_job_id is not null and result -> 'pruned' is distinct from 'true'
       and jsonb_typeof(result -> 'objective') is distinct from 'number' then
        perform driftd.bad_result('a trial is completed with its objective, a number',
            'or with {"pruned": true} after report_trial has answered so');
    elsif job.parent_job_id is null and coalesce(result ->> 'version', '') = '' then
        perform driftd.bad_result(format('the result of job %s names no version', job.job_id),
            'a completed job has made a version of the model: {"version": "..."}');
    end if;
end $$;

-- Whether a baseline can be the new version's own.
create function driftd.check_baseline(job driftd.retraining_jobs, result jsonb) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    mine driftd.baselines;
    wrong text;
    digest text := result #>> '{training_data,sha256}';
begin
    if result ->> 'baseline_id' is null then
        return;
    end if;
    select * into mine from driftd.baselines b where b.baseline_id = result ->> 'baseline_id';
    if mine.baseline_id is null then
        perform driftd.bad_result(format('there is no baseline %s', result ->> 'baseline_id'),
            'import it first: driftd baseline import, or driftd.request_baseline');
    elsif (mine.model, mine.version) is distinct from (job.model, result ->> 'version') then
        perform driftd.bad_result(format('baseline %s is of version %s of model %s, not of version %s of model %s',
            left(mine.baseline_id, 12), mine.version, mine.model, result ->> 'version', job.model));
    elsif digest <> mine.training_data_digest then
        perform driftd.bad_result(format('the training data has digest %s, baseline %s was made from %s', digest,
            left(mine.baseline_id, 12), mine.training_data_digest),
            'a baseline describes the data that its version was trained on');
    end if;
    select string_agg(format('%s (%s)', p.name, p.kind), ', ' order by p.name) into wrong
    from (select f ->> 'name' as name, f ->> 'kind' as kind
          from driftd.baselines b cross join jsonb_array_elements(b.features) f
          where b.baseline_id = job.baseline_id) p
    where not exists (select from jsonb_array_elements(mine.features) f
        where f ->> 'name' = p.name and f ->> 'kind' = p.kind);
    if wrong is not null then
        perform driftd.bad_result(format('baseline %s lacks features of the version that job %s retrains: %s',
            left(mine.baseline_id, 12), job.job_id, wrong),
            'a version with fewer features is another model; further ones may be added');
    end if;
end $$;

-- What the trainer made, as a version of the model.
drop function driftd.register_model_version(driftd.retraining_jobs, jsonb);
create function driftd.register_model_version(job driftd.retraining_jobs, result jsonb)
    returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    new_version text := result ->> 'version';
    there driftd.model_versions;
    made record;
begin
    select * into there from driftd.model_versions v where v.model = job.model and v.version = new_version;
    -- It may be there already, because its baseline was imported while the job was open.
    if there.version is not null and (there.job_id is not null or there.created_at < job.created_at
                                      or there.version = job.version) then
        perform driftd.bad_result(format('version %s of model %s exists already%s', new_version, job.model,
            coalesce('; job ' || there.job_id || ' made it', '')), 'every job makes a version of its own');
    end if;
    insert into driftd.model_versions as v
        (model, version, baseline_id, parent_version, job_id, training_data_digest, artifact_uri,
         training_data, metrics, parameters, code, stage_reason)
    values (job.model, new_version, result ->> 'baseline_id', job.version, job.job_id,
            result #>> '{training_data,sha256}', result ->> 'artifact_uri',
            coalesce(nullif(result -> 'training_data', 'null'), '{}'),
            coalesce(nullif(result -> 'metrics', 'null'), '{}'),
            job.parameters || coalesce(nullif(result -> 'parameters', 'null'), '{}'),
            result ->> 'code', format('made by job %s', job.job_id))
    on conflict (model, version) do update set
        baseline_id = coalesce(excluded.baseline_id, v.baseline_id),
        parent_version = excluded.parent_version, job_id = excluded.job_id,
        training_data_digest = coalesce(excluded.training_data_digest, v.training_data_digest),
        artifact_uri = excluded.artifact_uri, training_data = excluded.training_data,
        metrics = excluded.metrics, parameters = excluded.parameters, code = excluded.code;
    perform driftd.promote_by_policy(job, new_version);
end $$;

-- What the job's policy says of a new version: promoted, or why not yet.
create function driftd.promote_by_policy(job driftd.retraining_jobs, new_version text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    policy text := coalesce(job.promotion ->> 'policy', 'manual');
    metric text := job.promotion ->> 'metric';
    -- Not floating: 0.71 beats 0.7 by 0.01 and not by more.
    gain numeric;
    old_value numeric;
    new_value numeric;
    held text;
begin
    select (v.metrics ->> metric)::numeric into new_value from driftd.model_versions v
    where v.model = job.model and v.version = new_version;
    select (v.metrics ->> metric)::numeric into old_value from driftd.model_versions v
    where v.model = job.model and v.version = job.version;
    gain := case job.promotion ->> 'goal' when 'minimize' then old_value - new_value
                else new_value - old_value end;
    held := case
        when policy = 'manual' then 'waits for driftd models promote'
        when exists (select from driftd.monitors m where m.model = job.model and m.topic is not null)
             and (select v.baseline_id from driftd.model_versions v
                  where v.model = job.model and v.version = new_version) is null
            then 'has no baseline: nothing could be said of its rows'
        when policy = 'automatic' then null
        when new_value is null then format('reports no %s', metric)
        when old_value is null then format('version %s has no %s to compare with', coalesce(job.version, '-'), metric)
        when gain <= coalesce((job.promotion ->> 'min_gain')::numeric, 0)
            then format('%s of %s does not beat %s of version %s', metric, new_value, old_value, job.version)
    end;
    if held is null then
        perform driftd.promote_version(job.model, new_version, format('job %s', job.job_id),
            case policy when 'automatic' then 'promoted by policy'
                else format('%s of %s beats %s of version %s', metric, new_value, old_value, job.version) end);
    else
        update driftd.model_versions v set stage_reason = held
        where v.model = job.model and v.version = new_version;
    end if;
end $$;

create or replace function driftd.complete_job(
    job_id bigint,
    attempt int,
    lease_token uuid,
    result jsonb default '{}'
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs;
begin
    -- The model before the job, as triggers lock them: a promotion would lock it after.
    perform from driftd.models m
    where m.model = (select j.model from driftd.retraining_jobs j where j.job_id = complete_job.job_id)
    for no key update;
    job := driftd.leased_job(complete_job.job_id, complete_job.attempt, complete_job.lease_token);
    if job.state = 'succeeded' then
        return job.state;
    elsif job.state <> 'running' then
        raise exception 'job % is %, not running', job.job_id, job.state using errcode = 'RD003';
    end if;
    perform driftd.check_result(job, complete_job.result);
    perform driftd.check_baseline(job, complete_job.result);
    perform set_config('driftd.actor', job.worker, true);
    update driftd.retraining_jobs j set
        state = 'succeeded', result = complete_job.result, finished_at = now()
    where j.job_id = job.job_id;
    if job.parent_job_id is null then
        perform driftd.register_model_version(job, complete_job.result);
    end if;
    return 'succeeded';
end $$;
comment on function driftd.complete_job(bigint, int, uuid, jsonb) is
    'The job is done: registers the version that the result names. Saying it twice is no error.';

-- ---------------------------------------------------------------------------------------------
-- Baselines for new versions

-- Asks driftd to make the new version's baseline: from files that the daemon can read, or from offset
-- ranges of a topic. Without a source: the data that the job suggests. Asking twice asks once.
create function driftd.request_baseline(
    job_id bigint, attempt int, lease_token uuid, version text, source jsonb default '{}'
) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        request_baseline.job_id, request_baseline.attempt, request_baseline.lease_token);
    the_source jsonb := request_baseline.source;
    build bigint;
begin
    if job.state <> 'running' then
        raise exception 'job % is %, not running', job.job_id, job.state using errcode = 'RD003';
    elsif coalesce(request_baseline.version, '') = '' then
        perform driftd.bad_result('a baseline belongs to a version; none is named');
    elsif jsonb_typeof(the_source) is distinct from 'object' then
        perform driftd.bad_result('the source of a baseline is a JSON object',
            '{"files": [...]} or {"topic": ..., "offsets": [...]}');
    elsif exists (select from driftd.model_versions v where v.model = job.model
            and v.version = request_baseline.version
            and (v.job_id is not null or v.created_at < job.created_at)) then
        perform driftd.bad_result(format('version %s of model %s exists already', request_baseline.version,
            job.model), 'every job makes a version of its own');
    end if;
    if not the_source ? 'files' then
        the_source := jsonb_strip_nulls(jsonb_build_object('topic', job.training_data -> 'topic',
            'offsets', job.training_data -> 'offsets', 'from', job.training_data -> 'from',
            'to', job.training_data -> 'to')) || the_source;
        if jsonb_typeof(the_source -> 'offsets') is distinct from 'array' or the_source -> 'offsets' = '[]' then
            perform driftd.bad_result(format('job %s suggests no offset ranges, and the source has none', job.job_id),
                'name {"files": [...]} or {"topic": ..., "offsets": [{"partition", "first_offset", "next_offset"}]}');
        end if;
    end if;
    insert into driftd.baseline_builds as b (job_id, attempt, model, version, source)
    values (job.job_id, job.attempt, job.model, request_baseline.version, the_source)
    on conflict (job_id, attempt, version) do update set
        -- What failed may be asked for anew, with a source that is right.
        state = case when b.state = 'failed' then 'wanted' else b.state end,
        source = case when b.state = 'failed' then excluded.source else b.source end,
        error = null, taken_at = case when b.state = 'failed' then null else b.taken_at end
    returning b.build_id into build;
    perform pg_notify('driftd_builds', build::text);
    return build;
end $$;

-- How far that is: {"state": "wanted"|"building"|"ready"|"failed", "baseline_id"?, "sha256"?, "rows"?,
-- "error"?}.
create function driftd.baseline_build(job_id bigint, attempt int, lease_token uuid, build_id bigint)
    returns jsonb
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        baseline_build.job_id, baseline_build.attempt, baseline_build.lease_token);
    answer jsonb;
begin
    select jsonb_strip_nulls(jsonb_build_object('state', b.state, 'baseline_id', b.baseline_id,
        'sha256', l.training_data_digest, 'rows', l.rows, 'error', b.error)) into answer
    from driftd.baseline_builds b left join driftd.baselines l using (baseline_id)
    where b.build_id = baseline_build.build_id and b.job_id = job.job_id;
    if answer is null then
        raise exception 'job % has asked for no baseline %', job.job_id, baseline_build.build_id
            using errcode = 'RD002';
    end if;
    return answer;
end $$;

-- ---------------------------------------------------------------------------------------------
-- Stages of versions

create function driftd.version_to_change(model text, version text) returns driftd.model_versions
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    found_version driftd.model_versions;
begin
    perform from driftd.models m where m.model = version_to_change.model for no key update;
    select * into found_version from driftd.model_versions v
    where v.model = version_to_change.model and v.version = version_to_change.version for update;
    if found_version.version is null then
        raise exception 'model % has no version %', version_to_change.model, version_to_change.version
            using errcode = 'RD002', hint = coalesce('it has ' || (
                select string_agg(v.version, ', ' order by v.created_at) from driftd.model_versions v
                where v.model = version_to_change.model), 'no version of it is known');
    end if;
    return found_version;
end $$;

-- Puts a version into service; the one before is superseded. Twice is no error.
create function driftd.promote_version(
    model text, version text, by text default session_user, reason text default null
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    chosen driftd.model_versions := driftd.version_to_change(promote_version.model, promote_version.version);
begin
    if chosen.stage = 'promoted' then
        return 'promoted';
    elsif chosen.stage = 'retired' then
        raise exception 'version % of model % is retired', chosen.version, chosen.model using errcode = 'RD003';
    end if;
    perform set_config('driftd.actor', promote_version.by, true);
    update driftd.model_versions v set stage = 'superseded', stage_at = now(),
        stage_reason = format('version %s was promoted', chosen.version)
    where v.model = chosen.model and v.stage = 'promoted';
    update driftd.model_versions v set stage = 'promoted', stage_at = now(),
        stage_reason = promote_version.reason
    where v.model = chosen.model and v.version = chosen.version;
    return 'promoted';
end $$;

-- Says that a version is not to be used any more. The one in service cannot be retired.
create function driftd.retire_version(
    model text, version text, by text default session_user, reason text default null
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    chosen driftd.model_versions := driftd.version_to_change(retire_version.model, retire_version.version);
begin
    if chosen.stage = 'retired' then
        return 'retired';
    elsif chosen.stage = 'promoted' then
        raise exception 'version % of model % is in service', chosen.version, chosen.model
            using errcode = 'RD003', hint = 'promote another version first';
    end if;
    perform set_config('driftd.actor', retire_version.by, true);
    update driftd.model_versions v set stage = 'retired', stage_at = now(),
        stage_reason = retire_version.reason
    where v.model = chosen.model and v.version = chosen.version;
    return 'retired';
end $$;

-- ---------------------------------------------------------------------------------------------
-- Views

drop view driftd.model_lineage;
create view driftd.model_lineage as
select v.model, v.version, v.stage, v.parent_version, v.created_at, v.artifact_uri,
       v.metrics, v.parameters, v.code, v.training_data_digest, v.training_data,
       v.baseline_id, b.rows as baseline_rows, b.training_data_digest as baseline_digest,
       b.time_from as baseline_from, b.time_to as baseline_to,
       v.job_id, j.reasons, j.worker, j.attempt, j.training_data as suggested_data,
       j.baseline_id as parent_baseline_id, p.training_data_digest as parent_digest,
       (select array_agg(t.episode_id order by t.episode_id) from driftd.retraining_triggers t
        where t.job_id = v.job_id and t.kind = 'episode') as episodes,
       (select jsonb_agg(jsonb_build_object('episode_id', e.episode_id, 'monitor', e.monitor,
            'version', e.version, 'severity', e.severity, 'first_window', e.first_window,
            'fired_window', e.fired_window, 'last_window', e.last_window,
            'drifted_windows', e.drifted_windows, 'features', e.top_features) order by e.episode_id)
        from driftd.retraining_triggers t join driftd.alert_episodes e using (episode_id)
        where t.job_id = v.job_id and t.kind = 'episode') as drift
from driftd.model_versions v
left join driftd.baselines b using (baseline_id)
left join driftd.retraining_jobs j on j.job_id = v.job_id
left join driftd.baselines p on p.baseline_id = j.baseline_id;

comment on view driftd.model_lineage is 'Where a model version comes from: version, job, episodes, windows and features, baseline, training data.';
comment on column driftd.model_lineage.model is 'The model.';
comment on column driftd.model_lineage.version is 'One of its versions.';
comment on column driftd.model_lineage.stage is 'candidate, promoted (in service), superseded or retired.';
comment on column driftd.model_lineage.parent_version is 'The version it was retrained from.';
comment on column driftd.model_lineage.created_at is 'When it was registered.';
comment on column driftd.model_lineage.artifact_uri is 'Where the trainer put it.';
comment on column driftd.model_lineage.metrics is 'What the trainer measured, name to number.';
comment on column driftd.model_lineage.parameters is 'The hyperparameters it was trained with.';
comment on column driftd.model_lineage.code is 'What trained it: a commit, an image digest.';
comment on column driftd.model_lineage.training_data_digest is 'SHA-256 of what it was trained on.';
comment on column driftd.model_lineage.training_data is 'The same in full: URIs, offset ranges, rows, time range.';
comment on column driftd.model_lineage.baseline_id is 'Its own baseline.';
comment on column driftd.model_lineage.baseline_rows is 'Rows of that baseline.';
comment on column driftd.model_lineage.baseline_digest is 'SHA-256 of the data that baseline was made from.';
comment on column driftd.model_lineage.baseline_from is 'Event time of its first row.';
comment on column driftd.model_lineage.baseline_to is 'Event time of its last row.';
comment on column driftd.model_lineage.job_id is 'The job that made it; null: not made by a job.';
comment on column driftd.model_lineage.reasons is 'Why that job was enqueued.';
comment on column driftd.model_lineage.worker is 'The worker that completed it.';
comment on column driftd.model_lineage.attempt is 'The attempt that did.';
comment on column driftd.model_lineage.suggested_data is 'What that job suggested for training.';
comment on column driftd.model_lineage.parent_baseline_id is 'The baseline against which the drift was seen.';
comment on column driftd.model_lineage.parent_digest is 'SHA-256 of the data that baseline was made from.';
comment on column driftd.model_lineage.episodes is 'The alert episodes behind that job.';
comment on column driftd.model_lineage.drift is 'The same with their windows and features.';

create view driftd.prediction_lineage as
select m.topic, (o ->> 'partition')::int as partition,
       coalesce((o ->> 'generation')::bigint, 1) as generation,
       (o ->> 'first_offset')::bigint as first_offset, (o ->> 'next_offset')::bigint as next_offset,
       m.monitor, m.revision, m.model, w.version, v.stage, w.baseline_id,
       b.training_data_digest as baseline_digest, w.window_start, w.window_end, w.verdict, w.rows,
       w.drifted_share, w.top_features, w.judged_at, v.job_id
from driftd.windows w
join driftd.monitors m using (monitor_id)
cross join lateral jsonb_array_elements(w.offsets) o
left join driftd.model_versions v on v.model = m.model and v.version = w.version
left join driftd.baselines b on b.baseline_id = w.baseline_id;

comment on view driftd.prediction_lineage is 'Which model versions, baselines, windows and verdicts a stretch of a log belongs to: look an offset up with first_offset <= x and next_offset > x. Where messages come out of order, stretches overlap; the message''s own time and version tell which row is its.';
comment on column driftd.prediction_lineage.topic is 'Kafka topic.';
comment on column driftd.prediction_lineage.partition is 'Kafka partition.';
comment on column driftd.prediction_lineage.generation is 'Which log under the partition''s name.';
comment on column driftd.prediction_lineage.first_offset is 'The first message of the window in this partition.';
comment on column driftd.prediction_lineage.next_offset is 'The offset behind its last one.';
comment on column driftd.prediction_lineage.monitor is 'Name of the monitor.';
comment on column driftd.prediction_lineage.revision is 'Its revision.';
comment on column driftd.prediction_lineage.model is 'The model.';
comment on column driftd.prediction_lineage.version is 'The version that made the predictions.';
comment on column driftd.prediction_lineage.stage is 'Its stage now.';
comment on column driftd.prediction_lineage.baseline_id is 'What its rows were compared with.';
comment on column driftd.prediction_lineage.baseline_digest is 'SHA-256 of the data that baseline was made from.';
comment on column driftd.prediction_lineage.window_start is 'Event time, inclusive.';
comment on column driftd.prediction_lineage.window_end is 'Event time, exclusive.';
comment on column driftd.prediction_lineage.verdict is 'What was said of the window.';
comment on column driftd.prediction_lineage.rows is 'Rows of the window, over all partitions.';
comment on column driftd.prediction_lineage.drifted_share is 'Share of its features that drifted.';
comment on column driftd.prediction_lineage.top_features is 'The features that moved most.';
comment on column driftd.prediction_lineage.judged_at is 'When it was judged.';
comment on column driftd.prediction_lineage.job_id is 'The job that made the version.';

create view driftd.retraining_trials as
select t.parent_job_id as job_id, t.trial, t.job_id as trial_job_id, t.model, t.state, t.parameters,
       (t.result ->> 'objective')::double precision as objective,
       coalesce((t.result ->> 'pruned')::boolean, false) as pruned, t.worker, t.error,
       t.started_at, t.finished_at
from driftd.retraining_jobs t where t.parent_job_id is not null;

comment on view driftd.retraining_trials is 'The trials of searches for hyperparameters.';
comment on column driftd.retraining_trials.job_id is 'The job whose search it belongs to.';
comment on column driftd.retraining_trials.trial is 'Its number there, from 0.';
comment on column driftd.retraining_trials.trial_job_id is 'The trial as a job of its own.';
comment on column driftd.retraining_trials.model is 'The model.';
comment on column driftd.retraining_trials.state is 'queued, running, succeeded, failed or cancelled.';
comment on column driftd.retraining_trials.parameters is 'What it tries.';
comment on column driftd.retraining_trials.objective is 'What came of it.';
comment on column driftd.retraining_trials.pruned is 'Whether it was given up early.';
comment on column driftd.retraining_trials.worker is 'Who ran it.';
comment on column driftd.retraining_trials.error is 'Why it failed.';
comment on column driftd.retraining_trials.started_at is 'When its last attempt began.';
comment on column driftd.retraining_trials.finished_at is 'When it ended.';

-- Trials and searching jobs are open jobs too; what is new stands last.
create or replace view driftd.job_queue as
select row_number() over (order by j.state = 'running' desc, j.priority desc, j.run_after, j.job_id)
           as position,
       j.job_id, j.model, j.version, j.monitor, j.state,
       (select string_agg(distinct r ->> 'kind', ', ' order by r ->> 'kind')
        from jsonb_array_elements(j.reasons) r) as why,
       j.reasons, j.priority, j.created_at, j.run_after, now() - j.created_at as age,
       j.attempt, j.max_attempts, j.worker, j.lease_expires_at, j.progress, j.error as last_error,
       j.baseline_id, j.training_data, j.parameters, j.parent_job_id, j.trial
from driftd.retraining_jobs j
where j.state in ('awaiting_approval', 'searching', 'queued', 'running');
comment on column driftd.job_queue.state is 'awaiting_approval, searching, queued or running.';
comment on column driftd.job_queue.why is 'What asked for it: age, episode, request, schedule, volume.';
comment on column driftd.job_queue.parent_job_id is 'The job whose search it is a trial of.';
comment on column driftd.job_queue.trial is 'Its number there.';

-- ---------------------------------------------------------------------------------------------
-- Roles

revoke execute on all functions in schema driftd from public;
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
            driftd.waiting_rows, driftd.time_partitions
            to driftd_reader;
    end if;
end $$;
select driftd.grant_roles();
