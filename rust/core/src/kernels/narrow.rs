//! Products of many rows with few vectors, written once over [`Lanes`]: each row is read from memory once.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks several register arrays"
)]

use super::lanes::Lanes;

/// out[r·m + v] for `R` rows and `M` vectors: one sum per product, over the length in order of registers.
#[inline(always)]
unsafe fn block<V: Lanes, const R: usize, const M: usize>(
    x: *const f32,
    w: *const f32,
    d: usize,
    out: *mut f32,
    m: usize,
) {
    let mut acc = [[V::splat(0.0); M]; R];
    let mut i = 0;
    while i + V::N <= d {
        let mut line = [V::splat(0.0); R];
        for r in 0..R {
            line[r] = V::load(x.add(r * d + i));
        }
        for v in 0..M {
            let q = V::load(w.add(v * d + i));
            for r in 0..R {
                acc[r][v] = line[r].fma(q, acc[r][v]);
            }
        }
        i += V::N;
    }
    if i < d {
        for v in 0..M {
            let q = V::load_part(w.add(v * d + i), d - i);
            for r in 0..R {
                acc[r][v] = V::load_part(x.add(r * d + i), d - i).fma(q, acc[r][v]);
            }
        }
    }
    for r in 0..R {
        if M == 4 {
            let sums = V::sums4([acc[r][0], acc[r][1 % M], acc[r][2 % M], acc[r][3 % M]]);
            for v in 0..M {
                *out.add(r * m + v) = sums[v];
            }
        } else {
            for v in 0..M {
                *out.add(r * m + v) = acc[r][v].sum();
            }
        }
    }
}

#[inline(always)]
unsafe fn vectors<V: Lanes, const R: usize>(x: *const f32, d: usize, w: *const f32, out: *mut f32, m: usize) {
    let mut v = 0;
    while v + 4 <= m {
        block::<V, R, 4>(x, w.add(v * d), d, out.add(v), m);
        v += 4;
    }
    while v < m {
        block::<V, R, 1>(x, w.add(v * d), d, out.add(v), m);
        v += 1;
    }
}

/// out (n, m) ← x (n, d) times the rows of w (m, d).
#[inline(always)]
pub(super) unsafe fn products<V: Lanes>(x: &[f32], d: usize, w: &[f32], out: &mut [f32]) {
    let (n, m) = (x.len() / d, w.len() / d);
    let (x, w, out) = (x.as_ptr(), w.as_ptr(), out.as_mut_ptr());
    let mut i = 0;
    if V::WIDE {
        while i + 4 <= n {
            vectors::<V, 4>(x.add(i * d), d, w, out.add(i * m), m);
            i += 4;
        }
    }
    while i + 2 <= n {
        vectors::<V, 2>(x.add(i * d), d, w, out.add(i * m), m);
        i += 2;
    }
    if i < n {
        vectors::<V, 1>(x.add(i * d), d, w, out.add(i * m), m);
    }
}
