"""Dreams and consolidation: laws, oracles, bad input, state."""

from __future__ import annotations

import itertools
import pickle
import threading

import numpy as np
import pytest
from scipy.stats import chisquare

from sona.dreams import (
    DreamConfig,
    DreamEngine,
    MemoryConsolidator,
    MemoryNode,
    PhiEvaluator,
    random_walk_with_restart,
)
from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError


def ring(n=12, d=6, seed=0, **config):
    rng = np.random.default_rng(seed)
    engine = DreamEngine(DreamConfig(**config), seed=seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    for i in range(n):
        engine.add_memory_node(MemoryNode(10 + i, x[i], importance=float(rng.random())))
    for i in range(n):
        engine.add_edge(10 + i, 10 + (i + 1) % n, 1.0 + i)
    return engine, x


def steps(engine, count, start):
    pairs = []
    for _ in range(count):
        path = [n.id - 10 for n in engine.generate_dream(start=start).path]
        pairs += list(itertools.pairwise(path))
    return np.array(pairs)


def test_edge_steps_follow_the_weights():
    engine, _ = ring(restart_prob=0.0, creative_jump_prob=0.0, path_length=1000)
    pairs = steps(engine, 20, 10)
    for i in range(12):
        to = pairs[pairs[:, 0] == i, 1]
        left, right = (i - 1) % 12, (i + 1) % 12
        assert set(to) <= {left, right}
        weights = np.array([engine.weight(10 + i, 10 + left), engine.weight(10 + i, 10 + right)])
        count = np.array([(to == left).sum(), (to == right).sum()])
        assert chisquare(count, weights / weights.sum() * count.sum()).pvalue > 1e-5


@pytest.mark.parametrize("temperature", [0.05, 0.2, 2.0])
def test_jumps_follow_their_law(temperature):
    engine, x = ring(restart_prob=0.0, creative_jump_prob=1.0, path_length=2000, jump_temperature=temperature)
    pairs = steps(engine, 20, 10)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i in range(12):
        to = np.bincount(pairs[pairs[:, 0] == i, 1], minlength=12)
        law = np.exp((unit @ unit[i] - 1) / temperature)
        law[[i, (i - 1) % 12, (i + 1) % 12]] = 0
        assert to[law == 0].sum() == 0
        expected = law[law > 0] / law.sum() * to.sum()
        keep = expected > 5
        if to.sum() < 200 or keep.sum() < 2:
            continue
        observed = np.append(to[law > 0][keep], to[law > 0][~keep].sum())
        expected = np.append(expected[keep], expected[~keep].sum())
        ok = expected > 0.5
        assert chisquare(observed[ok], expected[ok] * observed[ok].sum() / expected[ok].sum()).pvalue > 1e-5


def test_shares_of_restarts_and_jumps():
    engine, _ = ring(n=200, path_length=1000)
    dreams = [engine.generate_dream(start=10) for _ in range(20)]
    n = 20 * 999
    jumps = sum(d.creative_jumps for d in dreams) / n
    assert abs(jumps - 0.9 * 0.3) < 5 * np.sqrt(0.27 * 0.73 / n)
    assert engine.metrics()["creative_jumps"] == sum(d.creative_jumps for d in dreams)


def test_long_walks_visit_nodes_as_the_stationary_law_says():
    engine, _ = ring(creative_jump_prob=0.0, restart_prob=0.2, path_length=5000)
    W = np.zeros((12, 12))
    for i in range(12):
        j = (i + 1) % 12
        W[i, j] = W[j, i] = engine.weight(10 + i, 10 + j)
    law = random_walk_with_restart(W, 3, restart=0.2)
    P = W / W.sum(1, keepdims=True)
    direct = np.linalg.solve(np.eye(12) - 0.8 * P.T, 0.2 * np.eye(12)[3])
    np.testing.assert_allclose(law, direct, atol=1e-7)
    visits = np.zeros(12)
    for _ in range(20):
        for node in engine.generate_dream(start=13).path[100:]:
            visits[node.id - 10] += 1
    np.testing.assert_allclose(visits / visits.sum(), law, atol=0.01)


def test_same_seed_same_dreams():
    a, b = ring(seed=3)[0], ring(seed=3)[0]
    for x, y in zip(a.generate_dreams(20), b.generate_dreams(20), strict=True):
        assert [n.id for n in x.path] == [n.id for n in y.path]
        assert (x.id, x.score, x.creative_jumps) == (y.id, y.score, y.creative_jumps)


def test_score_against_numpy():
    engine, x = ring(n=20, seed=5)
    unit = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    for dream in engine.generate_dreams(10):
        at = [n.id - 10 for n in dream.path]
        distinct = sorted(set(at))
        pairs = [(i, j) for k, i in enumerate(distinct) for j in distinct[k + 1 :]]
        novel = [p for p in pairs if engine.weight(p[0] + 10, p[1] + 10) == 0 and 0.3 < unit[p[0]] @ unit[p[1]] < 0.8]
        coherence = np.mean([unit[i] @ unit[j] for i, j in itertools.pairwise(at)])
        utility = np.mean([n.importance for n in dream.path])
        assert dream.total_novelty == pytest.approx(len(novel) / len(pairs), abs=1e-9)
        assert dream.coherence == pytest.approx(coherence, abs=1e-5)
        assert dream.utility == pytest.approx(utility, abs=1e-9)
        assert dream.score == pytest.approx(0.3 * dream.total_novelty + 0.4 * coherence + 0.3 * utility, abs=1e-5)
        again = engine.score_path([n.id for n in dream.path])
        assert again.total == dream.score


def novel_dream(engine):
    for dream in engine.generate_dreams(200):
        if dream.total_novelty > 0 and dream.score > 0:
            return dream
    raise AssertionError("no dream with a novel pair")


def test_suggestions_are_weak_and_on_probation():
    engine, _ = ring(n=30, probation=5)
    dream = novel_dream(engine)
    added = engine.integrate_dream(dream)
    assert added > 0
    assert engine.edge_count == 30 + added
    ids = sorted({n.id for n in dream.path})
    fresh = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :] if engine.weight(a, b) == pytest.approx(0.1 * dream.score)]
    assert len(fresh) == added
    assert engine.confirm(*fresh[0]) is True
    assert engine.confirm(*fresh[0]) is False
    assert engine.tick(4) == 0
    assert engine.tick() == added - 1
    assert engine.edge_count == 31
    assert engine.weight(*fresh[0]) == pytest.approx(0.1 * dream.score)
    assert engine.integrate_dream(dream) == added - 1


def test_empty_dreams():
    engine = DreamEngine()
    assert engine.generate_dream().path == ()
    engine.add_memory_node(MemoryNode(1, [1.0, 0.0]))
    assert engine.generate_dream(start=1).path == ()
    engine.add_memory_node(MemoryNode(2, [0.0, 1.0]))
    assert engine.generate_dream(start=1).path == ()
    assert engine.generate_dream().score == 0.0
    assert engine.metrics()["dreams_empty"] == 4
    assert engine.integrate_dream(engine.generate_dream()) == 0
    assert PhiEvaluator().evaluate_dream(engine.generate_dream(), engine) == 0.0


def test_saved_state_goes_on_as_if_never_stopped():
    engine, _ = ring(n=30)
    engine.integrate_dream(novel_dream(engine))
    engine.tick(3)
    copies = [DreamEngine.from_bytes(engine.to_bytes()), pickle.loads(pickle.dumps(engine))]  # noqa: S301

    def go_on(e):
        ids = [[n.id for n in d.path] for d in e.generate_dreams(5)]
        return ids, e.tick(97), e.edge_count, e.to_bytes()

    want = go_on(engine)
    assert all(go_on(c) == want for c in copies)
    data = engine.to_bytes()
    for at in range(0, len(data), 41):
        bad = bytearray(data)
        bad[at] ^= 2
        with pytest.raises(CorruptStateError):
            DreamEngine.from_bytes(bytes(bad))
    assert "memories=30" in repr(engine)
    assert engine.config == DreamConfig()


def test_memories_survive_and_can_be_replaced():
    engine, x = ring()
    engine.add_memory_node(MemoryNode(10, -x[0], access_count=3))
    assert engine.node_count == 12
    first = engine.memories()[0]
    np.testing.assert_array_equal(first.embedding, -x[0])
    assert (first.access_count, engine.weight(10, 11)) == (3, 1.0)
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301
    with pytest.raises(ValueError):
        first.embedding[0] = 1.0


def test_bad_input_changes_nothing():
    engine, _ = ring()
    before = engine.to_bytes()
    for call, error in [
        (lambda: engine.add_edge(10, 99), ValueError),
        (lambda: engine.add_edge(10, 10), ValueError),
        (lambda: engine.add_edge(10, 12, 0.0), ValueError),
        (lambda: engine.add_edge(10, 12, float("nan")), NotFiniteError),
        (lambda: engine.add_memory_node(MemoryNode(50, [1.0])), DimensionMismatch),
        (lambda: engine.add_memory_node(MemoryNode(50, [float("inf")] * 6)), NotFiniteError),
        (lambda: engine.generate_dream(start=99), ValueError),
        (lambda: engine.score_path([10, 99]), ValueError),
        (lambda: MemoryNode(1, [1.0], importance=1.5), ConfigError),
        (lambda: MemoryNode(1, [[1.0]]), ShapeError),
        (lambda: MemoryNode(1, [1.0], timestamp=float("nan")), NotFiniteError),
    ]:
        with pytest.raises(error):
            call()
    assert engine.to_bytes() == before
    for bad in (
        {"path_length": 1},
        {"creative_jump_prob": 1.5},
        {"restart_prob": -0.1},
        {"jump_temperature": 0.0},
        {"novelty_weight": float("nan")},
        {"probation": 0},
    ):
        with pytest.raises(ConfigError):
            DreamConfig(**bad)


def test_threads_share_an_engine():
    engine, _ = ring(n=50)
    results = []

    def work():
        for _ in range(50):
            dream = engine.generate_dream()
            engine.integrate_dream(dream)
            engine.tick()
            results.append(dream.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == list(range(200))
    assert DreamEngine.from_bytes(engine.to_bytes()).edge_count == engine.edge_count


# --- consolidation ---------------------------------------------------------------------------------------------------


def memories(n=300, d=8, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    x[1::3] = x[::3][: len(x[1::3])] * 1.3 + 0.001
    return [
        MemoryNode(
            i, x[i], timestamp=float(rng.random() * 1e6), access_count=int(rng.integers(20)), importance=float(rng.random())
        )
        for i in range(n)
    ]


def test_consolidation_adds_up_and_ignores_order():
    nodes = memories()
    c = MemoryConsolidator(max_bytes=100 * (4 * 8 + 32))
    got = c.consolidate(nodes, now=1e6)
    assert len(got.nodes) == 100
    assert got.merged + got.pruned + 100 == 300
    assert (got.bytes_before, got.bytes_after) == (300 * 64, 100 * 64)
    again = c.consolidate(nodes[::-1], now=1e6)
    assert sorted(got.nodes, key=lambda n: n.id) == sorted(again.nodes, key=lambda n: n.id)
    plain = MemoryConsolidator().consolidate(nodes, now=1e6)
    assert sum(n.access_count for n in plain.nodes) == sum(n.access_count for n in nodes)
    assert plain.merged >= 100
    untouched = {id(n) for n in nodes}
    assert any(id(n) in untouched for n in plain.nodes)
    everything = MemoryConsolidator().consolidate(plain.nodes, threshold=1e9, now=1e6)
    assert everything.nodes == plain.nodes
    assert everything.merged == 0


def test_value_decides_and_strengthens():
    x = np.eye(4)
    nodes = [
        MemoryNode(0, x[0], timestamp=100.0, access_count=9, importance=0.9),
        MemoryNode(1, x[1], timestamp=0.0, access_count=9, importance=0.9),
        MemoryNode(2, x[2], timestamp=100.0, access_count=0, importance=0.9),
        MemoryNode(3, x[3], timestamp=100.0, access_count=9, importance=0.2),
    ]
    got = MemoryConsolidator(half_life_s=25.0, max_bytes=48, coverage=0).consolidate(nodes, now=100.0)
    assert [n.id for n in got.nodes] == [0]
    assert got.strengthened == 1
    assert got.nodes[0].importance == pytest.approx(0.91)


def test_consolidation_bad_input():
    nodes = memories(4)
    for bad in ({"merge_similarity": 0.0}, {"half_life_s": 0.0}, {"merge_similarity": float("nan")}):
        with pytest.raises(ConfigError):
            MemoryConsolidator(**bad)
    c = MemoryConsolidator()
    with pytest.raises(ValueError):
        c.consolidate([nodes[0], nodes[0]])
    with pytest.raises(DimensionMismatch):
        c.consolidate([nodes[0], MemoryNode(9, [1.0])])
    with pytest.raises(NotFiniteError):
        c.consolidate(nodes, threshold=float("nan"))
    with pytest.raises(ValueError):
        MemoryConsolidator(max_bytes=10).consolidate(nodes)
    empty = c.consolidate([])
    assert (empty.nodes, empty.bytes_before) == ([], 0)
    copy = pickle.loads(pickle.dumps(MemoryConsolidator(max_bytes=640, coverage=2)))  # noqa: S301
    assert repr(copy) == "MemoryConsolidator(max_bytes=640, coverage=2)"
