"""The router of an engine: what `save` keeps, what a full log folds, and what forgetting still finds."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine, TinyDancerRouter, process_journal
from sona.exceptions import CorruptStateError, StoreError
from sona.process import Context, Model
from test_process_journal import MIXED, PRICES, PROBES, WITHOUT, D, engine, good, models, router, serve, summary, vector


def same(a, b):
    for mine, theirs in zip(a.router.estimate(PROBES), b.router.estimate(PROBES), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert summary(a) == summary(b)


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_what_was_saved_goes_on_as_if_it_had_never_stopped(tmp_path, durable, by_file):
    fresh = TinyDancerRouter(PRICES, dim=D, exploration=0.2, seed=5)
    with engine(tmp_path / "state" if durable else None, router=fresh) as eng:
        late = serve(eng, MIXED)[-1]
        pending = SonaEngine.process(eng, "5", Context(user_id="bob"), embedding=vector(5))
        # Taught beside `process`: in no event, but in the router.
        eng.router.learn(vector(77), "small", 0.75)
        if by_file:
            eng.save(tmp_path / "one")
            again = SonaEngine.load(tmp_path / "one", models=models(), judge=good)
        else:
            again = SonaEngine.from_bytes(eng.to_bytes(), models=models(), judge=good)
        with again:
            assert again.router.to_bytes() == eng.router.to_bytes()
            assert again.to_bytes() == SonaEngine.from_bytes(again.to_bytes()).to_bytes()
            more = [(i, "ann") for i in range(300, 360)]
            assert [a.model for a in serve(again, more)] == [a.model for a in serve(eng, more)]
            same(again, eng)
            assert not again.outcome(late.decision_id, 1.0)
            assert pending.decision_id


def test_a_user_is_forgotten_in_what_was_saved(tmp_path):
    with engine(router=router()) as eng, engine(router=router()) as never:
        serve(eng, MIXED)
        serve(never, WITHOUT)
        eng.save(tmp_path / "one")
        # With and without models at hand.
        with SonaEngine.load(tmp_path / "one") as bare:
            assert bare.router is not None
            receipt = bare.forget(user="eve")
            assert receipt.router_events == 2 * (len(MIXED) - len(WITHOUT))
            same(bare, never)
            bare.save(tmp_path / "two")
        with SonaEngine.load(tmp_path / "two", models=models(), judge=good) as again:
            same(again, never)
            assert again.forget(user="eve").router_events == 0
            assert b"eve" not in (tmp_path / "two").read_bytes()


def test_receipts_count_what_the_router_lost(tmp_path):
    eves = sum(user == "eve" for _, user in MIXED)
    for store in (None, tmp_path):
        with engine(store, router=router()) as eng:
            serve(eng, MIXED)
            assert eng.forget(user="nobody").router_events == 0
            assert eng.forget(user="eve").router_events == 2 * eves
            assert eng.forget(user="eve").router_events == 0


def test_an_engine_without_models_forgets_in_the_directory(tmp_path):
    with engine(tmp_path, router=router()) as eng:
        serve(eng, MIXED)
    with SonaEngine.load(tmp_path) as bare:
        assert bare.router is None
        assert bare.forget(user="eve").router_events == 2 * (len(MIXED) - len(WITHOUT))
    assert not any(b"eve" in p.read_bytes() for p in (tmp_path / "router").rglob("*") if p.is_file())
    with engine(tmp_path) as eng, engine(router=router()) as never:
        serve(never, WITHOUT)
        same(eng, never)


@pytest.fixture
def small(monkeypatch):
    """A log that is full after about 70 requests."""
    for name in ("LOG_BYTES", "MEMORY_BYTES"):
        monkeypatch.setattr(process_journal, name, 25_000)


@pytest.mark.parametrize("durable", [False, True])
def test_a_full_log_is_folded_and_the_router_stays_as_it_is(tmp_path, small, durable):
    with (
        engine(tmp_path / "a" if durable else None, router=router()) as eng,
        engine(router=router(), store=tmp_path / "b") as unbounded,
    ):
        unbounded._journal._marked, unbounded._journal._fold = True, lambda: None
        requests = [(i, f"user{i}") for i in range(400)]
        for begin in range(0, 400, 40):
            serve(eng, requests[begin : begin + 40])
            assert eng._journal._log.nbytes < 26_000
        serve(unbounded, requests)
        assert unbounded._journal._log.nbytes > 100_000
        same(eng, unbounded)
        # One whose events are all there is forgotten as without a bound.
        assert eng.forget(user="user399").router_events == unbounded.forget(user="user399").router_events == 2
        same(eng, unbounded)
        last = eng.router.to_bytes()
        if durable:
            eng.close()
            (tmp_path / "a" / "router" / "0001" / "checkpoint").unlink()
            with engine(tmp_path / "a") as again:
                np.testing.assert_array_equal(
                    again.router.estimate(PROBES)[0], TinyDancerRouter.from_bytes(last).estimate(PROBES)[0]
                )
                assert again._journal._base.knows("user0")
                assert not again._journal._base.knows("user399")


@pytest.mark.parametrize("durable", [False, True])
def test_forgetting_one_who_was_folded_begins_again_with_what_is_left(tmp_path, small, durable):
    store = tmp_path / "a" if durable else None
    three = {**models(), "third": Model(lambda q, c: "third", 5.0)}
    with engine(store, router=router()) as eng:
        serve(eng, MIXED)
        first = eng
        if durable:
            eng.close()
            first = SonaEngine(SonaConfig(hidden_dim=D), models=three, judge=good, store=store)
        serve(first, [(i, "bob") for i in range(400, 500)])
        late = first.process("700", Context(user_id="bob"), embedding=vector(700))
        assert first._journal._base.knows("eve")
        kept = [
            int(np.flatnonzero([np.array_equal(x, vector(i)) for i in range(800)])[0])
            for head, x in first._journal._records(first._journal._base.seq)
            if head["kind"] == "decision"
        ]
        assert 10 < len(kept) < 100
        # Numbers are not given out again, and late outcomes of what is left count.
        first.forget(user="eve")
        assert first._journal._base.folded == frozenset()
        with SonaEngine(SonaConfig(hidden_dim=D), models=first._processor.models, judge=good, router=None) as never:
            begun = router()
            for name in first.router.models:
                if name not in begun.models:
                    begun.add_model(name, 5.0)
            never._journal.router = never._processor.journal.router = begun
            serve(never, [(i, "bob") for i in kept])
            same(first, never)
        assert int(first.process("9", embedding=vector(9)).decision_id[2:]) > int(late.decision_id[2:])
        last = first.router.to_bytes()
        first.close()
    if durable:
        with SonaEngine.load(store, models=three, judge=good) as again:
            assert again.router.to_bytes() == last
        assert not any(vector(0).tobytes() in p.read_bytes() for p in (tmp_path / "a" / "router").rglob("*") if p.is_file())


KILLED = """
import os, sys
sys.path.insert(0, {here!r})
from test_process_saved import *
process_journal.LOG_BYTES = 25_000
steps = iter(range(10**9))
def maybe(f):
    def run(*args):
        if armed and next(steps) == {at}:
            open({out!r}, "wb").write(before)
            os._exit(9)
        return f(*args)
    return run
armed, before = False, b""
from sona.process_log import Files
Files.write, Files.remove = maybe(Files.write), maybe(Files.remove)
eng = engine({store!r}, router=router())
fold, append = eng._journal._fold, eng._journal._log.checkpoint
def folding():
    global armed, before
    before, armed = eng.router.to_bytes(), True
    fold()
    armed = False
eng._journal._fold = folding
serve(eng, [(i, f"user{{i}}") for i in range(200)])
if {after}:
    before, armed = eng.router.to_bytes(), True
    eng.forget(user="user0")
os._exit(3)
"""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_killed_while_folding_or_forgetting(tmp_path, at, after):
    store, out = tmp_path / "state", tmp_path / "out"
    # The first fold, or the forgetting of one who was folded before.
    script = textwrap.dedent(KILLED).format(
        here=os.path.dirname(__file__), store=str(store), out=str(out), at=at + (6 if after else 0), after=after
    )
    code = subprocess.run([sys.executable, "-c", script], check=False).returncode
    assert code == 9
    with engine(store) as eng:
        was = TinyDancerRouter.from_bytes(out.read_bytes())
        if not after:
            np.testing.assert_array_equal(eng.router.estimate(PROBES)[0], was.estimate(PROBES)[0])
        # Said again, it is done; nothing is left of the user, and the next opening agrees.
        eng.forget(user="user0")
        last = eng.router.to_bytes()
    assert not any(vector(0).tobytes() in p.read_bytes() for p in (store / "router").rglob("*") if p.is_file())
    with engine(store) as eng:
        assert eng.router.to_bytes() == last


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_forget_users_of_its_parent(tmp_path):
    for store in (None, tmp_path):
        with engine(store, router=router()) as eng:
            serve(eng, MIXED)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    serve(eng, [(500, "ann")])
                    eng.forget(user="eve")
                    with engine(router=router()) as never:
                        # In a directory the log is the parent's: the child begins again with its own events.
                        serve(never, [*(WITHOUT if store is None else []), (500, "ann")])
                        code = 0 if np.array_equal(eng.router.estimate(PROBES)[0], never.router.estimate(PROBES)[0]) else 2
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0


def test_damage(tmp_path):
    with engine(router=router()) as eng:
        serve(eng, MIXED[:20])
        whole = eng.to_bytes()
        with pytest.raises(StoreError):
            eng.save(tmp_path / "nowhere" / "file")
    for damage in (whole[:-1], whole[:40], whole[:100] + b"x" + whole[101:], b"SPRT\x01", whole + b"\x00"):
        with pytest.raises(CorruptStateError):
            SonaEngine.from_bytes(damage)
        (tmp_path / "file").write_bytes(damage)
        with pytest.raises(CorruptStateError):
            SonaEngine.load(tmp_path / "file")
