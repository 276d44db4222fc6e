-- Tables that only grow become time partitions. Postgres gets space back only where nobody can see
-- the old rows any more, and deleting row by row leaves that to vacuum, which a single long report
-- holds up; a partition is dropped as a whole and its files are gone at once.
--
-- - By the clock: checkpoints and rejected_messages by the day, profile_deltas by the hour.
-- - By event time: what is said of windows, by the month of window_start, so that "one verdict per
--   window" stays a constraint. A table cannot have one that leaves out what it is partitioned by.
--
-- Every one has a default partition, so that an insert never fails for want of a partition. The
-- daemon makes partitions ahead, and drops them (src/upkeep.rs); driftd.time_partitions lists them.
--
-- Foreign keys of these tables are gone. Those among each other would keep partitions from being
-- dropped; what is said of a window is written by one function in one transaction instead. Those to
-- monitors and baselines cost a lock on one of few rows for each row that is written, also by
-- transactions side by side; these are never deleted, and whatever is written belongs to a row of
-- window_cursors, which still refers to its monitor. `driftd verify` looks for orphans.

alter table driftd.checkpoints rename to checkpoints_before;
alter table driftd.profile_deltas rename to profile_deltas_before;
alter table driftd.rejected_messages rename to rejected_messages_before;
alter table driftd.windows rename to windows_before;
alter table driftd.drift_scores rename to drift_scores_before;
alter table driftd.drift_contributions rename to drift_contributions_before;
alter table driftd.window_profiles rename to window_profiles_before;

-- ---------------------------------------------------------------------------------------------
-- The tables. Rows come once, because partition_progress accepts a stretch once and in the same
-- transaction; keys here do not have to span partitions for that.

create sequence driftd.checkpoint_ids;
select setval('driftd.checkpoint_ids', coalesce(max(checkpoint_id), 0) + 1, false)
from driftd.checkpoints_before;

create table driftd.checkpoints (
    -- A sequence, since older servers know no identity columns in partitions.
    checkpoint_id bigint not null default nextval('driftd.checkpoint_ids'),
    topic text not null,
    partition int not null,
    generation bigint not null default 1,
    epoch bigint not null,
    first_offset bigint not null,
    next_offset bigint not null,
    messages bigint not null,                   -- = read + rejected + skipped
    rejected bigint not null,
    skipped bigint not null,                    -- tombstones
    committed_at timestamptz not null default now(),
    check (next_offset >= first_offset),
    primary key (topic, partition, generation, first_offset, checkpoint_id, committed_at)
) partition by range (committed_at);
alter sequence driftd.checkpoint_ids owned by driftd.checkpoints.checkpoint_id;

-- Inserted, never updated, and never deleted by the judge: they are of no use any more once their
-- line of windows has passed them (window_start < window_cursors.next_start), and go with their
-- partition when that is true of all in it. Whoever sums rows up looks at driftd.waiting_rows.
create table driftd.profile_deltas (
    checkpoint_id bigint not null,
    monitor_id bigint not null,
    version text not null,
    segment text not null default 'all',
    window_start timestamptz not null,
    baseline_id text,
    partition int not null,
    generation bigint not null default 1,
    first_offset bigint not null,
    next_offset bigint not null,
    rows bigint not null,
    late bigint not null,                       -- rows behind their own partition's watermark
    delta bytea,                                -- null where only late rows came
    -- When it was written here, which is later than its checkpoint where a window takes longer
    -- than partitions are kept and its deltas were carried over to a newer one.
    saved_at timestamptz not null default now(),
    primary key (monitor_id, version, segment, window_start, checkpoint_id, saved_at)
) partition by range (saved_at);

create table driftd.rejected_messages (
    topic text not null,
    partition int not null,
    generation bigint not null default 1,
    message_offset bigint not null,
    -- The monitor that could not use it; '' where no monitor could.
    monitor text not null default '',
    reason text not null,
    detail text not null default '',
    digest bytea not null,                      -- SHA-256 of the payload
    payload_bytes bigint not null,
    payload bytea,                              -- only where the operator asks for it
    rejected_at timestamptz not null default now(),
    primary key (topic, partition, generation, message_offset, monitor, rejected_at)
) partition by range (rejected_at);

create table driftd.windows (
    monitor_id bigint not null,
    version text not null,
    segment text not null default 'all',
    window_start timestamptz not null,
    window_end timestamptz not null,
    baseline_id text,
    rows bigint not null,
    late bigint not null,
    late_after_idle bigint not null default 0,  -- grows after the verdict; changes nothing else
    verdict driftd.verdict not null,
    mode text not null check (mode in ('learned', 'thresholds', 'none')),
    calibrated boolean not null,                -- false: the baseline holds too few windows of this size
    features int not null,                      -- tested
    drifted_features int not null,
    drifted_share double precision not null,
    -- the features that moved most, worst first: [{"feature", "score"}]
    top_features jsonb not null default '[]',
    -- which stretch of each partition it was made from: [{"partition", "first_offset", "next_offset"}]
    offsets jsonb not null default '[]',
    judged_at timestamptz not null default now(),
    primary key (monitor_id, version, segment, window_start)
) partition by range (window_start);
create index on driftd.windows (window_start);
-- Retention goes by the clock, so that windows of old data that were judged today stay.
create index on driftd.windows (judged_at);

create table driftd.drift_scores (
    monitor_id bigint not null,
    version text not null,
    segment text not null,
    window_start timestamptz not null,
    feature text not null,
    reference text not null default 'baseline',
    test text not null,
    statistic double precision,                 -- null: see reason
    p_value double precision,
    p_adjusted double precision,
    effect double precision,
    threshold double precision,
    threshold_origin text,                      -- settings | default | learned
    error_bound double precision,               -- on the statistic; null: exact
    rows_window bigint not null,
    rows_reference bigint not null,
    nulls bigint not null,
    unseen bigint not null,
    drifted boolean not null,
    reason text,                                -- why there is no number: too_few_rows, no_variance, ...
    -- the expectation of the statistic without drift at these numbers of rows; null: not known
    expected double precision,
    -- what the effect of test learned is capped at; half of it holds a drift that was alarmed
    threshold_slow double precision,
    -- whether the test decides over the window or informs only
    decides boolean not null default true,
    primary key (monitor_id, version, segment, window_start, feature, reference, test)
) partition by range (window_start);
-- "how did this feature move" reads one feature over time.
create index on driftd.drift_scores (feature, window_start);

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
    primary key (monitor_id, version, segment, window_start, feature, reference, test, rank)
) partition by range (window_start);

create table driftd.window_profiles (
    monitor_id bigint not null,
    version text not null,
    segment text not null,
    window_start timestamptz not null,
    profile bytea not null,
    primary key (monitor_id, version, segment, window_start)
) partition by range (window_start);

create table driftd.checkpoints_default partition of driftd.checkpoints default;
create table driftd.profile_deltas_default partition of driftd.profile_deltas default;
create table driftd.rejected_messages_default partition of driftd.rejected_messages default;
create table driftd.windows_default partition of driftd.windows default;
create table driftd.drift_scores_default partition of driftd.drift_scores default;
create table driftd.drift_contributions_default partition of driftd.drift_contributions default;
create table driftd.window_profiles_default partition of driftd.window_profiles default;

-- Late rows that no row of `windows` counts, because their window was never judged (it lies before
-- the line's first one, or in a silence that was stepped over) or is behind retention. No row is
-- passed over in silence.
create table driftd.rows_without_window (
    monitor_id bigint not null references driftd.monitors,
    version text not null,
    segment text not null default 'all',
    late bigint not null default 0,
    late_after_idle bigint not null default 0,
    primary key (monitor_id, version, segment)
) with (fillfactor = 50);

-- ---------------------------------------------------------------------------------------------
-- Partitions

create view driftd.time_partitions as
select parent.relname::text as table_name, child.relname::text as partition,
       (regexp_match(bounds.text, 'FROM \(''([^'']+)''\)'))[1]::timestamptz as from_time,
       (regexp_match(bounds.text, 'TO \(''([^'']+)''\)'))[1]::timestamptz as until_time,
       pg_total_relation_size(child.oid) as bytes
from pg_inherits i
join pg_class parent on parent.oid = i.inhparent and parent.relkind = 'p'
join pg_class child on child.oid = i.inhrelid
cross join lateral (select pg_get_expr(child.relpartbound, child.oid) as text) bounds
where parent.relnamespace = 'driftd'::regnamespace;

comment on view driftd.time_partitions is 'The partitions of driftd''s tables, and the time that each holds.';
comment on column driftd.time_partitions.table_name is 'The table that is partitioned.';
comment on column driftd.time_partitions.partition is 'The partition, a table of its own.';
comment on column driftd.time_partitions.from_time is 'Its first moment: of the clock, or of window_start; null: it holds what no other does.';
comment on column driftd.time_partitions.until_time is 'The first moment after it.';
comment on column driftd.time_partitions.bytes is 'What it takes on disk, indexes included.';

-- Makes the partition of a table that holds this moment; false: it is there, or the default
-- partition holds rows of its time already, which then stay where they are.
--
-- A table is made first and attached then: unlike `create table ... partition of` that keeps nobody
-- from writing. Readers wait for the moment in which the default partition is looked through.
create function driftd.make_partition(table_name text, at timestamptz) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' as $$
declare
    unit constant text := case
        when table_name = 'profile_deltas' then 'hour'
        when table_name in ('checkpoints', 'rejected_messages') then 'day'
        else 'month' end;
    suffix constant text := case unit
        when 'hour' then '_YYYY_MM_DD_HH24' when 'day' then '_YYYY_MM_DD' else '_YYYY_MM' end;
    from_time constant timestamptz := date_trunc(unit, at);
    until_time constant timestamptz := from_time + ('1 ' || unit)::interval;
    partition constant text := table_name || to_char(from_time, suffix);
    time_column constant text := case table_name
        when 'profile_deltas' then 'saved_at' when 'checkpoints' then 'committed_at'
        when 'rejected_messages' then 'rejected_at' else 'window_start' end;
    is_taken boolean;
begin
    if to_regclass(format('driftd.%I', partition)) is not null then
        return false;
    end if;
    execute format('select exists (select from driftd.%1$I where %2$I >= %3$L and %2$I < %4$L)',
        table_name || '_default', time_column, from_time, until_time) into is_taken;
    if is_taken then
        return false;
    end if;
    execute format('create table driftd.%I (like driftd.%I including defaults including constraints '
        'including storage)', partition, table_name);
    -- What is dropped within days need not be vacuumed for having been inserted; windows stay for
    -- long, and are frozen by the usual rules.
    if unit <> 'month' then
        execute format('alter table driftd.%I set (autovacuum_vacuum_insert_threshold = -1)', partition);
    end if;
    execute format('alter table driftd.%I attach partition driftd.%I for values from (%L) to (%L)',
        table_name, partition, from_time, until_time);
    return true;
exception
    when check_violation then -- somebody was faster with a row for the default partition
        return false;
end $$;
comment on function driftd.make_partition(text, timestamptz) is
    'Makes the partition of one of driftd''s tables that holds a moment.';

-- Drops one, rows and all. Never the default partition.
create function driftd.drop_partition(partition text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from driftd.time_partitions p
            where p.partition = drop_partition.partition and p.until_time is not null) then
        raise exception '% is no partition that can be dropped', drop_partition.partition
            using errcode = 'RD004';
    end if;
    execute format('drop table driftd.%I', drop_partition.partition);
end $$;
comment on function driftd.drop_partition(text) is 'Drops a partition of one of driftd''s tables, rows and all.';

revoke execute on function driftd.make_partition(text, timestamptz), driftd.drop_partition(text) from public;

-- ---------------------------------------------------------------------------------------------
-- The rows that are there

select driftd.make_partition('profile_deltas', now());
select driftd.make_partition('checkpoints', day)
from (select distinct date_trunc('day', committed_at, 'UTC') as day
      from driftd.checkpoints_before order by day desc limit 100) days;
select driftd.make_partition('rejected_messages', day)
from (select distinct date_trunc('day', rejected_at, 'UTC') as day
      from driftd.rejected_messages_before order by day desc limit 100) days;
select driftd.make_partition(table_name, month)
from (select distinct date_trunc('month', window_start, 'UTC') as month
      from driftd.windows_before order by month desc limit 100) months,
     unnest(array['windows', 'drift_scores', 'drift_contributions', 'window_profiles']) table_name;

insert into driftd.checkpoints (checkpoint_id, topic, partition, generation, epoch, first_offset,
    next_offset, messages, rejected, skipped, committed_at)
select checkpoint_id, topic, partition, generation, epoch, first_offset, next_offset, messages,
       rejected, skipped, committed_at
from driftd.checkpoints_before;

-- Those of windows that no line will come to hold late rows only.
insert into driftd.profile_deltas (checkpoint_id, monitor_id, version, segment, window_start,
    baseline_id, partition, generation, first_offset, next_offset, rows, late, delta)
select checkpoint_id, monitor_id, version, segment, window_start, baseline_id, partition, generation,
       first_offset, next_offset, d.rows, late, delta
from driftd.profile_deltas_before d
join driftd.window_cursors c using (monitor_id, version, segment)
where d.window_start >= c.next_start;

insert into driftd.rows_without_window (monitor_id, version, segment, late)
select d.monitor_id, d.version, d.segment, sum(d.late)
from driftd.profile_deltas_before d
left join driftd.window_cursors c using (monitor_id, version, segment)
where c.next_start is null or d.window_start < c.next_start
group by d.monitor_id, d.version, d.segment;

insert into driftd.rejected_messages (topic, partition, generation, message_offset, monitor, reason,
    detail, digest, payload_bytes, payload, rejected_at)
select topic, partition, generation, message_offset, monitor, reason, detail, digest, payload_bytes,
       payload, rejected_at
from driftd.rejected_messages_before;

insert into driftd.windows (monitor_id, version, segment, window_start, window_end, baseline_id, rows,
    late, late_after_idle, verdict, mode, calibrated, features, drifted_features, drifted_share,
    top_features, offsets, judged_at)
select monitor_id, version, segment, window_start, window_end, baseline_id, w.rows, late,
       late_after_idle, verdict, mode, calibrated, features, drifted_features, drifted_share,
       top_features, offsets, judged_at
from driftd.windows_before w;

insert into driftd.drift_scores (monitor_id, version, segment, window_start, feature, reference, test,
    statistic, p_value, p_adjusted, effect, threshold, threshold_origin, error_bound, rows_window,
    rows_reference, nulls, unseen, drifted, reason, expected, threshold_slow, decides)
select monitor_id, version, segment, window_start, feature, reference, test, statistic, p_value,
       p_adjusted, effect, threshold, threshold_origin, error_bound, rows_window, rows_reference,
       nulls, unseen, drifted, reason, expected, threshold_slow, decides
from driftd.drift_scores_before;

insert into driftd.drift_contributions select * from driftd.drift_contributions_before;
insert into driftd.window_profiles select * from driftd.window_profiles_before;

-- ---------------------------------------------------------------------------------------------
-- Tables that stay and are updated all the time: small, and the same rows again and again. With room
-- in the page (their fillfactor) and no index on what changes, the next who comes to a page clears its
-- dead rows away. What is left to vacuum it takes soon, not when a fifth of the table is dead, and
-- without pauses: it is done within milliseconds.

alter table driftd.partition_progress set (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
alter table driftd.watermarks set (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
alter table driftd.window_cursors set (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- Messages that were delivered are deleted after a while.
create index outbox_delivered on driftd.outbox (delivered_at) where delivered_at is not null;

-- ---------------------------------------------------------------------------------------------
-- The views over the tables that are new: as they were, and monitor_health by the rule above

drop view driftd.latest_drift, driftd.drift_history, driftd.drift_attribution, driftd.monitor_health;
drop table driftd.drift_contributions_before, driftd.window_profiles_before,
    driftd.drift_scores_before, driftd.windows_before, driftd.rejected_messages_before,
    driftd.profile_deltas_before, driftd.checkpoints_before;

create view driftd.waiting_rows as
select m.monitor, d.monitor_id, d.version, d.segment, d.window_start,
       sum(d.rows)::bigint as rows, sum(d.late)::bigint as late
from driftd.profile_deltas d
join driftd.window_cursors c using (monitor_id, version, segment)
join driftd.monitors m using (monitor_id)
where d.window_start >= c.next_start
group by m.monitor, d.monitor_id, d.version, d.segment, d.window_start;

comment on view driftd.waiting_rows is 'Rows that are stored for windows that are not judged yet.';
comment on column driftd.waiting_rows.monitor is 'Name of the monitor.';
comment on column driftd.waiting_rows.monitor_id is 'The revision of the monitor, as a key.';
comment on column driftd.waiting_rows.version is 'The model version that made the predictions.';
comment on column driftd.waiting_rows.segment is 'Value of the segment expression, or all.';
comment on column driftd.waiting_rows.window_start is 'Event time, inclusive.';
comment on column driftd.waiting_rows.rows is 'Rows that count in the window so far.';
comment on column driftd.waiting_rows.late is 'Rows that came too late and will not count.';

create view driftd.drift_history as
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

comment on view driftd.drift_history is 'One row per judged window, feature, reference and test.';
comment on column driftd.drift_history.monitor is 'Name of the monitor.';
comment on column driftd.drift_history.model is 'The model that is watched.';
comment on column driftd.drift_history.version is 'The model version that made the predictions.';
comment on column driftd.drift_history.segment is 'Value of the segment expression, or all.';
comment on column driftd.drift_history.window_start is 'Event time, inclusive.';
comment on column driftd.drift_history.window_end is 'Event time, exclusive.';
comment on column driftd.drift_history.verdict is 'What driftd says of the window as a whole.';
comment on column driftd.drift_history.mode is 'Which rule decided: learned, thresholds, or none.';
comment on column driftd.drift_history.calibrated is
    'Whether the baseline holds enough windows of this size to learn from.';
comment on column driftd.drift_history.rows is 'Rows that count in the window.';
comment on column driftd.drift_history.late is 'Rows that came too late and do not count.';
comment on column driftd.drift_history.drifted_share is
    'Share of the tested features of the window that drifted.';
comment on column driftd.drift_history.feature is
    'Name as in the baseline; (joint) for tests of many features, (rows) for the number of rows.';
comment on column driftd.drift_history.reference is 'What the window was compared with: baseline, ...';
comment on column driftd.drift_history.test is 'Which test: ks, psi, chi2, learned, ...';
comment on column driftd.drift_history.statistic is 'The test''s number; null: see reason.';
comment on column driftd.drift_history.p_value is 'Raw; null for tests that have none.';
comment on column driftd.drift_history.p_adjusted is
    'Adjusted over the tests of the feature and the features of the window; for a test that informs, over its features.';
comment on column driftd.drift_history.effect is 'Size of the difference, on the test''s own scale.';
comment on column driftd.drift_history.threshold is
    'The limit that the test was held against; null where it informs only.';
comment on column driftd.drift_history.threshold_origin is
    'Where the limit came from: settings, default, learned.';
comment on column driftd.drift_history.error_bound is 'Bound on the error of statistic; null: exact.';
comment on column driftd.drift_history.rows_window is
    'Rows of the window; those without a value of the feature are in nulls.';
comment on column driftd.drift_history.rows_reference is 'Rows of the reference.';
comment on column driftd.drift_history.nulls is 'Null or missing values in the window.';
comment on column driftd.drift_history.unseen is 'Values that the baseline never held.';
comment on column driftd.drift_history.drifted is 'Whether this test speaks for drift.';
comment on column driftd.drift_history.reason is 'Why there is no number.';
comment on column driftd.drift_history.contributions is
    'The bins, levels or features that contribute most; rows in drift_attribution.';
comment on column driftd.drift_history.baseline_id is 'The baseline that the window was compared with.';
comment on column driftd.drift_history.monitor_id is 'The revision of the monitor, as a key.';
comment on column driftd.drift_history.revision is
    'Counts the changes of the monitor''s windows or features.';
comment on column driftd.drift_history.judged_at is 'Clock time of the verdict.';
comment on column driftd.drift_history.expected is 'What chance alone gives of statistic; null: not known.';
comment on column driftd.drift_history.decides is 'Whether the test decides over the window or informs only.';
comment on column driftd.drift_history.threshold_slow is
    'Of test learned: the limit of the sum in effect; half of it holds a drift that was alarmed.';

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
comment on column driftd.drift_attribution.feature is
    'Name as in the baseline; (joint) for tests of many features.';
comment on column driftd.drift_attribution.reference is 'What the window was compared with: baseline, ...';
comment on column driftd.drift_attribution.test is 'The test whose score it is.';
comment on column driftd.drift_attribution.rank is '1 contributes most.';
comment on column driftd.drift_attribution.bin is
    'A bin, a level, what was found instead of a value, or features.';
comment on column driftd.drift_attribution.reference_share is 'Its share of the baseline''s rows.';
comment on column driftd.drift_attribution.window_share is 'Its share of the window''s rows.';
comment on column driftd.drift_attribution.contribution is 'Its share of the score, 0 to 1.';

-- A rejected message with monitor '' counts for every monitor of its topic: none could use it.
create view driftd.monitor_health as
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

comment on view driftd.monitor_health is 'One row per monitor: is it fed, is it judged, is anything lost.';
comment on column driftd.monitor_health.monitor is 'Name of the monitor.';
comment on column driftd.monitor_health.revision is 'Its newest revision.';
comment on column driftd.monitor_health.model is 'The model that is watched.';
comment on column driftd.monitor_health.topic is 'Kafka topic; null: periodic only.';
comment on column driftd.monitor_health.last_window_start is 'Start of the last judged window.';
comment on column driftd.monitor_health.last_window_end is 'End of the last judged window.';
comment on column driftd.monitor_health.last_verdict is 'Its verdict.';
comment on column driftd.monitor_health.last_judged_at is 'Clock time of that verdict.';
comment on column driftd.monitor_health.windows is
    'Windows judged, over all revisions, of the history that is kept.';
comment on column driftd.monitor_health.rows is 'Rows that count in them.';
comment on column driftd.monitor_health.late is 'Rows that came too late and do not count.';
comment on column driftd.monitor_health.rejected is
    'Messages of the topic that could not be used, of those that are kept.';
comment on column driftd.monitor_health.gaps is
    'Stretches of the topic that were gone before they were read.';
comment on column driftd.monitor_health.rows_waiting is 'Rows stored for windows that are not judged yet.';
comment on column driftd.monitor_health.watermark is
    'Event time that every partition seen so far has passed; an idle one holds it back here, not the windows.';
comment on column driftd.monitor_health.partitions is 'Partitions of the topic.';
comment on column driftd.monitor_health.partitions_seen is
    'Those from which a row was read. Fewer than partitions, and none idle: windows wait.';
comment on column driftd.monitor_health.partitions_idle is 'Caught up and quiet: they hold no window back.';
comment on column driftd.monitor_health.open_episodes is 'Episodes that are pending or firing.';
comment on column driftd.monitor_health.next_scheduled_retraining is
    'When its schedule is due next; null: it has none.';

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
            driftd.open_alerts, driftd.job_queue, driftd.monitor_health, driftd.model_lineage,
            driftd.waiting_rows, driftd.time_partitions
            to driftd_reader;
    end if;
end $$;
select driftd.grant_roles();
