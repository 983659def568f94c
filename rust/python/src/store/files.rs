//! Tensor files and preference lines.

use crate::arrays::detached;
use crate::errors::to_py;
use numpy::PyArray1;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use sona_core::Error;
use sona_core::store::preferences::{self, Preference};
use sona_core::store::tensors::{self, Dtype, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// numpy's name of each type that both sides have.
const DTYPES: [(Dtype, &str); 12] = [
    (Dtype::BOOL, "bool"),
    (Dtype::I8, "int8"),
    (Dtype::I16, "int16"),
    (Dtype::I32, "int32"),
    (Dtype::I64, "int64"),
    (Dtype::U8, "uint8"),
    (Dtype::U16, "uint16"),
    (Dtype::U32, "uint32"),
    (Dtype::U64, "uint64"),
    (Dtype::F16, "float16"),
    (Dtype::F32, "float32"),
    (Dtype::F64, "float64"),
];

/// Save named arrays as a safetensors file, replacing it whole and durably.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The file.
/// tensors : dict of str to array
///     float16, float32, float64, bool or any integer type, of any shape; the type is kept.
///
/// Raises
/// ------
/// NotFiniteError
///     At the first NaN or infinity; the file is left as it was.
/// ValueError
///     For another type of elements.
/// StoreError
///     If writing fails; the file is left as it was.
///
/// Examples
/// --------
/// >>> import tempfile, os
/// >>> import numpy as np
/// >>> from sona.store import load_safetensors, save_safetensors
/// >>> path = os.path.join(tempfile.mkdtemp(), "adapter.safetensors")
/// >>> save_safetensors(path, {"a": np.arange(3, dtype=np.float32)})
/// >>> load_safetensors(path)
/// {'a': array([0., 1., 2.], dtype=float32)}
#[pyfunction]
#[pyo3(signature = (path, tensors), text_signature = "(path, tensors)")]
pub(crate) fn save_safetensors(py: Python<'_>, path: PathBuf, tensors: &Bound<'_, PyDict>) -> PyResult<()> {
    let numpy = py.import("numpy")?;
    let mut all = BTreeMap::new();
    for (name, array) in tensors {
        let array = numpy.call_method1("asarray", (array,))?;
        let dtype_name: String = array.getattr("dtype")?.getattr("name")?.extract()?;
        let Some((dtype, _)) = DTYPES.iter().find(|(_, n)| *n == dtype_name) else {
            return Err(to_py(Error::value(
                "tensors",
                "bool, an integer or a floating type of up to 64 bits",
                format!("{dtype_name} in {name:?}"),
            )));
        };
        let little = array.getattr("dtype")?.call_method1("newbyteorder", ("<",))?;
        let data = array.call_method1("astype", (little,))?.call_method0("tobytes")?;
        let tensor = Tensor {
            dtype: *dtype,
            shape: array.getattr("shape")?.extract()?,
            data: data.extract()?,
        };
        all.insert(name.extract()?, tensor);
    }
    detached(py, || tensors::save(path, &all))
}

/// Load a safetensors file, whoever wrote it.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The file.
///
/// Returns
/// -------
/// dict of str to array
///     Writable arrays by name; BF16 comes as float32, which is exact.
///
/// Raises
/// ------
/// CorruptStateError
///     If the file is damaged or no safetensors file; nothing is allocated from a length that it only claims.
/// NotFiniteError
///     If a value is NaN or infinite.
/// ValueError
///     If it holds a type that numpy does not have.
/// StoreError
///     If it cannot be read.
#[pyfunction]
#[pyo3(signature = (path), text_signature = "(path)")]
pub(crate) fn load_safetensors(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let out = PyDict::new(py);
    for (name, tensor) in detached(py, || tensors::load(path))? {
        let dtype = DTYPES.iter().find(|(d, _)| *d == tensor.dtype);
        let dtype = dtype.map_or("uint8", |(_, n)| n);
        let shape = PyTuple::new(py, tensor.shape)?;
        let array = PyArray1::from_vec(py, tensor.data)
            .call_method1("view", (dtype,))?
            .call_method1("reshape", (shape,))?;
        out.set_item(name, array)?;
    }
    Ok(out)
}

/// Write preference pairs as JSON lines and return how many, for instance for `datasets.load_dataset("json", ...)`.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The file; it is replaced whole, or left alone on any error.
/// rows : iterable of dict
///     Each with the texts `prompt`, `chosen` and `rejected`, and optionally a `weight` >= 0 (default 1.0).
///
/// Returns
/// -------
/// int
///     Number of lines.
///
/// Raises
/// ------
/// ValueError
///     If a row lacks a key, has an unknown one, prefers a text to itself, or has a weight that is negative or not finite.
/// TypeError
///     If a value is not of its type.
/// StoreError
///     If writing fails.
///
/// Examples
/// --------
/// >>> import tempfile, os
/// >>> from sona.store import export_preferences
/// >>> path = os.path.join(tempfile.mkdtemp(), "pairs.jsonl")
/// >>> export_preferences(path, [{"prompt": "2 + 2", "chosen": "4", "rejected": "5", "weight": 0.8}])
/// 1
#[pyfunction]
#[pyo3(signature = (path, rows), text_signature = "(path, rows)")]
pub(crate) fn export_preferences(path: PathBuf, rows: &Bound<'_, PyAny>) -> PyResult<u64> {
    // The core knows no Python exception: the first one waits here while the writer gives up.
    let mut raised = None;
    let mut number = 0;
    let pairs = rows.try_iter()?.map(|row| {
        let pair = row.and_then(|row| preference(&row, number));
        number += 1;
        pair.map_err(|e| {
            raised = Some(e);
            Error::Learning("the rows raised".into())
        })
    });
    let written = preferences::export(path, pairs);
    match raised {
        Some(e) => Err(e),
        None => written.map_err(to_py),
    }
}

fn preference(row: &Bound<'_, PyAny>, number: u64) -> PyResult<Preference> {
    let row = row.cast::<PyDict>().map_err(|_| {
        PyTypeError::new_err(format!("row {number}: expected a dict, got {}", row.get_type()))
    })?;
    let text = |key: &str| match row.get_item(key)? {
        Some(v) => v
            .extract::<String>()
            .map_err(|e| typed(row.py(), e, format!("row {number}: {key:?} is no text"))),
        None => Err(PyValueError::new_err(format!("row {number}: {key:?} is missing"))),
    };
    let (prompt, chosen, rejected) = (text("prompt")?, text("chosen")?, text("rejected")?);
    let weight = row.get_item("weight")?;
    let known = 3 + usize::from(weight.is_some());
    if row.len() != known {
        return Err(PyValueError::new_err(format!(
            "row {number}: expected the keys prompt, chosen, rejected and weight, got {}",
            row.keys()
        )));
    }
    let weight = weight.map_or(Ok(1.0), |w| {
        w.extract::<f64>()
            .map_err(|e| typed(row.py(), e, format!("row {number}: 'weight' is no number")))
    })?;
    Ok(Preference {
        prompt,
        chosen,
        rejected,
        weight,
    })
}

/// A `TypeError` that says where; other errors (a lone surrogate in a text) already do.
fn typed(py: Python<'_>, e: PyErr, message: String) -> PyErr {
    if e.is_instance_of::<PyTypeError>(py) {
        PyTypeError::new_err(message)
    } else {
        e
    }
}
