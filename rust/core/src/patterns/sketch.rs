//! 512 signs of a randomly rotated vector: what a first look at a remembered vector costs is one cache line.

use crate::kernels::{self, Sketch, SketchBlock};

/// Bits of a sketch.
pub(super) const BITS: usize = 512;
/// First state of the generator of signs: the golden ratio's fraction.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Signs of H·D₂·H·D₁·x (Ailon & Chazelle 2006), with H the Walsh–Hadamard transform and D random signs, the same
/// everywhere. The share of differing signs of two rotated vectors estimates their angle over π (Charikar 2002). O(d log d).
pub(super) fn sketch(x: &[f32]) -> Sketch {
    let width = x.len().next_power_of_two().max(BITS);
    let mut z = vec![0.0f32; width];
    z[..x.len()].copy_from_slice(x);
    let mut state = SEED;
    for _ in 0..2 {
        for block in z.chunks_exact_mut(64) {
            // xorshift64 (Marsaglia 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            for half in 0..2 {
                let signs = (state >> (32 * half)) as u32;
                for (i, v) in block[32 * half..][..32].iter_mut().enumerate() {
                    *v = f32::from_bits(v.to_bits() ^ (signs >> i) << 31);
                }
            }
        }
        kernels::hadamard(&mut z);
    }
    std::array::from_fn(|w| (0..64).fold(0, |word, b| word | u64::from(z[64 * w + b] > 0.0) << b))
}

/// Sketches in the order of their slots, in blocks for the scan.
#[derive(Debug, Clone, Default)]
pub(super) struct Sketches {
    blocks: Vec<SketchBlock>,
    len: usize,
}

impl Sketches {
    /// With the same content and room for `slots` in all.
    pub(super) fn with_room(&self, slots: usize) -> Self {
        let mut blocks = Vec::with_capacity(slots.div_ceil(8));
        blocks.extend_from_slice(&self.blocks);
        Self {
            blocks,
            len: self.len,
        }
    }

    pub(super) fn push(&mut self, sketch: &Sketch) {
        let lane = self.len % 8;
        if lane == 0 {
            self.blocks.push(SketchBlock::default());
        }
        if let Some(block) = self.blocks.last_mut() {
            for (words, word) in block.iter_mut().zip(sketch) {
                words[lane] = *word;
            }
        }
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts a sketch in the place of another.
    pub(super) fn set(&mut self, slot: usize, sketch: &Sketch) {
        for (words, word) in self.blocks[slot / 8].iter_mut().zip(sketch) {
            words[slot % 8] = *word;
        }
    }

    /// The first `len` sketches stay.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.blocks.truncate(self.len.div_ceil(8));
    }

    /// Makes room for `more`, and no more than that.
    pub(super) fn reserve(&mut self, more: usize) {
        let blocks = (self.len + more).div_ceil(8);
        self.blocks
            .reserve_exact(blocks.saturating_sub(self.blocks.len()));
    }

    /// Gives room beyond `slots` back.
    pub(super) fn shrink_to(&mut self, slots: usize) {
        self.blocks.shrink_to(slots.div_ceil(8));
    }

    /// Bytes held on the heap.
    pub(super) fn nbytes(&self) -> usize {
        self.blocks.capacity() * size_of::<SketchBlock>()
    }

    pub(super) fn get(&self, slot: usize) -> Sketch {
        self.blocks[slot / 8].map(|words| words[slot % 8])
    }

    /// The last block may end in lanes that hold no sketch.
    pub(super) fn blocks(&self) -> &[SketchBlock] {
        &self.blocks
    }
}

/// The smallest of 0..=most for which `holds`, which is monotone; `most` if none is smaller.
pub(super) fn smallest(most: i16, holds: impl Fn(i16) -> bool) -> i16 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{normal, stream};

    #[test]
    fn what_was_pushed_is_there() {
        let mut sketches = Sketches::default();
        let nth = |i: u64| -> Sketch { std::array::from_fn(|w| i * 10 + w as u64) };
        (0..20).for_each(|i| sketches.push(&nth(i)));
        let copy = sketches.with_room(64);
        assert!((0..20).all(|i| sketches.get(i as usize) == nth(i) && copy.get(i as usize) == nth(i)));
        sketches.set(3, &nth(77));
        sketches.truncate(9);
        sketches.push(&nth(78));
        assert_eq!([3, 8, 9].map(|i| sketches.get(i)), [nth(77), nth(8), nth(78)]);
        assert_eq!(sketches.blocks().len(), 2);
    }

    #[test]
    fn differing_signs_estimate_the_angle() {
        let mut rng = stream(1, 0);
        for d in [3, 16, 384, 700] {
            for _ in 0..20 {
                let mut v = || -> Vec<f32> {
                    let mut v: Vec<f32> = (0..d).map(|_| normal(&mut rng) as f32).collect();
                    kernels::normalize(&mut v);
                    v
                };
                let (x, noise) = (v(), v());
                let mut y: Vec<f32> = x.iter().zip(&noise).map(|(x, n)| x + 0.7 * n).collect();
                kernels::normalize(&mut y);
                let angle = kernels::dot(&x, &y).clamp(-1.0, 1.0).acos();
                let mut sketches = Sketches::default();
                sketches.push(&sketch(&x));
                let mut bits = [[0i16; 8]];
                kernels::hamming_blocks(sketches.blocks(), &sketch(&y), &mut bits);
                let estimate = f32::from(bits[0][0]) / BITS as f32 * std::f32::consts::PI;
                // Five standard deviations of a share of 512 fair signs.
                assert!((estimate - angle).abs() < 0.35, "{d}: {estimate} {angle}");
            }
        }
    }
}
