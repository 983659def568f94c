"""Budgets that pace themselves."""

from __future__ import annotations

import time
from typing import Any, Self

from sona import _core

__all__ = ["BudgetPacer"]


class BudgetPacer:
    """Spend a limit evenly over its window, through a shadow price of cost.

    The price rises by up to 5 % per request while the mean of recent costs is above what is left per remaining request, and
    falls by up to 14 % while it is below. A router adds it to its ``cost_weight``. A window that is over begins anew.

    Parameters
    ----------
    limit : float
        What may be spent per window, in the unit of costs.
    horizon : float
        Length of the window in seconds; in requests with ``per="requests"``.
    per : {"seconds", "requests"}, default "seconds"
        What the window is counted in. In seconds, the number of requests to come is taken from the rate so far.
    initial : float, optional
        First shadow price (utility per unit of cost). By default a router sets it from its models, and alone it is 1.

    Raises
    ------
    ConfigError
        If a number is not above 0 and finite.

    Notes
    -----
    Safe to share between threads, and between routers. O(1). Within 5 % of the limit on streams of 2,000 requests; short
    streams of few, very dear requests stay below it.

    Examples
    --------
    >>> b = BudgetPacer(100.0, horizon=60.0)
    >>> for second in range(20):
    ...     b.spend(4.0, now=float(second))
    >>> b.remaining, b.multiplier > 1.0
    (20.0, True)
    >>> BudgetPacer.per_1k(1.5)
    BudgetPacer(1.5, horizon=1000.0, per='requests', remaining=1.5)
    """

    def __init__(self, limit: float, *, horizon: float, per: str = "seconds", initial: float | None = None) -> None:
        if per not in ("seconds", "requests"):
            from sona.exceptions import ConfigError

            raise ConfigError(f"per: expected 'seconds' or 'requests', got {per!r}")
        self._pacer = _core.Pacer(limit, horizon, per == "requests", 1.0 if initial is None else initial)

    @classmethod
    def per_request(cls, cost: float) -> Self:
        """A mean cost per request, kept over windows of 1,000."""
        return cls(1000.0 * cost, horizon=1000.0, per="requests")

    @classmethod
    def per_1k(cls, cost: float) -> Self:
        """A limit per 1,000 requests."""
        return cls(cost, horizon=1000.0, per="requests")

    @classmethod
    def per_day(cls, cost: float) -> Self:
        """A limit per 24 hours, counted from the first request."""
        return cls(cost, horizon=86400.0)

    def spend(self, cost: float, now: float | None = None) -> None:
        """Note the cost of one request at second ``now`` (the clock if omitted).

        Raises
        ------
        NotFiniteError, ValueError
            If ``cost`` is not finite, or below 0. Nothing is noted.
        """
        self._pacer.spend(cost, time.time() if now is None else now)

    @property
    def limit(self) -> float:
        """What may be spent per window."""
        return self._pacer.settings[0]

    @property
    def horizon(self) -> float:
        """Length of a window."""
        return self._pacer.settings[1]

    @property
    def remaining(self) -> float:
        """What may still be spent in this window; below 0 if it was overspent."""
        return self._pacer.remaining

    @property
    def multiplier(self) -> float:
        """Shadow price: the utility that one more unit of cost must bring."""
        return self._pacer.multiplier

    def metrics(self) -> dict[str, int | float]:
        """Return spending, requests, windows and the shadow price."""
        return self._pacer.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return self._pacer.to_bytes()

    @classmethod
    def _of(cls, pacer: _core.Pacer) -> Self:
        self = cls.__new__(cls)
        self._pacer = pacer
        return self

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        return cls._of(_core.Pacer.from_bytes(b))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        per = ", per='requests'" if self._pacer.settings[2] else ""
        return f"BudgetPacer({self.limit}, horizon={self.horizon}{per}, remaining={self.remaining:.6g})"
