//! `QuantizedMicroLoRA` and the `quantize_*` functions.

use super::PyMicroLora;
use crate::arrays::{Rows, asarray, metrics_dict, to_matrix, vector};
use crate::errors::{IntoPy, to_py};
use crate::view::{Slot, map_into, view};
use numpy::{PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use sona_core::Error;
use sona_core::error::check_dim;
use sona_core::lora::QuantizedMicroLora;
use sona_core::lora::quant::{self, Axis, NF4_CODE};

/// A fast adapter in four or eight bits, read-only; also known as ``QAMicroLoRA``.
///
/// ``forward`` decodes the weights as it goes, so the memory is what ``nbytes`` says. Train in full precision and
/// quantise afterwards, or train *through* it (straight-through estimator): take the ``gradients`` here and apply them to
/// the full-precision factors. Immutable, so safe to share between threads.
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
    inner: QuantizedMicroLora,
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
        if x.len() <= super::micro::DETACH_ABOVE / 64 {
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

    /// The whole state, checked and versioned.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.inner.to_bytes().py()?))
    }

    /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
    #[classmethod]
    fn from_bytes(_cls: &Bound<'_, PyType>, data: &[u8]) -> PyResult<Self> {
        Ok(Self {
            inner: QuantizedMicroLora::from_bytes(data).py()?,
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = slf.get().to_bytes(slf.py())?;
        Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
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

/// Codes of the input's shape with their scales.
type Coded<'py> = (Bound<'py, PyArrayDyn<i8>>, Bound<'py, PyArray1<f32>>);
/// Codes and block maxima.
type Blocks<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<f32>>);

/// The channels of an array of this shape along `axis` (negative: from the end).
fn along(shape: &[usize], axis: i64) -> PyResult<Axis> {
    let n = shape.len() as i64;
    let at = usize::try_from(if axis < 0 { axis + n } else { axis })
        .ok()
        .filter(|a| *a < shape.len())
        .ok_or_else(|| to_py(Error::value("axis", format!("{} to {}", -n, n - 1), axis)))?;
    Ok(Axis {
        channels: shape[at],
        inner: shape[at + 1..].iter().product(),
    })
}

/// Quantise to signed integers with one scale per channel; rounding is half-even.
///
/// Parameters
/// ----------
/// w : float32 array
/// bits : int, default 8
///     4 or 8.
/// axis : int, default 0
///     The axis whose entries are the channels.
///
/// Returns
/// -------
/// q : int8 array of w's shape
///     In [-2^(bits-1), 2^(bits-1) - 1].
/// scale : (channels,) float32
///     max|w| / (2^(bits-1) - 1); 1 for an all-zero channel.
///
/// Raises
/// ------
/// ValueError, NotFiniteError, ShapeError
///
/// Examples
/// --------
/// >>> from sona.lora import dequantize_symmetric, quantize_symmetric
/// >>> q, scale = quantize_symmetric([[1.0, -2.0], [0.0, 0.5]])
/// >>> q
/// array([[  64, -127],
///        [   0,  127]], dtype=int8)
/// >>> dequantize_symmetric(q, scale).round(2)
/// array([[ 1.01, -2.  ],
///        [ 0.  ,  0.5 ]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (w, bits=8, *, axis=0))]
fn quantize_symmetric<'py>(
    py: Python<'py>,
    w: &Bound<'py, PyAny>,
    bits: i64,
    axis: i64,
) -> PyResult<Coded<'py>> {
    let a = asarray("w", w)?;
    let bits = u8::try_from(bits).map_err(|_| to_py(Error::value("bits", "4 or 8", bits)))?;
    let (q, s) = quant::quantize_symmetric(&a.to_vec()?, along(a.shape(), axis)?, bits).py()?;
    let q = PyArray1::from_vec(py, q).reshape(a.shape().to_vec())?;
    Ok((q, PyArray1::from_vec(py, s)))
}

/// The values that ``quantize_symmetric`` codes stand for, q · scale.
///
/// Parameters
/// ----------
/// q : int8 array
/// scale : (channels,) float32
/// axis : int, default 0
///
/// Returns
/// -------
/// float32 array of q's shape
#[pyfunction]
#[pyo3(signature = (q, scale, *, axis=0))]
fn dequantize_symmetric<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    scale: &Bound<'py, PyAny>,
    axis: i64,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let a = asarray("q", q)?;
    let shape = a.shape().to_vec();
    // Codes pass through float32, which holds every int8 exactly.
    let codes = a.to_vec()?;
    let fits = |v: &f32| v.fract() == 0.0 && (-128.0..=127.0).contains(v);
    if let Some(bad) = codes.iter().find(|v| !fits(v)) {
        return Err(to_py(Error::value("q", "integers in [-128, 127]", bad)));
    }
    let codes: Vec<i8> = codes.into_iter().map(|v| v as i8).collect();
    let scale = vector("scale", scale, None)?;
    let w = quant::dequantize_symmetric(&codes, &scale, along(&shape, axis)?).py()?;
    PyArray1::from_vec(py, w).reshape(shape)
}

/// Quantise a whole array to unsigned bytes: w ≈ (q - zero_point) · scale; rounding is half-even.
///
/// Parameters
/// ----------
/// w : float32 array
///
/// Returns
/// -------
/// q : uint8 array of w's shape
/// scale : float
///     (max - min) / 255; 1 for a constant array.
/// zero_point : int
///     In [0, 255].
///
/// Examples
/// --------
/// >>> from sona.lora import quantize_affine
/// >>> q, scale, zero_point = quantize_affine([-1.0, 0.0, 1.0])
/// >>> q.tolist(), round(scale, 5), zero_point
/// ([0, 128, 255], 0.00784, 128)
#[pyfunction]
fn quantize_affine<'py>(
    py: Python<'py>,
    w: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyArrayDyn<u8>>, f64, u8)> {
    let a = asarray("w", w)?;
    let (q, s, z) = quant::quantize_affine(&a.to_vec()?).py()?;
    let q = PyArray1::from_vec(py, q).reshape(a.shape().to_vec())?;
    Ok((q, s, z))
}

/// Quantise to the 16 values of ``NF4_CODE`` in blocks, each divided by its largest magnitude.
///
/// Parameters
/// ----------
/// x : (n,) float32
/// block : int, default 64
///
/// Returns
/// -------
/// codes : (n,) uint8
///     0 to 15, the nearest value.
/// absmax : (ceil(n / block),) float32
///
/// References
/// ----------
/// Dettmers et al. 2023, "QLoRA", appendix E.
///
/// Examples
/// --------
/// >>> from sona.lora import dequantize_nf4, quantize_nf4
/// >>> codes, absmax = quantize_nf4([0.0, 0.5, -2.0])
/// >>> codes.tolist(), absmax.tolist()
/// ([7, 10, 0], [2.0])
/// >>> dequantize_nf4(codes, absmax).round(2).tolist()
/// [0.0, 0.49000000953674316, -2.0]
#[pyfunction]
#[pyo3(signature = (x, *, block=64))]
fn quantize_nf4<'py>(py: Python<'py>, x: &Bound<'py, PyAny>, block: i64) -> PyResult<Blocks<'py>> {
    let x = vector("x", x, None)?;
    let (codes, absmax) = quant::quantize_nf4(&x, block_size(block)?).py()?;
    Ok((PyArray1::from_vec(py, codes), PyArray1::from_vec(py, absmax)))
}

/// The values that ``quantize_nf4`` codes stand for.
///
/// Parameters
/// ----------
/// codes : (n,) uint8
/// absmax : (ceil(n / block),) float32
/// block : int, default 64
///
/// Returns
/// -------
/// (n,) float32
#[pyfunction]
#[pyo3(signature = (codes, absmax, *, block=64))]
fn dequantize_nf4<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    absmax: &Bound<'py, PyAny>,
    block: i64,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let codes = vector("codes", codes, None)?;
    if let Some(bad) = codes
        .iter()
        .find(|v| v.fract() != 0.0 || !(0.0..=15.0).contains(*v))
    {
        return Err(to_py(Error::value("codes", "integers in [0, 15]", bad)));
    }
    let codes: Vec<u8> = codes.into_iter().map(|v| v as u8).collect();
    let absmax = vector("absmax", absmax, None)?;
    let x = quant::dequantize_nf4(&codes, &absmax, block_size(block)?).py()?;
    Ok(PyArray1::from_vec(py, x))
}

fn block_size(block: i64) -> PyResult<usize> {
    usize::try_from(block).map_err(|_| to_py(Error::value("block", "at least 1", block)))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyQuantizedMicroLora>()?;
    let code = PyArray1::from_slice(m.py(), &NF4_CODE);
    code.try_readwrite()?.make_nonwriteable();
    m.add("NF4_CODE", code)?;
    m.add_function(wrap_pyfunction!(quantize_symmetric, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize_symmetric, m)?)?;
    m.add_function(wrap_pyfunction!(quantize_affine, m)?)?;
    m.add_function(wrap_pyfunction!(quantize_nf4, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize_nf4, m)?)
}
