//! Any bytes as an index of shards and as a safetensors file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sol_weights::{Bytes, safetensors};

fuzz_target!(|data: &[u8]| {
    if let Ok(index) = safetensors::Index::parse(Path::new("fuzz.safetensors.index.json"), data) {
        for file in index.files() {
            assert_eq!(Path::new("/dir").join(file).parent(), Some(Path::new("/dir")));
        }
    }
    if let Ok(tensors) = safetensors::parse(Path::new("fuzz.safetensors"), &Bytes::from_vec(data.to_vec())) {
        for tensor in &tensors {
            let _ = tensor.to_f32();
        }
    }
});
