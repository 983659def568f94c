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

/// `R` rows times `W` registers of panel columns. One sum per product, over k in order: the same bits in every block shape.
#[inline(always)]
unsafe fn block<V: Lanes, const R: usize, const W: usize>(
    rows: *const f32,
    d: usize,
    panel: *const f32,
    width: usize,
    out: *mut f32,
) {
    let mut acc = [[V::splat(0.0); W]; R];
    let mut p = panel;
    for k in 0..d {
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
unsafe fn columns<V: Lanes, const R: usize, const W: usize>(
    rows: *const f32,
    n: usize,
    d: usize,
    panel: *const f32,
    width: usize,
    out: *mut f32,
) {
    let mut i = 0;
    while i + R <= n {
        block::<V, R, W>(rows.add(i * d), d, panel, width, out.add(i * width));
        i += R;
    }
    while i < n {
        block::<V, 1, W>(rows.add(i * d), d, panel, width, out.add(i * width));
        i += 1;
    }
}

/// out (n, width) = rows (n, d) · panel (d, width); `width` is 16, 32 or 64.
#[inline(always)]
pub(super) unsafe fn products<V: Lanes>(
    rows: *const f32,
    n: usize,
    d: usize,
    panel: *const f32,
    width: usize,
    out: *mut f32,
) {
    match (V::WIDE, width) {
        (true, 64) => columns::<V, 6, 4>(rows, n, d, panel, width, out),
        (true, 32) => columns::<V, 12, 2>(rows, n, d, panel, width, out),
        (true, _) => columns::<V, 16, 1>(rows, n, d, panel, width, out),
        (false, _) => {
            let mut at = 0;
            while at < width {
                columns::<V, 6, 2>(rows, n, d, panel.add(at), width, out.add(at));
                at += 2 * V::N;
            }
        }
    }
}
