//! The Walsh–Hadamard transform.

use super::tier::{Tier, tier};

/// Unnormalised Walsh–Hadamard transform in place, in natural order; the length is a power of two. O(n log n).
pub fn hadamard(x: &mut [f32]) {
    assert!(x.len().is_power_of_two(), "hadamard: a power of two");
    #[cfg(target_arch = "x86_64")]
    if tier() >= Tier::Avx2 {
        // SAFETY: the tier has AVX2.
        return unsafe { wide(x) };
    }
    plain(x);
}

/// The reference; every tier adds and subtracts the same pairs, so that all agree bit for bit.
#[inline(always)]
fn plain(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// The first three stages stay within the eight lanes of a register, the others add and subtract whole registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide(x: &mut [f32]) {
    use std::arch::x86_64::*;
    if x.len() < 8 {
        return plain(x);
    }
    // out = other half of the pair ± self
    let minus = |lanes: [u32; 8]| {
        _mm256_castsi256_ps(_mm256_set_epi32(
            lanes[7] as i32,
            lanes[6] as i32,
            lanes[5] as i32,
            lanes[4] as i32,
            lanes[3] as i32,
            lanes[2] as i32,
            lanes[1] as i32,
            lanes[0] as i32,
        ))
    };
    const M: u32 = 1 << 31;
    let (m1, m2, m4) = (
        minus([0, M, 0, M, 0, M, 0, M]),
        minus([0, 0, M, M, 0, 0, M, M]),
        minus([0, 0, 0, 0, M, M, M, M]),
    );
    for eight in x.as_chunks_mut::<8>().0 {
        // SAFETY: `eight` is 32 readable bytes; the load needs no alignment.
        let v = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
        let v = _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(v), _mm256_xor_ps(v, m1));
        let v = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(v), _mm256_xor_ps(v, m2));
        let v = _mm256_add_ps(_mm256_permute2f128_ps::<1>(v, v), _mm256_xor_ps(v, m4));
        // SAFETY: `eight` is 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_ps(eight.as_mut_ptr(), v) };
    }
    let mut half = 8;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low
                .as_chunks_mut::<8>()
                .0
                .iter_mut()
                .zip(high.as_chunks_mut::<8>().0)
            {
                // SAFETY: `a` and `b` are 32 readable and writable bytes each.
                unsafe {
                    let (l, h) = (_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr()));
                    _mm256_storeu_ps(a.as_mut_ptr(), _mm256_add_ps(l, h));
                    _mm256_storeu_ps(b.as_mut_ptr(), _mm256_sub_ps(l, h));
                }
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_tiers_agree_and_twice_is_n_times(x in prop::collection::vec(-1.0f32..1.0, 512), log in 0u32..10) {
            let x = &x[..1 << log];
            let (mut fast, mut slow) = (x.to_vec(), x.to_vec());
            hadamard(&mut fast);
            plain(&mut slow);
            prop_assert_eq!(&fast, &slow);
            hadamard(&mut fast);
            for (a, b) in fast.iter().zip(x) {
                prop_assert!((a / x.len() as f32 - b).abs() < 1e-5);
            }
        }
    }
}
