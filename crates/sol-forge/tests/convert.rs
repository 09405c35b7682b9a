//! Conversions of the tiny checkpoints: the same bytes after a round trip, the same model to every reader.

use std::fs;
use std::path::{Path, PathBuf};

use sol_forge::convert::{Order, SHARD_BYTES};
use sol_weights::gguf::Existing;
use sol_weights::{Checkpoint, DType};

const MODELS: [&str; 8] =
    ["gemma2", "llama", "llama3", "phi3", "phi3-longrope", "phimoe", "solar", "solar-window"];

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", name].iter().collect()
}

fn convert(source: &Path, out: &Path, dtype: Option<DType>) -> sol_forge::Result<()> {
    let order = Order { source, out, dtype, lora: &[], shard_bytes: SHARD_BYTES };
    order.plan()?.write(Existing::Refuse, 2, &|| false, &mut |_| {})
}

/// Name, type and bytes of all tensors, by name.
fn tensors(path: &Path) -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut tensors: Vec<_> =
        checkpoint.tensors().map(|t| (t.name.clone(), t.dtype, t.shape.clone(), t.bytes().to_vec())).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// HF to GGUF to HF in three types. A Gemma norm in F32 loses the digits that 1 + w has no room for, and is the same norm.
#[test]
fn a_round_trip_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (model, dtype) in MODELS.iter().flat_map(|m| [DType::F32, DType::F16, DType::BF16].map(|t| (m, t))) {
        let path = |what: &str| dir.path().join(format!("{model}-{dtype}-{what}"));
        let mut source = data("models").join(model);
        if dtype != DType::F32 {
            convert(&source, &path("source"), Some(dtype)).unwrap();
            source = path("source");
        }
        convert(&source, &path("a.gguf"), None).unwrap();
        convert(&path("a.gguf"), &path("back"), None).unwrap();
        let (before, after) = (tensors(&source), tensors(&path("back")));
        assert_eq!(before.len(), after.len(), "{model} {dtype}");
        for (a, b) in before.iter().zip(&after) {
            assert_eq!((&a.0, a.1, &a.2), (&b.0, b.1, &b.2), "{model}");
            if *model == "gemma2" && a.0.contains("norm") && dtype == DType::F32 {
                assert!(floats(&a.3).iter().zip(floats(&b.3)).all(|(a, b)| a + 1.0 == b + 1.0), "{}", a.0);
            } else {
                assert!(a.3 == b.3, "{model} {dtype}: {}", a.0);
            }
        }
        // Once more through GGUF: the very same file.
        convert(&path("back"), &path("b.gguf"), None).unwrap();
        assert_eq!(tensors(&path("a.gguf")), tensors(&path("b.gguf")), "{model}");
        fs::remove_dir_all(path("back")).unwrap();
    }
}

/// The files that another program wrote of the same tensors have the same bytes.
#[test]
fn files_are_as_the_gguf_package_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["llama", "llama3", "phi3", "phi3-longrope", "solar", "gemma2", "phimoe"] {
        let out = dir.path().join(format!("{model}.gguf"));
        convert(&data("models").join(model), &out, None).unwrap();
        let (ours, theirs) = (tensors(&out), tensors(&data("gguf").join(model).join("model.gguf")));
        let names = |list: &[(String, DType, Vec<usize>, Vec<u8>)]| -> Vec<_> {
            list.iter().map(|t| (t.0.clone(), t.1, t.2.clone())).collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{model}");
    }
}
