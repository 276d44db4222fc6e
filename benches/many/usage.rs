//! What processes take: CPU time and memory, as the kernel tells.

use std::fs;

use anyhow::Context;
use sqlx::PgPool;

use crate::process::{cpu_seconds, stat};

/// CPU seconds so far of all that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) driftd: f64,
    pub(crate) postgres: f64,
    pub(crate) brokers: f64,
}

/// Memory in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) driftd: f64,
    /// The most that driftd had since [`Processes::forget_peak`].
    pub(crate) driftd_peak: f64,
    /// Of all processes; what they share counts once.
    pub(crate) postgres: f64,
}

/// The processes that are measured.
pub(crate) struct Processes {
    pub(crate) driftd: u32,
    /// The server's first process, the parent of all others.
    pub(crate) postgres: u32,
    pub(crate) brokers: Vec<u32>,
}

impl Processes {
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let brokers = self.brokers.iter().map(|pid| cpu_seconds(*pid));
        Ok(Cpu {
            driftd: cpu_seconds(self.driftd)?,
            postgres: self.postgres_cpu()?,
            brokers: brokers.sum::<anyhow::Result<f64>>()?,
        })
    }

    /// The first process also counts what those took that have ended.
    fn postgres_cpu(&self) -> anyhow::Result<f64> {
        let running = self.postgres_pids()?.into_iter();
        // One that has just ended is counted by the first process.
        let running: f64 = running.filter_map(|pid| cpu_seconds(pid).ok()).sum();
        Ok(running + children_cpu_seconds(self.postgres)?)
    }

    fn postgres_pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = vec![self.postgres];
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if stat(pid).is_ok_and(|fields| fields[1] == i64::from(self.postgres)) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let postgres = self.postgres_pids()?.into_iter();
        let shared_out = |pid| mib(pid, "smaps_rollup", "Pss:").ok();
        Ok(Memory {
            driftd: mib(self.driftd, "status", "VmRSS:")?,
            driftd_peak: mib(self.driftd, "status", "VmHWM:")?,
            postgres: postgres.filter_map(shared_out).sum(),
        })
    }

    /// From now on the peak is that of what follows.
    pub(crate) fn forget_peak(&self) -> std::io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.driftd), "5")
    }
}

/// CPU time of the children of a process that have ended.
fn children_cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let fields = stat(pid)?;
    Ok((fields[13] + fields[14]) as f64 / crate::process::TICKS)
}

/// A number of kB that a file of a process in /proc names.
pub(crate) fn mib(pid: u32, file: &str, name: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.with_context(|| format!("no {name} in {file}"))?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// The first process of the server that a pool is connected to.
pub(crate) async fn postmaster(pool: &PgPool) -> anyhow::Result<u32> {
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(pool)
        .await?;
    let parent = stat(u32::try_from(backend)?)?[1];
    Ok(u32::try_from(parent)?)
}
