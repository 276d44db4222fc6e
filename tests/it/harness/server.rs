//! A Postgres server of one test's own, which is crashed, copied, promoted and filled up; the
//! server that the tests share is `postgres`.
//!
//! A small shell waits on a pipe that closes when this process ends, however it ends: it then stops
//! the server and removes its directory.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tempfile::TempDir;

use super::proxy::Upstream;
use super::until;

/// A running server. Dropping it stops it.
pub(crate) struct Server {
    bin: PathBuf,
    dir: PathBuf,
    data: PathBuf,
    _reaper: Reaper,
    _temporary: TempDir,
}

impl Server {
    /// A fresh one with these settings (`name=value`).
    pub(crate) fn start(settings: &[&str]) -> Self {
        let server = Self::place();
        server.init(settings);
        server.go();
        server
    }

    /// A fresh one of which one part (`base` or `pg_wal`) is on another disk.
    pub(crate) fn start_with(part: &str, disk: &Path) -> Self {
        let server = Self::place();
        // Whatever is written needs room of its own soon.
        server.init(&["wal_recycle=off", "min_wal_size=2MB", "max_wal_size=4MB"]);
        let (inside, outside) = (server.data.join(part), disk.join(part));
        run(Command::new("mv").arg(&inside).arg(&outside));
        std::os::unix::fs::symlink(outside, inside).unwrap();
        server.go();
        server
    }

    /// A standby that follows this server.
    pub(crate) fn standby(&self, settings: &[&str]) -> Self {
        let standby = Self::place();
        let from = self.dir.display().to_string();
        let data = standby.data.display().to_string();
        let args = [
            "-h", &from, "-U", "driftd", "-D", &data, "-R", "-X", "stream",
        ];
        run(standby
            .command("pg_basebackup")
            .args(args)
            .args(["-c", "fast"]));
        standby.configure(settings);
        standby.go();
        standby
    }

    fn place() -> Self {
        let temporary = tempfile::Builder::new()
            .prefix("driftd-server.")
            .tempdir()
            .unwrap();
        let dir = temporary.path().to_owned();
        give_away(&dir);
        let data = dir.join("data");
        Self {
            bin: bin(),
            _reaper: Reaper::start(&data, &dir),
            dir,
            data,
            _temporary: temporary,
        }
    }

    fn init(&self, settings: &[&str]) {
        let mut initdb = self.command("initdb");
        initdb
            .args(["-U", "driftd", "--auth=trust", "-E", "UTF8", "--locale=C"])
            .args(["--wal-segsize=1", "--no-sync", "-D"])
            .arg(&self.data);
        run(&mut initdb);
        self.configure(settings);
    }

    /// Settings are appended: the last one of a name wins.
    pub(crate) fn configure(&self, settings: &[&str]) {
        let mut lines = format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\n",
            self.dir.display()
        );
        for setting in settings {
            let (name, value) = setting.split_once('=').unwrap();
            lines += &format!("{name} = '{value}'\n");
        }
        let file = self.data.join("postgresql.auto.conf");
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// Starts it, also after a crash, and returns when it answers.
    pub(crate) fn go(&self) {
        let log = self.dir.join("log");
        let mut start = self.command("pg_ctl");
        start
            .args(["start", "-w", "-t", "60", "-D"])
            .arg(&self.data);
        start.arg("-l").arg(log);
        run(&mut start);
    }

    /// As a crash would end it: nothing is written any more.
    pub(crate) fn crash(&self) {
        run(&mut self.stopping("immediate"));
    }

    /// Reads its settings again.
    pub(crate) fn reload(&self) {
        let mut reload = self.command("pg_ctl");
        run(reload.args(["reload", "-D"]).arg(&self.data));
    }

    /// Whether it is there; a full disk ends a server.
    pub(crate) fn is_running(&self) -> bool {
        let mut status = self.command("pg_ctl");
        status.args(["status", "-D"]).arg(&self.data);
        status.output().unwrap().status.success()
    }

    /// A standby becomes a server that takes writes.
    pub(crate) fn promote(&self) {
        let mut promote = self.command("pg_ctl");
        run(promote.args(["promote", "-w", "-D"]).arg(&self.data));
    }

    /// What it has logged.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream::Unix(self.dir.join(".s.PGSQL.5432"))
    }

    /// URL of its only database, over the unix socket.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://driftd@localhost/postgres?host={}",
            self.dir.display()
        )
    }

    /// A pool of the test's own, which takes a standby as well.
    pub(crate) fn pool(&self) -> PgPool {
        PgPool::connect_lazy(&self.url()).unwrap()
    }

    /// Waits until a question to it is answered with true.
    pub(crate) async fn holds(&self, what: &str, sql: &'static str) {
        until(what, async || {
            let options = PgConnectOptions::from_str(&self.url()).unwrap();
            let Ok(mut connection) = options.connect().await else {
                return false;
            };
            let asked = sqlx::query_scalar(sql).fetch_one(&mut connection);
            asked.await.unwrap_or(false)
        })
        .await;
    }

    fn stopping(&self, how: &str) -> Command {
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "-w", "-m", how, "-D"]).arg(&self.data);
        stop
    }

    /// Postgres refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match owner() {
            None => Command::new(program),
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        };
        // Its files must not be in the pipes of the test, which it outlives.
        command
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .env("LC_ALL", "C");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stopping("immediate").output();
    }
}

/// Where the server programs are: what `driftd` is told, else the newest of Debian's.
fn bin() -> PathBuf {
    if let Some(dir) = std::env::var_os("DRIFTD_PG_BIN") {
        return dir.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<PathBuf> = debian.flatten().map(|e| e.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    // In a PATH there may be links to some of them only.
    let real = |dir: PathBuf| dir.join("pg_ctl").canonicalize().ok();
    let found = places.into_iter().find_map(real);
    let found = found.expect("PostgreSQL's server programs");
    found.parent().unwrap().to_owned()
}

/// As whom it runs where the tests run as root: `postgres`, else `nobody`.
fn owner() -> Option<(u32, u32)> {
    let probe = tempfile::tempfile().unwrap().metadata().unwrap();
    if probe.uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut ids = line.split(':').skip(2).map(|id| id.parse().ok());
        Some((ids.next()??, ids.next()??))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

/// Makes a directory the server's.
pub(crate) fn give_away(dir: &Path) {
    if let Some((uid, gid)) = owner() {
        chown(dir, Some(uid), Some(gid)).unwrap();
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
}

fn run(command: &mut Command) {
    // Not over pipes: the server keeps those open.
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let file = fs::File::create(&said).unwrap();
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let status = command.status().unwrap();
    let said = fs::read_to_string(said).unwrap();
    assert!(status.success(), "{command:?}: {said}");
}

/// Stops the server and removes its directory when this process is gone.
struct Reaper {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    const SCRIPT: &str = r#"trap '' HUP INT TERM
read -r done
[ -n "$done" ] && exit
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null && sleep 1
rm -rf "$2""#;

    fn start(data: &Path, dir: &Path) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", Self::SCRIPT, "reaper"])
            .args([data, dir])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pipe = shell.stdin.take();
        Self { shell, pipe }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = writeln!(pipe, "done");
        }
        let _ = self.shell.wait();
    }
}

/// A disk that is soon full.
pub(crate) struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// 64 MiB of memory, mounted; why not, where that is not allowed.
    pub(crate) fn mount() -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("driftd-disk.")
            .tempdir()
            .unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
        let mounted = mount.arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => {
                give_away(dir.path());
                Ok(Self { dir })
            }
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let ballast = self.path().join("ballast");
        let ballast = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(ballast);
        let mut ballast = ballast.unwrap();
        let piece = vec![0; 4096];
        while ballast.write_all(&piece).is_ok() {}
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
