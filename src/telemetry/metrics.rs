//! Every metric, declared once with its help text, and the function that records it.
//!
//! Names end in the unit, counters in `_total`. Labels are bounded: topics, partitions, monitors,
//! models and closed sets of words, never values from the data. Counters are raised once a batch,
//! not once a row. The functions are visible in this crate only, so that the compiler names a metric
//! that nobody records.

use metrics::Counter;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::Error;

/// Seconds, from one transaction on a near database to a shutdown's grace.
const SECONDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// Collects from now on what the functions below record; `/metrics` renders the handle.
///
/// # Errors
/// When metrics are collected already.
pub fn install() -> Result<PrometheusHandle, Error> {
    let handle = builder()?.install_recorder()?;
    describe();
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, Error> {
    let seconds = Matcher::Suffix("_seconds".into());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS)?)
}

/// One line a metric: kind, function, labels, name, help text.
macro_rules! declare {
    ($($kind:ident $function:ident($($label:ident),*) $name:literal $help:literal;)*) => {
        $(declare!(@$kind $function($($label),*) $name $help);)*

        /// Gives every metric its help text.
        fn describe() {
            $(declare!(@describe $kind $name $help);)*
        }

        #[cfg(test)]
        const NAMES: &[(&str, &str)] = &[$((stringify!($kind), $name)),*];
    };
    (@counter $function:ident($($label:ident),*) $name:literal $help:literal) => {
        #[doc = $help]
        pub(crate) fn $function($($label: &str,)* more: u64) {
            metrics::counter!($name $(, stringify!($label) => $label.to_owned())*).increment(more);
        }
    };
    // One that is raised with every batch: to be looked up once and kept.
    (@counter_handle $function:ident($($label:ident),*) $name:literal $help:literal) => {
        #[doc = $help]
        fn $function($($label: &str,)*) -> Counter {
            metrics::counter!($name $(, stringify!($label) => $label.to_owned())*)
        }
    };
    (@gauge $function:ident($($label:ident),*) $name:literal $help:literal) => {
        #[doc = $help]
        pub(crate) fn $function($($label: &str,)* now: f64) {
            metrics::gauge!($name $(, stringify!($label) => $label.to_owned())*).set(now);
        }
    };
    (@histogram $function:ident($($label:ident),*) $name:literal $help:literal) => {
        #[doc = $help]
        pub(crate) fn $function($($label: &str,)* value: f64) {
            metrics::histogram!($name $(, stringify!($label) => $label.to_owned())*).record(value);
        }
    };
    (@describe counter $name:literal $help:literal) => {
        metrics::describe_counter!($name, $help);
    };
    (@describe counter_handle $name:literal $help:literal) => {
        metrics::describe_counter!($name, $help);
    };
    (@describe gauge $name:literal $help:literal) => {
        metrics::describe_gauge!($name, $help);
    };
    (@describe histogram $name:literal $help:literal) => {
        metrics::describe_histogram!($name, $help);
    };
}

declare! {
    counter records(topic) "driftd_records_total"
        "Messages read and saved: read, rejected and skipped ones.";
    counter rejected_messages(topic, reason) "driftd_rejected_messages_total"
        "Messages of which nothing could be used; each is kept with its reason.";
    counter unreadable_batches() "driftd_unreadable_batches_total"
        "How often a batch could not be unpacked; its partition stands still until it can.";
    counter skipped_messages(topic) "driftd_skipped_messages_total"
        "Messages without a payload (tombstones).";
    counter_handle counted_rows(monitor) "driftd_counted_rows_total"
        "Rows that count in a window.";
    counter_handle late_rows(monitor) "driftd_late_rows_total"
        "Rows behind the watermark of their own partition; they change no verdict.";
    counter capped(monitor, cap) "driftd_capped_total"
        "How often one of the limits was met, by its name in the section limits: messages and labels that went beyond it, \
         rows of model versions without a baseline (versions), stretches of windows with more unseen labels \
         than are kept by name (unseen_levels).";
    gauge consumer_lag_records(topic, partition) "driftd_consumer_lag_records"
        "Messages between the last one read and the partition's end.";
    gauge unstable_records(topic, partition) "driftd_unstable_records"
        "Records behind the last stable offset: nobody may read them before a transaction ends.";
    gauge waiting_partitions() "driftd_waiting_partitions"
        "Partitions of this replica that are not read yet: Postgres or the brokers have not answered.";
    gauge watermark_delay_seconds(monitor) "driftd_watermark_delay_seconds"
        "Time from the slowest partition's watermark to now.";
    gauge held_bytes() "driftd_held_bytes"
        "Memory held for what was read and is not saved yet, over all partitions.";
    gauge paused_partitions() "driftd_paused_partitions"
        "Partitions that are not read at the moment, because too much is held.";
    gauge assigned_partitions() "driftd_assigned_partitions"
        "Partitions that this replica reads.";
    gauge open_windows(monitor) "driftd_open_windows"
        "Windows that take rows, over all partitions of this replica.";
    counter checkpoints() "driftd_checkpoints_total"
        "Stretches of partitions that were saved.";
    counter fenced_checkpoints() "driftd_fenced_checkpoints_total"
        "Stretches that were dropped because another replica had taken the partition over.";
    histogram checkpoint_duration_seconds() "driftd_checkpoint_duration_seconds"
        "How long the transaction of a checkpoint took.";
    counter gaps(topic, reason) "driftd_gaps_total"
        "Stretches of the log that were gone before they were read.";
    counter windows_judged(monitor, verdict) "driftd_windows_judged_total"
        "Windows that got a verdict.";
    counter window_failures(monitor) "driftd_window_failures_total"
        "Attempts to judge a window that failed, other than for Postgres being away.";
    histogram judge_duration_seconds() "driftd_judge_duration_seconds"
        "How long a window took from claim to verdict.";
    counter baselines_read() "driftd_baselines_read_total"
        "How often a baseline was read to judge with; it grows with the windows where baselines have too little room.";
    gauge baseline_bytes() "driftd_baseline_bytes"
        "Memory held for baselines that windows are compared with.";
    gauge episodes_open(monitor, kind) "driftd_episodes_open"
        "Alert episodes that fire, by kind (drift, silence, volume), of all replicas, as of the scrape.";
    gauge failures(kind) "driftd_failures"
        "Topics, monitors and windows (of one model version of a monitor) that have stopped, of all replicas, as of the \
         scrape; driftd.failures says why.";
    counter retraining_triggers(model, outcome) "driftd_retraining_triggers_total"
        "Reasons to retrain: enqueued, or the guard that stopped it.";
    gauge jobs(state) "driftd_jobs"
        "Retraining jobs by state, of all replicas, as of the scrape.";
    counter handover_requests(handover, request, outcome) "driftd_handover_requests_total"
        "Requests to orchestrators, by what was asked (start, find, status, cancel) and what came of it.";
    counter handover_runs(handover, outcome) "driftd_handover_runs_total"
        "Attempts of retraining jobs that were handed over: succeeded, failed, cancelled, lost to another worker, or \
         left to be taken over.";
    counter notifications(outcome) "driftd_notifications_total"
        "Messages of the outbox that were sent or could not be.";
    gauge postgres_oldest_transaction_age_seconds() "driftd_postgres_oldest_transaction_age_seconds"
        "Age of the oldest transaction in the database, whoever's it is.";
    gauge postgres_horizon_age_transactions() "driftd_postgres_horizon_age_transactions"
        "Transactions since the oldest one that still keeps dead rows from being removed.";
    gauge postgres_table_bytes(table) "driftd_postgres_table_bytes"
        "What a table of driftd's takes on disk, with its indexes and partitions.";
    gauge postgres_dead_rows(table) "driftd_postgres_dead_rows"
        "Rows of a table of driftd's that vacuum has not removed yet.";
    counter postgres_errors(attempt) "driftd_postgres_errors_total"
        "Transactions that failed, by what was attempted; they are tried again.";
}

/// What is counted for one monitor with every batch of rows.
pub struct MonitorCounters {
    monitor: String,
    counted: Counter,
    late: Counter,
}

impl std::fmt::Debug for MonitorCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MonitorCounters")
            .field(&self.monitor)
            .finish()
    }
}

impl MonitorCounters {
    /// Those of this monitor.
    pub fn new(monitor: &str) -> Self {
        Self {
            monitor: monitor.to_owned(),
            counted: counted_rows(monitor),
            late: late_rows(monitor),
        }
    }

    /// Counts rows, once per window that they belong to, and rows of versions without a baseline.
    pub fn add(&self, counted: u64, late: u64, other: u64) {
        self.counted.increment(counted);
        self.late.increment(late);
        if other > 0 {
            capped(&self.monitor, "versions", other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_habits() {
        let mut seen = std::collections::BTreeSet::new();
        for (kind, name) in NAMES {
            assert!(name.starts_with("driftd_"), "{name}");
            assert_eq!(
                kind.starts_with("counter"),
                name.ends_with("_total"),
                "{name}"
            );
            assert!(*kind != "histogram" || name.ends_with("_seconds"), "{name}");
            assert!(seen.insert(name), "{name} is declared twice");
        }
    }

    #[test]
    fn what_is_recorded_is_rendered() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            records("flights", 7);
            jobs("queued", 2.0);
            checkpoint_duration_seconds(0.02);
        });
        let text = handle.render();
        assert!(
            text.contains("# HELP driftd_records_total Messages read"),
            "{text}"
        );
        assert!(
            text.contains("driftd_records_total{topic=\"flights\"} 7"),
            "{text}"
        );
        assert!(text.contains("driftd_jobs{state=\"queued\"} 2"), "{text}");
        assert!(
            text.contains("driftd_checkpoint_duration_seconds_bucket{le=\"0.025\"} 1"),
            "{text}"
        );
    }
}
