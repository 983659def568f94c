//! A plan: operators and which of them comes before which.

use crate::attention::dag::{Dag, Invalid, critical, topological};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_finite, check_number};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"PLAN",
    version: 1,
};
/// Most nodes or edges of a plan.
const MOST: usize = 1 << 20;
/// Most features of a node.
const MOST_FEATURES: usize = 4096;

/// Number of a kind of operator in [`OPERATORS`].
pub type Operator = u8;

/// Kinds of operators by number.
pub const OPERATORS: [&str; 12] = [
    "scan",
    "index_scan",
    "filter",
    "join",
    "aggregate",
    "sort",
    "limit",
    "vector_search",
    "rerank",
    "llm_call",
    "tool_call",
    "other",
];

/// One operator with what the planner estimates of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its kind.
    pub op: Operator,
    /// Estimated cost.
    pub cost: f64,
    /// Estimated rows that it returns.
    pub rows: f64,
    /// Whatever else the caller knows of it.
    pub features: Vec<f32>,
}

/// Operators and the edges between them; never cyclic.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct QueryDag {
    nodes: Vec<Node>,
    edges: Vec<[u32; 2]>,
    children: Vec<Vec<u32>>,
}

impl QueryDag {
    /// An empty plan.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operator and returns its number.
    pub fn add_node(&mut self, op: usize, cost: f64, rows: f64, features: Vec<f32>) -> Result<usize> {
        if op >= OPERATORS.len() {
            return Err(Error::value("op", "a kind of operator", op));
        }
        for (name, value) in [("cost", cost), ("rows", rows)] {
            check_number(name, value)?;
            if value < 0.0 {
                return Err(Error::value(name, "a number of at least 0", value));
            }
        }
        check_finite("features", &features)?;
        let capacity = |name, most, got: usize| Error::Capacity {
            name,
            limit: format!("at most {most}"),
            got: got.to_string(),
        };
        if features.len() > MOST_FEATURES {
            return Err(capacity("features", MOST_FEATURES, features.len()));
        }
        if self.nodes.len() >= MOST {
            return Err(capacity("nodes", MOST, self.nodes.len() + 1));
        }
        self.nodes.push(Node {
            op: op as Operator,
            cost,
            rows,
            features,
        });
        self.children.push(Vec::new());
        Ok(self.nodes.len() - 1)
    }

    /// Says that `parent` comes before `child`. An edge that exists is not added again; one that closes a cycle is refused
    /// with the nodes of the cycle. O(nodes + edges).
    pub fn add_edge(&mut self, parent: i64, child: i64) -> Result<(), Invalid> {
        let known = |node: i64| {
            usize::try_from(node)
                .ok()
                .filter(|v| *v < self.nodes.len())
                .ok_or(Invalid::Node {
                    edge: self.edges.len(),
                    node,
                })
        };
        let (parent, child) = (known(parent)?, known(child)?);
        if let Some(path) = self.path(child, parent) {
            return Err(Invalid::Cycle(path));
        }
        if !self.children[parent].contains(&(child as u32)) {
            self.children[parent].push(child as u32);
            self.edges.push([parent as u32, child as u32]);
        }
        Ok(())
    }

    /// The nodes of a path, the last one first and the rest in order; `None` if there is no path.
    fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let mut via = vec![usize::MAX; self.nodes.len()];
        let mut open = vec![from];
        via[from] = from;
        while let Some(v) = open.pop() {
            if v == to {
                let mut back = vec![to];
                let mut at = to;
                while at != from {
                    at = via[at];
                    back.push(at);
                }
                // to ← … ← from becomes to, from, …: the order of the cycle that the edge would close.
                back[1..].reverse();
                return Some(back);
            }
            for w in &self.children[v] {
                let w = *w as usize;
                if via[w] == usize::MAX {
                    via[w] = v;
                    open.push(w);
                }
            }
        }
        None
    }

    /// The operators.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The edges in the order in which they were added.
    #[must_use]
    pub fn edges(&self) -> &[[u32; 2]] {
        &self.edges
    }

    /// Number of operators.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// No operators.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The plan as a graph that the mechanisms of [`crate::attention::dag`] take; edges carry the rows of their parent.
    pub fn graph(&self) -> Result<Dag> {
        let edges: Vec<[i64; 2]> = self
            .edges
            .iter()
            .map(|e| [i64::from(e[0]), i64::from(e[1])])
            .collect();
        let volume = self
            .edges
            .iter()
            .map(|e| self.nodes[e[0] as usize].rows)
            .collect();
        let cost = self.nodes.iter().map(|n| n.cost).collect();
        Dag::new(self.nodes.len(), &edges, cost, volume)
            .map_err(|e| Error::corrupt("query plan", format!("{e:?}")))
    }

    /// Every node after its parents; of those available the smallest first.
    pub fn topological_order(&self) -> Result<Vec<usize>> {
        Ok(self.graph()?.order().iter().map(|v| *v as usize).collect())
    }

    /// The path of largest cost and its cost.
    pub fn critical_path(&self) -> Result<(Vec<usize>, f64)> {
        let critical = critical::analyse(&self.graph()?, 0.02, None);
        Ok((critical.path, critical.makespan))
    }

    /// Edges on the longest path from a node without parents.
    pub fn depths(&self) -> Result<Vec<u32>> {
        Ok(topological::levels(&self.graph()?, topological::Side::Sources))
    }

    /// Serialises the plan.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let read: Self = codec::decode(KIND, bytes)?;
        let fail = |e: &dyn std::fmt::Display| Error::corrupt("query plan", e);
        // Built again, so that whatever the calls refuse is refused here.
        let mut plan = Self::new();
        for n in read.nodes {
            plan.add_node(usize::from(n.op), n.cost, n.rows, n.features)
                .map_err(|e| fail(&e))?;
        }
        let edges = &read.edges;
        if edges.iter().flatten().any(|v| *v as usize >= plan.nodes.len()) {
            return Err(fail(&"an edge names no node"));
        }
        for [u, v] in edges {
            plan.children[*u as usize].push(*v);
        }
        plan.edges = read.edges;
        if plan.children != read.children {
            return Err(fail(&"edges and children disagree"));
        }
        plan.graph()?;
        Ok(plan)
    }

    /// Bytes that tell this plan from any other.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut h = blake3::Hasher::new();
        for n in &self.nodes {
            h.update(&[n.op]);
            h.update(&n.cost.to_le_bytes());
            h.update(&n.rows.to_le_bytes());
            h.update(&(n.features.len() as u64).to_le_bytes());
            for f in &n.features {
                h.update(&f.to_le_bytes());
            }
        }
        let mut edges = self.edges.clone();
        edges.sort_unstable();
        for [u, v] in edges {
            h.update(&u.to_le_bytes());
            h.update(&v.to_le_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&h.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}
