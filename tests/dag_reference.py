"""Definitions of the DAG mechanisms in plain Python, by enumeration: slow, and independent of the package."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import strategies as st


def random_dag(rng, n, density):
    """Edges of a random graph whose numbers say nothing about its order."""
    name = rng.permutation(n)
    pairs = [(int(name[i]), int(name[j])) for i in range(n) for j in range(i + 1, n) if rng.random() < density]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@st.composite
def dags(draw, most=9, parallel=False):
    """n, edges (E, 2), node costs, edge costs; costs are small integers, so ties are common."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = random_dag(rng, n, draw(st.sampled_from([0.1, 0.3, 0.6])))
    if parallel and len(edges):
        edges = np.concatenate([edges, edges[rng.integers(len(edges), size=2)]])
    return n, edges, rng.integers(0, 4, n).astype(float), rng.integers(0, 4, len(edges)).astype(float)


def neighbours(n, edges):
    """Successors and predecessors as sets."""
    after, before = [set() for _ in range(n)], [set() for _ in range(n)]
    for u, v in edges:
        after[u].add(int(v))
        before[v].add(int(u))
    return after, before


def reachable(n, edges):
    """Bool matrix, [u, v]: a path of at least one edge leads from u to v."""
    reach = np.zeros((n, n), dtype=bool)
    for u, v in edges:
        reach[u, v] = True
    for k in range(n):  # Warshall
        reach |= reach[:, k : k + 1] & reach[k]
    return reach


def paths(n, edges):
    """All paths from a source to a sink."""
    after, before = neighbours(n, edges)

    def onwards(v):
        if not after[v]:
            yield [v]
        for w in after[v]:
            for rest in onwards(w):
                yield [v, *rest]

    for v in range(n):
        if not before[v]:
            yield from onwards(v)


def gibbs(n, edges, cost, tau):
    """Probability of each node on a random path drawn by exp(cost / τ), and the soft makespan."""
    found = list(paths(n, edges))
    total = np.array([sum(cost[v] for v in p) for p in found])
    weight = np.exp((total - total.max()) / tau)
    probability = np.zeros(n)
    for p, w in zip(found, weight / weight.sum(), strict=True):
        probability[p] += w
    return probability, total.max() + tau * math.log(weight.sum()), total.max()


def sides(n):
    """All ways to give each node a side."""
    return itertools.product([False, True], repeat=n)


def smallest_cut(n, edges, volume, sources, sinks):
    """Value of the minimum cut, and the smallest source side of all minimum cuts, by trying all."""
    best, where = math.inf, None
    for side in sides(n):
        if not all(side[s] for s in sources) or any(side[t] for t in sinks):
            continue
        value = sum(c for (u, v), c in zip(edges, volume, strict=True) if side[u] and not side[v])
        if value < best or (value == best and sum(side) < sum(where)):
            best, where = value, side
    return best, np.array(where)


def widest(n, edges):
    """Size of the largest antichain, by trying all sets of nodes."""
    reach = reachable(n, edges)
    comparable = reach | reach.T
    best = 0
    for chosen in sides(n):
        index = np.flatnonzero(chosen)
        if len(index) > best and not comparable[np.ix_(index, index)].any():
            best = len(index)
    return best


def joins(n, edges):
    """Immediate post-dominator of each node, −1 for none: the nearest node whose removal cuts it off from all sinks."""
    after, _ = neighbours(n, edges)
    reach = reachable(n, edges)

    def escapes(v, without):
        seen, todo = {v}, [v]
        while todo:
            u = todo.pop()
            if not after[u]:
                return True
            for w in after[u] - seen - {without}:
                seen.add(w)
                todo.append(w)
        return False

    out = []
    for v in range(n):
        must = [w for w in range(n) if reach[v, w] and not escapes(v, w)]
        # Post-dominators form a chain: the nearest reaches all others.
        out.append(next((w for w in must if all(u == w or reach[w, u] for u in must)), -1))
    return out


def branches(n, edges):
    """(fork, join, nodes) of every branch."""
    after, before = neighbours(n, edges)
    reach, join = reachable(n, edges), joins(n, edges)
    out = []
    for fork in range(n):
        if len(after[fork]) < 2:
            continue
        inside = {v for v in range(n) if reach[fork, v] and (join[fork] < 0 or reach[v, join[fork]])}
        parts = []
        while inside:
            part, todo = set(), [min(inside)]
            while todo:
                v = todo.pop()
                if v in inside:
                    inside.discard(v)
                    part.add(v)
                    todo.extend(after[v] | before[v])
            parts.append(part)
        if len(parts) >= 2:
            out.extend((fork, join[fork], part) for part in parts)
    return out


def longest(nodes, edges, cost):
    """Cost of the costliest path within a set of nodes."""
    inside = [(u, v) for u, v in edges if u in nodes and v in nodes]
    finish = {v: cost[v] for v in nodes}
    for _ in nodes:
        for u, v in inside:
            finish[v] = max(finish[v], finish[u] + cost[v])
    return max(finish.values(), default=0.0)
