-- The rows of a job are split into those to train on and those of the new version's baseline.

-- ---------------------------------------------------------------------------------------------
-- Which rows of the suggested data are the baseline's

-- As before, with "split": {"key", "baseline_share"}. A message is the baseline's if a hash of the key and of the
-- message's place in the log falls under the share; docs/retraining.md says which hash. So everybody who knows the
-- job can tell, and the baseline covers the same time as the training data. The key follows from the data and
-- not from the job's number, which depends on what failed before: the same log gives the same split.
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
    share double precision := coalesce((data ->> 'baseline_share')::double precision, 0.2);
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
        if share > 0 and read -> 'offsets' <> '[]' then
            read := read || jsonb_build_object('split', jsonb_build_object('baseline_share', share,
                'key', format('%s/%s', suggested_data.model, to_char(to_time, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))));
        end if;
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

-- ---------------------------------------------------------------------------------------------
-- The baseline of a version that a job has made

-- As before; a baseline of rows that were held out has another digest than the training data.
create or replace function driftd.check_baseline(job driftd.retraining_jobs, result jsonb) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    mine driftd.baselines;
    wrong text;
    digest text := result #>> '{training_data,sha256}';
    -- Made by driftd of rows that were held out of the training data.
    held_out boolean := exists (select from driftd.baseline_builds b where b.job_id = job.job_id
        and b.baseline_id = result ->> 'baseline_id' and jsonb_typeof(b.source -> 'split') = 'object');
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
    elsif digest <> mine.training_data_digest and not held_out then
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

-- When the drift began that is the cause of a job: where the rule saw it begin, else in the first window of its
-- episode. Of several the last one, after which none of the windows is as before; one that begins after the
-- job's data has no part in them. Null: no drift is the cause.
create function driftd.onset_of(job driftd.retraining_jobs) returns timestamptz
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select max(o.onset) from (
        select least(e.first_window, min(s.drifted_since)) as onset
        from driftd.retraining_triggers t
        join driftd.alert_episodes e using (episode_id)
        left join driftd.drift_scores s on (s.monitor_id, s.version, s.segment, s.window_start)
            = (e.monitor_id, e.version, e.segment, e.first_window) and s.drifted and s.decides
        where t.job_id = job.job_id and t.kind = 'episode' and e.kind = 'drift'
        group by e.episode_id) o
    where o.onset < (job.training_data ->> 'to')::timestamptz
$$;

-- As before; the source says which rows of the offset ranges are the baseline's. A trainer that has split its
-- rows in another way gives "split": null: then all of them are. Rows from before the drift are of a world
-- that has passed, and a baseline of both would be like no window to come: it begins at the onset, unless
-- the trainer names another "from".
create or replace function driftd.request_baseline(
    job_id bigint, attempt int, lease_token uuid, version text, source jsonb default '{}'
) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
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
            'offsets', job.training_data -> 'offsets',
            'from', greatest((job.training_data ->> 'from')::timestamptz, driftd.onset_of(job)),
            'to', job.training_data -> 'to', 'split', job.training_data -> 'split')) || the_source;
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

-- As before; "baseline_share" says that rows and sha256 are those of the share that was held out.
create or replace function driftd.baseline_build(job_id bigint, attempt int, lease_token uuid, build_id bigint)
    returns jsonb
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    job driftd.retraining_jobs := driftd.leased_job(
        baseline_build.job_id, baseline_build.attempt, baseline_build.lease_token);
    answer jsonb;
begin
    select jsonb_strip_nulls(jsonb_build_object('state', b.state, 'baseline_id', b.baseline_id,
        'sha256', l.training_data_digest, 'rows', l.rows, 'error', b.error,
        'baseline_share', b.source #> '{split,baseline_share}')) into answer
    from driftd.baseline_builds b left join driftd.baselines l using (baseline_id)
    where b.build_id = baseline_build.build_id and b.job_id = job.job_id;
    if answer is null then
        raise exception 'job % has asked for no baseline %', job.job_id, baseline_build.build_id
            using errcode = 'RD002';
    end if;
    return answer;
end $$;

-- ---------------------------------------------------------------------------------------------
-- Too few windows for the rule: those of the stream are added until it has enough

alter table driftd.baselines add column extends_baseline_id text references driftd.baselines;
comment on column driftd.baselines.extends_baseline_id is
    'The baseline that this one is with further windows: profile and bins are the same. Null: it was made from training data.';

-- What those windows answered; a baseline has all of the one that it extends.
create table driftd.baseline_added_windows (
    baseline_id text not null references driftd.baselines,
    monitor_id bigint not null references driftd.monitors, -- windows of its size, and of its features
    window_start timestamptz not null,
    rows bigint not null,
    answers bytea not null,                     -- as in driftd.windows
    primary key (baseline_id, monitor_id, window_start)
);
comment on table driftd.baseline_added_windows is
    'Windows of the stream that count as training windows of a baseline: of a version in service whose own data held too few.';

-- The baselines that a baseline extends, and itself.
create function driftd.extended_baselines(baseline_id text) returns setof text
    language sql stable set search_path = pg_catalog, pg_temp as $$
    with recursive chain as (
        select b.baseline_id, b.extends_baseline_id from driftd.baselines b
        where b.baseline_id = extended_baselines.baseline_id
        union all
        select b.baseline_id, b.extends_baseline_id
        from chain c join driftd.baselines b on b.baseline_id = c.extends_baseline_id)
    select c.baseline_id from chain c
$$;

-- Gives a version that a job has made, and that is in service, a new baseline with `missing` windows of the
-- monitor more, as soon as there are so many: its first ones that were judged since it was promoted and
-- found stable by the tests. Left out are drifted windows, those of an alert about drift until its
-- last drifted window, and those that a gap touches or the clock has closed. Answers the new baseline; null:
-- nothing is to be done. It is done once per monitor, however often and by whichever replica it is asked for.
create function driftd.extend_baseline(monitor_id bigint, version text, missing int) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    chosen driftd.model_versions;
    starts timestamptz[];
    extended text;
begin
    select v.* into chosen from driftd.model_versions v join driftd.monitors m using (model)
    where m.monitor_id = extend_baseline.monitor_id and v.version = extend_baseline.version
      and v.stage = 'promoted' and v.job_id is not null;
    if chosen.baseline_id is null then
        return null;
    end if;
    select array_agg(q.window_start order by q.window_start) into starts from (
        select w.window_start from driftd.windows w
        where w.monitor_id = extend_baseline.monitor_id and w.version = chosen.version and w.segment = 'all'
          and w.baseline_id in (select driftd.extended_baselines(chosen.baseline_id))
          and w.verdict = 'stable' and w.decided_by = 'tests' and w.answers is not null
          and w.judged_at >= chosen.stage_at
          and not exists (select from driftd.alert_episodes e
              where (e.monitor_id, e.version, e.segment) = (w.monitor_id, w.version, w.segment)
                and e.kind = 'drift' and w.window_start >= e.first_window
                and (e.state in ('pending', 'firing') or w.window_start <= e.last_window))
        order by w.window_start limit missing) q;
    if coalesce(cardinality(starts), 0) < missing then
        return null;
    end if;
    -- The lock under which a version's baseline is named.
    perform from driftd.model_versions v
    where (v.model, v.version, v.baseline_id) = (chosen.model, chosen.version, chosen.baseline_id) for update;
    if not found or exists (select from driftd.baseline_added_windows a
            where a.baseline_id = chosen.baseline_id and a.monitor_id = extend_baseline.monitor_id) then
        return null;
    end if;
    select encode(sha256(convert_to(concat_ws(' ', chosen.baseline_id, m.monitor, m.revision), 'UTF8')
            || string_agg(convert_to(w.window_start::text, 'UTF8') || w.answers, '' order by w.window_start)), 'hex')
    into extended
    from driftd.windows w join driftd.monitors m using (monitor_id)
    where w.monitor_id = extend_baseline.monitor_id and w.version = chosen.version and w.segment = 'all'
      and w.window_start = any (starts)
    group by m.monitor, m.revision;
    insert into driftd.baselines (baseline_id, extends_baseline_id, model, version, training_data_digest,
        training_data_files, rows, time_column, time_from, time_to, features, profile)
    select extended, b.baseline_id, b.model, b.version, b.training_data_digest, b.training_data_files, b.rows,
        b.time_column, b.time_from, b.time_to, b.features, b.profile
    from driftd.baselines b where b.baseline_id = chosen.baseline_id;
    insert into driftd.baseline_windows (baseline_id, slot_ms, slots)
    select extended, s.slot_ms, s.slots from driftd.baseline_windows s where s.baseline_id = chosen.baseline_id;
    insert into driftd.baseline_added_windows (baseline_id, monitor_id, window_start, rows, answers)
    select extended, a.monitor_id, a.window_start, a.rows, a.answers
    from driftd.baseline_added_windows a where a.baseline_id = chosen.baseline_id
    union all
    select extended, w.monitor_id, w.window_start, w.rows, w.answers from driftd.windows w
    where w.monitor_id = extend_baseline.monitor_id and w.version = chosen.version and w.segment = 'all'
      and w.window_start = any (starts);
    update driftd.model_versions v set baseline_id = extended
    where (v.model, v.version) = (chosen.model, chosen.version);
    return extended;
end $$;

-- As before, with what was added to the baseline.
create or replace view driftd.model_lineage as
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
        where t.job_id = v.job_id and t.kind = 'episode') as drift,
       b.extends_baseline_id,
       (select jsonb_agg(to_jsonb(a) order by a.monitor, a.revision) from (
            select m.monitor, m.revision, count(*) as windows, sum(w.rows) as rows,
                   min(w.window_start) as first_window, max(w.window_start) as last_window
            from driftd.baseline_added_windows w join driftd.monitors m using (monitor_id)
            where w.baseline_id = v.baseline_id group by m.monitor, m.revision) a) as added_windows
from driftd.model_versions v
left join driftd.baselines b using (baseline_id)
left join driftd.retraining_jobs j on j.job_id = v.job_id
left join driftd.baselines p on p.baseline_id = j.baseline_id;

comment on column driftd.model_lineage.extends_baseline_id is
    'The baseline that the version had before windows of the stream were added; null: none were.';
comment on column driftd.model_lineage.added_windows is
    'How many windows of which monitor were added to its baseline, and which time they are from; null: none.';

-- Functions are everybody's unless told otherwise.
revoke execute on all functions in schema driftd from public;
select driftd.grant_roles();
