"""Late and missing feedback, distinct users, encoder canaries, exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sona import ConfigError, CorruptStateError, LearningError, SonaConfig, SonaEngine
from sona.lora import load_peft

DIM = 8
IDS = ["a", "b", "c", "d"]
DOCS = np.eye(4, DIM, dtype=np.float32)
QUERY = np.full(DIM, 0.5, np.float32)


def engine(**changes: object) -> SonaEngine:
    return SonaEngine(SonaConfig(hidden_dim=DIM).replace(**changes))


def test_late_feedback_is_recorded_and_counted_and_not_learned():
    eng = engine(decision_ttl_s=60.0)
    decision = eng.rank(QUERY, IDS, DOCS, now=100.0)
    before = eng.digest()
    assert eng.feedback(decision, chosen="d", source="click", now=160.5)
    assert eng.metrics()["expired"] == 1
    assert eng.metrics()["learned"] == 0
    assert eng.digest() == before
    assert "too late" in str(eng.report())
    assert not eng.feedback(decision, chosen="d", source="click", now=161.0), "a repeat is a repeat"
    decision = eng.rank(QUERY, IDS, now=200.0)
    assert eng.feedback(decision, chosen="d", source="click", now=260.0)
    assert eng.metrics()["learned"] == 1


def test_lateness_is_judged_alike_by_replay(tmp_path: Path):
    config = SonaConfig(hidden_dim=DIM, decision_ttl_s=60.0)
    with SonaEngine(config, store=tmp_path / "s") as eng:
        for n in range(10):
            decision = eng.rank(QUERY, IDS, DOCS, now=100.0 * n)
            eng.feedback(decision, chosen=IDS[n % 4], now=100.0 * n + 20.0 * n)
        expected, counts = eng.digest(), eng.metrics()
    for path in (tmp_path / "s" / "snapshots").iterdir():
        path.unlink()
    with SonaEngine(config, store=tmp_path / "s") as eng:
        assert eng.digest() == expected
        assert eng.metrics()["expired"] == counts["expired"] == 6


def test_no_feedback_is_counted_and_teaches_nothing():
    eng = engine(decision_ttl_s=60.0)
    for n in range(5):
        eng.rank(QUERY, IDS, DOCS, now=float(n))
    assert eng.metrics()["censored"] == 0
    before = eng.digest()
    decision = eng.rank(QUERY, IDS, now=62.5)
    assert eng.metrics()["censored"] == 3
    assert eng.digest() == before
    eng.feedback(decision, chosen="a", now=63.0)
    eng.rank(QUERY, IDS, now=1000.0)
    assert eng.metrics()["censored"] == 5


def test_one_account_cannot_push_an_item_where_several_are_asked_for():
    def rise(users: list[str], **changes: object) -> float:
        eng = engine(eta=0.0, **changes)
        for n, user in enumerate(users):
            eng.feedback(eng.rank(QUERY, IDS, DOCS, now=float(n)), chosen="d", user=user, now=float(n))
        decision = eng.rank(QUERY, IDS)
        at = decision.ids.index("d")
        return float(decision.scores[at] - decision.base_scores[at])

    assert rise(["u"] * 5) > 0.1
    assert rise(["u"] * 5, min_users=3) < 1e-6
    assert rise(["u", "v", "u"], min_users=3) < 1e-6
    assert rise(["u", "v", "w"], min_users=3) > 0.1
    assert rise(["", "", ""], min_users=3) < 1e-6, "nobody in particular is one user"


def test_distinct_users_survive_saving_and_forgetting():
    eng = engine(min_users=2, user_cap_per_minute=0)
    for n, user in enumerate(["u", "v"]):
        eng.feedback(eng.rank(QUERY, IDS, DOCS, user=user, now=float(n)), chosen="d", user=user, now=float(n))
    again = SonaEngine.from_bytes(eng.to_bytes())
    assert again.digest() == eng.digest()
    eng.forget(user="v")
    alone = engine(min_users=2, user_cap_per_minute=0)
    alone.feedback(alone.rank(QUERY, IDS, DOCS, user="u", now=0.0), chosen="d", user="u", now=0.0)
    assert eng.digest() == alone.digest()


class Words:
    """An embedder that can be told to drift."""

    dim = DIM
    fingerprint = "words-1"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def embed(self, texts):
        rows = [np.random.default_rng([self.seed, *t.encode()]).normal(size=DIM) for t in texts]
        return np.array(rows, dtype=np.float32)


def test_an_encoder_that_drifted_under_its_name_is_refused(tmp_path: Path):
    config = SonaConfig(hidden_dim=DIM)
    with SonaEngine(config, store=tmp_path / "s", embedder=Words()) as eng:
        assert eng.encoder == "words-1"
    with SonaEngine(config, store=tmp_path / "s", embedder=Words()) as eng:
        saved = eng.to_bytes()
    with pytest.raises(ConfigError, match=r"canary .* begin a new one"):
        SonaEngine(config, store=tmp_path / "s", embedder=Words(seed=1))
    with pytest.raises(ConfigError, match="canary"):
        SonaEngine.from_bytes(saved, embedder=Words(seed=1))
    # The refused engine gave the directory back.
    with SonaEngine.load(tmp_path / "s", embedder=Words()) as eng:
        assert eng.encoder == "words-1"
    assert SonaEngine.from_bytes(saved, embedder=Words()).encoder == "words-1"


def test_an_encoder_can_be_named_without_an_embedder(tmp_path: Path):
    config = SonaConfig(hidden_dim=DIM)
    with SonaEngine(config, store=tmp_path / "s") as eng:
        assert eng.encoder is None
        eng.set_encoder("mini", {"hello": DOCS[0], "zero": np.zeros(DIM)})
    for path in (tmp_path / "s" / "snapshots").iterdir():
        path.unlink()
    with SonaEngine(config, store=tmp_path / "s") as eng:
        assert eng.encoder == "mini"
        eng.set_encoder("mini", {"hello": 2 * DOCS[0], "zero": np.zeros(DIM), "more": DOCS[1]})
        with pytest.raises(ConfigError, match="encoder"):
            eng.set_encoder("maxi", {"hello": DOCS[0]})
        with pytest.raises(ConfigError, match=r"cosine 0\.000"):
            eng.set_encoder("mini", {"hello": DOCS[1]})
        with pytest.raises(ValueError, match=r"finite|NaN"):
            eng.set_encoder("mini", {"hello": DOCS[0] * np.nan})
        with pytest.raises(ValueError, match="encoder"):
            eng.set_encoder("", {})


def clicks(eng: SonaEngine, n: int, scope: str = "default") -> None:
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(30, DIM)).astype(np.float32)
    ids = list(range(30))
    for i in range(n):
        wanted = i % 30
        # One linear map explains all: what is wanted is the mirror image of what is asked.
        query = docs[wanted][::-1] + 0.05 * rng.normal(size=DIM).astype(np.float32)
        decision = eng.rank(query, ids, docs, scope=scope, k=30, user="ann", now=float(i))
        eng.feedback(decision, chosen=wanted, source="click", user="ann", now=float(i))


def test_the_slow_adapter_is_exported_for_peft(tmp_path: Path):
    eng = engine(user_cap_per_minute=0, base_lora_lr=0.01)
    with pytest.raises(LearningError, match="no adapter"):
        eng.export_peft(tmp_path / "none")
    with eng.trace(QUERY) as t:
        t.step(DOCS[0], [1.0], reward=0.9)
        t.finish(quality=0.9)
    eng.export_peft(tmp_path / "fast")
    factors, config = load_peft(tmp_path / "fast")
    a, b = factors["query_adapter"]
    assert a.shape == (2, DIM)
    x = QUERY / np.linalg.norm(QUERY)
    moved = x + config["lora_alpha"] / config["r"] * (b @ (a @ x))
    np.testing.assert_allclose(moved / np.linalg.norm(moved), eng.adapt(QUERY), atol=1e-6)


def test_preferences_are_exported_without_users_or_text(tmp_path: Path):
    eng = engine(user_cap_per_minute=0, exploration="softmax", exploration_rate=0.5)
    for n in range(5):
        decision = eng.rank(QUERY, IDS, DOCS, k=3, scope="acme", user="ann@x", now=float(n))
        eng.feedback(decision, chosen=decision.ids[1], source="click", user="ann@x", now=float(n))
    path = tmp_path / "p.jsonl"
    n = eng.export_dataset(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert n == len(rows) == 10
    assert "ann@x" not in path.read_text()
    for row in rows:
        assert row["chosen"] != row["rejected"]
        assert row["scope"] == "acme"
        assert row["source"] == "click"
        assert 0 < row["propensity"] <= 1
        np.testing.assert_array_equal(np.float32(row["query"]), QUERY)
    assert eng.export_dataset(path, include_users=True) == 10
    assert "ann@x" in path.read_text()
    with pytest.raises(ValueError, match="both"):
        eng.export_dataset(path, queries={})
    decision = rows[0]["decision"]
    texts = {i: i.upper() for i in IDS}
    assert eng.export_dataset(path, queries={decision: "what?"}, items=texts) == 2
    assert json.loads(path.read_text().splitlines()[0])["prompt"] == "what?"


def test_bytes_of_another_layout_are_refused():
    data = bytearray(engine().to_bytes())
    data[4] ^= 1
    with pytest.raises(CorruptStateError):
        SonaEngine.from_bytes(bytes(data))


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("hidden_dim", -1, "hidden_dim: expected a whole number of at least 0, got -1"),
        ("hidden_dim", 2.5, "hidden_dim: expected a whole number"),
        ("eta", "much", "eta: expected a number, got 'much'"),
        ("ewc", 3, "ewc: expected True or False, got 3"),
        ("case_bytes", -3, "case_bytes: expected a whole number of at least 0, or None"),
        ("source_caps", {"bot": -1}, "source_caps: expected a dict from source"),
    ],
)
def test_a_setting_of_a_wrong_type_is_told_what_it_must_be(setting, value, wanted):
    with pytest.raises(ConfigError, match=wanted):
        SonaEngine(SonaConfig(**{"hidden_dim": 8, setting: value}))
