"""Arrays in: views of whatever numpy can view, of one precision; how the leading dimensions of several line up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sona.attention._errors import DTypeError, ParameterError
from sona.exceptions import ShapeError

__all__ = [
    "Array",
    "allotted",
    "bits",
    "check_finite_number",
    "cotangent",
    "floats",
    "heads",
    "integers",
    "is_float",
    "quote",
    "sum_to",
    "view",
    "weighted_sum",
]

Array: TypeAlias = npt.NDArray[Any]
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_LARGEST = 1 << 28


def view(name: str, x: Any) -> Array:
    """Any array-like as an ndarray, without a copy where there is one already."""
    if type(x) is np.ndarray:
        return x
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return np.from_dlpack(x)
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ShapeError(f"{name}: expected a regular array, got rows of different lengths ({error})") from error


def is_float(x: Array) -> bool:
    """Whether an array holds float32 or float64, in any byte order."""
    return x.dtype.kind == "f" and x.dtype.itemsize in (4, 8)


def floats(names: Sequence[str], values: Sequence[Any]) -> list[Array]:
    """C-contiguous arrays of one precision: the wider of those given.

    ``None`` stays ``None``. Raises DTypeError for anything but float32 and float64.
    """
    arrays = [None if x is None else view(n, x) for n, x in zip(names, values, strict=True)]
    dtype: np.dtype[Any] = _FLOAT32
    for name, x in zip(names, arrays, strict=True):
        if x is None:
            continue
        # Native byte order is not asked for here: the conversion below sees to it.
        if not is_float(x):
            raise DTypeError(f"{name}: expected float32 or float64, got {x.dtype}")
        if x.dtype.itemsize == 8:
            dtype = _FLOAT64
    return [x if x is None else np.asarray(x, dtype=dtype, order="C") for x in arrays]  # type: ignore[misc]


def allotted(name: str, *sizes: int) -> None:
    """ParameterError where an array of these sizes is no array but a slip: more than 2**28 values."""
    if math.prod(sizes) > _LARGEST:
        raise ParameterError(f"{name}: expected at most {_LARGEST} values, got {' x '.join(map(str, sizes))}")


def bits(name: str, x: Any) -> Array:
    """A C-contiguous bool array; DTypeError for anything else."""
    a = view(name, x)
    if a.dtype != np.bool_:
        raise DTypeError(f"{name}: expected bool, got {a.dtype}")
    return np.asarray(a, order="C")


def integers(name: str, x: Any) -> Array:
    """A C-contiguous int64 array; DTypeError for anything but integers (an empty array may have any type)."""
    a = view(name, x)
    if a.dtype.kind not in "iu" and a.size:
        raise DTypeError(f"{name}: expected integers, got {a.dtype}")
    return np.asarray(a, dtype=np.int64, order="C")


def quote(names: Sequence[str], values: Sequence[Array]) -> str:
    """``q (2, 3), k (4, 5)`` for messages."""
    return ", ".join(f"{n} {x.shape}" for n, x in zip(names, values, strict=True))


def heads(names: Sequence[str], values: Sequence[Array], groups: int = 1) -> tuple[tuple[int, ...], tuple[Array, ...] | None]:
    """Broadcast the leading dimensions of q, k, v and tell which stored array each head reads.

    Returns the leading shape and index maps, ``None`` for maps that would only count up. With ``groups`` > 1 the arrays after
    the first have one head where the first has ``groups``.
    """
    leads = [x.shape[:-2] for x in values]
    if groups == 1 and leads[0] == leads[1] == leads[2]:
        return leads[0], None
    index = [np.arange(math.prod(s), dtype=np.int64).reshape(s) for s in leads]
    if groups > 1:
        index[1:] = [np.repeat(i, groups, axis=-1) for i in index[1:]]
    try:
        lead = np.broadcast_shapes(*(i.shape for i in index))
    except ValueError as error:
        raise ShapeError(f"leading dimensions do not broadcast: {quote(names, values)}") from error
    return lead, tuple(np.ascontiguousarray(np.broadcast_to(i, lead)).reshape(-1) for i in index)


def cotangent(dout: Any, shape: tuple[int, ...], dtype: Any, name: str = "dout") -> Array:
    """∂L/∂result in the precision and the shape of the result; a number or fewer axes stand for all of it."""
    d = view(name, dout)
    if d.dtype.kind not in "fiu":
        raise DTypeError(f"{name}: expected real numbers, got {d.dtype}")
    try:
        return np.ascontiguousarray(np.broadcast_to(d.astype(dtype, copy=False), shape))
    except ValueError as error:
        raise ShapeError(f"{name}: {d.shape} does not fit the result {shape}") from error


def weighted_sum(weights: Array, x: Array, seen: Array | None) -> Array:
    """weights·x; NaN and infinity in x reach only the rows that see them, for 0·NaN is NaN.

    `seen`, broadcastable to the weights, tells which row sees what; ``None``: all see all.
    """
    if seen is None or np.isfinite(x).all():
        return np.asarray(weights @ x)
    clean = np.isfinite(x).all(axis=-1, keepdims=True)
    out = weights @ np.where(clean, x, 0)
    bad = np.flatnonzero(~clean.reshape(-1, x.shape[-2]).all(axis=0))
    spoilt = np.where(clean, 0, x)[..., None, bad, :]
    seen = np.broadcast_to(seen, weights.shape)[..., bad, None]
    return np.asarray(out + np.where(seen, weights[..., bad, None] * spoilt, 0).sum(axis=-2))


def check_finite_number(name: str, x: Any) -> float:
    """A finite Python float, else ParameterError."""
    value = float(x)
    if not math.isfinite(value):
        raise ParameterError(f"{name}: expected a finite number, got {value}")
    return value


def sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an argument of this shape was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    kept = tuple(i for i, size in enumerate(shape) if size == 1 and g.shape[i] != 1)
    return np.asarray(g.sum(axis=kept, keepdims=True) if kept else g)
