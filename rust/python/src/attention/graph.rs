//! `GraphEdges`: edges sorted once, and what runs along them. `sona.attention` has checked shapes and parameters.

use super::operands::{Float, Operand, flat, run};
use numpy::{PyArray1, PyArrayDyn, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::graph::gat::{self, Shape};
use sona_core::attention::graph::gather::{self, Along};
use sona_core::attention::graph::{Graph, Invalid, gatv2, sample};

/// A directed graph whose edges are sorted by target.
#[pyclass(frozen, module = "sona._core")]
pub(crate) struct GraphEdges(Graph);

fn graph_error(py: Python<'_>, invalid: Invalid, n: usize) -> PyResult<PyErr> {
    let class = py.import("sona.attention._errors")?.getattr("GraphError")?;
    let Invalid { edge, node } = invalid;
    Ok(PyErr::from_value(class.call1((format!(
        "edge_index: edge {edge} names node {node}, nodes are 0 to {}",
        n as i64 - 1
    ),))?))
}

/// Multiply-adds (about 50 µs) below which releasing the GIL, and copying the operands for it, is not worth it.
const DETACH_FROM: usize = 500_000;

fn single(x: &Bound<'_, PyAny>) -> bool {
    x.cast::<PyArrayDyn<f32>>().is_ok()
}

type Pair<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

#[pymethods]
impl GraphEdges {
    #[new]
    fn new(py: Python<'_>, n: usize, edge_index: PyReadonlyArray2<'_, i64>, loops: bool) -> PyResult<Self> {
        let values = edge_index.as_slice()?;
        let (source, target) = values.split_at(values.len() / 2);
        Graph::new(n, source, target, loops)
            .map(Self)
            .or_else(|e| Err(graph_error(py, e, n)?))
    }

    /// Sources and targets, in the order of the edges' numbers.
    fn list<'py>(&self, py: Python<'py>) -> Pair<'py> {
        let (from, to) = self.0.list();
        (flat(py, from), flat(py, to))
    }

    /// Number of edges that end in each node.
    fn degrees<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        flat(py, self.0.degrees().map(|d| d as i64).collect())
    }

    /// Number of the edge at each place.
    fn numbers<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        flat(py, self.0.numbers().iter().map(|e| i64::from(*e)).collect())
    }

    /// At most `fanout` of the edges that end in each node.
    fn thinned(&self, py: Python<'_>, fanout: usize, seed: u64) -> Self {
        Self(py.detach(|| sample::thinned(&self.0, fanout, seed)))
    }

    /// Nodes, sources, targets and hops of a sampled neighbourhood.
    fn neighbourhood<'py>(
        &self,
        py: Python<'py>,
        seeds: PyReadonlyArray1<'_, i64>,
        fanouts: Vec<usize>,
        seed: u64,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let seeds: Vec<usize> = seeds.as_slice()?.iter().map(|v| *v as usize).collect();
        let found = py.detach(|| sample::neighbourhood(&self.0, &seeds, &fanouts, seed));
        PyTuple::new(
            py,
            [found.nodes, found.source, found.target, found.hop].map(|x| flat(py, x)),
        )
    }

    /// Weighted sums of rows of x (n, width) along the edges, or `back` along them; flat. Weights by edge number.
    fn sum<'py>(
        &self,
        py: Python<'py>,
        weight: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        back: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        if single(x) {
            self.sum_of::<f32>(py, weight, x, back)
        } else {
            self.sum_of::<f64>(py, weight, x, back)
        }
    }

    /// Largest of the sources' rows of x (n, width), column by column; flat.
    fn largest<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if single(x) {
            self.largest_of::<f32>(py, x)
        } else {
            self.largest_of::<f64>(py, x)
        }
    }

    /// Gradient of x for `largest`, whose result is `top`; flat.
    fn largest_vjp<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        top: &Bound<'py, PyAny>,
        dout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if single(x) {
            self.largest_vjp_of::<f32>(py, x, top, dout)
        } else {
            self.largest_vjp_of::<f64>(py, x, top, dout)
        }
    }

    /// For each edge the inner product of `a` at its target and `b` at its source.
    fn inner_products<'py>(
        &self,
        py: Python<'py>,
        a: &Bound<'py, PyAny>,
        b: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if single(a) {
            self.inner_products_of::<f32>(py, a, b)
        } else {
            self.inner_products_of::<f64>(py, a, b)
        }
    }

    /// Graph attention: flat output and weights by place. `x`: (features (n, heads·width), source logits, target logits), or
    /// with `dynamic` (left, right (n, heads·width), score (heads·width)).
    fn attend<'py>(
        &self,
        py: Python<'py>,
        x: [Bound<'py, PyAny>; 3],
        heads: usize,
        slope: f64,
        dynamic: bool,
    ) -> PyResult<Pair<'py>> {
        if single(&x[0]) {
            self.attend_of::<f32>(py, &x, heads, slope, dynamic)
        } else {
            self.attend_of::<f64>(py, &x, heads, slope, dynamic)
        }
    }

    /// Gradients of the three arrays of `attend`, flat, from its weights by place and ∂L/∂output.
    #[allow(clippy::too_many_arguments, reason = "operands, shape, weights, gradient")]
    fn attend_vjp<'py>(
        &self,
        py: Python<'py>,
        x: [Bound<'py, PyAny>; 3],
        heads: usize,
        slope: f64,
        dynamic: bool,
        alpha: &Bound<'py, PyAny>,
        dout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        if single(&x[0]) {
            self.attend_vjp_of::<f32>(py, &x, heads, slope, dynamic, alpha, dout)
        } else {
            self.attend_vjp_of::<f64>(py, &x, heads, slope, dynamic, alpha, dout)
        }
    }
}

/// The three arrays of `attend`, borrowed from numpy.
struct Arrays<'py, T: numpy::Element>([Operand<'py, T>; 3]);

impl<'py, T: Float> Arrays<'py, T> {
    fn new(x: &[Bound<'py, PyAny>; 3]) -> PyResult<Self> {
        Ok(Self([
            Operand::new(&x[0])?,
            Operand::new(&x[1])?,
            Operand::new(&x[2])?,
        ]))
    }

    fn shape(&self, heads: usize, slope: f64) -> Shape<T> {
        Shape {
            heads,
            width: self.0[0].axis(0) / heads,
            slope: T::of(slope),
        }
    }
}

impl GraphEdges {
    fn sum_of<'py, T: Float>(
        &self,
        py: Python<'py>,
        weight: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        back: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (weight, x) = (Operand::<T>::new(weight)?, Operand::<T>::new(x)?);
        let width = x.axis(0);
        let detach = self.detach(width);
        let (w, values) = (weight.take(detach)?, x.take(detach)?);
        let along = if back { Along::Back } else { Along::Edges };
        let out = run(py, detach, || {
            let mut out = vec![T::ZERO; values.len()];
            gather::sum(&self.0, &w, &values, width, along, &mut out);
            out
        });
        Ok(flat(py, out))
    }

    fn largest_of<'py, T: Float>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let x = Operand::<T>::new(x)?;
        let width = x.axis(0);
        let detach = self.detach(width);
        let values = x.take(detach)?;
        let out = run(py, detach, || {
            let mut out = vec![T::ZERO; values.len()];
            gather::largest(&self.0, &values, width, &mut out);
            out
        });
        Ok(flat(py, out))
    }

    fn largest_vjp_of<'py, T: Float>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        top: &Bound<'py, PyAny>,
        dout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (x, top, dout) = (
            Operand::<T>::new(x)?,
            Operand::<T>::new(top)?,
            Operand::<T>::new(dout)?,
        );
        let width = x.axis(0);
        let detach = self.detach(width);
        let (x, top, dout) = (x.take(detach)?, top.take(detach)?, dout.take(detach)?);
        let dx = run(py, detach, || {
            gather::largest_vjp(&self.0, &x, &top, &dout, width)
        });
        Ok(flat(py, dx))
    }

    fn inner_products_of<'py, T: Float>(
        &self,
        py: Python<'py>,
        a: &Bound<'py, PyAny>,
        b: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (a, b) = (Operand::<T>::new(a)?, Operand::<T>::new(b)?);
        let width = a.axis(0);
        let detach = self.detach(width);
        let (left, right) = (a.take(detach)?, b.take(detach)?);
        let out = run(py, detach, || {
            gather::inner_products(&self.0, &left, &right, width)
        });
        Ok(flat(py, out))
    }

    fn detach(&self, shape: usize) -> bool {
        self.0.edges() * shape >= DETACH_FROM
    }

    fn attend_of<'py, T: Float>(
        &self,
        py: Python<'py>,
        x: &[Bound<'py, PyAny>; 3],
        heads: usize,
        slope: f64,
        dynamic: bool,
    ) -> PyResult<Pair<'py>> {
        let arrays = Arrays::<T>::new(x)?;
        let shape = arrays.shape(heads, slope);
        let detach = self.detach(heads * shape.width);
        let [a, b, c] = [
            arrays.0[0].take(detach)?,
            arrays.0[1].take(detach)?,
            arrays.0[2].take(detach)?,
        ];
        let (out, alpha) = run(py, detach, || {
            let mut out = vec![T::ZERO; a.len()];
            let mut alpha = vec![T::ZERO; self.0.edges() * heads];
            if dynamic {
                let x = gatv2::Inputs {
                    left: &a,
                    right: &b,
                    att: &c,
                };
                gatv2::forward(&self.0, x, shape, &mut out, &mut alpha);
            } else {
                let x = gat::Inputs {
                    h: &a,
                    source: &b,
                    target: &c,
                };
                gat::forward(&self.0, x, shape, &mut out, &mut alpha);
            }
            (out, alpha)
        });
        Ok((flat(py, out), flat(py, alpha)))
    }

    #[allow(clippy::too_many_arguments, reason = "the arguments of `attend_vjp`")]
    fn attend_vjp_of<'py, T: Float>(
        &self,
        py: Python<'py>,
        x: &[Bound<'py, PyAny>; 3],
        heads: usize,
        slope: f64,
        dynamic: bool,
        alpha: &Bound<'py, PyAny>,
        dout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let arrays = Arrays::<T>::new(x)?;
        let shape = arrays.shape(heads, slope);
        let detach = self.detach(heads * shape.width);
        let (alpha, dout) = (Operand::<T>::new(alpha)?, Operand::<T>::new(dout)?);
        let (alpha, dout) = (alpha.take(detach)?, dout.take(detach)?);
        let [a, b, c] = [
            arrays.0[0].take(detach)?,
            arrays.0[1].take(detach)?,
            arrays.0[2].take(detach)?,
        ];
        let grads = run(py, detach, || {
            if dynamic {
                let x = gatv2::Inputs {
                    left: &a,
                    right: &b,
                    att: &c,
                };
                let g = gatv2::backward(&self.0, x, shape, &alpha, &dout);
                [g.left, g.right, g.att]
            } else {
                let x = gat::Inputs {
                    h: &a,
                    source: &b,
                    target: &c,
                };
                let g = gat::backward(&self.0, x, shape, &alpha, &dout);
                [g.h, g.source, g.target]
            }
        });
        PyTuple::new(py, grads.map(|g| PyArray1::from_vec(py, g)))
    }
}
