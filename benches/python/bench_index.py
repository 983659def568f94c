"""VectorIndex against numpy, faiss, hnswlib and usearch: time, recall, changes, and where a graph begins to pay.

``python benches/python/bench_index.py`` writes ``benches/results/index.md``; ``--crossover`` measures only cost against
size, ``--quick`` runs a small part. Everything runs on one thread, contenders take turns in
one process, and every answer is compared with the exact one. With ``SONA_DATA`` set, sentence vectors of CLINC150 and
SciFact are measured too.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import hnswlib
import numpy as np
import usearch
import usearch.index
from threadpoolctl import threadpool_info

from index_peers import K, Search, built, data_sets, exact, graph_peers, mixture, numpy_search, recall, take_turns
from machine import machine
from sona.patterns import VectorIndex

ROOT = Path(__file__).resolve().parents[2]


def search_table(name: str, x: np.ndarray, queries: np.ndarray, rounds: int) -> list[str]:
    right = exact(x, queries)
    flat, codes = built(x, kind="flat"), built(x, kind="flat", dtype="int8")
    graph, graph8 = built(x, kind="hnsw"), built(x, kind="hnsw", dtype="int8")
    reached = min(recall(graph.search(queries, K)[0], right), recall(graph8.search(queries, K)[0], right))
    scan = faiss.IndexFlatIP(x.shape[1])
    scan.add(x)
    sq = faiss.IndexScalarQuantizer(x.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    sq.train(x)
    sq.add(x)
    held = x.reshape(-1).view(np.int64)
    quarter = held[: len(held) // 4].copy()

    def usearch_exact(q: np.ndarray) -> np.ndarray:
        return usearch.index.search(x, q, K, "ip", exact=True, threads=1).keys

    contenders: dict[str, Search] = {
        "**sona flat**": lambda q: flat.search(q, K)[0],
        "numpy (BLAS, argpartition)": numpy_search(x),
        "faiss flat": lambda q: scan.search(q[None], K)[1][0],
        "usearch exact": usearch_exact,
        "**sona flat int8**": lambda q: codes.search(q, K)[0],
        "faiss 8-bit scan (no rescoring)": lambda q: sq.search(q[None], K)[1][0],
        "**sona hnsw**": lambda q: graph.search(q, K)[0],
        "**sona hnsw int8**": lambda q: graph8.search(q, K)[0],
        **dict(graph_peers(x, queries, right, 0.95)),
        **dict(graph_peers(x, queries, right, round(reached - 0.0005, 3))),
    }
    floors: dict[str, Search] = {
        "*one pass over the float32 rows (numpy sum)*": lambda _: held.sum(),
        "*one pass over the codes*": lambda _: quarter.sum(),
    }
    times = take_turns(floors | contenders, queries, rounds)
    lines = [f"## One query, top {K}: {name}", "", "| | p10 µs | median µs | p90 µs | recall@5 |", "|---|---|---|---|---|"]
    for who in floors:
        p10, p50, p90 = np.percentile(times[who], [10, 50, 90])
        lines.append(f"| {who} | {p10:.1f} | {p50:.1f} | {p90:.1f} | |")
    for who, search in contenders.items():
        found = np.stack([search(q) for q in queries])
        p10, p50, p90 = np.percentile(times[who], [10, 50, 90])
        lines.append(f"| {who} | {p10:.1f} | {p50:.1f} | {p90:.1f} | {recall(found, right):.4f} |")
    return [*lines, ""]


def batch_table(rounds: int) -> list[str]:
    lines = [
        "## 64 queries in one call, exact, processor time per query",
        "",
        "| | d | p10 µs | median µs | recall@5 |",
        "|---|---|---|---|---|",
    ]
    for d in (256, 384):
        x, queries = mixture(10_000, d, 0), mixture(64, d, 1)
        right = exact(x, queries)
        flat, codes = built(x, kind="flat"), built(x, kind="flat", dtype="int8")
        scan = faiss.IndexFlatIP(d)
        scan.add(x)

        def by_numpy(q: np.ndarray, x: np.ndarray = x) -> np.ndarray:
            s = q @ x.T
            best = np.argpartition(s, -K, axis=1)[:, -K:]
            return np.take_along_axis(best, np.argsort(-np.take_along_axis(s, best, 1), axis=1), 1)

        contenders: dict[str, Search] = {
            "**sona flat**": lambda q, i=flat: i.search(q, K)[0],
            "**sona flat int8** (scans float32 for a batch)": lambda q, i=codes: i.search(q, K)[0],
            "numpy (BLAS, argpartition)": by_numpy,
            "faiss flat": lambda q, i=scan: i.search(q, K)[1],
        }
        times = take_turns(contenders, queries[None], rounds * 10, 1, time.thread_time_ns)
        for who, search in contenders.items():
            p10, p50 = np.percentile(times[who], [10, 50]) / 64
            lines.append(f"| {who} | {d} | {p10:.1f} | {p50:.1f} | {recall(search(queries), right):.4f} |")
    return [*lines, ""]


def timed(call: Callable[[], object], count: int) -> float:
    """Microseconds of processor time per item."""
    start = time.process_time_ns()
    call()
    return (time.process_time_ns() - start) / 1e3 / count


def change_table(n: int) -> list[str]:
    """Half of the rows deleted, as many others inserted; recall against an index built from nothing on the same rows."""
    d = 256
    x, queries = mixture(2 * n, d, 0), mixture(300, d, 1)
    keep, new = np.arange(1, n, 2), np.arange(n, n + n // 2)
    stored = np.concatenate([keep, new])
    right = stored[exact(x[stored], queries)]
    # Half of the rows leave, as many others come; then those are updated.
    lines = [
        f"## Changes at {n:,} × {d}, µs of processor time per row",
        "",
        "| | build | delete half | insert half | update half | recall@5 afterwards | same rows, fresh | bytes per row |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dtype in ("float32", "int8"):
        for kind in ("flat", "hnsw"):
            index = VectorIndex(d, kind=kind, dtype=dtype)  # type: ignore[arg-type]
            build = timed(lambda i=index: i.add(np.arange(n), x[:n]), n)
            delete = timed(lambda i=index: i.remove(np.arange(0, n, 2)), n // 2)
            insert = timed(lambda i=index: i.add(new, x[new]), n // 2)
            after = recall(index.search(queries, K)[0], right)
            fresh = recall(stored[built(x[stored], kind=kind, dtype=dtype).search(queries, K)[0]], right)
            size = index.nbytes / len(index)
            update = timed(lambda i=index: i.add(new, x[n // 2 : n]), n // 2)
            lines.append(
                f"| **sona {kind}{' int8' if dtype == 'int8' else ''}** | {build:.1f} | {delete:.1f} | {insert:.1f} | "
                f"{update:.1f} | {after:.4f} | {fresh:.4f} | {size:.0f} |"
            )
    h = hnswlib.Index("ip", d)
    h.init_index(n, M=16, ef_construction=100, random_seed=0, allow_replace_deleted=True)
    h.set_num_threads(1)
    h.set_ef(48)
    build = timed(lambda: h.add_items(x[:n], np.arange(n)), n)
    delete = timed(lambda: [h.mark_deleted(i) for i in range(0, n, 2)], n // 2)
    insert = timed(lambda: h.add_items(x[new], new, replace_deleted=True), n // 2)
    after = recall(h.knn_query(queries, K)[0].astype(np.int64), right)
    g = hnswlib.Index("ip", d)
    g.init_index(n, M=16, ef_construction=100, random_seed=0)
    g.set_num_threads(1)
    g.set_ef(48)
    g.add_items(x[stored], stored)
    fresh = recall(g.knn_query(queries, K)[0].astype(np.int64), right)
    lines.append(
        f"| hnswlib, ef 48 (marks, then replaces) | {build:.1f} | {delete:.1f} | {insert:.1f} | – | "
        f"{after:.4f} | {fresh:.4f} | – |"
    )
    return [*lines, ""]


def shared_table(n: int) -> list[str]:
    """Searches in one thread while another inserts: what a reader waits for."""
    d = 256
    x, queries = mixture(2 * n, d, 0), mixture(300, d, 1)
    lines = [
        f"## Search while another thread inserts {n:,} rows, {n:,} × {d}",
        "",
        "| | alone: median µs | p99 | meanwhile: median µs | p99 | longest |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("flat", "hnsw"):
        index = built(x[:n], kind=kind, dtype="int8")
        alone = take_turns({"": lambda q, i=index: i.search(q, K)[0]}, queries, 3)[""]
        writer = threading.Thread(target=index.add, args=(np.arange(n, 2 * n), x[n:]))
        meanwhile = []
        writer.start()
        while writer.is_alive():
            for q in queries:
                start = time.perf_counter_ns()
                index.search(q, K)
                meanwhile.append(time.perf_counter_ns() - start)
        m = np.array(meanwhile) / 1e3
        cells = [*np.percentile(alone, [50, 99]), *np.percentile(m, [50, 99]), m.max()]
        lines.append(f"| **sona {kind} int8** | " + " | ".join(f"{c:.0f}" for c in cells) + " |")
    return [*lines, ""]


def growth_table(runs: tuple[tuple[int, str, tuple[int, ...]], ...], rounds: int) -> list[str]:
    """Cost against size, scan and graph, and where one insert and one search together are cheaper through the graph."""
    k = 10
    lines = [
        f"## Cost against size (mixture of 100 Gaussians, top {k})",
        "",
        "Width: nodes kept by a graph search, as the index measured it; 0: it scans. Floor: one pass over the bytes that",
        "the scan reads (numpy's sum of them as int64). Pair: one insert and one search, scan ÷ graph.",
        "",
        "| d, dtype | n | floor µs | scan µs | graph µs | width | recall@10 | insert µs | pair |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for d, dtype, sizes in runs:
        queries = mixture(100, d, 1)
        flat = VectorIndex(d, kind="flat", dtype=dtype)  # type: ignore[arg-type]
        graph = VectorIndex(d, kind="hnsw", dtype=dtype)  # type: ignore[arg-type]
        pairs = []
        for seed, n in enumerate(sizes):
            first = len(flat)
            insert = 0.0
            for start in range(first, n, 50_000):
                ids = np.arange(start, min(start + 50_000, n))
                x = mixture(len(ids), d, 1000 * (seed + 2) + start // 50_000)
                flat.add(ids, x)
                insert += timed(lambda g=graph, i=ids, x=x: g.add(i, x), 1)
            insert /= n - first
            held = np.ones(n * d * (4 if dtype == "float32" else 1) // 8, np.int64)
            few = queries[: max(10, min(100, 10_000_000 // n))]
            times = take_turns(
                {
                    "floor": lambda _, a=held: a.sum(),
                    "flat": lambda q, i=flat: i.search(q, k)[0],
                    "graph": lambda q, i=graph: i.search(q, k)[0],
                },
                few,
                rounds,
            )
            floor, scan, walk = (float(np.median(times[name])) for name in ("floor", "flat", "graph"))
            found, width = graph.recall_at(k, queries), graph.metrics()["graph_width"]
            pairs.append(scan / (walk + insert))
            lines.append(
                f"| {d}, {dtype} | {n:,} | {floor:.0f} | {scan:.0f} | {walk:.0f} | {width} | {found:.4f} | {insert:.0f} | "
                f"{pairs[-1]:.2f} |"
            )
        at = float(np.exp(np.interp(0.0, np.log(pairs), np.log(sizes))))
        lines.append(f"| **{d}, {dtype}** | **about {at:,.0f}** | | | | | | | **1** |")
    return [*lines, ""]


def data_table(n: int) -> list[str]:
    """The measured width and what it finds, on data from easy to hopeless."""
    rng = np.random.default_rng(5)

    def noise(d: int) -> np.ndarray:
        return rng.standard_normal((n + 300, d)).astype(np.float32)

    few = rng.standard_normal((20, 256)).astype(np.float32)
    sets = {
        "mixture of 100 Gaussians, 256": np.vstack([mixture(n, 256, 0), mixture(300, 256, 1)]),
        "20 directions and noise, 256": noise(20) @ few + 0.3 * noise(256),
        "independent coordinates, 16": noise(16),
        "independent coordinates, 32": noise(32),
        "independent coordinates, 256": noise(256),
    }
    lines = [
        f"## The width that data need, n = {n:,}, int8",
        "",
        '`kind="hnsw"`; width 0: it scans, because a width that finds enough would cost more.',
        "",
        "| data, dimensions | width | recall@1 | @5 | @10 | @50 | @100 | search µs, top 10 | scan µs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, x in sets.items():
        rows, queries = x[:n], x[n:]
        graph, flat = built(rows, kind="hnsw", dtype="int8"), built(rows, kind="flat", dtype="int8")
        found = " | ".join(f"{graph.recall_at(k, queries):.3f}" for k in (1, 5, 10, 50, 100))
        both = {"graph": lambda q, i=graph: i.search(q, 10)[0], "flat": lambda q, i=flat: i.search(q, 10)[0]}
        times = take_turns(both, queries[:100], 3)
        cost = f"{np.median(times['graph']):.0f} | {np.median(times['flat']):.0f}"
        lines.append(f"| {name} | {graph.metrics()['graph_width']} | {found} | {cost} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossover", action="store_true", help="only cost against size, printed and not written")
    parser.add_argument("--quick", action="store_true", help="a small part, printed and not written")
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rounds = 1 if args.quick else args.rounds
    sizes = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
    runs = ((256, "float32", sizes[:5]), (256, "int8", sizes[:5]), (64, "int8", sizes))
    if args.quick:
        runs = ((64, "int8", sizes[:3]),)
    lines: list[str] = []
    if not args.crossover:
        for name, x, queries in data_sets(args.quick):
            lines += search_table(name, x, queries, rounds)
        n = 2000 if args.quick else 10_000
        lines += batch_table(rounds) + change_table(n) + shared_table(n) + data_table(2 * n)
    lines += growth_table(runs, rounds)
    kernel = next(i["architecture"] for i in threadpool_info() if i["internal_api"] == "openblas")
    hnsw_version = getattr(hnswlib, "__version__", "0.8")
    head = [
        "# Vector index: measured",
        "",
        "`python benches/python/bench_index.py`; one thread, contenders take turns in one process, answers compared with",
        "the exact ones. Times are of single calls from Python. Graphs of hnswlib, faiss and usearch: M 16, efConstruction",
        "100, and the smallest ef tried that reaches a recall of .95, then one that reaches the recall of sona's graphs.",
        f"numpy's and faiss's OpenBLAS runs its {kernel} kernels here.",
        "",
        f"{machine(numpy=np.__version__, faiss=faiss.__version__, hnswlib=hnsw_version, usearch=usearch.__version__)}.",
        "A shared virtual machine: compare within a table, do not quote the absolutes.",
        "",
    ]
    text = "\n".join(head + lines)
    if not (args.crossover or args.quick):
        (ROOT / "benches" / "results" / "index.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
