-- Whatever may make a window ripe says so on the channel driftd_ripe, with the key of the monitor's
-- revision, so that the judge has to look at few lines and seldom at all of them (src/judge/frontier.rs).
-- What is said is a hint: it may be missed, and it may be wrong.

alter table driftd.monitors
    add column reach_ms bigint generated always as (
        (settings #>> '{input,window,allowed_lateness_ms}')::bigint
        + (settings #>> '{input,window,out_of_orderness_ms}')::bigint) stored,
    add column close_ms bigint generated always as (
        (settings #>> '{input,window,allowed_lateness_ms}')::bigint) stored,
    add column due_ms bigint generated always as (
        (settings #>> '{input,window,allowed_lateness_ms}')::bigint
        + (settings #>> '{input,window,idle_after_ms}')::bigint) stored;
comment on column driftd.monitors.reach_ms is
    'From a window''s end to the event time that a partition must have seen to hold it back no longer. Null: periodic only.';
comment on column driftd.monitors.close_ms is
    'From a window''s end to the moment after which an idle partition must be confirmed to hold it back no longer.';
comment on column driftd.monitors.due_ms is
    'From a window''s end to the moment after which idle partitions must be confirmed for the clock to judge it.';

-- Checkpoints and the judge look monitors up by topic.
create index on driftd.monitors (topic);

create function driftd.add_ms(at timestamptz, ms bigint) returns timestamptz
    language sql stable parallel safe
    return at + ms * interval '1 millisecond';
comment on function driftd.add_ms(timestamptz, bigint) is 'A moment and so many milliseconds.';

-- A partition's watermark passes the end of a line's next window.
create function driftd.notify_watermarks() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        perform pg_notify('driftd_ripe', monitor_id::text) from new_rows;
        return null;
    end if;
    perform pg_notify('driftd_ripe', n.monitor_id::text)
    from new_rows n
        join old_rows o using (monitor_id, topic, partition)
        join driftd.monitors m using (monitor_id)
        join driftd.window_cursors c using (monitor_id)
    where o.max_event_time < driftd.add_ms(c.next_end, m.reach_ms)
        and n.max_event_time >= driftd.add_ms(c.next_end, m.reach_ms);
    return null;
end $$;
comment on function driftd.notify_watermarks() is 'Notifies driftd_ripe of watermarks that pass the end of a window.';

create trigger notify_inserted after insert on driftd.watermarks
    referencing new table as new_rows
    for each statement execute function driftd.notify_watermarks();
create trigger notify_updated after update on driftd.watermarks
    referencing old table as old_rows new table as new_rows
    for each statement execute function driftd.notify_watermarks();

-- A partition becomes idle, or is confirmed to be since a line's next window was over by the clock.
create function driftd.notify_idle_partitions() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from new_rows where idle_since is not null) then
        return null; -- nearly always
    end if;
    perform pg_notify('driftd_ripe', m.monitor_id::text)
    from new_rows n
        join old_rows o using (topic, partition)
        join driftd.monitors m using (topic)
        join driftd.window_cursors c using (monitor_id)
        cross join lateral (values (driftd.add_ms(c.next_end, m.close_ms)),
            (driftd.add_ms(c.next_end, m.due_ms))) as over_by (moment)
    where n.idle_since is not null
        and (o.idle_since is null
            or (o.idle_confirmed_at < moment and n.idle_confirmed_at >= moment));
    return null;
end $$;
comment on function driftd.notify_idle_partitions() is
    'Notifies driftd_ripe of partitions that hold windows back no longer because they are idle.';

create trigger notify_idle after update on driftd.partition_progress
    referencing old table as old_rows new table as new_rows
    for each statement execute function driftd.notify_idle_partitions();

-- A line begins, gets rows behind a stretch without any, or keeps up with the clock from now on.
create function driftd.notify_lines() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        perform pg_notify('driftd_ripe', monitor_id::text) from new_rows;
        return null;
    end if;
    perform pg_notify('driftd_ripe', n.monitor_id::text)
    from new_rows n join old_rows o using (monitor_id, version, segment)
    where (n.last_start >= n.next_start and (o.last_start >= n.next_start) is not true)
        or n.keeps_up <> o.keeps_up;
    return null;
end $$;
comment on function driftd.notify_lines() is 'Notifies driftd_ripe of lines that get new windows.';

create trigger notify_inserted after insert on driftd.window_cursors
    referencing new table as new_rows
    for each statement execute function driftd.notify_lines();
create trigger notify_updated after update on driftd.window_cursors
    referencing old table as old_rows new table as new_rows
    for each statement execute function driftd.notify_lines();

revoke execute on function driftd.add_ms(timestamptz, bigint), driftd.notify_watermarks(),
    driftd.notify_idle_partitions(), driftd.notify_lines() from public;
