//! Parquet files, as rows of JSON values.
//!
//! Numbers stay numbers (32-bit floats become the 64-bit floats of the same value, as in Python; what JSON has no number for is
//! null), texts texts, lists lists and structs objects with their fields in order. Bytes are a text where they are UTF-8, which
//! old writers leave unsaid, and a list of numbers otherwise. Dates, times and decimals are the texts they are written as.

use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use serde_json::Value;

use super::{Row, footer, unreadable};
use crate::{Error, Result};

/// Gives each row with its 1-based number.
pub(super) fn rows(file: &Path, each: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let mut opened = File::open(file).map_err(|error| unreadable(file, error))?;
    let number = Cell::new(0);
    let broken = |problem: String| Error::Data {
        file: file.to_owned(),
        line: Some(number.get()).filter(|number| *number > 0),
        problem: format!("no valid Parquet: {problem}"),
    };
    let read = || {
        footer::check(&mut opened).map_err(broken)?;
        let reader = SerializedFileReader::new(opened).map_err(|error| broken(error.to_string()))?;
        // Rows without a column would be as many as the file claims.
        if reader.metadata().file_metadata().schema_descr().num_columns() == 0 {
            return Err(broken("there are no columns in it".to_owned()));
        }
        let mut rows = RowIter::from_file_into(Box::new(reader));
        loop {
            number.set(number.get() + 1);
            let Some(row) = rows.next() else { return Ok(()) };
            let row = row.map_err(|error| broken(error.to_string()))?;
            let row = row.into_columns().into_iter().map(|(name, field)| (name, value(&field))).collect();
            each(number.get(), row)?;
        }
    };
    // The parquet crate checks much, and panics where it does not.
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(outcome) => outcome,
        Err(_) => Err(broken("it contradicts itself".to_owned())),
    }
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => f64::from(*value).into(),
        Field::Float(value) => f64::from(*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => bytes.data().into(),
        },
        Field::Group(row) => row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => map.entries().iter().map(|(key, field)| (key_text(key), value(field))).collect(),
        other => other.to_string().into(),
    }
}

/// A key of a map, which JSON wants to be a text.
fn key_text(key: &Field) -> String {
    match value(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
