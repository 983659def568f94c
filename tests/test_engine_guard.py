"""The harm budget on live learning, and anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sona import CapacityError, NotFiniteError, ShapeError, SonaConfig, SonaEngine

DIM, ITEMS = 16, 40
IDS = list(range(ITEMS))


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class Crowd:
    """Users whose every request is near document 0, but who want any document: what one wanted misleads the next."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.docs = unit(self.rng.normal(size=(ITEMS, DIM)))

    def wants(self) -> tuple[np.ndarray, int]:
        item = int(self.rng.integers(ITEMS))
        return unit(self.docs[item] + 0.25 * self.rng.normal(size=DIM) + 2.0 * self.docs[0]), item

    def run(self, engine: SonaEngine, steps: int) -> None:
        for n in range(steps):
            query, item = self.wants()
            decision = engine.rank(query, IDS, self.docs, k=ITEMS, now=float(n))
            engine.feedback(decision, chosen=item, source="click", now=float(n))


def config(**changes: object) -> SonaConfig:
    # Steps that are far too large, and no item gate: learning that harms.
    return SonaConfig(hidden_dim=DIM, user_cap_per_minute=0).replace(
        **{"gate": "off", "eta": 5.0, "recall_weight": 3.0, "gate_nu": 1.0, **changes}
    )


def harm(engine: SonaEngine) -> dict[str, float]:
    return dict(engine.report().scopes["default"]["harm"])


def test_learning_that_harms_is_held_back_until_the_loss_fits_the_budget():
    free, held = SonaEngine(config(harm_budget=1.0)), SonaEngine(config(harm_budget=0.02))
    for engine in (free, held):
        Crowd().run(engine, 400)
    assert harm(free)["multiplier"] == 1.0
    assert harm(free)["held_back"] == 0
    assert harm(free)["loss"] > 0.05
    assert harm(held)["multiplier"] < 1.0
    assert harm(held)["held_back"] > 100
    assert harm(held)["loss"] < harm(held)["loss_unlimited"]
    assert held.metrics()["held_back"] == 1
    assert free.metrics()["held_back"] == 0
    assert "acts" in str(held.report())


def test_a_budget_of_nothing_ends_at_the_application_s_own_ranking():
    engine = SonaEngine(config(harm_budget=0.0))
    crowd = Crowd()
    crowd.run(engine, 400)
    assert harm(engine)["multiplier"] == 0.0
    query, _ = crowd.wants()
    decision = engine.rank(query, IDS, k=ITEMS)
    assert np.array_equal(decision.scores, decision.base_scores)
    assert np.array_equal(engine.adapt(query), query)


def test_what_is_held_back_is_the_same_after_replay_and_from_bytes(tmp_path: Path):
    crowd = Crowd()
    with SonaEngine(config(), store=tmp_path / "a") as engine:
        crowd.run(engine, 60)
        engine.set_anchors(*anchors(crowd))
        crowd.run(engine, 60)
        expected, state = engine.digest(), harm(engine)
        saved = SonaEngine.from_bytes(engine.to_bytes())
    for path in (tmp_path / "a" / "snapshots").iterdir():
        path.unlink()
    with SonaEngine(config(), store=tmp_path / "a") as again:
        assert again.metrics()["cases"]
        assert again.digest() == expected
        assert harm(again) == state
        assert saved.digest() == expected
        a, b = Crowd(5), Crowd(5)
        a.run(again, 30)
        b.run(saved, 30)
        assert again.digest() == saved.digest()


def anchors(crowd: Crowd, n: int = 60) -> tuple[np.ndarray, list[int], np.ndarray, list[int]]:
    pairs = [crowd.wants() for _ in range(n)]
    return np.stack([q for q, _ in pairs]), IDS, crowd.docs, [i for _, i in pairs]


def test_anchors_hold_back_what_spoils_them_and_nothing_else():
    crowd = Crowd()
    engine = SonaEngine(config(gate_nu=0.0))
    crowd.run(engine, 200)
    assert harm(engine)["multiplier"] == 1.0
    # Other people, who are served well by the unlearned ranking.
    queries = np.stack([crowd.wants()[0] for _ in range(60)])
    wanted = [int(i) for i in (queries @ crowd.docs.T).argmax(axis=1)]
    engine.set_anchors(queries, IDS, crowd.docs, wanted)
    assert harm(engine)["anchors"] == len(wanted)
    assert harm(engine)["anchor_loss_unlimited"] > 0.02
    assert harm(engine)["multiplier"] < 1.0
    assert not engine.promote()
    engine.set_anchors(np.empty((0, DIM)), [], np.empty((0, DIM)), [])
    assert harm(engine)["anchors"] == 0
    assert harm(engine)["multiplier"] == 1.0


def test_anchors_that_gain_hold_nothing_back_and_rollback_keeps_them():
    rng = np.random.default_rng(1)
    docs = unit(rng.normal(size=(ITEMS, DIM)))
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, user_cap_per_minute=0))

    def request(i: int) -> np.ndarray:
        return unit(docs[i] + 0.1 * rng.normal(size=DIM))

    # Whoever asks about i wants the next document.
    engine.set_anchors(np.stack([request(i) for i in range(ITEMS)]), IDS, docs, [(i + 1) % ITEMS for i in range(ITEMS)])
    for n in range(200):
        i = n % ITEMS
        engine.feedback(engine.rank(request(i), IDS, docs, k=ITEMS, now=0.0), chosen=(i + 1) % ITEMS, now=0.0)
    assert harm(engine)["multiplier"] == 1.0
    assert harm(engine)["anchor_loss"] < -0.1
    engine.rollback(0)
    engine.feedback(engine.rank(request(0), IDS, docs, k=ITEMS, now=0.0), chosen=1, now=0.0)
    assert harm(engine)["anchors"] == ITEMS


def test_impossible_anchors_are_refused():
    engine = SonaEngine(SonaConfig(hidden_dim=4))
    q, v = np.ones((1, 4), np.float32), np.eye(4, dtype=np.float32)[:2]
    with pytest.raises(ValueError, match="relevant"):
        engine.set_anchors(q, ["a", "b"], v, ["c"])
    with pytest.raises(ShapeError, match="relevant"):
        engine.set_anchors(q, ["a", "b"], v, [])
    with pytest.raises(ShapeError, match="vectors"):
        engine.set_anchors(q, ["a"], v, ["a"])
    with pytest.raises(ValueError, match="twice"):
        engine.set_anchors(q, ["a", "a"], v, ["a"])
    with pytest.raises(ValueError, match="relevant"):
        engine.set_anchors(q, ["a", "b"], v, [[]])
    with pytest.raises(NotFiniteError):
        engine.set_anchors(q * np.nan, ["a", "b"], v, ["a"])
    with pytest.raises(CapacityError):
        engine.set_anchors(np.ones((1001, 4), np.float32), ["a", "b"], v, ["a"] * 1001)
    assert engine.metrics()["scopes"] == 0
