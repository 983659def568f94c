"""Hyperdimensional computing: binary hypervectors, and attention by Hamming similarity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sona import _core
from sona.attention._arrays import Array, allotted, check_finite_number, floats, quote, view, weighted_sum
from sona.attention._arrays import bits as bit_array
from sona.attention._errors import DTypeError, ParameterError
from sona.exceptions import ShapeError

__all__ = [
    "hdc_attention",
    "hdc_bind",
    "hdc_bundle",
    "hdc_encode",
    "hdc_pack",
    "hdc_permute",
    "hdc_similarity",
    "hdc_unpack",
]


def _words(name: str, x: Any, dim: int | None = None) -> Array:
    """C-contiguous uint64 words; with `dim`, the right number of them with nothing beyond."""
    a = view(name, x)
    if a.dtype != np.uint64:
        raise DTypeError(f"{name}: expected uint64 words, got {a.dtype}")
    if a.ndim < 1:
        raise ShapeError(f"{name}: expected at least one axis, got a scalar")
    if dim is not None:
        if dim < 1:
            raise ParameterError(f"dim: expected at least 1, got {dim}")
        if a.shape[-1] != -(-dim // 64):
            raise ShapeError(f"{name}: expected {-(-dim // 64)} words for {dim} bits, got shape {a.shape}")
        if dim % 64 and a.size and (a[..., -1] >> np.uint64(dim % 64)).any():
            raise ParameterError(f"{name}: bits beyond {dim} must be 0")
    return np.asarray(a, order="C")


def hdc_pack(bits: Any) -> Array:
    """Pack bits into 64-bit words: bit i is bit i % 64 (least significant first) of word i // 64.

    Parameters
    ----------
    bits : array_like of bool, shape (…, dim)

    Returns
    -------
    ndarray of uint64, shape (…, ceil(dim / 64))
        Bits beyond `dim` are 0.

    Examples
    --------
    >>> from sona.attention import hdc_pack
    >>> hdc_pack([True, False, True])
    array([5], dtype=uint64)
    """
    a = bit_array("bits", bits)
    if a.ndim < 1:
        raise ShapeError("bits: expected at least one axis, got a scalar")
    return _core.hdc_pack(a).reshape((*a.shape[:-1], -(-a.shape[-1] // 64)))


def hdc_unpack(words: Any, *, dim: int) -> Array:
    """The bits of packed words: the inverse of `hdc_pack`.

    Parameters
    ----------
    words : array_like of uint64, shape (…, ceil(dim / 64))
    dim : int

    Returns
    -------
    ndarray of bool, shape (…, dim)

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_unpack
    >>> hdc_unpack(np.array([5], dtype=np.uint64), dim=3)
    array([ True, False,  True])
    """
    a = _words("words", words, dim)
    return _core.hdc_unpack(a, dim).reshape((*a.shape[:-1], dim))


def hdc_bind(a: Any, b: Any) -> Array:
    """Bind two hypervectors (XOR): the result is unlike both; binding again undoes it.

    Parameters
    ----------
    a, b : array_like of uint64, shape (…, W)
        Leading dimensions broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_bind
    >>> hdc_bind(np.array([6], dtype=np.uint64), np.array([3], dtype=np.uint64))
    array([5], dtype=uint64)
    """
    x, y = _words("a", a), _words("b", b)
    if x.shape[-1] != y.shape[-1]:
        raise ShapeError(f"a and b have different numbers of words: {x.shape}, {y.shape}")
    try:
        return np.bitwise_xor(x, y)
    except ValueError as error:
        raise ShapeError(f"a and b do not broadcast: {x.shape}, {y.shape}") from error


def hdc_permute(a: Any, shift: int, *, dim: int) -> Array:
    """Move bit i to (i + shift) mod dim.

    Parameters
    ----------
    a : array_like of uint64, shape (…, ceil(dim / 64))
    shift : int
        Any sign.
    dim : int

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_permute
    >>> hdc_permute(np.array([1], dtype=np.uint64), -1, dim=4)
    array([8], dtype=uint64)
    """
    words = _words("a", a, dim)
    return _core.hdc_permute(words, dim, int(shift) % dim).reshape(words.shape)


def hdc_bundle(a: Any, *, dim: int, seed: int = 0) -> Array:
    """Majority bit by bit: a hypervector like each of those bundled.

    Parameters
    ----------
    a : array_like of uint64, shape (n, ceil(dim / 64))
    dim : int
    seed : int, default 0
        An even split takes the bit of a random hypervector with this seed.

    Returns
    -------
    ndarray of uint64, shape (ceil(dim / 64),)
        Zeros for n = 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_bundle
    >>> hdc_bundle(np.array([[1], [3], [6]], dtype=np.uint64), dim=3)
    array([3], dtype=uint64)
    """
    words = _words("a", a, dim)
    if words.ndim != 2:
        raise ShapeError(f"a: expected (n, {-(-dim // 64)}), got {words.shape}")
    if len(words) == 0:
        return np.zeros(words.shape[1], dtype=np.uint64)
    ties = hdc_pack(np.random.default_rng(seed).random(dim) < 0.5)
    return _core.hdc_bundle(words, dim, ties)


def hdc_similarity(a: Any, b: Any, *, dim: int) -> Array:
    """1 − 2·Hamming/dim of all pairs: 1 for equal, about 0 for unrelated, −1 for opposite hypervectors.

    Parameters
    ----------
    a : array_like of uint64, shape (n, ceil(dim / 64)) or (ceil(dim / 64),)
    b : array_like of uint64, shape (m, ceil(dim / 64)) or (ceil(dim / 64),)
    dim : int

    Returns
    -------
    ndarray of float64, shape (n, m)

    Notes
    -----
    Unrelated pairs lie within about 3/√dim of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_similarity
    >>> x = np.array([[0], [15]], dtype=np.uint64)
    >>> hdc_similarity(x, x, dim=4)
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    x, y = np.atleast_2d(_words("a", a, dim)), np.atleast_2d(_words("b", b, dim))
    if x.ndim != 2 or y.ndim != 2:
        raise ShapeError(f"expected (n, W) and (m, W), got {x.shape} and {y.shape}")
    return _core.hdc_similarity(x, y, dim).reshape(len(x), len(y))


def hdc_encode(x: Any, *, dim: int = 10_000, seed: int = 0, projection: Any = None) -> Array:
    """Hypervectors of real vectors: bit i is the sign of a random projection.

    Parameters
    ----------
    x : array_like, shape (n, F), float32 or float64
    dim : int, default 10,000
    seed : int, default 0
    projection : array_like, shape (dim, F), optional
        Instead of a standard normal one drawn from `seed`.

    Returns
    -------
    ndarray of uint64, shape (n, ceil(dim / 64))

    Notes
    -----
    The expected similarity of two codes is 1 − 2θ/π with the angle θ between the vectors (Charikar 2002).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_encode, hdc_similarity
    >>> codes = hdc_encode(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    >>> s = hdc_similarity(codes, codes, dim=10_000)
    >>> bool(s[0, 1] > 0.9), bool(abs(s[0, 2]) < 0.05)
    (True, True)
    """
    if dim < 1:
        raise ParameterError(f"dim: expected at least 1, got {dim}")
    x, r = floats(("x", "projection"), (x, projection))
    if x.ndim != 2:
        raise ShapeError(f"x: expected (n, F), got {x.shape}")
    if r is None:
        allotted("dim", dim, x.shape[1])
        r = np.random.default_rng(seed).normal(size=(dim, x.shape[1])).astype(x.dtype)
    elif r.ndim != 2 or r.shape[1] != x.shape[1] or (r.shape[0] != dim and dim != 10_000):
        raise ShapeError(f"projection: expected ({dim}, {x.shape[1]}), got {r.shape}")
    return hdc_pack(x @ r.T > 0)


def hdc_attention(
    q_bits: Any, k_bits: Any, v: Any, *, dim: int | None = None, beta: float = 8.0, topk: int | None = None
) -> Array:
    """Attention by similarity of hypervectors: softmax(β·(1 − 2·Hamming/dim))·V.

    Parameters
    ----------
    q_bits, k_bits : array_like
        uint64 words ``(…, n, W)`` and ``(…, m, W)`` with `dim`, or bool ``(…, n, dim)`` and ``(…, m, dim)``.
    v : array_like, shape (…, m, dv), float32 or float64
    dim : int, optional
        Bits; required for words.
    beta : float, default 8.0
    topk : int, optional
        Attend only the `topk` most similar keys (ties lower index), renormalised.

    Returns
    -------
    ndarray, shape (…, n, dv)
        Zeros without keys.

    Raises
    ------
    ShapeError, DTypeError, ParameterError

    References
    ----------
    Kanerva 1996; Bricken & Pehlevan 2021 (attention as sparse distributed memory).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hdc_attention
    >>> keys = np.eye(3, dtype=bool)
    >>> hdc_attention(keys[:1], keys, np.array([[1.0], [2.0], [3.0]]), beta=100.0)
    array([[1.]])
    """
    given = [view("q_bits", q_bits), view("k_bits", k_bits)]
    if all(x.dtype == np.bool_ and x.ndim for x in given) and given[0].shape[-1] != given[1].shape[-1]:
        raise ShapeError(f"operands have different numbers of bits: {quote(('q_bits', 'k_bits'), given)}")
    q, dim = _packed("q_bits", given[0], dim)
    k, dim = _packed("k_bits", given[1], dim)
    (v,) = floats(("v",), (v,))
    if q.ndim < 2 or k.ndim < 2 or v.ndim < 2 or k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"operands do not fit: q {q.shape}, k {k.shape}, v {v.shape}")
    if topk is not None and topk < 1:
        raise ParameterError(f"topk: expected at least 1, got {topk}")
    check_finite_number("beta", beta)
    try:
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except ValueError as error:
        raise ShapeError(f"operands do not broadcast: q {q.shape}, k {k.shape}, v {v.shape}") from error
    n, m = q.shape[-2], k.shape[-2]
    heads = math.prod(lead)
    queries, keys = (np.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(heads, *x.shape[-2:]) for x in (q, k))
    similarity = np.empty((heads, n, m), dtype=np.float64)
    for h in range(heads):
        similarity[h] = hdc_similarity(queries[h], keys[h], dim=dim)
    if m == 0:
        return np.zeros((*lead, n, v.shape[-1]), dtype=v.dtype)
    logits = beta * similarity
    seen = None
    if topk is not None and topk < m:
        order = np.argsort(-similarity, axis=-1, kind="stable")[..., topk:]
        np.put_along_axis(logits, order, -np.inf, axis=-1)
        seen = ~np.isneginf(logits).reshape(*lead, n, m)
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = (e / e.sum(axis=-1, keepdims=True)).reshape(*lead, n, m)
    return weighted_sum(weights.astype(v.dtype), v, seen)


def _packed(name: str, x: Any, dim: int | None) -> tuple[Array, int]:
    """Words and number of bits of words or bits."""
    a = view(name, x)
    if a.dtype == np.bool_:
        if a.ndim < 1 or (dim is not None and a.shape[-1] != dim):
            raise ShapeError(f"{name}: expected {dim} bits, got shape {a.shape}")
        return hdc_pack(a), a.shape[-1]
    if a.dtype == np.uint64 and dim is None:
        raise ParameterError("dim: required for packed words")
    return _words(name, a, dim), int(dim or 0)
