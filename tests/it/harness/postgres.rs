//! One private Postgres for the whole test binary, one migrated template in it, and a copy of
//! that template for every test: tests run side by side and see nothing of each other.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use driftd::embedded::postgres::{Options, Postgres};
use driftd::store;
use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, Executor};
use tokio::sync::OnceCell;

use super::proxy::{Proxy, Upstream};

/// Notes each update that moves a stored offset back within its log, for the oracle.
const AUDIT: &str = "create schema harness;
    create table harness.went_back (line text not null);
    create function harness.note_going_back() returns trigger language plpgsql as $$
    begin
        insert into harness.went_back values (old::text || ' became ' || new::text);
        return null;
    end $$;
    create trigger note_going_back after update on driftd.partition_progress for each row
        when (new.generation < old.generation or new.epoch < old.epoch
            or (new.generation = old.generation and new.next_offset < old.next_offset))
        execute function harness.note_going_back();";

/// The database of one test.
pub(crate) struct TestDb {
    pub(crate) pool: PgPool,
    pub(crate) url: String,
}

impl TestDb {
    /// Another pool on the same database, as a second replica has one.
    pub(crate) async fn another_pool(&self) -> PgPool {
        connect(&self.url).await
    }

    /// Drops it, where a test makes many.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn drop(&self) {
        let name: String = sqlx::query_scalar("select current_database()::text")
            .fetch_one(&self.pool)
            .await
            .unwrap();
        self.pool.close().await;
        let options = PgConnectOptions::from_str(&server().url()).unwrap();
        let mut admin = options.connect().await.unwrap();
        let statement = format!("drop database {name} with (force)");
        admin.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
}

impl TestDb {
    /// The same database for driftd by way of a proxy; the test's own pool goes there directly.
    pub(crate) fn through(self, proxy: &Proxy) -> Self {
        let options = PgConnectOptions::from_str(&self.url).unwrap();
        let (address, database) = (proxy.address(), options.get_database().unwrap());
        let url = format!("postgres://driftd@{address}/{database}");
        Self { url, ..self }
    }
}

/// Where a proxy finds the server.
pub(crate) fn upstream() -> Upstream {
    let options = PgConnectOptions::from_str(&server().url()).unwrap();
    Upstream::Unix(options.get_socket().unwrap().join(".s.PGSQL.5432"))
}

/// The server; it goes when the process ends.
pub(crate) fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(Options::default()).unwrap())
}

/// Brings a database up to date, and watches it for the oracle.
pub(crate) async fn migrate(pool: &PgPool) {
    store::migrate(pool).await.unwrap();
    pool.execute(AUDIT).await.unwrap();
}

/// A fresh migrated database.
pub(crate) async fn fresh() -> TestDb {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            create("template_migrated", "template0").await;
            let pool = connect(&server().url_of("template_migrated")).await;
            migrate(&pool).await;
            pool.close().await; // a database with a session in it cannot be copied
        })
        .await;
    from_template("template_migrated").await
}

/// A fresh database with what `prepare` puts into the first one. The name is the caller's own.
#[cfg(feature = "failpoints")]
pub(crate) async fn fresh_with(name: &str, prepare: impl AsyncFnOnce(&TestDb)) -> TestDb {
    static MADE: tokio::sync::Mutex<Vec<String>> = tokio::sync::Mutex::const_new(Vec::new());
    let mut made = MADE.lock().await;
    if !made.iter().any(|made| made == name) {
        fresh().await.drop().await; // so that the migrated template is there
        create(name, "template_migrated").await;
        let url = server().url_of(name);
        let db = TestDb {
            pool: connect(&url).await,
            url,
        };
        prepare(&db).await;
        db.pool.close().await;
        made.push(name.to_owned());
    }
    drop(made);
    from_template(name).await
}

/// A fresh database that driftd has never seen.
pub(crate) async fn empty() -> TestDb {
    from_template("template0").await
}

async fn from_template(template: &str) -> TestDb {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    create(&name, template).await;
    let url = server().url_of(&name);
    TestDb {
        pool: connect(&url).await,
        url,
    }
}

async fn create(name: &str, template: &str) {
    let options = PgConnectOptions::from_str(&server().url()).unwrap();
    let mut admin = options.connect().await.unwrap();
    let statement = format!("create database {name} template {template}");
    admin.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
}

async fn connect(url: &str) -> PgPool {
    store::connect(&SecretString::from(url.to_owned()), 5)
        .await
        .unwrap()
}
