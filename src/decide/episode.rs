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
        };
        use Change::{Fires, None, Opens, Resolves};
        assert_eq!(
            changes(policy, "D.D."),
            [Opens, None, Fires { opens: false }, Resolves]
        );
        assert_eq!(changes(policy, "D..."), [Opens, None, None, Resolves]);
    }

    proptest! {
        #[test]
        fn an_episode_opens_before_it_fires_and_fires_once(
            windows in prop::collection::vec(any::<bool>(), 0..60),
            k in 1..4u32, more in 0..3u32, resolve_after in 1..4u32,
        ) {
            let policy = AlertPolicy { windows: k, of: k + more, resolve_after };
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
