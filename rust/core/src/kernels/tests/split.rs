//! Products of split numbers against float64, where the processor has them.

use super::super::projection::Projection;
use super::super::split::{Engine, Left, Online, Piece, Products, Right};
use super::super::split_store::{Cut, Job, Store};
use super::*;

/// What runs the products here; a gap is visible.
fn engine() -> Option<Engine> {
    let engine = Engine::start::<f32>();
    if engine.is_none() {
        eprintln!("split products: NOT AVAILABLE HERE");
    }
    engine
}

#[test]
fn products_are_those_of_single_precision() {
    let Some(engine) = engine() else { return };
    for (n, depth, width) in [
        (1, 1, 1),
        (16, 32, 16),
        (17, 33, 15),
        (40, 64, 70),
        (100, 200, 36),
    ] {
        let (a, b) = (normal(n * depth, 1), normal(depth * width, 2));
        let turned: Vec<f32> = (0..width * depth)
            .map(|i| b[i % depth * width + i / depth])
            .collect();
        let mut left = Left::default();
        assert!(left.fill(&a, depth));
        let (rows, columns) = (n.next_multiple_of(16), width.next_multiple_of(16));
        for right in [Right::upright(&b, width), Right::turned(&turned, depth)] {
            let right = right.unwrap();
            let ldc = columns + 3;
            let mut c = vec![1.0f32; rows * ldc];
            for add in [false, true] {
                right.product(
                    &engine,
                    &left,
                    0..columns / 16,
                    0..right.groups(),
                    &mut c,
                    ldc,
                    add,
                );
            }
            for i in 0..n {
                for j in 0..width {
                    let column: Vec<f32> = (0..depth).map(|k| b[k * width + j]).collect();
                    let row = &a[i * depth..(i + 1) * depth];
                    // Twice: once set, once added.
                    close(
                        c[i * ldc + j],
                        2.0 * dot64(row, &column),
                        2.0 * mass(row, &column),
                    );
                }
            }
            assert_eq!(c[columns], 1.0, "columns beyond the blocks stay");
        }
    }
}

#[test]
fn parts_of_a_number_add_up_to_it() {
    let Some(engine) = engine() else { return };
    let x: Vec<f32> = (0..256)
        .map(|i| 1.1f32.powi(i - 128) * (1.0 - (i % 2 * 2) as f32))
        .collect();
    let mut one = Left::default();
    assert!(one.fill(&[1.0], 1));
    let right = Right::upright(&x, 256).unwrap();
    let mut c = vec![0.0; 16 * 256];
    right.product(&engine, &one, 0..16, 0..1, &mut c, 256, false);
    assert_eq!(&c[..256], &x[..]);
}

#[test]
fn what_could_overflow_in_parts_is_refused() {
    if engine().is_none() {
        return;
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e17, -f32::MAX] {
        for at in [0, 17, 99] {
            let mut x = normal(100, 3);
            x[at] = bad;
            assert!(!Left::default().fill(&x, 10), "{bad}");
            assert!(Right::upright(&x, 10).is_none(), "{bad}");
            assert!(Right::turned(&x, 10).is_none(), "{bad}");
        }
    }
}

#[test]
fn numbers_near_the_least_do_not_spill_into_their_neighbours() {
    let Some(engine) = engine() else { return };
    let x: Vec<f32> = (0..64)
        .map(|i| if i / 16 % 2 == 1 { 1.3e-38 } else { 1.0 + i as f32 })
        .collect();
    let ones = [1.0f32; 64];
    let right = Right::upright(&ones, 1).unwrap();
    let mut left = Left::default();
    assert!(left.fill(&x, 64));
    let mut c = vec![0.0; 16 * 16];
    right.product(&engine, &left, 0..1, 0..2, &mut c, 16, false);
    assert_eq!(c[0], x.iter().filter(|x| **x >= 1.0).sum::<f32>());
}

#[test]
fn sessions_nest() {
    let Some(outer) = engine() else { return };
    drop(engine());
    let mut left = Left::default();
    assert!(left.fill(&[2.0], 1));
    let mut c = vec![0.0; 16 * 16];
    let right = Right::upright(&[3.0f32], 1).unwrap();
    right.product(&outer, &left, 0..1, 0..1, &mut c, 16, false);
    assert_eq!(c[0], 6.0);
}

#[test]
fn online_softmax_goes_on() {
    let Some(engine) = engine() else { return };
    let (rows, width, dv) = (19, 96, 16);
    let logits: Vec<f32> = normal(rows * width, 4).iter().map(|x| 5.0 * x).collect();
    let values = normal(width * dv, 5);
    let right = Right::upright(&values, dv).unwrap();
    let (mut top, mut sum) = (vec![f32::NEG_INFINITY; rows], vec![0.0; rows]);
    let mut fade = vec![0.0; rows];
    let mut acc = vec![0.0; 32 * dv];
    let mut weights = Left::default();
    for (step, from) in [0, 32, 64].into_iter().enumerate() {
        let part: Vec<f32> = logits
            .chunks(width)
            .flat_map(|x| x[from..from + 32].iter().copied())
            .collect();
        weights.absorb(Online {
            logits: &part,
            width: 32,
            top: &mut top,
            sum: &mut sum,
            fade: &mut fade,
        });
        for (row, fade) in acc.chunks_mut(dv).zip(&fade) {
            row.iter_mut().for_each(|x| *x *= fade);
        }
        right.product(&engine, &weights, 0..1, step..step + 1, &mut acc, dv, step > 0);
    }
    for r in 0..rows {
        let x = &logits[r * width..(r + 1) * width];
        let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let w: Vec<f64> = x.iter().map(|x| f64::from(x - most).exp()).collect();
        let total: f64 = w.iter().sum();
        assert_eq!(top[r], most);
        close(sum[r], total, total);
        for j in 0..dv {
            let want: f64 = w
                .iter()
                .zip(values.chunks(dv))
                .map(|(w, v)| w * f64::from(v[j]))
                .sum();
            close(acc[r * dv + j], want, total);
        }
    }
}

#[test]
fn a_product_beside_the_softmax_changes_no_bit() {
    let Some(engine) = engine() else { return };
    let dv = 16;
    // The softmax ends before, with and after the product.
    for (rows, width, n, keys) in [(3, 32, 40, 200), (40, 96, 40, 100), (64, 256, 5, 17)] {
        let (q, k) = (normal(n * 40, 6), normal(keys * 40, 7));
        let mut left = Left::default();
        assert!(left.fill(&q, 40));
        let right = Right::turned(&k, 40).unwrap();
        let (columns, room) = (right.columns(), n.next_multiple_of(16));
        let logits = normal(rows * width, 8);
        let values = Right::upright(&normal(width * dv, 9), dv).unwrap();
        let run = |beside: bool| {
            let mut c = vec![0.0f32; room * columns * 16];
            let (mut top, mut sum, mut fade) = (vec![0.5f32; rows], vec![1.0f32; rows], vec![0.0; rows]);
            let mut acc = vec![1.0f32; rows.next_multiple_of(16) * dv];
            let mut weights = Left::default();
            let step = Online {
                logits: &logits,
                width,
                top: &mut top,
                sum: &mut sum,
                fade: &mut fade,
            };
            let (ldc, groups) = (columns * 16, 0..right.groups());
            // Two ranges of columns, the later one first.
            let cut = columns / 2;
            let ranges = [(cut..columns, 0), (0..cut, 16 * (columns - cut))];
            if beside {
                let pieces = ranges.map(|(columns, at)| Piece {
                    of: groups.clone(),
                    columns,
                    groups: groups.clone(),
                    at,
                    add: false,
                });
                let mut products = Products::default();
                products.push(right.view(), left.view(), pieces.into_iter(), &mut c, ldc);
                products.run_beside(&engine, &mut weights, step);
            } else {
                for (columns, at) in ranges {
                    right.product(&engine, &left, columns, groups.clone(), &mut c[at..], ldc, false);
                }
                weights.absorb(step);
            }
            if beside {
                // The same in two parts of the depth.
                let pieces = [0..1, 1..width / 32].map(|groups| Piece {
                    of: groups.clone(),
                    columns: 0..1,
                    groups,
                    at: 0,
                    add: true,
                });
                let mut products = Products::default();
                products.push(values.view(), weights.view(), pieces.into_iter(), &mut acc, dv);
                products.run(&engine);
            } else {
                values.product(&engine, &weights, 0..1, 0..width / 32, &mut acc, dv, true);
            }
            acc.truncate(rows * dv);
            c.truncate(n * columns * 16);
            (c, top, sum, fade, acc)
        };
        assert_eq!(run(false), run(true));
    }
}

#[test]
fn the_engine_is_there_exactly_where_the_tier_is() {
    assert_eq!(engine().is_some(), tier() == Tier::Amx);
    assert!(Engine::start::<f64>().is_none());
}

#[test]
fn rows_meet_rows() {
    if engine().is_none() {
        return;
    }
    for (n, m, depth) in [
        (0, 3, 5),
        (1, 1, 1),
        (33, 7, 300),
        (49, 16, 64),
        (70, 40, 256),
        (100, 64, 384),
        (32, 16, 1433),
    ] {
        let (x, w) = (normal(n * depth, 6), normal(m * depth, 7));
        let mut out = vec![0.0; n * m];
        let projection = Projection::new(&w, depth).unwrap();
        assert!(projection.multiply(&x, &mut out));
        for (i, got) in out.iter().enumerate() {
            let (a, b) = (&x[i / m * depth..][..depth], &w[i % m * depth..][..depth]);
            close(*got, dot64(a, b), mass(a, b));
        }
        // A row has the same products whatever stands beside it.
        for (row, want) in x.chunks(depth).zip(out.chunks(m)).step_by(7) {
            let mut alone = vec![0.0; m];
            assert!(projection.multiply(row, &mut alone));
            assert_eq!(alone, want);
        }
        let Some(last) = (n * depth).checked_sub(1) else {
            continue;
        };
        let mut bad = x.clone();
        bad[last] = f32::INFINITY;
        assert!(!projection.multiply(&bad, &mut out));
        assert!(Projection::new(&bad[(n - 1) * depth..], depth).is_none());
    }
}

/// A · B by way of a store, its jobs done in reverse order; None where an operand is not there. B is square and comes in two stretches.
fn stored_product(engine: &Engine, a: &[f32], b: [&[f32]; 2], cut: Cut, depth: usize) -> Option<Vec<f32>> {
    let job = |cut, x, width| Job {
        cut,
        x,
        width,
        scale: 0.3,
    };
    let mut store = Store::default();
    for _ in 0..2 {
        let jobs = [
            job(cut, b[0], depth),
            job(cut, b[1], depth),
            job(Cut::Left, a, depth),
        ];
        store.fill(&jobs, |tasks| tasks.into_iter().rev().for_each(|task| task.run()));
    }
    assert_eq!(
        store.tame(),
        store.left(2).is_some() && store.right(0..2).is_some()
    );
    let (left, right) = (store.left(2)?, store.right(0..2)?);
    let (rows, ldc) = ((a.len() / depth).next_multiple_of(16), right.columns() * 16);
    let mut c = vec![0.0f32; rows * ldc];
    let groups = 0..right.groups();
    let piece = Piece {
        of: groups.clone(),
        columns: 0..right.columns(),
        groups,
        at: 0,
        add: false,
    };
    let mut products = Products::default();
    products.push(right, left, std::iter::once(piece), &mut c, ldc);
    products.run(engine);
    Some(c)
}

#[test]
fn stored_operands_are_the_single_ones() {
    let Some(engine) = engine() else { return };
    let (a, n) = (normal(20 * 85, 1), 20);
    let scaled: Vec<f32> = a.iter().map(|x| x * 0.3).collect();
    let mut left = Left::default();
    assert!(left.fill(&scaled, 85));
    // Depth and columns in stretches of 64 and 21.
    let b = normal(85 * 85, 2);
    for cut in [Cut::Turned, Cut::Upright] {
        let stretches = b.split_at(64 * 85);
        let right = match cut {
            Cut::Turned => Right::turned(&b, 85),
            _ => Right::upright(&b, 85),
        };
        let right = right.unwrap();
        let ldc = right.columns() * 16;
        let mut want = vec![0.0; 32 * ldc];
        right.product(
            &engine,
            &left,
            0..right.columns(),
            0..right.groups(),
            &mut want,
            ldc,
            false,
        );
        let stretches = [stretches.0, stretches.1];
        let got = stored_product(&engine, &a, stretches, cut, 85).unwrap();
        assert_eq!(got[..n * ldc], want[..n * ldc]);
        let mut bad = b.clone();
        bad[85 * 85 - 1] = f32::NAN;
        let (x, y) = bad.split_at(64 * 85);
        assert!(stored_product(&engine, &a, [x, y], cut, 85).is_none());
    }
}
