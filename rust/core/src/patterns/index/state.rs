//! Rows and graph together: what a writer changes and a reader sees.

use super::audit::{self, Widths};
use super::cost;
use super::flat::{self, Hit};
use super::graph::{Edit, Graph};
use super::hnsw;
use super::params::{Kind, Params};
use super::rows::Rows;
use serde::{Deserialize, Serialize};

/// An automatic index whose graph found too little tries again at this many times the size.
const RETRY: usize = 4;

/// Old rows that one `add` links at least, when an automatic index has grown past the crossover.
const CATCH_UP: usize = 64;

/// Rows not yet linked that a search through the graph scans beside it: those that an `add` at work has appended.
const TAIL: usize = 256;

/// Everything a search reads.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub rows: Rows,
    /// Covers the first `graph.len()` rows; searched once it covers nearly all.
    pub graph: Option<Graph>,
    pub tuning: Tuning,
}

/// What an index has learned about its own graph; saved with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tuning {
    /// Levels drawn so far.
    pub draws: u64,
    /// How wide the graph is searched, as last measured.
    pub widths: Widths,
    /// Rows changed since then.
    pub changes: usize,
    /// Changes that make a new measurement due.
    pub due: usize,
    /// Rows from which an automatic index builds a graph.
    pub switch: usize,
}

impl State {
    pub fn new(params: Params) -> Self {
        Self {
            rows: Rows::new(params),
            graph: (params.kind == Kind::Hnsw).then(Graph::default),
            tuning: Tuning {
                draws: 0,
                widths: Widths::default(),
                changes: 0,
                due: audit::FIRST_AUDIT,
                switch: cost::switch(&params),
            },
        }
    }

    /// Bytes held on the heap.
    pub fn nbytes(&self) -> usize {
        self.rows.nbytes() + self.graph.as_ref().map_or(0, Graph::nbytes)
    }

    /// Structure that searches use.
    pub fn kind(&self) -> Kind {
        let chosen = self.tuning.widths.pay() && self.usable_graph().is_some();
        if chosen || self.rows.params.kind == Kind::Hnsw {
            Kind::Hnsw
        } else {
            Kind::Flat
        }
    }

    /// Rows that the graph still has to take in.
    pub fn pending(&self) -> usize {
        self.graph.as_ref().map_or(0, |g| self.rows.len() - g.len())
    }

    /// The graph, if it covers enough for a search: the rows behind it are scanned.
    pub fn usable_graph(&self) -> Option<&Graph> {
        self.graph.as_ref().filter(|_| self.pending() <= TAIL)
    }

    /// Starts or drops the graph of an automatic index, by size.
    pub fn choose_structure(&mut self) {
        if self.rows.params.kind != Kind::Auto {
            return;
        }
        let smallest = cost::switch(&self.rows.params);
        if self.rows.len() < smallest / 2 {
            self.graph = None;
            self.tuning.switch = smallest;
        } else if self.graph.is_none() && self.rows.len() >= self.tuning.switch {
            self.graph = Some(Graph::default());
            // It is searched once it is complete and has been measured.
            self.tuning.widths = Widths::default();
            self.tuning.changes = self.tuning.due;
        }
    }

    /// The width should be measured now.
    pub fn audit_due(&self) -> bool {
        self.tuning.changes >= self.tuning.due && self.graph.is_some() && self.pending() == 0
    }

    /// Adds to the changes since the last audit.
    pub fn count_changes(&mut self, rows: usize) {
        self.tuning.changes = self.tuning.changes.saturating_add(rows);
    }

    /// The widths that the data at hand need.
    pub fn measure_widths(&self) -> Widths {
        let graph = self.graph.as_ref();
        graph.map_or_else(Widths::default, |g| Widths::measure(g, &self.rows))
    }

    /// Takes measured widths over. An automatic index drops a graph that is not worth searching.
    pub fn apply_widths(&mut self, widths: Widths) {
        self.tuning.widths = widths;
        self.tuning.changes = 0;
        self.tuning.due = audit::interval(self.rows.len());
        if !widths.pay() && self.rows.params.kind == Kind::Auto {
            self.graph = None;
            self.tuning.switch = self.rows.len().saturating_mul(RETRY);
        }
    }

    /// Rows to link in an `add` of `added` rows: those, and some of the backlog.
    pub fn link_budget(&self, added: usize) -> usize {
        self.pending().min(4 * added + CATCH_UP)
    }

    /// Plan for linking the next pending row: its level and the lists to write.
    pub fn plan_link(&self) -> Option<(usize, Vec<Edit>)> {
        let graph = self.graph.as_ref()?;
        let node = graph.len() as u32;
        let level = hnsw::draw_level(self.rows.params.seed, self.tuning.draws);
        Some((level, hnsw::plan_insert(graph, &self.rows, node, level)))
    }

    pub fn apply_link(&mut self, level: usize, edits: Vec<Edit>) {
        if let Some(graph) = &mut self.graph {
            let node = graph.len() as u32;
            graph.push(level);
            hnsw::apply(graph, edits);
            self.tuning.draws = self.tuning.draws.wrapping_add(1);
            if graph.entry.is_none_or(|e| graph.level(e) < level) {
                graph.entry = Some(node);
            }
        }
    }

    /// Plan for taking the row at `position` out of the graph; empty if the graph does not hold it.
    pub fn plan_unlink(&self, position: usize) -> Vec<Edit> {
        match &self.graph {
            Some(g) if position < g.len() => hnsw::plan_remove(g, &self.rows, position as u32),
            _ => Vec::new(),
        }
    }

    fn unlink(&mut self, position: usize, edits: Vec<Edit>) {
        if let Some(graph) = self.graph.as_mut().filter(|g| position < g.len()) {
            let node = position as u32;
            if graph.entry == Some(node) {
                graph.entry = graph.other_entry(node);
            }
            hnsw::apply(graph, edits);
        }
    }

    /// Removes the row at `position`; the last row takes its place.
    pub fn remove(&mut self, position: usize, edits: Vec<Edit>) {
        self.unlink(position, edits);
        self.rows.position.remove(&self.rows.ids[position]);
        let mut hole = position;
        if let Some(graph) = self.graph.as_mut().filter(|g| hole < g.len()) {
            // The last linked row moves into the hole, so that the linked rows stay in front.
            let last = graph.len() - 1;
            graph.rename(last as u32, hole as u32);
            graph.pop();
            self.rows.move_row(last, hole);
            hole = last;
        }
        self.rows.move_row(self.rows.len() - 1, hole);
        self.rows.pop();
    }

    /// Replaces the row at `position` and leaves it unlinked in the graph; `edits` come from [`Self::plan_unlink`].
    pub fn overwrite(&mut self, position: usize, row: &[f32], edits: Vec<Edit>) {
        self.unlink(position, edits);
        self.rows.overwrite(position, row);
    }

    /// Plan for linking a row that was overwritten, on the layers it had.
    pub fn plan_relink(&self, position: usize) -> Vec<Edit> {
        match &self.graph {
            Some(g) if position < g.len() => {
                let node = position as u32;
                hnsw::plan_insert(g, &self.rows, node, g.level(node))
            }
            _ => Vec::new(),
        }
    }

    pub fn apply_relink(&mut self, position: usize, edits: Vec<Edit>) {
        if let Some(graph) = self.graph.as_mut().filter(|g| position < g.len()) {
            let node = position as u32;
            hnsw::apply(graph, edits);
            if graph.entry.is_none_or(|e| graph.level(e) < graph.level(node)) {
                graph.entry = Some(node);
            }
        }
    }

    /// The graph and how wide to search it for `k` rows, if that costs less than reading every row.
    fn graph_for(&self, k: usize) -> Option<(&Graph, usize)> {
        let width = self.tuning.widths.of(k)?;
        let graph = self.usable_graph()?;
        cost::pays(&self.rows.params, width, self.rows.len()).then_some((graph, width))
    }

    /// Nodes that a search for up to ten rows keeps; 0 while searches scan.
    pub fn graph_width(&self) -> usize {
        self.graph_for(1).map_or(0, |(_, width)| width)
    }

    /// Best `k` rows for each prepared query, and whether a tie forced a full rescoring.
    pub fn search_batch(&self, queries: &[f32], k: usize) -> Vec<(Vec<Hit>, bool)> {
        match self.graph_for(k) {
            Some((graph, width)) => queries
                .chunks_exact(self.rows.params.dim)
                .map(|q| (hnsw::search(graph, &self.rows, q, k, width), false))
                .collect(),
            None => flat::search_batch(&self.rows, queries, k),
        }
    }
}
