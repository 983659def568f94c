//! Arguments as Python passes them.

use super::decision::PyDecision;
use super::ids::Ids;
use crate::arrays::{matrix, place, vector};
use crate::errors::{IntoPy, to_py};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use sona_core::Error;
use sona_core::engine::anchors::Anchors;
use sona_core::engine::{DecisionId, IdRef};
use sona_core::trajectory::TrajectoryStep;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Activations, attention weights, reward.
pub(super) type Step<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, f32);

pub(super) fn seconds(now: Option<f64>) -> f64 {
    now.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64())
    })
}

pub(super) fn decision_id(x: &Bound<'_, PyAny>) -> PyResult<DecisionId> {
    if let Ok(s) = x.cast::<PyString>() {
        return DecisionId::parse(s.to_str()?).py();
    }
    match x.cast::<PyDecision>() {
        Ok(d) => match &d.get().id {
            Some(id) => DecisionId::parse(id).py(),
            None => Err(to_py(Error::value(
                "decision_id",
                "a decision that was recorded",
                "one made in mode off, or with a full disk",
            ))),
        },
        Err(_) => Err(PyTypeError::new_err(format!(
            "decision_id: expected the id of a decision (str), got {}",
            x.get_type().name()?
        ))),
    }
}

/// A list, set or array holds several ids; a str, int, bytes or tuple is one.
fn one_or_many<'py>(x: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let single = x.is_instance_of::<PyString>()
        || x.is_instance_of::<PyBytes>()
        || x.is_instance_of::<PyTuple>()
        || x.try_iter().is_err();
    if single {
        Ok(vec![x.clone()])
    } else {
        x.try_iter()?.collect()
    }
}

/// Judged items and their rewards: 1 for what was chosen, then the graded ones.
pub(super) fn judged<'py>(
    chosen: Option<&Bound<'py, PyAny>>,
    rewards: Option<&Bound<'py, PyDict>>,
) -> PyResult<(Ids<'py>, Vec<f32>)> {
    let mut objects = chosen.map_or_else(|| Ok(Vec::new()), one_or_many)?;
    let mut values = vec![1.0; objects.len()];
    if let Some(rewards) = rewards {
        for (id, reward) in rewards {
            objects.push(id);
            values.push(reward.extract()?);
        }
    }
    Ok((Ids::of(objects)?, values))
}

/// Pairs of id and reward; an id that comes twice is an error.
pub(super) fn distinct<'a>(ids: &'a Ids<'_>, values: &[f32]) -> PyResult<Vec<(IdRef<'a>, f32)>> {
    let refs = ids.refs()?;
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::with_capacity(refs.len());
    for (id, value) in refs.iter().zip(values) {
        if !seen.insert(id.owned()) {
            return Err(to_py(Error::value(
                "chosen, rewards",
                "each item once",
                format!("{} twice", id.owned()),
            )));
        }
        pairs.push((*id, *value));
    }
    Ok(pairs)
}

pub(super) fn steps(steps: &[Step<'_>], dim: usize) -> PyResult<Vec<TrajectoryStep>> {
    steps
        .iter()
        .map(|(activations, weights, reward)| {
            Ok(TrajectoryStep {
                activations: vector("activations", activations, Some(dim))?,
                attention_weights: vector("attention_weights", weights, None)?,
                reward: f64::from(*reward),
                timestamp: 0.0,
            })
        })
        .collect()
}

/// A number, or a string such as "v12".
pub(super) fn version(x: &Bound<'_, PyAny>) -> PyResult<u64> {
    let Ok(s) = x.cast::<PyString>() else {
        return place("version", x.extract()?);
    };
    let text = s.to_str()?;
    text.strip_prefix('v').unwrap_or(text).parse().map_err(|_| {
        to_py(Error::value(
            "version",
            "a number, or a string such as \"v12\"",
            format!("{text:?}"),
        ))
    })
}

pub(super) fn anchors(
    dim: usize,
    queries: &Bound<'_, PyAny>,
    ids: &Bound<'_, PyAny>,
    vectors: &Bound<'_, PyAny>,
    relevant: &Bound<'_, PyAny>,
) -> PyResult<Anchors> {
    let (queries, n, _) = matrix("queries", queries, Some(dim))?;
    let (vectors, _, _) = matrix("vectors", vectors, Some(dim))?;
    let ids = Ids::extract(ids)?;
    let wanted = relevant
        .try_iter()?
        .map(|r| Ids::of(one_or_many(&r?)?))
        .collect::<PyResult<Vec<_>>>()?;
    if wanted.len() != n {
        return Err(to_py(Error::shape(
            "relevant",
            format!("{n} entries, one for each query"),
            format!("{}", wanted.len()),
        )));
    }
    let wanted = wanted.iter().map(Ids::refs).collect::<PyResult<Vec<_>>>()?;
    Anchors::new(dim, &queries, &ids.refs()?, &vectors, &wanted).py()
}
