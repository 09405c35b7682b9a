//! Files made by hand, right or wrong.

/// A GGUF file to be, true to what is put in unless told to lie.
pub(crate) struct Gguf {
    pub(crate) version: u32,
    /// Claimed instead of the true count.
    pub(crate) tensor_count: Option<u64>,
    /// Claimed instead of the true count.
    pub(crate) entry_count: Option<u64>,
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) data: usize,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self { version: 3, tensor_count: None, entry_count: None, entries: vec![], tensors: vec![], data: 0 }
    }

    /// A valid file with a string, nested arrays and two tensors of ones.
    pub(crate) fn small() -> Self {
        let string = [&5u64.to_le_bytes()[..], b"llama"].concat();
        let pair = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
        let nested = [pair(9, 2), pair(0, 3), vec![1, 2, 3], pair(8, 1), string.clone()].concat();
        Self::new()
            .entry("general.architecture", 8, &string)
            .entry("nested", 9, &nested)
            .tensor("a", &[2, 2], 0, 0)
            .tensor("b", &[4], 0, 32)
            .data(48)
    }

    pub(crate) fn entry(self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entry_bytes(key.as_bytes(), kind, value)
    }

    pub(crate) fn entry_bytes(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.entries.push([&(key.len() as u64).to_le_bytes()[..], key, &kind.to_le_bytes(), value].concat());
        self
    }

    /// Dimensions innermost first, as in the file.
    pub(crate) fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry =
            [&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &(dimensions.len() as u32).to_le_bytes()].concat();
        entry.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    /// So many bytes of data, all ones as f32.
    pub(crate) fn data(mut self, len: usize) -> Self {
        self.data = len;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        file.extend(self.entries.concat());
        file.extend(self.tensors.concat());
        if self.data > 0 {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(1f32.to_le_bytes().repeat(self.data / 4));
        }
        file
    }
}

/// A safetensors file of this header and so many bytes of zeros.
pub(crate) fn safetensors_file(json: &str, data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
}
