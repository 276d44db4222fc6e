//! JSON payloads straight into columns, over a safe streaming parser.
//!
//! A message is walked along the plan's trie; what nobody watches is skipped but still checked to
//! be JSON. A message that breaks costs only itself: its rows are taken back, whatever of them was
//! written. Nesting and the number of rows are bounded by [`MessageLimits`].

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};

use super::Plan;
use super::leaf::Leaves;
use super::shape::Shape;
use crate::batch::{Builder, Cell, MAX_DIMENSION};
use crate::settings::MessageLimits;

/// Why a payload is not readable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The parser's words, with the place.
    #[error("{message} at byte {at}")]
    Syntax {
        /// What is wrong.
        message: String,
        /// Position in bytes from 0.
        at: usize,
    },
    /// A number, a text or a boolean where an object or an array should be.
    #[error("the payload is {0}, not an object or an array")]
    Scalar(&'static str),
    /// `[*]` over a longer array than [`Plan::max_rows`].
    #[error("an array of more than {0} rows")]
    TooManyRows(usize),
    /// Deeper than `limits.max_message_depth`.
    #[error("nested too deep at byte {0}")]
    TooDeep(usize),
}

impl From<JiterError> for Error {
    fn from(error: JiterError) -> Self {
        // The parser's own limit is above what the settings allow.
        let too_deep = JsonErrorType::RecursionLimitExceeded;
        if error.error_type == JiterErrorType::JsonError(too_deep) {
            return Self::TooDeep(error.index);
        }
        let message = match error.error_type {
            JiterErrorType::JsonError(kind) => kind.to_string(),
            wrong @ JiterErrorType::WrongType { .. } => wrong.to_string(),
        };
        Self::Syntax {
            message,
            at: error.index,
        }
    }
}

/// Decodes the payloads of one plan; holds the buffers that are used again, and how messages looked
/// of late.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: MessageLimits,
    tape: Vec<u8>,
    /// The vector that is being read.
    numbers: Vec<f64>,
    shape: Option<Shape>,
    /// Messages in a row that were not of the shape.
    misses: u32,
}

impl Decoder {
    /// Knows no messages yet.
    pub fn new(limits: MessageLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Decodes one payload into the builder's next rows and returns how many they are: 1, or the
    /// length of the array that the plan makes rows of. The caller counts them in with
    /// [`Builder::keep`]; on an error they have been taken back.
    ///
    /// # Errors
    /// The payload is not JSON or nothing that a row can be read from.
    pub fn decode(
        &mut self,
        plan: &Plan,
        payload: &[u8],
        out: &mut Builder,
    ) -> Result<usize, Error> {
        let row = out.len();
        out.reserve(row);
        if let Some(shape) = &self.shape {
            let mut leaves = Leaves { plan, out, row };
            if shape.read(payload, &mut leaves, &mut self.numbers) {
                self.misses = 0;
                return Ok(1);
            }
            out.roll_back(1);
        }
        self.parse(plan, payload, out)
    }

    fn parse(&mut self, plan: &Plan, payload: &[u8], out: &mut Builder) -> Result<usize, Error> {
        let json = Jiter::with_tape(payload, std::mem::take(&mut self.tape)).with_allow_inf_nan();
        let base = out.len();
        let mut walk = Walk {
            plan,
            limits: self.limits,
            depth: 0,
            json,
            out,
            numbers: &mut self.numbers,
            base,
            row: base,
            rows: None,
        };
        let result = walk.message();
        let single = walk.rows.is_none();
        let rows = walk.rows.unwrap_or(1);
        self.tape = walk.json.into_tape();
        if single && result.is_ok() {
            self.missed(plan, payload);
        }
        match result {
            Ok(()) => {
                if rows == 0 {
                    out.roll_back(1); // what stood beside the empty array
                } else if rows > 1 {
                    for column in &plan.shared {
                        out.repeat(*column, base, base + 1..base + rows);
                    }
                }
                Ok(rows)
            }
            Err(error) => {
                out.roll_back(rows.max(1));
                Err(error)
            }
        }
    }
}

impl Decoder {
    /// One odd message is no reason to forget the shape of all others; the longer they go on being
    /// odd, the more seldom it is worth learning another one.
    fn missed(&mut self, plan: &Plan, payload: &[u8]) {
        self.misses = self.misses.saturating_add(1);
        if self.shape.is_none() && self.misses == 1
            || self.misses > 1 && self.misses.is_power_of_two()
        {
            self.shape = Shape::learn(plan, payload, self.limits.depth);
        }
    }
}

struct Walk<'a, 'j> {
    plan: &'a Plan,
    limits: MessageLimits,
    /// Arrays and objects that the walk is inside of.
    depth: usize,
    json: Jiter<'j>,
    out: &'a mut Builder,
    numbers: &'a mut Vec<f64>,
    base: usize,
    row: usize,
    /// How many rows an array made; `None`: the message is one row.
    rows: Option<usize>,
}

impl Walk<'_, '_> {
    fn message(&mut self) -> Result<(), Error> {
        match self.json.peek()? {
            peek @ (Peek::Object | Peek::Array) => self.value(0, peek)?,
            peek => {
                self.json.known_skip(peek)?;
                self.json.finish()?;
                return Err(Error::Scalar(name(peek)));
            }
        }
        Ok(self.json.finish()?)
    }

    fn value(&mut self, node: usize, peek: Peek) -> Result<(), Error> {
        let known = &self.plan.nodes[node];
        match peek {
            Peek::Object if !known.keys.is_empty() => {
                self.absent(node, Cell::WrongType);
                self.object(node)
            }
            Peek::Array if known.each.is_some() || !known.items.is_empty() => {
                let start = self.json.current_index();
                self.array(node)?;
                if known.longest > 0 {
                    self.vector_again(node, start)
                } else {
                    self.absent(node, Cell::WrongType);
                    Ok(())
                }
            }
            _ if known.leaves.is_empty() => self.skip(peek),
            _ => self.leaf(node, peek),
        }
    }

    /// What nobody watches has to be JSON all the same, and not too deep.
    fn skip(&mut self, peek: Peek) -> Result<(), Error> {
        let start = self.json.current_index();
        self.json.known_skip(peek)?;
        self.check_depth(start)
    }

    /// Looks at what was read since `start`, a whole value. Each level takes two brackets, so that
    /// a short text needs no look.
    fn check_depth(&self, start: usize) -> Result<(), Error> {
        let text = self.json.slice_to_current(start);
        let left = self.limits.depth.saturating_sub(self.depth);
        if text.len() > 2 * left && nesting(text) > left {
            return Err(Error::TooDeep(start));
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > self.limits.depth {
            return Err(Error::TooDeep(self.json.current_index()));
        }
        Ok(())
    }

    fn object(&mut self, node: usize) -> Result<(), Error> {
        self.enter()?;
        let plan = self.plan;
        let known = &plan.nodes[node];
        let mut expected = 0;
        let mut key = self.json.known_object()?;
        while let Some(name) = key {
            // Messages of one producer have their keys in one order: try the next one first.
            let child = match known.keys.get(expected) {
                Some((next, child)) if next == name => Some(*child),
                _ => known.by_key.get(name).copied(),
            };
            let peek = self.json.peek()?;
            match child {
                Some(child) => {
                    expected = match known.keys.get(expected) {
                        Some((_, next)) if *next == child => expected + 1,
                        _ => {
                            known
                                .keys
                                .iter()
                                .position(|(_, c)| *c == child)
                                .unwrap_or(0)
                                + 1
                        }
                    };
                    self.value(child, peek)?;
                }
                None => self.skip(peek)?,
            }
            key = self.json.next_key()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self, node: usize) -> Result<(), Error> {
        self.enter()?;
        let known = &self.plan.nodes[node];
        let most = self.plan.max_rows(self.limits.rows);
        let mut index = 0;
        let mut item = self.json.known_array()?;
        while let Some(peek) = item {
            if let Some(each) = known.each {
                if index >= most {
                    return Err(Error::TooManyRows(most));
                }
                self.row = self.base + index;
                self.rows = Some(self.rows.unwrap_or(0).max(index + 1));
                self.out.reserve(self.row);
                self.value(each, peek)?;
                self.row = self.base;
            } else if let Some(child) = known.item(index) {
                self.value(child, peek)?;
            } else {
                self.skip(peek)?;
            }
            index += 1;
            item = self.json.array_step()?;
        }
        if known.each.is_some() {
            self.rows = Some(self.rows.unwrap_or(0));
        }
        self.depth -= 1;
        Ok(())
    }

    fn absent(&mut self, node: usize, cell: Cell) {
        self.leaves().absent(node, cell);
    }

    fn leaves(&mut self) -> Leaves<'_> {
        Leaves {
            plan: self.plan,
            out: &mut *self.out,
            row: self.row,
        }
    }

    #[inline]
    fn leaf(&mut self, node: usize, peek: Peek) -> Result<(), Error> {
        match peek {
            Peek::String => {
                let text = self.json.known_str()?;
                let (plan, row) = (self.plan, self.row);
                let out = &mut *self.out;
                Leaves { plan, out, row }.text(node, text);
            }
            Peek::Null => {
                self.json.known_null()?;
                self.absent(node, Cell::Null);
            }
            Peek::True | Peek::False => {
                let value = self.json.known_bool(peek)?;
                self.leaves().boolean(node, value);
            }
            Peek::Array if self.plan.nodes[node].longest > 0 => {
                self.enter()?;
                let start = self.json.current_index();
                let most = self.plan.nodes[node].longest;
                let whole = numbers(&mut self.json, most, self.numbers)?;
                self.depth -= 1;
                if !whole {
                    self.check_depth(start)?;
                }
                self.vector(node, whole);
            }
            Peek::Object | Peek::Array => {
                self.skip(peek)?;
                self.absent(node, Cell::WrongType);
            }
            _ => {
                let start = self.json.current_index();
                let value = self.json.known_float(peek)?;
                let written = self.json.slice_to_current(start);
                self.leaves().number(node, value, written);
            }
        }
        Ok(())
    }
}

impl Walk<'_, '_> {
    fn vector(&mut self, node: usize, whole: bool) {
        let (plan, row) = (self.plan, self.row);
        let out = &mut *self.out;
        let numbers = whole.then_some(&self.numbers[..]);
        Leaves { plan, out, row }.array(node, numbers);
    }

    /// An array that is a vector for some and holds elements for others, read once more.
    fn vector_again(&mut self, node: usize, start: usize) -> Result<(), Error> {
        let text = self.json.slice_to_current(start);
        let mut json = Jiter::new(text).with_allow_inf_nan();
        json.peek()?;
        let whole = numbers(&mut json, self.plan.nodes[node].longest, self.numbers)?;
        self.vector(node, whole);
        Ok(())
    }
}

/// Reads a text that is one array; whether there are numbers in it and nothing else.
///
/// # Errors
/// The text is not JSON, or no array.
pub fn vector(text: &[u8], found: &mut Vec<f64>) -> Result<bool, Error> {
    let mut json = Jiter::new(text).with_allow_inf_nan();
    match json.peek()? {
        Peek::Array => {}
        peek => return Err(Error::Scalar(name(peek))),
    }
    let whole = numbers(&mut json, MAX_DIMENSION, found)?;
    json.finish()?;
    Ok(whole)
}

/// Reads an array to its end, with its numbers up to one more than `most`; whether there is nothing
/// else in it.
fn numbers(json: &mut Jiter<'_>, most: usize, found: &mut Vec<f64>) -> Result<bool, JiterError> {
    found.clear();
    let mut whole = true;
    let mut item = json.known_array()?;
    while let Some(peek) = item {
        if whole && found.len() <= most && peek.is_num() {
            found.push(json.known_float(peek)?);
        } else {
            whole &= peek.is_num();
            json.known_skip(peek)?;
        }
        item = json.array_step()?;
    }
    Ok(whole)
}

/// How deep the arrays and objects of a value are nested; it is known to be JSON.
fn nesting(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

fn name(peek: Peek) -> &'static str {
    match peek {
        Peek::String => "a text",
        Peek::Null => "null",
        Peek::True | Peek::False => "a boolean",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, UInt32Type};

    use super::*;
    use crate::batch::Batch;
    use crate::ingest::decode::Read;
    use crate::ingest::decode::Source;
    use crate::ingest::path::FieldPath;
    use crate::monitor::TimeUnit;

    fn plan(paths: &[(&str, Read)]) -> Plan {
        let mut plan = Plan::default();
        for (path, read) in paths {
            let path = FieldPath::parse(path).unwrap();
            plan.add(Source::Field(path), read.clone()).unwrap();
        }
        plan
    }

    fn decode(plan: &Plan, payloads: &[&[u8]]) -> (Batch, Vec<Option<String>>) {
        let mut builder = Builder::new(&plan.shapes(), 2);
        let mut decoder = Decoder::default();
        let mut errors = Vec::new();
        for (offset, payload) in payloads.iter().enumerate() {
            match decoder.decode(plan, payload, &mut builder) {
                Ok(rows) => {
                    builder.keep(i64::try_from(offset).unwrap(), rows);
                    errors.push(None);
                }
                Err(error) => errors.push(Some(error.to_string())),
            }
        }
        (builder.finish(), errors)
    }

    const TEXT: Read = Read::Text {
        plain_numbers: false,
    };

    fn numbers(batch: &Batch, column: usize) -> Vec<Option<f64>> {
        batch
            .array(column)
            .as_primitive::<Float64Type>()
            .iter()
            .collect()
    }

    fn texts(batch: &Batch, column: usize) -> Vec<Option<String>> {
        let array = batch.array(column);
        let array = array.as_dictionary::<UInt32Type>();
        let array = array.downcast_dict::<arrow::array::StringArray>().unwrap();
        array.into_iter().map(|t| t.map(str::to_owned)).collect()
    }

    #[test]
    fn a_bad_message_costs_only_itself() {
        let plan = plan(&[("a", Read::Number), ("b", TEXT)]);
        let (batch, errors) = decode(
            &plan,
            &[
                br#"{"a": 1, "b": "x"}"#,
                br#"{"a": 2, "b": "y""#,
                b"nope",
                br#"{"a":3}{"a":4}"#,
                b"\"text\"",
                b"",
                b"{\"a\": 5, \"b\": \"\xff\"}",
                br#"{"b": "z", "extra": [1, {"deep": true}], "a": 6}"#,
            ],
        );
        assert_eq!(numbers(&batch, 0), [Some(1.0), Some(6.0)]);
        assert_eq!(texts(&batch, 1), [Some("x".into()), Some("z".into())]);
        assert_eq!(errors.iter().flatten().count(), 6);
        assert!(errors[4].as_ref().unwrap().contains("a text"), "{errors:?}");
    }

    #[test]
    fn every_kind_of_cell_is_told_apart() {
        let plan = plan(&[("a", Read::Number), ("b", TEXT)]);
        let (batch, errors) = decode(
            &plan,
            &[
                br#"{"a": "3.5", "b": 7.0}"#,
                br#"{"a": null, "b": null}"#,
                br#"{"a": {}, "b": [1]}"#,
                br#"{"a": NaN}"#,
                br#"{"a": 1e999, "b": true}"#,
                br#"{"a": -Infinity, "b": ""}"#,
                br#"{"a": "many", "b": "\ud83d\ude00"}"#,
                br#"{"a": 1, "a": 2}"#,
            ],
        );
        assert!(errors.iter().all(Option::is_none), "{errors:?}");
        use Cell::{Coerced, Missing, NaN, NegInf, Null, Ok, PosInf, WrongType};
        assert_eq!(
            batch.cells(0),
            [Coerced, Null, WrongType, NaN, PosInf, NegInf, WrongType, Ok]
        );
        assert_eq!(
            batch.cells(1),
            [
                Coerced, Null, WrongType, Missing, Coerced, Null, Ok, Missing
            ]
        );
        assert_eq!(
            numbers(&batch, 0)[7],
            Some(2.0),
            "the last of two equal keys wins"
        );
        assert_eq!(texts(&batch, 1)[0].as_deref(), Some("7"));
        assert_eq!(texts(&batch, 1)[6].as_deref(), Some("😀"));
    }

    #[test]
    fn nested_paths_arrays_and_times() {
        let plan = plan(&[
            ("data.x[1]", Read::Number),
            ("meta.\"a.b\"", TEXT),
            ("t", Read::Time(TimeUnit::S)),
        ]);
        let (batch, errors) = decode(
            &plan,
            &[
                br#"{"t": 1.5, "meta": {"a.b": "m"}, "data": {"x": [1, 2, 3]}}"#,
                br#"{"data": {"x": [1]}, "meta": "no", "t": "1970-01-01T00:00:02Z"}"#,
            ],
        );
        assert!(errors.iter().all(Option::is_none));
        assert_eq!(numbers(&batch, 0), [Some(2.0), None]);
        assert_eq!(batch.cells(1), [Cell::Ok, Cell::Missing]);
        let times = batch.array(2);
        let times = times.as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(times.values().to_vec(), [1500, 2000]);
    }

    #[test]
    fn one_message_may_hold_several_rows() {
        let plan = plan(&[("rows[*].a", Read::Number), ("model", TEXT)]);
        let (batch, errors) = decode(
            &plan,
            &[
                br#"{"rows": [{"a": 1}, {"a": 2}, {}], "model": "v1"}"#,
                br#"{"model": "v2", "rows": []}"#,
                br#"{"model": "v3", "rows": [{"a": 9}, {"a": ]}"#,
                br#"{"rows": [{"a": 4}]}"#,
            ],
        );
        assert_eq!(errors.iter().flatten().count(), 1);
        assert_eq!(numbers(&batch, 0), [Some(1.0), Some(2.0), None, Some(4.0)]);
        let models = texts(&batch, 1);
        assert_eq!(
            models[..3],
            [Some("v1".into()), Some("v1".into()), Some("v1".into())]
        );
        assert_eq!(models[3], None, "a row taken back left its version behind");
        assert_eq!(
            batch
                .origins
                .iter()
                .map(|o| (o.offset, o.row))
                .collect::<Vec<_>>(),
            [(0, 0), (0, 1), (0, 2), (3, 0)]
        );
        let other = FieldPath::parse("items[*].a").unwrap();
        let mut plan = plan;
        assert!(plan.add(Source::Field(other), Read::Number).is_err());
    }

    /// Everything that a batch says, with doubles as their bits.
    fn said(batch: &Batch) -> String {
        let one = |column: usize| {
            let array = batch.array(column);
            let values = match array.as_primitive_opt::<Float64Type>() {
                Some(numbers) => {
                    let bits = numbers.iter().map(|n| n.map(f64::to_bits));
                    format!("{:?}", bits.collect::<Vec<_>>())
                }
                None => format!("{array:?}"),
            };
            format!("{values} {:?}", batch.cells(column))
        };
        let columns: Vec<String> = (0..batch.columns()).map(one).collect();
        format!("{columns:?} {:?}", batch.origins)
    }

    /// Values as they may stand in one place of messages that are alike otherwise.
    const VALUES: [&str; 40] = [
        "1",
        "-0",
        "0.1",
        "3.0",
        "123456.789",
        "0.8414709848078965",
        "1e5",
        "-2.5E-3",
        "1e999",
        "9007199254740993",
        "9007199254740993.5",
        "18446744073709551615",
        "99999999999999999999",
        "0.00000000000000000000000123",
        "123456789.123456789012345678",
        "1700000000000",
        "01",
        "1.",
        ".5",
        "-",
        "+1",
        "1e",
        "0x1",
        "NaN",
        "-Infinity",
        "null",
        "true",
        "false",
        "nul",
        "truex",
        "\"\"",
        "\"text\"",
        "\"3.5\"",
        "\"\\u00e9\"",
        "\"é\"",
        "\"open",
        "\"a\\\"b\"",
        "{}",
        "[1]",
        "{\"x\": 1}",
    ];

    #[test]
    fn messages_of_a_known_shape_are_read_as_by_the_parser() {
        let labels = Read::Text {
            plain_numbers: true,
        };
        let plan = plan(&[
            ("a", Read::Number),
            ("b", TEXT),
            ("b", labels),
            ("c.d[1]", Read::Number),
            ("t", Read::Time(TimeUnit::Ms)),
            ("t", Read::Seconds(TimeUnit::S)),
        ]);
        let message = |place: usize, value: &str| {
            let mut values = ["1.5", "\"x\"", "7", "1700000000000", "\"skipped\"", "12"];
            values[place] = value;
            let [a, b, d, t, s, n] = values;
            format!(
                "{{\"a\": {a}, \"b\":{b},\"c\":{{\"d\":[0, {d}]}}, \"t\":{t} ,\"s\":{s},\"n\":{n}}}"
            )
        };
        let usual = message(0, "2.25");
        for place in 0..6 {
            for value in VALUES {
                let odd = message(place, value);
                // The second message has the shape of the first or not; the third does again.
                let sent = [usual.as_bytes(), odd.as_bytes(), usual.as_bytes()];
                let (batch, errors) = decode(&plan, &sent);
                let mut expected = Builder::new(&plan.shapes(), 2);
                let mut refused = Vec::new();
                for (offset, payload) in (0..).zip(sent) {
                    // A decoder of its own knows no shape.
                    let rows = Decoder::default().decode(&plan, payload, &mut expected);
                    refused.push(rows.as_ref().err().map(ToString::to_string));
                    if let Ok(rows) = rows {
                        expected.keep(offset, rows);
                    }
                }
                assert_eq!(errors, refused, "{odd}");
                assert_eq!(said(&batch), said(&expected.finish()), "{odd}");
            }
        }
    }

    /// Arrays as they may stand where a vector of two numbers is expected.
    const ARRAYS: [&str; 24] = [
        "[1, 2]",
        "[ 1.5e3 ,\t-2\n]",
        "[0.1,0.30000000000000004]",
        "[1]",
        "[]",
        "[ ]",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[1, null]",
        "[1, \"2\"]",
        "[1, true]",
        "[[1], 2]",
        "[1, {}]",
        "[NaN, 1]",
        "[Infinity, -Infinity]",
        "[1, -Infinity]",
        "[1e999, 1]",
        "[1e308, 1.7e308]",
        "[1, 01]",
        "[1 2]",
        "[1, 2",
        "[,1]",
        "[1,]",
        "[-, 1]",
    ];

    fn vectors(batch: &Batch, column: usize) -> Vec<Option<Vec<f64>>> {
        let lists = batch.array(column);
        let lists = lists.as_fixed_size_list().iter();
        let numbers =
            |list: arrow::array::ArrayRef| list.as_primitive::<Float64Type>().values().to_vec();
        lists.map(|list| list.map(numbers)).collect()
    }

    #[test]
    fn a_vector_is_as_long_as_the_baseline_says_and_all_numbers() {
        let plan = plan(&[("e", Read::Vector(2)), ("a", Read::Number)]);
        let sent: Vec<String> = ARRAYS[..18]
            .iter()
            .chain(&["null", "7", "\"[1, 2]\"", "true", "{}"])
            .map(|e| format!("{{\"e\": {e}, \"a\": 1}}"))
            .chain(["{\"a\": 1}".into(), "{\"e\": [1], \"e\": [3, 4]}".into()])
            .collect();
        let sent: Vec<&[u8]> = sent.iter().map(|text| text.as_bytes()).collect();
        let (batch, errors) = decode(&plan, &sent);
        assert!(errors.iter().all(Option::is_none), "{errors:?}");
        use Cell::{Missing, NaN, NegInf, Null, Ok, PosInf, WrongType};
        let mut expected = vec![Ok; 3];
        expected.extend([WrongType; 10]);
        expected.extend([NaN, PosInf, NegInf, PosInf, PosInf, Null]);
        expected.extend([WrongType; 4]);
        expected.extend([Missing, Ok]);
        assert_eq!(batch.cells(0), expected);
        let found = vectors(&batch, 0);
        assert_eq!(found[1], Some(vec![1500.0, -2.0]));
        assert_eq!(found[2], Some(vec![0.1, 0.300_000_000_000_000_04]));
        assert_eq!(found[24], Some(vec![3.0, 4.0]));
        assert_eq!(found.iter().flatten().count(), 4);
    }

    #[test]
    fn vectors_in_messages_of_a_known_shape_are_read_as_by_the_parser() {
        let plan = plan(&[
            ("e", Read::Vector(2)),
            ("e", Read::Vector(3)),
            ("n", Read::Number),
            ("o.f", Read::Vector(1)),
        ]);
        let message = |e: &str, f: &str| {
            format!("{{\"e\": {e}, \"n\": [7, 8], \"o\": {{\"f\":{f}}}, \"s\": [1]}}")
        };
        let usual = message("[1, 2]", "[3]");
        for value in ARRAYS.into_iter().chain(VALUES) {
            for odd in [message(value, "[3]"), message("[1, 2, 3]", value)] {
                let sent = [usual.as_bytes(), odd.as_bytes(), usual.as_bytes()];
                let (batch, errors) = decode(&plan, &sent);
                let mut expected = Builder::new(&plan.shapes(), 2);
                let mut refused = Vec::new();
                for (offset, payload) in (0..).zip(sent) {
                    let rows = Decoder::default().decode(&plan, payload, &mut expected);
                    refused.push(rows.as_ref().err().map(ToString::to_string));
                    if let Ok(rows) = rows {
                        expected.keep(offset, rows);
                    }
                }
                assert_eq!(errors, refused, "{odd}");
                assert_eq!(said(&batch), said(&expected.finish()), "{odd}");
            }
        }
    }

    #[test]
    fn a_known_shape_has_vectors() {
        let plan = plan(&[("e", Read::Vector(2)), ("t", Read::Time(TimeUnit::Ms))]);
        let mut builder = Builder::new(&plan.shapes(), 16);
        let mut decoder = Decoder::default();
        for payload in [
            r#"{"e": null, "t": 1}"#,
            r#"{"e": [1, 2], "t": 1}"#,
            r#"{"e": [1], "t": 1}"#,
        ] {
            decoder
                .decode(&plan, payload.as_bytes(), &mut builder)
                .unwrap();
            builder.keep(0, 1);
        }
        assert_eq!(decoder.misses, 0, "each was read by its shape");
        assert_eq!(
            builder.finish().cells(0),
            [Cell::Null, Cell::Ok, Cell::WrongType]
        );
    }

    #[test]
    fn a_vector_may_be_of_each_row_or_of_the_message_and_its_items_features() {
        let plan = plan(&[
            ("rows[*].e", Read::Vector(2)),
            ("shared", Read::Vector(2)),
            ("shared[1]", Read::Number),
        ]);
        let sent: [&[u8]; 2] = [
            br#"{"rows": [{"e": [1, 2]}, {"e": [1]}, {}], "shared": [5, 6]}"#,
            br#"{"rows": [{"e": [3, 4]}], "shared": [5, 6, 7]}"#,
        ];
        let (batch, errors) = decode(&plan, &sent);
        assert!(errors.iter().all(Option::is_none), "{errors:?}");
        use Cell::{Missing, Ok, WrongType};
        assert_eq!(batch.cells(0), [Ok, WrongType, Missing, Ok]);
        assert_eq!(batch.cells(1), [Ok, Ok, Ok, WrongType]);
        assert_eq!(vectors(&batch, 1)[2], Some(vec![5.0, 6.0]));
        assert_eq!(numbers(&batch, 2), [Some(6.0); 4]);
    }

    /// Rows without a vector take its memory as well, so that one small message could take a lot.
    #[test]
    fn wide_vectors_make_fewer_rows_of_a_message() {
        let plan = plan(&[
            ("rows[*].e", Read::Vector(16_384)),
            ("shared", Read::Vector(2)),
        ]);
        let message = |rows: usize| format!("{{\"rows\": [{}]}}", vec!["{}"; rows].join(","));
        let most = plan.max_rows(10_000);
        assert_eq!(most, 1023);
        assert_eq!(plan.batch_rows(), 16);
        let (batch, errors) = decode(
            &plan,
            &[message(most).as_bytes(), message(most + 1).as_bytes()],
        );
        assert_eq!(batch.origins.len(), most);
        assert_eq!(
            errors[1].as_deref(),
            Some("an array of more than 1023 rows")
        );
        assert_eq!(Plan::default().max_rows(10_000), 10_000);
        assert_eq!(Plan::default().batch_rows(), 1024);
    }

    #[test]
    fn a_shape_is_learned_anew_where_messages_have_changed() {
        let plan = plan(&[("a", Read::Number)]);
        let mut builder = Builder::new(&plan.shapes(), 16);
        let mut decoder = Decoder::default();
        let old: &[u8] = br#"{"a": 1}"#;
        let new: &[u8] = br#"{"b": "x", "a": 1}"#;
        for (payload, misses) in [
            (old, 1),
            (old, 0),
            (new, 1),
            (old, 0),
            (new, 1),
            (new, 2),
            (new, 0),
        ] {
            let rows = decoder.decode(&plan, payload, &mut builder).unwrap();
            builder.keep(0, rows);
            assert_eq!(decoder.misses, misses);
        }
    }

    /// Nested as deep as is allowed, or a level deeper, wherever that is: in what nobody watches, where
    /// a number was expected, within a vector, on the way to a field.
    #[test]
    fn nesting_beyond_the_limit_is_refused() {
        let plan = plan(&[
            ("a.b", Read::Number),
            ("v", Read::Vector(2)),
            ("l[2]", Read::Number),
        ]);
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let places: [(&str, usize); 6] = [
            ("{\"z\": @}", 1),
            ("{\"z\": {\"y\": [0, \"]]}\\\"[[[[[[[[[[[[\", @]}}", 3),
            ("{\"a\": {\"b\": @}}", 2),
            ("{\"a\": {\"c\": @}}", 2),
            ("{\"v\": [1, @]}", 2),
            ("{\"l\": [1, @, 2]}", 2),
        ];
        for (text, levels) in places {
            let limits = MessageLimits {
                depth: 12,
                ..MessageLimits::default()
            };
            for (more, deep) in [(0, false), (1, true), (9_000, true)] {
                let payload = text.replace('@', &nested(12 - levels + more));
                let mut builder = Builder::new(&plan.shapes(), 2);
                let mut decoder = Decoder::new(limits);
                let decoded = decoder.decode(&plan, payload.as_bytes(), &mut builder);
                let refused = matches!(decoded, Err(Error::TooDeep(_)));
                assert_eq!(refused, deep, "{text} with {more} more: {decoded:?}");
            }
        }
    }

    /// A message of a known shape may have a vector where the one before had none: that is a level.
    #[test]
    fn a_known_shape_is_no_way_around_the_limit() {
        let plan = plan(&[("a.v", Read::Vector(1))]);
        for (depth, fits) in [(3, true), (2, false)] {
            let limits = MessageLimits {
                depth,
                ..MessageLimits::default()
            };
            let mut builder = Builder::new(&plan.shapes(), 4);
            let mut decoder = Decoder::new(limits);
            for payload in ["{\"a\":{\"v\":null}}", "{\"a\":{\"v\":[1]}}"] {
                let decoded = decoder.decode(&plan, payload.as_bytes(), &mut builder);
                assert_eq!(decoded.is_ok(), fits || payload.contains("null"));
                builder.keep(0, decoded.unwrap_or(0));
            }
        }
    }

    /// What the parser makes of a message is the parser's own affair; that it is the same with and
    /// without a known shape, and that nothing of it stays, is ours.
    #[test]
    fn odd_texts_and_numbers_are_values_or_refused() {
        let labels = Read::Text {
            plain_numbers: true,
        };
        let plan = plan(&[("a", Read::Number), ("b", labels)]);
        let digits = "7".repeat(10_000);
        let small = format!("0.{}1", "0".repeat(10_000));
        let cases: [(&str, Option<Cell>, Option<Cell>); 9] = [
            ("{\"a\": @, \"b\": @}", Some(Cell::PosInf), Some(Cell::Ok)),
            (
                "{\"a\": 1, \"b\": \"x\\u0000y\"}",
                Some(Cell::Ok),
                Some(Cell::Coerced),
            ),
            ("{\"a\": 1, \"b\": \"x\0y\"}", None, None),
            ("{\"a\": 1, \"b\": \"\\ud800\"}", None, None),
            (
                "{\"a\": 1, \"\\u0000\": 2, \"b\": 3}",
                Some(Cell::Ok),
                Some(Cell::Ok),
            ),
            ("\u{feff}{\"a\": 1}", None, None),
            (
                "{\"a\": 1, \"a\": \"x\", \"b\": 1, \"b\": null}",
                Some(Cell::WrongType),
                Some(Cell::Null),
            ),
            (
                "{\"a\": -Infinity, \"b\": NaN}",
                Some(Cell::NegInf),
                Some(Cell::NaN),
            ),
            ("", None, None),
        ];
        for (text, a, b) in cases {
            let payload = text.replace('@', &digits);
            let (batch, errors) = decode(&plan, &[payload.as_bytes()]);
            let cell = |column: usize| batch.cells(column).first().copied();
            let named = &text[..text.len().min(40)];
            assert_eq!((cell(0), cell(1)), (a, b), "{named}: {errors:?}");
        }
        let (batch, _) = decode(&plan, &[format!("{{\"a\": {small}}}").as_bytes()]);
        assert_eq!(numbers(&batch, 0), [Some(0.0)]);
    }

    #[test]
    fn a_message_of_too_many_rows_leaves_nothing() {
        let plan = plan(&[("rows[*].a", Read::Number), ("b", TEXT)]);
        let rows = vec!["{\"a\":1}"; 1_000_000].join(",");
        let many = format!("{{\"b\": \"x\", \"rows\": [{rows}]}}");
        let (batch, errors) = decode(
            &plan,
            &[
                br#"{"rows": [{"a": 3}]}"#,
                many.as_bytes(),
                br#"{"rows": [{}]}"#,
            ],
        );
        assert!(errors[1].as_ref().unwrap().contains("more than 10000 rows"));
        assert_eq!(numbers(&batch, 0), [Some(3.0), None]);
        assert_eq!(batch.cells(1), [Cell::Missing; 2]);
    }
}
