//! Binding of `sona_core::plasticity::Eprop`.

use crate::arrays::{detached, matrix, metrics_dict, to_matrix, vector, whole};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use numpy::{PyArray1, PyArray2};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::plasticity::{Eprop, EpropParams, Feedback, Weights};

/// A recurrent layer of spiking neurons that learns on a stream, in memory that does not grow with time.
///
/// One step is v = αv + W_in x + W_rec z - v_th z, z = [v > θ], y = κy + W_out z with α = exp(-1/tau_m) and
/// κ = exp(-1/tau_out); θ = v_th, or with ``adaptation`` v_th + adaptation · a, where a decays with ``tau_adapt`` and
/// rises by 1 with each spike. Each synapse follows its eligibility e = ψ·(trace of the input); a target sends back
/// L = Bᵀ(y - target), and the gradient is the sum of L times the eligibility filtered with κ. Safe to share between threads,
/// though the steps of one stream belong to one thread.
///
/// Parameters
/// ----------
/// n_in, n_rec, n_out : int
/// tau_m, tau_out : float, default 20.0
///     Decay of membranes and outputs, in steps.
/// v_th : float, default 0.6
/// gamma : float, default 0.3
///     Height of the pseudo-derivative ψ = (γ/v_th) max(0, 1 - \|v - θ\|/v_th).
/// learning_rate : float, default 0.01
/// feedback : {"symmetric", "random"}, default "symmetric"
///     B is W_out, or fixed and random.
/// adaptation : float, default 0.0
/// tau_adapt : float, default 200.0
///     In steps.
/// seed : int, default 0
///
/// Raises
/// ------
/// ConfigError
///
/// Notes
/// -----
/// 12 bytes per synapse: weight, filtered eligibility, gradient; 16 with adaptation. O(synapses) for each step. The
/// gradient is that of backpropagation through time with the recurrent spikes held fixed.
///
/// References
/// ----------
/// Bellec et al. (2020), A solution to the learning dilemma for recurrent networks of spiking neurons, equations 4, 22-28.
///
/// Examples
/// --------
/// >>> from sona.plasticity import EpropLayer
/// >>> layer = EpropLayer(2, 20, 1, seed=1)
/// >>> losses = []
/// >>> for _ in range(100):
/// ...     layer.reset_state()
/// ...     loss = 0.0
/// ...     for _ in range(20):
/// ...         _ = layer.forward_with_eligibility([1.0, 0.5])
/// ...         loss += layer.learn([1.0])
/// ...     layer.apply(0.001)
/// ...     losses.append(loss)
/// >>> losses[-1] < 0.5 * losses[0]
/// True
#[pyclass(name = "EpropLayer", module = "sona.plasticity", frozen)]
struct PyEprop {
    inner: Mutex<Eprop>,
}

impl PyEprop {
    fn part<'py>(&self, py: Python<'py>, which: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (w, p) = {
            let inner = self.inner.lock();
            (inner.weights(), *inner.params())
        };
        match which {
            0 => to_matrix(py, w.w_in, p.n_rec, p.n_in),
            1 => to_matrix(py, w.w_rec, p.n_rec, p.n_rec),
            _ => to_matrix(py, w.w_out, p.n_out, p.n_rec),
        }
    }
}

#[pymethods]
impl PyEprop {
    #[new]
    #[pyo3(signature = (n_in, n_rec, n_out, *, tau_m=20.0, tau_out=20.0, v_th=0.6, gamma=0.3, learning_rate=0.01,
                        feedback="symmetric", adaptation=0.0, tau_adapt=200.0, seed=0))]
    #[allow(clippy::too_many_arguments, reason = "settings, by name")]
    fn new(
        n_in: i128,
        n_rec: i128,
        n_out: i128,
        tau_m: f64,
        tau_out: f64,
        v_th: f64,
        gamma: f64,
        learning_rate: f64,
        feedback: &str,
        adaptation: f64,
        tau_adapt: f64,
        seed: i128,
    ) -> PyResult<Self> {
        let n_in: usize = whole("n_in", n_in)?;
        let n_rec: usize = whole("n_rec", n_rec)?;
        let n_out: usize = whole("n_out", n_out)?;
        let seed: u64 = whole("seed", seed)?;
        let feedback = match feedback {
            "symmetric" => Feedback::Symmetric,
            "random" => Feedback::Random,
            other => {
                return Err(to_py(Error::config(
                    "feedback",
                    "\"symmetric\" or \"random\"",
                    other,
                )));
            }
        };
        let params = EpropParams {
            n_in,
            n_rec,
            n_out,
            tau_m,
            tau_out,
            v_th,
            gamma,
            learning_rate,
            adaptation,
            tau_adapt,
            feedback,
            seed,
        };
        Ok(Self {
            inner: Mutex::new(Eprop::new(params).py()?),
        })
    }

    /// Replace the weights; the diagonal of ``w_rec`` becomes 0.
    ///
    /// Parameters
    /// ----------
    /// w_in : (n_rec, n_in) array
    /// w_rec : (n_rec, n_rec) array
    /// w_out : (n_out, n_rec) array
    ///
    /// Raises
    /// ------
    /// ShapeError, DimensionMismatch, NotFiniteError
    fn set_weights(
        &self,
        w_in: &Bound<'_, PyAny>,
        w_rec: &Bound<'_, PyAny>,
        w_out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let p = *self.inner.lock().params();
        let take = |name, x, rows: usize, cols: usize| -> PyResult<Vec<f32>> {
            let (w, n, _) = matrix(name, x, Some(cols))?;
            sona_core::error::check_dim(name, rows, n).py()?;
            Ok(w)
        };
        let weights = Weights {
            w_in: take("w_in", w_in, p.n_rec, p.n_in)?,
            w_rec: take("w_rec", w_rec, p.n_rec, p.n_rec)?,
            w_out: take("w_out", w_out, p.n_out, p.n_rec)?,
        };
        self.inner.lock().set_weights(weights).py()
    }

    /// A copy of the input weights, (n_rec, n_in).
    #[getter]
    fn w_in<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.part(py, 0)
    }

    /// A copy of the recurrent weights, (n_rec, n_rec).
    #[getter]
    fn w_rec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.part(py, 1)
    }

    /// A copy of the output weights, (n_out, n_rec).
    #[getter]
    fn w_out<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.part(py, 2)
    }

    /// One step of the network; O(synapses).
    ///
    /// Parameters
    /// ----------
    /// x : (n_in,) array
    ///
    /// Returns
    /// -------
    /// (n_out,) float32
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    fn forward_with_eligibility<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let x = vector("x", x, None)?;
        let y = detached(py, || self.inner.lock().forward(&x))?;
        Ok(PyArray1::from_vec(py, y))
    }

    /// Add the gradient of ½‖y - target‖² at the last step.
    ///
    /// Parameters
    /// ----------
    /// target : (n_out,) array
    ///
    /// Returns
    /// -------
    /// float
    ///     That loss.
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    fn learn(&self, py: Python<'_>, target: &Bound<'_, PyAny>) -> PyResult<f64> {
        let target = vector("target", target, None)?;
        detached(py, || self.inner.lock().learn(&target))
    }

    /// What :meth:`learn` gathered since the last :meth:`apply`: a dict of ``w_in``, ``w_rec``, ``w_out``.
    #[getter]
    fn gradients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (g, p) = {
            let inner = self.inner.lock();
            (inner.gradients(), *inner.params())
        };
        let out = PyDict::new(py);
        out.set_item("w_in", to_matrix(py, g.w_in, p.n_rec, p.n_in)?)?;
        out.set_item("w_rec", to_matrix(py, g.w_rec, p.n_rec, p.n_rec)?)?;
        out.set_item("w_out", to_matrix(py, g.w_out, p.n_out, p.n_rec)?)?;
        Ok(out)
    }

    /// Step down the gathered gradient and forget it.
    ///
    /// Parameters
    /// ----------
    /// learning_rate : float, optional
    ///     Default: the layer's.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A negative rate.
    /// NotFiniteError
    ///     A weight would not be finite; nothing changes then.
    #[pyo3(signature = (learning_rate=None))]
    fn apply(&self, learning_rate: Option<f64>) -> PyResult<()> {
        self.inner.lock().apply(learning_rate).py()
    }

    /// Move all outputs up along the present eligibilities, in proportion to a reward; down for a negative one.
    ///
    /// Parameters
    /// ----------
    /// reward_signal : float
    ///     Reward minus what was expected. 0 changes nothing.
    ///
    /// Raises
    /// ------
    /// NotFiniteError
    ///
    /// Notes
    /// -----
    /// The step of :meth:`apply` for an error of -reward at every output; gathered gradients stay as they are.
    fn update(&self, reward_signal: f64) -> PyResult<()> {
        self.inner.lock().update(reward_signal).py()
    }

    /// Neurons that fired at the last step, (n_rec,) bool.
    #[getter]
    fn spikes<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        PyArray1::from_slice(py, self.inner.lock().spikes())
    }

    /// Back to rest: membranes, traces, eligibilities, outputs. Weights and gathered gradients stay.
    fn reset_state(&self) {
        self.inner.lock().reset_state();
    }

    /// Counters: steps, spikes, targets, steps of learning, bytes of synapses.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        let p = *self.inner.lock().params();
        format!(
            "EpropLayer({}, {}, {}, seed={})",
            p.n_in, p.n_rec, p.n_out, p.seed
        )
    }
}

impl State for PyEprop {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(Eprop::from_bytes(data)?),
        })
    }
}

state_methods!(PyEprop);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyEprop>()
}
