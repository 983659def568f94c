"""K-means and the reasoning bank against scikit-learn and faiss: time, with the inertia checked.

``python benches/python/bench_kmeans.py`` writes ``benches/results/kmeans.md``; ``--quick`` leaves out the 100,000 rows.
Contenders take turns in one process, each on one thread except where two are named. Twenty iterations, seeding
included where the contender seeds: sona and scikit-learn by greedy k-means++, faiss by a random choice. "Same start" gives
both the same random rows to begin with: iterations alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from machine import machine
from sona.patterns import PatternConfig, ReasoningBank, kmeans

ROOT = Path(__file__).resolve().parents[2]
D = 256
ITERATIONS = 20


def mixture(n: int, seed: int = 0) -> np.ndarray:
    """Rows around 200 Gaussian centres, noise .8 of their spread."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, D))
    return (centres[rng.integers(200, size=n)] + 0.8 * rng.standard_normal((n, D))).astype(np.float32)


def noise(n: int, seed: int = 0) -> np.ndarray:
    """Rows without any structure: the worst case for bounds."""
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def error(x: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid, in float64 blocks: the same judge for all."""
    total = 0.0
    c = centroids.astype(np.float64)
    for block in np.array_split(x, max(1, len(x) // 10_000)):
        b = block.astype(np.float64)
        d2 = (b**2).sum(1)[:, None] - 2 * b @ c.T + (c**2).sum(1)
        total += float(np.maximum(d2, 0).min(1).sum())
    return total


def contenders(x: np.ndarray, k: int) -> dict[str, Callable[[int], np.ndarray]]:
    def start(seed: int) -> np.ndarray:
        return x[np.random.default_rng(seed).choice(len(x), k, replace=False)]

    def sona(seed: int, threads: int = 1, algorithm: str = "auto", init: np.ndarray | str = "k-means++") -> np.ndarray:
        fit = kmeans(x, k, init=init, max_iterations=ITERATIONS, tol=0.0, seed=seed, n_threads=threads, algorithm=algorithm)
        return fit.centroids

    def sklearn_(seed: int) -> np.ndarray:
        fit = KMeans(k, n_init=1, max_iter=ITERATIONS, tol=0.0, algorithm="lloyd", random_state=seed).fit(x)
        return fit.cluster_centers_

    def faiss_(seed: int, init: np.ndarray | None = None) -> np.ndarray:
        km = faiss.Kmeans(D, k, niter=ITERATIONS, seed=seed + 1, max_points_per_centroid=len(x))
        km.train(x, init_centroids=init)
        return km.centroids

    return {
        "sona": sona,
        "sona, full scans": lambda seed: sona(seed, algorithm="lloyd"),
        "sona, 2 threads": lambda seed: sona(seed, threads=2),
        "scikit-learn": sklearn_,
        "faiss": faiss_,
        "sona, same start": lambda seed: sona(seed, init=start(seed)),
        "sona, same start, full scans": lambda seed: sona(seed, init=start(seed), algorithm="lloyd"),
        "sona, same start, 2 threads": lambda seed: sona(seed, init=start(seed), threads=2),
        "faiss, same start": lambda seed: faiss_(seed, start(seed)),
    }


def clustering(rounds: int, sizes: list[int]) -> list[str]:
    lines = ["| data | n × k | contender | fastest (ms) | median (ms) | processor (ms) | mean inertia / scikit-learn |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, make in (("mixture", mixture), ("noise", noise)):
        for n in sizes:
            x = make(n)
            for k in (50, 100):
                times: dict[str, list[float]] = {}
                cpu: dict[str, list[float]] = {}
                errors: dict[str, list[float]] = {}
                for seed in range(rounds if n <= 10_000 else 2):
                    for who, run in contenders(x, k).items():
                        start, used = time.perf_counter(), time.process_time()
                        centroids = run(seed)
                        times.setdefault(who, []).append((time.perf_counter() - start) * 1e3)
                        cpu.setdefault(who, []).append((time.process_time() - used) * 1e3)
                        errors.setdefault(who, []).append(error(x, centroids))
                base = np.mean(errors["scikit-learn"])
                for who, t in times.items():
                    lines.append(
                        f"| {name} | {n:,} × {k} | {who} | {min(t):.1f} | {np.median(t):.1f} "
                        f"| {np.median(cpu[who]):.1f} | {np.mean(errors[who]) / base:.4f} |"
                    )
                sys.stderr.write("\n".join(lines[-len(times) :]) + "\n")
    return lines


def bank(rounds: int) -> list[str]:
    def of(cases: np.ndarray, k: int, smallest: int) -> ReasoningBank:
        config = PatternConfig(k_clusters=k, min_cluster_size=smallest, max_trajectories=len(cases))
        b = ReasoningBank(config)
        for i, x in enumerate(cases):
            b.add(x, i % 11 / 10)
        return b

    extraction, query = [], []
    extraction_cpu, query_cpu = [], []
    for seed in range(rounds):
        b = of(mixture(1000, seed), 50, 5)
        start, used = time.perf_counter(), time.thread_time()
        found = b.extract_patterns()
        extraction.append((time.perf_counter() - start) * 1e3)
        extraction_cpu.append((time.thread_time() - used) * 1e3)
        assert found
    directions = noise(10_000)
    big = of(directions, 10_000, 1)
    assert len(big.extract_patterns()) == 10_000
    for q in noise(200, 9):
        start, used = time.perf_counter(), time.thread_time()
        matches = big.find_patterns(q, k=5)
        query.append((time.perf_counter() - start) * 1e3)
        query_cpu.append((time.thread_time() - used) * 1e3)
        assert len(matches) == 5
    rows = (
        ("extraction, 1,000 × 256, k 50", extraction, extraction_cpu),
        ("query among 10,000 patterns, k 5", query, query_cpu),
    )
    lines = ["| | fastest (ms) | median (ms) | p99 (ms) | processor, median (ms) |", "|---|---|---|---|---|"]
    for name, t, cpu in rows:
        tail = f"{np.quantile(t, 0.99):.3f} | {np.median(cpu):.3f} |"
        lines.append(f"| {name} | {min(t):.3f} | {np.median(t):.3f} | {tail}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 rows only")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--output", type=Path, default=ROOT / "benches" / "results" / "kmeans.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    faiss.omp_set_num_threads(1)
    sizes = [10_000] if args.quick else [10_000, 100_000]
    text = [
        "# K-means and the reasoning bank: measured",
        "",
        f"Written by `python benches/python/bench_kmeans.py{' --quick' if args.quick else ''}`; "
        "contenders take turns in one process.",
        machine(scikit_learn=sklearn.__version__, faiss=faiss.__version__, numpy=np.__version__) + ".",
        "On a shared machine: compare within a table.",
        "",
        f"## {ITERATIONS} iterations, d = {D}, seeding included",
        "",
        *clustering(args.rounds, sizes),
        "",
        "## Reasoning bank, from Python",
        "",
        *bank(args.rounds),
        "",
    ]
    args.output.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
