//! `driftd worker` as a process of its own, with a shell as its command and a trainer's role.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use sqlx::{Executor, PgPool};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::daemon::BINARY;
use super::postgres::TestDb;
use super::until;

/// A result that makes version 2.
pub(crate) const RESULT: &str = r#"echo '{"version": "2"}' > "$DRIFTD_RESULT_FILE""#;
/// Waits for what the test makes.
pub(crate) const WAIT: &str = r#"echo $$ > "$T/pid"; while [ ! -e "$T/go" ]; do sleep 0.05; done"#;

/// A running worker. Its scripts find a directory of the test's in `$T`.
pub(crate) struct Worker {
    child: Child,
    dir: TempDir,
}

/// Where a login that is a trainer and nothing else finds the database.
pub(crate) async fn trainer_url(db: &TestDb) -> String {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let role = "create role a_trainer login in role driftd_trainer";
    MADE.get_or_init(async || {
        db.pool.execute(role).await.unwrap();
    })
    .await;
    db.url.replacen("driftd@", "a_trainer@", 1)
}

impl Worker {
    /// Starts one with these options and this script.
    pub(crate) fn start(url: &str, options: &[&str], script: &str) -> Self {
        Self::start_command(url, options, &["sh", "-c", script])
    }

    pub(crate) fn start_command(url: &str, options: &[&str], command: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(BINARY)
            .args(["worker", "--name", "tester", "--grace", "300ms"])
            .args(options)
            .arg("--")
            .args(command)
            .env("DRIFTD__POSTGRES__URL", url)
            .env("T", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// Runs one until nothing is to be done.
    pub(crate) async fn once(url: &str, script: &str) -> Self {
        let mut worker = Self::start(url, &["--once"], script);
        let status = worker.ended().await;
        assert!(status.success(), "{status}: {}", worker.log());
        worker
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the worker has ended", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    /// A file in `$T`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// Lets a script go on that waits.
    pub(crate) fn go(&self) {
        File::create(self.file("go")).unwrap();
    }

    /// Waits until a script has written its number, or a child's.
    pub(crate) async fn pid(&self, name: &str) -> u32 {
        let mut pid = None;
        until("a process tells its number", async || {
            let text = fs::read_to_string(self.file(name)).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
            pid.is_some()
        })
        .await;
        pid.unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

/// Waits for the end of a process that is nobody's child here; who is dead and not yet buried has ended.
pub(crate) async fn gone(pid: u32) {
    until("a process has ended", async || {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(Path::new(&path)).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

/// Waits until as many sessions listen for jobs.
pub(crate) async fn listening(pool: &PgPool, sessions: i64) {
    until("the worker listens", async || {
        let sql = "select count(*) from pg_stat_activity \
                   where datname = current_database() and query like 'LISTEN%'";
        let found = sqlx::query_scalar(sql).fetch_one(pool).await;
        found.is_ok_and(|found: i64| found == sessions)
    })
    .await;
}
