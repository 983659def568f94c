"""Learning signals against float64 finite differences of losses written in numpy; edges and errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError
from sona.trajectory import LearningSignal, QueryTrajectory, RewardBaseline, TrajectoryStep

D = 7


def cosines(y, rows):
    rows = np.asarray(rows, np.float64)
    return rows @ y / np.linalg.norm(rows, axis=1) / np.linalg.norm(y)


def infonce(y, pos, neg, temperature=0.05):
    n = cosines(y, neg)
    return np.mean([-log_softmax(np.r_[p, n] / temperature)[0] for p in cosines(y, pos)])


def triplet(y, pos, neg, margin=0.2):
    return np.mean(np.maximum(0, margin - cosines(y, pos)[:, None] + cosines(y, neg)[None]))


def ranknet(y, pos, neg, sigma=1.0):
    return np.log1p(np.exp(-sigma * (cosines(y, pos)[:, None] - cosines(y, neg)[None]))).sum()


def pairwise(y, rows, rel, sigma=1.0, weights=None):
    s = cosines(y, rows)
    better = rel[:, None] > rel[None]
    losses = np.log1p(np.exp(-sigma * (s[:, None] - s[None])))
    return (losses * better * (1.0 if weights is None else weights)).sum()


def delta_ndcg(y, rows, rel):
    s = cosines(y, rows)
    rank = np.empty(len(s))
    rank[np.lexsort((np.arange(len(s)), -s))] = np.arange(1, len(s) + 1)
    gain, discount = 2.0**rel - 1, 1 / np.log2(1 + rank)
    ideal = (np.sort(gain)[::-1] / np.log2(np.arange(2, len(s) + 2))).sum()
    return np.abs((gain[:, None] - gain[None]) * (discount[:, None] - discount[None])) / ideal


def descent(loss, y):
    """Central differences in float64."""
    y = np.asarray(y, np.float64)
    h = 1e-6
    return np.array([(loss(y + h * e) - loss(y - h * e)) / (2 * h) for e in np.eye(len(y))])


def check(signal, loss, y):
    np.testing.assert_allclose(signal.metadata.loss, loss(np.asarray(y, np.float64)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(-signal.gradient_estimate, descent(loss, y), rtol=2e-4, atol=2e-6)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.integers(1, 3), n=st.integers(1, 4))
def test_ranking_gradients(seed, p, n):
    x, y, pos, neg = draw(seed, D), draw(seed + 1, D), draw(seed + 2, p, D), draw(seed + 3, n, D)
    for name, loss in (("infonce", infonce), ("triplet", triplet), ("ranknet", ranknet)):
        signal = LearningSignal.from_ranking(x, pos, neg, loss=name, output=y)
        check(signal, lambda y, loss=loss: loss(y, pos, neg), y)
        np.testing.assert_array_equal(signal.query_embedding, x)
    check(LearningSignal.from_ranking(x, pos, neg, temperature=0.7), lambda y: infonce(y, pos, neg, 0.7), x)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 6), sigma=st.floats(0.5, 3))
def test_relevance_gradients(seed, n, sigma):
    y, rows = draw(seed, D), draw(seed + 1, n, D)
    rel = np.random.default_rng(seed).integers(0, 4, n)
    signal = LearningSignal.from_relevance(y, rows, rel, sigma=sigma)
    check(signal, lambda y: pairwise(y, rows, rel, sigma), y)
    if rel.max() > rel.min():
        fixed = delta_ndcg(y.astype(np.float64), rows, rel)
        signal = LearningSignal.from_relevance(y, rows, rel, loss="lambdarank", sigma=sigma)
        check(signal, lambda y: pairwise(y, rows, rel, sigma, fixed), y)
    else:
        assert signal.metadata.reason
        assert not signal.gradient_estimate.any()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 6),
    reward=st.floats(0, 1),
    propensity=st.none() | st.floats(0.01, 1),
)
def test_choice_gradients(seed, n, reward, propensity):
    y, rows = draw(seed, D), draw(seed + 1, n, D)
    weight = 1.0
    if propensity is not None:
        weight = np.clip(softmax(cosines(y.astype(np.float64), rows) / 0.3)[0] / propensity, 0.1, 10)
    signal = LearningSignal.from_choice(y, rows, 0, reward, propensity=propensity, temperature=0.3)
    check(signal, lambda y: -weight * (reward - 0.5) * log_softmax(cosines(y, rows) / 0.3)[0], y)
    assert signal.quality_score == reward


def test_importance_weights_are_clipped():
    x, rows = draw(0, D), draw(1, 3, D)
    pi = softmax(cosines(x.astype(np.float64), rows) / 0.05)
    plain = LearningSignal.from_choice(x, rows, 1, 1.0).gradient_estimate
    for propensity, bounds in ((1e-9, (0.1, 10.0)), (1.0, (0.5, 10.0)), (1.0, (0.0, 0.25))):
        weight = np.clip(pi[1] / propensity, *bounds)
        got = LearningSignal.from_choice(x, rows, 1, 1.0, propensity=propensity, ips_clip=bounds)
        np.testing.assert_allclose(got.gradient_estimate, weight * plain, rtol=1e-5)


def test_one_positive_is_a_row_too():
    x, p, n = draw(0, D), draw(1, D), draw(2, 3, D)
    assert LearningSignal.from_ranking(x, p, n) == LearningSignal.from_ranking(x, p[None], n)


def test_a_trajectory_learns_also_from_one_step_and_from_equal_rewards():
    def signal(rewards, quality):
        steps = tuple(TrajectoryStep([1.0, 0.0], [], r) for r in rewards)
        return LearningSignal.from_trajectory(QueryTrajectory(0, [0.0, 0.0], steps, quality))

    # The mean of the trajectory's own rewards as a baseline would give 0 in each of these.
    assert signal([0.9], 0.9).gradient_estimate[0] > 0
    assert signal([0.9, 0.9, 0.9], 0.9).gradient_estimate[0] > 0
    assert signal([0.1], 0.1).gradient_estimate[0] < 0
    none = signal([], 0.9)
    assert none.metadata.reason == "no steps"
    assert none.quality_score == 0.9
    assert not none.gradient_estimate.any()


def test_longer_activations_are_an_error_and_rewards_to_go_add_up():
    steps = (TrajectoryStep([1.0, 0.0], [], 0.7), TrajectoryStep([0.0, 2.0], [], 0.1))
    signal = LearningSignal.from_trajectory(QueryTrajectory(0, [1.0, 1.0], steps, 0.6), baseline=0.4)
    second = (0.1 - 0.4) + (0.6 - 0.4)
    first = (0.7 - 0.4) + second
    want = first * np.array([0.0, -1.0]) + second * np.array([-1.0, 1.0])
    np.testing.assert_allclose(signal.gradient_estimate, want, atol=1e-6)
    with pytest.raises(DimensionMismatch):
        QueryTrajectory(0, [1.0], steps, 0.6)


def test_a_bad_outcome_turns_the_update_around():
    good = LearningSignal.with_gradient([1.0, 0.0], [0.0, 1.0], 0.9)
    bad = LearningSignal.with_gradient([1.0, 0.0], [0.0, 1.0], 0.1)
    assert good.weight == pytest.approx(0.4)
    assert bad.weight == pytest.approx(-0.4)
    assert LearningSignal.with_gradient([1.0], [1.0], 0.5).metadata.reason
    assert LearningSignal.with_gradient([1.0], [1.0], 7.0).quality_score == 1.0
    assert LearningSignal([1.0], [1.0], -3.0).quality_score == 0.0


def test_a_zero_query_gives_no_direction():
    rows = draw(0, 3, D)
    for signal in (
        LearningSignal.from_ranking(np.zeros(D), rows[:1], rows[1:]),
        LearningSignal.from_relevance(np.zeros(D), rows, [0, 1, 2]),
        LearningSignal.from_choice(draw(1, D), rows, 0, 1.0, output=np.zeros(D)),
    ):
        assert signal.metadata.reason == "zero query"
        assert not signal.gradient_estimate.any()


@pytest.mark.parametrize("d", [1, 7])
def test_rows_of_one_direction_are_tied_whatever_their_length(d):
    query, row = draw(2, d), draw(3, d)
    same = LearningSignal.from_relevance(query, [row, row, row], [0, 1, 2], loss="lambdarank")
    scaled = LearningSignal.from_relevance(query, [row, 4 * row, row / 8], [0, 1, 2], loss="lambdarank")
    assert scaled.metadata.loss == same.metadata.loss > 0
    lengths = [[3.0], [7.0], [11.0]]
    assert (
        d > 1 or LearningSignal.from_relevance([5.0], lengths, [0, 1, 2], loss="lambdarank").metadata.loss == same.metadata.loss
    )


X, C = draw(0, D), draw(1, 4, D)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda: LearningSignal.from_ranking(X, C[0], np.zeros((0, D)))),
        (ValueError, lambda: LearningSignal.from_ranking(X, C[0], [])),
        (ValueError, lambda: LearningSignal.from_ranking(X, np.zeros((0, D)), C)),
        (ValueError, lambda: LearningSignal.from_ranking(X, C[0], C, loss="hinge")),
        (ValueError, lambda: LearningSignal.from_ranking(X, C[0], C, temperature=0.0)),
        (ValueError, lambda: LearningSignal.from_ranking(X, C[0], C, loss="ranknet", sigma=-1.0)),
        (NotFiniteError, lambda: LearningSignal.from_ranking(X, C[0], C * np.nan)),
        (NotFiniteError, lambda: LearningSignal.from_ranking(X * np.inf, C[0], C)),
        (DimensionMismatch, lambda: LearningSignal.from_ranking(X, C[0][:-1], C)),
        (DimensionMismatch, lambda: LearningSignal.from_ranking(X, C[0], C[:, :-1])),
        (DimensionMismatch, lambda: LearningSignal.from_ranking(X, C[0], C, output=X[:-1])),
        (ShapeError, lambda: LearningSignal.from_ranking(C, C[0], C)),
        (ShapeError, lambda: LearningSignal.from_ranking(X, C[0], C[0])),
        (ValueError, lambda: LearningSignal.from_relevance(X, C, [1, 2, 3, 4], loss="infonce")),
        (DimensionMismatch, lambda: LearningSignal.from_relevance(X, C, [1, 2, 3])),
        (NotFiniteError, lambda: LearningSignal.from_relevance(X, C, [1, 2, 3, np.nan])),
        (ValueError, lambda: LearningSignal.from_relevance(X, [], [])),
        (ValueError, lambda: LearningSignal.from_choice(X, C, 4, 1.0)),
        (ValueError, lambda: LearningSignal.from_choice(X, C, -1, 1.0)),
        (ValueError, lambda: LearningSignal.from_choice(X, C, 0, 1.0, propensity=0.0)),
        (ValueError, lambda: LearningSignal.from_choice(X, C, 0, 1.0, propensity=-0.5)),
        (ValueError, lambda: LearningSignal.from_choice(X, C, 0, 1.0, ips_clip=(2.0, 1.0))),
        (NotFiniteError, lambda: LearningSignal.from_choice(X, C, 0, np.nan)),
        (DimensionMismatch, lambda: LearningSignal.with_gradient(X, X[:-1], 0.5)),
        (NotFiniteError, lambda: LearningSignal.with_gradient(X, X, np.nan)),
        (NotFiniteError, lambda: LearningSignal(X, X, np.nan)),
        (NotFiniteError, lambda: LearningSignal(X, X, 0.5, weight=np.inf)),
    ],
)
def test_bad_input(error, call):
    with pytest.raises(error):
        call()


def test_baseline_is_read_before_the_reward_enters():
    b = RewardBaseline()
    assert b.read() == 0.5
    seen, want, mean = [], [], 0.0
    for i, r in enumerate([0.9, 0.1, 0.4, 1.0], start=1):
        b.update(r)
        mean = 0.99 * mean + 0.01 * r
        want.append(mean / (1 - 0.99**i))
        seen.append(b.read())
    np.testing.assert_allclose(seen, want, rtol=1e-12)
    again = RewardBaseline.from_bytes(b.to_bytes())
    for x in (b, again):
        x.update(0.3)
    assert again.read() == b.read()
    assert b.metrics()["count"] == 5
    with pytest.raises(NotFiniteError):
        b.update(np.nan)
    with pytest.raises(ConfigError):
        RewardBaseline(beta=1.0)
    with pytest.raises(CorruptStateError):
        RewardBaseline.from_bytes(b"no")
