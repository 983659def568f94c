"""The forgetting benchmark on made tasks: the summary, every arm, and that arms which remember do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sona.bench import forgetting
from sona.bench.forgetting import Figure, bench_sequence, figures
from sona.bench.learners import ARMS, Task
from sona.cli import main


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def made(seed, *, split="test", tasks=3, d=16, classes=6, shared=True):
    """Requests are a task's own linear map of their item."""
    rng = np.random.default_rng(0)
    items = unit(rng.normal(size=(tasks * classes, d)))
    out = []
    for t in range(tasks):
        turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
        own = np.arange(t * classes, (t + 1) * classes)

        def draw(n, turn=turn, own=own):
            target = rng.choice(own, n)
            return unit(items[target] @ turn + 0.1 * rng.normal(size=(n, d))), target

        train, test, anchors = draw(90), draw(20), draw(5)
        out.append(
            Task(
                name=f"task {t}",
                items=items if shared else items.copy(),
                train=train[0],
                train_target=train[1],
                test=test[0],
                test_relevant=tuple((int(r),) for r in test[1]),
                anchors=anchors[0],
                anchor_target=anchors[1],
                candidates=None if shared else np.argsort(-(test[0] @ items.T), axis=1)[:, :15],
                metric="hit@1" if shared else "ndcg@10",
            )
        )
    return out


def test_the_summary_of_a_run():
    R = np.array([[0.9, np.nan, np.nan], [0.7, 0.8, np.nan], [0.6, 0.9, 0.5]])
    got = figures(R)
    assert got["accuracy"] == pytest.approx((0.6 + 0.9 + 0.5) / 3)
    assert got["learned"] == pytest.approx((0.9 + 0.8 + 0.5) / 3)
    assert got["backward"] == pytest.approx((-0.3 + 0.1) / 2)
    assert got["forgetting"] == pytest.approx((0.3 - 0.1) / 2)
    assert got["first"] == pytest.approx(0.3 / 0.9)


def test_intervals_are_students():
    f = Figure.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (f.mean, f.high - f.mean) == (3.0, pytest.approx(2.776 * np.std([1, 2, 3, 4, 5], ddof=1) / 5**0.5))
    assert Figure.of([1.0]).high == np.inf


def test_every_arm_runs_and_those_that_remember_forget_less(monkeypatch):
    monkeypatch.setitem(forgetting.SEQUENCES, "clinc150", made)
    rows = {r.arm: r for r in bench_sequence("clinc150", seeds=2, most=20)}
    assert set(rows) == set(ARMS)
    assert rows["frozen"].forgetting.mean == 0.0
    assert rows["none"].forgetting.mean > rows["replay"].forgetting.mean + 0.05
    assert rows["none"].accuracy.mean < rows["replay"].accuracy.mean
    assert rows["engine"].accuracy.mean > rows["frozen"].accuracy.mean
    assert rows["engine, a scope per task (told which)"].forgetting.mean == 0.0
    assert rows["replay"].over_replay is None
    assert rows["none"].over_replay is None
    assert rows["engine"].over_replay is not None


def test_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(forgetting.SEQUENCES, "scifact+banking77", lambda seed, split: made(seed, tasks=2, shared=False))
    arms = ["frozen", "replay", "engine, anchor gate", "nearest centroid"]
    command = ["bench", "forgetting", "--sequences", "scifact+banking77", "--seeds", "2", "--arms", *arms]
    assert main([*command, "--output", str(tmp_path / "t.md")]) == 0
    out = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in out.splitlines()[4:8]] == [f"| {arm}" for arm in arms]
    assert (tmp_path / "t.md").read_text().startswith("**scifact+banking77**, 2 seeds")
    assert main([*command, "--json", "--ewc-lambda", "1", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["arm"] for r in rows] == arms
