"""FastGRNN, LinUCB, calibration, curves and off-policy estimates: oracles, properties, bad input, state."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, LearningError, NotFiniteError, ShapeError
from sona.routing import (
    AdaptiveConformal,
    FastGRNN,
    IsotonicCalibrator,
    LinUCB,
    OffPolicyEvaluator,
    RewardModel,
    aiq,
    conformal_quantile,
    pareto_hull,
    risk_threshold,
)

finite = st.floats(-10, 10, allow_nan=False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("rank_w", "rank_u"), [(None, None), (3, 2), (1, None)])
def test_cell_is_its_equations(rank_w, rank_u):
    rng = np.random.default_rng(0)
    cell = FastGRNN(7, 5, rank_w=rank_w, rank_u=rank_u)
    w, u = rng.normal(size=(5, rank_w or 5)) @ rng.normal(size=(rank_w or 5, 7)), rng.normal(size=(5, rank_u or 5))
    u = u @ rng.normal(size=(rank_u or 5, 5))
    gate, update = rng.normal(size=(2, 5))
    cell.set_weights(w, u, gate, update, zeta=0.3, nu=-1.0)
    h, x = rng.normal(size=5), rng.normal(size=(9, 7))
    got = cell.run(x, h)
    for row, state in zip(x, got, strict=True):
        p = w @ row + u @ h
        z = sigmoid(p + gate)
        h = (sigmoid(0.3) * (1 - z) + sigmoid(-1.0)) * np.tanh(p + update) + z * h
        np.testing.assert_allclose(state, h, atol=1e-5)
    size = (12 * rank_w if rank_w else 35) + (10 * rank_u if rank_u else 25) + 10 + 2
    assert cell.param_count == size


def recall_task(n=300, turns=5, seed=0):
    """The answer is the sign of the first turn's first value."""
    x = np.random.default_rng(seed).normal(size=(n, turns, 3))
    return list(x), (x[:, 0, 0] > 0).astype(float)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_training_learns_what_needs_a_memory(loss):
    x, y = recall_task()
    cell = FastGRNN(3, 8)
    report = cell.fit(x, y, epochs=60, learning_rate=0.02, loss=loss)
    assert (report.epochs, report.examples, len(report.losses)) == (60, 300, 60)
    held, truth = recall_task(seed=1)
    assert np.mean([(cell.predict(s)[0] > 0.5) == t for s, t in zip(held, truth, strict=True)]) > 0.9
    int8 = cell.quantize()
    assert np.mean([abs(int8.predict(s)[0] - cell.predict(s)[0]) for s in held]) < 0.08
    m, q = cell.metrics(), int8.metrics()
    assert (q["quantized"], m["quantized"]) == (1, 0)
    assert q["matrix_bytes"] < m["matrix_bytes"]
    again = FastGRNN(3, 8)
    assert again.fit(x, y, epochs=60, learning_rate=0.02, loss=loss) == report
    for c in (cell, int8):
        for back in (FastGRNN.from_bytes(c.to_bytes()), pickle.loads(pickle.dumps(c))):  # noqa: S301
            assert back.predict(held[0]).tolist() == c.predict(held[0]).tolist()
            assert repr(back) == repr(c)


def test_rows_are_sequences_of_one_step():
    x, y = recall_task(turns=1)
    for ranks in ({}, {"rank_w": 2}):
        cell = FastGRNN(3, 6, **ranks)
        cell.fit(x, np.stack([y, 1 - y], axis=1), epochs=10)
        for c in (cell, cell.quantize()):
            want = np.array([c.predict(s) for s in x])
            np.testing.assert_allclose(c.predict_rows(np.concatenate(x)), want, atol=1e-5)


@pytest.mark.parametrize(("hidden", "rank"), [(1, None), (8, 4), (8, None), (12, None), (13, None), (64, None), (64, 3)])
def test_rows_of_every_width(hidden, rank):
    rng = np.random.default_rng(hidden)
    x = rng.normal(size=(300, 384)).astype(np.float32)
    cell = FastGRNN(384, hidden, rank_w=rank)
    cell.fit([row[None] for row in x[:40]], rng.random((40, 3)), epochs=2)
    want = np.array([cell.predict(row[None]) for row in x])
    for n in (0, 1, 5, 100, 300):
        np.testing.assert_allclose(cell.predict_rows(x[:n]), want[:n].reshape(n, 3), atol=1e-5)
    for c in (cell, cell.quantize()):
        for bad in (np.nan, np.inf, -np.inf):
            broken = x.copy()
            broken[255, 383] = bad
            with pytest.raises(NotFiniteError, match=str(255 * 384 + 383)):
                c.predict_rows(broken)
    # What overflows inside is not the caller's mistake.
    assert np.isfinite(cell.predict_rows(np.full((1, 384), 3e38, dtype=np.float32))).all()


def test_cell_refuses_bad_input():
    x, y = recall_task(n=20)
    cell = FastGRNN(3, 4)
    before = cell.to_bytes()
    ok = (np.ones((4, 3)), np.ones((4, 4)), np.ones(4), np.ones(4))
    for error, call in [
        (NotFiniteError, lambda: cell.run([[np.nan, 0, 0]])),
        (DimensionMismatch, lambda: cell.run(np.ones((2, 4)))),
        (ShapeError, lambda: cell.run(np.ones(3))),
        (ShapeError, lambda: cell.forward(np.ones((1, 3)))),
        (DimensionMismatch, lambda: cell.forward(np.ones(3), np.ones(5))),
        (LearningError, lambda: cell.predict(x[0])),
        (LearningError, lambda: cell.predict_rows(np.ones((2, 3)))),
        (ShapeError, lambda: cell.set_weights(np.ones((3, 3)), *ok[1:])),
        (NotFiniteError, lambda: cell.set_weights(ok[0] * np.nan, *ok[1:])),
        (DimensionMismatch, lambda: cell.set_weights(*ok[:3], np.ones(3))),
        (NotFiniteError, lambda: cell.set_weights(*ok, zeta=math.inf)),
        (DimensionMismatch, lambda: cell.fit(x, y[:-1])),
        (ValueError, lambda: cell.fit(x, y * 2)),
        (ValueError, lambda: cell.fit(x, y, loss="hinge")),
        (ValueError, lambda: cell.fit(x, y, learning_rate=0.0)),
        (NotFiniteError, lambda: cell.fit([s * np.inf for s in x], y)),
        (ConfigError, lambda: cell.quantize(4)),
        (ValueError, lambda: cell.quantize().fit(x, y)),
    ]:
        with pytest.raises(error):
            call()
        assert cell.to_bytes() == before
    for options in ({"rank_w": 9}, {"rank_u": 0}):
        with pytest.raises(ConfigError):
            FastGRNN(3, 4, **options)
    with pytest.raises(ConfigError):
        FastGRNN(0, 4)


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=120), st.integers(0, 10**6))
def test_hostile_bytes(data, at):
    cell = FastGRNN(3, 4).to_bytes()
    damaged = bytearray(cell)
    damaged[at % len(cell)] ^= 1 << at % 8
    for cls, values in (
        (FastGRNN, (data, bytes(damaged), cell[:-1])),
        (LinUCB, (data, cell)),
        (AdaptiveConformal, (data, AdaptiveConformal().to_bytes()[:-1])),
        (IsotonicCalibrator, (data, IsotonicCalibrator().fit([0, 1], [0, 1]).to_bytes()[:-1])),
    ):
        for value in values:
            with pytest.raises(CorruptStateError):
                cls.from_bytes(value)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.1, 5.0))
def test_linucb_is_ridge_regression(seed, l2):
    rng = np.random.default_rng(seed)
    bandit = LinUCB(2, 3, alpha=0.7, l2=l2)
    x, r, arm = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=40), rng.integers(0, 2, 40)
    for a, row, reward in zip(arm, x, r, strict=True):
        bandit.update(int(a), row, float(reward))
    at = rng.normal(size=(4, 3)).astype(np.float32)
    for a in range(2):
        mine = x[arm == a].astype(float)
        inverse = np.linalg.inv(mine.T @ mine + l2 * np.eye(3))
        width = np.sqrt(np.einsum("ij,jk,ik->i", at, inverse, at))
        np.testing.assert_allclose(bandit.scores(at)[:, a], at @ inverse @ mine.T @ r[arm == a] + 0.7 * width, atol=1e-5)
    back = LinUCB.from_bytes(bandit.to_bytes())
    assert back.thompson(at[0])[1].tolist() == bandit.thompson(at[0])[1].tolist()


def test_thompson_draws_with_its_propensities():
    bandit = LinUCB(3, 2, alpha=1.0, seed=1)
    for arm in range(3):
        for _ in range(5):
            bandit.update(arm, [1, 0], arm / 3)
    draws = [bandit.thompson([1, 0]) for _ in range(3000)]
    for arm in range(3):
        p = np.array([d[1][arm] for d in draws])
        assert abs(sum(d[0] == arm for d in draws) - p.sum()) < 5 * math.sqrt((p * (1 - p)).sum())
    for error, call in [
        (ValueError, lambda: bandit.update(3, [1, 0], 1.0)),
        (NotFiniteError, lambda: bandit.update(0, [1, 0], math.nan)),
        (NotFiniteError, lambda: bandit.scores([math.inf, 0])),
        (DimensionMismatch, lambda: bandit.update(0, [1, 0, 0], 1.0)),
        (ConfigError, lambda: LinUCB(0, 2)),
        (ConfigError, lambda: LinUCB(2, 2, l2=0.0)),
    ]:
        with pytest.raises(error):
            call()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100)), min_size=1, max_size=30))
def test_hull_covers_and_aiq_grows(counts):
    points = [(c / 100, q / 100) for c, q in counts]
    hull = pareto_hull(points)
    p = np.array(points)
    assert (np.diff(hull[:, 0]) > 0).all()
    assert (np.diff(hull[:, 1]) > 0).all()
    slopes = np.diff(hull[:, 1]) / np.diff(hull[:, 0])
    assert (np.diff(slopes) <= 1e-6 * (1 + np.abs(slopes[:-1]))).all()
    inside = p[p[:, 0] >= hull[0, 0]]
    assert (np.interp(inside[:, 0], hull[:, 0], hull[:, 1]) >= inside[:, 1] - 1e-9).all()
    assert {tuple(row) for row in hull.tolist()} <= {tuple(map(float, row)) for row in points}
    assert aiq([*points, (5.0, 0.9)], 0.0, 10.0) >= aiq(points, 0.0, 10.0) - 1e-12 or p[:, 0].min() > 5.0


def test_hull_is_scipys():
    p = np.random.default_rng(0).random((200, 2))
    corners = p[ConvexHull(p).vertices]
    top = corners[corners[:, 1].argmax()]
    cheapest = p[p[:, 0].argmin()]
    upper = [c for c in corners if cheapest[0] <= c[0] <= top[0] and c[1] >= np.interp(c[0], *zip(cheapest, top, strict=True))]
    np.testing.assert_allclose(pareto_hull(p), sorted(map(tuple, upper)))


def test_aiq_refuses_bad_input():
    for error, call in [
        (ValueError, lambda: aiq([[0, 1]], 1.0, 1.0)),
        (ValueError, lambda: aiq([], 0.0, 1.0)),
        (NotFiniteError, lambda: aiq([[0, math.nan]], 0.0, 1.0)),
        (NotFiniteError, lambda: aiq([[0, 1]], 0.0, math.inf)),
        (ShapeError, lambda: pareto_hull([1.0, 2.0])),
        (DimensionMismatch, lambda: pareto_hull([[1.0, 2.0, 3.0]])),
    ]:
        with pytest.raises(error):
            call()
    assert pareto_hull([]).shape == (0, 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(finite, max_size=40), st.floats(0.01, 0.99))
def test_conformal_quantile_is_an_order_statistic(scores, alpha):
    q = conformal_quantile(scores, alpha)
    rank = max(1, math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9))
    assert q == (math.inf if rank > len(scores) else sorted(scores)[rank - 1])


def test_conformal_coverage():
    rng = np.random.default_rng(0)
    covered = [rng.normal() <= conformal_quantile(rng.normal(size=49), 0.1) for _ in range(4000)]
    assert abs(np.mean(covered) - 0.9) < 0.02
    with pytest.raises(ValueError, match="alpha"):
        conformal_quantile([1.0], 0.0)
    with pytest.raises(NotFiniteError):
        conformal_quantile([math.nan], 0.1)


def test_joint_risk_is_kept_on_average():
    rng = np.random.default_rng(0)

    def draw(n):
        gap = rng.random(n)
        return gap, (rng.random(n) < 0.6 * gap).astype(float)

    risks = []
    for _ in range(500):
        t = risk_threshold(*draw(100), alpha=0.1)
        gap, loss = draw(100)
        risks.append((loss * (gap <= t)).mean())
    assert 0.07 < np.mean(risks) <= 0.103
    with pytest.raises(ValueError, match="losses"):
        risk_threshold([0.1], [2.0], 0.1)


def test_adaptive_level_holds_the_rate_under_drift():
    rng = np.random.default_rng(0)
    aci = AdaptiveConformal(0.1, gamma=0.02)
    errors = []
    for t in range(4000):
        scale = 1.0 if t < 2000 else 3.0
        level = min(max(aci.level, 0.0), 1.0)
        errors.append(abs(rng.normal()) * scale > 8.0 * (1 - level))
        aci.update(errors[-1])
    assert abs(np.mean(errors) - 0.1) < 0.01
    back = pickle.loads(pickle.dumps(aci))  # noqa: S301
    assert back.metrics() == aci.metrics()
    for options in ({"alpha": 1.0}, {"gamma": 0.0}):
        with pytest.raises(ConfigError):
            AdaptiveConformal(**options)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1), st.floats(0.1, 3)), min_size=1, max_size=40))
def test_isotonic_is_sklearns(rows):
    from sklearn.isotonic import IsotonicRegression

    s, y, w = (np.array(c, dtype=float) for c in zip(*rows, strict=True))
    cal = IsotonicCalibrator().fit(s, y, w)
    at = np.linspace(-1, 9, 41)
    want = IsotonicRegression(out_of_bounds="clip").fit(s, y, sample_weight=w).predict(at)
    np.testing.assert_allclose(cal.predict(at), want, atol=1e-9)
    back = IsotonicCalibrator.from_bytes(cal.to_bytes())
    np.testing.assert_array_equal(back.predict(at), cal.predict(at))
    assert cal.predict(float(at[3])) == cal.predict(at)[3]


def test_isotonic_refuses_bad_input():
    cal = IsotonicCalibrator()
    for error, call in [
        (ValueError, lambda: cal.predict([1.0])),
        (ValueError, lambda: cal.fit([1.0], [1.0], [0.0])),
        (DimensionMismatch, lambda: cal.fit([1.0], [1.0, 2.0])),
        (NotFiniteError, lambda: cal.fit([math.nan], [1.0])),
        (ShapeError, lambda: cal.fit([[1.0]], [1.0])),
    ]:
        with pytest.raises(error):
            call()


def test_off_policy_estimates_are_unbiased_and_cover():
    rng = np.random.default_rng(0)
    truth = np.array([0.2, 0.5, 0.8])
    logging, target = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.3, 0.6])
    value = float(target @ truth)
    ope = OffPolicyEvaluator()
    found = {"ips": [], "snips": [], "dr": []}
    for _ in range(300):
        a = rng.choice(3, size=600, p=logging)
        r = (rng.random(600) < truth[a]).astype(float)
        logs = (r, target[a], logging[a])
        q = truth + 0.1
        found["ips"].append(ope.ips(*logs))
        found["snips"].append(ope.snips(*logs))
        found["dr"].append(ope.doubly_robust(*logs, q[a], np.full(600, target @ q)))
    for name, estimates in found.items():
        values = np.array([e.value for e in estimates])
        assert abs(values.mean() - value) < 4 * values.std() / math.sqrt(300), name
        assert np.mean([e.stderr for e in estimates]) == pytest.approx(values.std(), rel=0.15)
        covered = [e.interval()[0] <= value <= e.interval()[1] for e in estimates]
        assert 0.9 < np.mean(covered) < 0.99
    spread = {name: np.std([e.value for e in es]) for name, es in found.items()}
    assert spread["dr"] < spread["ips"]


def test_clipped_weights_are_clipped():
    r, t, p = np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0]), np.array([0.1, 0.5, 1.0])
    w = np.minimum(t / p, 4.0)
    e = OffPolicyEvaluator(clip=4.0).ips(r, t, p)
    assert e.value == pytest.approx((w * r).mean())
    assert e.ess == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert e.interval() is None


def test_off_policy_refuses_bad_input():
    ope = OffPolicyEvaluator()
    for error, call in [
        (ValueError, lambda: ope.ips([1.0], [0.5], [0.0])),
        (ValueError, lambda: ope.ips([1.0], [1.5], [0.5])),
        (ValueError, lambda: ope.ips([], [], [])),
        (NotFiniteError, lambda: ope.snips([math.nan], [0.5], [0.5])),
        (DimensionMismatch, lambda: ope.ips([1.0], [0.5, 0.5], [0.5])),
        (DimensionMismatch, lambda: ope.doubly_robust([1.0], [0.5], [0.5], [1.0, 1.0], [1.0])),
        (ConfigError, lambda: OffPolicyEvaluator(clip=0.0)),
        (ConfigError, lambda: RewardModel(folds=1)),
    ]:
        with pytest.raises(error):
            call()
    assert math.isnan(ope.snips([1.0], [0.0], [0.5]).value)


def test_reward_model_does_not_see_its_own_rows():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 4)), 2, axis=0)
    noise = rng.integers(0, 2, 60).repeat(2).astype(float)
    q = RewardModel().cross_fit(x, np.zeros(120, dtype=int), noise, n_actions=1)
    assert abs(np.corrcoef(q[:, 0], noise)[0, 1]) < 0.4
