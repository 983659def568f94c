"""The main calls beside their strongest peers, by pytest-benchmark.

    pip install '.[bench]'
    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 pytest benches/python/test_peers.py --benchmark-group-by=group

Contenders run one after another here; the scripts beside this file interleave them and write `benches/results/`. Results
are checked before anything is timed.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from sona.attention import scaled_dot_product_attention, set_num_threads
from sona.lora import MicroLoRA
from sona.patterns import VectorIndex, kmeans
from sona.trajectory import QueryTrajectory, TrajectoryBuffer

faiss = pytest.importorskip("faiss", reason="peers: pip install '.[bench]'")
hnswlib = pytest.importorskip("hnswlib", reason="peers: pip install '.[bench]'")
cluster = pytest.importorskip("sklearn.cluster", reason="peers: pip install '.[bench]'")

D, N, K = 256, 10_000, 5


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """10,000 unit vectors around 200 centres, as embeddings lie."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(200, D))
    x = centers[rng.integers(200, size=N)] + 0.6 * rng.normal(size=(N, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def query(rows: np.ndarray) -> np.ndarray:
    return rows[17] + np.float32(0.01)


def recall(found, rows: np.ndarray, query: np.ndarray) -> float:
    best = set(np.argsort(-(rows @ query))[:K].tolist())
    return len(best & {int(i) for i in found}) / K


@pytest.mark.benchmark(group="search, exact, one query")
@pytest.mark.parametrize("who", ["sona", "sona int8", "numpy", "faiss flat"])
def test_exact_search(benchmark, rows, query, who):
    if who.startswith("sona"):
        index = VectorIndex(D, kind="flat", dtype="int8" if who.endswith("int8") else "float32")
        index.add(np.arange(N), rows)
        call = lambda: index.search(query, K)[0]  # noqa: E731
    elif who == "numpy":
        call = lambda: np.argpartition(rows @ query, -K)[-K:]  # noqa: E731
    else:
        flat = faiss.IndexFlatIP(D)
        flat.add(rows)
        call = lambda: flat.search(query[None], K)[1][0]  # noqa: E731
    assert recall(np.ravel(call()), rows, query) >= 0.8
    benchmark(call)


@pytest.mark.benchmark(group="search, graph, one query")
@pytest.mark.parametrize("who", ["sona", "hnswlib"])
def test_graph_search(benchmark, rows, query, who):
    if who == "sona":
        index = VectorIndex(D, kind="hnsw")
        index.add(np.arange(N), rows)
        call = lambda: index.search(query, K)[0]  # noqa: E731
    else:
        graph = hnswlib.Index("ip", D)
        graph.init_index(N, ef_construction=200, M=16)
        graph.add_items(rows)
        graph.set_ef(50)
        graph.set_num_threads(1)
        call = lambda: graph.knn_query(query, K)[0][0]  # noqa: E731
    assert recall(np.ravel(call()), rows, query) >= 0.8
    benchmark(call)


@pytest.mark.benchmark(group="adapter, forward")
@pytest.mark.parametrize("who", ["sona", "numpy"])
def test_adapter_forward(benchmark, query, who):
    adapter = MicroLoRA(D, rank=2)
    rng = np.random.default_rng(1)
    a, b = (0.1 * rng.normal(size=s).astype(np.float32) for s in ((2, D), (D, 2)))
    adapter.set_factors(a, b)
    out = np.empty_like(query)
    scale = np.float32(2**-0.5)
    if who == "sona":
        call = lambda: adapter.forward(query, out=out)  # noqa: E731
    else:
        call = lambda: np.add(query, scale * (b @ (a @ query)), out=out)  # noqa: E731
    call()
    np.testing.assert_allclose(out, query + scale * (b @ (a @ query)), rtol=1e-4, atol=1e-6)
    benchmark(call)


@pytest.mark.benchmark(group="k-means, 10,000 x 256, k 50, 20 iterations")
@pytest.mark.parametrize("who", ["sona", "scikit-learn", "faiss"])
def test_kmeans(benchmark, rows, who):
    if who == "sona":
        call = lambda: kmeans(rows, 50, max_iterations=20, seed=0)  # noqa: E731
    elif who == "scikit-learn":
        call = lambda: cluster.KMeans(50, n_init=1, max_iter=20, random_state=0).fit(rows)  # noqa: E731
    else:
        call = lambda: faiss.Kmeans(D, 50, niter=20, seed=1, min_points_per_centroid=1).train(rows)  # noqa: E731
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="attention, one head, n 512, d 64")
@pytest.mark.parametrize("who", ["sona", "numpy"])
def test_attention(benchmark, who):
    set_num_threads(1)
    q, k, v = np.random.default_rng(2).normal(size=(3, 512, 64)).astype(np.float32)

    def plain() -> np.ndarray:
        logits = (q @ k.T) * np.float32(0.125)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (e / e.sum(axis=1, keepdims=True)) @ v

    call = plain if who == "numpy" else lambda: scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(call(), plain(), rtol=1e-3, atol=1e-5)
    benchmark(call)


@pytest.mark.benchmark(group="record of a request")
@pytest.mark.parametrize("who", ["sona", "deque and copy"])
def test_record(benchmark, query, who):
    record = QueryTrajectory(1, query, (), 0.5)
    buffer: TrajectoryBuffer | deque = TrajectoryBuffer(10_000) if who == "sona" else deque(maxlen=10_000)
    call = (lambda: buffer.record(record)) if who == "sona" else (lambda: buffer.append(query.copy()))
    benchmark(call)
