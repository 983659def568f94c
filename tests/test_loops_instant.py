"""Loop A and the co-retrieval edges."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from sona.dreams import EdgeWeights
from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError
from sona.loops import FlushReport, InstantLoop, InstantLoopConfig
from sona.lora import MicroLoRA
from sona.trajectory import QueryTrajectory, RewardBaseline, TrajectoryStep


def trajectory(i, quality=0.9, d=8, steps=1):
    rng = np.random.default_rng(i)
    made = tuple(TrajectoryStep(rng.normal(size=d), [], quality) for _ in range(steps))
    return QueryTrajectory(i, rng.normal(size=d), made, quality)


def test_a_flush_comes_with_every_sixteenth_signal():
    loop = InstantLoop(8)
    for i in range(15):
        loop.on_inference(trajectory(i), now=0.0)
    assert loop.micro_lora.pending == 15
    assert not loop.micro_lora.B.any()
    loop.on_inference(trajectory(15), now=0.0)
    assert loop.micro_lora.pending == 0
    assert loop.micro_lora.B.any()
    assert [t.id for t in loop.drain_trajectories()] == list(range(16))
    assert loop.drain_trajectories() == []
    assert loop.flush_updates(now=0.0) == FlushReport(0, 0, False)


def test_a_flush_comes_after_fifty_milliseconds():
    loop = InstantLoop(8)
    loop.on_inference(trajectory(0), now=100.0)
    loop.on_inference(trajectory(1), now=100.049)
    assert loop.micro_lora.pending == 2
    loop.on_inference(trajectory(2), now=100.051)
    assert loop.micro_lora.pending == 0
    loop.on_inference(trajectory(3), now=100.1)
    assert loop.micro_lora.pending == 1


def test_configuration():
    config = InstantLoopConfig(micro_lora_rank=2, micro_lora_lr=0.5, max_pending_signals=3)
    loop = InstantLoop(8, config)
    assert loop.micro_lora.rank == 2
    for i in range(3):
        loop.on_inference(trajectory(i), now=0.0)
    assert loop.micro_lora.pending == 0
    assert loop.micro_lora.metrics()["applied"] == 1
    for kwargs in ({"flush_every": 0}, {"max_pending_signals": -1}, {"flush_ms": -1.0}, {"flush_ms": np.nan}):
        with pytest.raises(ConfigError):
            InstantLoopConfig(**kwargs)
    with pytest.raises(ConfigError):
        InstantLoop(8, InstantLoopConfig(micro_lora_rank=3))


def test_a_baseline_is_read_before_the_reward_enters():
    baseline = RewardBaseline(initial=0.9)
    loop = InstantLoop(8, baseline=baseline)
    # Nothing is better or worse than expected, so there is no direction; by the constant 0.5 there is one.
    loop.on_inference(trajectory(0, 0.9), now=0.0)
    assert loop.metrics()["lora_skipped_no_direction"] == 1
    assert baseline.metrics()["count"] == 1
    loop.on_inference(trajectory(1, 0.2), now=0.0)
    assert loop.micro_lora.pending == 1
    alone = InstantLoop(8)
    alone.on_inference(trajectory(0, 0.9), now=0.0)
    assert alone.micro_lora.pending == 1
    again = InstantLoop.from_bytes(loop.to_bytes())
    assert again.to_bytes() == loop.to_bytes()


def test_trajectories_without_steps_are_kept_and_counted():
    loop = InstantLoop(8)
    loop.on_inference(trajectory(0, steps=0), now=0.0)
    assert loop.micro_lora.pending == 0
    assert loop.metrics()["lora_skipped_no_direction"] == 1
    assert loop.flush_updates(now=0.0) == FlushReport(1, 0, False)
    assert len(loop.drain_trajectories()) == 1


def test_the_wrong_dimension_stores_nothing():
    baseline = RewardBaseline()
    loop = InstantLoop(8, baseline=baseline)
    with pytest.raises(DimensionMismatch):
        loop.on_inference(trajectory(0, d=7), now=0.0)
    assert loop.metrics()["buffer_recorded"] == loop.metrics()["signals"] == 0
    assert baseline.metrics()["count"] == 0


def test_edges_follow_the_quality():
    loop = InstantLoop(8)
    loop.on_inference(trajectory(0, 1.0), item_ids=["a", "b", "c"], now=0.0)
    loop.on_inference(trajectory(1, 0.0), item_ids=("b", "c"), now=0.0)
    report = loop.flush_updates(now=0.0)
    assert report.edges == 3
    assert loop.edges.get("a", "b") == pytest.approx(0.01)
    assert loop.edges.get("c", "b") == pytest.approx(0.0)


def test_save_load_continue_equals_never_stopping():
    a, b = (InstantLoop(8, InstantLoopConfig(flush_every=4)) for _ in range(2))
    for i in range(30):
        for loop in (a, b):
            loop.on_inference(trajectory(i, (i % 5) / 4), item_ids=[i % 3, i % 4], now=i * 0.01)
        if i in (5, 18):
            b = InstantLoop.from_bytes(b.to_bytes())
        if i == 24:
            b = pickle.loads(pickle.dumps(b))  # noqa: S301
    assert a.to_bytes() == b.to_bytes()
    assert a.metrics() == b.metrics()
    assert [t.id for t in a.drain_trajectories()] == [t.id for t in b.drain_trajectories()]


def test_damaged_state_is_refused():
    data = InstantLoop(4).to_bytes()
    for bad in (b"", data[:-1], data[:20], b"\xff" * 64, data + b"\0", data[:10] + b"\xff" + data[11:]):
        with pytest.raises(CorruptStateError):
            InstantLoop.from_bytes(bad)


def test_threads_share_a_loop():
    loop = InstantLoop(8, InstantLoopConfig(flush_every=5))
    threads = [
        threading.Thread(target=lambda s=s: [loop.on_inference(trajectory(s * 100 + i)) for i in range(100)]) for s in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    loop.flush_updates()
    m = loop.metrics()
    assert m["buffer_recorded"] == 400
    assert m["lora_accumulated"] + m["lora_skipped_no_direction"] == 400
    assert m["lora_pending"] == 0
    assert isinstance(loop.micro_lora, MicroLoRA)
    assert repr(loop) == "InstantLoop(hidden_dim=8, signals=0)"


class TestEdgeWeights:
    def test_pairs_wait_for_the_commit(self):
        edges = EdgeWeights()
        edges.update_from_signal([1, 2, 2, 3], 0.75, scale=0.1)
        edges.update_from_signal([3, 1], 0.75, scale=0.1)
        assert edges.get(1, 2) == 0.0
        assert len(edges) == 0
        assert edges.commit() == 3
        assert edges.get(1, 2) == pytest.approx(0.05)
        assert edges.get(1, 3) == edges.get(3, 1) == pytest.approx(0.1)
        assert edges.get("1", "2") == 0.0
        assert len(edges) == 3
        assert edges.commit() == 0

    def test_a_neutral_outcome_touches_and_changes_nothing(self):
        edges = EdgeWeights()
        edges.update_from_signal(["ab", "c"], 0.5)
        assert edges.commit() == 1
        assert edges.get("ab", "c") == 0.0

    def test_any_hashable_id(self):
        edges = EdgeWeights()
        ids = ["text", 7, b"raw", ("tenant", 3), frozenset({1})]
        edges.update_from_signal(ids, 1.0)
        assert edges.commit() == 10
        assert edges.get(frozenset({1}), ("tenant", 3)) == pytest.approx(0.01)
        with pytest.raises(ValueError, match="item_ids"):
            edges.to_bytes()

    def test_bad_input(self):
        edges = EdgeWeights()
        with pytest.raises(NotFiniteError):
            edges.update_from_signal([1, 2], np.nan)
        with pytest.raises(NotFiniteError):
            edges.update_from_signal([1, 2], 1.0, scale=np.inf)
        with pytest.raises(TypeError):
            edges.update_from_signal("ids", 1.0)
        with pytest.raises(TypeError):
            edges.update_from_signal([[1], [2]], 1.0)
        assert edges.commit() == 0

    def test_state(self):
        edges = EdgeWeights()
        edges.update_from_signal([1, "b", (2, b"c")], 1.0)
        edges.commit()
        edges.update_from_signal([1, "b"], 0.0)
        for again in (EdgeWeights.from_bytes(edges.to_bytes()), pickle.loads(pickle.dumps(edges))):  # noqa: S301
            assert again.metrics() == edges.metrics() == {"edges": 3, "pending": 1, "commits": 1}
            again.commit()
            assert again.get(1, "b") == pytest.approx(0.0)
        with pytest.raises(CorruptStateError):
            EdgeWeights.from_bytes(edges.to_bytes()[:-1])
