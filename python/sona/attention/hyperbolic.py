"""Attention in hyperbolic space: weights from distances, values averaged by a hyperbolic mean."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, check_finite_number, cotangent, quote, sum_to, weighted_sum
from sona.attention._errors import ParameterError
from sona.attention._results import AttentionOutput
from sona.attention._softmax import Operands, causal_code, operands, with_mask
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.attention.poincare import (
    arcosh1p,
    check_curvature,
    clip_radius,
    expmap0_in,
    expmap_in,
    logmap0_in,
    logmap_in,
    project_in,
)
from sona.exceptions import ShapeError

__all__ = ["hyperbolic_attention", "lorentz_attention"]


def _rows(x: Array) -> Array:
    return np.asarray((x * x).sum(axis=-1))


def _bias(o: Operands, causal: bool | str) -> Array | None:
    """What mask and causal order add to the logits, (…, n, m)."""
    rule = with_mask(o, causal_code(causal))
    n, m = o.q.shape[-2], o.k.shape[-2]
    bias: Array | None = None
    if o.mask is not None:
        bias = np.where(o.mask, 0.0, -np.inf) if o.mask.dtype == np.bool_ else o.mask
    if rule[1]:
        offset = 0 if rule[1] == 1 else m - n
        seen = np.arange(m)[None, :] <= np.arange(n)[:, None] + offset
        bias = np.where(seen, 0.0 if bias is None else bias, -np.inf)
    return bias


def _softmax(logits: Array, bias: Array | None) -> Array:
    """Rows of weights; a row that sees nothing is zero. What is not seen does not matter, NaN or not."""
    if bias is not None:
        bias = np.broadcast_to(bias, logits.shape)
        logits = np.where(np.isneginf(bias), -np.inf, logits + bias).astype(logits.dtype)
    if logits.shape[-1] == 0:
        return logits
    top = logits.max(axis=-1, keepdims=True)
    e = np.exp(logits - np.where(np.isneginf(top), 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return np.asarray(e / np.where(total == 0, 1, total))


def _near(dtype: Any) -> float:
    """Part of the squared norms below which a squared distance has lost too many digits in the product."""
    return 1e-4 if dtype == np.float64 else 1e-2


def _squared_distances(q: Array, k: Array) -> Array:
    """‖q − k‖² of all pairs: by a product of matrices, and again from the difference where that lost its digits."""
    qq, kk = _rows(q)[..., :, None], _rows(k)[..., None, :]
    s = qq + kk - 2 * (q @ np.swapaxes(k, -1, -2))
    near = s < _near(s.dtype) * (qq + kk)
    if near.any():
        *lead, i, j = np.nonzero(near)
        qs = np.broadcast_to(q, (*s.shape[:-2], *q.shape[-2:]))[(*lead, i)]
        ks = np.broadcast_to(k, (*s.shape[:-2], *k.shape[-2:]))[(*lead, j)]
        s[(*lead, i, j)] = _rows(qs - ks)
    return np.asarray(np.where(s < 0, 0, s))


class _Ball(NamedTuple):
    """Intermediate results of attention in the ball."""

    q: Array
    k: Array
    v: Array
    z: Array
    weights: Array
    out: Array
    seen: Array | None


def _seen(bias: Array | None) -> Array | None:
    """Which keys each query sees."""
    return None if bias is None else ~np.isneginf(bias)


def _ball(o: Operands, c: float, beta: float, offset: float, bias: Array | None) -> _Ball:
    """Weights from distances, values by the Möbius gyromidpoint."""
    root = math.sqrt(c)
    q, k, v = (project_in(x, c) for x in (o.q, o.k, o.v))
    room = (1 - c * _rows(q))[..., :, None] * (1 - c * _rows(k))[..., None, :]
    z = 2 * c * _squared_distances(q, k) / room
    weights = _softmax(-(beta / root) * arcosh1p(z) - offset, bias)
    seen = _seen(bias)
    return _Ball(q, k, v, z, weights, _midpoint(weights, v, c, seen), seen)


def _midpoint(weights: Array, v: Array, c: float, seen: Array | None) -> Array:
    """½ ⊗ (Σ w λ v / Σ w (λ − 1)), λ = 2/(1 − c‖v‖²)."""
    lam = 2.0 / (1 - c * _rows(v))[..., None]
    num, den = weighted_sum(weights, lam * v, seen), weighted_sum(weights, lam - 1, seen)
    t = np.divide(num, den, out=np.zeros_like(num), where=den != 0)
    return np.asarray(t / (1 + np.sqrt(np.maximum(1 - c * _rows(t)[..., None], 0))), dtype=v.dtype)


def _frechet(run: _Ball, c: float) -> Array:
    """Karcher flow from the midpoint: μ ← exp_μ(Σ w log_μ v)."""
    weights, v = run.weights, run.v
    mean = project_in(run.out, c)
    # Each row stops by itself: how long others run must not show in its bits.
    moving = weights.sum(axis=-1, keepdims=True) != 0
    tol = (1e-12 if v.dtype == np.float64 else 1e-7) / max(1.0, math.sqrt(c))
    for _ in range(500):
        tangent = logmap_in(mean[..., :, None, :], v[..., None, :, :], c)
        parts = weights[..., None] * tangent
        step = (parts if run.seen is None else np.where(run.seen[..., None], parts, 0)).sum(axis=-2)
        mean = np.where(moving, expmap_in(mean, step, c), mean)
        # NaN is not above the tolerance: such a row has ended.
        moving &= np.linalg.norm(step, axis=-1, keepdims=True) > tol
        if not moving.any():
            break
    return np.asarray(mean, dtype=v.dtype)


def _prepare(q: Any, k: Any, v: Any, c: float, beta: float, offset: float, mask: Any) -> Operands:
    check_curvature("c", c)
    check_finite_number("beta", beta)
    check_finite_number("offset", offset)
    return operands(q, k, v, scale=1.0, mask=mask)


def hyperbolic_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    c: float = 1.0,
    beta: float = 1.0,
    offset: float = 0.0,
    space: str = "ball",
    aggregate: str = "midpoint",
    mask: Any = None,
    causal: bool | str = False,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    """Attention in the Poincaré ball: weights softmax(−β·d(q, k) − offset), values by a hyperbolic mean.

    Parameters
    ----------
    q : array_like, shape (…, n, d), float32 or float64
        Points of the ball; beyond radius (1 − ε)/√c they are projected to it.
    k : array_like, shape (…, m, d)
    v : array_like, shape (…, m, dv)
    c : float, default 1.0
        Minus the curvature, above 0.
    beta, offset : float, default 1.0 and 0.0
        Logits are −beta·distance − offset.
    space : {"ball", "tangent"}, default "ball"
        ``tangent``: inputs are tangent vectors at the origin (exp₀ first), and so is the result (log₀ at the end).
    aggregate : {"midpoint", "frechet"}, default "midpoint"
        Einstein midpoint in closed form, or the Fréchet mean by Karcher flow.
    mask, causal
        As in `scaled_dot_product_attention`.
    return_weights : bool, default False

    Returns
    -------
    ndarray, shape (…, n, dv), or AttentionOutput with ``weights (…, n, m)`` and no ``lse``
        The origin where nothing is attended.

    Raises
    ------
    ShapeError, DTypeError
    ParameterError
        ``c <= 0``, an unknown option.

    Notes
    -----
    O(n·m·d). As c → 0 the weights become softmax(−2β‖q − k‖): note the factor 2. `vjp` is for ``space="ball"`` with the
    midpoint; where q and k coincide the distance has subgradient 0.

    References
    ----------
    Gulcehre et al. 2019, "Hyperbolic Attention Networks"; Shimizu et al. 2021, "Hyperbolic Neural Networks++" (midpoint).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hyperbolic_attention
    >>> points = np.array([[0.5, 0.0], [-0.5, 0.0]])
    >>> hyperbolic_attention(np.zeros((1, 2)), points, points)
    array([[0., 0.]])
    """
    if space not in ("ball", "tangent"):
        raise ParameterError(f"space: expected 'ball' or 'tangent', got {space!r}")
    if aggregate not in ("midpoint", "frechet"):
        raise ParameterError(f"aggregate: expected 'midpoint' or 'frechet', got {aggregate!r}")
    o = _prepare(q, k, v, c, beta, offset, mask)
    if space == "tangent":
        o = o._replace(q=expmap0_in(o.q, c), k=expmap0_in(o.k, c), v=expmap0_in(o.v, c))
    weights: Array | None = None
    if aggregate == "midpoint" and not return_weights:
        out = _midpoints(o, c, beta, with_mask(o, causal_code(causal)))
    else:
        run = _ball(o, c, beta, offset, _bias(o, causal))
        out, weights = run.out if aggregate == "midpoint" else _frechet(run, c), run.weights
    if space == "tangent":
        out = logmap0_in(project_in(out, c), c)
    if out.shape != o.out_shape:
        out = np.array(np.broadcast_to(out, o.out_shape))
    return AttentionOutput(out, None, weights) if return_weights else out


def _midpoints(o: Operands, c: float, beta: float, rule: tuple[Any, ...]) -> Array:
    """What `_ball` computes, without its (n, m) arrays; the offset of the logits cancels in the weights."""
    limit, near = clip_radius(o.q.dtype, c), _near(o.q.dtype)
    return _core.ball_attend(o.q, o.k, o.v, o.maps, c, beta, limit, near, rule).reshape(o.out_shape)


def _unproject(x: Array, g: Array, c: float) -> Array:
    """Gradient through the projection of points beyond the largest radius."""
    limit = clip_radius(x.dtype, c)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    beyond = norm > limit
    if not beyond.any():
        return g
    unit = x / np.where(norm > 0, norm, 1)
    along = (g * unit).sum(axis=-1, keepdims=True)
    return np.asarray(np.where(beyond, (g - along * unit) * limit / np.where(norm > 0, norm, 1), g))


@differentiable(hyperbolic_attention)
def _hyperbolic_vjp(
    q: Any,
    k: Any,
    v: Any,
    *,
    c: float = 1.0,
    beta: float = 1.0,
    offset: float = 0.0,
    space: str = "ball",
    aggregate: str = "midpoint",
    mask: Any = None,
    causal: bool | str = False,
    return_weights: bool = False,
) -> tuple[Array | AttentionOutput, Pullback]:
    if space != "ball" or aggregate != "midpoint":
        raise ParameterError("vjp of hyperbolic_attention: only for space='ball' and aggregate='midpoint'")
    o = _prepare(q, k, v, c, beta, offset, mask)
    run = _ball(o, c, beta, offset, _bias(o, causal))
    out = run.out if return_weights else _midpoints(o, c, beta, with_mask(o, causal_code(causal)))
    out = np.array(np.broadcast_to(out, o.out_shape))

    def pull(dout: Any) -> Gradients:
        d = cotangent(dout, o.out_shape, out.dtype)
        dlogits, dv = _pull_midpoint(run, d, c)
        # logit = −β/√c·arcosh(1 + z): the derivative at z = 0 is taken as 0.
        slope = np.sqrt(run.z * (run.z + 2))
        dz = -(beta / math.sqrt(c)) * np.divide(dlogits, slope, out=np.zeros_like(dlogits), where=slope > 0)
        rq, rk = 1 - c * _rows(run.q), 1 - c * _rows(run.k)
        # z = 2c‖q − k‖²/(rq·rk)
        w = 4 * c * dz / (rq[..., :, None] * rk[..., None, :])
        zz = 2 * c * dz * run.z
        dq = run.q * w.sum(axis=-1)[..., None] - w @ run.k + run.q * (zz.sum(axis=-1) / rq)[..., None]
        wt = np.swapaxes(w, -1, -2)
        dk = run.k * wt.sum(axis=-1)[..., None] - wt @ run.q + run.k * (zz.sum(axis=-2) / rk)[..., None]
        grads: Gradients = {}
        for name, x, g in (("q", o.q, dq), ("k", o.k, dk), ("v", o.v, dv)):
            grads[name] = np.asarray(_unproject(x, sum_to(g, x.shape), c), dtype=x.dtype)
        if o.mask is not None and o.mask.dtype.kind == "f":
            grads["mask"] = sum_to(dlogits, o.mask.shape)
        return grads

    return AttentionOutput(out, None, run.weights) if return_weights else out, pull


def _pull_midpoint(run: _Ball, d: Array, c: float) -> tuple[Array, Array]:
    """Gradients of the logits and of the values."""
    w, v = run.weights, run.v
    lam = 2.0 / (1 - c * _rows(v))[..., None]
    num, den = w @ (lam * v), w @ (lam - 1)
    t = np.divide(num, den, out=np.zeros_like(num), where=den != 0)
    root = np.sqrt(np.maximum(1 - c * _rows(t)[..., None], 0))
    scale = 1 / (1 + root)
    # out = t/(1 + root), root = sqrt(1 − c‖t‖²)
    dt = d * scale + t * (c * (d * t).sum(axis=-1, keepdims=True) * scale**2 / np.where(root > 0, root, 1))
    dnum = np.divide(dt, den, out=np.zeros_like(dt), where=den != 0)
    dden = -(dnum * t).sum(axis=-1, keepdims=True)
    dw = dnum @ np.swapaxes(lam * v, -1, -2) + dden @ np.swapaxes(lam - 1, -1, -2)
    dlogits = w * (dw - (w * dw).sum(axis=-1, keepdims=True))
    wt = np.swapaxes(w, -1, -2)
    dlv, dl = wt @ dnum, wt @ dden
    dlam = (dlv * v).sum(axis=-1, keepdims=True) + dl
    return dlogits, lam * dlv + c * lam**2 * v * dlam


def lorentz_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    curvature: float = 1.0,
    beta: float = 1.0,
    mask: Any = None,
    causal: bool | str = False,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    """Attention on the hyperboloid: weights softmax(−β·d(q, k)), values by the Lorentz centroid.

    Parameters
    ----------
    q : array_like, shape (…, n, d + 1), float32 or float64
        Points with ⟨x, x⟩ = −1/curvature, time coordinate first.
    k : array_like, shape (…, m, d + 1)
    v : array_like, shape (…, m, dv + 1)
    curvature : float, default 1.0
        Minus the curvature K, above 0.
    beta : float, default 1.0
    mask, causal
        As in `scaled_dot_product_attention`.
    return_weights : bool, default False

    Returns
    -------
    ndarray, shape (…, n, dv + 1), or AttentionOutput with ``weights``
        The origin (K^−½, 0, …) where nothing is attended.

    References
    ----------
    Nickel & Kiela 2018 (model); Law et al. 2019 (centroid); Chen et al. 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import lorentz_attention
    >>> point = np.array([[np.cosh(1.0), np.sinh(1.0)]])
    >>> bool(np.allclose(lorentz_attention(point, point, point), point))
    True
    """
    big = check_curvature("curvature", curvature)
    check_finite_number("beta", beta)
    o = operands(q, k, v, scale=1.0, mask=mask)
    for name, x in (("q", o.q), ("k", o.k), ("v", o.v)):
        if x.shape[-1] < 1:
            raise ShapeError(f"{name}: expected a time coordinate: {quote(('q', 'k', 'v'), (o.q, o.k, o.v))}")
    # −K⟨x, y⟩ − 1 = K‖x − y‖²/2 with the Lorentz square: no cancellation where points are near.
    apart = o.q[..., :, None, :] - o.k[..., None, :, :]
    z = 0.5 * big * ((apart[..., 1:] ** 2).sum(axis=-1) - apart[..., 0] ** 2)
    distance = arcosh1p(np.where(z < 0, 0, z)) / math.sqrt(big)
    bias = _bias(o, causal)
    weights = _softmax(-beta * distance, bias)
    mean = weighted_sum(weights, o.v, _seen(bias))
    length = np.sqrt(np.abs((mean[..., 1:] ** 2).sum(axis=-1) - mean[..., 0] ** 2))[..., None]
    origin = np.zeros(o.v.shape[-1], dtype=o.v.dtype)
    origin[0] = 1 / math.sqrt(big)
    seen = weights.sum(axis=-1, keepdims=True) != 0
    out = np.where(seen, mean / (math.sqrt(big) * np.where(seen, length, 1)), origin)
    out = np.array(np.broadcast_to(out, o.out_shape), dtype=o.v.dtype)
    return AttentionOutput(out, None, weights) if return_weights else out
