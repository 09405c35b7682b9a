//! What llama-imatrix wrote before it wrote GGUF files (`imatrix.dat`), for all experts of a layer together.
//!
//! Little-endian: a number of entries; each a name behind its length, how many calls were counted, a number of values and the
//! values, means of squares times calls; then, in later files, the number of chunks and the text's name behind its length.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::{Importance, InputSums};

/// Reads such a file; nothing where it is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Importance>> {
    let file = File::open(path)?;
    let room = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut entries = Entries { file: BufReader::new(file), room };
    match entries.all(path) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        found => Ok(found.ok()),
    }
}

struct Entries {
    file: BufReader<File>,
    /// No length is beyond this.
    room: usize,
}

impl Entries {
    fn all(&mut self, path: &Path) -> io::Result<Importance> {
        let mut inputs = BTreeMap::new();
        for _ in 0..self.length(1)? {
            let name = self.length(1)?;
            let name = String::from_utf8(self.bytes(name)?).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let calls = self.number()?;
            let values = self.length(4)?;
            let squares = self.bytes(4 * values)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            inputs.insert(name, InputSums { squares, counts: vec![calls as f32] });
        }
        let chunk_count = self.number().ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let dataset = self.length(1).and_then(|len| self.bytes(len)).ok().and_then(|name| String::from_utf8(name).ok());
        Ok(Importance { datasets: dataset.into_iter().collect(), chunk_size: 0, chunk_count, inputs, path: path.to_owned() })
    }

    fn number(&mut self) -> io::Result<i32> {
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes).map(|()| i32::from_le_bytes(bytes))
    }

    /// A positive number of things of so many bytes that the file may hold.
    fn length(&mut self, bytes: usize) -> io::Result<usize> {
        let number = usize::try_from(self.number()?).ok().filter(|n| (1..=self.room / bytes).contains(n));
        number.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes).map(|()| bytes)
    }
}
