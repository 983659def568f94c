"""Every case of the golden file of the room ``control``."""

from __future__ import annotations

import numpy as np
import pytest

import sona.control
from golden_files import golden
from sona import CapacityError
from sona.control import (
    Adwin,
    AutoQuantizer,
    Cusum,
    Ewma,
    MinCut,
    PageHinkley,
    ResourceAllocator,
    RobustZ,
    hypervolume,
    mad,
    non_dominated_sort,
    tension,
    theil_sen,
)


@golden("mincut", "control.npz")
def test_golden_mincut(arrays, params, tol):
    graph = MinCut(params["n"])
    got = [graph.set_edge(int(u), int(v), float(w)) for u, v, w in arrays["ops"]]
    np.testing.assert_allclose(got, arrays["values"], rtol=tol, atol=tol)


@golden("tension", "control.npz")
def test_golden_tension(arrays, params, tol):
    got = [tension(*row) for row in zip(arrays["lam"], arrays["dmin"], arrays["ew"], strict=True)]
    np.testing.assert_allclose(got, arrays["out"], rtol=tol, atol=tol)


def alarms(detector, x):
    return [i for i, v in enumerate(x) if detector.update(float(v))]


@golden("page_hinkley", "control.npz")
def test_golden_page_hinkley(arrays, params, tol):
    assert alarms(PageHinkley(**params["kw"]), arrays["x"]) == params["fire"]


@golden("adwin", "control.npz")
def test_golden_adwin(arrays, params, tol):
    first = alarms(Adwin(params["delta"]), arrays["x"])[0]
    assert abs(first - params["first"]) <= params["slack"]


@golden("mad", "control.npz")
def test_golden_mad(arrays, params, tol):
    np.testing.assert_allclose(mad(arrays["x"]), arrays["mad"], rtol=tol)


@golden("robust_z", "control.npz")
def test_golden_robust_z(arrays, params, tol):
    detector = RobustZ(params["window"])
    got = [detector.update(float(v)) * 0.0 + detector.score for v in arrays["x"]]
    np.testing.assert_allclose(got, arrays["score"], rtol=tol, atol=tol)


@golden("ewma", "control.npz")
def test_golden_ewma(arrays, params, tol):
    detector = Ewma(params["alpha"], initial_variance=params["initial_variance"])
    got = [detector.update(float(v)) * 0.0 + detector.score for v in arrays["x"]]
    np.testing.assert_allclose(got, arrays["score"], rtol=tol, atol=tol)


@golden("cusum", "control.npz")
def test_golden_cusum(arrays, params, tol):
    assert alarms(Cusum(params["mean"], params["std"]), arrays["x"]) == params["fire"]


@golden("theil_sen", "control.npz")
def test_golden_theil_sen(arrays, params, tol):
    slope, intercept = theil_sen(arrays["t"], arrays["y"])
    np.testing.assert_allclose([slope, intercept], [params["slope"], params["intercept"]], rtol=tol)


@golden("drf", "control.npz")
def test_golden_drf(arrays, params, tol):
    got = ResourceAllocator(arrays["capacity"]).allocate(
        arrays["demands"], weights=params["weights"], max_tasks=params["max_tasks"]
    )
    np.testing.assert_allclose(got, arrays["tasks"], rtol=tol, atol=tol)


@golden("autoquant", "control.npz")
def test_golden_autoquant(arrays, params, tol):
    got = AutoQuantizer(params["bits"]).allocate(arrays["sens"], arrays["sizes"], params["budget"])
    assert got.size_bits == int(np.dot(arrays["sizes"], got.bits)) <= params["budget"]
    np.testing.assert_allclose(got.loss, params["loss"], rtol=tol)
    column = [params["bits"].index(b) for b in got.bits]
    np.testing.assert_allclose(arrays["sens"][np.arange(len(column)), column].sum(), params["loss"], rtol=tol)


@golden("autoquant_infeasible", "control.npz")
def test_golden_autoquant_infeasible(arrays, params, tol):
    smallest = int(arrays["sizes"].sum()) * min(params["bits"])
    with pytest.raises(CapacityError, match=str(smallest)):
        AutoQuantizer(params["bits"]).allocate(arrays["sens"], arrays["sizes"], params["budget"])


@golden("nds", "control.npz")
def test_golden_non_dominated_sort(arrays, params, tol):
    assert [sorted(front) for front in non_dominated_sort(arrays["F"])] == params["fronts"]


@golden("hv", "control.npz")
def test_golden_hypervolume(arrays, params, tol):
    np.testing.assert_allclose(hypervolume(arrays["F"], arrays["ref"]), params["hv"], rtol=tol)


@golden("bad_input", "bad_input.npz", module="control")
def test_golden_bad_input(arrays, params, tol):
    (name, args, kwargs), (method, bad, bad_kwargs) = params["calls"]
    target = getattr(sona.control, name)(*args, **kwargs)
    with pytest.raises(ValueError) as error:
        getattr(target, method)(*bad, **bad_kwargs)
    assert params["error"] in [c.__name__ for c in error.type.__mro__]
