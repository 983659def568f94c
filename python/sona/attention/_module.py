"""What trainable modules share: named parameters, their precision and how they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sona import _core
from sona.attention._arrays import Array, allotted, is_float, view
from sona.attention._errors import DTypeError, ParameterError
from sona.attention._vjp import Gradients, Pullback
from sona.exceptions import ShapeError

__all__ = ["Module", "glorot", "linear", "linear_vjp", "uniform"]


def glorot(rng: np.random.Generator, rows: int, columns: int, fan_out: int | None = None) -> Array:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), shape (rows, columns)."""
    allotted("a weight", rows, columns)
    bound = (6.0 / (columns + (fan_out or rows))) ** 0.5
    return rng.uniform(-bound, bound, size=(rows, columns))


def uniform(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Uniform in ±1/sqrt(fan_in), shape (rows, columns)."""
    allotted("a weight", rows, columns)
    bound = columns**-0.5
    return rng.uniform(-bound, bound, size=(rows, columns))


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x·Wᵀ + b over the last axis."""
    # One product of matrices: numpy takes a stack of small ones, many times slower.
    rows = x.reshape(-1, x.shape[-1])
    out = _core.rows_by_rows(rows, weight)
    if out is None:
        out = rows @ weight.T
    out = out.reshape(*x.shape[:-1], len(weight))
    return np.asarray(out if bias is None else out + bias)


def linear_vjp(x: Array, weight: Array, dout: Array) -> tuple[Array, Array, Array]:
    """Gradients of x, weight and bias of `linear`."""
    rows, drows = x.reshape(-1, x.shape[-1]), dout.reshape(-1, dout.shape[-1])
    return (drows @ weight).reshape(x.shape), np.asarray(drows.T @ rows), np.asarray(drows.sum(axis=0))


class Module:
    """Named parameters of one precision; the gradients of the last call.

    A subclass fills ``_parameters`` in its constructor, and ``_pullback`` in every call.
    """

    def __init__(self, dtype: Any) -> None:
        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise DTypeError(f"dtype: expected float32 or float64, got {dtype!r}") from error
        if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise DTypeError(f"dtype: expected float32 or float64, got {kind}")
        self.dtype = kind
        self._parameters: dict[str, Array] = {}
        self._pullback: Pullback | None = None

    def _set(self, **parameters: Array) -> None:
        """Store parameters; ``__`` in a name stands for a dot."""
        for name, x in parameters.items():
            self._parameters[name.replace("__", ".")] = np.ascontiguousarray(x, dtype=self.dtype)

    def _input(self, name: str, x: Any, ndim: int, width: int | None = None) -> Array:
        """An input in the module's precision, with `ndim` axes and the given last axis."""
        a = view(name, x)
        if not is_float(a):
            raise DTypeError(f"{name}: expected float32 or float64, got {a.dtype}")
        if a.ndim != ndim or (width is not None and a.shape[-1] != width):
            want = f"{ndim} axes" + ("" if width is None else f", the last of {width}")
            raise ShapeError(f"{name}: expected {want}, got {a.shape}")
        return np.ascontiguousarray(a, dtype=self.dtype)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters by name."""
        return {name: x.copy() for name, x in self._parameters.items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Replace all parameters; nothing changes if one is missing, unknown or of the wrong shape."""
        missing, extra = self._parameters.keys() - d.keys(), d.keys() - self._parameters.keys()
        if missing or extra:
            what = [f"missing {sorted(missing)}"] * bool(missing) + [f"unknown {sorted(extra)}"] * bool(extra)
            raise ParameterError(f"state dict: {'; '.join(what)}")
        fresh = {}
        for name, old in self._parameters.items():
            x = view(name, d[name])
            if not is_float(x):
                raise DTypeError(f"{name}: expected float32 or float64, got {x.dtype}")
            if x.shape != old.shape:
                raise ShapeError(f"{name}: expected {old.shape}, got {x.shape}")
            fresh[name] = np.array(x, dtype=self.dtype, order="C")
        self._parameters = fresh

    def backward(self, dout: Any) -> Gradients:
        """Gradients of the inputs and parameters of the last call, for ∂L/∂result = `dout`."""
        if self._pullback is None:
            raise ParameterError("backward: call the module first")
        return self._pullback(view("dout", dout))
