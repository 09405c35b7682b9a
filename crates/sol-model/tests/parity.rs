//! Logits and greedy continuations against float32 PyTorch (see `data/README.md`), on the project's fixtures and, where it
//! exists, on `../shared/fixtures`. Each is run in one piece, token by token, in uneven pieces and with both sequences of the
//! fixture in one batch: the bits must not change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sol_compute::{Backend, Batch, KvType};
use sol_cpu::Cpu;
use sol_model::{BLOCK_LEN, LoadOptions, Model, RopeFactors};
use sol_weights::{Checkpoint, Tensor};

/// float32 implementations agree to about 1e-4 here; see the fixtures' README.
const TOLERANCE: f32 = 1e-3;

fn data(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(kind)
}

fn directories(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("expected.safetensors").exists()).collect();
    found.sort();
    found
}

struct Expected(Checkpoint);

impl Expected {
    fn open(dir: &Path) -> Self {
        Self(Checkpoint::open(&dir.join("expected.safetensors")).unwrap())
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.0.tensor(name)
    }

    /// Rows of an id tensor.
    fn ids(&self, name: &str) -> Option<Vec<Vec<u32>>> {
        let tensor = self.tensor(name)?;
        let ids: Vec<u32> = tensor.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
        Some(ids.chunks(tensor.shape[1]).map(<[u32]>::to_vec).collect())
    }
}

/// A model with room for some sequences.
struct Runner {
    model: Model<Cpu>,
    workspace: sol_model::Workspace<Cpu>,
    cache: <Cpu as Backend>::Cache,
    tables: Vec<Vec<u32>>,
}

const BLOCKS_EACH: u32 = 20;

impl Runner {
    fn new(path: &Path, options: LoadOptions, kv: KvType) -> Self {
        let checkpoint = Arc::new(Checkpoint::open(path).unwrap());
        let model = Model::load(Arc::new(Cpu::new(Some(2)).unwrap()), checkpoint, options).unwrap();
        let cache = model.cache(2 * BLOCKS_EACH as usize, kv).unwrap();
        // Interleaved and reversed, so that a table that is ignored shows.
        let tables = (0..2).map(|s| (0..BLOCKS_EACH).rev().map(|b| 2 * b + s).collect()).collect();
        let workspace = model.workspace(256, 256);
        Self { model, workspace, cache, tables }
    }

    /// Logits of rows `(token, position, sequence)`.
    fn run(&mut self, rows: &[(u32, u32, u32)]) -> Vec<Vec<f32>> {
        let tables: Vec<&[u32]> = self.tables.iter().map(Vec::as_slice).collect();
        let column = |f: fn(&(u32, u32, u32)) -> u32| rows.iter().map(f).collect::<Vec<_>>();
        let (tokens, positions, sequences) = (column(|r| r.0), column(|r| r.1), column(|r| r.2));
        let batch = Batch { tokens: &tokens, positions: &positions, sequences: &sequences, tables: &tables };
        let outputs: Vec<usize> = (0..rows.len()).collect();
        self.model.forward(&batch, &outputs, &mut self.workspace, &mut self.cache);
        let vocab = self.model.spec().vocab;
        let read = |row: &usize| {
            let mut logits = vec![0.0; vocab];
            self.model.backend().read(&self.workspace.logits, *row, &mut logits);
            logits
        };
        outputs.iter().map(read).collect()
    }

    fn in_pieces(&mut self, ids: &[u32], piece: usize) -> Vec<Vec<f32>> {
        assert!(ids.len() <= BLOCKS_EACH as usize * BLOCK_LEN);
        let rows: Vec<_> = ids.iter().enumerate().map(|(i, id)| (*id, i as u32, 0)).collect();
        rows.chunks(piece).flat_map(|piece| self.run(piece)).collect()
    }

    /// Both sequences in the same batches.
    fn side_by_side(&mut self, first: &[u32], second: &[u32]) -> [Vec<Vec<f32>>; 2] {
        let rows: Vec<_> = (0..first.len()).flat_map(|i| [(first[i], i as u32, 0), (second[i], i as u32, 1)]).collect();
        let mixed: Vec<_> = rows.chunks(6).flat_map(|rows| self.run(rows)).collect();
        let (a, b) = mixed.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
        [a, b]
    }

    fn greedy(&mut self, prompt: &[u32], n: usize) -> Vec<u32> {
        let argmax = |logits: &Vec<f32>| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        let mut next = argmax(self.in_pieces(prompt, prompt.len()).last().unwrap());
        let mut out = vec![next];
        while out.len() < n {
            let position = prompt.len() + out.len() - 1;
            next = argmax(&self.run(&[(next, position as u32, 0)])[0]);
            out.push(next);
        }
        out
    }
}

fn worst_difference(got: &[Vec<f32>], expected: &[f32]) -> f32 {
    assert_eq!(got.iter().map(Vec::len).sum::<usize>(), expected.len());
    // NaN must not pass for small.
    got.iter().flatten().zip(expected).map(|(g, e)| (g - e).abs()).fold(0.0, |a: f32, b| if b <= a { a } else { b })
}

/// Root of the mean squared error, of the truth's standard deviation.
fn relative_error(got: &[Vec<f32>], truth: &[f32]) -> f32 {
    let error = got.iter().flatten().zip(truth).map(|(g, t)| (g - t) * (g - t)).sum::<f32>() / truth.len() as f32;
    let mean = truth.iter().sum::<f32>() / truth.len() as f32;
    let spread = truth.iter().map(|t| (t - mean) * (t - mean)).sum::<f32>() / truth.len() as f32;
    (error / spread).sqrt()
}

fn check_logits(path: &Path, expected: &Expected, ids: &str, logits: &str, options: LoadOptions) {
    let (Some(sequences), Some(truth)) = (expected.ids(ids), expected.tensor(logits)) else { return };
    let truth = truth.to_f32().unwrap();
    let each = truth.len() / sequences.len();
    let mut runner = Runner::new(path, options, KvType::F32);
    let mut together = Vec::new();
    for (ids, truth) in sequences.iter().zip(truth.chunks(each)) {
        let whole = runner.in_pieces(ids, ids.len());
        let worst = worst_difference(&whole, truth);
        assert!(worst < TOLERANCE, "{}: {logits} differ by {worst}", path.display());
        for piece in [1, 7] {
            assert_eq!(whole, runner.in_pieces(ids, piece), "{}: {logits} in pieces of {piece}", path.display());
        }
        together.push(whole);
    }
    if let [first, second] = &sequences[..] {
        assert!(runner.side_by_side(first, second) == together[..], "{}: {logits} depend on the batch", path.display());
    }
}

fn check(path: &Path, dir: &Path) {
    let expected = Expected::open(dir);
    let options = LoadOptions::default();
    let length = expected.tensor("input_ids").unwrap().shape[1];
    // As transformers chooses: by the length of the sequence. A file of longrope's full length is long by its context.
    let long = expected.tensor("short.logits").is_some().then_some(RopeFactors::Long);
    check_logits(path, &expected, "input_ids", "logits", LoadOptions { context: Some(length), rope_factors: long, ..options });
    let short = LoadOptions { rope_factors: Some(RopeFactors::Short), ..options };
    check_logits(path, &expected, "short.input_ids", "short.logits", short);
    check_logits(path, &expected, "input_ids", "logits.no_window", LoadOptions { no_window: true, ..options });
    if let (Some(prompt), Some(greedy)) = (expected.ids("prompt_ids"), expected.ids("greedy_ids")) {
        let got = Runner::new(path, options, KvType::F32).greedy(&prompt[0], greedy[0].len());
        assert_eq!(got, greedy[0], "{}: greedy tokens", path.display());
    }
}

#[test]
fn hf_fixtures_match_pytorch() {
    let dirs = directories(&data("models"));
    assert_eq!(dirs.len(), 8);
    dirs.iter().for_each(|dir| check(dir, dir));
}

#[test]
fn gguf_fixtures_match_pytorch() {
    let exact = [
        "llama",
        "llama3",
        "phi3",
        "phi3-split",
        "phi3-longrope",
        "phimoe",
        "gemma2",
        "gemma2-46",
        "solar",
        "llama-f16",
        "llama-bf16",
    ];
    for name in exact {
        let dir = data("gguf").join(name);
        check(&dir.join("model.gguf"), &dir);
    }
}

/// Quantised weights multiply activations rounded to 8 bits: logits move by a few hundredths of their spread, and never by
/// enough to change what is likely.
#[test]
fn quantised_fixtures_stay_close_to_pytorch() {
    for dir in directories(&data("gguf")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("llama-q") && !name.starts_with("llama-iq") {
            continue;
        }
        let expected = Expected::open(&dir);
        let sequences = expected.ids("input_ids").unwrap();
        let truth = expected.tensor("logits").unwrap().to_f32().unwrap();
        let mut runner = Runner::new(&dir.join("model.gguf"), LoadOptions::default(), KvType::F16);
        let got: Vec<_> = sequences.iter().flat_map(|ids| runner.in_pieces(ids, ids.len())).collect();
        let relative = relative_error(&got, &truth);
        println!("{name}: error {relative:.4} of the logits' spread");
        assert!(relative < 0.05, "{name}: error {relative} of the logits' spread");
        let pieces: Vec<_> = sequences.iter().flat_map(|ids| runner.in_pieces(ids, 1)).collect();
        assert!(got == pieces, "{name}: logits depend on the pieces");
    }
}

/// Keys and values of 8 bits move logits by one or two hundredths of the spread that they have in these random models, and change
/// no token of a greedy answer. In phimoe rival experts are so close that now and then another one is chosen.
#[test]
fn eight_bit_keys_and_values_stay_close_to_pytorch() {
    for dir in directories(&data("models")) {
        let expected = Expected::open(&dir);
        let sequences = expected.ids("input_ids").unwrap();
        let truth = expected.tensor("logits").unwrap().to_f32().unwrap();
        let long = expected.tensor("short.logits").is_some().then_some(RopeFactors::Long);
        let options = LoadOptions { context: Some(sequences[0].len()), rope_factors: long, ..LoadOptions::default() };
        let mut runner = Runner::new(&dir, options, KvType::Q8_0);
        let got: Vec<_> = sequences.iter().flat_map(|ids| runner.in_pieces(ids, ids.len())).collect();
        let relative = relative_error(&got, &truth);
        println!("{}: error {relative:.4} of the logits' spread", dir.display());
        let experts = dir.ends_with("phimoe");
        assert!(relative < if experts { 0.1 } else { 0.03 }, "{}: error {relative} of the logits' spread", dir.display());
        let pieces: Vec<_> = sequences.iter().flat_map(|ids| runner.in_pieces(ids, 1)).collect();
        assert!(got == pieces, "{}: logits depend on the pieces", dir.display());
        if let [first, second] = &sequences[..] {
            assert!(runner.side_by_side(first, second).concat() == got, "{}: logits depend on the batch", dir.display());
        }
        if let (Some(prompt), Some(greedy), false) = (expected.ids("prompt_ids"), expected.ids("greedy_ids"), experts) {
            let got = Runner::new(&dir, LoadOptions::default(), KvType::Q8_0).greedy(&prompt[0], greedy[0].len());
            assert_eq!(got, greedy[0], "{}: greedy tokens", dir.display());
        }
    }
}

/// Attention cuts the keys of a row at multiples of 256 and merges the pieces, side by side or one after another: neither may
/// show, with windows, soft-caps and every number format.
#[test]
fn long_sequences_have_the_same_bits_in_any_pieces() {
    for name in ["llama", "gemma2", "phi3", "solar-window"] {
        for (no_window, kv) in [(false, KvType::F32), (true, KvType::F16), (false, KvType::Q8_0)] {
            let options = LoadOptions { no_window, ..LoadOptions::default() };
            let mut runner = Runner::new(&data("models").join(name), options, kv);
            let vocab = runner.model.spec().vocab as u32;
            let ids: Vec<u32> = (0..600).map(|i| (i * i * 7 + i * 13 + 5) % vocab).collect();
            let whole = runner.in_pieces(&ids, 256);
            assert!(whole.iter().flatten().all(|v| v.is_finite()));
            for piece in [1, 37] {
                assert!(whole == runner.in_pieces(&ids, piece), "{name}: pieces of {piece}, no_window {no_window}, {kv:?}");
            }
        }
    }
}

#[test]
fn shared_fixtures_match_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/models");
    let dirs = directories(&root);
    if dirs.is_empty() {
        println!("skipped: {} does not exist", root.display());
    }
    for dir in dirs {
        check(&dir, &dir);
        for bf16 in directories(&dir) {
            check(&bf16, &bf16);
        }
    }
}
