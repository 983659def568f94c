//! Transposition, written once over [`Simd`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks registers and memory"
)]

use super::real::Real;
use super::simd::Simd;

/// Operands of one transposition; `ldx` and `ldc` are the distances between rows.
#[derive(Clone, Copy)]
pub(super) struct Turn<T> {
    pub rows: usize,
    pub columns: usize,
    pub x: *const T,
    pub ldx: usize,
    pub out: *mut T,
    pub ldc: usize,
}

/// Most lanes of a register.
const MOST: usize = 16;

/// Squares of `N × N`, each in log₂ N rounds of interleaving: a round moves the top bit of the row number to the bottom of the
/// column number, so that after all rounds the two have changed places.
#[inline(always)]
pub(super) unsafe fn transpose<V: Simd>(t: Turn<V::E>) {
    let mut i = 0;
    while i < t.rows {
        let rows = V::N.min(t.rows - i);
        let mut j = 0;
        while j < t.columns {
            let columns = V::N.min(t.columns - j);
            let mut r = [V::splat(V::E::ZERO); MOST];
            for a in 0..V::N {
                if a < rows {
                    let p = t.x.add((i + a) * t.ldx + j);
                    r[a] = if columns == V::N {
                        V::load(p)
                    } else {
                        V::load_part(p, columns)
                    };
                }
            }
            let mut width = 1;
            while width < V::N {
                let mut next = r;
                for a in 0..V::N / 2 {
                    (next[2 * a], next[2 * a + 1]) = r[a].interleave(r[a + V::N / 2]);
                }
                r = next;
                width *= 2;
            }
            for b in 0..V::N {
                if b < columns {
                    let p = t.out.add((j + b) * t.ldc + i);
                    if rows == V::N {
                        r[b].store(p);
                    } else {
                        r[b].store_part(p, rows);
                    }
                }
            }
            j += V::N;
        }
        i += V::N;
    }
}
