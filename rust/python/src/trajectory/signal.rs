//! The learning signal's mathematics, and `RewardBaseline`.

use super::extract;
use crate::arrays::{matrix, metrics_dict, vector};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use numpy::PyArray1;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::error::check_dim;
use sona_core::trajectory::{ChoiceFeedback, LearningSignal, RankingLoss, RelevanceLoss, RewardBaseline};

/// (query, gradient, quality, weight, kind, loss, reason, steps)
type Parts<'py> = (
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray1<f32>>,
    f64,
    f64,
    &'static str,
    Option<f64>,
    String,
    usize,
);

fn parts(py: Python<'_>, s: LearningSignal) -> Parts<'_> {
    (
        PyArray1::from_vec(py, s.query),
        PyArray1::from_vec(py, s.gradient),
        s.quality,
        s.weight,
        s.kind.name(),
        s.loss,
        s.reason,
        s.steps,
    )
}

fn output_vector(output: Option<&Bound<'_, PyAny>>, d: usize) -> PyResult<Option<Vec<f32>>> {
    output.map(|o| vector("output", o, Some(d))).transpose()
}

/// `(n, d)`, or one vector as a single row.
fn rows(name: &'static str, x: &Bound<'_, PyAny>, d: usize) -> PyResult<Vec<f32>> {
    Ok(crate::arrays::Rows::extract(name, x, d)?.data)
}

/// `(n, d)`; an empty list stands for no rows.
fn candidates(name: &'static str, x: &Bound<'_, PyAny>, d: usize) -> PyResult<Vec<f32>> {
    if x.len().is_ok_and(|n| n == 0) {
        return Err(to_py(Error::value(name, "at least one row", 0)));
    }
    Ok(matrix(name, x, Some(d))?.0)
}

/// Signal of a trajectory's steps.
#[pyfunction]
fn signal_from_trajectory<'py>(
    py: Python<'py>,
    trajectory: &Bound<'py, PyAny>,
    baseline: f64,
) -> PyResult<Parts<'py>> {
    let t = extract(trajectory)?;
    Ok(parts(py, LearningSignal::from_trajectory(&t, baseline).py()?))
}

/// Signal of the caller's own direction.
#[pyfunction]
fn signal_with_gradient<'py>(
    py: Python<'py>,
    embedding: &Bound<'py, PyAny>,
    gradient: &Bound<'py, PyAny>,
    quality: f64,
    baseline: f64,
) -> PyResult<Parts<'py>> {
    let x = vector("embedding", embedding, None)?;
    let g = vector("gradient", gradient, Some(x.len()))?;
    Ok(parts(
        py,
        LearningSignal::with_gradient(&x, &g, quality, baseline).py()?,
    ))
}

/// Signal of positives against negatives.
#[pyfunction]
#[pyo3(signature = (query, positives, negatives, loss, temperature, margin, sigma, output))]
#[allow(clippy::too_many_arguments, reason = "the public factory's arguments")]
fn signal_from_ranking<'py>(
    py: Python<'py>,
    query: &Bound<'py, PyAny>,
    positives: &Bound<'py, PyAny>,
    negatives: &Bound<'py, PyAny>,
    loss: &str,
    temperature: f64,
    margin: f64,
    sigma: f64,
    output: Option<&Bound<'py, PyAny>>,
) -> PyResult<Parts<'py>> {
    let x = vector("query", query, None)?;
    let p = rows("positives", positives, x.len())?;
    let n = candidates("negatives", negatives, x.len())?;
    let y = output_vector(output, x.len())?;
    let loss = RankingLoss::parse(loss, temperature, margin, sigma).py()?;
    let signal = LearningSignal::from_ranking(&x, &p, &n, loss, y.as_deref()).py()?;
    Ok(parts(py, signal))
}

/// Signal of graded relevance.
#[pyfunction]
#[pyo3(signature = (query, candidates, relevance, loss, sigma, output))]
fn signal_from_relevance<'py>(
    py: Python<'py>,
    query: &Bound<'py, PyAny>,
    candidates: &Bound<'py, PyAny>,
    relevance: &Bound<'py, PyAny>,
    loss: &str,
    sigma: f64,
    output: Option<&Bound<'py, PyAny>>,
) -> PyResult<Parts<'py>> {
    let x = vector("query", query, None)?;
    let c = self::candidates("candidates", candidates, x.len())?;
    let grades: Vec<f64> = vector("relevance", relevance, None)?
        .into_iter()
        .map(f64::from)
        .collect();
    check_dim("relevance", c.len() / x.len().max(1), grades.len()).py()?;
    let y = output_vector(output, x.len())?;
    let loss = RelevanceLoss::parse(loss).py()?;
    let signal = LearningSignal::from_relevance(&x, &c, &grades, loss, sigma, y.as_deref()).py()?;
    Ok(parts(py, signal))
}

/// Signal of one choice.
#[pyfunction]
#[pyo3(signature = (query, candidates, chosen, reward, propensity, baseline, temperature, ips_clip, output))]
#[allow(clippy::too_many_arguments, reason = "the public factory's arguments")]
fn signal_from_choice<'py>(
    py: Python<'py>,
    query: &Bound<'py, PyAny>,
    candidates: &Bound<'py, PyAny>,
    chosen: i64,
    reward: f64,
    propensity: Option<f64>,
    baseline: f64,
    temperature: f64,
    ips_clip: [f64; 2],
    output: Option<&Bound<'py, PyAny>>,
) -> PyResult<Parts<'py>> {
    let x = vector("query", query, None)?;
    let c = self::candidates("candidates", candidates, x.len())?;
    let y = output_vector(output, x.len())?;
    let feedback = ChoiceFeedback {
        chosen: usize::try_from(chosen)
            .map_err(|_| to_py(Error::value("chosen", "a position, 0 or more", chosen)))?,
        reward,
        baseline,
        propensity,
        temperature,
        ips_clip: ips_clip.into(),
    };
    let signal = LearningSignal::from_choice(&x, &c, &feedback, y.as_deref()).py()?;
    Ok(parts(py, signal))
}

/// Running mean of rewards, what a reward is judged against; read it *before* the new reward enters.
///
/// An exponential moving average with bias correction. Safe to share between threads.
///
/// Parameters
/// ----------
/// beta : float, default 0.99
///     Decay, in [0, 1).
/// initial : float, default 0.5
///     What ``read`` returns before the first reward.
///
/// Raises
/// ------
/// ConfigError
///     ``beta`` outside [0, 1).
///
/// Examples
/// --------
/// >>> from sona.trajectory import RewardBaseline
/// >>> baseline = RewardBaseline()
/// >>> baseline.read()
/// 0.5
/// >>> baseline.update(0.9)
/// >>> round(baseline.read(), 6)
/// 0.9
#[pyclass(name = "RewardBaseline", module = "sona.trajectory", frozen)]
pub(crate) struct PyRewardBaseline {
    inner: Mutex<RewardBaseline>,
}

#[pymethods]
impl PyRewardBaseline {
    #[new]
    #[pyo3(signature = (*, beta=0.99, initial=0.5))]
    fn new(beta: f64, initial: f64) -> PyResult<Self> {
        Ok(Self {
            inner: Mutex::new(RewardBaseline::new(beta, initial).py()?),
        })
    }

    /// The current baseline.
    fn read(&self) -> f64 {
        self.inner.lock().read()
    }

    /// Let one reward in.
    ///
    /// Parameters
    /// ----------
    /// reward : float
    ///
    /// Raises
    /// ------
    /// NotFiniteError
    fn update(&self, reward: f64) -> PyResult<()> {
        self.inner.lock().update(reward).py()
    }

    /// The baseline and the number of rewards.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let b = self.inner.lock();
        metrics_dict(
            py,
            &vec![("count", b.count().into()), ("baseline", b.read().into())],
        )
    }

    fn __repr__(&self) -> String {
        let b = self.inner.lock();
        format!("RewardBaseline(read={:?}, count={})", b.read(), b.count())
    }
}

impl State for PyRewardBaseline {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(RewardBaseline::from_bytes(data)?),
        })
    }
}

state_methods!(PyRewardBaseline);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(signal_from_trajectory, m)?)?;
    m.add_function(wrap_pyfunction!(signal_with_gradient, m)?)?;
    m.add_function(wrap_pyfunction!(signal_from_ranking, m)?)?;
    m.add_function(wrap_pyfunction!(signal_from_relevance, m)?)?;
    m.add_function(wrap_pyfunction!(signal_from_choice, m)?)?;
    m.add_class::<PyRewardBaseline>()
}
