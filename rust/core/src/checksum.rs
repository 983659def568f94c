//! BLAKE3 of one buffer on two threads: the hash is a tree, and its left and right parts do not need each other.

use crate::kernels::Team;
use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Bytes of a part: a power of two of at least one chunk of BLAKE3.
const PART: usize = 1 << 21;
/// Bytes from which on a second thread is worth its start.
const SPLIT: usize = 4 * PART;

/// The first `N` bytes of BLAKE3 over `head` and `body`.
pub(crate) fn blake3<const N: usize>(head: &[u8], body: &[u8]) -> [u8; N] {
    let threads = if body.len() < SPLIT {
        1
    } else {
        std::thread::available_parallelism().map_or(1, usize::from).min(2)
    };
    let mut out = [0; N];
    if threads == 1 {
        let hash = Hasher::new().update(head).update(body).finalize();
        out.copy_from_slice(&hash.as_bytes()[..N]);
    } else {
        out.copy_from_slice(&in_parts(&Team::new(threads), head, body, PART)[..N]);
    }
    out
}

/// Where the value of a part goes, and the two pieces it is of.
type Job<'a> = (&'a mut ChainingValue, (&'a [u8], &'a [u8]));

/// The hash from parts of `part` bytes, more than one of them, the first of which begins with the whole of `head`.
fn in_parts(team: &Team, head: &[u8], body: &[u8], part: usize) -> [u8; 32] {
    let (first, rest) = body.split_at(part - head.len());
    let mut values = vec![ChainingValue::default(); 1 + rest.len().div_ceil(part)];
    let inputs = std::iter::once((head, first)).chain(rest.chunks(part).map(|p| (&[][..], p)));
    let jobs = values.iter_mut().zip(inputs).enumerate().collect();
    team.run(jobs, |(i, (value, (head, body))): (usize, Job<'_>)| {
        let mut hasher = Hasher::new();
        hasher
            .set_input_offset((i * part) as u64)
            .update(head)
            .update(body);
        *value = hasher.finalize_non_root();
    });
    let (left, right) = halves(&values);
    *merge_subtrees_root(&merged(left), &merged(right), Mode::Hash).as_bytes()
}

/// The left subtree is the largest whole one that leaves something to the right.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().div_ceil(2).next_power_of_two())
}

fn merged(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = halves(values);
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| ((i * i) >> 7) as u8).collect();
        for part in [1024, 2048, 4096] {
            for len in [1, 2, 3, 4, 5, 7, 8, 9].map(|parts| parts * part) {
                // One byte more than a part, and one less or more than whole parts.
                for len in [len + 1, len + part - 1, len + part]
                    .into_iter()
                    .filter(|l| *l <= bytes.len())
                {
                    for head in [0, 18] {
                        let (head, body) = bytes[..len].split_at(head);
                        let whole = Hasher::new().update(&bytes[..len]).finalize();
                        for size in [1, 2, 3] {
                            assert_eq!(
                                &in_parts(&Team::new(size), head, body, part),
                                whole.as_bytes(),
                                "{len} in {part}"
                            );
                        }
                    }
                }
            }
        }
        let large = vec![7u8; SPLIT + 12_345];
        let mut hasher = Hasher::new();
        hasher.update(b"head").update(&large);
        assert_eq!(
            blake3::<16>(b"head", &large)[..],
            hasher.finalize().as_bytes()[..16]
        );
    }
}
