//! `ApplyReport`.

use pyo3::prelude::*;
use sona_core::lora::ApplyReport;

/// What one ``apply_accumulated`` did.
///
/// ``applied`` is false if nothing was pending; ``count`` signals went into the mean; ``grad_norm`` is the length of the
/// mean gradient of both factors before clipping, ``step_norm`` that of the optimiser's step before the trust region;
/// ``clipped`` and ``trust_scaled`` say whether the two safeguards acted.
#[pyclass(name = "ApplyReport", module = "sona.lora", frozen, get_all, eq)]
#[derive(Clone, PartialEq)]
pub(crate) struct PyApplyReport {
    applied: bool,
    count: usize,
    grad_norm: f64,
    step_norm: f64,
    clipped: bool,
    trust_scaled: bool,
}

impl From<ApplyReport> for PyApplyReport {
    fn from(r: ApplyReport) -> Self {
        Self {
            applied: r.applied,
            count: r.count,
            grad_norm: r.grad_norm,
            step_norm: r.step_norm,
            clipped: r.clipped,
            trust_scaled: r.trust_scaled,
        }
    }
}

#[pymethods]
impl PyApplyReport {
    fn __repr__(&self) -> String {
        let flag = |b| if b { "True" } else { "False" };
        format!(
            "ApplyReport(applied={}, count={}, grad_norm={:?}, step_norm={:?}, clipped={}, trust_scaled={})",
            flag(self.applied),
            self.count,
            self.grad_norm,
            self.step_norm,
            flag(self.clipped),
            flag(self.trust_scaled)
        )
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyApplyReport>()
}
