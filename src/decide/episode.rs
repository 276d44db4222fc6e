//! From verdicts to an alert: k of the last n windows open it, quiet windows in a row close it.

use serde::{Deserialize, Serialize};

use crate::monitor::AlertPolicy;

/// Where the alert of one line of windows stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Episode {
    /// Whether the last windows drifted, newest last; at most `of` of them.
    recent: Vec<bool>,
    /// Windows without drift since the last one with it.
    quiet: u32,
    /// What is open.
    pub open: Option<Open>,
}

/// An episode that is not resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Whether it fires, or waits for more drifted windows.
    pub firing: bool,
}

/// What a window does to the episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It opens, and waits for more drifted windows.
    Opens,
    /// It fires; `opens` if it was not open before.
    Fires {
        /// It opens and fires at once.
        opens: bool,
    },
    /// Another drifted window of an open episode.
    Continues,
    /// It is over; one that never fired just ends.
    Resolves,
}

impl Episode {
    /// Whether it fires.
    pub fn is_firing(&self) -> bool {
        self.open.is_some_and(|open| open.firing)
    }

    /// Takes one judged window. Windows that could not be compared change nothing.
    pub fn step(&mut self, policy: AlertPolicy, drifted: bool) -> Change {
        self.recent.push(drifted);
        let of = policy.of.max(1) as usize;
        if self.recent.len() > of {
            self.recent.drain(..self.recent.len() - of);
        }
        let count = self.recent.iter().filter(|drifted| **drifted).count();
        let enough = count >= policy.windows.max(1) as usize;
        self.quiet = if drifted {
            0
        } else {
            self.quiet.saturating_add(1)
        };
        match &mut self.open {
            None if drifted && enough => {
                self.open = Some(Open { firing: true });
                Change::Fires { opens: true }
            }
            None if drifted => {
                self.open = Some(Open { firing: false });
                Change::Opens
            }
            None => Change::None,
            Some(open) if !open.firing && drifted && enough => {
                open.firing = true;
                Change::Fires { opens: false }
            }
            Some(_) if drifted => Change::Continues,
            Some(open) => {
                let over = if open.firing {
                    self.quiet >= policy.resolve_after
                } else {
                    count == 0
                };
                if over {
                    self.open = None;
                    self.recent.clear();
                    return Change::Resolves;
                }
                Change::None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes(policy: AlertPolicy, windows: &str) -> Vec<Change> {
        let mut episode = Episode::default();
        windows
            .chars()
            .map(|window| episode.step(policy, window == 'D'))
            .collect()
    }

    #[test]
    fn one_window_fires_and_quiet_ones_resolve() {
        let policy = AlertPolicy {
            windows: 1,
            of: 1,
            resolve_after: 2,
            unknown_after_ms: 0,
        };
        use Change::{Continues, Fires, None, Resolves};
        assert_eq!(
            changes(policy, ".DD.D..."),
            [
                None,
                Fires { opens: true },
                Continues,
                None,
                Continues,
                None,
                Resolves,
                None
            ]
        );
    }

    #[test]
    fn k_of_n_waits_and_forgets() {
        let policy = AlertPolicy {
            windows: 2,
            of: 3,
            resolve_after: 1,
            unknown_after_ms: 0,
        };
        use Change::{Fires, None, Opens, Resolves};
        assert_eq!(
            changes(policy, "D.D."),
            [Opens, None, Fires { opens: false }, Resolves]
        );
        assert_eq!(changes(policy, "D..."), [Opens, None, None, Resolves]);
    }

    /// What an episode is, said of all windows so far each time: they are looked at from the end of
    /// the last episode on.
    fn model(policy: AlertPolicy, windows: &[bool]) -> Vec<Change> {
        let (k, n) = (policy.windows as usize, policy.of as usize);
        let (mut begun, mut open, mut firing) = (0, false, false);
        let mut changes = Vec::new();
        for now in 1..=windows.len() {
            let drifted = windows[now - 1];
            let recent = &windows[begun.max(now.saturating_sub(n))..now];
            let enough = recent.iter().filter(|drifted| **drifted).count() >= k;
            let quiet = windows[..now].iter().rev().take_while(|d| !**d).count();
            let over = match firing {
                true => quiet >= policy.resolve_after as usize,
                false => !recent.contains(&true),
            };
            changes.push(match (open, drifted) {
                (false, false) => Change::None,
                (_, true) if enough && !firing => Change::Fires { opens: !open },
                (false, true) => Change::Opens,
                (true, true) => Change::Continues,
                (true, false) if over => Change::Resolves,
                (true, false) => Change::None,
            });
            open = (open || drifted) && !matches!(changes[now - 1], Change::Resolves);
            firing = open && (firing || drifted && enough);
            if changes[now - 1] == Change::Resolves {
                begun = now;
            }
        }
        changes
    }

    proptest! {
        #[test]
        fn an_episode_is_what_the_model_says(
            windows in prop::collection::vec(prop::bool::weighted(0.4), 0..200),
            k in 1..5u32, more in 0..4u32, resolve_after in 1..5u32,
        ) {
            let policy = AlertPolicy { windows: k, of: k + more, resolve_after, unknown_after_ms: 0 };
            let mut episode = Episode::default();
            let found: Vec<Change> =
                windows.iter().map(|drifted| episode.step(policy, *drifted)).collect();
            prop_assert_eq!(&found, &model(policy, &windows));
            // A stored episode goes on as one that was never stored.
            let half = windows.len() / 2;
            let mut first = Episode::default();
            for drifted in &windows[..half] {
                first.step(policy, *drifted);
            }
            let stored = serde_json::to_string(&first).unwrap();
            let mut second: Episode = serde_json::from_str(&stored).unwrap();
            let rest: Vec<Change> =
                windows[half..].iter().map(|drifted| second.step(policy, *drifted)).collect();
            prop_assert_eq!(&rest, &found[half..]);
        }

        #[test]
        fn an_episode_opens_before_it_fires_and_fires_once(
            windows in prop::collection::vec(any::<bool>(), 0..60),
            k in 1..4u32, more in 0..3u32, resolve_after in 1..4u32,
        ) {
            let policy = AlertPolicy { windows: k, of: k + more, resolve_after, unknown_after_ms: 0 };
            let mut episode = Episode::default();
            let (mut open, mut firing) = (false, false);
            for drifted in windows {
                match episode.step(policy, drifted) {
                    Change::None => {}
                    Change::Opens => { prop_assert!(!open && drifted); open = true; }
                    Change::Fires { opens } => {
                        prop_assert!(drifted && !firing);
                        prop_assert_eq!(opens, !open);
                        (open, firing) = (true, true);
                    }
                    Change::Continues => prop_assert!(open && drifted),
                    Change::Resolves => {
                        prop_assert!(open && !drifted);
                        (open, firing) = (false, false);
                    }
                }
                prop_assert_eq!(episode.open.is_some(), open);
            }
        }
    }
}
