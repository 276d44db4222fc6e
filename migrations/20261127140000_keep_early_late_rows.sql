-- Late rows of a line that has judged no window yet wait too: its first window may still turn out to
-- be earlier, when another partition is read. So where a late row is counted follows from the log, and
-- not from which partition was saved first. A version of which only late rows came has a line without
-- windows.

alter table driftd.window_cursors
    alter column next_start drop not null,
    alter column last_start drop not null;

comment on column driftd.window_cursors.next_start is
    'The next window to judge; null: no row came yet that counts.';
comment on column driftd.window_cursors.last_start is
    'The last window that has a row that counts; null: none has.';

create or replace view driftd.waiting_rows as
select m.monitor, d.monitor_id, d.version, d.segment, d.window_start,
       sum(d.rows)::bigint as rows, sum(d.late)::bigint as late
from driftd.profile_deltas d
join driftd.window_cursors c using (monitor_id, version, segment)
join driftd.monitors m using (monitor_id)
where c.judged = 0 or d.window_start >= c.next_start
group by m.monitor, d.monitor_id, d.version, d.segment, d.window_start;
