//! Immediate post-dominators: the first node that every path onwards must pass.
//!
//! In a DAG one pass from the sinks suffices (Cooper, Harvey & Kennedy 2001); common ancestors are found by skip pointers
//! (Myers 1983) in O(log n).

use super::Dag;

/// Tree grown leaf by leaf, with a pointer that skips many levels.
struct Grown {
    parent: Vec<u32>,
    skip: Vec<u32>,
    depth: Vec<u32>,
}

impl Grown {
    fn hang(&mut self, v: usize, under: usize) {
        self.parent[v] = under as u32;
        self.depth[v] = self.depth[under] + 1;
        let far = self.skip[under] as usize;
        let farther = self.skip[far] as usize;
        let equal = self.depth[under] - self.depth[far] == self.depth[far] - self.depth[farther];
        self.skip[v] = if equal { farther } else { under } as u32;
    }

    fn common(&self, mut a: usize, mut b: usize) -> usize {
        if self.depth[a] < self.depth[b] {
            std::mem::swap(&mut a, &mut b);
        }
        while self.depth[a] > self.depth[b] {
            let far = self.skip[a] as usize;
            a = if self.depth[far] >= self.depth[b] {
                far
            } else {
                self.parent[a] as usize
            };
        }
        while a != b {
            // Equal depths have skips of equal length.
            let (x, y) = (self.skip[a], self.skip[b]);
            (a, b) = if x == y {
                (self.parent[a] as usize, self.parent[b] as usize)
            } else {
                (x as usize, y as usize)
            };
        }
        a
    }
}

/// Immediate post-dominator of each node; n: none but the virtual sink behind all sinks.
pub(super) fn immediate_post_dominators(dag: &Dag) -> Vec<u32> {
    let n = dag.len();
    let mut tree = Grown {
        parent: vec![n as u32; n + 1],
        skip: vec![n as u32; n + 1],
        depth: vec![0; n + 1],
    };
    for v in dag.forward().rev() {
        let meet = dag.after(v).reduce(|a, b| tree.common(a, b)).unwrap_or(n);
        tree.hang(v, meet);
    }
    tree.parent.truncate(n);
    tree.parent
}
