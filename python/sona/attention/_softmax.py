"""What the softmax mechanisms share: operands checked and lined up, masks, the calls into the core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, check_finite_number, cotangent, floats, heads, quote, view
from sona.attention._errors import DTypeError, ParameterError
from sona.attention._results import AttentionOutput
from sona.attention._vjp import Gradients, Pullback
from sona.exceptions import ShapeError

__all__ = ["BLOCKS", "Operands", "causal_code", "forward", "operands", "plain", "pullback", "scale_of", "with_mask"]

BLOCKS = (64, 256)
"""Queries and keys per tile."""

_CAUSAL = {False: 0, True: 1, "top_left": 1, "bottom_right": 2}


class Operands(NamedTuple):
    """Checked q, k, v and what the core needs to know about them."""

    q: Array
    k: Array
    v: Array
    lead: tuple[int, ...]
    maps: tuple[Array, ...] | None
    scale: float
    mask: Array | None = None

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return (*self.lead, self.q.shape[-2], self.v.shape[-1])


def causal_code(causal: bool | str) -> int:
    """Number of the causal order."""
    try:
        return _CAUSAL[causal]
    except (KeyError, TypeError) as error:
        raise ParameterError(f"causal: expected True, False, 'top_left' or 'bottom_right', got {causal!r}") from error


def operands(
    q: Any, k: Any, v: Any, *, scale: float | None, mask: Any = None, gqa: bool = False, same_length: bool = False
) -> Operands:
    """Check and convert the operands of one call."""
    if mask is not None:
        mask = view("mask", mask)
    float_mask = mask is not None and mask.dtype.kind == "f"
    names = ("q", "k", "v")
    *qkv, bias = floats((*names, "mask"), (q, k, v, mask if float_mask else None))
    q, k, v = qkv
    for name, x in zip(names, qkv, strict=True):
        if x.ndim < 2:
            raise ShapeError(f"{name}: expected at least 2 axes (…, length, width), got {quote(names, qkv)}")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"q and k have different widths: {quote(names, qkv)}")
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"k and v have different lengths: {quote(names, qkv)}")
    if same_length and q.shape[-2] != k.shape[-2]:
        raise ShapeError(f"q and k must have the same length here: {quote(names, qkv)}")
    groups = 1
    if gqa:
        groups = _groups(qkv, names)
    lead, maps = heads(names, qkv, groups)
    return Operands(q, k, v, lead, maps, scale_of(scale, q.shape[-1]), bias if float_mask else mask)


def scale_of(scale: float | None, d: int) -> float:
    """Factor of the inner products: what was asked for, else d^−½."""
    if scale is None:
        return 1.0 / math.sqrt(d) if d else 1.0
    return check_finite_number("scale", scale)


def _groups(qkv: Sequence[Array], names: Sequence[str]) -> int:
    """Query heads per head of keys and values."""
    if any(x.ndim < 3 for x in qkv):
        raise ShapeError(f"enable_gqa: expected a head axis (…, heads, length, width), got {quote(names, qkv)}")
    hq, hk, hv = (int(x.shape[-3]) for x in qkv)
    if hk != hv or hk == 0 or hq % hk:
        raise ShapeError(f"enable_gqa: heads of q must be a multiple of those of k and v, got {quote(names, qkv)}")
    return hq // hk


def with_mask(o: Operands, causal: int) -> tuple[Any, ...]:
    """Rule of dense attention with the operands' mask."""
    if o.mask is None:
        return ("dense", causal)
    mask = o.mask
    if mask.dtype.kind == "f":
        # +inf has no meaning as a logit; NaN is caught by the same comparison.
        if not bool(np.all(mask < np.inf)):
            raise ParameterError("mask: expected finite values or -inf, got NaN or +inf")
    elif mask.dtype != np.bool_:
        raise DTypeError(f"mask: expected bool or float, got {mask.dtype}")
    full = (*o.lead, o.q.shape[-2], o.k.shape[-2])
    if mask.ndim < 2:
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
    try:
        fits = np.broadcast_shapes(mask.shape, full) == full
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"mask: {mask.shape} does not broadcast to {full}")
    mask = np.ascontiguousarray(mask)
    lead = mask.shape[:-2]
    index = np.broadcast_to(np.arange(math.prod(lead), dtype=np.int64).reshape(lead), o.lead)
    rows, columns = mask.shape[-2:]
    strides = [columns if rows > 1 else 0, 1 if columns > 1 else 0]
    return ("dense", causal, mask, np.ascontiguousarray(index).reshape(-1), strides)


def plain(q: Any, k: Any, v: Any, scale: float | None, causal: bool | str, blocks: tuple[int, int] = BLOCKS) -> Array | None:
    """Attention without a mask of arrays that need no conversion; None where the long way must check or convert."""
    if (causal is not False and causal is not True) or not (scale is None or type(scale) is float):
        return None
    return _core.attend_plain(q, k, v, scale, causal, blocks)


def forward(
    o: Operands,
    rule: tuple[Any, ...],
    *,
    blocks: tuple[int, int] = BLOCKS,
    lse: bool = False,
    weights: bool = False,
) -> Array | AttentionOutput:
    """Attention under a rule: the array, or an AttentionOutput when more than that was asked for."""
    out, sums, w = _core.attend(o.q, o.k, o.v, o.maps, o.scale, rule, blocks, lse, weights)
    out = out.reshape(o.out_shape)
    if not (lse or weights):
        return out
    n, m = o.q.shape[-2], o.k.shape[-2]
    return AttentionOutput(
        out,
        sums.reshape((*o.lead, n)) if sums is not None else None,
        w.reshape((*o.lead, n, m)) if w is not None else None,
    )


def pullback(o: Operands, rule: tuple[Any, ...]) -> Pullback:
    """Gradients of q, k, v and of a float mask, in the shapes of the arguments."""

    def pull(dout: Any) -> Gradients:
        d = cotangent(dout, o.out_shape, o.q.dtype)
        dq, dk, dv, dmask = _core.attend_vjp(o.q, o.k, o.v, o.maps, o.scale, rule, d)
        grads = {"q": dq.reshape(o.q.shape), "k": dk.reshape(o.k.shape), "v": dv.reshape(o.v.shape)}
        if o.mask is not None and o.mask.dtype.kind == "f":
            grads["mask"] = np.zeros_like(o.mask) if dmask is None else dmask.reshape(o.mask.shape)
        return grads

    return pull
