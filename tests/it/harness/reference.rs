//! What has to come out, computed from what went in: one thread, the whole log at once, plain
//! formulas, and not a line of what is tested.
//!
//! Where the daemon keeps counts on bins, this keeps every value; where it merges stretches, this
//! walks each partition from its first message to its last.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;
use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::factorial::ln_binomial;

use super::traffic::{
    ALLOWED_MS, MAX_FUTURE_MS, OUT_OF_ORDERNESS_MS, PARTITIONS, Record, WINDOW_MS,
};

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
/// The tests and their limits on the effect.
pub(crate) const LIMITS: [(&str, f64); 3] = [("ks", 0.1), ("null_rate", 0.05), ("psi", 0.2)];

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
    pub(crate) p_value: f64,
    pub(crate) p_adjusted: f64,
    pub(crate) effect: f64,
    pub(crate) threshold: f64,
    pub(crate) nulls: i64,
    pub(crate) unseen: i64,
    pub(crate) drifted: bool,
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
    pub(crate) windows: Vec<Window>,
    pub(crate) episodes: Vec<Episode>,
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
        Self::compute(log, baseline_csv, false)
    }

    /// The same for a log that has ended: when all partitions are idle, no window waits.
    pub(crate) fn of_ended(log: &[Record], baseline_csv: &str) -> Self {
        Self::compute(log, baseline_csv, true)
    }

    fn compute(log: &[Record], baseline_csv: &str, has_ended: bool) -> Self {
        let mut windows: BTreeMap<i64, Gathered> = BTreeMap::new();
        let mut reference = Self {
            windows: Vec::new(),
            episodes: Vec::new(),
            rejected: Vec::new(),
            messages: Vec::new(),
            skipped: 0,
            counted: 0,
            late: 0,
            waiting: 0,
        };
        let mut least_watermark = i64::MAX;
        for partition in 0..PARTITIONS {
            let watermark = reference.walk(partition, log, &mut windows);
            least_watermark = least_watermark.min(watermark);
        }
        if has_ended {
            let last = windows.keys().next_back();
            least_watermark = last.map_or(i64::MIN, |start| start + WINDOW_MS + ALLOWED_MS);
        }
        let baseline = training_rows(baseline_csv);
        let first = windows
            .iter()
            .find(|(_, gathered)| !gathered.rows.is_empty());
        let mut start_ms = first.map_or(i64::MAX, |(start, _)| *start);
        while start_ms < i64::MAX && start_ms + WINDOW_MS + ALLOWED_MS <= least_watermark {
            let gathered = windows.remove(&start_ms).unwrap_or_default();
            reference
                .windows
                .push(judge(start_ms, &gathered, &baseline));
            start_ms += WINDOW_MS;
        }
        let waiting: usize = windows.values().map(|gathered| gathered.rows.len()).sum();
        reference.waiting = i64::try_from(waiting).unwrap();
        reference.episodes = episodes(&reference.windows);
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
                    let start_ms = event_ms - event_ms.rem_euclid(WINDOW_MS);
                    let window = windows.entry(start_ms).or_default();
                    if start_ms + WINDOW_MS + ALLOWED_MS <= watermark {
                        window.late += 1;
                        self.late += 1;
                    } else {
                        window.rows.push(cells);
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
    let mut scores = Vec::new();
    for (test, limit) in LIMITS {
        let mut family = Vec::new();
        for (at, (feature, number)) in FEATURES.into_iter().enumerate() {
            let before: Vec<&Cell> = baseline.iter().map(|row| &row[at]).collect();
            let now: Vec<&Cell> = rows.iter().map(|row| &row[at]).collect();
            let found = match test {
                "ks" if !number => continue,
                "ks" => ks(&numbers(&before), &numbers(&now)),
                "null_rate" => null_rate(&before, &now),
                _ => psi(&before, &now),
            };
            family.push(Score {
                feature,
                test,
                statistic: found.0,
                p_value: found.1,
                p_adjusted: f64::NAN,
                effect: found.2,
                threshold: limit,
                nulls: absent(&now),
                unseen: unseen(&before, &now),
                drifted: false,
            });
        }
        adjust(&mut family);
        for score in &mut family {
            score.drifted = score.p_adjusted < ALPHA && score.effect > score.threshold;
        }
        scores.extend(family);
    }
    scores.sort_by_key(|score| (score.feature, score.test));
    scores
}

/// Benjamini-Hochberg over the features of one test.
fn adjust(family: &mut [Score]) {
    let p_values: Vec<f64> = family.iter().map(|score| score.p_value).collect();
    let tests = p_values.len() as f64;
    let candidate = |p: f64| {
        let rank = p_values.iter().filter(|other| **other <= p).count();
        p * tests / rank as f64
    };
    for score in family {
        let above = p_values.iter().filter(|p| **p >= score.p_value);
        score.p_adjusted = above.map(|p| candidate(*p)).fold(1.0, f64::min);
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

// --- the tests, by their formulas ----------------------------------------------------------------

/// Statistic, p-value, effect.
pub(crate) type Found = (f64, f64, f64);

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
    (statistic, row[n], statistic)
}

/// PSI on the baseline's deciles or levels, over the rows that have a value.
fn psi(before: &[&Cell], now: &[&Cell]) -> Found {
    let bins = Bins::of(before);
    let present = |cells: &[&Cell]| cells.len() as f64 - absent(cells) as f64;
    let (old, new) = (bins.count(before), bins.count(now));
    let used: Vec<(f64, f64)> = old
        .iter()
        .zip(&new)
        .map(|(a, b)| (*a as f64, *b as f64))
        .filter(|(a, b)| a + b > 0.0)
        .collect();
    let (n, m, size) = (present(before), present(now), used.len() as f64);
    let mut statistic = 0.0;
    for (a, b) in used {
        let p = (a + 0.5) / (n + size / 2.0);
        let q = (b + 0.5) / (m + size / 2.0);
        statistic += (q - p) * (q / p).ln();
    }
    let noise = 1.0 / n + 1.0 / m;
    let p_value = ChiSquared::new(size - 1.0).unwrap().sf(statistic / noise);
    let effect = (statistic - (size - 1.0) * noise).max(0.0);
    (statistic, p_value, effect)
}

enum Bins {
    Deciles(Vec<f64>),
    Levels(Vec<String>),
}

impl Bins {
    fn of(before: &[&Cell]) -> Self {
        let values = numbers(before);
        if values.is_empty() {
            let mut levels: Vec<String> = before
                .iter()
                .filter_map(|cell| match cell {
                    Cell::Label(label) => Some(label.clone()),
                    _ => None,
                })
                .collect();
            levels.sort();
            levels.dedup();
            return Self::Levels(levels);
        }
        let mut deciles: Vec<f64> = (1..10).map(|tenth| decile(&values, tenth)).collect();
        deciles.dedup();
        Self::Deciles(deciles)
    }

    /// The last bin is for labels that are new.
    fn count(&self, cells: &[&Cell]) -> Vec<u64> {
        let size = match self {
            Self::Deciles(deciles) => deciles.len() + 1,
            Self::Levels(levels) => levels.len() + 1,
        };
        let mut counts = vec![0; size];
        for cell in cells {
            let bin = match (self, cell) {
                (Self::Deciles(cuts), Cell::Number(v)) => cuts.iter().filter(|c| **c <= *v).count(),
                (Self::Levels(levels), Cell::Label(label)) => {
                    let found = levels.iter().position(|level| level == label);
                    found.unwrap_or(levels.len())
                }
                _ => continue,
            };
            counts[bin] += 1;
        }
        counts
    }
}

/// Linear between order statistics, as numpy does by default.
fn decile(sorted: &[f64], tenth: usize) -> f64 {
    let place = tenth * (sorted.len() - 1);
    let (at, rest) = (place / 10, place % 10);
    if rest == 0 {
        return sorted[at];
    }
    sorted[at] + (sorted[at + 1] - sorted[at]) * rest as f64 / 10.0
}

/// The share of rows without a value. p by chi-square where every cell of the table may expect
/// five rows, else by Fisher's exact test.
fn null_rate(before: &[&Cell], now: &[&Cell]) -> Found {
    let [n, m] = [before, now].map(|side| side.len() as u64);
    let [old, new] = [before, now].map(|side| absent(side).unsigned_abs());
    let (rate, rate_before) = (new as f64 / m as f64, old as f64 / n as f64);
    let effect = (rate - rate_before).abs();
    let observed = [old, new, n - old, m - new].map(|count| count as f64);
    let share = (observed[0] + observed[1]) / (n + m) as f64;
    let expected = [share, share, 1.0 - share, 1.0 - share];
    let expected: Vec<f64> = expected
        .iter()
        .zip([n, m, n, m])
        .map(|(share, rows)| share * rows as f64)
        .collect();
    if expected.iter().any(|cell| *cell < 5.0) {
        return (rate, fisher(old, n, new, m), effect);
    }
    let cells = observed.iter().zip(expected);
    let statistic: f64 = cells.map(|(o, e)| (o - e).powi(2) / e).sum();
    (rate, ChiSquared::new(1.0).unwrap().sf(statistic), effect)
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
