"""Attention to some of the keys: a window with global tokens, or blocks of a layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sona.attention._arrays import Array, bits, view
from sona.attention._errors import DTypeError, ParameterError
from sona.attention._softmax import BLOCKS, Operands, causal_code, forward, operands, pullback
from sona.attention._vjp import Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["block_sparse_attention", "local_global_attention"]


def _window_rule(o: Operands, window: int, global_idx: Any, causal: bool) -> tuple[Any, ...]:
    causal_code(causal)
    if window < 0:
        raise ParameterError(f"window: expected at least 0, got {window}")
    n = o.q.shape[-2]
    index = view("global_idx", global_idx)
    if index.size and index.dtype.kind not in "iu":
        raise DTypeError(f"global_idx: expected an int or an array of ints, got {index.dtype}")
    if index.ndim == 0:
        if index < 0:
            raise ParameterError(f"global_idx: expected at least 0 tokens, got {index}")
        tokens = list(range(min(int(index), n)))
    elif index.ndim == 1:
        tokens = [int(i) for i in index]
        wrong = [i for i in tokens if not 0 <= i < n]
        if wrong:
            raise ParameterError(f"global_idx: token {wrong[0]} is not among the {n} tokens")
    else:
        raise ShapeError(f"global_idx: expected an int or one axis, got shape {index.shape}")
    return ("local", (min(int(window), n), bool(causal)), tokens)


def local_global_attention(
    q: Any, k: Any, v: Any, *, window: int, global_idx: Any = 0, causal: bool = False, scale: float | None = None
) -> Array:
    """Attention within a window, plus global tokens that see and are seen by all.

    Query i attends key j iff ``|i − j| <= window``, or i or j is global (and ``j <= i`` with `causal`).

    Parameters
    ----------
    q, k : array_like, shape (…, n, d), float32 or float64
    v : array_like, shape (…, n, dv)
    window : int
        Keys seen on either side, at least 0.
    global_idx : int or array_like of int, default 0
        A number g: the first g tokens are global; an array: these are.
    causal : bool, default False
    scale : float, optional
        Default ``d ** -0.5``.

    Returns
    -------
    ndarray, shape (…, n, dv)

    Raises
    ------
    ShapeError, DTypeError
        As in `scaled_dot_product_attention`; ShapeError also if q and k differ in length.
    ParameterError
        ``window < 0``, or a global token out of range.

    Notes
    -----
    Time O(n·(window + g)·d) with g global tokens, memory O(n) beyond the result.

    References
    ----------
    Beltagy et al. 2020, "Longformer", section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import local_global_attention
    >>> x = np.eye(4)
    >>> local_global_attention(x, x, x, window=0)
    array([[1., 0., 0., 0.],
           [0., 1., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 0., 1.]])
    """
    o = operands(q, k, v, scale=scale, same_length=True)
    return np.asarray(forward(o, _window_rule(o, window, global_idx, causal)))


@differentiable(local_global_attention)
def _local_global_vjp(
    q: Any, k: Any, v: Any, *, window: int, global_idx: Any = 0, causal: bool = False, scale: float | None = None
) -> tuple[Array, Pullback]:
    o = operands(q, k, v, scale=scale, same_length=True)
    rule = _window_rule(o, window, global_idx, causal)
    return np.asarray(forward(o, rule)), pullback(o, rule)


def _layout_rule(o: Operands, layout: Any, block: int, causal: bool) -> tuple[Any, ...]:
    causal_code(causal)
    if block < 1:
        raise ParameterError(f"block: expected at least 1, got {block}")
    cells = bits("layout", layout)
    side = -(-o.q.shape[-2] // block)
    if cells.ndim not in (2, 3) or cells.shape[-2:] != (side, side):
        raise ShapeError(f"layout: expected ({side}, {side}) or (heads, {side}, {side}), got {cells.shape}")
    lead = cells.shape[:-2]
    if lead and (not o.lead or o.lead[-1] != lead[0]):
        raise ShapeError(f"layout: {lead[0]} heads against leading dimensions {o.lead}")
    index = np.broadcast_to(np.arange(math.prod(lead), dtype=np.int64).reshape(lead), o.lead)
    return ("blocks", (int(block), bool(causal)), cells, np.ascontiguousarray(index).reshape(-1))


def block_sparse_attention(
    q: Any, k: Any, v: Any, layout: Any, *, block: int = 64, causal: bool = True, scale: float | None = None
) -> Array:
    """Attention to the blocks of keys that a layout allows.

    Parameters
    ----------
    q, k : array_like, shape (…, n, d), float32 or float64
    v : array_like, shape (…, n, dv)
    layout : array_like of bool, shape (nb, nb) or (h, nb, nb), nb = ceil(n / block)
        Row = query block; True = attend. See `sona.attention.layouts`.
    block : int, default 64
        Tokens per block; the last block may be shorter.
    causal : bool, default True
        Within allowed blocks only keys j ≤ i.
    scale : float, optional
        Default ``d ** -0.5``.

    Returns
    -------
    ndarray, shape (…, n, dv)
        A query whose row of the layout is empty gets zeros.

    Raises
    ------
    ShapeError, DTypeError, ParameterError
        As in `scaled_dot_product_attention`; ShapeError also for a layout of the wrong size.

    Notes
    -----
    Time in proportion to the allowed blocks, memory O(n) beyond the result.

    References
    ----------
    Child et al. 2019, "Generating Long Sequences with Sparse Transformers".

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import block_sparse_attention, layouts
    >>> x = np.random.default_rng(0).normal(size=(128, 16))
    >>> block_sparse_attention(x, x, x, layouts.local(128, block=16, context=32), block=16).shape
    (128, 16)
    """
    o = operands(q, k, v, scale=scale, same_length=True)
    rule = _layout_rule(o, layout, block, causal)
    return np.asarray(forward(o, rule, blocks=(min(block, BLOCKS[0]), BLOCKS[1])))


@differentiable(block_sparse_attention)
def _block_sparse_vjp(
    q: Any, k: Any, v: Any, layout: Any, *, block: int = 64, causal: bool = True, scale: float | None = None
) -> tuple[Array, Pullback]:
    o = operands(q, k, v, scale=scale, same_length=True)
    rule = _layout_rule(o, layout, block, causal)
    return np.asarray(forward(o, rule, blocks=(min(block, BLOCKS[0]), BLOCKS[1]))), pullback(o, rule)
