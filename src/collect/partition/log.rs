//! What is known of a partition's log: by the brokers, by Postgres, and what the two have to tell
//! each other. Plain data, for the state machine and for those who do its work.

use chrono::{DateTime, Utc};

use crate::ingest::reject::Rejected;

/// One log under the name of a partition. Offsets are compared within one log only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogId {
    /// How many logs there were under this name, this one included.
    pub generation: i64,
    /// Kafka's id of the topic; `None`: not known.
    pub topic_id: Option<String>,
}

impl LogId {
    /// Whether a topic of this id is another one. Where one of the ids is not known, nothing is
    /// concluded.
    pub fn is_other_topic(&self, topic_id: Option<&str>) -> bool {
        matches!((self.topic_id.as_deref(), topic_id), (Some(ours), Some(theirs)) if ours != theirs)
    }
}

/// A topic as a broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Kafka's own id; `None`: the brokers are too old to have one.
    pub id: Option<String>,
    /// How many partitions it has.
    pub partitions: i32,
}

/// The ends of a partition's log at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The first offset that is kept.
    pub low: i64,
    /// The offset behind the last one, whether or not its transaction has ended.
    pub high: i64,
    /// The first offset with a timestamp not before the one asked for; `None`: there is none, or
    /// it was not asked for.
    pub since: Option<i64>,
    /// The log was cut here and written on, below an offset up to which it was read; `None`:
    /// nothing tells of that, or it was not asked for.
    pub diverges_at: Option<i64>,
}

/// How far a partition was read, and under which leader that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadUpTo {
    /// The offset behind it.
    pub offset: i64,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The client would not go on from there.
    pub fetch_stopped: bool,
}

/// How many partitions a topic has, by the brokers' word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Topic.
    pub topic: String,
    /// Kafka's id of it; `None`: the brokers have none.
    pub topic_id: Option<String>,
    /// Its partitions.
    pub partitions: i32,
}

/// Messages that were gone before they were read, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Which log under the partition's name.
    pub generation: i64,
    /// The first offset that could not be read.
    pub from_offset: i64,
    /// The first that can be read again; `None`: nobody knows how far that log reached.
    pub to_offset: Option<i64>,
    /// `retention`, `truncated`, `recreated`.
    pub reason: &'static str,
}

/// A gap of which it is not known yet behind which window it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenGap {
    /// The gap.
    pub gap_id: i64,
    /// The monitor whose windows they are.
    pub monitor_id: i64,
}

/// What Postgres knows of a partition that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// The fence: checkpoints of an earlier epoch are refused from now on.
    pub epoch: i64,
    /// Where reading goes on; `None`: the partition was never read.
    pub next_offset: Option<i64>,
    /// The log that this offset is in.
    pub log: LogId,
    /// The leader epoch of the last message before the offset; `None`: not known.
    pub leader_epoch: Option<i32>,
    /// Ids of earlier topics of that name.
    pub past_topic_ids: Vec<String>,
    /// It was added to a topic that driftd had seen before.
    pub added: bool,
    /// Gaps behind which no message was read yet.
    pub open_gaps: Vec<OpenGap>,
    /// Greatest event time stored per monitor, in milliseconds.
    pub max_event_ms: Vec<(i64, i64)>,
}

/// Where reading a partition goes on, stored before the first message is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The epoch the partition was taken over with.
    pub epoch: i64,
    /// The offset that Postgres has to have, -1 for a partition that was never read.
    pub expected_offset: i64,
    /// Where reading goes on ...
    pub next_offset: i64,
    /// ... in this log.
    pub generation: i64,
    /// Kafka's id of the topic; `None`: not known, what is stored stays.
    pub topic_id: Option<String>,
    /// How many partitions it has.
    pub partitions: i32,
    /// What could not be read before that.
    pub gaps: Vec<Gap>,
    /// What is to be done about gaps: `stop` or `continue`.
    pub policy: &'static str,
    /// Per monitor, the first window that may lack rows for them; `None`: the first there is.
    pub from_starts: Vec<(i64, Option<DateTime<Utc>>)>,
}

impl Settlement {
    /// Whether the gaps alone are recorded, and reading stands before them.
    pub fn stops(&self) -> bool {
        self.policy == "stop" && !self.gaps.is_empty()
    }
}

/// A stretch of a partition with all that it adds, and how far the partition was read with it. `D`
/// is what it adds to a window: a profile, or its stored form.
#[derive(Debug, Clone)]
pub struct Checkpoint<D> {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The epoch the partition was taken over with.
    pub epoch: i64,
    /// The first offset of the stretch, and the one that Postgres has to have.
    pub first_offset: i64,
    /// The offset after it.
    pub next_offset: i64,
    /// The leader epoch of the last message before that, where it is known.
    pub leader_epoch: Option<i32>,
    /// Which log under the partition's name it was read from.
    pub generation: i64,
    /// How many partitions the topic has, where that is news: no window ripens without the new
    /// ones once what was read here is saved.
    pub count: Option<Count>,
    /// Gaps behind which it has the first message, with the first window that is whole again.
    pub closed_gaps: Vec<(OpenGap, DateTime<Utc>)>,
    /// Messages in it.
    pub messages: i64,
    /// Messages that no monitor could use.
    pub rejected_messages: i64,
    /// Tombstones.
    pub skipped: i64,
    /// What was set aside.
    pub rejected: Vec<Rejected>,
    /// Greatest event time per monitor.
    pub max_event_times: Vec<(i64, DateTime<Utc>)>,
    /// What it adds to windows.
    pub deltas: Vec<D>,
    /// Since when the partition is caught up and quiet.
    pub idle_since: Option<DateTime<Utc>>,
    /// When the brokers were asked whose answer has confirmed that last.
    pub idle_confirmed_at: Option<DateTime<Utc>>,
    /// The partition was idle at the last checkpoint: windows may have been judged without it.
    pub was_idle: bool,
}

impl<D> Checkpoint<D> {
    /// Whether anything was read: one without a stretch tells only whether the partition is idle.
    pub fn has_stretch(&self) -> bool {
        self.first_offset < self.next_offset
    }

    /// The same with the other form of what it adds.
    ///
    /// # Errors
    /// That of the conversion.
    pub fn try_map<E, T>(
        self,
        mut convert: impl FnMut(D) -> Result<T, E>,
    ) -> Result<Checkpoint<T>, E> {
        let deltas = self.deltas.into_iter().map(&mut convert);
        Ok(Checkpoint {
            deltas: deltas.collect::<Result<_, E>>()?,
            topic: self.topic,
            partition: self.partition,
            epoch: self.epoch,
            first_offset: self.first_offset,
            next_offset: self.next_offset,
            leader_epoch: self.leader_epoch,
            generation: self.generation,
            count: self.count,
            closed_gaps: self.closed_gaps,
            messages: self.messages,
            rejected_messages: self.rejected_messages,
            skipped: self.skipped,
            rejected: self.rejected,
            max_event_times: self.max_event_times,
            idle_since: self.idle_since,
            idle_confirmed_at: self.idle_confirmed_at,
            was_idle: self.was_idle,
        })
    }
}
