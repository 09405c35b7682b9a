//! Files and values made by the `gguf` and `safetensors` Python packages (`xtools/make_block_fixtures.py`).

use std::path::{Path, PathBuf};

use sol_weights::gguf::{Array, Value};
use sol_weights::{Checkpoint, DType, Error, Format, Metadata, dequantize, gguf, safetensors};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn gguf_metadata(checkpoint: &Checkpoint) -> &gguf::Metadata {
    match checkpoint.metadata() {
        Metadata::Gguf(metadata) => metadata,
        Metadata::Hf(_) => panic!("a GGUF file has GGUF metadata"),
    }
}

#[test]
fn every_block_format_decodes_bit_for_bit_as_gguf_py() {
    use DType::*;
    let file = Checkpoint::open(&data("blocks.safetensors")).unwrap();
    for dtype in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, IQ4NL, IQ4XS, F8E4M3] {
        let bytes = file.tensor(&format!("{dtype}.bytes")).unwrap().bytes();
        let expected = file.tensor(&format!("{dtype}.values")).unwrap().to_f32().unwrap();
        let mut got = vec![0.0; expected.len()];
        dequantize(dtype, &bytes, &mut got).unwrap();
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            // Which NaN is left open by IEEE 754 and differs between machines.
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{dtype} element {i}: {got:?} is not {expected:?}");
        }
    }
}

#[test]
fn f8_weights_are_multiplied_by_their_scale_as_pytorch_does() {
    let file = Checkpoint::open(&data("f8.safetensors")).unwrap();
    for name in ["whole", "rows", "blocks_inv"] {
        let weight = file.tensor(&format!("{name}.weight")).unwrap();
        let expected = file.tensor(&format!("{name}.expected")).unwrap().to_f32().unwrap();
        assert_eq!(file.to_f32(weight).unwrap(), expected, "{name}");
        assert_ne!(weight.to_f32().unwrap(), expected, "{name}");
    }
    let refused = file.to_f32(file.tensor("wrong.weight").unwrap()).unwrap_err().to_string();
    assert!(refused.contains("`wrong.weight_scale`") && refused.contains("[7]"), "{refused}");
}

#[test]
fn every_metadata_type_is_read() {
    let file = Checkpoint::open(&data("metadata.gguf")).unwrap();
    assert_eq!(file.format(), Format::Gguf);
    let metadata = gguf_metadata(&file);
    assert_eq!(metadata.version(), 3);
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
    let nested = vec![
        Array::I32(vec![1, 2]),
        Array::I32(vec![3]),
        Array::String(vec!["x".into(), "y".into()]),
        Array::Array(vec![Array::F32(vec![1.5])]),
    ];
    let expected = [
        ("general.architecture", Value::String("test".into())),
        ("t.u8", Value::U8(255)),
        ("t.i8", Value::I8(-128)),
        ("t.u16", Value::U16(65535)),
        ("t.i16", Value::I16(-32768)),
        ("t.u32", Value::U32(u32::MAX)),
        ("t.i32", Value::I32(i32::MIN)),
        ("t.u64", Value::U64(u64::MAX)),
        ("t.i64", Value::I64(i64::MIN)),
        ("t.f32", Value::F32(0.1)),
        ("t.f64", Value::F64(0.1)),
        ("t.true", Value::Bool(true)),
        ("t.false", Value::Bool(false)),
        ("t.string", Value::String("Solar \u{2600} \u{1f31e}".into())),
        ("t.array.u8", Value::Array(Array::U8(vec![0, 255]))),
        ("t.array.i8", Value::Array(Array::I8(vec![-128, 127]))),
        ("t.array.u16", Value::Array(Array::U16(vec![65535]))),
        ("t.array.i16", Value::Array(Array::I16(vec![-32768]))),
        ("t.array.u32", Value::Array(Array::U32(vec![u32::MAX]))),
        ("t.array.i32", Value::Array(Array::I32(vec![-1, 0, 1]))),
        ("t.array.u64", Value::Array(Array::U64(vec![u64::MAX]))),
        ("t.array.i64", Value::Array(Array::I64(vec![i64::MIN]))),
        ("t.array.f32", Value::Array(Array::F32(vec![0.5, -0.25]))),
        ("t.array.f64", Value::Array(Array::F64(vec![1e300]))),
        ("t.array.bool", Value::Array(Array::Bool(vec![true, false]))),
        ("t.array.string", Value::Array(Array::String(vec!["".into(), "a".into(), "é".into()]))),
        ("t.array.nested", Value::Array(Array::Array(nested))),
    ];
    for (key, value) in expected {
        assert_eq!(metadata.get(key), Some(&value), "{key}");
    }
}

#[test]
fn tensors_keep_shape_type_and_place() {
    let file = Checkpoint::open(&data("metadata.gguf")).unwrap();
    let listed: Vec<_> = file.tensors().map(|t| (t.name.as_str(), t.dtype, t.shape.clone(), t.byte_len())).collect();
    assert_eq!(
        listed,
        [
            ("vector", DType::F32, vec![3], 12),
            ("matrix", DType::F16, vec![2, 3], 12),
            ("cube", DType::I32, vec![2, 3, 4], 96),
            ("four", DType::F64, vec![2, 1, 2, 1], 32),
            ("quantised", DType::Q8_0, vec![2, 64], 136),
            ("listed", DType::Other(16), vec![1, 256], 66),
        ]
    );
    let floats = |name: &str| file.tensor(name).unwrap().to_f32().unwrap();
    assert_eq!(floats("vector"), [0.0, 1.0, 2.0]);
    assert_eq!(floats("matrix"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(floats("four"), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(file.tensor("cube").unwrap().to_i64().unwrap(), Vec::from_iter(0..24));
    assert!((floats("quantised")[127] - 1.0).abs() < 0.01);
    assert!(file.tensor("absent").is_none());

    let refused = file.tensor("listed").unwrap().to_f32().unwrap_err();
    assert!(matches!(refused, Error::UnsupportedType { .. }));
    assert!(refused.to_string().contains("tensor `listed` is stored as IQ2_XXS (GGML type 16)"), "{refused}");
}

#[test]
fn a_split_set_opens_from_any_part_and_from_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let part = |number: u32| format!("set-0000{number}-of-00003.gguf");
    for number in 1..=3 {
        std::fs::copy(data(&part(number)), dir.path().join(part(number))).unwrap();
    }
    let paths = (1..=3).map(|number| dir.path().join(part(number))).chain([dir.path().to_owned()]);
    for path in paths {
        let file = Checkpoint::open(&path).unwrap();
        assert_eq!(file.files().len(), 3);
        assert_eq!(gguf_metadata(&file).str("general.name"), Some("three files"));
        for (i, tensor) in file.tensors().enumerate() {
            assert_eq!((tensor.name.as_str(), tensor.shape.as_slice()), (format!("t{i}").as_str(), [2, 4].as_slice()));
            assert_eq!(tensor.to_f32().unwrap(), [i as f32; 8]);
        }
        assert_eq!(file.tensors().len(), 5);
    }
}

#[test]
fn the_safetensors_crate_agrees_with_our_reader_and_reads_our_files() {
    let bytes = std::fs::read(data("blocks.safetensors")).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ours = safetensors::read(&data("blocks.safetensors")).unwrap();
    assert_eq!(ours.len(), theirs.len());
    for tensor in &ours {
        let other = theirs.tensor(&tensor.name).unwrap();
        assert_eq!((&*tensor.bytes(), &tensor.shape[..]), (other.data(), other.shape()));
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    let logits: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let ids: Vec<u8> = [7i64, -1].iter().flat_map(|id| id.to_le_bytes()).collect();
    safetensors::write(
        &path,
        &[
            ("mask", DType::Bool, &[3], &[1, 0, 1]),
            ("logits", DType::F32, &[1, 3, 4], &logits),
            ("ids", DType::I64, &[1, 2], &ids),
            ("empty", DType::F32, &[0, 4], &[]),
        ],
    )
    .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(
        (theirs.tensor("logits").unwrap().data(), theirs.tensor("logits").unwrap().shape()),
        (&logits[..], &[1, 3, 4][..])
    );
    assert_eq!(theirs.tensor("mask").unwrap().data(), [1, 0, 1]);
    let ours = Checkpoint::open(&path).unwrap();
    assert_eq!(ours.tensor("ids").unwrap().to_i64().unwrap(), [7, -1]);
    assert_eq!(ours.tensor("empty").unwrap().shape, [0, 4]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn fixtures_beside_the_project_open() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/models");
    let Ok(entries) = std::fs::read_dir(&models) else {
        println!("skipped: there is no ../shared/fixtures/models");
        return;
    };
    for dir in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let Metadata::Hf(metadata) = checkpoint.metadata() else { panic!("{dir:?} is a Hugging Face checkpoint") };
        assert!(metadata.config["vocab_size"].is_u64(), "{dir:?}");
        for tensor in checkpoint.tensors() {
            assert_eq!(tensor.to_f32().unwrap().len(), tensor.elements());
        }
    }
}
