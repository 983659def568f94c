"""Shares of several scarce resources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona._sealed import Told
from sona.exceptions import ConfigError, DimensionMismatch, NotFiniteError, ShapeError

__all__ = ["ResourceAllocator"]


def _checked(name: str, x: npt.ArrayLike, ndim: int) -> npt.NDArray[np.float64]:
    a = np.asarray(x, dtype=np.float64)
    if a.ndim != ndim:
        raise ShapeError(f"{name}: expected {ndim} dimensions, got shape {a.shape}")
    if not np.isfinite(a).all():
        raise NotFiniteError(f"{name}: expected finite numbers")
    if (a < 0).any():
        raise ValueError(f"{name}: expected numbers of at least 0")
    return a


class ResourceAllocator(Told):
    """Dominant resource fairness: nobody would rather have another's share, and nobody gains by asking for more.

    Everyone's largest share of a resource, over its weight, grows alike until a resource that they need is used up or
    they have all the tasks they want; the others go on.

    Parameters
    ----------
    capacity : (m,) array_like of float
        Of every resource, in its own unit; above 0.
    smoothing : float, default 0.3
        Weight of the latest demand in :meth:`predict`.

    Raises
    ------
    ConfigError
        If a capacity is not positive.

    References
    ----------
    Ghodsi et al. 2011, Dominant resource fairness (progressive filling, §4.1); weights in §4.3.

    Examples
    --------
    >>> from sona.control import ResourceAllocator
    >>> ResourceAllocator([9.0, 18.0]).allocate([[1.0, 4.0], [3.0, 1.0]]).round(6)
    array([3., 2.])
    """

    def __init__(self, capacity: npt.ArrayLike, *, smoothing: float = 0.3) -> None:
        self._capacity = _checked("capacity", capacity, 1)
        if not len(self._capacity) or not (self._capacity > 0).all():
            raise ConfigError("capacity: expected at least one number, all above 0")
        if not 0.0 < smoothing <= 1.0:
            raise ConfigError(f"smoothing: expected a number in (0, 1], got {smoothing}")
        self._smoothing = smoothing
        self._wanted: dict[str, float] = {}

    def allocate(
        self,
        demands: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
        max_tasks: Sequence[float | None] | npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Tasks of each user.

        Parameters
        ----------
        demands : (n, m) array_like of float
            What one task of each user takes of each resource.
        weights : (n,) array_like of float, default all 1
            A user of weight 2 gets twice the dominant share; above 0.
        max_tasks : (n,) sequence of float or None
            Tasks that a user wants at most; None for no limit.

        Returns
        -------
        (n,) float64
            Tasks, also in parts; 0 for a user that takes nothing of anything.

        Raises
        ------
        DimensionMismatch, ShapeError, NotFiniteError, ValueError

        Notes
        -----
        O(n m (n + m)).
        """
        need = _checked("demands", demands, 2) if np.size(demands) else np.zeros((0, len(self._capacity)))
        n = len(need)
        if need.shape[1] != len(self._capacity):
            raise DimensionMismatch(f"demands: expected {len(self._capacity)} columns, got {need.shape[1]}")
        w = np.ones(n) if weights is None else _checked("weights", weights, 1)
        limits = [None] * n if max_tasks is None else max_tasks
        limit = np.array([np.inf if t is None else t for t in limits], dtype=np.float64)
        for name, x in (("weights", w), ("max_tasks", limit)):
            if len(x) != n:
                raise DimensionMismatch(f"{name}: expected {n} values, got {len(x)}")
        if not (w > 0).all():
            raise ValueError("weights: expected numbers above 0")
        if np.isnan(limit).any() or (limit < 0).any():
            raise ValueError("max_tasks: expected numbers of at least 0, or None")
        dominant = (need / self._capacity).max(axis=1, initial=0.0)
        tasks = np.zeros(n)
        left = self._capacity.copy()
        growing = (dominant > 0) & (limit > 0)
        speed = np.divide(w, dominant, out=np.zeros(n), where=dominant > 0)
        while growing.any():
            rate = np.where(growing, speed, 0.0)
            use = rate @ need
            with np.errstate(divide="ignore", invalid="ignore"):
                until_full = np.where(use > 0, left / use, np.inf)
                until_done = np.where(growing, (limit - tasks) / np.where(rate > 0, rate, 1.0), np.inf)
            step = min(until_full.min(), until_done.min())
            tasks += rate * step
            left = np.maximum(left - use * step, 0.0)
            full = until_full <= step * (1 + 1e-12)
            left[full] = 0.0
            done = until_done <= step * (1 + 1e-12)
            tasks[done] = limit[done]
            growing &= ~done & ~(need[:, full] > 0).any(axis=1)
        return tasks

    def observe(self, user: str, tasks: float) -> None:
        """Note how many tasks a user wanted in an interval."""
        if not np.isfinite(tasks) or tasks < 0:
            raise ValueError(f"tasks: expected a number of at least 0, got {tasks}")
        before = self._wanted.get(user, tasks)
        self._wanted[user] = before + self._smoothing * (tasks - before)

    def predict(self, user: str) -> float | None:
        """Tasks that a user will want in the next interval, the running mean of what it wanted; None if it is unknown.

        Pass it as `max_tasks`, so that nothing is kept for users that will not come.
        """
        return self._wanted.get(user)

    def metrics(self) -> dict[str, int | float]:
        """Resources and users seen."""
        return {"resources": len(self._capacity), "users": len(self._wanted)}

    def _tell(self) -> dict[str, Any]:
        return {"capacity": self._capacity.tolist(), "smoothing": self._smoothing, "wanted": self._wanted}

    @classmethod
    def _told(cls, state: dict[str, Any]) -> Self:
        self = cls(state["capacity"], smoothing=state["smoothing"])
        for user, tasks in state["wanted"].items():
            self.observe(user, tasks)
        return self

    def __repr__(self) -> str:
        return f"ResourceAllocator({self._capacity.tolist()}, users={len(self._wanted)})"
