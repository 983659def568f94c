//! `BaseLoRA`.

use super::PyMicroLora;
use super::{seed, size};
use crate::arrays::{Rows, detached, matrix, metrics_dict, to_matrix};
use crate::errors::IntoPy;
use crate::state::{State, state_methods};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use sona_core::Error;
use sona_core::Result;
use sona_core::error::check_dim;
use sona_core::lora::{BaseConfig, BaseLora, Batch, Rule, SharedBaseLora};
use sona_core::store::atomic;
use std::path::PathBuf;

/// Low-rank adapter per layer, trained in the background and exportable: y = x + (alpha/rank) · B (A x).
///
/// Untrained, every layer is the identity bit for bit. Safe to share between threads: ``forward_layer`` reads a
/// published snapshot and never waits for a writer; writers take turns, without holding up other Python threads.
///
/// Parameters
/// ----------
/// hidden_dim : int
///     Length d of the vectors.
/// rank : int, default 8
/// num_layers : int, default 1
/// alpha : float, optional
///     Default: ``rank``, that is a scale of 1.
/// use_rslora : bool, default False
///     Scale alpha/sqrt(rank) instead of alpha/rank.
/// learning_rate : float, default 1e-4
/// optimizer : {"adamw", "adagrad", "sgd"}, default "adamw"
/// weight_decay : float, default 1e-4
///     Decoupled.
/// seed : int, default 0
///     Seed of the A's, uniform in ±1/sqrt(d); the B's start at zero.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// References
/// ----------
/// Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; Kalajdzievski 2023, "A Rank Stabilization
/// Scaling Factor for Fine-Tuning with LoRA"; van den Oord et al. 2018, eq. 4 (training loss).
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.lora import BaseLoRA
/// >>> rng = np.random.default_rng(0)
/// >>> queries, answers = rng.normal(size=(2, 8, 16)).astype(np.float32)
/// >>> lora = BaseLoRA(16, rank=4, learning_rate=0.01)
/// >>> losses = [lora.train_step(0, queries, answers, temperature=0.1) for _ in range(50)]
/// >>> losses[-1] < losses[0]
/// True
#[pyclass(name = "BaseLoRA", module = "sona.lora", frozen)]
pub(crate) struct PyBaseLora {
    pub(super) shared: SharedBaseLora,
}

#[pymethods]
impl PyBaseLora {
    #[new]
    #[pyo3(signature = (hidden_dim, rank=8, num_layers=1, *, alpha=None, use_rslora=false, learning_rate=1e-4,
                        optimizer="adamw", weight_decay=1e-4, seed=0))]
    #[pyo3(
        text_signature = "(hidden_dim, rank=8, num_layers=1, *, alpha=None, use_rslora=False, \
                             learning_rate=0.0001, optimizer='adamw', weight_decay=0.0001, seed=0)"
    )]
    #[allow(clippy::too_many_arguments, reason = "the public constructor")]
    fn new(
        hidden_dim: i64,
        rank: i64,
        num_layers: i64,
        alpha: Option<f64>,
        use_rslora: bool,
        learning_rate: f64,
        optimizer: &str,
        weight_decay: f64,
        seed: i128,
    ) -> PyResult<Self> {
        let config = BaseConfig {
            hidden_dim: size("hidden_dim", hidden_dim)?,
            rank: size("rank", rank)?,
            num_layers: size("num_layers", num_layers)?,
            alpha,
            use_rslora,
            learning_rate,
            rule: Rule::parse(optimizer).py()?,
            weight_decay,
            seed: self::seed(seed)?,
        };
        Ok(Self {
            shared: SharedBaseLora::new(BaseLora::new(config).py()?).py()?,
        })
    }

    /// The adapted vector(s) of one layer; O(rank · d) each.
    ///
    /// Parameters
    /// ----------
    /// layer_idx : int
    /// x : (d,) or (n, d) float32
    ///
    /// Returns
    /// -------
    /// (d,) or (n, d) float32
    fn forward_layer<'py>(
        &self,
        py: Python<'py>,
        layer_idx: i64,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.forward(py, layer_idx, x)
    }

    /// Exact chain rule of one layer: (dA, dB, dx) for the descent gradient ``grad_y`` = ∂L/∂y, summed over rows.
    ///
    /// Parameters
    /// ----------
    /// layer_idx : int
    /// x, grad_y : (d,) or (n, d) float32
    ///
    /// Returns
    /// -------
    /// dA : (rank, d), dB : (d, rank), dx : like x
    #[allow(clippy::type_complexity, reason = "three arrays")]
    fn gradients<'py>(
        &self,
        py: Python<'py>,
        layer_idx: i64,
        x: &Bound<'py, PyAny>,
        grad_y: &Bound<'py, PyAny>,
    ) -> PyResult<(
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyArray2<f32>>,
        Bound<'py, PyAny>,
    )> {
        let (_, f) = self.layer(layer_idx)?;
        let (d, r) = (f.dim(), f.rank());
        let x = Rows::extract("x", x, d)?;
        let g = Rows::extract("grad_y", grad_y, d)?;
        let (da, db, dx) = detached(py, || f.gradients(&x.data, &g.data))?;
        Ok((
            to_matrix(py, da, r, d)?,
            to_matrix(py, db, d, r)?,
            Rows::emit(py, dx, d, x.batched)?,
        ))
    }

    /// Copies of A (rank, d) and B (d, rank) of one layer.
    #[allow(clippy::type_complexity, reason = "two arrays")]
    fn factors<'py>(
        &self,
        py: Python<'py>,
        layer_idx: i64,
    ) -> PyResult<(Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>)> {
        let (_, f) = self.layer(layer_idx)?;
        Ok((
            to_matrix(py, f.a().to_vec(), f.rank(), f.dim())?,
            to_matrix(py, f.b().to_vec(), f.dim(), f.rank())?,
        ))
    }

    /// Replace both factors of one layer; its optimiser starts afresh.
    ///
    /// Parameters
    /// ----------
    /// layer_idx : int
    /// A : (rank, d) float32
    /// B : (d, rank) float32
    #[pyo3(signature = (layer_idx, A, B))]
    #[allow(non_snake_case, reason = "the public names of the factors")]
    fn set_factors(
        &self,
        py: Python<'_>,
        layer_idx: i64,
        A: &Bound<'_, PyAny>,
        B: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (layer, f) = self.layer(layer_idx)?;
        let (a, rank, _) = matrix("A", A, Some(f.dim()))?;
        check_dim("A", f.rank(), rank).py()?;
        let (b, d, _) = matrix("B", B, Some(f.rank()))?;
        check_dim("B", f.dim(), d).py()?;
        self.write(py, |l| l.set_factors(layer, a, b))
    }

    /// One optimiser step of one layer on the mean in-batch InfoNCE loss; O(n² · d).
    ///
    /// Each query's output shall pick its own positive, by cosine, among the positives of all rows and the negatives.
    ///
    /// Parameters
    /// ----------
    /// layer_idx : int
    /// queries, positives : (n, d) float32
    ///     Row i of one belongs to row i of the other.
    /// negatives : (m, d) float32, optional
    ///     More rows that nobody shall pick.
    /// temperature : float, default 0.05
    /// ewc : object, optional
    ///     With ``proximal_step(theta, lr) -> theta``; called after the optimiser's step with A and B of the layer as one
    ///     float32 vector (A first, row-major). No lock is held meanwhile.
    /// learning_rate : float, optional
    ///     Instead of the configured one.
    ///
    /// Returns
    /// -------
    /// float
    ///     The loss before the step; 0.0, and no step, without a contrast (no rows, or one row and no negatives).
    #[pyo3(signature = (layer_idx, queries, positives, *, negatives=None, temperature=0.05, ewc=None, learning_rate=None))]
    #[allow(clippy::too_many_arguments, reason = "the public method")]
    fn train_step(
        &self,
        py: Python<'_>,
        layer_idx: i64,
        queries: &Bound<'_, PyAny>,
        positives: &Bound<'_, PyAny>,
        negatives: Option<&Bound<'_, PyAny>>,
        temperature: f64,
        ewc: Option<&Bound<'_, PyAny>>,
        learning_rate: Option<f64>,
    ) -> PyResult<f64> {
        let (layer, f) = self.layer(layer_idx)?;
        let (q, n, _) = matrix("queries", queries, Some(f.dim()))?;
        let (p, m, _) = matrix("positives", positives, Some(f.dim()))?;
        check_dim("positives", n, m).py()?;
        let neg = match negatives {
            Some(x) => matrix("negatives", x, Some(f.dim()))?.0,
            None => Vec::new(),
        };
        let (loss, theta, lr) = self.write(py, |l| {
            let batch = Batch {
                queries: &q,
                starts: &q,
                positives: &p,
                negatives: &neg,
                temperature,
            };
            let loss = l.train_step(layer, &batch, learning_rate)?;
            Ok((
                loss,
                l.theta(layer)?,
                learning_rate.unwrap_or(l.config().learning_rate),
            ))
        })?;
        if let Some(ewc) = ewc {
            self.pull(py, layer, ewc, &theta, lr)?;
        }
        Ok(loss)
    }

    /// The gradient of each row's own InfoNCE loss with respect to all parameters of one layer; O(n · (n + rank) · d).
    ///
    /// What Fisher information is made of (``EwcPlusPlus.update_fisher``, ``estimate_fisher``): the squares of these rows,
    /// not of their mean. Nothing is trained.
    ///
    /// Parameters
    /// ----------
    /// layer_idx : int
    /// queries, positives : (n, d) float32
    /// negatives : (m, d) float32, optional
    /// temperature : float, default 0.05
    ///     All as in ``train_step``.
    ///
    /// Returns
    /// -------
    /// (n, 2 · rank · d) float32
    ///     A first, then B, row-major: the order of ``theta`` in ``train_step``. Zeros without a contrast.
    #[pyo3(signature = (layer_idx, queries, positives, *, negatives=None, temperature=0.05))]
    fn sample_gradients<'py>(
        &self,
        py: Python<'py>,
        layer_idx: i64,
        queries: &Bound<'_, PyAny>,
        positives: &Bound<'_, PyAny>,
        negatives: Option<&Bound<'_, PyAny>>,
        temperature: f64,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (layer, f) = self.layer(layer_idx)?;
        let (q, n, _) = matrix("queries", queries, Some(f.dim()))?;
        let (p, m, _) = matrix("positives", positives, Some(f.dim()))?;
        check_dim("positives", n, m).py()?;
        let neg = match negatives {
            Some(x) => matrix("negatives", x, Some(f.dim()))?.0,
            None => Vec::new(),
        };
        let batch = Batch {
            queries: &q,
            starts: &q,
            positives: &p,
            negatives: &neg,
            temperature,
        };
        let rows = self.read(py, |l| l.sample_gradients(layer, &batch)).py()?;
        to_matrix(py, rows, n, 2 * f.rank() * f.dim())
    }

    /// W + (alpha/rank) · B A of one layer, a new array: the merged weight acts as W after the adapter's delta.
    ///
    /// Parameters
    /// ----------
    /// W : (d, d) float32
    /// layer_idx : int
    ///
    /// Returns
    /// -------
    /// (d, d) float32
    #[pyo3(signature = (W, layer_idx))]
    #[allow(non_snake_case, reason = "the public name")]
    fn merge_weights<'py>(
        &self,
        py: Python<'py>,
        W: &Bound<'py, PyAny>,
        layer_idx: i64,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (layer, f) = self.layer(layer_idx)?;
        let (w, rows, _) = matrix("W", W, Some(f.dim()))?;
        check_dim("W", f.dim(), rows).py()?;
        let merged = self.read(py, |l| l.merge_weights(&w, layer)).py()?;
        to_matrix(py, merged, f.dim(), f.dim())
    }

    /// (alpha/rank) · B A of one layer, (d, d).
    fn delta_weight<'py>(&self, py: Python<'py>, layer_idx: i64) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (layer, f) = self.layer(layer_idx)?;
        let delta = self.read(py, |l| l.delta_weight(layer)).py()?;
        to_matrix(py, delta, f.dim(), f.dim())
    }

    /// Take a fast adapter's delta into one layer: the best approximation of this rank (SVD) of the sum of both deltas.
    ///
    /// O(d · (rank + micro.rank)²). The layer's optimiser starts afresh; the fast adapter is left as it is.
    ///
    /// Parameters
    /// ----------
    /// layer_idx : int
    /// micro : MicroLoRA
    ///
    /// Returns
    /// -------
    /// float
    ///     Relative error in the Frobenius norm; 0.0 where the rank suffices.
    fn merge_micro(&self, py: Python<'_>, layer_idx: i64, micro: &Bound<'_, PyMicroLora>) -> PyResult<f64> {
        let (layer, _) = self.layer(layer_idx)?;
        let other = micro.get().shared.snapshot();
        self.write(py, |l| l.merge_factors(layer, &other))
    }

    /// Rank of the factors.
    #[getter]
    fn rank(&self, py: Python<'_>) -> usize {
        self.read(py, |l| l.config().rank)
    }

    /// Number of layers.
    #[getter]
    fn num_layers(&self) -> usize {
        self.shared.num_layers()
    }

    /// Length of the vectors.
    #[getter]
    fn hidden_dim(&self, py: Python<'_>) -> usize {
        self.read(py, |l| l.config().hidden_dim)
    }

    /// Number of weights, 2 · rank · d · num_layers.
    #[getter]
    fn param_count(&self, py: Python<'_>) -> usize {
        self.read(py, |l| {
            let c = l.config();
            2 * c.rank * c.hidden_dim * c.num_layers
        })
    }

    /// The scale is alpha/rank, or alpha/sqrt(rank).
    #[getter]
    fn alpha(&self, py: Python<'_>) -> f64 {
        self.read(py, BaseLora::alpha)
    }

    #[setter]
    fn set_alpha(&self, py: Python<'_>, value: f64) -> PyResult<()> {
        self.write(py, |l| l.set_alpha(value))
    }

    /// Bytes held: factors and optimisers.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> usize {
        self.read(py, BaseLora::nbytes)
    }

    /// Write the whole state to a file; the file is replaced whole and durably.
    ///
    /// Parameters
    /// ----------
    /// path : path-like
    ///
    /// Raises
    /// ------
    /// StoreError
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        detached(py, || {
            let bytes = self.shared.read(BaseLora::to_bytes)?;
            atomic::replace(&path, |w| {
                w.write_all(&bytes).map_err(|e| Error::store("write", &path, e))
            })
        })
    }

    /// Read a file that ``save`` wrote; damaged or foreign files raise ``CorruptStateError``.
    ///
    /// Parameters
    /// ----------
    /// path : path-like
    ///
    /// Returns
    /// -------
    /// BaseLoRA
    ///
    /// Raises
    /// ------
    /// StoreError, CorruptStateError
    #[classmethod]
    fn load(cls: &Bound<'_, PyType>, path: PathBuf) -> PyResult<Self> {
        let shared = detached(cls.py(), || {
            let bytes = std::fs::read(&path).map_err(|e| Error::store("read", &path, e))?;
            SharedBaseLora::new(BaseLora::from_bytes(&bytes)?)
        })?;
        Ok(Self { shared })
    }

    /// Counters: steps, rows, what was skipped, merges.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.read(py, BaseLora::metrics))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.read(py, |l| {
            let c = l.config();
            format!(
                "BaseLoRA(hidden_dim={}, rank={}, num_layers={}, alpha={:?}, optimizer='{}')",
                c.hidden_dim,
                c.rank,
                c.num_layers,
                l.alpha(),
                c.rule.name()
            )
        })
    }
}

impl State for PyBaseLora {
    fn encode(&self) -> Result<Vec<u8>> {
        self.shared.read(BaseLora::to_bytes)
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            shared: SharedBaseLora::new(BaseLora::from_bytes(data)?)?,
        })
    }
}

state_methods!(PyBaseLora);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBaseLora>()
}
