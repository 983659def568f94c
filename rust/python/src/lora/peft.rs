//! `export_peft` and the reading half of `load_peft`.

use crate::arrays::{detached, matrix, to_matrix};
use crate::errors::IntoPy;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::error::check_dim;
use sona_core::lora::peft::{self, PeftFactors};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Write adapters as a directory that Hugging Face PEFT loads.
///
/// Parameters
/// ----------
/// path : path-like
///     Directory; created if missing. Both files in it are replaced whole, the weights first.
/// factors : dict of str to (A, B)
///     By module name: A (r, in) and B (out, r), float32; one rank for all modules.
/// alpha : float
///     The scale is alpha/r, or alpha/sqrt(r) with ``use_rslora``.
/// use_rslora : bool, default False
/// target_modules : list of str, optional
///     Default: the module names.
///
/// Raises
/// ------
/// ValueError, NotFiniteError, DimensionMismatch, ShapeError, StoreError
///
/// Examples
/// --------
/// >>> import tempfile
/// >>> from sona.lora import BaseLoRA, export_peft, load_peft
/// >>> lora = BaseLoRA(6, rank=4, alpha=8.0)
/// >>> with tempfile.TemporaryDirectory() as path:
/// ...     export_peft(path, {"proj": lora.factors(0)}, alpha=lora.alpha)
/// ...     factors, config = load_peft(path)
/// >>> factors["proj"][0].shape, config["lora_alpha"]
/// ((4, 6), 8.0)
#[pyfunction]
#[pyo3(signature = (path, factors, *, alpha, use_rslora=false, target_modules=None))]
fn export_peft(
    py: Python<'_>,
    path: PathBuf,
    factors: &Bound<'_, PyDict>,
    alpha: f64,
    use_rslora: bool,
    target_modules: Option<Vec<String>>,
) -> PyResult<()> {
    let mut all = BTreeMap::new();
    for (module, pair) in factors {
        let (a, b): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair.extract()?;
        let (a, rank, inputs) = matrix("A", &a, None)?;
        let (b, outputs, columns) = matrix("B", &b, None)?;
        check_dim("B", rank, columns).py()?;
        let f = PeftFactors {
            rank,
            inputs,
            outputs,
            a,
            b,
        };
        all.insert(module.extract::<String>()?, f);
    }
    detached(py, || {
        peft::export(&path, &all, alpha, use_rslora, target_modules.as_deref())
    })
}

/// Factors by module and the configuration as JSON text.
#[pyfunction]
fn load_peft_files(py: Python<'_>, path: PathBuf) -> PyResult<(Bound<'_, PyDict>, String)> {
    let (all, config) = detached(py, || peft::load(&path))?;
    let out = PyDict::new(py);
    for (module, f) in all {
        let a = to_matrix(py, f.a, f.rank, f.inputs)?;
        let b = to_matrix(py, f.b, f.outputs, f.rank)?;
        out.set_item(module, (a, b))?;
    }
    Ok((out, config.to_string()))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(export_peft, m)?)?;
    m.add_function(wrap_pyfunction!(load_peft_files, m)?)
}
