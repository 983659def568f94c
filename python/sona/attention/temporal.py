"""Blame with delay: behavioural time-scale plasticity over operators and the events that follow them."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from sona.attention._arrays import Array, floats
from sona.attention._errors import GraphError, ParameterError
from sona.exceptions import ShapeError

__all__ = ["BTSPTrace", "TemporalBTSP"]


class BTSPTrace(NamedTuple):
    """One episode on a grid."""

    weights: Array
    """Weights after the episode, ``(n,)``."""
    eligibility: Array
    """Eligibility traces over their common maximum, ``(n, T)``."""
    instructive: Array
    """Instructive trace over its maximum, ``(T,)``."""


class _Sigmoid:
    """(σ(x) − σ(0))/(σ(1) − σ(0)), σ(x) = 1/(1 + exp(−2(x − th)/hw))."""

    def __init__(self, threshold: float, half_width: float) -> None:
        self.threshold, self.slope = threshold, 2.0 / half_width
        self.low = float(self._raw(np.zeros(1))[0])
        self.span = float(self._raw(np.ones(1))[0]) - self.low

    def _raw(self, x: Array) -> Array:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * self.slope * (x - self.threshold))))

    def __call__(self, x: Array) -> Array:
        return np.asarray((self._raw(x) - self.low) / self.span)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


class TemporalBTSP:
    """Weights that grow for nodes active in the seconds before (and shortly after) a plateau, and fade for others.

    Eligibility ET and the instructive signal IS are exponential traces, each divided by its maximum of the episode; over an
    episode w ← clip(w + k_pot·∫q₊(ET·IS)dt·(1 − w) − k_dep·∫q₋(ET·IS)dt·w, 0, 1) with sigmoids q± through (0, 0) and (1, 1).

    Parameters
    ----------
    n : int
        Nodes.
    tau_et, tau_is : float, default 1.66 and 0.44
        Time constants in seconds.
    k_pot, k_dep : float, default 1.7 and 0.43
        Strength of potentiation and depression.
    pot_th, pot_hw, dep_th, dep_hw : float, default 0.5, 0.1, 0.01 and 0.02
        Threshold and half width of the sigmoids.
    w0 : float or array_like (n,), default 0.2
        Weights at the start, 0 to 1.

    References
    ----------
    Bittner et al. 2017; Milstein et al. 2021 (weight-dependent rule).

    Examples
    --------
    >>> from sona.attention import TemporalBTSP
    >>> blame = TemporalBTSP(3)
    >>> blame.observe(1, 1.1)          # node 1 was active half a second before the spike in latency
    >>> blame.plateau(1.6)
    >>> int(blame.end_episode(4.0).argmax())
    1
    """

    def __init__(
        self,
        n: int,
        *,
        tau_et: float = 1.66,
        tau_is: float = 0.44,
        k_pot: float = 1.7,
        k_dep: float = 0.43,
        pot_th: float = 0.5,
        pot_hw: float = 0.1,
        dep_th: float = 0.01,
        dep_hw: float = 0.02,
        w0: Any = 0.2,
    ) -> None:
        if n < 0:
            raise ParameterError(f"n: expected at least 0, got {n}")
        for name, value in (("tau_et", tau_et), ("tau_is", tau_is), ("pot_hw", pot_hw), ("dep_hw", dep_hw)):
            if not (math.isfinite(value) and value > 0):
                raise ParameterError(f"{name}: expected above 0, got {value}")
        for name, value in (("k_pot", k_pot), ("k_dep", k_dep)):
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name}: expected at least 0, got {value}")
        weights = np.asarray(w0, dtype=np.float64)
        if weights.ndim > 1 or (weights.ndim == 1 and len(weights) != n):
            raise ShapeError(f"w0: expected a number or ({n},), got {weights.shape}")
        if not bool(np.all((weights >= 0) & (weights <= 1))):
            raise ParameterError("w0: expected values from 0 to 1")
        self.n, self.tau_et, self.tau_is, self.k_pot, self.k_dep = n, tau_et, tau_is, k_pot, k_dep
        self._potentiate, self._depress = _Sigmoid(pot_th, pot_hw), _Sigmoid(dep_th, dep_hw)
        self._weights = np.broadcast_to(weights, (n,)).copy()
        self._restart()

    def _restart(self) -> None:
        self._events: dict[int, list[tuple[float, float]]] = {}
        self._plateaus: list[tuple[float, float]] = []
        self._clock = 0.0

    @property
    def weights(self) -> Array:
        """Weights, float64 ``(n,)``; a copy."""
        return self._weights.copy()

    def scores(self) -> Array:
        """Weights over their sum; uniform where the sum is 0."""
        total = self._weights.sum()
        return self._weights / total if total > 0 else np.full(self.n, 1.0 / max(self.n, 1))

    def _at(self, t: float, what: str, amount: float) -> None:
        if not (math.isfinite(t) and t >= self._clock):
            raise ParameterError(f"t: expected a time not before {self._clock} s, got {t}")
        if not (math.isfinite(amount) and amount >= 0):
            raise ParameterError(f"{what}: expected at least 0, got {amount}")
        self._clock = float(t)

    def observe(self, node: int, t: float, *, value: float = 1.0) -> None:
        """`node` was active at `t` seconds into the episode; times do not decrease."""
        if not 0 <= node < self.n:
            raise GraphError(f"node: expected 0 to {self.n - 1}, got {node}")
        self._at(t, "value", value)
        self._events.setdefault(int(node), []).append((float(t), float(value)))

    def plateau(self, t: float, *, strength: float = 1.0) -> None:
        """The event to explain happened at `t` seconds into the episode."""
        self._at(t, "strength", strength)
        self._plateaus.append((float(t), float(strength)))

    def end_episode(self, t_end: float) -> Array:
        """Learn from the episode ``[0, t_end]`` and start the next one at 0 s; returns the weights.

        Traces decay exactly between events; integrals are right to 1e-6. Without events or plateau nothing changes.
        """
        self._at(t_end, "t_end", 0.0)
        top_is = max((trace for _, trace in _steps(self._plateaus, self.tau_is)), default=0.0)
        steps = {node: _steps(events, self.tau_et) for node, events in self._events.items()}
        top_et = max((trace for s in steps.values() for _, trace in s), default=0.0)
        if top_is > 0 and top_et > 0:
            instructive = _steps(self._plateaus, self.tau_is)
            pot, dep = np.zeros(self.n), np.zeros(self.n)
            for node, eligible in steps.items():
                x, dt = self._product(eligible, instructive, float(t_end))
                x = x / (top_et * top_is)
                pot[node] = (self._potentiate(x) * dt).sum()
                dep[node] = (self._depress(x) * dt).sum()
            self._learn(pot, dep)
        self._restart()
        return self.weights

    def _product(
        self, eligible: list[tuple[float, float]], instructive: list[tuple[float, float]], t_end: float
    ) -> tuple[Array, Array]:
        """ET·IS at quadrature points, and the points' weights in seconds."""
        edges = sorted({t for t, _ in eligible} | {t for t, _ in instructive} | {t_end})
        rate = 1.0 / self.tau_et + 1.0 / self.tau_is
        values, lengths = [], []
        for start, stop in itertools.pairwise(edges):
            a, b = _trace_at(eligible, start, self.tau_et), _trace_at(instructive, start, self.tau_is)
            # Beyond 50 time constants the product is below e^−50 of its start.
            stop = min(stop, start + 50.0 / rate)
            if a * b == 0 or stop <= start:
                continue
            # The product falls by at most 5 % within a panel: eight points are exact to rounding.
            panels = math.ceil((stop - start) * rate / 0.05)
            h = (stop - start) / panels
            t = (np.arange(panels)[:, None] + 0.5 * (_NODES + 1.0)[None, :]).ravel() * h
            values.append(a * b * np.exp(-rate * t))
            lengths.append(np.tile(0.5 * h * _WEIGHTS, panels))
        if not values:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(values), np.concatenate(lengths)

    def _learn(self, pot: Array, dep: Array) -> None:
        w = self._weights
        self._weights = np.clip(w + self.k_pot * pot * (1.0 - w) - self.k_dep * dep * w, 0.0, 1.0)

    def run_grid(self, spikes: Any, plateau: Any, *, dt: float) -> BTSPTrace:
        """One episode given as samples: ``spikes (n, T)``, ``plateau (T,)``, `dt` seconds apart.

        Traces are causal convolutions with exp(−t/τ), cut at the first sample below 0.001 or at 6·max(τ); integrals by the
        trapezoid rule.
        """
        s, p = floats(("spikes", "plateau"), (spikes, plateau))
        if s.ndim != 2 or p.ndim != 1 or s.shape != (self.n, len(p)):
            raise ShapeError(f"expected spikes ({self.n}, T) and plateau (T,), got {s.shape} and {p.shape}")
        if not (math.isfinite(dt) and dt > 0):
            raise ParameterError(f"dt: expected above 0, got {dt}")
        s, p = s.astype(np.float64), p.astype(np.float64)
        eligibility = np.stack([_filtered(row, self._kernel(self.tau_et, dt)) for row in s]) if self.n else s
        instructive = _filtered(p, self._kernel(self.tau_is, dt))
        eligibility, instructive = _over_maximum(eligibility), _over_maximum(instructive)
        x = eligibility * instructive
        if x.size and x.any():
            self._learn(_trapezoid(self._potentiate(x), dt), _trapezoid(self._depress(x), dt))
        return BTSPTrace(self.weights, eligibility, instructive)

    def _kernel(self, tau: float, dt: float) -> Array:
        samples = np.exp(-np.arange(0.0, 6.0 * max(self.tau_et, self.tau_is), dt) / tau)
        below = np.flatnonzero(samples < 0.001)
        return samples[: below[0]] if below.size else samples

    def __repr__(self) -> str:
        """Size and time constants."""
        return f"TemporalBTSP(n={self.n}, tau_et={self.tau_et}, tau_is={self.tau_is})"


def _steps(events: list[tuple[float, float]], tau: float) -> list[tuple[float, float]]:
    """Trace right after each distinct event time: (time, value)."""
    out: list[tuple[float, float]] = []
    for t, amount in events:
        if out and out[-1][0] == t:
            out[-1] = (t, out[-1][1] + amount)
        else:
            before = out[-1][1] * math.exp(-(t - out[-1][0]) / tau) if out else 0.0
            out.append((t, before + amount))
    return out


def _trace_at(steps: list[tuple[float, float]], t: float, tau: float) -> float:
    """Trace at time `t`, jumps at `t` included."""
    before = [(s, value) for s, value in steps if s <= t]
    return before[-1][1] * math.exp(-(t - before[-1][0]) / tau) if before else 0.0


def _filtered(x: Array, kernel: Array) -> Array:
    return np.convolve(x, kernel)[: len(x)]


def _trapezoid(x: Array, dt: float) -> Array:
    """Integral of each row (numpy 1 and 2 name this function differently)."""
    return np.asarray((x[:, 1:] + x[:, :-1]).sum(axis=1) * (0.5 * dt))


def _over_maximum(x: Array) -> Array:
    top = x.max() if x.size else 0.0
    return x / top if top > 0 else x
