//! `SonaConfig` as the core's settings.

use crate::errors::{IntoPy, to_py};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::engine::{EngineConfig, Exploration, Mode};
use sona_core::store::Fsync;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a setting of this type has to be, in words.
trait Setting {
    const WANTED: &str;
}

macro_rules! wanted {
    ($($t:ty: $words:literal;)*) => {
        $(impl Setting for $t {
            const WANTED: &str = $words;
        })*
    };
}

wanted! {
    u32: "a whole number of at least 0";
    u64: "a whole number of at least 0";
    usize: "a whole number of at least 0";
    Option<usize>: "a whole number of at least 0, or None";
    Option<f64>: "a number, or None";
    f32: "a number";
    f64: "a number";
    bool: "True or False";
    String: "a string";
    BTreeMap<String, u32>: "a dict from source to a whole number of at least 0";
    BTreeMap<String, f32>: "a dict from source to a number";
}

fn get<'py, T>(d: &Bound<'py, PyDict>, name: &'static str) -> PyResult<T>
where
    T: Setting + for<'a> FromPyObject<'a, 'py>,
{
    let value = d
        .get_item(name)?
        .ok_or_else(|| to_py(Error::config(name, T::WANTED, "nothing")))?;
    let got = value.repr()?.to_string();
    value
        .extract::<T>()
        .map_err(|_| to_py(Error::config(name, T::WANTED, got)))
}

/// Core settings from the fields of `SonaConfig`, and the fsync policy.
pub(super) fn parse(d: &Bound<'_, PyDict>) -> PyResult<(EngineConfig, Fsync)> {
    let rate: f32 = get(d, "exploration_rate")?;
    let exploration = match get::<String>(d, "exploration")?.as_str() {
        "none" => Exploration::None,
        "epsilon" => Exploration::Epsilon(rate),
        "softmax" => Exploration::Softmax(rate),
        other => {
            return Err(to_py(Error::config(
                "exploration",
                "none, epsilon or softmax",
                format!("{other:?}"),
            )));
        }
    };
    let fsync = match get::<String>(d, "fsync")?.as_str() {
        "always" => Fsync::Always,
        "group" => Fsync::Group(Duration::from_millis(100)),
        "none" => Fsync::None,
        other => {
            return Err(to_py(Error::config(
                "fsync",
                "always, group or none",
                format!("{other:?}"),
            )));
        }
    };
    let config = EngineConfig {
        dim: get(d, "hidden_dim")?,
        seed: get(d, "seed")?,
        mode: Mode::parse(&get::<String>(d, "mode")?).py()?,
        canary_share: get(d, "canary_share")?,
        exploration,
        eta: get(d, "eta")?,
        recall_weight: get(d, "recall_weight")?,
        neighbors: get(d, "neighbors")?,
        gate: get(d, "gate")?,
        gate_nu: get(d, "gate_nu")?,
        micro_rank: get(d, "micro_lora_rank")?,
        micro_lr: get(d, "micro_lora_lr")?,
        base_rank: get(d, "base_lora_rank")?,
        base_lr: get(d, "base_lora_lr")?,
        ewc: get(d, "ewc")?,
        ewc_lambda: get(d, "ewc_lambda")?,
        pattern_clusters: get(d, "pattern_clusters")?,
        capacity: get(d, "trajectory_capacity")?,
        case_bytes: get(d, "case_bytes")?,
        case_half_life_days: get(d, "case_half_life_days")?,
        item_bytes: get(d, "item_bytes")?,
        journal_bytes: get(d, "journal_bytes")?,
        max_scopes: get(d, "max_scopes")?,
        user_cap_per_minute: get(d, "user_cap_per_minute")?,
        source_caps: get(d, "source_caps")?,
        source_trust: get(d, "source_trust")?,
        learn_candidates: get(d, "learn_candidates")?,
        harm_budget: get(d, "harm_budget")?,
        decision_ttl_s: get(d, "decision_ttl_s")?,
        min_users: get(d, "min_users")?,
        quality_threshold: get(d, "quality_threshold")?,
        fingerprint: get(d, "fingerprint")?,
    };
    Ok((config, fsync))
}

/// The settings that a loaded engine had, as fields of `SonaConfig`.
pub(super) fn emit<'py>(py: Python<'py>, c: &EngineConfig) -> PyResult<Bound<'py, PyDict>> {
    let d = PyDict::new(py);
    let (exploration, rate) = match c.exploration {
        Exploration::None => ("none", 0.05),
        Exploration::Epsilon(e) => ("epsilon", e),
        Exploration::Softmax(t) => ("softmax", t),
    };
    d.set_item("hidden_dim", c.dim)?;
    d.set_item("seed", c.seed)?;
    d.set_item("mode", c.mode.name())?;
    d.set_item("canary_share", c.canary_share)?;
    d.set_item("exploration", exploration)?;
    d.set_item("exploration_rate", rate)?;
    d.set_item("eta", c.eta)?;
    d.set_item("recall_weight", c.recall_weight)?;
    d.set_item("neighbors", c.neighbors)?;
    d.set_item("gate", &c.gate)?;
    d.set_item("gate_nu", c.gate_nu)?;
    d.set_item("micro_lora_rank", c.micro_rank)?;
    d.set_item("micro_lora_lr", c.micro_lr)?;
    d.set_item("base_lora_rank", c.base_rank)?;
    d.set_item("base_lora_lr", c.base_lr)?;
    d.set_item("ewc", c.ewc)?;
    d.set_item("ewc_lambda", c.ewc_lambda)?;
    d.set_item("pattern_clusters", c.pattern_clusters)?;
    d.set_item("trajectory_capacity", c.capacity)?;
    d.set_item("case_bytes", c.case_bytes)?;
    d.set_item("case_half_life_days", c.case_half_life_days)?;
    d.set_item("item_bytes", c.item_bytes)?;
    d.set_item("journal_bytes", c.journal_bytes)?;
    d.set_item("max_scopes", c.max_scopes)?;
    d.set_item("user_cap_per_minute", c.user_cap_per_minute)?;
    d.set_item("source_caps", c.source_caps.clone())?;
    d.set_item("source_trust", c.source_trust.clone())?;
    d.set_item("learn_candidates", c.learn_candidates)?;
    d.set_item("harm_budget", c.harm_budget)?;
    d.set_item("decision_ttl_s", c.decision_ttl_s)?;
    d.set_item("min_users", c.min_users)?;
    d.set_item("quality_threshold", c.quality_threshold)?;
    d.set_item("fingerprint", &c.fingerprint)?;
    Ok(d)
}
