//! Matrix products in single precision on processors that multiply tables of bfloat16: every number in three parts.
//!
//! x = h + m + l exactly, each part with 8 significant bits (Henry, Tang & Heinecke 2019, "Leveraging the bfloat16 artificial
//! intelligence datatype for higher-precision computations"). Of the nine products of the parts of a·b the six largest are
//! made: what is left out is below 2⁻²³·|a·b|. Sums are single precision, over the depth in a fixed order. Parts below the
//! least normal number count as zero.
//!
//! Operands are cut into tiles of 16 × 32: [`Left`] by rows, [`Right`] by columns.

use super::real::Real;
pub use super::split_products::{LeftRef, Piece, Products, RightRef};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of a block of the left operand, columns of a block of the right one.
pub const SIDE: usize = 16;
/// Depth of a tile.
pub const DEPTH: usize = 32;
/// Numbers from here on, and what is not finite, are not split: products of such numbers might overflow in one part only.
pub(super) const TAME: f32 = (1u64 << 56) as f32;
/// Rows of 64 bytes of one tile in its three parts.
pub(super) const LINES: usize = 3 * SIDE;

/// One row of a tile.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub(super) [u32; 16]);

/// A strided matrix to cut up.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    pub x: *const T,
    pub rows: usize,
    pub columns: usize,
    /// Values from one row to the next.
    pub stride: usize,
    /// Factor of the left operand.
    pub scale: T,
}

/// A product of operands in parts; steps are counted in lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles<T> {
    pub a: *const Line,
    pub a_row: usize,
    pub b: *const Line,
    pub b_column: usize,
    pub b_group: usize,
    pub c: *mut T,
    pub ldc: usize,
    /// In blocks of 16.
    pub rows: usize,
    /// In blocks of 16.
    pub columns: usize,
    /// In groups of 32.
    pub groups: usize,
    pub add: bool,
}

/// The online softmax of `super::real::absorb`, the weights going to a left operand.
#[derive(Clone, Copy)]
pub(super) struct Absorb<T> {
    pub rows: usize,
    /// A multiple of 32.
    pub width: usize,
    pub logits: *const T,
    pub top: *mut T,
    pub sum: *mut T,
    pub fade: *mut T,
    pub out: *mut Line,
    /// Lines between row blocks of `out`.
    pub out_row: usize,
}

/// The kernels. Callers have checked lengths.
#[doc(hidden)]
#[allow(missing_debug_implementations, reason = "a table of functions")]
pub struct SplitTable<T> {
    /// Rows to the left operand; false where a number is not tame.
    pub(super) left: unsafe fn(Source<T>, *mut Line) -> bool,
    /// Rows to the columns of the right operand.
    pub(super) turned: unsafe fn(Source<T>, *mut Line) -> bool,
    /// Rows to the lines of the right operand.
    pub(super) upright: unsafe fn(Source<T>, *mut Line) -> bool,
    pub(super) multiply: unsafe fn(Tiles<T>),
    /// A product, and by turns with it rows to a left operand; they share no memory that either writes.
    pub(super) multiply_left: unsafe fn(Tiles<T>, Source<T>, *mut Line) -> bool,
    pub(super) absorb: unsafe fn(Absorb<T>),
    /// Products one after the other, and the softmax by turns with them, so that tiles and vectors work at the same time. They
    /// share no memory that either writes.
    pub(super) multiply_absorb: unsafe fn(&[Tiles<T>], Absorb<T>),
}

/// What one step of the online softmax reads and writes beside the weights: see [`Left::absorb`].
#[derive(Debug)]
pub struct Online<'a, T> {
    /// (rows, width)
    pub logits: &'a [T],
    /// A multiple of 32.
    pub width: usize,
    /// Largest logit so far (rows).
    pub top: &'a mut [T],
    /// Sum of weights so far (rows).
    pub sum: &'a mut [T],
    /// Becomes what sums of weighted values so far are to be multiplied by (rows): 1 where the maximum stays.
    pub fade: &'a mut [T],
}

/// What multiplies split numbers, set up for this thread until it is dropped.
#[derive(Debug)]
pub struct Engine {
    #[cfg(target_arch = "x86_64")]
    _session: super::amx::Session,
    /// Not for another thread.
    _here: PhantomData<*const ()>,
}

impl Engine {
    /// None where processor, system or tier has none for this precision.
    #[must_use]
    pub fn start<T: Real>() -> Option<Self> {
        T::split_kernels()?;
        Some(Self {
            #[cfg(target_arch = "x86_64")]
            _session: super::amx::Session::open()?,
            _here: PhantomData,
        })
    }
}

/// Whether this processor and tier multiply split numbers of this precision.
#[must_use]
pub fn available<T: Real>() -> bool {
    T::split_kernels().is_some()
}

/// The left operand A (rows, depth) of products.
#[derive(Clone, Debug)]
pub struct Left<T> {
    lines: Vec<Line>,
    /// In blocks of 16.
    rows: usize,
    groups: usize,
    of: PhantomData<T>,
}

impl<T> Default for Left<T> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            rows: 0,
            groups: 0,
            of: PhantomData,
        }
    }
}

impl<T: Real> Left<T> {
    /// An empty one that uses this memory.
    pub(super) fn within(lines: Vec<Line>) -> Self {
        Self {
            lines,
            ..Self::default()
        }
    }

    /// Its memory.
    pub(super) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// Room for (rows, depth) values; what is in it is not specified.
    fn resize(&mut self, rows: usize, depth: usize) {
        (self.rows, self.groups) = (rows.div_ceil(SIDE), depth.div_ceil(DEPTH));
        let len = self.rows * self.groups * LINES;
        if self.lines.len() < len {
            self.lines.resize(len, Line([0; 16]));
        }
    }

    /// Splits `x` (rows, depth). False, and nothing of use inside, where a number is too large or not finite, or without
    /// [`available`]. Rows that fill up the last block are not specified.
    #[must_use]
    pub fn fill(&mut self, x: &[T], depth: usize) -> bool {
        let rows = x.len().checked_div(depth).unwrap_or(0);
        assert_eq!(x.len(), rows * depth, "left operand: expected (rows, depth)");
        self.fill_columns(x, depth, 0..depth)
    }

    /// [`Left::fill`] with some columns of `x` (rows, `stride`).
    #[must_use]
    pub fn fill_columns(&mut self, x: &[T], stride: usize, columns: Range<usize>) -> bool {
        let Some(kernels) = T::split_kernels() else {
            return false;
        };
        let from = self.room(x, stride, columns);
        // SAFETY: the lines hold all tiles of (rows, depth); the table is this processor's.
        unsafe { (kernels.left)(from, self.lines.as_mut_ptr()) }
    }

    /// Room for these columns, which are to be cut.
    fn room(&mut self, x: &[T], stride: usize, columns: Range<usize>) -> Source<T> {
        assert!(columns.end <= stride, "left operand: columns beyond the rows");
        let rows = x.len().checked_div(stride).unwrap_or(0);
        self.resize(rows, columns.len());
        Source {
            x: x[columns.start.min(x.len())..].as_ptr(),
            rows,
            columns: columns.len(),
            stride,
            scale: T::ONE,
        }
    }

    /// As [`Products`] take it.
    #[must_use]
    pub fn view(&self) -> LeftRef<'_, T> {
        LeftRef {
            lines: &self.lines,
            rows: self.rows,
            groups: self.groups,
            of: PhantomData,
        }
    }

    /// One step of the online softmax for the rows of `logits` (rows, width), `width` a multiple of 32: the weights relative to the
    /// new maximum become this operand.
    pub fn absorb(&mut self, step: Online<'_, T>) {
        let Some(kernels) = T::split_kernels() else {
            return;
        };
        // SAFETY: the lengths were checked; the table is this processor's.
        unsafe { (kernels.absorb)(self.step(step)) }
    }

    /// The same as the kernels take it, lengths checked.
    pub(super) fn step(&mut self, step: Online<'_, T>) -> Absorb<T> {
        let (rows, width) = (step.top.len(), step.width);
        assert!(
            width.is_multiple_of(DEPTH)
                && step.sum.len() == rows
                && step.logits.len() >= rows * width
                && step.fade.len() == rows,
            "absorb: expected logits (rows, width), top, sum and fade (rows)"
        );
        self.resize(rows, width);
        Absorb {
            rows,
            width,
            logits: step.logits.as_ptr(),
            top: step.top.as_mut_ptr(),
            sum: step.sum.as_mut_ptr(),
            fade: step.fade.as_mut_ptr(),
            out: self.lines.as_mut_ptr(),
            out_row: self.groups * LINES,
        }
    }
}

/// The right operand B (depth, columns) of products.
#[derive(Clone, Debug)]
pub struct Right<T> {
    lines: Vec<Line>,
    /// In blocks of 16.
    columns: usize,
    groups: usize,
    /// Lines from one block of columns to the next.
    column: usize,
    /// Lines from one group of the depth to the next.
    group: usize,
    of: PhantomData<T>,
}

/// `len` lines that `kernel` writes, all of them, from the rows of `x`; None where it says no.
fn cut<T: Real>(
    kernel: unsafe fn(Source<T>, *mut Line) -> bool,
    x: &[T],
    width: usize,
    len: usize,
) -> Option<Vec<Line>> {
    let mut lines = Vec::with_capacity(len);
    let from = Source {
        x: x.as_ptr(),
        rows: x.len() / width,
        columns: width,
        stride: width,
        scale: T::ONE,
    };
    // SAFETY: the capacity is that of all tiles of x; the kernel is of this processor and writes every line.
    unsafe {
        let tame = kernel(from, lines.as_mut_ptr());
        lines.set_len(len);
        tame.then_some(lines)
    }
}

impl<T: Real> Right<T> {
    /// B = xᵀ for `x` (columns, depth). None as for [`Left::fill`], and for an empty one.
    #[must_use]
    pub fn turned(x: &[T], depth: usize) -> Option<Self> {
        let kernels = T::split_kernels()?;
        let columns = x.len().checked_div(depth)?.div_ceil(SIDE);
        let groups = depth.div_ceil(DEPTH);
        Some(Self {
            lines: cut(kernels.turned, x, depth, columns * groups * LINES)?,
            columns,
            groups,
            column: groups * LINES,
            group: LINES,
            of: PhantomData,
        })
    }

    /// B = `x` (depth, columns). None as for [`Left::fill`], and for an empty one.
    #[must_use]
    pub fn upright(x: &[T], columns: usize) -> Option<Self> {
        let kernels = T::split_kernels()?;
        let groups = x.len().checked_div(columns)?.div_ceil(DEPTH);
        let columns_of = columns.div_ceil(SIDE);
        Some(Self {
            lines: cut(kernels.upright, x, columns, columns_of * groups * LINES)?,
            columns: columns_of,
            groups,
            column: LINES,
            group: columns_of * LINES,
            of: PhantomData,
        })
    }

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

    /// C (rows of `a`, 16·`columns.len()`) ← A · B for blocks of 16 columns and groups of 32 of the depth, plus C itself with
    /// `add`; C's rows are `ldc` apart and fill up whole blocks of 16. The depth of A is that of `groups`.
    #[allow(clippy::too_many_arguments, reason = "operands, ranges, result")]
    pub fn product(
        &self,
        _on: &Engine,
        a: &Left<T>,
        columns: Range<usize>,
        groups: Range<usize>,
        c: &mut [T],
        ldc: usize,
        add: bool,
    ) {
        let Some(kernels) = T::split_kernels() else {
            return;
        };
        let piece = Piece {
            of: 0..a.groups,
            columns,
            groups,
            at: 0,
            add,
        };
        // SAFETY: the operands and C hold what is read and written; the table is this processor's.
        unsafe { (kernels.multiply)(self.view().tiles(a.view(), piece, (c.as_mut_ptr(), c.len()), ldc)) }
    }

    /// C ← all columns of a piece of `a` · B, C as in [`Right::product`], and meanwhile [`Left::fill_columns`] for `next` with
    /// (x, stride, columns).
    #[must_use]
    pub fn product_beside(
        &self,
        _on: &Engine,
        a: &Left<T>,
        (groups, add): (Range<usize>, bool),
        (c, ldc): (&mut [T], usize),
        next: &mut Left<T>,
        (x, stride, cut): (&[T], usize, Range<usize>),
    ) -> bool {
        let Some(kernels) = T::split_kernels() else {
            return false;
        };
        let piece = Piece {
            of: 0..a.groups,
            columns: 0..self.columns,
            groups,
            at: 0,
            add,
        };
        let tiles = self.view().tiles(a.view(), piece, (c.as_mut_ptr(), c.len()), ldc);
        let from = next.room(x, stride, cut);
        // SAFETY: as above; the borrows keep apart what the product and the cut write.
        unsafe { (kernels.multiply_left)(tiles, from, next.lines.as_mut_ptr()) }
    }

    /// As [`Products`] take it.
    #[must_use]
    pub fn view(&self) -> RightRef<'_, T> {
        RightRef {
            lines: &self.lines,
            columns: self.columns,
            groups: self.groups,
            column: self.column,
            group: self.group,
            of: PhantomData,
        }
    }
}
