"""The fast adapter from Python: forward, batch, learning step, against numpy and whatever peers are installed.

``python benches/python/bench_lora.py`` writes ``benches/results/lora.md``. Contenders take turns in one process, their
results are compared before anything is timed, and numba and torch join in only where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine
from sona.lora import MicroLoRA
from sona.trajectory import LearningSignal

ROOT = Path(__file__).resolve().parents[2]
# The rate is so small that the adapter stays inside its trust region however often a step runs.
RANK, SCALE, RATE = 2, 2**-0.5, 1e-9
Call = Callable[[], Any]


def factors(d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(d)
    return (rng.normal(size=(RANK, d)) / d**0.5).astype(np.float32), (0.1 * rng.normal(size=(d, RANK))).astype(np.float32)


def numba_kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    from numba import njit

    @njit(fastmath=True)
    def forward(x, A, B, s, out):  # type: ignore[no-untyped-def]
        h0 = h1 = np.float32(0)
        for i in range(len(x)):
            h0 += A[0, i] * x[i]
            h1 += A[1, i] * x[i]
        h0, h1 = s * h0, s * h1
        for i in range(len(x)):
            out[i] = x[i] + h0 * B[i, 0] + h1 * B[i, 1]

    @njit(fastmath=True)
    def step(x, g, A, B, s, rate):  # type: ignore[no-untyped-def]
        h0 = h1 = b0 = b1 = np.float32(0)
        for i in range(len(x)):
            h0 += A[0, i] * x[i]
            h1 += A[1, i] * x[i]
            b0 += B[i, 0] * g[i]
            b1 += B[i, 1] * g[i]
        c = rate * s
        for i in range(len(x)):
            A[0, i] += c * b0 * x[i]
            A[1, i] += c * b1 * x[i]
            B[i, 0] += c * h0 * g[i]
            B[i, 1] += c * h1 * g[i]

    return forward, step


def forward_contenders(d: int, n: int | None) -> tuple[dict[str, Call], Callable[[], dict[str, np.ndarray]]]:
    """Calls that write y for one vector (``n`` None) or a batch into their own buffer, and those buffers."""
    A, B = factors(d)
    x = np.random.default_rng(1).normal(size=d if n is None else (n, d)).astype(np.float32)
    lora = MicroLoRA(d)
    lora.set_factors(A, B)
    outs: dict[str, np.ndarray] = {"sona": np.empty_like(x), "numpy": np.empty_like(x)}
    At, Bs = np.ascontiguousarray(A.T), np.ascontiguousarray(SCALE * B.T)
    forward = lora.forward

    def by_numpy() -> None:
        np.matmul(x @ At, Bs, out=outs["numpy"])
        np.add(outs["numpy"], x, out=outs["numpy"])

    calls: dict[str, Call] = {"sona": lambda: forward(x, out=outs["sona"]), "numpy": by_numpy}
    if n is None and importlib.util.find_spec("numba"):
        kernel, _ = numba_kernels()
        s, out = np.float32(SCALE), outs.setdefault("numba", np.empty_like(x))
        calls["numba"] = lambda: kernel(x, A, B, s, out)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        tx, tA, tB = torch.from_numpy(x), torch.from_numpy(At), torch.from_numpy(Bs)

        def by_torch() -> None:
            outs["torch"] = torch.addmm(tx.view(-1, d), tx.view(-1, d) @ tA, tB).numpy().reshape(x.shape)

        calls["torch"] = by_torch
    return calls, lambda: outs


def step_contenders(d: int) -> dict[str, Call]:
    """Calls that learn from one signal. Only ours clips, decays, keeps the trust region and publishes for readers."""
    A, B = factors(d)
    rng = np.random.default_rng(2)
    x, g = rng.normal(size=(2, d)).astype(np.float32)
    signal = LearningSignal(x, g, 0.5)
    calls: dict[str, Call] = {}
    bare = {"clip_norm": None, "trust_region": None, "weight_decay": 0.0}
    for name, options in (("safeguards off", bare), ("safeguards on", {})):
        for optimizer in ("sgd", "adamw"):
            loras = [MicroLoRA(d, optimizer=optimizer, learning_rate=RATE, **options) for _ in range(2)]
            for lora in loras:
                lora.set_factors(A, B)
            accumulate, apply = loras[0].accumulate_gradient, loras[0].apply_accumulated

            def in_two(accumulate=accumulate, apply=apply) -> None:  # type: ignore[no-untyped-def]
                accumulate(signal)
                apply()

            calls[f"sona {optimizer}, {name}, accumulate and apply"] = in_two
            calls[f"sona {optimizer}, {name}, learn"] = lambda learn=loras[1].learn: learn(signal)
    An, Bn = A.copy(), B.copy()

    def by_numpy() -> None:
        h, back = An @ x, g @ Bn
        np.add(An, (RATE * SCALE) * np.outer(back, x), out=An)
        np.add(Bn, (RATE * SCALE) * np.outer(g, h), out=Bn)

    calls["numpy sgd"] = by_numpy
    if importlib.util.find_spec("numba"):
        _, kernel = numba_kernels()
        Aj, Bj, s, rate = A.copy(), B.copy(), np.float32(SCALE), np.float32(RATE)
        calls["numba sgd"] = lambda: kernel(x, g, Aj, Bj, s, rate)
    if importlib.util.find_spec("torch"):
        import torch

        tA, tB = torch.from_numpy(A.copy()).requires_grad_(), torch.from_numpy(B.copy()).requires_grad_()
        tx, tg = torch.from_numpy(x), torch.from_numpy(g)
        optimizer_ = torch.optim.SGD([tA, tB], lr=RATE)

        def by_torch() -> None:
            optimizer_.zero_grad()
            (-(tx + SCALE * tB @ (tA @ tx)) @ tg).backward()
            optimizer_.step()

        calls["torch autograd sgd"] = by_torch
    return calls


def interleaved(calls: dict[str, Call], rounds: int, calls_per_sample: int) -> dict[str, np.ndarray]:
    """Nanoseconds per call: one sample of each contender in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(20):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            for _ in range(calls_per_sample):
                call()
            times[name].append((time.perf_counter_ns() - start) / calls_per_sample)
    return {name: np.array(t) for name, t in times.items()}


def rows(title: str, times: dict[str, np.ndarray], per: int = 1) -> list[str]:
    ours = np.percentile(times[next(iter(times))], 10) / per
    out = []
    for name, t in times.items():
        p10, p50 = np.percentile(t, [10, 50]) / per
        out.append(f"| {title} | {name} | {p10:.0f} | {p50:.0f} | {p10 / ours:.2f} |")
    return out


def check(outs: dict[str, np.ndarray]) -> None:
    for name, y in outs.items():
        np.testing.assert_allclose(y, outs["sona"], rtol=1e-4, atol=1e-4, err_msg=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--output", type=Path, default=ROOT / "benches" / "results" / "lora.md")
    args = parser.parse_args()
    peers = {name: version(name) for name in ("numpy", "numba", "torch") if importlib.util.find_spec(name)}
    before = machine(**peers)
    body = []
    empty = interleaved({"empty Python call": lambda: None}, args.rounds, 200)
    body += rows("calling anything", empty)
    for d in (256, 384, 768, 4096):
        calls, outs = forward_contenders(d, None)
        for call in calls.values():
            call()
        check(outs())
        body += rows(f"forward, d {d}", interleaved(calls, args.rounds, 200))
    for d in (256, 768):
        calls, outs = forward_contenders(d, 1024)
        for call in calls.values():
            call()
        check(outs())
        body += rows(f"forward, batch 1024, d {d}, per vector", interleaved(calls, args.rounds // 3, 3), per=1024)
    ratios = ["| d | safeguards | accumulate and apply | learn |", "|---|---|---|---|"]
    for d in (256, 768):
        times = interleaved(step_contenders(d), args.rounds, 100)
        body += rows(f"learning step, d {d}", times)
        p10 = {name: np.percentile(t, 10) for name, t in times.items()}
        for name in ("off", "on"):
            pair = [
                p10[f"sona adamw, safeguards {name}, {how}"] / p10[f"sona sgd, safeguards {name}, {how}"]
                for how in ("accumulate and apply", "learn")
            ]
            ratios.append(f"| {d} | {name} | {pair[0]:.2f} | {pair[1]:.2f} |")
    missing = [name for name in ("numba", "torch") if name not in peers]
    lines = [
        "# Adapters: measured",
        "",
        "Written by `python benches/python/bench_lora.py`. Nanoseconds per call from Python, contenders interleaved in one",
        "process, results compared first. p10 is the fastest tenth, which other load disturbs least; the ratio is to the first",
        "contender of the row, by p10. One thread. Every timed call goes through a Python lambda: the first row is its cost.",
        *([f"Not installed, so not measured: {', '.join(missing)}."] if missing else []),
        "",
        f"Machine: {before}.",
        "",
        "| what | contender | p10 ns | median ns | ratio |",
        "|---|---|---|---|---|",
        *body,
        "",
        "A learning step of ours checks its input, counts, and publishes the factors for readers; with safeguards on it clips,",
        "decays and keeps the trust region. The peers do none of that. AdamW against SGD, same call, by p10:",
        "",
        *ratios,
        "",
    ]
    args.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
