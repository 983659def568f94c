//! Many rows against one matrix whose parts are kept.

use super::aligned::Aligned;
use super::real::Real;
use super::split::{DEPTH, Engine, Left, Line, Right, SIDE};
use std::cell::Cell;
use std::mem::swap;
use std::ops::Range;

/// Rows, and columns of the left operand, that [`Projection::multiply`] splits at a time: they stay in the nearest caches.
const ROWS: usize = 2 * SIDE;
const PART: usize = 8 * DEPTH;

thread_local! {
    /// Memory of two left operands, so that not every call asks for it.
    static ROOM: Cell<[Vec<Line>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Products of rows with the rows of one matrix w (m, depth), which is cut into parts once.
#[derive(Clone, Debug)]
pub struct Projection<T> {
    right: Right<T>,
    rows: usize,
    depth: usize,
}

impl<T: Real> Projection<T> {
    /// None where `w` or the processor does not allow it.
    #[must_use]
    pub fn new(w: &[T], depth: usize) -> Option<Self> {
        let rows = w.len() / depth;
        assert!(w.len() == rows * depth, "Projection: expected w (m, depth)");
        Some(Self {
            right: Right::turned(w, depth)?,
            rows,
            depth,
        })
    }

    /// out (n, m) ← x (n, depth) · wᵀ. False, and `out` not specified, where that cannot be.
    #[must_use]
    pub fn multiply(&self, x: &[T], out: &mut [T]) -> bool {
        let Some(engine) = Engine::start::<T>() else {
            return false;
        };
        let (m, depth) = (self.rows, self.depth);
        let n = x.len() / depth;
        assert!(
            x.len() == n * depth && out.len() == n * m,
            "multiply: expected x (n, depth) and out (n, m)"
        );
        let mut operands = ROOM.take().map(Left::within);
        let done = self.multiply_with(&engine, &mut operands, x, out);
        ROOM.set(operands.map(Left::into_lines));
        done
    }

    fn multiply_with(
        &self,
        engine: &Engine,
        [left, next]: &mut [Left<T>; 2],
        x: &[T],
        out: &mut [T],
    ) -> bool {
        let (m, depth) = (self.rows, self.depth);
        let n = x.len() / depth;
        let wide = m.next_multiple_of(SIDE);
        // Strips of rows, each in parts of the depth. A single block of rows would be slow: it joins the strip before.
        let strips = ((n + ROWS - SIDE - 1) / ROWS).max(n.min(1));
        let parts = depth.div_ceil(PART);
        let rows = |strip: usize| {
            strip * ROWS..if strip + 1 == strips {
                n
            } else {
                (strip + 1) * ROWS
            }
        };
        let piece = |i: usize| -> (&[T], usize, Range<usize>) {
            let (rows, column) = (rows(i / parts), i % parts * PART);
            (
                &x[rows.start * depth..rows.end * depth],
                depth,
                column..depth.min(column + PART),
            )
        };
        let pieces = strips * parts;
        if pieces == 0 {
            return true;
        }
        let (first, stride, columns) = piece(0);
        if !left.fill_columns(first, stride, columns) {
            return false;
        }
        let mut sums = Aligned::zeros((ROWS + SIDE) * wide);
        for i in 0..pieces {
            let (rows, columns) = (rows(i / parts), piece(i).2);
            let direct = m == wide && rows.len().is_multiple_of(SIDE);
            let out = &mut out[rows.start * m..rows.end * m];
            let c = if direct { &mut *out } else { &mut sums[..] };
            let (groups, add) = (
                columns.start / DEPTH..columns.end.div_ceil(DEPTH),
                columns.start > 0,
            );
            // While one piece is multiplied, the next is cut.
            if i + 1 < pieces {
                if !self
                    .right
                    .product_beside(engine, left, (groups, add), (c, wide), next, piece(i + 1))
                {
                    return false;
                }
                swap(left, next);
            } else {
                self.right
                    .product(engine, left, 0..wide / SIDE, groups, c, wide, add);
            }
            if !direct && (i + 1) % parts == 0 {
                for (out, sums) in out.chunks_exact_mut(m).zip(sums.chunks_exact(wide)) {
                    out.copy_from_slice(&sums[..m]);
                }
            }
        }
        true
    }
}
