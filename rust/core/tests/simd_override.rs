//! `SONA_SIMD` lowers the tier: each setting in a process of its own, because the choice is made once.

use sona_core::kernels::{self, Tier};
use std::process::Command;

const CHILD: &str = "SONA_TEST_EXPECTED_TIER";

/// The child's part: with the variable of the parent set, the tier is as told and the kernels work.
#[test]
fn child_runs_the_expected_tier() {
    let Ok(expected) = std::env::var(CHILD) else {
        return assert!(kernels::tiers().contains(&kernels::tier()));
    };
    assert_eq!(kernels::tier().name(), expected);
    let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
    assert_eq!(kernels::dot(&x, &x), 328_350.0);
    assert_eq!(
        kernels::scan_top_k(&x, 100, 1, &[2.0], 2),
        [(198.0, 99), (196.0, 98)]
    );
    assert_eq!(kernels::dot_i8(&[-127; 100], &[127; 100]), -1_612_900);
}

#[test]
fn override_takes_the_best_tier_at_or_below() {
    let have = kernels::tiers();
    for asked in ["scalar", "avx2", "avx512", "amx", "AVX2 ", "nonsense", ""] {
        let limit = Tier::from_name(asked).unwrap_or(Tier::Amx);
        let expected = have.iter().rfind(|t| **t <= limit).unwrap();
        eprintln!("SONA_SIMD={asked:?}: expect {}", expected.name());
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_runs_the_expected_tier"])
            .env("SONA_SIMD", asked)
            .env(CHILD, expected.name())
            .status()
            .unwrap();
        assert!(status.success(), "SONA_SIMD={asked:?}");
    }
}
