"""Maps of the Poincaré ball of curvature −c: distance, exponential and logarithm, Möbius addition.

Points beyond radius (1 − ε)/√c are projected to it (ε = 1e-5 in float64, 4e-3 in float32). All functions work element-wise over
broadcast leading dimensions and keep the precision of their inputs.

References: Ganea et al. 2018, "Hyperbolic Neural Networks"; Ungar 2008 (gyrovectors).

>>> from sona.attention import poincare
>>> poincare.dist([[0.0, 0.0]], [[0.5, 0.0]]).round(6)
array([1.098612])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sona.attention._arrays import Array, floats, quote
from sona.attention._errors import ParameterError
from sona.exceptions import ShapeError

__all__ = ["dist", "expmap", "expmap0", "logmap", "logmap0", "mobius_add", "project"]


def check_curvature(name: str, c: float) -> float:
    """A positive finite number, else ParameterError."""
    if not (math.isfinite(c) and c > 0):
        raise ParameterError(f"{name}: expected above 0, got {c}")
    return float(c)


def arcosh1p(z: Array) -> Array:
    """arcosh(1 + z) for z ≥ 0, without the cancellation of 1 + z near 1."""
    return np.asarray(np.log1p(z + np.sqrt(z * (z + 2.0))))


def clip_radius(dtype: Any, c: float) -> float:
    """Largest norm that a point may have."""
    return (1.0 - (1e-5 if np.dtype(dtype).itemsize == 8 else 4e-3)) / math.sqrt(c)


def project_in(x: Array, c: float) -> Array:
    """Points moved to the largest radius where they lie beyond it."""
    limit = clip_radius(x.dtype, c)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    # NaN stays as it is.
    return np.where(norm > limit, x * (limit / np.where(norm > limit, norm, 1)), x).astype(x.dtype, copy=False)


def _points(c: float, **given: Any) -> tuple[float, list[Array]]:
    names = tuple(given)
    arrays = floats(names, tuple(given.values()))
    for name, x in zip(names, arrays, strict=True):
        if x.ndim < 1:
            raise ShapeError(f"{name}: expected at least one axis, got a scalar")
    if len({x.shape[-1] for x in arrays}) > 1:
        raise ShapeError(f"operands have different widths: {quote(names, arrays)}")
    try:
        np.broadcast_shapes(*(x.shape for x in arrays))
    except ValueError as error:
        raise ShapeError(f"operands do not broadcast: {quote(names, arrays)}") from error
    return check_curvature("c", c), arrays


def _sum(x: Array) -> Array:
    return np.asarray(x.sum(axis=-1, keepdims=True))


def distance_in(x: Array, y: Array, c: float) -> Array:
    """(1/√c)·arcosh(1 + 2c‖x − y‖²/((1 − c‖x‖²)(1 − c‖y‖²))) of points inside the ball."""
    apart = _sum((x - y) ** 2)[..., 0]
    room = ((1 - c * _sum(x * x)) * (1 - c * _sum(y * y)))[..., 0]
    return np.asarray(arcosh1p(2 * c * apart / room) / math.sqrt(c), dtype=np.result_type(x, y))


def _add(x: Array, y: Array, c: float) -> Array:
    xy, xx, yy = _sum(x * y), _sum(x * x), _sum(y * y)
    above = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    return np.asarray(above / (1 + 2 * c * xy + c * c * xx * yy))


def dist(x: Any, y: Any, *, c: float = 1.0) -> Array:
    """Distance of points ``(…, d)``; exactly 0 where they coincide.

    >>> dist([0.1, 0.2], [0.1, 0.2])
    array(0.)
    """
    c, (x, y) = _points(c, x=x, y=y)
    return distance_in(project_in(x, c), project_in(y, c), c)


def project(x: Any, *, c: float = 1.0) -> Array:
    """Points ``(…, d)``, moved to radius (1 − ε)/√c where they lie beyond it.

    >>> project([2.0, 0.0])
    array([0.99999, 0.     ])
    """
    c, (x,) = _points(c, x=x)
    return project_in(x, c)


def mobius_add(x: Any, y: Any, *, c: float = 1.0) -> Array:
    """Möbius sum x ⊕ y.

    >>> mobius_add([0.3, 0.1], [-0.3, -0.1])
    array([0., 0.])
    """
    c, (x, y) = _points(c, x=x, y=y)
    return project_in(_add(project_in(x, c), project_in(y, c), c), c)


def _scaled(x: Array, by: Array) -> Array:
    """by·x/‖x‖, zero for zero."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    share = np.zeros(np.broadcast_shapes(by.shape, norm.shape), dtype=np.result_type(by, norm))
    return np.asarray(x * np.divide(by, norm, out=share, where=norm > 0))


def expmap0_in(u: Array, c: float) -> Array:
    """exp₀ of tangent vectors."""
    root = math.sqrt(c)
    norm = np.linalg.norm(u, axis=-1, keepdims=True)
    return project_in(_scaled(u, np.tanh(root * norm) / root).astype(u.dtype, copy=False), c)


def logmap0_in(y: Array, c: float) -> Array:
    """log₀ of points inside the ball."""
    root = math.sqrt(c)
    norm = np.linalg.norm(y, axis=-1, keepdims=True)
    return _scaled(y, np.arctanh(root * norm) / root).astype(y.dtype, copy=False)


def expmap_in(x: Array, u: Array, c: float) -> Array:
    """Exp at points x of tangent vectors u."""
    root = math.sqrt(c)
    norm = np.linalg.norm(u, axis=-1, keepdims=True)
    step = _scaled(u, np.tanh(root * norm / (1 - c * _sum(x * x))) / root)
    return project_in(_add(x, step, c).astype(x.dtype, copy=False), c)


def logmap_in(x: Array, y: Array, c: float) -> Array:
    """Log at points x of points y."""
    root = math.sqrt(c)
    between = _add(-x, y, c)
    norm = np.minimum(np.linalg.norm(between, axis=-1, keepdims=True), clip_radius(between.dtype, c))
    return _scaled(between, (1 - c * _sum(x * x)) / root * np.arctanh(root * norm)).astype(x.dtype, copy=False)


def expmap(x: Any, u: Any, *, c: float = 1.0) -> Array:
    """Point reached from x along the geodesic with initial velocity u.

    >>> expmap([0.0, 0.0], [0.5, 0.0]).round(6)
    array([0.462117, 0.      ])
    """
    c, (x, u) = _points(c, x=x, u=u)
    return expmap_in(project_in(x, c), u, c)


def logmap(x: Any, y: Any, *, c: float = 1.0) -> Array:
    """Initial velocity of the geodesic from x to y: the inverse of `expmap`.

    >>> logmap([0.0, 0.0], [0.5, 0.0]).round(6)
    array([0.549306, 0.      ])
    """
    c, (x, y) = _points(c, x=x, y=y)
    return logmap_in(project_in(x, c), project_in(y, c), c)


def expmap0(u: Any, *, c: float = 1.0) -> Array:
    """`expmap` at the origin: tanh(√c‖u‖)·u/(√c‖u‖).

    >>> expmap0([0.5, 0.0]).round(6)
    array([0.462117, 0.      ])
    """
    c, (u,) = _points(c, u=u)
    return expmap0_in(u, c)


def logmap0(y: Any, *, c: float = 1.0) -> Array:
    """`logmap` at the origin: artanh(√c‖y‖)·y/(√c‖y‖).

    >>> logmap0([0.5, 0.0]).round(6)
    array([0.549306, 0.      ])
    """
    c, (y,) = _points(c, y=y)
    return logmap0_in(project_in(y, c), c)
