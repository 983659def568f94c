//! Maximum flow and the minimum cut nearest to the source (Dinic 1970), in exact arithmetic.
//!
//! Capacities are integers: with floats a saturated edge may keep a residual of rounding, and the side of a tied cut would
//! hang on it. [`Scale`] turns floats into integers that are exact over 37 binary orders of magnitude.

/// More than any sum of capacities.
pub(super) const UNLIMITED: i128 = 1 << 126;

/// Floats as integers: multiples of 2⁻⁹⁰ of the power of two above the largest.
pub(super) struct Scale(f64);

impl Scale {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let largest = values.fold(0.0_f64, f64::max);
        // Scaling by a power of two is exact.
        Self(if largest > 0.0 { largest.log2().ceil() } else { 0.0 })
    }

    pub(super) fn integer(&self, x: f64) -> i128 {
        // In two steps: 2^(90 − e) alone may be out of range. The result is below 2⁹¹.
        let half = ((90.0 - self.0) / 2.0).floor();
        (x * half.exp2() * (90.0 - self.0 - half).exp2()) as i128
    }
}

#[derive(Clone, Copy)]
struct Arc {
    to: u32,
    room: i128,
}

/// A network; arc 2i and arc 2i + 1 are each other's reverse.
pub(super) struct Network {
    arcs: Vec<Arc>,
    tails: Vec<u32>,
    nodes: usize,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            arcs: Vec::new(),
            tails: Vec::new(),
            nodes,
        }
    }

    /// Capacity `there` from u to v, and `back` from v to u.
    pub(super) fn connect(&mut self, u: usize, v: usize, there: i128, back: i128) {
        self.arcs.push(Arc {
            to: v as u32,
            room: there,
        });
        self.arcs.push(Arc {
            to: u as u32,
            room: back,
        });
        self.tails.extend([u as u32, v as u32]);
    }

    /// Saturates the network; returns who is still reachable from `source`: the smallest side of all minimum cuts.
    pub(super) fn cut(mut self, source: usize, sink: usize) -> Vec<bool> {
        let (start, leaving) = self.leaving();
        let mut level = vec![u32::MAX; self.nodes];
        let mut next = vec![0; self.nodes];
        loop {
            self.layers(source, &start, &leaving, &mut level);
            if level[sink] == u32::MAX {
                return level.iter().map(|l| *l != u32::MAX).collect();
            }
            next.copy_from_slice(&start[..self.nodes]);
            self.block(source, sink, &start, &leaving, &level, &mut next);
        }
    }

    /// The arcs that leave each node, grouped.
    fn leaving(&self) -> (Vec<usize>, Vec<u32>) {
        let mut start = vec![0; self.nodes + 1];
        for u in &self.tails {
            start[*u as usize + 1] += 1;
        }
        for v in 0..self.nodes {
            start[v + 1] += start[v];
        }
        let mut at = start.clone();
        let mut leaving = vec![0; self.arcs.len()];
        for (arc, u) in self.tails.iter().enumerate() {
            leaving[at[*u as usize]] = arc as u32;
            at[*u as usize] += 1;
        }
        (start, leaving)
    }

    /// Distance from the source over arcs with room.
    fn layers(&self, source: usize, start: &[usize], leaving: &[u32], level: &mut [u32]) {
        level.fill(u32::MAX);
        level[source] = 0;
        let mut queue = vec![source];
        let mut head = 0;
        while head < queue.len() {
            let u = queue[head];
            head += 1;
            for arc in &leaving[start[u]..start[u + 1]] {
                let a = self.arcs[*arc as usize];
                if a.room > 0 && level[a.to as usize] == u32::MAX {
                    level[a.to as usize] = level[u] + 1;
                    queue.push(a.to as usize);
                }
            }
        }
    }

    /// A blocking flow of the layered network, by depth-first walks with an explicit stack.
    fn block(
        &mut self,
        source: usize,
        sink: usize,
        start: &[usize],
        leaving: &[u32],
        level: &[u32],
        next: &mut [usize],
    ) {
        let mut walk: Vec<usize> = Vec::new();
        let mut u = source;
        loop {
            if u == sink {
                let amount = walk.iter().map(|a| self.arcs[*a].room).min().unwrap_or(0);
                for a in &walk {
                    self.arcs[*a].room -= amount;
                    self.arcs[*a ^ 1].room += amount;
                }
                // Go on from before the first arc that is full now.
                let full = walk.iter().position(|a| self.arcs[*a].room == 0).unwrap_or(0);
                u = self.tails[walk[full]] as usize;
                walk.truncate(full);
                continue;
            }
            let step = (next[u]..start[u + 1]).find(|at| {
                let a = self.arcs[leaving[*at] as usize];
                a.room > 0 && level[a.to as usize] == level[u] + 1
            });
            if let Some(at) = step {
                next[u] = at;
                let arc = leaving[at] as usize;
                walk.push(arc);
                u = self.arcs[arc].to as usize;
            } else {
                next[u] = start[u + 1];
                let Some(arc) = walk.pop() else { return };
                u = self.tails[arc] as usize;
                next[u] += 1;
            }
        }
    }
}
