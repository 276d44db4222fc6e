//! A decode plan: the field paths of all monitors of a topic, compiled once into a trie, so that a
//! message is walked once and only what somebody watches is read.

pub mod json;
mod leaf;
mod shape;
pub mod time;
pub mod value;

use std::collections::{BTreeMap, HashMap};

use crate::batch::Shape;
use crate::ingest::path::{FieldPath, Step};
use crate::monitor::TimeUnit;

/// What is read at a path, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Read {
    /// A number; numeric strings are coerced.
    Number,
    /// A label. Numbers and booleans count as coerced unless `plain_numbers`, since then the
    /// training data held them as such.
    Text {
        /// Labels are numbers or booleans in the training data.
        plain_numbers: bool,
    },
    /// A label that says true or false; what says neither stays as it is.
    Boolean,
    /// A text as it is written, such as a model version: no two ways of writing it are the same.
    Written,
    /// A point in time; strings as RFC 3339, numbers in this unit.
    Time(TimeUnit),
    /// A point in time as a feature: seconds since the epoch, as a number.
    Seconds(TimeUnit),
    /// An array of so many numbers. One of another length, or with anything else in it (a null, a
    /// number in quotes), is of a wrong type; one with a number that is not finite is as if it were
    /// that number.
    Vector(usize),
}

impl Read {
    /// How its column holds values.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Number | Self::Seconds(_) => Shape::Number,
            Self::Text { .. } | Self::Boolean | Self::Written => Shape::Text,
            Self::Time(_) => Shape::Time,
            Self::Vector(dimension) => Shape::Vector(*dimension),
        }
    }
}

/// Where a column comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A field of the payload.
    Field(FieldPath),
    /// A Kafka header.
    Header(String),
}

/// What cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two paths expand different arrays into rows.
    #[error("`{first}` and `{second}` would each make rows of another array; one topic has one")]
    TwoArrays {
        /// The first path with `[*]`.
        first: String,
        /// A later one with another prefix.
        second: String,
    },
}

/// A node of the trie.
#[derive(Debug, Default)]
struct Node {
    /// Columns that take the value found here.
    leaves: Vec<usize>,
    /// The length of the longest vector among them; 0: none is one.
    longest: usize,
    /// Children by key, in the order in which paths were added: the order in which messages are
    /// likely to have them.
    keys: Vec<(String, usize)>,
    by_key: HashMap<String, usize>,
    /// Children by array index.
    items: BTreeMap<usize, usize>,
    /// The child that every element goes to, each as a row.
    each: Option<usize>,
}

impl Node {
    /// The child of an array's element. Most elements that a hostile array has come after the last
    /// one that is watched.
    fn item(&self, index: usize) -> Option<usize> {
        let (last, _) = self.items.last_key_value()?;
        (index <= *last).then(|| self.items.get(&index).copied())?
    }
}

/// The compiled plan of a topic.
#[derive(Debug)]
pub struct Plan {
    nodes: Vec<Node>,
    columns: Vec<Read>,
    sources: HashMap<(Source, Read), usize>,
    headers: Vec<(String, usize)>,
    /// Columns outside `[*]`, copied to every row of a message with several.
    shared: Vec<usize>,
    each_prefix: Option<(Vec<Step>, String)>,
    /// Numbers in the vectors of a row.
    width: usize,
}

/// One message never makes more rows than have so many numbers in vectors: 128 MiB.
const MAX_NUMBERS: usize = 1 << 24;

/// Rows of about so many bytes are profiled at a time,
const BATCH_BYTES: usize = 128 << 10;
/// but at least so many,
const LEAST_ROWS: usize = 16;
/// and at most so many.
pub const BATCH_ROWS: usize = 1024;

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            columns: Vec::new(),
            sources: HashMap::new(),
            headers: Vec::new(),
            shared: Vec::new(),
            each_prefix: None,
            width: 0,
        }
    }
}

impl Plan {
    /// Adds a source, if it is not there yet, and returns its column.
    ///
    /// # Errors
    /// [`Error::TwoArrays`] if it expands another array into rows than an earlier one.
    pub fn add(&mut self, source: Source, read: Read) -> Result<usize, Error> {
        if let Some(column) = self.sources.get(&(source.clone(), read.clone())) {
            return Ok(*column);
        }
        if let Source::Field(path) = &source {
            self.check_each(path)?;
        }
        let column = self.columns.len();
        self.columns.push(read.clone());
        match &source {
            Source::Header(name) => {
                self.headers.push((name.clone(), column));
                self.shared.push(column);
            }
            Source::Field(path) => {
                let node = self.grow(path.steps());
                let node = &mut self.nodes[node];
                node.leaves.push(column);
                if let Read::Vector(dimension) = read {
                    node.longest = node.longest.max(dimension);
                    self.width += dimension;
                }
                if !path.steps().contains(&Step::Each) {
                    self.shared.push(column);
                }
            }
        }
        self.sources.insert((source, read), column);
        Ok(column)
    }

    /// The shapes of the columns, in order.
    pub fn shapes(&self) -> Vec<Shape> {
        self.columns.iter().map(Read::shape).collect()
    }

    /// How many of `most` rows one message makes at most: vectors take memory also where a row has
    /// none.
    pub fn max_rows(&self, most: usize) -> usize {
        most.min(MAX_NUMBERS / self.width.max(1)).max(1)
    }

    /// How many rows are profiled at a time: as many as stay in a near cache on their way from the
    /// decoder to the profiles.
    pub fn batch_rows(&self) -> usize {
        let shapes = self.columns.iter().map(Read::shape);
        let row: usize = shapes.map(Shape::bytes).sum();
        (BATCH_BYTES / row.max(1)).clamp(LEAST_ROWS, BATCH_ROWS)
    }

    /// Headers to be read, each with its column.
    pub fn headers(&self) -> &[(String, usize)] {
        &self.headers
    }

    fn check_each(&mut self, path: &FieldPath) -> Result<(), Error> {
        let Some(at) = path.steps().iter().position(|step| *step == Step::Each) else {
            return Ok(());
        };
        let prefix = &path.steps()[..at];
        match &self.each_prefix {
            Some((known, first)) if known != prefix => Err(Error::TwoArrays {
                first: first.clone(),
                second: path.to_string(),
            }),
            Some(_) => Ok(()),
            None => {
                self.each_prefix = Some((prefix.to_vec(), path.to_string()));
                Ok(())
            }
        }
    }

    fn grow(&mut self, steps: &[Step]) -> usize {
        let mut node = 0;
        for step in steps {
            let known = match step {
                Step::Key(key) => self.nodes[node].by_key.get(key).copied(),
                Step::Index(index) => self.nodes[node].items.get(index).copied(),
                Step::Each => self.nodes[node].each,
            };
            node = known.unwrap_or_else(|| self.child(node, step));
        }
        node
    }

    fn child(&mut self, parent: usize, step: &Step) -> usize {
        let child = self.nodes.len();
        self.nodes.push(Node::default());
        let parent = &mut self.nodes[parent];
        match step {
            Step::Key(key) => {
                parent.keys.push((key.clone(), child));
                parent.by_key.insert(key.clone(), child);
            }
            Step::Index(index) => {
                parent.items.insert(*index, child);
            }
            Step::Each => parent.each = Some(child),
        }
        child
    }
}
