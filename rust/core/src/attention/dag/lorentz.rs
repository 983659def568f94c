//! Hierarchy as distance on the hyperboloid: a spanning tree laid out by Sarkar's construction (2011).
//!
//! Every node has a frame of SO⁺(2, 1); its neighbours leave it at equal angles, each edge is a boost. The distance of two
//! nodes is read off the product of the frames on the path between them, M: cosh d = M₀₀. Only the first row of M is carried
//! along, with a logarithmic scale, so distances of thousands of edges neither overflow nor cancel.

use super::topological::{Side, levels};
use super::{Adjacency, Dag};
use crate::attention::threads;
use crate::kernels::real::ln_1p_in_place;

/// Curvature −K, softmax temperature, length of an edge (all above 0).
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// K.
    pub curvature: f64,
    /// Divides distances, with `step`.
    pub temperature: f64,
    /// Rapidity of the boost along an edge.
    pub step: f64,
}

/// A spanning tree, and the angles of its edges.
struct Tree {
    /// Of each node; n is the virtual root.
    parent: Vec<u32>,
    /// Cosine and sine of the angle at which the edge to each node leaves its parent. At the node itself it arrives at angle 0.
    down: Vec<[f64; 2]>,
    /// Parents before children.
    order: Vec<u32>,
}

/// Predecessor of greatest level, of several the lowest; n: the virtual root.
fn parents(dag: &Dag) -> Vec<u32> {
    let level = levels(dag, Side::Sources);
    (0..dag.len())
        .map(|v| {
            let best = dag
                .before(v)
                .reduce(|a, b| if level[b] > level[a] { b } else { a });
            best.unwrap_or(dag.len()) as u32
        })
        .collect()
}

impl Tree {
    fn new(dag: &Dag) -> Self {
        let n = dag.len();
        let parent = parents(dag);
        let children = Adjacency::group(n + 1, parent.iter().enumerate().map(|(v, p)| (*p, v as u32)));
        let mut down = vec![[1.0, 0.0]; n];
        for p in 0..=n {
            let own = children.of(p);
            // The parent takes the first place; the root has none.
            let above = usize::from(p < n);
            let degree = (own.len() + above) as f64;
            for (i, v) in own.iter().enumerate() {
                let angle = 2.0 * std::f64::consts::PI * (i + above) as f64 / degree;
                down[*v as usize] = [angle.cos(), angle.sin()];
            }
        }
        Self {
            parent,
            down,
            order: dag.order.clone(),
        }
    }
}

/// First row of a product of frames, divided by e^log.
#[derive(Clone, Copy, Default)]
struct Row {
    x: [f64; 3],
    log: f64,
}

/// Above this the scale moves into the logarithm; cosh and sinh are equal to every digit long before.
const LARGE: f64 = 1e100;

impl Row {
    /// Turns by an angle given by its cosine and sine.
    fn turn(mut self, [c, s]: [f64; 2]) -> Self {
        let [_, a, b] = self.x;
        self.x[1] = a * c + b * s;
        self.x[2] = b * c - a * s;
        self
    }

    fn boost(mut self, cosh: f64, sinh: f64) -> Self {
        let [a, b, _] = self.x;
        self.x[0] = a * cosh + b * sinh;
        self.x[1] = a * sinh + b * cosh;
        if self.x[0] > LARGE {
            self.log += self.x[0].ln();
            let scale = self.x[0];
            for x in &mut self.x {
                *x /= scale;
            }
        }
        self
    }

    /// y with arcosh of the first entry = log + ln(1 + y). The other two entries are its sinh s, exact near 0 as well:
    /// y = s + √(1 + s²) − 1 without cancellation.
    fn beyond(&self) -> f64 {
        if self.log > 0.0 {
            return 2.0 * self.x[0] - 1.0;
        }
        let square = self.x[1] * self.x[1] + self.x[2] * self.x[2];
        let sinh = square.sqrt();
        let more = if sinh > 1e10 {
            sinh - 1.0
        } else {
            square / (1.0 + (1.0 + square).sqrt())
        };
        sinh + more
    }
}

/// Distances of the ends of `rows` where the curvature is −root².
fn distances(rows: &[Row], root: f64, out: &mut [f64]) {
    for (out, row) in out.iter_mut().zip(rows) {
        *out = row.beyond();
    }
    ln_1p_in_place(out);
    for (out, row) in out.iter_mut().zip(rows) {
        *out = (row.log + *out) / root;
    }
}

/// cosh and sinh of the step; a long step is taken in pieces.
struct Boost {
    cosh: f64,
    sinh: f64,
    times: u32,
}

impl Boost {
    fn new(step: f64) -> Self {
        let times = (step / 100.0).ceil().max(1.0);
        let piece = step / times;
        Self {
            cosh: piece.cosh(),
            sinh: piece.sinh(),
            times: times as u32,
        }
    }

    fn apply(&self, mut row: Row) -> Row {
        for _ in 0..self.times {
            row = row.boost(self.cosh, self.sinh);
        }
        row
    }
}

impl Tree {
    /// Rows of all nodes as seen from `from`, the root's last. `rows` has n + 1 places.
    fn walk(&self, from: usize, boost: &Boost, rows: &mut [Row]) {
        let n = self.parent.len();
        let half_turn = |[c, s]: [f64; 2]| [-c, s]; // π − angle
        let none = Row {
            x: [0.0; 3],
            log: -1.0,
        };
        rows.fill(none);
        rows[from] = Row {
            x: [1.0, 0.0, 0.0],
            log: 0.0,
        };
        // Up from the node to the root: leave at angle 0, arrive at the angle of the child.
        let mut v = from;
        while v < n {
            let p = self.parent[v] as usize;
            rows[p] = boost.apply(rows[v]).turn(half_turn(self.down[v]));
            v = p;
        }
        // Down to everything else: leave at the angle of the child, arrive from angle 0.
        for v in self.order.iter().map(|v| *v as usize) {
            if rows[v].log < 0.0 {
                let leaving = rows[self.parent[v] as usize].turn(self.down[v]);
                rows[v] = boost.apply(leaving).turn([-1.0, 0.0]);
            }
        }
    }
}

/// softmax(−distance / (step · temperature)).
fn attention(distance: &[f64], space: Space, out: &mut [f64]) {
    // The node itself is at distance 0: no shift is needed.
    for (o, d) in out.iter_mut().zip(distance) {
        *o = -d / (space.step * space.temperature);
    }
    let total = crate::kernels::real::exp_minus(out, 0.0);
    crate::kernels::real::scale_by(1.0 / total, out);
}

/// Scores, distances and parents (−1: the virtual root), from one node.
#[must_use]
pub fn from_node(dag: &Dag, node: usize, space: Space) -> (Vec<f64>, Vec<f64>, Vec<i64>) {
    let tree = Tree::new(dag);
    let mut rows = vec![Row::default(); dag.len() + 1];
    tree.walk(node, &Boost::new(space.step), &mut rows);
    let root = space.curvature.sqrt();
    let mut distance = vec![0.0; dag.len()];
    distances(&rows, root, &mut distance);
    let mut scores = vec![0.0; dag.len()];
    attention(&distance, space, &mut scores);
    (scores, distance, named(&tree.parent))
}

fn named(parent: &[u32]) -> Vec<i64> {
    let n = parent.len();
    parent
        .iter()
        .map(|p| if *p as usize == n { -1 } else { i64::from(*p) })
        .collect()
}

/// Mean of the rows of attention of all nodes, distances (n, n), parents.
#[must_use]
pub fn all(dag: &Dag, space: Space) -> (Vec<f64>, Vec<f64>, Vec<i64>) {
    let n = dag.len();
    let tree = Tree::new(dag);
    let boost = Boost::new(space.step);
    let root = space.curvature.sqrt();
    let mut distance = vec![0.0; n * n];
    let rows: Vec<(usize, &mut [f64])> = distance.chunks_exact_mut(n.max(1)).enumerate().collect();
    threads::share(
        threads::worth(n, 60 * n * n),
        rows,
        || vec![Row::default(); n + 1],
        |(from, out), rows| {
            tree.walk(from, &boost, rows);
            distances(&rows[from + 1..n], root, &mut out[from + 1..]);
        },
    );
    for v in 0..n {
        for w in 0..v {
            distance[v * n + w] = distance[w * n + v];
        }
    }
    let (mut scores, mut row) = (vec![0.0; n], vec![0.0; n]);
    for own in distance.chunks_exact(n.max(1)) {
        attention(own, space, &mut row);
        crate::kernels::real::add_scaled(1.0 / n as f64, &row, &mut scores);
    }
    (scores, distance, named(&tree.parent))
}
