//! What is read from a topic, for whom: the decode plan of all monitors of the topic, and for each
//! where its event time, its model version and its features stand.

use std::collections::HashMap;
use std::sync::Arc;

use super::decode::{self, Plan, Read, Source};
use super::path::{self, FieldPath};
use crate::baseline::Outline;
use crate::monitor::{Feature, Features, Input, Kind, TimeUnit, VersionSource};
use crate::profile::{FeatureLayout, Layout};
use crate::telemetry::metrics::MonitorCounters;
use crate::window::open::{MonitorPlan, Version, VersionPlan};

/// Everything that reads one topic.
#[derive(Debug)]
pub struct TopicPlan {
    /// The topic.
    pub topic: String,
    /// Which fields are read into which columns.
    pub plan: Plan,
    /// How event times are found; monitors that find them alike share one.
    pub clocks: Vec<Clock>,
    /// Who watches it.
    pub monitors: Vec<MonitorPlan>,
    /// What each of these counts.
    pub counters: Vec<MonitorCounters>,
}

/// How the event time of a row is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Its column; `None`: the record's own timestamp.
    pub column: Option<usize>,
    /// Event times further ahead of the record's own timestamp than this are rejected.
    pub max_future_ms: i64,
}

/// What cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path.
    #[error("monitor `{monitor}`: {source}")]
    Path {
        /// The monitor.
        monitor: String,
        /// What is wrong with it.
        source: path::Error,
    },
    /// Two arrays on one topic.
    #[error("monitor `{monitor}`: {source}")]
    Plan {
        /// The monitor.
        monitor: String,
        /// What does not go together.
        source: decode::Error,
    },
    /// A feature that the baseline does not have.
    #[error(
        "monitor `{monitor}`: feature `{feature}` is not in baseline {baseline} of version \
         `{version}`; it has {found}"
    )]
    NoFeature {
        /// The monitor.
        monitor: String,
        /// The feature.
        feature: String,
        /// The baseline.
        baseline: String,
        /// Its version.
        version: String,
        /// What there is.
        found: String,
    },
}

/// A monitor with what the database knows of it.
#[derive(Debug)]
pub struct Watched<'a> {
    /// Key of its revision.
    pub monitor_id: i64,
    /// Its name.
    pub name: &'a str,
    /// What it reads.
    pub input: &'a Input,
    /// Windows before this belong to an earlier revision.
    pub starts_at_ms: Option<i64>,
    /// The baselines of its model's versions.
    pub baselines: Vec<Arc<Outline>>,
}

impl TopicPlan {
    /// An empty plan.
    pub fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            plan: Plan::default(),
            clocks: Vec::new(),
            monitors: Vec::new(),
            counters: Vec::new(),
        }
    }

    /// Adds a monitor of this topic.
    ///
    /// # Errors
    /// Its paths or features do not fit.
    pub fn add(&mut self, watched: &Watched<'_>) -> Result<(), Error> {
        let Watched {
            monitor_id,
            name,
            input,
            starts_at_ms,
            baselines,
        } = watched;
        let path = &input.timestamp.path;
        let time = match path {
            Some(path) => Some(self.field(name, path, Read::Time(input.timestamp.unit))?),
            None => None,
        };
        let version = match &input.version {
            VersionSource::Fixed(version) => Version::Fixed(version.clone()),
            VersionSource::Path(path) => Version::Column(self.field(name, path, Read::Written)?),
            VersionSource::Header(header) => Version::Column(self.add_source(
                name,
                Source::Header(header.clone()),
                Read::Written,
            )?),
        };
        let mut versions = HashMap::new();
        for baseline in baselines {
            let plan = self.version(name, &input.features, baseline)?;
            versions.insert(baseline.version.clone(), Arc::new(plan));
        }
        let clock = self.clock(Clock {
            column: time,
            max_future_ms: input.window.max_future_ms,
        });
        self.counters.push(MonitorCounters::new(name));
        self.monitors.push(MonitorPlan {
            monitor_id: *monitor_id,
            name: (*name).to_owned(),
            spec: input.window,
            starts_at_ms: *starts_at_ms,
            clock,
            version,
            sample_rows: input.sample_rows,
            keep_payload: input.keep_rejected_payload,
            versions,
            unknown: Arc::new(VersionPlan::counting()),
        });
        Ok(())
    }

    fn version(
        &mut self,
        monitor: &str,
        features: &Features,
        baseline: &Outline,
    ) -> Result<VersionPlan, Error> {
        let layout = select(monitor, features, baseline)?;
        let mut columns = Vec::with_capacity(layout.features.len());
        for feature in &layout.features {
            let source = match features {
                Features::All => Source::Field(FieldPath::key(&feature.name)),
                Features::Listed(listed) => {
                    let listed = listed.iter().find(|listed| listed.name == feature.name);
                    Source::Field(parse(monitor, listed.map_or(&feature.name, |l| &l.path))?)
                }
            };
            columns.push(self.add_source(monitor, source, read(feature))?);
        }
        let baseline_id = Some(baseline.id.clone());
        Ok(VersionPlan::new(baseline_id, layout, columns))
    }

    fn clock(&mut self, clock: Clock) -> usize {
        let known = self.clocks.iter().position(|known| *known == clock);
        known.unwrap_or_else(|| {
            self.clocks.push(clock);
            self.clocks.len() - 1
        })
    }

    fn field(&mut self, monitor: &str, path: &str, read: Read) -> Result<usize, Error> {
        let path = parse(monitor, path)?;
        self.add_source(monitor, Source::Field(path), read)
    }

    fn add_source(&mut self, monitor: &str, source: Source, read: Read) -> Result<usize, Error> {
        self.plan.add(source, read).map_err(|source| Error::Plan {
            monitor: monitor.to_owned(),
            source,
        })
    }
}

/// The watched features of a baseline, in the baseline's order.
///
/// # Errors
/// [`Error::NoFeature`] if one is listed that the baseline does not have.
pub fn select(
    monitor: &str,
    features: &Features,
    baseline: &Outline,
) -> Result<Arc<Layout>, Error> {
    let Features::Listed(listed) = features else {
        return Ok(Arc::clone(&baseline.layout));
    };
    let all = &baseline.layout.features;
    let unknown = |listed: &&Feature| !all.iter().any(|feature| feature.name == listed.name);
    if let Some(feature) = listed.iter().find(unknown) {
        let names: Vec<&str> = all.iter().map(|feature| feature.name.as_str()).collect();
        return Err(Error::NoFeature {
            monitor: monitor.to_owned(),
            feature: feature.name.clone(),
            baseline: baseline.id.chars().take(12).collect(),
            version: baseline.version.clone(),
            found: names.join(", "),
        });
    }
    let chosen = |feature: &&FeatureLayout| listed.iter().any(|l| l.name == feature.name);
    Ok(Arc::new(Layout {
        features: all.iter().filter(chosen).cloned().collect(),
    }))
}

fn parse(monitor: &str, path: &str) -> Result<FieldPath, Error> {
    FieldPath::parse(path).map_err(|source| Error::Path {
        monitor: monitor.to_owned(),
        source,
    })
}

fn read(feature: &FeatureLayout) -> Read {
    match feature.kind {
        Kind::Numeric => Read::Number,
        Kind::Timestamp => Read::Seconds(TimeUnit::Ms),
        Kind::Embedding => Read::Vector(feature.dimension),
        Kind::Boolean => Read::Boolean,
        Kind::Categorical => Read::Text {
            plain_numbers: feature.plain_numbers,
        },
    }
}
