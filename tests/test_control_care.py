"""Healing, the daily clock, resources, bits and the search for settings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import CapacityError, ConfigError, DimensionMismatch, NotFiniteError, ShapeError
from sona.control import (
    AdaptiveArchitecture,
    AutoQuantizer,
    CircadianController,
    CircadianPhase,
    GatePacket,
    HealingOrchestrator,
    PredictiveConfig,
    ResourceAllocator,
    crowding_distance,
    hypervolume,
    non_dominated_sort,
)


def run(healer, values, start=0.0):
    return [a for t, v in enumerate(values) for a in healer.observe("m", v, now=start + t)]


NORMAL = [10.0 + 0.1 * (t % 5) for t in range(200)]


def test_actions_are_tried_cheapest_first_and_undone_if_they_do_not_help():
    healer = HealingOrchestrator(patience=3)
    healer.register("m")
    log = []
    healer.add_action("right", lambda: log.append("right"), cost=2.0)
    healer.add_action("wrong", lambda: log.append("wrong"), cost=1.0, undo=lambda: log.append("undo wrong"))
    healer.add_action("other", lambda: log.append("other"), cost=0.5, metrics=["another metric"])
    assert run(healer, NORMAL) == []
    found = []
    for t in range(200, 220):
        found += healer.observe("m", 10.0 if "right" in log else 50.0, now=float(t))
    assert [a.metric for a in found] == ["m"]
    assert log == ["wrong", "undo wrong", "right"]
    assert [(r.action, r.outcome) for r in healer.reports] == [
        ("wrong", "started"),
        ("wrong", "undone"),
        ("right", "started"),
        ("right", "helped"),
    ]
    assert healer.detect_anomalies() == []
    assert healer.metrics()["open"] == 0


def test_an_action_that_raises_is_reported_and_the_next_runs():
    healer = HealingOrchestrator(patience=2)
    healer.register("m")
    healer.add_action("broken", lambda: 1 / 0, cost=0.0)
    healer.add_action("sound", lambda: None, cost=1.0)
    run(healer, [*NORMAL, 90.0, 90.0, 90.0])
    assert [(r.action, r.outcome) for r in healer.reports][:2] == [("broken", "failed"), ("sound", "started")]
    assert "ZeroDivisionError" in healer.reports[0].detail


def test_the_budget_holds_and_an_anomaly_closes_by_itself():
    healer = HealingOrchestrator(patience=2, budget=1.0, budget_window_s=1000.0)
    healer.register("m")
    healer.add_action("dear", lambda: None, cost=5.0)
    run(healer, [*NORMAL, 90.0, 90.0, 90.0, 90.0])
    assert healer.reports == []
    assert healer.metrics()["over_budget"] >= 1
    assert len(healer.detect_anomalies()) == 1
    run(healer, NORMAL[:10], start=300.0)
    assert healer.detect_anomalies() == []


def test_missing_values_and_unknown_metrics():
    healer = HealingOrchestrator()
    healer.register("m")
    assert healer.observe("m", math.nan) == []
    assert healer.metrics()["missing"] == 1
    with pytest.raises(KeyError):
        healer.observe("unknown", 1.0)
    with pytest.raises(ConfigError):
        PredictiveConfig(limit=2.0)


def packet(tension):
    return GatePacket(1.0, tension, False, frozenset(), 0.0)


def test_a_trend_is_acted_on_before_the_limit_and_a_flat_one_is_not():
    ran = []
    healer = HealingOrchestrator(predictive=PredictiveConfig(limit=0.7, horizon_s=100.0))
    healer.add_action("rebuild", lambda: ran.append(1), cost=1.0, metrics=["tension"])
    rng = np.random.default_rng(0)
    for t in range(60):
        assert healer.predict_and_prepare(packet(0.2 + 0.01 * rng.random()), now=float(10 * t)) == []
    when = [t for t in range(60) if healer.predict_and_prepare(packet(0.2 + 0.01 * t), now=600.0 + 10 * t)]
    assert len(when) == len(ran) == 1
    assert 0.2 + 0.01 * when[0] < 0.7


def test_an_action_for_every_metric_is_also_one_for_the_tension():
    healer = HealingOrchestrator()
    ran = []
    healer.add_action("rebuild", lambda: ran.append(1), cost=1.0)
    healer.add_action("other", lambda: ran.append(2), cost=0.5, metrics=["latency_ms"])
    packets = [GatePacket(1.0, 0.03 * t, False, frozenset(), 1.0) for t in range(20)]
    got = [name for t, p in enumerate(packets) for name in healer.predict_and_prepare(p, now=10.0 * t)]
    assert got == ["rebuild"]
    assert ran == [1]


def trained(hours=96, high=(9, 17)):
    clock = CircadianController()
    for h in range(hours):
        clock.observe_load(100.0 if high[0] <= h % 24 < high[1] else 5.0 + abs(h % 24 - 13), now=h * 3600.0)
    return clock, hours * 3600.0


def test_the_clock_learns_the_day():
    clock, start = trained()
    phases = [clock.phase(start + (h + 0.5) * 3600.0) for h in range(24)]
    assert all(phases[h] == CircadianPhase.ACTIVE for h in range(9, 17))
    assert phases[1] == phases[23] == CircadianPhase.DUSK or CircadianPhase.REST in phases
    assert {phases[h] for h in range(4, 9)} <= {CircadianPhase.DAWN, CircadianPhase.REST}
    assert {phases[h] for h in range(17, 22)} <= {CircadianPhase.DUSK, CircadianPhase.REST}
    assert clock.should_learn(start + 12 * 3600.0)
    assert not clock.should_consolidate(start + 12 * 3600.0)
    asked = [clock.should_compute(start + t) for t in range(0, 86_400, 7)]
    duty = np.mean([clock.duty_factor(start + h * 3600.0) for h in range(24)])
    assert np.mean(asked) == pytest.approx(duty, abs=0.02)
    assert clock.measured_saving() == pytest.approx(1 - duty, abs=0.02)


def test_nothing_is_held_back_before_a_day_is_known_and_a_manual_phase_wins():
    clock = CircadianController()
    assert clock.phase(0.0) == CircadianPhase.ACTIVE
    for h in range(10):
        clock.observe_load(float(h), now=h * 3600.0)
    assert clock.phase(0.0) == CircadianPhase.ACTIVE
    assert CircadianController(manual="rest").phase(12 * 3600.0) == CircadianPhase.REST
    assert trained()[0].phase(0.0) != CircadianPhase.ACTIVE


def test_work_is_not_deferred_for_ever():
    clock = CircadianController(manual=None, max_deferral_s=7200.0)
    assert not clock.should_consolidate(0.0)
    assert not clock.should_consolidate(3600.0)
    assert clock.should_consolidate(7200.0)
    assert not clock.should_consolidate(7300.0)


def test_the_clock_ignores_time_that_runs_backwards_and_missing_loads():
    clock, start = trained()
    before = [clock.phase(start + h * 3600.0) for h in range(24)]
    clock.observe_load(1e6, now=0.0)
    clock.observe_load(math.nan, now=start)
    assert [clock.phase(start + h * 3600.0) for h in range(24)] == before
    assert clock.metrics()["clock_backwards"] == 1
    assert clock.metrics()["missing"] == 1
    with pytest.raises(ValueError):
        clock.observe_load(-1.0, now=start)
    with pytest.raises(NotFiniteError):
        clock.phase(math.nan)
    with pytest.raises(ConfigError):
        CircadianController(duty=(1.0, 1.0, 1.0))
    clock.coherence = 0.1
    assert not clock.should_learn(start + 12 * 3600.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=6),
    st.lists(st.integers(1, 20), min_size=3, max_size=3),
)
def test_shares_are_fair(demands, capacity):
    need, cap = np.array(demands, float), np.array(capacity, float)
    tasks = ResourceAllocator(cap).allocate(need)
    used = tasks @ need
    assert (used <= cap * (1 + 1e-9)).all()
    active = need.max(axis=1) > 0
    assert (tasks[~active] == 0).all()
    # Pareto: everyone that wants something is stopped by a full resource.
    full = used >= cap * (1 - 1e-9)
    assert all((need[i][full] > 0).any() for i in np.flatnonzero(active))
    # Envy-freeness: with another's bundle nobody could do more.
    for i in np.flatnonzero(active):
        for j in range(len(need)):
            bundle = tasks[j] * need[j]
            possible = min(bundle[r] / need[i][r] for r in range(3) if need[i][r] > 0)
            assert possible <= tasks[i] * (1 + 1e-9)


def test_allocator_predicts_and_refuses():
    allocator = ResourceAllocator([1.0, 2.0], smoothing=0.5)
    assert allocator.predict("a") is None
    allocator.observe("a", 4.0)
    allocator.observe("a", 8.0)
    assert allocator.predict("a") == 6.0
    assert allocator.allocate([]).shape == (0,)
    for bad, error in [([[1.0]], DimensionMismatch), ([1.0, 2.0], ShapeError), ([[np.nan, 1.0]], NotFiniteError)]:
        with pytest.raises(error):
            allocator.allocate(bad)
    with pytest.raises(ValueError):
        allocator.allocate([[1.0, 1.0]], weights=[0.0])
    with pytest.raises(ConfigError):
        ResourceAllocator([0.0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_bits_are_the_exact_optimum(seed):
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 5))
    s, n = rng.random((layers, 3)), rng.integers(1, 9, layers)
    bits = (2, 4, 8)
    budget = int(rng.integers(n.sum() * 2, n.sum() * 8 + 1))
    grid = np.array(np.meshgrid(*[range(3)] * layers)).reshape(layers, -1).T
    sizes = np.array(bits)[grid] @ n
    losses = s[np.arange(layers), grid].sum(axis=1)
    got = AutoQuantizer(bits).allocate(s, n, budget)
    assert got.loss == pytest.approx(losses[sizes <= budget].min())


def test_sensitivities_fall_with_bits_on_a_real_product():
    rng = np.random.default_rng(0)
    layers, x = [rng.normal(size=(8, 8)) for _ in range(3)], rng.normal(size=(16, 8))

    def out(ws):
        y = x
        for w in ws:
            y = np.tanh(y @ w)
        return y

    target = out(layers)
    s = AutoQuantizer().sensitivities(lambda ws: float(((out(ws) - target) ** 2).mean()), layers)
    assert s.shape == (3, 4)
    assert (np.diff(s, axis=1) < 0).all()
    with pytest.raises(CapacityError):
        AutoQuantizer().allocate(s, [64] * 3, 10)
    with pytest.raises(ConfigError):
        AutoQuantizer((1, 4))


def test_search_finds_the_whole_front_of_a_small_space_and_repeats():
    space = {"a": list(range(8)), "b": list(range(8)), "c": [0, 1]}

    def cost(c):
        return c["a"] + 3 * c["c"], (7 - c["a"]) + 0.5 * c["b"] + c["c"]

    def search():
        return AdaptiveArchitecture(space, population=16, seed=3).evolve(cost, generations=25)

    front = search()
    everything = np.array([cost({"a": a, "b": b, "c": c}) for a in range(8) for b in range(8) for c in (0, 1)])
    best = everything[non_dominated_sort(everything)[0]]
    assert {tuple(r) for r in front.objectives} == {tuple(r) for r in best}
    assert front.configs == search().configs
    assert len(front) == len(front.configs) <= front.evaluations <= 128
    with pytest.raises(NotFiniteError):
        AdaptiveArchitecture(space).evolve(lambda c: (math.nan,))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=8))
def test_hypervolume_counts_unit_cubes(points):
    f = np.array(points, float)
    grid = np.array(np.meshgrid(*[range(5)] * 3)).reshape(3, -1).T
    dominated = sum(any((p <= cell).all() for p in f) for cell in grid)
    assert hypervolume(f, [5.0] * 3) == pytest.approx(dominated)
    assert crowding_distance(f).shape == (len(f),)
    with pytest.raises(ShapeError):
        hypervolume(f, [5.0])


def test_limits_of_tasks_may_be_an_array():
    shares = ResourceAllocator([9.0, 18.0])
    demands = np.array([[1.0, 4.0], [3.0, 1.0]])
    np.testing.assert_array_equal(
        shares.allocate(demands, max_tasks=np.array([1.0, np.inf])), shares.allocate(demands, max_tasks=[1.0, None])
    )
    with pytest.raises(DimensionMismatch):
        shares.allocate(demands, max_tasks=[])


def test_no_points_have_no_fronts_and_infinite_ones_are_refused():
    for none in ([], np.zeros((0, 2))):
        assert non_dominated_sort(none) == []
        assert crowding_distance(none).shape == (0,)
        assert hypervolume(none, [1.0, 1.0]) == 0.0
    for call in (non_dominated_sort, crowding_distance, lambda f: hypervolume(f, [1.0, 1.0])):
        with pytest.raises(NotFiniteError):
            call([[0.0, np.inf]])
    with pytest.raises(NotFiniteError):
        hypervolume([[0.0, 0.0]], [1.0, np.nan])


def test_a_search_ends_when_every_setting_is_known():
    search = AdaptiveArchitecture({"a": [1, 2, 3]}, population=4)
    front = search.evolve(lambda c: (c["a"], -c["a"]), generations=10**9)
    assert len(front) == front.evaluations == 3
