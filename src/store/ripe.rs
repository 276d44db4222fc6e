//! `window_cursors`: which window is ripe, and whose it is.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};

use super::{Error, Result};

/// What makes a window of a monitor ripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ripeness {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// Its topic.
    pub topic: String,
    /// The length of its longest windows, in milliseconds.
    pub longest_ms: i64,
    /// From a window's end to the event time that every partition must have seen: allowed lateness
    /// and out-of-orderness, in milliseconds.
    pub reach_ms: i64,
    /// From a window's end to the moment when no row is expected any more: allowed lateness, in
    /// milliseconds.
    pub close_ms: i64,
    /// From a window's end to the moment when the clock alone judges it: `close_ms` and the time
    /// after which a partition is idle, in milliseconds.
    pub due_ms: i64,
    /// From a window's start to the next one's, in milliseconds.
    pub every_ms: i64,
}

/// A window that is ripe and ours until the transaction ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// Model version.
    pub version: String,
    /// Window start.
    pub window_start: DateTime<Utc>,
    /// The window after the one judged before; an earlier one than this where a silence is stepped
    /// over.
    pub next_start: DateTime<Utc>,
    /// Its line has judged no window yet.
    pub is_first: bool,
    /// Empty windows judged since the last one with rows.
    pub silence: i32,
    /// A gap in the log touches it: rows may be missing.
    pub incomplete: bool,
    /// Its line began in it, or other versions of the monitor have rows in it: how many rows it holds says
    /// nothing.
    pub shared: bool,
    /// No later row is there: only the clock says that it is over.
    pub by_clock: bool,
    /// How often it has failed to be judged since it was judged last.
    pub attempts: i32,
    /// What `decide` carries from window to window.
    pub state: Value,
}

/// After a window with rows at most so many empty ones are judged, and then none until the next one
/// with rows: nobody reads ten thousand verdicts that say nothing came. One in between is judged all
/// the same, where an open drift episode becomes unknown.
pub const LONGEST_SILENCE: i32 = 1000;

/// The lines whose next window is ripe, in the order of these windows' starts. Nothing is locked: what
/// is found has to be claimed.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn candidates(
    connection: &mut PgConnection,
    ripeness: &[Ripeness],
    longest_silence: i32,
    now: DateTime<Utc>,
) -> Result<Vec<Claimed>> {
    ripe(connection, ripeness, None, longest_silence, now).await
}

/// Claims the next window of a line, if it is ripe and nobody else has the line.
///
/// A window is ripe when every partition of the topic has stored an event time that closes it, or
/// is idle; where all are idle, when its time is over by the clock too. Idleness counts only if the
/// brokers have confirmed it since the window's time was over by the clock: what an owner that is
/// gone has stored says nothing of the rows that came since. When a window is ripe that follows a
/// long silence, no window before it can get a row any more: which windows are judged depends on
/// the log and on nothing else.
///
/// Windows behind the last one with rows are judged by the clock. That takes
/// - partitions that are idle, all of them, and confirmed to be when the window was due,
/// - a line that keeps up with the clock: of old data that is read or copied the next window may
///   come at any time, and is no silence until then,
/// - a version in service: not one that the monitor's rows have left two windows before.
///
/// A line with a failed window rests until that is due to be tried again ([`super::failures`]).
///
/// Whether the window is ripe is asked under the line's lock, by a statement that sees all that was
/// committed before the lock was taken: a partition that was idle may not be so any more. From then
/// on its first rows wait for the lock ([`super::checkpoints`]).
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn claim(
    connection: &mut PgConnection,
    ripeness: &Ripeness,
    version: &str,
    longest_silence: i32,
    now: DateTime<Utc>,
) -> Result<Option<Claimed>> {
    let locked = sqlx::query!(
        r#"-- lock a line of windows
        select judged from driftd.window_cursors
        where monitor_id = $1 and version = $2 and segment = 'all'
        for update skip locked"#,
        ripeness.monitor_id,
        version,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(Error::doing("lock a line of windows"))?;
    if locked.is_none() {
        return Ok(None);
    }
    let ripeness = std::slice::from_ref(ripeness);
    let ripe = ripe(connection, ripeness, Some(version), longest_silence, now).await?;
    Ok(ripe.into_iter().next())
}

/// Most lines are not ripe, and one partition is enough to say so: the first that holds the window
/// back ends the look at a line. `offset 0` keeps the planner from computing the window anew for
/// every use of it.
#[allow(clippy::too_many_lines, reason = "one statement")]
async fn ripe(
    connection: &mut PgConnection,
    ripeness: &[Ripeness],
    version: Option<&str>,
    longest_silence: i32,
    now: DateTime<Utc>,
) -> Result<Vec<Claimed>> {
    let monitors: Vec<i64> = ripeness.iter().map(|one| one.monitor_id).collect();
    let topics: Vec<String> = ripeness.iter().map(|one| one.topic.clone()).collect();
    let longest: Vec<i64> = ripeness.iter().map(|one| one.longest_ms).collect();
    let reach: Vec<i64> = ripeness.iter().map(|one| one.reach_ms).collect();
    let close: Vec<i64> = ripeness.iter().map(|one| one.close_ms).collect();
    let due: Vec<i64> = ripeness.iter().map(|one| one.due_ms).collect();
    let every: Vec<i64> = ripeness.iter().map(|one| one.every_ms).collect();
    sqlx::query_as!(
        Claimed,
        r#"-- find ripe windows
        select c.monitor_id, c.version, s.start as "window_start!", c.next_start as "next_start!",
            c.judged = 0 as "is_first!", c.silence, s.start > c.last_start as "by_clock!",
            exists (select from driftd.gap_windows g
                where g.monitor_id = c.monitor_id and g.from_start <= s.start
                    and (g.until_start is null or s.start < g.until_start)) as "incomplete!",
            (c.judged = 0 or exists (select from driftd.window_cursors o
                where o.monitor_id = c.monitor_id and o.version <> c.version
                    and (exists (select from driftd.profile_deltas d
                            where d.monitor_id = o.monitor_id and d.version = o.version
                                and d.segment = o.segment and d.window_start = s.start and d.rows > 0)
                        or exists (select from driftd.windows w
                            where w.monitor_id = o.monitor_id and w.version = o.version
                                and w.segment = o.segment and w.window_start = s.start
                                and w.rows > 0)))) as "shared!",
            coalesce(f.attempts, 0) as "attempts!", c.state
        from driftd.window_cursors c
            join unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $8::bigint[],
                    $9::bigint[], $10::bigint[])
                as m (monitor_id, topic, reach, close, due, every, longest) using (monitor_id)
            join driftd.topics t using (topic)
            join driftd.monitors n using (monitor_id)
            left join driftd.failures f
                on f.kind = 'windows' and f.name = n.monitor and f.version = c.version
            cross join lateral (select case when c.silence < $6 then c.next_start
                when c.next_start > c.last_start then c.unknown_start
                else least(c.unknown_start, (select min(d.window_start)
                    from driftd.profile_deltas d
                    where d.monitor_id = c.monitor_id and d.version = c.version
                        and d.segment = c.segment and d.window_start >= c.next_start
                        and d.rows > 0)) end offset 0) as s (start)
            cross join lateral (select case when s.start = c.next_start then c.next_end
                else s.start + m.longest * interval '1 millisecond' end offset 0) as e ("end")
            cross join lateral (select e."end" + m.reach * interval '1 millisecond',
                e."end" + m.close * interval '1 millisecond',
                e."end" + m.due * interval '1 millisecond' offset 0) as w (reached, closed, due)
        where ($7::text is null or c.version = $7) and (f.kind is null or f.retry_at <= now())
            and case when s.start <= c.last_start
            then not exists (select from driftd.partition_progress p
                    left join driftd.watermarks k on k.monitor_id = c.monitor_id
                        and k.topic = p.topic and k.partition = p.partition
                where p.topic = m.topic and p.partition < t.partitions
                    and (k.max_event_time >= w.reached or (p.idle_since is not null
                        and (p.idle_confirmed_at >= w.closed or w.closed > $5))) is not true)
                and (w.closed <= $5 or exists (select from driftd.partition_progress p
                    where p.topic = m.topic and p.partition < t.partitions
                        and p.idle_since is null))
            else s.start > c.last_start and c.keeps_up and w.due <= $5
                and not exists (select from driftd.partition_progress p
                    where p.topic = m.topic and p.partition < t.partitions
                        and (p.idle_since is not null and p.idle_confirmed_at >= w.due) is not true)
                and not exists (select from driftd.window_cursors o
                    where o.monitor_id = c.monitor_id and o.last_start
                        > c.last_start + 1.5 * m.every * interval '1 millisecond') end
            -- A partition that nobody has taken over yet holds all windows back.
            and case when s.start is not null then t.partitions =
                (select count(*) from driftd.partition_progress p
                    where p.topic = m.topic and p.partition < t.partitions) end
        order by s.start, c.monitor_id, c.version"#,
        &monitors,
        &topics,
        &reach,
        &close,
        now,
        longest_silence,
        version,
        &due,
        &every,
        &longest,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("find ripe windows"))
}

/// Hears of monitors with a window that may be ripe; what was said before is not heard. It has a
/// connection of its own.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Connects.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn connect(pool: &PgPool) -> Result<Self> {
        let options = pool.connect_options().as_ref().clone();
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .connect_lazy_with(options);
        let connected = PgListener::connect_with(&own).await;
        let mut listener = connected.map_err(Error::doing("connect to listen"))?;
        let listens = listener.listen("driftd_ripe").await;
        listens.map_err(Error::doing("listen for ripe windows"))?;
        Ok(Self(listener))
    }

    /// The next monitor's revision.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn next(&mut self) -> Result<i64> {
        loop {
            // Not `recv`, which connects again without a word of what it has missed.
            let heard = self.0.try_recv().await;
            let heard = heard.map_err(Error::doing("listen for ripe windows"))?;
            let Some(heard) = heard else {
                let lost = std::io::ErrorKind::ConnectionReset.into();
                return Err(Error::doing("listen for ripe windows")(sqlx::Error::Io(
                    lost,
                )));
            };
            if let Ok(monitor_id) = heard.payload().parse() {
                return Ok(monitor_id);
            }
        }
    }

    /// Whether the other side is there: a connection may be dead without a word.
    ///
    /// # Errors
    /// It is not.
    pub async fn check(&mut self) -> Result<()> {
        let asked = sqlx::query("select 1").execute(&mut self.0).await;
        asked.map_err(Error::doing("ask whether notifications come"))?;
        Ok(())
    }
}
