"""The deep loop and ``sona dream``."""

from __future__ import annotations

import json
import pickle
import threading

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine
from sona.cli import main
from sona.continual import EwcConfig, EwcPlusPlus
from sona.dreams import DreamConfig, DreamEngine, MemoryConsolidator, MemoryNode, PhiEvaluator
from sona.exceptions import ConfigError, CorruptStateError
from sona.loops import DeepLoop, DeepLoopConfig


def graph(n=40, d=8, clusters=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, d))
    engine = DreamEngine(DreamConfig(creative_jump_prob=0.1, path_length=8), seed=seed)
    for i in range(n):
        x = centres[i % clusters] + 0.7 * rng.normal(size=d)
        engine.add_memory_node(MemoryNode(i, x, access_count=int(rng.integers(10)), importance=0.9))
    for i in range(n):
        for j in range(i):
            if i % clusters == j % clusters and rng.random() < 0.7:
                engine.add_edge(i, j)
    return engine


def test_a_cycle_dreams_filters_consolidates_and_merges():
    engine = graph()
    for i in range(3):
        engine.add_memory_node(MemoryNode(100 + i, engine.memories()[i].embedding * 2, access_count=1, importance=0.2))
        engine.add_edge(100 + i, (i + 4) % 40, 5.0)
    ewc = EwcPlusPlus(EwcConfig(param_count=4))
    for t in range(3):
        ewc.set_params(np.full(4, t))
        ewc.update_fisher(np.ones((5, 4)))
        ewc.start_new_task()
    loop = DeepLoop(DeepLoopConfig(phi_threshold=0.1), engine=engine, ewc=ewc)
    seen = []
    before = engine.edge_count
    result = loop.run_cycle(now=0.0, on_dream=lambda dream, phi, added: seen.append((phi, added)))
    assert result.status == "complete"
    assert result.dreams_generated == 50 == len(seen)
    assert 0 < result.dreams_integrated < 50
    assert result.dreams_integrated == sum(phi >= 0.1 for phi, _ in seen)
    assert all(added == 0 for phi, added in seen if phi < 0.1)
    assert result.patterns_pruned == 3
    assert result.patterns_strengthened > 0
    assert ewc.task_count == 1
    assert loop.dream_engine is engine
    assert engine.node_count == 40
    assert engine.edge_count > before
    # Edges of a merged memory now belong to its leader.
    assert engine.weight(0, 4) == 5.0
    metrics = loop.metrics()
    assert metrics["cycles"] == 1
    assert metrics["dreams_rejected"] + metrics["dreams_integrated"] == 50
    assert metrics["edges_suggested"] == sum(added for _, added in seen)


def test_threshold_of_integration():
    always = DeepLoop(DeepLoopConfig(phi_threshold=0.0), engine=graph()).run_cycle()
    some = DeepLoop(DeepLoopConfig(phi_threshold=0.9), engine=graph()).run_cycle()
    assert always.dreams_integrated == 50
    assert 0 < some.dreams_integrated < 50


def test_deadline_and_nothing_to_do():
    assert DeepLoop(DeepLoopConfig(max_cycle_s=0.0), engine=graph()).run_cycle().status == "deadline"
    loop = DeepLoop()
    result = loop.run_cycle()
    assert (result.status, result.dreams_generated, loop.dream_engine.node_count) == ("empty", 0, 0)
    assert DeepLoop(DeepLoopConfig(dreams_per_cycle=0), engine=graph()).run_cycle().status == "complete"


def test_budget_drops_memories_and_their_edges():
    engine = graph()
    budget = MemoryConsolidator(max_bytes=20 * 64, coverage=4)
    result = DeepLoop(DeepLoopConfig(dreams_per_cycle=0), engine=engine, consolidator=budget).run_cycle(now=0.0)
    assert result.patterns_pruned == 20
    assert engine.node_count == 20
    alive = {m.id for m in engine.memories()}
    assert all(a in alive and b in alive for a, b, _, _ in engine.edges())


def test_saved_loop_goes_on_as_if_never_stopped():
    ewc = EwcPlusPlus(EwcConfig(param_count=2))
    loop = DeepLoop(DeepLoopConfig(dreams_per_cycle=5), engine=graph(), ewc=ewc)
    loop.run_cycle(now=0.0)
    copies = [DeepLoop.from_bytes(loop.to_bytes()), pickle.loads(pickle.dumps(loop))]  # noqa: S301
    loop.run_cycle(now=1.0)
    for copy in copies:
        copy.run_cycle(now=1.0)
        assert copy.to_bytes() == loop.to_bytes()
    data = loop.to_bytes()
    for bad in (b"", data[:-1], data + b"x", b"\x00" * 40):
        with pytest.raises(CorruptStateError):
            DeepLoop.from_bytes(bad)
    assert "cycles=2" in repr(loop)


def test_cycles_from_many_threads_run_one_at_a_time():
    loop = DeepLoop(DeepLoopConfig(dreams_per_cycle=5), engine=graph())
    threads = [threading.Thread(target=loop.run_cycle) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert loop.metrics()["cycles"] == 4
    assert loop.metrics()["dreams_generated"] == 20


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dreams_per_cycle": -1},
        {"phi_threshold": 1.5},
        {"consolidation_threshold": float("nan")},
        {"max_cycle_s": -1.0},
    ],
)
def test_bad_settings(kwargs):
    with pytest.raises(ConfigError):
        DeepLoopConfig(**kwargs)


def test_integration_of_a_dream_that_leaves_its_cluster_is_zero():
    engine = graph()
    for dream in engine.generate_dreams(50):
        if len({n.id % 4 for n in dream.path}) > 1:
            assert PhiEvaluator().evaluate_dream(dream, engine) == 0.0
            return
    raise AssertionError("no dream left its cluster")


@pytest.fixture
def state(tmp_path):
    rng = np.random.default_rng(0)
    items = rng.normal(size=(12, 8)).astype(np.float32)
    items[1::2] = items[::2] + 0.8 * rng.normal(size=(6, 8))
    with SonaEngine(SonaConfig(hidden_dim=8), store=tmp_path / "state") as engine:
        for _ in range(60):
            i = int(rng.integers(12))
            query = items[i] + 0.4 * rng.normal(size=8)
            decision = engine.rank(query=query, ids=[f"doc-{k}" for k in range(12)], vectors=items)
            engine.feedback(decision.id, chosen=f"doc-{i}", source="click", user=f"u{i}")
        engine.save(tmp_path / "engine.sona")
    return tmp_path


def test_dream_command(state, capsys):
    before = sorted((p, p.read_bytes()) for p in (state / "state").rglob("*") if p.is_file())
    assert main(["dream", str(state / "state"), "--json", "--phi", "0", "--dreams", "20"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["memories"] > 5
    assert row["edges"] > 0
    assert row["dreams"] == row["integrated"] == 20
    assert {s["a"].split("-")[0] for s in row["suggestions"]} <= {"doc"}
    assert before == sorted((p, p.read_bytes()) for p in (state / "state").rglob("*") if p.is_file())
    assert main(["dream", str(state / "engine.sona")]) == 0
    out = capsys.readouterr().out
    assert "suggested links" in out
    assert main(["dream", str(state / "state"), "--scope", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "empty"


def test_dream_command_errors(tmp_path, capsys):
    assert main(["dream", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
