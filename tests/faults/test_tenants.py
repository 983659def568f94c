"""Two tenants in one engine: each gets, bit for bit, what it would get alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import SonaEngine

from .conftest import World

_ops = st.lists(
    st.tuples(
        st.sampled_from(["acme", "globex"]),
        st.sampled_from(["feed", "feed", "feed", "rank", "adapt", "quality", "rollback", "own item"]),
        st.integers(0, 63),
        st.integers(0, 11),
    ),
    max_size=30,
)


def play(world: World, engine: SonaEngine, ops, only: str | None) -> list[bytes]:
    """What the tenant saw, answer by answer."""
    seen = []
    fed = 0
    for n, (tenant, op, query, item) in enumerate(ops):
        if only is not None and tenant != only:
            continue
        ids, rows = list(world.ids), world.docs
        if op == "own item":
            # Both tenants use this id, each for another vector.
            own = world.docs[item] * (2 if tenant == "acme" else -1) + 0.5
            ids, rows = [*ids, "shared id"], np.vstack([rows, own])
        answer = b""
        if op == "adapt":
            answer = engine.adapt(world.query(query), scope=tenant).tobytes()
        elif op == "rollback":
            if tenant in engine.scopes:
                engine.rollback(0, scope=tenant)
        else:
            d = engine.rank(world.query(query), ids, rows, scope=tenant, k=6, user="same user", now=1e6 + n)
            answer = repr(d.ids).encode() + d.scores.tobytes() + d.propensities.tobytes()
            if op in ("feed", "own item"):
                engine.feedback(
                    d.id, chosen=ids[-1] if op == "own item" else ids[item], source="click", user="same user", now=1e6 + n
                )
                fed += 1
            elif op == "quality":
                engine.feedback(d.id, quality=item / 11, source="judge", user="same user", now=1e6 + n)
        if tenant == (only or "acme"):
            seen.append(answer)
    return seen


@settings(max_examples=60, deadline=None)
@given(ops=_ops)
def test_a_tenant_sees_what_it_would_see_alone(world, ops):
    both, alone = SonaEngine(world.config), SonaEngine(world.config)
    assert play(world, both, ops, None) == play(world, alone, ops, "acme")
    assert both.digest("acme") == alone.digest("acme")
    other = SonaEngine(world.config)
    play(world, other, ops, "globex")
    assert both.digest("globex") == other.digest("globex")


def test_what_one_tenant_learned_moves_nothing_of_another(world):
    engine = SonaEngine(world.config)
    for n in range(40):
        world.step(engine, n, scope="acme")
    np.testing.assert_array_equal(engine.adapt(world.query(0), scope="globex"), world.query(0))
    assert engine.digest("globex") == SonaEngine(world.config).digest("globex")
    ours = engine.rank(world.query(0), ["x"], world.docs[:1], scope="acme", now=1e6)
    # The vector that one tenant registered under an id is not there for another.
    with pytest.raises(ValueError, match="x"):
        engine.rank(world.query(0), ["x"], scope="globex", now=1e6)
    assert ours.scope == "acme"
