"""Damaged state files: what opens is a true prefix of the history, or `CorruptStateError` says why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sona import CorruptStateError, SonaEngine
from sona.store import SnapshotStore

from .conftest import World, state_files

STEPS = 12


def history(world: World, directory: Path, *, snapshot_at: int | None) -> list[dict[str, str]]:
    """Run an engine that ends as if it was killed; what it knew after each event that it learned from."""
    engine = world.open(directory, fsync="none")
    known = [world.digests(engine)]
    for n in range(STEPS):
        world.step(engine, n, traces=False)
        known.append(world.digests(engine))
        if n % 4 == 0:
            world.trace(engine, n, scope="acme", user="ann")
            known.append(world.digests(engine))
        if n == STEPS - 3:
            # Scope by scope: each publication is an event.
            before = known[-1]
            engine.background_learn()
            after = world.digests(engine)
            for i in range(1, len(world.scopes) + 1):
                done = sorted(engine.scopes)[:i]
                known.append({s: (after if s in done else before)[s] for s in world.scopes})
        if n == snapshot_at:
            engine.checkpoint()
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    engine.close()
    shutil.rmtree(directory)
    copy.rename(directory)
    return known


def opens_to_a_prefix(world: World, directory: Path, known: list[dict[str, str]]) -> int | None:
    """How many events came back; None if the state was refused."""
    try:
        engine = world.open(directory, fsync="none")
    except CorruptStateError:
        return None
    with engine:
        digests = world.digests(engine)
        assert digests in known, "neither a prefix nor refused"
        world.step(engine, 1000)
        return known.index(digests)


@pytest.mark.parametrize("snapshot_at", [None, STEPS // 2])
def test_every_state_file_truncated(world, tmp_path, snapshot_at):
    directory = tmp_path / "state"
    known = history(world, directory, snapshot_at=snapshot_at)
    whole = {p.relative_to(directory): p.read_bytes() for p in state_files(directory)}
    assert any(p.suffix == ".log" for p in whole)
    for name, good in whole.items():
        outcomes = set()
        for cut in {*range(0, len(good), max(1, len(good) // 25)), len(good) - 1, 5, 20, 27, 28, 29}:
            restore(directory, whole)
            (directory / name).write_bytes(good[:cut])
            outcomes.add(opens_to_a_prefix(world, directory, known))
        if name.suffix == ".log":
            assert {0, len(known) - 2} <= outcomes, "cuts of the log bring back every length of history"
        else:
            # Snapshots and settings only save time: the log tells everything.
            assert outcomes == {len(known) - 1}, name


@pytest.mark.parametrize("snapshot_at", [None, STEPS // 2])
def test_every_state_file_with_flipped_bits(world, tmp_path, snapshot_at):
    directory = tmp_path / "state"
    known = history(world, directory, snapshot_at=snapshot_at)
    whole = {p.relative_to(directory): p.read_bytes() for p in state_files(directory)}
    for name, good in whole.items():
        outcomes = set()
        for at in {*range(0, len(good), max(1, len(good) // 40)), *range(0, 28, 5)}:
            restore(directory, whole)
            flipped = bytearray(good)
            flipped[at] ^= 1 << at % 8
            (directory / name).write_bytes(flipped)
            outcome = opens_to_a_prefix(world, directory, known)
            if outcome is None:
                assert (directory / name).read_bytes() == flipped, "a refused file was touched"
            outcomes.add(outcome)
        if name.suffix == ".log":
            assert None in outcomes, "a damaged header is refused"
            assert len(outcomes) > 3
        else:
            assert outcomes == {len(known) - 1}, name


def restore(directory: Path, whole: dict[Path, bytes]) -> None:
    shutil.rmtree(directory)
    for name, good in whole.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(good)


@pytest.mark.parametrize("state", [b"", b"a layout of the future", b"SONA" * 20])
def test_a_snapshot_of_another_layout_is_as_good_as_none(world, tmp_path, state):
    directory = tmp_path / "state"
    known = history(world, directory, snapshot_at=3)
    SnapshotStore(directory / "snapshots").save(state, version=1 << 40)
    assert opens_to_a_prefix(world, directory, known) == len(known) - 1


def test_saved_engine_refuses_every_truncation_and_flip(world, tmp_path):
    engine = SonaEngine(world.config)
    for n in range(3):
        world.step(engine, n)
    path = tmp_path / "engine.sona"
    engine.save(path)
    good = path.read_bytes()
    loaded = SonaEngine.load(path)
    assert world.digests(loaded) == world.digests(engine)
    for cut in range(0, len(good), max(1, len(good) // 200)):
        with pytest.raises(CorruptStateError):
            SonaEngine.from_bytes(good[:cut])
    for at in range(0, len(good), max(1, len(good) // 300)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        with pytest.raises(CorruptStateError):
            SonaEngine.from_bytes(bytes(flipped))
    for foreign in (b"", b"SONA", b"PK\x03\x04" * 100, good + b"x", bytes(1000)):
        with pytest.raises(CorruptStateError):
            SonaEngine.from_bytes(foreign)


def test_a_directory_of_something_else_is_left_alone(world, tmp_path):
    log = tmp_path / "state" / "events" / "writer-00001.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"somebody else's log, and a long one at that")
    with pytest.raises(CorruptStateError):
        world.open(tmp_path / "state")
    assert log.read_bytes().startswith(b"somebody")
