//! Binding of `sona_core::dreams::Consolidator`.

use super::extract_node;
use crate::arrays::{detached, whole};
use crate::errors::{IntoPy, to_py};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyList;
use sona_core::Error;
use sona_core::dreams::Consolidator;

/// Compacts memories: near-duplicates merge; under a byte budget the least valuable go, and no region vanishes.
///
/// Holds settings, no state.
///
/// Parameters
/// ----------
/// merge_similarity : float, default 0.98
///     Cosine above which two memories become one.
/// half_life_s : float, default 604800.0
///     Seconds in which the value of a memory that is not used halves.
/// max_bytes : int, optional
///     Bytes that may stay, 4 d + 32 for each memory; default: no limit.
/// coverage : int, optional
///     Memories kept by farthest-first traversal, so that no region vanishes; default: the square root of the number
///     that may stay.
///
/// Raises
/// ------
/// ConfigError
///
/// References
/// ----------
/// Gonzalez (1985), Clustering to minimize the maximum intercluster distance.
///
/// Examples
/// --------
/// >>> from sona.dreams import MemoryConsolidator, MemoryNode
/// >>> nodes = [MemoryNode(0, [1.0, 0.0], access_count=3), MemoryNode(1, [1.0, 0.01], access_count=1)]
/// >>> result = MemoryConsolidator().consolidate(nodes, now=0.0)
/// >>> result.merged, result.nodes[0].id, result.nodes[0].access_count
/// (1, 0, 4)
#[pyclass(name = "MemoryConsolidator", module = "sona.dreams", frozen)]
pub(super) struct PyConsolidator {
    pub(super) inner: Consolidator,
}

#[pymethods]
impl PyConsolidator {
    #[new]
    #[pyo3(signature = (*, merge_similarity=0.98, half_life_s=604_800.0, max_bytes=None, coverage=None),
           text_signature = "(*, merge_similarity=0.98, half_life_s=604800.0, max_bytes=None, coverage=None)")]
    fn new(
        merge_similarity: f64,
        half_life_s: f64,
        max_bytes: Option<i128>,
        coverage: Option<i128>,
    ) -> PyResult<Self> {
        let max_bytes: Option<usize> = max_bytes.map(|v| whole("max_bytes", v)).transpose()?;
        let coverage: Option<usize> = coverage.map(|v| whole("coverage", v)).transpose()?;
        let inner = Consolidator {
            merge_similarity,
            half_life_s,
            max_bytes,
            coverage,
        };
        inner.check().py()?;
        Ok(Self { inner })
    }

    /// Cosine above which two memories become one.
    #[getter]
    fn merge_similarity(&self) -> f64 {
        self.inner.merge_similarity
    }

    /// Seconds in which an unused memory's value halves.
    #[getter]
    fn half_life_s(&self) -> f64 {
        self.inner.half_life_s
    }

    /// Bytes that may stay, or None.
    #[getter]
    fn max_bytes(&self) -> Option<usize> {
        self.inner.max_bytes
    }

    /// Size of the coverage set, or None.
    #[getter]
    fn coverage(&self) -> Option<usize> {
        self.inner.coverage
    }

    /// Merge, strengthen and drop.
    ///
    /// The value of a memory is 2^(-age / half_life_s) · ln(1 + access_count) · importance. Memories nearer than
    /// ``merge_similarity`` become one, led by the most valuable: accesses are added, embedding and importance weighted
    /// by accesses + 1, the latest time stays. A memory whose value reaches ``threshold`` is strengthened: its
    /// importance goes a tenth of the way to 1. Beyond ``max_bytes`` the coverage set stays, then the most valuable.
    /// The result does not depend on the order of the input.
    ///
    /// Parameters
    /// ----------
    /// nodes : iterable of MemoryNode
    ///     Each id once, embeddings of one length.
    /// threshold : float, default 0.7
    /// now : float, optional
    ///     Seconds; default ``time.time()``.
    ///
    /// Returns
    /// -------
    /// ConsolidationResult
    ///     ``nodes`` in the order of the input (those that did not change are the same objects), ``strengthened``,
    ///     ``pruned``, ``merged``, ``bytes_before``, ``bytes_after``.
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    /// ValueError
    ///     An id twice, or a budget too small for one memory.
    ///
    /// Notes
    /// -----
    /// O(n·m·d) for m memories that stay distinct, and O(coverage·m·d).
    #[pyo3(signature = (nodes, *, threshold=0.7, now=None))]
    fn consolidate<'py>(
        &self,
        py: Python<'py>,
        nodes: &Bound<'py, PyAny>,
        threshold: f64,
        now: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let now = match now {
            Some(now) => now,
            None => py.import("time")?.call_method0("time")?.extract()?,
        };
        let objects: Vec<Bound<'py, PyAny>> = nodes.try_iter()?.collect::<PyResult<_>>()?;
        let mut records = Vec::with_capacity(objects.len());
        let mut flat = Vec::new();
        let mut dim = None;
        for ob in &objects {
            let (node, embedding) = extract_node(ob)?;
            let expected = *dim.get_or_insert(embedding.len());
            if embedding.len() != expected {
                return Err(to_py(Error::Dimension {
                    name: "embedding",
                    expected,
                    got: embedding.len(),
                }));
            }
            records.push(node);
            flat.extend_from_slice(&embedding);
        }
        let inner = self.inner;
        let (records, out) = detached(py, move || {
            let out = inner.consolidate(&records, &flat, dim.unwrap_or(0), threshold, now)?;
            Ok((records, out))
        })?;
        let module = py.import("sona.dreams")?;
        let make = module.getattr("_memory_node")?;
        let kept = PyList::empty(py);
        for k in &out.kept {
            let source = &objects[k.source];
            if k.embedding.is_none() && k.node == records[k.source] {
                kept.append(source)?;
                continue;
            }
            let embedding = match &k.embedding {
                Some(e) => PyArray1::from_slice(py, e).into_any(),
                None => source.getattr("embedding")?,
            };
            let n = k.node;
            kept.append(make.call1((n.id, embedding, n.timestamp, n.access_count, n.importance))?)?;
        }
        module.getattr("ConsolidationResult")?.call1((
            kept,
            out.strengthened,
            out.pruned,
            out.merged,
            out.bytes_before,
            out.bytes_after,
        ))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let c = slf.get().inner;
        let make = slf.py().import("sona.dreams")?.getattr("_consolidator")?;
        let args = (c.merge_similarity, c.half_life_s, c.max_bytes, c.coverage);
        Ok((make, args).into_pyobject(slf.py())?.into_any())
    }

    fn __repr__(&self) -> String {
        let c = &self.inner;
        let mut parts = Vec::new();
        let plain = Consolidator::default();
        if c.merge_similarity != plain.merge_similarity {
            parts.push(format!("merge_similarity={}", c.merge_similarity));
        }
        if c.half_life_s != plain.half_life_s {
            parts.push(format!("half_life_s={}", c.half_life_s));
        }
        if let Some(b) = c.max_bytes {
            parts.push(format!("max_bytes={b}"));
        }
        if let Some(n) = c.coverage {
            parts.push(format!("coverage={n}"));
        }
        format!("MemoryConsolidator({})", parts.join(", "))
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyConsolidator>()
}
