//! `SGD`, `Adagrad`, `AdamW` and `clip_by_norm`.

use super::size;
use crate::arrays::{metrics_dict, vector};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::codec::{self, Kind};
use sona_core::error::check_finite;
use sona_core::lora::{Optimizer, Rule, clip_by_norm as clip};
use sona_core::{Error, Result};

/// An optimiser together with its learning rate.
const KIND: Kind = Kind {
    tag: *b"OPLR",
    version: 1,
};

/// Stamps one optimiser class; they differ in their constructor only.
macro_rules! optimizer {
    ($(#[$doc:meta])* $class:ident, $name:literal, $rule:pat, $sig:tt, $text:literal, ($($arg:ident: $ty:ty),*), $make:expr) => {
        $(#[$doc])*
        #[pyclass(name = $name, module = "sona.lora", frozen)]
        pub(crate) struct $class {
            inner: Mutex<Optimizer>,
            lr: f64,
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = $sig, text_signature = $text)]
            fn new(n: i64, lr: f64, $($arg: $ty),*) -> PyResult<Self> {
                if !(lr.is_finite() && lr >= 0.0) {
                    return Err(to_py(Error::config("lr", "a finite number, 0 or above", lr)));
                }
                let (rule, decay): (Rule, f64) = $make;
                let inner = Optimizer::new(rule, size("n", n)?, decay, false).py()?;
                Ok(Self { inner: Mutex::new(inner), lr })
            }

            /// The parameters after one step; the arguments are left alone. O(n).
            ///
            /// Parameters
            /// ----------
            /// params, grads : (n,) float32
            ///     Finite.
            ///
            /// Returns
            /// -------
            /// (n,) float32
            fn step<'py>(
                &self,
                py: Python<'py>,
                params: &Bound<'py, PyAny>,
                grads: &Bound<'py, PyAny>,
            ) -> PyResult<Bound<'py, PyArray1<f32>>> {
                let mut p = vector("params", params, None)?;
                let g = vector("grads", grads, None)?;
                self.inner.lock().step_checked(self.lr, &mut p, &g).py()?;
                Ok(PyArray1::from_vec(py, p))
            }

            /// Forget moments and step count.
            fn reset(&self) {
                self.inner.lock().reset();
            }

            /// Number of steps and bytes of state.
            fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
                let inner = self.inner.lock();
                metrics_dict(py, &vec![("steps", inner.steps().into()), ("nbytes", inner.nbytes().into())])
            }

            fn __repr__(&self) -> String {
                let inner = self.inner.lock();
                format!(
                    "{}(n={}, lr={}, weight_decay={}, steps={})",
                    $name, inner.len(), self.lr, inner.weight_decay(), inner.steps()
                )
            }
        }

        impl State for $class {
            fn encode(&self) -> Result<Vec<u8>> {
                let inner = self.inner.lock().to_bytes()?;
                codec::encode(KIND, &(self.lr, inner))
            }

            fn decode(data: &[u8]) -> Result<Self> {
                let (lr, inner) = restore(data, |rule| matches!(rule, $rule), $name)?;
                Ok(Self { inner: Mutex::new(inner), lr })
            }
        }

        state_methods!($class);
    };
}

fn restore(data: &[u8], fits: impl Fn(Rule) -> bool, name: &str) -> Result<(f64, Optimizer)> {
    let corrupt = |reason: &str| Error::corrupt(name, reason);
    let (lr, state): (f64, Vec<u8>) = codec::decode(KIND, data)?;
    let inner = Optimizer::from_bytes(&state)?;
    if !fits(inner.rule()) {
        return Err(corrupt("holds another optimiser"));
    }
    if lr.is_finite() && lr >= 0.0 {
        Ok((lr, inner))
    } else {
        Err(corrupt("learning rate out of range"))
    }
}

optimizer!(
    /// Gradient descent with optional momentum; update formula as PyTorch's ``SGD``.
    ///
    /// Parameters
    /// ----------
    /// n : int
    ///     Number of parameters.
    /// lr : float, default 0.01
    /// momentum : float, default 0.0
    ///     In [0, 1).
    /// weight_decay : float, default 0.0
    ///     Added to the gradient (coupled).
    ///
    /// Examples
    /// --------
    /// >>> from sona.lora import SGD
    /// >>> SGD(2, lr=0.5).step([1.0, 2.0], [1.0, -1.0])
    /// array([0.5, 2.5], dtype=float32)
    PySgd, "SGD", Rule::Sgd { .. },
    (n, *, lr=0.01, momentum=0.0, weight_decay=0.0), "(n, *, lr=0.01, momentum=0.0, weight_decay=0.0)",
    (momentum: f64, weight_decay: f64), (Rule::Sgd { momentum }, weight_decay)
);

optimizer!(
    /// AdaGrad: each coordinate's step shrinks with its summed squared gradients; update formula as PyTorch's ``Adagrad``.
    ///
    /// Parameters
    /// ----------
    /// n : int
    ///     Number of parameters.
    /// lr : float, default 0.01
    /// eps : float, default 1e-10
    ///
    /// References
    /// ----------
    /// Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods", eq. 1.
    ///
    /// Examples
    /// --------
    /// >>> from sona.lora import Adagrad
    /// >>> Adagrad(2, lr=0.5).step([1.0, 2.0], [3.0, -4.0])
    /// array([0.5, 2.5], dtype=float32)
    PyAdagrad, "Adagrad", Rule::Adagrad { .. },
    (n, *, lr=0.01, eps=1e-10), "(n, *, lr=0.01, eps=1e-10)",
    (eps: f64), (Rule::Adagrad { eps }, 0.0)
);

optimizer!(
    /// Adam with decoupled weight decay; update formula as PyTorch's ``AdamW``.
    ///
    /// Parameters
    /// ----------
    /// n : int
    ///     Number of parameters.
    /// lr : float, default 0.001
    /// betas : (float, float), default (0.9, 0.999)
    ///     In [0, 1).
    /// eps : float, default 1e-8
    /// weight_decay : float, default 0.01
    ///
    /// References
    /// ----------
    /// Kingma & Ba 2015, "Adam", algorithm 1; Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization",
    /// algorithm 2.
    ///
    /// Examples
    /// --------
    /// >>> from sona.lora import AdamW
    /// >>> AdamW(2, lr=0.5, weight_decay=0.0).step([1.0, 2.0], [3.0, -4.0]).round(3)
    /// array([0.5, 2.5], dtype=float32)
    PyAdamW, "AdamW", Rule::AdamW { .. },
    (n, *, lr=0.001, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01),
    "(n, *, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)",
    (betas: [f64; 2], eps: f64, weight_decay: f64),
    (Rule::AdamW { beta1: betas[0], beta2: betas[1], eps }, weight_decay)
);

/// Scale an array down to length ``max_norm`` if it is longer.
///
/// Parameters
/// ----------
/// g : float32 array
///     Finite; its length is that of all values together.
/// max_norm : float
///     At least 0.
///
/// Returns
/// -------
/// float32 array
///     Of g's shape; a copy.
///
/// Examples
/// --------
/// >>> from sona.lora import clip_by_norm
/// >>> clip_by_norm([3.0, 4.0], 1.0)
/// array([0.6, 0.8], dtype=float32)
#[pyfunction]
fn clip_by_norm<'py>(
    py: Python<'py>,
    g: &Bound<'py, PyAny>,
    max_norm: f64,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    if !(max_norm >= 0.0 && max_norm.is_finite()) {
        return Err(to_py(Error::value(
            "max_norm",
            "a finite number, 0 or above",
            max_norm,
        )));
    }
    let a = crate::arrays::asarray("g", g)?;
    let mut values = a.to_vec()?;
    check_finite("g", &values).py()?;
    clip(&mut values, max_norm);
    PyArray1::from_vec(py, values).reshape(a.shape().to_vec())
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PySgd>()?;
    m.add_class::<PyAdagrad>()?;
    m.add_class::<PyAdamW>()?;
    m.add_function(wrap_pyfunction!(clip_by_norm, m)?)
}
