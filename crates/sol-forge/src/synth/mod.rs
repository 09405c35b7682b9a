//! Checkpoints with the shapes of published models and random weights.
//!
//! How fast a model runs and what memory it takes depend on its shapes and types alone; with these files both can be measured
//! where the weights can not be had. Their weights are such that activations neither explode nor vanish, so that nothing
//! takes a short cut that real numbers do not; their answers mean nothing.
//!
//! 1. `published`: the shapes. 2. `decoder`: keys and tensors of the file, and how large their numbers are. 3. `vocabulary`: a
//!    tokenizer that encodes every text. 4. `noise`: random weights in every block format.

mod decoder;
mod noise;
mod published;
mod random;
mod vocabulary;

use std::path::Path;
use std::thread;

use sol_weights::DType;
use sol_weights::gguf::{Existing, TensorInfo, Value, Writer};

use crate::{Error, Result, Types};
use decoder::{Content, Decoder, Filled};
use noise::{Noise, PIECE};
pub use published::{Family, PUBLISHED, Published};
use random::Random;

/// llama.cpp loads no more.
pub const MAX_LAYERS: usize = 512;

/// Bytes that are made at once, about, and so the memory that it takes beside the header.
const CHUNK: usize = 32 << 20;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Whose shapes.
    pub like: &'static Published,
    /// Layers; default: the model's. Of Solar's skip connections those are written that end within them.
    pub layers: Option<usize>,
    /// Types of the matrices.
    pub types: Types,
    /// The same weights for the same seed, whatever the other tensors are.
    pub seed: u64,
    /// As architecture `llama`, which other programs load: the same weights without skip connections.
    pub as_llama: bool,
}

/// A checkpoint that can be written: its header, and how its tensors are made.
#[derive(Clone, Debug)]
pub struct Plan {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Filled>,
    architecture: &'static str,
    layers: usize,
    random: Random,
}

impl Order {
    /// Works out what will be written. Fails for a number of layers that no model has ([`Error::Layers`]) and for models that
    /// are of another form than Llama's where that is asked for ([`Error::NoLlama`]).
    pub fn plan(&self) -> Result<Plan> {
        let Self { like, types, seed, .. } = *self;
        let layers = self.layers.unwrap_or(like.layers);
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Err(Error::Layers { asked: layers, most: MAX_LAYERS });
        }
        let family = match like.family {
            Family::Solar if self.as_llama => Family::Llama { scaled: false },
            Family::Phi3 | Family::Gemma2 if self.as_llama => {
                return Err(Error::NoLlama { model: like.name, architecture: like.family.architecture() });
            }
            family => family,
        };
        let decoder = Decoder { shape: *like, family, layers, types };
        let mut metadata: Vec<(String, Value)> = [
            ("general.architecture", Value::String(family.architecture().into())),
            ("general.type", Value::String("model".into())),
            ("general.name", Value::String(format!("{} with random weights", like.title))),
            (
                "general.description",
                Value::String(format!(
                    "Random weights for measurements, made by sol synth with seed {seed}: answers mean nothing"
                )),
            ),
            ("general.file_type", Value::U32(types.file_type())),
            ("general.quantization_version", Value::U32(2)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        metadata.extend(decoder.keys());
        metadata.extend(vocabulary::keys(like.vocab));
        let (tensors, architecture) = (decoder.tensors(), family.architecture());
        Ok(Plan { metadata, tensors, architecture, layers, random: Random::new(seed) })
    }
}

impl Plan {
    /// GGUF's `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// What the header says of the tensors.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|tensor| &tensor.info)
    }

    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors().map(|info| info.byte_len().unwrap_or(0) as u64).sum()
    }

    /// Writes the file, with so many threads. `progress` is called with the bytes of tensors written so far, many times a second;
    /// where `stop` says so, nothing is left of the file and the error is [`Error::Interrupted`]. The bytes are the same for
    /// any number of threads.
    ///
    /// Returns the bytes of the file.
    pub fn write(
        &self,
        path: &Path,
        existing: Existing,
        threads: usize,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let infos: Vec<TensorInfo> = self.tensors().cloned().collect();
        let mut writer = Writer::create(path, &self.metadata, &infos, existing)?;
        let mut noises = Noises::default();
        let mut chunk = Vec::new();
        let mut written = 0;
        for Filled { info, content } in &self.tensors {
            let noise = match content {
                Content::Exactly(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    writer.write(&bytes)?;
                    continue;
                }
                Content::NearOne => &Noise::around(1.0, 0.1),
                Content::Random(deviation) => noises.of(info.dtype, *deviation)?,
            };
            let random = self.random.named(&info.name);
            let piece = PIECE * info.dtype.block_bytes();
            let pieces_at_once = (CHUNK / piece).max(1);
            // The writer has refused tensors that have no size.
            let mut left = info.byte_len().unwrap_or(0);
            for first_piece in (0..).step_by(pieces_at_once) {
                if left == 0 {
                    break;
                }
                if stop() {
                    return Err(Error::Interrupted);
                }
                chunk.resize(left.min(pieces_at_once * piece), 0);
                fill(noise, random, first_piece, info.dtype, &mut chunk, threads);
                writer.write(&chunk)?;
                left -= chunk.len();
                written += chunk.len() as u64;
                progress(written);
            }
        }
        let file_len = writer.file_len();
        writer.finish()?;
        Ok(file_len)
    }
}

/// The few kinds of noise that a file needs, each made once.
#[derive(Default)]
struct Noises(Vec<(DType, f32, Noise)>);

impl Noises {
    fn of(&mut self, dtype: DType, deviation: f32) -> Result<&Noise> {
        let known = self.0.iter().position(|(d, x, _)| (*d, *x) == (dtype, deviation));
        let at = match known {
            Some(at) => at,
            None => {
                self.0.push((dtype, deviation, Noise::new(dtype, deviation)?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].2)
    }
}

/// Fills a chunk that begins with a piece of the tensor, the pieces shared among threads.
fn fill(noise: &Noise, random: Random, first_piece: u64, dtype: DType, chunk: &mut [u8], threads: usize) {
    let piece = PIECE * dtype.block_bytes();
    let pieces = chunk.len().div_ceil(piece);
    let share = pieces.div_ceil(threads.max(1));
    if share == pieces {
        return noise.fill(random, first_piece, chunk);
    }
    thread::scope(|scope| {
        for (first_piece, part) in (first_piece..).step_by(share).zip(chunk.chunks_mut(share * piece)) {
            scope.spawn(move || noise.fill(random, first_piece, part));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sol_model::{describe, memory};
    use sol_weights::Checkpoint;

    use super::*;
    use crate::Mixture;

    fn order(like: &str) -> Order {
        let like = Published::named(like).unwrap();
        Order { like, layers: None, types: Types::Mixed(Mixture::Q4KM), seed: 0, as_llama: false }
    }

    fn elements(plan: &Plan) -> usize {
        plan.tensors().map(|info| info.shape.iter().product::<usize>()).sum()
    }

    /// Beside the published numbers of parameters there are 64 rotary divisors, or the two shares of Solar's blend.
    #[test]
    fn parameters_are_as_published() {
        for (name, parameters) in [
            ("solar-pro", 22_140_032_000 + 2),
            ("llama-3.1-8b", 8_030_261_248 + 64),
            ("llama-3.1-70b", 70_553_706_496 + 64),
            ("phi-3-medium", 13_960_238_080),
            ("gemma-2-27b", 27_227_128_320),
            ("smollm2", 134_515_008),
        ] {
            assert_eq!(elements(&order(name).plan().unwrap()), parameters, "{name}");
        }
        let as_llama = Order { as_llama: true, ..order("solar-pro") }.plan().unwrap();
        assert_eq!((elements(&as_llama), as_llama.architecture()), (22_140_032_000, "llama"));
    }

    /// 4.8 bits a weight.
    #[test]
    fn solar_pro_in_q4_k_m_takes_13_gb() {
        assert_eq!(order("solar-pro").plan().unwrap().weight_bytes() / 100_000_000, 133);
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        for layers in [0, 513] {
            let order = Order { layers: Some(layers), ..order("solar-pro") };
            assert!(matches!(order.plan(), Err(Error::Layers { .. })));
        }
        let order = Order { as_llama: true, ..order("phi-3-medium") };
        assert!(matches!(order.plan(), Err(Error::NoLlama { .. })));
    }

    /// The smallest shapes, made smaller yet: every family as a file that the decoder's own reader takes.
    fn small(family: Family) -> Order {
        let shape = Published {
            family,
            layers: 2,
            hidden: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            ffn: 512,
            vocab: 400,
            tied: family == Family::Gemma2,
            ..*Published::named("smollm2").unwrap()
        };
        Order { like: Box::leak(Box::new(shape)), ..order("smollm2") }
    }

    fn write(order: &Order, path: &Path, threads: usize) {
        let mut last = 0;
        let plan = order.plan().unwrap();
        let len = plan.write(path, Existing::Replace, threads, &|| false, &mut |n| last = n).unwrap();
        assert_eq!(len, fs::metadata(path).unwrap().len());
        assert!(last <= plan.weight_bytes() && plan.weight_bytes() - last < 1000);
    }

    #[test]
    fn every_family_is_read_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for family in [Family::Solar, Family::Llama { scaled: true }, Family::Phi3, Family::Gemma2] {
            let path = dir.path().join("a.gguf");
            let order = Order { layers: Some(if family == Family::Solar { 64 } else { 2 }), ..small(family) };
            write(&order, &path, 2);
            let checkpoint = Checkpoint::open(&path).unwrap();
            let description = describe(&checkpoint).unwrap();
            assert_eq!(description.warnings, [""; 0]);
            let spec = description.spec;
            assert_eq!(spec.architecture, family.architecture());
            let extra = match family {
                Family::Solar => 2,
                Family::Llama { .. } => 32,
                _ => 0,
            };
            assert_eq!(memory::parameters(&spec) as usize + extra, elements(&order.plan().unwrap()));
            assert_eq!(spec.skip_links().len(), if family == Family::Solar { 6 } else { 0 });
            assert_eq!(spec.skip_blend, if family == Family::Solar { 0.8 } else { 0.0 });
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_weights() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let order = Order { types: Types::All(DType::Q8_0), ..small(Family::Solar) };
        write(&order, &path("one"), 1);
        write(&order, &path("many"), 5);
        assert_eq!(fs::read(path("one")).unwrap(), fs::read(path("many")).unwrap());
        write(&Order { as_llama: true, ..order }, &path("llama"), 2);
        write(&Order { seed: 1, ..order }, &path("other"), 2);
        let [solar, llama, other] = ["one", "llama", "other"].map(|name| Checkpoint::open(&path(name)).unwrap());
        for tensor in llama.tensors() {
            assert_eq!(tensor.bytes()[..], solar.tensor(&tensor.name).unwrap().bytes()[..]);
            assert_ne!(tensor.bytes()[..], other.tensor(&tensor.name).unwrap().bytes()[..]);
        }
        assert_eq!(llama.tensors().len() + 1, solar.tensors().len());
        assert!(solar.tensor("bskcn_tv.weight").is_some());
    }

    #[test]
    fn nothing_is_left_after_an_interrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let plan = small(Family::Solar).plan().unwrap();
        let result = plan.write(&path, Existing::Refuse, 1, &|| true, &mut |_| {});
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
