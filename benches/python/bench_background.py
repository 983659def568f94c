"""What a background cycle takes, and what a request pays while one runs.

``python benches/python/bench_background.py`` writes ``benches/results/background.md``; ``--quick`` runs a small part. Requests
and cycles share one process: windows in which cycles run on a second thread take turns with windows in which none does, and
each call of ``adapt`` and ``rank`` is timed on the main thread. With ``SONA_DATA`` set, requests are sentences of Banking77 and
CLINC150.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import threading
import time
from pathlib import Path

import numpy as np

from bench_engine import requests, unit
from machine import machine
from sona import SonaConfig, SonaEngine
from sona.loops import BackgroundLoop, BackgroundLoopConfig
from sona.trajectory import QueryTrajectory, TrajectoryStep

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = 50


def learned_engine(n: int, d: int, x: np.ndarray, items: np.ndarray) -> SonaEngine:
    """An engine that has seen ``n`` requests, each with the candidate that it wanted."""
    engine = SonaEngine(SonaConfig(hidden_dim=d, case_bytes=None, user_cap_per_minute=0, trajectory_capacity=n))
    for q in x[:n]:
        near = np.argpartition(-(items @ q), CANDIDATES)[:CANDIDATES]
        decision = engine.rank(q, near, items[near], k=10, now=0.0)
        engine.feedback(decision, chosen=int(near[np.argmax(items[near] @ np.roll(q, 1))]), now=0.0)
    return engine


def timed(call, queries: np.ndarray, seconds: float) -> list[float]:
    out, end, i = [], time.perf_counter() + seconds, 0
    while True:
        start = time.perf_counter()
        call(queries[i % len(queries)])
        stop = time.perf_counter()
        out.append((stop - start) * 1e6)
        i += 1
        if stop > end:
            return out


def windows(engine: SonaEngine, call, queries: np.ndarray, rounds: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds per call without and with cycles on a second thread, in turns."""
    idle, busy = [], []
    for _ in range(rounds):
        idle += timed(call, queries, seconds)
        stop = threading.Event()

        def cycles(stop=stop):
            while not stop.is_set():
                engine.background_learn(now=0.0)

        thread = threading.Thread(target=cycles)
        thread.start()
        time.sleep(0.02)
        busy += timed(call, queries, seconds)
        stop.set()
        thread.join()
    return np.array(idle), np.array(busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    d, sizes, rounds = options.dim, (1000,) if options.quick else (1000, 10_000), 3 if options.quick else 8
    rng = np.random.default_rng(0)
    items = unit(rng.standard_normal((500, d)))
    cost = ["| | trajectories | patterns | elapsed | |", "|---|---|---|---|---|"]
    paid = [
        "| cases | call | p50 idle | p50 with cycles | p99 idle | p99 with cycles | p99 ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in sizes:
        x = requests(n + 500, d)
        engine = learned_engine(n, d, x, items)
        engine.background_learn(now=0.0)
        results = [engine.background_learn(now=0.0) for _ in range(3)]
        best = min(results, key=lambda r: r.elapsed_s)
        scope = best.scopes[0]
        cost.append(
            f"| engine cycle | {best.trajectories_processed:,} | {best.patterns_extracted} | {best.elapsed_s:.2f} s "
            f"| trained on {scope.trained_on:,} clicks |"
        )
        loop = BackgroundLoop(BackgroundLoopConfig(), d)
        made = [QueryTrajectory(i, q, (TrajectoryStep(np.roll(q, 1), [], 0.9),), 0.9) for i, q in enumerate(x[:n])]
        result = loop.run_cycle(made)
        cost.append(
            f"| `BackgroundLoop.run_cycle` | {n:,} | {result.patterns_extracted} | {result.elapsed_s:.2f} s "
            f"| {loop.metrics()['base_steps']} training steps |"
        )
        fresh = x[n:]
        near = {q.tobytes(): np.argpartition(-(items @ q), CANDIDATES)[:CANDIDATES] for q in fresh}

        def rank(q: np.ndarray, engine: SonaEngine = engine, near: dict[bytes, np.ndarray] = near) -> object:
            return engine.rank(q, near[q.tobytes()], k=10, now=0.0)

        for name, call in {"adapt": engine.adapt, "rank, 50 candidates": rank}.items():
            idle, busy = windows(engine, call, fresh, rounds, 0.5)
            a, b = (np.percentile(t, [50, 99]) for t in (idle, busy))
            paid.append(f"| {n:,} | {name} | {a[0]:.0f} | {b[0]:.0f} | {a[1]:.0f} | {b[1]:.0f} | {b[1] / a[1]:.2f} |")
        engine.close()
    text = "\n".join(
        [
            "# The background cycle",
            "",
            f"`python benches/python/bench_background.py`; {d}-d, k = 100.",
            machine(numpy=np.__version__) + ".",
            "",
            "## What a cycle takes",
            "",
            *cost,
            "",
            "## What a request pays while cycles run on a second thread",
            "",
            "Microseconds per call from Python, in windows of half a second by turns.",
            "",
            *paid,
            "",
        ]
    )
    print(text)
    if not options.quick:
        (ROOT / "benches/results/background.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
