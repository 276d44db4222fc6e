//! What the collect half tells of itself.

use std::collections::HashMap;

use super::Collector;
use crate::telemetry::metrics;

impl Collector {
    pub(super) fn tell_gauges(&mut self, now: i64) {
        let mut open: HashMap<&str, (usize, Option<i64>)> = HashMap::new();
        for partition in self.partitions.values() {
            for (monitor, windows) in partition.plan.monitors.iter().zip(&partition.windows) {
                let (count, watermark) = open.entry(&monitor.name).or_default();
                *count += windows.len();
                if let Some(max) = windows.progress.max_event_ms {
                    let mine = monitor.spec.watermark(max);
                    *watermark = Some(watermark.map_or(mine, |least| least.min(mine)));
                }
            }
        }
        for (monitor, (count, watermark)) in open {
            metrics::open_windows(monitor, count as f64);
            if let Some(watermark) = watermark {
                metrics::watermark_delay_seconds(monitor, (now - watermark) as f64 / 1e3);
            }
        }
        let reading = self.partitions.values().filter(|p| p.is_reading()).count();
        metrics::waiting_partitions((self.partitions.len() - reading) as f64);
        if !self.announced && !self.partitions.is_empty() {
            self.announced = true;
            tracing::info!(partitions = self.partitions.len(), "collecting");
        }
    }
}
