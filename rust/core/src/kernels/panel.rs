//! Vectors packed for products with many rows: matrix multiplication C = A·Bᵀ and search for several queries at once.

use super::aligned::Aligned;
use super::select::TopK;
use super::tier::table;
use super::{gather_dot, scan_into};

/// Rows per block of products.
const BLOCK: usize = 48;
/// Widest panel.
const WIDTH: usize = 64;

/// `m` vectors of dimension `d`, transposed into panels of up to 64 columns.
#[derive(Clone, Debug)]
pub struct Panels {
    data: Aligned,
    m: usize,
    d: usize,
}

/// Columns of the panel that starts at vector `first` of `m`: 64 as long as they fill, then what holds the rest.
fn width(first: usize, m: usize) -> usize {
    (m - first).next_multiple_of(16).min(WIDTH)
}

impl Panels {
    /// Packs `vectors` (m, d).
    #[must_use]
    pub fn pack(vectors: &[f32], d: usize) -> Self {
        let m = vectors.len().checked_div(d).unwrap_or(0);
        assert_eq!(vectors.len(), m * d, "vectors must be (m, d)");
        let mut data = Aligned::zeros(m.next_multiple_of(16) * d);
        let mut first = 0;
        while first < m {
            let w = width(first, m);
            let panel = &mut data[first * d..(first + w) * d];
            for (j, v) in vectors[first * d..].chunks_exact(d).take(w).enumerate() {
                for (line, v) in panel.chunks_exact_mut(w).zip(v) {
                    line[j] = *v;
                }
            }
            first += w;
        }
        Self { data, m, d }
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.m
    }

    /// No vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.m == 0
    }

    /// Calls `each(first row, first vector, width, products)` for blocks of at most 48 rows of `rows` (n, d), rows in order
    /// for each vector; `products` is (rows of the block, width) and only the first `m − first vector` columns count.
    fn blocks(&self, rows: &[f32], mut each: impl FnMut(usize, usize, usize, &[f32])) {
        let d = self.d;
        let mut out = [0.0f32; BLOCK * WIDTH];
        for (b, block) in rows.chunks(BLOCK * d.max(1)).enumerate() {
            let mut first = 0;
            while first < self.m {
                let w = width(first, self.m);
                let n = block.len() / d;
                let out = &mut out[..n * w];
                // SAFETY: the table is this processor's; block is (n, d), the panel holds d * w, out n * w.
                unsafe { (table().tile)(block, d, &self.data[first * d..(first + w) * d], w, out) };
                each(b * BLOCK, first, w, out);
                first += w;
            }
        }
    }

    /// out (n, m) = `rows` (n, d) times the packed vectors, transposed.
    pub fn products(&self, rows: &[f32], out: &mut [f32]) {
        let m = self.m;
        assert!(
            rows.len() * m == out.len() * self.d,
            "products: expected rows (n, d), out (n, m)"
        );
        self.blocks(rows, |row, first, w, block| {
            let used = w.min(m - first);
            for (i, line) in block.chunks_exact(w).enumerate() {
                let at = (row + i) * m + first;
                out[at..at + used].copy_from_slice(&line[..used]);
            }
        });
    }
}

/// c (n, m) = a (n, d) · b (m, d)ᵀ, all row-major. Each product is summed over d in order, in single precision.
pub fn gemm_nt(a: &[f32], b: &[f32], d: usize, c: &mut [f32]) {
    if c.is_empty() {
        return;
    }
    if d == 0 {
        return c.fill(0.0);
    }
    Panels::pack(b, d).products(a, c);
}

/// [`super::scan_top_k`] for `queries` (m, d): one pass over the rows for up to 64 queries.
///
/// Scores are those of [`super::dot`]. The selection sums in another order, so rows whose scores agree to rounding may trade places
/// at the cut.
#[must_use]
pub fn scan_top_k_batch(
    rows: &[f32],
    n: usize,
    d: usize,
    queries: &[f32],
    k: usize,
) -> Vec<Vec<(f32, usize)>> {
    assert_eq!(rows.len(), n * d, "rows must be (n, d)");
    let m = queries.len().checked_div(d).unwrap_or(0);
    assert_eq!(queries.len(), m * d, "queries must be (m, d)");
    let k = k.min(n);
    if k == 0 {
        return vec![Vec::new(); m];
    }
    let mut top: Vec<TopK<f32>> = (0..m).map(|_| TopK::new(k)).collect();
    if m < 4 {
        for (q, top) in queries.chunks_exact(d).zip(&mut top) {
            scan_into(rows, d, q, 0, top);
        }
        return top.into_iter().map(TopK::into_sorted).collect();
    }
    let panels = Panels::pack(queries, d);
    // What a score must reach to enter, one per column: −∞ while a list is not full, never for the columns of padding.
    let mut bars = vec![f32::INFINITY; m.next_multiple_of(WIDTH)];
    bars[..m].fill(f32::NEG_INFINITY);
    panels.blocks(rows, |row, first, w, block| {
        let used = w.min(m - first);
        let (top, bars) = (&mut top[first..first + used], &mut bars[first..first + w]);
        for (i, line) in block.chunks_exact(w).enumerate() {
            let mut bits = if row + i < k {
                u64::MAX >> (64 - used)
            } else {
                // SAFETY: the table is this processor's; line and bars have the same length, at most 64.
                unsafe { (table().reach)(line, bars) }
            };
            while bits != 0 {
                let j = bits.trailing_zeros() as usize;
                top[j].push(line[j], row + i);
                bars[j] = top[j].bar();
                bits &= bits - 1;
            }
        }
    });
    let mut scores = vec![0.0; k];
    top.into_iter()
        .zip(queries.chunks_exact(d))
        .map(|(top, q)| {
            let rows_of: Vec<usize> = top.into_sorted().into_iter().map(|e| e.1).collect();
            gather_dot(rows, d, &rows_of, q, &mut scores);
            let mut again = TopK::new(k);
            for (s, i) in scores.iter().zip(&rows_of) {
                again.push(*s, *i);
            }
            again.into_sorted()
        })
        .collect()
}
