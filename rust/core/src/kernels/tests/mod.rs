//! Every tier that the processor has, against float64.

mod bits;
mod dense;
mod extremes;
mod low_rank;
mod numbers;
mod real;
mod search;
mod split;

use super::tier::Table;
use super::*;
use crate::rng::{self, RngExt};
use proptest::prelude::*;

/// The tables under test; what is missing is printed, so that a gap is visible.
fn tables() -> Vec<&'static Table> {
    let have = tiers();
    for t in Tier::ALL {
        let state = if have.contains(&t) {
            "tested"
        } else {
            "NOT AVAILABLE HERE"
        };
        eprintln!("tier {}: {state}", t.name());
    }
    have.into_iter().filter_map(Table::of).collect()
}

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut r = rng::stream(seed, n as u64);
    (0..n).map(|_| rng::normal(&mut r) as f32).collect()
}

fn bytes(n: usize, seed: u64) -> Vec<i8> {
    let mut r = rng::stream(seed, n as u64);
    (0..n).map(|_| r.random_range(-127..=127i8)).collect()
}

/// 0..2·lanes+3 of the widest tier and some more.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=67).chain([96, 127, 128, 129, 255, 256, 384, 385, 767, 1000, 4096])
}

fn dot64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// Σ|aᵢbᵢ|, the scale of a rounding error.
fn mass(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) * f64::from(*y)).abs())
        .sum()
}

#[track_caller]
fn close(got: f32, want: f64, scale: f64) {
    assert!(
        (f64::from(got) - want).abs() <= 1e-6 * scale + 1e-37,
        "{got} != {want} (scale {scale})"
    );
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}
