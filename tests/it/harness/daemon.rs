//! `driftd` as a process of its own, as users run it: started with a settings file, asked over
//! HTTP, stopped by signals.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::until;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_driftd");

/// Runs a command to its end.
pub(crate) fn driftd(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

/// A running `driftd run`. Dropping it kills it; where a test has failed its log is shown.
pub(crate) struct Daemon {
    child: Child,
    reaper: Child,
    pipe: Option<ChildStdin>,
    log: PathBuf,
    listen: SocketAddr,
}

impl Daemon {
    /// A test can be killed as well: then this shell, whose pipe closes, kills the daemon.
    const REAPER: &str = "trap '' HUP INT TERM; read -r done; [ -n \"$done\" ] || kill -9 \"$1\"";

    /// Starts it on a settings file, with logs beside that file.
    pub(crate) fn start(config: &Path) -> Self {
        Self::start_at(config, 0)
    }

    /// The same, with a clock that is so many milliseconds ahead.
    pub(crate) fn start_at(config: &Path, skew_ms: i64) -> Self {
        let mut command = Command::new(BINARY);
        command.env("DRIFTD_TEST_CLOCK_SKEW_MS", skew_ms.to_string());
        Self::spawn(config, free_address(), &mut command)
    }

    /// Starts it in a group of its own, where nobody asks it over HTTP, with failpoints.
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_armed(config: &Path, group: &str, failpoints: &str) -> Self {
        let mut command = Command::new(BINARY);
        command
            .args(["--set", &format!("kafka.group={group}")])
            .env("FAILPOINTS", failpoints);
        Self::spawn(config, (Ipv4Addr::LOCALHOST, 0).into(), &mut command)
    }

    /// Starts it with failpoints.
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_failing(config: &Path, failpoints: &str) -> Self {
        let mut command = Command::new(BINARY);
        command.env("FAILPOINTS", failpoints);
        Self::spawn(config, free_address(), &mut command)
    }

    fn spawn(config: &Path, listen: SocketAddr, command: &mut Command) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let log = config.with_extension(format!("{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let child = command
            .args(["run", "--config"])
            .arg(config)
            .args(["--set", &format!("service.listen={listen}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut reaper = Command::new("sh")
            .args(["-c", Self::REAPER, "reaper", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pipe = reaper.stdin.take();
        Self {
            child,
            reaper,
            pipe,
            log,
            listen,
        }
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: it can do nothing about it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended after that.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Sends it a signal, such as `STOP` and `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Memory that it holds, by the kernel's word.
    pub(crate) fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// The sum of a metric over its labels, 0 where it was not raised yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{'])
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        text.lines().filter_map(value).sum()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("driftd has ended", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// How it ended, if it has.
    #[cfg(feature = "failpoints")]
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Status and body of an answer over HTTP; `None` while nobody listens.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.listen).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: driftd\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mut pipe) = self.pipe.take() {
            let _ = writeln!(pipe, "done");
        }
        let _ = self.reaper.wait();
        if std::thread::panicking() {
            println!("{}:\n{}", self.log.display(), self.log());
        }
    }
}

/// Free until somebody else takes it.
fn free_address() -> SocketAddr {
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    held.local_addr().unwrap()
}
