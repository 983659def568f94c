"""Transport, integration and Φ: laws, oracles, bad input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import linprog

from sona.dreams import (
    DreamConfig,
    DreamEngine,
    MemoryNode,
    PhiEvaluator,
    earth_movers_distance,
    stochastic_interaction,
)
from sona.exceptions import CapacityError, ConfigError, NotFiniteError, ShapeError


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 8), m=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_transport_against_linear_programming(n, m, seed):
    rng = np.random.default_rng(seed)
    p, q, cost = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m)), rng.random((n, m))
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    want = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([p, q])).fun
    assert earth_movers_distance(p, q, cost) == pytest.approx(want, abs=1e-6)


def test_transport_of_sixteen_states():
    rng = np.random.default_rng(0)
    hamming = np.array([[bin(i ^ j).count("1") for j in range(16)] for i in range(16)])
    rows, columns = np.kron(np.eye(16), np.ones(16)), np.kron(np.ones(16), np.eye(16))
    for _ in range(10):
        p, q = rng.dirichlet(np.ones(16) * 0.3), rng.dirichlet(np.ones(16) * 0.3)
        want = linprog(hamming.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([p, q])).fun
        assert earth_movers_distance(p, q, hamming) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_interaction_against_lyapunov(seed):
    rng = np.random.default_rng(seed)
    n = 6
    A = rng.normal(size=(n, n))
    A *= 0.8 / np.abs(np.linalg.eigvals(A)).max()
    B = rng.normal(size=(n, n))
    Q = B @ B.T + np.eye(n)
    A, Q = A.astype(np.float32).astype(float), Q.astype(np.float32).astype(float)
    S = solve_discrete_lyapunov(A, Q)
    parts = [[0, 3], [1, 2, 4], [5]]
    total = -np.linalg.slogdet(Q)[1]
    for p in parts:
        C = (A @ S)[np.ix_(p, p)]
        total += np.linalg.slogdet(S[np.ix_(p, p)] - C @ np.linalg.solve(S[np.ix_(p, p)], C.T))[1]
    assert stochastic_interaction(A, Q, parts) == pytest.approx(total / 2, abs=1e-6)
    assert stochastic_interaction(A, Q, [list(range(n))]) == pytest.approx(0.0, abs=1e-6)


def test_integration_is_between_pieces_and_clique():
    e = PhiEvaluator()
    n = 16
    clique = 1 - np.eye(n)
    assert e.integration(clique) == pytest.approx(1.0, abs=1e-6)
    halves = clique.copy()
    halves[: n // 2, n // 2 :] = halves[n // 2 :, : n // 2] = 0
    assert e.integration(halves) == 0.0
    halves[0, -1] = halves[-1, 0] = 1
    bridge = e.integration(halves)
    halves[0, -4:] = halves[-4:, 0] = 1
    assert 0 < bridge < e.integration(halves) < 1
    order = np.random.default_rng(0).permutation(n)
    assert e.integration(halves[np.ix_(order, order)]) == pytest.approx(e.integration(halves), rel=0.05)


def test_dreams_of_a_clique_are_integrated():
    engine = DreamEngine(DreamConfig(restart_prob=0.0))
    rng = np.random.default_rng(0)
    for i in range(6):
        engine.add_memory_node(MemoryNode(i, rng.normal(size=4)))
        for j in range(i):
            engine.add_edge(i, j)
    dream = engine.generate_dream()
    assert PhiEvaluator().evaluate_dream(dream, engine) == pytest.approx(1.0, abs=1e-6)


def test_phi_is_invariant_under_relabelling():
    rng = np.random.default_rng(3)
    tpm = rng.random((8, 3))
    perm = [2, 0, 1]
    moved = np.empty_like(tpm)
    for x in range(8):
        bits = [(x >> i) & 1 for i in range(3)]
        y = sum(bits[perm[k]] << k for k in range(3))
        moved[y] = tpm[x][perm]
    state = [1, 0, 1]
    a = PhiEvaluator().phi(tpm, state).phi
    assert a > 0
    assert a == pytest.approx(PhiEvaluator().phi(moved, [state[i] for i in perm]).phi, abs=1e-6)


def test_phi_bad_input():
    e = PhiEvaluator()
    with pytest.raises(CapacityError, match="integration"):
        e.phi(np.zeros((32, 5)), [0] * 5)
    for tpm, state in [(np.full((4, 2), 1.2), [0, 0]), (np.zeros((3, 2)), [0, 0]), (np.zeros((4, 2)), [1, 1])]:
        with pytest.raises(ValueError):
            e.phi(tpm, state)
    with pytest.raises(ShapeError):
        e.phi(np.zeros((4, 2)), [0])
    with pytest.raises(ShapeError):
        e.phi(np.zeros((4, 2)), [0, 0], cm=[[1]])
    with pytest.raises(ShapeError):
        e.integration(np.zeros((2, 3)))
    with pytest.raises(NotFiniteError):
        e.integration([[0.0, float("nan")], [0.0, 0.0]])
    with pytest.raises(ValueError):
        e.integration([[0.0, -1.0], [0.0, 0.0]])
    with pytest.raises(ConfigError):
        PhiEvaluator(max_nodes=9)
    assert repr(pickle.loads(pickle.dumps(PhiEvaluator(max_nodes=3)))) == "PhiEvaluator(max_nodes=3)"  # noqa: S301
