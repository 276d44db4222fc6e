//! What the demo adds up to.

use std::net::SocketAddr;

use anyhow::Context;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

use super::DAY_MS;
use super::flights::Planted;
use crate::baseline::import::Imported;
use crate::compare::{chi2, psi};
use crate::decide::rule::{self, Answers, Calendar, Rule};
use crate::window::Spec;

/// On how many of the baseline's own days each rule would have alarmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct BaselineDays {
    pub(super) days: usize,
    rule: usize,
    chi2_bonferroni: usize,
    psi_02: usize,
}

/// Computes, on the spot, what fixed thresholds say of the training data itself.
pub(super) fn baseline_days(made: &Imported) -> anyhow::Result<BaselineDays> {
    let slots = made.slots.as_ref().context("no event times")?;
    let windows = slots.windows(&ONE_DAY)?;
    let (features, days) = (slots.asking.features.len(), windows.len());
    let level = 0.05 / features as f64;
    let (mut by_chi2, mut by_psi) = (vec![false; days], vec![false; days]);
    for feature in 0..features {
        let counts = |window: &Answers| {
            let tally = &window.features[feature];
            let absent = tally.null + tally.missing + tally.wrong_type;
            [tally.groups.clone(), vec![absent]].concat()
        };
        let by_day: Vec<Vec<u64>> = windows.iter().map(counts).collect();
        let bins = by_day.first().map_or(0, Vec::len);
        let total: Vec<u64> = (0..bins)
            .map(|bin| by_day.iter().map(|day| day[bin]).sum())
            .collect();
        for (day, counts) in by_day.iter().enumerate() {
            let p = chi2::homogeneity(&total, counts)
                .ok()
                .and_then(|outcome| outcome.p_value);
            by_chi2[day] |= p.is_some_and(|p| p < level);
            by_psi[day] |= psi::counts(&total, counts).is_ok_and(|outcome| outcome.statistic > 0.2);
        }
    }
    let calendar = Calendar {
        every_ms: DAY_MS,
        time_zone: Tz::UTC,
    };
    let limits = vec![rule::usual_limits(); features + 2];
    let rule = Rule::learn(slots.asking.clone(), calendar, &windows, 1.0 / 30.0, limits)?;
    Ok(BaselineDays {
        days,
        rule: rule.replayed(),
        chi2_bonferroni: by_chi2.into_iter().filter(|alarmed| *alarmed).count(),
        psi_02: by_psi.into_iter().filter(|alarmed| *alarmed).count(),
    })
}

const ONE_DAY: Spec = Spec::tumbling(DAY_MS, Tz::UTC);

/// A job in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Job {
    reason: String,
    model: String,
    version: Option<String>,
    state: String,
}

/// The demo in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    rows: i64,
    counted: i64,
    rejected: i64,
    late: i64,
    tombstones: i64,
    rejected_by_reason: Value,
    planted: Planted,
    windows: i64,
    drifted_windows: i64,
    episodes: i64,
    first_drift: Option<DateTime<Utc>>,
    top_features: Vec<String>,
    baseline_days_alarmed: BaselineDays,
    jobs: Vec<Job>,
    versions: Vec<Version>,
    seconds: f64,
    rows_per_second: f64,
}

/// Reads the numbers from the tables.
pub(super) async fn of(
    pool: &PgPool,
    planted: &Planted,
    baseline_days_alarmed: BaselineDays,
    seconds: f64,
) -> anyhow::Result<Report> {
    let (messages, rejected, tombstones): (i64, i64, i64) = sqlx::query_as(
        "select coalesce(sum(messages), 0)::bigint, coalesce(sum(rejected), 0)::bigint,
            coalesce(sum(skipped), 0)::bigint from driftd.checkpoints",
    )
    .fetch_one(pool)
    .await?;
    let (windows, drifted_windows, counted): (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where verdict = 'drifted'),
            coalesce(sum(rows), 0)::bigint from driftd.windows",
    )
    .fetch_one(pool)
    .await?;
    let late: i64 = sqlx::query_scalar(
        "select ((select coalesce(sum(late + late_after_idle), 0) from driftd.windows)
            + (select coalesce(sum(late + late_after_idle), 0) from driftd.rows_without_window)
            + (select coalesce(sum(late), 0) from driftd.waiting_rows))::bigint",
    )
    .fetch_one(pool)
    .await?;
    let reasons: Value = sqlx::query_scalar(
        "select coalesce(jsonb_object_agg(reason, n), '{}') from
            (select reason, count(*) as n from driftd.rejected_messages group by reason) r",
    )
    .fetch_one(pool)
    .await?;
    let episodes: Vec<(DateTime<Utc>, Value)> = sqlx::query_as(
        "select first_window, top_features from driftd.alert_episodes
         where kind = 'drift' order by episode_id",
    )
    .fetch_all(pool)
    .await?;
    let top = episodes.first().and_then(|(_, top)| top.as_array());
    let rows = messages - tombstones;
    Ok(Report {
        rows,
        counted,
        rejected,
        late,
        tombstones,
        rejected_by_reason: reasons,
        planted: *planted,
        windows,
        drifted_windows,
        episodes: i64::try_from(episodes.len())?,
        first_drift: episodes.first().map(|(first, _)| *first),
        top_features: top
            .into_iter()
            .flatten()
            .filter_map(|one| one["feature"].as_str())
            .map(str::to_owned)
            .collect(),
        baseline_days_alarmed,
        jobs: jobs(pool).await?,
        versions: versions(pool).await?,
        seconds,
        rows_per_second: rows as f64 / seconds,
    })
}

/// What was said of the inputs of a version.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub(super) struct Version {
    version: String,
    stage: Option<String>,
    windows: i64,
    drifted_windows: i64,
    /// Mean share of drifted features over its first ten windows, right after it came into service.
    drifted_share_of_first_10: f64,
    /// The same of its last ten, right before the next version did.
    drifted_share_of_last_10: f64,
    first_window: DateTime<Utc>,
    last_window: DateTime<Utc>,
}

impl Version {
    fn text(&self) -> String {
        let day = |at: DateTime<Utc>| at.format("%Y-%m-%d");
        format!(
            "version {}    {} to {}: {} windows; features drifted {:.0} % in its first ten, {:.0} % in its last ten\n",
            self.version,
            day(self.first_window),
            day(self.last_window),
            self.windows,
            self.drifted_share_of_first_10 * 100.0,
            self.drifted_share_of_last_10 * 100.0,
        )
    }
}

async fn versions(pool: &PgPool) -> anyhow::Result<Vec<Version>> {
    Ok(sqlx::query_as(
        "select w.version, v.stage, count(*) as windows,
            count(*) filter (where verdict = 'drifted') as drifted_windows,
            avg(drifted_share) filter (where place <= 10) as drifted_share_of_first_10,
            avg(drifted_share) filter (where from_end <= 10) as drifted_share_of_last_10,
            min(window_start) as first_window, max(window_start) as last_window
        from (select version, verdict, window_start, drifted_share,
                row_number() over (partition by version order by window_start) as place,
                row_number() over (partition by version order by window_start desc) as from_end
              from driftd.windows) w
            left join driftd.model_versions v on v.model = 'flight-delay' and v.version = w.version
        group by w.version, v.stage order by w.version",
    )
    .fetch_all(pool)
    .await?)
}

async fn jobs(pool: &PgPool) -> anyhow::Result<Vec<Job>> {
    let rows: Vec<(String, String, Option<String>, String)> = sqlx::query_as(
        "select coalesce(reasons -> 0 ->> 'kind', ''), model, version, state::text
        from driftd.retraining_jobs order by job_id",
    )
    .fetch_all(pool)
    .await?;
    let job = |(reason, model, version, state)| Job {
        reason,
        model,
        version,
        state,
    };
    Ok(rows.into_iter().map(job).collect())
}

impl Report {
    /// For people.
    pub(super) fn text(&self) -> String {
        let days = &self.baseline_days_alarmed;
        let first = self
            .first_drift
            .map_or("never".into(), |at| at.format("%Y-%m-%d").to_string());
        let adds_up = self.rows == self.counted + self.rejected + self.late;
        let jobs: Vec<String> = self
            .jobs
            .iter()
            .map(|job| {
                let version = job.version.as_deref().unwrap_or("-");
                format!(
                    "{} version {version} ({}, {})",
                    job.model, job.reason, job.state
                )
            })
            .collect();
        let versions = match self.versions.as_slice() {
            [] | [_] => String::new(),
            several => several.iter().map(Version::text).collect(),
        };
        format!(
            "
rows in      {} = {} counted + {} rejected + {} late{}; {} tombstones beside
rejected     {}
planted      {}
windows      {} of {} day, {} drifted
first drift  {first}: {}
episodes     {}
jobs         {}
{versions}baseline     alarms on its own {} days: chi-square with Bonferroni 5% {}, PSI > 0.2 {}, driftd {}
speed        {:.1} s, {:.0} rows/s from broker to verdict
",
            self.rows,
            self.counted,
            self.rejected,
            self.late,
            if adds_up { "" } else { " (DOES NOT ADD UP)" },
            self.tombstones,
            self.rejected_by_reason,
            serde_json::to_string(&self.planted).unwrap_or_default(),
            self.windows,
            DAY_MS / 86_400_000,
            self.drifted_windows,
            self.top_features.join(", "),
            self.episodes,
            jobs.join("; "),
            days.days,
            days.chi2_bonferroni,
            days.psi_02,
            days.rule,
            self.seconds,
            self.rows_per_second,
        )
    }
}

/// Where to go on from here.
pub(super) fn where_to_look(url: &str, listen: SocketAddr) -> String {
    format!(
        "
Postgres     psql '{url}'
Metrics      http://{listen}/metrics

Try:
  -- which features drifted most often?
  select feature, count(*) from driftd.drift_history where drifted group by 1 order by 2 desc;
  -- how did one of them move?
  select window_start::date, effect, sentence, drifted from driftd.drift_history
    where feature = 'dest' and test = 'rule' order by 1;
  -- what is queued, and why?
  select job_id, model, version, state, reasons -> 0 ->> 'kind' as why from driftd.job_queue;

Serving on. Ctrl-C ends.
"
    )
}
