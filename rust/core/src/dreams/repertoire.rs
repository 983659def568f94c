//! Cause and effect repertoires of integrated information theory 3.0 (Oizumi, Albantakis & Tononi 2014).
//!
//! Sets of nodes are bit masks. A distribution over the states of a set is indexed by those bits, packed, lowest node first.

/// A system of binary nodes in a state, with some connections severed (their inputs replaced by noise).
pub(super) struct System {
    pub n: usize,
    pub state: usize,
    /// `given[j][s]`: chance that node j is on next, by the state of the nodes in s, the others uniformly random.
    given: Vec<Vec<Vec<f64>>>,
}

/// The bits of `x` under `mask`, packed.
pub(super) fn pack(x: usize, mask: usize) -> usize {
    let (mut out, mut at) = (0, 0);
    for bit in nodes(mask) {
        out |= (x >> bit & 1) << at;
        at += 1;
    }
    out
}

/// The nodes of a mask.
pub(super) fn nodes(mask: usize) -> impl Iterator<Item = usize> {
    (0..usize::BITS as usize).filter(move |i| mask >> i & 1 == 1)
}

/// All subsets of a mask.
pub(super) fn subsets(mask: usize) -> impl Iterator<Item = usize> {
    let mut next = Some(0usize);
    std::iter::from_fn(move || {
        let now = next?;
        next = (now != mask).then(|| now.wrapping_sub(mask) & mask);
        Some(now)
    })
}

impl System {
    /// `tpm[x][j]`: chance that node j is on after state x; `inputs[j]`: the nodes that j listens to.
    pub fn new(tpm: &[f64], n: usize, state: usize, inputs: &[usize]) -> Self {
        let given = (0..n)
            .map(|j| {
                (0..1usize << n)
                    .map(|fixed| {
                        // What j cannot hear is noise, fixed or not.
                        let heard = fixed & inputs[j];
                        let mut sum = vec![0.0; 1 << heard.count_ones()];
                        for x in 0..1usize << n {
                            sum[pack(x, heard)] += tpm[x * n + j];
                        }
                        let each = (1usize << (n as u32 - heard.count_ones())) as f64;
                        let mean = |s: usize| {
                            let spread = unpack(s, fixed);
                            sum[pack(spread, heard)] / each
                        };
                        (0..1usize << fixed.count_ones()).map(mean).collect()
                    })
                    .collect()
            })
            .collect();
        Self { n, state, given }
    }

    /// p(past state of `purview` | state of `mechanism`): product over the mechanism's nodes, normalised.
    pub fn cause(&self, mechanism: usize, purview: usize) -> Vec<f64> {
        let mut out = vec![1.0; 1 << purview.count_ones()];
        for i in nodes(mechanism) {
            let on = self.state >> i & 1 == 1;
            for (o, p) in out.iter_mut().zip(&self.given[i][purview]) {
                *o *= if on { *p } else { 1.0 - p };
            }
        }
        let total: f64 = out.iter().sum();
        if total > 0.0 {
            out.iter_mut().for_each(|o| *o /= total);
        }
        out
    }

    /// Chance that each node of `purview` is on next, given the state of `mechanism`; nodes are independent.
    pub fn effect(&self, mechanism: usize, purview: usize) -> Vec<f64> {
        let at = pack(self.state, mechanism);
        nodes(purview).map(|j| self.given[j][mechanism][at]).collect()
    }

    /// Chance that node j is on next when nothing is known.
    pub fn unconstrained(&self, j: usize) -> f64 {
        self.given[j][0][0]
    }
}

/// Packed bits back to their places under `mask`.
fn unpack(s: usize, mask: usize) -> usize {
    nodes(mask)
        .enumerate()
        .fold(0, |x, (at, bit)| x | (s >> at & 1) << bit)
}

/// The distribution over `union` that is `p` over `over` and uniform over the rest.
pub(super) fn widen(p: &[f64], over: usize, union: usize) -> Vec<f64> {
    let rest = (1usize << (union & !over).count_ones()) as f64;
    (0..1usize << union.count_ones())
        .map(|s| p[pack(unpack(s, union), over)] / rest)
        .collect()
}

/// The product of distributions over two disjoint sets.
pub(super) fn joint(p: &[f64], over: usize, q: &[f64], other: usize) -> Vec<f64> {
    let union = over | other;
    (0..1usize << union.count_ones())
        .map(|s| {
            let x = unpack(s, union);
            p[pack(x, over)] * q[pack(x, other)]
        })
        .collect()
}
