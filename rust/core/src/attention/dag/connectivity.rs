//! Global minimum cut of the graph with its directions forgotten (Stoer & Wagner 1997, with the contractions of Nagamochi,
//! Ono & Ibaraki 1994).
//!
//! Each round visits the nodes by the volume that ties them to those visited. Two nodes found to be tied by at least the best
//! cut so far cannot be parted by a better one: they become one. The last two visited always do.

use super::Dag;
use std::collections::BinaryHeap;

/// A node and what ties it to the visited ones.
#[derive(PartialEq)]
struct Tied(f64, usize);
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

fn root(parent: &mut [usize], mut v: usize) -> usize {
    while parent[v] != v {
        parent[v] = parent[parent[v]];
        v = parent[v];
    }
    v
}

/// Neighbours and volumes of every node.
type Weighted = Vec<Vec<(usize, f64)>>;

/// One round: the best cut known after it, and which nodes became one. `None`: the graph is in pieces.
fn round(graph: &Weighted, mut best: f64, parent: &mut [usize]) -> Option<f64> {
    let n = graph.len();
    let mut tie = vec![0.0; n];
    let mut visited = vec![false; n];
    let mut queue = BinaryHeap::from([Tied(0.0, 0)]);
    let (mut count, mut previous) = (0, 0);
    while let Some(Tied(key, v)) = queue.pop() {
        if visited[v] || key < tie[v] {
            continue;
        }
        visited[v] = true;
        count += 1;
        if count == n {
            best = best.min(tie[v]);
            let (a, b) = (root(parent, previous), root(parent, v));
            parent[a] = b;
        }
        for (w, volume) in &graph[v] {
            if visited[*w] {
                continue;
            }
            tie[*w] += volume;
            queue.push(Tied(tie[*w], *w));
            if tie[*w] >= best {
                let (a, b) = (root(parent, v), root(parent, *w));
                parent[a] = b;
            }
        }
        previous = v;
    }
    (count == n).then_some(best)
}

/// The graph of what became one; volumes between the same two add.
fn contracted(graph: &Weighted, parent: &mut [usize]) -> Weighted {
    let n = graph.len();
    let mut name = vec![usize::MAX; n];
    let mut members: Vec<Vec<usize>> = Vec::new();
    for v in 0..n {
        let r = root(parent, v);
        if name[r] == usize::MAX {
            name[r] = members.len();
            members.push(Vec::new());
        }
        members[name[r]].push(v);
    }
    let mut at = vec![usize::MAX; members.len()];
    let mut out: Weighted = Vec::with_capacity(members.len());
    for (i, group) in members.iter().enumerate() {
        let mut row: Vec<(usize, f64)> = Vec::new();
        for (w, volume) in group.iter().flat_map(|v| &graph[*v]) {
            let j = name[root(parent, *w)];
            if j == i {
                continue;
            }
            if at[j] == usize::MAX {
                at[j] = row.len();
                row.push((j, 0.0));
            }
            row[at[j]].1 += volume;
        }
        for (j, _) in &row {
            at[*j] = usize::MAX;
        }
        out.push(row);
    }
    out
}

/// Least volume whose removal parts the graph; 0 if it is in pieces already or has fewer than two nodes.
#[must_use]
pub fn global_minimum_cut(dag: &Dag) -> f64 {
    let mut graph: Weighted = vec![Vec::new(); dag.len()];
    for ([u, v], volume) in dag.edges.iter().zip(&dag.volume) {
        if *volume > 0.0 {
            graph[*u as usize].push((*v as usize, *volume));
            graph[*v as usize].push((*u as usize, *volume));
        }
    }
    if graph.len() < 2 {
        return 0.0;
    }
    let mut best = f64::INFINITY;
    while graph.len() > 1 {
        for row in &graph {
            best = best.min(row.iter().map(|(_, volume)| volume).sum());
        }
        let mut parent: Vec<usize> = (0..graph.len()).collect();
        match round(&graph, best, &mut parent) {
            None => return 0.0,
            Some(found) => best = found,
        }
        graph = contracted(&graph, &mut parent);
    }
    best
}
