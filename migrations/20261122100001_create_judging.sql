-- What was found: windows, scores, episodes, and the messages to send about them.

-- Where judging stands per (monitor, version, segment). Its row lock is what makes windows of one
-- line be judged in order and one at a time, over all replicas.
create table driftd.window_cursors (
    monitor_id bigint not null references driftd.monitors,
    version text not null,
    segment text not null default 'all',
    next_start timestamptz not null,            -- the next window to judge
    last_start timestamptz not null,            -- the last window for which rows are stored
    judged bigint not null default 0,           -- windows judged so far
    state jsonb not null default '{}',          -- what decide carries from window to window
    primary key (monitor_id, version, segment)
) with (fillfactor = 50);

create type driftd.verdict as enum ('stable', 'drifted', 'too_few_rows', 'no_baseline', 'incomplete');

create table driftd.windows (
    monitor_id bigint not null references driftd.monitors,
    version text not null,
    segment text not null default 'all',
    window_start timestamptz not null,
    window_end timestamptz not null,
    baseline_id text references driftd.baselines,
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
);
create index windows_by_time on driftd.windows (window_start);

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
    -- the bins or levels that contribute most: [{"bin", "reference_share", "window_share"}]
    contributions jsonb not null default '[]',
    primary key (monitor_id, version, segment, window_start, feature, reference, test),
    foreign key (monitor_id, version, segment, window_start) references driftd.windows
);
-- "how did this feature move" reads one feature over time.
create index drift_scores_by_feature on driftd.drift_scores (feature, window_start);

-- The merged profile of a judged window, without the sample: for plots and backtests.
create table driftd.window_profiles (
    monitor_id bigint not null,
    version text not null,
    segment text not null,
    window_start timestamptz not null,
    profile bytea not null,
    primary key (monitor_id, version, segment, window_start),
    foreign key (monitor_id, version, segment, window_start) references driftd.windows
);

create type driftd.episode_state as enum ('pending', 'firing', 'resolved');

-- One alert from its start to its end.
create table driftd.alert_episodes (
    episode_id bigint generated always as identity primary key,
    monitor_id bigint not null references driftd.monitors,
    monitor text not null,
    model text not null,
    version text not null,
    segment text not null default 'all',
    state driftd.episode_state not null,
    severity text not null check (severity in ('warning', 'critical')),
    first_window timestamptz not null,          -- the first drifted window
    fired_window timestamptz,                   -- the window at which it fired; null while pending
    last_window timestamptz not null,           -- the last window that belongs to it
    drifted_windows int not null default 0,
    -- the features behind it, worst first, as of the window at which it fired
    top_features jsonb not null default '[]',
    opened_at timestamptz not null default now(),
    resolved_at timestamptz
);
-- One open episode per line of windows: the database, not code, stops the second.
create unique index one_open_episode on driftd.alert_episodes (monitor_id, version, segment)
    where state <> 'resolved';

create table driftd.alert_events (
    event_id bigint generated always as identity primary key,
    episode_id bigint not null references driftd.alert_episodes,
    kind text not null check (kind in ('opened', 'fired', 'continued', 'resolved')),
    window_start timestamptz not null,
    detail jsonb not null default '{}',
    created_at timestamptz not null default now(),
    unique (episode_id, kind, window_start)
);

-- Messages to send, written in the transaction that caused them and delivered at least once; the
-- key lets receivers drop the second copy.
create table driftd.outbox (
    outbox_id bigint generated always as identity primary key,
    key text not null unique,
    kind text not null,                         -- alert_fired | alert_resolved | job_enqueued
    payload jsonb not null,
    created_at timestamptz not null default now(),
    attempts int not null default 0,
    next_attempt_at timestamptz not null default now(),
    delivered_at timestamptz
);
create index outbox_undelivered on driftd.outbox (next_attempt_at) where delivered_at is null;
