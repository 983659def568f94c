"""Deep cycles of the engine: they suggest links and change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from sona import ConfigError, SonaConfig, SonaEngine


def clicked(engine, scope, rng):
    docs = rng.normal(size=(12, 8)).astype(np.float32)
    for i in range(40):
        query = docs[i % 12] + 0.6 * rng.normal(size=8).astype(np.float32)
        d = engine.rank(query, [f"{scope}-{j}" for j in range(12)], docs, scope=scope)
        engine.feedback(d, chosen=f"{scope}-{i % 12}", user=f"u{i}")
    return docs


def test_links_are_suggested_in_every_scope_and_nothing_changes():
    rng = np.random.default_rng(0)
    with SonaEngine(SonaConfig(hidden_dim=8)) as engine:
        docs = clicked(engine, "a", rng)
        clicked(engine, "b", rng)
        before = engine.to_bytes(), engine.adapt(docs[0], scope="a").tobytes()
        got = engine.deep_learn(dreams=60, phi_threshold=0.0, now=1e9)
        again = engine.deep_learn(dreams=60, phi_threshold=0.0, now=1e9)
        assert (engine.to_bytes(), engine.adapt(docs[0], scope="a").tobytes()) == before
    assert got.status == "complete"
    assert [s.scope for s in got.scopes if s.memories] == ["a", "b"]
    assert got.dreams_generated == sum(s.result.dreams_generated for s in got.scopes) == 120
    for scope in got.scopes:
        assert {str(x)[0] for link in scope.suggestions for x in (link.a, link.b)} <= {scope.scope}
        assert [x.weight for x in scope.suggestions] == sorted((x.weight for x in scope.suggestions), reverse=True)
    assert any(s.suggestions for s in got.scopes)
    assert [s.suggestions for s in again.scopes] == [s.suggestions for s in got.scopes]


def test_a_deadline_of_zero_stops_before_the_first_dream():
    with SonaEngine(SonaConfig(hidden_dim=8)) as engine:
        clicked(engine, "a", np.random.default_rng(1))
        got = engine.deep_learn(deadline_s=0.0)
        assert (got.status, got.dreams_generated) == ("deadline", 0)
        with pytest.raises(ConfigError):
            engine.deep_learn(dreams=-1)
