//! Files of one JSON object a line, as Arrow batches.
//!
//! Nothing says what the columns are, so the rows are read twice: once to see what each column
//! holds over all of them, once to hand them on. Keys of nested objects become columns of their
//! own, with dots between the keys; a key with a dot in it and nested keys that read the same are
//! one column. Where a key comes twice in a row, the last one counts, as in messages.
//!
//! - booleans only: `Boolean`; whole numbers of 64 bits only: `Int64`; any numbers: `Float64`
//! - lists with numbers: `List(Float64)`, where anything else in a list is null
//! - lists of other things: `List(Utf8)`, each item as it is written; no feature can be made of it
//! - all else, above all what is a number in one row and a text in another: `Utf8`, texts as they
//!   are and the rest as it is written, so that a text in a column of numbers can be counted
//!
//! A key that is missing in a row and an explicit null are both null.

use std::collections::HashMap;
use std::io::{self, BufRead, Read as _};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use jiter::{Jiter, Peek};

use super::read::BATCH_ROWS;
use crate::ingest::decode::json::Error as JsonError;

/// Objects nested deeper than this are refused.
const MAX_DEPTH: usize = 64;
/// So are longer lines.
const MAX_LINE: u64 = 64 << 20;
/// And files with more columns: their keys are values.
const MAX_COLUMNS: usize = 10_000;

/// What rows hold, over all that were seen.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    names: Vec<String>,
    seen: Vec<Seen>,
    index: HashMap<String, usize>,
}

/// What one column was seen to hold.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    booleans: bool,
    integers: bool,
    floats: bool,
    texts: bool,
    empty_lists: bool,
    vectors: bool,
    lists: bool,
}

/// What stands at a place of a row.
#[derive(Debug, Clone)]
enum Value {
    Nothing,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// A place in [`Row::texts`].
    Text(Range<usize>),
    /// A place in [`Row::items`].
    List(Range<usize>),
}

/// One row while it is read.
#[derive(Debug, Default)]
struct Row {
    /// Per column its value, and where in the line it is written.
    cells: Vec<(Value, Range<usize>)>,
    texts: String,
    /// Items of lists: where they are written, and the number where they are one.
    items: Vec<(Range<usize>, Option<f64>)>,
}

impl Columns {
    /// Looks at every row of a file.
    ///
    /// # Errors
    /// Names the line, the byte in it, and the reason.
    pub fn see(&mut self, input: impl BufRead) -> Result<(), ArrowError> {
        let mut lines = Lines::new(input);
        let mut row = Row::default();
        while lines.next()? {
            row.read(&lines.line, |name| self.grow(name))
                .map_err(|reason| lines.wrong(&reason))?;
            for (seen, (value, _)) in self.seen.iter_mut().zip(&row.cells) {
                seen.add(value, &row.items);
            }
        }
        Ok(())
    }

    /// The rows of a file, as batches of [`Columns::schema`]. Columns that were not seen before are
    /// left out.
    pub fn read<R: BufRead>(
        &self,
        input: R,
    ) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> + use<R> {
        let columns = self.clone();
        let mut lines = Lines::new(input);
        std::iter::from_fn(move || columns.batch(&mut lines).transpose())
    }

    /// The columns, in the order in which they first came.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.names.iter().zip(&self.seen);
        let fields = fields.map(|(name, seen)| Field::new(name, seen.data_type(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn grow(&mut self, name: &str) -> Result<Option<usize>, String> {
        if let Some(known) = self.index.get(name) {
            return Ok(Some(*known));
        }
        if self.names.len() >= MAX_COLUMNS {
            return Err(format!(
                "`{name}` is one column too many, at most {MAX_COLUMNS} are read: are keys values \
                 here?"
            ));
        }
        self.index.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.seen.push(Seen::default());
        Ok(Some(self.names.len() - 1))
    }

    fn batch<R: BufRead>(&self, lines: &mut Lines<R>) -> Result<Option<RecordBatch>, ArrowError> {
        let schema = self.schema();
        let fields = schema.fields().iter();
        let mut columns: Vec<Column> = fields.map(|f| Column::new(f.data_type())).collect();
        let mut row = Row::default();
        let mut rows = 0;
        while rows < BATCH_ROWS && lines.next()? {
            row.read(&lines.line, |name| Ok(self.index.get(name).copied()))
                .map_err(|reason| lines.wrong(&reason))?;
            row.cells.resize(columns.len(), (Value::Nothing, 0..0));
            for (column, (value, place)) in columns.iter_mut().zip(&row.cells) {
                column.append(value, place, &row, &lines.line);
            }
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        let arrays = columns.into_iter().map(Column::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, arrays, &options).map(Some)
    }
}

impl Seen {
    fn add(&mut self, value: &Value, items: &[(Range<usize>, Option<f64>)]) {
        match value {
            Value::Nothing => {}
            Value::Boolean(_) => self.booleans = true,
            Value::Integer(_) => self.integers = true,
            Value::Float(_) => self.floats = true,
            Value::Text(_) => self.texts = true,
            Value::List(place) if place.is_empty() => self.empty_lists = true,
            Value::List(place) => {
                let whole = items[place.clone()].iter().all(|(_, item)| item.is_some());
                self.vectors |= whole;
                self.lists |= !whole;
            }
        }
    }

    fn data_type(self) -> DataType {
        let numbers = self.integers || self.floats;
        let any_list = self.empty_lists || self.vectors || self.lists;
        let of = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
        match (self.booleans, numbers, self.texts, any_list) {
            (true, false, false, false) => DataType::Boolean,
            (false, true, false, false) if self.floats => DataType::Float64,
            (false, true, false, false) => DataType::Int64,
            (false, false, false, true) if self.lists && !self.vectors => of(DataType::Utf8),
            (false, false, false, true) => of(DataType::Float64),
            _ => DataType::Utf8,
        }
    }
}

impl Row {
    /// Reads a line; `column` says where a name goes, if anywhere.
    fn read(
        &mut self,
        line: &[u8],
        mut column: impl FnMut(&str) -> Result<Option<usize>, String>,
    ) -> Result<(), String> {
        self.cells.fill((Value::Nothing, 0..0));
        self.texts.clear();
        self.items.clear();
        let mut json = Jiter::new(line).with_allow_inf_nan();
        let said = |error| JsonError::from(error).to_string();
        match json.peek().map_err(said)? {
            Peek::Object => {}
            _ => return Err("no object; one JSON object a line is expected".into()),
        }
        self.object(&mut json, &mut String::new(), &mut column, 0)?;
        json.finish().map_err(said)
    }

    fn object(
        &mut self,
        json: &mut Jiter<'_>,
        name: &mut String,
        column: &mut impl FnMut(&str) -> Result<Option<usize>, String>,
        depth: usize,
    ) -> Result<(), String> {
        if depth >= MAX_DEPTH {
            return Err(format!(
                "`{name}` is nested deeper than {MAX_DEPTH} objects"
            ));
        }
        let said = |error| JsonError::from(error).to_string();
        let prefix = name.len();
        let mut key = json.known_object().map_err(said)?;
        while let Some(next) = key {
            if prefix > 0 {
                name.push('.');
            }
            name.push_str(next);
            let peek = json.peek().map_err(said)?;
            if peek == Peek::Object {
                self.object(json, name, column, depth + 1)?;
            } else {
                let start = json.current_index();
                let value = self.value(json, peek).map_err(said)?;
                let place = start..json.current_index();
                if let Some(at) = column(name)? {
                    if at >= self.cells.len() {
                        self.cells.resize(at + 1, (Value::Nothing, 0..0));
                    }
                    self.cells[at] = (value, place);
                }
            }
            name.truncate(prefix);
            key = json.next_key().map_err(said)?;
        }
        Ok(())
    }

    fn value(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<Value, jiter::JiterError> {
        Ok(match peek {
            Peek::Null => {
                json.known_null()?;
                Value::Nothing
            }
            Peek::True | Peek::False => Value::Boolean(json.known_bool(peek)?),
            Peek::String => {
                let start = self.texts.len();
                self.texts.push_str(json.known_str()?);
                Value::Text(start..self.texts.len())
            }
            Peek::Array => self.list(json)?,
            _ => {
                let start = json.current_index();
                let number = json.known_float(peek)?;
                let whole = std::str::from_utf8(json.slice_to_current(start)).ok();
                let whole = whole.and_then(|written| written.parse().ok());
                whole.map_or(Value::Float(number), Value::Integer)
            }
        })
    }

    fn list(&mut self, json: &mut Jiter<'_>) -> Result<Value, jiter::JiterError> {
        let first = self.items.len();
        let mut item = json.known_array()?;
        while let Some(peek) = item {
            let start = json.current_index();
            let number = if peek.is_num() {
                Some(json.known_float(peek)?)
            } else {
                json.known_skip(peek)?;
                None
            };
            self.items.push((start..json.current_index(), number));
            item = json.array_step()?;
        }
        Ok(Value::List(first..self.items.len()))
    }
}

/// A column while it is built.
enum Column {
    Booleans(BooleanBuilder),
    Integers(Int64Builder),
    Floats(Float64Builder),
    Texts(StringBuilder),
    Vectors(ListBuilder<Float64Builder>),
    Lists(ListBuilder<StringBuilder>),
}

impl Column {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Booleans(BooleanBuilder::new()),
            DataType::Int64 => Self::Integers(Int64Builder::new()),
            DataType::Float64 => Self::Floats(Float64Builder::new()),
            DataType::List(item) if *item.data_type() == DataType::Utf8 => {
                Self::Lists(ListBuilder::new(StringBuilder::new()))
            }
            DataType::List(_) => Self::Vectors(ListBuilder::new(Float64Builder::new())),
            _ => Self::Texts(StringBuilder::new()),
        }
    }

    /// A value of another type than the column's is null: the columns were made for all values, so
    /// that the file has changed since.
    fn append(&mut self, value: &Value, place: &Range<usize>, row: &Row, line: &[u8]) {
        let written = |place: &Range<usize>| String::from_utf8_lossy(&line[place.clone()]);
        match (self, value) {
            (Self::Booleans(out), Value::Boolean(value)) => out.append_value(*value),
            (Self::Booleans(out), _) => out.append_null(),
            (Self::Integers(out), Value::Integer(value)) => out.append_value(*value),
            (Self::Integers(out), _) => out.append_null(),
            (Self::Floats(out), Value::Float(value)) => out.append_value(*value),
            (Self::Floats(out), Value::Integer(value)) => out.append_value(*value as f64),
            (Self::Floats(out), _) => out.append_null(),
            (Self::Texts(out), Value::Nothing) => out.append_null(),
            (Self::Texts(out), Value::Text(text)) => out.append_value(&row.texts[text.clone()]),
            (Self::Texts(out), _) => out.append_value(written(place)),
            (Self::Vectors(out), Value::List(items)) => {
                let numbers = row.items[items.clone()].iter().map(|(_, number)| *number);
                out.append_value(numbers);
            }
            (Self::Vectors(out), _) => out.append_null(),
            (Self::Lists(out), Value::List(items)) => {
                let texts = row.items[items.clone()].iter();
                out.append_value(texts.map(|(place, _)| Some(written(place))));
            }
            (Self::Lists(out), _) => out.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Booleans(mut out) => Arc::new(out.finish()),
            Self::Integers(mut out) => Arc::new(out.finish()),
            Self::Floats(mut out) => Arc::new(out.finish()),
            Self::Texts(mut out) => Arc::new(out.finish()),
            Self::Vectors(mut out) => Arc::new(out.finish()),
            Self::Lists(mut out) => Arc::new(out.finish()),
        }
    }
}

/// The lines of a file that are not blank.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
    /// Its number, from 1.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::new(),
            number: 0,
        }
    }

    /// Reads the next line; `false` at the end.
    fn next(&mut self) -> Result<bool, ArrowError> {
        loop {
            self.line.clear();
            self.number += 1;
            let read = (&mut self.input)
                .take(MAX_LINE)
                .read_until(b'\n', &mut self.line);
            let read = read.map_err(|error| self.unreadable(error))?;
            if read as u64 == MAX_LINE && !self.line.ends_with(b"\n") {
                return Err(self.wrong(&format!("longer than {} MiB", MAX_LINE >> 20)));
            }
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3); // a byte order mark
            }
            if read == 0 {
                return Ok(false);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn wrong(&self, reason: &str) -> ArrowError {
        ArrowError::JsonError(format!("line {}: {reason}", self.number))
    }

    fn unreadable(&self, error: io::Error) -> ArrowError {
        ArrowError::IoError(format!("line {}: {error}", self.number), error)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, Int64Type};
    use arrow::util::display::array_value_to_string;

    use super::*;

    fn read(text: &str) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
        let mut columns = Columns::default();
        columns.see(text.as_bytes())?;
        let batches: Result<Vec<_>, _> = columns.read(text.as_bytes()).collect();
        Ok((columns.schema(), batches?))
    }

    fn types(schema: &Schema) -> Vec<(&str, String)> {
        let fields = schema.fields().iter();
        fields
            .map(|f| (f.name().as_str(), f.data_type().to_string()))
            .collect()
    }

    #[test]
    fn columns_are_what_all_rows_say() {
        let text = concat!(
            "\u{feff}{\"n\": 1, \"f\": 1, \"b\": true, \"t\": \"x\", \"o\": {\"p\": {\"q\": 2}, \"r\": null}}\n",
            "\n",
            "{\"f\": 2.5, \"new\": 9007199254740993, \"mixed\": 1, \"v\": [1, 2.5]}\r\n",
            "{\"mixed\": \"many\", \"b\": null, \"big\": 99999999999999999999, \"tags\": [\"a\", \"b\"]}\n",
            "{\"mixed\": [3], \"v\": [NaN, null], \"tags\": [], \"n\": 7, \"n\": 8}",
        );
        let (schema, batches) = read(text).unwrap();
        let number = "Float64".to_owned();
        let list = |item: &str| format!("List({item})");
        assert_eq!(
            types(&schema),
            [
                ("n", "Int64".into()),
                ("f", number.clone()),
                ("b", "Boolean".into()),
                ("t", "Utf8".into()),
                ("o.p.q", "Int64".into()),
                ("o.r", "Utf8".into()),
                ("new", "Int64".into()),
                ("mixed", "Utf8".into()),
                ("v", list("Float64")),
                ("big", number),
                ("tags", list("Utf8")),
            ]
        );
        let [batch] = &batches[..] else {
            panic!("one batch");
        };
        let whole = |column: usize| {
            let values = batch.column(column).as_primitive::<Int64Type>();
            values.iter().collect::<Vec<_>>()
        };
        assert_eq!(whole(0), [Some(1), None, None, Some(8)]);
        assert_eq!(whole(6)[1], Some(9_007_199_254_740_993));
        let mixed: Vec<_> = batch.column(7).as_string::<i32>().iter().collect();
        assert_eq!(mixed, [None, Some("1"), Some("many"), Some("[3]")]);
        let vectors = batch.column(8).as_list::<i32>();
        let last = vectors.value(3);
        assert!(last.as_primitive::<Float64Type>().value(0).is_nan() && last.is_null(1));
        let tags = array_value_to_string(batch.column(10), 2).unwrap();
        assert_eq!(tags, r#"["a", "b"]"#);
    }

    #[test]
    fn rows_come_in_batches_and_rows_without_columns_count() {
        let mut text = "{\"a\": 1}\n".repeat(BATCH_ROWS + 1);
        text += "{}\n";
        let (_, batches) = read(&text).unwrap();
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [BATCH_ROWS, 2]);
        assert_eq!(read("{}\n{}\n").unwrap().1[0].num_rows(), 2);
        assert!(read("\n \n").unwrap().1.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_byte() {
        let deep = format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65));
        for (text, said) in [
            (
                "{\"a\": 1}\n{\"a\": }\n",
                "line 2: expected value at byte 6",
            ),
            ("[{\"a\": 1}]", "line 1: no object; one JSON object a line"),
            (
                "{\n\"a\": 1}",
                "line 1: EOF while parsing an object at byte 2",
            ),
            (
                "{\"a\": 1}{\"a\": 2}",
                "line 1: trailing characters at byte 8",
            ),
            ("{\"a\": \"\u{1}\"}", "line 1: control character"),
            (deep.as_str(), "line 1: `a.a.a"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let many: Vec<String> = (0..=MAX_COLUMNS).map(|i| format!("\"k{i}\": 1")).collect();
        let error = read(&format!("{{{}}}", many.join(","))).unwrap_err();
        assert!(error.to_string().contains("are keys values"), "{error}");
        let latin: &[u8] = b"{\"a\": \"\xe9\"}";
        let error = Columns::default().see(latin).unwrap_err().to_string();
        assert!(error.contains("line 1: "), "{error}");
    }
}
