-- What the statistics say beyond a number: what chance alone gives, and where a score comes from.

alter table driftd.drift_scores
    -- the expectation of the statistic without drift at these numbers of rows; null: not known
    add column expected double precision,
    -- what the effect of test learned is capped at; half of it holds a drift that was alarmed
    add column threshold_slow double precision,
    -- whether the test decides over the window or informs only
    add column decides boolean not null default true;

-- The bins, levels or pairs of features that contribute most to the scores of a drifted feature.
create table driftd.drift_contributions (
    monitor_id bigint not null,
    version text not null,
    segment text not null default 'all',
    window_start timestamptz not null,
    feature text not null,
    reference text not null default 'baseline',
    test text not null,
    rank int not null,                          -- 1: contributes most
    bin text not null,
    reference_share double precision,           -- of the rows; null: not a bin
    window_share double precision,
    contribution double precision not null,     -- share of the score, 0 to 1
    primary key (monitor_id, version, segment, window_start, feature, reference, test, rank),
    foreign key (monitor_id, version, segment, window_start, feature, reference, test)
        references driftd.drift_scores
);

-- The views keep their columns; contributions come from their rows now, and what is new stands last.
create or replace view driftd.drift_history as
select m.monitor, m.model, w.version, w.segment, w.window_start, w.window_end,
       w.verdict, w.mode, w.calibrated, w.rows, w.late, w.drifted_share,
       s.feature, s.reference, s.test, s.statistic, s.p_value, s.p_adjusted, s.effect,
       s.threshold, s.threshold_origin, s.error_bound, s.rows_window, s.rows_reference,
       s.nulls, s.unseen, s.drifted, s.reason,
       coalesce((select jsonb_agg(jsonb_build_object('bin', c.bin, 'reference_share',
               c.reference_share, 'window_share', c.window_share, 'contribution', c.contribution)
               order by c.rank)
           from driftd.drift_contributions c
           where (c.monitor_id, c.version, c.segment, c.window_start, c.feature, c.reference, c.test)
               = (s.monitor_id, s.version, s.segment, s.window_start, s.feature, s.reference, s.test)),
           '[]') as contributions,
       w.baseline_id, m.monitor_id, m.revision, w.judged_at, s.expected, s.decides, s.threshold_slow
from driftd.windows w
join driftd.monitors m using (monitor_id)
join driftd.drift_scores s using (monitor_id, version, segment, window_start);

-- No release has stored any; who ran driftd before this loses the bins of old scores, no score.
alter table driftd.drift_scores drop column contributions;

comment on column driftd.drift_history.feature is
    'Name as in the baseline; (joint) for tests of many features, (rows) for the number of rows.';
comment on column driftd.drift_history.test is 'Which test: ks, psi, chi2, learned, ...';
comment on column driftd.drift_history.p_adjusted is
    'Adjusted over the tests of the feature and the features of the window; for a test that informs, over its features.';
comment on column driftd.drift_history.threshold is
    'The limit that the test was held against; null where it informs only.';
comment on column driftd.drift_history.expected is 'What chance alone gives of statistic; null: not known.';
comment on column driftd.drift_history.decides is 'Whether the test decides over the window or informs only.';

comment on column driftd.drift_history.threshold_slow is
    'Of test learned: the limit of the sum in effect; half of it holds a drift that was alarmed.';

create view driftd.drift_attribution as
select m.monitor, m.model, c.version, c.segment, c.window_start, c.feature, c.reference, c.test,
       c.rank, c.bin, c.reference_share, c.window_share, c.contribution
from driftd.drift_contributions c
join driftd.monitors m using (monitor_id);

comment on view driftd.drift_attribution is
    'The bins, levels or features that contribute most to the scores of drifted features.';
comment on column driftd.drift_attribution.monitor is 'Name of the monitor.';
comment on column driftd.drift_attribution.model is 'The model that is watched.';
comment on column driftd.drift_attribution.version is 'The model version that made the predictions.';
comment on column driftd.drift_attribution.segment is 'Value of the segment expression, or all.';
comment on column driftd.drift_attribution.window_start is 'Event time, inclusive.';
comment on column driftd.drift_attribution.feature is 'Name as in the baseline; (joint) for tests of many features.';
comment on column driftd.drift_attribution.reference is 'What the window was compared with: baseline, ...';
comment on column driftd.drift_attribution.test is 'The test whose score it is.';
comment on column driftd.drift_attribution.rank is '1 contributes most.';
comment on column driftd.drift_attribution.bin is 'A bin, a level, what was found instead of a value, or features.';
comment on column driftd.drift_attribution.reference_share is 'Its share of the baseline''s rows.';
comment on column driftd.drift_attribution.window_share is 'Its share of the window''s rows.';
comment on column driftd.drift_attribution.contribution is 'Its share of the score, 0 to 1.';

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

create or replace function driftd.grant_roles() returns void
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
            driftd.drift_history, driftd.latest_drift, driftd.drift_attribution,
            driftd.open_alerts, driftd.job_queue, driftd.monitor_health, driftd.model_lineage
            to driftd_reader;
    end if;
end $$;
select driftd.grant_roles();
