"""Attention against numpy, torch and numba: time of the calls from Python, with the results compared.

``python benches/python/bench_attention.py`` writes ``benches/results/attention.md``; ``--only softmax,linear`` takes some of
the groups. Contenders take turns in one process; each is first checked against the others. numpy runs on one thread
(``OPENBLAS_NUM_THREADS=1``); sona and torch on one and on two where the table says so. A ``torch`` that cannot be
imported leaves its columns empty. Memory: `bench_attention_memory.py`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import attention_peers as peers
from attention_peers import torch
from machine import machine
from sona import attention as sa

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


class Row(NamedTuple):
    """One line of the table."""

    name: str
    calls: dict[str, Callable[[], Any]]
    reach: str
    base: str = ""
    """Contender that the target speaks of; the fastest peer where empty."""
    threads: bool = False
    """Also on two threads."""
    tolerance: float = 2e-5


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def softmax() -> list[Row]:
    rows = []
    for heads, n, reach in (
        (1, 100, "≤ .55 × torch"),
        (1, 512, "≤ .55 × torch"),
        (1, 2048, "≤ .55 × torch"),
        (1, 8192, "≤ .55 × torch"),
        (8, 100, "≤ .55 × torch"),
        (8, 512, "≤ .55 × torch"),
        (8, 2048, "≤ .55 × torch"),
    ):
        q, k, v = (floats(heads, n, 64) if heads > 1 else floats(n, 64) for _ in range(3))
        calls: dict[str, Callable[[], Any]] = {
            "sona": lambda q=q, k=k, v=v: sa.scaled_dot_product_attention(q, k, v),
        }
        if heads * n * n <= 8 * 2048 * 2048:
            calls["numpy"] = lambda q=q, k=k, v=v: peers.softmax_numpy(q, k, v)
        if torch:
            t = [torch.from_numpy(x if x.ndim > 2 else x[None]) for x in (q, k, v)]
            calls["torch"] = lambda t=t: peers.softmax_torch(*t)
        rows.append(Row(f"softmax, {heads} head{'s' * (heads > 1)}, n {n:,}", calls, reach, "torch", heads > 1))
    q, k, v = floats(2048, 64), floats(2048, 64), floats(2048, 64)
    calls = {
        "sona": lambda q=q, k=k, v=v: sa.flash_attention(q, k, v, causal=True),
        "own flash": lambda q=q, k=k, v=v: sa.flash_attention(q, k, v),
    }
    if torch:
        t = [torch.from_numpy(x[None]) for x in (q, k, v)]
        calls["torch"] = lambda t=t: peers.softmax_torch(*t, causal=True)
    rows.append(Row("softmax, 1 head, n 2,048, causal", calls, "≤ .55 × torch", "torch"))
    for m, reach in ((512, "≤ .3 × torch"), (2048, "≤ .65 × numpy"), (8192, "≤ .64 × numpy")):
        q, k, v = floats(1, 64), floats(m, 64), floats(m, 64)
        calls = {
            "sona": lambda q=q, k=k, v=v: sa.scaled_dot_product_attention(q, k, v),
            "numpy": lambda q=q, k=k, v=v: peers.softmax_numpy(q, k, v),
        }
        if torch:
            t = [torch.from_numpy(x[None]) for x in (q, k, v)]
            calls["torch"] = lambda t=t: peers.softmax_torch(*t)
        rows.append(Row(f"one query, {m:,} keys", calls, reach, reach.split()[-1]))
    return rows


def derived() -> list[Row]:
    """What is measured against our own dense attention, or runs on the same tiles."""
    rows = []
    n = 2048
    q1, k1, q2, k2, v1 = (floats(n, 64) for _ in range(5))
    rows.append(
        Row(
            f"differential, n {n:,}",
            {
                "sona": lambda: sa.differential_attention(q1, k1, q2, k2, v1, 0.5),
                "own flash": lambda: sa.flash_attention(q1, k1, v1),
                "numpy": lambda: peers.softmax_numpy(q1, k1, v1) - np.float32(0.5) * peers.softmax_numpy(q2, k2, v1),
            },
            "≤ 1.6 × own flash",
            "own flash",
        )
    )
    # The diagonal and others at random, a quarter of all blocks.
    blocks = n // 64
    layout = np.eye(blocks, dtype=bool)
    rest = np.flatnonzero(~layout)
    layout.flat[RNG.permutation(rest)[: blocks * blocks // 4 - blocks]] = True
    density = layout.mean()
    dense = np.kron(layout, np.ones((64, 64), dtype=bool))
    calls: dict[str, Callable[[], Any]] = {
        "sona": lambda: sa.block_sparse_attention(q1, k1, v1, layout, causal=False),
        "own flash": lambda: sa.flash_attention(q1, k1, v1),
    }
    if torch:
        t1 = [torch.from_numpy(x[None]) for x in (q1, k1, v1)]
        mask = torch.from_numpy(dense)
        calls["torch"] = lambda: peers.softmax_torch(*t1, mask=mask)
    rows.append(Row(f"block-sparse, density {density:.2f}, n {n:,}", calls, "≤ .36 × own flash", "own flash"))
    for n in (2048, 8192):
        q, k, v = floats(n, 64), floats(n, 64), floats(n, 64)
        rows.append(
            Row(
                f"local-global, w 128 + 4, n {n:,}",
                {
                    "sona": lambda q=q, k=k, v=v: sa.local_global_attention(q, k, v, window=128, global_idx=4),
                    "numpy": lambda q=q, k=k, v=v: peers.local_global_numpy(q, k, v, 128, 4),
                },
                "≤ .6 × numpy",
                "numpy",
            )
        )
    for n in (512, 2048):
        q, k, v = (0.4 * x / np.linalg.norm(x, axis=1, keepdims=True) for x in (floats(n, 64) for _ in range(3)))
        rows.append(
            Row(
                f"Poincaré, n {n:,}",
                {
                    "sona": lambda q=q, k=k, v=v: sa.hyperbolic_attention(q, k, v),
                    "numpy": lambda q=q, k=k, v=v: peers.poincare_numpy(q, k, v),
                },
                "≤ .35 × numpy",
                "numpy",
            )
        )
    x = floats(1, 512, 64)
    layer = sa.MoEAttention(64, 64, 4, top_k=2)
    calls = {"sona": lambda: layer(x)}
    if torch:
        state = {name: torch.from_numpy(np.array(value)) for name, value in layer.state_dict().items()}
        xt = torch.from_numpy(x)
        calls["torch"] = lambda: peers.mixture_torch(xt, state, 2)
    rows.append(Row("MoE, 4 experts, top 2, width 64, n 512", calls, "≤ .6 × torch", "torch", tolerance=1e-4))
    return rows


def linear() -> list[Row]:
    rows = []
    for n in (512, 2048, 8192):
        q, k, v = (floats(n, 64) for _ in range(3))
        omega = sa.random_features(64, 128).astype(np.float32)
        calls: dict[str, Callable[[], Any]] = {
            "sona": lambda q=q, k=k, v=v, omega=omega: sa.linear_attention(q, k, v, features=omega),
            "numpy": lambda q=q, k=k, v=v, omega=omega: peers.favor_numpy(q, k, v, omega),
        }
        if torch:
            t = [torch.from_numpy(x) for x in (q, k, v, omega)]
            calls["torch"] = lambda t=t: peers.favor_torch(*t)
        rows.append(Row(f"FAVOR+, 128 features, n {n:,}", calls, "≤ .5 × numpy", "numpy", tolerance=1e-4))
    for n in (2048, 8192):
        q, k, v = (floats(n, 64) for _ in range(3))
        calls = {
            "sona": lambda q=q, k=k, v=v: sa.linear_attention(q, k, v, kernel="elu"),
            "numpy": lambda q=q, k=k, v=v: peers.elu_numpy(q, k, v),
        }
        if torch:
            t = [torch.from_numpy(x) for x in (q, k, v)]
            calls["torch"] = lambda t=t: peers.elu_torch(*t)
        rows.append(Row(f"elu linear, n {n:,}", calls, "≤ .6 × torch", "torch", tolerance=1e-4))
    return rows


def others() -> list[Row]:
    rows = []
    for steps, reach in ((512, "≤ .28 × numba"), (2048, "≤ .28 × numba")):
        d, n = 128, 16
        u, delta, b, c = floats(steps, d), floats(steps, d), floats(steps, n), floats(steps, n)
        a = -np.exp(floats(d, n))
        calls: dict[str, Callable[[], Any]] = {
            "sona": lambda u=u, delta=delta, a=a, b=b, c=c: sa.selective_scan(u, delta, a, b, c).y,
            "numpy": lambda u=u, delta=delta, a=a, b=b, c=c: peers.scan_numpy(u, delta, a, b, c),
        }
        if peers.scan_numba:
            calls["numba"] = lambda u=u, delta=delta, a=a, b=b, c=c: peers.scan_numba(u, delta, a, b, c)
        rows.append(Row(f"selective scan, d 128, N 16, L {steps:,}", calls, reach, "numba", tolerance=1e-3))
    bits_a, bits_b = (RNG.integers(2, size=(100, 10_000)).astype(bool) for _ in range(2))
    wa, wb = sa.hdc_pack(bits_a), sa.hdc_pack(bits_b)
    rows.append(
        Row(
            "hypervectors, 100 × 100 similarities, 10,000 bits",
            {
                "sona": lambda: sa.hdc_similarity(wa, wb, dim=10_000),
                "numpy": lambda: peers.similarity_numpy(wa, wb, 10_000),
            },
            "≤ .051 × numpy",
            "numpy",
        )
    )
    x = floats(16_384)
    calls = {"sona": lambda: sa.k_winners(x, 64), "numpy": lambda: peers.winners_numpy(x, 64)}
    if torch:
        xt = torch.from_numpy(x)
        calls["torch"] = lambda: torch.topk(xt, 64)[1]
    rows.append(Row("k winners, n 16,384, k 64", calls, "≤ .25 × torch", "torch"))
    return rows


GROUPS = {"softmax": softmax, "derived": derived, "linear": linear, "others": others}


def set_threads(n: int) -> None:
    sa.set_num_threads(n)
    if torch:
        torch.set_num_threads(n)


def check(row: Row) -> None:
    """All contenders but the yardsticks agree, and sona gives the same bits on two threads."""
    set_threads(1)
    ours = np.asarray(row.calls["sona"]())
    set_threads(2)
    assert np.array_equal(ours, np.asarray(row.calls["sona"]())), f"{row.name}: threads change bits"
    set_threads(1)
    for who, call in row.calls.items():
        if who.startswith("own") or who == "sona":
            continue
        theirs = np.asarray(call()).reshape(ours.shape)
        worst = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
        assert worst <= row.tolerance, f"{row.name}: {who} differs by {worst}"


def sample(row: Row, rounds: int, seconds: float) -> dict[tuple[str, int], np.ndarray]:
    """Seconds per call, contenders taking turns."""
    lanes = [(who, t) for who in row.calls for t in ((1, 2) if row.threads and who != "numpy" else (1,))]
    # torch's second thread looks for more work, awake, for some milliseconds after its call. Its turn comes first and ours on
    # two threads last, with the turns on one thread between them, so that it keeps no processor from us.
    lanes.sort(key=lambda lane: (lane[1] == 2) * (1 if lane[0] == "sona" else -1))
    repeat = {}
    for who, t in lanes:
        set_threads(t)
        row.calls[who]()
        start = time.perf_counter()
        row.calls[who]()
        repeat[who, t] = max(1, int(seconds / (time.perf_counter() - start)))
    times: dict[tuple[str, int], list[float]] = {lane: [] for lane in lanes}
    for _ in range(rounds):
        for lane in lanes:
            set_threads(lane[1])
            call, n = row.calls[lane[0]], repeat[lane]
            start = time.perf_counter()
            for _ in range(n):
                call()
            times[lane].append((time.perf_counter() - start) / n)
    set_threads(1)
    return {lane: np.array(t) for lane, t in times.items()}


def unit(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def cell(t: np.ndarray | None) -> str:
    return "–" if t is None else f"{unit(float(np.median(t)))} ({unit(float(np.quantile(t, 0.1)))})"


def table(rows: list[Row], rounds: int, seconds: float) -> list[str]:
    out = ["| row | sona | numpy | torch | numba / own flash | ratio (p10) | reach |", "|---|---|---|---|---|---|---|"]
    twice = ["| row | sona, 1 | sona, 2 | ratio | torch, 1 | torch, 2 | sona / torch, 2 |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        check(row)
        t = sample(row, rounds, seconds)
        get = lambda who, n=1, t=t: t.get((who, n))  # noqa: E731
        base = get(row.base)
        other = get("numba") if get("numba") is not None else get("own flash")
        ours = t["sona", 1]
        ratio = "–"
        if base is not None:
            ratio = f"{np.median(ours) / np.median(base):.2f} ({np.quantile(ours, 0.1) / np.quantile(base, 0.1):.2f})"
        cells = [row.name, cell(ours), cell(get("numpy")), cell(get("torch")), cell(other), ratio, row.reach]
        out.append(f"| {' | '.join(cells)} |")
        if row.threads:
            two = t["sona", 2]
            share = f"{np.median(two) / np.median(ours):.2f}"
            theirs = get("torch", 2)
            against = "–" if theirs is None else f"{np.median(two) / np.median(theirs):.2f}"
            cells = [row.name, cell(ours), cell(two), share, cell(get("torch")), cell(theirs), against]
            twice.append(f"| {' | '.join(cells)} |")
        sys.stderr.write(out[-1] + "\n")
    if len(twice) > 2:
        out += ["", "Two threads:", "", *twice]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, separated by commas")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.004, help="a turn of one contender takes at least this long")
    parser.add_argument("--output", type=Path, default=ROOT / "benches" / "results" / "attention.md")
    args = parser.parse_args()
    versions = {"numpy": np.__version__}
    if torch:
        versions["torch"] = torch.__version__
    if peers.numba:
        versions["numba"] = peers.numba.__version__
    lines: list[str] = []
    for group in args.only.split(","):
        lines += ["", f"## {group.capitalize()}", "", *table(GROUPS[group](), args.rounds, args.seconds)]
    text = [
        "# Attention: measured",
        "",
        "Written by `python benches/python/bench_attention.py`; contenders take turns in one process, results compared first.",
        machine(**versions) + ".",
        "Median (10 % quantile) of one call from Python, float32, width 64 where nothing else is said, one thread; the ratio",
        "is against the contender that the target names. On a shared machine: compare within a row.",
        *lines,
        "",
    ]
    args.output.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
