"""``sona tune``: trade-offs on an engine's own clicks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sona import LearningError, SonaConfig, SonaEngine
from sona.cli import main
from sona.tune_command import tune


def clicked(engine, clicks=240):
    """Requests are the items under a fixed turn: an adapter of enough rank can undo it."""
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(24, 16)).astype(np.float32)
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    for i in range(clicks):
        query = docs[i % 24] @ turn + 0.1 * rng.normal(size=16)
        d = engine.rank(query, list(range(24)), docs)
        engine.feedback(d, chosen=i % 24, user=f"u{i}")


def test_an_adapter_is_found_where_one_helps(tmp_path, capsys):
    with SonaEngine(SonaConfig(hidden_dim=16), store=tmp_path / "state") as engine:
        clicked(engine)
        found = tune(engine, generations=3)
    assert found.clicks == 240
    assert found.items == 24
    assert found.recommended is not None
    assert found.recommended["rank"] >= 4
    objectives = dict(zip((tuple(c.values()) for c in found.front.configs), found.front.objectives, strict=True))
    without = min(o[0] for c, o in objectives.items() if c[2] == 0)
    assert objectives[tuple(found.recommended.values())][0] < without - 0.2
    assert main(["tune", str(tmp_path / "state"), "--generations", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["clicks"] == 240
    assert sum(row["recommended"] for row in shown["front"]) == 1
    assert main(["tune", str(tmp_path / "state"), "--generations", "1", "--megabytes", "0"]) == 0
    assert "nothing is within the targets" in capsys.readouterr().out


def test_too_few_clicks_and_no_state_are_told(tmp_path):
    with SonaEngine(SonaConfig(hidden_dim=16)) as engine:
        clicked(engine, 10)
        with pytest.raises(LearningError, match="50 positive clicks"):
            tune(engine)
    assert main(["tune", str(tmp_path / "nothing")]) == 2
