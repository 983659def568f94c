"""Calibrated numbers: conformal quantiles and levels, isotonic regression, the threshold that bounds a joint risk."""

from __future__ import annotations

import math
import struct
import threading
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._sealed import opened, sealed
from sona.exceptions import ConfigError, CorruptStateError
from sona.routing._arrays import finite, vector

__all__ = ["AdaptiveConformal", "IsotonicCalibrator", "conformal_quantile", "risk_threshold"]


def _level(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha: expected a number in (0, 1), got {alpha}")
    return float(alpha)


def conformal_quantile(scores: Any, alpha: float) -> float:
    """Return the ⌈(n + 1)(1 − alpha)⌉-th smallest score, infinity if that exceeds n.

    Parameters
    ----------
    scores : (n,) array
        Scores of a calibration set.
    alpha : float
        In (0, 1). A new exchangeable score exceeds the result with probability at most ``alpha``.

    Returns
    -------
    float

    Raises
    ------
    NotFiniteError, ShapeError, ValueError
        If a score is not finite, or ``alpha`` is out of range.

    References
    ----------
    Vovk, Gammerman & Shafer 2005.

    Examples
    --------
    >>> conformal_quantile([0.1, 0.4, 0.2, 0.3], alpha=0.25), conformal_quantile([0.1], alpha=0.1)
    (0.4, inf)
    """
    level = _level(alpha)
    s = vector("scores", scores)
    # (n + 1)(1 − alpha) may come out a bit above its integer.
    rank = max(1, math.ceil((len(s) + 1) * (1.0 - level) - 1e-9))
    return math.inf if rank > len(s) else float(np.partition(s, rank - 1)[rank - 1])


def risk_threshold(gaps: Any, losses: Any, alpha: float, *, weights: Any = None) -> float:
    """Return the largest gap up to which requests may be routed away while the joint risk stays at or under ``alpha``.

    Parameters
    ----------
    gaps : (n,) array
        Predicted quality of the reference minus that of the model, on a calibration set.
    losses : (n,) array
        1 where routing away would have lost, 0 where not; shares in between are allowed.
    alpha : float
        In (0, 1). P(gap ≤ result and loss) ≤ alpha on average over calibration sets, for exchangeable requests.
    weights : (n,) array, optional
        One over the propensity of each row; 1 if omitted.

    Returns
    -------
    float
        ``-inf`` if no gap is safe, ``inf`` if all are.

    Notes
    -----
    The promise is about the joint event. The share of losses among the requests that were routed away is not bounded.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei & Schuster 2024, Conformal risk control.

    Examples
    --------
    >>> risk_threshold([0.0] * 10 + [0.5] * 10, [0] * 10 + [1] * 10, alpha=0.1)
    0.0
    """
    level = _level(alpha)
    g = vector("gaps", gaps)
    one = np.ones(len(g)) if weights is None else vector("weights", weights, len(g))
    lost = vector("losses", losses, len(g))
    if ((lost < 0) | (lost > 1)).any() or (one < 0).any():
        raise ValueError("losses, weights: expected numbers in [0, 1], and 0 or above")
    return _core.joint_risk_threshold(g.tolist(), lost.tolist(), one.tolist(), level)


class AdaptiveConformal:
    """Keep the error rate at ``alpha`` on a stream that drifts: level ← level + gamma·(alpha − error).

    Parameters
    ----------
    alpha : float, default 0.1
        Error rate to hold, in (0, 1).
    gamma : float, default 0.005
        Step, above 0.

    Raises
    ------
    ConfigError
        If a parameter is out of range.

    Notes
    -----
    Safe to share between threads. The level may leave [0, 1]: at or below 0 predict everything, at or above 1 nothing.

    References
    ----------
    Gibbs & Candès 2021, equation 2.

    Examples
    --------
    >>> aci = AdaptiveConformal(0.1, gamma=0.1)
    >>> round(aci.update(True), 3), round(aci.update(False), 3)
    (0.01, 0.02)
    """

    def __init__(self, alpha: float = 0.1, *, gamma: float = 0.005) -> None:
        if not 0.0 < alpha < 1.0:
            raise ConfigError(f"alpha: expected a number in (0, 1), got {alpha}")
        if not (gamma > 0.0 and math.isfinite(gamma)):
            raise ConfigError(f"gamma: expected a finite number above 0, got {gamma}")
        self.alpha, self.gamma = float(alpha), float(gamma)
        self._level, self._updates, self._errors = self.alpha, 0, 0
        self._lock = threading.Lock()

    @property
    def level(self) -> float:
        """The level to use for the next prediction."""
        return self._level

    def update(self, error: bool) -> float:
        """Note whether the last prediction was wrong; return the new level."""
        with self._lock:
            self._level += self.gamma * (self.alpha - float(bool(error)))
            self._updates += 1
            self._errors += bool(error)
            return self._level

    def metrics(self) -> dict[str, int | float]:
        """Return the level, the number of updates and of errors."""
        return {"level": self._level, "updates": self._updates, "errors": self._errors}

    def to_bytes(self) -> bytes:
        """Return the whole state."""
        with self._lock:
            state = struct.pack("<dddQQ", self.alpha, self.gamma, self._level, self._updates, self._errors)
        return sealed(b"SACI\x01", state)

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        try:
            alpha, gamma, level, updates, errors = struct.unpack("<dddQQ", opened("AdaptiveConformal", b"SACI\x01", b))
            if not math.isfinite(level) or errors > updates:
                raise ValueError("values that no stream gives")
            self = cls(alpha, gamma=gamma)
        except (struct.error, ValueError) as error:
            raise CorruptStateError(f"AdaptiveConformal state: {error}") from None
        self._level, self._updates, self._errors = level, updates, errors
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        return f"AdaptiveConformal({self.alpha}, gamma={self.gamma}, level={self._level:.4g})"


class IsotonicCalibrator:
    """Turn scores into probabilities: the non-decreasing function of least squares, by pool-adjacent-violators.

    Notes
    -----
    Linear between knots, clipped outside. Fitting O(n log n), predicting O(log knots). Safe to share between threads.

    References
    ----------
    Barlow, Bartholomew, Bremner & Brunk 1972.

    Examples
    --------
    >>> cal = IsotonicCalibrator().fit([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    >>> cal.predict([0.0, 0.25, 0.35, 1.0]).round(6).tolist()
    [0.0, 0.5, 0.75, 1.0]
    """

    def __init__(self) -> None:
        self._knots: list[tuple[float, float]] = []

    def fit(self, scores: Any, outcomes: Any, weights: Any = None) -> Self:
        """Fit from (n,) scores and outcomes, with (n,) weights of 0 or above (1 if omitted); return self.

        Raises
        ------
        NotFiniteError, ShapeError, DimensionMismatch, ValueError
            If an input is not such an array, or all weights are 0. The calibrator stays as it was.
        """
        s = vector("scores", scores)
        y = vector("outcomes", outcomes, len(s))
        w = np.ones(len(s)) if weights is None else vector("weights", weights, len(s))
        if (w < 0).any() or not (w > 0).any():
            raise ValueError("weights: expected numbers of 0 or above, at least one above")
        self._knots = [(float(a), float(b)) for a, b in _core.isotonic_knots(s.tolist(), y.tolist(), w.tolist())]
        return self

    def predict(self, scores: Any) -> Any:
        """Return calibrated values: a float for a number, float64 of the same shape for an array.

        Raises
        ------
        ValueError
            If it is not fitted.
        """
        if not self._knots:
            raise ValueError("the calibrator is not fitted: call fit first")
        s = finite("scores", np.asarray(scores, dtype=np.float64))
        out: npt.NDArray[np.float64] = _core.isotonic_values(self._knots, s.ravel().tolist()).reshape(s.shape)
        return float(out) if s.ndim == 0 else out

    def metrics(self) -> dict[str, int | float]:
        """Return the number of knots."""
        return {"knots": len(self._knots)}

    def to_bytes(self) -> bytes:
        """Return the whole state."""
        return sealed(b"SISO\x01", np.array(self._knots, dtype="<f8").tobytes())

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        try:
            knots = np.frombuffer(opened("IsotonicCalibrator", b"SISO\x01", b), dtype="<f8").reshape(-1, 2)
        except ValueError as error:
            raise CorruptStateError(f"IsotonicCalibrator state: {error}") from None
        if not np.isfinite(knots).all() or (np.diff(knots, axis=0) < 0).any():
            raise CorruptStateError("IsotonicCalibrator state: knots that do not rise")
        self = cls()
        self._knots = [(float(a), float(b)) for a, b in knots]
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        return f"IsotonicCalibrator(knots={len(self._knots)})"
