//! The command: how it is started, and how it and all that it has started are ended.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinSet;

use crate::store::jobs::Claimed;

/// The file that the job is in, beside standard input.
const JOB: &str = "job.json";
/// The file that the command leaves its result in.
pub(super) const RESULT: &str = "result.json";
/// The file that the suggested data is in, one message a line, where the worker fetches it.
pub(super) const DATA: &str = "data.ndjson";
/// Longer variables are not set: the system starts no program with them.
const LONGEST_VARIABLE: usize = 100_000;

/// A command that was started, in a process group of its own.
pub(super) struct Running {
    child: Child,
    group: Option<Pid>,
    /// Writes the job; a command that does not read it is not waited for.
    _told: JoinSet<std::io::Result<()>>,
}

impl Running {
    /// Starts it. The job comes on standard input, in a file, and its common fields in variables.
    pub(super) fn start(
        command: &[OsString],
        claimed: &Claimed,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("no command was given")?;
        let job = serde_json::to_vec_pretty(&claimed.document)?;
        std::fs::write(directory.join(JOB), &job)?;
        let data = directory.join(DATA);
        let mut child = Command::new(program)
            .args(arguments)
            .envs(variables(claimed))
            .env("DRIFTD_JOB_FILE", directory.join(JOB))
            .env("DRIFTD_RESULT_FILE", directory.join(RESULT))
            .envs(data.exists().then_some(("DRIFTD_DATA_FILE", &data)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let mut told = JoinSet::new();
        if let Some(mut stdin) = child.stdin.take() {
            // A task of its own: a command that reads nothing must not hold the worker up.
            told.spawn(async move { stdin.write_all(&job).await });
        }
        Ok(Self {
            child,
            group,
            _told: told,
        })
    }

    pub(super) fn outputs(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for its end. Safe to be dropped and asked again.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the group to end; after the grace it is not asked any more.
    pub(super) async fn end(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        let _ = tokio::time::timeout(grace, self.child.wait()).await;
        self.kill_rest();
        let _ = self.child.wait().await;
    }

    /// Kills what is left of the group, also when the command itself has ended. Once: after that the
    /// number may be another group's.
    pub(super) fn kill_rest(&mut self) {
        self.signal(Signal::KILL);
        self.group = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // No such group: all have ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_rest();
    }
}

/// The job's common fields. Those that it lacks are not set, nor those that are too long.
fn variables(claimed: &Claimed) -> Vec<(&'static str, String)> {
    let job = &claimed.document;
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let fields = [
        ("DRIFTD_JOB_ID", &job["job_id"]),
        ("DRIFTD_ATTEMPT", &job["attempt"]),
        ("DRIFTD_MODEL", &job["model"]),
        ("DRIFTD_VERSION", &job["version"]),
        ("DRIFTD_BASELINE_ID", &job["baseline_id"]),
        ("DRIFTD_PARAMETERS", &job["parameters"]),
        ("DRIFTD_TRAINING_DATA", &job["training_data"]),
        ("DRIFTD_REASONS", &job["reasons"]),
        ("DRIFTD_TRIAL", &job["trial"]["number"]),
        ("DRIFTD_PARENT_JOB_ID", &job["trial"]["parent_job_id"]),
    ];
    let known = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, text(value)?)))
        .filter(|(_, text)| text.len() <= LONGEST_VARIABLE);
    let token = ("DRIFTD_LEASE_TOKEN", claimed.lease.token.to_string());
    known.chain([token]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::store::jobs::Lease;

    #[test]
    fn common_fields_are_variables() {
        let claimed = Claimed {
            lease: Lease {
                job_id: 7,
                attempt: 2,
                token: Uuid::nil(),
            },
            document: json!({"job_id": 7, "attempt": 2, "model": "m", "version": null,
                "parameters": {"a": 1}, "trial": {"number": 3, "parent_job_id": 6}}),
        };
        let found = variables(&claimed);
        let of = |name: &str| {
            found
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(of("DRIFTD_JOB_ID"), Some("7"));
        assert_eq!(of("DRIFTD_MODEL"), Some("m"));
        assert_eq!(of("DRIFTD_VERSION"), None);
        assert_eq!(of("DRIFTD_PARAMETERS"), Some("{\"a\":1}"));
        assert_eq!(of("DRIFTD_TRIAL"), Some("3"));
        assert!(of("DRIFTD_LEASE_TOKEN").is_some());
    }
}
