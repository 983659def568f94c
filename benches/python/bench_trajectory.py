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
    """One record each, the vector copied in; the rows called ready store a reference to a finished record."""
    x = np.random.default_rng(0).normal(size=D).astype(np.float32)
    ready = QueryTrajectory(0, x, (), 0.5)
    buffer, parts, built = TrajectoryBuffer(CAPACITY), TrajectoryBuffer(CAPACITY), TrajectoryBuffer(CAPACITY)
    plain: deque[object] = deque(maxlen=CAPACITY)
    copies: deque[object] = deque(maxlen=CAPACITY)
    ring, at = np.empty((CAPACITY, D), np.float32), 0

    def into_ring() -> None:
        nonlocal at
        ring[at] = x
        at = (at + 1) % CAPACITY

    return {
        "sona, record_request": lambda record=parts.record_request: record(0, x, 0.5),
        "deque + copy": lambda append=copies.append, copy=x.copy: append(copy()),
        "numpy ring": into_ring,
        "sona, ready record": lambda record=buffer.record: record(ready),
        "deque, ready record (no counters, no byte budget)": lambda append=plain.append: append(ready),
        "sona, QueryTrajectory built from arrays": lambda record=built.record: record(QueryTrajectory(0, x, (), 0.5)),
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


def drains(rounds: int, ready: bool) -> np.ndarray:
    """Milliseconds for handing over a full buffer in one call."""
    buffer, x = TrajectoryBuffer(CAPACITY), np.zeros(D, np.float32)
    finished = QueryTrajectory(0, x, (), 0.5)
    out = []
    for _ in range(rounds):
        for i in range(CAPACITY):
            if ready:
                buffer.record(finished)
            else:
                buffer.record_request(i, x, 0.5)
        start = time.perf_counter_ns()
        got = buffer.drain()
        out.append((time.perf_counter_ns() - start) / 1e6)
        assert len(got) == CAPACITY
        del got
    return np.array(out)


def two_producers(rounds: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds per ``record_request`` over all producers: one, and two at once."""
    x = np.zeros(D, np.float32)

    def run(threads: int) -> float:
        buffer = TrajectoryBuffer(CAPACITY)
        for _ in range(CAPACITY):  # full: what is measured is the steady state, not fresh memory
            buffer.record_request(0, x, 0.5)
        gate = threading.Barrier(threads + 1)

        def produce() -> None:
            record = buffer.record_request
            gate.wait()
            for _ in range(n):
                record(0, x, 0.5)

        workers = [threading.Thread(target=produce) for _ in range(threads)]
        for w in workers:
            w.start()
        gate.wait()
        start = time.perf_counter_ns()
        for w in workers:
            w.join()
        elapsed = time.perf_counter_ns() - start
        m = buffer.metrics()
        assert m["recorded"] == CAPACITY + threads * n == m["stored"] + m["dropped"]
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
    ours = np.percentile(times["sona, record_request"], 10)
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
    drained = [np.percentile(drains(60, ready), [10, 50]) for ready in (False, True)]
    one, two = two_producers(15, 100_000)
    lines += [
        "",
        f"Draining {CAPACITY:,} records in one call: {drained[0][0]:.2f} ms (p10), {drained[0][1]:.2f} ms (median) of "
        f"`record_request`; {drained[1][0]:.2f} and {drained[1][1]:.2f} ms of ready records.",
        "",
        f"Per `record_request` with one producer {np.percentile(one, 10):.0f} ns, with two at once "
        f"{np.percentile(two, 10):.0f} ns (p10; ratio {np.percentile(two, 10) / np.percentile(one, 10):.2f}).",
        "",
    ]
    args.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
