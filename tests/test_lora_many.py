"""Many adapters at once, adapters that merge, and training through quantisation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError
from sona.lora import AdapterPool, MicroLoRA, QuantAwareMicroLoRA
from sona.trajectory import LearningSignal


def trained_pool(n=5, d=12, seed=0, **kw):
    rng = np.random.default_rng(seed)
    pool = AdapterPool(d, similarity=0.95, **kw)
    ids = []
    for task in np.eye(d)[:n]:
        i, lora = pool.select(task)
        lora.set_factors(rng.normal(size=(2, d)), rng.normal(size=(d, 2)))
        ids.append(i)
    return pool, ids


@given(st.lists(st.integers(0, 4), max_size=20), st.integers(0, 3))
def test_forward_many_is_the_loop(which, seed):
    pool, ids = trained_pool()
    x = np.random.default_rng(seed).normal(size=(len(which), 12)).astype(np.float32)
    got = pool.forward_many(np.array([ids[i] for i in which], np.int64), x)
    want = [pool.get(ids[i]).forward(v) for i, v in zip(which, x, strict=True)]
    assert got.shape == x.shape
    assert np.array_equal(got, np.reshape(want, x.shape))


def test_forward_many_brings_spilled_adapters_back(tmp_path):
    pool, ids = trained_pool()
    x = np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)
    want = pool.forward_many(np.array(ids), x)
    small, ids = trained_pool(memory_budget=pool.memory_bytes * 2 // 3, spill_dir=tmp_path)
    assert small.metrics()["resident"] < 5
    assert np.array_equal(small.forward_many(np.array(ids), x), want)


@pytest.mark.parametrize(
    ("error", "ids", "x"),
    [
        (KeyError, [9], np.ones((1, 12))),
        (KeyError, [-1], np.ones((1, 12))),
        (DimensionMismatch, [0, 1], np.ones((1, 12))),
        (DimensionMismatch, [0], np.ones((1, 11))),
        (NotFiniteError, [0], np.full((1, 12), np.nan)),
    ],
)
def test_forward_many_refuses(error, ids, x):
    pool, _ = trained_pool()
    before = pool.to_bytes()
    with pytest.raises(error):
        pool.forward_many(np.array(ids), x)
    assert pool.to_bytes() == before


def overlapping(alike=True, **kw):
    """Two tasks at a cosine of .8, and tasks between them that are within .85 of both."""
    pool = AdapterPool(8, similarity=0.85, **kw)
    one, other = np.eye(8)[0], 0.8 * np.eye(8)[0] + 0.6 * np.eye(8)[1]
    (a, first), (b, second) = pool.select(one), pool.select(other)
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, 8)), rng.normal(size=(8, 2))
    first.set_factors(A, B)
    second.set_factors(A + 0.01 * rng.normal(size=(2, 8)), B if alike else -B)
    pool.select(np.eye(8)[7])
    for _ in range(6):
        pool.select(one + other)
    return pool, a, b, first, second


def test_merging_keeps_the_mean_and_redirects():
    pool, a, b, first, second = overlapping()
    assert pool.metrics()["pairs"] == 1
    assert pool.merge(similarity=1.0) == []
    x = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    deltas = [first.delta(x), second.delta(x)]
    ((kept, gone, similarity, together, error),) = pool.merge(similarity=0.8, together=0.5)
    assert (kept, gone) == (a, b)
    assert 0.8 <= similarity <= 1
    assert together >= 0.5
    # Seven selections fell to one of them, one to the other: every mixture of two nearly equal ones is near both.
    got = pool.get(b).forward(x) - x
    np.testing.assert_allclose(got, deltas[0], atol=0.3)
    assert error < 0.1
    assert pool.ids == [0, 2]
    assert np.array_equal(pool.forward_many(np.array([a, b]), x[:2]), pool.forward_many(np.array([a, a]), x[:2]))
    pool.pin(b)
    assert pool.metrics()["pinned"] == 1
    assert pool.metrics()["merged"] == 1
    back = pickle.loads(pickle.dumps(pool))  # noqa: S301
    assert np.array_equal(back.get(b).forward(x), pool.get(b).forward(x))
    assert pool.select(x[0] * 0 + np.eye(8)[0])[0] == a


def test_similarity_is_the_cosine_of_the_weight_changes():
    pool, _, _, first, second = overlapping()
    rng = np.random.default_rng(5)
    A, B = (np.asarray(f, float) for f in (first.A, first.B))
    second.set_factors(3.0 * A, 3.0 * B + 3.0 * rng.normal(size=B.shape))
    x = np.eye(8, dtype=np.float32)
    one, other = (adapter.delta(x).astype(float).ravel() for adapter in (first, second))
    cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    assert 0.4 < cosine < 0.75  # below the centroids' cosine of about .8, so that it decides
    (merged,) = pool.merge(similarity=0.3, together=0.1)
    assert merged[2] == pytest.approx(cosine, abs=1e-5)


def test_merging_by_itself_is_opt_in():
    for threshold, merged in ((None, 0), (0.8, 1)):
        pool, a, b, *_ = overlapping(merge_similarity=threshold)
        for _ in range(130):
            pool.select(np.eye(8)[7])
        assert pool.metrics()["merged"] == merged
        assert (pool.get(a).forward(np.eye(8)) == pool.get(b).forward(np.eye(8))).all() == bool(merged)
    with pytest.raises(ConfigError):
        AdapterPool(8, merge_similarity=2.0)


def test_merged_weights_are_the_weighted_mean():
    pool, a, _, first, second = overlapping()
    x = np.eye(8, dtype=np.float32)
    one, other = first.delta(x).astype(float), second.delta(x).astype(float)
    seen = pool.metrics()["reused"] + 2
    pool.merge(similarity=0.5, together=0.1)
    got = pool.get(a).delta(x).astype(float)
    # Some mean w·one + (1 − w)·other, best in rank 2.
    best = min(
        (np.linalg.norm(got - m), w)
        for w in np.linspace(0, 1, 2 * seen + 1)
        for u, s, v in [np.linalg.svd(w * one + (1 - w) * other)]
        for m in [(u[:, :2] * s[:2]) @ v[:2]]
    )
    assert best[0] < 0.02


def test_opposed_adapters_stay_apart():
    pool, *_ = overlapping(alike=False)
    assert pool.merge(similarity=0.5, together=0.0) == []
    with pytest.raises(ValueError, match="similarity"):
        pool.merge(similarity=1.5)
    with pytest.raises(ValueError, match="together"):
        pool.merge(together=float("nan"))


def signal(x, g, weight=1.0):
    return LearningSignal.with_gradient(x, g, weight, baseline=0.0)


@pytest.mark.parametrize(("bits", "scheme"), [(8, "symmetric"), (4, "symmetric"), (4, "nf4")])
def test_straight_through_is_the_gradient_at_the_codes(bits, scheme):
    rng = np.random.default_rng(0)
    lora = MicroLoRA(10, 2, optimizer="sgd", learning_rate=0.5, weight_decay=0.0, clip_norm=None)
    lora.set_factors(rng.normal(size=(2, 10)), rng.normal(size=(10, 2)))
    aware = QuantAwareMicroLoRA(lora, bits=bits, scheme=scheme)
    A, B = aware.factors()
    for _ in range(3):
        q = aware.quantized()
        x, g = rng.normal(size=(2, 10)).astype(np.float32)
        np.testing.assert_allclose(aware.forward(x), q.forward(x), atol=1e-5)
        dA, dB, _ = q.gradients(x, -g)
        assert aware.accumulate_gradient(signal(x, g))
        assert aware.pending == 1
        assert aware.apply_accumulated().applied
        A, B = A - 0.5 * dA, B - 0.5 * dB
        np.testing.assert_allclose(aware.factors()[0], A, atol=1e-4)
        np.testing.assert_allclose(aware.factors()[1], B, atol=1e-4)


def test_training_through_four_bits_learns_the_target():
    rng = np.random.default_rng(3)
    d = 16
    target = MicroLoRA(d, 2)
    target.set_factors(rng.normal(size=(2, d)), rng.normal(size=(d, 2)))
    lora = MicroLoRA(d, 2, learning_rate=0.02, weight_decay=0.0, clip_norm=None)
    lora.set_factors(*(0.1 * rng.normal(size=s) for s in ((2, d), (d, 2))))
    aware = QuantAwareMicroLoRA(lora, bits=4)

    def error(x):
        return float(np.square(aware.quantized().forward(x) - target.forward(x)).mean())

    test = rng.normal(size=(200, d)).astype(np.float32)
    before = error(test)
    for step in range(400):
        x = rng.normal(size=(16, d)).astype(np.float32)
        for v, r in zip(x, target.forward(x) - aware.forward(x), strict=True):
            aware.accumulate_gradient(signal(v, r))
        aware.apply_accumulated(0.02 / (1 + step / 40))
    assert error(test) < 0.2 * before


def test_quant_aware_state_and_bad_input():
    rng = np.random.default_rng(0)
    aware = QuantAwareMicroLoRA(MicroLoRA(6, learning_rate=0.1))
    x, g = rng.normal(size=(2, 6)).astype(np.float32)
    aware.accumulate_gradient(signal(x, g))
    back = pickle.loads(pickle.dumps(aware))  # noqa: S301
    for a in (aware, back):
        a.apply_accumulated()
        a.accumulate_gradient(signal(g, x))
        a.apply_accumulated(0.05)
    assert np.array_equal(aware.forward(x), back.forward(x))
    assert repr(aware) == repr(back)
    assert not aware.accumulate_gradient(signal(np.zeros(6), g))
    assert aware.metrics()["skipped"] == 1
    assert not aware.apply_accumulated().applied
    before = aware.to_bytes()
    with pytest.raises(DimensionMismatch):
        aware.accumulate_gradient(signal(np.ones(5), np.ones(5)))
    with pytest.raises(DimensionMismatch):
        aware.forward(np.ones(5))
    with pytest.raises(ValueError, match="learning_rate"):
        aware.accumulate_gradient(signal(x, g)) and aware.apply_accumulated(-1.0)
    assert QuantAwareMicroLoRA.from_bytes(before).pending == 0
    with pytest.raises(CorruptStateError):
        QuantAwareMicroLoRA.from_bytes(before[:-3])
    for kw in ({"bits": 5}, {"bits": 8, "scheme": "nf4"}, {"block": 0}, {"scheme": "log"}):
        with pytest.raises(ConfigError):
            QuantAwareMicroLoRA(MicroLoRA(6), **kw)
