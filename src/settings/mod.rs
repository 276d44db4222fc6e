//! Settings: what the user wrote, checked all at once, as types that cannot be wrong.
//!
//! Four layers, each above the one before: what is compiled in (`config/default.toml`), a file, the
//! environment (`DRIFTD__SECTION__KEY`), flags. `file` holds what was written with the place where
//! it was written, `layers` lays one over the other, `check` reads the result and notes every
//! problem, and `Settings` is what comes out when there was none.

mod check;
mod field;
mod file;
mod interpolate;
mod layers;
mod problem;
mod read;
mod secret;
mod shown_properties;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

pub use crate::collect::partition::start::StartAt;
use crate::monitor::{Judging, Monitor};
use crate::retrain::handover::Handover;

pub use layers::Override;
pub(crate) use problem::expected_zone;
pub use problem::{Error, Problem};

/// `config/default.toml`: every key with its default, explained.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// What driftd does. Made by [`Settings::load`] only.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the rows come from.
    pub kafka: Kafka,
    /// Where everything is kept.
    pub postgres: Postgres,
    /// HTTP and shutdown.
    pub service: Service,
    /// What is logged, and how.
    pub log: Log,
    /// When what was read is saved.
    pub checkpoint: Checkpoint,
    /// What keeps memory bounded.
    pub limits: Limits,
    /// How long what is old is kept.
    pub retention: Retention,
    /// `[retraining]`.
    pub retraining: Queue,
    /// What is watched; names are unique.
    pub monitors: Vec<Monitor>,
    /// Whose jobs go to an orchestrator; names and models are unique.
    pub handovers: Vec<Handover>,
    /// What is allowed but probably not meant; to be logged at the start.
    pub warnings: Vec<String>,
    effective: toml::Table,
}

/// How windows are judged where a monitor says nothing of its own; what `driftd check` needs.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `[defaults]`.
    pub judging: Judging,
    /// `limits.max_levels`.
    pub max_levels: usize,
    /// `limits.max_label_bytes`.
    pub max_label_bytes: usize,
}

/// How to reach Kafka.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port`, separated by commas; empty if no monitor has a topic.
    pub brokers: String,
    /// The consumer group.
    pub group: String,
    /// Where a partition that was never read is begun.
    pub start_at: StartAt,
    properties: Vec<(String, SecretString)>,
}

impl Kafka {
    /// The librdkafka properties to pass through, secrets in the clear: not for logs.
    pub fn properties(&self) -> Vec<(String, String)> {
        self.properties
            .iter()
            .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()))
            .collect()
    }

    /// The value of a property that is no secret.
    pub fn property(&self, wanted: &str) -> Option<&str> {
        let found = self.properties.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.expose_secret())
    }

    /// Whether the brokers assign partitions (KIP-848), not the members among themselves.
    pub fn brokers_assign(&self) -> bool {
        self.property(PROTOCOL)
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case(CONSUMER_PROTOCOL))
    }
}

/// Which protocol a group follows: librdkafka's property.
const PROTOCOL: &str = "group.protocol";
/// Its value for groups whose partitions the brokers assign.
const CONSUMER_PROTOCOL: &str = "consumer";

/// How to reach Postgres.
#[derive(Clone)]
pub struct Postgres {
    options: PgConnectOptions,
    url: SecretString,
    shown: String,
    /// Connections held at most.
    pub max_connections: u32,
    /// How long a statement may take, and how long an answer is waited for.
    pub timeout: Duration,
    /// A transaction that lasts so long, whoever's, is warned about.
    pub long_transaction: Duration,
}

impl Postgres {
    /// Options to connect with; they hold the password, so never log them.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// The URL, with the password of `password_file` where there is one.
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// The URL without its password, for logs.
    pub fn shown_url(&self) -> &str {
        &self.shown
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("url", &self.shown)
            .field("max_connections", &self.max_connections)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// HTTP and shutdown.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub listen: SocketAddr,
    /// Who knows it may ask for retraining over HTTP; `None`: nobody.
    pub token: Option<SecretString>,
    /// How long a shutdown may take before driftd leaves without further ado.
    pub grace: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// A level or directives such as `info,driftd::judge=debug`; they parse.
    pub level: String,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// When what was read is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Not more often than this, unless a window is ripe.
    pub min_interval: Duration,
    /// Not less often than this.
    pub max_interval: Duration,
    /// At the latest when this much is held for one partition.
    pub max_bytes: u64,
}

/// What keeps memory bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What one message may hold.
    pub message: MessageLimits,
    /// Windows open at a time, per monitor and partition.
    pub max_open_windows: usize,
    /// Partitions are paused when this much is held over all of them.
    pub max_held_bytes: usize,
    /// Baselines are dropped from memory, least recently used first, when they take more than this.
    pub max_baseline_bytes: usize,
    /// Levels that a categorical column of training data may have.
    pub max_levels: usize,
}

/// What one message may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// Longer messages are rejected.
    pub bytes: usize,
    /// Messages that are nested deeper are rejected.
    pub depth: usize,
    /// Messages that make more rows are rejected.
    pub rows: usize,
    /// Longer labels are cut.
    pub label_bytes: usize,
}

impl Default for MessageLimits {
    /// As in `config/default.toml`.
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            depth: 64,
            rows: 10_000,
            label_bytes: 256,
        }
    }
}

/// How long what is old is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Windows, scores and contributions, from the verdict on.
    pub history: Duration,
    /// The profiles of judged windows; not longer than their windows.
    pub window_profiles: Duration,
    /// What proves that nothing was skipped.
    pub checkpoints: Duration,
    /// What could not be read.
    pub rejected_messages: Duration,
    /// Messages that were delivered.
    pub outbox: Duration,
}

/// The queue of retraining jobs as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Jobs that may run at a time; `None`: as many as there are workers.
    pub max_running: Option<i32>,
    /// The same, of one model: its job, or the trials of its search.
    pub max_running_per_model: Option<i32>,
    /// Where trainers may have files that baselines are made from; `None`: nowhere.
    pub baseline_directory: Option<PathBuf>,
}

/// What to load the settings from.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions<E = Vec<(String, String)>> {
    /// The settings file, if any.
    pub file: Option<PathBuf>,
    /// The environment, see [`environment`].
    pub env: E,
    /// Settings given as flags.
    pub flags: Vec<Override>,
}

/// The variables of this process. The one place where the environment is read.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    // Values that are no Unicode cannot be settings; a variable of ours among them is refused by
    // what its replaced value means, the others are nobody's business here.
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into(),
            value.to_string_lossy().into(),
        )
    })
}

impl Settings {
    /// Reads all layers and checks them.
    ///
    /// # Errors
    /// When the file cannot be read, and with every problem when anything is wrong.
    pub fn load<E>(options: LoadOptions<E>) -> Result<Self, Error>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let (table, problems) = read(options)?;
        check::check(table, problems)
    }

    /// Settings from the text of a file alone, without environment: for the demo and for tests.
    ///
    /// # Errors
    /// With every problem when anything is wrong.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let (table, problems) = layered(Some(("settings", text)), &BTreeMap::new(), &[])?;
        check::check(table, problems)
    }

    /// The settings in force as TOML, monitors with their defaults filled in, without secrets.
    pub fn redacted(&self) -> &toml::Table {
        &self.effective
    }
}

impl Defaults {
    /// Reads all layers and checks what `[defaults]` says of judging, and nothing else.
    ///
    /// # Errors
    /// When the file cannot be read, and with every problem when anything is wrong.
    pub fn load<E>(options: LoadOptions<E>) -> Result<Self, Error>
    where
        E: IntoIterator<Item = (String, String)>,
    {
        let (table, problems) = read(options)?;
        check::defaults(&table, problems)
    }
}

/// All layers, one over the other.
fn read<E>(options: LoadOptions<E>) -> Result<(file::Table, Vec<Problem>), Error>
where
    E: IntoIterator<Item = (String, String)>,
{
    let file = match &options.file {
        None => None,
        Some(path) => {
            let shown = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => Some((shown, text)),
                Err(source) => {
                    return Err(Error::Unreadable {
                        path: shown,
                        source,
                    });
                }
            }
        }
    };
    let env = options.env.into_iter().collect();
    layered(
        file.as_ref().map(|(p, t)| (p.as_str(), t.as_str())),
        &env,
        &options.flags,
    )
}

fn layered(
    file: Option<(&str, &str)>,
    env: &BTreeMap<String, String>,
    flags: &[Override],
) -> Result<(file::Table, Vec<Problem>), Error> {
    let mut problems = Vec::new();
    let mut table = file::parse(DEFAULT, None).map_err(Error::Wrong)?;
    if let Some((path, text)) = file {
        let mut layer = file::parse(text, Some(path)).map_err(Error::Wrong)?;
        interpolate::interpolate(&mut layer, env, &mut problems);
        layers::flatten_properties(&mut layer);
        layers::merge(&mut table, layer);
    }
    layers::merge(&mut table, layers::environment(env, &mut problems));
    layers::merge(&mut table, layers::flags(flags, &mut problems));
    Ok((table, problems))
}

#[cfg(test)]
mod tests;
