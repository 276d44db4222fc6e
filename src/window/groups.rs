//! The rows of a batch by the windows that they belong to.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Held, Spec};
use crate::batch::Selection;

/// Rows of one model version that the same windows hold. A row is noted once, however many
/// windows that are.
#[derive(Debug)]
pub(super) struct Pane {
    /// Their model version.
    pub(super) version: Arc<str>,
    held: Held,
    /// Rows that count, with how many of the windows they count in: the first ones, since the
    /// others were closed when the rows came. It becomes fewer from one to the next.
    counting: Vec<(usize, Noted)>,
}

impl Pane {
    /// Start and end of each of the windows, latest first.
    pub(super) fn windows(&self) -> &[(i64, i64)] {
        &self.held.windows
    }

    /// Notes a row that counts in the first so many windows.
    pub(super) fn note(&mut self, open: usize, row: usize) {
        match self.counting.last_mut() {
            Some((known, rows)) if *known == open => rows.push(row),
            _ => self.counting.push((open, Noted::new(row))),
        }
    }

    /// The windows in which rows count, with these rows.
    pub(super) fn counting(&self) -> impl Iterator<Item = (i64, Selection<'_>)> {
        self.counting.iter().flat_map(|(open, rows)| {
            let windows = self.held.windows[..*open].iter();
            windows.map(|(start, _)| (*start, rows.selection()))
        })
    }
}

/// Rows in ascending order.
#[derive(Debug)]
enum Noted {
    /// From this one to before that one.
    Run(usize, usize),
    Listed(Vec<u32>),
}

impl Noted {
    fn new(row: usize) -> Self {
        Self::Run(row, row + 1)
    }

    #[inline]
    fn push(&mut self, row: usize) {
        let listed = |row| u32::try_from(row).unwrap_or(u32::MAX); // a batch is far smaller
        match self {
            Self::Run(_, to) if *to == row => *to += 1,
            Self::Run(from, to) => {
                *self = Self::Listed((*from..*to).chain([row]).map(listed).collect());
            }
            Self::Listed(rows) => rows.push(listed(row)),
        }
    }

    fn selection(&self) -> Selection<'_> {
        match self {
            Self::Run(from, to) => Selection::Run(*from, *to),
            Self::Listed(rows) => Selection::Listed(rows),
        }
    }
}

/// The panes of a batch.
#[derive(Debug, Default)]
pub(super) struct Panes {
    all: Vec<Pane>,
    /// By the version's address and the start of the times that the pane holds.
    places: HashMap<(usize, i64), usize>,
    latest: usize,
}

impl Panes {
    /// The pane of a row. Equal versions are the same text in memory.
    #[inline]
    pub(super) fn of(&mut self, spec: &Spec, version: &Arc<str>, event_ms: i64) -> &mut Pane {
        let same = |pane: &Pane| {
            pane.held.times.contains(&event_ms) && Arc::ptr_eq(&pane.version, version)
        };
        if !self.all.get(self.latest).is_some_and(same) {
            self.latest = self.find(spec, version, event_ms);
        }
        &mut self.all[self.latest]
    }

    fn find(&mut self, spec: &Spec, version: &Arc<str>, event_ms: i64) -> usize {
        let key = (version.as_ptr() as usize, spec.latest_start(event_ms));
        *self.places.entry(key).or_insert_with(|| {
            self.all.push(Pane {
                version: Arc::clone(version),
                held: spec.held(event_ms),
                counting: Vec::new(),
            });
            self.all.len() - 1
        })
    }

    pub(super) fn all(&self) -> &[Pane] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_many_windows_is_noted_once() {
        let spec = Spec {
            every_ms: 10,
            ..Spec::tumbling(10_000, chrono_tz::Tz::UTC)
        };
        let (one, other): (Arc<str>, Arc<str>) = ("1".into(), "2".into());
        let mut panes = Panes::default();
        // Two far days in turns, then a row of another version.
        for row in 0..100 {
            let ms = if row % 2 == 0 { 3 } else { 5_000_003 };
            panes.of(&spec, &one, ms).note(1000, row);
        }
        panes.of(&spec, &one, 7).note(999, 100);
        panes.of(&spec, &one, 8).note(999, 101);
        panes.of(&spec, &other, 8).note(1000, 102);
        let rows: Vec<Vec<(usize, Vec<usize>)>> = panes
            .all()
            .iter()
            .map(|pane| {
                let rows = pane.counting.iter();
                let rows = rows.map(|(open, rows)| (*open, rows.selection().iter().collect()));
                rows.collect()
            })
            .collect();
        let every_second = |first| (first..100).step_by(2).collect::<Vec<usize>>();
        let early = vec![(1000, every_second(0)), (999, vec![100, 101])];
        let late = vec![(1000, every_second(1))];
        assert_eq!(rows, [early, late, vec![(1000, vec![102])]]);
        // Each window of a pane has all of its rows.
        let pane = &panes.all()[0];
        assert_eq!(pane.counting().count(), 1999);
        assert_eq!(pane.counting().next().map(|(start, _)| start), Some(0));
        assert_eq!(pane.windows()[999], (-9_990, 10));
    }
}
