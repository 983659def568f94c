"""Bad inputs: the right error before anything changes; odd but legal ones: the same answer as the plain form."""

from __future__ import annotations

import numpy as np
import pytest

from sona import DimensionMismatch, LearningError, NotFiniteError, ScopeError, ShapeError, SonaEngine

from .conftest import DIM, DOCS


@pytest.fixture
def busy(world) -> SonaEngine:
    engine = SonaEngine(world.config)
    for n in range(6):
        world.step(engine, n)
    return engine


def poisoned(shape: tuple[int, ...], value: float, dtype: str = "float32") -> np.ndarray:
    x = np.ones(shape, dtype=dtype)
    x.flat[-1] = value
    return x


def trace(engine: SonaEngine, x, step, **scope: str) -> None:
    with engine.trace(x, **scope) as t:
        t.step(step, [1.0], reward=0.5)
        t.finish(quality=0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_not_finite_is_refused_before_anything_changes(world, busy, value, dtype):
    before = busy.to_bytes()
    vector, rows, scores = (poisoned(s, value, dtype) for s in ((DIM,), (DOCS, DIM), (DOCS,)))
    for call in (
        lambda: busy.adapt(vector, scope="acme"),
        lambda: busy.adapt(np.stack([vector, vector]), scope="acme"),
        lambda: busy.rank(vector, world.ids, world.docs, scope="acme"),
        lambda: busy.rank(world.query(0), world.ids, rows, scope="acme"),
        lambda: busy.rank(world.query(0), world.ids, world.docs, scores=scores, scope="acme"),
        lambda: busy.adapt(vector, scope="brand new"),
        lambda: busy.rank(vector, world.ids, world.docs, scope="brand new"),
        lambda: busy.rank(world.query(0), world.ids, rows, scope="brand new"),
        lambda: busy.rank(world.query(0), world.ids, world.docs, scores=scores, scope="brand new"),
        lambda: trace(busy, vector, world.docs[0]),
        lambda: trace(busy, world.query(0), vector),
    ):
        with pytest.raises(NotFiniteError):
            call()
    assert busy.to_bytes() == before


def test_wrong_shapes_are_refused_before_anything_changes(world, busy):
    before = busy.to_bytes()
    q, ids, docs = world.query(0), world.ids, world.docs
    wrong_dimension = [
        lambda: busy.adapt(np.ones(DIM - 1, dtype=np.float32)),
        lambda: busy.adapt(np.ones((3, DIM + 1), dtype=np.float32)),
        lambda: busy.adapt(np.ones(0, dtype=np.float32)),
        lambda: busy.rank(np.ones(DIM + 1), ids, docs),
        lambda: busy.rank(q, ids, np.ones((DOCS, DIM + 1))),
        lambda: busy.rank(q, ids, docs, scores=np.ones(DOCS - 1)),
    ]
    for call in wrong_dimension:
        with pytest.raises(DimensionMismatch):
            call()
    wrong_shape = [
        lambda: busy.adapt(np.float32(1.0)),
        lambda: busy.adapt(np.ones((2, 3, DIM), dtype=np.float32)),
        lambda: busy.adapt("text without an embedder"),
        lambda: busy.adapt(None),
        lambda: busy.adapt([[1.0], [1.0, 2.0]]),
        lambda: busy.rank(np.ones((1, DIM)), ids, docs),
        lambda: busy.rank(q, ids, np.ones(DIM)),
        lambda: busy.rank(q, ids, docs[:-1]),
        lambda: busy.rank(q, ids, docs, scores=np.ones((DOCS, 1))),
    ]
    for call in wrong_shape:
        with pytest.raises((ShapeError, TypeError, ValueError)):
            call()
    assert busy.to_bytes() == before


def test_bad_ids_scopes_and_outcomes_are_refused_before_anything_changes(world, busy):
    decision = busy.rank(world.query(0), world.ids, world.docs, scope="acme", now=1e6)
    before = busy.to_bytes()
    q, ids, docs = world.query(0), world.ids, world.docs
    refused = [
        lambda: busy.rank(q, ["a", "a"], docs[:2]),
        lambda: busy.rank(q, ["a", "a"], docs[:2], scope="brand new"),
        lambda: busy.rank(q, [ids[0], ids[0]], docs[:2], scope="acme"),
        lambda: busy.rank(q, [ids[0], ids[0]], scope="acme"),
        lambda: busy.rank(q, ["unknown"], scope="brand new"),
        lambda: busy.feedback(decision.id, chosen=[ids[0], ids[0]]),
        lambda: busy.feedback(decision.id, chosen="unranked", vectors=[[np.nan] * DIM]),
        lambda: busy.rank(q, [1.5, object()], docs[:2]),
        lambda: busy.rank(q, ["never seen before"], scope="acme"),
        lambda: busy.rank(q, ids, docs, scope=""),
        lambda: busy.rank(q, ids, docs, k=-1),
        lambda: busy.rank(q, ids, docs, now=np.nan),
        lambda: busy.feedback(decision.id),
        lambda: busy.feedback(decision.id, chosen="never seen before"),
        lambda: busy.feedback(decision.id, rewards={ids[0]: np.nan}),
        lambda: busy.feedback(decision.id, rewards={ids[0]: 2.0}),
        lambda: busy.feedback(decision.id, quality=-0.1),
        lambda: busy.feedback(decision.id, quality=np.nan),
        lambda: busy.feedback(decision.id, chosen=ids[0], now=np.inf),
        lambda: busy.feedback("not an id", chosen=ids[0]),
        lambda: busy.feedback("d0-ffff", chosen=ids[0]),
        lambda: busy.rollback(1 << 40),
        lambda: busy.rollback(-1),
        lambda: busy.rollback(0, scope="no such scope"),
        lambda: busy.forget(user=""),
        lambda: setattr(busy, "mode", "sometimes"),
    ]
    accepted = []
    for i, call in enumerate(refused):
        try:
            call()
        except (ValueError, LearningError, ScopeError, TypeError, OverflowError):
            continue
        accepted.append(i)
    assert not accepted
    assert busy.to_bytes() == before


def test_every_layout_and_type_of_an_array_gives_the_same_answer(world, busy):
    q, docs = world.query(3), world.docs
    wide = np.zeros((DOCS, 2 * DIM), dtype=np.float32)
    wide[:, ::2] = docs
    read_only = docs.copy()
    read_only.flags.writeable = False
    expected = busy.rank(q, world.ids, docs, scope="acme", now=1e6)
    moved = busy.adapt(q, scope="acme")
    for query, rows in (
        (q.astype(np.float64), docs.astype(np.float64)),
        (q.astype(">f4"), docs.astype(">f4")),
        (q.tolist(), docs.tolist()),
        (np.repeat(q, 2)[::2], np.asfortranarray(docs)),
        (q[::-1][::-1], wide[:, ::2]),
        (q, read_only),
    ):
        got = busy.rank(query, world.ids, rows, scope="acme", now=1e6)
        assert got.ids == expected.ids
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(busy.adapt(query, scope="acme"), moved)
    np.testing.assert_array_equal(busy.adapt(np.stack([q, q]), scope="acme"), [moved, moved])


def test_empty_input_is_the_documented_nothing(world, busy):
    before = world.digests(busy)
    assert busy.adapt(np.empty((0, DIM), dtype=np.float32), scope="acme").shape == (0, DIM)
    decision = busy.rank(world.query(0), [], np.empty((0, DIM), dtype=np.float32), scope="acme", now=1e6)
    assert decision.ids == []
    assert len(decision) == 0
    assert busy.rank(world.query(0), world.ids, world.docs, scope="acme", k=0, now=1e6).ids == []
    assert world.digests(busy) == before


def test_extreme_but_finite_numbers_stay_finite(world, busy):
    for scale in (1e-38, 1e-30, 1e18, 3e38):
        q = (world.query(1) / np.abs(world.query(1)).max() * scale).astype(np.float32)
        docs = (world.docs / np.abs(world.docs).max() * scale).astype(np.float32)
        ids = [f"{scale} {i}" for i in world.ids]
        decision = busy.rank(q, ids, docs, scope="extreme", now=1e6)
        assert np.all(np.isfinite(decision.scores))
        busy.feedback(decision.id, chosen=ids[0], source="click", now=1e6)
        assert np.all(np.isfinite(busy.adapt(q, scope="extreme")))
    zero = busy.rank(np.zeros(DIM), world.ids, world.docs, scope="extreme", now=1e6)
    assert np.all(np.isfinite(zero.scores))
    busy.feedback(zero.id, chosen=world.ids[0], source="click", now=1e6)
    assert np.all(np.isfinite(busy.adapt(np.zeros(DIM, dtype=np.float32), scope="extreme")))


@pytest.mark.slow
def test_a_million_rows(world, busy):
    n = 1_000_000
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(n, DIM)).astype(np.float32)
    moved = busy.adapt(batch, scope="acme")
    assert moved.shape == (n, DIM)
    for i in (0, n // 2, n - 1):
        np.testing.assert_array_equal(moved[i], busy.adapt(batch[i], scope="acme"))
    untouched = busy.adapt(batch, scope="nobody")
    np.testing.assert_array_equal(untouched, batch)
    decision = busy.rank(world.query(0), range(n), batch, scope="huge", k=10, now=1e6)
    cosine = batch @ world.query(0) / np.linalg.norm(batch, axis=1)
    assert decision.ids[0] == int(np.argmax(cosine))
    assert busy.feedback(decision.id, chosen=decision.ids[3], source="click", now=1e6)
