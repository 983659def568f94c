"""Scaled dot-product attention, plain and by tiles."""

from __future__ import annotations

from typing import Any

from sona.attention._arrays import Array
from sona.attention._errors import ParameterError
from sona.attention._results import AttentionOutput
from sona.attention._softmax import causal_code, forward, operands, plain, pullback, with_mask
from sona.attention._vjp import Pullback, differentiable

__all__ = ["flash_attention", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    causal: bool | str = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    """softmax(scale·QKᵀ + mask)·V.

    Parameters
    ----------
    q : array_like, shape (…, n, d), float32 or float64
        Queries. Leading dimensions of q, k and v broadcast.
    k : array_like, shape (…, m, d)
        Keys.
    v : array_like, shape (…, m, dv)
        Values.
    mask : array_like, broadcastable to (…, n, m), optional
        bool: True = attend. float: added to the scaled logits; ``-inf`` is allowed.
    causal : bool, "top_left" or "bottom_right", default False
        ``True`` and ``"top_left"``: query i sees keys j ≤ i. ``"bottom_right"``: j ≤ i + m − n. Together with a mask both
        apply.
    scale : float, optional
        Factor of the inner products; default ``d ** -0.5``.
    enable_gqa : bool, default False
        Axis −3 of q is a multiple of that of k and v; query head h reads head ``h // (Hq // Hkv)``.
    return_lse, return_weights : bool, default False
        Return an `AttentionOutput` with the log-sum-exp ``(…, n)``, or the weights ``(…, n, m)``, too.

    Returns
    -------
    ndarray, shape (…, n, dv), or AttentionOutput
        A query that may see no key gets zeros, weights 0 and ``lse = -inf``. NaN reaches the rows that attend it, no others.

    Raises
    ------
    ShapeError
        Shapes do not fit.
    DTypeError
        Not float32 or float64.
    ParameterError
        NaN or +inf in a float mask, an unknown ``causal``.

    Notes
    -----
    Time 2·n·m·(d + dv) floating-point operations; memory O(n) beyond the result unless weights are asked for.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import scaled_dot_product_attention
    >>> q = np.array([[1.0, 0.0]]); k = np.eye(2); v = np.array([[10.0], [20.0]])
    >>> scaled_dot_product_attention(q, k, v, scale=100.0)
    array([[10.]])
    """
    if mask is None and not (enable_gqa or return_lse or return_weights):
        out = plain(q, k, v, scale, causal)
        if out is not None:
            return out
    o = operands(q, k, v, scale=scale, mask=mask, gqa=enable_gqa)
    return forward(o, with_mask(o, causal_code(causal)), lse=return_lse, weights=return_weights)


@differentiable(scaled_dot_product_attention)
def _scaled_dot_product_vjp(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    causal: bool | str = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    return_weights: bool = False,
) -> tuple[Array | AttentionOutput, Pullback]:
    o = operands(q, k, v, scale=scale, mask=mask, gqa=enable_gqa)
    rule = with_mask(o, causal_code(causal))
    return forward(o, rule, lse=return_lse, weights=return_weights), pullback(o, rule)


def _blocks(block_q: int, block_k: int) -> tuple[int, int]:
    for name, size in (("block_q", block_q), ("block_k", block_k)):
        if size < 1:
            raise ParameterError(f"{name}: expected at least 1, got {size}")
    return min(block_q, 1 << 16), min(block_k, 1 << 16)


def flash_attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    causal: bool | str = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    block_q: int = 64,
    block_k: int = 256,
    return_lse: bool = False,
) -> Array | AttentionOutput:
    """`scaled_dot_product_attention` with the tile sizes in the caller's hands.

    Parameters
    ----------
    q, k, v, mask, causal, scale, enable_gqa, return_lse
        As in `scaled_dot_product_attention`.
    block_q, block_k : int, default 64 and 256
        Queries and keys per tile. They change speed, and results by rounding only.

    Returns
    -------
    ndarray, shape (…, n, dv), or AttentionOutput with ``lse``

    Raises
    ------
    ShapeError, DTypeError, ParameterError
        As in `scaled_dot_product_attention`; ParameterError also for a tile size below 1.

    References
    ----------
    Dao 2023, "FlashAttention-2", algorithms 1 and 2; Milakov & Gimelshein 2018 (online softmax).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import flash_attention, scaled_dot_product_attention
    >>> x = np.random.default_rng(0).normal(size=(100, 8))
    >>> np.allclose(flash_attention(x, x, x, block_k=16), scaled_dot_product_attention(x, x, x))
    True
    """
    blocks = _blocks(block_q, block_k)
    if mask is None and not (enable_gqa or return_lse):
        out = plain(q, k, v, scale, causal, blocks)
        if out is not None:
            return out
    o = operands(q, k, v, scale=scale, mask=mask, gqa=enable_gqa)
    return forward(o, with_mask(o, causal_code(causal)), blocks=blocks, lse=return_lse)


@differentiable(flash_attention)
def _flash_vjp(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    causal: bool | str = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    block_q: int = 64,
    block_k: int = 256,
    return_lse: bool = False,
) -> tuple[Array | AttentionOutput, Pullback]:
    o = operands(q, k, v, scale=scale, mask=mask, gqa=enable_gqa)
    rule = with_mask(o, causal_code(causal))
    return forward(o, rule, blocks=_blocks(block_q, block_k), lse=return_lse), pullback(o, rule)
