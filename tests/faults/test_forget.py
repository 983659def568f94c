"""`forget` and `purge`: the state is what it would be had they never been here, and no file holds a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import SonaEngine

from .conftest import DIM, World

SECRET = "ann@example.org"

# One event: which scope, which user, which query, what was chosen, and whether feedback came.
_events = st.lists(
    st.tuples(
        st.sampled_from(World.scopes),
        st.sampled_from([SECRET, "bob", "cy"]),
        st.integers(0, 63),
        st.integers(0, 11),
        st.sampled_from(["click", "judge", None, "trace click", "trace judge"]),
    ),
    max_size=25,
)


def drive(world: World, engine: SonaEngine, events, *, without_user: str = "", without_source: str = "") -> None:
    for n, (scope, user, query, chosen, source) in enumerate(events):
        if user == without_user:
            continue
        if source in ("trace click", "trace judge"):
            source = source.removeprefix("trace ")
            if source != without_source:
                world.trace(engine, n, scope=scope, user=user, source=source)
            continue
        decision = engine.rank(world.query(query), world.ids, world.docs, scope=scope, k=4, user=user, now=1e6 + n)
        if source is not None and source != without_source:
            engine.feedback(decision.id, chosen=world.ids[chosen], source=source, user=user, now=1e6 + n)


@settings(max_examples=40, deadline=None)
@given(events=_events)
def test_forgetting_equals_never_having_been_here(world, tmp_path_factory, events):
    directory = tmp_path_factory.mktemp("forget")
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
    assert SECRET.encode() not in in_memory.to_bytes()


@settings(max_examples=25, deadline=None)
@given(events=_events)
def test_purging_a_source_equals_never_having_heard_it(world, tmp_path_factory, events):
    directory = tmp_path_factory.mktemp("purge")
    with world.open(directory / "never", fsync="none") as never:
        drive(world, never, events, without_source="judge")
        expected = world.digests(never)
    with world.open(directory / "state", fsync="none") as engine:
        drive(world, engine, events)
        engine.purge(source="judge")
        assert world.digests(engine) == expected
    with world.open(directory / "state") as engine:
        assert world.digests(engine) == expected


def windows(vector: np.ndarray) -> list[bytes]:
    """Any four consecutive numbers of a vector, as stored."""
    raw = np.ascontiguousarray(vector, dtype="<f4")
    return [raw[i : i + 4].tobytes() for i in range(0, len(raw) - 3, 2)]


def traces(directory: Path, needles: list[bytes]) -> list[str]:
    found = []
    for path in directory.rglob("*"):
        assert not any(n in str(path).encode() for n in needles), path
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path.name}: {n!r}" for n in needles if n in data]
    return found


@pytest.mark.parametrize("reopened", [False, True])
def test_no_file_holds_the_user_or_their_vectors(world, tmp_path, reopened):
    rng = np.random.default_rng(7)
    private_query = rng.normal(size=DIM).astype(np.float32)
    private_item = rng.normal(size=DIM).astype(np.float32)
    unit = private_query / np.linalg.norm(private_query)
    directory = tmp_path / "state"
    with world.open(directory) as engine:
        for n in range(10):
            world.step(engine, n, user="bob")
        decision = engine.rank(
            private_query,
            [*world.ids, "ann's own document"],
            np.vstack([world.docs, private_item]),
            scope="acme",
            user=SECRET,
            now=1e6,
        )
        engine.feedback(decision.id, chosen="ann's own document", source="click", user=SECRET, now=1e6)
        with engine.trace(private_query, scope="acme", user=SECRET, now=1e6) as t:
            t.step(private_item, reward=1.0)
            t.finish(quality=1.0)
        engine.checkpoint()
        for n in range(10, 20):
            world.step(engine, n, user="bob")
        needles = [SECRET.encode(), b"ann's own", *windows(private_query), *windows(private_item)]
        if not reopened:
            assert traces(directory, needles), "the test finds what it looks for while it is there"
            engine.forget(user=SECRET)
            assert not traces(directory, [*needles, *windows(unit)])
    if reopened:
        with world.open(directory) as engine:
            engine.forget(user=SECRET)
    assert not traces(directory, [*needles, *windows(unit)])
    with world.open(directory) as engine:
        for needle in [*needles, *windows(unit)]:
            assert needle not in engine.to_bytes()
        assert engine.forget(user=SECRET).events == 0


def test_another_living_process_is_named_and_the_rest_is_gone(world, tmp_path):
    directory = tmp_path / "state"
    with world.open(directory) as first, world.open(directory) as second:
        for n in range(6):
            world.step(first, n, user=SECRET if n % 2 else "bob")
            world.step(second, 100 + n, user=SECRET if n % 2 else "bob")
        receipt = first.forget(user=SECRET)
        assert len(receipt.alive) == 1
        second.forget(user=SECRET)
        for n in range(10, 14):
            world.step(first, n, user="bob")
            world.step(second, 110 + n, user="bob")
        assert first.refresh() >= 4
        assert second.refresh() >= 4
    assert not traces(directory, [SECRET.encode()])
