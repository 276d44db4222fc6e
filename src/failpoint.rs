//! Places at which a test can end the process, as a power cut would: at every boundary between two
//! steps of which the second must not be missing, or happen twice, when the first has happened.
//!
//! They are there only where the feature `failpoints` is: a release has none. The environment
//! chooses, in the syntax of the crate `fail`: `FAILPOINTS='checkpoint.committed=3*off->return'`
//! ends the process when it is there for the fourth time.

/// The places, each with its name and what of the work is done there.
macro_rules! failpoints {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place at which a test can end the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Failpoint {
            $($(#[$doc])* $point,)*
        }

        #[cfg(feature = "failpoints")]
        impl Failpoint {
            /// All of them, in the order in which a message comes by.
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// How the environment and the log call it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

failpoints! {
    /// A partition is ours by the group's word only.
    BeforeTakeOver = "take_over.before",
    /// Postgres knows us as its owner; we do not know yet where to go on.
    TakenOver = "take_over.done",
    /// Where reading goes on, and whether the log has a gap there, is known to us only.
    BeforeSettle = "start.before_settle",
    /// Gaps before that are recorded, which says nothing before the commit.
    GapsRecorded = "start.gaps",
    /// Where reading goes on is written, and not durable.
    BeforeSettleCommit = "start.before_commit",
    /// It is stored, and reading has not gone on.
    Settled = "start.settled",
    /// Messages came from Kafka, and none was looked at.
    Polled = "collect.polled",
    /// Rows are decoded, and in no profile.
    Decoded = "collect.decoded",
    /// Rows are in profiles, in memory only.
    HandedOn = "collect.handed_on",
    /// A stretch has to be saved and is not cut off yet.
    BeforeCut = "collect.before_cut",
    /// It is cut off, and nobody was asked to save it.
    Cut = "collect.cut",
    /// The transaction of a checkpoint is open and empty.
    CheckpointBegun = "checkpoint.begun",
    /// The stored offset is moved on, which says nothing before the commit.
    CheckpointAdvanced = "checkpoint.advanced",
    /// The stretch is inserted.
    CheckpointInserted = "checkpoint.inserted",
    /// What could not be read is inserted.
    CheckpointRejected = "checkpoint.rejected",
    /// The watermarks are moved on.
    CheckpointWatermarks = "checkpoint.watermarks",
    /// The judge is held off.
    CheckpointLocked = "checkpoint.locked",
    /// The lines of windows are moved on.
    CheckpointLines = "checkpoint.lines",
    /// The deltas are inserted.
    CheckpointDeltas = "checkpoint.deltas",
    /// Everything is written, nothing is durable.
    BeforeCheckpointCommit = "checkpoint.before_commit",
    /// Everything is durable, and the collect half does not know.
    CheckpointCommitted = "checkpoint.committed",
    /// The collect half knows; Kafka was not told how far we are.
    BeforeKafkaCommit = "kafka.before_commit",
    /// A window is ours while its transaction lasts.
    WindowClaimed = "judge.claimed",
    /// Its deltas are read.
    WindowGathered = "judge.gathered",
    /// It has a verdict, in memory only.
    WindowCompared = "judge.compared",
    /// The window is inserted.
    WindowInserted = "judge.window",
    /// Its scores are.
    ScoresInserted = "judge.scores",
    /// Where they come from is.
    ContributionsInserted = "judge.contributions",
    /// Its profile is.
    ProfileInserted = "judge.profile",
    /// Its alert is opened, continued or resolved.
    EpisodeChanged = "judge.episode",
    /// The alert's history says so.
    EpisodeNoted = "judge.noted",
    /// The message about it is in the outbox.
    MessageWritten = "judge.message",
    /// The alert asks for retraining.
    BeforeEnqueue = "judge.before_enqueue",
    /// The job is enqueued, or the trigger joined to one.
    Enqueued = "judge.enqueued",
    /// The line of windows is moved on: everything is written, nothing is durable.
    BeforeWindowCommit = "judge.before_commit",
    /// The window is judged for good.
    WindowCommitted = "judge.committed",
    /// Messages are taken from the outbox, none is delivered.
    BeforeDelivery = "outbox.before_delivery",
    /// One is delivered, and not marked so.
    Delivered = "outbox.delivered",
    /// One is delivered and marked.
    DeliveryMarked = "outbox.marked",
}

/// Reads from the environment at which places to end; called once, at the start.
pub fn arm() {
    #[cfg(feature = "failpoints")]
    // The scenario is the process's own: it lasts as long.
    std::mem::forget(fail::FailScenario::setup());
}

/// Ends the process here, if the environment says so.
pub fn reached(point: Failpoint) {
    #[cfg(feature = "failpoints")]
    if fail::eval(point.name(), |_| ()).is_some() {
        eprintln!("ended at failpoint {}", point.name());
        std::process::abort();
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}
