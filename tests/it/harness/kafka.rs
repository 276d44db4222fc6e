//! An Apache Kafka broker of the tests' own: one node in KRaft mode on free ports of the loopback
//! interface, its data in a temporary directory.
//!
//! Most tests use librdkafka's mock cluster. This broker is for what the mock cannot show: offsets
//! by timestamp, aborted transactions, topics and records deleted, rebalances as a group has them.
//! Its jars come from Maven (`tests/kafka/pom.xml`), once, into the target directory.
//!
//! The tests of one binary share a broker ([`Kafka::start_or_skip`]); a test that stops it or
//! counts what is on it starts one for itself ([`Kafka::start`]). Topics are never made by asking
//! for them, so that a test sees what a missing topic does.
//!
//! A shared broker lives in a static, which nothing drops, and a test can be killed. So beside each
//! broker a small shell waits on a pipe that closes when this process ends, however it ends: it then
//! kills the broker and removes the directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

const JAVA_OLDEST: u32 = 17;
/// A broker starts in three seconds; a loaded machine gets all of this.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Free ports are only free until somebody else takes them.
const ATTEMPTS: usize = 3;

static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();

/// A running broker; dropping it stops it and removes its data.
pub(crate) struct Kafka {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
    // Dropped in this order: the process, then its directory.
    process: Process,
    dir: TempDir,
}

impl Kafka {
    /// Starts a broker; panics with its log when it does not come up, and when Java or Maven are
    /// missing.
    pub(crate) fn start() -> Self {
        let java = java().unwrap_or_else(|why| panic!("{why}"));
        let jars = jars().unwrap_or_else(|why| panic!("{why}"));
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            match Self::attempt(&java, &jars) {
                Ok(kafka) => return kafka,
                Err(why) => log = why,
            }
        }
        panic!("the broker has not started, {ATTEMPTS} times; the last log was:\n{log}");
    }

    /// The broker that the tests of this binary share. Without Java or Maven `None`, after a line
    /// that says so, unless `DRIFTD_REQUIRE_KAFKA=1`: then it panics.
    pub(crate) fn start_or_skip(test: &str) -> Option<&'static Self> {
        let missing = java().err().or_else(|| jars().err());
        let required = std::env::var_os("DRIFTD_REQUIRE_KAFKA").is_some_and(|value| value == "1");
        if let (Some(why), false) = (&missing, required) {
            // Not with a macro: the test harness would swallow the line of a test that passes.
            // And in one piece, or another test's line would get between.
            let _ = io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
            return None;
        }
        SHARED.get_or_init(|| Some(Self::start())).as_ref()
    }

    /// What `bootstrap.servers` has to be.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Where its data and its log are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// SIGKILL: the broker can do nothing about it.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts a killed broker on what its directory holds, at the same address.
    pub(crate) fn start_again(&mut self) {
        let (java, jars) = (java().unwrap(), jars().unwrap());
        let settings = self.dir.path().join("server.properties");
        let log = self.dir.path().join("log");
        let mut command = broker(&java, &jars, &settings);
        self.process = Process::start(&mut command, &log, self.dir.path());
        answers(&self.admin, &mut self.process).unwrap_or_else(|()| {
            panic!("{}", fs::read_to_string(&log).unwrap_or_default());
        });
    }

    /// Client settings that name this broker.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// Makes a topic, and returns when its partitions have a leader.
    pub(crate) async fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = self.admin.create_topics([&topic], &options()).await;
        made.unwrap()[0].as_ref().unwrap();
    }

    /// Makes a topic, unless one of its name is there still.
    pub(crate) async fn try_create_topic(&self, name: &str, partitions: i32) -> bool {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = self.admin.create_topics([&topic], &options()).await;
        made.unwrap()[0].is_ok()
    }

    /// Gives a topic more partitions.
    pub(crate) async fn add_partitions(&self, name: &str, partitions: i32) {
        let count = usize::try_from(partitions).unwrap();
        let more = NewPartitions::new(name, count);
        let added = self.admin.create_partitions([&more], &options()).await;
        added.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes a topic and what it holds.
    pub(crate) async fn delete_topic(&self, name: &str) {
        let deleted = self.admin.delete_topics(&[name], &options()).await;
        deleted.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes the records of a partition that come before an offset, as retention does.
    pub(crate) async fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut upto = TopicPartitionList::new();
        upto.add_partition_offset(topic, partition, Offset::Offset(before))
            .unwrap();
        let deleted = self.admin.delete_records(&upto, &options()).await.unwrap();
        deleted.elements()[0].error().unwrap();
    }

    fn attempt(java: &Path, jars: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("driftd-kafka.")
            .tempdir()
            .unwrap();
        let [port, controller] = free_ports();
        let settings = dir.path().join("server.properties");
        fs::write(&settings, properties(dir.path(), port, controller)).unwrap();
        format(java, jars, &settings)?;

        let log = dir.path().join("log");
        let mut process = Process::start(&mut broker(java, jars, &settings), &log, dir.path());
        let brokers = format!("127.0.0.1:{port}");
        let admin: AdminClient<_> = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .create()
            .unwrap();
        answers(&admin, &mut process).map_err(|()| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self {
            brokers,
            admin,
            process,
            dir,
        })
    }
}

/// Waits until the broker answers; an error when it has ended or takes too long.
fn answers(admin: &AdminClient<DefaultClientContext>, process: &mut Process) -> Result<(), ()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let ask = || admin.inner().fetch_metadata(None, Duration::from_secs(1));
    while ask().is_err() {
        if process.has_ended() || Instant::now() > deadline {
            return Err(());
        }
    }
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ASK_TIMEOUT))
        .operation_timeout(Some(ASK_TIMEOUT))
}

/// Both are held until both are known, so that they differ.
fn free_ports() -> [u16; 2] {
    let held = [(), ()].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn properties(dir: &Path, port: u16, controller: u16) -> String {
    let data = dir.join("data");
    let data = data.display();
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         inter.broker.listener.name=PLAINTEXT\n\
         log.dirs={data}\n\
         auto.create.topics.enable=false\n\
         # The records of the tests are years old.\n\
         log.retention.ms=-1\n\
         log.cleaner.dedupe.buffer.size=4194304\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=1\n\
         # A test does not wait for members to gather, nor long for one that was killed.\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         group.consumer.min.session.timeout.ms=1000\n\
         group.consumer.session.timeout.ms=4000\n\
         group.consumer.min.heartbeat.interval.ms=100\n\
         group.consumer.heartbeat.interval.ms=300\n"
    )
}

// --- Java ----------------------------------------------------------------------------------------

/// Writes the cluster's first metadata into its empty data directory.
fn format(java: &Path, jars: &Path, settings: &Path) -> Result<(), String> {
    let cluster = "ZHJpZnRkLWl0LWJyb2tlcg";
    let mut command = jvm(java, jars, "128m");
    command
        .args(["kafka.tools.StorageTool", "format", "-t", cluster, "-c"])
        .arg(settings);
    succeed(command.output().unwrap())
}

fn broker(java: &Path, jars: &Path, settings: &Path) -> Command {
    let mut command = jvm(java, jars, "512m");
    command.arg("kafka.Kafka").arg(settings);
    command
}

fn jvm(java: &Path, jars: &Path, heap: &str) -> Command {
    let mut command = Command::new(java);
    command
        .arg(format!("-Xmx{heap}"))
        // Lives for a minute: what the optimising compiler costs, it does not earn back.
        .args([
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xshare:auto",
        ])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(jars.join("*"));
    command
}

/// A Java that is new enough, or what to install.
fn java() -> Result<PathBuf, String> {
    let java = match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin/java"),
        None => PathBuf::from("java"),
    };
    let said = Command::new(&java).arg("-version").output();
    let version = said.ok().and_then(|output| first_number(&output.stderr));
    match version {
        Some(version) if version >= JAVA_OLDEST => Ok(java),
        Some(version) => Err(format!(
            "needs Java {JAVA_OLDEST} or newer, found {version}"
        )),
        None => Err(format!(
            "needs Java {JAVA_OLDEST} or newer, found none (./dev setup)"
        )),
    }
}

fn first_number(text: &[u8]) -> Option<u32> {
    let digits = text.iter().skip_while(|byte| !byte.is_ascii_digit());
    let digits: Vec<u8> = digits
        .take_while(|byte| byte.is_ascii_digit())
        .copied()
        .collect();
    String::from_utf8(digits).ok()?.parse().ok()
}

/// The directory of the broker's jars, or what to install. The pom lies beside them, so that
/// another version is fetched when the pom has changed.
fn jars() -> Result<PathBuf, String> {
    static JARS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    JARS.get_or_init(|| {
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/pom.xml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let jars = target.join("kafka-libs");
        if fs::read(jars.join("pom.xml")).ok() == fs::read(&pom).ok() {
            return Ok(jars);
        }
        if Command::new("mvn").arg("-version").output().is_err() {
            return Err("needs Maven, found none (./dev setup)".to_owned());
        }
        fetch_jars(&pom, &jars).unwrap_or_else(|log| panic!("Maven could not fetch Kafka:\n{log}"));
        Ok(jars)
    })
    .clone()
}

/// Into a directory of its own first: another test binary may be doing the same.
fn fetch_jars(pom: &Path, jars: &Path) -> Result<(), String> {
    let fresh = jars.with_extension(std::process::id().to_string());
    let mut out = OsString::from("-DoutputDirectory=");
    out.push(&fresh);
    let mut maven = Command::new("mvn");
    maven.args(["-B", "-q", "-f"]).arg(pom);
    maven
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(out);
    succeed(maven.output().unwrap())?;
    fs::copy(pom, fresh.join("pom.xml")).unwrap();
    if jars.exists() {
        fs::remove_dir_all(jars).unwrap();
    }
    fs::rename(&fresh, jars).unwrap();
    Ok(())
}

fn succeed(output: Output) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).into_owned())
}

// --- the process ---------------------------------------------------------------------------------

/// The broker's process and the shell that outlives ours.
struct Process {
    broker: Child,
    reaper: Child,
    pipe: Option<ChildStdin>,
}

impl Process {
    /// A line on the pipe means that there is nothing left to kill; `keep`, that another broker is
    /// to live in the directory.
    const REAPER: &str = r#"trap '' HUP INT TERM
read -r done
[ "$done" != keep ] || exit 0
[ -n "$done" ] || { kill -9 "$1"; sleep 1; }
rm -rf "$2""#;

    fn start(command: &mut Command, log: &Path, dir: &Path) -> Self {
        let log = File::create(log).unwrap();
        let broker = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut reaper = Command::new("sh")
            .args(["-c", Self::REAPER, "reaper", &broker.id().to_string()])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pipe = reaper.stdin.take();
        Self {
            broker,
            reaper,
            pipe,
        }
    }

    fn has_ended(&mut self) -> bool {
        self.broker.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Process {
    /// Kills the broker; its directory stays.
    fn kill(&mut self) {
        self.end("keep");
    }

    fn end(&mut self, word: &str) {
        let _ = self.broker.kill();
        let _ = self.broker.wait();
        if let Some(mut pipe) = self.pipe.take() {
            let _ = writeln!(pipe, "{word}");
        }
        let _ = self.reaper.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end("done");
    }
}
