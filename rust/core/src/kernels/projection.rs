//! Many rows against one matrix whose parts are kept.

use super::aligned::Aligned;
use super::real::Real;
use super::split::{DEPTH, Engine, Left, Right, SIDE};

/// Rows, and columns of the left operand, that [`Projection::multiply`] splits at a time: they stay in the nearest caches.
const ROWS: usize = 2 * SIDE;
const PART: usize = 8 * DEPTH;

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
        let wide = m.next_multiple_of(SIDE);
        let mut sums = Aligned::zeros(ROWS * wide);
        let mut left = Left::default();
        for (rows, out) in x.chunks(ROWS * depth).zip(out.chunks_mut(ROWS * m)) {
            for at in (0..depth).step_by(PART) {
                let end = (at + PART).min(depth);
                if !left.fill_columns(rows, depth, at..end) {
                    return false;
                }
                let groups = at / DEPTH..end.div_ceil(DEPTH);
                self.right
                    .product(&engine, &left, 0..wide / SIDE, groups, &mut sums, wide, at > 0);
            }
            for (out, sums) in out.chunks_exact_mut(m).zip(sums.chunks_exact(wide)) {
                out.copy_from_slice(&sums[..m]);
            }
        }
        true
    }
}
