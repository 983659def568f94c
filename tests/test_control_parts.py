"""Minimum cut, detectors, events, coherence and the lazy graph: properties, bad input, save and load."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

import sona.control as control
from sona import CorruptStateError, MicroLoRA, NotFiniteError, ShapeError
from sona.control import CoherenceMonitor, ComputeGraph, Event, EventBus, EventKind, MinCut

DETECTORS = [
    control.Ewma(threshold=3.0),
    control.RobustZ(threshold=3.5),
    control.Cusum(0.0, 1.0),
    control.PageHinkley(),
    control.Adwin(),
    control.AnomalyDetector(agree=1),
]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_detectors_see_a_shift_and_continue_after_pickling(detector):
    x = np.random.default_rng(0).normal(size=600)
    x[400:] += 4.0
    detector = pickle.loads(pickle.dumps(detector))  # noqa: S301 (own bytes)
    for v in x[:300]:
        detector.update(v)
    again = pickle.loads(pickle.dumps(detector))  # noqa: S301
    got = [detector.update(v) for v in x[300:]]
    assert got == [again.update(v) for v in x[300:]]
    assert any(got[100:])
    assert detector.metrics() == again.metrics()
    assert type(detector).__name__ in repr(detector)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: type(d).__name__)
def test_detectors_take_nan_for_missing_and_refuse_damage(detector):
    before = detector.metrics()
    assert not detector.update(float("nan"))
    after = detector.metrics()
    assert after.pop("missing") == before.pop("missing") + 1
    assert after == before
    with pytest.raises(CorruptStateError):
        type(detector).from_bytes(detector.to_bytes()[:-1])
    with pytest.raises(CorruptStateError):
        type(detector).from_bytes(b"")


def test_mincut_against_a_plain_search_over_all_cuts():
    rng = np.random.default_rng(1)
    n = 7
    graph, weight = MinCut(n), np.zeros((n, n))
    sides = np.array([[s >> v & 1 for v in range(n)] for s in range(1, 2 ** (n - 1))], dtype=float)
    for _ in range(600):
        u, v = rng.choice(n, 2, replace=False)
        weight[u, v] = weight[v, u] = rng.choice([0.0, 0.5, 1.0, 2.0])
        got = graph.set_edge(u, v, weight[u, v])
        best = np.einsum("si,ij,sj->s", sides, weight, 1 - sides).min()
        assert got == pytest.approx(best)
    inside = np.array([v in graph.partition for v in range(n)])
    assert weight[inside][:, ~inside].sum() == pytest.approx(graph.value)
    assert sum(graph.stats.values()) == 600
    assert pickle.loads(pickle.dumps(graph)).to_bytes() == graph.to_bytes()  # noqa: S301
    assert len(graph) == n


def test_mincut_refuses_bad_edges():
    graph = MinCut(3)
    for u, v, w, error in [
        (0, 0, 1.0, ValueError),
        (0, 3, 1.0, ValueError),
        (0, 1, -1.0, ValueError),
        (0, 1, float("nan"), NotFiniteError),
    ]:
        with pytest.raises(error):
            graph.set_edge(u, v, w)
    assert graph.metrics()["edges"] == 0
    assert MinCut(1).value == float("inf")
    assert MinCut(2).value == 0.0
    with pytest.raises(CorruptStateError):
        MinCut.from_bytes(b"nothing")


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_mad_is_scipys(x):
    want = median_abs_deviation(x, scale="normal")
    assert control.mad(x) == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_statistics_refuse_bad_input():
    with pytest.raises(ShapeError):
        control.mad([[1.0]])
    with pytest.raises(ValueError):
        control.mad([])
    with pytest.raises(NotFiniteError):
        control.theil_sen([0.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError):
        control.theil_sen([1.0, 1.0], [1.0, 2.0])


def test_bus_cools_down_collects_errors_and_delivers_what_callbacks_publish():
    bus = EventBus(capacity=1)
    seen = []
    bus.subscribe(EventKind.HEAL, lambda e: seen.append(e.payload["n"]), cooldown_s=10.0)
    assert [bus.publish(Event(EventKind.HEAL, {"n": t}), now=t) for t in (0.0, 5.0, 10.0)] == [1, 0, 1]
    assert seen == [0.0, 10.0]

    def again(event):
        assert bus.publish(Event(EventKind.REALLOCATE)) == 0
        bus.publish(Event(EventKind.REALLOCATE))

    number = bus.subscribe(EventKind.LR_BOOST, again)
    bus.subscribe(EventKind.REALLOCATE, lambda e: seen.append("later"))
    assert bus.publish(Event(EventKind.LR_BOOST)) == 2
    assert seen[-1] == "later"
    assert bus.dropped_count == 1

    def broken(event):
        raise RuntimeError("broken")

    bus.unsubscribe(number)
    bus.subscribe(EventKind.LR_BOOST, broken)
    bus.subscribe(EventKind.LR_BOOST, lambda e: seen.append("after"))
    with pytest.raises(ExceptionGroup) as error:
        bus.publish(Event(EventKind.LR_BOOST))
    assert [str(e) for e in error.value.exceptions] == ["broken"]
    assert seen[-1] == "after"
    assert bus.publish(Event(EventKind.REALLOCATE)) == 1
    with pytest.raises(KeyError):
        bus.unsubscribe(99)


def test_bus_loses_no_event_between_threads():
    bus = EventBus(capacity=10_000)
    count = []
    bus.subscribe(EventKind.HEAL, lambda e: count.append(1))
    threads = [threading.Thread(target=lambda: [bus.publish(Event(EventKind.HEAL)) for _ in range(500)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(count) == 2000
    assert bus.metrics()["waiting"] == 0


def clique(n):
    graph = MinCut(n)
    for u in range(n):
        for v in range(u):
            graph.set_edge(u, v, 1.0)
    return graph


def test_monitor_has_hysteresis_and_boosts_only_when_the_loss_rises():
    graph, bus, kinds = clique(5), EventBus(), []
    for kind in EventKind:
        bus.subscribe(kind, lambda e: kinds.append(e.kind))
    monitor = CoherenceMonitor(graph, ewma=1e-6, on=0.7, off=0.6, bus=bus)
    assert not monitor.observe(loss=1.0).active

    def cut_to(weight):
        for v in range(4):
            graph.set_edge(4, v, weight)

    cut_to(0.35)
    assert not monitor.observe().active
    cut_to(0.25)
    packet = monitor.observe(loss=2.0)
    assert packet.active
    assert packet.boundary == {4}
    assert set(kinds) == set(EventKind)
    cut_to(0.35)
    assert monitor.observe().active
    cut_to(0.45)
    assert not monitor.observe().active
    kinds.clear()
    cut_to(0.1)
    assert monitor.observe(loss=0.0).active
    assert EventKind.LR_BOOST not in kinds
    gate = monitor.observe().attention_gate()
    assert gate.drop == pytest.approx(0.9, abs=1e-4)
    assert monitor.metrics()["activations"] == 2


def test_graph_computes_only_what_changed():
    rng = np.random.default_rng(0)
    graph = ComputeGraph()
    x, w, b = (graph.add_input(rng.normal(size=s)) for s in [(3, 4), (4, 4), (1, 4)])
    lora = MicroLoRA(4)
    product = graph.add_matmul(x, w)
    adapted = graph.add_lora(product, "a")
    out = graph.add_add(adapted, b)
    with pytest.raises(KeyError):
        graph.evaluate(out)
    graph.register_adapter("a", lora)
    first = graph.evaluate(out)
    done = graph.metrics()["computed"]
    assert graph.evaluate(out) is first
    assert graph.metrics()["computed"] == done
    lora.set_factors(rng.normal(size=(2, 4)), rng.normal(size=(4, 2)))
    graph.register_adapter("a", lora)
    graph.set_input(b, np.zeros((1, 4)))
    np.testing.assert_allclose(graph.evaluate(out), lora.forward(graph.evaluate(product)), rtol=1e-6)
    assert graph.metrics()["computed"] == done + 2
    with pytest.raises(ShapeError):
        graph.evaluate(graph.add_matmul(x, b))
    with pytest.raises(NotFiniteError):
        graph.set_input(x, np.full((3, 4), np.nan))
    with pytest.raises(ValueError):
        graph.set_input(out, np.zeros(3))
    with pytest.raises(KeyError):
        graph.add_add(0, 99)


def test_the_operands_of_the_graph_are_l_and_r():
    graph = ComputeGraph()
    x = graph.add_input([[1.0, 2.0]])
    w = graph.add_input([[3.0], [4.0]])
    np.testing.assert_array_equal(graph.evaluate(graph.add_matmul(l=x, r=w)), [[11.0]])
    np.testing.assert_array_equal(graph.evaluate(graph.add_add(l=x, r=x)), [[2.0, 4.0]])


def test_a_deep_graph_needs_no_recursion():
    graph = ComputeGraph()
    node = one = graph.add_input([1.0])
    for _ in range(20_000):
        node = graph.add_add(node, one)
    assert graph.evaluate(node)[0] == 20_001
