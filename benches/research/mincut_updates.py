"""What keeping an exact minimum cut costs, by the size of the graph.

Random graphs of 10 edges per node with weights in [.5, 1.5]. Updates change a random edge: half give an edge a new weight, a
quarter take one out, a quarter bring one in. Every 200th value is checked against a computation from nothing (up to 10,000
nodes).

    python benches/research/mincut_updates.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from sona.control import MinCut


def build(n: int, rng: np.random.Generator) -> tuple[MinCut, list[tuple[int, int]]]:
    graph, edges = MinCut(n), {}
    for v in range(1, n):
        edges[(int(rng.integers(v)), v)] = None
    while len(edges) < 10 * n if n > 21 else len(edges) < n * (n - 1) // 4:
        u, v = sorted(int(x) for x in rng.integers(n, size=2))
        if u != v:
            edges[(u, v)] = None
    for u, v in edges:
        graph.set_edge(u, v, float(rng.uniform(0.5, 1.5)))
    return graph, list(edges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--updates", type=int, default=2000)
    args = parser.parse_args()
    print(
        "| nodes | edges | loaded and computed from nothing, ms | update, µs: mean | p50 | p99 | "
        "unchanged / flow / anew, % | values checked |"
    )
    print("|---|---|---|---|---|---|---|---|")
    means = []
    for n in args.sizes:
        rng = np.random.default_rng(n)
        graph, edges = build(n, rng)
        fresh, checked, saved = [], 0, graph.to_bytes()
        for _ in range(3):
            start = time.perf_counter()
            assert MinCut.from_bytes(saved).value == graph.value
            fresh.append(time.perf_counter() - start)
        before, times = graph.stats, []
        updates = args.updates if n < 100_000 else args.updates // 4
        for i in range(updates):
            kind = rng.random()
            at = int(rng.integers(len(edges)))
            if kind < 0.25:
                u, v, w = *edges[at], 0.0
                edges[at] = edges[-1]
                edges.pop()
            elif kind < 0.5:
                u, v = (int(x) for x in rng.integers(n, size=2))
                if u == v or graph.weight(u, v) > 0:
                    continue
                edges.append((u, v))
                w = float(rng.uniform(0.5, 1.5))
            else:
                u, v, w = *edges[at], float(rng.uniform(0.5, 1.5))
            start = time.perf_counter()
            got = graph.set_edge(u, v, w)
            times.append(time.perf_counter() - start)
            if i % 200 == 0 and n <= 10_000:
                again = MinCut(n)
                for a, b in edges[:-1]:
                    again.set_edge(a, b, graph.weight(a, b))
                a, b = edges[-1]
                want = again.set_edge(a, b, graph.weight(a, b))
                checked += 1
                assert abs(got - want) < 1e-9 * (1 + want), (got, want)
        us = 1e6 * np.array(times)
        means.append(us.mean())
        delta = {k: graph.stats[k] - before[k] for k in before}
        share = " / ".join(f"{100 * delta[k] / sum(delta.values()):.0f}" for k in ("unchanged", "flow", "recompute"))
        anew = f"{1e3 * np.median(fresh):.2f}"
        print(
            f"| {n:,} | {len(edges):,} | {anew} | {us.mean():.1f} | {np.median(us):.2f} | "
            f"{np.quantile(us, 0.99):.0f} | {share} | {checked} |",
            flush=True,
        )
    slope = np.polyfit(np.log(args.sizes), np.log(means), 1)[0]
    print(f"\nThe mean cost of an update grows as n^{slope:.2f} over this range (least squares in logarithms).")


if __name__ == "__main__":
    main()
