//! Binary hypervectors.

use super::operands::{Operand, flat, run};
use pyo3::prelude::*;
use sona_core::attention::hypervector as hv;

/// Packs contiguous rows of bits (last axis) into words, flat.
#[pyfunction]
pub(super) fn hdc_pack<'py>(py: Python<'py>, bits: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let x = Operand::<bool>::new(bits)?;
    let detach = x.values()?.len() >= DETACH_FROM;
    let (values, width) = (x.take(detach)?, x.axis(0));
    let packed = run(py, detach, || hv::pack(&values, width));
    Ok(flat(py, packed))
}

/// The bits of contiguous rows of words, flat.
#[pyfunction]
pub(super) fn hdc_unpack<'py>(
    py: Python<'py>,
    words: &Bound<'py, PyAny>,
    dim: usize,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(flat(py, hv::unpack(Operand::<u64>::new(words)?.values()?, dim)))
}

/// Moves bit i to (i + shift) mod dim in contiguous rows of words, flat.
#[pyfunction]
pub(super) fn hdc_permute<'py>(
    py: Python<'py>,
    words: &Bound<'py, PyAny>,
    dim: usize,
    shift: usize,
) -> PyResult<Bound<'py, PyAny>> {
    Ok(flat(
        py,
        hv::permute(Operand::<u64>::new(words)?.values()?, dim, shift),
    ))
}

/// Majority of contiguous rows of words; an even split takes the bit of `ties`.
#[pyfunction]
pub(super) fn hdc_bundle<'py>(
    py: Python<'py>,
    words: &Bound<'py, PyAny>,
    dim: usize,
    ties: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x, ties) = (Operand::<u64>::new(words)?, Operand::<u64>::new(ties)?);
    Ok(flat(py, hv::bundle(x.values()?, dim, ties.values()?)))
}

/// Bits packed, or words compared (about 50 µs), from which the GIL is released.
const DETACH_FROM: usize = 400_000;

/// 1 − 2·(differing bits)/dim of all pairs of contiguous rows of words, flat.
#[pyfunction]
pub(super) fn hdc_similarity<'py>(
    py: Python<'py>,
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
    dim: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let (a, b) = (Operand::<u64>::new(a)?, Operand::<u64>::new(b)?);
    let w = a.axis(0);
    let detach = a.values()?.len() * (b.values()?.len() / w.max(1)) >= DETACH_FROM;
    let [x, y] = [a.values()?, b.values()?].map(|x| {
        if detach {
            hv::Rows::copied(x, w)
        } else {
            hv::Rows::borrowed(x, w)
        }
    });
    Ok(flat(py, run(py, detach, || hv::similarities(&x, &y, dim))))
}
