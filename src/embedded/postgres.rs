//! A private Postgres server: its own data directory, a unix socket that only its owner can reach,
//! no TCP, gone when the process that started it is gone.
//!
//! Trust authentication is safe here because the socket stands in a directory of mode 0700 and
//! nothing listens on the network. As root, the server runs as `postgres` (else `nobody`), since
//! Postgres refuses root.
//!
//! Three things end the server: `Postgres::stop` or dropping it; the death of this process by
//! whatever signal (the server asked the kernel for SIGINT when the thread that started it ends,
//! hence a thread of its own that lives as long as the server); and, for a temporary directory, a
//! small shell waits on a pipe that closes when this process ends, and then removes it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::binaries::{self, RunAs};
use super::place::Place;
use super::sweeper::{Sweeper, temporary};

/// How long a server may take to accept connections: crash recovery on a slow disk included.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(120);
/// `sun_path` holds 108 bytes with its terminator.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = "/.s.PGSQL.5432";

/// What went wrong, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nowhere on this machine.
    #[error(
        "PostgreSQL's server programs (initdb, postgres, pg_ctl) were not found in PATH, under \
         /usr/lib/postgresql or by pg_config; install them (Debian, Ubuntu: apt-get install \
         postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql) or \
         name their directory in DRIFTD_PG_BIN"
    )]
    NotInstalled,
    /// The directory that the user named does not hold them.
    #[error(
        "{0} does not hold initdb, postgres and pg_ctl; DRIFTD_PG_BIN has to name a \
             directory that does"
    )]
    NotThere(PathBuf),
    /// Running as root, and there is nobody else to be.
    #[error(
        "PostgreSQL does not run as root, and this system has neither a user postgres nor \
             nobody; run driftd as another user"
    )]
    NoUser,
    /// The server's user cannot reach its directory.
    #[error(
        "user {user} has to enter {closed} to reach the database's directory {dir}, and its \
             mode does not allow that; choose another directory or chmod o+x it"
    )]
    Closed {
        /// Whom the server runs as.
        user: String,
        /// The directory that is closed.
        closed: PathBuf,
        /// The directory that was asked for.
        dir: PathBuf,
    },
    /// A directory could not be made, owned or read.
    #[error("cannot prepare {path} for the database")]
    Dir {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot run {program} (as root, setpriv of util-linux is needed)")]
    Run {
        /// Which one.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("{program} failed with {status}: {output}")]
    Failed {
        /// Which one.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// The server does not come up.
    #[error("PostgreSQL did not accept connections within {} s: {output}", START_TIMEOUT.as_secs())]
    NotReady {
        /// The end of its log.
        output: String,
    },
}

impl Error {
    pub(super) fn run(program: &str, source: std::io::Error) -> Self {
        Self::Run {
            program: program.to_owned(),
            source,
        }
    }

    pub(super) fn dir(path: &Path, source: std::io::Error) -> Self {
        Self::Dir {
            path: path.to_owned(),
            source,
        }
    }
}

/// How to start a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where its files are kept from run to run; `None`: a temporary directory that goes with it.
    pub data: Option<PathBuf>,
    /// Survive a crash of the machine. Tests do without and are faster.
    pub durable: bool,
    /// Directory of the server programs (`DRIFTD_PG_BIN`); `None`: look for them.
    pub bin: Option<PathBuf>,
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    socket_dir: PathBuf,
    keeper: Option<Keeper>,
    // Behind the keeper, so that they go after the server.
    sweepers: Vec<Sweeper>,
}

/// The thread that started the server and ends with it.
#[derive(Debug)]
struct Keeper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the server on a thread of its own, which then waits to be told to stop it.
    fn start(place: Place, durable: bool) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let spawned = thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                match place.serve(durable) {
                    Ok(server) => {
                        let _ = tell.send(Ok(()));
                        let _ = stopped.recv(); // ends when the other side is dropped
                        place.end(server, durable);
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                    }
                }
            });
        let thread = spawned.map_err(|source| Error::run("a thread", source))?;
        match told.recv() {
            Ok(Ok(())) => Ok(Self { stop, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::NotReady {
                output: "its thread panicked".to_owned(),
            }),
        }
    }
}

impl Postgres {
    /// Starts a server and waits until it accepts connections. A new data directory takes some
    /// two seconds; the call blocks its thread.
    ///
    /// # Errors
    /// When the programs are missing, the directory cannot be used, or the server does not start;
    /// the message holds what the server said.
    pub fn start(options: Options) -> Result<Self, Error> {
        let bin = binaries::find(options.bin.as_deref())?;
        let mut sweepers = Vec::new();
        let dir = match &options.data {
            Some(dir) => fs::create_dir_all(dir)
                .and_then(|()| dir.canonicalize())
                .map_err(|e| Error::dir(dir, e))?,
            None => temporary(&mut sweepers)?,
        };
        let socket_dir = match fits_socket(&dir) {
            true => dir.clone(),
            false => temporary(&mut sweepers)?,
        };
        let run_as = RunAs::choose()?;
        for dir in [&dir, &socket_dir] {
            own(dir, &run_as)?;
        }
        let place = Place {
            bin,
            run_as,
            dir,
            socket_dir: socket_dir.clone(),
        };
        if !place.data().join("PG_VERSION").exists() {
            place.initdb(options.durable)?;
        }
        let keeper = Keeper::start(place, options.durable)?;
        Ok(Self {
            socket_dir,
            keeper: Some(keeper),
            sweepers,
        })
    }

    /// URL of the server's first database, over the unix socket.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// URL of another database of the server.
    pub fn url_of(&self, database: &str) -> String {
        let host = escape(&self.socket_dir.to_string_lossy());
        format!("postgres://driftd@localhost/{database}?host={host}")
    }

    /// Stops the server and waits until it is gone; a temporary directory goes with it.
    pub fn stop(&mut self) {
        if let Some(Keeper { stop, thread }) = self.keeper.take() {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("the thread that keeps PostgreSQL panicked");
            }
        }
        self.sweepers.clear();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) fn fits_socket(dir: &Path) -> bool {
    dir.as_os_str().len() + SOCKET_NAME.len() <= SOCKET_PATH_MAX
}

/// Gives the directory to the server's user, closed to all others.
fn own(dir: &Path, run_as: &RunAs) -> Result<(), Error> {
    if let RunAs::Other { name, uid, gid } = run_as {
        let owned = std::os::unix::fs::chown(dir, Some(*uid), Some(*gid));
        owned.map_err(|e| Error::dir(dir, e))?;
        if let Some(closed) = dir.parent().and_then(|parent| run_as.first_closed(parent)) {
            return Err(Error::Closed {
                user: name.clone(),
                closed,
                dir: dir.to_owned(),
            });
        }
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|e| Error::dir(dir, e))
}

/// Percent-encodes what a URL's query may not hold as it is.
fn escape(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    path.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_url_is_escaped() {
        assert_eq!(escape("/tmp/a b&c/é"), "/tmp/a%20b%26c/%C3%A9");
    }

    #[test]
    fn a_socket_path_has_107_bytes_at_most() {
        let room = SOCKET_PATH_MAX - SOCKET_NAME.len();
        assert!(fits_socket(Path::new(&"x".repeat(room))));
        assert!(!fits_socket(Path::new(&"x".repeat(room + 1))));
    }
}
