"""Recording one trajectory: the lock-free buffer against a deque with a copy and a numpy ring.

``python benches/python/bench_trajectory.py`` writes ``benches/results/trajectory.md``.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine
from sona.trajectory import QueryTrajectory, TrajectoryBuffer

ROOT = Path(__file__).resolve().parents[2]
D, CAPACITY = 256, 10_000


def contenders() -> dict[str, Callable[[], object]]:
    """One record each. Ours and the plain deque take a ready record; the peers copy the vector in, as they must."""
    x = np.random.default_rng(0).normal(size=D).astype(np.float32)
    ready = QueryTrajectory(0, x, (), 0.5)
    buffer, plain, copies = TrajectoryBuffer(CAPACITY), deque(maxlen=CAPACITY), deque(maxlen=CAPACITY)
    ring, at = np.empty((CAPACITY, D), np.float32), 0

    def into_ring() -> None:
        nonlocal at
        ring[at] = x
        at = (at + 1) % CAPACITY

    return {
        "sona, ready record": lambda record=buffer.record: record(ready),
        "deque + copy": lambda append=copies.append, copy=x.copy: append(copy()),
        "numpy ring": into_ring,
        "deque, ready record (no counters, no byte budget)": lambda append=plain.append: append(ready),
        "sona, record built from arrays": lambda record=buffer.record: record(QueryTrajectory(0, x, (), 0.5)),
    }


def interleaved(calls: dict[str, Callable[[], object]], rounds: int, n: int) -> dict[str, np.ndarray]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            for _ in range(n):
                call()
            times[name].append((time.perf_counter_ns() - start) / n)
    return {name: np.array(t) for name, t in times.items()}


def drains(rounds: int) -> np.ndarray:
    """Milliseconds for handing over a full buffer in one call."""
    buffer, ready = TrajectoryBuffer(CAPACITY), QueryTrajectory(0, np.zeros(D), (), 0.5)
    out = []
    for _ in range(rounds):
        for _ in range(CAPACITY):
            buffer.record(ready)
        start = time.perf_counter_ns()
        got = buffer.drain()
        out.append((time.perf_counter_ns() - start) / 1e6)
        assert len(got) == CAPACITY
    return np.array(out)


def two_producers(rounds: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds per record over all producers: one, and two at once."""
    ready = QueryTrajectory(0, np.zeros(D), (), 0.5)

    def run(threads: int) -> float:
        buffer = TrajectoryBuffer(CAPACITY)
        gate = threading.Barrier(threads + 1)

        def produce() -> None:
            record = buffer.record
            gate.wait()
            for _ in range(n):
                record(ready)

        workers = [threading.Thread(target=produce) for _ in range(threads)]
        for w in workers:
            w.start()
        gate.wait()
        start = time.perf_counter_ns()
        for w in workers:
            w.join()
        elapsed = time.perf_counter_ns() - start
        m = buffer.metrics()
        assert m["recorded"] == threads * n == m["stored"] + m["dropped"]
        return elapsed / (threads * n)

    pairs = np.array([(run(1), run(2)) for _ in range(rounds)])
    return pairs[:, 0], pairs[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--output", type=Path, default=ROOT / "benches" / "results" / "trajectory.md")
    args = parser.parse_args()
    host = machine(numpy=np.__version__)
    times = interleaved(contenders(), args.rounds, 500)
    ours = np.percentile(times["sona, ready record"], 10)
    lines = [
        "# Trajectory buffer: measured",
        "",
        "Written by `python benches/python/bench_trajectory.py`. Nanoseconds per record from Python, 256 values each,",
        "contenders interleaved in one process. p10 is the fastest tenth, which other load disturbs least; the ratio is to the",
        "first, by p10.",
        "",
        f"Machine: {host}.",
        "",
        "| contender | p10 ns | median ns | ratio |",
        "|---|---|---|---|",
    ]
    for name, t in times.items():
        p10, p50 = np.percentile(t, [10, 50])
        lines.append(f"| {name} | {p10:.0f} | {p50:.0f} | {p10 / ours:.2f} |")
    drained = drains(60)
    one, two = two_producers(15, 100_000)
    lines += [
        "",
        f"Draining {CAPACITY:,} records in one call: {np.percentile(drained, 10):.2f} ms (p10), "
        f"{np.median(drained):.2f} ms (median).",
        "",
        f"Per record with one producer {np.percentile(one, 10):.0f} ns, with two at once {np.percentile(two, 10):.0f} ns "
        f"(p10; ratio {np.percentile(two, 10) / np.percentile(one, 10):.2f}).",
        "",
    ]
    args.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
