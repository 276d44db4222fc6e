-- What is watched, and the log's way into Postgres: models, baselines, monitors, partitions,
-- checkpoints and the deltas they carry.
--
-- Times that come from the data (event time) and times that come from a clock are both
-- timestamptz; a column named *_at is a clock's, a column named window_* is the data's.

create schema if not exists driftd;

create table driftd.models (
    model text primary key,
    created_at timestamptz not null default now()
);

-- The stored training distribution of one model version. Immutable: the id is the digest of its
-- content, so that importing the same files twice finds the row that is there.
create table driftd.baselines (
    baseline_id text primary key,               -- sha-256 of the profile and its features, hex
    model text not null references driftd.models,
    version text not null,
    -- SHA-256 over the bytes of the training files in the order given: what the model saw.
    training_data_digest text not null,
    training_data_files text[] not null,
    rows bigint not null check (rows > 0),
    time_column text,                           -- null: the data has no time
    time_from timestamptz,
    time_to timestamptz,
    -- [{"name", "kind", "source_type", "levels"|"cuts": how many, "rows", "nulls"}]
    features jsonb not null,
    profile bytea not null,                     -- driftd's own encoding, versioned by its first byte
    created_at timestamptz not null default now()
);
create index baselines_by_model on driftd.baselines (model, version);

-- What was learned from the baseline's own windows, per window size, since thresholds depend on it.
create table driftd.baseline_calibrations (
    baseline_id text not null references driftd.baselines,
    window_ms bigint not null,
    every_ms bigint not null,
    windows int not null,                       -- how many of the baseline's windows were used
    calibration jsonb not null,
    created_at timestamptz not null default now(),
    primary key (baseline_id, window_ms, every_ms)
);

create table driftd.model_versions (
    model text not null references driftd.models,
    version text not null,
    -- The baseline that rows of this version are compared with; null until one is imported.
    baseline_id text references driftd.baselines,
    parent_version text,                        -- the version it was retrained from
    job_id bigint,                              -- the retraining job that made it
    training_data_digest text,
    artifact_uri text,
    created_at timestamptz not null default now(),
    primary key (model, version)
);

-- One row per revision of a monitor. A change that alters windows or features starts a new
-- revision; history keeps the one that it was judged under.
create table driftd.monitors (
    monitor_id bigint generated always as identity primary key,
    monitor text not null,
    revision int not null,
    model text not null references driftd.models,
    topic text,                                 -- null: periodic only
    definition jsonb not null,                  -- the settings that shape windows and features
    definition_digest text not null,
    -- All of its settings as last started with: rules and policies may change within a revision.
    settings jsonb not null,
    -- Windows that start before this belong to an earlier revision; null: no limit.
    starts_at timestamptz,
    created_at timestamptz not null default now(),
    unique (monitor, revision)
);

-- How many partitions a topic has: a window is ripe only when all of them have passed it.
create table driftd.topics (
    topic text primary key,
    partitions int not null check (partitions > 0),
    seen_at timestamptz not null default now()
);

-- Who reads a partition and how far it has come. epoch and next_offset are the fence: a
-- checkpoint is accepted only from the epoch it was taken over with and at the offset expected.
create table driftd.partition_progress (
    topic text not null,
    partition int not null,
    epoch bigint not null,
    first_offset bigint not null,
    next_offset bigint not null,
    -- The clock's time since when the partition is caught up and quiet; null: it is not idle.
    idle_since timestamptz,
    owner text not null,                        -- which replica, for people
    updated_at timestamptz not null default now(),
    primary key (topic, partition)
) with (fillfactor = 50);                       -- updated by every checkpoint: leave room for HOT

-- Greatest event time per monitor and partition. Each monitor has its own timestamp and lateness.
create table driftd.watermarks (
    monitor_id bigint not null references driftd.monitors,
    topic text not null,
    partition int not null,
    max_event_time timestamptz not null,
    primary key (monitor_id, topic, partition)
) with (fillfactor = 50);

-- One stretch of one partition that was read and saved. Inserted, never updated; the ranges prove
-- that nothing was skipped.
create table driftd.checkpoints (
    checkpoint_id bigint generated always as identity primary key,
    topic text not null,
    partition int not null,
    epoch bigint not null,
    first_offset bigint not null,
    next_offset bigint not null,
    messages bigint not null,                   -- = read + rejected + skipped
    rejected bigint not null,
    skipped bigint not null,                    -- tombstones
    committed_at timestamptz not null default now(),
    check (next_offset >= first_offset),
    unique (topic, partition, first_offset, next_offset, checkpoint_id)
);

-- What a stretch adds to one window. A window's profile is the merge of its deltas in
-- (partition, offset) order. Dropped once the window is judged and its profile stored.
create table driftd.profile_deltas (
    checkpoint_id bigint not null references driftd.checkpoints on delete cascade,
    monitor_id bigint not null references driftd.monitors,
    version text not null,
    segment text not null default 'all',
    window_start timestamptz not null,
    baseline_id text references driftd.baselines,
    partition int not null,
    first_offset bigint not null,
    next_offset bigint not null,
    rows bigint not null,
    late bigint not null,                       -- rows behind their own partition's watermark
    delta bytea,                                -- null where only late rows came
    primary key (monitor_id, version, segment, window_start, checkpoint_id)
);

-- What could not be read, kept: never lost in silence.
create table driftd.rejected_messages (
    topic text not null,
    partition int not null,
    message_offset bigint not null,
    -- The monitor that could not use it; '' where no monitor could.
    monitor text not null default '',
    reason text not null,
    detail text not null default '',
    digest bytea not null,                      -- SHA-256 of the payload
    payload_bytes bigint not null,
    payload bytea,                              -- only where the operator asks for it
    rejected_at timestamptz not null default now(),
    primary key (topic, partition, message_offset, monitor)
);

-- Stretches of the log that were gone before they were read.
create table driftd.gaps (
    gap_id bigint generated always as identity primary key,
    topic text not null,
    partition int not null,
    from_offset bigint not null,
    to_offset bigint not null,
    reason text not null,
    policy text not null check (policy in ('stop', 'continue')),
    found_at timestamptz not null default now(),
    unique (topic, partition, from_offset, to_offset)
);
