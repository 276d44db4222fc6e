//! What has to come out, computed from what went in: one thread, the whole log at once, plain
//! formulas, and not a line of what is tested.
//!
//! Where the daemon keeps counts on bins, this keeps every value; where it merges stretches, this
//! walks each partition from its first message to its last.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use serde_json::Value;
use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::factorial::ln_binomial;

use super::traffic::{ALLOWED_MS, MAX_FUTURE_MS, OUT_OF_ORDERNESS_MS, Record, WINDOW_MS};

/// The features, in the baseline's order; `true`: a number.
pub(crate) const FEATURES: [(&str, bool); 4] = [
    ("amount", true),
    ("age", true),
    ("score", true),
    ("country", false),
];
/// The rules that the monitor of the tests is given, beside the times in `traffic`.
pub(crate) const MIN_ROWS: i64 = 100;
pub(crate) const ALPHA: f64 = 0.05;
pub(crate) const RESOLVE_AFTER: usize = 3;
/// The tests and their limits on the effect; chi-square informs only, and its p-value, whose law
/// depends on how rare the rarest label is, is checked elsewhere.
pub(crate) const LIMITS: [(&str, f64); 3] = [("chi2", 0.1), ("ks", 0.1), ("null_rate", 0.05)];

/// A monitor of the tests: what it is called and which windows it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) name: &'static str,
    pub(crate) size_ms: i64,
    pub(crate) every_ms: i64,
}

impl Watch {
    /// Into how many windows each row falls.
    pub(crate) fn windows_per_row(&self) -> i64 {
        self.size_ms / self.every_ms
    }
}

/// The monitor of most tests.
pub(crate) const CREDIT: Watch = Watch {
    name: "credit",
    size_ms: WINDOW_MS,
    every_ms: WINDOW_MS,
};
/// One that may watch beside it; it never asks for retraining.
pub(crate) const HOPPING: Watch = Watch {
    name: "credit-hopping",
    size_ms: 2 * WINDOW_MS,
    every_ms: WINDOW_MS,
};

/// A value as the tests see it.
#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Number(f64),
    Label(String),
    Absent,
}

/// What stands in `windows` and `drift_scores` for one window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub(crate) start_ms: i64,
    pub(crate) rows: i64,
    pub(crate) late: i64,
    pub(crate) verdict: &'static str,
    pub(crate) drifted_features: i32,
    /// From its first row to behind its last, per partition that has any.
    pub(crate) offsets: BTreeMap<i32, (i64, i64)>,
    /// By feature, then test.
    pub(crate) scores: Vec<Score>,
}

/// A row of `drift_scores`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Score {
    pub(crate) feature: &'static str,
    pub(crate) test: &'static str,
    pub(crate) statistic: f64,
    /// None where neither side has a row that counts: nothing could have come out otherwise.
    pub(crate) p_value: Option<f64>,
    pub(crate) p_adjusted: Option<f64>,
    pub(crate) effect: f64,
    pub(crate) threshold: f64,
    pub(crate) nulls: i64,
    pub(crate) unseen: i64,
    pub(crate) drifted: bool,
}

impl Score {
    pub(crate) fn decides(&self) -> bool {
        self.test != "chi2"
    }
}

/// A row of `alert_episodes`, with times as window starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    pub(crate) first_ms: i64,
    pub(crate) drifted_windows: i32,
    pub(crate) resolved: bool,
}

/// All that follows from a log.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) watch: Watch,
    pub(crate) windows: Vec<Window>,
    pub(crate) episodes: Vec<Episode>,
    /// Those of kind silence; `drifted_windows` are windows without rows.
    pub(crate) silences: Vec<Episode>,
    /// Partition, offset and reason of each message that could not be used.
    pub(crate) rejected: Vec<(i32, i64, &'static str)>,
    /// Messages per partition.
    pub(crate) messages: Vec<i64>,
    pub(crate) skipped: i64,
    pub(crate) counted: i64,
    pub(crate) late: i64,
    /// Rows of windows that no watermark has passed yet.
    pub(crate) waiting: i64,
}

/// A row with its time.
type Row = (i64, Vec<Cell>);

/// What one message comes to.
enum Read {
    Row(Row),
    Skipped,
    Rejected(&'static str),
}

#[derive(Debug, Default)]
struct Gathered {
    rows: Vec<Vec<Cell>>,
    late: i64,
    offsets: BTreeMap<i32, (i64, i64)>,
}

impl Reference {
    /// Computes it from the messages in the order in which they were produced, up to the last
    /// window that the watermarks of all partitions have passed.
    pub(crate) fn of(log: &[Record], baseline_csv: &str) -> Self {
        Self::of_watch(&CREDIT, log, baseline_csv)
    }

    /// The same for another monitor.
    pub(crate) fn of_watch(watch: &Watch, log: &[Record], baseline_csv: &str) -> Self {
        Self::compute(watch, log, baseline_csv, false)
    }

    /// The same for a log that has ended: when all partitions are idle, no window waits.
    pub(crate) fn of_ended(log: &[Record], baseline_csv: &str) -> Self {
        Self::compute(&CREDIT, log, baseline_csv, true)
    }

    fn compute(watch: &Watch, log: &[Record], baseline_csv: &str, has_ended: bool) -> Self {
        let mut windows: BTreeMap<i64, Gathered> = BTreeMap::new();
        let mut reference = Self {
            watch: *watch,
            windows: Vec::new(),
            episodes: Vec::new(),
            silences: Vec::new(),
            rejected: Vec::new(),
            messages: Vec::new(),
            skipped: 0,
            counted: 0,
            late: 0,
            waiting: 0,
        };
        let mut least_watermark = i64::MAX;
        let last = log.iter().map(|record| record.partition).max();
        for partition in 0..=last.unwrap() {
            let watermark = reference.walk(partition, log, &mut windows);
            least_watermark = least_watermark.min(watermark);
        }
        if has_ended {
            let last = windows.keys().next_back();
            least_watermark = last.map_or(i64::MIN, |start| start + watch.size_ms + ALLOWED_MS);
        }
        let baseline = training_rows(baseline_csv);
        let first = windows
            .iter()
            .find(|(_, gathered)| !gathered.rows.is_empty());
        let mut start_ms = first.map_or(i64::MAX, |(start, _)| *start);
        while start_ms < i64::MAX && start_ms + watch.size_ms + ALLOWED_MS <= least_watermark {
            let gathered = windows.remove(&start_ms).unwrap_or_default();
            reference
                .windows
                .push(judge(start_ms, &gathered, &baseline));
            start_ms += watch.every_ms;
        }
        let waiting: usize = windows.values().map(|gathered| gathered.rows.len()).sum();
        reference.waiting = i64::try_from(waiting).unwrap();
        reference.episodes = episodes(&reference.windows);
        reference.silences = silences(&reference.windows);
        reference
    }

    /// Reads one partition from its start to its end; returns its watermark there.
    fn walk(
        &mut self,
        partition: i32,
        log: &[Record],
        windows: &mut BTreeMap<i64, Gathered>,
    ) -> i64 {
        let mut watermark = i64::MIN;
        let mut offset = 0;
        for record in log.iter().filter(|record| record.partition == partition) {
            match read(record) {
                Read::Skipped => self.skipped += 1,
                Read::Rejected(reason) => self.rejected.push((partition, offset, reason)),
                Read::Row((event_ms, cells)) => {
                    let latest = event_ms - event_ms.rem_euclid(self.watch.every_ms);
                    for back in 0..self.watch.windows_per_row() {
                        let start_ms = latest - back * self.watch.every_ms;
                        let window = windows.entry(start_ms).or_default();
                        if start_ms + self.watch.size_ms + ALLOWED_MS <= watermark {
                            window.late += 1;
                            self.late += 1;
                            continue;
                        }
                        window.rows.push(cells.clone());
                        let hull = window.offsets.entry(partition).or_insert((offset, 0));
                        hull.1 = offset + 1;
                        self.counted += 1;
                    }
                    watermark = watermark.max(event_ms - OUT_OF_ORDERNESS_MS);
                }
            }
            offset += 1;
        }
        self.messages.push(offset);
        watermark
    }
}

fn read(record: &Record) -> Read {
    let Some(payload) = &record.payload else {
        return Read::Skipped;
    };
    let Ok(message) = serde_json::from_str::<Value>(payload) else {
        return Read::Rejected("unparsable");
    };
    let event_ms = match &message["at"] {
        Value::Null => return Read::Rejected("no_timestamp"),
        Value::Number(ms) => ms.as_i64().unwrap(),
        Value::String(text) => match DateTime::parse_from_rfc3339(text) {
            Ok(time) => time.timestamp_millis(),
            Err(_) => return Read::Rejected("bad_timestamp"),
        },
        _ => return Read::Rejected("bad_timestamp"),
    };
    if event_ms - record.record_ms > MAX_FUTURE_MS {
        return Read::Rejected("future_timestamp");
    }
    let cells = FEATURES.map(|(name, number)| match &message[name] {
        Value::Number(value) if number => Cell::Number(value.as_f64().unwrap()),
        Value::String(text) if number => number_in(text),
        Value::String(text) => Cell::Label(text.clone()),
        _ => Cell::Absent,
    });
    Read::Row((event_ms, cells.to_vec()))
}

fn number_in(text: &str) -> Cell {
    text.parse().map_or(Cell::Absent, Cell::Number)
}

fn training_rows(csv: &str) -> Vec<Vec<Cell>> {
    let cell = |(text, (_, number)): (&str, (&str, bool))| match text {
        "" => Cell::Absent,
        text if number => number_in(text),
        text => Cell::Label(text.to_owned()),
    };
    let lines = csv.lines().skip(1);
    lines
        .map(|line| line.split(',').zip(FEATURES).map(cell).collect())
        .collect()
}

// --- judging -------------------------------------------------------------------------------------

fn judge(start_ms: i64, gathered: &Gathered, baseline: &[Vec<Cell>]) -> Window {
    let rows = i64::try_from(gathered.rows.len()).unwrap();
    let mut window = Window {
        start_ms,
        rows,
        late: gathered.late,
        verdict: "too_few_rows",
        drifted_features: 0,
        offsets: gathered.offsets.clone(),
        scores: Vec::new(),
    };
    if rows < MIN_ROWS {
        return window;
    }
    window.scores = scores(baseline, &gathered.rows);
    let drifted = |name: &str| window.scores.iter().any(|s| s.feature == name && s.drifted);
    let count = FEATURES.iter().filter(|(name, _)| drifted(name)).count();
    window.drifted_features = i32::try_from(count).unwrap();
    window.verdict = if count > 0 { "drifted" } else { "stable" };
    window
}

fn scores(baseline: &[Vec<Cell>], rows: &[Vec<Cell>]) -> Vec<Score> {
    let mut family = Vec::new();
    for (test, limit) in LIMITS {
        for (at, (feature, number)) in FEATURES.into_iter().enumerate() {
            let before: Vec<&Cell> = baseline.iter().map(|row| &row[at]).collect();
            let now: Vec<&Cell> = rows.iter().map(|row| &row[at]).collect();
            let found = match test {
                "ks" if !number => continue,
                "chi2" if number => continue,
                "ks" => ks(&numbers(&before), &numbers(&now)),
                "null_rate" => null_rate(&before, &now),
                _ => chi2(&before, &now),
            };
            family.push(Score {
                feature,
                test,
                statistic: found.0,
                p_value: found.1,
                p_adjusted: None,
                effect: found.2,
                threshold: limit,
                nulls: absent(&now),
                unseen: unseen(&before, &now),
                drifted: false,
            });
        }
    }
    adjust(&mut family);
    for score in family.iter_mut().filter(|score| score.decides()) {
        let significant = score.p_adjusted.is_none_or(|p| p <= ALPHA);
        score.drifted = significant && score.effect > score.threshold;
    }
    family.sort_by_key(|score| (score.feature, score.test));
    family
}

/// Simes over the tests of a feature, then Holm over the features; the other tests of a feature
/// follow at Bonferroni's factor.
fn adjust(family: &mut [Score]) {
    let mut firsts: Vec<(&str, f64)> = Vec::new();
    for (feature, _) in FEATURES {
        let mut own: Vec<&mut Score> = family.iter_mut().filter(|s| s.feature == feature).collect();
        own.retain(|score| score.p_value.is_some());
        own.sort_by(|a, b| b.p_value.unwrap().total_cmp(&a.p_value.unwrap()));
        let count = own.len();
        let mut least = 1.0_f64;
        for (above, score) in own.iter_mut().enumerate() {
            least = least.min(score.p_value.unwrap() * count as f64 / (count - above) as f64);
            score.p_adjusted = Some(least);
        }
        if count > 0 {
            firsts.push((feature, least));
        }
    }
    firsts.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (count, mut so_far) = (firsts.len(), 0.0_f64);
    for (rank, (feature, first)) in firsts.iter().enumerate() {
        so_far = so_far.max((first * (count - rank) as f64).min(1.0));
        for score in family.iter_mut().filter(|score| score.feature == *feature) {
            let follow = |p: f64| (p * count as f64).min(1.0).max(so_far);
            score.p_adjusted = score.p_adjusted.map(|p| match p <= *first {
                true => so_far,
                false => follow(p),
            });
        }
    }
}

/// An alert fires with the first drifted window and is over after so many stable ones in a row;
/// windows with too few rows say neither.
fn episodes(windows: &[Window]) -> Vec<Episode> {
    let mut episodes: Vec<Episode> = Vec::new();
    let mut stable = 0;
    for window in windows {
        let open = episodes.last_mut().filter(|episode| !episode.resolved);
        match (window.verdict, open) {
            ("drifted", None) => {
                stable = 0;
                episodes.push(Episode {
                    first_ms: window.start_ms,
                    drifted_windows: 1,
                    resolved: false,
                });
            }
            ("drifted", Some(episode)) => {
                stable = 0;
                episode.drifted_windows += 1;
            }
            ("stable", Some(episode)) => {
                stable += 1;
                episode.resolved = stable == RESOLVE_AFTER;
            }
            _ => {}
        }
    }
    episodes
}

/// Every stretch of two windows or more without rows; the next window with rows ends it.
fn silences(windows: &[Window]) -> Vec<Episode> {
    let stretches = windows.chunk_by(|a, b| (a.rows > 0) == (b.rows > 0));
    let silent = stretches.filter(|stretch| stretch[0].rows == 0 && stretch.len() > 1);
    let last = windows.last().map(|window| window.start_ms);
    let episode = |stretch: &[Window]| Episode {
        first_ms: stretch[0].start_ms,
        drifted_windows: i32::try_from(stretch.len()).unwrap(),
        resolved: stretch.last().map(|window| window.start_ms) != last,
    };
    silent.map(episode).collect()
}

// --- the tests, by their formulas ----------------------------------------------------------------

/// Statistic, p-value, effect.
pub(crate) type Found = (f64, Option<f64>, f64);

fn numbers(cells: &[&Cell]) -> Vec<f64> {
    let mut values: Vec<f64> = cells
        .iter()
        .filter_map(|cell| match cell {
            Cell::Number(value) => Some(*value),
            _ => None,
        })
        .collect();
    values.sort_by(f64::total_cmp);
    values
}

fn absent(cells: &[&Cell]) -> i64 {
    let absent = cells.iter().filter(|cell| ***cell == Cell::Absent);
    i64::try_from(absent.count()).unwrap()
}

/// Labels that the baseline does not have, numbers beyond its range.
fn unseen(before: &[&Cell], now: &[&Cell]) -> i64 {
    let known = numbers(before);
    let is_unseen = |cell: &&&Cell| match cell {
        Cell::Absent => false,
        Cell::Label(_) => !before.contains(*cell),
        Cell::Number(value) => *value < known[0] || *value > known[known.len() - 1],
    };
    i64::try_from(now.iter().filter(is_unseen).count()).unwrap()
}

/// Kolmogorov-Smirnov: the greatest distance of the two empirical distribution functions, and the
/// share of all interleavings of the two sides that come as far apart.
pub(crate) fn ks(before: &[f64], now: &[f64]) -> Found {
    let (m, n) = (before.len(), now.len());
    let below = |side: &[f64], value: f64| side.partition_point(|other| *other <= value);
    let distance = |value: &f64| (below(before, *value) * n).abs_diff(below(now, *value) * m);
    let greatest = before.iter().chain(now).map(distance).max().unwrap();
    // The chance that a random path from (0, 0) to (i, j) has come so far from the diagonal.
    let mut row = vec![0.0_f64; n + 1];
    for i in 0..=m {
        for j in 0..=n {
            row[j] = if (i * n).abs_diff(j * m) >= greatest {
                1.0
            } else if i + j == 0 {
                0.0
            } else {
                let from_left = if j == 0 { 0.0 } else { row[j - 1] };
                (row[j] * i as f64 + from_left * j as f64) / (i + j) as f64
            };
        }
    }
    let statistic = greatest as f64 / (m * n) as f64;
    (statistic, Some(row[n]), statistic)
}

/// Chi-square of the labels, over the rows that have one; each label of either side is a level. The
/// effect is V of both sides at equal weight, less what it is over all deals of the pooled rows.
fn chi2(before: &[&Cell], now: &[&Cell]) -> Found {
    let labels = |cells: &[&Cell]| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for cell in cells {
            if let Cell::Label(label) = cell {
                *counts.entry(label.clone()).or_default() += 1;
            }
        }
        counts
    };
    let (old, new) = (labels(before), labels(now));
    let (n, m): (u64, u64) = (old.values().sum(), new.values().sum());
    let levels: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let (mut statistic, mut apart, mut chance) = (0.0, 0.0, 0.0);
    for level in &levels {
        let count = |side: &BTreeMap<String, u64>| side.get(*level).copied().unwrap_or(0);
        let (a, b) = (count(&old), count(&new));
        let total = a + b;
        let gap = |b: u64| {
            let (p, q) = ((total - b) as f64 / n as f64, b as f64 / m as f64);
            ((p - q).powi(2), (p - q).powi(2) / (p + q) / 2.0)
        };
        let all = ln_binomial(n + m, m);
        let deal = |b| (ln_binomial(total, b) + ln_binomial(n + m - total, m - b) - all).exp();
        let deals = total.saturating_sub(n)..=total.min(m);
        statistic += gap(b).0 * n as f64 * m as f64 / total as f64;
        apart += gap(b).1;
        chance += deals.map(|b| deal(b) * gap(b).1).sum::<f64>();
    }
    (statistic, None, (apart - chance).max(0.0).sqrt())
}

/// The share of rows without a value. p by chi-square where every cell of the table may expect
/// five rows, else by Fisher's exact test.
fn null_rate(before: &[&Cell], now: &[&Cell]) -> Found {
    let [n, m] = [before, now].map(|side| side.len() as u64);
    let [old, new] = [before, now].map(|side| absent(side).unsigned_abs());
    let (rate, rate_before) = (new as f64 / m as f64, old as f64 / n as f64);
    let effect = (rate - rate_before).abs();
    if old + new == 0 || old + new == n + m {
        return (rate, None, effect);
    }
    let observed = [old, new, n - old, m - new].map(|count| count as f64);
    let share = (observed[0] + observed[1]) / (n + m) as f64;
    let expected = [share, share, 1.0 - share, 1.0 - share];
    let expected: Vec<f64> = expected
        .iter()
        .zip([n, m, n, m])
        .map(|(share, rows)| share * rows as f64)
        .collect();
    if expected.iter().any(|cell| *cell < 5.0) {
        return (rate, Some(fisher(old, n, new, m)), effect);
    }
    let cells = observed.iter().zip(expected);
    let statistic: f64 = cells.map(|(o, e)| (o - e).powi(2) / e).sum();
    (
        rate,
        Some(ChiSquared::new(1.0).unwrap().sf(statistic)),
        effect,
    )
}

/// All tables with the same margins that are no likelier than this one.
fn fisher(old: u64, n: u64, new: u64, m: u64) -> f64 {
    let marked = old + new;
    let all = ln_binomial(n + m, marked);
    let chance = |hits| (ln_binomial(m, hits) + ln_binomial(n, marked - hits) - all).exp();
    let likely = chance(new) * (1.0 + 1e-7);
    let tables = marked.saturating_sub(n)..=marked.min(m);
    let p: f64 = tables.map(chance).filter(|p| *p <= likely).sum();
    p.min(1.0)
}
