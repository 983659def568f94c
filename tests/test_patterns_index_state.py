"""VectorIndex: saving, damage, memory, threads, forks."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import signal
import threading

import numpy as np
import pytest

from index_data import DTYPES, mixture
from sona.exceptions import (
    CorruptStateError,
)
from sona.patterns import VectorIndex


@pytest.mark.parametrize("kind", ["auto", "flat", "hnsw"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_index_continues_bit_for_bit(kind, dtype):
    a = VectorIndex(16, kind=kind, dtype=dtype, metric="euclidean", seed=3)
    rows, more = mixture(400, 16, 1), mixture(200, 16, 2)
    a.add(np.arange(400), rows)
    a.remove(np.arange(100))
    data = a.to_bytes()
    copies = [VectorIndex.from_bytes(data), pickle.loads(pickle.dumps(a)), copy.deepcopy(a)]  # noqa: S301
    a.add(np.arange(300, 500), more)
    a.remove([310, 320])
    for b in copies:
        assert (b.dim, b.metric, b.dtype, b.kind, len(b)) == (16, "euclidean", dtype, b.kind, 300)
        b.add(np.arange(300, 500), more)
        b.remove([310, 320])
        assert b.to_bytes() == a.to_bytes()
        for x, y in zip(a.search(more, 5), b.search(more, 5), strict=True):
            assert x.tobytes() == y.tobytes()


def test_same_seed_gives_the_same_graph_and_another_seed_another():
    def build(seed):
        index = VectorIndex(8, kind="hnsw", seed=seed)
        index.add(np.arange(500), mixture(500, 8, 1))
        return index.to_bytes()

    assert build(1) == build(1)
    assert build(1) != build(2)


def test_damaged_bytes_are_refused():
    index = VectorIndex(4, kind="hnsw", dtype="int8")
    index.add(np.arange(20), mixture(20, 4, 1))
    data = index.to_bytes()
    rng = np.random.default_rng(0)
    for cut in [0, 1, 10, 33, 34, len(data) // 2, len(data) - 1]:
        with pytest.raises(CorruptStateError):
            VectorIndex.from_bytes(data[:cut])
    for at in rng.integers(0, len(data), 200):
        hostile = bytearray(data)
        hostile[at] ^= 1 << rng.integers(8)
        with pytest.raises(CorruptStateError):
            VectorIndex.from_bytes(bytes(hostile))
    for junk in (b"", b"SONA", rng.bytes(500), data + b"x"):
        with pytest.raises(CorruptStateError):
            VectorIndex.from_bytes(junk)


def test_properties_repr_and_metrics():
    index = VectorIndex(8, metric="dot", dtype="int8", kind="hnsw", seed=7)
    assert repr(index) == "<VectorIndex(8, metric='dot', dtype='int8', kind='hnsw', seed=7) with 0 vectors, hnsw>"
    assert repr(VectorIndex(3)) == "<VectorIndex(3) with 0 vectors, flat>"
    index.add(np.arange(100), np.random.default_rng(0).standard_normal((100, 8)))
    index.search(np.ones((3, 8)), 2)
    m = index.metrics()
    assert (m["count"], m["added"], m["queries"], m["updated"]) == (100, 100, 3, 0)
    assert m["nbytes"] == index.nbytes > 100 * (8 * 4 + 8 + 8)
    assert m["graph_links"] > 100
    assert all(isinstance(v, int | float) for v in m.values())


def test_memory_returns_when_rows_leave():
    index = VectorIndex(64)
    index.add(np.arange(10_000), np.ones((10_000, 64)))
    full = index.nbytes
    index.remove(np.arange(10, 10_000))
    assert index.nbytes < full / 4


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_threads_share_one_index(kind):
    rows = mixture(4000, 16, 1)
    index = VectorIndex(16, kind=kind, dtype="int8")
    index.add(np.arange(1000), rows[:1000])
    errors = []
    start = threading.Barrier(5)

    def guarded(f):
        def run():
            start.wait()
            try:
                f()
            except BaseException as e:  # noqa: BLE001 - reported by the test
                errors.append(e)

        return threading.Thread(target=run)

    def read():
        for i in range(600):
            ids, scores = index.search(rows[i], 5)
            assert (ids >= 0).all()
            assert (np.diff(scores) <= 0).all()
            assert len(set(ids.tolist())) == 5

    def write_new():
        for i in range(1000, 4000, 50):
            index.add(np.arange(i, i + 50), rows[i : i + 50])

    def write_old():
        for i in range(0, 500, 10):
            index.remove(np.arange(i, i + 10))

    def save():
        for _ in range(20):
            assert len(VectorIndex.from_bytes(index.to_bytes())) >= 500

    threads = [guarded(f) for f in (read, read, write_new, write_old, save)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert len(index) == 3500
    found = index.search(rows[500:], 1)[0][:, 0]
    assert (found == np.arange(500, 4000)).mean() > 0.98


def test_an_interrupted_add_leaves_the_rows_before_it():
    class StopNow(Exception):  # noqa: N818 - not an error
        pass

    def stop(*_):
        raise StopNow

    n = 200_000
    index = VectorIndex(16, kind="hnsw")
    rows = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(StopNow):
            index.add(np.arange(n), rows)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(index) % 256 == 0
    assert 0 < len(index) < n
    assert index.search(rows[10], 1)[0].tolist() == [10]


def _search_in_child(index, q, out):
    index.add([10_000], q[None])
    out.put(index.search(q, 1)[0].tolist())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_search_and_write():
    index = VectorIndex(8, kind="hnsw")
    index.add(np.arange(500), mixture(500, 8, 1))
    context = multiprocessing.get_context("fork")
    out = context.SimpleQueue()
    q = mixture(1, 8, 5)[0]
    child = context.Process(target=_search_in_child, args=(index, q, out))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert out.get() == [10_000]
    assert 10_000 not in index
