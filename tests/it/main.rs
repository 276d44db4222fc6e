//! Tests against a real Postgres and a real Kafka protocol: one binary, so that both start once.
//!
//! - `embedded`: the private Postgres itself: it starts, it stops, nothing of it stays
//! - `store`: the schema and the functions over it
//! - `triggers`: what asks for retraining, and what stops it
//! - `closed_loop`: from a drift to a version in service, by the commands that users have
//! - `policies`: what enqueues a job by itself, what stops it, and what the job says
//! - `versions`: how versions come into service, and where each comes from
//! - `jobs`: the queue of retraining jobs: claims, leases and how they end
//! - `queue_model`: the queue against a small automaton, over random interleavings
//! - `queue_load`: ten thousand jobs, fifty workers, and the limits
//! - `results`: what a trainer may not say a job's result is
//! - `search_loop`: a search for hyperparameters from its first trial to the version
//! - `worker`: `driftd worker` and its commands, as processes
//! - `trainer`: the trainer in Python, and the schemas of what it is told and says
//! - `handover`: jobs that go to an orchestrator by HTTP, and that no run is doubled
//! - `schedules`: the clock's part of retraining, and the outbox
//! - `docs`: every query of the documentation runs
//! - `kafka`: what only an Apache Kafka broker answers rightly
//! - `structure`: which module may know which
//! - `checkpoints`: the fence around a partition
//! - `builds`: baselines that are being built while replicas come and go
//! - `baselines`: training files become baselines, or an error that says why not
//! - `end_to_end`: a stream in, the rows that a reference computes out, whatever happens meanwhile
//! - `crashes`: the process ends at every failpoint, and the rows are the same
//! - `gaps`: messages gone before they were read, topics made anew, transactions that hang
//! - `embeddings`: a stream of vectors, from the training file to the scores
//! - `upkeep`: tables in time partitions, and what becomes of old rows
//! - `kafka_faults`: brokers that go, move and answer wrongly, and what else a log may hold
//! - `replicas`: a group whose members come, go and die
//! - `backpressure`: Postgres stands still while messages come
//! - `postgres_faults`: Postgres dies, stalls, fails over, fills up; the rows stay the same
//! - `soak`: half an hour of all that; only on demand
//! - `judging`: which windows are judged, by whom, and what a gap makes of them
//! - `quarantine`: a window that cannot be judged stops its own line, and no other
//! - `rule`: a drift found, named and over, with the daemon dying on the way
//! - `silence`: windows that only the clock closes, and what follows from them
//! - `time_zones`: days on which clocks change
//! - `reset`: a person lets reading go on elsewhere
//! - `verify`: every invariant, damaged and found
//! - `check`: files against files, without any server
//! - `oracle`: the same on 79 pairs of files, against scipy
//! - `bad_input`: what a new user gets wrong, and what comes of it
//! - `seeds`: the targets of `fuzz` over its seeds
//! - `hostile`: messages that are made to do harm

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests; clippy sees only the functions marked as such"
)]

mod backpressure;
mod bad_input;
mod baselines;
mod builds;
mod check;
mod checkpoints;
mod closed_loop;
#[cfg(feature = "failpoints")]
mod crashes;
mod docs;
mod embedded;
mod embeddings;
mod end_to_end;
mod extend;
mod gaps;
mod handover;
mod harness;
mod hostile;
mod jobs;
mod judging;
mod kafka;
mod kafka_faults;
mod oracle;
mod policies;
mod postgres_faults;
mod quarantine;
mod queue_load;
mod queue_model;
mod replicas;
mod reset;
mod results;
mod rule;
mod schedules;
mod search_loop;
mod seeds;
mod silence;
mod soak;
mod store;
mod structure;
mod time_zones;
mod trainer;
mod triggers;
mod upkeep;
mod verify;
mod versions;
mod worker;
