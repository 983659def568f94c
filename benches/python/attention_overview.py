"""Cost of every attention mechanism, and how far those that approximate softmax attention are from it.

Prints a Markdown table: ``python benches/python/attention_overview.py [threads]``. Times are minima of several calls in one
process; errors are on q, k, v of unit variance (sequence length and widths as printed).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import sona.attention as at
from sona.attention import layouts

HEADS, LENGTH, WIDTH = 8, 2048, 64
Call = Callable[[], Any]


def milliseconds(call: Call) -> float:
    call()
    best, spent = float("inf"), 0.0
    while spent < 1.0 or best == float("inf"):
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return best * 1e3


def error(got: np.ndarray, exact: np.ndarray) -> str:
    """Largest error, and the error's share of the norm."""
    return f"{np.abs(got - exact).max():.2g} ({np.linalg.norm(got - exact) / np.linalg.norm(exact):.0%} of the norm)"


def sequences(rng: np.random.Generator) -> list[tuple[str, str, Call, str]]:
    q, k, v = rng.normal(size=(3, HEADS, LENGTH, WIDTH)).astype(np.float32)
    exact = at.flash_attention(q, k, v)
    causal = at.flash_attention(q, k, v, causal=True)
    size = f"{HEADS} heads, n = {LENGTH}, d = {WIDTH}"
    near = layouts.local(LENGTH, block=64, context=512)
    x = rng.normal(size=(1, LENGTH, HEADS * WIDTH)).astype(np.float32)
    wide = rng.normal(size=(LENGTH, 128)).astype(np.float32)
    maps = rng.normal(size=(LENGTH, 16)).astype(np.float32)
    decay = -np.ones((128, 16), np.float32)
    words = at.hdc_pack(rng.random((LENGTH, 10_000)) < 0.5)
    ball = 0.05 * q[:1, :512]
    multi, mixture = at.MultiHeadAttention(HEADS * WIDTH, HEADS), at.MoEAttention(HEADS * WIDTH, WIDTH, 8, top_k=2)
    block = at.MambaBlock(HEADS * WIDTH)

    def close(call: Call, against: np.ndarray) -> str:
        return error(call(), against)

    window = lambda: at.local_global_attention(q, k, v, window=256, global_idx=4)  # noqa: E731
    blocks = lambda: at.block_sparse_attention(q, k, v, near)  # noqa: E731
    favor = lambda: at.linear_attention(q, k, v, features=256)  # noqa: E731
    elu = lambda: at.linear_attention(q, k, v, kernel="elu")  # noqa: E731
    scan = lambda: at.selective_scan(wide, wide, decay, maps, maps)  # noqa: E731
    hypervectors = lambda: at.hdc_attention(words, words, wide, dim=10_000)  # noqa: E731
    return [
        ("scaled_dot_product", size, lambda: at.scaled_dot_product_attention(q, k, v), "exact"),
        ("flash", size + ", causal", lambda: at.flash_attention(q, k, v, causal=True), "exact"),
        ("multi_head", f"one sequence of {LENGTH}, E = {HEADS * WIDTH}", lambda: multi(x), "exact"),
        ("local_global", size + ", window 256, 4 global", window, close(window, exact)),
        ("block_sparse", size + ", 512 tokens back, causal", blocks, close(blocks, causal)),
        ("linear (favor+)", size + ", 256 features", favor, close(favor, exact)),
        ("linear (elu)", size, elu, close(elu, exact)),
        ("differential", size, lambda: at.differential_attention(q, k, k, q, v, 0.5), "another function"),
        ("hopfield", size + ", 3 steps", lambda: at.hopfield_retrieve(q, k, steps=3, tol=0.0), "exact for one step"),
        ("hyperbolic", "1 head, n = 512, d = 64", lambda: at.hyperbolic_attention(ball, ball, ball), "another function"),
        ("moe", f"one sequence, D = {HEADS * WIDTH}, 2 of 8 experts of {WIDTH}", lambda: mixture(x), "another function"),
        ("mamba (scan)", f"L = {LENGTH}, 128 channels of 16 states", scan, "recurrent"),
        ("mamba (block)", f"one sequence, d_model = {HEADS * WIDTH}", lambda: block(x), "recurrent"),
        ("hdc", f"1 head, n = {LENGTH}, 10,000 bits", hypervectors, "another function"),
    ]


def graphs(rng: np.random.Generator) -> list[tuple[str, str, Call, str]]:
    n, e = 1000, 8000
    ends = np.sort(np.stack([rng.choice(n, 2, replace=False) for _ in range(e)]), axis=1)
    dag = at.Dag(n, ends, cost=rng.exponential(size=n), edge_cost=rng.exponential(size=e))
    size = f"n = {n}, e = {e}"
    x, edges = rng.normal(size=(n, 64)).astype(np.float32), ends.T.copy()
    w = rng.normal(size=(64, 64)).astype(np.float32)
    a, b = rng.normal(size=(2, 4, 16)).astype(np.float32)
    bias = np.zeros(64, np.float32)
    blame = at.TemporalBTSP(100)

    def episode() -> None:
        for i in range(100):
            blame.observe(i, 0.05 * i)
        blame.plateau(5.0)
        blame.end_episode(10.0)

    scores = "scores of nodes"
    return [
        ("dag_topological", size, lambda: at.dag_topological(dag), scores),
        ("dag_causal_cone", size, lambda: at.dag_causal_cone(dag, n - 1), scores),
        ("dag_critical_path", size, lambda: at.dag_critical_path(dag), scores),
        ("dag_mincut_gated", size, lambda: at.dag_mincut_gated(dag), scores),
        ("dag_hierarchical_lorentz", size + ", one node", lambda: at.dag_hierarchical_lorentz(dag, node=0), scores),
        ("dag_parallel_branch", size, lambda: at.dag_parallel_branch(dag), scores),
        ("temporal_btsp", "100 events in one episode", episode, scores),
        ("gat", size + ", 4 heads of 16", lambda: at.gat_conv(x, edges, w, a, b, heads=4), "learned"),
        ("gcn", size + ", 64 → 64", lambda: at.gcn_conv(x, edges, w), "learned"),
        ("sage", size + ", 64 → 64", lambda: at.sage_conv(x, edges, w, bias, w), "learned"),
    ]


def nervous(rng: np.random.Generator) -> list[tuple[str, str, Call, str]]:
    slots, modules = rng.normal(size=(8, 64)).astype(np.float32), rng.normal(size=(1024, 64)).astype(np.float32)
    router, messages = at.OscillatoryRouter(100), rng.normal(size=(100, 64)).astype(np.float32)
    coder, stream = at.PredictiveCoder(64), np.cumsum(0.05 * rng.normal(size=(1000, 64)), axis=0)
    values = rng.normal(size=16_384).astype(np.float32)
    return [
        ("global_workspace", "1024 modules, 8 slots, d = 64", lambda: at.global_workspace(slots, modules, topk=16), "learned"),
        ("oscillatory", "100 oscillators, one message each", lambda: router.route(messages), "routing"),
        ("predictive", "1000 steps of 64 values", lambda: coder.encode_stream(stream), "error ≤ threshold"),
        ("k_winners", "64 of 16,384", lambda: at.k_winners(values, 64), "exact"),
    ]


def main() -> None:
    at.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    rng = np.random.default_rng(0)
    print(f"{at.get_num_threads()} thread(s), load {os.getloadavg()[0]:.2f}\n")
    print("| mechanism | size | ms | against exact softmax |\n|---|---|---|---|")
    for name, size, call, quality in [*sequences(rng), *graphs(rng), *nervous(rng)]:
        took = milliseconds(call)
        print(f"| {name} | {size} | {took:.3g} | {quality} |", flush=True)


if __name__ == "__main__":
    main()
