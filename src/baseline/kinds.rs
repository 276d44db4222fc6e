//! What each column of the training data is: inferred, and overridden where the user knows better.

use std::collections::HashMap;
use std::ops::Range;
use std::str::FromStr as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit as ArrowUnit};
use arrow::error::ArrowError;
use chrono::{NaiveDate, NaiveTime};

use crate::batch::{Builder, Cell, Shape};
use crate::ingest::decode::{json, time, value};
use crate::monitor::{Kind, TimeUnit};

/// A column of the training data that becomes a feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Labels that are numbers or booleans.
    pub plain_numbers: bool,
    /// Numbers a row of an embedding; 0 for any other kind.
    pub dimension: usize,
    /// Position in the file.
    pub index: usize,
}

/// The kind a column's type speaks for; `None` where the values have to be seen (CSV), an error
/// text where it cannot be a feature.
///
/// # Errors
/// The type is none that driftd profiles.
pub fn of_type(data_type: &DataType) -> Result<Option<Kind>, String> {
    match data_type {
        DataType::Boolean => Ok(Some(Kind::Boolean)),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(None),
        DataType::Dictionary(_, values) => match of_type(values)? {
            Some(Kind::Numeric) => Ok(Some(Kind::Numeric)),
            _ => Ok(Some(Kind::Categorical)),
        },
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Ok(Some(Kind::Timestamp)),
        numeric if numeric.is_numeric() => Ok(Some(Kind::Numeric)),
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item)
            if item.data_type().is_numeric() =>
        {
            Ok(Some(Kind::Embedding))
        }
        other => Err(format!(
            "type {other} cannot be a feature; leave it out with --exclude"
        )),
    }
}

/// Whether a column of this type can be read as this kind. Columns that hold nothing of it for
/// other reasons show that by their values.
///
/// # Errors
/// Says what the kind needs.
pub fn check(data_type: &DataType, kind: Kind) -> Result<(), String> {
    let is_list = of_type(data_type)? == Some(Kind::Embedding);
    if is_list && kind != Kind::Embedding {
        return Err("lists of numbers are an embedding and cannot be of another kind".into());
    }
    if kind == Kind::Numeric && of_type(data_type)? == Some(Kind::Timestamp) {
        return Err("times are no plain numbers; leave their kind as timestamp".into());
    }
    if kind == Kind::Embedding && !is_list && !holds_texts(data_type) {
        return Err(format!(
            "type {data_type} is no embedding: that is a list of numbers in every row"
        ));
    }
    Ok(())
}

/// How many numbers the first vector of a column has; `None` where there is none.
///
/// # Errors
/// Arrow's, where a type cannot be converted at all.
pub fn dimension(array: &ArrayRef) -> Result<Option<usize>, ArrowError> {
    let vectors = Vectors::of(array)?;
    let mut text = Vec::new();
    let mut length = |row| vectors.at(row, &mut text).ok().map(<[f64]>::len);
    Ok((0..array.len()).find_map(&mut length))
}

/// What the texts of a column look like, over all rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Texts {
    values: u64,
    numbers: u64,
    booleans: u64,
}

impl Texts {
    /// Looks at more values.
    ///
    /// # Errors
    /// The column's type cannot be written as text.
    pub fn see(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        let texts = cast(array, &DataType::Utf8)?;
        for text in texts
            .as_string::<i32>()
            .iter()
            .flatten()
            .filter(|text| !text.is_empty())
        {
            self.values += 1;
            self.numbers += u64::from(text.trim().parse::<f64>().is_ok());
            self.booleans += u64::from(value::boolean_word(text.trim()).is_some());
        }
        Ok(())
    }

    /// Numbers but for one value in ten at most, booleans only, else labels. What is no number in a
    /// column of numbers is counted as of a wrong type, not taken as a reason for another kind.
    pub fn kind(self) -> Kind {
        if self.numbers > 0 && self.numbers >= self.values - self.values / 10 {
            Kind::Numeric
        } else if self.values > 0 && self.booleans == self.values {
            Kind::Boolean
        } else {
            Kind::Categorical
        }
    }

    /// Whether there are values and none of them is a number.
    pub fn are_labels(self) -> bool {
        self.values > 0 && self.numbers == 0
    }
}

/// The kinds that the user names, by column.
pub type Overrides = HashMap<String, Kind>;

/// The shape that a feature has in a batch.
pub fn shape(kind: Kind, dimension: usize) -> Shape {
    if kind == Kind::Embedding {
        Shape::Vector(dimension)
    } else if kind.is_numeric() {
        Shape::Number
    } else {
        Shape::Text
    }
}

/// Writes a column of a training file into a builder's column, from its first row on.
///
/// # Errors
/// Arrow's, where a type cannot be converted at all.
pub fn write(
    array: &ArrayRef,
    kind: Kind,
    column: usize,
    out: &mut Builder,
) -> Result<(), ArrowError> {
    match kind {
        Kind::Timestamp => {
            let times = times(array, TimeUnit::Ms)?;
            for (row, ms) in times.into_iter().enumerate() {
                match ms {
                    Some(ms) => out.number(column, row, ms as f64 / 1e3, Cell::Ok),
                    None => out.absent(column, row, Cell::Null),
                }
            }
        }
        Kind::Numeric => write_numbers(array, column, out)?,
        Kind::Embedding => write_vectors(array, column, out)?,
        Kind::Categorical | Kind::Boolean => write_labels(array, kind, column, out)?,
    }
    Ok(())
}

fn write_vectors(array: &ArrayRef, column: usize, out: &mut Builder) -> Result<(), ArrowError> {
    let vectors = Vectors::of(array)?;
    let mut text = Vec::new();
    for row in 0..array.len() {
        match vectors.at(row, &mut text) {
            Ok(vector) => out.vector(column, row, vector),
            Err(cell) => out.absent(column, row, cell),
        }
    }
    Ok(())
}

/// A column of lists, or of texts that hold a JSON array each.
enum Vectors {
    /// The lists, and the numbers from the first one's on.
    Lists(ArrayRef, Float64Array),
    Texts(ArrayRef),
}

impl Vectors {
    fn of(array: &ArrayRef) -> Result<Self, ArrowError> {
        let items = match array.data_type() {
            DataType::FixedSizeList(..) => array.as_fixed_size_list().values(),
            DataType::List(_) => array.as_list::<i32>().values(),
            DataType::LargeList(_) => array.as_list::<i64>().values(),
            _ => return Ok(Self::Texts(cast(array, &DataType::Utf8)?)),
        };
        // Of a part of a longer column, only its own numbers.
        let all = whole(array);
        let numbers = cast(&items.slice(all.start, all.len()), &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>().clone();
        Ok(Self::Lists(Arc::clone(array), numbers))
    }

    /// The vector of a row. Lists with a null in them are no vectors, nor are empty ones.
    fn at<'a>(&'a self, row: usize, text: &'a mut Vec<f64>) -> Result<&'a [f64], Cell> {
        match self {
            Self::Lists(lists, numbers) => {
                if lists.is_null(row) {
                    return Err(Cell::Null);
                }
                let (first, place) = (whole(lists).start, place(lists, row));
                let place = place.start - first..place.end - first;
                let nulls = numbers.nulls();
                let has_null = |row: usize| nulls.is_some_and(|nulls| nulls.is_null(row));
                if place.is_empty() || place.clone().any(has_null) {
                    return Err(Cell::WrongType);
                }
                Ok(&numbers.values()[place])
            }
            Self::Texts(texts) => {
                let texts = texts.as_string::<i32>();
                if texts.is_null(row) || texts.value(row).trim().is_empty() {
                    return Err(Cell::Null);
                }
                match json::vector(texts.value(row).as_bytes(), text) {
                    Ok(true) if !text.is_empty() => Ok(text),
                    _ => Err(Cell::WrongType),
                }
            }
        }
    }
}

/// Where the numbers of a row are.
fn place(lists: &ArrayRef, row: usize) -> Range<usize> {
    let at = |offset: i64| usize::try_from(offset).unwrap_or(0); // offsets are never negative
    if let Some(lists) = lists.as_fixed_size_list_opt() {
        let width = at(lists.value_length().into());
        row * width..(row + 1) * width
    } else if let Some(lists) = lists.as_list_opt::<i32>() {
        let offsets = lists.value_offsets();
        at(offsets[row].into())..at(offsets[row + 1].into())
    } else {
        let offsets = lists.as_list::<i64>().value_offsets();
        at(offsets[row])..at(offsets[row + 1])
    }
}

/// Where the numbers of all rows are.
fn whole(lists: &ArrayRef) -> Range<usize> {
    match lists.len() {
        0 => 0..0,
        rows => place(lists, 0).start..place(lists, rows - 1).end,
    }
}

fn write_labels(
    array: &ArrayRef,
    kind: Kind,
    column: usize,
    out: &mut Builder,
) -> Result<(), ArrowError> {
    let of_numbers = holds_fractions(array.data_type());
    let texts = cast(array, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>();
    for row in 0..texts.len() {
        if texts.is_null(row) {
            out.absent(column, row, Cell::Null);
            continue;
        }
        let text = texts.value(row);
        let label = if of_numbers {
            value::of_number(text.as_bytes())
        } else {
            value::of_text(text).map(Into::into).ok_or(Cell::Null)
        };
        match label {
            Ok(label) => {
                let boolean = value::boolean_of_text(&label).filter(|_| kind == Kind::Boolean);
                let boolean = boolean.map(value::of_boolean);
                out.text(column, row, boolean.unwrap_or(&label), Cell::Ok);
            }
            Err(cell) => out.absent(column, row, cell),
        }
    }
    Ok(())
}

fn write_numbers(array: &ArrayRef, column: usize, out: &mut Builder) -> Result<(), ArrowError> {
    if holds_texts(array.data_type()) {
        let texts = cast(array, &DataType::Utf8)?;
        for (row, text) in texts.as_string::<i32>().iter().enumerate() {
            match text.map_or(Err(Cell::Null), value::number_of_text) {
                Ok(value) => out.number(column, row, value, Cell::Ok),
                Err(cell) => out.absent(column, row, cell),
            }
        }
        return Ok(());
    }
    let numbers = cast(array, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<Float64Type>();
    for row in 0..numbers.len() {
        if numbers.is_null(row) {
            out.absent(column, row, Cell::Null);
        } else {
            out.number(column, row, numbers.value(row), Cell::Ok);
        }
    }
    Ok(())
}

/// The event times of a column in milliseconds; numbers in `unit`, also where they are texts, as
/// everything is in a CSV.
///
/// # Errors
/// Arrow's, where a type cannot be converted at all.
pub fn times(array: &ArrayRef, unit: TimeUnit) -> Result<Vec<Option<i64>>, ArrowError> {
    let data_type = array.data_type();
    if is_text(data_type) {
        let texts = cast(array, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>().iter();
        return Ok(texts
            .map(|text| text.and_then(|text| time_of(text.trim(), unit)))
            .collect());
    }
    if matches!(
        data_type,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
    ) {
        let ms = cast(array, &DataType::Timestamp(ArrowUnit::Millisecond, None))?;
        let ms = ms.as_primitive::<arrow::datatypes::TimestampMillisecondType>();
        let plausible = |ms: Option<i64>| ms.filter(|ms| time::is_plausible(*ms));
        return Ok(ms.iter().map(plausible).collect());
    }
    let numbers = cast(array, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<Float64Type>().iter();
    Ok(numbers
        .map(|value| value.and_then(|value| time::of_number(value, unit)))
        .collect())
}

fn time_of(text: &str, unit: TimeUnit) -> Option<i64> {
    let number = || time::of_number(text.parse().ok()?, unit);
    let day = || Some(NaiveDate::from_str(text).ok()?.and_time(NaiveTime::MIN));
    time::of_text(text)
        .or_else(number)
        .or_else(|| Some(day()?.and_utc().timestamp_millis()))
}

/// Numbers that may have a fraction, or codes of such numbers.
fn holds_fractions(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => holds_fractions(values),
        plain => plain.is_floating() || plain.is_decimal(),
    }
}

/// Texts, or codes of texts.
fn holds_texts(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        plain => is_text(plain),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}
