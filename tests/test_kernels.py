"""The instruction set in use, and the environment variable that lowers it."""

import os
import subprocess
import sys

import pytest

from sona import _core

TIERS = ["scalar", "avx2", "avx512", "amx"]


def tier_with(value: str | None) -> str:
    env = {k: v for k, v in os.environ.items() if k != "SONA_SIMD"}
    if value is not None:
        env["SONA_SIMD"] = value
    code = "from sona import _core; print(_core.simd_tier())"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_tiers_are_ordered_and_start_with_scalar() -> None:
    have = _core.simd_tiers()
    assert have[0] == "scalar"
    assert have == [t for t in TIERS if t in have]
    assert _core.simd_tier() in have


@pytest.mark.parametrize("asked", TIERS)
def test_override_takes_the_best_tier_at_or_below(asked: str) -> None:
    allowed = TIERS[: TIERS.index(asked) + 1]
    assert tier_with(asked) == [t for t in _core.simd_tiers() if t in allowed][-1]


@pytest.mark.parametrize("asked", [None, "", "no such tier"])
def test_without_a_known_override_the_best_tier_runs(asked: str | None) -> None:
    assert tier_with(asked) == _core.simd_tiers()[-1]
