//! Three Apache Kafka brokers on free ports of the loopback interface, each a process of its own: a
//! broker holds a file open per partition, and a process may open some ten thousand.
//!
//! The first node is broker and controller, the others are brokers. What costs a broker by the
//! partition without being of use here is turned down: preallocated index files, checkpoint files
//! of high watermarks every five seconds, retention.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::process::{self, command};

const BROKERS: usize = 3;
/// Brokers start in seconds, and make ten thousand partitions in minutes.
const TIMEOUT: Duration = Duration::from_secs(600);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Partitions that are made at a time; a controller takes 10,000 changes at once.
const PARTITIONS_AT_ONCE: usize = 1600;
/// Memory of a broker: without partitions, and for each.
const HEAP_MIB: usize = 256;
const HEAP_KIB_PER_PARTITION: usize = 96;

/// Where the jars of the brokers are, and where the brokers keep their data.
pub(crate) struct Place<'a> {
    pub(crate) jars: &'a Path,
    pub(crate) dir: &'a Path,
}

/// Running brokers; dropping them stops them.
pub(crate) struct Cluster {
    brokers: Vec<Broker>,
    servers: String,
    admin: AdminClient<DefaultClientContext>,
}

struct Broker {
    process: Child,
    log: PathBuf,
    data: PathBuf,
}

impl Cluster {
    /// Starts brokers for so many partitions in all, and returns when all of them answer.
    pub(crate) fn start(place: &Place<'_>, partitions: usize) -> anyhow::Result<Self> {
        let ports = free_ports()?;
        let settings: Vec<PathBuf> = (0..BROKERS)
            .map(|node| write_settings(place.dir, node, &ports))
            .collect::<anyhow::Result<_>>()?;
        for file in &settings {
            format(place.jars, file)?;
        }
        let heap_mib = HEAP_MIB + partitions / BROKERS * HEAP_KIB_PER_PARTITION / 1024;
        let start = |file: &PathBuf| Broker::start(place.jars, file, heap_mib);
        let brokers = settings.iter().map(start).collect::<anyhow::Result<_>>()?;
        let servers: Vec<String> = ports[..BROKERS].iter().map(|port| address(*port)).collect();
        let servers = servers.join(",");
        let admin = client(&servers).create()?;
        let mut cluster = Self {
            brokers,
            servers,
            admin,
        };
        cluster.wait_for("the brokers", Self::are_all_known)?;
        Ok(cluster)
    }

    /// What `bootstrap.servers` has to be.
    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let pid = |broker: &Broker| broker.process.id();
        self.brokers.iter().map(pid).collect()
    }

    /// An error with the end of its log where a broker has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.brokers.iter_mut().try_for_each(Broker::check)
    }

    /// Makes topics, some at a time, and returns when the brokers have all partitions.
    pub(crate) async fn create_topics(
        &mut self,
        names: &[String],
        partitions: usize,
    ) -> anyhow::Result<()> {
        let count = i32::try_from(partitions)?;
        let new = |name| NewTopic::new(name, count, TopicReplication::Fixed(1));
        let options = AdminOptions::new()
            .request_timeout(Some(TIMEOUT))
            .operation_timeout(Some(TIMEOUT));
        for some in names.chunks((PARTITIONS_AT_ONCE / partitions).max(1)) {
            let topics: Vec<NewTopic<'_>> = some.iter().map(|name| new(name)).collect();
            let made = self.admin.create_topics(&topics, &options).await?;
            for topic in made {
                topic.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
            }
        }
        let all = names.len() * partitions;
        // The controller names leaders long before the last of them is there.
        self.wait_for("all partitions", |cluster| Ok(cluster.logs()? >= all))
    }

    /// Partitions that brokers have made, each a folder.
    fn logs(&self) -> anyhow::Result<usize> {
        let mut logs = 0;
        for broker in &self.brokers {
            let is_log = |entry: &fs::DirEntry| {
                let is_own = entry.file_name().to_string_lossy().starts_with("__");
                !is_own && entry.file_type().is_ok_and(|kind| kind.is_dir())
            };
            logs += fs::read_dir(&broker.data)?.flatten().filter(is_log).count();
        }
        Ok(logs)
    }

    fn are_all_known(&self) -> anyhow::Result<bool> {
        let asked = self.admin.inner().fetch_metadata(None, ASK_TIMEOUT);
        Ok(asked.is_ok_and(|metadata| metadata.brokers().len() == BROKERS))
    }

    fn wait_for(
        &mut self,
        what: &str,
        holds: impl Fn(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.check()?;
            if holds(self)? {
                return Ok(());
            }
            ensure!(begun.elapsed() < TIMEOUT, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Broker {
    fn start(jars: &Path, settings: &Path, heap_mib: usize) -> anyhow::Result<Self> {
        let log = settings.with_extension("log");
        let to = File::create(&log)?;
        let process = jvm(jars, heap_mib)
            .arg("kafka.Kafka")
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(to.try_clone()?)
            .stderr(to)
            .spawn()
            .context("cannot run java")?;
        let data = settings.with_extension("data");
        Ok(Self { process, log, data })
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.process.try_wait()? else {
            return Ok(());
        };
        let log = process::end_of(&self.log)?;
        bail!("a broker has ended, {status}; its log ends:\n{log}")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Client settings that name the brokers.
pub(crate) fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    config
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// One for each broker and one for the controller; all are held until all are known, so that they
/// differ.
fn free_ports() -> anyhow::Result<[u16; BROKERS + 1]> {
    let mut ports = [0; BROKERS + 1];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn write_settings(dir: &Path, node: usize, ports: &[u16]) -> anyhow::Result<PathBuf> {
    let (broker, controller) = (address(ports[node]), address(ports[BROKERS]));
    let file = dir.join(format!("node-{node}.properties"));
    let data = file.with_extension("data");
    let (roles, more) = match node {
        0 => ("broker,controller", format!(",CONTROLLER://{controller}")),
        _ => ("broker", String::new()),
    };
    let text = format!(
        "process.roles={roles}\n\
         node.id={node}\n\
         controller.quorum.voters=0@{controller}\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://{broker}{more}\n\
         advertised.listeners=PLAINTEXT://{broker}\n\
         inter.broker.listener.name=PLAINTEXT\n\
         log.dirs={}\n\
         {SETTINGS}",
        data.display()
    );
    fs::write(&file, text)?;
    Ok(file)
}

const SETTINGS: &str = "\
auto.create.topics.enable=false
auto.leader.rebalance.enable=false
log.retention.ms=-1
# The two index files of a partition are made at this size, and mapped.
log.index.size.max.bytes=16384
log.cleaner.dedupe.buffer.size=4194304
replica.high.watermark.checkpoint.interval.ms=60000
num.network.threads=2
num.io.threads=2
# A machine that is busy making partitions must not lose a broker.
broker.session.timeout.ms=60000
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
";

/// Writes the first metadata into the empty data directory of a node.
fn format(jars: &Path, settings: &Path) -> anyhow::Result<()> {
    let output = jvm(jars, HEAP_MIB)
        .args(["kafka.tools.StorageTool", "format"])
        .args(["-t", "ZHJpZnRkLWJlbmNoLW1hbg", "-c"])
        .arg(settings)
        .output()
        .context("cannot run java")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

fn jvm(jars: &Path, heap_mib: usize) -> Command {
    let mut command = command(Path::new("java"));
    command
        .arg(format!("-Xmx{heap_mib}m"))
        // Lives for minutes: what the optimising compiler costs, it does not earn back.
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(jars.join("*"));
    command
}
