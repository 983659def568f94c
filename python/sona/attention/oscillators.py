"""Routing by phase: coupled oscillators, and messages weighted by how well sender and receiver are in step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sona.attention._arrays import Array, check_finite_number, floats, weighted_sum
from sona.attention._errors import ParameterError
from sona.exceptions import ShapeError

__all__ = ["OrderParameter", "OscillatoryRouter", "kuramoto_integrate", "kuramoto_rhs", "order_parameter"]


class OrderParameter(NamedTuple):
    """How much oscillators agree: R·e^{iψ} = mean of e^{iθ}."""

    r: float
    psi: float


class _System:
    """θ̇_i = ω_i + K/norm_i · Σ_j A_ij sin(θ_j − θ_i − α_ij)."""

    def __init__(self, omega: Any, adjacency: Any, coupling: float, alpha: Any, normalize: str, n: int) -> None:
        self.omega = _vector("omega", omega, n)
        (a,) = floats(("adjacency",), (adjacency,))
        if a.shape != (n, n):
            raise ShapeError(f"adjacency: expected ({n}, {n}), got {a.shape}")
        a = np.asarray(a, dtype=np.float64)
        if normalize == "n":
            weight = np.full(n, 1.0 / max(n, 1))
        elif normalize == "degree":
            degree = (a != 0).sum(axis=1)
            weight = np.divide(1.0, degree, out=np.zeros(n), where=degree > 0)
        else:
            raise ParameterError(f"normalize: expected 'n' or 'degree', got {normalize!r}")
        strength = check_finite_number("coupling", coupling) * weight[:, None] * a
        # sin(θ_j − θ_i − α) = Im(e^{iθ_j}·e^{−iθ_i}·e^{−iα}): one product of a matrix with a vector.
        self.matrix: Array = strength.astype(np.complex128)
        if alpha is not None:
            (lag,) = floats(("alpha",), (alpha,))
            try:
                lag = np.broadcast_to(lag, (n, n))
            except ValueError as error:
                raise ShapeError(f"alpha: {lag.shape} does not broadcast to ({n}, {n})") from error
            self.matrix = strength * np.exp(-1j * lag)

    def rhs(self, theta: Array) -> Array:
        z = np.exp(1j * theta)
        return np.asarray(self.omega + (np.conj(z) * (self.matrix @ z)).imag)

    def run(self, theta: Array, t: float, dt: float) -> Array:
        """Classical Runge–Kutta in the frame that turns with the mean frequency, so that the step sees differences only."""
        if not (math.isfinite(t) and t >= 0):
            raise ParameterError(f"t: expected a finite time of at least 0, got {t}")
        if not (math.isfinite(dt) and dt > 0):
            raise ParameterError(f"dt: expected above 0, got {dt}")
        steps = math.ceil(t / dt - 1e-9)
        if steps <= 0:
            return theta.copy()
        mean = float(self.omega.mean()) if theta.size else 0.0
        h, x = t / steps, theta.copy()
        for _ in range(steps):
            # The couplings depend on differences only: the common turn does not matter to them.
            k1 = self.rhs(x) - mean
            k2 = self.rhs(x + 0.5 * h * k1) - mean
            k3 = self.rhs(x + 0.5 * h * k2) - mean
            k4 = self.rhs(x + h * k3) - mean
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return np.asarray(x + mean * t)


def _vector(name: str, x: Any, n: int | None = None) -> Array:
    if isinstance(x, (int, float, np.number)) and n is not None:
        return np.full(n, check_finite_number(name, x))
    (a,) = floats((name,), (x,))
    if a.ndim != 1 or (n is not None and len(a) != n):
        raise ShapeError(f"{name}: expected ({'n' if n is None else n},), got {a.shape}")
    return np.asarray(a, dtype=np.float64)


def kuramoto_rhs(theta: Any, omega: Any, adjacency: Any, *, coupling: float, alpha: Any = None, normalize: str = "n") -> Array:
    """θ̇ of the Kuramoto model: ω_i + (K/n)·Σ_j A_ij·sin(θ_j − θ_i − α_ij).

    Parameters
    ----------
    theta, omega : array_like, shape (n,), float32 or float64
        Phases in radians, frequencies in radians per second.
    adjacency : array_like, shape (n, n)
        ``adjacency[i, j]``: i receives from j.
    coupling : float
        K.
    alpha : array_like, broadcastable to (n, n), optional
        Phase lags.
    normalize : {"n", "degree"}, default "n"
        Divide by n, or by the number of oscillators that i receives from.

    Returns
    -------
    ndarray of float64, shape (n,)

    References
    ----------
    Kuramoto 1975; 1984.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import kuramoto_rhs
    >>> kuramoto_rhs([0.0, np.pi / 2], [1.0, 1.0], [[0.0, 1.0], [1.0, 0.0]], coupling=2.0)
    array([2., 0.])
    """
    phases = _vector("theta", theta)
    return _System(omega, adjacency, coupling, alpha, normalize, len(phases)).rhs(phases)


def kuramoto_integrate(
    theta: Any,
    omega: Any,
    adjacency: Any,
    *,
    coupling: float,
    t: float,
    dt: float = 1e-3,
    alpha: Any = None,
    normalize: str = "n",
) -> Array:
    """Phases after `t` seconds, unwrapped (not reduced modulo 2π).

    Parameters
    ----------
    theta, omega, adjacency, coupling, alpha, normalize
        As in `kuramoto_rhs`.
    t : float
        Seconds, at least 0.
    dt : float, default 1e-3
        Longest step in seconds. Fourth-order Runge–Kutta in the frame that turns with the mean frequency.

    Returns
    -------
    ndarray of float64, shape (n,)

    Examples
    --------
    >>> from sona.attention import kuramoto_integrate
    >>> kuramoto_integrate([0.0, 0.0], [1.0, 1.0], [[0.0, 1.0], [1.0, 0.0]], coupling=1.0, t=2.0)
    array([2., 2.])
    """
    phases = _vector("theta", theta)
    return _System(omega, adjacency, coupling, alpha, normalize, len(phases)).run(phases, t, dt)


def order_parameter(theta: Any) -> OrderParameter:
    """R and ψ of R·e^{iψ} = mean of e^{iθ}: 1 when all phases agree, near 0 when they are spread.

    Parameters
    ----------
    theta : array_like, shape (n,), float32 or float64

    Examples
    --------
    >>> from sona.attention import order_parameter
    >>> order_parameter([0.5, 0.5])
    OrderParameter(r=1.0, psi=0.5)
    """
    phases = _vector("theta", theta)
    if phases.size == 0:
        return OrderParameter(0.0, 0.0)
    z = np.exp(1j * phases).mean()
    return OrderParameter(float(abs(z)), float(np.angle(z)))


class OscillatoryRouter:
    """Messages weighted by coherence: senders in step with the receiver are heard.

    Parameters
    ----------
    n : int
        Oscillators.
    freq_hz : float or array_like (n,), default 40.0
        Natural frequencies.
    coupling : float, default 1.0
    adjacency : array_like (n, n), optional
        ``adjacency[i, j]``: i receives from j; default: everyone from everyone else.
    phase : array_like (n,), optional
        Phases at the start; default: drawn from `seed`.
    kappa : float, default 1.0
        Sharpness of the gains, at least 0.
    delay : array_like, broadcastable to (n, n), optional
        Conduction delays in seconds, from j to i.
    normalize : {"n", "degree"}, default "n"
    seed : int, default 0

    References
    ----------
    Fries 2005, 2015 (communication through coherence); Kuramoto 1984.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import OscillatoryRouter
    >>> router = OscillatoryRouter(3, phase=[0.0, 0.0, np.pi])
    >>> router.route([[1.0], [2.0], [30.0]]).round(6)
    array([[2.],
           [1.],
           [0.]])
    """

    def __init__(
        self,
        n: int,
        *,
        freq_hz: Any = 40.0,
        coupling: float = 1.0,
        adjacency: Any = None,
        phase: Any = None,
        kappa: float = 1.0,
        delay: Any = None,
        normalize: str = "n",
        seed: int = 0,
    ) -> None:
        if n < 1:
            raise ParameterError(f"n: expected at least 1, got {n}")
        if not (math.isfinite(kappa) and kappa >= 0):
            raise ParameterError(f"kappa: expected at least 0, got {kappa}")
        self.n, self.kappa = n, float(kappa)
        self._omega = 2 * np.pi * _vector("freq_hz", freq_hz, n)
        links = 1.0 - np.eye(n) if adjacency is None else adjacency
        self._system = _System(self._omega, links, coupling, None, normalize, n)
        (a,) = floats(("adjacency",), (links,))
        self._linked = a != 0
        self._lag: Array | None = None
        if delay is not None:
            (d,) = floats(("delay",), (delay,))
            try:
                self._lag = self._omega[None, :] * np.broadcast_to(d, (n, n))
            except ValueError as error:
                raise ShapeError(f"delay: {d.shape} does not broadcast to ({n}, {n})") from error
        rng = np.random.default_rng(seed)
        self._theta = rng.uniform(0, 2 * np.pi, size=n) if phase is None else _vector("phase", phase, n).copy()

    @property
    def theta(self) -> Array:
        """Phases in radians, unwrapped; a copy."""
        return self._theta.copy()

    @property
    def omega(self) -> Array:
        """Natural frequencies in radians per second; a copy."""
        return self._omega.copy()

    def advance(self, t: float, *, dt: float = 1e-3) -> None:
        """Let `t` seconds pass."""
        self._theta = self._system.run(self._theta, t, dt)

    def gains(self) -> Array:
        """((1 + cos(θ_j − θ_i − ω_j·delay_ij))/2)^kappa for all pairs, float64 (n, n)."""
        difference = self._theta[None, :] - self._theta[:, None]
        if self._lag is not None:
            difference = difference - self._lag
        return np.asarray(((1.0 + np.cos(difference)) / 2.0) ** self.kappa)

    def route(self, messages: Any, *, normalized: bool = True) -> Array:
        """What each oscillator hears of messages ``(n, d)``: a gain-weighted mean (or sum) over those it receives from."""
        (m,) = floats(("messages",), (messages,))
        if m.ndim != 2 or len(m) != self.n:
            raise ShapeError(f"messages: expected ({self.n}, d), got {m.shape}")
        gains = np.where(self._linked, self.gains(), 0.0)
        heard = weighted_sum(gains, m, self._linked)
        if normalized:
            total = gains.sum(axis=1, keepdims=True)
            heard = np.divide(heard, total, out=np.zeros_like(heard), where=total > 0)
        return np.asarray(heard, dtype=m.dtype)

    def __repr__(self) -> str:
        """Size and coherence."""
        return f"OscillatoryRouter(n={self.n}, r={order_parameter(self._theta).r:.3f})"
