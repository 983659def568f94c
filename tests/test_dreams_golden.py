"""Every case of the golden file of the room ``dreams``, and published values of Φ."""

from __future__ import annotations

import numpy as np
import pytest

from golden_files import golden
from sona.dreams import (
    DreamConfig,
    DreamEngine,
    MemoryNode,
    PhiEvaluator,
    random_walk_with_restart,
    stochastic_interaction,
)


@golden("rwr", "dreams.npz")
def test_golden_walk(arrays, params, tol):
    got = random_walk_with_restart(arrays["W"], params["start"], restart=params["restart"])
    np.testing.assert_allclose(got, arrays["r"], rtol=1e-7, atol=1e-8)
    assert got.dtype == np.float64
    assert got.sum() == pytest.approx(1.0, abs=1e-12)


@golden("phi", "dreams.npz")
def test_golden_phi(arrays, params, tol):
    got = PhiEvaluator().phi(arrays["tpm"], params["state"], cm=arrays["cm"])
    assert got.phi == pytest.approx(params["phi"], abs=tol)
    assert [m for m, _ in got.concepts] == [tuple(m) for m, _ in params["concepts"]]
    np.testing.assert_allclose([p for _, p in got.concepts], [p for _, p in params["concepts"]], atol=tol)


def table(n, rule):
    rows = [[(x >> i) & 1 for i in range(n)] for x in range(2**n)]
    return [rule(r) for r in rows]


def test_phi_of_three_exclusive_ors():
    tpm = table(3, lambda s: [s[1] ^ s[2], s[0] ^ s[2], s[0] ^ s[1]])
    cm = 1 - np.eye(3, dtype=int)
    assert PhiEvaluator().phi(tpm, [0, 0, 0], cm=cm).phi == pytest.approx(1.875, abs=1e-5)


def test_phi_of_rule_110():
    rule = {(1, 1, 1): 0, (1, 1, 0): 1, (1, 0, 1): 1, (1, 0, 0): 0, (0, 1, 1): 1, (0, 1, 0): 1, (0, 0, 1): 1, (0, 0, 0): 0}
    tpm = table(3, lambda s: [rule[s[i - 1], s[i], s[(i + 1) % 3]] for i in range(3)])
    for state in [(1, 0, 1), (0, 1, 1), (1, 1, 0)]:
        assert PhiEvaluator().phi(tpm, state).phi == pytest.approx(1.100015, abs=1e-5)


@golden("integration", "dreams.npz")
def test_golden_integration(arrays, params, tol):
    assert PhiEvaluator().integration(arrays["W"], restart=params["restart"]) == pytest.approx(params["value"], abs=tol)


@golden("si", "dreams.npz")
def test_golden_stochastic_interaction(arrays, params, tol):
    got = stochastic_interaction(arrays["A"], arrays["Q"], params["parts"])
    assert got == pytest.approx(params["value"], abs=1e-6)


@golden("dream_score", "dreams.npz")
def test_golden_score(arrays, params, tol):
    engine = DreamEngine(DreamConfig())
    for i, (x, importance) in enumerate(zip(arrays["embeddings"], arrays["importance"], strict=True)):
        engine.add_memory_node(MemoryNode(i, x, importance=float(importance)))
    for a, b in params["edges"]:
        engine.add_edge(a, b)
    got = engine.score_path(params["path"])
    for name in ("novelty", "coherence", "utility", "total"):
        assert getattr(got, name) == pytest.approx(params[name], abs=tol)
