"""The slow adapter: training, merging, continual-learning hook, files, state, threads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.exceptions import (
    ConfigError,
    CorruptStateError,
    DimensionMismatch,
    NotFiniteError,
    ShapeError,
    StoreError,
)
from sona.lora import BaseLoRA, MicroLoRA


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trained(d=10, rank=4, layers=2, seed=0, **kwargs):
    lora = BaseLoRA(d, rank, layers, **kwargs)
    for i in range(layers):
        lora.set_factors(i, draw(seed + 2 * i, rank, d), 0.3 * draw(seed + 2 * i + 1, d, rank))
    return lora


def infonce(A, B, scale, q, p, neg, temperature):
    """In float64 from the definition."""
    y = q + scale * q @ A.T @ B.T
    keys = np.concatenate([p, neg])
    s = (y / np.linalg.norm(y, axis=1, keepdims=True)) @ (keys / np.linalg.norm(keys, axis=1, keepdims=True)).T
    s = s / temperature
    top = s.max(1, keepdims=True)
    lse = np.log(np.exp(s - top).sum(1)) + top[:, 0]
    return (lse - np.diag(s)).mean()


def test_defaults():
    lora = BaseLoRA(64)
    assert (lora.rank, lora.num_layers, lora.hidden_dim, lora.param_count, lora.alpha) == (8, 1, 64, 1024, 8.0)
    A, B = lora.factors(0)
    assert not B.any()
    assert np.abs(A).max() <= 1 / 8
    assert A.std() == pytest.approx(1 / 8 / np.sqrt(3), rel=0.1)
    x = draw(0, 3, 64)
    assert lora.forward_layer(0, x).tobytes() == x.tobytes()
    layers = BaseLoRA(8, num_layers=2)
    assert (layers.factors(0)[0] != layers.factors(1)[0]).any()
    assert repr(lora) == "BaseLoRA(hidden_dim=64, rank=8, num_layers=1, alpha=8.0, optimizer='adamw')"


@pytest.mark.parametrize(("rslora", "scale"), [(False, 6.0 / 4), (True, 6.0 / 2)])
def test_scales(rslora, scale):
    lora, x = trained(alpha=6.0, use_rslora=rslora), draw(9, 5, 10)
    A, B = lora.factors(1)
    np.testing.assert_allclose(lora.forward_layer(1, x), x + scale * x @ A.T @ B.T, rtol=1e-4, atol=1e-4)
    lora.alpha = 3.0
    np.testing.assert_allclose(lora.forward_layer(1, x), x + scale / 2 * x @ A.T @ B.T, rtol=1e-4, atol=1e-4)
    W = draw(8, 10, 10)
    np.testing.assert_allclose(lora.merge_weights(W, 1), W + scale / 2 * B @ A, rtol=1e-4, atol=1e-4)
    # Merged into the identity, the weight does what the layer does.
    np.testing.assert_allclose(x @ lora.merge_weights(np.eye(10), 1).T, lora.forward_layer(1, x), rtol=1e-3, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(2, 5), m=st.integers(0, 3), rank=st.integers(1, 4))
def test_a_training_step_follows_the_numeric_gradient(seed, n, m, rank):
    d, lr, tau = 6, 0.01, 0.3
    lora = trained(d, rank, 1, seed, optimizer="sgd", weight_decay=0.0)
    q, p, neg = draw(seed + 5, n, d), draw(seed + 6, n, d), draw(seed + 7, m, d)
    A, B = (f.astype(np.float64) for f in lora.factors(0))
    args = (q.astype(np.float64), p.astype(np.float64), neg.astype(np.float64), tau)
    want = infonce(A, B, 1.0, *args)

    def numeric(at):
        grad, h = np.empty(at.shape), 1e-5
        for i in np.ndindex(at.shape):
            at[i] += h
            up = infonce(A, B, 1.0, *args)
            at[i] -= 2 * h
            grad[i] = (up - infonce(A, B, 1.0, *args)) / (2 * h)
            at[i] += h
        return grad

    dA, dB = numeric(A), numeric(B)
    loss = lora.train_step(0, q, p, negatives=neg, temperature=tau, learning_rate=lr)
    assert loss == pytest.approx(want, rel=1e-4)
    for got, start, grad in zip(lora.factors(0), (A, B), (dA, dB), strict=True):
        np.testing.assert_allclose(got, start - lr * grad, atol=2e-5)


def test_training_aligns_queries_with_their_answers():
    # Answers are a fixed rotation of a part of the query: a task that a rank-8 adapter can express.
    d = 32
    rng = np.random.default_rng(0)
    turn = np.eye(d) + 0.8 * rng.normal(size=(d, 4)) @ rng.normal(size=(4, d)) / 4
    q = draw(1, 256, d)
    p = (q @ turn.T).astype(np.float32)
    held_q, held_p = draw(2, 64, d), None
    held_p = (held_q @ turn.T).astype(np.float32)
    lora = BaseLoRA(d, learning_rate=0.01)

    def hits():
        y = lora.forward_layer(0, held_q)
        y, keys = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (y, held_p))
        own = (y * keys).sum(1)
        return own.mean()

    before = hits()
    for i in range(200):
        rows = np.random.default_rng(i).choice(256, 64, replace=False)
        lora.train_step(0, q[rows], p[rows])
    assert hits() > before + 0.1
    assert lora.metrics()["steps"] == 200
    assert lora.metrics()["rows"] == 200 * 64


def test_without_contrast_nothing_happens():
    lora = trained()
    before = lora.factors(0)
    assert lora.train_step(0, np.zeros((0, 10)), np.zeros((0, 10))) == 0.0
    assert lora.train_step(0, draw(0, 1, 10), draw(1, 1, 10)) == 0.0
    np.testing.assert_array_equal(lora.factors(0)[0], before[0])
    assert lora.metrics()["skipped_no_contrast"] == 2
    assert lora.train_step(0, draw(0, 1, 10), draw(1, 1, 10), negatives=draw(2, 1, 10)) > 0.0


class Pull:
    """What EWC does after a step: a pull towards fixed parameters."""

    def __init__(self, star, strength, after=None):
        self.star, self.strength, self.after, self.calls = star, strength, after, []

    def proximal_step(self, theta, lr):
        self.calls.append((theta.copy(), lr))
        if self.after:
            self.after()
        return theta - self.strength * (theta - self.star)


def test_the_proximal_step_comes_after_the_optimiser():
    q, p = draw(0, 4, 10), draw(1, 4, 10)
    plain, pulled = trained(learning_rate=0.01), trained(learning_rate=0.01)
    ewc = Pull(np.zeros(80, np.float32), 0.25)
    plain.train_step(1, q, p)
    pulled.train_step(1, q, p, ewc=ewc)
    stepped = np.concatenate([f.ravel() for f in plain.factors(1)])
    ((theta, lr),) = ewc.calls
    np.testing.assert_array_equal(theta, stepped)
    assert lr == 0.01
    np.testing.assert_array_equal(np.concatenate([f.ravel() for f in pulled.factors(1)]), 0.75 * stepped)


def test_a_proximal_step_may_use_the_adapter_and_its_errors_come_through():
    q, p = draw(0, 4, 10), draw(1, 4, 10)
    lora = trained(learning_rate=0.01)
    # Another step lands while the pull is computed: both take effect, and nothing deadlocks.
    ewc = Pull(np.zeros(80, np.float32), 0.25, after=lambda: lora.train_step(1, q, p))
    lora.train_step(1, q, p, ewc=ewc)
    assert lora.metrics()["steps"] == 2

    class Broken:
        def proximal_step(self, theta, lr):
            raise LookupError("no Fisher yet")

    with pytest.raises(LookupError, match="no Fisher"):
        lora.train_step(1, q, p, ewc=Broken())

    class Wrong:
        def proximal_step(self, theta, lr):
            return theta[:-1]

    with pytest.raises(DimensionMismatch):
        lora.train_step(1, q, p, ewc=Wrong())


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 6), micro_rank=st.integers(1, 2), seed=st.integers(0, 999), d=st.integers(2, 12))
def test_merging_is_the_best_approximation(rank, micro_rank, seed, d):
    base, micro = trained(d, rank, 1, seed, alpha=3.0), MicroLoRA(d, micro_rank, scale=0.6)
    micro.set_factors(draw(seed + 8, micro_rank, d), draw(seed + 9, d, micro_rank))
    total = base.delta_weight(0).astype(np.float64) + 0.6 * micro.B @ micro.A
    U, S, V = np.linalg.svd(total)
    best = (U[:, :rank] * S[:rank]) @ V[:rank]
    error = base.merge_micro(0, micro)
    np.testing.assert_allclose(base.delta_weight(0), best, atol=2e-4)
    assert error == pytest.approx(np.sqrt((S[rank:] ** 2).sum() / (S**2).sum()), abs=1e-5)


def test_a_fresh_adapter_takes_a_fast_one_in_and_can_still_learn():
    base, micro = BaseLoRA(12, 4, learning_rate=0.01), MicroLoRA(12)
    micro.set_factors(draw(0, 2, 12), draw(1, 12, 2))
    x = draw(2, 5, 12)
    assert base.merge_micro(0, micro) < 1e-6
    np.testing.assert_allclose(base.forward_layer(0, x), micro.forward(x), atol=1e-4)
    A, _ = base.factors(0)
    assert (np.linalg.norm(A, axis=1) > 1e-3).all(), "a component with both factors 0 never learns again"
    for _ in range(20):
        base.train_step(0, draw(3, 8, 12), draw(4, 8, 12))
    _, B = base.factors(0)
    assert (np.linalg.norm(B, axis=0) > 1e-4).all()
    with pytest.raises(DimensionMismatch):
        base.merge_micro(0, MicroLoRA(11))
    with pytest.raises(TypeError):
        base.merge_micro(0, base)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ConfigError, lambda: BaseLoRA(0)),
        (ConfigError, lambda: BaseLoRA(8, 0)),
        (ConfigError, lambda: BaseLoRA(8, 4, 0)),
        (ConfigError, lambda: BaseLoRA(8, -4)),
        (ConfigError, lambda: BaseLoRA(8, alpha=np.inf)),
        (ConfigError, lambda: BaseLoRA(8, learning_rate=-1.0)),
        (ConfigError, lambda: BaseLoRA(8, optimizer="lion")),
        (ConfigError, lambda: BaseLoRA(1 << 24, 1 << 20)),
        (ValueError, lambda: trained().forward_layer(2, np.zeros(10))),
        (ValueError, lambda: trained().forward_layer(-1, np.zeros(10))),
        (ValueError, lambda: trained().factors(5)),
        (DimensionMismatch, lambda: trained().forward_layer(0, np.zeros(9))),
        (ShapeError, lambda: trained().forward_layer(0, 1.0)),
        (NotFiniteError, lambda: trained().forward_layer(0, np.full(10, np.inf))),
        (NotFiniteError, lambda: trained().train_step(0, np.full((2, 10), np.nan), np.ones((2, 10)))),
        (NotFiniteError, lambda: trained().train_step(0, np.ones((2, 10)), np.full((2, 10), np.nan))),
        (DimensionMismatch, lambda: trained().train_step(0, np.ones((2, 10)), np.ones((3, 10)))),
        (DimensionMismatch, lambda: trained().train_step(0, np.ones((2, 9)), np.ones((2, 9)))),
        (ShapeError, lambda: trained().train_step(0, np.ones(10), np.ones(10))),
        (ValueError, lambda: trained().train_step(0, np.ones((2, 10)), np.ones((2, 10)), temperature=0.0)),
        (ValueError, lambda: trained().train_step(0, np.ones((2, 10)), np.ones((2, 10)), learning_rate=-1.0)),
        (DimensionMismatch, lambda: trained().merge_weights(np.eye(9), 0)),
        (DimensionMismatch, lambda: trained().merge_weights(np.ones((9, 10)), 0)),
        (DimensionMismatch, lambda: trained().set_factors(0, np.ones((4, 10)), np.ones((4, 10)))),
        (NotFiniteError, lambda: trained().merge_weights(np.full((10, 10), np.nan), 0)),
    ],
)
def test_bad_input(error, call):
    with pytest.raises(error):
        call()


def test_save_load_continue_equals_never_stopping(tmp_path):
    a, b = trained(), trained()
    q, p = draw(0, 6, 10), draw(1, 6, 10)
    for i in range(12):
        for lora in (a, b):
            lora.train_step(i % 2, q, p, learning_rate=0.01)
        if i % 4 == 1:
            b.save(tmp_path / "adapter.sona")
            b = BaseLoRA.load(tmp_path / "adapter.sona")
        if i % 4 == 2:
            b = pickle.loads(pickle.dumps(b))  # noqa: S301
    assert a.to_bytes() == b.to_bytes()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["adapter.sona"]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "adapter.sona"
    with pytest.raises(StoreError):
        BaseLoRA.load(path)
    with pytest.raises(StoreError):
        trained().save(tmp_path / "missing" / "adapter.sona")
    trained().save(path)
    data = path.read_bytes()
    for bad in (b"", data[:-1], data[: len(data) // 2], data[:50] + bytes([data[50] ^ 4]) + data[51:]):
        path.write_bytes(bad)
        with pytest.raises(CorruptStateError):
            BaseLoRA.load(path)
        with pytest.raises(CorruptStateError):
            BaseLoRA.from_bytes(bad)


def test_large_batches_equal_small_ones():
    lora, x = trained(64, 8, 1), draw(0, 20_000, 64)
    y = lora.forward_layer(0, x)
    np.testing.assert_array_equal(y[:9], lora.forward_layer(0, x[:9]))
    np.testing.assert_array_equal(y[-1], lora.forward_layer(0, x[-1]))


def test_threads_train_and_read_together():
    lora = BaseLoRA(16, 4, 2, learning_rate=0.001)
    q, p = draw(0, 16, 16), draw(1, 16, 16)
    star = np.zeros(128, np.float32)

    def train(layer):
        for _ in range(60):
            lora.train_step(layer, q, p, ewc=Pull(star, 0.01))

    def read():
        for _ in range(300):
            assert np.isfinite(lora.forward_layer(0, q)).all()

    threads = [threading.Thread(target=train, args=(i % 2,)) for i in range(3)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert lora.metrics()["steps"] == 180
