"""`forget` and `purge` with background cycles, living writers and evicted items: the same bits as had they never been here."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import SonaConfig, SonaEngine

from .conftest import DIM, World
from .test_forget import SECRET, traces

# Scope, user, query, chosen, source; None runs a background cycle.
_event = st.tuples(
    st.sampled_from(World.scopes),
    st.sampled_from([SECRET, "bob", "cy"]),
    st.integers(0, 63),
    st.integers(0, 11),
    st.sampled_from(["click", "judge"]),
)
_events = st.lists(st.one_of(st.none(), _event, _event, _event), max_size=30)


def drive(world: World, engine: SonaEngine, events, *, without_user: str = "", without_source: str = "") -> None:
    for n, event in enumerate(events):
        if event is None:
            engine.background_learn(now=1e6 + n)
            continue
        scope, user, query, chosen, source = event
        if user == without_user:
            continue
        if n % 3 == 0:
            if source != without_source:
                world.trace(engine, n, scope=scope, user=user, source=source)
            continue
        decision = engine.rank(world.query(query), world.ids, world.docs, scope=scope, k=4, user=user, now=1e6 + n)
        if source != without_source:
            engine.feedback(decision.id, chosen=world.ids[chosen], source=source, user=user, now=1e6 + n)


@settings(max_examples=30, deadline=None)
@given(events=_events)
def test_forgetting_with_cycles_equals_never_having_been_here(world, tmp_path_factory, events):
    directory = tmp_path_factory.mktemp("cycles")
    with world.open(directory / "never", fsync="none") as never:
        drive(world, never, events, without_user=SECRET)
        expected = world.digests(never)
    with world.open(directory / "state", fsync="none") as engine:
        drive(world, engine, events)
        engine.forget(user=SECRET)
        assert world.digests(engine) == expected
    with world.open(directory / "state") as engine:
        assert world.digests(engine) == expected
    in_memory = SonaEngine(world.config)
    drive(world, in_memory, events)
    in_memory.forget(user=SECRET)
    assert world.digests(in_memory) == expected


@settings(max_examples=20, deadline=None)
@given(events=_events)
def test_purging_with_cycles_equals_never_having_heard_it(world, tmp_path_factory, events):
    directory = tmp_path_factory.mktemp("cycles")
    with world.open(directory / "never", fsync="none") as never:
        drive(world, never, events, without_source="judge")
        expected = world.digests(never)
    with world.open(directory / "state", fsync="none") as engine:
        drive(world, engine, events)
        engine.purge(source="judge")
        assert world.digests(engine) == expected


def test_cycles_that_train_an_adapter_replay_although_their_items_were_evicted(tmp_path):
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(60, DIM)).astype(np.float32)
    # Room for a third of the items: which are left when a cycle runs depends on the order of requests.
    config = SonaConfig(hidden_dim=DIM, user_cap_per_minute=0, item_bytes=20 * 200, base_lora_lr=0.01)
    with SonaEngine(config, store=tmp_path / "state") as engine:
        for n in range(300):
            some = rng.permutation(60)[:12]
            query = docs[some[0]] + 0.3 * rng.normal(size=DIM).astype(np.float32)
            decision = engine.rank(query, [int(i) for i in some], docs[some], k=12, now=float(n))
            engine.feedback(decision, chosen=int(some[0]), now=float(n))
            if n % 100 == 99:
                result = engine.background_learn(now=float(n))
        assert engine.metrics()["items_evicted"] > 0
        assert result.scopes[0].trained_on >= 100
        expected = engine.digest()
    for path in (tmp_path / "state" / "snapshots").iterdir():
        path.unlink()
    with SonaEngine(config, store=tmp_path / "state") as engine:
        assert engine.digest() == expected


def test_a_living_writer_forgets_at_its_next_call(world, tmp_path):
    directory = tmp_path / "state"
    with world.open(directory) as first, world.open(directory) as second:
        for n in range(8):
            world.step(first, n, user=SECRET if n % 2 else "bob")
            world.step(second, 100 + n, user=SECRET if n % 2 else "bob")
        assert second.metrics()["cases"] == 8
        receipt = first.forget(user=SECRET)
        assert len(receipt.alive) == 1
        assert first.metrics()["forgets_waiting"] == 1
        assert traces(directory, [SECRET.encode()]), "the other writer has not called yet"
        # The first writer does not learn it back from there, neither by looking nor by going back in time.
        cases = first.metrics()["cases"]
        first.refresh()
        first.rollback(first.version)
        assert first.metrics()["cases"] == cases
        world.step(second, 200, user="bob")
        assert not traces(directory, [SECRET.encode()])
        assert first.metrics()["forgets_waiting"] == second.metrics()["forgets_waiting"] == 0
        assert not list((directory / "forget").iterdir())
        # Whoever comes back is welcome.
        world.step(second, 201, user=SECRET)
        assert traces(directory, [SECRET.encode()])


def test_a_request_to_a_writer_that_ends_is_honoured_at_the_next_opening(world, tmp_path):
    directory = tmp_path / "state"
    with world.open(directory) as first:
        second = world.open(directory)
        for n in range(6):
            world.step(second, n, user=SECRET if n % 2 else "bob")
        kept = (directory / "events" / "writer-00002.log").read_bytes()
        first.forget(user=SECRET)
        assert first.metrics()["forgets_waiting"] == 1
        request = {p.name: p.read_bytes() for p in (directory / "forget").iterdir()}
        second.close()
    # As if the second had been killed before its next call.
    (directory / "events" / "writer-00002.log").write_bytes(kept)
    (directory / "forget").mkdir(exist_ok=True)
    for name, data in request.items():
        (directory / "forget" / name).write_bytes(data)
    for path in (directory / "snapshots").iterdir():
        path.unlink()
    assert traces(directory, [SECRET.encode()])
    with world.open(directory) as again:
        assert again.metrics()["forgets_waiting"] == 0
        assert again.metrics()["cases"] == 3
    assert not traces(directory, [SECRET.encode()])
