//! Running the server's programs: `initdb`, `postgres`, `pg_ctl`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::binaries::RunAs;
use super::postgres::{Error, START_TIMEOUT};

/// Where a server lives and how its programs are run.
pub(super) struct Place {
    pub(super) bin: PathBuf,
    pub(super) run_as: RunAs,
    pub(super) dir: PathBuf,
    pub(super) socket_dir: PathBuf,
}

impl Place {
    pub(super) fn data(&self) -> PathBuf {
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
    pub(super) fn initdb(&self, durable: bool) -> Result<(), Error> {
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

    pub(super) fn serve(&self, durable: bool) -> Result<Child, Error> {
        let mut server = self
            .postgres(durable)?
            .spawn()
            .map_err(|source| Error::run("postgres", source))?;
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

    pub(super) fn end(&self, mut server: Child, durable: bool) {
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
        .map_err(|source| Error::run(program, source))?;
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

/// The last lines of what a program said, on one line.
fn tail(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
