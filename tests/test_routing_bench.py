"""The routing benchmark on a made-up set: curves, baselines, streams, the loader of both layouts."""

from __future__ import annotations

import numpy as np
import pytest

from sona.bench import routing_online
from sona.bench.routing_curves import (
    BASELINES,
    curve,
    difference,
    history,
    mean_of_folds,
    out_of_fold,
    shuffled_within_tasks,
    single_models,
)
from sona.bench.routing_data import RoutingSet, load_routing_set, resplit
from sona.exceptions import SonaError


def made_up(n=400, seed=0):
    """Two tasks; each is answered by another cheap model, and both by the dear one."""
    rng = np.random.default_rng(seed)
    task = rng.integers(0, 2, n)
    x = np.eye(8)[task] + 0.1 * rng.normal(size=(n, 8))
    good = np.stack([np.where(task == 0, 0.9, 0.2), np.where(task == 1, 0.9, 0.2), np.full(n, 0.95)], axis=1)
    return RoutingSet(
        name="made up",
        models=("a", "b", "dear"),
        x=(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32),
        quality=(rng.random((n, 3)) < good).astype(float),
        cost=np.repeat([[1.0, 1.2, 10.0]], n, axis=0),
        task=task,
        train=np.arange(n // 2),
        test=np.arange(n // 2, n),
        cost_basis="made up",
        own_split=False,
    )


def test_curves_order_the_methods():
    data = made_up()
    aiq = {name: curve(data, data.test, *predict(data, data.train, data.test)).aiq for name, predict in BASELINES.items()}
    ours = curve(data, data.test, *history(data, data.train, data.test))
    zero = single_models(data, data.test)
    assert aiq["oracle"] > max(ours.aiq, aiq["kNN-40"]) > zero.aiq + 0.1
    assert ours.aiq == pytest.approx(aiq["task table (told the task)"], abs=0.02)
    gain = difference(ours, zero, draws=50)
    assert gain.low > 0.05
    assert gain.mean == pytest.approx(ours.aiq - zero.aiq)
    assert ours.cost_at(0.8) < 2.0 < zero.cost_at(0.8)
    assert np.isnan(ours.cost_at(1.5))


def test_every_row_is_judged_by_others():
    data = made_up()
    seen = []

    def spy(data, train, test):
        seen.append((set(train), set(test)))
        return history(data, train, test)

    predicted = out_of_fold(data, spy)
    assert all(not train & test for train, test in seen)
    assert set().union(*(test for _, test in seen)) == set(range(len(data.x)))
    judged = [np.array(sorted(test)) for _, test in seen]
    own = [curve(data, test, predicted[0][test], predicted[1][test]).aiq for test in judged]
    assert mean_of_folds(data, *predicted) == pytest.approx(np.mean(own), abs=1e-12)
    rows = np.arange(len(data.x))
    shuffled = shuffled_within_tasks(data, rows, *predicted, seed=0)
    assert sorted(shuffled[0][data.task == 0, 0]) == sorted(predicted[0][data.task == 0, 0])
    risk = routing_online.joint_risk(data, rows, *predicted, alpha=0.1)
    assert risk.risk <= 0.115
    assert risk.saving > 0.3


def test_streams():
    data = made_up()
    run = routing_online.online(data, 0, rounds=200)
    assert run.rounds == run.calls.sum() == 200
    assert run.regret < 0.6 * run.regret_uniform
    assert run.aiq > single_models(data, data.test).aiq + 0.05
    late = routing_online.online(data, 0, rounds=200, delay=20, flip=0.2)
    assert late.calls.sum() == 200
    assert max(routing_online.spend_error(data, 0, requests=400)) < 0.1
    judged = routing_online.off_policy(data, logs=400, repetitions=20)
    assert abs(judged.bias) < 0.05
    assert judged.rmse < 0.08
    calls, lost, _ = routing_online.new_model(data, 0, good=True, before=100, after=100)
    assert calls > 0
    assert np.isfinite(lost)


def test_a_set_without_a_split_is_split_by_the_seed():
    data = made_up()
    a, b, again = resplit(data, 1), resplit(data, 2), resplit(data, 1)
    assert not np.array_equal(a.test, b.test)
    np.testing.assert_array_equal(a.test, again.test)
    assert sorted([*a.train, *a.test]) == list(range(len(data.x)))


def test_without_data(monkeypatch, tmp_path):
    monkeypatch.delenv("SONA_DATA", raising=False)
    with pytest.raises(SonaError, match="SONA_DATA"):
        load_routing_set("routerbench")
    monkeypatch.setenv("SONA_DATA", str(tmp_path))
    with pytest.raises(SonaError, match="no routing set"):
        load_routing_set("routerbench")


def test_loads_both_layouts(monkeypatch, tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="reading sets needs pyarrow: pip install 'sona[bench]'")
    import pyarrow.parquet as parquet

    monkeypatch.setenv("SONA_DATA", str(tmp_path))
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float16)
    scored = {
        "task": ["t"] * 20,
        "split": ["train"] * 12 + ["test"] * 8,
        "score|m/1": [0.5] * 20,
        "cost|m/1": [0.1] * 20,
        "score|m2": [1.0] * 20,
        "cost|m2": [0.2] * 20,
    }
    parquet.write_table(arrow.table(scored), tmp_path / "mine_3task.parquet")
    np.savez(tmp_path / "mine_query_minilm_fp16.npz", x=x)
    data = load_routing_set("mine")
    assert (data.models, len(data.train), len(data.test), data.own_split) == (("m/1", "m2"), 12, 8, True)
    assert data.best == 1
    tasks = {"task_type": ["a"] * 20, "dataset": ["d"] * 20, "task_id": [str(i) for i in range(20)]}
    runs = {
        "model": [m for m in ("gpt-4-0613", "tiny-7b") for _ in range(20)],
        **{k: v * 2 for k, v in tasks.items()},
        "success": [True] * 20 + [i % 2 == 0 for i in range(20)],
        "prompt_tokens": [1000.0] * 40,
        "completion_tokens": [100.0] * 40,
    }
    parquet.write_table(arrow.table({**tasks, "prompt": ["p"] * 20}), tmp_path / "agents_tasks.parquet")
    parquet.write_table(arrow.table(runs), tmp_path / "agents_runs.parquet")
    np.savez(tmp_path / "agents_task_minilm_fp16.npz", x=x)
    data = load_routing_set("agents")
    assert set(data.models) == {"gpt-4-0613", "tiny-7b"}
    dear = data.models.index("gpt-4-0613")
    assert data.quality.mean(axis=0)[dear] == 1.0
    assert data.cost[0, dear] == pytest.approx(0.036)
    assert data.cost[0, 1 - dear] == pytest.approx(0.00022)
