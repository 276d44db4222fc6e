//! A private Postgres server: its own data directory, a unix socket that only its owner can reach,
//! no TCP, gone when the process that started it is gone.
//!
//! Trust authentication is safe here because the socket stands in a directory of mode 0700 and
//! nothing listens on the network. As root, the server runs as `postgres` (else `nobody`), since
//! Postgres refuses root.
//!
//! Three things end the server: [`Postgres::stop`] or dropping it; the death of this process by
//! whatever signal (the server asked the kernel for SIGINT when the thread that started it ends,
//! hence a thread of its own that lives as long as the server); and, for a temporary directory, a
//! small shell waits on a pipe that closes when this process ends, and then removes it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::binaries::{self, RunAs};

/// How long a server may take to accept connections: crash recovery on a slow disk included.
const START_TIMEOUT: Duration = Duration::from_secs(120);
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
        let run_as = RunAs::choose(sweepers.first().map_or(&dir, |s| &s.dir))?;
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
        let keeper = place.keep(options.durable)?;
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

/// Where a server lives and how its programs are run.
struct Place {
    bin: PathBuf,
    run_as: RunAs,
    dir: PathBuf,
    socket_dir: PathBuf,
}

impl Place {
    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.run_as.command(&self.bin.join(program));
        // The current directory must be one that the server's user can enter. A group of its own:
        // Ctrl-C in the terminal is driftd's to handle, and the server has to outlive the drain.
        command
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .process_group(0)
            .env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Makes the data directory under another name first: a crash in between leaves nothing that
    /// looks like a database.
    fn initdb(&self, durable: bool) -> Result<(), Error> {
        let half = self.dir.join("data.new");
        if half.exists() {
            fs::remove_dir_all(&half).map_err(|e| Error::dir(&half, e))?;
        }
        let mut initdb = self.command("initdb");
        initdb
            .args([
                "-U",
                "driftd",
                "--auth=trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&half)
            .args((!durable).then_some("--no-sync"));
        run("initdb", initdb)?;
        fs::rename(&half, self.data()).map_err(|e| Error::dir(&half, e))
    }

    fn postgres(&self, durable: bool) -> Result<Command, Error> {
        let log = fs::File::create(self.log()).map_err(|e| Error::dir(&self.log(), e))?;
        let errors = log.try_clone().map_err(|e| Error::dir(&self.log(), e))?;
        let mut postgres = self.command("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            .args(["-p", "5432"])
            .stdout(log)
            .stderr(errors);
        let mut set = |setting: &str| {
            postgres.args(["-c", setting]);
        };
        set("listen_addresses=");
        set(&format!(
            "unix_socket_directories={}",
            self.socket_dir.display()
        ));
        set("timezone=UTC");
        set("max_connections=200");
        if !durable {
            [
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
            ]
            .into_iter()
            .for_each(set);
        }
        Ok(postgres)
    }

    /// Starts the server on a thread of its own, which then waits to be told to stop it.
    fn keep(self, durable: bool) -> Result<Keeper, Error> {
        let (stop, stopped) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let spawned = thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                match self.serve(durable) {
                    Ok(server) => {
                        let _ = tell.send(Ok(()));
                        let _ = stopped.recv(); // ends when the other side is dropped
                        self.end(server, durable);
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                    }
                }
            });
        let thread = spawned.map_err(|source| run_error("a thread", source))?;
        match told.recv() {
            Ok(Ok(())) => Ok(Keeper { stop, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::NotReady {
                output: "its thread panicked".to_owned(),
            }),
        }
    }

    fn serve(&self, durable: bool) -> Result<Child, Error> {
        let mut server = self
            .postgres(durable)?
            .spawn()
            .map_err(|source| run_error("postgres", source))?;
        let ready = self.wait_until_ready(&mut server);
        if ready.is_err() {
            let _ = server.kill();
            let _ = server.wait();
        }
        ready.map(|()| server)
    }

    /// The server writes `ready` into its pid file, which names its process: that of an earlier
    /// run does not count.
    fn wait_until_ready(&self, server: &mut Child) -> Result<(), Error> {
        let pid = server.id().to_string();
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Ok(Some(status)) = server.try_wait() {
                let output = tail(&fs::read(self.log()).unwrap_or_default());
                return Err(Error::Failed {
                    program: "postgres".to_owned(),
                    status,
                    output,
                });
            }
            let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let lines: Vec<&str> = file.lines().map(str::trim).collect();
            if lines.first() == Some(&pid.as_str()) && lines.get(7) == Some(&"ready") {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Error::NotReady {
            output: tail(&fs::read(self.log()).unwrap_or_default()),
        })
    }

    fn end(&self, mut server: Child, durable: bool) {
        let mut pg_ctl = self.command("pg_ctl");
        let how = if durable { "fast" } else { "immediate" };
        pg_ctl
            .args(["stop", "-w", "-m", how, "-D"])
            .arg(self.data());
        if let Err(error) = run("pg_ctl stop", pg_ctl) {
            // The server may have ended on its own; if not, this ends it.
            tracing::debug!(%error, "PostgreSQL was not stopped by pg_ctl");
            let _ = server.kill();
        }
        let _ = server.wait();
    }
}

fn run(program: &str, mut command: Command) -> Result<(), Error> {
    let output = command
        .output()
        .map_err(|source| run_error(program, source))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let (program, status) = (program.to_owned(), output.status);
    Err(Error::Failed {
        program,
        status,
        output: tail(&said),
    })
}

fn run_error(program: &str, source: std::io::Error) -> Error {
    Error::Run {
        program: program.to_owned(),
        source,
    }
}

/// The last lines of what a program said, on one line.
fn tail(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

fn fits_socket(dir: &Path) -> bool {
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

/// A fresh directory with a path short enough for a socket, and the sweeper that removes it.
fn temporary(sweepers: &mut Vec<Sweeper>) -> Result<PathBuf, Error> {
    let usual = std::env::temp_dir();
    let parent = match fits_socket(&usual.join("driftd-pg-123456")) {
        true => usual,
        false => PathBuf::from("/tmp"),
    };
    let made = tempfile::Builder::new()
        .prefix("driftd-pg-")
        .tempdir_in(&parent);
    let dir = made.map_err(|e| Error::dir(&parent, e))?.keep();
    let sweeper = Sweeper::start(dir.clone()).map_err(|source| run_error("sh", source))?;
    sweepers.push(sweeper);
    Ok(dir)
}

/// A shell that waits on a pipe and then removes a directory. The pipe closes when this process
/// ends, by whatever signal; a destructor would not run on SIGKILL, nor for a `static`.
#[derive(Debug)]
struct Sweeper {
    dir: PathBuf,
    shell: Child,
}

impl Sweeper {
    fn start(dir: PathBuf) -> std::io::Result<Self> {
        // The server is given ten seconds to see that its parent is gone.
        const SCRIPT: &str = "trap '' INT TERM HUP; cat; \
            pid=$(head -n 1 \"$1/data/postmaster.pid\" 2>/dev/null); tries=0; \
            while [ -n \"$pid\" ] && kill -0 \"$pid\" 2>/dev/null && [ $tries -lt 100 ]; do \
            sleep 0.1; tries=$((tries + 1)); done; rm -rf -- \"$1\"";
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "driftd-sweeper"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { dir, shell })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
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

    #[test]
    fn only_the_end_of_a_long_log_is_told() {
        let log: String = (0..100).map(|line| format!("line {line}\n\n")).collect();
        let told = tail(log.as_bytes());
        assert!(
            told.starts_with("line 92 |") && told.ends_with("line 99"),
            "{told}"
        );
    }
}
