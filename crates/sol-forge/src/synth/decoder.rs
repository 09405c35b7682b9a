//! The hyper-parameters and tensors of a decoder as its GGUF file has them.

use sol_compute::RopePairing;
use sol_model::{Role, RopeFactors, RopeScaling, RopeSpec};
use sol_weights::DType;
use sol_weights::gguf::{Array, TensorInfo, Value};

use super::published::{Family, Published, SOLAR_BLEND, SOLAR_LINKS};
use crate::types::{Matrix, Types};

/// A tensor and what it is filled with.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    pub(super) info: TensorInfo,
    pub(super) content: Content,
}

/// What a tensor is filled with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Random numbers of mean 0 and a standard deviation.
    Random(f32),
    /// Random numbers near 1.
    NearOne,
    /// These.
    Exactly(Vec<f32>),
}

/// A decoder to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    /// Its shapes.
    pub(super) shape: Published,
    /// How it is written: not the shapes' family where that is written as a Llama.
    pub(super) family: Family,
    pub(super) layers: usize,
    pub(super) types: Types,
}

impl Decoder {
    /// The keys under its architecture's prefix.
    pub(super) fn keys(&self) -> Vec<(String, Value)> {
        let Published { hidden, heads, kv_heads, head_dim, ffn, vocab, context, eps, theta, .. } = self.shape;
        // The shapes are constants of this crate, far below what a u32 counts; so is the limit of layers.
        let count = |n: usize| Value::U32(n as u32);
        let mut keys = vec![
            ("block_count", count(self.layers)),
            ("context_length", count(context)),
            ("embedding_length", count(hidden)),
            ("feed_forward_length", count(ffn)),
            ("attention.head_count", count(heads)),
            ("attention.head_count_kv", count(kv_heads)),
            ("attention.key_length", count(head_dim)),
            ("attention.value_length", count(head_dim)),
            ("attention.layer_norm_rms_epsilon", Value::F32(eps)),
            ("rope.dimension_count", count(head_dim)),
            ("rope.freq_base", Value::F32(theta)),
            ("vocab_size", count(vocab)),
        ];
        match self.family {
            Family::Llama { .. } => {}
            Family::Solar => {
                const LISTS: [&str; 4] = [
                    "attention.block_skip_connection.0",
                    "attention.block_skip_connection.1",
                    "attention.block_skip_connection.2",
                    "attention.block_skip_connection.3",
                ];
                let lists = self.skip_lists().map(|list| Value::Array(Array::I32(list)));
                keys.extend(LISTS.into_iter().zip(lists));
            }
            Family::Phi3 => {
                keys.extend([("attention.sliding_window", count(2047)), ("rope.scaling.original_context_length", count(context))])
            }
            Family::Gemma2 => keys.extend([
                ("attention.sliding_window", count(4096)),
                ("attn_logit_softcapping", Value::F32(50.0)),
                ("final_logit_softcapping", Value::F32(30.0)),
            ]),
        }
        let architecture = self.family.architecture();
        keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)).collect()
    }

    /// Where slots A and B are saved to, then where they are blended: 1 for such layers. Connections that do not end within
    /// the layers are left out.
    fn skip_lists(&self) -> [Vec<i32>; 4] {
        let mut lists = [(); 4].map(|()| vec![0; self.layers]);
        for (from, to, slot) in SOLAR_LINKS.into_iter().filter(|(_, to, _)| *to < self.layers) {
            lists[slot][from] = 1;
            lists[slot + 2][to] = 1;
        }
        lists
    }

    /// All tensors in the order of the file. Matrices keep the size of what passes through them: rows of n numbers have the
    /// standard deviation 1 / sqrt(n). What is added to the stream is smaller by sqrt(2 * layers), so that the sum of all
    /// layers is about as large as the embedding.
    pub(super) fn tensors(&self) -> Vec<Filled> {
        let Published { hidden, heads, kv_heads, head_dim, ffn, vocab, tied, .. } = self.shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let residual = (2.0 * self.layers as f32).sqrt().recip();
        let gain = |cols: usize| (cols as f32).sqrt().recip();
        let mut tensors = Vec::new();
        let mut put = |tensor| tensors.push(tensor);

        // A tied table is the head too, whose logits should not be too far apart.
        let (role, deviation) = if tied { (Role::Head, gain(hidden)) } else { (Role::Embedding, 1.0) };
        put(self.matrix("token_embd", role, 0, [vocab, hidden], deviation));
        if let Family::Llama { scaled: true } = self.family {
            put(exactly("rope_freqs", self.frequency_divisors()));
        }
        for layer in 0..self.layers {
            let norm = |name: &str| near_one(&format!("blk.{layer}.{name}"), hidden);
            let matrix = |name: &str, role, rows, cols, scale: f32| {
                self.matrix(&format!("blk.{layer}.{name}"), role, layer, [rows, cols], scale * gain(cols))
            };
            put(norm("attn_norm"));
            if self.family == Family::Phi3 {
                put(matrix("attn_qkv", Role::FusedQkv, q + 2 * kv, hidden, 1.0));
            } else {
                put(matrix("attn_q", Role::Query, q, hidden, 1.0));
                put(matrix("attn_k", Role::Key, kv, hidden, 1.0));
                put(matrix("attn_v", Role::Value, kv, hidden, 1.0));
            }
            put(matrix("attn_output", Role::AttentionOutput, hidden, q, residual));
            if self.family == Family::Gemma2 {
                put(norm("post_attention_norm"));
            }
            put(norm("ffn_norm"));
            if self.family == Family::Phi3 {
                put(matrix("ffn_up", Role::FusedGateUp, 2 * ffn, hidden, 1.0));
            } else {
                put(matrix("ffn_gate", Role::Gate, ffn, hidden, 1.0));
                put(matrix("ffn_up", Role::Up, ffn, hidden, 1.0));
            }
            put(matrix("ffn_down", Role::Down, hidden, ffn, residual));
            if self.family == Family::Gemma2 {
                put(norm("post_ffw_norm"));
            }
        }
        put(near_one("output_norm", hidden));
        if !tied {
            put(self.matrix("output", Role::Head, 0, [vocab, hidden], gain(hidden)));
        }
        if self.family == Family::Solar {
            put(exactly("bskcn_tv", vec![SOLAR_BLEND, 1.0 - SOLAR_BLEND]));
        }
        tensors
    }

    fn matrix(&self, name: &str, role: Role, layer: usize, shape: [usize; 2], deviation: f32) -> Filled {
        let heads_per_value = self.shape.heads / self.shape.kv_heads;
        let (layers, cols) = (self.layers, shape[1]);
        let dtype = self.types.of(Matrix { role, layer, layers, cols, heads_per_value, experts: 0, weighed: false });
        Filled { info: info(name, dtype, &shape), content: Content::Random(deviation) }
    }

    /// Llama 3.1's scaling as GGUF has it: what each frequency is divided by.
    fn frequency_divisors(&self) -> Vec<f32> {
        let frequencies = |scaling| {
            let Published { head_dim: dim, theta, .. } = self.shape;
            RopeSpec { dim, theta, pairing: RopePairing::Adjacent, scaling }.table(RopeFactors::Short).inv_freq
        };
        let scaled = frequencies(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 });
        frequencies(RopeScaling::None).iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect()
    }
}

fn info(name: &str, dtype: DType, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: format!("{name}.weight"), dtype, shape: shape.into() }
}

fn near_one(name: &str, len: usize) -> Filled {
    Filled { info: info(name, DType::F32, &[len]), content: Content::NearOne }
}

fn exactly(name: &str, values: Vec<f32>) -> Filled {
    Filled { info: info(name, DType::F32, &[values.len()]), content: Content::Exactly(values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solar(layers: usize) -> Decoder {
        let shape = *Published::named("solar-pro").unwrap();
        Decoder { shape, family: shape.family, layers, types: Types::All(DType::BF16) }
    }

    fn ones(list: &[i32]) -> Vec<usize> {
        (0..list.len()).filter(|&i| list[i] == 1).collect()
    }

    #[test]
    fn solar_pro_has_its_published_skips_and_fewer_layers_those_that_fit() {
        let lists = solar(64).skip_lists().map(|list| ones(&list));
        assert_eq!(lists, [vec![12, 20, 32, 44], vec![20, 32], vec![16, 24, 36, 48], vec![28, 40]]);
        let lists = solar(26).skip_lists().map(|list| ones(&list));
        assert_eq!(lists, [vec![12, 20], vec![], vec![16, 24], vec![]]);
        assert!(solar(4).skip_lists().iter().all(|list| *list == [0; 4]));
    }

    #[test]
    fn llama_3_1_divides_low_frequencies_by_8_and_keeps_high_ones() {
        let shape = *Published::named("llama-3.1-8b").unwrap();
        let divisors = Decoder { shape, family: shape.family, ..solar(1) }.frequency_divisors();
        assert_eq!((divisors.len(), divisors[0], divisors[63]), (64, 1.0, 8.0));
        assert!(divisors.is_sorted());
    }
}
