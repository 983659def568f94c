"""The router of an engine: what survives a killed process, and what forgetting a user takes out of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine, TinyDancerRouter
from sona.exceptions import CorruptStateError
from sona.process import Answer, Context, Model
from sona.routing import BudgetPacer

D = 8
PRICES = {"small": 1.0, "big": 10.0}


def vector(i):
    return np.random.default_rng(i).normal(size=D).astype(np.float32)


def good(question, text, context):
    return float((int(question) * 7919) % 5 > 1)


def models():
    return {name: Model(lambda q, c, n=name: Answer(n, cost=0.1 * len(n)), price) for name, price in PRICES.items()}


def router(**options):
    # The cheap one answers always, whoever was there before: so that two histories make the same choices.
    out = TinyDancerRouter(PRICES, dim=D, **{"cost_weight": 1e6, "alpha": 1.0, "exploration": 0.0, "seed": 3, **options})
    for i, model in enumerate(["small", "big"] * 2):
        out.learn(vector(90_000 + i), model, 0.5)
    return out


def engine(store=None, **options):
    return SonaEngine(SonaConfig(hidden_dim=D), models=models(), judge=good, store=store, **options)


def serve(eng, requests):
    return [eng.process(str(i), Context(user_id=user), embedding=vector(i)) for i, user in requests]


MIXED = [(i, "eve" if i % 3 == 0 else "bob") for i in range(120)]
WITHOUT = [(i, user) for i, user in MIXED if user != "eve"]
PROBES = np.stack([vector(10_000 + i) for i in range(40)])


def summary(eng):
    return {m: {k: v for k, v in row.items() if k != "mean_latency_ms"} for m, row in eng.router.summary().items()}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("predictor", ["hybrid", "linear", "knn", "logistic", "linucb", "thompson", "fastgrnn"])
def test_forgetting_is_as_if_the_user_had_never_been(tmp_path, durable, predictor):
    with (
        engine(tmp_path / "a" if durable else None, router=router(predictor=predictor)) as eng,
        engine(router=router(predictor=predictor)) as never,
    ):
        held = eng.router
        serve(eng, MIXED)
        serve(never, WITHOUT)
        before = eng.router.estimate(PROBES)[0]
        assert not np.array_equal(before, never.router.estimate(PROBES)[0])
        eng.forget(user="eve")
        assert eng.router is held
        for mine, theirs in zip(eng.router.estimate(PROBES), never.router.estimate(PROBES), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert summary(eng) == summary(never)
        counts = ("cases", "outcomes", "decisions", "pending", "components")
        assert [eng.router.metrics()[k] for k in counts] == [never.router.metrics()[k] for k in counts]
        # And from then on, together.
        more = [(i, "bob") for i in range(500, 560)]
        assert [a.model for a in serve(eng, more)] == [a.model for a in serve(never, more)]
        np.testing.assert_array_equal(eng.router.estimate(PROBES)[0], never.router.estimate(PROBES)[0])
        last = eng.router.to_bytes()
    if durable:
        with engine(tmp_path / "a") as again:
            assert again.router.to_bytes() == last


def test_nothing_of_a_forgotten_user_stays_on_disk(tmp_path):
    with engine(tmp_path, router=router()) as eng:
        serve(eng, MIXED)
        eng.close()
    with engine(tmp_path) as eng:
        eng.forget(user="eve")
        found = [p.name for p in (tmp_path / "router").rglob("*") if p.is_file() and (b"eve" in p.read_bytes())]
        vectors = [vector(i).tobytes() for i, user in MIXED if user == "eve"]
        leaks = [p for p in (tmp_path / "router").rglob("*") if p.is_file() and any(v in p.read_bytes() for v in vectors)]
        assert (found, leaks) == ([], [])
        kept = vector(1).tobytes()
        assert any(kept in p.read_bytes() for p in (tmp_path / "router").rglob("events"))


def test_a_late_outcome_of_a_forgotten_decision_finds_nothing(tmp_path):
    for store in (None, tmp_path):
        with SonaEngine(SonaConfig(hidden_dim=D), models=models(), store=store) as eng:
            mine = eng.process("1", Context(user_id="eve"), embedding=vector(1))
            other = eng.process("2", Context(user_id="bob"), embedding=vector(2))
            eng.forget(user="eve")
            assert not eng.outcome(mine.decision_id, 1.0)
            assert eng.router.metrics()["pending"] == 1
            assert eng.outcome(other.decision_id, 1.0)
            assert not eng.outcome(other.decision_id, 1.0)
            fresh = eng.process("3", Context(user_id="bob"), embedding=vector(3))
            assert fresh.decision_id not in (mine.decision_id, other.decision_id)
            assert eng.router.metrics()["outcomes"] == 1
            # Forgetting a stranger changes nothing.
            before = eng.router.to_bytes()
            eng.forget(user="nobody")
            assert eng.router.to_bytes() == before


def test_what_was_spent_stays_spent(tmp_path):
    budget = BudgetPacer(50.0, horizon=1000, per="requests")
    with engine(tmp_path, router=router(budget=budget, tenant_budget=BudgetPacer(9.0, horizon=1000, per="requests"))) as eng:
        serve(eng, MIXED)
        left = budget.remaining
        eng.forget(user="eve")
        assert budget.remaining == left == eng.router.budget.remaining
        serve(eng, [(1, "bob")])
        assert budget.remaining == eng.router.budget.remaining < left


KILLED = """
import os, sys
sys.path.insert(0, {here!r})
from test_process_journal import *
eng = engine({store!r}, router=TinyDancerRouter(PRICES, dim=D, exploration=0.2, seed=5))
serve(eng, MIXED)
late = SonaEngine.process(eng, "5", Context(user_id="bob"), embedding=vector(5))
open({out!r}, "wb").write(eng.router.to_bytes())
os._exit(9)
"""


def test_a_killed_process_loses_nothing_that_was_told(tmp_path):
    store, out = tmp_path / "state", tmp_path / "out"
    script = textwrap.dedent(KILLED).format(here=os.path.dirname(__file__), store=str(store), out=str(out))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    with engine(store) as eng:
        assert eng.router.to_bytes() == out.read_bytes()
        assert eng.router.metrics()["outcomes"] == 121
        # Never stopped, and stopped after every request: the same answers.
        straight = TinyDancerRouter.from_bytes(eng.router.to_bytes())
    for i in range(200, 212):
        with engine(store) as eng:
            answer = eng.process(str(i), embedding=vector(i))
        d = straight.route(vector(i), candidates=list(PRICES), tenant="default")
        straight.feedback(d.decision_id, answer.quality, cost=answer.cost)
        assert (answer.model, answer.decision_id) == (d.model, d.decision_id)
    with engine(store) as eng:
        np.testing.assert_array_equal(eng.router.estimate(PROBES)[0], straight.estimate(PROBES)[0])


def test_lists_are_written_down_as_the_router_reads_them(tmp_path):
    with engine(tmp_path) as eng:
        for i in range(40):
            eng.process(str(i), embedding=np.random.default_rng(i).normal(size=D).tolist())
        whole = eng.router.to_bytes()
    (tmp_path / "router" / "0001" / "checkpoint").unlink()
    with engine(tmp_path) as eng:
        assert eng.router.to_bytes() == whole


def test_two_engines_in_one_directory(tmp_path):
    with engine(tmp_path, router=router()) as first, engine(tmp_path, router=router()) as second:
        serve(first, MIXED)
        serve(second, MIXED[:30])
        assert [e.router.metrics()["outcomes"] for e in (first, second)] == [124, 34]
    with engine(tmp_path) as eng:
        assert eng.router.metrics()["outcomes"] == 124
        eng.forget(user="eve")
        # The second writer ended: its part went too.
        assert not any(b"eve" in p.read_bytes() for p in (tmp_path / "router").rglob("events"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_goes_on_by_itself(tmp_path):
    with engine(tmp_path, router=router()) as eng:
        serve(eng, MIXED[:30])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                serve(eng, MIXED[30:50])
                code = 0 if eng.router.metrics()["outcomes"] == 54 else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        serve(eng, MIXED[30:40])
        assert eng.router.metrics()["outcomes"] == 44
    assert sorted(p.name for p in (tmp_path / "router").iterdir()) == ["0001", "0002"]


def test_damage(tmp_path):
    with engine(tmp_path, router=router()) as eng:
        serve(eng, MIXED)
        whole = eng.router.to_bytes()
    folder = tmp_path / "router" / "0001"
    # The checkpoint only saves time.
    for damage in (b"", b"12345678", (folder / "checkpoint").read_bytes()[:-7], (10**9).to_bytes(8, "little") + whole):
        (folder / "checkpoint").write_bytes(damage)
        with engine(tmp_path) as eng:
            assert eng.router.to_bytes() == whole
    (folder / "base").write_bytes(b"nonsense")
    (folder / "checkpoint").unlink()
    with pytest.raises(CorruptStateError):
        engine(tmp_path)
    from sona.process_journal import _unpack

    for bad in (b"", b"\x00", b"\xff\xff\xff\xff{}", b"\x02\x00\x00\x00[]", b"\x02\x00\x00\x00{}", b"\x01\x00\x00\x00{123"):
        with pytest.raises(CorruptStateError):
            _unpack(bad)


def test_threads_and_forgetting(tmp_path):
    with engine(tmp_path, router=router()) as eng:
        errors = []

        def run(user, start):
            try:
                serve(eng, [(i, user) for i in range(start, start + 60)])
            except Exception as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=run, args=(u, 1000 * n)) for n, u in enumerate(("eve", "bob", "eve", "ann"))]
        for t in threads:
            t.start()
        for _ in range(5):
            eng.forget(user="eve")
        for t in threads:
            t.join()
        eng.forget(user="eve")
        assert errors == []
        assert eng.router.metrics()["outcomes"] == 124
        last = eng.router.to_bytes()
    with engine(tmp_path) as eng:
        assert eng.router.to_bytes() == last


def test_models_that_are_gone(tmp_path):
    three = {**models(), "dear": Model(lambda q, c: "dear", 99.0)}
    sure = TinyDancerRouter({m: three[m].price for m in three}, dim=D, exploration=0.0)
    with SonaEngine(SonaConfig(hidden_dim=D), models=three, store=tmp_path, router=sure) as eng:
        first = eng.process("1", Context(user_id="bob"), embedding=vector(1))
        assert first.model == "dear"
    only = {"small": models()["small"]}
    with SonaEngine(SonaConfig(hidden_dim=D), models=only, judge=good, store=tmp_path) as eng:
        assert {a.model for a in serve(eng, MIXED)} == {"small"}
        # An outcome of a model that is gone is still one.
        assert eng.outcome(first.decision_id, 1.0)
        eng.forget(user="eve")
        assert eng.router.metrics()["outcomes"] == len(WITHOUT) + 1
        assert list(eng.router.models) == ["small", "big", "dear"]
        whole = eng.router.to_bytes()
    (tmp_path / "router" / "0001" / "checkpoint").unlink()
    with engine(tmp_path) as eng:
        assert np.array_equal(eng.router.estimate(PROBES)[0], TinyDancerRouter.from_bytes(whole).estimate(PROBES)[0])
