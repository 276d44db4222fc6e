//! A `driftd run` as a child process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::bail;

use crate::process::{self, command};

/// The driftd that was built with this bench.
pub(crate) fn driftd() -> std::io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("driftd"))
}

/// A running replica; dropping it kills it.
pub(crate) struct Replica {
    child: Child,
    listen: SocketAddr,
    log: PathBuf,
}

impl Replica {
    pub(crate) fn start(config: &str, log: &Path, level: &str) -> anyhow::Result<Self> {
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = command(&driftd()?)
            .args(["run", "--config", config, "--log-level", level])
            .args(["--set", &format!("service.listen={listen}")])
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(log)?)
            .spawn()?;
        let log = log.to_owned();
        Ok(Self { child, listen, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log once it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = process::end_of(&self.log)?;
        bail!("driftd has ended, {status}; its log ends:\n{log}")
    }

    /// The sum of a metric over its labels; 0 while nobody answers.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.scrape().unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn scrape(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.listen)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: driftd\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
