//! The FastGRNN cell.

use crate::arrays::{asarray, detached, matrix, metrics_dict, to_matrix, vector, whole};
use crate::errors::{IntoPy, to_py};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::Error;
use sona_core::error::check_dim;
use sona_core::routing::{FastGrnn, FitOptions, RowScorer};
use std::sync::Arc;

/// State of `sona.routing.FastGRNN`.
#[pyclass(name = "GrnnCell", module = "sona._core", frozen)]
struct PyCell {
    cell: Mutex<FastGrnn>,
    /// Made when rows are scored, dropped when the weights change.
    scorer: Mutex<Option<Arc<RowScorer>>>,
}

impl From<FastGrnn> for PyCell {
    fn from(cell: FastGrnn) -> Self {
        Self {
            cell: Mutex::new(cell),
            scorer: Mutex::new(None),
        }
    }
}

impl PyCell {
    fn replace(&self, cell: FastGrnn) {
        let mut held = self.cell.lock();
        *held = cell;
        *self.scorer.lock() = None;
    }

    fn scorer(&self) -> PyResult<Arc<RowScorer>> {
        let held = self.cell.lock();
        let mut scorer = self.scorer.lock();
        if let Some(scorer) = &*scorer {
            return Ok(scorer.clone());
        }
        let fresh = Arc::new(held.row_scorer().py()?);
        *scorer = Some(fresh.clone());
        Ok(fresh)
    }
}

#[pymethods]
impl PyCell {
    #[new]
    #[pyo3(signature = (n_in, n_hidden, *, rank_w, rank_u, zeta, nu, seed))]
    fn new(
        n_in: i128,
        n_hidden: i128,
        rank_w: Option<i128>,
        rank_u: Option<i128>,
        zeta: f64,
        nu: f64,
        seed: i128,
    ) -> PyResult<Self> {
        let n_in: usize = whole("n_in", n_in)?;
        let n_hidden: usize = whole("n_hidden", n_hidden)?;
        let rank_w: Option<usize> = rank_w.map(|v| whole("rank_w", v)).transpose()?;
        let rank_u: Option<usize> = rank_u.map(|v| whole("rank_u", v)).transpose()?;
        let seed: u64 = whole("seed", seed)?;
        Ok(FastGrnn::new(n_in, n_hidden, rank_w, rank_u, (zeta, nu), seed)
            .py()?
            .into())
    }

    /// (n_in, n_hidden, rank_w, rank_u, zeta, nu, outputs, quantised, param_count).
    #[getter]
    #[allow(clippy::type_complexity, reason = "a plain tuple for the Python layer")]
    fn shape(
        &self,
    ) -> (
        usize,
        usize,
        Option<usize>,
        Option<usize>,
        f64,
        f64,
        usize,
        bool,
        usize,
    ) {
        let c = self.cell.lock();
        let ((n, h), (rw, ru), (zeta, nu)) = (c.shape(), c.ranks(), c.gates());
        (
            n,
            h,
            rw,
            ru,
            zeta,
            nu,
            c.outputs(),
            c.is_quantized(),
            c.param_count(),
        )
    }

    /// Replaces the weights; each matrix as its one or two factors.
    fn set_weights(
        &self,
        w: Vec<Bound<'_, PyAny>>,
        u: Vec<Bound<'_, PyAny>>,
        bias_gate: &Bound<'_, PyAny>,
        bias_update: &Bound<'_, PyAny>,
        zeta: Option<f64>,
        nu: Option<f64>,
    ) -> PyResult<()> {
        let factors = |name, parts: Vec<Bound<'_, PyAny>>| -> PyResult<Vec<Vec<f32>>> {
            parts.iter().map(|p| Ok(matrix(name, p, None)?.0)).collect()
        };
        let (w, u) = (factors("W", w)?, factors("U", u)?);
        let bias_gate = vector("bias_gate", bias_gate, None)?;
        let bias_update = vector("bias_update", bias_update, None)?;
        let mut cell = self.cell.lock().clone();
        cell.set_weights(w, u, bias_gate, bias_update, (zeta, nu)).py()?;
        self.replace(cell);
        Ok(())
    }

    /// Hidden states over a sequence.
    #[pyo3(signature = (x, h=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        h: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (n_in, n_hidden) = self.cell.lock().shape();
        let (x, n, _) = matrix("X", x, Some(n_in))?;
        let h = h.map(|h| vector("h", h, Some(n_hidden))).transpose()?;
        let cell = self.cell.lock().clone();
        let out = detached(py, || cell.run(&x, h.as_deref()))?;
        to_matrix(py, out, n, n_hidden)
    }

    /// Outputs after a sequence.
    fn predict<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let n_in = self.cell.lock().shape().0;
        let (x, _, _) = matrix("X", x, Some(n_in))?;
        let out = self.cell.lock().predict(&x).py()?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Outputs of one step from the zero state, per row.
    fn predict_rows<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (n_in, outputs) = {
            let c = self.cell.lock();
            (c.shape().0, c.outputs())
        };
        let x = asarray("X", x)?;
        let [n, d] = *x.shape() else {
            let got = format!("{:?}", x.shape());
            return Err(to_py(Error::shape("X", format!("(n, {n_in})"), got)));
        };
        check_dim("X", n_in, d).py()?;
        let x = x.readonly();
        let x = x.as_slice()?;
        let out = self.scorer()?.score(x).py()?;
        to_matrix(py, out, n, outputs)
    }

    /// Trains on sequences and targets; the mean loss of each pass.
    #[allow(clippy::too_many_arguments, reason = "keywords of the Python method")]
    fn fit(
        &self,
        py: Python<'_>,
        sequences: Vec<Bound<'_, PyAny>>,
        targets: &Bound<'_, PyAny>,
        epochs: usize,
        batch_size: usize,
        learning_rate: f64,
        weight_decay: f64,
        clip_norm: f64,
        logistic: bool,
        seed: u64,
    ) -> PyResult<Vec<f64>> {
        let n_in = self.cell.lock().shape().0;
        let sequences: Vec<Vec<f32>> = (sequences.iter())
            .map(|s| Ok(matrix("sequences", s, Some(n_in))?.0))
            .collect::<PyResult<_>>()?;
        let (flat, _, width) = matrix("targets", targets, None)?;
        let targets: Vec<Vec<f32>> = flat.chunks(width.max(1)).map(<[f32]>::to_vec).collect();
        let options = FitOptions {
            epochs,
            batch_size,
            learning_rate,
            weight_decay,
            clip_norm,
            logistic,
            seed,
        };
        // Trained on a copy, so that readers go on meanwhile and an error changes nothing.
        let mut cell = self.cell.lock().clone();
        let losses = detached(py, || cell.fit(&sequences, &targets, options))?;
        self.replace(cell);
        Ok(losses)
    }

    /// The int8 cell.
    fn quantize(&self) -> Self {
        self.cell.lock().quantize().into()
    }

    /// Sizes.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.cell.lock().metrics();
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.cell.lock().to_bytes().py()?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The cell that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        Ok(FastGrnn::from_bytes(data).py()?.into())
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyCell>()
}
