"""Reasoning bank: identities over extractions, isolation, verdicts, bounds, state, threads."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sona.exceptions import (
    ConfigError,
    CorruptStateError,
    DimensionMismatch,
    NotFiniteError,
    ScopeError,
    ShapeError,
)
from sona.patterns import (
    LearnedPattern,
    MemoryItem,
    PatternConfig,
    PatternMatch,
    ReasoningBank,
    Verdict,
)

D = 16


def around(axis, n, seed=0, noise=0.03, d=D):
    rng = np.random.default_rng([seed, axis])
    return (np.eye(d)[axis] + noise * rng.normal(size=(n, d))).astype(np.float32)


def fill(bank, axis, n, quality, *, seed=0, **kwargs):
    return [bank.add(x, quality, **kwargs) for x in around(axis, n, seed)]


def three(**config):
    bank = ReasoningBank(PatternConfig(**{"k_clusters": 3, "embedding_dim": D} | config))
    for axis, (quality, action) in enumerate([(0.9, "search"), (0.5, "ask"), (0.1, "guess")]):
        fill(bank, axis, 20, quality, action=action)
    return bank


def test_patterns_are_the_statistics_of_their_members():
    rng = np.random.default_rng(1)
    bank = ReasoningBank(PatternConfig(k_clusters=2, embedding_dim=D))
    members = {}
    for axis in (0, 1):
        x, q = around(axis, 25), rng.random(25)
        for row, quality in zip(x, q, strict=True):
            bank.add(row, quality)
        members[axis] = (x, q)
    patterns = bank.extract_patterns(now=7.9)
    assert len(patterns) == 2
    for p in patterns:
        x, q = members[int(np.argmax(p.centroid))]
        np.testing.assert_allclose(p.centroid, x.mean(0), atol=1e-6)
        assert p.cluster_size == 25
        assert p.avg_quality == pytest.approx(q.mean())
        assert p.quality_var == pytest.approx(q.var())
        assert p.total_weight == pytest.approx((q + 0.05).sum())
        assert (p.created_at, p.last_accessed, p.access_count) == (7, 7, 0)


def test_repeated_extraction_never_doubles():
    bank = three()
    ids = [p.id for p in bank.extract_patterns()]
    for round in range(10):
        for axis in range(3):
            fill(bank, axis, 3, 0.6, seed=round + 1)
        assert [p.id for p in bank.extract_patterns()] == ids
    assert len(bank.patterns) == 3
    assert sum(p.cluster_size for p in bank.patterns) == 150


def test_access_counts_survive_extraction():
    bank = three()
    bank.extract_patterns(now=1)
    for t in (2, 3, 4):
        bank.find_patterns(np.eye(D)[0], k=1, now=t)
    fill(bank, 0, 7, 0.8, seed=9)
    bank.extract_patterns(now=5)
    [match] = bank.find_patterns(np.eye(D)[0], k=1, now=6)
    assert isinstance(match, PatternMatch)
    assert (match.pattern.access_count, match.pattern.last_accessed) == (4, 6)
    assert match.pattern.created_at == 1


def test_similarity_is_the_cosine_best_first():
    bank = three()
    bank.extract_patterns()
    q = np.random.default_rng(3).normal(size=D)
    found = bank.find_patterns(q, k=10)
    want = [m.pattern.centroid @ q / np.linalg.norm(m.pattern.centroid) / np.linalg.norm(q) for m in found]
    np.testing.assert_allclose([m.similarity for m in found], want, atol=1e-6)
    assert want == sorted(want, reverse=True)
    assert len(found) == 3
    assert len(bank.find_patterns(q, k=2)) == 2
    assert bank.find_patterns(q, k=0) == []


def test_scopes_are_isolated():
    bank = ReasoningBank(PatternConfig(k_clusters=3, embedding_dim=D))
    fill(bank, 0, 10, 0.9, scope="acme", action="acme's secret")
    fill(bank, 0, 10, 0.2, scope="other")
    assert {p.scope for p in bank.extract_patterns()} == {"acme", "other"}
    assert bank.find_patterns(np.eye(D)[0]) == []
    assert bank.recall(np.eye(D)[0]) == []
    [mine] = bank.find_patterns(np.eye(D)[0], scope="other")
    assert mine.pattern.avg_quality == pytest.approx(0.2)
    assert bank.recall(np.eye(D)[0], k=10, scope="other")[0].title != "Works: acme's secret"
    bank.merge_similar(-1.0)
    assert {p.scope for p in bank.patterns} == {"acme", "other"}
    with pytest.raises(ScopeError):
        bank.patterns[0].merge(bank.patterns[1])


def test_a_noisy_scope_does_not_crowd_out_another():
    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D, max_trajectories=30))
    fill(bank, 0, 10, 0.9, scope="quiet")
    for seed in range(20):
        fill(bank, 1, 50, 0.5, seed=seed, scope="noisy")
    assert bank.trajectory_count == 30
    assert bank.metrics()["evicted"] == 1010 - 30
    assert sum(p.cluster_size for p in bank.extract_patterns() if p.scope == "quiet") == 10


def test_ring_keeps_the_latest():
    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D, max_trajectories=20))
    fill(bank, 0, 20, 0.1)
    fill(bank, 0, 20, 0.9, seed=1)
    assert bank.extract_patterns()[0].avg_quality == pytest.approx(0.9)


def test_too_few_cases_give_nothing_and_a_reason():
    bank = ReasoningBank(PatternConfig(embedding_dim=D))
    assert bank.extract_patterns() == []
    fill(bank, 0, 4, 0.9)
    assert bank.extract_patterns() == []
    assert bank.metrics()["skipped_too_few_cases"] == 1
    assert bank.trajectory_count == 4


def test_duplicates_give_one_pattern():
    bank = ReasoningBank(PatternConfig(embedding_dim=D))
    for _ in range(100):
        bank.add(np.eye(D)[0], 0.7)
    [p] = bank.extract_patterns()
    assert p.cluster_size == 100
    assert p.verdict is Verdict.SUCCESS


def test_verdicts_and_recall():
    bank = three()
    verdicts = {int(np.argmax(p.centroid)): p.verdict for p in bank.extract_patterns()}
    assert verdicts == {0: Verdict.SUCCESS, 1: Verdict.UNCERTAIN, 2: Verdict.FAILURE}
    [item] = bank.recall(np.eye(D)[2])
    assert item.verdict is Verdict.FAILURE
    assert item.title == "Avoid: guess"
    assert "Avoid: guess (quality 0.10, 20 times)" in item.content
    assert item.similarity > 0.95
    np.testing.assert_allclose(item.embedding, np.eye(D)[2], atol=0.1)
    items = bank.recall(np.eye(D)[2], k=10, include_failures=False)
    assert {i.verdict for i in items} == {Verdict.SUCCESS, Verdict.UNCERTAIN}


def test_quality_threshold_hides_failures_from_find_but_not_from_recall():
    bank = three(quality_threshold=0.3)
    bank.extract_patterns()
    assert {m.pattern.verdict for m in bank.find_patterns(np.eye(D)[2], k=9)} == {
        Verdict.SUCCESS,
        Verdict.UNCERTAIN,
    }
    assert bank.recall(np.eye(D)[2])[0].verdict is Verdict.FAILURE


def test_actions_tell_what_worked_in_a_mixed_region():
    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D))
    fill(bank, 0, 10, 0.95, action="calculator")
    fill(bank, 0, 10, 0.05, seed=1, action="guess")
    [p] = bank.extract_patterns()
    assert p.verdict is Verdict.UNCERTAIN
    assert {(a.action, a.count, round(a.mean_quality, 2)) for a in p.actions} == {
        ("calculator", 10, 0.95),
        ("guess", 10, 0.05),
    }
    content = bank.recall(np.eye(D)[0])[0].content
    assert "Do: calculator" in content
    assert "Avoid: guess" in content


def trajectory(quality, axis=0, scope="default", seed=0):
    return SimpleNamespace(id=1, query_embedding=around(axis, 1, seed)[0], steps=(), final_quality=quality, scope=scope)


def test_judge_by_thresholds_or_by_function():
    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D))
    expected = {0.0: "FAILURE", 0.3: "FAILURE", 0.31: "UNCERTAIN", 0.69: "UNCERTAIN", 0.7: "SUCCESS"}
    assert {q: bank.judge(trajectory(q)).name for q in expected} == expected
    bank.judge_with(lambda t: Verdict.FAILURE if t.final_quality > 0.5 else Verdict.SUCCESS)
    assert bank.judge(trajectory(0.9)) is Verdict.FAILURE
    for seed in range(10):
        bank.add_trajectory(trajectory(0.9, seed=seed))
    assert bank.extract_patterns()[0].verdict is Verdict.FAILURE
    bank.judge_with(None)
    assert bank.judge(trajectory(0.9)) is Verdict.SUCCESS


def test_add_trajectory_takes_the_real_record():
    from sona.trajectory import TrajectoryBuilder

    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D, min_cluster_size=1))
    builder = TrajectoryBuilder(3, np.eye(D, dtype=np.float32)[0], scope="acme")
    assert bank.add_trajectory(builder.build(0.75)) is None
    [p] = bank.extract_patterns()
    assert (p.scope, p.avg_quality) == ("acme", 0.75)


def test_distiller_is_asked_once_until_the_pattern_changes():
    asked = []

    def distiller(pattern):
        asked.append(pattern.id)
        return MemoryItem(f"title {len(asked)}", "description", "content")

    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D), distiller=distiller)
    fill(bank, 0, 10, 0.9)
    bank.extract_patterns()
    for _ in range(3):
        [item] = bank.recall(np.eye(D)[0])
        assert (item.title, item.verdict) == ("title 1", Verdict.SUCCESS)
    restored = ReasoningBank.from_bytes(bank.to_bytes())
    assert restored.recall(np.eye(D)[0])[0].title == "title 1"
    fill(bank, 0, 5, 0.4, seed=2)
    bank.extract_patterns()
    assert bank.recall(np.eye(D)[0])[0].title == "title 2"
    tuples = ReasoningBank.from_bytes(restored.to_bytes(), distiller=lambda p: ("a", "b", "c"))
    assert tuples.recall(np.eye(D)[0])[0].title == "title 1"


def test_remove_takes_cases_out_of_their_patterns():
    bank = ReasoningBank(PatternConfig(k_clusters=1, embedding_dim=D))
    good, bad = fill(bank, 0, 10, 0.9), fill(bank, 0, 10, 0.1, seed=1)
    bank.extract_patterns()
    assert bank.remove(bad) == 10
    assert bank.remove(bad) == 0
    [p] = bank.patterns
    assert (p.cluster_size, round(p.avg_quality, 6)) == (10, 0.9)
    assert p.quality_var == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(p.centroid, around(0, 10).mean(0), atol=1e-5)
    assert bank.remove(good) == 10
    assert bank.patterns == []
    assert bank.trajectory_count == 0


def test_merge_similar_prune_decay_clear():
    bank = ReasoningBank(PatternConfig(k_clusters=9, embedding_dim=D))
    for axis in range(3):
        fill(bank, axis, 30, 0.9 - 0.3 * axis)
    n = len(bank.extract_patterns())
    assert n > 3
    assert bank.prune(0.0, 10) == 0
    total = sum(p.cluster_size for p in bank.patterns)
    assert bank.merge_similar(0.999999) == 0
    assert bank.merge_similar() == n - 3
    assert sum(p.cluster_size for p in bank.patterns) == total
    assert len(bank.extract_patterns()) == 3
    weights = [p.total_weight for p in bank.patterns]
    bank.decay(0.5, days=2.0)
    assert [p.total_weight for p in bank.patterns] == pytest.approx([w / 4 for w in weights])
    fill(bank, 0, 1, 0.9, seed=5)
    after = {p.id: p.total_weight for p in bank.extract_patterns()}
    assert sum(after.values()) == pytest.approx(sum(weights) / 4 + 0.95, rel=0.2)
    bank.merge_similar()
    assert bank.prune(1.1, 10**6) == 0, "each is the only pattern of its region"
    id = bank.patterns[0].id
    assert bank.get_pattern(id) == bank.patterns[0]
    assert bank.get_pattern(10**6) is None
    bank.clear()
    assert bank.patterns == []
    assert bank.trajectory_count == 0
    assert bank.get_pattern(id) is None


def test_prune_drops_the_worse_of_two_neighbours():
    bank = ReasoningBank(PatternConfig(k_clusters=2, embedding_dim=D))
    a, b = np.eye(D)[0], np.eye(D)[0] + 0.5 * np.eye(D)[1]
    for _ in range(10):
        bank.add(a, 0.3)
        bank.add(b, 0.4)
    assert len(bank.extract_patterns()) == 2
    bank.find_patterns(b, k=1)
    assert bank.prune(0.5, 2) == 1
    assert [round(p.avg_quality, 6) for p in bank.patterns] == [0.4]


def test_state_survives_and_continues_as_if_never_stopped():
    bank = three()
    bank.extract_patterns(now=1)
    bank.find_patterns(np.eye(D)[1], now=2)
    copies = [ReasoningBank.from_bytes(bank.to_bytes()), pickle.loads(pickle.dumps(bank))]  # noqa: S301
    for b in (bank, *copies):
        assert b.config == bank.config
        fill(b, 3, 12, 0.8, seed=4)
        b.extract_patterns(now=3)
    for b in copies:
        assert b.patterns == bank.patterns
        assert b.to_bytes() == bank.to_bytes()


def test_same_calls_same_bytes():
    def run():
        bank = three()
        bank.extract_patterns(now=1)
        bank.find_patterns(np.eye(D)[0], now=2)
        return bank.to_bytes()

    assert run() == run()


def test_damaged_state_is_refused():
    data = three().to_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(len(data), size=50):
        with pytest.raises(CorruptStateError):
            ReasoningBank.from_bytes(data[:cut])
    for at in rng.integers(len(data), size=100):
        bad = bytearray(data)
        bad[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptStateError):
            ReasoningBank.from_bytes(bytes(bad))


@pytest.mark.parametrize(
    ("embedding", "quality", "error"),
    [
        (np.ones(D - 1), 0.5, DimensionMismatch),
        (np.ones((1, D)), 0.5, ShapeError),
        (np.full(D, np.nan), 0.5, NotFiniteError),
        (np.zeros(D), 0.5, ValueError),
        (np.ones(D), 1.5, ValueError),
        (np.ones(D), -0.1, ValueError),
        (np.ones(D), float("nan"), NotFiniteError),
    ],
)
def test_bad_cases_change_nothing(embedding, quality, error):
    bank = three()
    before = bank.to_bytes()
    with pytest.raises(error):
        bank.add(embedding, quality)
    assert bank.to_bytes() == before


def test_bad_calls_are_refused():
    bank = three()
    bank.extract_patterns()
    for call, error in [
        (lambda: bank.find_patterns(np.ones(3)), DimensionMismatch),
        (lambda: bank.find_patterns(np.full(D, np.inf)), NotFiniteError),
        (lambda: bank.find_patterns(np.ones(D), k=-1), ValueError),
        (lambda: bank.recall(np.ones((2, D))), ShapeError),
        (lambda: bank.decay(1.5), ValueError),
        (lambda: bank.decay(0.5, days=-1), ValueError),
        (lambda: bank.merge_similar(2.0), ValueError),
    ]:
        with pytest.raises(error):
            call()
    assert bank.find_patterns(np.zeros(D)) == []
    assert bank.metrics()["zero_queries"] == 1


@pytest.mark.parametrize(
    "field",
    [
        {"k_clusters": 0},
        {"k_clusters": -1},
        {"embedding_dim": 0},
        {"max_iterations": 0},
        {"min_cluster_size": 0},
        {"max_trajectories": 0},
        {"convergence_threshold": -1.0},
        {"convergence_threshold": float("nan")},
        {"quality_threshold": 1.1},
        {"merge_similarity": 1.1},
    ],
)
def test_config_out_of_range(field):
    with pytest.raises(ConfigError):
        PatternConfig(**field)


def test_config_is_frozen_and_keyword_only():
    with pytest.raises(TypeError):
        PatternConfig(50)
    with pytest.raises(dataclasses.FrozenInstanceError):
        PatternConfig().seed = 1


pattern_lists = st.lists(
    st.tuples(
        st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3),
        st.integers(1, 1000),
        st.floats(0, 1),
        st.floats(0, 0.25),
        st.floats(0, 100),
        st.sampled_from(Verdict),
    ),
    min_size=3,
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(pattern_lists)
def test_merge_is_associative_and_commutative_but_for_the_id(groups):
    a, b, c = (
        LearnedPattern(i, x, n, w, q, v, created_at=i, last_accessed=10 - i, access_count=n, verdict=verdict)
        for i, (x, n, q, v, w, verdict) in enumerate(groups)
    )
    left, right, turned = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(b).merge(a)
    for other in (right, turned):
        assert left.cluster_size == other.cluster_size
        assert left.access_count == other.access_count
        assert (left.created_at, left.last_accessed) == (other.created_at, other.last_accessed)
        assert left.verdict == other.verdict
        np.testing.assert_allclose(left.centroid, other.centroid, atol=1e-5)
        assert left.avg_quality == pytest.approx(other.avg_quality, abs=1e-12)
        assert left.quality_var == pytest.approx(other.quality_var, abs=1e-12)
        assert left.total_weight == pytest.approx(other.total_weight)
    assert left.id == right.id == a.id


def test_merge_refuses_another_dimension():
    with pytest.raises(DimensionMismatch):
        LearnedPattern(0, [1.0], 1, 1.0, 0.5).merge(LearnedPattern(1, [1.0, 2.0], 1, 1.0, 0.5))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.data())
def test_lower_bound_is_that_of_scipy(n, data):
    k = data.draw(st.integers(0, n))
    p = LearnedPattern(0, [1.0], n, 1.0, k / n)
    want = binomtest(k, n).proportion_ci(0.95, method="wilson").low
    assert p.quality_lower_bound() == pytest.approx(want, abs=1e-6)


def test_decay_and_should_prune_of_a_pattern():
    p = LearnedPattern(0, [1.0], 10, 8.0, 0.4, access_count=3)
    assert p.decay(0.5, days=3).total_weight == pytest.approx(1.0)
    assert p.decay(0.0).total_weight == 0.0
    for factor, days in [(1.1, 1.0), (-0.1, 1.0), (0.5, -1.0), (float("nan"), 1.0)]:
        with pytest.raises(ValueError):
            p.decay(factor, days=days)
    for factor, days in [(float("nan"), 1.0), (0.5, float("inf"))]:
        with pytest.raises(NotFiniteError):
            p.decay(factor, days=days)
    assert p.should_prune(0.5, 4)
    assert not p.should_prune(0.4, 4)
    assert not p.should_prune(0.5, 3)


def test_pattern_is_a_value():
    p = LearnedPattern(0, np.ones(3), 10, 8.0, 0.4)
    assert p == LearnedPattern(0, np.ones(3), 10, 8.0, 0.4)
    assert p != LearnedPattern(0, np.zeros(3), 10, 8.0, 0.4)
    assert not p.centroid.flags.writeable
    with pytest.raises(NotFiniteError):
        LearnedPattern(0, [np.nan], 1, 1.0, 0.5)
    with pytest.raises(ShapeError):
        LearnedPattern(0, [[1.0]], 1, 1.0, 0.5)


def test_threads_lose_nothing():
    bank = ReasoningBank(PatternConfig(k_clusters=8, embedding_dim=D, max_trajectories=100_000))
    failures = []

    def guarded(work):
        try:
            work()
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    def writer(t):
        for i in range(200):
            bank.add(around(t, 1, seed=i)[0], 0.5, scope=f"s{t % 2}")

    def reader():
        for i in range(100):
            bank.find_patterns(np.eye(D)[i % 4], scope=f"s{i % 2}")

    def extractor():
        for _ in range(10):
            bank.extract_patterns()

    work = [lambda t=t: writer(t) for t in range(4)] + [reader, reader, extractor, extractor]
    threads = [threading.Thread(target=guarded, args=(w,)) for w in work]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert failures == []
    assert bank.trajectory_count == 800
    patterns = bank.extract_patterns()
    assert len({p.id for p in patterns}) == len(patterns)
    assert sum(p.cluster_size for p in patterns) + bank.metrics()["unclustered_cases"] <= 800
    assert "ReasoningBank(" in repr(bank)
