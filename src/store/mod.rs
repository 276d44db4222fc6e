//! All SQL of driftd: one file per table, each function one statement or a few that belong
//! together. Functions take a connection or an executor, so that the caller chooses the
//! transaction.

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Row};
use tokio_util::sync::CancellationToken;

mod error;

/// Training distributions.
pub mod baselines;

/// How many partitions topics have.
pub mod topics;

/// How far the log was read, by whom.
pub mod partitions;

/// Messages that were gone before they were read.
pub mod gaps;

/// What a stretch of a partition added, saved with its offset.
pub mod checkpoints;

/// Windows that are ripe, and what was said of them.
pub mod windows;

/// Which window is ripe, and whose it is.
pub mod ripe;

/// What has stopped alone.
pub mod failures;

/// Alerts from their start to their end.
pub mod episodes;

/// Models and their versions.
pub mod models;

/// Monitors and their revisions.
pub mod monitors;

/// What could not be read, kept.
pub mod rejected;

/// What asked for retraining.
pub mod triggers;

/// Since when a schedule is as it is.
pub mod schedules;

/// Retraining jobs.
pub mod jobs;

/// Trials of a search for hyperparameters.
pub mod trials;

/// Baselines that trainers ask for.
pub mod builds;

/// Messages to send.
pub mod outbox;

/// What a person decides about a partition.
pub mod resets;

/// Tables in partitions of time.
pub mod time_partitions;
/// What has to hold, whatever happened.
pub mod verify;

/// What is old.
pub mod upkeep;

/// Who keeps vacuum from its work.
pub mod vacuum;

pub use error::{Error, SqlState};

/// The result of everything in the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The migrations that this binary was built with. Their own table stands in driftd's schema, by
/// its full name: with a search path, where an unqualified one is looked for would depend on
/// whether the schema exists already.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.create_schema("driftd");
    migrator.dangerous_set_table_name("driftd._sqlx_migrations");
    migrator
});

/// What every session is given; `$1` is the time limit. `statement_timeout`: no statement of driftd
/// is meant to take that long, so a lock that is never released ends as an error.
/// `idle_in_transaction_session_timeout` ends the session of a replica that was stopped or cut off
/// in a transaction, and with it the row locks that would hold up the others; the keepalives do so
/// where its machine is gone.
const SESSION: &str = "select set_config('search_path', 'driftd, public', false), \
     set_config('statement_timeout', $1, false), \
     set_config('idle_in_transaction_session_timeout', $1, false), \
     set_config('tcp_keepalives_idle', '30', false), \
     set_config('tcp_keepalives_interval', '10', false), \
     set_config('tcp_keepalives_count', '3', false), \
     set_config('timezone', 'UTC', false), pg_is_in_recovery() as standby";

/// The time limit where the settings are not at hand.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A standby is asked again after this; the pool itself would do so at once.
const STANDBY: Duration = Duration::from_secs(1);
/// A connection that was used so short a time ago is not asked whether it is alive.
const FRESH: Duration = Duration::from_secs(1);

/// A pool that connects when it is first used. `timeout` is how long a statement may take, and how
/// long a connection is waited for.
///
/// A connection that does not answer is closed: before it is used again, and when it comes back
/// from work that was given up ([`within`]), since what is left of that would be waited for.
///
/// # Errors
/// When the URL cannot be read ([`Error::Url`], which never holds the URL).
pub fn pool(url: &SecretString, max_connections: u32, timeout: Duration) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url.expose_secret())
        .map_err(|_| Error::Url)?
        .application_name("driftd");
    let patience = timeout / 4;
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= FRESH {
                    answers(connection, patience).await?;
                }
                Ok(true)
            })
        })
        .after_release(move |connection, _| {
            Box::pin(async move { answers(connection, patience).await.map(|()| true) })
        })
        .after_connect(move |connection, _| Box::pin(begin_session(connection, timeout)))
        .connect_lazy_with(options))
}

/// [`pool`] with a time limit of 30 s.
///
/// # Errors
/// When the URL cannot be read.
pub fn lazy(url: &SecretString, max_connections: u32) -> Result<PgPool> {
    pool(url, max_connections, TIMEOUT)
}

async fn answers(connection: &mut PgConnection, patience: Duration) -> sqlx::Result<()> {
    let silent = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    let asked = tokio::time::timeout(patience, connection.ping());
    asked.await.map_err(silent)?
}

/// Prepares a session, and refuses a server that takes no writes: sqlx knows nothing of
/// `target_session_attrs`.
async fn begin_session(connection: &mut PgConnection, timeout: Duration) -> sqlx::Result<()> {
    let timeout = format!("{}ms", timeout.as_millis());
    let session = sqlx::query(SESSION).bind(timeout);
    let standby = session.fetch_one(connection).await?.try_get("standby")?;
    if standby {
        tokio::time::sleep(STANDBY).await;
    }
    match standby {
        true => Err(sqlx::Error::Io(std::io::Error::other(Error::Standby))),
        false => Ok(()),
    }
}

/// Waits so long for work on a connection that may be dead without a word: the other machine is
/// gone, or something between drops what is sent. sqlx would wait without end.
///
/// # Errors
/// Those of the work, and [`Error::Silent`].
pub async fn within<T, E: From<Error>>(
    limit: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let silent = |_| E::from(Error::Silent { doing, limit });
    tokio::time::timeout(limit, work).await.map_err(silent)?
}

/// How long to wait for work that has failed so often already: the pool's time limit, and twice as
/// long each time, up to 16 times: slow is not dead.
pub fn patience(pool: &PgPool, failures: u32) -> Duration {
    pool.options().get_acquire_timeout() * 2_u32.pow(failures.min(4))
}

/// A pool that has waited in vain says only that; why, one connection tells.
pub async fn cause(pool: &PgPool, error: Error) -> Error {
    let waited = matches!(
        &error,
        Error::Query {
            source: sqlx::Error::PoolTimedOut,
            ..
        }
    );
    match waited {
        true => reach(pool).await.err().unwrap_or(error),
        false => error,
    }
}

/// Does something else in the middle of a transaction, and lets the server know meanwhile that this
/// side is alive: a session that idles in a transaction is ended soon.
///
/// # Errors
/// When the server does not answer.
pub async fn meanwhile<T>(
    pool: &PgPool,
    connection: &mut PgConnection,
    work: impl Future<Output = T>,
) -> Result<T> {
    let timeout = pool.options().get_acquire_timeout();
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(timeout / 4, &mut work).await {
            return Ok(done);
        }
        let alive = sqlx::query("select 1").execute(&mut *connection);
        let alive = async { alive.await.map_err(Error::doing("keep a transaction")) };
        within(timeout, "keep a transaction", alive).await?;
    }
}

/// Opens a pool. One connection is tried first, so that a wrong address or password is told at
/// once and by its cause: a pool waits out its timeout and then tells only that.
///
/// # Errors
/// When the URL cannot be read or Postgres cannot be reached; see [`Error::is_transient`] for
/// whether trying again can help.
pub async fn connect(url: &SecretString, max_connections: u32) -> Result<PgPool> {
    let pool = lazy(url, max_connections)?;
    reach(&pool).await?;
    Ok(pool)
}

async fn reach(pool: &PgPool) -> Result<()> {
    let options = pool.connect_options();
    let reached = Box::pin(async {
        let connected = PgConnection::connect_with(&options).await;
        let mut first = connected.map_err(Error::doing("connect to Postgres"))?;
        let standby = sqlx::query_scalar("select pg_is_in_recovery()")
            .fetch_one(&mut first)
            .await
            .map_err(Error::doing("ask whether this is a standby"))?;
        first
            .close()
            .await
            .map_err(Error::doing("close a connection"))?;
        if standby { Err(Error::Standby) } else { Ok(()) }
    });
    within(patience(pool, 0), "connect to Postgres", reached).await
}

/// Waits for a Postgres that is not there yet: it tries again after 1 s, 2 s and so on up to 30 s,
/// with a line in the log each time, and tells the caller why. False: `stop` came first.
///
/// # Errors
/// Those for which trying again cannot help, such as a wrong password.
pub async fn wait_for(
    pool: &PgPool,
    stop: &CancellationToken,
    mut told: impl FnMut(&str),
) -> Result<bool> {
    let mut pause = Duration::from_secs(1);
    loop {
        match stop.run_until_cancelled(reach(pool)).await {
            None => return Ok(false),
            Some(Err(error)) if error.is_transient() => {
                let error = error.chain();
                tracing::warn!(%error, retry_in = ?pause, "Postgres is not there");
                told(&error);
            }
            Some(done) => return done.map(|()| true),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return Ok(false);
        }
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// Brings the schema up to this binary's. Several may do so at once: they wait for each other.
/// Returns how many migrations were applied.
///
/// # Errors
/// When a migration fails, or was applied in another form than this binary holds.
pub async fn migrate(pool: &PgPool) -> Result<usize> {
    // Not a connection of the pool: the lock is the session's, and an error must not leave it.
    let mut connection = PgConnection::connect_with(&pool.connect_options())
        .await
        .map_err(Error::doing("connect to Postgres"))?;
    // Notices here say that the schema is there already; what matters is raised as a warning.
    sqlx::query("set client_min_messages = warning")
        .execute(&mut connection)
        .await
        .map_err(Error::doing("prepare to migrate"))?;
    let before = applied(&mut connection).await?;
    if let Some(newer) = before
        .iter()
        .find(|version| !MIGRATOR.version_exists(**version))
    {
        return Err(Error::SchemaNewer {
            database: *newer,
            binary: newest(),
        });
    }
    MIGRATOR.run_direct(None, &mut connection, false).await?;
    let after = applied(&mut connection).await?;
    connection
        .close()
        .await
        .map_err(Error::doing("close the connection"))?;
    Ok(after.len() - before.len())
}

/// Tells whether the database's schema is the one this binary works with.
///
/// # Errors
/// [`Error::SchemaNewer`] when a newer driftd has migrated it, [`Error::NotMigrated`] when
/// `driftd migrate` has to run first.
pub async fn check_schema(pool: &PgPool) -> Result<()> {
    let mut connection = pool
        .acquire()
        .await
        .map_err(Error::doing("connect to Postgres"))?;
    let applied = applied(&mut connection).await?;
    if let Some(newer) = applied
        .iter()
        .find(|version| !MIGRATOR.version_exists(**version))
    {
        return Err(Error::SchemaNewer {
            database: *newer,
            binary: newest(),
        });
    }
    match MIGRATOR
        .iter()
        .filter(|m| !applied.contains(&m.version))
        .count()
    {
        0 => Ok(()),
        missing => Err(Error::NotMigrated { missing }),
    }
}

/// The migrations that the database has, none if it was never migrated. Not a checked query: the
/// table is the migrator's, not the schema's.
async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('driftd._sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::doing("look for driftd's schema"))?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("select version from driftd._sqlx_migrations where success order by version")
        .fetch_all(connection)
        .await
        .map_err(Error::doing("read the applied migrations"))
}

fn newest() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default()
}
