"""Sparse selection: the k largest, and the projection onto the simplex."""

from __future__ import annotations

from typing import Any

import numpy as np

from sona import _core
from sona.attention._arrays import Array, cotangent, floats
from sona.attention._errors import ParameterError
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["k_winners", "sparsemax"]

_OUTPUTS = ("indices", "mask", "values", "normalized")


def _select(x: Any, k: int, threshold: float | None, output: str) -> tuple[Array, Array]:
    """The checked input, and winners ``(…, k)`` by decreasing value, −1 where below the threshold."""
    if output not in _OUTPUTS:
        raise ParameterError(f"output: expected one of {', '.join(_OUTPUTS)}, got {output!r}")
    (x,) = floats(("x",), (x,))
    if x.ndim < 1:
        raise ShapeError("x: expected at least one axis, got a scalar")
    if not 0 <= k <= x.shape[-1]:
        raise ParameterError(f"k: expected 0 to {x.shape[-1]}, got {k}")
    found = _core.winners(x, k)
    if found is None:
        raise ParameterError(f"x: NaN has no order; the first is at {np.argwhere(np.isnan(x))[0].tolist()}")
    index: Array = found
    if threshold is not None:
        if np.isnan(threshold):
            raise ParameterError("threshold: NaN has no order")
        index = np.where(np.take_along_axis(x, index, axis=-1) < threshold, -1, index)
    return x, index


def _mask(x: Array, index: Array) -> Array:
    mask = np.zeros((*x.shape[:-1], x.shape[-1] + 1), dtype=bool)
    # −1 marks the extra place at the end, which is cut off.
    np.put_along_axis(mask, index, True, axis=-1)
    return np.ascontiguousarray(mask[..., :-1])


def k_winners(x: Any, k: int, *, threshold: float | None = None, output: str = "indices") -> Array:
    """The `k` largest of the last axis.

    Parameters
    ----------
    x : array_like, shape (…, n), float32 or float64
    k : int
        0 to n.
    threshold : float, optional
        Entries below it do not win.
    output : {"indices", "mask", "values", "normalized"}, default "indices"
        ``indices``: int64 ``(…, k)`` by decreasing value, ties (−0 and +0 among them) lower index first, −1 at the end where
        below the threshold. The others have the shape of `x`: ``mask`` bool; ``values`` x on winners, else 0; ``normalized``
        softmax over the winners, else 0.

    Returns
    -------
    ndarray

    Raises
    ------
    ParameterError
        NaN in `x`, `k` out of range.

    Notes
    -----
    O(n) per row. `vjp` of ``output="values"`` passes the gradient to the winners.

    References
    ----------
    Majani et al. 1989; Maass 2000; Xiao et al. 2020.

    Examples
    --------
    >>> from sona.attention import k_winners
    >>> k_winners([0.3, 0.9, 0.1, 0.9], 3)
    array([1, 3, 0])
    >>> k_winners([0.3, 0.9, 0.1, 0.9], 2, output="values")
    array([0. , 0.9, 0. , 0.9])
    """
    if threshold is None and output == "indices" and type(k) is int and 0 <= k < 1 << 32:
        # The common case in one step; None where something must be converted or refused.
        found = _core.winners(x, k)
        if found is not None:
            return found
    x, index = _select(x, k, threshold, output)
    if output == "indices":
        return index
    mask = _mask(x, index)
    if output == "mask":
        return mask
    if output == "values":
        return np.where(mask, x, 0).astype(x.dtype, copy=False)
    if k == 0:
        return np.zeros_like(x)
    top = np.where(mask, x, -np.inf).max(axis=-1, keepdims=True)
    logits = np.where(mask, x, -np.inf)
    # Infinite winners share alike; −∞ alone weighs nothing.
    shift = np.where(np.isfinite(top), top, 0)
    e = np.where(np.isposinf(top), np.isposinf(logits), np.exp(np.minimum(logits - shift, 0)))
    total = e.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(e, total, out=np.zeros_like(x), where=total > 0))


@differentiable(k_winners)
def _k_winners_vjp(x: Any, k: int, *, threshold: float | None = None, output: str = "indices") -> tuple[Array, Pullback]:
    if output != "values":
        raise ParameterError(f"vjp of k_winners: only for output='values', got {output!r}")
    checked, index = _select(x, k, threshold, output)
    mask = _mask(checked, index)

    def pull(dout: Any) -> Gradients:
        return {"x": np.where(mask, cotangent(dout, checked.shape, checked.dtype), 0)}

    return np.where(mask, checked, 0).astype(checked.dtype, copy=False), pull


def sparsemax(x: Any) -> Array:
    """Euclidean projection of the last axis onto the probability simplex: a softmax with exact zeros.

    Parameters
    ----------
    x : array_like, shape (…, n), float32 or float64

    Returns
    -------
    ndarray, shape (…, n)
        Rows sum to 1.

    Notes
    -----
    NaN makes a row of NaN. O(n·log n). Gradient: dout minus its mean over the support, on the support.

    References
    ----------
    Martins & Astudillo 2016, algorithm 1 and equation 16.

    Examples
    --------
    >>> from sona.attention import sparsemax
    >>> sparsemax([1.0, 0.6, -1.0])
    array([0.7, 0.3, 0. ])
    """
    (x,) = floats(("x",), (x,))
    if x.ndim < 1:
        raise ShapeError("x: expected at least one axis, got a scalar")
    if x.shape[-1] == 0:
        return np.asarray(x.copy())
    top = x.max(axis=-1, keepdims=True)
    # Where the largest is infinite, all that equal it share.
    z = np.where(np.isinf(top), np.where(x == top, 0, -np.inf), x - np.where(np.isinf(top), 0, top)).astype(x.dtype)
    ordered = -np.sort(-z, axis=-1)
    total = np.cumsum(ordered, axis=-1)
    rank = np.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    size = (1 + rank * ordered > total).sum(axis=-1, keepdims=True)
    tau = (np.take_along_axis(total, size - 1, axis=-1) - 1) / size
    return np.asarray(np.maximum(z - tau, 0), dtype=x.dtype)


@differentiable(sparsemax)
def _sparsemax_vjp(x: Any) -> tuple[Array, Pullback]:
    out = sparsemax(x)
    support = out > 0

    def pull(dout: Any) -> Gradients:
        d = np.where(support, cotangent(dout, out.shape, out.dtype), 0)
        mean = d.sum(axis=-1, keepdims=True) / np.maximum(support.sum(axis=-1, keepdims=True), 1)
        return {"x": np.where(support, d - mean, 0).astype(out.dtype, copy=False)}

    return out, pull
