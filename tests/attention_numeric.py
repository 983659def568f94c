"""Gradients of functions and modules against central differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from sona.attention import vjp

STEP = 1e-6


def _first(result: Any) -> np.ndarray:
    return result[0] if isinstance(result, tuple) else result


def differences(loss, x: np.ndarray) -> np.ndarray:
    """∂loss/∂x by central differences."""
    g = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += STEP
        down[i] -= STEP
        g[i] = (loss(up) - loss(down)) / (2 * STEP)
    return g


def agree(got: np.ndarray, want: np.ndarray, name: str, tol: float) -> None:
    assert got.shape == want.shape, f"{name}: gradient {got.shape} of an argument {want.shape}"
    assert got.dtype == np.float64, name
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol * (1 + np.abs(want).max(initial=0)), err_msg=name)


def check_vjp(f, arrays: dict[str, np.ndarray], within: float = 3e-6, **fixed: Any) -> None:
    """One gradient per array, under its name, equal to central differences of a random linear loss."""
    result, pullback = vjp(f, **arrays, **fixed)
    np.testing.assert_array_equal(_first(result), _first(f(**arrays, **fixed)))
    dout = np.random.default_rng(1).normal(size=_first(result).shape)
    grads = pullback(dout)
    assert set(grads) == set(arrays)
    for name, x in arrays.items():
        want = differences(lambda y, name=name: float((_first(f(**{**arrays, name: y}, **fixed)) * dout).sum()), x)
        agree(grads[name], want, f"{f.__name__}: {name}", within)


def check_module(module, inputs: dict[str, np.ndarray], within: float = 1e-5, **options: Any) -> None:
    """Gradients of inputs and parameters of the last call."""
    state = module.state_dict()
    out = _first(module(**inputs, **options))
    dout = np.random.default_rng(2).normal(size=out.shape)
    grads = module.backward(dout)
    assert set(grads) == set(inputs) | set(state)

    def loss(name: str, y: np.ndarray) -> float:
        module.load_state_dict({**state, name: y} if name in state else state)
        given = inputs if name in state else {**inputs, name: y}
        return float((_first(module(**given, **options)) * dout).sum())

    for name, x in {**state, **inputs}.items():
        agree(grads[name], differences(lambda y, name=name: loss(name, y), x), f"{module!r}: {name}", within)
    module.load_state_dict(state)
