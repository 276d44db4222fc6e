//! `driftd reset-partition`: lets reading go on elsewhere, after `on_gap = "stop"` or past what
//! cannot be read.
//!
//! It goes on as `on_gap = "continue"` would, and from there ahead to the offset that is asked for.
//! What is not read for it is a gap like any other: recorded, with the windows that may lack rows.
//! It never goes back within a log: what is read a second time would count a second time.

use std::io::{BufRead, IsTerminal as _, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use rdkafka::consumer::Consumer as _;
use sqlx::PgPool;

use super::{FAILED, Usage};
use crate::collect::partition::log::{Log, LogId};
use crate::collect::partition::start;
use crate::ingest::admin;
use crate::ingest::consumer::{self, TopicPartition};
use crate::monitor::OnGap;
use crate::settings::{Kafka, Settings, StartAt};
use crate::store::gaps::Gap;
use crate::store::resets::{self, Reader, Reset, Standing};
use crate::store::topics::{self, Count};

/// How long the brokers may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Let driftd go on elsewhere in a partition; shows what that does, and asks first.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// The topic.
    topic: String,
    /// The partition.
    partition: i32,
    /// Where to go on: earliest, latest, or an offset.
    #[arg(long, value_name = "WHERE")]
    to: To,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

const AFTER_HELP: &str = "What is not read for it is recorded in driftd.gaps, and the windows that \
may lack rows get the verdict incomplete. Within a log it goes ahead only: rows that are read again \
would count again. Where the topic was made anew, or the log was cut, any offset of the log that is \
there now will do. Replicas that run meanwhile are fenced, and go on at the new offset.";

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Earliest,
    Latest,
    Offset(i64),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            offset => match offset.parse() {
                Ok(offset) if offset >= 0 => Ok(Self::Offset(offset)),
                _ => Err("expected earliest, latest or an offset".to_owned()),
            },
        }
    }
}

/// What the brokers say of the partition.
#[derive(Debug, Clone)]
struct There {
    topic_id: Option<String>,
    partitions: i32,
    log: Log,
}

impl There {
    fn count(&self, topic: &str) -> Count {
        Count {
            topic: topic.to_owned(),
            topic_id: self.topic_id.clone(),
            partitions: self.partitions,
        }
    }
}

/// Where reading goes on, and what is not read for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    next_offset: i64,
    generation: i64,
    gaps: Vec<Gap>,
    /// Offsets that may hold what was read before the log was cut.
    again: Option<(i64, i64)>,
}

/// Shows, asks and does it.
///
/// # Errors
/// The partition is not known, the brokers or the database cannot be asked, or the offset will not
/// do.
pub async fn run(args: Args, settings: &Settings, pool: &PgPool) -> anyhow::Result<ExitCode> {
    let there = ask_brokers(&settings.kafka, &args.topic, args.partition).await?;
    let (count, policy) = (there.count(&args.topic), policy(settings, &args.topic));
    let mut transaction = pool.begin().await?;
    let lost = make_anew(&mut transaction, &count, policy).await?;
    let standing = standing(&mut transaction, &args).await?;
    let readers = resets::readers(&mut *transaction, &args.topic, args.partition).await?;
    let plan = plan(&standing, &there, args.to).map_err(Usage)?;
    // Nobody is kept waiting while a person thinks.
    transaction.rollback().await?;
    let mut out = std::io::stdout();
    let shown = shown(&args, &standing, &there.log, &plan, &readers) + &shown_lost(&lost);
    out.write_all(shown.as_bytes())?;
    if !args.yes {
        let stdin = std::io::stdin();
        if !(stdin.is_terminal() && out.is_terminal()) {
            bail!(Usage(
                "there is no terminal to ask: say --yes to do this".to_owned()
            ));
        }
        if !is_wanted(&mut stdin.lock(), &mut out)? {
            writeln!(out, "nothing was changed")?;
            return Ok(ExitCode::from(FAILED));
        }
    }
    let plan = apply(&args, policy, pool, &there).await?;
    writeln!(
        out,
        "reading goes on at offset {} of log {}",
        plan.next_offset, plan.generation
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn standing(connection: &mut sqlx::PgConnection, args: &Args) -> anyhow::Result<Standing> {
    let Args {
        topic, partition, ..
    } = args;
    let standing = resets::lock(connection, topic, *partition).await?;
    match standing {
        Some(standing) if standing.next_offset >= 0 => Ok(standing),
        _ => bail!(Usage(format!(
            "driftd has not read partition {partition} of topic `{topic}` yet; where it begins is \
             kafka.start_at"
        ))),
    }
}

/// Stores which topic is there now: a person's word goes above what replicas have heard.
async fn make_anew(
    connection: &mut sqlx::PgConnection,
    count: &Count,
    policy: &'static str,
) -> anyhow::Result<Vec<(i32, Gap)>> {
    topics::believe(&mut *connection, count).await?;
    Ok(topics::made_anew(connection, count, policy).await?)
}

/// Plans again with the partition locked, since it may have been read further, and does it.
async fn apply(
    args: &Args,
    policy: &'static str,
    pool: &PgPool,
    there: &There,
) -> anyhow::Result<Plan> {
    let mut transaction = pool.begin().await?;
    make_anew(&mut transaction, &there.count(&args.topic), policy).await?;
    let standing = standing(&mut transaction, args).await?;
    let plan = plan(&standing, there, args.to)
        .map_err(|why| anyhow::anyhow!("the partition was read on meanwhile: {why}"))?;
    let readers = resets::readers(&mut *transaction, &args.topic, args.partition).await?;
    let reset = Reset {
        topic: args.topic.clone(),
        partition: args.partition,
        next_offset: plan.next_offset,
        generation: plan.generation,
        topic_id: there.topic_id.clone(),
        gaps: plan.gaps.clone(),
        policy,
    };
    resets::reset(&mut transaction, &reset, &readers).await?;
    transaction
        .commit()
        .await
        .context("cannot commit; whether it was done says `driftd reset-partition` again")?;
    Ok(plan)
}

fn policy(settings: &Settings, topic: &str) -> &'static str {
    let mut inputs = settings.monitors.iter().filter_map(|m| m.input.as_ref());
    let goes_on =
        |input: &crate::monitor::Input| input.topic == topic && input.on_gap == OnGap::Continue;
    if inputs.any(goes_on) {
        "continue"
    } else {
        "stop"
    }
}

async fn ask_brokers(kafka: &Kafka, topic: &str, partition: i32) -> anyhow::Result<There> {
    let brokers = kafka.brokers.clone();
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || -> anyhow::Result<There> {
        let client = consumer::without_group(&kafka)?;
        let brokers = client.fetch_metadata(Some(&topic), TIMEOUT)?;
        let broker = brokers.brokers().first().map_or(-1, |broker| broker.id());
        let names = std::slice::from_ref(&topic);
        let described = admin::describe(client.client(), broker, names, TIMEOUT)?;
        let found = described.into_iter().next();
        let Some(Ok(found)) = found else {
            bail!(Usage(format!("topic `{topic}` does not exist")));
        };
        if partition < 0 || partition >= found.partitions {
            bail!(Usage(format!(
                "topic `{topic}` has {} partitions, from 0 on",
                found.partitions
            )));
        }
        let key = TopicPartition {
            topic: topic.into(),
            partition,
        };
        let log = consumer::log_of(&client, &key, None, TIMEOUT)?;
        Ok(There {
            topic_id: found.id,
            partitions: found.partitions,
            log,
        })
    });
    asked
        .await?
        .with_context(|| format!("cannot ask the brokers at {brokers}"))
}

/// What is to be done, or why it will not do.
fn plan(standing: &Standing, there: &There, to: To) -> Result<Plan, String> {
    let Log { low, high, .. } = there.log;
    let read = LogId {
        generation: standing.generation,
        topic_id: standing.topic_id.clone(),
    };
    let (next, topic_id) = (Some(standing.next_offset), there.topic_id.as_deref());
    let start = start::find(&read, next, topic_id, &there.log, StartAt::Earliest);
    let is_same_log = start.generation == standing.generation;
    let target = match to {
        To::Earliest => low,
        To::Latest => high,
        To::Offset(offset) => offset,
    };
    if target < low || target > high {
        return Err(format!(
            "offset {target} is not in the log, which reaches from {low} to {high}"
        ));
    }
    if is_same_log && target < standing.next_offset {
        return Err(format!(
            "offset {target} lies before {}, up to which the partition was read: its rows would \
             count twice",
            standing.next_offset
        ));
    }
    let gap = |generation, from_offset, to_offset, reason| Gap {
        generation,
        from_offset,
        to_offset,
        reason,
    };
    let missing = start.missing.iter();
    let mut gaps: Vec<Gap> = missing
        .map(|one| {
            gap(
                one.generation,
                one.from_offset,
                one.to_offset,
                one.reason.as_str(),
            )
        })
        .collect();
    if target > start.offset {
        gaps.push(gap(start.generation, start.offset, Some(target), "reset"));
    }
    if gaps.is_empty() {
        return Err(format!("reading goes on at offset {target} already"));
    }
    Ok(Plan {
        next_offset: target,
        generation: start.generation,
        gaps,
        again: (target < start.offset).then_some((target, start.offset)),
    })
}

/// What is shown before the question.
fn shown(args: &Args, standing: &Standing, log: &Log, plan: &Plan, readers: &[Reader]) -> String {
    let Args {
        topic, partition, ..
    } = args;
    let time = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S").to_string();
    let mut lines = vec![
        format!("topic {topic}, partition {partition}"),
        format!(
            "  read up to       offset {} of log {}, by {} at {}",
            standing.next_offset,
            standing.generation,
            standing.owner,
            time(standing.updated_at)
        ),
        format!("  the log          from offset {} to {}", log.low, log.high),
        format!(
            "  reading goes on  at offset {} of log {}",
            plan.next_offset, plan.generation
        ),
    ];
    lines.extend(plan.gaps.iter().map(|gap| match gap.to_offset {
        Some(to) => format!(
            "  not read         offsets {} to {} of log {} ({})",
            gap.from_offset,
            to - 1,
            gap.generation,
            gap.reason
        ),
        None => format!(
            "  not read         offset {} and on of log {} ({})",
            gap.from_offset, gap.generation, gap.reason
        ),
    }));
    if let Some((from, to)) = plan.again {
        lines.push(format!(
            "  read again       offsets {from} to {}, where they were read before the log was cut: \
             their rows count again",
            to - 1
        ));
    }
    for reader in readers {
        let from = reader
            .first_open
            .map_or_else(|| "the first one".to_owned(), time);
        lines.push(format!(
            "  incomplete       windows of monitor {} from {from} on, until that of the first message \
             read",
            reader.monitor
        ));
    }
    lines.join("\n") + "\n"
}

/// What else it does where the topic was made anew with fewer partitions.
fn shown_lost(lost: &[(i32, Gap)]) -> String {
    let line = |(partition, gap): &(i32, Gap)| {
        format!(
            "  no more there    partition {partition}: not read are offset {} and on of log {} ({})\n",
            gap.from_offset, gap.generation, gap.reason
        )
    };
    lost.iter().map(line).collect()
}

/// Asks; only a clear yes is one.
fn is_wanted(from: &mut impl BufRead, to: &mut impl Write) -> std::io::Result<bool> {
    write!(to, "Go on? [y/N] ")?;
    to.flush()?;
    let mut answer = String::new();
    from.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(next_offset: i64) -> Standing {
        Standing {
            next_offset,
            generation: 3,
            topic_id: Some("a".to_owned()),
            owner: "host/1".to_owned(),
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    fn there(topic_id: &str) -> There {
        let log = Log {
            diverges_at: None,
            low: 10,
            high: 20,
            since: None,
        };
        There {
            topic_id: Some(topic_id.to_owned()),
            partitions: 1,
            log,
        }
    }

    type Gone = (i64, i64, Option<i64>, &'static str);

    /// Offset and generation to go on at, and the gaps; empty texts stand for a refusal.
    fn planned(next_offset: i64, topic_id: &str, to: To) -> Result<(i64, i64, Vec<Gone>), String> {
        let plan = plan(&standing(next_offset), &there(topic_id), to)?;
        let gone = |gap: &Gap| (gap.generation, gap.from_offset, gap.to_offset, gap.reason);
        let gaps = plan.gaps.iter().map(gone).collect();
        Ok((plan.next_offset, plan.generation, gaps))
    }

    #[test]
    fn within_a_log_it_goes_ahead_only() {
        let ahead = (20, 3, vec![(3, 15, Some(20), "reset")]);
        assert_eq!(planned(15, "a", To::Latest), Ok(ahead));
        let ahead = (16, 3, vec![(3, 15, Some(16), "reset")]);
        assert_eq!(planned(15, "a", To::Offset(16)), Ok(ahead));
        for (to, why) in [
            (To::Earliest, "would count twice"),
            (To::Offset(14), "would count twice"),
            (To::Offset(15), "already"),
            (To::Offset(21), "not in the log"),
            (To::Offset(9), "not in the log"),
        ] {
            let refused = planned(15, "a", to).unwrap_err();
            assert!(refused.contains(why), "{to:?}: {refused}");
        }
    }

    #[test]
    fn what_retention_took_is_told_apart_from_what_is_passed_over() {
        let gone = (3, 5, Some(10), "retention");
        assert_eq!(planned(5, "a", To::Earliest), Ok((10, 3, vec![gone])));
        let both = vec![gone, (3, 10, Some(12), "reset")];
        assert_eq!(planned(5, "a", To::Offset(12)), Ok((12, 3, both)));
    }

    #[test]
    fn in_another_log_any_offset_will_do() {
        let gone = vec![(3, 15, None, "recreated"), (4, 0, Some(10), "retention")];
        assert_eq!(planned(15, "b", To::Earliest), Ok((10, 4, gone.clone())));
        let more = [gone, vec![(4, 10, Some(20), "reset")]].concat();
        assert_eq!(planned(15, "b", To::Latest), Ok((20, 4, more)));

        let cut = vec![(3, 25, None, "truncated")];
        assert_eq!(planned(25, "a", To::Latest), Ok((20, 4, cut.clone())));
        assert_eq!(planned(25, "a", To::Offset(12)), Ok((12, 4, cut)));
        let plan = plan(&standing(25), &there("a"), To::Offset(12)).unwrap();
        assert_eq!(plan.again, Some((12, 20)));
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        for (answer, wanted) in [
            ("y\n", true),
            ("yes\n", true),
            ("n\n", false),
            ("\n", false),
            ("", false),
            ("yeah, well\n", false),
        ] {
            let mut asked = Vec::new();
            let said = is_wanted(&mut answer.as_bytes(), &mut asked).unwrap();
            assert_eq!(said, wanted, "{answer:?}");
            assert_eq!(asked, b"Go on? [y/N] ");
        }
    }

    #[test]
    fn where_to_go_on_is_a_word_or_an_offset() {
        assert_eq!("earliest".parse(), Ok(To::Earliest));
        assert_eq!("12".parse(), Ok(To::Offset(12)));
        assert!("-1".parse::<To>().is_err() && "last".parse::<To>().is_err());
    }
}
