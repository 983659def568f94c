"""Predictive coding: send only what the receiver could not predict."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sona.attention._arrays import Array, floats
from sona.attention._errors import ParameterError
from sona.exceptions import NotFiniteError, ShapeError

__all__ = ["PredictiveCoder", "PredictiveStream", "predictive_equilibrium"]


class PredictiveStream(NamedTuple):
    """An encoded stream."""

    prediction: Array
    """What was predicted at each step, ``(L, dim)``."""
    reconstruction: Array
    """What the receiver knows after each step, ``(L, dim)``."""
    sent: Array
    """What was sent: bool ``(L,)``, or ``(L, dim)`` per element."""


class PredictiveCoder:
    """Encoder and decoder that hold the same prediction, because both update it only from what was sent.

    A step is sent iff the root mean square of x − p exceeds the threshold (``per_element``: the entries with |x − p| above it).
    The reconstruction is x where sent and p elsewhere, so its error never exceeds the threshold.

    Parameters
    ----------
    dim : int
        Length of a vector, at least 1.
    threshold : float, default 0.1
        At least 0; 0 sends every change.
    predictor : {"last", "ewma"}, default "last"
        Next prediction: the reconstruction, or (1 − alpha)·p + alpha·reconstruction.
    alpha : float, default 0.3
        Above 0 and at most 1.
    per_element : bool, default False

    Notes
    -----
    The saving depends on the signal: a slow one needs few messages, white noise nearly all.

    References
    ----------
    Srinivasan et al. 1982; Rao & Ballard 1999; Miskowicz 2006 (send-on-delta).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import PredictiveCoder
    >>> slow = np.sin(np.arange(200.0) / 50)[:, None]
    >>> stream = PredictiveCoder(1, threshold=0.05).encode_stream(slow)
    >>> bool(np.abs(stream.reconstruction - slow).max() <= 0.05), int(stream.sent.sum())
    (True, 47)
    """

    def __init__(
        self,
        dim: int,
        *,
        threshold: float = 0.1,
        predictor: str = "last",
        alpha: float = 0.3,
        per_element: bool = False,
    ) -> None:
        if dim < 1:
            raise ParameterError(f"dim: expected at least 1, got {dim}")
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ParameterError(f"threshold: expected at least 0, got {threshold}")
        if predictor not in ("last", "ewma"):
            raise ParameterError(f"predictor: expected 'last' or 'ewma', got {predictor!r}")
        if not 0 < alpha <= 1:
            raise ParameterError(f"alpha: expected above 0 and at most 1, got {alpha}")
        self.dim, self.threshold, self.predictor, self.alpha = dim, float(threshold), predictor, float(alpha)
        self.per_element = per_element
        self._sender = np.zeros(dim)
        self._receiver = np.zeros(dim)

    def _next(self, p: Array, reconstruction: Array) -> Array:
        if self.predictor == "last":
            return reconstruction
        return np.asarray((1.0 - self.alpha) * p + self.alpha * reconstruction)

    def _sends(self, error: Array) -> Array:
        """Which entries of one step are sent."""
        if self.per_element:
            return np.asarray(np.abs(error) > self.threshold)
        # Scaled, so that squares neither overflow nor vanish.
        top = float(np.abs(error).max())
        rms = top * math.sqrt(float(np.mean((error / top) ** 2))) if top > 0 else 0.0
        return np.full(self.dim, rms > self.threshold)

    def _check(self, name: str, x: Any, ndim: int) -> Array:
        (a,) = floats((name,), (x,))
        if a.ndim != ndim or a.shape[-1] != self.dim:
            raise ShapeError(f"{name}: expected {('(dim,)', '(L, dim)')[ndim - 1]} with dim = {self.dim}, got {a.shape}")
        if not np.isfinite(a).all():
            raise NotFiniteError(f"{name}: expected finite values; a value that is not would stay in the prediction")
        return a

    def encode_stream(self, x: Any) -> PredictiveStream:
        """Encode ``x (L, dim)`` from a prediction of zero; the coder's own state is not touched."""
        x = self._check("x", x, 2)
        prediction, reconstruction = np.empty_like(x), np.empty_like(x)
        sent = np.zeros(x.shape, dtype=bool)
        p = np.zeros(self.dim, dtype=x.dtype)
        for i, row in enumerate(x):
            sent[i] = self._sends(row - p)
            prediction[i], reconstruction[i] = p, np.where(sent[i], row, p)
            p = self._next(p, reconstruction[i]).astype(x.dtype)
        return PredictiveStream(prediction, reconstruction, sent if self.per_element else sent[:, 0].copy())

    def decode_stream(self, stream: PredictiveStream) -> Array:
        """Rebuild ``(L, dim)`` from what was sent alone; equals ``stream.reconstruction`` bit for bit."""
        sent = np.asarray(stream.sent, dtype=bool)
        received = np.asarray(stream.reconstruction)
        if received.ndim != 2 or received.shape[1] != self.dim or sent.shape[:1] != received.shape[:1]:
            raise ShapeError(f"stream: expected (L, {self.dim}), got {received.shape} and sent {sent.shape}")
        mask = sent if sent.ndim == 2 else np.repeat(sent[:, None], self.dim, axis=1)
        # Entries that were not sent are blanked: nothing of them can leak into the result.
        messages = np.where(mask, received, 0)
        out = np.empty_like(received)
        p = np.zeros(self.dim, dtype=received.dtype)
        for i, row in enumerate(messages):
            out[i] = np.where(mask[i], row, p)
            p = self._next(p, out[i]).astype(received.dtype)
        return out

    def encode(self, x: Any) -> Array | None:
        """One step of the sender: the residual x − p to send (0 where an element is not sent), or None for silence."""
        row = self._check("x", x, 1).astype(np.float64)
        sends = self._sends(row - self._sender)
        residual = np.where(sends, row - self._sender, 0.0)
        # What the receiver will compute, so that both hold the same bits.
        self._sender = self._next(self._sender, self._sender + residual)
        return residual if sends.any() else None

    def decode(self, residual: Any) -> Array:
        """One step of the receiver: its reconstruction x̂ ``(dim,)``, given what `encode` returned."""
        step = np.zeros(self.dim) if residual is None else self._check("residual", residual, 1).astype(np.float64)
        out = self._receiver + step
        self._receiver = self._next(self._receiver, out)
        return np.asarray(out).copy()

    def reset(self) -> None:
        """Both ends predict zero again."""
        self._sender, self._receiver = np.zeros(self.dim), np.zeros(self.dim)

    def __repr__(self) -> str:
        """Settings."""
        return f"PredictiveCoder({self.dim}, threshold={self.threshold}, predictor='{self.predictor}')"


def predictive_equilibrium(x: Any, W: Any, *, sigma2: float = 1.0, prior_var: float = 1.0) -> Array:
    """Causes at rest: the r that minimises ‖x − W·r‖²/σ² + ‖r‖²/σ_r².

    Parameters
    ----------
    x : array_like, shape (d,), float32 or float64
    W : array_like, shape (d, r)
        Generative weights.
    sigma2, prior_var : float, default 1.0
        Variances of the input's noise and of the causes, above 0.

    Returns
    -------
    ndarray, shape (r,)

    References
    ----------
    Rao & Ballard 1999, equation 4 at its fixed point (ridge regression).

    Examples
    --------
    >>> from sona.attention import predictive_equilibrium
    >>> predictive_equilibrium([2.0, 0.0], [[1.0], [0.0]])
    array([1.])
    """
    x, w = floats(("x", "W"), (x, W))
    if x.ndim != 1 or w.ndim != 2 or w.shape[0] != len(x):
        raise ShapeError(f"expected x (d,) and W (d, r), got {x.shape} and {w.shape}")
    for name, value in (("sigma2", sigma2), ("prior_var", prior_var)):
        if not (math.isfinite(value) and value > 0):
            raise ParameterError(f"{name}: expected above 0, got {value}")
    wide = w.astype(np.float64)
    system = wide.T @ wide / sigma2 + np.eye(w.shape[1]) / prior_var
    return np.asarray(np.linalg.solve(system, wide.T @ x.astype(np.float64) / sigma2), dtype=x.dtype)
