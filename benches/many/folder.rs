//! A temporary directory that goes with this process, however it ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Dropping it removes the directory.
pub(crate) struct Folder {
    path: PathBuf,
    /// Waits on a pipe that closes when this process ends, and then removes the directory.
    sweeper: Child,
}

impl Folder {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // By then the brokers are killed; the kernel takes a moment for it.
        const SCRIPT: &str = "trap '' HUP INT TERM; cat; sleep 1; rm -rf -- \"$1\"";
        let made = tempfile::Builder::new().prefix("driftd-many-").tempdir()?;
        let path = made.keep();
        let sweeper = Command::new("sh")
            .args(["-c", SCRIPT, "sweeper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { path, sweeper })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}
