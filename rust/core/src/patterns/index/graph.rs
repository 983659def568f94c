//! Links of the layered graph, and who links to whom, so that a node can leave without a trace and without a rebuild.
//!
//! Nodes are row positions `0..len`. A directed link u → v that v does not return is noted at v ("one-way"), therefore
//! the nodes that link to v are known at any time: those among v's own links that link back, and v's one-way list.

use crate::kernels;

/// Links per node above the bottom layer (Malkov & Yashunin 2018, parameter M).
pub(super) const M: usize = 16;
/// Links per node on the bottom layer.
pub(super) const M_BOTTOM: usize = 2 * M;
/// Layers above this one would hold a single node at any size that fits memory.
pub(super) const MAX_LEVEL: usize = 15;

const STRIDE: usize = 1 + M_BOTTOM;
const UPPER_STRIDE: usize = 1 + M;

/// The links of one node on one layer that are to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub level: usize,
    pub node: u32,
    pub links: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Links on layers 1 and up, `UPPER_STRIDE` words each: count, then targets.
    upper: Vec<u32>,
    /// Per layer: nodes that link here without being linked back.
    one_way: Vec<Vec<u32>>,
}

/// Layers of links between row positions.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    /// Bottom layer, `STRIDE` words per node: count, then targets.
    bottom: Vec<u32>,
    nodes: Vec<Node>,
    /// Where every search starts: a node of the highest layer.
    pub entry: Option<u32>,
}

/// Most links a node may have on `level`.
pub(super) const fn capacity(level: usize) -> usize {
    if level == 0 { M_BOTTOM } else { M }
}

fn forget(list: &mut Vec<u32>, node: u32) {
    if let Some(at) = list.iter().position(|&u| u == node) {
        list.swap_remove(at);
    }
}

fn replace(list: &mut [u32], from: u32, to: u32) {
    for u in list {
        if *u == from {
            *u = to;
        }
    }
}

impl Graph {
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn level(&self, node: u32) -> usize {
        self.nodes[node as usize].upper.len() / UPPER_STRIDE
    }

    pub fn links(&self, level: usize, node: u32) -> &[u32] {
        let (words, at) = if level == 0 {
            (&self.bottom, node as usize * STRIDE)
        } else {
            (&self.nodes[node as usize].upper, (level - 1) * UPPER_STRIDE)
        };
        let count = words[at] as usize;
        &words[at + 1..at + 1 + count]
    }

    /// Asks for the links of `node` on the bottom layer ahead of use.
    pub fn prefetch(&self, level: usize, node: u32) {
        if level == 0 {
            let at = node as usize * STRIDE;
            kernels::prefetch(&self.bottom[at..at + STRIDE]);
        }
    }

    fn links_mut(&mut self, level: usize, node: u32) -> &mut [u32] {
        let (words, at) = if level == 0 {
            (&mut self.bottom, node as usize * STRIDE)
        } else {
            (&mut self.nodes[node as usize].upper, (level - 1) * UPPER_STRIDE)
        };
        let count = words[at] as usize;
        &mut words[at + 1..at + 1 + count]
    }

    fn write_links(&mut self, level: usize, node: u32, links: &[u32]) {
        let (words, at) = if level == 0 {
            (&mut self.bottom, node as usize * STRIDE)
        } else {
            (&mut self.nodes[node as usize].upper, (level - 1) * UPPER_STRIDE)
        };
        words[at] = links.len() as u32;
        words[at + 1..at + 1 + links.len()].copy_from_slice(links);
    }

    /// Adds a node without links on layers `0..=level`.
    pub fn push(&mut self, level: usize) {
        self.bottom.resize(self.bottom.len() + STRIDE, 0);
        self.nodes.push(Node {
            upper: vec![0; level * UPPER_STRIDE],
            one_way: vec![Vec::new(); level + 1],
        });
    }

    /// Nodes that link to `node`, in rising order.
    pub fn incoming(&self, level: usize, node: u32) -> Vec<u32> {
        let mut all = self.nodes[node as usize].one_way[level].clone();
        all.extend(
            self.links(level, node)
                .iter()
                .filter(|&&v| self.links(level, v).contains(&node)),
        );
        all.sort_unstable();
        all
    }

    /// True if nothing links to `node`.
    pub fn is_orphan(&self, level: usize, node: u32) -> bool {
        self.nodes[node as usize].one_way[level].is_empty()
            && !self
                .links(level, node)
                .iter()
                .any(|&v| self.links(level, v).contains(&node))
    }

    /// Replaces the links of one node and keeps the one-way lists true.
    pub fn set_links(&mut self, level: usize, node: u32, links: &[u32]) {
        let old = self.links(level, node).to_vec();
        for &v in old.iter().filter(|v| !links.contains(v)) {
            if self.links(level, v).contains(&node) {
                self.nodes[node as usize].one_way[level].push(v);
            } else {
                forget(&mut self.nodes[v as usize].one_way[level], node);
            }
        }
        for &v in links.iter().filter(|v| !old.contains(v)) {
            if self.links(level, v).contains(&node) {
                forget(&mut self.nodes[node as usize].one_way[level], v);
            } else {
                self.nodes[v as usize].one_way[level].push(node);
            }
        }
        self.write_links(level, node, links);
    }

    /// Moves node `from` over node `to`, which must have no links in either direction, and renames it everywhere.
    pub fn rename(&mut self, from: u32, to: u32) {
        if from == to {
            return;
        }
        for level in 0..=self.level(from) {
            for v in self.links(level, from).to_vec() {
                if self.links(level, v).contains(&from) {
                    replace(self.links_mut(level, v), from, to);
                } else {
                    replace(&mut self.nodes[v as usize].one_way[level], from, to);
                }
            }
            for u in self.nodes[from as usize].one_way[level].clone() {
                replace(self.links_mut(level, u), from, to);
            }
        }
        self.nodes[to as usize] = std::mem::take(&mut self.nodes[from as usize]);
        let (from_at, to_at) = (from as usize * STRIDE, to as usize * STRIDE);
        self.bottom.copy_within(from_at..from_at + STRIDE, to_at);
        if self.entry == Some(from) {
            self.entry = Some(to);
        }
    }

    /// Drops the last node, which must have no links in either direction.
    pub fn pop(&mut self) {
        self.nodes.pop();
        self.bottom.truncate(self.nodes.len() * STRIDE);
        if self.nodes.capacity() / 4 > self.nodes.len().max(1024) {
            self.nodes.shrink_to(2 * self.nodes.len());
            self.bottom.shrink_to(2 * self.bottom.len());
        }
    }

    /// A node of the highest layer other than `node`: its neighbours there first, else any, by rising position.
    pub fn other_entry(&self, node: u32) -> Option<u32> {
        (0..=self.level(node))
            .rev()
            .find_map(|level| {
                self.links(level, node)
                    .iter()
                    .copied()
                    .max_by_key(|&v| (self.level(v), std::cmp::Reverse(v)))
            })
            .filter(|&v| self.level(v) == self.level(node))
            .or_else(|| {
                (0..self.len() as u32)
                    .filter(|&v| v != node)
                    .max_by_key(|&v| (self.level(v), std::cmp::Reverse(v)))
            })
    }

    /// Links on all layers.
    pub fn link_count(&self) -> usize {
        (0..self.len() as u32)
            .flat_map(|u| (0..=self.level(u)).map(move |l| (l, u)))
            .map(|(l, u)| self.links(l, u).len())
            .sum()
    }

    /// Bytes held on the heap.
    pub fn nbytes(&self) -> usize {
        let inner: usize = self
            .nodes
            .iter()
            .map(|n| {
                4 * n.upper.capacity()
                    + size_of::<Vec<u32>>() * n.one_way.capacity()
                    + n.one_way.iter().map(|l| 4 * l.capacity()).sum::<usize>()
            })
            .sum();
        4 * self.bottom.capacity() + size_of::<Node>() * self.nodes.capacity() + inner
    }

    /// Rebuilds a graph from levels and links, or says what is impossible about them. Nothing is trusted.
    pub fn from_parts(levels: &[u8], lists: Vec<Edit>, entry: Option<u32>) -> Result<Self, String> {
        let n = levels.len();
        if levels.iter().any(|&l| usize::from(l) > MAX_LEVEL) {
            return Err(format!("a layer above {MAX_LEVEL}"));
        }
        let top = levels.iter().max();
        match (entry, top) {
            (None, None) => {}
            (Some(e), Some(top)) if (e as usize) < n && levels[e as usize] == *top => {}
            _ => return Err("the entry point is not on the highest layer".into()),
        }
        let mut graph = Self {
            entry,
            ..Self::default()
        };
        for &level in levels {
            graph.push(usize::from(level));
        }
        for Edit { level, node, links } in lists {
            let reaches = |v: u32| (v as usize) < n && usize::from(levels[v as usize]) >= level;
            let mut sorted = links.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if !reaches(node) || links.len() > capacity(level) || sorted.len() != links.len() {
                return Err(format!("node {node} has impossible links on layer {level}"));
            }
            if links.iter().any(|&v| v == node || !reaches(v)) {
                return Err(format!("node {node} links outside layer {level}"));
            }
            graph.set_links(level, node, &links);
        }
        Ok(graph)
    }
}
