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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide(x: &mut [f32]) {
    let mut half = 1;
    // The first three stages stay within eight lanes: their pairs are known while compiling.
    if x.len() >= 8 {
        for eight in x.as_chunks_mut::<8>().0 {
            stage::<1>(eight);
            stage::<2>(eight);
            stage::<4>(eight);
        }
        half = 8;
    }
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

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn stage<const HALF: usize>(x: &mut [f32; 8]) {
    let old = *x;
    *x = std::array::from_fn(|i| {
        if i & HALF == 0 {
            old[i] + old[i ^ HALF]
        } else {
            old[i ^ HALF] - old[i]
        }
    });
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
