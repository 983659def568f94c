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

/// `n` unit vectors around `clusters` centres, as embeddings of texts lie: row-major, the same for the same seed. The
/// centres do not depend on the seed, so that queries and rows of different seeds share them.
#[must_use]
pub fn clustered_rows(n: usize, d: usize, clusters: usize, seed: u64) -> Vec<f32> {
    let centres = unit_rows(clusters, d, u64::MAX);
    let mut out = unit_rows(n, d, seed);
    for (i, row) in out.chunks_exact_mut(d).enumerate() {
        let centre = &centres[(i.wrapping_mul(0x9E37_79B9) >> 7) % clusters * d..][..d];
        // Noise of .6 the centre's length: neighbours within a cluster have cosine about .74.
        for (v, c) in row.iter_mut().zip(centre) {
            *v = 0.6 * *v + c;
        }
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        for v in row.iter_mut() {
            *v /= norm;
        }
    }
    out
}

/// c (n, m) ← a (n, d) · bᵀ with b (m, d), by the `gemm` crate on one thread.
pub fn gemm_crate(a: &[f32], b: &[f32], d: usize, c: &mut [f32]) {
    let (n, m) = (a.len() / d, b.len() / d);
    assert!(
        a.len() == n * d && b.len() == m * d && c.len() == n * m,
        "gemm: shapes differ"
    );
    // SAFETY: a is (n, d), b is (m, d), c is (n, m), all row-major.
    unsafe {
        gemm::gemm(
            n,
            m,
            d,
            c.as_mut_ptr(),
            1,
            m as isize,
            false,
            a.as_ptr(),
            1,
            d as isize,
            b.as_ptr(),
            d as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
