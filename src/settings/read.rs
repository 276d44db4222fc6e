//! Reads a table key by key and notes everything that is wrong with it.
//!
//! Each key is named once, where it is read; what was never asked for is unknown. A reading
//! function returns `None` only after it has noted a problem (or, for [`Section::may`], when the
//! key is absent), so that a caller may read everything first and put it together afterwards.

use std::cell::{Cell, RefCell};

use super::field::Field;
use super::file::{Node, Origin, Table};
use super::problem::{Problem, nearest};

/// Where problems are noted.
#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<Vec<Problem>>);

impl Notes {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(RefCell::new(problems))
    }

    /// Notes a problem, unless the same value was already found wrong in the same way: what
    /// stands in `[defaults]` is read anew for every monitor.
    pub(super) fn push(&self, problem: Problem) {
        let same = |known: &Problem| {
            problem.origin.is_some()
                && known.origin == problem.origin
                && known.found == problem.found
                && last(&known.key) == last(&problem.key)
        };
        let mut problems = self.0.borrow_mut();
        if !problems.iter().any(same) {
            problems.push(problem);
        }
    }

    /// Takes back that a key is missing, once a mistyped one was found in its place.
    fn take_back_missing(&self, key: &str) {
        self.0
            .borrow_mut()
            .retain(|known| known.key != key || known.found != MISSING);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

const MISSING: &str = "missing";

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// A table that is being read.
pub(super) struct Section<'a> {
    path: String,
    table: &'a Table,
    origin: Option<&'a Origin>,
    asked: RefCell<Vec<&'static str>>,
    /// The keys are the user's own: none is unknown.
    open: Cell<bool>,
    notes: &'a Notes,
}

impl<'a> Section<'a> {
    /// The whole of the settings.
    pub(super) fn root(table: &'a Table, notes: &'a Notes) -> Self {
        Self::named(String::new(), table, None, notes)
    }

    pub(super) fn named(
        path: String,
        table: &'a Table,
        origin: Option<&'a Origin>,
        notes: &'a Notes,
    ) -> Self {
        Self {
            path,
            table,
            origin,
            asked: RefCell::default(),
            open: Cell::new(false),
            notes,
        }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether the key is there; it counts as asked for.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.field(key).is_some()
    }

    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(key);
        let node = self.table.get(key)?;
        Some(Field::new(self.key(key), node, self.notes))
    }

    /// All fields, whatever their names: for tables whose keys are the user's own.
    /// They all count as asked for.
    pub(super) fn all(&self) -> Vec<(&'a str, Field<'a>)> {
        self.open.set(true);
        let field = |name: &str, node| Field::new(self.key(name), node, self.notes);
        self.table
            .iter()
            .map(|(name, node)| (name.as_str(), field(name, node)))
            .collect()
    }

    /// A key that has to be there.
    pub(super) fn must<T>(
        &self,
        key: &'static str,
        right: &str,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        let Some(field) = self.field(key) else {
            self.missing(key, right);
            return None;
        };
        read(&field)
    }

    /// A key that may be absent.
    pub(super) fn may<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.field(key).and_then(|field| read(&field))
    }

    pub(super) fn missing(&self, key: &str, right: &str) {
        self.notes.push(Problem {
            origin: self
                .origin
                .filter(|o| **o != Origin::Default)
                .map(Origin::to_string),
            key: self.key(key),
            found: MISSING.into(),
            right: right.to_owned(),
        });
    }

    /// Notes the keys that nothing asked for. Call it last.
    pub(super) fn finish(&self) {
        if self.open.get() {
            return;
        }
        let mut known = self.asked.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for (key, node) in self.table {
            if !known.contains(&key.as_str()) {
                self.unknown(key, node, &known);
            }
        }
    }

    fn unknown(&self, key: &str, node: &Node, known: &[&'static str]) {
        let right = match nearest(key, known.iter().copied()) {
            Some(meant) => {
                self.notes.take_back_missing(&self.key(meant));
                format!("did you mean {}?", self.key(meant))
            }
            None if self.path.is_empty() => format!("known are {}", known.join(", ")),
            None => format!("{} knows {}", self.path, known.join(", ")),
        };
        self.notes.push(Problem {
            origin: Some(node.origin.to_string()),
            key: self.key(key),
            found: "unknown key".into(),
            right,
        });
    }
}
