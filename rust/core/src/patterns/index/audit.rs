//! How wide the graph must be searched on the data at hand: measured, not assumed.
//!
//! A width that finds everything on sentence vectors finds a quarter on vectors without structure, and a width that is right
//! at 10,000 rows is too small at a million. So the index asks itself, now and then, for the neighbours of vectors that
//! resemble its rows, exactly and through the graph, and takes the smallest width that finds enough of them.

use super::cost;
use super::flat::{self, Hit};
use super::graph::Graph;
use super::hnsw;
use super::rows::{self, Rows};
use serde::{Deserialize, Serialize};

/// Vectors whose neighbours are looked for.
const SAMPLE: usize = 100;
/// Neighbours of each that are looked for: widths are measured for both, and follow between and beyond them.
const FEW: usize = 10;
const MANY: usize = 100;
/// Share of them that must be found. The stand-ins below are a little easier than new queries, which find .97 and more.
const TARGET: f64 = 0.99;
/// Neighbours among which the differences lie that turn a row into another vector of its kind, and the width they are
/// looked for with.
const AROUND: usize = 19;
const AROUND_WIDTH: usize = 48;

/// Widths tried, smallest first.
const WIDTHS: [usize; 18] = [
    24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144,
];

/// Changed rows before the first audit: no graph pays below.
pub(super) const FIRST_AUDIT: usize = 1_000;

/// Changed rows until the next audit.
pub(super) fn interval(rows: usize) -> usize {
    (rows / 2).max(FIRST_AUDIT)
}

/// Nodes that a search keeps (the paper's ef); `None` where scanning costs less than a search that finds enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Widths {
    few: Option<usize>,
    many: Option<usize>,
}

impl Widths {
    /// The width for `k` results.
    pub fn of(self, k: usize) -> Option<usize> {
        let few = self.few?;
        if k <= FEW {
            return Some(few);
        }
        let many = self.many?;
        if k <= MANY {
            return Some(few + many.saturating_sub(few) * (k - FEW) / (MANY - FEW));
        }
        Some(many.saturating_mul(k.div_ceil(MANY)))
    }

    /// False where even a few results are cheaper by scanning.
    pub fn pay(self) -> bool {
        self.few.is_some()
    }

    /// Widths that could have been measured: stored ones are checked.
    pub fn plausible(self) -> bool {
        [self.few, self.many].iter().flatten().all(|w| WIDTHS.contains(w))
    }

    /// Smallest widths that find [`TARGET`] of the neighbours of vectors like the stored ones.
    pub fn measure(graph: &Graph, rows: &Rows) -> Self {
        let queries = relatives(graph, rows);
        let few = smallest(graph, rows, &queries, FEW, 0);
        let many = few.and_then(|w| smallest(graph, rows, &queries, MANY, w));
        Self { few, many }
    }
}

/// Vectors like the stored ones, but none of them: a row plus the difference of two of its neighbours. The rows themselves
/// will not do: the graph was built by searching for them, and finds them and their neighbours whatever else it misses.
fn relatives(graph: &Graph, rows: &Rows) -> Vec<f32> {
    let count = SAMPLE.min(rows.len());
    let mut out = Vec::with_capacity(count * rows.params.dim);
    for i in 0..count {
        let row = rows.row(i * rows.len() / count);
        let near = hnsw::search(graph, rows, row, AROUND + 1, AROUND_WIDTH);
        let pick = |rank: usize| {
            near.get(1 + rank % AROUND)
                .map_or(row, |h| rows.row(rows.position[&h.id] as usize))
        };
        let (plus, minus) = (pick(7 * i), pick(7 * i + 1 + i % (AROUND - 1)));
        out.extend(row.iter().zip(plus).zip(minus).map(|((r, p), m)| r + (p - m)));
    }
    rows::normalize(&rows.params, &mut out);
    out
}

/// The smallest width from `least` on that finds enough of the best `k`, if scanning costs more.
fn smallest(graph: &Graph, rows: &Rows, queries: &[f32], k: usize, least: usize) -> Option<usize> {
    let exact = flat::search_batch(rows, queries, k);
    let wanted: usize = exact.iter().map(|(hits, _)| hits.len()).sum();
    let finds = |width: usize| {
        let queries = queries.chunks_exact(rows.params.dim);
        let hits = |q, exact: &[Hit]| flat::shared(&hnsw::search(graph, rows, q, k, width), exact);
        queries
            .zip(&exact)
            .map(|(q, (exact, _))| hits(q, exact))
            .sum::<usize>()
    };
    WIDTHS
        .into_iter()
        .filter(|&w| w >= least && w >= hnsw::least_width(k))
        .take_while(|&w| cost::pays(&rows.params, w, rows.len()))
        .find(|&w| finds(w) as f64 >= TARGET * wanted as f64)
}
