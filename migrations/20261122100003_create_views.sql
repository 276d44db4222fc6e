-- What users query. Tables may change by later migrations; these views and their columns stay.

create view driftd.drift_history as
select m.monitor, m.model, w.version, w.segment, w.window_start, w.window_end,
       w.verdict, w.mode, w.calibrated, w.rows, w.late, w.drifted_share,
       s.feature, s.reference, s.test, s.statistic, s.p_value, s.p_adjusted, s.effect,
       s.threshold, s.threshold_origin, s.error_bound, s.rows_window, s.rows_reference,
       s.nulls, s.unseen, s.drifted, s.reason, s.contributions,
       w.baseline_id, m.monitor_id, m.revision, w.judged_at
from driftd.windows w
join driftd.monitors m using (monitor_id)
join driftd.drift_scores s using (monitor_id, version, segment, window_start);

comment on view driftd.drift_history is 'One row per judged window, feature, reference and test.';
comment on column driftd.drift_history.monitor is 'Name of the monitor.';
comment on column driftd.drift_history.model is 'The model that is watched.';
comment on column driftd.drift_history.version is 'The model version that made the predictions.';
comment on column driftd.drift_history.segment is 'Value of the segment expression, or all.';
comment on column driftd.drift_history.window_start is 'Event time, inclusive.';
comment on column driftd.drift_history.window_end is 'Event time, exclusive.';
comment on column driftd.drift_history.verdict is 'What driftd says of the window as a whole.';
comment on column driftd.drift_history.mode is 'Which rule decided: learned, thresholds, or none.';
comment on column driftd.drift_history.calibrated is 'Whether the baseline holds enough windows of this size to learn from.';
comment on column driftd.drift_history.rows is 'Rows that count in the window.';
comment on column driftd.drift_history.late is 'Rows that came too late and do not count.';
comment on column driftd.drift_history.drifted_share is 'Share of the tested features of the window that drifted.';
comment on column driftd.drift_history.feature is 'Name as in the baseline.';
comment on column driftd.drift_history.reference is 'What the window was compared with: baseline, ...';
comment on column driftd.drift_history.test is 'Which test: ks, chi2, psi, js, wasserstein, null_rate, unseen_rate, learned.';
comment on column driftd.drift_history.statistic is 'The test''s number; null: see reason.';
comment on column driftd.drift_history.p_value is 'Raw; null for tests that have none.';
comment on column driftd.drift_history.p_adjusted is 'Adjusted over the features of the window.';
comment on column driftd.drift_history.effect is 'Size of the difference, on the test''s own scale.';
comment on column driftd.drift_history.threshold is 'The limit that the test was held against.';
comment on column driftd.drift_history.threshold_origin is 'Where the limit came from: settings, default, learned.';
comment on column driftd.drift_history.error_bound is 'Bound on the error of statistic; null: exact.';
comment on column driftd.drift_history.rows_window is 'Rows of the window; those without a value of the feature are in nulls.';
comment on column driftd.drift_history.rows_reference is 'Rows of the reference.';
comment on column driftd.drift_history.nulls is 'Null or missing values in the window.';
comment on column driftd.drift_history.unseen is 'Values that the baseline never held.';
comment on column driftd.drift_history.drifted is 'Whether this test speaks for drift.';
comment on column driftd.drift_history.reason is 'Why there is no number.';
comment on column driftd.drift_history.contributions is 'The bins or levels that contribute most.';
comment on column driftd.drift_history.baseline_id is 'The baseline that the window was compared with.';
comment on column driftd.drift_history.monitor_id is 'The revision of the monitor, as a key.';
comment on column driftd.drift_history.revision is 'Counts the changes of the monitor''s windows or features.';
comment on column driftd.drift_history.judged_at is 'Clock time of the verdict.';

-- The cursors name every line of windows there is; the newest window of each is one step in the
-- primary key. Reading the history for it would be a scan.
create view driftd.latest_drift as
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

comment on view driftd.latest_drift is
    'drift_history of the last judged window of each monitor, version and segment; columns as there.';

create view driftd.open_alerts as
select e.episode_id, e.monitor, e.model, e.version, e.segment, e.state, e.severity,
       e.first_window as drifted_since, e.fired_window, e.last_window, e.drifted_windows,
       e.top_features, e.opened_at, t.outcome as retraining, t.guard as retraining_guard, t.job_id
from driftd.alert_episodes e
left join driftd.retraining_triggers t on t.kind = 'episode' and t.episode_id = e.episode_id
where e.state <> 'resolved';

comment on view driftd.open_alerts is 'Episodes that are pending or firing.';
comment on column driftd.open_alerts.episode_id is 'Key in alert_episodes and alert_events.';
comment on column driftd.open_alerts.monitor is 'Name of the monitor.';
comment on column driftd.open_alerts.model is 'The model that is watched.';
comment on column driftd.open_alerts.version is 'The model version whose inputs drift.';
comment on column driftd.open_alerts.segment is 'Value of the segment expression, or all.';
comment on column driftd.open_alerts.state is 'pending: not yet enough drifted windows; firing.';
comment on column driftd.open_alerts.severity is 'warning or critical.';
comment on column driftd.open_alerts.drifted_since is 'Start of the first drifted window.';
comment on column driftd.open_alerts.fired_window is 'Start of the window at which it fired.';
comment on column driftd.open_alerts.last_window is 'Start of the last window that belongs to it.';
comment on column driftd.open_alerts.drifted_windows is 'Drifted windows so far.';
comment on column driftd.open_alerts.top_features is 'The features behind it, worst first.';
comment on column driftd.open_alerts.opened_at is 'Clock time at which it was opened.';
comment on column driftd.open_alerts.retraining is 'What it did: enqueued a job, joined one, was stopped; null: nothing.';
comment on column driftd.open_alerts.retraining_guard is 'The guard that stopped it.';
comment on column driftd.open_alerts.job_id is 'The job it enqueued or joined.';

create view driftd.job_queue as
select row_number() over (order by j.state = 'running' desc, j.priority desc, j.run_after, j.job_id)
           as position,
       j.job_id, j.model, j.version, j.monitor, j.state,
       (select string_agg(distinct r ->> 'kind', ', ' order by r ->> 'kind')
        from jsonb_array_elements(j.reasons) r) as why,
       j.reasons, j.priority, j.created_at, j.run_after, now() - j.created_at as age,
       j.attempt, j.max_attempts, j.worker, j.lease_expires_at, j.progress, j.error as last_error,
       j.baseline_id, j.training_data, j.parameters
from driftd.retraining_jobs j
where j.state in ('awaiting_approval', 'queued', 'running');

comment on view driftd.job_queue is 'Open retraining jobs, in the order in which they are taken.';
comment on column driftd.job_queue.position is 'Running ones first, then as they will be claimed.';
comment on column driftd.job_queue.job_id is 'Key in retraining_jobs.';
comment on column driftd.job_queue.model is 'The model to retrain.';
comment on column driftd.job_queue.version is 'The version to start from.';
comment on column driftd.job_queue.monitor is 'Whose policy enqueued it; null: asked for by hand.';
comment on column driftd.job_queue.state is 'awaiting_approval, queued or running.';
comment on column driftd.job_queue.why is 'What asked for it: episode, schedule, request.';
comment on column driftd.job_queue.reasons is 'The same in full, first to last.';
comment on column driftd.job_queue.priority is 'Higher is claimed first.';
comment on column driftd.job_queue.created_at is 'When it was enqueued.';
comment on column driftd.job_queue.run_after is 'Not claimed before: the backoff after a failed attempt.';
comment on column driftd.job_queue.age is 'Time since it was enqueued.';
comment on column driftd.job_queue.attempt is 'Attempts so far, the running one included.';
comment on column driftd.job_queue.max_attempts is 'It fails for good after so many.';
comment on column driftd.job_queue.worker is 'Who has it, or had it last.';
comment on column driftd.job_queue.lease_expires_at is 'It goes back to the queue then, unless a heartbeat comes.';
comment on column driftd.job_queue.progress is 'What the trainer said last.';
comment on column driftd.job_queue.last_error is 'Why the attempt before failed.';
comment on column driftd.job_queue.baseline_id is 'What the version was trained on.';
comment on column driftd.job_queue.training_data is 'Data suggested for training.';
comment on column driftd.job_queue.parameters is 'From the settings, for the trainer.';

-- A rejected message with monitor '' counts for every monitor of its topic: none could use it.
create view driftd.monitor_health as
with newest as (
    select distinct on (monitor) * from driftd.monitors order by monitor, revision desc
)
select m.monitor, m.revision, m.model, m.topic,
       w.window_start as last_window_start, w.window_end as last_window_end,
       w.verdict as last_verdict, w.judged_at as last_judged_at,
       coalesce(total.windows, 0) as windows, coalesce(total.rows, 0)::bigint as rows,
       (coalesce(total.late, 0) + coalesce(waiting.late, 0))::bigint as late,
       (select count(*) from driftd.rejected_messages r
        where r.topic = m.topic and r.monitor in ('', m.monitor)) as rejected,
       (select count(*) from driftd.gaps g where g.topic = m.topic) as gaps,
       coalesce(waiting.rows, 0)::bigint as rows_waiting,
       mark.watermark, topic.partitions, mark.partitions as partitions_seen,
       (select count(*) from driftd.partition_progress p
        where p.topic = m.topic and p.idle_since is not null) as partitions_idle,
       (select count(*) from driftd.alert_episodes e
        where e.monitor = m.monitor and e.state <> 'resolved') as open_episodes,
       schedule.next_slot as next_scheduled_retraining
from newest m
left join driftd.retraining_schedules schedule on schedule.monitor = m.monitor
left join driftd.topics topic on topic.topic = m.topic
left join lateral (
    select w.window_start, w.window_end, w.verdict, w.judged_at
    from driftd.windows w join driftd.monitors any_revision using (monitor_id)
    where any_revision.monitor = m.monitor
    order by w.window_start desc limit 1) w on true
left join lateral (
    select count(*) as windows, sum(w.rows) as rows, sum(w.late + w.late_after_idle) as late
    from driftd.windows w join driftd.monitors any_revision using (monitor_id)
    where any_revision.monitor = m.monitor) total on true
left join lateral (
    select sum(d.rows) as rows, sum(d.late) as late
    from driftd.profile_deltas d
    where d.monitor_id = m.monitor_id and not exists (
        select from driftd.windows w
        where w.monitor_id = d.monitor_id and w.version = d.version
          and w.segment = d.segment and w.window_start = d.window_start)) waiting on true
left join lateral (
    select count(*) as partitions,
           min(k.max_event_time) - make_interval(secs =>
               coalesce((m.settings #>> '{input,window,out_of_orderness_ms}')::double precision, 0) / 1000)
               as watermark
    from driftd.watermarks k where k.monitor_id = m.monitor_id) mark on true;

comment on view driftd.monitor_health is 'One row per monitor: is it fed, is it judged, is anything lost.';
comment on column driftd.monitor_health.monitor is 'Name of the monitor.';
comment on column driftd.monitor_health.revision is 'Its newest revision.';
comment on column driftd.monitor_health.model is 'The model that is watched.';
comment on column driftd.monitor_health.topic is 'Kafka topic; null: periodic only.';
comment on column driftd.monitor_health.last_window_start is 'Start of the last judged window.';
comment on column driftd.monitor_health.last_window_end is 'End of the last judged window.';
comment on column driftd.monitor_health.last_verdict is 'Its verdict.';
comment on column driftd.monitor_health.last_judged_at is 'Clock time of that verdict.';
comment on column driftd.monitor_health.windows is 'Windows judged, over all revisions.';
comment on column driftd.monitor_health.rows is 'Rows that count in them.';
comment on column driftd.monitor_health.late is 'Rows that came too late and do not count.';
comment on column driftd.monitor_health.rejected is 'Messages of the topic that could not be used.';
comment on column driftd.monitor_health.gaps is 'Stretches of the topic that were gone before they were read.';
comment on column driftd.monitor_health.rows_waiting is 'Rows stored for windows that are not judged yet.';
comment on column driftd.monitor_health.watermark is 'Event time that every partition seen so far has passed; an idle one holds it back here, not the windows.';
comment on column driftd.monitor_health.partitions is 'Partitions of the topic.';
comment on column driftd.monitor_health.partitions_seen is 'Those from which a row was read. Fewer than partitions, and none idle: windows wait.';
comment on column driftd.monitor_health.partitions_idle is 'Caught up and quiet: they hold no window back.';
comment on column driftd.monitor_health.open_episodes is 'Episodes that are pending or firing.';
comment on column driftd.monitor_health.next_scheduled_retraining is 'When its schedule is due next; null: it has none.';

-- Thin for now: a version, the job that made it, the episodes behind that job, the baselines.
create view driftd.model_lineage as
select v.model, v.version, v.parent_version, v.created_at, v.artifact_uri,
       v.training_data_digest, v.baseline_id, b.rows as baseline_rows,
       b.time_from as baseline_from, b.time_to as baseline_to,
       v.job_id, j.reasons, j.worker, j.training_data, j.baseline_id as parent_baseline_id,
       (select array_agg(t.episode_id order by t.episode_id)
        from driftd.retraining_triggers t
        where t.job_id = v.job_id and t.kind = 'episode') as episodes
from driftd.model_versions v
left join driftd.baselines b using (baseline_id)
left join driftd.retraining_jobs j on j.job_id = v.job_id;

comment on view driftd.model_lineage is 'Where a model version comes from: version, job, episodes, baseline, training data.';
comment on column driftd.model_lineage.model is 'The model.';
comment on column driftd.model_lineage.version is 'One of its versions.';
comment on column driftd.model_lineage.parent_version is 'The version it was retrained from.';
comment on column driftd.model_lineage.created_at is 'When it was registered.';
comment on column driftd.model_lineage.artifact_uri is 'Where the trainer put it.';
comment on column driftd.model_lineage.training_data_digest is 'Digest of what it was trained on.';
comment on column driftd.model_lineage.baseline_id is 'Its own baseline.';
comment on column driftd.model_lineage.baseline_rows is 'Rows of that baseline.';
comment on column driftd.model_lineage.baseline_from is 'Event time of its first row.';
comment on column driftd.model_lineage.baseline_to is 'Event time of its last row.';
comment on column driftd.model_lineage.job_id is 'The job that made it; null: not made by a job.';
comment on column driftd.model_lineage.reasons is 'Why that job was enqueued.';
comment on column driftd.model_lineage.worker is 'The worker that completed it.';
comment on column driftd.model_lineage.training_data is 'What that job suggested for training.';
comment on column driftd.model_lineage.parent_baseline_id is 'The baseline against which the drift was seen.';
comment on column driftd.model_lineage.episodes is 'The alert episodes behind that job.';

-- ---------------------------------------------------------------------------------------------
-- Roles. They belong to the whole server, and making them is a right that the migrating role may
-- lack: then somebody who has it makes them and the owner calls driftd.grant_roles().

create function driftd.grant_roles() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from pg_roles where rolname = 'driftd_trainer') then
        grant usage on schema driftd to driftd_trainer;
        grant execute on function
            driftd.claim_job(text, text, interval),
            driftd.heartbeat_job(bigint, int, uuid, jsonb),
            driftd.complete_job(bigint, int, uuid, jsonb),
            driftd.fail_job(bigint, int, uuid, text, boolean),
            driftd.request_retraining(text, text, text)
            to driftd_trainer;
    end if;
    if exists (select from pg_roles where rolname = 'driftd_reader') then
        grant usage on schema driftd to driftd_reader;
        grant select on
            driftd.drift_history, driftd.latest_drift, driftd.open_alerts, driftd.job_queue,
            driftd.monitor_health, driftd.model_lineage
            to driftd_reader;
    end if;
end $$;
revoke execute on function driftd.grant_roles() from public;
comment on function driftd.grant_roles() is
    'Gives driftd_trainer the job functions and driftd_reader the views, where those roles exist.';

do $$
declare
    role_name text;
begin
    foreach role_name in array array['driftd_trainer', 'driftd_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = role_name) then
                execute format('create role %I nologin', role_name);
            end if;
        exception
            when insufficient_privilege then
                raise warning 'role % was not made: %; make it and call driftd.grant_roles()',
                    role_name, sqlerrm;
            when duplicate_object or unique_violation then
                null; -- another database of this server was migrated at the same moment
        end;
    end loop;
    perform driftd.grant_roles();
end $$;
