//! What is fuzzed, run as a plain test: every seed, and many small changes of each. `./dev fuzz`
//! looks further.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use crate::harness::traffic::Dice;

/// The targets, as `fuzz` builds them for itself.
#[allow(
    unreachable_pub,
    missing_docs,
    reason = "a crate of its own over there"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// How many changes of a seed are tried.
const CHANGES: u64 = 150;

fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {}", folder.display());
    let mut dice = Dice::new(7);
    for file in files {
        let seed = fs::read(&file).unwrap();
        for round in 0..=CHANGES {
            let mut data = seed.clone();
            for _ in 0..round.min(4) {
                change(&mut dice, &mut data);
            }
            let ran = catch_unwind(|| target(&data));
            assert!(ran.is_ok(), "{} fails: {data:?}", file.display());
        }
    }
}

/// A bit, a byte, a piece that comes twice or is gone, an end that is missing.
fn change(dice: &mut Dice, data: &mut Vec<u8>) {
    let Some(length) = u64::try_from(data.len()).ok().filter(|length| *length > 0) else {
        return;
    };
    let mut place = || usize::try_from(dice.below(length)).unwrap();
    let (at, to) = (place(), place());
    let piece = at.min(to)..at.max(to).min(at.min(to) + 40);
    match dice.below(6) {
        0 => data[at] ^= 1 << dice.below(8),
        1 => data[at] = b"\0\xff\x7f\x80[]{}\",:-09.eE "[to % 18],
        2 => drop(data.drain(piece)),
        3 => data.truncate(at),
        4 => {
            let copy = data[piece].to_vec();
            drop(data.splice(at..at, copy));
        }
        _ => data.insert(at, b'0' + u8::try_from(to % 10).unwrap()),
    }
}

#[test]
fn decode() {
    run("decode", targets::decode);
}

#[test]
fn layout() {
    run("layout", targets::layout);
}

#[test]
fn profile() {
    run("profile", targets::profile);
}

#[test]
fn sample() {
    run("sample", targets::sample);
}

#[test]
fn schedule() {
    run("schedule", targets::schedule);
}

#[test]
fn settings() {
    run("settings", targets::settings);
}
