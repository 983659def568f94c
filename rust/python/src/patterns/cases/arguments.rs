//! What the calls of the case memory and its gate take from Python.

use crate::arrays::{matrix, vector};
use crate::errors::to_py;
use crate::items::{Use, item_ids};
use pyo3::prelude::*;
use sona_core::item::ItemId;
use sona_core::patterns::cases as core;
use sona_core::{Error, Result};

/// Ids with their vectors, copied out of Python.
pub(super) struct Items {
    pub(super) ids: Vec<ItemId>,
    data: Vec<f32>,
    dim: usize,
}

impl Items {
    pub(super) fn extract(
        id_name: &'static str,
        ids: &Bound<'_, PyAny>,
        vector_name: &'static str,
        vectors: &Bound<'_, PyAny>,
        dim: usize,
        purpose: Use,
    ) -> PyResult<Self> {
        let ids = item_ids(id_name, ids, purpose)?;
        let (data, n, _) = matrix(vector_name, vectors, Some(dim))?;
        if n != ids.len() {
            return Err(to_py(Error::shape(
                vector_name,
                format!("({}, {dim})", ids.len()),
                format!("({n}, {dim})"),
            )));
        }
        Ok(Self { ids, data, dim })
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&core::Candidates<'_>) -> Result<T>) -> Result<T> {
        let ids: Vec<&ItemId> = self.ids.iter().collect();
        let rows: Vec<&[f32]> = self.data.chunks_exact(self.dim).collect();
        f(&core::Candidates::new(&ids, &rows, self.dim)?)
    }
}

/// A count that must not be negative.
pub(super) fn count(name: &'static str, value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| to_py(Error::config(name, "a number >= 0", value)))
}

/// A seed from Python.
pub(super) fn seed(value: i128) -> PyResult<u64> {
    u64::try_from(value).map_err(|_| to_py(Error::config("seed", "0 to 2**64 - 1", value)))
}

/// One number per item, if given.
pub(super) fn optional(
    name: &'static str,
    x: Option<&Bound<'_, PyAny>>,
    n: usize,
) -> PyResult<Option<Vec<f32>>> {
    let Some(x) = x else { return Ok(None) };
    let v = vector(name, x, None)?;
    if v.len() == n {
        Ok(Some(v))
    } else {
        Err(to_py(Error::shape(
            name,
            format!("({n},)"),
            format!("({},)", v.len()),
        )))
    }
}
