//! Binding of `sona_core::patterns::bank`.

use crate::arrays::{detached, metrics_dict, place, vector, whole};
use crate::errors::{IntoPy, to_py};
use numpy::PyArray1;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::error::check_number;
use sona_core::patterns::bank::{
    self as core, ActionOutcome, BankConfig, Memo, MemoryItem, Outcome, Pattern, Verdict,
};
use sona_core::{Error, Result};

/// id, scope, centroid, size, weight, mean quality, variance, created, accessed, accesses, verdict, actions.
type Fields<A> = (
    u64,
    String,
    A,
    u64,
    f64,
    f64,
    f64,
    i64,
    i64,
    u64,
    String,
    Vec<(String, u64, f64)>,
);
pub(crate) type Emitted<'py> = Fields<Bound<'py, PyArray1<f32>>>;
type Given<'py> = Fields<Bound<'py, PyAny>>;

pub(crate) fn emit<'py>(py: Python<'py>, p: Pattern) -> Emitted<'py> {
    let actions = p.actions.into_iter();
    (
        p.id,
        p.scope.to_string(),
        PyArray1::from_vec(py, p.centroid),
        p.cluster_size,
        p.total_weight,
        p.avg_quality,
        p.quality_var,
        p.created_at,
        p.last_accessed,
        p.access_count,
        p.verdict.name().to_owned(),
        actions
            .map(|a| (a.action.to_string(), a.count, a.mean_quality))
            .collect(),
    )
}

fn verdict(name: &str) -> PyResult<Verdict> {
    [Verdict::Success, Verdict::Failure, Verdict::Uncertain]
        .into_iter()
        .find(|v| v.name() == name)
        .ok_or_else(|| {
            let known = "\"success\", \"failure\" or \"uncertain\"";
            to_py(Error::value("verdict", known, format!("{name:?}")))
        })
}

fn pattern(fields: &Given<'_>) -> PyResult<Pattern> {
    Ok(Pattern {
        id: fields.0,
        scope: fields.1.as_str().into(),
        centroid: vector("centroid", &fields.2, None)?,
        cluster_size: fields.3,
        total_weight: fields.4,
        avg_quality: fields.5,
        quality_var: fields.6,
        created_at: fields.7,
        last_accessed: fields.8,
        access_count: fields.9,
        verdict: verdict(&fields.10)?,
        actions: fields
            .11
            .iter()
            .map(|(action, count, mean_quality)| ActionOutcome {
                action: action.as_str().into(),
                count: *count,
                mean_quality: *mean_quality,
            })
            .collect(),
        memo: None,
        merged: 0,
    })
}

/// The fields of the union of two patterns; `sona.patterns.LearnedPattern.merge` documents it.
#[pyfunction]
fn merge_patterns<'py>(py: Python<'py>, left: Given<'py>, right: Given<'py>) -> PyResult<Emitted<'py>> {
    Ok(emit(py, pattern(&left)?.merge(&pattern(&right)?).py()?))
}

/// `factor` to the power of `days`, both checked.
#[pyfunction]
fn decay_factor(factor: f64, days: f64) -> PyResult<f64> {
    core::decay_factor(factor, days).py()
}

/// Lower end of the Wilson score interval of a share `p` of `n` trials.
#[pyfunction]
fn wilson_lower_bound(p: f64, n: f64, z: f64) -> f64 {
    core::wilson_lower_bound(p, n, z)
}

/// Name of the verdict on a quality by the default thresholds.
#[pyfunction]
fn judge_quality(quality: f64) -> &'static str {
    Verdict::of(quality).name()
}

fn count(name: &'static str, value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| to_py(Error::value(name, "a number >= 0", value)))
}

/// A field of the configuration; a negative number is as wrong as zero.
fn field(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// State of `sona.patterns.ReasoningBank`.
#[pyclass(name = "PatternBank", module = "sona._core", frozen)]
struct PyBank {
    bank: Mutex<core::Bank>,
    /// Held for the whole of an extraction, which holds the bank only at its beginning and its end.
    extracting: Mutex<()>,
}

impl PyBank {
    fn of(bank: core::Bank) -> Self {
        Self {
            bank: Mutex::new(bank),
            extracting: Mutex::new(()),
        }
    }

    /// Waits for the bank without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut core::Bank) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || f(&mut self.bank.lock()))
    }
}

#[pymethods]
impl PyBank {
    #[new]
    #[pyo3(signature = (*, k_clusters, embedding_dim, max_iterations, convergence_threshold, min_cluster_size,
                        quality_threshold, merge_similarity, max_trajectories, seed))]
    #[allow(
        clippy::too_many_arguments,
        reason = "one argument per field of the configuration"
    )]
    fn new(
        k_clusters: i64,
        embedding_dim: i64,
        max_iterations: i64,
        convergence_threshold: f64,
        min_cluster_size: i64,
        quality_threshold: f64,
        merge_similarity: f64,
        max_trajectories: i64,
        seed: i128,
    ) -> PyResult<Self> {
        let seed: u64 = whole("seed", seed)?;
        let config = BankConfig {
            k_clusters: field(k_clusters),
            embedding_dim: field(embedding_dim),
            max_iterations: field(max_iterations),
            convergence_threshold,
            min_cluster_size: field(min_cluster_size),
            quality_threshold,
            merge_similarity,
            max_trajectories: field(max_trajectories),
            seed,
        };
        Ok(Self::of(core::Bank::new(config).py()?))
    }

    /// The configuration as keyword arguments of the constructor.
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let c = self.with(py, |b| Ok(b.config().clone()))?;
        let out = PyDict::new(py);
        out.set_item("k_clusters", c.k_clusters)?;
        out.set_item("embedding_dim", c.embedding_dim)?;
        out.set_item("max_iterations", c.max_iterations)?;
        out.set_item("convergence_threshold", c.convergence_threshold)?;
        out.set_item("min_cluster_size", c.min_cluster_size)?;
        out.set_item("quality_threshold", c.quality_threshold)?;
        out.set_item("merge_similarity", c.merge_similarity)?;
        out.set_item("max_trajectories", c.max_trajectories)?;
        out.set_item("seed", c.seed)?;
        Ok(out)
    }

    /// Remembers a case; returns its id.
    fn add(
        &self,
        py: Python<'_>,
        embedding: &Bound<'_, PyAny>,
        quality: f64,
        action: Option<String>,
        scope: String,
        judged: Option<String>,
    ) -> PyResult<u64> {
        let embedding = vector("embedding", embedding, None)?;
        let verdict = judged.map(|name| verdict(&name)).transpose()?;
        self.with(py, |b| {
            b.add(Outcome {
                embedding: &embedding,
                quality,
                action: action.as_deref(),
                scope: &scope,
                verdict,
            })
        })
    }

    /// Extracts patterns; adding and finding go on meanwhile.
    fn extract<'py>(&self, py: Python<'py>, now: i64) -> PyResult<Vec<Emitted<'py>>> {
        let found = detached(py, || {
            let _turn = self.extracting.lock();
            let plan = self.bank.lock().plan();
            let clusters = plan.run()?;
            let mut bank = self.bank.lock();
            bank.commit(clusters, now)?;
            Ok(bank.extracted())
        })?;
        Ok(found.into_iter().map(|p| emit(py, p)).collect())
    }

    /// The most similar patterns with their similarities.
    fn find<'py>(
        &self,
        py: Python<'py>,
        query: &Bound<'py, PyAny>,
        k: i64,
        scope: String,
        now: i64,
    ) -> PyResult<Vec<(Emitted<'py>, f32)>> {
        let (query, k) = (vector("query", query, None)?, count("k", k)?);
        let found = self.with(py, |b| b.find(&query, k, &scope, now))?;
        Ok(found.into_iter().map(|(p, s)| (emit(py, p), s)).collect())
    }

    /// The most similar patterns in words: pattern id, title, description, content, verdict, embedding, similarity.
    #[allow(clippy::type_complexity, reason = "the fields of a memory item")]
    fn recall<'py>(
        &self,
        py: Python<'py>,
        query: &Bound<'py, PyAny>,
        k: i64,
        scope: String,
        include_failures: bool,
        now: i64,
    ) -> PyResult<
        Vec<(
            u64,
            String,
            String,
            String,
            &'static str,
            Bound<'py, PyArray1<f32>>,
            f32,
        )>,
    > {
        let (query, k) = (vector("query", query, None)?, count("k", k)?);
        let found = self.with(py, |b| b.recall(&query, k, &scope, include_failures, now))?;
        let fields = |item: MemoryItem| {
            (
                item.pattern,
                item.memo.title,
                item.memo.description,
                item.memo.content,
                item.verdict.name(),
                PyArray1::from_vec(py, item.embedding),
                item.similarity,
            )
        };
        Ok(found.into_iter().map(fields).collect())
    }

    /// The pattern with this id, if a distiller has yet to put it into words.
    fn undistilled<'py>(&self, py: Python<'py>, id: u64) -> PyResult<Option<Emitted<'py>>> {
        let p = self.with(py, |b| Ok(b.get(id).filter(|p| p.memo.is_none()).cloned()))?;
        Ok(p.map(|p| emit(py, p)))
    }

    /// Keeps a distiller's words for a pattern, until its statistics change.
    fn set_memo(
        &self,
        py: Python<'_>,
        id: u64,
        title: String,
        description: String,
        content: String,
    ) -> PyResult<bool> {
        let memo = Memo {
            title,
            description,
            content,
        };
        self.with(py, |b| Ok(b.set_memo(id, memo)))
    }

    /// The pattern with this id.
    fn get<'py>(&self, py: Python<'py>, id: u64) -> PyResult<Option<Emitted<'py>>> {
        let p = self.with(py, |b| Ok(b.get(id).cloned()))?;
        Ok(p.map(|p| emit(py, p)))
    }

    /// All patterns, by id.
    fn patterns<'py>(&self, py: Python<'py>) -> PyResult<Vec<Emitted<'py>>> {
        let all: Vec<Pattern> = self.with(py, |b| Ok(b.patterns().into_iter().cloned().collect()))?;
        Ok(all.into_iter().map(|p| emit(py, p)).collect())
    }

    /// Cases held.
    fn case_count(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |b| Ok(b.case_count()))
    }

    /// Forgets cases; returns how many were there.
    fn remove(&self, py: Python<'_>, ids: Vec<u64>) -> PyResult<usize> {
        self.with(py, |b| Ok(b.remove(&ids)))
    }

    /// Forgets all cases and patterns.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |b| {
            b.clear();
            Ok(())
        })
    }

    /// Multiplies the weight of all evidence by `factor` per day.
    fn decay(&self, py: Python<'_>, factor: f64, days: f64) -> PyResult<()> {
        self.with(py, |b| b.decay(factor, days))
    }

    /// Merges similar patterns; returns the number of merges.
    fn merge_similar(&self, py: Python<'_>, threshold: Option<f64>) -> PyResult<usize> {
        self.with(py, |b| b.merge_similar(threshold))
    }

    /// Drops bad, unused patterns; returns how many.
    fn prune(&self, py: Python<'_>, min_quality: f64, min_accesses: i128) -> PyResult<usize> {
        let min_accesses: u64 = place("min_accesses", min_accesses)?;
        check_number("min_quality", min_quality).py()?;
        self.with(py, |b| Ok(b.prune(min_quality, min_accesses)))
    }

    /// Counts and sizes.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.with(py, |b| Ok(b.metrics()))?;
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.with(py, |b| b.to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The bank that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let data = data.to_vec();
        Ok(Self::of(detached(py, || core::Bank::from_bytes(&data))?))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBank>()?;
    m.add_function(wrap_pyfunction!(merge_patterns, m)?)?;
    m.add_function(wrap_pyfunction!(decay_factor, m)?)?;
    m.add_function(wrap_pyfunction!(wilson_lower_bound, m)?)?;
    m.add_function(wrap_pyfunction!(judge_quality, m)?)
}
