//! What the calls of `BaseLoRA` share: a layer by its number, reading and writing detached, the proximal pull.

use super::base::PyBaseLora;
use super::calls::DETACH_ABOVE;
use crate::arrays::{Rows, detached};
use crate::errors::{IntoPy, to_py};
use crate::view::{Slot, map_into, vector_view, view};
use numpy::PyArray1;
use pyo3::intern;
use pyo3::prelude::*;
use sona_core::Error;
use sona_core::error::check_dim;
use sona_core::lora::{BaseLora, Factors};
use std::sync::Arc;

impl PyBaseLora {
    pub(super) fn layer(&self, layer_idx: i64) -> PyResult<(usize, Arc<Factors>)> {
        let found = usize::try_from(layer_idx)
            .ok()
            .and_then(|i| Some((i, self.shared.snapshot(i)?)));
        found.ok_or_else(|| {
            let last = self.shared.num_layers() - 1;
            to_py(Error::value("layer_idx", format!("0 to {last}"), layer_idx))
        })
    }

    /// Changes the state without holding up other Python threads while waiting for another writer or computing.
    pub(super) fn write<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut BaseLora) -> sona_core::Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || self.shared.write(f))
    }

    pub(super) fn read<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&BaseLora) -> T + Send) -> T {
        py.detach(|| self.shared.read(f))
    }

    /// Rows of `x` through the published factors of a layer.
    pub(super) fn forward<'py>(
        &self,
        py: Python<'py>,
        layer_idx: i64,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (_, factors) = self.layer(layer_idx)?;
        let mut slot = Slot::None;
        let x = view("x", x, &mut slot)?;
        check_dim("x", factors.dim(), x.d).py()?;
        if x.len() <= DETACH_ABOVE {
            return map_into(py, x, None, |x, y| factors.forward_rows(x, y));
        }
        let input = x.as_slice().to_vec();
        let result = detached(py, || {
            let mut y = vec![0.0; input.len()];
            factors.forward_rows(&input, &mut y)?;
            Ok(y)
        })?;
        Rows::emit(py, result, x.d, x.batched)
    }

    /// The proximal step of `ewc` from the parameters `theta` of a layer. No lock is held while it computes.
    pub(super) fn pull(
        &self,
        py: Python<'_>,
        layer: usize,
        ewc: &Bound<'_, PyAny>,
        theta: &[f32],
        lr: f64,
    ) -> PyResult<()> {
        let before = PyArray1::from_slice(py, theta);
        let after = ewc.call_method1(intern!(py, "proximal_step"), (before, lr))?;
        let mut slot = Slot::None;
        let after = vector_view("theta", &after, &mut slot)?.to_vec();
        check_dim("theta", theta.len(), after.len()).py()?;
        self.write(py, |l| {
            let mut now = l.theta(layer)?;
            if now == theta {
                return l.set_theta(layer, &after);
            }
            // Another thread stepped meanwhile: its step stays, the pull is added to it.
            for (now, (after, before)) in now.iter_mut().zip(after.iter().zip(theta)) {
                *now += after - before;
            }
            l.set_theta(layer, &now)
        })
    }
}
