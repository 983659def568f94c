"""Records of requests: steps, finished trajectories, the builder."""

from __future__ import annotations

import dataclasses
import math
import operator
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sona import _core
from sona.exceptions import DimensionMismatch, NotFiniteError

Vector = npt.NDArray[np.float32]


def finite(name: str, value: float) -> float:
    """``value`` as a float; ``NotFiniteError`` under ``name`` if it is NaN or infinite."""
    value = float(value)
    if not math.isfinite(value):
        raise NotFiniteError(f"{name}: not finite ({value})")
    return value


def _integer(name: str, value: int, low: int) -> int:
    value = operator.index(value)
    if not low <= value < 1 << 63:
        raise ValueError(f"{name}: expected {low} to {(1 << 63) - 1}, got {value}")
    return value


def _text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")


class Record:
    """Equality by value where fields are arrays, and pickling through the constructor (arrays stay read-only)."""

    __slots__ = ()

    def _values(self) -> tuple[Any, ...]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return tuple(getattr(self, f.name) for f in fields if f.init)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = zip(self._values(), other._values(), strict=True)
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)

    def __hash__(self) -> int:
        return hash((type(self), *(v for v in self._values() if not isinstance(v, np.ndarray))))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), self._values()


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryStep(Record):
    """One decision inside a request.

    Parameters
    ----------
    activations : (d,) float32
        Where the request's representation stood; as long as the query. Copied, read-only.
    attention_weights : (m,) float32
        How attention was spread; any length. Copied, read-only.
    reward : float
        Reward of this step.
    timestamp : float, default 0.0
        Seconds.

    Raises
    ------
    NotFiniteError, ShapeError

    Examples
    --------
    >>> TrajectoryStep([1.0, 0.0], [0.5, 0.5], 0.3).reward
    0.3
    """

    activations: Vector
    attention_weights: Vector
    reward: float
    timestamp: float = 0.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "activations", _core.frozen_vector("activations", self.activations))
        put(self, "attention_weights", _core.frozen_vector("attention_weights", self.attention_weights))
        put(self, "reward", finite("reward", self.reward))
        put(self, "timestamp", finite("timestamp", self.timestamp))


class _Packed(Record):
    """A record that a buffer keeps packed until one of its fields is read."""

    __slots__ = ("_packed", "_place")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Python comes here only for names that are not there: no such field, or the record is still packed.
            try:
                packed = object.__getattribute__(self, "_packed")
            except AttributeError:
                packed = None
            if packed is not None:
                for field_, value in zip(type(self).__slots__, packed.fields(self._place), strict=True):
                    object.__setattr__(self, field_, value)
                object.__setattr__(self, "_packed", None)
            return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True, eq=False)
class QueryTrajectory(_Packed):
    """The finished record of one request.

    Parameters
    ----------
    id : int
        The caller's number for it.
    query_embedding : (d,) float32
        The query. Copied, read-only.
    steps : tuple of TrajectoryStep
        Decisions in order.
    final_quality : float
        Outcome in [0, 1].
    latency_us : int, default 0
        Duration in microseconds, 0 or more.
    scope : str, default "default"
        Whose it is.
    source : str, default ""
        Who reported the outcome.

    Attributes
    ----------
    nbytes : int
        Bytes of the record and its arrays, for byte budgets.

    Raises
    ------
    ValueError
        ``final_quality`` outside [0, 1], ``latency_us`` below 0, ``id`` beyond 64 bits.
    TypeError
        ``id`` or ``latency_us`` is not an integer, ``scope`` or ``source`` no string, a step no TrajectoryStep.
    NotFiniteError, ShapeError
    DimensionMismatch
        A step's activations are not as long as the query.

    Examples
    --------
    >>> step = TrajectoryStep([1.0, 0.0], [], 0.3)
    >>> QueryTrajectory(7, [0.6, 0.8], (step,), 0.9).final_quality
    0.9
    """

    id: int
    query_embedding: Vector
    steps: tuple[TrajectoryStep, ...]
    final_quality: float
    latency_us: int = 0
    scope: str = "default"
    source: str = ""
    nbytes: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        put = object.__setattr__
        query = _core.frozen_vector("query_embedding", self.query_embedding)
        quality = finite("final_quality", self.final_quality)
        if not 0.0 <= quality <= 1.0:
            raise ValueError(f"final_quality: expected a number in [0, 1], got {quality}")
        _text("scope", self.scope)
        _text("source", self.source)
        steps = tuple(self.steps)
        nbytes = sys.getsizeof(self) + query.nbytes
        for step in steps:
            if not isinstance(step, TrajectoryStep):
                raise TypeError(f"steps: expected a TrajectoryStep, got {type(step).__name__}")
            if len(step.activations) != len(query):
                raise DimensionMismatch(f"activations: expected dimension {len(query)}, got {len(step.activations)}")
            nbytes += sys.getsizeof(step) + step.activations.nbytes + step.attention_weights.nbytes
        put(self, "id", _integer("id", self.id, -1 << 63))
        put(self, "latency_us", _integer("latency_us", self.latency_us, 0))
        put(self, "query_embedding", query)
        put(self, "final_quality", quality)
        put(self, "steps", steps)
        put(self, "nbytes", nbytes)


class TrajectoryBuilder:
    """Collects the steps of one running request; one builder per request, used by one thread at a time.

    Parameters
    ----------
    id : int
        The caller's number for the request.
    query_embedding : (d,) float32
        The query. Copied.
    scope, source : str
        As in :class:`QueryTrajectory`.

    Raises
    ------
    NotFiniteError, ShapeError
    ValueError, TypeError
        ``id`` beyond 64 bits or no integer, ``scope`` or ``source`` no string.

    Examples
    --------
    >>> builder = TrajectoryBuilder(1, [0.6, 0.8])
    >>> builder.add_step([1.0, 0.0], [0.5, 0.5], reward=0.3)
    >>> trajectory = builder.build(final_quality=0.9)
    >>> len(trajectory.steps), trajectory.final_quality
    (1, 0.9)
    """

    def __init__(self, id: int, query_embedding: npt.ArrayLike, *, scope: str = "default", source: str = "") -> None:
        _text("scope", scope)
        _text("source", source)
        self._id = _integer("id", id, -1 << 63)
        self._query = _core.frozen_vector("query_embedding", query_embedding)
        self._scope = scope
        self._source = source
        self._steps: list[TrajectoryStep] = []
        self._start = time.perf_counter()
        self._spent = False

    def _check(self) -> None:
        if self._spent:
            raise RuntimeError("this builder has built its trajectory; make a new one")

    def add_step(self, activations: npt.ArrayLike, attention_weights: npt.ArrayLike, reward: float) -> None:
        """Append one decision, stamped with the current time.

        Parameters
        ----------
        activations : (d,) float32
            Where the request's representation stood.
        attention_weights : (m,) float32
            How attention was spread; any length.
        reward : float
            Reward of this step.

        Raises
        ------
        DimensionMismatch
            ``activations`` is not as long as the query.
        NotFiniteError, ShapeError
        RuntimeError
            The builder is spent.
        """
        self._check()
        step = TrajectoryStep(activations, attention_weights, reward, time.time())  # type: ignore[arg-type]
        if len(step.activations) != len(self._query):
            raise DimensionMismatch(f"activations: expected dimension {len(self._query)}, got {len(step.activations)}")
        self._steps.append(step)

    def build(self, final_quality: float) -> QueryTrajectory:
        """Finish the request; the builder is then spent.

        Parameters
        ----------
        final_quality : float
            Outcome in [0, 1].

        Returns
        -------
        QueryTrajectory

        Raises
        ------
        ValueError
            ``final_quality`` outside [0, 1]; the builder stays usable.
        RuntimeError
            The builder is spent.
        """
        self._check()
        trajectory = QueryTrajectory(
            self._id,
            self._query,
            tuple(self._steps),
            final_quality,
            round(self.elapsed * 1e6),
            self._scope,
            self._source,
        )
        self._spent = True
        return trajectory

    @property
    def step_count(self) -> int:
        """Steps so far."""
        return len(self._steps)

    @property
    def elapsed(self) -> float:
        """Seconds since the builder was made."""
        return time.perf_counter() - self._start

    def __repr__(self) -> str:
        return f"TrajectoryBuilder(id={self._id}, steps={len(self._steps)}, spent={self._spent})"
