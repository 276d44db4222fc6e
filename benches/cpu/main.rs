//! What driftd costs, in CPU time per row, each part beside the least that it could cost.
//!
//! `./dev bench` runs all of it, `./dev bench decode collect` these parts:
//!
//! - `memory`: what an open window holds, from ten thousand to ten million rows
//! - `decode`: JSON to columns
//! - `profile`: columns to profiles; profiles merged, stored and read
//! - `compare`: the tests
//! - `collect`: the whole collect half, from Kafka to Postgres
//! - `aging`: a day of checkpoints of 1,000 monitors, and how the tables stand meanwhile

mod aging;
mod collect;
mod compare;
mod decode;
mod measure;
mod memory;
mod profile;
mod records;

/// A part: its name and what runs it.
type Part = (&'static str, fn() -> anyhow::Result<()>);

const PARTS: [Part; 6] = [
    ("memory", memory::run), // first: it looks at the memory of the whole process
    ("decode", decode::run),
    ("profile", profile::run),
    ("compare", compare::run),
    ("collect", collect::run),
    ("aging", aging::run),
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rows] = &arguments[..]
        && first == collect::PRODUCE
    {
        return collect::produce(rows.parse()?);
    }
    if let Some(unknown) = arguments
        .iter()
        .find(|name| PARTS.iter().all(|(part, _)| part != *name))
    {
        let parts = PARTS.map(|(name, _)| name).join(", ");
        anyhow::bail!("no part is called `{unknown}`; there are: {parts}");
    }
    for (name, run) in PARTS {
        if arguments.is_empty() || arguments.iter().any(|wanted| *wanted == name) {
            run()?;
        }
    }
    Ok(())
}
