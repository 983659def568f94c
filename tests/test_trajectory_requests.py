"""Requests recorded from their parts: the same trajectories as those built first, checked as they are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sona.exceptions import NotFiniteError, ShapeError
from sona.trajectory import LearningSignal, QueryTrajectory, TrajectoryBuffer

X = np.array([0.6, 0.8, -1.0], np.float32)


def recorded(*args, **options):
    buffer = TrajectoryBuffer(4)
    assert buffer.record_request(*args, **options)
    (out,) = buffer.drain()
    return out


def through_pickle(t):
    return pickle.loads(pickle.dumps(t))  # noqa: S301


@pytest.mark.parametrize(
    "options",
    [{}, {"latency_us": 12}, {"scope": "tenant"}, {"source": "click", "latency_us": 0}, {"scope": "", "source": "é"}],
)
def test_a_request_is_the_trajectory_built_from_its_parts(options):
    want = QueryTrajectory(7, X, (), 0.9, **options)
    assert recorded(7, X, 0.9, **options) == want
    for change in (copy.copy, copy.deepcopy, through_pickle, dataclasses.replace):
        assert change(recorded(7, X, 0.9, **options)) == want
    assert repr(recorded(7, X, 0.9, **options)) == repr(want)
    assert hash(recorded(7, X, 0.9, **options)) == hash(want)
    assert dataclasses.asdict(recorded(7, X, 0.9, **options)).keys() == dataclasses.asdict(want).keys()


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(QueryTrajectory)])
def test_any_field_may_be_read_first(name):
    got, want = recorded(-3, X, 0.25), QueryTrajectory(-3, X, (), 0.25)
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert type(getattr(got, name)) is type(getattr(want, name))
    assert got == want


def test_it_is_a_trajectory_like_any_other():
    got = recorded(1, X, 0.5)
    assert isinstance(got, QueryTrajectory)
    with pytest.raises(AttributeError, match="nothing"):
        _ = got.nothing
    with pytest.raises(AttributeError, match="nothing"):
        _ = QueryTrajectory(1, X, (), 0.5).nothing
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.id = 2
    with pytest.raises(ValueError, match="read-only"):
        got.query_embedding[0] = 1.0
    assert LearningSignal.from_trajectory(recorded(1, X, 0.5)).quality_score == 0.5


def test_the_vector_is_copied():
    x = X.copy()
    buffer = TrajectoryBuffer(2)
    buffer.record_request(0, x, 0.5)
    x[:] = 0
    np.testing.assert_array_equal(buffer.peek()[0].query_embedding, X)
    seen = buffer.peek()[0]
    for i in range(5):  # the first record's memory goes to later ones
        buffer.record_request(i, np.full(3, i), 0.5)
    np.testing.assert_array_equal(seen.query_embedding, X)
    assert [t.query_embedding[0] for t in buffer.drain()] == [3, 4]


@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        ((0, [np.nan, 1.0], 0.5), {}, NotFiniteError),
        ((0, [[1.0]], 0.5), {}, ShapeError),
        ((0, X, np.nan), {}, NotFiniteError),
        ((0, X, 1.5), {}, ValueError),
        ((0, X, -0.1), {}, ValueError),
        ((0, X, None), {}, TypeError),
        ((1 << 63, X, 0.5), {}, ValueError),
        ((0.5, X, 0.5), {}, TypeError),
        ((0, X, 0.5), {"latency_us": -1}, ValueError),
        ((0, X, 0.5), {"latency_us": 1 << 63}, ValueError),
        ((0, X, 0.5), {"latency_us": 0.5}, TypeError),
        ((0, X, 0.5), {"scope": 3}, TypeError),
        ((0, X, 0.5), {"source": b"x"}, TypeError),
    ],
)
def test_bad_parts_are_refused_as_the_dataclass_refuses_them(args, options, error):
    buffer = TrajectoryBuffer(4)
    with pytest.raises(error):
        buffer.record_request(*args, **options)
    assert buffer.metrics()["recorded"] == 0
    with pytest.raises(error):
        QueryTrajectory(args[0], args[1], (), args[2], **options)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=30),
    st.sampled_from(["drop_oldest", "reject", "reservoir"]),
)
def test_both_ways_of_recording_count_alike(stream, policy):
    mixed, built = (TrajectoryBuffer(5, policy=policy, max_bytes=900, seed=1) for _ in range(2))
    for i, (d, packed) in enumerate(stream):
        x = np.full(d, i)
        stored = mixed.record_request(i, x, 0.5) if packed else mixed.record(QueryTrajectory(i, x, (), 0.5))
        assert stored == built.record(QueryTrajectory(i, x, (), 0.5))
    assert mixed.metrics() == built.metrics()
    assert mixed.to_bytes() == built.to_bytes()
    assert TrajectoryBuffer.from_bytes(mixed.to_bytes()).peek() == built.peek()
    assert mixed.peek() == built.peek() == mixed.drain()


def test_two_threads_read_one_packed_record():
    for _ in range(50):
        record, seen = recorded(5, X, 0.5, scope="s"), []
        gate = threading.Barrier(2)

        def read(record=record, seen=seen, gate=gate):
            gate.wait()
            seen.append((record.id, record.scope, record.final_quality, record.query_embedding.tolist()))

        threads = [threading.Thread(target=read) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert seen == [(5, "s", 0.5, X.tolist())] * 2


def test_many_records_of_both_kinds_come_back_in_order():
    buffer, want = TrajectoryBuffer(300), []
    for i in range(300):
        want.append(QueryTrajectory(i, np.full(3, i), (), 0.5, scope=f"s{i % 7}"))
        if i % 50 == 49:
            buffer.record(want[-1])
        else:
            buffer.record_request(i, np.full(3, i), 0.5, scope=f"s{i % 7}")
    assert buffer.peek(40) == want[:40]
    got = buffer.drain()
    # Later ones first: what one record reads must not depend on the others.
    assert [t.id for t in reversed(got)] == list(range(299, -1, -1))
    assert got == want


def test_lengths_may_differ_from_record_to_record():
    buffer = TrajectoryBuffer(2)
    for d in (3, 1, 4, 1, 5):
        buffer.record_request(d, np.ones(d), 0.5)
    assert [len(t.query_embedding) for t in buffer.drain()] == [1, 5]
