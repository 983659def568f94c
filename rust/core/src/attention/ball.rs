//! Attention in the Poincaré ball: softmax attention with logits that are distances, made of inner products.

use super::heads::Heads;
use super::tile::{Blocks, Rule, Span, finite, seen};
use super::tile_split;
use super::whole::{ROWS, packed, share, spoilt};
use crate::kernels::real::{Mat, Real, ball_distances, inner, matmul, project, scale_by, squared_distances};
use crate::kernels::split;

/// The Poincaré ball of curvature −c.
#[derive(Clone, Copy, Debug)]
pub struct Ball<T> {
    /// Minus the curvature.
    pub c: T,
    /// Factor of the distances.
    pub beta: T,
    /// Largest norm; points beyond it are moved there.
    pub limit: T,
    /// Distances whose square is below this part of the squared norms are computed from the difference.
    pub near: T,
}

/// Pairs whose distances are looked at together.
const NEAR: usize = 64;

/// Points and what distances need of them.
struct Points<T> {
    x: Vec<T>,
    /// ‖x‖².
    squares: Vec<T>,
    /// 1/(1 − c‖x‖²).
    room: Vec<T>,
}

impl<T: Real> Ball<T> {
    fn points(&self, x: &[T], d: usize) -> Points<T> {
        let mut x = x.to_vec();
        let squares = x
            .chunks_exact_mut(d.max(1))
            .map(|row| {
                let square = inner(row, row);
                let norm = square.sqrt();
                if norm <= self.limit || norm.is_nan() {
                    return square;
                }
                scale_by(self.limit / norm, row);
                inner(row, row)
            })
            .collect::<Vec<T>>();
        let room = squares.iter().map(|x| T::ONE / (T::ONE - self.c * *x)).collect();
        Points { x, squares, room }
    }

    /// Attention with logits −β·distance, values by the Möbius gyromidpoint ½ ⊗ (Σ w λ v / Σ w (λ − 1)), λ = 2/(1 − c‖v‖²). The
    /// scale of the heads is not used.
    pub fn attend<R: Rule<T>>(&self, heads: &Heads<'_, T>, rule: impl Fn(usize) -> R + Sync, out: &mut [T]) {
        let (n, m, d, dv) = (heads.n, heads.m, heads.d, heads.dv);
        if n == 0 || dv == 0 || heads.is_empty() {
            return;
        }
        let [q, k, v] = [(heads.q, d), (heads.k, d), (heads.v, dv)].map(|(x, width)| self.points(x, width));
        let distances = |b: usize| Distances {
            ball: *self,
            d,
            q: Part::of(&q, heads.q_of[b], n, d),
            k: Part::of(&k, heads.k_of[b], m, d),
            rule: rule(b),
        };
        let inside = Heads {
            q: &q.x,
            k: &k.x,
            scale: -(T::ONE + T::ONE),
            ..*heads
        };
        if split::available::<T>() && tile_split::pays(n, d, dv) {
            self.by_tiles(&inside, &v, distances, out);
        } else {
            self.by_rows(&inside, &v, distances, out);
        }
    }

    /// With one more column of values, so that one product makes both sums: there a column costs little.
    fn by_tiles<'a, R: Rule<T> + 'a>(
        &self,
        heads: &Heads<'_, T>,
        v: &Points<T>,
        distances: impl Fn(usize) -> Distances<'a, T, R> + Sync,
        out: &mut [T],
    ) {
        let dv = heads.dv;
        let mut values = Vec::with_capacity(v.squares.len() * (dv + 1));
        for (row, room) in v.x.chunks_exact(dv).zip(&v.room) {
            let lambda = twice(*room);
            values.extend(row.iter().map(|x| lambda * *x));
            values.push(lambda - T::ONE);
        }
        let both = Heads {
            v: &values,
            dv: dv + 1,
            ..*heads
        };
        let blocks = Blocks::default();
        let mut sums = vec![T::ZERO; heads.len() * heads.n * (dv + 1)];
        both.attend(distances, blocks, 4 * blocks.q, 2 * heads.cost(), &mut sums, None);
        for (row, sums) in out.chunks_exact_mut(dv).zip(sums.chunks_exact(dv + 1)) {
            row.copy_from_slice(&sums[..dv]);
            self.midpoint(row, sums[dv]);
        }
    }

    /// Some queries against all keys.
    fn by_rows<'a, R: Rule<T> + 'a>(
        &self,
        heads: &Heads<'_, T>,
        v: &Points<T>,
        distances: impl Fn(usize) -> Distances<'a, T, R> + Sync,
        out: &mut [T],
    ) {
        let (dv, m) = (heads.dv, heads.m);
        let mut values = v.x.clone();
        for (row, room) in values.chunks_exact_mut(dv).zip(&v.room) {
            scale_by(twice(*room), row);
        }
        let heads = &Heads { v: &values, ..*heads };
        let excess: Vec<T> = v.room.iter().map(|room| twice(*room) - T::ONE).collect();
        let keys = packed(heads);
        share(heads, 2 * heads.cost(), ROWS, out, |b, at, out, rows| {
            let (rule, head) = (distances(b), heads.head(b));
            let n = out.len() / dv;
            let w = rows.take(&rule.rule, at, n);
            let excess = &excess[heads.v_of[b] * m..][..w];
            let keys = &keys[heads.k_of[b]];
            let shape = |i: usize, line: &mut [T]| rule.of_products(i, 0, line);
            rows.logits(0, &head, keys, &rule.rule, w, shape);
            let masked = rows.spans.iter().any(|s| s.masked);
            rows.weigh(0, w);
            let p = &rows.logits[0][..n * w];
            matmul(n, w, dv, Mat::new(p, w), Mat::new(head.v, dv), out, dv, false);
            let mut sums = [T::ZERO; ROWS];
            project(p, excess, &mut sums[..n]);
            if masked && !finite(out) {
                rows.logits(0, &head, keys, &rule.rule, w, shape);
                let clean = |r: usize| {
                    let logits = &rows.logits[0][r * w..(r + 1) * w];
                    (r, seen(logits, &head.v[..w * dv], dv), seen(logits, excess, 1))
                };
                let again: Vec<_> = spoilt(out, dv).into_iter().map(clean).collect();
                rows.weigh(0, w);
                for (r, v, excess) in again {
                    let (p, row) = (
                        &rows.logits[0][r * w..(r + 1) * w],
                        &mut out[r * dv..(r + 1) * dv],
                    );
                    matmul(1, w, dv, Mat::new(p, w), Mat::new(&v, dv), row, dv, false);
                    sums[r] = inner(p, &excess);
                }
            }
            for (row, sum) in out.chunks_exact_mut(dv).zip(&sums) {
                self.midpoint(row, *sum);
            }
        });
    }

    /// Σ w λ v to the midpoint, given Σ w (λ − 1).
    fn midpoint(&self, row: &mut [T], sum: T) {
        if sum == T::ZERO {
            row.fill(T::ZERO);
            return;
        }
        scale_by(T::ONE / sum, row);
        let left = T::ONE - self.c * inner(row, row);
        // NaN stays.
        let root = if left < T::ZERO { T::ZERO } else { left }.sqrt();
        scale_by(T::ONE / (T::ONE + root), row);
    }
}

fn twice<T: Real>(x: T) -> T {
    x + x
}

/// [`Points`] of one head.
#[derive(Clone, Copy)]
struct Part<'a, T> {
    x: &'a [T],
    squares: &'a [T],
    room: &'a [T],
}

impl<'a, T> Part<'a, T> {
    fn of(all: &'a Points<T>, i: usize, n: usize, d: usize) -> Self {
        let rows = i * n..(i + 1) * n;
        Self {
            x: &all.x[rows.start * d..rows.end * d],
            squares: &all.squares[rows.clone()],
            room: &all.room[rows],
        }
    }
}

/// A rule whose logits come as −2·q·k and become −β·distance before it says anything.
struct Distances<'a, T, R> {
    ball: Ball<T>,
    d: usize,
    q: Part<'a, T>,
    k: Part<'a, T>,
    rule: R,
}

impl<T: Real, R> Distances<'_, T, R> {
    /// −2·q·k of query `i` and the keys from `first` on to −β·distance.
    fn of_products(&self, i: usize, first: usize, x: &mut [T]) {
        let Self { ball, d, q, k, .. } = self;
        let d = *d;
        let (own, near) = (q.squares[i], ball.near);
        let keys = first..first + x.len();
        let squares = k.squares[keys.clone()].chunks(NEAR);
        for (part, (x, squares)) in x.chunks_mut(NEAR).zip(squares).enumerate() {
            if !squared_distances(x, squares, own, near) {
                continue;
            }
            let query = &q.x[i * d..(i + 1) * d];
            for (j, (x, square)) in x.iter_mut().zip(squares).enumerate() {
                if *x < near * (own + *square) {
                    let key = &k.x[(first + part * NEAR + j) * d..][..d];
                    *x = query.iter().zip(key).map(|(a, b)| (*a - *b) * (*a - *b)).sum();
                }
            }
        }
        let factor = twice(ball.c) * q.room[i];
        ball_distances(x, &k.room[keys], factor, ball.beta / ball.c.sqrt());
    }
}

impl<T: Real, R: Rule<T>> Rule<T> for Distances<'_, T, R> {
    fn spans(&self, queries: &[usize], spans: &mut Vec<Span>) {
        self.rule.spans(queries, spans);
        spans.iter_mut().for_each(|span| span.masked = true);
    }

    fn apply(&self, i: usize, first: usize, logits: &mut [T]) {
        self.of_products(i, first, logits);
        self.rule.apply(i, first, logits);
    }
}
