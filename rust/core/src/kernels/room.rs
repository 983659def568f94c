//! Large memory that nobody has written yet, filled by several threads at once: each pays for the pages that it touches. Of the
//! usual size: large ones are faster only where the system has them at hand, and a virtual machine that gave them back has not.

use super::aligned::Aligned;
use super::team::Team;
use std::mem::MaybeUninit;
use std::slice::ChunksExactMut;

/// Numbers of a part at least: for fewer, no thread is asked.
const PART: usize = 1 << 16;
/// Parts for each thread.
const SHARES: usize = 4;

/// A copy of `x`, made by all threads of the team.
#[must_use]
pub fn copied(x: &[f32], team: &Team) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    let room = &mut out.spare_capacity_mut()[..x.len()];
    let part = x.len().div_ceil(SHARES * team.size()).max(PART);
    let parts = room.chunks_mut(part).zip(x.chunks(part)).collect();
    team.run(parts, |(to, from): (&mut [MaybeUninit<f32>], &[f32])| {
        // SAFETY: both have the length of their part, and new memory overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) };
    });
    // SAFETY: the parts are all of `room`, and each was written.
    unsafe { out.set_len(x.len()) };
    out
}

/// Pieces of equal length, zero when they come.
#[derive(Debug)]
pub struct Pieces<'a>(ChunksExactMut<'a, MaybeUninit<f32>>);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a mut [f32];

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.0.next()?;
        piece.fill(MaybeUninit::new(0.0));
        // SAFETY: every number was written in the line above.
        Some(unsafe { std::slice::from_raw_parts_mut(piece.as_mut_ptr().cast(), piece.len()) })
    }
}

impl Drop for Pieces<'_> {
    /// No piece is left unwritten.
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// Numbers on cache lines, in parts of `part` pieces of `piece` numbers: `fill` writes one part with what belongs to it. The last
/// part may have fewer.
pub fn filled<E: Send>(
    pieces: usize,
    piece: usize,
    part: usize,
    belongings: Vec<E>,
    team: &Team,
    fill: impl Fn(E, Pieces<'_>) + Sync,
) -> Aligned {
    assert_eq!(
        belongings.len(),
        pieces.div_ceil(part),
        "filled: a belonging per part"
    );
    let write = |room: &mut [MaybeUninit<f32>]| {
        let parts = room.chunks_mut(part * piece).zip(belongings).collect();
        team.run(parts, |(room, belonging): (&mut [MaybeUninit<f32>], E)| {
            fill(belonging, Pieces(room.chunks_exact_mut(piece)));
        });
    };
    // SAFETY: the parts are whole pieces and all of the room, and `Pieces` writes each before it goes.
    unsafe { Aligned::written(pieces * piece, write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal() {
        for n in [0, 1, 1000, 3 * PART + 7, 20 * PART + 5] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            for size in [1, 2, 3] {
                assert_eq!(copied(&x, &Team::new(size)), x);
            }
        }
    }

    #[test]
    fn pieces_are_written_once_and_those_left_out_are_zero() {
        for (pieces, piece, part) in [(0, 3, 1), (1, 7, 4), (10, 33, 3), (100, 16, 100)] {
            for size in [1, 2] {
                let belongings: Vec<usize> = (0..pieces).step_by(part).collect();
                let got = filled(
                    pieces,
                    piece,
                    part,
                    belongings,
                    &Team::new(size),
                    |first, room| {
                        for (p, piece) in room.enumerate().take(2) {
                            assert!(piece.iter().all(|v| *v == 0.0));
                            piece.fill((first + p + 1) as f32);
                        }
                    },
                );
                assert_eq!(got.len(), pieces * piece);
                for (p, piece) in got.chunks_exact(piece).enumerate() {
                    let want = if p % part < 2 { (p + 1) as f32 } else { 0.0 };
                    assert!(piece.iter().all(|v| *v == want), "{p}: {piece:?}");
                }
            }
        }
    }
}
