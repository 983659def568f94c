//! What the kernels say about themselves.

use pyo3::prelude::*;
use sona_core::kernels;

/// Name of the instruction set that the kernels run on.
///
/// Returns
/// -------
/// str
///     ``"scalar"``, ``"avx2"`` or ``"avx512"``. The best that the processor has, unless the environment variable
///     ``SONA_SIMD`` names a lower one; fixed from the first call of any kernel on.
///
/// Examples
/// --------
/// >>> from sona._core import simd_tier, simd_tiers
/// >>> simd_tier() in simd_tiers()
/// True
#[pyfunction]
#[pyo3(signature = (), text_signature = "()")]
fn simd_tier() -> &'static str {
    kernels::tier().name()
}

/// Names of the instruction sets that this processor can run, slowest first.
///
/// Returns
/// -------
/// list[str]
///     Always begins with ``"scalar"``.
///
/// Examples
/// --------
/// >>> from sona._core import simd_tiers
/// >>> simd_tiers()[0]
/// 'scalar'
#[pyfunction]
#[pyo3(signature = (), text_signature = "()")]
fn simd_tiers() -> Vec<&'static str> {
    kernels::tiers().into_iter().map(kernels::Tier::name).collect()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(simd_tier, m)?)?;
    m.add_function(wrap_pyfunction!(simd_tiers, m)?)
}
