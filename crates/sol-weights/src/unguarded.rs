//! In place of `guard` where nobody has written one: a file that shrinks while it is mapped ends the process.

use std::io;

pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new(_mapping: &[u8]) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn is_damaged(&self) -> bool {
        false
    }
}
