"""Cuts, placement, gates, and the hyperbolic hierarchy, against definitions by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dag_reference import dags, neighbours, sides, smallest_cut
from sona.attention import (
    Dag,
    GatePacket,
    GateSkipped,
    GraphError,
    ParameterError,
    ShapeError,
    dag_hierarchical_lorentz,
    dag_mincut_gated,
    dag_topological,
    dag_two_site_placement,
    get_num_threads,
    set_num_threads,
)


@given(dags(most=8, parallel=True))
def test_cut_is_the_smallest_minimum(case):
    n, edges, _, _ = case
    volume = np.random.default_rng(n).integers(0, 4, len(edges)).astype(float)
    after, before = neighbours(n, edges)
    sources = [v for v in range(n) if after[v] and not before[v]]
    sinks = [v for v in range(n) if before[v] and not after[v]]
    value, side = smallest_cut(n, edges, volume, sources, sinks)
    r = dag_mincut_gated(Dag(n, edges, edge_cost=volume), floor=0.25)
    assert r.extras["cut_value"] == value
    np.testing.assert_array_equal(r.extras["side"], side)
    crossing = [i for i, (u, v) in enumerate(edges) if side[u] and not side[v]]
    np.testing.assert_array_equal(r.extras["cut_edges"], crossing)
    raw = np.zeros(n)
    for i, (u, v) in enumerate(edges):
        raw[[u, v]] += volume[i] * ((i in crossing) + 0.25)
    raw = raw if raw.sum() else np.ones(n)
    np.testing.assert_allclose(r.scores, raw / raw.sum(), atol=1e-12)
    assert r.extras["gate_weight"] == 0.0


@given(dags(most=7), st.integers(0, 6), st.integers(0, 6), st.sampled_from(["both", "source", "sink"]))
def test_given_ends(case, source, sink, which):
    n, edges, _, volume = case
    source, sink = source % n, sink % n
    g = Dag(n, edges, edge_cost=volume)
    if which == "both" and source == sink:
        with pytest.raises(ParameterError):
            dag_mincut_gated(g, source=source, sink=sink)
        return
    after, before = neighbours(n, edges)
    sources = [source] if which != "sink" else [v for v in range(n) if after[v] and not before[v] and v != sink]
    sinks = [sink] if which != "source" else [v for v in range(n) if before[v] and not after[v] and v != source]
    r = dag_mincut_gated(g, source=source if which != "sink" else None, sink=sink if which != "source" else None)
    value, side = smallest_cut(n, edges, volume, sources, sinks)
    assert r.extras["cut_value"] == value
    np.testing.assert_array_equal(r.extras["side"], side)


def test_ties_of_decimal_volumes_and_wide_ranges():
    # 0.1 + 0.2 is not 0.3 in floats: the cut before node 2 is smaller by one unit in the last place.
    g = Dag(4, [(0, 2), (1, 2), (2, 3)], edge_cost=[0.1, 0.2, 0.3])
    r = dag_mincut_gated(g)
    np.testing.assert_array_equal(r.extras["side"], [True, True, True, False])
    assert r.extras["cut_value"] == 0.3
    # Volumes in bytes over twelve orders of magnitude.
    g = Dag(4, [(0, 1), (1, 2), (2, 3)], edge_cost=[1e12, 3.0, 2.0])
    assert dag_mincut_gated(g).extras["cut_value"] == 2.0
    for scale in (1e-300, 1e300):
        g = Dag(4, [(0, 1), (1, 2), (2, 3)], edge_cost=np.array([5.0, 2.0, 2.0]) * scale)
        np.testing.assert_array_equal(dag_mincut_gated(g).extras["side"], [True, True, False, False])


@settings(deadline=None)
@given(dags(most=8), st.integers(0, 2**32 - 1))
def test_placement_is_the_best_of_all(case, seed):
    n, edges, _, volume = case
    a, b = np.random.default_rng(seed).integers(0, 6, (2, n)).astype(float)

    def total(site):
        return np.where(site, b, a).sum() + sum(c for (u, v), c in zip(edges, volume, strict=True) if site[u] != site[v])

    r = dag_two_site_placement(Dag(n, edges, edge_cost=volume), a, b)
    assert r.total == min(total(s) for s in sides(n)) == total(r.site)


@settings(deadline=None)
@given(dags(most=8, parallel=True))
def test_global_cut_by_enumeration(case):
    n, edges, _, _ = case
    volume = np.random.default_rng(len(edges)).integers(0, 5, len(edges)).astype(float)
    best = min(
        (sum(c for (u, v), c in zip(edges, volume, strict=True) if s[u] != s[v]) for s in sides(n) if any(s) and not all(s)),
        default=0.0,
    )
    packet = GatePacket.from_dag(Dag(n, edges, edge_cost=volume))
    assert packet.lam == packet.lam_prev == best
    assert GatePacket.from_dag(Dag(n, edges, edge_cost=volume), lam_prev=2.0).lam_prev == 2.0


def test_gate():
    g = Dag(4, [(0, 1), (1, 2), (2, 3)], edge_cost=[3.0, 1.0, 2.0])
    cut, plain = dag_mincut_gated(g).scores, dag_topological(g, decay=0.9).scores
    for packet, weight in (
        (GatePacket(10.0, 10.0), 0.0),
        (GatePacket(11.0, 10.0), 0.0),
        (GatePacket(9.0, 10.0), 0.2),
        (GatePacket(1.0, 10.0), 1.0),
        (GatePacket(5.0, 0.0), 0.0),
        (GatePacket(10.0, 10.0, flags=GatePacket.FORCE_SAFE), 1.0),
    ):
        r = dag_mincut_gated(g, gate=packet)
        assert r.extras["gate_weight"] == pytest.approx(weight)
        np.testing.assert_allclose(r.scores, (1 - weight) * cut + weight * plain)
    for flags in (GatePacket.SKIP, GatePacket.SKIP | GatePacket.FORCE_SAFE):
        with pytest.raises(GateSkipped):
            dag_mincut_gated(g, gate=GatePacket(1.0, 1.0, flags=flags))
    with pytest.raises(ParameterError):
        GatePacket(np.nan, 1.0)
    with pytest.raises(ParameterError):
        dag_mincut_gated(g, threshold=0.0)
    with pytest.raises(ParameterError):
        dag_mincut_gated(g, floor=-1.0)
    with pytest.raises(GraphError):
        dag_mincut_gated(g, source=4)
    with pytest.raises(ShapeError):
        dag_two_site_placement(g, [1.0], [1.0])
    with pytest.raises(ParameterError):
        dag_two_site_placement(g, np.full(4, np.nan), np.ones(4))


def explicit_points(n, edges, step):
    """Points of the hyperboloid, by frames from the root; parents."""
    level = Dag(n, edges).levels()
    _, before = neighbours(n, edges)
    parent = [max(before[v], key=lambda u: (level[u], -u)) if before[v] else n for v in range(n)]
    children = [[v for v in range(n) if parent[v] == p] for p in range(n + 1)]

    def turn(angle):
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])

    c, s = math.cosh(step), math.sinh(step)
    boost = np.array([[c, s, 0], [s, c, 0], [0, 0, 1]])
    frame = {n: np.eye(3)}
    todo = [n]
    while todo:
        p = todo.pop()
        above = int(p != n)
        degree = len(children[p]) + above
        for i, v in enumerate(children[p]):
            # Half a turn: at the child, the parent is at angle 0.
            frame[v] = frame[p] @ turn(2 * math.pi * (i + above) / degree) @ boost @ turn(math.pi)
            todo.append(v)
    return np.array([frame[v][:, 0] for v in range(n)]), [p if p < n else -1 for p in parent]


@given(dags(most=9), st.sampled_from([0.3, 1.0, 2.0]), st.sampled_from([0.5, 1.0, 3.0]))
def test_distances_are_those_of_points_on_the_hyperboloid(case, step, curvature):
    n, edges, _, _ = case
    points, parent = explicit_points(n, edges, step)
    inner = points @ np.diag([-1.0, 1.0, 1.0]) @ points.T
    # The product of two points errs by what the product of their first coordinates loses, and those grow with depth.
    slack = 64 * np.finfo(np.float64).eps * np.outer(points[:, 0], points[:, 0])
    g = Dag(n, edges)
    r = dag_hierarchical_lorentz(g, step=step, curvature=curvature, temperature=0.7)
    np.testing.assert_array_equal(r.extras["parent"], parent)
    d = r.extras["distance"]
    got = np.cosh(d * math.sqrt(curvature))
    assert (np.abs(got + inner) <= 1e-12 * got + slack).all(), np.abs(got + inner).max()
    np.testing.assert_array_equal(d, d.T)
    assert (d.diagonal() == 0.0).all()
    weights = np.exp(-d / (step * 0.7))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(r.scores, weights.mean(axis=0), rtol=1e-12)
    for v in range(n):
        one = dag_hierarchical_lorentz(g, node=v, step=step, curvature=curvature, temperature=0.7)
        np.testing.assert_allclose(one.extras["distance"], d[v], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(one.scores, weights[v], rtol=1e-12)


def test_long_chains_neither_overflow_nor_cancel():
    n = 5000
    g = Dag(n, [(i, i + 1) for i in range(n - 1)])
    for step in (3.5, 300.0):
        d = dag_hierarchical_lorentz(g, node=0, step=step).extras["distance"]
        np.testing.assert_allclose(d, step * np.arange(n), rtol=1e-12)
    tiny = dag_hierarchical_lorentz(g, node=0, step=1e-9).extras["distance"]
    np.testing.assert_allclose(tiny, 1e-9 * np.arange(n), rtol=1e-9)


@pytest.mark.parametrize("shape", ["random", "ternary", "caterpillar"])
def test_distance_follows_the_tree(shape):
    """At steps of 3.5 the distance in the plane is the distance in the tree, nearly."""
    n, rng = 121, np.random.default_rng(0)
    if shape == "random":
        edges = [(int(rng.integers(j)), j) for j in range(1, n)]
    elif shape == "ternary":
        edges = [((j - 1) // 3, j) for j in range(1, n)]
    else:
        edges = [(j - 1 if j < 60 else j - 60, j) for j in range(1, n)]
    hops = np.where(np.eye(n, dtype=bool), 0, np.inf)
    for u, v in edges:
        hops[u, v] = hops[v, u] = 1
    for k in range(n):
        hops = np.minimum(hops, hops[:, k : k + 1] + hops[k])
    d = dag_hierarchical_lorentz(Dag(n, edges)).extras["distance"]
    off = ~np.eye(n, dtype=bool)
    assert np.corrcoef(d[off], hops[off])[0, 1] >= 0.98
    ratio = d[off] / hops[off]
    assert ratio.max() / ratio.min() <= 2.5


def test_threads_change_no_bit():
    before = get_num_threads()
    rng = np.random.default_rng(1)
    n = 400
    edges = np.array([(int(rng.integers(j)), j) for j in range(1, n) for _ in range(2)])
    g = Dag(n, edges, rng.random(n), rng.random(len(edges)))
    try:
        results = []
        for threads in (1, 2):
            set_num_threads(threads)
            results.append(dag_hierarchical_lorentz(g))
    finally:
        set_num_threads(before)
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
    np.testing.assert_array_equal(results[0].extras["distance"], results[1].extras["distance"])


def test_large_cut_equals_flow_conservation():
    """On a layered graph the cut value equals the greatest flow found by augmenting paths in plain Python."""
    rng = np.random.default_rng(7)
    layers, each = 6, 12
    edges = np.array(
        [
            (layer * each + int(u), (layer + 1) * each + v)
            for layer in range(layers - 1)
            for v in range(each)
            for u in rng.choice(each, 3, replace=False)
        ]
    )
    volume = rng.integers(1, 50, len(edges)).astype(float)
    n = layers * each
    room: dict[tuple[int, int], float] = {}
    for (u, v), c in zip(edges.tolist(), volume, strict=True):
        room[u, v] = room.get((u, v), 0.0) + c
        room.setdefault((v, u), 0.0)
    after, before = neighbours(n, edges)
    for v in range(n):
        if after[v] and not before[v]:
            room[n, v], room[v, n] = math.inf, 0.0
        if before[v] and not after[v]:
            room[v, n + 1], room[n + 1, v] = math.inf, 0.0
    links: dict[int, list[int]] = {}
    for u, v in room:
        links.setdefault(u, []).append(v)
    flow = 0.0
    while True:
        came, todo = {n: n}, [n]
        while todo and n + 1 not in came:
            u = todo.pop(0)
            for v in links.get(u, []):
                if v not in came and room[u, v] > 0:
                    came[v] = u
                    todo.append(v)
        if n + 1 not in came:
            break
        path = [n + 1]
        while path[-1] != n:
            path.append(came[path[-1]])
        steps = list(zip(path[1:], path, strict=False))
        amount = min(room[s] for s in steps)
        for u, v in steps:
            room[u, v] -= amount
            room[v, u] += amount
        flow += amount
    r = dag_mincut_gated(Dag(n, edges, edge_cost=volume))
    assert r.extras["cut_value"] == flow
