//! Hierarchical navigable small-world graph (Malkov & Yashunin 2018) with deletion and update in place.
//!
//! Changes are planned by reading (`plan_*`) and then applied, so that searches wait for the short second part only.

use super::beam::{Candidate, Probe, Scratch, with_scratch};
use super::flat::{ByteQuery, Hit, by_rank, overfetch};
use super::graph::{Edit, Graph, M, MAX_LEVEL, capacity};
use super::rows::Rows;
use crate::rng::{self, RngExt};

/// Nodes kept while searching for the neighbours of a new node (the paper's efConstruction).
const BUILD_WIDTH: usize = 100;

/// Layer of the `draw`-th inserted node: geometric with ratio 1/M (Algorithm 1, line 4).
pub(super) fn draw_level(seed: u64, draw: u64) -> usize {
    let u: f64 = rng::stream(seed, draw).random();
    // 1 − u lies in (0, 1].
    let level = -(1.0 - u).ln() / (M as f64).ln();
    (level as usize).min(MAX_LEVEL)
}

/// Algorithm 4: from candidates in rising distance, keeps those that are nearer to the base than to anything kept, then
/// fills up to M with the nearest of the others (the paper's keepPrunedConnections).
///
/// Of several equal rows the first part keeps one, so a crowd of duplicates cannot use up all links and cut itself off.
fn select(rows: &Rows, mut candidates: Vec<Candidate>, m: usize) -> Vec<u32> {
    let (mut kept, mut others) = (Vec::with_capacity(m), Vec::new());
    let (mut nodes, mut distances) = (Vec::new(), Vec::new());
    while kept.len() < m && !candidates.is_empty() {
        nodes.clear();
        nodes.extend(candidates.iter().map(|c| c.node as usize));
        let nearest = candidates.remove(0).node;
        kept.push(nearest);
        Probe::row(rows, nearest).distances(rows, &nodes, &mut distances);
        let mut between = distances.iter().copied();
        let itself = between.next().unwrap_or(f32::NEG_INFINITY);
        others.extend(candidates.extract_if(.., |c| {
            between.next().is_some_and(|d| d < c.distance || d <= itself)
        }));
    }
    others.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    let room = m.min(M).saturating_sub(kept.len());
    kept.extend(others.iter().take(room).map(|c| c.node));
    kept
}

/// Links of `base` chosen among `nodes`.
fn choose(rows: &Rows, base: u32, nodes: &[u32], m: usize) -> Vec<u32> {
    let mut distances = Vec::new();
    let places: Vec<usize> = nodes.iter().map(|&v| v as usize).collect();
    Probe::row(rows, base).distances(rows, &places, &mut distances);
    let mut candidates: Vec<Candidate> = nodes
        .iter()
        .zip(&distances)
        .map(|(&v, &d)| Candidate::new(d, v))
        .collect();
    // Equal rows link to the latest of them: a band through the crowd, in which no one is forgotten.
    candidates.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(b.node.cmp(&a.node)));
    select(rows, candidates, m)
}

/// Walks down to `level` and leaves the nearest node found in the pool.
fn descend(graph: &Graph, rows: &Rows, probe: &Probe<'_>, entry: u32, level: usize, scratch: &mut Scratch) {
    scratch.seed(rows, probe, entry);
    for l in (level + 1..=graph.level(entry)).rev() {
        scratch.restart(1);
        scratch.search_layer(graph, rows, probe, l, 1);
    }
    scratch.restart(1);
}

/// What a new node may link to: the nodes found, and, where all of them are equal to it, the links of one of them, which
/// lead out of the crowd (the paper's extendCandidates).
fn candidates(
    graph: &Graph,
    rows: &Rows,
    probe: &Probe<'_>,
    level: usize,
    found: &[Candidate],
) -> Vec<Candidate> {
    let mut all = found.to_vec();
    let crowd = found.len() == BUILD_WIDTH && found[0].distance == found[BUILD_WIDTH - 1].distance;
    if crowd {
        let known: Vec<u32> = found.iter().map(|c| c.node).collect();
        let out = graph.links(level, known[0]).iter().filter(|v| !known.contains(v));
        let nodes: Vec<usize> = out.map(|&v| v as usize).collect();
        let mut distances = Vec::new();
        probe.distances(rows, &nodes, &mut distances);
        all.extend(
            nodes
                .iter()
                .zip(distances)
                .map(|(&v, d)| Candidate::new(d, v as u32)),
        );
        all.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    }
    all
}

/// Algorithm 1 for the row at `node`, which has no links yet: the lists to write on layers `0..=level`.
pub(super) fn plan_insert(graph: &Graph, rows: &Rows, node: u32, level: usize) -> Vec<Edit> {
    let Some(entry) = graph.entry else {
        return Vec::new();
    };
    let probe = Probe::row(rows, node);
    let mut edits = Vec::new();
    with_scratch(|scratch| {
        descend(graph, rows, &probe, entry, level, scratch);
        for l in (0..=level.min(graph.level(entry))).rev() {
            scratch.restart(BUILD_WIDTH);
            scratch.search_layer(graph, rows, &probe, l, BUILD_WIDTH);
            let links = select(rows, candidates(graph, rows, &probe, l, &scratch.pool), M);
            for &v in &links {
                let mut theirs = graph.links(l, v).to_vec();
                theirs.push(node);
                if theirs.len() > capacity(l) {
                    theirs = choose(rows, v, &theirs, capacity(l));
                }
                edits.push(Edit {
                    level: l,
                    node: v,
                    links: theirs,
                });
            }
            edits.push(Edit {
                level: l,
                node,
                links,
            });
        }
    });
    edits
}

/// The lists to write so that nothing links to `node` or from it: whoever linked to it links instead to the nearest of
/// those that it linked to. Choosing all links again costs three times as much and finds no more afterwards.
pub(super) fn plan_remove(graph: &Graph, rows: &Rows, node: u32) -> Vec<Edit> {
    let mut edits = Vec::new();
    let (mut heirs, mut distances) = (Vec::new(), Vec::new());
    for level in 0..=graph.level(node) {
        for u in graph.incoming(level, node) {
            let mut links = graph.links(level, u).to_vec();
            heirs.clear();
            let left = graph.links(level, node).iter();
            heirs.extend(
                left.filter(|v| **v != u && !links.contains(v))
                    .map(|&v| v as usize),
            );
            Probe::row(rows, u).distances(rows, &heirs, &mut distances);
            let nearest = heirs
                .iter()
                .zip(&distances)
                .min_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            let at = links.iter().position(|&v| v == node);
            match (at, nearest) {
                (Some(at), Some((&heir, _))) => links[at] = heir as u32,
                (Some(at), None) => drop(links.remove(at)),
                (None, _) => {}
            }
            edits.push(Edit {
                level,
                node: u,
                links,
            });
        }
        edits.push(Edit {
            level,
            node,
            links: Vec::new(),
        });
    }
    edits
}

/// Writes planned lists. A node left without any incoming link gets one from the neighbours it links to itself.
pub(super) fn apply(graph: &mut Graph, edits: Vec<Edit>) {
    let mut at_risk = Vec::new();
    for Edit { level, node, links } in edits {
        at_risk.extend(
            graph
                .links(level, node)
                .iter()
                .filter(|v| !links.contains(v))
                .map(|&v| (level, v)),
        );
        at_risk.push((level, node));
        graph.set_links(level, node, &links);
    }
    for (level, v) in at_risk {
        if graph.is_orphan(level, v) {
            adopt(graph, level, v);
        }
    }
}

/// A node without links of its own (one that leaves) has no parent to ask and stays alone.
fn adopt(graph: &mut Graph, level: usize, orphan: u32) {
    for parent in graph.links(level, orphan).to_vec() {
        let mut links = graph.links(level, parent).to_vec();
        if links.len() == capacity(level) {
            // Selected links come nearest first: give up the last that someone else also reaches.
            let Some(spare) = links.iter().rposition(|&z| graph.incoming(level, z).len() > 1) else {
                continue;
            };
            links.remove(spare);
        }
        links.push(orphan);
        graph.set_links(level, parent, &links);
        return;
    }
}

/// Nodes that must be kept to return `k` rows, of which codes fetch more.
pub(super) fn least_width(k: usize) -> usize {
    overfetch(k)
}

/// The best `k` rows for a prepared query: found through the graph with `width` nodes kept (the paper's ef), or not linked
/// yet.
pub(super) fn search(graph: &Graph, rows: &Rows, query: &[f32], k: usize, width: usize) -> Vec<Hit> {
    let Some(entry) = graph.entry else {
        return Vec::new();
    };
    let bytes = rows.codes.is_some().then(|| ByteQuery::new(query));
    let probe = Probe::query(query, bytes.as_ref());
    let fetch = if bytes.is_some() { overfetch(k) } else { k };
    let mut positions: Vec<usize> = with_scratch(|scratch| {
        descend(graph, rows, &probe, entry, 0, scratch);
        scratch.search_layer(graph, rows, &probe, 0, width);
        scratch.pool.iter().take(fetch).map(|c| c.node as usize).collect()
    });
    positions.extend(graph.len()..rows.len());
    let mut hits = rows.hits(query, &positions);
    hits.sort_unstable_by(by_rank);
    hits.truncate(k);
    hits
}
