"""Graph layers and DAG mechanisms: time, against the same sums in numpy and scipy, results compared first.

``SONA_DATA=DIR python benches/python/bench_graph.py`` writes ``benches/results/graph.md``. The graph is Cora (2,708 nodes,
10,556 directed edges, 1,433 features); without ``SONA_DATA`` a random one of that size. Contenders take turns in one process,
on one thread except where two are named.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
from scipy.sparse import csr_matrix

import sona.attention as sa
from machine import machine

ROOT = Path(__file__).resolve().parents[2]
OUT, HEADS, WIDTH = 64, 8, 8


def graph() -> tuple[str, np.ndarray, np.ndarray]:
    """Name, features (n, F), edges (2, E)."""
    path = Path(os.environ.get("SONA_DATA", "")) / "cora.npz"
    if path.exists():
        z = np.load(path)
        n, width = z["x_shape"]
        x = np.zeros((n, width), dtype=np.float32)
        x[np.repeat(np.arange(n), np.diff(z["x_indptr"])), z["x_indices"]] = z["x_data"]
        return "Cora", x, np.concatenate([z["edges"], z["edges"][:, ::-1]]).T.astype(np.int64)
    print("SONA_DATA is not set: a random graph of Cora's size", file=sys.stderr)
    rng = np.random.default_rng(0)
    return "random", rng.normal(size=(2708, 1433)).astype(np.float32), rng.integers(2708, size=(2, 10_556))


class Peers:
    """The layers in numpy and scipy, the way one writes them without a graph library."""

    def __init__(self, x: np.ndarray, edges: np.ndarray) -> None:
        self.x, self.edges = x, edges
        rng = np.random.default_rng(1)
        self.w = (rng.normal(size=(OUT, x.shape[1])) * 0.05).astype(np.float32)
        self.v = (rng.normal(size=(OUT, x.shape[1])) * 0.05).astype(np.float32)
        self.src, self.dst = rng.normal(size=(2, HEADS, WIDTH)).astype(np.float32)

    def adjacency(self, loops: bool) -> csr_matrix:
        n = len(self.x)
        j, i = self.edges
        if loops:
            other = i != j
            j, i = np.append(j[other], np.arange(n)), np.append(i[other], np.arange(n))
        return csr_matrix((np.ones(len(i), dtype=np.float32), (i, j)), shape=(n, n))

    def gcn(self) -> np.ndarray:
        a = self.adjacency(True)
        root = np.asarray(a.sum(axis=1)).ravel() ** -0.5
        h = (self.x @ self.w.T) * root[:, None]
        return (a @ h) * root[:, None]

    def sage(self) -> np.ndarray:
        a = self.adjacency(False)
        degree = np.maximum(np.asarray(a.sum(axis=1)).ravel(), 1)
        return (a @ (self.x @ self.w.T)) / degree[:, None] + self.x @ self.v.T

    def gat(self) -> np.ndarray:
        n = len(self.x)
        j, i = self.edges
        other = i != j
        j, i = np.append(j[other], np.arange(n)), np.append(i[other], np.arange(n))
        order = np.argsort(i, kind="stable")
        i, j = i[order], j[order]
        h = (self.x @ self.w.T).reshape(n, HEADS, WIDTH)
        logits = (h * self.src).sum(2)[j] + (h * self.dst).sum(2)[i]
        logits = np.where(logits > 0, logits, np.float32(0.2) * logits)
        start = np.searchsorted(i, np.arange(n))
        e = np.exp(logits - np.maximum.reduceat(logits, start)[i])
        alpha = e / np.add.reduceat(e, start)[i]
        return np.add.reduceat(alpha[:, :, None] * h[j], start).reshape(n, -1)


def turns(contenders: dict[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float]]:
    """Fastest and median time (µs) of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: (1e6 * min(t), 1e6 * float(np.median(t))) for name, t in times.items()}


def on_two(call: Callable[[], object]) -> Callable[[], object]:
    """The same call with two threads."""

    def run() -> object:
        sa.set_num_threads(2)
        result = call()
        sa.set_num_threads(1)
        return result

    return run


def layers(x: np.ndarray, edges: np.ndarray, seconds: float, kind: str = "") -> list[str]:
    """Rows of the table of one feature matrix."""
    p = Peers(x, edges)
    ours: dict[str, Callable[[], np.ndarray]] = {
        "GCN": lambda: sa.gcn_conv(x, edges, p.w),
        "GraphSAGE, mean": lambda: sa.sage_conv(x, edges, p.w, None, p.v),
        "GAT, 8 heads of 8": lambda: np.asarray(sa.gat_conv(x, edges, p.w, p.src, p.dst, heads=HEADS)),
    }
    theirs = {"GCN": p.gcn, "GraphSAGE, mean": p.sage, "GAT, 8 heads of 8": p.gat}
    names = {"GCN": "scipy", "GraphSAGE, mean": "scipy", "GAT, 8 heads of 8": "numpy"}
    rows = []
    for layer, call in ours.items():
        np.testing.assert_allclose(call(), theirs[layer](), rtol=1e-3, atol=1e-4)
        contenders = {"sona": call, "sona, 2 threads": on_two(call), names[layer]: theirs[layer]}
        contenders["of it: x·Wᵀ in numpy"] = lambda: x @ p.w.T
        for name, (fastest, median) in turns(contenders, seconds).items():
            rows.append(f"| {x.shape[1]:,} → {OUT}{kind} | {layer} | {name} | {fastest / 1e3:.3f} | {median / 1e3:.3f} |")
    return rows


def dag(n: int) -> sa.Dag:
    """Each node depends on up to two of the twenty before it."""
    rng = np.random.default_rng(0)
    edges = [(int(u), v) for v in range(1, n) for u in rng.integers(max(0, v - 20), v, size=2)]
    return sa.Dag(n, edges, rng.random(n), rng.random(len(edges)))


def mechanisms(n: int, seconds: float) -> list[str]:
    """Rows of the table of DAG mechanisms."""
    g = dag(n)
    calls: dict[str, Callable[[], object]] = {
        "Dag(…)": lambda: sa.Dag(n, g.edges, g.cost, g.edge_cost),
        "dag_topological": lambda: sa.dag_topological(g),
        "dag_causal_cone": lambda: sa.dag_causal_cone(g, n // 2),
        "dag_critical_path": lambda: sa.dag_critical_path(g),
        "dag_mincut_gated": lambda: sa.dag_mincut_gated(g),
        "dag_two_site_placement": lambda: sa.dag_two_site_placement(g, g.cost, g.cost[::-1]),
        "GatePacket.from_dag": lambda: sa.GatePacket.from_dag(g),
        "dag_hierarchical_lorentz, one node": lambda: sa.dag_hierarchical_lorentz(g, node=0),
        "dag_hierarchical_lorentz, all nodes": lambda: sa.dag_hierarchical_lorentz(g),
        "dag_parallel_branch": lambda: sa.dag_parallel_branch(g),
        "reachability": g.reachability,
    }
    return [f"| {n:,} | {name} | {a:.1f} | {b:.1f} |" for name, (a, b) in turns(calls, seconds).items()]


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    sa.set_num_threads(1)
    name, x, edges = graph()
    narrow = np.random.default_rng(2).normal(size=(len(x), OUT)).astype(np.float32)
    full = np.random.default_rng(3).normal(size=x.shape).astype(np.float32)
    text = "\n".join(
        [
            "# Graph layers and DAG mechanisms: measured\n",
            "Written by `python benches/python/bench_graph.py`; contenders take turns in one process, float32.",
            machine(numpy=np.__version__, scipy=scipy.__version__) + ".",
            "On a shared machine: compare within a table.\n",
            f"## Layers on {name}: {len(x):,} nodes, {edges.shape[1]:,} edges, sorting of the edges included\n",
            "| features | layer | contender | fastest (ms) | median (ms) |\n|---|---|---|---|---|",
            *layers(x, edges, seconds, f", {np.count_nonzero(x) / x.size:.1%} not zero"),
            *layers(full, edges, seconds, ", random"),
            *layers(narrow, edges, seconds, ", random"),
            "\n## DAG mechanisms, two edges per node\n",
            "| nodes | call | fastest (µs) | median (µs) |\n|---|---|---|---|",
            *mechanisms(100, seconds),
            *mechanisms(1000, seconds),
            "",
        ]
    )
    (ROOT / "benches" / "results" / "graph.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
