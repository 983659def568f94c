"""EWC++ and the boundary detector: oracles, invariants, bad input, state, threads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.continual import BoundaryDetector, EwcConfig, EwcPlusPlus, estimate_fisher
from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError
from sona.lora import BaseLoRA, MicroLoRA


def made(p=6, tasks=2, seed=0, **config):
    rng = np.random.default_rng(seed)
    ewc = EwcPlusPlus(EwcConfig(param_count=p, **config))
    for _ in range(tasks):
        ewc.start_new_task(fisher=rng.gamma(1.0, size=p), params=rng.normal(size=p))
    ewc.set_params(rng.normal(size=p))
    return ewc, rng


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), lam=st.sampled_from([0.0, 0.5, 30.0, 1000.0]), lr=st.sampled_from([0.0, 0.01, 1.0]))
def test_the_proximal_step_minimises(seed, lam, lr):
    """Against scipy: penalty(θ) + ‖θ − θ'‖²/(2·lr)."""
    ewc, rng = made(4, 3, seed, initial_lambda=lam)
    start = rng.normal(size=4).astype(np.float32)
    got = ewc.proximal_step(start, lr)
    if lam * lr == 0.0:
        np.testing.assert_array_equal(got, start)
        return
    # The quadratic in float64, from the public penalty gradient: it is linear in θ.
    slope = np.array([ewc.penalty_gradient(np.eye(4)[i]) - ewc.penalty_gradient(np.zeros(4)) for i in range(4)])
    weight, at_zero = np.diag(slope).astype(float), ewc.penalty_gradient(np.zeros(4)).astype(float)

    def objective(x):
        return 0.5 * weight @ x**2 + at_zero @ x + ((x - start) ** 2).sum() / (2 * lr)

    def gradient(x):
        return weight * x + at_zero + (x - start) / lr

    best = scipy.optimize.minimize(objective, start.astype(float), jac=gradient, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(got, best.x, atol=2e-4)


def test_lambda_zero_is_the_plain_optimiser():
    rng = np.random.default_rng(0)
    queries, targets = rng.normal(size=(2, 16, 12)).astype(np.float32)
    free, held = BaseLoRA(12, 4, learning_rate=0.01), BaseLoRA(12, 4, learning_rate=0.01)
    ewc = EwcPlusPlus(EwcConfig(param_count=2 * 4 * 12, initial_lambda=0.0, min_lambda=0.0))
    ewc.start_new_task(fisher=np.ones(96), params=np.zeros(96))
    for _ in range(5):
        assert free.train_step(0, queries, targets) == held.train_step(0, queries, targets, ewc=ewc)
    for a, b in zip(free.factors(0), held.factors(0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_strong_pull_keeps_the_old_task_served():
    """BaseLoRA trained on two tasks in turn, with its own per-sample gradients as Fisher information."""
    rng = np.random.default_rng(1)
    d, r = 16, 4
    (q1, t1), (q2, t2) = rng.normal(size=(2, 2, 32, d)).astype(np.float32)

    def train(ewc):
        lora = BaseLoRA(d, r, learning_rate=0.02)
        for _ in range(80):
            lora.train_step(0, q1, t1, temperature=0.1)
        if ewc is not None:
            a, b = lora.factors(0)
            ewc.update_fisher(lora.sample_gradients(0, q1, t1, temperature=0.1))
            ewc.start_new_task(params=np.concatenate([a.ravel(), b.ravel()]))
        for _ in range(80):
            lora.train_step(0, q2, t2, temperature=0.1, ewc=ewc)
        frozen = [lora.train_step(0, q, t, temperature=0.1, learning_rate=0.0) for q, t in ((q1, t1), (q2, t2))]
        return frozen

    old_free, new_free = train(None)
    old_held, new_held = train(EwcPlusPlus(EwcConfig(param_count=2 * d * r, initial_lambda=100.0)))
    assert old_held < 0.7 * old_free
    assert new_held > new_free  # what it costs


def test_sample_gradients_are_per_sample():
    rng = np.random.default_rng(2)
    lora = BaseLoRA(8, 3, optimizer="sgd", weight_decay=0.0)
    lora.set_factors(0, rng.normal(size=(3, 8)), rng.normal(size=(8, 3)))
    q, t, n = rng.normal(size=(3, 5, 8)).astype(np.float32)
    rows = lora.sample_gradients(0, q, t, negatives=n, temperature=0.2)
    assert rows.shape == (5, 48)
    before = np.concatenate([f.ravel() for f in lora.factors(0)])
    lora.train_step(0, q, t, negatives=n, temperature=0.2, learning_rate=1.0)
    after = np.concatenate([f.ravel() for f in lora.factors(0)])
    np.testing.assert_allclose(before - after, rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(estimate_fisher(rows), (rows.astype(float) ** 2).mean(axis=0), rtol=1e-6)
    # A squared batch gradient is something else.
    assert estimate_fisher(rows).sum() > 2 * (rows.mean(axis=0) ** 2).sum()


def test_merging_a_fast_adapter_is_exact_and_the_pull_goes_on():
    rng = np.random.default_rng(3)
    base, micro = BaseLoRA(10, 6), MicroLoRA(10, 2)
    A, B = rng.normal(size=(6, 10)), np.zeros((10, 6))
    B[:, :2] = rng.normal(size=(10, 2))
    base.set_factors(0, A, B)
    micro.set_factors(rng.normal(size=(2, 10)), rng.normal(size=(10, 2)))
    want = base.delta_weight(0) + micro.scale * micro.B @ micro.A
    assert base.merge_micro(0, micro) < 1e-5
    np.testing.assert_allclose(base.delta_weight(0), want, atol=1e-4)
    # What was merged is the new optimum: remembered as a task, nothing pulls there.
    theta = np.concatenate([f.ravel() for f in base.factors(0)])
    ewc = EwcPlusPlus(EwcConfig(param_count=theta.size))
    ewc.start_new_task(fisher=np.ones(theta.size), params=theta)
    assert not ewc.penalty_gradient(theta).any()
    q, t = rng.normal(size=(2, 8, 10)).astype(np.float32)
    base.train_step(0, q, t, ewc=ewc, learning_rate=0.1)
    moved = np.abs(np.concatenate([f.ravel() for f in base.factors(0)]) - theta).max()
    assert 0 < moved < 0.1 / (1 + 0.1 * 1000) + 1e-3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 6), keep=st.integers(1, 6))
def test_the_oldest_merge_without_changing_the_pull(seed, tasks, keep):
    apart, rng = made(5, tasks, seed, max_tasks=6)
    merged, _ = made(5, tasks, seed, max_tasks=keep)
    assert merged.task_count == min(tasks, keep)
    theta = rng.normal(size=5)
    np.testing.assert_allclose(merged.penalty_gradient(theta), apart.penalty_gradient(theta), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(merged.proximal_step(theta, 0.1), apart.proximal_step(theta, 0.1), atol=1e-5)
    apart.consolidate_all_tasks()
    assert apart.task_count == 1
    np.testing.assert_allclose(merged.penalty_gradient(theta), apart.penalty_gradient(theta), rtol=1e-3, atol=1e-2)


def test_modes():
    ewc, rng = made(50, 2)
    pull = ewc.penalty_gradient().astype(float)
    for sign in (1, -1):
        g = sign * pull + rng.normal(size=50)
        got = ewc.apply_constraints(g, mode="project").astype(float)
        want = g - min(0.0, g @ pull) / (pull @ pull) * pull
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(pull).max())
        # A step of descent along it lowers the penalty or leaves it.
        assert got @ pull >= -1e-4 * np.abs(got * pull).sum()
    g = rng.normal(size=50)
    np.testing.assert_allclose(ewc.apply_constraints(g), g + pull, rtol=1e-4, atol=1e-3)
    free = EwcPlusPlus(EwcConfig(param_count=50))
    for mode in ("penalty", "project", "precondition"):
        np.testing.assert_array_equal(free.apply_constraints(g, mode=mode), g.astype(np.float32))
    with pytest.raises(ValueError, match="mode"):
        ewc.apply_constraints(g, mode="shrink")


def test_normalised_fisher_has_mean_one():
    p = 8
    rng = np.random.default_rng(5)
    g, star, theta = rng.normal(size=(3, p))
    weak, strong = (EwcPlusPlus(EwcConfig(param_count=p)) for _ in range(2))
    weak.start_new_task(fisher=1e-9 * g**2, params=star)
    strong.start_new_task(fisher=1e9 * g**2, params=star)
    np.testing.assert_allclose(weak.penalty(theta), strong.penalty(theta), rtol=1e-5)
    want = 500.0 * ((g**2 / (g**2).mean()) * (theta - star) ** 2).sum()
    assert weak.penalty(theta) == pytest.approx(want, rel=1e-4)
    zero = EwcPlusPlus(EwcConfig(param_count=p))
    zero.start_new_task(fisher=np.zeros(p), params=star)
    assert zero.penalty(theta) == 0.0


def test_a_task_without_samples_is_ignored_and_counted():
    ewc = EwcPlusPlus(EwcConfig(param_count=3))
    ewc.start_new_task()
    assert (ewc.task_count, ewc.metrics()["tasks_ignored"]) == (0, 1)
    ewc.update_fisher([1.0, 2.0, 3.0])
    ewc.set_params([1.0, 1.0, 1.0])
    ewc.start_new_task()
    assert (ewc.task_count, ewc.samples_seen) == (1, 0)
    assert not ewc.fisher.any()
    ewc.start_new_task()
    assert (ewc.task_count, ewc.metrics()["tasks_ignored"], ewc.metrics()["samples_total"]) == (1, 2, 1)


def test_lambda():
    ewc = EwcPlusPlus(EwcConfig(param_count=2))
    assert ewc.lambda_ == 1000.0
    assert ewc.adjust_lambda(0.03) == 2000.0
    assert ewc.adjust_lambda(0.01) == 2000.0
    assert ewc.adjust_lambda(0.0) == 1000.0
    for _ in range(10):
        ewc.adjust_lambda(-1.0)
    assert ewc.lambda_ == 100.0
    for _ in range(10):
        ewc.adjust_lambda(1.0)
    assert ewc.lambda_ == 10_000.0
    ewc.lambda_ = 3.0
    assert ewc.lambda_ == 100.0
    ewc.lambda_ = 1e9
    assert ewc.lambda_ == 10_000.0
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match="lambda_"):
            ewc.lambda_ = bad
    with pytest.raises(NotFiniteError):
        ewc.adjust_lambda(np.inf)
    assert ewc.lambda_ == 10_000.0


@pytest.mark.parametrize("size", [5, (1 << 18) + 7])
def test_out_is_written_in_place(size):
    ewc, rng = made(size, 1)
    theta, out = rng.normal(size=size).astype(np.float32), np.empty(size, np.float32)
    assert ewc.penalty_gradient(theta, out=out) is out
    np.testing.assert_array_equal(out, ewc.penalty_gradient(theta))
    ewc.proximal_step(theta, 0.1, out=out)
    np.testing.assert_array_equal(out, ewc.proximal_step(theta, 0.1))
    ewc.apply_constraints(theta, out=out)
    np.testing.assert_array_equal(out, ewc.apply_constraints(theta))
    with pytest.raises(ShapeError):
        ewc.penalty_gradient(theta, out=np.empty(size + 1, np.float32))
    # In place.
    want = ewc.proximal_step(theta, 0.1)
    ewc.proximal_step(theta, 0.1, out=theta)
    np.testing.assert_array_equal(theta, want)


def test_bad_input_changes_nothing():
    ewc, _ = made(4)
    before = ewc.to_bytes()
    nan, short, wide = [1, np.nan, 0, 0], [1, 2, 3], [[1.0] * 4] * 2
    for call in (
        ewc.set_params,
        ewc.update_fisher,
        ewc.penalty,
        ewc.penalty_gradient,
        ewc.apply_constraints,
        ewc.detect_task_boundary,
        lambda x: ewc.proximal_step(x, 0.1),
        lambda x: ewc.start_new_task(fisher=x),
        lambda x: ewc.start_new_task(fisher=[1.0] * 4, params=x),
    ):
        with pytest.raises(NotFiniteError):
            call(nan)
        with pytest.raises(DimensionMismatch):
            call(short)
        if call != ewc.update_fisher:
            with pytest.raises(ShapeError):
                call(wide)
    with pytest.raises(ValueError, match="fisher"):
        ewc.start_new_task(fisher=[1, -1, 0, 0])
    with pytest.raises(ValueError, match="lr"):
        ewc.proximal_step([0.0] * 4, -0.1)
    with pytest.raises(ValueError, match="gradients"):
        ewc.update_fisher([1e30] * 4)
    with pytest.raises(NotFiniteError):
        ewc.update_fisher([[1.0] * 4, nan])
    assert ewc.to_bytes() == before
    for bad in (
        {"param_count": 0},
        {"param_count": -1},
        {"param_count": 4, "initial_lambda": -1.0},
        {"param_count": 4, "max_tasks": 0},
        {"param_count": 4, "fisher_ema_decay": 1.0},
        {"param_count": 4, "min_lambda": 5.0, "max_lambda": 4.0},
        {"param_count": 4, "boundary_threshold": 0.0},
    ):
        with pytest.raises(ConfigError):
            EwcConfig(**bad)
    assert estimate_fisher(np.empty((0, 3))).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ShapeError):
        estimate_fisher([1.0, 2.0])
    with pytest.raises(NotFiniteError):
        estimate_fisher([[np.inf]])


def test_save_load_continue_equals_never_stopping():
    a, rng = made(7, 2, max_tasks=3)
    b = a
    for step in range(400):
        g = rng.normal(size=7) + (3.0 if step > 200 else -3.0)
        results = []
        for ewc in {id(a): a, id(b): b}.values():
            ewc.update_fisher(g)
            fired = ewc.detect_task_boundary(g)
            if fired:
                ewc.start_new_task()
            results.append(fired)
        assert len(set(results)) == 1
        if step in (50, 230):
            b = EwcPlusPlus.from_bytes(b.to_bytes())
        if step == 300:
            b = pickle.loads(pickle.dumps(b))  # noqa: S301
    assert a.to_bytes() == b.to_bytes()
    assert a.metrics() == b.metrics()
    assert a.metrics()["boundaries"] == 1
    data = a.to_bytes()
    for bad in (b"", data[:-1], data[:40], data + b"x", b"\xff" * 90):
        with pytest.raises(CorruptStateError):
            EwcPlusPlus.from_bytes(bad)
    assert repr(a) == f"EwcPlusPlus(param_count=7, tasks={a.task_count}, samples={a.samples_seen}, lambda_=1000)"


class PlainPageHinkley:
    """The test written plainly, as river has it (mode "up")."""

    def __init__(self, delta, threshold, min_instances, alpha=0.9999):
        self.delta, self.threshold, self.min_instances, self.alpha = delta, threshold, min_instances, alpha
        self.n, self.mean, self.sum, self.least = 0, 0.0, 0.0, np.inf

    def update(self, x):
        self.n += 1
        self.mean += (x - self.mean) / self.n
        self.sum = self.alpha * self.sum + x - self.mean - self.delta
        self.least = min(self.least, self.sum)
        return self.n >= self.min_instances and self.sum - self.least > self.threshold


@pytest.mark.parametrize("seed", range(5))
def test_alarms_are_those_of_page_hinkley(seed):
    rng = np.random.default_rng(seed)
    d, detector = 32, BoundaryDetector(32)
    mean, steps, test, want, got = np.zeros(d), 0, PlainPageHinkley(0.01, 2.0, 50), [], []
    for i in range(900):
        g = rng.normal(size=d) + 6 * np.eye(d)[i // 300]
        c = 1 - g @ mean / (np.linalg.norm(g) * np.linalg.norm(mean) + 1e-12)
        mean = 0.95 * mean + 0.05 * g
        if steps >= 60 and test.update(c):
            want.append(i)
            mean, steps, test = np.zeros(d), -1, PlainPageHinkley(0.01, 2.0, 50)
        steps += 1
        if detector.update(g):
            got.append(i)
    assert got == want
    assert len(got) == 2
    assert detector.metrics()["alarms"] == 2


def test_detector_state_and_bad_input():
    detector = BoundaryDetector(3)
    with pytest.raises(DimensionMismatch):
        detector.update([1.0, 2.0])
    with pytest.raises(NotFiniteError):
        detector.update([1.0, np.inf, 0.0])
    assert detector.metrics()["steps"] == 0
    detector.update([0.0, 0.0, 0.0])
    detector.update([1.0, 0.0, 0.0])
    for again in (BoundaryDetector.from_bytes(detector.to_bytes()), pickle.loads(pickle.dumps(detector))):  # noqa: S301
        assert again.to_bytes() == detector.to_bytes()
        assert again.dim == 3
    with pytest.raises(CorruptStateError):
        BoundaryDetector.from_bytes(detector.to_bytes()[:-2])
    for bad in ({"dim": 0}, {"dim": 3, "ema": 1.0}, {"dim": 3, "threshold": 0.0}, {"dim": 3, "burn_in": -1}):
        with pytest.raises(ConfigError):
            BoundaryDetector(**bad)
    assert repr(detector) == "BoundaryDetector(3, ema=0.95, burn_in=60, delta=0.01, threshold=2, min_run=50)"


def test_threads_share_ewc():
    ewc = EwcPlusPlus(EwcConfig(param_count=1000))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 1000)).astype(np.float32)
    failures = []

    def work():
        try:
            for row in rows:
                ewc.update_fisher(row)
                ewc.penalty_gradient(row)
                ewc.proximal_step(row, 0.1)
            ewc.start_new_task(fisher=rows[0] ** 2, params=rows[1])
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert not failures
    assert ewc.task_count == 4
    assert ewc.metrics()["samples_total"] == 200
