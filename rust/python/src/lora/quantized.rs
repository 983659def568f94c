//! `QuantizedMicroLoRA`.

use super::PyMicroLora;
use super::calls::DETACH_ABOVE;
use crate::arrays::{Rows, metrics_dict, to_matrix};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use crate::view::{Slot, map_into, view};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::error::check_dim;
use sona_core::lora::QuantizedMicroLora;

/// A fast adapter in four or eight bits, read-only; also known as ``QAMicroLoRA``.
///
/// ``forward`` decodes the weights as it goes, so the memory is what ``nbytes`` says. Train in full precision and
/// quantise afterwards, or train *through* it with ``QuantAwareMicroLoRA``. Immutable, so safe to share between threads.
///
/// Parameters
/// ----------
/// lora : MicroLoRA
/// bits : int, default 8
///     4 or 8.
/// scheme : {"symmetric", "nf4"}, default "symmetric"
///     "symmetric": integers with one scale per row of A and of B. "nf4": four-bit normal float in blocks, needs
///     ``bits=4``.
/// block : int, default 64
///     Values per block of "nf4".
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// Notes
/// -----
/// B has d rows of only ``rank`` values, so its row scales weigh as much as full-precision values: the symmetric scheme
/// takes about half the bytes of float32, "nf4" about a seventh.
///
/// References
/// ----------
/// Dettmers et al. 2023, "QLoRA"; Bengio et al. 2013 (straight-through estimator).
///
/// Examples
/// --------
/// >>> from sona.lora import MicroLoRA, QuantizedMicroLoRA
/// >>> lora = MicroLoRA(256)
/// >>> QuantizedMicroLoRA(lora, bits=4, scheme="nf4").nbytes, lora.param_count * 4
/// (576, 4096)
#[pyclass(name = "QuantizedMicroLoRA", module = "sona.lora", frozen)]
pub(crate) struct PyQuantizedMicroLora {
    pub(super) inner: QuantizedMicroLora,
}

#[pymethods]
impl PyQuantizedMicroLora {
    #[new]
    #[pyo3(signature = (lora, *, bits=8, scheme="symmetric", block=64))]
    fn new(lora: &Bound<'_, PyMicroLora>, bits: i64, scheme: &str, block: i64) -> PyResult<Self> {
        let bits = u8::try_from(bits).map_err(|_| to_py(Error::config("bits", "4 or 8", bits)))?;
        let block = super::size("block", block)?;
        let factors = lora.get().shared.snapshot();
        Ok(Self {
            inner: QuantizedMicroLora::new(&factors, bits, scheme, block).py()?,
        })
    }

    /// The adapted vector(s); O(rank · d) each.
    ///
    /// Parameters
    /// ----------
    /// x : (d,) or (n, d) float32
    ///
    /// Returns
    /// -------
    /// (d,) or (n, d) float32
    fn forward<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let mut slot = Slot::None;
        let x = view("x", x, &mut slot)?;
        check_dim("x", self.inner.dim(), x.d).py()?;
        // Decoding takes about ten times as long as a pass over float32 weights, so copying pays off early.
        if x.len() <= DETACH_ABOVE / 64 {
            return map_into(py, x, None, |x, y| self.inner.forward_rows(x, y));
        }
        let input = x.as_slice().to_vec();
        let result = crate::arrays::detached(py, || {
            let mut y = vec![0.0; input.len()];
            self.inner.forward_rows(&input, &mut y)?;
            Ok(y)
        })?;
        Rows::emit(py, result, x.d, x.batched)
    }

    /// Straight-through gradients (dA, dB, dx): those of the decoded factors, to be applied to the full-precision ones.
    ///
    /// Parameters
    /// ----------
    /// x, grad_y : (d,) or (n, d) float32
    ///
    /// Returns
    /// -------
    /// dA : (rank, d), dB : (d, rank), dx : like x
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
        let (d, r) = (self.inner.dim(), self.inner.rank());
        let x = Rows::extract("x", x, d)?;
        let g = Rows::extract("grad_y", grad_y, d)?;
        let (da, db, dx) =
            crate::arrays::detached(py, || self.inner.dequantize()?.gradients(&x.data, &g.data))?;
        Ok((
            to_matrix(py, da, r, d)?,
            to_matrix(py, db, d, r)?,
            Rows::emit(py, dx, d, x.batched)?,
        ))
    }

    /// The factors (A, B) that the codes stand for.
    #[allow(clippy::type_complexity, reason = "two arrays")]
    fn dequantize<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>)> {
        let f = self.inner.dequantize().py()?;
        Ok((
            to_matrix(py, f.a().to_vec(), f.rank(), f.dim())?,
            to_matrix(py, f.b().to_vec(), f.dim(), f.rank())?,
        ))
    }

    /// Bytes of codes and scales.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.nbytes()
    }

    /// Bits per weight.
    #[getter]
    fn bits(&self) -> u8 {
        self.inner.bits()
    }

    /// Size of the codes.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(
            py,
            &vec![
                ("bits", u64::from(self.inner.bits()).into()),
                ("nbytes", self.inner.nbytes().into()),
            ],
        )
    }

    fn __repr__(&self) -> String {
        format!(
            "QuantizedMicroLoRA(hidden_dim={}, rank={}, bits={}, scheme='{}', nbytes={})",
            self.inner.dim(),
            self.inner.rank(),
            self.inner.bits(),
            self.inner.scheme(),
            self.inner.nbytes()
        )
    }
}

impl State for PyQuantizedMicroLora {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: QuantizedMicroLora::from_bytes(data)?,
        })
    }
}

state_methods!(PyQuantizedMicroLora);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyQuantizedMicroLora>()
}
