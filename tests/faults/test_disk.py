"""A full disk: the error comes to light, nothing half-written stays, serving goes on, and learning resumes."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sona import SonaEngine, StoreError


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Python ignores SIGXFSZ, so a write beyond the limit is cut short and then fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def log_size(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*.log"))


@pytest.mark.parametrize("fsync", ["group", "always", "none"])
def test_feedback_on_a_full_disk_is_refused_whole_and_taken_later(world, tmp_path, fsync):
    directory = tmp_path / "state"
    engine = world.open(directory, fsync=fsync)
    for n in range(5):
        world.step(engine, n)
    decision = engine.rank(world.query(5), world.ids, world.docs, scope="acme", user="u", now=1e6)
    before = world.digests(engine)
    with file_size_limit(log_size(directory) + 10):
        for _ in range(3):
            with pytest.raises(StoreError) as caught:
                engine.feedback(decision.id, chosen=world.ids[3], source="click", user="u", now=1e6)
            assert caught.value.errno is not None
        assert world.digests(engine) == before, "nothing was learned that is not on record"
        assert engine.metrics()["failed_writes"] >= 3
    assert engine.feedback(decision.id, chosen=world.ids[3], source="click", user="u", now=1e6)
    after = world.digests(engine)
    assert after != before
    engine.close()
    with world.open(directory) as engine:
        assert world.digests(engine) == after


def test_serving_goes_on_while_the_disk_is_full(world, tmp_path):
    directory = tmp_path / "state"
    with world.open(directory) as engine:
        for n in range(5):
            world.step(engine, n, scope="acme")
        expected = engine.rank(world.query(3), world.ids, world.docs, scope="acme", now=1e6)
        moved = engine.adapt(world.query(3), scope="acme")
        failed = engine.metrics()["failed_writes"]
        with file_size_limit(log_size(directory) + 10):
            np.testing.assert_array_equal(engine.adapt(world.query(3), scope="acme"), moved)
            got = engine.rank(world.query(3), world.ids, world.docs, scope="acme", now=1e6)
            assert got.ids == expected.ids
            np.testing.assert_array_equal(got.scores, expected.scores)
            assert got.id is None, "a decision that is not on record takes no feedback"
            assert engine.metrics()["failed_writes"] > failed
        assert engine.rank(world.query(3), world.ids, world.docs, scope="acme", now=1e6).id is not None


def test_snapshots_and_forgetting_on_a_full_disk_leave_a_whole_state(world, tmp_path):
    directory = tmp_path / "state"
    engine = world.open(directory)
    for n in range(20):
        world.step(engine, n)
    before = world.digests(engine)
    with file_size_limit(200):
        with pytest.raises(StoreError):
            engine.checkpoint()
        with pytest.raises(StoreError):
            engine.forget(user="user-1")
        with pytest.raises(StoreError):
            engine.save(tmp_path / "copy.sona")
    assert not (tmp_path / "copy.sona").exists()
    assert world.digests(engine) == before
    world.step(engine, 100)
    after = world.digests(engine)
    engine.close()
    with world.open(directory) as engine:
        assert world.digests(engine) == after
        engine.forget(user="user-1")
    assert not [p for p in directory.rglob("*") if p.is_file() and b"user-1" in p.read_bytes()]


def test_closing_on_a_full_disk_reports_and_keeps_what_was_acknowledged(world, tmp_path):
    directory = tmp_path / "state"
    engine = world.open(directory)
    for n in range(20):
        world.step(engine, n)
    before = world.digests(engine)
    with file_size_limit(200), pytest.raises(StoreError):
        engine.close()
    assert engine.closed
    with world.open(directory) as engine:
        assert world.digests(engine) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_saving_to_a_device_that_is_full_is_a_store_error(world):
    engine = SonaEngine(world.config)
    with pytest.raises(StoreError):
        engine.save("/dev/full/engine.sona")
    with pytest.raises((StoreError, OSError)):
        world.open(Path("/dev/full/state"))
