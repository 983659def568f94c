"""Query plans: the graph against networkx-like oracles, the engine's promises, state, threads, bad input."""

from __future__ import annotations

import itertools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sona
from golden_files import golden
from sona.attention import Dag
from sona.attention.registry import names
from sona.dag import DagEngine, OperatorType, QueryDag
from sona.exceptions import CapacityError, ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError

SETTINGS = ["default", "fast", "terrible"]


def plan_of(n, edges, cost=None):
    plan = QueryDag()
    for i in range(n):
        plan.add_node(OperatorType.OTHER, cost=0.0 if cost is None else cost[i])
    for u, v in edges:
        plan.add_edge(u, v)
    return plan


def query(kind=0, rows=1e4):
    """A join of `kind` + 2 scans."""
    plan = QueryDag()
    top = plan.add_node(OperatorType.AGGREGATE, cost=1, rows=10)
    for i in range(kind + 2):
        join = plan.add_node(OperatorType.JOIN, cost=rows / 10, rows=rows)
        scan = plan.add_node(OperatorType.SCAN, cost=rows, rows=rows * (i + 1), features=[i, 1.0])
        plan.add_edge(top, join)
        plan.add_edge(join, scan)
        top = join
    return plan


@golden("dag", "swarm_governance_collective.npz")
def test_golden_order_and_critical_path(arrays, params, tol):
    plan = plan_of(params["n"], params["edges"], arrays["cost"])
    assert plan.topological_order() == params["order"]
    path, length = plan.critical_path()
    assert length == pytest.approx(params["critical"], abs=tol)
    assert sum(arrays["cost"][path]) == pytest.approx(params["critical"], abs=tol)


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 12))
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] < e[1])
    edges = draw(st.lists(pairs, max_size=30)) if n > 1 else []
    names = draw(st.permutations(range(n)))
    cost = draw(st.lists(st.floats(0, 100, width=32), min_size=n, max_size=n))
    return n, [(names[u], names[v]) for u, v in edges], cost


@given(graphs())
def test_graph_is_the_one_of_attention(case):
    n, edges, cost = case
    plan, graph = plan_of(n, edges, cost), Dag(n, edges, cost=cost)
    assert plan.topological_order() == graph.topological_order().tolist()
    assert [plan.depth(v) for v in range(n)] == graph.levels().tolist()
    assert set(plan.edges) == set(edges)
    # Longest path by dynamic programming.
    best = dict.fromkeys(range(n), 0.0)
    for v in plan.topological_order():
        best[v] = cost[v] + max((best[u] for u, w in edges if w == v), default=0.0)
    path, length = plan.critical_path()
    assert length == pytest.approx(max(best.values()))
    assert sum(cost[v] for v in path) == pytest.approx(length)
    assert all((u, v) in plan.edges for u, v in itertools.pairwise(path))


@given(graphs(), st.data())
def test_an_edge_is_refused_exactly_where_it_closes_a_cycle(case, data):
    n, edges, _ = case
    plan = plan_of(n, edges)
    u, v = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    reaches = Dag(n, edges).reachability()
    if u == v or reaches[v, u]:
        before = plan.to_bytes()
        with pytest.raises(ValueError, match="cycle") as caught:
            plan.add_edge(u, v)
        cycle = caught.value.cycle
        closed = [*plan.edges, (u, v)]
        assert all(pair in closed for pair in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        assert plan.to_bytes() == before
    else:
        plan.add_edge(u, v)
        assert (u, v) in plan.edges
    assert pickle.loads(pickle.dumps(plan)).to_bytes() == plan.to_bytes()  # noqa: S301


def test_empty_plan():
    plan = QueryDag()
    assert (len(plan), plan.edges, plan.topological_order(), plan.critical_path()) == (0, [], [], ([], 0.0))
    assert plan.metrics() == {"nodes": 0, "edges": 0}
    engine = DagEngine(16)
    assert np.linalg.norm(engine.pre_query(plan).vector) == pytest.approx(1)
    assert engine.predict_operators(plan).shape == (0,)


def test_nodes_keep_what_they_were_given():
    plan = query()
    op, cost, rows, features = plan.node(2)
    assert (op, cost, rows, features.tolist()) == (OperatorType.SCAN, 1e4, 1e4, [0.0, 1.0])
    assert repr(plan) == "<QueryDag: 5 nodes, 4 edges>"
    assert sona.QueryDag is QueryDag


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda p: p.add_node("shuffle")),
        (NotFiniteError, lambda p: p.add_node(OperatorType.SCAN, cost=math.nan)),
        (NotFiniteError, lambda p: p.add_node(OperatorType.SCAN, rows=math.inf)),
        (ValueError, lambda p: p.add_node(OperatorType.SCAN, rows=-1)),
        (NotFiniteError, lambda p: p.add_node(OperatorType.SCAN, features=[1, math.nan])),
        (ShapeError, lambda p: p.add_node(OperatorType.SCAN, features=[[1.0]])),
        (CapacityError, lambda p: p.add_node(OperatorType.SCAN, features=np.zeros(5000))),
        (ValueError, lambda p: p.add_edge(0, 9)),
        (ValueError, lambda p: p.add_edge(-1, 0)),
        (TypeError, lambda p: p.add_edge(0.5, 0)),
        (ValueError, lambda p: p.depth(9)),
        (ValueError, lambda p: p.node(-1)),
        (CorruptStateError, lambda p: QueryDag.from_bytes(p.to_bytes()[:-1])),
    ],
)
def test_bad_plans_change_nothing(error, call):
    plan = query()
    before = plan.to_bytes()
    with pytest.raises(error):
        call(plan)
    assert plan.to_bytes() == before


@pytest.mark.parametrize(
    "kw",
    [
        {"dim": 0},
        {"dim": -1},
        {"dim": 1 << 20},
        {"rank": 3},
        {"capacity": 0},
        {"ewc_lambda": -1.0},
        {"ewc_lambda": math.nan},
        {"regret_budget": -0.1},
        {"regret_budget": math.inf},
        {"seed": -1},
    ],
)
def test_bad_configuration(kw):
    with pytest.raises(ConfigError):
        DagEngine(**kw)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (NotFiniteError, lambda e, p: e.post_query(p, math.nan, 1.0)),
        (NotFiniteError, lambda e, p: e.post_query(p, 1.0, math.inf)),
        (ValueError, lambda e, p: e.post_query(p, -1.0, 1.0)),
        (ValueError, lambda e, p: e.post_query(p, 1.0)),
        (DimensionMismatch, lambda e, p: e.post_query(p, 1.0, 1.0, operator_ms=[1.0])),
        (NotFiniteError, lambda e, p: e.post_query(p, 1.0, 1.0, operator_ms=[math.nan] * len(p))),
        (ValueError, lambda e, p: e.post_query(p, 1.0, 1.0, operator_ms=[-1.0] * len(p))),
        (ValueError, lambda e, p: e.choose(p, [])),
        (ValueError, lambda e, p: e.choose(p, ["a", "a"])),
        (ValueError, lambda e, p: e.choose(p, ["a"], default="b")),
        (ValueError, lambda e, p: e.choose(p, [str(i) for i in range(65)])),
        (ValueError, lambda e, p: e.post_query(p, 1.0, setting="x" * 5000)),
    ],
)
def test_bad_calls_change_nothing(error, call):
    engine, plan = DagEngine(32), query()
    engine.post_query(plan, 3.0, 2.0)
    before = engine.to_bytes()
    with pytest.raises(error):
        call(engine, plan)
    assert engine.to_bytes() == before


def run(engine, rounds, budget_ms=0.0, seed=0):
    """Runs queries of three kinds with timeouts respected; (chosen, taken, reference, worst excess over the budget)."""
    rng = np.random.default_rng(seed)
    chosen, taken, reference, worst = [], 0.0, 0.0, -math.inf
    for i in range(rounds):
        kind = int(rng.integers(3))
        plan, usual = query(kind, 1e4 * 10**kind), 10.0 * (1 + kind)
        choice = engine.choose(plan, SETTINGS)
        ms = usual * {"default": 1.0, "fast": 0.7, "terrible": 40.0}[choice.setting]
        if choice.timeout_ms is not None and ms > choice.timeout_ms:
            engine.post_query(plan, choice.timeout_ms, setting=choice.setting, stopped=True)
            ms = choice.timeout_ms + usual
        else:
            engine.post_query(plan, ms, setting=choice.setting)
        chosen.append(choice.setting)
        taken, reference = taken + ms, reference + usual
        worst = max(worst, taken - reference - engine_budget(engine) * reference)
        if i % 40 == 39:
            assert engine.background_learn().status == "learned"
    return chosen, taken, reference, worst


def engine_budget(engine):
    return float(repr(engine).split("regret_budget=")[1].split(",")[0])


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_setting_is_found_and_the_budget_holds(seed):
    engine = DagEngine(64, regret_budget=0.1, seed=seed)
    chosen, taken, reference, worst = run(engine, 300, seed=seed)
    assert chosen[250:].count("fast") > 40
    assert chosen.count("terrible") < 15
    assert taken < reference
    # The budget and one run of the slowest default, as well as the default's time is known.
    assert worst <= 1.05 * 30.0
    assert engine.metrics()["lost_ms"] == pytest.approx(taken - reference, abs=60)


def test_without_a_budget_the_default_stays():
    engine = DagEngine(64, regret_budget=0.0)
    chosen, *_ = run(engine, 100)
    assert set(chosen) == {"default"}


def test_one_outcome_moves_the_next_prediction():
    engine, plan = DagEngine(64), query()
    for _ in range(3):
        engine.post_query(plan, 10.0, setting="default")
    before = engine.predict(plan, SETTINGS)[1].median_ms
    engine.post_query(plan, 100.0, setting="fast")
    slow, other = engine.predict(plan, SETTINGS)[1], engine.predict(query(2, 1e5), SETTINGS)
    assert slow.median_ms > before
    assert slow.lower_ms < slow.median_ms < slow.upper_ms
    # A similar plan hears of it, less.
    assert other[1].median_ms > other[0].median_ms


def test_reward_and_confidence():
    engine, plan = DagEngine(64), query()
    first = engine.pre_query(plan)
    assert first.confidence == 0.0
    assert first.patterns == []
    assert first.vector.shape == (64,)
    assert first.vector.dtype == np.float32
    assert np.linalg.norm(first.vector) == pytest.approx(1, abs=1e-5)
    for _ in range(12):
        engine.pre_query(plan)
        engine.post_query(plan, 5.0, 10.0)
    assert engine.background_learn().patterns >= 1
    later = engine.pre_query(plan)
    assert 0.3 < later.confidence < 1.0
    assert later.mechanism in names("dag")
    # (10 − 5)/10 = 0.5, as a quality in [0, 1].
    assert later.patterns[0].pattern.avg_quality == pytest.approx(0.75)
    assert engine.background_learn().status == "waiting"


def test_the_faster_mechanism_is_preferred():
    engine = DagEngine(64, seed=1)
    seen = []
    for i in range(400):
        plan = query(i % 3)
        mechanism = engine.pre_query(plan).mechanism
        engine.post_query(plan, 6.0 if mechanism == "dag_critical_path" else 10.0, 10.0)
        seen.append(mechanism)
        if i % 50 == 49:
            engine.background_learn()
    assert seen[300:].count("dag_critical_path") > 60


def test_operators_are_predicted_per_kind():
    rng = np.random.default_rng(0)

    def truth(plan):
        # Joins scale with rows, scans with their square root, the rest is constant.
        out = []
        for v in range(len(plan)):
            op, _, rows, _ = plan.node(v)
            power = {OperatorType.JOIN: 1.0, OperatorType.SCAN: 0.5}.get(op, 0.0)
            out.append(1e-2 * rows**power)
        return np.array(out)

    engine = DagEngine(128)
    assert engine.predict_operators(query()).tolist() == [0.0] * 5
    for i in range(200):
        plan = query(int(rng.integers(3)), 10 ** rng.uniform(2, 6))
        engine.post_query(plan, 1.0, 1.0, operator_ms=truth(plan) * np.exp(rng.normal(0, 0.1, len(plan))))
        if i % 40 == 39:
            engine.background_learn()
    errors = []
    for _ in range(50):
        plan = query(int(rng.integers(3)), 10 ** rng.uniform(2, 6))
        errors.append(np.abs(np.log(engine.predict_operators(plan) / truth(plan))))
    assert np.median(np.concatenate(errors)) < 0.35


def test_state_goes_on_as_if_never_stopped():
    one = DagEngine(64, seed=5)
    run(one, 80)
    two = pickle.loads(pickle.dumps(one))  # noqa: S301
    assert run(one, 80, seed=9) == run(two, 80, seed=9)
    assert one.predict(query(1), SETTINGS) == two.predict(query(1), SETTINGS)
    assert repr(one) == repr(two)
    blob = one.to_bytes()
    for cut in (0, 10, len(blob) // 2, len(blob) - 1):
        with pytest.raises(CorruptStateError):
            DagEngine.from_bytes(blob[:cut])


def test_more_pairs_than_are_kept():
    engine = DagEngine(32)
    for i in range(1100):
        engine.post_query(query(0, 100.0 + i), 1.0 + i % 7, setting="default")
    m = engine.metrics()
    assert m["setting_pairs"] <= 1024
    assert m["setting_pairs"] + m["forgotten_pairs"] == 1100
    assert DagEngine.from_bytes(engine.to_bytes()).metrics() == m


def test_threads_share_an_engine():
    engine = DagEngine(32)

    def work(seed):
        for i in range(30):
            plan = query(i % 2, 1e3 * (seed + 1))
            engine.pre_query(plan)
            choice = engine.choose(plan, SETTINGS)
            engine.post_query(plan, 5.0, 5.0, setting=choice.setting, operator_ms=np.ones(len(plan)))
            if i % 10 == 9:
                engine.background_learn()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    m = engine.metrics()
    assert (m["post_queries"], m["pre_queries"]) == (120, 120)
