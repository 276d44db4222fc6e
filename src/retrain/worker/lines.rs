//! What the command prints: shown, kept with the job, and listened to.
//!
//! A line on standard output that is `driftd: ` and a JSON object says something: `{"progress": ...}`
//! is what people see of the job, `{"step": 3, "value": 0.71}` is what a trial's objective is worth.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::Options;
use super::process::Running;
use crate::store;
use crate::store::jobs::{self, Lease};

/// Begins a line that is meant for driftd.
const MARK: &str = "driftd: ";
/// Longer lines are cut; the rest of them is a line of its own.
const LONGEST: u64 = 8192;
/// Lines that wait to be kept; beyond that the oldest are left out, and how many is told.
const WAITING: usize = 1000;
/// How long outputs are listened to after the command's end; what is in a pipe is read at once.
const DRAIN: Duration = Duration::from_secs(2);
/// Lines that stand in a job's error.
const LAST: usize = 10;

/// What a line is.
pub(super) enum Told {
    /// For people.
    Line,
    /// How far it is.
    Progress(Value),
    /// What a trial's objective is worth at a step.
    Value {
        /// The step.
        step: i64,
        /// The value.
        value: f64,
    },
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Said {
    Progress { progress: Value },
    Value { step: i64, value: f64 },
}

/// The lines of a command.
pub(super) struct Lines {
    heard: Receiver<String>,
    readers: JoinSet<()>,
    quiet: bool,
    waiting: VecDeque<String>,
    left_out: usize,
    last: VecDeque<String>,
}

impl Lines {
    pub(super) fn of(running: &mut Running, quiet: bool) -> Self {
        let (sender, heard) = channel(64);
        let mut readers = JoinSet::new();
        let (out, err) = running.outputs();
        if let Some(out) = out {
            readers.spawn(read(out, sender.clone()));
        }
        if let Some(err) = err {
            readers.spawn(read(err, sender));
        }
        Self {
            heard,
            readers,
            quiet,
            waiting: VecDeque::new(),
            left_out: 0,
            last: VecDeque::new(),
        }
    }

    /// The next line; waits for ever when there will be none.
    pub(super) async fn next(&mut self) -> Option<Told> {
        match self.heard.recv().await {
            Some(line) => Some(self.take(line)),
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, line: String) -> Told {
        let told = told(&line);
        // Postgres keeps no NUL, neither in a line nor in the error that repeats it.
        let line = line.replace('\0', "\u{fffd}");
        if matches!(told, Told::Line) {
            if !self.quiet {
                eprintln!("{line}");
            }
            self.last.push_back(line.clone());
            if self.last.len() > LAST {
                self.last.pop_front();
            }
        }
        self.waiting.push_back(line);
        // One less than a call takes: how many are left out is a line as well.
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.left_out += 1;
        }
        told
    }

    /// Keeps what waits. What cannot be kept now is tried again with the next heartbeat.
    pub(super) async fn keep(&mut self, pool: &PgPool, options: &Options, lease: &Lease) {
        if self.waiting.is_empty() {
            return;
        }
        let mut lines: Vec<String> = Vec::new();
        if self.left_out > 0 {
            lines.push(format!("... {} lines are left out", self.left_out));
        }
        lines.extend(self.waiting.iter().cloned());
        let kept = jobs::log(pool, lease, &lines);
        match store::within(options.lease / 3, "keep a trainer's lines", kept).await {
            Ok(()) => {
                self.waiting.clear();
                self.left_out = 0;
            }
            Err(error) => tracing::debug!(error = error.chain(), "lines are not kept yet"),
        }
    }

    /// Hears and keeps what is left once the command has ended. Not for long: who has left its process
    /// group may hold its outputs open for ever.
    pub(super) async fn rest(&mut self, pool: &PgPool, options: &Options, lease: &Lease) {
        let hear = async {
            while let Some(line) = self.heard.recv().await {
                self.take(line);
            }
        };
        let _ = tokio::time::timeout(DRAIN, hear).await;
        self.readers.abort_all();
        self.keep(pool, options, lease).await;
    }

    /// The last lines for people, as the end of a sentence.
    pub(super) fn last_words(&self) -> String {
        if self.last.is_empty() {
            return String::new();
        }
        let lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
        format!("; it printed last:\n{}", lines.join("\n"))
    }
}

fn told(line: &str) -> Told {
    let said = line.strip_prefix(MARK).map(serde_json::from_str::<Said>);
    match said {
        Some(Ok(Said::Progress { progress })) => Told::Progress(progress),
        Some(Ok(Said::Value { step, value })) => Told::Value { step, value },
        Some(Err(_)) | None => Told::Line,
    }
}

/// Reads lines of any bytes; long ones are cut, so that memory is bounded.
async fn read(from: impl AsyncRead + Unpin, to: Sender<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let taken = (&mut from).take(LONGEST).read_until(b'\n', &mut line).await;
        if !matches!(taken, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']).to_owned();
        if to.send(text).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_driftd_are_told_apart() {
        assert!(matches!(told("epoch 3"), Told::Line));
        assert!(matches!(told("driftd: not JSON"), Told::Line));
        assert!(matches!(
            told("driftd: {\"progress\": {\"epoch\": 3}}"),
            Told::Progress(_)
        ));
        let value = told("driftd: {\"step\": 3, \"value\": 0.5}");
        assert!(matches!(value, Told::Value { step: 3, value } if value.to_string() == "0.5"));
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let (sender, mut heard) = channel(64);
        let bytes = vec![b'x'; 20_000];
        read(bytes.as_slice(), sender).await;
        let mut lengths = Vec::new();
        while let Some(line) = heard.recv().await {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [8192, 8192, 3616]);
    }
}
