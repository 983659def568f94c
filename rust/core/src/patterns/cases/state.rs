//! Memory and gate as bytes, and back with every field checked.

use super::coverage::Coverage;
use super::gate::{EvidenceMap, ItemGate};
use super::gate_params::GateParams;
use super::memory::{CaseMemory, MAX_WEIGHT};
use super::params::CaseParams;
use super::running::Running;
use super::segment::{Case, CaseId, Codes, Meta};
use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::kernels;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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
struct CaseState<'a> {
    id: CaseId,
    #[serde(borrow)]
    vectors: Floats<'a>,
    weight: f32,
    items: Vec<ItemId>,
    source: Arc<str>,
    user: Arc<str>,
    at: f64,
}

/// Floats on their way out, or as they were found.
enum Floats<'a> {
    Values(Arc<[f32]>),
    Bytes(&'a [u8]),
}

impl Floats<'_> {
    /// The values; `None` for a part of one.
    fn values(self) -> Option<Arc<[f32]>> {
        match self {
            Self::Values(v) => Some(v),
            Self::Bytes(bytes) => {
                let (values, rest) = bytes.as_chunks::<4>();
                rest.is_empty()
                    .then(|| values.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
        }
    }
}

impl Serialize for Floats<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Values(x) => {
                let mut bytes = vec![0u8; 4 * x.len()];
                for (out, v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&**x) {
                    *out = v.to_le_bytes();
                }
                s.serialize_bytes(&bytes)
            }
            Self::Bytes(bytes) => s.serialize_bytes(bytes),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Floats<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(d).map(Self::Bytes)
    }
}

#[derive(Serialize, Deserialize)]
struct MemoryState<'a> {
    dim: usize,
    params: CaseParams,
    seed: u64,
    next_id: CaseId,
    removed: u64,
    evicted: u64,
    #[serde(borrow)]
    cases: Vec<CaseState<'a>>,
}

impl From<&CaseMemory> for MemoryState<'_> {
    fn from(m: &CaseMemory) -> Self {
        let case = |c: &Case| CaseState {
            id: c.id,
            vectors: Floats::Values(c.vectors.clone()),
            weight: c.weight,
            items: c.meta.items.to_vec(),
            source: c.meta.source.clone(),
            user: c.meta.user.clone(),
            at: c.at,
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

/// Cases from which on a second thread helps to make them: below, starting it costs more than it saves.
const SPLIT: usize = 1_024;

/// A case with what the scan needs of it.
struct Prepared {
    case: Case,
    codes: Codes,
}

impl CaseState<'_> {
    /// Checks everything but the order of ids, and makes sketch and byte codes.
    fn prepare(self, dim: usize) -> Result<Prepared> {
        let id = self.id;
        let bad = |reason: String| Err(Error::corrupt("case memory", reason));
        let vectors = match self.vectors.values() {
            Some(v) if Some(v.len()) == dim.checked_mul(2) && kernels::all_finite(&v) => v,
            _ => {
                return bad(format!(
                    "vectors of case {id} are not two finite vectors of length {dim}"
                ));
            }
        };
        if (kernels::norm(&vectors[..dim]) - 1.0).abs() > 1e-3 {
            return bad(format!("request of case {id} is not of unit length"));
        }
        if !(self.weight.is_finite() && self.weight != 0.0 && self.weight.abs() <= MAX_WEIGHT) {
            return bad(format!("weight of case {id} is {}", self.weight));
        }
        if !self.at.is_finite() {
            return bad(format!("time of case {id} is {}", self.at));
        }
        if self.items.is_empty() {
            return bad(format!("case {id} is about no item"));
        }
        let meta = Meta {
            items: self.items.into(),
            source: self.source,
            user: self.user,
        };
        let case = Case::new(id, vectors, self.weight, self.at, meta);
        let codes = Codes::of(&case);
        Ok(Prepared { case, codes })
    }
}

fn prepare_all(cases: Vec<CaseState<'_>>, dim: usize) -> Result<Vec<Prepared>> {
    cases.into_iter().map(|c| c.prepare(dim)).collect()
}

/// [`prepare_all`] with a second thread for half of them, where there is one.
fn prepare(mut cases: Vec<CaseState<'_>>, dim: usize) -> Result<Vec<Prepared>> {
    if cases.len() < SPLIT || !std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
        return prepare_all(cases, dim);
    }
    let rest = Mutex::new(cases.split_off(cases.len() / 2));
    let second = || prepare_all(std::mem::take(&mut *rest.lock()), dim);
    std::thread::scope(|s| {
        let thread = std::thread::Builder::new().spawn_scoped(s, second);
        let mut all = prepare_all(cases, dim)?;
        all.extend(match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(rest)) => rest?,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // The system has no thread to spare.
            Err(_) => second()?,
        });
        Ok(all)
    })
}

/// What only a memory whose cases age has: half-life in days, and its clock.
type Aging = (f64, f64);

impl CaseMemory {
    /// The whole state. Errors if an item id lives only in this process.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let aging: Option<Aging> = self.params.half_life_days.map(|days| (days, self.clock));
        codec::encode_with(MEMORY, aging, &MemoryState::from(self))
    }

    /// Reads back what [`Self::to_bytes`] wrote; bytes are treated as hostile.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_state(codec::decode_with(MEMORY, bytes)?)
    }

    /// [`Self::from_bytes`] for bytes inside another state whose checksum was found to match.
    pub(crate) fn from_bytes_within(bytes: &[u8]) -> Result<Self> {
        Self::from_state(codec::decode_with_within(MEMORY, bytes)?)
    }

    fn from_state((aging, state): (Option<Aging>, MemoryState<'_>)) -> Result<Self> {
        let params = CaseParams {
            half_life_days: aging.map(|a| a.0),
            ..state.params
        };
        let mut memory =
            Self::new(state.dim, params, state.seed).map_err(|e| Error::corrupt("case memory", e))?;
        for p in prepare(state.cases, state.dim)? {
            let id = p.case.id;
            if id < memory.next_id || id >= state.next_id {
                return Err(Error::corrupt(
                    "case memory",
                    format!("case id {id} is out of order"),
                ));
            }
            memory.next_id = id + 1;
            memory.append(p.case, &p.codes);
        }
        memory.next_id = state.next_id;
        memory.removed = state.removed;
        memory.evicted = state.evicted;
        if let Some((_, clock)) = aging {
            if !(clock >= memory.clock && clock < f64::INFINITY) {
                return Err(Error::corrupt("case memory", format!("clock is {clock}")));
            }
            memory.clock = clock;
        }
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

impl ItemGate {
    /// The whole state. Errors if an item id lives only in this process.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(GATE, &GateState::from(self))
    }

    /// Reads back what [`Self::to_bytes`] wrote; bytes are treated as hostile.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        codec::decode::<GateState>(GATE, bytes)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(n: u64) -> Vec<CaseState<'static>> {
        let case = |id| CaseState {
            id,
            vectors: Floats::Values([1.0, 0.0, id as f32, 0.5].into()),
            weight: 1.0,
            items: vec![ItemId::Int(7)],
            source: "".into(),
            user: "".into(),
            at: 0.0,
        };
        (0..n).map(case).collect()
    }

    #[test]
    fn impossible_times_and_clocks_are_refused() {
        let mut memory = CaseMemory::new(2, CaseParams::default(), 0).unwrap();
        for case in prepare(cases(3), 2).unwrap() {
            memory.append(case.case, &case.codes);
            memory.next_id += 1;
        }
        let bytes =
            |aging: Option<Aging>| codec::encode_with(MEMORY, aging, &MemoryState::from(&memory)).unwrap();
        assert_eq!(bytes(None), memory.to_bytes().unwrap(), "the first layout");
        let read = CaseMemory::from_bytes(&bytes(Some((2.0, 5.0)))).unwrap();
        assert_eq!((read.params.half_life_days, read.clock), (Some(2.0), 5.0));
        for bad in [
            (0.0, 5.0),
            (f64::NAN, 5.0),
            (2.0, -1.0),
            (2.0, f64::NAN),
            (2.0, f64::INFINITY),
        ] {
            assert!(CaseMemory::from_bytes(&bytes(Some(bad))).is_err(), "{bad:?}");
        }
        let mut timeless = cases(1);
        timeless[0].at = f64::NAN;
        assert!(prepare(timeless, 2).is_err());
    }

    #[test]
    fn two_threads_prepare_what_one_does() {
        let n = 2 * SPLIT as u64 + 1;
        let (two, one) = (prepare(cases(n), 2).unwrap(), prepare_all(cases(n), 2).unwrap());
        assert_eq!(two.len() as u64, n);
        for (i, (a, b)) in two.iter().zip(&one).enumerate() {
            assert_eq!(a.case.id, i as u64);
            assert_eq!((a.case.id, &a.case.vectors), (b.case.id, &b.case.vectors));
        }
    }

    #[test]
    fn an_impossible_case_is_found_in_either_half() {
        let n = 2 * SPLIT;
        for at in [0, 1, SPLIT - 1, SPLIT, n - 1] {
            let mut bad = cases(n as u64);
            bad[at].weight = f32::NAN;
            let Err(e) = prepare(bad, 2) else {
                panic!("accepted case {at}");
            };
            assert!(e.to_string().contains(&format!("case {at} ")), "{e}");
        }
    }
}
