-- One rule decides over windows: no modes, no calibrations stored beside baselines. What it learns from
-- is the training data by time; what it carries from window to window stands with the windows.

drop table driftd.baseline_calibrations;

-- The rows of a baseline by time, in slots that add up to the windows of any monitor.
create table driftd.baseline_windows (
    baseline_id text primary key references driftd.baselines,
    slot_ms bigint not null check (slot_ms > 0),
    slots bytea not null,                       -- driftd's own encoding, versioned by its first byte
    created_at timestamptz not null default now()
);
-- It is compressed already.
alter table driftd.baseline_windows alter column slots set storage external;

drop view driftd.latest_drift, driftd.drift_history;

alter table driftd.windows
    add column decided_by text check (decided_by in ('rule', 'tests', 'none')),
    add column training_windows int not null default 0,     -- of the baseline, of this size
    -- what later windows are taken together with; null: a window that must not count
    add column answers bytea;
update driftd.windows set decided_by = case mode when 'learned' then 'rule' when 'thresholds' then 'tests' else 'none' end;
alter table driftd.windows
    alter column decided_by set not null,
    drop column mode,
    drop column calibrated;

alter table driftd.drift_scores
    add column p_limit double precision,        -- a p-value speaks for drift at or below it
    -- Of test rule alone:
    add column question text,                   -- location, spread, shape, null, ...
    add column stretch_windows int,             -- the stretch of windows that it judged
    add column stretch_start timestamptz,
    add column drifted_since timestamptz,       -- null: not drifted
    add column expected_value double precision, -- of the stretch, in the question's own units
    add column found_value double precision,
    add column training_effect double precision, -- what the training data's own stretches stay under
    add column sentence text;
delete from driftd.drift_scores where test = 'learned';
alter table driftd.drift_scores
    drop column threshold_slow,
    drop column threshold_origin;

create view driftd.drift_history as
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
       w.baseline_id, m.monitor_id, m.revision, w.judged_at, s.expected, s.decides
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
comment on column driftd.drift_history.decided_by is
    'rule: learned from the training windows; tests: there are too few of them; none.';
comment on column driftd.drift_history.training_windows is
    'Windows of this size that the baseline holds; the rule decides from 20 on.';
comment on column driftd.drift_history.rows is 'Rows that count in the window.';
comment on column driftd.drift_history.late is 'Rows that came too late and do not count.';
comment on column driftd.drift_history.drifted_share is
    'Share of the tested features of the window that drifted.';
comment on column driftd.drift_history.feature is
    'Name as in the baseline; (joint) for all features together, (rows) for the number of rows.';
comment on column driftd.drift_history.reference is 'What the window was compared with: baseline, ...';
comment on column driftd.drift_history.test is 'Which test: rule, ks, psi, chi2, ...';
comment on column driftd.drift_history.drifted is 'Whether this row speaks for drift.';
comment on column driftd.drift_history.sentence is 'Why the feature is drifted; null: it is not.';
comment on column driftd.drift_history.statistic is
    'The test''s number, of the rule -ln p_value; null: see reason.';
comment on column driftd.drift_history.p_value is
    'Of the rule that of the stretch; raw; null for tests that have none.';
comment on column driftd.drift_history.p_adjusted is
    'Adjusted over the tests of the feature and the features of the window; for a test that informs, over its features; null for the rule.';
comment on column driftd.drift_history.p_limit is
    'A p-value speaks for drift at or below it; null where the row informs only.';
comment on column driftd.drift_history.effect is 'Size of the difference, on the test''s own scale.';
comment on column driftd.drift_history.threshold is
    'An effect speaks for drift above it; null where the row informs only.';
comment on column driftd.drift_history.p_limit_origin is
    'Where p_limit comes from: training data (by false_alarms), or settings (false_alarms).';
comment on column driftd.drift_history.question is
    'Of the rule: location, spread, shape, null, missing, wrong_type, new, other, pairs, rows.';
comment on column driftd.drift_history.stretch_windows is
    'Of the rule: how many windows, up to this one, were taken together.';
comment on column driftd.drift_history.stretch_start is 'Of the rule: start of the first of them.';
comment on column driftd.drift_history.drifted_since is 'Of the rule: when the drift began.';
comment on column driftd.drift_history.expected_value is
    'Of the rule: what the training data lead to expect, in the question''s own units: a median, an interquartile range, a share, a mean product of normal scores, rows.';
comment on column driftd.drift_history.found_value is 'Of the rule: the same as found in the stretch.';
comment on column driftd.drift_history.training_effect is
    'Of the rule: the training data''s own stretches of that length stay under this effect.';
comment on column driftd.drift_history.error_bound is 'Bound on the error of statistic; null: exact.';
comment on column driftd.drift_history.rows_window is
    'Rows of the window; those without a value of the feature are in nulls.';
comment on column driftd.drift_history.rows_reference is 'Rows of the reference.';
comment on column driftd.drift_history.nulls is 'Null or missing values in the window.';
comment on column driftd.drift_history.unseen is 'Values that the baseline never held.';
comment on column driftd.drift_history.reason is 'Why there is no number.';
comment on column driftd.drift_history.contributions is
    'The bins, levels or features that contribute most; rows in drift_attribution.';
comment on column driftd.drift_history.baseline_id is 'The baseline that the window was compared with.';
comment on column driftd.drift_history.monitor_id is 'The revision of the monitor, as a key.';
comment on column driftd.drift_history.revision is
    'Counts the changes of the monitor''s windows or features.';
comment on column driftd.drift_history.judged_at is 'Clock time of the verdict.';
comment on column driftd.drift_history.expected is 'What chance alone gives of statistic; null: not known.';
comment on column driftd.drift_history.decides is 'Whether the row decides over the window or informs only.';

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

select driftd.grant_roles();
