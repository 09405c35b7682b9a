//! Random bits that can be had at any place without those before: SplitMix64 (Steele, Lea, Flood 2014), a counter and a mixer.

/// A stream of random bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random {
    state: u64,
}

/// 2^64 divided by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// The stream of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: mix(seed.wrapping_add(STEP)) }
    }

    /// The stream of a name (FNV-1a) under this one.
    pub(super) fn named(self, name: &str) -> Self {
        let hash =
            name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
        Self::new(self.state ^ hash)
    }

    /// The stream of a number under this one.
    pub(super) fn nth(self, number: u64) -> Self {
        Self::new(self.state ^ mix(number))
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// Random bytes.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        if !rest.is_empty() {
            let last = self.next().to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the generator's reference program for the state 1234567.
    #[test]
    fn numbers_are_those_of_the_reference() {
        let mut random = Random { state: 1_234_567 };
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn streams_differ() {
        let root = Random::new(0);
        let mut first: Vec<u64> = ["a", "b", "blk.0", "blk.1"].map(|name| root.named(name).next()).into();
        first.extend((0..4).map(|n| root.named("a").nth(n).next()));
        first.push(Random::new(1).named("a").next());
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 9);
    }
}
