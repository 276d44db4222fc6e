-- A small history in which every question of docs/sql.md has an answer.
insert into driftd.models (model) values ('flight-delay');
insert into driftd.baselines
    (baseline_id, model, version, training_data_digest, training_data_files, rows, features, profile)
values ('b1', 'flight-delay', '1', 'd1', '{train.parquet}', 1000, '[]', '\x01');
insert into driftd.model_versions (model, version, baseline_id) values ('flight-delay', '1', 'b1');
insert into driftd.monitors
    (monitor, revision, model, topic, definition, definition_digest, settings)
values ('flight-delay', 1, 'flight-delay', 'flights', '{}', 'x',
        '{"input": {"window": {"out_of_orderness_ms": 60000}}, "retraining": {"max_attempts": 2}}');
insert into driftd.topics (topic, partitions) values ('flights', 2);
insert into driftd.watermarks (monitor_id, topic, partition, max_event_time)
values (1, 'flights', 0, now());
insert into driftd.window_cursors (monitor_id, version, next_start, next_end, last_start)
values (1, '1', now(), now() + interval '1 day', now());
insert into driftd.windows
    (monitor_id, version, window_start, window_end, baseline_id, rows, late, verdict, decided_by,
     training_windows, features, drifted_features, drifted_share, offsets)
select 1, '1', now() - d * interval '1 day', now() - (d - 1) * interval '1 day', 'b1', 100, 1,
       case when d < 3 then 'drifted' else 'stable' end::driftd.verdict, 'rule', 90, 2, 1, 0.5,
       '[{"partition": 0, "first_offset": 0, "next_offset": 10}]'
from generate_series(1, 5) d;
insert into driftd.drift_scores
    (monitor_id, version, segment, window_start, feature, test, statistic, expected, effect, decides,
     rows_window, rows_reference, nulls, unseen, drifted, reason)
select w.monitor_id, w.version, w.segment, w.window_start, f.feature, t.test,
       case when t.test = 'psi' then 0.3 end, case when t.test = 'psi' then 0.05 end,
       case when t.test = 'psi' then 0.25 end, false, 100, 1000, 0, 0, false,
       case when t.test <> 'psi' then 'no_variance' end
from driftd.windows w, (values ('dep_delay'), ('carrier')) f (feature), (values ('psi'), ('ks')) t (test);
insert into driftd.drift_scores
    (monitor_id, version, segment, window_start, feature, test, statistic, p_value, p_limit, effect,
     threshold, question, stretch_windows, stretch_start, drifted_since, expected_value, found_value,
     training_effect, sentence, rows_window, rows_reference, nulls, unseen, drifted)
select w.monitor_id, w.version, w.segment, w.window_start, f.feature, 'rule', 20, exp(-20.0), 1e-4, 0.2, 0.02,
       f.question, 1, w.window_start, case when w.verdict = 'drifted' then w.window_start end, 10, 14, 0.05,
       case when w.verdict = 'drifted' then f.feature || ': moved' end, 100, 1000, 0, 0, w.verdict = 'drifted'
from driftd.windows w, (values ('dep_delay', 'location'), ('carrier', 'shape')) f (feature, question);
insert into driftd.drift_contributions
    (monitor_id, version, window_start, feature, test, rank, bin, reference_share, window_share, contribution)
select monitor_id, version, window_start, feature, test, 1, 'AA', 0.1, 0.3, 0.8
from driftd.drift_scores where drifted;
insert into driftd.profile_deltas
    (checkpoint_id, monitor_id, version, window_start, partition, first_offset, next_offset, rows, late)
values (1, 1, '1', now(), 0, 0, 10, 9, 1);
insert into driftd.alert_episodes
    (monitor_id, monitor, model, version, state, severity, first_window, fired_window, last_window,
     drifted_windows)
values (1, 'flight-delay', 'flight-delay', '1', 'firing', 'warning', now() - interval '2 days',
        now() - interval '2 days', now() - interval '1 day', 2);
insert into driftd.windows
    (monitor_id, version, window_start, window_end, rows, late, verdict, decided_by, features,
     drifted_features, drifted_share, by_clock)
values (1, '2', now(), now() + interval '1 day', 0, 0, 'too_few_rows', 'none', 0, 0, 0, true);
insert into driftd.alert_episodes
    (monitor_id, monitor, model, version, kind, state, severity, first_window, fired_window, last_window,
     drifted_windows, by_clock)
values (1, 'flight-delay', 'flight-delay', '2', 'silence', 'firing', 'critical', now(), now(), now(), 2, true);
insert into driftd.alert_events (episode_id, episode_kind, kind, window_start)
values (2, 'silence', 'fired', now());
select driftd.trigger_retraining('episode', 'flight-delay', '{"features": ["dep_delay"]}',
    monitor => 'flight-delay', version => '1', episode_id => 1);
select driftd.trigger_retraining('schedule', 'flight-delay', '{}', monitor => 'flight-delay',
    slot => now());
insert into driftd.rejected_messages
    (topic, partition, message_offset, reason, detail, digest, payload_bytes)
values ('flights', 0, 7, 'unparsable', 'expected value at line 1', '\x00', 3);
insert into driftd.gaps (topic, partition, from_offset, to_offset, reason, policy)
values ('flights', 1, 0, 10, 'retention', 'continue');
insert into driftd.gap_windows (gap_id, monitor_id, from_start) values (1, 1, '-infinity');
insert into driftd.failures (kind, name, version, replica, reason, retry_at)
values ('windows', 'flight-delay', '1', 'host/1', 'the stored profile is damaged', now() + interval '1 minute');
