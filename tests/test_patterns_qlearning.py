"""Q-learning patterns: convergence, ties, files old and hostile, state."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from sona.exceptions import ConfigError, CorruptStateError, NotFiniteError, StoreError
from sona.patterns import QLearningPatterns


def value_iteration(transitions, rewards, gamma):
    """Optimal Q of a small MDP: transitions (S, A, S), rewards (S, A)."""
    q = np.zeros_like(rewards)
    for _ in range(10_000):
        new = rewards + gamma * transitions @ q.max(1)
        if np.abs(new - q).max() < 1e-12:
            return new
        q = new
    raise AssertionError("value iteration did not converge")


def test_converges_to_value_iteration():
    rng = np.random.default_rng(0)
    n_states, n_actions, gamma = 4, 3, 0.6
    transitions = rng.dirichlet(np.full(n_states, 0.5), size=(n_states, n_actions))
    rewards = rng.uniform(-1, 1, size=(n_states, n_actions))
    want = value_iteration(transitions, rewards, gamma)
    q = QLearningPatterns(gamma=gamma)
    for _ in range(4000):
        for s in range(n_states):
            for a in range(n_actions):
                following = rng.choice(n_states, p=transitions[s, a])
                q.update(f"s{s}", f"a{a}", rewards[s, a] + rng.normal(0, 0.1), f"s{following}", now=0)
    got = np.array([[q.q_value(f"s{s}", f"a{a}") for a in range(n_actions)] for s in range(n_states)])
    np.testing.assert_allclose(got, want, atol=0.05)
    for s in range(n_states):
        assert q.best_action(f"s{s}") == f"a{want[s].argmax()}"


def test_update_is_the_documented_formula():
    q = QLearningPatterns(gamma=0.9, alpha_power=0.7)
    value = 0.0
    for n, reward in enumerate([1.0, -0.5, 2.0, 0.25], start=1):
        value += n**-0.7 * (reward - value)
        assert q.update("s", "a", reward) == pytest.approx(value)
    assert q.count("s", "a") == 4
    assert q.update("t", "b", 1.0, "s") == pytest.approx(1.0 + 0.9 * value)
    assert q.update("u", "b", 1.0, "never seen") == 1.0
    assert q.q_value("never", "seen") == 0.0
    assert q.count("never", "seen") == 0


def test_ties_go_to_the_less_tried_then_to_the_first_name():
    q = QLearningPatterns()
    assert q.best_action("s") is None
    assert q.best_action("s", []) is None
    assert q.best_action("s", ["b", "a"]) == "a"
    for action in ("a", "a", "b"):
        q.update("s", action, 1.0)
    assert q.best_action("s") == "b"
    q.update("bad", "x", -1.0)
    assert q.best_action("bad") == "x"
    assert q.best_action("bad", ["x", "untried"]) == "untried"


def filled():
    q = QLearningPatterns()
    for i in range(50):
        q.update(f"s{i % 7}|x", f"a|{i % 3}", i / 10, f"s{(i + 1) % 7}|x", now=float(i))
    q.update("plain", "tool", 0.5, now=99.5)
    return q


def test_file_has_the_documented_form(tmp_path):
    path = tmp_path / "intelligence.json"
    filled().save(path)
    data = json.loads(path.read_text())
    assert data["memories"] == []
    assert data["trajectories"] == []
    assert data["patterns"]["plain|tool"] == {
        "action": "tool",
        "q_value": 0.5,
        "count": 1,
        "last_update": 99.5,
    }
    assert sorted(tmp_path.iterdir()) == [path]


def test_file_survives_and_continues(tmp_path):
    path = tmp_path / "intelligence.json"
    q = filled()
    q.save(path)
    loaded = QLearningPatterns.load(path)
    own = QLearningPatterns(gamma=0.5)
    assert own.load(path) is own
    assert own.gamma == 0.5
    for other in (loaded, own):
        assert len(other) == len(q)
        for i in range(7):
            for a in range(3):
                pair = (f"s{i}|x", f"a|{a}")
                assert other.q_value(*pair) == q.q_value(*pair)
                assert other.count(*pair) == q.count(*pair)
    assert loaded.update("s1|x", "a|0", 3.0, "s2|x", now=1) == q.update("s1|x", "a|0", 3.0, "s2|x", now=1)


def test_old_one_action_form_is_read(tmp_path):
    path = tmp_path / "intelligence.json"
    old = {
        "patterns": {
            "edit_rs": {"action": "cargo check", "q_value": 0.8, "visits": 12, "last_update": 1764000000},
            "debug": {"state": "debug", "action": "print", "q_value": -0.25},
            "new|style": {"action": "style", "q_value": 0.5, "count": 3, "last_update": "2025-01-01T00:00:00Z"},
        },
        "memories": [{"content": "kept by its owner"}],
        "anything": {"else": 1},
    }
    path.write_text(json.dumps(old))
    q = QLearningPatterns.load(path)
    assert (q.q_value("edit_rs", "cargo check"), q.count("edit_rs", "cargo check")) == (0.8, 12)
    assert (q.q_value("debug", "print"), q.count("debug", "print")) == (-0.25, 1)
    assert (q.q_value("new", "style"), q.count("new", "style")) == (0.5, 3)
    assert q.best_action("edit_rs") == "cargo check"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"patterns": 3}',
        '{"patterns": {"s": {}}}',
        '{"patterns": {"s": {"action": "a", "q_value": NaN}}}',
        '{"patterns": {"s": {"action": "a", "q_value": 1e400}}}',
        '{"patterns": {"s": {"action": "a", "q_value": "1"}}}',
        '{"patterns": {"s": {"action": 1, "q_value": 1}}}',
        '{"patterns": {"s": {"action": "a", "q_value": 1, "count": -3}}}',
        '{"patterns": {"s": {"action": "a", "q_value": 1, "count": 1e300}}}',
        '{"patterns": {"s": {"action": "a", "q_value": 1}, "s|a": {"action": "a", "q_value": 1}}}',
        '{"patterns": ' + "[" * 100_000,
        '{"patterns": {"' + "s" * 5000 + '": {"action": "a", "q_value": 1}}}',
    ],
)
def test_hostile_file_is_refused_and_changes_nothing(tmp_path, text):
    path = tmp_path / "intelligence.json"
    path.write_text(text)
    q = filled()
    before = q.to_bytes()
    with pytest.raises(CorruptStateError):
        q.load(path)
    with pytest.raises(CorruptStateError):
        QLearningPatterns.load(path)
    assert q.to_bytes() == before


def test_missing_file_is_a_store_error(tmp_path):
    with pytest.raises(StoreError):
        QLearningPatterns.load(tmp_path / "missing.json")
    with pytest.raises(StoreError):
        filled().save(tmp_path / "no" / "such" / "folder.json")


def test_bytes_and_pickle_survive():
    q = filled()
    for copy in (QLearningPatterns.from_bytes(q.to_bytes()), pickle.loads(pickle.dumps(q))):  # noqa: S301
        assert copy.to_bytes() == q.to_bytes()
        assert (copy.gamma, copy.alpha_power, len(copy)) == (q.gamma, q.alpha_power, len(q))
    data = q.to_bytes()
    for at in range(0, len(data), 17):
        bad = bytearray(data)
        bad[at] ^= 4
        with pytest.raises(CorruptStateError):
            QLearningPatterns.from_bytes(bytes(bad))


def test_bad_input_changes_nothing():
    q = filled()
    before = q.to_bytes()
    for reward in (float("nan"), float("inf")):
        with pytest.raises(NotFiniteError):
            q.update("s", "a", reward)
    with pytest.raises(ValueError):
        q.update("s" * 5000, "a", 1.0)
    assert q.to_bytes() == before
    for kwargs in ({"gamma": 1.0}, {"gamma": -0.1}, {"alpha_power": 0.0}, {"alpha_power": 1.5}):
        with pytest.raises(ConfigError):
            QLearningPatterns(**kwargs)
    assert q.metrics()["pairs"] == len(q) == 22
    assert "pairs=22" in repr(q)
