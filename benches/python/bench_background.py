"""What a background cycle takes, and what a request pays while one runs.

``python benches/python/bench_background.py`` writes ``benches/results/background.md``; ``--quick`` runs a small part. Requests
and cycles share one process. A repetition is a row of short windows, by turns: one in which nothing else runs, one in which
cycles run on a second thread (of the priority that the engine's own has), one in which nothing runs again. Each call of
``adapt`` and ``rank`` is timed on the main thread, by the clock and by what it had of the processor, which leaves out what
other programs took. The two idle windows tell how far apart equal things are measured. With ``SONA_DATA`` set, requests are
sentences of Banking77 and CLINC150.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import threading
import time
from pathlib import Path

import numpy as np

from bench_engine import requests, unit
from machine import machine
from sona import SonaConfig, SonaEngine
from sona.background import take_second_place
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


def timed(call, queries: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    """Microseconds of each call, by the clock and on the processor."""
    out, end, i = [], time.perf_counter() + seconds, 0
    while True:
        on = time.thread_time_ns()
        start = time.perf_counter()
        call(queries[i % len(queries)])
        stop = time.perf_counter()
        out.append(((stop - start) * 1e6, (time.thread_time_ns() - on) / 1e3))
        i += 1
        if stop > end:
            return out


def preempted() -> int:
    """How often the main thread lost its processor so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


class Windows:
    """Times per call and preemptions of one repetition: idle, with cycles, idle again."""

    def __init__(self, engine: SonaEngine, call, queries: np.ndarray, turns: int, seconds: float) -> None:
        times: dict[str, list[tuple[float, float]]] = {"idle": [], "busy": [], "again": []}
        self.lost = {"idle": 0, "busy": 0}

        def window(name: str) -> None:
            before = preempted()
            times[name] += timed(call, queries, seconds)
            if name in self.lost:
                self.lost[name] += preempted() - before

        for _ in range(turns):
            window("idle")
            stop = threading.Event()

            def cycles(stop=stop):
                take_second_place()
                while not stop.is_set():
                    engine.background_learn(now=0.0)

            thread = threading.Thread(target=cycles)
            thread.start()
            time.sleep(0.02)
            window("busy")
            stop.set()
            thread.join()
            window("again")
        self.times = {name: np.array(t).T for name, t in times.items()}
        self.idle = np.concatenate([self.times["idle"], self.times["again"]], axis=1)

    def of_idle(self, name: str, clock: int, percentile: float) -> float:
        """A percentile of these windows over that of the idle ones."""
        idle = self.times["idle"] if name == "again" else self.idle
        return float(np.percentile(self.times[name][clock], percentile) / np.percentile(idle[clock], percentile))


def spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    d, sizes = options.dim, (1000,) if options.quick else (1000, 10_000)
    repetitions, turns, seconds = (2 if options.quick else options.repetitions), 3, 0.3
    rng = np.random.default_rng(0)
    items = unit(rng.standard_normal((500, d)))
    cost = ["| | trajectories | patterns | elapsed | |", "|---|---|---|---|---|"]
    paid = [
        "| cases | call | p50, p99 idle | p50 ratio | p99 ratio | p99 ratio of processor time | p99, idle again / idle "
        "| preempted per second, idle / with cycles |",
        "|---|---|---|---|---|---|---|---|",
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

        calls = {"adapt": engine.adapt, "rank, 50 candidates": rank}
        runs: dict[str, list[Windows]] = {name: [] for name in calls}
        for _ in range(repetitions):
            for name, call in calls.items():
                runs[name].append(Windows(engine, call, fresh, turns, seconds))
        for name, seen in runs.items():
            p50, p99 = (np.median([np.percentile(w.idle[0], p) for w in seen]) for p in (50, 99))
            lost = [sum(w.lost[kind] for w in seen) / (repetitions * turns * seconds) for kind in ("idle", "busy")]
            ratios = [spread([w.of_idle("busy", clock, p) for w in seen]) for clock, p in ((0, 50), (0, 99), (1, 99))]
            ratios.append(spread([w.of_idle("again", 0, 99) for w in seen]))
            paid.append(f"| {n:,} | {name} | {p50:.0f}, {p99:.0f} | {' | '.join(ratios)} | {lost[0]:.0f} / {lost[1]:.0f} |")
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
            "Microseconds per call from Python. Ratios of windows that took turns, with cycles to idle: medians over "
            f"{repetitions} repetitions (smallest to largest).",
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
