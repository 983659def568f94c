//! The `quantize_*` functions.

use crate::arrays::{asarray, vector};
use crate::errors::{IntoPy, to_py};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use sona_core::Error;
use sona_core::lora::quant::{self, Axis, NF4_CODE};

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
///     2, 4, 6 or 8.
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
    let bits = u8::try_from(bits).map_err(|_| to_py(Error::value("bits", "2, 4, 6 or 8", bits)))?;
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
    let code = PyArray1::from_slice(m.py(), &NF4_CODE);
    code.try_readwrite()?.make_nonwriteable();
    m.add("NF4_CODE", code)?;
    m.add_function(wrap_pyfunction!(quantize_symmetric, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize_symmetric, m)?)?;
    m.add_function(wrap_pyfunction!(quantize_affine, m)?)?;
    m.add_function(wrap_pyfunction!(quantize_nf4, m)?)?;
    m.add_function(wrap_pyfunction!(dequantize_nf4, m)?)
}
