"""Does the tension of a bank's neighbour graph foretell that retrieval over it fails?

The graph joins each of 600 Banking77 requests to its 8 nearest, weighted by cosine. Memories then leave at random or the
oldest intent first, 12 at a time; nothing is re-joined. After each step held-out requests look for their nearest memory by
greedy walks over the graph (beam 8, from one fixed entry), and success is the share that reach it. Reported, over seeds:
Spearman correlation of tension with failure over the steps until the graph is in pieces, that of two plain indicators, and
whether an active packet came before success first fell below .9 of its start.

    SONA_DATA=... python benches/research/tension.py
"""

from __future__ import annotations

import argparse
import heapq
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from sona.control import CoherenceMonitor, MinCut


def reached(query: np.ndarray, x: np.ndarray, rows: dict[int, set[int]], entry: int, beam: int = 8) -> int:
    """Nearest memory found by a best-first walk."""
    start = float(query @ x[entry])
    seen, todo, best = {entry}, [(-start, entry)], [(start, entry)]
    while todo:
        score, node = heapq.heappop(todo)
        if len(best) == beam and -score < best[0][0]:
            break
        for other in rows[node]:
            if other not in seen:
                seen.add(other)
                s = float(query @ x[other])
                heapq.heappush(todo, (-s, other))
                heapq.heappush(best, (s, other))
                if len(best) > beam:
                    heapq.heappop(best)
    return max(best)[1]


def run(x: np.ndarray, intent: np.ndarray, queries: np.ndarray, order: str, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    n = len(x)
    similar = x @ x.T
    np.fill_diagonal(similar, -1)
    rows: dict[int, set[int]] = {v: set() for v in range(n)}
    graph = MinCut(n)
    for v in range(n):
        for w in np.argsort(-similar[v])[:8]:
            rows[v].add(int(w))
            rows[int(w)].add(v)
            graph.set_edge(v, int(w), float(max(similar[v, w], 1e-3)))
    monitor = CoherenceMonitor(graph)
    left = list(rng.permutation(n)) if order == "random" else list(np.lexsort((rng.random(n), rng.permutation(77)[intent])))
    kept = int(left[-1])
    trace = []
    while len(left) > n // 4:
        alive = np.array(sorted(left))
        success = np.mean([reached(q, x, rows, kept) == alive[np.argmax(x[alive] @ q)] for q in queries])
        packet = monitor.observe()
        sizes = [len(rows[v]) for v in left]
        trace.append((1 - success, packet.tension, packet.active, graph.value, 1 / np.mean(sizes), 1 / min(sizes)))
        for v in left[:12]:
            # What leaves is tied to the entry by a heavy edge, so that it is no piece of its own.
            for w in list(rows[v]):
                rows[w].discard(v)
                graph.set_edge(v, w, 0.0)
            rows[v].clear()
            graph.set_edge(v, kept, 100.0)
        left = left[12:]
        if any(not rows[v] for v in left):
            break
    t = np.array(trace, dtype=float)
    failing = np.flatnonzero(t[:, 0] > 1 - 0.9 * (1 - t[0, 0]))
    active = np.flatnonzero(t[:, 2])

    def rank(column: int) -> float:
        return 0.0 if np.ptp(t[:, column]) == 0 or np.ptp(t[:, 0]) == 0 else float(spearmanr(t[:, 0], t[:, column])[0])

    return {
        "tension": rank(1),
        "1 / mean degree": rank(4),
        "1 / least degree": rank(5),
        "steps": float(len(t)),
        "fell": float(len(failing) > 0),
        "warned before": float(len(failing) > 0 and len(active) > 0 and active[0] < failing[0]),
        "active share": float(t[:, 2].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    data = Path(os.environ["SONA_DATA"])
    table = pq.read_table(data / "banking77.parquet").to_pandas()
    x = np.load(data / "banking77_minilm_fp16.npz")["x"].astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    intents = table.intent.astype("category").cat.codes.to_numpy()
    train, test = np.flatnonzero(table.split == "train"), np.flatnonzero(table.split == "test")
    print(
        "| memories leave | correlation with failure: tension | 1 / mean degree | 1 / least degree | "
        "retrieval fell | warned before |"
    )
    print("|---|---|---|---|---|---|")
    for order in ("random", "an intent at a time"):
        results = []
        for seed in range(args.seeds):
            rng = np.random.default_rng(seed)
            chosen = rng.choice(train, 600, replace=False)
            results.append(run(x[chosen], intents[chosen], x[rng.choice(test, 150, replace=False)], order.split()[0], seed))

        def shown(key: str, results=results) -> str:
            v = np.array([r[key] for r in results])
            return f"{v.mean():+.2f} ± {1.96 * v.std(ddof=1) / np.sqrt(len(v)):.2f}"

        fell, warned = (sum(r[k] for r in results) for k in ("fell", "warned before"))
        print(
            f"| {order} | {shown('tension')} | {shown('1 / mean degree')} | {shown('1 / least degree')} | "
            f"{fell:.0f} of {len(results)} | {warned:.0f} |"
        )


if __name__ == "__main__":
    main()
