//! A GGUF file of any bytes: parsed, printed, decoded, or refused.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sol_weights::{Bytes, gguf};

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = gguf::File::parse(Path::new("fuzz.gguf"), &Bytes::from_vec(data.to_vec())) {
        for (_, value) in file.metadata.iter() {
            let _ = value.to_string();
        }
        for tensor in &file.tensors {
            let _ = tensor.to_f32();
        }
    }
});
