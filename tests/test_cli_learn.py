"""``sona learn``: a cycle from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine
from sona.cli import main


def used(engine, scope, n=150):
    rng = np.random.default_rng(0)
    items = rng.normal(size=(20, 8)).astype(np.float32)
    for i in range(n):
        decision = engine.rank(items[i % 20] + 0.1, np.arange(20), items, scope=scope, now=float(i))
        engine.feedback(decision, chosen=(i * 7) % 20, now=float(i))


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state"
    with SonaEngine(SonaConfig(hidden_dim=8, pattern_clusters=5), store=path) as engine:
        used(engine, "acme")
        used(engine, "beta", 30)
    return path


def test_a_directory(state, capsys):
    assert main(["learn", str(state)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[1:3]] == [["acme", "150"], ["beta", "30"]]
    assert out[-1].startswith("180 trajectories")
    with SonaEngine.load(state) as engine:
        assert engine.find_patterns(np.ones(8), scope="acme")
        assert engine.find_patterns(np.ones(8), scope="beta")


def test_a_file_as_json(state, tmp_path, capsys):
    saved = tmp_path / "engine.sona"
    with SonaEngine.load(state) as engine:
        engine.save(saved)
    before = saved.read_bytes()
    assert main(["learn", str(saved), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "done"
    assert [s["scope"] for s in result["scopes"]] == ["acme", "beta"]
    assert all(s["patterns"] for s in result["scopes"])
    assert saved.read_bytes() != before
    assert SonaEngine.load(saved).find_patterns(np.ones(8), scope="acme")


def test_a_deadline_and_nothing_to_learn(state, tmp_path, capsys):
    assert main(["learn", str(state), "--deadline", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == []
    empty = tmp_path / "empty"
    SonaEngine(SonaConfig(hidden_dim=8), store=empty).close()
    assert main(["learn", str(empty)]) == 0
    assert "nothing to learn" in capsys.readouterr().out


def test_no_such_state(tmp_path, capsys):
    assert main(["learn", str(tmp_path / "missing")]) == 2
    assert "no such state" in capsys.readouterr().err


def test_one_scope_at_a_time(state):
    with SonaEngine.load(state) as engine:
        result = engine.background_learn(scope="beta")
        assert [s.scope for s in result.scopes] == ["beta"]
        assert engine.background_learn(scope="nobody").scopes == ()
        assert not engine.find_patterns(np.ones(8), scope="acme")
