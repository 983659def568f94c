"""EWC and replay per parameter and per sample, against numba and numpy by turns in one process.

``python benches/python/bench_continual.py`` writes ``benches/results/continual.md``; ``--quick`` prints a small part.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from machine import machine
from sona.continual import EwcConfig, EwcPlusPlus, PriorityReplayBuffer

ROOT = Path(__file__).resolve().parents[2]


@numba.njit(fastmath=True)
def numba_gradient(lam, f, theta, star, out):
    for i in range(out.size):
        out[i] = lam * f[i] * (theta[i] - star[i])


@numba.njit(fastmath=True)
def numba_fisher(keep, share, g, f):
    for i in range(f.size):
        f[i] = keep * f[i] + share * g[i] * g[i]


def turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds per call; each round calls all of them once, and the order turns."""
    names = list(contenders)
    for call in contenders.values():
        call()
    times: dict[str, list[int]] = {n: [] for n in names}
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            start = time.perf_counter_ns()
            contenders[name]()
            times[name].append(time.perf_counter_ns() - start)
    return {n: np.array(t) / 1e9 for n, t in times.items()}


def row(label: str, n: int, t: np.ndarray, unit: str) -> str:
    p10, p50, p90 = np.percentile(t, [10, 50, 90]) / n * 1e9
    return f"| {label} | {p50:.3f} | {p10:.3f} | {p90:.3f} | {unit} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rng = np.random.default_rng(0)
    out = ["# EWC and replay", "", "`python benches/python/bench_continual.py`; one thread, calls by turns in one process, ns."]
    out += [machine(numpy=np.__version__, numba=numba.__version__) + ".", ""]
    lam, keep, share = np.float32(1000), np.float32(0.999), np.float32(0.001)
    for p in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
        f, star, theta, g = (rng.normal(size=p).astype(np.float32) for _ in range(4))
        f, result = f * f, np.empty(p, np.float32)
        ewc = EwcPlusPlus(EwcConfig(param_count=p, normalize_fisher=False))
        ewc.start_new_task(fisher=f, params=star)
        ten = EwcPlusPlus(EwcConfig(param_count=p, normalize_fisher=False))
        for _ in range(10):
            ten.start_new_task(fisher=f, params=star)
        running = f.copy()
        rounds = 100 if quick else max(300, 30_000_000 // p)
        scratch = np.empty(p, np.float32)

        def numpy_gradient(f=f, theta=theta, star=star, result=result, scratch=scratch):
            np.subtract(theta, star, out=result)
            np.multiply(f, lam, out=scratch)
            np.multiply(result, scratch, out=result)

        out += [f"## {p:,} parameters", "", "| | median | p10 | p90 | |", "|---|---|---|---|---|"]
        gradient = turns(
            {
                "**penalty gradient**, `out=`": lambda e=ewc, t=theta, r=result: e.penalty_gradient(t, out=r),
                "**penalty gradient**, `out=`, 10 tasks": lambda e=ten, t=theta, r=result: e.penalty_gradient(t, out=r),
                "numba": lambda f=f, t=theta, s=star, r=result: numba_gradient(lam, f, t, s, r),
                "numpy": numpy_gradient,
                "**proximal step**, `out=`": lambda e=ewc, t=theta, r=result: e.proximal_step(t, 0.1, out=r),
            },
            rounds,
        )
        fisher = turns(
            {
                "**Fisher update**": lambda e=ewc, g=g: e.update_fisher(g),
                "numba, Fisher update": lambda g=g, r=running: numba_fisher(keep, share, g, r),
            },
            rounds,
        )
        out += [row(name, p, t, "ns per parameter") for name, t in {**gradient, **fisher}.items()] + [""]
    out += ["## Replay", "", "| | median | p10 | p90 | |", "|---|---|---|---|---|"]
    for n in (1000, 100_000):
        buffer = PriorityReplayBuffer(n)
        for i in range(n):
            buffer.add(i, float(rng.gamma(1.0)))
        batch = buffer.sample(64)
        errors = np.abs(rng.normal(size=64))
        p = buffer.probabilities()
        times = turns(
            {
                f"**sample**, 64 of {n:,}": lambda b=buffer: b.sample(64),
                f"**update_priorities**, 64 of {n:,}": lambda b=buffer, i=batch.indices, e=errors: b.update_priorities(i, e),
                f"numpy `choice(p=)`, 64 of {n:,}": lambda n=n, p=p: rng.choice(n, 64, p=p),
            },
            100 if quick else 2000,
        )
        out += [row(name, 64, t, "ns per sample") for name, t in times.items()]
    text = "\n".join([*out, ""])
    print(text)
    if not quick:
        (ROOT / "benches/results/continual.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
