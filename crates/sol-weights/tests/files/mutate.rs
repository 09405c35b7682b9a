//! Valid files, damaged at random: opening and reading never panic and never take long.

use std::path::Path;

use crate::build::{Gguf, safetensors_file};
use proptest::prelude::*;
use proptest::sample::Index;
use sol_weights::{Bytes, gguf, safetensors};

/// Overwrites places with words that break readers, then cuts the file.
fn damage(mut file: Vec<u8>, wounds: &[(Index, u64, usize)], cut: Option<Index>) -> Bytes {
    for (at, word, width) in wounds {
        let at = at.index(file.len());
        for (byte, new) in file[at..].iter_mut().zip(&word.to_le_bytes()[..*width]) {
            *byte = *new;
        }
    }
    if let Some(cut) = cut {
        file.truncate(cut.index(file.len()));
    }
    Bytes::from_vec(file)
}

fn wounds() -> impl Strategy<Value = Vec<(Index, u64, usize)>> {
    let word = prop_oneof![
        any::<u64>(),
        0u64..64,
        Just(u64::MAX),
        Just(1 << 63),
        Just(u64::MAX / 4 + 1),
        any::<u8>().prop_map(u64::from),
    ];
    prop::collection::vec((any::<Index>(), word, prop::sample::select(vec![1usize, 4, 8])), 0..6)
}

fn read_all(tensors: &[sol_weights::Tensor], file_len: usize) {
    for tensor in tensors {
        assert!(tensor.byte_len() <= file_len);
        let _ = tensor.to_f32().map(|values| assert_eq!(values.len(), tensor.elements()));
        let _ = tensor.to_i64();
    }
}

fn gguf_seeds() -> Vec<Vec<u8>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metadata.gguf");
    vec![Gguf::small().bytes(), std::fs::read(fixture).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf(seed in prop::sample::select(gguf_seeds()), wounds in wounds(), cut in proptest::option::weighted(0.3, any::<Index>())) {
        let bytes = damage(seed, &wounds, cut);
        if let Ok(file) = gguf::File::parse(Path::new("damaged.gguf"), &bytes) {
            read_all(&file.tensors, bytes.len());
            for (_, value) in file.metadata.iter() {
                let _ = value.to_string();
            }
        }
    }

    #[test]
    fn damaged_safetensors(wounds in wounds(), cut in proptest::option::weighted(0.3, any::<Index>())) {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"I64","shape":[2],"data_offsets":[16,32]}}"#;
        let bytes = damage(safetensors_file(header, 32), &wounds, cut);
        if let Ok(tensors) = safetensors::parse(Path::new("damaged.safetensors"), &bytes) {
            read_all(&tensors, bytes.len());
        }
    }

    #[test]
    fn safetensors_with_any_numbers(shape in prop::collection::vec(any::<u64>(), 0..4), start in any::<u64>(), end in any::<u64>(), data in 0usize..64) {
        let header = format!(r#"{{"a":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#);
        let bytes = Bytes::from_vec(safetensors_file(&header, data));
        if let Ok(tensors) = safetensors::parse(Path::new("any.safetensors"), &bytes) {
            read_all(&tensors, bytes.len());
        }
    }

    #[test]
    fn index_of_any_file_name(file in any::<String>()) {
        let json = serde_json::json!({ "weight_map": { "a": file } }).to_string();
        if let Ok(index) = safetensors::Index::parse(Path::new("index.json"), json.as_bytes()) {
            let name = index.files().into_iter().next().unwrap().to_owned();
            // Joined to a directory it stays in it.
            let joined = Path::new("/dir").join(&name);
            prop_assert_eq!(joined.parent(), Some(Path::new("/dir")));
            prop_assert!(name != ".." && !name.contains('/'));
        }
    }
}
