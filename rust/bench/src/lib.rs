//! Shared inputs for the criterion benches in `benches/rust/`.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// `n` unit vectors of dimension `d`, row-major, the same for the same seed.
#[must_use]
pub fn unit_rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut out = vec![0.0f32; n * d];
    for row in out.chunks_exact_mut(d) {
        for v in row.iter_mut() {
            *v = rng.random::<f32>() - 0.5;
        }
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        for v in row.iter_mut() {
            *v /= norm;
        }
    }
    out
}
