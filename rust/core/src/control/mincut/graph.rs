//! A weighted undirected graph whose edges come and go, with bounded maximum flow between two of its nodes.

use super::global::Weighted;
use std::collections::HashMap;

#[derive(Debug, Clone, Copy)]
struct Arc {
    to: u32,
    /// Where the opposite arc stands in the row of `to`.
    back: u32,
    weight: f64,
    /// Capacity left for the flow under way; valid once the row was opened for it.
    room: f64,
}

/// Adjacency lists; an edge is two arcs that know each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    rows: Vec<Vec<Arc>>,
    places: HashMap<(u32, u32), u32>,
    degree: Vec<f64>,
    /// Scratch of searches: who was reached in which search, by which arc.
    seen: Vec<u64>,
    search: u64,
    via: Vec<(u32, u32)>,
    /// In which flow the arcs of a node got their capacity.
    opened: Vec<u64>,
    flows: u64,
}

fn key(u: u32, v: u32) -> (u32, u32) {
    (u.min(v), u.max(v))
}

impl Graph {
    pub(super) fn new(n: usize) -> Self {
        Self {
            rows: vec![Vec::new(); n],
            degree: vec![0.0; n],
            seen: vec![0; n],
            via: vec![(0, 0); n],
            opened: vec![0; n],
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn edges(&self) -> usize {
        self.places.len()
    }

    pub(super) fn weight(&self, u: u32, v: u32) -> f64 {
        let (a, _) = key(u, v);
        self.places
            .get(&key(u, v))
            .map_or(0.0, |at| self.rows[a as usize][*at as usize].weight)
    }

    /// Neighbours of `u` and the weights to them.
    pub(super) fn neighbours(&self, u: u32) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.rows[u as usize].iter().map(|a| (a.to, a.weight))
    }

    /// Weight of all edges of `u`.
    pub(super) fn degree(&self, u: u32) -> f64 {
        self.degree[u as usize]
    }

    /// Sets the weight of an edge; 0 takes it out.
    pub(super) fn set(&mut self, u: u32, v: u32, weight: f64) {
        let (a, b) = key(u, v);
        match (self.places.get(&(a, b)).copied(), weight > 0.0) {
            (Some(at), true) => {
                let arc = &mut self.rows[a as usize][at as usize];
                arc.weight = weight;
                let back = arc.back as usize;
                self.rows[b as usize][back].weight = weight;
            }
            (None, true) => {
                let (i, j) = (
                    self.rows[a as usize].len() as u32,
                    self.rows[b as usize].len() as u32,
                );
                let arc = |to, back| Arc {
                    to,
                    back,
                    weight,
                    room: 0.0,
                };
                self.rows[a as usize].push(arc(b, j));
                self.rows[b as usize].push(arc(a, i));
                self.places.insert((a, b), i);
            }
            (Some(at), false) => {
                let back = self.rows[a as usize][at as usize].back;
                self.places.remove(&(a, b));
                self.take(a, at);
                self.take(b, back);
            }
            (None, false) => {}
        }
        // Summed anew: differences would leave rounding behind where nothing is left.
        for w in [a, b] {
            self.degree[w as usize] = self.rows[w as usize].iter().map(|x| x.weight).sum();
        }
    }

    /// Removes an arc; the last of the row takes its place.
    fn take(&mut self, u: u32, at: u32) {
        let row = &mut self.rows[u as usize];
        row.swap_remove(at as usize);
        if let Some(moved) = row.get(at as usize).copied() {
            self.rows[moved.to as usize][moved.back as usize].back = at;
            if u < moved.to {
                self.places.insert((u, moved.to), at);
            }
        }
    }

    /// Everyone reachable from `u`.
    pub(super) fn component(&mut self, u: u32) -> Vec<u32> {
        self.search += 2;
        let mark = self.search;
        self.seen[u as usize] = mark;
        let mut out = vec![u];
        let mut head = 0;
        while head < out.len() {
            for arc in &self.rows[out[head] as usize] {
                if self.seen[arc.to as usize] != mark {
                    self.seen[arc.to as usize] = mark;
                    out.push(arc.to);
                }
            }
            head += 1;
        }
        out
    }

    /// Maximum flow from `u` to `v`, stopped once it reaches `enough`; with less, also one side of the cut that shows it.
    ///
    /// Shortest augmenting paths (Edmonds & Karp 1972), looked for from both ends at once: in a graph without bottlenecks a
    /// path costs the neighbourhoods of its ends, not the whole graph.
    pub(super) fn flow(&mut self, u: u32, v: u32, enough: f64) -> (f64, Option<Vec<u32>>) {
        self.flows += 1;
        let mut total = 0.0;
        loop {
            let path = match self.path(u, v) {
                Ok(path) => path,
                Err(side) => return (total, Some(side)),
            };
            let room = |g: &Self, (x, i): (u32, u32)| g.rows[x as usize][i as usize].room;
            let amount = path
                .iter()
                .map(|step| room(self, *step))
                .fold(f64::INFINITY, f64::min);
            for (x, i) in path {
                let arc = &mut self.rows[x as usize][i as usize];
                arc.room -= amount;
                let (to, back) = (arc.to, arc.back as usize);
                self.open(to);
                self.rows[to as usize][back].room += amount;
            }
            total += amount;
            if total >= enough {
                return (total, None);
            }
        }
    }

    /// Gives the arcs of `x` their full capacity, once per flow.
    fn open(&mut self, x: u32) {
        if self.opened[x as usize] != self.flows {
            self.opened[x as usize] = self.flows;
            for arc in &mut self.rows[x as usize] {
                arc.room = arc.weight;
            }
        }
    }

    /// A shortest path with room, as (node, arc) steps; or everyone on one side of the saturated cut.
    fn path(&mut self, u: u32, v: u32) -> Result<Vec<(u32, u32)>, Vec<u32>> {
        self.search += 2;
        let (ahead, behind) = (self.search, self.search + 1);
        let (mut from_u, mut from_v) = (vec![u], vec![v]);
        let (mut head_u, mut head_v) = (0, 0);
        self.seen[u as usize] = ahead;
        self.seen[v as usize] = behind;
        self.open(v);
        loop {
            if head_u == from_u.len() {
                return Err(from_u);
            }
            if head_v == from_v.len() {
                return Err(from_v);
            }
            if from_u.len() - head_u <= from_v.len() - head_v {
                let x = from_u[head_u];
                head_u += 1;
                self.open(x);
                for i in 0..self.rows[x as usize].len() {
                    let Arc { to, room, .. } = self.rows[x as usize][i];
                    if room <= 0.0 || self.seen[to as usize] == ahead {
                        continue;
                    }
                    if self.seen[to as usize] == behind {
                        return Ok(self.steps(u, v, (x, i as u32)));
                    }
                    self.seen[to as usize] = ahead;
                    self.via[to as usize] = (x, i as u32);
                    from_u.push(to);
                }
            } else {
                let x = from_v[head_v];
                head_v += 1;
                for i in 0..self.rows[x as usize].len() {
                    let Arc { to, back, .. } = self.rows[x as usize][i];
                    if self.seen[to as usize] == behind {
                        continue;
                    }
                    self.open(to);
                    if self.rows[to as usize][back as usize].room <= 0.0 {
                        continue;
                    }
                    if self.seen[to as usize] == ahead {
                        return Ok(self.steps(u, v, (to, back)));
                    }
                    self.seen[to as usize] = behind;
                    self.via[to as usize] = (x, back);
                    from_v.push(to);
                }
            }
        }
    }

    /// The path through the arc `meeting` where the two searches met. `via` leads towards `u` before it, towards `v` after it.
    fn steps(&self, u: u32, v: u32, meeting: (u32, u32)) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        let mut at = meeting.0;
        while at != u {
            let (before, arc) = self.via[at as usize];
            out.push((before, arc));
            at = before;
        }
        out.push(meeting);
        at = self.rows[meeting.0 as usize][meeting.1 as usize].to;
        while at != v {
            let (after, arc) = self.via[at as usize];
            out.push((at, arc));
            at = after;
        }
        out
    }

    /// The rows as plain lists.
    pub(super) fn weighted(&self) -> Weighted {
        self.rows
            .iter()
            .map(|row| row.iter().map(|a| (a.to, a.weight)).collect())
            .collect()
    }

    /// The graph with these rows, in their order; `None` unless every edge stands once in both of its rows.
    pub(super) fn from_rows(rows: &Weighted) -> Option<Self> {
        let n = rows.len();
        let mut graph = Self::new(n);
        let mut at: HashMap<(u32, u32), (u32, f64)> = HashMap::new();
        for (u, row) in rows.iter().enumerate() {
            for (i, (v, weight)) in row.iter().enumerate() {
                let fits = (*v as usize) < n && *v as usize != u && weight.is_finite() && *weight > 0.0;
                if !fits || at.insert((u as u32, *v), (i as u32, *weight)).is_some() {
                    return None;
                }
            }
        }
        for (u, row) in rows.iter().enumerate() {
            let u = u as u32;
            for (i, (to, weight)) in row.iter().enumerate() {
                let (back, same) = *at.get(&(*to, u))?;
                if same != *weight {
                    return None;
                }
                graph.rows[u as usize].push(Arc {
                    to: *to,
                    back,
                    weight: *weight,
                    room: 0.0,
                });
                if u < *to {
                    graph.places.insert((u, *to), i as u32);
                }
            }
            graph.degree[u as usize] = row.iter().map(|(_, w)| w).sum();
        }
        Some(graph)
    }
}
