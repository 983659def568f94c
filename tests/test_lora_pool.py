"""The adapter pool: task choice, byte budget, pins, spilling, state, threads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from sona.exceptions import (
    CapacityError,
    ConfigError,
    CorruptStateError,
    DimensionMismatch,
    NotFiniteError,
    StoreError,
)
from sona.lora import AdapterPool
from sona.trajectory import LearningSignal

D = 16


def task(i):
    x = np.full(D, 0.05, np.float32)
    x[i] = 1.0
    return x


def learn(lora, i=0):
    lora.learn(LearningSignal(task(i), task(i + 1), 0.5))


def one():
    pool = AdapterPool(D)
    pool.select(task(0))
    return pool.memory_bytes


def learned():
    """Bytes of an adapter that has learned once: it remembers queries for the trust region."""
    pool = AdapterPool(D)
    learn(pool.select(task(0))[1])
    return pool.memory_bytes


def test_near_tasks_share_an_adapter():
    pool = AdapterPool(D)
    assert [pool.select(task(i))[0] for i in (0, 1, 0, 2, 1)] == [0, 1, 0, 2, 1]
    assert pool.ids == [0, 1, 2]
    assert len(pool) == 3
    _, lora = pool.select(task(1))
    learn(lora)
    np.testing.assert_array_equal(pool.get(1).B, lora.B)
    assert (pool.get(0).A != pool.get(1).A).any()
    assert pool.metrics()["reused"] == 3


def test_the_threshold_is_a_cosine_with_the_mean():
    pool = AdapterPool(2, similarity=0.8)
    assert pool.select([2.0, 0.0])[0] == 0
    assert pool.select([0.81 * 5, 0.5864 * 5])[0] == 0
    # The centroid has moved to the mean of both, so that one is near which the first alone would not have reached.
    centroid = (np.array([2.0, 0.0]) + np.array([4.05, 2.932])) / 2
    angle = np.arctan2(centroid[1], centroid[0]) + np.arccos(0.805)
    assert np.cos(angle) < 0.8
    assert pool.select([np.cos(angle), np.sin(angle)])[0] == 0
    assert pool.select([-1.0, 0.0])[0] == 1


def test_memory_falls_when_adapters_are_evicted():
    budget = int(3.5 * one())
    pool = AdapterPool(D, memory_budget=budget)
    for i in range(3):
        pool.select(task(i))
    pool.get(0)
    pool.select(task(3))
    assert pool.memory_bytes <= budget
    assert pool.ids == [0, 2, 3]
    assert pool.prune_lru() == [1]
    assert pool.prune_lru() == []
    with pytest.raises(KeyError, match="1"):
        pool.get(1)
    assert pool.select(task(1))[0] == 4


def test_learning_counts_towards_the_budget():
    budget = int(2.2 * one())
    pool = AdapterPool(D, memory_budget=budget)
    pool.select(task(0))
    _, lora = pool.select(task(1))
    for i in range(10):
        learn(lora, i)
    assert pool.memory_bytes > budget
    assert pool.prune_lru() == [0]
    assert pool.memory_bytes <= budget


def test_pins():
    pool = AdapterPool(D, memory_budget=int(2.2 * one()))
    for i in range(2):
        pool.pin(pool.select(task(i))[0])
    with pytest.raises(CapacityError, match="bytes"):
        pool.select(task(2))
    assert pool.ids == [0, 1]
    pool.unpin(0)
    assert pool.select(task(2))[0] == 2
    assert pool.ids == [1, 2]
    for call in (pool.pin, pool.unpin, pool.get):
        for unknown in (99, -1):
            with pytest.raises(KeyError):
                call(unknown)
    with pytest.raises(CapacityError):
        AdapterPool(D, memory_budget=10).select(task(0))


def test_pinning_more_than_the_budget(tmp_path):
    pool = AdapterPool(D, memory_budget=int(1.6 * one()), spill_dir=tmp_path)
    pool.pin(pool.select(task(0))[0])
    pool.unpin(0)
    pool.select(task(1))
    pool.pin(1)
    with pytest.raises(CapacityError):
        pool.pin(0)


def test_spilled_adapters_come_back_as_they_were(tmp_path):
    pool = AdapterPool(D, memory_budget=learned() + one() // 2, spill_dir=tmp_path / "new" / "spill")
    _, lora = pool.select(task(0))
    learn(lora)
    state = lora.to_bytes()
    del lora
    pool.select(task(1))
    assert pool.ids == [0, 1]
    assert pool.metrics()["resident"] == 1
    (file,) = (tmp_path / "new" / "spill").iterdir()
    assert pool.get(0).to_bytes() == state
    # The second took its place; damage is found, and the pool goes on.
    (other,) = (tmp_path / "new" / "spill").iterdir()
    assert other != file
    other.write_bytes(b"rubbish")
    with pytest.raises(CorruptStateError):
        pool.get(1)
    other.unlink()
    with pytest.raises(StoreError):
        pool.select(task(1))
    assert pool.get(0).to_bytes() == state
    del pool
    assert not list((tmp_path / "new" / "spill").iterdir())


def test_a_handle_that_is_still_in_use_keeps_what_it_learns(tmp_path):
    pool = AdapterPool(D, memory_budget=learned() + one() // 2, spill_dir=tmp_path)
    _, lora = pool.select(task(0))
    learn(lora)
    pool.select(task(1))
    assert pool.metrics()["spilled"] == 1
    learn(lora)
    assert pool.get(0).to_bytes() == lora.to_bytes()


def test_what_is_learned_after_spilling_survives_the_handle(tmp_path):
    pool = AdapterPool(D, memory_budget=learned() + one() // 2, spill_dir=tmp_path)
    _, lora = pool.select(task(0))
    pool.select(task(1))
    learn(lora)
    state = lora.to_bytes()
    del lora
    assert pool.get(0).to_bytes() == state
    assert AdapterPool.from_bytes(pool.to_bytes(), spill_dir=tmp_path).get(0).to_bytes() == state
    # A handle outlives its pool.
    _, lora = pool.select(task(1))
    pool.select(task(0))
    del pool
    learn(lora)
    assert lora.metrics()["applied"] == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ConfigError, lambda: AdapterPool(0)),
        (ConfigError, lambda: AdapterPool(D, rank=3)),
        (ConfigError, lambda: AdapterPool(D, memory_budget=0)),
        (ConfigError, lambda: AdapterPool(D, memory_budget=-1)),
        (ConfigError, lambda: AdapterPool(D, similarity=1.5)),
        (ConfigError, lambda: AdapterPool(D, similarity=np.nan)),
        (ValueError, lambda: AdapterPool(D).select(np.zeros(D))),
        (NotFiniteError, lambda: AdapterPool(D).select(np.full(D, np.nan))),
        (DimensionMismatch, lambda: AdapterPool(D).select(np.ones(D + 1))),
        (StoreError, lambda: AdapterPool(D, spill_dir="/dev/null/spill")),
    ],
)
def test_bad_input(error, call):
    with pytest.raises(error):
        call()


def test_save_load_continue_equals_never_stopping(tmp_path):
    budget = 2 * one() + 900
    a = AdapterPool(D, memory_budget=budget, spill_dir=tmp_path / "a")
    b = AdapterPool(D, memory_budget=budget, spill_dir=tmp_path / "b")
    for i in range(14):
        for pool in (a, b):
            learn(pool.select(task(i * 5 % 4))[1], i % 7)
        if i % 5 == 2:
            b = AdapterPool.from_bytes(b.to_bytes(), spill_dir=tmp_path / f"b{i}")
    assert a.ids == b.ids == [0, 1, 2, 3]
    for i in a.ids:
        assert a.get(i).to_bytes() == b.get(i).to_bytes()
    with pytest.raises(CapacityError, match="spill"):
        AdapterPool.from_bytes(a.to_bytes())
    data = a.to_bytes()
    for bad in (b"", data[:-1], data[:99] + bytes([data[99] ^ 8]) + data[100:]):
        with pytest.raises(CorruptStateError):
            AdapterPool.from_bytes(bad, spill_dir=tmp_path / "c")
    small = AdapterPool(D)
    small.select(task(0))
    again = pickle.loads(pickle.dumps(small))  # noqa: S301
    assert again.ids == [0]
    assert again.get(0).to_bytes() == small.get(0).to_bytes()


def test_threads_share_a_pool(tmp_path):
    pool = AdapterPool(D, memory_budget=3 * one() + 3000, spill_dir=tmp_path)
    counts = []

    def work(seed):
        rng = np.random.default_rng(seed)
        done = 0
        for _ in range(40):
            _, lora = pool.select(task(int(rng.integers(0, 6))))
            done += lora.learn(LearningSignal(task(3), task(4), 0.5)).applied
        counts.append(done)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
        assert not t.is_alive()
    assert counts == [40] * 4
    assert pool.ids == list(range(6))
    # An adapter may be evicted between being selected and learning: no step is lost.
    assert pool.metrics()["spilled"] > 0
    assert sum(pool.get(i).metrics()["applied"] for i in pool.ids) == 160
