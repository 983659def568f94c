//! Entry points of one tier: the generic kernels instantiated under that tier's target features.

macro_rules! entries {
    ($tier:expr, $features:literal, $lanes:ty, $bytes:ty) => {
        use super::scalar::Projections;
        use super::tier::{Table, Tier};
        use super::{bytes, dense, exponent, low_rank, matmul, narrow, nearest, recurrence, rows};

        #[target_feature(enable = $features)]
        unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
            rows::dot::<$lanes>(a.as_ptr(), b.as_ptr(), a.len())
        }

        #[target_feature(enable = $features)]
        unsafe fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
            dense::squared_l2::<$lanes>(a.as_ptr(), b.as_ptr(), a.len())
        }

        #[target_feature(enable = $features)]
        unsafe fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
            rows::axpy::<$lanes>(alpha, x.as_ptr(), y.as_mut_ptr(), x.len());
        }

        #[target_feature(enable = $features)]
        unsafe fn scale(alpha: f32, x: &mut [f32]) {
            rows::scale::<$lanes>(alpha, x.as_mut_ptr(), x.len());
        }

        #[target_feature(enable = $features)]
        unsafe fn all_finite(x: &[f32]) -> bool {
            dense::all_finite::<$lanes>(x.as_ptr(), x.len())
        }

        #[target_feature(enable = $features)]
        unsafe fn gemv(rows: &[f32], d: usize, q: &[f32], out: &mut [f32]) {
            dense::gemv::<$lanes>(rows.as_ptr(), d, q.as_ptr(), out);
        }

        #[target_feature(enable = $features)]
        unsafe fn thin(x: &[f32], d: usize, w: &[f32], out: &mut [f32]) {
            narrow::products::<$lanes>(x, d, w, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn gates(p: &mut [f32], gate: &[f32], update: &[f32], open: f32, leak: f32) {
            recurrence::gates::<$lanes>(p, gate, update, open, leak);
        }

        #[target_feature(enable = $features)]
        unsafe fn gather_dot(rows: &[f32], d: usize, index: &[usize], q: &[f32], out: &mut [f32]) {
            dense::gather_dot::<$lanes>(rows.as_ptr(), d, index, q.as_ptr(), out);
        }

        #[target_feature(enable = $features)]
        unsafe fn gather_squared_l2(rows: &[f32], d: usize, index: &[usize], q: &[f32], out: &mut [f32]) {
            dense::gather_squared_l2::<$lanes>(rows.as_ptr(), d, index, q.as_ptr(), out);
        }

        #[target_feature(enable = $features)]
        unsafe fn gather_dot_i8(rows: &[i8], d: usize, index: &[usize], q: &[i8], out: &mut [i32]) {
            bytes::gather_dot::<$bytes>(rows.as_ptr(), d, index, q.as_ptr(), out);
        }

        #[target_feature(enable = $features)]
        unsafe fn weighted_sum_rows(rows: &[f32], d: usize, index: &[usize], w: &[f32], out: &mut [f32]) {
            dense::weighted_sum_rows::<$lanes>(rows.as_ptr(), d, index, w, out.as_mut_ptr());
        }

        #[target_feature(enable = $features)]
        unsafe fn low_rank_apply(x: &[f32], a: &[f32], b: &[f32], rank: usize, s: f32, out: &mut [f32]) {
            low_rank::apply::<$lanes>(x, a.as_ptr(), b.as_ptr(), rank, s, out.as_mut_ptr());
        }

        #[target_feature(enable = $features)]
        unsafe fn low_rank_apply_rows(
            x: &[f32],
            d: usize,
            a: &[f32],
            b: &[f32],
            rank: usize,
            s: f32,
            out: &mut [f32],
        ) {
            low_rank::apply_rows::<$lanes>(x, d, a, b, rank, s, out.as_mut_ptr());
        }

        #[target_feature(enable = $features)]
        unsafe fn low_rank_project(x: &[f32], g: &[f32], a: &[f32], b: &[f32], rank: usize) -> Projections {
            low_rank::project::<$lanes>(x, g.as_ptr(), a.as_ptr(), b.as_ptr(), rank)
        }

        #[target_feature(enable = $features)]
        unsafe fn low_rank_update(
            x: &[f32],
            g: &[f32],
            by: &Projections,
            rank: usize,
            da: &mut [f32],
            db: &mut [f32],
        ) {
            low_rank::update::<$lanes>(x, g.as_ptr(), by, rank, da.as_mut_ptr(), db.as_mut_ptr());
        }

        #[target_feature(enable = $features)]
        unsafe fn exp(x: &mut [f32]) {
            exponent::exp::<$lanes>(x.as_mut_ptr(), x.len());
        }

        #[target_feature(enable = $features)]
        unsafe fn softmax(x: &mut [f32], temperature: f32) {
            exponent::softmax::<$lanes>(x.as_mut_ptr(), x.len(), temperature);
        }

        #[target_feature(enable = $features)]
        unsafe fn log_sum_exp(x: &[f32]) -> f32 {
            exponent::log_sum_exp::<$lanes>(x.as_ptr(), x.len())
        }

        #[target_feature(enable = $features)]
        unsafe fn quantize_i8(x: &[f32], q: &mut [i8]) -> f32 {
            bytes::quantize::<$lanes>(x.as_ptr(), q.as_mut_ptr(), x.len())
        }

        #[target_feature(enable = $features)]
        unsafe fn tile(rows: &[f32], d: usize, panel: &[f32], width: usize, out: &mut [f32]) {
            matmul::multiply::<$lanes>(matmul::Product {
                n: rows.len() / d,
                width,
                depth: d,
                a: rows.as_ptr(),
                lda: d,
                b: panel.as_ptr(),
                ldb: width,
                c: out.as_mut_ptr(),
                ldc: width,
                add: false,
            });
        }

        #[target_feature(enable = $features)]
        unsafe fn nearest(sites: &nearest::Sites, points: &[f32], out: &mut nearest::Nearest) {
            nearest::nearest_in::<$lanes>(sites, points, out);
        }

        #[target_feature(enable = $features)]
        unsafe fn scores(sites: &nearest::Sites, points: &[f32], out: &mut [f32], stride: usize) {
            nearest::scores_in::<$lanes>(sites, points, out, stride);
        }

        #[target_feature(enable = $features)]
        unsafe fn accumulate(w: f64, x: &[f32], sums: &mut [f64]) {
            nearest::accumulate_in_order(w, x, sums);
        }

        #[target_feature(enable = $features)]
        unsafe fn judge(scores: &[f32], norms2: &[f32], d2: &[f32], weights: &[f32]) -> [f32; nearest::TILE] {
            nearest::judge_in_order(scores, norms2, d2, weights)
        }

        #[target_feature(enable = $features)]
        unsafe fn reach(x: &[f32], bars: &[f32]) -> u64 {
            dense::reach::<$lanes>(x, bars)
        }

        #[target_feature(enable = $features)]
        unsafe fn maxima(x: &[f32], out: &mut [f32]) -> bool {
            dense::maxima::<$lanes>(x, out)
        }

        #[target_feature(enable = $features)]
        unsafe fn reach_i32(x: &[i32], bar: i32) -> u64 {
            bytes::reach::<$bytes>(x.as_ptr(), x.len(), bar)
        }

        #[target_feature(enable = $features)]
        unsafe fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
            bytes::dot::<$bytes>(a.as_ptr(), b.as_ptr(), a.len())
        }

        #[target_feature(enable = $features)]
        unsafe fn gemv_i8(rows: &[i8], d: usize, q: &[i8], out: &mut [i32]) {
            bytes::gemv::<$bytes>(rows.as_ptr(), d, q.as_ptr(), out);
        }

        pub(super) static TABLE: Table = Table {
            tier: $tier,
            dot,
            squared_l2,
            axpy,
            scale,
            all_finite,
            gemv,
            thin,
            gates,
            gather_dot,
            gather_squared_l2,
            gather_dot_i8,
            weighted_sum_rows,
            low_rank_apply,
            low_rank_apply_rows,
            low_rank_project,
            low_rank_update,
            exp,
            softmax,
            log_sum_exp,
            quantize_i8,
            tile,
            nearest,
            scores,
            accumulate,
            judge,
            reach,
            reach_i32,
            maxima,
            dot_i8,
            gemv_i8,
        };
    };
}

pub(super) use entries;
