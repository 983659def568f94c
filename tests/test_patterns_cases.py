"""CaseMemory and ItemGate against the float64 reference, and the promises they make."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sona
from sona.patterns import CaseMemory, ItemGate

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "flagship" / "rec.npz"


def stream(name):
    with np.load(GOLDEN) as z:
        return {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(name + "/")}


def drop_padding(row):
    return [int(j) for j in row if j >= 0]


@pytest.mark.parametrize("name", ["small", "many", "mixed", "credible"])
def test_golden_streams(name):
    g = stream(name)
    items = g["items"].astype(np.float32)
    ids = list(range(len(items)))
    memory = CaseMemory(
        items.shape[1],
        eta=g["param_eta"],
        adapt_width=g["param_h_a"],
        temperature=g["param_tau"],
        recall_weight=g["param_w"],
        recall_width=g["param_h_r"],
        shrinkage=g["param_kappa"],
        neighbors=g["param_neighbors"],
    )
    common = {"decay": g["param_decay"], "warmup": g["param_warmup"]}
    gates = {
        "evidence": ItemGate(
            nu=g["param_nu"],
            z=g["param_z"],
            soft=bool(g["param_soft"]),
            start=tuple(g["param_start"].tolist()),
            full_coverage=g["param_full_coverage"],
            **common,
        ),
        "multiplier": ItemGate(mode="multiplier", **common),
    }
    marks = list(g["marks"])

    def check(i):
        evidence, multiplier = gates["evidence"], gates["multiplier"]
        for p, probe in enumerate(g["probes"].astype(np.float32)):
            np.testing.assert_allclose(memory.adapt(probe), g["adapt"][i, p], atol=2e-6)
            np.testing.assert_allclose(memory.recall(probe, ids), g["recall"][i, p], atol=2e-6)
            np.testing.assert_allclose(memory.scores(probe, ids, items), g["scores"][i, p], atol=2e-6)
            by_gate = evidence.scores(memory, probe, ids, items)
            np.testing.assert_allclose(by_gate, g["evidence_scores"][i, p], atol=3e-6)
            by_gate = multiplier.scores(memory, probe, ids, items)
            np.testing.assert_allclose(by_gate, g["multiplier_scores"][i, p], atol=5e-6)
        assert (evidence.beta, evidence.lambda_) == (g["beta"][i], g["lambda"][i])
        assert [evidence.has_evidence(d) for d in ids] == [e >= 1.0 for e in g["evidence"][i]]
        used = evidence.metrics()
        assert used["arm"] == g["arm"][i]
        np.testing.assert_allclose(used["gain"], g["gains"][i][g["arm"][i]], atol=1e-9)
        np.testing.assert_allclose(used["gain_standard_error"], g["standard_errors"][i][g["arm"][i]], atol=1e-9)
        assert multiplier.metrics()["arm"] == g["multiplier_arm"][i]

    check(0)
    for t in range(len(g["q"])):
        q = g["q"][t].astype(np.float32)
        clicked, candidates = drop_padding(g["clicked"][t]), drop_padding(g["candidates"][t])
        s = memory.scores(q, ids, items)
        weight = g["weight"][t] if name == "credible" else 1.0
        gates["evidence"].observe(memory, q, clicked, ids, items, weight=weight, shown_ids=g["shown"][t].tolist())
        gates["multiplier"].observe(memory, q, clicked, ids, items)
        memory.learn(q, clicked, candidates, items[candidates], scores=s[candidates], weight=g["weight"][t])
        if t + 1 in marks:
            check(marks.index(t + 1))


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def world(seed, items=12, dim=16):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((items, dim)))
    near = lambda i: unit(vectors[i] + 0.8 * unit(rng.standard_normal(dim)))  # noqa: E731
    return rng, vectors, near


def feed(memory, vectors, near, rng, n, **kwargs):
    for _ in range(n):
        item = int(rng.integers(len(vectors)))
        memory.learn(near(item), [item], range(len(vectors)), vectors, **kwargs)


def test_no_cases_is_the_identity_bit_for_bit():
    rng, vectors, _ = world(0)
    memory, gate = CaseMemory(16), ItemGate()
    q = (rng.standard_normal(16) * 7).astype(np.float32)
    base = rng.standard_normal(12).astype(np.float32)
    assert memory.adapt(q).tobytes() == q.tobytes()
    for scores in (memory.scores(q, range(12), vectors, base=base), gate.scores(memory, q, range(12), vectors, base=base)):
        assert scores.tobytes() == base.tobytes()
    assert not memory.recall(q, range(12)).any()


def test_one_case_by_hand():
    _, vectors, near = world(1)
    memory, q = CaseMemory(16), near(3)
    before = vectors.astype(np.float64) @ q
    memory.learn(q, [2], range(12), vectors)
    p = np.exp((before - before.max()) / 0.1)
    p /= p.sum()
    u = q + 0.6 * (vectors[2] - p @ vectors)
    np.testing.assert_allclose(memory.adapt(q), u / np.linalg.norm(u), atol=1e-6)
    expected = vectors @ (u / np.linalg.norm(u)) + 0.2 * np.eye(12)[2] / 1.001
    np.testing.assert_allclose(memory.scores(q, range(12), vectors), expected, atol=1e-6)


def test_wide_kernel_without_recall_adds_all_gradients():
    """With an infinitely wide kernel the adapter is one step along the sum of all gradients."""
    rng, vectors, near = world(2)
    memory = CaseMemory(16, adapt_width=1e9, recall_weight=0.0, eta=0.1)
    total = np.zeros(16)
    for _ in range(30):
        item, q = int(rng.integers(12)), near(int(rng.integers(12)))
        s = vectors.astype(np.float64) @ q
        p = np.exp((s - s.max()) / 0.1)
        total += vectors[item] - (p / p.sum()) @ vectors
        memory.learn(q, [item], range(12), vectors, scores=s)
    q = near(0)
    u = q + 0.1 * total
    np.testing.assert_allclose(memory.adapt(q), u / np.linalg.norm(u), atol=1e-5)


def test_nearest_neighbours_come_close_to_all():
    rng = np.random.default_rng(3)
    topics = unit(rng.standard_normal((20, 32)))
    few, every = CaseMemory(32), CaseMemory(32, neighbors=10_000)
    for _ in range(600):
        item = int(rng.integers(20))
        q = unit(topics[item] + 0.7 * unit(rng.standard_normal(32)))
        for memory in (few, every):
            memory.learn(q, [item], range(20), topics, scores=topics @ q)
    for item in range(20):
        q = unit(topics[item] + 0.7 * unit(rng.standard_normal(32)))
        np.testing.assert_allclose(few.recall(q, range(20)), every.recall(q, range(20)), atol=5e-3)
        assert few.adapt(q) @ every.adapt(q) > 0.95
        a, b = few.scores(q, range(20), topics), every.scores(q, range(20), topics)
        assert a.argmax() == b.argmax()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), reject=st.booleans())
def test_one_feedback_moves_the_next_decision_the_right_way(seed, n, reject):
    rng, vectors, near = world(seed)
    memory = CaseMemory(16)
    feed(memory, vectors, near, rng, n)
    q = near(int(rng.integers(12)))
    before = memory.scores(q, range(12), vectors).astype(np.float64)
    item = int(before.argmax()) if reject else int(rng.integers(12))
    memory.learn(q, [item], range(12), vectors, weight=-1.0 if reject else 1.0)
    after = memory.scores(q, range(12), vectors).astype(np.float64)
    p = np.exp((before - before.max()) / 0.1)
    p /= p.sum()
    rest = np.delete(p, item) / np.delete(p, item).sum()
    lead = lambda s: s[item] - rest @ np.delete(s, item)  # noqa: E731
    assert (lead(after) < lead(before)) if reject else (lead(after) > lead(before) - 1e-6)
    r = memory.recall(q, [item])[0]
    assert -1.0 <= r <= 1.0


def test_rejecting_the_winner_of_a_fresh_memory_lowers_it():
    for seed in range(50):
        _, vectors, near = world(seed)
        memory, q = CaseMemory(16), near(1)
        before = memory.scores(q, range(12), vectors)
        worst = int(before.argmax())
        memory.learn(q, [worst], range(12), vectors, weight=-1.0)
        after = memory.scores(q, range(12), vectors)
        assert after[worst] < before[worst]
        np.testing.assert_allclose(memory.recall(q, [worst]), [-1 / 1.001], rtol=1e-5)


def test_vectors_of_any_norm_score_by_direction():
    rng, vectors, near = world(4)
    memory = CaseMemory(16)
    feed(memory, vectors, near, rng, 20)
    q, scale = near(0), rng.uniform(0.1, 9.0, (12, 1))
    want = memory.scores(q, range(12), vectors)
    np.testing.assert_allclose(memory.scores(5 * q, range(12), vectors * scale), want, atol=1e-5)
    zero = vectors.copy()
    zero[3] = 0
    assert memory.scores(q, [f"never {i}" for i in range(12)], zero)[3] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 150), every=st.integers(2, 5))
def test_removal_equals_never_having_learned(seed, n, every):
    rng, vectors, near = world(seed)
    everything, rest = CaseMemory(16, neighbors=20), CaseMemory(16, neighbors=20)
    gone = []
    for i in range(n):
        item, q = int(rng.integers(12)), near(int(rng.integers(12)))
        case = everything.learn(q, [item], range(12), vectors, scores=np.zeros(12))
        if i % every == 0:
            gone.append(case)
        else:
            rest.learn(q, [item], range(12), vectors, scores=np.zeros(12))
    assert everything.remove(np.array(gone)) == len(gone)
    assert (len(everything), everything.nbytes) == (len(rest), rest.nbytes)
    q = near(0)
    a, b = everything.scores(q, range(12), vectors), rest.scores(q, range(12), vectors)
    assert a.tobytes() == b.tobytes()


def test_cases_are_found_by_user_and_source():
    rng, vectors, near = world(5)
    memory = CaseMemory(16)
    feed(memory, vectors, near, rng, 3, user="ann", source="click")
    feed(memory, vectors, near, rng, 2, user="bob", source="click")
    feed(memory, vectors, near, rng, 1, user="ann", source="thumb")
    assert memory.cases_of(user="ann").tolist() == [0, 1, 2, 5]
    assert memory.cases_of(source="click").tolist() == [0, 1, 2, 3, 4]
    assert memory.cases_of(user="ann", source="thumb").tolist() == [5]
    assert memory.cases_of().dtype == np.int64
    assert memory.remove(memory.cases_of(user="ann")) == 4
    assert memory.cases_of(user="ann").size == 0
    assert memory.remove([-1, 0, 99]) == 0
    assert memory.learn(near(0), [0], range(12), vectors) == 6


def test_saved_and_loaded_goes_on_as_if_never_stopped():
    rng, vectors, near = world(6)
    memory, gate = CaseMemory(16, neighbors=30, max_bytes=30_000), ItemGate(warmup=10, seed=4)
    requests = [(near(int(i)), int(i)) for i in rng.integers(0, 12, 160)]

    def go_on(memory, gate, part):
        for q, item in part:
            gate.observe(memory, q, [item], range(12), vectors)
            memory.learn(q, [item], range(12), vectors)

    go_on(memory, gate, requests[:120])
    other = CaseMemory.from_bytes(memory.to_bytes()), pickle.loads(pickle.dumps(gate))  # noqa: S301
    for state in ((memory, gate), other):
        go_on(*state, requests[120:])
    assert memory.metrics()["evicted"] > 0
    assert memory.to_bytes() == other[0].to_bytes()
    assert gate.to_bytes() == other[1].to_bytes()
    q = near(1)
    a, b = (g.scores(m, q, range(12), vectors) for m, g in ((memory, gate), other))
    assert a.tobytes() == b.tobytes()


def test_a_copy_is_a_snapshot():
    rng, vectors, near = world(7)
    memory, gate = CaseMemory(16), ItemGate()
    feed(memory, vectors, near, rng, 70)
    frozen, q = copy.copy(memory), near(0)
    before = frozen.scores(q, range(12), vectors)
    feed(memory, vectors, near, rng, 70)
    gate.observe(memory, q, [0], range(12), vectors)
    assert (len(frozen), len(memory)) == (70, 140)
    assert frozen.scores(q, range(12), vectors).tobytes() == before.tobytes()
    assert len(copy.deepcopy(memory)) == 140
    assert copy.copy(gate).metrics() == gate.metrics()


class Thing:
    """An id that only this process knows."""


def test_item_ids_are_any_hashables():
    _, vectors, near = world(8)
    thing = Thing()
    ids = [1, "1", b"1", (1, "x"), 2.5, None, frozenset({3}), thing, True is False, 10**30, (1, ("x", b"y")), np.int64(7)]
    memory = CaseMemory(16)
    for item in ids:
        memory.learn(near(0), [item], ids, vectors)
    r = memory.recall(near(0), [1.0, np.str_("1"), 7, thing, Thing(), 0, 10**30, "never"])
    assert (r[[0, 1, 2, 3, 5, 6]] > 0).all()
    assert (r[[4, 7]] == 0).all()
    with pytest.raises(TypeError, match="int, str, bytes or tuples"):
        memory.to_bytes()
    with pytest.raises(TypeError):
        memory.recall(near(0), [[1]])
    with pytest.raises(TypeError, match="sequence of item ids"):
        memory.recall(near(0), "abc")
    gate = ItemGate()
    gate.observe(memory, near(0), [thing], ids, vectors)
    with pytest.raises(TypeError, match="int, str, bytes or tuples"):
        gate.to_bytes()
    plain = CaseMemory(16)
    plain.learn(near(0), [(1, "x")], ids[:4], vectors[:4])
    assert CaseMemory.from_bytes(plain.to_bytes()).recall(near(0), [(1, "x")])[0] > 0


@pytest.mark.parametrize(
    "bad",
    [
        {"dim": 0},
        {"dim": -3},
        {"eta": -0.1},
        {"eta": float("nan")},
        {"adapt_width": 0.0},
        {"temperature": float("inf")},
        {"recall_weight": -1.0},
        {"recall_width": -0.05},
        {"shrinkage": 0.0},
        {"neighbors": 0},
        {"neighbors": -1},
        {"max_bytes": 0},
        {"seed": -1},
    ],
)
def test_constructor_checks(bad):
    with pytest.raises(sona.ConfigError, match=next(iter(bad))):
        CaseMemory(**{"dim": 4, **bad})


@pytest.mark.parametrize(
    "bad", [{"mode": "on"}, {"nu": 1.5}, {"nu": float("nan")}, {"z": -1.0}, {"decay": 0.0}, {"decay": 1.1}, {"warmup": -1}]
)
def test_gate_constructor_checks(bad):
    with pytest.raises(sona.ConfigError, match=next(iter(bad))):
        ItemGate(**bad)


def test_bad_input_changes_nothing():
    rng, vectors, near = world(9)
    memory, gate = CaseMemory(16), ItemGate()
    feed(memory, vectors, near, rng, 5)
    before = memory.to_bytes(), gate.to_bytes()
    q, ids = near(0), list(range(12))
    broken = vectors.copy()
    broken[4, 2] = np.nan
    for error, call in [
        (sona.NotFiniteError, lambda: memory.adapt(q * np.inf)),
        (sona.NotFiniteError, lambda: memory.learn(q, [0], ids, broken)),
        (sona.NotFiniteError, lambda: memory.learn(q, [0], ids, vectors, scores=np.full(12, np.nan))),
        (sona.NotFiniteError, lambda: gate.observe(memory, q, [0], ids, broken)),
        (sona.NotFiniteError, lambda: memory.scores(q, ids, vectors, base=np.full(12, np.inf))),
        (sona.DimensionMismatch, lambda: memory.adapt(q[:5])),
        (sona.DimensionMismatch, lambda: memory.scores(q, ids, vectors[:, :5])),
        (sona.ShapeError, lambda: memory.adapt(vectors)),
        (sona.ShapeError, lambda: memory.scores(q, ids, vectors[0])),
        (sona.ShapeError, lambda: memory.scores(q, ids[:3], vectors)),
        (sona.ShapeError, lambda: memory.scores(q, ids, vectors, base=np.zeros(3))),
        (sona.ShapeError, lambda: memory.learn(q, [0], ids, vectors, scores=np.zeros(3))),
        (ValueError, lambda: memory.learn(q, [99], ids, vectors)),
        (ValueError, lambda: memory.learn(q, [], ids, vectors)),
        (ValueError, lambda: memory.learn(q, [0], [0, *ids[:-1]], vectors)),
        (ValueError, lambda: memory.learn(q, [0], ids, vectors, weight=0.0)),
        (ValueError, lambda: memory.learn(q, [0], ids, vectors, weight=float("nan"))),
        (ValueError, lambda: memory.learn(q, [0], ids, vectors, weight=1e9)),
        (ValueError, lambda: memory.learn(np.zeros(16), [0], ids, vectors)),
        (ValueError, lambda: gate.observe(memory, q, [99], ids, vectors)),
        (ValueError, lambda: gate.observe(memory, q, [], ids, vectors)),
    ]:
        with pytest.raises(error):
            call()
    assert (memory.to_bytes(), gate.to_bytes()) == before
    zero = np.zeros(16, np.float32)
    assert not memory.adapt(zero).any()
    assert memory.scores(q, [], np.empty((0, 16))).shape == (0,)


def test_hostile_bytes_are_refused():
    rng, vectors, near = world(10)
    memory, gate = CaseMemory(16), ItemGate()
    feed(memory, vectors, near, rng, 4)
    for cls, data in ((CaseMemory, memory.to_bytes()), (ItemGate, gate.to_bytes())):
        damaged = [data[:i] for i in range(0, len(data), 7)]
        damaged += [data[:i] + bytes([data[i] ^ 0x40]) + data[i + 1 :] for i in range(0, len(data), 5)]
        for bad in [*damaged, b"", b"x" * 100, data + b"\0"]:
            with pytest.raises(sona.CorruptStateError):
                cls.from_bytes(bad)
    with pytest.raises(sona.CorruptStateError):
        CaseMemory.from_bytes(gate.to_bytes())


def test_readers_see_whole_snapshots_while_a_writer_learns():
    _, vectors, near = world(11)
    memory, gate = CaseMemory(16, neighbors=16), ItemGate(warmup=5)
    ids, q = list(range(12)), near(0)
    requests = [(near(i % 12), i % 12) for i in range(300)]
    reference = CaseMemory(16, neighbors=16)
    allowed = {reference.scores(q, ids, vectors).tobytes()}
    for r, item in requests:
        reference.learn(r, [item], ids, vectors)
        allowed.add(reference.scores(q, ids, vectors).tobytes())
    failures, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                if memory.scores(q, ids, vectors).tobytes() not in allowed:
                    failures.append("a state that never was")
                if not np.isfinite(gate.scores(memory, q, ids, vectors)).all():
                    failures.append("not finite")
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            failures.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for t in readers:
        t.start()
    for r, item in requests:
        gate.observe(memory, r, [item], ids, vectors)
        memory.learn(r, [item], ids, vectors)
    done.set()
    for t in readers:
        t.join(60)
        assert not t.is_alive()
    assert not failures
    assert memory.scores(q, ids, vectors).tobytes() == reference.scores(q, ids, vectors).tobytes()


def test_writers_take_turns():
    _, vectors, near = world(12)
    memory, requests = CaseMemory(16), [near(i % 12) for i in range(120)]

    def write(part):
        for q in part:
            memory.learn(q, [0], range(12), vectors)

    writers = [threading.Thread(target=write, args=(requests[i::4],)) for i in range(4)]
    for t in writers:
        t.start()
    for t in writers:
        t.join(60)
    assert memory.cases_of().tolist() == list(range(120))


def test_budget_holds_and_rare_items_stay():
    _, vectors, near = world(13)
    memory = CaseMemory(16, max_bytes=30_000)
    for item in range(12):
        memory.learn(near(item), [item], range(12), vectors)
    for _ in range(300):
        memory.learn(near(0), [0], range(12), vectors)
        assert memory.nbytes <= 30_000
    m = memory.metrics()
    assert (m["learned"], m["items"]) == (312, 12)
    assert m["evicted"] == 312 - len(memory) > 0


def test_gate_gives_unproven_items_their_chance():
    """Clicks come on half of the items only: the others sink without the gate, less with it."""
    rng, vectors, _ = world(14, items=20, dim=24)

    def near(item):
        return unit(vectors[item] + 1.1 * unit(rng.standard_normal(24)))

    memory, gate, ids = CaseMemory(24), ItemGate(nu=0.5), list(range(20))
    for _ in range(600):
        item = int(rng.integers(10))
        q = near(item)
        gate.observe(memory, q, [item], ids, vectors)
        memory.learn(q, [item], ids, vectors)
    assert all(gate.has_evidence(i) for i in range(10))
    assert not any(gate.has_evidence(i) for i in range(10, 20))
    assert gate.beta > 0 or gate.lambda_ > 0
    hits = {"plain": 0, "gated": 0}
    for item in list(range(10, 20)) * 20:
        q = near(item)
        hits["plain"] += int(memory.scores(q, ids, vectors).argmax() == item)
        hits["gated"] += int(gate.scores(memory, q, ids, vectors).argmax() == item)
    assert hits["gated"] > hits["plain"]


@pytest.mark.parametrize("mode", ["evidence", "multiplier", "off"])
def test_gate_modes_and_repr(mode):
    _, vectors, near = world(15)
    memory, gate = CaseMemory(16, eta=0.5), ItemGate(mode=mode, nu=0.1)
    for i in range(30):
        gate.observe(memory, near(i % 6), [i % 6], range(12), vectors)
        memory.learn(near(i % 6), [i % 6], range(12), vectors)
    assert gate.mode == mode
    assert gate.metrics()["observed"] == 30
    assert f"mode='{mode}', nu=0.1" in repr(gate)
    assert "CaseMemory(16, eta=0.5): 30 cases" in repr(memory)
    if mode == "off":
        q = near(0)
        plain = memory.scores(q, range(12), vectors)
        assert gate.scores(memory, q, range(12), vectors).tobytes() == plain.tobytes()
