//! The messages that are measured: about 500 bytes of JSON, 27 fields, of which 14 floats, 6
//! integers and 5 labels are watched; beside them an id and the event time.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use driftd::baseline::{Baseline, Origin};
use driftd::batch::{Batch, Builder, NO_TIME, Selection, Slice};
use driftd::ingest::decode::json::Decoder;
use driftd::ingest::decode::{Plan, Read, Source};
use driftd::ingest::path::FieldPath;
use driftd::ingest::plan::{TopicPlan, Watched};
use driftd::monitor::{Kind, Monitor};
use driftd::profile::sample::{self, Provenance, RowHash, mix};
use driftd::profile::{Bins, FeatureLayout, Grid, Layout, Levels, Profile};
use driftd::settings::Settings;

/// When the first row happened; a full hour.
pub(crate) const START_MS: i64 = 1_700_000_400_000 - 1_700_000_400_000 % 3_600_000;
/// Rows of training data.
pub(crate) const BASELINE_ROWS: usize = 100_000;
/// The topic, the monitor and the model.
pub(crate) const NAME: &str = "bench";

/// Row `i` as JSON, `apart_ms` after the row before it.
pub(crate) fn payload(i: usize, apart_ms: f64) -> Vec<u8> {
    let uniform = |field: usize| mix(mix(i as u64) ^ field as u64) as f64 / 2f64.powi(64);
    let mut text = format!("{{\"id\":\"r{i:09}\"");
    for field in 0..14 {
        let value = 100.0 * (uniform(field) + uniform(field + 100) + uniform(field + 200)) / 3.0;
        text += &format!(",\"value_{field:02}\":{value:.4}");
    }
    for field in 0..6 {
        let value = (10f64.powf(5.0 * uniform(field + 20))).floor();
        text += &format!(",\"count_{field}\":{value:.0}");
    }
    for field in 0..5 {
        // The lower levels are the more frequent ones.
        let level = (uniform(field + 40).powi(2) * (4.0 + 10.0 * field as f64)).floor();
        text += &format!(",\"label_{field}\":\"level{level:02}\"");
    }
    let ms = START_MS as f64 + i as f64 * apart_ms;
    text += &format!(",\"event_time\":{ms:.0}}}");
    text.into_bytes()
}

/// So many rows.
pub(crate) fn payloads(rows: usize) -> Vec<Vec<u8>> {
    (0..rows).map(|i| payload(i, 1.0)).collect()
}

/// Nested messages of about 364 bytes, of which six leaves are read.
pub(crate) fn nested(rows: usize) -> Vec<Vec<u8>> {
    let one = |i: i64| {
        let x = mix(i.unsigned_abs()) as f64 / 2f64.powi(64);
        format!(
            "{{\"meta\":{{\"id\":\"r{i:09}\",\"model\":{{\"name\":\"fraud\",\"version\":\"3\"}},\
             \"host\":\"scoring-7.example.org\",\"trace\":\"4bf92f3577b34da6a3ce929d0e0e4736\"}},\
             \"event\":{{\"time\":{},\"source\":\"checkout\",\"retries\":0}},\
             \"data\":{{\"customer\":{{\"age\":{},\"country\":\"NL\",\"since\":2017}},\
             \"order\":{{\"amount\":{:.4},\"items\":[{{\"price\":{:.4}}},{{\"price\":{:.4}}}],\
             \"currency\":\"EUR\"}}}},\"prediction\":{{\"score\":{x:.6},\"accepted\":true}}}}",
            START_MS + i,
            18 + i % 70,
            x * 100.0,
            x * 60.0,
            x * 40.0
        )
        .into_bytes()
    };
    (0..).take(rows).map(one).collect()
}

/// The paths that are read of the nested messages.
pub(crate) const NESTED: [(&str, bool); 6] = [
    ("meta.model.version", false),
    ("data.customer.age", true),
    ("data.customer.country", false),
    ("data.order.amount", true),
    ("data.order.items[1].price", true),
    ("prediction.score", true),
];

/// The watched fields, each with whether it is a number.
pub(crate) fn features() -> Vec<(String, bool)> {
    let values = (0..14).map(|i| (format!("value_{i:02}"), true));
    let counts = (0..6).map(|i| (format!("count_{i}"), true));
    let labels = (0..5).map(|i| (format!("label_{i}"), false));
    values.chain(counts).chain(labels).collect()
}

/// A plan that reads these fields.
pub(crate) fn plan<'a>(fields: impl IntoIterator<Item = (&'a str, bool)>) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    for (path, number) in fields {
        let read = if number {
            Read::Number
        } else {
            let plain_numbers = false;
            Read::Text { plain_numbers }
        };
        plan.add(Source::Field(FieldPath::parse(path)?), read)?;
    }
    Ok(plan)
}

/// A baseline of rows like these, with all of them as its sample.
pub(crate) fn baseline() -> anyhow::Result<Baseline> {
    let names = features();
    let plan = plan(names.iter().map(|(name, number)| (&**name, *number)))?;
    let batch = decode(&plan, &payloads(BASELINE_ROWS))?;
    let mut features = Vec::new();
    for (column, (name, number)) in names.iter().enumerate() {
        let bins = if *number {
            let array = batch.array(column);
            let mut sorted = array.as_primitive::<Float64Type>().values().to_vec();
            sorted.sort_by(f64::total_cmp);
            Bins::Grid(Grid::from_sorted(
                &sorted,
                sorted[0],
                sorted[sorted.len() - 1],
            ))
        } else {
            let Slice::Text(_, texts) = batch.values(column) else {
                anyhow::bail!("labels are texts");
            };
            let levels = (0..texts.len()).map(|code| texts.get(code).to_owned());
            Bins::Levels(Levels::new(levels.collect()))
        };
        let kind = if *number {
            Kind::Numeric
        } else {
            Kind::Categorical
        };
        features.push(FeatureLayout {
            name: name.clone(),
            kind,
            plain_numbers: false,
            dimension: 0,
            bins,
        });
    }
    let layout = Layout { features };
    let columns: Vec<usize> = (0..names.len()).collect();
    let all = Selection::all(&batch);
    let mut profile = Profile::empty(&layout, BASELINE_ROWS);
    profile.add(&layout, &batch, &columns, all);
    let event_ms = vec![NO_TIME; BASELINE_ROWS];
    let from = Provenance {
        partition: 0,
        hash: RowHash::new(1, 0),
        event_ms: &event_ms,
    };
    let schema = sample::schema(&layout);
    profile.sample.add(&schema, &batch, &columns, all, from);
    let origin = Origin {
        training_data_digest: "00".repeat(32),
        files: vec!["bench".into()],
        time_column: None,
        time_range: None,
    };
    Ok(Baseline::new(
        NAME.into(),
        "1".into(),
        layout,
        profile,
        origin,
    )?)
}

fn decode(plan: &Plan, payloads: &[Vec<u8>]) -> anyhow::Result<Batch> {
    let mut decoder = Decoder::default();
    let mut builder = Builder::new(&plan.shapes(), payloads.len());
    for (offset, payload) in payloads.iter().enumerate() {
        let rows = decoder.decode(plan, payload, &mut builder)?;
        builder.keep(i64::try_from(offset)?, rows);
    }
    Ok(builder.finish())
}

/// The settings of the one monitor, with a broker and a database.
pub(crate) fn settings(
    brokers: &str,
    postgres: &str,
    sample_rows: usize,
) -> anyhow::Result<Settings> {
    let names: HashMap<_, _> = [
        ("BROKERS", brokers.to_owned()),
        ("POSTGRES", postgres.to_owned()),
        ("NAME", NAME.to_owned()),
        ("SAMPLE", sample_rows.to_string()),
    ]
    .into();
    let mut text = r#"
        kafka.brokers = "BROKERS"
        kafka.group = "NAME-SAMPLE"
        postgres.url = "POSTGRES"
        # The shortest interval of the defaults; a window of an hour alone would give 36 s.
        checkpoint = { min_interval = "5s", max_interval = "5s" }
        [[monitors]]
        name = "NAME"
        topic = "NAME"
        model = "NAME"
        version = "1"
        timestamp = "event_time"
        window = "1h"
        sample_rows = SAMPLE
        lateness = { out_of_orderness = "1h" }
    "#
    .to_owned();
    for (name, value) in names {
        text = text.replace(name, &value);
    }
    Ok(Settings::from_toml(&text)?)
}

/// How the topic of the monitor is read.
pub(crate) fn topic_plan(
    monitor: &Monitor,
    monitor_id: i64,
    baseline: &Arc<Baseline>,
) -> anyhow::Result<TopicPlan> {
    let mut plan = TopicPlan::new(NAME);
    plan.add(&Watched {
        monitor_id,
        name: NAME,
        input: monitor.input.as_ref().context("a monitor with a topic")?,
        starts_at_ms: None,
        baselines: vec![Arc::new(baseline.outline())],
    })?;
    Ok(plan)
}
