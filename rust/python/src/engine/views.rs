//! Reports, explanations and receipts as dicts; `sona.engine` gives them their classes.

use super::ids::to_object;
use crate::arrays::metrics_dict;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use sona_core::engine::stats::{Progress, Running};
use sona_core::engine::{CycleReport, Engine, Explanation, Preference, Promotion, Removed};
use sona_core::patterns::bank::Pattern;

fn running<'py>(py: Python<'py>, r: &Running) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("n", r.n)?;
    d.set_item("mean", r.mean)?;
    let (low, high) = r.interval();
    d.set_item("low", if r.n < 2 { None } else { Some(low) })?;
    d.set_item("high", if r.n < 2 { None } else { Some(high) })?;
    Ok(d)
}

fn progress<'py>(py: Python<'py>, p: &Progress) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    for (name, r) in [
        ("base", &p.base),
        ("learned", &p.learned),
        ("lift", &p.lift),
        ("lift_seen", &p.lift_seen),
        ("lift_unseen", &p.lift_unseen),
    ] {
        d.set_item(name, running(py, r)?)?;
    }
    Ok(d)
}

pub(super) fn report<'py>(py: Python<'py>, engine: &Engine) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("mode", engine.mode().name())?;
    out.set_item("version", engine.version())?;
    out.set_item("harm_budget", engine.config().harm_budget)?;
    out.set_item("progress", progress(py, &engine.progress())?)?;
    let scopes = PyDict::new(py);
    for s in engine.report() {
        let d = PyDict::new(py);
        d.set_item("version", s.version)?;
        d.set_item("progress", progress(py, &s.progress)?)?;
        d.set_item("cases", metrics_dict(py, &s.cases)?)?;
        d.set_item("gate", metrics_dict(py, &s.gate)?)?;
        d.set_item("harm", metrics_dict(py, &s.harm)?)?;
        d.set_item("items", s.items.0)?;
        d.set_item("item_bytes", s.items.1)?;
        d.set_item("duplicates", s.duplicates)?;
        let sources = PyDict::new(py);
        for (name, count) in &s.sources {
            let c = PyDict::new(py);
            c.set_item("learned", count.learned)?;
            c.set_item("capped", count.capped)?;
            c.set_item("expired", count.expired)?;
            sources.set_item(name, c)?;
        }
        d.set_item("sources", sources)?;
        scopes.set_item(&*s.name, d)?;
    }
    out.set_item("scopes", scopes)?;
    Ok(out)
}

pub(super) fn explanation<'py>(py: Python<'py>, e: &Explanation) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("scope", &*e.scope)?;
    out.set_item("version", e.version)?;
    out.set_item("explained_by", e.explained_by)?;
    out.set_item("acted", e.acted)?;
    let items = PyList::empty(py);
    for i in &e.items {
        let d = PyDict::new(py);
        d.set_item("id", to_object(py, &i.id)?)?;
        d.set_item("base", i.base)?;
        d.set_item("adapter", i.adapter)?;
        d.set_item("recall", i.recall)?;
        d.set_item("gate", i.gate)?;
        d.set_item("score", i.score)?;
        items.append(d)?;
    }
    out.set_item("items", items)?;
    out.set_item("cases", e.cases.clone())?;
    out.set_item("beta", e.gate_arm.0)?;
    out.set_item("lambda_", e.gate_arm.1)?;
    Ok(out)
}

pub(super) fn promotion<'py>(py: Python<'py>, p: &Promotion) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("accepted", p.accepted)?;
    d.set_item("reason", &p.reason)?;
    d.set_item("n", p.n)?;
    d.set_item("lift", p.lift)?;
    d.set_item("low", p.interval.0)?;
    d.set_item("high", p.interval.1)?;
    d.set_item("lift_unseen", p.lift_unseen)?;
    Ok(d)
}

pub(super) fn preference<'py>(py: Python<'py>, p: &Preference) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("decision", p.decision.id.to_string())?;
    d.set_item("scope", &*p.decision.scope)?;
    d.set_item("query", PyArray1::from_slice(py, &p.decision.query))?;
    d.set_item("chosen", to_object(py, &p.chosen)?)?;
    d.set_item("rejected", to_object(py, &p.rejected)?)?;
    d.set_item("weight", p.reward)?;
    d.set_item("propensity", p.propensity)?;
    d.set_item("source", &*p.source)?;
    d.set_item("user", &*p.user)?;
    Ok(d)
}

pub(super) fn removed<'py>(py: Python<'py>, r: &Removed) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("events", r.events)?;
    d.set_item("decisions", r.decisions)?;
    d.set_item("cases_before", r.cases_before)?;
    d.set_item("cases_after", r.cases_after)?;
    d.set_item("alive", r.alive.clone())?;
    Ok(d)
}

pub(super) fn cycle<'py>(py: Python<'py>, r: &CycleReport) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("scope", &*r.scope)?;
    d.set_item("trajectories", r.trajectories)?;
    d.set_item("patterns", r.patterns)?;
    d.set_item("trained_on", r.trained_on)?;
    d.set_item("accepted", r.accepted)?;
    d.set_item("reason", &r.reason)?;
    d.set_item("gain", r.gain)?;
    d.set_item("low", r.interval.0)?;
    d.set_item("high", r.interval.1)?;
    d.set_item("elapsed_s", r.elapsed.as_secs_f64())?;
    Ok(d)
}

pub(super) fn pattern<'py>(py: Python<'py>, p: &Pattern) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    d.set_item("id", p.id)?;
    d.set_item("centroid", PyArray1::from_slice(py, &p.centroid))?;
    d.set_item("cluster_size", p.cluster_size)?;
    d.set_item("total_weight", p.total_weight)?;
    d.set_item("avg_quality", p.avg_quality)?;
    d.set_item("quality_var", p.quality_var)?;
    d.set_item("created_at", p.created_at)?;
    d.set_item("last_accessed", p.last_accessed)?;
    d.set_item("access_count", p.access_count)?;
    d.set_item("verdict", format!("{:?}", p.verdict).to_uppercase())?;
    Ok(d)
}
