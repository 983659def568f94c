"""The reference agrees with the stored golden streams and keeps the promises of its equations."""

from __future__ import annotations

import numpy as np
import pytest
from make_rec_golden import CASES, OUT, run, unit
from rec_reference import EvidenceGate, MultiplierGate, Rec, StrayClicks, dcg, top_candidates


@pytest.mark.parametrize("case", CASES)
def test_golden_streams_are_reproduced(case: str) -> None:
    with np.load(OUT) as golden:
        for key, value in run(*CASES[case]).items():
            np.testing.assert_allclose(value, golden[f"{case}/{key}"], rtol=1e-9, atol=1e-12, err_msg=key)


def test_golden_streams_use_an_evidence_arm_and_more_cases_than_neighbours() -> None:
    with np.load(OUT) as golden:
        assert golden["many/arm"].max() > 0
        assert golden["many/marks"].max() > golden["many/param_neighbors"]


def test_no_cases_is_the_identity_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    q, items = unit(rng.standard_normal(8)), unit(rng.standard_normal((6, 8)))
    base = rng.standard_normal(6)
    for gate in (EvidenceGate(), MultiplierGate()):
        rec = Rec(8)
        assert np.array_equal(rec.adapt(q), q)
        assert np.array_equal(gate.scores(rec, q, range(6), items, base), base)


def test_one_case_moves_the_request_towards_the_clicked_item() -> None:
    rng = np.random.default_rng(1)
    q, items = unit(rng.standard_normal(8)), unit(rng.standard_normal((6, 8)))
    rec = Rec(8)
    before = rec.scores(q, range(6), items)
    rec.learn(q, [2], range(6), items)
    after = rec.scores(q, range(6), items)
    assert after[2] - before[2] == max(after - before)
    # By hand: p from softmax(items q / .1), g = d_2 - p.items, a_1 = b_1 = 1, r(2) = 1 / 1.001.
    z = np.exp((before - before.max()) / 0.1)
    u = q + 0.6 * (items[2] - (z / z.sum()) @ items)
    expected = items @ (u / np.linalg.norm(u)) + 0.2 * np.eye(6)[2] / 1.001
    np.testing.assert_allclose(after, expected, atol=1e-12)


def test_neighbours_leave_far_cases_out() -> None:
    rng = np.random.default_rng(2)
    items = unit(rng.standard_normal((6, 8)))
    near, every = Rec(8, neighbors=3), Rec(8, neighbors=None)
    for k in range(10):
        q = unit(rng.standard_normal(8))
        for rec in (near, every):
            rec.learn(q, [k % 6], range(6), items, scores=items @ q)
    q = unit(rng.standard_normal(8))
    best = np.argsort(-(np.stack(every.q) @ q))[:3]
    alone = Rec(8, neighbors=None)
    for k in best:
        alone.learn(every.q[k], [int(k) % 6], range(6), items, scores=items @ every.q[k])
    np.testing.assert_allclose(near.scores(q, range(6), items), alone.scores(q, range(6), items), atol=1e-12)
    assert not np.allclose(near.adapt(q), every.adapt(q), atol=1e-6)


def test_dcg_ranks_ties_and_nan_worst() -> None:
    scores = np.array([[0.3, 0.3, 0.1], [np.nan, 0.3, 0.1]])
    np.testing.assert_allclose(dcg(scores, [0]), [1 / np.log2(3), 1 / np.log2(4)])


def test_candidates_are_shown_then_best() -> None:
    assert top_candidates([3, 1], np.array([0.9, 0.1, 0.5, 0.0, 0.4]), top=2) == [3, 1, 0, 2]


def test_a_click_that_the_ranking_expects_is_believed_and_strays_raise_the_share() -> None:
    scores = np.array([0.9, 0.2, 0.1, 0.1, 0.0])
    calm, wild = StrayClicks(), StrayClicks()
    for _ in range(200):
        calm.observe(scores, [0])
        wild.observe(scores, [4])
    assert calm.strays / calm.total < 0.05 < wild.strays / wild.total
    assert calm.observe(scores, [0]) > 0.99
    assert wild.observe(scores, [4]) < 0.05
    # Flat scores say nothing: rho = 1 - eps.
    fresh = StrayClicks()
    assert np.isclose(fresh.observe(np.zeros(5), [2]), 1 - 1 / 20)
