"""Every case of the golden file of the room ``plasticity``."""

from __future__ import annotations

import numpy as np

from golden_files import golden
from sona.plasticity import BTSPLayer, EpropLayer, btsp_weight_change


@golden("eprop", "plasticity.npz")
def test_golden_eprop(arrays, params, tol):
    layer = EpropLayer(params["n_in"], params["n_rec"], params["n_out"])
    layer.set_weights(arrays["w_in"], arrays["w_rec"], arrays["w_out"])
    outputs, loss = [], 0.0
    for x, target in zip(arrays["x"], arrays["target"], strict=True):
        outputs.append(layer.forward_with_eligibility(x))
        loss += layer.learn(target)
    np.testing.assert_allclose(outputs, arrays["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-6)
    for name, key in [("w_in", "g_in"), ("w_rec", "g_rec"), ("w_out", "g_out")]:
        np.testing.assert_allclose(layer.gradients[name], arrays[key], rtol=1e-5, atol=1e-5)


@golden("btsp", "plasticity.npz")
def test_golden_plateau(arrays, params, tol):
    got = [btsp_weight_change(params["w0"], float(lag)) for lag in arrays["lags"]]
    np.testing.assert_allclose(got, arrays["dw"], rtol=tol, atol=tol)


@golden("one_shot", "plasticity.npz")
def test_golden_one_shot(arrays, params, tol):
    layer = BTSPLayer(params["n_in"], params["n_out"])
    for pattern, target in zip(arrays["patterns"], arrays["targets"], strict=True):
        layer.one_shot_associate(pattern, target)
        np.testing.assert_allclose(layer.forward(pattern), target, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.weights, arrays["W"], rtol=1e-5, atol=1e-6)
