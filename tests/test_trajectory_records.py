"""Records, the builder, and the value semantics of dataclasses that hold arrays."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from sona.exceptions import DimensionMismatch, NotFiniteError, ShapeError
from sona.trajectory import (
    LearningSignal,
    QueryTrajectory,
    SignalMetadata,
    TrajectoryBuffer,
    TrajectoryBuilder,
    TrajectoryStep,
)


def trajectory(**changes):
    step = TrajectoryStep([1.0, 0.0, 0.5], [0.25, 0.75], 0.3, 12.5)
    fields = {"id": 7, "query_embedding": [0.6, 0.8, 0.0], "steps": (step,), "final_quality": 0.9}
    return QueryTrajectory(**{**fields, **changes})


def test_arrays_are_read_only_copies():
    q = np.ones(3, np.float32)
    t = trajectory(query_embedding=q)
    q[0] = 5.0
    assert t.query_embedding[0] == 1.0
    assert t.query_embedding.dtype == np.float32
    for array in (t.query_embedding, t.steps[0].activations, t.steps[0].attention_weights):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 2.0


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        trajectory().id = 8


def test_equality_is_by_value():
    assert trajectory() == trajectory()
    assert hash(trajectory()) == hash(trajectory())
    assert trajectory() != trajectory(final_quality=0.8)
    assert trajectory() != trajectory(query_embedding=[0.6, 0.8, 0.1])
    assert trajectory() != "a trajectory"
    a = LearningSignal([1.0], [2.0], 0.5)
    assert a == LearningSignal([1.0], [2.0], 0.5)
    assert a != LearningSignal([1.0], [2.5], 0.5)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_copies_are_equal_and_stay_read_only(clone):
    t = clone(trajectory(source="bot"))
    assert t == trajectory(source="bot")
    assert not t.query_embedding.flags.writeable
    s = clone(LearningSignal([1.0], [2.0], 0.5, metadata=SignalMetadata("mine", reason="why")))
    assert s.metadata == SignalMetadata("mine", reason="why")
    assert not s.gradient_estimate.flags.writeable


@pytest.mark.parametrize("quality", [-0.01, 1.01, np.nan, np.inf])
def test_quality_must_lie_in_the_unit_interval(quality):
    with pytest.raises(ValueError, match="final_quality"):
        trajectory(final_quality=quality)


@pytest.mark.parametrize("quality", [0, 1, np.float32(0.5)])
def test_the_ends_of_the_interval_are_fine(quality):
    assert trajectory(final_quality=quality).final_quality == quality


def test_bad_arrays():
    with pytest.raises(NotFiniteError, match="index 1"):
        trajectory(query_embedding=[0.0, np.nan, 0.0])
    with pytest.raises(NotFiniteError):
        TrajectoryStep([1.0], [np.inf], 0.0)
    with pytest.raises(NotFiniteError):
        TrajectoryStep([1.0], [], np.nan)
    with pytest.raises(ShapeError):
        TrajectoryStep([[1.0]], [], 0.0)
    with pytest.raises(ShapeError):
        TrajectoryStep(1.0, [], 0.0)
    with pytest.raises(ShapeError):
        TrajectoryStep("text", [], 0.0)
    with pytest.raises(DimensionMismatch):
        trajectory(query_embedding=[1.0, 2.0])
    with pytest.raises(DimensionMismatch):
        LearningSignal([1.0], [1.0, 2.0], 0.5)


def test_sizes_count_the_arrays():
    small, large = trajectory(steps=()), trajectory(query_embedding=np.zeros(1003), steps=())
    assert large.nbytes - small.nbytes == 4000
    assert trajectory().nbytes > small.nbytes + 20


def test_builder():
    b = TrajectoryBuilder(3, [1.0, 0.0], scope="acme", source="click")
    assert b.step_count == 0
    b.add_step([0.0, 1.0], [1.0], 0.5)
    b.add_step(np.array([1, 1]), [], 0.25)
    assert b.step_count == 2
    before = b.elapsed
    assert 0.0 <= before <= b.elapsed
    with pytest.raises(DimensionMismatch):
        b.add_step([1.0], [], 0.0)
    with pytest.raises(ValueError, match="final_quality"):
        b.build(2.0)
    t = b.build(1.0)
    assert (t.id, t.scope, t.source, len(t.steps)) == (3, "acme", "click", 2)
    assert [s.reward for s in t.steps] == [0.5, 0.25]
    assert t.latency_us >= 0
    assert t.steps[0].timestamp <= t.steps[1].timestamp
    for call in (lambda: b.build(1.0), lambda: b.add_step([0.0, 1.0], [], 0.0)):
        with pytest.raises(RuntimeError, match="new one"):
            call()


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (ValueError, {"id": 1 << 63}),
        (ValueError, {"id": -(1 << 63) - 1}),
        (TypeError, {"id": "7"}),
        (TypeError, {"id": 7.0}),
        (ValueError, {"latency_us": -1}),
        (TypeError, {"latency_us": 2.5}),
        (TypeError, {"scope": None}),
        (TypeError, {"source": b"web"}),
        (TypeError, {"steps": (5,)}),
    ],
)
def test_what_could_not_be_saved_is_refused_when_it_is_made(error, changes):
    good = {"id": 7, "query_embedding": [1.0, 2.0], "steps": (), "final_quality": 0.5}
    QueryTrajectory(**good)
    with pytest.raises(error):
        QueryTrajectory(**{**good, **changes})


def test_integers_of_numpy_are_integers():
    t = QueryTrajectory(np.int32(3), [1.0], (), 0.5, np.uint16(9))
    assert (type(t.id), type(t.latency_us)) == (int, int)
    buffer = TrajectoryBuffer(1)
    buffer.record(t)
    assert TrajectoryBuffer.from_bytes(buffer.to_bytes()).drain() == [t]
