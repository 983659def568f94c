//! Products of many rows with a packed panel of vectors: the register-blocked core of matrix multiplication and batch scans.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks several register arrays"
)]

use super::lanes::Lanes;

/// Columns of the rows per pass: 128 lines of a panel of 64 fit in the first cache level.
const DEPTH: usize = 128;

/// Where a pass works: `k` of `depth` lines of a panel, against the same columns of the rows.
#[derive(Clone, Copy)]
struct Pass {
    rows: *const f32,
    d: usize,
    panel: *const f32,
    width: usize,
    out: *mut f32,
    first: bool,
    depth: usize,
}

/// `R` rows from row `i` on times `W` registers of columns, added to `out`. One sum per product, over k in order: the same
/// bits in every block shape.
#[inline(always)]
unsafe fn block<V: Lanes, const R: usize, const W: usize>(pass: Pass, i: usize) {
    let Pass { d, width, .. } = pass;
    let (rows, out) = (pass.rows.add(i * d), pass.out.add(i * width));
    let mut acc = [[V::splat(0.0); W]; R];
    if !pass.first {
        for r in 0..R {
            for w in 0..W {
                acc[r][w] = V::load(out.add(r * width + w * V::N));
            }
        }
    }
    let mut p = pass.panel;
    for k in 0..pass.depth {
        let mut column = [V::splat(0.0); W];
        for w in 0..W {
            column[w] = V::load(p.add(w * V::N));
        }
        for r in 0..R {
            let x = V::splat(*rows.add(r * d + k));
            for w in 0..W {
                acc[r][w] = x.fma(column[w], acc[r][w]);
            }
        }
        p = p.add(width);
    }
    for r in 0..R {
        for w in 0..W {
            acc[r][w].store(out.add(r * width + w * V::N));
        }
    }
}

#[inline(always)]
unsafe fn columns<V: Lanes, const R: usize, const W: usize>(n: usize, mut pass: Pass) {
    let d = pass.d;
    let mut k = 0;
    while k < d {
        pass.depth = DEPTH.min(d - k);
        pass.first = k == 0;
        let mut i = 0;
        while i + R <= n {
            block::<V, R, W>(pass, i);
            i += R;
        }
        while i + 2 <= n {
            block::<V, 2, W>(pass, i);
            i += 2;
        }
        if i < n {
            block::<V, 1, W>(pass, i);
        }
        k += DEPTH;
        pass.rows = pass.rows.add(pass.depth);
        pass.panel = pass.panel.add(pass.depth * pass.width);
    }
}

/// out (n, width) = rows (n, d) · panel (d, width) for d > 0; `width` is 16, 32, 48 or 64.
#[inline(always)]
pub(super) unsafe fn products<V: Lanes>(
    rows: *const f32,
    n: usize,
    d: usize,
    panel: *const f32,
    width: usize,
    out: *mut f32,
) {
    let mut pass = Pass {
        rows,
        d,
        panel,
        width,
        out,
        first: true,
        depth: 0,
    };
    match (V::WIDE, width) {
        (true, 64) => columns::<V, 6, 4>(n, pass),
        (true, 48) => columns::<V, 8, 3>(n, pass),
        (true, 32) => columns::<V, 8, 2>(n, pass),
        (true, _) => columns::<V, 8, 1>(n, pass),
        (false, _) => {
            for _ in 0..width / (2 * V::N) {
                columns::<V, 6, 2>(n, pass);
                pass.panel = pass.panel.add(2 * V::N);
                pass.out = pass.out.add(2 * V::N);
            }
        }
    }
}
