//! Temporary directories that go with this process, however it ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::postgres::{Error, fits_socket};

/// A fresh directory with a path short enough for a socket, and the sweeper that removes it.
pub(super) fn temporary(sweepers: &mut Vec<Sweeper>) -> Result<PathBuf, Error> {
    let usual = std::env::temp_dir();
    let parent = match fits_socket(&usual.join("driftd-pg-123456")) {
        true => usual,
        false => PathBuf::from("/tmp"),
    };
    let made = tempfile::Builder::new()
        .prefix("driftd-pg-")
        .tempdir_in(&parent);
    let dir = made.map_err(|e| Error::dir(&parent, e))?.keep();
    let sweeper = Sweeper::start(&dir).map_err(|source| Error::run("sh", source))?;
    sweepers.push(sweeper);
    Ok(dir)
}

/// A shell that waits on a pipe and then removes a directory. The pipe closes when this process
/// ends, by whatever signal; a destructor would not run on SIGKILL, nor for a `static`.
#[derive(Debug)]
pub(super) struct Sweeper {
    shell: Child,
}

impl Sweeper {
    fn start(dir: &Path) -> std::io::Result<Self> {
        // The server is given ten seconds to see that its parent is gone.
        const SCRIPT: &str = "trap '' INT TERM HUP; cat; \
            pid=$(head -n 1 \"$1/data/postmaster.pid\" 2>/dev/null); tries=0; \
            while [ -n \"$pid\" ] && kill -0 \"$pid\" 2>/dev/null && [ $tries -lt 100 ]; do \
            sleep 0.1; tries=$((tries + 1)); done; rm -rf -- \"$1\"";
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "driftd-sweeper"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
