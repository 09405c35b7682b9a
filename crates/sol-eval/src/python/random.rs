//! CPython's `random.Random`: the Mersenne Twister MT19937 and what is drawn from it.

/// A generator in the state that `random.Random(seed)` has.
#[derive(Clone)]
pub struct Random {
    twister: rand_mt::Mt,
    /// The second of two normal deviates that are drawn together.
    normal: Option<f64>,
}

impl Random {
    /// Seeded as `random.seed(int)` does: by the 32-bit words of the number.
    pub fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let words = words.into_iter().take(if words[1] == 0 { 1 } else { 2 });
        Self { twister: rand_mt::Mt::new_with_key(words), normal: None }
    }

    /// `getrandbits(bits)`, for 1 to 32 bits.
    pub fn getrandbits(&mut self, bits: u32) -> u32 {
        self.twister.next_u32() >> (32 - bits)
    }

    /// `randrange(n)`, for 0 < n < 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = self.getrandbits(bits) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `choice(items)`, as an index.
    pub fn choice(&mut self, n: usize) -> usize {
        self.below(n)
    }

    /// `random()`: from 0 to below 1, with 53 bits.
    pub fn random(&mut self) -> f64 {
        let (high, low) = (self.twister.next_u32() >> 5, self.twister.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `gauss(mu, sigma)`.
    pub fn gauss(&mut self, mu: f64, sigma: f64) -> f64 {
        let normal = self.normal.take().unwrap_or_else(|| {
            let angle = self.random() * std::f64::consts::TAU;
            let radius = (-2.0 * (1.0 - self.random()).ln()).sqrt();
            self.normal = Some(angle.sin() * radius);
            angle.cos() * radius
        });
        mu + normal * sigma
    }

    /// `sample(range(n), k)`; `None` where Python raises because `k > n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        // Python's own rule for whether a pool or a set is cheaper; the draws differ.
        let mut set_size = 21usize;
        if k > 5 {
            set_size = set_size.saturating_add(4usize.saturating_pow(((3 * k) as f64).log(4.0).ceil() as u32));
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return Some(
                (0..k)
                    .map(|i| {
                        let j = self.below(n - i);
                        let taken = pool[j];
                        pool[j] = pool[n - i - 1];
                        taken
                    })
                    .collect(),
            );
        }
        let mut taken = Vec::with_capacity(k);
        while taken.len() < k {
            let j = self.below(n);
            if !taken.contains(&j) {
                taken.push(j);
            }
        }
        Some(taken)
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by CPython 3.11: `r = random.Random(1234)` and so on (`xtools/eval_python_vectors.py`).
    #[test]
    fn draws_are_those_of_cpython() {
        let mut r = Random::new(1234);
        assert_eq!([r.getrandbits(32), r.getrandbits(32)], [4_150_886_329, 3_342_196_574]);
        let mut r = Random::new(1 << 40);
        assert_eq!(r.sample(39905, 11).unwrap(), [6792, 23148, 4303, 27961, 3183, 25410, 26158, 36729, 5104, 25742, 36024]);
        assert_eq!(r.sample(10, 4).unwrap(), [5, 6, 4, 0]);
        let mut items = [0, 1, 2, 3, 4, 5, 6];
        r.shuffle(&mut items);
        assert_eq!(items, [1, 5, 4, 0, 2, 6, 3]);
        assert_eq!(r.sample(2, 3), None);
    }
}
