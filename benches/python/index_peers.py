"""What the benchmark of the index measures against: data, exact answers, the other libraries."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import hnswlib
import numpy as np
import usearch
import usearch.index

from sona.patterns import VectorIndex

K = 5
Search = Callable[[np.ndarray], np.ndarray]


def mixture(n: int, d: int, seed: int) -> np.ndarray:
    """Unit vectors around 100 centres, noise .6 of the centre's length: neighbours have a cosine of about .75."""
    centres = np.random.default_rng(7).standard_normal((100, d))
    rng = np.random.default_rng(seed)
    x = centres[rng.integers(0, 100, n)] + 0.6 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def data_sets(quick: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for d in (256,) if quick else (256, 384):
        x = mixture(10_300, d, 0)
        yield f"mixture of 100 Gaussians, 10,000 × {d}", x[:10_000], x[10_000:]
    folder = os.environ.get("SONA_DATA")
    if quick or not folder:
        sys.stderr.write("sentence vectors are skipped: SONA_DATA is not set, or --quick\n")
        return

    def load(name: str) -> np.ndarray:
        return np.load(Path(folder) / f"{name}_minilm_fp16.npz")["x"].astype(np.float32)

    clinc = load("clinc150")
    clinc = clinc[np.random.default_rng(0).permutation(len(clinc))]
    yield "CLINC150 sentences, 10,000 × 384", clinc[:10_000], clinc[23_000:23_300]
    yield "CLINC150 sentences, 23,000 × 384", clinc[:23_000], clinc[23_000:23_300]
    yield "SciFact abstracts, 5,183 × 384", load("scifact_doc"), load("scifact_query")[:300]


def exact(x: np.ndarray, q: np.ndarray, k: int = K) -> np.ndarray:
    return np.argsort(-(q.astype(np.float64) @ x.T.astype(np.float64)), axis=1, kind="stable")[:, :k]


def recall(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), right.tolist(), strict=True)]))


def take_turns(
    contenders: dict[str, Search],
    queries: np.ndarray,
    rounds: int,
    block: int = 25,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Microseconds of each single call; contenders alternate every ``block`` queries, the order turns every round."""
    times: dict[str, list[int]] = {name: [] for name in contenders}
    names = list(contenders)
    gc.disable()
    for turn in range(rounds):
        for first in range(0, len(queries), block):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                search, out = contenders[name], times[name]
                search(queries[first])  # its data back into the caches, as in steady use
                for q in queries[first : first + block]:
                    start = clock()
                    search(q)
                    out.append(clock() - start)
    gc.enable()
    return {name: np.array(t) / 1e3 for name, t in times.items()}


def numpy_search(x: np.ndarray) -> Search:
    def search(q: np.ndarray) -> np.ndarray:
        s = x @ q
        best = np.argpartition(s, -K)[-K:]
        return best[np.argsort(-s[best])]

    return search


def built(x: np.ndarray, **kwargs: str) -> VectorIndex:
    index = VectorIndex(x.shape[1], **kwargs)  # type: ignore[arg-type]
    index.add(np.arange(len(x)), x)
    return index


def graph_peers(x: np.ndarray, queries: np.ndarray, right: np.ndarray, wanted: float) -> Iterator[tuple[str, Search]]:
    """hnswlib, faiss and usearch, same M and efConstruction, at the smallest ef tried that reaches ``wanted`` recall."""
    efs = (10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192)
    h = hnswlib.Index("ip", x.shape[1])
    h.init_index(len(x), M=16, ef_construction=100, random_seed=0)
    h.set_num_threads(1)
    h.add_items(x, np.arange(len(x)))
    f = faiss.IndexHNSWFlat(x.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    f.hnsw.efConstruction = 100
    f.add(x)
    for ef in efs:
        h.set_ef(ef)
        if recall(h.knn_query(queries, K)[0], right) >= wanted:
            break
    yield f"hnswlib, ef {ef} (recall ≥ {wanted:.3f})", lambda q: h.knn_query(q, K)[0][0]
    for ef in efs:
        f.hnsw.efSearch = ef
        if recall(f.search(queries, K)[1], right) >= wanted:
            break
    yield f"faiss HNSW, ef {ef} (recall ≥ {wanted:.3f})", lambda q: f.search(q[None], K)[1][0]
    u = usearch.index.Index(ndim=x.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=100)
    u.add(np.arange(len(x)), x, threads=1)
    for ef in efs:
        u.expansion_search = ef
        if recall(u.search(queries, K, threads=1).keys.astype(np.int64), right) >= wanted:
            break
    yield f"usearch, ef {ef} (recall ≥ {wanted:.3f})", lambda q: u.search(q, K, threads=1).keys
