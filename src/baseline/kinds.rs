//! What each column of the training data is: inferred, and overridden where the user knows better.

use std::collections::HashMap;
use std::str::FromStr as _;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit as ArrowUnit};
use arrow::error::ArrowError;
use chrono::{NaiveDate, NaiveTime};

use crate::batch::{Builder, Cell, Shape};
use crate::ingest::decode::time;
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
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(None),
        DataType::Dictionary(_, values) => match of_type(values)? {
            Some(Kind::Numeric) => Ok(Some(Kind::Numeric)),
            _ => Ok(Some(Kind::Categorical)),
        },
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Ok(Some(Kind::Timestamp)),
        numeric if numeric.is_numeric() => Ok(Some(Kind::Numeric)),
        other => Err(format!(
            "type {other} cannot be a feature; leave it out with --exclude"
        )),
    }
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
            self.booleans += u64::from(matches!(text, "true" | "false"));
        }
        Ok(())
    }

    /// Numbers only, booleans only, else labels.
    pub fn kind(self) -> Kind {
        if self.values > 0 && self.numbers == self.values {
            Kind::Numeric
        } else if self.values > 0 && self.booleans == self.values {
            Kind::Boolean
        } else {
            Kind::Categorical
        }
    }
}

/// The kinds that the user names, by column.
pub type Overrides = HashMap<String, Kind>;

/// The shape that a feature has in a batch.
pub fn shape(kind: Kind) -> Shape {
    if kind.is_numeric() {
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
        Kind::Categorical | Kind::Boolean => {
            let texts = cast(array, &DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            let empty_is_null = is_text(array.data_type());
            for row in 0..texts.len() {
                if texts.is_null(row) || (empty_is_null && texts.value(row).is_empty()) {
                    out.absent(column, row, Cell::Null);
                } else {
                    out.text(column, row, texts.value(row), Cell::Ok);
                }
            }
        }
    }
    Ok(())
}

fn write_numbers(array: &ArrayRef, column: usize, out: &mut Builder) -> Result<(), ArrowError> {
    if is_text(array.data_type()) {
        let texts = cast(array, &DataType::Utf8)?;
        for (row, text) in texts.as_string::<i32>().iter().enumerate() {
            match text
                .filter(|text| !text.is_empty())
                .map(|text| text.trim().parse::<f64>())
            {
                Some(Ok(value)) => out.number(column, row, value, Cell::Ok),
                Some(Err(_)) => out.absent(column, row, Cell::WrongType),
                None => out.absent(column, row, Cell::Null),
            }
        }
        return Ok(());
    }
    let numbers = cast(array, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<arrow::datatypes::Float64Type>();
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
        return Ok(ms.iter().collect());
    }
    let numbers = cast(array, &DataType::Float64)?;
    let numbers = numbers
        .as_primitive::<arrow::datatypes::Float64Type>()
        .iter();
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

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}
