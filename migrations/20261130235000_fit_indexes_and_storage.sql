-- Indexes by what is looked for, and no second compression.

-- Monitors have features of the same names: by the feature alone, the index led to the scores of all
-- of them. What looks for one feature's history names its monitor.
create index drift_scores_by_feature_of_monitor on driftd.drift_scores (monitor_id, feature, window_start);
drop index driftd.drift_scores_feature_window_start_idx;

-- The judge asks at each window which gaps reach into it; the primary key begins with the gap.
create index gap_windows_by_monitor on driftd.gap_windows (monitor_id);

-- Most of these bytes are compressed before they are stored: Postgres would try to do it again, for
-- nothing, at each write. `window_profiles.profile` is not among them: it has no sample, and counts
-- compress well. Partitions that are made later are made like their table.
alter table driftd.profile_deltas alter column delta set storage external;
alter table driftd.baselines alter column profile set storage external;
alter table driftd.baseline_windows alter column slots set storage external;
alter table driftd.windows alter column answers set storage external;
alter table driftd.baseline_added_windows alter column answers set storage external;
