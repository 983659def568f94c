"""Remembered cases that count less as they age: exact halving, and the same bits after whatever rebuilds the state."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sona import ConfigError, SonaConfig, SonaEngine
from sona.patterns import CaseMemory, ItemGate

sys.path.insert(0, str(Path(__file__).parent / "reference"))
from rec_reference import EvidenceGate, Rec

DAY = 86_400.0
DIM, ITEMS = 24, 40
IDS = list(range(ITEMS))
GOLDEN = Path(__file__).parent / "golden" / "engine"


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Requests near a document, hours apart, whose users want the document after it."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.docs = unit(self.rng.normal(size=(ITEMS, DIM)))
        self.t = 0

    def request(self) -> tuple[np.ndarray, int]:
        i = int(self.rng.integers(20))
        return unit(self.docs[i] + 0.15 * self.rng.normal(size=DIM)), i + 1

    def run(self, engine: SonaEngine, n: int, users: tuple[str, ...] = ("ann",)) -> None:
        for _ in range(n):
            self.t += 1
            query, want = self.request()
            now = 1e9 + 0.3 * DAY * (self.t - 20 * (self.t % 9 == 8))  # some feedback is dated back
            decision = engine.rank(query, IDS, self.docs, k=5, now=now)
            engine.feedback(decision, chosen=want, user=users[self.t % len(users)], now=now)

    def scores(self, engine: SonaEngine) -> list[list[float]]:
        return [list(engine.rank(q, IDS, self.docs, k=ITEMS, now=0.0).scores) for q in self.docs]


def config(half_life: float | None = 3.0, **changes: object) -> SonaConfig:
    return SonaConfig(hidden_dim=DIM, user_cap_per_minute=0, case_half_life_days=half_life).replace(**changes)


def without_snapshots(root: Path) -> None:
    for path in (root / "snapshots").iterdir():
        path.unlink()


def test_a_case_halves_with_each_half_life():
    """One case, and feedback at a right angle to it that does nothing but move the clock."""
    docs = np.eye(4, 8, dtype=np.float32)
    query, elsewhere = np.eye(8, dtype=np.float32)[[4, 5]]
    # Kernels so narrow that cases at a right angle say exactly nothing; shrinkage so large that recall is the numerator.
    memory = CaseMemory(8, adapt_width=0.004, recall_width=0.004, shrinkage=1e6, recall_weight=1e6, half_life_days=5.0)
    memory.learn(query, [1], [0, 1, 2, 3], docs, now=1e9)
    rec = Rec(8, h_a=0.004, h_r=0.004, kappa=1e6, w=1e6, half_life_days=5.0)
    rec.learn(query, [1], [0, 1, 2, 3], docs, at=1e9)
    gain = []
    for n in range(12):
        np.testing.assert_allclose(memory.scores(query, IDS[:4], docs), rec.scores(query, IDS[:4], docs), rtol=1e-5)
        gain.append(float(memory.recall(query, [1])[0]))
        now = 1e9 + 5.0 * DAY * (n + 1)
        memory.learn(elsewhere, [3], [0, 1, 2, 3], docs, now=now)
        rec.learn(elsewhere, [3], [0, 1, 2, 3], docs, at=now)
        memory.learn(elsewhere, [3], [0, 1, 2, 3], docs, now=1e9)  # from before: the clock does not go back
        rec.learn(elsewhere, [3], [0, 1, 2, 3], docs, at=1e9)
    np.testing.assert_allclose(gain, 1e-6 * 0.5 ** np.arange(12), rtol=3e-6)


def test_an_engine_forgets_what_is_old_by_feedback_and_not_by_the_wall_clock():
    world = World()
    engine, query = SonaEngine(config(2.0, harm_budget=1e6, gate="off")), world.docs[0]

    def lead(now: float) -> float:
        decision = engine.rank(query, IDS, world.docs, k=ITEMS, now=now)
        score = dict(zip(decision.ids, decision.scores, strict=True))
        base = dict(zip(decision.ids, decision.base_scores, strict=True))
        return float(score[9] - base[9])

    def feedback(q: np.ndarray, item: int, now: float) -> None:
        engine.feedback(engine.rank(q, IDS, world.docs, now=now), chosen=item, now=now)

    feedback(query, 9, 1e9)
    fresh = lead(1e9)
    assert lead(1e9 + 300 * DAY) == fresh, "requests do not move the clock"
    feedback(-query, 30, 1e9 + 8 * DAY)
    old = lead(1e9)
    assert 0 < old < 0.5 * fresh
    feedback(-query, 30, 1e9 - 8 * DAY)
    assert lead(1e9) == pytest.approx(old, abs=1e-4), "the clock does not go back"


@pytest.mark.parametrize("half_life", [0.5, 30.0])
def test_replay_saving_and_loading_end_at_the_same_bits(tmp_path: Path, half_life: float):
    root, whole = tmp_path / "state", World()
    plain = SonaEngine(config(half_life))
    whole.run(plain, 90)
    world = World()
    with SonaEngine(config(half_life), store=root) as engine:
        world.run(engine, 40)
        engine.save(tmp_path / "one-file")
        engine.checkpoint()
        world.run(engine, 20)
        engine.background_learn(now=2e9)
    with SonaEngine.load(root) as engine:  # the snapshot, then the log's tail
        assert engine.config.case_half_life_days == half_life
        world.run(engine, 30)
        digest, scores = engine.digest(), world.scores(engine)
    without_snapshots(root)
    with SonaEngine(config(half_life), store=root) as engine:
        assert engine.digest() == digest
        assert world.scores(engine) == scores
    again = World()
    saved = SonaEngine.load(tmp_path / "one-file")
    again.run(SonaEngine(config(half_life)), 40)
    again.run(saved, 20)
    saved = SonaEngine.from_bytes(saved.to_bytes())
    again.run(saved, 30)
    assert saved.digest() == plain.digest()


def test_forgetting_a_user_also_takes_back_how_far_they_moved_the_clock(tmp_path: Path):
    with SonaEngine(config(1.0), store=tmp_path / "a") as both, SonaEngine(config(1.0), store=tmp_path / "b") as one:
        a, b = World(), World()
        a.run(both, 40)
        b.run(one, 40)
        query, want = a.request()
        decision = both.rank(query, IDS, a.docs, user="bob", now=5e9)
        both.feedback(decision, chosen=want, user="bob", now=5e9)
        assert both.digest() != one.digest()
        both.forget(user="bob")
        assert both.digest() == one.digest()
        assert a.scores(both) == a.scores(one)


def test_rollback_takes_the_clock_back(tmp_path: Path):
    with SonaEngine(config(1.0), store=tmp_path / "a") as engine:
        world = World()
        world.run(engine, 30)
        version, digest, scores = engine.version, engine.digest(), world.scores(engine)
        world.t += 1000
        world.run(engine, 10)
        assert engine.digest() != digest
        engine.rollback(version)
        assert engine.digest() == digest
        assert world.scores(engine) == scores


def test_another_half_life_learns_again_from_the_log(tmp_path: Path):
    world = World()
    with SonaEngine(config(None), store=tmp_path / "a") as engine:
        world.run(engine, 50)
        engine.checkpoint()
        timeless = engine.digest()
    for half_life in (2.0, 20.0, None):
        fresh = SonaEngine(config(half_life))
        World().run(fresh, 50)
        with SonaEngine(config(half_life), store=tmp_path / "a") as engine:
            assert engine.digest() == fresh.digest()
            assert (engine.digest() == timeless) == (half_life is None)


def test_a_state_from_before_there_was_a_half_life_loads():
    data = (GOLDEN / "before_half_life.sona").read_bytes()
    engine = SonaEngine.from_bytes(data)
    assert engine.config.case_half_life_days is None
    assert engine.metrics()["cases"] == 12
    assert engine.to_bytes() == data


def test_none_leaves_the_bytes_of_the_first_layout():
    plain, aging = SonaEngine(config(None)), SonaEngine(config(3.0))
    World().run(plain, 20)
    World().run(aging, 20)
    layout = slice(8, 10)
    assert plain.to_bytes()[layout] == (5).to_bytes(2, "little")
    assert aging.to_bytes()[layout] == (6).to_bytes(2, "little")
    assert SonaEngine.from_bytes(plain.to_bytes()).config.case_half_life_days is None
    assert SonaEngine.from_bytes(aging.to_bytes()).config.case_half_life_days == 3.0
    memory = CaseMemory(DIM)
    memory.learn(World().docs[0], [1], IDS, World().docs, now=7.0)
    assert memory.to_bytes()[layout] == (1).to_bytes(2, "little")


@pytest.mark.parametrize("gate", ["evidence", "multiplier"])
def test_a_memory_and_its_gate_go_on_after_loading(gate: str):
    world, memory, guard = World(3), CaseMemory(DIM, half_life_days=2.0), ItemGate(mode=gate)
    rec, reference = Rec(DIM, half_life_days=2.0), EvidenceGate()
    for t in range(80):
        if t == 40:
            memory, guard = CaseMemory.from_bytes(memory.to_bytes()), ItemGate.from_bytes(guard.to_bytes())
        query, want = world.request()
        if gate == "evidence":
            got = guard.scores(memory, query, IDS, world.docs)
            np.testing.assert_allclose(got, reference.scores(rec, query, IDS, world.docs), atol=5e-6)
        guard.observe(memory, query, [want], IDS, world.docs)
        memory.learn(query, [want], IDS, world.docs, now=1e9 + 0.2 * DAY * t)
        reference.observe(rec, query, [want], IDS, world.docs)
        rec.learn(query, [want], IDS, world.docs, at=1e9 + 0.2 * DAY * t)


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, float("nan"), float("inf"), -float("inf"), "week"])
def test_impossible_half_lives_are_refused(bad: object):
    with pytest.raises(ConfigError, match="case_half_life_days"):
        SonaConfig(hidden_dim=4, case_half_life_days=bad)  # type: ignore[arg-type]


def test_a_memory_refuses_impossible_half_lives_and_times():
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="half_life_days"):
            CaseMemory(4, half_life_days=bad)
    memory = CaseMemory(4, half_life_days=1.0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="now"):
            memory.learn([1, 0, 0, 0], [1], [1], np.eye(1, 4), now=bad)
    assert len(memory) == 0
