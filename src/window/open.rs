//! The open windows of one partition for one monitor: what was read of each since the last
//! checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::groups::Panes;
use super::{Progress, Spec};
use crate::batch::{Batch, Cell, NO_TIME, Rows, Selection, Slice};
use crate::profile::sample::{self, Provenance, RowHash};
use crate::profile::{Layout, Profile, Sample};

/// The model version of rows that name none.
pub const NO_VERSION: &str = "unknown";

/// The model version of rows that name one without a baseline. A sender can name any number of
/// them, and no bounded choice of some would be the same for every partition and after a restart;
/// so they are counted together. No baseline may be of a version of this name.
pub const OTHER_VERSION: &str = "(other)";

/// How one monitor reads the columns of its topic.
#[derive(Debug)]
pub struct MonitorPlan {
    /// Key of its revision.
    pub monitor_id: i64,
    /// Its name.
    pub name: String,
    /// Its windows.
    pub spec: Spec,
    /// Windows before this belong to an earlier revision.
    pub starts_at_ms: Option<i64>,
    /// Which of the topic's clocks gives its event times.
    pub clock: usize,
    /// Where the model version stands.
    pub version: Version,
    /// Rows sampled per window.
    pub sample_rows: usize,
    /// Keep payloads of rejected messages.
    pub keep_payload: bool,
    /// How rows of each known model version are profiled.
    pub versions: HashMap<String, Arc<VersionPlan>>,
    /// How rows of a version without a baseline are: they are counted.
    pub unknown: Arc<VersionPlan>,
}

/// Where the model version of a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Always this.
    Fixed(String),
    /// In a column of texts.
    Column(usize),
}

/// How the rows of one model version are profiled.
#[derive(Debug)]
pub struct VersionPlan {
    /// What they will be compared with; `None`: rows are only counted.
    pub baseline_id: Option<String>,
    /// The bins of the watched features.
    pub layout: Arc<Layout>,
    /// The column of each of them.
    pub columns: Vec<usize>,
    /// The columns of their samples.
    pub sample_schema: SchemaRef,
}

impl VersionPlan {
    /// The features of a layout, each with its column.
    pub fn new(baseline_id: Option<String>, layout: Arc<Layout>, columns: Vec<usize>) -> Self {
        let sample_schema = sample::schema(&layout);
        Self {
            baseline_id,
            layout,
            columns,
            sample_schema,
        }
    }

    /// Rows that are only counted.
    pub fn counting() -> Self {
        let features = Vec::new();
        Self::new(None, Arc::new(Layout { features }), Vec::new())
    }
}

impl MonitorPlan {
    /// How rows of a version are profiled.
    pub fn version(&self, version: &str) -> &Arc<VersionPlan> {
        self.versions.get(version).unwrap_or(&self.unknown)
    }
}

/// Model version and window start in milliseconds.
pub type Key = (Arc<str>, i64);

/// What a stretch adds to one window.
#[derive(Debug)]
pub struct Delta {
    /// Model version.
    pub version: Arc<str>,
    /// Window start in milliseconds.
    pub start_ms: i64,
    /// Its end, exclusive.
    pub end_ms: i64,
    /// When the clock judges it, if nothing else does.
    pub due_ms: i64,
    /// How its rows are profiled.
    pub plan: Arc<VersionPlan>,
    /// Rows that came too late for it.
    pub late: u64,
    /// From the offset of its first row that counts to behind its last; where only late rows came,
    /// theirs. Late rows must not stretch it: they would by where the stretch was cut, so that two
    /// runs over one log would name different offsets.
    pub offsets: Range<i64>,
    /// The rows that count.
    pub profile: Profile,
}

#[derive(Debug)]
struct Open {
    plan: Arc<VersionPlan>,
    profile: Profile,
    offsets: Range<i64>,
    /// As last measured.
    bytes: usize,
}

impl Open {
    /// What a window costs beside its profile and twice the name of its version.
    const FRAME: usize = 512;

    fn measure(&mut self, version: &str) -> usize {
        self.bytes = self.profile.bytes() + Self::FRAME + 2 * version.len();
        self.bytes
    }
}

/// Rows of one window that came too late: they are counted, and need no profile, which is large.
#[derive(Debug)]
struct Late {
    plan: Arc<VersionPlan>,
    rows: u64,
    offsets: Range<i64>,
}

impl Late {
    const BYTES: usize = 192;

    fn into_delta(self, (version, start_ms): &Key, monitor: &MonitorPlan) -> Delta {
        let end_ms = monitor.spec.end(*start_ms);
        Delta {
            version: Arc::clone(version),
            start_ms: *start_ms,
            end_ms,
            due_ms: monitor.spec.due(end_ms),
            plan: self.plan,
            late: self.rows,
            offsets: self.offsets,
            profile: Profile::idle(Sample::new(0)),
        }
    }
}

/// No rows yet: any offset extends it.
#[allow(clippy::reversed_empty_ranges, reason = "empty is what it means")]
const NOWHERE: Range<i64> = i64::MAX..i64::MIN;

fn reach(offsets: &mut Range<i64>, offset: i64) {
    offsets.start = offsets.start.min(offset);
    offsets.end = offsets.end.max(offset + 1);
}

/// The open windows of one partition for one monitor.
#[derive(Debug, Default)]
pub struct OpenWindows {
    /// The partition's event time so far.
    pub progress: Progress,
    windows: BTreeMap<Key, Open>,
    late: BTreeMap<Key, Late>,
    /// What the windows hold.
    bytes: usize,
    versions: HashMap<String, Arc<str>>,
}

/// What came of some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Assigned {
    /// Rows counted, once per window they belong to.
    pub counted: u64,
    /// Rows that came too late, once per window.
    pub late: u64,
    /// Rows of versions without a baseline, late or not.
    pub other: u64,
}

impl OpenWindows {
    /// Goes on where a partition's event time stood.
    pub fn starting_at(max_event_ms: Option<i64>) -> Self {
        Self {
            progress: Progress { max_event_ms },
            ..Self::default()
        }
    }

    /// Assigns rows, in offset order, to their windows and profiles them.
    pub fn add(
        &mut self,
        monitor: &MonitorPlan,
        rows: &Rows,
        event_ms: &[i64],
        partition: i32,
        hash: RowHash,
    ) -> Assigned {
        let mut assigned = Assigned::default();
        let panes = self.assign(monitor, rows, event_ms, &mut assigned);
        let from = Provenance {
            partition,
            hash,
            event_ms,
        };
        for pane in panes.all() {
            for (start, selected) in pane.counting() {
                self.profile(monitor, &pane.version, start, &rows.batch, selected, from);
            }
        }
        assigned
    }

    /// Finds the windows of each row, counts those that come too late, and moves the event time on.
    fn assign(
        &mut self,
        monitor: &MonitorPlan,
        rows: &Rows,
        event_ms: &[i64],
        assigned: &mut Assigned,
    ) -> Panes {
        let versions = self.versions_of(monitor, rows);
        let spec = &monitor.spec;
        let mut panes = Panes::default();
        for (row, ms) in event_ms.iter().copied().enumerate() {
            if ms == NO_TIME {
                continue;
            }
            let version = versions.of(row);
            assigned.other += u64::from(**version == *OTHER_VERSION);
            let pane = panes.of(spec, version, ms);
            let open = self.open_of(monitor, pane.windows());
            if open > 0 {
                assigned.counted += open as u64;
                pane.note(open, row);
            }
            for (start, _) in &pane.windows()[open..] {
                assigned.late += 1;
                let offset = rows.batch.origins[row].offset;
                self.count_late(monitor, version, *start, offset);
            }
            self.progress.advance(ms);
        }
        panes
    }

    /// How many of some windows take rows, latest first: the earlier ones are closed before.
    #[inline]
    fn open_of(&self, monitor: &MonitorPlan, windows: &[(i64, i64)]) -> usize {
        let is_open = |(start, end): &(i64, i64)| {
            let early = monitor.starts_at_ms.is_some_and(|first| *start < first);
            !early && !self.progress.is_late(&monitor.spec, *end)
        };
        match windows.last() {
            Some(earliest) if is_open(earliest) => windows.len(),
            _ => windows.partition_point(is_open),
        }
    }

    fn profile(
        &mut self,
        monitor: &MonitorPlan,
        version: &Arc<str>,
        start: i64,
        batch: &Batch,
        selected: Selection<'_>,
        from: Provenance<'_>,
    ) {
        let open = self.open(monitor, version, start);
        let before = open.bytes;
        for row in [selected.first(), selected.last()].into_iter().flatten() {
            reach(&mut open.offsets, batch.origins[row].offset);
        }
        let VersionPlan {
            layout,
            columns,
            sample_schema,
            ..
        } = &*open.plan;
        open.profile.add(layout, batch, columns, selected);
        let sample = &mut open.profile.sample;
        sample.add(sample_schema, batch, columns, selected, from);
        let after = open.measure(version);
        self.bytes = self.bytes + after - before;
    }

    fn open(&mut self, monitor: &MonitorPlan, version: &Arc<str>, start: i64) -> &mut Open {
        self.windows
            .entry((Arc::clone(version), start))
            .or_insert_with(|| {
                let plan = Arc::clone(monitor.version(version));
                let most = sample::most_rows(&plan.layout, monitor.sample_rows);
                let profile = Profile::idle(Sample::new(most));
                Open {
                    plan,
                    profile,
                    offsets: NOWHERE,
                    bytes: 0,
                }
            })
    }

    fn count_late(&mut self, monitor: &MonitorPlan, version: &Arc<str>, start: i64, offset: i64) {
        let late = self
            .late
            .entry((Arc::clone(version), start))
            .or_insert_with(|| Late {
                plan: Arc::clone(monitor.version(version)),
                rows: 0,
                offsets: NOWHERE,
            });
        late.rows += 1;
        reach(&mut late.offsets, offset);
    }

    fn versions_of<'a>(&mut self, monitor: &MonitorPlan, rows: &'a Rows) -> Versions<'a> {
        match &monitor.version {
            Version::Fixed(version) => Versions::Same(self.intern(version)),
            Version::Column(column) => {
                let none = self.intern(NO_VERSION);
                let Slice::Text(codes, texts) = rows.batch.values(*column) else {
                    return Versions::Same(none); // a version's column is one of texts
                };
                let names = (0..texts.len())
                    .map(|code| texts.get(code))
                    .map(|name| match monitor.versions.contains_key(name) {
                        true => self.intern(name),
                        false => self.intern(OTHER_VERSION),
                    })
                    .collect();
                Versions::Each {
                    names,
                    codes,
                    cells: rows.batch.cells(*column),
                    none,
                }
            }
        }
    }

    fn intern(&mut self, version: &str) -> Arc<str> {
        if let Some(known) = self.versions.get(version) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(version);
        self.versions.insert(version.to_owned(), Arc::clone(&name));
        name
    }

    /// What was gathered since the last cut, per window; windows that the partition's own
    /// watermark has closed are forgotten, of the others the sample's reach is kept in mind.
    pub fn cut(&mut self, monitor: &MonitorPlan) -> Vec<Delta> {
        let mut deltas = Vec::new();
        for (key, open) in &mut self.windows {
            let late = self.late.remove(key);
            if open.profile.rows == 0 {
                deltas.extend(late.map(|late| late.into_delta(key, monitor)));
                continue;
            }
            let profile = open.profile.take();
            let end_ms = monitor.spec.end(key.1);
            deltas.push(Delta {
                version: Arc::clone(&key.0),
                start_ms: key.1,
                end_ms,
                due_ms: monitor.spec.due(end_ms),
                plan: Arc::clone(&open.plan),
                late: late.map_or(0, |late| late.rows),
                offsets: std::mem::replace(&mut open.offsets, NOWHERE),
                profile,
            });
        }
        let late = std::mem::take(&mut self.late);
        deltas.extend(
            late.into_iter()
                .map(|(key, late)| late.into_delta(&key, monitor)),
        );
        let Self {
            windows, progress, ..
        } = self;
        let spec = &monitor.spec;
        windows.retain(|(_, start), _| !progress.is_late(spec, spec.end(*start)));
        let measured = windows.iter_mut();
        self.bytes = measured
            .map(|((version, _), open)| open.measure(version))
            .sum();
        self.versions.retain(|_, name| Arc::strong_count(name) > 1);
        deltas
    }

    /// Forgets what the samples have in mind: they cost rows, never results. To be called when
    /// nothing else is there, after [`OpenWindows::cut`].
    pub fn forget(&mut self) {
        self.windows.clear();
        self.bytes = 0;
    }

    /// How many windows are held, those of late rows among them.
    pub fn len(&self) -> usize {
        self.windows.len() + self.late.len()
    }

    /// Whether no window is held.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.late.is_empty()
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.bytes + self.late.len() * Late::BYTES
    }
}

/// The model version of each row of a batch.
enum Versions<'a> {
    Same(Arc<str>),
    Each {
        names: Vec<Arc<str>>,
        codes: &'a [u32],
        cells: &'a [Cell],
        none: Arc<str>,
    },
}

impl Versions<'_> {
    fn of(&self, row: usize) -> &Arc<str> {
        match self {
            Self::Same(version) => version,
            Self::Each {
                names,
                codes,
                cells,
                none,
            } => {
                if cells[row].has_value() {
                    &names[codes[row] as usize]
                } else {
                    none
                }
            }
        }
    }
}
