//! Where operands lie never changes a bit, within a tier.

use super::*;

/// All float results of a tier for operands that begin `offset` floats into their allocations.
fn results(t: &Table, d: usize, offset: usize) -> Vec<u32> {
    let place = |n: usize, seed: u64| {
        let mut v = vec![0.0; offset];
        v.extend(normal(n, seed));
        v
    };
    let n = 6;
    let (x, y, rows, b) = (place(d, 1), place(d, 2), place(n * d, 3), place(2 * d, 4));
    let (x, y, rows, b) = (&x[offset..], &y[offset..], &rows[offset..], &b[offset..]);
    let mut out = place(n * d, 5);
    let out = &mut out[offset..];
    let mut all = Vec::new();
    let mut keep = |v: &[f32]| all.extend(bits(v));
    // SAFETY: the processor has this tier, lengths agree.
    unsafe {
        keep(&[(t.dot)(x, y), (t.squared_l2)(x, y), (t.log_sum_exp)(x)]);
        (t.gemv)(rows, d, x, &mut out[..n]);
        keep(out);
        (t.axpy)(0.3, x, &mut out[..d]);
        (t.weighted_sum_rows)(rows, d, &[5, 0, 3], &[0.1, -0.2, 0.3], &mut out[..d]);
        (t.scale)(0.7, &mut out[..d]);
        keep(out);
        (t.low_rank_apply_rows)(rows, d, &rows[..2 * d], b, 2, 0.4, out);
        keep(out);
        let by = (t.low_rank_project)(x, y, &rows[..2 * d], b, 2);
        keep(&by.ax);
        keep(&by.bg);
        let (da, db) = out.split_at_mut(2 * d);
        (t.low_rank_update)(x, y, &by, 2, da, &mut db[..2 * d]);
        keep(out);
        (t.exp)(&mut out[..d]);
        (t.softmax)(&mut out[d..2 * d], 0.9);
        keep(out);
        let mut q = vec![0i8; d + offset];
        keep(&[(t.quantize_i8)(x, &mut q[offset..])]);
        keep(&q[offset..].iter().map(|v| f32::from(*v)).collect::<Vec<_>>());
        let mut products = vec![0.0; n * 16];
        if d >= 16 {
            (t.tile)(rows, d, &rows[..d * 6].repeat(3)[..d * 16], 16, &mut products);
        }
        keep(&products);
    }
    all
}

#[test]
fn alignment_never_changes_a_bit() {
    for t in tables() {
        for d in [1, 3, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 256, 385] {
            let want = results(t, d, 0);
            for offset in 1..=7 {
                assert_eq!(
                    results(t, d, offset),
                    want,
                    "tier {}, d {d}, offset {offset}",
                    t.tier.name()
                );
            }
        }
    }
}

#[test]
fn bytes_may_begin_anywhere() {
    for t in tables() {
        for d in [1, 31, 32, 63, 64, 65, 200] {
            for offset in 1..=7 {
                let (a, b) = (bytes(4 * d + offset, 37), bytes(d + offset, 38));
                let (a, b) = (&a[offset..], &b[offset..]);
                let mut out = [0; 4];
                // SAFETY: the processor has this tier, rows are (4, d).
                unsafe { (t.gemv_i8)(a, d, b, &mut out) };
                for (row, got) in a.chunks_exact(d).zip(out) {
                    assert_eq!(got, scalar::dot_i8(row, b));
                }
            }
        }
    }
}

#[test]
fn an_aligned_buffer_begins_on_a_line_and_holds_what_it_was_given() {
    for n in [0, 1, 16, 17, 300] {
        let x = normal(n, 39);
        let mut a = Aligned::from(x.as_slice());
        assert_eq!(*a, *x);
        assert_eq!(a.clone(), a);
        assert_eq!(a.as_ptr().align_offset(64), 0);
        a.fill(2.0);
        assert!(a.iter().all(|v| *v == 2.0));
        assert_eq!(a.len(), n);
    }
}
