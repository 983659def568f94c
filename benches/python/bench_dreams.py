"""Dreams, integration, consolidation, deep cycles and e-prop: time, beside the plain way where there is one.

``python benches/python/bench_dreams.py`` writes ``benches/results/dreams_time.md``.
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

from machine import machine
from sona.dreams import DreamEngine, MemoryConsolidator, MemoryNode, PhiEvaluator, random_walk_with_restart
from sona.loops import DeepLoop, DeepLoopConfig
from sona.plasticity import EpropLayer

ROOT = Path(__file__).resolve().parents[2]
D = 384


def clustered(n: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around 200 topics with a common direction, as sentence embeddings have."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, D))[rng.integers(200, size=n)] + rng.normal(size=(n, D)) + 0.3 * rng.normal(size=D)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def memories(x: np.ndarray, links: int = 3, seed: int = 0) -> DreamEngine:
    """Memories with about ``links`` links each."""
    rng = np.random.default_rng(seed)
    engine = DreamEngine(seed=seed)
    for i, v in enumerate(x):
        engine.add_memory_node(MemoryNode(i, v, access_count=1))
    for i in range(len(x)):
        for j in rng.integers(0, len(x), links):
            if i != j:
                engine.add_edge(i, int(j))
    return engine


def measure(rounds: int, call: Callable[[], object]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times)), float(np.quantile(times, 0.99))


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results/dreams_time.md")
    options = parser.parse_args()
    rows: list[tuple[str, float, float]] = []

    def put(label: str, rounds: int, call: Callable[[], object]) -> None:
        median, high = measure(rounds, call)
        rows.append((label, median, high))
        print(f"{label}: {median:.3f} ms, p99 {high:.3f}", flush=True)

    x = clustered(50_000)
    big = memories(x)
    rng = np.random.default_rng(1)

    def scan() -> None:
        # One jump the plain way: score all, softmax, draw. A dream has about four of them.
        at = int(rng.integers(len(x)))
        p = np.exp((x @ x[at] - 1) / 0.2)
        p[at] = 0
        c = np.cumsum(p)
        np.searchsorted(c, rng.random() * c[-1])

    # One after the other: a scan of all vectors would empty the cache before each dream.
    put("dream, path 15, 50,000 memories × 384", 1000, big.generate_dream)
    put("numpy: one jump of such a dream by scoring all memories", 100, scan)
    noise = rng.normal(size=(50_000, D)).astype(np.float32)
    isotropic = memories(noise)
    put("dream, path 15, 50,000 memories without structure (mean cosine 0)", 300, isotropic.generate_dream)
    for n in (12, 15):
        w = (rng.random((n, n)) < 0.4) * rng.random((n, n))
        w = w + w.T + np.eye(n, k=1) + np.eye(n, k=-1)
        np.fill_diagonal(w, 0)
        put(f"integration, {n} nodes", 20, lambda w=w: PhiEvaluator().integration(w))  # type: ignore[misc]
    for n in (3, 4):
        tpm = rng.random((2**n, n))
        put(f"exact Φ, {n} nodes", 5, lambda tpm=tpm, n=n: PhiEvaluator().phi(tpm, [0] * n))  # type: ignore[misc]
    w = (rng.random((2000, 2000)) < 0.003).astype(np.float32)
    w = np.maximum(w, w.T)
    put("random walk with restart, 2,000 nodes, 12,000 edges", 20, lambda: random_walk_with_restart(w, 0))
    nodes = [MemoryNode(i, v, access_count=int(rng.integers(9))) for i, v in enumerate(x[:10_000])]
    half = MemoryConsolidator(max_bytes=5_000 * (4 * D + 32))
    put("consolidate 10,000 × 384 to half", 3, lambda: half.consolidate(nodes, now=0.0))

    def cycle() -> None:
        DeepLoop(DeepLoopConfig(), engine=DreamEngine.from_bytes(saved), consolidator=half).run_cycle(now=0.0)

    saved = memories(x[:10_000]).to_bytes()
    put("deep cycle, 10,000 memories × 384, 50 dreams, half dropped (loading included)", 3, cycle)
    net = EpropLayer(20, 100, 2)
    put("e-prop step, 100 neurons, 12,000 synapses", 500, lambda: net.forward_with_eligibility(np.ones(20, np.float32)))
    put("e-prop learn, the same", 500, lambda: net.learn(np.zeros(2, np.float32)))
    lines = ["# Dreams, consolidation, e-prop: time", ""]
    lines += [
        "Written by `python benches/python/bench_dreams.py`, one thread.",
        machine(scipy=scipy.__version__),
    ]
    lines += ["", "| what | median (ms) | p99 (ms) |", "|---|---|---|"]
    lines += [f"| {label} | {median:.3f} | {high:.3f} |" for label, median, high in rows]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
