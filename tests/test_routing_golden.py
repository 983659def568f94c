"""Every case of the golden file of the room ``routing``."""

from __future__ import annotations

import math

import numpy as np
import pytest

from golden_files import golden
from sona.routing import (
    AdaptiveConformal,
    FastGRNN,
    IsotonicCalibrator,
    KnnRouter,
    LinUCB,
    OffPolicyEvaluator,
    TinyDancerRouter,
    aiq,
    conformal_quantile,
    pareto_hull,
)


@golden("fastgrnn", "routing.npz")
def test_golden_fastgrnn(arrays, params, tol):
    cell = FastGRNN(params["n_in"], params["n_hidden"])
    cell.set_weights(
        arrays["W"],
        arrays["U"],
        arrays["bias_gate"],
        arrays["bias_update"],
        zeta=params["zeta"],
        nu=params["nu"],
    )
    np.testing.assert_allclose(cell.run(arrays["X"], arrays["h0"]), arrays["H"], rtol=tol, atol=tol)
    h = arrays["h0"]
    for x, want in zip(arrays["X"], arrays["H"], strict=True):
        h = cell.forward(x, h)
        np.testing.assert_allclose(h, want, rtol=tol, atol=tol)


@golden("aiq", "routing.npz")
def test_golden_aiq(arrays, params, tol):
    np.testing.assert_allclose(pareto_hull(arrays["points"]), arrays["hull"], rtol=tol, atol=tol)
    assert aiq(arrays["points"], params["lo"], params["hi"]) == pytest.approx(params["aiq"], abs=tol)


@golden("conformal", "routing.npz")
def test_golden_conformal(arrays, params, tol):
    want = math.inf if params["q"] is None else params["q"]
    assert conformal_quantile(arrays["scores"], params["alpha"]) == pytest.approx(want, abs=tol)


@golden("aci", "routing.npz")
def test_golden_adaptive_conformal(arrays, params, tol):
    aci = AdaptiveConformal(params["alpha"], gamma=params["gamma"])
    got = [aci.update(bool(e)) for e in arrays["errors"]]
    np.testing.assert_allclose(got, arrays["levels"], atol=tol)


@golden("linucb", "routing.npz")
def test_golden_linucb(arrays, params, tol):
    bandit = LinUCB(params["n_arms"], params["dim"], alpha=params["alpha"], l2=params["l2"])
    for arm, x, r in zip(arrays["arm"], arrays["X"], arrays["r"], strict=True):
        bandit.update(int(arm), x, float(r))
    np.testing.assert_allclose(bandit.scores(arrays["x"]), arrays["scores"], rtol=tol, atol=tol)
    for x, want in zip(arrays["x"], arrays["scores"], strict=True):
        np.testing.assert_allclose(bandit.scores(x), want, rtol=tol, atol=tol)
        assert bandit.select(x) == want.argmax()


@golden("isotonic", "routing.npz")
def test_golden_isotonic(arrays, params, tol):
    cal = IsotonicCalibrator().fit(arrays["scores"], arrays["outcomes"], arrays["weights"])
    np.testing.assert_allclose(cal.predict(arrays["q"]), arrays["pred"], rtol=tol, atol=tol)


@golden("ope", "routing.npz")
def test_golden_off_policy(arrays, params, tol):
    ope = OffPolicyEvaluator(clip=params["clip"])
    logs = (arrays["rewards"], arrays["target"], arrays["propensity"])
    got = {
        "ips": ope.ips(*logs),
        "snips": ope.snips(*logs),
        "dr": ope.doubly_robust(*logs, arrays["q_logged"], arrays["q_policy"]),
    }
    for name, estimate in got.items():
        assert estimate.value == pytest.approx(params[name], abs=tol)
        assert estimate.stderr == pytest.approx(params[f"{name}_se"], abs=tol)
        assert estimate.ess == pytest.approx(params["ess"], rel=tol)


@golden("router_learns", "behaviour.npz")
@pytest.mark.parametrize("predictor", ["hybrid", "knn"])
@pytest.mark.parametrize("seed", range(5))
def test_golden_router_learns(arrays, params, tol, predictor, seed):
    dim = arrays["X"].shape[1]
    k = 5
    knn = KnnRouter(params["models"], dim=dim, k=k)
    router = TinyDancerRouter(
        params["models"], dim=dim, k=k, cost_weight=params["cost_weight"], predictor=predictor, exploration=0.0, seed=seed
    )
    for x, cluster in zip(arrays["X"], arrays["cluster"], strict=True):
        for model, quality in params["quality"].items():
            knn.learn(x, model, quality[cluster])
            router.learn(x, model, quality[cluster])
    for cluster, center in enumerate(arrays["centers"]):
        for model, value in knn.predict(center).items():
            assert value == pytest.approx(params["quality"][model][cluster], abs=tol)
        assert router.route(center).model == params["choice"][cluster]
        assert router.route(center, candidates=[params["only"]]).model == params["only"]
