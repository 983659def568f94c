//! Which instruction set runs: found once, kept as one pointer to a table of functions.

use super::nearest::{self, Nearest, Sites};
use super::scalar::{self, Projections};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Instruction set tiers, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Portable Rust, no instructions beyond the target's baseline.
    Scalar,
    /// x86-64 with AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later).
    Avx512,
    /// The same with the tile registers of AMX for matrix products (Sapphire Rapids and later, on Linux).
    Amx,
}

impl Tier {
    /// All tiers, slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx];

    /// `"scalar"`, `"avx2"`, `"avx512"` or `"amx"`: the values of the environment variable `SONA_SIMD`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Inverse of [`Tier::name`], ignoring case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(name.trim()))
    }
}

/// One function per kernel. Callers have checked lengths; calling an entry is sound where [`Table::of`] returned it.
#[allow(clippy::type_complexity, reason = "the types are the kernels' signatures")]
pub(super) struct Table {
    pub tier: Tier,
    pub dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub squared_l2: unsafe fn(&[f32], &[f32]) -> f32,
    pub axpy: unsafe fn(f32, &[f32], &mut [f32]),
    pub scale: unsafe fn(f32, &mut [f32]),
    pub all_finite: unsafe fn(&[f32]) -> bool,
    pub gemv: unsafe fn(&[f32], usize, &[f32], &mut [f32]),
    pub thin: unsafe fn(&[f32], usize, &[f32], &mut [f32]),
    pub gates: unsafe fn(&mut [f32], &[f32], &[f32], f32, f32),
    pub gather_dot: unsafe fn(&[f32], usize, &[usize], &[f32], &mut [f32]),
    pub gather_squared_l2: unsafe fn(&[f32], usize, &[usize], &[f32], &mut [f32]),
    pub gather_dot_i8: unsafe fn(&[i8], usize, &[usize], &[i8], &mut [i32]),
    pub weighted_sum_rows: unsafe fn(&[f32], usize, &[usize], &[f32], &mut [f32]),
    pub low_rank_apply: unsafe fn(&[f32], &[f32], &[f32], usize, f32, &mut [f32]),
    pub low_rank_apply_rows: unsafe fn(&[f32], usize, &[f32], &[f32], usize, f32, &mut [f32]),
    pub low_rank_project: unsafe fn(&[f32], &[f32], &[f32], &[f32], usize) -> Projections,
    pub low_rank_update: unsafe fn(&[f32], &[f32], &Projections, usize, &mut [f32], &mut [f32]),
    pub exp: unsafe fn(&mut [f32]),
    pub softmax: unsafe fn(&mut [f32], f32),
    pub log_sum_exp: unsafe fn(&[f32]) -> f32,
    pub quantize_i8: unsafe fn(&[f32], &mut [i8]) -> f32,
    pub tile: unsafe fn(&[f32], usize, &[f32], usize, &mut [f32]),
    pub nearest: unsafe fn(&Sites, &[f32], &mut Nearest),
    pub scores: unsafe fn(&Sites, &[f32], &mut [f32], usize),
    pub accumulate: unsafe fn(f64, &[f32], &mut [f64]),
    pub judge: unsafe fn(&[f32], &[f32], &[f32], &[f32]) -> [f32; nearest::TILE],
    pub reach: unsafe fn(&[f32], &[f32]) -> u64,
    pub reach_i32: unsafe fn(&[i32], i32) -> u64,
    pub maxima: unsafe fn(&[f32], &mut [f32]) -> bool,
    pub dot_i8: unsafe fn(&[i8], &[i8]) -> i32,
    pub gemv_i8: unsafe fn(&[i8], usize, &[i8], &mut [i32]),
}

static SCALAR: Table = Table {
    tier: Tier::Scalar,
    dot: scalar::dot,
    squared_l2: scalar::squared_l2,
    axpy: scalar::axpy,
    scale: scalar::scale,
    all_finite: scalar::all_finite,
    gemv: scalar::gemv,
    thin: scalar::thin,
    gates: scalar::gates,
    gather_dot: scalar::gather_dot,
    gather_squared_l2: scalar::gather_squared_l2,
    gather_dot_i8: scalar::gather_dot_i8,
    weighted_sum_rows: scalar::weighted_sum_rows,
    low_rank_apply: scalar::low_rank_apply,
    low_rank_apply_rows: scalar::low_rank_apply_rows,
    low_rank_project: scalar::low_rank_project,
    low_rank_update: scalar::low_rank_update,
    exp: scalar::exp,
    softmax: scalar::softmax,
    log_sum_exp: scalar::log_sum_exp,
    quantize_i8: scalar::quantize_i8,
    tile: scalar::tile,
    nearest: nearest::nearest_scalar,
    scores: nearest::scores_scalar,
    accumulate: nearest::accumulate_in_order,
    judge: nearest::judge_in_order,
    reach: scalar::reach,
    reach_i32: scalar::reach_i32,
    maxima: scalar::maxima,
    dot_i8: scalar::dot_i8,
    gemv_i8: scalar::gemv_i8,
};

impl Table {
    /// The table of `tier`, if this processor can run it.
    pub(super) fn of(tier: Tier) -> Option<&'static Self> {
        match tier {
            Tier::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => super::avx2::available().then_some(&super::avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => super::avx512::available().then_some(&super::avx512::TABLE),
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => super::amx::available().then_some(&super::amx::TABLE),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// The best table at or below `limit`.
    pub(super) fn best(limit: Tier) -> &'static Self {
        Tier::ALL
            .into_iter()
            .rev()
            .filter(|t| *t <= limit)
            .find_map(Self::of)
            .unwrap_or(&SCALAR)
    }
}

static ACTIVE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());

/// The table in use: one relaxed load after the first call.
#[inline]
pub(super) fn table() -> &'static Table {
    let p = ACTIVE.load(Ordering::Relaxed);
    if p.is_null() {
        return choose();
    }
    // SAFETY: only `choose` stores here, and it stores pointers to immutable statics.
    unsafe { &*p }
}

#[cold]
fn choose() -> &'static Table {
    let limit = std::env::var("SONA_SIMD")
        .ok()
        .and_then(|v| Tier::from_name(&v))
        .unwrap_or(Tier::Amx);
    let t = Table::best(limit);
    ACTIVE.store(std::ptr::from_ref(t).cast_mut(), Ordering::Relaxed);
    t
}

/// The tier in use: the best the processor has, or what `SONA_SIMD` asks for (the best one below it where the processor
/// lacks that). Fixed from the first kernel call on.
#[must_use]
pub fn tier() -> Tier {
    table().tier
}

/// The tiers this processor can run, slowest first.
#[must_use]
pub fn tiers() -> Vec<Tier> {
    Tier::ALL
        .into_iter()
        .filter(|t| Table::of(*t).is_some())
        .collect()
}
