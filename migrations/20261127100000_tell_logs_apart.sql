-- A topic can be deleted and made anew, and a log can be cut: then the same offsets stand for other
-- messages. A `generation` is one log under the name of a partition; offsets grow within it only.

alter table driftd.partition_progress
    -- Kafka's own id of the topic that was read; null: nothing was read yet, or brokers older than
    -- 2.8, which have none.
    add column topic_id text,
    add column generation bigint not null default 1;

alter table driftd.checkpoints add column generation bigint not null default 1;

-- Deltas are merged in (partition, generation, offset) order.
alter table driftd.profile_deltas add column generation bigint not null default 1;

alter table driftd.rejected_messages add column generation bigint not null default 1;
alter table driftd.rejected_messages drop constraint rejected_messages_pkey;
alter table driftd.rejected_messages
    add primary key (topic, partition, generation, message_offset, monitor);

-- A gap begins at the first offset of a generation that could not be read. How far it reaches is not
-- known where the log itself is gone.
alter table driftd.gaps
    add column generation bigint not null default 1,
    alter column to_offset drop not null,
    -- When reading went on behind it; null: reading stands before it, and waits for a person.
    add column passed_at timestamptz,
    drop constraint gaps_topic_partition_from_offset_to_offset_key,
    add constraint one_gap_at_an_offset unique (topic, partition, generation, from_offset),
    add constraint gaps_reason check (reason in ('retention', 'truncated', 'recreated', 'reset'));

comment on column driftd.gaps.reason is
    'retention: the log begins behind what was read; truncated: it ends before; recreated: the topic was made anew; reset: a person went on elsewhere.';
comment on column driftd.gaps.to_offset is 'The first offset that could be read again; null: the whole log is gone.';

-- Which windows may lack rows for a gap. A row of the gap cannot count for a window that the
-- partition's watermark had closed before it, nor (within max_future) for one that lies behind the
-- first message after it.
create table driftd.gap_windows (
    gap_id bigint not null references driftd.gaps,
    monitor_id bigint not null references driftd.monitors,
    from_start timestamptz not null,            -- the first window; -infinity: no row was read before
    until_start timestamptz,                    -- the first that is whole again; null: not known yet
    primary key (gap_id, monitor_id)
);
