//! Largest matching of a bipartite graph given by bits (Hopcroft & Karp 1973), for Dilworth's theorem.

use super::closure::{Bits, ones};

const FREE: u32 = u32::MAX;

struct Matcher<'a> {
    graph: &'a Bits,
    right_of: Vec<u32>,
    left_of: Vec<u32>,
    layer: Vec<u32>,
    /// Right nodes still open in this phase: each is tried once.
    open: Vec<u64>,
}

impl Matcher<'_> {
    /// Layers of left nodes from the free ones; whether a free right node can be reached.
    fn layers(&mut self) -> bool {
        let n = self.layer.len();
        let mut unseen = full(n);
        let mut queue: Vec<usize> = (0..n).filter(|u| self.right_of[*u] == FREE).collect();
        self.layer.fill(FREE);
        for u in &queue {
            self.layer[*u] = 0;
        }
        let mut found = false;
        let mut head = 0;
        while head < queue.len() {
            let u = queue[head];
            head += 1;
            for (i, (row, unseen)) in self.graph.row(u).iter().zip(&mut unseen).enumerate() {
                let fresh = row & *unseen;
                *unseen &= !fresh;
                for bit in ones(&[fresh]) {
                    let next = self.left_of[i * 64 + bit];
                    if next == FREE {
                        found = true;
                    } else if self.layer[next as usize] == FREE {
                        self.layer[next as usize] = self.layer[u] + 1;
                        queue.push(next as usize);
                    }
                }
            }
        }
        found
    }

    /// Augments along a shortest path from the free node `start`, if one is left.
    fn augment(&mut self, start: usize) -> bool {
        // (left node, the right node through which it is left)
        let mut walk = vec![(start, FREE)];
        while let Some((u, _)) = walk.last().copied() {
            let step = self.step(u);
            let Some(w) = step else {
                walk.pop();
                continue;
            };
            self.open[w / 64] &= !(1 << (w % 64));
            if let Some(last) = walk.last_mut() {
                last.1 = w as u32;
            }
            match self.left_of[w] {
                FREE => {
                    for (u, w) in walk {
                        self.right_of[u] = w;
                        self.left_of[w as usize] = u as u32;
                    }
                    return true;
                }
                next => walk.push((next as usize, FREE)),
            }
        }
        false
    }

    /// An open right node that is free or whose partner is one layer on.
    fn step(&self, u: usize) -> Option<usize> {
        for (i, (a, b)) in self.graph.row(u).iter().zip(&self.open).enumerate() {
            for bit in ones(&[a & b]) {
                let w = i * 64 + bit;
                let next = self.left_of[w];
                if next == FREE || self.layer[next as usize] == self.layer[u] + 1 {
                    return Some(w);
                }
            }
        }
        None
    }
}

fn full(n: usize) -> Vec<u64> {
    vec![u64::MAX; n.div_ceil(64)]
}

/// Size of the largest matching of rows with columns.
pub(super) fn largest(graph: &Bits, n: usize) -> usize {
    let mut m = Matcher {
        graph,
        right_of: vec![FREE; n],
        left_of: vec![FREE; n],
        layer: vec![FREE; n],
        open: full(n),
    };
    let mut size = 0;
    while m.layers() {
        m.open = full(n);
        for u in 0..n {
            if m.right_of[u] == FREE && m.augment(u) {
                size += 1;
            }
        }
    }
    size
}
