"""Attention in linear time through feature maps: FAVOR+ (Performer), elu + 1, relu."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, allotted, cotangent, floats, sum_to
from sona.attention._errors import ParameterError
from sona.attention._softmax import causal_code, operands
from sona.attention._unequal import unequal
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["linear_attention", "random_features"]

_CHUNK = 64


def random_features(d: int, m: int, *, seed: int = 0, scaling: int = 0) -> Array:
    """Block-orthogonal random directions Ω for FAVOR+.

    Rows within each block of d are orthogonal, which lowers the variance of the estimate.

    Parameters
    ----------
    d, m : int
        Width of queries and keys, and number of features; at least 1.
    seed : int, default 0
    scaling : {0, 1}, default 0
        0: norms of fresh Gaussian rows (the kernel estimate is unbiased); 1: all norms √d.

    Returns
    -------
    ndarray of float64, shape (m, d)

    References
    ----------
    Choromanski et al. 2021, "Rethinking Attention with Performers", section 2.4.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import random_features
    >>> omega = random_features(4, 4)
    >>> gram = omega @ omega.T
    >>> bool(np.allclose(gram - np.diag(np.diag(gram)), 0))
    True
    """
    if d < 1 or m < 1:
        raise ParameterError(f"d and m: expected at least 1, got {d} and {m}")
    allotted("d and m", max(d, m), d)
    if scaling not in (0, 1):
        raise ParameterError(f"scaling: expected 0 or 1, got {scaling}")
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(-(-m // d)):
        # The sign of R's diagonal makes Q uniform over rotations (Mezzadri 2007).
        q, r = np.linalg.qr(rng.normal(size=(d, d)))
        blocks.append((q * np.where(np.diag(r) < 0, -1.0, 1.0)).T)
    rows = np.concatenate(blocks)[:m]
    norms = np.full(m, math.sqrt(d)) if scaling else np.linalg.norm(rng.normal(size=(m, d)), axis=1)
    return np.ascontiguousarray(rows * norms[:, None])


class _Maps(NamedTuple):
    """Features of queries and keys, and what their gradients need.

    ``phi_q`` and ``phi_k`` are scaled, feature by feature, so that neither overflows nor vanishes; their products are right up
    to one factor per query, which the normalisation removes.
    """

    phi_q: Array
    phi_k: Array
    top: Array | None = None


def _log_features(x: Array, omega: Array) -> Array:
    """Ωx − ‖x‖²/2."""
    return np.asarray(x @ omega.T - 0.5 * (x * x).sum(axis=-1, keepdims=True))


class _Kernel:
    """One feature map with its settings."""

    def __init__(self, kernel: str, omega: Array | None, root: float, eps: float) -> None:
        self.kernel, self.omega, self.root, self.eps = kernel, omega, root, eps

    def maps(self, q: Array, k: Array) -> _Maps:
        """Features where every query sees every key."""
        q, k = q * self.root, k * self.root
        if self.omega is None:
            return _Maps(self._simple(q), self._simple(k))
        if self.eps > 0:
            pq, pk = q @ self.omega.T, k @ self.omega.T
            half_q, half_k = (0.5 * (x * x).sum(axis=-1, keepdims=True) for x in (q, k))
            fq = np.exp(pq - half_q - pq.max(axis=-1, keepdims=True))
            top = pk.max(axis=(-1, -2), keepdims=True) if k.shape[-2] else 0.0
            return _Maps(fq + self.eps, np.exp(pk - half_k - top) + self.eps)
        lq, lk = _log_features(q, self.omega), _log_features(k, self.omega)
        # Per feature the largest key is 1, per query the largest product: no denominator is below 1.
        top = lk.max(axis=-2, keepdims=True) if k.shape[-2] else np.zeros((*lk.shape[:-2], 1, lk.shape[-1]), lk.dtype)
        return _Maps(_peak(lq + top), np.exp(lk - top), top)

    def _simple(self, x: Array) -> Array:
        if self.kernel == "elu":
            return np.asarray(np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))))
        return np.asarray(np.maximum(x, 0) + self.eps)

    def back(self, x: Array, phi: Array, dphi: Array) -> Array:
        """∂L/∂x from ∂L/∂φ(x); φ up to the factors of `_Maps`, ∂L/∂φ divided by the same."""
        scaled = x * self.root
        if self.omega is None:
            slope = np.where(scaled > 0, 1.0, phi) if self.kernel == "elu" else (scaled > 0).astype(x.dtype)
            return np.asarray(self.root * slope * dphi)
        g = dphi * (phi - self.eps)
        return np.asarray(self.root * (g @ self.omega - scaled * g.sum(axis=-1, keepdims=True)))


def _peak(logs: Array) -> Array:
    """exp(x − row maximum)."""
    top = logs.max(axis=-1, keepdims=True)
    return np.asarray(np.exp(logs - np.where(np.isfinite(top), top, 0)))


def _safe_divide(a: Array, b: Array) -> Array:
    """A / b, zero where b is."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), dtype=a.dtype), where=b != 0)


class _Run:
    """One call: the result, and what the gradients need."""

    def __init__(
        self, q: Any, k: Any, v: Any, kernel: str, features: Any, causal: bool | str, scale: Any, seed: int, eps: float
    ) -> None:
        if kernel not in ("favor+", "elu", "relu"):
            raise ParameterError(f"kernel: expected 'favor+', 'elu' or 'relu', got {kernel!r}")
        if not (math.isfinite(eps) and eps >= 0):
            raise ParameterError(f"eps: expected at least 0, got {eps}")
        self.causal = causal_code(causal)
        if eps > 0 and kernel == "favor+" and self.causal:
            raise ParameterError("eps: above 0 the features of a key depend on later keys; use eps=0 with causal=True")
        favor = kernel == "favor+"
        omega = features if favor and not (features is None or isinstance(features, (int, np.integer))) else None
        *_, omega = floats(("q", "k", "v", "features"), (q, k, v, omega))
        o = operands(q, k, v, scale=scale)
        d = o.q.shape[-1]
        if favor and omega is None:
            count = max(d, math.floor(d * math.log(max(d, 1))), 1) if features is None else int(features)
            omega = random_features(max(d, 1), count, seed=seed)[:, :d].astype(o.q.dtype)
        if favor and omega is not None and (omega.ndim != 2 or omega.shape[1] != d or not len(omega)):
            raise ShapeError(f"features: expected (m, {d}) with m >= 1, got {omega.shape}")
        if scale is None:
            root = o.scale**0.5 if favor else 1.0
        elif o.scale >= 0:
            root = math.sqrt(o.scale)
        else:
            raise ParameterError(f"scale: expected at least 0, got {o.scale}")
        dtype = np.result_type(o.q, omega) if omega is not None else o.q.dtype
        if omega is not None:
            omega = np.ascontiguousarray(omega, dtype=dtype)
        self.given, self.lead = (o.q, o.k, o.v), o.lead
        q, k, v = (np.ascontiguousarray(x, dtype=dtype) for x in self.given)
        self.operands = (q, k, v)
        self.kernel = _Kernel(kernel, omega, root, eps)
        rectify = kernel == "relu"
        out = _core.linear_attend(q, k, v, o.maps, root, omega, rectify, float(eps), bool(self.causal))
        self.out = out.reshape(o.out_shape)

    def _save(self) -> None:
        """What the gradients need beyond the result."""
        self.q, self.k, self.v = (np.broadcast_to(x, (*self.lead, *x.shape[-2:])) for x in self.operands)
        if self.causal:
            self._prefix_sums()
            return
        self.maps = self.kernel.maps(self.q, self.k)
        phi_q, phi_k, _ = self.maps
        self.state = np.swapaxes(phi_k, -1, -2) @ self.v
        self.total = phi_k.sum(axis=-2)
        self.norm = (phi_q @ self.total[..., None]).astype(self.q.dtype)

    def _chunks(self) -> list[slice]:
        n = self.q.shape[-2]
        return [slice(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]

    def _prefix_sums(self) -> None:
        """Prefix sums chunk by chunk. Within a chunk the products of features are taken in full and masked."""
        lead, dtype = self.q.shape[:-2], self.q.dtype
        self.steps: list[tuple[Array, Array, Array, Array | None, Array]] = []
        state = total = top = None
        for part in self._chunks():
            q, k, v = self.q[..., part, :], self.k[..., part, :], self.v[..., part, :]
            weights, phi_q, phi_k, fade, new_top = self._chunk(q, k, top)
            if state is None or total is None:
                state = np.zeros((*lead, phi_k.shape[-1], v.shape[-1]), dtype=dtype)
                total = np.zeros((*lead, phi_k.shape[-1]), dtype=dtype)
            self.steps.append((state, total, weights, fade, phi_q))
            if fade is not None:
                state, total = state * fade[..., None], total * fade
            state = state + np.swapaxes(phi_k, -1, -2) @ v
            total = total + phi_k.sum(axis=-2)
            top = new_top

    def _chunk(self, q: Array, k: Array, top: Array | None) -> tuple[Array, Array, Array, Array | None, Array | None]:
        """Masked products within a chunk, features of its queries against the past and of its keys for the future.

        With FAVOR+ the past is stored relative to its largest key per feature, `top`; rows of queries are relative to the
        largest product that they may see, so what comes later changes nothing before.
        """
        n = q.shape[-2]
        lower = np.tril(np.ones((n, n), dtype=bool))
        if self.kernel.omega is None:
            phi_q, phi_k, _ = self.kernel.maps(q, k)
            return np.where(lower, phi_q @ np.swapaxes(phi_k, -1, -2), 0), phi_q, phi_k, None, None
        lq = _log_features(q * self.kernel.root, self.kernel.omega)
        lk = _log_features(k * self.kernel.root, self.kernel.omega)
        if top is None:
            top = np.full((*lk.shape[:-2], lk.shape[-1]), -np.inf, dtype=lk.dtype)
        seen = np.maximum(np.maximum.accumulate(lk, axis=-2), top[..., None, :])
        peak = (lq + seen).max(axis=-1, keepdims=True)
        weights = np.zeros((*lq.shape[:-1], n), dtype=lq.dtype)
        # Each query has its own scale: the sum over features of exp(lq + lk − peak), one query at a time.
        for i in range(n):
            terms = np.exp(lq[..., i : i + 1, :] + lk[..., : i + 1, :] - peak[..., i : i + 1, :])
            weights[..., i, : i + 1] = terms.sum(axis=-1)
        new_top = np.maximum(top, lk.max(axis=-2))
        # Before the first chunk the largest key is e^{−∞} = 0.
        phi_q = np.exp(lq + top[..., None, :] - peak)
        return weights, phi_q, np.exp(lk - new_top[..., None, :]), np.exp(top - new_top), new_top

    def pull(self, dout: Any) -> Gradients:
        """Gradients of q, k and v."""
        self._save()
        d = cotangent(dout, self.out.shape, self.out.dtype)
        dq, dk, dv = self._pull_causal(d) if self.causal else self._pull_all(d)
        return {
            name: sum_to(np.asarray(g, dtype=x.dtype), x.shape)
            for name, g, x in zip(("q", "k", "v"), (dq, dk, dv), self.given, strict=True)
        }

    def _pull_all(self, d: Array) -> tuple[Array, Array, Array]:
        phi_q, phi_k, _ = self.maps
        dnum = _safe_divide(d, self.norm)
        dnorm = -(dnum * self.out).sum(axis=-1, keepdims=True)
        dphi_q = dnum @ np.swapaxes(self.state, -1, -2) + dnorm * self.total[..., None, :]
        dstate = np.swapaxes(phi_q, -1, -2) @ dnum
        dtotal = (phi_q * dnorm).sum(axis=-2)
        dphi_k = self.v @ np.swapaxes(dstate, -1, -2) + dtotal[..., None, :]
        dv = phi_k @ dstate
        return self.kernel.back(self.q, phi_q, dphi_q), self.kernel.back(self.k, phi_k, dphi_k), dv

    def _pull_causal(self, d: Array) -> tuple[Array, Array, Array]:
        """Reverse prefix sums: each chunk hands the gradient of the state that it read to the one before."""
        dq, dk, dv = (np.zeros_like(x) for x in (self.q, self.k, self.v))
        dstate = dtotal = None
        parts = self._chunks()
        for part, (state, total, weights, fade, phi_q) in zip(reversed(parts), reversed(self.steps), strict=True):
            q, k, v = self.q[..., part, :], self.k[..., part, :], self.v[..., part, :]
            out, dout = self.out[..., part, :], d[..., part, :]
            norm = weights.sum(axis=-1, keepdims=True) + phi_q @ total[..., None]
            dnum = _safe_divide(dout, norm)
            dnorm = -(dnum * out).sum(axis=-1, keepdims=True)
            if dstate is None or dtotal is None:
                dstate, dtotal = np.zeros_like(state), np.zeros_like(total)
            # Future queries saw this chunk's keys through the state.
            phi_k = self._future(part, state.dtype)
            dphi_k = v @ np.swapaxes(dstate, -1, -2) + dtotal[..., None, :]
            dv[..., part, :] = phi_k @ dstate + np.swapaxes(weights, -1, -2) @ dnum
            dk[..., part, :] = self.kernel.back(k, phi_k, dphi_k)
            dphi_q = dnum @ np.swapaxes(state, -1, -2) + dnorm * total[..., None, :]
            dq[..., part, :] = self.kernel.back(q, phi_q, dphi_q)
            self._pull_within(part, dnum @ np.swapaxes(v, -1, -2) + dnorm, dq, dk)
            if fade is not None:
                dstate, dtotal = dstate * fade[..., None], dtotal * fade
            dstate = dstate + np.swapaxes(phi_q, -1, -2) @ dnum
            dtotal = dtotal + (phi_q * dnorm).sum(axis=-2)
        return dq, dk, dv

    def _future(self, part: slice, dtype: Any) -> Array:
        """Features of a chunk's keys relative to the largest so far, as the forward pass stored them."""
        k = self.k[..., part, :]
        if self.kernel.omega is None:
            return self.kernel.maps(k, k).phi_k
        logs = _log_features(self.k[..., : part.stop, :] * self.kernel.root, self.kernel.omega)
        return np.asarray(np.exp(logs[..., part, :] - logs.max(axis=-2, keepdims=True)), dtype=dtype)

    def _pull_within(self, part: slice, dweights: Array, dq: Array, dk: Array) -> None:
        """Through the masked products of one chunk, added to `dq` and `dk`."""
        q, k = self.q[..., part, :], self.k[..., part, :]
        n = q.shape[-2]
        if self.kernel.omega is None:
            phi_q, phi_k, _ = self.kernel.maps(q, k)
            g = np.where(np.tril(np.ones((n, n), dtype=bool)), dweights, 0)
            dq[..., part, :] += self.kernel.back(q, phi_q, g @ phi_k)
            dk[..., part, :] += self.kernel.back(k, phi_k, np.swapaxes(g, -1, -2) @ phi_q)
            return
        root, omega = self.kernel.root, self.kernel.omega
        lq, lk = _log_features(q * root, omega), _log_features(k * root, omega)
        before = _log_features(self.k[..., : part.start, :] * root, omega)
        seen = np.maximum.accumulate(lk, axis=-2)
        if part.start:
            seen = np.maximum(seen, before.max(axis=-2, keepdims=True))
        peak = (lq + seen).max(axis=-1, keepdims=True)
        glq, glk = np.zeros_like(lq), np.zeros_like(lk)
        for i in range(n):
            terms = np.exp(lq[..., i : i + 1, :] + lk[..., : i + 1, :] - peak[..., i : i + 1, :])
            g = terms * dweights[..., i, : i + 1, None]
            glq[..., i, :] = g.sum(axis=-2)
            glk[..., : i + 1, :] += g
        for x, g, into in ((q, glq, dq), (k, glk, dk)):
            into[..., part, :] += root * (g @ omega - x * root * g.sum(axis=-1, keepdims=True))


def _attend(
    q: Any, k: Any, v: Any, kernel: str, features: Any, causal: bool | str, scale: Any, seed: int, eps: float
) -> tuple[Array, Pullback]:
    """Result and gradients."""

    def run(q: Any, k: Any, v: Any, causal: bool | str) -> tuple[Array, Pullback]:
        done = _Run(q, k, v, kernel, features, causal, scale, seed, eps)
        return done.out, done.pull

    order = causal_code(causal)
    if order:
        o = operands(q, k, v, scale=scale)
        if o.q.shape[-2] != o.k.shape[-2]:
            return unequal(run, o.q, o.k, o.v, bottom_right=order == 2)
    return run(q, k, v, bool(order))


def linear_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    kernel: str = "favor+",
    features: Any = None,
    causal: bool | str = False,
    scale: float | None = None,
    seed: int = 0,
    eps: float = 0.0,
) -> Array:
    """φ(Q)·(φ(K)ᵀV) over φ(Q)·Σφ(K): time and memory linear in the number of tokens.

    Parameters
    ----------
    q : array_like, shape (…, n, d), float32 or float64
    k : array_like, shape (…, m, d)
    v : array_like, shape (…, m, dv)
    kernel : {"favor+", "elu", "relu"}, default "favor+"
        ``favor+``: positive random features whose products estimate exp(q·k); ``elu``: elu(x) + 1; ``relu``: max(x, 0) + eps.
    features : int or array_like (f, d), optional
        Of ``favor+``: how many, or the directions Ω; default ⌊d·ln d⌋, at least d. Ω is a fixed buffer without gradient.
    causal : bool, "top_left" or "bottom_right", default False
        Query i sees keys j ≤ i, or j ≤ i + m − n.
    scale : float, optional
        q and k are multiplied by its root; default ``d ** -0.5`` for ``favor+``, 1 for the others.
    seed : int, default 0
        Seed of Ω.
    eps : float, default 0.0
        ``relu``: added to the features. ``favor+``: added to the exponentials as performer-pytorch does; not with `causal`.

    Returns
    -------
    ndarray, shape (…, n, dv)
        Zero where the denominator is.

    Raises
    ------
    ShapeError, DTypeError, ParameterError

    Notes
    -----
    Time O((n + m)·f·(d + dv)). With ``eps=0`` FAVOR+ is exactly softmax over ln Σ φ_r(q)·φ_r(k) and neither overflows nor
    vanishes; a later key never changes an earlier row. As an estimate of softmax attention it is poor where ‖q‖·‖k‖ is large.

    References
    ----------
    Choromanski et al. 2021 (FAVOR+); Katharopoulos et al. 2020 (elu + 1, causal prefix sums).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import linear_attention, scaled_dot_product_attention
    >>> x = 0.3 * np.random.default_rng(0).normal(size=(50, 8))
    >>> close = linear_attention(x, x, x, features=512) - scaled_dot_product_attention(x, x, x)
    >>> bool(np.abs(close).max() < 0.02)
    True
    """
    return _attend(q, k, v, kernel, features, causal, scale, seed, eps)[0]


@differentiable(linear_attention)
def _linear_vjp(
    q: Any,
    k: Any,
    v: Any,
    *,
    kernel: str = "favor+",
    features: Any = None,
    causal: bool | str = False,
    scale: float | None = None,
    seed: int = 0,
    eps: float = 0.0,
) -> tuple[Array, Pullback]:
    return _attend(q, k, v, kernel, features, causal, scale, seed, eps)
