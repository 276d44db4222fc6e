//! Messages of one partition, read one after another, until their rows are handed on.

use super::decode::json::{self, Decoder};
use super::decode::time;
use super::plan::TopicPlan;
use super::reject::{Reason, Rejected};
use crate::batch::{Builder, Cell, NO_TIME, Rows};
use crate::collect::partition::Tally;
use crate::settings::MessageLimits;

/// So much text is profiled at once, whatever the number of rows.
const BATCH_TEXT: usize = 4 << 20;

/// Rows that reach over more windows than this are not gathered into one batch.
const WINDOWS_AT_ONCE: i64 = 16;

/// A message as it comes from Kafka.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its own timestamp in milliseconds, if it has one.
    pub record_ms: Option<i64>,
    /// Its payload; `None`: a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Values of the headers that the plan reads, in the plan's order.
    pub headers: &'a [Option<String>],
}

/// Reads the messages of one partition.
#[derive(Debug)]
pub struct Stretch {
    limits: MessageLimits,
    decoder: Decoder,
    builder: Builder,
    /// Rows that are profiled at once.
    batch_rows: usize,
    /// Event times by clock of the plan.
    times: Vec<EventTimes>,
    /// Rows whose event times are further apart are not gathered into one batch.
    most_span_ms: i64,
    /// What messages left beside rows.
    tally: Tally,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Rows were decoded from it.
    Read,
    /// It is a tombstone.
    Skipped,
    /// No monitor can use it.
    Rejected(Reason),
}

impl Stretch {
    /// Nothing read yet.
    pub fn new(plan: &TopicPlan, limits: MessageLimits) -> Self {
        let batch_rows = plan.plan.batch_rows();
        let builder = Builder::growing(&plan.plan.shapes(), 2 * batch_rows);
        Self {
            limits,
            decoder: Decoder::new(limits),
            builder: builder.cutting(limits.label_bytes),
            batch_rows,
            times: plan.clocks.iter().map(|_| EventTimes::default()).collect(),
            most_span_ms: most_span_ms(plan),
            tally: Tally::default(),
        }
    }

    /// How far apart the event times are that wait, over all monitors.
    fn span_ms(&self) -> i64 {
        let ranges = self.times.iter().filter_map(|times| times.range);
        let spans = ranges.map(|(least, greatest)| greatest.saturating_sub(least));
        spans.max().unwrap_or(0)
    }

    /// Whether so much waits that it has to be handed on.
    pub fn is_full(&self) -> bool {
        self.builder.len() >= self.batch_rows
            || self.builder.text_bytes() > BATCH_TEXT
            || self.span_ms() > self.most_span_ms
    }

    /// What messages left beside rows since this was last asked.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// How many labels were cut since this was last asked.
    pub fn take_cut_labels(&mut self) -> u64 {
        self.builder.take_cut()
    }

    /// Reads one message.
    pub fn take(&mut self, plan: &TopicPlan, message: Message<'_>) -> Taken {
        self.tally.messages += 1;
        let Some(payload) = message.payload else {
            self.tally.skipped += 1;
            return Taken::Skipped;
        };
        if payload.len() > self.limits.bytes {
            let most = self.limits.bytes;
            let detail = format!("{} bytes, at most {most} are read", payload.len());
            return self.reject(plan, &message, payload, Reason::TooLarge, detail);
        }
        match self.decoder.decode(&plan.plan, payload, &mut self.builder) {
            Err(error) => {
                let reason = match error {
                    json::Error::TooDeep(_) => Reason::TooDeep,
                    json::Error::TooManyRows(_) => Reason::TooManyRows,
                    _ => Reason::Unparsable,
                };
                self.reject(plan, &message, payload, reason, error.to_string())
            }
            Ok(rows) => {
                self.write_headers(plan, message.headers, rows);
                self.settle_times(plan, &message, payload, rows)
            }
        }
    }

    /// Hands on what was decoded.
    pub fn finish(&mut self) -> Rows {
        let batch = self.builder.finish();
        let event_ms = self.times.iter_mut().map(EventTimes::finish);
        Rows {
            batch,
            event_ms: event_ms.collect(),
        }
    }

    /// Takes the memory of rows back that were handed on.
    pub fn reuse(&mut self, rows: Rows) {
        let times = self.times.iter_mut().zip(rows.event_ms);
        times.for_each(|(times, ms)| times.reuse(ms, 2 * self.batch_rows));
        self.builder.reuse(rows.batch);
    }

    fn write_headers(&mut self, plan: &TopicPlan, headers: &[Option<String>], rows: usize) {
        let base = self.builder.len();
        for ((_, column), value) in plan.plan.headers().iter().zip(headers) {
            for row in base..base + rows {
                match value {
                    Some(value) => self.builder.text(*column, row, value, Cell::Ok),
                    None => self.builder.absent(*column, row, Cell::Missing),
                }
            }
        }
    }

    /// Finds event times by each clock and counts the rows in, if any monitor can use them.
    fn settle_times(
        &mut self,
        plan: &TopicPlan,
        message: &Message<'_>,
        payload: &[u8],
        rows: usize,
    ) -> Taken {
        let base = self.builder.len();
        let mut usable = rows == 0;
        let mut unusable: Vec<(usize, Reason, String)> = Vec::new();
        for (i, clock) in plan.clocks.iter().enumerate() {
            let mut odd = None;
            for row in base..base + rows {
                let time = match clock.column {
                    Some(column) => self.builder.time_at(column, row),
                    None => message.record_ms.ok_or(Cell::Missing),
                };
                match check_time(time, message.record_ms, clock.max_future_ms) {
                    Ok(ms) => {
                        usable = true;
                        self.times[i].push(ms);
                    }
                    Err(why) => {
                        self.times[i].push(NO_TIME);
                        odd.get_or_insert(why);
                    }
                }
            }
            unusable.extend(odd.map(|(reason, detail)| (i, reason, detail)));
        }
        if !usable && let Some((_, reason, detail)) = unusable.first() {
            let (reason, detail) = (*reason, detail.clone());
            self.times
                .iter_mut()
                .for_each(|times| times.ms.truncate(base));
            self.builder.roll_back(rows);
            return self.reject(plan, message, payload, reason, detail);
        }
        self.builder.keep(message.offset, rows);
        for monitor in &plan.monitors {
            let odd = unusable.iter().find(|(clock, ..)| *clock == monitor.clock);
            if let Some((_, reason, detail)) = odd {
                let keep = monitor.keep_payload.then_some(self.limits.bytes);
                let (offset, name) = (message.offset, &monitor.name);
                let detail = detail.clone();
                let rejected = Rejected::new(offset, name, *reason, detail, payload, keep);
                self.set_aside(rejected);
            }
        }
        Taken::Read
    }

    fn reject(
        &mut self,
        plan: &TopicPlan,
        message: &Message<'_>,
        payload: &[u8],
        reason: Reason,
        detail: String,
    ) -> Taken {
        let keep = plan.monitors.iter().any(|monitor| monitor.keep_payload);
        let keep = keep.then_some(self.limits.bytes);
        self.tally.rejected_messages += 1;
        let rejected = Rejected::new(message.offset, "", reason, detail, payload, keep);
        self.set_aside(rejected);
        Taken::Rejected(reason)
    }

    fn set_aside(&mut self, rejected: Rejected) {
        self.tally.rejected.push(rejected);
    }
}

/// Event times of the rows that wait, by one clock.
#[derive(Debug, Default)]
struct EventTimes {
    /// [`NO_TIME`] where there is none.
    ms: Vec<i64>,
    /// The least and the greatest.
    range: Option<(i64, i64)>,
}

impl EventTimes {
    fn push(&mut self, ms: i64) {
        self.ms.push(ms);
        if ms != NO_TIME {
            let (least, greatest) = self.range.unwrap_or((ms, ms));
            self.range = Some((least.min(ms), greatest.max(ms)));
        }
    }

    fn finish(&mut self) -> Vec<i64> {
        self.range = None;
        std::mem::take(&mut self.ms)
    }

    fn reuse(&mut self, mut ms: Vec<i64>, most_kept: usize) {
        if self.ms.capacity() == 0 && ms.capacity() <= most_kept {
            ms.clear();
            self.ms = ms;
        }
    }
}

/// Rows of a sparse log reach over many windows, each with a profile of its own. Not all of them are
/// opened before the next look at what is held.
fn most_span_ms(plan: &TopicPlan) -> i64 {
    let every = plan.monitors.iter().map(|one| one.spec.every_ms).min();
    every.map_or(i64::MAX, |every| every.saturating_mul(WINDOWS_AT_ONCE))
}

fn check_time(
    time: Result<i64, Cell>,
    record_ms: Option<i64>,
    max_future_ms: i64,
) -> Result<i64, (Reason, String)> {
    // Whatever stands in the message: such a time can be the event's own, and it says nothing of
    // how far ahead another one is.
    if let Some(ms) = record_ms.filter(|ms| !time::is_plausible(*ms)) {
        let detail = format!("the record's own timestamp is {ms} ms, not within 1900 to 2300");
        return Err((Reason::BadTimestamp, detail));
    }
    match time {
        Ok(ms) => match record_ms {
            Some(record) if ms.saturating_sub(record) > max_future_ms => {
                let ahead = (ms - record) / 1000;
                let detail = format!("{ahead} s ahead of the record's own timestamp");
                Err((Reason::FutureTimestamp, detail))
            }
            _ => Ok(ms),
        },
        Err(Cell::Missing | Cell::Null) => {
            Err((Reason::NoTimestamp, "no event time in the message".into()))
        }
        Err(_) => Err((
            Reason::BadTimestamp,
            "the event time cannot be read as a time".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::decode::{Plan, Read, Source};
    use crate::ingest::path::FieldPath;
    use crate::ingest::plan::{TopicPlan, Watched};
    use crate::monitor::TimeUnit;

    fn plan() -> TopicPlan {
        let settings = crate::settings::Settings::from_toml(
            r#"
            kafka.brokers = "localhost:9092"
            postgres.url = "postgres://localhost/driftd"
            [[monitors]]
            name = "m"
            topic = "t"
            model = "x"
            version = { header = "v" }
            timestamp = { path = "t", unit = "ms" }
            lateness = { max_future = "1h" }
            "#,
        )
        .unwrap();
        let input = settings.monitors[0].input.clone().unwrap();
        let mut plan = TopicPlan::new("t");
        let watched = Watched {
            monitor_id: 1,
            name: "m",
            input: &input,
            starts_at_ms: None,
            baselines: vec![],
        };
        plan.add(&watched).unwrap();
        plan
    }

    const SMALL: MessageLimits = MessageLimits {
        bytes: 100,
        depth: 4,
        rows: 3,
        label_bytes: 16,
    };

    #[test]
    fn what_cannot_be_used_is_set_aside_with_its_reason() {
        let plan = plan();
        let mut stretch = Stretch::new(&plan, SMALL);
        let payloads: [(Option<&[u8]>, Taken); 7] = [
            (Some(br#"{"t": 1000}"#), Taken::Read),
            (None, Taken::Skipped),
            (Some(b"garbage"), Taken::Rejected(Reason::Unparsable)),
            (Some(br#"{"x": 1}"#), Taken::Rejected(Reason::NoTimestamp)),
            (
                Some(br#"{"t": "soon"}"#),
                Taken::Rejected(Reason::BadTimestamp),
            ),
            (
                Some(br#"{"t": 4102444800000}"#),
                Taken::Rejected(Reason::FutureTimestamp),
            ),
            (Some(&[b' '; 200]), Taken::Rejected(Reason::TooLarge)),
        ];
        for (offset, (payload, taken)) in payloads.iter().enumerate() {
            let message = Message {
                offset: i64::try_from(offset).unwrap(),
                record_ms: Some(2000),
                payload: *payload,
                headers: &[Some("7".into())],
            };
            assert_eq!(stretch.take(&plan, message), *taken, "offset {offset}");
        }
        assert_eq!(
            (
                stretch.tally.messages,
                stretch.tally.skipped,
                stretch.tally.rejected_messages
            ),
            (7, 1, 5)
        );
        assert_eq!(stretch.tally.rejected.len(), 5);
        let rows = stretch.finish();
        assert_eq!(rows.event_ms, [[1000]]);
        assert_eq!(rows.batch.origins.len(), 1);
    }

    fn take(stretch: &mut Stretch, plan: &TopicPlan, payload: &[u8], record_ms: i64) -> Taken {
        let message = Message {
            offset: stretch.tally.messages,
            record_ms: Some(record_ms),
            payload: Some(payload),
            headers: &[Some("7".into())],
        };
        stretch.take(plan, message)
    }

    /// Each stands between two good messages, which are read as if it were not there.
    #[test]
    fn hostile_messages_cost_only_themselves() {
        use Reason::{BadTimestamp, NoTimestamp, TooDeep, TooLarge, Unparsable};
        let plan = plan();
        let hostile: [(Vec<u8>, Taken); 16] = [
            (vec![b'{'; 50 << 20], Taken::Rejected(TooLarge)),
            (nested("[", 10_000, "]"), Taken::Rejected(TooDeep)),
            (nested("{\"a\":", 10_000, "}"), Taken::Rejected(TooDeep)),
            (vec![b'['; 10_000], Taken::Rejected(TooDeep)),
            (b"{\"t\": 1, \"t\": 2, \"t\": 3000}".into(), Taken::Read),
            (
                b"{\"t\": \"\\u0000\"}".into(),
                Taken::Rejected(BadTimestamp),
            ),
            (b"{\"t\0\": 1}".into(), Taken::Rejected(Unparsable)),
            (b"{\"t\": \"\\ud800\"}".into(), Taken::Rejected(Unparsable)),
            (number("9", 10_000), Taken::Rejected(BadTimestamp)),
            (number("0.", 10_000), Taken::Rejected(Unparsable)),
            (
                b"{\"t\": 9223372036854775807}".into(),
                Taken::Rejected(BadTimestamp),
            ),
            (
                b"{\"t\": -9223372036854775808}".into(),
                Taken::Rejected(BadTimestamp),
            ),
            (b"{\"t\": NaN}".into(), Taken::Rejected(BadTimestamp)),
            (b"{\"t\": -Infinity}".into(), Taken::Rejected(BadTimestamp)),
            ("\u{feff}{\"t\": 3000}".into(), Taken::Rejected(Unparsable)),
            (b"".into(), Taken::Rejected(Unparsable)),
        ];
        let limits = MessageLimits::default();
        let mut stretch = Stretch::new(&plan, limits);
        let good = b"{\"t\": 3000}";
        for (payload, taken) in &hostile {
            assert_eq!(take(&mut stretch, &plan, good, 3000), Taken::Read);
            let named = String::from_utf8_lossy(&payload[..payload.len().min(40)]);
            assert_eq!(take(&mut stretch, &plan, payload, 3000), *taken, "{named}");
        }
        assert_eq!(
            take(&mut stretch, &plan, b"[]", 3000),
            Taken::Rejected(NoTimestamp)
        );
        assert_eq!(take(&mut stretch, &plan, good, 3000), Taken::Read);
        assert_eq!(stretch.tally.rejected_messages, 16);
        let rows = stretch.finish();
        assert_eq!(rows.event_ms, [[3000; 18]]);
        assert_eq!(rows.batch.origins.len(), 18);
    }

    fn nested(open: &str, levels: usize, close: &str) -> Vec<u8> {
        format!("{}1{}", open.repeat(levels), close.repeat(levels)).into()
    }

    fn number(digit: &str, digits: usize) -> Vec<u8> {
        format!("{{\"t\": {}}}", digit.repeat(digits)).into()
    }

    /// It could be the event's own time, and nothing is ahead of it.
    #[test]
    fn a_kafka_timestamp_that_is_none_rejects_its_message() {
        let plan = plan();
        let mut stretch = Stretch::new(&plan, SMALL);
        for record_ms in [i64::MAX, i64::MIN, -1 << 50, 1 << 50] {
            let taken = take(&mut stretch, &plan, b"{\"t\": 3000}", record_ms);
            assert_eq!(taken, Taken::Rejected(Reason::BadTimestamp), "{record_ms}");
        }
        assert_eq!(
            take(&mut stretch, &plan, b"{\"t\": -2000000000000}", -1),
            Taken::Read
        );
        assert_eq!(stretch.finish().event_ms, [[-2_000_000_000_000]]);
    }

    /// Messages that are rejected leave their labels behind until the next batch.
    #[test]
    fn text_of_rejected_messages_is_handed_on_before_it_fills_the_memory() {
        let plan = plan();
        let mut stretch = Stretch::new(&plan, MessageLimits::default());
        let (mut taken, mut most) = (0, 0);
        while taken < 100_000 {
            let headers = [Some(format!("{taken:0250}"))];
            let message = Message {
                offset: taken,
                record_ms: Some(3000),
                payload: Some(b"{}"),
                headers: &headers,
            };
            let rejected = Taken::Rejected(Reason::NoTimestamp);
            assert_eq!(stretch.take(&plan, message), rejected);
            most = most.max(stretch.builder.text_bytes());
            if stretch.is_full() {
                assert_eq!(stretch.finish().batch.origins.len(), 0);
                assert_eq!(stretch.builder.text_bytes(), 0);
            }
            taken += 1;
        }
        assert!(most < BATCH_TEXT + 1000, "{most} bytes");
    }

    #[test]
    fn of_a_payload_no_more_is_kept_than_may_be_read() {
        let mut plan = plan();
        plan.monitors[0].keep_payload = true;
        let mut stretch = Stretch::new(&plan, SMALL);
        take(&mut stretch, &plan, &[b'x'; 5_000], 3000);
        let kept = &stretch.tally.rejected[0];
        assert_eq!(
            (kept.payload_bytes, kept.payload.as_ref().map(Vec::len)),
            (5_000, Some(100))
        );
    }

    #[test]
    fn a_plan_shares_columns_between_monitors() {
        let mut plan = Plan::default();
        let path = FieldPath::parse("a").unwrap();
        let first = plan.add(Source::Field(path.clone()), Read::Number).unwrap();
        let again = plan.add(Source::Field(path.clone()), Read::Number).unwrap();
        let other = plan
            .add(Source::Field(path), Read::Time(TimeUnit::Ms))
            .unwrap();
        assert_eq!((first, again, other), (0, 0, 1));
    }
}
