//! What one line of windows carries from window to window: its state of drift, and the alerts of the
//! other kinds. Pure, as all of `decide`.

use serde::{Deserialize, Serialize};

use super::episode::{Change, Episode};
use super::silence::{Seen, Silence};
use super::verdict;
use crate::monitor::AlertPolicy;
use crate::window::Spec;

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows are unlike the training data.
    Drift,
    /// No rows come.
    Silence,
    /// More or fewer rows come than in training.
    Volume,
}

impl Kind {
    /// The name in SQL and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drift => "drift",
            Self::Silence => "silence",
            Self::Volume => "volume",
        }
    }
}

/// What is carried from window to window.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// Drift, with the episode of that kind.
    #[serde(default)]
    pub drift: verdict::State,
    /// Silence.
    #[serde(default)]
    pub silence: OfSilence,
    /// Volume.
    #[serde(default)]
    pub volume: OfVolume,
}

/// Whether rows come, and the episode of kind silence.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OfSilence {
    /// Whether rows come.
    pub silence: Silence,
    /// The row of the open episode.
    pub episode_id: Option<i64>,
    /// The open drift episode says that its line is silent.
    drift_says_so: bool,
}

/// The episode of kind volume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OfVolume {
    /// The alert.
    pub episode: Episode,
    /// The row of the open episode.
    pub episode_id: Option<i64>,
}

/// What a window does to the alerts, but for what its verdict does to that of drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// To the alert of kind silence.
    pub silence: Change,
    /// To that of kind volume.
    pub volume: Change,
    /// What the silence does to an open drift episode.
    pub drift: DriftInSilence,
}

impl Step {
    /// Of a window that changes nothing.
    pub const NONE: Self = Self {
        silence: Change::None,
        volume: Change::None,
        drift: DriftInSilence::None,
    };
}

/// What a silence does to an open drift episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftInSilence {
    /// Nothing.
    None,
    /// Its line falls silent.
    FallsSilent,
    /// Rows come again.
    IsHeard,
    /// Nobody knows any more: it ends.
    EndsUnknown,
}

impl State {
    /// Takes one window, behind its verdict. `volume_drifted` is `None` where nothing can be said of
    /// the number of rows.
    pub fn step(
        &mut self,
        window: Seen,
        volume_drifted: Option<bool>,
        policy: AlertPolicy,
    ) -> Step {
        let silence = self.silence.silence.step(window);
        let volume = volume_drifted.map_or(Change::None, |drifted| {
            self.volume.episode.step(policy, drifted)
        });
        Step {
            silence,
            volume,
            drift: self.silence_of_drift(window.end_ms, policy),
        }
    }

    fn silence_of_drift(&mut self, now_ms: i64, policy: AlertPolicy) -> DriftInSilence {
        let OfSilence {
            silence,
            drift_says_so,
            ..
        } = &mut self.silence;
        if self.drift.episode.open.is_none() {
            *drift_says_so = false;
            return DriftInSilence::None;
        }
        if silence.lasts(now_ms, policy.unknown_after_ms) {
            *drift_says_so = false;
            self.drift.episode = Episode::default();
            return DriftInSilence::EndsUnknown;
        }
        let said = std::mem::replace(drift_says_so, silence.is_silent());
        match (said, silence.is_silent()) {
            (false, true) => DriftInSilence::FallsSilent,
            (true, false) => DriftInSilence::IsHeard,
            _ => DriftInSilence::None,
        }
    }

    /// Start of the window at which the open drift episode becomes unknown if no row comes; the
    /// window that was judged starts at `after_start_ms`.
    pub fn unknown_start_ms(
        &self,
        spec: &Spec,
        after_start_ms: i64,
        policy: AlertPolicy,
    ) -> Option<i64> {
        self.drift.episode.open?;
        let silence = &self.silence.silence;
        silence.lasts_from(spec, after_start_ms, policy.unknown_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: AlertPolicy = AlertPolicy {
        windows: 1,
        of: 1,
        resolve_after: 1,
        unknown_after_ms: 50,
    };
    const SPEC: Spec = Spec {
        size_ms: 10,
        every_ms: 10,
        time_zone: chrono_tz::Tz::UTC,
        out_of_orderness_ms: 0,
        allowed_lateness_ms: 0,
        idle_after_ms: 0,
        max_future_ms: 0,
    };

    fn step(state: &mut State, number: i64, rows: u64) -> Step {
        let window = Seen {
            start_ms: number * 10,
            end_ms: number * 10 + 10,
            rows,
            expects_rows: true,
        };
        state.step(window, Some(rows > 100), POLICY)
    }

    fn drifting() -> State {
        let mut state = State::default();
        state.drift.episode.step(POLICY, true);
        state.drift.episode_id = Some(7);
        step(&mut state, 0, 1);
        state
    }

    #[test]
    fn a_drift_episode_says_that_its_line_is_silent_and_ends_as_unknown() {
        use DriftInSilence::{EndsUnknown, FallsSilent, None};
        let mut state = drifting();
        let said: Vec<DriftInSilence> = (1..8)
            .map(|number| step(&mut state, number, 0).drift)
            .collect();
        // The last window with rows ends at 10, the fifth without any at 60.
        assert_eq!(
            said,
            [None, FallsSilent, None, None, EndsUnknown, None, None]
        );
        assert_eq!(state.drift.episode.open, Option::None);
    }

    #[test]
    fn rows_that_come_in_time_end_the_silence_and_not_the_drift() {
        let mut state = drifting();
        step(&mut state, 1, 0);
        step(&mut state, 2, 0);
        let back = step(&mut state, 3, 1);
        assert_eq!(back.drift, DriftInSilence::IsHeard);
        assert_eq!(back.silence, Change::Resolves);
        assert!(state.drift.episode.is_firing());
        assert_eq!(step(&mut state, 4, 0).drift, DriftInSilence::None);
    }

    #[test]
    fn the_window_at_which_it_becomes_unknown_is_known_before() {
        let mut state = drifting();
        assert_eq!(state.unknown_start_ms(&SPEC, 0, POLICY), None);
        step(&mut state, 1, 0);
        step(&mut state, 2, 0);
        let start = state.unknown_start_ms(&SPEC, 20, POLICY).unwrap();
        assert_eq!(start, 50);
        // As if all in between had been stepped over.
        let at = step(&mut state, start / 10, 0);
        assert_eq!(at.drift, DriftInSilence::EndsUnknown);
        assert_eq!(state.unknown_start_ms(&SPEC, 50, POLICY), None);
    }

    #[test]
    fn volume_has_an_episode_of_its_own() {
        let mut state = State::default();
        let high = step(&mut state, 0, 101);
        assert_eq!(high.volume, Change::Fires { opens: true });
        assert_eq!(high.silence, Change::None);
        assert_eq!(state.drift, verdict::State::default());
        assert_eq!(step(&mut state, 1, 1).volume, Change::Resolves);
    }

    #[test]
    fn a_stored_state_goes_on() {
        let mut state = drifting();
        step(&mut state, 1, 0);
        let stored = serde_json::to_value(&state).unwrap();
        assert_eq!(stored["drift"]["episode_id"], 7);
        let read: State = serde_json::from_value(stored).unwrap();
        assert_eq!(read, state);
        assert_eq!(
            serde_json::from_str::<State>("{}").unwrap(),
            State::default()
        );
    }
}
