"""Prioritised replay: law of the draws, weights, budgets, bad input, state, threads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.continual import PriorityReplayBuffer
from sona.exceptions import CapacityError, ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError


def filled(priorities, **kwargs):
    buffer = PriorityReplayBuffer(max(1, len(priorities)), **kwargs)
    for i, p in enumerate(priorities):
        buffer.add(i, p)
    return buffer


@settings(max_examples=50, deadline=None)
@given(
    priorities=st.lists(st.floats(0, 100), min_size=1, max_size=40),
    alpha=st.sampled_from([0.0, 0.6, 1.0]),
    beta=st.sampled_from([0.0, 0.4, 1.0]),
    u=st.floats(0, 1, exclude_max=True),
)
def test_formulas(priorities, alpha, beta, u):
    buffer = filled(priorities, alpha=alpha, beta=beta)
    p = (np.array(priorities) + 1e-6) ** alpha
    np.testing.assert_allclose(buffer.probabilities(), p / p.sum(), rtol=1e-9)
    weights = (len(p) * p / p.sum()) ** -beta
    np.testing.assert_allclose(buffer.weights(np.arange(len(p))), weights / weights.max(), rtol=1e-9)
    at, cumulated = buffer.locate(u), np.cumsum(p)
    # Up to rounding of the running sum.
    assert cumulated[at] > u * p.sum() * (1 - 1e-12)
    assert at == 0 or cumulated[at - 1] <= u * p.sum() * (1 + 1e-12)


def test_draws_follow_the_probabilities():
    buffer = filled([0.0, 0.5, 1.0, 4.0, 9.0], alpha=0.6)
    batch = buffer.sample(40_000)
    counts = np.bincount(batch.indices, minlength=5)
    assert (
        scipy.stats.chisquare(
            counts[1:], buffer.probabilities()[1:] / buffer.probabilities()[1:].sum() * counts[1:].sum()
        ).pvalue
        > 0.001
    )
    assert batch.items == batch.indices.tolist()
    np.testing.assert_array_equal(batch.weights, buffer.weights(batch.indices))
    # Weighted, the mean of any function is that of the uniform buffer.
    f = np.array([1.0, -2.0, 3.0, 0.5, 7.0])
    w = buffer.weights(batch.indices, beta=1.0)
    drawn = batch.indices != 0
    assert (w[drawn] @ f[batch.indices[drawn]]) / w[drawn].sum() == pytest.approx(f[1:].mean(), rel=0.05)
    assert len(buffer.sample(3)) == 3
    assert buffer.sample(0).items == []


def test_same_seed_same_draws():
    a, b, c = (filled([1.0, 2.0, 3.0], seed=s) for s in (4, 4, 5))
    draws = [[x.sample(20).items for _ in range(3)] for x in (a, b, c)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0] != draws[0][1]


def test_a_full_buffer_overwrites_the_oldest():
    buffer = PriorityReplayBuffer(3)
    assert [buffer.add(x, p) for x, p in zip("abcde", (1, 1, 1, 0, 0), strict=True)] == [0, 1, 2, 0, 1]
    assert len(buffer) == buffer.capacity == 3
    # The mass of what left is gone.
    p = np.array([1e-6, 1e-6, 1 + 1e-6]) ** 0.6
    np.testing.assert_allclose(buffer.probabilities(), p / p.sum())
    assert set(buffer.sample(500).items) <= set("cde")


def test_new_items_get_the_largest_priority_so_far():
    buffer = PriorityReplayBuffer(4)
    buffer.add("a")
    buffer.add("b", 5.0)
    buffer.add("c")
    p = buffer.probabilities()
    assert p[1] == p[2] > p[0]
    buffer.update_priorities([0], [50.0])
    buffer.add("d")
    p = buffer.probabilities()
    assert p[3] == p[0] > p[1]
    buffer.update_priorities(np.array([0, 3]), np.array([0.0, -5.0]))
    assert buffer.metrics()["updated"] == 3
    p = buffer.probabilities()
    assert p[3] == p[1]
    assert p[0] < p[1]


def test_byte_budget():
    buffer = PriorityReplayBuffer(100, max_bytes=1000)
    slots = [buffer.add(np.zeros(25, np.float32), 1.0) for _ in range(10)]
    assert slots == list(range(10))
    buffer.add(np.zeros(100, np.float32), 1.0)
    m = buffer.metrics()
    assert (len(buffer), m["item_bytes"], m["evicted"]) == (7, 1000, 4)
    assert sorted(item.nbytes for item in {id(i): i for i in buffer.sample(500).items}.values()) == [100] * 6 + [400]
    with pytest.raises(ValueError, match="indices"):
        buffer.weights([0, 1, 2, 3])
    with pytest.raises(CapacityError):
        buffer.add(np.zeros(251, np.float32))
    assert len(buffer) == 7
    assert buffer.nbytes > 1000


def test_reservoir_is_a_uniform_sample():
    kept = np.zeros(60)
    for seed in range(400):
        buffer = PriorityReplayBuffer(10, policy="reservoir", seed=seed, alpha=0.0)
        slots = [buffer.add(i) for i in range(60)]
        assert len(buffer) == 10
        held = {s: i for i, s in enumerate(slots) if s >= 0}
        kept[list(held.values())] += 1
        assert buffer.metrics()["refused"] == slots.count(-1)
    assert scipy.stats.chisquare(kept).pvalue > 0.001


def test_bad_input_changes_nothing():
    buffer = filled([1.0, 2.0])
    before = buffer.to_bytes()
    for bad in (np.nan, np.inf):
        with pytest.raises(NotFiniteError):
            buffer.add("x", bad)
        with pytest.raises(NotFiniteError):
            buffer.update_priorities([0, 1], [1.0, bad])
    for indices in ([0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="indices"):
            buffer.update_priorities(indices, [1.0, 1.0])
        with pytest.raises(ValueError, match="indices"):
            buffer.weights(indices)
    with pytest.raises(DimensionMismatch):
        buffer.update_priorities([0, 1], [1.0])
    for u in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="u"):
            buffer.locate(u)
    with pytest.raises(ValueError, match="batch_size"):
        buffer.sample(-1)
    with pytest.raises(ValueError, match="beta"):
        buffer.sample(2, beta=-1.0)
    assert buffer.to_bytes() == before
    empty = PriorityReplayBuffer(2)
    for call in (lambda: empty.sample(1), lambda: empty.locate(0.5)):
        with pytest.raises(ValueError, match="buffer"):
            call()
    assert empty.probabilities().shape == (0,)
    for config in ({"alpha": -0.1}, {"beta": -1.0}, {"eps": 0.0}, {"alpha": np.nan}, {"policy": "fifo"}, {"max_bytes": -1}):
        with pytest.raises(ConfigError):
            PriorityReplayBuffer(2, **config)
    for capacity in (0, -1):
        with pytest.raises(ConfigError):
            PriorityReplayBuffer(capacity)


def test_save_load_continue_equals_never_stopping():
    a = PriorityReplayBuffer(20, max_bytes=200, policy="reservoir", seed=3)
    b = PriorityReplayBuffer(20, max_bytes=200, policy="reservoir", seed=3)
    rng = np.random.default_rng(0)
    for step in range(200):
        item = [step, f"text {step}", b"raw" * (step % 7 + 1)][step % 3]
        priority = rng.gamma(1.0)
        batches = []
        for buffer in (a, b):
            slot = buffer.add(item, priority)
            batch = buffer.sample(5)
            buffer.update_priorities(batch.indices, batch.weights)
            batches.append((slot, batch.items))
        assert batches[0] == batches[1]
        if step == 60:
            b = PriorityReplayBuffer.from_bytes(b.to_bytes())
        if step == 120:
            b = pickle.loads(pickle.dumps(b))  # noqa: S301
    assert a.to_bytes() == b.to_bytes()
    assert a.metrics() == b.metrics()
    data = a.to_bytes()
    for bad in (b"", data[:-1], data[:60], data + b"x", b"\xff" * 90):
        with pytest.raises(CorruptStateError):
            PriorityReplayBuffer.from_bytes(bad)


def test_other_items_need_a_way_to_be_written():
    buffer = PriorityReplayBuffer(2)
    buffer.add((1, 2))
    with pytest.raises(TypeError, match="dump"):
        buffer.to_bytes()
    data = buffer.to_bytes(lambda item: bytes(item))
    with pytest.raises(TypeError, match="load"):
        PriorityReplayBuffer.from_bytes(data)
    assert PriorityReplayBuffer.from_bytes(data, tuple).sample(1).items == [(1, 2)]
    assert repr(buffer) == "PriorityReplayBuffer(2, alpha=0.6, beta=0.4, policy='oldest', items=1)"


def test_items_that_leave_may_run_code():
    buffer = PriorityReplayBuffer(1)

    class Loud:
        def __del__(self):
            len(buffer)

    for _ in range(5):
        buffer.add(Loud())
    assert len(buffer) == 1


def test_threads_share_a_buffer():
    buffer = PriorityReplayBuffer(64)
    buffer.add(0)
    failures = []

    def work(k):
        try:
            for i in range(300):
                buffer.add(k * 1000 + i, float(i % 5))
                batch = buffer.sample(8)
                assert None not in batch.items
                buffer.update_priorities(batch.indices, batch.weights)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert not failures
    assert buffer.metrics()["added"] == 1201
    assert buffer.probabilities().sum() == pytest.approx(1.0)
