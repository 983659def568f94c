"""Differential attention: the difference of two softmax maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from sona import _core
from sona.attention._arrays import Array, cotangent, floats, quote, sum_to
from sona.attention._softmax import Operands, causal_code, forward, operands, pullback, with_mask
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["differential_attention"]


def _prepare(
    q1: Any, k1: Any, q2: Any, k2: Any, v: Any, lam: Any, mask: Any, scale: float | None
) -> tuple[Operands, Operands, Array]:
    names = ("q1", "k1", "q2", "k2", "v")
    # A Python number takes the precision of the arrays.
    number = isinstance(lam, (int, float)) and not isinstance(lam, np.generic)
    *arrays, weight = floats((*names, "lam"), (q1, k1, q2, k2, v, None if number else lam))
    q1, k1, q2, k2, v = arrays
    if q1.shape != q2.shape or k1.shape != k2.shape:
        raise ShapeError(f"the two maps need operands of the same shapes: {quote(names, arrays)}")
    first = operands(q1, k1, v, scale=scale, mask=mask)
    second = first._replace(q=operands(q2, k2, v, scale=scale).q, k=k2)
    weight = np.asarray(lam if number else weight, dtype=v.dtype)
    try:
        fits = np.broadcast_shapes(weight.shape, first.lead) == first.lead
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"lam: {weight.shape} does not broadcast to the leading dimensions {first.lead}")
    return first, second, weight


def differential_attention(
    q1: Any,
    k1: Any,
    q2: Any,
    k2: Any,
    v: Any,
    lam: Any,
    *,
    mask: Any = None,
    causal: bool | str = False,
    scale: float | None = None,
) -> Array:
    """(softmax(scale·Q₁K₁ᵀ) − λ·softmax(scale·Q₂K₂ᵀ))·V: what both maps attend alike cancels.

    Parameters
    ----------
    q1, q2 : array_like, shape (…, n, d), float32 or float64
    k1, k2 : array_like, shape (…, m, d)
    v : array_like, shape (…, m, dv)
    lam : float or array_like, broadcastable to the leading dimensions
        Weight of the second map.
    mask, causal, scale
        As in `scaled_dot_product_attention`; they hold for both maps.

    Returns
    -------
    ndarray, shape (…, n, dv)
        Rows of the combined map sum to 1 − λ and are not renormalised. `vjp` always has an entry for ``lam``, of shape (1,)
        for a number.

    Raises
    ------
    ShapeError, DTypeError, ParameterError
        As in `scaled_dot_product_attention`.

    Notes
    -----
    Time of one attention and a half at equal widths, memory O(n + m) beyond the result.

    References
    ----------
    Ye et al. 2024, "Differential Transformer", equations 1 to 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import differential_attention
    >>> x = np.random.default_rng(0).normal(size=(5, 4))
    >>> bool(np.allclose(differential_attention(x, x, x, x, x, 1.0), 0))
    True
    """
    first, second, weight = _prepare(q1, k1, q2, k2, v, lam, mask, scale)
    return _combined(first, second, weight, with_mask(first, causal_code(causal)))


def _combined(first: Operands, second: Operands, weight: Array, rule: tuple[Any, ...]) -> Array:
    """Both maps against the values at once."""
    lam = np.ascontiguousarray(np.broadcast_to(weight, first.lead)).reshape(-1)
    pairs = ((first.q, first.k), (second.q, second.k))
    return _core.differential_attend(*pairs, first.v, first.maps, first.scale, lam, rule).reshape(first.out_shape)


@differentiable(differential_attention)
def _differential_vjp(
    q1: Any,
    k1: Any,
    q2: Any,
    k2: Any,
    v: Any,
    lam: Any,
    *,
    mask: Any = None,
    causal: bool | str = False,
    scale: float | None = None,
) -> tuple[Array, Pullback]:
    first, second, weight = _prepare(q1, k1, q2, k2, v, lam, mask, scale)
    rule = with_mask(first, causal_code(causal))
    out = _combined(first, second, weight, rule)

    def pull(dout: Any) -> Gradients:
        d = cotangent(dout, out.shape, out.dtype)
        g1 = pullback(first, rule)(d)
        g2 = pullback(second, rule)(-weight[..., None, None] * d)
        grads = {"q1": g1["q"], "k1": g1["k"], "q2": g2["q"], "k2": g2["k"], "v": g1["v"] + g2["v"]}
        if "mask" in g1:
            grads["mask"] = g1["mask"] + g2["mask"]
        b = np.asarray(forward(second, rule))
        per_head = -(d * b).sum(axis=(-2, -1))
        dlam = sum_to(per_head, weight.shape)
        grads["lam"] = dlam if isinstance(lam, np.ndarray) else np.atleast_1d(dlam)
        return grads

    return out, pull
