"""DAGs and the mechanisms on their paths, against definitions by enumeration."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dag_reference import branches, dags, gibbs, joins, longest, paths, reachable, widest
from sona import SonaError
from sona.attention import (
    CycleError,
    Dag,
    DTypeError,
    GraphError,
    ParameterError,
    ShapeError,
    dag_causal_cone,
    dag_critical_path,
    dag_hierarchical_lorentz,
    dag_mask,
    dag_mincut_gated,
    dag_parallel_branch,
    dag_topological,
    scaled_dot_product_attention,
)


def levels(n, edges):
    """Longest distance from a source."""
    level = np.zeros(n, dtype=int)
    for _ in range(n):
        for u, v in edges:
            level[v] = max(level[v], level[u] + 1)
    return level


@given(dags(parallel=True))
def test_order_levels_and_reachability(case):
    n, edges, _, _ = case
    g = Dag(n, edges)
    order = g.topological_order()
    place = np.argsort(order)
    assert all(place[u] < place[v] for u, v in edges)
    # Of those available, the smallest first.
    done: set[int] = set()
    for v in order:
        ready = [w for w in range(n) if w not in done and all(u in done for u, x in edges if x == w)]
        assert v == min(ready)
        done.add(int(v))
    np.testing.assert_array_equal(g.levels(), levels(n, edges))
    reach = reachable(n, edges)
    np.testing.assert_array_equal(g.reachability(), reach)
    for v in range(n):
        np.testing.assert_array_equal(g.descendants(v), reach[v])
        np.testing.assert_array_equal(g.ancestors(v), reach[:, v])


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_cycle_is_named(n, seed):
    rng = np.random.default_rng(seed)
    edges = rng.integers(n, size=(2 * n, 2))
    try:
        Dag(n, edges)
    except CycleError as error:
        cycle, known = error.cycle, {(int(u), int(v)) for u, v in edges}
        assert all((a, b) in known for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True))
        assert len(set(cycle)) == len(cycle)
    else:
        assert not reachable(n, edges).diagonal().any()


def test_bad_graphs():
    with pytest.raises(CycleError) as caught:
        Dag(3, [(0, 1), (2, 2)])
    assert caught.value.cycle == [2]
    assert isinstance(caught.value, GraphError)
    assert isinstance(caught.value, SonaError)
    for edges in ([(0, 3)], [(-1, 0)], [(0, 1, 2)], [0, 1], [[0, 1], [2]]):
        with pytest.raises(GraphError):
            Dag(3, edges)
    with pytest.raises(DTypeError):
        Dag(3, [(0.0, 1.0)])
    with pytest.raises(DTypeError):
        Dag(2, [(0, 1)], cost=[1, 2])
    for cost in ([-1.0, 0.0], [np.nan, 0.0], [np.inf, 0.0]):
        with pytest.raises(ParameterError):
            Dag(2, [(0, 1)], cost=cost)
    with pytest.raises(ShapeError):
        Dag(2, [(0, 1)], cost=[1.0])
    with pytest.raises(ShapeError):
        Dag(2, [(0, 1)], edge_cost=[1.0, 2.0])
    with pytest.raises(ParameterError):
        Dag(-1, [])


def test_bad_parameters():
    g = Dag(3, [(0, 1), (1, 2)])
    for call in (
        lambda: dag_topological(g, decay=0.0),
        lambda: dag_topological(g, decay=1.5),
        lambda: dag_topological(g, direction="up"),
        lambda: dag_causal_cone(g, 0, direction="up"),
        lambda: dag_causal_cone(g, 0, metric="miles"),
        lambda: dag_causal_cone(g, 0, evidence=[np.nan, 0.0, 0.0]),
        lambda: dag_critical_path(g, temperature=0.0),
        lambda: dag_critical_path(g, workers=0),
        lambda: dag_parallel_branch(g, workers=0.5),
        lambda: dag_hierarchical_lorentz(g, curvature=-1.0),
        lambda: dag_hierarchical_lorentz(g, step=0.0),
        lambda: dag_hierarchical_lorentz(g, temperature=np.nan),
        lambda: dag_mask(g, "siblings"),
    ):
        with pytest.raises(ParameterError):
            call()
    for call in (
        lambda: g.ancestors(3),
        lambda: dag_causal_cone(g, -1),
        lambda: dag_hierarchical_lorentz(g, node=3),
        lambda: dag_mask(g, "cone", node=7),
    ):
        with pytest.raises(GraphError):
            call()
    with pytest.raises(ShapeError):
        dag_causal_cone(g, 0, evidence=[1.0])


def test_empty_and_single():
    for n in (0, 1):
        g = Dag(n, [])
        for r in (
            dag_topological(g),
            dag_critical_path(g),
            dag_critical_path(g, workers=2),
            dag_mincut_gated(g),
            dag_hierarchical_lorentz(g),
            dag_parallel_branch(g),
        ):
            np.testing.assert_array_equal(r.scores, np.ones(n))
        assert g.reachability().shape == dag_mask(g, "cone").shape == (n, n)
        assert dag_hierarchical_lorentz(g).extras["distance"].shape == (n, n)
        assert dag_parallel_branch(g).extras["branch_nodes"].shape == (0, n)


def every_score(g, node):
    """Scores of all mechanisms on one graph."""
    return {
        "topological": dag_topological(g).scores,
        "sinks": dag_topological(g, direction="sinks").scores,
        "cone": dag_causal_cone(g, node, direction="both", metric="cost").scores,
        "critical": dag_critical_path(g).scores,
        "workers": dag_critical_path(g, workers=3).scores,
        "cut": dag_mincut_gated(g).scores,
        "parallel": dag_parallel_branch(g).scores,
    }


@given(dags(parallel=True), st.randoms(use_true_random=False))
def test_scores_are_shares_and_follow_the_nodes(case, random):
    n, edges, cost, volume = case
    name = list(range(n))
    random.shuffle(name)
    name = np.array(name)
    node = random.randrange(n)
    here = every_score(Dag(n, edges, cost, volume), node)
    moved_cost = np.empty(n)
    moved_cost[name] = cost
    there = every_score(Dag(n, name[edges], moved_cost, volume), int(name[node]))
    for kind, s in here.items():
        assert s.min() >= 0.0
        assert s.sum() == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(there[kind][name], s, rtol=1e-9, atol=1e-12, err_msg=kind)
    lorentz = dag_hierarchical_lorentz(Dag(n, edges)).scores
    assert lorentz.min() > 0.0
    assert lorentz.sum() == pytest.approx(1.0, abs=1e-12)


@given(dags())
def test_earlier_nodes_weigh_more(case):
    n, edges, _, _ = case
    down, up = (dag_topological(Dag(n, edges), direction=d).scores for d in ("sources", "sinks"))
    assert all(down[u] > down[v] and up[u] < up[v] for u, v in edges)
    np.testing.assert_allclose(dag_topological(Dag(n, edges), decay=1.0).scores, 1 / n)


@given(dags(), st.sampled_from(["past", "future", "both"]), st.sampled_from(["hops", "cost"]))
def test_cone_is_all_and_only_the_relatives(case, direction, metric):
    n, edges, cost, _ = case
    g = Dag(n, edges, cost)
    reach = reachable(n, edges)
    for node in range(n):
        want = np.zeros(n, dtype=bool)
        want[node] = True
        if direction != "future":
            want |= reach[:, node]
        if direction != "past":
            want |= reach[node]
        r = dag_causal_cone(g, node, direction=direction, metric=metric, decay=0.5)
        np.testing.assert_array_equal(r.extras["cone"], want)
        np.testing.assert_array_equal(r.scores > 0, want)
        # Distances by relaxing every edge n times.
        weight = cost if metric == "cost" else np.ones(n)
        d = np.full(n, np.inf)
        for one_way in ([edges] if direction == "future" else [edges[:, ::-1]]) + ([edges] if direction == "both" else []):
            own = np.full(n, np.inf)
            own[node] = 0.0
            for _ in range(n):
                for u, v in one_way:
                    own[v] = min(own[v], own[u] + weight[v])
            d = np.minimum(d, own)
        np.testing.assert_array_equal(r.extras["distance"], d)
        want_scores = np.where(want, 0.5 ** np.where(want, d, 0.0), 0.0)
        np.testing.assert_allclose(r.scores, want_scores / want_scores.sum(), rtol=1e-12)


def test_cone_evidence():
    g = Dag(4, [(0, 1), (1, 2)])
    r = dag_causal_cone(g, 2, evidence=np.array([4.0, 0.0, 1.0, 9.0]), decay=0.5)
    np.testing.assert_allclose(r.scores, [0.5, 0.0, 0.5, 0.0])
    np.testing.assert_allclose(dag_causal_cone(g, 2, evidence=np.zeros(4)).scores, [1 / 3, 1 / 3, 1 / 3, 0])
    # Weights far below the smallest float still compare.
    far = Dag(3000, [(i, i + 1) for i in range(2999)])
    evidence = np.zeros(3000)
    evidence[:2] = 1.0
    s = dag_causal_cone(far, 2999, evidence=evidence, decay=0.5).scores
    np.testing.assert_allclose(s[:2], [1 / 3, 2 / 3])


@given(dags(most=8), st.sampled_from([0.02, 0.1, 1.0]))
def test_critical_path_by_enumeration(case, temperature):
    n, edges, cost, _ = case
    r = dag_critical_path(Dag(n, edges, cost), temperature=temperature)
    makespan = longest(set(range(n)), edges, cost)
    probability, soft, most = gibbs(n, edges, cost, temperature * makespan if makespan else temperature)
    assert most == r.extras["makespan"] == makespan
    np.testing.assert_allclose(r.extras["probability"], probability, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(r.scores, probability / probability.sum(), rtol=1e-9, atol=1e-12)
    assert r.extras["soft_makespan"] == pytest.approx(soft, rel=1e-9)
    np.testing.assert_array_equal(r.extras["saving"], r.extras["probability"] * cost)
    slack = np.full(n, np.inf)
    for p in paths(n, edges):
        slack[p] = np.minimum(slack[p], makespan - cost[p].sum())
    np.testing.assert_allclose(r.extras["slack"], slack, atol=1e-12)
    np.testing.assert_array_equal(r.extras["latest_start"], r.extras["earliest_start"] + r.extras["slack"])
    path = r.extras["path"]
    assert cost[path].sum() == makespan
    assert r.extras["slack"][path].max() == 0.0


def test_probability_is_the_gradient_of_the_soft_makespan():
    rng = np.random.default_rng(5)
    n = 12
    edges = np.array([(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.3])
    cost = rng.uniform(0.5, 2.0, n)

    def soft(c):
        makespan = dag_critical_path(Dag(n, edges, c)).extras["makespan"]
        return dag_critical_path(Dag(n, edges, c), temperature=0.3 / makespan).extras["soft_makespan"]

    r = dag_critical_path(Dag(n, edges, cost), temperature=0.3 / dag_critical_path(Dag(n, edges, cost)).extras["makespan"])
    h = 1e-5
    numeric = [(soft(cost + h * e) - soft(cost - h * e)) / (2 * h) for e in np.eye(n)]
    np.testing.assert_allclose(r.extras["probability"], numeric, atol=1e-8)


@given(dags(most=8))
def test_workers_weigh_total_work(case):
    n, edges, cost, _ = case
    g = Dag(n, edges, cost)
    plain = dag_critical_path(g)
    makespan, p = plain.extras["makespan"], 2
    r = dag_critical_path(g, workers=p)
    if makespan == 0.0:
        np.testing.assert_array_equal(r.scores, plain.scores)
        return
    bound = np.array([makespan, cost.sum() / p]) / (0.1 * makespan)
    pi = (np.exp(bound - bound.max()) / np.exp(bound - bound.max()).sum())[0]
    want = cost * (pi * plain.extras["probability"] + (1 - pi) / p)
    np.testing.assert_allclose(r.scores, want / want.sum(), rtol=1e-9, atol=1e-12)


@given(dags(most=8))
def test_parallel_branches_by_enumeration(case):
    n, edges, cost, _ = case
    e = dag_parallel_branch(Dag(n, edges, cost), workers=6)
    x = e.extras
    assert x["width"] == widest(n, edges)
    assert x["work"] == cost.sum()
    assert x["span"] == longest(set(range(n)), edges, cost)
    assert x["parallelism"] == (x["work"] / x["span"] if x["span"] else 1.0)
    want = branches(n, edges)
    got = zip(x["branch_fork"], x["branch_join"], x["branch_nodes"], strict=True)
    assert [(f, j, set(np.flatnonzero(nodes))) for f, j, nodes in got] == want
    by_fork: dict[int, list[int]] = {}
    for i, (fork, _, nodes) in enumerate(want):
        by_fork.setdefault(fork, []).append(i)
        assert x["branch_work"][i] == sum(cost[v] for v in nodes)
        assert x["branch_span"][i] == longest(nodes, edges, cost)
    for group in by_fork.values():
        work, span = x["branch_work"][group], x["branch_span"][group]
        share = work / work.sum() if work.sum() else np.full(len(group), 1 / len(group))
        np.testing.assert_allclose(x["branch_share"][group], share)
        np.testing.assert_allclose(x["branch_workers"][group], 6 * share)
        np.testing.assert_allclose(x["branch_wait"][group], span.max() - span)
    reach = reachable(n, edges)
    beside = ~(reach | reach.T | np.eye(n, dtype=bool))
    raw = cost * (beside @ cost)
    raw = raw if raw.sum() else cost if cost.sum() else np.ones(n)
    np.testing.assert_allclose(e.scores, raw / raw.sum(), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(60, 140), st.integers(0, 2**32 - 1))
def test_joins_of_large_graphs(n, seed):
    """More than 64 nodes: bit rows of several words, skip pointers of several lengths."""
    rng = np.random.default_rng(seed)
    edges = np.array([(int(rng.integers(max(0, j - 5), j)), j) for j in range(1, n) for _ in range(2)])
    x = dag_parallel_branch(Dag(n, edges)).extras
    join = joins(n, edges)
    assert all(join[f] == j for f, j in zip(x["branch_fork"], x["branch_join"], strict=True))
    reach = reachable(n, edges)
    np.testing.assert_array_equal(Dag(n, edges).reachability(), reach)


def test_shares_minimise_the_longest_branch():
    """Whatever the shares are, the largest work / share is at least that of shares in proportion to work."""
    g = Dag(5, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], cost=[1.0, 5.0, 2.0, 3.0, 1.0])
    x = dag_parallel_branch(g).extras
    best = (x["branch_work"] / x["branch_share"]).max()
    for other in np.random.default_rng(0).dirichlet(np.ones(3), 500):
        assert (x["branch_work"] / other).max() >= best - 1e-12


@pytest.mark.parametrize("kind", ["ancestors", "descendants", "cone", "level"])
def test_masks(kind):
    rng = np.random.default_rng(3)
    edges = np.array([(i, j) for i in range(9) for j in range(i + 1, 9) if rng.random() < 0.2])
    g = Dag(9, edges)
    reach, level = reachable(9, edges), levels(9, edges)
    want = {
        "ancestors": reach.T,
        "descendants": reach,
        "cone": reach | reach.T,
        "level": level[:, None] == level,
    }[kind] | np.eye(9, dtype=bool)
    mask = dag_mask(g, kind)
    np.testing.assert_array_equal(mask, want)
    assert mask.flags.c_contiguous
    one = dag_mask(g, kind, node=4)
    np.testing.assert_array_equal(one[4], want[4])
    assert not one[~want[4]][:, want[4]].any()
    x = rng.normal(size=(9, 4))
    out = scaled_dot_product_attention(x, x, x, mask=mask)
    changed = x.copy()
    changed[~want[4]] += 1.0
    np.testing.assert_array_equal(scaled_dot_product_attention(changed, changed, changed, mask=mask)[4], out[4])


def test_arrays_cannot_drift_from_the_graph():
    edges, cost = np.array([[0, 1]]), np.array([1.0, 2.0])
    g = Dag(2, edges, cost)
    edges[0, 1], cost[0] = 0, 9.0
    np.testing.assert_array_equal(g.edges, [[0, 1]])
    np.testing.assert_array_equal(g.cost, [1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        g.cost[0] = 5.0
    back = pickle.loads(pickle.dumps(g))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(back.edges, g.edges)
    assert repr(back) == "<Dag: 2 nodes, 1 edges>"
