//! Memory and gate as bytes, and back with every field checked.

use super::coverage::Coverage;
use super::gate::{EvidenceMap, ItemGate};
use super::gate_params::GateParams;
use super::memory::{CaseMemory, MAX_WEIGHT};
use super::params::CaseParams;
use super::running::Running;
use super::segment::{Case, CaseId, Meta};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_finite};
use crate::item::ItemId;
use crate::kernels;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::sync::Arc;

const MEMORY: Kind = Kind {
    tag: *b"CASE",
    version: 1,
};
const GATE: Kind = Kind {
    tag: *b"GATE",
    version: 2,
};

/// A case as it is written: vectors as little-endian bytes, which decode without a loop over varints.
#[derive(Serialize, Deserialize)]
struct CaseState {
    id: CaseId,
    #[serde(serialize_with = "write_floats", deserialize_with = "read_floats")]
    vectors: Arc<[f32]>,
    weight: f32,
    items: Vec<ItemId>,
    source: Arc<str>,
    user: Arc<str>,
    at: f64,
}

fn write_floats<S: Serializer>(x: &Arc<[f32]>, s: S) -> Result<S::Ok, S::Error> {
    let mut bytes = vec![0u8; 4 * x.len()];
    for (out, v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&**x) {
        *out = v.to_le_bytes();
    }
    s.serialize_bytes(&bytes)
}

fn read_floats<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<[f32]>, D::Error> {
    struct Floats;
    impl de::Visitor<'_> for Floats {
        type Value = Arc<[f32]>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes of float32 values")
        }
        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
            let (values, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(E::custom("not a whole number of float32 values"));
            }
            Ok(values.iter().map(|b| f32::from_le_bytes(*b)).collect())
        }
    }
    d.deserialize_bytes(Floats)
}

#[derive(Serialize, Deserialize)]
struct MemoryState {
    dim: usize,
    params: CaseParams,
    seed: u64,
    next_id: CaseId,
    removed: u64,
    evicted: u64,
    cases: Vec<CaseState>,
}

impl From<&CaseMemory> for MemoryState {
    fn from(m: &CaseMemory) -> Self {
        let case = |c: &Case| CaseState {
            id: c.id,
            vectors: c.vectors.clone(),
            weight: c.weight,
            items: c.meta.items.to_vec(),
            source: c.meta.source.clone(),
            user: c.meta.user.clone(),
            at: c.meta.at,
        };
        Self {
            dim: m.dim,
            params: m.params,
            seed: m.seed,
            next_id: m.next_id,
            removed: m.removed,
            evicted: m.evicted,
            cases: m.segments.iter().flat_map(|s| &s.cases).map(case).collect(),
        }
    }
}

impl TryFrom<MemoryState> for CaseMemory {
    type Error = Error;

    fn try_from(state: MemoryState) -> Result<Self> {
        let bad = |reason: String| Err(Error::corrupt("case memory", reason));
        let mut memory =
            Self::new(state.dim, state.params, state.seed).map_err(|e| Error::corrupt("case memory", e))?;
        for c in state.cases {
            if c.id < memory.next_id || c.id >= state.next_id {
                return bad(format!("case id {} is out of order", c.id));
            }
            if Some(c.vectors.len()) != state.dim.checked_mul(2)
                || check_finite("vectors", &c.vectors).is_err()
            {
                return bad(format!(
                    "vectors of case {} are not two finite vectors of length {}",
                    c.id, state.dim
                ));
            }
            if (kernels::norm(&c.vectors[..state.dim]) - 1.0).abs() > 1e-3 {
                return bad(format!("request of case {} is not of unit length", c.id));
            }
            if !(c.weight.is_finite() && c.weight != 0.0 && c.weight.abs() <= MAX_WEIGHT) {
                return bad(format!("weight of case {} is {}", c.id, c.weight));
            }
            if c.items.is_empty() {
                return bad(format!("case {} is about no item", c.id));
            }
            memory.next_id = c.id + 1;
            let meta = Meta {
                items: c.items.into(),
                source: c.source,
                user: c.user,
                at: c.at,
            };
            memory.append(Case::new(c.id, c.vectors, c.weight, meta));
        }
        memory.next_id = state.next_id;
        memory.removed = state.removed;
        memory.evicted = state.evicted;
        Ok(memory)
    }
}

#[derive(Serialize, Deserialize)]
struct GateState {
    params: GateParams,
    seed: u64,
    count: u64,
    as_is: Running,
    removed: Running,
    evidence: Vec<(ItemId, f32)>,
    coverage: Coverage,
}

impl From<&ItemGate> for GateState {
    fn from(g: &ItemGate) -> Self {
        let mut evidence: Vec<_> = g.evidence.iter().map(|(id, e)| (id.clone(), *e)).collect();
        evidence.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            params: g.params,
            seed: g.seed,
            count: g.count,
            as_is: g.as_is.clone(),
            removed: g.removed.clone(),
            evidence,
            coverage: g.coverage,
        }
    }
}

impl TryFrom<GateState> for ItemGate {
    type Error = Error;

    fn try_from(state: GateState) -> Result<Self> {
        let mut gate = Self::new(state.params, state.seed).map_err(|e| Error::corrupt("item gate", e))?;
        let arms = Self::arms(state.params.mode);
        if !state.as_is.is_valid(arms) || !state.removed.is_valid(arms) {
            return Err(Error::corrupt("item gate", "running means do not fit the arms"));
        }
        let n = state.evidence.len();
        if state.evidence.iter().any(|(_, e)| !(e.is_finite() && *e >= 0.0)) {
            return Err(Error::corrupt(
                "item gate",
                "evidence is not a finite number >= 0",
            ));
        }
        gate.evidence = state.evidence.into_iter().collect::<EvidenceMap>();
        if gate.evidence.len() != n {
            return Err(Error::corrupt("item gate", "an item is there twice"));
        }
        if !state.coverage.is_valid() {
            return Err(Error::corrupt("item gate", "coverage is not a share"));
        }
        gate.coverage = state.coverage;
        gate.count = state.count;
        gate.as_is = state.as_is;
        gate.removed = state.removed;
        gate.choose();
        Ok(gate)
    }
}

macro_rules! via_state {
    ($type:ty, $state:ty, $kind:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                <$state>::from(self).serialize(s)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <$state>::deserialize(d)?
                    .try_into()
                    .map_err(de::Error::custom)
            }
        }

        impl $type {
            /// The whole state. Errors if an item id lives only in this process.
            pub fn to_bytes(&self) -> Result<Vec<u8>> {
                codec::encode($kind, self)
            }

            /// Reads back what [`Self::to_bytes`] wrote; bytes are treated as hostile.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
                codec::decode::<$state>($kind, bytes)?.try_into()
            }
        }
    };
}

via_state!(CaseMemory, MemoryState, MEMORY);
via_state!(ItemGate, GateState, GATE);
