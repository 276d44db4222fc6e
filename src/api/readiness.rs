//! Whether driftd is ready, and if not, why: each task says so for itself.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// Shared by all tasks; a clone speaks of the same state.
///
/// A condition that was named to [`Readiness::new`] and of which nothing was heard yet is not met.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<Vec<Condition>>>,
}

/// Something that has to hold before driftd is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// E.g. `kafka`, `postgres`, `collect`.
    pub name: &'static str,
    /// Whether it holds.
    pub ready: bool,
    /// Why it does not, or what it last said.
    pub reason: String,
}

impl Readiness {
    /// Waits for all of these.
    pub fn new(conditions: &[&'static str]) -> Self {
        let waiting = |name: &&'static str| Condition {
            name,
            ready: false,
            reason: "not heard of yet".into(),
        };
        let (state, _) = watch::channel(conditions.iter().map(waiting).collect());
        Self {
            state: Arc::new(state),
        }
    }

    /// This holds from now on.
    pub fn ready(&self, name: &'static str) {
        self.set(name, true, String::new());
    }

    /// This does not hold, for this reason.
    pub fn not_ready(&self, name: &'static str, reason: impl Into<String>) {
        self.set(name, false, reason.into());
    }

    fn set(&self, name: &'static str, ready: bool, reason: String) {
        self.state.send_if_modified(|conditions| {
            let said = Condition {
                name,
                ready,
                reason,
            };
            match conditions
                .iter_mut()
                .find(|condition| condition.name == name)
            {
                Some(known) if *known == said => false,
                Some(known) => {
                    *known = said;
                    true
                }
                None => {
                    conditions.push(said);
                    true
                }
            }
        });
    }

    /// All conditions as they stand.
    pub fn conditions(&self) -> Vec<Condition> {
        self.state.borrow().clone()
    }

    /// Whether all hold.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().iter().all(|condition| condition.ready)
    }

    /// Returns once all hold.
    pub async fn wait(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as self does, so this ends only when all hold.
        let _ = state
            .wait_for(|all| all.iter().all(|condition| condition.ready))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_all_are() {
        let readiness = Readiness::new(&["kafka", "postgres"]);
        assert!(!readiness.is_ready());
        readiness.ready("kafka");
        readiness.not_ready("postgres", "connection refused");
        assert_eq!(readiness.conditions()[1].reason, "connection refused");
        let waiting = readiness.clone();
        let wait = async move { waiting.wait().await };
        let finish = async { readiness.ready("postgres") };
        tokio::join!(wait, finish);
        assert!(readiness.is_ready());
        readiness.not_ready("collect", "partition revoked");
        assert!(!readiness.is_ready());
    }
}
