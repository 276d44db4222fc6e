//! Who may know whom, read from the sources: the statistics stay free of Kafka, Postgres and
//! threads, and few files see the whole way of a message.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules that compute and do nothing else.
const PURE: [&str; 5] = ["window", "profile", "compare", "decide", "retrain/search"];

/// What these do not mention: the modules that read, write and serve, and what they stand on.
const OUTSIDE: [&str; 7] = [
    "crate::store",
    "crate::api",
    "crate::ingest",
    "crate::settings",
    "sqlx",
    "rdkafka",
    "tokio",
];

/// The files that bring the stages together.
const KNOW_ALL: [&str; 7] = [
    "collect",
    "judge",
    "alert.rs",
    "daemon",
    "cli",
    "retrain/builds.rs",       // from the log to a baseline
    "retrain/worker/fetch.rs", // from the log to a trainer
];

/// Any other file sees one of these at most: a way in, the judgement, a way out.
const APART: [&str; 5] = [
    "crate::ingest",
    "crate::decide",
    "crate::store",
    "crate::api",
    "crate::notify",
];

/// A source file, by its path under `src`, and the names it mentions outside of comments.
struct Source {
    path: PathBuf,
    names: BTreeSet<String>,
}

impl Source {
    fn stands_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    fn mentioned<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let is_mentioned = |name: &&str| self.names.contains(*name);
        names.iter().copied().filter(is_mentioned).collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_owned();
                let names = names(&text);
                found.push(Source { path, names });
            }
        }
    }
    found
}

/// Every name in the code, those of our own modules as `crate::name`, also out of a list such as
/// `use crate::{api, store::jobs}`.
fn names(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect();
    let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut names: BTreeSet<String> = words.map(str::to_owned).collect();
    for (at, _) in code.match_indices("crate::") {
        for module in modules(&code[at + "crate::".len()..]) {
            names.insert(format!("crate::{module}"));
        }
    }
    names
}

/// The first names of a path, or of each path of a list in braces.
fn modules(rest: &str) -> Vec<&str> {
    let Some(list) = rest.strip_prefix('{') else {
        return vec![first_name(rest)];
    };
    let mut found = Vec::new();
    let (mut depth, mut begins) = (0, true);
    for (at, c) in list.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && c.is_alphanumeric() => {
                found.push(first_name(&list[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

fn first_name(path: &str) -> &str {
    let ends = path.find(|c: char| !c.is_alphanumeric() && c != '_');
    &path[..ends.unwrap_or(path.len())]
}

#[test]
fn what_computes_knows_nothing_of_what_is_outside() {
    let sources = sources();
    let pure = sources.iter().filter(|source| source.stands_in(&PURE));
    assert!(
        pure.clone().count() > 20,
        "the sources are not where they were"
    );
    for source in pure {
        let found = source.mentioned(&OUTSIDE);
        assert!(found.is_empty(), "{:?} mentions {found:?}", source.path);
    }
}

/// The state machine of a partition does no I/O: whoever drives it does.
#[test]
fn the_machine_of_a_partition_does_no_io() {
    let outside = OUTSIDE.into_iter().filter(|name| *name != "crate::ingest");
    let outside: Vec<&str> = outside.collect();
    let sources = sources();
    let machine = sources.iter().filter(|source| {
        source.stands_in(&["collect/partition"]) && !source.path.ends_with("simulation.rs")
    });
    assert!(machine.clone().count() >= 6, "it is not where it was");
    for source in machine {
        let found = source.mentioned(&outside);
        assert!(found.is_empty(), "{:?} mentions {found:?}", source.path);
    }
}

#[test]
fn few_files_know_all_stages() {
    for source in sources() {
        if source.stands_in(&KNOW_ALL) {
            continue;
        }
        let found = source.mentioned(&APART);
        assert!(
            found.len() <= 1,
            "{:?} brings {found:?} together, which is for {KNOW_ALL:?}",
            source.path
        );
    }
}

#[test]
fn mentions_are_found_however_they_are_written() {
    let names = names(
        "use crate::{api, store::{jobs, models}, window::Spec};\n\
         // crate::ingest\n\
         type Pool = sqlx::PgPool; fn f(a: crate::decide::Verdict) {}",
    );
    let ours: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("crate::"))
        .collect();
    assert_eq!(ours, ["api", "decide", "store", "window"]);
    assert!(names.contains("sqlx") && !names.contains("ingest"));
}
