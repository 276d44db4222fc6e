//! A baseline and a monitor's settings to what judges the monitor's windows.

use std::sync::Arc;

use super::windows::{Error, Slots};
use crate::compare::window::{Reference, Shared};
use crate::decide::rule::{Answers, Asking, Calendar, Limits, Rule, changed};
use crate::decide::verdict::{Judge, Training};
use crate::monitor::{Features, Input};
use crate::profile::Layout;

/// The training windows of a monitor.
#[derive(Debug)]
pub struct Windows {
    asking: Asking,
    windows: Vec<Answers>,
}

impl Windows {
    /// From the stored rows of a baseline by time: windows of the monitor's size, of the features that it
    /// watches of `all`; and those of its stream that were `added`. Windows between that were left out are not
    /// filled in: as windows without rows they would say that none come.
    ///
    /// # Errors
    /// The bytes are damaged, or the windows are no multiple of the slots.
    pub fn read(
        bytes: &[u8],
        added: &[Vec<u8>],
        all: &Layout,
        layout: &Layout,
        input: &Input,
    ) -> Result<Self, Error> {
        let slots = Slots::decode(bytes)?;
        let place = |name: &str| all.features.iter().position(|feature| feature.name == name);
        let places: Vec<usize> = layout
            .features
            .iter()
            .filter_map(|feature| place(&feature.name))
            .collect();
        let windows = slots.windows(&input.window)?;
        let selected = windows.iter().map(|one| one.select(&slots.asking, &places));
        let mut windows: Vec<Answers> = selected.collect();
        let asking = slots.asking.select(&places);
        for bytes in added {
            windows.push(read_added(bytes, &asking)?);
        }
        windows.sort_by_key(|window| window.start_ms);
        Ok(Self { asking, windows })
    }
}

fn read_added(bytes: &[u8], asking: &Asking) -> Result<Answers, Error> {
    let damaged = |why: String| Error::Damaged(format!("a window that was added: {why}"));
    let answers = Answers::decode(bytes).map_err(|error| damaged(error.to_string()))?;
    let empty = Answers::empty(asking, answers.start_ms);
    let shape = |answers: &Answers| -> (Vec<usize>, usize) {
        let groups = answers.features.iter().map(|tally| tally.groups.len());
        (groups.collect(), answers.pairs.len())
    };
    match shape(&answers) == shape(&empty) {
        true => Ok(answers),
        false => Err(damaged("it is of other features".into())),
    }
}

/// What judges the windows of a monitor by a baseline of this id.
pub fn judge(
    baseline_id: &str,
    shared: &Shared,
    layout: Arc<Layout>,
    training: Option<Windows>,
    input: &Input,
) -> Judge {
    let every_ms = input.window.every_ms;
    let judging = input.judging.clone();
    let alpha = judging.false_alarms.per_window(every_ms);
    let (mut window_rows, mut learned) = (
        Vec::new(),
        Training::TooFew {
            windows: 0,
            asking: None,
        },
    );
    if let Some(Windows { asking, windows }) = training {
        window_rows = windows.iter().map(|window| window.rows).collect();
        let calendar = Calendar {
            every_ms,
            time_zone: input.window.time_zone,
        };
        let limits = limits(&layout, input);
        learned = match Rule::learn(asking.clone(), calendar, &windows, alpha, limits) {
            Ok(rule) => Training::Learned(Arc::new(rule)),
            Err(too_few) => Training::TooFew {
                windows: too_few.0,
                asking: Some(asking),
            },
        };
    }
    Judge {
        baseline_id: baseline_id.to_owned(),
        reference: Reference::of(shared, layout, judging.tests(), window_rows),
        training: learned,
        alpha,
        every_ms,
        judging,
    }
}

/// What the rule asks of each feature, of pairs and of rows: the monitor's limits, and a feature's own.
fn limits(layout: &Layout, input: &Input) -> Vec<Limits> {
    let usual = input.judging.questions;
    let of = |name: &str| match &input.features {
        Features::Listed(listed) => {
            let own = listed.iter().find(|feature| feature.name == name);
            own.map_or(usual, |feature| changed(usual, &feature.questions))
        }
        Features::All => usual,
    };
    let features = layout.features.iter().map(|feature| of(&feature.name));
    features.chain([usual, usual]).collect()
}
