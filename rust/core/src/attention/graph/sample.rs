//! Neighbours drawn without replacement, from a generator keyed by (seed, hop, node): the draw of a node depends on nothing
//! else, neither on other nodes nor on threads.

use super::Graph;

/// The mixing of SplitMix64 (Steele, Lea & Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A counter turned into random numbers.
struct Counter {
    key: u64,
    count: u64,
}

impl Counter {
    fn new(seed: u64, hop: u64, node: u64) -> Self {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let key = [hop, node]
            .into_iter()
            .fold(mix(seed.wrapping_add(STEP)), |k, x| {
                mix(k ^ mix(x.wrapping_mul(STEP).wrapping_add(STEP)))
            });
        Self { key, count: 0 }
    }

    /// Uniform in 0..bound (Lemire 2019).
    fn below(&mut self, bound: u64) -> u64 {
        loop {
            self.count += 1;
            let x = mix(self
                .key
                .wrapping_add(self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let wide = u128::from(x) * u128::from(bound);
            if wide as u64 >= bound.wrapping_neg() % bound {
                return (wide >> 64) as u64;
            }
        }
    }
}

/// `k` of 0..count, increasing, every subset equally likely (Floyd's method); all where there are no more than `k`.
fn subset(count: usize, k: usize, rng: &mut Counter) -> Vec<usize> {
    if count <= k {
        return (0..count).collect();
    }
    let mut chosen = Vec::with_capacity(k);
    for last in count - k..count {
        let x = rng.below(last as u64 + 1) as usize;
        // Taken already: `last` cannot be.
        match chosen.binary_search(&x) {
            Ok(_) => chosen.push(last),
            Err(at) => chosen.insert(at, x),
        }
    }
    chosen
}

/// The graph with at most `fanout` of the edges that end in each node.
#[must_use]
pub fn thinned(graph: &Graph, fanout: usize, seed: u64) -> Graph {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for v in 0..graph.n {
        let incoming = graph.incoming(v);
        for i in subset(incoming.len(), fanout, &mut Counter::new(seed, 0, v as u64)) {
            from.push(graph.source[incoming.start + i]);
            to.push(v as u32);
        }
    }
    Graph::sorted(graph.n, &from, &to)
}

/// Sampled surroundings of some nodes.
#[derive(Debug, Clone, Default)]
pub struct Neighbourhood {
    /// The seeds, then every other node once, as it was found.
    pub nodes: Vec<i64>,
    /// Sources of the sampled edges.
    pub source: Vec<i64>,
    /// Their targets.
    pub target: Vec<i64>,
    /// The hop in which each edge was drawn.
    pub hop: Vec<i64>,
}

/// Draws at most `fanouts[h]` incoming edges for every node found in hop h − 1 (hop 0: the seeds).
#[must_use]
pub fn neighbourhood(graph: &Graph, seeds: &[usize], fanouts: &[usize], seed: u64) -> Neighbourhood {
    let mut out = Neighbourhood::default();
    let mut known = vec![false; graph.n];
    let mut add = |out: &mut Neighbourhood, v: usize| {
        if !std::mem::replace(&mut known[v], true) {
            out.nodes.push(v as i64);
        }
    };
    for v in seeds {
        add(&mut out, *v);
    }
    let mut from = 0;
    for (hop, fanout) in fanouts.iter().enumerate() {
        let to = out.nodes.len();
        for at in from..to {
            let v = out.nodes[at] as usize;
            let incoming = graph.incoming(v);
            for i in subset(
                incoming.len(),
                *fanout,
                &mut Counter::new(seed, hop as u64, v as u64),
            ) {
                let u = graph.source[incoming.start + i] as usize;
                out.source.push(u as i64);
                out.target.push(v as i64);
                out.hop.push(hop as i64);
                add(&mut out, u);
            }
        }
        from = to;
    }
    out
}
