//! False alarms of one baseline, and how changes are found, held and ended.

use driftd::decide::rule::{Question, Rule};

use crate::baseline::{Baseline, Watch};
use crate::stream::{Change, Stream, World};

/// Windows before, during and after a change.
const WARM: usize = 40;
const ON: usize = 60;
const OFF: usize = 30;
/// Fresh starts per change.
const STARTS: u64 = 2;
/// Starts at which one row is put in.
const ONE_ROW_STARTS: u64 = 3;
/// One false alarm in 30 windows is asked for.
pub(crate) const PERIOD: f64 = 30.0;

/// A change by its name.
pub(crate) type Named = (&'static str, Change);

pub(crate) const CHANGES: [Named; 12] = [
    ("shift 0.2", Change::Shift(0.2)),
    ("shift 0.3", Change::Shift(0.3)),
    ("shift 0.5", Change::Shift(0.5)),
    ("spread 1.2", Change::Spread(1.2)),
    ("zero 0.10", Change::Zero(0.10)),
    ("zero 0.15", Change::Zero(0.15)),
    ("null 0.02", Change::Null(0.02)),
    ("swap", Change::Swap),
    ("newlevel 0.01", Change::NewLevel(0.01)),
    ("newlevel 0.02", Change::NewLevel(0.02)),
    ("range 0.01", Change::Range(0.01)),
    ("corr 0.5", Change::Correlation(0.5)),
];

/// What is measured of one baseline.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) world: World,
    pub(crate) k: usize,
    pub(crate) quiet: usize,
    pub(crate) changes: Vec<Named>,
    pub(crate) one_row: bool,
}

/// What came of one baseline.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Episodes per 30 quiet windows.
    pub(crate) episodes: f64,
    /// The question that began each of them.
    pub(crate) causes: Vec<Question>,
    /// Share of quiet windows that are drifted.
    pub(crate) drifted: f64,
    /// Mean length of an episode, if there was one.
    pub(crate) length: Option<f64>,
    /// Per change and start; no entry where the feature was drifted before.
    pub(crate) found: Vec<(&'static str, Found)>,
    /// Starts at which one row alarmed.
    pub(crate) one_row: usize,
}

/// How a change was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Windows until it was; `None`: never.
    pub(crate) delay: Option<usize>,
    /// Share of later windows that stay drifted, of what was found in time to tell.
    pub(crate) stay: Option<f64>,
    /// Windows until stable after the end.
    pub(crate) after: Option<usize>,
}

pub(crate) fn applies(world: World, change: Change) -> bool {
    match change {
        Change::Zero(_) => world == World::Zero95,
        Change::Shift(_) | Change::Spread(_) | Change::Correlation(_) => world != World::Zero95,
        Change::Swap | Change::NewLevel(_) => world.labels() > 0,
        _ => true,
    }
}

impl Plan {
    pub(crate) fn run(&self, seed: u64) -> anyhow::Result<Measured> {
        let baseline = Baseline::draw(self.world, seed, self.k, Change::None);
        let rule = baseline.learn(1.0 / PERIOD)?;
        let mut measured = self.quiet(&baseline, &rule, seed + 1);
        for start in 0..STARTS {
            let plain = |change: Change| !matches!(change, Change::Correlation(_));
            let changes = self.changes.iter().filter(|(_, change)| plain(*change));
            let mut start = Start::new(self, &baseline, &rule, seed + 10 + start, Change::None);
            measured
                .found
                .extend(changes.filter_map(|named| start.run(*named)));
        }
        for named in &self.changes {
            if let Change::Correlation(_) = named.1 {
                measured.found.extend(self.correlation(*named, seed)?);
            }
        }
        for start in 0..if self.one_row { ONE_ROW_STARTS } else { 0 } {
            let start = Start::new(self, &baseline, &rule, seed + 20 + start, Change::None);
            measured.one_row += usize::from(start.one_row_alarms());
        }
        Ok(measured)
    }

    fn quiet(&self, baseline: &Baseline, rule: &Rule, seed: u64) -> Measured {
        let mut stream = Stream::new(self.world, seed, self.k);
        let mut watch = Watch::new(baseline, rule);
        let mut causes = Vec::new();
        let (mut before, mut windows) = (false, 0.0);
        for _ in 0..self.quiet {
            let judged = watch.judge(&stream.next(Change::None));
            let mut drifted = judged.into_iter().flatten();
            let first = drifted.next();
            windows += f64::from(first.is_some());
            causes.extend(first.filter(|_| !before));
            before = first.is_some();
        }
        let episodes = causes.len() as f64;
        Measured {
            episodes: episodes * PERIOD / self.quiet as f64,
            causes,
            drifted: windows / self.quiet as f64,
            length: (episodes > 0.0).then_some(windows / episodes),
            ..Measured::default()
        }
    }

    /// A correlation that is there in training goes to 0.
    fn correlation(
        &self,
        (name, correlated): Named,
        seed: u64,
    ) -> anyhow::Result<Vec<(&'static str, Found)>> {
        let baseline = Baseline::draw(self.world, seed, self.k, correlated);
        let rule = baseline.learn(1.0 / PERIOD)?;
        let mut found = Vec::new();
        for start in 0..STARTS {
            let mut start = Start::new(self, &baseline, &rule, seed + 10 + start, correlated);
            found.extend(start.run((name, Change::Correlation(0.0))));
        }
        Ok(found)
    }
}

/// Warm windows, after which changes can begin.
struct Start<'a> {
    world: World,
    stream: Stream,
    watch: Watch<'a>,
    quiet: Change,
    /// What was drifted in the last warm window.
    before: Vec<Option<Question>>,
}

impl<'a> Start<'a> {
    fn new(plan: &Plan, baseline: &'a Baseline, rule: &'a Rule, seed: u64, quiet: Change) -> Self {
        let mut stream = Stream::new(plan.world, seed, plan.k);
        let mut watch = Watch::new(baseline, rule);
        let mut before = Vec::new();
        for _ in 0..WARM {
            before = watch.judge(&stream.next(quiet));
        }
        Self {
            world: plan.world,
            stream,
            watch,
            quiet,
            before,
        }
    }

    fn run(&mut self, (name, change): Named) -> Option<(&'static str, Found)> {
        let subject = match change {
            Change::Swap | Change::NewLevel(_) => self.world.numbers(),
            Change::Correlation(_) => self.world.numbers() + self.world.labels(),
            _ => 0,
        };
        if self.before[subject].is_some() {
            return None;
        }
        let (mut stream, mut watch) = (self.stream.clone(), self.watch.clone());
        let mut next = |change| watch.judge(&stream.next(change))[subject].is_some();
        let on: Vec<bool> = (0..ON).map(|_| next(change)).collect();
        let off: Vec<bool> = (0..OFF).map(|_| next(self.quiet)).collect();
        let delay = on.iter().position(|drifted| *drifted).map(|at| at + 1);
        let later = |delay: usize| {
            let later = &on[delay..];
            let drifted = later.iter().filter(|drifted| **drifted).count();
            drifted as f64 / later.len() as f64
        };
        let stable = || off.iter().position(|drifted| !drifted).unwrap_or(OFF);
        let found = Found {
            delay,
            stay: delay.filter(|delay| *delay <= 45).map(later),
            after: (delay.is_some() && on[ON - 1]).then(stable),
        };
        Some((name, found))
    }

    /// Whether a window with one odd row is drifted, and without it is not.
    fn one_row_alarms(self) -> bool {
        let judge = |change| {
            let (mut stream, mut watch) = (self.stream.clone(), self.watch.clone());
            watch.judge(&stream.next(change))
        };
        let (with, without) = (judge(Change::OneRow), judge(self.quiet));
        let mut both = with.iter().zip(&without);
        both.any(|(with, without)| with.is_some() && without.is_none())
    }
}
