//! From the fence to the first message: the brokers say which topic and which log is there, and
//! Postgres stores where reading goes on.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::log::{Gap, Log, OpenGap, ReadUpTo, Settlement, Takeover, Topic};
use super::reading::Reading;
use super::start::{self, Missing, Start, StartAt};
use super::{Context, Effect, Event, Partition};
use crate::window::open::MonitorPlan;

/// How long to wait after a question that was not answered.
const ASK_AGAIN_MS: i64 = 300;

/// A partition that was taken over, and what the brokers have said of it so far.
#[derive(Debug)]
pub struct Locating {
    takeover: Takeover,
    fetch_stopped: bool,
    /// The first question about topics that was asked since the takeover.
    topic_question: u64,
    topic: Option<Topic>,
    log: Option<Log>,
    /// When to ask about the log again; `i64::MAX`: a question is on its way, or answered.
    ask_log_ms: i64,
}

impl Locating {
    pub(super) fn begin(
        takeover: Takeover,
        fetch_stopped: bool,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        let mut locating = Self {
            takeover,
            fetch_stopped,
            topic_question: context.next_topic_question,
            topic: None,
            log: None,
            ask_log_ms: i64::MAX,
        };
        effects.push(Effect::AskTopic);
        locating.ask_log(context, effects);
        Partition::Locating(Box::new(locating))
    }

    pub(super) fn wake_ms(&self) -> i64 {
        self.ask_log_ms
    }

    pub(super) fn on(
        mut self: Box<Self>,
        event: Event<'_>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        match event {
            Event::Topic { number, topic } => self.on_topic(number, topic, context, effects),
            Event::Log { log, .. } if self.log.is_none() => {
                self.log = log;
                self.ask_log_ms = match log {
                    Some(_) => i64::MAX,
                    None => context.now + ASK_AGAIN_MS,
                };
            }
            Event::Tick { .. } if context.now >= self.ask_log_ms => self.ask_log(context, effects),
            Event::Tick { .. } if self.ask_log_ms < i64::MAX => {
                // A clock that was set back must not put off what is due.
                self.ask_log_ms = self.ask_log_ms.min(context.now + ASK_AGAIN_MS);
            }
            _ => {}
        }
        match (self.topic.take(), self.log) {
            (Some(topic), Some(log)) => {
                Located::find(self.takeover, self.fetch_stopped, topic, &log, context)
                    .settle(context, effects)
            }
            (topic, _) => {
                self.topic = topic;
                Partition::Locating(self)
            }
        }
    }

    fn ask_log(&mut self, context: &Context<'_>, effects: &mut Vec<Effect>) {
        self.ask_log_ms = i64::MAX;
        let takeover = &self.takeover;
        let read = takeover.next_offset.zip(takeover.leader_epoch);
        effects.push(Effect::AskLog {
            since_ms: match context.policy.start_at {
                StartAt::Timestamp(time) => Some(time.timestamp_millis()),
                StartAt::Earliest | StartAt::Latest => None,
            },
            read: read.map(|(offset, leader_epoch)| ReadUpTo {
                offset,
                leader_epoch,
                fetch_stopped: self.fetch_stopped,
            }),
        });
    }

    /// A broker that lags behind may still name an earlier topic of that name, or not count this
    /// partition yet: then it is asked again.
    fn on_topic(
        &mut self,
        number: u64,
        topic: &Topic,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if number < self.topic_question || self.topic.is_some() {
            return;
        }
        let is_past = |id: &String| self.takeover.past_topic_ids.contains(id);
        if topic.id.as_ref().is_some_and(is_past) || topic.partitions <= context.partition {
            tracing::warn!(
                topic = context.topic,
                partition = context.partition,
                topic.id = topic.id,
                topic.partitions = topic.partitions,
                "a broker describes a topic that was deleted and created again since, or one without \
                 this partition; asking again"
            );
            effects.push(Effect::AskTopic);
            return;
        }
        self.topic = Some(topic.clone());
    }
}

/// A partition of which it is known where reading goes on.
#[derive(Debug)]
pub struct Located {
    takeover: Takeover,
    fetch_stopped: bool,
    topic: Topic,
    start: Start,
}

impl Located {
    fn find(
        takeover: Takeover,
        fetch_stopped: bool,
        topic: Topic,
        log: &Log,
        context: &Context<'_>,
    ) -> Box<Self> {
        // What was added to a topic is read from its first message.
        let start_at = match takeover.added {
            true => StartAt::Earliest,
            false => context.policy.start_at,
        };
        let (read, next) = (&takeover.log, takeover.next_offset);
        let start = start::find(read, next, topic.id.as_deref(), log, start_at);
        Box::new(Self {
            takeover,
            fetch_stopped,
            topic,
            start,
        })
    }

    /// Begins to read; where Postgres has to know something first, when it does.
    fn settle(mut self: Box<Self>, context: &Context<'_>, effects: &mut Vec<Effect>) -> Partition {
        if self.is_stored() {
            let open_gaps = std::mem::take(&mut self.takeover.open_gaps);
            return self.begin(open_gaps, context, effects);
        }
        for missing in &self.start.missing {
            tracing::error!(
                topic = context.topic,
                partition = context.partition,
                generation = missing.generation,
                "{missing}"
            );
        }
        effects.push(Effect::Settle(Box::new(self.settlement(context))));
        Partition::Settling(self)
    }

    pub(super) fn on(
        self: Box<Self>,
        event: Event<'_>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        match event {
            Event::Settled { open_gaps } => self.begin(open_gaps, context, effects),
            Event::GapsRecorded => Partition::stop(self.why_stopped(context), effects),
            Event::Fenced => {
                effects.push(Effect::Pause);
                Partition::fence(false, effects)
            }
            _ => Partition::Settling(self),
        }
    }

    /// Whether Postgres knows all of that already.
    fn is_stored(&self) -> bool {
        let known = &self.takeover.log.topic_id;
        let same_topic = self.topic.id.is_none() || self.topic.id == *known;
        same_topic && self.goes_on()
    }

    /// Whether reading goes on where it ended.
    fn goes_on(&self) -> bool {
        self.start.missing.is_empty() && Some(self.start.offset) == self.takeover.next_offset
    }

    fn begin(
        self: Box<Self>,
        open_gaps: Vec<OpenGap>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Partition {
        // Where the client stopped fetching for the epoch, and no cut was found, the epoch means
        // nothing to these brokers: with it the client would stop again and again.
        let trusts_epoch = self.goes_on() && !self.fetch_stopped;
        let Self {
            mut takeover,
            topic,
            start,
            ..
        } = *self;
        takeover.leader_epoch = takeover.leader_epoch.filter(|_| trusts_epoch);
        takeover.open_gaps = open_gaps;
        takeover.log.topic_id = topic.id.or(takeover.log.topic_id);
        takeover.log.generation = start.generation;
        let reading = Reading::begin(takeover, start.offset, context);
        tracing::info!(
            topic = context.topic,
            partition = context.partition,
            offset = start.offset,
            generation = start.generation,
            epoch = reading.epoch,
            "reading"
        );
        Partition::seek(Box::new(reading), 0, effects)
    }

    fn settlement(&self, context: &Context<'_>) -> Settlement {
        let gap = |missing: &Missing| Gap {
            generation: missing.generation,
            from_offset: missing.from_offset,
            to_offset: missing.to_offset,
            reason: missing.reason.as_str(),
        };
        Settlement {
            topic: context.topic.to_owned(),
            partition: context.partition,
            epoch: self.takeover.epoch,
            expected_offset: self.takeover.next_offset.unwrap_or(-1),
            next_offset: self.start.offset,
            generation: self.start.generation,
            topic_id: self.topic.id.clone(),
            partitions: self.topic.partitions,
            gaps: self.start.missing.iter().map(gap).collect(),
            policy: match context.policy.stops_at_gap {
                true => "stop",
                false => "continue",
            },
            from_starts: self.first_windows(context.monitors),
        }
    }

    fn why_stopped(&self, context: &Context<'_>) -> String {
        let missing = self.start.missing.iter().map(ToString::to_string);
        format!(
            "partition {}: {}. The gap is recorded in driftd.gaps; set `on_gap = \"continue\"` to go on \
             without these messages, or run `driftd reset-partition`",
            context.partition,
            missing.collect::<Vec<_>>().join("; ")
        )
    }

    /// Per monitor, the first window that the event times stored have not closed: from there on
    /// rows of a gap may be missing. `None`: no row was stored, so it may be any window.
    fn first_windows(&self, monitors: &[MonitorPlan]) -> Vec<(i64, Option<DateTime<Utc>>)> {
        let stored: HashMap<i64, i64> = self.takeover.max_event_ms.iter().copied().collect();
        let first = |monitor: &MonitorPlan| {
            let max = stored.get(&monitor.monitor_id)?;
            DateTime::from_timestamp_millis(monitor.spec.first_open(monitor.spec.watermark(*max)))
        };
        let monitors = monitors.iter();
        monitors
            .map(|monitor| (monitor.monitor_id, first(monitor)))
            .collect()
    }
}
