"""The bounded buffer: policies, budgets, counters, threads, state."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sona.exceptions import ConfigError, CorruptStateError
from sona.trajectory import QueryTrajectory, TrajectoryBuffer, TrajectoryStep


def record(i, d=2):
    return QueryTrajectory(i, np.full(d, 0.5), (), 0.5)


def ids(records):
    return [t.id for t in records]


@pytest.mark.parametrize(
    "call",
    [
        lambda: TrajectoryBuffer(0),
        lambda: TrajectoryBuffer(-1),
        lambda: TrajectoryBuffer(4, policy="newest"),
        lambda: TrajectoryBuffer(4, max_bytes=0),
        lambda: TrajectoryBuffer(4, max_bytes=-5),
        lambda: TrajectoryBuffer(4, seed=-1),
    ],
)
def test_bad_configurations(call):
    with pytest.raises(ConfigError):
        call()


def test_only_trajectories_are_recorded():
    with pytest.raises(TypeError, match="QueryTrajectory"):
        TrajectoryBuffer(4).record("text")
    with pytest.raises(ValueError, match="n:"):
        TrajectoryBuffer(4).drain(-1)


def test_an_empty_buffer():
    b = TrajectoryBuffer()
    assert (b.capacity, len(b), b.is_empty, b.nbytes, b.dropped_count) == (10_000, 0, True, 0, 0)
    assert b.success_rate == 1.0
    assert b.drain() == []
    assert b.peek(3) == []


def test_reject_keeps_the_first():
    b = TrajectoryBuffer(2, policy="reject")
    assert [b.record(record(i)) for i in range(4)] == [True, True, False, False]
    assert b.dropped_count == 2
    assert b.success_rate == 0.5
    assert ids(b.drain()) == [0, 1]
    assert b.record(record(9))


def test_records_come_back_as_they_went_in():
    b = TrajectoryBuffer(4)
    t = QueryTrajectory(1, [1.0, 2.0], (TrajectoryStep([3.0, 4.0], [], 0.1),), 1.0)
    b.record(t)
    assert b.peek()[0] is t
    assert b.drain()[0] is t


def test_the_byte_budget():
    one = record(0).nbytes
    b = TrajectoryBuffer(100, max_bytes=3 * one)
    for i in range(5):
        assert b.record(record(i))
        assert b.nbytes <= 3 * one
    assert ids(b.peek()) == [2, 3, 4]
    assert not b.record(record(9, d=1000))
    assert b.metrics()["oversized"] == 1
    assert b.dropped_count == 3
    b.drain()
    assert b.nbytes == 0


def test_the_reservoir_is_uniform():
    # Which of 30 records 6 places keep, over 600 streams: every position equally often.
    hits = np.zeros(30)
    for seed in range(600):
        b = TrajectoryBuffer(6, policy="reservoir", seed=seed)
        stored = [b.record(record(i)) for i in range(30)]
        kept = ids(b.drain())
        assert kept == sorted(kept)
        assert len(kept) == 6
        assert all(stored[:6])
        hits[kept] += 1
    # Draws within one stream exclude each other, so the statistic is a little below its chi-square law.
    assert chisquare(hits).pvalue > 1e-3


def test_the_reservoir_repeats_with_its_seed():
    def run(seed):
        b = TrajectoryBuffer(5, policy="reservoir", seed=seed)
        for i in range(50):
            b.record(record(i))
        return ids(b.drain())

    assert run(1) == run(1)
    assert run(1) != run(2)


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(["drop_oldest", "reject", "reservoir"]),
    calls=st.lists(st.tuples(st.sampled_from(["record", "peek", "drain"]), st.integers(0, 4)), max_size=60),
    cut=st.integers(0, 60),
)
def test_save_load_continue_equals_never_stopping(policy, calls, cut):
    a, b = (TrajectoryBuffer(4, policy=policy, max_bytes=4000, seed=3) for _ in range(2))
    for i, (call, n) in enumerate(calls):
        if i == cut:
            b = TrajectoryBuffer.from_bytes(b.to_bytes())
        got = [x.record(record(i, d=1 + n)) if call == "record" else getattr(x, call)(n or None) for x in (a, b)]
        assert got[0] == got[1]
        assert a.metrics() == b.metrics()
        m = a.metrics()
        assert m["recorded"] == m["stored"] + m["drained"] + m["dropped"]
    assert a.to_bytes() == b.to_bytes()


def test_state_is_checked():
    b = TrajectoryBuffer(4)
    b.record(QueryTrajectory(1, [1.0, 2.0], (TrajectoryStep([3.0, 4.0], [0.5], 0.1, 9.0),), 1.0, 5, "s", "t"))
    data = b.to_bytes()
    assert TrajectoryBuffer.from_bytes(data).drain() == b.peek()
    assert pickle.loads(pickle.dumps(b)).metrics() == b.metrics()  # noqa: S301
    for bad in (b"", data[:-1], data[:40], b"x" + data[1:], data + b"x"):
        with pytest.raises(CorruptStateError):
            TrajectoryBuffer.from_bytes(bad)


@pytest.mark.parametrize("policy", ["drop_oldest", "reject", "reservoir"])
def test_threads_lose_nothing(policy):
    producers, each = 3, 4000
    b = TrajectoryBuffer(64, policy=policy)
    done, drained = threading.Event(), []

    def produce(p):
        for i in range(each):
            b.record(record(p * each + i))

    def consume():
        while not done.is_set():
            drained.extend(b.drain(50))
            b.peek(3)

    consumer = threading.Thread(target=consume)
    threads = [threading.Thread(target=produce, args=(p,)) for p in range(producers)]
    for t in [consumer, *threads]:
        t.start()
    for t in threads:
        t.join(60)
    done.set()
    consumer.join(60)
    assert not consumer.is_alive()
    drained.extend(b.drain())
    m = b.metrics()
    assert m["recorded"] == producers * each
    assert m["drained"] == len(drained)
    assert m["drained"] + m["dropped"] == producers * each
    assert len(set(ids(drained))) == len(drained)
