//! False alarms and delays of the learned mode, in worlds where both are known.
//!
//! `cargo bench --bench learned` prints a Markdown table; `-- --quick` a part of it in a few
//! seconds; `-- WORLD...` the worlds whose name holds one of the words; `-- --k=90` one K.
//!
//! Every world has 20 features and windows of about 1,000 rows. A baseline of K windows is
//! calibrated for one false alarm in 30 windows; then 1,200 quiet windows are judged and the alarms
//! counted, and from other fresh starts the first feature is shifted for good and the windows
//! counted until an alarm.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "counts and times of the worlds are small and not negative"
)]

mod random;
mod worlds;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use driftd::decide::learned::{self, Calibration, FalseAlarmRate, Limb, Limbs, Score, Thresholds};
use rustix::time::{ClockId, clock_gettime};
use worlds::{FEATURES, Stream, WORLDS, Window, World};

const RATE: FalseAlarmRate = FalseAlarmRate {
    max: 1.0,
    windows_per_period: 30.0,
};
const GUARDS: [f64; 2] = [1.0, 2.0];
/// What happens to the first feature: so many standard deviations more, so many times the spread.
const DRIFTS: [(f64, f64); 5] = [(0.2, 1.0), (0.3, 1.0), (0.5, 1.0), (0.0, 1.1), (0.0, 1.2)];
/// Shifted windows are given up after so many.
const PATIENCE: usize = 200;

/// How much is simulated.
#[derive(Debug, Clone, Copy)]
struct Extent {
    baselines: usize,
    quiet: usize,
    /// Fresh starts per baseline and shift.
    starts: usize,
}

const FULL: Extent = Extent {
    baselines: 16,
    quiet: 1200,
    starts: 6,
};
const QUICK: Extent = Extent {
    baselines: 4,
    quiet: 300,
    starts: 2,
};

/// What came of one guard.
#[derive(Debug, Clone, Default)]
struct Measured {
    fast: usize,
    slow: usize,
    predicted: f64,
    /// Alarms per baseline: their spread is what a user may be unlucky by.
    alarms: Vec<usize>,
    delays: [Vec<usize>; DRIFTS.len()],
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let sizes: Vec<usize> = match arguments.iter().find_map(|a| a.strip_prefix("--k=")) {
        Some(k) => k.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None if quick => vec![90],
        None => vec![30, 90, 200],
    };
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let extent = if quick { QUICK } else { FULL };
    println!(
        "| world | K | guard | alarms per 30 windows (fast + slow) | worst baseline in ten | predicted | median delay of 0.2 / 0.3 / 0.5 sigma; spread x 1.1 / 1.2 | CPU s to learn |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for world in WORLDS {
        let named = |word: &&&String| world.name.contains(word.as_str());
        if !wanted.is_empty() && !wanted.iter().any(|word| named(&word)) {
            continue;
        }
        for &k in &sizes {
            let (measured, seconds) = measure(world, k, extent)?;
            for (guard, measured) in GUARDS.iter().zip(&measured) {
                println!("{}", line(world, k, *guard, measured, seconds, extent));
            }
        }
    }
    Ok(())
}

fn line(
    world: World,
    k: usize,
    guard: f64,
    measured: &Measured,
    seconds: f64,
    extent: Extent,
) -> String {
    let per_period = |alarms: f64, baselines: usize| {
        alarms * RATE.windows_per_period / (extent.quiet * baselines) as f64
    };
    let (fast, slow) = (measured.fast as f64, measured.slow as f64);
    let mut alarms = measured.alarms.clone();
    alarms.sort_unstable();
    let worst = alarms[(alarms.len() * 9 / 10).min(alarms.len() - 1)];
    let delays: Vec<String> = measured.delays.iter().map(|d| median(d)).collect();
    let (shifts, spreads) = (delays[..3].join(" / "), delays[3..].join(" / "));
    format!(
        "| {} | {k} | {guard} | {:.2} ({:.2} + {:.2}) | {:.2} | {:.2} | {shifts}; {spreads} | {:.2} |",
        world.name,
        per_period(fast + slow, extent.baselines),
        per_period(fast, extent.baselines),
        per_period(slow, extent.baselines),
        per_period(worst as f64, 1),
        measured.predicted / extent.baselines as f64,
        seconds / extent.baselines as f64,
    )
}

fn median(delays: &[usize]) -> String {
    let mut delays = delays.to_vec();
    delays.sort_unstable();
    match delays.get(delays.len() / 2) {
        Some(delay) if *delay <= PATIENCE => delay.to_string(),
        _ => format!("over {PATIENCE}"),
    }
}

/// All baselines of a world, on all cores; and the CPU seconds that learning took.
fn measure(world: World, k: usize, extent: Extent) -> anyhow::Result<(Vec<Measured>, f64)> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new((vec![Measured::default(); GUARDS.len()], 0.0));
    let work = || -> anyhow::Result<()> {
        loop {
            let baseline = next.fetch_add(1, Ordering::Relaxed);
            if baseline >= extent.baselines {
                return Ok(());
            }
            let (measured, seconds) = one_baseline(world, k, extent, baseline as u64)?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.1 += seconds;
            for (sum, one) in all.0.iter_mut().zip(measured) {
                sum.add(one);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            match thread.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Measured {
    fn add(&mut self, baseline: Self) {
        self.fast += baseline.fast;
        self.slow += baseline.slow;
        self.predicted += baseline.predicted;
        self.alarms.push(baseline.fast + baseline.slow);
        for (delays, more) in self.delays.iter_mut().zip(baseline.delays) {
            delays.extend(more);
        }
    }
}

fn one_baseline(
    world: World,
    k: usize,
    extent: Extent,
    baseline: u64,
) -> anyhow::Result<(Vec<Measured>, f64)> {
    let seed = 1000 * baseline;
    let mut stream = Stream::new(world, seed + 1);
    let windows: Vec<Window> = (0..k).map(|_| stream.next()).collect();
    let begun = cpu_seconds();
    let calibration = learn(&stream, &windows, baseline)?;
    let limits = GUARDS.map(|guard| calibration.thresholds(RATE, guard));
    let seconds = cpu_seconds() - begun;
    let mut measured = vec![Measured::default(); GUARDS.len()];

    stream.begin(k, seed + 2);
    let mut limbs = vec![Limbs::default(); GUARDS.len()];
    for _ in 0..extent.quiet {
        let scores = score(&calibration, &stream.next());
        for (guard, limits) in limits.iter().enumerate() {
            match limbs[guard].step(&calibration, limits, &scores).limb {
                Some(Limb::Fast) => measured[guard].fast += 1,
                Some(Limb::Slow) => measured[guard].slow += 1,
                None => {}
            }
        }
    }
    for (guard, limits) in limits.iter().enumerate() {
        measured[guard].predicted = limits.predicted_per_period;
    }
    for (at, drift) in DRIFTS.iter().enumerate() {
        (stream.shift, stream.stretch) = *drift;
        for start in 0..extent.starts {
            stream.begin(k, seed + 10 + (at * extent.starts + start) as u64);
            let delays = delays(&calibration, &limits, &mut stream);
            for (measured, delay) in measured.iter_mut().zip(delays) {
                measured.delays[at].push(delay);
            }
        }
    }
    Ok((measured, seconds))
}

/// Windows until the alarm, for each of the thresholds.
fn delays(calibration: &Calibration, limits: &[Thresholds], stream: &mut Stream) -> Vec<usize> {
    let mut limbs = vec![Limbs::default(); limits.len()];
    let mut delays = vec![PATIENCE + 1; limits.len()];
    for window in 1..=PATIENCE {
        let scores = score(calibration, &stream.next());
        for (at, limits) in limits.iter().enumerate() {
            let alarm = limbs[at].step(calibration, limits, &scores);
            if alarm.limb.is_some() && delays[at] > window {
                delays[at] = window;
            }
        }
        if delays.iter().all(|delay| *delay <= window) {
            break;
        }
    }
    delays
}

fn learn(stream: &Stream, windows: &[Window], seed: u64) -> Result<Calibration, learned::Error> {
    let features: Vec<_> = (0..FEATURES)
        .map(|i| {
            let mut feature = stream.describe(i);
            feature.counts = windows
                .iter()
                .map(|window| window.counts[i].clone())
                .collect();
            feature
        })
        .collect();
    let starts: Vec<i64> = windows.iter().map(|window| window.start_ms).collect();
    learned::calibrate(&starts, &features, seed)
}

fn score(calibration: &Calibration, window: &Window) -> Vec<Option<Score>> {
    let scores = window.counts.iter().enumerate();
    scores
        .map(|(i, counts)| calibration.score(i, window.start_ms, counts))
        .collect()
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
