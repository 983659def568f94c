"""Every golden case of the room ``continual``, and of the background loop."""

from __future__ import annotations

import numpy as np
import pytest

from golden_files import golden
from sona.continual import BoundaryDetector, EwcConfig, EwcPlusPlus, PriorityReplayBuffer, estimate_fisher
from sona.loops import BackgroundLoop, BackgroundLoopConfig
from sona.trajectory import QueryTrajectory


def close(got, want, tol):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.all(np.abs(got - want) <= tol * (1 + np.abs(want))), np.abs(got - want).max()


@golden("fisher", "continual.npz")
def test_fisher_information(arrays, params, tol):
    close(estimate_fisher(arrays["G"]), arrays["fisher"], tol)


@golden("ema_fisher", "continual.npz")
@pytest.mark.parametrize("batched", [False, True])
def test_running_fisher_information(arrays, params, tol, batched):
    ewc = EwcPlusPlus(EwcConfig(param_count=arrays["G"].shape[1], fisher_ema_decay=params["decay"]))
    assert not ewc.fisher.any()
    if batched:
        ewc.update_fisher(arrays["G"])
    else:
        for g in arrays["G"]:
            ewc.update_fisher(g)
    assert ewc.fisher.dtype == np.float64
    close(ewc.fisher, arrays["fisher"], tol)
    assert ewc.samples_seen == len(arrays["G"])


@golden("ewc", "continual.npz")
def test_penalty_and_pull(arrays, params, tol):
    ewc = EwcPlusPlus(
        EwcConfig(
            param_count=params["param_count"],
            initial_lambda=params["lam"],
            normalize_fisher=params["normalize"],
            max_tasks=params["max_tasks"],
        )
    )
    for fisher, star in zip(arrays["fishers"], arrays["stars"], strict=True):
        ewc.start_new_task(fisher=fisher, params=star)
    assert ewc.task_count == len(arrays["fishers"])
    theta = arrays["theta"]
    close(ewc.penalty(theta), arrays["penalty"], tol)
    close(ewc.penalty_gradient(theta), arrays["penalty_gradient"], tol)
    ewc.set_params(theta)
    close(ewc.penalty(), arrays["penalty"], tol)
    close(ewc.penalty_gradient(), arrays["penalty_gradient"], tol)
    close(ewc.apply_constraints(arrays["grad"]), arrays["constrained"], tol)
    close(ewc.apply_constraints(arrays["grad"], mode="precondition"), arrays["precond"], tol)
    close(ewc.proximal_step(arrays["theta_prime"], params["lr"]), arrays["prox"], tol)
    ewc.consolidate_all_tasks()
    assert ewc.task_count == 1
    close(ewc.penalty_gradient(theta), arrays["penalty_gradient"], tol)
    close(ewc.proximal_step(arrays["theta_prime"], params["lr"]), arrays["prox"], tol)


@golden("boundary", "continual.npz")
def test_the_first_alarm(arrays, params, tol):
    alone = BoundaryDetector(params["dim"])
    ewc = EwcPlusPlus(EwcConfig(param_count=params["dim"]))
    for detect in (alone.update, ewc.detect_task_boundary):
        first = next((i for i, g in enumerate(arrays["stream"]) if detect(g)), -1)
        assert abs(first - params["first"]) <= params["slack"]


@golden("replay", "continual.npz")
def test_priorities(arrays, params, tol):
    buffer = PriorityReplayBuffer(len(arrays["priority"]), alpha=params["alpha"], beta=params["beta"])
    for i, priority in enumerate(arrays["priority"]):
        assert buffer.add(f"item {i}", float(priority)) == i
    close(buffer.probabilities(), arrays["prob"], tol)
    close(buffer.weights(np.arange(len(buffer))), arrays["weights"], tol)
    assert [buffer.locate(float(u)) for u in arrays["u"]] == arrays["located"].tolist()


@golden("background_keeps", "store_loops.npz")
def test_too_few_trajectories_are_kept(arrays, params, tol):
    rng = np.random.default_rng(0)
    made = [QueryTrajectory(i, rng.normal(size=params["dim"]), (), 0.9) for i in range(params["n"])]
    loop = BackgroundLoop(BackgroundLoopConfig(min_trajectories=params["n"]), params["dim"])
    waiting = loop.run_cycle(made[:-1])
    assert (waiting.status, waiting.trajectories_processed) == ("waiting", 0)
    done = loop.run_cycle(made[-1:])
    assert done.status != "waiting"
    assert done.trajectories_processed == params["n"]
