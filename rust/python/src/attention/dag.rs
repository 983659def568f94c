//! `DagGraph`: a checked graph and the mechanisms that score its nodes. `sona.attention` has checked parameters.

use super::operands::flat;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use sona_core::attention::dag::branches::{self, Branch};
use sona_core::attention::dag::cone::{self, Direction, Metric};
use sona_core::attention::dag::lorentz::{self, Space};
use sona_core::attention::dag::topological::{self, Side};
use sona_core::attention::dag::{Dag, Invalid, closure, connectivity, critical, cut};

/// A directed acyclic graph with node costs and edge volumes.
#[pyclass(frozen, module = "sona._core")]
pub(crate) struct DagGraph(Dag);

/// An exception of `sona.attention`.
pub(crate) fn graph_error(py: Python<'_>, invalid: &Invalid, n: usize) -> PyResult<PyErr> {
    let errors = py.import("sona.attention._errors")?;
    Ok(PyErr::from_value(match invalid {
        Invalid::Node { edge, node } => errors.getattr("GraphError")?.call1((format!(
            "edges: edge {edge} names node {node}, nodes are 0 to {}",
            n as i64 - 1
        ),))?,
        Invalid::Cycle(nodes) => errors
            .getattr("CycleError")?
            .call1((format!("edges: cycle through {nodes:?}"), nodes.clone()))?,
    }))
}

fn side(sinks: bool) -> Side {
    if sinks { Side::Sinks } else { Side::Sources }
}

/// Node or edge numbers as numpy counts them.
fn numbers<'py>(py: Python<'py>, x: impl IntoIterator<Item = usize>) -> Bound<'py, PyAny> {
    flat(py, x.into_iter().map(|i| i as i64).collect())
}

fn square<'py, T: numpy::Element>(py: Python<'py>, n: usize, x: Vec<T>) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyArray1::from_vec(py, x).reshape([n, n])?.into_any())
}

#[pymethods]
impl DagGraph {
    #[new]
    fn new(
        py: Python<'_>,
        n: usize,
        edges: PyReadonlyArray2<'_, i64>,
        cost: PyReadonlyArray1<'_, f64>,
        volume: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<Self> {
        let pairs: Vec<[i64; 2]> = edges.as_slice()?.chunks_exact(2).map(|e| [e[0], e[1]]).collect();
        let (cost, volume) = (cost.to_vec()?, volume.to_vec()?);
        py.detach(|| Dag::new(n, &pairs, cost, volume))
            .map(Self)
            .or_else(|e| Err(graph_error(py, &e, n)?))
    }

    /// Topological order, smallest available node first.
    fn order<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        numbers(py, self.0.order().iter().map(|v| *v as usize))
    }

    /// Longest distance in edges from the sources or to the sinks.
    fn levels<'py>(&self, py: Python<'py>, sinks: bool) -> Bound<'py, PyAny> {
        let level = topological::levels(&self.0, side(sinks));
        numbers(py, level.into_iter().map(|l| l as usize))
    }

    /// Ancestors or descendants of one node.
    fn cone<'py>(&self, py: Python<'py>, node: usize, past: bool) -> Bound<'py, PyAny> {
        flat(py, closure::cone(&self.0, node, past))
    }

    /// (n, n) bool: row u holds what u reaches.
    fn reachability<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let n = self.0.len();
        let reach = py.detach(|| {
            let bits = closure::descendants(&self.0);
            let mut reach = vec![false; n * n];
            for (v, row) in reach.chunks_exact_mut(n.max(1)).enumerate() {
                closure::ones(bits.row(v)).for_each(|w| row[w] = true);
            }
            reach
        });
        square(py, n, reach)
    }

    /// Scores and levels.
    fn topological<'py>(&self, py: Python<'py>, decay: f64, sinks: bool) -> PyResult<Bound<'py, PyTuple>> {
        let (scores, level) = topological::scores(&self.0, decay, side(sinks));
        PyTuple::new(
            py,
            [
                flat(py, scores),
                numbers(py, level.into_iter().map(|l| l as usize)),
            ],
        )
    }

    /// Scores and distances. `direction`: 0 past, 1 future, 2 both.
    fn causal_cone<'py>(
        &self,
        py: Python<'py>,
        node: usize,
        direction: u8,
        by_cost: bool,
        decay: f64,
        evidence: Option<PyReadonlyArray1<'_, f64>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let direction = [Direction::Past, Direction::Future, Direction::Both][usize::from(direction.min(2))];
        let metric = if by_cost { Metric::Cost } else { Metric::Hops };
        let evidence = evidence.as_ref().map(|e| e.as_slice()).transpose()?;
        let (scores, distance) = cone::scores(&self.0, node, direction, metric, decay, evidence);
        PyTuple::new(py, [flat(py, scores), flat(py, distance)])
    }

    /// Scores and a dict of extras.
    fn critical_path<'py>(
        &self,
        py: Python<'py>,
        temperature: f64,
        workers: Option<f64>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyDict>)> {
        let c = py.detach(|| critical::analyse(&self.0, temperature, workers));
        let extras = PyDict::new(py);
        let latest = c
            .earliest_start
            .iter()
            .zip(&c.slack)
            .map(|(a, b)| a + b)
            .collect();
        extras.set_item("probability", flat(py, c.probability))?;
        extras.set_item("saving", flat(py, c.saving))?;
        extras.set_item("slack", flat(py, c.slack))?;
        extras.set_item("earliest_start", flat(py, c.earliest_start))?;
        extras.set_item("latest_start", flat::<f64>(py, latest))?;
        extras.set_item("makespan", c.makespan)?;
        extras.set_item("soft_makespan", c.soft_makespan)?;
        extras.set_item("path", numbers(py, c.path))?;
        Ok((flat(py, c.scores), extras))
    }

    /// Scores, cut value, side and cut edges.
    fn minimum_cut<'py>(
        &self,
        py: Python<'py>,
        source: Option<usize>,
        sink: Option<usize>,
        floor: f64,
    ) -> (Bound<'py, PyAny>, f64, Bound<'py, PyAny>, Bound<'py, PyAny>) {
        let (scores, cut) = py.detach(|| {
            let cut = cut::minimum(&self.0, source, sink);
            (cut::scores(&self.0, &cut, floor), cut)
        });
        (
            flat(py, scores),
            cut.value,
            flat(py, cut.side),
            numbers(py, cut.edges),
        )
    }

    /// Site of each node (true: the second) and total cost.
    fn placement<'py>(
        &self,
        py: Python<'py>,
        first: PyReadonlyArray1<'_, f64>,
        second: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<(Bound<'py, PyAny>, f64)> {
        let (first, second) = (first.to_vec()?, second.to_vec()?);
        let (site, total) = py.detach(|| cut::placement(&self.0, &first, &second));
        Ok((flat(py, site), total))
    }

    /// Least volume whose removal parts the undirected graph.
    fn global_minimum_cut(&self, py: Python<'_>) -> f64 {
        py.detach(|| connectivity::global_minimum_cut(&self.0))
    }

    /// Scores, distances ((n,), or (n, n) without a node) and parents.
    fn lorentz<'py>(
        &self,
        py: Python<'py>,
        node: Option<usize>,
        curvature: f64,
        temperature: f64,
        step: f64,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let space = Space {
            curvature,
            temperature,
            step,
        };
        let (scores, distance, parent) = py.detach(|| match node {
            Some(v) => lorentz::from_node(&self.0, v, space),
            None => lorentz::all(&self.0, space),
        });
        let distance = match node {
            Some(_) => flat(py, distance),
            None => square(py, self.0.len(), distance)?,
        };
        PyTuple::new(py, [flat(py, scores), distance, flat(py, parent)])
    }

    /// Scores and a dict of extras.
    fn parallel<'py>(
        &self,
        py: Python<'py>,
        workers: Option<f64>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyDict>)> {
        let p = py.detach(|| branches::analyse(&self.0));
        let extras = PyDict::new(py);
        extras.set_item("width", p.width)?;
        extras.set_item("parallelism", if p.span > 0.0 { p.work / p.span } else { 1.0 })?;
        extras.set_item("work", p.work)?;
        extras.set_item("span", p.span)?;
        set_branches(py, &extras, &p.branches, self.0.len(), workers)?;
        Ok((flat(py, p.scores), extras))
    }
}

fn set_branches(
    py: Python<'_>,
    extras: &Bound<'_, PyDict>,
    branches: &[Branch],
    n: usize,
    workers: Option<f64>,
) -> PyResult<()> {
    let floats = |f: fn(&Branch) -> f64| flat(py, branches.iter().map(f).collect());
    extras.set_item("branch_fork", numbers(py, branches.iter().map(|b| b.fork)))?;
    let joins = branches.iter().map(|b| b.join.map_or(-1, |j| j as i64)).collect();
    extras.set_item("branch_join", flat::<i64>(py, joins))?;
    extras.set_item("branch_work", floats(|b| b.work))?;
    extras.set_item("branch_span", floats(|b| b.span))?;
    extras.set_item("branch_wait", floats(|b| b.wait))?;
    extras.set_item("branch_share", floats(|b| b.share))?;
    if let Some(p) = workers {
        let own = branches.iter().map(|b| b.share * p).collect();
        extras.set_item("branch_workers", flat::<f64>(py, own))?;
    }
    let mut nodes = vec![false; branches.len() * n];
    for (row, b) in nodes.chunks_exact_mut(n.max(1)).zip(branches) {
        b.nodes.iter().for_each(|v| row[*v] = true);
    }
    let nodes: Bound<'_, PyArray2<bool>> = PyArray1::from_vec(py, nodes).reshape([branches.len(), n])?;
    extras.set_item("branch_nodes", nodes)
}
