//! `MicroLoRA`.

use super::calls::with_signal;
use super::report::PyApplyReport;
use super::{seed, size};
use crate::arrays::{Rows, matrix, metrics_dict, to_matrix};
use crate::errors::IntoPy;
use crate::state::{State, state_methods};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Result;
use sona_core::error::check_dim;
use sona_core::lora::{MicroConfig, MicroLora, Rule, SharedMicroLora};
use std::sync::Arc;

/// Low-rank adapter that changes the query vector within the same request: y = x + scale · B (A x).
///
/// Untrained, it is the identity bit for bit. It learns by exact gradients of both factors, an optimiser step on the mean
/// of the accumulated signals, decoupled weight decay, and a trust region: over the last 256 queries, learning moves no
/// output by more than ``trust_region`` of the query's length (measured from the identity, or from the factors last
/// given to :meth:`set_factors`); beyond that the adapter is scaled back. Safe to share between threads: ``forward``
/// reads a published snapshot and never waits for a writer; writers take turns.
///
/// Parameters
/// ----------
/// hidden_dim : int
///     Length d of the vectors.
/// rank : int, default 2
///     1 or 2.
/// scale : float, optional
///     Factor of the low-rank term; default 1/sqrt(rank).
/// learning_rate : float, default 0.002
///     Step size; with "adamw" about the change of each weight per step.
/// optimizer : {"adamw", "adagrad", "sgd"}, default "adamw"
///     betas (0.9, 0.999) and eps 1e-8; eps 1e-10; no momentum.
/// weight_decay : float, default 1e-4
///     Decoupled: each step multiplies the factors by 1 - learning_rate * weight_decay.
/// clip_norm : float or None, default 1.0
///     Joint bound of the length of the mean gradient of A and B.
/// trust_region : float or None, default 0.1
///     Largest share of a query's length by which learning may move its output.
/// seed : int, default 0
///     Seed of A, drawn from N(0, 1/d); B starts at zero.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// References
/// ----------
/// Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3; Loshchilov & Hutter 2019, "Decoupled
/// Weight Decay Regularization", algorithm 2.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.lora import MicroLoRA
/// >>> from sona.trajectory import LearningSignal
/// >>> lora = MicroLoRA(4)
/// >>> x = np.array([1, 0, 0, 0], np.float32)
/// >>> lora.forward(x)
/// array([1., 0., 0., 0.], dtype=float32)
/// >>> wanted, other = [0, 1, 0, 0], [0, 0, 1, 0]
/// >>> signal = LearningSignal.from_ranking(x, positives=wanted, negatives=[other])
/// >>> lora.accumulate_gradient(signal)
/// True
/// >>> lora.apply_accumulated().applied
/// True
/// >>> y = lora.forward(x)
/// >>> bool(y[1] > 0 > y[2])
/// True
#[pyclass(name = "MicroLoRA", module = "sona.lora", frozen)]
pub(crate) struct PyMicroLora {
    pub(crate) shared: Arc<SharedMicroLora>,
}

#[pymethods]
impl PyMicroLora {
    #[new]
    #[pyo3(signature = (hidden_dim, rank=2, *, scale=None, learning_rate=0.002, optimizer="adamw", weight_decay=1e-4,
                        clip_norm=Some(1.0), trust_region=Some(0.1), seed=0))]
    #[pyo3(
        text_signature = "(hidden_dim, rank=2, *, scale=None, learning_rate=0.002, optimizer='adamw', \
                             weight_decay=0.0001, clip_norm=1.0, trust_region=0.1, seed=0)"
    )]
    #[allow(clippy::too_many_arguments, reason = "the public constructor")]
    fn new(
        hidden_dim: i64,
        rank: i64,
        scale: Option<f32>,
        learning_rate: f64,
        optimizer: &str,
        weight_decay: f64,
        clip_norm: Option<f64>,
        trust_region: Option<f64>,
        seed: i128,
    ) -> PyResult<Self> {
        let config = MicroConfig {
            hidden_dim: size("hidden_dim", hidden_dim)?,
            rank: size("rank", rank)?,
            scale,
            learning_rate,
            rule: Rule::parse(optimizer).py()?,
            weight_decay,
            clip_norm,
            trust_region,
            seed: self::seed(seed)?,
        };
        Ok(Self {
            shared: Arc::new(SharedMicroLora::new(MicroLora::new(config).py()?)),
        })
    }

    /// The adapted vector(s) y = x + scale · B (A x); O(rank · d) each, no allocation with ``out``.
    ///
    /// Parameters
    /// ----------
    /// x : (d,) or (n, d) float32
    ///     Finite.
    /// out : float32 array of x's shape, optional
    ///     C-contiguous and writeable; written and returned. May be ``x`` itself. After an error in a batch its values
    ///     are unspecified.
    ///
    /// Returns
    /// -------
    /// (d,) or (n, d) float32
    ///     ``out`` if given. While nothing was learned, ``x`` bit for bit.
    ///
    /// Raises
    /// ------
    /// NotFiniteError, DimensionMismatch, ShapeError
    #[pyo3(signature = (x, out=None))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.map(py, x, out, false)
    }

    /// What the adapter adds, y - x = scale · B (A x). Arguments as in ``forward``.
    #[pyo3(signature = (x, out=None))]
    fn delta<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.map(py, x, out, true)
    }

    /// Exact chain rule: the gradients (dA, dB, dx) for the descent gradient ``grad_y`` = ∂L/∂y.
    ///
    /// Parameters
    /// ----------
    /// x, grad_y : (d,) or (n, d) float32
    ///     Inputs and the loss gradients at their outputs, of one shape.
    ///
    /// Returns
    /// -------
    /// dA : (rank, d), dB : (d, rank)
    ///     Summed over rows: s·(Bᵀg)xᵀ and s·g(Ax)ᵀ.
    /// dx : like x
    ///     g + s·Aᵀ(Bᵀg).
    #[allow(clippy::type_complexity, reason = "three arrays")]
    fn gradients<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        grad_y: &Bound<'py, PyAny>,
    ) -> PyResult<(
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyAny>,
    )> {
        let f = self.shared.snapshot();
        let (d, r) = (f.dim(), f.rank());
        let x = Rows::extract("x", x, d)?;
        let g = Rows::extract("grad_y", grad_y, d)?;
        let (da, db, dx) = py.detach(|| f.gradients(&x.data, &g.data)).py()?;
        Ok((
            to_matrix(py, da, r, d)?,
            to_matrix(py, db, d, r)?,
            Rows::emit(py, dx, d, x.batched)?,
        ))
    }

    /// Add the descent gradient -weight · gradient_estimate of a signal to what is pending; O(rank · d).
    ///
    /// Parameters
    /// ----------
    /// signal : LearningSignal
    ///     Of this adapter's dimension.
    ///
    /// Returns
    /// -------
    /// bool
    ///     False if the signal has no effect (zero weight, gradient or query); it is counted in ``metrics()``.
    fn accumulate_gradient(&self, signal: &Bound<'_, PyAny>) -> PyResult<bool> {
        with_signal(signal, |x, g, weight| self.shared.accumulate_parts(x, g, weight))
    }

    /// ``accumulate_gradient`` and ``apply_accumulated`` in one call: learn from a signal at once; O(rank · d).
    ///
    /// Parameters
    /// ----------
    /// signal : LearningSignal
    ///     Of this adapter's dimension. What is already pending goes into the same mean.
    /// learning_rate : float, optional
    ///     Instead of the configured one.
    ///
    /// Returns
    /// -------
    /// ApplyReport
    ///     ``applied`` is false if the signal has no effect and nothing was pending.
    #[pyo3(signature = (signal, learning_rate=None))]
    fn learn(&self, signal: &Bound<'_, PyAny>, learning_rate: Option<f64>) -> PyResult<PyApplyReport> {
        let report = with_signal(signal, |x, g, weight| {
            self.shared.learn_parts(x, g, weight, learning_rate)
        })?;
        Ok(report.into())
    }

    /// One optimiser step with the mean of the pending gradients: clip, step, decay, trust region.
    ///
    /// Parameters
    /// ----------
    /// learning_rate : float, optional
    ///     Instead of the configured one.
    ///
    /// Returns
    /// -------
    /// ApplyReport
    ///     ``applied`` is false if nothing was pending.
    #[pyo3(signature = (learning_rate=None))]
    fn apply_accumulated(&self, learning_rate: Option<f64>) -> PyResult<PyApplyReport> {
        Ok(self.shared.apply(learning_rate).py()?.into())
    }

    /// Drop the pending gradients.
    fn reset(&self) {
        self.shared.discard();
    }

    /// Replace both factors: the optimiser starts afresh, what is pending is dropped, the trust region starts here.
    ///
    /// Parameters
    /// ----------
    /// A : (rank, d) float32
    /// B : (d, rank) float32
    #[pyo3(signature = (A, B))]
    #[allow(non_snake_case, reason = "the public names of the factors")]
    fn set_factors(&self, A: &Bound<'_, PyAny>, B: &Bound<'_, PyAny>) -> PyResult<()> {
        let f = self.shared.snapshot();
        let (a, rank, _) = matrix("A", A, Some(f.dim()))?;
        check_dim("A", f.rank(), rank).py()?;
        let (b, d, _) = matrix("B", B, Some(f.rank()))?;
        check_dim("B", f.dim(), d).py()?;
        self.shared.write(|l| l.set_factors(a, b)).py()
    }

    /// Copy of A, (rank, d).
    #[getter(A)]
    fn a<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let f = self.shared.snapshot();
        to_matrix(py, f.a().to_vec(), f.rank(), f.dim())
    }

    /// Copy of B, (d, rank).
    #[getter(B)]
    fn b<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let f = self.shared.snapshot();
        to_matrix(py, f.b().to_vec(), f.dim(), f.rank())
    }

    /// Rank of the factors.
    #[getter]
    fn rank(&self) -> usize {
        self.shared.factors().rank()
    }

    /// Length of the vectors.
    #[getter]
    fn hidden_dim(&self) -> usize {
        self.shared.factors().dim()
    }

    /// Number of weights, 2 · rank · d.
    #[getter]
    fn param_count(&self) -> usize {
        let f = self.shared.factors();
        2 * f.rank() * f.dim()
    }

    /// Signals that wait for ``apply_accumulated``.
    #[getter]
    fn pending(&self) -> usize {
        self.shared.read(MicroLora::pending)
    }

    /// Factor of the low-rank term.
    #[getter]
    fn scale(&self) -> f32 {
        self.shared.factors().scale()
    }

    #[setter]
    fn set_scale(&self, value: f32) -> PyResult<()> {
        self.shared.write(|l| l.set_scale(value)).py()
    }

    /// Bytes held: factors, optimiser, pending gradients, queries of the trust region.
    #[getter]
    fn nbytes(&self) -> usize {
        self.shared.read(MicroLora::nbytes)
    }

    /// Counters: what was accumulated, skipped (and why), applied, clipped and scaled back.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.shared.read(MicroLora::metrics))
    }

    fn __repr__(&self) -> String {
        self.shared.read(|l| {
            format!(
                "MicroLoRA(hidden_dim={}, rank={}, optimizer='{}', pending={})",
                l.factors().dim(),
                l.factors().rank(),
                l.config().rule.name(),
                l.pending()
            )
        })
    }
}

impl State for PyMicroLora {
    fn encode(&self) -> Result<Vec<u8>> {
        self.shared.read(MicroLora::clone).to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(SharedMicroLora::new(MicroLora::from_bytes(data)?)),
        })
    }
}

state_methods!(PyMicroLora);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyMicroLora>()
}
