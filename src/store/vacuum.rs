//! Who keeps vacuum from removing dead rows, and what they take meanwhile: read from Postgres' own
//! views.

use sqlx::PgPool;

use super::{Error, Result};

/// A transaction, or what stands for one that is not here.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// `session`, `prepared transaction` or `replication slot`.
    pub kind: String,
    /// Its process; none for a prepared transaction and a slot that is not in use.
    pub pid: Option<i32>,
    /// Whose it is.
    pub user: Option<String>,
    /// What the program calls itself; of the others, their name.
    pub application_name: Option<String>,
    /// `active`, `idle in transaction`, ...
    pub state: Option<String>,
    /// Since when; not known of a slot.
    pub age_seconds: Option<f64>,
    /// Transactions begun since the oldest one whose rows it may still look at; none: it keeps
    /// vacuum from nothing.
    pub horizon_transactions: Option<i64>,
}

/// The transactions of this database, and all that keeps rows of it from being removed. Those of
/// other users are seen by members of `pg_read_all_stats` only.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn holders(pool: &PgPool) -> Result<Vec<Holder>> {
    sqlx::query_as!(
        Holder,
        r#"-- who keeps vacuum waiting
        select 'session' as "kind!", a.pid, a.usename::text as user, a.application_name, a.state,
            extract(epoch from clock_timestamp() - a.xact_start)::float8 as age_seconds,
            greatest(age(a.backend_xmin), age(a.backend_xid))::bigint as horizon_transactions
        from pg_stat_activity a
        where (a.datname = current_database() or a.datname is null)
            and coalesce(a.xact_start::text, a.backend_xmin::text) is not null
            and a.pid <> pg_backend_pid() and a.backend_type <> 'autovacuum worker'
        union all
        select 'prepared transaction', null, p.owner::text, p.gid, 'prepared',
            extract(epoch from clock_timestamp() - p.prepared)::float8, age(p.transaction)::bigint
        from pg_prepared_xacts p where p.database = current_database()
        union all
        select 'replication slot', s.active_pid, null, s.slot_name::text,
            case when s.active then 'active' else 'not in use' end, null, age(s.xmin)::bigint
        from pg_replication_slots s where s.xmin is not null"#
    )
    .fetch_all(pool)
    .await
    .map_err(Error::doing("look for old transactions"))
}

/// How a table of driftd's stands, its partitions taken together.
#[derive(Debug, Clone, PartialEq)]
pub struct TableState {
    /// The table.
    pub table_name: String,
    /// What it takes on disk, indexes included.
    pub bytes: i64,
    /// Rows that vacuum has not removed yet, as far as Postgres has counted.
    pub dead_rows: i64,
}

/// How driftd's tables stand.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn tables(pool: &PgPool) -> Result<Vec<TableState>> {
    sqlx::query_as!(
        TableState,
        r#"-- how the tables stand
        select coalesce(parent.relname, t.relname)::text as "table_name!",
            coalesce(sum(pg_total_relation_size(t.oid)), 0)::bigint as "bytes!",
            coalesce(sum(pg_stat_get_dead_tuples(t.oid)), 0)::bigint as "dead_rows!"
        from pg_class t
            left join pg_inherits i on i.inhrelid = t.oid
            left join pg_class parent on parent.oid = i.inhparent
        where t.relnamespace = 'driftd'::regnamespace and t.relkind = 'r'
        group by 1 order by 1"#
    )
    .fetch_all(pool)
    .await
    .map_err(Error::doing("look at the tables"))
}
