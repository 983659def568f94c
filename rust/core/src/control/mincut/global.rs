//! Global minimum cut of a weighted undirected graph (Stoer & Wagner 1997, with the contractions of Nagamochi, Ono &
//! Ibaraki 1994).
//!
//! Each round visits the nodes by the weight that ties them to those visited. Two nodes found to be tied by at least the best
//! cut so far cannot be parted by a better one: they become one. The last two visited always do. Every prefix of a visit is
//! a cut as well, and the best of them is taken.

use std::collections::BinaryHeap;

/// Neighbours and weights of every node; each edge stands in both rows.
pub type Weighted = Vec<Vec<(u32, f64)>>;

/// A cut: its weight, and who is on one side of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// Sum of the weights across.
    pub value: f64,
    /// One side.
    pub side: Vec<bool>,
}

/// A node and what ties it to the visited ones.
#[derive(PartialEq)]
struct Tied(f64, u32);
impl Eq for Tied {}
impl PartialOrd for Tied {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Tied {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

/// Root of `v` in a forest of unions.
pub(super) fn root(parent: &mut [u32], mut v: u32) -> u32 {
    while parent[v as usize] != v {
        parent[v as usize] = parent[parent[v as usize] as usize];
        v = parent[v as usize];
    }
    v
}

fn unite(parent: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root(parent, a), root(parent, b));
    parent[a as usize] = b;
}

/// What one visit found: the order, and the prefix of it that is the lightest cut.
struct Visit {
    order: Vec<u32>,
    prefix: usize,
    value: f64,
}

/// One round. Nodes tied by at least `best` are united in `parent`; a graph in pieces gives a cut of 0.
fn visit(graph: &Weighted, degree: &[f64], best: f64, parent: &mut [u32]) -> Visit {
    let n = graph.len();
    let mut tie = vec![0.0; n];
    let mut visited = vec![false; n];
    let mut queue = BinaryHeap::from([Tied(0.0, 0)]);
    let mut order = Vec::with_capacity(n);
    let (mut across, mut value, mut prefix) = (0.0, f64::INFINITY, 0);
    while let Some(Tied(key, v)) = queue.pop() {
        let at = v as usize;
        if visited[at] || key < tie[at] {
            continue;
        }
        visited[at] = true;
        across += degree[at] - 2.0 * tie[at];
        order.push(v);
        if order.len() == n {
            if let [.., before, last] = order[..] {
                unite(parent, before, last);
            }
            break;
        }
        if across < value {
            (value, prefix) = (across, order.len());
        }
        for (w, weight) in &graph[at] {
            let to = *w as usize;
            if visited[to] {
                continue;
            }
            tie[to] += weight;
            queue.push(Tied(tie[to], *w));
            if tie[to] >= best {
                unite(parent, v, *w);
            }
        }
    }
    if order.len() < n {
        (value, prefix) = (0.0, order.len());
    }
    Visit { order, prefix, value }
}

/// The graph of what became one; weights between the same two add. Also the new name of every node.
fn contracted(graph: &Weighted, parent: &mut [u32]) -> (Weighted, Vec<u32>) {
    let n = graph.len();
    let mut name = vec![u32::MAX; n];
    let mut members: Vec<Vec<u32>> = Vec::new();
    for v in 0..n as u32 {
        let r = root(parent, v) as usize;
        if name[r] == u32::MAX {
            name[r] = members.len() as u32;
            members.push(Vec::new());
        }
        members[name[r] as usize].push(v);
    }
    let names: Vec<u32> = (0..n as u32).map(|v| name[root(parent, v) as usize]).collect();
    let mut at = vec![u32::MAX; members.len()];
    let mut out: Weighted = Vec::with_capacity(members.len());
    for (i, group) in members.iter().enumerate() {
        let mut row: Vec<(u32, f64)> = Vec::new();
        for (w, weight) in group.iter().flat_map(|v| &graph[*v as usize]) {
            let j = names[*w as usize];
            if j as usize == i {
                continue;
            }
            if at[j as usize] == u32::MAX {
                at[j as usize] = row.len() as u32;
                row.push((j, 0.0));
            }
            row[at[j as usize] as usize].1 += weight;
        }
        for (j, _) in &row {
            at[*j as usize] = u32::MAX;
        }
        out.push(row);
    }
    (out, names)
}

fn degrees(graph: &Weighted) -> Vec<f64> {
    graph.iter().map(|row| row.iter().map(|(_, w)| w).sum()).collect()
}

/// The node of least degree: the lightest cut around a single node.
fn lightest(degree: &[f64]) -> (u32, f64) {
    let mut best = (0, f64::INFINITY);
    for (v, d) in degree.iter().enumerate() {
        if *d < best.1 {
            best = (v as u32, *d);
        }
    }
    best
}

/// Minimum cut of a graph of at least two nodes; `known` is a cut that is known, `floor` a weight that no cut is below.
///
/// A round costs O((n + m) log n); random graphs need a handful of rounds, the worst case n − 1.
#[must_use]
pub fn minimum_cut(mut graph: Weighted, known: Option<Cut>, floor: f64) -> Cut {
    let n = graph.len();
    let mut best = known.unwrap_or(Cut {
        value: f64::INFINITY,
        side: vec![false; n],
    });
    // Which node of the contracted graph each node of the given one is in.
    let mut inside: Vec<u32> = (0..n as u32).collect();
    while graph.len() > 1 {
        let degree = degrees(&graph);
        let (node, value) = lightest(&degree);
        if value < best.value {
            let side = inside.iter().map(|v| *v == node).collect();
            best = Cut { value, side };
        }
        if best.value <= floor {
            return best;
        }
        let mut parent: Vec<u32> = (0..graph.len() as u32).collect();
        let found = visit(&graph, &degree, best.value, &mut parent);
        if found.value < best.value {
            let mut chosen = vec![false; graph.len()];
            for v in &found.order[..found.prefix] {
                chosen[*v as usize] = true;
            }
            let side = inside.iter().map(|v| chosen[*v as usize]).collect();
            best = Cut {
                value: found.value,
                side,
            };
            if best.value <= 0.0 {
                return best;
            }
        }
        let (next, names) = contracted(&graph, &mut parent);
        for v in &mut inside {
            *v = names[*v as usize];
        }
        graph = next;
    }
    best
}

/// Sparse certificate (Nagamochi & Ibaraki 1992): a subgraph of total weight at most `k (n − 1)` with the same cuts below `k`
/// and no cut that was at least `k` below it.
///
/// Nodes are visited by how they are tied to those visited; an edge keeps the part of its weight that lies in the
/// first `k` units of its later end's tie.
#[must_use]
pub fn certificate(graph: &Weighted, k: f64) -> Weighted {
    let n = graph.len();
    let mut tie = vec![0.0_f64; n];
    let mut visited = vec![false; n];
    let mut out: Weighted = vec![Vec::new(); n];
    for start in 0..n as u32 {
        if visited[start as usize] {
            continue;
        }
        let mut queue = BinaryHeap::from([Tied(0.0, start)]);
        while let Some(Tied(key, v)) = queue.pop() {
            let at = v as usize;
            if visited[at] || key < tie[at] {
                continue;
            }
            visited[at] = true;
            for (w, weight) in &graph[at] {
                let to = *w as usize;
                if visited[to] {
                    continue;
                }
                let kept = weight.min(k - tie[to]);
                if kept > 0.0 {
                    out[at].push((*w, kept));
                    out[to].push((v, kept));
                }
                tie[to] += weight;
                queue.push(Tied(tie[to], *w));
            }
        }
    }
    out
}
