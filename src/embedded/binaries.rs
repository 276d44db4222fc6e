//! Where the PostgreSQL server binaries are, and as whom they may run.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::postgres::Error;

/// Finds the directory of `initdb`, `postgres` and `pg_ctl`: the one given, `PATH`, the highest
/// version under Debian's `/usr/lib/postgresql`, then what `pg_config` says.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(dir) = given {
        return match complete(dir) {
            true => Ok(dir.to_owned()),
            false => Err(Error::NotThere(dir.to_owned())),
        };
    }
    search_path()
        .chain(debian("/usr/lib/postgresql"))
        .chain(pg_config())
        .find(|dir| complete(dir))
        .ok_or(Error::NotInstalled)
}

fn complete(dir: &Path) -> bool {
    ["initdb", "postgres", "pg_ctl"]
        .iter()
        .all(|program| dir.join(program).is_file())
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// `root/<version>/bin`, highest version first.
fn debian(root: &str) -> impl Iterator<Item = PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry
                .file_name()
                .to_str()?
                .split('.')
                .next()?
                .parse()
                .ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|a, b| b.0.cmp(&a.0));
    versions.into_iter().map(|(_, dir)| dir)
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// As whom the server runs: Postgres refuses root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunAs {
    /// The user that driftd runs as.
    Same,
    /// driftd runs as root: this user and group.
    Other { name: String, uid: u32, gid: u32 },
}

impl RunAs {
    /// `mine` is a path that this process has just made: its owner is who we are.
    pub(super) fn choose(mine: &Path) -> Result<Self, Error> {
        let owner = std::fs::metadata(mine)
            .map_err(|e| Error::dir(mine, e))?
            .uid();
        if owner != 0 {
            return Ok(Self::Same);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| user_in(&passwd, name))
            .ok_or(Error::NoUser)
    }

    /// A command that runs `program` as this user and is sent SIGINT when the thread that started
    /// it ends, as far as the system's `setpriv` can do that.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut setpriv = Command::new("setpriv");
        match self {
            Self::Same if !can_follow_parent() => return Command::new(program),
            Self::Same => {}
            Self::Other { uid, gid, .. } => {
                setpriv
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"))
                    .arg("--clear-groups");
            }
        }
        if can_follow_parent() {
            setpriv.args(["--pdeathsig", "INT"]);
        }
        setpriv.arg("--").arg(program);
        setpriv
    }

    /// Whether this user can enter `dir`, by owner and mode of it and of all above it.
    pub(super) fn first_closed(&self, dir: &Path) -> Option<PathBuf> {
        let Self::Other { uid, .. } = self else {
            return None;
        };
        let closed = |at: &&Path| match std::fs::metadata(at) {
            Ok(meta) if meta.uid() == *uid => meta.mode() & 0o100 == 0,
            Ok(meta) => meta.mode() & 0o001 == 0,
            Err(_) => true,
        };
        dir.ancestors().find(closed).map(Path::to_owned)
    }
}

/// `setpriv --pdeathsig` came with util-linux 2.33.
fn can_follow_parent() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CAN.get_or_init(|| {
        let help = Command::new(OsStr::new("setpriv")).arg("--help").output();
        help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--pdeathsig"))
    })
}

fn user_in(passwd: &str, name: &str) -> Option<RunAs> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(RunAs::Other {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_directory_without_servers_is_refused_by_name() {
        let empty = tempfile::tempdir().unwrap();
        let error = find(Some(empty.path())).unwrap_err().to_string();
        assert!(
            error.contains(&empty.path().display().to_string()),
            "{error}"
        );
    }

    #[test]
    fn the_highest_version_comes_first_by_number_not_by_text() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "17"] {
            std::fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let found: Vec<_> = debian(root.path().to_str().unwrap()).collect();
        let expected = ["17", "15", "9.6"].map(|v| root.path().join(v).join("bin"));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_user_is_read_with_its_ids() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:,,,:/var/lib:/bin/bash\n";
        let expected = RunAs::Other {
            name: "postgres".to_owned(),
            uid: 101,
            gid: 104,
        };
        assert_eq!(user_in(passwd, "postgres"), Some(expected));
        assert_eq!(user_in(passwd, "nobody"), None);
    }
}
