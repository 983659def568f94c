//! Products of operands in parts, several in a row, with the softmax beside them.

use super::real::Real;
use super::split::{Engine, LINES, Left, Line, Online, SIDE, Tiles};
use std::marker::PhantomData;
use std::ops::Range;

/// A [`Left`], wherever its tiles are.
#[derive(Clone, Copy, Debug)]
pub struct LeftRef<'a, T> {
    pub(super) lines: &'a [Line],
    /// In blocks of 16.
    pub(super) rows: usize,
    pub(super) groups: usize,
    pub(super) of: PhantomData<T>,
}

/// A [`super::split::Right`], wherever its tiles are.
#[derive(Clone, Copy, Debug)]
pub struct RightRef<'a, T> {
    pub(super) lines: &'a [Line],
    /// In blocks of 16.
    pub(super) columns: usize,
    pub(super) groups: usize,
    /// Lines from one block of columns to the next.
    pub(super) column: usize,
    /// Lines from one group of the depth to the next.
    pub(super) group: usize,
    pub(super) of: PhantomData<T>,
}

impl<T: Real> RightRef<'_, T> {
    /// Blocks of 16 columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Groups of 32 of the depth.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// A piece of `a` · B as the kernels take it, lengths checked; C is where it begins and how much there is.
    pub(super) fn tiles(
        &self,
        a: LeftRef<'_, T>,
        piece: Piece,
        (c, len): (*mut T, usize),
        ldc: usize,
    ) -> Tiles<T> {
        let Piece {
            of,
            columns,
            groups,
            at: _,
            add,
        } = piece;
        let width = columns.len() * SIDE;
        assert!(
            columns.end <= self.columns
                && groups.end <= self.groups
                && of.end <= a.groups
                && of.len() == groups.len()
                && ldc >= width
                && (a.rows == 0 || (a.rows * SIDE - 1) * ldc + width <= len),
            "product of split operands: expected A (n, depth), B (depth, width), C (n, width)"
        );
        let at = columns.start * self.column + groups.start * self.group;
        Tiles {
            a: a.lines[of.start * LINES..].as_ptr(),
            a_row: a.groups * LINES,
            b: self.lines[at.min(self.lines.len())..].as_ptr(),
            b_column: self.column,
            b_group: self.group,
            c,
            ldc,
            rows: a.rows,
            columns: columns.len(),
            groups: groups.len(),
            add,
        }
    }
}

/// Parts of two operands to multiply, and where the result goes.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Groups of 32 of the depth of the left operand.
    pub of: Range<usize>,
    /// Blocks of 16 columns of the right one.
    pub columns: Range<usize>,
    /// Groups of its depth.
    pub groups: Range<usize>,
    /// First column of the result.
    pub at: usize,
    /// Whether to add to what is there.
    pub add: bool,
}

/// Products to be made one after the other.
#[derive(Debug)]
pub struct Products<'a, T> {
    tiles: Vec<Tiles<T>>,
    of: PhantomData<&'a mut [T]>,
}

impl<T> Default for Products<'_, T> {
    fn default() -> Self {
        Self {
            tiles: Vec::new(),
            of: PhantomData,
        }
    }
}

impl<'a, T: Real> Products<'a, T> {
    /// Pieces of `a` · `b` into C, as in [`Right::product`].
    pub fn push(
        &mut self,
        b: RightRef<'a, T>,
        a: LeftRef<'a, T>,
        pieces: impl Iterator<Item = Piece>,
        c: &'a mut [T],
        ldc: usize,
    ) {
        let (len, c) = (c.len(), c.as_mut_ptr());
        self.tiles.extend(pieces.map(|x| {
            assert!(x.at <= len, "product of split operands: columns beyond C");
            let c = (c.wrapping_add(x.at), len - x.at);
            b.tiles(a, x, c, ldc)
        }));
    }

    /// Makes them.
    pub fn run(self, _on: &Engine) {
        let Some(kernels) = T::split_kernels() else {
            return;
        };
        for tiles in self.tiles {
            // SAFETY: the operands and C hold what is read and written; the table is this processor's.
            unsafe { (kernels.multiply)(tiles) }
        }
    }

    /// Makes them, and meanwhile [`Left::absorb`].
    pub fn run_beside(self, _on: &Engine, weights: &mut Left<T>, step: Online<'_, T>) {
        let Some(kernels) = T::split_kernels() else {
            return;
        };
        // SAFETY: as above; the borrows keep apart what products and softmax write.
        unsafe { (kernels.multiply_absorb)(&self.tiles, weights.step(step)) }
    }
}
