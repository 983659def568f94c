"""Saving what the control room knows: going on equals never having stopped, and damage is seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from sona import CorruptStateError, MicroLoRA
from sona.control import (
    AdaptiveArchitecture,
    AnomalyDetector,
    CircadianController,
    CoherenceMonitor,
    ComputeGraph,
    Event,
    EventBus,
    EventKind,
    HealingOrchestrator,
    MinCut,
    ResourceAllocator,
)


def clock():
    c = CircadianController(duty=(1.0, 0.4, 0.2, 0.1))
    for h in range(60):
        c.observe_load(100.0 if 9 <= h % 24 < 17 else 5.0, now=h * 3600.0)
    c.should_learn(60 * 3600.0)
    return c


def asked(c):
    c.observe_load(40.0, now=61 * 3600.0)
    return [(c.phase(t), c.should_compute(t), c.should_consolidate(t)) for t in np.arange(61, 100, 0.7) * 3600.0]


def monitor():
    graph = MinCut(4)
    for u, v in [(0, 1), (1, 2), (2, 3), (3, 0)]:
        graph.set_edge(u, v, 1.0)
    m = CoherenceMonitor(graph, ewma=0.3)
    m.observe(loss=1.0)
    graph.set_edge(0, 1, 0.2)
    m.observe(loss=2.0)
    return m


def search():
    s = AdaptiveArchitecture({"rank": [1, 2, 4, 8], "bits": [4, 8]}, population=4, seed=3)
    s.evolve(price, generations=1)
    return s


def price(c):
    return (1 / c["rank"] + 0.1 * (c["bits"] == 4), c["rank"] * c["bits"])


def healer():
    h = HealingOrchestrator(patience=3)
    h.register("m", AnomalyDetector(window=40), tolerance=0.5)
    for t in range(80):
        h.observe("m", 10.0 + 0.1 * (t % 5), now=float(t))
    h.observe("m", 99.0, now=80.0)
    return h


def healing():
    h = healer()
    offered(h)
    h.observe("m", 99.0, now=80.5)
    return h


def offered(h, undone=None):
    h.add_action("a", lambda: None, cost=1.0, undo=lambda: undone is not None and undone.append("a"))
    h.add_action("b", lambda: None, cost=2.0)


def undone(h):
    log = []
    offered(h, log)
    return watched(h), [(r.action, r.outcome) for r in h.reports], log


def watched(h):
    values = [99.0, 99.0, 99.0, 99.0, 10.0, 10.1, 10.2, 10.0, 10.3, 50.0, 51.0]
    return [h.observe("m", v, now=81.0 + t) for t, v in enumerate(values)], h.detect_anomalies(), h.metrics()


def lazy():
    g = ComputeGraph()
    x, w = g.add_input(np.arange(6.0).reshape(2, 3)), g.add_input(np.eye(3))
    g.add_lora(g.add_add(g.add_matmul(x, w), x), "a")
    return g


def evaluated(g):
    g.register_adapter("a", MicroLoRA(3))
    return g.evaluate(len(g._nodes) - 1).tolist()


def bus():
    b = EventBus(7)
    b.publish(Event(EventKind.HEAL), now=0.0)
    return b


def shares():
    s = ResourceAllocator([9.0, 18.0], smoothing=0.5)
    s.observe("a", 3.0)
    s.observe("a", 5.0)
    return s


def shared(s):
    s.observe("a", 1.0)
    return s.predict("a"), s.allocate([[1.0, 4.0], [3.0, 1.0]]).tolist()


CASES = [
    (clock, asked),
    (monitor, lambda m: m.observe(loss=3.0)),
    (search, lambda s: s.evolve(price, generations=2).configs),
    (healer, watched),
    (healing, undone),
    (lazy, evaluated),
    (bus, lambda b: (b.publish(Event(EventKind.HEAL), now=1.0), b.metrics())),
    (shares, shared),
]


@pytest.mark.parametrize(("make", "use"), CASES, ids=lambda f: f.__name__)
def test_going_on_from_a_saved_state_equals_never_having_stopped(make, use):
    first = make()
    again = type(first).from_bytes(first.to_bytes())
    assert again.to_bytes() == first.to_bytes()
    assert again.metrics() == first.metrics()
    assert use(again) == use(first)
    assert again.to_bytes() == first.to_bytes()


@pytest.mark.parametrize("make", [make for make, _ in CASES], ids=lambda f: f.__name__)
def test_damaged_and_foreign_bytes_are_refused(make):
    whole = make().to_bytes()
    cls = type(make())
    rng = np.random.default_rng(0)
    flips = [(int(i), 1 << int(b)) for i, b in zip(rng.integers(0, len(whole), 300), rng.integers(0, 8, 300), strict=True)]
    for i, bit in flips:
        with pytest.raises(CorruptStateError):
            cls.from_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
        with pytest.raises(CorruptStateError):
            cls.from_bytes(whole[:i])
    other = EventBus if cls is not EventBus else ResourceAllocator
    with pytest.raises(CorruptStateError):
        other.from_bytes(whole)
    with pytest.raises(CorruptStateError):
        cls.from_bytes(rng.bytes(65_536))


def test_a_clock_can_be_copied():
    first = clock()
    assert asked(copy.deepcopy(first)) == asked(first)


def test_a_detector_of_the_caller_cannot_be_saved():
    class Mine:
        def update(self, x):
            return x > 3

    h = HealingOrchestrator()
    h.register("m", Mine())
    with pytest.raises(TypeError, match="Mine"):
        h.to_bytes()
