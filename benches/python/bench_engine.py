"""What a call of the engine costs from Python, how that grows, and what the state takes.

``python benches/python/bench_engine.py`` writes ``benches/results/engine.md``; ``--quick`` runs a small part. One thread
unless a table says otherwise. The engine takes turns, call by call, with what an application would do without it: numpy
(one product with all remembered requests, their softmax-weighted mean) and faiss (exact search for 128). With
``SONA_DATA`` set, requests are sentences of Banking77 and CLINC150; else vectors with their spectrum.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from machine import machine
from sona import SonaConfig, SonaEngine

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = 50
NEIGHBORS = 128
COLD_AT = 10_000
Call = Callable[[int], object]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def requests(n: int, d: int) -> np.ndarray:
    """Sentence vectors where there are enough of them, else the variance of axis i falls as 1/i like theirs."""
    rng = np.random.default_rng(0)
    folder = os.environ.get("SONA_DATA")
    if folder and d == 384:
        real = [np.load(Path(folder) / f"{name}_minilm_fp16.npz")["x"] for name in ("banking77", "clinc150")]
        x = unit(np.concatenate(real).astype(np.float32))
        if n <= len(x):
            return x[rng.permutation(len(x))[:n]]
    scale = 1.0 / np.sqrt(np.arange(1, d + 1))
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return unit((rng.standard_normal((n, d)) * scale) @ basis)


class World:
    """An engine, the requests it has seen and will see, and an application's index of items."""

    def __init__(self, d: int, config: SonaConfig | None = None, store: str | None = None) -> None:
        self.config = config or SonaConfig(hidden_dim=d, case_bytes=None, user_cap_per_minute=0)
        self.engine = SonaEngine(self.config, store=store)
        self.items = unit(np.random.default_rng(1).standard_normal((500, d)))
        self.ids = [f"document {i}" for i in range(len(self.items))]
        self.d, self.learned = d, 0

    def candidates(self, i: int) -> tuple[list[str], np.ndarray]:
        first = i * 13 % (len(self.ids) - CANDIDATES)
        return self.ids[first : first + CANDIDATES], self.items[first : first + CANDIDATES]

    def rank(self, query: np.ndarray, i: int, scope: str = "default") -> object:
        ids, vectors = self.candidates(i)
        return self.engine.rank(query=query, ids=ids, vectors=vectors, scope=scope, k=10)

    def learn(self, query: np.ndarray, i: int, scope: str = "default") -> None:
        decision = self.rank(query, i, scope)
        self.engine.feedback(decision.id, chosen=decision.ids[i % 3], source="click")  # type: ignore[attr-defined]
        self.learned += 1


def take_turns(contenders: dict[str, Call], calls: int, block: int = 25) -> dict[str, np.ndarray]:
    """Microseconds of each call; contenders alternate every ``block`` calls, the order turns every round.

    The first call of a block is not counted: it brings the contender's data back into the caches. ``block=0`` takes turns
    call by call and counts all: each finds the caches full of the others' data.
    """
    times: dict[str, list[int]] = {name: [] for name in contenders}
    names, clock = list(contenders), time.perf_counter_ns
    for turn, first in enumerate(range(0, calls, block or 1)):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            call, out = contenders[name], times[name]
            if block:
                call(first)
            for i in range(first, min(first + (block or 1), calls)):
                start = clock()
                call(i)
                out.append(clock() - start)
    return {name: np.array(t) / 1e3 for name, t in times.items()}


def row(label: str, t: np.ndarray) -> str:
    p10, p50, p90, p99 = np.percentile(t, [10, 50, 90, 99])
    return f"| {label} | {p50:.1f} | {p10:.1f} | {p90:.1f} | {p99:.1f} | {p99 / p50:.1f} |"


HEAD = "| | p50 | p10 | p90 | p99 | p99/p50 |\n|---|---|---|---|---|---|"


def numpy_adapt(q: np.ndarray, g: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The same rule in numpy, exactly: one product with all requests, the nearest 128, their gradients."""

    def adapt(x: np.ndarray) -> np.ndarray:
        s = q @ x
        near = np.argpartition(s, -NEIGHBORS)[-NEIGHBORS:]
        u = x + 0.6 * (np.exp((s[near] - 1) / np.float32(0.2)) @ g[near])
        return u / np.linalg.norm(u)

    return adapt


def peers(q: np.ndarray, new: np.ndarray) -> dict[str, Call]:
    """What an application would do over ``q``, the remembered requests."""
    scores = np.empty(len(q), np.float32)
    out: dict[str, Call] = {"numpy: `Q @ x` alone": lambda i: np.matmul(q, new[i], out=scores)}
    if len(q) >= NEIGHBORS:
        known, scan = numpy_adapt(q, q[::-1].copy()), faiss.IndexFlatIP(q.shape[1])
        scan.add(q)
        out["numpy: adapt"] = lambda i: known(new[i])
        out["faiss flat: search for 128"] = lambda i: scan.search(new[i : i + 1], NEIGHBORS)
    return out


def by_cases(d: int, sizes: tuple[int, ...], calls: int) -> list[str]:
    fresh = 2 * calls + 40
    x = requests(max(sizes) + fresh, d)
    new, old = x[:fresh], x[fresh:]
    world, lines = World(d), []
    for n in sizes:
        while world.learned < n:
            world.learn(old[world.learned], world.learned)
        contenders: dict[str, Call] = {
            "**adapt**": lambda i: world.engine.adapt(new[i]),
            "**rank**, 50 candidates": lambda i: world.rank(new[i], i),
        }
        if n:
            contenders |= peers(old[:n], new)
        gc.collect()
        gc.disable()
        times = take_turns(contenders, calls)
        if n == COLD_AT:
            cold = take_turns({k: c for k, c in contenders.items() if "rank" not in k}, calls // 2, block=0)
            times |= {f"{name}, caches cold": t for name, t in cold.items()}
        gc.enable()
        lines += [f"### {n:,} cases × {d}", "", HEAD, *(row(name, t) for name, t in times.items()), ""]
        sys.stderr.write("\n".join(lines[-len(times) - 4 :]) + "\n")
    return lines


def feedback_table(d: int, sizes: tuple[int, ...], calls: int) -> list[str]:
    lines = [HEAD]
    x = requests(max(sizes) + len(sizes) * calls + 40, d)
    for fsync in ("group", None):
        with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
            config = SonaConfig(hidden_dim=d, case_bytes=None, user_cap_per_minute=0, fsync=fsync or "group")
            world = World(d, config, store=folder if fsync else None)
            used = 0
            for n in sizes:
                while world.learned < n:
                    world.learn(x[used], used)
                    used += 1
                times = []
                for _ in range(calls):
                    decision = world.rank(x[used], used)
                    start = time.perf_counter_ns()
                    world.engine.feedback(decision.id, chosen=decision.ids[used % 3], source="click")  # type: ignore[attr-defined]
                    times.append(time.perf_counter_ns() - start)
                    used += 1
                    world.learned += 1
                kept = "state directory, group commit" if fsync else "memory only"
                lines.append(row(f"{kept}, {n:,} cases", np.array(times) / 1e3))
                sys.stderr.write(lines[-1] + "\n")
            world.engine.close()
    return lines


def threads_table(d: int, cases: int, calls: int) -> list[str]:
    """Calls per second of one thread and of two; feedback of two threads goes to two scopes or to one."""
    lines = ["| | one thread, calls/s | two threads, calls/s | ratio |", "|---|---|---|---|"]
    x = requests(cases + 8 * calls, d)

    def timed(works: list[Callable[[], None]]) -> float:
        threads = [threading.Thread(target=w) for w in works]
        start = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return time.perf_counter() - start

    world = World(d)
    for i in range(cases):
        world.learn(x[i], i, f"scope {i % 2}")
    one_rate = calls / timed([lambda: [world.rank(x[i], i, "scope 0") for i in range(calls)] and None])
    two = [lambda o=o: [world.rank(x[o + i], i, "scope 0") for i in range(calls)] and None for o in (0, calls)]
    two_rate = 2 * calls / timed(two)
    lines.append(f"| rank, {cases // 2:,} cases | {one_rate:,.0f} | {two_rate:,.0f} | {two_rate / one_rate:.2f} |")

    for label, scopes in (("two scopes", ("scope 0", "scope 1")), ("one scope", ("scope 0", "scope 0"))):
        with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
            config = SonaConfig(hidden_dim=d, case_bytes=None, user_cap_per_minute=0)
            world = World(d, config, store=folder)
            for i in range(cases):
                world.learn(x[i], i, f"scope {i % 2}")
            rates = []
            for streams in (1, 2):
                decided = [[world.rank(x[cases + s * calls + i], i, scopes[s]) for i in range(calls)] for s in range(streams)]

                def give(decisions: list, world: World = world) -> None:
                    for i, d in enumerate(decisions):
                        world.engine.feedback(d.id, chosen=d.ids[i % 3], source="click")

                rates.append(streams * calls / timed([lambda ds=ds: give(ds) for ds in decided]))
            world.engine.close()
        name = f"feedback, durable, {label} of {cases // 2:,} cases"
        lines.append(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} |")
    return lines


def by_scopes(d: int, sizes: tuple[int, ...], calls: int) -> list[str]:
    """Each scope holds one case; requests visit scopes at random."""
    lines = ["| scopes | adapt p50 | rank p50 | rank p99 |", "|---|---|---|---|"]
    x = requests(max(sizes) + calls + 40, d) if max(sizes) < 20_000 else requests(20_000 + calls, d)
    world, rng, made = World(d), np.random.default_rng(0), 0
    for n in sizes:
        for i in range(made, n):
            world.learn(x[i % 20_000 % len(x)], i, f"tenant {i}")
        made = n
        visit = [f"tenant {j}" for j in rng.integers(0, n, calls)]
        t = take_turns(
            {
                "adapt": lambda i, visit=visit: world.engine.adapt(x[-1 - i], scope=visit[i]),
                "rank": lambda i, visit=visit: world.rank(x[-1 - i], i, visit[i]),
            },
            calls,
        )
        a, (r, r99) = np.median(t["adapt"]), np.percentile(t["rank"], [50, 99])
        lines.append(f"| {n:,} | {a:.1f} | {r:.1f} | {r99:.1f} |")
        sys.stderr.write(lines[-1] + "\n")
    return lines


def state_growth(d: int, steps: int) -> list[str]:
    """Bytes of the saved state while feedback goes on past a case budget of 4 MiB."""
    config = SonaConfig(
        hidden_dim=d,
        case_bytes=4 << 20,
        item_bytes=4 << 20,
        journal_bytes=4 << 20,
        trajectory_capacity=200,
        user_cap_per_minute=0,
    )
    world, x = World(d, config), requests(min(steps, 30_000), d)
    lines = ["| feedbacks | cases | case bytes | saved state, bytes |", "|---|---|---|---|"]
    marks = [steps * i // 8 for i in range(1, 9)]
    for i in range(steps):
        world.learn(x[i % len(x)], i)
        if i + 1 in marks:
            m = world.engine.metrics()
            lines.append(f"| {i + 1:,} | {m['cases']:,} | {m['case_bytes']:,} | {len(world.engine.to_bytes()):,} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part, printed and not written")
    parser.add_argument("--largest", type=int, default=100_000, help="most cases and scopes (default 100,000)")
    args = parser.parse_args()
    (ROOT / "target").mkdir(exist_ok=True)
    calls = 300 if args.quick else 750
    sizes = tuple(n for n in (0, 1_000, 10_000, 100_000) if n <= (10_000 if args.quick else args.largest))
    scopes = tuple(n for n in (1, 1_000, 100_000) if n <= args.largest)
    lines = [
        "# The engine: what a call costs",
        "",
        f"`python benches/python/bench_engine.py --largest {args.largest}`; microseconds per call from Python,",
        "contenders in turns of 25 calls in one process. *Caches cold*: in turns of one call,",
        "after the others have read tens of megabytes.",
        machine(numpy=np.__version__, faiss=faiss.__version__) + ".",
        "",
        "## adapt and rank by number of cases",
        "",
    ]
    for d in (384,) if args.quick else (384, 256):
        lines += by_cases(d, sizes, calls)
    lines += ["## feedback", "", *feedback_table(384, sizes[1:3], calls), ""]
    if not args.quick:
        lines += ["## Threads", "", *threads_table(384, 2_000, 1_500), ""]
        lines += [
            "## Scopes (one case each)",
            "",
            *by_scopes(256, scopes, calls),
            "",
        ]
        lines += ["## State past its budget (4 MiB of cases, d 256)", "", *state_growth(256, 8_000), ""]
    lines.append(f"Load at the end: {os.getloadavg()[0]:.1f}.")
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if not args.quick:
        (ROOT / "benches/results/engine.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
