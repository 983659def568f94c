//! The index as bytes: a short header, then the arrays as they lie in memory, little endian.

use super::graph::{Edit, Graph};
use super::params::{Kind, Params};
use super::rows::{MAX_ROWS, Rows, check_vectors};
use super::state::{State, Tuning};
use crate::codec;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

pub(super) const KIND: codec::Kind = codec::Kind {
    tag: *b"VIDX",
    version: 2,
};

#[derive(Serialize, Deserialize)]
struct Header {
    params: Params,
    rows: u64,
    tuning: Tuning,
    /// Nodes of the graph, if there is one.
    nodes: Option<u64>,
    entry: Option<u32>,
}

/// Serialises rows, ids and links. Codes, reverse links and the id table follow from them.
pub(super) fn write(state: &State) -> Vec<u8> {
    let rows = &state.rows;
    let header = Header {
        params: rows.params,
        rows: rows.len() as u64,
        tuning: state.tuning,
        nodes: state.graph.as_ref().map(|g| g.len() as u64),
        entry: state.graph.as_ref().and_then(|g| g.entry),
    };
    // Serialising plain numbers into memory cannot fail; an empty header would be refused on reading.
    let head = postcard::to_stdvec(&header).unwrap_or_default();
    let mut out = Vec::with_capacity(head.len() + 8 + 8 * rows.ids.len() + 4 * rows.data.len());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    put(&mut out, &rows.ids, i64::to_le_bytes);
    put(&mut out, &rows.data, f32::to_le_bytes);
    if let Some(graph) = &state.graph {
        let nodes = 0..graph.len() as u32;
        out.extend(nodes.clone().map(|u| graph.level(u) as u8));
        for (u, level) in nodes.flat_map(|u| (0..=graph.level(u)).map(move |l| (u, l))) {
            let links = graph.links(level, u);
            out.push(links.len() as u8);
            put(&mut out, links, u32::to_le_bytes);
        }
    }
    codec::seal(KIND, &out)
}

/// Appends words; a plain copy on little-endian machines.
fn put<const N: usize, T: Copy>(out: &mut Vec<u8>, words: &[T], to: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + N * words.len(), 0);
    for (place, word) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(words) {
        *place = to(*word);
    }
}

fn corrupt(reason: impl ToString) -> Error {
    Error::corrupt("VectorIndex state", reason)
}

/// Takes bytes from the front; running out is an error, and nothing is allocated before it is known to be there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.0.len() {
            return Err(corrupt(format!("{n} bytes expected, {} left", self.0.len())));
        }
        let (front, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(front)
    }

    fn words<const N: usize, T>(&mut self, count: usize, from: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let bytes = count
            .checked_mul(N)
            .ok_or_else(|| corrupt("a size that overflows"))?;
        let (words, _) = self.take(bytes)?.as_chunks::<N>();
        Ok(words.iter().map(|w| from(*w)).collect())
    }
}

/// Reads what [`write`] wrote, trusting nothing.
pub(super) fn read(bytes: &[u8]) -> Result<State> {
    let mut reader = Reader(codec::open(KIND, bytes)?);
    let head = reader.words(1, u32::from_le_bytes)?[0] as usize;
    let (header, rest) = postcard::take_from_bytes::<Header>(reader.take(head)?).map_err(corrupt)?;
    if !rest.is_empty() {
        return Err(corrupt("bytes left over in the header"));
    }
    header.params.validate().map_err(corrupt)?;
    let n = usize::try_from(header.rows).ok().filter(|n| *n <= MAX_ROWS);
    let n = n.ok_or_else(|| corrupt(format!("{} rows", header.rows)))?;
    let ids = reader.words(n, i64::from_le_bytes)?;
    let data = reader.words(n.saturating_mul(header.params.dim), f32::from_le_bytes)?;
    check_vectors("VectorIndex state", &header.params, &data).map_err(corrupt)?;
    let rows = Rows::from_parts(header.params, ids, data).map_err(corrupt)?;
    let graph = match header.nodes {
        None if header.entry.is_some() => return Err(corrupt("an entry point without a graph")),
        None => None,
        Some(nodes) => {
            let nodes = usize::try_from(nodes).ok().filter(|m| *m <= n);
            let nodes = nodes.ok_or_else(|| corrupt("more nodes than rows"))?;
            Some(read_graph(&mut reader, nodes, header.entry)?)
        }
    };
    let fits = match header.params.kind {
        Kind::Auto => true,
        Kind::Flat => graph.is_none(),
        Kind::Hnsw => graph.as_ref().is_some_and(|g| g.len() == n),
    };
    if !fits || !reader.0.is_empty() || !header.tuning.widths.plausible() {
        return Err(corrupt("structure and contents do not fit"));
    }
    Ok(State {
        rows,
        graph,
        tuning: header.tuning,
    })
}

fn read_graph(reader: &mut Reader<'_>, nodes: usize, entry: Option<u32>) -> Result<Graph> {
    let levels = reader.take(nodes)?;
    let mut lists = Vec::new();
    for (node, &top) in levels.iter().enumerate() {
        for level in 0..=usize::from(top) {
            let count = usize::from(reader.take(1)?[0]);
            let links = reader.words(count, u32::from_le_bytes)?;
            lists.push(Edit {
                level,
                node: node as u32,
                links,
            });
        }
    }
    Graph::from_parts(levels, lists, entry).map_err(corrupt)
}
