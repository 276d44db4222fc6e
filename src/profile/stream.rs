//! The rows of a sample as an Arrow IPC stream.
//!
//! Arrow's reader takes the lengths in a stream for granted and asks for that much memory before it
//! looks for the bytes: 256 TB, where a few bits have flipped, and that ends the process; and it
//! asserts that a buffer holds whole numbers. So all lengths are held against what is there, and
//! against what the columns are by the layout, first.

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::ipc::{self, CompressionType, MessageHeader, root_as_message};

use super::encoding::Error;
use super::{Layout, sample};

/// Before the size of a message.
const MARKER: &[u8] = &[0xff; 4];
/// zstd packs no more bytes into one than this: a block of 128 KiB into four.
const MOST_RATIO: usize = 1 << 15;
/// The rows of a sample take no more than this.
const MOST_BYTES: usize = 1 << 30;

pub(super) fn encode(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &rows.schema(), options)?;
    writer.write(rows)?;
    writer.into_inner()
}

/// No bytes: no rows.
pub(super) fn decode(bytes: &[u8], layout: &Layout) -> Result<Option<RecordBatch>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let expected = sample::schema(layout);
    check_lengths(bytes, &widths(&expected))?;
    let mut batches = StreamReader::try_new(Cursor::new(bytes), None)?;
    let found = batches.schema();
    let mut fields = found.fields().iter().zip(expected.fields());
    let alike = |(a, b): (&arrow::datatypes::FieldRef, &arrow::datatypes::FieldRef)| {
        a.name() == b.name() && a.data_type() == b.data_type()
    };
    if found.fields().len() != expected.fields().len() || !fields.all(alike) {
        return Err(Error::Damaged("a sample of other columns"));
    }
    let rows = batches.next().transpose()?;
    rows.map(Some).ok_or(Error::Damaged("an empty sample"))
}

/// Bytes of one value in each buffer of a batch.
fn widths(schema: &Schema) -> Vec<usize> {
    let fields = schema.fields().iter();
    fields
        .flat_map(|field| widths_of(field.data_type()))
        .collect()
}

/// Per column whether a row has a value, for texts where each begins, and the values.
fn widths_of(column: &DataType) -> Vec<usize> {
    match column {
        DataType::Utf8 => vec![1, size_of::<i32>(), 1],
        DataType::FixedSizeList(item, _) => [vec![1], widths_of(item.data_type())].concat(),
        number => vec![1, number.primitive_width().unwrap_or(1)],
    }
}

/// Whether everything that the stream says it holds is there.
fn check_lengths(mut bytes: &[u8], widths: &[usize]) -> Result<(), Error> {
    while !bytes.is_empty() {
        if take(&mut bytes, 4)? != MARKER {
            return Err(Error::Damaged("a sample that is no stream"));
        }
        let size = i32::from_le_bytes(array(take(&mut bytes, 4)?)?);
        if size == 0 {
            return Ok(());
        }
        let metadata = take(&mut bytes, length(size.into())?)?;
        let message =
            root_as_message(metadata).map_err(|_| Error::Damaged("a sample's message"))?;
        let body = take(&mut bytes, length(message.bodyLength())?)?;
        match (message.header_type(), message.header_as_record_batch()) {
            (MessageHeader::RecordBatch, Some(batch)) => check_buffers(&batch, body, widths)?,
            (MessageHeader::Schema, _) => {}
            _ => return Err(Error::Damaged("a sample with more than rows")),
        }
    }
    Ok(())
}

fn check_buffers(batch: &ipc::RecordBatch<'_>, body: &[u8], widths: &[usize]) -> Result<(), Error> {
    // Arrow multiplies them, and panics where that is too much.
    let small = |length: i64| u32::try_from(length).is_ok();
    let mut nodes = batch.nodes().into_iter().flatten();
    if !small(batch.length()) || !nodes.all(|node| small(node.length()) && small(node.null_count()))
    {
        return Err(Error::Damaged("a number of rows in a sample"));
    }
    let buffers = batch.buffers();
    if buffers.map_or(0, |buffers| buffers.len()) != widths.len() {
        return Err(Error::Damaged("a sample of other columns"));
    }
    let whole = |size: usize, width: usize| match size % width {
        0 => Ok(()),
        _ => Err(Error::Damaged("a part of a value in a sample")),
    };
    let mut total = 0usize;
    for (buffer, width) in buffers.iter().flatten().zip(widths) {
        let (start, size) = (length(buffer.offset())?, length(buffer.length())?);
        let end = start
            .checked_add(size)
            .ok_or(Error::Damaged("a length in a sample"))?;
        let held = body.get(start..end).ok_or(Error::Damaged("cut short"))?;
        if batch.compression().is_none() || held.is_empty() {
            whole(size, *width)?;
            continue;
        }
        let (unpacked, packed) = held
            .split_at_checked(8)
            .ok_or(Error::Damaged("cut short"))?;
        let unpacked = i64::from_le_bytes(array(unpacked)?);
        if unpacked == -1 {
            whole(packed.len(), *width)?; // stored as it is
            continue;
        }
        let unpacked = length(unpacked)?;
        whole(unpacked, *width)?;
        total = total.saturating_add(unpacked);
        if unpacked > packed.len().saturating_mul(MOST_RATIO) || total > MOST_BYTES {
            return Err(Error::Damaged("a sample larger than its bytes can say"));
        }
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Error> {
    let (taken, rest) = bytes
        .split_at_checked(count)
        .ok_or(Error::Damaged("cut short"))?;
    *bytes = rest;
    Ok(taken)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::Damaged("cut short"))
}

fn length(value: i64) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| Error::Damaged("a length in a sample"))
}
