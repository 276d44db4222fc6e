//! Whether rows still come.
//!
//! A line of windows is silent when two windows in a row hold no rows though rows were expected in
//! both. It stays silent until the first window with rows. Windows in which none were expected
//! neither count nor interrupt: a stream that sleeps at night may fall silent at dusk and be found
//! silent at dawn.
//!
//! The module is about windows that were judged. Which ones are judged without a later row, so by
//! the clock, is decided where they are claimed: only while every partition is known to be read to
//! its end. So lag and brokers that cannot be reached never look like silence here.

use serde::{Deserialize, Serialize};

use super::episode::Change;
use super::verdict::{Judge, Training};
use crate::window::Spec;

/// Windows in a row without expected rows that make a line silent.
pub const WINDOWS: u32 = 2;

/// What is carried from window to window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Silence {
    /// Windows without expected rows since the last window with rows.
    pub empty: u32,
    /// Start of the first of them.
    pub since_ms: Option<i64>,
    /// End of the last window with rows.
    pub heard_ms: Option<i64>,
}

/// A judged window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Start.
    pub start_ms: i64,
    /// End, exclusive.
    pub end_ms: i64,
    /// Rows that count.
    pub rows: u64,
    /// Whether training windows had rows at such a time.
    pub expects_rows: bool,
}

/// Whether rows are expected in a window that starts at this time: as the training windows had them,
/// where there are enough of them; else wherever the version has a baseline.
pub fn expects_rows(judge: Option<&Judge>, start_ms: i64) -> bool {
    judge.is_some_and(|judge| match &judge.training {
        Training::Learned(rule) => rule.expects_rows(start_ms),
        Training::TooFew { .. } => true,
    })
}

impl Silence {
    /// Takes one window; returns what it does to the alert of kind silence.
    pub fn step(&mut self, window: Seen) -> Change {
        let was_silent = self.is_silent();
        if window.rows > 0 {
            *self = Self {
                heard_ms: Some(window.end_ms),
                ..Self::default()
            };
            return match was_silent {
                true => Change::Resolves,
                false => Change::None,
            };
        }
        if !window.expects_rows {
            return Change::None;
        }
        self.empty = self.empty.saturating_add(1);
        self.since_ms.get_or_insert(window.start_ms);
        match (was_silent, self.is_silent()) {
            (true, _) => Change::Continues,
            (false, true) => Change::Fires { opens: true },
            (false, false) => Change::None,
        }
    }

    /// Whether no rows come though they should.
    pub fn is_silent(&self) -> bool {
        self.empty >= WINDOWS
    }

    /// Whether at this time no row has come for so long.
    pub fn lasts(&self, now_ms: i64, span_ms: i64) -> bool {
        let heard = self.heard_ms.or(self.since_ms);
        self.is_silent() && heard.is_some_and(|heard| now_ms.saturating_sub(heard) >= span_ms)
    }

    /// Start of the first window after this one at whose end no row has come for so long; `None`
    /// while the line is not silent.
    pub fn lasts_from(&self, spec: &Spec, after_start_ms: i64, span_ms: i64) -> Option<i64> {
        let heard = self.heard_ms.or(self.since_ms)?;
        let start = spec.first_ending(heard.checked_add(span_ms)?);
        let start = start.max(spec.after(after_start_ms, 1));
        self.is_silent().then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPEC: Spec = Spec {
        size_ms: 10,
        every_ms: 10,
        time_zone: chrono_tz::Tz::UTC,
        out_of_orderness_ms: 0,
        allowed_lateness_ms: 0,
        idle_after_ms: 0,
        max_future_ms: 0,
    };

    fn seen(number: i64, rows: u64, expects_rows: bool) -> Seen {
        Seen {
            start_ms: number * 10,
            end_ms: number * 10 + 10,
            rows,
            expects_rows,
        }
    }

    /// `r`: rows; `.`: none, though expected; `n`: none, and none expected.
    fn changes(windows: &str) -> Vec<Change> {
        let mut silence = Silence::default();
        (0..)
            .zip(windows.chars())
            .map(|(number, window)| {
                silence.step(seen(number, u64::from(window == 'r'), window != 'n'))
            })
            .collect()
    }

    #[test]
    fn two_empty_windows_fire_and_the_first_rows_resolve() {
        use Change::{Continues, Fires, None, Resolves};
        let fires = Fires { opens: true };
        assert_eq!(
            changes("r.r..r..."),
            [
                None, None, None, None, fires, Resolves, None, fires, Continues
            ]
        );
    }

    #[test]
    fn windows_without_expected_rows_neither_count_nor_interrupt() {
        use Change::{Fires, None, Resolves};
        let fires = Fires { opens: true };
        assert_eq!(changes("rnnnn"), [None; 5]);
        assert_eq!(
            changes("r.nn.nr"),
            [None, None, None, None, fires, None, Resolves]
        );
    }

    #[test]
    fn a_silence_lasts_from_the_end_of_the_last_window_with_rows() {
        let mut silence = Silence::default();
        silence.step(seen(0, 1, true));
        silence.step(seen(1, 0, true));
        assert!(!silence.lasts(1_000, 0), "one empty window is no silence");
        assert_eq!(silence.lasts_from(&SPEC, 10, 0), None);
        silence.step(seen(2, 0, true));
        assert_eq!((silence.since_ms, silence.heard_ms), (Some(10), Some(10)));
        assert!(silence.lasts(35, 25) && !silence.lasts(34, 25));
        // Window 3 ends at 40: the first end at or after 10 + 25.
        assert_eq!(silence.lasts_from(&SPEC, 20, 25), Some(30));
        assert_eq!(
            silence.lasts_from(&SPEC, 20, 5),
            Some(30),
            "behind this one"
        );
        assert_eq!(silence.lasts_from(&SPEC, 20, 100), Some(100));
    }

    proptest! {
        /// Looked at from the end each time: silent is who has two empty windows where rows were
        /// expected since the last window with rows.
        #[test]
        fn a_silence_is_what_the_model_says(
            windows in prop::collection::vec((prop::bool::weighted(0.3), any::<bool>()), 0..100),
            stored_at in 0..100usize,
        ) {
            let mut silence = Silence::default();
            let mut fires = false;
            for (at, (has_rows, expects)) in windows.iter().enumerate() {
                let change = silence.step(seen(i64::try_from(at).unwrap(), (*has_rows).into(), *expects));
                let since = windows[..=at].iter().rev().take_while(|(has_rows, _)| !has_rows);
                let expected = since.filter(|(_, expects)| *expects).count();
                prop_assert_eq!(silence.is_silent(), expected >= 2);
                prop_assert_eq!(silence.empty as usize, expected);
                let counts = !has_rows && *expects;
                prop_assert_eq!(change, match (fires, silence.is_silent()) {
                    (false, true) => Change::Fires { opens: true },
                    (true, false) => Change::Resolves,
                    (true, true) if counts => Change::Continues,
                    _ => Change::None,
                });
                fires = silence.is_silent();
                if at == stored_at {
                    let stored = serde_json::to_string(&silence).unwrap();
                    prop_assert_eq!(serde_json::from_str::<Silence>(&stored).unwrap(), silence);
                }
            }
        }

        #[test]
        fn lasting_begins_at_the_window_that_is_named(
            span in 0i64..500, empties in 2i64..30, every in 1i64..20, times in 1i64..4,
        ) {
            let spec = Spec { size_ms: every * times, every_ms: every, ..SPEC };
            let window = |number: i64, rows| Seen {
                start_ms: number * every, end_ms: spec.end(number * every), rows, expects_rows: true,
            };
            let mut silence = Silence::default();
            silence.step(window(0, 1));
            for number in 1..=empties {
                silence.step(window(number, 0));
            }
            let start = silence.lasts_from(&spec, empties * every, span).unwrap();
            prop_assert!(start > empties * every && start % every == 0);
            prop_assert!(silence.lasts(spec.end(start), span));
            let before = start - every;
            prop_assert!(before == empties * every || !silence.lasts(spec.end(before), span));
        }
    }
}
