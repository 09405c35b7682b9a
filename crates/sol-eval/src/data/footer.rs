//! How deep the schema of a Parquet file nests, before the parquet crate reads it: that one follows the schema by recursion, and
//! a file of a few kilobytes could nest deeper than any stack.
//!
//! The footer is a struct `FileMetaData` in Thrift's compact protocol (apache/parquet-format, `parquet.thrift`); its field 2 is
//! the schema, a list of elements in the order of a walk through the tree, field 5 of each its number of children.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// A list of structs of lists, and so on, takes two levels each; the data sets of the hub have four.
const MAX_DEPTH: usize = 64;
/// Length of the footer, and the mark `PAR1`.
const TAIL: u64 = 8;

/// Field numbers of `FileMetaData` and `SchemaElement`.
const SCHEMA: i64 = 2;
const CHILDREN: i64 = 5;

/// Refuses a schema that nests too deep, or a footer that is none.
pub(super) fn check(file: &mut File) -> Result<(), String> {
    let end = file.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
    let mut tail = [0; TAIL as usize];
    let tail_at = end.checked_sub(TAIL).ok_or("the file is too short")?;
    file.seek(SeekFrom::Start(tail_at)).map_err(|error| error.to_string())?;
    file.read_exact(&mut tail).map_err(|error| error.to_string())?;
    let [a, b, c, d, mark @ ..] = tail;
    if mark != *b"PAR1" {
        return Err("it does not end as a Parquet file does".to_owned());
    }
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let begin = tail_at.checked_sub(length).ok_or("its footer would be longer than the file")?;
    let mut footer = Vec::new();
    file.seek(SeekFrom::Start(begin)).map_err(|error| error.to_string())?;
    file.take(length).read_to_end(&mut footer).map_err(|error| error.to_string())?;
    let mut depth = 0;
    Thrift(&footer).metadata(&mut depth).ok_or("its footer can not be read")?;
    if depth > MAX_DEPTH { Err(format!("its columns nest deeper than {MAX_DEPTH} levels")) } else { Ok(()) }
}

/// What is left of a text in the compact protocol. `None` is an end too early, or a type that there is not.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Type and number of the next field of a struct, after field `last`; type 0 is the struct's end.
    fn field(&mut self, last: i64) -> Option<(u8, i64)> {
        let byte = self.byte()?;
        let number = match (byte & 15, byte >> 4) {
            (0, _) => 0,
            (_, 0) => self.signed()?,
            (_, delta) => last.checked_add(i64::from(delta))?,
        };
        Some((byte & 15, number))
    }

    /// Type and number of the elements of a list.
    fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
        Some((byte & 15, count))
    }

    /// Passes over a value; `depth` structs and lists may be around others.
    fn pass(&mut self, kind: u8, depth: usize) -> Option<()> {
        let deeper = depth.checked_sub(1);
        match kind {
            3 => self.skip(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            9 | 10 => {
                let (kind, count) = self.list()?;
                // A truth value is a byte here, and nothing in a struct.
                let kind = if matches!(kind, 1 | 2) { 3 } else { kind };
                (0..count).try_for_each(|_| self.pass(kind, deeper?))
            }
            12 => {
                let mut last = 0;
                loop {
                    let (kind, number) = self.field(last)?;
                    match kind {
                        0 => return Some(()),
                        1 | 2 => {}
                        kind => self.pass(kind, deeper?)?,
                    }
                    last = number;
                }
            }
            // There are no maps in a footer.
            _ => None,
        }
    }

    /// `FileMetaData`; gives the depth of its schema.
    fn metadata(&mut self, depth: &mut usize) -> Option<()> {
        let mut last = 0;
        loop {
            let (kind, number) = self.field(last)?;
            match (kind, number) {
                (0, _) => return Some(()),
                (9, SCHEMA) => {
                    let (_, count) = self.list()?;
                    // Children that are still to come, of the elements from the root to here.
                    let mut open: Vec<i64> = Vec::new();
                    for _ in 0..count {
                        let children = self.element()?;
                        if let Some(left) = open.last_mut() {
                            *left -= 1;
                        }
                        open.push(children);
                        *depth = (*depth).max(open.len());
                        while open.last().is_some_and(|left| *left <= 0) {
                            open.pop();
                        }
                    }
                }
                (1 | 2, _) => {}
                _ => self.pass(kind, 16)?,
            }
            last = number;
        }
    }

    /// `SchemaElement`; gives its number of children.
    fn element(&mut self) -> Option<i64> {
        let (mut children, mut last) = (0, 0);
        loop {
            let (kind, number) = self.field(last)?;
            match (kind, number) {
                (0, _) => return Some(children),
                (5, CHILDREN) => children = self.signed()?,
                (1 | 2, _) => {}
                _ => self.pass(kind, 16)?,
            }
            last = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file without rows whose schema is `depth` groups in each other, with a column in the last.
    fn nested(depth: usize) -> File {
        // `repetition_type` (field 3), `name` (4) and `num_children` (5); `type` (1) of the column.
        let group = [0x35, 2, 0x18, 1, b'g', 0x15, 2, 0];
        let column = [0x15, 2, 0x25, 2, 0x18, 1, b'x', 0];
        let mut footer = vec![0x15, 2, 0x19, 0xfc];
        let mut count = depth + 1;
        while count > 127 {
            footer.push((count & 127) as u8 | 128);
            count >>= 7;
        }
        footer.push(count as u8);
        footer.extend(group.repeat(depth));
        footer.extend(column);
        footer.extend([0x16, 0, 0x19, 0x0c, 0]);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"PAR1").unwrap();
        file.write_all(&footer).unwrap();
        file.write_all(&(footer.len() as u32).to_le_bytes()).unwrap();
        file.write_all(b"PAR1").unwrap();
        file
    }

    #[test]
    fn depth_is_limited() {
        check(&mut nested(3)).unwrap();
        check(&mut nested(MAX_DEPTH - 1)).unwrap();
        for depth in [MAX_DEPTH, 1000, 100_000] {
            assert_eq!(check(&mut nested(depth)).unwrap_err(), "its columns nest deeper than 64 levels");
        }
    }
}
