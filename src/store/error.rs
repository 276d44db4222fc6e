//! What can go wrong with the database, sorted by what a caller does about it.

use std::time::Duration;

/// SQLSTATEs of driftd's own SQL functions. Their class is one that the standard leaves to
/// implementations; trainers in other languages match on them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlState {
    /// `RD001`: the (job, attempt, lease token) is no longer the one that holds the job.
    StaleLease,
    /// `RD002`: there is no such job.
    NoSuchJob,
    /// `RD003`: the job is in a state that does not allow this.
    WrongState,
    /// `RD004`: an argument cannot be used; the message says which and why.
    BadArgument,
}

impl SqlState {
    fn of(code: &str) -> Option<Self> {
        match code {
            "RD001" => Some(Self::StaleLease),
            "RD002" => Some(Self::NoSuchJob),
            "RD003" => Some(Self::WrongState),
            "RD004" => Some(Self::BadArgument),
            _ => None,
        }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be read. It is not repeated here: it may hold a password.
    #[error("the database URL is not of the form postgres://user:password@host:port/database")]
    Url,
    /// The schema is from the future.
    #[error(
        "the database was migrated by a newer driftd (it has migration {database}, this binary \
         knows up to {binary}); run that version or a later one"
    )]
    SchemaNewer {
        /// A migration this binary does not know.
        database: i64,
        /// The newest it knows.
        binary: i64,
    },
    /// The schema is missing or old.
    #[error("the database lacks {missing} migration(s) of this driftd; run `driftd migrate`")]
    NotMigrated {
        /// How many.
        missing: usize,
    },
    /// The server takes no writes: a standby, before it is promoted.
    #[error(
        "this Postgres is a standby, which takes no writes; the URL has to lead to the primary, also \
         after a failover"
    )]
    Standby,
    /// No answer came.
    #[error("no answer within {} s to the attempt to {doing}", limit.as_secs_f64())]
    Silent {
        /// What was attempted.
        doing: &'static str,
        /// How long an answer was waited for.
        limit: Duration,
    },
    /// A migration failed or was changed after it was applied.
    #[error("cannot migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// One of driftd's SQL functions refused.
    #[error("{message}")]
    Refused {
        /// Why, for programs.
        state: SqlState,
        /// Why, for people.
        message: String,
    },
    /// Postgres, or the way to it.
    #[error("cannot {doing}")]
    Query {
        /// What was attempted.
        doing: &'static str,
        /// What came back.
        source: sqlx::Error,
    },
}

impl Error {
    /// For `map_err`: says what was attempted.
    pub fn doing(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| {
            let database = source.as_database_error();
            let state = database.and_then(|e| SqlState::of(e.code()?.as_ref()));
            match (state, database) {
                (Some(state), Some(e)) => Self::Refused {
                    state,
                    message: with_hint(e),
                },
                _ => Self::Query { doing, source },
            }
        }
    }

    /// The error with its causes on one line: `Display` tells only what was attempted.
    pub fn chain(&self) -> String {
        let first: &dyn std::error::Error = self;
        let causes = std::iter::successors(Some(first), |error| error.source());
        causes
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    }

    /// Whether a statement was ended because it took too long.
    pub fn is_timeout(&self) -> bool {
        let Self::Query { source, .. } = self else {
            return false;
        };
        let database = source.as_database_error();
        database.and_then(|error| error.code()).as_deref() == Some("57014")
    }

    /// Whether the same may succeed when it is tried again: the connection was lost, Postgres is
    /// starting or stopping or full or not the primary yet, or two transactions were in each
    /// other's way.
    pub fn is_transient(&self) -> bool {
        let source = match self {
            Self::Standby | Self::Silent { .. } => return true,
            Self::Query { source, .. }
            | Self::Migrate(sqlx::migrate::MigrateError::Execute(source)) => source,
            _ => return false,
        };
        match source {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(e) => {
                e.code().is_some_and(|code| is_transient_state(&code)) || meets_new_partition(&**e)
            }
            _ => false,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        Self::doing("talk to Postgres")(source)
    }
}

/// What the function says, and what it says would be right.
fn with_hint(error: &dyn sqlx::error::DatabaseError) -> String {
    let postgres = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>();
    match postgres.and_then(|error| error.hint()) {
        Some(hint) => format!("{}; {hint}", error.message()),
        None => error.message().to_owned(),
    }
}

/// A row was on its way to the default partition while upkeep attached the one that it belongs to:
/// 23514 without the name of a constraint. The next attempt finds the new partition.
fn meets_new_partition(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().as_deref() == Some("23514") && error.constraint().is_none()
}

/// Classes 08 (connection), 40 (rollback: serialisation, deadlock), 53 (resources, a full disk among
/// them), 57P (operator intervention, crash, start) and 58 (what the server asked of its system);
/// 55P03 (lock not available); the timeouts of a statement (57014), of idling in a transaction
/// (25P03) and of a transaction (25P04); 25006: the server is read-only, as a standby is, and as
/// some services make a primary whose disk is nearly full.
fn is_transient_state(code: &str) -> bool {
    ["08", "40", "53", "57P", "58"]
        .iter()
        .any(|class| code.starts_with(class))
        || ["55P03", "57014", "25P03", "25P04", "25006"].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_tried_again() {
        assert!(Error::from(sqlx::Error::PoolTimedOut).is_transient());
        assert!(!Error::from(sqlx::Error::RowNotFound).is_transient());
        assert!(!Error::Url.is_transient());
        for (code, transient) in [
            ("40001", true),
            ("40P01", true),
            ("57P01", true),
            ("25006", true),
            ("53100", true),
            ("58030", true),
            ("23505", false),
            ("42P01", false),
        ] {
            assert_eq!(is_transient_state(code), transient, "{code}");
        }
    }
}
