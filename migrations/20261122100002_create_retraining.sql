-- Retraining: what asked for it, the jobs, and the functions that are the trainer's contract.
--
-- Every rule that keeps jobs right (one open job per model, a trigger counts once, a stale worker
-- is refused) is a constraint or stands in one function here, so that it holds for the daemon, the
-- command line, HTTP and plain SQL alike.
--
-- Errors raised here carry SQLSTATEs of their own: RD001 stale lease, RD002 no such job,
-- RD003 the job's state does not allow it, RD004 bad argument.

create type driftd.job_state as enum
    ('awaiting_approval', 'queued', 'running', 'succeeded', 'failed', 'cancelled');

create table driftd.retraining_jobs (
    job_id bigint generated always as identity primary key,
    model text not null references driftd.models,
    version text,                               -- to be retrained; null: none of the model is known
    monitor text,                               -- whose policy enqueued it; null: asked for by hand
    -- Why: [{"kind": "episode"|"schedule"|"request", "at", ...}]. An array, because what asks for
    -- retraining while a job is open joins that job.
    reasons jsonb not null check (jsonb_typeof(reasons) = 'array'),
    state driftd.job_state not null default 'queued',
    priority int not null default 0,            -- higher is claimed first
    run_after timestamptz not null default now(), -- later than now: waiting out a backoff
    attempt int not null default 0,             -- counts claims; part of the fence
    max_attempts int not null check (max_attempts > 0),
    -- The lease of the current attempt. The token stays after the end, so that the same worker may
    -- repeat a call whose answer it lost; only a return to the queue clears it.
    lease_token uuid,
    lease interval,                             -- how long a heartbeat extends it
    lease_expires_at timestamptz,
    worker text,
    baseline_id text references driftd.baselines, -- what the version was trained on
    -- Suggested for training: {"topic", "offsets": [...], "time_from", "time_to"}
    training_data jsonb not null default '{}' check (jsonb_typeof(training_data) = 'object'),
    parameters jsonb not null default '{}',     -- from the settings, handed to the trainer as is
    progress jsonb,                             -- the last heartbeat's
    result jsonb,                               -- the trainer's
    error text,                                 -- of the last attempt that failed
    created_at timestamptz not null default now(),
    started_at timestamptz,                     -- of the current or last attempt
    finished_at timestamptz,
    check (attempt between 0 and max_attempts),
    check (state <> 'running'
           or (lease_token is not null and lease is not null and lease_expires_at is not null)),
    check ((finished_at is not null) = (state in ('succeeded', 'failed', 'cancelled')))
) with (fillfactor = 70);                       -- heartbeats update it: leave room for HOT

-- The guard "one open job per model": two triggers at once cannot both pass.
create unique index one_open_job on driftd.retraining_jobs (model)
    where state in ('awaiting_approval', 'queued', 'running');
-- A claim reads the first row of this index.
create index jobs_to_claim on driftd.retraining_jobs (priority desc, run_after, job_id)
    where state = 'queued';
-- Every claim and every tick of the daemon look for leases that ran out.
create index jobs_leased on driftd.retraining_jobs (lease_expires_at) where state = 'running';
-- The cooldown asks when the model's last job was enqueued; people ask for a model's jobs.
create index jobs_by_model on driftd.retraining_jobs (model, created_at desc);

alter table driftd.model_versions
    add foreign key (job_id) references driftd.retraining_jobs;

-- Every transition of every job, also one that an operator makes with an update by hand: a table
-- trigger writes it, not the functions.
create table driftd.retraining_job_events (
    event_id bigint generated always as identity primary key,
    job_id bigint not null references driftd.retraining_jobs on delete cascade,
    from_state driftd.job_state,                -- null: enqueued
    to_state driftd.job_state not null,
    attempt int not null,
    actor text not null,                        -- the worker, who asked, or the database's user
    error text,                                 -- why, where it went wrong
    created_at timestamptz not null default clock_timestamp()
);
create index job_events_by_job on driftd.retraining_job_events (job_id, event_id);

-- Everything that asked for retraining, also what a guard stopped: "why is there no job?" has to
-- have an answer.
create table driftd.retraining_triggers (
    trigger_id bigint generated always as identity primary key,
    kind text not null check (kind in ('episode', 'schedule', 'request')),
    model text not null references driftd.models,
    version text,
    monitor text,                               -- null: asked for by hand
    slot timestamptz,                           -- schedule: the moment that was due
    episode_id bigint references driftd.alert_episodes,
    requested_by text,                          -- request: who
    reason jsonb not null,                      -- as it stands in the job's reasons
    outcome text not null check (outcome in ('enqueued', 'joined', 'stopped')),
    -- What kept it from becoming a job of its own: open_job, cooldown, or the name that the caller
    -- gives (uncalibrated, drifted_share, ...).
    guard text,
    job_id bigint references driftd.retraining_jobs,
    detail jsonb not null default '{}',         -- what the guard saw
    created_at timestamptz not null,            -- the daemon's clock, as the cooldown counts it
    check ((kind = 'schedule') = (slot is not null)),
    check ((kind = 'episode') = (episode_id is not null)),
    check (monitor is not null or kind = 'request'),
    check ((outcome = 'enqueued') = (guard is null)),
    check ((outcome = 'stopped') = (job_id is null))
);
-- Each slot fires once over all replicas and over revisions of the monitor.
create unique index one_trigger_per_slot on driftd.retraining_triggers (monitor, slot)
    where kind = 'schedule';
-- Judging a window again asks again; the episode still counts once.
create unique index one_trigger_per_episode on driftd.retraining_triggers (episode_id)
    where kind = 'episode';
create index triggers_by_job on driftd.retraining_triggers (job_id);
create index triggers_by_model on driftd.retraining_triggers (model, created_at desc);

-- Since when a monitor's schedule is as it is. A slot counts as missed only after that: a schedule
-- that was added or changed today must not fire for yesterday.
create table driftd.retraining_schedules (
    monitor text primary key,
    cron text not null,
    time_zone text not null,
    since timestamptz not null,                 -- the daemon's clock
    next_slot timestamptz                       -- for people; null: the schedule never comes again
);

-- ---------------------------------------------------------------------------------------------
-- Transitions

create function driftd.record_job_transition() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' and old.state = new.state then
        return null;
    end if;
    insert into driftd.retraining_job_events (job_id, from_state, to_state, attempt, actor, error)
    values (new.job_id, case when tg_op = 'UPDATE' then old.state end, new.state, new.attempt,
            coalesce(nullif(current_setting('driftd.actor', true), ''), session_user),
            case when tg_op = 'INSERT' or new.error is distinct from old.error then new.error end);
    if new.state = 'queued' then
        -- Waiting trainers wake up; those that missed it poll.
        perform pg_notify('driftd_jobs',
                          jsonb_build_object('job_id', new.job_id, 'model', new.model)::text);
    end if;
    return null;
end $$;

create trigger record_job_transition after insert or update of state on driftd.retraining_jobs
    for each row execute function driftd.record_job_transition();

-- ---------------------------------------------------------------------------------------------
-- Triggers: the one place with all guards

create function driftd.trigger_retraining(
    kind text,
    model text,
    reason jsonb,
    monitor text default null,
    version text default null,                  -- null: the model's newest
    slot timestamptz default null,
    episode_id bigint default null,
    requested_by text default null,
    cooldown interval default '0',
    max_attempts int default 3,
    parameters jsonb default '{}',
    training_data jsonb default '{}',
    priority int default 0,
    guard text default null,                    -- a guard of the caller's own has stopped it
    detail jsonb default '{}',                  -- what that guard saw
    at timestamptz default now()                -- the caller's clock
) returns driftd.retraining_triggers
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    found_trigger driftd.retraining_triggers;
    open_job driftd.retraining_jobs;
    last_job timestamptz;
    the_version text := trigger_retraining.version;
    the_baseline text;
    the_reason jsonb;
    the_outcome text := 'enqueued';
    the_guard text := trigger_retraining.guard;
    the_job bigint;
    the_detail jsonb := trigger_retraining.detail;
    who text := coalesce(requested_by, 'monitor ' || monitor, session_user);
begin
    insert into driftd.models (model) values (trigger_retraining.model) on conflict do nothing;
    -- One at a time per model: what the guards see below holds until this transaction ends. Not
    -- "for update", which rows that refer to the model would have to wait for.
    perform from driftd.models m where m.model = trigger_retraining.model for no key update;

    select * into found_trigger from driftd.retraining_triggers t
    where (t.kind = 'schedule' and trigger_retraining.kind = 'schedule'
           and t.monitor = trigger_retraining.monitor and t.slot = trigger_retraining.slot)
       or (t.kind = 'episode' and trigger_retraining.kind = 'episode'
           and t.episode_id = trigger_retraining.episode_id);
    -- Asked before: the answer stands. Only an episode that was stopped may ask again, while it
    -- lasts: its drift has not gone away with the cooldown.
    if found_trigger.trigger_id is not null
       and not (found_trigger.kind = 'episode' and found_trigger.outcome = 'stopped') then
        return found_trigger;
    end if;

    select v.version, v.baseline_id into the_version, the_baseline
    from driftd.model_versions v
    where v.model = trigger_retraining.model
      and (trigger_retraining.version is null or v.version = trigger_retraining.version)
    order by v.created_at desc limit 1;
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
        where j.model = trigger_retraining.model
          and j.state in ('awaiting_approval', 'queued', 'running');
        select max(j.created_at) into last_job from driftd.retraining_jobs j
        where j.model = trigger_retraining.model;
        if open_job.job_id is not null then
            the_outcome := 'joined';
            the_guard := 'open_job';
            the_job := open_job.job_id;
            the_detail := the_detail || jsonb_build_object('job_state', open_job.state);
        elsif last_job + trigger_retraining.cooldown > trigger_retraining.at then
            the_outcome := 'stopped';
            the_guard := 'cooldown';
            the_detail := the_detail || jsonb_build_object(
                'last_job_at', last_job, 'until', last_job + trigger_retraining.cooldown);
        end if;
    end if;

    if the_outcome = 'joined' then
        update driftd.retraining_jobs j set
            -- All of them stand in retraining_triggers; the job tells the first ones, so that a
            -- schedule beside a job that nobody claims does not make its row grow for ever.
            reasons = case when jsonb_array_length(j.reasons) < 20
                then j.reasons || the_reason else j.reasons end,
            priority = greatest(j.priority, trigger_retraining.priority),
            -- A running trainer has its data already.
            training_data = case when j.training_data = '{}' and j.state <> 'running'
                                 then trigger_retraining.training_data else j.training_data end
        where j.job_id = the_job;
    elsif the_outcome = 'enqueued' then
        perform set_config('driftd.actor', who, true);
        insert into driftd.retraining_jobs
            (model, version, monitor, reasons, priority, max_attempts, baseline_id,
             training_data, parameters, created_at)
        values (trigger_retraining.model, the_version, trigger_retraining.monitor,
                jsonb_build_array(the_reason), trigger_retraining.priority,
                trigger_retraining.max_attempts, the_baseline, trigger_retraining.training_data,
                trigger_retraining.parameters, trigger_retraining.at)
        returning job_id into the_job;
        insert into driftd.outbox (key, kind, payload)
        values ('job:' || the_job, 'job_enqueued', jsonb_build_object(
            'job_id', the_job, 'model', trigger_retraining.model, 'version', the_version,
            'monitor', trigger_retraining.monitor, 'baseline_id', the_baseline,
            'reasons', jsonb_build_array(the_reason), 'created_at', trigger_retraining.at));
    end if;

    if found_trigger.trigger_id is not null then
        update driftd.retraining_triggers t set
            outcome = the_outcome, guard = the_guard, job_id = the_job, detail = the_detail,
            reason = the_reason, created_at = trigger_retraining.at
        where t.trigger_id = found_trigger.trigger_id
        returning * into found_trigger;
        return found_trigger;
    end if;
    insert into driftd.retraining_triggers
        (kind, model, version, monitor, slot, episode_id, requested_by, reason, outcome, guard,
         job_id, detail, created_at)
    values (trigger_retraining.kind, trigger_retraining.model, the_version,
            trigger_retraining.monitor, trigger_retraining.slot, trigger_retraining.episode_id,
            trigger_retraining.requested_by, the_reason, the_outcome, the_guard, the_job,
            the_detail, trigger_retraining.at)
    returning * into found_trigger;
    return found_trigger;
end $$;

-- Asked for by a person or a program. No cooldown: whoever asks by hand means it; an open job is
-- joined all the same. Attempts and parameters are those of the model's newest monitor.
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
        kind => 'request', model => request_retraining.model,
        reason => jsonb_strip_nulls(jsonb_build_object('text', request_retraining.reason)),
        requested_by => request_retraining.requested_by,
        max_attempts => coalesce((policy ->> 'max_attempts')::int, 3),
        parameters => coalesce(nullif(policy -> 'parameters', 'null'), '{}'));
end $$;

-- ---------------------------------------------------------------------------------------------
-- The trainer's side

-- Leases that ran out: back to the queue, or failed for good when the attempts are used up.
-- Returns how many there were.
create function driftd.return_expired_leases() returns int
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    returned int;
begin
    perform set_config('driftd.actor', 'driftd', true);
    with expired as (
        select job_id from driftd.retraining_jobs
        where state = 'running' and lease_expires_at < now()
        for update skip locked
    )
    update driftd.retraining_jobs j set
        state = case when j.attempt < j.max_attempts then 'queued' else 'failed' end::driftd.job_state,
        error = format('the lease of worker %s on attempt %s of %s expired at %s',
                       j.worker, j.attempt, j.max_attempts, j.lease_expires_at),
        run_after = now(),
        lease_token = null, lease = null, lease_expires_at = null,
        finished_at = case when j.attempt < j.max_attempts then null else now() end
    from expired where j.job_id = expired.job_id;
    get diagnostics returned = row_count;
    return returned;
end $$;

-- Takes the first job that is due, of any model or of one. No row: nothing to do. Two workers
-- never get the same job: each skips what the other has locked.
create function driftd.claim_job(
    worker text,
    model text default null,
    lease interval default '60 s'
) returns setof driftd.retraining_jobs
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
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
        order by c.priority desc, c.run_after, c.job_id
        limit 1
        for update skip locked)
    returning j.*;
end $$;

-- The job if (job, attempt, token) is its current lease, locked; else an error.
create function driftd.leased_job(job_id bigint, attempt int, lease_token uuid)
    returns driftd.retraining_jobs
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs;
begin
    select * into job from driftd.retraining_jobs j where j.job_id = leased_job.job_id for update;
    if job.job_id is null then
        raise exception 'there is no job %', leased_job.job_id using errcode = 'RD002';
    end if;
    if job.attempt is distinct from leased_job.attempt
       or job.lease_token is distinct from leased_job.lease_token then
        raise exception 'attempt % no longer holds job %: it is % at attempt %',
            leased_job.attempt, job.job_id, job.state, job.attempt
            using errcode = 'RD001',
            hint = 'the lease expired, or another worker has the job; drop this attempt''s result';
    end if;
    return job;
end $$;

-- Extends the lease. Answers 'running', or 'cancelled': the trainer should stop.
create function driftd.heartbeat_job(
    job_id bigint,
    attempt int,
    lease_token uuid,
    progress jsonb default null                 -- null: as before
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        heartbeat_job.job_id, heartbeat_job.attempt, heartbeat_job.lease_token);
begin
    if job.state = 'cancelled' then
        return 'cancelled';
    elsif job.state <> 'running' then
        raise exception 'job % is %, not running', job.job_id, job.state using errcode = 'RD003';
    end if;
    update driftd.retraining_jobs j set
        lease_expires_at = now() + j.lease,
        progress = coalesce(heartbeat_job.progress, j.progress)
    where j.job_id = job.job_id;
    return 'running';
end $$;

-- What the trainer made, as a version of the model.
create function driftd.register_model_version(job driftd.retraining_jobs, result jsonb)
    returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    new_version text := result ->> 'version';
    maker bigint;
begin
    if new_version = job.version then
        raise exception 'version % of model % is what job % retrains; its result needs a version of its own',
            new_version, job.model, job.job_id using errcode = 'RD004';
    end if;
    perform from driftd.baselines b where b.baseline_id = result ->> 'baseline_id';
    if not found and result ->> 'baseline_id' is not null then
        raise exception 'there is no baseline %', result ->> 'baseline_id' using errcode = 'RD004',
            hint = 'import it first: driftd baseline import';
    end if;
    -- The version may be there already: its baseline was imported before the job was completed.
    insert into driftd.model_versions as v
        (model, version, baseline_id, parent_version, job_id, training_data_digest, artifact_uri)
    values (job.model, new_version, result ->> 'baseline_id', job.version, job.job_id,
            coalesce(result ->> 'training_data_digest', result ->> 'digest'),
            coalesce(result ->> 'artifact_uri', result ->> 'artifact'))
    on conflict (model, version) do update set
        baseline_id = coalesce(excluded.baseline_id, v.baseline_id),
        parent_version = coalesce(v.parent_version, excluded.parent_version),
        job_id = coalesce(v.job_id, excluded.job_id),
        training_data_digest = coalesce(excluded.training_data_digest, v.training_data_digest),
        artifact_uri = coalesce(excluded.artifact_uri, v.artifact_uri)
    returning v.job_id into maker;
    if maker <> job.job_id then
        raise exception 'version % of model % was made by job %', new_version, job.model, maker
            using errcode = 'RD004';
    end if;
end $$;

-- The job is done. result: {"version", "artifact_uri", "training_data_digest", "baseline_id",
-- and whatever else the trainer wants kept}. Saying it twice is no error: the first answer may
-- have been lost.
create function driftd.complete_job(
    job_id bigint,
    attempt int,
    lease_token uuid,
    result jsonb default '{}'
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        complete_job.job_id, complete_job.attempt, complete_job.lease_token);
begin
    if job.state = 'succeeded' then
        return job.state;
    elsif job.state <> 'running' then
        raise exception 'job % is %, not running', job.job_id, job.state using errcode = 'RD003';
    end if;
    if jsonb_typeof(complete_job.result) is distinct from 'object' then
        raise exception 'the result of a job is a JSON object, not %',
            coalesce(jsonb_typeof(complete_job.result), 'null') using errcode = 'RD004';
    end if;
    perform set_config('driftd.actor', job.worker, true);
    update driftd.retraining_jobs j set
        state = 'succeeded', result = complete_job.result, finished_at = now()
    where j.job_id = job.job_id;
    if complete_job.result ->> 'version' is not null then
        perform driftd.register_model_version(job, complete_job.result);
    end if;
    return 'succeeded';
end $$;

-- The attempt failed. Answers 'queued' (it will be tried again) or 'failed' (the attempts are used
-- up, or retry is false: it would fail again). The wait doubles from 30 s up to an hour; half of
-- it is chance, so that jobs that failed together do not come back together.
create function driftd.fail_job(
    job_id bigint,
    attempt int,
    lease_token uuid,
    error text,
    retry boolean default true
) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        fail_job.job_id, fail_job.attempt, fail_job.lease_token);
    again boolean := fail_job.retry and job.attempt < job.max_attempts;
begin
    if job.state = 'failed' then
        return job.state;
    elsif job.state <> 'running' then
        raise exception 'job % is %, not running', job.job_id, job.state using errcode = 'RD003';
    end if;
    perform set_config('driftd.actor', job.worker, true);
    update driftd.retraining_jobs j set
        state = case when again then 'queued' else 'failed' end::driftd.job_state,
        error = coalesce(fail_job.error, 'no reason given'),
        run_after = case when not again then j.run_after else
            now() + least(interval '1 hour', interval '30 s' * power(2, least(j.attempt, 12) - 1))
                    * (0.5 + 0.5 * random()) end,
        lease_token = case when again then null else j.lease_token end,
        lease = case when again then null else j.lease end,
        lease_expires_at = case when again then null else j.lease_expires_at end,
        finished_at = case when again then null else now() end
    where j.job_id = job.job_id;
    return case when again then 'queued' else 'failed' end;
end $$;

-- Takes an open job back. A running trainer learns of it by its next heartbeat, and can no longer
-- complete it.
create function driftd.cancel_job(job_id bigint, by text default session_user) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs;
begin
    select * into job from driftd.retraining_jobs j where j.job_id = cancel_job.job_id for update;
    if job.job_id is null then
        raise exception 'there is no job %', cancel_job.job_id using errcode = 'RD002';
    elsif job.state in ('succeeded', 'failed') then
        raise exception 'job % is % already', job.job_id, job.state using errcode = 'RD003';
    elsif job.state <> 'cancelled' then
        perform set_config('driftd.actor', cancel_job.by, true);
        update driftd.retraining_jobs j set state = 'cancelled', finished_at = now()
        where j.job_id = job.job_id;
    end if;
    return 'cancelled';
end $$;

-- Functions are everybody's unless told otherwise; these are the owner's, and the trainer's where
-- the next migration says so.
revoke execute on all functions in schema driftd from public;
