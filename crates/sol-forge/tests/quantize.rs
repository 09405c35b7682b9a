//! Checkpoints in fewer bits: which types, what is kept, what is refused, and that threads make no difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sol_forge::quantize::{Importance, InputSums, Order, Report};
use sol_forge::synth::{self, Family, Published};
use sol_forge::{Error, Types};
use sol_weights::gguf::{Existing, TensorInfo, Value, Writer};
use sol_weights::{Checkpoint, DType, Metadata};

/// Two layers of 256 columns.
fn small(dir: &Path, types: &str, tied: bool) -> PathBuf {
    let shape = Published {
        family: Family::Llama { scaled: false },
        layers: 2,
        hidden: 256,
        heads: 4,
        kv_heads: 1,
        head_dim: 64,
        ffn: 512,
        vocab: 400,
        tied,
        ..*Published::named("smollm2").unwrap()
    };
    let like = Box::leak(Box::new(shape));
    let order = synth::Order { like, layers: None, types: Types::named(types).unwrap(), seed: 1, as_llama: false };
    let path = dir.join(format!("{types}-{tied}.gguf"));
    order.plan().unwrap().write(&path, Existing::Replace, 1, &|| false, &mut |_| {}).unwrap();
    path
}

fn quantize(from: &Path, to: &Path, types: Types, importance: Option<&Importance>, threads: usize) -> Result<Report, Error> {
    let source = Checkpoint::open(from)?;
    let plan = Order { source: &source, types, importance }.plan()?;
    let mut last = 0;
    let report = plan.write(to, Existing::Replace, threads, &|| false, &mut |done| last = done)?;
    assert_eq!((last, fs::metadata(to).unwrap().len()), (plan.source_bytes(), report.file_bytes));
    Ok(report)
}

/// A model of one matrix.
fn one(path: &Path, name: &str, dtype: DType, rows: usize, bytes: &[u8]) {
    let metadata = [("general.architecture".to_owned(), Value::String("llama".into()))];
    let info = TensorInfo { name: name.into(), dtype, shape: vec![rows, 256] };
    let mut writer = Writer::create(path, &metadata, &[info], Existing::Replace).unwrap();
    writer.write(bytes).unwrap();
    writer.finish().unwrap();
}

fn mean_square(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
}

#[test]
fn every_type_is_read_back_with_the_error_that_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let source = small(dir.path(), "f16", true);
    let before = Checkpoint::open(&source).unwrap();
    for name in Types::names() {
        let out = dir.path().join("out.gguf");
        let types = Types::mostly(name).unwrap();
        let report = quantize(&source, &out, types, None, 2).unwrap();
        let after = Checkpoint::open(&out).unwrap();
        let Metadata::Gguf(metadata) = after.metadata() else { panic!() };
        assert_eq!(metadata.u64("general.file_type"), Some(types.file_type().into()), "{name}");
        assert_eq!(metadata.u64("general.quantization_version"), Some(2));
        assert_eq!(metadata.u64("llama.block_count"), Some(2));
        assert_eq!(report.tensors.len(), before.tensors().len());
        for (outcome, old) in report.tensors.iter().zip(before.tensors()) {
            let new = after.tensor(&old.name).unwrap();
            assert_eq!((&outcome.name, outcome.to, &new.shape), (&old.name, new.dtype, &old.shape));
            assert_eq!((outcome.bytes_before, outcome.bytes_after), (old.byte_len() as u64, new.byte_len() as u64));
            let (x, y) = (before.to_f32(old).unwrap(), after.to_f32(new).unwrap());
            let found = mean_square(&x, &y);
            let size = mean_square(&x, &vec![0.0; x.len()]);
            assert!((outcome.mean_squared_error() - found).abs() <= 1e-4 * found, "{name} {}", old.name);
            assert!(found <= 0.09 * size, "{name} {}: {found:e} of {size:e}", old.name);
            if old.shape.len() == 1 {
                assert_eq!((new.dtype, x), (old.dtype, y));
            }
        }
        sol_model::describe(&after).unwrap();
    }
}

#[test]
fn types_are_those_of_llama_quantize() {
    let dir = tempfile::tempdir().unwrap();
    let types = |source: &Path, name: &str, tensor: &str| {
        let source = Checkpoint::open(source).unwrap();
        let plan = Order { source: &source, types: Types::mostly(name).unwrap(), importance: None }.plan().unwrap();
        plan.tensors().find(|info| info.name == tensor).unwrap().dtype
    };
    let (tied, untied) = (small(dir.path(), "f16", true), small(dir.path(), "f16", false));
    for (name, head, embedding, value, down, output) in [
        ("q4_0", DType::Q6K, DType::Q4_0, DType::Q4_0, DType::Q4_0, DType::Q4_0),
        ("q8_0", DType::Q8_0, DType::Q8_0, DType::Q8_0, DType::Q8_0, DType::Q8_0),
        // Four heads share their values.
        ("q2_k", DType::Q6K, DType::Q2K, DType::Q4K, DType::Q3K, DType::Q3K),
        ("q3_k_s", DType::Q6K, DType::Q3K, DType::Q3K, DType::Q3K, DType::Q3K),
        ("q3_k_m", DType::Q6K, DType::Q3K, DType::Q5K, DType::Q4K, DType::Q4K),
        ("q3_k_l", DType::Q6K, DType::Q3K, DType::Q5K, DType::Q5K, DType::Q5K),
        ("q4_k_s", DType::Q6K, DType::Q4K, DType::Q5K, DType::Q4K, DType::Q4K),
        ("q4_k", DType::Q6K, DType::Q4K, DType::Q4K, DType::Q4K, DType::Q4K),
        ("iq4_xs", DType::Q6K, DType::IQ4XS, DType::Q5K, DType::IQ4XS, DType::IQ4XS),
        ("f16", DType::F16, DType::F16, DType::F16, DType::F16, DType::F16),
    ] {
        let of = |tensor: &str| types(&untied, name, tensor);
        assert_eq!((of("output.weight"), of("token_embd.weight")), (head, embedding), "{name}");
        let layer = ["attn_v", "ffn_down", "attn_output"].map(|kind| of(&format!("blk.0.{kind}.weight")));
        assert_eq!(layer, [value, down, output], "{name}");
        assert_eq!(types(&tied, name, "token_embd.weight"), head, "{name}");
        assert_eq!(of("blk.0.attn_norm.weight"), DType::F32);
    }
}

#[test]
fn bytes_and_errors_are_the_same_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let source = small(dir.path(), "f32", false);
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    let types = Types::mostly("q4_k_m").unwrap();
    let a = quantize(&source, &one, types, None, 1).unwrap();
    let b = quantize(&source, &many, types, None, 7).unwrap();
    assert_eq!(a.tensors, b.tensors);
    assert!(fs::read(one).unwrap() == fs::read(many).unwrap());
}

#[test]
fn what_is_of_the_type_already_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let source = small(dir.path(), "q8_0", true);
    let out = dir.path().join("out.gguf");
    let report = quantize(&source, &out, Types::mostly("q8_0").unwrap(), None, 2).unwrap();
    assert!(report.tensors.iter().all(|tensor| tensor.from == tensor.to && tensor.relative_error() == 0.0));
    let [before, after] = [&source, &out].map(|path| Checkpoint::open(path).unwrap());
    assert!(before.tensors().all(|tensor| tensor.bytes()[..] == after.tensor(&tensor.name).unwrap().bytes()[..]));
}

#[test]
fn what_can_not_be_quantised_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let q4_0 = Types::mostly("q4_0").unwrap();
    let refused = |source: &Path, importance: Option<&Importance>| {
        let error = quantize(source, &out, q4_0, importance, 2).unwrap_err().to_string();
        assert!(!out.exists());
        error
    };
    let error = refused(&small(dir.path(), "q4_1", true), None);
    assert!(error.contains("quantised already (Q4_1); quantising needs F32, F16, BF16 or Q8_0"), "{error}");

    let path = dir.path().join("nan.gguf");
    let mut values = vec![0.5f32; 3 * 256];
    values[256 + 7] = f32::NAN;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    one(&path, "blk.0.ffn_up.weight", DType::F32, 3, &bytes);
    let error = refused(&path, None);
    assert!(error.contains("`blk.0.ffn_up.weight` has NaN in row 1, column 7"), "{error}");

    // Too large for the step of a block, not for floats.
    values[256 + 7] = -2e20;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    one(&path, "blk.0.ffn_up.weight", DType::F32, 3, &bytes);
    let error = refused(&path, None);
    assert!(error.contains("has -200000000000000000000 in row 1, column 7, which is too large for Q4_0"), "{error}");
    let floats = dir.path().join("bf16.gguf");
    let report = quantize(&path, &floats, Types::mostly("bf16").unwrap(), None, 2).unwrap();
    assert!(report.tensors[0].relative_error() < 0.01 && report.tensors[0].squared > 1e40);

    let sums = InputSums { squares: vec![1.0; 128], counts: vec![1.0] };
    let other = Importance::new(vec![], 1, 1, BTreeMap::from([("blk.0.ffn_up.weight".to_owned(), sums)]));
    let error = refused(&path, Some(&other));
    assert!(error.contains("the importance matrix of another model"), "{error}");

    let source = Checkpoint::open(&small(dir.path(), "f16", true)).unwrap();
    let plan = Order { source: &source, types: q4_0, importance: None }.plan().unwrap();
    let stopped = plan.write(&out, Existing::Refuse, 2, &|| true, &mut |_| {});
    assert!(matches!(stopped, Err(Error::Interrupted)) && !out.exists());

    let shards = dir.path().join("model.safetensors");
    fs::write(&shards, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let error = refused(&shards, None);
    assert!(error.contains("only GGUF files are quantised"), "{error}");
}

/// Neither the source nor the importance matrix is replaced, by whatever name.
#[test]
fn what_it_is_made_of_is_spared() {
    let dir = tempfile::tempdir().unwrap();
    let (path, matrix) = (small(dir.path(), "f16", true), dir.path().join("matrix.gguf"));
    let sums = InputSums { squares: vec![1.0; 4], counts: vec![1.0] };
    Importance::new(vec![], 1, 1, BTreeMap::from([("none".to_owned(), sums)])).write(&matrix, Existing::Refuse).unwrap();
    let importance = Importance::read(&matrix).unwrap();
    let source = Checkpoint::open(&path).unwrap();
    let types = Types::mostly("q4_0").unwrap();
    let plan = Order { source: &source, types, importance: Some(&importance) }.plan().unwrap();
    let linked = dir.path().join("linked.gguf");
    fs::hard_link(&path, &linked).unwrap();
    for out in [&path, &matrix, &linked] {
        let result = plan.write(out, Existing::Replace, 1, &|| false, &mut |_| {});
        assert!(matches!(result, Err(Error::OverBase { .. })), "{result:?}");
    }
    assert!(source.unchanged().is_ok() && Importance::read(&matrix).is_ok());
}

/// A file that shrinks under its mapping reads as zeros; the result is not one.
#[cfg(target_os = "linux")]
#[test]
fn a_source_that_changes_meanwhile_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (small(dir.path(), "f16", true), dir.path().join("out.gguf"));
    let source = Checkpoint::open(&path).unwrap();
    let plan = Order { source: &source, types: Types::mostly("q4_0").unwrap(), importance: None }.plan().unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    // Where it is encoded, and where it is copied.
    let copied = Order { source: &source, types: Types::mostly("f16").unwrap(), importance: None }.plan().unwrap();
    for plan in [plan, copied] {
        let error = plan.write(&out, Existing::Refuse, 2, &|| false, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("changed while it was in use") && !out.exists(), "{error}");
    }
}

#[test]
fn an_importance_matrix_is_written_read_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let source = small(dir.path(), "f32", true);
    let name = "blk.1.ffn_up.weight";
    let squares: Vec<f32> = (0..256).map(|i| if i % 7 == 0 { 90.0 } else { 1.0 }).collect();
    let inputs = BTreeMap::from([(name.to_owned(), InputSums { squares: squares.clone(), counts: vec![10.0] })]);
    let importance = Importance::new(vec!["text".into()], 512, 3, inputs);
    let path = dir.path().join("imatrix.gguf");
    importance.write(&path, Existing::Refuse).unwrap();
    let read = Importance::read(&path).unwrap();
    assert_eq!((&read.inputs, &read.datasets), (&importance.inputs, &importance.datasets));
    assert_eq!((read.chunk_size, read.chunk_count), (512, 3));

    let (plain, weighed) = (dir.path().join("plain"), dir.path().join("weighed"));
    let types = Types::mostly("q3_k_s").unwrap();
    quantize(&source, &plain, types, None, 1).unwrap();
    let report = quantize(&source, &weighed, types, Some(&read), 2).unwrap();
    assert!(report.tensors.iter().all(|tensor| tensor.weighed == (tensor.name == name)));
    let [before, plain, weighed] = [&source, &plain, &weighed].map(|path| Checkpoint::open(path).unwrap());
    let numbers = |checkpoint: &Checkpoint| checkpoint.to_f32(checkpoint.tensor(name).unwrap()).unwrap();
    let error = |checkpoint: &Checkpoint| {
        let each = numbers(&before).into_iter().zip(numbers(checkpoint)).enumerate();
        each.map(|(i, (a, b))| f64::from(squares[i % 256] * (a - b) * (a - b))).sum::<f64>()
    };
    assert!(error(&weighed) < 0.8 * error(&plain));
    let Metadata::Gguf(metadata) = weighed.metadata() else { panic!() };
    assert_eq!(metadata.str("quantize.imatrix.dataset"), Some("text"));
    assert_eq!(metadata.u64("quantize.imatrix.entries_count"), Some(1));

    let error = Importance::read(&source).unwrap_err().to_string();
    assert!(error.contains("it is a model, not an importance matrix"), "{error}");
}

/// What llama-imatrix wrote before: the same weights, without the means' factor.
#[test]
fn an_older_importance_matrix_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imatrix.dat");
    let entry = |name: &str, calls: i32, values: &[f32]| {
        let mut bytes = (name.len() as i32).to_le_bytes().to_vec();
        bytes.extend(name.as_bytes());
        bytes.extend(calls.to_le_bytes());
        bytes.extend((values.len() as i32).to_le_bytes());
        values.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        bytes
    };
    let head = [2i32.to_le_bytes().to_vec(), entry("a.weight", 7, &[1.0, 4.0]), entry("b.weight", 3, &[0.5])].concat();
    let tail = [&9i32.to_le_bytes()[..], &4i32.to_le_bytes(), b"text"].concat();
    fs::write(&path, [&head[..], &tail].concat()).unwrap();
    let read = Importance::read(&path).unwrap();
    assert_eq!(read.inputs["a.weight"], InputSums { squares: vec![1.0, 4.0], counts: vec![7.0] });
    assert_eq!((read.inputs.len(), read.chunk_count, &read.datasets[..]), (2, 9, &["text".to_owned()][..]));
    // The first ones ended here.
    fs::write(&path, &head).unwrap();
    assert_eq!(Importance::read(&path).unwrap().inputs, read.inputs);
    for bytes in [&head[..head.len() - 1], &head[..9], b"a text, no matrix", b"\xFF\xFF\xFF\x7F"] {
        fs::write(&path, bytes).unwrap();
        let error = Importance::read(&path).unwrap_err().to_string();
        assert!(error.contains("neither a GGUF file nor a whole `.dat`"), "{error}");
    }
    fs::write(&path, [1i32.to_le_bytes().to_vec(), entry("a", 1, &[f32::NAN])].concat()).unwrap();
    let error = Importance::read(&path).unwrap_err().to_string();
    assert!(error.contains("`a` has numbers that no sum of squares is"), "{error}");
}

/// Experts have an importance each.
#[test]
fn experts_are_weighed_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, name) = (dir.path().join("experts.gguf"), "blk.0.ffn_up_exps.weight");
    let values: Vec<f32> = (0..2 * 3 * 256).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let metadata = [("general.architecture".to_owned(), Value::String("phimoe".into()))];
    let info = TensorInfo { name: name.into(), dtype: DType::F32, shape: vec![2, 3, 256] };
    let mut writer = Writer::create(&path, &metadata, &[info], Existing::Refuse).unwrap();
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
    // The second expert's first half matters.
    let squares = (0..512).map(|i| if (256..384).contains(&i) { 50.0 } else { 1.0 }).collect();
    let inputs = BTreeMap::from([(name.to_owned(), InputSums { squares, counts: vec![1.0; 2] })]);
    let importance = Importance::new(vec![], 1, 1, inputs);
    let (plain, weighed) = (dir.path().join("plain"), dir.path().join("weighed"));
    let types = Types::mostly("q4_0").unwrap();
    quantize(&path, &plain, types, None, 1).unwrap();
    quantize(&path, &weighed, types, Some(&importance), 2).unwrap();
    let [plain, weighed] = [plain, weighed].map(|path| Checkpoint::open(&path).unwrap());
    let [plain, weighed] = [&plain, &weighed].map(|c| c.tensor(name).unwrap().bytes());
    assert_eq!(plain[..3 * 144], weighed[..3 * 144]);
    // Blocks of 32 within which all weigh alike are the same too.
    assert_eq!(plain[3 * 144..], weighed[3 * 144..]);
    let squares = (0..512).map(|i| if i >= 256 && i % 2 == 0 { 50.0 } else { 1.0 }).collect();
    let inputs = BTreeMap::from([(name.to_owned(), InputSums { squares, counts: vec![1.0; 2] })]);
    let out = dir.path().join("uneven");
    quantize(&path, &out, types, Some(&Importance::new(vec![], 1, 1, inputs)), 2).unwrap();
    let uneven = Checkpoint::open(&out).unwrap().tensor(name).unwrap().bytes();
    assert!(plain[..3 * 144] == uneven[..3 * 144] && plain[3 * 144..] != uneven[3 * 144..]);
}
