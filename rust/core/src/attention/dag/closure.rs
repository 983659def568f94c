//! Who reaches whom, as bits.

use super::Dag;

/// A square matrix of bits, row by row.
#[derive(Debug, Clone)]
pub struct Bits {
    words: usize,
    data: Vec<u64>,
}

impl Bits {
    fn new(n: usize) -> Self {
        let words = n.div_ceil(64);
        Self {
            words,
            data: vec![0; n * words],
        }
    }

    /// Words of row `v`.
    #[must_use]
    pub fn row(&self, v: usize) -> &[u64] {
        &self.data[v * self.words..(v + 1) * self.words]
    }

    fn set(&mut self, v: usize, w: usize) {
        self.data[v * self.words + w / 64] |= 1 << (w % 64);
    }

    fn absorb(&mut self, into: usize, from: usize) {
        let k = self.words;
        for i in 0..k {
            let bits = self.data[from * k + i];
            self.data[into * k + i] |= bits;
        }
    }
}

/// The columns set in a row.
pub fn ones(row: &[u64]) -> impl Iterator<Item = usize> + '_ {
    row.iter().enumerate().flat_map(|(i, word)| {
        std::iter::successors((*word != 0).then_some(*word), |w| {
            let rest = w & (w - 1);
            (rest != 0).then_some(rest)
        })
        .map(move |w| i * 64 + w.trailing_zeros() as usize)
    })
}

/// Descendants of every node, itself not among them. O(n·e / 64).
#[must_use]
pub fn descendants(dag: &Dag) -> Bits {
    let mut bits = Bits::new(dag.len());
    for v in dag.forward().rev() {
        for w in dag.after(v) {
            bits.set(v, w);
            bits.absorb(v, w);
        }
    }
    bits
}

/// Ancestors of every node, itself not among them.
#[must_use]
pub fn ancestors(dag: &Dag) -> Bits {
    let mut bits = Bits::new(dag.len());
    for v in dag.forward() {
        for u in dag.before(v) {
            bits.set(v, u);
            bits.absorb(v, u);
        }
    }
    bits
}

/// Ancestors (`past`) or descendants of one node, itself not among them. O(n + e).
#[must_use]
pub fn cone(dag: &Dag, node: usize, past: bool) -> Vec<bool> {
    let next = if past { &dag.predecessors } else { &dag.successors };
    let mut seen = vec![false; dag.len()];
    let mut todo = vec![node];
    while let Some(v) = todo.pop() {
        for w in next.of(v) {
            if !std::mem::replace(&mut seen[*w as usize], true) {
                todo.push(*w as usize);
            }
        }
    }
    seen
}
