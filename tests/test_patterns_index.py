"""VectorIndex against numpy in float64, scikit-learn and a dict model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sklearn.neighbors import NearestNeighbors

from index_data import DTYPES, METRICS, mixture, recall, scores64
from sona.exceptions import (
    CapacityError,
    ConfigError,
    DimensionMismatch,
    NotFiniteError,
    ShapeError,
)
from sona.patterns import VectorIndex


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 3, 17, 64, 257])
def test_flat_search_equals_float64(metric, d):
    rng = np.random.default_rng(d)
    rows, queries = rng.standard_normal((500, d)), rng.standard_normal((9, d))
    ids = rng.permutation(10_000)[:500]
    index = VectorIndex(d, metric=metric, kind="flat")
    index.add(ids, rows)
    want = scores64(metric, queries.astype(np.float32), rows.astype(np.float32))
    for k in (1, 7, 499, 500):
        found, scores = index.search(queries, k)
        assert found.shape == scores.shape == (9, k)
        assert found.dtype == np.int64
        assert scores.dtype == np.float32
        best = -np.sort(-want, axis=1)[:, :k]
        np.testing.assert_allclose(scores, best, rtol=2e-5, atol=2e-5)
        position = {int(i): p for p, i in enumerate(ids)}
        of_found = np.array([[want[r, position[i]] for i in row] for r, row in enumerate(found)])
        np.testing.assert_allclose(of_found, best, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("metric", "sklearn_metric"), [("cosine", "cosine"), ("euclidean", "sqeuclidean")])
def test_flat_search_equals_scikit_learn(metric, sklearn_metric):
    rows, queries = mixture(800, 24, 1), mixture(30, 24, 2)
    index = VectorIndex(24, metric=metric, kind="flat")
    index.add(np.arange(800), rows)
    distance, neighbours = (
        NearestNeighbors(n_neighbors=10, metric=sklearn_metric, algorithm="brute").fit(rows).kneighbors(queries)
    )
    found, scores = index.search(queries, 10)
    assert recall(found, neighbours) > 0.999
    np.testing.assert_allclose(scores, (1 if metric == "cosine" else 0) - distance, atol=2e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("d", "data"), [(256, "mixture"), (64, "normal"), (33, "uneven")])
def test_int8_search_finds_99_percent(metric, d, data):
    rng = np.random.default_rng(0)
    if data == "mixture":
        rows, queries = mixture(4000, d, 1), mixture(200, d, 2)
    else:
        scale = np.exp(rng.standard_normal(d)) if data == "uneven" else 1.0
        rows, queries = rng.standard_normal((4000, d)) * scale, rng.standard_normal((200, d)) * scale
    index = VectorIndex(d, metric=metric, dtype="int8", kind="flat")
    index.add(np.arange(4000), rows)
    for k in (1, 5, 50):
        exact = np.argsort(-scores64(metric, queries, rows), axis=1, kind="stable")[:, :k]
        singles = np.stack([index.search(q, k)[0] for q in queries])
        assert recall(singles, exact) >= 0.99
        assert recall(index.search(queries, k)[0], exact) >= 0.99


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_graph_recall_stays_through_deletes_and_inserts(metric, dtype):
    n, d = 3000, 48
    rows, more, queries = mixture(n, d, 1), mixture(n, d, 2), mixture(200, d, 3)
    if metric == "dot":
        rows *= np.random.default_rng(0).uniform(0.5, 1.5, (n, 1)).astype(np.float32)
    index = VectorIndex(d, metric=metric, dtype=dtype, kind="hnsw")
    index.add(np.arange(n), rows)

    def check(ids, stored):
        found, _ = index.search(queries, 10)
        exact = np.asarray(ids)[np.argsort(-scores64(metric, queries, stored), axis=1)[:, :10]]
        assert set(found.ravel()) <= set(ids)
        got = recall(found, exact)
        assert got >= 0.95
        assert index.recall_at(10, queries) == pytest.approx(got, abs=0.01)

    check(range(n), rows)
    assert index.remove(np.arange(0, n, 2)) == n // 2
    check(range(1, n, 2), rows[1::2])
    index.add(np.arange(n, n + n // 2), more[: n // 2])
    check([*range(1, n, 2), *range(n, n + n // 2)], np.vstack([rows[1::2], more[: n // 2]]))
    index.add(np.arange(1, n, 2), more[n // 2 :])
    check([*range(1, n, 2), *range(n, n + n // 2)], np.vstack([more[n // 2 :], more[: n // 2]]))


def test_auto_switches_both_ways_and_every_step_answers():
    d = 128
    index = VectorIndex(d, dtype="float32")
    chunk, total = 1000, 0
    rows, queries = mixture(14 * chunk, d, 1), mixture(20, d, 2)
    kinds = []
    for _ in range(14):
        index.add(np.arange(total, total + chunk), rows[total : total + chunk])
        total += chunk
        kinds.append(index.kind)
        assert index.recall_at(5, queries) >= 0.95
    assert kinds[0] == "flat"
    assert kinds[-1] == "hnsw"
    assert kinds == sorted(kinds)
    assert index.metrics()["graph_pending"] == 0
    # One row at a time from here on: the graph keeps up.
    index.add([-1], queries[:1])
    assert index.metrics()["graph_pending"] == 0
    assert 0 < index.metrics()["graph_width"] < 200
    assert index.remove(np.arange(total)) == total
    assert index.kind == "flat"
    assert index.search(np.ones(d), 2)[0].tolist() == [-1, -1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_without_neighbours_are_scanned(dtype):
    """Independent normal coordinates: a graph of 48 kept nodes finds less than half there."""
    rng = np.random.default_rng(0)
    rows, queries = rng.standard_normal((4000, 128)), rng.standard_normal((50, 128))
    index = VectorIndex(128, kind="hnsw", dtype=dtype)
    index.add(np.arange(4000), rows)
    assert index.kind == "hnsw"
    assert index.metrics()["graph_links"] > 0
    assert index.metrics()["graph_width"] == 0
    for k in (1, 10, 100):
        assert index.recall_at(k, queries) >= 0.99


class AgainstADict(RuleBasedStateMachine):
    """Any sequence of add, update, remove and search equals a dict and numpy."""

    @initialize(
        metric=st.sampled_from(METRICS),
        dtype=st.sampled_from(DTYPES),
        kind=st.sampled_from(["auto", "flat", "hnsw"]),
        d=st.integers(1, 9),
    )
    def start(self, metric, dtype, kind, d):
        self.index = VectorIndex(d, metric=metric, dtype=dtype, kind=kind)
        self.metric, self.d, self.kind = metric, d, kind
        self.model: dict[int, np.ndarray] = {}
        self.removed: set[int] = set()

    @rule(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40), coarse=st.booleans())
    def add(self, seed, n, coarse):
        rng = np.random.default_rng(seed)
        ids = rng.integers(-30, 60, n)
        rows = rng.integers(-1, 2, (n, self.d)) if coarse else rng.standard_normal((n, self.d))
        rows = rows.astype(np.float32)
        self.index.add(ids, rows)
        for i, row in zip(ids.tolist(), rows, strict=True):
            self.model[i] = row
            self.removed.discard(i)

    @rule(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40))
    def remove(self, seed, n):
        ids = np.random.default_rng(seed).integers(-30, 60, n).tolist()
        present = set(ids) & set(self.model)
        assert self.index.remove(np.array(ids, dtype=np.int64)) == len(present)
        for i in present:
            del self.model[i]
            self.removed.add(i)

    @rule(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 70))
    def search(self, seed, k):
        q = np.random.default_rng(seed).standard_normal((3, self.d)).astype(np.float32)
        ids, scores = self.index.search(q, k)
        held = min(k, len(self.model))
        assert (ids[:, held:] == -1).all()
        assert np.isneginf(scores[:, held:]).all()
        assert not self.removed & set(ids[:, :held].ravel().tolist())
        if not self.model:
            return
        keys = np.array(sorted(self.model))
        want = scores64(self.metric, q, np.stack([self.model[i] for i in keys.tolist()]))
        best = -np.sort(-want, axis=1)[:, :held]
        np.testing.assert_allclose(scores[:, :held], best, rtol=1e-4, atol=1e-4)
        for row, found in zip(want, ids[:, :held], strict=True):
            assert len(set(found.tolist())) == held
            at = np.searchsorted(keys, found)
            np.testing.assert_allclose(-np.sort(-row[at]), -np.sort(-row)[:held], rtol=1e-4, atol=1e-4)

    @rule()
    def save_and_load(self):
        data = self.index.to_bytes()
        self.index = VectorIndex.from_bytes(data)
        assert self.index.to_bytes() == data

    @invariant()
    def contents_agree(self):
        if hasattr(self, "model"):
            assert len(self.index) == len(self.model)
            assert all(i in self.index for i in self.model)
            assert not any(i in self.index for i in self.removed)


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_are_ordered_by_id_however_many_there_are(kind, dtype):
    rng = np.random.default_rng(0)
    vector, others = rng.standard_normal(16), rng.standard_normal((300, 16))
    twins = rng.permutation(200)
    index = VectorIndex(16, dtype=dtype, kind=kind)
    index.add(np.arange(1000, 1300), others)
    index.add(twins, np.tile(vector, (200, 1)))
    ids, scores = index.search(vector, 20)
    assert np.unique(scores).size == 1
    assert (np.diff(ids) > 0).all()
    if kind == "flat":
        assert ids.tolist() == list(range(20))
        batch, _ = index.search(np.tile(vector, (6, 1)), 20)
        assert (batch == np.arange(20)).all()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_single_and_batched_searches_return_equal_bits(kind):
    rows, queries = mixture(3000, 40, 1), mixture(50, 40, 2)
    index = VectorIndex(40, kind=kind)
    index.add(np.arange(3000), rows)
    ids, scores = index.search(queries, 10)
    for q, i, s in zip(queries, ids, scores, strict=True):
        one_ids, one_scores = index.search(q, 10)
        assert one_ids.tolist() == i.tolist()
        assert one_scores.tobytes() == s.tobytes()


def test_empty_and_short_indexes_pad():
    for kind in ("auto", "flat", "hnsw"):
        index = VectorIndex(3, kind=kind)
        ids, scores = index.search([1, 0, 0], 4)
        assert ids.tolist() == [-1] * 4
        assert np.isneginf(scores).all()
        assert index.search(np.zeros((0, 3)), 4)[0].shape == (0, 4)
        assert index.recall_at(3, np.ones((2, 3))) == 1.0
        index.add(np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
        index.add([], np.zeros((0, 3)))
        assert len(index) == 0
        assert index.remove([]) == 0
        index.add([5], [[0, 2, 0]])
        ids, scores = index.search([[0, 1, 0], [0, -1, 0]], 2)
        assert ids.tolist() == [[5, -1], [5, -1]]
        np.testing.assert_array_equal(scores, np.array([[1, -np.inf], [-1, -np.inf]], np.float32))


def test_zero_vectors_score_zero_under_cosine():
    for dtype in DTYPES:
        index = VectorIndex(2, dtype=dtype)
        index.add([1, 2, 3], [[0, 0], [1, 0], [-1, 0]])
        ids, scores = index.search([1, 0], 3)
        assert ids.tolist() == [2, 1, 3]
        assert scores.tolist() == [1, 0, -1]
        ids, scores = index.search([0, 0], 3)
        assert ids.tolist() == [1, 2, 3]
        assert scores.tolist() == [0, 0, 0]


def test_ids_may_be_any_int64_and_the_last_of_equals_wins():
    index = VectorIndex(2)
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    index.add(np.array([low, high, -1]), [[1, 0], [0, 1], [1, 1]])
    assert low in index
    assert high in index
    assert 2**70 not in index
    assert "a" not in index
    assert index.search([0, 1], 1)[0].tolist() == [high]
    index.add([9, 9, 9], [[1, 0], [0, 1], [-1, 0]])
    assert len(index) == 4
    assert index.search([-1, 0], 1)[0].tolist() == [9]
    assert index.metrics()["updated"] == 2
    assert index.remove(9) == 1
    assert index.remove(np.int64(9)) == 0
    assert index.remove([low, low, 123]) == 1
    assert index.metrics()["unknown_removed"] == 3
    for small in (np.uint8, np.int32, np.uint64):
        index.add(np.array([3], dtype=small), [[1, 1]])
    assert 3 in index


def test_bad_input_is_refused_before_anything_changes():
    index = VectorIndex(3)
    index.add([1], [[1, 2, 3]])
    before = index.to_bytes()
    ok = np.ones((2, 3))
    for bad in (np.nan, np.inf, -np.inf):
        rows = ok.copy()
        rows[1, 2] = bad
        with pytest.raises(NotFiniteError, match="index 5"):
            index.add([1, 2], rows)
        with pytest.raises(NotFiniteError):
            index.search(rows, 1)
        with pytest.raises(NotFiniteError):
            index.recall_at(1, rows)
    for ids in ([1.0, 2.0], np.ones(2), ["a", "b"], [True, False], [None, 1]):
        with pytest.raises(TypeError, match="ids"):
            index.add(ids, ok)
        with pytest.raises(TypeError, match="ids"):
            index.remove(ids)
    with pytest.raises(ValueError, match="ids"):
        index.add(np.array([2**63, 1], dtype=np.uint64), ok)
    with pytest.raises(ShapeError):
        index.add([[1, 2]], ok)
    with pytest.raises(ShapeError):
        index.add(1, ok)
    with pytest.raises(ShapeError):
        index.add([1], [1, 2, 3])
    with pytest.raises(ShapeError):
        index.search(np.ones((1, 1, 3)), 1)
    for rows in (np.ones((2, 4)), np.ones((3, 3))):
        with pytest.raises(DimensionMismatch):
            index.add([1, 2], rows)
    with pytest.raises(DimensionMismatch):
        index.search(np.ones(4), 1)
    for k in (0, -1, -(2**40)):
        with pytest.raises(ValueError, match="k"):
            index.search(np.ones(3), k)
        with pytest.raises(ValueError, match="k"):
            index.recall_at(k, np.ones(3))
    with pytest.raises(CapacityError, match="k"):
        index.search(np.ones(3), 2**40)
    assert index.to_bytes() == before
    for metric in ("dot", "euclidean"):
        with pytest.raises(ValueError, match="squared norm"):
            VectorIndex(2, metric=metric).add([1], [[1e19, 1e19]])


@pytest.mark.parametrize(
    "kwargs",
    [{"dim": 0}, {"dim": -3}, {"dim": 10**9}, {"metric": "l2"}, {"dtype": "float64"}, {"kind": "tree"}, {"seed": -1}],
)
def test_constructor_names_what_is_wrong(kwargs):
    name = next(iter(kwargs))
    with pytest.raises(ConfigError, match=name):
        VectorIndex(**{"dim": 2, **kwargs})


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 3e38])
def test_cosine_survives_extreme_lengths(scale):
    index = VectorIndex(2, dtype="int8")
    index.add([1, 2], np.array([[0.6, 0.8], [1.0, 0.0]], np.float32) * np.float32(scale))
    ids, scores = index.search(np.array([0.6, 0.8], np.float32) * np.float32(scale), 2)
    assert ids.tolist() == [1, 2]
    np.testing.assert_allclose(scores, [1, 0.6], atol=1e-5 if scale > 1e-40 else 1e-2)


def test_layout_and_dtype_of_the_input_do_not_matter():
    rows = np.random.default_rng(0).standard_normal((50, 12))
    want = VectorIndex(12)
    want.add(np.arange(50), rows.astype(np.float32))
    wide = np.zeros((50, 24), np.float32)
    wide[:, ::2] = rows
    reversed_ids = np.arange(50)[::-1]
    for ids, x in [
        (np.arange(50), np.asfortranarray(rows.astype(np.float32))),
        (np.arange(50), wide[:, ::2]),
        (np.arange(50).astype(np.int16), rows),
        (list(range(50)), rows.astype(np.float32).tolist()),
        (reversed_ids[::-1], rows.astype(np.float32)),
    ]:
        index = VectorIndex(12)
        index.add(ids, x)
        assert index.to_bytes() == want.to_bytes()
    q = wide[:5, ::2]
    assert want.search(q, 3)[0].tolist() == want.search(np.ascontiguousarray(q), 3)[0].tolist()
    frozen = rows.astype(np.float32)
    frozen.setflags(write=False)
    index.add(np.arange(50), frozen)


def test_a_million_rows():
    n = 1_000_000
    rows = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    index = VectorIndex(4, kind="flat")
    index.add(np.arange(n), rows)
    assert len(index) == n
    _, scores = index.search(rows[[5, n - 1]], 1)
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    best = scores64("cosine", rows[[5, n - 1]], rows).max(axis=1)
    np.testing.assert_allclose(scores[:, 0], best, atol=1e-6)
    # 16 bytes of values and 8 of id per row, the table of ids, and at most a quarter of room to grow.
    assert index.nbytes / n < 80
    assert index.remove(np.arange(0, n, 2)) == n // 2
    assert index.search(rows[0], 1)[0][0] % 2 == 1
