"""When to learn, tidy up and rest: a clock that learns the daily load."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

import numpy as np

from sona._sealed import Told
from sona.exceptions import ConfigError, NotFiniteError

__all__ = ["CircadianController", "CircadianPhase"]

_BINS = 24
#: Length of a duty cycle: of every so many seconds, the duty's share computes.
_SLOT_S = 60.0
#: Weight of a new load in its bin.
_LEARNING = 0.2


class CircadianPhase(StrEnum):
    """Part of the day, by the load that is expected."""

    ACTIVE = "active"
    """The third of the day with the highest load."""
    DAWN = "dawn"
    """In between, and rising."""
    DUSK = "dusk"
    """In between, and falling."""
    REST = "rest"
    """The third with the lowest load."""


class CircadianController(Told):
    """Learns when the load is high, and keeps background work to the times that suit it.

    The mean load of each twenty-fourth of the period is learned. Its first harmonic pulls a phase oscillator,
    φ' = 2π/T + K sin(φ_load − φ), which rides over hours that were never seen; phases are cut by quantiles of the load that is
    expected. Until a whole period of load is known, all is ACTIVE: nothing is held back on a guess.

    Parameters
    ----------
    period_hours : float, default 24.0
    duty : 4 floats, default (1.0, 0.5, 0.3, 0.05)
        Share of the time that may compute, in ACTIVE, DAWN, DUSK and REST.
    manual : CircadianPhase, optional
        The phase, whatever the load; wins over everything.
    max_deferral_s : float, default 172800.0
        Longest time that learning or consolidation is held back; then it may run in any phase.

    Raises
    ------
    ConfigError
        If a setting is out of range.

    Notes
    -----
    O(1). Kuramoto 1984 for the pull; what it saves is measured, see :meth:`measured_saving`, and is a duty cycle, no more.

    Examples
    --------
    >>> from sona.control import CircadianController
    >>> clock = CircadianController()
    >>> for hour in range(72):
    ...     clock.observe_load(100.0 if 9 <= hour % 24 < 17 else 10.0, now=hour * 3600.0)
    >>> clock.phase(12 * 3600.0 + 72 * 3600.0), clock.should_consolidate(2 * 3600.0 + 96 * 3600.0)
    (<CircadianPhase.ACTIVE: 'active'>, True)
    """

    def __init__(
        self,
        *,
        period_hours: float = 24.0,
        duty: Sequence[float] = (1.0, 0.5, 0.3, 0.05),
        manual: CircadianPhase | str | None = None,
        max_deferral_s: float = 172_800.0,
    ) -> None:
        if not 0.0 < period_hours < math.inf:
            raise ConfigError(f"period_hours: expected a positive number, got {period_hours}")
        if len(duty) != 4 or not all(0.0 <= d <= 1.0 for d in duty):
            raise ConfigError(f"duty: expected four numbers in [0, 1], got {tuple(duty)}")
        if not 0.0 < max_deferral_s < math.inf:
            raise ConfigError(f"max_deferral_s: expected a positive number, got {max_deferral_s}")
        self._period = period_hours * 3600.0
        self._duty = dict(zip(CircadianPhase, map(float, duty), strict=True))
        if manual is not None and manual not in list(CircadianPhase):
            raise ConfigError(f"manual: expected one of {[str(p) for p in CircadianPhase]}, got {manual!r}")
        self._manual = None if manual is None else CircadianPhase(manual)
        self._max_deferral = max_deferral_s
        self._coherence = 1.0
        self._lock = threading.Lock()
        self._load = np.zeros(_BINS)
        self._count = np.zeros(_BINS, dtype=np.int64)
        self._oscillator = 0.0
        self._latest: float | None = None
        self._first: float | None = None
        self._last_run = {"learn": -math.inf, "consolidate": -math.inf}
        self._asked = 0
        self._allowed = 0
        self._backwards = 0
        self._missing = 0

    def observe_load(self, load: float, now: float) -> None:
        """Let a load in, in any unit (requests per second, busy cores).

        NaN counts as missing, and a time before the latest is ignored and counted: neither changes what was learned.

        Raises
        ------
        ValueError
            If the load is negative or infinite.
        """
        if math.isnan(load):
            with self._lock:
                self._missing += 1
            return
        if not 0.0 <= load < math.inf:
            raise ValueError(f"load: expected a number of at least 0, got {load}")
        now = _time(now)
        with self._lock:
            if self._latest is not None and now < self._latest:
                self._backwards += 1
                return
            self._advance(now)
            b = self._bin(now)
            rate = max(_LEARNING, 1.0 / (self._count[b] + 1))
            self._load[b] += rate * (load - self._load[b])
            self._count[b] += 1

    def _advance(self, now: float) -> None:
        """Lets the oscillator run to `now`, pulled towards where the load says that it is."""
        if self._latest is None:
            self._first = now
        else:
            hours = (now - self._latest) / self._period * 2 * math.pi
            self._oscillator += hours
            peak = self._peak()
            if peak is not None:
                aim = now / self._period * 2 * math.pi - peak
                pull = 1.0 - math.exp(-0.5 * hours)
                self._oscillator += pull * math.sin(aim - self._oscillator)
        self._latest = now

    def _bin(self, now: float) -> int:
        return int(now / self._period * _BINS) % _BINS

    def _expected(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Load of every bin; unseen ones take it from their neighbours in time."""
        seen = np.flatnonzero(self._count)
        at = np.arange(_BINS)
        load: np.ndarray[tuple[int], np.dtype[np.float64]] = np.interp(at, seen, self._load[seen], period=_BINS)
        return load

    def _known(self) -> bool:
        return (
            self._first is not None
            and self._latest is not None
            and self._latest - self._first >= self._period * (1 - 1 / _BINS)
            and int((self._count > 0).sum()) >= _BINS // 3
        )

    def _peak(self) -> float | None:
        """Phase of the first harmonic of the load, in radians of the period."""
        if not self._known():
            return None
        load = self._expected()
        wave = np.exp(1j * 2 * np.pi * (np.arange(_BINS) + 0.5) / _BINS)
        first = complex((load * wave).sum())
        return float(np.angle(first)) if abs(first) > 1e-9 * max(load.sum(), 1e-300) else None

    def phase(self, now: float) -> CircadianPhase:
        """The phase at a time, also a future one."""
        now = _time(now)
        if self._manual is not None:
            return self._manual
        with self._lock:
            if self._peak() is None or self._latest is None:
                return CircadianPhase.ACTIVE
            load = self._expected()
            b = self._bin(now)
            low, high = np.quantile(load, [1 / 3, 2 / 3])
            if load[b] >= high and load[b] > low:
                return CircadianPhase.ACTIVE
            if load[b] <= low:
                return CircadianPhase.REST
            angle = self._oscillator + (now - self._latest) / self._period * 2 * math.pi
            return CircadianPhase.DAWN if math.sin(angle) < 0 else CircadianPhase.DUSK

    def duty_factor(self, now: float) -> float:
        """Share of the time that may compute in the phase of `now`."""
        return self._duty[self.phase(now)]

    def should_compute(self, now: float) -> bool:
        """Whether optional work may run at `now`: in the first part of every minute, as long as the duty says."""
        allowed = (_time(now) % _SLOT_S) / _SLOT_S < self.duty_factor(now)
        with self._lock:
            self._asked += 1
            self._allowed += allowed
        return allowed

    def should_learn(self, now: float) -> bool:
        """Whether learning may run: in ACTIVE and DAWN, at a :attr:`coherence` above 0.3, or when it was held back too long."""
        suits = self.phase(now) in (CircadianPhase.ACTIVE, CircadianPhase.DAWN) and self._coherence > 0.3
        return self._due("learn", now, suits)

    def should_consolidate(self, now: float) -> bool:
        """Whether tidying up may run: in DUSK and REST, or when it was held back too long."""
        return self._due("consolidate", now, self.phase(now) in (CircadianPhase.DUSK, CircadianPhase.REST))

    def _due(self, work: str, now: float, suits: bool) -> bool:
        now = _time(now)
        with self._lock:
            last = self._last_run[work]
            if last == -math.inf and not suits:
                # Counted from the first time that it was asked for.
                self._last_run[work] = now
            overdue = self._manual is None and last != -math.inf and now - last >= self._max_deferral
            if suits or overdue:
                self._last_run[work] = now
            return suits or overdue

    def measured_saving(self) -> float:
        """Share of the calls of :meth:`should_compute` that were answered no; 0 before the first."""
        return 1.0 - self._allowed / self._asked if self._asked else 0.0

    @property
    def coherence(self) -> float:
        """How well connected what is learned on is, in [0, 1]; 1 − tension of a monitor, for instance."""
        return self._coherence

    @coherence.setter
    def coherence(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"coherence: expected a number in [0, 1], got {value}")
        self._coherence = float(value)

    def metrics(self) -> dict[str, int | float]:
        """What was seen, refused and saved."""
        return {
            "loads": int(self._count.sum()),
            "bins": int((self._count > 0).sum()),
            "missing": self._missing,
            "clock_backwards": self._backwards,
            "asked": self._asked,
            "allowed": self._allowed,
            "saving": self.measured_saving(),
        }

    def _tell(self) -> dict[str, Any]:
        with self._lock:
            return {
                "period_hours": self._period / 3600.0,
                "duty": list(self._duty.values()),
                "manual": self._manual,
                "max_deferral_s": self._max_deferral,
                "coherence": self._coherence,
                "load": self._load.tolist(),
                "count": self._count.tolist(),
                "oscillator": self._oscillator,
                "times": [self._first, self._latest],
                "last_run": self._last_run,
                "counts": [self._asked, self._allowed, self._backwards, self._missing],
            }

    @classmethod
    def _told(cls, state: dict[str, Any]) -> Self:
        self = cls(**{name: state[name] for name in ("period_hours", "duty", "manual", "max_deferral_s")})
        self.coherence = state["coherence"]
        load, count = np.array(state["load"], dtype=np.float64), np.array(state["count"], dtype=np.int64)
        if not load.shape == count.shape == (_BINS,) or not (np.isfinite(load) & (load >= 0) & (count >= 0)).all():
            raise ValueError(f"expected the load and count of {_BINS} bins")
        self._load, self._count = load, count
        self._oscillator = _time(state["oscillator"])
        self._first, self._latest = (None if t is None else _time(t) for t in state["times"])
        self._last_run = {work: float(state["last_run"][work]) for work in self._last_run}
        self._asked, self._allowed, self._backwards, self._missing = map(operator.index, state["counts"])
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        return f"CircadianController(period_hours={self._period / 3600.0:g}, bins={int((self._count > 0).sum())}/{_BINS})"


def _time(now: float) -> float:
    if not math.isfinite(now):
        raise NotFiniteError(f"now: expected seconds, got {now}")
    return float(now)
