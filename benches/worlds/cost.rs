//! CPU time of learning and judging.

use driftd::decide::rule::State;

use crate::baseline::Baseline;
use crate::clock::cpu_seconds;
use crate::measure::PERIOD;
use crate::stream::{Change, Stream, World};

/// Prints the CPU time of judging a window of 30 features, and of learning from windows of 20.
pub(crate) fn print() -> anyhow::Result<()> {
    for k in [90, 672] {
        let baseline = Baseline::draw(World::Cost(30), 1, k, Change::None);
        let rule = baseline.learn(1.0 / PERIOD)?;
        let mut stream = Stream::new(World::Cost(30), 2, k);
        let live = 3 * rule.memory();
        let windows: Vec<_> = (0..live)
            .map(|_| baseline.answers(&stream.next(Change::None)))
            .collect();
        let mut state = State::default();
        let mut seconds = Vec::new();
        for t in rule.memory()..live {
            let begun = cpu_seconds();
            rule.judge(&windows[t - rule.memory()..=t], true, &mut state);
            seconds.push(cpu_seconds() - begun);
        }
        println!(
            "judge, 30 features, K = {k}, {} windows at hand: {:.2} ms",
            rule.memory() + 1,
            1e3 * median(seconds)
        );
    }
    for k in [90, 672] {
        let baseline = Baseline::draw(World::Cost(20), 1, k, Change::None);
        let seconds = (0..3).map(|_| {
            let begun = cpu_seconds();
            baseline.learn(1.0 / PERIOD).map(|_| cpu_seconds() - begun)
        });
        let seconds: Vec<f64> = seconds.collect::<anyhow::Result<_>>()?;
        println!(
            "learn, 20 features, {k} hourly windows: {:.2} s",
            median(seconds)
        );
    }
    Ok(())
}

fn median(values: Vec<f64>) -> f64 {
    crate::report::quantile(values, 0.5)
}
